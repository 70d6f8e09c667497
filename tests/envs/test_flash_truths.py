"""Is the world of ArbFlash-v0 true? Published formulas, conservation laws and known optima, on the environment itself."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arbgym.data import read_tape, sample_tape_path
from arbgym.engine import NativeVectorEnv
from arbgym.envs.common import BID_SHARES
from arbgym.envs.flash import OBSERVATION, PRESETS, preset_config
from arbgym.evaluation import Simulator
from arbgym.market.config import PoolConfig
from arbgym.market.gas import next_base_fee
from arbgym.market.lender import MAX_LENDERS, aave_premium_raw

FLASH = "arbgym.envs.flash"
WEI = 1_000_000_000


def play(num_envs: int, **arguments: Any) -> NativeVectorEnv:
    env = NativeVectorEnv(FLASH, num_envs, autoreset="disabled", copy=False, **arguments)
    env.reset(seed=arguments.pop("seed", 5))
    return env


def decisions(num_envs: int, *row: float) -> Any:
    return np.tile(np.array(row, dtype=np.float64), (num_envs, 1))


# ------------------------------------------------------------------------------------ T1: loss-versus-rebalancing with fees
def arbitrage_per_block(fee_ppm: float, block_time_s: float, poisson: bool, blocks: int, burn_in: int) -> tuple[float, float]:
    """(profit per block over the pool's value, share of blocks with a trade) of an arbitrageur who takes all there is."""
    num_envs = 4_096
    env = play(
        num_envs,
        preset="lvr",
        poisson_blocks=poisson,
        block_time_s=block_time_s,
        pools=(PoolConfig("v2", fee_ppm, 1e6), PoolConfig("reference", 0.0, 1e13)),
        episode_blocks=10_000,
    )
    take_all = decisions(num_envs, 1, 1, 0, 1, 1, 0)
    state = env.core.batch.state
    profit = value = trades = 0.0
    for block in range(blocks):
        before = 2.0 * state["scale"][:, 0] * state["sqrt_price"][:, 0]
        env.step_decisions(take_all)
        if block >= burn_in:
            profit += float((env.info["gross_profit"] - env.info["pool_fee"]).sum())
            value += float(before.sum())
            trades += float(env.info["included"].sum())
    return profit / value, trades / (num_envs * (blocks - burn_in))


@pytest.mark.parametrize(("fee_ppm", "block_time_s"), [(500.0, 12.0), (1_000.0, 12.0), (3_000.0, 12.0), (500.0, 2.0)])
@pytest.mark.parametrize("poisson", [True, False])
def test_arbitrage_profit_and_trade_probability(fee_ppm: float, block_time_s: float, poisson: bool) -> None:
    """arXiv 2305.14604 with the fee on the input token (e^{g/2}); fixed blocks by the ladder-height constant 0.5826."""
    sigma = 0.05 * math.sqrt(block_time_s / 86_400.0)
    band = -math.log(1.0 - fee_ppm * 1e-6)
    if poisson:
        probability = 1.0 / (1.0 + math.sqrt(2.0) * band / sigma)
        profit = sigma**2 / 8.0 * probability * math.exp(band / 2.0) / (1.0 - sigma**2 / 8.0)
    else:
        probability = 1.0 / (0.824 + math.sqrt(2.0) * band / sigma)
        profit = sigma**2 / 8.0 / (1.0 + 1.7164 * band / sigma) * math.exp(band / 2.0)
    burn_in = 300  # blocks until the mispricing forgets that it started at zero: (g / sigma)^2 is 26 at most
    measured_profit, measured_probability = arbitrage_per_block(fee_ppm, block_time_s, poisson, 1_100, burn_in)
    assert measured_profit == pytest.approx(profit, rel=0.015)
    assert measured_probability == pytest.approx(probability, rel=0.015)


# --------------------------------------------------------------------------------------------------------- conservation
def reserves(env: NativeVectorEnv, pool: int) -> tuple[Any, Any]:
    """(base, quote) held by one pool in each environment, from its tables and state."""
    c = env.core.world.config[0]
    s = env.core.batch.state
    count, price = int(c["ranges"][pool]), s["sqrt_price"][:, pool]
    edge, depth = c["edge"][pool][: count + 1], c["depth"][pool][:count]
    clipped = np.clip(price[:, None], edge[None, :-1], edge[None, 1:])
    with np.errstate(divide="ignore"):
        base = (depth * (1.0 / clipped - 1.0 / edge[None, 1:])).sum(axis=1)
    quote = (depth * (clipped - edge[None, :-1])).sum(axis=1)
    return base * s["scale"][:, pool], quote * s["scale"][:, pool]


def test_tokens_are_conserved() -> None:
    """With nobody else in the market, what the pools lose the agent gains, fees kept aside by V3 pools included."""
    num_envs = 256
    quiet = {"rival_counts": (0.0, 0.0, 0.0), "flow_ahead_share": 0.0, "sandwich_probability": 0.0, "private_inclusion": 1.0}
    env = play(num_envs, **quiet)
    trade, wait = decisions(num_envs, 1, 1, 0.3, 1, 1, 0), decisions(num_envs, 0, 1, 0, 0, 0, 0)
    pools = len(env.config.pools)
    largest = traded = 0.0
    for _ in range(30):
        env.step_decisions(wait)  # let a gap open
        state = env.core.batch.state
        frozen = {name: state[name].copy() for name in ("sqrt_price", "scale", "range_index", "route_buy", "route_sell")}
        before = [reserves(env, k) for k in range(pools)]
        still = NativeVectorEnv(FLASH, num_envs, autoreset="disabled", trade_probability=0.0, informed_probability=0.0, **quiet)
        still.reset(seed=5)
        still.core.batch.state[:] = state
        still.step_decisions(trade)
        after = [reserves(still, k) for k in range(pools)]
        included = still.info["included"] > 0.0
        base_change = sum(a[0] - b[0] for a, b in zip(after, before, strict=True))
        quote_change = sum(a[1] - b[1] for a, b in zip(after, before, strict=True))
        keep = still.core.world.config[0]["keep"]
        kind = still.core.world.config[0]["kind"]
        rows = np.arange(num_envs)
        buy, sell = frozen["route_buy"][:, 0], frozen["route_sell"][:, 0]
        quote_in = still.info["notional"] * included
        base_flow = -(np.stack([a[0] - b[0] for a, b in zip(after, before, strict=True)])[buy, rows]) * included
        kept_quote = np.where(kind[buy] == 1, quote_in * (1.0 - keep[buy]), 0.0)
        kept_base = np.where(kind[sell] == 1, base_flow * (1.0 - keep[sell]), 0.0)
        profit = still.info["gross_profit"] - still.info["pool_fee"]
        scale = np.stack([b[1] for b in before]).sum(axis=0)
        assert np.abs(base_change + kept_base).max() <= 1e-12 * np.stack([b[0] for b in before]).sum(axis=0).max()
        assert np.abs(quote_change + kept_quote + profit).max() <= 1e-12 * scale.max()
        largest = max(largest, float(profit.max()))
        traded += float(included.sum())
    assert traded > 1_000 and largest > 10.0


# ------------------------------------------------------------------------------------------------------------ competition
def test_profit_vanishes_as_rivals_are_added() -> None:
    profits = []
    for rivals in (0.0, 1.0, 4.0, 9.0):
        env = play(1_024, rival_counts=(rivals,) * 3, rival_shares=(0.5,) * 3, rival_share_sd=1.5)
        best = -math.inf
        for bid in (0.01, 0.5, 0.9, 0.99):
            env.reset(seed=5)
            total = 0.0
            for _ in range(40):
                worth_it = env.observations[:, 4] + bid < 1.0
                row = decisions(1_024, 1, 1, bid, 0.2, 0, 0)
                row[:, 0] = worth_it & (env.observations[:, 1] > 0.0)
                env.step_decisions(row)
                total += float(env.info["net_profit"].sum())
            best = max(best, total)
        profits.append(best)
    assert profits == sorted(profits, reverse=True)
    assert profits[-1] < 0.12 * profits[0]


@pytest.mark.parametrize("bidders", [2, 4, 8])
def test_best_bid_in_the_first_price_auction(bidders: int) -> None:
    """Krishna: against n - 1 symmetric uniform rivals the best response is (n - 1)/n of the value, worth v^n / n."""
    num_envs, blocks = 4_096, 63
    shares = np.array(BID_SHARES)
    payoff = np.zeros(len(shares))
    env = play(num_envs, preset="auction", auction_bidders=bidders)
    for k, share in enumerate(shares):
        env.reset(seed=11)
        for _ in range(blocks):
            env.step_decisions(decisions(num_envs, 1, 1, share, 0, 0, 0))
            payoff[k] += float(env.info["net_profit"].sum())
    payoff /= num_envs * blocks * env.config.auction_value_quote
    assert abs(shares[payoff.argmax()] - (bidders - 1) / bidders) <= 0.05
    assert payoff.max() == pytest.approx(1.0 / (bidders * (bidders + 1)), rel=0.02)


def test_best_bid_in_the_all_pay_auction() -> None:
    """All-pay: b(v) = (n - 1)/n v^n leaves v^n / n, the same on average as first price; a first-price bid loses money."""
    num_envs, blocks, bidders = 4_096, 63, 4
    env = play(num_envs, preset="all_pay", auction_bidders=bidders)
    equilibrium = proportional = 0.0
    for rule in ("equilibrium", "proportional"):
        env.reset(seed=11)
        total = 0.0
        for _ in range(blocks):
            value = np.expm1(env.observations[:, 1].astype(float) * OBSERVATION[1].scale) / env.config.auction_value_quote
            share = 0.75 * value**3 if rule == "equilibrium" else np.full(num_envs, 0.75)
            row = decisions(num_envs, 1, 1, 0, 0, 0, 0)
            row[:, 2] = share
            env.step_decisions(row)
            total += float(env.info["net_profit"].sum())
        total /= num_envs * blocks * env.config.auction_value_quote
        equilibrium, proportional = (total, proportional) if rule == "equilibrium" else (equilibrium, total)
    assert equilibrium == pytest.approx(1.0 / 20.0, rel=0.03)
    assert proportional < 0.0


# -------------------------------------------------------------------------------------------------------------- base fee
def test_base_fee_known_values() -> None:
    """EIP-1559 from 1 gwei with full and with empty blocks, to the wei."""
    for full, expected in ((True, {1: 1.125, 2: 1.265625, 6: 2.027286528, 10: 3.247321023, 20: 10.545093826}),
                           (False, {1: 0.875, 2: 0.765625, 6: 0.448795319, 10: 0.263075578, 20: 0.069208762})):  # fmt: skip
        fee = WEI
        for block in range(1, 21):
            fee = next_base_fee(fee, 30_000_000 if full else 0, 15_000_000, 8)
            if block in expected:
                assert fee == round(expected[block] * WEI)
    assert next_base_fee(7, 30_000_000, 15_000_000, 8) == 8
    assert next_base_fee(7, 0, 15_000_000, 8) == 7
    fee = WEI
    for block in range(100):
        fee = next_base_fee(fee, 0 if block % 2 else 30_000_000, 15_000_000, 8)
    assert fee == 455_018_209
    assert next_base_fee(WEI, 60_000_000, 10_000_000, 250) == WEI + WEI // 50
    assert next_base_fee(WEI, 0, 10_000_000, 250) == WEI - WEI // 250


def test_base_fee_against_python_integers_at_any_size() -> None:
    generator = np.random.default_rng(1)
    for _ in range(2_000):
        fee = int(2 ** generator.uniform(0, 62))
        target = int(generator.integers(1, 2**30))
        used = int(generator.integers(0, 2 * target + 1))
        denominator = int(generator.choice([8, 16, 50, 250]))
        change = fee * abs(used - target) // target // denominator
        expected = fee + max(change, 1) if used > target else fee - change
        assert next_base_fee(fee, used, target, denominator) == (fee if used == target else expected)


def test_recorded_base_fees(shared: Any) -> None:
    polars = pytest.importorskip("pandas")
    blocks = polars.read_parquet(shared / "data/gas/ethereum_blocks_20260129.parquet")
    column = next(name for name in blocks.columns if "base_fee" in name)
    unit = 1 if "wei" in column and "gwei" not in column else WEI
    fees = [round(float(value) * unit) for value in blocks[column]]
    wrong = 0
    for row in range(len(blocks) - 1):
        limit, used = int(blocks["gas_limit"].iloc[row]), int(blocks["gas_used"].iloc[row])
        wrong += next_base_fee(fees[row], used, limit // 2, 8) != fees[row + 1]
    assert wrong == 0


# ------------------------------------------------------------------------------------------------------------- the rest
def test_no_look_ahead() -> None:
    """Another future, from block 30 on, changes no observation up to block 30."""
    env, other = play(64), play(64)
    actions = [env.action_space.sample() for _ in range(60)]
    same, differs = [], False
    for block, action in enumerate(actions):
        if block == 30:
            other.core.batch.state["episode"] += 1_000  # the counter of all later draws
        same.append(np.array_equal(env.observations, other.observations))
        env.step_in_place(action)
        other.step_in_place(action)
        differs |= not np.array_equal(env.observations, other.observations)
    assert all(same[:31]) and differs


def test_the_agent_cannot_move_the_exogenous_world() -> None:
    active, idle = play(128), play(128)
    for _ in range(50):
        active.step_in_place(active.action_space.sample())
        idle.step_in_place(np.zeros_like(active.core.batch.actions))
        for name in ("price", "base_fee_wei", "regime"):
            assert np.array_equal(active.core.batch.state[name], idle.core.batch.state[name])


def test_public_transactions_meet_sandwiches_and_reverts_private_ones_neither() -> None:
    seen = {}
    for channel in (0.0, 1.0):
        env = play(2_048, rival_counts=(0.0, 0.0, 0.0), sandwich_probability=1.0)
        totals = dict.fromkeys(("sandwiched", "reverted", "net_profit", "included"), 0.0)
        for _ in range(40):
            row = decisions(2_048, 1, 1, 0.05, 1.0, 0, channel)
            row[:, 0] = env.observations[:, 4] < 0.5
            row[:, 0] *= env.observations[:, 1] > 0.0
            env.step_decisions(row)
            for name in totals:
                totals[name] += float(env.info[name].sum())
        seen[channel] = totals
    assert seen[0.0]["sandwiched"] == seen[0.0]["reverted"] == 0.0
    assert seen[1.0]["sandwiched"] > 0.1 * seen[1.0]["included"]
    assert seen[1.0]["net_profit"] < 0.7 * seen[0.0]["net_profit"]


def test_a_tight_tolerance_protects_from_the_sandwich() -> None:
    profits = []
    for tolerance in (0.05, 1.0):
        env = play(2_048, rival_counts=(0.0, 0.0, 0.0), sandwich_probability=1.0, flow_ahead_share=0.0)
        total = 0.0
        for _ in range(40):
            row = decisions(2_048, 1, 1, 0.05, tolerance, 0, 1)
            row[:, 0] = (env.observations[:, 4] < 0.5) & (env.observations[:, 1] > 0.0)
            env.step_decisions(row)
            total += float(env.info["net_profit"].sum())
        profits.append(total)
    assert profits[0] > 1.2 * profits[1]


def test_lenders_fees_limits_and_kinds() -> None:
    config = preset_config()
    aave = next(k for k, lender in enumerate(config.lenders) if lender.name == "aave_v3")
    assert len(config.lenders) == MAX_LENDERS
    env = play(1_024, rival_counts=(0.0, 0.0, 0.0), flow_ahead_share=0.0, private_inclusion=1.0)
    paid = borrowed = 0.0
    for _ in range(30):
        closed = env.core.batch.state["lender_available"][:, aave] == 0.0
        env.step_decisions(decisions(1_024, 1, 1, 0.01, 1.0, aave + 1, 0))
        paid += float(env.info["loan_fee"].sum())
        borrowed += float((env.info["notional"] * env.info["included"]).sum())
        assert not env.info["included"][closed].any()
    assert borrowed > 0.0 and paid == pytest.approx(5e-4 * borrowed, rel=1e-9)
    v2_only = play(1_024, rival_counts=(0.0, 0.0, 0.0), flow_ahead_share=0.0, private_inclusion=1.0)
    for _ in range(30):
        first_is_v2 = v2_only.observations[:, 6].copy()
        v2_only.step_decisions(decisions(1_024, 1, 1, 0.01, 1.0, 1, 0))
        assert not v2_only.info["included"][first_is_v2 == 0.0].any()


def test_aave_premium_vectors(shared: Any) -> None:
    pandas = pytest.importorskip("pandas")
    rows = pandas.read_parquet(shared / "evm_vectors/aave_v3_flash_premiums.parquet")
    executed = rows[rows["ok"]]
    assert len(executed) > 500
    wrong = [
        row for row in executed.itertuples() if aave_premium_raw(int(row.amount), int(row.premium_total_bps)) != int(row.premium)
    ]
    assert not wrong


@pytest.mark.parametrize("preset", sorted(PRESETS))
def test_every_preset_runs_and_offers_something(preset: str) -> None:
    env = play(512, preset=preset)
    for _ in range(120):
        env.step_in_place(env.action_space.sample())
        assert np.isfinite(env.observations).all() and np.isfinite(env.rewards).all()
    opportunities = oracle = 0.0
    for _ in range(60):
        env.step_in_place(np.zeros_like(env.core.batch.actions))
        opportunities += float(env.info["opportunity"].mean()) / 60.0
        oracle += float(env.info["oracle_profit"].sum())
    assert opportunities > 0.01 and oracle > 0.0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("trade_probability", 1.5),
        ("volatility_per_sqrt_day", -0.1),
        ("rival_shares", (0.3, 0.6, 1.0)),
        ("rival_counts", (1.0, 2.0, 99.0)),
        ("pools", (PoolConfig("v2", 3000.0, 1e6),)),
        ("block_time_s", 0.0),
        ("sandwich_probability", 2.0),
        ("auction", "second_price"),
    ],
)
def test_impossible_worlds_are_refused_by_field_and_value(field: str, value: Any) -> None:
    with pytest.raises(ValueError, match=field):
        preset_config(**{field: value})


@pytest.mark.parametrize(("field", "value"), [("kind", "v9"), ("fee_ppm", 1e6), ("tvl_quote", 0.0), ("ranges_each_side", 0)])
def test_impossible_pools_are_refused(field: str, value: Any) -> None:
    numbers = {"kind": "v3", "fee_ppm": 500.0, "tvl_quote": 1e6}
    with pytest.raises(ValueError, match=field):
        PoolConfig(**(numbers | {field: value}))


# --------------------------------------------------------------------------------------------------------------- replay
def test_a_waiting_agent_meets_every_recorded_price_and_a_trade_leaves_its_mark() -> None:
    tape = read_tape(sample_tape_path())
    arguments = {"feed": "replay", "tape": tape, "episode_blocks": 200, "rival_counts": (0.0, 0.0, 0.0)}
    idle, active = play(64, **arguments), play(64, **arguments)
    wait, trade = decisions(64, 0, 1, 0, 0, 0, 0), decisions(64, 1, 1, 0.01, 1, 0, 0)
    marked = 0
    for _ in range(199):
        idle.step_decisions(wait)
        active.step_decisions(trade)
        state = idle.core.batch.state
        row = state["tape_row"]
        assert np.allclose(state["price"], tape.reference_price[row], rtol=1e-12)
        assert np.allclose(state["base_fee_wei"] * 1e-9, tape.base_fee_gwei[row], atol=2e-9)
        for k in range(len(tape.pools)):
            assert np.allclose(state["sqrt_price"][:, k] ** 2, tape.price[row, k], rtol=1e-9)
            other = active.core.batch.state["sqrt_price"][:, k] ** 2
            marked += int((np.abs(other / tape.price[row, k] - 1.0) > 1e-6).sum())
        assert not idle.info["net_profit"].any()
    assert marked > 50


def test_a_replay_ends_with_its_tape() -> None:
    tape = read_tape(sample_tape_path()).span(0.0, 0.1)
    env = play(4, feed="replay", tape=tape, episode_blocks=10_000)
    for step in range(1, 144):
        env.step_decisions(decisions(4, 0, 1, 0, 0, 0, 0))
        assert not env.terminated.any()
        assert env.truncated.all() == (step == len(tape.timestamps) - 1)


def test_baselines_wait_where_a_tape_offers_nothing() -> None:
    """Pools at one price for the whole tape: every rule ends up waiting, and none fails for want of samples."""
    tape = read_tape(sample_tape_path())
    flat = replace(tape, price=np.full_like(tape.price, 3_000.0), reference_price=np.full_like(tape.reference_price, 3_000.0))
    simulator = Simulator(FLASH, {"feed": "replay", "tape": flat}, seed=1, episodes=8)
    for name, baseline in simulator.make().definition.baselines().items():
        assert not simulator.run(baseline.fit(simulator)).sums["net_profit"].any(), name
