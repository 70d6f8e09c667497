"""What a canonical table must satisfy: ``conform`` gives it its columns and kinds, ``violations`` lists what cannot be true."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from arbgym.data import columns as read
from arbgym.data.columns import as_polars
from arbgym.data.needs import pl
from arbgym.data.tables import TABLES, Table
from arbgym.market.tape import TapeError

ROW = "_row"  # a column of row numbers that readers pass along, so that a refusal names the row of the file
_POSITIVE = {"price", "execution_price", "bid", "ask", "open", "high", "low", "close", "price_after", "cex_price", "dex_price"}
_NOT_NEGATIVE = {
    "base_fee_gwei", "priority_fee_gwei", "gas_price_gwei", "gas_used", "gas_limit", "volume_base", "volume_quote", "bid_size",
    "ask_size", "reserve0", "reserve1", "liquidity", "in_amount0", "in_amount1", "interval_s", "base_amount", "quote_amount",
    "block_number", "log_index", "transaction_index", "trade_size_quote", "hops",
}  # fmt: skip
_FIRST, _LAST = datetime(2009, 1, 1, tzinfo=UTC), datetime(2101, 1, 1, tzinfo=UTC)
_CHOICES = {
    ("liquidity_events", "event"): ("mint", "burn", "sync", "initialize"),
    ("wallet_trades", "side"): ("buy", "sell"),
    ("reference_prices", "kind"): ("candle", "trade", "quote", "oracle", "price"),
}


def table_named(name: str) -> Table:
    """The canonical table of that name. Raises TapeError listing the names."""
    if name not in TABLES:
        raise TapeError(f"table {name!r}; accepted are {', '.join(TABLES)}")
    return TABLES[name]


def conform(table: Table, rows: Any, path: str = "", source: str | None = None) -> pl.DataFrame:
    """Rows (pandas, polars or Arrow) with exactly the table's columns, in order and kind; row numbers (``_row``) are kept.

    Columns that may be empty may be absent; ``source`` fills the column of that name. Raises TapeError for unknown or missing
    columns and for values of another kind.
    """
    frame = as_polars(rows)
    unknown = [name for name in frame.columns if name not in table.names and name != ROW]
    if unknown:
        raise TapeError(f"no column of {table.name}; accepted are {', '.join(table.names)}", unknown[0], path=path)
    held: list[pl.Series] = []
    for column in table.columns:
        if column.name == "source" and source is not None:
            series = pl.Series("source", [source], pl.String).new_from_index(0, len(frame))
        elif column.name in frame.columns:
            series = _typed(frame[column.name], column.kind, path)
            if column.default is not None and series.null_count():
                series = series.fill_null(column.default)
        elif column.default is not None:
            series = pl.Series(column.name, [column.default]).new_from_index(0, len(frame))
        elif column.required:
            raise TapeError(f"missing; accepted is a {table.name} table with it", column.name, path=path)
        else:
            series = pl.Series(column.name, [None], _dtype(column.kind)).new_from_index(0, len(frame))
        held.append(series)
    if ROW in frame.columns:
        held.append(frame[ROW])
    return pl.DataFrame(held)


def _dtype(kind: str) -> Any:
    return {
        "timestamp": pl.Datetime("us", "UTC"),
        "string": pl.String,
        "raw": pl.String,
        "int64": pl.Int64,
        "float64": pl.Float64,
        "bool": pl.Boolean,
    }[kind]


def _typed(series: pl.Series, kind: str, path: str) -> pl.Series:
    if series.dtype == _dtype(kind):
        return series
    if kind in ("string", "raw") and series.dtype.base_type() in (pl.Categorical, pl.Enum):
        return series.cast(_dtype(kind))
    how = {
        "timestamp": read.times,
        "string": read.names,
        "raw": read.raws,
        "int64": read.wholes,
        "float64": read.floats,
        "bool": read.flags,
    }[kind]
    try:
        typed: pl.Series = how(series).alias(series.name)
    except TapeError as error:
        raise TapeError(error.rule, series.name, error.row, path, error.time) from error
    return typed if typed.dtype == _dtype(kind) else typed.cast(_dtype(kind))


def violations(table: Table, frame: pl.DataFrame, path: str = "") -> Iterator[TapeError]:
    """Everything in a conformed frame that cannot be true, the first row of each rule and column."""
    for column in table.columns:
        values = frame[column.name]
        if column.required and values.null_count():
            yield _found(frame, values.is_null(), column.name, "empty; accepted is a value in every row", path)
        if column.kind == "timestamp" and len(values):
            outside = (values < _FIRST) | (values >= _LAST)
            yield from _all(frame, outside, column.name, "accepted are times from 2009 to 2100", path)
        elif column.kind == "float64":
            yield from _all(frame, ~values.is_finite(), column.name, "accepted are finite numbers", path)
        elif column.kind == "raw" and values.null_count() < len(values):
            yield from _all(frame, ~values.str.contains(r"^-?[0-9]+$"), column.name, "accepted are whole numbers as text", path)
        if column.name in _POSITIVE:
            yield from _all(frame, values <= 0, column.name, "accepted are positive numbers", path)
        elif column.name in _NOT_NEGATIVE:
            yield from _all(frame, values < 0, column.name, "accepted is 0 or more", path)
        choices = _CHOICES.get((table.name, column.name))
        if choices:
            yield from _all(frame, ~values.is_in(list(choices)), column.name, f"accepted are {', '.join(choices)}", path)
    for key, other in table.instead:
        empty = frame[key].is_null() & frame[other].is_null()
        yield from _all(frame, empty, key, f"empty, and {other} too; accepted is one of the two", path)
    if table.time and not table.instead and "block_number" in frame.columns:
        empty = frame[table.time].is_null() & frame["block_number"].is_null()
        yield from _all(frame, empty, table.time, "empty, and block_number too; accepted is one of the two", path)
    if table.name == "reference_prices":
        for low, high in (("low", "high"), ("bid", "ask"), ("low", "open"), ("open", "high")):
            crossed = frame[low] > frame[high] * (1 + 1e-9)
            yield from _all(frame, crossed, low, f"above {high}; accepted is up to {high}", path)
    if table.name == "swaps":
        same = (frame["amount0"].sign() * frame["amount1"].sign()) > 0
        yield from _all(frame, same, "amount1", "the sign of amount0; accepted is one token in and one out", path)
    if table.name in ("tokens", "pools"):
        for name in [name for name in frame.columns if name.startswith("decimals")]:
            outside = (frame[name] < 0) | (frame[name] > 77)
            yield from _all(frame, outside, name, "accepted are 0 to 77 decimals", path)


def _all(frame: pl.DataFrame, bad: pl.Series, column: str, rule: str, path: str) -> Iterator[TapeError]:
    if bad.fill_null(False).any():
        yield _found(frame, bad, column, f"{{!r}}; {rule}", path)


def _found(frame: pl.DataFrame, bad: pl.Series, column: str, rule: str, path: str) -> TapeError:
    row = int(bad.fill_null(False).arg_true()[0])
    moment = frame["timestamp"][row] if "timestamp" in frame.columns else None
    number = int(frame[ROW][row]) if ROW in frame.columns else row
    time = None if moment is None else int(moment.timestamp())
    return TapeError(rule.format(frame[column][row]), column, number, path, time)


def check(table: Table, frame: pl.DataFrame, path: str = "") -> None:
    """Raise the first violation of a conformed frame."""
    for violation in violations(table, frame, path):
        raise violation
