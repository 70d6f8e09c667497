"""A walk-forward result as tables, in the terminal and in one HTML page that needs nothing else, its pictures inside."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from experiments import trade_figures
from experiments.trade_comparison import ORACLE

_PAGE = Path(__file__).with_name("trade_report_page.html")
_RETURN_COLUMNS = {
    "win_rate": ("win rate %", "%"),
    "mean_return": ("mean return %", "+%"),
    "median_return": ("median return %", "+%"),
    "sharpe": ("Sharpe", "+"),
    "sortino": ("Sortino", "+"),
    "profit_factor": ("profit factor", ""),
    "oracle_share": ("% of oracle", "+%"),
}
_RISK_COLUMNS = {
    "max_drawdown": ("max drawdown", ""),
    "var_95": ("VaR %", "%"),
    "cvar_95": ("CVaR %", "%"),
    "holding_s": ("held min", "min"),
    "exit_model": ("by policy %", "%"),
    "exit_stop": ("stop %", "%"),
    "exit_take_profit": ("take profit %", "%"),
    "exit_timeout": ("time-out %", "%"),
    "exit_rug": ("rug %", "%"),
}
MEANINGS = {
    "trade": "one bought position from entry until nothing of it is left; its return is net profit over cost, all costs included",
    "interval": "95 %, by bootstrap over tokens: all trades of a token stay together. Tokens traded at the same time share the "
    "market, which no interval here knows: look at the folds too",
    "Sharpe, Sortino": "per trade, not annualised: trades have no common clock. Sortino's target is 0",
    "profit factor": "sum of the gains over sum of the losses",
    "% of oracle": "sum of the net profits over that of one sale at the best moment, known only in hindsight",
    "max drawdown": "of the sum of returns in order of entry, in positions: 1 is a whole position lost",
    "VaR, CVaR": "at 95 %: the loss that the worst 5 % of the trades reach, and their mean loss",
    "n/a": "does not exist or has no bound, as a profit factor without losses",
}


def page(result: Mapping[str, Any]) -> str:
    """The whole report as HTML text. ``result`` is what ``result.json`` holds; it may have been read from there."""
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    run = result["run"]
    return environment.from_string(_PAGE.read_text(encoding="utf-8")).render(
        title=run["title"],
        facts=run["facts"],
        verdict=result["verdict"],
        failures=failures(result),
        tables=[
            {"title": "Returns", "rows": return_rows(result)},
            {"title": "Risk, time and why positions were sold", "rows": risk_rows(result)},
            {"title": "Paired differences of the mean return, on the entries that both traded", "rows": paired_rows(result)},
        ],
        subjects=[name for name, own in result["policies"].items() if own["role"] == "subject"],
        meanings=MEANINGS,
        pictures=[
            {"title": title, "note": note, "picture": picture} for title, note, picture in trade_figures.all_figures(result)
        ],
        buckets=group_rows(result, "buckets", "bucket"),
        folds=fold_rows(result),
        by_fold=group_rows(result, "folds", "fold"),
        calibration=calibration_rows(result),
        command=run["command"],
        code=run["code"],
        settings=json.dumps(run["settings"], indent=1),
    )


def print_report(result: Mapping[str, Any], console: Console) -> None:
    """The tables, the failed fits and the verdict."""
    wide = console if console.is_terminal else Console(file=console.file, width=200)
    count = max((own["trades"] for own in result["policies"].values()), default=0)
    wide.print(_table(f"{count:,} trades out of sample; 95 % intervals by token below each figure", return_rows(result), result))
    wide.print(_table("risk, time and why positions were sold", risk_rows(result), result))
    wide.print(_table("difference of the mean return, paired by entry", paired_rows(result), result))
    wide.print(_table("folds", fold_rows(result), result))
    for failure in failures(result):
        said = escape(f"fold {failure['fold']}, {failure['policy']}: {failure['reason']}")
        wide.print(f"[bold red]failed[/]: {said}", soft_wrap=True)
    for sentence in result["verdict"]:
        wide.print(sentence, soft_wrap=True, markup=False)


def return_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per policy: number of trades and what they brought, each with its interval on a second line."""
    return [
        {"policy": name, "trades": f"{own['trades']:,}\n{own['tokens']:,} tokens"} | _figures(own, _RETURN_COLUMNS)
        for name, own in _ordered(result)
    ]


def risk_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per policy: drawdown, tail losses, time held and reasons to sell."""
    return [{"policy": name} | _figures(own, _RISK_COLUMNS) for name, own in _ordered(result)]


def paired_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per policy, one column per rule: the policy's mean return minus the rule's."""
    rules = [name for name, own in result["policies"].items() if own["role"] == "rule"]
    return [
        {"policy": name}
        | {f"- {rule}": _text(result["paired"][name][rule], "+%") if rule in result["paired"][name] else "" for rule in rules}
        for name, _ in _ordered(result)
        if name != ORACLE
    ]


def fold_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per fold: spans, entries, and what became of its fits."""
    return [
        {
            "fold": str(fold["fold"]),
            "training": fold["train"],
            "training entries": "any number" if fold["train_entries"] is None else f"{fold['train_entries']:,}",
            "test": fold["test"],
            "test entries": f"{fold['test_entries']:,}",
            "fitted": f"{sum(fit['status'] == 'ok' for fit in fold['policies'].values())} of {len(fold['policies'])}",
            "seconds": f"{sum(fit['seconds'] for fit in fold['policies'].values()):.0f}",
            "state": fold["status"] if fold["reason"] is None else f"{fold['status']}: {fold['reason']}",
        }
        for fold in result["folds"]
    ]


def failures(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """What could not be fitted or judged: fold, policy, reason."""
    found = []
    for fold in result["folds"]:
        if fold["reason"] is not None:
            found.append({"fold": str(fold["fold"]), "policy": "all policies", "reason": fold["reason"]})
        for name, fit in fold["policies"].items():
            if fit["status"] != "ok":
                found.append({"fold": str(fold["fold"]), "policy": name, "reason": fit["reason"]})
    return found


def group_rows(result: Mapping[str, Any], groups: str, title: str) -> list[dict[str, str]]:
    """One row per group (bucket or fold), one column per policy: mean return, its interval, number of trades."""
    policies = [(name, own) for name, own in _ordered(result) if own["trades"]]
    names = dict.fromkeys(group for _, own in policies for group in own[groups])
    return [{title: group} | {name: _group(own[groups].get(group)) for name, own in policies} for group in names]


def calibration_rows(result: Mapping[str, Any]) -> list[dict[str, str]]:
    """One row per bin of each predictor's probabilities."""
    return [
        {
            "policy": policy,
            "predicted event": score,
            "bin": f"{part['low']:.0%} to {part['high']:.0%}",
            "moments": f"{part['rows']:,}",
            "predicted": f"{part['predicted']:.1%}",
            "seen": f"{part['seen']:.1%}",
        }
        for policy, scores in result.get("calibration", {}).items()
        for score, found in scores.items()
        for part in found["table"]
    ]


def _ordered(result: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    order = {"subject": 0, "rule": 1, "oracle": 2}
    return sorted(result["policies"].items(), key=lambda item: order[item[1]["role"]])


def _figures(own: Mapping[str, Any], columns: Mapping[str, tuple[str, str]]) -> dict[str, str]:
    return {title: _text(own["figures"][name], unit) for name, (title, unit) in columns.items()}


def _text(found: Mapping[str, Any], unit: str) -> str:
    """Value, and on a second line its interval."""
    value, low, high = (_number(found[name], unit) for name in ("mean", "low", "high"))
    return value if low == high == "n/a" else f"{value}\n[{low} .. {high}]"


def _number(value: float | None, unit: str) -> str:
    if value is None:
        return "n/a"
    sign = "+" if "+" in unit else ""
    shown = 100.0 * value if "%" in unit else value / 60.0 if unit == "min" else value
    digits = 0 if abs(shown) >= 1_000.0 else 1 if unit != "" and unit != "+" else 2
    return f"{shown:{sign},.{digits}f}"


def _group(found: Mapping[str, Any] | None) -> str:
    if found is None:
        return ""
    interval = "" if found["low"] is None else f"\n[{_number(found['low'], '+%')} .. {_number(found['high'], '+%')}]"
    return f"{_number(found['mean_return'], '+%')}{interval}\n{found['trades']:,} trades"


def _table(title: str, rows: list[dict[str, str]], result: Mapping[str, Any]) -> Table:
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in rows[0] if rows else ():
        table.add_column(name, justify="left" if name in ("policy", "state") else "right", no_wrap=name != "state")
    for row in rows:
        judged = result["policies"].get(row.get("policy", ""), {}).get("role") == "subject"
        table.add_row(*(escape(cell) for cell in row.values()), style="bold" if judged else None)
    return table
