"""Walk-forward spans over recorded entries: what each fold may be fitted on, and what it is judged on.

Entries are cut by time into groups of equal number. A fold is judged on one group and fitted on the groups before it: the last
``train_groups`` of them (rolling) or all (expanding). Between the two lies an embargo of one horizon: the last training entry's
whole horizon is over when the first test entry is bought. On top of that the training tape is cut off where the test span starts,
so that no number of the test span, nor of anything later, exists for a fit to look at.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from arbgym.envs.sell import Bucket
from arbgym.market.token_tape import RESERVE, TIME_S, TokenTape

TRAIN_GROUPS = 2


@dataclass(frozen=True)
class Fold:
    """Training entries in [train_start_s, train_end_s), test entries in [test_start_s, test_end_s), Unix s."""

    number: int
    train_start_s: float
    train_end_s: float
    test_start_s: float
    test_end_s: float

    @property
    def embargo_s(self) -> float:
        """Between the last moment to buy in training and the first in the test."""
        return self.test_start_s - self.train_end_s


def time_folds(
    times_s: NDArray[np.float64], count: int, embargo_s: float, *, train_groups: int = TRAIN_GROUPS, expanding: bool = False
) -> list[Fold]:
    """``count`` folds over entry times (E,), Unix s, in any order. A training span may turn out empty: the fold's failure.

    Raises ValueError for a count or number of groups below 1, an embargo below 0, or no entries.
    """
    for name, value, least in (("folds", count, 1), ("train_groups", train_groups, 1), ("embargo_s", embargo_s, 0)):
        if not value >= least:
            raise ValueError(f"{name} = {value}; accepted is {least} or more")
    if not len(times_s):
        raise ValueError("times_s: no entries; accepted is one or more")
    ordered = np.sort(times_s)
    groups = train_groups + count
    first = np.searchsorted(np.arange(len(ordered)) * groups, np.arange(groups) * len(ordered))
    borders = [*ordered[np.minimum(first, len(ordered) - 1)].tolist(), float(np.nextafter(ordered[-1], np.inf))]
    found = []
    for number in range(count):
        start, test = borders[0 if expanding else number], borders[number + train_groups]
        found.append(Fold(number, start, max(start, test - embargo_s), test, borders[number + train_groups + 1]))
    return found


def training_tape(tape: TokenTape, fold: Fold) -> TokenTape:
    """The fold's training entries on rows before its test span. Raises TapeError (a ValueError) where no entry is left."""
    return before(tape.between(fold.train_start_s, fold.train_end_s), fold.test_start_s)


def held_out_tape(tape: TokenTape, fold: Fold) -> TokenTape:
    """The fold's test entries on the whole tape: what is older was known by then. Raises TapeError where there is none."""
    return tape.between(fold.test_start_s, fold.test_end_s)


def before(tape: TokenTape, end_s: float) -> TokenTape:
    """The rows before ``end_s``, Unix s, as if nothing later had been recorded; entries keep a row after them to sell in.

    Raises TapeError where no entry is left.
    """
    kept_rows = tape.rows[:, TIME_S] < end_s
    token = tape.token_of(np.arange(len(tape.rows)))
    lengths = np.bincount(token[kept_rows], minlength=len(tape))
    kept_tokens = lengths >= 2
    kept_rows &= kept_tokens[token]
    lasts = tape.starts[:-1] + lengths - 1  # rows of a token ascend in time, so its kept rows are its first
    entries = tape.entries[kept_rows[tape.entries] & (tape.entries < lasts[token[tape.entries]])]
    if not len(entries):
        return tape.with_entries(entries)  # refused there, by name
    number = np.cumsum(kept_rows) - 1
    starts = np.concatenate([[0], np.cumsum(lengths[kept_tokens])])
    names = tuple(name for name, kept in zip(tape.names, kept_tokens, strict=True) if kept)
    return TokenTape(tape.rows[kept_rows], starts, names, tape.step_s, number[entries], tape.quote, tape.source)


def longest_horizon_s(tape: TokenTape, buckets: Sequence[Bucket]) -> float:
    """The longest horizon among the tape's entries, s: that of each one's liquidity bucket, chosen by twice the reserve."""
    limits = [bucket.tvl_below_quote for bucket in buckets[:-1]]
    found = np.searchsorted(limits, 2.0 * tape.rows[tape.entries, RESERVE], side="right")
    return float(np.max(np.array([bucket.horizon_s for bucket in buckets])[found]))
