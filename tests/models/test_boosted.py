"""Boosted trees learn what can be learned, repeat it, and are refused data that cannot teach them."""

from __future__ import annotations

import numpy as np
import pytest

from arbgym.models.boosted import BoostedExits
from arbgym.models.exits import SCORES, Labels, last_episodes
from tests.models.conftest import Rows, draw_rows

pytest.importorskip("lightgbm", reason="the extra train is not installed")


def small(**changes: object) -> BoostedExits:
    return BoostedExits(**{"rounds": 40, "leaves": 8, "learning_rate": 0.2, "least_rows": 20, **changes})  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def fitted(rows: Rows) -> BoostedExits:
    predictor = small()
    predictor.fit(rows.features, rows.labels, rows.episodes)
    return predictor


def test_what_can_be_learned_is(fitted: BoostedExits) -> None:
    fresh = draw_rows(40, 50, seed=9)
    found = fitted.predict(fresh.features)
    for name in SCORES:
        truth = getattr(fresh.labels, name)
        assert np.corrcoef(getattr(found, name), truth)[0, 1] > 0.45
    for probability in (found.drawdown, found.sell):
        assert probability.min() >= 0.0 and probability.max() <= 1.0
    assert np.mean((found.drawdown - fresh.labels.drawdown) ** 2) < 0.85 * fresh.labels.drawdown.var()


def test_a_fit_repeats_and_another_seed_may_differ(fitted: BoostedExits, rows: Rows) -> None:
    again = small()
    again.fit(rows.features, rows.labels, rows.episodes)
    assert np.array_equal(again.scores(rows.features), fitted.scores(rows.features))


def test_scores_are_the_same_alone_and_in_a_batch_and_by_name(fitted: BoostedExits, rows: Rows) -> None:
    together = fitted.scores(rows.features[:20])
    alone = np.concatenate([fitted.scores(rows.features[k : k + 1]) for k in range(20)])
    assert together.dtype == np.float32 and np.array_equal(together, alone)
    assert np.array_equal(fitted.scores(rows.features[:20], ("sell", "upside")), together[:, [2, 0]])


def test_sums_of_leaves_are_exact_in_float32(fitted: BoostedExits, rows: Rows) -> None:
    for name in SCORES:
        exact = fitted.boosters[name].predict(rows.features, raw_score=True)
        assert np.array_equal(exact, exact.astype(np.float32).astype(np.float64))


def test_no_episode_is_on_both_sides_and_the_last_ones_validate() -> None:
    episodes = np.random.default_rng(1).permutation(np.repeat(np.arange(3, 53), 7))
    held = last_episodes(episodes, 0.2, 10)
    assert set(episodes[held]) == set(range(43, 53)) and set(episodes[~held]) == set(range(3, 43))


def test_noise_stops_early_and_a_watcher_can_end_it(rows: Rows) -> None:
    noise = np.random.default_rng(5).random(len(rows.features))
    predictor = small(patience=5, rounds=400)
    predictor.fit(rows.features, Labels(noise, *(np.round(noise),) * 2), rows.episodes)
    assert all(booster.num_trees() < 40 for booster in predictor.boosters.values())
    seen: list[tuple[str, int]] = []

    def watch(name: str, step: int, losses: object) -> bool:
        seen.append((name, step))
        return step >= 3

    stopped = small()
    stopped.fit(rows.features, rows.labels, rows.episodes, watch)
    assert {booster.num_trees() for booster in stopped.boosters.values()} == {3}
    assert seen == [(name, step) for name in SCORES for step in (1, 2, 3)]


def changed(rows: Rows, **changes: np.ndarray) -> tuple[np.ndarray, Labels, np.ndarray]:
    return (
        changes.get("features", rows.features),
        rows.labels._replace(**{name: value for name, value in changes.items() if name in SCORES}),
        changes.get("episodes", rows.episodes),
    )


def with_value(values: np.ndarray, place: tuple[int, ...], value: float) -> np.ndarray:
    found = values.copy()
    found[place] = value
    return found


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda r: changed(r, features=with_value(r.features, (4, 2), np.nan)), "features: nan in row 4, column 2"),
        (lambda r: changed(r, features=r.features.astype(np.float64)), "features: float64"),
        (lambda r: changed(r, features=r.features[:0]), "features: float32 of shape"),
        (lambda r: changed(r, upside=with_value(r.labels.upside, (3,), np.nan)), "upside: nan"),
        (lambda r: changed(r, upside=r.labels.upside - 1.0), "upside: -1.0; accepted is above -1"),
        (lambda r: changed(r, drawdown=r.labels.upside), "drawdown: not all labels are 0 or 1"),
        (lambda r: changed(r, drawdown=np.zeros(len(r.features))), "drawdown: every label is 0"),
        (lambda r: changed(r, sell=np.ones(len(r.features))), "sell: every label is 1"),
        (lambda r: changed(r, sell=r.labels.sell[1:]), "sell: shape"),
        (lambda r: changed(r, episodes=r.episodes % 9), "episodes: 9 differ; accepted are 10"),
    ],
)
def test_data_that_cannot_teach_is_refused_by_name(rows: Rows, change, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        small().fit(*change(rows))


@pytest.mark.parametrize(("name", "value"), [("rounds", 0), ("leaves", 1), ("learning_rate", 0.0), ("validation_share", 1.0)])
def test_numbers_out_of_range_are_refused(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"{name} = {value}; accepted is"):
        small(**{name: value})


def test_an_unfitted_predictor_says_so(rows: Rows) -> None:
    with pytest.raises(ValueError, match="was not fitted"):
        small().scores(rows.features)
