"""Play a policy on entries, one position each, and say of every trade what it brought and why it ended."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import Decide, Simulator, Totals
from experiments.trade_metrics import EXITS, Floats, Ints, Trades

_MODEL, _STOP, _PROFIT, _TIMEOUT, _RUG = range(len(EXITS))
_TOGETHER = 4_096  # episodes that are played at a time: what bounds the memory


def play(simulator: Simulator, decide: Decide) -> tuple[Totals, Floats]:
    """Every episode's sums, and the shares of its position that left by each of ``EXITS``, float64 (episodes, 5).

    A rule that can say which of its conditions hold (``fires``: ``arbgym.envs.sell_baselines.Stops``) has its sales told apart:
    take profit, else stop (stop loss, trailing), else its longest holding time. Any other sale is the policy's own decision.
    """
    parts = []
    for first in range(0, simulator.episodes, _TOGETHER):
        count = min(_TOGETHER, simulator.episodes - first)
        parts.append(_play(replace(simulator, seed=simulator.seed + first, episodes=count), decide))
    sums = {name: np.concatenate([totals.sums[name] for totals, _ in parts]) for name in parts[0][0].sums}
    lengths = np.concatenate([totals.lengths for totals, _ in parts])
    return Totals(sums, lengths), np.concatenate([exits for _, exits in parts])


def trades_of(totals: Totals, exits: Floats, oracle: Totals, entry: Ints, time_s: Floats, token: Ints, fold: int) -> Trades:
    """Trades, one for each episode, in order of entry; ``oracle`` are the sums of hindsight on the same episodes."""
    sums = totals.sums
    order = np.lexsort((entry, time_s))
    return Trades(
        returns=(sums["net_profit"] / sums["entry_quote"])[order],
        profit_quote=sums["net_profit"][order],
        oracle_profit_quote=oracle.sums["net_profit"][order],
        holding_s=sums["holding_s"][order],
        exits=exits[order],
        entry=entry[order],
        time_s=time_s[order],
        token=token[order],
        bucket=np.rint(sums["bucket"] / totals.lengths).astype(np.int64)[order],
        fold=np.full(len(entry), fold, dtype=np.int64),
    )


def _play(simulator: Simulator, decide: Decide) -> tuple[Totals, Floats]:
    fires = getattr(getattr(decide, "__self__", None), "fires", None)
    reasons: list[NDArray[np.int64]] = []
    exits = np.zeros((max(simulator.episodes, 2), len(EXITS)))

    def before(env: NativeVectorEnv) -> None:
        reason = np.full(env.num_envs, _MODEL)
        if fires is not None:
            holds = fires(env.observations)
            reason[holds["longest"]] = _TIMEOUT
            reason[holds["stop_loss"] | holds["trailing"]] = _STOP
            reason[holds["take_profit"]] = _PROFIT
        reasons[:] = [reason]

    def each(env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        rows = np.flatnonzero(alive)
        exits[rows, reasons[0][rows]] += env.info["exit_policy"][rows]
        exits[rows, _TIMEOUT] += env.info["exit_timeout"][rows]
        exits[rows, _RUG] += env.info["exit_rug"][rows]

    totals = simulator.run(decide, each, before)
    return totals, exits[: simulator.episodes]
