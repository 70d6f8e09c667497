"""``python -m experiments.truths``: do the learners find sales whose best moment is known?

Trains ``ppo_sell`` and ``dqn_sell`` on the textbook presets of ArbSell-v0 and holds each trained policy against the exact one on
the same fresh paths: the American put (S 36, sigma 0.2, T 1), the sale of a mean-reverting price, and Shiryaev's alpha on both
sides of 1/2. Prints a table and writes it to OUT/truths.json. Long (minutes a training): not part of the tests.

    python -m experiments.truths                                   # both learners, every world, five seeds
    python -m experiments.truths --learners ppo --worlds put --seeds 2
"""

from __future__ import annotations

import dataclasses
import json
import multiprocessing
import os
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tyro
from numpy.typing import NDArray
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.monitor import write_atomically

Learner = Literal["ppo", "dqn"]
World = Literal["put", "ou", "alpha_low", "alpha_high"]
LEAST_MEDIAN, LEAST = 0.99, 0.97


@dataclass(frozen=True)
class Truth:
    """A world with a known best policy, and what the named runs' recipes change to meet it in a few minutes."""

    world: Mapping[str, Any]
    changes: Mapping[str, Mapping[str, Any]]
    steps: Mapping[str, int]
    paths: int


_WHOLE = {"rollout_steps": 50, "environments": 512, "minibatch": 6_400, "gae_lambda": 0.99, "gamma": 1.0}
_DQN = {"gamma": 1.0, "target_interval": 10_000, "final_learning_rate_share": 0.02, "acting_probability": 0.02}
_SIGMA_SQUARED = 0.4**2
TRUTHS: dict[World, Truth] = {
    "put": Truth({"preset": "put"}, {"ppo": _WHOLE, "dqn": _DQN}, {"ppo": 3_000_000, "dqn": 2_000_000}, 100_000),
    "ou": Truth(
        {"preset": "ou"},
        {
            "ppo": {
                "rollout_steps": 750,
                "environments": 128,
                "minibatch": 9_600,
                "gae_lambda": 1.0,
                "gamma": 1.0,
                "acting_probability": 0.01,
            },
            "dqn": {**_DQN, "gamma": 0.999},
        },
        {"ppo": 3_000_000, "dqn": 2_000_000},
        20_000,
    ),
    "alpha_low": Truth(
        {"preset": "alpha", "drift_per_year": 0.25 * _SIGMA_SQUARED},
        {"ppo": _WHOLE, "dqn": _DQN},
        {"ppo": 3_000_000, "dqn": 2_000_000},
        100_000,
    ),
    "alpha_high": Truth(
        {"preset": "alpha", "drift_per_year": 0.75 * _SIGMA_SQUARED},
        {"ppo": _WHOLE, "dqn": _DQN},
        {"ppo": 3_000_000, "dqn": 2_000_000},
        100_000,
    ),
}


@dataclass(frozen=True)
class Arguments:
    """What to train and judge."""

    learners: tuple[Learner, ...] = ("ppo", "dqn")
    """who learns"""
    worlds: tuple[World, ...] = ("put", "ou", "alpha_low", "alpha_high")
    """what is learned"""
    seeds: int = 5
    """trainings of each"""
    processes: int = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    """trainings at the same time, each on one thread"""
    out: Path = Path("runs/truths")
    """folder of truths.json"""

    def __post_init__(self) -> None:
        for name in ("seeds", "processes"):
            if not 1 <= getattr(self, name) <= 1_000:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is 1 to 1000")
        for name in ("learners", "worlds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty; accepted are one or more")


def train_and_judge(learner: Learner, world: World, seed: int) -> dict[str, Any]:
    """One training; {"share" of the exact policy's value, "value", "exact", "hold", "now", "sold_at" (mean share of the horizon),
    "seconds"}.
    """
    from agents.recipe import use_threads
    from agents.vec import NativeVecEnv
    from arbgym.engine import NativeVectorEnv
    from arbgym.envs.sell import ALL, HOLD
    from arbgym.envs.sell_theory import optimal
    from arbgym.evaluation import HELD_OUT_SEED, Decide, Simulator, decide_with
    from experiments.config import RUNS

    use_threads(1)
    truth = TRUTHS[world]
    module = "arbgym.envs.sell"
    recipe: Any = dataclasses.replace(RUNS[f"{learner}_sell"].agent(), **truth.changes[learner])  # type: ignore[type-var]
    arguments = {**truth.world, "action": "discrete"}
    start = time.perf_counter()
    env = NativeVecEnv(NativeVectorEnv(module, recipe.environments, copy=False, **arguments))
    env.seed(100_000 * seed)
    model = recipe.build(env, seed)
    model.learn(truth.steps[learner])
    seconds = time.perf_counter() - start

    class Trained:
        def predict(self, observations: NDArray[np.float32]) -> NDArray[Any]:
            actions: NDArray[Any] = model.predict(observations, deterministic=True)[0]
            return actions.reshape(len(observations), 1)

    simulator = Simulator(module, arguments, HELD_OUT_SEED, truth.paths)

    def always(share: float) -> Decide:
        return lambda observations: np.full((len(observations), 1), share)

    played = simulator.run(decide_with(Trained(), simulator.make()))
    value = float(played.sums["net_profit"].mean())
    exact, hold, now = (
        float(simulator.run(decide).sums["net_profit"].mean()) for decide in (optimal(simulator), always(HOLD), always(ALL))
    )
    blocks = simulator.make().config.episode_blocks
    return {
        "learner": learner,
        "world": world,
        "seed": seed,
        "share": value / exact,
        "value": value,
        "exact": exact,
        "hold": hold,
        "now": now,
        "sold_at": float((played.lengths - 1).mean() / blocks),
        "seconds": seconds,
    }


def passed(world: World, found: Sequence[Mapping[str, Any]]) -> bool:
    """put and ou: median share at least 99 %, worst at least 97 %. alpha: every seed sells on the right side of half time."""
    if world.startswith("alpha"):
        early = [row["sold_at"] < 0.5 for row in found]
        return all(early) if world == "alpha_low" else not any(early)
    shares = [row["share"] for row in found]
    return float(np.median(shares)) >= LEAST_MEDIAN and min(shares) >= LEAST


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; 0 when every truth was found, 1 when one was not, 2 on a bad argument."""
    try:
        chosen = tyro.cli(Arguments, prog="python -m experiments.truths", args=None if arguments is None else list(arguments))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    console = Console()
    jobs = [(learner, world, seed) for world in chosen.worlds for learner in chosen.learners for seed in range(chosen.seeds)]
    context = multiprocessing.get_context("spawn")
    rows: list[dict[str, Any]] = []
    with ProcessPoolExecutor(chosen.processes, mp_context=context) as pool:
        for row in pool.map(train_and_judge, *zip(*jobs, strict=True)):
            rows.append(row)
            console.print(
                f"{row['learner']} {row['world']} seed {row['seed']}: {row['share']:.2%} of the exact policy, "
                f"sold at {row['sold_at']:.0%} of the horizon, {row['seconds']:.0f} s"
            )
    table = Table(
        title="trained policies over the exact ones, on the same fresh paths", box=box.SIMPLE_HEAD, title_justify="left"
    )
    for name in ("world", "learner", "exact", "sell now", "hold", "median share", "worst", "sold at", "minutes", "found"):
        table.add_column(name, justify="left" if name in ("world", "learner") else "right")
    summary = []
    for world in chosen.worlds:
        for learner in chosen.learners:
            found = [row for row in rows if (row["world"], row["learner"]) == (world, learner)]
            shares = np.array([row["share"] for row in found])
            good = passed(world, found)
            summary.append({"world": world, "learner": learner, "median": float(np.median(shares)), "found": good})
            table.add_row(
                world,
                learner,
                *(f"{found[0][name]:.4f}" for name in ("exact", "now", "hold")),
                f"{np.median(shares):.2%}",
                f"{shares.min():.2%}",
                f"{np.mean([row['sold_at'] for row in found]):.0%}",
                f"{max(row['seconds'] for row in found) / 60.0:.1f}",
                "yes" if good else "no",
            )
    (console if console.is_terminal else Console(width=140)).print(table)
    chosen.out.mkdir(parents=True, exist_ok=True)
    write_atomically(chosen.out / "truths.json", (json.dumps({"runs": rows, "summary": summary}, indent=1) + "\n").encode())
    return 0 if all(entry["found"] for entry in summary) else 1


if __name__ == "__main__":
    sys.exit(main())
