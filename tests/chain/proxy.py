"""A node that behaves as public ones do: a JSON-RPC proxy that refuses wide ranges, limits the rate and goes away."""

from __future__ import annotations

import json
import socket
import threading
import time
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Any


class Proxy:
    """Answers as the node at ``upstream``, except: eth_getLogs over more than ``widest`` blocks is refused (``refusal``: an
    error of JSON-RPC, HTTP status 413 'too large', or no answer for 2 s 'slow'); more than ``most_per_second`` requests get
    HTTP status 429; batches may be refused; after ``dies_after`` requests it drops connections, for ``back_after_s`` or for good.
    """

    def __init__(
        self,
        upstream: str,
        widest: int | None = None,
        refusal: str = "error",
        most_per_second: int | None = None,
        batches: bool = True,
        dies_after: int | None = None,
        back_after_s: float | None = None,
    ) -> None:
        self.ranges: list[int] = []  # widths of the ranges of eth_getLogs that were asked for
        self.told_to_rest = self.deaths = 0
        self._upstream, self._widest, self._refusal = upstream, widest, refusal
        self._most, self._batches, self._dies_after, self._back_after_s = most_per_second, batches, dies_after, back_after_s
        self._times: list[float] = []
        self._seen = 0
        self._dead_until = 0.0
        self._lock = threading.Lock()
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                status, answer = proxy._answer(json.loads(body))
                if status == 0:
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> Proxy:
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, asked: Any) -> tuple[int, bytes]:
        calls = asked if isinstance(asked, list) else [asked]
        now = time.monotonic()
        with self._lock:
            self._seen += len(calls)
            if self._dies_after is not None and self._seen > self._dies_after and not self.deaths:
                self.deaths += 1
                self._dead_until = float("inf") if self._back_after_s is None else now + self._back_after_s
            if now < self._dead_until:
                return 0, b""
            if self._most is not None:
                self._times = [moment for moment in self._times if moment > now - 1.0]
                if len(self._times) + len(calls) > self._most:
                    self.told_to_rest += 1
                    return 429, b"too many requests"
                self._times += [now] * len(calls)
        if isinstance(asked, list) and not self._batches:
            return 200, _error(None, -32600, "batches are not supported")
        for call in calls:
            if call["method"] == "eth_getLogs" and self._widest is not None:
                width = int(call["params"][0]["toBlock"], 16) - int(call["params"][0]["fromBlock"], 16) + 1
                self.ranges.append(width)
                if width > self._widest:
                    if self._refusal == "too large":
                        return 413, b"too large"
                    if self._refusal == "slow":
                        time.sleep(2.0)
                    return 200, _error(call["id"], -32005, "query returned more than 10000 results")
        request = urllib.request.Request(self._upstream, json.dumps(asked).encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=30) as answer:
            return 200, answer.read()


def _error(number: Any, code: int, message: str) -> bytes:
    return json.dumps({"jsonrpc": "2.0", "id": number, "error": {"code": code, "message": message}}).encode()
