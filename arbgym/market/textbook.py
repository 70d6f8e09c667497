"""Prices with a known best time to sell, drawn exactly: geometric Brownian motion and a mean-reverting price.

put     payoff e^{-rt} max(K - S, 0), S a GBM with drift r: the American put (Longstaff and Schwartz 2001)
ou      payoff e^{-rt} (X - c), X an Ornstein-Uhlenbeck price, dX = mu (theta - X) dt + sigma dW (Leung and Li 2015); the price
        kept is (X - theta) over X's stationary standard deviation
alpha   payoff S over the maximum of S up to the horizon, S a GBM with drift alpha sigma^2 (Shiryaev, Xu and Zhou 2008); the
        maximum is that of the continuous path, drawn within each step from the Brownian bridge
"""

from __future__ import annotations

import math
from typing import Any

from arbgym.jit import inner
from arbgym.market.token_life import PATH_DRAWS
from arbgym.rng import normal2_from, uniform4

PROCESSES = ("pool", "put", "ou", "alpha")
POOL, PUT, OU, ALPHA = range(len(PROCESSES))


@inner
def next_level(c: Any, seed: int, episode: int, block: int, level: float) -> tuple[float, float]:
    """The price (GBM) or its standardised level (OU) at the end of step ``block``, and the highest price within the step."""
    u, v, bridge_u, _ = uniform4(seed, episode, block, PATH_DRAWS)
    z, _ = normal2_from(u, v)
    dt = c.step_years
    if c.process == OU:
        decay = math.exp(-c.reversion_per_year * dt)
        after = level * decay + math.sqrt(1.0 - decay * decay) * z
        return after, max(level, after)
    sd = c.volatility_per_sqrt_year * math.sqrt(dt)
    move = (c.drift_per_year - 0.5 * c.volatility_per_sqrt_year**2) * dt + sd * z
    highest = 0.5 * (move + math.sqrt(move * move - 2.0 * sd * sd * math.log(bridge_u)))
    return level * math.exp(move), level * math.exp(highest)


@inner
def payoff(c: Any, level: float, block: int) -> float:
    """What selling at the end of step ``block`` is worth at time 0, quote; of ``alpha`` before the division by the maximum."""
    discount = math.exp(-c.rate_per_year * c.step_years * block)
    if c.process == PUT:
        return float(discount * max(c.strike - level, 0.0))
    if c.process == OU:
        return float(discount * (c.mean_level + c.level_sd * level - c.level_cost))
    return level


@inner
def highest_by_horizon(c: Any, seed: int, episode: int, block: int, level: float, highest: float) -> float:
    """The path's maximum up to the horizon, given its price and maximum at the end of step ``block``."""
    for k in range(block + 1, c.episode_blocks + 1):
        level, top = next_level(c, seed, episode, k, level)
        highest = max(highest, top)
    return highest
