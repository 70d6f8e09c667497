"""From a wanted trade to the transaction that would make it: sized and predicted in the contracts' own integers."""

from __future__ import annotations

import hashlib
import json
import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from arbgym.amm import ConcentratedPool, PoolError, SwapResult
from arbgym.amm.exact_route import size_two_pools_exact
from arbgym.live.decision import Decision
from arbgym.live.executor import LEAST_GAS, Leg, Route, encode
from arbgym.live.observer import Observer
from arbgym.live.terms import ChainView, Channel, Order, Plan, PoolModel, WatchedPool
from arbgym.market.gas import next_base_fee
from arbgym.market.lender import AAVE, FLASH_SWAPS, aave_premium_raw

_NEIGHBOURS = 2  # integer sizes tried on either side of the closed-form optimum: profit is flat there
_LIFE_BLOCKS = {"private": 1, "public": 2}  # a bundle names its block; a public transaction may be a block late
_BASE_FEE_HEADROOM = 1.27  # two full blocks raise the base fee by 26.6 %
_FRESH_SLOTS = 1.5  # gas over the environment's estimate where ticks and holders are met for the first time
_UNREFUNDED = 1.25  # gas needed over gas used: up to a fifth of it is given back at the end (EIP-3529)
# A plan's price stands while its gas is as near as this to what it was priced by (shares). Of a route it mostly moves by less.
_SAME_GAS = 0.05
_CALLDATA_GAS = 0.005  # what other amounts in the same calldata may change
WEI = 1e18
_FLASH_SWAPS = frozenset(lender.name for lender in FLASH_SWAPS)


@dataclass(frozen=True, slots=True)
class Cycle:
    """A two-leg cycle in raw units of the quote token, exact for the pools it was computed on."""

    amount_in: int
    amount_out: int
    loan_fee: int
    ticks_crossed: int

    @property
    def profit(self) -> int:
        """After pool and loan fees, before gas and tip."""
        return self.amount_out - self.amount_in - self.loan_fee


def loan_fee_raw(lender: str, fee_bps: float, amount: int) -> int:
    """A flash loan's fee in raw units: Aave's premium rounds half up, others round up."""
    if lender == AAVE.name:
        return aave_premium_raw(amount, round(fee_bps))
    return -(-amount * round(fee_bps * 100.0) // 1_000_000)


def exact_cycle(
    buy: PoolModel, sell: PoolModel, *, base_is_token0: bool, size_share: float, most_in: int, lender: str, fee_bps: float
) -> Cycle | None:
    """``size_share`` of the best size on the exact pools, at most ``most_in``; None where no size pays."""
    best = size_two_pools_exact(buy, sell, token0_is_bought=base_is_token0, neighbours=_NEIGHBOURS)
    if best.amount == 0:
        return None
    try:
        if isinstance(buy, ConcentratedPool):
            cost = buy.quote(amount_specified=-best.amount, zero_for_one=not base_is_token0).amount_in
        else:
            cost = buy.quote(amount_out=best.amount, zero_for_one=not base_is_token0).amount_in
        amount_in = min(round(cost * size_share), most_in)
        if amount_in <= 0:
            return None
        bought = _pay(buy, amount_in, not base_is_token0)
        sold = _pay(sell, bought.amount_out, base_is_token0)
        crossed = bought.ticks_crossed + sold.ticks_crossed
        return Cycle(amount_in, sold.amount_out, loan_fee_raw(lender, fee_bps, amount_in), crossed)
    except PoolError:
        return None


def _pay(pool: PoolModel, amount_in: int, zero_for_one: bool) -> SwapResult:
    """What an exact input gives; PoolError where the pool does not take all of it, as the executor demands."""
    if isinstance(pool, ConcentratedPool):
        swap = pool.quote(amount_specified=amount_in, zero_for_one=zero_for_one)
        if swap.unspent:
            raise PoolError("not all of the input is taken")
        return swap
    return pool.quote(amount_in=amount_in, zero_for_one=zero_for_one)


@dataclass(slots=True)
class _RouteGas:
    """By how much a route's gas differed from the environment's estimate when it was last simulated.

    A plan takes the figure, and its simulation gives the next one: what led to no simulation, or to a failed one, is forgotten,
    so that no odd figure can keep a route from being simulated again.
    """

    estimated: int = 0
    off: int | None = None

    def take(self, estimated: int) -> tuple[int, bool]:
        """(gas to expect, whether it was ever measured) for the next plan."""
        off, self.off, self.estimated = self.off, None, estimated
        return (estimated, False) if off is None else (max(estimated + off, LEAST_GAS), True)

    def give(self, gas_used: int) -> None:
        """What the simulation of that plan used."""
        self.off = gas_used - self.estimated


class Planner:
    """Makes plans for one account and executor. ``lenders``: name -> address, those without a contract of their own left out.

    A plan is priced by the gas that its route used when it was last simulated (``at_gas``), before that by the environment's
    estimate.
    """

    def __init__(
        self,
        observer: Observer,
        *,
        chain_id: int,
        policy_sha256: str,
        executor: str,
        lenders: dict[str, str],
        maximum_fee_wei: int,
        gas_margin: float = 1.1,
    ) -> None:
        self._observer = observer
        self._watched: Sequence[WatchedPool] = observer.watched
        self._identity = {"chain_id": chain_id, "policy": policy_sha256}
        self._executor, self._lenders, self._maximum_fee_wei = executor, lenders, maximum_fee_wei
        self._gas_margin = gas_margin
        self._fees_bps = {lender.name: lender.fee_bps for lender in observer.config.lenders}
        self._places = {lender.name: k for k, lender in enumerate(observer.config.lenders)}
        self._gas: defaultdict[tuple[str, int, int], _RouteGas] = defaultdict(_RouteGas)  # by lender and pools

    @property
    def quote_per_eth(self) -> float:
        """Price of the chain's own coin now, by the reference price."""
        return float(self._observer.state["price"] * self._observer.record["native_price_ratio"])

    def plan(self, decision: Decision, view: ChainView) -> tuple[Plan, Order] | str:
        """The transaction for a decision that acts, and what the gate judges of it; or in words why there is none."""
        buy = self._watched[decision.buy]
        if decision.lender not in self._lenders and decision.lender not in _FLASH_SWAPS:
            return f"lenders.{decision.lender}: no address"
        unit = 10**buy.quote_decimals
        available = self._observer.state["lender_available"][self._places[decision.lender]]
        cycle = exact_cycle(
            view.pools[decision.buy],
            view.pools[decision.sell],
            base_is_token0=buy.base_is_token0,
            size_share=decision.size_share,
            most_in=int(float(available) * unit),
            lender=decision.lender,
            fee_bps=self._fees_bps[decision.lender],
        )
        if cycle is None or cycle.profit <= 0:
            return "no exact size pays"
        # what the environment's tape cannot see: the ticks that this size crosses
        estimated = int(decision.gas_used + self._observer.config.gas_per_tick * cycle.ticks_crossed)
        gas_used, measured = self._gas[decision.lender, decision.buy, decision.sell].take(estimated)
        return self._priced(decision, view, cycle.amount_in, cycle.profit, gas_used, self._gas_limit(gas_used, measured=measured))

    def at_gas(self, plan: Plan, decision: Decision, view: ChainView, gas_used: int) -> tuple[Plan, Order] | str:
        """The newest plan, and what the gate judges of it, at the gas that it uses where it is simulated.

        The very plan where its price stands: it was priced by this gas, to a twentieth, and not so little that half the margin is
        gone. Else the trade priced anew, as the tip is paid on each gas. Raises ValueError for a gas below 1.
        """
        if gas_used < 1:
            raise ValueError(f"gas_used = {gas_used}; accepted is 1 or more")
        self._gas[plan.lender, plan.buy, plan.sell].give(gas_used)
        most = max(min(_SAME_GAS, 0.5 * (self._gas_margin - 1.0)), _CALLDATA_GAS)
        if -_SAME_GAS <= gas_used / plan.gas_used - 1.0 <= most:
            return plan, self._order(plan, decision, view, gas_used)
        gas_limit = self._gas_limit(gas_used, measured=True)
        return self._priced(decision, view, plan.amount_in_raw, plan.expected_profit_raw, gas_used, gas_limit)

    def _gas_limit(self, gas_used: int, *, measured: bool) -> int:
        return math.ceil(gas_used * (_UNREFUNDED if measured else _FRESH_SLOTS) * self._gas_margin)

    def gain_eth(self, plan: Plan, fee_wei: int) -> float:
        """What is left of a plan's profit at this price per gas, ETH; minus infinity where that cannot be said yet."""
        if not self._observer.observed or plan.buy >= len(self._watched):  # an earlier process's plan
            return -math.inf
        unit = 10 ** self._watched[plan.buy].quote_decimals
        chain = self._observer.config.chain
        per_eth = self.quote_per_eth
        return float((plan.expected_profit_raw / unit - chain.data_fee_quote) / per_eth - plan.gas_used * fee_wei / WEI)

    def _priced(
        self, decision: Decision, view: ChainView, amount_in: int, profit: int, gas_used: int, gas_limit: int
    ) -> tuple[Plan, Order] | str:
        buy, sell = self._watched[decision.buy], self._watched[decision.sell]
        quote_per_raw = self.quote_per_eth * 10**buy.quote_decimals
        profit_eth = profit / quote_per_raw
        priority_fee = int(profit_eth * decision.bid_share * WEI / gas_used)
        max_fee = int(self._next_base_fee(view) * _BASE_FEE_HEADROOM) + priority_fee
        if max_fee > self._maximum_fee_wei:
            return f"needs {max_fee / 1e9:.3g} gwei per gas; accepted is up to {self._maximum_fee_wei / 1e9:.3g}"
        last_block = view.head.number + _LIFE_BLOCKS[decision.channel]
        # Landing must never cost more than a revert would: a private one then costs nothing, a public one what it burns.
        unburnt = 1.0 - self._burnt_share(decision.channel)
        floor = int(unburnt * self._cost_eth(view, gas_used, priority_fee, self._gas_margin) * quote_per_raw)
        minimum = max(int(profit * (1.0 - decision.tolerance)), min(floor, profit))
        cost_eth = self._cost_eth(view, gas_used, priority_fee)
        if int(unburnt * cost_eth * quote_per_raw) > profit:
            return f"costs {cost_eth:.6g} of the coin in gas and tip; accepted is up to its profit, {profit_eth:.6g}"
        route = Route(
            funding=decision.lender,
            lender=self._lenders.get(decision.lender),
            amount_in_raw=amount_in,
            minimum_profit_raw=minimum,
            last_block=last_block,
            legs=(_leg(buy, buy.quote), _leg(sell, sell.base)),
        )
        data = encode(route)
        named = self._identity | {"block": view.head.hash, "to": self._executor, "data": data, "priority_fee_wei": priority_fee}
        plan = Plan(
            key=hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest(),
            block_number=view.head.number,
            block_hash=view.head.hash,
            valid_until_block=last_block,
            buy=decision.buy,
            sell=decision.sell,
            lender=decision.lender,
            amount_in_raw=amount_in,
            expected_profit_raw=profit,
            minimum_profit_raw=minimum,
            channel=decision.channel,
            to=self._executor,
            data=data,
            gas_limit=gas_limit,
            max_fee_wei=max_fee,
            priority_fee_wei=priority_fee,
            gas_used=gas_used,
        )
        return plan, self._order(plan, decision, view, gas_used)

    def _order(self, plan: Plan, decision: Decision, view: ChainView, gas_used: int) -> Order:
        """What the gate judges of a plan that uses this gas; the most that it may lose is by the plan's own and the margin."""
        quote_per_raw = self.quote_per_eth * 10 ** self._watched[plan.buy].quote_decimals
        notional_eth = plan.amount_in_raw / quote_per_raw
        share = self._burnt_share(plan.channel)
        cost_eth = self._cost_eth(view, gas_used, plan.priority_fee_wei)
        floor_eth = (1.0 - share) * self._cost_eth(view, plan.gas_used, plan.priority_fee_wei, self._gas_margin)
        burnt_eth = share * plan.gas_used * self._gas_margin * plan.max_fee_wei / WEI + self._data_fee_eth if share else 0.0
        return Order(
            key=plan.key,
            block_number=plan.block_number,
            head_time_s=float(view.head.timestamp),
            reference_time_s=None if view.reference is None else view.reference.time_s,
            notional_eth=notional_eth,
            borrowed_eth=notional_eth,
            flash=True,
            expected_profit_eth=plan.expected_profit_raw / quote_per_raw - cost_eth,
            worst_cost_eth=burnt_eth + max(floor_eth - plan.minimum_profit_raw / quote_per_raw, 0.0),
            confidence=decision.confidence,
        )

    @property
    def _data_fee_eth(self) -> float:
        return float(self._observer.config.chain.data_fee_quote / self.quote_per_eth)

    def _burnt_share(self, channel: Channel) -> float:
        """How much of its gas a transaction pays for when it reverts."""
        config = self._observer.config
        return config.revert_gas_share if channel == "public" or config.chain.private_revert_pays else 0.0

    def _next_base_fee(self, view: ChainView) -> float:
        """Of the next block, wei per gas."""
        head, chain = view.head, self._observer.config.chain
        return next_base_fee(head.base_fee_wei, head.gas_used, head.gas_limit // chain.elasticity, chain.base_fee_denominator)

    def _cost_eth(self, view: ChainView, gas_used: int, priority_fee_wei: int, margin: float = 1.0) -> float:
        """Gas and tip in the next block; with a margin, as whoever builds it earns by each gas and can make it use some more."""
        return gas_used * margin * (self._next_base_fee(view) + priority_fee_wei) / WEI + self._data_fee_eth


def _leg(pool: WatchedPool, token_in: str) -> Leg:
    return Leg(pool.address, token_in, pool.kind, zero_for_one=token_in == pool.token0, fee_ppm=pool.fee_ppm)
