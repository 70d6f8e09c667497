"""Exact model of the Uniswap V2 pair and its forks, and of the router's library: unit for unit, revert for revert.

The pair (v2-core 1.0.1) knows no price: it accepts any output that does not lower the product of its balances, fees
taken off (K). The router (v2-periphery) computes amounts for it. With the fee fraction num/den and k = den - num,
out = floor(in * k * R_out / (R_in * den + in * k)) is the most the pair accepts.
"""

from __future__ import annotations

from arbgym.amm.integers import UINT112_MAX, UINT256_MAX, as_integer, as_uint, ceil_div
from arbgym.amm.result import PoolError, SwapResult

DEFAULT_FEE = (3, 1000)
_LIBRARY = "UniswapV2Library"


def _uints(amount: int, reserve_in: int, reserve_out: int) -> tuple[int, int, int]:
    return (
        as_uint("amount", amount, 256),
        as_uint("reserve_in", reserve_in, 256),
        as_uint("reserve_out", reserve_out, 256),
    )


def _add(a: int, b: int) -> int:
    if a + b > UINT256_MAX:
        raise PoolError("ds-math-add-overflow")
    return a + b


def _sub(a: int, b: int) -> int:
    if a < b:
        raise PoolError("ds-math-sub-underflow")
    return a - b


def _mul(a: int, b: int) -> int:
    if a * b > UINT256_MAX:
        raise PoolError("ds-math-mul-overflow")
    return a * b


def _check_fee(fee: tuple[int, int]) -> tuple[int, int]:
    if len(fee) != 2:
        raise ValueError(f"fee: {fee}; accepted is (numerator, denominator), as (3, 1000)")
    denominator = as_integer("fee denominator", fee[1], 1, UINT112_MAX)
    return as_integer("fee numerator", fee[0], 0, denominator - 1), denominator


def get_amount_out(
    amount_in: int, reserve_in: int, reserve_out: int, fee: tuple[int, int] = DEFAULT_FEE, library: str = _LIBRARY
) -> int:
    """Router's ``getAmountOut``: output for an exact input, all uint256 raw units. Raises PoolError with its reasons.

    A product over 256 bits reverts with 'ds-math-mul-overflow', a sum with 'ds-math-add-overflow'.
    """
    numerator, denominator = fee
    amount_in, reserve_in, reserve_out = _uints(amount_in, reserve_in, reserve_out)
    if amount_in == 0:
        raise PoolError(f"{library}: INSUFFICIENT_INPUT_AMOUNT")
    if reserve_in == 0 or reserve_out == 0:
        raise PoolError(f"{library}: INSUFFICIENT_LIQUIDITY")
    net = _mul(amount_in, denominator - numerator)
    gross = _mul(net, reserve_out)
    return gross // _add(_mul(reserve_in, denominator), net)


def get_amount_in(
    amount_out: int, reserve_in: int, reserve_out: int, fee: tuple[int, int] = DEFAULT_FEE, library: str = _LIBRARY
) -> int:
    """Router's ``getAmountIn``: input for an exact output, floor(...) + 1: one too many where the division is exact.

    Asking for the whole reserve divides by zero, 'InvalidFEOpcode'; asking for more is 'ds-math-sub-underflow'.
    """
    numerator, denominator = fee
    amount_out, reserve_in, reserve_out = _uints(amount_out, reserve_in, reserve_out)
    if amount_out == 0:
        raise PoolError(f"{library}: INSUFFICIENT_OUTPUT_AMOUNT")
    if reserve_in == 0 or reserve_out == 0:
        raise PoolError(f"{library}: INSUFFICIENT_LIQUIDITY")
    gross = _mul(_mul(reserve_in, amount_out), denominator)
    divisor = _mul(_sub(reserve_out, amount_out), denominator - numerator)
    if divisor == 0:
        raise PoolError("InvalidFEOpcode")
    return _add(gross // divisor, 1)


def quote_liquidity(amount: int, reserve_in: int, reserve_out: int, library: str = _LIBRARY) -> int:
    """Router's ``quote``: the amount of the other token at the reserves' ratio, no fee, rounded down."""
    amount, reserve_in, reserve_out = _uints(amount, reserve_in, reserve_out)
    if amount == 0:
        raise PoolError(f"{library}: INSUFFICIENT_AMOUNT")
    if reserve_in == 0 or reserve_out == 0:
        raise PoolError(f"{library}: INSUFFICIENT_LIQUIDITY")
    return _mul(amount, reserve_out) // reserve_in


class ConstantProductPool:
    """One pair; ``quote`` computes a swap, ``swap`` applies it.

    Args:
        reserve0, reserve1: raw units, uint112.
        fee: (numerator, denominator) of the part of the input that stays, as the contract writes it.
        name: prefix of the pair's revert reasons, "UniswapV2" or a fork's ("Pancake").

    Raises ValueError, naming the field, for what no such pair can hold.
    """

    __slots__ = ("fee", "name", "reserve0", "reserve1")

    def __init__(self, reserve0: int, reserve1: int, fee: tuple[int, int] = DEFAULT_FEE, name: str = "UniswapV2") -> None:
        self.reserve0 = as_uint("reserve0", reserve0, 112)
        self.reserve1 = as_uint("reserve1", reserve1, 112)
        self.fee = _check_fee(fee)
        self.name = name

    def __repr__(self) -> str:
        state = f"reserve0={self.reserve0}, reserve1={self.reserve1}"
        return f"ConstantProductPool({state}, fee={self.fee}, name={self.name!r})"

    def copy(self) -> ConstantProductPool:
        """An independent pair in the same state."""
        return ConstantProductPool(self.reserve0, self.reserve1, self.fee, self.name)

    def quote(self, *, amount_in: int | None = None, amount_out: int | None = None, zero_for_one: bool) -> SwapResult:
        """The swap that ``swap`` would make; the pair stays as it is.

        Args: one of
            amount_in: the whole of it goes to the pair, which pays the most it can;
            amount_out: paid for with what the router asks (``get_amount_in``).

        Raises PoolError with the pair's reason (the router's for an ``amount_out`` that it refuses).
        """
        reserve_in, reserve_out = (self.reserve0, self.reserve1) if zero_for_one else (self.reserve1, self.reserve0)
        if amount_out is not None and amount_in is not None:
            raise ValueError("amount_in, amount_out: both are given; accepted is exactly one of them")
        if amount_out is not None:
            amount_in = get_amount_in(amount_out, reserve_in, reserve_out, self.fee, f"{self.name}Library")
        elif amount_in is not None:
            amount_in = as_uint("amount_in", amount_in, 256)
            numerator, denominator = self.fee
            net = amount_in * (denominator - numerator)
            amount_out = net * reserve_out // (reserve_in * denominator + net) if net else 0
        else:
            raise ValueError("amount_in, amount_out: neither is given; accepted is exactly one of them")
        if not (0 < amount_out < reserve_out and amount_in + reserve_in <= UINT112_MAX):
            self._settle(*((0, amount_out, amount_in, 0) if zero_for_one else (amount_out, 0, 0, amount_in)))  # raises
        amount0, amount1 = (amount_in, -amount_out) if zero_for_one else (-amount_out, amount_in)
        return SwapResult(amount_in, amount_out, amount0, amount1, -(-amount_in * self.fee[0] // self.fee[1]), 0, 1, 0)

    def swap(self, *, amount_in: int | None = None, amount_out: int | None = None, zero_for_one: bool) -> SwapResult:
        """Apply a swap; arguments, result and errors as for ``quote``. A revert leaves the pair as it was."""
        result = self.quote(amount_in=amount_in, amount_out=amount_out, zero_for_one=zero_for_one)
        self.reserve0 += result.amount0
        self.reserve1 += result.amount1
        return result

    def flash(self, *, out0: int, out1: int, paid0: int, paid1: int) -> None:
        """Flash swap: take ``out0`` and ``out1``, pay ``paid0`` and ``paid1`` before it ends. Raises PoolError."""
        self.reserve0, self.reserve1 = self._settle(
            as_uint("out0", out0, 256),
            as_uint("out1", out1, 256),
            as_uint("paid0", paid0, 256),
            as_uint("paid1", paid1, 256),
        )

    def least_payment(self, *, out0: int, out1: int, paid0: int | None = None, paid1: int | None = None) -> int:
        """Least payment in one token for taking ``out0`` and ``out1``, given what is paid in the other.

        Exactly one of ``paid0`` and ``paid1`` is given, the other is solved for. Payments in both tokens bear the fee.
        Raises PoolError where no payment is enough.
        """
        if (paid0 is None) == (paid1 is None):
            raise ValueError(f"paid0, paid1: {paid0}, {paid1}; accepted is exactly one of them")
        out0, out1 = as_uint("out0", out0, 256), as_uint("out1", out1, 256)
        self._check_outputs(out0, out1)
        numerator, denominator = self.fee
        kept = denominator - numerator
        left0, left1 = (self.reserve0 - out0) * denominator, (self.reserve1 - out1) * denominator
        if paid0 is None:
            given, left, other = as_uint("paid1", paid1 or 0, 256), left0, left1
        else:
            given, left, other = as_uint("paid0", paid0, 256), left1, left0
        needed = ceil_div(self.reserve0 * self.reserve1 * denominator * denominator, other + given * kept)
        solved = max(ceil_div(needed - left, kept), 0 if given else 1)
        self._settle(out0, out1, solved if paid0 is None else given, solved if paid1 is None else given)
        return solved

    def _check_outputs(self, out0: int, out1: int) -> None:
        if out0 == 0 and out1 == 0:
            raise PoolError(f"{self.name}: INSUFFICIENT_OUTPUT_AMOUNT")
        if out0 >= self.reserve0 or out1 >= self.reserve1:
            raise PoolError(f"{self.name}: INSUFFICIENT_LIQUIDITY")

    def _settle(self, out0: int, out1: int, in0: int, in1: int) -> tuple[int, int]:
        """The pair's own checks in its own order; the reserves afterwards."""
        self._check_outputs(out0, out1)
        if in0 == 0 and in1 == 0:
            raise PoolError(f"{self.name}: INSUFFICIENT_INPUT_AMOUNT")
        numerator, denominator = self.fee
        balance0, balance1 = self.reserve0 - out0 + in0, self.reserve1 - out1 + in1
        adjusted0 = _mul(balance0, denominator) - _mul(in0, numerator)
        adjusted1 = _mul(balance1, denominator) - _mul(in1, numerator)
        if _mul(adjusted0, adjusted1) < self.reserve0 * self.reserve1 * denominator * denominator:
            raise PoolError(f"{self.name}: K")
        if balance0 > UINT112_MAX or balance1 > UINT112_MAX:
            raise PoolError(f"{self.name}: OVERFLOW")
        return balance0, balance1
