"""ArbFlash-v0: atomic arbitrage between pools with a flash loan, against rivals, gas and reverts.

Problem
    One pair (base/quote, WETH/USDC), up to four pools of different kinds and fees. Trades push the pools apart; whoever buys in
    the cheap pool and sells in the dear one within one transaction keeps the difference, funded by a flash loan. The size is
    closed-form; what has to be learned is whether to try, how much of the gain to bid for inclusion, how much slippage to
    accept, whom to borrow from and where to send it.

One step
    One step is one block. The agent decides on what it saw at the end of block n (its predicted profit, size and route are
    fixed then). In block n + 1, in this order:

    1. trades that got ahead of it (``flow_ahead_share`` of the noise trades) hit the pools;
    2. rivals, whose number and bid shares depend on a hidden regime that lasts ``regime_blocks`` on average, bid for the gap of
       block n; the best private bid, the agent's included, trades first at the top of the block. A private transaction that
       no longer meets its minimum profit is dropped at no cost (or reverts and pays, on chains without revert protection);
    3. public transactions follow, ordered by what they pay; one that no longer meets its minimum profit reverts and pays its
       gas and priority fee. A public transaction that leaves slack may be sandwiched down to its minimum profit;
    4. the reference price moves, the other noise trades land, arbitrageurs of the reference price visit some pools, the base
       fee follows EIP-1559 on the block's gas, rivals' regime and lenders' liquidity move on;
    5. the agent sees the end of block n + 1, and the best rival bid share with probability ``losing_bid_visibility``
    (always if it
       landed).

Actions (multidiscrete; ``discrete`` enumerates the flat values, ``continuous`` is a box in [-1, 1]^6)
    see ``ACTION`` below or ``python -m arbgym info ArbFlash-v0``: route, size_share, bid_share, tolerance, lender, channel.

Observations
    see ``OBSERVATION`` below or ``python -m arbgym info ArbFlash-v0``: name, unit, scale, range, meaning.

Reward
    Net profit of the block in quote currency over ``reward_scale_quote``: gross profit - pool fees - loan fee - gas - tip -
    cost of reverts. ``info`` has each part, and ``oracle_profit``, the most that hindsight could have made in this block.

Episode end
    ``terminated`` after ``episode_blocks`` blocks (a trading session; the share left is observed) or once the gas
    lost to reverts exceeds ``revert_budget_quote``. ``truncated`` only when a recorded tape ends first.

Arguments
    preset: ethereum (default), arbitrum, optimism, base, polygon, bsc, auction, all_pay, lvr; action: multidiscrete
    (default), discrete, continuous; feed: simulated (default) or replay with tape = a Tape; any field of
    ``FlashConfig`` or of its ``Chain`` by name.

Baselines
    wait, rule, tuned_rule, history_rule and oracle: see ``arbgym.envs.flash_baselines``.

Sources
    DESIGN: the block's order. Gas: executions of the real contracts (V2-V2 flash arbitrage 151,996 gas, V3-V2 160,091, a
    refused one 114,944, 21.4k per crossed tick). Chains and lenders: ``arbgym.market.chain``, ``arbgym.market.lender``. Theory:
    arXiv 2305.14604 (arbitrage profit with fees), Krishna, Auction Theory (bids).

Versions
    v0: first.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.ranges import Floats, constant_product_table
from arbgym.amm.route import cycle_edge
from arbgym.engine import Definition, config_record
from arbgym.jit import kernel, part
from arbgym.market.auction import equilibrium_bid, logit_normal, poisson_count, race_key
from arbgym.market.chain import CHAINS, Chain
from arbgym.market.gas import block_fullness, log_gwei, next_base_fee
from arbgym.market.lender import ANY_POOL, V2_FIRST, V3_FIRST, Lender
from arbgym.market.pools import (
    CONCENTRATED,
    CONSTANT_PRODUCT,
    POOL_KINDS,
    REFERENCE,
    arbitrage_to,
    best_routes,
    concentrated_profile,
    pool_tables,
    quote_cycle,
    quote_sell,
    set_price,
    size_route,
    swap_buy,
    swap_cycle,
    swap_sell,
)
from arbgym.market.price import block_interval, log_price_step
from arbgym.rng import normal2, normal2_from, uniform2, uniform4
from arbgym.spec import Choice, Field

if TYPE_CHECKING:
    from arbgym.market.tape import Tape

MAX_POOLS = 4
MAX_LENDERS = 6
MAX_RIVALS = 12
SECONDS_PER_DAY = 86_400.0


def _constants(values: Sequence[int]) -> Any:
    """NumPy scalars: Numba compiles a kernel anew for each literal that it is called with."""
    return tuple(np.array(values))


# Streams of the random numbers within one block.
_PRICE, _EVENTS, _JUMP, _RIVALS, _SUBMIT, _ORDER, _START, _FLOW, _INFORMED = _constants(range(9))
_FLOW_SIZE, _RIVAL = _constants((16, 32))
_FIRST_BLOCK, _NO_TICKS = _constants((0, 0))
_BEFORE, _AFTER = _constants((True, False))
(_SEEN,) = _constants((True,))


# --------------------------------------------------------------------------------------------------------- configuration
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


_FLASH_SWAPS = (
    Lender("uniswap_v2_flash_swap", 0.0, 1e12, 0.0, V2_FIRST, "credit of the first leg's own pool"),
    Lender("uniswap_v3_flash_swap", 0.0, 1e12, 0.0, V3_FIRST, "credit of the first leg's own pool"),
)
_AAVE = Lender("aave_v3", 5.0, 50e6, 141_954.0, ANY_POOL, "npm @aave/core-v3 1.19.3 executed: 162,954 gas less 21,000")
_BALANCER = Lender("balancer_v2", 0.0, 20e6, 38_000.0, ANY_POOL, "docs.balancer.fi; Jeiwan/flash-loans-comparison, warm")
_MAKER = Lender("maker", 0.0, 500e6, 180_000.0, ANY_POOL, "dss-flash; gas with the DAI swap both ways: assumption")
_MORPHO = Lender("morpho_blue", 0.0, 30e6, 40_000.0, ANY_POOL, "docs.morpho.org; gas: assumption, as Balancer's singleton")
LENDERS = (*_FLASH_SWAPS, _BALANCER, _MORPHO, _AAVE, _MAKER)


@dataclass(frozen=True)
class FlashConfig:
    """Every number of the world. Presets: ``preset_config``; per-chain numbers are in ``chain``."""

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
    informed_probability: float = 0.25  # that a pool is traded back to the reference price's fee band in a block
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
    rival_public_share: float = 0.15  # of rivals that use the public mempool
    losing_bid_visibility: float = 0.8
    # lenders
    lender_close_probability: float = 0.004  # per block: fully borrowed or paused
    lender_open_probability: float = 0.05  # per block
    # session
    episode_blocks: int = 200
    revert_budget_quote: float = 2_000.0
    reward_scale_quote: float = 50.0
    # bidding alone
    auction: Literal["none", "first_price", "all_pay"] = "none"
    auction_bidders: int = 4  # the agent included
    auction_value_quote: float = 100.0  # upper end of the uniform values
    # replay
    restore_share: float = 0.5  # of the agent's own impact on a pool that others trade away per row

    def __post_init__(self) -> None:
        if not 2 <= len(self.pools) <= MAX_POOLS:
            raise ValueError(f"pools: {len(self.pools)} given; accepted are 2 to {MAX_POOLS}")
        if not 1 <= len(self.lenders) <= MAX_LENDERS:
            raise ValueError(f"lenders: {len(self.lenders)} given; accepted are 1 to {MAX_LENDERS}")
        for name in _SHARES:
            _require(name, getattr(self, name), 0.0, 1.0)
        for name in _NOT_NEGATIVE:
            _require(name, getattr(self, name), 0.0, 1e12)
        for name in _POSITIVE:
            if not 0.0 < getattr(self, name) <= 1e12:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is above 0 up to 1e12")
        _require("drift_per_day", self.drift_per_day, -10.0, 10.0)
        for name in ("private_inclusion", "public_inclusion", "sandwich_probability"):
            _require(f"chain.{name}", getattr(self.chain, name), 0.0, 1.0)
        for name in ("block_time_s", "base_fee_gwei"):
            if not 0.0 < getattr(self.chain, name) < 1e7:
                raise ValueError(f"chain.{name} = {getattr(self.chain, name)}; accepted is above 0 up to 1e7")
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
        if self.auction not in _AUCTIONS:
            raise ValueError(f"auction = {self.auction!r}; accepted are {', '.join(_AUCTIONS)}")
        if not 2 <= self.auction_bidders <= MAX_RIVALS + 1:
            raise ValueError(f"auction_bidders = {self.auction_bidders}; accepted is 2 to {MAX_RIVALS + 1}")


_AUCTIONS = ("none", "first_price", "all_pay")
_SHARES = (
    "trade_probability",
    "flow_ahead_share",
    "informed_probability",
    "revert_gas_share",
    "demand_reversion",
    "rival_public_share",
    "losing_bid_visibility",
    "lender_close_probability",
    "lender_open_probability",
    "restore_share",
)
_NOT_NEGATIVE = (
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
_POSITIVE = ("initial_price_quote", "revert_budget_quote", "reward_scale_quote", "auction_value_quote")


def _require(name: str, value: float, low: float, high: float) -> None:
    if not low <= value <= high:
        raise ValueError(f"{name} = {value}; accepted is {low:g} to {high:g}")


_L2_POOLS = (
    PoolConfig("v3", 500.0, 6e6, 100.0),
    PoolConfig("v3", 3_000.0, 3e6, 250.0, 60.0, 30),
    PoolConfig("v2", 3_000.0, 1.5e6),
    PoolConfig("v3", 100.0, 1e6, 60.0, 10.0, 40),
)
_L2 = FlashConfig(
    pools=_L2_POOLS,
    lenders=(*_FLASH_SWAPS, _BALANCER, _AAVE),
    trade_probability=0.10,
    trade_median_share=0.0008,
    informed_probability=0.10,
    flow_ahead_share=0.2,
    revert_budget_quote=200.0,
    reward_scale_quote=5.0,
)
_AUCTION = FlashConfig(
    chain=replace(
        CHAINS["ethereum"],
        base_fee_gwei=1e-9,
        fullness_sd=0.0,
        private_inclusion=1.0,
        public_inclusion=1.0,
        sandwich_probability=0.0,
        ordering_noise=0.0,
    ),
    auction="first_price",
    demand_sd=0.0,
    demand_response=0.0,
    trade_probability=0.0,
    informed_probability=0.0,
    reward_scale_quote=10.0,
    revert_budget_quote=1e12,
    revert_gas_share=1.0,
    episode_blocks=64,
)
PRESETS: dict[str, FlashConfig] = {
    "ethereum": FlashConfig(),
    "arbitrum": replace(_L2, chain=CHAINS["arbitrum"], trade_probability=0.03, informed_probability=0.03),
    "optimism": replace(_L2, chain=CHAINS["optimism"]),
    "base": replace(_L2, chain=CHAINS["base"]),
    "polygon": replace(_L2, chain=CHAINS["polygon"]),
    "bsc": replace(_L2, chain=CHAINS["bsc"], trade_probability=0.05, informed_probability=0.05),
    # bidding alone against n - 1 rivals with uniform values who play the equilibrium: the truth for the learner (Krishna)
    "auction": _AUCTION,
    "all_pay": replace(_AUCTION, auction="all_pay"),
    # one V2 pool against a deep free venue at the reference price, no rivals, no gas: loss-versus-rebalancing with fees
    "lvr": FlashConfig(
        chain=replace(
            CHAINS["ethereum"],
            base_fee_gwei=1e-9,
            fullness_sd=0.0,
            private_inclusion=1.0,
            ordering_noise=0.0,
        ),
        pools=(PoolConfig("v2", 3_000.0, 1e6), PoolConfig("reference", 0.0, 1e13)),
        lenders=(Lender("free", 0.0, 1e15, 0.0),),
        volatility_per_sqrt_day=0.05,
        jump_rate_per_day=0.0,
        demand_sd=0.0,
        demand_response=0.0,
        trade_probability=0.0,
        informed_probability=0.0,
        rival_counts=(0.0, 0.0, 0.0),
        lender_close_probability=0.0,
        episode_blocks=1_000,
    ),
}


def preset_config(preset: str = "ethereum", **overrides: Any) -> FlashConfig:
    """A preset with fields of ``FlashConfig`` or of its ``Chain`` replaced by name; refuses unknown names."""
    if preset not in PRESETS:
        raise ValueError(f"preset = {preset!r}; accepted are {', '.join(PRESETS)}")
    own = {entry.name for entry in fields(FlashConfig)}
    of_chain = {entry.name for entry in fields(Chain)}
    unknown = sorted(set(overrides) - own - of_chain)
    if unknown:
        raise ValueError(f"{unknown[0]}: no such field; accepted are {', '.join(sorted((own | of_chain) - {'preset'}))}")
    config = PRESETS[preset]
    chain = replace(overrides.pop("chain", config.chain), **{k: v for k, v in overrides.items() if k in of_chain})
    return replace(config, **{k: v for k, v in overrides.items() if k in own}, chain=chain, preset=preset)


# ------------------------------------------------------------------------------------------- what the agent sees and does
def _observation() -> tuple[Field, ...]:
    rows = [
        Field("edge", "bps", 100.0, 0.0, 10.0, "relative price difference of the best route, net of pool fees"),
        Field("log_profit", "ln(1 + quote)", 5.0, 0.0, 4.0, "best route's profit after pool fees, before loan, gas and tip"),
        Field("log_notional", "ln(1 + quote)", 10.0, 0.0, 2.0, "best route's closed-form size"),
        Field("ticks_crossed", "1", 4.0, 0.0, 4.0, "range ends the best route crosses"),
        Field("gas_share", "1", 1.0, 0.0, 4.0, "gas cost of the best route over its profit"),
        Field("loan_bps", "bps", 10.0, 0.0, 10.0, "cheapest loan of the best route, its fee"),
        Field("first_leg_v2", "flag", 1.0, 0.0, 1.0, "best route buys in a constant-product pool"),
        Field("second_leg_v2", "flag", 1.0, 0.0, 1.0, "best route sells in a constant-product pool"),
        Field("second_profit_share", "1", 1.0, 0.0, 1.0, "second-best route's profit over the best route's"),
        Field("log_base_fee", "ln gwei", 5.0, -3.0, 3.0, "base fee of the next block"),
        Field("fullness", "1", 1.0, 0.0, 1.0, "gas used by the last block over its limit"),
        Field("bid_last", "1", 1.0, 0.0, 2.0, "best rival bid last seen, as a share of that gap's profit"),
        Field("bid_fast", "1", 1.0, 0.0, 2.0, "moving average of seen bid shares, weight 0.4"),
        Field("bid_slow", "1", 1.0, 0.0, 2.0, "moving average of seen bid shares, weight 0.1"),
        Field("bid_spread", "1", 1.0, 0.0, 2.0, "moving average of absolute deviations from bid_slow, weight 0.1"),
        Field("bid_age", "ln(1 + blocks)", 4.0, 0.0, 2.0, "blocks since a bid was seen"),
        Field("rivals_seen", "count", 4.0, 0.0, 4.0, "moving average of rival transactions seen per gap, weight 0.2"),
        Field("won", "flag", 1.0, 0.0, 1.0, "own transaction succeeded in the last block"),
        Field("dropped", "flag", 1.0, 0.0, 1.0, "own transaction was dropped in the last block"),
        Field("reverted", "flag", 1.0, 0.0, 1.0, "own transaction reverted in the last block"),
        Field("own_bid", "1", 1.0, 0.0, 1.0, "own bid share in the last block, 0 if waited"),
        Field("sandwiched", "1", 1.0, 0.0, 1.0, "moving average of sandwiches suffered by own public transactions"),
        Field("volatility", "bps per block", 20.0, 0.0, 10.0, "moving average of absolute log returns of the reference price"),
        Field("return", "bps", 20.0, -10.0, 10.0, "last log return of the reference price"),
        Field("session_left", "1", 1.0, 0.0, 1.0, "share of the session's blocks left"),
    ]
    for k in range(MAX_POOLS):
        rows.append(Field(f"gap_{k}", "bps", 50.0, -10.0, 10.0, f"price of pool {k} over the reference price, less 1"))
    for k in range(MAX_LENDERS):
        rows.append(Field(f"lender_{k}", "1", 1.0, 0.0, 1.0, f"lender {k} open and able to fund the best route, as a share"))
    return tuple(rows)


OBSERVATION = _observation()

WAIT, BEST, SECOND = 0.0, 1.0, 2.0
ORACLE = -1.0  # a route no encoding can express: act with hindsight
PRIVATE, PUBLIC = 0.0, 1.0
BID_SHARES = (
    *(0.01, 0.03, 0.06, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50),
    *(0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.84, 0.88, 0.91, 0.94, 0.97, 0.99),
)
ACTION = (
    Choice(
        "route",
        "rank",
        (WAIT, BEST, SECOND),
        "wait, or the best or second-best route",
        (BEST,),
        False,
        ("wait", "best", "second"),
    ),
    Choice("size_share", "1", (0.25, 0.5, 0.75, 1.0), "size over the closed-form optimum", (1.0,)),
    Choice("bid_share", "1", BID_SHARES, "tip over the predicted profit after pool and loan fees", BID_SHARES[::2]),
    Choice("tolerance", "1", (0.05, 0.2, 0.5, 1.0), "accepted shortfall of the profit, as a share of the prediction", (0.2,)),
    Choice(
        "lender",
        "index",
        tuple(float(k) for k in range(MAX_LENDERS + 1)),
        "0 the cheapest that is open; k the k-th lender of the chain",
        (0.0,),
        False,
        ("cheapest", *(f"lender_{k}" for k in range(MAX_LENDERS))),
    ),
    Choice(
        "channel", "flag", (PRIVATE, PUBLIC), "private relay or public mempool", (PRIVATE, PUBLIC), False, ("private", "public")
    ),
)

INFO = (
    "net_profit",
    "gross_profit",
    "pool_fee",
    "loan_fee",
    "gas_cost",
    "tip",
    "revert_cost",
    "oracle_profit",
    "predicted_profit",
    "notional",
    "attempted",
    "included",
    "reverted",
    "dropped",
    "public",
    "sandwiched",
    "unprofitable",
    "opportunity",
    "bid_share",
    "rival_bid_share",
    "rival_count",
    "regime",
)
(
    _NET,
    _GROSS,
    _POOL_FEE,
    _LOAN_FEE,
    _GAS_COST,
    _TIP,
    _REVERT_COST,
    _ORACLE_PROFIT,
    _PREDICTED,
    _NOTIONAL,
    _ATTEMPTED,
    _INCLUDED,
    _REVERTED,
    _DROPPED,
    _PUBLIC,
    _SANDWICHED,
    _UNPROFITABLE,
    _OPPORTUNITY,
    _BID_SHARE,
    _RIVAL_BID_SHARE,
    _RIVAL_COUNT,
    _REGIME_INFO,
) = range(len(INFO))


# --------------------------------------------------------------------------------------------------------- world and state
class World(NamedTuple):
    """Shared, read-only: one record (1,) of every number and pool table, and the tape (T, 2 + 3 K) or (1, 1).

    Kernels take the record as ``c``: a record travels as a pointer, while each array of a tuple costs an atomic count per call.
    """

    config: NDArray[np.void]
    tape: Floats


STATE = np.dtype(
    [
        ("seed", "i8"),
        ("episode", "i8"),
        ("block", "i8"),
        ("tape_row", "i8"),
        ("log_price", "f8"),
        ("price", "f8"),
        ("last_return", "f8"),
        ("volatility", "f8"),
        ("sqrt_price", "f8", (MAX_POOLS,)),
        ("scale", "f8", (MAX_POOLS,)),
        ("range_index", "i8", (MAX_POOLS,)),
        ("saved_sqrt_price", "f8", (MAX_POOLS,)),
        ("saved_scale", "f8", (MAX_POOLS,)),
        ("saved_range_index", "i8", (MAX_POOLS,)),
        ("route_buy", "i8", (2,)),
        ("route_sell", "i8", (2,)),
        ("route_quote_in", "f8", (2,)),
        ("route_profit", "f8", (2,)),
        ("route_crossed", "i8", (2,)),
        ("base_fee_wei", "i8"),
        ("log_demand", "f8"),
        ("fullness", "f8"),
        ("regime", "i8"),
        ("bid_last", "f8"),
        ("bid_fast", "f8"),
        ("bid_slow", "f8"),
        ("bid_spread", "f8"),
        ("bid_age", "f8"),
        ("rivals_seen", "f8"),
        ("won", "f8"),
        ("dropped", "f8"),
        ("reverted", "f8"),
        ("own_bid", "f8"),
        ("sandwiched", "f8"),
        ("revert_spent", "f8"),
        ("lender_available", "f8", (MAX_LENDERS,)),
    ],
    align=True,
)


def build_world(config: FlashConfig, tape: Tape | None = None) -> World:
    """Numbers and tables that the kernels read. With a tape, its pools replace the configured ones."""
    chain = config.chain
    values: dict[str, Any] = {
        entry.name: _typed(getattr(config, entry.name), getattr(PRESETS["ethereum"], entry.name))
        for entry in fields(FlashConfig)
        if entry.name not in ("preset", "chain", "pools", "lenders", "auction")
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
        rows = np.zeros((1, 1))
    else:
        tables = [constant_product_table() for _ in tape.pools]
        kinds = [POOL_KINDS.index(pool.kind) for pool in tape.pools]
        fees = [pool.fee_ppm for pool in tape.pools]
        tvl = np.zeros(len(tape.pools))
        rows = tape.array()
    values |= {
        "replay": tape is not None,
        "gas_target": chain.gas_limit // chain.elasticity,
        "pool_count": len(tables),
        "pool_scale": pool_scale,
        "pool_tvl": np.concatenate([tvl, np.zeros(MAX_POOLS - len(tvl))]),
        "lender_count": len(config.lenders),
        "lender_limit": limits,
        "loan_fee": loan_fees,
        "loan_gas": loan_gas,
        "first_leg": first_leg,
        "auction": _AUCTIONS.index(config.auction),
    }
    values |= pool_tables(tables, kinds, fees, MAX_POOLS)._asdict()
    return World(config_record(values), np.ascontiguousarray(rows))


def _typed(value: Any, example: Any) -> Any:
    """The value as the example's type of number, so that 0 for 0.0 does not make another record type."""
    if isinstance(example, tuple):
        return tuple(float(entry) for entry in value)
    return type(example)(value)


# ------------------------------------------------------------------------------------------------------------------ kernels
@kernel
def reset(world: World, s: Any) -> None:
    """Start an episode in state record ``s``; its seed and episode number are set by the engine."""
    c = world.config[0]
    s.block = 0
    s.last_return = 0.0
    s.volatility = c.volatility_per_sqrt_day * math.sqrt(c.block_time_s / SECONDS_PER_DAY) * 0.8
    start, regime = uniform2(s.seed, s.episode, _FIRST_BLOCK, _START)
    s.regime = int(regime * 3.0)
    s.log_demand = math.log(c.base_fee_gwei)
    s.base_fee_wei = max(int(c.base_fee_gwei * 1e9), 1)
    s.fullness = 1.0 / c.elasticity
    s.price = c.initial_price_quote
    s.tape_row = 0
    if c.replay:
        room = max(world.tape.shape[0] - 1 - c.episode_blocks, 0)
        s.tape_row = min(int(start * (room + 1)), room)
        s.price = world.tape[s.tape_row, 0]
        s.base_fee_wei = max(int(world.tape[s.tape_row, 1] * 1e9), 1)
    s.log_price = math.log(s.price)
    for k in range(c.pool_count):
        if c.replay:
            s.scale[k] = world.tape[s.tape_row, 3 + 3 * k]
            set_price(c, s, k, world.tape[s.tape_row, 2 + 3 * k])
        else:
            s.scale[k] = c.pool_scale[k]
            set_price(c, s, k, s.price)
    for k in range(c.lender_count):
        s.lender_available[k] = c.lender_limit[k]
    s.bid_last = 0.5
    s.bid_fast = 0.5
    s.bid_slow = 0.5
    s.bid_spread = 0.2
    s.bid_age = 0.0
    s.rivals_seen = 0.0
    s.won = 0.0
    s.dropped = 0.0
    s.reverted = 0.0
    s.own_bid = 0.0
    s.sandwiched = 0.0
    s.revert_spent = 0.0
    _see_routes(c, s)


@kernel
def _see_routes(c: Any, s: Any) -> None:
    """Find the routes of the next decision; in the auction alone, draw its value."""
    if c.auction != 0:
        value, _ = uniform2(s.seed, s.episode, s.block, _START)
        s.route_profit[0] = value * c.auction_value_quote
        s.route_profit[1] = 0.0
        return
    best_routes(c, c.pool_count, s)


@part
def _native_price(c: Any, s: Any) -> float:
    """Price of the gas token in quote currency."""
    return float(s.price * c.native_price_ratio)


@part
def _leg_gas(c: Any, kind: int) -> float:
    return float(c.gas_v3 if kind == CONCENTRATED else c.gas_v2)


@kernel
def _cycle_gas(c: Any, buy: int, sell: int, crossed: int, loan_gas: float) -> float:
    """Gas used by a cycle, with its loan."""
    legs = _leg_gas(c, c.kind[buy]) + _leg_gas(c, c.kind[sell])
    return float(c.gas_overhead + legs + c.gas_per_tick * abs(crossed) + loan_gas)


@kernel
def _lender_serves(c: Any, s: Any, lender: int, buy: int) -> bool:
    """The lender is open and lends for a route whose first leg is pool ``buy``."""
    if s.lender_available[lender] <= 0.0:
        return False
    wanted = c.first_leg[lender]
    kind = c.kind[buy]
    return bool(wanted == 0 or (wanted == 1 and kind == CONSTANT_PRODUCT) or (wanted == 2 and kind == CONCENTRATED))


@kernel
def _cheapest_lender(c: Any, s: Any, buy: int, quote_in: float, gas_price_quote: float) -> int:
    """The open lender that costs least in fee and gas for a loan of this size, -1 where none serves; limits count as cost."""
    best = -1
    best_cost = math.inf
    for lender in range(c.lender_count):
        if not _lender_serves(c, s, lender, buy):
            continue
        cost = c.loan_fee[lender] * quote_in + c.loan_gas[lender] * gas_price_quote
        if s.lender_available[lender] < quote_in:
            cost += 1e3 * (quote_in - s.lender_available[lender])
        if cost < best_cost:
            best = lender
            best_cost = cost
    return best


@kernel
def observe(world: World, s: Any, out: NDArray[np.float32]) -> None:
    """Raw observation in the fields' units and order; the engine scales and clips it."""
    c = world.config[0]
    profit = s.route_profit[0]
    buy = s.route_buy[0]
    sell = s.route_sell[0]
    gas_price_quote = s.base_fee_wei * 1e-18 * _native_price(c, s)
    for k in range(len(out)):
        out[k] = 0.0
    out[1] = math.log1p(profit)
    if c.auction == 0 and profit > 0.0:
        out[0] = cycle_edge(s.sqrt_price[buy], c.keep[buy], s.sqrt_price[sell], c.keep[sell]) * 1e4
        out[2] = math.log1p(s.route_quote_in[0])
        out[3] = s.route_crossed[0]
        lender = _cheapest_lender(c, s, buy, s.route_quote_in[0], gas_price_quote)
        loan_gas = 0.0
        if lender >= 0:
            loan_gas = c.loan_gas[lender]
            out[5] = c.loan_fee[lender] * 1e4
        cost = _cycle_gas(c, buy, sell, s.route_crossed[0], loan_gas) * gas_price_quote + c.data_fee_quote
        out[4] = min(cost / profit, 100.0)
        out[6] = 1.0 if c.kind[buy] == CONSTANT_PRODUCT else 0.0
        out[7] = 1.0 if c.kind[sell] == CONSTANT_PRODUCT else 0.0
        out[8] = s.route_profit[1] / profit
    out[9] = log_gwei(s.base_fee_wei)
    out[10] = s.fullness
    out[11] = s.bid_last
    out[12] = s.bid_fast
    out[13] = s.bid_slow
    out[14] = s.bid_spread
    out[15] = math.log1p(s.bid_age)
    out[16] = s.rivals_seen
    out[17] = s.won
    out[18] = s.dropped
    out[19] = s.reverted
    out[20] = s.own_bid
    out[21] = s.sandwiched
    out[22] = s.volatility * 1e4
    out[23] = s.last_return * 1e4
    out[24] = 1.0 - s.block / c.episode_blocks
    for k in range(c.pool_count):
        out[25 + k] = (s.sqrt_price[k] * s.sqrt_price[k] / s.price - 1.0) * 1e4
    if c.auction == 0:
        for k in range(c.lender_count):
            if _lender_serves(c, s, k, buy):
                wanted = max(s.route_quote_in[0], 1.0)
                out[25 + MAX_POOLS + k] = min(s.lender_available[k] / wanted, 1.0)


@part
def _trade_share(c: Any, normal: float) -> float:
    return float(c.trade_median_share * math.exp(c.trade_log_sd * normal))


@kernel
def _noise_flow(c: Any, s: Any, ahead: bool) -> bool:
    """Noise trades of this block that land ahead of the auction, or after it; says whether any did."""
    if c.trade_probability <= 0.0:
        return False
    moved = False
    drawn = -1
    sizes = (0.0, 0.0)
    draws = uniform4(s.seed, s.episode, s.block, _FLOW)
    for k in range(c.pool_count):
        u = draws[k]
        if u >= c.trade_probability or c.kind[k] == REFERENCE:
            continue
        within = u / c.trade_probability  # uniform given a trade: first its place in the block, then its side
        if (within < c.flow_ahead_share) != ahead:
            continue
        start, length = (0.0, c.flow_ahead_share) if ahead else (c.flow_ahead_share, 1.0 - c.flow_ahead_share)
        side = (within - start) / length
        if drawn != k // 2:  # one pair of normals serves two pools
            drawn = k // 2
            sizes = normal2(s.seed, s.episode, s.block, _FLOW_SIZE + drawn)
        amount = min(_trade_share(c, sizes[k % 2]), 0.1) * c.pool_tvl[k]
        if side < 0.5:
            swap_buy(c, s, k, amount)
        else:
            swap_sell(c, s, k, amount / s.price)
        moved = True
    return moved


@kernel
def _rivals(c: Any, s: Any, value: float, gas_cost: float, info: Floats) -> tuple[float, float, float, float]:
    """Best private and best public rival: (bid, ordering key) of each; keys are bids with ordering noise, 0 for nobody."""
    private_bid, private_key, public_bid, public_key = 0.0, 0.0, 0.0, 0.0
    if value * math.exp(8.0 * c.rival_value_sd) <= gas_cost:  # nobody's 8-sigma view of the gap pays for its gas
        return private_bid, private_key, public_bid, public_key
    count_u, _ = uniform2(s.seed, s.episode, s.block, _RIVALS)
    always = min(int(c.rival_counts[s.regime]), 1)  # with a mean of one or more, somebody is always there
    count = always + poisson_count(c.rival_counts[s.regime] - always, count_u, MAX_RIVALS - always)
    bidding = 0
    for rival in range(count):
        u0, u1, race_u, channel_u = uniform4(s.seed, s.episode, s.block, _RIVAL + rival)
        share_z, value_z = normal2_from(u0, u1)
        gain = value * math.exp(c.rival_value_sd * value_z) - gas_cost
        if gain <= 0.0:
            continue
        bidding += 1
        bid = gain * logit_normal(c.rival_shares[s.regime], c.rival_share_sd, share_z)
        key = race_key(bid, c.ordering_noise, race_u)
        if channel_u < c.rival_public_share:
            if key > public_key:
                public_bid, public_key = bid, key
        elif key > private_key:
            private_bid, private_key = bid, key
    info[_RIVAL_COUNT] = bidding
    return private_bid, private_key, public_bid, public_key


@kernel
def _rival_trades(c: Any, s: Any, gas_price_quote: float, seen: bool) -> bool:
    """A rival takes the best cycle that the pools offer now, if it pays for its gas; ``seen``: the routes are those of now."""
    if not seen:
        _see_routes(c, s)
    if s.route_profit[0] <= 0.0:
        return False
    buy, sell = s.route_buy[0], s.route_sell[0]
    if s.route_profit[0] <= _cycle_gas(c, buy, sell, s.route_crossed[0], 0.0) * gas_price_quote:
        return False
    swap_cycle(c, s, buy, sell, s.route_quote_in[0])
    return True


@kernel
def _take(
    c: Any,
    s: Any,
    buy: int,
    sell: int,
    quote_in: float,
    loan_fee: float,
    loan_gas: float,
    minimum_profit: float,
    tip: float,
    gas_price_quote: float,
    info: Floats,
) -> bool:
    """Execute the agent's cycle if it still makes its minimum profit after pool and loan fees; book each part."""
    quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
    if quote_out - quote_in * (1.0 + loan_fee) < minimum_profit:
        return False
    quote_out, base_flow, crossed = swap_cycle(c, s, buy, sell, quote_in)
    pool_fee = quote_in * (1.0 - c.keep[buy]) + base_flow * (1.0 - c.keep[sell]) * s.price
    gas_cost = _cycle_gas(c, buy, sell, crossed, loan_gas) * gas_price_quote + c.data_fee_quote
    info[_POOL_FEE] = pool_fee
    info[_GROSS] = quote_out - quote_in + pool_fee
    info[_LOAN_FEE] = loan_fee * quote_in
    info[_GAS_COST] = gas_cost
    info[_TIP] = tip
    info[_INCLUDED] = 1.0
    info[_NET] = quote_out - quote_in * (1.0 + loan_fee) - gas_cost - tip
    return True


@kernel
def _pay_revert(c: Any, s: Any, gas_used: float, gas_price_quote: float, tip: float, info: Floats) -> None:
    """A transaction that failed on chain: its gas, and its priority fee on the gas it burned."""
    cost = c.revert_gas_share * (gas_used * gas_price_quote + tip) + c.data_fee_quote
    info[_REVERT_COST] = cost
    info[_REVERTED] = 1.0
    info[_NET] = -cost
    s.revert_spent += cost


@kernel
def _sandwich(
    c: Any,
    s: Any,
    buy: int,
    sell: int,
    quote_in: float,
    loan_fee: float,
    minimum_profit: float,
    gas_price_quote: float,
) -> float:
    """Quote that an attacker spends ahead in the first leg so that the agent keeps its minimum profit; 0 if it does not pay.

    Bisection on the attacker's size: the agent's profit falls with it. The attacker sells its base back after the agent's
    first leg; it attacks when that beats the gas of two swaps.
    """
    low, high = 0.0, 2.0 * quote_in
    for _ in range(20):
        middle = 0.5 * (low + high)
        if _profit_after(c, s, buy, sell, quote_in, middle) - loan_fee * quote_in >= minimum_profit:
            low = middle
        else:
            high = middle
    if low <= 0.0:
        return 0.0
    price, scale, index = s.sqrt_price[buy], s.scale[buy], s.range_index[buy]
    base = swap_buy(c, s, buy, low)
    swap_buy(c, s, buy, quote_in)
    back, _, _, _ = quote_sell(c, s, buy, base)
    s.sqrt_price[buy], s.scale[buy], s.range_index[buy] = price, scale, index
    attack_gas = 2.0 * (c.gas_overhead + _leg_gas(c, c.kind[buy]))
    return low if back - low > attack_gas * gas_price_quote else 0.0


@kernel
def _profit_after(c: Any, s: Any, buy: int, sell: int, quote_in: float, ahead: float) -> float:
    """The cycle's profit before loan and gas if someone first bought with ``ahead`` in its first pool; changes nothing."""
    price, scale, index = s.sqrt_price[buy], s.scale[buy], s.range_index[buy]
    if ahead > 0.0:
        swap_buy(c, s, buy, ahead)
    quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
    s.sqrt_price[buy], s.scale[buy], s.range_index[buy] = price, scale, index
    return quote_out - quote_in


@kernel
def _best_trade(c: Any, s: Any, gas_price_quote: float) -> tuple[int, int, float, int, float]:
    """What hindsight would do with the pools as they are: (buy, sell, quote in, lender, profit after loan, gas and data fee).

    Over both routes found, with the lender that is cheapest at its size, sized for that lender's fee and limit.
    """
    best = (0, 0, 0.0, -1, 0.0)
    for rank in range(2):
        if s.route_profit[rank] <= best[4]:
            continue
        buy, sell, quote_in = s.route_buy[rank], s.route_sell[rank], s.route_quote_in[rank]
        lender = _cheapest_lender(c, s, buy, quote_in, gas_price_quote)
        if lender < 0:
            continue
        profit = s.route_profit[rank]
        crossed = s.route_crossed[rank]
        fee = c.loan_fee[lender]
        if fee > 0.0:
            _, quote_in, quote_out, crossed = size_route(c, s, buy, sell, fee)
            profit = quote_out - quote_in * (1.0 + fee)
        if quote_in > s.lender_available[lender]:
            quote_in = s.lender_available[lender]
            quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
            profit = quote_out - quote_in * (1.0 + fee)
        profit -= _cycle_gas(c, buy, sell, crossed, c.loan_gas[lender]) * gas_price_quote + c.data_fee_quote
        if profit > best[4]:
            best = (buy, sell, quote_in, lender, profit)
    return best


@part
def _save_pools(s: Any) -> None:
    for k in range(MAX_POOLS):
        s.saved_sqrt_price[k] = s.sqrt_price[k]
        s.saved_scale[k] = s.scale[k]
        s.saved_range_index[k] = s.range_index[k]


@part
def _restore_pools(s: Any) -> None:
    for k in range(MAX_POOLS):
        s.sqrt_price[k] = s.saved_sqrt_price[k]
        s.scale[k] = s.saved_scale[k]
        s.range_index[k] = s.saved_range_index[k]


@kernel
def step(world: World, s: Any, decision: Floats, info: Floats) -> tuple[float, bool, bool]:
    """One block; ``decision`` (6,) in ACTION's order, ``info`` (len(INFO),) is filled: (reward, terminated, truncated)."""
    c = world.config[0]
    for k in range(len(info)):
        info[k] = 0.0
    info[_REGIME_INFO] = s.regime
    s.won = 0.0
    s.dropped = 0.0
    s.reverted = 0.0
    s.own_bid = 0.0
    if c.auction != 0:
        _bid_alone(c, s, decision, info)
    else:
        _block(c, s, decision, info)
    if info[_NET] < 0.0:
        info[_UNPROFITABLE] = 1.0
    s.block += 1
    if not c.replay:
        _after_block(c, s)
    else:
        _replay_row(world, s)
    _see_routes(c, s)
    truncated = False
    if c.replay:
        truncated = s.tape_row >= world.tape.shape[0] - 1
    terminated = s.block >= c.episode_blocks or s.revert_spent > c.revert_budget_quote
    return info[_NET] / c.reward_scale_quote, terminated, truncated and not terminated


@part
def _bid_alone(c: Any, s: Any, decision: Floats, info: Floats) -> None:
    """The auction alone: a private value in U[0, 1] against rivals who play the symmetric equilibrium."""
    value = s.route_profit[0]
    best = 0.0
    for rival in range(c.auction_bidders - 1):
        u, _ = uniform2(s.seed, s.episode, s.block, _RIVAL + rival)
        best = max(best, equilibrium_bid(u, c.auction_bidders, c.auction == 2) * c.auction_value_quote)
    info[_OPPORTUNITY] = 1.0
    info[_RIVAL_COUNT] = c.auction_bidders - 1.0
    info[_RIVAL_BID_SHARE] = best / value
    info[_ORACLE_PROFIT] = max(value - best, 0.0)
    _see_bid(s, best / value, c.auction_bidders - 1.0)
    if decision[0] == WAIT:
        return
    bid = value * decision[2]
    if decision[0] == ORACLE:
        if value <= best:
            return
        bid = best
    info[_ATTEMPTED] = 1.0
    info[_PREDICTED] = value
    info[_BID_SHARE] = bid / value
    s.own_bid = bid / value
    if bid > best or decision[0] == ORACLE:
        info[_INCLUDED] = 1.0
        info[_GROSS] = value
        info[_TIP] = bid
        info[_NET] = value - bid
        s.won = 1.0
    elif c.auction == 2:
        _pay_revert(c, s, 0.0, 0.0, bid, info)
        s.reverted = 1.0
    else:
        info[_DROPPED] = 1.0
        s.dropped = 1.0


@kernel
def _see_bid(s: Any, share: float, rivals: float) -> None:
    """Update the history that the agent observes with the best rival bid share of this gap."""
    share = min(share, 2.0)
    s.bid_last = share
    s.bid_fast += 0.4 * (share - s.bid_fast)
    s.bid_spread += 0.1 * (abs(share - s.bid_slow) - s.bid_spread)
    s.bid_slow += 0.1 * (share - s.bid_slow)
    s.rivals_seen += 0.2 * (rivals - s.rivals_seen)
    s.bid_age = 0.0


@part
def _block(c: Any, s: Any, decision: Floats, info: Floats) -> None:
    """Points 1 to 3 of the module's "One step": from the decision to what landed."""
    gas_price_quote = s.base_fee_wei * 1e-18 * _native_price(c, s)

    # the decision, on the state it was taken in
    hindsight = decision[0] == ORACLE
    attempting = False
    buy, sell, lender = 0, 0, -1
    quote_in, predicted, tip, minimum_profit, loan_fee, loan_gas = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
    refused = False
    if decision[0] > WAIT:
        rank = int(decision[0]) - 1
        buy, sell = s.route_buy[rank], s.route_sell[rank]
        quote_in = s.route_quote_in[rank] * decision[1]
        attempting = s.route_profit[rank] > 0.0 and quote_in > 0.0
    if attempting:
        lender = int(decision[4]) - 1
        if lender < 0:
            lender = _cheapest_lender(c, s, buy, quote_in, gas_price_quote)
        if lender < 0 or lender >= c.lender_count or not _lender_serves(c, s, lender, buy):
            refused = True
        else:
            quote_in = min(quote_in, s.lender_available[lender])
            loan_fee, loan_gas = c.loan_fee[lender], c.loan_gas[lender]
        quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
        predicted = quote_out - quote_in * (1.0 + loan_fee)
        tip = max(predicted, 0.0) * decision[2]
        minimum_profit = max(predicted, 0.0) * (1.0 - decision[3])
    public = attempting and decision[5] == PUBLIC

    # what the rivals see and bid
    value = s.route_profit[0]
    least_gas = _cycle_gas(c, s.route_buy[0], s.route_sell[0], s.route_crossed[0], 0.0)
    private_bid, private_key, public_bid, public_key = _rivals(c, s, value, least_gas * gas_price_quote, info)
    rivals = private_key > 0.0 or public_key > 0.0

    # 1. trades ahead
    if not c.replay and _noise_flow(c, s, _BEFORE):
        _see_routes(c, s)

    # hindsight: first in the block at the least bid that wins, or what is left after the rivals
    private_u, public_u, private_race, public_race = uniform4(s.seed, s.episode, s.block, _SUBMIT)
    private_noise, public_noise = 1.0, 1.0
    if rivals:
        private_noise = race_key(1.0, c.ordering_noise, private_race)
        public_noise = race_key(1.0, c.ordering_noise, public_race)
    private_ok = private_u < c.private_inclusion
    public_ok = public_u < c.public_inclusion
    first_buy, first_sell, first_in, first_lender, first_profit = _best_trade(c, s, gas_price_quote)
    private_tip = private_key / private_noise * (1.0 + 1e-9)
    public_tip = public_key / public_noise * (1.0 + 1e-9)
    by_private = private_ok and (not public_ok or private_key > 0.0 or private_tip <= public_tip)
    first_tip = private_tip if by_private else public_tip
    can_be_first = by_private or (public_ok and private_key == 0.0)
    first_net = first_profit - first_tip if can_be_first else 0.0
    oracle_profit = max(first_net, 0.0)
    wait_turn = False
    if hindsight:
        if rivals and first_profit > 0.0 and (private_ok or public_ok):
            _save_pools(s)
            if private_key > 0.0:
                _rival_trades(c, s, gas_price_quote, _SEEN)
            if public_key > 0.0 and not private_ok:
                _rival_trades(c, s, gas_price_quote, private_key == 0.0)
            _see_routes(c, s)
            left_buy, left_sell, left_in, left_lender, left_profit = _best_trade(c, s, gas_price_quote)
            _restore_pools(s)
            if left_profit > oracle_profit:
                wait_turn = True
                oracle_profit = left_profit
                first_buy, first_sell, first_in, first_lender = left_buy, left_sell, left_in, left_lender
        if oracle_profit > 0.0:
            attempting = True
            buy, sell, quote_in, lender = first_buy, first_sell, first_in, first_lender
            loan_fee, loan_gas = c.loan_fee[lender], c.loan_gas[lender]
            predicted = oracle_profit
            public = not private_ok if wait_turn else not by_private
            tip = 0.0 if wait_turn else first_tip

    # 2. the top of the block
    done = False
    rival_landed = False
    in_private = attempting and not public and not refused and private_ok
    if in_private and (private_key == 0.0 or tip * private_noise > private_key):
        done = _take(c, s, buy, sell, quote_in, loan_fee, loan_gas, minimum_profit, tip, gas_price_quote, info)
    seen = not hindsight and not done  # nothing has traded since the routes were found
    if private_key > 0.0 and _rival_trades(c, s, gas_price_quote, seen):
        rival_landed = True
        seen = False
    if not done and rivals and in_private:
        if not hindsight:
            if not seen:
                _see_routes(c, s)
                seen = True
            _, _, _, _, left_profit = _best_trade(c, s, gas_price_quote)
            oracle_profit = max(oracle_profit, left_profit)
        done = _take(c, s, buy, sell, quote_in, loan_fee, loan_gas, minimum_profit, tip, gas_price_quote, info)

    # 3. the public mempool
    in_public = public and not refused and public_ok
    ahead_of_rival = in_public and (public_key == 0.0 or tip * public_noise > public_key)
    if in_public and not ahead_of_rival and public_key > 0.0 and _rival_trades(c, s, gas_price_quote, seen):
        rival_landed = True
        seen = False
    if in_public:
        if rivals and not hindsight:
            if not seen:
                _see_routes(c, s)
            _, _, _, _, left_profit = _best_trade(c, s, gas_price_quote)
            oracle_profit = max(oracle_profit, left_profit)
        attack, back = 0.0, 0.0
        attack_u, _ = uniform2(s.seed, s.episode, s.block, _ORDER)
        if attack_u < c.sandwich_probability and not hindsight:
            attack = _sandwich(c, s, buy, sell, quote_in, loan_fee, minimum_profit, gas_price_quote)
        if attack > 0.0:
            back = swap_buy(c, s, buy, attack)
            info[_SANDWICHED] = 1.0
        done = _take(c, s, buy, sell, quote_in, loan_fee, loan_gas, minimum_profit, tip, gas_price_quote, info)
        if attack > 0.0:
            swap_sell(c, s, buy, back)
        s.sandwiched += 0.1 * (info[_SANDWICHED] - s.sandwiched)
    seen = seen and not done and not in_public
    if public_key > 0.0 and (not in_public or ahead_of_rival) and _rival_trades(c, s, gas_price_quote, seen):
        rival_landed = True

    # what it cost
    if attempting:
        info[_ATTEMPTED] = 1.0
        info[_PREDICTED] = predicted
        info[_NOTIONAL] = quote_in
        info[_BID_SHARE] = tip / predicted if predicted > 0.0 else 0.0
        s.own_bid = min(info[_BID_SHARE], 1.0)
        info[_PUBLIC] = 1.0 if public else 0.0
        if done:
            s.won = 1.0
        elif not refused and (in_public or (in_private and c.private_revert_pays)):
            gas_used = _cycle_gas(c, buy, sell, _NO_TICKS, loan_gas)
            _pay_revert(c, s, gas_used, gas_price_quote, tip, info)
            s.reverted = 1.0
        else:
            info[_DROPPED] = 1.0
            s.dropped = 1.0
    info[_ORACLE_PROFIT] = oracle_profit
    best_bid = max(private_bid, public_bid)
    if value > least_gas * gas_price_quote:
        info[_OPPORTUNITY] = 1.0
        info[_RIVAL_BID_SHARE] = best_bid / value
        _, visible_u = uniform2(s.seed, s.episode, s.block, _RIVALS)
        if rival_landed or visible_u < c.losing_bid_visibility:
            _see_bid(s, best_bid / value, info[_RIVAL_COUNT])
        else:
            s.bid_age += 1.0
    else:
        s.bid_age += 1.0


@part
def _after_block(c: Any, s: Any) -> None:
    """Point 4 of "One step", simulated: price, flow, gas, regime and lenders; ``s.block`` is already the next block."""
    block = s.block
    if c.auction == 0:
        s.block = block - 1  # the trades that were not ahead belong to the block that just ended
        _noise_flow(c, s, _AFTER)
        s.block = block
    interval_u, jump_u, regime_u, lender_u = uniform4(s.seed, s.episode, block, _EVENTS)
    u0, u1, u2, u3 = uniform4(s.seed, s.episode, block, _PRICE)
    price_z, _ = normal2_from(u0, u1)
    fullness_z, demand_z = normal2_from(u2, u3)
    jump_z = 0.0
    if jump_u < c.jump_rate_per_day * c.block_time_s / SECONDS_PER_DAY * 50.0:  # a jump is possible in this interval
        jump_z, _ = normal2(s.seed, s.episode, block, _JUMP)
    dt_days = block_interval(c.block_time_s, c.poisson_blocks, interval_u) / SECONDS_PER_DAY
    log_price = log_price_step(
        s.log_price,
        math.log(c.initial_price_quote),
        dt_days,
        c.drift_per_day,
        c.volatility_per_sqrt_day,
        c.reversion_per_day,
        c.jump_rate_per_day,
        c.jump_sd,
        price_z,
        jump_u,
        jump_z,
    )
    s.last_return = log_price - s.log_price
    s.volatility += 0.05 * (abs(s.last_return) - s.volatility)
    s.log_price = log_price
    s.price = math.exp(log_price)
    draws = uniform4(s.seed, s.episode, block, _INFORMED)
    for k in range(c.pool_count):
        if c.kind[k] == REFERENCE:
            set_price(c, s, k, s.price)
            s.scale[k] = 0.5 * c.pool_tvl[k] / s.sqrt_price[k]
        elif draws[k] < c.informed_probability:
            arbitrage_to(c, s, k, s.price)
    log_typical = math.log(c.base_fee_gwei)
    s.log_demand += c.demand_reversion * (log_typical - s.log_demand) + c.demand_sd * demand_z
    s.fullness = block_fullness(
        s.log_demand, log_gwei(s.base_fee_wei), c.demand_response, c.fullness_sd * fullness_z, 1.0 / c.elasticity
    )
    s.base_fee_wei = next_base_fee(s.base_fee_wei, int(s.fullness * c.gas_limit), c.gas_target, c.base_fee_denominator)
    _move_regime(c, s, regime_u, lender_u)


@kernel
def _move_regime(c: Any, s: Any, regime_u: float, lender_u: float) -> None:
    """The rivals' hidden regime and the lenders' liquidity move on."""
    which = regime_u * c.regime_blocks  # uniform in (0, 1) given a switch
    if which < 1.0:
        s.regime = (s.regime + 1 + int(which * 2.0)) % 3
    if c.lender_close_probability > 0.0:
        # one uniform serves all lenders: at most one of them changes in a block
        lender = min(int(lender_u * c.lender_count), c.lender_count - 1)
        within = lender_u * c.lender_count - lender
        if c.first_leg[lender] == 0:
            if s.lender_available[lender] > 0.0:
                if within < c.lender_close_probability * c.lender_count:
                    s.lender_available[lender] = 0.0
            elif within < c.lender_open_probability * c.lender_count:
                s.lender_available[lender] = c.lender_limit[lender]


@part
def _replay_row(world: World, s: Any) -> None:
    """Point 4 of "One step", recorded: the next row's flow, liquidity, price and base fee meet the pools' own state.

    Each pool keeps its own price. In 1 / sqrt(price) a net base flow moves a pool by flow / liquidity wherever it
    stands, so recorded flow, and what within a row it leaves unexplained, move it by the recorded difference; what
    the agent's own trades have added stays, but for ``restore_share`` of it that others trade away per row. An agent
    that waits meets every recorded price.
    """
    c = world.config[0]
    s.tape_row += 1
    row = min(s.tape_row, world.tape.shape[0] - 1)
    price = world.tape[row, 0]
    s.last_return = math.log(price) - s.log_price
    s.volatility += 0.05 * (abs(s.last_return) - s.volatility)
    s.log_price = math.log(price)
    s.price = price
    s.base_fee_wei = max(int(world.tape[row, 1] * 1e9), 1)
    for k in range(c.pool_count):
        recorded = world.tape[row, 2 + 3 * k]
        s.scale[k] = world.tape[row, 3 + 3 * k]
        if c.kind[k] == REFERENCE:
            set_price(c, s, k, recorded)
            continue
        now = 1.0 / math.sqrt(recorded)
        own_impact = 1.0 / s.sqrt_price[k] - 1.0 / math.sqrt(world.tape[row - 1, 2 + 3 * k])
        inverse = max(now + (1.0 - c.restore_share) * own_impact, 0.1 * now)
        s.sqrt_price[k] = 1.0 / inverse
    _, _, regime_u, lender_u = uniform4(s.seed, s.episode, s.block, _EVENTS)
    _move_regime(c, s, regime_u, lender_u)


def _baselines() -> dict[str, Any]:
    from arbgym.envs.flash_baselines import BASELINES

    return BASELINES


DEFINITION = Definition(
    id="ArbFlash-v0",
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
    reward_parts=("gross_profit", "pool_fee", "loan_fee", "gas_cost", "tip", "revert_cost"),
)


if __name__ == "__main__":
    from arbgym.engine import print_speed

    print_speed(DEFINITION)
