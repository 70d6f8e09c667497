"""The status page and its API: read-only, and with a token the kill switch. Imported by the runner only when it is asked for.

Served on the loopback interface unless told otherwise, within the runner's own event loop, so that a kill takes effect before the
next send. No page of another origin can read it (no CORS), no other host name reaches it (DNS rebinding), and the page loads
nothing from anywhere.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import hmac
import ipaddress
import re
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import structlog
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.responses import HTMLResponse, JSONResponse, PlainTextResponse
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError

from arbgym.live.logs import Redactor
from arbgym.live.snapshot import Snapshot, as_json
from arbgym.live.terms import LiveError

PAGE = Path(__file__).with_name("status_page.html")
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
LONGEST_BODY = 4_096  # bytes
SHORTEST_TOKEN = 16  # characters
CONTROL_OFF = "control is off: the runner was started without a token"


class StatusSource(Protocol):
    """What the page shows and commands. Commands take effect before they return; they raise LiveError where they are refused."""

    def snapshot(self) -> Snapshot:
        """As of now."""

    def kill(self, reason: str) -> None:
        """Throw the kill switch: nothing more is sent."""

    def release(self, reason: str) -> None:
        """Take the kill switch back."""

    def resume(self, reason: str) -> None:
        """Let a HALTED gate be ACTIVE again."""

    def confirm_limits(self) -> None:
        """Let loosened limits take effect."""


class Command(BaseModel):
    """The body of a command."""

    model_config = ConfigDict(extra="forbid", strict=True)
    reason: str = Field(min_length=1, max_length=200)


# ------------------------------------------------------------------------------------------------------------- the guard
Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]


class _TooLong(Exception):
    pass


class Guard:
    """Stands before the application: host names, the size of bodies, and headers that keep browsers in line."""

    def __init__(self, app: Any, hosts: frozenset[str], content_policy: str) -> None:
        self._app, self._hosts = app, hosts
        self._headers = [
            (b"content-security-policy", content_policy.encode("ascii")),
            (b"x-content-type-options", b"nosniff"),
            (b"x-frame-options", b"DENY"),
            (b"referrer-policy", b"no-referrer"),
            (b"cross-origin-resource-policy", b"same-origin"),
            (b"cross-origin-opener-policy", b"same-origin"),
            (b"cache-control", b"no-store"),
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """One request."""
        if scope["type"] != "http":
            return
        started = False

        async def send_guarded(message: Message) -> None:
            nonlocal started
            if message["type"] == "http.response.start":
                started = True
                message = {**message, "headers": [*message.get("headers", ()), *self._headers]}
            await send(message)

        hosts = [value for name, value in scope["headers"] if name == b"host"]
        if len(hosts) != 1 or host_name(hosts[0].decode("latin-1")) not in self._hosts:
            await _problem(421, "this host name is not served")(scope, receive, send_guarded)
            return
        received = 0

        async def receive_bounded() -> Message:
            nonlocal received
            message = await receive()
            received += len(message.get("body", b""))
            if received > LONGEST_BODY:
                raise _TooLong
            return message

        try:
            await self._app(scope, receive_bounded, send_guarded)
        except _TooLong:
            if not started:
                detail = f"the body is too long; accepted are at most {LONGEST_BODY} bytes"
                await _problem(413, detail)(scope, receive, send_guarded)
        except Exception as error:  # noqa: BLE001 - a page that fails is no reason for the runner to
            structlog.get_logger().error("the status page failed", exc_info=error)
            if not started:
                await _problem(500, f"the runner could not answer: {type(error).__name__}")(scope, receive, send_guarded)


def host_name(header: str) -> str:
    """A Host header without its port, in lower case."""
    match = re.fullmatch(r"(\[[0-9a-fA-F:.]+\]|[^:\[\]]+)(?::\d{1,5})?", header)
    return match[1].lower() if match else ""


def _problem(status: int, detail: str) -> JSONResponse:
    return JSONResponse({"detail": detail}, status)


def _content_policy(page: str) -> str:
    """Only the page's own style and script run, known by their hashes; it may speak to its own origin alone."""
    hashes = {}
    for tag in ("style", "script"):
        texts = re.findall(rf"<{tag}>(.*?)</{tag}>", page, re.DOTALL)
        digests = (base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() for text in texts)
        hashes[tag] = " ".join(f"'sha256-{digest}'" for digest in digests)
    return (
        f"default-src 'none'; style-src {hashes['style']}; script-src {hashes['script']}; connect-src 'self'; img-src data:; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )


# ------------------------------------------------------------------------------------------------------- the application
def build_app(
    source: StatusSource,
    token: SecretStr | None,
    registry: CollectorRegistry,
    redactor: Redactor,
    hosts: Sequence[str] = (),
) -> FastAPI:
    """The application. Without ``token`` there is no control; ``hosts`` are names, beside loopback, under which it is reached.

    ``token`` joins the redactor's secrets. Raises ValueError if it is shorter than SHORTEST_TOKEN.
    """
    expected: bytes | None = None
    if token is not None:
        if len(token.get_secret_value()) < SHORTEST_TOKEN:
            raise ValueError(f"token has {len(token)} characters; accepted are at least {SHORTEST_TOKEN}")
        redactor.add(token.get_secret_value())
        expected = b"Bearer " + token.get_secret_value().encode("utf-8")
    page = PAGE.read_text(encoding="utf-8")
    app = FastAPI(title="ArbGym live", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.control = expected is not None
    log = structlog.get_logger()

    def authorise(request: Request) -> None:
        if expected is None:
            raise HTTPException(403, CONTROL_OFF)
        given = request.headers.getlist("authorization")
        if len(given) != 1 or not hmac.compare_digest(given[0].encode("latin-1"), expected):
            log.warning("a command came without the right token", route=request.url.path)
            raise HTTPException(401, "the token is missing or wrong", {"www-authenticate": "Bearer"})

    async def reason_of(request: Request) -> str:
        try:
            return redactor.text(Command.model_validate_json(await request.body()).reason)
        except ValidationError:
            raise HTTPException(422, 'the body is not as it must be; accepted is {"reason": "1 to 200 characters"}') from None

    def obey(name: str, command: Callable[[], None], reason: str = "") -> dict[str, Any]:
        try:
            command()
        except LiveError as refusal:
            raise HTTPException(409, redactor.text(str(refusal))) from None
        log.warning("a command was obeyed", command=name, reason=reason)
        return status()

    def status() -> dict[str, Any]:
        snapshot = source.snapshot()
        shown: dict[str, Any] = redactor.plain(as_json(snapshot))
        return {**shown, "unhealthy": redactor.plain(snapshot.unhealthy()), "control": expected is not None}

    @app.get("/", response_class=HTMLResponse)
    async def read_page() -> HTMLResponse:
        return HTMLResponse(page)

    @app.get("/api/status")
    async def read_status() -> JSONResponse:
        return JSONResponse(status())

    @app.get("/api/decisions")
    async def read_decisions() -> JSONResponse:
        return JSONResponse(status()["decisions"])

    @app.get("/metrics")
    async def read_metrics() -> Response:
        return Response(redactor.text(generate_latest(registry).decode("utf-8")), media_type=CONTENT_TYPE_LATEST)

    @app.get("/healthz")
    async def read_health() -> PlainTextResponse:
        reason = source.snapshot().unhealthy()
        return PlainTextResponse("ok\n" if reason is None else redactor.text(reason) + "\n", 200 if reason is None else 503)

    @app.post("/api/kill")
    async def kill(request: Request) -> JSONResponse:
        authorise(request)
        reason = await reason_of(request)
        return JSONResponse(obey("kill", lambda: source.kill(reason), reason))

    @app.post("/api/release")
    async def release(request: Request) -> JSONResponse:
        authorise(request)
        reason = await reason_of(request)
        return JSONResponse(obey("release", lambda: source.release(reason), reason))

    @app.post("/api/resume")
    async def resume(request: Request) -> JSONResponse:
        authorise(request)
        reason = await reason_of(request)
        return JSONResponse(obey("resume", lambda: source.resume(reason), reason))

    @app.post("/api/confirm")
    async def confirm(request: Request) -> JSONResponse:
        authorise(request)
        return JSONResponse(obey("confirm_limits", source.confirm_limits))

    allowed = frozenset((*LOOPBACK, *(host.lower() for host in hosts)))
    app.add_middleware(Guard, hosts=allowed, content_policy=_content_policy(page))
    return app


# --------------------------------------------------------------------------------------------------------------- serving
class _Server(uvicorn.Server):
    """uvicorn within somebody else's loop: signals stay the runner's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


@dataclass(frozen=True, slots=True)
class StatusServer:
    """A running server."""

    host: str
    port: int
    _server: _Server
    _task: asyncio.Task[None]

    @property
    def url(self) -> str:
        """Of the page."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"

    async def close(self) -> None:
        """Answer what is open, then stop."""
        self._server.should_exit = True
        await self._task


def is_loopback(host: str) -> bool:
    """Only this machine reaches it."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


async def serve(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> StatusServer:
    """Serve ``app`` in the running loop and return once it listens; port 0 takes a free one.

    Raises ValueError for a host that others reach while the app has no token, OSError if the address is taken.
    """
    if not is_loopback(host) and not app.state.control:
        raise ValueError(f"host = {host!r}; accepted without a token is a loopback address")
    listener = socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    config = uvicorn.Config(
        app,
        log_config=None,
        access_log=False,
        lifespan="off",
        ws="none",
        http="h11",
        server_header=False,
        limit_concurrency=32,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=2,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]), name="status page")
    while not server.started:
        if task.done():
            await task
        await asyncio.sleep(0.005)
    return StatusServer(host, listener.getsockname()[1], server, task)


@contextlib.asynccontextmanager
async def serving(app: FastAPI, host: str = "127.0.0.1", port: int = 0) -> AsyncIterator[StatusServer]:
    """``serve`` for as long as a block runs."""
    server = await serve(app, host, port)
    try:
        yield server
    finally:
        await server.close()
