"""Time to quality on ArbFlash-v0: how long until a policy earns what the tuned rule earns, and 95 % of what it ends with.

The named run's recipe, beside stable-baselines3's defaults with 8 environments. Several seeds each, on one thread; seconds are
processor time, which other processes disturb less than the clock on the wall, and judging does not count. The defaults are given
ten times the time that the recipe took, and what they have not reached by then is told as that bound.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from typing import Any

import numpy as np

from experiments.benchmark_train import LIBRARY
from experiments.config import default_config
from experiments.peers import SBXRecipe, has_sbx
from experiments.sweep_trial import Plan, Point, play, reference, seconds_to

SEEDS = 5
SECONDS = 40.0
EPISODES = 256
PATIENCE = 10.0  # times the recipe's own time, for the defaults


class _Reached(Exception):
    """The share that was waited for."""


def rows() -> list[dict[str, Any]]:
    """Seconds to tuned_rule and to 95 % of the final share, medians over seeds, and ratios of the defaults' to the recipe's."""
    config = replace(default_config("ppo_flash"), threads=1)
    plan = Plan(config, {}, SECONDS, 12, EPISODES, "cpu", 0)
    best, rule = reference(plan)
    plan = replace(plan, oracle_profit=best, tuned_rule_share=rule)
    ours = [_curve(replace(plan, config=replace(config, seed=seed))) for seed in range(SEEDS)]
    final = float(np.median([points[-1].share for points in ours]))
    found = [
        {
            "name": "quality.ppo_flash, final share of the oracle",
            "value": final,
            "unit": "1",
            "ratio_to": "tuned_rule",
            "ratio": final / rule,
        }
    ]
    targets = {"tuned_rule": rule, "95 % of the final share": 0.95 * final}
    own = {name: [seconds_to(points, share) or SECONDS for points in ours] for name, share in targets.items()}
    longest = PATIENCE * max(float(np.median(seconds)) for seconds in own.values())
    library = replace(config, agent=LIBRARY, learner="sb3")
    patient = replace(plan, seconds=longest, checkpoints=20)
    theirs = [_curve(replace(patient, config=replace(library, seed=seed)), 0.95 * final) for seed in range(SEEDS)]
    for name, share in targets.items():
        mine = float(np.median(own[name]))
        reached = [seconds_to(points, share) for points in theirs]
        bounded = [seconds if seconds is not None else longest for seconds in reached]
        missed = sum(seconds is None for seconds in reached)
        said = f", at least ({missed} of {SEEDS} seeds did not get there)" if missed else ""
        found.append({"name": f"quality.ppo_flash to {name}, {SEEDS} seeds", "value": mine, "unit": "s",
                      "ratio_to": f"stable-baselines3's defaults{said}", "ratio": float(np.median(bounded)) / mine})  # fmt: skip
        if has_sbx():
            found.append(_beside_sbx(name, share, mine, plan))
    return found


def _beside_sbx(name: str, share: float, mine: float, plan: Plan) -> dict[str, Any]:
    """The same numbers by SBX, which has ten times the recipe's time too."""
    config = replace(plan.config, agent=SBXRecipe(**vars(plan.config.agent)))
    longest = PATIENCE * mine
    patient = replace(plan, config=config, seconds=longest, checkpoints=20)
    reached = [seconds_to(_curve(replace(patient, config=replace(config, seed=seed)), share), share) for seed in range(SEEDS)]
    seconds = float(np.median([longest if second is None else second for second in reached]))
    missed = sum(second is None for second in reached)
    said = f", at least ({missed} of {SEEDS} seeds did not get there)" if missed else ""
    return {"name": f"quality.ppo_flash to {name}, {SEEDS} seeds", "value": mine, "unit": "s",
            "ratio_to": f"SBX (JAX), same numbers{said}", "ratio": seconds / mine}  # fmt: skip


def _curve(plan: Plan, enough: float | None = None) -> list[Point]:
    """The judgements of one training, which ends early once it is good enough."""
    seen: list[Point] = []

    def remember(number: int, value: float, on_the_way: Sequence[Point]) -> None:
        seen[:] = on_the_way
        if enough is not None and on_the_way[-1].share >= enough:
            raise _Reached

    with suppress(_Reached):
        play(plan, {}, remember)
    return seen
