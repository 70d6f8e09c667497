"""What goes wrong, one class per kind: between runner and node, on the chain, or in the machine. Faults add up.

A fault is calm before and after its span of blocks. ``struck`` counts what it really did.
"""

from __future__ import annotations

import math
import random
import resource
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, ClassVar

from arbgym.live.terms import Endpoint, Reference, Refused, Unknown
from tests.live.simulated.chain import SimulatedChain
from tests.live.simulated.clock import SimulatedClock
from tests.live.simulated.encoding import SWAP_V3, SYNC, words
from tests.live.simulated.node import SimulatedNode, header

_NEVER = 1 << 62
SENDS = ("eth_sendRawTransaction", "eth_sendBundle")


class Fault:
    """No fault at all. ``share`` is how often a kind strikes where it can."""

    seeds: ClassVar[int] = 1000  # in the long test
    share: ClassVar[tuple[float, float]] = (0.05, 0.6)
    early: ClassVar[float] = 0.15  # of the runs: it strikes while the runner starts, too
    once_per_batch: ClassVar[bool] = False  # a batch of calls is one request to it
    least_blocks: ClassVar[int] = 0  # that a run must have for it
    most_skipped: ClassVar[int] = 0  # chances let pass before the one that it surely takes

    def __init__(self, seed: int, period_blocks: int = _NEVER) -> None:
        self.random = random.Random(f"{type(self).__name__} {seed}")
        self._period_blocks = period_blocks  # after which it comes again
        self.probability = self.random.uniform(*self.share)
        self.first = 0 if self.random.random() < self.early else self.random.randint(2, 6)
        self.last = self.first + self.random.randint(2, 6)
        self.active = self.first == 0
        self.struck = 0
        self._skipped = self.random.randint(0, self.most_skipped)

    def join(self, node: SimulatedNode, clock: SimulatedClock) -> None:
        """The world that it lives in."""
        self.node, self.clock = node, clock
        self.chain: SimulatedChain = node.chain

    def strikes(self) -> bool:
        """Whether it happens now; counted."""
        if not self.active:
            return False
        surely = self._skipped == 0
        self._skipped -= 1
        if surely or self.random.random() < self.probability:
            self.struck += 1
            return True
        return False

    def on_block(self, count: int) -> None:
        """Before the run's block number ``count`` (from 1) is mined."""
        was, self.active = self.active, self.first <= count % self._period_blocks < self.last
        if self.active:
            self.disturb()
        elif was:
            self.calm()

    def disturb(self) -> None:
        """Before each block of its span."""

    def calm(self) -> None:
        """Its span is over."""

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        """A request on its way; returns the parameters that arrive, or raises."""
        return parameters

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        """An answer on its way back; returns what arrives, or raises."""
        return answer

    def reference(self, told: Reference) -> Reference | None:
        """The outside price as it arrives."""
        return told


# ------------------------------------------------------------------------------------------------- requests without answer
class _Lost(Fault):
    """No answer: the request may have arrived or not."""

    once_per_batch, most_skipped = True, 12
    kind: ClassVar[str]
    arrives: ClassVar[float] = 0.5
    wait_s: ClassVar[tuple[float, float]] = (0.0, 0.1)

    async def _fail(self, method: str) -> None:
        await self.clock.sleep(self.random.uniform(*self.wait_s))
        raise Unknown(method, self.kind, "simulated")

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        self._later = False
        if self.strikes():
            if self.random.random() >= self.arrives:
                await self._fail(method)
            self._later = True
        return parameters

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if self._later:
            self._later = False
            await self._fail(method)
        return answer


class TimeOut(_Lost):
    """Nothing comes back within seconds."""

    kind = "timeout"
    wait_s = (1.0, 20.0)


class RateLimited(_Lost):
    """HTTP 429: never done."""

    kind, arrives = "rate_limited", 0.0


class ServerError(_Lost):
    """HTTP 5xx: done or not."""

    kind = "server"


class Disconnected(_Lost):
    """The connection breaks."""

    seeds = 250
    kind = "connection"


class MalformedJson(_Lost):
    """What comes back is no JSON-RPC."""

    kind, arrives = "malformed", 1.0


# ---------------------------------------------------------------------------------------------------------- wrong answers
class Garbage(Fault):
    """Well-formed JSON that is not what was asked for."""

    seeds = 250
    share, most_skipped = (0.02, 0.4), 20

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        return garble(self.random, answer) if self.strikes() else answer


def garble(rng: random.Random, answer: Any) -> Any:
    """Something else in the place of an answer, or of a part of it."""
    if isinstance(answer, dict) and answer and rng.random() < 0.5:
        name = rng.choice(sorted(answer))
        return {**answer, name: garble(rng, answer[name])}
    if isinstance(answer, list) and answer and rng.random() < 0.5:
        place = rng.randrange(len(answer))
        return [*answer[:place], garble(rng, answer[place]), *answer[place + 1 :]]
    return rng.choice(
        [
            None,
            True,
            0,
            -1,
            1.5,
            math.nan,
            math.inf,
            2**300,
            "",
            "0x",
            "0x0",
            "0xzz",
            "0x" + 64 * "f",
            "0x" + 640 * "0",
            "\ud800",
            [],
            {},
            [[]],
            {"error": {}},
            {"result": "0x1"},
        ]
    )


class WrongChainId(Fault):
    """Behind the address is a node of another chain."""

    share, early = (1.0, 1.0), 1.0

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if method in ("eth_chainId", "net_version") and self.strikes():
            other = self.chain.chain_id + self.random.choice([1, 9, 31336])
            return hex(other) if method == "eth_chainId" else str(other)
        return answer


class StaleHead(Fault):
    """The node fell behind: it answers as of some blocks ago, and tells of no new ones."""

    share = (1.0, 1.0)
    early = 0.3

    def __init__(self, seed: int, period_blocks: int = _NEVER) -> None:
        super().__init__(seed, period_blocks)
        self.behind = self.random.randint(1, 6)
        self.silent = self.random.random() < 0.5

    def _number(self) -> str:
        return hex(max(self.chain.tip.number - self.behind, self.chain.blocks[0].number))

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        if not self.active:
            return parameters
        self.struck += 1
        if method == "next_head" and self.silent:
            await self.clock.sleep(float(parameters[0]))
            raise Unknown("eth_subscribe", "timeout", "simulated")
        return [self._number() if one in ("latest", "pending") else one for one in parameters]

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if not self.active:
            return answer
        if method == "eth_blockNumber":
            return self._number()
        if method == "next_head":
            block = self.chain.at(int(self._number(), 16))
            return header(block) if block is not None else answer
        if method == "eth_getTransactionReceipt" and answer is not None:
            return None if int(answer["blockNumber"], 16) > int(self._number(), 16) else answer
        return answer


class HeadBack(Fault):
    """Several nodes share an address: now and then one answers that is some blocks behind."""

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        latest = method == "eth_getBlockByNumber" and parameters and parameters[0] == "latest"
        if (method in ("next_head", "eth_blockNumber") or latest) and self.strikes():
            number = max(self.chain.tip.number - self.random.randint(1, 8), self.chain.blocks[0].number)
            block = self.chain.at(number)
            return hex(number) if method == "eth_blockNumber" else answer if block is None else header(block)
        return answer


class MissingLogs(Fault):
    """Some or all of a block's logs are left out."""

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if method == "eth_getLogs" and answer and self.strikes():
            if self.random.random() < 0.3:
                return []
            place = self.random.randrange(len(answer))
            return answer[:place] + answer[place + 1 :]
        return answer


class DuplicatedLogs(Fault):
    """Logs come twice, in another order, or marked as taken back."""

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if method == "eth_getLogs" and answer and self.strikes():
            again = self.random.choices(answer, k=self.random.randint(1, 4))
            if self.random.random() < 0.3:
                again = [{**log, "removed": True} for log in again]
            mixed = [*answer, *again]
            if self.random.random() < 0.5:
                self.random.shuffle(mixed)
            return mixed
        return answer


class AbsurdLogs(Fault):
    """A log says that a pool stands where no pool can, or at a thousand times its price."""

    seeds = 250
    share = (0.05, 0.4)

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if method == "eth_getLogs" and answer and self.strikes():
            place = self.random.randrange(len(answer))
            log = answer[place]
            if log["topics"][0] == SYNC:
                data = words(*self.random.choice([(0, 0), (1, 1), (2**112 - 1, 1), (2**112, 5), (10**9, 10**9)]))
            elif log["topics"][0] == SWAP_V3:
                price = self.random.choice([0, 1, 4295128739, 2**96, 2**160 - 1])
                data = words(
                    1,
                    -1,
                    price,
                    self.random.choice([0, 1, 2**128 - 1, 10**19]),
                    self.random.choice([0, 887271, -887272, 2**23 - 1]),
                )
            else:
                data = "0x" + "f" * (len(log["data"]) - 2)
            return [*answer[:place], {**log, "data": data}, *answer[place + 1 :]]
        return answer


class HiddenReceipts(Fault):
    """Mined transactions are not found for a while."""

    seeds = 250

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if method == "eth_getTransactionReceipt" and answer is not None and self.strikes():
            return None
        return answer


class RefusedSend(Fault):
    """The node refuses what it is sent, for reasons of its own; where it says that it does not know, it may have taken it."""

    seeds = 250
    share, most_skipped = (0.3, 1.0), 1
    refusals: ClassVar[tuple[str, ...]] = (
        "txpool is full",
        "exceeds block gas limit",
        "insufficient funds for gas * price + value",
    )
    doubts: ClassVar[tuple[str, ...]] = ("internal error", "request timed out", "already known")

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        self._doubt = False
        if method in SENDS and self.strikes():
            self._doubt = self.random.random() < 0.5
            if not self._doubt:
                raise Refused(method, -32000, self.random.choice(self.refusals))
        return parameters

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if method in SENDS and self._doubt:
            raise Refused(method, -32000, self.random.choice(self.doubts))
        return answer


# ------------------------------------------------------------------------------------------------------------- the chain
class NonceRace(Fault):
    """Another program signs with the same key."""

    def disturb(self) -> None:
        if self.strikes():
            self.chain.foreign()


class Underpriced(Fault):
    """The node wants a higher tip than it gets, or blocks suddenly cost several times as much."""

    share = (0.3, 1.0)

    def __init__(self, seed: int, period_blocks: int = _NEVER) -> None:
        super().__init__(seed, period_blocks)
        self.dear = self.random.random() < 0.5

    def disturb(self) -> None:
        if self.dear:
            self.struck += 1
            self.chain.habits = replace(self.chain.habits, typical_base_fee_wei=60 * 10**9)
        else:
            self.chain.minimum_priority_fee_wei = self.random.choice([10**9, 10**11, 10**13])

    def calm(self) -> None:
        self.chain.minimum_priority_fee_wei = 0
        self.chain.habits = replace(self.chain.habits, typical_base_fee_wei=2 * 10**9)

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        if method in SENDS and self.active and not self.dear:
            self.struck += 1
        return parameters


class Dropped(Fault):
    """The mempool forgets what waits in it."""

    share = (0.5, 1.0)

    def disturb(self) -> None:
        self.chain.habits = replace(self.chain.habits, late_probability=0.7)
        if self.active and self.random.random() < self.probability:
            self.struck += self.chain.forget()

    def calm(self) -> None:
        self.chain.habits = replace(self.chain.habits, late_probability=0.0)


class Late(Fault):
    """Transactions wait for blocks, and others trade before them: they revert, or are cancelled."""

    seeds = 250
    share = (0.2, 0.9)

    def disturb(self) -> None:
        self.struck += 1
        self.chain.habits = replace(self.chain.habits, late_probability=self.probability, behind_probability=0.9)

    def calm(self) -> None:
        self.chain.habits = replace(self.chain.habits, late_probability=0.0, behind_probability=0.0)


class Reorganisation(Fault):
    """The last 1 to 12 blocks are replaced."""

    share = (0.1, 0.5)
    early = 0.0
    depths: ClassVar[tuple[int, int]] = (1, 12)

    def disturb(self) -> None:
        if self.strikes():
            self.chain.reorganise(self.random.randint(*self.depths), self.random.choice([0.0, 0.5, 1.0]))


class DeepReorganisation(Reorganisation):
    """More blocks are replaced than anybody may survive without a person."""

    seeds = 250
    share, least_blocks = (1.0, 1.0), 18
    depths = (13, 15)

    def __init__(self, seed: int, period_blocks: int = _NEVER) -> None:
        super().__init__(seed, period_blocks)
        self.first = self.random.randint(14, 16)
        self.last = self.first + 1


# ----------------------------------------------------------------------------------------------------------- the machine
class DiskFull(Fault):
    """No file can grow, as on a full disk. Python is told by an error, as the system's signal for it is ignored there."""

    share = (1.0, 1.0)
    early = 0.0

    def disturb(self) -> None:
        self.struck += 1
        self.fill()

    def fill(self) -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))

    def calm(self) -> None:
        hard = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


class DiskFullBriefly(DiskFull):
    """No file can grow from one request to the next: one commit fails, and what was to be durable with it."""

    seeds = 250
    share, most_skipped = (0.05, 0.3), 12

    def disturb(self) -> None:
        pass

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        self.calm()
        if self.strikes():
            self.fill()
        return parameters


class ClockJump(Fault):
    """The machine's clock is set forward or back, and put right later."""

    share = (0.2, 0.6)

    def disturb(self) -> None:
        if self.strikes():
            self.clock.jump_s = self.random.choice([-1.0, 1.0]) * 10.0 ** self.random.uniform(0.5, 7.0)

    def calm(self) -> None:
        self.clock.jump_s = 0.0


class ProcessKilled(BaseException):
    """The process is gone, as after ``kill -9``: nothing that handles errors may see it."""


class Killed(Fault):
    """The process is killed while it waits for an answer, to a request that arrived or did not; another is started."""

    seeds = 250
    share, most_skipped, once_per_batch = (0.01, 0.1), 30, True

    async def before(self, method: str, parameters: Sequence[Any]) -> Sequence[Any]:
        self._later = self.strikes()
        if self._later and self.random.random() < 0.5:
            raise ProcessKilled
        return parameters

    async def after(self, method: str, parameters: Sequence[Any], answer: Any) -> Any:
        if self._later:
            raise ProcessKilled
        return answer


class NotANumber(Fault):
    """The outside price is not a number, or infinite."""

    def reference(self, told: Reference) -> Reference | None:
        if self.strikes():
            return replace(told, price=self.random.choice([math.nan, math.inf, -math.inf]))
        return told


class OutOfRange(Fault):
    """The outside price is one that cannot be."""

    def reference(self, told: Reference) -> Reference | None:
        if self.strikes():
            return replace(told, price=self.random.choice([0.0, -told.price, told.price * 1e6, told.price * 1e-6, 1e300, 5e-324]))
        return told


class StaleReference(Fault):
    """The outside price stopped some time ago, is from the future, or is missing."""

    seeds = 250

    def reference(self, told: Reference) -> Reference | None:
        if self.strikes():
            shift = self.random.choice([-3600.0, -60.0, 60.0, 0.0])
            return replace(told, time_s=told.time_s + shift) if shift else None
        return told


KINDS: dict[str, type[Fault]] = {
    kind.__name__: kind
    for kind in (
        TimeOut,
        RateLimited,
        ServerError,
        Disconnected,
        MalformedJson,
        Garbage,
        WrongChainId,
        StaleHead,
        HeadBack,
        MissingLogs,
        DuplicatedLogs,
        AbsurdLogs,
        HiddenReceipts,
        RefusedSend,
        NonceRace,
        Underpriced,
        Dropped,
        Late,
        Reorganisation,
        DeepReorganisation,
        DiskFull,
        DiskFullBriefly,
        ClockJump,
        Killed,
        NotANumber,
        OutOfRange,
        StaleReference,
    )
}


class FaultyEndpoint:
    """An ``Endpoint`` that hands on to a node what the faults let through."""

    def __init__(self, node: Endpoint, faults: Sequence[Fault]) -> None:
        self.node, self.faults = node, tuple(faults)
        self._whole = tuple(fault for fault in faults if fault.once_per_batch)
        self._each = tuple(fault for fault in faults if not fault.once_per_batch)

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        return await self._through(self.faults, method, parameters)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        for fault in self._whole:
            await fault.before("batch", ())
        answers: Any = [await self._through(self._each, method, parameters) for method, parameters in calls]
        for fault in self._whole:
            answers = await fault.after("batch", (), answers)
        return answers  # type: ignore[no-any-return]  # garbage may be anything

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        return await self._through(self.faults, "next_head", [timeout_s])  # type: ignore[no-any-return]

    async def close(self) -> None:
        await self.node.close()

    async def _through(self, faults: Sequence[Fault], method: str, parameters: Sequence[Any]) -> Any:
        for fault in faults:
            parameters = await fault.before(method, parameters)
        answer: Any
        if method == "next_head":
            answer = await self.node.next_head(float(parameters[0]))
        else:
            answer = await self.node.request(method, parameters)
        for fault in faults:
            answer = await fault.after(method, parameters, answer)
        return answer
