"""Figures of trades against truths worked out by hand, laws that hold for any trades, and intervals that cover."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from experiments import trade_metrics as metrics
from experiments.trade_metrics import EXITS, FIGURES, Trades

# eighths: sums and differences of these are exact in float64
RETURNS = st.lists(st.integers(-80, 400).map(lambda k: k / 8.0), min_size=1, max_size=60).map(np.array)


def trades(returns: list[float] | metrics.Floats, token: list[int] | None = None, **columns: metrics.Floats) -> Trades:
    """Trades with these returns on positions of 100, one token each unless told, sold by the model after 60 s."""
    values = np.array(returns, dtype=np.float64)
    count = len(values)
    exits = np.zeros((count, len(EXITS)))
    exits[:, 0] = 1.0
    made = Trades(
        returns=values,
        profit_quote=100.0 * values,
        oracle_profit_quote=np.full(count, 200.0),
        holding_s=np.full(count, 60.0),
        exits=exits,
        entry=np.arange(count),
        time_s=np.arange(count, dtype=np.float64),
        token=np.arange(count) if token is None else np.array(token),
        bucket=np.zeros(count, dtype=np.int64),
        fold=np.zeros(count, dtype=np.int64),
    )
    return dataclasses.replace(made, **columns)


def test_figures_worked_out_by_hand() -> None:
    found = metrics.figures(trades([0.5, -0.25, 1.0, -0.5, 0.25]))
    assert set(found) == set(FIGURES)
    assert found["win_rate"] == 0.6
    assert found["mean_return"] == pytest.approx(0.2)
    assert found["median_return"] == 0.25
    # squared deviations from 0.2: 0.09, 0.2025, 0.64, 0.49, 0.0025; their sum over 4 is 0.35625
    assert found["sharpe"] == pytest.approx(0.2 / math.sqrt(0.35625))
    assert found["sortino"] == pytest.approx(0.2 / math.sqrt((0.0625 + 0.25) / 5))
    assert found["max_drawdown"] == 0.5  # 0.5, 0.25, 1.25, 0.75, 1.0
    assert found["profit_factor"] == pytest.approx(1.75 / 0.75)
    assert found["oracle_share"] == pytest.approx(100.0 / 1000.0)
    assert found["holding_s"] == 60.0
    assert [found[f"exit_{reason}"] for reason in EXITS] == [1.0, 0.0, 0.0, 0.0, 0.0]


def test_tail_losses_by_hand() -> None:
    returns = np.arange(100) / 100.0 - 0.5  # -0.50, -0.49, ...
    assert metrics.value_at_risk(returns) == pytest.approx(0.46)
    assert metrics.expected_shortfall(returns) == pytest.approx((0.50 + 0.49 + 0.48 + 0.47 + 0.46) / 5)
    # 30 trades: the worst 1.5 of them
    few = np.concatenate([[-0.8, -0.4], np.ones(28)])
    assert metrics.expected_shortfall(few) == pytest.approx((0.8 + 0.5 * 0.4) / 1.5)
    assert metrics.value_at_risk(few) == 0.4
    gains = np.full(40, 0.3)
    assert metrics.value_at_risk(gains) == metrics.expected_shortfall(gains) == pytest.approx(-0.3)


def test_what_does_not_exist_is_nan_and_none_in_an_interval() -> None:
    nothing = metrics.join([])
    assert len(nothing) == 0 and all(math.isnan(value) for value in metrics.figures(nothing).values())
    assert metrics.figure_intervals(nothing)["mean_return"] == {"mean": None, "low": None, "high": None}
    gains = metrics.figures(trades([0.1, 0.2]))
    assert gains["profit_factor"] == gains["sortino"] == math.inf
    assert math.isnan(metrics.figures(trades([0.3, 0.3, 0.3]))["sharpe"])
    assert math.isnan(metrics.figures(trades([0.0]))["profit_factor"])
    assert metrics.figure_intervals(trades([0.1, 0.2, 0.3]))["profit_factor"] == {"mean": None, "low": None, "high": None}
    one_token = metrics.figure_intervals(trades([0.1, -0.2, 0.3], token=[7, 7, 7]))["mean_return"]
    assert one_token["mean"] == pytest.approx(0.2 / 3) and one_token["low"] is None
    uncertain = trades([0.1, -0.1, 0.2], oracle_profit_quote=np.array([-100.0, -100.0, 200.01]))
    assert metrics.figures(uncertain)["oracle_share"] > 1_000.0  # of next to nothing
    assert metrics.figure_intervals(uncertain)["oracle_share"] == {"mean": None, "low": None, "high": None}
    worthless = trades([0.1, -0.1], oracle_profit_quote=np.zeros(2))
    assert math.isnan(metrics.figures(worthless)["oracle_share"])


@given(RETURNS, st.sampled_from([0.25, 0.5, 2.0, 8.0]))
def test_scale_laws(returns: metrics.Floats, factor: float) -> None:
    one, scaled = metrics.figures(trades(returns)), metrics.figures(trades(factor * returns))
    for name in ("mean_return", "median_return", "max_drawdown", "var_95", "cvar_95", "oracle_share"):
        assert scaled[name] == pytest.approx(factor * one[name], rel=1e-12)
    for name in ("win_rate", "sharpe", "sortino", "profit_factor", "holding_s"):
        assert scaled[name] == pytest.approx(one[name], rel=1e-12, nan_ok=True)


@given(RETURNS)
def test_laws_between_figures(returns: metrics.Floats) -> None:
    found = metrics.figures(trades(returns))
    assert found["cvar_95"] >= found["var_95"] - 1e-12
    assert -returns.max() - 1e-12 <= found["var_95"] <= found["cvar_95"] + 1e-12 <= -returns.min() + 2e-12
    assert found["max_drawdown"] >= max(-returns.min(), -returns.sum(), 0.0)
    assert (found["max_drawdown"] == 0.0) == bool((returns >= 0.0).all())
    if not math.isnan(found["profit_factor"]):
        assert (found["profit_factor"] > 1.0) == (returns.sum() > 0.0)
        assert metrics.profit_factor(-returns) == pytest.approx(
            1.0 / found["profit_factor"] if found["profit_factor"] else math.inf
        )
    if not math.isnan(found["sharpe"]):
        assert np.sign(found["sharpe"]) == np.sign(returns.mean())


@given(RETURNS, RETURNS)
def test_what_a_drawdown_does_not_depend_on(first: metrics.Floats, second: metrics.Floats) -> None:
    deepest = metrics.max_drawdown(first)
    assert metrics.max_drawdown(first[::-1]) == deepest  # the worst run of trades is the same backwards
    assert metrics.max_drawdown(np.insert(first, len(first) // 2, 0.0)) == deepest
    assert metrics.max_drawdown(np.concatenate([np.abs(second), first])) == deepest  # gains before
    both = metrics.max_drawdown(np.concatenate([first, second]))
    assert max(deepest, metrics.max_drawdown(second)) <= both <= deepest + metrics.max_drawdown(second)


@given(RETURNS, st.randoms())
def test_figures_but_the_drawdown_do_not_depend_on_the_order(returns: metrics.Floats, random: object) -> None:
    shuffled = returns.copy()
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    one, other = metrics.figures(trades(returns)), metrics.figures(trades(shuffled))
    for name in FIGURES:
        if name != "max_drawdown":
            assert other[name] == pytest.approx(one[name], rel=1e-9, abs=1e-12, nan_ok=True)


@given(RETURNS)
def test_a_policy_beside_itself_and_beside_itself_less_a_cost(returns: metrics.Floats) -> None:
    own = trades(returns)
    assert metrics.paired_difference(own, own)[0]["mean"] == 0.0
    dearer = dataclasses.replace(own, returns=own.returns - 0.125)
    found, count = metrics.paired_difference(own, dearer)
    assert count == len(returns) and found["mean"] == 0.125
    if count > 1:
        assert found["low"] == found["high"] == 0.125  # paired: what both went through drops out


def test_pairs_are_the_entries_that_both_traded() -> None:
    whole = trades([0.1, 0.2, 0.3, 0.4])
    part = whole.take(np.array([1, 3]))
    assert part.entry.tolist() == [1, 3]
    better = dataclasses.replace(part, returns=part.returns + 0.5)
    found, count = metrics.paired_difference(better, whole)
    assert count == 2 and found["mean"] == pytest.approx(0.5)


def test_joined_trades_are_in_order_of_entry() -> None:
    whole = trades([0.1, 0.2, 0.3, 0.4])
    parts = [whole.take(np.array([2, 3])), whole.take(np.array([0, 1]))]
    assert metrics.join(parts).returns.tolist() == whole.returns.tolist()
    with pytest.raises(ValueError, match="twice"):
        metrics.join([whole, whole])


@pytest.mark.parametrize(
    "column, value, said",
    [
        ("returns", np.array([0.1, np.nan]), "returns: not finite"),
        ("time_s", np.array([1.0, 0.0]), "order of entry"),
        ("token", np.array([1]), "token: shape"),
    ],
)
def test_bad_trades_are_refused_by_name(column: str, value: metrics.Floats, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        dataclasses.replace(trades([0.1, 0.2]), **{column: value})


def test_resamples_keep_clusters_whole_and_the_order() -> None:
    clusters = np.array([5, 1, 5, 9, 1, 5])
    for rows in metrics.resamples(clusters, 50, seed=1):
        assert (np.diff(rows) >= 0).all()
        times = np.bincount(rows, minlength=len(clusters))
        assert times[0] == times[2] == times[5] and times[1] == times[4]
        assert times[0] + times[1] + times[3] == 3


def test_intervals_cover_at_about_the_nominal_rate() -> None:
    random = np.random.default_rng(7)
    hits = {"mean_return": 0, "win_rate": 0, "paired": 0}
    for k in range(120):
        returns = random.exponential(1.0, 60) - 0.8  # mean 0.2, win rate exp(-0.8)
        found = metrics.figure_intervals(trades(returns), draws=300, seed=k)
        gain, _ = metrics.paired_difference(trades(returns + random.normal(0.3, 1.0, 60)), trades(returns), seed=k)
        for name, interval, truth in (
            ("mean_return", found["mean_return"], 0.2),
            ("win_rate", found["win_rate"], math.exp(-0.8)),
            ("paired", gain, 0.3),
        ):
            assert interval["low"] is not None and interval["high"] is not None
            hits[name] += interval["low"] <= truth <= interval["high"]
    for name, count in hits.items():
        assert 0.87 <= count / 120 <= 0.99, name


def test_intervals_know_that_trades_of_a_token_are_alike() -> None:
    random = np.random.default_rng(3)
    by_token = by_trade = 0
    for k in range(120):
        token = np.repeat(np.arange(30), 6)
        values = random.normal(0.0, 1.0, 30)[token] + random.normal(0.0, 0.2, 180)
        found = metrics.mean_interval(values, token, draws=500, seed=k)
        naive = metrics.mean_interval(values, np.arange(180), draws=500, seed=k)
        assert None not in (found["low"], found["high"], naive["low"], naive["high"])
        by_token += found["low"] <= 0.0 <= found["high"]  # type: ignore[operator]
        by_trade += naive["low"] <= 0.0 <= naive["high"]  # type: ignore[operator]
    assert by_token / 120 >= 0.87
    assert by_trade / 120 < 0.75  # taken one by one they look surer than they are


def test_groups_add_up() -> None:
    made = trades([0.1, -0.2, 0.3, 0.4], bucket=np.array([0, 1, 0, 1]))
    found = metrics.by_group(made, made.bucket, {0: "new"})
    assert list(found) == ["new", "1"]
    assert found["new"]["trades"] == 2 and found["new"]["mean_return"] == pytest.approx(0.2)
    assert found["1"]["win_rate"] == 0.5
