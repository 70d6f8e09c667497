"""What tables hold: spans, gaps, units, volatility, row counts, as text and as a picture."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from arbgym.data import files
from arbgym.data.importer import Options, canonical_batches
from arbgym.data.needs import pl
from arbgym.data.store import Store
from arbgym.data.tables import TABLES, Table
from arbgym.data.tape_file import MAPPED

SERIES = {
    "reference_prices": ("venue", "symbol", "kind", "interval_s"),
    "swaps": ("chain", "pool"),
    "liquidity_events": ("chain", "pool", "event"),
    "pool_states": ("chain", "pool"),
    "blocks": ("chain",),
    "opportunities": ("source", "chain"),
    "wallet_trades": ("chain", "venue"),
    "lending_rates": ("chain", "market"),
    "tokens": ("chain",),
    "pools": ("chain", "protocol"),
}
_VALUE = {"blocks": "base_fee_gwei", "lending_rates": "variable_borrow_rate", "opportunities": "edge_bps"}
_YEAR_S = 365.25 * 86_400
_MOST = 12


@dataclass(frozen=True)
class Described:
    """One table: ``series`` has a row for each of its series, the largest first (see the columns' names for units)."""

    table: Table
    rows: int
    series: pl.DataFrame
    filled: dict[str, float]  # share of rows that have a value, by column


def describe_frame(table: Table, frame: pl.LazyFrame) -> Described:
    """Spans, spacing, gaps and volatility of every series of a canonical table.

    A gap is a spacing of more than 1.5 times the interval that the rows state, or else of 10 times the median one.
    Volatility is of the log price between rows without a gap, in bps per row and in per cent a year.
    """
    by = list(SERIES[table.name])
    names = {column.name for column in table.columns}
    value = "price" if "price" in names else _VALUE.get(table.name)
    rows = int(frame.select(pl.len()).collect().item())
    shares = frame.select(pl.all().is_not_null().mean()).collect()
    filled = {name: float(shares[name][0]) for name in shares.columns} if rows else {}
    if not table.time:
        return Described(
            table, rows, frame.group_by(by).agg(pl.len().alias("rows")).sort("rows", descending=True).collect(), filled
        )
    time = pl.col(table.time)
    step = time.diff().dt.total_microseconds() / 1e6
    ordered = frame.sort([*by, table.time]).with_columns(step.over(by).alias("_step"))
    figures = [
        pl.len().alias("rows"),
        time.min().alias("first"),
        time.max().alias("last"),
        pl.col("_step").filter(pl.col("_step") > 0).median().alias("spacing_s"),
        pl.col("_step").max().alias("longest_gap_s"),
    ]
    if "interval_s" in names and "interval_s" not in by:
        figures.append(pl.col("interval_s").median().alias("_interval"))
    stated = pl.col("interval_s").cast(pl.Float64) if "interval_s" in names else pl.lit(0.0)
    typical = pl.col("_step").filter(pl.col("_step") > 0).median().over(by)
    limit = pl.when(stated > 0).then(1.5 * stated).otherwise(10.0 * typical)
    ordered = ordered.with_columns((pl.col("_step") > limit).alias("_gap"))
    figures += [
        pl.col("_gap").sum().alias("gaps"),
        pl.col("_step").filter(pl.col("_gap")).sum().alias("in_gaps_s"),
    ]
    if value == "price":
        moves = (pl.col("price").log().diff()).over(by).alias("_move")
        ordered = ordered.with_columns(moves).with_columns(pl.when(~pl.col("_gap")).then(pl.col("_move")).alias("_move"))
        figures += [
            pl.col("price").drop_nulls().first().alias("first_price"),
            pl.col("price").drop_nulls().last().alias("last_price"),
            (pl.col("_move").std() * 1e4).alias("move_bps"),
            ((pl.col("_move") ** 2).sum() / pl.col("_step").filter(pl.col("_move").is_not_null()).sum()).alias("_variance"),
        ]
    elif value is not None:
        of = pl.coalesce(value, "gas_price_gwei") if value == "base_fee_gwei" else pl.col(value)
        figures += [of.quantile(share).alias(f"{value}_p{share * 100:g}") for share in (0.05, 0.5, 0.95)]
    series = (
        ordered.group_by(by).agg(figures).sort(["rows", *by], descending=[True, *(False for _ in by)], nulls_last=True).collect()
    )
    if "_variance" in series.columns:
        yearly = (pl.col("_variance") * _YEAR_S).sqrt() * 100.0
        series = series.with_columns(yearly.alias("volatility_pct_a_year")).drop("_variance")
    return Described(table, rows, series.drop("_interval", strict=False), filled)


def describe_store(path: str | Path) -> dict[str, Described]:
    """Every table of a store."""
    store = Store(path)
    return {name: describe_frame(TABLES[name], store.scan(name)) for name in store.tables()}


def frames_of_file(
    path: str | Path, options: Options | None = None, reader: str | None = None
) -> tuple[str, dict[str, pl.DataFrame]]:
    """What the format was recognised as, and the canonical tables that the file holds, whole in memory. Raises TapeError."""
    recognised = ""
    parts: dict[str, list[pl.DataFrame]] = {}
    for title, tables in canonical_batches(Path(path), options or Options(), reader):
        for name, frame in tables.items():
            parts.setdefault(name, []).append(frame)
        recognised = title
    return recognised, {name: pl.concat(frames) for name, frames in parts.items()}


def text(described: Described) -> str:
    """A description as lines for people."""
    table, series = described.table, described.series
    lines = [f"{table.name}: {described.rows:,} rows, {len(series)} series ({', '.join(SERIES[table.name])})"]
    for row in series.head(_MOST).iter_rows(named=True):
        lines.append("  " + " ".join(str(row[name]) for name in SERIES[table.name]) + f": {row['rows']:,} rows{_figures(row)}")
    if len(series) > _MOST:
        lines.append(f"  ... and {len(series) - _MOST} more")
    units = []
    for column in table.columns:
        share = described.filled.get(column.name, 0.0)
        if share > 0 and column.name != "source":
            units.append(f"{column.name}{f' [{column.unit}]' if column.unit else ''}{f' {share:.0%}' if share < 1 else ''}")
    lines.append("  columns: " + ", ".join(units))
    return "\n".join(lines)


def _figures(row: dict[str, Any]) -> str:
    said = ""
    if row.get("first") is not None:
        said += f", {row['first']:%Y-%m-%d %H:%M:%S} to {row['last']:%Y-%m-%d %H:%M:%S}"
    elif "first" in row:
        said += ", no times"
    if row.get("spacing_s"):
        said += f", every {row['spacing_s']:g} s"
        count = row.get("gaps") or 0
        said += (
            f", {count} gaps ({_length(row['in_gaps_s'])} in all, longest {_length(row['longest_gap_s'])})"
            if count
            else ", no gap"
        )
    if row.get("first_price") is not None:
        said += f", price {row['first_price']:.6g} to {row['last_price']:.6g}"
    if row.get("move_bps") is not None:
        said += f", moves {row['move_bps']:.2f} bps a row"
        if row.get("volatility_pct_a_year") is not None:
            said += f" ({row['volatility_pct_a_year']:.3g} % a year)"
    quantiles = [(name, value) for name, value in row.items() if name.endswith(("_p5", "_p50", "_p95")) and value is not None]
    if quantiles:
        said += f", {quantiles[0][0].rsplit('_', 1)[0]} {', '.join(f'{value:.4g}' for _, value in quantiles)} (5, 50, 95 %)"
    return said


def _length(seconds: float) -> str:
    for unit, length in (("d", 86_400.0), ("h", 3_600.0), ("min", 60.0)):
        if seconds >= 2 * length:
            return f"{seconds / length:.1f} {unit}"
    return f"{seconds:g} s"


def is_tape(path: Path) -> bool:
    """Whether a file is a tape: its description stands in the Parquet metadata, or in the first line of the CSV."""
    if path.is_dir():
        return path.suffix == MAPPED
    kind = files.kind_of(path)
    if kind == ".parquet":
        return b"arbgym.tape" in files.parquet_metadata(path)
    if path.suffix == ".csv":
        with path.open("rb") as file:
            return file.read(3) == b"# {"
    return False


__all__ = ["Described", "describe_frame", "describe_store", "frames_of_file", "is_tape", "text"]
