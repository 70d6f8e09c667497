"""The feed against real pools on a real chain: whatever happens there, its book equals what the contracts say."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Iterator, Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.amm.tick_math import sqrt_price_x96_at_tick
from arbgym.live import events
from arbgym.live.book import PoolBook
from arbgym.live.calls import MULTICALL3, CallReader, selector
from arbgym.live.clock import SystemClock
from arbgym.live.endpoint import LocatedEndpoint, connect
from arbgym.live.feed import FLASH_SWAP_RAW, ChainFeed, WatchedLender, discover_pool
from arbgym.live.prices import mid_price
from arbgym.live.reference import PoolReference
from arbgym.live.terms import Call, ChainView, FeedBroken, FeedDown, LiveError, PoolModel, Refused, Unknown, WatchedPool
from tests.chain.anvil import Anvil
from tests.chain.market import Market

AGGREGATE = (Path(__file__).parent / "multicall" / "Aggregate.hex").read_text().strip()
UNIT = 10**18


class World:
    """Three pools of two tokens with liquidity, on a node, and somebody who trades at random. ``coarse`` is PancakeSwap's."""

    def __init__(self, anvil: Anvil, seed: int = 1) -> None:
        self.anvil, self.market, self.random = anvil, Market(anvil, (18, 18)), random.Random(seed)
        price = sqrt_price_x96_at_tick(-7)
        self.v2 = self.market.v2_pool(900 * UNIT, 901 * UNIT)
        self.fine, self.coarse = self.market.v3_pool(500, price), self.market.pancake_pool(3000, 60, price)
        self.spacing = {self.fine: 10, self.coarse: 60}
        self.positions: list[tuple[str, int, int, int]] = []
        for pool in (self.fine, self.coarse):
            self.mint(pool, -120 * self.spacing[pool], 120 * self.spacing[pool], 10**22)
        for _ in range(6):
            self.mint_somewhere()

    def mint(self, pool: str, lower: int, upper: int, liquidity: int) -> None:
        self.market.mint_v3(pool, lower, upper, liquidity)
        self.positions.append((pool, lower, upper, liquidity))

    def mint_somewhere(self) -> None:
        pool = self.random.choice((self.fine, self.coarse))
        lower, upper = sorted(self.random.sample(range(-40, 40), 2))
        self.mint(pool, lower * self.spacing[pool], upper * self.spacing[pool], self.random.randrange(10**19, 10**22))

    def act(self) -> None:
        """One random transaction, which is one block."""
        draw, rand = self.random.random(), self.random
        if draw < 0.2:
            self.mint_somewhere()
        elif draw < 0.4 and len(self.positions) > 2:
            pool, lower, upper, liquidity = self.positions.pop(rand.randrange(2, len(self.positions)))
            part = liquidity if rand.random() < 0.5 else liquidity // 3
            self.market.burn_v3(pool, lower, upper, part)
            if part < liquidity:
                self.positions.append((pool, lower, upper, liquidity - part))
        elif draw < 0.7:
            pool = rand.choice((self.fine, self.coarse))
            self.market.swap_v3(pool, rand.random() < 0.5, rand.choice((1, -1)) * rand.randrange(1, 40 * UNIT))
        elif draw < 0.8:
            self.market.send(self.market.trader.functions.mintV2(self.v2, 9 * UNIT, 9 * UNIT))
        else:
            self.market.swap_v2(self.v2, rand.random() < 0.5, 2 * UNIT, UNIT)

    def url(self, scheme: str) -> str:
        return self.anvil.url.replace("http", scheme)

    @property
    def addresses(self) -> tuple[str, str, str]:
        return self.v2, self.fine, self.coarse


@pytest.fixture(scope="module")
def world(chain_packages: None) -> Iterator[World]:
    """One for all tests that only add blocks: each opens a feed of its own."""
    node = Anvil()
    yield World(node)
    node.kill()


@pytest.fixture
def new_world(anvil: Anvil) -> World:
    """One of the test's own, for those that take blocks back."""
    return World(anvil)


async def watched(endpoint: LocatedEndpoint, world: World) -> list[WatchedPool]:
    base = world.market.token0.address
    return [await discover_pool(endpoint, pool, base, name) for pool, name in zip(world.addresses, ("a", "b", "c"), strict=True)]


def state(pool: PoolModel) -> tuple[Any, ...]:
    if isinstance(pool, ConstantProductPool):
        return pool.reserve0, pool.reserve1, pool.fee
    return pool.sqrt_price_x96, pool.tick, pool.liquidity, pool.fee, dict(pool.ticks), dict(pool.liquidity_gross)


async def fresh(
    endpoint: LocatedEndpoint, pools: Sequence[WatchedPool], view: ChainView, **options: Any
) -> list[tuple[Any, ...]]:
    """States read from scratch at a view's block."""
    book, reader = PoolBook(pools, **options), CallReader(endpoint)
    await book.snapshot(view.head, reader)
    return [state(pool) for pool in book.pools]


def follow(world: World, scheme: str, story: Callable[[ChainFeed, LocatedEndpoint], Awaitable[None]], **options: Any) -> None:
    """Run a story with an open feed on the node."""

    async def run() -> None:
        clock = SystemClock()
        endpoint = connect(world.url(scheme), timeout_s=10.0, clock=clock, poll_s=0.01)
        pools = await watched(endpoint, world)
        feed = ChainFeed(endpoint, clock, chain_id=31337, pools=pools, head_timeout_s=5.0, check_every_blocks=1, **options)
        try:
            await story(feed, endpoint)
        finally:
            await feed.close()

    asyncio.run(run())


async def catch_up(feed: ChainFeed, world: World) -> list[ChainView]:
    """Views up to the node's newest block."""
    views = [await feed.next()]
    while views[-1].head.number < world.anvil.block_number:
        views.append(await feed.next())
    return views


# --------------------------------------------------------------------------------------------------- whatever happens there
@pytest.mark.parametrize("scheme", ["http", "ws"])
@pytest.mark.parametrize("multicall", [False, True])
def test_the_book_is_what_the_contracts_say_at_every_block(world: World, scheme: str, multicall: bool) -> None:
    world.anvil.call("anvil_setCode", MULTICALL3, AGGREGATE if multicall else "0x")
    world.anvil.mine()

    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        view = await feed.open()
        numbers = [view.head.number]
        for _ in range(15):
            world.act()
            view = await feed.next()
            numbers.append(view.head.number)
            assert [state(pool) for pool in view.pools] == await fresh(endpoint, feed.pools, view)
            assert view.reorg_depth == 0 and view.newest
        assert numbers == list(range(numbers[0], numbers[0] + 16))

    follow(world, scheme, story)


def test_a_view_s_pools_stay_as_they_were(world: World) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        kept = [await feed.open()]
        told = [[state(pool) for pool in kept[0].pools]]
        for _ in range(12):
            world.act()
            kept.append(await feed.next())
            told.append([state(pool) for pool in kept[-1].pools])
        assert [[state(pool) for pool in view.pools] for view in kept] == told

    follow(world, "http", story)


def test_missed_blocks_come_one_by_one_and_only_the_last_is_newest(world: World) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        first = await feed.open()
        for _ in range(7):
            world.act()
        views = [await feed.next() for _ in range(7)]
        assert [view.head.number for view in views] == list(range(first.head.number + 1, first.head.number + 8))
        assert [view.newest for view in views] == [False] * 6 + [True]
        for view in views:
            assert [state(pool) for pool in view.pools] == await fresh(endpoint, feed.pools, view)

    follow(world, "ws", story)


def test_the_window_of_ticks_follows_the_price(world: World) -> None:
    """One word of 10 x 256 ticks either side: the price is sent through and beyond it, and back."""
    for lower in range(-6000, 6000, 1500):
        world.mint(world.fine, lower, lower + 3000, 10**21)

    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        view = await feed.open()
        ranges = []
        for zero_for_one, target in ((True, -2000), (True, -5500), (False, 2300), (False, 5800), (True, 0)):
            limit = sqrt_price_x96_at_tick(target)
            world.market.send(world.market.trader.functions.swapV3(world.fine, zero_for_one, 10**30, limit))
            view = await feed.next()
            pool = view.pools[1]
            assert isinstance(pool, ConcentratedPool) and target - 1 <= pool.tick <= target
            ranges.append((min(pool.ticks), max(pool.ticks)))
            world.mint(world.fine, target // 10 * 10 - 100, 6000, 10**20)
            world.market.burn_v3(world.fine, -6000, -3000, 10**19)
            for _ in range(2):
                view = await feed.next()
            known = view.pools[1]
            assert isinstance(known, ConcentratedPool)
            book, reader = PoolBook(feed.pools), CallReader(endpoint)
            await book.snapshot(view.head, reader)
            anew = book.pools[1]
            assert isinstance(anew, ConcentratedPool)
            assert state(known)[:4] == state(anew)[:4]
            shared = [tick for tick in anew.ticks if abs(tick - anew.tick) < 477]
            assert shared and all(known.ticks[tick] == anew.ticks[tick] for tick in shared)
            assert all(abs(tick - known.tick) >= 477 or tick in anew.ticks for tick in known.ticks)
        assert len(set(ranges)) > 2

    follow(world, "http", story, window_words=1)


# ------------------------------------------------------------------------------------------------------- reorganisations
@pytest.mark.parametrize("scheme", ["http", "ws"])
def test_reorganisations_up_to_twelve_deep(new_world: World, scheme: str) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        await feed.open()
        for _ in range(13):
            new_world.act()
        await catch_up(feed, new_world)
        for depth in (1, 2, 5, 12):
            snapshot = new_world.anvil.call("evm_snapshot")
            ancestor = new_world.anvil.block_number
            for _ in range(depth):
                new_world.market.swap_v2(new_world.v2, True, UNIT, UNIT // 2)
            await catch_up(feed, new_world)
            positions = list(new_world.positions)
            new_world.anvil.call("evm_revert", snapshot)
            new_world.positions = positions
            for _ in range(depth + 1):
                new_world.act()
            views = await catch_up(feed, new_world)
            assert [view.head.number for view in views] == list(range(ancestor + 1, ancestor + depth + 2))
            assert [view.reorg_depth for view in views] == [depth] + [0] * depth
            for view in views:
                assert [state(pool) for pool in view.pools] == await fresh(endpoint, feed.pools, view)

    follow(new_world, scheme, story)


def test_a_chain_of_the_same_height_replaces_ours(new_world: World) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        await feed.open()
        for depth in range(1, 13):
            while new_world.anvil.block_number < 60 + 2 * depth:
                new_world.market.swap_v2(new_world.v2, True, UNIT, UNIT // 2)
            view = (await catch_up(feed, new_world))[-1]
            new_world.anvil.call("anvil_reorg", depth, [])
            replaced = await feed.next()
            assert replaced.reorg_depth == depth and replaced.head.number == view.head.number - depth + 1
            while not replaced.newest:
                replaced = await feed.next()
                assert replaced.reorg_depth == 0
            assert replaced.head.number == view.head.number and replaced.head.hash != view.head.hash
            assert [state(pool) for pool in replaced.pools] == await fresh(endpoint, feed.pools, replaced)

    follow(new_world, "http", story)


def test_thirteen_deep_stops_the_feed(new_world: World) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        await feed.open()
        for _ in range(14):
            new_world.act()
        await catch_up(feed, new_world)
        new_world.anvil.call("anvil_reorg", 13, [])
        with pytest.raises(FeedBroken, match="up to 12 deep"):
            await feed.next()
        new_world.anvil.mine()
        with pytest.raises(FeedBroken, match="up to 12 deep"):  # it does not heal
            await feed.next()

    follow(new_world, "http", story)


def test_a_reorganisation_below_the_first_block_read(new_world: World) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        opened = await feed.open()
        new_world.act()
        await feed.next()
        new_world.anvil.call("anvil_reorg", 4, [])
        view = await feed.next()
        assert (view.reorg_depth, view.head.number) == (2, opened.head.number)
        while not view.newest:
            view = await feed.next()
        assert [state(pool) for pool in view.pools] == await fresh(endpoint, feed.pools, view)

    follow(new_world, "http", story)


def test_a_second_reorganisation_below_the_first_one_s_fork(new_world: World) -> None:
    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        def trade(blocks: int) -> None:
            for _ in range(blocks):
                new_world.market.swap_v2(new_world.v2, True, UNIT, UNIT // 2)

        await feed.open()
        trade(20)
        low = new_world.anvil.call("evm_snapshot")
        forks = new_world.anvil.block_number
        trade(4)
        high = new_world.anvil.call("evm_snapshot")
        trade(12)
        await catch_up(feed, new_world)
        new_world.anvil.call("evm_revert", high)
        new_world.market.swap_v3(new_world.fine, True, UNIT)
        assert [view.reorg_depth for view in await catch_up(feed, new_world)] == [12]
        new_world.anvil.call("evm_revert", low)
        new_world.market.swap_v3(new_world.fine, False, UNIT)
        trade(1)
        views = await catch_up(feed, new_world)
        assert [(view.head.number, view.reorg_depth) for view in views] == [(forks + 1, 5), (forks + 2, 0)]
        for view in views:
            assert [state(pool) for pool in view.pools] == await fresh(endpoint, feed.pools, view)

    follow(new_world, "http", story)


# ------------------------------------------------------------------------------------------------- what else a view says
def test_flow_balance_lenders_and_reference(world: World) -> None:
    account = world.market.web3.eth.accounts[3].lower()
    trader = world.market.trader.address.lower()
    lenders = (
        WatchedLender("uniswap_v3_flash_swap", "flash_swap"),
        WatchedLender("balancer_v2", "balance", trader),
        WatchedLender("maker", "balance", account),
    )

    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        view = await feed.open()
        assert view.flow_base == (0.0, 0.0, 0.0)
        world.market.swap_v2(world.v2, True, 2 * UNIT, UNIT)
        view = await feed.next()
        held = world.market.token1.functions.balanceOf(world.market.trader.address).call()
        assert view.flow_base == (2.0, 0.0, 0.0)
        assert view.lenders_raw == (FLASH_SWAP_RAW, held, 0)
        assert view.balance_wei == world.market.web3.eth.get_balance(world.market.web3.eth.accounts[3])
        before = view.pools[1]
        world.market.swap_v3(world.fine, False, -UNIT)
        view = await feed.next()
        assert view.flow_base == (0.0, -1.0, 0.0)
        assert view.reference is not None
        assert view.reference.price == mid_price(view.pools[1], feed.pools[1]) > mid_price(before, feed.pools[1])
        assert view.reference.time_s == view.head.timestamp

    follow(world, "http", story, account=account, lenders=lenders, reference=PoolReference(1))


def test_a_rival_s_atomic_trade_and_its_tip(new_world: World) -> None:
    """V3 gives a token on credit's stead of the trader, V2 takes it for more: one transaction."""
    new_world.anvil.call("anvil_setCode", MULTICALL3, AGGREGATE)
    new_world.market.swap_v2(new_world.v2, False, 100 * UNIT, 80 * UNIT)  # base is dear on V2
    web3, trader = new_world.market.web3, new_world.market.trader
    limit = sqrt_price_x96_at_tick(800000)
    buy = trader.encode_abi("swapV3", [new_world.fine, False, -UNIT, limit])
    sell = trader.encode_abi("swapV2", [new_world.v2, new_world.market.token0.address, UNIT, 0, 11 * UNIT // 10])
    from eth_abi.abi import encode

    asked = [(trader.address, False, bytes.fromhex(call[2:])) for call in (buy, sell)]
    calldata = selector("aggregate3((address,bool,bytes)[])") + encode(["(address,bool,bytes)[]"], [asked]).hex()
    tip = 3 * 10**9
    ours = web3.eth.accounts[1]

    async def story(feed: ChainFeed, endpoint: LocatedEndpoint) -> None:
        await feed.open()
        found = []
        for sender in (web3.eth.accounts[0], ours):
            sent = {"from": sender, "to": web3.to_checksum_address(MULTICALL3), "data": calldata, "gas": 1_000_000}
            sent |= {"maxPriorityFeePerGas": tip, "maxFeePerGas": 10**11}
            receipt = web3.eth.wait_for_transaction_receipt(web3.eth.send_transaction(sent), poll_latency=0.005)
            assert receipt["status"] == 1
            found.append((receipt, await feed.next()))
        (receipt, view), (_, own) = found
        (rival,) = view.rivals
        paid = [log for log in receipt["logs"] if log["topics"][0].to_0x_hex() == events.V3_SWAP]
        cost = int.from_bytes(bytes(paid[0]["data"])[32:64], "big")
        assert rival.transaction == receipt["transactionHash"].to_0x_hex()
        assert rival.profit_quote == (11 * UNIT // 10 - cost) / UNIT > 0.05
        price = mid_price(view.pools[0], feed.pools[0])
        assert rival.tip_quote == pytest.approx(tip * receipt["gasUsed"] / 1e18 * price)
        assert own.rivals == ()  # our own account's
        new_world.act()
        assert (await feed.next()).rivals == ()

    follow(new_world, "http", story, account=ours.lower())


def test_discovery_refuses_what_is_no_pool(world: World) -> None:
    async def run() -> None:
        endpoint = connect(world.anvil.url, timeout_s=5.0, clock=SystemClock())
        base, other = world.market.token0.address, world.market.trader.address
        pool = await discover_pool(endpoint, world.coarse, world.market.token1.address, "c")
        assert (pool.kind, pool.fee_ppm, pool.tick_spacing, pool.base_is_token0) == ("v3", 3000, 60, False)
        with pytest.raises(FeedBroken, match="is none; accepted"):
            await discover_pool(endpoint, other, base, "x")
        with pytest.raises(FeedBroken, match="none of them the base token"):
            await discover_pool(endpoint, world.v2, other, "x")
        with pytest.raises(FeedBroken, match="accepted is an address"):
            await discover_pool(endpoint, "0x12", base, "x")
        clock = SystemClock()
        feed = ChainFeed(endpoint, clock, chain_id=1, pools=[pool])
        with pytest.raises(FeedBroken, match="chain_id = 31337; accepted is 1"):
            await feed.open()
        await feed.close()

    asyncio.run(run())


# --------------------------------------------------------------------------------------- a node that does not tell the truth
class Tampered:
    """A node whose answers somebody changes on the way: ``change(method, answer) -> answer``."""

    def __init__(self, node: LocatedEndpoint) -> None:
        self.node = node
        self.change: Callable[[str, Any], Any] = lambda method, answer: answer
        self.requests = 0

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        self.requests += 1
        return self.change(method, await self.node.request(method, parameters))

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        self.requests += 1
        answers = await self.node.batch(calls)
        return [self.change(method, answer) for (method, _), answer in zip(calls, answers, strict=True)]

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        return dict(self.change("eth_getBlockByNumber", await self.node.next_head(timeout_s)))

    async def close(self) -> None:
        await self.node.close()


def tamper(world: World, story: Callable[[ChainFeed, Tampered], Awaitable[None]], check_every_blocks: int = 10**6) -> None:
    """Run a story with an open feed on a node whose answers may be changed."""

    async def run() -> None:
        clock = SystemClock()
        node = connect(world.anvil.url, timeout_s=10.0, clock=clock, poll_s=0.01)
        tampered = Tampered(node)
        pools = await watched(node, world)
        feed = ChainFeed(tampered, clock, chain_id=31337, pools=pools, head_timeout_s=5.0, check_every_blocks=check_every_blocks)
        try:
            await feed.open()
            await story(feed, tampered)
        finally:
            await feed.close()

    asyncio.run(run())


def test_what_others_ask_along_costs_no_request_and_keeps_nobody_from_a_block(world: World) -> None:
    account = world.market.trader.address.lower()
    asked: list[Call] = [("eth_getTransactionCount", [account, "latest"]), ("eth_blockNumber", [])]

    async def story(feed: ChainFeed, node: Tampered) -> None:
        before = node.requests
        world.act()
        alone = await feed.next()
        needed = node.requests - before
        assert alone.along == ()
        feed.asks_along = lambda: asked
        before = node.requests
        world.anvil.mine()
        view = await feed.next()
        assert node.requests - before <= needed
        assert [call for call, _ in view.along] == asked
        assert [int(told, 16) for _, told in view.along][1] == view.head.number
        # as a node that has no receipts yet refuses them
        feed.asks_along = lambda: [("eth_noSuchMethod", [])]
        world.anvil.mine()
        view = await feed.next()
        assert view.head.number == world.anvil.block_number and view.along == ()
        # as a node that refuses the batch as a whole, or leaves an answer out
        whole = node.batch

        async def no_more_than_its_own(calls: Sequence[Call]) -> list[Any]:
            if asked[0] in calls:
                raise Unknown("batch", "malformed", "an answer is missing")
            return await whole(calls)

        node.batch = no_more_than_its_own  # type: ignore[method-assign]
        feed.asks_along = lambda: asked
        world.anvil.mine()
        view = await feed.next()
        assert view.head.number == world.anvil.block_number and view.along == ()

    tamper(world, story)


def without_bloom(method: str, answer: Any) -> Any:
    """As a node that does not tell the header's filter."""
    return {name: held for name, held in answer.items() if name != "logsBloom"} if "Block" in method else answer


def test_lost_logs_are_told_by_the_header_s_filter(world: World) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        node.change = lambda method, answer: [] if method == "eth_getLogs" else answer
        world.anvil.mine()
        assert (await feed.next()).flow_base == (0.0, 0.0, 0.0)  # nothing happened, nothing is lost
        world.market.swap_v2(world.v2, True, UNIT, UNIT // 2)
        with pytest.raises(FeedBroken, match=r"pool a: state = .*; accepted is the chain's"):
            await feed.next()

    tamper(world, story)


def test_lost_logs_are_told_by_reading_the_state(world: World) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        node.change = lambda method, answer: [] if method == "eth_getLogs" else without_bloom(method, answer)
        world.market.swap_v3(world.coarse, True, UNIT)
        with pytest.raises(FeedBroken, match=r"pool c: state = .*; accepted is the chain's"):
            await feed.next()

    tamper(world, story, check_every_blocks=1)


def test_a_lost_mint_is_told_by_the_swap_that_crosses_its_ticks(world: World) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        node.change = lambda method, answer: [] if method == "eth_getLogs" else without_bloom(method, answer)
        world.mint(world.fine, -500, -300, 10**21)
        await feed.next()
        node.change = without_bloom
        world.market.send(world.market.trader.functions.swapV3(world.fine, True, 10**30, sqrt_price_x96_at_tick(-400)))
        with pytest.raises(FeedBroken, match=r"pool b, log .*by the ticks held: a log is missing"):
            await feed.next()

    tamper(world, story)


def test_repeated_disordered_and_foreign_logs_change_nothing(world: World) -> None:
    def muddle(method: str, answer: Any) -> Any:
        if method != "eth_getLogs":
            return answer
        foreign = [log | {"blockHash": "0x" + 64 * "a", "data": "0x"} for log in answer]
        taken_back = [log | {"removed": True, "logIndex": hex(99)} for log in answer]
        return [*foreign, *reversed(answer), *answer, *taken_back]

    async def story(feed: ChainFeed, node: Tampered) -> None:
        node.change = muddle
        for _ in range(10):
            world.act()
            view = await feed.next()
            assert [state(pool) for pool in view.pools] == await fresh(node.node, feed.pools, view)

    tamper(world, story)


def test_one_request_a_block_and_one_more_for_its_check(world: World) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        for _ in range(3):
            world.market.swap_v2(world.v2, True, UNIT, UNIT // 2)
            before = node.requests
            await feed.next()
            assert node.requests == before + 1

    tamper(world, story)


@pytest.mark.parametrize("error", [Unknown("eth_getLogs", "timeout"), Refused("eth_getLogs", -32000, "unknown block")])
def test_after_no_answer_the_same_block_is_taken(world: World, error: LiveError) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        def fail(method: str, answer: Any) -> Any:
            if method == "eth_getLogs":
                raise error
            return answer

        for _ in range(3):
            world.act()
        number = world.anvil.block_number
        node.change = fail
        for _ in range(2):
            with pytest.raises(FeedDown):
                await feed.next()
        node.change = lambda method, answer: answer
        views = await catch_up(feed, world)
        assert [view.head.number for view in views] == [number - 2, number - 1, number]
        assert [state(pool) for pool in views[-1].pools] == await fresh(node.node, feed.pools, views[-1])

    tamper(world, story)


def test_a_node_that_lags_behind_is_waited_for(world: World) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        old = await node.node.request("eth_getBlockByNumber", ["latest", False])
        for _ in range(2):
            world.act()
        await catch_up(feed, world)
        stale, told = [old, old], node.next_head

        async def lagging(timeout_s: float) -> Any:
            return stale.pop() if stale else await told(timeout_s)

        world.act()
        node.next_head = lagging
        view = await feed.next()
        assert not stale and (view.head.number, view.reorg_depth) == (world.anvil.block_number, 0)

    tamper(world, story)


def test_a_header_without_a_base_fee_is_refused(world: World) -> None:
    async def story(feed: ChainFeed, node: Tampered) -> None:
        node.change = lambda method, answer: answer | {"baseFeePerGas": None} if "Block" in method else answer
        world.anvil.mine()
        with pytest.raises(FeedBroken, match="only chains with EIP-1559"):
            await feed.next()

    tamper(world, story)


# --------------------------------------------------------------------------------------------------------------- any JSON
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0x", "0x1", "0x" + 64 * "f"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
    max_leaves=6,
)


class Replayed:
    """What a node said once, with one place in it changed."""

    def __init__(self, told: dict[str, Any], heads: list[Any]) -> None:
        self.told, self.heads = told, heads

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        found = self.told.get(f"{method} {list(parameters)}")
        if found is None:
            raise Unknown(method, "timeout")
        return found

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [await self.request(method, parameters) for method, parameters in calls]

    async def next_head(self, timeout_s: float) -> Any:
        if not self.heads:
            raise Unknown("next_head", "timeout")
        return self.heads.pop(0)

    async def close(self) -> None:
        pass


def places(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place within a JSON value."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, held in inner for place in places(held, (*path, key)))]


def changed(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    copied = deepcopy(value)
    at = copied
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = new
    return copied


def test_whatever_json_a_node_answers_only_live_errors_come_out(new_world: World) -> None:
    told: dict[str, Any] = {}
    heads: list[Any] = []
    pools: list[WatchedPool] = []
    states: list[Any] = []

    class Recording(Tampered):
        async def request(self, method: str, parameters: Sequence[Any]) -> Any:
            told[f"{method} {list(parameters)}"] = answer = await super().request(method, parameters)
            return answer

        async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
            return [await self.request(method, parameters) for method, parameters in calls]

        async def next_head(self, timeout_s: float) -> Any:
            heads.append(await super().next_head(timeout_s))
            return heads[-1]

    options: dict[str, Any] = {"chain_id": 31337, "account": "0x" + 40 * "1", "check_every_blocks": 1}
    lenders = [WatchedLender("maker", "balance", "0x" + 40 * "2")]

    async def record() -> None:
        clock = SystemClock()
        node = Recording(connect(new_world.anvil.url, timeout_s=5.0, clock=clock, poll_s=0.01))
        pools.extend(await watched(node.node, new_world))
        feed = ChainFeed(node, clock, pools=pools, lenders=lenders, **options)
        await feed.open()
        latest = told.pop("eth_getBlockByNumber ['latest', False]")
        new_world.market.swap_v3(new_world.fine, True, UNIT)
        states.append([state(pool) for pool in (await feed.next()).pools])
        new_world.mint(new_world.coarse, -600, 600, 10**20)
        states.append([state(pool) for pool in (await feed.next()).pools])
        told["eth_getBlockByNumber ['latest', False]"] = latest
        await feed.close()

    asyncio.run(record())
    heads[:] = [head for head in heads if head["hash"] != told["eth_getBlockByNumber ['latest', False]"]["hash"]]

    async def run(answers: dict[str, Any], later: list[Any]) -> None:
        feed = ChainFeed(Replayed(answers, later), SystemClock(), pools=pools, lenders=lenders, **options)
        seen: list[Any] = []
        try:
            await feed.open()
            for _ in range(4):
                try:
                    seen.append([state(pool) for pool in (await feed.next()).pools])
                except FeedDown:
                    continue
        except LiveError:
            return
        assert seen in ([], states[:1], states)  # whatever came out is right

    asyncio.run(run(told, list(heads)))

    @settings(max_examples=150, deadline=None)
    @given(st.data())
    def fuzz(data: st.DataObject) -> None:
        spots = [(key, path) for key, value in {**told, "": heads}.items() for path in places(value)]
        key, path = data.draw(st.sampled_from(spots))
        new = data.draw(JSON)
        if key:
            asyncio.run(run(told | {key: changed(told[key], path, new)}, list(heads)))
        else:
            damaged = changed(heads, path, new)
            asyncio.run(run(told, damaged if isinstance(damaged, list) else [damaged]))

    fuzz()


@settings(max_examples=200, deadline=None)
@given(JSON, st.sampled_from(["v2", "v3"]))
def test_any_json_is_refused_by_name_or_read(value: Any, kind: Any) -> None:
    with pytest.raises(events.Malformed, match="accepted is"):
        events.read_header(value)
    if value != []:
        with pytest.raises(events.Malformed, match="accepted is"):
            events.read_logs(value, "0x" + 64 * "a")
    for topic in events.TOPICS[kind]:
        log = events.Log("0x" + 40 * "1", (topic,), "0x12", "0x" + 64 * "2", 1)
        with pytest.raises(events.Malformed, match=r"log 1 of .*; accepted is"):
            events.decode(log, kind)
