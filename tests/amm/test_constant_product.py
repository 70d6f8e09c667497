"""Constant-product pool: recorded contract behaviour, its own laws, and what it refuses."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from arbgym.amm import ConstantProductPool, PoolError, get_amount_in, get_amount_out, quote_liquidity

Vectors = Callable[[str], list[dict[str, Any]]]

FEES = st.sampled_from([(3, 1000), (2, 1000), (25, 10000), (0, 1), (1, 100)])
RESERVES = st.integers(1, 2**112 - 1) | st.integers(1, 10_000)
AMOUNTS = st.integers(0, 2**112 - 1) | st.integers(0, 10_000)
POOLS = st.builds(ConstantProductPool, RESERVES, RESERVES, FEES)


def _pool(row: dict[str, Any], suffix: str = "") -> ConstantProductPool:
    name = "UniswapV2" if row["kind"] == "uniswap_v2" else "Pancake"
    fee = (row["fee_num"], row["fee_den"])
    return ConstantProductPool(int(row["reserve0" + suffix]), int(row["reserve1" + suffix]), fee, name)


def test_swaps_are_the_pairs(vectors: Vectors) -> None:
    pools: dict[int, ConstantProductPool] = {}
    different = []
    for row in vectors("v2_swaps"):
        pool = pools.setdefault(row["pool_id"], _pool(row, "_before"))
        amount_out, reason = 0, ""
        try:
            amount_out = pool.swap(amount_in=int(row["amount_in"]), zero_for_one=row["zero_for_one"]).amount_out
        except PoolError as error:
            reason = error.reason
        after = (int(row["reserve0_after"]), int(row["reserve1_after"]))
        expected = (int(row["amount_out"]), row["revert_reason"])
        if (amount_out, reason) != expected or (pool.reserve0, pool.reserve1) != after:
            different.append((row["pool_id"], row["seq"]))
    assert different == []


def test_one_more_unit_is_refused_as_by_the_pair(vectors: Vectors) -> None:
    for row in vectors("v2_swaps")[::10]:
        pool = _pool(row, "_before")
        paid, taken = int(row["amount_in"]), int(row["amount_out"]) + 1
        with pytest.raises(PoolError) as caught:
            if row["zero_for_one"]:
                pool.flash(out0=0, out1=taken, paid0=paid, paid1=0)
            else:
                pool.flash(out0=taken, out1=0, paid0=0, paid1=paid)
        assert caught.value.reason == row["plus_one_reason"]


def test_router_quotes_are_the_routers(vectors: Vectors) -> None:
    functions = {"getAmountOut": get_amount_out, "getAmountIn": get_amount_in, "quote": quote_liquidity}
    different = []
    for row in vectors("v2_router_quotes"):
        result, reason = "", ""
        try:
            result = str(functions[row["function"]](int(row["amount"]), int(row["reserve_in"]), int(row["reserve_out"])))
        except PoolError as error:
            reason = error.reason
        if (result, reason) != (row["result"], row["revert_reason"]):
            different.append(row)
    assert different == []


def test_least_flash_payments_are_the_pairs(vectors: Vectors) -> None:
    different = []
    for row in vectors("v2_flash_min_repay"):
        pool = _pool(row)
        out = {"out0": int(row["out0"]), "out1": int(row["out1"])}
        payment = {"paid0": int(row["repay0"]), "paid1": int(row["repay1"])}
        solved, given_side = f"paid{row['solved_side']}", f"paid{1 - row['solved_side']}"
        least = pool.least_payment(**out, **{given_side: payment[given_side]})
        reason = ""
        if row["minus_one_reason"]:
            with pytest.raises(PoolError) as caught:
                pool.flash(**out, **(payment | {solved: least - 1}))
            reason = caught.value.reason
        pool.flash(**out, **payment)
        if (least, reason) != (payment[solved], row["minus_one_reason"]):
            different.append(row)
    assert different == []


@pytest.mark.parametrize(
    ("function", "arguments", "reason"),
    [
        (get_amount_out, (0, 0, 0), "UniswapV2Library: INSUFFICIENT_INPUT_AMOUNT"),
        (get_amount_out, (1, 0, 5), "UniswapV2Library: INSUFFICIENT_LIQUIDITY"),
        (get_amount_out, (2**256 // 997 + 1, 1, 1), "ds-math-mul-overflow"),
        (get_amount_out, (2**256 // 997, 1, 1), "ds-math-add-overflow"),
        (get_amount_in, (0, 1, 1), "UniswapV2Library: INSUFFICIENT_OUTPUT_AMOUNT"),
        (get_amount_in, (1, 5, 0), "UniswapV2Library: INSUFFICIENT_LIQUIDITY"),
        (get_amount_in, (7, 5, 7), "InvalidFEOpcode"),
        (get_amount_in, (8, 5, 7), "ds-math-sub-underflow"),
        (get_amount_in, (2**255, 2, 1), "ds-math-mul-overflow"),
        (quote_liquidity, (0, 1, 1), "UniswapV2Library: INSUFFICIENT_AMOUNT"),
        (quote_liquidity, (1, 1, 0), "UniswapV2Library: INSUFFICIENT_LIQUIDITY"),
        (quote_liquidity, (2**255, 1, 2), "ds-math-mul-overflow"),
    ],
)
def test_router_reverts(function: Callable[..., int], arguments: tuple[int, ...], reason: str) -> None:
    with pytest.raises(PoolError) as caught:
        function(*arguments)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    ("flash", "reason"),
    [
        ((0, 0, 1, 1), "Pancake: INSUFFICIENT_OUTPUT_AMOUNT"),
        ((1000, 0, 1, 1), "Pancake: INSUFFICIENT_LIQUIDITY"),
        ((1, 0, 0, 0), "Pancake: INSUFFICIENT_INPUT_AMOUNT"),
        ((1, 0, 1, 0), "Pancake: K"),
        ((1, 0, 2**112, 0), "Pancake: OVERFLOW"),
        ((1, 0, 2**250, 0), "ds-math-mul-overflow"),
    ],
)
def test_pair_reverts(flash: tuple[int, int, int, int], reason: str) -> None:
    pool = ConstantProductPool(1000, 1000, (25, 10000), "Pancake")
    out0, out1, paid0, paid1 = flash
    with pytest.raises(PoolError) as caught:
        pool.flash(out0=out0, out1=out1, paid0=paid0, paid1=paid1)
    assert caught.value.reason == reason
    assert (pool.reserve0, pool.reserve1) == (1000, 1000)


@pytest.mark.parametrize(
    ("arguments", "field"),
    [
        ({"reserve0": 2**112, "reserve1": 1}, "reserve0"),
        ({"reserve0": -1, "reserve1": 1}, "reserve0"),
        ({"reserve0": 1, "reserve1": 1.5}, "reserve1"),
        ({"reserve0": 1, "reserve1": True}, "reserve1"),
        ({"reserve0": 1, "reserve1": 1, "fee": (1000, 1000)}, "fee"),
        ({"reserve0": 1, "reserve1": 1, "fee": (0, 0)}, "fee"),
        ({"reserve0": 1, "reserve1": 1, "fee": (3,)}, "fee"),
    ],
)
def test_impossible_pools_are_refused(arguments: dict[str, Any], field: str) -> None:
    with pytest.raises(ValueError, match=field):
        ConstantProductPool(**arguments)


@pytest.mark.parametrize("amount", [-1, 2**256, 1.0, None])
def test_impossible_amounts_are_refused(amount: Any) -> None:
    with pytest.raises(ValueError, match="amount_in"):
        ConstantProductPool(10, 10).quote(amount_in=amount, zero_for_one=True)


def test_a_swap_takes_one_amount() -> None:
    with pytest.raises(ValueError, match="exactly one"):
        ConstantProductPool(10**6, 10**6).quote(amount_in=5, amount_out=5, zero_for_one=True)


@given(POOLS, AMOUNTS, st.booleans())
def test_quote_is_pure_and_swap_applies_it(pool: ConstantProductPool, amount: int, zero_for_one: bool) -> None:
    before = (pool.reserve0, pool.reserve1)
    try:
        quoted = pool.quote(amount_in=amount, zero_for_one=zero_for_one)
    except PoolError as error:
        with pytest.raises(PoolError) as caught:
            pool.swap(amount_in=amount, zero_for_one=zero_for_one)
        assert caught.value.reason == error.reason
        assert (pool.reserve0, pool.reserve1) == before
        return
    assert (pool.reserve0, pool.reserve1) == before
    assert pool.swap(amount_in=amount, zero_for_one=zero_for_one) == quoted
    assert (pool.reserve0, pool.reserve1) == (before[0] + quoted.amount0, before[1] + quoted.amount1)
    assert pool.reserve0 * pool.reserve1 >= before[0] * before[1]


@given(POOLS, AMOUNTS, st.booleans())
def test_the_output_is_the_most_that_the_pair_accepts(pool: ConstantProductPool, amount: int, zero_for_one: bool) -> None:
    try:
        swap = pool.quote(amount_in=amount, zero_for_one=zero_for_one)
    except PoolError:
        assume(False)
    taken, paid = (0, swap.amount_out), (amount, 0)
    if not zero_for_one:
        taken, paid = taken[::-1], paid[::-1]
    pool.copy().flash(out0=taken[0], out1=taken[1], paid0=paid[0], paid1=paid[1])
    more = (taken[0] + (not zero_for_one), taken[1] + zero_for_one)
    with pytest.raises(PoolError):
        pool.flash(out0=more[0], out1=more[1], paid0=paid[0], paid1=paid[1])


@given(POOLS, AMOUNTS, st.booleans())
def test_a_round_trip_loses_at_least_the_fees(pool: ConstantProductPool, amount: int, zero_for_one: bool) -> None:
    """Paying a into reserve X and back, with g kept of each input, returns (X + a) g^2 a / (X + g^2 a) at most."""
    reserve = pool.reserve0 if zero_for_one else pool.reserve1
    try:
        out = pool.swap(amount_in=amount, zero_for_one=zero_for_one)
        back = pool.swap(amount_in=out.amount_out, zero_for_one=not zero_for_one)
    except PoolError:
        assume(False)
    fee, unit = pool.fee
    kept_twice = (unit - fee) ** 2
    assert back.amount_out * (reserve * unit**2 + kept_twice * amount) <= (reserve + amount) * kept_twice * amount


@given(POOLS, AMOUNTS, st.booleans())
def test_exact_output_and_exact_input_agree(pool: ConstantProductPool, wanted: int, zero_for_one: bool) -> None:
    try:
        paid = pool.quote(amount_out=wanted, zero_for_one=zero_for_one)
        swap = pool.quote(amount_in=paid.amount_in, zero_for_one=zero_for_one)
    except PoolError:
        assume(False)
    assert paid.amount_out == wanted
    assert swap.amount_out >= wanted
    least = pool.least_payment(out0=0, out1=wanted, paid1=0) if zero_for_one else pool.least_payment(out0=wanted, out1=0, paid0=0)
    assert paid.amount_in - 1 <= least <= paid.amount_in  # the router may ask for one unit too many


@given(POOLS, st.integers(2, 2**100), st.floats(0.01, 0.99), st.booleans())
def test_splitting_never_pays(pool: ConstantProductPool, amount: int, share: float, zero_for_one: bool) -> None:
    first = max(1, min(amount - 1, int(amount * share)))
    try:
        whole = pool.quote(amount_in=amount, zero_for_one=zero_for_one).amount_out
        parts = pool.swap(amount_in=first, zero_for_one=zero_for_one).amount_out
        parts += pool.swap(amount_in=amount - first, zero_for_one=zero_for_one).amount_out
    except PoolError:
        assume(False)
    assert parts <= whole


@given(POOLS, AMOUNTS, AMOUNTS, AMOUNTS)
def test_least_payment_is_enough_and_one_less_is_not(pool: ConstantProductPool, out0: int, out1: int, paid1: int) -> None:
    out0, out1 = out0 % (pool.reserve0 + 1), out1 % (pool.reserve1 + 1)
    try:
        least = pool.least_payment(out0=out0, out1=out1, paid1=paid1)
    except PoolError:
        assume(False)
    pool.copy().flash(out0=out0, out1=out1, paid0=least, paid1=paid1)
    if least:
        with pytest.raises(PoolError):
            pool.flash(out0=out0, out1=out1, paid0=least - 1, paid1=paid1)


@given(st.integers(1, 10**30), FEES)
def test_repaying_the_borrowed_token_costs_the_fee(amount: int, fee: tuple[int, int]) -> None:
    pool = ConstantProductPool(2**111, 2**111, fee)
    numerator, denominator = fee
    expected = -(-amount * denominator // (denominator - numerator))
    assert pool.least_payment(out0=amount, out1=0, paid1=0) == expected
