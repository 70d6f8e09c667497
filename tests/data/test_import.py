"""Imports: resumed after kill -9, idempotent, refusing what cannot be; the command line around them."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from arbgym.data import Options, Store, files, import_file, importer
from arbgym.data.__main__ import main
from arbgym.market.tape import TapeError
from experiments.benchmark_data import write_swaps
from tests.conftest import REPOSITORY

POOL = Options(chain="ethereum", decimals=(6, 18))


def logs(rows: int = 40) -> pd.DataFrame:
    """Decoded V3 swaps around 2,000 USDC per WETH."""
    price = 2_000.0 * np.exp(np.cumsum(np.random.default_rng(1).normal(0.0, 1e-4, rows)))
    return pd.DataFrame(
        {
            "block_number": 100 + np.arange(rows) // 4,
            "transaction_index": 0,
            "log_index": np.arange(rows) % 4,
            "transaction_hash": [f"0x{k:064x}" for k in range(rows)],
            "timestamp": 1_700_000_000 + 12 * (np.arange(rows) // 4),
            "address": "0x" + "aa" * 20,
            "amount0": [str(int(value * 1e6)) for value in price],
            "amount1": [str(-(10**18))] * rows,
            "sqrtPriceX96": [str(int((1e12 / value) ** 0.5 * 2**96)) for value in price],
            "liquidity": "20000000000000000000",
            "tick": 200_311,
        }
    )


def bring(frame: pd.DataFrame, folder: Path, name: str = "logs.csv", store: str = "store", **more: Any) -> importer.Imported:
    path = folder / name
    frame.to_csv(path, index=False)
    return import_file(path, Store(folder / store), POOL, **more)


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_a_killed_import_goes_on_and_writes_nothing_twice(tmp_path: Path, suffix: str) -> None:
    rows = 120_000
    write_swaps(rows, tmp_path / "swaps.parquet", tmp_path / "swaps.csv")
    source, store = tmp_path / f"swaps.{suffix}", Store(tmp_path / "store")
    program = (
        "import sys; from pathlib import Path; from arbgym.data import Options, Store, import_file, files\n"
        f"files.BATCH_ROWS, files._BLOCK_BYTES = 5_000, 1 << 21\n"
        f"real = files.batches\n"
        "files.batches = lambda path, skip=0: real(path, skip, 5_000)\n"
        f"import_file(Path({str(source)!r}), Store({str(store.path)!r}), Options(chain='ethereum', decimals=(6, 18)))\n"
    )
    process = subprocess.Popen([sys.executable, "-c", program], cwd=REPOSITORY)
    deadline = time.monotonic() + 60
    while store.rows("swaps") < 20_000 and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.02)
    assert process.poll() is None, "the import ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    held = Store(store.path).rows("swaps")
    assert 20_000 <= held < rows
    done = import_file(source, Store(store.path), POOL)
    assert done.resumed_at > 0 and done.rows == rows - done.resumed_at and done.tables["swaps"].new == rows - held
    again = Store(store.path)
    assert again.rows("swaps") == rows
    assert len(again.read("swaps", columns=["block_number", "log_index"]).drop_duplicates()) == rows
    second = import_file(source, again, POOL)
    assert second.tables["swaps"].new == 0 and second.tables["swaps"].duplicates == rows


def test_two_sources_that_disagree(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    frame = logs()
    bring(frame, tmp_path)
    assert bring(frame, tmp_path, "copy.csv").tables["swaps"].new == 0
    frame.loc[21, "amount1"] = str(-(10**18) - 5 * 10**15)
    with pytest.raises(TapeError, match=r"\(other.csv\) against -1000000000000000000 \(logs.csv\)") as error:
        bring(frame, tmp_path, "other.csv")
    assert error.value.row == 21 and error.value.column == "amount1_raw" and error.value.path.endswith("other.csv")
    command = ["import", str(tmp_path / "other.csv"), "--store", str(tmp_path / "store"), "--chain", "ethereum", "--quiet"]
    command += ["--decimals", "6", "18"]
    assert main(command) == 2 and "amount1_raw" in capsys.readouterr().err
    assert main([*command, "--prefer", "old"]) == 0
    assert Store(tmp_path / "store").read("swaps")["amount1"][21] == -1.0
    assert main([*command, "--prefer", "new"]) == 0 and "1 replaced" in capsys.readouterr().out
    assert Store(tmp_path / "store").read("swaps")["amount1"][21] == -1.005


def test_logs_doubled_by_a_reorg(tmp_path: Path) -> None:
    frame = logs()
    reorg = frame.tail(4).assign(transaction_hash=[f"0xff{k:062x}" for k in range(4)])
    with pytest.raises(TapeError, match=r"transaction_hash.*accepted is one value per key"):
        bring(pd.concat([frame, reorg]), tmp_path, store="a")
    flagged = pd.concat([frame, frame.tail(4), reorg])
    flagged["removed"] = [False] * len(frame) + [True] * 4 + [False] * 4
    assert bring(flagged, tmp_path, "flagged.csv", "b").tables["swaps"].new == len(frame)
    # the same told in two files: the second takes rows of the first back
    bring(frame.assign(removed=False), tmp_path, "first.csv", "c")
    bring(flagged.tail(8), tmp_path, "second.csv", "c")
    for name in ("b", "c"):
        held = Store(tmp_path / name).read("swaps")
        assert len(held) == len(frame) and held["transaction_hash"].tail(4).tolist() == reorg["transaction_hash"].tolist()


def test_a_removal_before_its_log_waits_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    frame = logs(8)
    path = tmp_path / "rest.csv"
    pd.concat([frame.tail(1).assign(removed=True), frame.assign(removed=False)]).to_csv(path, index=False)
    real = files.batches

    def one_by_one(given: Path, skip: int = 0) -> Iterator[tuple[int, Any]]:
        for first, frame in real(given, skip):
            yield from ((first + k, row) for k, row in enumerate(frame.iter_slices(1)))

    monkeypatch.setattr(files, "batches", one_by_one)
    import_file(path, Store(tmp_path / "store"), POOL)
    assert Store(tmp_path / "store").rows("swaps") == 7


REFUSED: list[tuple[str, dict[str, Any], int | None, str]] = [
    ("timestamp", {"row": 11, "value": 1_700_000_000_000}, 11, "a time in ms, in a column in s"),
    ("amount0", {"row": 12, "value": "many"}, 12, "whole numbers in smallest units"),
    ("block_number", {"row": 13, "value": "1.5"}, 13, "whole numbers"),
    ("log_index", {"row": 14, "value": ""}, 14, "value in every row"),
]


@pytest.mark.parametrize(("column", "change", "row", "rule"), REFUSED)
def test_bad_cells_are_refused_with_file_row_and_column(
    tmp_path: Path, column: str, change: dict[str, Any], row: int, rule: str, capsys: pytest.CaptureFixture[str]
) -> None:
    frame = logs().astype(object)
    frame.loc[change["row"], column] = change["value"]
    with pytest.raises(TapeError, match=rule) as error:
        bring(frame, tmp_path)
    assert (error.value.row, error.value.column, error.value.path) == (row, column, str(tmp_path / "logs.csv"))
    status = main(["validate", str(tmp_path / "logs.csv"), "--chain", "ethereum", "--decimals", "6", "18"])
    printed = capsys.readouterr().out
    assert status == 1 and printed.startswith("file,row,column,rule") and f"logs.csv,{row},{column}," in printed


def test_swapped_tokens_are_refused(tmp_path: Path) -> None:
    frame = logs()
    swapped = frame.rename(columns={"amount0": "amount1", "amount1": "amount0"})
    with pytest.raises(TapeError, match="token0 and token1 swapped"):
        bring(swapped, tmp_path, "swapped.csv", "a")
    inverse = frame.copy()
    inverse.loc[20:, "sqrtPriceX96"] = [str(int((1e12 * 2_000) ** 0.5 * 2**96))] * 20
    inverse.loc[20:, ["amount0", "amount1"]] = ["1000000", str(-(2_000 * 10**18))]
    with pytest.raises(TapeError, match="about its inverse: tokens swapped") as error:
        bring(inverse, tmp_path, "inverse.csv", "b")
    assert error.value.row == 20 and error.value.column == "price"
    assert bring(inverse, tmp_path, "inverse.csv", "b", allow_jumps=True).tables["swaps"].new == 40


def test_missing_decimals_are_refused_by_token(tmp_path: Path) -> None:
    pool = {"pool": "0xp", "token0": "0xt0", "token1": "0xt1", "decimals0": 6, "decimals1": None, "fee_pips": 500}
    pool |= {"sqrt_price_x96": "1", "liquidity_raw": "1", "tick": 0, "reserve0_raw": None, "reserve1_raw": None}
    path = tmp_path / "pools.parquet"
    pd.DataFrame([pool | {"decimals1": 18, "pool": "0xq"}, pool]).to_parquet(path)
    with pytest.raises(TapeError, match="decimals of token 0xt1 are missing") as error:
        import_file(path, Store(tmp_path / "store"), Options(chain="ethereum"))
    assert error.value.row == 1 and error.value.column == "decimals1"
    done = import_file(path, Store(tmp_path / "store"), Options(chain="ethereum", skip_unknown=True))
    assert done.tables["pools"].new == 1


def test_the_rows_before_a_refusal_stay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = files.batches
    monkeypatch.setattr(files, "batches", lambda path, skip=0: real(path, skip, 10))
    frame = logs().astype(object)
    frame.loc[35, "amount0"] = "many"
    frame.astype(str).to_parquet(tmp_path / "logs.parquet")
    with pytest.raises(TapeError) as error:
        import_file(tmp_path / "logs.parquet", Store(tmp_path / "store"), POOL)
    assert error.value.row == 35 and Store(tmp_path / "store").rows("swaps") >= 20


def test_batches_of_a_database_are_imported_like_files(tmp_path: Path) -> None:
    import pyarrow

    table = pyarrow.Table.from_pandas(logs())
    done = importer.import_batches(table.to_batches(max_chunksize=7), Store(tmp_path / "store"), "duckdb:///x", POOL)
    assert done.tables["swaps"].new == 40 and set(Store(tmp_path / "store").read("swaps")["source"]) == {"duckdb:///x"}


def test_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    logs().to_csv(folder / "logs.csv", index=False)
    store = str(tmp_path / "store")
    flags = ["--chain", "ethereum", "--decimals", "6", "18"]
    assert main(["import", str(folder), "--store", store, *flags]) == 0
    assert "40 new, 0 known already" in capsys.readouterr().out
    assert main(["import", str(folder), "--store", store, *flags, "--quiet"]) == 0
    assert "0 new, 40 known already" in capsys.readouterr().out
    for picture in ("x.png", "x.svg"):
        assert main(["describe", store, "--plot", str(tmp_path / picture)]) == 0
        assert (tmp_path / picture).stat().st_size > 5_000
    printed = capsys.readouterr().out
    assert "40 rows, 2023-11-14 22:13:20 to 2023-11-14 22:15:08, every 12 s" in printed
    assert "bps a row" in printed and "[token1 per token0]" in printed
    assert main(["describe", str(folder / "logs.csv"), *flags]) == 0 and "recognised: Uniswap V3" in capsys.readouterr().out
    assert main(["validate", store]) == 0 and main(["formats"]) == 0
    assert "binance_klines" in capsys.readouterr().out
    for wrong in (
        ["describe", str(tmp_path / "absent.csv")],
        ["describe", str(folder)],
        ["describe", store, "--plot", str(tmp_path / "x.pdf")],
        ["import", "--store", store],
        ["import", str(folder / "logs.csv"), "--store", store, "--as", "nonsense"],
        ["tape", str(tmp_path / "t.parquet"), "--pool", "x", "--second-fee-ppm", "1", "--second-liquidity", "1"],
    ):
        assert main(wrong) == 2 and "refused" in capsys.readouterr().err


def test_validate_finds_what_somebody_wrote_into_a_store(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bring(logs(), tmp_path)
    (part,) = Store(tmp_path / "store").parts("swaps")
    frame = pd.read_parquet(part)
    frame.loc[5, "price"] = -1.0
    pd.concat([frame, frame.iloc[[7]]], ignore_index=True).to_parquet(part)
    assert main(["validate", str(tmp_path / "store")]) == 1
    printed = capsys.readouterr().out
    assert f"{part},5,price" in printed and "key occurs twice" in printed
