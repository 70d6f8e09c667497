"""Prices from outside: Binance's messages over REST and WebSocket, a file that grows, and what is refused of them."""

from __future__ import annotations

import asyncio
import json
import math
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.live.reference import FileReference, ReferenceSource, Refusal, RestReference, StreamReference, read_message
from arbgym.live.terms import Reference

NOW = 1_700_000_000.0
SECRET = "listen-key-123456"


class Clock:
    """Unix time stands still; a wait is a moment."""

    def __init__(self) -> None:
        self.waits: list[float] = []

    def now(self) -> float:
        return NOW

    def monotonic(self) -> float:
        return NOW

    async def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        await asyncio.sleep(0.002)


async def until(seen: Callable[[], bool]) -> None:
    async with asyncio.timeout(5.0):
        while not seen():
            await asyncio.sleep(0.002)


# --------------------------------------------------------------------------------------------------------------- messages
@pytest.mark.parametrize(
    ("message", "price", "time_s"),
    [
        ({"symbol": "ETHUSDC", "bidPrice": "2000.5", "bidQty": "1", "askPrice": "2001.5", "askQty": "2"}, 2001.0, NOW),
        ({"symbol": "ETHUSDC", "price": "1999.25"}, 1999.25, NOW),
        ({"u": 1, "s": "ETHUSDC", "b": "10", "B": "1", "a": "12", "A": "1"}, 11.0, NOW),
        ({"e": "bookTicker", "E": 1700000000123, "T": 1700000000100, "b": "10", "a": "10"}, 10.0, 1700000000.123),
        ({"e": "trade", "E": 1700000000500, "s": "X", "t": 1, "p": "7.5", "q": "1", "T": 1700000000400}, 7.5, 1700000000.5),
        ({"stream": "x@aggTrade", "data": {"e": "aggTrade", "E": 1700000001000, "a": 26129, "p": "8"}}, 8.0, 1700000001.0),
    ],
)
def test_messages_of_every_kind(message: Any, price: float, time_s: float) -> None:
    assert read_message(message, NOW) == (price, time_s)


@pytest.mark.parametrize(
    "message",
    [None, 7, [], {}, {"price": None}, {"price": "much"}, {"b": "12", "a": "10"}, {"b": "-1", "a": "1"}, {"p": "1", "E": "x"}],
)
def test_what_holds_no_price_is_refused_by_name(message: Any) -> None:
    with pytest.raises(Refusal, match="accepted"):
        read_message(message, NOW)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(["b", "a", "p", "price", "E", "T", "data"]), inner)
    ),
    max_leaves=6,
)


@given(st.lists(JSON | st.text(), max_size=6))
@settings(max_examples=100, deadline=None)
def test_whatever_comes_only_good_prices_are_held(messages: list[Any]) -> None:
    reports: list[str] = []
    source = StreamReference("ws://x", Clock(), reports.append, accepted=(0.5, 2.0))
    for message in messages:
        before, refused = source.latest(), source.refused
        source.take_message(message if isinstance(message, str) else json.dumps(message))
        held = source.latest()
        assert held is before or (held is not None and 0.5 <= held.price <= 2.0 and math.isfinite(held.time_s))
        assert source.refused == refused + (held is before)
    assert len(reports) == min(source.refused, 1)  # within a minute


def test_a_price_never_goes_back_in_time() -> None:
    source = StreamReference("ws://x", Clock(), lambda text: None)
    source.take_message('{"p": "2", "E": 2000}')
    source.take_message('{"p": "1", "E": 1000}')
    assert source.latest() == Reference(2.0, 2.0, "stream") and source.refused == 1


@pytest.mark.parametrize("time_ms", [NOW * 1e6, NOW * 1e3 + 60_000, 1e300])
def test_a_time_to_come_is_refused_and_keeps_no_later_price_out(time_ms: float) -> None:
    """Microseconds for milliseconds, a wrong clock."""
    reports: list[str] = []
    source = StreamReference("ws://x", Clock(), reports.append)
    source.take_message(json.dumps({"p": "1", "E": time_ms}))
    assert source.latest() is None and "time = " in reports[0] and f"accepted is up to {NOW + 5.0}" in reports[0]
    source.take_message(json.dumps({"p": "2", "E": NOW * 1e3}))
    source.take_message(json.dumps({"p": "3", "E": NOW * 1e3 + 4_000}))  # clocks differ a little
    assert source.latest() == Reference(3.0, NOW + 4.0, "stream") and source.refused == 1


# ---------------------------------------------------------------------------------------------------------------- servers
def serve(handler: Any, story: Callable[[str], Awaitable[None]]) -> None:
    async def run() -> None:
        app = web.Application()
        app.router.add_get("/", handler)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            await story(f"127.0.0.1:{runner.addresses[0][1]}/?key={SECRET}")
        finally:
            await runner.cleanup()

    asyncio.run(run())


async def followed(source: ReferenceSource, seen: Callable[[], bool]) -> None:
    await source.start()
    try:
        await until(seen)
    finally:
        await source.close()


def test_rest_is_polled_through_failures_and_nonsense() -> None:
    answers = [web.Response(status=503), "nonsense", '{"price": "-4"}', '{"price": "nan"}', '{"price": "1e99"}', '{"price": "5"}']
    left = list(answers)

    async def answer(request: web.Request) -> web.StreamResponse:
        told = left.pop(0) if left else '{"bidPrice": "6", "askPrice": "8"}'
        return told if isinstance(told, web.Response) else web.Response(text=told)

    async def story(url: str) -> None:
        clock, reports = Clock(), list[str]()
        source = RestReference(f"http://{url}", clock, reports.append, poll_s=0.7, accepted=(1e-3, 1e6))
        assert source.latest() is None
        await followed(source, lambda: source.latest() == Reference(7.0, NOW, "rest"))
        assert (source.refused, source.lost) == (4, 1)
        assert 0.7 in clock.waits and not any(SECRET in text for text in reports)

    serve(answer, story)


def test_a_stream_is_joined_again_after_each_loss_ever_more_slowly() -> None:
    joined = 0

    async def socket(request: web.Request) -> web.StreamResponse:
        nonlocal joined
        joined += 1
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        if joined in (1, 6):
            await opened.send_str(json.dumps({"e": "trade", "E": 1000 * joined, "p": str(joined)}))
        await opened.close()
        return opened

    async def story(url: str) -> None:
        clock, reports = Clock(), list[str]()
        source = StreamReference(f"ws://{url}", clock, reports.append)
        await followed(source, lambda: source.latest() == Reference(6.0, 6.0, "stream") and source.lost > 5)
        assert clock.waits[:6] == [0.5, 1.0, 2.0, 4.0, 8.0, 0.5]
        assert reports and not any(SECRET in text for text in reports)

    serve(socket, story)


def test_a_server_that_never_was_costs_the_price_only() -> None:
    async def run() -> None:
        clock, reports = Clock(), list[str]()
        for source in (
            RestReference(f"http://127.0.0.1:1/{SECRET}", clock, reports.append),
            StreamReference("ws://[", clock, reports.append),
        ):
            await followed(source, lambda source=source: source.lost > 2)
            assert source.latest() is None
        assert not any(SECRET in text for text in reports) and max(clock.waits) <= 30.0

    asyncio.run(run())


# ------------------------------------------------------------------------------------------------------------------ files
def test_a_file_is_followed_through_appends_rotation_and_cuts(tmp_path: Path) -> None:
    path, reports = tmp_path / "prices.csv", list[str]()

    async def run() -> None:
        source = FileReference(path, Clock(), reports.append)
        await source.start()
        await until(lambda: source.lost > 0)  # it is not there yet
        path.write_text("price,timestamp\n2000.5,100\n")
        await until(lambda: source.latest() == Reference(2000.5, 100.0, "file"))
        with path.open("a") as file:
            file.write("2001,1")
            file.flush()
            await asyncio.sleep(0.02)
            assert source.latest() == Reference(2000.5, 100.0, "file")  # half a line is none
            file.write(f"01\nnonsense\n-1,102\nnan,102\n2001,{NOW * 1e3:.0f}\n")
        await until(lambda: source.refused == 4)
        assert source.latest() == Reference(2001.0, 101.0, "file")
        path.rename(tmp_path / "prices.old")
        path.write_text("timestamp,price\n103,2003\n")
        await until(lambda: source.latest() == Reference(2003.0, 103.0, "file"))
        path.write_text("timestamp,price\n")  # cut in place
        await asyncio.sleep(0.05)
        with path.open("a") as file:
            file.write("104,2004\n")
        await until(lambda: source.latest() == Reference(2004.0, 104.0, "file"))
        await source.close()

    asyncio.run(run())
    assert any("nonsense" in text for text in reports)


def test_of_a_long_file_the_last_rows_are_read(tmp_path: Path) -> None:
    path, reports = tmp_path / "prices.csv", list[str]()
    rows = "".join(f"{2000 + number % 7},{number}\n" for number in range(1, 100_000))
    path.write_text("price,timestamp\n" + 100_000 * "nonsense\n" + rows + "2013.5,100000\n2014")

    async def run() -> None:
        source = FileReference(path, Clock(), reports.append)
        await source.start()
        await until(lambda: source.latest() == Reference(2013.5, 100_000.0, "file"))
        with path.open("a") as file:
            file.write(",100001\n")
        await until(lambda: source.latest() == Reference(2014.0, 100_001.0, "file"))
        assert source.refused == 0
        await source.close()

    asyncio.run(run())
    assert not reports


def test_many_refusals_are_one_line_a_minute() -> None:
    class Minutes(Clock):
        elapsed_s = 0.0

        def monotonic(self) -> float:
            return self.elapsed_s

    clock, reports = Minutes(), list[str]()
    source = StreamReference("ws://x", clock, reports.append)
    for _ in range(1_000):
        source.take_message("{}")
        clock.elapsed_s += 0.1  # 100 s in all
    assert source.refused == 1_000 and len(reports) == 2
    assert "more refused" not in reports[0] and "(and 599 more refused since the last line)" in reports[1]


def test_a_file_without_the_columns_is_reported(tmp_path: Path) -> None:
    path, reports = tmp_path / "prices.csv", list[str]()
    path.write_text("time,close\n1,2\n")

    async def run() -> None:
        source = FileReference(path, Clock(), reports.append)
        await followed(source, lambda: source.refused > 0)
        assert source.latest() is None

    asyncio.run(run())
    assert "accepted are timestamp and price" in reports[0]


@pytest.mark.parametrize("accepted", [(0.0, 1.0), (2.0, 1.0), (math.nan, 1.0), (1.0, math.inf)])
def test_the_accepted_range_is_two_prices(accepted: tuple[float, float]) -> None:
    with pytest.raises(ValueError, match="accepted = "):
        StreamReference("ws://x", Clock(), lambda text: None, accepted=accepted)
