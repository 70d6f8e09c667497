"""Solidity's integer widths: what a contract could not hold is refused before any arithmetic."""

from __future__ import annotations

from operator import index

UINT112_MAX = 2**112 - 1
UINT128_MAX = 2**128 - 1
UINT160_MAX = 2**160 - 1
UINT256_MAX = 2**256 - 1
INT128_MAX = 2**127 - 1


def as_integer(name: str, value: int, low: int, high: int) -> int:
    """``value`` as a Python integer in [low, high]; NumPy integers are converted, floats and booleans refused."""
    if type(value) is not int:
        if isinstance(value, bool) or not hasattr(value, "__index__"):
            raise ValueError(f"{name}: {value!r} is a {type(value).__name__}; accepted is an integer")
        value = index(value)
    if not low <= value <= high:
        raise ValueError(f"{name}: {value} is out of range; accepted are integers from {low} to {high}")
    return value


def as_uint(name: str, value: int, bits: int) -> int:
    """``value`` as an unsigned integer of ``bits`` bits."""
    return as_integer(name, value, 0, (1 << bits) - 1)


def as_int(name: str, value: int, bits: int) -> int:
    """``value`` as a signed (two's complement) integer of ``bits`` bits."""
    return as_integer(name, value, -(1 << (bits - 1)), (1 << (bits - 1)) - 1)


def ceil_div(numerator: int, denominator: int) -> int:
    """Quotient of non-negative integers, rounded up."""
    return -(-numerator // denominator)
