"""A plan comes to its end exactly once: rules of the memory pool, doubtful answers, reorganisations and killed processes."""

from __future__ import annotations

import asyncio
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import given
from hypothesis import strategies as st

from arbgym.live.channels import PublicChannel
from arbgym.live.dry import DrySender
from arbgym.live.journal import Journal, JournalError
from arbgym.live.sender import CRASH_POINTS, WATCHED_BLOCKS, JournalSender, LiveSender, raised_fees
from arbgym.live.terms import SETTLED, IntentState, LiveError, Outcome, Plan, Unknown, Verdict
from tests.live.scripted_chain import (
    GAS_USED,
    GWEI,
    OWNER,
    QUOTE,
    PlainSigner,
    ScriptedChain,
    ScriptedRelay,
    SetClock,
    plan_at,
)

ALLOWED = Verdict(True)
FORBIDDEN = Verdict(False, "kill_switch", 1.0, "0")
S = IntentState


class Bench:
    """A chain and a live sender on it."""

    def __init__(
        self,
        path: Path,
        chain: ScriptedChain | None = None,
        on_point: Callable[[str], None] = lambda name: None,
        maximum_fee_wei: int = 2_000 * GWEI,
    ) -> None:
        self.chain = chain or ScriptedChain()
        self.path, self.clock, self.on_point = path, SetClock(), on_point
        self.maximum_fee_wei, self.halted = maximum_fee_wei, False
        self.worth: Callable[[Plan, int, int], bool] = lambda plan, max_fee_wei, priority_fee_wei: True
        self.open()

    def open(self) -> None:
        self.journal = Journal(self.path, self.clock, on_point=self.on_point)
        self.sender = LiveSender(
            self.chain,
            {"public": PublicChannel(self.chain), "private": ScriptedRelay(self.chain)},
            self.journal,
            PlainSigner(),
            self.clock,
            chain_id=1,
            quote_token=QUOTE,
            owner=OWNER,
            maximum_fee_wei=self.maximum_fee_wei,
            worth=lambda *asked: self.worth(*asked),
            halted=lambda: self.halted,
            on_point=self.on_point,
        )

    def restart(self) -> None:
        self.journal.close()
        self.open()

    def mine(self) -> list[Outcome]:
        outcomes = asyncio.run(self.sender.settle(self.chain.mine()))
        self.journal.flush()
        return outcomes

    def start(self) -> list[Outcome]:
        return asyncio.run(self.sender.start())

    def send(self, plan: Any, verdict: Verdict = ALLOWED) -> IntentState:
        return asyncio.run(self.sender.send(plan, lambda: verdict))


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    bench = Bench(tmp_path / "journal.sqlite")
    assert bench.start() == []
    return bench


@pytest.mark.parametrize("channel", ["public", "private"])
def test_a_mined_plan_has_its_profit_gas_and_tip(bench: Bench, channel: str) -> None:
    plan = plan_at(bench.chain.head, 20, channel)
    assert bench.send(plan) is S.SENT
    assert bench.sender.busy
    (outcome,) = bench.mine()
    base_fee = bench.chain.head.base_fee_wei
    assert (outcome.state, outcome.key, outcome.block_number) == (S.MINED, plan.key, bench.chain.head.number)
    assert outcome.profit_raw == plan.expected_profit_raw
    assert outcome.gas_cost_wei == GAS_USED * base_fee
    assert outcome.tip_wei == GAS_USED * min(2 * GWEI, plan.max_fee_wei - base_fee)
    assert not bench.sender.busy
    assert bench.mine() == []


def test_what_a_feed_asked_along_is_not_asked_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    batch = bench.chain.batch

    async def counted(calls: Any) -> Any:
        asked.append(calls)
        return await batch(calls)

    def view_with_answers(questions: list[Any]) -> Any:
        view = bench.chain.mine()
        return replace(view, along=tuple(zip(questions, asyncio.run(batch(questions)), strict=True)))

    monkeypatch.setattr(bench.chain, "batch", counted)
    plan = plan_at(bench.chain.head, 20)
    none_open = bench.sender.questions()
    bench.send(plan)
    questions = bench.sender.questions()
    assert len(questions) == len(none_open) + 1
    (outcome,) = asyncio.run(bench.sender.settle(view_with_answers(questions)))
    assert (outcome.state, outcome.key, asked) == (S.MINED, plan.key, [])
    asyncio.run(bench.sender.settle(view_with_answers(bench.sender.questions())))
    assert bench.sender.chain_nonce == 1 and asked == []
    # answers to other questions than those that there are now: the node is asked
    bench.send(plan_at(bench.chain.head, 22))
    (outcome,) = asyncio.run(bench.sender.settle(view_with_answers(none_open)))
    assert outcome.state is S.MINED and len(asked) == 1


@pytest.mark.parametrize("behind", ["the block", "the receipt", "no number"])
def test_what_was_asked_along_too_early_is_asked_again(behind: str, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_at(bench.chain.head, 20)
    bench.send(plan)
    questions = bench.sender.questions()
    view = bench.chain.mine()
    block, count, receipt = asyncio.run(bench.chain.batch(questions))
    early = {
        "the block": [hex(int(block, 16) - 1), count, receipt],
        "the receipt": [block, count, None],
        "no number": [None, count, receipt],
    }[behind]
    (outcome,) = asyncio.run(bench.sender.settle(replace(view, along=tuple(zip(questions, early, strict=True)))))
    assert (outcome.state, outcome.key) == (S.MINED, plan.key) and not bench.sender.trouble


def test_a_revert_pays_its_gas_and_earns_nothing(bench: Bench) -> None:
    bench.send(plan_at(bench.chain.head, 0, data=f"0x{7:064x}"))
    (outcome,) = bench.mine()
    assert (outcome.state, outcome.profit_raw) == (S.REVERTED, 0)
    assert outcome.gas_cost_wei > 0


def test_the_gate_has_the_last_word(bench: Bench) -> None:
    plan = plan_at(bench.chain.head, 0)
    assert bench.send(plan, FORBIDDEN) is S.REFUSED
    assert bench.chain.submitted == []
    # nothing left the process, so the nonce is free
    assert bench.send(plan_at(bench.chain.head, 1)) is S.SENT
    assert bench.chain.submitted[0]["nonce"] == 0
    assert [one.state for one in bench.mine()] == [S.REFUSED, S.MINED]
    assert "kill_switch" in bench.journal.transitions(plan.key)[-1].detail


def test_the_intent_and_the_transaction_are_journaled_before_the_gate_is_asked(bench: Bench) -> None:
    plan = plan_at(bench.chain.head, 0)

    def still_allowed() -> Verdict:
        intent = bench.journal.intent(plan.key)
        assert intent.state is S.SIGNED
        assert [one.kind for one in intent.transactions] == ["original"]
        assert bench.chain.submitted == []
        return ALLOWED

    asyncio.run(bench.sender.send(plan, still_allowed))
    assert len(bench.chain.submitted) == 1


def test_the_same_plan_is_not_sent_twice(bench: Bench) -> None:
    plan = plan_at(bench.chain.head, 0)
    bench.send(plan)
    bench.mine()
    assert bench.send(plan) is S.MINED
    assert len(bench.chain.submitted) == 1


def test_one_intent_at_a_time_and_only_with_a_known_nonce(tmp_path: Path) -> None:
    bench = Bench(tmp_path / "journal.sqlite")
    assert bench.sender.busy, "the nonce is not known before the chain was asked"
    with pytest.raises(LiveError, match="one intent at a time"):
        bench.send(plan_at(bench.chain.head, 0))
    bench.start()
    bench.send(plan_at(bench.chain.head, 0))
    with pytest.raises(LiveError, match="one intent at a time"):
        bench.send(plan_at(bench.chain.head, 1))
    assert len(bench.journal.open_intents()) == 1


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"channel": "carrier pigeon"}, "plan.channel"),
        ({"max_fee_wei": 10**15}, "plan.max_fee_wei"),
        ({"to": "0xnowhere"}, "plan.to"),
    ],
)
def test_a_plan_that_cannot_be_sent_is_named_and_not_written(bench: Bench, change: dict[str, Any], named: str) -> None:
    with pytest.raises(LiveError, match=named):
        bench.send(plan_at(bench.chain.head, 0, **change))
    assert not bench.journal.busy


def test_equal_plans_of_two_blocks_have_transactions_of_their_own(bench: Bench) -> None:
    first = plan_at(bench.chain.head, 0)
    assert bench.send(first, FORBIDDEN) is S.REFUSED
    assert bench.send(replace(first, key="the next block's")) is S.SENT
    assert [(one.key, one.state) for one in bench.mine()] == [(first.key, S.REFUSED), ("the next block's", S.MINED)]
    bench.restart()
    bench.start()
    assert bench.journal.intent(first.key).state is S.REFUSED


def test_a_refusal_gives_the_nonce_back(bench: Bench) -> None:
    bench.chain.refusal = "insufficient funds for gas * price + value"
    assert bench.send(plan_at(bench.chain.head, 0)) is S.REFUSED
    assert bench.send(plan_at(bench.chain.head, 1)) is S.SENT
    assert {one["nonce"] for one in bench.chain.submitted} == {0}


def test_a_lost_answer_is_unknown_and_settles_by_the_receipt(bench: Bench) -> None:
    bench.chain.doubt = 1.0
    assert bench.send(plan_at(bench.chain.head, 0)) is S.UNKNOWN
    bench.chain.mine()
    assert asyncio.run(bench.sender.settle(bench.chain.view())) == []
    assert bench.sender.trouble != ""
    bench.chain.doubt = 0.0
    # either it had arrived, or the same bytes are sent again
    states = [one.state for _ in range(3) for one in bench.mine()]
    assert states == [S.MINED]
    assert len({str(one) for one in bench.chain.submitted}) == 1


def test_a_bundle_that_was_not_taken_is_dropped_and_its_nonce_used_again(bench: Bench) -> None:
    bench.chain.late = 1.0
    bench.send(plan_at(bench.chain.head, 0, "private", blocks=2))
    assert bench.mine() == []
    (outcome,) = bench.mine()
    assert (outcome.state, outcome.gas_cost_wei) == (S.DROPPED, 0)
    bench.chain.late = 0.0
    bench.send(plan_at(bench.chain.head, 1))
    assert [one.state for one in bench.mine()] == [S.MINED]
    assert {one["nonce"] for one in bench.chain.submitted} == {0}


def test_a_dropped_bundle_that_is_mined_after_all_is_noticed(bench: Bench) -> None:
    bench.chain.late = 1.0
    plan = plan_at(bench.chain.head, 0, "private", blocks=1)
    bench.send(plan)
    assert [one.state for one in bench.mine()] == [S.DROPPED]
    bench.chain.late = 0.0
    for _ in range(20):  # long after
        assert bench.mine() == []
    bench.chain.leak()
    assert bench.mine() == []
    (outcome,) = bench.mine()
    assert (outcome.state, outcome.corrects, outcome.profit_raw) == (S.MINED, S.DROPPED, plan.expected_profit_raw)


def asked_receipts(bench: Bench, monkeypatch: pytest.MonkeyPatch, most: int = 10**6) -> list[int]:
    """How many receipts each request asks for from now on; a request for more than ``most`` fails."""
    asked: list[int] = []
    batch = bench.chain.batch

    async def counted(calls: Any) -> Any:
        count = sum(method == "eth_getTransactionReceipt" for method, _ in calls)
        asked.append(count)
        if count > most:
            raise Unknown("eth_getTransactionReceipt", "rate_limited", "HTTP 429")
        return await batch(calls)

    monkeypatch.setattr(bench.chain, "batch", counted)
    return asked


def give_up(bench: Bench, number: int, first: int = 0) -> list[Plan]:
    """Plans that are given up with the next nonce; a relay has the bundle of the first."""
    plans = [plan_at(bench.chain.head, index, "private", blocks=1) for index in range(first, first + number)]
    late, bench.chain.late = bench.chain.late, 1.0
    bench.send(plans[0])
    assert [one.state for one in bench.mine()] == [S.DROPPED]
    for plan in plans[1:]:
        assert bench.send(plan, FORBIDDEN) is S.REFUSED
    bench.chain.late = late
    return plans


def test_what_was_given_up_is_asked_about_again_for_some_blocks_only(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up(bench, 130)
    bench.chain.stranger()
    asked = asked_receipts(bench, monkeypatch)
    bench.mine()
    assert sum(asked) == 130 and max(asked) <= 50 and not bench.sender.busy

    def asked_after(what: str) -> int:
        asked.clear()
        if what == "restart":
            bench.restart()
            bench.start()
        else:
            for view in bench.chain.reorganise(1):
                asyncio.run(bench.sender.settle(view))
        bench.mine()
        assert not bench.sender.busy and bench.sender.trouble == "" and max(asked) <= 50
        return sum(asked)

    for _ in range(4):
        bench.mine()
    # ... what was refused just now is looked at with what ended in the last blocks, too
    assert asked_after("restart") >= 130 <= asked_after("reorganisation")
    for _ in range(WATCHED_BLOCKS + 70):
        bench.mine()
    assert asked_after("reorganisation") == 0
    assert asked_after("restart") == 0
    # the next nonce is explained by itself
    give_up(bench, 3, first=200)
    bench.chain.stranger()
    asked.clear()
    bench.mine()
    assert sum(asked) == 3 and bench.sender.chain_nonce == 2


@pytest.mark.parametrize("how", ["restart", "reorganisation"])
def test_a_bundle_that_a_reorganisation_lets_in_is_noticed(bench: Bench, how: str) -> None:
    given_up = give_up(bench, 3)
    bench.chain.stranger()
    bench.mine()
    bench.mine()
    assert not bench.sender.busy
    # a chain on which the builder was faster than the stranger
    leaked = next(bundle for bundles in bench.chain.bundles.values() for bundle in bundles)
    bench.chain.random.seed(1)
    views = bench.chain.reorganise(2)
    for block in bench.chain.blocks:
        block.transactions.clear()
    bench.chain.pool.clear()
    bench.chain.blocks[-1].transactions.append(leaked)
    outcomes = []
    if how == "restart":
        bench.restart()
        outcomes += bench.start()
    else:
        outcomes += [one for view in views for one in asyncio.run(bench.sender.settle(view))]
    outcomes += bench.mine() + bench.mine()
    last = {one.key: (one.state, one.corrects) for one in outcomes}
    assert last[given_up[0].key] == (S.MINED, S.DROPPED) and not bench.sender.busy


def test_what_a_node_does_not_answer_at_once_is_asked_in_parts(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    first = give_up(bench, 130)[0]
    for _ in range(WATCHED_BLOCKS):
        bench.mine()
    asked = asked_receipts(bench, monkeypatch, most=7)
    bench.chain.leak()
    outcomes: list[Outcome] = []
    blocks = 0
    while blocks < 9:
        blocks += 1
        outcomes += bench.mine()
        assert bench.sender.chain_nonce == 1
        if not bench.sender.trouble:
            break
        assert bench.sender.busy and "nonces that are not explained" in bench.sender.trouble
        with pytest.raises(LiveError, match="one intent at a time"):
            bench.send(plan_at(bench.chain.head, 999))
    assert blocks == 4 and sum(count for count in asked if count <= 7) == 130, "no more than once each"
    outcomes += bench.mine()
    assert [(one.key, one.state, one.corrects) for one in outcomes] == [(first.key, S.MINED, S.DROPPED)]
    assert not bench.sender.busy and bench.send(plan_at(bench.chain.head, 999)) is S.SENT


def test_what_is_open_does_not_wait_for_what_was_given_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    give_up(bench, 9)
    bench.chain.stranger()
    bench.mine()
    bench.chain.late = 1.0
    plan = plan_at(bench.chain.head, 50, blocks=2)
    assert bench.send(plan) is S.SENT
    bench.restart()
    with monkeypatch.context() as change:
        look = LiveSender._look

        async def failing(self: Any, number: int, intents: Any, *along: Any) -> Any:
            if any(intent.state in (S.DROPPED, S.REFUSED) for intent in intents):
                raise Unknown("eth_getTransactionReceipt", "rate_limited", "HTTP 429")
            return await look(self, number, intents, *along)

        bench.start()
        bench.sender._explained.doubt_since(0)  # what explains nonces is asked again, and the node does not say
        change.setattr(LiveSender, "_look", failing)
        for _ in range(3):
            assert bench.mine() == []
            assert bench.sender.chain_nonce == 1 and "HTTP 429" in bench.sender.trouble
        assert bench.chain.submitted[-1]["data"] == "0x", "it is cancelled at its last block"
        bench.chain.late = 0.0
        assert [one.state for one in bench.mine()] == [S.REPLACED]
        assert bench.sender.busy, "no trade while a loss may be unknown"
    bench.mine()
    assert not bench.sender.busy and bench.sender.trouble == ""


def test_a_race_that_cannot_be_doubted_holds_nothing_up(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.chain.late = 1.0
    bench.send(plan_at(bench.chain.head, 0, blocks=9))
    bench.chain.stranger()
    bench.chain.late = 0.0
    assert [one.state for _ in range(2) for one in bench.mine()] == [S.REPLACED]
    with monkeypatch.context() as change:
        asked_receipts(bench, change, most=0)
        bench.mine()
        assert "nonce races: " in bench.sender.trouble and not bench.sender.busy and bench.sender.chain_nonce == 1
    bench.mine()
    assert bench.sender.trouble == ""


@pytest.mark.parametrize("kept", [5, {"seen": 1}, {"seen": None, "marks": []}, {"seen": 1, "marks": [3]}])
def test_a_store_that_was_damaged_is_named(bench: Bench, kept: Any) -> None:
    bench.journal.put("sender.explained", kept)
    with pytest.raises(LiveError, match=r"sender\.explained"):
        bench.restart()


def test_two_intents_with_one_nonce_have_one_effect(bench: Bench) -> None:
    bench.chain.late = 1.0
    first, second = plan_at(bench.chain.head, 0, "private", blocks=1), plan_at(bench.chain.head, 1, "public", blocks=9)
    bench.send(first)
    bench.mine()
    bench.chain.leak()
    bench.send(second)  # the pool has the first one's transaction: whatever it says, one of the two will be mined
    bench.chain.late = 0.0
    outcomes = [one for _ in range(4) for one in bench.mine()]
    last = {one.key: one.state for one in outcomes}
    assert sorted(last.values()) in ([S.MINED, S.REFUSED], [S.MINED, S.REPLACED])
    assert bench.chain.trades(first.data) + bench.chain.trades(second.data) == 1
    assert bench.sender.nonce_race == ""


def test_a_late_public_transaction_is_cancelled_under_its_nonce(bench: Bench) -> None:
    bench.chain.late = 1.0
    plan = plan_at(bench.chain.head, 0, blocks=1)
    bench.send(plan)
    assert bench.mine() == []
    original, cancel = bench.chain.submitted
    assert (cancel["to"], cancel["data"], cancel["value"], cancel["nonce"]) == (OWNER, "0x", 0, original["nonce"])
    for name in ("maxFeePerGas", "maxPriorityFeePerGas"):
        assert 8 * cancel[name] >= 9 * original[name]
    for _ in range(4):
        assert bench.mine() == []  # raised again and again while it is not mined
    fees = [one["maxFeePerGas"] for one in bench.chain.submitted[1:]]
    assert len(fees) == 5 and all(8 * later >= 9 * former for former, later in pairwise(fees))
    bench.chain.late = 0.0
    (outcome,) = bench.mine()
    assert outcome.state is S.REPLACED and outcome.gas_cost_wei > 0
    assert bench.chain.trades(plan.data) == 0 and bench.chain.count == 1


@pytest.mark.parametrize("doubt", [0.0, 1.0])
def test_no_trade_is_sent_again_while_halted(bench: Bench, doubt: float) -> None:
    bench.chain.late, bench.chain.doubt = 1.0, doubt
    plan = plan_at(bench.chain.head, 0, blocks=9)
    bench.send(plan)
    bench.halted, bench.chain.doubt = True, 0.0
    before = len(bench.chain.submitted)
    assert bench.mine() == []
    bench.halted = False  # a cancellation is not taken back
    for _ in range(3):
        assert bench.mine() == []
    assert {one["data"] for one in bench.chain.submitted[before:]} == {"0x"}
    bench.chain.late = 0.0
    assert [one.state for one in bench.mine()] == [S.REPLACED]


def test_a_halt_between_signing_a_raise_and_sending_it_is_in_time(tmp_path: Path) -> None:
    def on_point(name: str) -> None:
        bench.halted |= name == "bump.after_journaled"

    bench = Bench(tmp_path / "journal.sqlite", on_point=on_point)
    bench.start()
    plan = plan_at(bench.chain.head, 0, blocks=99, max_fee_wei=GWEI, priority_fee_wei=1)
    asyncio.run(bench.sender.settle(bench.chain.view()))
    bench.send(plan)
    while not bench.halted:
        assert bench.mine() == []
    assert [one.kind for one in bench.journal.intent(plan.key).transactions] == ["original", "bump"]
    assert len({one["maxFeePerGas"] for one in bench.chain.submitted}) == 1
    bench.mine()
    assert [one.kind for one in bench.journal.intent(plan.key).transactions][2:] == ["cancel"]
    assert bench.chain.submitted[-1]["data"] == "0x"


def test_a_private_trade_is_left_to_its_last_block_while_halted(bench: Bench) -> None:
    bench.chain.late, bench.chain.doubt = 1.0, 1.0
    bench.send(plan_at(bench.chain.head, 0, "private", blocks=3))
    bench.chain.doubt, bench.halted = 0.0, True
    before = len(bench.chain.submitted)
    assert [one.state for _ in range(3) for one in bench.mine()] == [S.DROPPED]
    assert len(bench.chain.submitted) == before


def test_nothing_is_sent_while_halted_even_if_the_gate_allows_it(bench: Bench) -> None:
    bench.halted = True
    assert bench.send(plan_at(bench.chain.head, 0)) is S.REFUSED
    assert bench.chain.submitted == [] and not bench.sender.busy


@pytest.mark.parametrize("doubt", [0.0, 1.0])
def test_a_late_trade_is_cancelled_even_where_that_offers_more_than_the_maximum(tmp_path: Path, doubt: float) -> None:
    chain = ScriptedChain()
    plan = plan_at(chain.head, 0, blocks=2)
    bench = Bench(tmp_path / "journal.sqlite", chain, maximum_fee_wei=plan.max_fee_wei * 21 // 20)
    bench.start()
    chain.late, chain.doubt = 1.0, doubt
    bench.send(plan)
    chain.doubt = 0.0
    bench.mine()
    before = len(chain.submitted)
    for _ in range(6):
        assert bench.mine() == []
        assert "cancellation of nonce 0" in bench.sender.trouble and str(bench.maximum_fee_wei) in bench.sender.trouble
    assert {one["data"] for one in chain.submitted[before:]} == {"0x"}, "sent again after its last block"
    # once beyond the maximum it is raised only where the base fee or the node asks for it
    fees = [one["maxFeePerGas"] for one in chain.submitted[before:]]
    assert max(fees) > bench.maximum_fee_wei and len(set(fees)) < len(fees)
    count = len(set(fees))
    chain.pool.clear()
    chain.refusal = "replacement transaction underpriced"
    bench.mine()
    bench.mine()
    assert len({one["maxFeePerGas"] for one in chain.submitted[before:]}) == count + 1
    chain.late = 0.0
    outcomes = bench.mine() + bench.mine()
    assert [one.state for one in outcomes] == [S.REPLACED] and bench.sender.trouble == ""
    assert chain.trades(plan.data) == 0


def test_a_trade_that_waits_one_block_is_raised_while_it_is_valid(bench: Bench) -> None:
    bench.chain.late = 1.0
    asyncio.run(bench.sender.settle(bench.chain.view()))
    for index in range(12):
        sent_at = bench.chain.head
        plan = plan_at(sent_at, index, blocks=2)
        bench.send(plan)
        bench.mine()
        kinds = [one.kind for one in bench.journal.intent(plan.key).transactions]
        grown = bench.chain.head.base_fee_wei > sent_at.base_fee_wei
        assert kinds == (["original", "bump"] if grown else ["original"])
        bench.chain.late = 0.0
        assert [one.state for one in bench.mine()] == [S.MINED]
        if grown:
            assert bench.chain.mined()[-1][1]["maxFeePerGas"] > plan.max_fee_wei
            return
        bench.chain.late = 1.0
    pytest.fail("the base fee never grew")


def test_a_waiting_public_transaction_is_raised_when_the_base_fee_has_grown(bench: Bench) -> None:
    plan = plan_at(bench.chain.head, 0, blocks=40, max_fee_wei=GWEI, priority_fee_wei=1)
    asyncio.run(bench.sender.settle(bench.chain.view()))
    bench.send(plan)
    outcomes: list[Outcome] = []
    for _ in range(38):
        outcomes += bench.mine()
    kinds = [one.kind for one in bench.journal.intent(plan.key).transactions]
    assert "bump" in kinds and "cancel" not in kinds
    assert [one.state for one in outcomes] == [S.MINED]
    assert bench.chain.trades(plan.data) == 1


def test_fees_are_raised_only_while_the_trade_is_worth_them(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench.chain.random, "choice", lambda options: options[-1])  # the base fee grows with each block
    plan = plan_at(bench.chain.head, 0, blocks=60, max_fee_wei=GWEI, priority_fee_wei=10**6)
    asked: list[tuple[int, int]] = []

    def worth(judged: Plan, max_fee_wei: int, priority_fee_wei: int) -> bool:
        assert judged == plan
        asked.append((max_fee_wei, priority_fee_wei))
        return max_fee_wei <= most

    bench.worth, most = worth, 0
    bench.chain.evict = 1.0  # what is not sent again is gone
    asyncio.run(bench.sender.settle(bench.chain.view()))
    bench.send(plan)
    for _ in range(10):
        assert bench.mine() == []
    (original,) = bench.journal.intent(plan.key).transactions
    assert len(asked) == 10 and all(8 * fee >= 9 * GWEI and 8 * tip >= 9 * 10**6 for fee, tip in asked)
    # it waits with the fees that were approved, and is sent again
    assert {(one["maxFeePerGas"], one["data"]) for one in bench.chain.submitted} == {(original.max_fee_wei, plan.data)}
    assert len(bench.chain.submitted) == 11 and bench.sender.trouble == ""
    # what it may cost is what was asked for, to the wei
    most, bench.chain.late = 10**15, 1.0
    assert bench.mine() == [] and len(asked) == 11
    bump = bench.journal.intent(plan.key).transactions[-1]
    assert (bump.kind, (bump.max_fee_wei, bump.priority_fee_wei)) == ("bump", asked[-1])
    # a cancellation is no trade: it is not asked about
    most, bench.halted = 0, True
    bench.mine()
    assert bench.chain.submitted[-1]["data"] == "0x" and len(asked) == 11
    bench.chain.late = 0.0
    assert [one.state for one in bench.mine() + bench.mine()] == [S.REPLACED]


@given(fee=st.integers(1, 10**13), priority=st.integers(0, 10**13), base_fee=st.integers(0, 10**13), most=st.integers(1, 10**13))
def test_raised_fees_satisfy_nodes_and_stay_below_the_maximum(fee: int, priority: int, base_fee: int, most: int) -> None:
    priority = min(priority, fee)
    raised = raised_fees(fee, priority, base_fee, most)
    unlimited = raised_fees(fee, priority, base_fee, None)
    assert unlimited is not None and 8 * unlimited[0] >= 9 * fee and 8 * unlimited[1] >= 9 * priority
    assert unlimited[0] >= base_fee + unlimited[1]
    if raised is None:
        assert 8 * most < 9 * fee + 8 or most < 1
        return
    maximum, tip = raised
    assert 8 * maximum >= 9 * fee and 8 * tip >= 9 * priority
    assert 0 < tip <= maximum <= most
    assert maximum == most or maximum >= base_fee + tip


def test_a_stranger_with_the_key_is_noticed(bench: Bench) -> None:
    bench.chain.late = 1.0
    bench.send(plan_at(bench.chain.head, 0, blocks=9))
    bench.chain.stranger()
    bench.chain.late = 0.0
    assert bench.mine() == []  # once may be a node that is not up to date
    (outcome,) = bench.mine()
    assert (outcome.state, outcome.gas_cost_wei) == (S.REPLACED, 0)
    assert "nonce race" in bench.sender.nonce_race
    assert bench.sender.take_nonce_race().startswith("nonce race: nonce 0 of")
    for _ in range(3):
        bench.mine()
        assert bench.sender.take_nonce_race() == "", "told once"
    bench.send(plan_at(bench.chain.head, 1))
    assert bench.chain.submitted[-1]["nonce"] == 1


def test_a_race_that_was_none_is_not_told_any_more(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = plan_at(bench.chain.head, 0)
    bench.send(plan)
    with monkeypatch.context() as change:
        change.setattr(bench.chain, "_receipt", lambda digest: None)  # a node whose index of receipts is behind
        assert bench.mine() == []
        assert [one.state for one in bench.mine()] == [S.REPLACED]
        assert bench.sender.nonce_race
    bench.mine()
    assert bench.sender.nonce_race == bench.sender.take_nonce_race() == ""
    assert [(one.state, one.corrects) for one in bench.mine()] == [(S.MINED, S.REPLACED)]


def test_the_fee_for_the_parent_chain_is_a_cost(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    receipt = bench.chain._receipt
    monkeypatch.setattr(bench.chain, "_receipt", lambda digest: (told := receipt(digest)) and {**told, "l1Fee": hex(10**15 + 7)})
    bench.send(plan_at(bench.chain.head, 0))
    (outcome,) = bench.mine()
    assert outcome.gas_cost_wei == GAS_USED * bench.chain.head.base_fee_wei + 10**15 + 7


@pytest.mark.parametrize("gas_used", [0, 180_000])
def test_a_dry_run_books_the_gas_that_is_expected(tmp_path: Path, gas_used: int) -> None:
    chain, clock = ScriptedChain(), SetClock()
    dry = DrySender(Journal(tmp_path / "journal.sqlite", clock), clock)
    asyncio.run(dry.start())
    asyncio.run(dry.settle(chain.view()))
    plan = plan_at(chain.head, 0, gas_used=gas_used)
    base_fee, gas = chain.head.base_fee_wei, gas_used or plan.gas_limit
    asyncio.run(dry.send(plan, lambda: ALLOWED))
    (outcome,) = asyncio.run(dry.settle(chain.mine()))
    assert (outcome.gas_cost_wei, outcome.tip_wei) == (gas * base_fee, gas * plan.priority_fee_wei)


@pytest.mark.parametrize("how", ["closed", "gone", "damaged"])
def test_a_journal_that_fails_is_a_journal_error_wherever_it_is_met(tmp_path: Path, how: str) -> None:
    path = tmp_path / "folder" / "journal.sqlite"
    path.parent.mkdir()
    bench = Bench(path)
    bench.start()
    bench.send(plan_at(bench.chain.head, 0))
    view = bench.chain.mine()
    if how == "closed":
        bench.journal.close()
    elif how == "gone":
        shutil.rmtree(path.parent)
    else:
        bench.journal._database.execute("UPDATE intents SET plan = '{}', state = 'nowhere'")
    with pytest.raises(JournalError):
        asyncio.run(bench.sender.settle(view))
    with pytest.raises(JournalError):
        asyncio.run(bench.sender.settle(bench.chain.mine()))
    with pytest.raises(LiveError):
        bench.send(plan_at(bench.chain.head, 1))
    if how != "gone":  # what is open still says so
        with pytest.raises(JournalError):
            bench.start()
        with pytest.raises(JournalError):
            bench.journal.open_intents()
    if how == "closed":
        with pytest.raises(JournalError):
            bench.journal.busy  # noqa: B018
        with pytest.raises(JournalError):
            bench.journal.write(plan_at(bench.chain.head, 2))
    assert len(bench.chain.submitted) == 1


def test_a_block_number_beyond_all_bounds_is_not_believed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.send(plan_at(bench.chain.head, 0))
    answer = bench.chain._answer
    for method in ("eth_blockNumber", "eth_getTransactionCount"):
        for number in (2**63, 2**300):
            with monkeypatch.context() as change:
                change.setattr(bench.chain, "_answer", lambda m, p, x=(method, number): hex(x[1]) if m == x[0] else answer(m, p))
                assert bench.mine() == [] and bench.sender.trouble
    assert [one.state for one in bench.mine()] == [S.MINED]


@pytest.mark.parametrize("depth", range(1, 13))
@pytest.mark.parametrize("channel", ["public", "private"])
def test_a_reorganisation_takes_an_end_back_and_settles_it_anew(bench: Bench, depth: int, channel: str) -> None:
    plan = plan_at(bench.chain.head, 0, channel)
    bench.send(plan)
    (first,) = bench.mine()
    for _ in range(depth - 1):
        assert bench.mine() == []
    bench.chain.random.seed(depth)
    outcomes = [one for view in bench.chain.reorganise(depth) for one in asyncio.run(bench.sender.settle(view))]
    for _ in range(12):
        outcomes += bench.mine()
    (again,) = outcomes
    assert again.corrects is first.state is S.MINED
    assert bench.chain.trades(plan.data) == (again.state is S.MINED)
    assert bench.journal.intent(plan.key).state is again.state
    history = [one.state for one in bench.journal.transitions(plan.key)]
    assert history[-3:] in ([S.MINED, S.SENT, again.state], [S.SENT, S.UNKNOWN, again.state])


def test_a_reorganisation_while_the_process_was_down_is_noticed_at_its_start(bench: Bench) -> None:
    plan = plan_at(bench.chain.head, 0)
    bench.send(plan)
    assert len(bench.mine()) == 1
    bench.chain.reorganise(2)
    bench.restart()
    outcomes = bench.start()
    for _ in range(8):
        outcomes += bench.mine()
    # the first outcome was not known to be received, so it comes again, before the one that corrects it
    assert [one.corrects for one in outcomes] == [None, S.MINED]
    assert bench.chain.trades(plan.data) == (outcomes[-1].state is S.MINED)


def test_a_node_behind_the_view_and_a_foreign_chain_prove_nothing(bench: Bench) -> None:
    bench.send(plan_at(bench.chain.head, 0, "private", blocks=1))
    ahead = bench.chain.view()
    bench.chain.mine()
    view = bench.chain.view()
    bench.chain.blocks.pop()
    assert asyncio.run(bench.sender.settle(view)) == [] and "the node is at block" in bench.sender.trouble
    bench.chain.mine()
    assert [one.state for one in asyncio.run(bench.sender.settle(bench.chain.view()))] == [S.MINED]
    bench.chain.blocks[-1].transactions.clear()
    bench.mine()
    assert "journal saw mined" in bench.sender.trouble
    assert bench.sender.busy
    assert ahead.head.number < view.head.number


def test_a_signed_public_transaction_of_an_earlier_process_is_cancelled_and_not_sent(bench: Bench) -> None:
    plan = plan_at(bench.chain.head, 0, blocks=9)

    def die() -> Verdict:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        asyncio.run(bench.sender.send(plan, die))
    bench.restart()
    assert bench.start() == []
    outcomes = bench.mine() + bench.mine()
    assert [one.state for one in outcomes] == [S.REPLACED]
    assert [one["data"] for one in bench.chain.submitted] == ["0x"]


def test_dry_and_live_write_the_same_intents(tmp_path: Path) -> None:
    chain, clock = ScriptedChain(), SetClock()
    live = Bench(tmp_path / "live.sqlite", chain)
    dry_journal = Journal(tmp_path / "dry.sqlite", clock)
    dry = DrySender(dry_journal, clock)
    senders: list[JournalSender] = [live.sender, dry]
    assert [asyncio.run(sender.start()) for sender in (live.sender, dry)] == [[], []]
    for index in range(5):
        view = chain.mine()
        handed = [asyncio.run(sender.settle(view)) for sender in (live.sender, dry)]
        assert [len(each) for each in handed] == [min(index, 1)] * 2
        if index:
            assert handed[1][0].state is S.DRY
            assert handed[0][0].profit_raw == handed[1][0].profit_raw == 2 * index
            assert handed[1][0].gas_cost_wei > handed[0][0].gas_cost_wei * 0.5
        assert [sender.busy for sender in senders] == [False, False]
        plan = plan_at(chain.head, index)
        verdict = ALLOWED if index < 4 else FORBIDDEN
        states = [asyncio.run(sender.send(plan, lambda verdict=verdict: verdict)) for sender in (live.sender, dry)]
        assert states == ([S.SENT, S.DRY] if index < 4 else [S.REFUSED, S.REFUSED])
        assert live.journal.intent(plan.key).plan == dry_journal.intent(plan.key).plan == plan
    assert asyncio.run(dry.send(plan_at(chain.head, 4), lambda: ALLOWED)) is S.REFUSED  # known already


def test_outcomes_are_handed_on_again_until_they_are_received(tmp_path: Path) -> None:
    chain, clock = ScriptedChain(), SetClock()
    for received in (False, True):
        path = tmp_path / f"{received}.sqlite"
        journal = Journal(path, clock)
        dry = DrySender(journal, clock)
        asyncio.run(dry.start())
        asyncio.run(dry.send(plan_at(chain.head, 0), lambda: ALLOWED))
        (outcome,) = asyncio.run(dry.settle(chain.mine()))
        if received:
            asyncio.run(dry.settle(chain.mine()))
            journal.flush()
        journal.close()
        journal = Journal(path, clock)
        assert asyncio.run(DrySender(journal, clock).start()) == ([] if received else [outcome])
        journal.close()


# ---------------------------------------------------------------------------------------------------- everything at once
class Killed(BaseException):
    """The process is gone."""


def live_through(seed: int, path: Path) -> tuple[str, dict[str, int]]:
    """Some 60 blocks with every kind of trouble, then quiet ones until all is settled. (journal's digest, what happened)."""
    choice = random.Random(seed)
    chain = ScriptedChain(seed, doubt=choice.choice((0.0, 0.1, 0.3)), late=choice.choice((0.0, 0.3, 0.8)), evict=0.1)
    happened = {"killed": 0, "reorganised": 0, "strangers": 0, "halted": 0}
    armed = True

    def on_point(name: str) -> None:
        if armed and choice.random() < 0.01:
            happened["killed"] += 1
            raise Killed(name)

    while True:
        try:
            bench = Bench(path, chain, on_point)
            break
        except Killed:
            continue
    plans: list[Plan] = []
    forbidden: set[str] = set()
    outcomes: dict[str, Outcome] = {}

    async def guarded(action: Any) -> Any:
        try:
            return await action
        except Killed:
            bench.restart()
            while True:
                try:
                    return await bench.sender.start()
                except Killed:
                    bench.restart()

    async def take(views: list[Any]) -> None:
        for view in views:
            bench.clock.time_s = float(view.head.timestamp)
            before = len(chain.submitted)
            for outcome in await guarded(bench.sender.settle(view)) or []:
                outcomes[outcome.key] = outcome
            again = {one["data"] for one in chain.submitted[before:]} - {"0x"}
            assert not (again and bench.halted), "a trade left after a halt"
            late = {plan.data for plan in plans if view.head.number >= plan.valid_until_block}
            assert not again & late, "a trade left after its last block"

    async def live() -> None:
        nonlocal armed
        for outcome in await guarded(bench.sender.start()):
            outcomes[outcome.key] = outcome
        for index in range(60):
            if choice.random() < 0.06:
                happened["reorganised"] += 1
                await take(chain.reorganise(choice.randint(1, min(12, len(chain.blocks) - 1))))
            else:
                if choice.random() < 0.02:
                    happened["strangers"] += 1
                    chain.stranger()
                if choice.random() < 0.1:
                    chain.leak()
                await take([chain.mine()])
            if choice.random() < 0.1:
                bench.halted = not bench.halted
                happened["halted"] += bench.halted
            if bench.sender.busy:
                continue
            if choice.random() < 0.05:
                chain.refusal = choice.choice(("insufficient funds", "transaction underpriced", "txpool is full"))
            plan = plan_at(
                chain.head, 2 * index + (choice.random() < 0.3), choice.choice(("public", "private")), choice.randint(1, 6)
            )
            refused = choice.random() < 0.1
            if refused or bench.halted:
                forbidden.add(plan.data)
            verdict = FORBIDDEN if refused else ALLOWED
            plans.append(plan)
            told = await guarded(bench.sender.send(plan, lambda verdict=verdict: verdict))
            for outcome in told if isinstance(told, list) else []:
                outcomes[outcome.key] = outcome
        bench.halted = False
        armed, chain.doubt, chain.late, chain.evict, chain.refusal = False, 0.0, 0.0, 0.0, None
        for _ in range(40):
            await take([chain.mine()])

    asyncio.run(live())
    assert not bench.sender.busy and bench.sender.trouble == ""
    for plan in plans:
        key = plan.key
        if not bench.journal.transitions(key):
            assert plan.data not in {one["data"] for one in chain.submitted}, "sent and never written"
            continue
        intent = bench.journal.intent(key)
        assert intent.state in SETTLED, key
        mined = chain.trades(intent.plan.data)
        assert mined == (intent.state in (S.MINED, S.REVERTED)), (key, intent.state, mined)
        assert outcomes[key].state is intent.state, "each end was told"
        assert outcomes[key].profit_raw == mined * intent.plan.expected_profit_raw
        assert len({one.nonce for one in intent.transactions}) <= 1
        assert [one.kind for one in intent.transactions].count("original") <= 1
        assert all(one.nonce < chain.count or intent.state in (S.DROPPED, S.REFUSED) for one in intent.transactions)
    assert not forbidden & {one["data"] for one in chain.submitted}, "what the gate refused left the process"
    assert {one["data"] for one in chain.submitted} <= {"0x"} | {plan.data for plan in plans}
    assert not [nonce for nonce in chain.pool if nonce > chain.count], "a transaction waits behind a gap"
    # nobody was accused without cause
    assert happened["strangers"] or not bench.sender.nonce_race
    digest = bench.journal.digest()
    bench.journal.close()
    happened["intents"] = len(plans)
    return digest, happened


def test_lives_full_of_trouble_settle_each_intent_exactly_once(tmp_path: Path) -> None:
    total: dict[str, int] = {}
    for seed in range(6):
        for name, number in live_through(seed, tmp_path / f"{seed}.sqlite")[1].items():
            total[name] = total.get(name, 0) + number
    assert min(total.values()) >= 3, total


@pytest.mark.slow
@pytest.mark.long
def test_many_lives_full_of_trouble(tmp_path: Path) -> None:
    for seed in range(100, 1100):
        live_through(seed, tmp_path / f"{seed}.sqlite")


def test_a_nonce_that_a_reorganisation_sets_free_below_another_is_filled(bench: Bench) -> None:
    bench.chain.stranger()
    bench.mine()
    bench.send(plan_at(bench.chain.head, 0))
    assert [one.state for one in bench.mine()] == [S.MINED]
    gone = bench.chain.blocks[-2].transactions[0]
    views = bench.chain.reorganise(2)
    # a reorganisation that lost the stranger's transaction: ours waits above a gap
    for block in bench.chain.blocks:
        block.transactions.clear()
    bench.chain.pool.pop(gone[1]["nonce"], None)
    outcomes = [one for view in views for one in asyncio.run(bench.sender.settle(view))]
    for _ in range(6):
        outcomes += bench.mine()
    assert bench.chain.count == 2
    assert bench.chain.mined()[0][1]["data"] == "0x"
    assert [one.corrects for one in outcomes if one.key == f"{0:064x}"] == [S.MINED]


def test_the_same_life_leaves_the_same_journal(tmp_path: Path) -> None:
    digests = [live_through(seed, tmp_path / f"{number}.sqlite")[0] for number, seed in enumerate((3, 3, 4))]
    assert digests[0] == digests[1] != digests[2]


def test_every_crash_point_is_named_once() -> None:
    assert len(set(CRASH_POINTS)) == len(CRASH_POINTS) >= 20


def test_a_failing_node_at_the_start_is_asked_again(bench: Bench) -> None:
    bench.restart()
    bench.chain.doubt = 1.0
    assert bench.start() == [] and bench.sender.trouble
    assert bench.sender.busy
    bench.chain.doubt = 0.0
    bench.mine()
    assert not bench.sender.busy and bench.sender.trouble == ""
    with pytest.raises(Unknown):
        asyncio.run(bench.chain.next_head(0.0))
