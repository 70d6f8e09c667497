"""The store: a folder of Parquet parts, one sub-folder per canonical table and UTC day, for anybody's polars or DuckDB.

    STORE/swaps/2025-07-01/3f0c....parquet        rows without a time lie in STORE/TABLE/undated/
    STORE/_progress/....json                      how far a resumable source has come

A part is written beside its place and renamed into it, so a reader or a crash sees it whole or not at all. Parts never
change: what replaces parts names them in its own metadata (``arbgym.replaces``), and from that moment they do not count, whether
or not the process lived to delete them. One writer at a time holds ``STORE/.lock``.
"""

from __future__ import annotations

import hashlib
import json
import os
import uuid
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pyarrow import parquet

from arbgym.data import agree
from arbgym.data.columns import Moment, moment
from arbgym.data.needs import filelock, pl, pyarrow
from arbgym.data.rules import ROW, check, conform, table_named
from arbgym.data.tables import TABLES, Table, arrow_schema
from arbgym.market.tape import TapeError

As = Literal["pandas", "polars", "arrow"]
_REPLACES = b"arbgym.replaces"
_UNDATED = "undated"
_SMALL_ROWS, _MOST_SMALL = 20_000, 32  # a day with more small parts than that gets them merged
_GROUP_ROWS = 131_072


@dataclass(frozen=True)
class Written:
    """What an append did: rows that were new, rows that the store had already, and rows that took another's place."""

    new: int = 0
    duplicates: int = 0
    replaced: int = 0

    def __add__(self, other: Written) -> Written:
        return Written(self.new + other.new, self.duplicates + other.duplicates, self.replaced + other.replaced)


@dataclass(frozen=True)
class _Part:
    path: Path
    rows: int
    replaces: tuple[str, ...]
    ranges: dict[str, tuple[Any, Any]]  # of the columns without nulls, for pruning


class Store:
    """A store at ``path``, made when something is first written. Raises TapeError where a store cannot be."""

    def __init__(self, path: str | Path) -> None:
        self.path = Path(path)
        if self.path.exists() and not self.path.is_dir():
            raise TapeError("a file; accepted is the folder of a store", path=str(path))
        self._known: dict[Path, _Part] = {}

    def tables(self) -> list[str]:
        """Names of the tables that hold rows."""
        return [name for name in TABLES if self._parts(name)]

    def rows(self, table: str) -> int:
        """Number of rows of a table."""
        return sum(part.rows for part in self._parts(table_named(table).name))

    def parts(self, table: str) -> list[Path]:
        """The Parquet files that hold a table now."""
        return [part.path for part in self._parts(table_named(table).name)]

    def append(self, table: str, rows: Any, *, source: str, replace: bool = False, keep: bool = False) -> Written:
        """Add rows (pandas, polars or Arrow, with the table's columns); those that the store has already are not added again.

        A row whose key is known but whose values differ (another transaction hash after a reorg, another source) raises a
        TapeError naming both, and nothing is written; with ``replace`` the new row takes its place, with ``keep`` the old stays.
        """
        if replace and keep:
            raise TapeError("replace and keep; accepted is one of the two")
        kind = table_named(table)
        frame = conform(kind, rows, source=source)
        if ROW not in frame.columns:
            frame = frame.with_row_index(ROW)
        check(kind, frame)
        return self.append_checked(table, frame, replace=replace, keep=keep)

    def append_checked(self, table: str, frame: pl.DataFrame, *, replace: bool = False, keep: bool = False) -> Written:
        """``append`` for rows that ``rules.conform`` and ``rules.check`` have been over, with row numbers in ``_row``."""
        kind = table_named(table)
        frame, repeated, outvoted = agree.within(kind, frame, "new" if replace else "old" if keep else "")
        with self._lock():
            pairs = self._meeting(kind, frame)
            apart = agree.apart(kind, pairs)
            if len(apart) and not (replace or keep):
                raise agree.conflict(kind, apart, str(self.path / table))
            gone = len(apart) if replace else 0
            if gone:
                self._rewrite(kind, agree.keys(kind, apart))
                pairs = pairs.join(apart.select(ROW), on=ROW, how="anti")
            frame = frame.join(pairs.select(ROW), on=ROW, how="anti", maintain_order="left").drop(ROW)
            self._merge_small(kind, self._write(kind, frame))
        return Written(len(frame) - gone, repeated + len(pairs), outvoted + gone)

    def delete(self, table: str, *, chain: str, from_block: int, pool: str | None = None) -> int:
        """Remove a chain's rows from a block on (after a reorg); the number of rows removed."""
        kind = table_named(table)
        if "block_number" not in kind.names:
            raise TapeError(f"{table} has no block numbers; accepted are tables with block_number")
        chosen = (pl.col("chain") == chain) & (pl.col("block_number") >= from_block)
        if pool is not None:
            chosen = chosen & (pl.col("pool") == pool)
        with self._lock():
            reached = [part for part in self._parts(table) if part.ranges.get("block_number", (0, from_block))[1] >= from_block]
            return sum(self._rewrite_part(kind, part, ~chosen.fill_null(False)) for part in reached)

    def remove(self, table: str, rows: Any) -> int:
        """Remove the rows with these keys whose hash is the same (logs that a node took back); the number removed."""
        kind = table_named(table)
        frame = conform(kind, rows, source="")
        with self._lock():
            pairs = _same_hash(kind, self._meeting(kind, frame))
            return self._rewrite(kind, agree.keys(kind, pairs))

    def held(self, table: str, rows: Any) -> pl.Series:
        """For each row whether the store has one of its key (and hash, where both tell one)."""
        kind = table_named(table)
        frame = conform(kind, rows, source="")
        numbers = _same_hash(kind, self._meeting(kind, frame))[agree.NUMBER]
        return pl.Series("held", range(len(frame)), numbers.dtype).is_in(numbers.implode())

    def scan(self, table: str, start: Moment | None = None, end: Moment | None = None, **equals: Any) -> pl.LazyFrame:
        """A polars LazyFrame of the rows from ``start`` up to before ``end`` (UTC) whose columns equal the values given."""
        kind = table_named(table)
        low, high = moment("start", start), moment("end", end)
        chosen = [part.path for part in self._parts(table) if _within(part, kind.time, low, high)]
        if not chosen:
            return pl.DataFrame(arrow_schema(kind).empty_table()).lazy()
        frame = pl.scan_parquet(chosen)
        for name, value in equals.items():
            if name not in kind.names:
                raise TapeError(f"no column of {table}; accepted are {', '.join(kind.names)}", name)
            frame = frame.filter(pl.col(name).is_in(value) if isinstance(value, list | tuple | set) else pl.col(name) == value)
        if low is not None:
            frame = frame.filter(pl.col(kind.time) >= low)
        if high is not None:
            frame = frame.filter(pl.col(kind.time) < high)
        return frame

    def read(
        self,
        table: str,
        start: Moment | None = None,
        end: Moment | None = None,
        as_: As = "pandas",
        columns: Sequence[str] | None = None,
        **equals: Any,
    ) -> Any:
        """The rows of ``scan`` as pandas, polars or Arrow, sorted by time, then block and place in it or the rest of the key."""
        kind = table_named(table)
        order = [name for name in (kind.time, "block_number", "log_index", *kind.key) if name in kind.names]
        frame = self.scan(table, start, end, **equals).sort(list(dict.fromkeys(order)), maintain_order=True)
        if columns is not None:
            unknown = [name for name in columns if name not in kind.names]
            if unknown:
                raise TapeError(f"no column of {table}; accepted are {', '.join(kind.names)}", unknown[0])
            frame = frame.select(columns)
        return given_back(frame.collect(), kind, as_)

    def progress(self, source: str) -> dict[str, Any] | None:
        """What ``set_progress`` last said about a source; None if nothing."""
        path = self._progress_path(source)
        if not path.is_file():
            return None
        held: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))["progress"]
        return held

    def set_progress(self, source: str, progress: dict[str, Any]) -> None:
        """Remember how far a source has come; call it after the rows it speaks of are appended."""
        path = self._progress_path(source)
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_suffix(f".{os.getpid()}.tmp")
        beside.write_text(json.dumps({"source": source, "progress": progress}), encoding="utf-8")
        beside.replace(path)

    # parts on disk

    def _progress_path(self, source: str) -> Path:
        return self.path / "_progress" / f"{hashlib.sha256(source.encode()).hexdigest()[:24]}.json"

    def _lock(self) -> filelock.BaseFileLock:
        self.path.mkdir(parents=True, exist_ok=True)
        return filelock.FileLock(self.path / ".lock")

    def _parts(self, table: str) -> list[_Part]:
        """The parts that count, by path."""
        paths = sorted((self.path / table).glob("*/*.parquet"))
        for path in paths:
            if path not in self._known:
                self._known[path] = _read_footer(path)
        dead = {name for path in paths for name in self._known[path].replaces}
        return [self._known[path] for path in paths if path.name not in dead]

    def _meeting(self, kind: Table, frame: pl.DataFrame) -> pl.DataFrame:
        """The rows of ``frame`` whose key is stored, each beside the stored row (``agree.pairs``)."""
        column = agree.pruning_column(kind)
        bounds = None
        if column is not None and len(frame) and not frame[column].null_count():
            bounds = (frame[column].min(), frame[column].max())
        held = [part for part in self._parts(kind.name) if bounds is None or _reaches(part, str(column), bounds)]
        if not held:
            return agree.pairs(kind, frame, frame.select(kind.names).clear())
        rows = pl.scan_parquet([part.path for part in held])
        if bounds is not None and column is not None:
            rows = rows.filter(pl.col(column).is_between(*bounds) | pl.col(column).is_null())
        return agree.pairs(kind, frame, rows.collect().select(kind.names))

    def _rewrite(self, kind: Table, keys: pl.DataFrame) -> int:
        """Take the rows with these keys out of the parts that hold them."""
        removed = 0
        for part in self._parts(kind.name):
            stored = pl.read_parquet(part.path)
            left = agree.keyed(kind, stored).join(keys, on=agree.key_names(kind), how="anti", nulls_equal=True)
            if len(left) < len(stored):
                self._replace_parts(kind, [part], left.select(kind.names))
                removed += len(stored) - len(left)
        return removed

    def _rewrite_part(self, kind: Table, part: _Part, kept: pl.Expr) -> int:
        stored = pl.read_parquet(part.path)
        left = stored.filter(kept)
        if len(left) < len(stored):
            self._replace_parts(kind, [part], left)
        return len(stored) - len(left)

    def _write(self, kind: Table, frame: pl.DataFrame) -> list[Path]:
        """Write a part per day; the days' folders."""
        if not len(frame):
            return []
        folders = []
        days = frame[kind.time].dt.date().unique().to_list() if kind.time else [None]
        for day in sorted(days, key=str):
            rows = frame
            if len(days) > 1:
                rows = frame.filter(pl.col(kind.time).dt.date().eq_missing(pl.lit(day, pl.Date)))
            folders.append(self.path / kind.name / (_UNDATED if day is None else str(day)))
            self._write_part(kind, folders[-1], rows, ())
        return folders

    def _write_part(self, kind: Table, folder: Path, rows: pl.DataFrame, replaces: Iterable[str]) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"{uuid.uuid4().hex}.parquet"
        beside = path.with_suffix(".tmp")
        table = to_arrow(kind, rows)
        if replaces := list(replaces):
            table = table.replace_schema_metadata({**table.schema.metadata, _REPLACES: json.dumps(replaces).encode()})
        repeating = [name for name in table.column_names if name in _REPEATING]
        parquet.write_table(
            table,
            beside,
            compression="zstd",
            compression_level=1,
            use_dictionary=repeating,
            write_statistics=[name for name in table.column_names if name in _PRUNING],
            row_group_size=_GROUP_ROWS,
        )
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        beside.replace(path)
        return path

    def _replace_parts(self, kind: Table, parts: Sequence[_Part], rows: pl.DataFrame) -> None:
        """One part instead of several of one day. Its name says so before the others are deleted."""
        self._write_part(kind, parts[0].path.parent, rows, [part.path.name for part in parts])
        for part in parts:
            part.path.unlink()
            del self._known[part.path]

    def _merge_small(self, kind: Table, folders: Iterable[Path]) -> None:
        """Make one part of a day's small parts where there are many, as a live recorder leaves them."""
        for folder in folders:
            if sum(1 for _ in folder.glob("*.parquet")) <= _MOST_SMALL:
                continue
            small = [part for part in self._parts(kind.name) if part.path.parent == folder and part.rows < _SMALL_ROWS]
            if len(small) > _MOST_SMALL:
                self._replace_parts(kind, small, pl.concat([pl.read_parquet(part.path) for part in small]))


# columns whose range in a part tells which parts a question can leave out
_PRUNING = ("block_number", "timestamp", "sequence")
# columns whose values repeat, so that a dictionary pays
_REPEATING = {
    "chain", "pool", "protocol", "source", "venue", "symbol", "kind", "event", "side", "token", "quote_token", "fee_ppm",
    "sender", "recipient", "wallet", "owner", "market", "interval_s", "taker_side", "sequence",
}  # fmt: skip


def to_arrow(kind: Table, frame: pl.DataFrame) -> pyarrow.Table:
    """A canonical frame (or some of its columns) as Arrow, with the units in its schema."""
    schema = arrow_schema(kind)
    schema = pyarrow.schema([schema.field(name) for name in frame.columns], metadata=schema.metadata)
    return frame.to_arrow().cast(schema)


def given_back(frame: pl.DataFrame, kind: Table, as_: As) -> Any:
    """A canonical frame as pandas, polars or Arrow. Raises TapeError for another word."""
    if as_ == "polars":
        return frame
    if as_ == "arrow":
        return to_arrow(kind, frame)
    if as_ == "pandas":
        return to_arrow(kind, frame).to_pandas()
    raise TapeError(f"as_ = {as_!r}; accepted are pandas, polars, arrow")


def _same_hash(kind: Table, pairs: pl.DataFrame) -> pl.DataFrame:
    for name in ("transaction_hash", "block_hash"):
        if name in kind.names and name not in kind.key:
            pairs = pairs.filter((pl.col(name) == pl.col(f"{name}{agree.OLD}")).fill_null(True))
    return pairs


def _reaches(part: _Part, column: str, bounds: tuple[Any, Any]) -> bool:
    held = part.ranges.get(column)
    return held is None or (held[0] <= bounds[1] and bounds[0] <= held[1])


def _read_footer(path: Path) -> _Part:
    try:
        metadata = parquet.read_metadata(path)
    except (pyarrow.ArrowInvalid, OSError) as error:
        raise TapeError(f"not a part of a store ({error})", path=str(path)) from error
    replaces = json.loads((metadata.metadata or {}).get(_REPLACES, b"[]"))
    ranges: dict[str, tuple[Any, Any]] = {}
    for index in range(metadata.num_columns):
        name = metadata.schema.column(index).name
        if name not in _PRUNING:
            continue
        held = [metadata.row_group(group).column(index).statistics for group in range(metadata.num_row_groups)]
        if held and all(stats is not None and stats.has_min_max and not stats.null_count for stats in held):
            ranges[name] = (min(stats.min for stats in held), max(stats.max for stats in held))
    return _Part(path, metadata.num_rows, tuple(replaces), ranges)


def _within(part: _Part, time: str, low: datetime | None, high: datetime | None) -> bool:
    if low is None and high is None:
        return True
    if not time:
        raise TapeError("start or end for a table without times; accepted is neither")
    held = part.ranges.get(time)
    if held is None:
        return True
    return (low is None or held[1] >= low) and (high is None or held[0] < high)
