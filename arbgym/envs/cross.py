"""ArbCross-v0: arbitrage between an exchange and pools with inventory on both sides, against rivals, gas and leg risk.

Problem
    One pair (base/quote, WETH/USDC) trades on a centralised exchange and in up to four pools on chain. When a pool's price
    leaves the exchange's by more than its fee, whoever trades the pool back keeps the difference. The agent holds both tokens
    on both sides. What has to be learned: which gaps to go for and how far to close them, how much of the gain to bid for
    inclusion against rivals whose hidden mood changes, whether to hedge each trade on the exchange at once or to wait for a
    trade the other way, and when to move inventory between the two sides.

One step
    One step is one block (fixed slots, or exponential intervals with ``poisson_blocks``). The agent decides on what it saw at the
    end of block n. Then, in this order:

    1. the exchange leg: a market order fills ``latency_s`` later, at once and for certain, with fee, spread and impact. It trades
       ``hedge_share`` of the exposure that there will be *if* the on-chain leg fills;
    2. block n + 1 on chain: trades that got ahead of it hit the pools; rivals bid for every gap, by the rules and with the
       persons of ArbFlash-v0; for the gap that the agent goes for, the best bid trades first. The on-chain leg fills if it is
       included and still makes its minimum profit, else it is dropped at no cost (or reverts and pays, on chains without
       revert protection): then the exchange leg stands alone, or with ``hedge_share`` 0 the on-chain leg does;
    3. the exchange price moves on to the end of the block, the other noise trades land, gas and rivals move on, inventory in
       transit comes nearer;
    4. the agent sees the end of block n + 1.

    The starting base tokens are borrowed (``borrowed_share``), so net worth does not ride on the price by itself: what does is
    the *exposure*, the base tokens held beyond the starting ones.

Actions (multidiscrete; ``discrete`` enumerates the flat values, ``continuous`` is a box in [-1, 1]^5)
    see ``ACTION`` below or ``python -m arbgym info ArbCross-v0``: act, size_share, tip_share, tolerance, hedge_share. ``buy`` and
    ``sell`` name what is done on chain, in the pool that pays most for it; ``flash_arb`` closes a gap between two pools within
    one transaction, funded by the cheapest flash loan; ``rebalance`` sends inventory to where it started.

Observations
    see ``OBSERVATION`` below or ``python -m arbgym info ArbCross-v0``: name, unit, scale, range, meaning.

Reward
    Change of marked net worth less ``inventory_penalty_bps`` of the exposure's value, over ``reward_scale_quote``. With
    ``utility="log"`` the change is that of the logarithm of net worth, times the starting worth. Without
    ``reward_price_moves`` the change is taken at constant prices: the same on average where the price is a martingale, and far
    less noisy to learn from; what a policy is judged by, ``net_profit``, counts them. ``info`` has each part, and
    ``oracle_profit``, the most that hindsight about rivals, inclusion and order flow (not about prices) could have made.

Episode end
    ``terminated`` after ``episode_blocks`` blocks (a session, which ends flat: the exposure left is traded away on the exchange
    at its cost; the share of blocks left is observed), once net worth has fallen by ``ruin_share`` of the starting worth, or
    once the gas lost to reverts exceeds ``revert_budget_quote``. ``truncated`` only when a recorded tape ends first.

Arguments
    preset: ethereum (default), arbitrum, base, polygon, lvr; action: multidiscrete (default), discrete, continuous; feed:
    simulated (default) or replay with tape = a Tape, whose reference price is the exchange's; any field of ``CrossConfig`` or of
    its ``Chain`` by name.

Baselines
    wait, rule, tuned_band, tuned_rule, history_rule and oracle: see ``arbgym.envs.cross_baselines``.

Sources
    arXiv 2208.06046, 2305.14604, 2505.05113 (arbitrage profit with fees: the truth of preset ``lvr``); arXiv 2507.13023
    (CEX-DEX searchers); Avellaneda and Stoikov 2008 (reservation price under inventory); gas: executions of the real contracts
    (V2 swap 88.5k, V3 swap 100k with no tick crossed, 21.4k per tick). Exchange: ``arbgym.market.exchange``. Rivals:
    ``arbgym.market.searchers``.

Versions
    v0: first.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.ranges import Floats
from arbgym.amm.route import cycle_edge
from arbgym.engine import Definition, NativeVectorEnv, config_record
from arbgym.envs.common import BID_HISTORY, BID_SHARES, RIVALS_SEEN, TOLERANCES, World
from arbgym.jit import inner, kernel, part
from arbgym.market.auction import race_key
from arbgym.market.block import (
    AFTER,
    BEFORE,
    EVENTS,
    MARKET_STATE,
    SUBMIT,
    gas_price_quote,
    move_regime,
    next_fees,
    next_log_price,
    noise_flow,
    price_normals,
    replay_row,
    start_market,
    take_price,
)
from arbgym.market.chain import CHAINS
from arbgym.market.config import MarketConfig, PoolConfig, choose, market_values, require, tape_rows
from arbgym.market.exchange import cost_rate, depth_quote, fill, order_cost
from arbgym.market.gas import cycle_gas, leg_gas
from arbgym.market.lender import AAVE, BALANCER, FLASH_SWAPS, Lender, cheapest_lender
from arbgym.market.pools import (
    CONCENTRATED,
    MAX_POOLS,
    arbitrage_to,
    best_routes,
    cycle_edges,
    quote_buy,
    quote_cycle,
    quote_in_range,
    quote_sell,
    size_against,
    swap_buy,
    swap_cycle,
    swap_sell,
)
from arbgym.market.price import SECONDS_PER_DAY
from arbgym.market.searchers import rival_bids, rival_takes_cycle, see_bid
from arbgym.rng import uniform4
from arbgym.spec import Choice, Field

if TYPE_CHECKING:
    from arbgym.market.tape import Tape

_UTILITIES = ("linear", "log")


# --------------------------------------------------------------------------------------------------------- configuration
@dataclass(frozen=True)
class CrossConfig(MarketConfig):
    """Every number of the world. Presets: ``preset_config``; per-chain numbers are in ``chain``."""

    pools: tuple[PoolConfig, ...] = (
        PoolConfig("v3", 500.0, 20e6, 120.0),
        PoolConfig("v2", 3_000.0, 40e6),
    )
    rival_counts: tuple[float, float, float] = (2.0, 3.0, 4.0)
    trade_probability: float = 0.35  # of a noise trade per pool and block
    # exchange
    taker_fee_bps: float = 1.5
    spread_bps: float = 0.1
    depth_quote: float = 200_000.0  # top of book on each side
    impact_bps: float = 2.0  # marginal slip for each further top of book
    latency_s: float = 0.3
    rival_cost_bps: float = 0.8  # what the exchange leg costs a rival
    # inventory at the start, valued at the starting price
    chain_base_quote: float = 600_000.0
    chain_quote: float = 600_000.0
    exchange_base_quote: float = 600_000.0
    exchange_quote: float = 600_000.0
    borrowed_share: float = 1.0  # of the starting base tokens: a debt in base tokens
    transfer_s: float = 420.0  # from one side to the other: confirmations and the exchange's own checks
    transfer_fee_quote: float = 4.0  # of one token's transfer, beside gas
    gas_transfer: float = 65_000.0
    gas_swap_overhead: float = 38_000.0  # transaction and executor around a single swap
    # reward and end
    utility: Literal["linear", "log"] = "linear"
    inventory_penalty_bps: float = 0.01  # of the exposure's value, per block
    reward_price_moves: bool = True  # count what an open position gains or loses by the price's own moves
    ruin_share: float = 0.2

    least_pools: ClassVar[int] = 1
    shares: ClassVar[tuple[str, ...]] = (*MarketConfig.shares, "borrowed_share", "ruin_share")
    not_negative: ClassVar[tuple[str, ...]] = (
        *MarketConfig.not_negative,
        *("taker_fee_bps", "spread_bps", "impact_bps", "latency_s", "rival_cost_bps", "transfer_s", "transfer_fee_quote"),
        *("chain_base_quote", "chain_quote", "exchange_base_quote", "exchange_quote"),
        *("gas_transfer", "gas_swap_overhead", "inventory_penalty_bps"),
    )
    positive: ClassVar[tuple[str, ...]] = (*MarketConfig.positive, "depth_quote", "ruin_share")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.utility not in _UTILITIES:
            raise ValueError(f"utility = {self.utility!r}; accepted are {', '.join(_UTILITIES)}")
        if self.utility == "log" and not self.reward_price_moves:
            raise ValueError(
                "reward_price_moves = False with utility = 'log'; accepted is True: log utility is about those moves"
            )
        for name in ("taker_fee_bps", "spread_bps", "rival_cost_bps"):
            require(name, getattr(self, name), 0.0, 5_000.0)
        for k, pool in enumerate(self.pools):
            if pool.kind == "reference":
                raise ValueError(f"pools[{k}].kind = 'reference'; accepted are v2, v3 (the exchange is the reference here)")
        if not self.chain_quote + self.exchange_quote > 0.0:
            raise ValueError("chain_quote + exchange_quote = 0; accepted is a positive sum: net worth starts with it")


_L2 = CrossConfig(
    pools=(
        PoolConfig("v3", 500.0, 6e6, 100.0),
        PoolConfig("v3", 3_000.0, 3e6, 250.0, 60.0, 30),
        PoolConfig("v2", 3_000.0, 1.5e6),
    ),
    lenders=(*FLASH_SWAPS, BALANCER, AAVE),
    trade_probability=0.10,
    trade_median_share=0.0008,
    flow_ahead_share=0.2,
    chain_base_quote=200_000.0,
    chain_quote=200_000.0,
    exchange_base_quote=200_000.0,
    exchange_quote=200_000.0,
    revert_budget_quote=200.0,
    reward_scale_quote=5.0,
    transfer_s=120.0,
)
_ENDLESS = 1e11  # inventory and depth that nothing here uses up
PRESETS: dict[str, CrossConfig] = {
    "ethereum": CrossConfig(reward_scale_quote=20.0),
    "arbitrum": replace(_L2, chain=CHAINS["arbitrum"], trade_probability=0.03),
    "base": replace(_L2, chain=CHAINS["base"]),
    "polygon": replace(_L2, chain=CHAINS["polygon"]),
    # one V2 pool beside a free, deep exchange without rivals and gas: loss-versus-rebalancing with fees (arXiv 2305.14604)
    "lvr": CrossConfig(
        chain=replace(CHAINS["ethereum"], base_fee_gwei=1e-9, fullness_sd=0.0, private_inclusion=1.0, ordering_noise=0.0),
        pools=(PoolConfig("v2", 3_000.0, 1e6),),
        lenders=(Lender("free", 0.0, 1e15, 0.0),),
        volatility_per_sqrt_day=0.05,
        jump_rate_per_day=0.0,
        demand_sd=0.0,
        demand_response=0.0,
        trade_probability=0.0,
        rival_counts=(0.0, 0.0, 0.0),
        lender_close_probability=0.0,
        taker_fee_bps=0.0,
        spread_bps=0.0,
        depth_quote=_ENDLESS,
        impact_bps=0.0,
        latency_s=0.0,
        chain_base_quote=_ENDLESS,
        chain_quote=_ENDLESS,
        exchange_base_quote=_ENDLESS,
        exchange_quote=_ENDLESS,
        inventory_penalty_bps=0.0,
        episode_blocks=1_000,
    ),
}


def preset_config(preset: str = "ethereum", **overrides: Any) -> CrossConfig:
    """A preset with fields of ``CrossConfig`` or of its ``Chain`` replaced by name; refuses unknown names."""
    return choose(PRESETS, preset, overrides)


# ------------------------------------------------------------------------------------------- what the agent sees and does
def _observation() -> tuple[Field, ...]:
    rows = []
    for side, what in (("buy", "buying base on chain"), ("sell", "selling base on chain"), ("cycle", "the best two-pool cycle")):
        rows += [
            Field(f"edge_{side}", "bps", 20.0, 0.0, 10.0, f"{what}: price difference net of pool fees, best pool"),
            Field(
                f"log_profit_{side}",
                "ln(1 + quote)",
                4.0,
                0.0,
                4.0,
                f"{what}: profit at the exchange's mid before all other costs",
            ),
            Field(f"log_notional_{side}", "ln(1 + quote)", 10.0, 0.0, 2.0, f"{what}: size that closes the gap"),
        ]
    rows += [
        Field("gas_share", "1", 1.0, 0.0, 4.0, "gas cost over the profit of the most profitable of the three"),
        Field("ticks_crossed", "1", 4.0, 0.0, 4.0, "range ends it crosses"),
        Field("exchange_cost", "bps", 5.0, 0.0, 10.0, "taker fee and half the spread now"),
        Field("depth", "1", 1.0, 0.0, 1.0, "top of the exchange's book now over its quiet size"),
        Field("depth_share", "1", 1.0, 0.0, 4.0, "notional of the most profitable side over the top of book"),
        Field("chain_base", "1", 1.0, 0.0, 4.0, "base on chain over what all base was at the start"),
        Field("chain_quote", "1", 1.0, 0.0, 4.0, "quote on chain over what all quote was at the start"),
        Field("exchange_base", "1", 1.0, 0.0, 4.0, "base on the exchange over what all base was at the start"),
        Field("exchange_quote", "1", 1.0, 0.0, 4.0, "quote on the exchange over what all quote was at the start"),
        Field("transit_base", "1", 1.0, -2.0, 2.0, "base in transit, + to the chain, over what all base was at the start"),
        Field("transit_quote", "1", 1.0, -2.0, 2.0, "quote in transit, + to the chain, over what all quote was at the start"),
        Field("transit_left", "1", 1.0, 0.0, 1.0, "share of the transfer time left"),
        Field("exposure", "1", 0.25, -8.0, 8.0, "base held beyond the start, over what all base was at the start"),
        Field("health", "1", 0.05, -5.0, 5.0, "net worth over its start, less 1"),
        Field("drawdown", "1", 0.05, 0.0, 5.0, "fall of net worth from its peak, over the start"),
        Field("volatility", "bps per block", 5.0, 0.0, 10.0, "moving average of absolute log returns of the exchange price"),
        Field("return", "bps", 5.0, -10.0, 10.0, "last log return of the exchange price"),
        Field("log_base_fee", "ln gwei", 5.0, -3.0, 3.0, "base fee of the next block"),
        Field("gas_percentile", "1", 1.0, 0.0, 1.0, "where the base fee stands among its recent values (Student t, 2 degrees)"),
        Field("fullness", "1", 1.0, 0.0, 1.0, "gas used by the last block over its limit"),
        *BID_HISTORY,
        Field("bid_freshness", "1", 1.0, 0.0, 1.0, "1 / (1 + blocks since a bid was seen)"),
        RIVALS_SEEN,
        Field("won", "flag", 1.0, 0.0, 1.0, "own on-chain leg filled in the last block"),
        Field("dropped", "flag", 1.0, 0.0, 1.0, "own on-chain leg was dropped in the last block"),
        Field("reverted", "flag", 1.0, 0.0, 1.0, "own on-chain leg reverted in the last block"),
        Field("own_bid", "1", 1.0, 0.0, 1.0, "own tip share in the last block, 0 if none"),
        Field("session_left", "1", 1.0, 0.0, 1.0, "share of the session's blocks left"),
    ]
    for k in range(MAX_POOLS):
        rows.append(Field(f"gap_{k}", "bps", 20.0, -10.0, 10.0, f"price of pool {k} over the exchange's mid, less 1"))
    for k in range(MAX_POOLS):
        rows.append(Field(f"liquidity_{k}", "1", 1.0, 0.0, 10.0, f"notional moving pool {k} by 10 bps, over the top of book"))
    return tuple(rows)


OBSERVATION = _observation()
_FIELD = {entry.name: np.int64(k) for k, entry in enumerate(OBSERVATION)}
_GAS_SHARE = int(_FIELD["gas_share"])
_GAPS, _LIQUIDITIES = int(_FIELD["gap_0"]), int(_FIELD["liquidity_0"])

HOLD, BUY, SELL, FLASH_ARB, REBALANCE = 0.0, 1.0, 2.0, 3.0, 4.0
ORACLE = -1.0  # an act that no encoding can express: with hindsight
ACTION = (
    Choice(
        "act",
        "category",
        (HOLD, BUY, SELL, FLASH_ARB, REBALANCE),
        "on chain: nothing, buy base, sell base, a two-pool cycle; or send inventory to where it started",
        (BUY, SELL, FLASH_ARB, REBALANCE),
        False,
        ("hold", "buy", "sell", "flash_arb", "rebalance"),
    ),
    Choice(
        "size_share",
        "1",
        (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0),
        "size over the one that closes the gap to the exchange's mid",
        (0.5, 0.8, 1.0),
    ),
    Choice(
        "tip_share", "1", BID_SHARES, "tip over the predicted profit before gas", (0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.88)
    ),
    Choice("tolerance", "1", TOLERANCES, "accepted shortfall of the profit, as a share of the prediction", (0.2,)),
    Choice(
        "hedge_share",
        "1",
        (0.0, 0.5, 1.0),
        "share of the exposure, the on-chain leg's included, that is traded away on the exchange",
        (1.0, 0.0),
    ),
)

INFO = (
    "net_profit",
    "gross_profit",
    "pool_fee",
    "exchange_cost",
    "loan_fee",
    "gas_cost",
    "tip",
    "revert_cost",
    "transfer_cost",
    "inventory_loss",
    "inventory_penalty",
    "oracle_profit",
    "predicted_profit",
    "notional",
    "hedged_notional",
    "exposure",
    "attempted",
    "included",
    "reverted",
    "dropped",
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
    _EXCHANGE_COST,
    _LOAN_FEE,
    _GAS_COST,
    _TIP,
    _REVERT_COST,
    _TRANSFER_COST,
    _INVENTORY_LOSS,
    _PENALTY,
    _ORACLE_PROFIT,
    _PREDICTED,
    _NOTIONAL,
    _HEDGED,
    _EXPOSURE,
    _ATTEMPTED,
    _INCLUDED,
    _REVERTED,
    _DROPPED,
    _UNPROFITABLE,
    _OPPORTUNITY,
    _BID_SHARE,
    _RIVAL_BID_SHARE,
    _RIVAL_COUNT,
    _REGIME_INFO,
) = range(len(INFO))


# --------------------------------------------------------------------------------------------------------- world and state
STATE = np.dtype(
    [
        *MARKET_STATE,
        # what each pool offers against the exchange's mid: base from it, quote to it (both negative: sell base to it)
        ("gap_base", "f8", (MAX_POOLS,)),
        ("gap_quote", "f8", (MAX_POOLS,)),
        ("gap_profit", "f8", (MAX_POOLS,)),
        ("gap_crossed", "i8", (MAX_POOLS,)),
        ("best_buy", "i8"),  # pool with the most profitable gap of each direction, -1 for none
        ("best_sell", "i8"),
        # inventory, tokens; in transit + to the chain, - to the exchange
        ("chain_base", "f8"),
        ("chain_quote", "f8"),
        ("exchange_base", "f8"),
        ("exchange_quote", "f8"),
        ("transit_base", "f8"),
        ("transit_quote", "f8"),
        ("transit_blocks", "i8"),
        ("start_base", "f8"),
        ("start_worth", "f8"),
        ("worth", "f8"),
        ("peak_worth", "f8"),
        ("fee_mean", "f8"),  # moving average of the log base fee, and of its absolute deviation
        ("fee_spread", "f8"),
    ],
    align=True,
)


def build_world(config: CrossConfig, tape: Tape | None = None) -> World:
    """Numbers and tables that the kernels read.

    With a tape, its pools replace the configured ones, its reference price is the exchange's, its rows are the blocks. Pools of
    kind reference are no pools here and are left out; they have to come last.
    """
    block_s = config.chain.block_time_s if tape is None else float(tape.step_seconds)
    typical = config.volatility_per_sqrt_day * math.sqrt(block_s / SECONDS_PER_DAY) * math.sqrt(2.0 / math.pi)
    values = market_values(config, tape) | {"log_utility": config.utility == "log"}
    values |= {"typical_volatility": typical, "block_time_s": block_s}
    if tape is None:
        return World(config_record(values), tape_rows(tape))
    traded = [pool.kind != "reference" for pool in tape.pools]
    count = sum(traded)
    if not count or not all(traded[:count]):
        kinds = ", ".join(pool.kind for pool in tape.pools)
        raise ValueError(f"tape: pools of kinds {kinds}; accepted is at least one v2 or v3 pool, those of kind reference last")
    values["pool_count"] = count
    return World(config_record(values), tape_rows(tape))


# ------------------------------------------------------------------------------------------------------------------ kernels
@kernel
def reset(world: World, s: Any) -> None:
    """Start an episode in state record ``s``; its seed and episode number are set by the engine."""
    c = world.config[0]
    start_market(c, world.tape, s)
    s.chain_base = c.chain_base_quote / s.price
    s.chain_quote = c.chain_quote
    s.exchange_base = c.exchange_base_quote / s.price
    s.exchange_quote = c.exchange_quote
    s.transit_base = 0.0
    s.transit_quote = 0.0
    s.transit_blocks = 0
    s.start_base = s.chain_base + s.exchange_base
    s.worth = c.chain_quote + c.exchange_quote + (1.0 - c.borrowed_share) * s.start_base * s.price
    s.start_worth = s.worth
    s.peak_worth = s.worth
    s.fee_mean = s.log_base_fee
    s.fee_spread = 0.1
    _see(c, s)


@kernel
def _see(c: Any, s: Any) -> None:
    """What each pool offers against the exchange's mid, the best of each direction, and the best cycles between pools."""
    s.best_buy = -1
    s.best_sell = -1
    best_buy, best_sell = 0.0, 0.0
    highest_bid, lowest_ask = 0.0, math.inf
    for k in range(c.pool_count):
        price = s.sqrt_price[k] * s.sqrt_price[k]
        highest_bid = max(highest_bid, price * c.keep[k])
        lowest_ask = min(lowest_ask, price / c.keep[k])
        _see_gap(c, s, k)
        profit = s.gap_profit[k]
        if s.gap_base[k] > 0.0:
            if profit > best_buy:
                best_buy, s.best_buy = profit, k
        elif profit > best_sell:
            best_sell, s.best_sell = profit, k
    if highest_bid > lowest_ask:
        best_routes(c, c.pool_count, s)
    else:
        for rank in range(2):
            s.route_profit[rank] = 0.0
            s.route_quote_in[rank] = 0.0
            s.route_crossed[rank] = 0


@kernel
def _see_gap(c: Any, s: Any, k: int) -> None:
    base, quote, crossed = size_against(c, s, k, s.price)
    s.gap_base[k] = base
    s.gap_quote[k] = quote
    s.gap_profit[k] = max(base * s.price - quote, 0.0)
    s.gap_crossed[k] = crossed


@inner
def _edge(c: Any, s: Any, k: int) -> float:
    """Relative difference between pool k's price net of its fee and the exchange's mid, 0 within the band."""
    price = s.sqrt_price[k] * s.sqrt_price[k]
    if s.gap_base[k] > 0.0:
        return float(s.price * c.keep[k] / price - 1.0)
    if s.gap_base[k] < 0.0:
        return float(price * c.keep[k] / s.price - 1.0)
    return 0.0


@part
def _swap_gas(c: Any, k: int, crossed: int) -> float:
    """Gas used by a single swap in pool k."""
    return float(c.gas_swap_overhead + leg_gas(c, c.kind[k]) + c.gas_per_tick * abs(crossed))


@part
def _base_total(s: Any) -> float:
    return float(s.chain_base + s.exchange_base + abs(s.transit_base))


@inner
def _share(part_of: float, whole: float) -> float:
    return part_of / whole if whole > 0.0 else 0.0


@kernel
def observe(world: World, s: Any, out: NDArray[np.float32]) -> None:
    """Raw observation in the fields' units and order; the engine scales and clips it."""
    c = world.config[0]
    for k in range(len(out)):
        out[k] = 0.0
    gas_price = gas_price_quote(c, s)
    best_profit, notional, gas, crossed = 0.0, 0.0, 0.0, 0
    for side in range(2):
        k = s.best_buy if side == 0 else s.best_sell
        if k < 0:
            continue
        out[3 * side] = _edge(c, s, k) * 1e4
        out[3 * side + 1] = math.log1p(s.gap_profit[k])
        out[3 * side + 2] = math.log1p(abs(s.gap_quote[k]))
        if s.gap_profit[k] > best_profit:
            best_profit, notional, crossed = s.gap_profit[k], abs(s.gap_quote[k]), abs(s.gap_crossed[k])
            gas = _swap_gas(c, k, crossed)
    if s.route_profit[0] > 0.0:
        buy, sell = s.route_buy[0], s.route_sell[0]
        out[6] = cycle_edge(s.sqrt_price[buy], c.keep[buy], s.sqrt_price[sell], c.keep[sell]) * 1e4
        out[7] = math.log1p(s.route_profit[0])
        out[8] = math.log1p(s.route_quote_in[0])
        if s.route_profit[0] > best_profit:
            best_profit, notional, crossed = s.route_profit[0], 0.0, abs(s.route_crossed[0])
            gas = cycle_gas(c, buy, sell, crossed, 0.0)
    depth = depth_quote(c, s)
    n = _GAS_SHARE
    if best_profit > 0.0:
        out[n] = min((gas * gas_price + c.data_fee_quote) / best_profit, 100.0)
    out[n + 1] = crossed
    out[n + 2] = cost_rate(c, s) * 1e4
    out[n + 3] = depth / c.depth_quote
    out[n + 4] = notional / depth
    quote_start = c.chain_quote + c.exchange_quote
    out[n + 5] = _share(s.chain_base, s.start_base)
    out[n + 6] = _share(s.chain_quote, quote_start)
    out[n + 7] = _share(s.exchange_base, s.start_base)
    out[n + 8] = _share(s.exchange_quote, quote_start)
    out[n + 9] = _share(s.transit_base, s.start_base)
    out[n + 10] = _share(s.transit_quote, quote_start)
    out[n + 11] = _share(float(s.transit_blocks), float(_transfer_blocks(c)))
    out[n + 12] = _share(_base_total(s) - s.start_base, s.start_base)
    out[n + 13] = s.worth / s.start_worth - 1.0
    out[n + 14] = (s.peak_worth - s.worth) / s.start_worth
    out[n + 15] = s.volatility * 1e4
    out[n + 16] = s.last_return * 1e4
    out[n + 17] = s.log_base_fee
    rank = (s.log_base_fee - s.fee_mean) / (1.25 * s.fee_spread)
    out[n + 18] = 0.5 * (1.0 + rank / math.sqrt(2.0 + rank * rank))
    out[n + 19] = s.fullness
    out[n + 20] = s.bid_last
    out[n + 21] = s.bid_fast
    out[n + 22] = s.bid_slow
    out[n + 23] = s.bid_spread
    out[n + 24] = 1.0 / (1.0 + s.bid_age)
    out[n + 25] = s.rivals_seen
    out[n + 26] = s.won
    out[n + 27] = s.dropped
    out[n + 28] = s.reverted
    out[n + 29] = s.own_bid
    out[n + 30] = 1.0 - s.block / c.episode_blocks
    for k in range(c.pool_count):
        price = s.sqrt_price[k] * s.sqrt_price[k]
        out[_GAPS + k] = (price / s.price - 1.0) * 1e4
        # sqrt price moves by 5 bps for 10 bps of price: quote = liquidity * change of sqrt price
        out[_LIQUIDITIES + k] = s.scale[k] * _depth_here(c, s, k) * s.sqrt_price[k] * 5e-4 / c.depth_quote


@part
def _depth_here(c: Any, s: Any, k: int) -> float:
    """The table's depth in the range where pool k stands; 1 in a constant-product pool."""
    return float(c.depth[k, s.range_index[k]]) if c.kind[k] == CONCENTRATED else 1.0


@inner
def _transfer_blocks(c: Any) -> int:
    """Blocks that a transfer takes, at least 1."""
    blocks: int = math.ceil(c.transfer_s / c.block_time_s)
    return max(blocks, 1)


@part
def _rebalance(c: Any, s: Any, gas_price: float, info: Floats) -> None:
    """Send each token to where it started, unless a transfer is on its way; balances are split as at the start."""
    if s.transit_blocks > 0:
        return
    base_share = _share(c.chain_base_quote, c.chain_base_quote + c.exchange_base_quote)
    quote_share = _share(c.chain_quote, c.chain_quote + c.exchange_quote)
    base = (s.chain_base + s.exchange_base) * base_share - s.chain_base
    quote = (s.chain_quote + s.exchange_quote) * quote_share - s.chain_quote
    cost = 0.0
    for value in (base * s.price, quote):
        if abs(value) > 1.0:
            cost += c.transfer_fee_quote + (c.gas_transfer * gas_price if value < 0.0 else 0.0)
    if cost <= 0.0 and abs(base) * s.price + abs(quote) <= 1.0:
        return
    if base > 0.0:
        s.exchange_base -= base
    else:
        s.chain_base += base
    if quote > 0.0:
        s.exchange_quote -= quote
    else:
        s.chain_quote += quote
    s.transit_base = base
    s.transit_quote = quote
    s.transit_blocks = _transfer_blocks(c)
    s.chain_quote -= cost
    info[_TRANSFER_COST] = cost


@kernel
def mask(world: World, s: Any, out: Any) -> None:
    """A leg without a pool to gain in or a balance to pay with, a cycle that pays nothing or that nobody lends for, and sending
    inventory while some is on its way.
    """
    c = world.config[0]
    out[0, int(BUY)] = s.best_buy >= 0 and s.chain_quote > 0.0
    out[0, int(SELL)] = s.best_sell >= 0 and s.chain_base > 0.0
    paying = s.route_profit[0] > 0.0
    out[0, int(FLASH_ARB)] = paying and cheapest_lender(c, s, s.route_buy[0], s.route_quote_in[0], gas_price_quote(c, s)) >= 0
    out[0, int(REBALANCE)] = s.transit_blocks == 0


@part
def _arrive(s: Any) -> None:
    """Inventory in transit comes a block nearer."""
    if s.transit_blocks == 0:
        return
    s.transit_blocks -= 1
    if s.transit_blocks > 0:
        return
    if s.transit_base > 0.0:
        s.chain_base += s.transit_base
    else:
        s.exchange_base -= s.transit_base
    if s.transit_quote > 0.0:
        s.chain_quote += s.transit_quote
    else:
        s.exchange_quote -= s.transit_quote
    s.transit_base = 0.0
    s.transit_quote = 0.0


@inner
def _rival_value(c: Any, s: Any, k: int) -> float:
    """What pool k's gap is worth to a rival after its own exchange leg; profit grows with the square of the edge."""
    edge = _edge(c, s, k)
    cost = c.rival_cost_bps * 1e-4
    if edge <= cost:
        return 0.0
    return float(s.gap_profit[k] * (1.0 - cost / edge) ** 2)


@inner
def _rivals_close(c: Any, s: Any, k: int) -> None:
    """A rival trades pool k back to the edge of its own no-trade band."""
    cost = c.rival_cost_bps * 1e-4
    arbitrage_to(c, s, k, s.price * (1.0 - cost), s.price * (1.0 + cost))


@inner
def _leg_profit(c: Any, s: Any, k: int, amount: float, buying: bool) -> tuple[float, float, float]:
    """(predicted profit, base from the pool, quote to it) of the on-chain leg now, its exchange leg counted at its full cost."""
    if buying:
        base, _, _, _ = quote_buy(c, s, k, amount)
        quote = amount
    else:
        out, _, _, _ = quote_sell(c, s, k, amount)
        base, quote = -amount, -out
    return base * s.price - quote - order_cost(c, s, abs(base) * s.price), base, quote


@part
def _flow_moved(c: Any, s: Any) -> bool:
    """Point 2's trades ahead; a tape has none. Says whether any landed."""
    return bool(not c.replay and noise_flow(c, s, BEFORE))


@kernel
def step(world: World, s: Any, decision: Floats, info: Floats) -> tuple[float, bool, bool]:
    """One block; ``decision`` (5,) in ACTION's order, ``info`` (len(INFO),) is filled: (reward, terminated, truncated)."""
    c = world.config[0]
    for k in range(len(info)):
        info[k] = 0.0
    info[_REGIME_INFO] = s.regime
    s.won = 0.0
    s.dropped = 0.0
    s.reverted = 0.0
    s.own_bid = 0.0
    price = s.price
    worth = s.worth
    exposed = _base_total(s) - c.borrowed_share * s.start_base
    hindsight = decision[0] == ORACLE

    # the price at the end of the block and, on the way there, when an order sent now reaches the exchange
    block = s.block + 1
    interval_u, jump_u, regime_u, lender_u = uniform4(s.seed, s.episode, block, EVENTS)
    price_z, fullness_z, demand_z, latency_z = price_normals(s, block)
    if c.replay:
        log_price = math.log(world.tape[min(s.tape_row + 1, world.tape.shape[0] - 1), 0])
        share = min(c.latency_s / c.block_time_s, 1.0)
        log_filled = s.log_price + share * (log_price - s.log_price)
    else:
        log_price, dt_days = next_log_price(c, s, block, interval_u, jump_u, price_z)
        share = min(c.latency_s / (dt_days * SECONDS_PER_DAY), 1.0)
        bridge = c.volatility_per_sqrt_day * math.sqrt(dt_days * share * (1.0 - share))
        log_filled = s.log_price + share * (log_price - s.log_price) + bridge * latency_z
    filled_price = math.exp(log_filled)

    base_change, hedge = _trade(c, s, decision, hindsight, filled_price, info)

    # 3. the rest of the block
    s.block = block
    if c.replay:
        replay_row(world.tape, c, s)
    else:
        s.block = block - 1  # the trades that were not ahead belong to the block that just ended
        noise_flow(c, s, AFTER)
        s.block = block
        take_price(s, log_price)
        next_fees(c, s, fullness_z, demand_z)
        move_regime(c, s, regime_u, lender_u)
    s.fee_spread += 0.02 * (max(abs(s.log_base_fee - s.fee_mean), 1e-3) - s.fee_spread)
    s.fee_mean += 0.02 * (s.log_base_fee - s.fee_mean)
    _arrive(s)
    _see(c, s)
    at_end = c.replay and s.tape_row >= world.tape.shape[0] - 1
    if s.block >= c.episode_blocks or at_end:
        _flatten(c, s, info)

    # what it made
    info[_INVENTORY_LOSS] = -((exposed + base_change) * (s.price - price) + hedge * (s.price - filled_price))
    costs = info[_POOL_FEE] + info[_EXCHANGE_COST] + info[_LOAN_FEE] + info[_GAS_COST] + info[_TIP]
    info[_NET] = info[_GROSS] - costs - info[_REVERT_COST] - info[_TRANSFER_COST] - info[_INVENTORY_LOSS]
    if info[_ATTEMPTED] > 0.0 and info[_NET] + info[_INVENTORY_LOSS] < 0.0:
        info[_UNPROFITABLE] = 1.0
    s.worth = worth + info[_NET]
    s.peak_worth = max(s.peak_worth, s.worth)
    exposure = (_base_total(s) - s.start_base) * s.price
    info[_EXPOSURE] = exposure
    info[_PENALTY] = c.inventory_penalty_bps * 1e-4 * abs(exposure)
    reward = info[_NET]
    if not c.reward_price_moves:
        reward += info[_INVENTORY_LOSS]
    if c.log_utility:
        floor = 1e-6 * s.start_worth
        reward = s.start_worth * math.log(max(s.worth, floor) / max(worth, floor))
    reward = (reward - info[_PENALTY]) / c.reward_scale_quote
    ruined = s.worth <= (1.0 - c.ruin_share) * s.start_worth
    terminated = s.block >= c.episode_blocks or ruined or s.revert_spent > c.revert_budget_quote
    return reward, terminated, at_end and not terminated


@part
def _flatten(c: Any, s: Any, info: Floats) -> None:
    """A session ends flat: what exposure is left is traded away on the exchange at its cost, whichever side holds it."""
    exposure = _base_total(s) - s.start_base
    notional = abs(exposure) * s.price
    if notional > 1.0:
        cost = order_cost(c, s, notional)
        s.exchange_base -= exposure
        s.exchange_quote += exposure * s.price - cost
        info[_EXCHANGE_COST] += cost
        info[_HEDGED] += notional


@part
def _trade(c: Any, s: Any, decision: Floats, hindsight: bool, filled_price: float, info: Floats) -> tuple[float, float]:
    """Points 1 and 2 of "One step": (base that the on-chain leg brought, base that the exchange leg brought)."""
    gas_price = gas_price_quote(c, s)
    act = int(decision[0])

    # the decision, on the state it was taken in
    target = -1  # pool of the on-chain leg, or pool_count for a cycle
    buying = act == int(BUY)
    amount, predicted, at_mid, wanted = 0.0, 0.0, 0.0, 0.0
    buy, sell, lender = 0, 0, -1
    loan_fee, loan_gas = 0.0, 0.0
    if act == int(BUY) and s.best_buy >= 0:
        amount = min(s.gap_quote[s.best_buy] * decision[1], s.chain_quote)
        if amount > 0.0:
            target = s.best_buy
    elif act == int(SELL) and s.best_sell >= 0:
        amount = min(-s.gap_base[s.best_sell] * decision[1], s.chain_base)
        if amount > 0.0:
            target = s.best_sell
    elif act == int(FLASH_ARB) and s.route_profit[0] > 0.0:
        buy, sell = s.route_buy[0], s.route_sell[0]
        lender = cheapest_lender(c, s, buy, s.route_quote_in[0] * decision[1], gas_price)
        if lender >= 0:
            target = c.pool_count
            loan_fee, loan_gas = c.loan_fee[lender], c.loan_gas[lender]
            amount = min(s.route_quote_in[0] * decision[1], s.lender_available[lender])
            quote_out, _ = quote_cycle(c, s, buy, sell, amount)
            predicted = quote_out - amount * (1.0 + loan_fee)
            at_mid = predicted
    elif act == int(REBALANCE):
        _rebalance(c, s, gas_price, info)
    if 0 <= target < c.pool_count:
        predicted, wanted, quote = _leg_profit(c, s, target, amount, buying)
        at_mid = wanted * s.price - quote
    tip = max(predicted, 0.0) * decision[2]
    minimum_profit = predicted - max(predicted, 0.0) * decision[3]

    # 1. the exchange leg
    hedge = 0.0
    if not hindsight and decision[4] > 0.0:
        exposure = _base_total(s) - s.start_base + wanted
        if abs(exposure) * s.price > 1.0:
            hedge, cost = fill(c, s, -exposure * decision[4], filled_price)
            info[_EXCHANGE_COST] = cost
            info[_HEDGED] = abs(hedge) * filled_price

    # 2. the block: trades ahead, then for every gap the best bid first
    if _flow_moved(c, s):
        _see(c, s)
    contest = target if target >= 0 else _largest_gap(c, s)
    s.bid_age += 1.0
    if contest < 0:
        return 0.0, hedge
    private_u, own_u, visible_u, _ = uniform4(s.seed, s.episode, s.block, SUBMIT)
    included = private_u < c.private_inclusion
    oracle_profit, oracle_target = 0.0, -1
    base_change = 0.0
    done = False
    for turn in range(c.pool_count + 1):
        # the contested gap first, then the others, the cycle last
        k = contest if turn == 0 else (turn - 1 if turn <= contest else turn)
        cycle = k == c.pool_count
        if cycle:
            value, profit = s.route_profit[0], s.route_profit[0]
            crossed = s.route_crossed[0]
            gas = cycle_gas(c, s.route_buy[0], s.route_sell[0], crossed, 0.0)
        else:
            value, profit = _rival_value(c, s, k), s.gap_profit[k]
            crossed = s.gap_crossed[k]
            gas = _swap_gas(c, k, crossed)
        mine = k == target
        if profit <= 0.0 and not mine:
            continue
        bid, key, _, _, bidding = rival_bids(c, s, value, gas * gas_price, 0.0)
        noise = race_key(1.0, c.ordering_noise, own_u) if key > 0.0 else 1.0
        if included:
            least_gas = gas - c.gas_per_tick * abs(crossed)  # a smaller trade may cross nothing
            best = profit - least_gas * gas_price - c.data_fee_quote - key / noise
            if best > oracle_profit:
                oracle_profit, oracle_target = best, k
        if turn == 0 and value > gas * gas_price:
            info[_OPPORTUNITY] = 1.0
            info[_RIVAL_BID_SHARE] = bid / value
            info[_RIVAL_COUNT] = bidding
            if visible_u < c.losing_bid_visibility:
                see_bid(s, bid / value, bidding)
        if hindsight:
            continue
        first = mine and included and tip * noise > key
        if first:
            done, base_change = _take(
                c, s, target, buying, buy, sell, amount, loan_fee, loan_gas, minimum_profit, tip, gas_price, info
            )
        if key > 0.0:
            if cycle:
                rival_takes_cycle(c, s, gas_price, turn == 0 and not first)
            else:
                if first and done:
                    _see_gap(c, s, k)
                if not (first and done) or _rival_value(c, s, k) > gas * gas_price:
                    _rivals_close(c, s, k)
        if mine and included and not done:
            done, base_change = _take(
                c, s, target, buying, buy, sell, amount, loan_fee, loan_gas, minimum_profit, tip, gas_price, info
            )
    info[_ORACLE_PROFIT] = oracle_profit
    if hindsight:
        base_change, hedge = _act_with_hindsight(c, s, oracle_target, oracle_profit, gas_price, filled_price, info)
        return base_change, hedge

    # what came of the on-chain leg
    if target >= 0:
        info[_ATTEMPTED] = 1.0
        info[_PREDICTED] = at_mid
        info[_NOTIONAL] = amount if buying or target == c.pool_count else amount * s.price
        info[_BID_SHARE] = decision[2]
        s.own_bid = min(decision[2], 1.0)
        if done:
            s.won = 1.0
        elif included and c.private_revert_pays:
            gas = cycle_gas(c, buy, sell, 0, loan_gas) if target == c.pool_count else _swap_gas(c, target, 0)
            cost = c.revert_gas_share * (gas * gas_price + tip) + c.data_fee_quote
            info[_REVERT_COST] = cost
            info[_REVERTED] = 1.0
            s.chain_quote -= cost
            s.revert_spent += cost
            s.reverted = 1.0
        else:
            info[_DROPPED] = 1.0
            s.dropped = 1.0
    return base_change, hedge


@inner
def _largest_gap(c: Any, s: Any) -> int:
    """The pool whose gap pays most at mid, or the cycle (pool_count) where that pays more; -1 for none."""
    best, index = 0.0, -1
    for k in range(c.pool_count):
        if s.gap_profit[k] > best:
            best, index = s.gap_profit[k], k
    if s.route_profit[0] > best:
        index = c.pool_count
    return index


@inner
def _take(
    c: Any,
    s: Any,
    target: int,
    buying: bool,
    buy: int,
    sell: int,
    amount: float,
    loan_fee: float,
    loan_gas: float,
    minimum_profit: float,
    tip: float,
    gas_price: float,
    info: Floats,
) -> tuple[bool, float]:
    """Execute the agent's on-chain leg if it still makes its minimum profit; book each part: (done, base that it brought)."""
    base, quote, fee = 0.0, 0.0, 0.0
    if target == c.pool_count:
        quote_out, _ = quote_cycle(c, s, buy, sell, amount)
        if quote_out - amount * (1.0 + loan_fee) < minimum_profit:
            return False, 0.0
        quote_out, base_flow, crossed = swap_cycle(c, s, buy, sell, amount)
        quote = amount - quote_out
        fee = amount * (1.0 - c.keep[buy]) + base_flow * (1.0 - c.keep[sell]) * s.price
        info[_LOAN_FEE] = loan_fee * amount
        gas = cycle_gas(c, buy, sell, crossed, loan_gas)
    else:
        profit, base, quote = _leg_profit(c, s, target, amount, buying)
        if profit < minimum_profit:
            return False, 0.0
        before = s.range_index[target]
        if buying:
            swap_buy(c, s, target, amount)
            fee = amount * (1.0 - c.keep[target])
        else:
            swap_sell(c, s, target, amount)
            fee = amount * (1.0 - c.keep[target]) * s.price
        gas = _swap_gas(c, target, s.range_index[target] - before)
    info[_POOL_FEE] = fee
    info[_GROSS] = base * s.price - quote + fee
    info[_GAS_COST] = gas * gas_price + c.data_fee_quote
    info[_TIP] = tip
    info[_INCLUDED] = 1.0
    s.chain_base += base
    s.chain_quote -= quote + info[_LOAN_FEE] + info[_GAS_COST] + tip
    return True, base


@part
def _act_with_hindsight(
    c: Any, s: Any, target: int, profit: float, gas_price: float, filled_price: float, info: Floats
) -> tuple[float, float]:
    """The oracle takes the best trade found at the least bid that wins, hedges at mid for nothing and never lacks inventory.

    Its profit is the bound itself; the pools move as its trade moves them, the other gaps are left to the rivals.
    """
    if target == c.pool_count:
        swap_cycle(c, s, s.route_buy[0], s.route_sell[0], s.route_quote_in[0])
    elif target >= 0:
        if s.gap_base[target] > 0.0:
            swap_buy(c, s, target, s.gap_quote[target])
        else:
            swap_sell(c, s, target, -s.gap_base[target])
    for k in range(c.pool_count):
        if k != target and s.gap_profit[k] > 0.0:
            _, key, _, _, _ = rival_bids(c, s, _rival_value(c, s, k), _swap_gas(c, k, s.gap_crossed[k]) * gas_price, 0.0)
            if key > 0.0:
                _rivals_close(c, s, k)
    if target >= 0:
        info[_ATTEMPTED] = 1.0
        info[_INCLUDED] = 1.0
        info[_PREDICTED] = profit
        info[_GROSS] = profit
        s.exchange_quote += profit
        s.won = 1.0
    return 0.0, 0.0


def opportunity(env: NativeVectorEnv) -> dict[str, Floats]:
    """What the next decision of each environment is about, as columns of the table ``opportunities``: arrays (N,)."""
    s, c = env.core.batch.state, env.core.world.config[0]
    rows = np.arange(env.num_envs)
    pool = np.argmax(s["gap_profit"], axis=1)
    cycle = s["route_profit"][:, 0] > s["gap_profit"][rows, pool]
    price = s["sqrt_price"][rows, pool] ** 2
    edge = np.abs(np.log(s["price"] / price)) + np.log(c["keep"][pool])
    around = cycle_edges(c, s)
    pool = np.where(cycle, s["route_buy"][:, 0], pool)
    return {
        "cex_price": s["price"].copy(),
        "dex_price": s["sqrt_price"][rows, pool] ** 2,
        "edge_bps": np.where(cycle, around, np.expm1(edge) * 1e4),
        "pool_liquidity_quote": quote_in_range(c, s, pool),
        "gas_price_gwei": s["base_fee_wei"] * 1e-9,
        "hops": np.where(cycle, 2.0, 1.0),
    }


def _baselines() -> dict[str, Any]:
    from arbgym.envs.cross_baselines import BASELINES

    return BASELINES


DEFINITION = Definition(
    id="ArbCross-v0",
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
    opportunity=opportunity,
    mask=mask,
    reward_parts=(
        "gross_profit",
        *("pool_fee", "exchange_cost", "loan_fee", "gas_cost", "tip", "revert_cost", "transfer_cost", "inventory_loss"),
    ),
)


if __name__ == "__main__":
    from arbgym.engine import print_speed

    print_speed(DEFINITION)
