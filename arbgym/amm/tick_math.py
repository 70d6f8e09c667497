"""Uniswap V3 ``TickMath`` and the tick bitmap's geometry, in exact integers.

Tick t stands for the price 1.0001^t of token1 per token0; pools store the square root as Q64.96.
"""

from __future__ import annotations

import math
from decimal import Decimal, localcontext
from functools import lru_cache

from arbgym.amm.integers import UINT256_MAX
from arbgym.amm.result import PoolError

MIN_TICK = -887272
MAX_TICK = 887272
MIN_SQRT_RATIO = 4295128739
MAX_SQRT_RATIO = 1461446703485210103287273052203988822378723970342
WORD = 256  # ticks (counted in spacings) per word of the bitmap


def _multipliers() -> tuple[int, ...]:
    """The contract's twenty constants: 2^128 / 1.0001^(2^k / 2) to the nearest integer, k = 0 .. 19."""
    with localcontext() as context:
        context.prec = 80
        power = Decimal("1.0001").sqrt()
        multipliers = []
        for _ in range(20):
            multipliers.append(int((2**128 / power).to_integral_value()))
            power *= power
    return tuple(multipliers)


_MULTIPLIERS = _multipliers()
_LOG_PER_TICK = math.log(1.0001) / 2.0
_LOG_Q96 = 96.0 * math.log(2.0)
_SAFE = 1e-4  # ticks; float log is good to 1e-9, and the contract's own table to 5e-6


@lru_cache(maxsize=1 << 17)
def sqrt_price_x96_at_tick(tick: int) -> int:
    """``getSqrtRatioAtTick``: the Q64.96 square-root price of a tick. Raises PoolError('T') beyond +-887272."""
    bits = abs(tick)
    if bits > MAX_TICK:
        raise PoolError("T")
    ratio = 1 << 128
    for multiplier in _MULTIPLIERS:
        if bits & 1:
            ratio = ratio * multiplier >> 128
        bits >>= 1
    if tick > 0:
        ratio = UINT256_MAX // ratio
    return -(-ratio >> 32)


def tick_at_sqrt_price_x96(sqrt_price_x96: int) -> int:
    """``getTickAtSqrtRatio``: the greatest tick whose price does not exceed the given one.

    The contract takes a logarithm in fixed point and settles doubt by the exact price of the upper candidate; here the
    logarithm is float64, and within 1e-4 of a tick the exact price decides. Raises PoolError('R') off range.
    """
    if not MIN_SQRT_RATIO <= sqrt_price_x96 < MAX_SQRT_RATIO:
        raise PoolError("R")
    position = (math.log(sqrt_price_x96) - _LOG_Q96) / _LOG_PER_TICK
    tick = math.floor(position)
    fraction = position - tick
    if _SAFE < fraction < 1.0 - _SAFE:
        return tick
    nearest = round(position)
    return nearest if nearest <= MAX_TICK and sqrt_price_x96_at_tick(nearest) <= sqrt_price_x96 else nearest - 1


def max_liquidity_per_tick(tick_spacing: int) -> int:
    """Most gross liquidity that one tick may carry, ``tickSpacingToMaxLiquidityPerTick``."""
    ticks = 2 * (MAX_TICK // tick_spacing) + 1
    return ((1 << 128) - 1) // ticks
