"""Flash lenders: fee, limit and gas of each, and Aave's integer premium.

A lender here lends the quote token for one transaction. A flash swap is the pool's own credit on the first leg of the
cycle: it costs nothing beyond the pool's fee, and it exists only where the first leg is a pool of that kind. Figures
and sources: Aave V3 5 bps, premium rounded half up (npm @aave/core-v3 1.19.3, executed), Balancer V2 vault 0, Morpho
Blue 0, Maker/Sky flash mint 0 (mints DAI; the swap into another quote token and back is its extra gas), Uniswap V2/V3
flash swap 0 on top of the pool's fee. Gas is what borrowing and repaying adds to a cycle: Aave flashLoanSimple
162,954 and balancer about 38,000 warm, less the 21,000 of a transaction where that is included.
"""

from __future__ import annotations

from dataclasses import dataclass

ANY_POOL, V2_FIRST, V3_FIRST = 0, 1, 2


@dataclass(frozen=True)
class Lender:
    """One source of flash liquidity on one chain."""

    name: str
    fee_bps: float
    limit_quote: float  # liquidity that can be borrowed at once, quote currency
    gas_used: float  # gas added to the cycle by borrowing and repaying
    first_leg: int = ANY_POOL  # ANY_POOL, or the pool kind that the first leg must be (flash swaps)
    source: str = ""

    def __post_init__(self) -> None:
        if not 0.0 <= self.fee_bps < 10_000.0:
            raise ValueError(f"Lender {self.name}: fee_bps = {self.fee_bps}; accepted is 0 up to below 10000")
        if not self.limit_quote > 0.0:
            raise ValueError(f"Lender {self.name}: limit_quote = {self.limit_quote}; accepted is a positive number")
        if self.gas_used < 0.0:
            raise ValueError(f"Lender {self.name}: gas_used = {self.gas_used}; accepted is 0 or more")
        if self.first_leg not in (ANY_POOL, V2_FIRST, V3_FIRST):
            raise ValueError(f"Lender {self.name}: first_leg = {self.first_leg}; accepted are 0 (any), 1 (V2), 2 (V3)")


def aave_premium_raw(amount: int, premium_bps: int) -> int:
    """Premium of Aave V3 ``flashLoanSimple`` in raw units: PercentageMath.percentMul, which rounds half up.

    Tiny loans are free: at 5 bps the premium of fewer than 1,000 units is 0. Raises ValueError on negative arguments.
    """
    if amount < 0 or premium_bps < 0:
        raise ValueError(f"amount = {amount}, premium_bps = {premium_bps}; accepted are integers >= 0")
    return (amount * premium_bps + 5_000) // 10_000
