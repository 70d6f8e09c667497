"""A table of bids looked up from past rival bids, measured by bidding at random on the tuning seeds: shared by the baselines.

Two moving averages of seen rival bid shares are cut into quantile cells; in each cell the bid with the best mean profit is kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import Floats, Simulator

Lookup = Callable[[NDArray[np.float32]], Floats]
"""Observations float32 (N, D) -> bid share of each row, float64 (N,)."""
Trial = Callable[[NDArray[np.float32], Floats], Floats]
"""(observations (N, D), bid shares (N,)) -> decisions (N, A) that bid so where a trade may pay."""
Seen = Callable[[NDArray[np.float32]], tuple[Floats, Floats]]
"""Observations -> the fast and the slow moving average of seen bid shares, (N,) each."""


@dataclass(frozen=True)
class BidTable:
    """How a table is measured: the bids tried, cells of the fast average (the slow one has 3), and sets of episodes played."""

    bids: Sequence[float]
    cells: int = 8
    repeats: int = 6

    def fit(self, simulator: Simulator, trial: Trial, seen: Seen) -> Lookup | None:
        """The lookup that the simulator's seeds suggest; None where nothing was worth an attempt."""
        bids = np.array(self.bids)
        random = _RandomBids(bids, trial, seen, np.random.default_rng(simulator.seed))
        for repeat in range(self.repeats):
            start = simulator.seed + (repeat + 1) * simulator.episodes
            replace(simulator, seed=start).run(random.decide, random.note)
        table = np.concatenate(random.samples)
        if not len(table):
            return None
        fast_edges = np.quantile(table[:, 0], np.linspace(0.0, 1.0, self.cells + 1)[1:-1])
        slow_edges = np.quantile(table[:, 1], np.array([1.0, 2.0]) / 3.0)
        profit = np.zeros((self.cells, 3, len(bids)))
        count = np.zeros_like(profit)
        cell = np.searchsorted(fast_edges, table[:, 0]), np.searchsorted(slow_edges, table[:, 1]), table[:, 2].astype(np.int64)
        np.add.at(profit, cell, table[:, 3])
        np.add.at(count, cell, 1.0)
        best = bids[_smooth(profit, count).argmax(axis=-1)]

        def lookup(observations: NDArray[np.float32]) -> Floats:
            fast, slow = seen(observations)
            found: Floats = best[np.searchsorted(fast_edges, fast), np.searchsorted(slow_edges, slow)]
            return found

        return lookup


class _RandomBids:
    """Bids at random, and what came of them: rows of (fast average, slow average, bid index, net profit)."""

    def __init__(self, bids: Floats, trial: Trial, seen: Seen, generator: np.random.Generator) -> None:
        self._bids, self._trial, self._see, self._generator = bids, trial, seen, generator
        self._chosen = np.zeros(0, dtype=np.int64)
        self._seen = np.zeros((0, 2))
        self.samples: list[Floats] = []

    def decide(self, observations: NDArray[np.float32]) -> Floats:
        """A random bid for each row."""
        self._chosen = self._generator.integers(0, len(self._bids), len(observations))
        self._seen = np.stack(self._see(observations), axis=1)
        return self._trial(observations, self._bids[self._chosen])

    def note(self, env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        """Keep the attempts' outcomes."""
        rows = alive & (env.info["attempted"] > 0.0)
        profit = env.info["net_profit"] + env.info.get("inventory_loss", np.zeros(env.num_envs))  # at constant prices
        self.samples.append(np.column_stack([self._seen[rows], self._chosen[rows], profit[rows]]))


def _smooth(profit: Floats, count: Floats) -> Floats:
    """Mean profit per cell and bid, with sums shared with neighbouring bids (1-2-1) so that few samples do not decide."""

    def shared(sums: Floats) -> Floats:
        padded = np.pad(sums, [(0, 0), (0, 0), (1, 1)])
        total: Floats = padded[..., :-2] + 2.0 * padded[..., 1:-1] + padded[..., 2:]
        return total

    mean: Floats = shared(profit) / np.maximum(shared(count), 1.0)
    return mean
