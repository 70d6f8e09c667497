"""Whether a store or a file keeps the rules: everything that does not, with file, row, column and rule."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from arbgym.data import agree, files, sanity
from arbgym.data.importer import Options, read_batches
from arbgym.data.needs import pl
from arbgym.data.rules import ROW, conform, table_named, violations
from arbgym.data.store import Store
from arbgym.data.tables import Table
from arbgym.market.tape import TapeError


def of_store(path: str | Path) -> Iterator[TapeError]:
    """What is wrong in a store: parts that cannot be read, values that cannot be, keys that two rows share."""
    store = Store(path)
    for name in store.tables():
        kind = table_named(name)
        seen: list[pl.DataFrame] = []
        for part in store.parts(name):
            try:
                frame = conform(kind, pl.read_parquet(part), str(part))
            except (TapeError, pl.exceptions.PolarsError) as error:
                yield error if isinstance(error, TapeError) else TapeError(str(error), path=str(part))
                continue
            yield from violations(kind, frame, str(part))
            seen.append(agree.keys(kind, frame).with_columns(pl.lit(str(part)).alias("_part")).with_row_index(ROW))
        yield from _shared_keys(kind, seen)


def _shared_keys(kind: Table, seen: list[pl.DataFrame]) -> Iterator[TapeError]:
    if not seen:
        return
    keys = pl.concat(seen)
    again = keys.filter(keys.select(agree.key_names(kind)).is_duplicated())
    for row in again.head(5).iter_rows(named=True):
        key = ", ".join(f"{name} {row[name]}" for name in kind.key)
        yield TapeError(f"key occurs twice ({key}); accepted is one row per key", kind.key[-1], int(row[ROW]), row["_part"])


def of_file(path: str | Path, options: Options | None = None, reader: str | None = None) -> Iterator[TapeError]:
    """What is wrong in a file of any recognised format, by batch the first row of each column and rule."""
    path = Path(path)
    memory: dict[str, object] = {}
    try:
        for _, tables in read_batches(path, options or Options(), reader):
            for name, table in tables.items():
                kind = table_named(name)
                frame = conform(kind, table, str(path), source=path.name)
                yield from violations(kind, frame, str(path))
                try:
                    agree.within(kind, frame, "")
                    sanity.check(name, frame, str(path), memory)
                except TapeError as error:
                    yield TapeError(error.rule, error.column, error.row, str(path), error.time)
    except TapeError as error:
        yield error


def of(path: str | Path, options: Options | None = None, reader: str | None = None) -> Iterator[TapeError]:
    """What is wrong in a store (a folder) or a file."""
    path = Path(path)
    if path.is_dir():
        return of_store(path)
    files.kind_of(path)
    return of_file(path, options, reader)
