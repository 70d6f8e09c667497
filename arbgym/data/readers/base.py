"""What every reader is: a name, the columns it knows a table by, and a function from rows to canonical tables."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Protocol

from arbgym.data import columns as read
from arbgym.data.needs import pl
from arbgym.data.rules import ROW
from arbgym.market.tape import TapeError

SIGN = "_sign"  # a column of +1 and -1: a row that takes back an equal one (a removed log, a collapsed row) is -1
Tables = dict[str, pl.DataFrame]


@dataclass(frozen=True)
class Options:
    """What a table may not tell about itself. Each is a flag of ``python -m arbgym.data import``."""

    chain: str | None = None
    pool: str | None = None
    protocol: str | None = None
    decimals: tuple[int, int] | None = None  # of token0 and token1
    fee_ppm: float | None = None
    venue: str | None = None
    symbol: str | None = None
    interval_s: int | None = None
    market: str | None = None
    token: str | None = None
    quote_token: str | None = None
    time: str | None = None  # of a snapshot without times
    skip_unknown: bool = False  # leave out pools whose tokens' decimals are unknown, rather than refuse the table


class Lookup(Protocol):
    """What a store knows already: decimals by pool and by token, times by block."""

    def decimals_of_pools(self, chain: str) -> pl.DataFrame:
        """Columns pool, decimals0, decimals1."""

    def decimals_of_tokens(self, chain: str) -> pl.DataFrame:
        """Columns address, decimals."""

    def times_of_blocks(self, chain: str, first: int, last: int) -> pl.DataFrame:
        """Columns block_number, timestamp."""


class NoLookup:
    """Nothing is known."""

    def decimals_of_pools(self, chain: str) -> pl.DataFrame:
        return pl.DataFrame(schema={"pool": pl.String, "decimals0": pl.Int64, "decimals1": pl.Int64})

    def decimals_of_tokens(self, chain: str) -> pl.DataFrame:
        return pl.DataFrame(schema={"address": pl.String, "decimals": pl.Int64})

    def times_of_blocks(self, chain: str, first: int, last: int) -> pl.DataFrame:
        return pl.DataFrame(schema={"block_number": pl.Int64, "timestamp": pl.Datetime("us", "UTC")})


@dataclass
class Rows:
    """A batch of a table, with what is known about it. ``memory`` (JSON values) lives from batch to batch."""

    frame: pl.DataFrame
    options: Options = field(default_factory=Options)
    path: str = ""
    first_row: int = 0
    lookup: Lookup = field(default_factory=NoLookup)
    memory: dict[str, Any] = field(default_factory=dict)

    def has(self, *names: str) -> bool:
        return not read.missing(self.frame.columns, names)

    def _column(self, names: tuple[str, ...]) -> pl.Series:
        for name in names:
            if name in self.frame.columns:
                return self.frame[name]
        return pl.Series(names[0], [None], pl.String).new_from_index(0, len(self.frame))

    def _read(self, how: Callable[..., pl.Series], names: tuple[str, ...], **more: Any) -> pl.Series:
        try:
            return how(self._column(names), self.first_row, **more)
        except TapeError as error:
            raise TapeError(error.rule, error.column, error.row, self.path, error.time) from error

    def time(self, *names: str) -> pl.Series:
        """The first of these columns that is there, as UTC times in microseconds; null without one. So do the others."""
        return self._read(read.times, names, units=self.memory.setdefault("units", {}))

    def number(self, *names: str) -> pl.Series:
        return self._read(read.floats, names)

    def whole(self, *names: str) -> pl.Series:
        return self._read(read.wholes, names)

    def raw(self, *names: str) -> pl.Series:
        return self._read(read.raws, names)

    def flag(self, *names: str) -> pl.Series:
        return self._read(read.flags, names)

    def text(self, *names: str) -> pl.Series:
        return read.names(self._column(names))

    def refuse_first(self, bad: pl.Series, column: str, rule: str) -> None:
        """Raise for the first row where ``bad`` is true, with the column's value there."""
        read.refuse_first(bad, self.frame[column], rule, self.first_row, self.path)

    def said(self, option: str, *names: str) -> Any:
        """A text column where the table has one of these names, else the option's value; refused where there is neither."""
        for name in names:
            if name in self.frame.columns:
                return self.text(name)
        value = getattr(self.options, option)
        if value is None:
            flag = "--" + option.replace("_", "-")
            raise TapeError(f"the table does not say its {option}; accepted is the option {flag}", path=self.path)
        return value.lower() if option == "pool" and str(value).startswith("0x") else value

    def table(self, **columns: Any) -> pl.DataFrame:
        """A frame of these columns (series, or one value for all rows; None ones are left out) and the rows' numbers."""
        count = len(self.frame)
        held = [pl.int_range(self.first_row, self.first_row + count, dtype=pl.Int64, eager=True).alias(ROW)]
        for name, values in columns.items():
            if isinstance(values, pl.Series):
                held.append(values.alias(name))
            elif values is not None:
                held.append(pl.Series(name, [values]).new_from_index(0, count))
        return pl.DataFrame(held)


@dataclass(frozen=True)
class Reader:
    """One format. ``needs``: the columns it is known by."""

    name: str
    title: str
    needs: tuple[str, ...]
    read: Callable[[Rows], Tables]


READERS: list[Reader] = []


def reader(name: str, title: str, needs: str) -> Callable[[Callable[[Rows], Tables]], Callable[[Rows], Tables]]:
    """Register a function as the reader of tables with these columns (blank-separated)."""

    def register(function: Callable[[Rows], Tables]) -> Callable[[Rows], Tables]:
        READERS.append(Reader(name, title, tuple(needs.split()), function))
        return function

    return register
