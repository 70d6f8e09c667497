"""ArbSell-v0 against what is known: option values, optimal sales, the contracts' own arithmetic, and hindsight."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.amm.bonding_curve import BondingCurvePool
from arbgym.amm.constant_product import ConstantProductPool
from arbgym.engine import NativeVectorEnv
from arbgym.envs.sell import ALL, HOLD, OBSERVATION, ORACLE, preset_config
from arbgym.envs.sell_baselines import Stops
from arbgym.envs.sell_theory import optimal, solve
from arbgym.evaluation import Decide, Floats, Simulator
from arbgym.market.history import LAGS
from arbgym.market.token_tape import COLUMNS, TokenTape

MODULE = "arbgym.envs.sell"
FIELD = {entry.name: k for k, entry in enumerate(OBSERVATION)}

# Longstaff and Schwartz 2001, Table 1, by dynamic programming on 50 dates a year; European values beside them (table T3)
PUTS = {
    36: ((4.4778, 3.844), (4.8402, 3.763), (7.1013, 6.711), (8.5068, 7.700)),
    38: ((3.2501, 2.852), (3.7448, 2.991), (6.1476, 5.834), (7.6680, 6.979)),
    40: ((2.3141, 2.066), (2.8846, 2.356), (5.3120, 5.060), (6.9171, 6.326)),
    42: ((1.6170, 1.465), (2.2124, 1.841), (4.5825, 4.379), (6.2443, 5.736)),
    44: ((1.1099, 1.017), (1.6898, 1.429), (3.9477, 3.783), (5.6412, 5.202)),
}
PUT_WORLDS = ((0.2, 1), (0.2, 2), (0.4, 1), (0.4, 2))
# Leung and Li 2015: mu, theta, sigma, r, c -> b*, V(theta) with continuous watching (table T5); horizon and dates are ours
SALES = (
    (16.6677, 0.5388, 0.1599, 0.05, 0.05, 0.59371, 0.52768, 3.0, 1_500),
    (5.0, 1.0, 0.4, 0.05, 0.01, 1.22131, 1.13356, 8.0, 1_500),
    (1.0, 0.0, 1.0, 0.1, 0.0, 1.16692, 0.73669, 40.0, 1_500),
    (1.0, 1.0, 0.3, 0.1, 0.02, 1.12603, 1.01164, 40.0, 1_500),
)
# du Toit and Peskir 2009: mean of the price at the sale over the highest price, sigma 0.4, T 1 (table T6)
ALPHAS = {
    -1.0: (0.8174, 0.6582),
    0.0: (0.7724, 0.7187),
    0.25: (0.7597, 0.7329),
    0.5: (0.7465, 0.7465),
    0.75: (0.7329, 0.7597),
    1.0: (0.7187, 0.7724),
    2.0: (0.6582, 0.8174),
}


def always(share: float) -> Decide:
    return lambda observations: np.full((len(observations), 1), share)


def earned(arguments: dict[str, Any], decide: Decide | None, episodes: int, seed: int = 5) -> tuple[float, float]:
    """Mean profit of an episode and its standard error; the exact policy where none is given."""
    simulator = Simulator(MODULE, arguments, seed, episodes)
    profit = simulator.run(decide or optimal(simulator)).sums["net_profit"]
    return float(profit.mean()), float(profit.std() / np.sqrt(episodes))


def put(price: int, column: int) -> dict[str, Any]:
    sigma, years = PUT_WORLDS[column]
    return {
        "preset": "put",
        "initial_level": float(price),
        "volatility_per_sqrt_year": sigma,
        "horizon_years": float(years),
        "episode_blocks": 50 * years,
    }


@pytest.mark.parametrize("price", PUTS)
@pytest.mark.parametrize("column", range(4))
def test_american_put_is_worth_what_the_table_says(price: int, column: int) -> None:
    value, european = PUTS[price][column]
    arguments = put(price, column)
    assert solve(preset_config(**arguments)).value == pytest.approx(value, abs=1.5e-3)
    mean, error = earned(arguments, None, 10_000)
    assert abs(mean - value) < 4.0 * error + 2e-3
    mean, error = earned(arguments, always(HOLD), 10_000)
    assert abs(mean - european) < 4.0 * error + 2e-3


@pytest.mark.parametrize("row", range(len(SALES)))
def test_sale_of_a_mean_reverting_price(row: int) -> None:
    mu, theta, sigma, r, c, threshold, value, years, dates = SALES[row]
    numbers = {"mean_level": theta, "initial_level": theta, "reversion_per_year": mu, "volatility_per_sqrt_year": sigma}
    numbers |= {"rate_per_year": r, "level_cost": c, "horizon_years": years}
    fine = preset_config("ou", **numbers, episode_blocks=dates)
    solution = solve(fine)
    deviation = sigma / np.sqrt(2.0 * mu)
    # fewer dates can only lose value, and lower the threshold
    assert 0.99 * value < solution.value < value
    assert threshold - 0.4 * deviation < theta + deviation * solution.thresholds[0] < threshold
    coarse = {"preset": "ou", **numbers, "episode_blocks": dates // 5}
    at_own_step = solve(preset_config(**coarse)).value
    assert at_own_step < solution.value
    mean, error = earned(coarse, None, 2_000)
    assert abs(mean - at_own_step) < 4.0 * error + 1e-4


@pytest.mark.parametrize("alpha", ALPHAS)
def test_bang_bang_against_the_highest_price(alpha: float) -> None:
    arguments = {"preset": "alpha", "drift_per_year": alpha * 0.16}
    now, now_error = earned(arguments, always(ALL), 40_000)
    hold, hold_error = earned(arguments, always(HOLD), 40_000)
    assert abs(now - ALPHAS[alpha][0]) < 4.0 * now_error + 1e-4
    assert abs(hold - ALPHAS[alpha][1]) < 4.0 * hold_error + 1e-4
    if alpha != 0.5:
        assert (now > hold) == (alpha < 0.5)
        best, _ = earned(arguments, None, 40_000)
        assert best == max(now, hold)


def calm(**arguments: Any) -> NativeVectorEnv:
    """Positions whose market stands still, so that a sale meets the pool as it was seen."""
    still = {"phase_flow": (0.0,) * 5, "phase_rug": (0.0,) * 5, "pull_probability": 0.0, "add_probability": 0.0}
    numbers = {**still, "fail_probability": 0.0, "gas_quote": 0.0, **arguments}
    env = NativeVectorEnv(MODULE, 64, autoreset="disabled", copy=False, **numbers)
    env.reset(seed=3)
    return env


def test_a_sale_is_the_contracts_swap() -> None:
    env = calm(fee_ppm=3_000.0)
    s = env.core.batch.state.copy()
    env.step_decisions(np.full((64, 1), ALL))
    unit = 10**12
    for i in range(64):
        grown = np.exp(0.5 * s["own"][i])
        reserves = int(s["reserve"][i] / (s["price"][i] * grown) * unit), int(s["reserve"][i] * grown * unit)
        pool = ConstantProductPool(*reserves, fee=(3, 1000))
        out = pool.quote(amount_in=int(s["amount"][i] * unit), zero_for_one=True).amount_out / unit
        assert env.info["notional"][i] == pytest.approx(out, rel=1e-9)
        # the pool's own fee stays behind: a round trip returns what was paid less two fees, and little more is lost to impact
        assert out == pytest.approx(s["cost"][i] * 0.997**2, rel=3e-3)


def test_a_sale_on_the_curve_is_the_contracts_trade() -> None:
    env = calm(preset="curve")
    s = env.core.batch.state.copy()
    sol = preset_config("curve").curve_start_quote / 30.0
    env.step_decisions(np.full((64, 1), ALL))
    assert (s["on_curve"] == 1.0).all()
    for i in range(64):
        v = s["reserve"][i] * np.exp(0.5 * s["own"][i]) / sol
        tokens = 30.0 * 1_073_000_000.0 / v
        base_unit = sol * v / (s["price"][i] * np.exp(s["own"][i])) / tokens  # the environment's price is 1 at the curve's start
        pool = BondingCurvePool(
            virtual_quote=int(v * 1e9),
            virtual_base=int(tokens * 1e6),
            real_quote=int((v - 30.0) * 1e9),
            real_base=int((tokens - 279_900_000.0) * 1e6),
        )
        out = pool.quote(amount_in=int(s["amount"][i] / base_unit * 1e6), buy=False).amount_out / 1e9 * sol
        assert env.info["notional"][i] == pytest.approx(out, rel=1e-6)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10**6), st.sampled_from(["new", "established", "curve", "mixed"]), st.floats(0.0, 1.0))
def test_nobody_beats_hindsight(seed: int, preset: str, eagerness: float) -> None:
    simulator = Simulator(MODULE, {"preset": preset, "episode_blocks": 60}, seed, 64)
    generator = np.random.default_rng(seed)

    def random(observations: Floats) -> Floats:
        acts = generator.random(len(observations)) < eagerness**3
        return np.where(acts, generator.choice([0.25, 0.5, 0.75, 1.0], len(observations)), 0.0)[:, None]

    best = simulator.run(always(ORACLE)).sums
    played = simulator.run(random).sums
    for name, sums in (("random", played), ("stops", simulator.run(Stops().decide).sums)):
        excess = sums["net_profit"] - best["net_profit"]
        assert (excess <= 2e-3 * best["entry_quote"]).all(), (name, excess.max())
    assert np.allclose(best["oracle_profit"], best["net_profit"], rtol=1e-9, atol=1e-9)
    for sums in (best, played):  # every position is sold once, and in full
        assert np.allclose(sums["exit_policy"] + sums["exit_timeout"] + sums["exit_rug"], 1.0)


def test_hindsight_is_the_same_whether_it_acts_or_is_asked() -> None:
    acting = Simulator(MODULE, {}, 9, 256).run(always(ORACLE)).sums
    asked = Simulator(MODULE, {"hindsight": True}, 9, 256).run(always(HOLD)).sums
    assert np.allclose(acting["oracle_profit"], asked["oracle_profit"])
    assert np.allclose(acting["net_profit"], acting["oracle_profit"])


def test_utility_is_the_return_less_its_penalties() -> None:
    arguments = {"holding_penalty_per_hour": 0.01, "drawdown_penalty": 0.1}
    env = NativeVectorEnv(MODULE, 512, autoreset="disabled", **arguments)
    env.reset(seed=2)
    total, net, held, deepest, cost = (np.zeros(512) for _ in range(5))
    alive = np.ones(512, dtype=bool)
    while alive.any():
        env.step_decisions(np.where(env.observations[:, FIELD["time_left"]] < 0.7, ALL, HOLD)[:, None])
        total += env.rewards * alive
        net += env.info["net_profit"] * alive
        held += env.info["holding_s"] * alive / 3600.0
        deepest += env.info["max_drawdown"] * alive
        cost += env.info["entry_quote"] * alive
        alive &= ~env.terminated
    assert np.allclose(total, net / cost - 0.01 * held - 0.1 * deepest, atol=1e-9)
    assert (deepest > 0.0).all() and (held > 0.0).all()


@pytest.mark.parametrize("preset", ["new", "curve", "put"])
def test_marked_to_market_the_rewards_add_up_to_the_same_return(preset: str) -> None:
    totals = []
    for marked in (False, True):
        env = NativeVectorEnv(MODULE, 256, autoreset="disabled", preset=preset, mark_to_market=marked, episode_blocks=40)
        env.reset(seed=4)
        at_once = env.observations[:, FIELD["net_return"]].astype(np.float64) * OBSERVATION[FIELD["net_return"]].scale
        total, alive, generator = np.zeros(256), np.ones(256, dtype=bool), np.random.default_rng(0)
        while alive.any():
            env.step_decisions(np.where(generator.random(256) < 0.1, generator.choice([0.5, 1.0], 256), HOLD)[:, None])
            total += env.rewards * alive
            alive &= ~env.terminated
        totals.append(total + (at_once if marked else 0.0))
    assert np.allclose(*totals, atol=1e-6)


def recorded(env: NativeVectorEnv, steps: int) -> TokenTape:
    """A tape of what simulated positions saw, from the step before they were bought."""
    rows = np.zeros((env.num_envs, steps + 2, len(COLUMNS)))

    def take(k: int) -> None:
        s = env.core.batch.state
        columns = ("age_s", "price", "high", "low", "bought", "sold", "reserve", "large_net", "known_net", "on_curve")
        rows[:, k, 1:] = np.stack([s[name] for name in columns], axis=1)

    env.reset(seed=1)
    take(1)
    s = env.core.batch.state
    first = np.exp(s["log_prices"][:, 0].astype(np.float64)) if s["on_curve"].any() else np.ones(env.num_envs)
    rows[:, 0, 2:5] = first[:, None]
    rows[:, 0, 7] = s["first_reserve"]
    rows[:, 0, 10] = s["on_curve"]
    for k in range(steps):
        env.step_decisions(np.full((env.num_envs, 1), HOLD))
        take(k + 2)
    step_s = float(s["step_s"][0])
    rows[:, :, 0] = 1.7e9 + step_s * np.arange(steps + 2) + 1e6 * np.arange(env.num_envs)[:, None]
    rows[:, :, 1] = step_s * np.arange(steps + 2)
    starts = (steps + 2) * np.arange(env.num_envs + 1)
    return TokenTape(rows.reshape(-1, len(COLUMNS)), starts, tuple(map(str, range(env.num_envs))), step_s, starts[:-1] + 1)


def test_replay_sees_and_earns_what_the_simulation_did() -> None:
    numbers = {"warmup_blocks": 1, "fail_probability": 0.0, "position_share_low": 0.01, "position_share_high": 0.01}
    numbers |= {"rug_reserve_share": 0.0}
    tape = recorded(NativeVectorEnv(MODULE, 32, autoreset="disabled", copy=False, **numbers), 100)
    simulated = NativeVectorEnv(MODULE, 32, autoreset="disabled", episode_blocks=240, **numbers)
    replayed = NativeVectorEnv(MODULE, 32, autoreset="disabled", feed="replay", tape=tape, **numbers)
    a, _ = simulated.reset(seed=1)
    b, _ = replayed.reset(seed=0)
    clocks = [FIELD[name] for name in ("time_left", "log_horizon", "peak_age")]  # the tape is shorter than the horizon
    same = [k for k in range(len(OBSERVATION)) if k not in clocks]
    for k in range(60):
        assert np.allclose(a[:, same], b[:, same], rtol=1e-5, atol=2e-5), k
        share = np.full((32, 1), 0.5 if k == 40 else HOLD)
        simulated.step_decisions(share)
        replayed.step_decisions(share)
        a, b = simulated.observations.copy(), replayed.observations.copy()
        assert np.allclose(simulated.info["net_profit"], replayed.info["net_profit"], rtol=1e-9, atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6), st.integers(1, 60))
def test_observations_never_look_ahead(seed: int, cut: int) -> None:
    env = NativeVectorEnv(MODULE, 8, autoreset="disabled", copy=False, warmup_blocks=1, rug_reserve_share=0.0)
    tape = recorded(env, 80)
    generator = np.random.default_rng(seed)
    rows = tape.rows.copy().reshape(8, -1, len(COLUMNS))
    factor = generator.uniform(0.2, 5.0, (8, rows.shape[1] - cut - 2, 1))
    rows[:, cut + 2 :, 2:5] *= factor
    rows[:, cut + 2 :, 5:8] *= generator.uniform(0.0, 3.0, (8, factor.shape[1], 1))
    other = TokenTape(rows.reshape(-1, len(COLUMNS)), tape.starts, tape.names, tape.step_s, tape.entries)
    seen = []
    for one in (tape, other):
        replay = NativeVectorEnv(MODULE, 8, autoreset="disabled", feed="replay", tape=one, rug_reserve_share=0.0)
        observations = [replay.reset(seed=0)[0]]
        for _ in range(cut):
            replay.step_decisions(np.full((8, 1), HOLD))
            observations.append(replay.observations.copy())
        seen.append(np.array(observations))
    assert np.array_equal(*seen)


def test_lags_are_the_last_steps_newest_first() -> None:
    env = NativeVectorEnv(MODULE, 16, autoreset="disabled", rug_reserve_share=0.0)
    env.reset(seed=7)
    prices = []
    for _ in range(LAGS + 4):
        prices.append(env.core.batch.state["log_price"].copy())
        env.step_decisions(np.full((16, 1), HOLD))
    prices.append(env.core.batch.state["log_price"].copy())
    returns = np.diff(np.array(prices), axis=0)[::-1]
    for k in range(1, LAGS + 1):
        column = FIELD[f"return_lag_{k}"]
        entry = OBSERVATION[column]
        expected = np.clip(returns[k - 1] / entry.scale, entry.low, entry.high)
        assert np.allclose(env.observations[:, column], expected, atol=1e-4)


def test_entries_are_played_once_each_and_buckets_set_the_horizon() -> None:
    env = NativeVectorEnv(MODULE, 12, autoreset="disabled", copy=False, warmup_blocks=1, rug_reserve_share=0.0)
    tape = recorded(env, 400)
    replay = NativeVectorEnv(MODULE, 12, feed="replay", tape=tape)
    replay.reset(seed=0)
    assert replay.core.batch.state["entry"].tolist() == list(range(12))
    assert (replay.core.batch.state["horizon_blocks"] == 240).all()  # 2 h of 30 s
    assert (replay.core.batch.state["bucket"] == 0).all()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"venue": "nowhere"}, "venue"),
        ({"fee_ppm": 1e6}, "fee_ppm"),
        ({"gas_quote": -1.0}, "gas_quote"),
        ({"process": "walk"}, "process"),
        ({"phase_start": (0.5, 0.5)}, "phase_start"),
        ({"phase_start": (0.5, 0.6, 0.0, 0.0, 0.0)}, "phase_start"),
        ({"phase_rates": ((0.5, 0.6, 0.0, 0.0, 0.0),) * 5}, "phase_rates"),
        ({"tvl_low_quote": 2e5, "tvl_high_quote": 1e5}, "tvl_low_quote"),
        ({"tvl_low_quote": 0.0}, "tvl_low_quote"),
        ({"fail_probability": float("nan")}, "fail_probability"),
        ({"preset": "curve", "tvl_low_quote": 100.0}, "tvl_low_quote"),
        ({"max_tranches": 0}, "max_tranches"),
        ({"buckets": ()}, "buckets"),
        ({"preset": "ou", "reversion_per_year": 0.0}, "reversion_per_year"),
        ({"preset": "put", "initial_level": -1.0}, "initial_level"),
    ],
)
def test_wrong_numbers_are_refused_by_name(arguments: dict[str, Any], word: str) -> None:
    with pytest.raises(ValueError, match=word):
        NativeVectorEnv(MODULE, 2, **arguments)
