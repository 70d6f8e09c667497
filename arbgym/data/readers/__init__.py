"""Readers: which format a table is in, known by its columns, and the canonical tables it becomes."""

from __future__ import annotations

from collections.abc import Sequence

from arbgym.data.readers import (  # noqa: F401  (each registers its formats)
    binance,
    candles,
    clickhouse,
    demeter,
    dune,
    ethereum_etl,
    mev,
    oracles,
    solana,
    tardis,
    thegraph,
    uniswap,
)
from arbgym.data.readers.base import READERS, Options, Reader, Rows, Tables
from arbgym.data.readers.canonical import canonical_reader
from arbgym.market.tape import TapeError

__all__ = ["READERS", "Options", "Reader", "Rows", "Tables", "recognise"]


def recognise(columns: Sequence[str], path: str = "", named: str | None = None) -> Reader:
    """The reader of a table with these columns; of several the one that needs most of them.

    ``named`` asks for one reader by name. Raises TapeError that says what was looked for.
    """
    held = set(columns)
    if named is not None:
        for reader in READERS:
            if reader.name == named:
                lacking = [name for name in reader.needs if name not in held]
                if lacking:
                    raise TapeError(
                        f"missing for {reader.title}; accepted is a table with {', '.join(reader.needs)}", lacking[0], path=path
                    )
                return reader
        raise TapeError(f"no reader {named!r}; accepted are {', '.join(sorted(reader.name for reader in READERS))}", path=path)
    canonical = canonical_reader(columns)
    if canonical is not None:
        return canonical
    fitting = [reader for reader in READERS if held.issuperset(reader.needs)]
    if fitting:
        return max(fitting, key=lambda reader: len(reader.needs))
    near = sorted(READERS, key=lambda reader: len(held & set(reader.needs)) / len(reader.needs), reverse=True)[:3]
    looked = "; ".join(
        f"{reader.title} ({reader.name}): lacks {', '.join(name for name in reader.needs if name not in held)}" for reader in near
    )
    raise TapeError(
        f"no known format has the columns {', '.join(list(columns)[:20])}; looked for {len(READERS)} formats, nearest: {looked}",
        path=path,
    )
