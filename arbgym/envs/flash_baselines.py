"""Baselines of ArbFlash-v0: waiting, the practitioner's rule, two tuned rules, and hindsight.

``wait``          never trades.
``rule``          edge above 50 bps and base fee below 100 gwei; a fixed size of 10 base tokens; half the gain as tip;
private relay.
                  What people run today.
``tuned_rule``    closed-form size; bid share, least profit after gas, base-fee ceiling and channel searched on the
tuning seeds by
                  coordinate search over grids.
``history_rule``  the tuned rule with the bid looked up from moving averages of past rival bids: the bid with the best
mean profit in
                  each cell of (bid_fast, bid_slow), measured with random bids on the tuning seeds.
``oracle``        hindsight: knows the next block's trades, rivals and inclusion, pays the least bid that wins, and
picks size, route,
                  lender and channel; greedy per block.

None sees anything but the observation (the oracle apart), and none is fitted on held-out seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.envs.bid_table import BidTable
from arbgym.envs.common import BID_SHARES
from arbgym.envs.flash import ACTION, BEST, OBSERVATION, ORACLE, PRIVATE, PUBLIC
from arbgym.evaluation import Decide, Floats, Simulator

_COLUMN = {entry.name: k for k, entry in enumerate(OBSERVATION)}
_SCALE = np.array([entry.scale for entry in OBSERVATION])
_COMPONENTS = len(ACTION)


def raw(observations: NDArray[np.float32], name: str) -> Floats:
    """A field in its own unit (clipped fields come back clipped)."""
    column = _COLUMN[name]
    values: Floats = observations[:, column].astype(np.float64) * _SCALE[column]
    return values


def _decisions(count: int, route: Any, bid_share: Any, channel: float, size_share: Any = 1.0) -> Floats:
    decisions = np.zeros((count, _COMPONENTS))
    decisions[:, 0], decisions[:, 1], decisions[:, 2] = route, size_share, bid_share
    decisions[:, 3], decisions[:, 5] = 0.2, channel
    return decisions


class Wait:
    """Never trades: net profit 0."""

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""
        return lambda observations: np.zeros((len(observations), _COMPONENTS))


class Oracle:
    """Hindsight, computed in the environment's kernel."""

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""
        return lambda observations: _decisions(len(observations), ORACLE, 0.0, PRIVATE)


@dataclass(frozen=True)
class Rule:
    """Fixed thresholds, fixed size."""

    edge_bps: float = 50.0
    base_fee_gwei: float = 100.0
    size_base: float = 10.0
    bid_share: float = 0.5

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit; the size in quote is taken at the configured initial price."""
        size_quote = self.size_base * simulator.make().config.initial_price_quote

        def decide(observations: NDArray[np.float32]) -> Floats:
            optimum = np.maximum(np.expm1(raw(observations, "log_notional")), 1e-9)
            fires = (raw(observations, "edge") > self.edge_bps) & (raw(observations, "log_base_fee") < np.log(self.base_fee_gwei))
            return _decisions(len(observations), np.where(fires, BEST, 0.0), self.bid_share, PRIVATE, size_quote / optimum)

        return decide


@dataclass(frozen=True)
class _Numbers:
    """What the tuned rule searches."""

    bid_share: float = 0.5
    least_profit_share: float = 0.0  # of the predicted profit, left after gas and tip
    base_fee_ceiling_gwei: float = np.inf
    channel: float = PRIVATE


_GRIDS: dict[str, tuple[float, ...]] = {
    "bid_share": BID_SHARES,
    "least_profit_share": (-0.2, -0.1, 0.0, 0.05, 0.1, 0.2, 0.3),
    "base_fee_ceiling_gwei": (0.5, 0.8, 1.0, 1.25, 2.0, np.inf),  # multiples of the configured base fee
    "channel": (PRIVATE, PUBLIC),
}


def _tuned(numbers: _Numbers, bid: Any = None) -> Decide:
    def decide(observations: NDArray[np.float32]) -> Floats:
        share = numbers.bid_share if bid is None else bid(observations)
        left = 1.0 - raw(observations, "gas_share") - share
        fires = (
            (raw(observations, "log_profit") > 0.0)
            & (left > numbers.least_profit_share)
            & (raw(observations, "log_base_fee") < np.log(numbers.base_fee_ceiling_gwei))
        )
        return _decisions(len(observations), np.where(fires, BEST, 0.0), share, numbers.channel)

    return decide


class TunedRule:
    """Closed-form size, one bid share, thresholds; two rounds of coordinate search on the tuning seeds."""

    def search(self, simulator: Simulator, bid: Any = None) -> _Numbers:
        """The best numbers found; common random numbers make the comparisons sharp."""
        typical = simulator.make().config.chain.base_fee_gwei
        numbers, best = _Numbers(), -np.inf
        for _ in range(2):
            for name, grid in _GRIDS.items():
                if name == "bid_share" and bid is not None:
                    continue
                for value in grid:
                    scaled = value * typical if name == "base_fee_ceiling_gwei" else value
                    candidate = replace(numbers, **{name: scaled})
                    profit = float(simulator.run(_tuned(candidate, bid)).sums["net_profit"].mean())
                    if profit > best:
                        numbers, best = candidate, profit
        return numbers

    def fit(self, simulator: Simulator) -> Decide:
        """Search on the simulator's seeds."""
        return _tuned(self.search(simulator))


class HistoryRule:
    """The tuned rule with the bid looked up from a table over past rival bids."""

    def fit(self, simulator: Simulator) -> Decide:
        """Measure each cell's profit per bid with random bids, then search the thresholds."""
        table = BidTable(BID_SHARES).fit(simulator, _eager, lambda rows: (raw(rows, "bid_fast"), raw(rows, "bid_slow")))
        if table is None:  # the tuning span offers nothing to bid for: no history to learn from
            return TunedRule().fit(simulator)
        return _tuned(TunedRule().search(simulator, table), table)


def _eager(observations: NDArray[np.float32], bids: Floats) -> Floats:
    """Tries the best route wherever it pays for its gas."""
    fires = (raw(observations, "log_profit") > 0.0) & (raw(observations, "gas_share") < 1.0)
    return _decisions(len(observations), np.where(fires, BEST, 0.0), bids, PRIVATE)


BASELINES: dict[str, Any] = {
    "wait": Wait(),
    "rule": Rule(),
    "tuned_rule": TunedRule(),
    "history_rule": HistoryRule(),
    "oracle": Oracle(),
}
