"""Exact sizing over two pools of any kind: buy one token where it is cheap, sell it where it is dear.

Cost is convex and revenue concave in the amount, so the best size is where the marginal price of buying, fee included,
meets that of selling. The exact pools give both prices at any size; a bracketed false-position search finds where they
cross, and sizes around it are tried in exact integers (``arbgym.amm.exact_cycle`` says which).
"""

from __future__ import annotations

from collections.abc import Iterator
from math import exp, isqrt, log

from arbgym.amm.concentrated import ConcentratedPool
from arbgym.amm.constant_product import ConstantProductPool
from arbgym.amm.exact_cycle import NO_TRADE, ExactSize, Hop, around, least_input, search_sizes
from arbgym.amm.integers import UINT112_MAX
from arbgym.amm.swap_math import MILLION
from arbgym.amm.tick_math import MAX_SQRT_RATIO, MIN_SQRT_RATIO

Pool = ConstantProductPool | ConcentratedPool

NEIGHBOURS = 20  # units of each token tried on either side of the crossing
_PATIENCE = 3  # false positions that may leave more than half of the bracket before it is halved
_PRECISION = 36  # profit is flat at the top: a size off by a share e loses the share e^2
_MOST = 1 << 254
_SLACK = 1e-9  # of a log price: walk a little past the point of no gain rather than stop short of it
_LOG_Q192 = 192.0 * log(2.0)


def _hop(pool: ConstantProductPool, zero_for_one: bool) -> Hop:
    reserves = (pool.reserve0, pool.reserve1) if zero_for_one else (pool.reserve1, pool.reserve0)
    return Hop(*reserves, pool.fee)


def _keep(pool: ConcentratedPool) -> float:
    return log(1.0 - pool.fee / MILLION)


def _spot(pool: Pool, zero_for_one: bool) -> float:
    """Log of the output per input of an infinitesimal swap, fee included."""
    if isinstance(pool, ConcentratedPool):
        price = 2.0 * log(pool.sqrt_price_x96) - _LOG_Q192
        return (price if zero_for_one else -price) + _keep(pool)
    reserve_in, reserve_out, (numerator, denominator) = _hop(pool, zero_for_one)
    return log(reserve_out) - log(reserve_in) + log((denominator - numerator) / denominator)


def _quote(pool: Pool, amount: int, zero_for_one: bool) -> tuple[int, int, float]:
    """(amount in, amount out, log of the marginal output per input afterwards); ``amount`` < 0 is an exact output."""
    if isinstance(pool, ConcentratedPool):
        swap = pool.quote(amount_specified=amount, zero_for_one=zero_for_one)
        price = 2.0 * log(swap.sqrt_price_x96) - _LOG_Q192
        return swap.amount_in, swap.amount_out, (price if zero_for_one else -price) + _keep(pool)
    reserve_in, reserve_out, (numerator, denominator) = _hop(pool, zero_for_one)
    kept = denominator - numerator
    if amount < 0:
        left = reserve_out + amount
        cost = -reserve_in * amount * denominator // (left * kept) + 1
        return cost, -amount, 2.0 * log(left) - log(reserve_in) - log(reserve_out) + log(kept / denominator)
    gross = reserve_in * denominator + amount * kept
    marginal = log(kept * denominator) + log(reserve_in) + log(reserve_out) - 2.0 * log(gross)
    return amount, amount * kept * reserve_out // gross, marginal


def _until(pool: ConcentratedPool, exact_in: bool, zero_for_one: bool, other_spot: float) -> int:
    """Most input taken (output paid) by the time that the pool's price leaves nothing to gain against the other's."""
    price = (-other_spot - _keep(pool)) * (0.5 if zero_for_one else -0.5) + (-_SLACK if zero_for_one else _SLACK)
    limit = min(max(int(exp(price) * 2**96), MIN_SQRT_RATIO + 1), MAX_SQRT_RATIO - 1)
    if limit == pool.sqrt_price_x96:  # at the end of the range already
        return 0
    swap = pool.quote(amount_specified=_MOST if exact_in else -_MOST, zero_for_one=zero_for_one, sqrt_price_limit_x96=limit)
    return swap.amount_in if exact_in else swap.amount_out


def _capacity(buy: Pool, sell: Pool, sells_zero: bool) -> int:
    """Most that the one pool can pay and the other take; 0 where the first unit does not pay."""
    if not _has_reserves(buy) or not _has_reserves(sell):
        return 0
    spot_buy, spot_sell = _spot(buy, not sells_zero), _spot(sell, sells_zero)
    if spot_buy + spot_sell <= 0.0:
        return 0
    if isinstance(buy, ConcentratedPool):
        most = _until(buy, False, not sells_zero, spot_sell)
    else:
        most = _hop(buy, not sells_zero).reserve_out - 1
    if isinstance(sell, ConcentratedPool):
        return min(most, _until(sell, True, sells_zero, spot_buy))
    return min(most, UINT112_MAX - _hop(sell, sells_zero).reserve_in)


def _has_reserves(pool: Pool) -> bool:
    return isinstance(pool, ConcentratedPool) or (pool.reserve0 > 0 and pool.reserve1 > 0)


def _crossing(buy: Pool, sell: Pool, sells_zero: bool, capacity: int) -> int:
    """Amount in [1, capacity] at which the marginal trade stops paying, to one part in 2^_PRECISION."""

    def edge(amount: int) -> float:
        return _quote(buy, -amount, not sells_zero)[2] + _quote(sell, amount, sells_zero)[2]

    low, high = 1, capacity
    edge_low, edge_high = edge(low), edge(high)
    if edge_low <= 0.0 or edge_high >= 0.0:
        return low if edge_low <= 0.0 else high
    moved = 0  # which end the last position replaced: 1 the low one, -1 the high one
    slow = 0  # positions in a row that left more than half of the bracket
    while (width := high - low) > (least := max(1, low >> _PRECISION)):
        if slow == _PATIENCE:
            middle, moved = isqrt(low * high) if high > 4 * low else low + width // 2, 0
        else:
            middle = low + int(width * (edge_low / (edge_low - edge_high)))
            # beside an end by what is still of interest, the crossing lies between most often
            middle = min(max(middle, low + least), high - least)
        value = edge(middle)
        # Illinois: the end that stays a second time counts half, which draws the next position to its side
        if value > 0.0:
            low, edge_low = middle, value
            edge_high *= 0.5 if moved > 0 else 1.0
            moved = 1
        else:
            high, edge_high = middle, value
            edge_low *= 0.5 if moved < 0 else 1.0
            moved = -1
        slow = slow + 1 if 2 * (high - low) > width and slow < _PATIENCE else 0
    return low


def size_two_pools_exact(buy: Pool, sell: Pool, *, token0_is_bought: bool, neighbours: int = NEIGHBOURS) -> ExactSize:
    """Best amount of one token to take out of ``buy`` (exact output) and to put into ``sell`` (exact input).

    Both pools hold the same token0 and token1. Profit is in the other token: what ``sell`` pays less what ``buy`` asks,
    in the contracts' integers (a constant-product ``buy`` asks the router's getAmountIn). Zeros where no size pays.
    """
    sells_zero = token0_is_bought
    capacity = _capacity(buy, sell, sells_zero)
    if capacity < 1:
        return NO_TRADE
    optimum = _crossing(buy, sell, sells_zero, capacity)

    def profit(amount: int) -> int:
        return _quote(sell, amount, sells_zero)[1] - _quote(buy, -amount, not sells_zero)[0]

    def sizes() -> Iterator[int]:
        yield from around(optimum, neighbours, capacity + 1)
        received = _quote(sell, optimum, sells_zero)[1]
        for wanted in around(received, neighbours, received + neighbours + 1):
            amount = _input_for(sell, wanted, sells_zero)
            if 0 < amount <= capacity:
                yield amount

    return search_sizes(sizes(), profit, None)


def _input_for(pool: Pool, wanted: int, zero_for_one: bool) -> int:
    if isinstance(pool, ConcentratedPool):
        return pool.quote(amount_specified=-wanted, zero_for_one=zero_for_one).amount_in
    hop = _hop(pool, zero_for_one)
    return least_input(hop, wanted) if wanted < hop.reserve_out else 0
