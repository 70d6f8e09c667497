"""What each rank of ``test_ranks.py`` does, started by torchrun: PHASES OUT DATASET. It leaves in OUT what the tests look at.

OUT/rank<k>.json holds what became of each phase, by its name; OUT/<phase> is the run's folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from rich.console import Console

from agents.distributed import RankLost, Ranks
from agents.offline import Buffer, OfflineModel, from_bytes, quiet, to_bytes
from agents.recipe import Execution
from experiments.config import parse
from experiments.monitor import last_checkpoint
from experiments.offline import prepare
from tests.offline.conftest import TINY
from tests.offline.learners import CASES, EPISODES, STEPS, recipe_of, toy

RANKS = Ranks.from_environment()


def learners(out: Path, dataset: Path) -> Any:
    """Every learner goes on from one process's state, on this rank's share of a toy's episodes."""
    quiet()
    RANKS.join(torch.device("cpu"))
    before = from_bytes((out / "before.zip").read_bytes())
    states = {}
    for algorithm, encoding in CASES:
        data, box, space = toy(encoding, episodes=EPISODES)
        recipe = recipe_of(algorithm).shared(RANKS)
        configuration = recipe.configure_cloning(encoding) if algorithm == "cloning" else recipe.configure(encoding)
        learner = OfflineModel(configuration, box, space, 1, Execution(ranks=RANKS))
        learner.restore(before[f"{algorithm}-{encoding}"])
        learner.fit(Buffer(data.share(RANKS, 5), space, (2, RANKS.rank)), STEPS, 1e-2)
        states[f"{algorithm}-{encoding}"] = learner.state()
    (out / f"rank{RANKS.rank}.zip").write_bytes(to_bytes(states))
    RANKS.leave()


def refuse(out: Path, dataset: Path) -> Any:
    """The dataset is missing where the second rank runs."""
    return run(out / "refuse", dataset if RANKS.first else Path("nowhere"))


def learn(out: Path, dataset: Path) -> Any:
    """A dataset of the run's own, recorded by the first rank."""
    return run(out / "learn", None, "--agent.episodes", "16", "--agent.policy", "random")


def stop(out: Path, dataset: Path) -> Any:
    """Goes on until the tests stop one of the ranks."""
    return run(out / "stop", dataset, "--steps", "100000000")


def lose(out: Path, dataset: Path) -> Any:
    """Goes on from the stopped run until the tests kill the second rank."""
    return run(out / "lose", dataset, "--steps", "100000000", resumed=out / "stop")


PHASES: dict[str, Callable[[Path, Path], Any]] = {phase.__name__: phase for phase in (learners, refuse, learn, stop, lose)}


def run(folder: Path, dataset: Path | None, *flags: str, resumed: Path | None = None) -> Any:
    """A training as ``experiments.train`` has it; only the first rank gets the run's folder."""
    config = parse(["iql_flash", *TINY, *flags])
    if dataset is not None:
        config = dataclasses.replace(config, agent=dataclasses.replace(config.agent, dataset=dataset))
    checkpoint = None if resumed is None else last_checkpoint(resumed)
    learning = prepare(config, checkpoint)
    folder = folder if RANKS.first else folder.with_name(f"{folder.name}-of-another-rank")
    if RANKS.first:
        folder.mkdir(parents=True)
    learned = learning(folder, Console(width=200, force_terminal=False))
    return {"steps": learned.steps, "unit": learned.unit, "stopped_by": learned.stopped_by, "speed": learned.speed}


def main() -> int:
    """Each phase, and what became of it."""
    phases, out, dataset = sys.argv[1].split(","), Path(sys.argv[2]), Path(sys.argv[3])
    (out / f"rank{RANKS.rank}.pid").write_text(str(os.getpid()))
    found: dict[str, Any] = {}
    leave = Ranks.leave
    # a process meets the others once: the phases stay together
    Ranks.leave = lambda ranks: None  # type: ignore[method-assign]
    for phase in phases:
        try:
            found[phase] = PHASES[phase](out, dataset)
        except (ValueError, RankLost) as error:
            found[phase] = f"{type(error).__name__}: {error}"
        (out / f"rank{RANKS.rank}.json").write_text(json.dumps(found))
    leave(RANKS)
    return 0


if __name__ == "__main__":
    sys.exit(main())
