"""Tape files, format 1: Parquet or CSV with a timestamp, the shared columns, and three columns per pool.

Columns: ``timestamp`` (UTC), ``reference_price``, ``base_fee_gwei``, and for each pool ``NAME.price``, ``NAME.liquidity``,
``NAME.flow_base``; units as in ``arbgym.market.tape``. What a table cannot say stands in a JSON object: in Parquet
under the schema metadata key ``arbgym.tape``, in CSV in the first line after ``# ``:

    {"version": 1, "base": "WETH", "quote": "USDC", "step_seconds": 60, "source": "...",
     "pools": [{"name": "pool0", "kind": "v3", "fee_ppm": 500}, ...], "filled": [1691971260, ...]}

``timestamp`` is when a row is known, the end of its step: a date, ISO 8601 text or Unix seconds. ``filled`` (optional) lists
the rows that hold a missing moment of the source, taken as one without a trade.

A tape too large to hold in memory many times over is a folder ``NAME.tape`` of two NumPy arrays and that JSON object
(``rows.npy``: float64 (T, 2 + 3 K) as ``Tape.array`` lays it out; ``timestamps.npy``: int64 (T,), Unix seconds; ``tape.json``).
It is mapped, not read: every environment of a batch, and every process, shares the same pages.
"""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from arbgym.data.frames import check_file, numbers, read_csv, read_parquet, require_pandas, utc_seconds
from arbgym.market.tape import Tape, TapeError, TapePool

if TYPE_CHECKING:
    import pandas as pd

FORMAT_VERSION = 1
METADATA_KEY = b"arbgym.tape"
MAPPED = ".tape"
_UNITS = {
    "timestamp": "UTC",
    "reference_price": "quote per base",
    "base_fee_gwei": "gwei",
    "price": "quote per base",
    "liquidity": "sqrt(base * quote)",
    "flow_base": "base tokens into the pool",
}
_HOW_TO = "build a tape with python -m arbgym.data tape"


def read_tape(path: str | Path) -> Tape:
    """Read and check a tape. Raises TapeError naming the file, the row (first data row is 0), the column and the rule."""
    path = Path(path)
    if path.suffix == MAPPED:
        return _read_mapped(path)
    check_file(path)
    try:
        frame, described = _parquet(path) if path.suffix == ".parquet" else _csv(path)
        return tape_from_frame(frame, described)
    except TapeError as error:
        raise TapeError(error.rule, error.column, error.row, str(path), error.time) from error


def tape_from_frame(frame: pd.DataFrame, described: dict[str, Any]) -> Tape:
    """A tape from a pandas table and its JSON description. Raises TapeError."""
    words = _words(described)
    pools = words["pools"]
    wanted = ["timestamp", "reference_price", "base_fee_gwei"]
    wanted += [f"{pool.name}.{part}" for pool in pools for part in ("price", "liquidity", "flow_base")]
    for name in wanted:
        if name not in frame.columns:
            raise TapeError(f"missing; accepted is a table with the columns {', '.join(wanted)}", name)
    times = utc_seconds(frame["timestamp"], "timestamp")
    values = {name: numbers(frame[name], name, times) for name in wanted[1:]}

    def stacked(part: str) -> Any:
        return np.stack([values[f"{pool.name}.{part}"] for pool in pools], axis=1)

    return Tape(
        timestamps=times,
        reference_price=values["reference_price"],
        base_fee_gwei=values["base_fee_gwei"],
        price=stacked("price"),
        liquidity=stacked("liquidity"),
        flow_base=stacked("flow_base"),
        **words,
    )


def _words(described: dict[str, Any]) -> dict[str, Any]:
    """What the description says of a tape, checked: the arguments of ``Tape`` that are no columns."""
    if described.get("version") != FORMAT_VERSION:
        raise TapeError(f"format version {described.get('version')!r}; accepted is {FORMAT_VERSION}")
    for key in ("pools", "step_seconds"):
        if key not in described:
            raise TapeError(f"the description lacks {key!r}; accepted is an object with version, step_seconds, pools")
    step = described["step_seconds"]
    if isinstance(step, bool) or not isinstance(step, int):
        raise TapeError(f"step_seconds = {step!r}; accepted are whole seconds")
    filled = described.get("filled", [])
    if not isinstance(filled, list) or not all(isinstance(time, int) for time in filled):
        raise TapeError(f"filled = {filled!r}; accepted is a list of times in Unix seconds")
    return {
        "pools": _pools(described["pools"]),
        "step_seconds": step,
        "base": str(described.get("base", "base")),
        "quote": str(described.get("quote", "quote")),
        "source": str(described.get("source", "")),
        "filled": tuple(filled),
    }


def write_tape(tape: Tape, path: str | Path) -> None:
    """Write a tape as ``.parquet``, ``.csv`` or a mapped ``.tape`` folder; each reads back to the last bit.

    A file that exists is replaced only once the new one is complete.
    """
    path = Path(path)
    if path.suffix not in (".parquet", ".csv", MAPPED):
        raise TapeError(f"suffix {path.suffix!r}; accepted are .parquet, .csv, {MAPPED}", path=str(path))
    described = {
        "version": FORMAT_VERSION,
        "base": tape.base,
        "quote": tape.quote,
        "step_seconds": tape.step_seconds,
        "source": tape.source,
        "pools": [{"name": pool.name, "kind": pool.kind, "fee_ppm": pool.fee_ppm} for pool in tape.pools],
        "units": _UNITS,
    }
    if tape.filled:
        described["filled"] = list(tape.filled)
    text = json.dumps(described, sort_keys=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        if path.suffix == MAPPED:
            _write_mapped(tape, text, beside)
            if path.is_dir():
                shutil.rmtree(path)
        else:
            _write_table(tape, text, beside, path.suffix)
        beside.replace(path)
    finally:
        if beside.is_dir():
            shutil.rmtree(beside)
        else:
            beside.unlink(missing_ok=True)


def _write_table(tape: Tape, text: str, path: Path, suffix: str) -> None:
    pandas = require_pandas()
    times = pandas.to_datetime(tape.timestamps, unit="s", utc=True)
    frame = pandas.DataFrame({"timestamp": times, **tape.columns()})
    if suffix == ".parquet":
        import pyarrow
        from pyarrow import parquet

        table = pyarrow.Table.from_pandas(frame, preserve_index=False)
        table = table.replace_schema_metadata({**(table.schema.metadata or {}), METADATA_KEY: text.encode()})
        parquet.write_table(table, path, compression="zstd")
        return
    frame["timestamp"] = times.strftime("%Y-%m-%dT%H:%M:%SZ")
    with path.open("w", encoding="utf-8", newline="") as file:
        file.write(f"# {text}\n")
        frame.to_csv(file, index=False, lineterminator="\n")


def _write_mapped(tape: Tape, text: str, folder: Path) -> None:
    folder.mkdir()
    np.save(folder / "rows.npy", tape.array())
    np.save(folder / "timestamps.npy", np.asarray(tape.timestamps, dtype=np.int64))
    (folder / "tape.json").write_text(text, encoding="utf-8")


def _read_mapped(path: Path) -> Tape:
    """A mapped tape; its pages are loaded as they are touched, and shared."""
    names = ("rows.npy", "timestamps.npy", "tape.json")
    missing = [name for name in names if not (path / name).is_file()]
    if missing:
        raise TapeError(f"lacks {missing[0]}; accepted is a folder of {', '.join(names)}", path=str(path))
    try:
        rows, times = (np.load(path / name, mmap_mode="r", allow_pickle=False) for name in names[:2])
    except (ValueError, EOFError) as error:
        raise TapeError(f"not a NumPy array ({error})", path=str(path)) from error
    try:
        words = _words(_described((path / "tape.json").read_bytes()))
        if times.dtype != np.int64 or times.shape != rows.shape[:1]:
            raise TapeError(f"timestamps {times.dtype} {times.shape}; accepted is int64 ({len(rows)},), a time for each row")
        return Tape.from_rows(timestamps=times.view(np.ndarray), rows=rows, **words)
    except TapeError as error:
        raise TapeError(error.rule, error.column, error.row, str(path), error.time) from error


def _pools(described: Any) -> tuple[TapePool, ...]:
    accepted = "accepted is a list of objects with name, kind and fee_ppm"
    if not isinstance(described, list) or not described:
        raise TapeError(f"pools = {described!r}; {accepted}")
    pools = []
    for entry in described:
        if not isinstance(entry, dict) or not {"name", "kind", "fee_ppm"} <= entry.keys():
            raise TapeError(f"pool {entry!r}; {accepted}")
        fee = entry["fee_ppm"]
        if isinstance(fee, bool) or not isinstance(fee, int | float):
            raise TapeError(f"pool {entry['name']}: fee_ppm = {fee!r}; accepted is a number")
        pools.append(TapePool(str(entry["name"]), str(entry["kind"]), float(fee)))
    return tuple(pools)


def _parquet(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    frame, metadata = read_parquet(path)
    if METADATA_KEY not in metadata:
        raise TapeError(f"the schema metadata lacks 'arbgym.tape'; {_HOW_TO}")
    return frame, _described(metadata[METADATA_KEY])


def _csv(path: Path) -> tuple[pd.DataFrame, dict[str, Any]]:
    with path.open("rb") as file:
        first = file.readline()
    if not first.startswith(b"# "):
        raise TapeError(f"the first line does not start with '# {{json}}'; {_HOW_TO}")
    return read_csv(path, skip_lines=1), _described(first[2:])


def _described(text: bytes) -> dict[str, Any]:
    try:
        described = json.loads(text)
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise TapeError(f"the description is not JSON ({error})") from error
    if not isinstance(described, dict):
        raise TapeError("the description is not a JSON object")
    return described
