"""Tables as pandas frames, read so that whatever is wrong is said with its file, row and column (``TapeError``)."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from arbgym.market.tape import Floats, TapeError

if TYPE_CHECKING:
    import pandas as pd

SUFFIXES = (".parquet", ".csv")
# an epoch's unit by its size: seconds up to the year 5138, then milli-, micro- and nanoseconds (all from 1973 on)
_EPOCH_UNITS = ((1e11, 1), (1e14, 10**3), (1e17, 10**6), (np.inf, 10**9))


def require_pandas() -> Any:
    """pandas, or an ImportError that says how to get it (and pyarrow)."""
    if not all(find_spec(name) for name in ("pandas", "pyarrow")):
        raise ImportError('tables need pandas and pyarrow: pip install "arbgym[data]"')
    import pandas

    return pandas


def check_file(path: Path) -> None:
    """Refuse what is no file or has a suffix that nothing here reads."""
    if not path.is_file():
        raise TapeError("no such file; accepted is a Parquet or CSV file", path=str(path))
    if path.suffix not in SUFFIXES:
        raise TapeError(f"suffix {path.suffix!r}; accepted are {', '.join(SUFFIXES)}", path=str(path))


def read_csv(path: Path, skip_lines: int = 0) -> pd.DataFrame:
    """A CSV table; numbers read to the last bit. Raises TapeError."""
    require_pandas()
    import pyarrow
    from pyarrow import csv

    # one block, so that a column's type is inferred from all its rows
    options = csv.ReadOptions(skip_rows=skip_lines, block_size=min(path.stat().st_size + 1, 2**31 - 1))
    try:
        return csv.read_csv(path, options).to_pandas()
    except (pyarrow.ArrowInvalid, UnicodeDecodeError) as error:
        raise TapeError(f"not a CSV table ({str(error).strip()})", path=str(path)) from error


def read_parquet(path: Path) -> tuple[pd.DataFrame, dict[bytes, bytes]]:
    """A Parquet table and its schema's metadata. Raises TapeError."""
    require_pandas()
    import pyarrow
    from pyarrow import parquet

    try:
        table = parquet.read_table(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise TapeError(f"not a Parquet file ({error})", path=str(path)) from error
    return table.to_pandas(), dict(table.schema.metadata or {})


def utc_seconds(column: pd.Series[Any], name: str) -> NDArray[np.int64]:
    """Times as Unix seconds: dates with or without a zone (none is UTC), ISO 8601 text, or an epoch in s, ms, us or ns.

    An epoch's unit follows from its size. Raises TapeError with the first row that is no time.
    """
    pandas = require_pandas()
    if pandas.api.types.is_numeric_dtype(column):
        epoch = column.to_numpy(dtype=np.float64, na_value=np.nan)
        _refuse_first(~np.isfinite(epoch) | (epoch <= 0.0), column, name, "times")
        unit = next(unit for limit, unit in _EPOCH_UNITS if epoch[0] < limit) if len(epoch) else 1
        whole: NDArray[np.int64] = column.to_numpy().astype(np.int64) // unit
        return whole
    if not pandas.api.types.is_datetime64_any_dtype(column):
        column = column.map(lambda text: re.sub(r" ?UTC$", "Z", text) if isinstance(text, str) else text)
    times = pandas.to_datetime(column, utc=True, errors="coerce", format="ISO8601")
    _refuse_first(times.isna().to_numpy(), column, name, "UTC times")
    seconds: NDArray[np.int64] = times.dt.as_unit("s").astype("int64").to_numpy()
    return seconds


def numbers(column: pd.Series[Any], name: str, times: NDArray[np.int64] | None = None) -> Floats:
    """A column as float64; TapeError with the first row that is not a finite number."""
    pandas = require_pandas()
    values: Floats = pandas.to_numeric(column, errors="coerce").to_numpy(dtype=np.float64, na_value=np.nan)
    _refuse_first(~np.isfinite(values), column, name, "finite numbers", times)
    return values


def _refuse_first(
    bad: NDArray[np.bool_],
    column: pd.Series[Any],
    name: str,
    accepted: str,
    times: NDArray[np.int64] | None = None,
) -> None:
    rows = np.flatnonzero(bad)
    if rows.size:
        row = int(rows[0])
        time = None if times is None else int(times[row])
        raise TapeError(f"{column.iloc[row]}; accepted are {accepted}", name, row, time=time)
