"""Import of 10 million Uniswap V3 swaps, from Parquet and from CSV: rows per second, peak memory, and what it is next to.

The table is generated, in the columns that cryo writes; each import runs in a process of its own, whose peak memory is read when
it ends. The ratio is to plain decoding: the same file read once by pyarrow, nothing kept.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

ROWS = 10_000_000
_CHUNK = 500_000
_IMPORT = """
import resource, sys
from pathlib import Path
from arbgym.data import Options, Store, import_file
done = import_file(Path(sys.argv[1]), Store(sys.argv[2]), Options(chain="ethereum", decimals=(6, 18)))
print(done.tables["swaps"].new, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def _hex(generator: np.random.Generator, count: int, length: int) -> np.ndarray:
    """Random hex text, 0x first."""
    digits = np.frombuffer(b"0123456789abcdef", dtype="S1")[generator.integers(0, 16, (count, length), dtype=np.uint8)]
    return np.char.add("0x", np.ascontiguousarray(digits).view(f"S{length}").ravel().astype(f"U{length}"))


def swaps(rows: int, seed: int = 0) -> Any:
    """Chunks of cryo's columns as Arrow tables: a random walk of the price, some 1,500 swaps a minute, blocks of 12 s."""
    import pyarrow as pa

    generator = np.random.default_rng(seed)
    pools, wallets = _hex(generator, 20, 40), _hex(generator, 5_000, 40)
    log_price, block, log_index = np.log(3_000.0), 17_000_000, 0
    for start in range(0, rows, _CHUNK):
        count = min(_CHUNK, rows - start)
        moves = np.cumsum(generator.normal(0.0, 2e-5, count))
        price = np.exp(log_price + moves)  # token0 per token1, so 1 / price is token1 per token0
        log_price = float(np.log(price[-1]))
        new_block = generator.random(count) < 1 / 300
        blocks = block + np.cumsum(new_block)
        first = np.flatnonzero(new_block)
        places = np.arange(count) - np.maximum.accumulate(np.where(new_block, np.arange(count), 0))
        places[: first[0] if len(first) else count] += log_index
        block, log_index = int(blocks[-1]), int(places[-1]) + 1
        eth = generator.normal(0.0, 2.0, count)
        sqrt_price = np.sqrt(1e12 / price) * 2.0**96
        yield pa.table(
            {
                "block_number": blocks,
                "transaction_index": (places // 2).astype(np.int32),
                "log_index": places.astype(np.int32),
                "transaction_hash": _hex(generator, count, 64),
                "address": pools[np.zeros(count, dtype=np.int64)],
                "event__sender": wallets[generator.integers(0, len(wallets), count)],
                "event__recipient": wallets[generator.integers(0, len(wallets), count)],
                "event__amount0_string": np.char.mod("%.0f", -eth * price * 1e6),
                "event__amount1_string": np.char.mod("%.0f", eth * 1e18),
                "event__sqrtPriceX96_string": np.char.mod("%.0f", sqrt_price),
                "event__liquidity_string": np.char.mod("%.0f", generator.uniform(1e17, 9e18, count)),
                "event__tick": np.floor(np.log(1e12 / price) / np.log(1.0001)).astype(np.int32),
                "timestamp": 1_680_000_000 + 12 * (blocks - 17_000_000),
                "chain_id": np.ones(count, dtype=np.int64),
            }
        )


def write_swaps(rows: int, parquet: Path, csv: Path | None) -> None:
    """The generated table as files."""
    import pyarrow.csv
    import pyarrow.parquet

    writer, text = None, None
    for table in swaps(rows):
        writer = writer or pyarrow.parquet.ParquetWriter(parquet, table.schema, compression="zstd")
        writer.write_table(table)
        if csv is not None:
            text = text or pyarrow.csv.CSVWriter(csv, table.schema)
            text.write_table(table)
    for closing in (writer, text):
        if closing is not None:
            closing.close()


def rows(count: int = ROWS) -> list[dict[str, Any]]:
    """The figures: seconds and GiB of each import, next to plain decoding of the file."""
    found = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        files = {"Parquet": folder / "swaps.parquet", "CSV": folder / "swaps.csv"}
        write_swaps(count, files["Parquet"], files["CSV"])
        for kind, path in files.items():
            plain = _decoding(path)
            start = time.perf_counter()
            done = subprocess.run(
                [sys.executable, "-c", _IMPORT, str(path), str(folder / f"store_{kind}")],
                check=True,
                capture_output=True,
                text=True,
            )
            seconds = time.perf_counter() - start
            new, peak_kib = (int(part) for part in done.stdout.split())
            if new != count:
                raise RuntimeError(f"{new} rows imported of {count}")
            found.append(_row(f"import {count:,} swaps from {kind}", seconds, "s", seconds / plain, f"decoding the {kind} alone"))
            found.append(_row(f"peak memory, {kind}", peak_kib / 2**20, "GiB", None, None))
    return found


def _decoding(path: Path) -> float:
    """Seconds to decode a file once and keep nothing."""
    import pyarrow.csv
    import pyarrow.parquet

    start = time.perf_counter()
    if path.suffix == ".parquet":
        for _ in pyarrow.parquet.ParquetFile(path).iter_batches(batch_size=400_000):
            pass
    else:
        with path.open(encoding="utf-8") as file:
            names = [name.strip('"') for name in file.readline().strip().split(",")]
        text = pyarrow.csv.ConvertOptions(column_types=dict.fromkeys(names, pyarrow.string()))  # raw amounts fit no number
        for _ in pyarrow.csv.open_csv(path, convert_options=text):
            pass
    return time.perf_counter() - start


def _row(name: str, value: float, unit: str, ratio: float | None, to: str | None) -> dict[str, Any]:
    return {"name": name, "value": value, "unit": unit, "ratio": ratio, "ratio_to": to}


__all__ = ["rows", "swaps", "write_swaps"]
