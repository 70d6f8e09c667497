"""Features of canonical tables that know nothing later than their row.

A canonical ``timestamp`` says when a row is known, so every join here is as-of and backward, and every window ends at its row:
changing what comes after a moment changes no feature up to it. Frames come in as pandas, polars or Arrow and go out as pandas,
sorted by time.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from arbgym.data.frames import require_pandas
from arbgym.market.tape import TapeError

if TYPE_CHECKING:
    import pandas as pd

TIME = "timestamp"


def as_frame(table: Any) -> pd.DataFrame:
    """A pandas frame sorted by time (rows of one time keep their order). Raises TapeError for a missing or empty time."""
    pandas = require_pandas()
    frame = table if isinstance(table, pandas.DataFrame) else table.to_pandas()
    if TIME not in frame.columns:
        raise TapeError(f"missing; accepted is a table with {TIME}", TIME)
    if frame[TIME].isna().any():
        raise TapeError("empty; accepted is a time in every row", TIME, int(np.argmax(frame[TIME].isna().to_numpy())))
    sorted_frame: pd.DataFrame = frame.sort_values(TIME, kind="stable").reset_index(drop=True)
    return sorted_frame


def as_of(left: Any, right: Any, columns: Sequence[str], *, max_age_s: float | None = None, suffix: str = "") -> pd.DataFrame:
    """``left`` with columns of ``right``: of the row known last at each time, empty where none is or where it is older than
    ``max_age_s``. ``suffix`` is added to their names; ``age_s`` + suffix says how old the value is, s.
    """
    pandas = require_pandas()
    first, second = as_frame(left), as_frame(right)
    lacking = [name for name in columns if name not in second.columns]
    if lacking:
        raise TapeError(f"missing; accepted are {', '.join(map(str, second.columns))}", lacking[0])
    taken = second[[TIME, *columns]].rename(columns={name: f"{name}{suffix}" for name in columns})
    taken[f"_known{suffix}"] = taken[TIME]
    clash = [name for name in taken.columns if name != TIME and name in first.columns]
    if clash:
        raise TapeError("in both tables; accepted is a suffix for the columns that are joined", clash[0])
    for frame in (first, taken):
        frame[TIME] = frame[TIME].astype("datetime64[us, UTC]")
    limit = None if max_age_s is None else pandas.Timedelta(seconds=max_age_s)
    joined: pd.DataFrame = pandas.merge_asof(first, taken, on=TIME, direction="backward", tolerance=limit)
    joined[f"age_s{suffix}"] = (joined[TIME] - joined.pop(f"_known{suffix}")).dt.total_seconds()
    return joined


def gap_bps(left: Any, right: Any, *, max_age_s: float | None = None) -> pd.DataFrame:
    """``left`` with ``reference_price``, its ``age_s`` and ``gap_bps``: 1e4 * ln(price / the price that ``right`` knew last)."""
    reference = as_frame(right).rename(columns={"price": "reference_price"})
    joined = as_of(left, reference, ["reference_price"], max_age_s=max_age_s)
    joined["gap_bps"] = np.log(joined["price"] / joined["reference_price"]) * 1e4
    return joined


def _by(frame: pd.DataFrame, by: Sequence[str]) -> list[Any]:
    """Positions of the rows of each series."""
    if not by:
        return [np.arange(len(frame))]
    return [np.asarray(rows) for rows in frame.groupby(list(by), sort=False, dropna=False).indices.values()]


def returns_bps(table: Any, *, column: str = "price", by: Sequence[str] = ()) -> pd.DataFrame:
    """The table with ``return_bps``: 1e4 * log change from the row before of the same series (``by``); empty in its first."""
    frame = as_frame(table)
    frame["return_bps"] = np.nan
    for rows in _by(frame, by):
        logs = np.log(frame[column].to_numpy(dtype=np.float64)[rows])
        frame.loc[frame.index[rows], "return_bps"] = np.concatenate([[np.nan], np.diff(logs)]) * 1e4
    return frame


def rolling(table: Any, column: str, window_s: float, how: str, name: str, by: Sequence[str] = ()) -> pd.DataFrame:
    """The table with ``name``: ``how`` of ``column`` over the ``window_s`` up to and with each row, within its series.

    ``how``: mean, std, sum, min, max, or rank (the share of the window's values at or below the row's own).
    """
    if how not in ("mean", "std", "sum", "min", "max", "rank"):
        raise TapeError(f"how = {how!r}; accepted are mean, std, sum, min, max, rank")
    if not window_s > 0:
        raise TapeError(f"window_s = {window_s}; accepted is a positive number")
    frame = as_frame(table)
    frame[name] = np.nan
    for rows in _by(frame, by):
        series = frame.iloc[rows].set_index(TIME)[column].astype("float64")
        windows = series.rolling(f"{round(window_s * 1e6)}us")
        found = windows.rank(pct=True, method="max") if how == "rank" else getattr(windows, how)()
        frame.loc[frame.index[rows], name] = found.to_numpy()
    return frame


def volatility(table: Any, window_s: float, *, column: str = "price", by: Sequence[str] = ()) -> pd.DataFrame:
    """The table with ``volatility_bps``: the standard deviation of ``return_bps`` in the window, per row of the table."""
    return rolling(returns_bps(table, column=column, by=by), "return_bps", window_s, "std", "volatility_bps", by)


def gas_percentile(blocks: Any, window_s: float, *, column: str = "base_fee_gwei") -> pd.DataFrame:
    """Blocks with ``gas_percentile``: the share of the window's blocks whose fee is at or below the row's, 0 to 1, by chain."""
    by = ("chain",) if "chain" in as_frame(blocks).columns else ()
    return rolling(blocks, column, window_s, "rank", "gas_percentile", by)


def flow_imbalance(table: Any, window_s: float, *, column: str = "amount0", by: Sequence[str] = ("pool",)) -> pd.DataFrame:
    """Swaps (or states with ``net_amount0``) with ``flow_imbalance``: net over gross flow of the window, -1 to 1; 0 if none."""
    frame = as_frame(table)
    frame["_gross"] = frame[column].abs()
    frame = rolling(frame, column, window_s, "sum", "_net", by)
    frame = rolling(frame, "_gross", window_s, "sum", "_all", by)
    gross = frame.pop("_all").to_numpy()
    net = frame.pop("_net").to_numpy()
    frame["flow_imbalance"] = np.clip(np.divide(net, gross, out=np.zeros(len(frame)), where=gross > 0.0), -1.0, 1.0)
    return frame.drop(columns="_gross")
