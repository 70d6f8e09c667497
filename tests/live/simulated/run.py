"""One seeded life of the runner on a simulated chain, with faults, restarts and everything written down that left it."""

from __future__ import annotations

import hashlib
import random
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import structlog
from eth_utils.crypto import keccak
from rlp import encode as rlp_encode

from arbgym.live.assemble import simulation
from arbgym.live.channels import PublicChannel
from arbgym.live.decision import Decider
from arbgym.live.feed import ChainFeed, WatchedLender
from arbgym.live.journal import Journal
from arbgym.live.kill import KillSwitch
from arbgym.live.logs import Redactor
from arbgym.live.metrics import Metrics
from arbgym.live.observer import Observer
from arbgym.live.planning import Planner
from arbgym.live.profiles import Limits, profile_limits
from arbgym.live.risk import GateState, RiskGate
from arbgym.live.runner import Parts, Runner
from arbgym.live.sender import LiveSender
from arbgym.live.tally import Tally
from arbgym.live.terms import SETTLED, LiveError, Reference
from tests.live.simulated.chain import BLOCK_S, Block, Habits, SimulatedChain, Transaction
from tests.live.simulated.clock import START_S, SimulatedClock, SimulatedLoop
from tests.live.simulated.clock import run as run_loop
from tests.live.simulated.executor import SimulatedExecutor
from tests.live.simulated.faults import KINDS, Fault, FaultyEndpoint, ProcessKilled
from tests.live.simulated.node import BlockMaker, SimulatedNode
from tests.live.simulated.policy import scripted_policy
from tests.live.simulated.relay import Attempt, SimulatedRelay, Witness
from tests.live.simulated.world import BASE, POOLS, PRICE, QUOTE, fresh_pools

CHAIN_ID = 31337
ACCOUNT = "0x" + "1d" * 20
EXECUTOR = "0x" + "e0" * 20
LOANS = {"balancer_v2": "0x" + "d1" * 20, "morpho_blue": "0x" + "d2" * 20, "aave_v3": "0x" + "d3" * 20, "maker": "0x" + "d4" * 20}
LIMITS = profile_limits(
    "aggressive",
    BLOCK_S,
    max_notional_eth=1500.0,
    max_flash_borrow_eth=1500.0,
    min_profit_eth=0.05,
    max_consecutive_reverts=3,
    max_orders_per_minute=3,
)
CALM = Habits()
EQUITY_ETH = 10.0
MAXIMUM_FEE_WEI = 10**15
_RESTART_S = 20.0
_LEAST_QUIET = 4

structlog.configure(processors=[lambda *_: (_ for _ in ()).throw(structlog.DropEvent())], cache_logger_on_first_use=True)


@cache
def _metrics(loop: SimulatedLoop) -> Metrics:
    """One set for all worlds of a loop: making it takes longer than several blocks, and its counts are tested elsewhere."""
    return Metrics(SimulatedClock(loop), Redactor())


class SimulatedSigner:
    """Transactions as a real signer writes them, but for the signature, which no simulated node looks at."""

    address = ACCOUNT

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """(raw transaction, its hash)."""
        numbers = [transaction[name] for name in ("chainId", "nonce", "maxPriorityFeePerGas", "maxFeePerGas", "gas")]
        to, data = bytes.fromhex(transaction["to"][2:]), bytes.fromhex(transaction["data"][2:])
        signed = hashlib.sha256(repr(sorted(transaction.items())).encode()).digest()
        raw = b"\x02" + rlp_encode([*numbers, to, transaction["value"], data, [], 0, signed, signed])
        return raw, "0x" + keccak(raw).hex()


class SimulatedReference:
    """The outside price of the chain's market, a second old, with the faults that strike it."""

    def __init__(self, world: World) -> None:
        self._world = world

    async def start(self) -> None:
        """Nothing to connect to."""

    def latest(self) -> Reference | None:
        """The newest price."""
        world = self._world
        told: Reference | None = Reference(world.chain.price, START_S + world.loop.time() - 1.0, "simulated")
        for fault in world.faults:
            if told is not None:
                told = fault.reference(told)
        return told

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(slots=True)
class Record:
    """What a run left behind, for those who judge it."""

    seed: int
    digest: str = ""
    attempts: list[Attempt] = field(default_factory=list)
    stops: list[str] = field(default_factory=list)
    restarts: int = 0
    resumes: list[float] = field(default_factory=list)  # by the runner's clock
    blocks: int = 0
    prices: dict[int, float] = field(default_factory=dict)  # true outside price, by block number
    times: dict[str, int] = field(default_factory=dict)  # of every block that ever was, by hash
    stories: dict[str, Any] = field(default_factory=dict)  # the journal's intents, once judged


class World:
    """Everything of one seed. ``run`` lives it through and returns its record.

    Args:
        kinds, more_faults: names of the faults (``faults.KINDS``), and others.
        folder: for journal and kill switch; on a fast disk.
        blocks: in which faults strike and the policy acts; ``most_quiet`` or less follow until every intent has ended.
        kill_at: the block before which the kill switch is engaged.
        resumes: a person sets the gate going again after each halt.
    """

    def __init__(
        self,
        seed: int,
        kinds: Sequence[str],
        folder: Path,
        loop: SimulatedLoop,
        *,
        blocks: int = 10,
        habits: Habits = CALM,
        limits: Limits = LIMITS,
        kill_at: int | None = None,
        resumes: bool = True,
        acting: float = 0.7,
        most_quiet: int = 40,
        more_faults: Sequence[Fault] = (),
        each_block: Callable[[int], None] = lambda count: None,
    ) -> None:
        blocks = max(blocks, *(KINDS[kind].least_blocks for kind in kinds), 0)
        self.seed, self.folder, self.loop, self.blocks, self.limits = seed, folder, loop, blocks, limits
        self.kill_at, self.resumes, self.most_quiet, self._each_block = kill_at, resumes, most_quiet, each_block
        loop.elapsed_s = 0.0
        self.random = random.Random(f"world {seed}")
        self.clock = SimulatedClock(loop)
        executor = SimulatedExecutor(EXECUTOR, ACCOUNT)
        self.chain = SimulatedChain(
            seed,
            chain_id=CHAIN_ID,
            watched=POOLS,
            pools=fresh_pools(),
            account=ACCOUNT,
            execute=executor.execute,
            price=PRICE,
            habits=habits,
        )
        for _ in range(self.random.randint(11, 13)):  # a past, for reorganisations and for nodes that lag behind
            self.chain.mine()
        self.chain.restart_time(START_S)
        holdings = {(QUOTE, address): 10**13 for address in LOANS.values()}
        self.node = SimulatedNode(self.chain, decimals={QUOTE: 6, BASE: 18}, holdings=holdings, call_contract=executor.call)
        self.faults: list[Fault] = [*(KINDS[kind](seed) for kind in kinds), *more_faults]
        for fault in self.faults:
            fault.join(self.node, self.clock)
        self.endpoint = Witness(FaultyEndpoint(self.node, self.faults), self._note)
        self.kill = KillSwitch(folder / "kill")
        self.journal_path = folder / "journal.sqlite"
        self.policy = scripted_policy(seed, acting=lambda: acting if self.maker.made < blocks else 0.0)
        self.record = Record(seed)
        self.runner: Runner | None = None
        self.maker = BlockMaker(self.node, BLOCK_S, self._before_block)
        self.chain.on_block = self._write_down
        for block in self.chain.blocks:
            self._write_down(block)

    def run(self) -> Record:
        """Live it through, and close everything."""
        run_loop(self.loop, self._live())
        self.record.digest = journal_digest(self.journal_path)
        return self.record

    async def _live(self) -> None:
        self.maker.start()
        try:
            while not self._over():
                await self._one_process()
                if not self._over():
                    self.record.restarts += 1
                    await self.clock.sleep(_RESTART_S)
        finally:
            self.maker.stop()
            for fault in self.faults:
                fault.calm()

    async def _one_process(self) -> None:
        """A process from its start to its end; what it may die of is a LiveError."""
        try:
            journal = Journal(self.journal_path, self.clock)
        except LiveError as error:
            self.record.stops.append(f"journal: {error}")
            return
        sender = None
        try:
            parts = self._parts(journal)
            sender = parts.sender
            if self.resumes and parts.gate.state is not GateState.ACTIVE:
                parts.gate.resume("a person looked")
                self.record.resumes.append(self.clock.now())
            self.runner = Runner(parts)
            await self.runner.run()
        except LiveError as error:
            self.record.stops.append(str(error))
        except ProcessKilled:
            self.record.stops.append("killed")
        finally:
            self.runner = None
            if sender is None:
                journal.close()
            else:
                await sender.close()

    def _parts(self, journal: Journal) -> Parts:
        observer = Observer(self.policy, POOLS)
        gate = RiskGate(self.limits, self.clock, journal, EQUITY_ETH, self.kill)
        channels: Any = {"public": PublicChannel(self.endpoint), "private": SimulatedRelay(self.endpoint)}
        lenders = [
            WatchedLender(lender.name, "balance", LOANS[lender.name])
            if lender.name in LOANS
            else WatchedLender(lender.name, "flash_swap")
            for lender in observer.config.lenders
        ]

        feed = ChainFeed(
            self.endpoint,
            self.clock,
            chain_id=CHAIN_ID,
            pools=POOLS,
            lenders=lenders,
            account=ACCOUNT,
            reference=SimulatedReference(self),
            window_words=1,
        )
        sender = LiveSender(
            self.endpoint,
            channels,
            journal,
            SimulatedSigner(),
            self.clock,
            chain_id=CHAIN_ID,
            quote_token=QUOTE,
            maximum_fee_wei=MAXIMUM_FEE_WEI,
            halted=lambda: self.kill.engaged() or gate.state is GateState.HALTED,
        )
        feed.asks_along = sender.questions
        return Parts(
            feed=feed,
            observer=observer,
            decider=Decider(self.policy, observer),
            planner=Planner(
                observer,
                chain_id=CHAIN_ID,
                policy_sha256=64 * "0",
                executor=EXECUTOR,
                lenders=LOANS,
                maximum_fee_wei=MAXIMUM_FEE_WEI,
            ),
            gate=gate,
            kill=self.kill,
            sender=sender,
            clock=self.clock,
            metrics=_metrics(self.loop),
            tally=Tally(6),
            expires_at_s=START_S + 10**9,
            simulate=simulation(self.endpoint, ACCOUNT, deployed=True),
            open_intents=lambda: [intent.plan.key for intent in journal.open_intents()],
            earlier=lambda: journal.outcomes_after(0)[0],
            with_next_commit=journal.with_next_commit,
            flush=journal.flush,
        )

    def _before_block(self, count: int) -> None:
        for fault in self.faults:
            fault.on_block(count)
        if count == self.kill_at:
            self.kill.engage("simulated")
        self.record.blocks = count
        self._each_block(count)
        if self.runner is not None and self._over():
            self.runner.stop()

    def _write_down(self, block: Block) -> None:
        self.record.prices[block.number] = self.chain.price
        self.record.times[block.hash] = block.timestamp

    def _over(self) -> bool:
        """Quiet blocks have passed and nothing is open, or it never will be otherwise."""
        quiet = self.maker.made - self.blocks
        return quiet > self.most_quiet or (quiet >= _LEAST_QUIET and not open_intents(self.journal_path))

    def _note(self, transaction: Transaction) -> None:
        killed = self.kill.engaged()
        halted = self.runner is not None and self.runner.parts.gate.state.value == "halted"
        self.record.attempts.append(
            Attempt(transaction, self.clock.now(), self.loop.time(), self.chain.tip.number, killed, halted)
        )


def open_intents(path: Path) -> int:
    """How many intents have not ended, read without the journal's own code."""
    with closing(sqlite3.connect(path)) as database:
        if not database.execute("SELECT name FROM sqlite_master WHERE name = 'intents'").fetchone():
            return 0
        states = database.execute("SELECT state FROM intents").fetchall()
    return sum(state not in SETTLED for (state,) in states)


def journal_digest(path: Path) -> str:
    """SHA-256 of all that a journal says, read without the journal's own code."""
    total = hashlib.sha256()
    with closing(sqlite3.connect(path)) as database:
        for (statement,) in database.execute("SELECT sql FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
            total.update(statement.encode())
        for (name,) in database.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY name").fetchall():
            for row in database.execute(f"SELECT * FROM {name} ORDER BY rowid"):
                total.update(repr(row).encode())
    return total.hexdigest()
