"""Any recognised table into canonical tables, and into a store: in batches, resumable, idempotent.

``to_canonical`` and ``read_table`` give frames back; ``import_file`` and ``import_batches`` write a store. A batch is appended,
then its place is remembered, so a process that was killed goes on where it was, and what it had half written is there once.
"""

from __future__ import annotations

import copy
import hashlib
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from arbgym.data import files, sanity
from arbgym.data.columns import as_polars
from arbgym.data.needs import pl, pyarrow
from arbgym.data.readers import Options, Reader, Rows, Tables, recognise
from arbgym.data.readers.base import SIGN, Lookup, NoLookup
from arbgym.data.rules import ROW, check, conform, table_named
from arbgym.data.store import As, Store, Written, given_back
from arbgym.market.tape import TapeError

_PREFER = ("", "new", "old")
_Item = TypeVar("_Item")


@dataclass
class Imported:
    """What an import did: the format it recognised, the rows it read, and what became of them by table."""

    reader: str
    title: str
    rows: int = 0
    resumed_at: int = 0
    tables: dict[str, Written] = field(default_factory=dict)


class StoreLookup:
    """A store's pools, tokens and blocks, read once each."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._held: dict[tuple[str, str], pl.DataFrame] = {}

    def _cached(self, table: str, chain: str, columns: list[str]) -> pl.DataFrame:
        if (table, chain) not in self._held:
            found = self._store.scan(table, chain=chain).select(columns).collect()
            self._held[table, chain] = found.unique(columns[0], keep="last")
        return self._held[table, chain]

    def decimals_of_pools(self, chain: str) -> pl.DataFrame:
        return self._cached("pools", chain, ["pool", "decimals0", "decimals1"])

    def decimals_of_tokens(self, chain: str) -> pl.DataFrame:
        return self._cached("tokens", chain, ["address", "decimals"])

    def times_of_blocks(self, chain: str, first: int, last: int) -> pl.DataFrame:
        blocks = self._store.scan("blocks", chain=chain).filter(pl.col("block_number").is_between(first, last))
        return blocks.select("block_number", "timestamp").collect()


def to_canonical(
    frame: Any, options: Options | None = None, *, reader: str | None = None, path: str = "", as_: As = "pandas"
) -> dict[str, Any]:
    """The canonical tables that a table (pandas, polars or Arrow) of any recognised format holds, checked.

    ``options`` say what the table does not (chain, pool, decimals, venue, ...). Raises TapeError naming row, column and rule.
    """
    rows = as_polars(frame)
    known = recognise(rows.columns, path, reader)
    tables = known.read(Rows(rows, options or Options(), path))
    memory: dict[str, Any] = {}
    checked = {name: _checked(name, _left(name, table), path, memory) for name, table in tables.items()}
    return {name: given_back(table, table_named(name), as_) for name, table in checked.items()}


def _checked(name: str, table: pl.DataFrame, path: str, memory: dict[str, Any]) -> pl.DataFrame:
    kind = table_named(name)
    frame = conform(kind, table, path, source=Path(path).name)
    check(kind, frame, path)
    sanity.check(name, frame, path, memory)
    return frame.drop(ROW)


def _left(name: str, table: pl.DataFrame) -> pl.DataFrame:
    """The table without rows that others in it take back."""
    return table if SIGN not in table.columns else _net(name, table).filter(pl.col(SIGN) > 0).drop(SIGN)


def read_batches(
    path: Path, options: Options, reader: str | None = None, lookup: Lookup | None = None
) -> Iterator[tuple[str, Tables]]:
    """What a file's format was recognised as, and the tables of each batch, not yet checked. Raises TapeError."""
    memory: dict[str, Any] = {}
    known: Reader | None = None
    for first, frame in files.batches(path):
        known = known or recognise(frame.columns, str(path), reader)
        rows = Rows(frame, options, str(path), first, lookup or NoLookup(), memory)
        yield known.title, {name: _left(name, table) for name, table in known.read(rows).items()}
    if known is None:
        raise TapeError("no rows; accepted is a table with rows", path=str(path))


def canonical_batches(path: Path, options: Options, reader: str | None = None) -> Iterator[tuple[str, Tables]]:
    """The same, checked and with exactly the canonical columns."""
    memory: dict[str, Any] = {}
    for title, tables in read_batches(path, options, reader):
        yield title, {name: _checked(name, table, str(path), memory) for name, table in tables.items()}


def read_table(
    path: str | Path, table: str | None = None, options: Options | None = None, *, reader: str | None = None, as_: As = "pandas"
) -> Any:
    """A file of any recognised format as a canonical table; ``table`` chooses where it holds several (default: the main one).

    Raises TapeError naming file, row, column and rule.
    """
    path = Path(path)
    parts: list[pl.DataFrame] = []
    for _, tables in canonical_batches(path, options or Options(), reader):
        table = table or list(tables)[-1]
        if table not in tables:
            raise TapeError(f"no table {table!r} in it; accepted are {', '.join(tables)}", path=str(path))
        parts.append(tables[table])
    return given_back(pl.concat(parts), table_named(str(table)), as_)


def import_file(
    path: str | Path,
    store: Store,
    options: Options | None = None,
    *,
    reader: str | None = None,
    prefer: str = "",
    allow_jumps: bool = False,
    progress: bool = False,
) -> Imported:
    """Import a file of any recognised format. Raises TapeError naming file, row, column and rule; rows before stay imported."""
    path = Path(path)
    options = options or Options()
    source = f"{path.name} {_fingerprint(path)} {sorted(asdict(options).items())} {reader or ''}"
    total = pyarrow.parquet.read_metadata(path).num_rows if files.kind_of(path) == ".parquet" else None

    def opened(skip: int, place: Any) -> Iterator[tuple[int, pl.DataFrame, Any]]:
        return _ahead((first, frame, place) for first, frame in files.batches(path, skip))

    return _import(opened, store, source, path.name, str(path), options, reader, prefer, allow_jumps, progress, total)


def import_batches(
    batches: Iterable[Any],
    store: Store,
    source: str,
    options: Options | None = None,
    *,
    reader: str | None = None,
    prefer: str = "",
    allow_jumps: bool = False,
    progress: bool = False,
) -> Imported:
    """Import batches (Arrow, polars or pandas, all with the same columns). ``source`` names them.

    Batches that can tell their ``position`` (a JSON value) and go on after one that it is set to, as a database's do, are resumed
    where the store remembers that they were.
    """
    resumable = source if hasattr(batches, "position") else None

    def opened(skip: int, place: Any) -> Iterator[tuple[int, pl.DataFrame, Any]]:
        first = skip
        if resumable and place is not None:
            batches.position = place  # type: ignore[attr-defined]
        for batch in batches:
            frame = as_polars(pyarrow.table(batch) if isinstance(batch, pyarrow.RecordBatch) else batch)
            if len(frame):
                yield first, frame, getattr(batches, "position", None)
            first += len(frame)

    return _import(opened, store, resumable, source, source, options or Options(), reader, prefer, allow_jumps, progress, None)


def _import(
    opened: Any,
    store: Store,
    resumable: str | None,
    source: str,
    path: str,
    options: Options,
    reader: str | None,
    prefer: str,
    allow_jumps: bool,
    progress: bool,
    total: int | None,
) -> Imported:
    if prefer not in _PREFER:
        raise TapeError(f"prefer = {prefer!r}; accepted are new, old or nothing")
    held = (store.progress(resumable) if resumable else None) or {}
    skip, waiting = int(held.get("rows", 0)), dict(held.get("waiting", {}))
    done = Imported("", "", resumed_at=skip)

    def converted() -> Iterator[tuple[int, int, Tables, dict[str, Any], Any]]:
        memory = dict(held.get("memory", {}))
        known: Reader | None = None
        for first, frame, place in opened(skip, held.get("place")):
            if known is None:
                known = recognise(frame.columns, path, reader)
                done.reader, done.title = known.name, known.title
            tables = known.read(Rows(frame, options, path, first, StoreLookup(store), memory))
            for name, table in tables.items():
                signs = [table[SIGN]] if SIGN in table.columns else []
                full = conform(table_named(name), table.drop(SIGN, strict=False), path, source=source)
                check(table_named(name), full, path)
                if not allow_jumps:
                    sanity.check(name, full, path, memory)
                tables[name] = full.with_columns(signs)
            yield first, len(frame), tables, copy.deepcopy(memory), place

    with _reused_memory(), _bar(source, total, skip, progress) as bar:
        for first, count, tables, memory, place in _ahead(converted()):  # reads and converts while the last batch is written
            for name, table in tables.items():
                written = _append(store, name, table, path, prefer, waiting)
                done.tables[name] = done.tables.get(name, Written()) + written
            done.rows += count
            if resumable:
                store.set_progress(resumable, {"rows": first + count, "place": place, "memory": memory, "waiting": waiting})
            bar.update(count)
    if not done.reader and not skip:
        raise TapeError("no rows; accepted is a table with rows", path=path)
    if resumable:
        store.set_progress(resumable, {})
    return done


def _append(store: Store, name: str, table: pl.DataFrame, path: str, prefer: str, waiting: dict[str, Any]) -> Written:
    if SIGN in table.columns:
        table = _settled(store, name, _net(name, table), waiting)
    try:
        return store.append_checked(name, table, replace=prefer == "new", keep=prefer == "old")
    except TapeError as error:
        raise TapeError(error.rule, error.column, error.row, path, error.time) from error


def _identity(name: str) -> list[str]:
    kind = table_named(name)
    return [
        *kind.key,
        *(hashed for hashed in ("transaction_hash", "block_hash") if hashed in kind.names and hashed not in kind.key),
    ]


def _net(name: str, frame: pl.DataFrame) -> pl.DataFrame:
    """Rows and those that take them back, summed up: one row of sign +1 or -1 for each that is left."""
    net = pl.col(SIGN).cast(pl.Int64).sum().over(_identity(name)).sign().cast(pl.Int8)
    left = frame.with_columns(net.alias("__net")).filter((pl.col("__net") != 0) & (pl.col("__net") == pl.col(SIGN)))
    return left.unique(_identity(name), keep="first", maintain_order=True).drop("__net")


def _settled(store: Store, name: str, frame: pl.DataFrame, kept: dict[str, Any]) -> pl.DataFrame:
    """The rows to append, after those of sign -1 have taken theirs out of the store, or wait for them in ``kept``."""
    identity = _identity(name)
    waiting: list[list[Any]] = kept.setdefault(name, [])
    added = frame.filter(pl.col(SIGN) > 0).drop(SIGN)
    gone = frame.filter(pl.col(SIGN) < 0).drop(SIGN)
    plain = [pl.col(column).cast(pl.String) for column in identity]
    if waiting and len(added):
        awaited = pl.DataFrame(waiting, schema=dict.fromkeys(identity, pl.String), orient="row")
        met = added.select(plain).join(awaited, on=identity, how="semi", nulls_equal=True)
        added = added.filter(~added.select(pl.struct(plain)).to_series().is_in(met.to_struct().implode()))
        left = awaited.join(met, on=identity, how="anti", nulls_equal=True)
        waiting[:] = [list(row) for row in left.iter_rows()]
    if len(gone):
        held = store.held(name, gone)
        store.remove(name, gone)
        waiting += [list(row) for row in gone.filter(~held).select(plain).iter_rows()]
    return added


def _fingerprint(path: Path) -> str:
    """Size and digest of a file's ends: the same file under the same name goes on where it was."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(1 << 16))
        file.seek(max(0, size - (1 << 16)))
        digest.update(file.read(1 << 16))
    return digest.hexdigest()[:16]


def _ahead(items: Iterator[_Item]) -> Iterator[_Item]:
    """The same items, made by a thread one ahead of the caller."""
    waiting: queue.Queue[tuple[_Item | None, BaseException | None]] = queue.Queue(1)
    stop = threading.Event()

    def put(item: _Item | None, error: BaseException | None = None) -> None:
        while not stop.is_set():
            try:
                waiting.put((item, error), timeout=0.1)
                return
            except queue.Full:
                continue

    def run() -> None:
        try:
            for item in items:
                put(item)
                if stop.is_set():
                    return
            put(None)
        except BaseException as error:  # noqa: BLE001 (raised again in the caller's thread)
            put(None, error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is None:
                return
            yield item
    finally:
        stop.set()
        thread.join()


@contextmanager
def _reused_memory() -> Iterator[None]:
    """Arrow's jemalloc pool for the time of an import: batch after batch it reuses its pages, for a third of the system time."""
    before = pyarrow.default_memory_pool()
    if "jemalloc" in pyarrow.supported_memory_backends():
        pyarrow.set_memory_pool(pyarrow.jemalloc_memory_pool())
    try:
        yield
    finally:
        pyarrow.set_memory_pool(before)


def _bar(source: str, total: int | None, skip: int, shown: bool) -> Any:
    from tqdm import tqdm

    return tqdm(total=total, initial=skip, unit=" rows", unit_scale=True, desc=source[:40], disable=not shown)


__all__ = [
    "Imported",
    "Options",
    "canonical_batches",
    "import_batches",
    "import_file",
    "read_batches",
    "read_table",
    "to_canonical",
]
