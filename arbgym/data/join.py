"""Tapes from the tables people have: Uniswap V3 minute tables, exchange candles, price and gas series.

Every join is as-of and backward: a row knows what was known at its time. A pool minute is known at its end, a candle's close at
open_time + its length, a price or gas sample at its time stamp. Base is WETH and quote USDC; the minute tables have
token0 = USDC (6 decimals) and token1 = WETH (18), so a pool's net base flow is ``net_amount1``, its price
``price_weth_usdc``, and its liquidity the raw one over 10^12.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arbgym.data.tape_file import require_pandas
from arbgym.market.tape import Tape, TapeError, TapePool

if TYPE_CHECKING:
    import pandas as pd

_LIQUIDITY_UNIT = 10.0 ** ((6 + 18) / 2)


@dataclass(frozen=True)
class Series:
    """A table's file and the columns to take: time, value, and the delay (s) from the time stamp to when the value is known."""

    path: Path
    time: str
    value: str
    delay_s: int = 0


def read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A Parquet or CSV table with at least these columns, its first (time) column parsed as UTC and strictly increasing."""
    pandas = require_pandas()
    if not path.is_file():
        raise TapeError("no such file", path=str(path))
    frame = pandas.read_parquet(path) if path.suffix == ".parquet" else pandas.read_csv(path)
    for name in columns:
        if name not in frame.columns:
            raise TapeError(f"missing; accepted is a table with {', '.join(columns)}", name, path=str(path))
    frame = frame[list(columns)].copy()
    time = columns[0]
    frame[time] = pandas.to_datetime(frame[time], utc=True).astype("datetime64[us, UTC]")
    moves = frame[time].diff().dt.total_seconds().to_numpy()[1:]
    if (moves <= 0.0).any():
        row = int(np.argmax(moves <= 0.0)) + 1
        rule = "time occurs twice" if moves[row - 1] == 0.0 else "time before the row above"
        raise TapeError(f"{rule}; accepted are strictly increasing times", time, row, str(path))
    return frame


def pool_minutes(
    path: Path, step_seconds: int, fill_gaps: int = 0, start: str | None = None, end: str | None = None
) -> pd.DataFrame:
    """A minute table on a grid of ``step_seconds``: index = end of each step (UTC); price and liquidity last, flow summed.

    Rows from ``start`` up to before ``end`` (UTC; None: all).

    Missing minutes: up to ``fill_gaps`` in a row are taken as minutes without a trade (state carried, no flow); more, or
    the default 0, is refused with the row. Steps that the table covers only in part are left out at both ends.
    """
    pandas = require_pandas()
    columns = ["timestamp", "price_weth_usdc", "liquidity", "net_amount1"]
    frame = read_table(path, columns)
    if step_seconds % 60:
        raise TapeError(f"step_seconds = {step_seconds}; accepted are whole minutes for a minute table")
    if start is not None:
        frame = frame[frame["timestamp"] >= pandas.Timestamp(start, tz="UTC")]
    if end is not None:
        frame = frame[frame["timestamp"] < pandas.Timestamp(end, tz="UTC")]
    if frame.empty:
        raise TapeError(f"no row from {start} to {end}", "timestamp", path=str(path))
    missing = frame["timestamp"].diff().dt.total_seconds().to_numpy()[1:] / 60.0 - 1.0
    too_long = np.flatnonzero(missing > fill_gaps)
    if too_long.size:
        row = int(too_long[0]) + 1
        raise TapeError(
            f"{missing[row - 1]:.0f} minutes missing before it; accepted are up to fill_gaps = {fill_gaps} "
            "(a missing minute counts as one without a trade)",
            "timestamp",
            row,
            str(path),
        )
    frame = frame.set_index("timestamp")
    grid = pandas.date_range(frame.index[0], frame.index[-1], freq="1min")
    frame = frame.reindex(grid)
    frame["net_amount1"] = frame["net_amount1"].fillna(0.0)
    frame = frame.ffill()
    step = f"{step_seconds}s"
    grouped = frame.resample(step, label="right", closed="left")
    result = pandas.DataFrame(
        {
            "price": grouped["price_weth_usdc"].last(),
            "liquidity": grouped["liquidity"].last() / _LIQUIDITY_UNIT,
            "flow_base": grouped["net_amount1"].sum(),
        }
    )
    return result[grouped["net_amount1"].count() == step_seconds // 60]


def as_of(times: pd.DatetimeIndex, series: Series) -> Any:
    """The latest value known at each time (float64), NaN before the first."""
    pandas = require_pandas()
    frame = read_table(series.path, [series.time, series.value])
    frame["known"] = frame[series.time] + pandas.Timedelta(seconds=series.delay_s)
    left = pandas.DataFrame({"time": times.astype("datetime64[us, UTC]")})
    joined = pandas.merge_asof(left, frame, left_on="time", right_on="known", direction="backward")
    return joined[series.value].to_numpy(dtype=np.float64)


def remove_basis(reference: Any, pool_price: Any, rows: int) -> Any:
    """The reference price moved by the mean log gap of the ``rows`` rows before each row; NaN in the first ``rows``.

    For venues in different quote currencies (USDT against USDC.e) or a perpetual against spot: their constant distance is no
    arbitrage. Uses earlier rows only.
    """
    gap = np.log(pool_price / reference)
    sums = np.concatenate([[0.0], np.cumsum(gap)])
    basis = np.full(len(gap), np.nan)
    basis[rows:] = (sums[rows:-1] - sums[:-1][: len(gap) - rows]) / rows
    return reference * np.exp(basis)


def build_tape(
    pool: Path,
    *,
    pool_fee_ppm: float = 500.0,
    step_seconds: int = 60,
    reference: Series,
    second_fee_ppm: float,
    second_kind: str,
    second_liquidity: float,
    gas: Series | None = None,
    gas_gwei: float | None = None,
    basis_rows: int = 0,
    fill_gaps: int = 0,
    start: str | None = None,
    end: str | None = None,
    source: str = "",
) -> Tape:
    """A tape of one recorded V3 pool beside a second venue at a recorded price.

    ``second_kind`` reference: a venue that trades at the reference price up to its liquidity; v3: a pool of that
    liquidity whose price follows the series. Gas is a series or one constant. Raises TapeError naming file, row,
    column and rule.
    """
    pandas = require_pandas()
    if (gas is None) == (gas_gwei is None):
        raise TapeError("gas: accepted is either a series or one constant in gwei")
    table = pool_minutes(pool, step_seconds, fill_gaps, start, end)
    times = pandas.DatetimeIndex(table.index)
    prices = as_of(times, reference)
    if basis_rows:
        prices = remove_basis(prices, table["price"].to_numpy(), basis_rows)
    fees = np.full(len(table), gas_gwei) if gas is None else as_of(times, gas)
    known = np.isfinite(prices) & np.isfinite(fees)
    table, prices, fees = table[known], prices[known], fees[known]
    seconds = pandas.DatetimeIndex(table.index).as_unit("s").astype("int64").to_numpy()
    own = table["price"].to_numpy(dtype=np.float64)
    return Tape(
        pools=(TapePool("pool", "v3", pool_fee_ppm), TapePool("second", second_kind, second_fee_ppm)),
        timestamps=seconds,
        reference_price=prices,
        base_fee_gwei=fees,
        price=np.stack([own, prices], axis=1),
        liquidity=np.stack([table["liquidity"].to_numpy(dtype=np.float64), np.full(len(own), second_liquidity)], axis=1),
        flow_base=np.stack([table["flow_base"].to_numpy(dtype=np.float64), np.zeros(len(own))], axis=1),
        step_seconds=step_seconds,
        source=source or f"{pool.name}, {reference.path.name}",
    )
