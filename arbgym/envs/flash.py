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
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.ranges import Floats
from arbgym.amm.route import cycle_edge
from arbgym.engine import Definition, NativeVectorEnv, config_record
from arbgym.envs.common import BID_HISTORY, BID_SHARES, RIVALS_SEEN, TOLERANCES, World
from arbgym.jit import kernel, part
from arbgym.market.auction import MAX_RIVALS, equilibrium_bid, race_key
from arbgym.market.block import (
    AFTER,
    BEFORE,
    EVENTS,
    INFORMED,
    MARKET_STATE,
    ORDER,
    RIVAL,
    RIVALS,
    START,
    SUBMIT,
    constants,
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
from arbgym.market.config import MarketConfig, PoolConfig, choose, market_values, tape_rows
from arbgym.market.gas import cycle_gas, leg_gas
from arbgym.market.lender import AAVE, BALANCER, FLASH_SWAPS, MAX_LENDERS, Lender, cheapest_lender, lender_serves
from arbgym.market.pools import (
    CONSTANT_PRODUCT,
    MAX_POOLS,
    REFERENCE,
    arbitrage_to,
    best_routes,
    cycle_edges,
    quote_cycle,
    quote_in_range,
    quote_sell,
    restore_pools,
    save_pools,
    set_price,
    swap_buy,
    swap_cycle,
    swap_sell,
)
from arbgym.market.searchers import best_cycle, rival_bids, rival_takes_cycle, see_bid
from arbgym.rng import uniform2, uniform4
from arbgym.spec import Choice, Field

if TYPE_CHECKING:
    from arbgym.market.tape import Tape

(_NO_TICKS,) = constants((0,))
(_SEEN,) = constants((True,))


# --------------------------------------------------------------------------------------------------------- configuration
@dataclass(frozen=True)
class FlashConfig(MarketConfig):
    """Every number of the world. Presets: ``preset_config``; per-chain numbers are in ``chain``."""

    informed_probability: float = 0.25  # that a pool is traded back to the reference price's fee band in a block
    rival_public_share: float = 0.15  # of rivals that use the public mempool
    # bidding alone
    auction: Literal["none", "first_price", "all_pay"] = "none"
    auction_bidders: int = 4  # the agent included
    auction_value_quote: float = 100.0  # upper end of the uniform values

    shares: ClassVar[tuple[str, ...]] = (*MarketConfig.shares, "informed_probability", "rival_public_share")
    positive: ClassVar[tuple[str, ...]] = (*MarketConfig.positive, "auction_value_quote")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.auction not in _AUCTIONS:
            raise ValueError(f"auction = {self.auction!r}; accepted are {', '.join(_AUCTIONS)}")
        if not 2 <= self.auction_bidders <= MAX_RIVALS + 1:
            raise ValueError(f"auction_bidders = {self.auction_bidders}; accepted is 2 to {MAX_RIVALS + 1}")


_AUCTIONS = ("none", "first_price", "all_pay")
_L2_POOLS = (
    PoolConfig("v3", 500.0, 6e6, 100.0),
    PoolConfig("v3", 3_000.0, 3e6, 250.0, 60.0, 30),
    PoolConfig("v2", 3_000.0, 1.5e6),
    PoolConfig("v3", 100.0, 1e6, 60.0, 10.0, 40),
)
_L2 = FlashConfig(
    pools=_L2_POOLS,
    lenders=(*FLASH_SWAPS, BALANCER, AAVE),
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
    return choose(PRESETS, preset, overrides)


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
        *BID_HISTORY,
        Field("bid_age", "ln(1 + blocks)", 4.0, 0.0, 2.0, "blocks since a bid was seen"),
        RIVALS_SEEN,
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
    Choice("tolerance", "1", TOLERANCES, "accepted shortfall of the profit, as a share of the prediction", (0.2,)),
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

# what a decision means (``intend``): pools and lender are places in the configuration, amounts in quote currency
INTENT = (
    *("attempting", "refused", "buy", "sell", "lender", "quote_in", "predicted", "tip", "minimum_profit"),
    *("gas_used", "gas_price"),
)

# what a live market tells of the block that ended: the own transaction's end, the best landed rival bid, the lenders' liquidity
TOLD = (
    *("won", "dropped", "reverted", "own_bid", "revert_cost", "rival_bid_share", "rival_count"),
    *(f"lender_{k}" for k in range(MAX_LENDERS)),
)
_WON, _LOST, _FAILED, _OWN_BID, _SPENT, _THEIR_BID, _RIVALS_MET, _LENDERS = range(len(TOLD) - MAX_LENDERS + 1)


# --------------------------------------------------------------------------------------------------------- world and state
STATE = np.dtype(
    [
        *MARKET_STATE,
        ("sandwiched", "f8"),
    ],
    align=True,
)


def build_world(config: FlashConfig, tape: Tape | None = None) -> World:
    """Numbers and tables that the kernels read. With a tape, its pools replace the configured ones."""
    if tape is not None and len(tape.pools) < config.least_pools:
        raise ValueError(f"tape: {len(tape.pools)} pool; accepted are {config.least_pools} or more, a cycle needs two")
    values = market_values(config, tape) | {"auction": _AUCTIONS.index(config.auction)}
    return World(config_record(values), tape_rows(tape))


# ------------------------------------------------------------------------------------------------------------------ kernels
@kernel
def reset(world: World, s: Any) -> None:
    """Start an episode in state record ``s``; its seed and episode number are set by the engine."""
    c = world.config[0]
    start_market(c, world.tape, s)
    s.sandwiched = 0.0
    _see_routes(c, s)


@kernel
def _see_routes(c: Any, s: Any) -> None:
    """Find the routes of the next decision; in the auction alone, draw its value."""
    if c.auction != 0:
        value, _ = uniform2(s.seed, s.episode, s.block, START)
        s.route_profit[0] = value * c.auction_value_quote
        s.route_profit[1] = 0.0
        return
    best_routes(c, c.pool_count, s)


@kernel
def observe(world: World, s: Any, out: NDArray[np.float32]) -> None:
    """Raw observation in the fields' units and order; the engine scales and clips it."""
    c = world.config[0]
    profit = s.route_profit[0]
    buy = s.route_buy[0]
    sell = s.route_sell[0]
    gas_price = gas_price_quote(c, s)
    for k in range(len(out)):
        out[k] = 0.0
    out[1] = math.log1p(profit)
    if c.auction == 0 and profit > 0.0:
        out[0] = cycle_edge(s.sqrt_price[buy], c.keep[buy], s.sqrt_price[sell], c.keep[sell]) * 1e4
        out[2] = math.log1p(s.route_quote_in[0])
        out[3] = s.route_crossed[0]
        lender = cheapest_lender(c, s, buy, s.route_quote_in[0], gas_price)
        loan_gas = 0.0
        if lender >= 0:
            loan_gas = c.loan_gas[lender]
            out[5] = c.loan_fee[lender] * 1e4
        cost = cycle_gas(c, buy, sell, s.route_crossed[0], loan_gas) * gas_price + c.data_fee_quote
        out[4] = min(cost / profit, 100.0)
        out[6] = 1.0 if c.kind[buy] == CONSTANT_PRODUCT else 0.0
        out[7] = 1.0 if c.kind[sell] == CONSTANT_PRODUCT else 0.0
        out[8] = s.route_profit[1] / profit
    out[9] = s.log_base_fee
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
            if lender_serves(c, s, k, buy):
                wanted = max(s.route_quote_in[0], 1.0)
                out[25 + MAX_POOLS + k] = min(s.lender_available[k] / wanted, 1.0)


@kernel
def follow(world: World, s: Any, told: Floats, starting: bool) -> None:
    """Go on to the tape's next row with what was told (``TOLD``): what became of the own transaction, and what rivals did."""
    c = world.config[0]
    s.tape_row = 0
    if starting:
        start_market(c, world.tape, s)
        s.sandwiched = 0.0
    else:
        s.won = told[_WON]
        s.dropped = told[_LOST]
        s.reverted = told[_FAILED]
        s.own_bid = told[_OWN_BID]
        s.revert_spent += told[_SPENT]
        if told[_RIVALS_MET] > 0.0:
            see_bid(s, told[_THEIR_BID], told[_RIVALS_MET])
        else:
            s.bid_age += 1.0
        s.block += 1
        replay_row(world.tape, c, s)
    for k in range(c.lender_count):
        s.lender_available[k] = told[_LENDERS + k]
    _see_routes(c, s)


@kernel
def mask(world: World, s: Any, out: Any) -> None:
    """A route that pays nothing or that nobody lends for; a lender that is closed, unknown here or lends for no such route."""
    c = world.config[0]
    if c.auction != 0:
        return
    gas_price = gas_price_quote(c, s)
    for rank in range(2):
        paying = s.route_profit[rank] > 0.0
        out[0, rank + 1] = paying and cheapest_lender(c, s, s.route_buy[rank], s.route_quote_in[rank], gas_price) >= 0
    for k in range(MAX_LENDERS):
        serves = False
        if k < c.lender_count:
            for rank in range(2):
                serves = serves or (out[0, rank + 1] and lender_serves(c, s, k, s.route_buy[rank]))
        out[4, k + 1] = serves


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
    gas_price: float,
    info: Floats,
) -> bool:
    """Execute the agent's cycle if it still makes its minimum profit after pool and loan fees; book each part."""
    quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
    if quote_out - quote_in * (1.0 + loan_fee) < minimum_profit:
        return False
    quote_out, base_flow, crossed = swap_cycle(c, s, buy, sell, quote_in)
    pool_fee = quote_in * (1.0 - c.keep[buy]) + base_flow * (1.0 - c.keep[sell]) * s.price
    gas_cost = cycle_gas(c, buy, sell, crossed, loan_gas) * gas_price + c.data_fee_quote
    info[_POOL_FEE] = pool_fee
    info[_GROSS] = quote_out - quote_in + pool_fee
    info[_LOAN_FEE] = loan_fee * quote_in
    info[_GAS_COST] = gas_cost
    info[_TIP] = tip
    info[_INCLUDED] = 1.0
    info[_NET] = quote_out - quote_in * (1.0 + loan_fee) - gas_cost - tip
    return True


@kernel
def _pay_revert(c: Any, s: Any, gas_used: float, gas_price: float, tip: float, info: Floats) -> None:
    """A transaction that failed on chain: its gas, and its priority fee on the gas it burned."""
    cost = c.revert_gas_share * (gas_used * gas_price + tip) + c.data_fee_quote
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
    gas_price: float,
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
    attack_gas = 2.0 * (c.gas_overhead + leg_gas(c, c.kind[buy]))
    return low if back - low > attack_gas * gas_price else 0.0


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
        replay_row(world.tape, c, s)
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
        u, _ = uniform2(s.seed, s.episode, s.block, RIVAL + rival)
        best = max(best, equilibrium_bid(u, c.auction_bidders, c.auction == 2) * c.auction_value_quote)
    info[_OPPORTUNITY] = 1.0
    info[_RIVAL_COUNT] = c.auction_bidders - 1.0
    info[_RIVAL_BID_SHARE] = best / value
    info[_ORACLE_PROFIT] = max(value - best, 0.0)
    see_bid(s, best / value, c.auction_bidders - 1.0)
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
def _intention(
    c: Any, s: Any, decision: Floats, gas_price: float
) -> tuple[bool, bool, int, int, int, float, float, float, float]:
    """What a decision means in the state it is taken in: (attempting, refused, pools to buy and sell in, lender, size, predicted
    profit after pool and loan fees, tip, minimum profit), in quote currency. Refused: nobody lends for it.
    """
    attempting, refused = False, False
    buy, sell, lender = 0, 0, -1
    quote_in, predicted, tip, minimum_profit, loan_fee = 0.0, 0.0, 0.0, 0.0, 0.0
    if decision[0] > WAIT:
        rank = int(decision[0]) - 1
        buy, sell = s.route_buy[rank], s.route_sell[rank]
        quote_in = s.route_quote_in[rank] * decision[1]
        attempting = s.route_profit[rank] > 0.0 and quote_in > 0.0
    if attempting:
        lender = int(decision[4]) - 1
        if lender < 0:
            lender = cheapest_lender(c, s, buy, quote_in, gas_price)
        if lender < 0 or lender >= c.lender_count or not lender_serves(c, s, lender, buy):
            refused = True
        else:
            quote_in = min(quote_in, s.lender_available[lender])
            loan_fee = c.loan_fee[lender]
        quote_out, _ = quote_cycle(c, s, buy, sell, quote_in)
        predicted = quote_out - quote_in * (1.0 + loan_fee)
        tip = max(predicted, 0.0) * decision[2]
        minimum_profit = max(predicted, 0.0) * (1.0 - decision[3])
    return attempting, refused, buy, sell, lender, quote_in, predicted, tip, minimum_profit


@kernel
def intend(world: World, s: Any, decision: Floats, out: Floats) -> None:
    """What a decision means now, float64 (len(INTENT),): what ``step`` would try, for whoever carries it out elsewhere."""
    c = world.config[0]
    gas_price = gas_price_quote(c, s)
    attempting, refused, buy, sell, lender, quote_in, predicted, tip, minimum_profit = _intention(c, s, decision, gas_price)
    out[0] = attempting
    out[1] = refused
    out[2] = buy
    out[3] = sell
    out[4] = lender
    out[5] = quote_in
    out[6] = predicted
    out[7] = tip
    out[8] = minimum_profit
    out[9] = 0.0
    if attempting and not refused:
        rank = int(decision[0]) - 1
        out[9] = cycle_gas(c, buy, sell, s.route_crossed[rank], c.loan_gas[lender])
    out[10] = gas_price


@part
def _block(c: Any, s: Any, decision: Floats, info: Floats) -> None:
    """Points 1 to 3 of the module's "One step": from the decision to what landed."""
    gas_price = gas_price_quote(c, s)

    # the decision, on the state it was taken in
    hindsight = decision[0] == ORACLE
    attempting, refused, buy, sell, lender, quote_in, predicted, tip, minimum_profit = _intention(c, s, decision, gas_price)
    loan_fee, loan_gas = 0.0, 0.0
    if attempting and not refused:
        loan_fee, loan_gas = c.loan_fee[lender], c.loan_gas[lender]
    public = attempting and decision[5] == PUBLIC

    # what the rivals see and bid
    value = s.route_profit[0]
    least_gas = cycle_gas(c, s.route_buy[0], s.route_sell[0], s.route_crossed[0], 0.0)
    private_bid, private_key, public_bid, public_key, bidding = rival_bids(
        c, s, value, least_gas * gas_price, c.rival_public_share
    )
    info[_RIVAL_COUNT] = bidding
    rivals = private_key > 0.0 or public_key > 0.0

    # 1. trades ahead
    if not c.replay and noise_flow(c, s, BEFORE):
        _see_routes(c, s)

    # hindsight: first in the block at the least bid that wins, or what is left after the rivals
    private_u, public_u, private_race, public_race = uniform4(s.seed, s.episode, s.block, SUBMIT)
    private_noise, public_noise = 1.0, 1.0
    if rivals:
        private_noise = race_key(1.0, c.ordering_noise, private_race)
        public_noise = race_key(1.0, c.ordering_noise, public_race)
    private_ok = private_u < c.private_inclusion
    public_ok = public_u < c.public_inclusion
    first_buy, first_sell, first_in, first_lender, first_profit = best_cycle(c, s, gas_price)
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
            save_pools(s)
            if private_key > 0.0:
                rival_takes_cycle(c, s, gas_price, _SEEN)
            if public_key > 0.0 and not private_ok:
                rival_takes_cycle(c, s, gas_price, private_key == 0.0)
            _see_routes(c, s)
            left_buy, left_sell, left_in, left_lender, left_profit = best_cycle(c, s, gas_price)
            restore_pools(s)
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
        done = _take(c, s, buy, sell, quote_in, loan_fee, loan_gas, minimum_profit, tip, gas_price, info)
    seen = not hindsight and not done  # nothing has traded since the routes were found
    if private_key > 0.0 and rival_takes_cycle(c, s, gas_price, seen):
        rival_landed = True
        seen = False
    if not done and rivals and in_private:
        if not hindsight:
            if not seen:
                _see_routes(c, s)
                seen = True
            _, _, _, _, left_profit = best_cycle(c, s, gas_price)
            oracle_profit = max(oracle_profit, left_profit)
        done = _take(c, s, buy, sell, quote_in, loan_fee, loan_gas, minimum_profit, tip, gas_price, info)

    # 3. the public mempool
    in_public = public and not refused and public_ok
    ahead_of_rival = in_public and (public_key == 0.0 or tip * public_noise > public_key)
    if in_public and not ahead_of_rival and public_key > 0.0 and rival_takes_cycle(c, s, gas_price, seen):
        rival_landed = True
        seen = False
    if in_public:
        if rivals and not hindsight:
            if not seen:
                _see_routes(c, s)
            _, _, _, _, left_profit = best_cycle(c, s, gas_price)
            oracle_profit = max(oracle_profit, left_profit)
        attack, back = 0.0, 0.0
        attack_u, _ = uniform2(s.seed, s.episode, s.block, ORDER)
        if attack_u < c.sandwich_probability and not hindsight:
            attack = _sandwich(c, s, buy, sell, quote_in, loan_fee, minimum_profit, gas_price)
        if attack > 0.0:
            back = swap_buy(c, s, buy, attack)
            info[_SANDWICHED] = 1.0
        done = _take(c, s, buy, sell, quote_in, loan_fee, loan_gas, minimum_profit, tip, gas_price, info)
        if attack > 0.0:
            swap_sell(c, s, buy, back)
        s.sandwiched += 0.1 * (info[_SANDWICHED] - s.sandwiched)
    seen = seen and not done and not in_public
    if public_key > 0.0 and (not in_public or ahead_of_rival) and rival_takes_cycle(c, s, gas_price, seen):
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
            gas_used = cycle_gas(c, buy, sell, _NO_TICKS, loan_gas)
            _pay_revert(c, s, gas_used, gas_price, tip, info)
            s.reverted = 1.0
        else:
            info[_DROPPED] = 1.0
            s.dropped = 1.0
    info[_ORACLE_PROFIT] = oracle_profit
    best_bid = max(private_bid, public_bid)
    if value > least_gas * gas_price:
        info[_OPPORTUNITY] = 1.0
        info[_RIVAL_BID_SHARE] = best_bid / value
        _, visible_u = uniform2(s.seed, s.episode, s.block, RIVALS)
        if rival_landed or visible_u < c.losing_bid_visibility:
            see_bid(s, best_bid / value, info[_RIVAL_COUNT])
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
        noise_flow(c, s, AFTER)
        s.block = block
    interval_u, jump_u, regime_u, lender_u = uniform4(s.seed, s.episode, block, EVENTS)
    price_z, fullness_z, demand_z, _ = price_normals(s, block)
    log_price, _ = next_log_price(c, s, block, interval_u, jump_u, price_z)
    take_price(s, log_price)
    draws = uniform4(s.seed, s.episode, block, INFORMED)
    for k in range(c.pool_count):
        if c.kind[k] == REFERENCE:
            set_price(c, s, k, s.price)
            s.scale[k] = 0.5 * c.pool_tvl[k] / s.sqrt_price[k]
        elif draws[k] < c.informed_probability:
            arbitrage_to(c, s, k, s.price, s.price)
    next_fees(c, s, fullness_z, demand_z)
    move_regime(c, s, regime_u, lender_u)


def opportunity(env: NativeVectorEnv) -> dict[str, Floats]:
    """What the next decision of each environment is about, as columns of the table ``opportunities``: arrays (N,)."""
    s, c = env.core.batch.state, env.core.world.config[0]
    pool = s["route_buy"][:, 0]
    return {
        "cex_price": s["price"].copy(),
        "dex_price": s["sqrt_price"][np.arange(env.num_envs), pool] ** 2,
        "edge_bps": cycle_edges(c, s),
        "pool_liquidity_quote": quote_in_range(c, s, pool),
        "gas_price_gwei": s["base_fee_wei"] * 1e-9,
        "hops": np.full(env.num_envs, 2.0),
    }


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
    opportunity=opportunity,
    mask=mask,
    follow=follow,
    told=TOLD,
    intend=intend,
    intent=INTENT,
    reward_parts=("gross_profit", "pool_fee", "loan_fee", "gas_cost", "tip", "revert_cost"),
)


if __name__ == "__main__":
    from arbgym.engine import print_speed

    print_speed(DEFINITION)
