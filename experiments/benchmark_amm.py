"""Speed of the pools, one thread: float64 kernels in batches beside the exact Python models, measured in the same run.

``rows()`` gives the figures; ``python -m experiments.benchmark_amm`` prints them.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from arbgym.amm import ConcentratedPool, ConstantProductPool, get_amount_out
from arbgym.amm.cycle import amounts_out, size_two_pools
from arbgym.amm.exact_cycle import Hop, size_flash_swap_exact
from arbgym.amm.exact_route import size_two_pools_exact
from arbgym.amm.ranges import Floats, RangeTable, buy_base, concentrated_table, sell_base
from arbgym.amm.route import size_cycle
from arbgym.amm.tick_math import sqrt_price_x96_at_tick
from arbgym.jit import kernel

BATCH = 4096  # fits the second-level cache, so the arithmetic is measured and not the memory
RANGES_A_SIDE = 200
SPACING = 60
FEE = 500  # ppm
_SECONDS = 0.2  # per repetition
_REPETITIONS = 3


def _per_second(call: Callable[[], Any], units: int) -> float:
    """Best rate of ``units`` per call over a few repetitions, the first call (compilation) left out."""
    call()
    best = 0.0
    for _ in range(_REPETITIONS):
        calls, start = 0, time.perf_counter()
        while (elapsed := time.perf_counter() - start) < _SECONDS:
            call()
            calls += 1
        best = max(best, calls * units / elapsed)
    return best


@kernel
def size_product_pairs(
    in_a: Floats, out_a: Floats, in_b: Floats, out_b: Floats, keep: float, amount: Floats, profit: Floats
) -> None:
    """Two-pool closed form, one pair of pools per element."""
    for i in range(amount.size):
        amount[i], profit[i] = size_two_pools(in_a[i], out_a[i], keep, in_b[i], out_b[i], keep, 0.0)


@kernel
def swap_ranges(
    edge: Floats,
    depth: Floats,
    quote_below: Floats,
    base_above: Floats,
    sqrt_price: float,
    index: int,
    amount: Floats,
    out: Floats,
) -> None:
    """Swaps from one state, alternating in direction."""
    count = depth.size
    for i in range(amount.size):
        if i % 2 == 0:
            base_in = amount[i] / sqrt_price
            out[i] = sell_base(edge, depth, quote_below, base_above, count, 1.0, sqrt_price, index, base_in)[0]
        else:
            quote_in = amount[i] * sqrt_price
            out[i] = buy_base(edge, depth, quote_below, base_above, count, 1.0, sqrt_price, index, quote_in)[0]


@kernel
def size_ranges(
    edge: Floats, depth: Floats, price_a: Floats, index_a: int, price_b: float, index_b: int, keep: float, out: Floats
) -> None:
    """Two-pool walk over ranges, one price of the first pool per element."""
    count = depth.size
    for i in range(out.size):
        _, paid, received, _ = size_cycle(
            edge, depth, count, 1.0, price_a[i], index_a, keep, edge, depth, count, 1.0, price_b, index_b, keep, 0.0
        )
        out[i] = received - paid


def concentrated_pool() -> ConcentratedPool:
    """An exact pool with ``RANGES_A_SIDE`` ranges of random liquidity on either side of price 1."""
    rng = np.random.default_rng(7)
    tick = SPACING // 2
    pool = ConcentratedPool(sqrt_price_x96=sqrt_price_x96_at_tick(tick) + 1, tick=tick, liquidity=0, fee=FEE)
    for j in range(-RANGES_A_SIDE, RANGES_A_SIDE):
        pool.mint(
            tick_lower=j * SPACING,
            tick_upper=(j + 1) * SPACING,
            liquidity=int(1e18 * rng.uniform(0.5, 1.5)),
        )
    return pool


def _row(name: str, value: float, unit: str, ratio_to: str = "", base: float = 0.0) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "ratio_to": ratio_to, "ratio": value / base if base else None}


def _product_rows(rng: np.random.Generator) -> list[dict[str, Any]]:
    amount, reserve_in, reserve_out = rng.uniform(1e3, 1e6, (3, BATCH))
    keep, out = np.full(BATCH, 0.997), np.empty(BATCH)
    pool = ConstantProductPool(10**24, 3 * 10**12)
    exact = _per_second(lambda: pool.quote(amount_in=10**18, zero_for_one=True), 1)
    function = _per_second(lambda: get_amount_out(10**18, 10**24, 3 * 10**12), 1)
    batched = _per_second(lambda: amounts_out(amount, reserve_in, reserve_out, keep, out), BATCH)
    in_b, out_b = reserve_out * rng.uniform(0.97, 1.05, BATCH), reserve_in
    profit = np.empty(BATCH)
    sized = _per_second(lambda: size_product_pairs(reserve_in, reserve_out, in_b, out_b, 0.997, amount, profit), BATCH)
    buy, sell = Hop(10**21, 3 * 10**21), Hop(3 * 10**21, 102 * 10**19)
    exact_size = _per_second(lambda: size_flash_swap_exact(buy, sell), 1)
    return [
        _row("amm.v2_quote.exact", exact, "quotes/s"),
        _row("amm.v2_router_quote.exact", function, "quotes/s"),
        _row("amm.v2_quote", batched, "quotes/s", "amm.v2_quote.exact", exact),
        _row("amm.v2_v2_size.exact", exact_size, "sizes/s"),
        _row("amm.v2_v2_size", sized, "sizes/s", "amm.v2_v2_size.exact", exact_size),
    ]


def _crossing(pool: ConcentratedPool, ticks: int) -> int:
    """Input of token0 that crosses about ``ticks`` initialised ticks."""
    limit = sqrt_price_x96_at_tick(10 - ticks * SPACING)
    return pool.quote(amount_specified=10**40, zero_for_one=True, sqrt_price_limit_x96=limit).amount_in


def _compared(name: str, unit: str, exact_name: str, exact: float, batched: float) -> list[dict[str, Any]]:
    return [_row(exact_name, exact, unit), _row(name, batched, unit, exact_name, exact)]


def _swap_rows(pool: ConcentratedPool, table: RangeTable, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    price, index = pool.sqrt_price_x96 / 2**96, RANGES_A_SIDE
    out = np.empty(BATCH)
    for ticks in (0, 10, 100):
        most = _crossing(pool, ticks)
        exact = _per_second(partial(pool.quote, amount_specified=most, zero_for_one=True), 1)
        amount = most * rng.uniform(0.0, 1.0, BATCH)
        batched = _per_second(partial(swap_ranges, *table, price, index, amount, out), BATCH)
        name, exact_name = f"amm.v3_quote.up_to_{ticks}_crossed", f"amm.v3_quote.exact.{ticks}_crossed"
        rows += _compared(name, "quotes/s", exact_name, exact, batched)
    return rows


def _size_rows(pool: ConcentratedPool, table: RangeTable, rng: np.random.Generator) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    out = np.empty(BATCH)
    here = RANGES_A_SIDE
    for ranges in (1, 10):
        there = here + ranges
        price_b = float(np.sqrt(table.edge[there] * table.edge[there + 1]))
        price_a = rng.uniform(table.edge[here], table.edge[here + 1], BATCH)
        walk = partial(size_ranges, table.edge, table.depth, price_a, here, price_b, there, 1.0 - FEE / 1e6, out)
        dear = pool.copy()
        dear.swap(amount_specified=10**40, zero_for_one=False, sqrt_price_limit_x96=int(price_b * 2**96))
        search = partial(size_two_pools_exact, pool, dear, token0_is_bought=True, neighbours=2)
        name, exact_name = f"amm.v3_v3_size.{ranges}_apart", f"amm.v3_v3_size.exact.{ranges}_apart"
        rows += _compared(name, "sizes/s", exact_name, _per_second(search, 1), _per_second(walk, BATCH))
    return rows


def rows() -> list[dict[str, Any]]:
    """Figures of the pools: name, value, unit, and the ratio to the exact Python model where there is one."""
    rng = np.random.default_rng(1)
    pool = concentrated_pool()
    table = concentrated_table(dict(pool.ticks), 0, 0)
    return [*_product_rows(rng), *_swap_rows(pool, table, rng), *_size_rows(pool, table, rng)]


def main() -> None:
    for row in rows():
        ratio = f"  {row['ratio']:10,.0f} x {row['ratio_to']}" if row["ratio"] else ""
        print(f"{row['name']:38s} {row['value']:15,.0f} {row['unit']}{ratio}")


if __name__ == "__main__":
    main()
