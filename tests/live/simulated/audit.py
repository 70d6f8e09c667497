"""Judges a run by the chain's own history and by the journal's rows; it shares no code with what it judges."""

from __future__ import annotations

import json
import sqlite3
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any

from arbgym.live.profiles import Limits
from tests.live.simulated.chain import GAS_USED
from tests.live.simulated.clock import START_S
from tests.live.simulated.relay import Attempt
from tests.live.simulated.run import ACCOUNT, World
from tests.live.simulated.world import PRICE

_ENDS = {"mined", "reverted", "replaced", "dropped", "refused", "dry"}
_PRICE_SLACK = 1.02  # the gate knows the price of some seconds ago


@dataclass(slots=True)
class Story:
    """One intent as the journal tells it."""

    key: str
    plan: dict[str, Any]
    state: str
    hashes: dict[str, str] = field(default_factory=dict)  # of its transactions: kind
    nonces: set[int] = field(default_factory=set)
    states: list[str] = field(default_factory=list)
    outcome: dict[str, Any] | None = None  # the last one
    attempts: list[Attempt] = field(default_factory=list)


def read_stories(world: World) -> dict[str, Story]:
    """Every intent of the journal, in the order written."""
    with closing(sqlite3.connect(world.journal_path)) as database:
        stories = {
            key: Story(key, json.loads(plan), state)
            for key, plan, state in database.execute("SELECT key, plan, state FROM intents ORDER BY rowid")
        }
        for digest, key, kind, nonce in database.execute("SELECT hash, intent, kind, nonce FROM transactions ORDER BY rowid"):
            stories[key].hashes[digest] = kind
            stories[key].nonces.add(nonce)
        for key, state, outcome in database.execute("SELECT intent, state, outcome FROM transitions ORDER BY id"):
            stories[key].states.append(state)
            stories[key].outcome = json.loads(outcome) if outcome else None
    owners = {digest: story for story in stories.values() for digest in story.hashes}
    for attempt in world.record.attempts:
        assert attempt.transaction.hash in owners, f"{attempt} was sent and is not in the journal"
        owners[attempt.transaction.hash].attempts.append(attempt)
    return stories


def audit(world: World) -> dict[str, Story]:
    """Raise AssertionError for anything that must not have happened; returns what did."""
    stories = read_stories(world)
    for story in stories.values():
        check_once(story)
        check_end(world, story)
        if story.plan["data"] != "0x":  # else it fills a gap of nonces
            check_limits(world, story, world.limits)
    check_rates(world, stories, world.limits)
    check_origin(world, stories)
    check_profit(world, stories)
    check_totals(world, world.limits)
    check_gate(world, stories)
    return stories


def check_once(story: Story) -> None:
    """One nonce, one original; nothing but a cancellation follows a kill or a halt."""
    kinds = Counter(story.hashes.values())
    assert kinds["original"] <= 1, f"{story.key}: {kinds}"
    assert len(story.nonces) <= 1, f"{story.key}: nonces {story.nonces}"
    assert story.states[0] == "written", story.states
    seen: set[str] = set()
    for attempt in story.attempts:
        digest = attempt.transaction.hash
        kind = story.hashes[digest]
        if attempt.killed or attempt.halted:
            assert kind == "cancel", f"{story.key}: {kind} sent although killed={attempt.killed}, halted={attempt.halted}"
        if kind == "cancel":
            assert attempt.transaction.to == ACCOUNT and attempt.transaction.data == "0x"
        else:
            assert attempt.transaction.data == story.plan["data"] and attempt.transaction.to == story.plan["to"]
        seen.add(digest)


def check_end(world: World, story: Story) -> None:
    """Exactly one end, and the one that the chain tells."""
    assert story.state in _ENDS, f"{story.key} is lost: {story.states}"
    assert story.states[-1] == story.state and story.outcome is not None, story.states
    assert story.outcome["state"] == story.state
    mined = [receipt for digest in story.hashes if (receipt := world.chain.receipt(digest)) is not None]
    assert len(mined) <= 1, f"{story.key}: {len(mined)} of its transactions are on chain"
    if not mined:
        assert story.state in ("replaced", "dropped", "refused"), (
            f"{story.key} is {story.state}, and not on chain: {story.states}"
        )
        return
    (receipt,) = mined
    kind = story.hashes[receipt["transactionHash"]]
    truth = "replaced" if kind == "cancel" else "mined" if receipt["status"] == "0x1" else "reverted"
    assert story.state == truth, f"{story.key} is {story.state}; the chain says {truth} ({story.states})"
    assert story.outcome["block_number"] == int(receipt["blockNumber"], 16)
    paid = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    assert story.outcome["gas_cost_wei"] + story.outcome["tip_wei"] == paid
    assert story.outcome["profit_raw"] == (_gain(receipt) if truth == "mined" else 0)
    assert truth != "mined" or _gain(receipt) >= story.plan["minimum_profit_raw"]


def _gain(receipt: dict[str, Any]) -> int:
    return int(receipt["logs"][-1]["data"], 16)  # the executor's last act is the transfer to its owner


def check_limits(world: World, story: Story, limits: Limits) -> None:
    """Each order's own limits, by the true price and the true times."""
    if not story.attempts:
        return
    first, plan = story.attempts[0], story.plan
    price = world.record.prices.get(plan["block_number"])
    assert price is not None, f"decided on block {plan['block_number']}, which was never the newest"
    notional_eth = plan["amount_in_raw"] / 1e6 / price
    assert notional_eth <= min(limits.max_notional_eth, limits.max_flash_borrow_eth) * _PRICE_SLACK, f"{notional_eth} ETH"
    tip_eth = GAS_USED * plan["priority_fee_wei"] / 1e18 * 0.8  # gas is estimated by the policy's world
    profit_eth = plan["expected_profit_raw"] / 1e6 / price
    assert (profit_eth - tip_eth) * _PRICE_SLACK >= limits.min_profit_eth, f"{profit_eth} ETH less a tip of {tip_eth}"
    head_s = world.record.times[plan["block_hash"]]
    assert first.elapsed_s + START_S - head_s <= limits.max_head_age_s, (
        f"sent {first.elapsed_s + START_S - head_s} s after its head"
    )
    assert story.hashes[first.transaction.hash] in ("original", "cancel")


def check_rates(world: World, stories: dict[str, Story], limits: Limits) -> None:
    """Orders in any minute, one intent at a time, and one for each block."""
    sent = [
        (attempt.elapsed_s, story)
        for story in stories.values()
        for attempt in story.attempts[:1]
        if story.hashes[attempt.transaction.hash] == "original"
    ]
    sent.sort(key=lambda one: one[0])
    for place, (elapsed_s, _) in enumerate(sent):
        minute = [other for other, _ in sent[: place + 1] if elapsed_s - other < 60.0]
        assert len(minute) <= limits.max_orders_per_minute, f"{len(minute)} orders in a minute, at {minute}"
    blocks = Counter(story.plan["block_hash"] for _, story in sent)
    assert not blocks or max(blocks.values()) == 1, f"two intents for one block: {blocks.most_common(1)}"


def check_origin(world: World, stories: dict[str, Story]) -> None:
    """Every transaction of the account that the chain ever took belongs to an intent, or to somebody else's program."""
    known = {digest for story in stories.values() for digest in story.hashes}
    for transaction in world.chain.received:
        assert transaction.foreign or transaction.hash in known, f"{transaction.hash} came from nowhere"


def check_profit(world: World, stories: dict[str, Story]) -> None:
    """What the journal says was made is what the account has."""
    told = sum(story.outcome["profit_raw"] for story in stories.values() if story.outcome)
    assert told == world.chain.tip.state.profit_raw, (
        f"the journal tells of {told} raw, the chain of {world.chain.tip.state.profit_raw}"
    )


def check_gate(world: World, stories: dict[str, Story]) -> None:
    """The gate's last stored state knows of every end once: its account is what the journal's ends add up to."""
    with closing(sqlite3.connect(world.journal_path)) as database:
        (text,) = database.execute("SELECT value FROM store WHERE name = 'risk'").fetchone()
    kept = json.loads(text)
    assert not kept["open"], f"the gate waits for {list(kept['open'])}"
    gained = (kept["base"]["equity_wei"] + sum(entry[3] for entry in kept["entries"]) - kept["given_wei"]) / 1e18
    expected = made = 0.0
    for story in stories.values():
        assert story.outcome is not None
        profit = story.outcome["profit_raw"] / 1e6 / world.record.prices.get(story.outcome["block_number"], PRICE)
        expected += profit - (story.outcome["gas_cost_wei"] + story.outcome["tip_wei"]) / 1e18
        made += profit
    # profits were turned into ETH at the price of the block in which the end was told
    assert abs(gained - expected) <= 1e-9 + made * (_PRICE_SLACK - 1.0), f"the gate has {gained} ETH, the journal {expected}"


def check_totals(world: World, limits: Limits) -> None:
    """At each order, by what was known then: a day's loss and gas are not used up, nor too many reverts in a row."""
    ends: dict[str, dict[str, Any]] = {}  # in the order known
    resumes = list(world.record.resumes)
    forgiven: set[str] = set()
    with closing(sqlite3.connect(world.journal_path)) as database:
        rows = database.execute("SELECT intent, state, time_s, outcome FROM transitions ORDER BY id").fetchall()
    for key, state, time_s, outcome in rows:
        while resumes and resumes[0] <= time_s:
            resumes.pop(0)
            forgiven = set(ends)
        ends.pop(key, None)
        if outcome is not None:
            ends[key] = json.loads(outcome)
        elif state in ("sent", "unknown") and not any(one["corrects"] for one in ends.values()):
            _check_before(ends, forgiven, limits)


def _check_before(ends: dict[str, dict[str, Any]], forgiven: set[str], limits: Limits) -> None:
    reverts = spent_wei = 0
    for key, end in ends.items():
        if end["state"] == "reverted":
            reverts += key not in forgiven
            spent_wei += end["gas_cost_wei"] + end["tip_wei"]
        elif end["state"] == "mined":
            reverts = 0
            spent_wei += end["gas_cost_wei"]
    assert reverts < limits.max_consecutive_reverts, f"an order after {reverts} reverts"
    assert spent_wei <= limits.gas_budget_eth_per_day * 1e18, f"an order after {spent_wei / 1e18} ETH of gas"
