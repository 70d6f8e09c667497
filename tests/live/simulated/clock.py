"""Time that passes only when everything waits: an event loop whose timers fire at once, in their order."""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Coroutine
from typing import Any, TypeVar

Result = TypeVar("Result")
START_S = 1_700_000_000


class _NoWaiting(selectors.SelectSelector):
    """Instead of waiting for the next timer, tells the loop that its time has come. No file is ever ready here."""

    loop: SimulatedLoop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None:
            raise RuntimeError("every task waits and nothing is left that could wake one")
        self.loop.elapsed_s += max(timeout, 0.0)
        return []


class SimulatedLoop(asyncio.SelectorEventLoop):
    """``elapsed_s`` is its time: timers, ``asyncio.sleep`` and ``asyncio.timeout`` run on it. Threads cannot be waited for."""

    def __init__(self) -> None:
        self.elapsed_s = 0.0
        selector = _NoWaiting()
        selector.loop = self
        super().__init__(selector)

    def time(self) -> float:
        return self.elapsed_s


class SimulatedClock:
    """The ``Clock`` of the runner on a ``SimulatedLoop``. ``jump_s`` is how wrong the machine's wall clock is."""

    def __init__(self, loop: SimulatedLoop) -> None:
        self._loop = loop
        self.jump_s = 0.0

    def now(self) -> float:
        return START_S + self._loop.elapsed_s + self.jump_s

    def monotonic(self) -> float:
        return self._loop.elapsed_s

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def run(loop: SimulatedLoop, work: Coroutine[Any, Any, Result]) -> Result:
    """Run ``work`` to its end; what else still runs then is cancelled."""
    asyncio.set_event_loop(loop)
    try:
        return loop.run_until_complete(work)
    finally:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.gather(*left, return_exceptions=True))
        asyncio.set_event_loop(None)
