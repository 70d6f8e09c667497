"""A chain's blocks as ``ChainView``s: heads, logs, reorganisations and lost blocks, in as few requests as can be.

One batch per block: the logs of that very block by its hash, the account's balance, what the lenders hold, and what others want
to know of it (``asks_along``). What could have been lost is found in three ways, and stops the feed instead of being healed:
each V3 Swap's liquidity against the ticks that it crossed; the header's log filter, which names every pool that has an event;
and prices and reserves read from the contracts every ``check_every_blocks`` blocks (and at once where the filter and the logs
disagree).
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal, NoReturn

from arbgym.live.book import REORG_LIMIT, Held, PoolBook, PoolSwap, Step
from arbgym.live.calls import CallReader, Read, call_request, selector
from arbgym.live.events import (
    TOPICS,
    Header,
    Malformed,
    address_of,
    bloom_mask,
    quantity,
    read_header,
    read_logs,
    signed,
    words,
)
from arbgym.live.prices import mid_price
from arbgym.live.reference import PoolReference, ReferenceSource
from arbgym.live.rivals import find_cycles, rival_trade
from arbgym.live.terms import (
    Call,
    ChainView,
    Clock,
    Endpoint,
    FeedBroken,
    FeedDown,
    Head,
    Reference,
    Refused,
    RivalTrade,
    Unknown,
    WatchedPool,
)

FLASH_SWAP_RAW = 10**30  # what a flash swap lends, raw: the pool itself is its limit
_FLASH_SWAPS = ("uniswap_v2_flash_swap", "uniswap_v3_flash_swap")
_HASHES_KEPT = 256  # numbers and hashes of blocks taken, by which a node that lags behind is told from a reorganisation
_HEADERS_AT_ONCE = 50
_BALANCE_OF = selector("balanceOf(address)")


@dataclass(frozen=True, slots=True)
class WatchedLender:
    """A lender of the quote token: ``name`` as in ``arbgym.market.lender``; ``kind`` "flash_swap" (the pool itself, always open)
    or "balance" (what ``address`` holds of the quote token: a vault, or Aave's aToken).
    """

    name: str
    kind: Literal["flash_swap", "balance"]
    address: str = ""

    def __post_init__(self) -> None:
        if (self.kind == "flash_swap") != (self.name in _FLASH_SWAPS) or self.kind not in ("flash_swap", "balance"):
            raise ValueError(f"lender {self.name}: kind = {self.kind!r}; accepted is flash_swap for {_FLASH_SWAPS}, else balance")
        if self.kind == "balance" and not _is_address(self.address):
            raise ValueError(
                f"lender {self.name}: address = {self.address!r}; accepted is 0x and 40 lower-case hexadecimal digits"
            )


def _is_address(value: str) -> bool:
    return len(value) == 42 and value.startswith("0x") and set(value[2:]) <= set("0123456789abcdef")


class ChainFeed:
    """A ``Feed`` of a real chain.

    Args:
        endpoint: the node.
        clock: for time-outs.
        chain_id: what the node must answer; another is FeedBroken.
        pools: watched pools, all of the same two tokens.
        lenders: in the order of ``ChainView.lenders_raw``.
        account: pays gas; None for ``balance_wei`` 0. Its own trades are not rivals'.
        reference: an outside price; None for none. It is started and closed with the feed.
        coin: which token of the pair the chain's own coin is priced in (rivals' tips are turned into quote token by it).
        coin_price: of the coin, in that token.
        head_timeout_s: how long to wait for a head before FeedDown.
        check_every_blocks: how often prices and reserves are read from the contracts and compared; 1 for each block.
        window_words: as in ``PoolBook``.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        clock: Clock,
        *,
        chain_id: int,
        pools: Sequence[WatchedPool],
        lenders: Sequence[WatchedLender] = (),
        account: str | None = None,
        reference: ReferenceSource | None = None,
        coin: Literal["base", "quote"] = "base",
        coin_price: float = 1.0,
        head_timeout_s: float = 30.0,
        check_every_blocks: int = 16,
        window_words: int | None = None,
    ) -> None:
        if check_every_blocks < 1:
            raise ValueError(f"check_every_blocks = {check_every_blocks}; accepted is 1 or more")
        if not 0.0 < head_timeout_s < float("inf"):
            raise ValueError(f"head_timeout_s = {head_timeout_s}; accepted is a positive number of seconds")
        if account is not None and not _is_address(account):
            raise ValueError(f"account = {account!r}; accepted is 0x and 40 lower-case hexadecimal digits")
        self._book = PoolBook(pools, window_words)
        self._watched = self._book.watched
        for pool in self._watched:
            if (pool.base, pool.quote) != (self._watched[0].base, self._watched[0].quote):
                raise ValueError(
                    f"pool {pool.name}: tokens = {pool.base}, {pool.quote}; accepted are those of {self._watched[0].name}"
                )
        self.asks_along: Callable[[], Sequence[Call]] = tuple
        """more to ask with each block, in the same request; for ``ChainView.along``"""
        self._endpoint, self._clock, self._reader = endpoint, clock, CallReader(endpoint)
        self._chain_id, self._lenders, self._account = chain_id, tuple(lenders), account
        self._reference, self._coin, self._coin_price = reference, coin, coin_price
        self._head_timeout_s, self._check_every_blocks = head_timeout_s, check_every_blocks
        self._everything = range(len(self._watched))
        self._coming: deque[Header] = deque()  # known successors of the book's head
        self._hashes: OrderedDict[int, str] = OrderedDict()
        self._reorg_depth = 0  # blocks handed on and undone since
        self._behind = False  # something failed: the newest head is asked for, not waited for
        self._trust_bloom = True
        self._broken: FeedBroken | None = None

    @property
    def pools(self) -> tuple[WatchedPool, ...]:
        """What is watched, in the order of ``ChainView.pools``."""
        return self._watched

    async def open(self) -> ChainView:
        """Connect, read every state from scratch and return the newest block's view. Raises FeedBroken, FeedDown."""
        try:
            chain_id = quantity("eth_chainId", await self._endpoint.request("eth_chainId", []))
            if chain_id != self._chain_id:
                raise FeedBroken(f"chain_id = {chain_id}; accepted is {self._chain_id}, that of the configuration")
            head = (await self._newest()).head
            await self._reader.find_multicall(head.hash)
            await self._book.snapshot(head, self._reader)
            balance, lenders = self._funds(await self._endpoint.batch(list(self._fund_requests(head.hash))))
        except (Refused, Unknown) as error:
            raise FeedDown(f"feed: {error}") from error
        self._coming.clear()
        self._hashes.clear()
        self._remember(head)
        self._behind = False
        self._broken = None
        self._reorg_depth = 0
        if self._reference is not None:
            await self._reference.start()
        return self._view(head, (0.0,) * len(self._watched), lenders, balance, ())

    async def next(self) -> ChainView:
        """The next block's view, waiting for it. Raises FeedDown (ask again) and FeedBroken (halt)."""
        if self._broken is not None:
            raise self._broken
        try:
            if not self._coming:
                await self._find_coming()
            return await self._advance(self._coming[0])
        except (Refused, Unknown) as error:
            self._coming.clear()
            self._behind = True
            raise FeedDown(f"feed: {error}") from error
        except FeedBroken as error:
            self._broken = error
            raise

    async def close(self) -> None:
        """Let go of the node and of the outside price."""
        if self._reference is not None:
            await self._reference.close()
        await self._endpoint.close()

    # ------------------------------------------------------------------------------------------------------------- heads
    async def _find_coming(self) -> None:
        """Wait until there are blocks after the book's head; a reorganisation takes the book back to the fork first."""
        until = self._clock.monotonic() + self._head_timeout_s
        while not self._coming:
            if self._behind:
                header = await self._newest()
            else:
                left_s = until - self._clock.monotonic()
                if left_s <= 0.0:
                    raise Unknown("next_head", "timeout", f"no new head in {self._head_timeout_s:g} s")
                header = read_header(await self._endpoint.next_head(left_s))
            self._behind = True
            first = next(iter(self._hashes), 0)  # what is below all that was taken can only be a node that lags behind
            if header.head.number >= first and self._hashes.get(header.head.number) != header.head.hash:  # else it is ours
                path = await self._path_to(header)
                await self._go_back(path[0].head.parent_hash, path[0].head.number - 1)
                self._coming.extend(path)
            self._behind = False

    async def _path_to(self, header: Header) -> list[Header]:
        """Headers from the successor of a block that was taken (or that stands below all of them) to ``header``."""
        if header.head.parent_hash == self._book.head.hash and header.head.number == self._book.head.number + 1:
            return [header]
        taken = {hash_: number for number, hash_ in self._hashes.items()} | {head.hash: head.number for head in self._book.heads}
        newest = self._book.head.number
        first = next(iter(self._hashes), newest + 1)  # the lowest block handed on
        between: list[Header] = []
        while header.head.number - 1 > newest + len(between):  # blocks that were missed
            start = newest + 1 + len(between)
            numbers = range(start, min(start + _HEADERS_AT_ONCE, header.head.number))
            found = await self._endpoint.batch([("eth_getBlockByNumber", [hex(number), False]) for number in numbers])
            between += [self._existing(one, f"block {number}") for number, one in zip(numbers, found, strict=True)]
        path = [*between, header]
        for earlier, later in pairwise(path):
            if later.head.parent_hash != earlier.head.hash:
                raise Unknown("eth_getBlockByNumber", "malformed", f"block {later.head.number}: the chain changed meanwhile")
        while path[0].head.parent_hash not in taken:
            lowest, parent = path[0].head.number, path[0].head.parent_hash
            depth = newest + self._reorg_depth - lowest + (1 if lowest <= first else 2)  # at least
            if depth > REORG_LIMIT:
                raise FeedBroken(
                    f"block {header.head.number} {header.head.hash}: it replaces {depth} or more of the blocks taken; "
                    f"accepted is a reorganisation up to {REORG_LIMIT} deep"
                )
            if lowest <= first:
                break
            path.insert(0, await self._by_hash(parent))
        for number, one in enumerate(path, taken.get(path[0].head.parent_hash, first - 1) + 1):
            if one.head.number != number:
                raise Malformed("header.number", one.head.number, f"{number}, its parent's and one")
        return path

    async def _go_back(self, ancestor: str, number: int) -> None:
        """Take the book to the end of a block; it is read again where the book does not reach back so far."""
        depth = self._book.head.number - number
        if any(head.hash == ancestor for head in self._book.heads):
            self._book.undo(ancestor)
        else:
            await self._book.snapshot((await self._by_hash(ancestor)).head, self._reader)
        self._reorg_depth += depth
        for undone in [held for held in self._hashes if held > number]:
            del self._hashes[undone]

    async def _by_hash(self, block_hash: str) -> Header:
        found = self._existing(await self._endpoint.request("eth_getBlockByHash", [block_hash, False]), f"block {block_hash}")
        if found.head.hash != block_hash:
            raise Malformed("eth_getBlockByHash.hash", found.head.hash, block_hash)
        return found

    async def _newest(self) -> Header:
        return self._existing(await self._endpoint.request("eth_getBlockByNumber", ["latest", False]), "the newest block")

    @staticmethod
    def _existing(told: Any, what: str) -> Header:
        if told is None:  # a node behind another, or the chain changed meanwhile
            raise Unknown("header", "malformed", f"{what} is not there")
        return read_header(told)

    def _remember(self, head: Head) -> None:
        self._hashes[head.number] = head.hash
        if len(self._hashes) > _HASHES_KEPT:
            self._hashes.popitem(last=False)

    # ------------------------------------------------------------------------------------------------------------ one block
    async def _advance(self, header: Header) -> ChainView:
        """Take the next block: one batch, more only where something must be read again."""
        head = header.head
        check = head.number % self._check_every_blocks == 0
        reads = self._book.price_reads(self._everything) if check else []
        funds = list(self._fund_requests(head.hash))
        answers, along = await self._ask(
            [
                ("eth_getLogs", [self._filter | {"blockHash": head.hash}]),
                *funds,
                *(call_request(read, head.hash) for read in reads),
            ]
        )
        logs = read_logs(answers[0], head.hash)
        balance, lenders = self._funds(answers[1 : 1 + len(funds)])
        step = self._book.step(logs)
        states = await self._states(step, head)
        prices = answers[1 + len(funds) :]
        agree = self._bloom_agrees(header.logs_bloom, step.touched)
        if not check and not agree:
            prices = await self._reader.read(self._book.price_reads(self._everything), head.hash)
        if check or not agree:
            self._book.check(self._everything, prices, states, head)
        if not agree and step.touched:
            self._trust_bloom = header.logs_bloom is not None and self._blooms(header.logs_bloom) >= step.touched
        receipts = {parameters[0]: told for (method, parameters), told in along if method == "eth_getTransactionReceipt"}
        rivals = await self._rivals(step.swaps, states, head, receipts)

        self._coming.popleft()
        self._book.commit(head, states)
        self._remember(head)
        flow = tuple(self._flow(step.swaps, index) for index in self._everything)
        return self._view(head, flow, lenders, balance, rivals, along)

    async def _ask(self, calls: Sequence[Call]) -> tuple[list[Any], tuple[tuple[Call, Any], ...]]:
        """Answers to the feed's own requests, and what was asked along with them."""
        along = list(self.asks_along())
        try:
            answers = await self._endpoint.batch([*calls, *along])
        except (Refused, Unknown) as error:
            if not along or (isinstance(error, Unknown) and error.kind != "malformed"):
                raise
            # an error names none of a batch's requests: what others asked must not keep the feed from its block
            return await self._endpoint.batch(calls), ()
        return answers[: len(calls)], tuple(zip(along, answers[len(calls) :], strict=True))

    def _view(
        self,
        head: Head,
        flow: tuple[float, ...],
        lenders: tuple[int, ...],
        balance: int,
        rivals: tuple[RivalTrade, ...],
        along: tuple[tuple[Call, Any], ...] = (),
    ) -> ChainView:
        if isinstance(self._reference, PoolReference):
            self._reference.observe(head, self._book.pools, self._watched)
        depth, self._reorg_depth = self._reorg_depth, 0
        return ChainView(
            head, self._book.pools, flow, lenders, balance, self._outside_price(), rivals, depth, not self._coming, along
        )

    def _outside_price(self) -> Reference | None:
        return None if self._reference is None else self._reference.latest()

    def _flow(self, swaps: Sequence[PoolSwap], index: int) -> float:
        raw = sum(swap.base_raw for swap in swaps if swap.pool == index)
        return float(raw / 10 ** self._watched[index].base_decimals)

    async def _states(self, step: Step, head: Head) -> tuple[Held, ...]:
        """States at the end of the block, those read again whose price left what was known of the ticks."""
        if not step.to_read:
            return step.states
        places = sorted(step.to_read)
        found = dict(zip(places, await self._book.read(places, head.hash, self._reader), strict=True))
        return tuple(found.get(index, held) for index, held in enumerate(step.states))

    # -------------------------------------------------------------------------------------------------- what could be lost
    @cached_property
    def _filter(self) -> dict[str, Any]:
        kinds = sorted({pool.kind for pool in self._watched})
        return {
            "address": [pool.address for pool in self._watched],
            "topics": [[topic for kind in kinds for topic in TOPICS[kind]]],
        }

    @cached_property
    def _masks(self) -> list[tuple[int, list[int]]]:
        """Each pool's bits of the header's filter, and those of its events."""
        return [(bloom_mask(pool.address), [bloom_mask(topic) for topic in TOPICS[pool.kind]]) for pool in self._watched]

    def _blooms(self, bloom: int) -> frozenset[int]:
        """Pools of which the header's filter says that there may be events."""
        return frozenset(
            index
            for index, (address, topics) in enumerate(self._masks)
            if bloom & address == address and any(bloom & topic == topic for topic in topics)
        )

    def _bloom_agrees(self, bloom: int | None, touched: frozenset[int]) -> bool:
        """The header's filter names the pools that had events; where it cannot be trusted, nothing is said against the logs."""
        return bloom is None or not self._trust_bloom or self._blooms(bloom) == touched

    # ------------------------------------------------------------------------------------------------------------ the rest
    def _fund_requests(self, block_hash: str) -> Iterator[tuple[str, list[Any]]]:
        if self._account is not None:
            yield "eth_getBalance", [self._account, {"blockHash": block_hash}]
        for lender in self._lenders:
            if lender.kind == "balance":
                yield call_request((self._watched[0].quote, _BALANCE_OF + lender.address[2:].rjust(64, "0")), block_hash)

    def _funds(self, answers: Sequence[Any]) -> tuple[int, tuple[int, ...]]:
        """(the account's balance, what each lender could lend)."""
        left = iter(answers)
        balance = 0 if self._account is None else quantity("eth_getBalance", next(left), 256)
        lenders = tuple(
            FLASH_SWAP_RAW if lender.kind == "flash_swap" else words(f"lender {lender.name}: balanceOf", next(left), 1)[0]
            for lender in self._lenders
        )
        return balance, lenders

    async def _rivals(
        self, swaps: Sequence[PoolSwap], states: Sequence[Held], head: Head, known: Mapping[str, Any]
    ) -> tuple[RivalTrade, ...]:
        """Cycles in the block's swaps; ``known`` receipts (our own transactions' among them) are not asked for again."""
        cycles = find_cycles(swaps)
        if not cycles:
            return ()
        told = dict(known)
        missing = [cycle.transaction for cycle in cycles if known.get(cycle.transaction) is None]
        if missing:
            answers = await self._endpoint.batch([("eth_getTransactionReceipt", [transaction]) for transaction in missing])
            told |= zip(missing, answers, strict=True)
        receipts = [told[cycle.transaction] for cycle in cycles]
        if None in receipts:
            raise Unknown("eth_getTransactionReceipt", "malformed", "a mined transaction has none yet")
        reference = self._outside_price()
        price = 1.0
        if self._coin == "base":
            price = reference.price if reference is not None else mid_price(states[0].pool, self._watched[0])
        price *= self._coin_price
        decimals = self._watched[0].quote_decimals
        found = [
            rival_trade(cycle, receipt, head.base_fee_wei, decimals, price, self._account)
            for cycle, receipt in zip(cycles, receipts, strict=True)
        ]
        return tuple(trade for trade in found if trade is not None)


async def discover_pool(endpoint: Endpoint, address: str, base_token: str, name: str, v2_fee_ppm: int = 3000) -> WatchedPool:
    """What the contract at ``address`` is; a V2 pair does not tell its fee. Raises FeedDown, and FeedBroken for no such pool."""
    address, base_token = address.lower(), base_token.lower()
    for field, value in (("address", address), ("base_token", base_token)):
        if not _is_address(value):
            raise FeedBroken(f"pool {name}: {field} = {value!r}; accepted is an address, 0x and 40 hexadecimal digits")

    async def ask(contract: str, signature: str) -> list[int] | None:
        read: Read = (contract, selector(signature))
        try:
            answer = await endpoint.request("eth_call", [{"to": read[0], "data": read[1]}, "latest"])
        except Refused:  # reverts: it has no such function
            return None
        return None if answer == "0x" else words(f"pool {name}: {signature}", answer, 1, 16)

    def missing(what: str) -> NoReturn:
        raise FeedBroken(f"pool {name}: {address} {what}; accepted is a Uniswap V2 or V3 pool, or a copy (PancakeSwap's are)")

    try:
        v3 = await ask(address, "slot0()") is not None
        if not v3 and await ask(address, "getReserves()") is None:
            missing("is none")
        tokens, decimals = [], []
        for signature in ("token0()", "token1()"):
            told = await ask(address, signature)
            tokens.append(address_of(f"pool {name}: {signature}", told[0]) if told else missing(f"has no {signature}"))
            places = await ask(tokens[-1], "decimals()")
            decimals.append(places[0] if places and places[0] <= 77 else missing(f"has a token {tokens[-1]} without decimals()"))
        if base_token not in tokens:
            missing(f"has tokens {tokens}, none of them the base token {base_token}")
        fee_ppm, spacing = v2_fee_ppm, None
        if v3:
            fee, ticks = await ask(address, "fee()"), await ask(address, "tickSpacing()")
            if fee is None or ticks is None or fee[0] >= 1_000_000:
                missing("tells no fee() below 1,000,000 ppm and tickSpacing()")
            fee_ppm, spacing = fee[0], signed(f"pool {name}: tickSpacing()", ticks[0], 24)
    except Unknown as error:
        raise FeedDown(f"pool {name}: {error}") from error
    kind: Literal["v2", "v3"] = "v3" if v3 else "v2"
    (token0, token1), (decimals0, decimals1) = tokens, decimals
    return WatchedPool(name, address, kind, fee_ppm, token0, token1, decimals0, decimals1, base_token == token0, spacing)
