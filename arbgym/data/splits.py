"""Splits by time: what is learned on lies before what is judged on, with an embargo between them.

An embargo as long as the longest window of the features keeps the judged rows from sharing any of their history.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from arbgym.data.columns import Moment, moment
from arbgym.data.features import TIME, as_frame
from arbgym.market.tape import TapeError

if TYPE_CHECKING:
    import pandas as pd


class Split(NamedTuple):
    """Two frames: every row of ``earlier`` is known before the cut, every row of ``later`` after the cut and the embargo."""

    earlier: pd.DataFrame
    later: pd.DataFrame


def by_time(table: Any, cut: Moment | float, *, embargo_s: float = 0.0) -> Split:
    """Split a table at a UTC time, or at a share of its span (0 to 1). Rows at the cut are later ones. Raises TapeError."""
    import pandas

    frame = as_frame(table)
    _not_negative("embargo_s", embargo_s)
    if isinstance(cut, int | float):
        if not 0.0 < cut < 1.0:
            raise TapeError(f"cut = {cut}; accepted is a share between 0 and 1, or a UTC time")
        first, last = frame[TIME].iloc[0], frame[TIME].iloc[-1]
        at = first + (last - first) * cut
    else:
        at = pandas.Timestamp(moment("cut", cut))
    later = at + pandas.Timedelta(seconds=embargo_s)
    split = Split(frame[frame[TIME] < at].reset_index(drop=True), frame[frame[TIME] >= later].reset_index(drop=True))
    if split.earlier.empty or split.later.empty:
        raise TapeError(
            f"cut {cut} with an embargo of {embargo_s:g} s leaves a side without rows; accepted is a cut within the span"
        )
    return split


def walk_forward(
    table: Any, *, train_s: float, test_s: float, embargo_s: float = 0.0, expanding: bool = False
) -> Iterator[Split]:
    """Splits that walk through a table: ``train_s`` of rows, the embargo, ``test_s`` of rows, then on by ``test_s``.

    ``expanding`` keeps the earlier rows from the table's start. No judged row appears twice; splits with an empty side
    are left out.
    """
    import pandas

    for name, value in (("train_s", train_s), ("test_s", test_s)):
        if not value > 0.0:
            raise TapeError(f"{name} = {value}; accepted is a positive number")
    _not_negative("embargo_s", embargo_s)
    frame = as_frame(table)
    start, last = frame[TIME].iloc[0], frame[TIME].iloc[-1]
    cut = start + pandas.Timedelta(seconds=train_s)
    length, gap = pandas.Timedelta(seconds=test_s), pandas.Timedelta(seconds=embargo_s)
    while cut + gap <= last:
        begin = start if expanding else cut - pandas.Timedelta(seconds=train_s)
        earlier = frame[(frame[TIME] >= begin) & (frame[TIME] < cut)]
        later = frame[(frame[TIME] >= cut + gap) & (frame[TIME] < cut + gap + length)]
        if len(earlier) and len(later):
            yield Split(earlier.reset_index(drop=True), later.reset_index(drop=True))
        cut += length


def _not_negative(name: str, value: float) -> None:
    if not value >= 0.0:
        raise TapeError(f"{name} = {value}; accepted is 0 or more")
