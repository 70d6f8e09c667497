"""Concentrated pool: recorded contract behaviour, its own laws, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, PoolError
from arbgym.amm.tick_math import (
    MAX_SQRT_RATIO,
    MAX_TICK,
    MIN_SQRT_RATIO,
    MIN_TICK,
    max_liquidity_per_tick,
    sqrt_price_x96_at_tick,
    tick_at_sqrt_price_x96,
)
from tests.amm.pools import concentrated_pools

Vectors = Callable[[str], list[dict[str, Any]]]
Q96 = 2**96


def _state(pool: ConcentratedPool) -> tuple[object, ...]:
    return (
        pool.sqrt_price_x96,
        pool.tick,
        pool.liquidity,
        dict(pool.ticks),
        pool.fee_growth_global0_x128,
        pool.fee_growth_global1_x128,
    )


AMOUNTS = st.integers(1, 2**100) | st.integers(1, 10_000)


# Recorded contract behaviour


def test_swaps_are_the_contracts(vectors: Vectors, v3_pools: dict[int, ConcentratedPool]) -> None:
    live = {key: pool.copy() for key, pool in v3_pools.items()}
    different = []
    for row in vectors("v3_swaps"):
        pool = live[row["pool_id"]]
        got: tuple[object, ...]
        try:
            swap = pool.swap(
                amount_specified=int(row["amount_specified"]),
                zero_for_one=row["zero_for_one"],
                sqrt_price_limit_x96=int(row["sqrt_price_limit_x96"]),
            )
            got = ("", str(swap.amount0), str(swap.amount1), swap.steps, swap.ticks_crossed)
        except PoolError as error:
            got = (error.reason, "", "", 0, 0)
        expected = tuple(row[name] for name in ("revert_reason", "amount0", "amount1", "steps", "ticks_crossed"))
        after = (int(row["sqrt_price_x96_after"]), row["tick_after"], int(row["liquidity_after"]))
        if got != expected or (pool.sqrt_price_x96, pool.tick, pool.liquidity) != after:
            different.append((row["pool_id"], row["seq"]))
    assert different == []
    for row in vectors("v3_pools"):
        pool = live[row["pool_id"]]
        assert pool.fee_growth_global0_x128 == int(row["fee_growth_global0_x128_end"])
        assert pool.fee_growth_global1_x128 == int(row["fee_growth_global1_x128_end"])


def test_positions_are_the_contracts(vectors: Vectors, v3_pools: dict[int, ConcentratedPool]) -> None:
    rebuilt = {
        key: ConcentratedPool(
            sqrt_price_x96=pool.sqrt_price_x96,
            tick=pool.tick,
            liquidity=0,
            fee=pool.fee,
            tick_spacing=pool.tick_spacing,
        )
        for key, pool in v3_pools.items()
    }
    different = []
    for row in vectors("v3_positions"):
        position = {
            "tick_lower": row["tick_lower"],
            "tick_upper": row["tick_upper"],
            "liquidity": int(row["liquidity"]),
        }
        minted = (int(row["mint_amount0"]), int(row["mint_amount1"]))
        burned = (int(row["burn_amount0"]), int(row["burn_amount1"]))
        pool = v3_pools[row["pool_id"]]
        if pool.mint_amounts(**position) != minted or pool.burn_amounts(**position) != burned:
            different.append((row["pool_id"], row["seq"]))
        assert rebuilt[row["pool_id"]].mint(**position) == minted
    assert different == []
    for key, pool in v3_pools.items():
        assert dict(rebuilt[key].ticks) == dict(pool.ticks)
        assert dict(rebuilt[key].liquidity_gross) == dict(pool.liquidity_gross)
        assert rebuilt[key].liquidity == pool.liquidity


def test_flash_fees_are_the_contracts(vectors: Vectors, v3_pools: dict[int, ConcentratedPool]) -> None:
    for row in vectors("v3_flash_fees"):
        pool = ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=1, fee=row["fee"], ticks={})
        assert pool.flash_fee(int(row["amount"])) == int(row["least_fee"])
        assert v3_pools[row["pool_id"]].fee == row["fee"]


# Tick mathematics


@pytest.mark.parametrize(
    ("tick", "price"),
    [(MIN_TICK, MIN_SQRT_RATIO), (MAX_TICK, MAX_SQRT_RATIO), (0, Q96), (-1, 79224201403219477170569942574)],
)
def test_prices_of_known_ticks(tick: int, price: int) -> None:
    assert sqrt_price_x96_at_tick(tick) == price


@given(st.integers(MIN_TICK, MAX_TICK - 1))
def test_a_ticks_price_belongs_to_it(tick: int) -> None:
    price = sqrt_price_x96_at_tick(tick)
    assert tick_at_sqrt_price_x96(price) == tick
    if tick > MIN_TICK:
        assert tick_at_sqrt_price_x96(price - 1) == tick - 1
    assert tick_at_sqrt_price_x96(sqrt_price_x96_at_tick(tick + 1) - 1) == tick


@given(st.integers(MIN_SQRT_RATIO, MAX_SQRT_RATIO - 1) | st.integers(MIN_SQRT_RATIO, 2**70))
def test_the_tick_of_any_price(price: int) -> None:
    tick = tick_at_sqrt_price_x96(price)
    assert sqrt_price_x96_at_tick(tick) <= price < sqrt_price_x96_at_tick(tick + 1)


def test_ticks_and_prices_off_range_revert() -> None:
    with pytest.raises(PoolError, match="T"):
        sqrt_price_x96_at_tick(MAX_TICK + 1)
    for price in (MIN_SQRT_RATIO - 1, MAX_SQRT_RATIO):
        with pytest.raises(PoolError, match="R"):
            tick_at_sqrt_price_x96(price)


# Swaps


def _full_range(liquidity: int, spacing: int = 1, fee: int = 3000) -> ConcentratedPool:
    pool = ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=0, fee=fee, tick_spacing=spacing)
    edge = MAX_TICK // spacing * spacing
    pool.mint(tick_lower=-edge, tick_upper=edge, liquidity=liquidity)
    return pool


@pytest.mark.parametrize(
    ("zero_for_one", "tick", "steps"),
    # words of 256 ticks: up they end at 255, 511, 767; down at 0 (where the price stands), -256, -512, -768
    [
        (False, 254, 1),
        (False, 255, 1),
        (False, 256, 2),
        (False, 1000, 4),
        (True, -1, 2),
        (True, -256, 2),
        (True, -1000, 5),
    ],
)
def test_a_step_ends_at_each_word_of_the_bitmap(zero_for_one: bool, tick: int, steps: int) -> None:
    swap = _full_range(10**18).quote(
        amount_specified=10**30, zero_for_one=zero_for_one, sqrt_price_limit_x96=sqrt_price_x96_at_tick(tick)
    )
    assert (swap.steps, swap.ticks_crossed) == (steps, 0)


def test_landing_on_a_tick_from_above_leaves_the_tick_below() -> None:
    pool = _full_range(10**18, spacing=60)
    pool.mint(tick_lower=-60, tick_upper=60, liquidity=5)
    down = pool.quote(amount_specified=10**30, zero_for_one=True, sqrt_price_limit_x96=sqrt_price_x96_at_tick(-60))
    assert (down.tick, down.liquidity, down.ticks_crossed) == (-61, 10**18, 1)
    up = pool.quote(amount_specified=10**30, zero_for_one=False, sqrt_price_limit_x96=sqrt_price_x96_at_tick(60))
    assert (up.tick, up.liquidity, up.ticks_crossed) == (60, 10**18, 1)
    between = pool.quote(amount_specified=10**30, zero_for_one=True, sqrt_price_limit_x96=sqrt_price_x96_at_tick(-59))
    assert (between.tick, between.ticks_crossed) == (-59, 0)


def test_a_tick_of_net_zero_is_still_crossed() -> None:
    pool = _full_range(10**18, spacing=60)
    pool.mint(tick_lower=0, tick_upper=60, liquidity=10**15)
    pool.mint(tick_lower=60, tick_upper=120, liquidity=10**15)
    assert pool.ticks[60] == 0
    swap = pool.quote(amount_specified=10**30, zero_for_one=False, sqrt_price_limit_x96=sqrt_price_x96_at_tick(90))
    assert swap.ticks_crossed == 1


def test_prices_jump_for_free_where_there_is_no_liquidity() -> None:
    pool = ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=0, tick_spacing=60)
    pool.mint(tick_lower=6000, tick_upper=12000, liquidity=10**18)
    swap = pool.quote(amount_specified=1000, zero_for_one=False)
    assert swap.sqrt_price_x96 >= sqrt_price_x96_at_tick(6000)
    assert 0 < swap.amount_out < 600
    emptied = pool.swap(amount_specified=-(10**30), zero_for_one=False)
    assert emptied.amount_out < 10**30
    assert emptied.unspent == 0
    assert (pool.sqrt_price_x96, pool.liquidity) == (MAX_SQRT_RATIO - 1, 0)


def test_running_out_of_liquidity_leaves_input_unspent() -> None:
    pool = ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=0, tick_spacing=60)
    pool.mint(tick_lower=-60, tick_upper=60, liquidity=10**18)
    swap = pool.quote(amount_specified=10**20, zero_for_one=True)
    assert swap.amount_in + swap.unspent == 10**20
    assert swap.unspent > 0
    assert swap.sqrt_price_x96 == MIN_SQRT_RATIO + 1


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"amount_specified": 0, "zero_for_one": True, "sqrt_price_limit_x96": 0}, "AS"),
        ({"amount_specified": 1, "zero_for_one": True, "sqrt_price_limit_x96": Q96}, "SPL"),
        ({"amount_specified": 1, "zero_for_one": False, "sqrt_price_limit_x96": Q96}, "SPL"),
        ({"amount_specified": 1, "zero_for_one": True, "sqrt_price_limit_x96": MIN_SQRT_RATIO}, "SPL"),
        ({"amount_specified": -1, "zero_for_one": False, "sqrt_price_limit_x96": MAX_SQRT_RATIO}, "SPL"),
    ],
)
def test_swap_reverts(arguments: dict[str, Any], reason: str) -> None:
    pool = _full_range(10**18)
    before = _state(pool)
    with pytest.raises(PoolError) as caught:
        pool.swap(**arguments)
    assert caught.value.reason == reason
    assert _state(pool) == before


@given(concentrated_pools(), AMOUNTS, st.booleans(), st.booleans())
def test_quote_is_pure_and_swap_applies_it(pool: ConcentratedPool, amount: int, exact_in: bool, zero_for_one: bool) -> None:
    specified = amount if exact_in else -amount
    before = _state(pool)
    quoted = pool.quote(amount_specified=specified, zero_for_one=zero_for_one)
    assert _state(pool) == before
    assert pool.swap(amount_specified=specified, zero_for_one=zero_for_one) == quoted
    assert (pool.sqrt_price_x96, pool.tick, pool.liquidity) == (
        quoted.sqrt_price_x96,
        quoted.tick,
        quoted.liquidity,
    )
    paid = (quoted.amount0, quoted.amount1) if zero_for_one else (quoted.amount1, quoted.amount0)
    assert paid == (quoted.amount_in, -quoted.amount_out)
    assert quoted.unspent == (amount - quoted.amount_in if exact_in else 0)


@given(concentrated_pools(), AMOUNTS, st.booleans())
def test_a_round_trip_loses_at_least_the_fee(pool: ConcentratedPool, amount: int, zero_for_one: bool) -> None:
    there = pool.swap(amount_specified=amount, zero_for_one=zero_for_one)
    assume(there.amount_out > 0)
    back = pool.swap(amount_specified=there.amount_out, zero_for_one=not zero_for_one)
    assert back.amount_out <= there.amount_in - there.fee


@given(concentrated_pools(), AMOUNTS, st.booleans())
def test_exact_output_and_exact_input_agree(pool: ConcentratedPool, amount: int, zero_for_one: bool) -> None:
    spent = pool.quote(amount_specified=amount, zero_for_one=zero_for_one)
    assume(spent.amount_out > 0)
    wanted = pool.quote(amount_specified=-spent.amount_out, zero_for_one=zero_for_one)
    assert wanted.amount_out == spent.amount_out
    # price and fee round the pool's way, each up to a unit; and a step that ends within one output unit of its target goes on to
    # the target, which costs up to that unit's price
    price = (wanted.sqrt_price_x96 / 2**96) ** 2
    unit = (1.0 / price if zero_for_one else price) * 1e6 / (1e6 - pool.fee)
    if wanted.steps == spent.steps:  # beyond a range's end the next unit may cost anything
        assert wanted.amount_in <= spent.amount_in + 3 + 1.001 * unit
    again = pool.quote(amount_specified=wanted.amount_in, zero_for_one=zero_for_one)
    assert again.amount_out >= spent.amount_out


@given(concentrated_pools(), st.integers(2, 2**90), st.floats(0.01, 0.99), st.booleans())
def test_splitting_never_pays(pool: ConcentratedPool, amount: int, share: float, zero_for_one: bool) -> None:
    whole = pool.quote(amount_specified=amount, zero_for_one=zero_for_one)
    assume(whole.unspent == 0)
    first = max(1, min(amount - 1, int(amount * share)))
    parts = pool.swap(amount_specified=first, zero_for_one=zero_for_one).amount_out
    parts += pool.swap(amount_specified=amount - first, zero_for_one=zero_for_one).amount_out
    assert parts <= whole.amount_out


@given(concentrated_pools(), AMOUNTS, st.booleans())
def test_protocol_and_liquidity_providers_share_the_fee(pool: ConcentratedPool, amount: int, zero_for_one: bool) -> None:
    shared = ConcentratedPool(
        sqrt_price_x96=pool.sqrt_price_x96,
        tick=pool.tick,
        liquidity=pool.liquidity,
        fee=pool.fee,
        tick_spacing=pool.tick_spacing,
        ticks=pool.ticks,
        fee_protocol=(4, 4),
    )
    swap = shared.swap(amount_specified=amount, zero_for_one=zero_for_one)
    assert swap == pool.swap(amount_specified=amount, zero_for_one=zero_for_one)
    assert shared.protocol_fees0 + shared.protocol_fees1 <= swap.fee // 4
    assert shared.fee_growth_global0_x128 <= pool.fee_growth_global0_x128
    assert shared.fee_growth_global1_x128 <= pool.fee_growth_global1_x128


# Positions


@given(concentrated_pools(), st.integers(-500, 500), st.integers(1, 500), st.integers(1, 2**90))
def test_minting_costs_at_least_what_burning_gives(pool: ConcentratedPool, offset: int, width: int, liquidity: int) -> None:
    low = (pool.tick // pool.tick_spacing + offset) * pool.tick_spacing
    position = {"tick_lower": low, "tick_upper": low + width * pool.tick_spacing, "liquidity": liquidity}
    before = _state(pool)
    paid = pool.mint(**position)
    received = pool.burn(**position)
    assert _state(pool) == before
    assert all(0 <= cost - gain <= 1 for cost, gain in zip(paid, received, strict=True))
    assert sum(paid) > 0


@pytest.mark.parametrize(
    ("low", "high", "liquidity", "reason"),
    [
        (60, 60, 1, "TLU"),
        (120, 60, 1, "TLU"),
        (-887280, 60, 1, "TLM"),
        (0, 887280, 1, "TUM"),
        (-61, 60, 1, ""),
        (-60, 60, 0, ""),
        (-60, 60, 2**127, ""),
        (-60, 60, max_liquidity_per_tick(60) + 1, "LO"),
    ],
)
def test_mint_reverts(low: int, high: int, liquidity: int, reason: str) -> None:
    pool = _full_range(10**18, spacing=60)
    before = _state(pool)
    with pytest.raises(PoolError) as caught:
        pool.mint(tick_lower=low, tick_upper=high, liquidity=liquidity)
    assert caught.value.reason == reason
    assert _state(pool) == before


def test_burning_more_than_there_is_reverts() -> None:
    pool = _full_range(10**18, spacing=60)
    pool.mint(tick_lower=-60, tick_upper=60, liquidity=5)
    with pytest.raises(PoolError, match="LS"):
        pool.burn(tick_lower=-60, tick_upper=60, liquidity=6)


def test_flash_needs_liquidity() -> None:
    with pytest.raises(PoolError, match="L"):
        ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=0).flash_fee(1)


# Construction

GOOD: dict[str, Any] = {"sqrt_price_x96": Q96 + 5, "tick": 0, "liquidity": 10, "fee": 3000, "tick_spacing": 60}


@pytest.mark.parametrize(
    ("change", "field"),
    [
        ({"sqrt_price_x96": 2**160}, "sqrt_price_x96"),
        ({"sqrt_price_x96": MIN_SQRT_RATIO - 1, "tick": MIN_TICK}, "sqrt_price_x96"),
        ({"sqrt_price_x96": float(Q96)}, "sqrt_price_x96"),
        ({"tick": 1}, "tick"),
        ({"tick": -1}, "tick"),
        ({"sqrt_price_x96": sqrt_price_x96_at_tick(61), "tick": 60}, "tick"),
        ({"tick": MAX_TICK}, "tick"),
        ({"liquidity": 2**128}, "liquidity"),
        ({"liquidity": -1}, "liquidity"),
        ({"fee": 1_000_000}, "fee"),
        ({"fee": -1}, "fee"),
        ({"tick_spacing": 0}, "tick_spacing"),
        ({"tick_spacing": 16384}, "tick_spacing"),
        ({"ticks": {61: 0}}, "ticks"),
        ({"ticks": {887280: 0}}, "ticks"),
        ({"ticks": {60: 2**127}}, "ticks"),
        ({"ticks": {60: -11}}, "ticks"),
        ({"ticks": {-60: 11}}, "ticks"),
        ({"ticks": {60: 2**127 - 1, 120: 2**127 - 1}}, "ticks"),
        ({"ticks": {60: -5}, "liquidity_gross": {60: 4}}, "liquidity_gross"),
        ({"ticks": {60: -5}, "liquidity_gross": {120: 5}}, "liquidity_gross"),
        ({"fee_protocol": (3, 0)}, "fee_protocol"),
        ({"fee_growth_global0_x128": 2**256}, "fee_growth_global0_x128"),
    ],
)
def test_impossible_pools_are_refused(change: dict[str, Any], field: str) -> None:
    ConcentratedPool(**GOOD)
    with pytest.raises(ValueError, match=field):
        ConcentratedPool(**(GOOD | change))


def test_a_price_that_came_down_onto_a_tick_may_belong_to_the_one_below() -> None:
    for tick in (59, 60):
        pool = ConcentratedPool(**(GOOD | {"sqrt_price_x96": sqrt_price_x96_at_tick(60), "tick": tick}))
        assert pool.tick == tick


@pytest.mark.parametrize("amount", [2**255, -(2**255) - 1, 1.0])
def test_impossible_amounts_are_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="amount_specified"):
        _full_range(10**18).quote(amount_specified=amount, zero_for_one=True)


def test_numpy_integers_do_not_overflow() -> None:
    plain, numpy = _full_range(2**60, spacing=60), _full_range(np.int64(2**60), spacing=60)
    for pool, integer in ((plain, int), (numpy, np.int64)):
        pool.mint(tick_lower=integer(-60), tick_upper=integer(60), liquidity=integer(2**62))
        pool.swap(amount_specified=integer(2**62), zero_for_one=True)
    assert _state(plain) == _state(numpy)
    assert type(numpy.liquidity) is int


def test_the_pool_keeps_its_own_ticks() -> None:
    ticks = {-60: 7, 60: -7}
    pool = ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=7, ticks=ticks)
    other = pool.copy()
    ticks.clear()
    other.burn(tick_lower=-60, tick_upper=60, liquidity=7)
    assert dict(pool.ticks) == {-60: 7, 60: -7}
    assert dict(other.ticks) == {}


@settings(max_examples=20)
@given(concentrated_pools())
def test_a_pool_can_be_rebuilt_from_what_it_shows(pool: ConcentratedPool) -> None:
    again = ConcentratedPool(
        sqrt_price_x96=pool.sqrt_price_x96,
        tick=pool.tick,
        liquidity=pool.liquidity,
        fee=pool.fee,
        tick_spacing=pool.tick_spacing,
        ticks=pool.ticks,
        liquidity_gross=pool.liquidity_gross,
    )
    assert _state(again) == _state(pool)


@given(concentrated_pools(), AMOUNTS, st.booleans())
def test_a_moved_pool_is_the_swapped_one_and_the_first_stays(pool: ConcentratedPool, amount: int, zero_for_one: bool) -> None:
    before, swapped = _state(pool), pool.copy()
    end = swapped.swap(amount_specified=amount, zero_for_one=zero_for_one)
    moved = pool.moved(sqrt_price_x96=end.sqrt_price_x96, tick=end.tick, liquidity=end.liquidity)
    assert _state(moved)[:4] == _state(swapped)[:4] and _state(pool) == before
    assert pool.liquidity_at(end.tick) == end.liquidity and moved.liquidity_at(pool.tick) == pool.liquidity


@given(concentrated_pools(), st.integers(-300, 300), st.integers(1, 300), st.integers(1, 2**90))
def test_changed_ticks_are_a_mint_and_its_burn(pool: ConcentratedPool, offset: int, width: int, liquidity: int) -> None:
    before, minted = _state(pool), pool.copy()
    low = (pool.tick // pool.tick_spacing + offset) * pool.tick_spacing
    high = low + width * pool.tick_spacing
    assume(low >= -MAX_TICK and high <= MAX_TICK)
    minted.mint(tick_lower=low, tick_upper=high, liquidity=liquidity)
    assert _state(pool) == before, "a copy's mint shows in the pool it was copied from"
    ticks = {tick: (minted.ticks[tick], minted.liquidity_gross[tick]) for tick in (low, high)}
    changed = pool.with_ticks(ticks, minted.liquidity)
    assert _state(changed) == _state(minted) and changed.liquidity_gross == minted.liquidity_gross
    was = {tick: (pool.ticks.get(tick, 0), pool.liquidity_gross.get(tick, 0)) for tick in (low, high)}
    assert _state(changed.with_ticks(was, pool.liquidity)) == _state(pool) == before


@pytest.mark.parametrize(
    ("ticks", "field"),
    [
        ({7: (1, 1)}, "tick_spacing"),
        ({60: (2, 1)}, "liquidity_gross"),
        ({60: (1, 0)}, "liquidity_gross"),
        ({887280: (1, 1)}, "ticks"),
    ],
)
def test_impossible_ticks_are_refused(ticks: dict[int, tuple[int, int]], field: str) -> None:
    pool = ConcentratedPool(sqrt_price_x96=Q96, tick=0, liquidity=0)
    with pytest.raises(ValueError, match=field):
        pool.with_ticks(ticks, 0)
    with pytest.raises(ValueError, match="tick: 5 does not belong"):
        pool.moved(sqrt_price_x96=Q96, tick=5, liquidity=0)
