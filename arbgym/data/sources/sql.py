"""What the SQL of the databases shares: quoted names, the rows asked for, and a table's key with its stand-ins."""

from __future__ import annotations

from arbgym.data.sources.base import Request
from arbgym.data.tables import Table


def quoted(name: str) -> str:
    """A name as an SQL identifier."""
    return '"' + name.replace('"', '""') + '"'


def the_query(request: Request) -> str:
    """The SELECT that a request asks for."""
    if request.query is not None:
        return request.query.strip().rstrip(";")
    return f"SELECT * FROM {'.'.join(quoted(part) for part in str(request.table).split('.'))}"


def keys_of(table: Table) -> list[tuple[str, str]]:
    """The key's columns, each with the column that stands in for it where it is empty ('' where it never is)."""
    instead = dict(table.instead)
    return [(name, instead.get(name, "")) for name in table.key]
