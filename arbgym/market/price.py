"""Reference price: geometric Brownian motion with optional mean reversion of the log price and Poisson jumps.

Over an interval dt the log price x moves by

    drift * dt + reversion * (anchor - x) * dt + volatility * sqrt(dt) * Z  +  jump

where a jump comes with probability rate * dt and is normal. ``drift`` is in excess of nothing: with drift 0 the log price is a
martingale (mu = sigma^2 / 2 for the price), the convention of the loss-versus-rebalancing papers
(arXiv 2208.06046, 2305.14604).
"""

from __future__ import annotations

import math

from arbgym.jit import kernel

SECONDS_PER_DAY = 86_400.0


@kernel
def log_price_step(
    log_price: float,
    log_anchor: float,
    dt_days: float,
    drift_per_day: float,
    volatility_per_sqrt_day: float,
    reversion_per_day: float,
    jump_rate_per_day: float,
    jump_sd: float,
    normal: float,
    jump_uniform: float,
    jump_normal: float,
) -> float:
    """The next log price. Mean reversion uses the exact decay exp(-reversion * dt) of the deviation."""
    deviation = log_price - log_anchor
    if reversion_per_day > 0.0:
        deviation *= math.exp(-reversion_per_day * dt_days)
    move = drift_per_day * dt_days + volatility_per_sqrt_day * math.sqrt(dt_days) * normal
    if jump_uniform < jump_rate_per_day * dt_days:
        move += jump_sd * jump_normal
    return log_anchor + deviation + move


@kernel
def block_interval(mean_s: float, poisson: bool, uniform: float) -> float:
    """Seconds to the next block: fixed slots, or exponential (Poisson blocks) from one uniform."""
    if poisson:
        return -mean_s * math.log(uniform)
    return mean_s
