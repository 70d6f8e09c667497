"""The risk gate: the same code in simulation, dry-run and live, between what a policy wants and what is sent.

``check`` asks every limit of ``arbgym.live.profiles`` for each order, with the order's worst case added to what was lost and
spent already, so that no revert can carry the account past a limit. What happened is told by ``sent`` (before the sender gets
the order) and ``record`` (when it ended).

States, which survive restarts and are left only by ``resume``:

- ``REDUCING``: the day's gas budget is used up, or too many reverts followed each other. Only inventory may be sold off; an
  order that does so is held to every limit but these two, the least profit and the Kelly stake.
- ``HALTED``: the day's loss or the drawdown reached its limit, no equity is left, the clock jumped, the store failed, or somebody
  called ``halt``.

The Kelly stake: an order that costs w where it reverts and makes v where it succeeds with probability p is a bet at odds
b = v / w, whose growth-optimal stake is f* = p - (1 - p) / b of equity (Kelly 1956). Refused is w above the share
``kelly_fraction`` of that, and any w where f* is not positive. p is the success rate of the orders that had something at stake,
Beta(1, 1) before the first of them, one standard deviation below its mean, with older orders forgotten over ``_MEMORY`` of them.
Orders that cost nothing where they fail are no bet.

Totals are integers in wei, summed over the latest outcomes one by one, so that an outcome which a reorganisation takes back
leaves no trace: the totals are those of a history without it.
"""

from __future__ import annotations

import math
import sqlite3
from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, fields, replace
from enum import StrEnum
from typing import Any, NamedTuple, Protocol

from arbgym.live.kill import KillSwitch
from arbgym.live.profiles import NAMES, Limits, loosened, looser, tighter
from arbgym.live.snapshot import LimitRow
from arbgym.live.terms import SETTLED, Clock, IntentState, LiveError, Order, Outcome, Verdict

__all__ = ["GateState", "Limits", "MemoryStore", "RiskGate", "Store"]

_STORED = "risk"
_VERSION = 1
_WEI = 10**18
_DAY_S = 86_400
_MINUTE_S = 60.0
_CORRECTABLE_BLOCKS = 64  # a reorganisation deeper than 12 halts; the rest is room
_MEMORY = 50  # orders over which the success rate forgets
_FORGET = 1.0 - 1.0 / _MEMORY
_AMOUNTS = ("head_time_s", "notional_eth", "borrowed_eth", "worst_cost_eth")
_STORE_ERRORS = (LiveError, OSError, sqlite3.Error, TypeError, ValueError)
_ALLOWED = Verdict(True)


class GateState(StrEnum):
    """What may be sent: everything within the limits, only what reduces exposure, nothing."""

    ACTIVE = "ACTIVE"
    REDUCING = "REDUCING"
    HALTED = "HALTED"


_SEVERITY = {GateState.ACTIVE: 0, GateState.REDUCING: 1, GateState.HALTED: 2}


class Store(Protocol):
    """Where the gate's state survives a restart; values are what JSON can hold, tuples as lists."""

    def get(self, name: str) -> dict[str, Any] | None:
        """What was put last under this name, or None."""

    def put(self, name: str, value: dict[str, Any]) -> None:
        """Keep it: durably when this returns, or with what the caller has said it shall be durable with."""


class MemoryStore:
    """A store for simulations: it forgets with the process."""

    def __init__(self) -> None:
        self._kept: dict[str, dict[str, Any]] = {}

    def get(self, name: str) -> dict[str, Any] | None:
        """What was put last under this name, or None."""
        return self._kept.get(name)

    def put(self, name: str, value: dict[str, Any]) -> None:
        """Keep it until the process ends."""
        self._kept[name] = value


class _Open(NamedTuple):
    """An order that was sent and has not ended."""

    stake_wei: int  # what it costs where it reverts
    exposure_wei: int  # what it adds to the open inventory; negative where it sells off
    time_s: float


class _Entry(NamedTuple):
    """One outcome, or a ``resume`` (key is empty), in the order in which they came."""

    key: str
    block_number: int
    day: int
    net_wei: int
    gas_wei: int
    exposure_wei: int
    trial: int  # 1 a success, -1 a failure of an order with something at stake, 0 neither
    reverted: int
    succeeded: int
    order: _Open | None = None


@dataclass(slots=True)
class _Totals:
    """What a history of entries adds up to."""

    equity_wei: int
    peak_wei: int
    exposure_wei: int = 0
    reverts: int = 0  # in a row
    day: int = 0
    day_net_wei: int = 0
    day_gas_wei: int = 0
    successes: float = 0.0
    failures: float = 0.0

    def add(self, entry: _Entry) -> None:
        """One more entry."""
        if not entry.key:
            self.peak_wei, self.reverts, self.successes, self.failures = self.equity_wei, 0, 0.0, 0.0
            return
        self.equity_wei += entry.net_wei
        self.peak_wei = max(self.peak_wei, self.equity_wei)
        self.exposure_wei = max(self.exposure_wei + entry.exposure_wei, 0)
        if entry.day > self.day:
            self.day, self.day_net_wei, self.day_gas_wei = entry.day, 0, 0
        if entry.day == self.day:
            self.day_net_wei += entry.net_wei
            self.day_gas_wei += entry.gas_wei
        if entry.reverted:
            self.reverts += 1
        elif entry.succeeded:
            self.reverts = 0
        if entry.trial:
            self.successes = self.successes * _FORGET + (entry.trial > 0)
            self.failures = self.failures * _FORGET + (entry.trial < 0)

    @property
    def success_rate(self) -> float:
        """Mean less one standard deviation of Beta(1 + successes, 1 + failures), at least 0."""
        above, count = 1.0 + self.successes, 2.0 + self.successes + self.failures
        mean = above / count
        return max(mean - math.sqrt(mean * (1.0 - mean) / (count + 1.0)), 0.0)


_TOTALS = tuple(field.name for field in fields(_Totals))


class RiskGate:
    """Limits, totals and states of one account.

    ``equity_eth`` is the capital set aside for this, a figure of the configuration and not the account's balance: profits and
    losses are added to it here, and a changed figure at a restart counts as paid in or taken out. ``store`` must not be shared
    between dry-run and live. Raises ValueError for equity that is not positive, LiveError for a stored state that cannot be read.
    """

    def __init__(self, limits: Limits, clock: Clock, store: Store, equity_eth: float, kill: KillSwitch | None = None) -> None:
        if not 0.0 < equity_eth < 1e9:
            raise ValueError(f"equity_eth = {equity_eth!r}; accepted is above 0 up to 1e9")
        self.limits = limits
        self.awaiting: Limits | None = None  # looser limits that nobody confirmed yet
        self.state = GateState.ACTIVE
        self.reason = ""
        self._unkept: Exception | None = None  # why the newest state is not in the store
        self._clock, self._store, self._kill = clock, store, kill
        self._given_wei = _wei(equity_eth)
        self._base = _Totals(self._given_wei, self._given_wei)
        self._entries: list[_Entry] = []
        self._open: dict[str, _Open] = {}
        self._sent_s: deque[float] = deque()
        self._head_s: float | None = None
        kept = store.get(_STORED)
        if kept is not None:
            self._restore(kept)
        self._offset_s = clock.now() - clock.monotonic()
        self._add_up()
        self._latch()
        self._put()

    # ------------------------------------------------------------------------------------------------------- questions
    def check(self, order: Order) -> Verdict:
        """May this order be sent? The first limit it breaks is named. No input or output but the kill switch's look."""
        return self._judge(order, self._open_stake_wei, self._open_exposure_wei, len(self._sent_s))

    def still_allowed(self, order: Order) -> Verdict:
        """The same question at the last moment before the send, of an order that ``sent`` was told of."""
        own = self._open.get(order.key)
        if own is None:
            return _refused("order.key", 0.0, "an order that was announced by sent()")
        added = max(own.exposure_wei, 0)
        return self._judge(order, self._open_stake_wei - own.stake_wei, self._open_exposure_wei - added, len(self._sent_s) - 1)

    def _judge(self, order: Order, open_stake_wei: int, open_exposure_wei: int, sent: int) -> Verdict:
        limits, totals = self.limits, self._totals
        if self._kill is not None and self._kill.engaged():
            return _refused("kill_switch", 1.0, "a kill switch that is released")
        now = self._look_at_clock()

        # the order's own words
        for name in _AMOUNTS:
            value = getattr(order, name)
            if not 0.0 <= value < math.inf:
                return _refused(f"order.{name}", value, "a finite number, 0 or more")
        if not 0.0 <= order.confidence <= 1.0:
            return _refused("order.confidence", order.confidence, "0 to 1")
        if not (order.reduces_exposure or order.expected_profit_eth >= 0.0) or not abs(order.expected_profit_eth) < math.inf:
            return _refused("order.expected_profit_eth", order.expected_profit_eth, "a finite number, 0 or more")
        if order.block_number < 0:
            return _refused("order.block_number", order.block_number, "0 or more")
        if not order.key:
            return _refused("order.key", 0.0, "a text that is not empty")
        reduces = order.reduces_exposure
        if reduces and (order.flash or order.borrowed_eth > 0.0 or _wei(order.notional_eth) > self._reducible_wei(order.key)):
            held = self._reducible_wei(order.key) / _WEI
            return _refused("order.reduces_exposure", order.notional_eth, f"no loan, and at most the {held:g} ETH held open")

        # states
        if self.state is GateState.HALTED or (self.state is GateState.REDUCING and not reduces):
            wanted = "an explicit resume" if self.state is GateState.HALTED else "what reduces exposure, or an explicit resume"
            return _refused("state", _SEVERITY[self.state], f"ACTIVE; it is {self.state.value}, {self.reason}, until {wanted}")

        # time
        newest, oldest = order.head_time_s, order.head_time_s
        if self._head_s is not None:
            newest, oldest = max(newest, self._head_s), min(oldest, self._head_s)
        reference = order.reference_time_s
        if reference is not None:
            if not 0.0 <= reference < math.inf:
                return _refused("order.reference_time_s", reference, "a finite number, 0 or more")
            newest = max(newest, reference)
            if now - reference > limits.max_reference_age_s:
                return _refused("max_reference_age_s", now - reference, f"at most {limits.max_reference_age_s:g}")
        if newest - now > limits.max_clock_skew_s:
            return _refused("max_clock_skew_s", newest - now, f"at most {limits.max_clock_skew_s:g} ahead of our clock")
        if now - oldest > limits.max_head_age_s:
            return _refused("max_head_age_s", now - oldest, f"at most {limits.max_head_age_s:g}")
        if sent >= limits.max_orders_per_minute:
            sent -= sum(now - time_s >= _MINUTE_S for time_s in self._sent_s)
            if sent >= limits.max_orders_per_minute:
                return _refused("max_orders_per_minute", sent + 1, f"at most {limits.max_orders_per_minute}")

        # size
        equity = totals.equity_wei / _WEI
        if order.notional_eth > limits.max_notional_eth:
            return _refused("max_notional_eth", order.notional_eth, f"at most {limits.max_notional_eth:g}")
        if order.borrowed_eth > limits.max_flash_borrow_eth:
            return _refused("max_flash_borrow_eth", order.borrowed_eth, f"at most {limits.max_flash_borrow_eth:g}")
        if not (order.flash or reduces):
            exposure = (totals.exposure_wei + open_exposure_wei) / _WEI + order.notional_eth
            if exposure > limits.max_exposure_eth:
                return _refused("max_exposure_eth", exposure, f"at most {limits.max_exposure_eth:g}")
            if exposure > limits.max_leverage * equity:
                leverage = exposure / equity if equity > 0.0 else math.inf
                return _refused("max_leverage", leverage, f"at most {limits.max_leverage:g}")

        # what may be lost from here
        worst_wei = _wei(order.worst_cost_eth) + open_stake_wei
        worst = worst_wei / _WEI
        day_net, day_gas = self._day_eth(now)
        if worst - day_net > limits.max_daily_loss_eth:
            return _refused("max_daily_loss_eth", worst - day_net, f"at most {limits.max_daily_loss_eth:g}")
        # neither is 0 or less here: the gate would be HALTED
        drawdown = (totals.peak_wei - totals.equity_wei + worst_wei) / totals.peak_wei
        if drawdown > limits.max_drawdown:
            return _refused("max_drawdown", drawdown, f"at most {limits.max_drawdown:g}")

        # what it is worth
        if order.confidence < limits.min_confidence:
            return _refused("min_confidence", order.confidence, f"at least {limits.min_confidence:g}")
        if reduces:
            return _ALLOWED
        if totals.reverts >= limits.max_consecutive_reverts:
            return _refused("max_consecutive_reverts", totals.reverts, f"below {limits.max_consecutive_reverts}")
        if day_gas + worst > limits.gas_budget_eth_per_day:
            return _refused("gas_budget_eth_per_day", day_gas + worst, f"at most {limits.gas_budget_eth_per_day:g}")
        if order.expected_profit_eth < limits.min_profit_eth:
            return _refused("min_profit_eth", order.expected_profit_eth, f"at least {limits.min_profit_eth:g}")
        stake = order.worst_cost_eth
        if stake > 0.0:
            most = self._kelly_stake_eth(stake, order.expected_profit_eth, equity)
            if not stake <= most:
                return _refused("kelly_fraction", stake, f"at most {max(most, 0.0):g} ETH at stake")
        return _ALLOWED

    def _kelly_stake_eth(self, stake_eth: float, profit_eth: float, equity_eth: float) -> float:
        """The most that may be at stake; 0 where the odds are against it."""
        if profit_eth <= 0.0:
            return 0.0
        p = self._success_rate
        return max(self.limits.kelly_fraction * (p - (1.0 - p) * stake_eth / profit_eth) * equity_eth, 0.0)

    # ---------------------------------------------------------------------------------------------------------- events
    def sent(self, order: Order) -> None:
        """This order is on its way: call it before the sender gets the order, which then asks ``still_allowed``."""
        now = self._look_at_clock()
        while self._sent_s and now - self._sent_s[0] >= _MINUTE_S:
            self._sent_s.popleft()
        self._sent_s.append(now)
        change = 0 if order.flash else _wei(order.notional_eth)
        self._open[order.key] = _Open(_wei(order.worst_cost_eth), -change if order.reduces_exposure else change, now)
        self._add_up_open()
        self._put()

    def record(self, outcome: Outcome, profit_eth: float) -> None:
        """An order ended. ``profit_eth`` is the outcome's ``profit_raw`` in the chain's coin, before gas and tip.

        The same outcome told twice counts once. With ``corrects`` the earlier one is taken back first; if it is not known any
        more, the gate halts. Dry outcomes count as what they would have been, but not
        for the success rate, of which they say nothing.
        """
        if not math.isfinite(profit_eth):
            self.halt(f"an outcome's profit_eth = {profit_eth}; accepted is a finite number")
            return
        former = next((entry for entry in reversed(self._entries) if entry.key == outcome.key), None)
        order = self._open.pop(outcome.key, None) or (former.order if former else None)
        ended = _entry(outcome, profit_eth, order) if outcome.state in SETTLED else None
        if former is not None:
            if former == ended:
                return
            self._entries.remove(former)
        elif outcome.corrects is not None:
            self.halt(f"block {outcome.block_number} corrects an outcome that is too old to be taken back")
        if ended is not None:
            self._entries.append(ended)
        elif order is not None:
            self._open[outcome.key] = order
        newest = max((entry.block_number for entry in self._entries), default=0)
        while self._entries and self._entries[0].block_number < newest - _CORRECTABLE_BLOCKS:
            self._base.add(self._entries.pop(0))
        self._add_up()
        self._latch()
        self._put()

    def keep_open(self, keys: Collection[str]) -> None:
        """After a start: of the orders that have not ended, only these were ever written down; the others were never sent."""
        self._open = {key: order for key, order in self._open.items() if key in keys}
        self._add_up_open()
        self._put()

    def head(self, timestamp_s: float) -> None:
        """A new head: orders are judged by it even where they name a fresher one."""
        self._head_s = timestamp_s
        self._look_at_clock()

    def halt(self, reason: str) -> None:
        """Nothing may be sent until ``resume``."""
        self._enter(GateState.HALTED, reason)
        self._put()

    def resume(self, reason: str) -> None:
        """Back to ACTIVE by a person's decision: peak equity, reverts in a row and the success rate start anew.

        The day's loss and gas do not. Raises LiveError where one of them is used up still, or the state cannot be kept: loosen
        that limit, or wait for the next UTC day. Without equity there is nothing to trade with, and no drawdown of it.
        """
        if self._totals.equity_wei <= 0:
            raise LiveError(self._no_equity())
        day_net, day_gas = self._day_eth(self._clock.now())
        for name, value in (("max_daily_loss_eth", -day_net), ("gas_budget_eth_per_day", day_gas)):
            limit = getattr(self.limits, name)
            if value > 0.0 and value >= limit:
                raise LiveError(f"{name} = {value:g}; accepted for a resume is below {limit:g}")
        newest = max((entry.block_number for entry in self._entries), default=0)
        self._entries.append(_Entry("", newest, 0, 0, 0, 0, 0, 0, 0))
        self._offset_s = self._clock.now() - self._clock.monotonic()
        self.state, self.reason = GateState.ACTIVE, reason
        self._add_up()
        self._latch()
        self._put()
        if self.state is not GateState.ACTIVE:
            raise LiveError(f"state = {self.state}: {self.reason}")

    # ---------------------------------------------------------------------------------------------------------- limits
    def replace_limits(self, new: Limits) -> tuple[str, ...]:
        """Take new limits: what is tighter applies at once, the fields returned are looser and wait for ``confirm``."""
        waiting = loosened(new, self.limits)
        self.awaiting = new if waiting else None
        self.limits = tighter(self.limits, new)
        self._latch()
        self._put()
        return waiting

    def confirm(self) -> tuple[str, ...]:
        """Apply the looser limits that wait; returns their fields' names, none where nothing waited."""
        if self.awaiting is None:
            return ()
        applied, self.limits, self.awaiting = loosened(self.awaiting, self.limits), self.awaiting, None
        self._put()
        return applied

    # ---------------------------------------------------------------------------------------------------------- figures
    @property
    def equity_eth(self) -> float:
        """The capital with what was made and lost."""
        return self._totals.equity_wei / _WEI

    @property
    def exposure_eth(self) -> float:
        """Open inventory, with what orders on their way add to it."""
        return (self._totals.exposure_wei + self._open_exposure_wei) / _WEI

    @property
    def drawdown(self) -> float:
        """Share of the highest equity that is lost; all of it where none is left."""
        if min(self._totals.equity_wei, self._totals.peak_wei) <= 0:
            return 1.0
        return (self._totals.peak_wei - self._totals.equity_wei) / self._totals.peak_wei

    @property
    def success_rate(self) -> float:
        """Of orders with something at stake, biased low; see the module."""
        return self._success_rate

    def status(self) -> tuple[LimitRow, ...]:
        """Every limit with its value now and what is accepted, for people; NaN for limits of a single order."""
        now = self._clock.now()
        day_net, day_gas = self._day_eth(now)
        exposure = (self._totals.exposure_wei + self._open_exposure_wei) / _WEI
        values: dict[str, float] = {
            "max_exposure_eth": exposure,
            "max_leverage": exposure / self.equity_eth if self.equity_eth > 0.0 else math.inf,
            "gas_budget_eth_per_day": day_gas,
            "max_daily_loss_eth": max(-day_net, 0.0) + 0.0,  # not -0
            "max_drawdown": self.drawdown,
            "max_consecutive_reverts": self._totals.reverts,
            "max_orders_per_minute": sum(now - time_s < _MINUTE_S for time_s in self._sent_s),
        }
        if self._head_s is not None:
            values["max_head_age_s"] = now - self._head_s
            values["max_clock_skew_s"] = max(self._head_s - now, 0.0)
        rows = []
        for name in NAMES:
            limit = getattr(self.limits, name)
            accepted = f"{'at least' if name.startswith('min_') else 'at most'} {limit:g}"
            if self.awaiting is not None and looser(name, getattr(self.awaiting, name), limit):
                accepted += f" ({getattr(self.awaiting, name):g} waits for confirmation)"
            value = values.get(name, math.nan)
            share = value / limit if limit > 0.0 else float(value > 0.0)
            rows.append(LimitRow(name, value, accepted, share if math.isfinite(share) else float(value > 0.0)))
        return tuple(rows)

    # --------------------------------------------------------------------------------------------------------- within
    def _look_at_clock(self) -> float:
        """The time now; a clock that jumped since the last look halts, because every age and the day would be wrong."""
        now = self._clock.now()
        offset = now - self._clock.monotonic()
        jump = offset - self._offset_s
        if not abs(jump) <= self.limits.max_clock_skew_s:
            self.halt(f"the clock jumped by {jump:g} s; accepted is {self.limits.max_clock_skew_s:g}")
        self._offset_s = offset
        return now

    def _day_eth(self, now: float) -> tuple[float, float]:
        """Today's net profit and gas. A clock that goes back leaves the day where it was."""
        totals = self._totals
        if now // _DAY_S > totals.day:
            return 0.0, 0.0
        return totals.day_net_wei / _WEI, totals.day_gas_wei / _WEI

    def _reducible_wei(self, key: str) -> int:
        """Open inventory that no other order sells off already."""
        selling = sum(-order.exposure_wei for other, order in self._open.items() if order.exposure_wei < 0 and other != key)
        return self._totals.exposure_wei - selling

    def _add_up(self) -> None:
        self._totals = replace(self._base)
        for entry in self._entries:
            self._totals.add(entry)
        self._success_rate = self._totals.success_rate
        self._add_up_open()

    def _add_up_open(self) -> None:
        self._open_stake_wei = sum(order.stake_wei for order in self._open.values())
        self._open_exposure_wei = sum(max(order.exposure_wei, 0) for order in self._open.values())

    def _latch(self) -> None:
        """Enter the state that the totals ask for; never leave one."""
        if self._totals.equity_wei <= 0:
            self._enter(GateState.HALTED, self._no_equity())
        day_net, day_gas = self._day_eth(self._clock.now())
        limits = self.limits
        for name, value, state in (
            ("max_daily_loss_eth", -day_net, GateState.HALTED),
            ("max_drawdown", self.drawdown, GateState.HALTED),
            ("gas_budget_eth_per_day", day_gas, GateState.REDUCING),
            ("max_consecutive_reverts", self._totals.reverts, GateState.REDUCING),
        ):
            if value > 0.0 and value >= getattr(limits, name):
                self._enter(state, f"{name} = {value:g}; accepted is below {getattr(limits, name):g}")

    def _no_equity(self) -> str:
        return f"equity = {self.equity_eth:g} ETH; accepted is above 0: a larger risk.equity_eth in the settings, and a restart"

    def _enter(self, state: GateState, reason: str) -> None:
        if _SEVERITY[state] > _SEVERITY[self.state]:
            self.state, self.reason = state, reason

    def _put(self) -> None:
        waiting = () if self.awaiting is None else loosened(self.awaiting, self.limits)
        kept = {
            "version": _VERSION,
            "state": self.state.value,
            "reason": self.reason,
            "given_wei": self._given_wei,
            "base": {name: getattr(self._base, name) for name in _TOTALS},
            "entries": list(self._entries),
            "open": dict(self._open),
            "sent_s": list(self._sent_s),
            "held": {name: getattr(self.limits, name) for name in waiting},
        }
        try:
            self._store.put(_STORED, kept)
            self._unkept = None
        except _STORE_ERRORS as error:
            self._unkept = error
            self._enter(GateState.HALTED, f"the gate's state cannot be kept: {type(error).__name__}")

    def keep(self) -> None:
        """Store again what could not be stored when it changed. Raises LiveError where it still cannot be."""
        if self._unkept is not None:
            self._put()
        if self._unkept is not None:
            raise LiveError(f"the gate's state: {self._unkept}; accepted is a store that takes it")

    def _restore(self, kept: dict[str, Any]) -> None:
        """Take up what an earlier process left; looser limits that it had not confirmed wait again."""
        try:
            if kept["version"] != _VERSION:
                raise ValueError("version")
            self.state, self.reason = GateState(kept["state"]), str(kept["reason"])
            self._base = _Totals(**{name: kept["base"][name] for name in _TOTALS})
            self._entries = [_read_entry(entry) for entry in kept["entries"]]
            self._open = {key: _Open(*order) for key, order in kept["open"].items()}
            self._sent_s = deque(float(time_s) for time_s in kept["sent_s"])
            held = replace(self.limits, **kept["held"])
            paid_in = self._given_wei - kept["given_wei"]
            self._base.equity_wei += paid_in
            self._base.peak_wei += paid_in
            self._add_up()  # a total that is no number fails here, not later
        except (KeyError, IndexError, TypeError, ValueError, AttributeError) as error:
            failed = f"the stored state of the risk gate: {type(error).__name__}; accepted is what the gate put there"
        else:
            if loosened(self.limits, held):
                self.awaiting, self.limits = self.limits, tighter(self.limits, held)
            return
        raise LiveError(failed)


def _read_entry(kept: list[Any]) -> _Entry:
    *values, order = kept
    return _Entry(*values, None if order is None else _Open(*order))  # type: ignore[call-arg]


def _entry(outcome: Outcome, profit_eth: float, order: _Open | None) -> _Entry:
    """What an outcome does to the totals."""
    reverted, dry = outcome.state is IntentState.REVERTED, outcome.state is IntentState.DRY
    filled = dry or outcome.state is IntentState.MINED
    net_wei = (_wei(profit_eth) if filled else 0) - outcome.gas_cost_wei - outcome.tip_wei
    trial = 0
    if not dry and order is not None and order.stake_wei > 0 and (filled or reverted):
        trial = 1 if filled and net_wei > 0 else -1
    return _Entry(
        outcome.key,
        outcome.block_number,
        int(outcome.time_s // _DAY_S),
        net_wei,
        # a fill's tip is paid out of its profit; that of a revert, a cancellation or a filled gap is gone like its gas
        outcome.gas_cost_wei + (0 if filled else outcome.tip_wei),
        order.exposure_wei if filled and order is not None else 0,
        trial,
        int(reverted),
        int(filled),
        order,
    )


def _wei(eth: float) -> int:
    return round(eth * 1e18)


def _refused(limit: str, value: float, accepted: str) -> Verdict:
    return Verdict(False, limit, float(value), accepted)
