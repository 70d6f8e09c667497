"""Opportunities as they are seen, written into a store by environments and live runners alike."""

from __future__ import annotations

from types import TracebackType
from typing import Any

from arbgym.data.columns import as_polars
from arbgym.data.needs import pl
from arbgym.data.rules import check, conform
from arbgym.data.store import Store, Written
from arbgym.data.tables import TABLES
from arbgym.market.tape import TapeError

_TABLE = TABLES["opportunities"]


class OpportunityWriter:
    """Collects rows of the table ``opportunities`` and appends them to a store, ``buffer_rows`` at a time and at the end.

    ``source`` names the run and the policy. Rows get their number within the source (``sequence``), going on after what the store
    has of it, unless they bring their own: then writing them again adds nothing. As a context manager it flushes at the end.
    """

    def __init__(self, store: Store, *, source: str, buffer_rows: int = 50_000) -> None:
        if buffer_rows < 1:
            raise TapeError(f"buffer_rows = {buffer_rows}; accepted is 1 or more")
        self.store, self.source, self.buffer_rows = store, source, buffer_rows
        last = store.scan("opportunities", source=source).select(pl.col("sequence").max()).collect().item()
        self._next = 0 if last is None else int(last) + 1
        self._waiting: list[pl.DataFrame] = []
        self._rows = 0
        self.written = Written()

    def append(self, rows: Any) -> None:
        """Add rows: a dict of equally long columns (numpy arrays, lists), or a pandas, polars or Arrow table.

        ``timestamp`` may be a date or an epoch; ``symbol`` and ``chain`` may be one text for all. Checked at once: a
        TapeError names row and column, and what was added before stays.
        """
        if isinstance(rows, dict):
            length = max((len(values) for values in rows.values() if not _single(values)), default=1)
            rows = {name: [values] * length if _single(values) else values for name, values in rows.items()}
        frame = as_polars(rows)
        if not len(frame):
            return
        if "sequence" not in frame.columns:
            frame = frame.with_columns(pl.int_range(self._next, self._next + len(frame), dtype=pl.Int64).alias("sequence"))
        conformed = conform(_TABLE, frame, "opportunities", source=self.source)
        check(_TABLE, conformed, "opportunities")
        self._next = max(self._next, int(conformed["sequence"][-1]) + 1)
        self._waiting.append(conformed)
        self._rows += len(conformed)
        if self._rows >= self.buffer_rows:
            self.flush()

    def flush(self) -> Written:
        """Append what waits to the store; what this call wrote."""
        if not self._waiting:
            return Written()
        done = self.store.append("opportunities", pl.concat(self._waiting), source=self.source)
        self._waiting, self._rows = [], 0
        self.written += done
        return done

    def __enter__(self) -> OpportunityWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.flush()


def _single(values: Any) -> bool:
    return isinstance(values, str) or not hasattr(values, "__len__")
