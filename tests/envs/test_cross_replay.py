"""ArbCross-v0 on tapes: prices come as recorded, pools of kind reference are no pools, and the future stays unseen."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the extra data is not installed")

from arbgym.data import read_tape, sample_tape_path
from arbgym.data.join import PoolColumns, Series, build_tape
from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import Simulator
from arbgym.market.tape import Tape, TapePool

CROSS = "arbgym.envs.cross"


@pytest.fixture(scope="module")
def tape() -> Tape:
    return read_tape(sample_tape_path())


def batch(tape: Tape, num_envs: int = 64, **arguments: object) -> NativeVectorEnv:
    return NativeVectorEnv(CROSS, num_envs, autoreset="disabled", feed="replay", tape=tape, **arguments)


def test_who_waits_alone_meets_every_recorded_price(tape: Tape) -> None:
    env = batch(tape, episode_blocks=100, rival_counts=(0.0, 0.0, 0.0))
    env.reset(seed=1)
    s = env.core.batch.state
    waiting = np.zeros((env.num_envs, 5))
    for _ in range(100):
        env.step_decisions(waiting)
        rows = s["tape_row"]
        assert np.allclose(s["price"], tape.reference_price[rows], rtol=1e-12)
        for k in range(len(tape.pools)):
            assert np.allclose(s["sqrt_price"][:, k] ** 2, tape.price[rows, k], rtol=1e-12)
        assert not env.info["net_profit"].any()


def test_the_tape_ends_the_episode_flat(tape: Tape) -> None:
    short = tape.span(0.0, 0.05)
    env = batch(short, episode_blocks=10_000)
    env.reset(seed=1)
    env.action_space.seed(2)
    for _ in range(len(short.timestamps) - 1):
        assert not env.truncated.any()
        env.step_in_place(env.action_space.sample())
    assert (env.truncated | env.terminated).all() and np.abs(env.info["exposure"]).max() < 1.0


def test_the_future_is_not_seen(tape: Tape) -> None:
    """Observations up to a row are the same whatever comes after it."""
    half = len(tape.timestamps) // 2
    future = tape.array().copy()
    future[half:, [0, 2, 5]] *= 1.001
    changed = Tape.from_rows(tape.pools, tape.timestamps, future, tape.step_seconds)
    seen = []
    for recorded in (tape, changed):
        env = batch(recorded, episode_blocks=len(tape.timestamps) - 1)
        env.reset(seed=4)
        env.action_space.seed(5)
        observations = [env.observations.copy()]
        for _ in range(half - 1):
            env.step_in_place(env.action_space.sample())
            observations.append(env.observations.copy())
        assert (env.core.batch.state["tape_row"] == half - 1).all()
        seen.append(np.array(observations))
    assert np.array_equal(*seen)


def test_reference_pools_are_left_out(tape: Tape) -> None:
    reference = TapePool("venue", "reference", 200.0)
    env = batch(replace(tape, pools=(tape.pools[0], reference)))
    env.reset(seed=0)
    assert int(env.core.world.config[0]["pool_count"]) == 1
    assert not env.observations[:, -3:].any()
    with pytest.raises(ValueError, match="reference last"):
        batch(replace(tape, pools=(reference, tape.pools[0])))


def recorded_tapes(shared: Path) -> dict[str, Tape]:
    """The recorded pairs: a pool beside an exchange, one asset on two chains, a stablecoin through its depeg."""
    data = shared / "data"
    stable = data / "ethereum_univ3_usdc_usdt_001"
    common = {"second_kind": "reference", "second_liquidity": 1e6}
    return {
        "exchange": build_tape(
            data / "polygon_cex_dex_202507" / "pool_minute.parquet",
            step_seconds=300,
            reference=Series(data / "polygon_cex_dex_202507" / "ethusdt_perp_5m.parquet", "open_time", "close"),
            second_fee_ppm=200.0,
            gas_gwei=54.0,
            basis_rows=24,
            **common,
        ),
        "two chains": build_tape(
            data / "polygon_univ3_usdc_weth_005" / "minute.parquet",
            reference=Series(data / "ethereum_weth_osqth" / "oracle_prices_minute.parquet", "timestamp", "weth_usd"),
            second_fee_ppm=3_000.0,
            gas=Series(data / "gas" / "polygon_gas_price_minute_202308.parquet", "timestamp", "gas_price_gwei"),
            start="2023-08-14",
            end="2023-08-16",
            **common,
        ),
        "depeg": build_tape(
            stable / "minute.parquet",
            pool_columns=PoolColumns("timestamp", "price_usdc_usdt", "liquidity", "net_amount0", (6, 6)),
            pool_fee_ppm=100.0,
            reference=Series(stable / "chainlink_usdc_usd.parquet", "timestamp", "chainlink_usdc_usd", 0, 90_000),
            second_fee_ppm=100.0,
            gas_gwei=25.0,
            fill_gaps=5,
            start="2023-03-10",
            end="2023-03-16",
            **common,
        ),
    }


def test_recorded_pairs_replay(shared: Path) -> None:
    """Waiting earns nothing, hindsight something, and the depeg offers far more than the quiet days."""
    offered = {}
    for name, recorded in recorded_tapes(shared).items():
        blocks = min(200, len(recorded.timestamps) // 2)
        # gas is paid in MATIC there, and in ETH beside a pair of dollars here
        world = {"preset": "ethereum", "native_price_ratio": 1_500.0} if name == "depeg" else {"preset": "polygon"}
        arguments = {"feed": "replay", "tape": recorded, "episode_blocks": blocks, "rival_counts": (0.0, 0.0, 0.0), **world}
        simulator = Simulator(CROSS, arguments, seed=1, episodes=64)
        rules = simulator.make().definition.baselines()
        assert not simulator.run(rules["wait"].fit(simulator)).sums["net_profit"].any()
        offered[name] = float(simulator.run(rules["oracle"].fit(simulator)).sums["net_profit"].mean())
        assert offered[name] > 0.0
    assert offered["depeg"] > 100.0 * max(offered["exchange"], offered["two chains"])
