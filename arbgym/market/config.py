"""The market's numbers that every environment with pools shares: what a configuration holds and what kernels read of it.

``MarketConfig`` has the chain, pools, lenders, reference price, order flow, gas and rivals; an environment's own
configuration inherits it and adds its own numbers. ``market_record`` turns one into the record that kernels take as ``c``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, ClassVar, TypeVar

import numpy as np

from arbgym.amm.ranges import Floats, constant_product_table
from arbgym.market.auction import MAX_RIVALS
from arbgym.market.chain import CHAINS, Chain
from arbgym.market.lender import LENDERS, MAX_LENDERS, Lender
from arbgym.market.pools import MAX_POOLS, POOL_KINDS, concentrated_profile, pool_tables

if TYPE_CHECKING:
    from arbgym.market.tape import Tape

C = TypeVar("C", bound="MarketConfig")


@dataclass(frozen=True)
class PoolConfig:
    """One pool: kind v2 | v3 | reference, fee in parts per million of the input, value locked at the start."""

    kind: str
    fee_ppm: float
    tvl_quote: float
    width_bps: float = 150.0  # v3: standard deviation of the liquidity's bell in log price
    range_bps: float = 20.0  # v3: width of one liquidity range
    ranges_each_side: int = 40

    def __post_init__(self) -> None:
        if self.kind not in POOL_KINDS:
            raise ValueError(f"PoolConfig.kind = {self.kind!r}; accepted are {', '.join(POOL_KINDS)}")
        if not 0.0 <= self.fee_ppm < 1e6:
            raise ValueError(f"PoolConfig.fee_ppm = {self.fee_ppm}; accepted is 0 up to below 1e6")
        if not 0.0 < self.tvl_quote < 1e15:
            raise ValueError(f"PoolConfig.tvl_quote = {self.tvl_quote}; accepted is a positive number below 1e15")
        for name in ("width_bps", "range_bps"):
            if not 0.0 < getattr(self, name) <= 10_000.0:
                raise ValueError(f"PoolConfig.{name} = {getattr(self, name)}; accepted is above 0 up to 10000")
        if not 1 <= self.ranges_each_side <= 1_000:
            raise ValueError(f"PoolConfig.ranges_each_side = {self.ranges_each_side}; accepted is 1 to 1000")


@dataclass(frozen=True)
class MarketConfig:
    """What moves around the agent. Units are in the names; per-chain numbers are in ``chain``."""

    preset: str = "ethereum"
    chain: Chain = CHAINS["ethereum"]
    pools: tuple[PoolConfig, ...] = (
        PoolConfig("v2", 3_000.0, 40e6),
        PoolConfig("v3", 500.0, 20e6, 120.0),
        PoolConfig("v2", 3_000.0, 8e6),
        PoolConfig("v3", 3_000.0, 10e6, 300.0, 60.0, 30),
    )
    lenders: tuple[Lender, ...] = LENDERS
    # reference price
    initial_price_quote: float = 1_840.0  # USDC per WETH
    volatility_per_sqrt_day: float = 0.03
    drift_per_day: float = 0.0  # of the log price
    reversion_per_day: float = 0.0
    jump_rate_per_day: float = 4.0
    jump_sd: float = 0.006
    poisson_blocks: bool = False  # exponential instead of fixed block intervals
    # order flow
    trade_probability: float = 0.6  # of a noise trade per pool and block
    trade_median_share: float = 0.001  # median trade as a share of the pool's value locked
    trade_log_sd: float = 0.6
    flow_ahead_share: float = 0.08  # of noise trades that land before the top-of-block auction
    # gas
    gas_overhead: float = 47_000.0  # transaction, executor and transfers around the legs
    gas_v2: float = 52_500.0
    gas_v3: float = 60_500.0
    gas_per_tick: float = 21_400.0
    revert_gas_share: float = 0.757  # 114,944 / 151,996
    demand_reversion: float = 0.02  # per block, of the log gas demand to the typical base fee
    demand_sd: float = 0.06  # per block
    demand_response: float = 0.5  # fullness per unit of log demand over base fee
    # rivals
    rival_counts: tuple[float, float, float] = (2.0, 3.0, 5.0)
    rival_shares: tuple[float, float, float] = (0.3, 0.6, 0.9)
    regime_blocks: float = 100.0
    rival_share_sd: float = 0.2  # logit standard deviation of one rival's bid share within its regime
    rival_value_sd: float = 0.10  # log standard deviation of what a rival makes of the same gap
    losing_bid_visibility: float = 0.8
    # lenders
    lender_close_probability: float = 0.004  # per block: fully borrowed or paused
    lender_open_probability: float = 0.05  # per block
    # session
    episode_blocks: int = 200
    revert_budget_quote: float = 2_000.0
    reward_scale_quote: float = 50.0
    # replay
    restore_share: float = 0.5  # of the agent's own impact on a pool that others trade away per row

    least_pools: ClassVar[int] = 2
    shares: ClassVar[tuple[str, ...]] = (
        "trade_probability",
        "flow_ahead_share",
        "revert_gas_share",
        "demand_reversion",
        "losing_bid_visibility",
        "lender_close_probability",
        "lender_open_probability",
        "restore_share",
    )
    not_negative: ClassVar[tuple[str, ...]] = (
        "volatility_per_sqrt_day",
        "reversion_per_day",
        "jump_rate_per_day",
        "jump_sd",
        "trade_median_share",
        "trade_log_sd",
        "gas_overhead",
        "gas_v2",
        "gas_v3",
        "gas_per_tick",
        "demand_sd",
        "demand_response",
        "rival_share_sd",
        "rival_value_sd",
    )
    positive: ClassVar[tuple[str, ...]] = ("initial_price_quote", "revert_budget_quote", "reward_scale_quote")

    def __post_init__(self) -> None:
        if not self.least_pools <= len(self.pools) <= MAX_POOLS:
            raise ValueError(f"pools: {len(self.pools)} given; accepted are {self.least_pools} to {MAX_POOLS}")
        if not 1 <= len(self.lenders) <= MAX_LENDERS:
            raise ValueError(f"lenders: {len(self.lenders)} given; accepted are 1 to {MAX_LENDERS}")
        for name in self.shares:
            require(name, getattr(self, name), 0.0, 1.0)
        for name in self.not_negative:
            require(name, getattr(self, name), 0.0, 1e12)
        for name in self.positive:
            if not 0.0 < getattr(self, name) <= 1e12:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is above 0 up to 1e12")
        require("drift_per_day", self.drift_per_day, -10.0, 10.0)
        for name in ("private_inclusion", "public_inclusion", "sandwich_probability"):
            require(f"chain.{name}", getattr(self.chain, name), 0.0, 1.0)
        for name in ("block_time_s", "base_fee_gwei"):
            if not 0.0 < getattr(self.chain, name) < 1e7:
                raise ValueError(f"chain.{name} = {getattr(self.chain, name)}; accepted is above 0 up to 1e7")
        for name, most in (("elasticity", 1_000), ("base_fee_denominator", 10**6), ("gas_limit", 2**40)):
            value = getattr(self.chain, name)
            if not 1 <= value <= most or (name == "gas_limit" and value < self.chain.elasticity):
                raise ValueError(f"chain.{name} = {value}; accepted is 1 to {most}, and a gas limit of at least the elasticity")
        for share in self.rival_shares:
            if not 0.0 < share < 1.0:
                raise ValueError(f"rival_shares = {self.rival_shares}; accepted are three shares strictly between 0 and 1")
        for count in self.rival_counts:
            if not 0.0 <= count <= MAX_RIVALS:
                raise ValueError(f"rival_counts = {self.rival_counts}; accepted are three means from 0 to {MAX_RIVALS}")
        if self.regime_blocks < 1.0:
            raise ValueError(f"regime_blocks = {self.regime_blocks}; accepted is 1 or more")
        if not 1 <= self.episode_blocks <= 1_000_000:
            raise ValueError(f"episode_blocks = {self.episode_blocks}; accepted is 1 to 1000000")


def require(name: str, value: float, low: float, high: float) -> None:
    """Refuse a number outside [low, high] by its field's name."""
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}; accepted is {low:g} to {high:g}")


def choose(presets: Mapping[str, C], preset: str, overrides: dict[str, Any]) -> C:
    """A preset with fields of its configuration or of its ``Chain`` replaced by name; refuses unknown names."""
    if preset not in presets:
        raise ValueError(f"preset = {preset!r}; accepted are {', '.join(presets)}")
    config = presets[preset]
    own = {entry.name for entry in fields(config)}
    of_chain = {entry.name for entry in fields(Chain)}
    unknown = sorted(set(overrides) - own - of_chain)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such field; accepted are {', '.join(sorted((own | of_chain) - {'preset'}))}")
    chain = replace(overrides.pop("chain", config.chain), **{k: v for k, v in overrides.items() if k in of_chain})
    return replace(config, **{k: v for k, v in overrides.items() if k in own}, chain=chain, preset=preset)


def market_values(config: MarketConfig, tape: Tape | None = None) -> dict[str, Any]:
    """Every number and pool table that kernels read, by name; with a tape, its pools replace the configured ones.

    Takes each number of the configuration and of its chain; words (``preset``, names of modes) are left to the caller.
    """
    chain, default = config.chain, type(config)()
    values: dict[str, Any] = {
        entry.name: _typed(getattr(config, entry.name), getattr(default, entry.name))
        for entry in fields(config)
        if entry.name not in ("chain", "pools", "lenders") and not isinstance(getattr(default, entry.name), str)
    }
    values |= {
        entry.name: _typed(getattr(chain, entry.name), getattr(CHAINS["ethereum"], entry.name))
        for entry in fields(Chain)
        if entry.name != "name"
    }
    limits = np.zeros(MAX_LENDERS)
    loan_fees, loan_gas, first_leg = np.zeros(MAX_LENDERS), np.zeros(MAX_LENDERS), np.zeros(MAX_LENDERS, dtype=np.int64)
    for k, lender in enumerate(config.lenders):
        limits[k], loan_fees[k], loan_gas[k] = lender.limit_quote, lender.fee_bps * 1e-4, lender.gas_used
        first_leg[k] = lender.first_leg
    pool_scale = np.zeros(MAX_POOLS)
    if tape is None:
        tables, kinds, fees = [], [], []
        for k, pool in enumerate(config.pools):
            concentrated = pool.kind == "v3"
            tables.append(
                concentrated_profile(
                    config.initial_price_quote, pool.tvl_quote, pool.ranges_each_side, pool.range_bps, pool.width_bps
                )
                if concentrated
                else constant_product_table()
            )
            kinds.append(POOL_KINDS.index(pool.kind))
            fees.append(pool.fee_ppm)
            pool_scale[k] = 1.0 if concentrated else 0.5 * pool.tvl_quote / math.sqrt(config.initial_price_quote)
        tvl = np.array([pool.tvl_quote for pool in config.pools])
    else:
        tables = [constant_product_table() for _ in tape.pools]
        kinds = [POOL_KINDS.index(pool.kind) for pool in tape.pools]
        fees = [pool.fee_ppm for pool in tape.pools]
        tvl = np.zeros(len(tape.pools))
    values |= {
        "replay": tape is not None,
        "gas_target": chain.gas_limit // chain.elasticity,
        "log_initial_price": math.log(config.initial_price_quote),
        "log_typical_gwei": math.log(chain.base_fee_gwei),
        "rival_optimism": math.exp(8.0 * config.rival_value_sd),  # nobody's view of a value is higher than this many times it
        "pool_count": len(tables),
        "pool_scale": pool_scale,
        "pool_tvl": np.concatenate([tvl, np.zeros(MAX_POOLS - len(tvl))]),
        "lender_count": len(config.lenders),
        "lender_limit": limits,
        "loan_fee": loan_fees,
        "loan_gas": loan_gas,
        "first_leg": first_leg,
    }
    values |= pool_tables(tables, kinds, fees, MAX_POOLS)._asdict()
    return values


def tape_rows(tape: Tape | None) -> Floats:
    """The rows that a replay's kernels read, (T, 2 + 3 K), or (1, 1) without a tape; read-only, as a mapped file's are."""
    rows: Floats = np.zeros((1, 1)) if tape is None else tape.array().view()
    rows.flags.writeable = False
    return rows


def _typed(value: Any, example: Any) -> Any:
    """The value as the example's type of number, so that 0 for 0.0 does not make another record type."""
    if isinstance(example, tuple):
        return tuple(float(entry) for entry in value)
    return type(example)(value)
