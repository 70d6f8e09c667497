"""The store: idempotent, atomic, refusing disagreement; any order of appends ends in the same table."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbgym.data import Store
from arbgym.data.rules import conform
from arbgym.data.tables import KINDS, TABLES, arrow_schema
from arbgym.market.tape import TapeError

MODERATE = settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])


def swaps(rows: int = 60, seed: int = 0) -> pd.DataFrame:
    generator = np.random.default_rng(seed)
    amount0 = generator.normal(0.0, 1e3, rows)
    return pd.DataFrame(
        {
            "timestamp": pd.date_range("2025-01-01T20:00", periods=rows, freq="11min", tz="UTC"),
            "chain": "ethereum",
            "pool": "0xpool",
            "block_number": 21_000_000 + np.arange(rows) // 2,
            "log_index": np.arange(rows) % 2,
            "transaction_hash": [f"0x{k:064x}" for k in range(rows)],
            "amount0": amount0,
            "amount1": -amount0 / 3_000.0,
            "amount0_raw": [str(int(value * 1e6)) for value in amount0],
            "price": 1 / 3_000.0,
        }
    )


def test_every_table_has_units_in_its_arrow_schema() -> None:
    assert {"reference_prices", "swaps", "liquidity_events", "pool_states", "blocks", "opportunities", "wallet_trades"} < set(
        TABLES
    )
    for name, table in TABLES.items():
        schema = arrow_schema(table)
        assert schema.metadata[b"arbgym.table"] == name.encode() and schema.names == list(table.names)
        assert all(column.kind in KINDS and column.meaning for column in table.columns)
        assert set(table.key) <= set(table.names)
        assert all(b"unit" in schema.field(column.name).metadata for column in table.columns)
    assert arrow_schema(TABLES["blocks"]).field("base_fee_gwei").metadata[b"unit"] == b"gwei"


@pytest.mark.parametrize("kind", ["pandas", "polars", "arrow"])
def test_rows_go_in_and_come_out_in_every_frame(tmp_path: Path, kind: str) -> None:
    frame = swaps()
    rows = {"pandas": frame, "polars": pl.from_pandas(frame), "arrow": pa.Table.from_pandas(frame)}[kind]
    store = Store(tmp_path / "store")
    assert store.append("swaps", rows, source="test").new == len(frame)
    back = store.read("swaps", as_=kind)
    again = back.to_pandas() if kind != "pandas" else back
    assert again["price"].tolist() == frame["price"].tolist() and again["amount0_raw"].tolist() == frame["amount0_raw"].tolist()
    assert (pd.to_datetime(again["timestamp"], utc=True) == frame["timestamp"]).all()
    if kind == "arrow":
        assert back.schema.field("amount0").metadata[b"unit"] == b"token0"
    read_by_anybody = pl.read_parquet(tmp_path / "store/swaps/*/*.parquet")
    assert len(read_by_anybody) == len(frame) and len(list((tmp_path / "store/swaps").iterdir())) == 2


@MODERATE
@given(data=st.data())
def test_any_pieces_in_any_order_make_the_same_table(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    frame = swaps()
    store = Store(tmp_path_factory.mktemp("store"))
    seen: set[int] = set()
    for _ in range(data.draw(st.integers(1, 6))):
        low = data.draw(st.integers(0, 59))
        high = data.draw(st.integers(low + 1, 60))
        piece = frame.iloc[low:high].sample(frac=1.0, random_state=low)
        written = store.append("swaps", piece, source="any")
        assert written.new == len(set(range(low, high)) - seen) and written.new + written.duplicates == high - low
        seen |= set(range(low, high))
    assert store.read("swaps")["transaction_hash"].tolist() == frame["transaction_hash"][sorted(seen)].tolist()


def test_sources_that_disagree_are_refused_with_both_values(tmp_path: Path) -> None:
    store, frame = Store(tmp_path / "store"), swaps()
    store.append("swaps", frame, source="node")
    other = frame.assign(sender="0xsomebody")
    assert store.append("swaps", other, source="index").duplicates == len(frame)  # who counts as the sender is nobody's quarrel
    other.loc[7, "amount0"] *= 1.01
    with pytest.raises(TapeError, match=r"\(index\) against .* \(node\).*block_number 21000003") as error:
        store.append("swaps", other, source="index")
    assert error.value.column == "amount0" and error.value.row == 7
    assert store.read("swaps")["amount0"].tolist() == frame["amount0"].tolist()
    assert store.append("swaps", other, source="index", keep=True).new == 0
    assert store.read("swaps")["amount0"][7] == frame["amount0"][7]
    written = store.append("swaps", other, source="index", replace=True)
    assert (written.new, written.replaced, written.duplicates) == (0, 1, len(frame) - 1)
    again = store.read("swaps")
    assert again["amount0"][7] == other["amount0"][7] and len(again) == len(frame)


def test_a_reorg_is_refused_replaced_or_removed(tmp_path: Path) -> None:
    store, frame = Store(tmp_path / "store"), swaps()
    store.append("swaps", frame, source="node")
    reorg = frame.tail(4).assign(transaction_hash=[f"0xff{k:062x}" for k in range(4)])
    with pytest.raises(TapeError, match="transaction_hash"):
        store.append("swaps", reorg, source="node")
    assert store.remove("swaps", reorg) == 0  # another hash: not the rows that were taken back
    assert store.remove("swaps", frame.tail(4)) == 4
    assert store.append("swaps", reorg, source="node").new == 4
    assert store.delete("swaps", chain="ethereum", from_block=21_000_025) == 10
    assert store.rows("swaps") == 50 and store.read("swaps")["block_number"].max() == 21_000_024


def test_reading_by_time_and_by_value(tmp_path: Path) -> None:
    store, frame = Store(tmp_path / "store"), swaps()
    store.append("swaps", frame, source="a")
    part = store.read("swaps", start="2025-01-01 21:00", end="2025-01-02", log_index=1)
    assert (part["timestamp"] >= "2025-01-01 21:00Z").all() and (part["timestamp"] < "2025-01-02 00:00Z").all()
    assert (part["log_index"] == 1).all() and len(part) > 5
    for bad in ({"start": "soon"}, {"nonsense": 1}, {"as_": "numpy"}):
        with pytest.raises(TapeError):
            store.read("swaps", **bad)  # type: ignore[arg-type]
    assert store.read("blocks").empty and store.tables() == ["swaps"]


def test_what_is_left_of_a_crash_does_not_count(tmp_path: Path) -> None:
    """A process killed between writing the new part and deleting the one it replaces leaves both: only the new one counts."""
    store, frame = Store(tmp_path / "store"), swaps(20)
    store.append("swaps", frame, source="a")
    (old,) = store.parts("swaps")
    kept = old.read_bytes()
    store.delete("swaps", chain="ethereum", from_block=21_000_005)
    old.write_bytes(kept)
    (old.parent / "half.tmp").write_bytes(b"half a file")
    again = Store(tmp_path / "store")
    assert again.rows("swaps") == 10 and len(again.read("swaps")) == 10


def test_many_small_appends_become_few_parts(tmp_path: Path) -> None:
    store, frame = Store(tmp_path / "store"), swaps(80)
    frame["timestamp"] = pd.Timestamp("2025-01-01", tz="UTC") + pd.to_timedelta(range(80), unit="s")
    for k in range(80):
        assert store.append("swaps", frame.iloc[[k]], source="live").new == 1
    assert (
        len(store.parts("swaps")) < 40 and store.read("swaps")["transaction_hash"].tolist() == frame["transaction_hash"].tolist()
    )


def test_progress_is_kept_by_source(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    assert store.progress("node") is None
    store.set_progress("node", {"block": 5})
    assert Store(tmp_path / "store").progress("node") == {"block": 5} and store.progress("other") is None


@pytest.mark.parametrize(
    ("column", "value", "rule"),
    [
        ("price", -1.0, "positive"),
        ("price", np.inf, "finite"),
        ("amount0_raw", "1.5", "whole numbers"),
        ("block_number", None, "value in every row"),
        ("timestamp", pd.Timestamp("1999-01-01", tz="UTC"), "2009"),
        ("amount1", 5.0, "one token in and one out"),
    ],
)
def test_impossible_rows_are_refused_with_row_and_column(tmp_path: Path, column: str, value: object, rule: str) -> None:
    frame = swaps().assign(amount0=5.0, amount1=-1.0)
    frame[column] = frame[column].astype(object)
    frame.loc[9, column] = value
    with pytest.raises(TapeError, match=rule) as error:
        Store(tmp_path / "store").append("swaps", frame, source="a")
    assert error.value.row == 9 and error.value.column == column and not (tmp_path / "store" / "swaps").exists()


def test_unknown_and_missing_columns_are_refused() -> None:
    with pytest.raises(TapeError, match="no column of swaps"):
        conform(TABLES["swaps"], swaps().assign(profit=1.0))
    with pytest.raises(TapeError, match="missing") as error:
        conform(TABLES["swaps"], swaps().drop(columns="pool"))
    assert error.value.column == "pool"
