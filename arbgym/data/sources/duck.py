"""DuckDB files: duckdb:///path/to/file.duckdb. Opened read-only; sorting spills to disk, so tables may exceed memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from arbgym.data.needs import pyarrow
from arbgym.data.sources.base import Request, Source
from arbgym.data.sources.sql import keys_of, quoted, the_query
from arbgym.data.tables import Table
from arbgym.market.tape import TapeError

if TYPE_CHECKING:
    import duckdb

_KINDS = {
    "timestamp": "TIMESTAMP WITH TIME ZONE", "string": "VARCHAR", "int64": "BIGINT", "float64": "DOUBLE", "bool": "BOOLEAN",
    "raw": "VARCHAR",
}  # fmt: skip
_AS_TEXT = ("HUGEINT", "UHUGEINT", "UBIGINT", "BIGNUM", "UUID")  # whole numbers wider than Arrow's, as exact text


def _connect(path: str, read_only: bool) -> duckdb.DuckDBPyConnection:
    try:
        import duckdb
    except ImportError as error:
        raise ImportError('DuckDB files need duckdb: pip install "arbgym[databases]"') from error
    if read_only and not Path(path).is_file():
        raise TapeError("no such file; accepted is a DuckDB file, duckdb:///path?table=NAME", path=path)
    try:
        connection = duckdb.connect(path, read_only=read_only)
    except duckdb.Error as error:
        raise TapeError(f"not opened ({error})", path=path) from error
    connection.execute("SET TimeZone = 'UTC'; SET enable_progress_bar = false")
    return connection


class DuckSource(Source):
    """A table or a query of a DuckDB file."""

    def __init__(self, path: str, request: Request) -> None:
        self._path = path
        super().__init__(request)

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        import duckdb

        return (duckdb.IOException, duckdb.ConnectionException)

    def connect(self) -> None:
        self._connection = _connect(self._path, read_only=True)

    def close(self) -> None:
        self._connection.close()

    @property
    def _rows(self) -> str:
        return f"({the_query(self.request)}) AS rows"

    def describe(self) -> Mapping[str, str]:
        import duckdb

        try:
            found = self._connection.execute(f"DESCRIBE SELECT * FROM {self._rows}").fetchall()
        except duckdb.Error as error:
            tables = self._connection.execute("SELECT table_name FROM duckdb_tables() UNION SELECT view_name FROM duckdb_views() "
                                              "WHERE NOT internal ORDER BY 1").fetchall()  # fmt: skip
            names = ", ".join(name for (name,) in tables) or "none"
            raise TapeError(f"not read ({error}); its tables are {names}", path=self.name) from error
        return {name: kind for name, kind, *_ in found}

    def own_key(self) -> tuple[str, ...]:
        found = self._connection.execute(
            "SELECT constraint_column_names FROM duckdb_constraints() WHERE constraint_type = 'PRIMARY KEY' AND table_name = ?",
            [(self.request.table or "").rsplit(".", 1)[-1]],
        ).fetchone()
        return tuple(found[0]) if found else ()

    def has_empty(self, column: str) -> bool:
        question = f"SELECT 1 FROM {self._rows} WHERE {quoted(column)} IS NULL LIMIT 1"
        return self._connection.execute(question).fetchone() is not None

    def read(self, after: Sequence[str] | None) -> Iterator[pyarrow.Table]:
        columns = ", ".join(
            f"{quoted(name)}::VARCHAR AS {quoted(name)}" if kind in _AS_TEXT and name not in self.key else quoted(name)
            for name, kind in self.types.items()
        )
        key = ", ".join(f"rows.{quoted(name)}" for name in self.key)
        where = ""
        if after is not None:
            values = (f"CAST({_literal(value)} AS {self.types[name]})" for name, value in zip(self.key, after, strict=True))
            where = f"WHERE ({key}) > ({', '.join(values)})"
        rows = self._connection.sql(f"SELECT {columns} FROM {self._rows} {where} ORDER BY {key}")
        for batch in rows.to_arrow_reader(self.request.batch_rows):
            yield pyarrow.Table.from_batches([batch])


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


class DuckSink:
    """Canonical tables into a DuckDB file, one table each; a row whose key is there already takes its place."""

    def __init__(self, path: str) -> None:
        Path(path).resolve().parent.mkdir(parents=True, exist_ok=True)
        self._connection = _connect(path, read_only=False)

    def close(self) -> None:
        self._connection.close()

    def create(self, table: Table, name: str) -> None:
        columns = ", ".join(
            f"{quoted(column.name)} {_KINDS[column.kind]}{' NOT NULL' if column.required else ''}" for column in table.columns
        )
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({columns})")

    def write(self, table: Table, name: str, batch: pyarrow.Table) -> None:
        """Upsert a batch in one transaction: all of it or nothing."""
        self._connection.register("batch", batch)
        keys = [column for column, _ in keys_of(table)]
        same = " AND ".join(f"old.{quoted(key)} IS NOT DISTINCT FROM batch.{quoted(key)}" for key in keys)
        for column, other in keys_of(table):
            if other:
                same += f" AND (old.{quoted(column)} IS NOT NULL OR old.{quoted(other)} = batch.{quoted(other)})"
        names = ", ".join(quoted(column) for column in table.names)
        try:
            self._connection.begin()
            self._connection.execute(f"DELETE FROM {quoted(name)} AS old USING batch WHERE {same}")
            self._connection.execute(f"INSERT INTO {quoted(name)} ({names}) SELECT {names} FROM batch")
            self._connection.commit()
        finally:
            self._connection.unregister("batch")
