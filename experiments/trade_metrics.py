"""Figures of closed trades: pure functions on arrays, one number per trade, each figure with a bootstrap interval.

A trade is one bought position, from its entry until nothing of it is left. Its return R is its net profit over what it cost,
all costs included. What the names in ``FIGURES`` mean:

| figure | unit | meaning |
|---|---|---|
| win_rate | 1 | share of the trades with a return above 0 |
| mean_return, median_return | 1 | of R |
| sharpe | 1 | mean of R over its standard deviation (n - 1), **per trade**: not annualised, as trades have no common clock |
| sortino | 1 | mean of R over the root of the mean of min(R, 0)^2, per trade, with 0 as the target |
| max_drawdown | positions | deepest fall of the sum of returns, by order of entry, below its highest; a position counts as 1 |
| var_95 | 1 | value at risk: the loss that the worst 5 % of the trades reach or exceed (a gain is negative) |
| cvar_95 | 1 | mean loss of the worst 5 % (expected shortfall, Rockafellar and Uryasev 2002); never below var_95 |
| profit_factor | 1 | sum of the returns above 0 over the sum of the losses |
| oracle_share | 1 | sum of the net profits in quote currency over the sum of hindsight's |
| holding_s | s | mean time for which a position was held, each part of it as long as it was |
| exit_* | 1 | mean share of a position that left by each reason |

A figure that does not exist (a ratio over 0, no trades) is NaN, and None in JSON; so is one that more than 5 % of the bootstrap's
samples do not have, as a share of hindsight's profit where that may as well be a loss. Intervals are percentile bootstraps
(Efron 1979) that draw whole clusters with replacement (Cameron, Gelbach and Miller 2008): all trades of a token stay together,
since they share its price. Drawn trades keep their order of entry. Trades of different tokens at the same time share the market
too: no interval here knows of that, which is why a report shows each fold as well.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

EXITS = ("model", "stop", "take_profit", "timeout", "rug")
"""Why a part of a position was sold: the policy's own decision, a stop or trailing stop, its profit target, the end of the time a
rule or the horizon allows, an emptied pool."""
FIGURES = (
    *("win_rate", "mean_return", "median_return", "sharpe", "sortino", "max_drawdown", "var_95", "cvar_95", "profit_factor"),
    *("oracle_share", "holding_s", *(f"exit_{reason}" for reason in EXITS)),
)
TAIL = 0.05
DRAWS = 2_000
LEAST_CLUSTERS = 2  # to say anything about how they differ
_FINITE_SHARE = 0.95  # of the draws in which a figure has to exist


class Interval(TypedDict):
    """A figure and its 95 % interval; None where it does not exist or has no bound."""

    mean: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Trades:
    """n trades of one policy in order of entry.

    Args:
        returns: net profit over cost.
        profit_quote, oracle_profit_quote: net profit, and hindsight's of the same entry, quote currency.
        holding_s: time held, s, each part of the position as long as it was.
        exits: float64 (n, 5), the share of the position that left by each of ``EXITS``.
        entry: what identifies the entry: trades of two policies with the same number are paired.
        time_s: of the entry, s, ascending.
        token, bucket, fold: numbers.

    Raises ValueError naming the column: another length, numbers that are not finite, times that descend, an entry twice.
    """

    returns: Floats
    profit_quote: Floats
    oracle_profit_quote: Floats
    holding_s: Floats
    exits: Floats
    entry: Ints
    time_s: Floats
    token: Ints
    bucket: Ints
    fold: Ints

    def __post_init__(self) -> None:
        count = len(self.returns)
        for name, values in vars(self).items():
            shape = (count, len(EXITS)) if name == "exits" else (count,)
            if np.shape(values) != shape:
                raise ValueError(f"{name}: shape {np.shape(values)}; accepted is {shape}")
            if not np.isfinite(values).all():
                raise ValueError(f"{name}: not finite in {np.argwhere(~np.isfinite(values))[0]}; accepted are finite numbers")
        if np.any(np.diff(self.time_s) < 0.0):
            raise ValueError("time_s descends; accepted are trades in order of entry")
        if len(np.unique(self.entry)) < count:
            raise ValueError("entry: a number occurs twice; accepted is one trade per entry")

    def __len__(self) -> int:
        return len(self.returns)

    def take(self, rows: Ints) -> Trades:
        """The trades of these rows, which ascend."""
        return Trades(**{name: values[rows] for name, values in vars(self).items()})


def join(parts: Sequence[Trades]) -> Trades:
    """All trades in order of entry; of none there are none."""
    if not parts:
        empty, none = np.empty(0), np.empty(0, dtype=np.int64)
        return Trades(empty, empty, empty, empty, np.empty((0, len(EXITS))), none, empty, none, none, none)
    columns = {name: np.concatenate([vars(part)[name] for part in parts]) for name in vars(parts[0])}
    order = np.lexsort((columns["entry"], columns["time_s"]))
    return Trades(**{name: values[order] for name, values in columns.items()})


def equity(returns: Floats) -> Floats:
    """Sum of the returns so far (n,), in positions of 1."""
    return np.cumsum(returns)


def drawdown(returns: Floats) -> Floats:
    """How far ``equity`` lies below its highest so far, 0 at the start included (n,); 0 or more."""
    path = equity(returns)
    return np.maximum(np.maximum.accumulate(path), 0.0) - path if len(path) else path


def max_drawdown(returns: Floats) -> float:
    """The deepest drawdown, in positions; 0 for no trades."""
    return float(drawdown(returns).max(initial=0.0))


def value_at_risk(returns: Floats, tail: float = TAIL) -> float:
    """The loss (positive) that the worst ``tail`` of the returns reach or exceed: an order statistic, not interpolated."""
    if not len(returns):
        return float("nan")
    return float(-np.quantile(returns, tail, method="inverted_cdf"))


def expected_shortfall(returns: Floats, tail: float = TAIL) -> float:
    """Mean loss of the worst ``tail`` of the returns; the trade on the border counts with the part of it that belongs there."""
    if not len(returns):
        return float("nan")
    mass = tail * len(returns)
    weights = np.clip(mass - np.arange(int(np.ceil(mass))), 0.0, 1.0)
    worst = np.sort(returns)[: len(weights)]
    return float(-(worst @ weights) / weights.sum())


def profit_factor(returns: Floats) -> float:
    """Gains over losses; inf where nothing was lost, NaN where nothing was gained either."""
    return _ratio(float(np.maximum(returns, 0.0).sum()), float(np.maximum(-returns, 0.0).sum()))


def sharpe(returns: Floats) -> float:
    """Mean over standard deviation (n - 1), per trade; NaN for fewer than two trades or equal returns."""
    if len(returns) < 2:
        return float("nan")
    deviation = float(returns.std(ddof=1))
    # equal numbers have a deviation of a rounding error
    return float(returns.mean()) / deviation if deviation > 1e-12 * float(np.abs(returns).max()) else float("nan")


def sortino(returns: Floats) -> float:
    """Mean over the root of the mean squared loss, per trade; inf where nothing was lost, NaN for no gains and no losses."""
    if not len(returns):
        return float("nan")
    return _ratio(float(returns.mean()), float(np.sqrt(np.mean(np.minimum(returns, 0.0) ** 2))))


def figures(trades: Trades) -> dict[str, float]:
    """Each of ``FIGURES``, of trades in order of entry."""
    rows = np.arange(len(trades))
    return dict(zip(FIGURES, _figures(trades, rows).tolist(), strict=True))


def _figures(trades: Trades, rows: Ints) -> Floats:
    """``FIGURES`` of the drawn rows (m,): float64 (len(FIGURES),)."""
    if not len(rows):
        return np.full(len(FIGURES), np.nan)
    returns = trades.returns[rows]
    oracle = float(trades.oracle_profit_quote[rows].sum())
    return np.array(
        [
            (returns > 0.0).mean(),
            returns.mean(),
            np.median(returns),
            sharpe(returns),
            sortino(returns),
            max_drawdown(returns),
            value_at_risk(returns),
            expected_shortfall(returns),
            profit_factor(returns),
            trades.profit_quote[rows].sum() / oracle if oracle > 0.0 else np.nan,
            trades.holding_s[rows].mean(),
            *trades.exits[rows].mean(axis=0),
        ]
    )


def resamples(clusters: Ints, draws: int = DRAWS, seed: int = 0) -> Iterator[Ints]:
    """Row numbers, ascending, of each bootstrap sample of the clusters (n,) that rows belong to, drawn with replacement."""
    found, label = np.unique(clusters, return_inverse=True)
    rows, random = np.arange(len(clusters)), np.random.default_rng(seed)
    for _ in range(draws):
        times = np.bincount(random.integers(0, len(found), len(found)), minlength=len(found))
        yield np.repeat(rows, times[label])


def figure_intervals(trades: Trades, draws: int = DRAWS, seed: int = 0) -> dict[str, Interval]:
    """Each of ``FIGURES`` with its interval by clusters of tokens; no interval for fewer than two tokens."""
    values = list(figures(trades).values())
    if len(np.unique(trades.token)) < LEAST_CLUSTERS:
        return {name: Interval(mean=_number(value), low=None, high=None) for name, value in zip(FIGURES, values, strict=True)}
    drawn = np.array([_figures(trades, rows) for rows in resamples(trades.token, draws, seed)])
    return {name: _interval(value, drawn[:, k]) for k, (name, value) in enumerate(zip(FIGURES, values, strict=True))}


def mean_interval(values: Floats, clusters: Ints, draws: int = DRAWS, seed: int = 0) -> Interval:
    """Mean of values (n,) with its interval by clusters (n,)."""
    if not len(values):
        return Interval(mean=None, low=None, high=None)
    _, label = np.unique(clusters, return_inverse=True)
    sums, sizes = np.bincount(label, weights=values), np.bincount(label)
    mean, count = float(values.mean()), len(sizes)
    if count < LEAST_CLUSTERS:
        return Interval(mean=mean, low=None, high=None)
    drawn = np.random.default_rng(seed).integers(0, count, (draws, count))
    return _interval(mean, sums[drawn].sum(axis=1) / sizes[drawn].sum(axis=1))


def paired_difference(subject: Trades, other: Trades, draws: int = DRAWS, seed: int = 0) -> tuple[Interval, int]:
    """Mean of the subject's return minus the other's over the entries that both traded, with its interval, and their number."""
    _, left, right = np.intersect1d(subject.entry, other.entry, return_indices=True)
    differences = subject.returns[left] - other.returns[right]
    return mean_interval(differences, subject.token[left], draws, seed), len(left)


def _interval(value: float, drawn: Floats) -> Interval:
    known = drawn[~np.isnan(drawn)]
    if np.isnan(value) or len(known) < _FINITE_SHARE * len(drawn):  # as a share of a sum that may as well be below 0
        return Interval(mean=None, low=None, high=None)
    low, high = np.quantile(known, [0.025, 0.975], method="inverted_cdf")  # an order statistic, as a draw may be infinite
    return Interval(mean=_number(value), low=_number(low), high=_number(high))


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _ratio(above: float, below: float) -> float:
    if below > 0.0:
        return above / below
    return float("inf") if above > 0.0 else float("nan")


def by_group(trades: Trades, groups: Ints, names: Mapping[int, str]) -> dict[str, dict[str, float | int | None]]:
    """Number, win rate, mean return with its interval and share of the oracle of each group (n,), named."""
    found: dict[str, dict[str, float | int | None]] = {}
    for group in np.unique(groups).tolist():
        part = trades.take(np.flatnonzero(groups == group))
        mean, known = mean_interval(part.returns, part.token), figures(part)
        found[names.get(group, str(group))] = {
            "trades": len(part),
            "win_rate": _number(known["win_rate"]),
            "mean_return": mean["mean"],
            "low": mean["low"],
            "high": mean["high"],
            "oracle_share": _number(known["oracle_share"]),
        }
    return found
