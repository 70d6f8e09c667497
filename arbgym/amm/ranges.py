"""Float64 swaps over liquidity ranges: one kernel for constant-product and concentrated pools.

A pool is a list of price ranges with constant liquidity L, in human units: between the square-root prices
``edge[j]`` and ``edge[j + 1]`` (sqrt of quote per base) the liquidity is ``scale * depth[j]``. A Uniswap V3 pool has a
range per pair of neighbouring initialised ticks; a Uniswap V2 pool is the single range (0, inf) with depth 1 and
scale L = sqrt(reserve_base * reserve_quote). State: ``sqrt_price`` and the index of its range.

No difference of nearly equal prices enters an amount. Within a range (Uniswap V3 whitepaper, 6.2):

    quote in  d:  s' = s + d / L          base out  = d / (s * s')
    base in   d:  s' = s / (1 + d * s/L)  quote out = d * s * s'

and to the end e of a range the amounts keep the same ratio, base = quote / (s * e), so an error in the split between two
ranges changes the result only to second order. After ``_WALK`` full ranges a binary search on prefix sums finds the
last one. Fees are the caller's: amounts here are net of fee, and prices start within the outermost edges. Bound held by the
tests against the exact integer pools: |float - exact| <= U + r * exact with r = 1e-12 and U = (2 + 3 * price) raw units per swap
step plus 2^-50 of what the whole table holds (the prefix sums' last bits; nothing for a swap of at most ``_WALK`` ranges).
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbgym.jit import kernel

_WALK = 4  # full ranges added one by one before the binary search takes over

Floats = NDArray[np.float64]


class RangeTable(NamedTuple):
    """Ranges of one pool. Shapes: edge (M + 1,), depth (M,), quote_below (M + 1,), base_above (M + 1,)."""

    edge: Floats  # sqrt(quote per base), ascending
    depth: Floats  # liquidity per unit of scale
    quote_below: Floats  # quote held below edge[j], per unit of scale
    base_above: Floats  # base held above edge[j], per unit of scale


def table_from_edges(edge: Floats, depth: Floats) -> RangeTable:
    """Prefix sums for ranges given by their square-root prices; the first edge may be 0 and the last inf."""
    edge = np.ascontiguousarray(edge, dtype=np.float64)
    depth = np.ascontiguousarray(depth, dtype=np.float64)
    if edge.ndim != 1 or depth.shape != (edge.size - 1,) or depth.size < 1:
        raise ValueError(f"edge: shape {edge.shape} with depth {depth.shape}; accepted is (M + 1,) with (M,), M >= 1")
    if not bool(np.all(np.diff(edge) > 0.0)) or edge[0] < 0.0:
        raise ValueError("edge: must be non-negative and strictly ascending")
    if not bool(np.all(np.isfinite(depth))) or bool(np.any(depth < 0.0)):
        raise ValueError("depth: must be finite and non-negative")
    count = depth.size
    quote_below = np.zeros(count + 1)
    base_above = np.zeros(count + 1)
    for j in range(count):
        width = depth[j] * (edge[j + 1] - edge[j]) if depth[j] > 0.0 else 0.0
        quote_below[j + 1] = quote_below[j] + width
    for j in range(count - 1, -1, -1):
        inverse_low = math.inf if edge[j] == 0.0 else 1.0 / edge[j]
        width = depth[j] * (inverse_low - 1.0 / edge[j + 1]) if depth[j] > 0.0 else 0.0
        base_above[j] = base_above[j + 1] + width
    return RangeTable(edge, depth, quote_below, base_above)


def constant_product_table() -> RangeTable:
    """The single range of a constant-product pool; its liquidity is the scale."""
    return table_from_edges(np.array([0.0, math.inf]), np.array([1.0]))


def concentrated_table(liquidity_net: Mapping[int, int], decimals_base: int, decimals_quote: int) -> RangeTable:
    """Ranges of a Uniswap V3 pool with token0 = base, from its initialised ticks {tick: raw liquidity_net}.

    Raw liquidity becomes human units by 10^-((decimals_base + decimals_quote) / 2), and a raw square-root price
    (1.0001^(tick/2)) by 10^((decimals_base - decimals_quote) / 2). Liquidity is cumulated in integers, and each edge is
    rounded to float64 once from the contract's own Q64.96 value, so that a price on a tick is a price on an edge.
    """
    from arbgym.amm.tick_math import sqrt_price_x96_at_tick

    if len(liquidity_net) < 2:
        raise ValueError(f"liquidity_net: {len(liquidity_net)} initialised ticks; accepted are 2 or more")
    ticks = sorted(liquidity_net)
    to_price = 10.0 ** ((decimals_base - decimals_quote) / 2.0) / 2.0**96
    to_depth = 10.0 ** (-(decimals_base + decimals_quote) / 2.0)
    edge = np.array([float(sqrt_price_x96_at_tick(tick)) * to_price for tick in ticks])
    running, depth = 0, []
    for tick in ticks[:-1]:
        running += liquidity_net[tick]
        depth.append(float(running) * to_depth)
    return table_from_edges(edge, np.array(depth))


@kernel
def find_range(edge: Floats, count: int, sqrt_price: float) -> int:
    """Index j of the range with edge[j] <= sqrt_price < edge[j + 1], clipped to 0 .. count - 1."""
    low, high = 0, count
    while high - low > 1:
        middle = (low + high) // 2
        if edge[middle] <= sqrt_price:
            low = middle
        else:
            high = middle
    return low


@kernel
def buy_base(
    edge: Floats,
    depth: Floats,
    quote_below: Floats,
    base_above: Floats,
    count: int,
    scale: float,
    sqrt_price: float,
    index: int,
    quote_in: float,
) -> tuple[float, float, float, int]:
    """Pay ``quote_in`` (net of fee); returns (base out, quote unspent, new sqrt price, new range). Price rises."""
    remaining = quote_in
    base_out = 0.0
    walked = 0
    while True:
        liquidity = scale * depth[index]
        end = edge[index + 1]
        to_end = liquidity * (end - sqrt_price) if liquidity > 0.0 else 0.0
        if remaining < to_end or (remaining == to_end and liquidity > 0.0):
            new_price = sqrt_price + remaining / liquidity
            return base_out + remaining / (sqrt_price * new_price), 0.0, new_price, index
        base_out += to_end / (sqrt_price * end)
        remaining -= to_end
        sqrt_price = end
        if index + 1 == count:
            return base_out, remaining, sqrt_price, index
        index += 1
        walked += 1
        if walked == _WALK and remaining > scale * (quote_below[index + 1] - quote_below[index]):
            low, high = index, count
            while high - low > 1:
                middle = (low + high) // 2
                if scale * (quote_below[middle] - quote_below[index]) <= remaining:
                    low = middle
                else:
                    high = middle
            base_out += scale * (base_above[index] - base_above[low])
            remaining -= scale * (quote_below[low] - quote_below[index])
            index = low
            sqrt_price = edge[low]


@kernel
def sell_base(
    edge: Floats,
    depth: Floats,
    quote_below: Floats,
    base_above: Floats,
    count: int,
    scale: float,
    sqrt_price: float,
    index: int,
    base_in: float,
) -> tuple[float, float, float, int]:
    """Pay ``base_in`` (net of fee); returns (quote out, base unspent, new sqrt price, new range). Price falls."""
    remaining = base_in
    quote_out = 0.0
    walked = 0
    while True:
        liquidity = scale * depth[index]
        end = edge[index]
        to_end = liquidity * (sqrt_price - end) / (sqrt_price * end) if liquidity > 0.0 else 0.0
        if remaining < to_end or (remaining == to_end and liquidity > 0.0):
            new_price = sqrt_price / (1.0 + remaining * sqrt_price / liquidity)
            return quote_out + remaining * sqrt_price * new_price, 0.0, new_price, index
        quote_out += to_end * sqrt_price * end
        remaining -= to_end
        sqrt_price = end
        if index == 0:
            return quote_out, remaining, sqrt_price, index
        index -= 1
        walked += 1
        if walked == _WALK and remaining > scale * (base_above[index] - base_above[index + 1]):
            low, high = 0, index + 1
            while high - low > 1:  # the lowest edge reached: base_above falls as the edge rises
                middle = (low + high) // 2
                if scale * (base_above[middle] - base_above[index + 1]) <= remaining:
                    high = middle
                else:
                    low = middle
            quote_out += scale * (quote_below[index + 1] - quote_below[high])
            remaining -= scale * (base_above[high] - base_above[index + 1])
            index = high - 1
            sqrt_price = edge[high]


@kernel
def move_to(
    edge: Floats, depth: Floats, count: int, scale: float, sqrt_price: float, index: int, target: float
) -> tuple[float, float, float, int]:
    """Amounts, net of fee, that bring the price to ``target``: (base into the pool, quote into it, price, range).

    One amount is positive and the other negative; the price stops at the outermost edge.
    """
    base_in = 0.0
    quote_in = 0.0
    while target > sqrt_price:
        end = min(edge[index + 1], target)
        quote = scale * depth[index] * (end - sqrt_price) if depth[index] > 0.0 else 0.0
        quote_in += quote
        base_in -= quote / (sqrt_price * end)
        sqrt_price = end
        if end == target or index + 1 == count:
            break
        index += 1
    while target < sqrt_price:
        end = max(edge[index], target)
        if depth[index] > 0.0:
            quote = scale * depth[index] * (sqrt_price - end)
            quote_in -= quote
            base_in += quote / (sqrt_price * end)
        sqrt_price = end
        if end == target or index == 0:
            break
        index -= 1
    return base_in, quote_in, sqrt_price, index
