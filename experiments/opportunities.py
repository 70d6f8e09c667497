"""What a policy saw and did in held-out worlds, as rows of the table ``opportunities`` in a store.

The same table, by the same writer, as a live runner's: what was simulated and what was traded are compared with one query.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import arbgym
from arbgym.data.opportunities import OpportunityWriter
from arbgym.data.store import Store, Written
from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import EncodedPolicy, Simulator, decide_with
from experiments.config import EvaluationConfig, RunConfig
from experiments.worlds import held_out_arguments

_SIMULATION_STARTS = datetime(2010, 1, 1, tzinfo=UTC).timestamp()  # simulated episodes follow one another from here on


def record_opportunities(
    config: RunConfig[Any, Any], policy: EncodedPolicy, evaluation: EvaluationConfig, path: Path, source: str
) -> Written:
    """Play the held-out episodes and write each block with an opportunity or an attempt into the store at ``path``.

    Writing the same source again adds nothing. Times are the tape's, or the blocks' of episodes that follow one another from
    2010-01-01 on. Raises ValueError for an environment without opportunities, TapeError for a store that is refused.
    """
    if config.definition.opportunity is None:
        raise ValueError(f"{config.environment}: has no opportunities to record")
    simulator = Simulator(
        arbgym.ENVIRONMENTS[config.environment], held_out_arguments(config), evaluation.seed, evaluation.episodes
    )
    with OpportunityWriter(Store(path), source=source) as writer:
        recorder = _Recorder(writer, simulator.arguments)
        simulator.run(decide_with(policy, simulator.make()), recorder.after, recorder.before)
    return writer.written


class _Recorder:
    """Holds what was seen before a step until it is known what came of it."""

    def __init__(self, writer: OpportunityWriter, arguments: Mapping[str, Any]) -> None:
        self._writer, self._tape = writer, arguments.get("tape")
        self._seen: dict[str, Any] = {}
        self._sequence = 0

    def before(self, env: NativeVectorEnv) -> None:
        """Keep what the decision is about."""
        assert env.definition.opportunity is not None
        self._seen = dict(env.definition.opportunity(env)) | {"timestamp": self._times(env)}

    def after(self, env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        """Write the rows in which there was something to decide, numbered so that playing again writes the same."""
        info = env.info
        rows = np.flatnonzero(alive & ((info["opportunity"] > 0.0) | (info["attempted"] > 0.0)))
        if not len(rows):
            return
        included = info["included"][rows] > 0.0
        native_price = self._seen["cex_price"][rows] * env.config.chain.native_price_ratio
        expected = info["predicted_profit"][rows]
        realised = (info["gross_profit"] - info["pool_fee"] - info["loan_fee"])[rows]
        notional = info["notional"][rows]
        slippage = np.divide(expected - realised, notional, out=np.zeros(len(rows)), where=notional > 0.0)
        net = (info["net_profit"] + info.get("inventory_loss", np.zeros(env.num_envs)))[rows]
        tape = self._tape
        self._writer.append(
            {name: column[rows] for name, column in self._seen.items()}
            | {
                "symbol": f"{tape.base}/{tape.quote}" if tape is not None else "WETH/USDC",
                "chain": env.config.chain.name,
                "actual_slippage_bps": [cost if done else None for cost, done in zip(slippage * 1e4, included, strict=True)],
                "trade_size_quote": notional,
                "hops": self._seen["hops"][rows].astype(np.int64),
                "executed": included,
                "profitable": net > 0.0,
                "profit_quote": net,
                "profit_eth": net / native_price,
                "sequence": np.arange(self._sequence, self._sequence + len(rows)),
            }
        )
        self._sequence += len(rows)

    def _times(self, env: NativeVectorEnv) -> NDArray[np.int64]:
        """When the decision is taken, microseconds since 1970."""
        state = env.core.batch.state
        if self._tape is not None:
            recorded: NDArray[np.int64] = self._tape.timestamps[state["tape_row"]] * 1_000_000
            return recorded
        blocks = np.arange(env.num_envs) * env.config.episode_blocks + state["block"]
        simulated: NDArray[np.int64] = (1e6 * (_SIMULATION_STARTS + blocks * env.config.chain.block_time_s)).astype(np.int64)
        return simulated
