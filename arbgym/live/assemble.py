"""Puts a runner together from what it is told: a policy directory, settings, and where blocks come from."""

from __future__ import annotations

import gc
import os
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from arbgym.live.calls import selector
from arbgym.live.channels import PublicChannel, RelayChannel, SendingChannel
from arbgym.live.clock import SystemClock
from arbgym.live.control import Control
from arbgym.live.decision import Decider
from arbgym.live.dry import DrySender
from arbgym.live.endpoint import connect
from arbgym.live.executor import DRY_RUN_ADDRESS, Simulator, artefact, runtime_code
from arbgym.live.feed import ChainFeed, WatchedLender, discover_pool
from arbgym.live.journal import Journal
from arbgym.live.kill import KillSwitch
from arbgym.live.logs import Redactor
from arbgym.live.metrics import Metrics
from arbgym.live.observer import Observer
from arbgym.live.planning import Planner
from arbgym.live.recording import RecordedFeed, Recorder, RecordingHeader
from arbgym.live.reference import FileReference, PoolReference, ReferenceSource, RestReference, StreamReference
from arbgym.live.reload import LimitsFile
from arbgym.live.risk import GateState, RiskGate
from arbgym.live.runner import Parts, Runner, Simulate
from arbgym.live.sender import LiveSender
from arbgym.live.settings import Settings
from arbgym.live.snapshot import Mode, PolicyRow
from arbgym.live.tally import EndPrices, Tally
from arbgym.live.terms import (
    Call,
    ChainView,
    Channel,
    Clock,
    Endpoint,
    Feed,
    LiveError,
    Refused,
    Sender,
    Unknown,
    WatchedPool,
)
from arbgym.market.lender import AAVE
from arbgym.policy import Backend, Policy, PolicyError, load

if TYPE_CHECKING:
    from arbgym.live.signer import Signer

RUNS_LIVE = ("ArbFlash-v0",)
_OWNER = "journal.owner"  # which chain and account a journal is of
NOBODY = "0x000000000000000000000000000000000000dead"  # pays gas in a dry run without an account
_L1_BLOCK_NUMBERS = (42_161, 42_170, 421_614)  # Arbitrum One, Nova and Sepolia: a contract sees the parent chain's number


@dataclass(frozen=True)
class Options:
    """What one run is to do."""

    policy: Path
    settings: Settings
    settings_file: Path | None = None
    overrides: dict[str, Any] | None = field(default=None, repr=False)  # may hold the node's URL
    live: bool = False
    replay: Path | None = None
    record: Path | None = None
    backend: Backend = "numpy"


@dataclass(frozen=True)
class Assembled:
    """A runner and what shows it."""

    runner: Runner
    control: Control
    metrics: Metrics


class ReplayClock:
    """Time as it was: each block's own."""

    def __init__(self) -> None:
        self._now_s = 0.0

    def now(self) -> float:
        """When the newest block was made."""
        return self._now_s

    def monotonic(self) -> float:
        """The same: recorded time has no other."""
        return self._now_s

    async def sleep(self, seconds: float) -> None:
        """Nothing to wait for in a recording."""

    def take(self, view: ChainView) -> None:
        """Go on to a block's time."""
        self._now_s = max(self._now_s, float(view.head.timestamp))


class MeteredEndpoint:
    """An endpoint whose requests and failures are counted."""

    def __init__(self, endpoint: Endpoint, metrics: Metrics) -> None:
        self._endpoint, self._metrics = endpoint, metrics
        self.head_at = time.perf_counter()  # when the newest head was told

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        """As the endpoint's."""
        return await self._counted(method, lambda: self._endpoint.request(method, parameters))

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """As the endpoint's; counted as one request by the name of its first."""
        found: list[Any] = await self._counted(calls[0][0] if calls else "batch", lambda: self._endpoint.batch(calls))
        return found

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        """As the endpoint's."""
        head = await self._endpoint.next_head(timeout_s)
        self.head_at = time.perf_counter()
        return head

    async def close(self) -> None:
        """As the endpoint's."""
        await self._endpoint.close()

    async def _counted(self, method: str, ask: Callable[[], Any]) -> Any:
        try:
            answer = await ask()
        except Refused:
            self._metrics.rpc(method, "refused")
            raise
        except Unknown as unknown:
            self._metrics.rpc(method, unknown.kind)
            raise
        self._metrics.rpc(method)
        return answer


def load_policy(directory: Path, backend: Backend) -> Policy:
    """A verified policy of an environment that the runner knows how to carry out. Raises PolicyError."""
    policy = load(directory, backend=backend)
    if policy.definition.id not in RUNS_LIVE:
        raise PolicyError(
            f"environment.id = {policy.definition.id!r}; it loads and decides, but what runs live is {', '.join(RUNS_LIVE)}: "
            "its trades end within one transaction"
        )
    return policy


@asynccontextmanager
async def assembled(options: Options, redactor: Redactor, clock: Clock | None = None) -> AsyncIterator[Assembled]:
    """A runner ready to run; everything that was opened is closed at the end. Raises LiveError and PolicyError."""
    settings, log = options.settings, structlog.get_logger("arbgym.live")
    policy = load_policy(options.policy, options.backend)
    async with AsyncExitStack() as stack:
        replaying = ReplayClock() if options.replay is not None else None
        clock = clock or replaying or SystemClock()
        metrics = Metrics(clock, redactor)
        each_block: list[Callable[[ChainView], None]] = [] if replaying is None else [replaying.take]
        mode: Mode = "replay" if replaying is not None else "live" if options.live else "dry-run"
        signer = _signer(settings, redactor) if mode == "live" else None
        endpoint: Endpoint | None = None
        account = NOBODY
        if options.replay is not None:
            recorded = RecordedFeed(options.replay)
            feed: Feed = recorded
            pools, lenders, chain_id = recorded.header.pools, recorded.header.lenders, recorded.header.chain_id
        else:
            url = settings.chain.rpc.get_secret_value()
            redactor.add_url(url)
            metered = MeteredEndpoint(connect(url, timeout_s=settings.chain.request_timeout_s, clock=clock), metrics)
            endpoint = metered
            each_block.append(lambda view: metrics.latency("head_to_view", time.perf_counter() - metered.head_at))
            stack.push_async_callback(endpoint.close)
            chain_id = settings.chain.chain_id
            await _require_chain(endpoint, chain_id)
            if chain_id in _L1_BLOCK_NUMBERS and options.live:
                raise LiveError(f"chain.chain_id = {chain_id}: its block.number is another chain's, so a plan would never expire")
            pools = await _pools(endpoint, settings)
            lenders = await _lenders(endpoint, settings)
            account = await _account(endpoint, settings, None if signer is None else signer.address)
            feed = ChainFeed(
                endpoint,
                clock,
                chain_id=chain_id,
                pools=pools,
                lenders=lenders,
                account=None if account == NOBODY else account,
                reference=_reference(settings, clock, pools, redactor, log),
                coin="base",
                coin_price=settings.pair.native_price_ratio or 1.0,
                head_timeout_s=settings.chain.head_timeout_s,
            )
        stack.push_async_callback(feed.close)
        world = dict(feed.header.world) if isinstance(feed, RecordedFeed) else _world(settings)
        if options.record is not None:
            recorder = Recorder(options.record, RecordingHeader(chain_id, tuple(pools), tuple(lenders), world))
            stack.callback(recorder.close)
            each_block.append(_while_it_can(recorder.write, log))

        observer = Observer(policy, pools, lenders=[lender.name for lender in lenders], changes=world)
        _warn_of_another_world(observer, log)
        journal_path = _journal_path(settings.journal.path, mode, stack)
        journal = Journal(journal_path, clock, on_point=_timed_commits(metrics))
        kill = KillSwitch(settings.risk.kill_file)
        limits_here = settings.risk.limits(world.get("block_time_s", settings.chain.block_time_s))
        gate = RiskGate(limits_here, clock, journal, settings.risk.equity_eth, kill)
        if options.settings_file is not None and mode != "replay":
            limits = LimitsFile(options.settings_file, settings, gate, options.overrides)
            each_block.append(lambda view: _say_reloaded(limits, log))
        planner = Planner(
            observer,
            chain_id=chain_id,
            policy_sha256=policy.manifest["sha256"],
            executor=settings.executor or DRY_RUN_ADDRESS,
            lenders=dict(settings.lenders),
            maximum_fee_wei=int(settings.fees.maximum_fee_gwei * 1e9),
            gas_margin=1.0 + settings.fees.gas_limit_margin_percent / 100.0,
        )
        sender: Sender
        channels: dict[Channel, SendingChannel] = {}
        if signer is not None and endpoint is not None:
            channels["public"] = PublicChannel(endpoint)
            relay = settings.relay.url.get_secret_value()
            if relay:
                redactor.add_url(relay)
                channels["private"] = RelayChannel(relay)
            sender = LiveSender(
                endpoint,
                channels,
                journal,
                signer,
                clock,
                chain_id=chain_id,
                quote_token=pools[0].quote,
                maximum_fee_wei=int(settings.fees.maximum_fee_gwei * 1e9),
                bump_percent=settings.fees.bump_percent,
                halted=lambda: kill.engaged() or gate.state is GateState.HALTED,
                worth=lambda plan, fee_wei, _: planner.gain_eth(plan, fee_wei) >= gate.limits.min_profit_eth,
            )
            if isinstance(feed, ChainFeed):
                feed.asks_along = sender.questions
        else:
            sender = DrySender(journal, clock)
        stack.push_async_callback(sender.close)
        if endpoint is not None:
            await _require_own(journal, journal_path, endpoint, chain_id, None if signer is None else signer.address)
        manifest = policy.manifest
        parts = Parts(
            feed=feed,
            observer=observer,
            decider=Decider(policy, observer),
            planner=planner,
            gate=gate,
            kill=kill,
            sender=sender,
            clock=clock,
            metrics=metrics,
            tally=Tally(pools[0].quote_decimals),
            expires_at_s=datetime.fromisoformat(manifest["expires_at"]).timestamp(),
            channels=_ways(settings, mode),
            pays_gas=account != NOBODY,
            journaled=journal.holds,
            earlier=lambda: journal.outcomes_after(0)[0],
            prices=EndPrices(journal),
            simulate=None if endpoint is None else simulation(endpoint, account, deployed=bool(settings.executor)),
            each_block=each_block,
            next_nonce=_next_nonce(journal, sender),
            with_next_commit=journal.with_next_commit,
            flush=journal.flush,
            open_intents=lambda: [intent.plan.key for intent in journal.open_intents()],
        )
        runner = Runner(parts)
        row = PolicyRow(
            id=options.policy.resolve().parent.name,
            sha256=manifest["sha256"],
            trained_steps=int(manifest["provenance"].get("steps", 0)),
            expires_at_s=parts.expires_at_s,
        )
        symbols = ("base", "quote") if endpoint is None else await _symbols(endpoint, pools[0])
        control = Control(runner, mode=mode, policy=row, symbols=symbols, chain_id=chain_id)
        metrics.started(
            version=control.snapshot().version,
            mode=mode,
            environment_id=policy.definition.id,
            policy_id=row.id,
            expires_at_s=parts.expires_at_s,
        )
        log.info(
            "ready",
            mode=mode,
            policy=row.sha256[:12],
            chain_id=chain_id,
            pools=[pool.name for pool in pools],
            gate=gate.state.value,
            killed=kill.engaged(),
            journal=str(journal_path.absolute()),
            kill_file=str(kill.path.absolute()),
        )
        # What stands by now stays: a collection that goes through all of it takes a tenth of a second, between a head and a send.
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        yield Assembled(runner, control, metrics)


# ---------------------------------------------------------------------------------------------------- from the settings
async def _require_chain(endpoint: Endpoint, chain_id: int) -> None:
    told = await endpoint.request("eth_chainId", [])
    if not isinstance(told, str) or told.lower() != hex(chain_id):
        raise LiveError(f"chain.chain_id = {chain_id}, the node says {str(told)[:20]}; accepted is the chain that is meant")


async def _pools(endpoint: Endpoint, settings: Settings) -> tuple[WatchedPool, ...]:
    found = []
    for pool in settings.pools:
        watched = await discover_pool(endpoint, pool.address, settings.pair.base, pool.name, pool.fee_ppm or 3_000)
        if watched.quote != settings.pair.quote:
            raise LiveError(f"pool {pool.name}: quote token {watched.quote}; accepted is pair.quote = {settings.pair.quote}")
        found.append(watched)
    return tuple(found)


async def _lenders(endpoint: Endpoint, settings: Settings) -> tuple[WatchedLender, ...]:
    """Where each lender's liquidity lies: with the contract itself, or, for Aave, with its token of the quote currency."""
    found = []
    for name, address in settings.lenders.items():
        holder = address
        if name == AAVE.name:
            asked = selector("getReserveData(address)") + settings.pair.quote[2:].rjust(64, "0")
            told = await endpoint.request("eth_call", [{"to": address, "data": asked}, "latest"])
            holder = "0x" + str(told)[2 + 64 * 8 :][24:64]  # DataTypes.ReserveData: the ninth word is aTokenAddress
        found.append(WatchedLender(name, "balance", holder))
    return tuple(found)


async def _account(endpoint: Endpoint, settings: Settings, signer: str | None) -> str:
    """Who sends: the signer; in a dry run the executor's owner, or nobody. A live run needs an executor of the signer's own."""
    if not settings.executor:
        if signer is not None:
            raise LiveError('executor = ""; accepted with --live is the contract that python -m arbgym.live.deploy has deployed')
        return NOBODY
    code = await endpoint.request("eth_getCode", [settings.executor, "latest"])
    told = await endpoint.request("eth_call", [{"to": settings.executor, "data": selector("owner()")}, "latest"])
    owner = "0x" + str(told)[-40:].lower() if isinstance(told, str) and len(told) == 66 else ""
    if not owner or str(code).lower() != runtime_code(owner).lower():
        raise LiveError(
            f"executor = {settings.executor!r}: other code than ArbExecutor's (source sha256 "
            f"{str(artefact()['source_sha256'])[:12]}); accepted is a contract that this version has deployed"
        )
    if signer is not None and signer.lower() != owner:
        raise LiveError(f"executor = {settings.executor!r} belongs to {owner}; accepted is one of the signer's, {signer}")
    return owner


def _signer(settings: Settings, redactor: Redactor) -> Signer:
    """The account's key, whose every form is kept out of logs."""
    from arbgym.live.signer import PASSWORD, load_signer  # only here: a dry run has no use for eth-account

    if os.environ.get(PASSWORD):
        redactor.add(os.environ[PASSWORD])
    signer = load_signer(settings.keystore.path)
    for secret in signer.canaries():
        redactor.add(secret)
    return signer


def _reference(settings: Settings, clock: Clock, pools: Sequence[WatchedPool], redactor: Redactor, log: Any) -> ReferenceSource:
    told = settings.reference

    def report(text: str) -> None:
        log.warning("reference price", reason=text)

    if told.kind in ("none", "pool"):
        log.warning("no price from outside: a pool's own is the reference", pool=told.pool or pools[0].name)
        names = [pool.name for pool in pools]
        return PoolReference(names.index(told.pool) if told.pool else 0)
    if told.kind == "csv":
        return FileReference(Path(told.path or ""), clock, report)
    url = told.url.get_secret_value()
    redactor.add_url(url)
    if told.kind == "binance_rest":
        return RestReference(f"{url}?symbol={told.symbol.upper()}", clock, report)
    return StreamReference(f"{url}/{told.symbol.lower()}@bookTicker", clock, report)


def _world(settings: Settings) -> dict[str, float]:
    """What the chain, and not the policy's configuration, decides; a recording says it for its replay."""
    changes = {"block_time_s": settings.chain.block_time_s}
    if settings.pair.native_is_base:
        changes["native_price_ratio"] = 1.0
    elif settings.pair.native_price_ratio is not None:
        changes["native_price_ratio"] = settings.pair.native_price_ratio
    return changes


def _warn_of_another_world(observer: Observer, log: Any) -> None:
    """A policy runs on other pools than it was trained with, but somebody should know."""
    trained = [(pool.kind, float(pool.fee_ppm)) for pool in observer.config.pools]
    watched = [(pool.kind, float(pool.fee_ppm)) for pool in observer.watched]
    if trained != watched:
        log.warning("the policy was trained with other pools", trained=trained, watched=watched)


def _ways(settings: Settings, mode: Mode) -> frozenset[Channel]:
    """How transactions could be sent; a dry run has the ways that a live one would have."""
    if mode == "replay" or settings.relay.url.get_secret_value():
        return frozenset(("private", "public"))
    return frozenset(("public",))


def _while_it_can(write: Callable[[ChainView], None], log: Any) -> Callable[[ChainView], None]:
    """A recording that fails (a full disk) is given up; what is being traded goes on."""
    failed: list[bool] = []

    def attempt(view: ChainView) -> None:
        if not failed:
            try:
                write(view)
            except OSError as error:
                failed.append(True)
                log.error("the recording ends here", block=view.head.number, reason=str(error))

    return attempt


async def _require_own(journal: Journal, path: Path, endpoint: Endpoint, chain_id: int, account: str | None) -> None:
    """Refuse the journal of another chain or account: what is open there would be replaced here, by transactions that cost."""
    first = await endpoint.request("eth_getBlockByNumber", ["0x0", False])
    mine = {"chain_id": chain_id, "first_block": str(first["hash"]) if isinstance(first, dict) and "hash" in first else None}
    if account is not None:
        mine["account"] = account.lower()
    kept = journal.get(_OWNER)
    if kept is None:
        journal.put(_OWNER, mine)
        return
    for name, value in mine.items():
        if value is not None and kept.get(name) not in (None, value):
            raise LiveError(
                f"journal {path}: {name} = {kept[name]}, and here it is {value}; "
                "accepted is the journal of this chain and account, or a new file (--journal)"
            )


def _journal_path(path: Path, mode: Mode, stack: AsyncExitStack) -> Path:
    """A dry run has a journal of its own, beside the live one; a replay has one for its time only."""
    if mode == "live":
        return path
    if mode == "dry-run":
        return path.with_name(f"{path.stem}.dry-run{path.suffix}")
    return Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="arbgym-replay-"))) / path.name


def _timed_commits(metrics: Metrics) -> Callable[[str], None]:
    began = [0.0]

    def at(point: str) -> None:
        if point == "journal.before_commit":
            began[0] = time.perf_counter()
        elif point == "journal.after_commit":
            metrics.committed(time.perf_counter() - began[0])

    return at


def _next_nonce(journal: Journal, sender: Sender) -> Callable[[], int | None]:
    """After what is on its way, what the journal saw mined, and what was on chain at the start: less than the chain's own count
    where somebody else sends from the account.
    """
    first: list[int] = []

    def following() -> int | None:
        if sender.chain_nonce is None:
            return None
        if not first:
            first.append(sender.chain_nonce)
        signed = [transaction.nonce + 1 for intent in journal.open_intents() for transaction in intent.transactions]
        return max(*signed, journal.next_nonce, first[0], 0)

    return following


def simulation(endpoint: Endpoint, account: str, *, deployed: bool) -> Simulate:
    """What plans of ``account`` do by this node; ``deployed`` as of ``arbgym.live.executor.Simulator``."""
    simulator = Simulator(endpoint, deployed=deployed)
    return lambda plan, time_s: simulator.run(
        to=plan.to,
        sender=account,
        data=plan.data,
        block=plan.block_number,
        time_s=time_s,
        gas_limit=plan.gas_limit,
        max_fee_wei=plan.max_fee_wei,
    )


async def _symbols(endpoint: Endpoint, pool: WatchedPool) -> tuple[str, str]:
    """(base, quote) as the tokens call themselves; a name is decoration, so what cannot be read is said plainly."""
    names = []
    for address, otherwise in ((pool.base, "base"), (pool.quote, "quote")):
        try:
            told = await endpoint.request("eth_call", [{"to": address, "data": selector("symbol()")}, "latest"])
            held = bytes.fromhex(str(told)[2:])
            text = (held[64 : 64 + int.from_bytes(held[32:64], "big")] if len(held) > 64 else held).rstrip(b"\0").decode()
        except (LiveError, ValueError):
            text = ""
        names.append(text if text.isprintable() and 0 < len(text) <= 12 else otherwise)
    return names[0], names[1]


def _say_reloaded(limits: LimitsFile, log: Any) -> None:
    found = limits.poll()
    if found is None:
        return
    if found.error:
        log.error("the settings file cannot be used; the limits stay", reason=found.error)
    else:
        log.warning("limits", tightened=found.tightened, waiting_for_confirmation=found.waiting, after_restart=found.restart)
