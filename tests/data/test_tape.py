"""Tapes: round trips, every refusal with its row and rule, joins that never look ahead, and the recorded recipes."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arbgym.data import read_tape, sample_tape_path, write_tape
from arbgym.data.__main__ import main
from arbgym.data.join import Series, as_of, build_tape, pool_minutes, remove_basis
from arbgym.market.tape import Tape, TapeError
from envs_data.generate import sample_tape


@pytest.fixture(scope="module")
def tape() -> Tape:
    return sample_tape()


@pytest.mark.parametrize("suffix", [".parquet", ".csv"])
def test_written_and_read_again(tape: Tape, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"tape{suffix}"
    write_tape(tape, path)
    again = read_tape(path)
    assert again.pools == tape.pools and again.step_seconds == 60 and again.source == tape.source
    assert np.array_equal(again.timestamps, tape.timestamps)
    assert np.array_equal(again.array(), tape.array()) and again.sha256 == tape.sha256


def test_the_shipped_sample_is_what_the_generator_writes(tape: Tape, tmp_path: Path) -> None:
    write_tape(tape, tmp_path / "sample.csv")
    assert (tmp_path / "sample.csv").read_bytes() == sample_tape_path().read_bytes()


def _set(name: str, row: int, value: Any) -> Callable[[pd.DataFrame], pd.DataFrame]:
    def change(frame: pd.DataFrame) -> pd.DataFrame:
        frame[name] = frame[name].astype(object)
        frame.loc[row, name] = value
        return frame

    return change


REFUSALS: list[tuple[Callable[[pd.DataFrame], pd.DataFrame], str, int | None, str]] = [
    (lambda f: f.drop(columns="five.flow_base"), "five.flow_base", None, "missing"),
    (lambda f: f.iloc[[*range(70), 71, 70, *range(72, len(f))]], "timestamp", 71, "before the row above"),
    (lambda f: f.iloc[[*range(71), 70, *range(71, len(f))]], "timestamp", 71, "twice"),
    (lambda f: f.iloc[::-1], "timestamp", 1, "before the row above"),
    (lambda f: f.drop(index=[100, 101]), "timestamp", 100, "gap of 180 s"),
    (lambda f: f.head(20), "", None, "20 rows"),
    (_set("reference_price", 33, np.nan), "reference_price", 33, "finite"),
    (_set("reference_price", 34, "cheap"), "reference_price", 34, "cheap; accepted are finite numbers"),
    (_set("five.price", 35, -1.0), "five.price", 35, "positive"),
    (_set("five.price", 36, 9_999.0), "five.price", 36, "factor of 2"),
    (_set("thirty.liquidity", 37, 0.0), "thirty.liquidity", 37, "positive"),
    (_set("base_fee_gwei", 38, -0.1), "base_fee_gwei", 38, "0 or more"),
    (_set("base_fee_gwei", 39, np.inf), "base_fee_gwei", 39, "finite"),
    (_set("five.flow_base", 40, 1e9), "five.flow_base", 40, "90%"),
    (_set("timestamp", 41, "yesterday"), "timestamp", 41, "UTC times"),
]


@pytest.mark.parametrize(("change", "column", "row", "rule"), REFUSALS)
def test_refusals_name_file_row_column_and_rule(
    tape: Tape, tmp_path: Path, change: Callable[[pd.DataFrame], pd.DataFrame], column: str, row: int | None, rule: str
) -> None:
    path = tmp_path / "tape.csv"
    write_tape(tape, path)
    header = path.read_text().split("\n", 1)[0]
    frame = change(pd.read_csv(path, comment="#"))
    path.write_text(header + "\n" + frame.to_csv(index=False))
    with pytest.raises(TapeError, match=rule) as error:
        read_tape(path)
    assert error.value.column == column and error.value.path == str(path) and str(path) in str(error.value)
    assert error.value.row == row
    if row is not None and column != "timestamp":
        assert error.value.time == tape.timestamps[row] and f"row {row} (2025-01-01T00:{row}:00Z)" in str(error.value)


@pytest.mark.parametrize(
    "text", ["timestamp,reference_price\n", "# not json\nx\n", '# {"version": 9}\nx\n', '# {"version": 1}\nx\n', "# []\nx\n"]
)
def test_a_csv_without_its_description_is_refused(tmp_path: Path, text: str) -> None:
    path = tmp_path / "tape.csv"
    path.write_text(text)
    with pytest.raises(TapeError):
        read_tape(path)


def test_files_that_are_no_tape_are_refused(tmp_path: Path) -> None:
    (tmp_path / "x.parquet").write_bytes(b"nothing")
    pd.DataFrame({"a": [1]}).to_parquet(tmp_path / "y.parquet")
    for name in ("x.parquet", "y.parquet", "absent.csv"):
        with pytest.raises(TapeError, match=name):
            read_tape(tmp_path / name)


def test_spans_are_split_by_time_with_an_embargo(tape: Tape) -> None:
    earlier, later = tape.span(0.0, 0.7), tape.span(0.7, 1.0, embargo_rows=10)
    assert len(earlier.timestamps) == round(0.7 * 1440)
    assert later.timestamps[0] - earlier.timestamps[-1] == 11 * 60
    assert later.timestamps[-1] == tape.timestamps[-1]
    with pytest.raises(TapeError, match="span"):
        tape.span(0.7, 0.2)
    with pytest.raises(TapeError, match="kind"):
        replace(tape.pools[0], kind="orderbook")


@pytest.fixture
def candles(tmp_path: Path) -> Path:
    times = pd.date_range("2025-01-01", periods=50, freq="5min", tz="UTC")
    path = tmp_path / "candles.parquet"
    pd.DataFrame({"open_time": times, "close": np.arange(50.0) + 100.0}).to_parquet(path)
    return path


MINUTES = int(pd.Timestamp("2025-01-01", tz="UTC").timestamp()) + 60 * np.arange(240)


def test_a_candle_is_known_at_its_end_and_the_future_changes_nothing(candles: Path) -> None:
    series = Series(candles, "open_time", "close")
    known = as_of(MINUTES, series)
    assert np.isnan(known[:5]).all() and known[5] == 100.0 and known[9] == 100.0 and known[10] == 101.0
    frame = pd.read_parquet(candles)
    frame.loc[20:, "close"] *= 7.0
    frame.to_parquet(candles)
    changed = as_of(MINUTES, series)
    first = int(np.flatnonzero(~((known == changed) | np.isnan(known)))[0])
    assert first == 20 * 5 + 5


def test_a_value_is_used_only_while_it_is_fresh(candles: Path) -> None:
    frame = pd.read_parquet(candles).head(20).drop(index=10)
    frame.to_parquet(candles)
    known = as_of(MINUTES, Series(candles, "open_time", "close"))
    assert np.flatnonzero(np.isnan(known)).tolist() == [*range(5), *range(55, 60), *range(105, 240)]
    known = as_of(MINUTES, Series(candles, "open_time", "close", max_age_s=600))
    assert np.flatnonzero(np.isnan(known)).tolist() == [*range(5), *range(110, 240)] and known[59] == 109.0
    known = as_of(MINUTES, Series(candles, "open_time", "close", delay_s=0, max_age_s=600))
    assert known[0] == 100.0 and known[50] == 109.0


def test_the_basis_uses_earlier_rows_only() -> None:
    generator = np.random.default_rng(0)
    reference = 100.0 * np.exp(np.cumsum(generator.normal(0, 1e-3, 200)))
    pool = reference * np.exp(8e-4 + generator.normal(0, 1e-4, 200))
    moved = remove_basis(reference, pool, 20)
    assert np.isnan(moved[:20]).all()
    assert abs(np.log(pool[20:] / moved[20:]).mean()) < 1e-4
    shifted = pool.copy()
    shifted[120:] *= 1.01
    assert np.array_equal(remove_basis(reference, shifted, 20)[20:121], moved[20:121])
    assert np.allclose(moved[50], reference[50] * np.exp(np.log(pool[30:50] / reference[30:50]).mean()), rtol=1e-12)


@pytest.fixture
def minutes(tmp_path: Path) -> Path:
    times = pd.date_range("2025-01-01", periods=240, freq="1min", tz="UTC")
    path = tmp_path / "minutes.parquet"
    frame = {"timestamp": times, "price_weth_usdc": 3000.0, "liquidity": 5e16, "net_amount1": 0.25}
    pd.DataFrame(frame).to_parquet(path)
    return path


def test_minutes_are_summed_and_gaps_are_refused_or_filled(minutes: Path) -> None:
    table = pool_minutes(minutes, 300)
    assert len(table) == 48 and (table["flow_base"] == 1.25).all() and (table["liquidity"] == 5e4).all()
    assert table.index[0] == MINUTES[5] and not table["filled"].any()
    frame = pd.read_parquet(minutes).drop(index=[100, 101])
    frame.to_parquet(minutes)
    with pytest.raises(TapeError, match="2 minutes missing") as error:
        pool_minutes(minutes, 300, fill_gaps=1)
    assert error.value.row == 100
    assert error.value.time == MINUTES[102]
    table = pool_minutes(minutes, 300, fill_gaps=2)
    assert table["flow_base"].sum() == pytest.approx(238 * 0.25)
    assert table.index[table["filled"]].tolist() == [MINUTES[105]]


def test_the_command_line_builds_describes_and_refuses(
    minutes: Path, candles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "tape.parquet"
    command = ["tape", str(out), "--pool", str(minutes), "--reference", str(candles), "--reference-time", "open_time"]
    command += ["--second-fee-ppm", "200", "--second-liquidity", "1e6", "--gas-gwei", "30"]
    frame = pd.read_parquet(candles)
    frame["close"] += 2_900.0
    frame.to_parquet(candles)
    assert main(command) == 0
    assert main(["describe", str(out)]) == 0
    assert "second (reference, 200 ppm)" in capsys.readouterr().out
    assert read_tape(out).base_fee_gwei[0] == 30.0
    assert main([*command, "--gas", str(candles)]) == 2
    assert "gas" in capsys.readouterr().err


def _recorded(shared: Path, name: str) -> Tape:
    data = shared / "data"
    if name == "polygon_cex":
        return build_tape(
            data / "polygon_cex_dex_202507/pool_minute.parquet",
            step_seconds=300,
            reference=Series(data / "polygon_cex_dex_202507/ethusdt_perp_5m.parquet", "open_time", "close"),
            second_kind="reference",
            second_fee_ppm=200.0,
            second_liquidity=1e6,
            gas_gwei=54.0,
            basis_rows=24,
        )
    return build_tape(
        data / "polygon_univ3_usdc_weth_005/minute.parquet",
        start="2023-08-14",
        end="2023-08-16",
        reference=Series(data / "ethereum_weth_osqth/oracle_prices_minute.parquet", "timestamp", "weth_usd"),
        second_kind="v3",
        second_fee_ppm=3_000.0,
        second_liquidity=1.2e7,
        gas=Series(data / "gas/polygon_gas_price_minute_202308.parquet", "timestamp", "gas_price_gwei"),
    )


@pytest.mark.parametrize(
    ("name", "rows", "first", "last", "gap_sd_bps"),
    [
        # 1,439 minutes make 287 whole steps, less 24 for the basis
        ("polygon_cex", 263, "2025-07-01T02:05", "2025-07-01T23:55", 4.2),
        # the first minute of 2023-08-14 is missing in the pool's table; a row's time is the end of its minute
        ("two_chains", 2879, "2023-08-14T00:02", "2023-08-16T00:00", 15.7),
    ],
)
def test_recorded_recipes(shared: Path, name: str, rows: int, first: str, last: str, gap_sd_bps: float) -> None:
    tape = _recorded(shared, name)
    assert len(tape.timestamps) == rows and tape.filled == ()
    assert tape.timestamps[[0, -1]].astype("datetime64[s]").tolist() == [
        np.datetime64(moment, "s").item() for moment in (first, last)
    ]
    gap = np.log(tape.price[:, 0] / tape.reference_price) * 1e4
    assert gap.std() == pytest.approx(gap_sd_bps, abs=0.05)  # what the two tables show on a common clock


@pytest.mark.parametrize(("name", "median", "high"), [("polygon_cex", 0.35, 1.0), ("two_chains", 0.02, 0.85)])
def test_recorded_flow_in_the_pools_own_liquidity_explains_its_price(shared: Path, name: str, median: float, high: float) -> None:
    """Swapping a row's net flow into the active liquidity reproduces the recorded move to a whole tick (1 bps)."""
    tape = _recorded(shared, name)
    error = np.abs(tape.flow_error_bps(0))
    move = np.abs(np.diff(np.log(tape.price[:, 0]))) * 1e4
    assert np.median(error) < median and np.quantile(error, 0.95) < high
    assert error.mean() < 0.42 * move.mean()


def test_gaps_in_recorded_minutes_are_refused_or_filled_and_remembered(shared: Path, tmp_path: Path) -> None:
    data = shared / "data"
    table = data / "polygon_univ3_usdc_weth_005/minute.parquet"
    with pytest.raises(TapeError, match="1 minutes missing") as error:
        pool_minutes(table, 60, start="2022-07-19", end="2022-08-23")
    assert error.value.row == 7200 and "2022-07-24T00:01:00Z" in str(error.value)
    minutes = pool_minutes(table, 60, fill_gaps=2, start="2022-07-19", end="2022-08-23")
    assert len(minutes) == 35 * 1440 and minutes["filled"].sum() == 10


def test_descriptions_are_json_with_units(tape: Tape, tmp_path: Path) -> None:
    write_tape(tape, tmp_path / "tape.csv")
    described = json.loads((tmp_path / "tape.csv").read_text().split("\n", 1)[0][2:])
    assert described["units"]["liquidity"] == "sqrt(base * quote)" and described["version"] == 1
