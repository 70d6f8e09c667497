"""The book against the exact pool itself: the logs of any swaps, mints and burns lead to the same numbers, and back."""

from __future__ import annotations

from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import assume, given, settings
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, PoolError
from arbgym.live import events
from arbgym.live.book import REORG_LIMIT, Held, PoolBook
from arbgym.live.events import Log
from arbgym.live.rivals import find_cycles
from arbgym.live.terms import FeedBroken, Head, WatchedPool
from tests.amm.pools import concentrated_pools

ADDRESS = "0x" + 40 * "a"
actions = st.lists(
    st.tuples(st.sampled_from(["swap", "mint", "burn", "poke"]), st.booleans(), st.integers(1, 2**80), st.integers(-50, 50)),
    max_size=16,
)


def word(number: int) -> str:
    return f"{number & (1 << 256) - 1:064x}"


def log(topics: list[str], *numbers: int, address: str = ADDRESS, transaction: int = 1) -> Log:
    return Log(address, tuple(topics), "0x" + "".join(word(number) for number in numbers), "0x" + word(transaction), 1)


def swap_log(told: Any) -> Log:
    topics = [events.V3_SWAP, "0x" + word(1), "0x" + word(2)]
    return log(topics, told.amount0, told.amount1, told.sqrt_price_x96, told.liquidity, told.tick)


def position_log(topic: str, lower: int, upper: int, liquidity: int) -> Log:
    topics = [topic, "0x" + word(1), "0x" + word(lower), "0x" + word(upper)]
    return log(topics, *([7] if topic == events.V3_MINT else []), liquidity, 1, 2)


def book_of(pool: ConcentratedPool) -> PoolBook:
    tokens = ("0x" + 40 * "1", "0x" + 40 * "2")
    watched = WatchedPool("x", ADDRESS, "v3", pool.fee, *tokens, 18, 18, True, pool.tick_spacing)
    book = PoolBook([watched], window_words=10_000)  # all ticks are known
    book.commit(head(0), [Held(pool.copy())])
    return book


def head(number: int) -> Head:
    return Head(number, f"0x{number:064x}", f"0x{number - 1 if number else 0:064x}", number, 1, 1, 1)


def state(pool: Any) -> tuple[Any, ...]:
    return pool.sqrt_price_x96, pool.tick, pool.liquidity, dict(pool.ticks), dict(pool.liquidity_gross)


@given(concentrated_pools(), actions, st.integers(0, REORG_LIMIT))
@settings(max_examples=60, deadline=None)
def test_logs_lead_to_the_exact_pool_and_back(pool: ConcentratedPool, wanted: list[Any], back: int) -> None:
    book, states = book_of(pool), [state(pool)]
    for kind, flag, size, offset in wanted:
        lower = (pool.tick // pool.tick_spacing + offset) * pool.tick_spacing
        upper = lower + pool.tick_spacing * (1 + size % 40)
        try:
            if kind == "swap":
                told = swap_log(pool.swap(amount_specified=size, zero_for_one=flag))
            elif kind == "poke":
                told = position_log(events.V3_BURN, lower, upper, 0)
            elif kind == "mint":
                pool.mint(tick_lower=lower, tick_upper=upper, liquidity=size)
                told = position_log(events.V3_MINT, lower, upper, size)
            else:
                pool.burn(tick_lower=lower, tick_upper=upper, liquidity=size)
                told = position_log(events.V3_BURN, lower, upper, size)
        except PoolError:
            continue
        step = book.step([told])
        assert state(book.pools[0]) == states[-1], "a step alone changes nothing"
        book.commit(head(len(states)), step.states)
        states.append(state(pool))
        assert state(book.pools[0]) == states[-1]
    depth = min(back, len(book.heads) - 1)
    assert book.undo(book.heads[-1 - depth].hash) == depth
    assert state(book.pools[0]) == states[-1 - depth] and book.head.number == len(states) - 1 - depth


@given(
    concentrated_pools(), st.integers(1, 2**70), st.booleans(), st.sampled_from(["liquidity", "tick", "price", "short", "topics"])
)
@settings(max_examples=60, deadline=None)
def test_a_swap_that_cannot_be_leaves_the_book_as_it_was(pool: ConcentratedPool, size: int, flag: bool, spoilt: str) -> None:
    book, before = book_of(pool), state(pool)
    end = pool.quote(amount_specified=size, zero_for_one=flag)
    assume(end.sqrt_price_x96 != pool.sqrt_price_x96)
    numbers = [end.amount0, end.amount1, end.sqrt_price_x96, end.liquidity, end.tick]
    topics = [events.V3_SWAP, "0x" + word(1), "0x" + word(2)]
    match spoilt:
        case "liquidity":
            numbers[3] += 1
        case "tick":
            numbers[4] += 2
        case "price":
            numbers[2] = 0
        case "short":
            numbers.pop()
        case "topics":
            topics.pop()
    with pytest.raises(FeedBroken, match="accepted"):
        book.step([log(topics, *numbers)])
    assert state(book.pools[0]) == before and len(book.heads) == 1


def test_more_burnt_than_there_is_and_another_kind_s_event_are_refused() -> None:
    pool = ConcentratedPool(sqrt_price_x96=2**96, tick=0, liquidity=0)
    pool.mint(tick_lower=-60, tick_upper=60, liquidity=10)
    book = book_of(pool)
    with pytest.raises(FeedBroken, match="accepted"):
        book.step([position_log(events.V3_BURN, -60, 60, 11)])
    with pytest.raises(FeedBroken, match="event = Initialize"):
        book.step([log([events.V3_INITIALIZE], 2**96, 0)])
    assert book.step([log([events.V2_SYNC], 1, 2)]).touched == frozenset()  # somebody else's event at that address
    assert book.step([log([events.V3_SWAP], address="0x" + 40 * "b")]).touched == frozenset()


def test_topics_are_the_contracts_events() -> None:
    """From the published ABIs (v2-core 1.0.1, v3-core 1.0.1, PancakeSwap's 1.0.2), as every explorer shows them."""
    assert events.V2_SYNC == "0x1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1"
    assert events.V2_SWAP == "0xd78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822"
    assert events.V3_SWAP == "0xc42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67"
    assert events.PANCAKE_V3_SWAP == "0x19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83"


def test_only_balanced_profitable_cycles_through_two_pools_are_rivals() -> None:
    from arbgym.live.book import PoolSwap

    def cycle(*legs: tuple[int, int, int]) -> list[Any]:
        return [found.profit_raw for found in find_cycles(PoolSwap(pool, "0x1", base, quote) for pool, base, quote in legs)]

    assert cycle((0, -1000, 90), (1, 1000, -100)) == [10]
    assert cycle((0, -1000, 90), (0, 1000, -100)) == []  # one pool
    assert cycle((0, -1000, 100), (1, 1000, -100)) == []  # no profit
    assert cycle((0, -1000, 90), (1, 999, -100)) == []  # base is left
    assert cycle((0, -(10**9), 90), (1, 10**9 - 999, -100)) == [10]
    assert cycle((0, -500, 45), (1, -500, 45), (2, 1000, -100)) == [10]
    several = [PoolSwap(0, "0x1", -10, 9), PoolSwap(0, "0x2", -10, 9), PoolSwap(1, "0x2", 10, -12), PoolSwap(1, "0x3", 10, -12)]
    assert [found.transaction for found in find_cycles(several)] == ["0x2"]


@pytest.mark.parametrize("pools", [[], ["a", "a"]])
def test_pools_are_watched_once_each(pools: list[str]) -> None:
    made = [WatchedPool(name, ADDRESS, "v2", 3000, "0x1", "0x2", 18, 18, True) for name in pools]
    with pytest.raises(ValueError, match="accepted are one or more, each once"):
        PoolBook(made)


def test_a_window_has_words() -> None:
    pool = WatchedPool("x", ADDRESS, "v2", 3000, "0x1", "0x2", 18, 18, True)
    with pytest.raises(ValueError, match="window_words = 0; accepted is 1 or more"):
        PoolBook([pool], window_words=0)
