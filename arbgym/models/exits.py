"""Selling by prediction: what a predictor of exits offers, and the policy that acts on it.

A predictor answers in scores float32, one column for each of ``SCORES``: the logarithm of 1 + the upside that is left, and the
logits of two probabilities (a drawdown ahead; that hindsight would sell now). The policy compares scores with thresholds, which
were carried over to the same scale once, so that the exported graph compares the very same float32 numbers and decides alike.
"""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from arbgym.spec import Field

Rows = NDArray[np.float32]
Mode = Literal["thresholds", "classifier"]
SCORES = ("upside", "drawdown", "sell")
UPSIDE_LOGITS = 8.0  # an upside of 1/8 beyond the threshold weighs as much as one logit; a power of 2, so nothing is rounded
_TUNING_SHARES = (0.01, 0.03, 0.07, 0.15, 0.25, 0.4, 0.5, 0.6, 0.75, 0.85, 0.93, 0.97, 0.99)
_NEVER = 1e6  # stands for the logit of a threshold of 0 or 1: finite, as an exported policy may not answer anything else


class Labels(NamedTuple):
    """What is to be predicted, each float64 (N,): see ``arbgym.models.labels``. Drawdown and sell are 0 or 1."""

    upside: NDArray[np.float64]
    drawdown: NDArray[np.float64]
    sell: NDArray[np.float64]


class Prediction(NamedTuple):
    """Each float64 (N,): the upside left (a share of the value now), and two probabilities."""

    upside: NDArray[np.float64]
    drawdown: NDArray[np.float64]
    sell: NDArray[np.float64]


Watch = Callable[[str, int, Mapping[str, float]], bool]
"""Called now and then while a predictor is fitted, with what is being fitted, the steps taken and its losses; True ends it."""


class ExitPredictor(Protocol):
    """Learns from rows of observations what became of the episodes they are from."""

    def fit(self, features: Rows, labels: Labels, episodes: NDArray[np.int64], watch: Watch | None = None) -> None:
        """Fit to features (N, D), in which row k is from episode ``episodes[k]``. Raises ValueError on what cannot be fitted."""
        ...

    def scores(self, features: Rows, names: Sequence[str] = SCORES) -> Rows:
        """Scores float32 (N, K) of features (N, D), one column for each of the K ``names``."""
        ...

    def predict(self, features: Rows) -> Prediction:
        """The same in their own units: see ``prediction``."""
        ...

    def graph(self, names: Sequence[str] = SCORES) -> Any:
        """The same as an ``onnx.ModelProto`` from ``observation`` (N, D) to ``scores`` (N, K). Needs the extra ``train``."""
        ...


def prediction(scores: Rows) -> Prediction:
    """What scores (N, 3) mean."""
    wide = scores.astype(np.float64)
    return Prediction(np.expm1(wide[:, 0]), squash(wide[:, 1]), squash(wide[:, 2]))


def squash(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    """The logistic function."""
    return 0.5 * (1.0 + np.tanh(0.5 * logits))


def last_episodes(episodes: NDArray[np.int64], share: float, least: int) -> NDArray[np.bool_]:
    """Rows (N,) of the last ``share`` of the episodes by number, to validate on; no episode lies on both sides.

    The last, not random ones: recorded episodes are numbered in time, and the later span is what a fit is for. Raises
    ValueError where there are fewer than ``least`` episodes.
    """
    numbers = np.unique(episodes)
    if len(numbers) < least:
        raise ValueError(f"episodes: {len(numbers)} differ; accepted are {least} or more, so that some can validate the fit")
    kept = max(round(len(numbers) * share), 1)
    return np.asarray(episodes >= numbers[len(numbers) - kept])


def check_rows(features: Rows, labels: Labels, episodes: NDArray[np.int64]) -> None:
    """Refuse, by name, rows that a predictor cannot be fitted to."""
    if features.ndim != 2 or features.dtype != np.float32 or not len(features):
        raise ValueError(f"features: {features.dtype} of shape {features.shape}; accepted is float32 (N, D) with N of 1 or more")
    if not np.isfinite(features).all():
        row, column = np.argwhere(~np.isfinite(features))[0]
        raise ValueError(f"features: {features[row, column]} in row {row}, column {column}; accepted are finite numbers")
    for name, values in (*labels._asdict().items(), ("episodes", episodes)):
        if values.shape != (len(features),):
            raise ValueError(f"{name}: shape {values.shape}; accepted is ({len(features)},), one for each row of the features")
        if not np.isfinite(values).all():
            raise ValueError(f"{name}: {values[~np.isfinite(values)][0]}; accepted are finite numbers")
    if labels.upside.min() <= -1.0:
        raise ValueError(f"upside: {labels.upside.min()}; accepted is above -1")
    for name in SCORES[1:]:
        values = getattr(labels, name)
        if not np.isin(values, (0.0, 1.0)).all():
            raise ValueError(f"{name}: not all labels are 0 or 1; accepted are those")


def check_classes(labels: Labels, fitted: NDArray[np.bool_]) -> None:
    """Refuse, by name, labels that are all alike in the rows (N,) that are fitted."""
    for name in SCORES[1:]:
        values = getattr(labels, name)[fitted]
        if values.min() == values.max():
            raise ValueError(f"{name}: every label is {values[0]:g}; accepted are labels of both classes (change what they ask)")


@dataclass(frozen=True)
class ExitPolicy:
    """Sells all when a predictor says so; a policy of the discrete encoding (0 hold, 1 sell) like any other.

    In the mode ``thresholds``: when the upside left is below ``upside_threshold`` or the probability of a drawdown above
    ``drawdown_threshold`` (1 switches that off). In the mode ``classifier``: when the probability that hindsight would sell is
    above ``sell_threshold``. ``fields`` are the observation's: what lies outside a field's range is limited to it.
    """

    predictor: ExitPredictor
    fields: Sequence[Field]
    mode: Mode = "thresholds"
    upside_threshold: float = 0.008
    drawdown_threshold: float = 0.40
    sell_threshold: float = 0.50

    def __post_init__(self) -> None:
        if self.mode not in ("thresholds", "classifier"):
            raise ValueError(f"mode = {self.mode!r}; accepted are 'thresholds', 'classifier'")
        for name, most in (("upside_threshold", 1e6), ("drawdown_threshold", 1.0), ("sell_threshold", 1.0)):
            if not 0.0 <= getattr(self, name) <= most:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is 0 to {most:g}")

    @property
    def names(self) -> tuple[str, ...]:
        """The scores that the mode asks for."""
        return SCORES[2:] if self.mode == "classifier" else SCORES[:2]

    @property
    def limits(self) -> tuple[Rows, Rows]:
        """Least and greatest value of each field, float32 (D,)."""
        low, high = ([getattr(field, name) for field in self.fields] for name in ("low", "high"))
        return np.array(low, dtype=np.float32), np.array(high, dtype=np.float32)

    @property
    def bars(self) -> tuple[np.float32, np.float32, np.float32]:
        """The thresholds on the scale of the scores."""
        upside = np.float32(math.log1p(self.upside_threshold))
        return upside, _logit(self.drawdown_threshold), _logit(self.sell_threshold)

    def margin(self, observations: Rows) -> Rows:
        """By how much selling is preferred, float32 (N,), in logits; it sells above 0.

        The classifier's logit beyond the threshold's; or the larger of the drawdown's, and 8 times the logarithmic upside that
        is missing.
        """
        return self.margin_of(self.scores(observations))

    def scores(self, observations: Rows) -> Rows:
        """The scores that the mode asks for, float32 (N, K), of observations limited to their fields' ranges."""
        return self.predictor.scores(np.clip(observations, *self.limits), self.names)

    def margin_of(self, scores: Rows) -> Rows:
        """The margin of such scores."""
        upside, drawdown, sell = self.bars
        if self.mode == "classifier":
            return np.asarray(scores[:, 0] - sell)
        margin: Rows = np.maximum((upside - scores[:, 0]) * np.float32(UPSIDE_LOGITS), scores[:, 1] - drawdown)
        return margin

    def logits(self, observations: Rows) -> Rows:
        """Logits (N, 2) of holding and selling: half the margin, with both signs."""
        return self.margin(observations)[:, None] * np.array([[-0.5, 0.5]], dtype=np.float32)

    def sell_score(self, observations: Rows) -> NDArray[np.float64]:
        """The margin, squashed to [0, 1] by the logistic function: above 0.5 it sells. No probability of anything."""
        return squash(self.margin(observations).astype(np.float64))

    def predict(self, observations: Rows) -> NDArray[np.int64]:
        """Actions int64 (N, 1) for observations float32 (N, D): 0 hold, 1 sell."""
        return (self.margin(observations) > 0.0).astype(np.int64)[:, None]

    def tune(self, simulate: Callable[[ExitPolicy], float], scores: Rows) -> ExitPolicy:
        """The policy with the thresholds of the greatest ``simulate(policy)`` on a grid; of equals the one tried first.

        Tried are the policy itself and, of the thresholds that the mode asks for, all combinations of the present value,
        quantiles of the ``scores`` (N, K) on tuning episodes (never on held-out ones), and 1 for the drawdown: 211 in all, or 15.
        """
        grids: list[list[float]] = []
        for name, column in zip(self.names, scores.T.astype(np.float64), strict=True):
            quantiles = np.quantile(column, _TUNING_SHARES)
            values = np.maximum(np.expm1(quantiles), 0.0) if name == "upside" else squash(quantiles)
            extra = [getattr(self, f"{name}_threshold"), *([1.0] if name == "drawdown" else [])]
            grids.append(sorted({float(f"{value:.4g}") for value in values} | set(extra)))
        best, value = self, simulate(self)
        for thresholds in itertools.product(*grids):
            changes: dict[str, Any] = {f"{name}_threshold": bar for name, bar in zip(self.names, thresholds, strict=True)}
            candidate = dataclasses.replace(self, **changes)
            if candidate != self and (result := simulate(candidate)) > value:
                best, value = candidate, result
        return best

    def onnx(self) -> bytes:
        """The policy as one ONNX file: ``observation`` to ``logits`` (N, 2) and ``action`` (N, 1). Needs the extra ``train``."""
        from arbgym.models.graphs import exit_graph  # onnx is not needed to decide

        return exit_graph(self)


def _logit(probability: float) -> np.float32:
    if probability in (0.0, 1.0):
        return np.float32(_NEVER if probability else -_NEVER)
    return np.float32(math.log(probability) - math.log1p(-probability))
