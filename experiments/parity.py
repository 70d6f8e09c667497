"""``python -m experiments.parity [NAME ...]``: the tensor learners learn what stable-baselines3's own learn.

Each named run is trained with several seeds by both learners, on the same worlds, with the same numbers and the same steps, and
judged on the way on episodes that nothing else uses. What they draw at random differs, so single runs do; over seeds their curves
have to lie within each other's intervals. Writes OUT/parity.json and OUT/parity.png, and prints the table.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from arbgym.evaluation import interval
from experiments.config import RUNS, ConfigError, default_config
from experiments.monitor import write_atomically
from experiments.provenance import machine, versions
from experiments.sweep_trial import Plan, Point, play, reference

NAMES = ("ppo_flash", "ppo_cross", "ppo_sell")
Learner = Literal["arbgym", "sb3"]
LEARNERS: tuple[Learner, ...] = ("arbgym", "sb3")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.parity", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", default=list(NAMES), metavar="NAME", help=f"named runs (default {' '.join(NAMES)})")
    parser.add_argument("--seeds", type=int, default=5, help="trainings by each learner (default 5)")
    parser.add_argument("--steps", type=int, default=600_000, help="environment steps of a training (default 600000)")
    parser.add_argument("--points", type=int, default=6, help="judgements on the way (default 6)")
    parser.add_argument("--episodes", type=int, default=256, help="episodes per judgement (default 256)")
    parser.add_argument("--out", type=Path, default=Path("runs/parity"))
    parser.add_argument("--quick", action="store_true", help="tiny trainings, to see the whole chain")
    chosen = parser.parse_args(arguments)
    try:
        for name, least in (("seeds", 2), ("steps", 1), ("points", 1), ("episodes", 2)):
            if getattr(chosen, name) < least:
                raise ConfigError(f"--{name} {getattr(chosen, name)}; accepted is {least} or more")
        curves = {
            name: _curves(name, chosen.seeds, chosen.steps, chosen.points, chosen.episodes, chosen.quick) for name in chosen.names
        }
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    result = {"curves": curves, "versions": versions(), "machine": machine()}
    write_atomically(chosen.out / "parity.json", (json.dumps(result, indent=1) + "\n").encode())
    draw(curves, chosen.out / "parity.png")
    print_table(curves, Console())
    print(f"results in {chosen.out} (parity.json, parity.png)")
    return 0


def _curves(name: str, seeds: int, steps: int, points: int, episodes: int, quick: bool) -> dict[str, Any]:
    """Shares (learner, seeds, points) at the same steps, and their means with intervals over seeds. Raises ConfigError."""
    if name not in RUNS or not hasattr(default_config(name).agent, "update_steps"):
        accepted = ", ".join(known for known in RUNS if hasattr(default_config(known).agent, "update_steps"))
        raise ConfigError(f"NAME = {name!r}; accepted are {accepted}")
    config = default_config(name, quick=quick)
    plan = Plan(config, {}, float(steps), points, episodes, "steps", 0)
    best, tuned = reference(plan)
    at = np.linspace(0.0, steps, points + 1)[1:]
    shares: dict[str, list[list[float]]] = {learner: [] for learner in LEARNERS}
    for seed in range(seeds):
        for learner in LEARNERS:
            seen: list[Point] = []
            mine = replace(plan, config=replace(config, seed=seed, learner=learner), oracle_profit=best, tuned_rule_share=tuned)

            def remember(number: int, value: float, on_the_way: Sequence[Point], seen: list[Point] = seen) -> None:
                seen[:] = on_the_way

            play(mine, {}, remember)
            curve = np.interp(at, [point.seconds for point in seen], [point.share for point in seen])
            shares[learner].append(curve.tolist())
            print(f"{name} seed {seed} {learner}: oracle share {curve[-1]:.1%} after {steps:,} steps", flush=True)
    bands = {learner: _bands(np.array(each)) for learner, each in shares.items()}
    return {"steps": at.tolist(), "shares": shares, "intervals": bands, "tuned_rule": tuned, "paired": _paired(shares)}


def _bands(shares: NDArray[np.float64]) -> list[dict[str, float]]:
    """Mean over seeds (seeds, points) with its interval, at each point."""
    return [interval(column) for column in shares.T]


def _paired(shares: dict[str, list[list[float]]]) -> list[dict[str, float]]:
    """The tensor learner less the library's, seed by seed, at each point."""
    return _bands(np.array(shares["arbgym"]) - np.array(shares["sb3"]))


def overlap(curves: dict[str, Any]) -> list[bool]:
    """At which points the learners' intervals overlap."""
    ours, theirs = (curves["intervals"][learner] for learner in LEARNERS)
    return [a["low"] <= b["high"] and b["low"] <= a["high"] for a, b in zip(ours, theirs, strict=True)]


def print_table(curves: dict[str, dict[str, Any]], console: Console) -> None:
    """Oracle share of both at every point, and whether their intervals overlap."""
    table = Table("run", "steps", "arbgym, % of oracle", "stable-baselines3", "difference", "overlap")
    for name, found in curves.items():
        for k, inside in enumerate(overlap(found)):
            cells = [found["intervals"][learner][k] for learner in LEARNERS] + [found["paired"][k]]
            table.add_row(name, f"{found['steps'][k]:,.0f}", *(_cell(cell) for cell in cells), "yes" if inside else "no")
    console.print(table)


def _cell(band: dict[str, float]) -> str:
    return f"{100 * band['mean']:.1f} [{100 * band['low']:.1f}, {100 * band['high']:.1f}]"


def draw(curves: dict[str, dict[str, Any]], path: Path) -> None:
    """One panel per run: mean curves with their intervals over seeds."""
    figure = Figure(figsize=(4.6 * len(curves), 3.6), layout="constrained")
    for place, (name, found) in enumerate(curves.items()):
        axes = figure.add_subplot(1, len(curves), place + 1)
        steps = np.array(found["steps"]) / 1e3
        for learner, colour, label in zip(LEARNERS, ("#1f5fbf", "#c8641b"), ("arbgym", "stable-baselines3"), strict=True):
            bands = found["intervals"][learner]
            mean, low, high = (100.0 * np.array([band[key] for band in bands]) for key in ("mean", "low", "high"))
            axes.plot(steps, mean, color=colour, label=label)
            axes.fill_between(steps, low, high, color=colour, alpha=0.2, linewidth=0)
        axes.axhline(100.0 * found["tuned_rule"], color="#666666", linewidth=1, linestyle="--", label="tuned_rule")
        axes.set_title(name)
        axes.set_xlabel("thousand environment steps")
        axes.set_ylabel("% of the oracle's profit")
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=8)
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)


if __name__ == "__main__":
    sys.exit(main())
