"""``python -m experiments.ladder``: what offline learners make of data of rising quality.

For each learner and each rung (random, mixture, expert) a dataset is recorded, the learner and behaviour cloning are trained on
it and judged on held-out worlds beside the policy that recorded it. Told is the paired difference with its 95 % interval: a
learner that does not beat its behaviour policy has learned nothing, one that does not beat cloning could have been a copy. The
expert is the exported policy of a run (--expert), the tuned rule without one.

    .venv-offline/bin/python -m experiments.ladder --learners iql_sell cql_sell --expert runs/ppo_sell/STAMP
    .venv-offline/bin/python -m experiments.ladder --learners cql_flash --rungs mixture --steps 2000

Each training is a run of its own below OUT, with its report; OUT/ladder.json has the table.
"""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.config import RUNS, ConfigError, default_config
from experiments.monitor import write_atomically
from experiments.saved import RESULT
from experiments.train import train

Rung = Literal["random", "mixture", "expert"]
OTHERS = ("behaviour", "cloning", "tuned_rule")


@dataclass(frozen=True)
class Arguments:
    """What to climb with."""

    learners: tuple[str, ...] = ("iql_sell", "cql_sell")
    """names of offline runs"""
    rungs: tuple[Rung, ...] = ("random", "mixture", "expert")
    """who records the data"""
    expert: Path | None = None
    """run or exported policy that records the expert's data; the tuned rule without one"""
    episodes: int | None = None
    """recorded for each dataset; the run's own number without one"""
    steps: int | None = None
    """gradient steps of each training; the run's own number without one"""
    seed: int = 0
    """of recording and training"""
    out: Path = Path("runs/ladder")
    """folder of the runs and of ladder.json"""

    def __post_init__(self) -> None:
        for name in self.learners:
            if not name.startswith(("iql_", "cql_")) or name not in RUNS:
                accepted = ", ".join(run for run in RUNS if run.startswith(("iql_", "cql_")))
                raise ConfigError(f"learners: {name!r}; accepted are {accepted}")
        if not self.learners or not self.rungs:
            raise ConfigError("learners or rungs are empty; accepted are one or more")
        if self.expert is not None and not self.expert.exists():
            raise ConfigError(f"expert = {str(self.expert)!r} does not exist; accepted is a run's folder or an exported policy's")


def climb(arguments: Arguments, learner: str, rung: Rung, console: Console) -> dict[str, Any]:
    """One training; its net profit per episode and the paired differences with whom it is judged beside."""
    config = default_config(learner)
    policy = rung if rung != "expert" else str(arguments.expert) if arguments.expert else "rule"
    changes: dict[str, Any] = {"policy": policy}
    if arguments.episodes is not None:
        changes["episodes"] = arguments.episodes
    agent = dataclasses.replace(config.agent, **changes)
    steps = config.steps if arguments.steps is None else arguments.steps
    run = dataclasses.replace(
        config, agent=agent, steps=steps, checkpoint_steps=steps, seed=arguments.seed, out=arguments.out / rung
    )
    folder = train(run, console=console)
    assert folder is not None, "only ranks beside the first have none"
    result = json.loads((folder / RESULT).read_text())
    return {
        "learner": learner,
        "rung": rung,
        "run": str(folder),
        "net_profit": result["policies"][learner]["net_profit"],
        "oracle_share": result["policies"][learner]["oracle_share"],
        "others": {name: result["policies"][name]["net_profit"] for name in OTHERS if name in result["policies"]},
        "paired": {name: result["paired"][name] for name in OTHERS if name in result["paired"]},
    }


def table(rows: Sequence[dict[str, Any]]) -> Table:
    """The rungs as a table; an interval wholly above zero is bold."""
    found = Table(title="net profit per held-out episode; learner less the other, paired, 95 %", box=box.SIMPLE_HEAD)
    for name in ("learner", "data", "learner's", "% of oracle", *(f"less {other}" for other in OTHERS)):
        found.add_column(name, justify="left" if name in ("learner", "data") else "right")
    for row in rows:
        cells = []
        for other in OTHERS:
            gain = row["paired"].get(other)
            text = "" if gain is None else f"{gain['mean']:+,.1f} [{gain['low']:+,.1f}, {gain['high']:+,.1f}]"
            cells.append(f"[bold]{text}[/bold]" if gain is not None and gain["low"] > 0.0 else text)
        found.add_row(
            row["learner"], row["rung"], f"{row['net_profit']['mean']:,.1f}", f"{100.0 * row['oracle_share']['mean']:.1f}", *cells
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Climb from the command line; returns the process's exit status."""
    console = Console()
    try:
        chosen = tyro.cli(Arguments, prog="python -m experiments.ladder", args=None if arguments is None else list(arguments))
        rows: list[dict[str, Any]] = []
        for learner in chosen.learners:
            for rung in chosen.rungs:
                rows.append(climb(chosen, learner, rung, console))
                # what is known so far is kept, whatever happens to the next rung
                write_atomically(chosen.out / "ladder.json", (json.dumps(rows, indent=1) + "\n").encode())
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    wide = console if console.is_terminal else Console(width=160)
    wide.print(table(rows))
    return 0


if __name__ == "__main__":
    sys.exit(main())
