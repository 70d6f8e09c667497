"""A trained policy beside every baseline and the oracle of its environment, on the same held-out episodes."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

import arbgym
from arbgym.evaluation import TUNING_SEED, EncodedPolicy, Simulator, evaluate
from experiments.config import EvaluationConfig, RunConfig
from experiments.worlds import held_out_arguments, training_arguments


def judge(config: RunConfig[Any, Any], policy: EncodedPolicy, evaluation: EvaluationConfig) -> dict[str, Any]:
    """What ``result.json`` says of the policies: see ``arbgym.evaluation.Evaluation.to_json``.

    Baselines choose their numbers on tuning worlds (or the training span) only. Deterministic in configuration
    and policy.
    """
    module = arbgym.ENVIRONMENTS[config.environment]
    tuning = Simulator(module, training_arguments(config), TUNING_SEED, evaluation.tuning_episodes)
    rules = {name: baseline.fit(tuning) for name, baseline in config.definition.baselines().items()}
    found = evaluate(
        module,
        {config.name: policy, **rules},
        subject=config.name,
        episodes=evaluation.episodes,
        seed=evaluation.seed,
        **held_out_arguments(config),
    )
    return found.to_json()


def rows(result: dict[str, Any], subject: str) -> list[dict[str, str]]:
    """One row of text per policy: net profit, share of the oracle, the subject's paired gain, rates."""
    found = []
    for name, figures in result["policies"].items():
        paired = result["paired"].get(name)
        found.append(
            {
                "policy": name,
                "net profit per episode": _interval(figures["net_profit"], "{:,.1f}"),
                "share of the oracle": _interval(figures["oracle_share"], "{:.1%}"),
                f"{subject} minus it": "" if paired is None else _interval(paired, "{:+,.1f}"),
                "attempts": f"{figures['attempt_rate']:.1%}",
                "won": f"{figures['win_rate']:.1%}",
                "reverted": f"{figures['revert_rate']:.1%}",
                "false positives": f"{figures['false_positive_rate']:.1%}",
            }
        )
    return found


def _interval(figures: dict[str, float], text: str) -> str:
    mean, low, high = (text.format(figures[name]) for name in ("mean", "low", "high"))
    return f"{mean} [{low}, {high}]"


def print_table(result: dict[str, Any], subject: str, console: Console) -> None:
    """The policies as a table, the trained one first."""
    found = rows(result, subject)
    table = Table(
        title=f"{result['episodes']:,} held-out episodes, quote currency, 95 % intervals", title_justify="left"
    )
    for name in found[0]:
        table.add_column(name, justify="left" if name == "policy" else "right")
    for row in found:
        table.add_row(*row.values(), style="bold" if row["policy"] == subject else None)
    console.print(table)
