"""The environment's own kernels on a chain's blocks: a live market is a replay whose tape is still being written.

Each block becomes one row of a tape (``tape_row``: the very numbers that a tape made from a recording holds), and
``arbgym.engine.Follower`` goes on to it with the kernels that a replay is stepped with. So what the policy sees live is what it
sees in ``gym.make("ArbFlash-v0", feed="replay", tape=...)`` on the same blocks, bit for bit.

Observed is what a tape can say: a concentrated pool by its price and its liquidity in range. What is signed later is sized on the
exact pools, ticks and all (``arbgym.live.decision``).
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import TypeAdapter, ValidationError

from arbgym.engine import Definition, Follower
from arbgym.live.prices import liquidity, mid_price
from arbgym.live.terms import ChainView, LiveError, WatchedPool
from arbgym.market.gas import next_base_fee
from arbgym.market.lender import FLASH_SWAPS
from arbgym.market.tape import LEAST_ROWS, POOLS, Tape, TapePool
from arbgym.policy import Policy, PolicyError

REORG_DEPTH = 12  # blocks that can be taken back
_LONGEST_GAP = 64  # block times without a block after which the history starts anew
_SENTINEL_PRICE = 1.0
_BELIEVED = 2.0  # an outside price that is off every pool's by more than this factor is a mistake of its source


class NotObservable(LiveError):
    """A block that makes no observation: no reference price yet, or a pool without price or liquidity."""


Told = Mapping[str, float]
"""What became of the own transaction in a block: any of won, dropped, reverted, own_bid, revert_cost (quote)."""


def believed(view: ChainView, watched: Sequence[WatchedPool]) -> ChainView:
    """The view, without an outside price that cannot be: not a finite number, or more than a factor of 2 off every pool's."""
    if view.reference is None:
        return view
    outside = view.reference.price
    for pool, spec in zip(view.pools, watched, strict=True):
        price = mid_price(pool, spec)
        if 0.0 < price < math.inf and price / _BELIEVED <= outside <= price * _BELIEVED:
            return view
    return replace(view, reference=None)


def tape_row(view: ChainView, watched: Sequence[WatchedPool], elasticity: int, denominator: int) -> NDArray[np.float64]:
    """A block as one row (2 + 3 K) of a tape; the base fee is the next block's, which its parent decides (EIP-1559).

    Raises NotObservable without a reference price, and for a pool without price or liquidity.
    """
    if view.reference is None:
        raise NotObservable(f"block {view.head.number}: no reference price; accepted is one seen at its source")
    row = np.zeros(POOLS + 3 * len(watched))
    head = view.head
    row[0] = view.reference.price
    row[1] = next_base_fee(head.base_fee_wei, head.gas_used, head.gas_limit // elasticity, denominator) * 1e-9
    for k, (pool, spec) in enumerate(zip(view.pools, watched, strict=True)):
        price, held = mid_price(pool, spec), liquidity(pool, spec)
        if not (math.isfinite(price) and price > 0.0 and held > 0.0):
            raise NotObservable(
                f"block {head.number}, pool {spec.name}: price {price}, liquidity {held}; accepted are positive numbers"
            )
        row[POOLS + 3 * k :][:3] = price, held, view.flow_base[k]
    return row


def tape_pools(watched: Sequence[WatchedPool]) -> tuple[TapePool, ...]:
    """What a tape says of the watched pools."""
    return tuple(TapePool(pool.name, pool.kind, float(pool.fee_ppm)) for pool in watched)


@cache
def _config_reader(definition: Definition) -> TypeAdapter[Any]:
    return TypeAdapter(type(definition.configure(definition.presets[0])))


def live_config(definition: Definition, environment: Mapping[str, Any], changes: Mapping[str, Any]) -> Any:
    """The configuration in a manifest's section ``environment``, with lenders that open and close by the chain alone, and with
    ``changes`` to its ``Chain``.

    Raises PolicyError for one that the environment would not accept.
    """
    try:
        config = _config_reader(definition).validate_python(dict(environment["config"]))
    except (ValidationError, ValueError, ArithmeticError) as error:
        raise PolicyError(f"manifest.json: environment.config: {error}") from error
    return replace(config, lender_close_probability=0.0, chain=replace(config.chain, **changes))


def _replay_world(definition: Definition, config: Any, watched: Sequence[WatchedPool], rows: NDArray[np.float64]) -> Any:
    """The world of a replay on the watched pools that reads its tape from ``rows`` (2, 2 + 3 K)."""
    steps = np.arange(LEAST_ROWS, dtype=np.int64)
    blank = np.full((LEAST_ROWS, rows.shape[1]), _SENTINEL_PRICE)
    blank[:, POOLS + 2 :: 3] = 0.0
    tape = Tape.from_rows(tape_pools(watched), steps, blank, 1)
    shown = rows.view()
    shown.flags.writeable = False
    return definition.build_world(config, tape)._replace(tape=shown)


class Observer:
    """Observations of a chain. Shapes: observation float32 (1, D), masks bool (1, L).

    ``advance`` takes each block once, in order, and returns the observation; after a reorganisation it goes back to the fork by
    itself (``ChainView.reorg_depth``) and takes the blocks that replaced the others. A session, as an episode in the environment,
    has ``episode_blocks`` blocks; the next one starts on its last.

    ``lenders`` names those of ``lenders_raw``; flash swaps need no name, others are closed. ``changes`` are the chain's own facts
    (block time, the coin's price) in the place of the policy's configuration.
    """

    def __init__(
        self,
        policy: Policy,
        watched: Sequence[WatchedPool],
        lenders: Sequence[str] = (),
        changes: Mapping[str, Any] | None = None,
    ) -> None:
        definition = policy.definition
        self.config = live_config(definition, policy.manifest["environment"], changes or {})
        self.watched = tuple(watched)
        self._rows = np.zeros((2, POOLS + 3 * len(watched)))
        try:
            world = _replay_world(definition, self.config, watched, self._rows)
        except (ValueError, ArithmeticError) as error:
            raise PolicyError(f"manifest.json: environment.config: {error}") from error
        self.follower = Follower(definition, world, policy.encoding)
        self._told = {name: place for place, name in enumerate(definition.told)}
        self._limits = np.array([lender.limit_quote for lender in self.config.lenders])
        self._open = {lender.name for lender in FLASH_SWAPS}
        self._holds = {name: place for place, name in enumerate(lenders)}
        self._earlier: deque[tuple[int, bytes, NDArray[np.float64], int]] = deque(maxlen=REORG_DEPTH + 2)
        self._time: int | None = None
        self._ends = np.array([f.high if f.high > 1.0 else np.inf for f in definition.observation], dtype=np.float32)

    @property
    def observed(self) -> bool:
        """A block was observed: until then the state holds no price."""
        return self._time is not None

    @property
    def state(self) -> Any:
        """The environment's state record."""
        return self.follower.state[0]

    @property
    def record(self) -> Any:
        """The environment's configuration record."""
        return self.follower.world.config[0]

    def advance(self, view: ChainView, told: Told | None = None) -> NDArray[np.float32]:
        """The observation at the end of a block. ``told`` says what became of what was sent for it."""
        if view.reorg_depth:
            self._go_back(view.head.number - 1)
        chain = self.config.chain
        row = tape_row(view, self.watched, chain.elasticity, chain.base_fee_denominator)
        blocks = 1.0 if self._time is None else (view.head.timestamp - self._time) / chain.block_time_s
        if self._time is None or blocks > _LONGEST_GAP:
            self._start(row, view)
        else:
            missed = round(blocks) - 1 if chain.block_time_s >= 1.0 else 0  # clocks of faster chains tell whole seconds only
            for _ in range(missed):  # slots without a block: nothing traded, nothing was told
                self._go_on(self._rows[1].copy(), view, {})
            self._go_on(row, view, told or {})
        self._time = view.head.timestamp
        self._earlier.append((view.head.number, self.follower.state.tobytes(), self._rows.copy(), self._time))
        return self.follower.observations

    def clipped(self) -> int:
        """How many fields of the newest observation stand at the end of a range that is meant to hold more than a share."""
        return int((self.follower.observations[0] >= self._ends).sum())

    def _start(self, row: NDArray[np.float64], view: ChainView) -> None:
        self._rows[:] = row
        self._tell(view, {})
        self.follower.go_on(starting=True)

    def _go_on(self, row: NDArray[np.float64], view: ChainView, told: Told) -> None:
        self._rows[0] = self._rows[1]
        self._rows[1] = row
        self._tell(view, told)
        self.follower.go_on()
        if self.state["block"] >= self.config.episode_blocks or self.state["revert_spent"] > self.config.revert_budget_quote:
            self._start(row, view)

    def _go_back(self, number: int) -> None:
        """The state after block ``number``; from scratch where that is further back than is remembered."""
        while self._earlier and self._earlier[-1][0] > number:
            self._earlier.pop()
        if self._earlier:
            _, state, rows, self._time = self._earlier[-1]
            self.follower.state[:] = np.frombuffer(state, dtype=self.follower.state.dtype)
            self._rows[:] = rows
        else:
            self._time = None

    def _tell(self, view: ChainView, told: Told) -> None:
        values = self.follower.told[0]
        values[:] = 0.0
        for name, value in told.items():
            values[self._told[name]] = value
        if view.rivals:
            shares = [
                min(trade.tip_quote / trade.profit_quote, 2.0) if trade.profit_quote > 0.0 else 0.0 for trade in view.rivals
            ]
            values[self._told["rival_bid_share"]] = max(shares)
            values[self._told["rival_count"]] = len(shares)
        unit = 10.0 ** self.watched[0].quote_decimals
        for k, lender in enumerate(self.config.lenders):
            held = self._limits[k] if lender.name in self._open else 0.0
            if lender.name in self._holds:
                held = view.lenders_raw[self._holds[lender.name]] / unit
            values[self._told[f"lender_{k}"]] = min(held, self._limits[k])
