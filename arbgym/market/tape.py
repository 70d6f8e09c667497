"""A tape: recorded exogenous events that drive a replay, as arrays, checked row by row before anything runs on them.

One row is one step of the environment. At its time a tape says what the reference price and the base fee were, and
for each pool its recorded price, its active liquidity and the net base amount that trades brought into it during the
row. Units: prices in quote per base; liquidity in human units, sqrt(base * quote) (raw Uniswap V3 liquidity over
10^((decimals0 + decimals1) / 2)); flow in base tokens, positive into the pool; base fee in gwei; times in Unix
seconds, UTC.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from arbgym.market.pools import MAX_POOLS, POOL_KINDS

Floats = NDArray[np.float64]

# columns of ``Tape.array()``: the shared ones, then pool k's at POOLS + 3 * k + PRICE, LIQUIDITY, FLOW_BASE
REFERENCE_PRICE, BASE_FEE_GWEI, POOLS = 0, 1, 2
PRICE, LIQUIDITY, FLOW_BASE = 0, 1, 2
LEAST_ROWS = 32
_MOST_JUMP = 2.0  # a price that more than doubles or halves within a row is refused
_CHUNK = 2**20  # rows looked at together
_MOST_FLOW = 0.9  # net flow as a share of the pool's virtual base


class TapeError(ValueError):
    """A table that cannot be true. Carries ``rule`` (what is wrong and what is accepted) and, where they apply,
    ``column``, ``row`` (first data row is 0), ``path`` and ``time`` (of that row, Unix s).
    """

    def __init__(self, rule: str, column: str = "", row: int | None = None, path: str = "", time: int | None = None) -> None:
        self.rule, self.column, self.row, self.path, self.time = rule, column, row, path, time
        at = "" if time is None else f"{np.datetime64(int(time), 's')}Z"
        where = [path] if path else []
        if row is not None:
            where.append(f"row {row} ({at})" if at else f"row {row}")
        elif at:
            where.append(at)
        where += [f"column {column}"] if column else []
        super().__init__(f"{', '.join(where) or 'tape'}: {rule}")


@dataclass(frozen=True)
class TapePool:
    """What a tape's pool is: kind v2 | v3 | reference (a venue that trades at the recorded price), fee in ppm of the input."""

    name: str
    kind: str
    fee_ppm: float

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z0-9_-]+", self.name):
            raise TapeError(f"pool name {self.name!r}; accepted are letters, digits, _ and -")
        if self.kind not in POOL_KINDS:
            raise TapeError(f"pool {self.name}: kind = {self.kind!r}; accepted are {', '.join(POOL_KINDS)}")
        if not 0.0 <= self.fee_ppm < 1e6:
            raise TapeError(f"pool {self.name}: fee_ppm = {self.fee_ppm}; accepted is 0 up to below 1e6")


@dataclass(frozen=True, eq=False)
class Tape:
    """T rows of K pools. Shapes: timestamps int64 (T,); reference_price, base_fee_gwei (T,); price, liquidity, flow_base
    (T, K). ``timestamps`` say when a row is known (the end of its step); ``filled`` are those of rows that hold a
    missing moment of the source, taken as one without a trade.

    Raises TapeError naming the row, the column and the rule: times strictly increasing in steps of ``step_seconds``
    (no gap), all values finite, prices and liquidity positive, no price more than doubling or halving in a row, base
    fee not negative, net flow below 90 % of what the pool's liquidity holds at its price in the row or the one above.
    """

    pools: tuple[TapePool, ...]
    timestamps: NDArray[np.int64]
    reference_price: Floats
    base_fee_gwei: Floats
    price: Floats
    liquidity: Floats
    flow_base: Floats
    step_seconds: int
    base: str = "WETH"
    quote: str = "USDC"
    source: str = ""
    filled: tuple[int, ...] = ()
    _rows: Floats | None = field(default=None, repr=False)  # what the columns are views of, where there is such an array

    def __post_init__(self) -> None:
        rows, count = len(self.timestamps), len(self.pools)
        if not 1 <= count <= MAX_POOLS:
            raise TapeError(f"{count} pools; accepted are 1 to {MAX_POOLS}")
        names = [pool.name for pool in self.pools]
        if len(set(names)) < count:
            raise TapeError(f"pools named {', '.join(names)}; accepted are different names")
        if self.step_seconds < 1:
            raise TapeError(f"step_seconds = {self.step_seconds}; accepted is 1 or more")
        shapes: dict[str, tuple[int, ...]] = {"reference_price": (rows,), "base_fee_gwei": (rows,)}
        shapes |= dict.fromkeys(("price", "liquidity", "flow_base"), (rows, count))
        for name, shape in shapes.items():
            if getattr(self, name).shape != shape:
                raise TapeError(f"shape {getattr(self, name).shape}; accepted is {shape}", name)
        if rows < LEAST_ROWS:
            raise TapeError(f"{rows} rows; accepted are {LEAST_ROWS} or more")
        for start in range(0, rows, _CHUNK):  # in pieces, so that a mapped file is not copied into memory
            self._check(max(start - 1, 0), min(start + _CHUNK, rows))

    @classmethod
    def from_rows(
        cls,
        pools: tuple[TapePool, ...],
        timestamps: NDArray[np.int64],
        rows: Floats,
        step_seconds: int,
        base: str = "WETH",
        quote: str = "USDC",
        source: str = "",
        filled: tuple[int, ...] = (),
    ) -> Tape:
        """A tape whose columns are views of ``rows``, laid out as ``array()`` says; nothing is copied, they may be mapped.

        ``rows`` is float64 (T, 2 + 3 K) in C order. Raises TapeError as the constructor does.
        """
        if rows.ndim != 2 or rows.shape[1] != POOLS + 3 * len(pools) or rows.dtype != np.float64 or not rows.flags.c_contiguous:
            raise TapeError(f"rows {rows.dtype} {rows.shape}; accepted is float64 (T, {POOLS + 3 * len(pools)}) in C order")
        rows = rows.view(np.ndarray)
        price, liquidity, flow = (rows[:, POOLS + part :: 3] for part in (PRICE, LIQUIDITY, FLOW_BASE))
        words = (step_seconds, base, quote, source, filled, rows)
        return cls(pools, timestamps, rows[:, REFERENCE_PRICE], rows[:, BASE_FEE_GWEI], price, liquidity, flow, *words)

    def _check(self, start: int, stop: int) -> None:
        """The rules on rows start to stop; the first of them is only the one above the next, unless it is the tape's first."""
        times = self.timestamps[start:stop]
        try:
            check_times(times, self.step_seconds)
            for name, column in self.columns().items():
                _check_column(name, column[start:stop], times)
            for k, pool in enumerate(self.pools):
                flow = self.flow_base[start:stop, k]
                held = self.liquidity[start:stop, k] / np.sqrt(self.price[start:stop, k])
                capacity = np.maximum(held, np.concatenate([held[:1], held[:-1]]))
                _refuse(
                    np.abs(flow) > _MOST_FLOW * capacity,
                    f"{pool.name}.flow_base",
                    flow,
                    times,
                    f"accepted is up to {_MOST_FLOW:.0%} of the base the liquidity holds in the row or the one above",
                )
        except TapeError as error:
            if error.row is None or not start:
                raise
            raise TapeError(error.rule, error.column, error.row + start, error.path, error.time) from error

    def columns(self) -> Mapping[str, Floats]:
        """The columns by their names in a file."""
        named = {"reference_price": self.reference_price, "base_fee_gwei": self.base_fee_gwei}
        for k, pool in enumerate(self.pools):
            named[f"{pool.name}.price"] = self.price[:, k]
            named[f"{pool.name}.liquidity"] = self.liquidity[:, k]
            named[f"{pool.name}.flow_base"] = self.flow_base[:, k]
        return named

    def array(self) -> Floats:
        """The kernels' view: float64 (T, 2 + 3 K), columns as the constants of this module say; to read, not to write.

        A tape made ``from_rows`` hands out those rows, another one a copy.
        """
        if self._rows is not None:
            return self._rows
        parts = [self.reference_price[:, None], self.base_fee_gwei[:, None]]
        parts.append(np.stack([self.price, self.liquidity, self.flow_base], axis=2).reshape(len(self.timestamps), -1))
        return np.ascontiguousarray(np.concatenate(parts, axis=1))

    def span(self, start: float, end: float, embargo_rows: int = 0) -> Tape:
        """The rows between two shares of the time, the first ``embargo_rows`` of them left out (a gap to an earlier span)."""
        if not 0.0 <= start < end <= 1.0:
            raise TapeError(f"span from {start} to {end}; accepted are shares with 0 <= start < end <= 1")
        rows = len(self.timestamps)
        chosen = slice(round(start * rows) + embargo_rows, round(end * rows))
        times = self.timestamps[chosen]
        known = set(np.intersect1d(np.array(self.filled, dtype=np.int64), times).tolist())
        return replace(
            self,
            timestamps=times,
            reference_price=self.reference_price[chosen],
            base_fee_gwei=self.base_fee_gwei[chosen],
            price=self.price[chosen],
            liquidity=self.liquidity[chosen],
            flow_base=self.flow_base[chosen],
            filled=tuple(time for time in self.filled if time in known),
            _rows=None if self._rows is None else self._rows[chosen],
        )

    def flow_error_bps(self, k: int) -> Floats:
        """How far pool k's recorded price is from its last one moved by the recorded flow, bps, (T - 1,), signed.

        The flow is swapped in one piece (fee taken on the way in) through the row's own liquidity. What remains is what
        a row cannot tell: the order of its trades, ranges crossed on the way, and prices recorded in whole ticks.
        """
        flow, keep = self.flow_base[1:, k], 1.0 - self.pools[k].fee_ppm * 1e-6
        net = np.where(flow > 0.0, flow * keep, flow)
        before, after = (1.0 / np.sqrt(self.price[rows, k]) for rows in (slice(None, -1), slice(1, None)))
        moved = np.maximum(before + net / self.liquidity[1:, k], 1e-3 * before)
        return np.asarray(2e4 * np.log(moved / after), dtype=np.float64)

    @property
    def sha256(self) -> str:
        """Digest of times and values: the tape's identity in a run's provenance."""
        digest = hashlib.sha256(np.ascontiguousarray(self.timestamps).data)
        digest.update(self.array().data)
        digest.update(repr((self.pools, self.step_seconds, self.base, self.quote)).encode())
        return digest.hexdigest()


def _refuse(bad: NDArray[np.bool_], column: str, values: Floats, times: NDArray[np.int64], accepted: str) -> None:
    rows = np.flatnonzero(bad)
    if rows.size:
        row = int(rows[0])
        raise TapeError(f"{values[row]:.10g}; {accepted}", column, row, time=int(times[row]))


def check_times(times: NDArray[np.int64], step_seconds: int | None, column: str = "timestamp") -> None:
    """Refuse times (Unix s) that repeat, go back or, where ``step_seconds`` is given, are not that far apart."""
    moves = np.diff(times)
    rules = [
        (moves == 0, "time occurs twice; accepted are strictly increasing times"),
        (moves < 0, "time before the row above; accepted are sorted times"),
    ]
    if step_seconds is not None:
        rules.append((moves != step_seconds, f"gap of {{}} s; accepted are rows every {step_seconds} s"))
    for bad, rule in rules:
        if bad.any():
            row = int(np.argmax(bad)) + 1
            raise TapeError(rule.format(int(moves[row - 1])), column, row, time=int(times[row]))


def _check_column(name: str, column: Floats, times: NDArray[np.int64]) -> None:
    _refuse(~np.isfinite(column), name, column, times, "accepted are finite numbers")
    kind = name.rsplit(".", 1)[-1]
    if kind in ("price", "reference_price", "liquidity"):
        _refuse(column <= 0.0, name, column, times, "accepted are positive numbers")
    if kind == "base_fee_gwei":
        _refuse(column < 0.0, name, column, times, "accepted is 0 or more")
        _refuse(column > 1e7, name, column, times, "accepted is up to 1e7 gwei")
    if kind in ("price", "reference_price"):
        ratio = column[1:] / column[:-1]
        jump = np.concatenate([[False], (ratio > _MOST_JUMP) | (ratio < 1.0 / _MOST_JUMP)])
        _refuse(jump, name, column, times, f"accepted is within a factor of {_MOST_JUMP:g} of the row above")
