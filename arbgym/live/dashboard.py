"""The Grafana dashboard as code, from ``METRICS`` and ``ALERTS``. ``python -m arbgym.live.dashboard`` writes it and the rules."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from arbgym.live.alerts import ALERTS, rules_yaml
from arbgym.live.metrics import METRICS, Metric
from arbgym.live.snapshot import GATE_STATES

FOLDER = Path(__file__).parent / "monitoring"
INSTANCE = 'instance=~"$instance"'
SOURCE = {"type": "prometheus", "uid": "${source}"}
UNITS = {
    "count": "short",
    "share": "percentunit",
    "seconds": "s",
    "quote": "locale",
    "eth": "suffix:ETH",
    "gwei": "suffix:gwei",
    "state": "none",
    "blocks": "none",
}
WIDTH, HEIGHT = 8, 7  # of 24 columns
STAT_WIDTH, STAT_HEIGHT = 4, 4
COLOURS = {"critical": "red", "warning": "orange", "info": "blue"}


def queries(metric: Metric) -> list[tuple[str, str]]:
    """(PromQL, legend) of what is drawn of a metric: a counter's rate, a histogram's quantiles, a gauge as it is."""
    legend = " ".join(f"{{{{{label}}}}}" for label in metric.labels)
    if metric.kind == "counter":
        by = ", ".join(("instance", *metric.labels))
        return [(f"sum by ({by}) (increase({metric.name}{{{INSTANCE}}}[$__rate_interval]))", legend or metric.help)]
    if metric.kind == "histogram":
        by = ", ".join(("le", *metric.labels))
        rate = f"sum by ({by}) (rate({metric.name}_bucket{{{INSTANCE}}}[$__rate_interval]))"
        return [(f"histogram_quantile({q}, {rate})", f"p{q * 100:.0f} {legend}".strip()) for q in (0.5, 0.99)]
    return [(f"{metric.name}{{{INSTANCE}}}", legend or metric.help)]


def _thresholds(metrics: list[Metric]) -> dict[str, Any]:
    """Where the panel's alerts begin. Lines that colour what is below (an operator "<") start red and end green."""
    names = {metric.name for metric in metrics}
    steps: list[dict[str, Any]] = [{"color": "green", "value": None}]
    alerts = [alert for alert in ALERTS if alert.metric in names and alert.operator != "absent" and alert.increase_s is None]
    for alert in sorted(alerts, key=lambda alert: alert.threshold):
        if alert.operator == "<":
            steps[-1]["color"] = COLOURS[alert.severity]
            steps.append({"color": "green", "value": alert.threshold})
        else:
            steps.append({"color": COLOURS[alert.severity], "value": alert.threshold})
    return {"mode": "absolute", "steps": steps}


def _panel(title: str, metrics: list[Metric]) -> dict[str, Any]:
    unit = UNITS[metrics[0].unit]
    targets = [
        {"refId": chr(ord("A") + number), "datasource": SOURCE, "expr": expression, "legendFormat": legend}
        for number, (expression, legend) in enumerate(query for metric in metrics for query in queries(metric))
    ]
    thresholds = _thresholds(metrics)
    defaults: dict[str, Any] = {"unit": unit, "thresholds": thresholds}
    panel: dict[str, Any] = {
        "title": title,
        "description": "; ".join(f"{metric.name}: {metric.help}" for metric in metrics),
        "datasource": SOURCE,
        "targets": targets,
        "fieldConfig": {"defaults": defaults, "overrides": []},
    }
    if metrics[0].name == "arbgym_build_info":
        options: dict[str, Any] = {"textMode": "name", "colorMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
        return {**panel, "type": "stat", "options": options}
    if metrics[0].panel.startswith("State: "):
        if metrics[0].name == "arbgym_gate_state":
            defaults["mappings"] = _names(dict(enumerate(GATE_STATES)))
        if metrics[0].name == "arbgym_killed":
            defaults["mappings"] = _names({0: "armed", 1: "KILLED"})
        options = {"colorMode": "background", "graphMode": "none", "reduceOptions": {"calcs": ["lastNotNull"]}}
        return {**panel, "type": "stat", "options": options}
    lines = len(thresholds["steps"]) > 1
    defaults["custom"] = {
        "drawStyle": "line",
        "fillOpacity": 8,
        "showPoints": "never",
        "thresholdsStyle": {"mode": "dashed" if lines else "off"},
        "scaleDistribution": {"type": "log", "log": 10} if metrics[0].kind == "histogram" else {"type": "linear"},
    }
    if not lines:
        defaults.pop("thresholds")
    options = {"legend": {"displayMode": "list", "placement": "bottom"}, "tooltip": {"mode": "multi"}}
    return {**panel, "type": "timeseries", "options": options}


def _names(texts: dict[int, str]) -> list[dict[str, Any]]:
    return [{"type": "value", "options": {str(value): {"text": text, "index": value} for value, text in texts.items()}}]


def dashboard() -> dict[str, Any]:
    """The dashboard: a row per topic, a panel per title in ``METRICS``, and a list of what fires."""
    rows: dict[str, dict[str, list[Metric]]] = {}
    for metric in METRICS:
        topic, title = metric.panel.split(": ", 1)
        rows.setdefault(topic, {}).setdefault(title, []).append(metric)
    panels: list[dict[str, Any]] = []
    y = 0
    for topic, titles in rows.items():
        panels.append({"type": "row", "title": topic, "collapsed": False, "gridPos": {"x": 0, "y": y, "w": 24, "h": 1}})
        y += 1
        stats = topic == "State"
        width, height = (STAT_WIDTH, STAT_HEIGHT) if stats else (WIDTH, HEIGHT)
        if stats:
            drawn = [*(_panel(title, metrics) for title, metrics in titles.items()), _alert_list()]
        else:
            drawn = [_panel(title, metrics) for title, metrics in titles.items()]
        across = 24 // width
        for number, panel in enumerate(drawn):
            place = {"x": number % across * width, "y": y + number // across * height, "w": width, "h": height}
            panels.append({**panel, "gridPos": place})
        y += -(-len(drawn) // across) * height
    for number, panel in enumerate(panels, start=1):
        panel["id"] = number
    return {
        "uid": "arbgym-live",
        "title": "ArbGym live",
        "tags": ["arbgym"],
        "schemaVersion": 39,
        "editable": False,
        "graphTooltip": 1,
        "refresh": "10s",
        "time": {"from": "now-6h", "to": "now"},
        "templating": {
            "list": [
                {"name": "source", "type": "datasource", "query": "prometheus", "label": "Source"},
                {
                    "name": "instance",
                    "type": "query",
                    "datasource": SOURCE,
                    "query": "label_values(arbgym_build_info, instance)",
                    "refresh": 2,
                    "multi": True,
                    "includeAll": True,
                    "label": "Runner",
                },
            ]
        },
        "panels": panels,
    }


def _alert_list() -> dict[str, Any]:
    options = {"alertName": "", "stateFilter": {"firing": True, "pending": True}, "sortOrder": 3, "maxItems": 20}
    return {"title": "Alerts", "type": "alertlist", "options": options}


def files() -> dict[str, str]:
    """What lies in ``monitoring``: file name to content."""
    return {"grafana.json": json.dumps(dashboard(), indent=1) + "\n", "alerts.yml": rules_yaml()}


def write(folder: Path) -> None:
    """Write both files into ``folder``."""
    for name, content in files().items():
        (folder / name).write_text(content, encoding="utf-8")
        sys.stdout.write(f"{folder / name}\n")


if __name__ == "__main__":
    write(FOLDER)
