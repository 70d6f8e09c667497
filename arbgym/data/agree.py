"""Rows of one key: the same thing said twice, or two sources that disagree."""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.rules import ROW
from arbgym.data.tables import Column, Table
from arbgym.market.tape import TapeError

OLD = "__old"
NUMBER = "__number"
_REST = "__rest"
_TOLERANCE = 1e-9  # of floats: two ways from the same raw amount to tokens differ in the last bits


def key_names(table: Table) -> list[str]:
    """The columns that ``keyed`` makes sure of: the key, and what stands in for its empty columns."""
    return [*table.key, *(f"{_REST}{k}" for k in range(len(table.instead)))]


def keyed(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the columns of ``key_names``."""
    rest = [
        pl.when(pl.col(key).is_null()).then(pl.col(other)).alias(f"{_REST}{k}") for k, (key, other) in enumerate(table.instead)
    ]
    return frame.with_columns(rest)


def keys(table: Table, frame: pl.DataFrame) -> pl.DataFrame:
    """The keys of a frame, alone."""
    return keyed(table, frame).select(key_names(table))


def pruning_column(table: Table) -> str | None:
    """The key column whose range in a part tells that it shares no row with others."""
    return next((name for name in ("block_number", "timestamp", "sequence") if name in table.key), None)


def within(table: Table, frame: pl.DataFrame, prefer: str) -> tuple[pl.DataFrame, int, int]:
    """The frame with one row per key, the number of exact repetitions left out, and of rows outvoted.

    ``prefer`` new keeps the last, old the first of rows that differ; without it they raise.
    """
    names = key_names(table)
    full = keyed(table, frame)
    repeats = full.select(names).is_duplicated()
    if not repeats.any():
        return frame, 0, 0
    first = full.unique(names, keep="first", maintain_order=True)
    both = full.filter(repeats).with_row_index(NUMBER)
    differing = apart(table, pairs(table, both.select(frame.columns), first.select(frame.columns)))
    if len(differing) and not prefer:
        raise conflict(table, differing, "")
    chosen = full.unique(names, keep="last" if prefer == "new" else "first", maintain_order=True).select(frame.columns)
    left_out = len(frame) - len(chosen)
    outvoted = min(len(differing), left_out) if prefer == "new" else 0
    return chosen, left_out - outvoted, outvoted


def pairs(table: Table, frame: pl.DataFrame, stored: pl.DataFrame) -> pl.DataFrame:
    """Rows of ``frame`` beside the stored row of the same key (columns ending in ``OLD``), with their number in ``frame``."""
    names = key_names(table)
    numbered = keyed(table, frame).with_row_index(NUMBER)
    return numbered.join(keyed(table, stored), on=names, how="inner", suffix=OLD, nulls_equal=True)


def _differs(column: Column) -> pl.Expr:
    new, old = pl.col(column.name), pl.col(f"{column.name}{OLD}")
    if column.kind == "float64":
        return ((new - old).abs() > _TOLERANCE * pl.max_horizontal(new.abs(), old.abs())).fill_null(False)
    return (new != old).fill_null(False)


def _compared(table: Table, pair: pl.DataFrame) -> list[Column]:
    return [column for column in table.columns if column.compared and f"{column.name}{OLD}" in pair.columns]


def apart(table: Table, pair: pl.DataFrame) -> pl.DataFrame:
    """The pairs that disagree: both say something in a compared column, and not the same."""
    return pair.filter(pl.any_horizontal([_differs(column) for column in _compared(table, pair)]))


def conflict(table: Table, pair: pl.DataFrame, path: str) -> TapeError:
    """The error for the first of pairs that disagree, with both values and where they came from."""
    row = pair.head(1)
    name = next(column.name for column in _compared(table, row) if row.select(_differs(column)).item())
    new, old = row[name].item(), row[f"{name}{OLD}"].item()
    key = ", ".join(f"{part} {_said(row[part].item())}" for part in table.key if row[part].item() is not None)
    sources = [row[column].item() for column in ("source", f"source{OLD}")]
    rule = (
        f"{_said(new)} ({sources[0]}) against {_said(old)} ({sources[1]}) for {key}; accepted is one value per key, "
        "or a choice: prefer the new or the old"
    )
    return TapeError(rule, name, int(row[ROW].item()), path)


def _said(value: Any) -> str:
    return f"{value:%Y-%m-%dT%H:%M:%S.%fZ}".replace(".000000Z", "Z") if hasattr(value, "strftime") else str(value)
