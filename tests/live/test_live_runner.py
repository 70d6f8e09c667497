"""The whole runner on a real chain with real pools: dry-run, live, stops, and what it leaves behind."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import structlog

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')
pytest.importorskip("onnx", reason="the extra train is not installed")

from eth_account import Account
from eth_account.typed_transactions import TypedTransaction
from hexbytes import HexBytes

from arbgym.live.assemble import MeteredEndpoint, Options, assembled
from arbgym.live.channels import Answer, PublicChannel
from arbgym.live.clock import SystemClock
from arbgym.live.deploy import deploy
from arbgym.live.endpoint import connect
from arbgym.live.executor import DRY_RUN_ADDRESS
from arbgym.live.logs import Redactor
from arbgym.live.signer import load_signer
from arbgym.live.terms import LiveError, Plan
from tests.chain.anvil import Anvil
from tests.chain.market import Market
from tests.live.policies import quiet_config, save_policy
from tests.live.pools import BLOCK_TIME_S, Pools

WIDE = {
    "profile": "aggressive",
    "min_confidence": 0.0,
    "min_profit_eth": 0.0001,
    "max_notional_eth": 1e6,
    "max_flash_borrow_eth": 1e6,
    "max_orders_per_minute": 10_000,
    "max_head_age_s": 1e6,
    "max_reference_age_s": 1e6,
    "max_clock_skew_s": 1e6,
    "gas_budget_eth_per_day": 1e3,
    "max_daily_loss_eth": 1e3,
    "kelly_fraction": 1.0,
    "equity_eth": 1e3,
}
PUBLIC = {"route": 1, "channel": 1, "bid_share": 2}  # tips so small that the gate takes the odds from the start
FEES = {"maximum_fee_gwei": 1e6}


@pytest.fixture
def slots(chain_packages: None) -> Iterator[Anvil]:
    """A node whose blocks are one slot apart."""
    node = Anvil()
    node.call("anvil_setBlockTimestampInterval", BLOCK_TIME_S)
    yield node
    node.kill()


@pytest.fixture
def key(slots: Anvil, monkeypatch: pytest.MonkeyPatch) -> str:
    """A funded account's private key, in the environment."""
    key = "0x" + os.urandom(32).hex()
    monkeypatch.setenv("ARBGYM_PRIVATE_KEY", key)
    slots.call("anvil_setBalance", load_signer(None).address, hex(10**21))
    return key


def executor_of(url: str) -> str:
    """Deploy the signer's executor."""

    async def make() -> str:
        endpoint = connect(url, timeout_s=10.0, clock=SystemClock())
        try:
            return await deploy(endpoint, load_signer(None), SystemClock())
        finally:
            await endpoint.close()

    return asyncio.run(make())


def rows(path: Path, query: str) -> list[Any]:
    """What a journal holds, read without the journal's own code."""
    with sqlite3.connect(path) as database:
        return database.execute(query).fetchall()


async def take(options: Options, pools: Pools, blocks: int, each: Any = None) -> Any:
    """Run on a chain where ``pools`` trade before each block that the runner waits for; the runner."""
    async with assembled(options, Redactor()) as made:
        runner, following = made.runner, made.runner.parts.feed.next

        async def next_block() -> Any:
            if not runner.parts.sender.busy:  # what the runner sent is a block of its own already
                await asyncio.to_thread(pools.trade)
            if each is not None:
                each(runner)
            return await following()

        runner.parts.feed.next = next_block  # type: ignore[method-assign]
        await runner.run(blocks)
        runner.shown = made.control.snapshot()  # type: ignore[attr-defined]
        return runner


def test_live_profits_are_what_was_predicted_to_the_unit(slots: Anvil, key: str, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    executor = executor_of(slots.url)
    owner = pools.market.web3.to_checksum_address(load_signer(None).address)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, executor=executor, risk=WIDE, fees=FEES)
    before = pools.quote.functions.balanceOf(owner).call()
    runner = asyncio.run(take(Options(policy, settings, live=True), pools, 60))
    gained = pools.quote.functions.balanceOf(owner).call() - before
    found = rows(tmp_path / "journal.sqlite", "SELECT state, plan FROM intents")
    states = [state for state, _ in found]
    mined = [json.loads(plan) for state, plan in found if state == "mined"]
    assert len(mined) >= 5 and not set(states) & {"refused", "reverted", "unknown"}, states
    assert gained == sum(int(plan["expected_profit_raw"]) for plan in mined) > 0
    for token in (pools.base, pools.quote):
        assert token.functions.balanceOf(pools.market.web3.to_checksum_address(executor)).call() == 0
    assert runner.shown.totals.mined == len(mined) and runner.shown.mode == "live"
    assert runner.shown.totals.profit_quote == pytest.approx(gained / 1e6)
    assert pools.market.web3.eth.get_transaction_count(owner) == len(mined) + 1
    # the tip is what was promised, as the gas was measured and not estimated
    outcomes = rows(
        tmp_path / "journal.sqlite",
        "SELECT plan, outcome FROM intents JOIN transitions ON intent = key WHERE outcome IS NOT NULL",
    )
    for plan, outcome in ((json.loads(plan), json.loads(outcome)) for plan, outcome in outcomes):
        assert outcome["tip_wei"] == pytest.approx(plan["gas_used"] * plan["priority_fee_wei"], rel=0.055)


def test_what_is_signed_was_simulated_to_the_byte(
    slots: Anvil, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, executor=executor_of(slots.url), risk=WIDE, fees=FEES)
    simulated: list[tuple[Any, ...]] = []
    asked: list[int] = []  # how often, for each transaction that was sent
    batch, send = MeteredEndpoint.batch, PublicChannel.send

    async def seen(self: MeteredEndpoint, calls: Any) -> list[Any]:
        for method, parameters in calls:
            if method == "eth_call" and "maxFeePerGas" in (call := parameters[0]):
                told = [str(call[name]).lower() for name in ("from", "to", "data", "gas", "maxFeePerGas")]
                simulated.append((int(parameters[1], 16), *told))
        return await batch(self, calls)

    async def sent(self: PublicChannel, raw: bytes, plan: Plan) -> Answer:
        fields = TypedTransaction.from_bytes(HexBytes(raw)).as_dict()
        sender = Account.recover_transaction(raw).lower()
        data, to = (HexBytes(fields[name]).to_0x_hex() for name in ("data", "to"))
        assert fields["value"] == 0
        assert simulated[-1] == (plan.block_number, sender, to, data, hex(fields["gas"]), hex(fields["maxFeePerGas"]))
        asked.append(sum(one[0] == plan.block_number for one in simulated))
        return await send(self, raw, plan)

    monkeypatch.setattr(MeteredEndpoint, "batch", seen)
    monkeypatch.setattr(PublicChannel, "send", sent)
    asyncio.run(take(Options(policy, settings, live=True), pools, 60))
    assert len(asked) >= 5 and max(asked) <= 2 and sum(asked) < 1.5 * len(asked)  # again where the gas was not known


def test_what_is_sent_is_durable_with_the_gates_state_by_then(
    slots: Anvil, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process's view of the journal at the very moment of each send."""
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, executor=executor_of(slots.url), risk=WIDE, fees=FEES)
    sent, ended = [], []
    send = PublicChannel.send

    async def seen(self: PublicChannel, raw: bytes, plan: Plan) -> Answer:
        found = dict(rows(tmp_path / "journal.sqlite", "SELECT key, state FROM intents"))
        assert found.pop(plan.key) == "signed" and set(found.values()) <= {"mined"}
        assert (plan.key, raw) in rows(tmp_path / "journal.sqlite", "SELECT intent, raw FROM transactions")
        ((text,),) = rows(tmp_path / "journal.sqlite", "SELECT value FROM store WHERE name = 'risk'")
        assert list(json.loads(text)["open"]) == [plan.key]
        sent.append(plan.key)
        ended.append(len(found))
        return await send(self, raw, plan)

    monkeypatch.setattr(PublicChannel, "send", seen)
    asyncio.run(take(Options(policy, settings, live=True), pools, 30))
    assert len(sent) >= 5 and ended == list(range(len(sent)))


def test_dry_run_differs_in_the_last_call_alone(slots: Anvil, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, risk=WIDE, fees=FEES)
    runner = asyncio.run(take(Options(policy, settings), pools, 30))
    assert not (tmp_path / "journal.sqlite").exists()
    found = rows(tmp_path / "journal.dry-run.sqlite", "SELECT state, plan FROM intents")
    assert len(found) >= 5 and {state for state, _ in found} == {"dry"}
    assert all(json.loads(plan)["to"] == DRY_RUN_ADDRESS for _, plan in found)  # simulated with the contract's code put there
    assert runner.shown.totals.dry >= len(found) - 1 and runner.shown.totals.profit_quote > 0.0


def test_a_restart_tells_the_same_totals_at_the_prices_of_their_time(slots: Anvil, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, risk=WIDE, fees=FEES)

    def each(runner: Any) -> None:
        if runner.decisions == 25:
            runner.parts.kill.engage("all that was begun ends")

    before = asyncio.run(take(Options(policy, settings), pools, 30, each)).shown
    after = asyncio.run(take(Options(policy, settings), pools, 2)).shown
    assert before.totals.attempts >= 5
    assert replace(after.totals, decisions=0) == replace(before.totals, decisions=0, net_quote=after.totals.net_quote)
    assert after.totals.net_quote == pytest.approx(before.totals.net_quote, rel=1e-12)
    prices = {
        value for (value,) in rows(tmp_path / "journal.dry-run.sqlite", "SELECT value FROM store WHERE name LIKE 'coin_price.%'")
    }
    assert len(prices) > 1  # at one of them the sum would be another


def test_the_kill_switch_stops_all_sending(slots: Anvil, key: str, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    executor = executor_of(slots.url)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, executor=executor, risk=WIDE, fees=FEES)
    sent_at_kill: list[int] = []

    def each(runner: Any) -> None:
        if runner.decisions == 15 and not sent_at_kill:
            runner.parts.kill.engage("test")
            sent_at_kill.append(len(rows(tmp_path / "journal.sqlite", "SELECT 1 FROM transactions")))

    runner = asyncio.run(take(Options(policy, settings, live=True), pools, 40, each))
    assert sent_at_kill[0] > 0 and len(rows(tmp_path / "journal.sqlite", "SELECT 1 FROM transactions")) == sent_at_kill[0]
    assert runner.shown.killed and any("kill_switch" in row.verdict for row in runner.shown.decisions)
    again = asyncio.run(take(Options(policy, settings, live=True), pools, 10))
    assert again.shown.killed and len(rows(tmp_path / "journal.sqlite", "SELECT 1 FROM transactions")) == sent_at_kill[0]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"chain": {"chain_id": 1}}, "chain.chain_id = 1"),
        ({"executor": "0x" + "11" * 20}, "other code than ArbExecutor's"),
        ({"executor": ""}, "accepted with --live is the contract"),
    ],
)
def test_a_live_run_refuses_what_does_not_fit(slots: Anvil, key: str, tmp_path: Path, change: dict[str, Any], told: str) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, **change)

    async def start() -> None:
        async with assembled(Options(policy, settings, live=True), Redactor()):
            pass

    with pytest.raises(LiveError, match=told):
        asyncio.run(start())


def test_the_command_survives_a_node_that_dies(slots: Anvil, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", config=quiet_config(), prefer=PUBLIC)
    config = tmp_path / "live.toml"
    lines = [
        f'[chain]\nrpc = "{slots.url}/?key=a-secret-path"\nchain_id = 31337\nhead_timeout_s = 1.0\n',
        f'[pair]\nbase = "{pools.base.address}"\nquote = "{pools.quote.address}"\n',
        *(f'[[pools]]\nname = "pool{k}"\naddress = "{pool}"\n' for k, pool in enumerate(pools.addresses)),
    ]
    config.write_text("\n".join(lines))
    command = [sys.executable, "-m", "arbgym.live", str(policy), "--config", str(config)]
    process = subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONPATH": str(Path.cwd())}
    )
    assert process.stderr is not None
    said: list[str] = []
    try:
        while "ready" not in (said or [""])[-1]:
            said.append(process.stderr.readline())
            assert said[-1], said
        pools.trade()
        slots.kill()
        while "feed down" not in said[-1]:
            said.append(process.stderr.readline())
            assert said[-1], said
        time.sleep(0.3)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        rest = process.communicate(timeout=20)[1]
    finally:
        process.kill()
    assert process.returncode == 0
    assert "ended" in rest and "a-secret-path" not in "".join(said) + rest


def test_the_journal_of_another_account_or_chain_is_refused(
    slots: Anvil, key: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, executor=executor_of(slots.url), risk=WIDE, fees=FEES)
    asyncio.run(take(Options(policy, settings, live=True), pools, 3))
    asyncio.run(take(Options(policy, settings, live=True), pools, 3))

    async def start(settings: Any) -> None:
        async with assembled(Options(policy, settings, live=True), Redactor()):
            pass

    monkeypatch.setenv("ARBGYM_PRIVATE_KEY", "0x" + 64 * "7")
    slots.call("anvil_setBalance", load_signer(None).address, hex(10**21))
    theirs = pools.settings(slots.url, tmp_path, executor=executor_of(slots.url), risk=WIDE, fees=FEES)
    with pytest.raises(LiveError, match=r"account = 0x.*accepted is the journal of this chain and account, or a new file"):
        asyncio.run(start(theirs))
    monkeypatch.setenv("ARBGYM_PRIVATE_KEY", key)
    other = Anvil()
    try:
        other.call("anvil_setBalance", load_signer(None).address, hex(10**21))
        elsewhere = Pools(Market(other, (18, 6)), seed=5).settings(other.url, tmp_path, executor=executor_of(other.url))
        with pytest.raises(LiveError, match="first_block = 0x"):
            asyncio.run(start(elsewhere))
    finally:
        other.kill()


def test_a_gate_that_halts_and_a_kill_are_told_once(slots: Anvil, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=5, median_base=15.0)
    policy = save_policy(tmp_path / "policy", seed=3, masked=True, prefer=PUBLIC)
    settings = pools.settings(slots.url, tmp_path, risk=WIDE, fees=FEES)
    told: list[Any] = []

    def each(runner: Any) -> None:
        if runner.decisions == 2:
            runner.parts.gate.halt("a test")
            runner.parts.kill.engage("a test, too")
        runner._log = structlog.wrap_logger(
            structlog.PrintLogger(), processors=[lambda _, level, event: told.append(event) or ""]
        )

    asyncio.run(take(Options(policy, settings), pools, 6, each))
    lines = [
        (line["event"], line.get("state", line.get("engaged")), line["reason"]) for line in told if line["event"] in SWITCHES
    ]
    assert lines == [("gate", "HALTED", "a test"), ("kill switch", True, "a test, too")]


SWITCHES = ("gate", "kill switch")
