"""Float64 kernels of constant-product pools: quotes, and the best size of an n-hop cycle in closed form.

With keep = 1 - fee a hop is the Moebius map out = keep * a * Y / (X + keep * a) (Uniswap V2 whitepaper, 3.2.1), and so
is a chain of hops: out = gain * a / (1 + curve * a). A hop is divided by its reserve X before it is appended: gain is
the product of the prices, and nothing overflows. With the derivative of out - (1 + loan_fee) * a at zero: a cycle pays
if gain > 1 + loan_fee, and then, with q = sqrt(1 + loan_fee),

    amount_in = (sqrt(gain) / q - 1) / curve        profit = (sqrt(gain) - q)^2 / curve

where sqrt(gain) - q is taken as (gain - q^2) / (sqrt(gain) + q), which does not cancel. Amounts are in any one unit per
token; loan_fee is a share of the amount borrowed.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from arbgym.jit import kernel

Floats = NDArray[np.float64]


@kernel
def amount_out_float(amount_in: float, reserve_in: float, reserve_out: float, keep: float) -> float:
    """Output of one hop for an exact input, within one raw unit + 3 ulp of the pair's integer."""
    net = keep * amount_in
    return net * reserve_out / (reserve_in + net)


@kernel
def amount_in_float(amount_out: float, reserve_in: float, reserve_out: float, keep: float) -> float:
    """Input of one hop for an exact output below the reserve, within one raw unit + 3 ulp of the router's integer."""
    return amount_out * reserve_in / (keep * (reserve_out - amount_out))


@kernel
def amounts_out(amount_in: Floats, reserve_in: Floats, reserve_out: Floats, keep: Floats, out: Floats) -> None:
    """``amount_out_float`` element by element into ``out``; all of one shape (B,)."""
    for i in range(out.size):
        out[i] = amount_out_float(amount_in[i], reserve_in[i], reserve_out[i], keep[i])


@kernel
def append_hop(gain: float, curve: float, reserve_in: float, reserve_out: float, keep: float) -> tuple[float, float]:
    """(gain, curve) of a chain with one more hop at its end; the empty chain is (1, 0)."""
    return gain * (keep * reserve_out / reserve_in), curve + gain * keep / reserve_in


@kernel
def best_size(gain: float, curve: float, loan_fee: float) -> tuple[float, float]:
    """(amount_in, profit net of the loan fee) of a cycle; zeros where no size pays."""
    cost = 1.0 + loan_fee
    if not gain > cost:
        return 0.0, 0.0
    root = math.sqrt(cost)
    difference = (gain - cost) / (math.sqrt(gain) + root)
    return difference / (root * curve), difference * difference / curve


@kernel
def size_two_pools(
    reserve_in_a: float,
    reserve_out_a: float,
    keep_a: float,
    reserve_in_b: float,
    reserve_out_b: float,
    keep_b: float,
    loan_fee: float,
) -> tuple[float, float]:
    """(amount_in, profit) of the cycle through pool A, then pool B; zeros where no size pays."""
    gain, curve = append_hop(1.0, 0.0, reserve_in_a, reserve_out_a, keep_a)
    gain, curve = append_hop(gain, curve, reserve_in_b, reserve_out_b, keep_b)
    return best_size(gain, curve, loan_fee)


@kernel
def size_cycles_into(
    reserve_in: Floats,
    reserve_out: Floats,
    keep: Floats,
    loan_fee: float,
    amount: Floats,
    profit: Floats,
    gains: Floats,
) -> None:
    """``size_cycles`` without checks: reserves and keep of shape (B, n), results of shape (B,)."""
    for i in range(reserve_in.shape[0]):
        gain, curve = 1.0, 0.0
        for j in range(reserve_in.shape[1]):
            gain, curve = append_hop(gain, curve, reserve_in[i, j], reserve_out[i, j], keep[i, j])
        amount[i], profit[i] = best_size(gain, curve, loan_fee)
        gains[i] = gain


class CycleSize(NamedTuple):
    """Best size of each of B cycles, arrays of shape (B,)."""

    amount_in: Floats  # in the first token; 0 where no trade pays
    profit: Floats  # in the first token, net of the loan fee
    gain: Floats  # output per input of an infinitesimal trade (K/M), fees included


def size_cycles(reserve_in: ArrayLike, reserve_out: ArrayLike, keep: ArrayLike, loan_fee: float = 0.0) -> CycleSize:
    """Best sizes of B cycles of n constant-product hops.

    Args:
        reserve_in, reserve_out: shape (B, n) or (n,), reserves of each hop's input and output token.
        keep: kept fraction 1 - fee, broadcast to the same shape.
        loan_fee: fee of the loan as a share of the amount borrowed (0.0005 = 5 bps).

    Raises ValueError for shapes that differ and for numbers that are not positive and finite.
    """
    reserves_in = np.atleast_2d(np.ascontiguousarray(reserve_in, dtype=np.float64))
    reserves_out = np.atleast_2d(np.ascontiguousarray(reserve_out, dtype=np.float64))
    if reserves_in.ndim != 2 or reserves_in.shape != reserves_out.shape:
        shapes = f"{reserves_in.shape}, {reserves_out.shape}"
        raise ValueError(f"reserve_in, reserve_out: shapes {shapes}; accepted is (B, n) twice")
    kept = np.ascontiguousarray(np.broadcast_to(np.asarray(keep, dtype=np.float64), reserves_in.shape))
    for name, values in (("reserve_in", reserves_in), ("reserve_out", reserves_out), ("keep", kept)):
        if not bool(np.all((values > 0.0) & np.isfinite(values))):
            raise ValueError(f"{name}: accepted are positive finite numbers")
    if bool(np.any(kept > 1.0)):
        raise ValueError("keep: accepted are fractions up to 1")
    if not 0.0 <= loan_fee < math.inf:
        raise ValueError(f"loan_fee: {loan_fee}; accepted is a finite number >= 0")
    count = reserves_in.shape[0]
    size = CycleSize(np.empty(count), np.empty(count), np.empty(count))
    size_cycles_into(reserves_in, reserves_out, kept, loan_fee, size.amount_in, size.profit, size.gain)
    return size
