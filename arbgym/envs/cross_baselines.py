"""Baselines of ArbCross-v0: waiting, the no-trade band, two tuned rules, a bid table, and hindsight.

``wait``          never trades.
``rule``          the no-trade band at the fees: trades the better pool back to where its last unit pays the pool's and the
                  exchange's fee, hedges all of it at once, offers half the gain as tip. What people run today.
``tuned_band``    the same with the band's width, tip share, least profit after gas and the balance that calls for a transfer
                  searched on the tuning seeds (coordinate search over grids).
``tuned_rule``    inventory-aware: judges gaps from a reservation price that leans against its exposure (Avellaneda and Stoikov
                  2008), hedges beyond an exposure limit only, every number searched.
``history_rule``  the tuned rule with the tip looked up from moving averages of past rival bids (``arbgym.envs.bid_table``).
``oracle``        hindsight: knows the block's trades, rivals and inclusion, pays the least bid that wins, hedges at the mid price
                  for nothing and never lacks inventory; greedy per block, and blind to coming prices.

None sees anything but the observation (the oracle apart), and none is fitted on held-out seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.envs.bid_table import BidTable, Lookup
from arbgym.envs.common import BID_SHARES
from arbgym.envs.cross import ACTION, BUY, FLASH_ARB, HOLD, OBSERVATION, ORACLE, REBALANCE, SELL
from arbgym.evaluation import Decide, Floats, Simulator

_COLUMN = {entry.name: k for k, entry in enumerate(OBSERVATION)}
_SCALE = np.array([entry.scale for entry in OBSERVATION])
_TOLERANCE = 0.2


def raw(observations: NDArray[np.float32], name: str) -> Floats:
    """A field in its own unit (clipped fields come back clipped)."""
    column = _COLUMN[name]
    values: Floats = observations[:, column].astype(np.float64) * _SCALE[column]
    return values


class Wait:
    """Never trades: net profit 0."""

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""
        return lambda observations: np.zeros((len(observations), len(ACTION)))


class Oracle:
    """Hindsight, computed in the environment's kernel."""

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""

        def decide(observations: NDArray[np.float32]) -> Floats:
            decisions = np.zeros((len(observations), len(ACTION)))
            decisions[:, 0] = ORACLE
            return decisions

        return decide


@dataclass(frozen=True)
class Band:
    """The numbers of every rule here; the defaults are the rule of thumb."""

    width: float = 1.0  # of the band beyond the pool's fee, in exchange costs: how much of the gap is left open
    tip_share: float = 0.5
    least_profit_share: float = 0.0  # of the predicted profit, left after gas and tip
    transfer_below: float = 0.0  # rebalance when a balance is below this share of its start
    lean_bps: float = 0.0  # shift of the reservation price per exposure of all starting base
    exposure_limit: float = 0.0  # hedge what is beyond, as a share of all starting base

    def decide(self, observations: NDArray[np.float32], tip: Any = None) -> Floats:
        """Decisions (N, 5): the side that pays most after costs, sized to the band, or a transfer, or nothing."""
        share = self.tip_share if tip is None else tip
        cost = raw(observations, "exchange_cost") * self.width
        exposure = raw(observations, "exposure")
        lean = self.lean_bps * exposure
        hedging = np.abs(exposure) > self.exposure_limit if self.exposure_limit > 0.0 else np.ones(len(cost), dtype=np.bool_)
        profits, sizes = [], []
        for side, sign in (("buy", -1.0), ("sell", 1.0)):
            edge = np.maximum(raw(observations, f"edge_{side}"), 1e-9)
            left = np.clip((cost - sign * lean) / edge, 0.0, 1.0)  # share of the gap that stays open
            sizes.append(1.0 - left)
            profits.append(np.expm1(raw(observations, f"log_profit_{side}")) * (1.0 - left) ** 2)
        buying = profits[0] > profits[1]
        profit, size = np.maximum(profits[0], profits[1]), np.where(buying, sizes[0], sizes[1])
        cycle = np.expm1(raw(observations, "log_profit_cycle"))
        best = np.maximum.reduce([np.expm1(raw(observations, f"log_profit_{side}")) for side in ("buy", "sell", "cycle")])
        gas = raw(observations, "gas_share") * best
        circular = cycle > profit
        profit, size = np.maximum(profit, cycle), np.where(circular, 1.0, size)
        fires = (profit > 0.0) & (profit * (1.0 - share - self.least_profit_share) > gas)
        act = np.where(fires, np.where(circular, FLASH_ARB, np.where(buying, BUY, SELL)), HOLD)
        balances = [raw(observations, name) for name in ("chain_base", "chain_quote", "exchange_base", "exchange_quote")]
        short = (np.minimum.reduce(balances) < self.transfer_below) & (raw(observations, "transit_left") <= 0.0)
        act = np.where(short & ~fires, REBALANCE, act)
        decisions = np.zeros((len(observations), len(ACTION)))
        decisions[:, 0], decisions[:, 1], decisions[:, 2] = act, size, share
        decisions[:, 3], decisions[:, 4] = _TOLERANCE, hedging
        return decisions


class Rule:
    """The no-trade band at the fees, as it stands."""

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""
        return Band().decide


_BAND_GRIDS: dict[str, tuple[float, ...]] = {
    "tip_share": BID_SHARES,
    "width": (0.0, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0),
    "least_profit_share": (-0.2, -0.1, 0.0, 0.05, 0.1, 0.2, 0.3, 0.4, 0.5),
    "transfer_below": (0.0, 0.05, 0.1, 0.2, 0.3),
}
_INVENTORY_GRIDS = {
    "exposure_limit": (0.0, 0.02, 0.05, 0.1, 0.2, 0.4, 0.6, 1.0),
    "lean_bps": (0.0, 1.0, 2.0, 5.0, 10.0, 20.0),
    **_BAND_GRIDS,
}


def search(simulator: Simulator, band: Band, grids: dict[str, tuple[float, ...]], tip: Lookup | None = None) -> Band:
    """Two rounds of coordinate search from ``band`` on the simulator's seeds, by what the reward counts.

    That is net profit less the inventory penalty, so the rules and a learner seek the same; common random numbers make the
    comparisons sharp.
    """

    def score(candidate: Band) -> float:
        def decide(observations: NDArray[np.float32]) -> Floats:
            return candidate.decide(observations, None if tip is None else tip(observations))

        sums = simulator.run(decide).sums
        return float((sums["net_profit"] - sums["inventory_penalty"]).mean())

    best = score(band)
    for _ in range(2):
        for name, grid in grids.items():
            if name == "tip_share" and tip is not None:
                continue
            for value in grid:
                candidate = replace(band, **{name: value})
                if candidate == band:
                    continue
                found = score(candidate)
                if found > best:
                    band, best = candidate, found
    return band


class TunedBand:
    """The no-trade band with its numbers searched; hedges everything at once."""

    def fit(self, simulator: Simulator) -> Decide:
        """Search on the simulator's seeds."""
        return search(simulator, Band(), _BAND_GRIDS).decide


class TunedRule:
    """The inventory-aware band with every number searched, from the tuned band on: never worse than it on the tuning seeds."""

    def fit(self, simulator: Simulator) -> Decide:
        """Search on the simulator's seeds."""
        return self.numbers(simulator).decide

    def numbers(self, simulator: Simulator) -> Band:
        """What the search finds."""
        return search(simulator, search(simulator, Band(), _BAND_GRIDS), _INVENTORY_GRIDS)


class HistoryRule:
    """The tuned rule with tips from a table over quantile cells of past rival bids."""

    def fit(self, simulator: Simulator) -> Decide:
        """Measure each cell's profit per tip with random tips, then search the other numbers again."""
        band = TunedRule().numbers(simulator)
        eager = replace(band, tip_share=0.0, least_profit_share=0.0)  # tries whatever pays for its gas

        def trial(observations: NDArray[np.float32], tips: Floats) -> Floats:
            decisions = eager.decide(observations)
            decisions[:, 2] = tips
            return decisions

        table = BidTable(BID_SHARES).fit(simulator, trial, lambda rows: (raw(rows, "bid_fast"), raw(rows, "bid_slow")))
        if table is None:  # the tuning span offers nothing to bid for: no history to learn from
            return band.decide
        chosen = search(simulator, band, _INVENTORY_GRIDS, table)
        return lambda observations: chosen.decide(observations, table(observations))


BASELINES: dict[str, Any] = {
    "wait": Wait(),
    "rule": Rule(),
    "tuned_band": TunedBand(),
    "tuned_rule": TunedRule(),
    "history_rule": HistoryRule(),
    "oracle": Oracle(),
}
