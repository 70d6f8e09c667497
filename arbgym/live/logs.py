"""Structured logs: one JSON object a line with time, level, event, block and key, and no secret in any of them.

The runner's own lines and those of the libraries beneath it pass the same processors, and so do errors that nothing handled.
Tracebacks carry frames and messages but never local variables.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import functools
import json
import logging
import math
import re
import sys
import threading
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO
from urllib.parse import quote, unquote, urlsplit

import structlog
from structlog.tracebacks import ExceptionDictTransformer

REDACTED = "[redacted]"
LEVELS = {"debug": logging.DEBUG, "info": logging.INFO, "warning": logging.WARNING, "error": logging.ERROR}
LIBRARIES_LEVEL = logging.WARNING  # what web3, websockets, aiohttp and uvicorn say below this is noise
SHORT = 8  # a shorter secret is replaced only where it stands alone, or it would eat ordinary words
DEEPEST = 8
_SECRET_NAME = re.compile(
    r"pass(word|phrase|wd)|secret|authorization|credential|mnemonic|cookie|bearer|keystore|^(pwd|token)$|(^|[_\-. ])token$"
    r"|(private|secret|api|signing|access|auth)[_\-. ]?key",
    re.IGNORECASE,
)
# name=value and "name": value within a text; the scheme before a credential; user:password@ in any URL
_SECRET_TEXT = re.compile(
    r"""(?P<before>\b(?:password|passphrase|passwd|(?:client_)?secret|authorization|mnemonic|(?:access_|auth_|api_)?token"""
    r"""|(?:private|secret|api|signing|access|auth)[_\-. ]?key)\b["']?\s*[:=]\s*["']?)(?:(?:bearer|basic)\s+)?[^\s"',;&})\]]+"""
    r"""|(?P<scheme>\b(?:bearer|basic)\s+)[A-Za-z0-9._~+/=\-]{8,}"""
    r"""|(?P<url>\b[a-z][a-z0-9+.\-]*://)[^\s/@"'<>]+@""",
    re.IGNORECASE,
)


class Redactor:
    """Knows secrets and takes them out of whatever is about to be shown. Its own repr tells how many it knows, nothing else."""

    def __init__(self) -> None:
        self._patterns: set[str] = set()
        self._known: re.Pattern[str] | None = None
        self._shortest = sys.maxsize  # a text with fewer characters holds no secret

    def __repr__(self) -> str:
        return f"Redactor({len(self._patterns)} patterns)"

    def add(self, secret: str | bytes) -> None:
        """Never show ``secret`` again: as it is, quoted, escaped, in base64, and, if it is hexadecimal or bytes, in any case,
        with or without 0x, as a number. Raises ValueError for an empty one.
        """
        if not secret:
            raise ValueError("secret is empty; accepted is at least one character")
        if isinstance(secret, bytes):
            self._shortest = min(self._shortest, len(secret) // 4)  # a character has up to four bytes
            with contextlib.suppress(UnicodeDecodeError):
                self.add(secret.decode("utf-8"))
            self._patterns |= {_hexadecimal(secret.hex()), _exact(str(secret)), _exact(str(secret)[2:-1]), *_base64(secret)}
        else:
            body = secret[2:] if secret[:2] in ("0x", "0X") else secret
            if len(body) >= 32 and re.fullmatch("[0-9a-fA-F]+", body):
                self._patterns.add(_hexadecimal(body))
                self._patterns.add(_exact(str(int(body, 16))))
                if len(body) % 2 == 0:
                    raw = bytes.fromhex(body)
                    self._patterns |= {_exact(str(raw)[2:-1]), *_base64(raw)}
                self._shortest = min(self._shortest, len(body) // 8)
            # a leading 0x or zeros may be missing, and what was quoted may be shown unquoted
            self._shortest = min(self._shortest, len(body.lstrip("0")), len(unquote(secret)))
            forms = {secret, quote(secret, safe=""), quote(secret), unquote(secret), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
            forms.add(json.dumps(secret, ensure_ascii=False)[1:-1])
            self._patterns |= {_exact(form) for form in forms if form}
            self._patterns |= set(_base64(secret.encode("utf-8", "surrogatepass")))
        self._known = re.compile("|".join(sorted(self._patterns, key=len, reverse=True)))

    def add_url(self, url: str) -> None:
        """Keep an endpoint's credentials, path and query to ourselves; its host may be named."""
        parts = urlsplit(url)
        for credential in (parts.username, parts.password):
            if credential:
                self.add(credential)
                self.add(unquote(credential))
        path = parts.path.strip("/")
        hidden = {path, parts.query, parts.fragment, *path.split("/")}
        hidden |= {value for pair in parts.query.split("&") for value in pair.split("=")[1:]}
        for piece in hidden:
            if len(piece) >= 4:  # "v3", "ws" and the like are in every URL and in many words
                self.add(piece)

    def text(self, text: str) -> str:
        """``text`` without secrets."""
        if self._known is not None and len(text) >= self._shortest:
            text = self._known.sub(REDACTED, text)
        # most texts are a word: nothing of this form is in them
        return _SECRET_TEXT.sub(_keep_name, text) if any(sign in text for sign in (" ", ":", "=")) else text

    def plain(self, value: Any, name: str = "", depth: int = 0) -> Any:
        """``value`` as something that JSON has, without secrets; what is called like a secret loses its value altogether."""
        if name and _is_secret_name(name):
            return REDACTED
        kind = type(value)
        if value is None or kind is bool or (kind is float and math.isfinite(value)):
            return value
        if isinstance(value, int):
            return int(value) if abs(value) < 2**63 else self.text(str(value))
        if isinstance(value, float):
            return float(value) if math.isfinite(value) else str(value)
        if isinstance(value, str):
            return self.text(str(value))
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self._of_bytes(bytes(value))
        if depth < DEEPEST and isinstance(value, Mapping):
            return {self.text(_described(key)): self._nested(item, key, depth) for key, item in value.items()}
        if depth < DEEPEST and isinstance(value, (list, tuple, set, frozenset)):
            return [self.plain(item, "", depth + 1) for item in value]
        return self.text(_described(value))

    def _nested(self, item: Any, key: Any, depth: int) -> Any:
        # "key" at the top of a line is an intent's; further down it may be anybody's
        return REDACTED if key == "key" and depth > 0 else self.plain(item, key if isinstance(key, str) else "", depth + 1)

    def _of_bytes(self, value: bytes) -> str:
        try:
            text = value.decode("utf-8")
        except UnicodeDecodeError:
            return self.text("0x" + value.hex())
        return self.text(text if text.isprintable() else "0x" + value.hex())


@functools.lru_cache(maxsize=1_024)
def _is_secret_name(name: str) -> bool:
    return _SECRET_NAME.search(name) is not None


def _exact(form: str) -> str:
    escaped = re.escape(form)
    return escaped if len(form) >= SHORT else rf"(?<!\w){escaped}(?!\w)"


def _hexadecimal(digits: str) -> str:
    # a number's text has lost its leading zeros
    return rf"(?i:(?:0x)?0*{digits.lower().lstrip('0') or '0'})" if len(digits) >= SHORT else _exact(digits)


def _base64(raw: bytes) -> list[str]:
    if len(raw) < SHORT:
        return []
    return [re.escape(encode(raw).decode().rstrip("=")) for encode in (base64.b64encode, base64.urlsafe_b64encode)]


def _keep_name(match: re.Match[str]) -> str:
    tail = "@" if match["url"] else ""
    return f"{match['before'] or match['scheme'] or match['url']}{REDACTED}{tail}"


def _described(value: Any) -> str:
    try:
        return str(value) if isinstance(value, (str, BaseException)) else repr(value)
    except Exception as error:  # noqa: BLE001 - a log line must not fail on a foreign __repr__
        return f"<{type(value).__name__} without a text: {type(error).__name__}>"


# ----------------------------------------------------------------------------------------------------------- processors
Line = MutableMapping[str, Any]


def _ordered(_logger: Any, _method: str, line: Line) -> Line:
    """time, level, event, block and key first, on every line."""
    first = {name: line.pop(name, None) for name in ("time", "level", "event", "block", "key")}
    return {**first, **line}


def processors(redactor: Redactor) -> list[Any]:
    """What a line passes on its way to text, in order."""

    def redact(_logger: Any, _method: str, line: Line) -> Line:
        plain: Line = redactor.plain(dict(line))
        return plain

    return [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
        structlog.processors.ExceptionRenderer(ExceptionDictTransformer(show_locals=False, use_rich=False, max_frames=30)),
        redact,
        _ordered,
        structlog.processors.JSONRenderer(ensure_ascii=False, allow_nan=False),
    ]


class _Lines:
    """Where lines go. A line that cannot be written (a full disk, a closed pipe) is counted, and the runner goes on."""

    def __init__(self, streams: list[TextIO]) -> None:
        self.streams = streams
        self.lost = 0

    def write(self, line: str) -> None:
        for stream in self.streams:
            try:
                stream.write(line + "\n")
                stream.flush()
            except (OSError, ValueError):
                self.lost += 1

    # structlog calls the method that is named like the level
    debug = info = warning = error = critical = exception = msg = log = write


class _Bridge(logging.Handler):
    """Hands the lines of libraries, which speak to the standard library's logging, to the same processors."""

    def emit(self, record: logging.LogRecord) -> None:
        try:
            event = record.getMessage()
        except Exception as error:  # noqa: BLE001 - a library's wrong format string is no reason to fail, nor to print its arguments
            event = f"a line of {record.name} could not be put together: {type(error).__name__}"
        level = max(logging.DEBUG, min(record.levelno, logging.CRITICAL)) // 10 * 10
        structlog.get_logger().log(level, event, logger=record.name, exc_info=record.exc_info)


# ------------------------------------------------------------------------------------------------------------------ set-up
@dataclass(frozen=True, slots=True)
class Logging:
    """What ``start_logging`` changed in the process; ``close`` puts it back."""

    lines: _Lines
    file: TextIO | None
    _restore: Callable[[], None]

    @property
    def lost(self) -> int:
        """Lines that could not be written."""
        return self.lines.lost

    def close(self) -> None:
        """Put the process's hooks back and close the file."""
        self._restore()
        if self.file is not None:
            with contextlib.suppress(OSError):  # what a full disk did not take is lost
                self.file.close()


def start_logging(redactor: Redactor, *, level: str = "info", stream: TextIO | None = None, path: Path | None = None) -> Logging:
    """Send every line to ``stream`` (stderr if neither is given) and append it to the file ``path``, made for its owner only.

    Also takes over the standard library's logging, warnings, and the hooks for errors that nothing handled. Raises ValueError for
    an unknown level, OSError if the file cannot be opened.
    """
    if level not in LEVELS:
        raise ValueError(f"level = {level!r}; accepted is one of {', '.join(LEVELS)}")
    file: TextIO | None = None
    if path is not None:
        path.touch(mode=0o600, exist_ok=True)
        file = path.open("a", encoding="utf-8", errors="backslashreplace")
    streams = [each for each in (stream, file) if each is not None] or [sys.stderr]
    lines = _Lines(streams)
    structlog.configure(
        processors=processors(redactor),
        wrapper_class=structlog.make_filtering_bound_logger(LEVELS[level]),
        logger_factory=lambda *_: lines,
        cache_logger_on_first_use=False,
    )
    root = logging.getLogger()
    handlers, root_level, bridge = root.handlers[:], root.level, _Bridge()
    root.handlers[:] = [bridge]
    root.setLevel(LIBRARIES_LEVEL)
    logging.captureWarnings(True)
    hooks = sys.excepthook, threading.excepthook, sys.unraisablehook
    sys.excepthook = _unhandled
    threading.excepthook = lambda given: _unhandled(given.exc_type, given.exc_value, given.exc_traceback)
    sys.unraisablehook = lambda given: _unhandled(given.exc_type, given.exc_value, given.exc_traceback)

    def restore() -> None:
        sys.excepthook, threading.excepthook, sys.unraisablehook = hooks
        logging.captureWarnings(False)
        root.handlers[:] = handlers
        root.setLevel(root_level)
        structlog.reset_defaults()

    return Logging(lines, file, restore)


def _unhandled(kind: type[BaseException], error: BaseException | None, traceback: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt):
        return  # the operator knows
    given = (kind, error, traceback) if error is not None else None
    structlog.get_logger().critical(f"unhandled {kind.__name__}", exc_info=given)


def log_loop_errors(loop: asyncio.AbstractEventLoop) -> None:
    """Errors of tasks that nobody awaited go through the same processors."""

    def handle(_loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        given = (type(error), error, error.__traceback__) if error is not None else None
        structlog.get_logger().error(str(context.get("message", "an error in the event loop")), exc_info=given)

    loop.set_exception_handler(handle)
