"""Trades on a set of pools held as arrays: what every environment with pools does to them.

A pool set is read-only tables (``PoolTables``, one row per pool) and a state record with an entry per pool in three
fields: ``sqrt_price`` (sqrt of quote per base), ``scale`` (liquidity per unit of table depth) and ``range_index``.
Amounts include the pool's fee unless a name says net. In a constant-product pool the fee stays in the reserves and
grows the liquidity; in a concentrated pool it leaves the price curve (Uniswap V2 and V3 whitepapers). A reference
pool is a V3-like pool that its owner reprices.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.ranges import Floats, RangeTable, buy_base, find_range, move_to, sell_base
from arbgym.amm.route import size_cycle
from arbgym.jit import kernel, part

CONSTANT_PRODUCT, CONCENTRATED, REFERENCE = 0, 1, 2
POOL_KINDS = ("v2", "v3", "reference")
MAX_POOLS = 4

Integers = NDArray[np.int64]


class PoolTables(NamedTuple):
    """K pools. Shapes: edge, quote_below, base_above (K, M + 1); depth (K, M); ranges, kind, keep (K,).

    Kernels take as ``pools`` anything that has these fields: this tuple, or a configuration record that holds them.
    """

    edge: Floats
    depth: Floats
    quote_below: Floats
    base_above: Floats
    ranges: Integers  # in use per pool
    kind: Integers
    keep: Floats  # 1 - fee


def pool_tables(
    tables: Sequence[RangeTable], kinds: Sequence[int], fees_ppm: Sequence[float], rows: int | None = None
) -> PoolTables:
    """Stack the range tables of some pools, padded to ``rows`` pools and to a multiple of 96 ranges; fees in ppm of the input.

    The padding keeps the arrays' shapes, and so the compiled kernels, the same for most configurations.
    """
    width = -(-max(table.depth.size for table in tables) // 96) * 96
    rows = rows or len(tables)
    padding = [0] * (rows - len(tables))
    stacked = PoolTables(
        np.full((rows, width + 1), np.inf),
        np.zeros((rows, width)),
        np.zeros((rows, width + 1)),
        np.zeros((rows, width + 1)),
        np.array([*(table.depth.size for table in tables), *padding], dtype=np.int64),
        np.array([*kinds, *padding], dtype=np.int64),
        1.0 - np.array([*fees_ppm, *padding], dtype=np.float64) * 1e-6,
    )
    for row, table in enumerate(tables):
        size = table.depth.size
        stacked.edge[row, : size + 1] = table.edge
        stacked.depth[row, :size] = table.depth
        stacked.quote_below[row, : size + 1] = table.quote_below
        stacked.base_above[row, : size + 1] = table.base_above
    return stacked


@kernel
def quote_buy(pools: Any, state: Any, k: int, quote_in: float) -> tuple[float, float, float, int]:
    """Pay quote into pool k: (base out, new sqrt price, new scale, new range); changes nothing."""
    keep = pools.keep[k]
    if pools.kind[k] == CONSTANT_PRODUCT:
        base = state.scale[k] / state.sqrt_price[k]
        quote = state.scale[k] * state.sqrt_price[k]
        net = keep * quote_in
        out = base * net / (quote + net)
        base -= out
        quote += quote_in
        return out, math.sqrt(quote / base), math.sqrt(quote * base), 0
    out, _, price, index = buy_base(
        pools.edge[k],
        pools.depth[k],
        pools.quote_below[k],
        pools.base_above[k],
        pools.ranges[k],
        state.scale[k],
        state.sqrt_price[k],
        state.range_index[k],
        keep * quote_in,
    )
    return out, price, state.scale[k], index


@kernel
def quote_sell(pools: Any, state: Any, k: int, base_in: float) -> tuple[float, float, float, int]:
    """Pay base into pool k: (quote out, new sqrt price, new scale, new range); changes nothing."""
    keep = pools.keep[k]
    if pools.kind[k] == CONSTANT_PRODUCT:
        base = state.scale[k] / state.sqrt_price[k]
        quote = state.scale[k] * state.sqrt_price[k]
        net = keep * base_in
        out = quote * net / (base + net)
        quote -= out
        base += base_in
        return out, math.sqrt(quote / base), math.sqrt(quote * base), 0
    out, _, price, index = sell_base(
        pools.edge[k],
        pools.depth[k],
        pools.quote_below[k],
        pools.base_above[k],
        pools.ranges[k],
        state.scale[k],
        state.sqrt_price[k],
        state.range_index[k],
        keep * base_in,
    )
    return out, price, state.scale[k], index


@kernel
def swap_buy(pools: Any, state: Any, k: int, quote_in: float) -> float:
    """Pay quote into pool k and keep the new state; returns base out."""
    out, state.sqrt_price[k], state.scale[k], state.range_index[k] = quote_buy(pools, state, k, quote_in)
    return out


@kernel
def swap_sell(pools: Any, state: Any, k: int, base_in: float) -> float:
    """Pay base into pool k and keep the new state; returns quote out."""
    out, state.sqrt_price[k], state.scale[k], state.range_index[k] = quote_sell(pools, state, k, base_in)
    return out


@kernel
def arbitrage_to(pools: Any, state: Any, k: int, bid: float, ask: float) -> float:
    """Someone trades pool k against an outside market back to the edge of the no-trade band; returns net base into the pool.

    The outside market buys base at ``bid`` and sells it at ``ask``, quote per base, so the band of the pool's price is
    [bid * keep, ask / keep]: inside it no trade pays for the fees.
    """
    keep = pools.keep[k]
    now = state.sqrt_price[k] * state.sqrt_price[k]
    if bid * keep > now:
        target = math.sqrt(bid * keep)
    elif ask < now * keep:
        target = math.sqrt(ask / keep)
    else:
        return 0.0
    base_in, quote_in, new_price, index = move_to(
        pools.edge[k], pools.depth[k], pools.ranges[k], state.scale[k], state.sqrt_price[k], state.range_index[k], target
    )
    if pools.kind[k] == CONSTANT_PRODUCT:
        base = state.scale[k] / state.sqrt_price[k] + (base_in / keep if base_in > 0.0 else base_in)
        quote = state.scale[k] * state.sqrt_price[k] + (quote_in / keep if quote_in > 0.0 else quote_in)
        state.sqrt_price[k] = math.sqrt(quote / base)
        state.scale[k] = math.sqrt(quote * base)
    else:
        state.sqrt_price[k] = new_price
        state.range_index[k] = index
    return base_in


@kernel
def size_against(pools: Any, state: Any, k: int, price: float) -> tuple[float, float, int]:
    """Largest trade of pool k that pays against an outside price: (base from the pool, quote to the pool, range ends crossed).

    Amounts include the pool's fee; both are negative where base is sold to the pool, and 0 inside the band. It brings the pool's
    price net of its fee to the outside price, where the profit base * price - quote is largest.
    """
    keep = pools.keep[k]
    now = state.sqrt_price[k] * state.sqrt_price[k]
    if price * keep > now:
        target = math.sqrt(price * keep)
    elif price < now * keep:
        target = math.sqrt(price / keep)
    else:
        return 0.0, 0.0, 0
    base_in, quote_in, _, index = move_to(
        pools.edge[k], pools.depth[k], pools.ranges[k], state.scale[k], state.sqrt_price[k], state.range_index[k], target
    )
    crossed = index - state.range_index[k]
    if base_in > 0.0:
        return -base_in / keep, quote_in, crossed
    return -base_in, quote_in / keep, crossed


@kernel
def set_price(pools: Any, state: Any, k: int, price: float) -> None:
    """The owner of pool k (or a reset) puts its price; liquidity unchanged."""
    state.sqrt_price[k] = math.sqrt(price)
    state.range_index[k] = find_range(pools.edge[k], pools.ranges[k], state.sqrt_price[k])


@kernel
def size_route(
    pools: Any,
    state: Any,
    buy: int,
    sell: int,
    loan_fee: float,
) -> tuple[float, float, float, int]:
    """Best cycle buying in pool ``buy`` and selling in pool ``sell``: (base flow, quote in, quote out, ends crossed)."""
    return size_cycle(
        pools.edge[buy],
        pools.depth[buy],
        pools.ranges[buy],
        state.scale[buy],
        state.sqrt_price[buy],
        state.range_index[buy],
        pools.keep[buy],
        pools.edge[sell],
        pools.depth[sell],
        pools.ranges[sell],
        state.scale[sell],
        state.sqrt_price[sell],
        state.range_index[sell],
        pools.keep[sell],
        loan_fee,
    )


@kernel
def quote_cycle(
    pools: Any,
    state: Any,
    buy: int,
    sell: int,
    quote_in: float,
) -> tuple[float, float]:
    """(quote out, base flow) of a cycle of given size; changes nothing."""
    base, _, _, _ = quote_buy(pools, state, buy, quote_in)
    quote_out, _, _, _ = quote_sell(pools, state, sell, base)
    return quote_out, base


@kernel
def swap_cycle(
    pools: Any,
    state: Any,
    buy: int,
    sell: int,
    quote_in: float,
) -> tuple[float, float, int]:
    """Execute a cycle: (quote out, base flow, range ends crossed)."""
    before = state.range_index[buy] - state.range_index[sell]
    base = swap_buy(pools, state, buy, quote_in)
    quote_out = swap_sell(pools, state, sell, base)
    return quote_out, base, state.range_index[buy] - state.range_index[sell] - before


@kernel
def best_routes(
    pools: Any,
    pool_count: int,
    state: Any,
) -> None:
    """Find the two most profitable two-leg cycles (before loan fee and gas), best first; profit 0 and size 0 where none.

    Written to the state's fields route_buy, route_sell, route_quote_in, route_profit and route_crossed, two entries each.
    """
    for rank in range(2):
        state.route_buy[rank] = 0
        state.route_sell[rank] = 0
        state.route_quote_in[rank] = 0.0
        state.route_profit[rank] = 0.0
        state.route_crossed[rank] = 0
    for buy in range(pool_count):
        ask = state.sqrt_price[buy] * state.sqrt_price[buy] / pools.keep[buy]
        for sell in range(pool_count):
            if sell == buy or state.sqrt_price[sell] * state.sqrt_price[sell] * pools.keep[sell] <= ask:
                continue
            _, quote_in, quote_out, crossed = size_route(pools, state, buy, sell, 0.0)
            profit = quote_out - quote_in
            if profit > state.route_profit[0]:
                state.route_buy[1] = state.route_buy[0]
                state.route_sell[1] = state.route_sell[0]
                state.route_quote_in[1] = state.route_quote_in[0]
                state.route_profit[1] = state.route_profit[0]
                state.route_crossed[1] = state.route_crossed[0]
                state.route_buy[0] = buy
                state.route_sell[0] = sell
                state.route_quote_in[0] = quote_in
                state.route_profit[0] = profit
                state.route_crossed[0] = crossed
            elif profit > state.route_profit[1]:
                state.route_buy[1] = buy
                state.route_sell[1] = sell
                state.route_quote_in[1] = quote_in
                state.route_profit[1] = profit
                state.route_crossed[1] = crossed


@part
def save_pools(state: Any) -> None:
    """Remember every pool's state in the fields ``saved_*``."""
    for k in range(MAX_POOLS):
        state.saved_sqrt_price[k] = state.sqrt_price[k]
        state.saved_scale[k] = state.scale[k]
        state.saved_range_index[k] = state.range_index[k]


@part
def restore_pools(state: Any) -> None:
    """Back to what ``save_pools`` remembered."""
    for k in range(MAX_POOLS):
        state.sqrt_price[k] = state.saved_sqrt_price[k]
        state.scale[k] = state.saved_scale[k]
        state.range_index[k] = state.saved_range_index[k]


def quote_in_range(pools: Any, states: NDArray[np.void], chosen: Integers) -> Floats:
    """What one pool of each state holds in the range its price stands in, both tokens, in quote at its own price: (N,).

    A constant-product pool is one range: all that it holds. ``states`` (N,), ``chosen`` (N,) pool numbers.
    """
    rows = np.arange(len(states))
    price, index = states["sqrt_price"][rows, chosen], states["range_index"][rows, chosen]
    low, high = pools["edge"][chosen, index], pools["edge"][chosen, index + 1]
    liquidity = states["scale"][rows, chosen] * pools["depth"][chosen, index]
    held: Floats = liquidity * ((price - low) + (1.0 / price - 1.0 / high) * price**2)
    return held


def cycle_edges(pools: Any, states: NDArray[np.void]) -> Floats:
    """Relative price difference of each state's best cycle net of pool fees, bps, 0 where there is none: (N,)."""
    rows = np.arange(len(states))
    buy, sell = states["route_buy"][:, 0], states["route_sell"][:, 0]
    ratio = (
        states["sqrt_price"][rows, sell] ** 2 * pools["keep"][sell] * pools["keep"][buy] / states["sqrt_price"][rows, buy] ** 2
    )
    edges: Floats = np.where(states["route_profit"][:, 0] > 0.0, (ratio - 1.0) * 1e4, 0.0)
    return edges


def concentrated_profile(
    reference_price: float, tvl_quote: float, ranges_each_side: int, range_bps: float, width_bps: float
) -> RangeTable:
    """A bell of liquidity around a price: a background over all prices plus a Gaussian in log price.

    ``width_bps`` is the Gaussian's standard deviation, ``range_bps`` the width of a range; the profile's depth is such that the
    pool holds ``tvl_quote`` at the reference price with scale 1. Shape after the USDC/WETH pools' tick tables: liquidity peaks at
    the price and falls over a few per cent.
    """
    offsets = np.arange(-ranges_each_side, ranges_each_side + 1) * range_bps * 1e-4
    middle = math.sqrt(reference_price)
    inner = middle * np.exp(0.5 * offsets)
    edge = np.concatenate([[0.0], inner, [np.inf]])
    centre = 0.5 * (offsets[1:] + offsets[:-1])
    bell = np.exp(-0.5 * (centre / (width_bps * 1e-4)) ** 2)
    depth = np.concatenate([[0.02], 0.02 + bell, [0.02]])
    low, high = edge[:-1], edge[1:]
    below = depth * (np.minimum(high, middle) - np.minimum(low, middle))
    upper_low, upper_high = np.maximum(low, middle), np.maximum(high, middle)
    above = depth * (1.0 / upper_low - 1.0 / upper_high) * reference_price
    from arbgym.amm.ranges import table_from_edges

    return table_from_edges(edge, depth * (tvl_quote / float(np.sum(below) + np.sum(above))))
