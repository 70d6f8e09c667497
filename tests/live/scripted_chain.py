"""A chain in memory for one account: nonces, a memory pool, a relay, reorganisations and doubtful answers, all from a seed."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Any

from arbgym.live.channels import Answer
from arbgym.live.receipts import TRANSFER
from arbgym.live.terms import ChainView, Head, Plan, Refused, Unknown

OWNER = "0x" + "aa" * 20
QUOTE = "0x" + "bb" * 20
TARGET = "0x" + "cc" * 20
GWEI = 10**9
GAS_USED = 150_000


class PlainSigner:
    """Writes a transaction as JSON: readable, and as deterministic as a real signature."""

    address = OWNER

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        raw = json.dumps(dict(transaction), sort_keys=True).encode()
        return raw, "0x" + sha256(raw).hexdigest()


class SetClock:
    """Time is what it was set to."""

    def __init__(self, time_s: float = 1_700_000_000.0) -> None:
        self.time_s = time_s

    def now(self) -> float:
        return self.time_s

    def monotonic(self) -> float:
        return self.time_s

    async def sleep(self, seconds: float) -> None:
        self.time_s += seconds


@dataclass
class Mined:
    """A block; ``transactions`` are (hash, fields)."""

    head: Head
    transactions: list[tuple[str, dict[str, Any]]] = field(default_factory=list)


class ScriptedChain:
    """``Endpoint`` and chain. Calldata is 0x and the profit as 64 hexadecimal digits; an odd profit reverts.

    ``doubt`` is the chance that an answer is lost (half of the time after the request had its effect); ``late`` that the pool's
    transaction waits for a later block, ``evict`` that the pool forgets it.
    """

    def __init__(self, seed: int = 0, *, doubt: float = 0.0, late: float = 0.0, evict: float = 0.0) -> None:
        self.random = random.Random(seed)
        self.doubt, self.late, self.evict = doubt, late, evict
        self.blocks: list[Mined] = []
        self.pool: dict[int, tuple[str, dict[str, Any]]] = {}
        self.bundles: dict[int, list[tuple[str, dict[str, Any]]]] = {}
        self.refusal: str | None = None  # the next submission is refused with these words
        self.submitted: list[dict[str, Any]] = []
        self._fork = 0
        for _ in range(3):
            self._add(take=False)

    # ------------------------------------------------------------------------------------------------------ the chain
    @property
    def head(self) -> Head:
        return self.blocks[-1].head

    @property
    def count(self) -> int:
        return sum(len(block.transactions) for block in self.blocks)

    def mined(self) -> list[tuple[str, dict[str, Any]]]:
        return [one for block in self.blocks for one in block.transactions]

    def trades(self, data: str) -> int:
        """How often calldata was mined."""
        return sum(1 for _, fields in self.mined() if fields["data"] == data)

    def _add(self, take: bool = True) -> None:
        number = len(self.blocks)
        former = self.blocks[-1].head if self.blocks else None
        base_fee = former.base_fee_wei if former else 20 * GWEI
        base_fee = max(base_fee * self.random.choice((7, 8, 8, 9)) // 8, GWEI)
        digest = "0x" + sha256(f"{self._fork}/{number}/{former and former.hash}".encode()).hexdigest()
        parent = former.hash if former else "0x" + 64 * "0"
        block = Mined(Head(number, digest, parent, 1_700_000_000 + 12 * number, base_fee, 0, 30_000_000))
        count = self.count
        self.blocks.append(block)
        if not take:
            return
        bundle = next((one for one in self.bundles.get(number, []) if one[1]["nonce"] == count), None)
        if bundle is not None and bundle[1]["maxFeePerGas"] >= base_fee and self.random.random() >= self.late:
            block.transactions.append(bundle)
        while (found := self.pool.get(self.count)) is not None:
            if found[1]["maxFeePerGas"] < base_fee or self.random.random() < self.late:
                break
            block.transactions.append(found)
        for nonce in [nonce for nonce in self.pool if nonce < self.count]:
            del self.pool[nonce]
        if self.pool and self.random.random() < self.evict:
            self.pool.clear()

    def mine(self) -> ChainView:
        """The next block's view."""
        self._add()
        return self.view()

    def view(self, number: int | None = None, reorg_depth: int = 0, newest: bool = True) -> ChainView:
        head = self.blocks[-1 if number is None else number].head
        return ChainView(head, (), (), (), 10**18, None, (), reorg_depth, newest)

    def reorganise(self, depth: int) -> list[ChainView]:
        """Replace the last blocks by as many and one more; their transactions go back to the pool, most of them."""
        self._fork += 1
        gone = self.blocks[-depth:]
        del self.blocks[-depth:]
        first = len(self.blocks)
        for block in gone:
            for digest, fields in block.transactions:
                if self.random.random() < 0.7:
                    self.pool.setdefault(fields["nonce"], (digest, fields))
        for _ in range(depth + 1):
            self._add()
        last = len(self.blocks)
        return [self.view(number, depth if number == first else 0, number == last - 1) for number in range(first, last)]

    def stranger(self) -> None:
        """Somebody else with the account's key is mined."""
        fields = {"nonce": self.count, "data": "0x", "to": QUOTE, "maxFeePerGas": 10**15, "maxPriorityFeePerGas": 1}
        self.pool[self.count] = ("0x" + sha256(f"stranger {self.count}".encode()).hexdigest(), fields)

    def leak(self) -> None:
        """A builder makes a bundle public whose block has passed."""
        for block in self.bundles.values():
            for bundle in block:
                if bundle[1]["nonce"] == self.count:
                    self.pool.setdefault(self.count, bundle)

    # ---------------------------------------------------------------------------------------------------- the endpoint
    def _lost(self) -> bool:
        return self.random.random() < self.doubt

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        lost, after = self._lost(), self.random.random() < 0.5
        kind = self.random.choice(("timeout", "connection", "rate_limited", "server", "malformed"))
        if lost and not after:
            raise Unknown(method, kind)
        answer = self._answer(method, list(parameters))
        if lost:
            raise Unknown(method, kind)
        return answer

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        if self._lost():
            raise Unknown(calls[0][0], "timeout")
        return [self._answer(method, list(parameters)) for method, parameters in calls]

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        raise Unknown("eth_subscribe", "timeout")

    async def close(self) -> None:
        self.pool.clear()

    def _answer(self, method: str, parameters: list[Any]) -> Any:
        if method == "eth_blockNumber":
            return hex(self.head.number)
        if method == "eth_getTransactionCount":
            return hex(self.count)
        if method == "eth_getTransactionReceipt":
            return self._receipt(parameters[0])
        if method == "eth_getBlockByNumber":
            return _header(self.head)
        if method == "eth_getBlockByHash":
            return next((_header(block.head) for block in self.blocks if block.head.hash == parameters[0]), None)
        if method == "eth_sendRawTransaction":
            return self._take(bytes.fromhex(parameters[0][2:]))
        raise Refused(method, -32601, "no such method")

    def _take(self, raw: bytes) -> str:
        fields = json.loads(raw)
        digest = "0x" + sha256(raw).hexdigest()
        self.submitted.append(fields)
        if self.refusal is not None:
            words, self.refusal = self.refusal, None
            raise Refused("eth_sendRawTransaction", -32000, words)
        held = self.pool.get(fields["nonce"])
        if held is not None and held[0] == digest:
            raise Refused("eth_sendRawTransaction", -32000, "already known")
        if fields["nonce"] < self.count:
            raise Refused("eth_sendRawTransaction", -32000, "nonce too low")
        if held is not None and any(10 * fields[name] < 11 * held[1][name] for name in ("maxFeePerGas", "maxPriorityFeePerGas")):
            raise Refused("eth_sendRawTransaction", -32000, "replacement transaction underpriced")
        self.pool[fields["nonce"]] = (digest, fields)
        return digest

    def _receipt(self, digest: str) -> dict[str, Any] | None:
        for block in self.blocks:
            for known, fields in block.transactions:
                if known == digest:
                    profit = int(fields["data"][2:] or "0", 16)
                    succeeded = profit % 2 == 0
                    paid = [_transfer(profit)] if succeeded and profit else []
                    price = min(fields["maxFeePerGas"], block.head.base_fee_wei + fields["maxPriorityFeePerGas"])
                    return {
                        "blockNumber": hex(block.head.number),
                        "blockHash": block.head.hash,
                        "status": hex(succeeded),
                        "gasUsed": hex(GAS_USED),
                        "effectiveGasPrice": hex(price),
                        "logs": paid,
                    }
        return None


class ScriptedRelay:
    """A relay that hands bundles to the chain's builder, and loses answers like the node."""

    def __init__(self, chain: ScriptedChain) -> None:
        self.chain = chain

    async def send(self, raw: bytes, plan: Plan) -> Answer:
        chain = self.chain
        lost, after = chain._lost(), chain.random.random() < 0.5
        if not lost or after:
            chain.submitted.append(json.loads(raw))
            for number in range(plan.block_number + 1, plan.valid_until_block + 1):
                chain.bundles.setdefault(number, []).append(("0x" + sha256(raw).hexdigest(), json.loads(raw)))
        return Answer("unknown", None, "timeout") if lost else Answer("accepted")

    async def close(self) -> None:
        self.chain.bundles.clear()


def plan_at(head: Head, index: int, channel: Any = "public", blocks: int = 3, **other: Any) -> Plan:
    """A plan whose calldata is its own; its profit is even, so it does not revert."""
    profit = 2 * (index + 1)
    values = {
        "key": f"{index:064x}",
        "block_number": head.number,
        "block_hash": head.hash,
        "valid_until_block": head.number + blocks,
        "buy": 0,
        "sell": 1,
        "lender": "",
        "amount_in_raw": 10**9,
        "expected_profit_raw": profit,
        "minimum_profit_raw": 1,
        "channel": channel,
        "to": TARGET,
        "data": f"0x{profit:064x}",
        "gas_limit": 300_000,
        "max_fee_wei": 2 * head.base_fee_wei + 2 * GWEI,
        "priority_fee_wei": 2 * GWEI,
    }
    return Plan(**{**values, **other})


def _transfer(amount: int) -> dict[str, Any]:
    topics = [TRANSFER, "0x" + "0" * 24 + TARGET[2:], "0x" + "0" * 24 + OWNER[2:]]
    return {"address": QUOTE, "topics": topics, "data": f"0x{amount:064x}"}


def _header(head: Head) -> dict[str, str]:
    return {"number": hex(head.number), "hash": head.hash, "baseFeePerGas": hex(head.base_fee_wei)}
