"""Uniswap V3 ``SqrtPriceMath`` and ``SwapMath`` in exact integers (v3-core 1.0.1; whitepaper section 6).

Square-root prices are Q64.96, amounts raw units, fees parts per million. Amounts in round up, amounts out round down,
and the next price rounds in the pool's favour. Where the contract's 256-bit arithmetic would branch, so does this.
"""

from __future__ import annotations

from arbgym.amm.integers import INT128_MAX, UINT128_MAX, UINT256_MAX
from arbgym.amm.result import PoolError
from arbgym.amm.tick_math import MAX_TICK, MIN_TICK, sqrt_price_x96_at_tick

Q96 = 1 << 96
Q128 = 1 << 128
MILLION = 1_000_000


def amount0_up(low: int, high: int, liquidity: int) -> int:
    """Token0 between two square-root prices, low <= high, rounded up.

    The contract divides by ``high``, then by ``low``, rounding each time; for integers that is one rounding at the end.
    """
    return -(-(liquidity << 96) * (high - low) // (high * low))


def amount0_down(low: int, high: int, liquidity: int) -> int:
    """Token0 between two square-root prices, low <= high, rounded down."""
    return (liquidity << 96) * (high - low) // (high * low)


def amount1_up(low: int, high: int, liquidity: int) -> int:
    """Token1 between two square-root prices, low <= high, rounded up."""
    return -(-liquidity * (high - low) >> 96)


def amount1_down(low: int, high: int, liquidity: int) -> int:
    """Token1 between two square-root prices, low <= high, rounded down."""
    return liquidity * (high - low) >> 96


def price_after_amount0_in(price: int, liquidity: int, amount: int) -> int:
    """Square-root price after ``amount`` of token0 came in, rounded up."""
    if amount == 0:
        return price
    numerator = liquidity << 96
    denominator = numerator + amount * price
    if denominator <= UINT256_MAX:
        return -(-numerator * price // denominator)
    return -(-numerator // (numerator // price + amount))  # the contract's branch against overflow, less precise


def price_after_amount0_out(price: int, liquidity: int, amount: int) -> int:
    """Square-root price after ``amount`` of token0 went out, rounded up. PoolError where the pool cannot pay it."""
    if amount == 0:
        return price
    numerator = liquidity << 96
    product = amount * price
    if product >= numerator:
        raise PoolError("")
    after = -(-numerator * price // (numerator - product))
    if after >> 160:
        raise PoolError("")
    return after


def price_after_amount1_in(price: int, liquidity: int, amount: int) -> int:
    """Square-root price after ``amount`` of token1 came in, rounded down."""
    after = price + (amount << 96) // liquidity
    if after >> 160:
        raise PoolError("")
    return after


def price_after_amount1_out(price: int, liquidity: int, amount: int) -> int:
    """Square-root price after ``amount`` of token1 went out, rounded down. PoolError where the pool cannot pay it."""
    after = price + (-amount << 96) // liquidity
    if after <= 0:
        raise PoolError("")
    return after


def swap_step(
    price: int, target: int, liquidity: int, remaining: int, fee_ppm: int, zero_for_one: bool, exact_in: bool
) -> tuple[int, int, int, int]:
    """``computeSwapStep``: (price after, amount in net of fee, amount out, fee), going no further than ``target``.

    ``remaining`` >= 0 is the input still to spend, fee included, or the output still wanted.
    """
    if exact_in:
        net = remaining * (MILLION - fee_ppm) // MILLION
        amount_in = amount0_up(target, price, liquidity) if zero_for_one else amount1_up(price, target, liquidity)
        if net >= amount_in:
            amount_out = amount1_down(target, price, liquidity) if zero_for_one else amount0_down(price, target, liquidity)
            return target, amount_in, amount_out, -(-amount_in * fee_ppm // (MILLION - fee_ppm))
        if zero_for_one:
            after = price_after_amount0_in(price, liquidity, net)
            amount_in = amount0_up(after, price, liquidity)
            return after, amount_in, amount1_down(after, price, liquidity), remaining - amount_in
        after = price_after_amount1_in(price, liquidity, net)
        amount_in = amount1_up(price, after, liquidity)
        return after, amount_in, amount0_down(price, after, liquidity), remaining - amount_in
    if zero_for_one:
        amount_out = amount1_down(target, price, liquidity)
        after = target if remaining >= amount_out else price_after_amount1_out(price, liquidity, remaining)
        amount_in = amount0_up(after, price, liquidity)
        if after != target:
            amount_out = amount1_down(after, price, liquidity)
    else:
        amount_out = amount0_down(price, target, liquidity)
        after = target if remaining >= amount_out else price_after_amount0_out(price, liquidity, remaining)
        amount_in = amount1_up(price, after, liquidity)
        if after != target:
            amount_out = amount0_down(price, after, liquidity)
    return after, amount_in, min(amount_out, remaining), -(-amount_in * fee_ppm // (MILLION - fee_ppm))


def add_liquidity(liquidity: int, delta: int) -> int:
    """``LiquidityMath.addDelta``: PoolError('LS') below zero, PoolError('LA') over 128 bits."""
    total = liquidity + delta
    if total < 0:
        raise PoolError("LS")
    if total > UINT128_MAX:
        raise PoolError("LA")
    return total


def position_amounts(
    sqrt_price_x96: int, tick: int, tick_lower: int, tick_upper: int, liquidity: int, round_up: bool
) -> tuple[int, int]:
    """(amount0, amount1) of ``liquidity`` over [tick_lower, tick_upper): rounded up to mint, down to burn.

    The contract's reverts: 'TLU', 'TLM', 'TUM' for bad ticks, none with a text for liquidity of 128 bits.
    """
    if liquidity > INT128_MAX:
        raise PoolError("")
    if tick_lower >= tick_upper:
        raise PoolError("TLU")
    if tick_lower < MIN_TICK:
        raise PoolError("TLM")
    if tick_upper > MAX_TICK:
        raise PoolError("TUM")
    amount0, amount1 = (amount0_up, amount1_up) if round_up else (amount0_down, amount1_down)
    low, high = sqrt_price_x96_at_tick(tick_lower), sqrt_price_x96_at_tick(tick_upper)
    if tick < tick_lower:
        return amount0(low, high, liquidity), 0
    if tick < tick_upper:
        return amount0(sqrt_price_x96, high, liquidity), amount1(low, sqrt_price_x96, liquidity)
    return 0, amount1(low, high, liquidity)
