"""What a quote or a swap returns, and what it raises when the contract would revert."""

from __future__ import annotations

from typing import NamedTuple


class PoolError(ValueError):
    """The contract would revert. ``reason`` is its own text, empty where it reverts without one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason or "revert without a reason")
        self.reason = reason


class SwapResult(NamedTuple):
    """One swap, in raw token units.

    ``amount_in`` includes the ``fee``. ``amount0`` and ``amount1`` are the pool's deltas, positive when paid in.
    ``unspent`` is the part of an exact input that the pool did not take (price limit, or no liquidity left). ``steps``
    are turns of a concentrated pool's loop. The last three are a concentrated pool's state after the swap, 0 for a
    constant-product pool, whose reserves move by ``amount0`` and ``amount1``.
    """

    amount_in: int
    amount_out: int
    amount0: int
    amount1: int
    fee: int
    unspent: int
    steps: int
    ticks_crossed: int
    sqrt_price_x96: int = 0
    tick: int = 0
    liquidity: int = 0
