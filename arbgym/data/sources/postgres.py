"""PostgreSQL and TimescaleDB: postgresql://user@host/database. Read through a server-side cursor in a read-only transaction."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arbgym.data.needs import pyarrow
from arbgym.data.sources.base import Request, Source
from arbgym.data.sources.sql import quoted, the_query
from arbgym.data.tables import Table
from arbgym.market.tape import TapeError

_KINDS = {
    "timestamp": "timestamptz", "string": "text", "int64": "bigint", "float64": "double precision", "bool": "boolean",
    "raw": "numeric",
}  # fmt: skip
# how a column is asked for and what it becomes; everything else becomes text, exactly as the server writes it
_ARROW: dict[str, Any] = {
    "smallint": pyarrow.int64(), "integer": pyarrow.int64(), "bigint": pyarrow.int64(), "real": pyarrow.float64(),
    "double precision": pyarrow.float64(), "boolean": pyarrow.bool_(), "date": pyarrow.date32(),
    "timestamp with time zone": pyarrow.timestamp("us", "UTC"), "timestamp without time zone": pyarrow.timestamp("us"),
}  # fmt: skip


def _psycopg() -> Any:
    try:
        import psycopg
    except ImportError as error:
        raise ImportError('PostgreSQL needs psycopg: pip install "arbgym[databases]"') from error
    return psycopg


def _connect(url: str, location: str) -> Any:
    psycopg = _psycopg()
    try:
        connection = psycopg.connect(url, connect_timeout=10, application_name="arbgym")
    except (psycopg.OperationalError, psycopg.ProgrammingError) as error:
        raise TapeError(f"not connected ({str(error).strip()})", path=location) from error
    connection.execute("SET TIME ZONE 'UTC'")
    connection.commit()
    return connection


class PostgresSource(Source):
    """A table or a query of a PostgreSQL database."""

    def __init__(self, url: str, request: Request) -> None:
        self._url = url
        super().__init__(request)

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        psycopg = _psycopg()
        return (psycopg.OperationalError, psycopg.InterfaceError)

    def connect(self) -> None:
        self._connection = _connect(self._url, self.request.location)
        self._connection.read_only = True

    def close(self) -> None:
        self._connection.close()

    @property
    def _rows(self) -> str:
        return f"({the_query(self.request)}) AS rows"

    def _plain(self, statement: str) -> str:
        return statement.replace("%", "%%")

    def describe(self) -> Mapping[str, str]:
        psycopg = _psycopg()
        try:
            with self._connection.transaction():
                cursor = self._connection.execute(f"SELECT * FROM {self._rows} LIMIT 0")
                found = [(column.name, column.type_code) for column in cursor.description]
                names = self._connection.execute(
                    "SELECT format_type(o, NULL) FROM unnest(%s::oid[]) WITH ORDINALITY AS t(o, n) ORDER BY n",
                    [[oid for _, oid in found]],
                ).fetchall()
        except psycopg.ProgrammingError as error:
            with self._connection.transaction():
                tables = self._connection.execute(
                    "SELECT CASE WHEN schemaname = current_schema() THEN tablename ELSE schemaname || '.' || tablename END "
                    "FROM pg_tables WHERE schemaname NOT IN ('pg_catalog', 'information_schema') ORDER BY 1 LIMIT 50"
                ).fetchall()
            listed = ", ".join(name for (name,) in tables) or "none"
            raise TapeError(f"not read ({str(error).strip()}); its tables are {listed}", path=self.name) from error
        return {name: kind for (name, _), (kind,) in zip(found, names, strict=True)}

    def own_key(self) -> tuple[str, ...]:
        if self.request.table is None:
            return ()
        table = ".".join(quoted(part) for part in self.request.table.split("."))
        with self._connection.transaction():
            found = self._connection.execute(
                "SELECT a.attname FROM pg_index i, unnest(i.indkey) WITH ORDINALITY AS k(attnum, place), pg_attribute a "
                "WHERE i.indrelid = %s::regclass AND i.indisprimary AND a.attrelid = i.indrelid AND a.attnum = k.attnum "
                "ORDER BY place",
                [table],
            ).fetchall()
        return tuple(name for (name,) in found)

    def has_empty(self, column: str) -> bool:
        with self._connection.transaction():
            cursor = self._connection.execute(f"SELECT 1 FROM {self._rows} WHERE {quoted(column)} IS NULL LIMIT 1")
            return cursor.fetchone() is not None

    def _column(self, name: str) -> str:
        kind = self.types[name]
        if kind == "bytea":
            return f"'0x' || encode(rows.{quoted(name)}, 'hex')"
        return f"rows.{quoted(name)}" if kind in _ARROW else f"rows.{quoted(name)}::text"

    def read(self, after: Sequence[str] | None) -> Iterator[pyarrow.Table]:
        schema = pyarrow.schema([(name, _ARROW.get(kind, pyarrow.string())) for name, kind in self.types.items()])
        columns = ", ".join(self._column(name) for name in self.types)
        key = ", ".join(f"rows.{quoted(name)}" for name in self.key)
        where = ""
        if after is not None:
            values = ", ".join(f"CAST(%s AS {self.types[name]})" for name in self.key)
            where = f"WHERE ({key}) > ({values})"
        statement = f"SELECT {columns} FROM {self._rows} "
        with self._connection.transaction(), self._connection.cursor("arbgym_rows", binary=True) as cursor:
            if after is None:
                cursor.execute(f"{statement} ORDER BY {key}")
            else:
                cursor.execute(f"{self._plain(statement)} {where} ORDER BY {key}", list(after))
            while rows := cursor.fetchmany(self.request.batch_rows):
                columns_of = zip(*rows, strict=True)
                arrays = [pyarrow.array(values, field.type) for values, field in zip(columns_of, schema, strict=True)]
                yield pyarrow.Table.from_arrays(arrays, schema=schema)


class PostgresSink:
    """Canonical tables into a database, one table each; a row whose key is there already takes its place.

    Exact integers become numeric. With the extension timescaledb a table with times becomes a hypertable, whose unique
    keys must hold the time; a row whose time has changed (its block was replaced) still replaces the old one.
    """

    def __init__(self, url: str, location: str) -> None:
        self._connection = _connect(url, location)
        found = self._connection.execute("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").fetchone()
        self._hyper = found is not None
        self._connection.commit()

    def close(self) -> None:
        self._connection.close()

    def create(self, table: Table, name: str) -> None:
        exists = self._connection.execute("SELECT to_regclass(%s) IS NOT NULL", [quoted(name)]).fetchone()[0]
        columns = ", ".join(
            f"{quoted(column.name)} {_KINDS[column.kind]}{' NOT NULL' if column.required else ''}" for column in table.columns
        )
        self._connection.execute(f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({columns})")
        if not exists:
            if self._hyper and table.time:
                self._connection.execute("SELECT create_hypertable(%s::regclass, %s::name)", [quoted(name), table.time])
            nulls = "NULLS NOT DISTINCT" if self._connection.info.server_version >= 150000 else ""
            for key, filled in self._keys(table):
                listed = ", ".join(quoted(column) for column in key)
                self._connection.execute(f"CREATE UNIQUE INDEX ON {quoted(name)} ({listed}) {nulls} {filled}")
        self._connection.commit()

    def _keys(self, table: Table) -> list[tuple[tuple[str, ...], str]]:
        """Each way in which rows of the table are known: the columns, and a condition where there are two ways."""
        ways = [(table.key, "")]
        for column, other in table.instead:
            stand_in = tuple(other if name == column else name for name in table.key)
            ways = [(table.key, f"WHERE {quoted(column)} IS NOT NULL"), (stand_in, f"WHERE {quoted(column)} IS NULL")]
        if self._hyper and table.time:
            ways = [((*key, table.time) if table.time not in key else key, filled) for key, filled in ways]
        return ways

    def write(self, table: Table, name: str, batch: pyarrow.Table) -> None:
        """Upsert a batch in one transaction: all of it or nothing."""
        names = ", ".join(quoted(column) for column in table.names)
        rest = ", ".join(f"{quoted(column)} = EXCLUDED.{quoted(column)}" for column in table.names)
        with self._connection.transaction():
            self._connection.execute(f"CREATE TEMP TABLE batch (LIKE {quoted(name)}) ON COMMIT DROP")
            with self._connection.cursor().copy(f"COPY batch ({names}) FROM STDIN") as copy:
                for row in zip(*(column.to_pylist() for column in batch.select(list(table.names)).columns), strict=True):
                    copy.write_row(row)
            for key, filled in self._keys(table):
                listed = ", ".join(quoted(column) for column in key)
                if self._hyper and table.time and table.time not in table.key:
                    same = " AND ".join(
                        f"old.{quoted(column)} = batch.{quoted(column)}" for column in key if column != table.time
                    )
                    self._connection.execute(
                        f"DELETE FROM {quoted(name)} AS old USING batch WHERE {same} "
                        f"AND old.{quoted(table.time)} <> batch.{quoted(table.time)}"
                    )
                self._connection.execute(
                    f"INSERT INTO {quoted(name)} ({names}) SELECT {names} FROM batch {filled} "
                    f"ON CONFLICT ({listed}) {filled} DO UPDATE SET {rest}"
                )
