"""Processes that kill themselves: a server forks one for each job, so that none has to import anything.

``python -m tests.live.crash_process`` reads a job (JSON) a line and answers with a line: {"killed": ..., "told": ...}.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from eth_utils.crypto import keccak

from arbgym.live.channels import Answer, PublicChannel
from arbgym.live.clock import SystemClock
from arbgym.live.endpoint import connect
from arbgym.live.journal import Journal
from arbgym.live.receipts import quantity
from arbgym.live.sender import LiveSender
from arbgym.live.signer import Signer
from arbgym.live.terms import ChainView, Head, IntentState, Plan, Verdict

GWEI = 10**9
MINT = "0x" + keccak(text="mint(address,uint256)").hex()[:8]
DEEPEST = 12


@dataclass(frozen=True)
class Job:
    """A life of a process: what it does, and where it ends (``point`` passed for the ``occurrence``-th time; "": nowhere)."""

    url: str
    journal: str
    key: str  # private, of the test chain
    token: str
    steps: list[str]  # of STEPS, one plan each
    point: str = ""
    occurrence: int = 1
    automine: bool = False


def amount_of(step: int) -> int:
    """What a plan mints: its own number, so that each is found in the logs."""
    return 1_000_003 + step


def key_of(step: int) -> str:
    return f"{step:064x}"


class Forgetful:
    """A channel whose answers get lost."""

    def __init__(self, channel: PublicChannel) -> None:
        self.channel, self.loses = channel, 0

    async def send(self, raw: bytes, plan: Plan) -> Answer:
        answer = await self.channel.send(raw, plan)
        if self.loses:
            self.loses -= 1
            return Answer("unknown", None, "lost")
        return answer

    async def close(self) -> None:
        self.loses = 0


@dataclass
class Life:
    """A process with a live sender on a node, which mines its own blocks."""

    job: Job
    passed: int = 0
    known: dict[int, str] = field(default_factory=dict)
    outcomes: list[dict[str, Any]] = field(default_factory=list)

    def point(self, name: str) -> None:
        if name == self.job.point:
            self.passed += 1
            if self.passed == self.job.occurrence:
                os.kill(os.getpid(), signal.SIGKILL)

    async def run(self) -> dict[str, Any]:
        """All steps that the journal does not know yet. What is told: how long the recovery took, and the outcomes."""
        job = self.job
        self.signer = Signer(bytes.fromhex(job.key))
        clock = SystemClock()
        self.endpoint = connect(job.url, timeout_s=5.0, clock=clock)
        self.channel = Forgetful(PublicChannel(self.endpoint))
        await self.ask("evm_setAutomine", job.automine)
        await self.set_base_fee(GWEI)
        started = time.perf_counter()
        self.journal = Journal(Path(job.journal), clock, on_point=self.point)
        self.sender = LiveSender(
            self.endpoint,
            {"public": self.channel},
            self.journal,
            self.signer,
            clock,
            chain_id=31337,
            quote_token=job.token,
            on_point=self.point,
        )
        outcomes = await self.sender.start()
        recovery_s = time.perf_counter() - started
        self.outcomes += [asdict(one) for one in outcomes]
        await self.rest()
        for step, kind in enumerate(job.steps):
            if not self.journal.transitions(key_of(step)):
                await getattr(self, f"step_{kind}")(step)
                await self.rest()
        for _ in range(2):
            await self.block()
        trouble = self.sender.trouble
        await self.sender.close()
        await self.endpoint.close()
        return {"recovery_s": recovery_s, "outcomes": self.outcomes, "trouble": trouble}

    # --------------------------------------------------------------------------------------------------------- steps
    async def step_normal(self, step: int) -> None:
        await self.send(step)

    async def step_lost(self, step: int) -> None:
        """The answer gets lost, twice."""
        self.channel.loses = 2
        await self.send(step)
        await self.set_base_fee(10**4 * GWEI)
        await self.block()

    async def step_bump(self, step: int) -> None:
        """It waits for four blocks that it cannot pay for, each a little dearer."""
        await self.send(step, blocks=30)
        for more in range(4):
            await self.set_base_fee((50 + more) * GWEI)
            await self.block()

    async def step_late(self, step: int) -> None:
        """It waits beyond its last block: no trade may pay these base fees, a cancellation may."""
        await self.send(step, blocks=2)
        for _ in range(5):
            await self.set_base_fee(600 * GWEI)
            await self.block()

    async def step_reorg(self, step: int) -> None:
        """The block that held it is replaced, and the node forgets it."""
        await self.send(step, blocks=9)
        await self.block()
        await self.block()
        await self.ask("anvil_reorg", 2, [])
        await self.block()

    async def step_gap(self, step: int) -> None:
        """Somebody else's transaction with the nonce before is forgotten too."""
        await self.ask("evm_setAutomine", False)
        count = quantity(await self.ask("eth_getTransactionCount", self.signer.address, "latest"))
        fields = {"type": 2, "chainId": 31337, "nonce": count, "to": self.signer.address, "value": 1, "data": "0x", "gas": 21_000}
        raw, _ = self.signer.sign({**fields, "maxFeePerGas": 30 * GWEI, "maxPriorityFeePerGas": GWEI})
        await self.ask("eth_sendRawTransaction", "0x" + raw.hex())
        await self.block()
        await self.send(step, blocks=9)
        await self.block()
        await self.ask("anvil_reorg", 2, [])
        await self.block()
        await self.ask("evm_setAutomine", self.job.automine)

    # ------------------------------------------------------------------------------------------------------- the world
    async def ask(self, method: str, *parameters: Any) -> Any:
        return await self.endpoint.request(method, parameters)

    async def set_base_fee(self, wei: int) -> None:
        await self.ask("anvil_setNextBlockBaseFeePerGas", hex(wei))

    async def send(self, step: int, blocks: int = 3) -> IntentState:
        head = await self.head("latest")
        data = MINT + self.signer.address[2:].lower().zfill(64) + f"{amount_of(step):064x}"
        plan = Plan(
            key=key_of(step),
            block_number=head.number,
            block_hash=head.hash,
            valid_until_block=head.number + blocks,
            buy=0,
            sell=1,
            lender="",
            amount_in_raw=0,
            expected_profit_raw=amount_of(step),
            minimum_profit_raw=1,
            channel="public",
            to=self.job.token,
            data=data,
            gas_limit=200_000,
            max_fee_wei=20 * GWEI,
            priority_fee_wei=GWEI,
        )
        return await self.sender.send(plan, lambda: Verdict(True))

    async def head(self, block: str) -> Head:
        told = await self.ask("eth_getBlockByNumber", block, False)
        numbers = (quantity(told[name]) for name in ("timestamp", "baseFeePerGas", "gasUsed", "gasLimit"))
        return Head(quantity(told["number"]), told["hash"], told["parentHash"], *numbers)

    async def block(self) -> None:
        """A block, and its view, or those of a reorganisation, to the sender."""
        await self.ask("evm_mine")
        heads = [await self.head("latest")]
        while self.known and self.known.get(heads[0].number - 1, heads[0].parent_hash) != heads[0].parent_hash:
            heads.insert(0, await self.head(hex(heads[0].number - 1)))
        while self.known and heads[0].number - 1 > max(self.known):
            heads.insert(0, await self.head(hex(heads[0].number - 1)))
        depth = max(max(self.known, default=0) - heads[0].number + 1, 0) if self.known else 0
        for number in range(heads[0].number, heads[0].number + depth):
            self.known.pop(number, None)
        for head in heads:
            self.known[head.number] = head.hash
            view = ChainView(head, (), (), (), 0, None, (), depth if head is heads[0] else 0, head is heads[-1])
            self.outcomes += [asdict(one) for one in await self.sender.settle(view)]
            self.journal.flush()

    async def rest(self) -> None:
        """Cheap blocks until nothing is open."""
        await self.set_base_fee(GWEI)
        await self.block()
        for _ in range(2 * DEEPEST):
            if not self.sender.busy:
                return
            await self.set_base_fee(GWEI)
            await self.block()
        raise AssertionError(f"still open: {self.journal.open_intents()}; {self.sender.trouble}")


def serve() -> None:
    """A job a line, each in a process of its own."""
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            told = asyncio.run(Life(Job(**json.loads(line))).run())
            with os.fdopen(writing, "w") as out:
                json.dump(told, out)
            os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as answer:
            text = answer.read()
        _, status = os.waitpid(child, 0)
        killed = os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL
        print(json.dumps({"killed": killed, "told": json.loads(text) if text else None}), flush=True)


if __name__ == "__main__":
    serve()
