"""Properties of tapes: any tape survives its files to the last bit, any broken cell is named, no join sees the future."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from arbgym.data import read_tape, sample_tape_path, write_tape
from arbgym.data.frames import utc_seconds
from arbgym.data.join import PoolColumns, Series, build_tape
from arbgym.market.tape import FLOW_BASE, LIQUIDITY, POOLS, PRICE, Tape, TapeError, TapePool

START = 1_700_000_040
MODERATE = settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])


@st.composite
def tapes(draw: st.DrawFn) -> Tape:
    rows, count = draw(st.integers(32, 60)), draw(st.integers(2, 4))
    step = draw(st.sampled_from([1, 12, 60, 300]))
    generator = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    level = 10.0 ** draw(st.floats(-12.0, 12.0))
    price = level * np.exp(np.cumsum(generator.normal(0.0, 0.05, (rows, count)), axis=0))
    liquidity = 10.0 ** generator.uniform(-6.0, 12.0, (rows, count))
    held = liquidity / np.sqrt(price)
    return Tape(
        pools=tuple(
            TapePool(f"pool-{k}", draw(st.sampled_from(["v2", "v3", "reference"])), draw(st.floats(0.0, 99_999.0)))
            for k in range(count)
        ),
        timestamps=START + step * np.arange(rows),
        reference_price=price[:, 0] * 1.001,
        base_fee_gwei=generator.uniform(0.0, 500.0, rows),
        price=price,
        liquidity=liquidity,
        flow_base=held * generator.uniform(-0.5, 0.5, (rows, count)),
        step_seconds=step,
        base=draw(st.text(max_size=8)),
        quote="USD€",
        source=draw(st.text(max_size=20)),
        filled=tuple(START + step * k for k in sorted(draw(st.sets(st.integers(0, rows - 1), max_size=3)))),
    )


@MODERATE
@given(tape=tapes(), suffix=st.sampled_from([".parquet", ".csv"]))
def test_any_tape_survives_its_file_to_the_last_bit(tape: Tape, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"tape{suffix}"
    write_tape(tape, path)
    again = read_tape(path)
    assert again.sha256 == tape.sha256
    for name in ("pools", "step_seconds", "base", "quote", "source", "filled"):
        assert getattr(again, name) == getattr(tape, name)
    assert np.array_equal(again.timestamps, tape.timestamps) and np.array_equal(again.array(), tape.array())


@MODERATE
@given(tape=tapes())
def test_the_array_has_its_documented_columns(tape: Tape) -> None:
    array = tape.array()
    assert array.flags.c_contiguous and array.dtype == np.float64
    for k in range(len(tape.pools)):
        for part, column in ((PRICE, tape.price), (LIQUIDITY, tape.liquidity), (FLOW_BASE, tape.flow_base)):
            assert np.array_equal(array[:, POOLS + 3 * k + part], column[:, k])


@MODERATE
@given(tape=tapes(), data=st.data())
def test_a_broken_cell_is_named(tape: Tape, data: st.DataObject, tmp_path: Path) -> None:
    path = tmp_path / "tape.csv"
    write_tape(tape, path)
    header, body = path.read_text(encoding="utf-8").split("\n", 1)
    lines = body.splitlines()
    row = data.draw(st.integers(0, len(tape.timestamps) - 1))
    names = lines[0].split(",")
    column = data.draw(st.integers(1, len(names) - 1))
    cells = lines[row + 1].split(",")
    broken = ["nan", "inf", "-inf", "", "x"] + ([] if names[column].endswith("flow_base") else ["-1"])
    cells[column] = data.draw(st.sampled_from(broken))
    lines[row + 1] = ",".join(cells)
    path.write_text("\n".join([header, *lines]) + "\n", encoding="utf-8")
    with pytest.raises(TapeError) as error:
        read_tape(path)
    assert (error.value.row, error.value.column, error.value.path) == (row, names[column], str(path))
    assert error.value.time == tape.timestamps[row]


@MODERATE
@given(tape=tapes(), share=st.floats(0.3, 0.7), embargo=st.integers(0, 5))
def test_spans_share_no_row_and_keep_the_order(tape: Tape, share: float, embargo: int) -> None:
    long = Tape(**{**vars(tape), **_repeated(tape, 5)})
    earlier, later = long.span(0.0, share), long.span(share, 1.0, embargo)
    assert later.timestamps[0] - earlier.timestamps[-1] == (embargo + 1) * tape.step_seconds
    assert len(earlier.timestamps) + len(later.timestamps) + embargo == len(long.timestamps)
    assert set(earlier.filled) <= set(earlier.timestamps.tolist())
    assert earlier.sha256 != later.sha256


def _repeated(tape: Tape, times: int) -> dict[str, object]:
    """The tape forth and back, so that no price jumps."""
    there_and_back = {
        name: np.concatenate([getattr(tape, name)[:: (-1) ** k] for k in range(times)])
        for name in ("reference_price", "base_fee_gwei", "price", "liquidity", "flow_base")
    }
    rows = len(tape.timestamps) * times
    return there_and_back | {"timestamps": START + tape.step_seconds * np.arange(rows)}


def _tables(folder: Path, minutes: int = 600, seed: int = 3) -> tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame]:
    generator = np.random.default_rng(seed)
    clock = pd.date_range("2025-01-01", periods=minutes, freq="1min", tz="UTC")
    price = 3_000.0 * np.exp(np.cumsum(generator.normal(0.0, 5e-4, minutes)))
    pool = pd.DataFrame(
        {
            "timestamp": clock,
            "price_weth_usdc": price,
            "liquidity": generator.uniform(4e16, 6e16, minutes),
            "net_amount1": generator.normal(0.0, 0.3, minutes),
        }
    )
    candles = pd.DataFrame({"open_time": clock[::5], "close": price[4::5] * 1.0008})
    gas = pd.DataFrame({"timestamp": clock, "gas_price_gwei": generator.uniform(30.0, 60.0, minutes)})
    return pool, candles, gas


def _build(folder: Path, tables: tuple[pd.DataFrame, pd.DataFrame, pd.DataFrame], step: int, basis_rows: int) -> Tape:
    for name, table in zip(("pool", "candles", "gas"), tables, strict=True):
        table.to_parquet(folder / f"{name}.parquet")
    return build_tape(
        folder / "pool.parquet",
        step_seconds=step,
        reference=Series(folder / "candles.parquet", "open_time", "close"),
        second_kind="reference",
        second_fee_ppm=200.0,
        second_liquidity=1e6,
        gas=Series(folder / "gas.parquet", "timestamp", "gas_price_gwei"),
        basis_rows=basis_rows,
    )


@MODERATE
@given(cut=st.integers(200, 590), step=st.sampled_from([60, 300]), basis_rows=st.sampled_from([0, 12]))
def test_a_row_knows_nothing_later_than_its_time(cut: int, step: int, basis_rows: int, tmp_path: Path) -> None:
    """Change everything that ends after a moment, in all three tables: no row up to that moment changes, a later one does."""
    tables = _tables(tmp_path)
    before = _build(tmp_path, tables, step, basis_rows)
    moment = int(tables[0]["timestamp"].iloc[0].timestamp()) + 60 * cut
    for table, length, columns in zip(
        tables, (60, 300, 60), (["price_weth_usdc", "liquidity", "net_amount1"], ["close"], ["gas_price_gwei"]), strict=True
    ):
        ends = utc_seconds(table.iloc[:, 0], "time") + length
        table.loc[ends > moment, columns] *= 1.3
    after = _build(tmp_path, tables, step, basis_rows)
    assert np.array_equal(before.timestamps, after.timestamps)
    same = (before.array() == after.array()).all(axis=1)
    assert same[before.timestamps <= moment].all()
    assert not same[before.timestamps >= moment + 600].any()


def test_a_hole_in_a_series_is_refused_and_its_ends_bound_the_tape(tmp_path: Path) -> None:
    pool, candles, gas = _tables(tmp_path)
    with pytest.raises(TapeError, match="fresh") as error:
        _build(tmp_path, (pool, candles, gas.drop(index=300)), 60, 0)
    assert error.value.column == "gas_price_gwei" and error.value.path.endswith("gas.parquet")
    assert error.value.time == int(gas["timestamp"].iloc[300].timestamp()) + 60
    tape = _build(tmp_path, (pool, candles.iloc[10:40], gas), 60, 0)
    first, last = (int(candles["open_time"].iloc[k].timestamp()) + 300 for k in (10, 39))
    assert tape.timestamps[0] == first and tape.timestamps[-1] == last + 240
    late = candles.assign(open_time=candles["open_time"] + pd.Timedelta(days=3))
    with pytest.raises(TapeError, match="overlap"):
        _build(tmp_path, (pool, late, gas), 60, 0)


@pytest.mark.parametrize("table", [0, 1, 2])
def test_a_missing_value_in_a_source_table_is_refused_with_its_row(tmp_path: Path, table: int) -> None:
    tables = _tables(tmp_path)
    column = tables[table].columns[1]
    tables[table].loc[50, column] = np.nan
    with pytest.raises(TapeError, match="finite") as error:
        _build(tmp_path, tables, 60, 0)
    assert error.value.row == 50 and error.value.column == column


@pytest.mark.parametrize(
    "texts",
    [
        ["2023-08-08 00:00:11.000 UTC", "2023-08-08 00:00:12.000 UTC"],
        ["2023-08-08T00:00:11Z", "2023-08-08T00:00:12Z"],
        ["2023-08-08 00:00:11", "2023-08-08 00:00:12"],
        [1_691_452_811, 1_691_452_812],
        [1_691_452_811_000, 1_691_452_812_000],
        [1_691_452_811_000_000, 1_691_452_812_000_000],
        [1_691_452_811_000_000_000, 1_691_452_812_000_000_000],
    ],
)
def test_times_are_read_as_people_write_them(texts: list[object]) -> None:
    assert utc_seconds(pd.Series(texts), "time").tolist() == [1_691_452_811, 1_691_452_812]


def test_another_pair_is_a_matter_of_columns(shared: Path) -> None:
    """USDC/USDT on Ethereum: base = token0 with 6 decimals each, against Chainlink's events (24 h heartbeat)."""
    data = shared / "data/ethereum_univ3_usdc_usdt_001"
    tape = build_tape(
        data / "minute.parquet",
        pool_columns=PoolColumns("timestamp", "price_usdc_usdt", "liquidity", "net_amount0", (6, 6)),
        pool_fee_ppm=100.0,
        reference=Series(data / "chainlink_usdc_usd.parquet", "timestamp", "chainlink_usdc_usd", 0, 90_000),
        second_kind="reference",
        second_fee_ppm=100.0,
        second_liquidity=1e9,
        gas_gwei=15.0,
        fill_gaps=5,
        start="2025-09-01",
        end="2025-09-08",
        base="USDC",
        quote="USDT",
    )
    # 1 to 5 minutes are missing at the start of most days, the first of them before the tape begins
    assert len(tape.timestamps) == 7 * 1440 - 5 and 0 < len(tape.filled) <= 6 * 5 and tape.base == "USDC"
    assert np.abs(np.log(tape.price[:, 0] / tape.reference_price)).max() < 20e-4
    assert np.quantile(np.abs(tape.flow_error_bps(0)), 0.95) < 1.5


def test_without_the_extra_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("arbgym.data.frames.find_spec", lambda name: None)
    with pytest.raises(ImportError, match=r"arbgym\[data\]"):
        read_tape(sample_tape_path())
