"""A chain in memory: blocks of seeded trades in exact pools, one account's transactions, a mempool and reorganisations."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from typing import Any

import rlp
from eth_utils.crypto import keccak

from arbgym.amm import ConcentratedPool, ConstantProductPool, PoolError
from arbgym.live.terms import PoolModel, WatchedPool
from arbgym.market.gas import next_base_fee
from tests.live.simulated.clock import START_S
from tests.live.simulated.encoding import (
    BURN_V3,
    MINT_V3,
    SWAP_V2,
    SWAP_V3,
    SYNC,
    TRANSFER,
    address_word,
    bloom_bits,
    topic,
    word,
    words,
)

BLOCK_S = 12
GAS_LIMIT = 30_000_000
GAS_USED, GAS_REVERTED = 160_091, 114_944  # of a cycle through a V2 and a V3 pool, and of one refused for want of profit
KEPT_BLOCKS = 80  # with their states and logs: more than the deepest reorganisation and the longest silence
TRADER = "0x" + "7" * 40
_WIDEST = 1 << 120


class Refusal(Exception):
    """The node will not take a transaction; the text is the node's."""


@dataclass(frozen=True, slots=True)
class Transaction:
    """A signed EIP-1559 transaction of the account."""

    hash: str
    chain_id: int
    nonce: int
    priority_fee_wei: int
    max_fee_wei: int
    gas_limit: int
    to: str
    data: str
    foreign: bool = False  # signed with the same key, by another program

    def fee_per_gas_wei(self, base_fee_wei: int) -> int:
        """What a unit of gas costs in a block."""
        return min(self.max_fee_wei, base_fee_wei + self.priority_fee_wei)


def decode(raw: str) -> Transaction:
    """A signed type 2 transaction from its bytes. Raises Refusal for anything else; the signature is not checked."""
    try:
        data = bytes.fromhex(raw[2:])
        if data[0] != 2:
            raise ValueError
        chain_id, nonce, priority, most, gas, to, _, calldata, _, _, _, _ = rlp.decode(data[1:])
    except (ValueError, IndexError, rlp.exceptions.RLPException) as error:
        raise Refusal("failed to decode signed transaction") from error
    number = partial(int.from_bytes, byteorder="big")
    return Transaction(
        hash="0x" + keccak(data).hex(),
        chain_id=number(chain_id),
        nonce=number(nonce),
        priority_fee_wei=number(priority),
        max_fee_wei=number(most),
        gas_limit=number(gas),
        to="0x" + to.hex(),
        data="0x" + calldata.hex(),
    )


@dataclass(frozen=True, slots=True)
class State:
    """What is true at the end of a block. Pools are shared between blocks and never changed once here."""

    pools: tuple[PoolModel, ...]
    nonce: int
    balance_wei: int
    profit_raw: int  # quote tokens that the account has earned


@dataclass(slots=True)
class Block:
    """One block with all that a node tells of it."""

    number: int
    hash: str
    parent_hash: str
    timestamp: int
    base_fee_wei: int
    state: State
    gas_used: int = 0
    bloom: int = 0
    size: int = 0  # transactions, other people's too
    logs: list[dict[str, Any]] = field(default_factory=list)
    transactions: list[Transaction] = field(default_factory=list)
    receipts: dict[str, dict[str, Any]] = field(default_factory=dict)


class Draft:
    """A block being made, or a call on a block's state: pools are copied when first touched."""

    def __init__(self, chain: SimulatedChain, block: Block) -> None:
        self.chain, self.block = chain, block
        self.pools: list[PoolModel] = list(block.state.pools)
        self.events: list[tuple[str, list[str], str]] = []
        self._own: set[int] = set()

    def own(self, index: int) -> PoolModel:
        """A pool that may be changed."""
        if index not in self._own:
            self._own.add(index)
            self.pools[index] = _copy(self.pools[index])
        return self.pools[index]

    def child(self) -> Draft:
        """A trial on the same block, to be taken over or forgotten."""
        other = Draft(self.chain, self.block)
        other.pools = list(self.pools)
        return other

    def take_over(self, other: Draft) -> None:
        """The trial's pools and events become this draft's."""
        self.pools, self._own = other.pools, other._own | self._own
        self.events += other.events

    def emit(self, address: str, topics: list[str], data: str) -> None:
        """A log of the transaction that runs."""
        self.events.append((address, topics, data))

    def swap(self, index: int, zero_for_one: bool, amount: int, limit: int | None = None, to: str = TRADER) -> tuple[int, int]:
        """Swap ``amount`` > 0 in, or < 0 out, with the pool's events. (amount in, amount out). Raises PoolError."""
        pool, watched = self.own(index), self.chain.watched[index]
        if isinstance(pool, ConstantProductPool):
            result = pool.swap(
                amount_in=amount if amount > 0 else None, amount_out=None if amount > 0 else -amount, zero_for_one=zero_for_one
            )
            self.sync(index, result.amount0, result.amount1, to)
        else:
            result = pool.swap(amount_specified=amount, zero_for_one=zero_for_one, sqrt_price_limit_x96=limit)
            data = words(result.amount0, result.amount1, pool.sqrt_price_x96, pool.liquidity, pool.tick)
            self.emit(watched.address, [SWAP_V3, address_word(to), address_word(to)], data)
        return result.amount_in, result.amount_out

    def sync(self, index: int, amount0: int, amount1: int, to: str) -> None:
        """A constant-product pool's events after a swap that moved its reserves so."""
        pool, address = self.pools[index], self.chain.watched[index].address
        assert isinstance(pool, ConstantProductPool)
        moved = words(max(amount0, 0), max(amount1, 0), max(-amount0, 0), max(-amount1, 0))
        self.emit(address, [SYNC], words(pool.reserve0, pool.reserve1))
        self.emit(address, [SWAP_V2, address_word(to), address_word(to)], moved)


Execute = Callable[[Draft, Transaction], int]  # profit, raw; PoolError where the contract reverts


def _copy(pool: PoolModel) -> PoolModel:
    if isinstance(pool, ConcentratedPool):
        return pool.copy()
    other = ConstantProductPool.__new__(ConstantProductPool)  # reserves are checked already
    other.reserve0, other.reserve1, other.fee, other.name = pool.reserve0, pool.reserve1, pool.fee, pool.name
    return other


def log_price(watched: WatchedPool, pool: PoolModel) -> float:
    """Natural logarithm of quote per base, human units."""
    if isinstance(pool, ConstantProductPool):
        raw = math.log(pool.reserve1) - math.log(pool.reserve0)  # token1 per token0
    else:
        raw = 2.0 * (math.log(pool.sqrt_price_x96) - 96.0 * math.log(2.0))
    raw += (watched.decimals0 - watched.decimals1) * math.log(10.0)
    return -raw if not watched.base_is_token0 else raw


@dataclass(frozen=True, slots=True)
class Habits:
    """How the chain behaves. Probabilities are per block, and per pool where they say so."""

    trade_probability: float = 0.5  # per pool
    gap_sd: float = 0.006  # of a trade's target around the price, log
    price_sd: float = 0.002  # of the price, per block, log
    position_probability: float = 0.02  # of a position's mint or burn, per concentrated pool
    late_probability: float = 0.0  # that a waiting transaction is left for a later block
    behind_probability: float = 0.0  # that trades come before the account's transaction
    typical_base_fee_wei: int = 2_000_000_000


class SimulatedChain:
    """``mine`` adds a block, ``reorganise`` replaces the last ones, ``submit`` and ``submit_bundle`` take transactions.

    Args:
        seed: of everything that is random here.
        chain_id: as a node tells it.
        watched, pools: what trades, and its first state.
        account: lower case; its nonce starts at ``nonce`` and its balance at ``balance_wei``.
        execute: what the account's contract does with a transaction.
        price: quote per base, around which the pools trade.
    """

    def __init__(
        self,
        seed: int,
        *,
        chain_id: int,
        watched: tuple[WatchedPool, ...],
        pools: tuple[PoolModel, ...],
        account: str,
        execute: Execute,
        price: float,
        habits: Habits = Habits(),
        nonce: int = 5,
        balance_wei: int = 20 * 10**18,
        start_s: int = START_S,
        first_block: int = 20_000_000,
    ) -> None:
        self.random = random.Random(seed)
        self.chain_id, self.watched, self.account, self.execute = chain_id, watched, account, execute
        self.habits = habits
        self.mempool: dict[int, Transaction] = {}  # by nonce
        self.bundles: dict[int, list[Transaction]] = {}  # by the block they are meant for
        self.received: list[Transaction] = []  # everything that the chain ever took, in its order
        self.minimum_priority_fee_wei = 0
        self.on_block: Callable[[Block], None] = lambda block: None
        self._mean_log_price = self._log_price = math.log(price)
        self._salt = 0
        self._positions: dict[int, list[tuple[int, int, int]]] = {}
        base_fee = habits.typical_base_fee_wei
        state = State(pools, nonce, balance_wei, 0)
        self.blocks: list[Block] = [
            Block(first_block, self._hash(first_block), "0x" + 64 * "0", start_s, base_fee, state, GAS_LIMIT // 2)
        ]

    # ------------------------------------------------------------------------------------------------------- reading
    @property
    def tip(self) -> Block:
        """The newest block."""
        return self.blocks[-1]

    def at(self, number: int) -> Block | None:
        """A block of the present chain, while it is kept."""
        index = number - self.blocks[0].number
        return self.blocks[index] if 0 <= index < len(self.blocks) else None

    def by_hash(self, block_hash: str) -> Block | None:
        """A block of the present chain by its hash."""
        return next((block for block in reversed(self.blocks) if block.hash == block_hash), None)

    def receipt(self, transaction_hash: str) -> dict[str, Any] | None:
        """Of a mined transaction of the account."""
        for block in reversed(self.blocks):
            if block.receipts and transaction_hash in block.receipts:
                return block.receipts[transaction_hash]
        return None

    @property
    def price(self) -> float:
        """Quote per base, outside."""
        return math.exp(self._log_price)

    # ------------------------------------------------------------------------------------------------------- changing
    def submit(self, raw: str) -> str:
        """Take a transaction into the mempool; returns its hash. Raises Refusal in the words of common nodes."""
        transaction = decode(raw)
        self._check(transaction)
        nonce = transaction.nonce
        rival = self.mempool.get(nonce)
        if rival is not None:
            if rival.hash == transaction.hash:
                raise Refusal("transaction already imported")
            fees = (rival.max_fee_wei, transaction.max_fee_wei), (rival.priority_fee_wei, transaction.priority_fee_wei)
            if any(new * 100 < old * 110 for old, new in fees):
                raise Refusal("replacement transaction underpriced")
        if transaction.priority_fee_wei < self.minimum_priority_fee_wei:
            raise Refusal("transaction underpriced")
        self.mempool[nonce] = transaction
        self.received.append(transaction)
        return transaction.hash

    def submit_bundle(self, raws: list[str], block_number: int) -> str:
        """Offer a bundle for one block; it is in that block and succeeds, or it never happens."""
        if not raws:
            raise Refusal("bundle missing txs")
        transactions = [decode(raw) for raw in raws]
        for transaction in transactions:
            self._check(transaction)
        self.bundles.setdefault(block_number, []).extend(transactions)
        self.received += transactions
        return "0x" + keccak(b"".join(bytes.fromhex(transaction.hash[2:]) for transaction in transactions)).hex()

    def _check(self, transaction: Transaction) -> None:
        state = self.tip.state
        if transaction.chain_id != self.chain_id:
            raise Refusal("invalid chain id for signer")
        if self.receipt(transaction.hash) is not None:
            raise Refusal("transaction already imported")
        if transaction.nonce < state.nonce:
            raise Refusal("nonce too low")
        if transaction.max_fee_wei * transaction.gas_limit > state.balance_wei:
            raise Refusal("insufficient funds for gas * price + value")
        if transaction.priority_fee_wei > transaction.max_fee_wei:
            raise Refusal("max priority fee per gas higher than max fee per gas")

    def foreign(self) -> Transaction:
        """Another program with the account's key: its transaction, which does nothing, takes the next nonce."""
        self._salt += 1
        nonce = self.tip.state.nonce
        digest = "0x" + sha256(f"foreign {self._salt}".encode()).hexdigest()
        fee = 100 * self.tip.base_fee_wei
        transaction = Transaction(digest, self.chain_id, nonce, fee // 2, fee, 21_000, TRADER, "0x", foreign=True)
        self.mempool[nonce] = transaction
        self.received.append(transaction)
        return transaction

    def mine(self) -> Block:
        """The next block: perhaps early trades, bundles, the account's transactions, then trades."""
        parent, rng, habits = self.tip, self.random, self.habits
        number = parent.number + 1
        base_fee = int(next_base_fee(parent.base_fee_wei, parent.gas_used, GAS_LIMIT // 2, 8))
        block = Block(number, self._hash(number), parent.hash, parent.timestamp + BLOCK_S, base_fee, parent.state)
        draft = Draft(self, block)
        self._log_price += 0.02 * (self._mean_log_price - self._log_price) + rng.gauss(0.0, habits.price_sd)
        trading = [rng.random() < habits.trade_probability for _ in self.watched]
        if rng.random() < habits.behind_probability:
            self._trade(draft, trading)
            trading = [False] * len(trading)
        for transaction in self.bundles.pop(number, ()):
            if transaction.nonce == block.state.nonce and transaction.max_fee_wei >= base_fee:
                self._run(draft, transaction, only_success=True)
        self._run_waiting(draft)
        self._trade(draft, trading)
        block.state = State(tuple(draft.pools), block.state.nonce, block.state.balance_wei, block.state.profit_raw)
        demand = math.log(habits.typical_base_fee_wei / base_fee)
        block.gas_used += int(GAS_LIMIT * min(max(0.5 + 0.5 * demand + rng.gauss(0.0, 0.1), 0.0), 0.97))
        self.blocks.append(block)
        self.on_block(block)
        if len(self.blocks) > 2 * KEPT_BLOCKS:
            del self.blocks[:-KEPT_BLOCKS]
        return block

    def reorganise(self, depth: int, return_probability: float) -> None:
        """Replace the last ``depth`` blocks by as many others. Their transactions wait again, or are lost."""
        depth = min(depth, len(self.blocks) - 1)
        gone = self.blocks[-depth:]
        del self.blocks[-depth:]
        for block in gone:
            for transaction in block.transactions:
                if self.random.random() < return_probability:
                    self.mempool.setdefault(transaction.nonce, transaction)
        for _ in range(depth):
            self.mine()

    def restart_time(self, start_s: int) -> None:
        """Shift the past so that the newest block is of ``start_s``."""
        shift = start_s - self.tip.timestamp
        for block in self.blocks:
            block.timestamp += shift

    def forget(self) -> int:
        """Drop what waits; returns how many transactions that were."""
        count = len(self.mempool) + sum(map(len, self.bundles.values()))
        self.mempool.clear()
        self.bundles.clear()
        return count

    # ------------------------------------------------------------------------------------------------------ in a block
    def _hash(self, number: int) -> str:
        self._salt += 1
        return "0x" + sha256(f"{number} {self._salt} {self.random.random()}".encode()).hexdigest()

    def _run_waiting(self, draft: Draft) -> None:
        block = draft.block
        while (transaction := self.mempool.get(block.state.nonce)) is not None:
            if transaction.max_fee_wei < block.base_fee_wei or self.random.random() < self.habits.late_probability:
                break
            self._run(draft, transaction)
        for nonce in [nonce for nonce in self.mempool if nonce < block.state.nonce]:
            del self.mempool[nonce]

    def _run(self, draft: Draft, transaction: Transaction, only_success: bool = False) -> None:
        block, trial, profit, status = draft.block, draft.child(), 0, 1
        try:
            if not transaction.foreign:
                profit = self.execute(trial, transaction)
        except PoolError:
            if only_success:
                return
            trial, status = draft.child(), 0
        gas = min(transaction.gas_limit, 21_000 if transaction.data == "0x" else GAS_USED if status else GAS_REVERTED)
        fee = transaction.fee_per_gas_wei(block.base_fee_wei)
        state = block.state
        block.state = State(state.pools, state.nonce + 1, state.balance_wei - gas * fee, state.profit_raw + profit)
        block.gas_used += gas
        block.transactions.append(transaction)
        first = len(block.logs)
        draft.take_over(trial)
        self._write_logs(draft, transaction.hash)
        block.receipts[transaction.hash] = {
            "transactionHash": transaction.hash,
            "transactionIndex": hex(block.size - 1),
            "blockHash": block.hash,
            "blockNumber": hex(block.number),
            "from": self.account,
            "to": transaction.to,
            "status": hex(status),
            "gasUsed": hex(gas),
            "cumulativeGasUsed": hex(block.gas_used),
            "effectiveGasPrice": hex(fee),
            "logs": block.logs[first:],
            "logsBloom": "0x" + 512 * "0",
            "contractAddress": None,
            "type": "0x2",
        }

    def _trade(self, draft: Draft, trading: list[bool]) -> None:
        rng, habits = self.random, self.habits
        for index, trades in enumerate(trading):
            if trades:
                self._trade_towards(draft, index, self._log_price + rng.gauss(0.0, habits.gap_sd))
                self._write_others(draft)
            if isinstance(draft.pools[index], ConcentratedPool) and rng.random() < habits.position_probability:
                self._change_position(draft, index)
                self._write_others(draft)

    def _write_others(self, draft: Draft) -> None:
        if draft.events:
            block = draft.block
            self._write_logs(draft, "0x" + sha256(f"{block.hash} {block.size}".encode()).hexdigest())

    def _trade_towards(self, draft: Draft, index: int, target: float) -> None:
        watched, pool = self.watched[index], draft.pools[index]
        move = target - log_price(watched, pool)
        zero_for_one = (move > 0.0) != watched.base_is_token0  # buying base puts quote in
        if isinstance(pool, ConstantProductPool):
            reserve_in = pool.reserve0 if zero_for_one else pool.reserve1
            if (amount := int(reserve_in * math.expm1(abs(move) / 2.0))) > 1000:
                draft.swap(index, zero_for_one, amount)
            return
        limit = int(pool.sqrt_price_x96 * math.exp(-abs(move) / 2.0 if zero_for_one else abs(move) / 2.0))
        if limit != pool.sqrt_price_x96:
            draft.swap(index, zero_for_one, _WIDEST, limit)

    def _change_position(self, draft: Draft, index: int) -> None:
        pool, address = draft.own(index), self.watched[index].address
        assert isinstance(pool, ConcentratedPool)
        held = self._positions.setdefault(index, [])
        owner = address_word(TRADER)
        if held and self.random.random() < 0.5:
            lower, upper, liquidity = held[-1]
            if pool.liquidity_gross.get(lower, 0) < liquidity or pool.liquidity_gross.get(upper, 0) < liquidity:
                held.pop()  # a reorganisation took it away
                return
            held.pop()
            try:
                amounts = pool.burn(tick_lower=lower, tick_upper=upper, liquidity=liquidity)
            except PoolError:
                return
            draft.emit(address, [BURN_V3, owner, words(lower), words(upper)], words(liquidity, *amounts))
        elif len(held) < 4:
            spacing = pool.tick_spacing
            lower = (pool.tick // spacing - self.random.randint(1, 20)) * spacing
            upper = (pool.tick // spacing + self.random.randint(1, 20)) * spacing
            liquidity = max(pool.liquidity // self.random.randint(5, 50), 1)
            amounts = pool.mint(tick_lower=lower, tick_upper=upper, liquidity=liquidity)
            held.append((lower, upper, liquidity))
            data = "0x" + word(int(TRADER, 16)) + words(liquidity, *amounts)[2:]
            draft.emit(address, [MINT_V3, owner, words(lower), words(upper)], data)

    def _write_logs(self, draft: Draft, transaction_hash: str) -> None:
        block = draft.block
        for address, topics, data in draft.events:
            block.bloom |= bloom_bits(address)
            for one in topics:
                block.bloom |= bloom_bits(one)
            block.logs.append(
                {
                    "address": address,
                    "topics": topics,
                    "data": data,
                    "blockNumber": hex(block.number),
                    "blockHash": block.hash,
                    "transactionHash": transaction_hash,
                    "transactionIndex": hex(block.size),
                    "logIndex": hex(len(block.logs)),
                    "removed": False,
                }
            )
        draft.events = []
        block.size += 1


def transfer(draft: Draft, token: str, sender: str, recipient: str, amount: int) -> None:
    """An ERC-20 token's event; balances are not kept."""
    draft.emit(token, [TRANSFER, address_word(sender), address_word(recipient)], words(amount))


__all__ = [
    "BLOCK_S",
    "Block",
    "Draft",
    "Habits",
    "Refusal",
    "SimulatedChain",
    "State",
    "Transaction",
    "log_price",
    "topic",
    "transfer",
]
