"""Pool mathematics: exact integer models of the contracts, and (in their own modules) float64 kernels and sizing.

Here are the exact models, on Python integers. Kernels live in ``arbgym.amm.cycle`` (constant-product quotes
and n-hop cycles), ``arbgym.amm.ranges`` (swaps over liquidity ranges), ``arbgym.amm.route`` (two-pool sizing) and, beside its
exact model, ``arbgym.amm.bonding_curve``.
"""

from arbgym.amm.bonding_curve import BondingCurvePool
from arbgym.amm.concentrated import ConcentratedPool
from arbgym.amm.constant_product import ConstantProductPool, get_amount_in, get_amount_out, quote_liquidity
from arbgym.amm.result import PoolError, SwapResult

__all__ = [
    "BondingCurvePool",
    "ConcentratedPool",
    "ConstantProductPool",
    "PoolError",
    "SwapResult",
    "get_amount_in",
    "get_amount_out",
    "quote_liquidity",
]
