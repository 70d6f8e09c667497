"""What a quote or a swap returns, and what it raises when the contract would revert."""

from __future__ import annotations

from dataclasses import dataclass


class PoolError(ValueError):
    """The contract would revert. ``reason`` is its own text, empty where it reverts without one."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason or "revert without a reason")
        self.reason = reason


@dataclass(frozen=True, slots=True)
class SwapResult:
    """One swap, in raw token units.

    ``amount_in`` includes the ``fee``. ``amount0`` and ``amount1`` are the pool's deltas, positive when
    paid in. ``unspent`` is the part of an exact input that the pool did not take (price limit, or no liquidity left).
    """

    amount_in: int
    amount_out: int
    amount0: int
    amount1: int
    fee: int
    unspent: int
    steps: int
    ticks_crossed: int


@dataclass(frozen=True, slots=True)
class ConstantProductSwap(SwapResult):
    """A swap with the reserves that it leaves."""

    reserve0: int
    reserve1: int


@dataclass(frozen=True, slots=True)
class ConcentratedSwap(SwapResult):
    """A swap with the price, tick and active liquidity that it leaves; ``steps`` are turns of the contract's loop."""

    sqrt_price_x96: int
    tick: int
    liquidity: int
