"""The runner: block by block from the feed to the sender. What it is made of comes from outside, so that a test can script it.

One block's way: settle what is open, observe, decide, plan in exact integers, ask the gate, simulate the very transaction (priced
anew where it uses another gas), tell the gate, send. Dry-run and live differ in the sender alone. Nothing is sent where any step
fails; what may heal is asked again, and what cannot be true ends the run (``Stopped``), because an operator has to look.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections import deque
from collections.abc import Awaitable, Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from typing import Any

import structlog

from arbgym.live.decision import Decider, Decision
from arbgym.live.executor import Simulated, WouldRevert
from arbgym.live.kill import KillSwitch
from arbgym.live.metrics import Metrics
from arbgym.live.observer import NotObservable, Observer, believed
from arbgym.live.planning import WEI, Planner
from arbgym.live.prices import mid_price
from arbgym.live.risk import RiskGate
from arbgym.live.snapshot import LATEST_DECISIONS, DecisionRow, PoolRow, pool_row
from arbgym.live.tally import EndPrices, Tally
from arbgym.live.terms import (
    SETTLED,
    ChainView,
    Channel,
    Clock,
    EndOfFeed,
    Feed,
    FeedDown,
    IntentState,
    LiveError,
    Order,
    Outcome,
    Plan,
    Refused,
    Sender,
    Unknown,
    Verdict,
)
from arbgym.policy import PolicyError

_LONGEST_WAIT_S = 10.0  # between two tries of a feed that is down
_SIMULATIONS = 3  # at most, of one decision; the second differs from the first in fees, gas limit and least profit
_SLOWEST_SHARE = 0.5  # of a block's time, from taking a block to sending on it
_LANDED = {IntentState.MINED: "won", IntentState.REVERTED: "reverted"}

Simulate = Callable[[Plan, int], Awaitable[Simulated]]
"""What a plan's very transaction does in a block of this time on the newest one; raises WouldRevert, Refused or Unknown."""


class Stopped(LiveError):
    """The run ended because something outside cannot be true, or could not be written down. Nothing more was sent."""


@dataclass
class Parts:
    """What a runner is made of. ``simulate`` is None in a replay, where there is no node to ask."""

    feed: Feed
    observer: Observer
    decider: Decider
    planner: Planner
    gate: RiskGate
    kill: KillSwitch
    sender: Sender
    clock: Clock
    metrics: Metrics
    tally: Tally
    expires_at_s: float
    channels: frozenset[Channel] = frozenset(("private", "public"))  # ways that there are to send
    simulate: Simulate | None = None
    pays_gas: bool = True  # there is an account
    journaled: Callable[[str], bool] = lambda key: False  # whether a plan of this key was written before
    earlier: Callable[[], list[Outcome]] = list  # how intents of earlier processes ended, all of them
    prices: EndPrices = field(default_factory=EndPrices)  # the coin's, at those ends
    open_intents: Callable[[], list[str]] = list  # keys of what was journaled and has not ended
    next_nonce: Callable[[], int | None] = lambda: None
    with_next_commit: Callable[[], AbstractContextManager[None]] = nullcontext  # around what may wait for the journal's next
    flush: Callable[[], None] = lambda: None  # the commit of what waited for one in vain
    each_block: list[Callable[[ChainView], None]] = field(default_factory=list)  # a recorder, the limits' file, a clock


class Runner:
    """Runs until it is told to stop, the feed ends, or something breaks."""

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self.view: ChainView | None = None
        self.decisions = 0
        self.rows: deque[DecisionRow] = deque(maxlen=LATEST_DECISIONS)  # newest first
        self._log = structlog.get_logger("arbgym.live")
        self._stopping = False
        self._waiting: asyncio.Future[ChainView] | None = None
        self._taken_s = 0.0  # when the newest block was taken
        self._unsent: Decision | None = None  # of the block before, where it wanted a trade and none was sent
        self._told: dict[str, float] = {}  # what the next observation has to tell
        self._keys: dict[str, float] = {}  # own_bid of intents that have not ended
        self._decided: dict[str, int] = {}  # the block in which the latest intents were decided
        self._taken_up = False  # what ended in earlier processes is counted
        self._recovered = False  # what they left open is settled
        self._logged: set[tuple[str, IntentState]] = set()  # ends that an earlier process kept the price of
        self._unpriced: list[tuple[Outcome, float]] = []  # from the first on whose price (NaN) nobody kept, in their order
        self._stands = ("ACTIVE", False)  # the gate's state and the kill switch, as the log has them

    @property
    def stopping(self) -> bool:
        """Told to end."""
        return self._stopping

    def stop(self) -> None:
        """End after the block at hand; nothing more is decided. What is open is settled by the next process."""
        self._stopping = True
        if self._waiting is not None:
            self._waiting.cancel()

    async def run(self, blocks: int | None = None) -> int:
        """Take ``blocks`` blocks (None: without end); returns how many. Raises Stopped, and FeedBroken where it never began."""
        taken = 0
        try:
            self._take_up()
            view = await self._opened()
            while view is not None:
                await self.take(view)
                taken += 1
                if self._stopping or taken == blocks:
                    break
                view = await self._next()
        except LiveError as error:
            self.parts.gate.halt(str(error))
            self._log.error("stopped", reason=str(error))
            raise Stopped(str(error)) from error
        if opened := self.parts.open_intents():
            self._log.warning("intents are open; the next start settles them", keys=opened)
        return taken

    async def _opened(self) -> ChainView | None:
        return await self._patiently(self.parts.feed.open)

    async def _next(self) -> ChainView | None:
        return await self._patiently(self.parts.feed.next)

    async def _patiently(self, ask: Callable[[], Awaitable[ChainView]]) -> ChainView | None:
        """The feed's answer, however long it takes; None at its end, or when told to stop."""
        wait_s, down = 0.25, False
        while not self._stopping:
            try:
                self._waiting = asyncio.ensure_future(ask())
                view = await self._waiting
                if down:
                    self._log.info("feed up again", block=view.head.number)
                return view
            except asyncio.CancelledError:
                if not self.stopping:  # somebody else cancelled
                    raise
                return None
            except EndOfFeed:
                return None
            except FeedDown as error:
                self._log.warning("feed down", reason=str(error), again_in_s=wait_s)
                down = True
            await self.parts.clock.sleep(wait_s)
            wait_s = min(2.0 * wait_s, _LONGEST_WAIT_S)
        return None

    # ------------------------------------------------------------------------------------------------------- one block
    async def take(self, view: ChainView) -> None:
        """Take one block. Raises Stopped where it cannot go on."""
        parts = self.parts
        self.view = view = believed(view, parts.observer.watched)
        for each in parts.each_block:
            each(view)
        self._taken_s = parts.clock.monotonic()  # after a replay's clock went on to the block
        parts.gate.head(float(view.head.timestamp))
        try:
            if not self._recovered:
                await self._recover()
            outcomes = await parts.sender.settle(view)
        except (Refused, Unknown) as error:
            outcomes = []
            self._log.warning("not settled", block=view.head.number, reason=str(error))
        except LiveError as error:
            raise Stopped(f"the journal could not be kept: {error}") from error
        if parts.sender.trouble:
            self._log.warning("not settled", block=view.head.number, reason=parts.sender.trouble)
        if race := parts.sender.take_nonce_race():
            parts.gate.halt(race)
        self._tell(outcomes)
        with parts.with_next_commit():  # a process that is killed before is told of these outcomes again
            for outcome in outcomes:
                self._record(outcome)
                parts.prices.keep(outcome.key, self._quote_per_eth())  # for the next process
        try:
            observation = parts.observer.advance(view, self._told)
        except NotObservable as error:
            self._log.warning("nothing observed", block=view.head.number, reason=str(error))
        else:
            self._told = {}
            if view.newest and not self._stopping:
                await self._decide(view, observation)
        # after the decision, which waits for no log and no figure
        for outcome in outcomes:
            self._report(outcome, self._quote_per_eth())
        try:
            parts.gate.keep()
            parts.flush()
        except LiveError as error:
            raise Stopped(f"the journal could not be kept: {error}") from error
        self._say_where_it_stands()
        self._show(view)

    def _say_where_it_stands(self) -> None:
        """A line for each change of the gate's state and of the kill switch, whoever made it."""
        gate, killed = self.parts.gate, self.parts.kill.engaged()
        state, was_killed = self._stands
        if gate.state.value != state:
            say = self._log.info if gate.state.value == "ACTIVE" else self._log.error
            say("gate", state=gate.state.value, before=state, reason=gate.reason)
        if killed != was_killed:
            say = self._log.error if killed else self._log.warning
            say("kill switch", engaged=killed, reason=self.parts.kill.reason(), file=str(self.parts.kill.path))
        self._stands = (gate.state.value, killed)

    def _take_up(self) -> None:
        """Count what earlier processes' intents came to, before there are blocks to wait for it."""
        for outcome in self.parts.earlier():
            price = self.parts.prices.at_end(outcome.key, math.nan)
            if math.isfinite(price):
                self._logged.add((outcome.key, outcome.state))
            if math.isfinite(price) and not self._unpriced:
                self.parts.tally.settled(outcome, price)
            else:
                self._unpriced.append((outcome, price))
        self._taken_up = True

    async def _recover(self) -> None:
        """Settle what earlier processes left open. Ends reach the gate before anything acknowledges them."""
        parts = self.parts
        if not self._taken_up:
            self._take_up()
        now = self._quote_per_eth()
        for outcome, price in self._unpriced:
            parts.tally.settled(outcome, price if math.isfinite(price) else now)
        found = await parts.sender.start()
        parts.gate.keep_open(set(parts.open_intents()) | {outcome.key for outcome in found})
        for outcome in found:
            self._record(outcome)
            # an earlier process that kept its price went on to log it: who adds up the log must not count it twice
            again = (outcome.key, outcome.state) in self._logged
            price = parts.prices.at_end(outcome.key, now)  # of one that the earlier process saw, but did not acknowledge
            parts.prices.keep(outcome.key, price)
            self._report(outcome, price, again)
        parts.metrics.totals(parts.tally.totals(self.decisions))  # alerts of earlier ends do not wait for the next one
        self._logged.clear()
        self._unpriced.clear()
        self._recovered = True

    def _tell(self, outcomes: list[Outcome]) -> None:
        """What became of the last wish, as the environment tells it: what did not land was dropped, whoever stopped it."""
        told = self._told
        for outcome in outcomes:
            bid = self._keys.pop(outcome.key, None)
            if bid is None or outcome.state not in SETTLED:
                continue
            told[_LANDED.get(outcome.state, "dropped")] = 1.0
            told["own_bid"] = bid
            if outcome.state is IntentState.REVERTED:
                cost = (outcome.gas_cost_wei + outcome.tip_wei) / WEI * self._quote_per_eth()
                told["revert_cost"] = told.get("revert_cost", 0.0) + cost
        if not told and self._unsent is not None:
            told.update(dropped=1.0, own_bid=self._unsent.own_bid)
        self._unsent = None

    async def _decide(self, view: ChainView, observation: Any) -> None:
        parts = self.parts
        started = time.perf_counter()
        try:
            decision = parts.decider.decide(observation)
        except PolicyError as error:
            self._log.error("no decision", block=view.head.number, reason=str(error))
            parts.metrics.decided("refused", time.perf_counter() - started)
            return
        parts.metrics.decided(decision.text.split(" ", 1)[0], time.perf_counter() - started, parts.observer.clipped())
        self.decisions += 1
        self._unsent = decision if decision.attempting else None
        row = DecisionRow(
            time_s=parts.clock.now(),
            block_number=view.head.number,
            action=decision.text,
            confidence=decision.confidence,
            notional_quote=decision.notional_quote,
            expected_profit_quote=decision.predicted_quote,
            verdict="",
            state="",
        )
        if decision.acting:
            verdict, state = await self._act(decision, view)
            row = replace(row, verdict=verdict, state=state)
            self._log.info(
                "decision",
                block=view.head.number,
                action=decision.text,
                confidence=round(decision.confidence, 4),
                notional_quote=round(decision.notional_quote, 6),
                predicted_quote=round(decision.predicted_quote, 6),
                verdict=verdict,
                state=state,
            )
        self.rows.appendleft(row)

    async def _act(self, decision: Decision, view: ChainView) -> tuple[str, str]:
        """Try a wanted trade: (verdict, state of its intent or nothing)."""
        parts = self.parts
        if parts.clock.now() >= parts.expires_at_s:
            parts.gate.halt("the policy expired")
        if parts.sender.busy:
            return "another intent is open", ""
        if decision.channel not in parts.channels:
            return "relay.url is empty: no way to send private transactions", ""
        made = parts.planner.plan(decision, view)
        if isinstance(made, str):
            return made, ""
        plan, order = made
        started = time.perf_counter()
        verdict = parts.gate.check(order)
        judged_s = time.perf_counter() - started
        found: tuple[Plan, Order] | Verdict | str = plan, order
        if verdict.allowed and parts.simulate is not None:
            found = await self._simulated(plan, decision, view, parts.simulate)
            verdict = found if isinstance(found, Verdict) else verdict
        parts.metrics.judged(verdict, judged_s)
        if isinstance(found, Verdict) or not verdict.allowed:
            return _words(verdict), ""
        if isinstance(found, str):
            return found, ""
        plan, order = found
        if parts.journaled(plan.key):
            return "this very plan was journaled before", ""
        slow_s = parts.clock.monotonic() - self._taken_s
        if slow_s > _SLOWEST_SHARE * parts.observer.config.chain.block_time_s:
            return f"took {slow_s:.3g} s; accepted is up to {_SLOWEST_SHARE:g} of a block's time", ""
        return await self._send(plan, order, decision)

    async def _simulated(
        self, plan: Plan, decision: Decision, view: ChainView, simulate: Simulate
    ) -> tuple[Plan, Order] | Verdict | str:
        """The plan that is sent, after the node has executed the very transaction; or what the gate refused, or in words why not.

        It is judged by the gas that it uses. The tip is paid on each gas, so that a plan priced by quite another gas is priced
        and simulated anew: a route's first plan as a rule, later ones seldom.
        """
        parts = self.parts
        next_time_s = view.head.timestamp + max(round(parts.observer.config.chain.block_time_s), 1)
        for _ in range(_SIMULATIONS):
            started = time.perf_counter()
            try:
                done = await simulate(plan, next_time_s)
            except (WouldRevert, Refused, Unknown) as error:
                return f"simulation: {error}"
            finally:
                parts.metrics.latency("simulate", time.perf_counter() - started)
            if done.profit_raw != plan.expected_profit_raw:
                return f"simulation: {done.profit_raw} raw; expected is {plan.expected_profit_raw}"
            made = parts.planner.at_gas(plan, decision, view, done.gas_used)
            if isinstance(made, str):
                return made
            simulated, (plan, order) = plan, made
            verdict = parts.gate.check(order)
            if not verdict.allowed:
                return verdict
            if plan == simulated:
                return plan, order
        return f"simulation: {done.gas_used} gas, another figure each of {_SIMULATIONS} times"

    async def _send(self, plan: Plan, order: Order, decision: Decision) -> tuple[str, str]:
        parts = self.parts
        started = time.perf_counter()
        with parts.with_next_commit():  # that of the intent
            parts.gate.sent(order)
        self._decided = dict([*self._decided.items(), (plan.key, plan.block_number)][-LATEST_DECISIONS:])
        self._keys[plan.key] = decision.own_bid
        self._unsent = None
        try:
            state = await parts.sender.send(plan, lambda: parts.gate.still_allowed(order))
        except LiveError as error:
            raise Stopped(f"the intent of block {plan.block_number} could not be kept: {error}") from error
        parts.metrics.latency("sign_and_send", time.perf_counter() - started)
        self._log.info(
            "intent",
            key=plan.key,
            block=plan.block_number,
            state=state.value,
            channel=plan.channel,
            amount_in_raw=str(plan.amount_in_raw),
            expected_profit_raw=str(plan.expected_profit_raw),
            minimum_profit_raw=str(plan.minimum_profit_raw),
            expected_net_eth=order.expected_profit_eth,
            gas_used=plan.gas_used,
            to=plan.to,
            data=plan.data,
        )
        return "allowed", state.value

    def _record(self, outcome: Outcome) -> None:
        """The gate learns of an end."""
        per_eth = self._quote_per_eth()
        unit = 10.0 ** self.parts.observer.watched[0].quote_decimals
        self.parts.gate.record(outcome, outcome.profit_raw / unit / per_eth if per_eth > 0.0 else 0.0)

    def _report(self, outcome: Outcome, quote_per_eth: float, again: bool = False) -> None:
        """Everybody else does; ``again``: an earlier process has logged it."""
        parts = self.parts
        parts.tally.settled(outcome, quote_per_eth)
        for place, row in enumerate(self.rows):
            if row.block_number == self._decided.get(outcome.key) and row.state:
                self.rows[place] = replace(row, state=outcome.state.value)
        parts.metrics.settled(outcome, parts.tally.totals(self.decisions))
        self._log.info(
            "outcome",
            key=outcome.key,
            state=outcome.state.value,
            block=outcome.block_number,
            profit_raw=str(outcome.profit_raw),
            gas_cost_wei=str(outcome.gas_cost_wei),
            tip_wei=str(outcome.tip_wei),
            **({"again": True} if again else {}),
        )

    def _show(self, view: ChainView) -> None:
        gate = self.parts.gate
        self.parts.metrics.view(view, self.pools(), paying=self.parts.pays_gas)
        killed = self.parts.kill.engaged()
        self.parts.metrics.sending(len(self.parts.open_intents()), self.parts.next_nonce(), self.parts.sender.chain_nonce)
        self.parts.metrics.gate(gate.state.value, killed, gate.drawdown, gate.exposure_eth, gate.equity_eth, gate.status())

    def _quote_per_eth(self) -> float:
        """The coin's price at the newest block, by the first pool where no outside price is known yet; 0 before any block."""
        view, observer = self.view, self.parts.observer
        if view is None:
            return self.parts.planner.quote_per_eth
        price = mid_price(view.pools[0], observer.watched[0]) if view.reference is None else view.reference.price
        return float(price * observer.config.chain.native_price_ratio)

    def pools(self) -> list[PoolRow]:
        """The watched pools at the newest block."""
        if self.view is None:
            return []
        return [pool_row(watched, pool) for pool, watched in zip(self.view.pools, self.parts.observer.watched, strict=True)]


def _words(verdict: Verdict) -> str:
    return f"{verdict.limit} = {verdict.value:.6g}; accepted is {verdict.accepted}"
