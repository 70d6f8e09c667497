"""Sizing of cycles: the closed form's published figures, recorded arbitrages, and the exact search."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, ConstantProductPool, get_amount_in, get_amount_out
from arbgym.amm.cycle import size_cycles
from arbgym.amm.exact_cycle import Hop, profit_upper_bound, size_cycle_exact, size_flash_swap_exact
from arbgym.amm.exact_route import size_two_pools_exact

Vectors = Callable[[str], list[dict[str, Any]]]

# Two to four hops of (reserve in, reserve out), keep 0.997: gain K/M, best size, profit, as printed
CYCLES = [
    ([(1e6, 2e6), (1.98e6, 1.01e6)], "1.014090", "3508.3351", "24.629749"),
    ([(1e6, 2.1e6), (2e6, 1e6)], "1.043709", "10594.8406", "229.070957"),
    ([(0.5e6, 1.05e6), (4e6, 2e6)], "1.043709", "8593.8950", "185.808530"),
    ([(1e6, 1.5e6), (3e6, 2.05e6), (1e6, 1e6)], "1.015803", "3135.8395", "24.680162"),
    ([(1e6, 1e6), *[(1e6, 1.01e6)] * 3], "1.017993", "2239.1655", "20.054746"),
    ([(1e6, 2.01e6), (2e6, 1e6)], "0.998979", "0.0000", "0.000000"),
]


@pytest.mark.parametrize(("hops", "gain", "amount", "profit"), CYCLES)
def test_published_cycles(hops: list[tuple[float, float]], gain: str, amount: str, profit: str) -> None:
    reserve_in, reserve_out = zip(*hops, strict=True)
    size = size_cycles(reserve_in, reserve_out, 0.997)
    assert f"{size.gain[0]:.6f}" == gain
    assert f"{size.amount_in[0]:.4f}" == amount
    assert f"{size.profit[0]:.6f}" == profit


@pytest.mark.parametrize(
    ("loan_fee", "amount", "profit"),
    [(0.0005, "10469.73", "223.8048"), (0.0009, "10369.71", "219.6369"), (0.003, "9845.60", "198.4111")],
)
def test_published_cycle_with_a_loan_fee(loan_fee: float, amount: str, profit: str) -> None:
    size = size_cycles([1e6, 2e6], [2.1e6, 1e6], 0.997, loan_fee)
    assert f"{size.amount_in[0]:.2f}" == amount
    assert f"{size.profit[0]:.4f}" == profit


def test_published_cycle_in_integers() -> None:
    hops = [Hop(10**18, 21 * 10**17), Hop(2 * 10**18, 10**18)]
    closed_form = size_cycle_exact(hops, neighbours=0)
    assert closed_form == (10594840615929895, 229070957482987)
    searched = size_cycle_exact(hops)
    assert closed_form.profit <= searched.profit <= profit_upper_bound(hops)


def test_no_reserves_are_too_large_for_the_closed_form() -> None:
    small = size_cycles([[1.0, 2.0] * 3], [[2.1, 1.0] * 3], 0.997)
    large = size_cycles([[1e150, 2e150] * 3], [[2.1e150, 1e150] * 3], 0.997)
    np.testing.assert_allclose(large.amount_in, small.amount_in * 1e150, rtol=1e-13)
    np.testing.assert_allclose(large.profit, small.profit * 1e150, rtol=1e-13)


@given(
    st.lists(st.tuples(st.floats(1e3, 1e9), st.floats(1e3, 1e9), st.floats(0.9, 1.0)), min_size=1, max_size=5),
    st.floats(0.0, 0.02),
)
def test_no_other_size_beats_the_closed_form(hops: list[tuple[float, float, float]], loan_fee: float) -> None:
    reserve_in, reserve_out, keep = (np.array(column) for column in zip(*hops, strict=True))
    size = size_cycles(reserve_in, reserve_out, keep, loan_fee)

    def profit(amount: np.ndarray) -> np.ndarray:
        out = amount
        for paid, received, kept in hops:
            out = kept * out * received / (paid + kept * out)
        return out - (1.0 + loan_fee) * amount

    grid = np.concatenate([np.geomspace(1e-3, 1e12, 400), size.amount_in[0] * np.linspace(0.5, 1.5, 101)])
    best = size.profit[0]
    rounding = 1e-12 * (grid + size.amount_in[0]) * max(size.gain[0], 1.0)
    assert np.all(profit(grid) <= best + rounding)
    assert profit(size.amount_in)[0] == pytest.approx(best, rel=1e-9, abs=1e-11 * max(size.amount_in[0], 1.0))


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        (([1.0, 2.0], [1.0], 0.997), "reserve_in"),
        (([1.0, 0.0], [1.0, 1.0], 0.997), "reserve_in"),
        (([1.0, 1.0], [1.0, np.nan], 0.997), "reserve_out"),
        (([1.0], [1.0], 1.1), "keep"),
        (([1.0], [1.0], 0.997, -0.1), "loan_fee"),
    ],
)
def test_impossible_cycles_are_refused(arguments: tuple[Any, ...], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        size_cycles(*arguments)


def test_a_hop_without_reserves_is_refused() -> None:
    with pytest.raises(ValueError, match="hops"):
        size_cycle_exact([Hop(0, 5)])
    with pytest.raises(ValueError, match="hops"):
        size_cycle_exact([])


# Recorded arbitrages


def test_flash_swaps_between_two_pairs(vectors: Vectors) -> None:
    """Within 2 units of the best known profit in at least 99 % of rows, never above the upper bound."""
    rows = vectors("arb_v2_v2")
    close = 0
    for row in rows:
        buy = Hop(int(row["ay"]), int(row["ax"]), (10_000 - int(row["keep_a"]), 10_000))
        sell = Hop(int(row["bx"]), int(row["by"]), (10_000 - int(row["keep_b"]), 10_000))
        amount, profit = size_flash_swap_exact(buy, sell)
        assert profit <= profit_upper_bound([buy, sell]) == int(row["profit_upper_bound"])
        assert (amount == 0) == (int(row["best_dx"]) == 0)
        if amount:
            assert profit == get_amount_out(amount, *sell) - get_amount_in(amount, *buy)
        close += abs(profit - int(row["best_profit"])) <= 2 or profit > int(row["best_profit"])
    assert close >= 0.99 * len(rows)


def test_routes_through_a_concentrated_pool_and_a_pair(vectors: Vectors) -> None:
    """Within 1e-9 of the best known profit, and no trade where none pays."""
    for row in vectors("arb_v3_v2"):
        ticks, nets = (_numbers(row[name]) for name in ("ticks", "liquidity_net"))
        buy = ConcentratedPool(
            sqrt_price_x96=int(row["sqrt_price_x96"]),
            tick=row["tick"],
            liquidity=int(row["liquidity"]),
            fee=row["fee"],
            tick_spacing=row["tick_spacing"],
            ticks=dict(zip(ticks, nets, strict=True)),
        )
        fee = (10_000 - int(row["v2_keep"]), 10_000)
        sell = ConstantProductPool(int(row["v2_reserve0"]), int(row["v2_reserve1"]), fee)
        amount, profit = size_two_pools_exact(buy, sell, token0_is_bought=row["x_is_token0"])
        best = int(row["best_profit"])
        assert (amount == 0) == (best == 0)
        assert profit >= best * (1 - 1e-9)


def _numbers(values: Any) -> list[int]:
    return [int(value) for value in values]


# The exact search


@given(st.integers(1, 300), st.integers(1, 300), st.integers(1, 300), st.integers(1, 300))
def test_small_flash_swaps_are_sized_as_by_trying_all(ay: int, ax: int, bx: int, by: int) -> None:
    buy, sell = Hop(ay, ax), Hop(bx, by, (25, 10_000))
    every = [get_amount_out(dx, *sell) - get_amount_in(dx, *buy) for dx in range(1, ax)]
    assert size_flash_swap_exact(buy, sell, neighbours=400).profit == max([0, *every])


@given(st.lists(st.tuples(st.integers(1, 400), st.integers(1, 400)), min_size=1, max_size=3), st.integers(0, 100))
def test_small_cycles_are_sized_as_by_trying_all(reserves: list[tuple[int, int]], loan_bps: int) -> None:
    hops = [Hop(*pair) for pair in reserves]
    loan_fee = (loan_bps, 10_000)

    def profit(amount_in: int) -> int:
        amount = amount_in
        for hop in hops:
            amount = get_amount_out(amount, *hop) if amount else 0
        return amount - amount_in - -(-amount_in * loan_bps // 10_000)

    size = size_cycle_exact(hops, loan_fee, neighbours=400)
    assert size.profit == max([0, *(profit(amount) for amount in range(1, hops[-1].reserve_out))])
    assert size.profit <= profit_upper_bound(hops, loan_fee)
    assert size.amount == 0 or profit(size.amount) == size.profit


def test_pools_that_agree_leave_nothing() -> None:
    pair = ConstantProductPool(10**24, 10**24)
    pool = ConcentratedPool(sqrt_price_x96=2**96, tick=0, liquidity=0)
    pool.mint(tick_lower=-600, tick_upper=600, liquidity=10**24)
    assert size_two_pools_exact(pair, pool, token0_is_bought=True) == (0, 0)
    assert size_two_pools_exact(pool, pair, token0_is_bought=False) == (0, 0)
    assert size_two_pools_exact(ConstantProductPool(0, 0), pool, token0_is_bought=True) == (0, 0)
