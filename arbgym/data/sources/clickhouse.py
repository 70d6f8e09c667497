"""ClickHouse: clickhouse://user@host:8123/database, or chdb:///folder for the same engine within this process.

A table of a collapsing engine, or one with an Int8 column ``sign``, holds rows that were taken back beside the rows that
took them back. Only those whose signs add up to more than zero are read, once each; the engine adds them up, in the order of
the key where the table is sorted by it, on disk where memory is short. Replaced rows of a replacing engine are not read.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from arbgym.data.needs import pyarrow
from arbgym.data.sources.base import Request, Source
from arbgym.data.sources.sql import quoted, the_query
from arbgym.data.tables import Table
from arbgym.market.tape import TapeError

_KINDS = {
    "timestamp": "DateTime64(6, 'UTC')", "string": "String", "int64": "Int64", "float64": "Float64", "bool": "Bool",
    "raw": "String",
}  # fmt: skip
_PLAIN = re.compile(r"^(U?Int(8|16|32|64)|Float(32|64)|Bool|String)$")
_SPILL = {"max_bytes_before_external_group_by": 2 << 30, "max_bytes_before_external_sort": 2 << 30}


def _connect(url: str, location: str) -> Any:
    try:
        import clickhouse_connect
        from clickhouse_connect.driver import exceptions
    except ImportError as error:
        raise ImportError('ClickHouse needs clickhouse-connect: pip install "arbgym[databases]"') from error
    try:
        return clickhouse_connect.get_client(dsn=url)
    except exceptions.Error as error:
        raise TapeError(f"not connected ({error})", path=location) from error


class ClickHouseSource(Source):
    """A table or a query of a ClickHouse database."""

    def __init__(self, url: str, request: Request) -> None:
        self._url = url
        self._engine = self._sorting = ""
        super().__init__(request)

    @property
    def lost(self) -> tuple[type[Exception], ...]:
        from clickhouse_connect.driver import exceptions
        from urllib3.exceptions import HTTPError

        return (exceptions.OperationalError, exceptions.StreamFailureError, HTTPError, ConnectionError, pyarrow.ArrowInvalid)

    def connect(self) -> None:
        self._client = _connect(self._url, self.request.location)

    def close(self) -> None:
        self._client.close()

    def _settings(self) -> dict[str, Any]:
        # the embedded engine keeps settings for its whole process, where read-only would be for ever
        read_only = {} if self._url.startswith("chdb:") else {"readonly": 2, "optimize_aggregation_in_order": 1}
        return {**_SPILL, **read_only}

    def _ask(self, question: str, parameters: dict[str, Any] | None = None) -> list[Any]:
        return list(self._client.query(question, parameters=parameters).result_rows)

    def describe(self) -> Mapping[str, str]:
        from clickhouse_connect.driver import exceptions

        try:
            found = self._ask(f"DESCRIBE ({the_query(self.request)})")
        except exceptions.DatabaseError as error:
            tables = ", ".join(name for (name,) in self._ask("SHOW TABLES")) or "none"
            raise TapeError(f"not read ({error}); its tables are {tables}", path=self.name) from error
        if self.request.table is not None:
            *database, table = self.request.table.split(".")
            engines = self._ask(
                "SELECT engine_full, sorting_key FROM system.tables WHERE name = {table:String} "
                "AND database = if({database:String} = '', currentDatabase(), {database:String})",
                {"table": table, "database": ".".join(database)},
            )
            self._engine, self._sorting = engines[0] if engines else ("", "")
        return {row[0]: row[1] for row in found}

    @property
    def sign(self) -> str:
        """The column of +1 and -1 that a collapsing table has; '' for others."""
        if self.request.table is None:
            return ""
        found = re.match(r"\w*CollapsingMergeTree\(([^)]*)\)", self._engine)
        if found:
            named = [part.strip() for part in found[1].split(",") if not part.strip().startswith("'")]
            return named[0].strip("`")
        return "sign" if self.types.get("sign") == "Int8" else ""

    def own_key(self) -> tuple[str, ...]:
        names = tuple(part.strip().strip("`") for part in self._sorting.split(",")) if self._sorting else ()
        return names if all(name in self.types for name in names) else ()

    @property
    def _rows(self) -> str:
        """The rows that count, as a subquery."""
        source = the_query(self.request)
        if self.sign:
            rest = ", ".join(quoted(name) for name in self.types if name != self.sign)
            sign = quoted(self.sign)
            return f"(SELECT {rest}, toInt8(1) AS {sign} FROM ({source}) AS raw GROUP BY {rest} HAVING sum(raw.{sign}) > 0)"
        if "ReplacingMergeTree" in self._engine:
            source += " FINAL"
        return f"({source})"

    def has_empty(self, column: str) -> bool:
        if "Nullable" not in self.types[column]:
            return False
        return bool(self._ask(f"SELECT 1 FROM ({the_query(self.request)}) WHERE {quoted(column)} IS NULL LIMIT 1"))

    def _column(self, name: str) -> str:
        """A column as something that Arrow has: wide integers, identifiers and enumerations as text, times as times."""
        kind = re.sub(r"^LowCardinality\((.*)\)$", r"\1", self.types[name])
        inner = re.sub(r"^Nullable\((.*)\)$", r"\1", kind)
        column = f"r.{quoted(name)}"
        if _PLAIN.match(inner) or inner.startswith(("Array", "Tuple", "Map", "Date32")):
            return column
        if inner.startswith("DateTime64"):
            return f"toTimeZone({column}, 'UTC')"
        if inner.startswith("DateTime"):
            return f"toDateTime64({column}, 0, 'UTC')"
        if inner == "Date":
            return f"toDate32({column})"
        if inner.startswith("Decimal"):
            return f"toDecimalString({column}, {_scale(inner)})"
        return f"toString({column})"

    def _after(self, name: str, parameter: str) -> str:
        if "DateTime" in self.types[name]:
            return f"toDateTime64({{{parameter}:String}}, 9, 'UTC')"
        return f"CAST({{{parameter}:String}}, '{self.types[name].replace(chr(39), chr(92) + chr(39))}')"

    def read(self, after: Sequence[str] | None) -> Iterator[pyarrow.Table]:
        columns = ", ".join(f"{self._column(name)} AS {quoted(name)}" for name in self.types)
        key = ", ".join(f"r.{quoted(name)}" for name in self.key)
        where, parameters = "", {}
        if after is not None:
            parameters = {f"key_{k}": value for k, value in enumerate(after)}
            values = ", ".join(self._after(name, f"key_{k}") for k, name in enumerate(self.key))
            where = f"WHERE ({key}) > ({values})"
        statement = f"SELECT {columns} FROM {self._rows} AS r {where} ORDER BY {key}"
        with self._client.query_arrow_stream(statement, parameters, settings=self._settings(), use_strings=True) as stream:
            for piece in stream:
                yield pyarrow.Table.from_batches([piece]) if isinstance(piece, pyarrow.RecordBatch) else piece


def _scale(decimal: str) -> int:
    return int(decimal.rstrip(")").rsplit(",", 1)[-1])


class ClickHouseSink:
    """Canonical tables into a database, one table each, sorted by their key; a row whose key is there already takes its
    place when the engine merges, and at once for who reads with FINAL (as the source above does).

    Exact integers are text: toInt256(amount0_raw) gives the number.
    """

    def __init__(self, url: str, location: str) -> None:
        self._client = _connect(url, location)

    def close(self) -> None:
        self._client.close()

    def create(self, table: Table, name: str) -> None:
        columns = ", ".join(
            f"{quoted(column.name)} {_KINDS[column.kind] if column.required else f'Nullable({_KINDS[column.kind]})'}"
            for column in table.columns
        )
        key = [quoted(column) for column in table.key]
        for column, other in table.instead:
            key.append(f"if({quoted(column)} IS NULL, {quoted(other)}, NULL)")
        self._client.command(
            f"CREATE TABLE IF NOT EXISTS {quoted(name)} ({columns}) ENGINE = ReplacingMergeTree ORDER BY ({', '.join(key)}) "
            "SETTINGS allow_nullable_key = 1"
        )

    def write(self, table: Table, name: str, batch: pyarrow.Table) -> None:
        """Insert a batch in one block."""
        self._client.insert_arrow(name, batch.select(list(table.names)))
