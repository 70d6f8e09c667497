"""A node's JSON-RPC over HTTP or WebSocket: answers, refusals, and everything else, which is no answer.

The transports are web3's own (aiohttp, websockets), driven directly: web3's providers send again by themselves, which a
transaction must never be, take twice as long per request and keep the event loop spinning while they wait. Nothing is ever sent
twice here.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import socket
import ssl
from collections.abc import Sequence
from http import HTTPStatus
from typing import Any, Protocol
from urllib.parse import parse_qsl, urlsplit

import aiohttp
from websockets.asyncio.client import ClientConnection
from websockets.asyncio.client import connect as open_socket
from websockets.exceptions import InvalidStatus, WebSocketException

from arbgym.live.plain_json import load_json
from arbgym.live.terms import Call, Clock, Endpoint, Refused, Unknown

_BATCH = 100  # requests in one HTTP post: what the stricter providers take
_MOST_BYTES = 64 * 2**20  # of one message
_SHOWN = 300  # characters of a node's words that are kept
# Whoever asks for these has looked at the kill switch just now: no time may pass in connecting.
_AT_ONCE = frozenset(("eth_sendRawTransaction", "eth_sendBundle", "eth_sendPrivateTransaction"))
_CONNECTING_S = 0.5  # at most for one of these over HTTP, where a server may end its connections after every answer
_JSON = {"Content-Type": "application/json"}


class LocatedEndpoint(Endpoint, Protocol):
    """An endpoint that can say where it is."""

    @property
    def location(self) -> str:
        """Scheme and host; the rest of an address often holds a key."""


def connect(url: str, *, timeout_s: float, clock: Clock, poll_s: float = 0.25) -> LocatedEndpoint:
    """The node at ``url`` (http, https, ws or wss); connected at the first request.

    ``timeout_s``: of one request. ``poll_s``: how often to ask for a new head where the node cannot tell of it (HTTP). Raises
    ValueError, without the address, for one that is none.
    """
    for name, value in (("timeout_s", timeout_s), ("poll_s", poll_s)):
        if not 0.0 < value < float("inf"):
            raise ValueError(f"{name} = {value}; accepted is a positive number of seconds")
    try:
        parts = urlsplit(url)
        known = parts.hostname is not None and parts.scheme in ("http", "https", "ws", "wss") and (parts.port or 1) > 0
    except ValueError:
        known = False
    if not known:
        raise ValueError("url: no node's address; accepted is http://, https://, ws:// or wss://, a host, and what follows it")
    if parts.scheme in ("http", "https"):
        return HttpEndpoint(url, timeout_s, clock, poll_s)
    return SocketEndpoint(url, timeout_s)


class _Words:
    """The address, and a node's own words without what is secret in it."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        host = f"[{parts.hostname}]" if ":" in (parts.hostname or "") else parts.hostname
        self.location = f"{parts.scheme}://{host}" + (f":{parts.port}" if parts.port else "")
        self.place = f"{host}:{parts.port or (443 if parts.scheme in ('https', 'wss') else 80)}"
        found = {parts.username, parts.password, *parts.path.split("/"), *(value for _, value in parse_qsl(parts.query))}
        self._secrets = sorted((part for part in found if part and len(part) >= 8), key=len, reverse=True)

    def cleaned(self, text: str) -> str:
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return text[:_SHOWN]

    def nobody(self, error: BaseException) -> str:
        """That no connection came about, and why; of the error's own words, which may hold the address, only the system's."""
        return f"no node answers at {self.place} ({_system_words(error)})"

    def lost(self, error: BaseException | None = None) -> str:
        """That a connection ended."""
        return f"the connection to {self.place} was lost" + ("" if error is None else f" ({_system_words(error)})")


def _system_words(error: BaseException) -> str:
    """The operating system's words for what became of a connection; a kind of error where it has none."""
    if isinstance(error, InvalidStatus):
        return f"HTTP {error.response.status_code}"
    inner: BaseException = getattr(error, "os_error", error)  # aiohttp's own wrap it
    if isinstance(inner, ssl.SSLCertVerificationError):
        return f"TLS: {inner.verify_message}"
    if isinstance(inner, ssl.SSLError):
        return f"TLS: {inner.reason or type(inner).__name__}"
    if isinstance(inner, socket.gaierror):
        return (inner.strerror or "unknown host").lower()
    if isinstance(inner, OSError):
        # asyncio's words repeat the address; after several addresses, only they have a number
        told = re.search(r"\[Errno (\d+)\]", str(inner))
        number = inner.errno or (int(told[1]) if told else 0)
        if number:
            return os.strerror(number).lower()
    return type(error).__name__


def _load(method: str, text: str | bytes) -> Any:
    try:
        return load_json(text)
    except ValueError:  # its words may repeat what was sent
        raise Unknown(method, "malformed", "not JSON") from None


def _result(method: str, answer: Any, identity: int, words: _Words) -> Any:
    """The result within one JSON-RPC answer."""
    if not isinstance(answer, dict):
        raise Unknown(method, "malformed", f"a JSON {type(answer).__name__} for an answer")
    error = answer.get("error")
    if error is not None:
        code, message = (error.get("code"), error.get("message")) if isinstance(error, dict) else (None, None)
        if type(code) is not int or not isinstance(message, str):
            raise Unknown(method, "malformed", "an error without code and message")
        if answer.get("id") != identity:  # nobody says that it is this request which was refused
            raise Unknown(method, "malformed", f"an error for request {answer.get('id')!r}"[:_SHOWN])
        data = error.get("data")
        if isinstance(data, dict):  # some nodes wrap a revert's data once more
            data = data.get("data")
        raise Refused(method, code, words.cleaned(message), data if isinstance(data, str) else "")
    if type(answer.get("id")) is not int or answer["id"] != identity:
        raise Unknown(method, "malformed", f"an answer to request {answer.get('id')!r}"[:_SHOWN])
    if "result" not in answer:
        raise Unknown(method, "malformed", "neither result nor error")
    return answer["result"]


def _results(asked: Sequence[dict[str, Any]], answers: Any, words: _Words) -> list[Any]:
    """The results within the answer to a batch, in the order asked; a node may answer in any order."""
    method = asked[0]["method"]
    if not isinstance(answers, list):  # one error for the whole batch, or nothing that makes sense
        _result(method, answers, asked[0]["id"], words)
        raise Unknown(method, "malformed", "one answer to a batch")
    by_identity = {one.get("id"): one for one in answers if isinstance(one, dict) and type(one.get("id")) is int}
    if len(answers) != len(asked) or len(by_identity) != len(asked):
        raise Unknown(method, "malformed", f"{len(by_identity)} answers to a batch of {len(asked)}")
    return [_result(one["method"], by_identity.get(one["id"]), one["id"], words) for one in asked]


class HttpEndpoint:
    """A node over HTTP; new heads by asking for them."""

    def __init__(self, url: str, timeout_s: float, clock: Clock, poll_s: float) -> None:
        self._url, self._clock, self._poll_s = url, clock, poll_s
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._at_once = aiohttp.ClientTimeout(total=timeout_s, connect=min(timeout_s, _CONNECTING_S))
        self._words = _Words(url)
        self._session: aiohttp.ClientSession | None = None
        self._count = 0
        self._last_head: object = None

    def __repr__(self) -> str:
        return f"HttpEndpoint({self.location})"

    @property
    def location(self) -> str:
        """Scheme and host."""
        return self._words.location

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        """The result. Raises Refused and Unknown."""
        call = self._call(method, parameters)
        return _result(method, await self._post(method, call), call["id"], self._words)

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results of several requests, in their order; one post per 100. Raises Refused and Unknown."""
        found: list[Any] = []
        for start in range(0, len(calls), _BATCH):
            asked = [self._call(method, parameters) for method, parameters in calls[start : start + _BATCH]]
            found += _results(asked, await self._post(asked[0]["method"], asked), self._words)
        return found

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        """The newest header, once it is another than last time. Raises Refused and Unknown."""
        until = self._clock.monotonic() + timeout_s
        while True:
            head = await self.request("eth_getBlockByNumber", ["latest", False])
            if not isinstance(head, dict):
                raise Unknown("eth_getBlockByNumber", "malformed", "no header")
            if head.get("hash") != self._last_head:
                self._last_head = head.get("hash")
                return head
            if self._clock.monotonic() + self._poll_s > until:
                raise Unknown("next_head", "timeout", f"no new head in {timeout_s:g} s")
            await self._clock.sleep(self._poll_s)

    async def close(self) -> None:
        """Let go of connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _call(self, method: str, parameters: Sequence[Any]) -> dict[str, Any]:
        self._count += 1
        return {"jsonrpc": "2.0", "id": self._count, "method": method, "params": list(parameters)}

    async def _post(self, method: str, asked: Any) -> Any:
        if self._session is None:
            self._session = aiohttp.ClientSession(headers=_JSON)
        limits = self._at_once if method in _AT_ONCE else self._timeout
        try:
            async with self._session.post(self._url, data=json.dumps(asked), allow_redirects=False, timeout=limits) as answer:
                status = answer.status
                if status == HTTPStatus.TOO_MANY_REQUESTS:
                    raise Unknown(method, "rate_limited", f"HTTP {status}")
                if status >= HTTPStatus.INTERNAL_SERVER_ERROR:
                    raise Unknown(method, "server", f"HTTP {status}")
                body = await _read(answer)
        except aiohttp.ConnectionTimeoutError:
            raise Unknown(method, "connection", f"none to {self._words.place} in {limits.connect:g} s; not sent") from None
        except TimeoutError as error:
            raise Unknown(method, "timeout", f"no answer of {self._words.place} in {self._timeout.total:g} s") from error
        except aiohttp.ClientConnectorError as error:
            raise Unknown(method, "connection", self._words.nobody(error)) from None
        except (aiohttp.ClientError, OSError, ValueError) as error:
            raise Unknown(method, "connection", self._words.lost(error)) from None
        try:
            return _load(method, body)
        except Unknown:
            if status == HTTPStatus.OK:
                raise
            raise Unknown(method, "malformed", f"HTTP {status}") from None


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    parts, size = [], 0
    async for part in answer.content.iter_any():
        parts.append(part)
        size += len(part)
        if size > _MOST_BYTES:
            raise ValueError("too long")
    return b"".join(parts)


class SocketEndpoint:
    """A node over WebSocket; new heads by subscription.

    A lost connection is opened again by the next request that sends no transaction: one that does is Unknown, and was not sent.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        self._url, self._timeout_s = url, timeout_s
        self._words = _Words(url)
        self._socket: ClientConnection | None = None
        self._listener: asyncio.Task[None] | None = None
        self._opening = asyncio.Lock()
        self._waiting: dict[int, tuple[str, asyncio.Future[Any]]] = {}
        self._count = 0
        self._subscription: str | None = None
        self._newest: dict[str, Any] | None = None
        self._told = asyncio.Event()

    def __repr__(self) -> str:
        return f"SocketEndpoint({self.location})"

    @property
    def location(self) -> str:
        """Scheme and host."""
        return self._words.location

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        """The result. Raises Refused and Unknown."""
        asked = self._call(method, parameters)
        return _result(method, await self._exchange(method, asked["id"], asked), asked["id"], self._words)

    async def batch(self, calls: Sequence[Call]) -> list[Any]:
        """Results of several requests, in their order; one message per 100. Raises Refused and Unknown.

        One message each would be slower: a node's second small packet waits for the first one's delayed acknowledgement, 40 ms.
        """
        found: list[Any] = []
        for start in range(0, len(calls), _BATCH):
            asked = [self._call(method, parameters) for method, parameters in calls[start : start + _BATCH]]
            found += _results(asked, await self._exchange(asked[0]["method"], asked[0]["id"], asked), self._words)
        return found

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        """The newest header that the node told of since last time. Raises Refused and Unknown."""
        try:
            async with asyncio.timeout(timeout_s):
                if self._subscription is None or self._listener is None or self._listener.done():
                    self._subscription = None
                    told = await self.request("eth_subscribe", ["newHeads"])
                    if not isinstance(told, str):
                        raise Unknown("eth_subscribe", "malformed", "no subscription")
                    self._subscription = told
                    # what was mined before it is not told of
                    newest = await self.request("eth_getBlockByNumber", ["latest", False])
                    if not isinstance(newest, dict):
                        raise Unknown("eth_getBlockByNumber", "malformed", "no header")
                    self._newest = self._newest or newest
                while self._newest is None:
                    if self._listener is None or self._listener.done():
                        raise Unknown("next_head", "connection", self._words.lost())
                    self._told.clear()
                    await self._told.wait()
        except TimeoutError as error:
            # requests may go on being answered where the subscription is lost, behind a proxy: the next call makes both anew
            await self._drop()
            raise Unknown("next_head", "timeout", f"no new head in {timeout_s:g} s") from error
        head, self._newest = self._newest, None
        return head

    async def _drop(self) -> None:
        """Forget connection and subscription. No farewell: who does not answer would be waited for."""
        socket, listener = self._socket, self._listener
        self._socket = self._subscription = self._newest = None
        if socket is not None:
            socket.transport.abort()
        if listener is not None:
            await asyncio.gather(listener, return_exceptions=True)

    async def close(self) -> None:
        """Let go of the connection."""
        if self._socket is not None:
            await self._socket.close()
        if self._listener is not None:
            await asyncio.gather(self._listener, return_exceptions=True)

    def _call(self, method: str, parameters: Sequence[Any]) -> dict[str, Any]:
        self._count += 1
        return {"jsonrpc": "2.0", "id": self._count, "method": method, "params": list(parameters)}

    async def _exchange(self, method: str, identity: int, asked: Any) -> Any:
        """Send a message and wait for the one that answers request ``identity``."""
        try:
            async with asyncio.timeout(self._timeout_s):
                socket = await self._open(method)
                future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
                self._waiting[identity] = (method, future)
                await socket.send(json.dumps(asked))
                return await future
        except TimeoutError as error:
            raise Unknown(method, "timeout", f"no answer of {self._words.place} in {self._timeout_s:g} s") from error
        except (WebSocketException, OSError) as error:
            raise Unknown(method, "connection", self._words.lost(error)) from None
        finally:
            self._waiting.pop(identity, None)

    async def _open(self, method: str) -> ClientConnection:
        if method in _AT_ONCE and (self._socket is None or self._listener is None or self._listener.done()):
            raise Unknown(method, "connection", "down; not sent")
        async with self._opening:
            if self._socket is None or self._listener is None or self._listener.done():
                self._subscription = self._newest = None
                try:
                    self._socket = await open_socket(self._url, max_size=_MOST_BYTES, open_timeout=self._timeout_s, proxy=None)
                except (WebSocketException, OSError, ValueError) as error:
                    if isinstance(error, TimeoutError):
                        raise
                    raise Unknown(method, "connection", self._words.nobody(error)) from None
                self._listener = asyncio.create_task(self._listen(self._socket))
            return self._socket

    async def _listen(self, socket: ClientConnection) -> None:
        """Hand each message to who waits for it, until the connection ends or says what is no JSON."""
        kind, detail = "connection", self._words.lost()
        try:
            async for message in socket:
                self._hand_out(_load("message", message))
        except Unknown as error:
            kind, detail = error.kind, error.detail
            await socket.close()
        except (WebSocketException, OSError) as error:
            detail = self._words.lost(error)
        finally:
            for method, future in self._waiting.values():
                if not future.done():
                    future.set_exception(Unknown(method, kind, detail))
            self._told.set()

    def _hand_out(self, message: Any) -> None:
        if isinstance(message, dict) and message.get("method") == "eth_subscription":
            told = message.get("params")
            if (
                isinstance(told, dict)
                and isinstance(told.get("result"), dict)
                and self._subscription in (None, told.get("subscription"))
            ):
                self._newest = told["result"]
                self._told.set()
            return
        for one in message if isinstance(message, list) else [message]:
            identity = one.get("id") if isinstance(one, dict) else None
            if type(identity) is int and identity in self._waiting:  # else: an answer that nobody waits for any more
                future = self._waiting[identity][1]
                if not future.done():
                    future.set_result(message)
                return
