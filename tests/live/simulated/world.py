"""A market of two or three exact pools, as the environments' default market is, on a simulated chain."""

from __future__ import annotations

import math
from functools import cache

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.amm.tick_math import tick_at_sqrt_price_x96
from arbgym.live.terms import PoolModel, WatchedPool

QUOTE, BASE = "0x" + "a" * 40, "0x" + "b" * 40  # USDC-like with 6 decimals, WETH-like with 18
PRICE = 1840.0
POOLS = (
    WatchedPool("deep_v2", "0x" + "c1" * 20, "v2", 3000, QUOTE, BASE, 6, 18, base_is_token0=False),
    WatchedPool("deep_v3", "0x" + "c2" * 20, "v3", 500, QUOTE, BASE, 6, 18, base_is_token0=False, tick_spacing=10),
    WatchedPool("other_v2", "0x" + "c3" * 20, "v2", 3000, QUOTE, BASE, 6, 18, base_is_token0=False),
)


def constant_product(quote: float) -> ConstantProductPool:
    """A pair with so many quote tokens, at the market's price."""
    return ConstantProductPool(int(quote * 10**6), int(quote / PRICE * 10**18))


def concentrated(watched: WatchedPool, liquidity: int) -> ConcentratedPool:
    """A pool with one wide position and several narrow ones around the market's price."""
    assert watched.tick_spacing is not None
    spacing = watched.tick_spacing
    sqrt_price = int(math.sqrt(10**12 / PRICE) * 2**96)
    tick = tick_at_sqrt_price_x96(sqrt_price)
    pool = ConcentratedPool(
        sqrt_price_x96=sqrt_price, tick=tick, liquidity=0, fee=watched.fee_ppm, tick_spacing=spacing, ticks={}
    )
    middle = tick // spacing
    for width in (2000, 150, 60, 25, 8):
        pool.mint(tick_lower=(middle - width) * spacing, tick_upper=(middle + width) * spacing, liquidity=liquidity)
    return pool


@cache
def fresh_pools() -> tuple[PoolModel, ...]:
    """The states that the market starts with; a chain copies what it changes."""
    return (constant_product(200e6), concentrated(POOLS[1], 3 * 10**19), constant_product(40e6))
