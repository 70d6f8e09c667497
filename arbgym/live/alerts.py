"""Alerts as data: rendered as Prometheus rules, and evaluated here for the status page by the same comparison.

A number that is not known is NaN and fires nothing, in PromQL as in Python.
"""

from __future__ import annotations

import json
import operator
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

from arbgym.live.metrics import METRICS
from arbgym.live.snapshot import AlertRow

Operator = Literal["<", ">", "absent"]
Severity = Literal["critical", "warning", "info"]
LABELS = {metric.name: metric.labels for metric in METRICS}
_COMPARE: dict[str, Callable[[float, float], bool]] = {"<": operator.lt, ">": operator.gt}


@dataclass(frozen=True, slots=True)
class Alert:
    """Fires once ``metric operator threshold`` has held for ``for_s`` seconds.

    With ``increase_s``, the metric's growth within so many seconds is compared. ``absent`` fires when nothing reports the metric.
    """

    name: str
    metric: str
    operator: Operator
    threshold: float
    for_s: int
    severity: Severity
    summary: str
    increase_s: int | None = None

    @property
    def expression(self) -> str:
        """PromQL."""
        if self.operator == "absent":
            return f"absent({self.metric})"
        if self.increase_s is None:
            return f"{self.metric} {self.operator} {self.threshold:g}"
        growth = f"increase({self.metric}[{duration(self.increase_s)}])"
        labels = ", ".join(LABELS[self.metric])
        return f"{f'sum without ({labels}) ({growth})' if labels else growth} {self.operator} {self.threshold:g}"

    def holds(self, value: float | None) -> bool:
        """Of the metric's value (or its growth) now; None is absent."""
        if self.operator == "absent" or value is None:
            return self.operator == "absent" and value is None
        return _COMPARE[self.operator](value, self.threshold)


ALERTS: tuple[Alert, ...] = (
    Alert(
        "RunnerDown", "arbgym_build_info", "absent", 0, 60, "critical", "No runner reports: the process is down or not scraped"
    ),
    Alert("Killed", "arbgym_killed", ">", 0, 0, "critical", "The kill switch is thrown: nothing is sent until it is released"),
    Alert("Halted", "arbgym_gate_state", ">", 1, 0, "critical", "The risk gate is HALTED: it needs a human to resume it"),
    Alert("Reducing", "arbgym_gate_state", ">", 0, 600, "warning", "The risk gate has not been ACTIVE for ten minutes"),
    Alert("DrawdownHigh", "arbgym_drawdown", ">", 0.2, 0, "critical", "Equity is more than 20 % below its highest"),
    Alert("WinRateLow", "arbgym_win_rate", "<", 0.45, 300, "warning", "Less than 45 % of the latest attempts made money"),
    Alert("GasShareHigh", "arbgym_gas_share_of_profit", ">", 0.3, 300, "warning", "Gas and tips eat more than 30 % of profit"),
    Alert("SuccessRateLow", "arbgym_success_rate", "<", 0.7, 300, "warning", "Less than 70 % of what was sent was mined"),
    Alert("RevertsInARow", "arbgym_consecutive_reverts", ">", 2, 0, "warning", "Three or more reverts since the last success"),
    Alert("HeadStale", "arbgym_head_age_seconds", ">", 60, 15, "critical", "No block for a minute: the node or the feed stands"),
    Alert(
        "ReferenceStale", "arbgym_reference_age_seconds", ">", 30, 30, "warning", "The reference price is older than 30 seconds"
    ),
    Alert("NonceGap", "arbgym_nonce_gap", ">", 1, 120, "critical", "The journal is more than one nonce ahead of the chain"),
    Alert("NonceBehind", "arbgym_nonce_gap", "<", 0, 0, "critical", "Somebody else sends from the account: its nonce is ahead"),
    Alert("IntentStuck", "arbgym_open_intents", ">", 0, 600, "warning", "An intent has been open for ten minutes"),
    Alert("RpcErrors", "arbgym_rpc_errors_total", ">", 20, 60, "warning", "More than 20 requests failed in five minutes", 300),
    Alert("Reorganised", "arbgym_reorgs_total", ">", 3, 0, "warning", "More than three reorganisations within an hour", 3600),
    Alert(
        "ObservationClipped",
        "arbgym_observation_clipped_total",
        ">",
        100,
        0,
        "warning",
        "The market is outside the range that the policy was trained on",
        600,
    ),
    Alert("GasRunsOut", "arbgym_balance_eth", "<", 0.02, 300, "warning", "The account has little left to pay gas with"),
    Alert("PolicyExpires", "arbgym_policy_expires_seconds", "<", 86_400, 0, "warning", "The policy expires within a day"),
)


def duration(seconds: int) -> str:
    """As Prometheus writes it: 90s, 5m, 1h."""
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"


def rules_yaml() -> str:
    """A rule file for Prometheus. Every text is a JSON string, which YAML reads as it is."""
    lines = ["# Made by python -m arbgym.live.dashboard from arbgym/live/alerts.py.", "groups:", "  - name: arbgym", "    rules:"]
    for alert in ALERTS:
        lines += [
            f"      - alert: {alert.name}",
            f"        expr: {json.dumps(alert.expression)}",
            f"        for: {duration(alert.for_s)}",
            "        labels:",
            f"          severity: {alert.severity}",
            "        annotations:",
            f"          summary: {json.dumps(alert.summary)}",
        ]
    return "\n".join(lines) + "\n"


class AlertWatch:
    """Evaluates the alerts on the metrics' values from time to time, as Prometheus would."""

    def __init__(self) -> None:
        self._holding_since: dict[str, float] = {}
        self._series: dict[str, deque[tuple[float, float]]] = {
            alert.name: deque() for alert in ALERTS if alert.increase_s is not None
        }

    def update(self, now_s: float, values: Mapping[str, float]) -> tuple[AlertRow, ...]:
        """Alerts that fire at ``now_s`` (which never goes back) with each metric's value, ``Metrics.values()``; worst first."""
        firing = []
        for alert in ALERTS:
            value = self._growth(alert, now_s, values) if alert.increase_s is not None else values.get(alert.metric)
            if not alert.holds(value):
                self._holding_since.pop(alert.name, None)
                continue
            since_s = self._holding_since.setdefault(alert.name, now_s)
            if now_s - since_s >= alert.for_s:
                firing.append(AlertRow(alert.name, alert.severity, alert.summary, value, since_s))
        return tuple(sorted(firing, key=lambda row: ("critical", "warning", "info").index(row.severity)))

    def _growth(self, alert: Alert, now_s: float, values: Mapping[str, float]) -> float | None:
        value, series = values.get(alert.metric), self._series[alert.name]
        if value is None or alert.increase_s is None:
            return None
        if not series or now_s - series[-1][0] >= alert.increase_s / 100:  # a hundred points are enough for a window
            series.append((now_s, value))
        while len(series) > 1 and series[1][0] <= now_s - alert.increase_s:
            series.popleft()
        return value - series[0][1]
