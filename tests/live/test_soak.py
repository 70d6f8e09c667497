"""Thirty days of blocks through the whole runner: memory and open files stay where they were after the first days."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from tests.live.simulated.clock import SimulatedLoop
from tests.live.simulated.faults import DuplicatedLogs, Fault, HeadBack, Killed, Late, Reorganisation, TimeOut
from tests.live.simulated.run import World
from tests.live.simulated.trial import SHARED_MEMORY

BLOCKS_PER_DAY = 7200
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")
_SAMPLES = 30
_WARM = 10  # samples until caches, the allocator's arenas and the journal's pages have their size
_MIB = 1 << 20


@dataclass(slots=True)
class Watch:
    """Samples of this process, taken while a world lives; it also takes away what only judges of short runs need."""

    every: int
    resident: list[int] = field(default_factory=list)
    files: list[int] = field(default_factory=list)
    sent: int = 0
    world: World | None = None

    def look(self, count: int) -> None:
        world = self.world
        if world is None or count % self.every:
            return
        self.sent += len(world.record.attempts)
        for kept in (world.record.attempts, world.record.prices, world.record.times, world.record.stops, world.chain.received):
            kept.clear()
        self.resident.append(int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES)
        self.files.append(len(list(Path("/proc/self/fd").iterdir())))


def soak(days: float, folder: Path) -> tuple[World, Watch]:
    """Live so many days, with faults that come again and again."""
    blocks = int(days * BLOCKS_PER_DAY)
    watch = Watch(every=blocks // _SAMPLES)
    kinds: list[type[Fault]] = [TimeOut, HeadBack, DuplicatedLogs, Late, Killed, Reorganisation]
    loop = SimulatedLoop()
    world = World(
        7,
        [],
        folder,
        loop,
        blocks=blocks,
        acting=0.03,
        each_block=watch.look,
        more_faults=[kind(7, period_blocks=min(400, blocks // 12) + 7 * place) for place, kind in enumerate(kinds)],
    )
    watch.world = world
    world.run()
    loop.close()
    assert all(fault.struck for fault in world.faults), [fault.struck for fault in world.faults]
    return world, watch


def assert_flat(watch: Watch) -> None:
    """The last third is as the second: no file more, and no growth beyond what an allocator keeps."""
    files, resident = watch.files[_WARM:], watch.resident[_WARM:]
    assert max(files) <= watch.files[_WARM], files
    half = len(resident) // 2
    growth = max(resident[half:]) - max(resident[:half])
    assert growth < 6 * _MIB, [size // _MIB for size in resident]


_SOAKS = [
    pytest.param(0.1, id="hours"),
    pytest.param(3.0, id="three-days", marks=pytest.mark.slow),
    pytest.param(30.0, id="thirty-days", marks=[pytest.mark.slow, pytest.mark.long]),
]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize("days", _SOAKS)
def test_memory_and_open_files_stay_flat(days: float) -> None:
    root = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    started = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=root) as name:
        world, watch = soak(days, Path(name))
        journal = sum(file.stat().st_size for file in Path(name).iterdir())
    seconds, blocks = time.perf_counter() - started, world.record.blocks
    print(
        f"{days:g} days, {blocks} blocks in {seconds:.0f} s ({seconds / blocks * 1e3:.2f} ms each), {watch.sent} sent, "
        f"{world.record.restarts} restarts, journal {journal / _MIB:.1f} MiB, resident {watch.resident[0] / _MIB:.0f} to "
        f"{watch.resident[-1] / _MIB:.0f} MiB, {watch.files[0]} to {watch.files[-1]} open files"
    )
    assert watch.sent > days * 20
    assert_flat(watch)
