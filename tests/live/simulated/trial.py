"""Many seeds of one kind of fault: each lived through, judged, and counted."""

from __future__ import annotations

import multiprocessing
import os
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.live.simulated.audit import audit
from tests.live.simulated.clock import SimulatedLoop
from tests.live.simulated.run import World

SHARED_MEMORY = Path("/dev/shm")


@dataclass(slots=True)
class Count:
    """What became of some seeds."""

    seeds: int = 0
    struck: int = 0  # runs in which the fault really happened
    sending: int = 0  # runs in which something was sent
    stopped: int = 0  # runs in which a process ended before its time
    ends: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0
    failures: list[str] = field(default_factory=list)


def live(seed: int, kinds: Sequence[str], loop: SimulatedLoop, judged: bool = True, **options: Any) -> World:
    """A world that was lived through and, unless its fault never ends, judged. Raises AssertionError for what must not happen."""
    root = SHARED_MEMORY if os.access(SHARED_MEMORY, os.W_OK) else None
    with tempfile.TemporaryDirectory(dir=root) as folder:
        world = World(seed, kinds, Path(folder), loop, **options)
        world.run()
        if judged:
            world.record.stories = audit(world)
    return world


def count(kind: str, seeds: Sequence[int], again_every: int) -> Count:
    """Live all seeds through; every ``again_every``-th twice, for the same journal."""
    result, loop, started = Count(), SimulatedLoop(), time.perf_counter()
    for seed in seeds:
        result.seeds += 1
        try:
            world = live(seed, [kind], loop)
            if seed % again_every == 0:
                assert live(seed, [kind], loop).record.digest == world.record.digest, "another journal the second time"
        except Exception as error:  # noqa: BLE001  whatever it is, the seed is wanted with it
            result.failures.append(f"{kind}, seed {seed}: {type(error).__name__}: {error}"[:400])
            continue
        result.struck += world.faults[0].struck > 0
        result.sending += bool(world.record.attempts)
        result.stopped += bool(world.record.stops)
        result.ends.update(story.state for story in world.record.stories.values())
    loop.close()
    result.seconds = time.perf_counter() - started
    return result


def count_on_two_processes(kind_seeds: Sequence[tuple[str, Sequence[int]]], again_every: int) -> dict[str, Count]:
    """``count`` for each kind, on two processes."""
    with multiprocessing.get_context("spawn").Pool(2) as pool:
        waiting = [(kind, pool.apply_async(count, (kind, seeds, again_every))) for kind, seeds in kind_seeds]
        return {kind: one.get() for kind, one in waiting}
