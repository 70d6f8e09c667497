"""From a node into a store, block range by block range: resumable, idempotent, and right again after a reorganisation.

A range is taken only if its last block, the blocks of its events and the block before it were the same chain throughout.
What is known about the chain (where to go on, and the hashes of recent blocks) is remembered after the rows, and what a killed
process had written beyond that is compared with the chain before going on. When a remembered hash is no longer the chain's,
the rows from the fork on are taken out of the store and fetched again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from arbgym.data.needs import pl, pyarrow
from arbgym.data.sources.base import Patience
from arbgym.data.sources.events import TOPICS, Row, block_row, decode, place, pool_of
from arbgym.data.sources.pools import Pool
from arbgym.data.sources.rpc import Node, TooWide
from arbgym.data.store import Store, Written
from arbgym.data.tables import TABLES, arrow_schema
from arbgym.market.tape import TapeError

_HASHES = 256  # recent blocks whose hashes are remembered
_GROWTH = 1.25

Headers = dict[int, dict[str, Any]]
More = Callable[[int, int, Headers, list[Row]], list[Row]]


@dataclass
class Follower:
    """The events of ``pools`` on ``chain`` into ``store`` from block ``first`` on (or from where ``name`` was at its end).

    ``chunk_blocks``: blocks asked for at once at most; the range halves when the node refuses it and grows back.
    ``every_block``: keep all blocks, not only those with events. ``states``: makes the rows of pool_states of a range
    from its first and last block, headers and swaps.
    """

    node: Node
    store: Store
    chain: str
    pools: Sequence[Pool]
    first: int
    name: str
    chunk_blocks: int = 2_000
    every_block: bool = False
    states: More | None = None
    written: dict[str, Written] = field(default_factory=dict)
    repaired: int = 0  # reorganisations
    next_block: int = field(init=False)

    def __post_init__(self) -> None:
        if self.chunk_blocks < 1:
            raise TapeError(f"chunk_blocks = {self.chunk_blocks}; accepted is 1 or more")
        self._by_name = {pool.pool: pool for pool in self.pools}
        self._contracts = sorted({pool.contract for pool in self.pools})
        self._size = float(self.chunk_blocks)
        held = self.store.progress(self.name) or {}
        self.first = int(held.get("first", self.first))
        self.next_block = int(held.get("next_block", self.first))
        self._hashes: dict[int, str] = {int(number): text for number, text in held.get("hashes", [])}
        self._unsure = True  # a process before this one may have written more than it could remember
        for pool in self.pools:
            for table, rows in pool.rows(self.chain).items():
                self._append(table, rows)

    def advance(self, last: int, taken: Callable[[int], None] = lambda blocks: None) -> None:
        """Take blocks up to ``last``; ``taken`` is told the number of blocks after each range (negative: taken back)."""
        patience = Patience(60.0, self.node.location)
        moved = True  # whether the chain may have changed since the last range
        while self.next_block <= last:
            before = self.next_block
            if moved and self._repair():
                taken(self.next_block - before)
                continue
            try:
                moved = not self._take(before, min(last, before + max(1, int(self._size)) - 1))
            except TooWide:
                self._size = max(1.0, self._size / 2)
                continue
            if moved:  # or the node lags behind what it said
                patience.wait(TapeError(f"blocks from {before} are not of one chain yet"))
                continue
            self._size = min(float(self.chunk_blocks), max(self._size * _GROWTH, self._size + 1))
            patience.restored()
            taken(self.next_block - before)

    def _take(self, first: int, last: int) -> bool:
        """Store a range; False where it was not one chain."""
        anchor = {first - 1} if first - 1 >= 0 else set()
        ends = self.node.headers(sorted({*anchor, last}))
        logs = self.node.logs(first, last, self._contracts, [list(TOPICS)])
        events = [(log, pool) for log in logs if (pool := pool_of(log, self._by_name)) is not None]
        numbers = set(range(first, last + 1)) if self.every_block else {place(log)[0] for log, _ in events}
        headers = self.node.headers(sorted(numbers | {last}))
        if len(headers) < len(numbers | {last}) or len(ends) < len(anchor | {last}):
            return False
        if any(log["blockHash"] != headers[place(log)[0]]["hash"] for log, _ in events):
            return False
        rows: dict[str, list[Row]] = {"swaps": [], "liquidity_events": [], "pool_states": []}
        for log, pool in events:
            time_us = int(headers[place(log)[0]]["timestamp"], 16) * 1_000_000
            table, row = decode(log, pool, self.chain, time_us)
            rows[table].append(row)
        if self.states is not None:
            rows["pool_states"] = self.states(first, last, headers, rows["swaps"])
        rows["blocks"] = [block_row(headers[number], self.chain) for number in sorted(numbers)]
        again = self.node.headers(sorted({*anchor, last}))
        if any(again.get(number, {}).get("hash") != ends[number]["hash"] for number in ends):
            return False
        if headers[last]["hash"] != ends[last]["hash"]:
            return False
        if first - 1 in self._hashes and ends[first - 1]["hash"] != self._hashes[first - 1]:
            return False  # the next turn repairs it
        self._hashes |= {number: header["hash"] for number, header in (ends | headers).items()}
        self._store(first, last, rows)
        return True

    def _store(self, first: int, last: int, rows: dict[str, list[Row]]) -> None:
        if self._unsure:
            self._take_out(first, last, rows)
            self._unsure = False
        for table, found in rows.items():
            self._append(table, found)
        self.next_block = last + 1
        self._remember()

    def _append(self, table: str, rows: list[Row]) -> None:
        if rows:
            written = self.store.append(table, _frame(table, rows), source=self.name, replace=table == "pool_states")
            self.written[table] = self.written.get(table, Written()) + written

    def _remember(self) -> None:
        self._hashes = dict(sorted(self._hashes.items())[-_HASHES:])
        place = {"first": self.first, "next_block": self.next_block, "hashes": list(self._hashes.items())}
        self.store.set_progress(self.name, place)

    def _repair(self) -> bool:
        """Whether the chain is another than remembered; then what is no longer on it is out of the store."""
        known = sorted(self._hashes)
        if not known or self._still(known[-1]):
            return False
        while known and not self._still(known[-1]):
            known.pop()
        if not known and min(self._hashes) > max(self.first - 1, 0):
            raise TapeError(
                f"none of the last {len(self._hashes)} remembered blocks is on the node's chain; accepted is the same chain",
                path=self.node.location,
            )
        fork = max(known[-1] + 1 if known else self.first, self.first)
        self._take_out(fork, max(self.next_block - 1, max(self._hashes)), {})
        self._hashes = {number: text for number, text in self._hashes.items() if number < fork and known}
        self.next_block = fork
        self.repaired += 1
        self._remember()
        return True

    def _still(self, number: int) -> bool:
        found = self.node.headers([number]).get(number)
        return found is not None and found["hash"] == self._hashes[number]

    def _take_out(self, first: int, last: int, keep: dict[str, list[Row]]) -> None:
        """Remove the stored rows of these blocks that are not among ``keep``."""
        within = pl.col("block_number").is_between(first, last)
        for table in ("swaps", "liquidity_events", "pool_states"):
            mine = pl.col("pool").is_in(list(self._by_name))
            held = self.store.scan(table, chain=self.chain).filter(within, mine).collect()
            names = [name for name in ("block_number", "log_index", "pool", "transaction_hash") if name in held.columns]
            wanted = pl.DataFrame(_frame(table, keep.get(table, [])))
            self._remove(table, held.join(wanted, on=names, how="anti", nulls_equal=True))
        blocks = self.store.scan("blocks", chain=self.chain).filter(within).collect()
        now = self.node.headers(blocks["block_number"].to_list())
        hashes = [now[number]["hash"].lower() if number in now else "" for number in blocks["block_number"]]
        self._remove("blocks", blocks.filter(pl.col("block_hash") != pl.Series(hashes, dtype=pl.String)))

    def _remove(self, table: str, rows: pl.DataFrame) -> None:
        if len(rows):
            self.store.remove(table, rows.drop("source"))


def _frame(table: str, rows: list[Row]) -> pyarrow.Table:
    schema = arrow_schema(TABLES[table])
    filled = [{field.name: row.get(field.name) for field in schema if field.name != "source"} for row in rows]
    return pyarrow.Table.from_pylist(filled, schema=pyarrow.schema([field for field in schema if field.name != "source"]))
