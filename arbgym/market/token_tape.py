"""A token tape: the recorded price, flow and liquidity of launched tokens, step by step, checked before anything runs on it.

Tokens lie one after another in one array. Each is a regular grid of ``step_s`` seconds: a step in which nobody traded repeats
the price with zero volume. A row is known at its time, the end of its step. *Entries* are the rows at whose close a position is
bought; which rows those are is a buy signal's business (``arbgym.data.signals``).

| column | unit | meaning |
|---|---|---|
| time_s | Unix s, UTC | when the row is known |
| age_s | s | since the token's launch |
| price_quote | quote per token | close of the step |
| high_quote, low_quote | quote per token | highest and lowest price within the step |
| buy_quote, sell_quote | quote | volume bought and sold within the step |
| reserve_quote | quote | the pool's quote side at the close (its TVL is twice that); on the curve the virtual reserve |
| large_net_quote | quote | bought minus sold by large trades, 0 where unknown |
| known_net_quote | quote | bought minus sold by traders known as profitable, 0 where unknown |
| on_curve | 0 or 1 | 1 while the token trades on its bonding curve |
"""

from __future__ import annotations

import hashlib
import json
import math
import os
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.market.tape import TapeError

Floats = NDArray[np.float64]
Rows = NDArray[np.int64]

COLUMNS = (
    "time_s", "age_s", "price_quote", "high_quote", "low_quote", "buy_quote", "sell_quote", "reserve_quote",
    "large_net_quote", "known_net_quote", "on_curve",
)  # fmt: skip
TIME_S, AGE_S, PRICE, HIGH, LOW, BUY, SELL, RESERVE, LARGE_NET, KNOWN_NET, ON_CURVE = range(len(COLUMNS))
FORMAT_VERSION = 1
METADATA_KEY = b"arbgym.token_tape"
LEAST_ROWS = 2  # per token: one to buy at, one to sell in
_NO_ENTRIES = np.empty(0, dtype=np.int64)
_HOW_TO = "build one with python -m arbgym.data tokens"


@dataclass(frozen=True, eq=False)
class TokenTape:
    """K tokens in T rows.

    Args:
        rows: float64 (T, 11), columns as ``COLUMNS``; to read, not to write.
        starts: int64 (K + 1,); token k is ``rows[starts[k]:starts[k + 1]]``.
        names: K different names.
        step_s: length of a step, s.
        entries: int64 (E,), increasing: rows at whose close a position is bought. None or empty: the first row of each token
            that has liquidity there.
        quote: currency of prices, volumes and reserves.
        source: where the data is from.

    Raises TapeError naming row, column and token: an empty tape, a token of fewer than two rows, anything not finite, prices
    not positive, a close outside low and high, volumes or reserves below 0, a grid that is not regular, an ``on_curve`` that is
    neither 0 nor 1 or comes back after the migration, an entry out of range, at a token's last row or without liquidity.
    Zero liquidity elsewhere is a rug, which a tape may tell.
    """

    rows: Floats
    starts: Rows
    names: tuple[str, ...]
    step_s: float
    entries: Rows = field(default_factory=lambda: _NO_ENTRIES)
    quote: str = "USD"
    source: str = ""

    def __post_init__(self) -> None:
        rows = np.ascontiguousarray(self.rows, dtype=np.float64)
        if rows.ndim != 2 or rows.shape[1] != len(COLUMNS):
            raise TapeError(f"rows of shape {rows.shape}; accepted is (T, {len(COLUMNS)}): {', '.join(COLUMNS)}")
        if not len(rows):
            raise TapeError("empty; accepted is a tape of one token or more")
        if not (math.isfinite(self.step_s) and self.step_s > 0.0):
            raise TapeError(f"step_s = {self.step_s}; accepted are seconds above 0")
        object.__setattr__(self, "rows", rows)
        object.__setattr__(self, "step_s", float(self.step_s))
        object.__setattr__(self, "names", tuple(str(name) for name in self.names))
        object.__setattr__(self, "starts", self._checked_starts())
        self._check_values()
        self._check_grid()
        object.__setattr__(self, "entries", self._checked_entries())

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.names)

    def column(self, name: str) -> Floats:
        """The column as a view, float64 (T,). Raises TapeError for a name that is none of ``COLUMNS``."""
        if name not in COLUMNS:
            raise TapeError(f"no such column; accepted are {', '.join(COLUMNS)}", name)
        return self.rows[:, COLUMNS.index(name)]

    def token_of(self, rows: Rows) -> Rows:
        """Which token each row belongs to, int64, shape as ``rows``."""
        return np.searchsorted(self.starts, rows, side="right").astype(np.int64) - 1

    def with_entries(self, entries: Rows) -> TokenTape:
        """The same tokens bought at other rows. Raises TapeError as the constructor does, and where there is no entry."""
        entries = np.asarray(entries)
        if not entries.size:
            raise TapeError("no entries; accepted is one row or more", "entries")
        return replace(self, entries=entries)

    def between(self, start_s: float, end_s: float) -> TokenTape:
        """The same tokens with the entries whose time lies in [start_s, end_s), Unix s. Raises TapeError where none does."""
        if not start_s < end_s:
            raise TapeError(f"between {start_s} and {end_s}; accepted is a start before the end")
        times = self.rows[self.entries, TIME_S]
        kept = self.entries[(times >= start_s) & (times < end_s)]
        if not kept.size:
            raise TapeError(f"none between {_utc(start_s)} and {_utc(end_s)}; accepted is a span with one or more", "entries")
        return replace(self, entries=kept)

    @property
    def sha256(self) -> str:
        """Digest of values, tokens and entries: the tape's identity in a run's provenance."""
        digest = hashlib.sha256(self.rows.data)
        digest.update(self.starts.data)
        digest.update(self.entries.data)
        digest.update(repr((self.names, self.step_s, self.quote)).encode())
        return digest.hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as Parquet, a row for each row with its token's name; reads back to the last bit. Needs the extra ``data``.

        A file that exists is replaced only once the new one is complete. Raises TapeError for another suffix.
        """
        path = _parquet_path(path)
        pyarrow, parquet = _require_pyarrow()
        lengths = np.diff(self.starts)
        index = pyarrow.array(np.repeat(np.arange(len(self.names), dtype=np.int32), lengths))
        columns = {"token": pyarrow.DictionaryArray.from_arrays(index, list(self.names))}
        columns |= {name: self.rows[:, k] for k, name in enumerate(COLUMNS)}
        described = {"version": FORMAT_VERSION, "step_s": self.step_s, "quote": self.quote, "source": self.source}
        described["entries"] = self.entries.tolist()
        table = pyarrow.table(columns)
        table = table.replace_schema_metadata({METADATA_KEY: json.dumps(described, sort_keys=True).encode()})
        path.parent.mkdir(parents=True, exist_ok=True)
        beside = path.with_name(f".{path.name}.{os.getpid()}")
        try:
            parquet.write_table(table, beside, compression="zstd")
            beside.replace(path)
        finally:
            beside.unlink(missing_ok=True)

    @classmethod
    def load(cls, path: str | Path) -> TokenTape:
        """Read and check a tape that ``save`` wrote. Raises TapeError with the file, the row and the rule."""
        path = _parquet_path(path)
        if not path.is_file():
            raise TapeError(f"no such file; {_HOW_TO}", path=str(path))
        pyarrow, parquet = _require_pyarrow()
        try:
            table = parquet.read_table(path)
        except (pyarrow.ArrowException, OSError) as error:
            raise TapeError(f"not a Parquet file ({error})", path=str(path)) from error
        try:
            return cls._from_table(table)
        except TapeError as error:
            raise TapeError(error.rule, error.column, error.row, str(path), error.time) from error

    @classmethod
    def _from_table(cls, table: Any) -> TokenTape:
        described = _described((table.schema.metadata or {}).get(METADATA_KEY))
        for name in ("token", *COLUMNS):
            if name not in table.column_names:
                raise TapeError(f"missing; accepted is a table with token, {', '.join(COLUMNS)}", name)
        if not table.num_rows:
            raise TapeError("empty; accepted is a tape of one token or more")
        tokens = np.asarray(table.column("token").to_pylist(), dtype=object)
        starts = np.concatenate([[0], np.flatnonzero(tokens[1:] != tokens[:-1]) + 1, [len(tokens)]])
        try:
            rows = np.stack([np.asarray(table.column(name).to_numpy(), dtype=np.float64) for name in COLUMNS], axis=1)
            entries = np.asarray(described["entries"], dtype=np.int64)
        except (ValueError, TypeError) as error:
            raise TapeError(f"not numbers ({error}); {_HOW_TO}") from error
        words = {key: str(described.get(key, "")) for key in ("quote", "source")}
        return cls(rows, starts.astype(np.int64), tuple(tokens[starts[:-1]]), described["step_s"], entries, **words)

    def _checked_starts(self) -> Rows:
        starts, total = np.asarray(self.starts), len(self.rows)
        if starts.dtype.kind not in "iu" or starts.shape != (len(self.names) + 1,):
            raise TapeError(f"{starts.dtype} {starts.shape}; accepted is int64 ({len(self.names) + 1},)", "starts")
        starts = np.ascontiguousarray(starts, dtype=np.int64)
        if starts[0] != 0 or starts[-1] != total:
            raise TapeError(f"from {starts[0]} to {starts[-1]}; accepted is from 0 to the number of rows, {total}", "starts")
        short = np.flatnonzero(np.diff(starts) < LEAST_ROWS)
        if short.size:
            name, count = self.names[short[0]], int(np.diff(starts)[short[0]])
            raise TapeError(f"token {name}: {count} rows; accepted are {LEAST_ROWS} or more", "starts", int(starts[short[0]]))
        if len(set(self.names)) < len(self.names):
            twice = next(name for k, name in enumerate(self.names) if name in self.names[:k])
            raise TapeError(f"token {twice!r} occurs twice; accepted are different names", "names")
        return starts

    def _check_values(self) -> None:
        for k, name in enumerate(COLUMNS):
            self._refuse(~np.isfinite(self.rows[:, k]), k, "accepted are finite numbers")
            if name in ("price_quote", "high_quote", "low_quote"):
                self._refuse(self.rows[:, k] <= 0.0, k, "accepted are prices above 0")
            elif name in ("age_s", "buy_quote", "sell_quote", "reserve_quote"):
                self._refuse(self.rows[:, k] < 0.0, k, "accepted is 0 or more")
        price, curve = self.rows[:, PRICE], self.rows[:, ON_CURVE]
        self._refuse(self.rows[:, HIGH] < price, HIGH, "accepted is the close or more")
        self._refuse(self.rows[:, LOW] > price, LOW, "accepted is the close or less")
        self._refuse((curve != 0.0) & (curve != 1.0), ON_CURVE, "accepted are 0 and 1")

    def _check_grid(self) -> None:
        inside = np.ones(len(self.rows), dtype=np.bool_)
        inside[self.starts[:-1]] = False
        for k in (TIME_S, AGE_S):
            moves = np.diff(self.rows[:, k], prepend=self.rows[0, k])
            # a microsecond is what float64 holds of a Unix time
            off = np.abs(moves - self.step_s) > 1e-6 * (1.0 + self.step_s)
            self._refuse(inside & off, k, f"accepted are rows every {self.step_s:g} s within a token")
        curve = np.diff(self.rows[:, ON_CURVE], prepend=0.0)
        self._refuse(inside & (curve > 0.0), ON_CURVE, "accepted is 0 after the migration")

    def _checked_entries(self) -> Rows:
        entries = np.asarray(self.entries)
        if not entries.size:
            first = self.starts[:-1]
            entries = first[self.rows[first, RESERVE] > 0.0]
            if not entries.size:
                raise TapeError("no token has liquidity in its first row; accepted are entries at rows that do", "entries")
        if entries.dtype.kind not in "iu" or entries.ndim != 1:
            raise TapeError(f"{entries.dtype} {entries.shape}; accepted is int64 (E,)", "entries")
        entries = np.ascontiguousarray(entries, dtype=np.int64)
        wrong = np.flatnonzero((entries < 0) | (entries >= len(self.rows)))
        if wrong.size:
            raise TapeError(f"row {entries[wrong[0]]}; accepted are 0 to {len(self.rows) - 1}", "entries")
        if np.any(np.diff(entries) <= 0):
            raise TapeError("not increasing; accepted are different rows in order", "entries")
        last = np.flatnonzero(np.isin(entries, self.starts[1:] - 1))
        if last.size:
            row = int(entries[last[0]])
            raise TapeError(f"the last row of token {self._name(row)}; accepted are rows with one after them", "entries", row)
        dry = np.flatnonzero(self.rows[entries, RESERVE] <= 0.0)
        if dry.size:
            row = int(entries[dry[0]])
            raise TapeError(f"token {self._name(row)} has no liquidity there; accepted is a reserve above 0", "entries", row)
        return entries

    def _name(self, row: int) -> str:
        return self.names[int(np.searchsorted(self.starts, row, side="right")) - 1]

    def _refuse(self, bad: NDArray[np.bool_], column: int, accepted: str) -> None:
        if bad.any():
            row = int(np.argmax(bad))
            time = self.rows[row, TIME_S]
            at = int(time) if 0.0 <= time < 1e11 else None
            rule = f"token {self._name(row)}: {self.rows[row, column]:.10g}; {accepted}"
            raise TapeError(rule, COLUMNS[column], row, time=at)


def _utc(time_s: float) -> str:
    return f"{np.datetime64(int(time_s), 's')}Z" if abs(time_s) < 1e11 else str(time_s)


def _parquet_path(path: str | Path) -> Path:
    path = Path(path)
    if path.suffix != ".parquet":
        raise TapeError(f"suffix {path.suffix!r}; accepted is .parquet", path=str(path))
    return path


def _require_pyarrow() -> tuple[Any, Any]:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ImportError("token tapes in files need pyarrow: pip install 'arbgym[data]'") from error
    return pyarrow, parquet


def _described(text: bytes | None) -> dict[str, Any]:
    if text is None:
        raise TapeError(f"the schema metadata lacks {METADATA_KEY.decode()!r}; {_HOW_TO}")
    try:
        described = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TapeError(f"the description is not JSON ({error}); {_HOW_TO}") from error
    if not isinstance(described, dict) or described.get("version") != FORMAT_VERSION:
        raise TapeError(f"the description is no object of version {FORMAT_VERSION}; {_HOW_TO}")
    step = described.get("step_s")
    if isinstance(step, bool) or not isinstance(step, int | float) or not isinstance(described.get("entries"), list):
        raise TapeError(f"the description lacks step_s (a number) or entries (a list); {_HOW_TO}")
    return described
