"""Real database engines for the tests: PostgreSQL 15 from Debian's package, ClickHouse from the package chdb-core."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

_BIN = Path("/usr/lib/postgresql/15/bin")


def free_port() -> int:
    """A loopback port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Postgres:
    """A PostgreSQL server of the test's own on loopback, run by an unprivileged user."""

    def __init__(self) -> None:
        self._as_user = ["runuser", "-u", "postgres", "--"] if os.geteuid() == 0 else []
        self.folder = Path(tempfile.mkdtemp(prefix="arbgym-postgres-"))
        if self._as_user:
            shutil.chown(self.folder, "postgres")
        self.port = free_port()
        self.url = f"postgresql://postgres@127.0.0.1:{self.port}/postgres"
        self._run("initdb", "-D", str(self.folder / "data"), "-U", "postgres", "--auth=trust", "--no-sync", "-E", "UTF8")

    def _run(self, program: str, *arguments: str) -> None:
        command = [*self._as_user, str(_BIN / program), *arguments]
        subprocess.run(command, check=True, cwd="/", stdout=subprocess.DEVNULL, timeout=60)

    def start(self) -> None:
        options = f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories='' -c fsync=off"
        log = str(self.folder / "log")
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-w", "-l", log, "-o", options, "start")

    def kill(self) -> None:
        """The server stops at once, without a goodbye to its clients."""
        self._run("pg_ctl", "-D", str(self.folder / "data"), "-m", "immediate", "stop")

    def remove(self) -> None:
        with contextlib.suppress(subprocess.CalledProcessError):
            self.kill()
        shutil.rmtree(self.folder)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    pytest.importorskip("psycopg", reason='psycopg is missing: pip install "arbgym[databases]"')
    if not (_BIN / "initdb").exists():
        pytest.skip(f"PostgreSQL 15 is not in {_BIN}: apt-get install postgresql-15")
    if os.geteuid() == 0 and subprocess.run(["id", "postgres"], capture_output=True, check=False).returncode:
        pytest.skip("root without a user postgres to run the server as")
    server = Postgres()
    server.start()
    yield server
    server.remove()


@pytest.fixture
def postgres(postgres_server: Postgres) -> Iterator[Postgres]:
    """The running server with an empty database."""
    import psycopg

    with psycopg.connect(postgres_server.url, autocommit=True) as connection:
        connection.execute("DROP SCHEMA public CASCADE")
        connection.execute("CREATE SCHEMA public")
    yield postgres_server


@pytest.fixture
def chdb(tmp_path: Path) -> str:
    """The address of an empty embedded ClickHouse."""
    pytest.importorskip("clickhouse_connect", reason='clickhouse-connect is missing: pip install "arbgym[databases]"')
    pytest.importorskip("chdb", reason='the ClickHouse engine is missing: pip install "arbgym[databases-test]"')
    return f"chdb://{tmp_path / 'clickhouse'}"


class ClickHouseServer:
    """The ClickHouse engine behind HTTP in a process of its own (``clickhouse_http.py``), which can be killed."""

    def __init__(self, folder: Path, pause_s: float = 0.0) -> None:
        self.port = free_port()
        self.url = f"clickhouse://default@127.0.0.1:{self.port}/default"
        self._folder, self._pause_s = folder, pause_s
        self.start()

    def start(self) -> None:
        script = Path(__file__).with_name("clickhouse_http.py")
        self._process = subprocess.Popen(
            [sys.executable, str(script), str(self._folder), str(self.port), str(self._pause_s)], stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 30
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/ping", timeout=5).close()
                return
            except (urllib.error.URLError, ConnectionError):
                if self._process.poll() is not None or time.monotonic() > until:
                    raise
                time.sleep(0.1)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()


@pytest.fixture
def clickhouse(tmp_path: Path) -> Iterator[ClickHouseServer]:
    pytest.importorskip("clickhouse_connect", reason='clickhouse-connect is missing: pip install "arbgym[databases]"')
    pytest.importorskip("chdb", reason='the ClickHouse engine is missing: pip install "arbgym[databases-test]"')
    server = ClickHouseServer(tmp_path / "served", pause_s=0.02)
    yield server
    server.kill()
