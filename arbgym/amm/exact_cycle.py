"""Exact sizing of constant-product cycles: the integer size whose integer profit is best, or a rounding below it.

Contracts floor every amount, so profit over size is a staircase on a concave curve. The curve's optimum comes first, in
closed form with integer square roots (see ``arbgym.amm.cycle``). Then sizes around it are tried in exact integers, and
only the right ones: of all sizes that give the same amount of some token along the route the smallest is best, so
neighbours are counted in units of each token in turn. The coarsest token decides, and its units are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from math import isqrt
from typing import NamedTuple

from arbgym.amm.constant_product import get_amount_in, get_amount_out
from arbgym.amm.integers import ceil_div

NEIGHBOURS = 100  # units of each token tried on either side of the curve's optimum


class Hop(NamedTuple):
    """One constant-product hop in raw units; the fee is (numerator, denominator)."""

    reserve_in: int
    reserve_out: int
    fee: tuple[int, int] = (3, 1000)


class ExactSize(NamedTuple):
    """Size of a cycle and the profit that the contracts' integers give; both 0 where no trade pays."""

    amount: int
    profit: int


NO_TRADE = ExactSize(0, 0)


class _Moebius(NamedTuple):
    """out = k * a / (m + n * a), the real-valued chain of hops."""

    k: int
    m: int
    n: int


def _compose(hops: Sequence[Hop]) -> _Moebius:
    k, m, n = 1, 1, 0
    for reserve_in, reserve_out, (numerator, denominator) in hops:
        kept = denominator - numerator
        k, m, n = k * kept * reserve_out, m * denominator * reserve_in, n * denominator * reserve_in + k * kept
    return _Moebius(k, m, n)


def least_input(hop: Hop, amount_out: int) -> int:
    """Smallest input for which ``get_amount_out`` gives at least ``amount_out``, which is below the reserve."""
    numerator, denominator = hop.fee
    return ceil_div(hop.reserve_in * amount_out * denominator, (hop.reserve_out - amount_out) * (denominator - numerator))


def around(centre: int, reach: int, limit: int) -> Iterator[int]:
    """Integers in [1, limit) by their distance from ``centre``."""
    for distance in range(reach + 1):
        for value in {centre - distance, centre + distance}:
            if 0 < value < limit:
                yield value


def search_sizes(sizes: Iterator[int], profit: Callable[[int], int], bound: int | None) -> ExactSize:
    """The best of ``sizes``; stops early at a profit that no size can beat. ``bound`` None: not known."""
    best = NO_TRADE
    for size in sizes:
        value = profit(size)
        if value > best.profit:
            best = ExactSize(size, value)
            if value == bound:
                break
    return best


def profit_upper_bound(hops: Sequence[Hop], loan_fee: tuple[int, int] = (0, 1)) -> int:
    """Floor of the real-valued optimum of a constant-product cycle: no integer size can make more."""
    k, m, n = _compose(hops)
    fee, unit = loan_fee
    if k * unit <= m * (unit + fee):
        return 0
    square = 4 * k * m * (unit + fee) * unit
    root = isqrt(square - 1) + 1
    return (k * unit + m * (unit + fee) - root) // (n * unit)


def size_cycle_exact(hops: Sequence[Hop], loan_fee: tuple[int, int] = (0, 1), neighbours: int = NEIGHBOURS) -> ExactSize:
    """Best input of a cycle of constant-product hops that is paid first and swapped exact-in along the route.

    Profit is the last output, less the input and the loan fee on it, rounded up. Raises ValueError for a hop without
    reserves.
    """
    _check_hops(hops)
    k, m, n = _compose(hops)
    fee, unit = loan_fee
    bound = profit_upper_bound(hops, loan_fee)
    if bound <= 0:
        return NO_TRADE
    optimum = max((isqrt(k * m * unit // (unit + fee)) - m) // n, 1)

    def profit(amount_in: int) -> int:
        amount = amount_in
        for hop in hops:
            if amount == 0:
                break
            amount = get_amount_out(amount, *hop)
        return amount - amount_in - ceil_div(amount_in * fee, unit)

    def sizes() -> Iterator[int]:
        amount = optimum
        yield from around(optimum, neighbours, 1 << 256)
        for count, hop in enumerate(hops, start=1):
            amount = get_amount_out(amount, *hop) if amount else 0
            for wanted in around(amount, neighbours, hop.reserve_out):
                for earlier in reversed(hops[:count]):
                    if wanted >= earlier.reserve_out:
                        break
                    wanted = least_input(earlier, wanted)
                else:
                    yield wanted

    return search_sizes(sizes(), profit, bound)


def size_flash_swap_exact(buy: Hop, sell: Hop, neighbours: int = NEIGHBOURS) -> ExactSize:
    """Best amount to borrow from ``buy`` by flash swap and sell into ``sell``, paying ``buy`` back in the other token.

    Profit is the router's getAmountOut of ``sell`` less its getAmountIn of ``buy``, in the token paid back.
    """
    hops = (buy, sell)
    _check_hops(hops)
    bound = profit_upper_bound(hops)
    if bound <= 0:
        return NO_TRADE
    k, m, n = _compose(hops)
    payment = max((isqrt(k * m) - m) // n, 1)
    optimum = get_amount_out(payment, *buy)

    def profit(borrowed: int) -> int:
        return get_amount_out(borrowed, *sell) - get_amount_in(borrowed, *buy)

    def sizes() -> Iterator[int]:
        yield from around(optimum, neighbours, buy.reserve_out)
        received = get_amount_out(optimum, *sell) if optimum else 0
        for wanted in around(received, neighbours, sell.reserve_out):
            borrowed = least_input(sell, wanted)
            if borrowed < buy.reserve_out:
                yield borrowed

    return search_sizes(sizes(), profit, bound)


def _check_hops(hops: Sequence[Hop]) -> None:
    if not hops:
        raise ValueError("hops: none; accepted is one or more")
    for position, hop in enumerate(hops):
        if hop.reserve_in <= 0 or hop.reserve_out <= 0:
            reserves = f"{hop.reserve_in}, {hop.reserve_out}"
            raise ValueError(f"hops[{position}]: reserves {reserves}; accepted are positive integers")
