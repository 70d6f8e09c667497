"""What a holder would have wanted to know: labels that look ahead along episodes in which nothing was sold.

``values`` are float64 (E, T + 1): what the position was worth, net of the costs of selling it all, at each moment
(``value_quote``), column 0 when it was opened. Episode e has ``lengths[e]`` steps, so its values are columns 0 to ``lengths[e]``
and later columns are ignored. Labels are float64 (E, T): one for each moment at which there was something left to decide, NaN
where there was not: after the end, and where the position was worth nothing or the value is unknown (NaN).
Only labels look ahead; features never do.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]


def upside_left(values: Floats, lengths: NDArray[np.int64]) -> Floats:
    """The best value from now to the end over the value now, less 1 (0 where it never gets better)."""
    known = _known(values, lengths)
    best = _reverse(np.fmax, known)[:, :-1]
    now = known[:, :-1]
    upside = np.full_like(now, np.nan)
    with np.errstate(over="ignore"):  # from next to nothing to anything is infinitely much
        np.divide(best, now, out=upside, where=now > 0.0)
    _forget_ends(upside, lengths)
    return upside - 1.0


def drawdown_ahead(values: Floats, lengths: NDArray[np.int64], depth: float, window: int | None = None) -> Floats:
    """1 where the value falls to ``1 - depth`` of what it is now, or lower, within the next ``window`` steps (None: before the
    end), else 0.

    Raises ValueError for a depth outside (0, 1] and a window below 1.
    """
    if not 0.0 < depth <= 1.0:
        raise ValueError(f"depth = {depth}; accepted is above 0 up to 1")
    if window is not None and window < 1:
        raise ValueError(f"window = {window}; accepted is 1 or more steps, or None")
    known = _known(values, lengths)
    ahead = known[:, 1:]
    worst = _reverse(np.fmin, ahead) if window is None else _within(ahead, window)
    now = known[:, :-1]
    fallen = (worst <= (1.0 - depth) * now).astype(np.float64)
    fallen[~(now > 0.0)] = np.nan
    _forget_ends(fallen, lengths)
    return fallen


def hindsight_sell(values: Floats, lengths: NDArray[np.int64], tolerance: float) -> Floats:
    """1 where selling now gives the best of what is left, or at most ``tolerance`` (a share of the value now) less, else 0.

    Raises ValueError for a negative tolerance.
    """
    if not tolerance >= 0.0:
        raise ValueError(f"tolerance = {tolerance}; accepted is 0 or more")
    upside = upside_left(values, lengths)
    return np.where(np.isnan(upside), np.nan, (upside <= tolerance).astype(np.float64))


def _known(values: Floats, lengths: NDArray[np.int64]) -> Floats:
    """The values with everything after an episode's end unknown. Raises ValueError where the shapes do not fit."""
    if values.ndim != 2 or values.shape[1] < 2:
        raise ValueError(f"values: shape {values.shape}; accepted is (episodes, steps + 1) with at least 1 step")
    if lengths.shape != (len(values),):
        raise ValueError(f"lengths: shape {lengths.shape}; accepted is ({len(values)},), one for each episode")
    if lengths.size and not (lengths.min() >= 1 and lengths.max() < values.shape[1]):
        raise ValueError(f"lengths: {lengths.min()} to {lengths.max()}; accepted are 1 to {values.shape[1] - 1}")
    if np.isinf(values).any():
        raise ValueError("values: some are infinite; accepted are numbers, NaN where unknown")
    return np.where(np.arange(values.shape[1]) <= lengths[:, None], values, np.nan)


def _forget_ends(labels: Floats, lengths: NDArray[np.int64]) -> None:
    labels[np.arange(labels.shape[1]) >= lengths[:, None]] = np.nan


def _reverse(best: np.ufunc, values: Floats) -> Floats:
    """Running extreme from each column to the last; NaN counts for nothing."""
    found: Floats = best.accumulate(values[:, ::-1], axis=1)[:, ::-1]
    return found


def _within(values: Floats, window: int) -> Floats:
    """Least of each column and the ``window - 1`` after it: windows of powers of two, doubled, then two that overlap."""
    least, size = values.copy(), 1
    while 2 * size <= min(window, values.shape[1]):
        least[:, :-size] = np.fmin(least[:, :-size], least[:, size:])
        size *= 2
    rest = min(window, values.shape[1]) - size
    if rest:
        least[:, :-rest] = np.fmin(least[:, :-rest], least[:, rest:])
    return least
