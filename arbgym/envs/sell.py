"""ArbSell-v0: when to sell a token that was bought, into a pool, before its life is over.

Problem
    A position in a token was just bought from its pool. At each step: sell some of it, all of it, or keep holding. The token
    lives through hidden phases (launch, hype, decay, dead or rugged, second wind) that flow and liquidity tell something about;
    holding earns while it rises, and costs when the crowd leaves or the pool is emptied. Selling pays the pool's fee, price
    impact and gas, and may fail.

One step
    One step is ``step_s`` seconds: the bucket's horizon over ``episode_blocks`` (a replay takes the tape's step and as many steps
    as fit the horizon). The agent decides on what it saw at the end of step n. Then, in this order:

    1. the market moves to the end of step n + 1 (``arbgym.market.token_life``, or the tape's next row);
    2. the sale lands ``latency_s`` after the decision, so at a price that far on the way; it pays fee, impact and gas. It fails
       with a probability that rises with congestion, and pays its gas then. The last tranche sells all that is left;
    3. what is left is sold at the close at the horizon (time-out), at the tape's last row, or once the reserve is below
       ``rug_reserve_share`` of what it was at entry (rug).

    The own purchase and own sales displace the pool's price for good; everybody else's flow is in shares of the reserve.

Actions (multidiscrete; ``discrete``: 0 holds, 1 sells all; ``continuous`` is a box in [-1, 1]^1)
    see ``ACTION`` below or ``python -m arbgym info ArbSell-v0``: sell_share, of what is left.

Observations
    see ``OBSERVATION`` below or ``python -m arbgym info ArbSell-v0``: name, unit, scale, range, meaning. Windows are in steps.

Reward
    Net profit of the step over what the position cost (its sum is the position's net return R), less
    ``holding_penalty_per_hour`` times the share held, less ``drawdown_penalty`` times the growth of the deepest drawdown:
    U = R - lambda holding - mu drawdown. Both are 0 by default. With ``mark_to_market`` a step's reward is instead the change of
    the net return if all that is left were sold (the sum is R less what selling at once would have lost): the same best policy,
    told sooner. ``info`` has each part. Nothing in it looks ahead; the oracle's
    profit is worked out only where it acts or where ``hindsight`` asks for it.

Episode end
    ``terminated`` once nothing is left. Never ``truncated``: at the horizon and at a tape's end what is left is sold.

Arguments
    preset: new (default), emerging, established, blue_chip, mixed, curve, put, ou, alpha; action: multidiscrete (default),
    discrete, continuous; feed: simulated (default) or replay with tape = a TokenTape; any field of ``SellConfig`` by name.

Baselines
    wait (hold to the horizon), sell_now, rule (take profit +100 %, stop -50 %, trailing 20 %), atr_stop (2.5 ATR below the peak),
    tuned_rule (all thresholds searched), oracle (one sale at the best moment, net of costs): see ``arbgym.envs.sell_baselines``.

Sources
    Launch statistics: ``arbgym.market.token_life``. Textbook presets and their values: Longstaff and Schwartz 2001 (put), Leung
    and Li 2015 (ou), Shiryaev, Xu and Zhou 2008 and du Toit and Peskir 2009 (alpha); ``arbgym.market.textbook``.

Versions
    v0: first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.bonding_curve import curve_sell, product_out
from arbgym.engine import Definition, config_record
from arbgym.jit import kernel, part
from arbgym.market.config import require
from arbgym.market.history import (
    HISTORY_STATE,
    LAGS,
    LONG,
    MIDDLE,
    PRICES,
    SHORT,
    WILDER,
    see_step,
    see_volume,
    start_history,
)
from arbgym.market.textbook import ALPHA, OU, POOL, PROCESSES, PUT, highest_by_horizon, next_level, payoff
from arbgym.market.token_life import (
    ENTRY_DRAWS,
    LIVING,
    PHASES,
    RUGGED,
    SALE_DRAWS,
    START_DRAWS,
    TOKEN_STATE,
    next_token,
    replay_token,
    start_token,
)
from arbgym.market.venues import VENUES
from arbgym.rng import uniform2, uniform4
from arbgym.spec import Choice, Field

if TYPE_CHECKING:
    from arbgym.market.token_tape import TokenTape

Floats = NDArray[np.float64]
MAX_BUCKETS = 8
SECONDS_PER_YEAR = 365.25 * 86_400.0


# --------------------------------------------------------------------------------------------------------- configuration
@dataclass(frozen=True)
class Bucket:
    """Liquidity decides how long a position may be held, how large it may be, and how lively its market is."""

    name: str
    tvl_below_quote: float  # value locked below which the bucket applies
    horizon_s: float
    position_limit_quote: float
    flow: float  # gross volume of a lively step, as a share of the quote reserve
    rug: float  # multiplies each phase's probability of a rug

    def __post_init__(self) -> None:
        for name in ("tvl_below_quote", "horizon_s", "position_limit_quote"):
            if not 0.0 < getattr(self, name) <= 1e15:
                raise ValueError(f"Bucket.{name} = {getattr(self, name)}; accepted is above 0 up to 1e15")
        require("Bucket.flow", self.flow, 0.0, 10.0)
        require("Bucket.rug", self.rug, 0.0, 1e6)


BUCKETS = (
    Bucket("new", 1e5, 2 * 3_600.0, 2_000.0, 0.08, 1.0),
    Bucket("emerging", 1e6, 6 * 3_600.0, 20_000.0, 0.05, 0.4),
    Bucket("established", 1e7, 12 * 3_600.0, 100_000.0, 0.02, 0.05),
    Bucket("blue_chip", 1e15, 24 * 3_600.0, 500_000.0, 0.006, 0.0),
)


@dataclass(frozen=True)
class SellConfig:
    """Every number of the world, units in the names; numbers per phase come in the order of ``PHASES``, without rugged."""

    preset: str = "new"
    buckets: tuple[Bucket, ...] = BUCKETS
    # the position
    tvl_low_quote: float = 2e4  # value locked at launch: log-uniform between the two
    tvl_high_quote: float = 9e4
    position_share_low: float = 0.002  # of the value locked: log-uniform between the two, up to the bucket's limit
    position_share_high: float = 0.02
    warmup_blocks: int = 16  # the position is bought 1 to this many steps after the market was first seen
    first_age_s: float = 0.0  # of the token when its market is first seen
    max_tranches: int = 4  # sales of one position; the last one sells all that is left
    least_share: float = 0.05  # an action below it holds
    # selling
    venue: str = "raydium_amm_v4"  # a name of arbgym.market.venues.VENUES: fee and cost of a transaction
    native_quote: float = 150.0  # price of the chain's own token, in which transactions are paid
    fee_ppm: float | None = None  # None: the venue's
    gas_quote: float | None = None  # base and priority fee of one transaction in a typical step; None: the venue's
    gas_congestion: float = 0.5  # growth of the gas per unit of congestion above typical
    fail_probability: float = 0.03  # in a typical step
    fail_congestion: float = 0.5
    fail_gas_share: float = 1.0  # of the gas that a failed sale pays
    latency_s: float = 1.5  # from decision to inclusion
    rug_reserve_share: float = 0.05  # of the reserve at entry: below it the pool counts as emptied
    # phases
    phase_start: tuple[float, ...] = (1.0, 0.0, 0.0, 0.0, 0.0)  # probabilities when the market is first seen
    phase_flow: tuple[float, ...] = (1.4, 1.0, 0.8, 0.08, 0.8)  # multiples of the bucket's
    phase_imbalance: tuple[float, ...] = (0.02, 0.12, -0.10, -0.30, 0.10)
    phase_rug: tuple[float, ...] = (0.0030, 0.0015, 0.0030, 0.0010, 0.0015)  # probability per step
    phase_rates: tuple[tuple[float, ...], ...] = (  # probability per step of a change to each phase
        (0.0, 0.06, 0.06, 0.0, 0.0),
        (0.0, 0.0, 0.030, 0.0, 0.0),
        (0.0, 0.0, 0.0, 0.018, 0.006),
        (0.0, 0.0, 0.0, 0.0, 0.004),
        (0.0, 0.0, 0.035, 0.0, 0.0),
    )
    lead_steps: float = 4.0  # mean steps from a change being drawn to its effect
    # flow
    activity_memory: float = 0.95  # per step, of the log of activity
    activity_shock: float = 0.15
    volume_log_sd: float = 0.5
    mood_memory: float = 0.85  # per step, of the crowd's imbalance
    mood_shock: float = 0.05
    imbalance_sd: float = 0.7
    known_share: float = 0.15  # volume of known traders, as a share of the crowd's
    known_skill: float = 2.0  # their mean imbalance over that of the coming phase
    known_sd: float = 0.5
    large_probability: float = 0.03  # of a large holder's sale in a lively step
    large_low: float = 0.01  # its size as a share of the reserve: log-uniform between the two
    large_high: float = 0.3
    # liquidity
    add_probability: float = 0.01
    add_share: float = 0.2
    pull_probability: float = 0.01
    pull_share: float = 0.2
    rug_warning_probability: float = 0.25  # of a pull, in the steps before a rug
    rug_left_share: float = 0.005
    # bonding curve (pump.fun), in quote: 30 and 115.005 SOL at 150
    curve: bool = False
    curve_start_quote: float = 4_500.0
    curve_end_quote: float = 17_250.75
    curve_fee_ppm: float = VENUES["pump_fun"].fee_ppm
    migration_fee_share: float = 0.0
    # textbook prices
    process: Literal["pool", "put", "ou", "alpha"] = "pool"
    initial_level: float = 36.0
    strike: float = 40.0
    rate_per_year: float = 0.06
    drift_per_year: float = 0.06
    volatility_per_sqrt_year: float = 0.2
    reversion_per_year: float = 0.0
    mean_level: float = 0.0
    level_cost: float = 0.0
    horizon_years: float = 1.0
    # session
    episode_blocks: int = 240
    holding_penalty_per_hour: float = 0.0
    drawdown_penalty: float = 0.0
    mark_to_market: bool = (
        False  # reward each step's change of the net return if all were sold, instead of what was realised in it
    )
    hindsight: bool = False  # work out the oracle's profit of every episode, not only where the oracle acts

    def __post_init__(self) -> None:
        if not 1 <= len(self.buckets) <= MAX_BUCKETS:
            raise ValueError(f"buckets: {len(self.buckets)} given; accepted are 1 to {MAX_BUCKETS}")
        limits = [bucket.tvl_below_quote for bucket in self.buckets]
        if limits != sorted(set(limits)):
            raise ValueError(f"buckets: tvl_below_quote = {limits}; accepted are distinct ascending limits")
        if self.venue not in VENUES:
            raise ValueError(f"venue = {self.venue!r}; accepted are {', '.join(VENUES)}")
        for name in ("fee_ppm", "gas_quote"):
            if getattr(self, name) is not None:
                require(name, getattr(self, name), 0.0, 999_999.0 if name == "fee_ppm" else 1e9)
        if self.process not in PROCESSES:
            raise ValueError(f"process = {self.process!r}; accepted are {', '.join(PROCESSES)}")
        for name in _SHARES:
            require(name, getattr(self, name), 0.0, 1.0)
        for name in _NOT_NEGATIVE:
            require(name, getattr(self, name), 0.0, 1e12)
        for name in _POSITIVE:
            if not 0.0 < getattr(self, name) <= 1e15:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is above 0 up to 1e15")
        for low, high in (
            ("tvl_low_quote", "tvl_high_quote"),
            ("position_share_low", "position_share_high"),
            ("large_low", "large_high"),
            ("curve_start_quote", "curve_end_quote"),
        ):
            if getattr(self, low) > getattr(self, high):
                raise ValueError(f"{low} = {getattr(self, low)}; accepted is up to {high} = {getattr(self, high)}")
        if (
            self.curve
            and not self.curve_start_quote <= 0.5 * self.tvl_low_quote <= 0.5 * self.tvl_high_quote < self.curve_end_quote
        ):
            raise ValueError(
                f"tvl_low_quote = {self.tvl_low_quote}, tvl_high_quote = {self.tvl_high_quote}; accepted on a curve are "
                f"{2 * self.curve_start_quote:g} to below {2 * self.curve_end_quote:g}"
            )
        for name in ("phase_start", "phase_flow", "phase_imbalance", "phase_rug", "phase_rates"):
            if len(getattr(self, name)) != LIVING:
                raise ValueError(
                    f"{name}: {len(getattr(self, name))} given; accepted are {LIVING}, for {', '.join(PHASES[:LIVING])}"
                )
        for name in ("phase_start", "phase_flow", "phase_rug"):
            for value in getattr(self, name):
                require(name, value, 0.0, 100.0 if name == "phase_flow" else 1.0)
        for value in self.phase_imbalance:
            require("phase_imbalance", value, -1.0, 1.0)
        if abs(sum(self.phase_start) - 1.0) > 1e-9:
            raise ValueError(f"phase_start = {self.phase_start}; accepted are probabilities that add up to 1")
        for row in self.phase_rates:
            if len(row) != LIVING or min(row) < 0.0 or sum(row) > 1.0:
                raise ValueError(f"phase_rates: {row}; accepted are {LIVING} probabilities that add up to at most 1")
        for name, least, most in (("warmup_blocks", 1, 10_000), ("max_tranches", 1, 1_000), ("episode_blocks", 1, 1_000_000)):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is {least} to {most}")
        require("drift_per_year", self.drift_per_year, -100.0, 100.0)
        for name in ("mean_level", "level_cost"):
            require(name, getattr(self, name), -1e12, 1e12)
        if self.process != "ou" and not self.initial_level > 0.0:
            raise ValueError(f"initial_level = {self.initial_level}; accepted is above 0 but for process = 'ou'")
        if self.process == "ou" and not self.reversion_per_year > 0.0:
            raise ValueError(f"reversion_per_year = {self.reversion_per_year}; accepted is above 0 with process = 'ou'")


_SHARES = (
    *("position_share_low", "position_share_high", "least_share", "fail_probability", "fail_gas_share", "rug_reserve_share"),
    *("activity_memory", "mood_memory", "large_probability", "add_probability", "pull_probability", "pull_share"),
    *("rug_warning_probability", "rug_left_share", "migration_fee_share", "known_share", "large_low", "large_high"),
)
_NOT_NEGATIVE = (
    *("native_quote", "curve_fee_ppm", "gas_congestion", "fail_congestion", "latency_s", "first_age_s", "activity_shock"),
    *("volume_log_sd", "mood_shock", "imbalance_sd", "known_skill", "known_sd", "add_share", "rate_per_year"),
    *("reversion_per_year", "holding_penalty_per_hour", "drawdown_penalty"),
)
_POSITIVE = (
    *("tvl_low_quote", "tvl_high_quote", "position_share_low", "large_low", "lead_steps", "curve_start_quote", "strike"),
    *("volatility_per_sqrt_year", "horizon_years"),
)

_GROWN = SellConfig(
    phase_start=(0.0, 0.30, 0.30, 0.20, 0.20),
    phase_imbalance=(0.02, 0.10, -0.10, -0.06, 0.09),
    phase_rates=(
        (0.0, 0.06, 0.06, 0.0, 0.0),
        (0.0, 0.0, 0.025, 0.010, 0.0),
        (0.0, 0.010, 0.0, 0.025, 0.010),
        (0.0, 0.006, 0.006, 0.0, 0.010),
        (0.0, 0.010, 0.025, 0.010, 0.0),
    ),
    first_age_s=7 * 86_400.0,
    warmup_blocks=32,
)
_TEXTBOOK = SellConfig(process="put", episode_blocks=50, max_tranches=4)
PRESETS: dict[str, SellConfig] = {
    # a launch on a Solana constant-product pool, SOL at 150
    "new": SellConfig(),
    "emerging": replace(_GROWN, tvl_low_quote=1.1e5, tvl_high_quote=9e5, phase_rug=(0.0015, 0.0008, 0.0015, 0.0006, 0.0008)),
    # Ethereum pools from here on, ETH at 1,840
    "established": replace(
        _GROWN,
        venue="uniswap_v2",
        native_quote=1_840.0,
        tvl_low_quote=1.1e6,
        tvl_high_quote=9e6,
        latency_s=12.0,
        large_probability=0.01,
    ),
    "blue_chip": replace(
        _GROWN,
        venue="uniswap_v3_5",
        native_quote=1_840.0,
        tvl_low_quote=1.1e7,
        tvl_high_quote=3e8,
        latency_s=12.0,
        large_probability=0.005,
    ),
    "mixed": replace(_GROWN, tvl_low_quote=2e4, tvl_high_quote=1e8),
    # pump.fun's curve: 30 virtual SOL at launch, sold out at 115.005, then a PumpSwap pool
    "curve": SellConfig(
        curve=True, tvl_low_quote=9_200.0, tvl_high_quote=15_000.0, phase_start=(0.4, 0.0, 0.4, 0.2, 0.0), venue="pumpswap"
    ),
    # K 40, S 36, sigma 0.2, T 1, 50 dates, r 0.06: 4.4778 (European 3.844)
    "put": _TEXTBOOK,
    # mu 16.6677, theta 0.5388, sigma 0.1599, r 0.05, c 0.05: 0.52768 with continuous watching and no horizon
    "ou": replace(
        _TEXTBOOK,
        process="ou",
        initial_level=0.5388,
        mean_level=0.5388,
        reversion_per_year=16.6677,
        volatility_per_sqrt_year=0.1599,
        rate_per_year=0.05,
        level_cost=0.05,
        horizon_years=3.0,
        episode_blocks=750,
    ),
    # alpha = mu / sigma^2 = 0.25 < 1/2: sell at once, 0.7597 (hold 0.7329)
    "alpha": replace(
        _TEXTBOOK,
        process="alpha",
        initial_level=1.0,
        rate_per_year=0.0,
        drift_per_year=0.25 * 0.16,
        volatility_per_sqrt_year=0.4,
    ),
}


def preset_config(preset: str = "new", **overrides: Any) -> SellConfig:
    """A preset with fields of ``SellConfig`` replaced by name; refuses unknown names."""
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r}; accepted are {', '.join(PRESETS)}")
    names = {entry.name for entry in fields(SellConfig)}
    unknown = sorted(set(overrides) - names)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such field; accepted are {', '.join(sorted(names - {'preset'}))}")
    return replace(PRESETS[preset], **{**overrides, "preset": preset})


# ------------------------------------------------------------------------------------------- what the agent sees and does
def _observation() -> tuple[Field, ...]:
    rows = [
        Field("net_return", "1", 0.5, -4.0, 10.0, "net return if all that is left were sold now, what was sold before included"),
        Field("realised_return", "1", 0.5, -4.0, 10.0, "net return of what was sold, over the cost of the whole position"),
        Field("share_left", "1", 1.0, 0.0, 1.0, "share of the position still held"),
        Field("move", "ln", 0.5, -10.0, 10.0, "price over the price at entry (ou: in stationary standard deviations)"),
        Field("drawdown", "ln", 0.3, 0.0, 10.0, "highest price since entry over the price"),
        Field("run_up", "ln", 0.5, 0.0, 10.0, "highest price since entry over the price at entry"),
        Field("peak_age", "1", 1.0, 0.0, 1.0, "time since the highest price, as a share of the horizon"),
        Field("time_left", "1", 1.0, 0.0, 1.0, "share of the horizon that is left"),
        Field(f"return_{SHORT}", "ln", 0.1, -10.0, 10.0, f"log return over {SHORT} steps"),
        Field(f"return_{MIDDLE}", "ln", 0.2, -10.0, 10.0, f"log return over {MIDDLE} steps"),
        Field(f"return_{LONG}", "ln", 0.4, -10.0, 10.0, f"log return over {LONG} steps"),
        Field(f"volatility_{SHORT}", "ln per step", 0.05, 0.0, 10.0, f"root of the mean squared log return, {SHORT} steps"),
        Field(f"volatility_{MIDDLE}", "ln per step", 0.05, 0.0, 10.0, f"the same, {MIDDLE} steps"),
        Field(f"volatility_{LONG}", "ln per step", 0.05, 0.0, 10.0, f"the same, {LONG} steps"),
        Field("atr", "ln per step", 0.05, 0.0, 10.0, f"average true range, Wilder's {WILDER} steps"),
        Field("rsi", "1", 0.5, -1.0, 1.0, f"relative strength index, Wilder's {WILDER} steps, less 1/2"),
        Field(f"gap_mean_{MIDDLE}", "ln", 0.2, -10.0, 10.0, f"price over its geometric moving average of {MIDDLE} steps"),
        Field(f"gap_mean_{LONG}", "ln", 0.4, -10.0, 10.0, f"the same, {LONG} steps"),
        Field(
            f"net_flow_{SHORT}", "1 per step", 0.02, -10.0, 10.0, f"buys less sells over the reserve, average of {SHORT} steps"
        ),
        Field(f"net_flow_{MIDDLE}", "1 per step", 0.02, -10.0, 10.0, f"the same, {MIDDLE} steps"),
        Field(f"net_flow_{LONG}", "1 per step", 0.02, -10.0, 10.0, f"the same, {LONG} steps"),
        Field(f"volume_{SHORT}", "1 per step", 0.05, 0.0, 10.0, f"buys and sells over the reserve, average of {SHORT} steps"),
        Field(f"volume_{LONG}", "1 per step", 0.05, 0.0, 10.0, f"the same, {LONG} steps"),
        Field(f"volume_burst_{SHORT}", "ln", 1.0, -4.0, 4.0, f"volume over {SHORT} steps over that over {MIDDLE} steps"),
        Field(
            f"large_flow_{SHORT}", "1 per step", 0.01, -10.0, 10.0, f"net flow of large trades over the reserve, {SHORT} steps"
        ),
        Field(f"large_flow_{MIDDLE}", "1 per step", 0.01, -10.0, 10.0, f"the same, {MIDDLE} steps"),
        Field(f"known_flow_{SHORT}", "1 per step", 0.005, -10.0, 10.0, f"net flow of known profitable traders, {SHORT} steps"),
        Field(f"known_flow_{MIDDLE}", "1 per step", 0.005, -10.0, 10.0, f"the same, {MIDDLE} steps"),
        Field("liquidity_change", "ln", 0.1, -10.0, 10.0, "liquidity added or pulled in the last step"),
        Field(f"liquidity_gap_{MIDDLE}", "ln", 0.1, -10.0, 10.0, f"liquidity over its average of {MIDDLE} steps"),
        Field("impact", "bps", 200.0, 0.0, 10.0, "price impact of selling all that is left now"),
        Field("exit_cost", "bps", 200.0, 0.0, 10.0, "fee, impact and gas of selling all that is left now"),
        Field("log_tvl", "ln quote", 12.0, 0.0, 3.0, "value locked in the pool"),
        Field("log_age", "ln s", 12.0, 0.0, 2.0, "age of the token, 1 s added"),
        Field("log_horizon", "ln s", 12.0, 0.0, 2.0, "the position's whole horizon"),
        Field("congestion", "1", 1.0, 0.0, 10.0, f"volume over {SHORT} steps over that over {LONG}: raises gas and failures"),
        Field("failed", "1", 1.0, 0.0, 1.0, "the last own sale failed"),
        Field("tranches_left", "1", 1.0, 0.0, 1.0, "share of the allowed sales that is left"),
        Field("on_curve", "flag", 1.0, 0.0, 1.0, "the token still trades on its bonding curve"),
        Field("curve_progress", "1", 1.0, 0.0, 1.0, "share of the curve's quote that was raised; 0 off the curve"),
    ]
    for k in range(1, LAGS + 1):
        rows.append(Field(f"return_lag_{k}", "ln", 0.05, -10.0, 10.0, f"log return of the step {k - 1} steps ago"))
    for k in range(1, LAGS + 1):
        rows.append(
            Field(f"imbalance_lag_{k}", "1", 1.0, -1.0, 1.0, f"buys less sells over volume, of the step {k - 1} steps ago")
        )
    return tuple(rows)


OBSERVATION = _observation()

HOLD, ALL = 0.0, 1.0
ORACLE = -1.0  # a share no encoding can express: act with hindsight
ACTION = (Choice("sell_share", "1", (HOLD, 0.25, 0.5, 0.75, ALL), "share to sell of what is left of the position", (HOLD, ALL)),)

INFO = (
    "net_profit",
    "gross_profit",
    "pool_fee",
    "price_impact",
    "gas_cost",
    "revert_cost",
    "oracle_profit",
    "attempted",
    "included",
    "reverted",
    "dropped",
    "unprofitable",
    "notional",
    "sold_share",
    "cost_quote",
    "entry_quote",
    "value_quote",
    "holding_s",
    "exit_policy",
    "exit_timeout",
    "exit_rug",
    "max_drawdown",
    "penalty",
    "phase",
    "bucket",
)
(
    _NET,
    _GROSS,
    _POOL_FEE,
    _IMPACT,
    _GAS_COST,
    _REVERT_COST,
    _ORACLE_PROFIT,
    _ATTEMPTED,
    _INCLUDED,
    _REVERTED,
    _DROPPED,
    _UNPROFITABLE,
    _NOTIONAL,
    _SOLD_SHARE,
    _COST,
    _ENTRY,
    _VALUE,
    _HOLDING,
    _EXIT_POLICY,
    _EXIT_TIMEOUT,
    _EXIT_RUG,
    _MAX_DRAWDOWN,
    _PENALTY,
    _PHASE,
    _BUCKET,
) = range(len(INFO))


# --------------------------------------------------------------------------------------------------------- world and state
class World(NamedTuple):
    """Shared, read-only: a record (1,) of every number, the tape (T, 11), its entries (E, 3): row, token's first and last row."""

    config: NDArray[np.void]
    tape: Floats
    entries: NDArray[np.int64]


STATE = np.dtype(
    [
        *TOKEN_STATE,
        *HISTORY_STATE,
        ("bucket", "i8"),
        ("horizon_blocks", "i8"),
        ("oracle_block", "i8"),  # when hindsight sells; -1 not worked out
        ("oracle_profit", "f8"),
        ("entry", "i8"),  # of the tape's entries
        ("step_s", "f8"),
        ("amount", "f8"),  # base bought
        ("cost", "f8"),  # quote paid, gas included
        ("left", "f8"),  # share
        ("own", "f8"),  # log displacement of the pool's price by own trades
        ("realised", "f8"),  # net profit so far, quote
        ("value", "f8"),  # net proceeds if all that is left were sold now
        ("impact", "f8"),  # of doing so, quote
        ("tranches", "i8"),
        ("failed", "f8"),
        ("entry_log_price", "f8"),
        ("entry_reserve", "f8"),
        ("peak", "f8"),  # highest log price (or level) since entry
        ("peak_block", "i8"),
        ("highest", "f8"),  # alpha: the path's maximum so far
        ("worth", "f8"),  # net profit so far if all that is left were sold now, quote
        ("value_peak", "f8"),  # highest realised profit + value
        ("max_drawdown", "f8"),  # of the position, as a share of its cost
    ],
    align=True,
)


def build_world(config: SellConfig, tape: TokenTape | None = None) -> World:
    """Numbers that the kernels read. A tape's step replaces the simulated one."""
    if tape is not None and config.process != "pool":
        raise ValueError(f"process = {config.process!r}; accepted with a tape is pool")
    values: dict[str, Any] = {
        entry.name: _typed(getattr(config, entry.name), entry.default)
        for entry in fields(config)
        if entry.name not in ("preset", "buckets", "process", "venue", "fee_ppm", "gas_quote")
    }
    venue = VENUES[config.venue]
    values["fee_ppm"] = float(venue.fee_ppm if config.fee_ppm is None else config.fee_ppm)
    values["gas_quote"] = float(venue.cost_quote(config.native_quote) if config.gas_quote is None else config.gas_quote)
    table = np.zeros((5, MAX_BUCKETS))
    for k, bucket in enumerate(config.buckets):
        table[:, k] = bucket.tvl_below_quote, bucket.horizon_s, bucket.position_limit_quote, bucket.flow, bucket.rug
    names = ("bucket_tvl", "bucket_horizon_s", "bucket_limit", "bucket_flow", "bucket_rug")
    values |= dict(zip(names, table, strict=True))
    values |= {
        "bucket_count": len(config.buckets),
        "process": PROCESSES.index(config.process),
        "replay": tape is not None,
        "tape_step_s": 0.0 if tape is None else tape.step_s,
        "step_years": config.horizon_years / config.episode_blocks,
        "level_sd": config.volatility_per_sqrt_year / math.sqrt(2.0 * max(config.reversion_per_year, 1e-12)),
        "phase_flow": (*config.phase_flow, 0.0),
        "phase_imbalance": (*config.phase_imbalance, -0.98),
        "phase_rug": (*config.phase_rug, 0.0),
    }
    rows, entries = np.zeros((1, 11)), np.zeros((1, 3), dtype=np.int64)
    if tape is not None:
        token = np.searchsorted(tape.starts, tape.entries, side="right") - 1
        entries = np.stack([tape.entries, tape.starts[token], tape.starts[token + 1] - 1], axis=1).astype(np.int64)
        rows = np.ascontiguousarray(tape.rows, dtype=np.float64).view()
    rows.flags.writeable = False
    entries.flags.writeable = False
    return World(config_record(values), rows, entries)


def _typed(value: Any, example: Any) -> Any:
    """The value as the example's type of number, so that 0 for 0.0 does not make another record type."""
    return np.asarray(value, dtype=np.float64) if isinstance(example, tuple) else type(example)(value)


# ------------------------------------------------------------------------------------------------------------------ kernels
@kernel
def reset(world: World, s: Any) -> None:
    """Start an episode in state record ``s``; its seed and episode number are set by the engine."""
    c = world.config[0]
    if c.process != POOL:
        _start_textbook(c, s)
    else:
        share = _enter_tape(world, c, s) if c.replay else _enter_simulated(c, s)
        _buy(c, s, share)
    s.oracle_block = -1
    s.oracle_profit = 0.0
    s.left = 1.0
    s.realised = 0.0
    s.tranches = 0
    s.failed = 0.0
    s.peak = s.log_price
    s.entry_log_price = s.log_price
    s.peak_block = 0
    s.highest = s.price
    s.max_drawdown = 0.0
    _value_now(c, s)
    s.worth = s.value - (s.cost if c.process == POOL else 0.0)
    s.value_peak = s.value
    if c.hindsight:
        _foresee(world, c, s)


@part
def _enter_simulated(c: Any, s: Any) -> float:
    """A token is launched and watched for some steps; returns the position as a share of the value locked."""
    tvl_u, phase_u, share_u, wait_u = uniform4(s.seed, s.episode, 0, START_DRAWS)
    tvl = c.tvl_low_quote * (c.tvl_high_quote / c.tvl_low_quote) ** tvl_u
    phase = 0
    while phase < LIVING - 1 and phase_u >= c.phase_start[phase]:
        phase_u -= c.phase_start[phase]
        phase += 1
    start_token(c, s, tvl, phase)
    s.age_s = c.first_age_s
    _choose_bucket(c, s, tvl)
    s.step_s = c.bucket_horizon_s[s.bucket] / c.episode_blocks
    s.horizon_blocks = c.episode_blocks
    start_history(s)
    watched = 1 + int(wait_u * c.warmup_blocks)
    for k in range(watched):
        s.block = k - watched
        next_token(c, s, s.bucket, s.step_s)
        if s.coming_phase == RUGGED:  # a position in a token that is already lost is nobody's decision
            s.coming_phase = s.phase
        see_step(s, True)
    s.block = 0
    s.entry = -1
    return float(c.position_share_low * (c.position_share_high / c.position_share_low) ** share_u)


@part
def _enter_tape(world: World, c: Any, s: Any) -> float:
    """Entry number ``seed`` of the tape, or a random one after a row's first episode; earlier rows warm the history up."""
    entry_u, share_u = uniform2(s.seed, s.episode, 0, ENTRY_DRAWS)
    count = world.entries.shape[0]
    s.entry = s.seed % count if s.episode == 0 else min(int(entry_u * count), count - 1)
    row, first, last = world.entries[s.entry, 0], world.entries[s.entry, 1], world.entries[s.entry, 2]
    s.phase = 0
    s.coming_phase = 0
    s.activity = 0.0
    s.mood = 0.0
    s.tape_row = max(first, row - c.warmup_blocks)
    replay_token(world.tape, s)
    start_history(s)
    while s.tape_row < row:
        s.tape_row += 1
        replay_token(world.tape, s)
        see_step(s, True)
    s.block = 0
    _choose_bucket(c, s, 2.0 * s.reserve)
    s.step_s = c.tape_step_s
    s.horizon_blocks = max(1, min(int(c.bucket_horizon_s[s.bucket] / s.step_s + 0.5), last - row))
    return float(c.position_share_low * (c.position_share_high / c.position_share_low) ** share_u)


@part
def _choose_bucket(c: Any, s: Any, tvl: float) -> None:
    s.bucket = 0
    while s.bucket < c.bucket_count - 1 and tvl >= c.bucket_tvl[s.bucket]:
        s.bucket += 1


@part
def _buy(c: Any, s: Any, share: float) -> None:
    """Buy the position from the pool: fee and impact are paid, and the pool's price stays displaced."""
    notional = min(2.0 * s.reserve * share, c.bucket_limit[s.bucket])
    pool_keeps = notional * (1.0 - c.fee_ppm * 1e-6)
    paid_in = notional / (1.0 + c.curve_fee_ppm * 1e-6) if s.on_curve > 0.5 else pool_keeps
    base = s.reserve / s.price
    s.amount = product_out(paid_in, s.reserve, base)
    s.own = 2.0 * math.log1p(paid_in / s.reserve)
    s.cost = notional + c.gas_quote
    s.entry_reserve = s.reserve


@part
def _start_textbook(c: Any, s: Any) -> None:
    s.entry = -1
    s.block = 0
    s.bucket = 0
    s.phase = 0
    s.coming_phase = 0
    s.age_s = 0.0
    s.step_s = c.step_years * SECONDS_PER_YEAR
    s.horizon_blocks = c.episode_blocks
    level = c.initial_level
    if c.process == OU:
        level = (level - c.mean_level) / c.level_sd
    s.price = 1.0
    s.reserve = 1.0
    s.bought = 0.0
    s.sold = 0.0
    s.large_net = 0.0
    s.known_net = 0.0
    s.on_curve = 0.0
    start_history(s)
    s.price = level
    s.high = level
    s.low = level
    start = level if c.process == OU else math.log(level)
    s.log_price = start
    s.mean_middle = start
    s.mean_long = start
    for k in range(PRICES):
        s.log_prices[k] = start
    s.amount = 1.0
    s.own = 0.0
    s.entry_reserve = 1.0
    s.cost = c.strike if c.process == PUT else 1.0


@kernel
def _proceeds(
    c: Any, amount: float, price: float, reserve: float, own: float, on_curve: float
) -> tuple[float, float, float, float]:
    """Of selling ``amount`` base: quote received, the fee and the price impact in quote, and the pool's displacement after it.

    Constant product x y = k (Uniswap V2, Raydium, PumpSwap: the fee is taken from what goes in) or the bonding curve (the same
    with virtual reserves, the fee is taken from what comes out, and no more comes out than was put in).
    """
    grown = math.exp(0.5 * own)
    quote = reserve * grown
    base = reserve / (price * grown)
    worth = amount * quote / base
    if on_curve > 0.5:
        gross = min(curve_sell(amount, quote, base, 0.0), max(quote - c.curve_start_quote, 0.0))
        fee = gross * c.curve_fee_ppm * 1e-6
        return gross - fee, fee, worth - gross, own + 2.0 * math.log((quote - gross) / quote)
    kept = amount * (1.0 - c.fee_ppm * 1e-6)
    out = product_out(kept, base, quote)
    fee = worth * c.fee_ppm * 1e-6
    return out, fee, worth - fee - out, own + 2.0 * math.log((quote - out) / quote)


@kernel
def _gas(c: Any, s: Any) -> float:
    """Gas of one transaction now, quote."""
    return float(c.gas_quote * max(1.0 + c.gas_congestion * (s.congestion - 1.0), 0.1))


@kernel
def _value_now(c: Any, s: Any) -> None:
    """What selling all that is left would bring now, and its price impact."""
    if c.process != POOL:
        worth = payoff(c, s.price, s.block)
        if c.process == ALPHA:
            worth = worth / s.highest
        s.value = s.left * worth
        s.impact = 0.0
        return
    out, _, impact, _ = _proceeds(c, s.amount * s.left, s.price, s.reserve, s.own, s.on_curve)
    s.value = out - _gas(c, s)
    s.impact = impact


@kernel
def _landing(c: Any, s: Any, price: float, reserve: float) -> tuple[float, float, bool]:
    """Where a sale of the step that just ended lands, on the way from (``price``, ``reserve``) to now: price, reserve, fails."""
    way = min(c.latency_s / s.step_s, 1.0)
    fail_u, _ = uniform2(s.seed, s.episode, s.block, SALE_DRAWS)
    failing = c.fail_probability * max(1.0 + c.fail_congestion * (s.congestion - 1.0), 0.0)
    return price * (s.price / price) ** way, reserve + way * (s.reserve - reserve), fail_u < failing


@kernel
def _move(world: World, c: Any, s: Any) -> None:
    """The market's next step, or the tape's next row; ``s.block`` counts it."""
    s.block += 1
    if c.replay:
        s.tape_row += 1
        replay_token(world.tape, s)
    else:
        next_token(c, s, s.bucket, s.step_s)


@kernel
def _foresee(world: World, c: Any, s: Any) -> None:
    """Hindsight: the step at which one sale of all that is left brings most, net of costs; the state stays as it is.

    Own displacement scales every later price alike, so one sale at the best moment beats any split over moments of equal depth.
    """
    if c.process != POOL:
        _foresee_textbook(c, s)
        return
    price, high, low, reserve, bought, sold = s.price, s.high, s.low, s.reserve, s.bought, s.sold
    large, known, on_curve, age = s.large_net, s.known_net, s.on_curve, s.age_s
    phase, coming, activity, mood, block, row = s.phase, s.coming_phase, s.activity, s.mood, s.block, s.tape_row
    volume_short, volume_long, congestion = s.volume_short, s.volume_long, s.congestion
    amount = s.amount * s.left
    best, when = -1e300, block
    while True:
        start_price, start_reserve, start_curve = s.price, s.reserve, s.on_curve
        _move(world, c, s)
        see_volume(s)
        at, depth, fails = _landing(c, s, start_price, start_reserve)
        if not fails:
            out, _, _, _ = _proceeds(c, amount, at, depth, s.own, start_curve)
            if out - _gas(c, s) > best:
                best = out - _gas(c, s)
                when = s.block - 1
        if _is_over(c, s):
            out, _, _, _ = _proceeds(c, amount, s.price, s.reserve, s.own, s.on_curve)
            if out - _gas(c, s) > best:
                best = out - _gas(c, s)
                when = s.horizon_blocks
            break
    s.oracle_block = when
    s.oracle_profit = s.realised + best - s.cost * s.left
    s.price, s.high, s.low, s.reserve, s.bought, s.sold = price, high, low, reserve, bought, sold
    s.large_net, s.known_net, s.on_curve, s.age_s = large, known, on_curve, age
    s.volume_short, s.volume_long, s.congestion = volume_short, volume_long, congestion
    s.phase, s.coming_phase, s.activity, s.mood, s.block, s.tape_row = phase, coming, activity, mood, block, row


@part
def _foresee_textbook(c: Any, s: Any) -> None:
    level, highest = s.price, s.highest
    best, when = payoff(c, level, s.block), s.block
    for k in range(s.block + 1, s.horizon_blocks + 1):
        level, top = next_level(c, s.seed, s.episode, k, level)
        highest = max(highest, top)
        worth = payoff(c, level, k)
        if worth > best:
            best, when = worth, k
    if c.process == ALPHA:
        best /= highest
    s.oracle_block = when
    s.oracle_profit = s.realised + best * s.left


@kernel
def _is_over(c: Any, s: Any) -> bool:
    """The horizon is reached, or the pool is emptied."""
    return bool(s.block >= s.horizon_blocks or s.reserve < c.rug_reserve_share * s.entry_reserve)


@kernel
def observe(world: World, s: Any, out: NDArray[np.float32]) -> None:
    """Write the observation (D,) in each field's own unit; the engine scales and clips it."""
    c = world.config[0]
    left = 1.0 / max(s.horizon_blocks, 1)
    value = s.value if s.left > 0.0 else 0.0
    pool = c.process == POOL
    costs = s.cost * s.left if pool else 0.0
    out[0] = (s.realised + value - costs) / s.cost
    out[1] = s.realised / s.cost
    out[2] = s.left
    out[3] = s.log_price - s.entry_log_price
    out[4] = s.peak - s.log_price
    out[5] = s.peak - s.entry_log_price
    out[6] = (s.block - s.peak_block) * left
    out[7] = 1.0 - s.block * left
    out[8] = s.log_price - s.log_prices[(s.seen - SHORT + 4 * PRICES) % PRICES]
    out[9] = s.log_price - s.log_prices[(s.seen - MIDDLE + 4 * PRICES) % PRICES]
    out[10] = s.log_price - s.log_prices[(s.seen - LONG + 4 * PRICES) % PRICES]
    out[11] = math.sqrt(s.variance_short)
    out[12] = math.sqrt(s.variance_middle)
    out[13] = math.sqrt(s.variance_long)
    out[14] = s.atr
    out[15] = s.gain / (s.gain + s.loss) - 0.5 if s.gain + s.loss > 0.0 else 0.0
    out[16] = s.log_price - s.mean_middle
    out[17] = s.log_price - s.mean_long
    out[18] = s.flow_short
    out[19] = s.flow_middle
    out[20] = s.flow_long
    out[21] = s.volume_short
    out[22] = s.volume_long
    out[23] = math.log((s.volume_short + 1e-6) / (s.volume_middle + 1e-6))
    out[24] = s.large_short
    out[25] = s.large_middle
    out[26] = s.known_short
    out[27] = s.known_middle
    out[28] = s.depth_change
    out[29] = s.log_depth - s.depth_middle
    worth = s.amount * s.left * s.price * math.exp(s.own) if pool else 0.0
    out[30] = 1e4 * s.impact / worth if worth > 0.0 else 0.0
    out[31] = 1e4 * (worth - value) / worth if worth > 0.0 else 0.0
    out[32] = math.log(2.0 * s.reserve) if pool else 0.0
    out[33] = math.log(1.0 + s.age_s)
    out[34] = math.log(s.horizon_blocks * s.step_s)
    out[35] = s.congestion
    out[36] = s.failed
    out[37] = 1.0 - s.tranches / c.max_tranches
    out[38] = s.on_curve
    out[39] = (s.reserve - c.curve_start_quote) / (c.curve_end_quote - c.curve_start_quote) if s.on_curve > 0.5 else 0.0
    later = s.log_price
    for k in range(LAGS):
        earlier = s.log_prices[(s.seen - 1 - k + 4 * PRICES) % PRICES]
        out[40 + k] = later - earlier
        later = earlier
        out[40 + LAGS + k] = s.imbalances[(s.seen - 1 - k + 4 * PRICES) % LAGS]


@kernel
def step(world: World, s: Any, decision: Floats, info: Floats) -> tuple[float, bool, bool]:
    """One step; ``decision`` (1,) is the share to sell, ``info`` (len(INFO),) is filled: (reward, terminated, truncated)."""
    c = world.config[0]
    for k in range(len(info)):
        info[k] = 0.0
    if s.left <= 1e-12:  # sold already, and stepped on without a reset: nothing is left to move on
        return 0.0, True, False
    share = decision[0]
    hindsight = share == ORACLE
    if hindsight:
        if s.oracle_block < 0:
            _foresee(world, c, s)
        share = ALL if s.block == s.oracle_block else HOLD
    elif share < c.least_share:
        share = HOLD
    elif s.tranches >= c.max_tranches - 1:
        share = ALL
    held = s.left
    info[_PHASE] = s.phase
    info[_BUCKET] = s.bucket
    info[_COST] = s.cost
    if c.process == POOL:
        _market_step(world, c, s, share, info)
    else:
        _textbook_step(c, s, share, info)
    over = s.left <= 1e-12
    _value_now(c, s)
    if over:
        s.value = 0.0
    worth = s.realised + s.value - (s.cost * s.left if c.process == POOL else 0.0)
    s.value_peak = max(s.value_peak, worth + s.cost)
    drawdown = (s.value_peak - worth - s.cost) / s.cost
    deeper = max(drawdown - s.max_drawdown, 0.0)
    s.max_drawdown += deeper
    info[_VALUE] = s.value
    info[_HOLDING] = held * s.step_s
    info[_PENALTY] = (c.holding_penalty_per_hour * held * s.step_s / 3600.0 + c.drawdown_penalty * deeper) * s.cost
    if over:
        info[_ENTRY] = s.cost
        info[_MAX_DRAWDOWN] = s.max_drawdown
        if c.hindsight or hindsight:
            info[_ORACLE_PROFIT] = s.oracle_profit
    if info[_NET] < 0.0 and info[_ATTEMPTED] > 0.0:
        info[_UNPROFITABLE] = 1.0
    gain = worth - s.worth if c.mark_to_market else info[_NET]
    s.worth = worth
    return (gain - info[_PENALTY]) / s.cost, over, False


@part
def _market_step(world: World, c: Any, s: Any, share: float, info: Floats) -> None:
    """The market moves, the sale lands or fails, and whatever is left at the end of the road is sold."""
    price, reserve, on_curve = s.price, s.reserve, s.on_curve
    _move(world, c, s)
    see_step(s, True)
    if s.log_price > s.peak:
        s.peak = s.log_price
        s.peak_block = s.block
    if share > 0.0:
        info[_ATTEMPTED] = 1.0
        at, depth, fails = _landing(c, s, price, reserve)
        s.failed = 0.0
        if fails:
            s.failed = 1.0
            info[_REVERTED] = 1.0
            cost = c.fail_gas_share * _gas(c, s)
            info[_REVERT_COST] += cost
            info[_NET] -= cost
            s.realised -= cost
        else:
            info[_INCLUDED] = 1.0
            s.tranches += 1
            info[_EXIT_POLICY] += _sell(c, s, share, at, depth, on_curve, info)
    if s.left > 1e-12 and _is_over(c, s):
        reason = _EXIT_TIMEOUT if s.block >= s.horizon_blocks else _EXIT_RUG
        info[reason] += _sell(c, s, ALL, s.price, s.reserve, s.on_curve, info)


@kernel
def _sell(c: Any, s: Any, share: float, price: float, reserve: float, on_curve: float, info: Floats) -> float:
    """Sell a share of what is left; returns it as a share of the whole position."""
    part_sold = s.left * share
    out, fee, impact, own = _proceeds(c, s.amount * part_sold, price, reserve, s.own, on_curve)
    gas = _gas(c, s)
    paid = s.cost * part_sold
    info[_GROSS] += out + fee + impact - paid
    info[_POOL_FEE] += fee
    info[_IMPACT] += impact
    info[_GAS_COST] += gas
    info[_NET] += out - gas - paid
    info[_NOTIONAL] += out
    info[_SOLD_SHARE] += part_sold
    s.realised += out - gas - paid
    s.own = own
    s.left = s.left - part_sold if share < ALL else 0.0
    return float(part_sold)


@part
def _textbook_step(c: Any, s: Any, share: float, info: Floats) -> None:
    """Sell at the price that was seen, at no cost; then the price moves, and at the horizon what is left is sold."""
    if share > 0.0:
        info[_ATTEMPTED] = 1.0
        info[_INCLUDED] = 1.0
        s.tranches += 1
        info[_EXIT_POLICY] += _settle(c, s, share, info)
    if s.left <= 1e-12:
        s.block += 1
        return
    s.block += 1
    s.price, top = next_level(c, s.seed, s.episode, s.block, s.price)
    s.highest = max(s.highest, top)
    s.high = s.price
    s.low = s.price
    s.age_s += s.step_s
    see_step(s, c.process != OU)
    if s.log_price > s.peak:
        s.peak = s.log_price
        s.peak_block = s.block
    if s.block >= s.horizon_blocks:
        info[_EXIT_TIMEOUT] += _settle(c, s, ALL, info)


@kernel
def _settle(c: Any, s: Any, share: float, info: Floats) -> float:
    """A textbook sale: its payoff; under ``alpha`` over the maximum that the path will have had, drawn now that it is sold."""
    part_sold = s.left * share
    worth = payoff(c, s.price, s.block)
    if c.process == ALPHA:
        worth /= highest_by_horizon(c, s.seed, s.episode, s.block, s.price, s.highest)
    gain = part_sold * worth
    info[_GROSS] += gain
    info[_NET] += gain
    info[_NOTIONAL] += gain
    info[_SOLD_SHARE] += part_sold
    s.realised += gain
    s.left = s.left - part_sold if share < ALL else 0.0
    return float(part_sold)


def _baselines() -> dict[str, Any]:
    from arbgym.envs.sell_baselines import BASELINES

    return BASELINES


DEFINITION = Definition(
    id="ArbSell-v0",
    version=0,
    observation=OBSERVATION,
    action=ACTION,
    info=INFO,
    state=STATE,
    configure=preset_config,
    presets=tuple(PRESETS),
    build_world=build_world,
    reset=reset,
    observe=observe,
    step=step,
    baselines=_baselines,
    reward_parts=("gross_profit", "pool_fee", "price_impact", "gas_cost", "revert_cost"),
)


if __name__ == "__main__":
    from arbgym.engine import print_speed

    print_speed(DEFINITION)
