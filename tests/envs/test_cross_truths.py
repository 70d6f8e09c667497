"""Is the world of ArbCross-v0 true? Published formulas, conservation of wealth, leg risk, inventory."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from arbgym.engine import NativeVectorEnv
from arbgym.envs.cross import BUY, FLASH_ARB, HOLD, ORACLE, REBALANCE, SELL
from arbgym.market.config import PoolConfig

CROSS = "arbgym.envs.cross"


def play(num_envs: int, **arguments: Any) -> NativeVectorEnv:
    seed = arguments.pop("seed", 5)
    env = NativeVectorEnv(CROSS, num_envs, autoreset="disabled", copy=False, **arguments)
    env.reset(seed=seed)
    return env


def decisions(num_envs: int, act: Any, size: float = 1.0, tip: float = 0.0, tolerance: float = 1.0, hedge: float = 1.0) -> Any:
    rows = np.tile(np.array([0.0, size, tip, tolerance, hedge]), (num_envs, 1))
    rows[:, 0] = act
    return rows


def better_side(env: NativeVectorEnv) -> Any:
    """Buy or sell, whichever gap pays more at the exchange's mid; hold where none does."""
    buy, sell = env.observations[:, 1], env.observations[:, 4]
    return np.where(buy > sell, BUY, np.where(sell > 0.0, SELL, HOLD))


def worth(env: NativeVectorEnv) -> Any:
    """Net worth from the balances alone, the borrowed base tokens taken off."""
    s = env.core.batch.state
    base = s["chain_base"] + s["exchange_base"] + np.abs(s["transit_base"])
    debt = env.config.borrowed_share * s["start_base"]
    return s["chain_quote"] + s["exchange_quote"] + np.abs(s["transit_quote"]) + (base - debt) * s["price"]


# ------------------------------------------------------------------------------------ T1: loss-versus-rebalancing with fees
def arbitrage_per_block(fee_ppm: float, block_time_s: float, poisson: bool, blocks: int, burn_in: int) -> tuple[float, float]:
    """(profit per block over the pool's value, share of blocks with a trade) of one who closes and hedges every gap."""
    num_envs = 4_096
    env = play(
        num_envs,
        preset="lvr",
        poisson_blocks=poisson,
        block_time_s=block_time_s,
        pools=(PoolConfig("v2", fee_ppm, 1e6),),
        episode_blocks=10_000,
    )
    state = env.core.batch.state
    profit = value = trades = 0.0
    for block in range(blocks):
        before = 2.0 * state["scale"][:, 0] * state["sqrt_price"][:, 0]
        env.step_decisions(decisions(num_envs, better_side(env)))
        if block >= burn_in:
            profit += float(env.info["net_profit"].sum())
            value += float(before.sum())
            trades += float(env.info["included"].sum())
    assert np.abs(env.info["exposure"]).max() < 1.0  # every leg is hedged
    return profit / value, trades / (num_envs * (blocks - burn_in))


@pytest.mark.parametrize(("fee_ppm", "block_time_s"), [(500.0, 12.0), (1_000.0, 12.0), (3_000.0, 12.0), (500.0, 2.0)])
@pytest.mark.parametrize("poisson", [True, False])
def test_profit_is_loss_versus_rebalancing_with_fees(fee_ppm: float, block_time_s: float, poisson: bool) -> None:
    """arXiv 2305.14604 with the fee on the input token (e^{g/2}); fixed blocks by the ladder-height constant 0.5826."""
    sigma = 0.05 * math.sqrt(block_time_s / 86_400.0)
    band = -math.log(1.0 - fee_ppm * 1e-6)
    if poisson:
        probability = 1.0 / (1.0 + math.sqrt(2.0) * band / sigma)
        profit = sigma**2 / 8.0 * probability * math.exp(band / 2.0) / (1.0 - sigma**2 / 8.0)
    else:
        probability = 1.0 / (0.824 + math.sqrt(2.0) * band / sigma)
        profit = sigma**2 / 8.0 / (1.0 + 1.7164 * band / sigma) * math.exp(band / 2.0)
    measured_profit, measured_probability = arbitrage_per_block(fee_ppm, block_time_s, poisson, 1_100, 300)
    assert measured_profit == pytest.approx(profit, rel=0.015)
    assert measured_probability == pytest.approx(probability, rel=0.015)


# --------------------------------------------------------------------------------------------------------- conservation
@pytest.mark.parametrize("borrowed_share", [1.0, 0.0])
def test_wealth_is_conserved(borrowed_share: float) -> None:
    """Balances marked to market move by the reported net profit, and that is the sum of its parts, whatever the agent does."""
    env = play(512, borrowed_share=borrowed_share, transfer_s=60.0, episode_blocks=400)
    env.action_space.seed(3)
    before = worth(env)
    size = np.abs(before).max()
    transferred = hedged = 0.0
    for _ in range(150):
        env.step_in_place(env.action_space.sample())
        after = worth(env)
        assert np.abs(after - before - env.info["net_profit"]).max() <= 1e-13 * size * 100.0
        transferred += float(env.info["transfer_cost"].sum())
        hedged += float(env.info["hedged_notional"].sum())
        before = after
    assert transferred > 0.0 and hedged > 0.0


def test_what_the_pool_loses_the_agent_gains() -> None:
    """Alone in the market, unhedged: tokens on chain move from the pools' reserves to the agent, fees kept aside included."""
    quiet = {"rival_counts": (0.0, 0.0, 0.0), "trade_probability": 0.0, "private_inclusion": 1.0, "base_fee_gwei": 1e-9}
    env = play(256, pools=(PoolConfig("v2", 3_000.0, 1e6),), volatility_per_sqrt_day=0.3, **quiet)
    s = env.core.batch.state
    traded = 0.0
    for _ in range(60):
        pool = np.stack([s["scale"][:, 0] / s["sqrt_price"][:, 0], s["scale"][:, 0] * s["sqrt_price"][:, 0]])
        own = np.stack([s["chain_base"], s["chain_quote"]])
        env.step_decisions(decisions(256, better_side(env), hedge=0.0))
        pool_after = np.stack([s["scale"][:, 0] / s["sqrt_price"][:, 0], s["scale"][:, 0] * s["sqrt_price"][:, 0]])
        own_after = np.stack([s["chain_base"], s["chain_quote"] + env.info["gas_cost"]])
        assert np.allclose(pool + own, pool_after + own_after, rtol=1e-12)
        traded += float(env.info["included"].sum())
    assert traded > 1_000


# ------------------------------------------------------------------------------------------------------------- leg risk
def test_one_leg_can_fill_without_the_other() -> None:
    """Nothing is ever included: the exchange leg stands alone and leaves the exposure that was to be hedged, with its sign."""
    env = play(512, private_inclusion=0.0)
    for _ in range(5):
        env.step_decisions(decisions(512, HOLD, hedge=0.0))
    side = better_side(env)
    env.step_decisions(decisions(512, side))
    tried = env.info["attempted"] > 0.0
    assert tried.any() and not env.info["included"].any()
    assert (env.info["dropped"] == env.info["attempted"]).all()
    exposure = env.info["exposure"]
    assert (exposure[tried & (side == BUY)] < -1.0).all() and (exposure[tried & (side == SELL)] > 1.0).all()
    env.step_decisions(decisions(512, HOLD, hedge=1.0))  # and can be traded away on the exchange alone
    assert np.abs(env.info["exposure"]).max() < 1.0


def test_an_unhedged_leg_rides_on_the_price() -> None:
    """Without an exchange leg, exposure times the price's move is the inventory part of the profit."""
    env = play(512, rival_counts=(0.0, 0.0, 0.0), private_inclusion=1.0)
    for _ in range(3):
        env.step_decisions(decisions(512, HOLD, hedge=0.0))
    env.step_decisions(decisions(512, better_side(env), hedge=0.0))
    s = env.core.batch.state
    exposure = s["chain_base"] + s["exchange_base"] - s["start_base"]
    before = s["price"].copy()
    env.step_decisions(decisions(512, HOLD, hedge=0.0))
    assert (np.abs(exposure) > 0.0).sum() > 100
    assert np.allclose(-env.info["inventory_loss"], exposure * (s["price"] - before), rtol=1e-9, atol=1e-9)
    assert np.allclose(env.info["net_profit"], -env.info["inventory_loss"], rtol=1e-9, atol=1e-9)


def test_exchange_leg_pays_fee_spread_and_impact() -> None:
    """A fill of n beyond the top of book D costs n (fee + spread / 2) + impact (n - D)^2 / (2 D)."""
    env = play(2_048, private_inclusion=0.0, latency_s=0.0, depth_quote=20_000.0, impact_bps=3.0, volatility_per_sqrt_day=0.1)
    s = env.core.batch.state
    large = 0
    for _ in range(20):
        typical = 0.1 * math.sqrt(12.0 / 86_400.0) * math.sqrt(2.0 / math.pi)
        stress = np.maximum(s["volatility"] / typical, 1.0)
        price = s["price"].copy()
        before = s["exchange_base"].copy()
        env.step_decisions(decisions(2_048, better_side(env)))
        notional = np.abs(s["exchange_base"] - before) * price
        depth = 20_000.0 / stress
        beyond = np.maximum(notional - depth, 0.0)
        expected = notional * (1.5 + 0.05 * stress) * 1e-4 + 3e-4 * beyond**2 / (2.0 * depth)
        assert np.allclose(env.info["exchange_cost"], expected, rtol=1e-6, atol=1e-6)
        large += int((beyond > 0.0).sum())
    assert large > 100


def test_latency_moves_the_fill() -> None:
    """The fill is at the price ``latency_s`` later: the variance of its move grows with the latency and is the price's own."""
    variances = []
    for latency in (0.0, 3.0, 12.0):
        env = play(8_192, private_inclusion=0.0, latency_s=latency, taker_fee_bps=0.0, spread_bps=0.0, depth_quote=1e12)
        env.step_decisions(decisions(8_192, HOLD, hedge=0.0))
        s = env.core.batch.state
        price, base, quote = (s[name].copy() for name in ("price", "exchange_base", "exchange_quote"))
        env.step_decisions(decisions(8_192, better_side(env)))
        traded = s["exchange_base"] != base
        filled = (s["exchange_quote"] - quote)[traded] / (base - s["exchange_base"])[traded]
        variances.append(float(np.mean(np.log(filled / price[traded]) ** 2)))
    per_second = 0.03**2 / 86_400.0
    assert variances[0] < 1e-20
    assert variances[1] == pytest.approx(3.0 * per_second, rel=0.15)
    assert variances[2] == pytest.approx(12.0 * per_second + 4.0 * 0.006**2 * 12.0 / 86_400.0, rel=0.3)


# ------------------------------------------------------------------------------------------------------------ inventory
def test_inventory_limits_every_leg() -> None:
    """Balances never go below zero by trading, whatever is tried; costs alone may."""
    tiny = {"chain_base_quote": 3_000.0, "chain_quote": 3_000.0, "exchange_base_quote": 3_000.0, "exchange_quote": 3_000.0}
    env = play(512, ruin_share=1.0, **tiny)
    s = env.core.batch.state
    for _ in range(60):
        env.step_decisions(decisions(512, better_side(env), tip=0.01))
        for name in ("chain_base", "exchange_base", "exchange_quote"):
            assert s[name].min() >= -1e-9
    assert s["chain_base"].min() < 0.1 * s["start_base"].max()  # the limit was met


def test_transfers_take_their_time_and_lose_nothing() -> None:
    env = play(256, transfer_s=60.0, rival_counts=(0.0, 0.0, 0.0), private_inclusion=1.0)
    for _ in range(30):
        env.step_decisions(decisions(256, better_side(env)))
    s = env.core.batch.state
    skewed = np.abs(s["chain_base"] - s["exchange_base"]) * s["price"] > 1_000.0
    assert skewed.any()
    totals = [s["chain_base"] + s["exchange_base"], s["chain_quote"] + s["exchange_quote"]]
    env.step_decisions(decisions(256, REBALANCE, hedge=0.0))
    cost = env.info["transfer_cost"].copy()
    assert (cost[skewed] > 0.0).all()
    for block in range(4):
        assert (s["transit_blocks"][skewed] == 4 - block).all()
        env.step_decisions(decisions(256, HOLD, hedge=0.0))
    assert (s["transit_blocks"] == 0).all() and not s["transit_base"].any()
    assert np.allclose(s["chain_base"] + s["exchange_base"], totals[0], rtol=1e-12)
    assert np.allclose(s["chain_quote"] + s["exchange_quote"] + cost, totals[1], rtol=1e-12)
    assert np.allclose(s["chain_base"][skewed], s["exchange_base"][skewed], rtol=1e-9)


def test_a_session_ends_flat() -> None:
    """What exposure is left at the end is traded away at its cost, whichever way the session was played."""
    env = play(512, episode_blocks=20, rival_counts=(0.0, 0.0, 0.0))
    for _ in range(19):
        env.step_decisions(decisions(512, better_side(env), hedge=0.0))
    left = np.abs(env.info["exposure"])
    assert (left > 1_000.0).sum() > 100
    env.step_decisions(decisions(512, HOLD, hedge=0.0))
    assert env.terminated.all() and np.abs(env.info["exposure"]).max() < 1.0
    assert (env.info["exchange_cost"][left > 1_000.0] > 1.5e-4 * 0.9 * left[left > 1_000.0]).all()


def test_ruin_ends_the_episode() -> None:
    env = play(256, ruin_share=0.01, borrowed_share=0.0, volatility_per_sqrt_day=2.0, chain_quote=1e4, exchange_quote=1e4)
    ended = np.zeros(256, dtype=bool)
    for _ in range(50):
        env.step_decisions(decisions(256, HOLD, hedge=0.0))
        fallen = worth(env) <= 0.99 * env.core.batch.state["start_worth"]
        assert np.array_equal(env.terminated[~ended], fallen[~ended])
        ended |= env.terminated
    assert ended.any() and not env.truncated.any()


# ---------------------------------------------------------------------------------------------------------- competition
def test_profit_vanishes_as_rivals_are_added() -> None:
    profits = []
    for rivals in (0.0, 1.0, 4.0, 9.0):
        env = play(1_024, rival_counts=(rivals,) * 3, rival_shares=(0.5,) * 3, rival_share_sd=1.5)
        best = -math.inf
        for tip in (0.01, 0.5, 0.9):
            env.reset(seed=5)
            total = 0.0
            for _ in range(60):
                pays = env.observations[:, 9] + tip < 1.0
                env.step_decisions(decisions(1_024, np.where(pays, better_side(env), HOLD), 0.6, tip, 0.2))
                total += float((env.info["net_profit"] + env.info["inventory_loss"]).sum())
            best = max(best, total)
        profits.append(best)
    assert profits == sorted(profits, reverse=True)
    assert profits[-1] < 0.25 * profits[0]


def test_gaps_between_pools_can_be_closed_atomically() -> None:
    """Far noise trades and a dear exchange: flash_arb earns without inventory and leaves no exposure."""
    pools = (PoolConfig("v2", 3_000.0, 2e6), PoolConfig("v3", 500.0, 2e6))
    env = play(512, pools=pools, taker_fee_bps=100.0, rival_cost_bps=500.0, trade_median_share=0.02)
    earned = taken = 0.0
    for _ in range(60):
        act = np.where(env.observations[:, 7] > 0.0, FLASH_ARB, HOLD)
        env.step_decisions(decisions(512, act, 1.0, 0.3, 0.2, 0.0))
        earned += float(env.info["net_profit"].sum())
        taken += float(env.info["included"].sum())
        assert not env.info["exposure"].any()
    assert taken > 100 and earned > 0.0


@pytest.mark.parametrize("preset", ["ethereum", "arbitrum", "base", "polygon"])
def test_hindsight_bounds_every_block(preset: str) -> None:
    """No action makes more at constant prices than ``oracle_profit`` says of its block."""
    env = play(2_048, preset=preset)
    env.action_space.seed(1)
    earned = 0.0
    for _ in range(80):
        env.step_in_place(env.action_space.sample())
        made = env.info["net_profit"] + env.info["inventory_loss"]
        bound = env.info["oracle_profit"]
        worst = int((made - bound).argmax())
        assert made[worst] - bound[worst] <= 1e-3 * (1.0 + bound[worst])
        earned += float(np.maximum(made, 0.0).sum())
    assert earned > 0.0


def test_the_oracle_earns_its_bound() -> None:
    env = play(1_024)
    for _ in range(40):
        env.step_decisions(decisions(1_024, ORACLE))
        assert np.allclose(env.info["net_profit"], env.info["oracle_profit"], atol=1e-9)
    assert float(env.info["net_profit"].sum()) > 0.0


# --------------------------------------------------------------------------------------------------------------- reward
def test_log_utility_is_the_growth_of_net_worth() -> None:
    linear, growth = play(256, seed=8), play(256, seed=8, utility="log")
    for env in (linear, growth):
        env.action_space.seed(4)
    for _ in range(50):
        action = linear.action_space.sample()
        before = worth(growth)
        linear.step_in_place(action)
        growth.step_in_place(action)
        start = growth.core.batch.state["start_worth"]
        expected = start * np.log(worth(growth) / before) - growth.info["inventory_penalty"]
        assert np.allclose(growth.rewards * growth.config.reward_scale_quote, expected, rtol=1e-6, atol=1e-6)
        assert np.array_equal(linear.info["net_profit"], growth.info["net_profit"])


def test_rewards_at_constant_prices_are_the_same_on_average_and_less_noisy() -> None:
    both = [play(4_096, reward_price_moves=counted) for counted in (True, False)]
    totals = [np.zeros(4_096), np.zeros(4_096)]
    for _ in range(60):
        rows = decisions(4_096, better_side(both[0]), 0.8, 0.5, 0.2, 0.0)
        for env, total in zip(both, totals, strict=True):
            env.step_decisions(rows)
            total += env.rewards
        assert np.array_equal(both[0].info["net_profit"], both[1].info["net_profit"])
        expected = both[1].info["net_profit"] + both[1].info["inventory_loss"] - both[1].info["inventory_penalty"]
        assert np.allclose(both[1].rewards * both[1].config.reward_scale_quote, expected, rtol=1e-12, atol=1e-12)
    difference = totals[0] - totals[1]
    assert abs(difference.mean()) < 4.0 * difference.std() / 64.0
    assert totals[1].std() < 0.9 * totals[0].std()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"utility": "square"}, "utility"),
        ({"utility": "log", "reward_price_moves": False}, "reward_price_moves"),
        ({"taker_fee_bps": -1.0}, "taker_fee_bps"),
        ({"depth_quote": 0.0}, "depth_quote"),
        ({"pools": (PoolConfig("reference", 0.0, 1e6),)}, "reference"),
        ({"chain_quote": 0.0, "exchange_quote": 0.0}, "chain_quote"),
        ({"borrowed_share": 1.5}, "borrowed_share"),
    ],
)
def test_wrong_numbers_are_refused_by_name(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        play(2, **arguments)
