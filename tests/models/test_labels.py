"""Labels are what a look at every later moment, one by one, says."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbgym.models.labels import drawdown_ahead, hindsight_sell, upside_left

VALUES = st.one_of(st.floats(-5.0, -1e-6), st.floats(1e-6, 200.0), st.sampled_from([0.0, 1.0, 2.0, 50.0, math.nan]))


@st.composite
def episodes(draw: st.DrawFn) -> tuple[np.ndarray, np.ndarray]:
    count, steps = draw(st.integers(1, 4)), draw(st.integers(1, 20))
    values = np.array([[draw(VALUES) for _ in range(steps + 1)] for _ in range(count)])
    lengths = np.array([draw(st.integers(1, steps)) for _ in range(count)])
    return values, lengths


def ahead(values: np.ndarray, lengths: np.ndarray, e: int, t: int, first: int, window: int | None) -> list[float]:
    """Known values from ``t + first`` on, within the window and the episode."""
    last = int(lengths[e]) if window is None else min(int(lengths[e]), t + window)
    return [float(v) for v in values[e, t + first : last + 1] if not math.isnan(v)]


@given(episodes(), st.floats(0.01, 1.0), st.one_of(st.none(), st.integers(1, 25)), st.floats(0.0, 0.5))
def test_every_label_agrees_with_a_look_at_each_later_moment(case, depth: float, window: int | None, tolerance: float) -> None:
    values, lengths = case
    upside, drawdown = upside_left(values, lengths), drawdown_ahead(values, lengths, depth, window)
    sell = hindsight_sell(values, lengths, tolerance)
    assert upside.shape == drawdown.shape == sell.shape == (len(values), values.shape[1] - 1)
    for e, t in np.ndindex(upside.shape):
        now = values[e, t]
        if t >= lengths[e] or not now > 0.0:
            assert math.isnan(upside[e, t]) and math.isnan(drawdown[e, t]) and math.isnan(sell[e, t])
            continue
        best = max(ahead(values, lengths, e, t, 0, None))
        assert upside[e, t] == best / now - 1.0
        assert sell[e, t] == float(best / now - 1.0 <= tolerance)
        later = ahead(values, lengths, e, t, 1, window)
        assert drawdown[e, t] == float(any(v <= (1.0 - depth) * now for v in later))


@given(episodes(), st.randoms())
def test_what_lies_after_the_end_and_before_now_does_not_matter(case, random) -> None:
    values, lengths = case
    other = values.copy()
    for e, length in enumerate(lengths):
        other[e, length + 1 :] = random.uniform(0.0, 1e6)
    for label in (upside_left, lambda v, n: drawdown_ahead(v, n, 0.3), lambda v, n: hindsight_sell(v, n, 0.01)):
        assert np.array_equal(label(values, lengths), label(other, lengths), equal_nan=True)


ONE, TWO = np.ones((2, 4)), np.array([3, 3])


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: drawdown_ahead(ONE, TWO, 0.0), "depth = 0.0; accepted is above 0"),
        (lambda: drawdown_ahead(ONE, TWO, 0.1, 0), "window = 0; accepted is 1 or more"),
        (lambda: hindsight_sell(ONE, TWO, -0.1), "tolerance = -0.1"),
        (lambda: upside_left(ONE[0], TWO), "values: shape"),
        (lambda: upside_left(ONE, np.array([3, 4])), "lengths: 3 to 4; accepted are 1 to 3"),
        (lambda: upside_left(ONE, np.array([3])), "lengths: shape"),
        (lambda: upside_left(ONE * np.inf, TWO), "infinite"),
    ],
)
def test_what_is_no_set_of_episodes_is_refused_by_name(call, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()
