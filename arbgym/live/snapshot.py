"""What the runner shows of itself at one moment: the same values on the status page, in the terminal and in tests.

Amounts named ``quote`` are in the pair's quote token, ``eth`` in the chain's own coin; shares run from 0 to 1. Nothing here may
hold a secret: no URL, no key, no token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, Literal

from arbgym.live.prices import liquidity, mid_price
from arbgym.live.terms import PoolModel, WatchedPool

Mode = Literal["dry-run", "live", "replay"]
GateState = Literal["ACTIVE", "REDUCING", "HALTED"]
GATE_STATES: tuple[GateState, ...] = ("ACTIVE", "REDUCING", "HALTED")  # in the order of the metric arbgym_gate_state
LATEST_DECISIONS = 50
CURVE_POINTS = 400


@dataclass(frozen=True, slots=True)
class DecisionRow:
    """A block's decision and what became of it."""

    time_s: float
    block_number: int
    action: str
    confidence: float
    notional_quote: float
    expected_profit_quote: float  # after pool and loan fees, before gas and tip
    verdict: str  # "allowed", or the limit that refused; "" where nothing was asked
    state: str  # of the intent; "" without one


@dataclass(frozen=True, slots=True)
class LimitRow:
    """One limit of the risk gate: ``accepted`` in words, ``share_used`` of it."""

    name: str
    value: float
    accepted: str
    share_used: float


@dataclass(frozen=True, slots=True)
class PoolRow:
    """A watched pool: ``price`` is quote per base, ``liquidity`` the root of its (v3: virtual) reserves' product."""

    name: str
    kind: str
    fee_ppm: int
    price: float
    liquidity: float


@dataclass(frozen=True, slots=True)
class AlertRow:
    """An alert that is firing."""

    name: str
    severity: str
    summary: str
    value: float | None  # None: the metric is absent
    since_s: float


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """The policy that decides."""

    id: str
    sha256: str
    trained_steps: int
    expires_at_s: float


@dataclass(frozen=True, slots=True)
class Totals:
    """Sums since the journal began (``decisions``: since the process did), and rates over the latest attempts (NaN while there
    are too few to say).

    ``attempts`` are intents that ended; ``win_rate`` is the share of those mined, reverted or dry that made more than gas and
    tip; ``success_rate`` the share of those sent that were mined; ``gas_share`` gas cost and tip over profit.
    """

    decisions: int = 0
    attempts: int = 0
    mined: int = 0
    reverted: int = 0
    dropped: int = 0  # dropped, replaced or never accepted: they cost nothing
    dry: int = 0
    profit_quote: float = 0.0  # after pool and loan fees, before gas and tip
    gas_eth: float = 0.0  # without the tip
    tip_eth: float = 0.0
    net_quote: float = 0.0  # profit less gas and tip, each at its block's price
    win_rate: float = math.nan
    success_rate: float = math.nan
    gas_share: float = math.nan
    consecutive_reverts: int = 0


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything that is seen from outside. None is what is not known yet."""

    mode: Mode
    version: str
    time_s: float
    started_s: float
    gate_state: GateState
    killed: bool
    kill_reason: str
    policy: PolicyRow
    environment_id: str
    chain_id: int
    base_symbol: str
    quote_symbol: str
    block_number: int | None
    head_age_s: float | None
    head_age_limit_s: float  # an older head is stale
    reference_price: float | None
    reference_age_s: float | None
    base_fee_gwei: float | None
    open_intent: str | None  # its key
    next_nonce: int | None
    drawdown: float
    totals: Totals
    curve: tuple[tuple[float, float], ...]  # (time_s, cumulative net_quote), oldest first, at most CURVE_POINTS
    limits: tuple[LimitRow, ...]
    decisions: tuple[DecisionRow, ...]  # newest first, at most LATEST_DECISIONS
    pools: tuple[PoolRow, ...]
    alerts: tuple[AlertRow, ...]
    waiting_for_confirmation: tuple[str, ...] = ()  # limits whose loosening nobody has confirmed yet

    def __post_init__(self) -> None:
        if self.gate_state not in GATE_STATES:
            raise ValueError(f"gate_state = {self.gate_state!r}; accepted is one of {', '.join(GATE_STATES)}")
        for name, bound in (("decisions", LATEST_DECISIONS), ("curve", CURVE_POINTS)):
            if len(getattr(self, name)) > bound:
                raise ValueError(f"{name} has {len(getattr(self, name))} rows; accepted are at most {bound}")

    def unhealthy(self) -> str | None:
        """Why nothing may be decided now, or None."""
        if self.killed:
            return f"killed: {self.kill_reason}"
        if self.gate_state == "HALTED":
            return "the risk gate is HALTED"
        if self.head_age_s is None:
            return "no block yet"
        if self.head_age_s > self.head_age_limit_s:
            return f"the head is {self.head_age_s:.0f} s old; accepted is at most {self.head_age_limit_s:g} s"
        return None


def counted_anew(mode: Mode) -> str:
    """What the profit of a run that sends nothing is: one gap is won in every block for as long as it stands."""
    return f"every block counted anew, as a {'replay' if mode == 'replay' else 'dry run'} moves no pool"


def pool_row(watched: WatchedPool, pool: PoolModel) -> PoolRow:
    """A watched pool as it stands."""
    return PoolRow(watched.name, watched.kind, watched.fee_ppm, mid_price(pool, watched), liquidity(pool, watched))


def as_json(value: Any) -> Any:
    """A snapshot (or any part of it) as objects, lists and scalars that JSON has; a number that is not finite becomes None."""
    if is_dataclass(value) and not isinstance(value, type):
        return {field.name: as_json(getattr(value, field.name)) for field in fields(value)}
    if isinstance(value, (tuple, list)):
        return [as_json(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
