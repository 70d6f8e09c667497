"""An exact pool in whole tokens: the one place that turns a contract's integers into a price and a liquidity."""

from __future__ import annotations

import math

from arbgym.amm import ConcentratedPool
from arbgym.live.terms import PoolModel, WatchedPool


def mid_price(pool: PoolModel, watched: WatchedPool) -> float:
    """Quote per base in whole tokens, without the fee; 0 for an empty pool."""
    if isinstance(pool, ConcentratedPool):
        raw = (pool.sqrt_price_x96 / 2**96) ** 2
    else:
        raw = pool.reserve1 / pool.reserve0 if pool.reserve0 else 0.0
    price = raw * 10.0 ** (watched.decimals0 - watched.decimals1)
    return 1.0 / price if price > 0.0 and not watched.base_is_token0 else price


def liquidity(pool: PoolModel, watched: WatchedPool) -> float:
    """Root of the product of its reserves in whole tokens, of a concentrated pool the virtual ones in range."""
    held = float(pool.liquidity) if isinstance(pool, ConcentratedPool) else math.sqrt(pool.reserve0) * math.sqrt(pool.reserve1)
    return float(held / 10.0 ** (0.5 * (watched.decimals0 + watched.decimals1)))
