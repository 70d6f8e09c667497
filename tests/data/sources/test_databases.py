"""Databases: streamed in order, resumed after the server died, written and read back; on the real engines."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from arbgym.data.sources import SourceLost, export_store, import_database, open_source, write_table
from arbgym.data.store import Store
from arbgym.data.tables import TABLES, arrow_schema
from arbgym.market.tape import TapeError

pytest.importorskip("duckdb", reason='duckdb is missing: pip install "arbgym[databases]"')
START = 1_700_000_000_000_000


def swaps(first: int, count: int, **changed: Any) -> pa.Table:
    """Swaps with one or two events a block and raw amounts that no int64 holds."""
    rows = [
        {
            "timestamp": START + 1_000_000 * k, "chain": "ethereum", "pool": "0x" + "ab" * 20, "protocol": "uniswap_v3",
            "block_number": 18_000_000 + k // 2, "transaction_index": k % 2, "log_index": 3 * (k % 2),
            "transaction_hash": f"0x{k:064x}", "amount0_raw": str(10**20 + k), "amount1_raw": str(-(10**21) - k),
            "amount0": 100.0, "amount1": -1000.0, "sqrt_price_x96_raw": str(2**96 * 3), "liquidity_raw": str(10**22),
            "tick": 21_973, "fee_ppm": 3000.0, "price": 9.0, "execution_price": 10.0, "source": "made", **changed,
        }
        for k in range(first, first + count)
    ]  # fmt: skip
    schema = arrow_schema(TABLES["swaps"])
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def everything(source: Any) -> pa.Table:
    return pa.concat_tables(list(source))


def hashes(table: pa.Table) -> list[int]:
    return [int(text, 16) for text in table["transaction_hash"].to_pylist()]


@pytest.fixture(params=["duckdb", "chdb", "postgres"])
def database(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """The address of an empty database of each kind."""
    if request.param == "duckdb":
        return f"duckdb://{tmp_path / 'market.duckdb'}"
    found = request.getfixturevalue(request.param)
    return str(found if request.param == "chdb" else found.url)


def test_tables_come_back_as_they_were_written_in_the_order_of_the_key(database: str) -> None:
    table = swaps(0, 2_500)
    assert write_table(database, "swaps", [table.slice(1_200), table.slice(0, 1_200)]) == 2_500
    read = open_source(database, "swaps", batch_rows=400)
    batches = list(read)
    assert read.key == ("chain", "block_number", "log_index")
    assert [batch.num_rows for batch in batches][:2] == [399, 400]  # the last key of a batch waits for its other rows
    assert len(batches) == 7
    back = pa.concat_tables(batches)
    assert back.column_names == table.column_names
    for name in table.column_names:
        assert back[name].to_pylist() == table[name].to_pylist(), name
    read.close()


def test_writing_again_replaces_by_key(database: str) -> None:
    write_table(database, "swaps", [swaps(0, 50)])
    write_table(database, "swaps", [swaps(40, 20, transaction_hash="0xnew")])
    back = everything(open_source(database, "swaps"))
    assert back.num_rows == 60
    assert back["transaction_hash"].to_pylist()[40:] == ["0xnew"] * 20


def test_a_series_without_block_numbers_is_known_by_its_time(database: str) -> None:
    def gas(price: float) -> pa.Table:
        rows = [{"timestamp": START + 60_000_000 * k, "chain": "polygon", "gas_price_gwei": price + k} for k in range(3)]
        rows.append({"timestamp": START, "chain": "polygon", "block_number": 7, "gas_price_gwei": price})
        schema = arrow_schema(TABLES["blocks"])
        return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)

    for price in (10.0, 20.0):
        write_table(database, "blocks", [gas(price)])
    back = everything(open_source(database, "blocks", key=("timestamp",)))
    assert sorted(back["gas_price_gwei"].to_pylist()) == [20.0, 20.0, 21.0, 22.0]


def test_a_store_goes_out_and_comes_back(database: str, tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    store.append("swaps", swaps(0, 1_000), source="made")
    assert export_store(store, database) == {"swaps": 1_000}
    again = Store(tmp_path / "again")
    done = import_database(database, again, table="swaps")
    assert (done.rows, done.tables["swaps"].new) == (1_000, 1_000)
    same = import_database(database, again, table="swaps")
    assert (same.rows, same.tables["swaps"].new, same.tables["swaps"].duplicates) == (1_000, 0, 1_000)
    left, right = (held.read("swaps", as_="arrow").drop(["source"]) for held in (store, again))
    assert left.equals(right)


def test_a_batch_never_ends_within_a_key(database: str) -> None:
    write_table(database, "swaps", [swaps(0, 300)])
    read = open_source(database, "swaps", key=("block_number",), batch_rows=7)
    seen: list[int] = []
    for batch in read:
        blocks = batch["block_number"].to_pylist()
        assert not seen or blocks[0] > seen[-1]
        seen += blocks
        assert read.position == [str(blocks[-1])]
    assert len(seen) == 300


@pytest.mark.parametrize("key", [("timestamp",), ("block_number", "log_index"), ("transaction_hash",)])
def test_a_source_goes_on_after_any_position(database: str, key: tuple[str, ...]) -> None:
    write_table(database, "swaps", [swaps(0, 100)])
    whole = open_source(database, "swaps", key=key, batch_rows=10)
    first = next(iter(whole))
    rest = everything(open_source(database, "swaps", key=key, position=whole.position))
    assert hashes(first) + hashes(rest) == list(range(100))


def test_a_query_is_read_and_never_writes(database: str) -> None:
    write_table(database, "swaps", [swaps(0, 100)])
    read = open_source(database, query="SELECT block_number, tick FROM swaps WHERE transaction_index = 1;", key=("block_number",))
    assert everything(read).num_rows == 50
    with pytest.raises(TapeError, match="not read"):
        open_source(database, query="DELETE FROM swaps", key=("block_number",))
    assert everything(open_source(database, "swaps")).num_rows == 100


def test_bad_requests_are_refused_by_name(database: str) -> None:
    write_table(database, "swaps", [swaps(0, 10)])
    with pytest.raises(TapeError, match="swaps"):
        open_source(database, "swops")
    with pytest.raises(TapeError, match=r"column nonce.*accepted are timestamp"):
        open_source(database, "swaps", key=("nonce",))
    with pytest.raises(TapeError, match=r"column sender.*nulls"):
        open_source(database, "swaps", key=("sender",))
    with pytest.raises(TapeError, match="table and a query"):
        open_source(database)
    with pytest.raises(TapeError, match=r"column block_number.*missing"):
        write_table(database, "swaps", [pa.table({"chain": ["ethereum"], "pool": ["x"], "log_index": [1]})])


def test_addresses_are_checked(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match="duckdb://"):
        open_source("mysql://host/db", "swaps")
    with pytest.raises(TapeError, match="no such file"):
        open_source(f"duckdb://{tmp_path}/none.duckdb?table=swaps")
    (tmp_path / "text.duckdb").write_text("not a database, but long enough to be looked at" * 100)
    with pytest.raises(TapeError, match="not opened"):
        open_source(f"duckdb://{tmp_path}/text.duckdb?table=swaps")


def test_a_password_is_not_remembered(postgres: Any) -> None:
    write_table(postgres.url, "swaps", [swaps(0, 10)])
    source = open_source(postgres.url.replace("postgres@", "postgres:secret@"), "swaps")
    assert "secret" not in source.name
    with pytest.raises(TapeError, match="not connected") as refused:
        open_source("postgresql://user:secret@127.0.0.1:1/db", "swaps")
    assert "secret" not in str(refused.value)


def test_postgres_dies_midway_and_nothing_is_lost_or_twice(postgres: Any) -> None:
    write_table(postgres.url, "swaps", [swaps(0, 5_000)])
    seen: list[int] = []
    for number, batch in enumerate(open_source(postgres.url, "swaps", batch_rows=500)):
        seen += hashes(batch)
        if number in (2, 5):
            postgres.kill()
            starter = threading.Timer(0.5, postgres.start)
            starter.start()
    starter.join()
    assert seen == list(range(5_000))


def test_postgres_that_stays_away_is_resumed_by_the_next_run(
    postgres: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_table(postgres.url, "swaps", [swaps(0, 10_000)])
    store = Store(tmp_path / "store")
    address = f"{postgres.url}?table=swaps&batch_rows=500"
    remember = store.set_progress

    def and_die(source: str, progress: dict[str, Any]) -> None:
        remember(source, progress)
        if progress["rows"] == 1_499:
            postgres.kill()

    monkeypatch.setattr(store, "set_progress", and_die)
    with pytest.raises(SourceLost, match="run again to go on"):
        import_database(address, store, patience_s=0.3)
    held = store.rows("swaps")
    assert 1_499 <= held < 10_000
    postgres.start()
    monkeypatch.undo()
    done = import_database(address, store)
    assert (done.rows, done.tables["swaps"].new, done.tables["swaps"].duplicates) == (10_000 - held, 10_000 - held, 0)
    assert hashes(store.read("swaps", as_="arrow")) == list(range(10_000))


def test_postgres_reads_what_other_tools_store(postgres: Any) -> None:
    import psycopg

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute(
            "CREATE TABLE logs (id serial PRIMARY KEY, at timestamp, value numeric(78), body bytea, words jsonb, short int2)"
        )
        connection.execute(
            "INSERT INTO logs (at, value, body, words, short) "
            "VALUES ('2023-01-01 00:00:00.5', 2::numeric ^ 255, '\\x00ff', '[1]', 3)"
        )
    row = everything(open_source(postgres.url, "logs")).to_pylist()[0]
    assert int(row["value"]) == 2**255
    assert (row["body"], row["words"], row["short"], row["at"].microsecond) == ("0x00ff", "[1]", 3, 500_000)


def test_timescale_hypertable(postgres: Any) -> None:
    """Without the extension at hand: its row in the catalogue and a function that keeps what it was called with."""
    import psycopg

    with psycopg.connect(postgres.url, autocommit=True) as connection:
        connection.execute("CREATE TABLE hyper (name text, time_column text)")
        connection.execute(
            "CREATE FUNCTION create_hypertable(regclass, name) RETURNS void LANGUAGE sql AS "
            "$$ INSERT INTO hyper VALUES ($1::text, $2::text) $$"
        )
        connection.execute(
            "INSERT INTO pg_extension (oid, extname, extowner, extnamespace, extrelocatable, extversion) "
            "SELECT 99999, 'timescaledb', 10, 'public'::regnamespace, false, '2'"
        )
        try:
            write_table(postgres.url, "swaps", [swaps(0, 30)])
            write_table(postgres.url, "swaps", [swaps(10, 10, timestamp=START + 5, transaction_hash="0xnew")])
            assert connection.execute("SELECT * FROM hyper").fetchall() == [("swaps", "timestamp")]
            found = connection.execute(
                "SELECT count(*), count(*) FILTER (WHERE transaction_hash = '0xnew') FROM swaps"
            ).fetchone()
            assert found == (30, 10)
            indexed = connection.execute("SELECT indexdef FROM pg_indexes WHERE tablename = 'swaps'").fetchone()
            assert indexed is not None
            assert '(chain, block_number, log_index, "timestamp")' in indexed[0]
        finally:
            connection.execute("DELETE FROM pg_extension WHERE extname = 'timescaledb'")


RAW = (
    "timestamp DateTime, factory_address String, network LowCardinality(String), token_a String, token_b String, "
    "amount_a Decimal(76, 18), amount_b Float64, account String, block_number UInt32, "
    "transaction_index UInt16, log_index UInt16, transaction_hash String, sign Int8"
)


@pytest.mark.parametrize("engine", ["CollapsingMergeTree(sign)", "VersionedCollapsingMergeTree(sign, block_number)", "MergeTree"])
def test_clickhouse_signs_collapse(chdb: str, engine: str) -> None:
    """A reorg took rows back and put others in their place; the parts are not merged, so every row is still there."""
    import clickhouse_connect

    client = clickhouse_connect.get_client(dsn=chdb)
    client.command("SYSTEM STOP MERGES")
    client.command(
        f"CREATE TABLE uniswap_v3_swaps_raw ({RAW}) ENGINE = {engine} ORDER BY (block_number, transaction_index, log_index)"
    )

    def insert(first: int, count: int, name: str, sign: int) -> None:
        client.command(
            "INSERT INTO uniswap_v3_swaps_raw SELECT toDateTime(1700000000 + number, 'UTC'), 'f', 'ethereum', 'a', 'b', "
            f"number + 0.5, -1, 'me', 18000000 + number, 1, 2, '{name}' || toString(number), {sign} "
            f"FROM numbers({first}, {count})"
        )

    insert(0, 100, "old", 1)
    insert(90, 10, "old", -1)
    insert(90, 12, "new", 1)
    insert(101, 1, "new", -1)
    assert client.command("SELECT count() FROM uniswap_v3_swaps_raw") == 123
    read = open_source(chdb, "uniswap_v3_swaps_raw", batch_rows=25)
    table = everything(read)
    assert read.key == ("block_number", "transaction_index", "log_index")
    assert table["transaction_hash"].to_pylist() == [f"{'old' if k < 90 else 'new'}{k}" for k in range(101)]
    assert table["sign"].to_pylist() == [1] * 101
    assert table["amount_a"].to_pylist()[3] == "3.500000000000000000"
    assert table["timestamp"].type == pa.timestamp("s", "UTC") or table["timestamp"].to_pylist()[0].timestamp() == 1_700_000_000
    client.close()


def test_clickhouse_wide_types(chdb: str) -> None:
    import clickhouse_connect

    client = clickhouse_connect.get_client(dsn=chdb)
    client.command(
        "CREATE TABLE wide (id UInt64, u UInt256, i Nullable(Int256), day Date, kind Enum8('swap' = 1), "
        "zoned DateTime('Asia/Tokyo')) "
        "ENGINE = MergeTree ORDER BY id"
    )
    client.command(
        f"INSERT INTO wide SELECT number, toUInt256('{2**200}'), -toInt256(number), '2023-01-02', 'swap', "
        "toDateTime(1700000000 + number) FROM numbers(10)"
    )
    rows = everything(open_source(chdb, "wide", key=("zoned",), position=["2023-11-14 22:13:27"])).to_pylist()
    assert [row["id"] for row in rows] == [8, 9]
    assert rows[0]["u"] == str(2**200)
    assert (rows[0]["i"], rows[0]["day"].isoformat(), rows[0]["kind"]) == ("-8", "2023-01-02", "swap")
    assert rows[0]["zoned"].timestamp() == 1_700_000_008
    client.close()


def test_clickhouse_server_dies_midway_and_nothing_is_lost_or_twice(clickhouse: Any) -> None:
    import clickhouse_connect

    client = clickhouse_connect.get_client(dsn=clickhouse.url)
    client.command(f"CREATE TABLE raw ({RAW}) ENGINE = CollapsingMergeTree(sign) ORDER BY (block_number, log_index)")
    client.command(
        "INSERT INTO raw SELECT toDateTime(1700000000, 'UTC'), 'f', 'e', 'a', 'b', 1, 1, 'me', number, 1, 2, "
        "toString(number), 1 FROM numbers(200000)"
    )
    client.close()
    seen: list[int] = []
    deaths = 0
    for batch in open_source(clickhouse.url, "raw", batch_rows=10_000):
        seen += batch["block_number"].to_pylist()
        if len(seen) >= 60_000 * (deaths + 1) and deaths < 2:
            deaths += 1
            clickhouse.kill()
            starter = threading.Timer(0.3, clickhouse.start)
            starter.start()
    starter.join()
    assert deaths == 2
    assert seen == list(range(200_000))


@pytest.mark.parametrize("kind", ["duckdb", "chdb"])
def test_an_embedded_import_killed_midway_goes_on(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url = f"duckdb://{tmp_path / 'market.duckdb'}" if kind == "duckdb" else request.getfixturevalue("chdb")
    rows = 15_000
    made = subprocess.run(
        [sys.executable, "-c", f"from {__name__} import *; write_table({url!r}, 'swaps', [swaps(0, {rows})])"],
        cwd=Path(__file__).parents[3], check=False, env=_environment(),
    )  # fmt: skip
    assert made.returncode == 0
    store = tmp_path / "store"
    program = (
        "from arbgym.data.sources import import_database; from arbgym.data.store import Store; "
        f"done = import_database({url + '?table=swaps&batch_rows=500'!r}, Store({str(store)!r})); print(done.rows)"
    )
    first = subprocess.Popen([sys.executable, "-c", program], cwd=Path(__file__).parents[3], env=_environment())
    until = time.monotonic() + 60
    while Store(store).rows("swaps") < 3_000 and time.monotonic() < until and first.poll() is None:
        time.sleep(0.05)
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    held = Store(store).rows("swaps")
    assert 3_000 <= held < rows
    second = subprocess.run(
        [sys.executable, "-c", program],
        cwd=Path(__file__).parents[3],
        env=_environment(),
        check=True,
        capture_output=True,
        text=True,
    )
    assert rows - held <= int(second.stdout) <= rows - held + 500
    assert hashes(Store(store).read("swaps", as_="arrow")) == list(range(rows))


def _environment() -> dict[str, str]:
    here = Path(__file__)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([str(here.parents[3]), str(here.parent), *sys.path])}
