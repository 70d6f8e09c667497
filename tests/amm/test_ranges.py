"""Float64 kernels against the exact pools, in the form |float - exact| <= U + r * exact.

U is in raw units and r a fraction, both stated per family. A step of the contract's loop rounds its output down and its
input and fee up, one unit each, and an input unit is worth at most the starting price in output units.
"""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, ConstantProductPool, PoolError, get_amount_in
from arbgym.amm.cycle import amount_in_float, amount_out_float, amounts_out, size_two_pools
from arbgym.amm.exact_route import size_two_pools_exact
from arbgym.amm.ranges import (
    RangeTable,
    buy_base,
    concentrated_table,
    constant_product_table,
    find_range,
    move_to,
    sell_base,
    table_from_edges,
)
from arbgym.amm.route import cycle_edge, size_cycle
from tests.amm.pools import concentrated_pools

R_PRODUCT = 2e-15  # constant product
R_RANGES = 1e-12  # concentrated liquidity
Q96 = 2.0**96

Placed = tuple[RangeTable, float, float, int]  # table, scale, square-root price, range


def _place(pool: ConstantProductPool | ConcentratedPool) -> Placed:
    """An exact pool as the kernels hold it, in raw units with token0 as the base."""
    if isinstance(pool, ConstantProductPool):
        scale = math.sqrt(pool.reserve0) * math.sqrt(pool.reserve1)
        return constant_product_table(), scale, math.sqrt(pool.reserve1 / pool.reserve0), 0
    table = concentrated_table(dict(pool.ticks), 0, 0)
    price = pool.sqrt_price_x96 / Q96
    return table, 1.0, price, find_range(table.edge, table.depth.size, price)


def _keep(pool: ConstantProductPool | ConcentratedPool) -> float:
    if isinstance(pool, ConstantProductPool):
        return 1.0 - pool.fee[0] / pool.fee[1]
    return 1.0 - pool.fee / 1e6


def _swap(pool: ConstantProductPool | ConcentratedPool, amount: int, zero_for_one: bool) -> tuple[float, ...]:
    (edge, depth, quote_below, base_above), scale, price, index = _place(pool)
    kernel = sell_base if zero_for_one else buy_base
    net = amount * _keep(pool)
    return kernel(edge, depth, quote_below, base_above, depth.size, scale, price, index, net)


reserves = st.integers(1, 2**112 - 1) | st.integers(1, 10**6)
product_pools = st.builds(ConstantProductPool, reserves, reserves, st.sampled_from([(3, 1000), (2, 1000), (25, 10000), (0, 1)]))


@given(product_pools, st.integers(1, 2**111) | st.integers(1, 10**6), st.booleans())
def test_constant_product_output(pool: ConstantProductPool, amount: int, zero_for_one: bool) -> None:
    """U = 1 (the floor), r = 2e-15."""
    try:
        exact = pool.quote(amount_in=amount, zero_for_one=zero_for_one).amount_out
    except PoolError as error:
        assume("OVERFLOW" not in error.reason)
        exact = 0
    sides = (pool.reserve0, pool.reserve1) if zero_for_one else (pool.reserve1, pool.reserve0)
    tolerance = 1 + R_PRODUCT * exact
    assert abs(amount_out_float(float(amount), float(sides[0]), float(sides[1]), _keep(pool)) - exact) <= tolerance
    assert abs(_swap(pool, amount, zero_for_one)[0] - exact) <= 1 + 2 * R_PRODUCT * exact


@given(reserves, reserves, st.floats(0.0, 0.99))
def test_constant_product_input(reserve_in: int, reserve_out: int, share: float) -> None:
    """U = 1 (the router's floor + 1), r = 2e-15 over the share of the reserve that is left."""
    wanted = int(reserve_out * share)
    assume(wanted > 0)
    exact = get_amount_in(wanted, reserve_in, reserve_out)
    estimate = amount_in_float(float(wanted), float(reserve_in), float(reserve_out), 0.997)
    assert abs(estimate - exact) <= 1 + R_PRODUCT * exact * reserve_out / (reserve_out - wanted)


def test_batch_of_outputs_is_the_scalar_kernel() -> None:
    rng = np.random.default_rng(1)
    amount, reserve_in, reserve_out, keep = rng.uniform(1.0, 2.0, (4, 100))
    out = np.empty(100)
    amounts_out(amount, reserve_in, reserve_out, keep, out)
    assert out.tolist() == [amount_out_float(*row) for row in zip(amount, reserve_in, reserve_out, keep, strict=True)]


@given(concentrated_pools(), st.integers(1, 2**100) | st.integers(1, 10**6), st.booleans())
def test_concentrated_output(pool: ConcentratedPool, amount: int, zero_for_one: bool) -> None:
    """U = 2 + 3 * price per step of the contract's loop + 2^-50 of what all ranges hold, r = 1e-12.

    Differences of prefix sums lose what is small beside the whole. Liquidity up to 2^83, ticks within +-300,000.
    """
    assume(min(pool.ticks) <= pool.tick < max(pool.ticks))
    exact = pool.quote(amount_specified=amount, zero_for_one=zero_for_one)
    amount_out, unspent, sqrt_price, _ = _swap(pool, amount, zero_for_one)
    table = _place(pool)[0]
    holds = (float(table.base_above[0]), float(table.quote_below[-1]))
    lost_in, lost_out = (2.0**-50 * held for held in (holds if zero_for_one else holds[::-1]))
    ratio = (pool.sqrt_price_x96 / Q96) ** (2 if zero_for_one else -2)
    rounding = exact.steps * (2 + 3 * ratio) + lost_out + ratio * lost_in
    assert abs(amount_out - exact.amount_out) <= rounding + R_RANGES * exact.amount_out
    paid = amount - unspent / _keep(pool)
    assert abs(paid - exact.amount_in) <= 3 * exact.steps + lost_in + R_RANGES * amount
    if exact.unspent == 0 and exact.liquidity > 2**60:
        assert sqrt_price * Q96 == pytest.approx(exact.sqrt_price_x96, rel=1e-9)


@given(concentrated_pools(in_range=True), st.floats(-0.02, 0.02))
def test_moving_to_a_price_is_the_swap_that_ends_there(pool: ConcentratedPool, change: float) -> None:
    (edge, depth, _, _), scale, price, index = _place(pool)
    target = min(max(price * (1.0 + change), edge[0]), edge[-1])
    assume(abs(target / price - 1.0) > 1e-9)
    base, quote, reached, landed = move_to(edge, depth, depth.size, scale, price, index, target)
    zero_for_one = target < price
    exact = pool.quote(amount_specified=2**200, zero_for_one=zero_for_one, sqrt_price_limit_x96=int(target * Q96))
    assert reached == target
    assert edge[landed] <= target <= edge[landed + 1]
    grid = depth.max() / Q96 * (1.0 + Q96 / exact.sqrt_price_x96) ** 2  # what one unit of the price moves
    slack = exact.steps + 2 + 2.0**50 * grid
    net_in = exact.amount_in - exact.fee
    out = exact.amount_out
    for moved, amount in ((base, net_in if zero_for_one else -out), (quote, -out if zero_for_one else net_in)):
        assert abs(moved - amount) <= slack + R_RANGES * abs(amount) / abs(target / price - 1.0)


def test_ranges_are_found_by_binary_search() -> None:
    edge = np.array([1.0, 2.0, 3.0, 4.0])
    assert [find_range(edge, 3, price) for price in (0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 9.0)] == [0, 0, 0, 1, 2, 2, 2]


@pytest.mark.parametrize(
    ("edge", "depth"),
    [([1.0, 1.0], [1.0]), ([2.0, 1.0], [1.0]), ([-1.0, 1.0], [1.0]), ([1.0, 2.0], [-1.0]), ([1.0, 2.0], [1.0, 1.0])],
)
def test_impossible_tables_are_refused(edge: list[float], depth: list[float]) -> None:
    with pytest.raises(ValueError, match=r"edge|depth"):
        table_from_edges(np.array(edge), np.array(depth))


@st.composite
def crossed_pools(draw: st.DrawFn) -> tuple[ConstantProductPool | ConcentratedPool, ...]:
    """Two pools of either kind whose prices differ by up to 12 %."""
    tick = draw(st.integers(-200_000, 200_000))
    pools: list[ConstantProductPool | ConcentratedPool] = []
    for _ in range(2):
        if draw(st.booleans()):
            pools.append(draw(concentrated_pools(around=tick, in_range=True, most_liquidity=2**90)))
        else:
            price = 1.0001 ** (tick + draw(st.integers(-600, 600)))
            liquidity = draw(st.integers(2**60, 2**90))
            pools.append(ConstantProductPool(int(liquidity / math.sqrt(price)), int(liquidity * math.sqrt(price))))
    return pools[0], pools[1]


def _size(
    buy: ConstantProductPool | ConcentratedPool, sell: ConstantProductPool | ConcentratedPool, loan_fee: float = 0.0
) -> tuple[float, float, float, int]:
    table_a, *at_a = _place(buy)
    table_b, *at_b = _place(sell)
    return size_cycle(
        table_a.edge, table_a.depth, table_a.depth.size, *at_a, _keep(buy),
        table_b.edge, table_b.depth, table_b.depth.size, *at_b, _keep(sell), loan_fee,
    )  # fmt: skip


def _exact_profit(
    buy: ConstantProductPool | ConcentratedPool, sell: ConstantProductPool | ConcentratedPool, base: int
) -> tuple[int, int, int]:
    """(cost, revenue, steps) of a cycle of ``base``."""
    if isinstance(buy, ConcentratedPool):
        bought = buy.quote(amount_specified=-base, zero_for_one=False)
    else:
        bought = buy.quote(amount_out=base, zero_for_one=False)
    if isinstance(sell, ConcentratedPool):
        sold = sell.quote(amount_specified=base, zero_for_one=True)
    else:
        sold = sell.quote(amount_in=base, zero_for_one=True)
    return bought.amount_in, sold.amount_out, bought.steps + sold.steps


@given(crossed_pools())
def test_the_walk_finds_the_exact_pools_best_size(pools: tuple[ConstantProductPool | ConcentratedPool, ...]) -> None:
    """Exact profit at the walk's size is the exact best less U = 3 + 3 * price per step and r = 1e-12 of notional."""
    buy, sell = pools
    base, quote_in, quote_out, _ = _size(buy, sell)
    best = size_two_pools_exact(buy, sell, token0_is_bought=True, neighbours=2)
    price = max(_place(pool)[2] ** 2 for pool in pools)
    if base < 1.0:
        assert best.profit <= 6 * (1 + price)
        return
    cost, revenue, steps = _exact_profit(buy, sell, int(base))
    slack = steps * 3 * (1 + price)
    assert revenue - cost >= best.profit - slack - R_RANGES * cost
    assert abs(quote_in - cost) <= slack + R_RANGES * cost
    assert abs(quote_out - revenue) <= slack + R_RANGES * revenue


@given(crossed_pools(), st.floats(0.0, 0.01))
def test_a_cycle_pays_where_the_edge_says_so(pools: tuple[ConstantProductPool | ConcentratedPool, ...], loan_fee: float) -> None:
    buy, sell = pools
    edge = cycle_edge(_place(buy)[2], _keep(buy), _place(sell)[2], _keep(sell))
    assume(abs(edge - loan_fee) > 1e-12)
    base, quote_in, quote_out, _ = _size(buy, sell, loan_fee)
    profit = quote_out - (1.0 + loan_fee) * quote_in
    assert (base > 0.0) == (edge > loan_fee)
    assert profit >= -1e-12 * quote_in


@given(st.floats(1e3, 1e12), st.floats(1e3, 1e12), st.floats(0.5, 2.0), st.floats(1e3, 1e12), st.floats(0.0, 0.01))
def test_the_walk_over_two_product_pools_is_the_closed_form(
    base_a: float, quote_a: float, gap: float, base_b: float, loan_fee: float
) -> None:
    quote_b = base_b * quote_a / base_a * gap
    table = constant_product_table()
    arguments: list[object] = []
    for base, quote in ((base_a, quote_a), (base_b, quote_b)):
        arguments += [table.edge, table.depth, 1, math.sqrt(base * quote), math.sqrt(quote / base), 0, 0.997]
    _, quote_in, quote_out, _ = size_cycle(*arguments, loan_fee)
    amount, profit = size_two_pools(quote_a, base_a, 0.997, base_b, quote_b, 0.997, loan_fee)
    margin = max(gap * 0.997**2 - 1.0 - loan_fee, 1e-9)
    assert quote_in == pytest.approx(amount, rel=1e-13 / margin, abs=1e-9)
    assert quote_out - (1.0 + loan_fee) * quote_in == pytest.approx(profit, rel=1e-12 / margin, abs=1e-9)
