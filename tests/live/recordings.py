"""Made-up blocks of three pools around 1,840, and recordings of them, for tests that need no chain."""

from __future__ import annotations

import math
import random
from collections.abc import Iterator
from pathlib import Path

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.amm.tick_math import sqrt_price_x96_at_tick
from arbgym.live.recording import Recorder, RecordingHeader
from arbgym.live.terms import ChainView, Head, PoolModel, Reference, WatchedPool

BASE, QUOTE = "0x" + "b" * 40, "0x" + "d" * 40
WATCHED = (
    WatchedPool("pool0", "0x" + "1" * 40, "v2", 3_000, BASE, QUOTE, 18, 6, True),
    WatchedPool("pool1", "0x" + "2" * 40, "v3", 500, BASE, QUOTE, 18, 6, True, 10),
    WatchedPool("pool2", "0x" + "3" * 40, "v3", 3_000, BASE, QUOTE, 18, 6, True, 60),
)
FIRST_S = 1_700_000_000


def views(blocks: int, seed: int = 0) -> Iterator[ChainView]:
    """Blocks 1 to ``blocks``, 12 s apart, with prices a little apart from each other."""
    draw = random.Random(seed)
    for number in range(1, blocks + 1):
        pools: list[PoolModel] = []
        for watched in WATCHED:
            price = 1_840.0 * math.exp(draw.gauss(0.0, 4e-3))
            if watched.kind == "v2":
                pools.append(ConstantProductPool(5_000 * 10**18, int(5_000 * price * 1e6)))
                continue
            tick, spacing = math.floor(math.log(price * 1e-12) / math.log(1.0001)), watched.tick_spacing or 1
            middle, reach = tick // spacing * spacing, 200 * spacing
            pools.append(
                ConcentratedPool(
                    sqrt_price_x96=sqrt_price_x96_at_tick(tick),
                    tick=tick,
                    liquidity=4 * 10**18,
                    fee=watched.fee_ppm,
                    tick_spacing=spacing,
                    ticks={middle - reach: 4 * 10**18, middle + reach: -4 * 10**18},
                )
            )
        head = Head(number, f"0x{number:064x}", f"0x{number - 1:064x}", FIRST_S + 12 * number, 15 * 10**9, 15_000_000, 30_000_000)
        yield ChainView(head, tuple(pools), (0.0,) * 3, (), 0, Reference(1_840.0, float(head.timestamp), "made up"))


def record(path: Path, blocks: int, seed: int = 0) -> Path:
    """A recording of them."""
    recorder = Recorder(path, RecordingHeader(1, WATCHED, ()))
    for view in views(blocks, seed):
        recorder.write(view)
    recorder.close()
    return path
