"""From a plan to its end, exactly once: journal, sign, send, and settle against the chain."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Any, Protocol

from eth_utils.address import is_hex_address

from arbgym.live.channels import Answer, SendingChannel
from arbgym.live.journal import DuplicateIntent, Intent, Journal, JournaledTransaction, TransactionKind
from arbgym.live.receipts import Receipt, quantity, read_receipt
from arbgym.live.terms import (
    Call,
    ChainView,
    Channel,
    Clock,
    Endpoint,
    IntentState,
    LiveError,
    Outcome,
    Plan,
    Refused,
    Unknown,
    Verdict,
)

# An end younger than this is looked at again after a restart and after a reorganisation: the blocks that replace others may hold
# a transaction earlier than those did, so an end can stand below the fork that the feed sees.
WATCHED_BLOCKS = 64
RECEIPTS_ASKED = 50  # at most in one request
CANCEL_GAS = 21_000
LEAST_BUMP_PERCENT = 12.5
_MOST = 2**63  # no block or count of transactions is beyond; a node that says so is not believed
_REPORTED = "sender.reported"
_EXPLAINED = "sender.explained"
_S = IntentState

# Where a process may be killed in the tests, in the order in which an intent passes them.
CRASH_POINTS = (
    "recover.begin",
    "recover.before_never_signed",
    "recover.after_never_signed",
    "recover.looked",
    "recover.end",
    "send.begin",
    "send.after_signed",
    "journal.half_written",
    "journal.before_commit",
    "journal.after_commit",
    "send.after_written",
    "send.after_verdict",
    "send.after_answer",
    "send.end",
    "settle.begin",
    "settle.looked",
    "settle.before_end",
    "settle.after_end",
    "settle.end",
    "resend.begin",
    "resend.after_answer",
    "bump.after_signed",
    "bump.after_journaled",
    "bump.after_answer",
    "cancel.after_signed",
    "cancel.after_journaled",
    "cancel.after_answer",
    "fill.after_written",
    "fill.after_journaled",
    "fill.after_answer",
    "reorg.before_taken_back",
    "reorg.after_taken_back",
)


class TransactionSigner(Protocol):
    """What signs for the account ``address``."""

    address: str

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """(raw transaction, its hash)."""


class JournalSender:
    """What dry-run and live have in common: intents are journaled, the gate has the last word, outcomes are handed on.

    An outcome is handed on again by a later process until ``settle`` was called once more and the journal written since: it may
    come twice across a crash, and is never lost.
    """

    def __init__(self, journal: Journal, clock: Clock, on_point: Callable[[str], None] = lambda name: None) -> None:
        self._journal, self._clock, self._point = journal, clock, on_point
        self._reported: int = journal.get(_REPORTED) or 0
        self._handed_on = self._reported
        self._base_fee_wei = 0  # of the newest view's block
        self.trouble = ""  # why the last settlement is incomplete
        self.nonce_race = ""  # who else signs for this account: a reason to halt, until it is taken or was none

    def take_nonce_race(self) -> str:
        """That somebody else signs for the account, told once for each race; empty otherwise."""
        told, self.nonce_race = self.nonce_race, ""
        return told

    @property
    def chain_nonce(self) -> int | None:
        """How many of the account's transactions are on chain; None where there is no account."""
        return None

    @property
    def busy(self) -> bool:
        """An intent is open: nothing else may be sent."""
        return self._journal.busy

    async def close(self) -> None:
        """Let go of the journal."""
        self._journal.close()

    def _passes(self, plan: Plan, still_allowed: Callable[[], Verdict]) -> bool:
        """The gate's last word; its refusal is the intent's end."""
        verdict = still_allowed()
        self._point("send.after_verdict")
        if not verdict.allowed:
            self._end(
                plan, _S.REFUSED, plan.block_number, f"gate: {verdict.limit} = {verdict.value}; accepted is {verdict.accepted}"
            )
        return verdict.allowed

    def _end_never_signed(self) -> None:
        """What was written and not signed, because the process ended or the disk was full, has not left."""
        for intent in self._journal.open_intents():
            if intent.state is _S.WRITTEN:
                self._point("recover.before_never_signed")
                self._end(intent.plan, _S.REFUSED, intent.plan.block_number, "never signed")
                self._point("recover.after_never_signed")

    def _end(
        self,
        plan: Plan,
        state: IntentState,
        block_number: int,
        detail: str,
        *,
        profit_raw: int = 0,
        gas_cost_wei: int = 0,
        tip_wei: int = 0,
        block_hash: str | None = None,
    ) -> None:
        corrects = self._journal.intent(plan.key).corrects
        outcome = Outcome(
            plan.key, state, block_number, self._clock.now(), profit_raw, gas_cost_wei, tip_wei, plan.channel, corrects
        )
        self._journal.move(plan.key, state, block_number, detail, outcome=outcome, block_hash=block_hash)

    def _acknowledge(self) -> None:
        """Whoever took the last outcomes has come back: they need not be told again."""
        if self._handed_on > self._reported:
            with self._journal.with_next_commit():  # a process that is killed before tells them once more
                self._journal.put(_REPORTED, self._handed_on)
            self._reported = self._handed_on

    def _hand_on(self) -> list[Outcome]:
        outcomes, self._handed_on = self._journal.outcomes_after(self._reported)
        return outcomes


class _Explained:
    """Up to which nonce it is known who used it, and since which block; a later process goes on from there.

    Receipts of what was given up are asked once for each nonce, and again only where the last WATCHED_BLOCKS blocks are in doubt:
    after a restart and after a reorganisation. So it takes no longer the longer a journal is.
    """

    def __init__(self, journal: Journal) -> None:
        self._journal = journal
        kept = journal.get(_EXPLAINED) or {"seen": 0, "marks": []}
        try:
            self._seen = int(kept["seen"])  # the last block with nothing unexplained, or one shortly before
            # (block, count): nonces below were explained in this block
            self._marks = [(int(block), int(count)) for block, count in kept["marks"]]
        except (KeyError, TypeError, ValueError) as error:
            raise LiveError(f"{_EXPLAINED} in the journal = {kept!r}; accepted is what this program wrote") from error
        self._written = self._seen
        self.asked: set[str] = set()  # keys of intents with nonces beyond whose receipts there were none of

    @property
    def count(self) -> int:
        """Nonces below are explained."""
        return self._marks[-1][1] if self._marks else 0

    def doubt_since(self, block_number: int) -> None:
        """What was explained after this block, or shortly before a process ended, is not explained."""
        since = min(block_number, self._seen - WATCHED_BLOCKS)
        self._marks = [mark for mark in self._marks if mark[0] <= since]
        self.asked.clear()

    def not_beyond(self, count: int) -> None:
        """The chain has no more transactions than this."""
        while self.count > count:
            self._marks.pop()
            self.asked.clear()

    def up_to(self, count: int, block_number: int) -> None:
        """Nonces below ``count`` are explained in this block."""
        self._seen = max(self._seen, block_number)
        if count > self.count:
            # a node may be behind the one that was asked before a restart, so that twice as many blocks are remembered
            old = [mark for mark in self._marks if mark[0] <= self._seen - 2 * WATCHED_BLOCKS]
            self._marks = [*old[-1:], *self._marks[len(old) :], (self._seen, count)]
            self.asked.clear()
        elif self._seen < self._written + WATCHED_BLOCKS:
            return
        self._written = self._seen
        with self._journal.with_next_commit():  # a process that is killed before asks once more
            self._journal.put(_EXPLAINED, {"seen": self._seen, "marks": self._marks})


class LiveSender(JournalSender):
    """Signs and sends, one intent at a time.

    The journal owns the nonce: it is the chain's count at the latest block (never the pending one), and nothing is sent while
    that is less than what the journal knows to be on chain. A transaction is replaced only under the same nonce. Nothing is
    concluded from an answer that did not come, from a node behind the view, or from a block that the feed has not handed on.
    ``settle`` and ``send`` are not called at the same time.

    A bundle that was given up may be mined after all, as a builder need not keep to its block. So whenever the count passes a
    nonce that the journal takes for free, receipts of all that was given up with it are asked. Until they came (``_Explained``)
    no trade is sent, as one that the gate does not know of may have lost; what is open goes on, is raised and cancelled.

    After a crash: an intent without a transaction was never sent. A signed one may have been. Sending it now would pass by the
    gate, on old prices, so it is never sent again: a private one ends with the last block that its bundle names, a public one
    is cancelled at once, under its nonce, so that no gap stays. One that was sent goes on as if nothing had happened.

    No trade leaves the process after its last block, nor while ``halted``: a public one that is open is cancelled then, a private
    one left to the last block that its bundle names. Cancellations, and what fills a gap below a nonce, are always sent.

    Args:
        endpoint: the node that is asked for receipts, the count of transactions and headers.
        channels: where plans may go, by their ``channel``; cancellations go to "public".
        quote_token: address whose transfers to and from ``owner`` (the signer's address) are profit.
        maximum_fee_wei: per gas; no trade offers more, raised ones included. A cancellation may: it has to offer an eighth more
            than the trade it replaces, costs 21,000 gas and ends a risk of many times that. ``trouble`` says where one does.
        bump_percent: by how much a replacement pays more, at least.
        bump_after_blocks: how long a public transaction may wait before its fees are raised.
        worth: (plan, maximum fee, priority fee; wei per gas) whether the trade would still gain what it must at these fees; asked
            right before they are raised. Where it would not, they stay: it waits, and is cancelled when it is late.
        halted: whether a kill or a halt forbids all but cancellations; asked right before a trade is sent, raised or sent again.
        on_point: called with the names in CRASH_POINTS; for tests.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        channels: Mapping[Channel, SendingChannel],
        journal: Journal,
        signer: TransactionSigner,
        clock: Clock,
        *,
        chain_id: int,
        quote_token: str,
        owner: str | None = None,
        maximum_fee_wei: int = 500 * 10**9,
        bump_after_blocks: int = 1,
        bump_percent: float = LEAST_BUMP_PERCENT,
        worth: Callable[[Plan, int, int], bool] = lambda plan, max_fee_wei, priority_fee_wei: True,
        halted: Callable[[], bool] = lambda: False,
        on_point: Callable[[str], None] = lambda name: None,
    ) -> None:
        super().__init__(journal, clock, on_point)
        for name, value in (
            ("chain_id", chain_id),
            ("maximum_fee_wei", maximum_fee_wei),
            ("bump_after_blocks", bump_after_blocks),
        ):
            if value < 1:
                raise LiveError(f"{name} = {value}; accepted is at least 1")
        if not LEAST_BUMP_PERCENT <= bump_percent <= 100.0:
            raise LiveError(f"bump_percent = {bump_percent}; accepted is {LEAST_BUMP_PERCENT} to 100")
        self._bump_percent, self._worth, self._halted = bump_percent, worth, halted
        self._endpoint, self._channels, self._signer = endpoint, channels, signer
        self._chain_id, self._maximum_fee_wei, self._bump_after_blocks = chain_id, maximum_fee_wei, bump_after_blocks
        self._quote_token, self._owner = quote_token.lower(), (owner or signer.address).lower()
        self._count: int | None = None  # of the account's transactions on chain
        self._reconciled = False  # with what an earlier process left
        self._base_fees: dict[str, int] = {}  # of the newest blocks, by hash
        self._explained = _Explained(journal)
        self._most_asked = RECEIPTS_ASKED  # receipts in one request; fewer after one that failed
        self._taken: dict[str, int] = {}  # intents whose nonce is on chain without a receipt of ours: since which block
        self._raced: dict[str, int] = {}  # those given up for that reason: in which block
        self._underpriced: set[str] = set()  # cancellations that a node does not hold because they offer too little

    @property
    def chain_nonce(self) -> int | None:
        """How many of the account's transactions are on chain, where that is known."""
        return self._count

    @property
    def busy(self) -> bool:
        """An intent is open, or the account's nonce or what used those before is not known yet: nothing may be sent."""
        return self._count is None or not self._reconciled or self._explained.count != self._count or super().busy

    async def close(self) -> None:
        """Let go of the channels and the journal."""
        for channel in self._channels.values():
            await channel.close()
        await super().close()

    # ------------------------------------------------------------------------------------------------------ sending
    async def send(self, plan: Plan, still_allowed: Callable[[], Verdict]) -> IntentState:
        """Sign, write, ask ``still_allowed`` and send. A plan that is in the journal is not sent again: its state is returned.

        The intent and its signed transaction are one commit: what waits in the journal for the next commit is durable with them.

        Raises LiveError before anything is written where the plan cannot be sent now, JournalError where it cannot be written.
        """
        channel = self._channels.get(plan.channel)
        if channel is None:
            raise LiveError(f"plan.channel = {plan.channel!r}; accepted is {' or '.join(sorted(self._channels))}")
        if plan.max_fee_wei > self._maximum_fee_wei:
            raise LiveError(f"plan.max_fee_wei = {plan.max_fee_wei}; accepted is at most {self._maximum_fee_wei}")
        if not is_hex_address(plan.to):
            raise LiveError(f"plan.to = {plan.to!r}; accepted is 0x and 40 hexadecimal digits")
        if self._count is None or self.busy:
            raise LiveError("an intent is open, or the account's nonces are not known yet; accepted is one intent at a time")
        if self._journal.holds(plan.key):
            return self._journal.intent(plan.key).state
        self._point("send.begin")
        try:
            signed = self._sign(plan, "original", self._count, plan.max_fee_wei, plan.priority_fee_wei, plan.block_number)
        except LiveError as error:
            self._journal.write(plan)
            self._end(plan, _S.REFUSED, plan.block_number, f"not signed: {error}")
            return _S.REFUSED
        self._point("send.after_signed")
        self._journal.write(plan, signed)
        self._point("send.after_written")
        if not self._passes(plan, lambda: self._last_word(still_allowed)):
            return _S.REFUSED
        try:
            answer = await channel.send(signed.raw, plan)
        except asyncio.CancelledError:
            self._journal.move(plan.key, _S.UNKNOWN, plan.block_number, "interrupted while sending")
            raise
        self._point("send.after_answer")
        state = self._first_answer(plan, answer)
        self._point("send.end")
        return state

    def _last_word(self, still_allowed: Callable[[], Verdict]) -> Verdict:
        verdict = still_allowed()
        if verdict.allowed and self._halted():
            return Verdict(False, "halted", 1.0, "neither a kill nor a halt")
        return verdict

    def _first_answer(self, plan: Plan, answer: Answer) -> IntentState:
        if answer.kind == "refused" and answer.reason != "nonce too low":
            self._end(plan, _S.REFUSED, plan.block_number, answer.detail)
            return _S.REFUSED
        # "nonce too low" to a first attempt: it is on chain (a repeated request), or somebody took the nonce; receipts will tell
        state = _S.SENT if answer.kind == "accepted" else _S.UNKNOWN
        self._journal.move(plan.key, state, plan.block_number, answer.detail)
        return state

    def _sign(
        self, plan: Plan, kind: TransactionKind, nonce: int, max_fee_wei: int, priority_fee_wei: int, block_number: int
    ) -> JournaledTransaction:
        cancels = kind == "cancel"
        fields: dict[str, Any] = {
            "type": 2,
            "chainId": self._chain_id,
            "nonce": nonce,
            "to": self._signer.address if cancels else plan.to,
            "value": 0,
            "data": "0x" if cancels else plan.data,
            "gas": CANCEL_GAS if cancels else plan.gas_limit,
            "maxFeePerGas": max_fee_wei,
            "maxPriorityFeePerGas": priority_fee_wei,
        }
        raw, digest = self._signer.sign(fields)
        # an intent that was refused or dropped may have had the very same; each transaction is to be one intent's
        while self._journal.has_transaction(digest):
            fields["gas"] += self._journal.transactions_with_nonce(nonce)
            raw, digest = self._signer.sign(fields)
        return JournaledTransaction(digest, raw, kind, nonce, max_fee_wei, priority_fee_wei, self._base_fee_wei, block_number)

    # ----------------------------------------------------------------------------------------------------- settling
    async def start(self) -> list[Outcome]:
        """Settle what an earlier process left open, as far as the node answers; the rest follows in ``settle``. Sends nothing."""
        self._point("recover.begin")
        self._end_never_signed()
        try:
            number, block_hash, base_fee_wei = _header(await self._endpoint.request("eth_getBlockByNumber", ["latest", False]))
            await self._settle_open(number, block_hash, base_fee_wei)
            self.trouble = await self._look_back(number)
        except (Unknown, Refused) as error:
            self.trouble = str(error)
        self._point("recover.end")
        return self._hand_on()

    async def settle(self, view: ChainView) -> list[Outcome]:
        """What ended by this block. Fees are raised and late transactions cancelled at the newest one only."""
        self._acknowledge()
        self._point("settle.begin")
        self._end_never_signed()
        head = view.head
        if view.reorg_depth:
            self._take_back(
                [intent for intent in self._journal.settled_since(head.number) if intent.state is not _S.REFUSED], head.number
            )
            self._reconciled = False
        try:
            await self._settle_open(head.number, head.hash, head.base_fee_wei, view.along)
            busy = self._journal.busy
            if view.newest and busy:
                await self._fill_gaps(head.number, head.hash)
                await self._hurry(head.number)
            dear = self._dear_cancellations() if busy else ""
            # last: what is open does not wait for what was given up
            self.trouble = "; ".join(filter(None, (dear, await self._look_back(head.number))))
        except (Unknown, Refused) as error:
            self.trouble = str(error)  # nothing is assumed; the next block asks again
        self._point("settle.end")
        return self._hand_on()

    def questions(self) -> list[Call]:
        """What ``settle`` will have to ask about the open intents: a feed that asks it along with a block's own requests
        (``ChainView.along``) saves the time of one more.
        """
        return self._questions(self._journal.open_intents())

    async def _settle_open(self, number: int, block_hash: str, base_fee_wei: int, along: Sequence[tuple[Call, Any]] = ()) -> None:
        self._base_fee_wei = self._base_fees[block_hash] = base_fee_wei
        for old in list(self._base_fees)[:-WATCHED_BLOCKS]:
            del self._base_fees[old]
        if not self._reconciled:
            self._explained.doubt_since(number - WATCHED_BLOCKS)
            await self._review(number)
        self._count = None
        opened = self._journal.open_intents()
        newest, count, receipts = await self._look(number, opened, along)
        known = self._journal.next_nonce
        if count < known:
            # a reorganisation that the feed will tell of, or another chain than the journal's
            raise Unknown(
                "eth_getTransactionCount", "malformed", f"{count}; accepted is at least {known}, which the journal saw mined"
            )
        self._point("settle.looked")
        for intent in opened:
            if not await self._settled_by_receipt(intent, number, block_hash, receipts):
                await self._settle_unmined(intent, number, count, newest)
        self._count, self._reconciled = count, True

    async def _settled_by_receipt(self, intent: Intent, number: int, block_hash: str, receipts: Mapping[str, Receipt]) -> bool:
        """Whether one of its transactions is mined, in a block handed on (then it is settled) or in one that will be."""
        for transaction in intent.transactions:
            receipt = receipts.get(transaction.hash)
            if receipt is not None:
                # of this number and another hash: the feed will hand that block on in a reorganisation
                if receipt.block_number < number or (receipt.block_number == number and receipt.block_hash == block_hash):
                    await self._settle_mined(intent.plan, transaction, receipt)
                return True
        return False

    async def _settle_unmined(self, intent: Intent, number: int, count: int, newest: int) -> None:
        plan = intent.plan
        if intent.nonce is not None and count > intent.nonce:
            # the count is the newest block's: where the view is older, it may be of a block that another will replace
            if newest == number:
                await self._settle_taken(intent, number)
            return
        self._taken.pop(plan.key, None)
        if number >= plan.valid_until_block and not self._replaceable(intent):
            self._settled(plan, _S.DROPPED, number, "its last block has passed")

    async def _settle_mined(self, plan: Plan, transaction: JournaledTransaction, receipt: Receipt) -> None:
        base_fee_wei = self._base_fees.get(receipt.block_hash)
        if base_fee_wei is None:
            told = await self._endpoint.request("eth_getBlockByHash", [receipt.block_hash, False])
            base_fee_wei = _header(told)[2]
        traded = transaction.kind != "cancel"
        self._settled(
            plan,
            (_S.MINED if receipt.succeeded else _S.REVERTED) if traded else _S.REPLACED,
            receipt.block_number,
            f"{transaction.kind} {transaction.hash}",
            profit_raw=receipt.income(self._quote_token, self._owner) if traded and receipt.succeeded else 0,
            gas_cost_wei=receipt.gas_used * base_fee_wei + receipt.l1_fee_wei,
            tip_wei=receipt.gas_used * (receipt.price_wei - base_fee_wei),
            block_hash=receipt.block_hash,
        )

    async def _settle_taken(self, intent: Intent, number: int) -> None:
        """The nonce is used, and not by this intent's transactions."""
        assert intent.nonce is not None
        others = [one for one in self._journal.intents_with_nonce(intent.nonce) if one.plan.key != intent.plan.key]
        _, receipts = await self._look_in_parts(number, others)
        for other in others:
            found = [receipts[one.hash].block_number for one in other.transactions if one.hash in receipts]
            if found and found[0] > number:
                return
            if found:
                if other.state in (_S.DROPPED, _S.REFUSED):
                    self._take_back([other], number)  # mined against all expectation: settled with the next block
                self._settled(intent.plan, _S.REPLACED, number, f"intent {other.plan.key} took nonce {intent.nonce}")
                return
        # one view more, in case the node's parts do not agree yet
        if number > self._taken.setdefault(intent.plan.key, number):
            self.nonce_race = self._race(intent)
            self._settled(intent.plan, _S.REPLACED, number, self.nonce_race)
            self._raced[intent.plan.key] = number

    def _race(self, intent: Intent) -> str:
        return f"nonce race: nonce {intent.nonce} of {self._signer.address} was used by a transaction that is not ours"

    async def _look_back(self, number: int) -> str:
        """Doubt what is settled. Why that is incomplete: it goes on with the next block, and holds up new trades alone."""
        troubles = []
        for what, doubts in (("nonces that are not explained", self._explain), ("nonce races", self._doubt_races)):
            try:
                await doubts(number)
            except (Unknown, Refused) as error:
                troubles.append(f"{what}: {error}")
        return "; ".join(troubles)

    async def _explain(self, number: int) -> None:
        """Look in the journal for who used nonces that it takes for free: a builder may not keep to a bundle's block."""
        if self._count is None:
            return
        explained = self._explained
        explained.not_beyond(self._count)
        if explained.count < self._count:
            given_up = self._journal.given_up(explained.count, self._count)
            for part in _parts([intent for intent in given_up if intent.plan.key not in explained.asked], self._most_asked):
                try:
                    _, _, receipts = await self._look(number, part)
                except (Unknown, Refused):
                    self._most_asked = max(self._most_asked // 2, 1)  # a node may answer less at once
                    raise
                self._take_back([intent for intent in part if _block_of(intent, receipts) is not None], number)
                explained.asked.update(intent.plan.key for intent in part)
            self._most_asked = min(2 * self._most_asked, RECEIPTS_ASKED)
        explained.up_to(self._count, number)

    async def _doubt_races(self, number: int) -> None:
        """Look again for receipts of what was given up to a race: a node's index of them may be blocks behind its state."""
        self._raced = {key: since for key, since in self._raced.items() if number - since < WATCHED_BLOCKS}
        if self._raced:
            raced = [self._journal.intent(key) for key in self._raced]
            _, receipts = await self._look_in_parts(number, raced)
            found = [intent for intent in raced if _block_of(intent, receipts) is not None]
            self._take_back([intent for intent in found if intent.state is _S.REPLACED], number)
            for intent in found:
                del self._raced[intent.plan.key]
                if self.nonce_race == self._race(intent):
                    self.nonce_race = ""  # it was ours after all

    def _settled(self, plan: Plan, state: IntentState, number: int, detail: str, **amounts: Any) -> None:
        self._taken.pop(plan.key, None)
        self._point("settle.before_end")
        with self._journal.with_next_commit():  # a process that is killed before finds the same end
            self._end(plan, state, number, detail, **amounts)
        self._point("settle.after_end")

    def _questions(self, intents: Sequence[Intent]) -> list[Call]:
        return [
            ("eth_blockNumber", []),
            ("eth_getTransactionCount", [self._signer.address, "latest"]),
            *(("eth_getTransactionReceipt", [one.hash]) for intent in intents for one in intent.transactions),
        ]

    async def _look(
        self, number: int, intents: Sequence[Intent], along: Sequence[tuple[Call, Any]] = ()
    ) -> tuple[int, int, dict[str, Receipt]]:
        """(the node's newest block, the account's transactions on chain, receipts by hash). Raises Unknown without the block.

        ``along`` is used where it answers just these questions; the node is asked where it does not, or where it was asked too
        early: before it knew the block, or the receipt of a transaction that it counts.
        """
        calls = self._questions(intents)
        if [call for call, _ in along] == calls:
            with suppress(Unknown):
                looked = self._answered(number, intents, [answer for _, answer in along])
                _, count, receipts = looked
                nonces = [intent.nonce for intent in intents if intent.nonce is not None and _block_of(intent, receipts) is None]
                if all(nonce >= count for nonce in nonces):
                    return looked
        return self._answered(number, intents, await self._endpoint.batch(calls))

    async def _look_in_parts(self, number: int, intents: Sequence[Intent]) -> tuple[int, dict[str, Receipt]]:
        """(the account's transactions on chain, receipts by hash), as ``_look``, whatever the number of intents."""
        counts: list[int] = []
        receipts: dict[str, Receipt] = {}
        for part in _parts(intents, RECEIPTS_ASKED) or [[]]:
            _, count, found = await self._look(number, part)
            counts.append(count)
            receipts.update(found)
        return min(counts), receipts

    def _answered(self, number: int, intents: Sequence[Intent], answers: Sequence[Any]) -> tuple[int, int, dict[str, Receipt]]:
        """What the answers to ``_questions`` say."""
        hashes = [transaction.hash for intent in intents for transaction in intent.transactions]
        try:
            newest, count = quantity(answers[0]), quantity(answers[1])
        except (ValueError, IndexError):
            raise Unknown("eth_getTransactionCount", "malformed") from None
        if newest < number or len(answers) != len(hashes) + 2 or max(newest, count) >= _MOST:
            raise Unknown("eth_blockNumber", "malformed", f"the node is at block {newest}, the view at {number}")
        read = {digest: read_receipt(told) for digest, told in zip(hashes, answers[2:], strict=True)}
        return newest, count, {digest: receipt for digest, receipt in read.items() if receipt is not None}

    # ------------------------------------------------------------------------------------------- what was settled before
    async def _review(self, number: int) -> None:
        """After a restart or a reorganisation: take back the ends of the last blocks that the chain does not confirm."""
        ended = [intent for intent in self._journal.settled_since(number - WATCHED_BLOCKS) if intent.transactions]
        count, receipts = await self._look_in_parts(number, ended)
        self._point("recover.looked")
        self._take_back(
            [
                intent
                for intent in ended
                if _block_of(intent, receipts) != intent.settled_hash
                # whoever took its nonce is gone
                or (intent.state is _S.REPLACED and intent.nonce is not None and intent.nonce >= count)
            ],
            number,
        )

    def _take_back(self, intents: Sequence[Intent], number: int) -> None:
        for intent in intents:
            if intent.transactions:
                self._point("reorg.before_taken_back")
                self._journal.move(
                    intent.plan.key, _S.SENT, number, f"taken back: {intent.state} in block {intent.settled_block}"
                )
                self._point("reorg.after_taken_back")

    # ------------------------------------------------------------------------------------------------------ in a hurry
    def _replaceable(self, intent: Intent) -> bool:
        """It may lie in public memory pools, where only another transaction with its nonce ends it."""
        # a bundle's transactions become public where the block that held them is replaced
        seen = intent.corrects in (_S.MINED, _S.REVERTED) or any(one.kind != "original" for one in intent.transactions)
        public = intent.plan.channel == "public" or seen
        return public and "public" in self._channels

    async def _hurry(self, number: int) -> None:
        for intent in self._journal.open_intents():
            if not intent.transactions or intent.transactions[-1].nonce < (self._count or 0):
                continue
            newest = intent.transactions[-1]
            forbidden = number >= intent.plan.valid_until_block or self._halted()
            waited = number - newest.block_number >= self._bump_after_blocks
            if not self._replaceable(intent):
                if intent.state is _S.UNKNOWN and not forbidden:
                    await self._resend(intent, number)
            elif newest.kind == "cancel":
                if waited and self._raisable(newest):
                    await self._replace(intent, "cancel", number)
                elif waited or intent.state is _S.UNKNOWN:
                    await self._resend(intent, number)
            elif forbidden or intent.state is _S.SIGNED:
                await self._replace(intent, "cancel", number)
            elif waited and self._base_fee_wei > newest.base_fee_wei:
                await self._replace(intent, "bump", number)
            elif waited or intent.state is _S.UNKNOWN:
                await self._resend(intent, number)

    def _raisable(self, cancel: JournaledTransaction) -> bool:
        """Beyond the maximum only where that helps, as each raise is an eighth and nothing else would end them."""
        return (
            cancel.max_fee_wei <= self._maximum_fee_wei
            or 8 * cancel.max_fee_wei < 9 * self._base_fee_wei  # it may not be able to pay the next base fee
            or cancel.hash in self._underpriced
        )

    def _dear_cancellations(self) -> str:
        """The open ones that offer more than the maximum; empty where there is none."""
        newest = [intent.transactions[-1] for intent in self._journal.open_intents() if intent.transactions]
        return "; ".join(
            f"cancellation of nonce {one.nonce}: {one.max_fee_wei} wei per gas; accepted of a trade is {self._maximum_fee_wei}"
            for one in newest
            if one.kind == "cancel" and one.max_fee_wei > self._maximum_fee_wei
        )

    async def _fill_gaps(self, number: int, block_hash: str) -> None:
        """A reorganisation set nonces free below those that wait: use each for a transfer to itself, an intent like others."""
        waiting = [intent.transactions[-1] for intent in self._journal.open_intents() if intent.transactions]
        nonces = {transaction.nonce for transaction in waiting}
        if self._count is None or "public" not in self._channels:
            return
        for nonce in range(self._count, min(nonces, default=0)):
            priority = max(transaction.priority_fee_wei for transaction in waiting)
            plan = Plan(
                key=f"fill {nonce} {number}",
                block_number=number,
                block_hash=block_hash,
                valid_until_block=number,
                buy=0,
                sell=0,
                lender="",
                amount_in_raw=0,
                expected_profit_raw=0,
                minimum_profit_raw=0,
                channel="public",
                to=self._signer.address,
                data="0x",
                gas_limit=CANCEL_GAS,
                max_fee_wei=2 * self._base_fee_wei + priority,
                priority_fee_wei=priority,
            )
            try:
                self._journal.write(plan)
            except DuplicateIntent:  # begun by an earlier process; with the next block anew
                continue
            self._point("fill.after_written")
            signed = self._sign(plan, "cancel", nonce, plan.max_fee_wei, plan.priority_fee_wei, number)
            self._journal.add_transaction(plan.key, signed)
            self._point("fill.after_journaled")
            answer = await self._channels["public"].send(signed.raw, plan)
            self._point("fill.after_answer")
            self._first_answer(plan, answer)

    async def _replace(self, intent: Intent, kind: TransactionKind, number: int) -> None:
        newest = intent.transactions[-1]
        maximum_fee_wei = self._maximum_fee_wei if kind == "bump" else None
        fees = raised_fees(newest.max_fee_wei, newest.priority_fee_wei, self._base_fee_wei, maximum_fee_wei, self._bump_percent)
        # the calldata's least profit stays as it was signed, so that a dearer trade may be a certain loss
        if fees is None or (kind == "bump" and not self._worth(intent.plan, *fees)):
            await self._resend(intent, number)
            return
        signed = self._sign(intent.plan, kind, newest.nonce, *fees, number)
        self._point(f"{kind}.after_signed")
        self._journal.add_transaction(intent.plan.key, signed)
        self._point(f"{kind}.after_journaled")
        await self._send_later(intent, signed, number, f"{kind}.after_answer")

    async def _resend(self, intent: Intent, number: int) -> None:
        self._point("resend.begin")
        await self._send_later(intent, intent.transactions[-1], number, "resend.after_answer")

    async def _send_later(self, intent: Intent, transaction: JournaledTransaction, number: int, point: str) -> None:
        """Send what is not a first attempt, unless it is a trade and there was a kill or a halt meanwhile."""
        if transaction.kind != "cancel" and self._halted():
            return
        channel = self._channels["public" if self._replaceable(intent) else intent.plan.channel]
        answer = await channel.send(transaction.raw, intent.plan)
        self._point(point)
        self._later_answer(intent, answer, number, transaction)

    def _later_answer(self, intent: Intent, answer: Answer, number: int, sent: JournaledTransaction) -> None:
        """An answer to anything but the first attempt: a refusal proves nothing of the transactions sent before."""
        if sent.kind == "cancel" and answer.reason in ("replacement underpriced", "underpriced"):
            self._underpriced.add(sent.hash)
        if answer.kind == "accepted" and intent.state is not _S.SENT:
            self._journal.move(intent.plan.key, _S.SENT, number, f"{sent.kind} {sent.hash}: {answer.detail}")
        elif intent.state is _S.SIGNED:
            self._journal.move(intent.plan.key, _S.UNKNOWN, number, f"{sent.kind} {sent.hash}: {answer.detail}")


def raised_fees(
    max_fee_wei: int,
    priority_fee_wei: int,
    base_fee_wei: int,
    maximum_fee_wei: int | None,
    bump_percent: float = LEAST_BUMP_PERCENT,
) -> tuple[int, int] | None:
    """(maximum fee, priority fee) of a replacement: both raised by ``bump_percent`` or more, with room for the next base fee.

    Nodes ask for 10 %. None where ``maximum_fee_wei`` (None: unlimited) leaves no room for it. ``base_fee_wei`` is the newest
    block's.
    """
    permille = 1_000 + math.ceil(bump_percent * 10.0)
    priority = max(-(-priority_fee_wei * permille // 1_000), 1)
    needed = max(-(-max_fee_wei * permille // 1_000), priority)
    # EIP-1559: the next base fee is at most an eighth higher
    wanted = max(needed, -(-base_fee_wei * 9 // 8) + priority)
    if maximum_fee_wei is None:
        return wanted, priority
    return None if needed > maximum_fee_wei else (min(wanted, maximum_fee_wei), priority)


def _parts(intents: Sequence[Intent], most: int) -> list[list[Intent]]:
    """The intents in their order, in parts of one or of at most so many transactions."""
    parts: list[list[Intent]] = []
    count = 0
    for intent in intents:
        count += len(intent.transactions)
        if not parts or count > most:
            parts.append([])
            count = len(intent.transactions)
        parts[-1].append(intent)
    return parts


def _block_of(intent: Intent, receipts: Mapping[str, Receipt]) -> str | None:
    found = [receipts[one.hash].block_hash for one in intent.transactions if one.hash in receipts]
    return found[0] if found else None


def _header(told: Any) -> tuple[int, str, int]:
    """(number, hash, base fee) of a header. Raises Unknown."""
    try:
        return quantity(told["number"]), str(told["hash"]).lower(), quantity(told["baseFeePerGas"])
    except (KeyError, TypeError, ValueError):
        raise Unknown("eth_getBlockByNumber", "malformed") from None
