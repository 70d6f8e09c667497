"""Whether predicted probabilities are what happens."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray


def calibration(probabilities: NDArray[np.float64], outcomes: NDArray[np.float64], bins: int = 10) -> dict[str, Any]:
    """How well probabilities (N,) foretold outcomes (N,) of 0 or 1; JSON-able.

    ``brier`` is the mean squared error (Brier 1950), ``base_brier`` that of always predicting the share of ones (``base_rate``),
    ``skill`` 1 - brier / base_brier (0 where there is one outcome only), ``error`` the mean distance between predicted and seen
    shares over the bins, by rows (expected calibration error), and ``table`` the reliability diagram: for each of ``bins`` equal
    parts of [0, 1] that has rows, {low, high, rows, predicted, seen}. Raises ValueError on anything but probabilities and 0 or 1.
    """
    predicted, seen = np.asarray(probabilities, dtype=np.float64), np.asarray(outcomes, dtype=np.float64)
    if predicted.ndim != 1 or predicted.shape != seen.shape or not len(predicted):
        raise ValueError(f"probabilities {predicted.shape}, outcomes {seen.shape}; accepted are two of shape (N,), N > 0")
    if not ((predicted >= 0.0) & (predicted <= 1.0)).all():
        raise ValueError("probabilities: not all lie in [0, 1]; accepted are those that do")
    if not np.isin(seen, (0.0, 1.0)).all():
        raise ValueError("outcomes: not all are 0 or 1; accepted are those")
    if not 1 <= bins <= 1_000:
        raise ValueError(f"bins = {bins}; accepted is 1 to 1000")
    place = np.minimum((predicted * bins).astype(np.int64), bins - 1)
    rows = np.bincount(place, minlength=bins)
    mean_predicted, mean_seen = (
        np.bincount(place, weights=values, minlength=bins) / np.maximum(rows, 1) for values in (predicted, seen)
    )
    base_rate = float(seen.mean())
    brier, base_brier = float(np.mean((predicted - seen) ** 2)), base_rate * (1.0 - base_rate)
    return {
        "rows": len(seen),
        "base_rate": base_rate,
        "brier": brier,
        "base_brier": base_brier,
        "skill": 1.0 - brier / base_brier if base_brier else 0.0,
        "error": float(np.sum(rows * np.abs(mean_predicted - mean_seen)) / len(seen)),
        "table": [
            {
                "low": k / bins,
                "high": (k + 1) / bins,
                "rows": int(rows[k]),
                "predicted": float(mean_predicted[k]),
                "seen": float(mean_seen[k]),
            }
            for k in np.flatnonzero(rows).tolist()
        ],
    }
