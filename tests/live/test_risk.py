"""The risk gate against its rules written down plainly, over random histories; its states, restarts, corrections and limits."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.live.profiles import NAMES, PROFILES, Limits, looser, profile_limits, tighter
from arbgym.live.risk import GateState, MemoryStore, RiskGate
from arbgym.live.terms import IntentState, LiveError, Order, Outcome

MIDNIGHT_S = 1_699_920_000.0
# powers of two throughout, so that the plain rules and the gate's integers meet limits exactly
LIMITS = Limits(8.0, 4.0, 0.5, 8.0, 0.5, 0.5, 0.125, 3, 4, 24.0, 24.0, 1.0, 0.5, 0.25, 0.25)
WIDE = Limits(1e9, 1e9, 1e9, 1e9, 1e9, 1e9, 1.0, 10**6, 10**6, 1e9, 1e9, 1e9, 0.0, 1.0, 0.0)
EQUITY_ETH = 8.0
ORDER = Order("0", 1, MIDNIGHT_S, MIDNIGHT_S, 1.0, 1.0, True, 0.5, 0.0, 0.75)


class TestClock:
    """Time as a test sets it."""

    __test__ = False

    def __init__(self, now_s: float = MIDNIGHT_S) -> None:
        self.now_s = self.monotonic_s = now_s

    def now(self) -> float:
        return self.now_s

    def monotonic(self) -> float:
        return self.monotonic_s

    async def sleep(self, seconds: float) -> None:
        self.pass_by(seconds)

    def pass_by(self, seconds: float) -> None:
        self.now_s += seconds
        self.monotonic_s += seconds


class JsonStore:
    """What a journal does: keeps text. ``failing`` makes it a full disk."""

    def __init__(self) -> None:
        self.kept: dict[str, str] = {}
        self.failing = False

    def get(self, name: str) -> dict[str, Any] | None:
        return json.loads(self.kept[name]) if name in self.kept else None

    def put(self, name: str, value: dict[str, Any]) -> None:
        if self.failing:
            raise OSError(28, "No space left on device")
        self.kept[name] = json.dumps(value, allow_nan=False)


def outcome(
    order: Order, state: IntentState, time_s: float, cost_eth: float = 0.0, block: int | None = None, **more: Any
) -> Outcome:
    block = order.block_number + 1 if block is None else block
    return Outcome(order.key, state, block, time_s, 0, round(cost_eth * 10**18), 0, "public", **more)


# ---------------------------------------------------------------------------------------------------- the rules, plainly
@dataclass
class Ended:
    """One order's end, as the plain rules remember it."""

    order: Order
    state: IntentState
    profit_eth: float
    cost_eth: float
    time_s: float

    @property
    def net_eth(self) -> float:
        return (self.profit_eth if self.state is IntentState.MINED else 0.0) - self.cost_eth


@dataclass
class Story:
    """Everything that happened, and every rule as one line over all of it."""

    limits: Limits
    ended: list[Ended] = field(default_factory=list)
    sent: list[tuple[float, Order]] = field(default_factory=list)
    pending: list[Order] = field(default_factory=list)
    state: str = "ACTIVE"

    def today(self, now: float) -> list[Ended]:
        return [end for end in self.ended if end.time_s // 86_400 == now // 86_400]

    def equity(self) -> float:
        return EQUITY_ETH + sum(end.net_eth for end in self.ended)

    def peak(self) -> float:
        path = np.cumsum([EQUITY_ETH, *(end.net_eth for end in self.ended)])
        return float(path.max())

    def exposure(self) -> float:
        open_eth = 0.0
        for end in self.ended:
            if end.state is IntentState.MINED and not end.order.flash:
                open_eth += -end.order.notional_eth if end.order.reduces_exposure else end.order.notional_eth
        return open_eth

    def reverts(self) -> int:
        count = 0
        for end in self.ended:
            count = {IntentState.REVERTED: count + 1, IntentState.MINED: 0}.get(end.state, count)
        return count

    def success_rate(self) -> float:
        tried = [end for end in self.ended if end.order.worst_cost_eth > 0.0 and end.state is not IntentState.DROPPED]
        ages = [0.98**age for age in range(len(tried))][::-1]
        good = 1.0 + sum(weight for weight, end in zip(ages, tried, strict=True) if end.net_eth > 0.0)
        bad = 1.0 + sum(weight for weight, end in zip(ages, tried, strict=True) if end.net_eth <= 0.0)
        variance = good * bad / ((good + bad) ** 2 * (good + bad + 1.0))
        return max(good / (good + bad) - math.sqrt(variance), 0.0)

    def settle(self, now: float) -> None:
        loss, gas = -sum(end.net_eth for end in self.today(now)), sum(end.cost_eth for end in self.today(now))
        fall = self.peak() - self.equity()
        if loss > 0.0 and loss >= self.limits.max_daily_loss_eth:
            self.state = "HALTED"
        if fall > 0.0 and fall >= self.limits.max_drawdown * self.peak():
            self.state = "HALTED"
        used_up = gas > 0.0 and gas >= self.limits.gas_budget_eth_per_day
        if self.state == "ACTIVE" and (used_up or self.reverts() >= self.limits.max_consecutive_reverts):
            self.state = "REDUCING"

    def broken(self, order: Order, now: float) -> set[str]:
        """Names of all limits that the order breaks."""
        limits, reduces = self.limits, order.reduces_exposure
        waiting_eth = sum(other.notional_eth for other in self.pending if not other.flash and not other.reduces_exposure)
        selling_eth = sum(other.notional_eth for other in self.pending if other.reduces_exposure)
        after_eth = self.exposure() + waiting_eth + order.notional_eth
        inventory = not order.flash and not reduces
        worst_eth = order.worst_cost_eth + sum(other.worst_cost_eth for other in self.pending)
        net_eth = sum(end.net_eth for end in self.today(now))
        gas_eth = sum(end.cost_eth for end in self.today(now))
        rate, odds = self.success_rate(), order.expected_profit_eth / order.worst_cost_eth if order.worst_cost_eth else math.inf
        kelly_eth = limits.kelly_fraction * (rate - (1.0 - rate) / odds) * self.equity() if odds > 0.0 else 0.0
        rules = {
            "order.reduces_exposure": reduces and (order.flash or order.notional_eth > self.exposure() - selling_eth),
            "state": self.state == "HALTED" or (self.state == "REDUCING" and not reduces),
            "max_head_age_s": now - order.head_time_s > limits.max_head_age_s,
            "max_reference_age_s": order.reference_time_s is not None
            and now - order.reference_time_s > limits.max_reference_age_s,
            "max_clock_skew_s": max(order.head_time_s, order.reference_time_s or 0.0) - now > limits.max_clock_skew_s,
            "max_orders_per_minute": sum(now - time_s < 60.0 for time_s, _ in self.sent) + 1 > limits.max_orders_per_minute,
            "max_notional_eth": order.notional_eth > limits.max_notional_eth,
            "max_flash_borrow_eth": order.borrowed_eth > limits.max_flash_borrow_eth,
            "max_exposure_eth": inventory and after_eth > limits.max_exposure_eth,
            "max_leverage": inventory and after_eth > limits.max_leverage * self.equity(),
            "max_daily_loss_eth": worst_eth - net_eth > limits.max_daily_loss_eth,
            "max_drawdown": self.peak() - (self.equity() - worst_eth) > limits.max_drawdown * self.peak(),
            "min_confidence": order.confidence < limits.min_confidence,
            "max_consecutive_reverts": not reduces and self.reverts() >= limits.max_consecutive_reverts,
            "gas_budget_eth_per_day": not reduces and gas_eth + worst_eth > limits.gas_budget_eth_per_day,
            "min_profit_eth": not reduces and order.expected_profit_eth < limits.min_profit_eth,
            "kelly_fraction": not reduces and order.worst_cost_eth > kelly_eth and order.worst_cost_eth > 0.0,
        }
        return {name for name, is_broken in rules.items() if is_broken}


EIGHTHS = [0.0, 0.0625, 0.125, 0.25, 0.5]


@st.composite
def events(draw: Any) -> dict[str, Any]:
    """A pause, then an order that is asked about, and how it would end."""
    kind = draw(st.sampled_from(["flash"] * 6 + ["inventory", "inventory", "sale"]))
    notional_eth = draw(st.sampled_from([0.0, 1.0, 2.0, 4.0] if kind != "flash" else [1.0, 4.0, 8.0, 8.5]))
    return {
        "pause_s": draw(st.sampled_from([0.0, 12.0, 12.0, 30.0, 60.0, 86_400.0])),
        "head_age_s": draw(st.sampled_from([0.0] * 8 + [24.0, 24.5, -1.0, -1.5])),
        "reference_age_s": draw(st.sampled_from([None] + [0.0] * 8 + [24.0, 24.5, -1.0, -1.5])),
        "notional_eth": notional_eth,
        "borrowed_eth": notional_eth if kind == "flash" else 0.0,
        "flash": kind == "flash",
        "reduces_exposure": kind == "sale",
        "expected_profit_eth": draw(st.sampled_from([0.125, 0.25, 0.5, 1.0, 2.0, 4.0])),
        "worst_cost_eth": draw(st.sampled_from(EIGHTHS)),
        "confidence": draw(st.sampled_from([0.25, 0.5, 0.75, 1.0, 1.0])),
        "end": draw(st.sampled_from([IntentState.MINED, IntentState.MINED, IntentState.REVERTED, IntentState.DROPPED, None])),
        "profit_eth": draw(st.sampled_from([0.0, 0.25, 1.0])),
        "cost_eth": draw(st.sampled_from(EIGHTHS)),
        "insist": draw(st.booleans()),  # the story goes on as if the order had been allowed
    }


def order_of(event: dict[str, Any], number: int, now: float) -> Order:
    names = {entry.name for entry in fields(Order)}
    age = event["reference_age_s"]
    return Order(
        key=str(number),
        block_number=number,
        head_time_s=now - event["head_age_s"],
        reference_time_s=None if age is None else now - age,
        **{name: value for name, value in event.items() if name in names},
    )


def live_through(gate: RiskGate, clock: TestClock, order: Order, event: dict[str, Any]) -> None:
    """The order goes out and ends as the event says."""
    gate.sent(order)
    if event["end"] is not None:
        cost_eth = 0.0 if event["end"] is IntentState.DROPPED else event["cost_eth"]
        gate.record(outcome(order, event["end"], clock.now(), cost_eth), event["profit_eth"])


# by these, limits that others hide behind the day's loss come first, too
DAY_IS_OPEN = replace(
    LIMITS, max_daily_loss_eth=64.0, gas_budget_eth_per_day=64.0, max_consecutive_reverts=64, max_drawdown=0.0625
)
RATE_IS_OPEN = replace(DAY_IS_OPEN, max_orders_per_minute=64, kelly_fraction=1.0, max_drawdown=1.0, max_leverage=0.375)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([LIMITS, DAY_IS_OPEN, RATE_IS_OPEN]), st.lists(events(), max_size=14))
def test_what_passes_is_what_breaks_no_rule(limits: Limits, told: list[dict[str, Any]]) -> None:
    clock, story = TestClock(), Story(limits)
    gate = RiskGate(limits, clock, MemoryStore(), EQUITY_ETH)
    for number, event in enumerate(told):
        clock.pass_by(event["pause_s"])
        order, now = order_of(event, number, clock.now()), clock.now()
        broken, verdict = story.broken(order, now), gate.check(order)
        assert verdict.allowed == (not broken), (verdict, broken)
        assert verdict.allowed or (verdict.limit in broken and verdict.accepted)
        if not verdict.allowed and (not event["insist"] or "order.reduces_exposure" in broken):
            continue
        live_through(gate, clock, order, event)
        story.sent.append((now, order))
        if event["end"] is None:
            story.pending.append(order)
        else:
            cost_eth = 0.0 if event["end"] is IntentState.DROPPED else event["cost_eth"]
            story.ended.append(Ended(order, event["end"], event["profit_eth"], cost_eth, now))
            story.settle(now)
        assert gate.state.value == story.state


@settings(max_examples=150, deadline=None)
@given(st.lists(events(), max_size=10), st.data())
def test_a_tighter_limit_never_allows_more(told: list[dict[str, Any]], data: st.DataObject) -> None:
    name = data.draw(st.sampled_from(NAMES))
    value = getattr(LIMITS, name)
    changed = max(1, value - 1) if isinstance(value, int) else value * 2 if name.startswith("min_") else value / 2
    strict = replace(LIMITS, **{name: changed})
    clock = TestClock()
    gates = [RiskGate(limits, clock, MemoryStore(), EQUITY_ETH) for limits in (LIMITS, strict)]
    for number, event in enumerate(told):
        clock.pass_by(event["pause_s"])
        order = order_of(event, number, clock.now())
        loose_verdict, strict_verdict = (gate.check(order) for gate in gates)
        assert loose_verdict.allowed or not strict_verdict.allowed
        if event["insist"]:
            for gate in gates:
                live_through(gate, clock, order, event)


@pytest.mark.parametrize(
    "name", ["head_time_s", "notional_eth", "borrowed_eth", "worst_cost_eth", "expected_profit_eth", "confidence"]
)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.001])
def test_an_amount_that_is_none_is_refused(name: str, value: float) -> None:
    gate = RiskGate(WIDE, TestClock(), MemoryStore(), EQUITY_ETH)
    assert gate.check(ORDER).allowed
    assert gate.check(replace(ORDER, **{name: value})).limit == f"order.{name}"


@pytest.mark.parametrize(
    "changes",
    [
        {"reference_time_s": math.nan},
        {"reference_time_s": -1.0},
        {"confidence": 1.001},
        {"block_number": -1},
        {"key": ""},
        {"reduces_exposure": True},
        {"expected_profit_eth": math.nan, "reduces_exposure": True},
    ],
)
def test_an_order_that_contradicts_itself_is_refused(changes: dict[str, Any]) -> None:
    gate = RiskGate(WIDE, TestClock(), MemoryStore(), EQUITY_ETH)
    verdict = gate.check(replace(ORDER, **changes))
    assert not verdict.allowed
    assert verdict.limit.startswith("order.")


# ------------------------------------------------------------------------------------------------------------------ states
@settings(max_examples=100, deadline=None)
@given(
    st.lists(
        st.one_of(
            events(),
            st.sampled_from(["restart", "confirm", "loosen", "head", "next day", "jump", "halt"]),
        ),
        max_size=14,
    )
)
def test_only_resume_leads_back(told: list[Any]) -> None:
    clock, store = TestClock(), JsonStore()
    gate = RiskGate(LIMITS, clock, store, EQUITY_ETH)
    order_of_states = list(GateState)
    worst = 0
    for number, event in enumerate(told):
        if event == "restart":
            gate = RiskGate(gate.limits, clock, store, EQUITY_ETH)
        elif event == "confirm":
            gate.confirm()
        elif event == "loosen":
            gate.replace_limits(WIDE)
        elif event == "head":
            gate.head(clock.now())
        elif event == "next day":
            clock.pass_by(86_400.0)
        elif event == "jump":
            clock.now_s += 5_000.0
            gate.head(clock.now())
        elif event == "halt":
            gate.halt("a test")
        else:
            live_through(gate, clock, order_of(event, number, clock.now()), event)
        now = order_of_states.index(gate.state)
        assert now >= worst
        worst = now
        if gate.state is GateState.HALTED:
            fresh = replace(ORDER, head_time_s=clock.now(), reference_time_s=None)
            assert gate.check(fresh).limit == "state"


def reverted(gate: RiskGate, clock: TestClock, number: int, cost_eth: float) -> None:
    order = replace(ORDER, key=f"revert {number}", block_number=number, worst_cost_eth=cost_eth, head_time_s=clock.now())
    gate.sent(order)
    gate.record(outcome(order, IntentState.REVERTED, clock.now(), cost_eth), 0.0)


def test_resume_forgives_reverts_and_drawdown_but_not_the_day() -> None:
    clock = TestClock()
    limits = replace(WIDE, max_consecutive_reverts=2, max_drawdown=0.1, max_daily_loss_eth=0.5)
    gate = RiskGate(limits, clock, MemoryStore(), EQUITY_ETH)
    reverted(gate, clock, 1, 0.01)
    reverted(gate, clock, 2, 0.01)
    assert (gate.state, gate.check(ORDER).limit) == (GateState.REDUCING, "state")
    rate = gate.success_rate
    gate.resume("looked at")
    assert (gate.state, gate.reason, gate.check(ORDER).allowed) == (GateState.ACTIVE, "looked at", True)
    assert gate.success_rate > rate
    reverted(gate, clock, 3, 0.48)
    assert gate.state is GateState.HALTED
    with pytest.raises(LiveError, match=r"max_daily_loss_eth = 0\.5; accepted for a resume is below 0\.5"):
        gate.resume("too early")
    assert gate.state is GateState.HALTED
    clock.pass_by(86_400.0)
    assert gate.state is GateState.HALTED
    gate.resume("a new day")
    assert gate.state is GateState.ACTIVE
    reverted(gate, clock, 8_000, 0.0)
    clock.pass_by(86_400.0)
    reverted(gate, clock, 8_001, 0.45)  # below the day's limit
    clock.pass_by(86_400.0)
    gate.resume("reverts in a row")
    reverted(gate, clock, 8_002, 0.4)
    clock.pass_by(86_400.0)
    assert gate.state is GateState.ACTIVE
    reverted(gate, clock, 8_003, 0.4)  # 0.8 of 7 lost since the resume, in two days
    assert (gate.state, "max_drawdown" in gate.reason) == (GateState.HALTED, True)
    gate.resume("the strategy was changed")
    assert gate.drawdown == 0.0


def test_a_day_ends_at_midnight_utc_and_a_clock_that_goes_back_does_not_begin_one() -> None:
    clock = TestClock(MIDNIGHT_S + 86_399.0)
    gate = RiskGate(replace(WIDE, max_daily_loss_eth=0.5), clock, MemoryStore(), EQUITY_ETH)
    reverted(gate, clock, 1, 0.375)
    asked = replace(ORDER, worst_cost_eth=0.25, expected_profit_eth=10.0)
    assert gate.check(asked).limit == "max_daily_loss_eth"
    clock.pass_by(1.0)
    assert gate.check(asked).allowed
    reverted(gate, clock, 2, 0.375)
    clock.now_s -= 2 * 86_400.0
    assert gate.check(asked).limit == "max_daily_loss_eth"


@pytest.mark.parametrize("jump_s", [1.5, -1.5, 86_400.0])
def test_a_clock_that_jumps_halts(jump_s: float) -> None:
    clock = TestClock()
    gate = RiskGate(LIMITS, clock, MemoryStore(), EQUITY_ETH)
    for _ in range(100):  # a slewed clock is none that jumps
        clock.pass_by(12.0)
        clock.now_s += 0.05
        assert gate.check(replace(ORDER, head_time_s=clock.now(), reference_time_s=None)).allowed
    clock.now_s += jump_s
    assert gate.check(replace(ORDER, head_time_s=clock.now(), reference_time_s=None)).limit == "state"
    assert "clock jumped" in gate.reason


def test_a_head_older_than_the_orders_is_what_counts() -> None:
    clock = TestClock()
    gate = RiskGate(LIMITS, clock, MemoryStore(), EQUITY_ETH)
    gate.head(clock.now() - 25.0)
    assert gate.check(ORDER).limit == "max_head_age_s"
    gate.head(clock.now() + 1.5)
    assert gate.check(ORDER).limit == "max_clock_skew_s"
    gate.head(clock.now())
    assert gate.check(ORDER).allowed


def test_the_last_moment_counts_the_order_itself_once() -> None:
    clock = TestClock()
    tight = replace(LIMITS, max_orders_per_minute=1, max_daily_loss_eth=0.25, max_exposure_eth=2.0)
    gate = RiskGate(tight, clock, MemoryStore(), EQUITY_ETH)
    order = replace(
        ORDER, flash=False, borrowed_eth=0.0, notional_eth=2.0, worst_cost_eth=0.25, expected_profit_eth=16.0, confidence=1.0
    )
    assert gate.still_allowed(order).limit == "order.key"
    assert gate.check(order).allowed
    gate.sent(order)
    assert gate.still_allowed(order).allowed
    assert gate.check(replace(order, key="another")).limit == "max_orders_per_minute"
    gate.replace_limits(replace(tight, max_notional_eth=1.0))
    assert gate.still_allowed(order).limit == "max_notional_eth"
    clock.pass_by(25.0)
    assert gate.still_allowed(order).limit == "max_reference_age_s"


def test_drawdown_is_from_the_highest_equity() -> None:
    clock = TestClock()
    gate = RiskGate(replace(WIDE, max_drawdown=0.25), clock, MemoryStore(), EQUITY_ETH)
    live_through(gate, clock, ORDER, {"end": IntentState.MINED, "cost_eth": 0.0, "profit_eth": 8.0})
    reverted(gate, clock, 1, 3.0)
    assert gate.state is GateState.ACTIVE
    assert gate.drawdown == 3.0 / 16.0
    reverted(gate, clock, 2, 1.0)
    assert gate.state is GateState.HALTED


@pytest.mark.parametrize("lost_eth", [8.0, 9.0])
def test_without_equity_all_of_it_is_lost(lost_eth: float) -> None:
    clock, store = TestClock(), JsonStore()
    gate = RiskGate(WIDE, clock, store, EQUITY_ETH)
    reverted(gate, clock, 1, lost_eth)
    named = rf"equity = {EQUITY_ETH - lost_eth:g} ETH; accepted is above 0: a larger risk\.equity_eth in the settings"
    assert (gate.drawdown, gate.state, gate.check(ORDER).limit) == (1.0, GateState.HALTED, "state")
    assert re.match(named, gate.reason)
    assert next(row.value for row in gate.status() if row.name == "max_drawdown") == 1.0
    for again in (gate, RiskGate(WIDE, clock, store, EQUITY_ETH)):
        with pytest.raises(LiveError, match=named):
            again.resume("hope")
        assert again.state is GateState.HALTED and again.drawdown == 1.0 and not again.check(ORDER).allowed
    more = RiskGate(WIDE, clock, store, EQUITY_ETH + 4.0)
    assert more.state is GateState.HALTED and more.equity_eth == 12.0 - lost_eth
    more.resume("paid in")
    assert (more.state, more.drawdown, more.check(ORDER).allowed) == (GateState.ACTIVE, 0.0, True)


@pytest.mark.parametrize("equity_eth", [0.5, 4.0, 6.0])
def test_capital_that_is_taken_out_after_losses_may_leave_none(equity_eth: float) -> None:
    clock, store = TestClock(), JsonStore()
    gate = RiskGate(WIDE, clock, store, 8.0)
    reverted(gate, clock, 1, 4.0)
    gate.resume("a loss that was looked at: the highest equity is what is left")
    again = RiskGate(WIDE, clock, store, equity_eth)  # 4 less than that
    assert again.equity_eth == equity_eth - 4.0
    if equity_eth > 4.0:
        assert again.state is GateState.ACTIVE and 0.0 <= again.drawdown < 1.0
        return
    assert (again.drawdown, again.state) == (1.0, GateState.HALTED)
    with pytest.raises(LiveError, match=r"risk\.equity_eth"):
        again.resume("hope")


def test_leverage_is_over_the_equity_that_is_left() -> None:
    clock = TestClock()
    gate = RiskGate(replace(WIDE, max_leverage=1.0), clock, MemoryStore(), EQUITY_ETH)
    reverted(gate, clock, 1, 4.0)
    bought = replace(ORDER, flash=False, borrowed_eth=0.0)
    assert gate.check(replace(bought, notional_eth=4.0)).allowed
    assert gate.check(replace(bought, notional_eth=4.5)).limit == "max_leverage"


def test_inventory_is_bought_and_sold_off() -> None:
    clock = TestClock()
    gate = RiskGate(replace(LIMITS, max_leverage=100.0), clock, MemoryStore(), EQUITY_ETH)
    bought = replace(ORDER, key="bought", flash=False, borrowed_eth=0.0, notional_eth=3.0)
    live_through(gate, clock, bought, {"end": IntentState.MINED, "cost_eth": 0.0, "profit_eth": 0.0})
    assert gate.check(replace(bought, key="more", notional_eth=1.5)).limit == "max_exposure_eth"
    sold = replace(bought, key="sold", notional_eth=2.0, reduces_exposure=True, expected_profit_eth=-0.5)
    for number in range(3):
        reverted(gate, clock, number, 0.0)
    assert gate.state is GateState.REDUCING
    clock.pass_by(60.0)
    sold = replace(sold, head_time_s=clock.now(), reference_time_s=None)
    assert gate.check(sold).allowed
    gate.sent(sold)
    assert gate.check(replace(sold, key="sold twice")).limit == "order.reduces_exposure"
    gate.record(outcome(sold, IntentState.MINED, clock.now()), 0.0)
    assert {row.name: row.value for row in gate.status()}["max_exposure_eth"] == 1.0


# ------------------------------------------------------------------------------------------------- restarts and corrections
def figures(gate: RiskGate) -> tuple[Any, ...]:
    rows = [(row.name, row.value, row.accepted) for row in gate.status() if not math.isnan(row.value)]
    return gate.equity_eth, gate.drawdown, gate.success_rate, rows


@settings(max_examples=100, deadline=None)
@given(st.lists(events(), max_size=12), st.lists(events(), min_size=1, max_size=4))
def test_a_restart_changes_nothing(told: list[dict[str, Any]], after: list[dict[str, Any]]) -> None:
    clock, store = TestClock(), JsonStore()
    gate = RiskGate(LIMITS, clock, store, EQUITY_ETH)
    for number, event in enumerate(told):
        clock.pass_by(event["pause_s"])
        live_through(gate, clock, order_of(event, 40 * number, clock.now()), event)
    again = RiskGate(LIMITS, clock, store, EQUITY_ETH)
    assert (again.state, again.reason) == (gate.state, gate.reason)
    assert figures(again) == figures(gate)
    for number, event in enumerate(after):
        clock.pass_by(event["pause_s"])
        order = order_of(event, 1_000 + number, clock.now())
        assert again.check(order) == gate.check(order)
        live_through(again, clock, order, event)
        live_through(gate, clock, order, event)
    assert figures(again) == figures(gate)


@settings(max_examples=150, deadline=None)
@given(st.lists(events(), min_size=1, max_size=10), st.data())
def test_what_a_reorganisation_takes_back_leaves_no_trace(told: list[dict[str, Any]], data: st.DataObject) -> None:
    told = [event | {"end": event["end"] or IntentState.MINED, "pause_s": 12.0} for event in told]
    gone = data.draw(st.integers(0, len(told) - 1))
    clock = TestClock()
    corrected, plain = (RiskGate(WIDE, clock, JsonStore(), EQUITY_ETH) for _ in range(2))
    orders = []
    for number, event in enumerate(told):
        clock.pass_by(event["pause_s"])
        orders.append(order_of(event, number, clock.now()))
        live_through(corrected, clock, orders[-1], event)
        live_through(plain, clock, orders[-1], event | ({"end": None} if number == gone else {}))
    # back to waiting for its block, then ended otherwise
    taken_back = outcome(orders[gone], IntentState.SENT, clock.now(), corrects=told[gone]["end"])
    corrected.record(taken_back, 0.0)
    assert figures(corrected) == figures(plain)
    for gate in (corrected, plain):
        gate.record(outcome(orders[gone], IntentState.REVERTED, clock.now(), 0.25), 0.0)
    assert figures(corrected) == figures(plain)


def test_an_order_that_was_announced_and_never_written_holds_nothing_back_after_a_start() -> None:
    clock, store = TestClock(), JsonStore()
    limits = replace(WIDE, max_daily_loss_eth=0.75, max_exposure_eth=4.0)
    gate = RiskGate(limits, clock, store, EQUITY_ETH)
    staked = replace(ORDER, worst_cost_eth=0.5, expected_profit_eth=16.0, flash=False, borrowed_eth=0.0, notional_eth=1.0)
    for key in ("written", "lost"):
        gate.sent(replace(staked, key=key))
    again = RiskGate(limits, clock, store, EQUITY_ETH)
    assert again.check(replace(ORDER, key="next")).limit == "max_daily_loss_eth"
    again.keep_open(["written"])
    assert again.check(replace(ORDER, key="next")).allowed
    assert again.check(replace(staked, key="next")).limit == "max_daily_loss_eth"
    third = RiskGate(limits, clock, store, EQUITY_ETH)
    assert {row.name: row.value for row in third.status()}["max_exposure_eth"] == 1.0


def test_an_outcome_told_twice_counts_once() -> None:
    clock = TestClock()
    gate = RiskGate(WIDE, clock, MemoryStore(), EQUITY_ETH)
    mined = outcome(ORDER, IntentState.MINED, clock.now(), 0.125)
    gate.sent(ORDER)
    for _ in range(3):
        gate.record(mined, 0.5)
    assert gate.equity_eth == EQUITY_ETH + 0.375


def test_an_old_outcome_told_again_does_not_become_the_latest() -> None:
    clock = TestClock()
    gate = RiskGate(WIDE, clock, MemoryStore(), EQUITY_ETH)
    live_through(gate, clock, ORDER, {"end": IntentState.MINED, "cost_eth": 0.0, "profit_eth": 0.0})
    reverted(gate, clock, 1, 0.0)
    gate.record(outcome(ORDER, IntentState.MINED, clock.now()), 0.0)
    assert {row.name: row.value for row in gate.status()}["max_consecutive_reverts"] == 1


def test_an_outcome_of_yesterday_leaves_todays_loss() -> None:
    clock = TestClock()
    gate = RiskGate(WIDE, clock, MemoryStore(), EQUITY_ETH)
    reverted(gate, clock, 1, 0.5)
    late = replace(ORDER, key="late")
    gate.sent(late)
    gate.record(outcome(late, IntentState.REVERTED, clock.now() - 12.0, 0.25), 0.0)
    assert {row.name: row.value for row in gate.status()}["max_daily_loss_eth"] == 0.5
    assert gate.equity_eth == EQUITY_ETH - 0.75


def test_a_correction_of_what_is_forgotten_halts() -> None:
    clock = TestClock()
    gate = RiskGate(WIDE, clock, MemoryStore(), EQUITY_ETH)
    for number in range(200):
        reverted(gate, clock, number, 0.0)
    assert gate.state is GateState.ACTIVE
    gone = replace(ORDER, key="revert 1", block_number=1)
    gate.record(outcome(gone, IntentState.DROPPED, clock.now(), corrects=IntentState.REVERTED), 0.0)
    assert gate.state is GateState.HALTED


def test_dry_outcomes_move_the_totals_but_prove_nothing() -> None:
    gate = RiskGate(WIDE, TestClock(), MemoryStore(), EQUITY_ETH)
    before = gate.success_rate
    staked = replace(ORDER, worst_cost_eth=0.01)
    live_through(gate, TestClock(), staked, {"end": IntentState.DRY, "cost_eth": 0.125, "profit_eth": 0.5})
    assert (gate.equity_eth, gate.success_rate) == (EQUITY_ETH + 0.375, before)


@pytest.mark.parametrize(
    ("state", "gas_eth"),
    [(IntentState.MINED, 0.01), (IntentState.DRY, 0.01), (IntentState.REVERTED, 0.05), (IntentState.REPLACED, 0.05)],
)
def test_the_tip_of_what_was_not_filled_is_gas(state: IntentState, gas_eth: float) -> None:
    gate = RiskGate(replace(WIDE, gas_budget_eth_per_day=0.05), TestClock(), MemoryStore(), EQUITY_ETH)
    gate.record(replace(outcome(ORDER, state, MIDNIGHT_S, 0.01), tip_wei=4 * 10**16), 0.5)
    used = next(row.value for row in gate.status() if row.name == "gas_budget_eth_per_day")
    assert used == gas_eth and gate.state is (GateState.REDUCING if used >= 0.05 else GateState.ACTIVE)
    filled = state in (IntentState.MINED, IntentState.DRY)
    assert gate.equity_eth == pytest.approx(EQUITY_ETH - 0.05 + 0.5 * filled)


def test_a_profit_that_is_no_number_halts() -> None:
    gate = RiskGate(WIDE, TestClock(), MemoryStore(), EQUITY_ETH)
    gate.sent(ORDER)
    gate.record(outcome(ORDER, IntentState.MINED, MIDNIGHT_S), math.nan)
    assert (gate.state, gate.equity_eth) == (GateState.HALTED, EQUITY_ETH)


def test_a_store_that_fails_halts_before_the_send() -> None:
    store = JsonStore()
    gate = RiskGate(LIMITS, TestClock(), store, EQUITY_ETH)
    assert gate.check(ORDER).allowed
    store.failing = True
    gate.sent(ORDER)
    assert gate.still_allowed(ORDER).limit == "state"
    with pytest.raises(LiveError, match="HALTED"):
        gate.resume("still full")
    store.failing = False
    gate.resume("disk freed")
    assert gate.still_allowed(ORDER).allowed


def test_what_a_store_did_not_take_is_put_again() -> None:
    store = JsonStore()
    gate = RiskGate(LIMITS, TestClock(), store, EQUITY_ETH)
    store.failing = True
    gate.halt("a person said so")
    with pytest.raises(LiveError, match=r"the gate's state: .*accepted is a store that takes it"):
        gate.keep()
    store.failing = False
    gate.keep()
    assert RiskGate(LIMITS, TestClock(), store, EQUITY_ETH).state is GateState.HALTED
    before = store.kept.copy()
    gate.keep()
    assert store.kept == before


def test_capital_that_is_paid_in_is_no_profit() -> None:
    clock, store = TestClock(), JsonStore()
    gate = RiskGate(WIDE, clock, store, 8.0)
    reverted(gate, clock, 1, 0.5)
    again = RiskGate(WIDE, clock, store, 10.0)
    assert (again.equity_eth, again.drawdown) == (9.5, 0.05)


@settings(max_examples=200, deadline=None)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
        max_leaves=8,
    ),
    st.data(),
)
def test_a_stored_state_that_was_damaged_is_refused(junk: Any, data: st.DataObject) -> None:
    store = JsonStore()
    gate = RiskGate(LIMITS, TestClock(), store, EQUITY_ETH)
    gate.sent(ORDER)
    reverted(gate, TestClock(), 1, 0.125)
    kept = store.get("risk")
    assert kept is not None
    name = data.draw(st.sampled_from(["version", "state", "given_wei", "base", "entries", "open", "sent_s", "held"]))
    store.put("risk", kept | {name: junk})
    try:
        again = RiskGate(LIMITS, TestClock(), store, EQUITY_ETH)
    except LiveError as error:
        assert "stored state" in str(error)
    else:  # junk that happens to be a state: still one that judges
        again.check(ORDER)
        again.status()


# ------------------------------------------------------------------------------------------------------------------ limits
def changed(name: str, loose: bool) -> Limits:
    value = getattr(LIMITS, name)
    up = loose != name.startswith("min_")
    step = 1 if isinstance(value, int) else value / 2
    return replace(LIMITS, **{name: value + step if up else value - step})


@pytest.mark.parametrize("name", NAMES)
def test_tightening_applies_at_once_and_loosening_waits(name: str) -> None:
    store = JsonStore()
    gate = RiskGate(LIMITS, TestClock(), store, EQUITY_ETH)
    strict, loose = changed(name, False), changed(name, True)
    assert gate.replace_limits(strict) == ()
    assert gate.limits == strict
    assert gate.confirm() == ()
    assert gate.replace_limits(loose) == (name,)
    assert gate.limits == strict
    assert any("waits for confirmation" in row.accepted for row in gate.status() if row.name == name)
    again = RiskGate(loose, TestClock(), store, EQUITY_ETH)  # a restart is no confirmation
    assert again.limits == strict
    for one in (gate, again):
        assert one.confirm() == (name,)
        assert one.limits == loose
    assert RiskGate(loose, TestClock(), store, EQUITY_ETH).limits == loose


def test_a_tighter_limit_is_held_against_what_happened_already() -> None:
    clock = TestClock()
    gate = RiskGate(WIDE, clock, MemoryStore(), EQUITY_ETH)
    reverted(gate, clock, 1, 0.25)
    gate.replace_limits(replace(WIDE, max_daily_loss_eth=0.25))
    assert gate.state is GateState.HALTED


@given(st.data())
def test_the_tighter_of_two_is_looser_than_neither(data: st.DataObject) -> None:
    values = st.sampled_from([0.125, 0.25, 0.5, 1.0])
    counts = st.integers(1, 4)
    one, other = (
        Limits(**{name: data.draw(counts if isinstance(getattr(LIMITS, name), int) else values) for name in NAMES})
        for _ in range(2)
    )
    both = tighter(one, other)
    assert both == tighter(other, one)
    for name in NAMES:
        value = getattr(both, name)
        assert value in (getattr(one, name), getattr(other, name))
        assert not looser(name, value, getattr(one, name))
        assert not looser(name, value, getattr(other, name))


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -1, "1", None, True, 1e12])
def test_a_limit_that_is_none_is_refused_by_name(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"^{name} = .*accepted is"):
        replace(LIMITS, **{name: value})


def test_the_profiles_are_those_specified() -> None:
    rows = [
        (one.min_confidence, one.kelly_fraction, one.max_leverage, one.max_flash_borrow_eth, one.min_profit_eth, one.max_drawdown)
        for one in (PROFILES["conservative"], PROFILES["balanced"], PROFILES["aggressive"])
    ]
    assert rows == [(0.75, 0.15, 2.0, 50.0, 0.20, 0.2), (0.70, 0.25, 3.0, 100.0, 0.15, 0.2), (0.60, 0.35, 5.0, 200.0, 0.10, 0.2)]
    assert tighter(PROFILES["balanced"], PROFILES["aggressive"]) == PROFILES["balanced"]
    assert tighter(PROFILES["conservative"], PROFILES["balanced"]) == PROFILES["conservative"]
    assert profile_limits("balanced", 2.0, min_profit_eth=0.5, max_drawdown=None) == replace(
        PROFILES["balanced"], max_head_age_s=4.0, max_reference_age_s=4.0, min_profit_eth=0.5
    )
    with pytest.raises(ValueError, match="profile = 'mad'"):
        profile_limits("mad")
    with pytest.raises(ValueError, match="max_luck = 1"):
        profile_limits("balanced", max_luck=1)


def test_the_kelly_stake_of_a_coin_that_falls_well_four_times_in_five() -> None:
    """80 successes of 100, at even odds: Kelly says 0.6 of equity; the biased rate a little less, and a quarter of that."""
    clock = TestClock()
    gate = RiskGate(replace(WIDE, kelly_fraction=0.25), clock, MemoryStore(), 1_000.0)
    for number in range(500):
        order = replace(ORDER, key=f"bet {number}", block_number=number, worst_cost_eth=1.0, expected_profit_eth=1.0)
        state, profit_eth = (IntentState.MINED, 1.0) if number % 5 else (IntentState.REVERTED, 0.0)
        gate.sent(order)
        gate.record(outcome(order, state, clock.now(), 0.0 if number % 5 else 1.0), profit_eth)
    equity = gate.equity_eth
    assert 0.7 < gate.success_rate < 0.8

    def passes(share: float) -> bool:
        stake = share * equity
        return gate.check(replace(ORDER, key="next", worst_cost_eth=stake, expected_profit_eth=stake)).allowed

    assert passes(0.25 * 0.4)
    assert not passes(0.25 * 0.6)
    assert not gate.check(replace(ORDER, key="next", worst_cost_eth=1e-6, expected_profit_eth=1e-7)).allowed  # f* below 0
