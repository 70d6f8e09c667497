"""The watched pools in exact integers, block by block: what their logs say, and twelve blocks of it kept to go back to.

A pool's state is never changed in place: each block has its own, and what did not change is shared. Of a concentrated pool the
ticks in a window of bitmap words around its price are held (a word is 256 usable ticks); when the price comes near the window's
edge, it is read again. Every Swap's liquidity is held against the ticks that it crossed, so that a lost Mint or Burn shows.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.amm.tick_math import MAX_TICK, MIN_TICK, WORD
from arbgym.live.calls import CallReader, Read, selector
from arbgym.live.events import Initialize, Log, Malformed, PairSwap, Position, Swap, Sync, decode, signed, unsigned, words
from arbgym.live.terms import FeedBroken, Head, PoolModel, WatchedPool

REORG_LIMIT = 12
_TEN_PERCENT = 954  # ticks: log(1.1) / log(1.0001)
_RESERVES, _SLOT0, _LIQUIDITY = selector("getReserves()"), selector("slot0()"), selector("liquidity()")
_BITMAP, _TICKS = selector("tickBitmap(int16)"), selector("ticks(int24)")


@dataclass(frozen=True, slots=True)
class Held:
    """One pool's state. ``centre`` is the bitmap word about which a concentrated pool's ticks are known."""

    pool: PoolModel
    centre: int = 0


@dataclass(frozen=True, slots=True)
class PoolSwap:
    """A swap in a watched pool: raw amounts into it, in the pair's tokens."""

    pool: int  # watched pools
    transaction: str
    base_raw: int
    quote_raw: int


@dataclass(frozen=True, slots=True)
class Step:
    """What a block's logs make of the pools; ``to_read`` are those whose ticks must be read again at its end."""

    states: tuple[Held, ...]
    swaps: tuple[PoolSwap, ...]
    touched: frozenset[int]
    to_read: frozenset[int]


class PoolBook:
    """The states of ``pools`` at the end of the newest block taken, and of up to 12 before it.

    Args:
        pools: watched pools.
        window_words: tick bitmap words known on either side of the price's; None for what covers 10 % either way.

    ``snapshot`` reads everything; then, for each block, ``step`` says what its logs make of the pools and ``commit`` takes it.
    Whatever raises leaves the book as it was.
    """

    def __init__(self, pools: Sequence[WatchedPool], window_words: int | None = None) -> None:
        if window_words is not None and window_words < 1:
            raise ValueError(f"window_words = {window_words}; accepted is 1 or more")
        self.watched = tuple(pools)
        self._place = {pool.address: index for index, pool in enumerate(self.watched)}
        if len(self._place) != len(self.watched) or not self.watched:
            raise ValueError(f"pools = {[pool.address for pool in pools]}; accepted are one or more, each once")
        for pool in self.watched:
            if pool.kind == "v3" and not pool.tick_spacing:
                raise ValueError(f"pool {pool.name}: tick_spacing = {pool.tick_spacing}; accepted is a V3 pool's, 1 or more")
        self._window = [window_words or math.ceil(_TEN_PERCENT / (WORD * (pool.tick_spacing or 1))) for pool in self.watched]
        self._journal: deque[tuple[Head, tuple[Held, ...]]] = deque(maxlen=REORG_LIMIT + 1)

    @property
    def head(self) -> Head:
        """The newest block taken."""
        return self._journal[-1][0]

    @property
    def heads(self) -> list[Head]:
        """The blocks that can be gone back to, oldest first; the last is ``head``."""
        return [head for head, _ in self._journal]

    @property
    def pools(self) -> tuple[PoolModel, ...]:
        """States at the end of ``head``, in the order watched."""
        return tuple(held.pool for held in self._journal[-1][1])

    @property
    def states(self) -> tuple[Held, ...]:
        """The same with their windows."""
        return self._journal[-1][1]

    async def snapshot(self, head: Head, reader: CallReader) -> None:
        """Read every state at ``head``; what was held is forgotten. Raises as ``CallReader.read``, and FeedBroken."""
        states = await self.read(range(len(self.watched)), head.hash, reader)
        self._journal.clear()
        self.commit(head, states)

    def step(self, logs: Iterable[Log]) -> Step:
        """What the logs of ``head``'s successor, in their order, make of the pools. Raises FeedBroken."""
        states, swaps = list(self._journal[-1][1]), []
        touched, to_read = set(), set()
        for log in logs:
            index = self._place.get(log.address)
            if index is None:
                continue
            watched = self.watched[index]
            event = decode(log, watched.kind)
            if event is None:
                continue
            touched.add(index)
            if isinstance(event, (Swap, PairSwap)):
                base, quote = (event.amount0, event.amount1) if watched.base_is_token0 else (event.amount1, event.amount0)
                swaps.append(PoolSwap(index, log.transaction, base, quote))
            if index in to_read or isinstance(event, PairSwap):
                continue  # the Sync before it has the reserves
            try:
                states[index], known = self._after(index, states[index], event)
            except ValueError as error:
                raise FeedBroken(f"pool {watched.name}, log {log.index}: {error}") from error
            if not known:
                to_read.add(index)
        for index in touched - to_read:
            if self._near_edge(index, states[index]):
                to_read.add(index)
        return Step(tuple(states), tuple(swaps), frozenset(touched), frozenset(to_read))

    def commit(self, head: Head, states: Sequence[Held]) -> None:
        """Take ``states`` as those at the end of ``head``."""
        self._journal.append((head, tuple(states)))

    def undo(self, ancestor: str) -> int:
        """Go back to the end of the block with hash ``ancestor``, one of ``heads``; the number of blocks undone."""
        depth = [head.hash for head in self.heads][::-1].index(ancestor)
        for _ in range(depth):
            self._journal.pop()
        return depth

    # -------------------------------------------------------------------------------------------------- one event, one pool
    def _word(self, index: int, tick: int) -> int:
        return tick // (self.watched[index].tick_spacing or 1) // WORD

    def _ends(self, index: int, centre: int) -> tuple[int, int]:
        """First and last tick of a pool's window."""
        word, window = WORD * (self.watched[index].tick_spacing or 1), self._window[index]
        return max((centre - window) * word, MIN_TICK), min((centre + window + 1) * word - 1, MAX_TICK)

    def _near_edge(self, index: int, held: Held) -> bool:
        """The price stands so near the end of what is known of the ticks that they must be read again."""
        if isinstance(held.pool, ConstantProductPool):
            return False
        tick, (first, last) = held.pool.tick, self._ends(index, held.centre)
        margin = min(_TEN_PERCENT // 2, self._window[index] * WORD * held.pool.tick_spacing // 2)
        return (first > MIN_TICK and tick - first < margin) or (last < MAX_TICK and last - tick < margin)

    def _after(self, index: int, held: Held, event: Sync | Swap | Position | Initialize) -> tuple[Held, bool]:
        """The state after an event, and whether it is known: not if the price left the window. Raises ValueError."""
        pool = held.pool
        if isinstance(pool, ConstantProductPool) or isinstance(event, Sync):
            if not (isinstance(pool, ConstantProductPool) and isinstance(event, Sync)):
                raise ValueError(f"event = {type(event).__name__}; accepted is one of a {self.watched[index].kind} pool")
            return Held(ConstantProductPool(event.reserve0, event.reserve1, pool.fee, pool.name)), True
        first, last = self._ends(index, held.centre)
        if isinstance(event, Position):
            return replace(held, pool=_with_position(pool, event, first, last)), True
        if isinstance(event, Initialize):
            raise ValueError("event = Initialize; accepted is a pool that has its price already")
        moved = pool.moved(sqrt_price_x96=event.sqrt_price_x96, tick=event.tick, liquidity=event.liquidity)
        if not first <= event.tick <= last:
            return held, False
        expected = pool.liquidity_at(event.tick)
        if event.liquidity != expected:
            raise ValueError(f"liquidity = {event.liquidity}; accepted is {expected}, by the ticks held: a log is missing")
        return replace(held, pool=moved), True

    # -------------------------------------------------------------------------------------------------------------- reading
    def price_reads(self, indices: Iterable[int]) -> list[Read]:
        """What to ask for prices and liquidity: the same for each block, for ``prices_differ`` and ``read``."""
        found: list[Read] = []
        for index in indices:
            watched = self.watched[index]
            found += [(watched.address, data) for data in ((_RESERVES,) if watched.kind == "v2" else (_SLOT0, _LIQUIDITY))]
        return found

    def check(self, indices: Iterable[int], answers: Sequence[str], states: Sequence[Held], head: Head) -> None:
        """Hold states against the answers to ``price_reads`` at ``head``. Raises FeedBroken where they differ."""
        left = iter(answers)
        for index in indices:
            watched, pool = self.watched[index], states[index].pool
            if isinstance(pool, ConstantProductPool):
                held: tuple[int, ...] = (pool.reserve0, pool.reserve1)
                told: tuple[int, ...] = _reserves(watched.name, next(left))
            else:
                held = (pool.sqrt_price_x96, pool.tick, pool.liquidity)
                told = _price(watched.name, next(left), next(left))
            if held != told:
                raise FeedBroken(f"pool {watched.name}: state = {held} at block {head.number}; accepted is the chain's, {told}")

    async def read(self, indices: Iterable[int], block_hash: str, reader: CallReader) -> list[Held]:
        """States of some pools at a block, from scratch. Raises as ``CallReader.read``, and FeedBroken."""
        indices = list(indices)
        answers = iter(await reader.read(self.price_reads(indices), block_hash))
        prices: dict[int, tuple[int, ...]] = {}
        for index in indices:
            name = self.watched[index].name
            v2 = self.watched[index].kind == "v2"
            prices[index] = _reserves(name, next(answers)) if v2 else _price(name, next(answers), next(answers))
        concentrated = [index for index in indices if self.watched[index].kind == "v3"]
        centres = {index: self._word(index, prices[index][1]) for index in concentrated}
        bitmap_words = [(index, word) for index in concentrated for word in self._words(index, centres[index])]
        reads = [(self.watched[index].address, _BITMAP + _argument(word)) for index, word in bitmap_words]
        initialised: list[tuple[int, int]] = []
        for (index, word), answer in zip(bitmap_words, await reader.read(reads, block_hash), strict=True):
            bits = words(f"pool {self.watched[index].name}: tickBitmap({word})", answer, 1)[0]
            spacing = self.watched[index].tick_spacing or 1
            initialised += [(index, (word * WORD + bit) * spacing) for bit in range(WORD) if bits >> bit & 1]
        net: dict[int, dict[int, int]] = {index: {} for index in concentrated}
        gross: dict[int, dict[int, int]] = {index: {} for index in concentrated}
        reads = [(self.watched[index].address, _TICKS + _argument(tick)) for index, tick in initialised]
        for (index, tick), answer in zip(initialised, await reader.read(reads, block_hash), strict=True):
            name = f"pool {self.watched[index].name}: ticks({tick})"
            told = words(name, answer, 2, 16)
            gross[index][tick] = unsigned(f"{name}: liquidityGross", told[0], 128)
            net[index][tick] = signed(f"{name}: liquidityNet", told[1], 128)
        try:
            return [
                _concentrated(self.watched[index], prices[index], net[index], gross[index], centres[index])
                if index in net
                else Held(constant_product(self.watched[index], *prices[index]))
                for index in indices
            ]
        except ValueError as error:
            raise FeedBroken(f"pool state at block {block_hash}: {error}") from error

    def _words(self, index: int, centre: int) -> range:
        window = self._window[index]
        return range(max(centre - window, self._word(index, MIN_TICK)), min(centre + window, self._word(index, MAX_TICK)) + 1)


def constant_product(watched: WatchedPool, reserve0: int, reserve1: int) -> ConstantProductPool:
    """The exact pool of a V2 pair; its fee in lowest terms, as the contracts write it."""
    common = math.gcd(watched.fee_ppm, 1_000_000)
    return ConstantProductPool(reserve0, reserve1, (watched.fee_ppm // common, 1_000_000 // common))


def _concentrated(watched: WatchedPool, price: Sequence[int], net: dict[int, int], gross: dict[int, int], centre: int) -> Held:
    sqrt_price_x96, tick, liquidity = price
    pool = ConcentratedPool(
        sqrt_price_x96=sqrt_price_x96,
        tick=tick,
        liquidity=liquidity,
        fee=watched.fee_ppm,
        tick_spacing=watched.tick_spacing or 1,
        ticks=net,
        liquidity_gross=gross,
    )
    return Held(pool, centre)


def _with_position(pool: ConcentratedPool, event: Position, first: int, last: int) -> ConcentratedPool:
    """The pool after a Mint or Burn, of which only the ticks from ``first`` to ``last`` are known."""
    delta = event.liquidity_delta
    if delta == 0:  # a Burn of nothing, which updates the position's fees
        return pool
    changes = {
        tick: (pool.ticks.get(tick, 0) + net, pool.liquidity_gross.get(tick, 0) + delta)
        for tick, net in ((event.tick_lower, delta), (event.tick_upper, -delta))
        if first <= tick <= last
    }
    in_range = event.tick_lower <= pool.tick < event.tick_upper
    return pool.with_ticks(changes, pool.liquidity + (delta if in_range else 0))


def _argument(number: int) -> str:
    return f"{number & (1 << 256) - 1:064x}"


def _reserves(name: str, answer: str) -> tuple[int, int]:
    told = words(f"pool {name}: getReserves", answer, 2, 3)
    return unsigned(f"pool {name}: reserve0", told[0], 112), unsigned(f"pool {name}: reserve1", told[1], 112)


def _price(name: str, slot0: str, liquidity: str) -> tuple[int, int, int]:
    """(square root of the price X96, tick, liquidity in range)."""
    told = words(f"pool {name}: slot0", slot0, 2, 16)
    if not told[0]:
        raise Malformed(f"pool {name}: slot0.sqrtPriceX96", 0, "the price of a pool that was initialised")
    in_range = unsigned(f"pool {name}: liquidity", words(f"pool {name}: liquidity", liquidity, 1)[0], 128)
    return unsigned(f"pool {name}: sqrtPriceX96", told[0], 160), signed(f"pool {name}: tick", told[1], 24), in_range
