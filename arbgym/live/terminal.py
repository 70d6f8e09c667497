"""The snapshot in a terminal: what the status page shows, with rich. Imported by the runner only when it is asked for."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Protocol

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from arbgym.live.snapshot import Snapshot, counted_anew
from arbgym.live.terms import Clock

STATE_STYLES = {"ACTIVE": "bold green", "REDUCING": "bold yellow", "HALTED": "bold red", "KILLED": "bold red"}
SEVERITY_STYLES = {"critical": "red", "warning": "yellow", "info": "blue"}
BLOCKS = "▁▂▃▄▅▆▇█"
ROWS = 12  # decisions shown
UNKNOWN = "-"


class SnapshotSource(Protocol):
    """Whatever has a snapshot."""

    def snapshot(self) -> Snapshot:
        """As of now."""


def _text(text: str, style: str = "") -> Text:
    """``text`` as it is: no markup of rich, and no control sequence of a terminal, is obeyed."""
    return Text("".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in text), style)


def _number(value: float | None, pattern: str = ",.2f", unit: str = "") -> str:
    return UNKNOWN if value is None or not math.isfinite(value) else f"{value:{pattern}}{unit and ' ' + unit}"


def _share(value: float) -> str:
    return _number(value * 100, ".1f", "%")


def _clock(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%H:%M:%S")


def sparkline(values: list[float], width: int = 60) -> str:
    """The last value of each of ``width`` parts, as block characters from the lowest to the highest."""
    if not values:
        return ""
    columns = min(width, len(values))
    picked = [values[(index + 1) * len(values) // columns - 1] for index in range(columns)]
    low, high = min(picked), max(picked)
    scale = (len(BLOCKS) - 1) / (high - low) if high > low else 0.0
    return "".join(BLOCKS[round((value - low) * scale)] for value in picked)


def _table(*columns: tuple[str, bool]) -> Table:
    table = Table(box=None, expand=True, pad_edge=False, header_style="dim")
    for title, number in columns:
        table.add_column(title, justify="right" if number else "left", no_wrap=number)
    return table


def _banner(snapshot: Snapshot) -> Panel:
    state = "KILLED" if snapshot.killed else snapshot.gate_state
    block = UNKNOWN if snapshot.block_number is None else f"{snapshot.block_number:,}"
    line = Text.assemble(
        (state, STATE_STYLES[state]),
        f"  {snapshot.mode}  ",
        _text(snapshot.environment_id),
        f"  chain {snapshot.chain_id}  block {block}  {_number(snapshot.head_age_s, '.1f', 's')} old",
    )
    reason = snapshot.unhealthy()
    if reason is not None:
        line.append("\n").append_text(_text(reason, "red"))
    for alert in snapshot.alerts:
        line.append("\n").append_text(_text(f"{alert.name}: {alert.summary}", SEVERITY_STYLES[alert.severity]))
    return Panel(line, title="ArbGym live", border_style=STATE_STYLES[state].split()[1])


def _figures(snapshot: Snapshot) -> Panel:
    totals, quote = snapshot.totals, snapshot.quote_symbol
    live = snapshot.mode == "live"
    grid = Table.grid(padding=(0, 2))
    for label, value in (
        ("Net profit" if live else "Would-be profit", _number(totals.net_quote, "+,.2f", quote)),
        *(() if live else (("", counted_anew(snapshot.mode)),)),
        ("Win rate" if live else "Would-be win rate", _share(totals.win_rate)),
        (
            "Success",
            f"{_share(totals.success_rate)}  ({totals.mined} mined, {totals.reverted} reverted, {totals.dropped} dropped)",
        ),
        ("Gas and tips", f"{_number(totals.gas_eth + totals.tip_eth, '.5f', 'ETH')}  ({_share(totals.gas_share)} of profit)"),
        ("Attempts", f"{totals.attempts:,} ended since the journal began; {totals.decisions:,} decisions since this start"),
        ("Drawdown", _share(snapshot.drawdown)),
        (
            "Reference",
            f"{_number(snapshot.reference_price, ',.2f', quote)}  ({_number(snapshot.reference_age_s, '.1f', 's')} old)",
        ),
        ("Base fee", _number(snapshot.base_fee_gwei, ".4f", "gwei")),
        ("Open intent", snapshot.open_intent or "none"),
        ("Next nonce", UNKNOWN if snapshot.next_nonce is None else str(snapshot.next_nonce)),
        ("Curve", sparkline([value for _, value in snapshot.curve], 40)),
    ):
        grid.add_row(Text(label, "dim"), _text(value))
    return Panel(grid, title="Figures", border_style="dim")


def _limits(snapshot: Snapshot) -> Panel:
    table = _table(("Limit", False), ("Now", True), ("Accepted", False), ("Used", True))
    for limit in snapshot.limits:
        style = "red" if limit.share_used >= 1.0 else "yellow" if limit.share_used >= 0.8 else ""
        used = Text(_share(limit.share_used), style)
        table.add_row(_text(limit.name), _number(limit.value, ",.4g"), _text(limit.accepted), used)
    return Panel(table, title="Limits", border_style="dim")


def _pools(snapshot: Snapshot) -> Panel:
    table = _table(("Pool", False), ("Price", True), ("Liquidity", True))
    for pool in snapshot.pools:
        table.add_row(_text(pool.name), _number(pool.price), _number(pool.liquidity, ",.0f"))
    return Panel(table, title="Pools", border_style="dim")


def _decisions(snapshot: Snapshot) -> Panel:
    table = _table(
        ("Time", False), ("Block", True), ("Action", False), ("Confidence", True), ("Notional", True), ("Expected", True),
        ("Verdict", False), ("Intent", False),
    )  # fmt: skip
    for row in snapshot.decisions[:ROWS]:
        table.add_row(
            _clock(row.time_s),
            f"{row.block_number:,}",
            _text(row.action),
            _share(row.confidence),
            _number(row.notional_quote),
            _number(row.expected_profit_quote, "+,.2f"),
            _text(row.verdict),
            _text(row.state),
        )
    return Panel(table, title="Decisions", border_style="dim")


def _footer(snapshot: Snapshot) -> Text:
    policy = snapshot.policy
    expires = datetime.fromtimestamp(policy.expires_at_s, UTC).strftime("%Y-%m-%d")
    trained = f"trained {policy.trained_steps:,} steps  expires {expires}"
    return _text(f"arbgym {snapshot.version}  policy {policy.id}  {trained}  {policy.sha256[:16]}", "dim")


def render(snapshot: Snapshot) -> RenderableType:
    """What a terminal shows of ``snapshot``."""
    sides = Table.grid(expand=True)
    sides.add_column(ratio=1)
    sides.add_column(ratio=1)
    sides.add_row(_figures(snapshot), Group(_limits(snapshot), _pools(snapshot)))
    return Group(_banner(snapshot), sides, _decisions(snapshot), _footer(snapshot))


async def watch(source: SnapshotSource, clock: Clock, *, every_s: float = 1.0, console: Console | None = None) -> None:
    """Draw the source's snapshot again and again, until cancelled. No thread: it draws between the runner's own steps."""
    with Live(render(source.snapshot()), console=console, screen=True, auto_refresh=False) as live:
        while True:
            await clock.sleep(every_s)
            live.update(render(source.snapshot()), refresh=True)
