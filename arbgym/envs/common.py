"""What ArbFlash-v0 and ArbCross-v0 have in common beside the market: the world's arrays, bids, what is seen of rivals."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from arbgym.amm.ranges import Floats
from arbgym.spec import Field


class World(NamedTuple):
    """Shared, read-only: one record (1,) of every number and pool table, and the tape (T, 2 + 3 K) or (1, 1).

    Kernels take the record as ``c``: a record travels as a pointer, while each array of a tuple costs an atomic count per call.
    """

    config: NDArray[np.void]
    tape: Floats


BID_SHARES = (
    *(0.01, 0.03, 0.06, 0.10, 0.15, 0.20, 0.25, 0.30, 0.35, 0.40, 0.45, 0.50),
    *(0.55, 0.60, 0.65, 0.70, 0.75, 0.80, 0.84, 0.88, 0.91, 0.94, 0.97, 0.99),
)
TOLERANCES = (0.05, 0.2, 0.5, 1.0)

BID_HISTORY = (
    Field("bid_last", "1", 1.0, 0.0, 2.0, "best rival bid last seen, as a share of that gap's profit"),
    Field("bid_fast", "1", 1.0, 0.0, 2.0, "moving average of seen bid shares, weight 0.4"),
    Field("bid_slow", "1", 1.0, 0.0, 2.0, "moving average of seen bid shares, weight 0.1"),
    Field("bid_spread", "1", 1.0, 0.0, 2.0, "moving average of absolute deviations from bid_slow, weight 0.1"),
)
RIVALS_SEEN = Field("rivals_seen", "count", 4.0, 0.0, 4.0, "moving average of rival transactions seen per gap, weight 0.2")
