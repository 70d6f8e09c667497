"""Tables that are canonical already, by their Arrow metadata or their columns."""

from __future__ import annotations

from collections.abc import Sequence

from arbgym.data.readers.base import Reader, Rows, Tables
from arbgym.data.tables import TABLES


def canonical_reader(columns: Sequence[str]) -> Reader | None:
    """A reader for the canonical table that has all these columns and lacks no required one; None if there is none."""
    held = set(columns) - {"source"}
    best = [
        table
        for table in TABLES.values()
        if held <= set(table.names)
        and all(column.name in held for column in table.columns if column.required and column.default is None)
        and all(name in held for name in table.key if name != "source" and table.column(name).default is None and not _free(name))
    ]
    if not best:
        return None
    table = min(best, key=lambda one: len(set(one.names) - held))

    def read(rows: Rows) -> Tables:
        kept = {name: rows.frame[name] for name in rows.frame.columns if name != "source"}
        return {table.name: rows.table(**kept)}

    return Reader(f"canonical_{table.name}", f"the canonical table {table.name}", tuple(sorted(held)), read)


def _free(name: str) -> bool:
    """Key columns that another stands in for."""
    return name in ("block_number", "timestamp", "transaction_hash")
