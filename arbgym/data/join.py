"""Tapes from the tables people have: Uniswap V3 minute tables, exchange candles, price and gas series.

Every join is as-of and backward: a row holds what was known at its time and nothing later. Tables stamp a period (a
pool's minute, a candle, a minute of gas prices) by its start and know it at its end; unless told otherwise every table is
taken so. A value is used only while it is fresh.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from arbgym.data.frames import check_file, numbers, read_csv, read_parquet, require_pandas, utc_seconds
from arbgym.market.tape import Floats, Tape, TapeError, TapePool, check_times

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

_MINUTE = 60


@dataclass(frozen=True)
class Series:
    """A table's file and the columns to take: time and value.

    ``delay_s``: from the time stamp to when the value is known; None takes the table's spacing (its median time
    difference), which is right for candles and other periods stamped by their start; 0 is right for events. A value of
    ``max_age_s`` or older is unknown; None again takes the spacing, so that one missing row is noticed.
    """

    path: Path
    time: str
    value: str
    delay_s: int | None = None
    max_age_s: int | None = None


@dataclass(frozen=True)
class PoolColumns:
    """A V3 minute table's columns; the defaults are those of a USDC/WETH pool whose token1 is the base token.

    ``price`` in quote per base; ``flow_base`` signed, positive into the pool (net_amount1 where token1 is the base);
    ``liquidity`` raw, over 10^((decimals0 + decimals1) / 2) in human units.
    """

    time: str = "timestamp"
    price: str = "price_weth_usdc"
    liquidity: str = "liquidity"
    flow_base: str = "net_amount1"
    decimals: tuple[int, int] = (6, 18)


def _read_table(path: Path, columns: Sequence[str]) -> pd.DataFrame:
    """A Parquet or CSV table's columns: the first a time, returned as strictly increasing Unix s, the others finite numbers.

    Raises TapeError naming the file, the row (first data row is 0), the column and the rule.
    """
    pandas = require_pandas()
    check_file(path)
    try:
        frame = read_parquet(path)[0] if path.suffix == ".parquet" else read_csv(path)
        for name in columns:
            if name not in frame.columns:
                raise TapeError(f"missing; accepted is a table with {', '.join(columns)}", name)
        if frame.empty:
            raise TapeError("no rows")
        times = utc_seconds(frame[columns[0]], columns[0])
        check_times(times, None, columns[0])
        return pandas.DataFrame({columns[0]: times} | {name: numbers(frame[name], name, times) for name in columns[1:]})
    except TapeError as error:
        raise TapeError(error.rule, error.column, error.row, str(path), error.time) from error


def pool_minutes(
    path: Path,
    step_seconds: int,
    fill_gaps: int = 0,
    start: str | None = None,
    end: str | None = None,
    columns: PoolColumns | None = None,
) -> pd.DataFrame:
    """A minute table on a grid of ``step_seconds``: index = end of each step (Unix s); columns price and liquidity (last
    of the step, human units), flow_base (sum), filled (whether a minute of the step was missing).

    Rows from ``start`` up to before ``end`` (UTC; None: all). Missing minutes: up to ``fill_gaps`` in a row are taken as
    minutes without a trade (state carried, no flow) and marked; more, or the default 0, is refused with the row. Steps
    that the table covers only in part are left out at both ends.
    """
    columns = columns or PoolColumns()
    if step_seconds <= 0 or step_seconds % _MINUTE:
        raise TapeError(f"step_seconds = {step_seconds}; accepted are whole minutes for a minute table")
    if fill_gaps < 0:
        raise TapeError(f"fill_gaps = {fill_gaps}; accepted is 0 or more")
    frame = _read_table(path, [columns.time, columns.price, columns.liquidity, columns.flow_base])
    low = -np.inf if start is None else _moment("start", start)
    high = np.inf if end is None else _moment("end", end)
    frame = frame[(frame[columns.time] >= low) & (frame[columns.time] < high)]
    if frame.empty:
        raise TapeError(f"no row from {start} to {end}", columns.time, path=str(path))
    states = frame.rename(columns={columns.time: "start", columns.price: "price", columns.flow_base: "flow_base"})
    states["liquidity"] = frame[columns.liquidity] / 10.0 ** (sum(columns.decimals) / 2.0)
    return on_grid(states, _MINUTE, step_seconds, fill_gaps, str(path), columns.time)


def on_grid(
    states: pd.DataFrame, period_s: int, step_seconds: int, fill_gaps: int, path: str = "", time: str = "timestamp"
) -> pd.DataFrame:
    """Periods of ``period_s`` (columns start in Unix s, price, liquidity, flow_base) on a grid of ``step_seconds``: see
    ``pool_minutes``. ``path`` and ``time`` name the table in refusals.
    """
    pandas = require_pandas()
    if step_seconds < 1 or step_seconds % period_s:
        raise TapeError(f"step_seconds = {step_seconds}; accepted are multiples of the table's {period_s} s", path=path)
    times = states["start"].to_numpy()
    unit = "minutes" if period_s == _MINUTE else f"periods of {period_s} s"
    missing = np.diff(times) / period_s - 1.0
    for bad, rule in (
        (missing % 1.0 != 0.0, f"not a whole number of {unit} after the row above; accepted are rows on one clock"),
        (missing > fill_gaps, f"{{:.0f}} {unit} missing before it; accepted are up to fill_gaps = {fill_gaps}"),
    ):
        if bad.any():
            row = int(np.argmax(bad))
            where = int(states.index[row + 1])
            raise TapeError(rule.format(missing[row]), time, where, path, int(times[row + 1]))
    grid = np.arange(times[0], times[-1] + 1, period_s)
    recorded = np.isin(grid, times)
    latest = np.cumsum(recorded) - 1
    step = -(-(grid + 1) // step_seconds) * step_seconds  # the step's end: a minute at its end itself opens the next
    periods = pandas.DataFrame(
        {
            "price": states["price"].to_numpy()[latest],
            "liquidity": states["liquidity"].to_numpy()[latest],
            "flow_base": np.where(recorded, states["flow_base"].to_numpy()[latest], 0.0),
            "filled": ~recorded,
            "periods": 1,
        }
    )
    how = {"price": "last", "liquidity": "last", "flow_base": "sum", "filled": "max", "periods": "sum"}
    table = periods.groupby(step).agg(how)
    return table[table["periods"] == step_seconds // period_s].drop(columns="periods")


def as_of(times: NDArray[np.int64], series: Series) -> Floats:
    """The latest value known at each time (Unix s), as float64; NaN where none is, or none that is fresh."""
    frame = _read_table(series.path, [series.time, series.value])
    stamps = frame[series.time].to_numpy()
    delay = spacing_s(stamps) if series.delay_s is None else series.delay_s
    return latest_known(times, stamps + delay, frame[series.value].to_numpy(), series.max_age_s)


def spacing_s(stamps: NDArray[np.int64]) -> int:
    """The median difference of increasing times, s; 0 for a single one."""
    return int(np.median(np.diff(stamps))) if len(stamps) > 1 else 0


def latest_known(times: NDArray[np.int64], known: NDArray[np.int64], values: Floats, max_age_s: int | None) -> Floats:
    """At each time the value that became known last (``known``: increasing Unix s); NaN before the first, and where it is
    ``max_age_s`` old or older (None: the spacing of ``known``).
    """
    row = np.searchsorted(known, times, side="right") - 1
    fresh = (row >= 0) & (times - known[row] < (spacing_s(known) if max_age_s is None else max_age_s))
    found: Floats = np.where(fresh, values[row], np.nan)
    return found


def remove_basis(reference: Floats, pool_price: Floats, rows: int) -> Floats:
    """The reference price moved by the mean log gap of the ``rows`` rows before each row; NaN in the first ``rows``.

    For venues in different quote currencies (USDT against USDC.e) or a perpetual against spot: their lasting distance is
    no arbitrage. Uses earlier rows only.
    """
    if not 0 < rows < len(reference):
        raise TapeError(f"basis_rows = {rows}; accepted is 1 up to {len(reference) - 1}, below the number of rows")
    sums = np.concatenate([[0.0], np.cumsum(np.log(pool_price / reference))])
    basis = np.full(len(reference), np.nan)
    basis[rows:] = (sums[rows:-1] - sums[: -1 - rows]) / rows
    moved: Floats = reference * np.exp(basis)
    return moved


def build_tape(
    pool: Path,
    *,
    pool_columns: PoolColumns | None = None,
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
    base: str = "WETH",
    quote: str = "USDC",
    source: str = "",
) -> Tape:
    """A tape of one recorded V3 pool beside a second venue at a recorded price.

    ``second_kind`` reference: a venue that trades at the reference price up to its liquidity; v3 (or v2): a pool of that
    liquidity whose recorded price is the series. Gas is a series or one constant. ``basis_rows`` > 0 removes the mean log
    gap of that many earlier rows from the reference (``remove_basis``). The tape covers the rows that all tables know; a
    hole in a series between them is refused. Raises TapeError naming file, row, column and rule.
    """
    if (gas is None) == (gas_gwei is None):
        raise TapeError("gas: accepted is either a series or one constant in gwei")
    table = pool_minutes(pool, step_seconds, fill_gaps, start, end, pool_columns)
    times = table.index.to_numpy().astype(np.int64)
    prices = Known(as_of(times, reference), reference.value, str(reference.path))
    if gas is None:
        fees = Known(np.full(len(times), gas_gwei, dtype=np.float64))
    else:
        fees = Known(as_of(times, gas), gas.value, str(gas.path))
    return assemble_tape(
        table,
        prices,
        fees,
        pool=TapePool("pool", "v3", pool_fee_ppm),
        second=TapePool("second", second_kind, second_fee_ppm),
        second_liquidity=second_liquidity,
        step_seconds=step_seconds,
        basis_rows=basis_rows,
        base=base,
        quote=quote,
        source=source or f"{pool.name}, {reference.path.name}",
    )


@dataclass(frozen=True)
class Known:
    """Values at the rows of a grid, NaN where unknown, with the column and the table that refusals name."""

    values: Floats
    column: str = ""
    path: str = ""


def assemble_tape(
    table: pd.DataFrame,
    reference: Known,
    gas: Known,
    *,
    pool: TapePool,
    second: TapePool,
    second_liquidity: float,
    step_seconds: int,
    basis_rows: int,
    base: str,
    quote: str,
    source: str,
) -> Tape:
    """A tape from a pool's grid (index: end of each step; price, liquidity, flow_base, filled) and what was known beside it.

    Covers the rows that all know; a hole between them is refused, and a pool price far from the reference (tokens swapped).
    """
    if not 0.0 < second_liquidity < np.inf:
        raise TapeError(f"second_liquidity = {second_liquidity}; accepted is a positive number")
    times = table.index.to_numpy().astype(np.int64)
    prices, fees = reference.values, gas.values
    both = np.flatnonzero(np.isfinite(prices) & np.isfinite(fees))
    if not both.size:
        raise TapeError(f"no row of {source} has a known reference price and gas price; accepted are tables that overlap")
    rows = slice(int(both[0]), int(both[-1]) + 1)
    for known in (reference, gas):
        unknown = np.flatnonzero(np.isnan(known.values[rows]))
        if unknown.size:
            raise TapeError(
                "no value, or none that is fresh; accepted is a series without holes, or a longer max_age_s",
                known.column,
                path=known.path,
                time=int(times[rows][unknown[0]]),
            )
    table, times, prices, fees = table[rows], times[rows], prices[rows], fees[rows]
    _refuse_far(table["price"].to_numpy(dtype=np.float64), prices, reference)
    if basis_rows:
        prices = remove_basis(prices, table["price"].to_numpy(), basis_rows)
        table, times, prices, fees = (column[basis_rows:] for column in (table, times, prices, fees))
    own, depth, flow = (table[name].to_numpy(dtype=np.float64) for name in ("price", "liquidity", "flow_base"))
    return Tape(
        pools=(pool, second),
        timestamps=times,
        reference_price=prices,
        base_fee_gwei=fees,
        price=np.stack([own, prices], axis=1),
        liquidity=np.stack([depth, np.full(len(own), second_liquidity)], axis=1),
        flow_base=np.stack([flow, np.zeros(len(own))], axis=1),
        step_seconds=step_seconds,
        base=base,
        quote=quote,
        source=source,
        filled=tuple(times[table["filled"].to_numpy(dtype=bool)].tolist()),
    )


def _refuse_far(pool: Floats, reference: Floats, known: Known) -> None:
    """Refuse a pool whose price is usually more than a factor of 2 from the reference."""
    sound = (pool > 0.0) & (reference > 0.0)
    if not sound.any():
        return
    ratio = float(np.exp(np.median(np.log(pool[sound] / reference[sound]))))
    if not 0.5 <= ratio <= 2.0:
        inverse = float(np.exp(np.median(np.log(pool[sound] * reference[sound]))))
        hint = " (its inverse fits: the base is the other token)" if 0.5 <= inverse <= 2.0 else ""
        raise TapeError(
            f"the pool's price is {ratio:.3g} times the reference (median){hint}; accepted are prices within a factor of 2",
            known.column,
            path=known.path,
        )


def _moment(name: str, text: str) -> int:
    pandas = require_pandas()
    try:
        moment = pandas.Timestamp(text)
    except ValueError as error:
        raise TapeError(f"{name} = {text!r}; accepted is a UTC time such as 2023-08-14") from error
    moment = moment.tz_localize("UTC") if moment.tzinfo is None else moment.tz_convert("UTC")
    return int(moment.timestamp())
