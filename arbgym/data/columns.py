"""Columns as people write them, into columns as they are meant: times, numbers, exact integers, addresses.

Works on polars series. Whatever cannot be read is refused with its row and column (``TapeError``); a row's number is that
in the file (first data row 0) when ``first_row`` says where the series begins.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import Any

from arbgym.data.needs import pl
from arbgym.market.tape import TapeError

Moment = str | datetime | date
# an epoch's unit by its size, with its length in microseconds: seconds up to the year 5138; the others from 1973 on
_EPOCHS = ((1e11, "s", 1_000_000.0), (1e14, "ms", 1_000.0), (1e17, "us", 1.0), (float("inf"), "ns", 1e-3))
_TEXT_TIMES = ("%Y-%m-%d %H:%M:%S%.f", "%Y-%m-%d %H:%M", "%Y-%m-%d")
NULLS = ("", "null", "NULL", "None", "none", "nan", "NaN", "<nil>", "N/A", "NA")


def refuse_first(bad: pl.Series, values: pl.Series, rule: str, first_row: int = 0, path: str = "") -> None:
    """Raise for the first row where ``bad`` is true, with the value found; ``rule`` says what is accepted."""
    rows = bad.fill_null(False).arg_true()
    if len(rows):
        row = int(rows[0])
        raise TapeError(f"{values[row]!r}; {rule}", values.name, first_row + row, path)


def without_null_words(series: pl.Series) -> pl.Series:
    """Text with the words that mean nothing turned into null, blanks trimmed."""
    text = series.str.strip_chars()
    return text.set(text.is_in(list(NULLS)), None) if text.dtype == pl.String else text


def times(series: pl.Series, first_row: int = 0, units: dict[str, str] | None = None) -> pl.Series:
    """UTC times in microseconds, from dates (no zone is UTC), ISO 8601 text or epochs in s, ms, us or ns (also as text).

    An epoch's unit follows from its size and must be one within the column: ``units`` remembers it from batch to batch.
    """
    if series.dtype == pl.Date:
        return series.cast(pl.Datetime("us")).dt.replace_time_zone("UTC")
    if isinstance(series.dtype, pl.Datetime):
        zoned = series.dt.convert_time_zone("UTC") if series.dtype.time_zone else series.dt.replace_time_zone("UTC")
        return zoned.dt.cast_time_unit("us")
    if series.dtype == pl.String:
        text = without_null_words(series)
        filled = text.drop_nulls()
        if len(filled) and filled.head(1).str.contains(r"^\d+(\.\d*)?([eE]\+?\d+)?$").item():
            return _epochs(series, text, first_row, units)
        return _written(series, text, first_row)
    if series.dtype.is_numeric():
        return _epochs(series, series, first_row, units)
    if series.dtype == pl.Null:
        return series.cast(pl.Datetime("us", "UTC"))
    raise TapeError(f"type {series.dtype}; accepted are dates, ISO 8601 text or epochs in s, ms, us or ns", series.name)


def _written(series: pl.Series, text: pl.Series, first_row: int) -> pl.Series:
    plain = text.str.replace(r"(?:\s*UTC|Z|[+-]00:?00)$", "").str.replace("T", " ", literal=True)
    parsed = plain.str.to_datetime(_TEXT_TIMES[0], time_unit="us", strict=False)
    for written in _TEXT_TIMES[1:]:
        if parsed.null_count() > text.null_count():
            parsed = parsed.fill_null(plain.str.to_datetime(written, time_unit="us", strict=False))
    utc = parsed.dt.replace_time_zone("UTC")
    if utc.null_count() > text.null_count():  # other offsets
        utc = utc.fill_null(plain.str.to_datetime("%Y-%m-%d %H:%M:%S%.f%#z", time_unit="us", time_zone="UTC", strict=False))
    rule = "accepted are UTC times: dates, ISO 8601 text, or epochs in s, ms, us or ns"
    refuse_first(utc.is_null() & text.is_not_null(), series, rule, first_row)
    return utc.alias(series.name).cast(pl.Datetime("us", "UTC"))


def _epochs(series: pl.Series, values: pl.Series, first_row: int, units: dict[str, str] | None) -> pl.Series:
    size = values.cast(pl.Float64, strict=False)
    rule = "accepted are UTC times: dates, ISO 8601 text, or epochs in s, ms, us or ns"
    refuse_first(values.is_not_null() & ~(size.is_finite() & (size > 0)).fill_null(False), series, rule, first_row)
    known = size.drop_nulls()
    if not len(known):
        return size.cast(pl.Datetime("us", "UTC"))
    units = {} if units is None else units
    name = units.get(series.name) or _unit(float(known[0]))
    units[series.name] = name
    k = [entry[1] for entry in _EPOCHS].index(name)
    lowest = _EPOCHS[k - 1][0] if k else 0.0
    other = (size >= _EPOCHS[k][0]) | (size < lowest)
    rows = other.fill_null(False).arg_true()
    if len(rows):
        row = int(rows[0])
        found = _unit(float(size[row]))
        raise TapeError(
            f"{series[row]} is a time in {found}, in a column in {name}; accepted is one unit per column",
            series.name,
            first_row + row,
        )
    whole = values.cast(pl.Int64, strict=False)
    if whole.null_count() > values.null_count() or values.dtype.is_float():
        microseconds = (size * _EPOCHS[k][2]).round().cast(pl.Int64)
    else:
        microseconds = whole // 1_000 if name == "ns" else whole * int(_EPOCHS[k][2])
    return microseconds.cast(pl.Datetime("us")).dt.replace_time_zone("UTC").alias(series.name)


def _unit(epoch: float) -> str:
    return next(name for limit, name, _ in _EPOCHS if epoch < limit)


def floats(series: pl.Series, first_row: int = 0) -> pl.Series:
    """float64, null where there is nothing; TapeError with the first row that is no finite number."""
    source = without_null_words(series) if series.dtype == pl.String else series
    values = source.cast(pl.Float64, strict=False)
    if source.dtype.is_float():
        values = values.fill_nan(None)
        source = values
    refuse_first(source.is_not_null() & ~values.is_finite().fill_null(False), series, "accepted are finite numbers", first_row)
    return values


def wholes(series: pl.Series, first_row: int = 0) -> pl.Series:
    """int64, null where there is nothing; text and floats as long as they are whole ("197030.0")."""
    source = without_null_words(series) if series.dtype == pl.String else series
    if series.dtype == pl.String and len(source) and source.str.starts_with("0x").any():
        return _hexadecimal(series, source, first_row)
    values = source.cast(pl.Int64, strict=False) if not source.dtype.is_float() else None
    if values is None or values.null_count() > source.null_count():
        number = floats(series, first_row)
        refuse_first(number.is_not_null() & (number != number.round()), series, "accepted are whole numbers", first_row)
        exact = number.cast(pl.Int64, strict=False)
        values = exact if values is None else values.fill_null(exact)
        refuse_first(number.is_not_null() & values.is_null(), series, "accepted are 64-bit whole numbers", first_row)
    return values


def _hexadecimal(series: pl.Series, source: pl.Series, first_row: int) -> pl.Series:
    digits = source.str.strip_prefix("0x")
    values = digits.str.to_integer(base=16, strict=False).cast(pl.Int64, strict=False)
    refuse_first(source.is_not_null() & values.is_null(), series, "accepted are 64-bit whole numbers", first_row)
    return values.alias(series.name)


def raws(series: pl.Series, first_row: int = 0) -> pl.Series:
    """Exact integers as decimal text. Floats are taken to the precision they have ("1e22", 197030.0)."""
    if series.dtype.is_integer() or isinstance(series.dtype, pl.Decimal):
        return series.cast(pl.String).str.replace(r"\.0*$", "")
    if series.dtype == pl.Binary:
        signed = [None if value is None else str(int.from_bytes(value, "big", signed=True)) for value in series]
        return pl.Series(series.name, signed, pl.String)
    if series.dtype.is_float():
        refuse_first(series.is_not_null() & (series != series.round()), series, "accepted are whole numbers", first_row)
        return pl.Series(series.name, [None if v is None or v != v else str(int(v)) for v in series], pl.String)
    text = series.cast(pl.String)
    if not text.str.contains(r"^-?[0-9]+$").all():
        text = without_null_words(text)
        text = pl.Series(series.name, [_exact(value) for value in text], pl.String)
        bad = series.is_not_null() & text.is_null() & ~series.cast(pl.String).str.strip_chars().is_in(list(NULLS))
        refuse_first(bad, series, "accepted are whole numbers in smallest units", first_row)
    return text


def _exact(text: str | None) -> str | None:
    from decimal import Decimal, InvalidOperation

    if text is None:
        return None
    if text.startswith("0x"):
        return str(int(text, 16))
    try:
        number = Decimal(text)
    except InvalidOperation:
        return None
    return str(int(number)) if number.is_finite() and number == number.to_integral_value() else None


def names(series: pl.Series) -> pl.Series:
    """Text; addresses and hashes that start with 0x (or are bytes) in lower case."""
    if series.dtype == pl.Binary:
        return "0x" + series.bin.encode("hex")
    text = series.cast(pl.String)
    first = text.drop_nulls().head(1)
    if len(first) and first.str.contains("^0[xX]").item():
        short = (text.str.len_bytes() < 10).any()  # only short text can be a word for nothing
        return (without_null_words(text) if short else text).str.to_lowercase()
    return without_null_words(text)


def flags(series: pl.Series, first_row: int = 0) -> pl.Series:
    """Booleans, from true/false, 1/0 or their text."""
    if series.dtype == pl.Boolean:
        return series
    text = without_null_words(series.cast(pl.String)).str.to_lowercase()
    values = text.is_in(["true", "1", "t", "yes"])
    refuse_first(
        text.is_not_null() & ~(values | text.is_in(["false", "0", "f", "no"])), series, "accepted are true and false", first_row
    )
    return values.set(text.is_null(), None) if text.null_count() else values


def moment(name: str, value: Moment | None) -> datetime | None:
    """A UTC time from text such as 2023-08-14, a date or a datetime (no zone is UTC). Raises TapeError naming the argument."""
    if value is None:
        return None
    try:
        found: datetime = times(pl.Series(name, [value]))[0]
    except TapeError as error:
        raise TapeError(f"{name} = {value!r}; accepted is a UTC time such as 2023-08-14") from error
    return found.astimezone(UTC)


def as_polars(rows: Any) -> pl.DataFrame:
    """A polars frame from pandas, polars (lazy too) or Arrow. TypeError for anything else."""
    if isinstance(rows, pl.DataFrame):
        return rows
    if isinstance(rows, pl.LazyFrame):
        return rows.collect()
    module = type(rows).__module__.split(".", 1)[0]
    if module == "pandas":
        return pl.from_pandas(rows)
    if module == "pyarrow":
        return pl.DataFrame(pl.from_arrow(rows))
    if isinstance(rows, dict):
        return pl.DataFrame(rows)
    raise TypeError(f"{type(rows).__name__}; accepted are pandas, polars and Arrow tables")


def missing(columns: Sequence[str], wanted: Sequence[str]) -> list[str]:
    """The names of ``wanted`` that ``columns`` lacks, in order."""
    held = set(columns)
    return [name for name in wanted if name not in held]
