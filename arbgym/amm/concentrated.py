"""Exact model of the Uniswap V3 pool (UniswapV3Pool, v3-core 1.0.1): wei for wei, tick for tick, revert for revert.

A pool is its square-root price (Q64.96), its tick, the liquidity in range and the initialised ticks with their
``liquidity_net``. All numbers are Python integers in raw token units. What lies outside the pool (token balances of the
payer, the oracle's observations, who owns a position) is not modelled.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections.abc import Mapping
from types import MappingProxyType

from arbgym.amm.integers import INT128_MAX, UINT128_MAX, UINT160_MAX, UINT256_MAX, as_int, as_integer, as_uint, ceil_div
from arbgym.amm.result import PoolError, SwapResult
from arbgym.amm.swap_math import MILLION, Q128, add_liquidity, position_amounts, swap_step
from arbgym.amm.tick_math import (
    MAX_SQRT_RATIO,
    MAX_TICK,
    MIN_SQRT_RATIO,
    MIN_TICK,
    WORD,
    max_liquidity_per_tick,
    sqrt_price_x96_at_tick,
    tick_at_sqrt_price_x96,
)

_INT256_LIMIT = 1 << 255
_MAX_TICK_SPACING = 16383


def _position(tick_lower: int, tick_upper: int, liquidity: int) -> tuple[int, int, int]:
    return (
        as_int("tick_lower", tick_lower, 24),
        as_int("tick_upper", tick_upper, 24),
        as_uint("liquidity", liquidity, 128),
    )


class ConcentratedPool:
    """One Uniswap V3 pool; ``quote`` computes a swap, ``swap`` applies it.

    Args:
        sqrt_price_x96: square root of token1 per token0 in raw units, Q64.96.
        tick: the pool's tick: that of the price, or one less where the price came down exactly onto a tick.
        liquidity: liquidity in range.
        fee: parts per million of the input.
        tick_spacing: ticks between usable ticks, 1 to 16383.
        ticks: {initialised tick: liquidity_net}; every key is crossed by a price that passes it, net 0 too. A part of
            the pool's ticks will do for swaps that stay among them.
        liquidity_gross: {tick: gross liquidity}, which decides when ``burn`` frees a tick and ``mint`` overfills one;
            where not given it is taken as |liquidity_net|, its least value.
        fee_protocol: the protocol's share of the fee as a denominator (0, or 4 to 10) per input token.

    Raises ValueError, naming the field, for what no such pool can hold.
    """

    __slots__ = (
        "_fee",
        "_fee_protocol",
        "_gross",
        "_initialised",
        "_net",
        "_tick_spacing",
        "fee_growth_global0_x128",
        "fee_growth_global1_x128",
        "liquidity",
        "protocol_fees0",
        "protocol_fees1",
        "sqrt_price_x96",
        "tick",
    )

    def __init__(
        self,
        *,
        sqrt_price_x96: int,
        tick: int,
        liquidity: int,
        fee: int = 3000,
        tick_spacing: int = 60,
        ticks: Mapping[int, int] | None = None,
        liquidity_gross: Mapping[int, int] | None = None,
        fee_growth_global0_x128: int = 0,
        fee_growth_global1_x128: int = 0,
        fee_protocol: tuple[int, int] = (0, 0),
    ) -> None:
        self.sqrt_price_x96 = as_integer("sqrt_price_x96", sqrt_price_x96, MIN_SQRT_RATIO, MAX_SQRT_RATIO - 1)
        self.tick = as_integer("tick", tick, MIN_TICK, MAX_TICK - 1)
        self.liquidity = as_uint("liquidity", liquidity, 128)
        self._fee = as_integer("fee", fee, 0, MILLION - 1)
        self._tick_spacing = as_integer("tick_spacing", tick_spacing, 1, _MAX_TICK_SPACING)
        self.fee_growth_global0_x128 = as_uint("fee_growth_global0_x128", fee_growth_global0_x128, 256)
        self.fee_growth_global1_x128 = as_uint("fee_growth_global1_x128", fee_growth_global1_x128, 256)
        self._fee_protocol = tuple(as_integer("fee_protocol", part, 0, 10) for part in fee_protocol)
        if len(self._fee_protocol) != 2 or any(0 < part < 4 for part in self._fee_protocol):
            raise ValueError(f"fee_protocol: {fee_protocol}; accepted are two numbers, each 0 or 4 to 10")
        self.protocol_fees0 = 0
        self.protocol_fees1 = 0
        self._net = {
            as_integer("ticks", key, MIN_TICK, MAX_TICK): as_int(f"ticks[{key}]", net, 128) for key, net in (ticks or {}).items()
        }
        self._gross = {key: abs(net) for key, net in self._net.items()}
        for key, gross in (liquidity_gross or {}).items():
            if key not in self._net:
                raise ValueError(f"liquidity_gross: tick {key} is not among ticks")
            self._gross[key] = as_integer(f"liquidity_gross[{key}]", gross, abs(self._net[key]), UINT128_MAX)
        self._initialised = sorted(self._net)
        self._check_state()

    def _check_state(self) -> None:
        spacing = self._tick_spacing
        for tick in self._initialised:
            if tick % spacing:
                raise ValueError(f"ticks: {tick} is not a multiple of tick_spacing {spacing}")
        self._check_tick()
        position = bisect_right(self._initialised, self.tick)
        for direction, path in ((1, self._initialised[position:]), (-1, self._initialised[:position][::-1])):
            running = self.liquidity
            for tick in path:
                running += direction * self._net[tick]
                if not 0 <= running <= UINT128_MAX:
                    raise ValueError(
                        f"ticks: from liquidity {self.liquidity} crossing {tick} leaves {running}; accepted is uint128"
                    )

    def _check_tick(self) -> None:
        spacing = self._tick_spacing
        actual = tick_at_sqrt_price_x96(self.sqrt_price_x96)
        came_down_onto = actual % spacing == 0 and self.sqrt_price_x96 == sqrt_price_x96_at_tick(actual)
        if self.tick != actual and not (came_down_onto and self.tick == actual - 1):
            either = f"{actual - 1} or {actual}" if came_down_onto else f"{actual}"
            raise ValueError(f"tick: {self.tick} does not belong to sqrt_price_x96 {self.sqrt_price_x96}; accepted is {either}")

    @property
    def fee(self) -> int:
        """Fee in parts per million of the input."""
        return self._fee

    @property
    def tick_spacing(self) -> int:
        """Ticks between usable ticks."""
        return self._tick_spacing

    @property
    def ticks(self) -> Mapping[int, int]:
        """{initialised tick: liquidity_net}, read-only."""
        return MappingProxyType(self._net)

    @property
    def liquidity_gross(self) -> Mapping[int, int]:
        """{initialised tick: gross liquidity}, read-only."""
        return MappingProxyType(self._gross)

    def __repr__(self) -> str:
        return (
            f"ConcentratedPool(sqrt_price_x96={self.sqrt_price_x96}, tick={self.tick}, liquidity={self.liquidity}, "
            f"fee={self.fee}, tick_spacing={self.tick_spacing}, {len(self._net)} ticks)"
        )

    def copy(self) -> ConcentratedPool:
        """An independent pool in the same state. Tables of ticks are shared: none is ever changed in place."""
        other = ConcentratedPool.__new__(ConcentratedPool)
        for name in ConcentratedPool.__slots__:
            setattr(other, name, getattr(self, name))
        return other

    def quote(self, *, amount_specified: int, zero_for_one: bool, sqrt_price_limit_x96: int | None = None) -> SwapResult:
        """The swap that ``swap`` would make; the pool stays as it is.

        Args:
            amount_specified: > 0 input to spend, fee included; < 0 output wanted.
            zero_for_one: token0 in (price falls) or token1 in (price rises).
            sqrt_price_limit_x96: price at which to stop; None for the last one the contract accepts.

        The swap ends when the amount is used up or the price is at its limit, so it may fill in part. Raises PoolError
        'AS' (amount 0), 'SPL' (limit not between price and end of range), ValueError for numbers that are too wide.
        """
        return self._run(amount_specified, zero_for_one, sqrt_price_limit_x96)[0]

    def swap(self, *, amount_specified: int, zero_for_one: bool, sqrt_price_limit_x96: int | None = None) -> SwapResult:
        """Apply a swap; arguments, result and errors as for ``quote``. A revert leaves the pool as it was."""
        result, fee_growth, protocol_fee = self._run(amount_specified, zero_for_one, sqrt_price_limit_x96)
        self.sqrt_price_x96 = result.sqrt_price_x96
        self.tick = result.tick
        self.liquidity = result.liquidity
        if zero_for_one:
            self.fee_growth_global0_x128 = (self.fee_growth_global0_x128 + fee_growth) & UINT256_MAX
            self.protocol_fees0 = (self.protocol_fees0 + protocol_fee) & UINT128_MAX
        else:
            self.fee_growth_global1_x128 = (self.fee_growth_global1_x128 + fee_growth) & UINT256_MAX
            self.protocol_fees1 = (self.protocol_fees1 + protocol_fee) & UINT128_MAX
        return result

    def _limit(self, zero_for_one: bool, limit: int | None) -> int:
        if limit is None:
            limit = MIN_SQRT_RATIO + 1 if zero_for_one else MAX_SQRT_RATIO - 1
        else:
            limit = as_integer("sqrt_price_limit_x96", limit, 0, UINT160_MAX)
        low, high = (MIN_SQRT_RATIO, self.sqrt_price_x96) if zero_for_one else (self.sqrt_price_x96, MAX_SQRT_RATIO)
        if not low < limit < high:
            raise PoolError("SPL")
        return limit

    def _run(self, amount_specified: int, zero_for_one: bool, sqrt_price_limit_x96: int | None) -> tuple[SwapResult, int, int]:
        """The contract's loop: (result, growth of the input token's fee growth X128, protocol's part of the fee)."""
        if type(amount_specified) is not int or not -_INT256_LIMIT <= amount_specified < _INT256_LIMIT:
            amount_specified = as_int("amount_specified", amount_specified, 256)
        if amount_specified == 0:
            raise PoolError("AS")
        limit = self._limit(zero_for_one, sqrt_price_limit_x96)
        exact_in = amount_specified > 0
        remaining = amount_specified if exact_in else -amount_specified
        price, tick, liquidity = self.sqrt_price_x96, self.tick, self.liquidity
        fee_ppm, protocol = self._fee, self._fee_protocol[0 if zero_for_one else 1]
        spacing, initialised = self._tick_spacing, self._initialised
        word = WORD * spacing
        position = bisect_right(initialised, tick) - (1 if zero_for_one else 0)  # the next initialised tick, if any
        count = len(initialised)
        total_in = total_out = total_fee = fee_growth = protocol_fee = steps = crossed = 0

        while remaining and price != limit:
            steps += 1
            if zero_for_one:
                next_tick = max(tick // word * word, MIN_TICK)
                crosses = position >= 0 and initialised[position] >= next_tick
            else:
                next_tick = min((tick // spacing + 1 | WORD - 1) * spacing, MAX_TICK)
                crosses = position < count and initialised[position] <= next_tick
            if crosses:
                next_tick = initialised[position]
            next_price = sqrt_price_x96_at_tick(next_tick)
            target = max(next_price, limit) if zero_for_one else min(next_price, limit)
            start = price
            price, amount_in, amount_out, fee = swap_step(price, target, liquidity, remaining, fee_ppm, zero_for_one, exact_in)
            total_in += amount_in + fee
            total_out += amount_out
            total_fee += fee
            remaining -= amount_in + fee if exact_in else amount_out
            if protocol:
                protocol_part = fee // protocol
                fee -= protocol_part
                protocol_fee += protocol_part
            if liquidity:
                fee_growth += fee * Q128 // liquidity
            if price == next_price:
                if crosses:
                    net = self._net[next_tick]
                    liquidity = add_liquidity(liquidity, -net if zero_for_one else net)
                    crossed += 1
                    position += -1 if zero_for_one else 1
                tick = next_tick - 1 if zero_for_one else next_tick
            elif price != start:
                tick = tick_at_sqrt_price_x96(price)

        amount0, amount1 = (total_in, -total_out) if zero_for_one else (-total_out, total_in)
        result = SwapResult(
            total_in,
            total_out,
            amount0,
            amount1,
            total_fee,
            remaining if exact_in else 0,
            steps,
            crossed,
            price,
            tick,
            liquidity,
        )
        return result, fee_growth, protocol_fee

    def mint_amounts(self, *, tick_lower: int, tick_upper: int, liquidity: int) -> tuple[int, int]:
        """(amount0, amount1) to pay for a position of ``liquidity`` over [tick_lower, tick_upper), rounded up.

        Raises PoolError: 'TLU', 'TLM', 'TUM' for bad ticks, none with a text for liquidity 0 or over 127 bits.
        """
        tick_lower, tick_upper, liquidity = _position(tick_lower, tick_upper, liquidity)
        if liquidity == 0:
            raise PoolError("")
        return position_amounts(self.sqrt_price_x96, self.tick, tick_lower, tick_upper, liquidity, round_up=True)

    def burn_amounts(self, *, tick_lower: int, tick_upper: int, liquidity: int) -> tuple[int, int]:
        """(amount0, amount1) received for taking ``liquidity`` out of [tick_lower, tick_upper), rounded down."""
        tick_lower, tick_upper, liquidity = _position(tick_lower, tick_upper, liquidity)
        return position_amounts(self.sqrt_price_x96, self.tick, tick_lower, tick_upper, liquidity, round_up=False)

    def mint(self, *, tick_lower: int, tick_upper: int, liquidity: int) -> tuple[int, int]:
        """Add a position and return what it costs, (amount0, amount1).

        Raises PoolError as ``mint_amounts``, 'LO' over the tick's maximum, and without a text off the tick spacing.
        """
        tick_lower, tick_upper, liquidity = _position(tick_lower, tick_upper, liquidity)
        amounts = self.mint_amounts(tick_lower=tick_lower, tick_upper=tick_upper, liquidity=liquidity)
        most = max_liquidity_per_tick(self._tick_spacing)
        for tick in (tick_lower, tick_upper):
            if self._gross.get(tick, 0) + liquidity > most:
                raise PoolError("LO")
        if tick_lower % self._tick_spacing or tick_upper % self._tick_spacing:
            raise PoolError("")
        self._change_position(tick_lower, tick_upper, liquidity)
        return amounts

    def burn(self, *, tick_lower: int, tick_upper: int, liquidity: int) -> tuple[int, int]:
        """Take liquidity out; returns what it gives, (amount0, amount1). PoolError 'LS' for more than is there."""
        tick_lower, tick_upper, liquidity = _position(tick_lower, tick_upper, liquidity)
        amounts = self.burn_amounts(tick_lower=tick_lower, tick_upper=tick_upper, liquidity=liquidity)
        if any(self._gross.get(tick, 0) < liquidity for tick in (tick_lower, tick_upper)):
            raise PoolError("LS")
        if liquidity:
            self._change_position(tick_lower, tick_upper, -liquidity)
        return amounts

    def _change_position(self, tick_lower: int, tick_upper: int, delta: int) -> None:
        active = self.liquidity
        if tick_lower <= self.tick < tick_upper:
            active = add_liquidity(active, delta)
        nets = {
            tick_lower: self._net.get(tick_lower, 0) + delta,
            tick_upper: self._net.get(tick_upper, 0) - delta,
        }
        if any(not -INT128_MAX - 1 <= net <= INT128_MAX for net in nets.values()):
            raise PoolError("")
        self._replace_ticks({tick: (net, self._gross.get(tick, 0) + delta) for tick, net in nets.items()})
        self.liquidity = active

    def _replace_ticks(self, changes: Mapping[int, tuple[int, int]]) -> None:
        """Set {tick: (net, gross)}, gross 0 frees the tick. The tables are replaced, not changed: other pools may share them."""
        initialised, self._net, self._gross = self._initialised.copy(), self._net.copy(), self._gross.copy()
        for tick, (net, gross) in changes.items():
            if gross:
                if tick not in self._net:
                    insort(initialised, tick)
                self._net[tick], self._gross[tick] = net, gross
            elif tick in self._net:
                del self._net[tick], self._gross[tick]
                del initialised[bisect_left(initialised, tick)]
        self._initialised = initialised

    def moved(self, *, sqrt_price_x96: int, tick: int, liquidity: int) -> ConcentratedPool:
        """Another pool with these ticks at another price, as after a swap that ended there; O(1), for the tables are shared.

        ``liquidity`` is not held against the ticks, of which only a part may be known (``liquidity_at``). Raises ValueError,
        naming the field, for a price or tick that no pool has.
        """
        other = self.copy()
        other.sqrt_price_x96 = as_integer("sqrt_price_x96", sqrt_price_x96, MIN_SQRT_RATIO, MAX_SQRT_RATIO - 1)
        other.tick = as_integer("tick", tick, MIN_TICK, MAX_TICK - 1)
        other.liquidity = as_uint("liquidity", liquidity, 128)
        other._check_tick()
        return other

    def with_ticks(self, changes: Mapping[int, tuple[int, int]], liquidity: int) -> ConcentratedPool:
        """Another pool at this price whose ticks differ: {tick: (liquidity_net, liquidity_gross)}, gross 0 frees the tick.

        For pools of which only a part of the ticks is known; where all are, ``mint`` and ``burn`` check more. Raises
        ValueError, naming the field.
        """
        for tick, (net, gross) in changes.items():
            as_integer("ticks", tick, MIN_TICK, MAX_TICK)
            if tick % self._tick_spacing:
                raise ValueError(f"ticks: {tick} is not a multiple of tick_spacing {self._tick_spacing}")
            as_int(f"ticks[{tick}]", net, 128)
            as_integer(f"liquidity_gross[{tick}]", gross, abs(net), UINT128_MAX)
        other = self.copy()
        other.liquidity = as_uint("liquidity", liquidity, 128)
        other._replace_ticks(changes)
        return other

    def liquidity_at(self, tick: int) -> int:
        """Liquidity in range when the pool's tick is ``tick``, by the nets of the ticks between here and there."""
        near, far = (bisect_right(self._initialised, end) for end in sorted((self.tick, tick)))
        crossed = sum(self._net[between] for between in self._initialised[near:far])
        return self.liquidity + (crossed if tick > self.tick else -crossed)

    def flash_fee(self, amount: int) -> int:
        """Least extra payment that the pool's ``flash`` accepts for ``amount`` of either token.

        Raises PoolError 'L' without liquidity in range.
        """
        amount = as_uint("amount", amount, 256)
        if self.liquidity == 0:
            raise PoolError("L")
        return ceil_div(amount * self._fee, MILLION)
