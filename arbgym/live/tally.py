"""Counts of how intents ended: totals, rates over the latest attempts, and the curve of net profit.

A reorganisation may take an end back: its amounts leave the totals before the new end enters them. After a restart the same
totals come from the journal: its outcomes, and ``EndPrices``. Ends whose price was never kept (journals of versions before it, a
process killed between an end and its price) are valued at the price at start.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, Protocol

from arbgym.live.snapshot import CURVE_POINTS, Totals
from arbgym.live.terms import SETTLED, IntentState, Outcome

WINDOW = 100  # attempts that rates look back on
ENOUGH = 20  # fewer attempts say nothing about a rate
REMEMBERED = 1_000  # ends that a reorganisation can still take back
WEI_PER_ETH = 10**18
ON_CHAIN_OR_DRY = frozenset({IntentState.MINED, IntentState.REVERTED, IntentState.DRY})


@dataclass(frozen=True, slots=True)
class _End:
    state: IntentState
    time_s: float
    profit_raw: int
    gas_wei: int
    tip_wei: int
    net_quote: float
    cost_quote: float


class PriceStore(Protocol):
    """Where prices survive a restart: the journal, outside of tests."""

    def get(self, name: str) -> Any:
        """What was put last under this name, or None."""

    def put(self, name: str, value: Any) -> None:
        """Keep it."""


class EndPrices:
    """The coin's price in quote token when each intent ended: what gas and tip cost then, a later price does not tell."""

    def __init__(self, store: PriceStore | None = None) -> None:
        self._store = store

    def keep(self, key: str, quote_per_coin: float) -> None:
        """The intent ended at this price; a later end, after a reorganisation, takes its place."""
        if self._store is not None:
            self._store.put(f"coin_price.{key}", quote_per_coin)

    def at_end(self, key: str, otherwise: float) -> float:
        """The price that was kept for this intent; ``otherwise`` where none was."""
        price = None if self._store is None else self._store.get(f"coin_price.{key}")
        return float(price) if isinstance(price, int | float) and math.isfinite(price) and price >= 0.0 else otherwise


class Tally:
    """Sums over outcomes. Profit, gas and tip are kept as integers: what is taken back leaves no residue in them."""

    def __init__(self, quote_decimals: int) -> None:
        if not 0 <= quote_decimals <= 36:
            raise ValueError(f"quote_decimals = {quote_decimals}; accepted is 0 to 36")
        self._unit: int = 10**quote_decimals
        self._ends: OrderedDict[str, _End] = OrderedDict()  # the latest, by key
        self._counts: dict[IntentState, int] = dict.fromkeys(SETTLED, 0)
        self._profit_raw = self._gas_wei = self._tip_wei = 0
        self._net_quote = 0.0
        self._curve: list[tuple[float, float]] = []
        self._curve_step, self._curve_skipped = 1, 0

    def settled(self, outcome: Outcome, quote_per_coin: float) -> None:
        """Take in an end; ``quote_per_coin`` is the price of the chain's own coin in quote token, for gas and tip.

        Raises ValueError for a price that is negative or not finite.
        """
        if not (math.isfinite(quote_per_coin) and quote_per_coin >= 0.0):
            raise ValueError(f"quote_per_coin = {quote_per_coin}; accepted is a finite price of at least 0")
        former = self._ends.pop(outcome.key, None)
        if former is not None:
            self._enter(former, -1)
        if outcome.state in SETTLED:
            cost_quote = (outcome.gas_cost_wei + outcome.tip_wei) / WEI_PER_ETH * quote_per_coin
            net_quote = outcome.profit_raw / self._unit - cost_quote
            end = _End(
                outcome.state, outcome.time_s, outcome.profit_raw, outcome.gas_cost_wei, outcome.tip_wei, net_quote, cost_quote
            )
            self._ends[outcome.key] = end
            self._enter(end, 1)
            if len(self._ends) > REMEMBERED:
                self._ends.popitem(last=False)
        self._draw(outcome.time_s)

    def _enter(self, end: _End, sign: int) -> None:
        self._counts[end.state] += sign
        self._profit_raw += sign * end.profit_raw
        self._gas_wei += sign * end.gas_wei
        self._tip_wei += sign * end.tip_wei
        self._net_quote += sign * end.net_quote

    def _draw(self, time_s: float) -> None:
        """The newest point always stands; when the curve is full, every second of its points goes."""
        self._curve_skipped += 1
        if self._curve and self._curve_skipped < self._curve_step:
            self._curve[-1] = (time_s, self._net_quote)
            return
        self._curve_skipped = 0
        self._curve.append((time_s, self._net_quote))
        if len(self._curve) > CURVE_POINTS:
            self._curve = self._curve[(len(self._curve) - 1) % 2 :: 2]
            self._curve_step *= 2

    @property
    def curve(self) -> tuple[tuple[float, float], ...]:
        """(time_s, cumulative net profit in quote token), oldest first."""
        return tuple(self._curve)

    def totals(self, decisions: int) -> Totals:
        """Sums and rates now; ``decisions`` is the runner's own count."""
        window = [self._ends[key] for key in list(self._ends)[-WINDOW:]]
        ended = [end for end in window if end.state in ON_CHAIN_OR_DRY]
        sent = [end for end in window if end.state is not IntentState.DRY]
        profit = sum(end.profit_raw for end in window) / self._unit
        cost = sum(end.cost_quote for end in window)
        counts = self._counts
        return Totals(
            decisions=decisions,
            attempts=sum(counts.values()),
            mined=counts[IntentState.MINED],
            reverted=counts[IntentState.REVERTED],
            dropped=counts[IntentState.DROPPED] + counts[IntentState.REPLACED] + counts[IntentState.REFUSED],
            dry=counts[IntentState.DRY],
            profit_quote=self._profit_raw / self._unit,
            gas_eth=self._gas_wei / WEI_PER_ETH,
            tip_eth=self._tip_wei / WEI_PER_ETH,
            net_quote=self._net_quote,
            win_rate=_share(sum(end.net_quote > 0.0 for end in ended), len(ended)),
            success_rate=_share(sum(end.state is IntentState.MINED for end in sent), len(sent)),
            gas_share=math.nan if len(window) < ENOUGH or cost == 0.0 else cost / profit if profit > 0.0 else math.inf,
            consecutive_reverts=self._reverts_in_a_row(),
        )

    def _reverts_in_a_row(self) -> int:
        row = 0
        for end in reversed(self._ends.values()):
            if end.state is IntentState.MINED:
                break
            row += end.state is IntentState.REVERTED
        return row


def _share(part: int, whole: int) -> float:
    return part / whole if whole >= ENOUGH else math.nan
