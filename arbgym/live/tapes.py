"""Recorded blocks as a tape: train and evaluate on what ``--record`` wrote, row for row what the runner saw.

python -m arbgym.live.tapes blocks.jsonl.gz blocks.parquet --chain ethereum
"""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arbgym.live.observer import NotObservable, tape_pools, tape_row
from arbgym.live.recording import RecordedFeed, read_header
from arbgym.live.terms import ChainView, EndOfFeed, LiveError
from arbgym.market.chain import CHAINS, Chain
from arbgym.market.tape import Tape, TapeError


async def read_views(path: Path) -> list[ChainView]:
    """Every view of a recording, in order. Raises RecordingError."""
    feed = RecordedFeed(path)
    views = [await feed.open()]
    while True:
        try:
            views.append(await feed.next())
        except EndOfFeed:
            return views


def tape_of(views: Sequence[ChainView], path: Path, chain: Chain) -> Tape:
    """The tape of a recording's views; blocks that a reorganisation took back are left out.

    Slots without a block, and blocks without a reference price, repeat the row above, as the runner takes them (``Tape.filled``).
    The block time is the recording's own; ``chain`` gives the base fee rule, and the block time where the recording says none.
    Raises TapeError for blocks that are not multiples of the block time apart, and for what no tape can be.
    """
    header = read_header(path)
    pools, block_time_s = header.pools, header.world.get("block_time_s", chain.block_time_s)
    step = round(block_time_s)
    if step != block_time_s:
        raise TapeError(f"block_time_s = {block_time_s:g}; accepted are whole seconds, as a tape has them", path=str(path))
    kept: dict[int, ChainView] = {}
    for view in views:
        for number in [number for number in kept if number >= view.head.number]:
            del kept[number]
        kept[view.head.number] = view
    rows: list[np.ndarray[tuple[int], np.dtype[np.float64]]] = []
    times: list[int] = []
    filled: list[int] = []
    for view in kept.values():
        try:
            row = tape_row(view, pools, chain.elasticity, chain.base_fee_denominator)
        except NotObservable:
            continue
        while times and times[-1] + step < view.head.timestamp:
            empty = rows[-1].copy()
            empty[4::3] = 0.0
            times.append(times[-1] + step)
            filled.append(times[-1])
            rows.append(empty)
        times.append(view.head.timestamp)
        rows.append(row)
    if not rows:
        raise TapeError("no block with a reference price; accepted is one or more", path=str(path))
    return Tape.from_rows(
        tape_pools(pools), np.array(times, dtype=np.int64), np.stack(rows), step, source=path.name, filled=tuple(filled)
    )


def main(given: Sequence[str] | None = None) -> int:
    """Convert; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m arbgym.live.tapes", description="Recorded blocks as a tape for replay.")
    parser.add_argument("recording", type=Path, help="written by python -m arbgym.live --record")
    parser.add_argument("out", type=Path, help="tape to write: .parquet, .csv or .tape")
    parser.add_argument(
        "--chain",
        choices=[
            name for name, chain in CHAINS.items() if chain.block_time_s.is_integer()
        ],  # a tape's rows are whole seconds apart
        default="ethereum",
        help="its base fee rule, and its block time where the recording says none (default %(default)s)",
    )
    arguments = parser.parse_args(given)
    from arbgym.data.tape_file import write_tape

    try:
        tape = tape_of(asyncio.run(read_views(arguments.recording)), arguments.recording, CHAINS[arguments.chain])
        write_tape(tape, arguments.out)
    except (LiveError, TapeError, OSError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    print(f"{arguments.out}: {len(tape.timestamps)} rows, {len(tape.filled)} of them without a block")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
