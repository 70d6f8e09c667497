"""The pump.fun curve: published constants, its laws, recorded curves, and the float64 kernels against the integers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arbgym.amm import BondingCurvePool, PoolError
from arbgym.amm.bonding_curve import (
    BPS,
    INITIAL_REAL_BASE,
    LAMPORTS_PER_SOL,
    UNITS_PER_TOKEN,
    curve_buy,
    curve_cost,
    curve_price,
    curve_sell,
)  # fmt: skip
from arbgym.market.venues import VENUES, pumpswap_fee_ppm

FEES = st.sampled_from([(0, 0), (100, 0), (95, 30), (95, 5), (93, 32), (1, 1), (2500, 2500)])
LAMPORTS = st.integers(0, 120 * LAMPORTS_PER_SOL) | st.integers(0, 10_000)


@st.composite
def curves(draw: st.DrawFn, least_bought: int = 0) -> BondingCurvePool:
    """A curve of the published shape after some buying, with some fees, not complete."""
    protocol, creator = draw(FEES)
    pool = BondingCurvePool(protocol_fee_bps=protocol, creator_fee_bps=creator)
    bought = draw(st.integers(least_bought, INITIAL_REAL_BASE - 1) | st.integers(least_bought, least_bought + 1000))
    if bought:
        pool.swap(amount_out=bought, buy=True)
    return pool


def state(pool: BondingCurvePool) -> tuple[int, ...]:
    return pool.virtual_quote, pool.virtual_base, pool.real_quote, pool.real_base


def test_the_curve_empties_at_85_sol_and_migrates_at_its_price() -> None:
    pool = BondingCurvePool()
    assert pool.price == pytest.approx(2.7959e-8, rel=1e-4)
    last = pool.swap(amount_out=INITIAL_REAL_BASE, buy=True)
    assert pool.complete
    assert last.amount1 / LAMPORTS_PER_SOL == pytest.approx(85.005, abs=1e-3)
    assert pool.virtual_quote / LAMPORTS_PER_SOL == pytest.approx(115.005, abs=1e-3)
    migrated = pool.migrate()
    assert migrated.reserve0 == 206_900_000 * UNITS_PER_TOKEN
    assert migrated.reserve1 / LAMPORTS_PER_SOL == pytest.approx(84.990, abs=1e-3)
    price = migrated.reserve1 / migrated.reserve0 * UNITS_PER_TOKEN / LAMPORTS_PER_SOL
    assert price == pytest.approx(pool.price, rel=3e-4)


def test_a_new_token_costs_what_the_published_formula_says() -> None:
    """1 SOL with 1 % of fee on top: net 990,099,009 lamports, bought with one lamport less."""
    bought = BondingCurvePool(protocol_fee_bps=100, creator_fee_bps=0).quote(amount_in=LAMPORTS_PER_SOL, buy=True)
    assert (bought.amount1, bought.fee) == (990_099_009, 9_900_991)
    assert bought.amount_out == 990_099_008 * 1_073_000_000_000_000 // (30_000_000_000 + 990_099_008)


@given(st.lists(st.integers(1, 20 * LAMPORTS_PER_SOL), max_size=30), FEES)
def test_all_buys_until_complete_pay_85_sol_before_fees(amounts: list[int], fees: tuple[int, int]) -> None:
    """Plus the rounding of each trade: two lamports, worth up to 1073 / 279.9 times as many at the end of the curve."""
    pool = BondingCurvePool(protocol_fee_bps=fees[0], creator_fee_bps=fees[1])
    net = trades = 0
    for amount in [*amounts, 200 * LAMPORTS_PER_SOL]:
        try:
            net += pool.swap(amount_in=amount, buy=True, partial=True).amount1
            trades += 1
        except PoolError as error:
            assert error.reason in ("BuyZeroAmount", "BondingCurveComplete")
    assert pool.complete
    exact = 30 * LAMPORTS_PER_SOL * INITIAL_REAL_BASE // (1_073_000_000_000_000 - INITIAL_REAL_BASE)
    assert exact < net <= exact + 8 * trades
    assert net == pool.real_quote


@given(curves(), LAMPORTS, st.booleans())
def test_k_never_falls_and_a_quote_is_what_swap_does(pool: BondingCurvePool, amount: int, buy: bool) -> None:
    before = state(pool)
    try:
        quoted = pool.quote(amount_in=amount, buy=buy)
    except PoolError as error:
        with pytest.raises(PoolError) as caught:
            pool.swap(amount_in=amount, buy=buy)
        assert caught.value.reason == error.reason
        assert state(pool) == before
        return
    assert state(pool) == before
    assert pool.swap(amount_in=amount, buy=buy) == quoted
    assert pool.virtual_quote * pool.virtual_base >= before[0] * before[1]
    assert pool.virtual_quote - pool.real_quote == before[0] - before[2]
    assert pool.virtual_base - pool.real_base == before[1] - before[3]
    paid = quoted.amount_in if buy else -quoted.amount_out
    assert paid == quoted.amount1 + quoted.fee  # whatever does not move the curve is fee
    assert quoted.fee >= pool.fee(abs(quoted.amount1))


@given(curves(), LAMPORTS)
def test_a_round_trip_loses_at_least_the_fees(pool: BondingCurvePool, amount: int) -> None:
    try:
        bought = pool.swap(amount_in=amount, buy=True)
        sold = pool.swap(amount_in=bought.amount_out, buy=False)
    except PoolError:
        assume(False)
    bps = pool.protocol_fee_bps + pool.creator_fee_bps
    assert sold.amount_out * (BPS + bps) <= amount * (BPS - bps)


@given(curves(), LAMPORTS, LAMPORTS)
def test_splitting_a_buy_never_gains(pool: BondingCurvePool, first: int, second: int) -> None:
    split = pool.copy()
    try:
        whole = pool.swap(amount_in=first + second, buy=True).amount_out
        parts = sum(split.swap(amount_in=amount, buy=True).amount_out for amount in (first, second))
    except PoolError:
        assume(False)
    assert parts <= whole


@given(curves(least_bought=10**9), st.floats(1e-3, 0.5), st.floats(1e-3, 0.5))
def test_splitting_a_sale_gains_at_most_a_lamport_of_rounded_fees(pool: BondingCurvePool, share: float, other: float) -> None:
    split, held = pool.copy(), INITIAL_REAL_BASE - pool.real_base
    first, second = int(share * held), int(other * held)
    try:
        whole = pool.swap(amount_in=first + second, buy=False).amount_out
        parts = sum(split.swap(amount_in=amount, buy=False).amount_out for amount in (first, second))
    except PoolError:
        assume(False)
    assert parts <= whole + 1


@given(curves(), st.integers(1, INITIAL_REAL_BASE))
def test_exact_output_is_paid_for(pool: BondingCurvePool, wanted: int) -> None:
    """Spending what exactly t tokens cost, two lamports and their fees more, buys at least t."""
    wanted = min(wanted, pool.real_base)
    paid = pool.quote(amount_out=wanted, buy=True)
    bought = pool.quote(amount_in=paid.amount_in + 6, buy=True, partial=True)
    assert bought.amount_out >= wanted


@given(curves(), LAMPORTS)
def test_the_sdks_estimate_is_two_lamports_away(pool: BondingCurvePool, amount: int) -> None:
    try:
        bought = pool.quote(amount_in=amount, buy=True)
    except PoolError:
        assume(False)
    net = (amount - 1) * BPS // (BPS + pool.protocol_fee_bps + pool.creator_fee_bps)
    estimate = net * pool.virtual_base // (pool.virtual_quote + net)
    assert abs(estimate - bought.amount_out) <= 2 * pool.virtual_base / pool.virtual_quote + 1


def test_what_the_curve_refuses() -> None:
    pool = BondingCurvePool()
    cases: list[tuple[dict[str, Any], str]] = [
        ({"amount_in": 0, "buy": True}, "BuyZeroAmount"),
        ({"amount_in": 2, "buy": True}, "BuyZeroAmount"),
        ({"amount_out": 0, "buy": True}, "BuyZeroAmount"),
        ({"amount_out": INITIAL_REAL_BASE + 1, "buy": True}, "NotEnoughTokensToBuy"),
        ({"amount_in": 90 * LAMPORTS_PER_SOL, "buy": True}, "NotEnoughTokensToBuy"),
        ({"amount_in": 0, "buy": False}, "SellZeroAmount"),
        ({"amount_in": 10**9, "buy": False}, "NotEnoughTokensToSell"),
        ({"amount_in": 1, "buy": False}, "TooLittleSolReceived"),
    ]
    for arguments, reason in cases:
        with pytest.raises(PoolError) as caught:
            pool.swap(**arguments)
        assert caught.value.reason == reason
    with pytest.raises(PoolError, match="BondingCurveNotComplete"):
        pool.migrate()
    rest = pool.swap(amount_in=90 * LAMPORTS_PER_SOL, buy=True, partial=True)
    assert rest.unspent + rest.amount_in == 90 * LAMPORTS_PER_SOL
    for buy in (True, False):
        with pytest.raises(PoolError, match="BondingCurveComplete"):
            pool.quote(amount_in=1000, buy=buy)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"virtual_quote": 0}, "virtual_quote"),
        ({"virtual_base": 2**64}, "virtual_base"),
        ({"real_quote": 31 * LAMPORTS_PER_SOL}, "real_quote"),
        ({"real_base": 1_073_000_000 * UNITS_PER_TOKEN}, "real_base"),
        ({"protocol_fee_bps": -1}, "protocol_fee_bps"),
        ({"protocol_fee_bps": 4000, "creator_fee_bps": 1001}, "creator_fee_bps"),
        ({"supply": 1.0}, "supply"),
    ],
)
def test_impossible_curves_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        BondingCurvePool(**arguments)


@pytest.mark.parametrize("arguments", [{}, {"amount_in": 1, "amount_out": 1}])
def test_a_trade_takes_one_amount(arguments: dict[str, int]) -> None:
    with pytest.raises(ValueError, match="exactly one"):
        BondingCurvePool().quote(buy=True, **arguments)
    with pytest.raises(ValueError, match="amount_in"):
        BondingCurvePool().quote(buy=False, amount_out=1)


@given(curves(), LAMPORTS)
def test_buy_kernel_follows_the_integers(pool: BondingCurvePool, amount: int) -> None:
    fee = (pool.protocol_fee_bps + pool.creator_fee_bps) / BPS
    try:
        exact = pool.quote(amount_in=amount, buy=True, partial=True).amount_out
    except PoolError:
        assume(False)
    quick = curve_buy(float(amount), float(pool.virtual_quote), float(pool.virtual_base), float(pool.real_base), fee)
    assert abs(quick - exact) <= 1 + 4 * pool.virtual_base / pool.virtual_quote + 4e-15 * exact


@given(curves(), st.integers(1, INITIAL_REAL_BASE))
def test_cost_and_sell_kernels_follow_the_integers(pool: BondingCurvePool, amount: int) -> None:
    fee = (pool.protocol_fee_bps + pool.creator_fee_bps) / BPS
    wanted = min(amount, pool.real_base)
    exact = pool.quote(amount_out=wanted, buy=True).amount_in
    quick = curve_cost(float(wanted), float(pool.virtual_quote), float(pool.virtual_base), fee)
    assert abs(quick - exact) <= 4 + 4e-15 * exact
    try:
        exact = pool.quote(amount_in=amount, buy=False).amount_out
    except PoolError:
        return
    quick = curve_sell(float(amount), float(pool.virtual_quote), float(pool.virtual_base), fee)
    assert abs(quick - exact) <= 4 + 4e-15 * exact


def test_recorded_curves_have_this_price(shared: Path) -> None:
    """180 tokens of June 2025; the recorder took 1,073,000,191 tokens for 1,073,000,000, which is 1.78e-7."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra 'data') reads the recorded curves")
    path = shared / "data" / "solana_pumpfun_curve_tracks" / "tracks.parquet"
    if not path.is_file():
        pytest.skip("shared/data/solana_pumpfun_curve_tracks is not there")
    table = parquet.read_table(path, columns=["virtual_sol_reserve", "price_sol"])
    virtual, price = (table.column(name).to_numpy() for name in table.column_names)
    error = np.array([curve_price(v) for v in virtual]) / price - 1.0
    assert len(error) > 20_000
    np.testing.assert_allclose(error, 191 / 1_073_000_000, rtol=1e-6)
    for v, recorded in zip(virtual[::500], price[::500], strict=True):
        lamports = round(v * LAMPORTS_PER_SOL)
        pool = BondingCurvePool()
        if lamports > pool.virtual_quote + 2:
            pool.swap(amount_in=(lamports - pool.virtual_quote) * (BPS + 125) // BPS + 2, buy=True)
        assert pool.price == pytest.approx(recorded, rel=1e-6)


def test_venues_agree_with_the_curve() -> None:
    """The curve's fee is its venue's, and the pool it migrates to pays the tier of its market cap."""
    curve = BondingCurvePool()
    assert VENUES["pump_fun"].fee_ppm == 100 * (curve.protocol_fee_bps + curve.creator_fee_bps)
    curve.swap(amount_out=INITIAL_REAL_BASE, buy=True)
    pool = curve.migrate()
    market_cap_sol = 1e9 * pool.reserve1 / pool.reserve0 * UNITS_PER_TOKEN / LAMPORTS_PER_SOL
    assert 400 < market_cap_sol < 420
    assert pumpswap_fee_ppm(market_cap_sol) == 1e6 * pool.fee[0] / pool.fee[1] == VENUES["pumpswap"].fee_ppm
    fees = [pumpswap_fee_ppm(cap) for cap in np.geomspace(1.0, 1e6, 500)]
    assert fees == sorted(fees, reverse=True)
    assert (fees[0], fees[-1]) == (12_500.0, 3_000.0)


@pytest.mark.parametrize(
    ("changed", "field"),
    [({"kind": "amm"}, "kind"), ({"chain": "mars"}, "chain"), ({"fee_ppm": 1e6}, "fee_ppm"), ({"gas_used": -1}, "gas_used")],
)
def test_impossible_venues_are_refused(changed: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        replace(VENUES["uniswap_v2"], **changed)
    with pytest.raises(ValueError, match="market_cap_sol"):
        pumpswap_fee_ppm(float("nan"))
