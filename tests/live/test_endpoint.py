"""The endpoint against a server that misbehaves in every way, on loopback: a refusal, or no answer, and nothing else."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

import contextlib

from aiohttp import WSMsgType, web
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.live.clock import SystemClock
from arbgym.live.endpoint import LocatedEndpoint, connect
from arbgym.live.terms import LiveError, Refused, Unknown

KEY = "c0ffee-secret-key"
Answer = Callable[[Any], Any]  # from a request's JSON to the text, the JSON, or the web response


def good(asked: Any) -> Any:
    """As a node should: the method's name and parameters are the result."""
    if isinstance(asked, list):
        return [good(one) for one in asked]
    return {"jsonrpc": "2.0", "id": asked["id"], "result": [asked["method"], asked["params"]]}


def serve(scheme: str, answer: Answer, story: Callable[[LocatedEndpoint], Awaitable[None]], timeout_s: float = 0.3) -> list[Any]:
    """Run a story with an endpoint on a server that answers so; what the server was asked."""
    asked: list[Any] = []

    async def post(request: web.Request) -> web.StreamResponse:
        asked.append(json.loads(await request.read()))
        told = answer(asked[-1])
        if asyncio.iscoroutine(told):
            told = await told
        if isinstance(told, web.StreamResponse):
            return told
        return web.Response(text=told if isinstance(told, str) else json.dumps(told))

    async def socket(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        async for message in opened:
            if message.type != WSMsgType.TEXT:
                break
            asked.append(json.loads(message.data))
            told = answer(asked[-1])
            if asyncio.iscoroutine(told):
                told = await told
            if isinstance(told, web.StreamResponse):  # there are no statuses here: hang up
                await opened.close()
                break
            await opened.send_str(told if isinstance(told, str) else json.dumps(told))
        return opened

    async def run() -> None:
        app = web.Application()
        app.router.add_post("/{key}", post)
        app.router.add_get("/{key}", socket)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        port = runner.addresses[0][1]
        endpoint = connect(
            f"{scheme}://user:hidden-word@127.0.0.1:{port}/{KEY}", timeout_s=timeout_s, clock=SystemClock(), poll_s=0.01
        )
        try:
            assert endpoint.location == f"{scheme}://127.0.0.1:{port}"
            assert KEY not in repr(endpoint) and "hidden" not in repr(endpoint)
            await story(endpoint)
        finally:
            await endpoint.close()
            await runner.cleanup()

    asyncio.run(run())
    return asked


BOTH = pytest.mark.parametrize("scheme", ["http", "ws"])


@BOTH
def test_answers_come_in_the_order_asked(scheme: str) -> None:
    async def story(endpoint: LocatedEndpoint) -> None:
        assert await endpoint.request("eth_one", [1, {"a": 2}]) == ["eth_one", [1, {"a": 2}]]
        calls = [(f"eth_{k}", [k]) for k in range(230)]
        assert await endpoint.batch(calls) == [[f"eth_{k}", [k]] for k in range(230)]
        assert await endpoint.batch([]) == []
        both = await asyncio.gather(*(endpoint.request("eth_at_once", [k]) for k in range(20)))
        assert both == [["eth_at_once", [k]] for k in range(20)]

    serve(scheme, lambda asked: good(asked)[::-1] if isinstance(asked, list) else good(asked), story)


async def slow(asked: Any) -> Any:
    await asyncio.sleep(1.0)
    return good(asked)


def cut(keep: str, asked: Any) -> Any:
    told = good(asked)
    return {name: value for name, value in told.items() if name in ("jsonrpc", keep)} if isinstance(told, dict) else told


BAD: dict[str, tuple[str, Answer]] = {
    "slow": ("timeout", slow),
    "hang up": ("connection", lambda asked: web.Response(status=503)),
    "not JSON": ("malformed", lambda asked: "<html>busy</html>"),
    "deep": ("malformed", lambda asked: "[" * 100_000),
}
BAD_HTTP: dict[str, tuple[str, Answer]] = {
    "429": ("rate_limited", lambda asked: web.Response(status=429, text="{}")),
    "500": ("server", lambda asked: web.Response(status=500, text=json.dumps(good(asked)))),
    "503": ("server", lambda asked: web.Response(status=503)),
    "404": ("malformed", lambda asked: web.Response(status=404, text="no")),
    "redirect": ("malformed", lambda asked: web.Response(status=307, headers={"Location": "/elsewhere"})),
    "a number": ("malformed", lambda asked: 7),
    "no result": ("malformed", lambda asked: cut("id", asked)),
    "no id": ("malformed", lambda asked: cut("result", asked)),
    "other id": ("malformed", lambda asked: good(asked) | {"id": 999}),
    "id as text": ("malformed", lambda asked: good(asked) | {"id": str(asked["id"])}),
    "error as text": ("malformed", lambda asked: {"id": asked["id"], "error": "no"}),
    "code as text": ("malformed", lambda asked: {"id": asked["id"], "error": {"code": "3", "message": "no"}}),
    "error of nobody": ("malformed", lambda asked: {"id": None, "error": {"code": 3, "message": "no"}}),
}


@pytest.mark.parametrize("name", BAD_HTTP)
def test_what_is_no_answer_over_http(name: str) -> None:
    kind, answer = BAD_HTTP[name]

    async def story(endpoint: LocatedEndpoint) -> None:
        with pytest.raises(Unknown) as caught:
            await endpoint.request("eth_sendRawTransaction", ["0x00"])
        assert caught.value.kind == kind and caught.value.method == "eth_sendRawTransaction"
        assert KEY not in str(caught.value)

    assert len(serve("http", answer, story)) == 1  # never twice


@BOTH
@pytest.mark.parametrize("name", BAD)
def test_what_is_no_answer(scheme: str, name: str) -> None:
    kind, answer = BAD[name]
    kind = "server" if name == "hang up" and scheme == "http" else kind

    async def story(endpoint: LocatedEndpoint) -> None:
        assert await endpoint.request("eth_chainId", [])
        with pytest.raises(Unknown) as caught:
            await endpoint.request("eth_sendRawTransaction", ["0x00"])
        assert caught.value.kind == kind
        assert (KEY not in str(caught.value) and caught.value.__cause__ is None) or KEY not in repr(caught.value.__cause__)

    assert len(serve(scheme, lambda asked: good(asked) if asked["method"] == "eth_chainId" else answer(asked), story)) == 2


@BOTH
def test_partial_repeated_and_single_answers_to_a_batch(scheme: str) -> None:
    answers: list[Answer] = [
        lambda asked: good(asked)[:-1],
        lambda asked: [good(asked)[0], *good(asked)[:-1]],
        lambda asked: [*good(asked)[:-1], 7],
        lambda asked: [*good(asked), *good(asked)],
        lambda asked: good(asked[0]),
    ]
    for answer in answers:

        async def story(endpoint: LocatedEndpoint) -> None:
            with pytest.raises(Unknown) as caught:
                await endpoint.batch([("eth_a", []), ("eth_b", []), ("eth_c", [])])
            assert caught.value.kind == "malformed"

        assert len(serve(scheme, answer, story)) == 1


@BOTH
def test_a_refusal_is_the_node_s_own_words_without_our_key(scheme: str) -> None:
    def refuse(asked: Any) -> Any:
        if isinstance(asked, list):
            return [good(asked[0]), refuse(asked[1])]
        error = {"code": -32000, "message": f"nonce too low for {KEY}", "data": {"data": "0x08c379a0"}}
        return {"jsonrpc": "2.0", "id": asked["id"], "error": error}

    async def story(endpoint: LocatedEndpoint) -> None:
        with pytest.raises(Refused) as caught:
            await endpoint.request("eth_call", [])
        assert (caught.value.code, caught.value.message, caught.value.data) == (-32000, "nonce too low for ***", "0x08c379a0")
        with pytest.raises(Refused) as caught:
            await endpoint.batch([("eth_a", []), ("eth_b", [])])
        assert caught.value.method == "eth_b"

    serve(scheme, refuse, story)


@BOTH
def test_a_lost_node_is_found_again_by_the_next_request(scheme: str) -> None:
    told = iter([lambda asked: web.Response(status=502), good, good])

    async def story(endpoint: LocatedEndpoint) -> None:
        with pytest.raises(Unknown):
            await endpoint.request("eth_a", [])
        assert await endpoint.request("eth_b", []) == ["eth_b", []]
        assert await endpoint.request("eth_c", []) == ["eth_c", []]

    serve(scheme, lambda asked: next(told)(asked), story)


def test_a_transaction_waits_for_no_connection() -> None:
    """The gate's last word was before: a kill that is engaged while connecting must hold."""

    async def story(endpoint: LocatedEndpoint) -> None:
        for _ in range(2):
            with pytest.raises(Unknown, match="down; not sent") as caught:  # before the first connection
                await endpoint.request("eth_sendRawTransaction", ["0x00"])
            assert caught.value.kind == "connection"
        assert await endpoint.request("eth_a", []) == ["eth_a", []]
        assert await endpoint.request("eth_sendRawTransaction", ["0x01"]) == ["eth_sendRawTransaction", ["0x01"]]
        with pytest.raises(Unknown):
            await endpoint.request("hang up", [])
        with pytest.raises(Unknown, match="down; not sent"):
            await endpoint.request("eth_sendRawTransaction", ["0x02"])
        assert await endpoint.request("eth_b", []) == ["eth_b", []]
        assert await endpoint.request("eth_sendRawTransaction", ["0x03"]) == ["eth_sendRawTransaction", ["0x03"]]

    def answer(asked: Any) -> Any:
        return web.Response(status=502) if asked["method"] == "hang up" else good(asked)

    asked = serve("ws", answer, story)
    assert [one["params"] for one in asked if one["method"] == "eth_sendRawTransaction"] == [["0x01"], ["0x03"]]


def test_a_transaction_over_http_spends_little_time_in_connecting() -> None:
    async def run() -> None:
        server = await asyncio.start_server(lambda reader, writer: asyncio.sleep(10.0), "127.0.0.1", 0)  # no TLS handshake ever
        clock = SystemClock()
        endpoint = connect(f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/", timeout_s=5.0, clock=clock)
        started = clock.monotonic()
        with pytest.raises(Unknown, match="not sent") as caught:
            await endpoint.request("eth_sendRawTransaction", ["0x00"])
        assert caught.value.kind == "connection" and clock.monotonic() - started < 2.0
        await endpoint.close()
        server.close()

    asyncio.run(run())


@BOTH
def test_nobody_there(scheme: str) -> None:
    async def run() -> None:
        endpoint = connect(f"{scheme}://user:hidden@127.0.0.1:1/{KEY}?key={KEY}", timeout_s=1.0, clock=SystemClock())
        for _ in range(2):
            with pytest.raises(Unknown) as caught:
                await endpoint.batch([("eth_a", [])])
            assert caught.value.kind == "connection"
            assert str(caught.value) == "eth_a: connection: no node answers at 127.0.0.1:1 (connection refused)"
        await endpoint.close()

    asyncio.run(run())


@BOTH
def test_a_name_that_nobody_has_and_a_path_that_nobody_serves(scheme: str) -> None:
    async def run() -> None:
        endpoint = connect(f"{scheme}://nobody.invalid/{KEY}", timeout_s=5.0, clock=SystemClock())
        with pytest.raises(Unknown, match=r"no node answers at nobody\.invalid:80 \([a-z ]+\)") as caught:
            await endpoint.request("eth_a", [])
        assert KEY not in str(caught.value)
        await endpoint.close()

    asyncio.run(run())


def test_a_refused_handshake_tells_its_status() -> None:
    async def socket(request: web.Request) -> web.StreamResponse:
        return web.Response(status=401, text=KEY)

    async def story(endpoint: LocatedEndpoint) -> None:
        with pytest.raises(Unknown, match=r"no node answers at 127\.0\.0\.1:\d+ \(HTTP 401\)"):
            await endpoint.request("eth_a", [])

    serve_socket(socket, story)


@BOTH
def test_a_time_out_and_a_lost_connection_tell_where(scheme: str) -> None:
    """Of several nodes, an operator has to know which."""

    def answer(asked: Any) -> Any:
        return web.Response(status=502) if asked["method"] == "hang up" else slow(asked)

    async def story(endpoint: LocatedEndpoint) -> None:
        place = endpoint.location.split("//")[1]
        if scheme == "ws":
            with pytest.raises(Unknown, match=f"the connection to {place} was lost"):
                await endpoint.request("hang up", [])
        with pytest.raises(Unknown, match=f"no answer of {place} in 0.3 s"):
            await endpoint.request("eth_a", [])

    serve(scheme, answer, story)


def test_new_heads_over_http_are_asked_for() -> None:
    heads = [{"hash": "0x1"}, {"hash": "0x1"}, {"hash": "0x1"}, {"hash": "0x2"}]

    def answer(asked: Any) -> Any:
        return {"id": asked["id"], "result": heads.pop(0) if heads else {"hash": "0x2"}}

    async def story(endpoint: LocatedEndpoint) -> None:
        assert [await endpoint.next_head(1.0) for _ in range(2)] == [{"hash": "0x1"}, {"hash": "0x2"}]
        with pytest.raises(Unknown) as caught:
            await endpoint.next_head(0.05)
        assert caught.value.kind == "timeout"

    serve("http", answer, story)


def test_new_heads_over_websocket_are_told_of_and_only_the_newest_is_kept() -> None:
    def head(name: str, subscription: str = "0xcd") -> str:
        return json.dumps({"method": "eth_subscription", "params": {"subscription": subscription, "result": {"hash": name}}})

    async def story(endpoint: LocatedEndpoint) -> None:
        assert await endpoint.next_head(1.0) == {"hash": "0x0"}
        for name in ("0x1", "0x2"):
            assert await endpoint.request("push", [head(name)]) is None
        assert await endpoint.next_head(1.0) == {"hash": "0x2"}
        await endpoint.request("push", [head("0x3", "0xother")])
        with pytest.raises(Unknown) as caught:
            await endpoint.next_head(0.05)
        assert caught.value.kind == "timeout"
        with pytest.raises(Unknown):
            await endpoint.request("hang up", [])
        assert await endpoint.next_head(1.0) == {"hash": "0x0"}  # subscribed anew

    async def socket(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        async for message in opened:
            asked = json.loads(message.data)
            if asked["method"] == "hang up":
                break
            result: Any = None
            if asked["method"] == "push":
                await opened.send_str(asked["params"][0])
            elif asked["method"] == "eth_subscribe":
                result = "0xcd"
            else:
                result = {"hash": "0x0"}
            await opened.send_str(json.dumps({"id": asked["id"], "result": result}))
        return opened

    serve_socket(socket, story)


def serve_socket(
    socket: Callable[[web.Request], Awaitable[web.StreamResponse]], story: Callable[[LocatedEndpoint], Awaitable[None]]
) -> None:
    """Run a story with an endpoint on a server of this WebSocket handler."""

    async def run() -> None:
        app = web.Application()
        app.router.add_get("/", socket)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        endpoint = connect(f"ws://127.0.0.1:{runner.addresses[0][1]}/", timeout_s=1.0, clock=SystemClock())
        try:
            await story(endpoint)
        finally:
            await endpoint.close()
            await runner.cleanup()

    asyncio.run(run())


def test_a_subscription_that_is_lost_in_silence_is_made_anew_after_the_time_out() -> None:
    """A proxy whose backend restarted: requests are answered, and nobody tells of heads any more."""
    connections: list[list[str]] = []

    async def socket(request: web.Request) -> web.StreamResponse:
        opened = web.WebSocketResponse()
        await opened.prepare(request)
        asked_here: list[str] = []
        connections.append(asked_here)
        number = len(connections)
        async for message in opened:
            asked = json.loads(message.data)
            asked_here.append(asked["method"])
            result: Any = f"0x{number}" if asked["method"] == "eth_subscribe" else {"hash": f"0x{number}.0"}
            await opened.send_str(json.dumps({"id": asked["id"], "result": result}))
            if asked["method"] == "eth_tell" and number > 1:  # the first connection's subscription is gone
                told = {"subscription": f"0x{number}", "result": {"hash": f"0x{number}.1"}}
                await opened.send_str(json.dumps({"method": "eth_subscription", "params": told}))
        return opened

    async def story(endpoint: LocatedEndpoint) -> None:
        assert await endpoint.next_head(1.0) == {"hash": "0x1.0"}
        assert await endpoint.request("eth_tell", [])
        with pytest.raises(Unknown) as caught:
            await endpoint.next_head(0.05)
        assert (caught.value.method, caught.value.kind) == ("next_head", "timeout")
        assert await endpoint.next_head(1.0) == {"hash": "0x2.0"}
        assert await endpoint.request("eth_tell", [])
        assert await endpoint.next_head(1.0) == {"hash": "0x2.1"}
        assert [asked.count("eth_subscribe") for asked in connections] == [1, 1]

    serve_socket(socket, story)


@pytest.mark.parametrize(
    "url", ["", "ftp://x", "http://", "ws:///path", f"http://host:99999/{KEY}", f"file:///{KEY}", f"http://[{KEY}"]
)
def test_what_is_no_address_is_refused_without_telling_it(url: str) -> None:
    with pytest.raises(ValueError, match="accepted is http") as caught:
        connect(url, timeout_s=1.0, clock=SystemClock())
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("options", [{"timeout_s": 0.0}, {"timeout_s": float("nan")}, {"timeout_s": 1.0, "poll_s": -1.0}])
def test_times_are_positive(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="accepted is a positive number of seconds"):
        connect("http://127.0.0.1", clock=SystemClock(), **options)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=6),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["id", "result", "error", "code", "message", "data", "method", "params"]), inner, max_size=4
        )
    ),
    max_leaves=8,
)


@BOTH
def test_whatever_json_is_answered_only_live_errors_come_out(scheme: str) -> None:
    told: list[Any] = []

    @settings(max_examples=15, deadline=None)
    @given(st.lists(JSON, min_size=6, max_size=6))
    def fuzz(answers: list[Any]) -> None:
        told[:] = answers

        async def story(endpoint: LocatedEndpoint) -> None:
            for _ in range(3):
                with contextlib.suppress(LiveError):
                    await endpoint.request("eth_a", [])
                with contextlib.suppress(LiveError):
                    assert len(await endpoint.batch([("eth_a", []), ("eth_b", [])])) == 2

        serve(scheme, lambda asked: told.pop() if told else good(asked), story, timeout_s=0.02)

    fuzz()
