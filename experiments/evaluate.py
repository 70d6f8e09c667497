"""``python -m experiments.evaluate RUN``: repeat a run's evaluation with the policy it exported.

Without flags the same episodes are played and the same numbers come out as in the run's result.json.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from arbgym import policy as policies
from arbgym.evaluation import EncodedPolicy
from arbgym.live.profiles import PROFILES, ProfileName
from experiments.config import EvaluationConfig, RunConfig
from experiments.judge import judge, print_table
from experiments.monitor import write_atomically
from experiments.offline import companions
from experiments.saved import load_config


def evaluate_run(
    folder: Path,
    *,
    episodes: int | None = None,
    seed: int | None = None,
    backend: policies.Backend = "onnxruntime",
    risk: ProfileName | None = None,
) -> dict[str, Any]:
    """The evaluation of a run's exported policy: the policies' part of ``result.json``; with ``risk`` also behind that gate.

    Raises ValueError when the folder is no run, or its policy is refused. An expired policy can still be judged.
    """
    config, policy, evaluation = _saved(folder, episodes, seed, backend)
    return judge(config, policy, evaluation, companions(dataclasses.replace(config, evaluation=evaluation), folder), risk)


def write_opportunities(
    folder: Path, store: Path, *, episodes: int | None = None, seed: int | None = None, backend: policies.Backend = "onnxruntime"
) -> str:
    """Play a run's exported policy in held-out worlds and write what it saw and did into a store; says how many rows.

    Raises ValueError when the folder is no run, its policy is refused, or the store is.
    """
    from experiments.opportunities import record_opportunities

    config, policy, evaluation = _saved(folder, episodes, seed, backend)
    source = f"{config.name} {folder.resolve().name} seed {evaluation.seed} episodes {evaluation.episodes}"
    written = record_opportunities(config, policy, evaluation, store, source)
    return f"{store}: {written.new:,} new opportunities, {written.duplicates:,} that it had already (source {source!r})"


def _saved(
    folder: Path, episodes: int | None, seed: int | None, backend: policies.Backend
) -> tuple[RunConfig[Any, Any], EncodedPolicy, EvaluationConfig]:
    """A run's configuration, its exported policy and how it is to be judged."""
    config = load_config(folder)
    changes = {name: value for name, value in (("episodes", episodes), ("seed", seed)) if value is not None}
    created = policies.read_manifest(folder / "policy")["created"]
    policy = policies.load(folder / "policy", backend=backend, now=datetime.fromisoformat(created))
    return config, policy, dataclasses.replace(config.evaluation, **changes)


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate from the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.evaluate", description=__doc__, allow_abbrev=False)
    parser.add_argument("run", type=Path, help="runs/NAME/STAMP")
    parser.add_argument("--episodes", type=int, help="held-out episodes (default: the run's own)")
    parser.add_argument("--seed", type=int, help="seed of the first of them (default: the run's own)")
    parser.add_argument("--backend", choices=("onnxruntime", "numpy"), default="onnxruntime")
    parser.add_argument("--risk", choices=tuple(PROFILES), help="play it behind the live adapter's risk gate, too (ArbFlash-v0)")
    parser.add_argument("--json", type=Path, help="write the result there, too")
    parser.add_argument("--store", type=Path, help="write what the policy saw and did into this store (table opportunities)")
    flags = parser.parse_args(arguments)
    try:
        result = evaluate_run(flags.run, episodes=flags.episodes, seed=flags.seed, backend=flags.backend, risk=flags.risk)
        said = None
        if flags.store is not None:
            said = write_opportunities(flags.run, flags.store, episodes=flags.episodes, seed=flags.seed, backend=flags.backend)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print_table(result, result["subject"], Console())
    if said is not None:
        print(said)
    if flags.json is not None:
        write_atomically(flags.json, (json.dumps(result, indent=1) + "\n").encode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
