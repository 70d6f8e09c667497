"""The ClickHouse engine of chdb behind its HTTP interface, as much of it as clickhouse-connect uses. FOLDER PORT PAUSE_S.

``PAUSE_S`` is slept after each piece of an answer, so that a test can kill the process in the middle of one.
"""

from __future__ import annotations

import io
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qsl, urlsplit

import chdb
import pyarrow
import pyarrow.ipc

folder, port, pause_s = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
connection = chdb.connect(folder)


class Pieces(io.RawIOBase):
    """A file whose writes are pieces of a chunked answer."""

    def __init__(self, handler: Handler) -> None:
        self._handler = handler

    def writable(self) -> bool:
        return True

    def write(self, data: bytes) -> int:
        if len(data):
            self._handler._piece(bytes(data))
        return len(data)


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""

    def do_GET(self) -> None:
        self._piece_headers(200)
        self._piece(b"Ok.\n")
        self._piece(b"")

    def do_POST(self) -> None:
        said = dict(parse_qsl(urlsplit(self.path).query, keep_blank_values=True))
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        statement = said.get("query") or body.decode()
        parameters = {name.removeprefix("param_"): value for name, value in said.items() if name.startswith("param_")}
        plain, _, kind = statement.rpartition("FORMAT ")
        plain, kind = (plain, kind.strip()) if plain and kind.strip().isalnum() else (statement, "TabSeparated")
        try:
            if kind == "ArrowStream":
                self._stream(plain, parameters)
                return
            answer = connection.query(plain, kind, params=parameters).bytes()
            self._piece_headers(200)
        except (RuntimeError, chdb.ChdbError) as error:
            answer = str(error).encode()
            self._piece_headers(500)
        if answer:
            self._piece(answer)
        self._piece(b"")

    def _stream(self, statement: str, parameters: dict[str, str]) -> None:
        reader = connection.send_query(statement, "Arrow", params=parameters).record_batch(2_000)
        schema = reader.schema
        self._piece_headers(200)
        with pyarrow.PythonFile(Pieces(self), mode="w") as file, pyarrow.ipc.new_stream(file, schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                time.sleep(pause_s)
        self._piece(b"")

    def _piece_headers(self, status: int) -> None:
        self.send_response(status)
        self.send_header("Transfer-Encoding", "chunked")
        self.send_header("X-ClickHouse-Timezone", "UTC")
        if status != 200:
            self.send_header("X-ClickHouse-Exception-Code", "1")
        self.end_headers()

    def _piece(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")


ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()
