"""Pictures of tables and tapes: prices, when there are rows and when there are none, gaps."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from arbgym.data.describe import SERIES, Described
from arbgym.data.needs import pl
from arbgym.market.tape import Tape, TapeError

_MOST = 6
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00")  # Okabe and Ito's, apart for everybody
_POINTS = 4_000
_EDGES = np.logspace(-3, 9, 97)  # s, 8 bins per decade


def _figure(path: Path, panels: int) -> Any:
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError('--plot needs matplotlib: pip install "arbgym[data]"') from error
    if path.suffix not in (".png", ".svg"):
        raise TapeError(f"suffix {path.suffix!r}; accepted are .png and .svg", path=str(path))
    figure = Figure(figsize=(10, 2.7 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _grid(axes: Any) -> None:
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)


def draw_tables(frames: Mapping[str, pl.LazyFrame], described: Mapping[str, Described], path: Path) -> None:
    """Write a picture: prices of the longest series, rows per day of each table, and how far rows are apart."""
    figure = _figure(path, 3)
    prices, rows, gaps = figure.subplots(3, 1)
    priced = [
        (name, row)
        for name in frames
        if "move_bps" in described[name].series.columns
        for row in described[name].series.head(_MOST).iter_rows(named=True)
        if row["move_bps"] is not None
    ]
    priced = sorted(priced, key=lambda pair: -pair[1]["rows"])[:_MOST]
    for colour, (name, row) in zip(_COLOURS, priced, strict=False):
        by = SERIES[name]
        chosen = frames[name].filter(*[pl.col(part).eq_missing(pl.lit(row[part])) for part in by])
        series = chosen.filter(pl.col("price").is_not_null()).select("timestamp", "price").sort("timestamp").collect()
        label = " ".join(_short(str(row[part])) for part in by)
        every = max(1, len(series) // _POINTS)
        thin = series.gather_every(every)
        shown = (thin["price"] / series["price"][0]).to_numpy().copy()
        apart = np.diff(thin["timestamp"].dt.epoch("us").to_numpy(), prepend=np.nan)
        shown[apart > 20 * np.nanmedian(apart)] = np.nan  # no line across a gap
        prices.plot(thin["timestamp"], shown, color=colour, lw=1, label=label)
        steps = series["timestamp"].diff().dt.total_microseconds().drop_nulls().to_numpy() / 1e6
        counts, _ = np.histogram(steps, bins=_EDGES)
        gaps.stairs(counts, _EDGES, color=colour, label=label, lw=1.4)
    prices.set(ylabel="price, first = 1", title="Prices of the longest series")
    for colour, name in zip(_COLOURS * 2, [name for name in frames if described[name].table.time], strict=False):
        days = frames[name].filter(pl.col("timestamp").is_not_null()).group_by(pl.col("timestamp").dt.truncate("1d")).len()
        counted = days.sort("timestamp").collect()
        if len(counted):
            rows.plot(counted["timestamp"], counted["len"], "o", ms=3, color=colour, label=name)
    rows.set(ylabel="rows a day", yscale="log", title="When there are rows")
    gaps.set(xlabel="s to the next row", ylabel="rows", xscale="log", yscale="log", title="How far rows are apart")
    for axes in (prices, rows, gaps):
        _grid(axes)
        if axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8, loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False)
    figure.savefig(path, dpi=110)


def draw_tape(tape: Tape, path: Path) -> None:
    """Write a picture of a tape: prices, each pool's gap to the reference, and the base fee."""
    figure = _figure(path, 3)
    prices, gaps, fees = figure.subplots(3, 1, sharex=True)
    times = tape.timestamps.astype("datetime64[s]")
    every = max(1, len(times) // _POINTS)
    prices.plot(times[::every], tape.reference_price[::every], color="0.3", lw=1.2, label="reference")
    for k, pool in enumerate(tape.pools):
        colour = _COLOURS[k % len(_COLOURS)]
        prices.plot(times[::every], tape.price[::every, k], color=colour, lw=0.9, label=pool.name)
        gap = np.log(tape.price[:, k] / tape.reference_price) * 1e4
        gaps.plot(times[::every], gap[::every], color=colour, lw=0.8, label=pool.name)
    fees.plot(times[::every], tape.base_fee_gwei[::every], color=_COLOURS[2], lw=0.9)
    prices.set(ylabel=f"{tape.quote} per {tape.base}", title="Prices")
    gaps.set(ylabel="bps", title="Gap to the reference price")
    fees.set(ylabel="gwei", title="Base fee")
    for axes in (prices, gaps, fees):
        _grid(axes)
    prices.legend(fontsize=8, frameon=False)
    gaps.legend(fontsize=8, frameon=False)
    figure.savefig(path, dpi=110)


def _short(text: str) -> str:
    return f"{text[:6]}..{text[-4:]}" if len(text) > 20 else text
