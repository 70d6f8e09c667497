"""The values that pass between the parts of the live adapter, and the protocols that stand between it and the world.

Times are Unix seconds, UTC. Amounts named ``raw`` are integers in a token's smallest unit, ``wei`` in the chain's own coin;
``eth`` are floats in that coin. ``quote`` and ``base`` are the pair's tokens, as in the environments.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Literal, Protocol

from arbgym.amm import ConcentratedPool, ConstantProductPool

PoolModel = ConstantProductPool | ConcentratedPool
Channel = Literal["private", "public"]
Call = tuple[str, Sequence[Any]]
"""A request to a node: method and parameters."""


# ------------------------------------------------------------------------------------------------------ what went wrong
class LiveError(Exception):
    """Something outside did not behave. The message names the part, the value and what is accepted; never a secret."""


class Refused(LiveError):
    """A node's structured answer that a request is refused: ``code``, ``message`` and ``data`` are its own words."""

    def __init__(self, method: str, code: int, message: str, data: str = "") -> None:
        self.method, self.code, self.message, self.data = method, code, message, data
        super().__init__(f"{method}: {message} (code {code})")


class Unknown(LiveError):
    """No trustworthy answer: time-out, lost connection, HTTP 429 or 5xx, something that is not JSON-RPC.

    It is not a refusal: whatever was asked for may have happened. ``kind`` is one of timeout, connection, rate_limited, server,
    malformed.
    """

    def __init__(self, method: str, kind: str, detail: str = "") -> None:
        self.method, self.kind, self.detail = method, kind, detail
        super().__init__(f"{method}: {kind}{': ' + detail if detail else ''}")


class FeedDown(LiveError):
    """No new block could be taken now; asking again may help. Nothing is decided meanwhile."""


class FeedBroken(LiveError):
    """The chain and what is held of it cannot both be right (a reorg too deep, a state that differs, another chain): halt."""


class EndOfFeed(LiveError):
    """A recording is over."""


# ------------------------------------------------------------------------------------------------------------ the chain
@dataclass(frozen=True, slots=True)
class Head:
    """A block's header."""

    number: int
    hash: str  # 0x + 64 hexadecimal digits, lower case
    parent_hash: str
    timestamp: int
    base_fee_wei: int  # of this block
    gas_used: int
    gas_limit: int


@dataclass(frozen=True, slots=True)
class WatchedPool:
    """A pool that the runner watches; addresses in lower case, tokens in the contract's order."""

    name: str
    address: str
    kind: Literal["v2", "v3"]
    fee_ppm: int
    token0: str
    token1: str
    decimals0: int
    decimals1: int
    base_is_token0: bool
    tick_spacing: int | None = None  # v3

    @property
    def base(self) -> str:
        """The base token's address."""
        return self.token0 if self.base_is_token0 else self.token1

    @property
    def quote(self) -> str:
        """The quote token's address."""
        return self.token1 if self.base_is_token0 else self.token0

    @property
    def quote_decimals(self) -> int:
        """Of the quote token."""
        return self.decimals1 if self.base_is_token0 else self.decimals0

    @property
    def base_decimals(self) -> int:
        """Of the base token."""
        return self.decimals0 if self.base_is_token0 else self.decimals1


@dataclass(frozen=True, slots=True)
class Reference:
    """A price seen outside the chain, quote per base, and when it was true at its source."""

    price: float
    time_s: float
    source: str


@dataclass(frozen=True, slots=True)
class RivalTrade:
    """Somebody's atomic cycle through two watched pools in a block: what it made before its costs, and what it paid."""

    transaction: str
    profit_quote: float
    tip_quote: float


@dataclass(frozen=True, slots=True)
class ChainView:
    """All that is known at the end of one block. ``pools`` are exact, in the order watched, and not to be changed."""

    head: Head
    pools: tuple[PoolModel, ...]
    flow_base: tuple[float, ...]  # net base tokens that the block's swaps brought into each pool
    lenders_raw: tuple[int, ...]  # what each watched lender could lend, quote token, raw; 0 closed
    balance_wei: int  # of the account that pays gas; 0 without one
    reference: Reference | None
    rivals: tuple[RivalTrade, ...] = ()
    reorg_depth: int = 0  # blocks of the former chain that this one and its successors replace
    newest: bool = True  # no later block was known when this one was handed on: only then is anything decided
    # what somebody else had the feed ask along with the block's own requests, and the node's answers, as they came
    along: tuple[tuple[Call, Any], ...] = field(default=(), compare=False, repr=False)


class Feed(Protocol):
    """Blocks in order. After a reorganisation the views from the fork on follow; the first of them has ``reorg_depth``."""

    async def open(self) -> ChainView:
        """Connect, read every state from scratch and return the newest block's view. Raises FeedBroken on another chain."""

    async def next(self) -> ChainView:
        """The next block's view, waiting for it. Raises FeedDown (ask again), FeedBroken (halt), EndOfFeed."""

    async def close(self) -> None:
        """Let go of connections and files."""


# ----------------------------------------------------------------------------------------------------- the outside world
class Clock(Protocol):
    """Time, so that a simulation can have its own."""

    def now(self) -> float:
        """Unix seconds."""

    def monotonic(self) -> float:
        """Seconds that never go back."""

    async def sleep(self, seconds: float) -> None:
        """Wait."""


class Endpoint(Protocol):
    """A JSON-RPC node, or something scripted that answers like one."""

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        """The result. Raises Refused for a structured error, Unknown for anything else that is no answer."""

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results of several requests in their order; raises as ``request`` does if any has none."""

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        """Wait for a new header, as the node writes it (subscription, or polling). Raises Unknown ('timeout')."""

    async def close(self) -> None:
        """Let go of connections."""


# ------------------------------------------------------------------------------------------------------ what is decided
@dataclass(frozen=True, slots=True)
class Plan:
    """A transaction that is wanted: exact, good up to ``valid_until_block``. ``key`` is a hash of what decides it."""

    key: str
    block_number: int  # decided on the state at the end of this block
    block_hash: str
    valid_until_block: int
    buy: int  # watched pools
    sell: int
    lender: str
    amount_in_raw: int  # quote token
    expected_profit_raw: int  # quote token, after pool and loan fees, before gas and tip
    minimum_profit_raw: int  # the contract reverts below
    channel: Channel
    to: str
    data: str  # calldata, 0x...
    gas_limit: int
    max_fee_wei: int  # per gas
    priority_fee_wei: int  # per gas: the tip
    gas_used: int = 0  # expected


@dataclass(frozen=True, slots=True)
class Order:
    """What the risk gate judges. All amounts are in the chain's own coin, so that limits do not depend on the pair."""

    key: str
    block_number: int
    head_time_s: float
    reference_time_s: float | None  # None: the policy's world has no outside price
    notional_eth: float
    borrowed_eth: float
    flash: bool  # borrowed and repaid within the transaction; else it is inventory
    expected_profit_eth: float  # net of gas and tip
    worst_cost_eth: float  # gas and tip if it reverts; 0 where that costs nothing
    confidence: float  # 0 to 1
    reduces_exposure: bool = False  # inventory that is sold off: what is left open falls by ``notional_eth``


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's answer; a refusal names the limit, the value and what is accepted."""

    allowed: bool
    limit: str = ""
    value: float = 0.0
    accepted: str = ""


class IntentState(StrEnum):
    """Where an intent stands. ``DRY`` and those after ``UNKNOWN`` are its end, unless a reorganisation takes it back."""

    WRITTEN = "written"
    SIGNED = "signed"
    SENT = "sent"
    UNKNOWN = "unknown"  # sent, and no answer
    MINED = "mined"
    REVERTED = "reverted"
    REPLACED = "replaced"  # another transaction took its nonce (a cancellation of ours)
    DROPPED = "dropped"  # it can no longer be mined
    REFUSED = "refused"  # it was never accepted
    DRY = "dry"


SETTLED = frozenset(
    {
        IntentState.MINED,
        IntentState.REVERTED,
        IntentState.REPLACED,
        IntentState.DROPPED,
        IntentState.REFUSED,
        IntentState.DRY,
    }
)


@dataclass(frozen=True, slots=True)
class Outcome:
    """How an intent ended."""

    key: str
    state: IntentState
    block_number: int
    time_s: float
    profit_raw: int  # quote token, after pool and loan fees, before gas and tip; expected where dry
    gas_cost_wei: int  # without the tip
    tip_wei: int
    channel: Channel
    corrects: IntentState | None = None  # the end that a reorganisation took back


class Sender(Protocol):
    """From a plan to its end: the only part that differs between dry-run and live."""

    async def start(self) -> list[Outcome]:
        """Take up what an earlier process left open and settle it against the chain."""

    async def send(self, plan: Plan, still_allowed: Any) -> IntentState:
        """Write the intent, then send it if ``still_allowed() -> Verdict`` says so at the last moment."""

    async def settle(self, view: ChainView) -> list[Outcome]:
        """What ended by this block: mined, reverted, dropped, replaced; fees are raised and late ones cancelled here."""

    trouble: str  # why the last settlement is incomplete; empty otherwise
    nonce_race: str  # that somebody else signs for the account, until it is taken; empty otherwise

    def take_nonce_race(self) -> str:
        """``nonce_race``, told once for each race."""

    @property
    def busy(self) -> bool:
        """An intent is open: nothing else may be sent."""

    @property
    def chain_nonce(self) -> int | None:
        """How many of the account's transactions are on chain; None where that is not known, or there is no account."""

    async def close(self) -> None:
        """Let go of the journal."""
