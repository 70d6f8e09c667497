"""Other people's atomic cycles in a block: what they earned and what they paid to be first.

A transaction with swaps in two or more watched pools that leaves the base token where it was (1e-6 of what it traded) and takes
quote token out of them is a cycle. Its tip is what its receipt says that it paid above the base fee; what it paid the block's
builder by a transfer of its own is not in a receipt, and not counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from arbgym.live.book import PoolSwap
from arbgym.live.events import hexadecimal, member, quantity
from arbgym.live.terms import RivalTrade

_NOTHING = 1e-6  # of the base traded
_WEI = 1e18


@dataclass(frozen=True, slots=True)
class Cycle:
    """A transaction that took quote token out of the watched pools and left the base token where it was."""

    transaction: str
    profit_raw: int  # quote token


def find_cycles(swaps: Iterable[PoolSwap]) -> list[Cycle]:
    """The atomic cycles among a block's swaps, in their order."""
    by_transaction: dict[str, list[PoolSwap]] = {}
    for swap in swaps:
        by_transaction.setdefault(swap.transaction, []).append(swap)
    found = []
    for transaction, legs in by_transaction.items():
        traded = sum(abs(leg.base_raw) for leg in legs) / 2
        profit = -sum(leg.quote_raw for leg in legs)
        balanced = abs(sum(leg.base_raw for leg in legs)) <= _NOTHING * traded
        if len({leg.pool for leg in legs}) > 1 and balanced and profit > 0:
            found.append(Cycle(transaction, profit))
    return found


def rival_trade(
    cycle: Cycle, receipt: Any, base_fee_wei: int, quote_decimals: int, coin_price_quote: float, account: str | None
) -> RivalTrade | None:
    """A cycle and its receipt as a rival's trade; None for our own ``account``'s. Raises Malformed."""
    if account is not None and hexadecimal("receipt.from", member("receipt", receipt, "from"), 20) == account:
        return None
    price = quantity("receipt.effectiveGasPrice", member("receipt", receipt, "effectiveGasPrice"), 128)
    gas_used = quantity("receipt.gasUsed", member("receipt", receipt, "gasUsed"))
    tip_quote = max(price - base_fee_wei, 0) * gas_used / _WEI * coin_price_quote
    return RivalTrade(cycle.transaction, cycle.profit_raw / 10**quote_decimals, tip_quote)
