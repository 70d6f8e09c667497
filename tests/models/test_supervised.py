"""Episodes in hindsight: what the labels look at is what a sale would have brought, and a run learns from it end to end."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import Simulator

pytest.importorskip("stable_baselines3", reason="the extra train is not installed")
pytest.importorskip("lightgbm", reason="the extra train is not installed")

from rich.console import Console

from agents.export import export
from arbgym.envs.sell import DEFINITION
from arbgym.market.token_tape import COLUMNS, PRICE, TIME_S, TokenTape
from arbgym.models.exits import SCORES, ExitPolicy
from experiments.config import ConfigError, EvaluationConfig, RunConfig
from experiments.supervised import (
    GBMRecipe,
    Played,
    SupervisedRecipe,
    TCNRecipe,
    _parts,
    hold_only,
    join,
    labelled,
    prepare,
    profit,
    tuned_on,
)

SELL = "arbgym.envs.sell"
SMOOTH = {"action": "discrete", "episode_blocks": 24, "latency_s": 0.0, "fail_probability": 0.0, "gas_congestion": 0.0}


def test_a_sale_at_any_moment_brings_what_the_values_say() -> None:
    simulator = Simulator(SELL, SMOOTH, seed=5, episodes=12)
    played = hold_only(simulator)
    assert played.values.shape == (12, int(played.lengths.max()) + 1)
    for moment in (0, 1, 7, 20):
        brought = np.full(12, np.nan)
        steps = iter(range(100))

        def decide(_: np.ndarray, moment: int = moment, steps: Iterator[int] = steps) -> np.ndarray:
            return np.full((12, 1), float(next(steps) == moment))

        def each(env: NativeVectorEnv, alive: np.ndarray, brought: np.ndarray = brought) -> None:
            rows = alive & (env.info["exit_policy"] > 0.0)
            brought[rows] = (env.info["notional"] - env.info["gas_cost"])[rows]

        simulator.run(decide, each)
        there = moment < played.lengths
        assert there.any() and np.allclose(brought[there], played.values[there, moment], rtol=1e-9)
        assert np.isnan(brought[~there]).all()
    last = played.values[np.arange(12), played.lengths]
    assert np.isfinite(last).all() and np.isnan(played.values[np.arange(25) > played.lengths[:, None]]).all()


def test_every_moment_is_observed_as_the_agent_sees_it_and_fewer_are_a_part_of_them() -> None:
    simulator = Simulator(SELL, SMOOTH, seed=5, episodes=12)
    everything, some = hold_only(simulator), hold_only(simulator, 5)
    assert len(everything.features) == everything.lengths.sum() and everything.features.dtype == np.float32
    rows = {(e, t): row for e, t, row in zip(everything.episodes, everything.moments, everything.features, strict=True)}
    assert len(rows) == len(everything.features) and 0.1 < len(some.features) / len(rows) < 0.3
    for e, t, row in zip(some.episodes, some.moments, some.features, strict=True):
        assert np.array_equal(rows[e, t], row)
    assert np.array_equal(some.values, everything.values, equal_nan=True)
    alone = hold_only(Simulator(SELL, SMOOTH, seed=9, episodes=1))
    assert np.array_equal(alone.values[0], everything.values[4, : alone.values.shape[1]], equal_nan=True)


def test_joined_parts_are_the_whole() -> None:
    whole = hold_only(Simulator(SELL, SMOOTH, seed=5, episodes=12))
    parts = [hold_only(Simulator(SELL, SMOOTH, seed=5 + k, episodes=n)) for k, n in ((0, 5), (5, 7))]
    found = join(parts)
    assert np.array_equal(found.values, whole.values, equal_nan=True) and np.array_equal(found.lengths, whole.lengths)
    order = np.lexsort((whole.moments, whole.episodes)), np.lexsort((found.moments, found.episodes))
    for name in ("features", "episodes", "moments"):
        assert np.array_equal(getattr(whole, name)[order[0]], getattr(found, name)[order[1]])


def test_labels_belong_to_their_moments() -> None:
    values = np.array([[10.0, 5.0, 20.0], [8.0, 8.0, np.nan]])
    features, places = np.arange(4, dtype=np.float32)[:, None], (np.array([0, 0, 1, 1]), np.array([0, 1, 0, 1]))
    played = Played(features, *places, values, 0.0 * values, np.array([2, 1]))
    recipe = GBMRecipe(drawdown_depth=0.5, drawdown_steps=0)
    features, labels, episodes = labelled(played, recipe.labels(played))
    assert features[:, 0].tolist() == [0.0, 1.0, 2.0] and episodes.tolist() == [0, 0, 1]  # nothing to decide in the last row
    assert labels.upside.tolist() == [1.0, 3.0, 0.0] and labels.drawdown.tolist() == [1.0, 0.0, 0.0]
    assert labels.sell.tolist() == [0.0, 0.0, 1.0]


def test_a_drawdown_is_as_deep_as_the_market_sees_one() -> None:
    moments = np.linspace(1.0, 0.9, 101)  # never loses a fifth; an eightieth at most lies ahead of any but the last moments
    values = np.tile(np.append(moments, np.nan), (3, 1))
    lengths = np.full(3, 100)
    episodes, places = np.repeat(np.arange(3), 100), np.tile(np.arange(100), 3)
    played = Played(np.zeros((300, 1), dtype=np.float32), episodes, places, values, 0.0 * values, lengths)
    recipe = GBMRecipe(drawdown_depth=0.2, drawdown_steps=20)
    assert np.nanmax(recipe.labels(played).drawdown) == 0.0
    seen = recipe.seen_in(played)
    assert seen.drawdown_depth == 0.0125 and seen.drawdown_steps == 20
    assert np.nanmean(seen.labels(played).drawdown) > 0.5
    deep = GBMRecipe(drawdown_depth=0.01, drawdown_steps=20)
    assert deep.seen_in(played) is deep


class Patient:
    """Scores that fall with the time left, as the upside: a threshold is a time to sell at."""

    def scores(self, features: np.ndarray, names: tuple[str, ...] = SCORES) -> np.ndarray:
        left = features[:, [field.name for field in DEFINITION.observation].index("time_left")]
        return np.stack([left, 0.0 * left - 5.0, 0.0 * left], axis=1)[:, : len(names)].astype(np.float32)


def test_thresholds_are_chosen_by_what_a_sale_would_have_brought() -> None:
    """At no latency, failures or congestion the choice's own arithmetic is what playing for real gives, and it chose the best."""
    simulator = Simulator(SELL, {**SMOOTH, "holding_penalty_per_hour": 0.1}, seed=5, episodes=64)
    predictor = Patient()
    played, everything = hold_only(simulator, 1, predictor.scores), hold_only(simulator)
    start = ExitPolicy(predictor, DEFINITION.observation, drawdown_threshold=1.0)  # type: ignore[arg-type]
    tuned = tuned_on(start, played)
    earned = profit(simulator, tuned)
    others = [profit(simulator, dataclasses.replace(start, upside_threshold=bar)) for bar in np.linspace(0.0, 1.8, 12)]
    assert earned > profit(simulator, start) and earned >= np.quantile(others, 0.8)
    sells = tuned.predict(everything.features)[:, 0] == 1
    first = played.lengths.copy()
    np.minimum.at(first, played.episodes[sells], played.moments[sells])
    rows = np.arange(64)
    brought = (played.values[rows, first] - played.penalties[rows, np.minimum(first + 1, played.lengths)]).sum()
    cost = simulator.run(lambda x: np.zeros((len(x), 1))).sums["entry_quote"].sum()
    assert earned == pytest.approx(brought - cost, abs=1e-6 * cost)


def config(agent: SupervisedRecipe, tmp_path: Path, steps: int, **changes: object) -> RunConfig:
    world = DEFINITION.configure("new", episode_blocks=40)
    evaluation = EvaluationConfig(episodes=64, tuning_episodes=64)
    made = RunConfig(
        name=f"{agent.algorithm}_sell", environment="ArbSell-v0", agent=agent, world=world, preset="new", action="discrete",
        steps=steps, evaluation=evaluation, out=tmp_path,
    )  # fmt: skip
    return dataclasses.replace(made, **changes)


SMALL = {"episodes": 128, "environments": 64, "rows": 4_000, "tuning_episodes": 96}


@pytest.mark.parametrize("agent", [GBMRecipe(leaves=7, least_rows=20, **SMALL), TCNRecipe(batch=256, **SMALL)])
def test_a_run_learns_tunes_and_exports(agent: SupervisedRecipe, tmp_path: Path) -> None:
    made = config(agent, tmp_path, 20 if agent.algorithm == "gbm" else 100)
    learned = prepare(made, None)(tmp_path, Console(quiet=True))
    assert learned.unit == agent.unit and 0 < learned.steps <= made.steps and (tmp_path / "predictor.json").is_file()
    model = learned.model
    found = model.chosen["calibration"]["drawdown"]
    assert found["rows"] > 100 and 0.0 < found["base_rate"] < 1.0
    seen = hold_only(Simulator(SELL, made.environment_arguments(), 50, 100)).features
    content, golden = export(model, seen)
    assert golden.actions.dtype == np.int64 and len(content) > 1_000


def tape(tokens: int, steps: int = 80) -> TokenTape:
    """Tokens launched in the reverse of their order in the file; a rise in buying foretells a rise of the price."""
    rng, parts = np.random.default_rng(3), []
    for token in range(tokens):
        mood = np.cumsum(rng.normal(0.0, 0.2, steps)) * 0.98
        price = np.exp(np.cumsum(np.roll(np.tanh(mood), 1) * 0.05 + rng.normal(0.0, 0.02, steps)))
        rows = np.zeros((steps, len(COLUMNS)))
        column = dict(zip(COLUMNS, rows.T, strict=True))
        column["time_s"][:] = (tokens - token) * 1e5 + 30.0 * np.arange(steps)
        column["age_s"][:] = 30.0 * np.arange(steps)
        column["price_quote"][:] = column["high_quote"][:] = column["low_quote"][:] = price
        column["buy_quote"][:], column["sell_quote"][:] = 1e3 * (1.0 + np.tanh(mood)), 1e3 * (1.0 - np.tanh(mood))
        column["reserve_quote"][:] = 3e4
        parts.append(rows)
    starts = np.arange(tokens + 1) * steps
    return TokenTape(np.concatenate(parts), starts, tuple(f"token{k:03d}" for k in range(tokens)), 30.0)


def test_a_replay_learns_from_earlier_tokens_and_chooses_on_later_ones(tmp_path: Path) -> None:
    path = tmp_path / "tokens.parquet"
    whole = tape(60)
    whole.save(path)
    agent = GBMRecipe(leaves=7, least_rows=20, **{**SMALL, "episodes": 40})
    made = config(agent, tmp_path, 15, feed="replay", data=path)
    learning, tuning = _parts(made)
    times = [whole.rows[part.arguments["tape"].entries, TIME_S] for part in (learning, tuning)]
    assert len(times[0]) == 40 and len(times[1]) == 8 and set(times[1]) == set(np.sort(times[0])[-8:])
    held_out = np.sort(whole.rows[whole.entries, TIME_S])[-18:]
    assert not set(times[0]) & set(held_out)
    assert np.array_equal(np.argsort(np.argsort(times[0])), learning.order)
    seeds = learning.first + np.arange(40)
    assert np.array_equal(seeds % 40, np.arange(40))
    played = learning.play(16, 1)
    entry_prices = whole.rows[learning.arguments["tape"].entries, PRICE]
    assert len(played.lengths) == 40 and np.all(played.lengths >= 70) and len(set(entry_prices)) > 10
    learned = prepare(made, None)(tmp_path, Console(quiet=True))
    assert learned.model.chosen["episodes"] == 40 and learned.model.chosen["tuning_episodes"] == 8
    few = config(agent, tmp_path, 15, feed="replay", data=path)
    tape(12).save(path)
    with pytest.raises(ConfigError, match="entries to learn from; accepted are 10"):
        prepare(few, None)


def test_what_cannot_be_run_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="resume: gbm_sell is fitted in one go"):
        prepare(config(GBMRecipe(), tmp_path, 10), (tmp_path / "step_000000000010.zip", 10))
    with pytest.raises(ConfigError, match="ArbFlash-v0: info has no value_quote"):
        hold_only(Simulator("arbgym.envs.flash", {}, 0, 2))
    for name, value in (("episodes", 3), ("drawdown_depth", 0.0), ("leaves", 1), ("drawdown_threshold", 2.0)):
        with pytest.raises(ValueError, match=f"{name} = {value}"):
            GBMRecipe(**{name: value})
