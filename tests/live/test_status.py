"""The status page and its API: who may read, who may command, and what a browser makes of it."""

from __future__ import annotations

import asyncio
import functools
import io
import json
import math
import signal
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')
pytest.importorskip("fastapi", reason='FastAPI is missing: pip install "arbgym[live]"')
pytest.importorskip("httpx", reason='httpx is missing: pip install "arbgym[test-live]"')

import httpx
from hypothesis import example as case
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from arbgym.live.logs import REDACTED, Redactor, start_logging
from arbgym.live.metrics import Metrics
from arbgym.live.snapshot import CURVE_POINTS, LATEST_DECISIONS, Totals, as_json
from arbgym.live.status import CONTROL_OFF, LONGEST_BODY, StatusServer, build_app, host_name, is_loopback, serve, serving
from tests.live import browser as browsers
from tests.live.seen import SCRIPT, FakeRunner, FixedClock, example

TOKEN = "token-of-the-operator-0123456789"
RIGHT = {"authorization": f"Bearer {TOKEN}"}
COMMANDS = ("kill", "release", "resume", "confirm")
REASON = {"reason": "a test"}
SHOWN = (
    "live", "ArbFlash-v0", "+1,839.48", "71.3 %", "77.2 %", "28.7 % of profit", "3,412.55", "7.8312", "21,345,678", "418",
    "ReferenceStale", "notional eth", "at most 50 ETH", "uniswap-v3 WETH/USDC", "minimum_profit_eth", "mined", "+87.25",
    "ppo-arbflash-7f31", "2,000,000",
)  # fmt: skip


@pytest.fixture(autouse=True)
def log() -> Iterator[io.StringIO]:
    written = io.StringIO()
    logs = start_logging(Redactor(), stream=written)
    yield written
    logs.close()


def application(
    runner: FakeRunner, token: str | None = TOKEN, redactor: Redactor | None = None, hosts: Sequence[str] = ()
) -> Any:
    redactor = redactor or Redactor()
    metrics = Metrics(FixedClock(), redactor)
    metrics.rpc("eth_call")
    return build_app(runner, None if token is None else SecretStr(token), metrics.registry, redactor, hosts)


class Client:
    """Speaks to an application without a network."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def request(self, method: str, path: str, **given_values: Any) -> httpx.Response:
        async def ask_once() -> httpx.Response:
            async with httpx.AsyncClient(transport=httpx.ASGITransport(self.app), base_url="http://127.0.0.1:8000") as http:
                return await http.request(method, path, **given_values)

        return asyncio.run(ask_once())

    def get(self, path: str, **given_values: Any) -> httpx.Response:
        return self.request("GET", path, **given_values)

    def post(self, path: str, **given_values: Any) -> httpx.Response:
        return self.request("POST", path, **given_values)


def client(runner: FakeRunner, **given_values: Any) -> Client:
    return Client(application(runner, **given_values))


# --------------------------------------------------------------------------------------------------------------- reading
def test_the_status_is_the_snapshot() -> None:
    runner = FakeRunner()
    answer = client(runner).get("/api/status")
    assert answer.status_code == 200
    shown = answer.json()
    assert shown.pop("unhealthy") is None
    assert shown.pop("control") is True
    assert shown == json.loads(json.dumps(as_json(runner.shown)))
    assert client(runner).get("/api/decisions").json() == shown["decisions"]


def test_numbers_that_are_not_known_are_null() -> None:
    runner = FakeRunner(example(totals=Totals(), drawdown=math.nan, curve=((1.0, math.inf),)))
    shown = client(runner).get("/api/status").json()
    assert (shown["totals"]["win_rate"], shown["drawdown"], shown["curve"]) == (None, None, [[1.0, None]])


def test_a_snapshot_is_bounded() -> None:
    row = example().decisions[0]
    with pytest.raises(ValueError, match=f"decisions has {LATEST_DECISIONS + 1} rows"):
        example(decisions=(row,) * (LATEST_DECISIONS + 1))
    with pytest.raises(ValueError, match="curve has"):
        example(curve=((0.0, 0.0),) * (CURVE_POINTS + 1))


def test_metrics_are_those_of_the_registry() -> None:
    answer = client(FakeRunner()).get("/metrics")
    assert answer.headers["content-type"].startswith("text/plain")
    assert 'arbgym_rpc_requests_total{method="eth_call"} 1.0' in answer.text


@pytest.mark.parametrize(
    ("changes", "code", "reason"),
    [
        ({}, 200, "ok"),
        ({"gate_state": "REDUCING"}, 200, "ok"),
        ({"gate_state": "HALTED"}, 503, "the risk gate is HALTED"),
        ({"killed": True, "kill_reason": "file"}, 503, "killed: file"),
        ({"head_age_s": 37.0}, 503, "the head is 37 s old; accepted is at most 36 s"),
        ({"head_age_s": None}, 503, "no block yet"),
    ],
)
def test_health_is_that_of_a_runner_that_may_decide(changes: dict[str, Any], code: int, reason: str) -> None:
    answer = client(FakeRunner(example(**changes))).get("/healthz")
    assert (answer.status_code, answer.text.strip()) == (code, reason)


def test_every_answer_keeps_browsers_in_line() -> None:
    http = client(FakeRunner())
    answers = [http.get(path) for path in ("/", "/api/status", "/metrics", "/healthz", "/nowhere")]
    answers += [
        http.post("/api/kill"),
        http.request("PUT", "/api/status"),
        http.get("/api/status", headers={"host": "evil.example"}),
    ]
    for answer in answers:
        headers = answer.headers
        assert "default-src 'none'" in headers["content-security-policy"]
        assert "unsafe" not in headers["content-security-policy"]
        assert (headers["x-content-type-options"], headers["cache-control"]) == ("nosniff", "no-store")
        assert not [name for name in headers if name.startswith("access-control")]
        assert "server" not in headers


def test_no_other_origin_may_read_or_ask_first() -> None:
    http = client(FakeRunner())
    asked = {
        "origin": "https://evil.example",
        "access-control-request-method": "POST",
        "access-control-request-headers": "authorization",
    }
    assert http.request("OPTIONS", "/api/kill", headers=asked).status_code == 405
    assert "access-control-allow-origin" not in http.get("/api/status", headers=asked).headers


def test_only_known_host_names_are_served() -> None:
    http = client(FakeRunner(), hosts=("Bot.lan",))
    for host in ("127.0.0.1", "127.0.0.1:9000", "localhost", "LOCALHOST:1", "[::1]:80", "bot.lan", "BOT.LAN:8000"):
        assert http.get("/healthz", headers={"host": host}).status_code == 200, host
    for host in (
        "evil.example",
        "localhost.evil.example",
        "127.0.0.1.nip.io",
        "[::2]",
        "",
        "localhost:80:80",
        "bot.lan.",
        "a@localhost",
    ):
        assert http.get("/healthz", headers={"host": host}).status_code == 421, host
    runner = FakeRunner()
    assert client(runner).post("/api/kill", headers={**RIGHT, "host": "evil.example"}, json=REASON).status_code == 421
    assert runner.told == []


def test_there_are_no_generated_documents_that_load_from_elsewhere() -> None:
    http = client(FakeRunner())
    assert [http.get(path).status_code for path in ("/docs", "/redoc", "/openapi.json")] == [404] * 3


# --------------------------------------------------------------------------------------------------------------- control
def test_each_command_reaches_the_runner_and_answers_with_its_state() -> None:
    runner = FakeRunner()
    http = client(runner)
    answer = http.post("/api/kill", headers=RIGHT, json=REASON)
    assert (answer.status_code, answer.json()["killed"], answer.json()["kill_reason"]) == (200, True, "a test")
    assert http.post("/api/release", headers=RIGHT, json={"reason": "over"}).json()["killed"] is False
    assert http.post("/api/resume", headers=RIGHT, json={"reason": "again"}).status_code == 200
    assert http.post("/api/confirm", headers=RIGHT).status_code == 200
    assert runner.told == [("kill", "a test"), ("release", "over"), ("resume", "again"), ("confirm", "")]


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"authorization": ""},
        {"authorization": "Bearer "},
        {"authorization": TOKEN},
        {"authorization": f"bearer {TOKEN}"},
        {"authorization": f"Bearer {TOKEN}x"},
        {"authorization": f"Bearer {TOKEN[:-1]}"},
        {"authorization": f"Basic {TOKEN}"},
        {"authorization": f"Bearer {TOKEN.upper()}"},
        {"authorization": b"Bearer \xff\xfe"},
        {"x-token": TOKEN, "cookie": f"token={TOKEN}"},
    ],
)
def test_without_the_right_token_nothing_happens(command: str, headers: dict[str, Any]) -> None:
    runner = FakeRunner()
    answer = client(runner).post(f"/api/{command}?token={TOKEN}", headers=headers, json=REASON)
    assert answer.status_code == 401
    assert runner.told == []


def test_two_tokens_at_once_are_none() -> None:
    runner = FakeRunner()
    headers = [("authorization", f"Bearer {TOKEN}"), ("authorization", "Bearer other")]
    assert client(runner).post("/api/kill", headers=headers, json=REASON).status_code == 401
    assert runner.told == []


@pytest.mark.parametrize("command", COMMANDS)
def test_without_a_configured_token_control_is_off(command: str) -> None:
    runner = FakeRunner()
    for headers in ({}, RIGHT, {"authorization": "Bearer None"}, {"authorization": "Bearer "}):
        answer = client(runner, token=None).post(f"/api/{command}", headers=headers, json=REASON)
        assert (answer.status_code, answer.json()["detail"]) == (403, CONTROL_OFF)
    assert runner.told == []
    assert client(runner, token=None).get("/api/status").json()["control"] is False


def test_a_token_that_can_be_guessed_is_refused_without_showing_it() -> None:
    with pytest.raises(ValueError, match="token has 5 characters; accepted are at least 16") as refused:
        application(FakeRunner(), token="short")
    assert "'short'" not in str(refused.value)


@pytest.mark.parametrize(
    "body",
    [b"", b"{}", b"null", b"[]", b'{"reason": ""}', b'{"reason": 1}', b'{"reason": "x", "more": 1}', b'{"reason": "\xff"}',
     b"\x00", json.dumps({"reason": "x" * 201}).encode(), b"[" * 2_000],
)  # fmt: skip
def test_a_body_that_is_not_as_it_must_be_commands_nothing(body: bytes) -> None:
    runner = FakeRunner()
    answer = client(runner).post("/api/kill", headers=RIGHT, content=body)
    assert answer.status_code == 422
    assert "accepted is" in answer.json()["detail"]
    assert runner.told == []


def test_a_long_body_is_refused_however_it_comes() -> None:
    runner = FakeRunner()
    http = client(runner)
    long = json.dumps({"reason": "x"}).encode() + b" " * LONGEST_BODY
    assert http.post("/api/kill", headers=RIGHT, content=long).status_code == 413
    headers = [(b"host", b"localhost"), (b"authorization", RIGHT["authorization"].encode())]
    assert asyncio.run(ask(http.app, "POST", "/api/kill", headers, [long[:100], long[100:]])) == 413
    assert runner.told == []


def test_what_the_runner_refuses_is_a_conflict_with_its_words() -> None:
    runner = FakeRunner()
    runner.refusal = f"resume: drawdown = 0.3; accepted is at most 0.2 ({TOKEN})"
    answer = client(runner).post("/api/resume", headers=RIGHT, json=REASON)
    assert answer.status_code == 409
    assert answer.json()["detail"] == f"resume: drawdown = 0.3; accepted is at most 0.2 ({REDACTED})"


def test_a_runner_that_fails_is_told_from_one_that_answers(log: io.StringIO) -> None:
    class Failing(FakeRunner):
        def snapshot(self) -> Any:
            raise RuntimeError("no journal")

    answer = client(Failing()).get("/api/status")
    assert answer.status_code == 500
    assert "the status page failed" in log.getvalue()
    assert "no journal" in log.getvalue()
    assert answer.json() == {"detail": "the runner could not answer: RuntimeError"}
    assert "content-security-policy" in answer.headers


def test_no_secret_comes_out_of_any_address() -> None:
    redactor = Redactor()
    key, password, url = "0x" + "5ca1ab1e" * 8, "correct horse battery", "https://u:hunter22@node.example/v3/0f0e0d0c0b0a"
    for secret in (key, password):
        redactor.add(secret)
    redactor.add_url(url)
    everything = f"{key} {password} {TOKEN} {url}"
    given_values = example()
    runner = FakeRunner(
        replace(
            given_values,
            killed=True,
            kill_reason=everything,
            open_intent=everything,
            decisions=(replace(given_values.decisions[0], action=everything, verdict=everything),),
            pools=(replace(given_values.pools[0], name=everything),),
        )
    )
    http = client(runner, redactor=redactor)
    answers = [http.get(path) for path in ("/", "/api/status", "/api/decisions", "/metrics", "/healthz")]
    answers.append(http.post("/api/kill", headers=RIGHT, json={"reason": f"{password} {TOKEN}"}))
    for answer in answers:
        shown = answer.text + str(answer.headers)
        for secret in (key, key[2:], password, TOKEN, "hunter22", "0f0e0d0c0b0a"):
            assert secret not in shown
    assert runner.told == [("kill", f"{REDACTED} {REDACTED}")]


# ------------------------------------------------------------------------------------------------------------------ fuzz
async def ask(app: Any, method: str, path: str, headers: list[tuple[bytes, bytes]], chunks: list[bytes]) -> int:
    """The status of one request, made of bytes that no client would send."""
    sent: list[dict[str, Any]] = []
    waiting = [{"type": "http.request", "body": chunk, "more_body": True} for chunk in chunks]
    waiting.append({"type": "http.request", "body": b"", "more_body": False})

    async def receive() -> dict[str, Any]:
        return waiting.pop(0) if waiting else {"type": "http.disconnect"}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    scope = {
        "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method, "scheme": "http", "path": path,
        "raw_path": path.encode("utf-8", "surrogatepass"), "query_string": b"", "root_path": "", "headers": headers,
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 80),
    }  # fmt: skip
    await app(scope, receive, send)
    return int(sent[0]["status"])


@functools.cache
def shared_application() -> tuple[FakeRunner, Any]:
    runner = FakeRunner()
    return runner, application(runner)


names = st.sampled_from([b"authorization", b"host", b"content-type", b"content-length", b"origin", b"cookie"]) | st.binary(
    max_size=20
)
fuzzed_headers = st.lists(st.tuples(names, st.binary(max_size=60) | st.just(b"Bearer " + TOKEN[:-1].encode())), max_size=6)
bodies = st.lists(st.binary(max_size=3_000) | st.just(json.dumps(REASON).encode()), max_size=4)
paths = (
    st.sampled_from([f"/api/{name}" for name in (*COMMANDS, "status", "decisions")] + ["/", "/metrics", "/healthz"]) | st.text()
)
methods = st.sampled_from(["GET", "POST", "PUT", "DELETE", "OPTIONS", "HEAD", "PATCH", "TRACE", "KILL"])


@given(methods, paths, fuzzed_headers, bodies, st.booleans())
@settings(max_examples=200, deadline=None)
@case("POST", "/api/kill", [], [json.dumps(REASON).encode()], True)
@case("POST", "/api/confirm", [(b"authorization", b"Bearer ")], [], True)
def test_nothing_that_comes_without_the_token_fails_or_commands(
    method: str, path: str, headers: list[tuple[bytes, bytes]], chunks: list[bytes], host: bool
) -> None:
    runner, app = shared_application()
    runner.told.clear()
    given_headers = [*headers, *([(b"host", b"localhost")] if host else [])]
    status = asyncio.run(ask(app, method, path, given_headers, chunks))
    assert status < 500
    assert runner.told == []


@given(bodies, st.sampled_from(COMMANDS))
@settings(max_examples=100, deadline=None)
def test_no_body_fails_even_with_the_token(chunks: list[bytes], command: str) -> None:
    runner, app = shared_application()
    runner.told.clear()
    headers = [(b"host", b"localhost"), (b"authorization", b"Bearer " + TOKEN.encode())]
    status = asyncio.run(ask(app, "POST", f"/api/{command}", headers, chunks))
    assert status in (200, 413, 422)
    assert (status == 200) == bool(runner.told)


@given(st.text())
def test_a_host_name_is_taken_apart_without_error(header: str) -> None:
    assert host_name(header) == host_name(header).lower()


# --------------------------------------------------------------------------------------------------------------- serving
@pytest.mark.parametrize(
    ("host", "answer"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("localhost", True), ("0.0.0.0", False), ("::", False),
     ("10.0.0.1", False), ("localhost.evil.example", False)],
)  # fmt: skip
def test_what_is_loopback(host: str, answer: bool) -> None:
    assert is_loopback(host) is answer


def test_others_may_not_reach_a_page_without_a_token() -> None:
    with pytest.raises(ValueError, match=r"host = '0\.0\.0\.0'; accepted without a token is a loopback address"):
        asyncio.run(serve(application(FakeRunner(), token=None), "0.0.0.0"))


def test_it_serves_within_the_runner_s_loop_and_leaves_its_signals_alone() -> None:
    async def run() -> None:
        runner = FakeRunner()
        before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
        async with serving(application(runner)) as server, httpx.AsyncClient() as http:
            assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before
            assert (await http.get(server.url)).status_code == 200
            answer = await http.post(f"{server.url}api/kill", headers=RIGHT, json=REASON)
            assert answer.json()["killed"]
            assert "server" not in answer.headers
            assert runner.told == [("kill", "a test")]
            with pytest.raises(OSError):
                await serve(application(runner), port=server.port)
            url = server.url
        async with httpx.AsyncClient() as http:
            with pytest.raises(httpx.ConnectError):
                await http.get(url)
        assert [task.get_name() for task in asyncio.all_tasks()] == [asyncio.current_task().get_name()]  # type: ignore[union-attr]

    asyncio.run(run())


# --------------------------------------------------------------------------------------------------------------- browser
class Served:
    """A runner whose page is served in a thread."""

    def __init__(self) -> None:
        self.runner = FakeRunner()
        self.loop = asyncio.new_event_loop()
        self.thread = threading.Thread(target=self.loop.run_forever)
        self.thread.start()
        self.server: StatusServer = self._wait(serve(application(self.runner)))

    def _wait(self, task: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(task, self.loop).result(20)

    def close(self) -> None:
        self._wait(self.server.close())
        self.loop.call_soon_threadsafe(self.loop.stop)
        self.thread.join()
        self.loop.close()


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[browsers.Browser]:
    if browsers.executable() is None:
        pytest.skip("no Chromium here")
    with browsers.started(Path(tmp_path_factory.mktemp("profile"))) as browser:
        yield browser


@pytest.fixture
def served() -> Iterator[Served]:
    made = Served()
    yield made
    made.close()


def test_a_browser_shows_the_snapshot_and_loads_nothing_from_elsewhere(page: browsers.Browser, served: Served) -> None:
    page.open(served.server.url)
    page.wait("document.getElementById('state').textContent === 'ACTIVE'")
    text = page.text()
    for shown in SHOWN:
        assert shown in text, shown
    assert SCRIPT in text  # as text
    assert page.run("document.title") == "ACTIVE · ArbGym live"
    assert page.run("document.querySelectorAll('#decisions script, #decisions img').length") == 0
    assert page.run("document.querySelector('#chart .curve').getAttribute('d').length") > 1_000
    assert page.run("[...document.querySelectorAll('.bar i')].map((bar) => bar.style.width)")[0] == "24.2%"
    assert page.requests
    assert all(url.startswith((served.server.url, "data:,", "about:")) for url in page.requests), page.requests
    assert page.problems == []


@pytest.mark.parametrize(
    ("changes", "state", "why"),
    [
        ({"killed": True, "kill_reason": "<b>file</b>"}, "KILLED", "<b>file</b>"),
        ({"gate_state": "HALTED"}, "HALTED", "until somebody resumes it"),
        ({"gate_state": "REDUCING"}, "REDUCING", "Only smaller positions"),
        ({"head_age_s": 400.0}, "ACTIVE", "the head is 400 s old"),
        ({"mode": "dry-run"}, "ACTIVE", "Nothing is sent in dry-run"),
    ],
)
def test_the_banner_says_where_it_stands(
    page: browsers.Browser, served: Served, changes: dict[str, Any], state: str, why: str
) -> None:
    served.runner.shown = example(**changes)
    page.open(served.server.url)
    page.wait(f"document.getElementById('state').textContent === '{state}'")
    assert why in page.run("document.getElementById('why').textContent")
    assert page.problems == []


@pytest.mark.parametrize(("mode", "run"), [("dry-run", "dry run"), ("replay", "replay")])
def test_profit_that_nobody_made_is_called_what_it_is(
    page: browsers.Browser, served: Served, mode: Literal["dry-run", "replay"], run: str
) -> None:
    """One gap is won block after block while it stands, and every one of them was counted as profit."""
    page.open(served.server.url)
    page.wait("document.getElementById('state').textContent === 'ACTIVE'")
    assert "Would-be" not in page.text() and "Net profit" in page.text()
    assert "412 ended since the journal began, 7,431 decisions since start" in page.text()
    served.runner.shown = example(mode=mode)
    page.open(served.server.url)
    page.wait("document.getElementById('chart-title').textContent === 'Would-be profit'")
    for shown in ("Would-be win rate", f"every block counted anew, as a {run} moves no pool"):
        assert shown in page.text()
    assert "Net profit" not in page.text()
    assert page.problems == []


def test_a_runner_that_knows_nothing_yet_is_shown(page: browsers.Browser, served: Served) -> None:
    nothing = dict.fromkeys(
        ("block_number", "head_age_s", "reference_price", "reference_age_s", "base_fee_gwei", "open_intent", "next_nonce")
    )
    served.runner.shown = example(
        **nothing, totals=Totals(), curve=(), limits=(), decisions=(), pools=(), alerts=(), drawdown=math.nan
    )
    page.open(served.server.url)
    page.wait("document.getElementById('why').textContent === 'no block yet'")
    text = page.text()
    for shown in ("No block yet", "Nothing decided yet", "No pool yet", "no outside price", "The curve begins"):
        assert shown in text
    for wrong in ("NaN", "undefined", "null", "Infinity"):
        assert wrong not in text
    assert page.problems == []


def test_the_page_follows_the_runner_and_says_when_it_is_gone(page: browsers.Browser) -> None:
    served = Served()
    page.open(served.server.url)
    page.wait("document.getElementById('state').textContent === 'ACTIVE'")
    served.runner.shown = example(gate_state="HALTED")
    page.wait("document.getElementById('state').textContent === 'HALTED'")
    served.close()
    page.wait("document.getElementById('state').textContent === 'NO ANSWER'")
    assert "what is below is old" in page.text()


def test_the_kill_switch_asks_first_and_then_kills(page: browsers.Browser, served: Served) -> None:
    page.open(served.server.url)
    page.wait("document.getElementById('state').textContent === 'ACTIVE'")

    def press(name: str) -> None:
        page.run(f"document.getElementById('{name}').click()")

    def write(name: str, text: str) -> None:
        page.run(f"document.getElementById('{name}').value = {json.dumps(text)}; 1")

    write("reason", "the market is odd")
    write("token", "wrong")
    press("kill")
    assert page.run("document.getElementById('ask').open") is True
    press("ask-no")
    assert page.run("document.getElementById('ask').open") is False
    press("kill")
    press("ask-yes")
    page.wait("document.getElementById('answer').textContent === 'the token is missing or wrong'")
    assert served.runner.told == []
    write("token", TOKEN)
    press("kill")
    press("ask-yes")
    page.wait("document.getElementById('state').textContent === 'KILLED'")
    assert served.runner.told == [("kill", "the market is odd")]
    assert page.run("document.getElementById('why').textContent") == "the market is odd"
    assert page.run("document.getElementById('kill').disabled") is True
    press("release")
    press("ask-yes")
    page.wait("document.getElementById('state').textContent === 'ACTIVE'")
    assert [name for name, _ in served.runner.told] == ["kill", "release"]
    assert TOKEN not in page.run("document.documentElement.outerHTML + JSON.stringify({...localStorage, ...sessionStorage})")
    assert [problem for problem in page.problems if "401" not in problem] == []


CONTRASTS = """(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => {
    const [r, g, b] = parts(colour).map((c) => c / 255).map((c) => c <= .03928 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
    return .2126 * r + .7152 * g + .0722 * b;
  };
  const ground = (element) => {
    for (let e = element; e; e = e.parentElement) {
      const colour = getComputedStyle(e).backgroundColor;
      if (!(parts(colour).length === 4 && parts(colour)[3] === 0)) return colour;
    }
    return 'rgb(255, 255, 255)';
  };
  const found = [];
  let seen = 0;
  for (const element of document.querySelectorAll('main *')) {
    const own = [...element.childNodes].some((node) => node.nodeType === 3 && node.textContent.trim());
    if (!own || element.disabled || element.closest('svg') || !element.getClientRects().length) continue;
    seen += 1;
    const a = light(getComputedStyle(element).color), b = light(ground(element));
    const ratio = (Math.max(a, b) + .05) / (Math.min(a, b) + .05);
    if (ratio < 4.5) found.push(`${element.className} ${element.textContent} ${ratio.toFixed(2)}`);
  }
  return [seen > 100, found];
})()"""


@pytest.mark.parametrize("dark", [False, True])
@pytest.mark.parametrize("width", [390, 1280])
def test_it_is_readable_on_a_phone_and_in_the_dark(page: browsers.Browser, served: Served, width: int, dark: bool) -> None:
    page.open(served.server.url, width=width, dark=dark)
    page.wait("document.getElementById('state').textContent === 'ACTIVE'")
    assert page.run("document.documentElement.scrollWidth") <= width
    assert page.run("innerWidth") == width
    assert page.run(CONTRASTS) == [True, []]
    lightness = page.run("getComputedStyle(document.body).backgroundColor.match(/\\d+/g).map(Number)[0]")
    assert (lightness < 60) is dark
    assert page.problems == []
