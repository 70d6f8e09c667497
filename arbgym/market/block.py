"""From one block to the next: what every environment's market does between two decisions.

A market's state is one record per environment with the fields of ``MARKET_STATE`` (an environment adds its own). Kernels take the
configuration record ``c`` (``arbgym.market.config``) and the state record ``s``; random numbers are functions of (seed, episode,
block, stream), so what the agent does changes none of them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.jit import inner, part
from arbgym.market.gas import block_fullness, log_gwei, next_base_fee
from arbgym.market.lender import MAX_LENDERS, move_lenders
from arbgym.market.pools import MAX_POOLS, REFERENCE, set_price, swap_buy, swap_sell
from arbgym.market.price import SECONDS_PER_DAY, block_interval, log_price_step
from arbgym.rng import normal2, normal2_from, uniform2, uniform4

Floats = NDArray[np.float64]


def constants(values: Sequence[int]) -> Any:
    """NumPy scalars: Numba compiles a kernel anew for each literal that it is called with."""
    return tuple(np.array(values))


# Streams of the random numbers within one block.
PRICE, EVENTS, JUMP, RIVALS, SUBMIT, ORDER, START, FLOW, INFORMED = constants(range(9))
FLOW_SIZE, RIVAL = constants((16, 32))
(FIRST_BLOCK,) = constants((0,))
BEFORE, AFTER = constants((True, False))

MARKET_STATE: list[Any] = [
    ("seed", "i8"),
    ("episode", "i8"),
    ("block", "i8"),
    ("tape_row", "i8"),
    ("log_price", "f8"),
    ("price", "f8"),  # the reference price, quote per base
    ("last_return", "f8"),
    ("volatility", "f8"),  # moving average of absolute log returns per block
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
    ("log_base_fee", "f8"),  # ln gwei
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
    ("revert_spent", "f8"),
    ("lender_available", "f8", (MAX_LENDERS,)),
]


@part
def start_market(c: Any, tape: Floats, s: Any) -> None:
    """The first block of an episode: prices, pools, gas, lenders and an empty history; a tape starts at a random row."""
    s.block = 0
    s.last_return = 0.0
    s.volatility = c.volatility_per_sqrt_day * math.sqrt(c.block_time_s / SECONDS_PER_DAY) * 0.8
    start, regime = uniform2(s.seed, s.episode, FIRST_BLOCK, START)
    s.regime = int(regime * 3.0)
    s.log_demand = math.log(c.base_fee_gwei)
    s.base_fee_wei = max(int(c.base_fee_gwei * 1e9), 1)
    s.fullness = 1.0 / c.elasticity
    s.price = c.initial_price_quote
    s.tape_row = 0
    if c.replay:
        room = max(tape.shape[0] - 1 - c.episode_blocks, 0)
        s.tape_row = min(int(start * (room + 1)), room)
        s.price = tape[s.tape_row, 0]
        s.base_fee_wei = max(int(tape[s.tape_row, 1] * 1e9), 1)
    s.log_base_fee = log_gwei(s.base_fee_wei)
    s.log_price = math.log(s.price)
    for k in range(c.pool_count):
        if c.replay:
            s.scale[k] = tape[s.tape_row, 3 + 3 * k]
            set_price(c, s, k, tape[s.tape_row, 2 + 3 * k])
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
    s.revert_spent = 0.0


@part
def gas_price_quote(c: Any, s: Any) -> float:
    """Quote currency per unit of gas at the block's base fee."""
    return float(s.base_fee_wei * 1e-18 * (s.price * c.native_price_ratio))


@part
def _trade_share(c: Any, normal: float) -> float:
    return float(c.trade_median_share * math.exp(c.trade_log_sd * normal))


@inner
def noise_flow(c: Any, s: Any, ahead: bool) -> bool:
    """Noise trades of this block that land ahead of the auction, or after it; says whether any did."""
    if c.trade_probability <= 0.0:
        return False
    moved = False
    drawn = -1
    sizes = (0.0, 0.0)
    draws = uniform4(s.seed, s.episode, s.block, FLOW)
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
            sizes = normal2(s.seed, s.episode, s.block, FLOW_SIZE + drawn)
        amount = min(_trade_share(c, sizes[k % 2]), 0.1) * c.pool_tvl[k]
        if side < 0.5:
            swap_buy(c, s, k, amount)
        else:
            swap_sell(c, s, k, amount / s.price)
        moved = True
    return moved


@part
def next_log_price(c: Any, s: Any, block: int, interval_u: float, jump_u: float, price_z: float) -> tuple[float, float]:
    """(log reference price at the end of ``block``, days that the block takes), from that block's own draws."""
    jump_z = 0.0
    if jump_u < c.jump_rate_per_day * c.block_time_s / SECONDS_PER_DAY * 50.0:  # a jump is possible in this interval
        jump_z, _ = normal2(s.seed, s.episode, block, JUMP)
    dt_days = block_interval(c.block_time_s, c.poisson_blocks, interval_u) / SECONDS_PER_DAY
    log_price = log_price_step(
        s.log_price,
        c.log_initial_price,
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
    return log_price, dt_days


@part
def take_price(s: Any, log_price: float) -> None:
    """The reference price moves to ``log_price``."""
    s.last_return = log_price - s.log_price
    s.volatility += 0.05 * (abs(s.last_return) - s.volatility)
    s.log_price = log_price
    s.price = math.exp(log_price)


@part
def next_fees(c: Any, s: Any, fullness_z: float, demand_z: float) -> None:
    """Gas demand and the block's fullness move on; the base fee follows EIP-1559."""
    s.log_demand += c.demand_reversion * (c.log_typical_gwei - s.log_demand) + c.demand_sd * demand_z
    s.fullness = block_fullness(s.log_demand, s.log_base_fee, c.demand_response, c.fullness_sd * fullness_z, 1.0 / c.elasticity)
    s.base_fee_wei = next_base_fee(s.base_fee_wei, int(s.fullness * c.gas_limit), c.gas_target, c.base_fee_denominator)
    s.log_base_fee = log_gwei(s.base_fee_wei)


@inner
def move_regime(c: Any, s: Any, regime_u: float, lender_u: float) -> None:
    """The rivals' hidden regime and the lenders' liquidity move on."""
    which = regime_u * c.regime_blocks  # uniform in (0, 1) given a switch
    if which < 1.0:
        s.regime = (s.regime + 1 + int(which * 2.0)) % 3
    move_lenders(c, s, lender_u)


@part
def replay_row(tape: Floats, c: Any, s: Any) -> None:
    """The next recorded row's flow, liquidity, price and base fee meet the pools' own state.

    Each pool keeps its own price. In 1 / sqrt(price) a net base flow moves a pool by flow / liquidity wherever it
    stands, so recorded flow, and what within a row it leaves unexplained, move it by the recorded difference; what
    the agent's own trades have added stays, but for ``restore_share`` of it that others trade away per row. An agent
    that waits meets every recorded price.
    """
    s.tape_row += 1
    row = min(s.tape_row, tape.shape[0] - 1)
    price = tape[row, 0]
    s.last_return = math.log(price) - s.log_price
    s.volatility += 0.05 * (abs(s.last_return) - s.volatility)
    s.log_price = math.log(price)
    s.price = price
    s.base_fee_wei = max(int(tape[row, 1] * 1e9), 1)
    s.log_base_fee = log_gwei(s.base_fee_wei)
    for k in range(c.pool_count):
        recorded = tape[row, 2 + 3 * k]
        s.scale[k] = tape[row, 3 + 3 * k]
        if c.kind[k] == REFERENCE:
            set_price(c, s, k, recorded)
            continue
        now = 1.0 / math.sqrt(recorded)
        own_impact = 1.0 / s.sqrt_price[k] - 1.0 / math.sqrt(tape[row - 1, 2 + 3 * k])
        inverse = max(now + (1.0 - c.restore_share) * own_impact, 0.1 * now)
        s.sqrt_price[k] = 1.0 / inverse
    _, _, regime_u, lender_u = uniform4(s.seed, s.episode, s.block, EVENTS)
    move_regime(c, s, regime_u, lender_u)


@part
def price_normals(s: Any, block: int) -> tuple[float, float, float, float]:
    """Four standard normals of a block: for its price, two for its gas, and a spare one."""
    u0, u1, u2, u3 = uniform4(s.seed, s.episode, block, PRICE)
    price_z, spare_z = normal2_from(u0, u1)
    fullness_z, demand_z = normal2_from(u2, u3)
    return price_z, fullness_z, demand_z, spare_z
