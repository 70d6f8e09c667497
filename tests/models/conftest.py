"""Observations of a market that does not exist, whose future a learner can find in them."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest

from arbgym.models.exits import Labels
from arbgym.spec import Field

NAMES = (*(f"field_{k}" for k in range(6)), *(f"{kind}_lag_{k}" for kind in ("return", "imbalance") for k in range(1, 17)))


class Rows(NamedTuple):
    """Fields, observations (N, D), labels (N,) and episodes (N,)."""

    fields: tuple[Field, ...]
    features: np.ndarray
    labels: Labels
    episodes: np.ndarray


def draw_rows(episodes: int, steps: int, seed: int = 0) -> Rows:
    """Upside hangs on field_0 and two lags, a drawdown on field_1 and the newest imbalance; some columns have few values."""
    rng = np.random.default_rng(seed)
    fields = tuple(Field(name, "", 1.0, -3.0, 3.0, "") for name in NAMES)
    x = np.clip(rng.normal(size=(episodes * steps, len(fields))), -3.0, 3.0).astype(np.float32)
    x[:, :4] = np.round(x[:, :4], 1)
    column = {name: x[:, k].astype(np.float64) for k, name in enumerate(NAMES)}
    drift = 0.3 * column["field_0"] + 0.3 * column["return_lag_1"] - 0.2 * column["return_lag_7"]
    upside = np.maximum(np.expm1(drift + 0.2 * rng.normal(size=len(x))), 0.0)
    danger = column["field_1"] - column["imbalance_lag_1"] + rng.normal(size=len(x))
    labels = Labels(upside, (danger > 0.5).astype(np.float64), (upside <= 0.01).astype(np.float64))
    return Rows(fields, x, labels, np.repeat(np.arange(episodes), steps))


@pytest.fixture(scope="session")
def rows() -> Rows:
    return draw_rows(60, 50)


def outside(fields: tuple[Field, ...], count: int, seed: int) -> np.ndarray:
    """Observations (count, D), some of them beyond the fields' ranges, many of them on a grid that trees split on."""
    rng = np.random.default_rng(seed)
    x = rng.normal(scale=2.0, size=(count, len(fields))).astype(np.float32)
    x[:, :4] = np.round(x[:, :4], 1)
    return x
