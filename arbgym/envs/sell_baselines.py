"""Baselines of ArbSell-v0: holding, selling at once, the stops traders use, the same with searched thresholds, and hindsight.

``wait``        holds to the horizon.
``sell_now``    sells at the first step.
``rule``        take profit at +100 %, stop at -50 %, trailing stop 20 % below the highest price.
``atr_stop``    sells once the price is 2.5 average true ranges below its highest (a chandelier exit).
``tuned_rule``  take profit, stop, trailing stop, ATR multiple and longest holding, searched on the tuning seeds (or the training
                span) by coordinate search from several starts; each may be switched off.
``oracle``      hindsight: one sale at the moment that brings most, net of fee, impact, gas and failures.

None sees anything but the observation (the oracle apart), and none is fitted on held-out seeds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.envs.sell import ALL, HOLD, OBSERVATION, ORACLE
from arbgym.evaluation import Decide, Floats, Simulator

_COLUMN = {entry.name: k for k, entry in enumerate(OBSERVATION)}
_SCALE = np.array([entry.scale for entry in OBSERVATION])


def raw(observations: NDArray[np.float32], name: str) -> Floats:
    """A field in its own unit (clipped fields come back clipped)."""
    column = _COLUMN[name]
    values: Floats = observations[:, column].astype(np.float64) * _SCALE[column]
    return values


@dataclass(frozen=True)
class Fixed:
    """The same decision at every step."""

    share: float

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""
        return lambda observations: np.full((len(observations), 1), self.share)


@dataclass(frozen=True)
class Stops:
    """Sells everything when one of its conditions holds; inf (or 1 for ``longest_share``) switches one off."""

    take_profit: float = 1.0  # net return
    stop_loss: float = 0.5  # net loss
    trailing: float = 0.2  # share of the highest price
    atr_multiple: float = np.inf
    longest_share: float = 1.0  # of the horizon

    def fit(self, simulator: Simulator) -> Decide:
        """Nothing to fit."""
        return self.decide

    def fires(self, observations: NDArray[np.float32]) -> dict[str, NDArray[np.bool_]]:
        """Which condition holds in each row (N,): take_profit, stop_loss, trailing, longest."""
        net, drawdown = raw(observations, "net_return"), raw(observations, "drawdown")
        fallen = 1.0 - np.exp(-drawdown)
        atr = np.maximum(raw(observations, "atr"), 1e-12)
        return {
            "take_profit": net >= self.take_profit,
            "stop_loss": net <= -self.stop_loss,
            "trailing": (fallen >= self.trailing) | (drawdown >= self.atr_multiple * atr),
            "longest": 1.0 - raw(observations, "time_left") >= self.longest_share,
        }

    def decide(self, observations: NDArray[np.float32]) -> Floats:
        """Decisions (N, 1): sell all where any condition holds."""
        sells = np.any(list(self.fires(observations).values()), axis=0)
        return np.where(sells, ALL, HOLD)[:, None]


_OFF = Stops(np.inf, np.inf, np.inf, np.inf, 1.0)
_GRIDS: dict[str, tuple[float, ...]] = {
    "trailing": (0.03, 0.05, 0.08, 0.12, 0.16, 0.2, 0.25, 0.3, 0.4, 0.5, 0.65, np.inf),
    "take_profit": (0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0, 1.5, 2.0, 3.0, 5.0, np.inf),
    "stop_loss": (0.03, 0.06, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.7, np.inf),
    "atr_multiple": (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0, 6.0, 8.0, np.inf),
    "longest_share": (0.005, 0.02, 0.05, 0.1, 0.2, 0.35, 0.5, 0.75, 1.0),
}


@dataclass(frozen=True)
class TunedRule:
    """``Stops`` with every threshold searched."""

    def search(self, simulator: Simulator) -> Stops:
        """The best thresholds found: two rounds of coordinate search from each start."""
        best, chosen = -np.inf, Stops()
        for start in (Stops(), Stops(np.inf, np.inf, np.inf, 2.5, 1.0), _OFF):
            stops, profit = start, _mean_return(simulator, start)
            for _ in range(2):
                for name, grid in _GRIDS.items():
                    for value in grid:
                        candidate = replace(stops, **{name: value})
                        if candidate == stops:
                            continue
                        found = _mean_return(simulator, candidate)
                        if found > profit:
                            stops, profit = candidate, found
            if profit > best:
                best, chosen = profit, stops
        return chosen

    def fit(self, simulator: Simulator) -> Decide:
        """Search on the simulator's seeds."""
        return self.search(simulator).decide


def _mean_return(simulator: Simulator, stops: Stops) -> float:
    played = simulator.run(stops.decide).sums
    return float((played["net_profit"] / played["entry_quote"]).mean())


BASELINES: dict[str, Any] = {
    "wait": Fixed(HOLD),
    "sell_now": Fixed(ALL),
    "rule": Stops(),
    "atr_stop": Stops(np.inf, np.inf, np.inf, 2.5, 1.0),
    "tuned_rule": TunedRule(),
    "oracle": Fixed(ORACLE),
}
