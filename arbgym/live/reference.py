"""A price from outside the chain: an exchange's REST or WebSocket stream in Binance's format, a growing CSV file, or a pool.

Formats: developers.binance.com, spot and futures market data (``bookTicker``, ``ticker/price``, ``trade``, ``aggTrade``; event
times in milliseconds). What is no price in the accepted range is kept out, counted and reported; the last good one stays, with
its own time, so that its age is what the risk gate judges.
"""

from __future__ import annotations

import asyncio
import csv
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

from arbgym.live.plain_json import load_json
from arbgym.live.prices import mid_price
from arbgym.live.terms import Clock, Head, PoolModel, Reference, WatchedPool

_FIRST_WAIT_S, _LONGEST_WAIT_S = 0.5, 30.0
_TIMEOUT_S = 10.0
_MOST_BYTES = 2**20
_NEWEST_BYTES = 2**14  # of a file, read at once
_REFUSALS_EVERY_S = 60.0  # one is told, and how many there were since the last
_MILLISECONDS = 1e3
_AHEAD_S = 5.0  # by how much a source's clock may be ahead of ours

Report = Callable[[str], None]
ACCEPTED = (1e-12, 1e15)  # quote per base


class ReferenceSource(Protocol):
    """Where a reference price comes from."""

    def latest(self) -> Reference | None:
        """The newest good price; None before the first."""

    async def start(self) -> None:
        """Begin to follow it."""

    async def close(self) -> None:
        """Let go of it."""


class Refusal(ValueError):
    """A message that holds no acceptable price."""


def _price(name: str, value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError) as error:
        raise Refusal(f"{name} = {str(value)[:40]!r}; accepted is a number") from error


def _value(message: dict[str, Any], *names: str) -> Any:
    return next((message[name] for name in names if name in message), None)


def read_message(message: Any, received_s: float) -> tuple[float, float]:
    """(price, time) of one message of Binance's formats; its event time where it has one, else when it was received.

    The price of a book is its mid. Raises Refusal (a ValueError) for anything else.
    """
    if isinstance(message, dict) and isinstance(message.get("data"), dict):  # combined streams wrap each message
        message = message["data"]
    if not isinstance(message, dict):
        raise Refusal(f"message = {str(message)[:40]!r}; accepted is a JSON object")
    bid, ask = _value(message, "b", "bidPrice"), _value(message, "a", "askPrice")
    if bid is not None and ask is not None:
        low, high = _price("bid", bid), _price("ask", ask)
        if not 0.0 < low <= high:
            raise Refusal(f"bid, ask = {low}, {high}; accepted is 0 < bid <= ask")
        price = (low + high) / 2.0
    else:
        price = _price("price", _value(message, "p", "price"))
    event_ms = _value(message, "E", "T", "time")
    return price, received_s if event_ms is None else _price("time", event_ms) / _MILLISECONDS


class _Followed:
    """The last good price, and a task that follows its source for as long as it is wanted."""

    def __init__(self, name: str, clock: Clock, accepted: tuple[float, float], report: Report) -> None:
        if not 0.0 < accepted[0] < accepted[1] < math.inf:
            raise ValueError(f"accepted = {accepted}; accepted are a lowest and a higher highest price, both positive")
        self._name, self._clock, self._accepted, self._report = name, clock, accepted, report
        self._latest: Reference | None = None
        self._task: asyncio.Task[None] | None = None
        self.refused = 0  # messages without an acceptable price
        self._told, self._tell_at_s = 0, -math.inf  # of them, by the last line; when there may be the next
        self.lost = 0  # connections and files

    def latest(self) -> Reference | None:
        """The newest good price; None before the first."""
        return self._latest

    async def start(self) -> None:
        """Follow the source in the background."""
        if self._task is None:
            self._task = asyncio.create_task(self._follow())

    async def close(self) -> None:
        """Stop following."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def take(self, price: float, time_s: float) -> None:
        """Make this the newest price. Raises Refusal where it is none, of a time to come, or older than the one held."""
        low, high = self._accepted
        if not low <= price <= high:
            raise Refusal(f"price = {price}; accepted is {low} to {high}")
        if not 0.0 < time_s < math.inf:
            raise Refusal(f"time = {time_s}; accepted are Unix seconds")
        # one that is accepted would have every later price refused as older, and would never grow old itself
        if time_s > (latest_s := self._clock.now() + _AHEAD_S):
            raise Refusal(f"time = {time_s}; accepted is up to {latest_s}, {_AHEAD_S:g} s from now")
        if self._latest is not None and time_s < self._latest.time_s:
            raise Refusal(f"time = {time_s}; accepted is {self._latest.time_s} or later: a newer price is here")
        self._latest = Reference(price, time_s, self._name)

    def take_message(self, text: str | bytes) -> None:
        """Take the price of one JSON message; what holds none is counted and reported."""
        try:
            try:
                message = load_json(text)
            except ValueError as error:
                raise Refusal("message: no JSON; accepted is a JSON object") from error
            self.take(*read_message(message, self._clock.now()))
        except Refusal as error:
            self._refuse(error)

    def _refuse(self, error: Refusal) -> None:
        self.refused += 1
        now_s = self._clock.monotonic()
        if now_s >= self._tell_at_s:  # a source may send hundreds a second, and every one may be wrong
            more = self.refused - self._told - 1
            self._report(f"reference {self._name}: {error}{f' (and {more} more refused since the last line)' if more else ''}")
            self._told, self._tell_at_s = self.refused, now_s + _REFUSALS_EVERY_S

    async def _follow(self) -> None:
        wait_s = _FIRST_WAIT_S
        while True:
            held = self._latest
            try:
                await self._take_all()
            except Exception as error:  # noqa: BLE001 - whatever a library raises, the price only grows old
                self.lost += 1
                self._report(f"reference {self._name}: lost ({type(error).__name__})")  # its words may hold the address
            wait_s = _FIRST_WAIT_S if self._latest is not held else min(2.0 * wait_s, _LONGEST_WAIT_S)
            await self._clock.sleep(wait_s)

    async def _take_all(self) -> None:
        """Take prices until the source ends or fails."""
        raise NotImplementedError


class RestReference(_Followed):
    """Asks a REST address (``.../ticker/bookTicker?symbol=...`` or ``.../ticker/price?symbol=...``) every ``poll_s`` seconds."""

    def __init__(
        self, url: str, clock: Clock, report: Report, *, poll_s: float = 1.0, accepted: tuple[float, float] = ACCEPTED
    ) -> None:
        super().__init__("rest", clock, accepted, report)
        self._url, self._poll_s = url, poll_s

    async def _take_all(self) -> None:
        import aiohttp

        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S)) as session:
            while True:
                async with session.get(self._url, raise_for_status=True) as answer:
                    self.take_message(await answer.content.read(_MOST_BYTES))
                await self._clock.sleep(self._poll_s)


class StreamReference(_Followed):
    """Listens to a WebSocket of ``bookTicker``, ``trade`` or ``aggTrade`` messages."""

    def __init__(self, url: str, clock: Clock, report: Report, *, accepted: tuple[float, float] = ACCEPTED) -> None:
        super().__init__("stream", clock, accepted, report)
        self._url = url

    async def _take_all(self) -> None:
        from websockets.asyncio.client import connect

        async with connect(self._url, open_timeout=_TIMEOUT_S, max_size=_MOST_BYTES, proxy=None) as socket:
            async for message in socket:
                self.take_message(message)
        raise ConnectionError("ended")


class FileReference(_Followed):
    """Follows a CSV file with columns timestamp (Unix seconds) and price, through appends and rotation."""

    def __init__(
        self, path: Path, clock: Clock, report: Report, *, poll_s: float = 0.25, accepted: tuple[float, float] = ACCEPTED
    ) -> None:
        super().__init__("file", clock, accepted, report)
        self._path, self._poll_s = path, poll_s

    async def _take_all(self) -> None:
        with self._path.open(newline="", encoding="utf-8", errors="replace") as file:
            columns = self._columns(await self._line(file))
            self._skip_the_past(file)
            while True:
                line = await self._line(file)
                if line is None:
                    return  # rotated: the new file is opened after a moment
                try:
                    self._take_row(next(csv.reader([line]), []), columns)
                except Refusal as error:
                    self._refuse(error)

    def _skip_the_past(self, file: IO[str]) -> None:
        """Go to the last rows: only the newest price counts, and the blocks do not wait for a year of them."""
        _, size = self._inode_and_size(file)
        if size - file.tell() > _NEWEST_BYTES:
            file.seek(size - _NEWEST_BYTES)
            file.readline()  # the rest of a row

    def _columns(self, line: str | None) -> tuple[int, int]:
        names = [name.strip() for name in next(csv.reader([line or ""]), [])]
        if "timestamp" not in names or "price" not in names:
            error = Refusal(f"columns = {names}; accepted are timestamp and price")
            self._refuse(error)
            raise error
        return names.index("timestamp"), names.index("price")

    def _take_row(self, row: Sequence[str], columns: tuple[int, int]) -> None:
        if len(row) <= max(columns):
            raise Refusal(f"row = {','.join(row)[:40]!r}; accepted is one with timestamp and price")
        self.take(_price("price", row[columns[1]]), _price("timestamp", row[columns[0]]))

    async def _line(self, file: IO[str]) -> str | None:
        """The next whole line, waiting for it; None once another file lies at the path, or this one was cut."""
        held = ""
        while True:
            held += file.readline()
            if held.endswith("\n"):
                return held
            try:
                lies_there = self._path.stat()
            except FileNotFoundError:
                return None
            here = self._inode_and_size(file)
            if lies_there.st_ino != here[0] or here[1] < file.tell():
                return None
            await self._clock.sleep(self._poll_s)

    @staticmethod
    def _inode_and_size(file: IO[str]) -> tuple[int, int]:
        import os

        told = os.fstat(file.fileno())
        return told.st_ino, told.st_size


class PoolReference:
    """The mid price of one of the watched pools, as of its block's time; the feed hands it each block."""

    def __init__(self, pool: int = 0) -> None:
        self._pool = pool
        self._latest: Reference | None = None

    def latest(self) -> Reference | None:
        """The price at the end of the newest block."""
        return self._latest

    async def start(self) -> None:
        """Nothing is to be opened: the feed has the pools."""

    async def close(self) -> None:
        """Nothing is to be closed."""

    def observe(self, head: Head, pools: Sequence[PoolModel], watched: Sequence[WatchedPool]) -> None:
        """Take the price at the end of a block."""
        price = mid_price(pools[self._pool], watched[self._pool])
        if math.isfinite(price) and price > 0.0:
            self._latest = Reference(price, float(head.timestamp), watched[self._pool].name)
