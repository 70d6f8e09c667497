"""Sources that are not files: databases and EVM nodes.

``open_source`` reads a table or a query of DuckDB, ClickHouse or PostgreSQL as Arrow batches; ``import_database`` takes it into a
store, resumable; ``write_table`` and ``export_store`` write canonical tables out. ``arbgym.data.sources.node`` fetches pools'
events from a node, ``arbgym.data.sources.record`` follows one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlencode, urlsplit

from arbgym.data import agree
from arbgym.data.importer import Imported, Options, import_batches
from arbgym.data.needs import pyarrow
from arbgym.data.rules import conform, table_named
from arbgym.data.sources.base import Request, Source, SourceLost
from arbgym.data.store import Store, to_arrow
from arbgym.data.tables import Table
from arbgym.market.tape import TapeError

SCHEMES = ("duckdb", "clickhouse", "clickhouses", "chdb", "postgresql", "postgres")
_OURS = ("table", "query", "key", "batch_rows")


class Sink(Protocol):
    """A database that takes canonical tables."""

    def create(self, table: Table, name: str) -> None:
        """Make the table where it is not there."""

    def write(self, table: Table, name: str, batch: pyarrow.Table) -> None:
        """Upsert a batch by the table's key."""

    def close(self) -> None:
        """Close the connection."""


def is_database(url: str) -> bool:
    """Whether a text is the address of a database rather than a file's path."""
    return url.split("://", 1)[0] in SCHEMES and "://" in url


def open_source(
    url: str,
    table: str | None = None,
    query: str | None = None,
    *,
    key: Sequence[str] = (),
    batch_rows: int = 100_000,
    patience_s: float = 60.0,
    position: list[str] | None = None,
) -> Source:
    """A table or a query of a database, to iterate over: Arrow tables of about ``batch_rows`` rows in the order of ``key``.

    ``url``: duckdb:///file, clickhouse://host:8123/database, chdb:///folder or postgresql://host/database; table, query,
    key (comma-separated) and batch_rows may stand in it (?table=swaps). ``key``: the columns that order the rows, without
    nulls; it need not be unique (default: the table's own). ``position``: go on after this key. The database is only read.
    Raises TapeError; SourceLost when a database that was there stays away for ``patience_s``.
    """
    bare, location, said = _split(url)
    request = Request(
        location,
        table or said.get("table"),
        query or (None if table else said.get("query")),
        tuple(key) or tuple(part.strip() for part in said.get("key", "").split(",") if part.strip()),
        int(said.get("batch_rows", batch_rows)),
        patience_s,
    )
    scheme = url.split("://", 1)[0]
    source: Source
    if scheme == "duckdb":
        from arbgym.data.sources.duck import DuckSource

        source = DuckSource(_path(url), request)
    elif scheme in ("postgresql", "postgres"):
        from arbgym.data.sources.postgres import PostgresSource

        source = PostgresSource(bare, request)
    else:
        from arbgym.data.sources.clickhouse import ClickHouseSource

        source = ClickHouseSource(bare, request)
    source.position = position
    return source


def import_database(
    url: str,
    store: Store,
    options: Options | None = None,
    *,
    table: str | None = None,
    query: str | None = None,
    key: Sequence[str] = (),
    reader: str | None = None,
    prefer: str = "",
    allow_jumps: bool = False,
    progress: bool = False,
    patience_s: float = 60.0,
) -> Imported:
    """Import a table or a query of a database, in whatever format the readers recognise.

    After each batch the last stored key is remembered; a run that was cut off goes on there, and a finished one starts
    anew next time (what is stored already counts as a duplicate). Raises TapeError and SourceLost.
    """
    source = open_source(url, table, query, key=key, patience_s=patience_s)
    try:
        return import_batches(
            source, store, source.name, options, reader=reader, prefer=prefer, allow_jumps=allow_jumps, progress=progress
        )
    finally:
        source.close()


def write_table(url: str, table: str, batches: Iterable[Any], *, name: str | None = None) -> int:
    """Write batches (Arrow, polars or pandas with a canonical table's columns) to a database; the number of rows written.

    The table (``name``, default the canonical one) is made where it is not there. A row whose key is there already takes
    its place, so writing again does no harm. DuckDB files are made as needed. Raises TapeError.
    """
    kind, rows = table_named(table), 0
    sink = _open_sink(url)
    try:
        sink.create(kind, name or table)
        for batch in batches:
            frame, *_ = agree.within(kind, conform(kind, batch), "new")
            arrow = to_arrow(kind, frame)
            if arrow.num_rows:
                sink.write(kind, name or table, arrow)
                rows += arrow.num_rows
    finally:
        sink.close()
    return rows


def export_store(
    store: Store, url: str, tables: Sequence[str] = (), *, batch_rows: int = 100_000, progress: bool = False
) -> dict[str, int]:
    """Write a store's tables (default: all) to a database, part by part; the rows written of each."""
    from pyarrow import parquet
    from tqdm import tqdm

    written = {}
    for table in tables or store.tables():
        with tqdm(total=store.rows(table), unit=" rows", unit_scale=True, desc=table, disable=not progress) as bar:

            def batches(table: str = table, bar: Any = bar) -> Iterator[pyarrow.Table]:
                for path in store.parts(table):
                    for batch in parquet.ParquetFile(path).iter_batches(batch_rows):
                        yield pyarrow.Table.from_batches([batch])
                        bar.update(batch.num_rows)

            written[table] = write_table(url, table, batches())
    return written


def _open_sink(url: str) -> Sink:
    bare, location, _ = _split(url)
    scheme = url.split("://", 1)[0]
    if scheme == "duckdb":
        from arbgym.data.sources.duck import DuckSink

        return DuckSink(_path(url))
    if scheme in ("postgresql", "postgres"):
        from arbgym.data.sources.postgres import PostgresSink

        return PostgresSink(bare, location)
    from arbgym.data.sources.clickhouse import ClickHouseSink

    return ClickHouseSink(bare, location)


def _split(url: str) -> tuple[str, str, dict[str, str]]:
    """The address without our own words in it, the same without a password, and our words."""
    if not is_database(url):
        raise TapeError(f"accepted are addresses that begin with {', '.join(f'{scheme}://' for scheme in SCHEMES)}", path=url)
    parts = urlsplit(url)
    words = parse_qsl(parts.query, keep_blank_values=True)
    said = {name: value for name, value in words if name in _OURS}
    rest = urlencode([(name, value) for name, value in words if name not in _OURS])
    query = f"?{rest}" if rest else ""
    host = parts.netloc.rsplit("@", 1)[-1]
    user = parts.username or ""
    shown = f"{user}@{host}" if user else host
    return (
        f"{parts.scheme}://{parts.netloc}{parts.path}{query}",
        f"{parts.scheme}://{shown}{parts.path}",
        said,
    )


def _path(url: str) -> str:
    path = urlsplit(url).path
    # duckdb:///relative/or/absolute: three slashes are an absolute path, duckdb://folder/file a relative one
    return str(Path(urlsplit(url).netloc + path))


__all__ = [
    "SCHEMES",
    "SourceLost",
    "export_store",
    "import_database",
    "is_database",
    "open_source",
    "write_table",
]
