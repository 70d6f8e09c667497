"""What is known of ArbSell-v0's textbook presets: the exact policy at the environment's own step, and what it earns.

put, ou   dynamic programming over the price at the environment's own dates: sell once the price is beyond the threshold of its
          date. Tables to compare with: Longstaff and Schwartz 2001 (put), Leung and Li 2015 (ou).
alpha     sell at once below mu / sigma^2 = 1/2, hold to the horizon above (Shiryaev, Xu and Zhou 2008; du Toit and Peskir 2009).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arbgym.envs.sell import ALL, HOLD, SellConfig
from arbgym.envs.sell_baselines import raw
from arbgym.evaluation import Decide, Floats, Simulator

_GRID = 3_201
_WIDTH = 7.0  # standard deviations on each side


@dataclass(frozen=True)
class Solution:
    """``value`` at the start, quote; ``thresholds`` (n,) of date 0 .. n - 1: ln price (put: sell at or below) or standardised
    level (ou: sell at or above).
    """

    value: float
    thresholds: Floats
    sells_below: bool


def solve(config: SellConfig) -> Solution:
    """The optimal policy of preset put or ou at its own dates. Raises ValueError for another process.

    The price is put on a grid 14 standard deviations wide; the expectation of the next date's value is a Gaussian quadrature of
    32 nodes on its piecewise linear interpolation.
    """
    steps, dt = config.episode_blocks, config.horizon_years / config.episode_blocks
    discount = math.exp(-config.rate_per_year * dt)
    nodes, weights = np.polynomial.hermite_e.hermegauss(32)
    weights = weights / weights.sum()
    if config.process == "put":
        sd = config.volatility_per_sqrt_year * math.sqrt(config.horizon_years)
        middle = math.log(config.initial_level)
        grid = np.linspace(middle - _WIDTH * sd, middle + _WIDTH * sd, _GRID)
        drift = (config.drift_per_year - 0.5 * config.volatility_per_sqrt_year**2) * dt
        after = grid[:, None] + drift + config.volatility_per_sqrt_year * math.sqrt(dt) * nodes
        payoff = np.maximum(config.strike - np.exp(grid), 0.0)
        start, below = middle, True
    elif config.process == "ou":
        level_sd = config.volatility_per_sqrt_year / math.sqrt(2.0 * config.reversion_per_year)
        grid = np.linspace(-_WIDTH, _WIDTH, _GRID)
        decay = math.exp(-config.reversion_per_year * dt)
        after = grid[:, None] * decay + math.sqrt(1.0 - decay * decay) * nodes
        payoff = config.mean_level + level_sd * grid - config.level_cost
        start, below = (config.initial_level - config.mean_level) / level_sd, False
    else:
        raise ValueError(f"process = {config.process!r}; accepted are put, ou")
    place = np.clip((after - grid[0]) / (grid[1] - grid[0]), 0.0, _GRID - 1.000001)
    left = place.astype(np.int64)
    share = place - left
    value, thresholds = payoff.copy(), np.empty(steps)
    for date in range(steps - 1, -1, -1):
        waiting = discount * ((value[left] * (1.0 - share) + value[left + 1] * share) @ weights)
        thresholds[date] = _crossing(grid, payoff - waiting, below)
        value = np.maximum(payoff, waiting)
    return Solution(float(np.interp(start, grid, value)), thresholds, below)


def _crossing(grid: Floats, gain: Floats, below: bool) -> float:
    """Where selling starts to gain over waiting, seen from the side on which it does; beyond the grid when it never does."""
    if below:
        waits = np.flatnonzero(gain < 0.0)
        k = int(waits[0]) - 1 if len(waits) else len(grid) - 1
        if k < 0:
            return -np.inf
        if k == len(grid) - 1:
            return float(grid[k])
        return float(grid[k] + (grid[k + 1] - grid[k]) * gain[k] / (gain[k] - gain[k + 1]))
    return -_crossing(-grid[::-1], gain[::-1], True)


def optimal(simulator: Simulator) -> Decide:
    """The exact policy of a textbook world as a decision rule on observations."""
    config = simulator.make().config
    if config.process == "alpha":
        alpha = config.drift_per_year / config.volatility_per_sqrt_year**2
        return lambda observations: np.full((len(observations), 1), HOLD if alpha >= 0.5 else ALL)
    solution = solve(config)
    steps = config.episode_blocks
    if config.process == "ou":
        level_sd = config.volatility_per_sqrt_year / math.sqrt(2.0 * config.reversion_per_year)
        start = (config.initial_level - config.mean_level) / level_sd
    else:
        start = math.log(config.initial_level)

    def decide(observations: NDArray[np.float32]) -> Floats:
        level = start + raw(observations, "move")
        date = np.clip(np.rint((1.0 - raw(observations, "time_left")) * steps).astype(int), 0, steps - 1)
        threshold = solution.thresholds[date]
        sells = level <= threshold if solution.sells_below else level >= threshold
        return np.where(sells, ALL, HOLD)[:, None]

    return decide
