"""A trained policy beside every baseline and the oracle of its environment, on the same held-out episodes."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

import arbgym
from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import TUNING_SEED, Decide, EncodedPolicy, Play, Simulator, decide_with, evaluate
from arbgym.live.profiles import PROFILES, ProfileName
from experiments.config import EvaluationConfig, RunConfig
from experiments.worlds import held_out_arguments, training_arguments


def judge(
    config: RunConfig[Any, Any],
    policy: EncodedPolicy,
    evaluation: EvaluationConfig,
    others: Mapping[str, Decide | EncodedPolicy] | None = None,
    risk: ProfileName | None = None,
) -> dict[str, Any]:
    """What ``result.json`` says of the policies: see ``arbgym.evaluation.Evaluation.to_json``.

    ``risk`` names a profile of the live adapter's risk gate: the policy is then played behind it, too, under a name of its own.

    Baselines choose their numbers on tuning worlds (or the training span) only. ``others`` are judged as they are.
    Deterministic in configuration and policies.
    """
    module = arbgym.ENVIRONMENTS[config.environment]
    tuning = Simulator(module, training_arguments(config), TUNING_SEED, evaluation.tuning_episodes)
    rules = {name: baseline.fit(tuning) for name, baseline in config.definition.baselines().items()}
    gated: dict[str, Play] = {}
    if risk is not None:
        from arbgym.live.gated import play_gated

        limits = PROFILES[risk]
        gated[f"{config.name}, {risk} gate"] = lambda simulator, decide: play_gated(simulator, decide, limits).totals
    found = evaluate(
        module,
        {config.name: policy, **dict.fromkeys(gated, policy), **(others or {}), **rules},
        subject=config.name,
        play=gated,
        episodes=evaluation.episodes,
        seed=evaluation.seed,
        **held_out_arguments(config),
    )
    result = found.to_json()
    held_out = Simulator(module, held_out_arguments(config), evaluation.seed, min(evaluation.episodes, 256))
    if {"regime", "bid_share", "rival_bid_share"} <= set(config.definition.info):
        result["behaviour"] = {"regimes": regime_bids(held_out, policy)}
    return result


def regime_bids(simulator: Simulator, policy: EncodedPolicy) -> list[dict[str, float]]:
    """In each hidden regime of the rivals: attempts, the policy's mean bid share in them, the best rival's, and
    the share won.
    """
    columns = ("bid_share", "rival_bid_share", "included")
    sums: dict[int, NDArray[np.float64]] = {}

    def add(env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        attempts = alive & (env.info["attempted"] > 0.0)
        for regime in np.unique(env.info["regime"][attempts]):
            rows = attempts & (env.info["regime"] == regime)
            found = [float(rows.sum()), *(float(env.info[name][rows].sum()) for name in columns)]
            sums[int(regime)] = sums.get(int(regime), np.zeros(4)) + found

    simulator.run(decide_with(policy, simulator.make()), add)
    return [
        {"regime": regime, "attempts": int(total[0])}
        | dict(zip(("bid_share", "rival_bid_share", "win_rate"), (total[1:] / total[0]).tolist(), strict=True))
        for regime, total in sorted(sums.items())
    ]


def rows(result: dict[str, Any], subject: str) -> list[dict[str, str]]:
    """One row of text per policy: net profit and the subject's paired gain per episode, share of the oracle, rates."""
    found = []
    for name, figures in result["policies"].items():
        paired = result["paired"].get(name)
        found.append(
            {
                "policy": name,
                "net profit": _interval(figures["net_profit"], ",", 1.0),
                "% of oracle": _interval(figures["oracle_share"], "", 100.0),
                f"{subject} - it": "" if paired is None else _interval(paired, "+,", 1.0),
                "try %": f"{100.0 * figures['attempt_rate']:.0f}",
                "win %": f"{100.0 * figures['win_rate']:.0f}",
                "revert %": f"{100.0 * figures['revert_rate']:.1f}",
                "false %": f"{100.0 * figures['false_positive_rate']:.1f}",
            }
        )
    return found


COLUMNS = {
    "net profit": "mean per episode, quote currency, with its 95 % interval",
    "% of oracle": "share of what hindsight could have earned, with its 95 % interval",
    "try %": "of the steps in which the policy traded",
    "win %": "of these attempts that succeeded",
    "revert %": "of these attempts that failed on chain and paid gas",
    "false %": "of these attempts that lost money, reverts included",
}
"""What the table's columns mean."""


def _interval(figures: dict[str, float], sign: str, scale: float) -> str:
    """Mean and interval with as many digits as a reader needs for the larger of them."""
    values = [scale * figures[name] for name in ("mean", "low", "high")]
    digits = 0 if max(map(abs, values)) >= 100.0 else 1 if max(map(abs, values)) >= 1.0 else 3
    mean, low, high = (f"{value:{sign}.{digits}f}" for value in values)
    return f"{mean} [{low} .. {high}]"


def part_rows(result: dict[str, Any]) -> list[dict[str, str]]:
    """One row of text per policy: the parts that add up to its net profit per episode."""
    return [
        {"policy": name}
        | {part.replace("_", " "): f"{value + 0.0:,.1f}" for part, value in figures["parts"].items()}
        | {"net profit": f"{figures['net_profit']['mean']:,.1f}"}
        for name, figures in result["policies"].items()
    ]


def print_table(result: dict[str, Any], subject: str, console: Console) -> None:
    """The policies as a table, the trained one first, then the parts of each one's profit."""
    wide = console if console.is_terminal else Console(file=console.file, width=160)
    title = f"{result['episodes']:,} held-out episodes; means and paired differences per episode in quote currency"
    wide.print(_table(title, rows(result, subject), subject))
    wide.print(_table("parts of the net profit per episode, quote currency", part_rows(result), subject))


def _table(title: str, found: list[dict[str, str]], subject: str) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in found[0]:
        table.add_column(name, justify="left" if name == "policy" else "right", no_wrap=True)
    for row in found:
        table.add_row(*row.values(), style="bold" if row["policy"] == subject else None)
    return table
