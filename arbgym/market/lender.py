"""Flash lenders: fee, limit and gas of each, and Aave's integer premium.

A lender here lends the quote token for one transaction. A flash swap is the pool's own credit on the first leg of the
cycle: it costs nothing beyond the pool's fee, and it exists only where the first leg is a pool of that kind. Figures
and sources: Aave V3 5 bps, premium rounded half up (npm @aave/core-v3 1.19.3, executed), Balancer V2 vault 0, Morpho
Blue 0, Maker/Sky flash mint 0 (mints DAI; the swap into another quote token and back is its extra gas), Uniswap V2/V3
flash swap 0 on top of the pool's fee. Gas is what borrowing and repaying adds to a cycle: Aave flashLoanSimple
162,954 and balancer about 38,000 warm, less the 21,000 of a transaction where that is included.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from arbgym.jit import inner
from arbgym.market.pools import CONCENTRATED, CONSTANT_PRODUCT

ANY_POOL, V2_FIRST, V3_FIRST = 0, 1, 2
MAX_LENDERS = 6


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


FLASH_SWAPS = (
    Lender("uniswap_v2_flash_swap", 0.0, 1e12, 0.0, V2_FIRST, "credit of the first leg's own pool"),
    Lender("uniswap_v3_flash_swap", 0.0, 1e12, 0.0, V3_FIRST, "credit of the first leg's own pool"),
)
AAVE = Lender("aave_v3", 5.0, 50e6, 141_954.0, ANY_POOL, "npm @aave/core-v3 1.19.3 executed: 162,954 gas less 21,000")
BALANCER = Lender("balancer_v2", 0.0, 20e6, 38_000.0, ANY_POOL, "docs.balancer.fi; Jeiwan/flash-loans-comparison, warm")
MAKER = Lender("maker", 0.0, 500e6, 180_000.0, ANY_POOL, "dss-flash; gas with the DAI swap both ways: assumption")
MORPHO = Lender("morpho_blue", 0.0, 30e6, 40_000.0, ANY_POOL, "docs.morpho.org; gas: assumption, as Balancer's singleton")
LENDERS = (*FLASH_SWAPS, BALANCER, MORPHO, AAVE, MAKER)


@inner
def lender_serves(c: Any, s: Any, lender: int, buy: int) -> bool:
    """The lender is open and lends for a route whose first leg is pool ``buy``."""
    if s.lender_available[lender] <= 0.0:
        return False
    wanted = c.first_leg[lender]
    kind = c.kind[buy]
    return bool(wanted == 0 or (wanted == 1 and kind == CONSTANT_PRODUCT) or (wanted == 2 and kind == CONCENTRATED))


@inner
def cheapest_lender(c: Any, s: Any, buy: int, quote_in: float, gas_price_quote: float) -> int:
    """The open lender that costs least in fee and gas for a loan of this size, -1 where none serves; limits count as cost."""
    best = -1
    best_cost = math.inf
    for lender in range(c.lender_count):
        if not lender_serves(c, s, lender, buy):
            continue
        cost = c.loan_fee[lender] * quote_in + c.loan_gas[lender] * gas_price_quote
        if s.lender_available[lender] < quote_in:
            cost += 1e3 * (quote_in - s.lender_available[lender])
        if cost < best_cost:
            best = lender
            best_cost = cost
    return best


@inner
def move_lenders(c: Any, s: Any, uniform: float) -> None:
    """A lender may close (fully borrowed or paused) or open again; one uniform serves all, so at most one of them changes."""
    if c.lender_close_probability <= 0.0:
        return
    lender = min(int(uniform * c.lender_count), c.lender_count - 1)
    within = uniform * c.lender_count - lender
    if c.first_leg[lender] != ANY_POOL:
        return
    if s.lender_available[lender] > 0.0:
        if within < c.lender_close_probability * c.lender_count:
            s.lender_available[lender] = 0.0
    elif within < c.lender_open_probability * c.lender_count:
        s.lender_available[lender] = c.lender_limit[lender]
