"""Policies' trades side by side: figures with intervals, pairs against every rule, groups, curves, and what may be said of them.

Everything is a plain dictionary that JSON can hold, the part of ``result.json`` from which ``experiments.trade_report`` draws.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from experiments import trade_metrics as metrics
from experiments.trade_metrics import Floats, Trades

LEAST_TRADES = 30  # fewer cannot tell policies apart, whatever an interval says
ORACLE = "oracle"
_CURVE_POINTS = 400
_BINS = 40


def compare(
    trades: Mapping[str, Trades],
    subjects: Sequence[str],
    rules: Sequence[str],
    bucket_names: Mapping[int, str],
    draws: int = metrics.DRAWS,
) -> dict[str, Any]:
    """Figures of every policy. ``subjects`` are what is judged, ``rules`` the baselines; ``oracle`` is hindsight and neither.

    Returns policies {name: role, trades, figures, buckets, folds, curve}, paired {name: {rule: mean, low, high, trades}}, the
    histogram of returns, and the verdict, a list of plain sentences.
    """
    paired = {
        name: {rule: _pair(own, trades[rule], draws) for rule in rules if rule not in (name, ORACLE) and rule in trades}
        for name, own in trades.items()
        if name != ORACLE
    }
    policies = {
        name: {
            "role": "oracle" if name == ORACLE else "subject" if name in subjects else "rule",
            "trades": len(own),
            "tokens": len(np.unique(own.token)),
            "figures": metrics.figure_intervals(own, draws),
            "buckets": metrics.by_group(own, own.bucket, bucket_names),
            "folds": metrics.by_group(own, own.fold, {}),
            "curve": _curve(own),
        }
        for name, own in trades.items()
    }
    result = {"policies": policies, "paired": paired, "histogram": _histogram(trades)}
    return {**result, "verdict": verdict(result, subjects, rules)}


def verdict(result: Mapping[str, Any], subjects: Sequence[str], rules: Sequence[str]) -> list[str]:
    """What the numbers allow to be said, in plain sentences; names the policies that cannot be told apart."""
    means = {name: own["figures"]["mean_return"]["mean"] for name, own in result["policies"].items()}
    known = [rule for rule in rules if rule != ORACLE and means.get(rule) is not None]
    judged = [name for name in subjects if means.get(name) is not None]
    silent = [name for name in subjects if means.get(name) is None]
    found = [f"{_list(silent)} {'has' if len(silent) == 1 else 'have'} no trades: see the folds."] if silent else []
    if not known:
        return [*found, "No rule has trades, so there is nothing to compare with: the data is too small, or every fold failed."]
    best = max(known, key=lambda rule: means[rule])
    found.append(
        f"The best rule is {best}, with a mean return of {means[best]:+.2%} a trade; as it was picked on the trades shown here, "
        "that flatters it."
    )
    pairs = {name: result["paired"][name].get(best) for name in judged}
    same = [name for name, pair in pairs.items() if pair and pair["mean"] == pair["low"] == pair["high"] == 0.0]
    if same:
        found.append(f"On every trade that it shares with {best}, the return of {_list(same)} is the same.")
    judged = [name for name in judged if name not in same]
    if same and not judged:
        return found
    others = judged or [rule for rule in known if rule != best]
    if not others:
        return found
    pairs = {name: result["paired"][name].get(best) for name in others}
    few = {name: result["policies"][name]["trades"] for name in others if result["policies"][name]["trades"] < LEAST_TRADES}
    if few:
        counts = ", ".join(f"{name} {count}" for name, count in few.items())
        found.append(
            f"The data is too small to tell policies apart: fewer than {LEAST_TRADES} trades ({counts}). "
            "Nothing below this line is evidence."
        )
    decided = {name: pair for name, pair in pairs.items() if pair and name not in few and _sign(pair)}
    for name, pair in decided.items():
        word = "earns more than" if _sign(pair) > 0 else "earns less than"
        found.append(f"{name} {word} {best}: {_interval(pair)} a trade.")
    open_ = [name for name in others if name not in decided]
    if open_ and not decided and not few:
        found.append(
            f"The data is too small to tell {_list(open_)} from {best}: the 95 % interval of "
            f"{'the difference' if len(open_) == 1 else 'every difference'} holds zero "
            f"({'; '.join(f'{name} {_interval(pairs[name])}' for name in open_ if pairs[name])})."
        )
    elif open_ and decided:
        found.append(f"Undecided beside {best}, as the interval of the difference holds zero or has no bound: {_list(open_)}.")
    return found


def _pair(own: Trades, rule: Trades, draws: int) -> dict[str, Any]:
    difference, count = metrics.paired_difference(own, rule, draws)
    return {**difference, "trades": count}


def _sign(pair: Mapping[str, Any]) -> int:
    """+1 or -1 where the interval lies on one side of zero, else 0."""
    if pair["low"] is None or pair["high"] is None:
        return 0
    return 1 if pair["low"] > 0.0 else -1 if pair["high"] < 0.0 else 0


def _interval(pair: Mapping[str, Any]) -> str:
    if pair["mean"] is None:
        return "no common trades"
    bounds = "no interval" if pair["low"] is None else f"{pair['low']:+.2%} .. {pair['high']:+.2%}"
    return f"{pair['mean']:+.2%} [{bounds}]"


def _list(names: Iterable[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} and {last}" if first else last


def _curve(trades: Trades) -> dict[str, list[float]]:
    """Sum of returns and drawdown by number of trades, thinned; the deepest point is kept."""
    if not len(trades):
        return {"trade": [], "equity": [], "drawdown": []}
    path, fall = metrics.equity(trades.returns), metrics.drawdown(trades.returns)
    rows = np.linspace(0, len(trades) - 1, min(len(trades), _CURVE_POINTS)).astype(np.int64)
    rows = np.unique(np.append(rows, int(np.argmax(fall))))
    return {"trade": (rows + 1).tolist(), "equity": path[rows].tolist(), "drawdown": fall[rows].tolist()}


def _histogram(trades: Mapping[str, Trades]) -> dict[str, Any]:
    """Counts of returns in common bins; the outer bins hold what lies beyond them."""
    pooled = np.concatenate([own.returns for own in trades.values()] or [np.empty(0)])
    low, high = _range(pooled)
    edges = np.linspace(low, high, _BINS + 1)
    counts = {name: np.histogram(np.clip(own.returns, low, high), edges)[0].tolist() for name, own in trades.items()}
    return {"edges": edges.tolist(), "counts": counts}


def _range(pooled: Floats) -> tuple[float, float]:
    if not len(pooled):
        return -1.0, 1.0
    low, high = np.quantile(pooled, [0.01, 0.98])
    return (float(low), float(high)) if high - low > 1e-9 else (float(low) - 0.5, float(high) + 0.5)
