"""What every recipe shares: checks of its numbers, the learning-rate schedule and the number of torch threads."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal

import numba
import torch

from agents.distributed import Ranks

Compile = Literal["off", "default", "reduce-overhead"]
Precision = Literal["float32", "bf16"]


@dataclass(frozen=True)
class Execution:
    """How a recipe is carried out; what is learned is the same but for rounding (and for bf16, for precision)."""

    learner: Literal["arbgym", "sb3"] = "arbgym"
    """tensor-resident learners, or stable-baselines3's own"""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """where networks, rollouts and replay live"""
    precision: Precision = "float32"
    """arithmetic of the networks while they learn"""
    compile: Compile = "off"
    """torch.compile of the update; reduce-overhead replays it as CUDA graphs"""
    ranks: Ranks = field(default_factory=Ranks)
    """processes that learn together"""

    def require_stock(self, **of_recipe: bool) -> None:
        """Refuse what stable-baselines3's own learners do not have; ``of_recipe`` says by name what a recipe asks for of that."""
        asked = {
            **of_recipe,
            f"precision {self.precision}": self.precision != "float32",
            f"compile {self.compile}": self.compile != "off",
            f"{self.ranks.world} ranks": self.ranks.several,
        }
        names = ", ".join(name for name, wanted in asked.items() if wanted)
        if names:
            raise ValueError(f"learner = 'sb3' with {names}; accepted with it is learner = 'arbgym'")


def require(name: str, value: float, low: float, high: float) -> None:
    """Refuse a hyper-parameter outside [low, high], by its name."""
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}; accepted is {low:g} to {high:g}")


def require_hidden(name: str, hidden: tuple[int, ...]) -> None:
    """Refuse a network without layers or with an empty one."""
    if not hidden or min(hidden) < 1:
        raise ValueError(f"{name} = {hidden}; accepted are one or more widths of at least 1")


def waiting_bias(acting_probability: float, actions: int) -> float:
    """What the first of ``actions`` equal logits has to be higher by, so that the others together have that probability."""
    return math.log((1.0 - acting_probability) / acting_probability * max(actions - 1, 1))


def linear_schedule(start: float, final_share: float) -> Callable[[float], float]:
    """``start`` at the beginning of training, falling linearly to ``final_share * start`` at its end."""

    def rate(progress_remaining: float) -> float:
        return start * (final_share + (1.0 - final_share) * progress_remaining)

    return rate


def use_threads(threads: int, processes: int = 1) -> None:
    """Give torch that many threads and the market all cores, or its share of them beside ``processes`` - 1 others of this
    training; warn when other work leaves too few cores idle.

    Small networks gain little from a second thread on idle cores and lose most of their speed beside one busy
    process (measured). Numba's OpenMP layer would share its thread count, and its busy waiting, with torch: so
    the market gets Numba's own thread pool, started before torch is told its number.
    """
    require("threads", threads, 1, 1024)
    numba.config.THREADING_LAYER = "workqueue"  # type: ignore[attr-defined]  # made at import from the environment
    pool = numba.get_num_threads()  # starts it
    numba.set_num_threads(max(1, pool // processes))
    torch.set_num_threads(threads)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    asked = threads * processes
    if asked > 1 and asked + busy > cores + 0.5:
        of, safe = "", "threads = 1"
        if processes > 1:
            of, safe = f" in each of {processes} processes", "one thread in as many processes as cores are idle"
        warnings.warn(
            f"threads = {threads}{of} with a load of {busy:.1f} on {cores} cores: oversubscribed threads "
            f"can halve the speed; {safe} is safe",
            RuntimeWarning,
            stacklevel=2,
        )
