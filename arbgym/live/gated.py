"""A policy in simulated ArbFlash episodes behind the risk gate that stands before it live: the same class, an account an episode.

What an order is comes from the kernel that the simulator's own step and the live runner ask (``Definition.intend``); time is the
block's number. A refused order becomes waiting. Rules of thumb say no confidence; theirs counts as 1.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import Decide, Floats, MaskedDecide, Simulator, Totals
from arbgym.live.profiles import Limits
from arbgym.live.risk import MemoryStore, RiskGate
from arbgym.live.terms import IntentState, Order, Outcome

_START_S = 1_699_920_000.0  # a midnight, UTC
_WEI = 1e18


@dataclass(frozen=True)
class GatedPlay:
    """Each episode's sums, and how often which limit refused."""

    totals: Totals
    refused: Mapping[str, int]


class _BlockClock:
    """Time that moves by blocks."""

    def __init__(self) -> None:
        self.seconds = _START_S

    def now(self) -> float:
        """Unix seconds."""
        return self.seconds

    def monotonic(self) -> float:
        """The same: this clock never jumps."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Move on."""
        self.seconds += seconds


class _Gates:
    """One gate per environment: turns refused decisions into waiting and tells each gate how its orders ended."""

    def __init__(self, env: NativeVectorEnv, limits: Limits, equity_eth: float) -> None:
        definition, constants = env.definition, env.core.world.config[0]
        self._intend: Any = definition.intend
        self._world, self._constants = env.core.world, constants
        self._place = {name: place for place, name in enumerate(definition.intent)}
        self._channel = [choice.name for choice in definition.action].index("channel")
        self._info = {name: place for place, name in enumerate(definition.info)}
        self._intent = np.zeros(len(definition.intent))
        self._clock = _BlockClock()
        self._block_time_s = float(constants["block_time_s"])
        self._gates = [RiskGate(limits, self._clock, MemoryStore(), equity_eth) for _ in range(env.num_envs)]
        self._alive = np.ones(env.num_envs, dtype=np.bool_)
        self._sent: dict[int, tuple[Order, float]] = {}  # by row, with the coin's price in quote
        self.refused: Counter[str] = Counter()

    def allow(self, env: NativeVectorEnv, decisions: Floats) -> Floats:
        """Decisions (N, A) with the refused ones waiting."""
        allowed = decisions.copy()
        state = env.core.batch.state
        self._sent.clear()
        for row in np.flatnonzero(self._alive & (decisions[:, 0] > 0.0)):
            s = state[row]
            self._intend(self._world, s, decisions[row], self._intent)
            if not self._intent[self._place["attempting"]] or self._intent[self._place["refused"]]:
                continue  # comes to nothing by itself
            coin_quote = float(s["price"] * self._constants["native_price_ratio"])
            order = self._order(int(s["block"]), bool(decisions[row, self._channel]), coin_quote)
            gate = self._gates[row]
            gate.head(self._clock.now())
            verdict = gate.check(order)
            if verdict.allowed:
                gate.sent(order)
                self._sent[int(row)] = (order, coin_quote)
            else:
                self.refused[verdict.limit] += 1
                allowed[row] = 0.0
        return allowed

    def _order(self, block: int, public: bool, coin_quote: float) -> Order:
        c = self._constants
        quote_in, predicted, tip, gas_used, gas_price = (
            float(self._intent[self._place[name]]) for name in ("quote_in", "predicted", "tip", "gas_used", "gas_price")
        )
        gas_cost = gas_used * gas_price
        worst = c["revert_gas_share"] * (gas_cost + tip) + c["data_fee_quote"] if public or c["private_revert_pays"] else 0.0
        return Order(
            key=str(block),
            block_number=block,
            head_time_s=self._clock.now(),
            reference_time_s=self._clock.now(),
            notional_eth=quote_in / coin_quote,
            borrowed_eth=quote_in / coin_quote,
            flash=True,
            expected_profit_eth=float(predicted - gas_cost - c["data_fee_quote"] - tip) / coin_quote,
            worst_cost_eth=float(worst) / coin_quote,
            confidence=1.0,
        )

    def settle(self, env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        """After a step: how the orders ended, and the next block's time."""
        self._clock.seconds += self._block_time_s
        info, place = env.core.batch.info, self._info
        for row, (order, coin_quote) in self._sent.items():
            columns = info[row]
            state, gas, tip, profit = IntentState.DROPPED, 0.0, 0.0, 0.0
            if columns[place["included"]]:
                gas, tip = columns[place["gas_cost"]], columns[place["tip"]]
                state, profit = IntentState.MINED, columns[place["net_profit"]] + gas + tip
            elif columns[place["reverted"]]:
                state, gas = IntentState.REVERTED, columns[place["revert_cost"]]
            outcome = Outcome(
                key=order.key,
                state=state,
                block_number=order.block_number + 1,
                time_s=self._clock.now(),
                profit_raw=0,  # the gate reads the amount in the chain's coin
                gas_cost_wei=round(gas / coin_quote * _WEI),
                tip_wei=round(tip / coin_quote * _WEI),
                channel="public" if columns[place["public"]] else "private",
            )
            self._gates[row].record(outcome, float(profit / coin_quote))
        self._alive = alive & ~(env.terminated | env.truncated)


@dataclass(frozen=True)
class _MaskedBehindGates(MaskedDecide):
    """A masked policy's decisions as the gates let them through."""

    through: Callable[[Floats], Floats]

    def __call__(self, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> Floats:
        """Decisions (N, A) for observations (N, D) and masks (N, L)."""
        return self.through(super().__call__(observations, masks))


def play_gated(simulator: Simulator, decide: Decide | MaskedDecide, limits: Limits, equity_eth: float = 10.0) -> GatedPlay:
    """Play a rule or a learned policy as ``Simulator.run`` does, each episode behind a gate of its own.

    Raises ValueError for environments without pools and loans. Hindsight (the oracle) asks nobody.
    """
    env = simulator.make()
    definition, config = env.definition, env.config
    if definition.intend is None or getattr(config, "auction", "none") != "none":
        raise ValueError(f"environment = {definition.id} {config.preset}; accepted is ArbFlash-v0 with pools")
    playing: list[tuple[NativeVectorEnv, _Gates]] = []

    def before(env: NativeVectorEnv) -> None:
        if not playing:
            playing.append((env, _Gates(env, limits, equity_eth)))

    def through(decisions: Floats) -> Floats:
        env, gates = playing[0]
        return gates.allow(env, decisions)

    def each(env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        playing[0][1].settle(env, alive)

    rule: Decide | MaskedDecide
    if isinstance(decide, MaskedDecide):
        rule = _MaskedBehindGates(decide.policy, decide.choices, decide.encoding, through)
    else:
        unmasked = decide

        def rule(observations: NDArray[np.float32]) -> Floats:
            return through(unmasked(observations))

    totals = simulator.run(rule, each=each, before=before)
    return GatedPlay(totals, dict(playing[0][1].refused))
