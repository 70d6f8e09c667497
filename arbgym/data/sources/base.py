"""What every database source is: rows in the order of a key, in Arrow batches, from after a remembered key.

A batch never ends between rows of one key, so that "everything after the last key" is exactly what is still to come,
also where a key occurs twice. When the database goes away midway, the source waits for it and asks for the rows after
the last key that it gave; a process that dies asks for the same after its store's remembered key.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from arbgym.data.needs import pyarrow
from arbgym.data.tables import TABLES
from arbgym.market.tape import TapeError

# keys of tables that name none, best first; any column that is sorted with the rows will do, unique or not
_USUAL_KEYS = (
    ("chain", "block_number", "log_index"),
    ("network", "block_number", "transaction_index", "log_index"),
    ("block_number", "transaction_index", "log_index"),
    ("block_number", "log_index"),
    ("evt_block_number", "evt_index"),
    ("block_number", "transaction_index", "instruction_address"),
    ("slot", "transaction_index", "instruction_address"),
    ("block_number", "transaction_index"),
    ("block_number",),
    ("slot",),
    ("timestamp",),
    ("block_time",),
    ("open_time",),
    ("time",),
)


class SourceLost(ConnectionError):
    """A database or a node went away and did not come back in time. What was stored is whole: run again to go on there."""


@dataclass(frozen=True)
class Request:
    """What to read. ``table`` (may be schema.table) or ``query`` (one SELECT); ``key`` orders the rows (default: the
    table's own); ``batch_rows`` is the size of a batch; ``patience_s`` how long to wait for a database that went away.
    """

    location: str  # without a password; names the source, together with what follows
    table: str | None = None
    query: str | None = None
    key: tuple[str, ...] = ()
    batch_rows: int = 100_000
    patience_s: float = 60.0

    def __post_init__(self) -> None:
        if (self.table is None) == (self.query is None):
            raise TapeError("accepted is one of a table and a query (?table=NAME in the address)", path=self.location)
        if self.batch_rows < 1:
            raise TapeError(f"batch_rows = {self.batch_rows}; accepted is 1 or more", path=self.location)

    @property
    def name(self) -> str:
        """The source by what it reads, the same for every run that reads the same."""
        what = self.table or f"({' '.join((self.query or '').split())})"
        return f"{self.location} {what}" + (f" in the order of {','.join(self.key)}" if self.key else "")


@dataclass
class Source(ABC):
    """Iterate over it for Arrow tables; ``position`` is then the key (as text) up to which everything was given.

    Set ``position`` before the first batch to go on after it. Raises TapeError for what cannot be read, SourceLost when
    the database stays away.
    """

    request: Request
    position: list[str] | None = None
    key: tuple[str, ...] = field(init=False, default=())
    types: dict[str, str] = field(init=False, default_factory=dict)  # the database's type of each column

    def __post_init__(self) -> None:
        self.connect()
        self.types = dict(self.describe())
        self.key = self._choose_key()
        self._check_key()

    @property
    def name(self) -> str:
        return self.request.name

    @property
    @abstractmethod
    def lost(self) -> tuple[type[Exception], ...]:
        """The driver's errors that mean that the connection, not the question, is bad."""

    @abstractmethod
    def connect(self) -> None:
        """Open the connection, read-only. Raises TapeError where that cannot be."""

    @abstractmethod
    def close(self) -> None:
        """Close the connection."""

    @abstractmethod
    def describe(self) -> Mapping[str, str]:
        """Columns and their types. Raises TapeError naming the tables there are."""

    @abstractmethod
    def own_key(self) -> tuple[str, ...]:
        """The key that the database knows for the table; empty if none."""

    @abstractmethod
    def has_empty(self, column: str) -> bool:
        """Whether a column holds a null."""

    @abstractmethod
    def read(self, after: Sequence[str] | None) -> Iterator[pyarrow.Table]:
        """The rows after a key in the key's order, in pieces of any size."""

    def __iter__(self) -> Iterator[pyarrow.Table]:
        patience = Patience(self.request.patience_s, self.request.location)
        while True:
            held: list[pyarrow.Table] = []  # read but not given: may end within a key
            rows = 0
            try:
                for piece in self._pieces(self.read(self.position)):
                    patience.restored()
                    held.append(piece)
                    rows += piece.num_rows
                    if rows < self.request.batch_rows:
                        continue
                    table = pyarrow.concat_tables(held)
                    whole = table.num_rows - self._rows_of_last_key(table)
                    held, rows = [table.slice(whole)], table.num_rows - whole
                    if whole:
                        yield self._given(table.slice(0, whole))
                if rows:
                    yield self._given(pyarrow.concat_tables(held))
                return
            except self.lost as error:
                self._reconnect(patience, error)

    def _pieces(self, tables: Iterator[pyarrow.Table]) -> Iterator[pyarrow.Table]:
        """The same rows, no more than a batch at a time."""
        for table in tables:
            for start in range(0, table.num_rows, self.request.batch_rows):
                yield table.slice(start, self.request.batch_rows)

    def _given(self, batch: pyarrow.Table) -> pyarrow.Table:
        self.position = [as_text(batch[name][-1]) for name in self.key]
        return batch

    def _rows_of_last_key(self, table: pyarrow.Table) -> int:
        from pyarrow import compute

        same = None
        for name in self.key:
            equal = compute.equal(table[name], table[name][-1])
            same = equal if same is None else compute.and_(same, equal)
        return int(compute.sum(same).as_py())

    def _reconnect(self, patience: Patience, error: Exception) -> None:
        failures: tuple[type[Exception], ...] = (*self.lost, TapeError)
        while True:
            patience.wait(error)
            try:
                self.close()
                self.connect()
                return
            except failures as again:
                error = again

    def _choose_key(self) -> tuple[str, ...]:
        wanted = self.request.key
        if wanted:
            missing = [name for name in wanted if name not in self.types]
            if missing:
                raise TapeError(f"key: no such column; accepted are {', '.join(self.types)}", missing[0], path=self.name)
            return wanted
        table = (self.request.table or "").rsplit(".", 1)[-1]
        canonical = [TABLES[table].key] if table in TABLES else []
        for key in (*canonical, self.own_key(), *_USUAL_KEYS):
            if key and all(name in self.types for name in key) and not any(self.has_empty(name) for name in key):
                return key
        raise TapeError(
            f"no key is known for it; accepted is key=COLUMN,... of columns without nulls among {', '.join(self.types)}",
            path=self.name,
        )

    def _check_key(self) -> None:
        for name in self.key:
            if self.has_empty(name):
                raise TapeError("the key has nulls; accepted are key columns without", name, path=self.name)


class Patience:
    """Waits between tries, longer each time (0.1 to 5 s), and gives up after ``seconds`` without success."""

    def __init__(self, seconds: float, location: str) -> None:
        self._seconds, self._location = seconds, location
        self._since: float | None = None
        self._pause = 0.1

    def restored(self) -> None:
        """It works again."""
        self._since, self._pause = None, 0.1

    def wait(self, error: Exception) -> None:
        """Sleep before the next try. Raises SourceLost when patience is at its end."""
        now = time.monotonic()
        self._since = now if self._since is None else self._since
        if now - self._since >= self._seconds:
            raise SourceLost(
                f"{self._location}: gone for {now - self._since:.0f} s ({error}); what is stored is whole, run again to go on"
            ) from error
        time.sleep(min(self._pause, max(0.0, self._seconds - (now - self._since))))
        self._pause = min(2 * self._pause, 5.0)


def as_text(value: pyarrow.Scalar) -> str:
    """A key's value as text that the database turns back into the same value; times are UTC, to the last digit."""
    if pyarrow.types.is_timestamp(value.type):
        plain = pyarrow.timestamp(value.type.unit)
        return str(value.cast(plain).cast(pyarrow.string()).as_py())
    return str(value.as_py())
