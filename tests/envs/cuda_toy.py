"""A definition of a few lines, with everything that the engine does with one: quick to compile for every target."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from arbgym.engine import Definition
from arbgym.jit import kernel
from arbgym.rng import normal2, uniform2
from arbgym.spec import Choice, Field


@dataclass(frozen=True)
class Config:
    preset: str
    steps: int


class World(NamedTuple):
    numbers: Any  # float64 (2,): steps, odds of ruin


def configure(preset: str, steps: int = 7) -> Config:
    return Config(preset, steps)


def build_world(config: Config, tape: Any) -> World:
    return World(np.array([config.steps, 0.05]))


@kernel
def reset(world: Any, s: Any) -> None:
    s.block = 0
    s.price = 100.0 * math.exp(0.1 * normal2(s.seed, s.episode, 0, 0)[0])


@kernel
def observe(world: Any, s: Any, out: Any) -> None:
    out[0] = s.price
    out[1] = s.block


@kernel
def step(world: Any, s: Any, decision: Any, info: Any) -> tuple[float, bool, bool]:
    s.block += 1
    first, second = uniform2(s.seed, s.episode, s.block, 1)
    before = s.price
    s.price *= math.exp(0.05 * (first - 0.5) + 0.001 * decision[1])
    info[0] = decision[0] * (s.price - before)
    info[1] = 0.1 * decision[0]
    return info[0] - info[1], second < world.numbers[1], s.block >= world.numbers[0]


@kernel
def mask(world: Any, s: Any, out: Any) -> None:
    out[0, 2] = s.price > 100.0


DEFINITION = Definition(
    id="Toy-v0",
    version=0,
    observation=(
        Field("price", "quote", 100.0, 0.0, 2.0, "price"),
        Field("block", "", 7.0, 0.0, 1.0, "blocks since the start"),
    ),
    action=(
        Choice("amount", "", (0.0, 1.0, 2.0), "amount", (0.0, 1.0, 2.0)),
        Choice("side", "", (-1.0, 0.5, 1.0), "side", (-1.0, 1.0), ordered=False),
    ),
    info=("gain", "cost"),
    state=np.dtype([("seed", np.int64), ("episode", np.int64), ("block", np.int64), ("price", np.float64)], align=True),
    configure=configure,
    presets=("only",),
    build_world=build_world,
    reset=reset,
    observe=observe,
    step=step,
    baselines=dict,
    reward_parts=("gain", "cost"),
    mask=mask,
)
