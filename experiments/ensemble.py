"""``python -m experiments.ensemble OUT RUN RUN ...``: a weighted vote of trained policies on when to sell, as one policy.

    python -m experiments.ensemble runs/ensemble runs/gbm_sell/STAMP runs/tcn_sell/STAMP
    python -m experiments.ensemble runs/ensemble RUN RUN RUN --weights 2 1 1
    python -m experiments.ensemble runs/ensemble RUN RUN --tune      # choose the weights on tuning worlds, in steps of a quarter

The members are run folders (runs/NAME/STAMP) of one environment with the same world. Writes OUT/policy, one exported policy that
needs none of them, and OUT/result.json: the ensemble beside its members, the baselines and the oracle on held-out worlds.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import arbgym
from agents.export import export
from arbgym import policy as policies
from arbgym.evaluation import TUNING_SEED, Decide, EncodedPolicy, Simulator, decide_with, evaluate
from arbgym.models.ensemble import Ensemble, ExportedMember
from arbgym.spec import decode
from experiments.config import ConfigError, EvaluationConfig, RunConfig, Setting
from experiments.judge import print_table
from experiments.monitor import write_atomically
from experiments.provenance import git_revision, versions
from experiments.saved import RESULT, load_config
from experiments.worlds import held_out_arguments, training_arguments, training_batch

NAME = "ensemble"
_SEEN = 4_096  # observations on which the exported graph is held against its members


@dataclass(frozen=True)
class EnsembleModel:
    """An ensemble as the export asks for it: see ``agents.export.Drawn``."""

    ensemble: Ensemble

    def onnx(self) -> bytes:
        """All of it as one ONNX file."""
        return self.ensemble.onnx()

    def logits(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, 2) of holding and selling."""
        return self.ensemble.logits(observations)

    def predict(self, observations: NDArray[np.float32], *, deterministic: bool = True) -> tuple[NDArray[Any], None]:
        """Actions (N,)."""
        return self.ensemble.predict(observations)[:, 0], None


def combine(
    out: Path, runs: Sequence[Path], weights: Sequence[float] | None = None, tune: bool = False, episodes: int | None = None
) -> dict[str, Any]:
    """Write OUT/policy and OUT/result.json; returns the latter. Raises ValueError where the runs do not fit together."""
    configs = [load_config(run) for run in runs]
    setting = _common(configs, runs)
    members = {_name(run, runs): _member(run) for run in runs}
    made = Ensemble(tuple(members.values()), tuple(weights or [1.0] * len(members)))
    module, evaluation = arbgym.ENVIRONMENTS[setting.environment], configs[0].evaluation
    tuning = Simulator(module, training_arguments(setting), TUNING_SEED, evaluation.tuning_episodes)
    if tune:
        made = made.tune(lambda each: float(tuning.run(decide_with(each, tuning.make())).sums["net_profit"].sum()))
    result = _judge(setting, made, members, evaluation, episodes, tuning)
    result |= {"weights": dict(zip(members, made.shares.tolist(), strict=True)), "tuned": tune}
    content, golden = export(EnsembleModel(made), _observations(setting))
    policies.save(
        out / "policy",
        content,
        definition=setting.definition,
        config=setting.world,
        preset=setting.preset,
        encoding="discrete",
        feed=setting.feed,
        golden=golden,
        provenance={
            "run": NAME,
            "members": {name: {"sha256": member.policy.manifest["sha256"]} for name, member in members.items()},
            "weights": result["weights"],
            "git": git_revision(),
            "versions": versions(),
        },
    )
    write_atomically(out / RESULT, (json.dumps(result, indent=1) + "\n").encode())
    return result


def _common(configs: Sequence[RunConfig[Any, Any]], runs: Sequence[Path]) -> Setting[Any]:
    """The world that all runs have in common, with the discrete action that an ensemble takes."""
    first = configs[0]
    for run, config in zip(runs, configs, strict=True):
        for name in ("environment", "preset", "world", "feed", "data"):
            if getattr(config, name) != getattr(first, name):
                raise ConfigError(f"{run}: its {name} differs; accepted is that of {runs[0]}")
    return Setting(
        environment=first.environment,
        world=first.world,
        preset=first.preset,
        action="discrete",
        feed=first.feed,
        data=first.data,
    )


def _name(run: Path, runs: Sequence[Path]) -> str:
    """NAME of runs/NAME/STAMP, with the stamp where two have the same."""
    run = run.resolve()
    same = [other for other in runs if other.resolve().parent.name == run.parent.name]
    return run.parent.name if len(same) == 1 else f"{run.parent.name} {run.name}"


def _member(run: Path) -> ExportedMember:
    created = policies.read_manifest(run / "policy")["created"]
    return ExportedMember.load(run / "policy", now=datetime.fromisoformat(created))


def _judge(
    setting: Setting[Any],
    made: Ensemble,
    members: dict[str, ExportedMember],
    evaluation: EvaluationConfig,
    episodes: int | None,
    tuning: Simulator,
) -> dict[str, Any]:
    rules = {name: baseline.fit(tuning) for name, baseline in setting.definition.baselines().items()}
    given: dict[str, Decide | EncodedPolicy] = {NAME: made, **{name: _decide(each) for name, each in members.items()}, **rules}
    return evaluate(
        arbgym.ENVIRONMENTS[setting.environment],
        given,
        subject=NAME,
        episodes=episodes or evaluation.episodes,
        seed=evaluation.seed,
        **held_out_arguments(setting),
    ).to_json()


def _decide(member: ExportedMember) -> Decide:
    """A member's own decisions, by the encoding it was trained with."""
    choices, encoding = member.policy.definition.action, member.policy.encoding
    return lambda observations: decode(choices, encoding, member.policy.predict(observations))


def _observations(setting: Setting[Any]) -> NDArray[np.float32]:
    """Observations (4,096, D) of training worlds, in which one in eight acts at random in each step."""
    batch = training_batch(setting, 256)
    batch.reset(seed=setting.training_seed)
    batch.action_space.seed(0)
    rows: list[NDArray[np.float32]] = []
    for step in range(_SEEN // batch.num_envs):
        rows.append(batch.observations.copy())
        batch.step_in_place(batch.action_space.sample() * ((np.arange(batch.num_envs) + step) % 8 == 0))
    return np.concatenate(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    """Combine from the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.ensemble", description=__doc__, allow_abbrev=False)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("out", type=Path, help="folder to write policy/ and result.json into")
    parser.add_argument("runs", type=Path, nargs="+", help="runs/NAME/STAMP, two or more")
    parser.add_argument("--weights", type=float, nargs="+", help="one for each run (default: equal)")
    parser.add_argument("--tune", action="store_true", help="choose the weights on tuning worlds")
    parser.add_argument("--episodes", type=int, help="held-out episodes (default: the first run's own)")
    flags = parser.parse_args(arguments)
    try:
        result = combine(flags.out, flags.runs, flags.weights, flags.tune, flags.episodes)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(result, NAME, Console())
    print("weights: " + ", ".join(f"{name} {share:.2f}" for name, share in result["weights"].items()))
    print(f"policy in {flags.out / 'policy'}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
