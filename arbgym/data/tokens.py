"""Token tapes from recorded launches: single trades, candles, states of bonding curves; and what was left out of each and why.

    python -m arbgym.data tokens first300s.parquet --from swaps.parquet --quote-usd 150

What a table does not say is estimated, and the report says how:

- *Reserves* of a constant-product pool follow the price: with k = reserve * tokens fixed, reserve = sqrt(k * price). Pools that
  pump.fun curves migrate to open with the same 84.99 SOL and 206.9 M tokens and burn their LP tokens, so k is known up to what
  LP fees add (0.02 to 0.2 % of volume). Elsewhere ``reserve_quote`` says what the pool held at each token's first price.
- *Buys and sells* of a candle: the close's place in its range, (close - low) / (high - low), is the share bought; half where
  the range is a point. A candle has no trades to count, so this is an estimate of pressure, not of flow.
- *Flows* of a curve: what its reserve rose and fell by from state to state; trades that cancel between two states are unseen.
- *Large trades* are those of ``large_share`` of the reserve or more. *Known* traders are those whom the table marks.

Missing steps repeat the price without volume. A token begins with its first price and ends with its last, or at ``until_age_s``;
a silence longer than ``max_gap_s`` is a gap in the recording, not a token without trades.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.bonding_curve import (
    INITIAL_VIRTUAL_BASE,
    INITIAL_VIRTUAL_QUOTE,
    LAMPORTS_PER_SOL,
    UNITS_PER_TOKEN,
    BondingCurvePool,
)  # fmt: skip
from arbgym.data import columns as read
from arbgym.data.needs import pl
from arbgym.market.tape import TapeError
from arbgym.market.token_tape import (
    AGE_S,
    BUY,
    COLUMNS,
    HIGH,
    KNOWN_NET,
    LARGE_NET,
    LEAST_ROWS,
    LOW,
    ON_CURVE,
    PRICE,
    RESERVE,
    SELL,
    TIME_S,
    TokenTape,
)  # fmt: skip

Floats = NDArray[np.float64]
Whole = NDArray[np.int64]

MOST_ROWS = 50_000_000
_CURVE_START_SOL = INITIAL_VIRTUAL_QUOTE / LAMPORTS_PER_SOL
_CURVE_TOKENS = INITIAL_VIRTUAL_BASE / UNITS_PER_TOKEN

# what each kind of table calls its columns, first come first taken; the canonical tables' own names among them
_NAMES = {
    "trades": {
        "token": ("mint", "token"),
        "time": ("block_time", "timestamp", "time"),
        "side": ("side", "direction"),
        "quote": ("sol_amount", "quote_amount"),
        "price": ("price_sol", "price"),
        "order": ("seq", "sequence"),
        "reserve": ("quote_reserve",),
        "known": ("trader_is_known_sniper", "trader_is_known"),
        "outlier": ("price_outlier",),
        "created": ("created_time",),
    },
    "bars": {
        "token": ("mint", "token", "symbol", "pair"),
        "time": ("open_time", "timestamp", "close_time", "date", "time"),
        "open": ("open_usd", "open"),
        "high": ("high_usd", "high"),
        "low": ("low_usd", "low"),
        "price": ("close_usd", "close", "price"),
        "quote": ("volume_usd", "volume_quote"),
        "base": ("volume_base", "volume"),
        "created": ("created_time",),
    },
    "tracks": {
        "token": ("mint", "token"),
        "time": ("timestamp", "time"),
        "virtual": ("virtual_sol_reserve",),
        "age": ("age_s",),
    },
}
_NEEDS = {
    "tracks": ("token", "time", "virtual"),
    "trades": ("token", "time", "side", "quote", "price"),
    "bars": ("time", "price"),
}
KINDS = tuple(_NEEDS)


@dataclass(frozen=True)
class TokenOptions:
    """What a table may not tell.

    Args:
        step_seconds: length of a step, s; None: 1 for trades, 5 for tracks, the spacing of bars, or a multiple of it.
        quote_usd: price of SOL in USD: tables in SOL come out in USD, and pools of tables in USD get their reserves. Trades and
            curves are taken to be in SOL, candles in USD.
        reserve_quote: quote reserve at each token's first price, in the tape's currency; None: that of a migrated pump.fun pool.
        large_share: a trade of that share of the reserve is large.
        outlier_factor: prices that far off the running median are left out; 0 leaves none out. Only where the table does
            not flag outliers itself. Bars: closes that far off both neighbours.
        outlier_window: trades of the running median, the row's own and those before it.
        dust_quote: trades below it, in the table's currency, have no say in the median.
        until_age_s: tokens are followed to this age, s, in silence where nobody trades; None: to their last row.
        max_gap_s: where nothing is recorded for longer, the token ends, and what comes later is another one, NAME#2.

    Raises ValueError naming the field.
    """

    step_seconds: float | None = None
    quote_usd: float | None = None
    reserve_quote: float | None = None
    large_share: float = 0.01
    outlier_factor: float | None = None  # 2 for trades, 10 for bars
    outlier_window: int = 15
    dust_quote: float = 0.02
    until_age_s: float | None = None
    max_gap_s: float = 30 * 86_400.0

    def __post_init__(self) -> None:
        for name in ("step_seconds", "quote_usd", "reserve_quote", "until_age_s", "max_gap_s"):
            value = getattr(self, name)
            if value is not None and not (math.isfinite(value) and value > 0.0):
                raise ValueError(f"{name} = {value}; accepted is a number above 0")
        if not 0.0 < self.large_share <= 1.0:
            raise ValueError(f"large_share = {self.large_share}; accepted is above 0 up to 1")
        if self.outlier_factor is not None and not (self.outlier_factor == 0.0 or 1.0 < self.outlier_factor < math.inf):
            raise ValueError(f"outlier_factor = {self.outlier_factor}; accepted is 0 or above 1")
        if self.outlier_window < 3:
            raise ValueError(f"outlier_window = {self.outlier_window}; accepted is 3 or more")
        if not 0.0 <= self.dust_quote < math.inf:
            raise ValueError(f"dust_quote = {self.dust_quote}; accepted is 0 or more")


@dataclass
class TokenReport:
    """What became of a table: counts, what was dropped by reason, and notes on what was estimated."""

    kind: str
    rows_read: int = 0
    tokens_read: int = 0
    tokens_kept: int = 0
    rows_out: int = 0
    filled: int = 0  # steps without anything in the source
    entries: int = 0
    dropped: dict[str, int] = field(default_factory=dict)  # rows (tokens where it says so) by reason
    notes: list[str] = field(default_factory=list)

    def drop(self, reason: str, count: int) -> None:
        """Count ``count`` rows dropped for ``reason``."""
        if count:
            self.dropped[reason] = self.dropped.get(reason, 0) + int(count)

    def text(self) -> str:
        """The report as lines of text."""
        lines = [
            f"{self.kind}: {self.tokens_kept} of {self.tokens_read} tokens, {self.rows_read:,} rows read, "
            f"{self.rows_out:,} steps ({self.filled:,} without anything in the source), {self.entries:,} entries"
        ]
        lines += [f"  dropped: {count:,} {reason}" for reason, count in self.dropped.items()]
        return "\n".join(lines + [f"  {note}" for note in self.notes])


def kind_of_columns(names: list[str]) -> str | None:
    """trades, bars or tracks by a table's columns; None where they are those of neither."""
    for kind, needs in _NEEDS.items():
        if all(set(_NAMES[kind][need]) & set(names) for need in needs):
            return kind
    return None


def tokens_from_file(
    path: str | Path, kind: str | None = None, options: TokenOptions | None = None
) -> tuple[TokenTape, TokenReport]:
    """A token tape from a table in a file of any format that ``arbgym.data`` reads, and what was left out.

    ``kind`` is trades, bars or tracks; recognised from the columns without it, else by the formats of ``arbgym.data formats``.
    Raises TapeError naming file, row and column.
    """
    from arbgym.data.files import batches

    path = Path(path)
    frames = [frame for _, frame in batches(path)]
    if not frames or not sum(map(len, frames)):
        raise TapeError("an empty table; accepted is one row or more", path=str(path))
    frame = pl.concat(frames, how="vertical_relaxed")
    if kind is None and kind_of_columns(frame.columns) is None:
        frame = _canonical(path)
    try:
        return tokens_from_frame(frame, kind, options, name=path.stem)
    except TapeError as error:
        raise TapeError(error.rule, error.column, error.row, str(path), error.time) from error


def tokens_from_frame(
    frame: Any, kind: str | None = None, options: TokenOptions | None = None, name: str = "token"
) -> tuple[TokenTape, TokenReport]:
    """A token tape from a pandas, polars or Arrow table; ``name`` is the token's where the table has no column for it.

    Raises TapeError: columns missing, cells that are no numbers or times, nothing left to make a tape of.
    """
    frame, options = read.as_polars(frame), options or TokenOptions()
    kind = kind or kind_of_columns(frame.columns)
    if kind not in _NEEDS:
        accepted = "; ".join(f"{one}: " + ", ".join("|".join(_NAMES[one][need]) for need in _NEEDS[one]) for one in KINDS)
        raise TapeError(f"columns {', '.join(frame.columns)}; accepted are {accepted}" if kind is None else f"kind {kind!r}")
    if not len(frame):
        raise TapeError("an empty table; accepted is one row or more")
    report = TokenReport(kind, rows_read=len(frame))
    table = _read_table(frame, kind, name, report)
    report.tokens_read = table["token"].n_unique()
    events, step_us, quote = _BUILDERS[kind](table, options, report)
    if quote == "SOL" and options.quote_usd:
        quote = "USD"
    return _assembled(events, step_us, quote, options, report, name)


def launch_outcomes(path: str | Path) -> dict[str, float]:
    """Statistics of launches of which only the outcome is recorded (one row a token, no path: no tape can be made of them).

    Columns max_price_raw, last_price_raw, max_quote_lamports, last_quote_lamports, longest_inactivity_s. Rows with a negative
    price or reserve are dropped. Returns: tokens, dropped, quantiles of last over highest price (last_over_max_q05 ... q75),
    rugged (share whose SOL side ends below 10 % of its highest), collapsed (share that ends below 10 % of its highest price),
    median_inactivity_s. For calibrating a simulation of phases, not for replay. Raises TapeError.
    """
    from arbgym.data.files import batches

    frame = pl.concat([part for _, part in batches(Path(path))], how="vertical_relaxed")
    wanted = ("max_price_raw", "last_price_raw", "max_quote_lamports", "last_quote_lamports", "longest_inactivity_s")
    absent = read.missing(frame.columns, wanted)
    if absent:
        raise TapeError(f"missing; accepted is a table with {', '.join(wanted)}", absent[0], path=str(path))
    top, last, most, left, silent = (read.floats(frame[name]).to_numpy() for name in wanted)
    good = (top > 0.0) & (last >= 0.0) & (most > 0.0) & (left >= 0.0)
    if not good.any():
        raise TapeError("no row with positive prices and reserves", path=str(path))
    ratio = last[good] / top[good]
    found = {"tokens": float(good.sum()), "dropped": float((~good).sum())}
    found |= {f"last_over_max_q{q:02d}": float(np.quantile(ratio, q / 100)) for q in (5, 25, 50, 75)}
    found["rugged"] = float(np.mean(left[good] < 0.1 * most[good]))
    found["collapsed"] = float(np.mean(ratio < 0.1))
    found["median_inactivity_s"] = float(np.nanmedian(silent[good]))
    return found


# ---- reading ----------------------------------------------------------------------------------------------------------


def _canonical(path: Path) -> pl.DataFrame:
    from arbgym.data.describe import frames_of_file

    _, tables = frames_of_file(path)
    if "wallet_trades" in tables:
        return tables["wallet_trades"]
    if "reference_prices" in tables:
        return tables["reference_prices"].filter(pl.col("kind") == "candle")
    raise TapeError(f"a table of {', '.join(tables)}; accepted are trades, candles and states of curves", path=str(path))


def _read_table(frame: pl.DataFrame, kind: str, name: str, report: TokenReport) -> pl.DataFrame:
    """The columns that this kind uses, by our names and types, sorted; rows that say nothing dropped."""
    held: dict[str, pl.Series] = {}
    for ours, theirs in _NAMES[kind].items():
        found = next((one for one in theirs if one in frame.columns), None)
        if found is None:
            if ours in _NEEDS[kind]:
                raise TapeError(f"missing; accepted is one of {', '.join(theirs)} for {kind}", theirs[0])
            continue
        series = frame[found]
        if ours in ("token", "side"):
            held[ours] = read.names(series)
        elif ours in ("time", "created"):
            held[ours] = read.times(series).dt.timestamp("us")
        elif ours in ("known", "outlier"):
            held[ours] = read.flags(series)
        else:
            held[ours] = read.floats(series)
        if ours == "time" and (found == "close_time" or {"kind", "interval_s"} <= set(frame.columns)):
            report.notes.append(f"rows are stamped by their end ({found})")
            held["ends"] = pl.Series("ends", [True]).new_from_index(0, len(frame))
    table = pl.DataFrame([series.alias(ours) for ours, series in held.items()])
    if "token" not in table.columns:
        table = table.with_columns(pl.lit(name).alias("token"))
    table = _without(table, pl.col("token").is_null() | pl.col("time").is_null(), "rows without a token or a time", report)
    keys = ["token", "time", *(["order"] if "order" in table.columns else [])]
    places = pl.col("time") < pl.col("time").shift(1).over("token")
    unsorted = int(table.select(places.fill_null(False).sum()).item())
    if unsorted:
        report.notes.append(f"{unsorted:,} rows stood before their time and were sorted in")
    table = table.sort(keys, maintain_order=True)
    same = ["token", "order"] if "order" in table.columns else table.columns
    before = len(table)
    table = table.unique(same, keep="first", maintain_order=True)
    report.drop("rows that occur twice", before - len(table))
    return table


def _without(table: pl.DataFrame, bad: Any, reason: str, report: TokenReport) -> pl.DataFrame:
    kept = table.filter(~bad.fill_null(True))
    report.drop(reason, len(table) - len(kept))
    if not len(kept):
        raise TapeError(f"no row left: {reason} ({len(table):,} of {len(table):,})")
    return kept


# ---- the three kinds: events of (token, moment known, price, high, low, bought, sold, reserve, large, known, on_curve, age) ----

Events = dict[str, Any]


def _from_trades(table: pl.DataFrame, options: TokenOptions, report: TokenReport) -> tuple[Events, int, str]:
    table = _without(table, ~(pl.col("price") > 0.0), "trades without a price above 0", report)
    table = _without(table, ~(pl.col("quote") >= 0.0), "trades without an amount of 0 or more", report)
    table = _without(table, ~pl.col("side").is_in(["buy", "sell"]), "trades that neither buy nor sell", report)
    if "outlier" in table.columns:
        table = _without(table, pl.col("outlier").fill_null(False), "trades flagged as price outliers", report)
    elif options.outlier_factor != 0.0:
        table = _without_outliers(table, options, report)
    if "created" in table.columns:
        table = _without(table, pl.col("time") < pl.col("created"), "trades before the launch", report)
    scale = options.quote_usd or 1.0
    price = table["price"].to_numpy() * scale
    signed = np.where((table["side"] == "buy").to_numpy(), 1.0, -1.0) * table["quote"].to_numpy() * scale
    if "reserve" in table.columns and not table["reserve"].is_null().any():
        reserve = table["reserve"].to_numpy() * scale
    else:
        reserve = _estimated(table["token"], price, scale, options, report)
    large = np.abs(signed) >= options.large_share * np.maximum(reserve, 1e-300)
    report.notes.append(f"{int(large.sum()):,} trades are large: {options.large_share:.2%} of the reserve or more")
    known = table["known"].fill_null(False).to_numpy() if "known" in table.columns else np.zeros(len(table), np.bool_)
    first = pl.col("time").first().over("token")
    launch = pl.min_horizontal(pl.col("created").first().over("token"), first) if "created" in table.columns else first
    launched = table.select(launch).to_series().to_numpy()
    events = {
        "token": table["token"], "time": table["time"].to_numpy(), "launch": launched, "start": launched,
        "price": price, "high": price, "low": price, "buy": np.maximum(signed, 0.0), "sell": np.maximum(-signed, 0.0),
        "reserve": reserve, "large": np.where(large, signed, 0.0), "known": np.where(known, signed, 0.0),
        "curve": np.zeros(len(table)),
    }  # fmt: skip
    return events, _microseconds(options.step_seconds or 1.0), "SOL"


def _from_bars(table: pl.DataFrame, options: TokenOptions, report: TokenReport) -> tuple[Events, int, str]:
    in_usd = "quote" in table.columns
    table = _without(table, ~(pl.col("price") > 0.0), "bars without a close above 0", report)
    for name in ("open", "high", "low"):
        if name in table.columns:
            table = _without(table, ~(pl.col(name) > 0.0), f"bars without a price above 0 ({name})", report)
    volume = (
        (pl.col("quote") if in_usd else pl.col("base") * pl.col("price")) if in_usd or "base" in table.columns else pl.lit(0.0)
    )
    table = table.with_columns(volume.alias("volume"))
    table = _without(table, ~(pl.col("volume") >= 0.0), "bars without a volume of 0 or more", report)
    before = len(table)
    table = table.unique(["token", "time"], keep="last", maintain_order=True)
    report.drop("bars of a time that another bar has", before - len(table))
    moves = table.select(pl.col("time").diff().over("token")).to_series().drop_nulls()
    if not len(moves):
        raise TapeError("no token has two bars; accepted is a table with some")
    length = int(moves.mode().min())  # type: ignore[arg-type]
    step = _microseconds(options.step_seconds) if options.step_seconds else length
    if step % length:
        raise TapeError(f"step of {step / 1e6:g} s; accepted are multiples of the bars' {length / 1e6:g} s")
    factor = 10.0 if options.outlier_factor is None else options.outlier_factor
    if factor:
        table = _without(table, _isolated(factor), f"closes {factor:g}-fold off both neighbours", report)
    price = table["price"].to_numpy()
    opened = table.select(pl.col("open") if "open" in table.columns else pl.col("price").shift(1).over("token")).to_series()
    opened_at = opened.fill_null(table["price"]).to_numpy()
    ends = np.maximum(opened_at, price), np.minimum(opened_at, price)
    high = np.maximum(table["high"].to_numpy(), ends[0]) if "high" in table.columns else ends[0]
    low = np.minimum(table["low"].to_numpy(), ends[1]) if "low" in table.columns else ends[1]
    bought = np.where(high > low, (price - low) / np.maximum(high - low, 1e-300), 0.5)
    report.notes.append("buys and sells are estimated from where each bar closes in its range")
    if "quote" not in table.columns and "base" not in table.columns:
        report.notes.append("the table has no volumes: they are 0")
    flow = table["volume"].to_numpy()
    start = table["time"].to_numpy() - (length if "ends" in table.columns else 0)
    # known at its end; a microsecond before it, so that the step that ends there holds it
    first = pl.Series(start).rename("s").to_frame().with_columns(token=table["token"])
    base = first.select(pl.col("s").first().over("token")).to_series().to_numpy()
    created = table["created"].to_numpy() if "created" in table.columns else base
    launch = np.where(created <= base + length, created, base)
    events = {
        "token": table["token"], "time": start + length - 1, "launch": launch, "start": base, "price": price, "high": high,
        "low": low, "buy": flow * bought, "sell": flow * (1.0 - bought), "large": np.zeros(len(table)),
        "reserve": _estimated(table["token"], price, options.quote_usd, options, report, in_usd=True),
        "known": np.zeros(len(table)), "curve": np.zeros(len(table)),
    }  # fmt: skip
    return events, step, "USD"


def _from_tracks(table: pl.DataFrame, options: TokenOptions, report: TokenReport) -> tuple[Events, int, str]:
    table = _without(table, ~(pl.col("virtual") >= _CURVE_START_SOL), "states below the 30 virtual SOL of a new curve", report)
    scale = options.quote_usd or 1.0
    virtual = table["virtual"].to_numpy()
    change = table.select(pl.col("virtual").diff().over("token").fill_null(0.0)).to_series().to_numpy()
    full = BondingCurvePool()
    full.swap(amount_out=full.real_base, buy=True)
    time = table["time"].to_numpy()
    first = pl.col("time").first().over("token")
    start = table.select(first).to_series().to_numpy()
    age_us = np.zeros(len(table))
    if "age" in table.columns:
        age_us = table.select(pl.col("age").fill_null(0.0).first().over("token")).to_series().to_numpy() * 1e6
    price = virtual * virtual / (_CURVE_START_SOL * _CURVE_TOKENS) * scale
    report.notes.append("flows are changes of the reserve between states; large and known traders are not recorded")
    events = {
        "token": table["token"], "time": time, "launch": start - np.maximum(age_us, 0.0).astype(np.int64), "start": start,
        "price": price, "high": price, "low": price, "buy": np.maximum(change, 0.0) * scale,
        "sell": np.maximum(-change, 0.0) * scale, "reserve": virtual * scale, "large": np.zeros(len(table)),
        "known": np.zeros(len(table)), "curve": (virtual < full.virtual_quote / LAMPORTS_PER_SOL).astype(np.float64),
    }  # fmt: skip
    return events, _microseconds(options.step_seconds or 5.0), "SOL"


_BUILDERS: dict[str, Callable[[pl.DataFrame, TokenOptions, TokenReport], tuple[Events, int, str]]] = {
    "trades": _from_trades,
    "bars": _from_bars,
    "tracks": _from_tracks,
}


def _without_outliers(table: pl.DataFrame, options: TokenOptions, report: TokenReport) -> pl.DataFrame:
    factor = 2.0 if options.outlier_factor is None else options.outlier_factor
    said = pl.when(pl.col("quote") >= options.dust_quote).then(pl.col("price"))
    median = said.rolling_median(options.outlier_window, min_samples=1).forward_fill().over("token")
    off = (pl.col("price") > factor * median) | (pl.col("price") * factor < median)
    reason = f"trades {factor:g}-fold off the running median of {options.outlier_window}"
    return _without(table, off.fill_null(False), reason, report)


def _isolated(factor: float) -> Any:
    before, after = (pl.col("price") / pl.col("price").shift(shift).over("token") for shift in (1, -1))
    spike, dip = (before > factor) & (after > factor), (before * factor < 1.0) & (after * factor < 1.0)
    return (spike | dip).fill_null(False)


def _estimated(
    tokens: pl.Series, price: Floats, sol: float | None, options: TokenOptions, report: TokenReport, in_usd: bool = False
) -> Floats:
    """Quote reserve of a constant-product pool whose liquidity stays, from its price in the tape's currency."""
    if options.reserve_quote is not None:
        first = pl.DataFrame({"token": tokens, "price": price}).select(pl.col("price").first().over("token")).to_series()
        report.notes.append(f"reserves are assumed: {options.reserve_quote:g} at each token's first price, then with its root")
        return np.asarray(options.reserve_quote * np.sqrt(price / first.to_numpy()), dtype=np.float64)
    if sol is None:
        raise TapeError(
            "the table does not say what its pools hold; accepted is --reserve-quote (at the first price), or --quote-usd "
            "(price of SOL) for pools of pump.fun tokens"
        )
    curve = BondingCurvePool()
    curve.swap(amount_out=curve.real_base, buy=True)
    pool = curve.migrate()
    k = pool.reserve0 / UNITS_PER_TOKEN * (pool.reserve1 / LAMPORTS_PER_SOL)
    report.notes.append("reserves are estimated from prices as those of migrated pump.fun pools")
    return np.asarray(np.sqrt(k * price * sol), dtype=np.float64)


def _microseconds(seconds: float) -> int:
    step = round(seconds * 1e6)
    if step < 1:
        raise TapeError(f"step_seconds = {seconds}; accepted is a microsecond or more")
    return step


# ---- onto the grid ------------------------------------------------------------------------------------------------------


def _assembled(
    events: Events, step_us: int, quote: str, options: TokenOptions, report: TokenReport, source: str
) -> tuple[TokenTape, TokenReport]:
    tokens, times = events.pop("token").to_numpy(), events["time"]
    other = tokens[1:] != tokens[:-1]
    gap = ~other & (np.diff(times) > options.max_gap_s * 1e6)
    if gap.any():
        report.notes.append(f"{int(gap.sum())} gaps longer than {options.max_gap_s:g} s: what follows is a token of its own")
    edges = np.concatenate([[0], np.flatnonzero(other | gap) + 1, [len(tokens)]])
    names: list[str] = []
    parts, starts, short, piece = [], [0], 0, 1
    for a, b in pairwise(edges.tolist()):
        piece = piece + 1 if a and gap[a - 1] else 1
        rows = _gridded({name: column[a:b] for name, column in events.items()}, step_us, options, report)
        if len(rows) < LEAST_ROWS:
            short += 1
            continue
        names.append(str(tokens[a]) if piece == 1 else f"{tokens[a]}#{piece}")
        parts.append(rows)
        starts.append(starts[-1] + len(rows))
        if starts[-1] > MOST_ROWS:
            raise TapeError(f"more than {MOST_ROWS:,} steps; accepted are fewer: a longer --step-seconds")
    report.drop(f"tokens of fewer than {LEAST_ROWS} steps (tokens, not rows)", short)
    if not parts:
        raise TapeError(f"no token has {LEAST_ROWS} steps of {step_us / 1e6:g} s; accepted is a table with one")
    tape = TokenTape(np.concatenate(parts), np.array(starts, np.int64), tuple(names), step_us / 1e6, quote=quote, source=source)
    report.tokens_kept, report.rows_out, report.entries = len(names), len(tape.rows), len(tape.entries)
    return tape, report


def _gridded(events: Events, step_us: int, options: TokenOptions, report: TokenReport) -> Floats:
    """One token's rows: from the step of its first price on, each step's events together, silent steps filled."""
    start, launch = int(events["start"][0]), int(events["launch"][0])
    place = (events["time"] - start) // step_us
    place, base = place - place[0], start + int(place[0]) * step_us
    count = int(place[-1]) + 1
    if options.until_age_s is not None:
        count = max(0, int((launch + options.until_age_s * 1e6 - base) // step_us))
        events = {name: column[place < count] for name, column in events.items()}
        place = place[place < count]
    if count < LEAST_ROWS or count > MOST_ROWS:
        if count > MOST_ROWS:
            raise TapeError(f"{count:,} steps of one token; accepted are up to {MOST_ROWS:,}: a longer --step-seconds")
        return np.empty((0, len(COLUMNS)))
    rows = np.zeros((count, len(COLUMNS)))
    seen = np.flatnonzero(np.diff(place, append=count))  # the last event of each step that has one
    last = np.zeros(count, np.int64)
    last[place[seen]] = seen
    last = np.maximum.accumulate(last)
    known_us = base + (np.arange(count, dtype=np.int64) + 1) * step_us
    rows[:, TIME_S], rows[:, AGE_S] = known_us / 1e6, (known_us - launch) / 1e6
    for column, name in ((PRICE, "price"), (RESERVE, "reserve"), (ON_CURVE, "curve")):
        rows[:, column] = events[name][last]
    rows[:, HIGH] = rows[:, LOW] = rows[:, PRICE]
    np.maximum.at(rows[:, HIGH], place, events["high"])
    np.minimum.at(rows[:, LOW], place, events["low"])
    for column, name in ((BUY, "buy"), (SELL, "sell"), (LARGE_NET, "large"), (KNOWN_NET, "known")):
        np.add.at(rows[:, column], place, events[name])
    report.filled += count - len(seen)
    return rows
