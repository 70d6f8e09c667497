"""Tables in files, batch by batch: Parquet, CSV, JSON lines, JSON, Arrow (Feather), the text ones also as .gz.

Text formats come out as text, since readers know better than a guess what a column holds; nested JSON comes out flat, with dots
in the names (``transaction.blockNumber``).
"""

from __future__ import annotations

import csv
import gzip
import itertools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow.csv
import pyarrow.ipc
import pyarrow.parquet

from arbgym.data.columns import NULLS
from arbgym.data.needs import pl, pyarrow
from arbgym.market.tape import TapeError

SUFFIXES = (".parquet", ".csv", ".jsonl", ".ndjson", ".json", ".feather", ".arrow", ".ipc")
BATCH_ROWS = 200_000
_BLOCK_BYTES = 1 << 25


def kind_of(path: Path) -> str:
    """The suffix that says the format, without .gz. Raises TapeError for a file that is absent, empty or of another suffix."""
    if not path.is_file():
        raise TapeError("no such file; accepted is a table in a file", path=str(path))
    suffix = Path(path.stem).suffix if path.suffix == ".gz" else path.suffix
    if suffix.lower() not in SUFFIXES or (path.suffix == ".gz" and suffix.lower() in (".parquet", ".feather", ".arrow", ".ipc")):
        raise TapeError(
            f"suffix {path.suffix!r}; accepted are {', '.join(SUFFIXES)}, the text ones also with .gz", path=str(path)
        )
    if path.stat().st_size == 0:
        raise TapeError("an empty file; accepted is a table", path=str(path))
    return suffix.lower()


def batches(path: Path, skip_rows: int = 0, rows: int = BATCH_ROWS) -> Iterator[tuple[int, pl.DataFrame]]:
    """The table's rows from ``skip_rows`` on, as (number of the first row, frame). Raises TapeError for what is no table."""
    kind = kind_of(path)
    try:
        if kind == ".csv":
            yield from _counted(_csv(path), skip_rows)
        elif kind in (".jsonl", ".ndjson"):
            yield from _counted(_json_lines(path, rows), skip_rows)
        elif kind == ".json":
            yield from _counted(iter([_json(path)]), skip_rows)
        elif kind == ".parquet":
            yield from _counted(_parquet(path, rows), skip_rows)
        else:
            yield from _counted(_feather(path), skip_rows)
    except (pyarrow.ArrowException, OSError, UnicodeDecodeError, EOFError, pl.exceptions.ComputeError) as error:
        raise TapeError(f"not a {kind[1:]} table ({str(error).strip()[:300]})", path=str(path)) from error


def parquet_metadata(path: Path) -> dict[bytes, bytes]:
    """The metadata of a Parquet file's schema. Raises TapeError for what is no Parquet file."""
    try:
        return dict(pyarrow.parquet.read_schema(path).metadata or {})
    except (pyarrow.ArrowException, OSError) as error:
        raise TapeError(f"not a Parquet file ({error})", path=str(path)) from error


def _counted(frames: Iterator[pl.DataFrame], skip_rows: int) -> Iterator[tuple[int, pl.DataFrame]]:
    first = 0
    for frame in frames:
        if first + len(frame) > skip_rows:
            ahead = max(0, skip_rows - first)
            yield first + ahead, frame.slice(ahead)
        first += len(frame)


def _parquet(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    with pyarrow.parquet.ParquetFile(path) as file:
        for batch in file.iter_batches(batch_size=rows):
            if batch.num_rows:
                yield pl.DataFrame(pl.from_arrow(batch))


def _feather(path: Path) -> Iterator[pl.DataFrame]:
    with pyarrow.memory_map(str(path)) as source, pyarrow.ipc.open_file(source) as file:
        for index in range(file.num_record_batches):
            batch = file.get_batch(index)
            if batch.num_rows:
                yield pl.DataFrame(pl.from_arrow(batch))


def _text(path: Path) -> Any:
    return gzip.open(path, "rt", encoding="utf-8-sig") if path.suffix == ".gz" else path.open(encoding="utf-8-sig")


def _csv(path: Path) -> Iterator[pl.DataFrame]:
    from arbgym.data.readers.headerless import headerless_names

    with _text(path) as file:
        cells = next(csv.reader(file), [])
    names = headerless_names(cells, path)
    read = pyarrow.csv.ReadOptions(block_size=_BLOCK_BYTES, column_names=names)
    convert = pyarrow.csv.ConvertOptions(
        column_types=dict.fromkeys(names or cells, pyarrow.string()), null_values=list(NULLS), strings_can_be_null=True
    )
    with pyarrow.csv.open_csv(path, read, convert_options=convert) as stream:
        for batch in stream:
            if batch.num_rows:
                yield pl.DataFrame(pl.from_arrow(batch))


def _json_lines(path: Path, rows: int) -> Iterator[pl.DataFrame]:
    with _text(path) as file:
        number = 0
        while chunk := list(itertools.islice(file, rows)):
            records = []
            for offset, line in enumerate(chunk):
                if line.strip():
                    records.append(_record(line, path, number + offset))
            number += len(chunk)
            if records:
                yield _flat(records)


def _record(line: str, path: Path, row: int) -> Any:
    try:
        return json.loads(line, parse_float=str)
    except json.JSONDecodeError as error:
        raise TapeError(f"not JSON ({error}); accepted is one object per line", row=row, path=str(path)) from error


def _json(path: Path) -> pl.DataFrame:
    with _text(path) as file:
        try:
            found = json.load(file, parse_float=str)
        except json.JSONDecodeError as error:
            raise TapeError(f"not JSON ({error})", path=str(path)) from error
    while isinstance(found, dict):  # a GraphQL or REST answer: the list lies inside
        inside = [value for value in found.values() if isinstance(value, list | dict)]
        if not inside:
            break
        found = next((value for value in inside if isinstance(value, list)), inside[0])
    if not isinstance(found, list) or not found:
        raise TapeError("no list of rows in it; accepted is a list of objects, or an answer that holds one", path=str(path))
    return _flat(found)


def _flat(records: list[Any]) -> pl.DataFrame:
    flat = [_flatten(record) for record in records]
    names = dict.fromkeys(itertools.chain.from_iterable(flat))
    return pl.DataFrame({name: pl.Series(name, [record.get(name) for record in flat], pl.String) for name in names})


def _flatten(record: Any, prefix: str = "") -> dict[str, str | None]:
    if not isinstance(record, dict):
        record = {f"column_{k}": value for k, value in enumerate(record)} if isinstance(record, list) else {"value": record}
    flat: dict[str, str | None] = {}
    for name, value in record.items():
        if isinstance(value, dict):
            flat |= _flatten(value, f"{prefix}{name}.")
        elif isinstance(value, list):
            flat[prefix + name] = json.dumps(value)
        else:
            flat[prefix + name] = None if value is None else str(value).lower() if isinstance(value, bool) else str(value)
    return flat
