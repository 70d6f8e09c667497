"""Logs are JSON lines, and no secret gets into any of them, nor into anything else that is seen from outside."""

from __future__ import annotations

import asyncio
import base64
import errno
import io
import json
import logging
import math
import stat
import subprocess
import sys
import threading
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

import structlog
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from pydantic import SecretStr

from arbgym.live.logs import REDACTED, Logging, Redactor, log_loop_errors, start_logging
from arbgym.live.metrics import Metrics
from tests.live.seen import FixedClock

KEY = "0x00c0ffee" + "5ca1ab1e" * 7
PASSWORD = 'correct "horse"\\ battery/staple ü'
TOKEN = "tok-9f8e7d6c5b4a39281706"
URL = "wss://trader:hunter2secret@node.example:8546/v3/0f0e0d0c0b0a0908/path?apikey=QUERYSECRET99&x=1"
HIDDEN_IN_URL = ("hunter2secret", "trader", "0f0e0d0c0b0a0908", "QUERYSECRET99")


def forms(secret: str) -> set[str]:
    """How a secret may look in a line."""
    shown = {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
    shown |= {json.dumps(secret, ensure_ascii=False)[1:-1]}
    shown |= {base64.b64encode(secret.encode()).decode().rstrip("=")}
    if secret.startswith("0x"):
        body, raw = secret[2:], bytes.fromhex(secret[2:])
        shown |= {body, body.upper(), body.title(), str(int(body, 16)), hex(int(body, 16))[2:], repr(raw)[2:-1]}
        shown |= {base64.b64encode(raw).decode().rstrip("=")}
    return shown


ALL_FORMS = set().union(*(forms(secret) for secret in (KEY, PASSWORD, TOKEN, *HIDDEN_IN_URL)))


def assert_clean(text: str) -> None:
    for form in ALL_FORMS:
        assert form not in text, f"a secret is shown in the form {form!r}"
        assert json.dumps(form)[1:-1] not in text
        assert json.dumps(form, ensure_ascii=False)[1:-1] not in text


def knowing() -> Redactor:
    redactor = Redactor()
    for secret in (KEY, PASSWORD, TOKEN):
        redactor.add(secret)
    redactor.add_url(URL)
    return redactor


@pytest.fixture
def stream() -> Iterator[io.StringIO]:
    written = io.StringIO()
    logs = start_logging(knowing(), level="debug", stream=written)
    yield written
    logs.close()


def lines(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


class Leaky(Exception):
    """An error of a library that shows what it was given."""

    def __init__(self, *given_values: object) -> None:
        super().__init__(*given_values)
        self.given_values = given_values

    def __str__(self) -> str:
        return f"could not use {self.given_values!r}"


@dataclass
class Holder:
    """Shows its fields."""

    value: str


# --------------------------------------------------------------------------------------------------------------- lines
def test_a_line_has_time_level_event_block_and_key_first(stream: io.StringIO) -> None:
    log = structlog.get_logger()
    log.info("decided", action="wait", block=7)
    with structlog.contextvars.bound_contextvars(block=8, key="ab12"):
        log.warning("refused", limit="notional_eth", value=60.5)
    first, second = lines(stream)
    assert list(first)[:5] == list(second)[:5] == ["time", "level", "event", "block", "key"]
    assert (first["level"], first["event"], first["block"], first["key"], first["action"]) == ("info", "decided", 7, None, "wait")
    assert (second["block"], second["key"], second["value"]) == (8, "ab12", 60.5)
    assert str(first["time"]).endswith("Z")


def test_the_level_is_obeyed_and_a_wrong_one_refused() -> None:
    written = io.StringIO()
    logs = start_logging(Redactor(), level="warning", stream=written)
    structlog.get_logger().info("quiet")
    structlog.get_logger().error("loud")
    logs.close()
    assert [line["event"] for line in lines(written)] == ["loud"]
    with pytest.raises(ValueError, match="level = 'chatty'; accepted is one of debug, info, warning, error"):
        start_logging(Redactor(), level="chatty")


def test_the_file_is_its_owner_s_and_is_appended_to(tmp_path: Path) -> None:
    path = tmp_path / "runner.jsonl"
    for event in ("first", "second \ud800"):
        logs = start_logging(Redactor(), path=path)
        structlog.get_logger().info(event)
        logs.close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert len([json.loads(line) for line in path.read_text().splitlines()]) == 2


class FullDisk(io.StringIO):
    """Takes nothing."""

    def flush(self) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")


def test_a_full_disk_loses_lines_and_not_the_runner() -> None:
    working = io.StringIO()
    logs = start_logging(Redactor(), stream=FullDisk())
    logs.lines.streams.append(working)
    structlog.get_logger().info("still going")
    assert logs.lost == 1
    assert lines(working)[0]["event"] == "still going"
    logs.close()


def test_numbers_that_json_has_not_become_text(stream: io.StringIO) -> None:
    structlog.get_logger().info("odd", nan=math.nan, inf=-math.inf, big=2**200, nested={"x": [math.nan]}, key=b"\xff\x00")
    (line,) = lines(stream)
    assert (line["nan"], line["inf"], line["big"], line["nested"]) == ("nan", "-inf", str(2**200), {"x": ["nan"]})
    assert line["key"] == "0xff00"


def test_what_cannot_be_shown_does_not_stop_the_line(stream: io.StringIO) -> None:
    class Stubborn:
        def __repr__(self) -> str:
            raise RuntimeError(KEY)

    endless: list[object] = []
    endless.append(endless)
    structlog.get_logger().info("odd", thing=Stubborn(), endless=endless)
    assert lines(stream)[0]["thing"] == "<Stubborn without a text: RuntimeError>"
    assert_clean(stream.getvalue())


# ------------------------------------------------------------------------------------------------------- the canary test
def leak_everywhere() -> None:
    log = structlog.get_logger()
    raw = bytes.fromhex(KEY[2:])
    endpoint_words = "HTTPError for url: " + URL
    for secret in (KEY, PASSWORD, TOKEN):
        for form in forms(secret):
            log.info(f"a message with {form} in it", value=form)
        log.info("dict", nested={"a": [{"b": (secret, Holder(secret))}], secret: 1, "words": f"x={secret}"}, some={secret})
        log.info("bytes", value=secret.encode(), more=[bytearray(secret.encode()), memoryview(secret.encode())])
        log.info("error as a value", error=Leaky(secret))
        logging.getLogger("web3.providers").warning("request to %s with %r failed", URL, {"key": secret})
        logging.getLogger("uvicorn.error").error("%d", secret)  # a wrong format string
        logging.getLogger("aiohttp.client").error("boom", exc_info=Leaky(secret))
        try:
            try:
                local = secret  # a traceback with local variables would show it
                raise Leaky(local, raw)
            except Leaky as inner:
                inner.add_note(f"it was {secret}")
                raise ValueError(f"outer {secret}") from inner
        except ValueError:
            log.exception("it failed")
        group = ExceptionGroup(f"group {secret}", [Leaky(secret), KeyError(secret)])
        log.error("grouped", exc_info=group)
        sys.excepthook(ValueError, ValueError(secret), None)
        threading.excepthook(threading.ExceptHookArgs((ValueError, ValueError(secret), None, None)))
        warnings.warn(f"do not use {secret}", UserWarning, stacklevel=1)
    log.info("raw", value=raw, number=int(KEY, 16), text=str(raw), mapping={raw: raw})
    log.info(endpoint_words, url=URL)
    log.error("url", exc_info=ConnectionError(endpoint_words))


def test_no_secret_is_in_any_line(stream: io.StringIO, monkeypatch: pytest.MonkeyPatch) -> None:
    root = logging.getLogger()  # pytest adds handlers of its own, which a runner has not
    monkeypatch.setattr(root, "handlers", [each for each in root.handlers if type(each).__module__.startswith("arbgym")])
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(True)
        leak_everywhere()
    text = stream.getvalue()
    assert_clean(text)
    assert len(lines(stream)) > 50
    assert "node.example:8546" in text  # the host may be named
    assert "it failed" in text
    assert "outer" in text


def test_no_secret_is_in_the_lines_of_tasks_that_nobody_awaited(stream: io.StringIO) -> None:
    async def fail() -> None:
        raise Leaky(KEY, PASSWORD)

    async def run() -> None:
        log_loop_errors(asyncio.get_running_loop())
        task = asyncio.create_task(fail())
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        del task
        asyncio.get_running_loop().call_soon(lambda: (_ for _ in ()).throw(Leaky(TOKEN)))
        await asyncio.sleep(0)

    asyncio.run(run())
    text = stream.getvalue()
    assert_clean(text)
    assert "Task exception was never retrieved" in text
    assert text.count("Leaky") >= 2


def test_an_error_that_ends_the_process_shows_no_secret() -> None:
    program = """
import os, sys
from arbgym.live.logs import Redactor, start_logging
redactor = Redactor()
redactor.add(os.environ["CANARY"])
start_logging(redactor)
def fail(secret):
    raise RuntimeError(f"could not sign with {secret}") from ValueError(secret)
fail(os.environ["CANARY"])
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env={"CANARY": KEY, "PYTHONPATH": ":".join(sys.path)}, capture_output=True
    )
    assert ended.returncode == 1
    assert ended.stdout == b""
    (line,) = ended.stderr.decode().splitlines()
    assert_clean(line)
    assert json.loads(line)["event"] == "unhandled RuntimeError"
    assert "locals" not in line


def test_no_secret_is_in_the_text_of_metrics() -> None:
    metrics = Metrics(FixedClock(), knowing())
    metrics.started(version="1", mode="live", environment_id=f"e {KEY}", policy_id=PASSWORD, expires_at_s=0.0)
    metrics.rpc(URL, TOKEN)
    metrics.decided(TOKEN, 0.1)
    exporter = metrics.export(0)
    exporter.close()
    from prometheus_client import generate_latest

    text = generate_latest(metrics.registry).decode()
    assert_clean(text)
    assert REDACTED in text


def test_nothing_here_shows_secrets_in_its_repr() -> None:
    redactor = knowing()
    logs = start_logging(redactor, stream=io.StringIO())
    assert isinstance(logs, Logging)
    shown = f"{redactor!r} {redactor} {logs!r} {Metrics(FixedClock(), redactor)!r} {SecretStr(TOKEN)!r}"
    logs.close()
    assert_clean(shown)


# ---------------------------------------------------------------------------------------------------------- the redactor
@given(st.binary(min_size=32, max_size=32), st.text(max_size=20), st.text(max_size=20), st.booleans(), st.booleans())
def test_a_key_is_gone_in_any_case_with_and_without_0x(key: bytes, before: str, after: str, prefix: bool, upper: bool) -> None:
    assume(any(key[:8]))
    redactor = Redactor()
    redactor.add("0x" + key.hex())
    shown = key.hex().upper() if upper else key.hex()
    text = redactor.text(before + ("0x" if prefix else "") + shown + after)
    assert key.hex().lstrip("0") not in text.lower()
    assert REDACTED in text


@given(
    st.text(min_size=8, max_size=40),
    st.recursive(st.text(max_size=9), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)),
)
@settings(max_examples=50)
def test_a_password_is_gone_from_any_structure(secret: str, structure: object) -> None:
    redactor = Redactor()
    redactor.add(secret)
    plain = redactor.plain({"deep": [structure, f"a{secret}b", {f"k{secret}": [secret]}]})

    def texts(value: object) -> Iterator[str]:
        if isinstance(value, dict):
            for key, item in value.items():
                yield from (key, *texts(item))
        elif isinstance(value, list):
            for item in value:
                yield from texts(item)
        else:
            yield str(value)

    assume(secret not in REDACTED)
    assert not any(secret in text.replace(REDACTED, "\0") for text in texts(plain))


NAMES = (
    "password Passphrase private_key PRIVATE-KEY api_key apiKey token access_token Authorization client_secret mnemonic".split()
)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_called_like_a_secret_is_not_shown(name: str) -> None:
    given_words = f'{{"{name}": "unheard-of"}} {name}=unheard-of {name}: Bearer unheard-of'
    plain = Redactor().plain({name: "unheard of", "list": [{name: {"a": 1}}], "words": given_words})
    assert plain[name] == REDACTED
    assert plain["list"][0][name] == REDACTED
    assert "unheard" not in plain["words"]


@given(st.binary(min_size=16, max_size=40), st.booleans())
def test_secret_bytes_are_gone_as_bytes_as_text_and_as_hexadecimal(secret: bytes, announced_as_hexadecimal: bool) -> None:
    assume(any(secret[:8]))
    redactor = Redactor()
    redactor.add(secret.hex() if announced_as_hexadecimal else secret)
    for value in (secret, bytearray(secret), secret.hex(), f"x{secret!r}", {"a": [secret]}):
        plain = str(redactor.plain(value))
        assert REDACTED in plain
        assert secret.hex().lstrip("0") not in plain
        assert str(secret)[2:-1] not in plain


def test_an_intent_s_key_and_a_token_s_address_stay_readable() -> None:
    plain = Redactor().plain(
        {"key": "ab12", "token0": "0xabc", "policy": "p", "gas_used": 21_000, "nested": {"key": "who knows"}}
    )
    assert plain == {"key": "ab12", "token0": "0xabc", "policy": "p", "gas_used": 21_000, "nested": {"key": REDACTED}}


def test_credentials_that_nobody_announced_are_taken_out_by_their_form() -> None:
    text = Redactor().text("GET https://user:pw@host.example/x with Authorization: Bearer abc.def-ghi and Basic dXNlcjpwdw==")
    assert text == f"GET https://{REDACTED}@host.example/x with Authorization: {REDACTED} and Basic {REDACTED}"


def test_a_short_secret_is_replaced_where_it_stands_alone() -> None:
    redactor = Redactor()
    redactor.add("cat")
    assert redactor.text("cat concatenate 'cat'") == f"{REDACTED} concatenate '{REDACTED}'"
    with pytest.raises(ValueError, match="secret is empty"):
        redactor.add("")
