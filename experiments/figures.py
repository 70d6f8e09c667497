"""The report's pictures, each an SVG text drawn by matplotlib."""

from __future__ import annotations

import io
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, ORANGE, GREY, GREEN = "#1f6feb", "#d9730d", "#8c959f", "#2da44e"
_PARTS = ("#2da44e", "#0969da", "#54aeff", "#8c959f", "#d9730d", "#cf222e", "#8250df", "#bf8700", "#e5a3c8")

Picture = tuple[str, str, str]
"""Title, note, SVG."""


def all_figures(result: dict[str, Any], curve: list[dict[str, float]]) -> list[Picture]:
    """The pictures that a result has the numbers for."""
    found = [policies_figure(result), paired_figure(result), parts_figure(result)]
    if len(curve) > 1:
        found.append(learning_figure(curve, result["training"]["unit"]))
    if result.get("behaviour"):
        found.append(behaviour_figure(result["behaviour"]))
    return found


def policies_figure(result: dict[str, Any]) -> Picture:
    """Net profit of each policy with its interval."""
    subject = result["run"]["name"]
    names = list(result["policies"])
    figure, axes = _canvas(0.42 * len(names) + 0.9)
    for row, name in enumerate(reversed(names)):
        found = result["policies"][name]["net_profit"]
        color = BLUE if name == subject else ORANGE if name == "oracle" else GREY
        axes.barh(row, found["mean"], color=color, height=0.62)
        _whisker(axes, row, found, "#1b1f24")
        axes.annotate(f"{found['mean']:,.1f}", (max(found["high"], 0.0), row), (6, 0), textcoords="offset points", va="center")
    _rows(axes, list(reversed(names)), "net profit per episode, quote currency")
    axes.margins(x=0.12)
    return "Net profit", "Bars are means, whiskers 95 % intervals; the oracle knows what comes.", _svg(figure)


def paired_figure(result: dict[str, Any]) -> Picture:
    """The subject's profit minus each baseline's, by episode."""
    names = list(result["paired"])
    figure, axes = _canvas(0.42 * max(len(names), 1) + 0.9)
    for row, name in enumerate(reversed(names)):
        found = result["paired"][name]
        color = GREEN if found["low"] > 0.0 else "#cf222e" if found["high"] < 0.0 else GREY
        _whisker(axes, row, found, color)
        axes.plot(found["mean"], row, "o", color=color, markersize=8)
        axes.annotate(f"{found['mean']:+,.1f}", (found["mean"], row), (0, 9), textcoords="offset points", ha="center")
    axes.axvline(0.0, color="#1b1f24", linewidth=1)
    subject = result["run"]["name"]
    _rows(axes, list(reversed(names)), f"{subject} minus the baseline, per episode")
    axes.set_ylim(-0.6, max(len(names), 1) - 0.2)
    note = "Paired by episode: green is above the baseline with 95 % confidence, red below it, grey undecided."
    return "Against each baseline", note, _svg(figure)


def parts_figure(result: dict[str, Any]) -> Picture:
    """Profit and its parts per policy: gains to the right, costs to the left."""
    names = list(result["policies"])
    parts = list(result["policies"][names[0]]["parts"])
    figure, axes = _canvas(0.42 * len(names) + 1.3)
    for row, name in enumerate(reversed(names)):
        left, right = 0.0, 0.0
        for k, part in enumerate(parts):
            value = result["policies"][name]["parts"][part]
            label = part.replace("_", " ") if row == 0 else None
            axes.barh(
                row,
                value,
                left=right if value >= 0.0 else left,
                color=_PARTS[k % len(_PARTS)],
                height=0.62,
                label=label,
            )
            left, right = left + min(value, 0.0), right + max(value, 0.0)
        axes.plot(result["policies"][name]["net_profit"]["mean"], row, "D", color="#1b1f24", markersize=6)
    axes.axvline(0.0, color="#1b1f24", linewidth=1)
    _rows(axes, list(reversed(names)), "per episode, quote currency")
    axes.legend(
        loc="upper center", bbox_to_anchor=(0.5, -0.32 * 3 / (0.42 * len(names) + 1.3)), ncols=min(len(parts), 5), frameon=False
    )
    return (
        "Parts of the profit",
        "Gross profit to the right, what it cost to the left; the diamond is what is left.",
        _svg(figure),
    )


def learning_figure(curve: list[dict[str, float]], unit: str) -> Picture:
    """Net profit per step, and its share of the oracle's, while training; ``unit`` is what the curve's steps count."""
    count, word = (1e6, "million") if curve[-1]["steps"] >= 1e6 else (1e3, "thousand")
    steps = np.array([point["steps"] for point in curve]) / count
    net = np.array([point["net_profit"] for point in curve])
    figure, axes = _canvas(3.2)
    axes.plot(steps, net, color=BLUE, alpha=0.3, linewidth=1)
    axes.plot(steps, _smooth(net), color=BLUE, linewidth=2)
    if "cloning_profit" in curve[0]:
        axes.plot(steps, _smooth(np.array([point["cloning_profit"] for point in curve])), color=GREY, linewidth=2)
    axes.set_xlabel(f"{word} {unit}")
    axes.set_ylabel("net profit per step", color=BLUE)
    axes.axhline(0.0, color=GREY, linewidth=1)
    if any(point.get("oracle_profit", 0.0) > 0.0 for point in curve):  # ArbSell-v0 works it out only where the oracle acts
        oracle = np.array([point["oracle_profit"] for point in curve])
        share = axes.twinx()
        share.plot(steps, 100.0 * _smooth(net) / np.maximum(_smooth(oracle), 1e-12), color=ORANGE, linewidth=2)
        share.set_ylabel("share of the oracle, %", color=ORANGE)
        share.spines["top"].set_visible(False)
        lowest = 100.0 * np.min(_smooth(net) / np.maximum(_smooth(oracle), 1e-12))
        share.set_ylim(max(lowest, -100.0) - 5.0, None)
    note = "In training worlds, while exploring if the learner acts itself: thin as logged, thick a moving average."
    if "cloning_profit" in curve[0]:
        note += " Grey is its clone of the recorded policy."
    return "Learning curve", note, _svg(figure)


def behaviour_figure(behaviour: dict[str, Any]) -> Picture:
    """What the policy bids in each hidden regime of the rivals, beside what the rivals bid."""
    regimes = behaviour["regimes"]
    figure, axes = _canvas(3.0)
    positions = np.arange(len(regimes))
    series = (("rivals' best bid", "rival_bid_share", GREY), ("own bid", "bid_share", BLUE), ("won", "win_rate", GREEN))
    for k, (label, name, color) in enumerate(series):
        values = [100.0 * regime[name] for regime in regimes]
        bars = axes.bar(positions + 0.27 * (k - 1), values, 0.25, color=color, label=label)
        axes.bar_label(bars, fmt="%.0f", padding=2)
    axes.set_xticks(positions, [f"regime {regime['regime']} ({regime['attempts']:,} attempts)" for regime in regimes])
    axes.set_ylabel("% of the predicted profit; % of attempts")
    axes.set_ylim(0.0, 115.0)
    axes.legend(loc="upper center", ncols=3, frameon=False)
    note = "The agent never sees the regime: it has to infer it from the bids it saw."
    return "Bids by the rivals' hidden regime", note, _svg(figure)


def _smooth(values: Any) -> Any:
    """Moving average over a twentieth of the points, shorter at the ends."""
    width = min(max(len(values) // 20, 1), (len(values) - 1) // 2)
    kernel = np.ones(2 * width + 1)
    return np.convolve(values, kernel, "same") / np.convolve(np.ones(len(values)), kernel, "same")


def _canvas(height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(10.0, height), layout="constrained")
    axes = figure.add_subplot()
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _rows(axes: Axes, names: list[str], label: str) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.set_xlabel(label)
    axes.grid(axis="x", color="#d8dee4", linewidth=0.8)
    axes.set_axisbelow(True)


def _whisker(axes: Axes, row: int, found: dict[str, float], color: str) -> None:
    axes.plot([found["low"], found["high"]], [row, row], color=color, linewidth=2.2, solid_capstyle="butt")


def _svg(figure: Figure) -> str:
    """The SVG element, without dates, ids that differ between runs, or references outside the page."""
    content = io.StringIO()
    with matplotlib.rc_context({"svg.hashsalt": "arbgym", "font.size": 11.0, "svg.fonttype": "path"}):
        figure.savefig(content, format="svg", metadata={"Date": None, "Creator": None})
    text = content.getvalue()
    return text[text.index("<svg") :]
