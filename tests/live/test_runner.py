"""The runner on made-up blocks: what stops it, what it tells the policy, and that landing never costs more than a revert."""

from __future__ import annotations

import asyncio
import math
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pydantic_settings", reason='the live extra is missing: pip install "arbgym[live]"')
pytest.importorskip("onnx", reason="the extra train is not installed")

from arbgym.live.__main__ import KillSignal, main
from arbgym.live.alerts import AlertWatch
from arbgym.live.assemble import Options, _while_it_can, assembled
from arbgym.live.clock import SystemClock
from arbgym.live.decision import Decider
from arbgym.live.executor import Simulated
from arbgym.live.feed import WatchedLender
from arbgym.live.journal import Journal
from arbgym.live.kill import KillSwitch
from arbgym.live.logs import Redactor
from arbgym.live.observer import Observer
from arbgym.live.planning import Planner
from arbgym.live.recording import Recorder, RecordingHeader
from arbgym.live.runner import Runner, Stopped
from arbgym.live.settings import load
from arbgym.live.snapshot import Totals
from arbgym.live.tally import EndPrices
from arbgym.live.terms import FeedDown, IntentState, LiveError, Outcome, Plan
from arbgym.market.gas import next_base_fee
from arbgym.market.lender import BALANCER, FLASH_SWAPS
from arbgym.policy import load as load_policy
from tests.live.policies import quiet_config, save_policy
from tests.live.recordings import WATCHED, record, views

EAGER = {"route": 1, "channel": 1, "bid_share": 2}
LIMITS = {
    "profile": "aggressive",
    "min_confidence": 0.0,
    "min_profit_eth": 0.0001,
    "max_orders_per_minute": 1_000,
    "max_head_age_s": 1e6,
    "max_reference_age_s": 1e6,
    "kelly_fraction": 1.0,
    "gas_budget_eth_per_day": 1e3,
    "max_daily_loss_eth": 1e3,
    "equity_eth": 1e4,
}


def options(folder: Path, blocks: int = 30, **more: Any) -> Options:
    """A replay of made-up blocks by a policy that trades whenever it can."""
    policy = save_policy(folder / "policy", masked=True, prefer=EAGER)
    told = {
        "chain": {"rpc": "http://127.0.0.1:9", "chain_id": 1},
        "pair": {"base": WATCHED[0].base, "quote": WATCHED[0].quote},
        "pools": [{"name": pool.name, "address": pool.address, "fee_ppm": pool.fee_ppm} for pool in WATCHED],
        "risk": {**LIMITS, "kill_file": folder / "kill"},
        "journal": {"path": folder / "journal.sqlite"},
    }
    return Options(policy, load(None, told, {}), replay=record(folder / "blocks.jsonl", blocks), **more)


def play(given: Options, change: Callable[[Runner], None] = lambda runner: None) -> Runner:
    """The runner after its replay; ``change`` disturbs it first."""

    async def run() -> Runner:
        async with assembled(given, Redactor()) as made:
            change(made.runner)
            await made.runner.run()
            return made.runner

    return asyncio.run(run())


def test_a_replay_trades_and_its_rows_follow_their_intents(tmp_path: Path) -> None:
    runner = play(options(tmp_path))
    states = [row.state for row in runner.rows if row.state]
    assert len(states) > 5 and set(states[1:]) == {"dry"}
    assert runner.parts.tally.totals(runner.decisions).dry >= len(states) - 1


def test_a_stop_ends_the_wait_and_nothing_more_is_decided(tmp_path: Path) -> None:
    def change(runner: Runner) -> None:
        following, count = runner.parts.feed.next, [0]

        async def next_block() -> Any:
            count[0] += 1
            if count[0] == 10:
                asyncio.get_running_loop().call_soon(runner.stop)
                await asyncio.sleep(60.0)  # a chain that has stopped
            return await following()

        runner.parts.feed.next = next_block  # type: ignore[method-assign]

    runner = play(options(tmp_path), change)
    assert runner.view is not None and runner.view.head.number == 9 and runner.decisions == 9


def test_a_slow_simulation_sends_nothing(tmp_path: Path) -> None:
    async def slow(plan: Plan, time_s: int) -> Simulated:
        clock.late_s += 7.0  # of a block of 12 s
        return Simulated(plan.expected_profit_raw, plan.gas_used)

    class Late:
        def __init__(self, clock: Any) -> None:
            self._clock, self.late_s = clock, 0.0

        def __getattr__(self, name: str) -> Any:
            return getattr(self._clock, name)

        def monotonic(self) -> float:
            return float(self._clock.monotonic() + self.late_s)

    clock: Any = None

    def change(runner: Runner) -> None:
        nonlocal clock
        clock = runner.parts.clock = Late(runner.parts.clock)
        runner.parts.simulate = slow

    runner = play(options(tmp_path), change)
    assert not any(row.state for row in runner.rows)
    assert any("took 7 s; accepted is up to 0.5" in row.verdict for row in runner.rows)


def test_a_simulation_that_differs_sends_nothing(tmp_path: Path) -> None:
    async def other(plan: Plan, time_s: int) -> Simulated:
        return Simulated(plan.expected_profit_raw - 1, plan.gas_used)

    def change(runner: Runner) -> None:
        runner.parts.simulate = other

    runner = play(options(tmp_path), change)
    assert not any(row.state for row in runner.rows) and any("expected is" in row.verdict for row in runner.rows)


@pytest.mark.parametrize(("share", "again"), [(1.0, False), (1.049, False), (0.951, False), (1.3, True), (0.7, True)])
def test_a_route_priced_by_another_gas_than_it_uses_is_priced_and_simulated_anew(
    tmp_path: Path, share: float, again: bool
) -> None:
    estimates: dict[tuple[str, int, int], int] = {}  # gas, of each route
    known: dict[tuple[str, int, int], bool] = {}  # a route's last plan was simulated
    expected: dict[int, int] = {}  # simulations, of each block
    simulated: list[Plan] = []
    sent: list[Plan] = []

    def change(runner: Runner) -> None:
        plan_, send = runner.parts.planner.plan, runner.parts.sender.send

        def planned(decision: Any, view: Any) -> Any:
            if not isinstance(made := plan_(decision, view), str):
                plan, route = made[0], (decision.lender, decision.buy, decision.sell)
                estimate = estimates.setdefault(route, plan.gas_used)
                assert plan.gas_used == (round(share * estimate) if known.get(route) else estimate)
                expected[plan.block_number] = 1 if known.get(route) or not again else 2
                known[route] = False
            return made

        async def measured(plan: Plan, time_s: int) -> Simulated:
            simulated.append(plan)
            known[route := (plan.lender, plan.buy, plan.sell)] = True
            return Simulated(plan.expected_profit_raw, round(share * estimates[route]))

        async def told(plan: Plan, still_allowed: Any) -> IntentState:
            sent.append(plan)
            return await send(plan, still_allowed)

        runner.parts.planner.plan = planned  # type: ignore[method-assign]
        runner.parts.simulate, runner.parts.sender.send = measured, told  # type: ignore[method-assign]

    play(options(tmp_path, 60), change)
    assert len(sent) > 10 > len(estimates) and any(known.values())
    blocks = [plan.block_number for plan in simulated]
    for plan in sent:
        assert plan == [one for one in simulated if one.block_number == plan.block_number][-1]  # the very plan
        assert blocks.count(plan.block_number) == expected[plan.block_number]
        assert plan.gas_limit > 1.2 * plan.gas_used


def test_nothing_is_sent_that_gains_too_little_at_the_gas_that_was_measured(tmp_path: Path) -> None:
    """A price that stands is judged by the gas of its simulation all the same."""
    sent: list[tuple[Plan, float]] = []
    least_eth, share = 0.02, 1.049

    async def thirsty(plan: Plan, time_s: int) -> Simulated:
        return Simulated(plan.expected_profit_raw, round(share * plan.gas_used))

    def change(runner: Runner) -> None:
        parts = runner.parts
        parts.simulate = thirsty
        parts.gate.replace_limits(replace(parts.gate.limits, min_profit_eth=least_eth))
        decide, send = parts.decider.decide, parts.sender.send

        def decided(observation: Any) -> Any:
            return replace(decision, bid_share=0.85, channel="private") if (decision := decide(observation)).acting else decision

        async def told(plan: Plan, still_allowed: Any) -> IntentState:
            assert runner.view is not None
            head, chain = runner.view.head, parts.observer.config.chain
            base_fee = next_base_fee(
                head.base_fee_wei, head.gas_used, head.gas_limit // chain.elasticity, chain.base_fee_denominator
            )
            cost_eth = round(share * plan.gas_used) * (base_fee + plan.priority_fee_wei) / 1e18
            data_fee_eth = chain.data_fee_quote / parts.planner.quote_per_eth
            sent.append((plan, plan.expected_profit_raw / 1e6 / parts.planner.quote_per_eth - cost_eth - data_fee_eth))
            return await send(plan, still_allowed)

        parts.decider.decide, parts.sender.send = decided, told  # type: ignore[method-assign]

    runner = play(options(tmp_path, 120), change)
    assert len(sent) > 5 and min(net_eth for _, net_eth in sent) >= least_eth
    assert any("min_profit_eth" in row.verdict for row in runner.rows)


def test_a_gas_that_does_not_settle_sends_nothing(tmp_path: Path) -> None:
    async def restless(plan: Plan, time_s: int) -> Simulated:
        return Simulated(plan.expected_profit_raw, round(1.06 * plan.gas_used))

    def change(runner: Runner) -> None:
        runner.parts.simulate = restless

    runner = play(options(tmp_path), change)
    assert not any(row.state for row in runner.rows)
    assert any("gas, another figure each of 3 times" in row.verdict for row in runner.rows)


def test_what_an_earlier_process_left_reaches_the_gate_before_it_is_acknowledged(tmp_path: Path) -> None:
    told: list[str] = []
    left = Outcome("a" * 64, IntentState.REVERTED, 0, 0.0, 0, 10**16, 0, "public")

    def change(runner: Runner) -> None:
        sender, record_outcome = runner.parts.sender, runner.parts.gate.record

        async def start() -> list[Outcome]:
            return [left]

        async def settle(view: Any) -> list[Outcome]:
            told.append("settle")
            raise LiveError("killed here")

        def record(outcome: Outcome, profit_eth: float) -> None:
            told.append(outcome.key)
            record_outcome(outcome, profit_eth)

        sender.start, sender.settle, runner.parts.gate.record = start, settle, record  # type: ignore[method-assign]

    with pytest.raises(Stopped, match="killed here"):
        play(options(tmp_path), change)
    assert told == [left.key, "settle"]


def test_what_ended_before_a_restart_is_told_at_once_and_at_its_own_price(tmp_path: Path) -> None:
    """All ends of the journal, however many; what was not acknowledged is not counted twice."""
    given_options, shown, journal = options(tmp_path, 3), list[Totals](), Journal(tmp_path / "past.sqlite", SystemClock())
    bundles = [Outcome(f"{k:064x}", IntentState.DROPPED, 0, 0.0, 0, 0, 0, "private") for k in range(1_500)]
    mined = Outcome("m" * 64, IntentState.MINED, 0, 0.0, 50 * 10**6, 10**16, 0, "public")
    reverts = [Outcome(f"{k}".rjust(64, "r"), IntentState.REVERTED, 0, 0.0, 0, 10**16, 0, "public") for k in range(3)]
    prices = EndPrices(journal)
    for outcome in (mined, *reverts[:2]):
        prices.keep(outcome.key, 1_000.0)
    journal.close()
    journal = Journal(tmp_path / "past.sqlite", SystemClock())  # the next process

    def change(runner: Runner) -> None:
        runner.parts.prices, runner.parts.earlier = EndPrices(journal), lambda: [mined, *bundles, *reverts[:1]]
        recovered, sender = runner.parts.metrics.totals, runner.parts.sender
        opened = runner.parts.feed.open

        async def open_feed() -> Any:
            before_blocks.append(runner.parts.tally.totals(0).mined)
            return await opened()

        runner.parts.feed.open = open_feed  # type: ignore[method-assign]

        async def start() -> list[Outcome]:
            return reverts  # the first was told of to the process before; the last had no price yet

        async def settle(view: Any) -> list[Outcome]:
            raise LiveError("killed here")

        def totals(told: Totals) -> None:
            shown.append(told)
            recovered(told)

        sender.start, sender.settle, runner.parts.metrics.totals = start, settle, totals  # type: ignore[method-assign]
        values.append(runner.parts.metrics.values)

    values: list[Callable[[], dict[str, float]]] = []
    before_blocks: list[int] = []
    with structlog.testing.capture_logs() as said, pytest.raises(Stopped, match="killed here"):
        play(given_options, change)
    logged = {one["key"]: one.get("again", False) for one in said if one["event"] == "outcome"}
    # the second had its price, but was not in the journal when this process began: it ended anew
    assert before_blocks == [1]  # what had its price was counted before any block waited for it
    assert logged == {reverts[0].key: True, reverts[1].key: False, reverts[2].key: False}
    assert (shown[-1].attempts, shown[-1].mined, shown[-1].reverted, shown[-1].dropped) == (1_504, 1, 3, 1_500)
    assert shown[-1].net_quote == pytest.approx(50.0 - 3 * 10.0 - 18.4)  # the last at today's 1,840
    assert values[0]()["arbgym_consecutive_reverts"] == 3.0
    assert EndPrices(journal).at_end(reverts[2].key, 0.0) == pytest.approx(1_840.0)  # and it stays at that
    journal.close()


def test_alerts_of_earlier_reverts_fire_before_anything_ends(tmp_path: Path) -> None:
    reverts = [Outcome(f"{k:064x}", IntentState.REVERTED, 0, 0.0, 0, 10**16, 0, "public") for k in range(30)]

    def change(runner: Runner) -> None:
        async def settle(view: Any) -> list[Outcome]:
            return []

        runner.parts.earlier, runner.parts.sender.settle = lambda: reverts, settle  # type: ignore[method-assign]

    runner = play(options(tmp_path, 2), change)
    firing = {row.name for row in AlertWatch().update(0.0, runner.parts.metrics.values())}
    assert "RevertsInARow" in firing
    assert runner.parts.metrics.values()["arbgym_win_rate"] == 0.0


def test_each_end_keeps_the_price_of_its_block(tmp_path: Path) -> None:
    kept: dict[str, Any] = {}

    class Kept:
        def get(self, name: str) -> Any:
            return kept.get(name)

        def put(self, name: str, value: Any) -> None:
            kept[name] = value

    def change(runner: Runner) -> None:
        runner.parts.prices = EndPrices(Kept())

    runner = play(options(tmp_path), change)
    assert len(kept) == runner.parts.tally.totals(0).attempts > 5
    assert set(kept.values()) == {1_840.0}


def test_a_failing_recorder_does_not_end_the_run(tmp_path: Path) -> None:
    written: list[int] = []

    def full(view: Any) -> None:
        written.append(view.head.number)
        if view.head.number == 5:
            raise OSError(28, "No space left on device")

    class Log:
        def error(self, text: str, **more: Any) -> None:
            assert "recording ends" in text

    runner = play(options(tmp_path), lambda runner: runner.parts.each_block.append(_while_it_can(full, Log())))
    assert written == [1, 2, 3, 4, 5] and runner.decisions == 30


def test_a_recording_with_lenders_replays_without_settings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Lenders, too, are known from the recording's header."""
    lender = WatchedLender(BALANCER.name, "balance", "0x" + "c" * 40)
    recorder = Recorder(tmp_path / "lent.jsonl", RecordingHeader(1, WATCHED, (lender,)))
    for view in views(40):
        recorder.write(replace(view, lenders_raw=(10**13,)))
    recorder.close()
    config = quiet_config(lenders=(*FLASH_SWAPS, BALANCER))
    policy = save_policy(tmp_path / "policy", masked=True, prefer={**EAGER, "lender": 3}, config=config)
    assert main([str(policy), "--replay", str(tmp_path / "lent.jsonl"), "--profile", "aggressive"]) == 0
    said = capsys.readouterr().err
    assert f" {BALANCER.name} " in said and "lender_" not in said and "no address" not in said and '"blocks": 40' in said


def test_a_lender_without_an_address_is_no_plan(tmp_path_factory: pytest.TempPathFactory) -> None:
    planner, decide, _ = _planner(tmp_path_factory)
    view = next(iter(views(1, 1)))
    decision = decide(view)
    assert planner.plan(replace(decision, lender="balancer_v2"), view) == "lenders.balancer_v2: no address"


def test_an_expired_policy_halts(tmp_path: Path) -> None:
    def change(runner: Runner) -> None:
        runner.parts.expires_at_s = 0.0

    runner = play(options(tmp_path), change)
    assert runner.parts.gate.state.value == "HALTED" and not any(row.state for row in runner.rows)


@settings(max_examples=60, deadline=None)
@given(
    bid=st.floats(0.01, 0.99),
    tolerance=st.floats(0.0, 1.0),
    channel=st.sampled_from(["private", "public"]),
    pays=st.booleans(),
    seed=st.integers(0, 50),
)
def test_landing_never_costs_more_than_what_the_gate_was_told(
    tmp_path_factory: pytest.TempPathFactory, bid: float, tolerance: float, channel: Any, pays: bool, seed: int
) -> None:
    planner, decide, config = _planner(tmp_path_factory)
    planner._observer.config = replace(config, chain=replace(config.chain, private_revert_pays=pays))
    for view in views(3, seed):
        decision = decide(view)
        if not decision.acting:
            continue
        made = planner.plan(replace(decision, bid_share=bid, tolerance=tolerance, channel=channel), view)
        if isinstance(made, str):
            continue
        plan, order = made
        per_eth = planner.quote_per_eth * 1e6
        paid_eth = (plan.gas_used * view.head.base_fee_wei + plan.gas_used * plan.priority_fee_wei) / 1e18
        worst_landing = 1.1 * paid_eth - plan.minimum_profit_raw / per_eth  # a tenth more gas than is expected: the margin
        assert worst_landing <= order.worst_cost_eth + 1e-9
        assert plan.minimum_profit_raw <= plan.expected_profit_raw
        assert plan.priority_fee_wei <= plan.max_fee_wei and plan.gas_used < plan.gas_limit
        assert order.expected_profit_eth == pytest.approx(plan.expected_profit_raw / per_eth - paid_eth, rel=0.2, abs=1e-3)


def test_nothing_is_said_of_a_gain_before_a_price_was_seen(tmp_path_factory: pytest.TempPathFactory) -> None:
    planner, decide, _ = _planner(tmp_path_factory)
    acting = [(decision, view) for view in views(9, 4) if (decision := decide(view)).acting]
    made = [found for decision, view in acting if not isinstance(found := planner.plan(decision, view), str)]
    plan, order = made[-1]
    price_wei = plan.max_fee_wei
    assert planner.gain_eth(plan, price_wei) > planner.gain_eth(plan, price_wei + 1) > -math.inf
    assert planner.gain_eth(plan, 0) == pytest.approx(
        order.notional_eth * plan.expected_profit_raw / plan.amount_in_raw, abs=0.01
    )
    assert planner.gain_eth(replace(plan, buy=9), 0) == -math.inf
    time, planner._observer._time = planner._observer._time, None
    assert planner.gain_eth(plan, 0) == -math.inf
    planner._observer._time = time


@pytest.mark.parametrize(("margin", "most"), [(1.0, 1.005), (1.02, 1.01), (1.1, 1.05), (3.0, 1.05)])
def test_a_price_stands_while_the_gas_is_near_and_within_the_margin(
    tmp_path_factory: pytest.TempPathFactory, margin: float, most: float
) -> None:
    made, decide, _ = _planner(tmp_path_factory)
    terms: dict[str, Any] = {"executor": "0x" + "e" * 40, "lenders": {}, "maximum_fee_wei": 10**15, "gas_margin": margin}
    planner = Planner(made._observer, chain_id=1, policy_sha256="", **terms)
    for view in views(20, 6):
        decision = decide(view)
        if not decision.acting or isinstance(found := planner.plan(decision, view), str):
            continue
        plan, order = found
        for share, stands in ((most - 0.001, True), (most + 0.001, False), (0.951, True), (0.949, False)):
            priced = planner.at_gas(plan, decision, view, round(share * plan.gas_used))
            assert isinstance(priced, tuple) and (priced[0] == plan) == stands
            assert priced[0].gas_used == (plan.gas_used if stands else round(share * plan.gas_used))
            judged, per_gas = priced[1], (order.expected_profit_eth - priced[1].expected_profit_eth) / (share - 1.0)
            if stands:  # and is judged by what it uses: base fee and tip on each gas
                assert judged.key == order.key and per_gas * 1e18 > plan.gas_used * plan.priority_fee_wei
        break
    else:
        raise AssertionError("nothing to plan")
    again = planner.at_gas(plan, decision, view, plan.gas_used * 2)
    assert isinstance(again, tuple) and again[0].gas_used == 2 * plan.gas_used
    assert again[0].gas_limit == math.ceil(2 * plan.gas_used * 1.25 * margin)
    for expected in (2 * plan.gas_used, decision.gas_used):  # known once; what no simulation followed is forgotten
        found = planner.plan(decision, view)
        assert isinstance(found, tuple) and found[0].gas_used == pytest.approx(expected)
    with pytest.raises(ValueError, match="gas_used = 0"):
        planner.at_gas(plan, decision, view, 0)


_made: list[Any] = []


def _planner(factory: pytest.TempPathFactory) -> Any:
    if not _made:
        policy = load_policy(
            save_policy(factory.mktemp("planner") / "policy", masked=True, prefer={"route": 1}, config=quiet_config()),
            backend="numpy",
        )
        observer = Observer(policy, WATCHED)
        decider = Decider(policy, observer)
        planner = Planner(observer, chain_id=1, policy_sha256="", executor="0x" + "e" * 40, lenders={}, maximum_fee_wei=10**15)
        _made.append((planner, lambda view: decider.decide(observer.advance(view)), observer.config))
    return _made[0]


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--live", "--replay", "blocks"], "--live and --replay"),
        (["--blocks", "0"], "--blocks 0"),
        (["--resume", ""], "--resume '': accepted is the reason in words"),
        (["--resume", " "], "--resume '': accepted is the reason in words"),
    ],
)
def test_the_command_refuses_what_makes_no_sense(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["policy", *arguments])
    assert told in capsys.readouterr().err


def test_the_command_refuses_a_missing_policy_and_prints_its_example(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(tmp_path / "none"), "--replay", str(record(tmp_path / "blocks.jsonl", 3))]) == 2
    assert "refused" in capsys.readouterr().err
    assert main(["--example"]) == 0
    assert "[chain]" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("url", "said"),
    [
        (
            "http://user:hidden-word@127.0.0.1:1/hidden-key?k=hidden-too",
            "refused: chain.rpc: no node answers at 127.0.0.1:1 (connection refused); accepted is the URL of a running node\n",
        ),
        ("127.0.0.1:8545", "accepted is a URL that begins with http:// or https:// or ws:// or wss://"),
        ("http://[hidden-word]", "accepted is a URL that begins with http:// or https:// or ws:// or wss://"),
    ],
)
def test_a_node_that_is_not_there_is_named_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], url: str, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main([str(save_policy(tmp_path / "policy", masked=True)), "--rpc", url]) == 2
    told = capsys.readouterr().err
    assert said in told and "hidden" not in told


def test_what_cannot_be_opened_is_named_with_its_setting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = record(tmp_path / "blocks.jsonl", 3)
    run = [str(save_policy(tmp_path / "policy", masked=True)), "--replay", str(blocks)]
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        assert main([*run, "--port", str(port)]) == 2
        said = capsys.readouterr().err
        assert f"refused: status.port = {port}: address already in use at 127.0.0.1; accepted is a free port" in said
        monkeypatch.setenv("ARBGYM_LIVE__METRICS__PORT", str(port))
        assert main(run) == 2
        said = capsys.readouterr().err
        assert f"refused: metrics.port = {port}: address already in use at 127.0.0.1; accepted is a free port" in said
        monkeypatch.delenv("ARBGYM_LIVE__METRICS__PORT")
    monkeypatch.setenv("ARBGYM_LIVE__STATUS__HOST", "192.0.2.1")  # of documentation: nobody's
    monkeypatch.setenv("ARBGYM_LIVE__STATUS__CONTROL_TOKEN", "0123456789abcdef")
    assert main([*run, "--port", str(port)]) == 2
    assert "refused: status.host = '192.0.2.1': cannot assign requested address; accepted is" in capsys.readouterr().err
    monkeypatch.setenv("ARBGYM_LIVE__LOG__PATH", str(tmp_path / "missing" / "log.jsonl"))
    assert main(run) == 2
    said = capsys.readouterr().err
    assert f"refused: log.path = '{tmp_path}/missing/log.jsonl': No such file or directory; accepted is a file in a" in said


def test_limits_are_confirmed_before_the_gate_resumes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The limit that is to be loosened may be what refuses to resume."""
    done: list[str] = []

    @asynccontextmanager
    async def scripted(given: Options, redactor: Redactor) -> AsyncIterator[Any]:
        async with assembled(given, redactor) as made:
            gate = made.runner.parts.gate
            monkeypatch.setattr(gate, "resume", lambda reason: done.append(f"resume {reason}"))
            monkeypatch.setattr(gate, "confirm", lambda: done.append("confirm") or ())
            yield made

    monkeypatch.setattr("arbgym.live.__main__.assembled", scripted)
    blocks = record(tmp_path / "blocks.jsonl", 3)
    policy = str(save_policy(tmp_path / "policy", masked=True))
    assert main([policy, "--replay", str(blocks), "--resume", "looked", "--confirm-limits"]) == 0
    assert done == ["confirm", "resume looked"]


def test_a_feed_that_is_back_says_so_once(tmp_path: Path) -> None:
    def change(runner: Runner) -> None:
        following, count = runner.parts.feed.next, [0]

        async def next_block() -> Any:
            count[0] += 1
            if count[0] in (4, 5):
                raise FeedDown("feed: away")
            return await following()

        runner.parts.feed.next = next_block  # type: ignore[method-assign]

    with structlog.testing.capture_logs() as said:
        play(options(tmp_path, 8), change)
    assert [one["event"] for one in said if "feed" in one["event"]] == ["feed down", "feed down", "feed up again"]


# ------------------------------------------------------------------------------------------------------- SIGUSR1, early
@pytest.fixture
def silent() -> Iterator[socket.socket]:
    """A node that takes connections and says nothing: what asks it hangs while it is put together."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(60.0)
        yield server


@contextmanager
def started(folder: Path, server: socket.socket) -> Iterator[subprocess.Popen[bytes]]:
    """The command as a process of its own, asking that node."""
    config = folder / "live.toml"
    lines = [
        f'[chain]\nrpc = "http://127.0.0.1:{server.getsockname()[1]}"\nchain_id = 1\nrequest_timeout_s = 60.0\n',
        f'[pair]\nbase = "{WATCHED[0].base}"\nquote = "{WATCHED[0].quote}"\n',
        *(f'[[pools]]\nname = "{pool.name}"\naddress = "{pool.address}"\nfee_ppm = {pool.fee_ppm}\n' for pool in WATCHED),
        f'[risk]\nkill_file = "{folder / "kill"}"\n[journal]\npath = "{folder / "journal.sqlite"}"\n',
    ]
    config.write_text("\n".join(lines))
    policy = save_policy(folder / "policy", masked=True, prefer=EAGER)
    command = [sys.executable, "-m", "arbgym.live", str(policy), "--config", str(config)]
    process = subprocess.Popen(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(Path.cwd())})
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def wait_for(seen: Callable[[], bool], process: subprocess.Popen[bytes]) -> None:
    until = time.monotonic() + 60.0
    while not seen():
        assert process.poll() is None, "it ended"
        assert time.monotonic() < until
        time.sleep(0.002)


def test_a_kill_while_the_runner_is_put_together_writes_the_file(tmp_path: Path, silent: socket.socket) -> None:
    with started(tmp_path, silent) as process:
        connection, _ = silent.accept()
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: KillSwitch(tmp_path / "kill").reason() == "SIGUSR1", process)
        connection.close()


def test_a_kill_before_the_settings_are_known_is_held_until_they_are(tmp_path: Path, silent: socket.socket) -> None:
    def held() -> bool:
        (blocked,) = (line for line in status.read_text().splitlines() if line.startswith("SigBlk"))
        return bool(int(blocked.split()[1], 16) >> (signal.SIGUSR1 - 1) & 1)

    with started(tmp_path, silent) as process:
        status = Path(f"/proc/{process.pid}/status")
        if not status.exists():
            pytest.skip("no /proc")
        wait_for(held, process)
        process.send_signal(signal.SIGUSR1)
        wait_for(lambda: KillSwitch(tmp_path / "kill").reason() == "SIGUSR1", process)


def test_a_kill_whose_file_could_not_be_written_holds_in_the_runner(tmp_path: Path) -> None:
    """The early switch was another one."""
    early, own = KillSwitch(tmp_path / "missing" / "kill"), KillSwitch(tmp_path / "kill")
    former = signal.getsignal(signal.SIGUSR1)

    async def run() -> None:
        on_kill = KillSignal(early)
        on_kill.install()
        on_kill.go_on_with(own, asyncio.get_running_loop())
        assert not own.engaged()
        on_kill = KillSignal(early)
        on_kill.install()
        os.kill(os.getpid(), signal.SIGUSR1)
        on_kill.go_on_with(own, asyncio.get_running_loop())
        assert own.engaged() and own.reason() == "SIGUSR1"
        own.release()
        os.kill(os.getpid(), signal.SIGUSR1)
        assert own.engaged()  # before the loop gets to do anything
        await asyncio.sleep(0)

    try:
        with structlog.testing.capture_logs() as said:
            asyncio.run(run())
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert [one["log_level"] for one in said] == ["error", "warning", "warning", "warning"]
