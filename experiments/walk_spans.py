"""The folds of a walk as they are fitted, judged and told: spans of a tape, or bands of seeds."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import numpy as np

from arbgym.evaluation import HELD_OUT_SEED, Simulator
from arbgym.market.token_tape import TIME_S, TokenTape
from experiments.config import definition_of
from experiments.fold_policies import ENVIRONMENT, MODULE, FoldWorld, Numbers
from experiments.folds import Fold, held_out_tape, longest_horizon_s, time_folds, training_tape
from experiments.trade_metrics import Floats, Ints

LEAST_TRAINING_ENTRIES = 10
MOST_SIMULATED = 1_000_000


@dataclass(frozen=True)
class Span:
    """One fold. ``world`` is None where it failed before anything could be fitted, for ``reason``.

    ``train`` and ``test`` say in words where it was fitted and judged; ``entry``, ``time_s`` and ``token`` (E,) are those of the
    test entries, in the order in which the world's test plays them.
    """

    number: int
    train: str
    test: str
    train_entries: int | None
    world: FoldWorld | None
    reason: str | None
    entry: Ints
    time_s: Floats
    token: Ints

    @property
    def test_entries(self) -> int:
        """How many entries it is judged on."""
        return len(self.entry)


def embargo_of(tape: TokenTape, numbers: Numbers) -> float:
    """One horizon, s: the longest among the tape's entries in the world's liquidity buckets."""
    return longest_horizon_s(tape, definition_of(ENVIRONMENT).configure(**numbers).buckets)


def tape_spans(tape: TokenTape, count: int, numbers: Numbers, folder: Path, *, train_groups: int, expanding: bool) -> list[Span]:
    """Folds of a tape's entries; a fold's training writes below ``folder``."""
    times = tape.rows[tape.entries, TIME_S]
    found = time_folds(times, count, embargo_of(tape, numbers), train_groups=train_groups, expanding=expanding)
    return [_tape_span(tape, fold, numbers, folder) for fold in found]


def simulated_spans(launches: int, count: int, numbers: Numbers, folder: Path) -> list[Span]:
    """Folds of simulated launches: each has a training seed and a band of held-out seeds of its own."""
    borders = np.linspace(0, launches, count + 1).astype(np.int64)
    spans = []
    for number, (first, last) in enumerate(zip(borders[:-1].tolist(), borders[1:].tolist(), strict=True)):
        test = Simulator(MODULE, dict(numbers), HELD_OUT_SEED + first, last - first)
        world = FoldWorld(number, numbers, None, test, folder / f"fold_{number}")
        entry = np.arange(first, last)
        told = f"launches {first:,} to {last - 1:,}"
        spans.append(Span(number, f"training seed {number}", told, None, world, None, entry, entry.astype(np.float64), entry))
    return spans


def _tape_span(tape: TokenTape, fold: Fold, numbers: Numbers, folder: Path) -> Span:
    training = test = reason = None
    try:
        test = held_out_tape(tape, fold)
        if fold.train_start_s < fold.train_end_s:
            training = training_tape(tape, fold)
    except ValueError as error:
        reason = f"no {'test' if test is None else 'training'} entries: {error}"
    count = 0 if training is None else len(training.entries)
    if reason is None and count < LEAST_TRAINING_ENTRIES:
        embargo = f"the embargo of {embargo_of(tape, numbers) / 3_600.0:g} h before the test span"
        reason = f"{count} training entries are left by {embargo}; accepted are {LEAST_TRAINING_ENTRIES} or more"
    entry = np.empty(0, dtype=np.int64) if test is None else test.entries
    world = None
    if test is not None and reason is None:
        simulator = Simulator(MODULE, {**numbers, "feed": "replay", "tape": test}, 0, len(entry))
        world = FoldWorld(fold.number, numbers, training, simulator, folder / f"fold_{fold.number}")
    train, until = _told(fold.train_start_s, fold.train_end_s), _told(fold.test_start_s, fold.test_end_s)
    return Span(fold.number, train, until, count, world, reason, entry, tape.rows[entry, TIME_S], tape.token_of(entry))


def _told(start_s: float, end_s: float) -> str:
    return f"{_utc(start_s)} to {_utc(end_s)}"


def _utc(time_s: float) -> str:
    return datetime.fromtimestamp(time_s, UTC).strftime("%Y-%m-%d %H:%M")
