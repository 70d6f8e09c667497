"""Follow a node and an exchange live: ``python -m arbgym.data record``, until Ctrl-C or a number of blocks.

Every new block goes into the store with the pools' events and their states after it; a gap since the last run is filled
first. Prices come from a REST endpoint that answers as Binance's ticker/bookTicker or ticker/price do; they are known when
they arrive.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from types import FrameType
from typing import Any
from urllib.parse import urlsplit

import requests

from arbgym.data.needs import pl
from arbgym.data.sources.events import Row
from arbgym.data.sources.follow import Follower, Headers
from arbgym.data.sources.node import opened, remembered_as, summary
from arbgym.data.sources.pools import Pool
from arbgym.data.sources.rpc import Call, Node, NodeError
from arbgym.data.store import Store
from arbgym.market.tape import TapeError

_RANGE = 64  # blocks at once: nodes keep the state of about the last 128


class States:
    """Makes the rows of pool_states: each pool after each block, with the net flow since the row before."""

    def __init__(self, node: Node, store: Store, chain: str, pools: list[Pool]) -> None:
        self._node, self._store, self._chain, self._pools = node, store, chain, pools
        self.missing = 0  # states that the node no longer had

    def __call__(self, first: int, last: int, headers: Headers, swaps: list[Row]) -> list[Row]:
        rows: list[Row] = []
        for pool in self._pools:
            earlier = self._last_before(pool, first)
            flow = self._flow_since(pool, earlier, first)
            for number in range(first, last + 1):
                for swap in swaps:
                    if swap["pool"] == pool.pool and swap["block_number"] == number:
                        _add(flow, swap["amount0"], swap["amount1"])
                state = self._read(pool, number)
                if state is None:
                    continue
                now = int(headers[number]["timestamp"], 16) * 1_000_000
                row = {"timestamp": now, "chain": self._chain, "pool": pool.pool, "protocol": pool.protocol}
                row |= {"block_number": number, "fee_ppm": pool.fee_ppm, "interval_s": 0} | state | flow
                if earlier is not None and earlier["timestamp"] == now:  # blocks faster than the clock: one row, the last state
                    row |= {name: earlier[name] + flow[name] for name in flow} | {"interval_s": earlier["interval_s"]}
                    if rows and rows[-1] is earlier:
                        rows.pop()
                elif earlier is not None:
                    row["interval_s"] = (now - earlier["timestamp"]) // 1_000_000
                rows.append(row)
                earlier, flow = row, _no_flow()
        return rows

    def _flow_since(self, pool: Pool, earlier: Row | None, first: int) -> Row:
        """The flow after the last row and before block ``first``: of blocks without a state of their own."""
        flow = _no_flow()
        if earlier is not None and earlier["block_number"] < first - 1:
            between = pl.col("block_number").is_between(earlier["block_number"] + 1, first - 1)
            swaps = self._store.scan("swaps", chain=self._chain, pool=pool.pool).filter(between)
            for amount0, amount1 in swaps.select("amount0", "amount1").collect().iter_rows():
                _add(flow, amount0, amount1)
        return flow

    def _read(self, pool: Pool, number: int) -> Row | None:
        calls: list[Call] = pool.state_calls(number)
        try:
            return pool.state(self._node.batch(calls))
        except NodeError:  # a pruned state, or a block that is no longer the chain's (the range is then taken again)
            self.missing += 1
            return None

    def _last_before(self, pool: Pool, block: int) -> Row | None:
        held = self._store.scan("pool_states", chain=self._chain, pool=pool.pool).filter(pl.col("block_number") < block)
        last = held.sort("block_number").tail(1).collect()
        if not len(last):
            return None
        row: Row = last.row(0, named=True)
        return row | {"timestamp": round(row["timestamp"].timestamp() * 1_000_000)}


def _no_flow() -> Row:
    return {"net_amount0": 0.0, "net_amount1": 0.0, "in_amount0": 0.0, "in_amount1": 0.0}


def _add(flow: Row, amount0: float, amount1: float) -> None:
    for side, amount in enumerate((amount0, amount1)):
        flow[f"net_amount{side}"] += amount
        flow[f"in_amount{side}"] += max(amount, 0.0)


class Prices:
    """An exchange's price by REST, into reference_prices. An exchange that does not answer is counted, not waited for."""

    def __init__(self, url: str, venue: str | None, store: Store) -> None:
        self._url, self._store = url, store
        self.venue = venue or (urlsplit(url).hostname or url)
        self.recorded = self.failed = 0

    def record(self) -> None:
        """Ask once and store the answer. Raises TapeError for an answer in another format."""
        try:
            answer = requests.get(self._url, timeout=5)
            answer.raise_for_status()
            found = answer.json()
        except requests.RequestException as error:
            self.failed += 1
            if self.failed == 1:
                print(f"{self.venue} did not answer ({error}); going on", file=sys.stderr)
            return
        now = datetime.now(UTC)
        self._store.append("reference_prices", pl.DataFrame([quote(found, self.venue, now, self._url)]), source=self.venue)
        self.recorded += 1


def quote(found: Any, venue: str, now: datetime, url: str) -> Row:
    """A row of reference_prices from what Binance's bookTicker or price endpoint answers. Raises TapeError."""
    row: Row = {"timestamp": now, "venue": venue}
    try:
        row["symbol"] = str(found["symbol"])
        if "bidPrice" in found:
            row |= {"kind": "quote", "bid": float(found["bidPrice"]), "ask": float(found["askPrice"])}
            row |= {"bid_size": float(found["bidQty"]), "ask_size": float(found["askQty"])}
            return row | {"price": (row["bid"] + row["ask"]) / 2.0}
        return row | {"kind": "price", "price": float(found["price"])}
    except (KeyError, TypeError, ValueError) as error:
        raise TapeError(
            f"{found!r}; accepted is the answer of ticker/bookTicker or ticker/price for one symbol", path=url
        ) from error


@contextmanager
def _stop() -> Iterator[threading.Event]:
    """Set by the first Ctrl-C, so that what is being written is written; the second interrupts as ever."""
    stop = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.getsignal(signal.SIGINT)

    def asked(number: int, frame: FrameType | None) -> None:
        stop.set()
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, asked)
    try:
        yield stop
    except KeyboardInterrupt:  # polars raises its own for the signal that was taken above
        if not stop.is_set():
            raise
    finally:
        signal.signal(signal.SIGINT, before)


def run(chosen: argparse.Namespace) -> int:
    """Record until Ctrl-C or the number of blocks; 0 at either. Raises TapeError and SourceLost."""
    from tqdm import tqdm

    if chosen.blocks is not None and chosen.blocks < 1:
        raise TapeError(f"blocks = {chosen.blocks}; accepted is 1 or more")
    node, chain, pools = opened(chosen)
    store = Store(chosen.store)
    prices = Prices(chosen.price_url, chosen.venue, store) if chosen.price_url else None
    states = States(node, store, chain, pools)
    head = node.block_number() - chosen.confirmations
    name = remembered_as("record", chain, pools)
    follower = Follower(node, store, chain, pools, max(0, head), name, min(chosen.chunk_blocks, _RANGE), True, states)
    recorded = 0
    with tqdm(total=chosen.blocks, unit=" blocks", desc=f"recording {chain}", disable=chosen.quiet) as bar, _stop() as stop:
        while not stop.is_set():
            if prices is not None:
                prices.record()
            head = node.block_number() - chosen.confirmations
            if chosen.blocks is not None:
                head = min(head, follower.next_block + chosen.blocks - recorded - 1)
            before = follower.next_block
            follower.advance(head, bar.update)
            recorded += follower.next_block - before
            if chosen.blocks is not None and recorded >= chosen.blocks:
                break
            stop.wait(chosen.poll_seconds)
    if stop.is_set():
        print("stopped; run again to go on", file=sys.stderr)
    print(summary(follower))
    if prices is not None:
        print(f"{prices.venue}: {prices.recorded} prices, {prices.failed} unanswered")
    if states.missing:
        print(f"{states.missing} states were no longer at the node (events are complete)")
    return 0
