"""Pictures of a walk-forward report, each an SVG text in the style of ``experiments.figures``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.figures import BLUE, GREEN, GREY, ORANGE, Picture, _canvas, _rows, _svg
from experiments.trade_comparison import ORACLE
from experiments.trade_metrics import EXITS

RED, INK, GRID = "#cf222e", "#1b1f24", "#d8dee4"
_SUBJECTS = (BLUE, GREEN, "#8250df", "#bf8700", RED, "#0e8a8a", "#e5a3c8")
_RULES = ((GREY, "-"), (GREY, "--"), (GREY, ":"), ("#57606a", "-."), (ORANGE, "-"), ("#57606a", (0, (5, 1))))
_REASONS = dict(zip(EXITS, (BLUE, RED, GREEN, GREY, INK), strict=True))
REASONS = {"model": "policy", "stop": "stop", "take_profit": "take profit", "timeout": "time-out", "rug": "rug"}
_PANELS = 3


def all_figures(result: Mapping[str, Any]) -> list[Picture]:
    """The pictures that a result has the numbers for."""
    if not _traded(result):
        return []
    found = [returns_figure(result), *paired_figures(result), equity_figure(result), drawdown_figure(result)]
    found += [exits_figure(result), histogram_figure(result)]
    if any(result.get("calibration", {}).values()):
        found.append(calibration_figure(result["calibration"]))
    return found


def returns_figure(result: Mapping[str, Any]) -> Picture:
    """Mean return of each policy with its interval."""
    names = _traded(result)
    figure, axes = _canvas(0.42 * max(len(names), 1) + 0.9)
    for row, name in enumerate(reversed(names)):
        found = _percent(result["policies"][name]["figures"]["mean_return"])
        axes.barh(row, found["mean"], color=_color(result, name), height=0.62)
        _bounds(axes, row, found, INK)
        end = max(found["mean"], 0.0 if found["high"] is None else found["high"], 0.0)
        axes.annotate(f"{found['mean']:+.2f} %", (end, row), (6, 0), textcoords="offset points", va="center")
    _rows(axes, list(reversed(names)), "mean return of a trade, %")
    axes.axvline(0.0, color=INK, linewidth=1)
    axes.margins(x=0.12)
    return "Mean return", "All costs included. Whiskers are 95 % intervals by token; the oracle knows what comes.", _svg(figure)


def paired_figures(result: Mapping[str, Any]) -> list[Picture]:
    """Each judged policy's mean return minus each rule's, on the same entries; where nothing is judged, the last rule's."""
    subjects = [name for name in _traded(result) if result["policies"][name]["role"] == "subject"]
    if not subjects:
        subjects = [name for name in _traded(result) if name != ORACLE][-1:]
    pairs = [(name, rule, result["paired"][name][rule]) for name in subjects for rule in result["paired"].get(name, {})]
    pairs = [(name, rule, _percent(pair)) for name, rule, pair in pairs if pair["mean"] is not None]
    if not pairs:
        return []
    figure, axes = _canvas(0.4 * len(pairs) + 0.9)
    for row, (_, _, found) in enumerate(reversed(pairs)):
        known = found["low"] is not None
        color = GREEN if known and found["low"] > 0.0 else RED if known and found["high"] < 0.0 else GREY
        _bounds(axes, row, found, color)
        axes.plot(found["mean"], row, "o", color=color, markersize=7)
        axes.annotate(f"{found['mean']:+.2f}", (found["mean"], row), (0, 7), textcoords="offset points", ha="center", fontsize=9)
    _rows(axes, [f"{name} - {rule}" for name, rule, _ in reversed(pairs)], "difference of the mean return, percentage points")
    axes.axvline(0.0, color=INK, linewidth=1)
    axes.set_ylim(-0.6, len(pairs) - 0.2)
    note = "Paired by entry: green is above the rule with 95 % confidence, red below it, grey undecided or without an interval."
    return [("Against each rule", note, _svg(figure))]


def equity_figure(result: Mapping[str, Any]) -> Picture:
    """Sum of returns over the trades in order of entry."""
    figure, axes = _canvas(4.6)
    _curves(axes, result, "equity", 1.0)
    axes.set_ylabel("sum of returns, positions")
    _legend(axes)
    note = (
        "Every position counts as 1, in order of entry. Dotted lines part the folds of the first policy shown. "
        "Without the oracle, which would dwarf the rest."
    )
    return "Equity curve", note, _svg(figure)


def drawdown_figure(result: Mapping[str, Any]) -> Picture:
    """How far each equity curve lies below its highest."""
    figure, axes = _canvas(3.4)
    _curves(axes, result, "drawdown", -1.0)
    axes.set_ylabel("below the highest, positions")
    _legend(axes)
    return "Drawdown", "How far the equity curve lies below its highest so far.", _svg(figure)


def exits_figure(result: Mapping[str, Any]) -> Picture:
    """Why positions were sold."""
    names = _traded(result)
    figure, axes = _canvas(0.42 * max(len(names), 1) + 1.4)
    for row, name in enumerate(reversed(names)):
        left = 0.0
        for reason, color in _REASONS.items():
            share = 100.0 * (result["policies"][name]["figures"][f"exit_{reason}"]["mean"] or 0.0)
            axes.barh(row, share, left=left, color=color, height=0.62, label=REASONS[reason] if row == 0 else None)
            if share >= 6.0:
                axes.text(left + share / 2.0, row, f"{share:.0f}", ha="center", va="center", color="white", fontsize=9)
            left += share
    _rows(axes, list(reversed(names)), "% of the positions")
    axes.set_xlim(0.0, 100.0)
    figure.legend(loc="outside upper center", ncols=len(EXITS), frameon=False)
    note = (
        "By share of the position. Policy: the decision of one that has no thresholds; stop: stop loss, trailing or ATR stop; "
        "time-out: the horizon's end or a rule's longest holding time; rug: the pool was emptied."
    )
    return "Why positions were sold", note, _svg(figure)


def histogram_figure(result: Mapping[str, Any]) -> Picture:
    """Returns of each policy, one panel each, in common bins."""
    names, histogram = _traded(result), result["histogram"]
    edges = [100.0 * edge for edge in histogram["edges"]]
    lines = max(-(-len(names) // _PANELS), 1)
    figure = Figure(figsize=(10.0, 2.1 * lines + 0.4), layout="constrained")
    panels = figure.subplots(lines, _PANELS, sharex=True, squeeze=False).ravel()
    for axes, name in zip(panels, names, strict=False):
        counts = histogram["counts"][name]
        axes.stairs([100.0 * count / max(sum(counts), 1) for count in counts], edges, fill=True, color=_color(result, name))
        axes.axvline(0.0, color=INK, linewidth=1)
        axes.set_title(name, fontsize=10.5)
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelbottom=True)
    for axes in panels[len(names) :]:
        axes.set_visible(False)
    figure.supxlabel("return of a trade, %", fontsize=11)
    figure.supylabel("% of the trades", fontsize=11)
    return (
        "Distribution of returns",
        "Common bins, each panel on its own scale; the outer bins hold all that lies beyond them.",
        _svg(figure),
    )


def calibration_figure(calibration: Mapping[str, Mapping[str, Any]]) -> Picture:
    """Reliability diagrams: what happened over what was predicted."""
    found = [(f"{policy}: {score}", table) for policy, scores in calibration.items() for score, table in scores.items()]
    lines = -(-len(found) // _PANELS)
    figure = Figure(figsize=(10.0, 3.3 * lines), layout="constrained")
    panels = figure.subplots(lines, _PANELS, squeeze=False).ravel()
    for axes, (title, scored) in zip(panels, found, strict=False):
        table, most = scored["table"], max(part["rows"] for part in scored["table"])
        axes.plot([0.0, 1.0], [0.0, 1.0], color=GREY, linewidth=1, linestyle="--")
        axes.plot([part["predicted"] for part in table], [part["seen"] for part in table], color=BLUE, linewidth=1.5)
        sizes = [12.0 + 90.0 * part["rows"] / most for part in table]
        axes.scatter([part["predicted"] for part in table], [part["seen"] for part in table], s=sizes, color=BLUE, zorder=3)
        axes.axhline(scored["base_rate"], color=ORANGE, linewidth=1, linestyle=":")
        axes.set(xlim=(-0.03, 1.03), ylim=(-0.03, 1.03), title=title)
        axes.title.set_fontsize(10.5)
        axes.spines[["top", "right"]].set_visible(False)
    for axes in panels[len(found) :]:
        axes.set_visible(False)
    figure.supxlabel("predicted probability", fontsize=11)
    figure.supylabel("share that came true", fontsize=11)
    note = "On the diagonal a predictor is honest; dots are larger where more moments are; dotted: how often it happens at all."
    return "Calibration of the predictors", note, _svg(figure)


def _traded(result: Mapping[str, Any]) -> list[str]:
    """Policies that have trades, those judged first, the oracle last."""
    order = {"subject": 0, "rule": 1, "oracle": 2}
    names = [name for name, own in result["policies"].items() if own["trades"]]
    return sorted(names, key=lambda name: order[result["policies"][name]["role"]])


def _style(result: Mapping[str, Any], name: str) -> tuple[str, Any]:
    role = result["policies"][name]["role"]
    alike = [other for other, own in result["policies"].items() if own["role"] == role]
    place = alike.index(name)
    return (_SUBJECTS[place % len(_SUBJECTS)], "-") if role == "subject" else _RULES[place % len(_RULES)]


def _color(result: Mapping[str, Any], name: str) -> str:
    role = result["policies"][name]["role"]
    return {"oracle": ORANGE, "rule": GREY}.get(role) or _style(result, name)[0]


def _curves(axes: Axes, result: Mapping[str, Any], column: str, sign: float) -> None:
    names = [name for name in _traded(result) if name != ORACLE]
    for name in reversed(names):
        curve, (color, dashes) = result["policies"][name]["curve"], _style(result, name)
        thick = 2.2 if result["policies"][name]["role"] == "subject" else 1.3
        values = [sign * value for value in curve[column]]
        axes.plot(curve["trade"], values, color=color, linestyle=dashes, linewidth=thick, label=name)
    if names:
        ends, total = [], 0
        for fold in result["policies"][names[0]]["folds"].values():
            total += fold["trades"]
            ends.append(total)
        for end in ends[:-1]:
            axes.axvline(end + 0.5, color=GREY, linewidth=0.8, linestyle=":")
    axes.axhline(0.0, color=INK, linewidth=1)
    axes.grid(axis="y", color=GRID, linewidth=0.8)
    axes.set_xlabel("trades")


def _legend(axes: Axes) -> None:
    handles, labels = axes.get_legend_handles_labels()
    if handles:
        axes.legend(handles[::-1], labels[::-1], loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False)


def _percent(found: Mapping[str, Any]) -> dict[str, Any]:
    return {name: None if found[name] is None else 100.0 * found[name] for name in ("mean", "low", "high")}


def _bounds(axes: Axes, row: int, found: Mapping[str, Any], color: str) -> None:
    if found["low"] is not None and found["high"] is not None:
        axes.plot([found["low"], found["high"]], [row, row], color=color, linewidth=2.2, solid_capstyle="butt")
