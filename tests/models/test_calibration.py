"""Calibration of probabilities that are right, wrong and refused."""

from __future__ import annotations

import numpy as np
import pytest

from arbgym.models.calibration import calibration


def test_right_probabilities_lie_on_the_diagonal() -> None:
    rng = np.random.default_rng(0)
    p = rng.random(200_000)
    found = calibration(p, (rng.random(len(p)) < p).astype(float))
    assert len(found["table"]) == 10 and sum(row["rows"] for row in found["table"]) == found["rows"] == len(p)
    for row in found["table"]:
        assert abs(row["predicted"] - row["seen"]) < 0.02 and row["low"] <= row["predicted"] <= row["high"]
    # for p uniform: E[p (1 - p)] = 1/6, and 1/4 is the variance of the outcomes
    assert abs(found["brier"] - 1 / 6) < 0.003 and abs(found["base_brier"] - 1 / 4) < 0.003
    assert abs(found["skill"] - 1 / 3) < 0.02 and found["error"] < 0.01


def test_by_hand() -> None:
    found = calibration(np.array([0.0, 0.2, 1.0, 1.0]), np.array([0.0, 1.0, 1.0, 0.0]), bins=2)
    assert found["brier"] == pytest.approx((0.64 + 1.0) / 4) and found["base_rate"] == 0.5 and found["base_brier"] == 0.25
    assert found["table"] == [
        {"low": 0.0, "high": 0.5, "rows": 2, "predicted": pytest.approx(0.1), "seen": 0.5},
        {"low": 0.5, "high": 1.0, "rows": 2, "predicted": 1.0, "seen": 0.5},
    ]
    assert found["error"] == pytest.approx(0.5 * 0.4 + 0.5 * 0.5)
    assert calibration(np.array([0.3]), np.array([1.0]))["skill"] == 0.0


@pytest.mark.parametrize(
    ("p", "y", "bins", "message"),
    [
        ([], [], 10, "accepted are two of shape"),
        ([0.1, 0.2], [1.0], 10, "accepted are two of shape"),
        ([1.1], [1.0], 10, r"in \[0, 1\]"),
        ([np.nan], [1.0], 10, r"in \[0, 1\]"),
        ([0.5], [0.5], 10, "outcomes"),
        ([0.5], [1.0], 0, "bins = 0"),
    ],
)
def test_what_are_no_probabilities_is_refused(p: list[float], y: list[float], bins: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        calibration(np.array(p), np.array(y), bins)
