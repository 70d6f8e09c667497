"""What a pool on a chain is: its protocol, tokens, decimals and fee, and its state at a block, read from the contract."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from eth_utils.crypto import keccak

from arbgym.data.sources.rpc import Call, Node, NodeError, TooWide
from arbgym.market.tape import TapeError

CHAINS = {1: "ethereum", 10: "optimism", 56: "bsc", 100: "gnosis", 137: "polygon", 324: "zksync", 8453: "base", 42161: "arbitrum",
          43114: "avalanche", 31337: "anvil"}  # fmt: skip
V4_MANAGERS = {"ethereum": "0x000000000004444c5dc75cb358380d2e3de08a90"}
V4_INITIALIZE = "0x" + keccak(text="Initialize(bytes32,address,address,uint24,int24,address,uint160,int24)").hex()
_DYNAMIC_FEE = 0x800000
_POOLS_SLOT = 6  # of the mapping from pool ids to their state in the V4 manager
_NO_TOKEN = "0x" + 40 * "0"


def selector(signature: str) -> str:
    """The first four bytes of a call."""
    return "0x" + keccak(text=signature)[:4].hex()


def words(data: str) -> list[int]:
    """The 32-byte words of an answer or of a log's data, as unsigned integers."""
    digits = data.removeprefix("0x")
    return [int(digits[k : k + 64], 16) for k in range(0, len(digits) - len(digits) % 64, 64)]


def signed(word: int) -> int:
    """A word as a signed integer."""
    return word - (1 << 256) if word >> 255 else word


def address(word: int) -> str:
    """The address in a word."""
    return f"0x{word & (1 << 160) - 1:040x}"


@dataclass(frozen=True)
class Pool:
    """A pool: ``pool`` is its address or its V4 id, ``contract`` the address whose logs hold its events."""

    pool: str
    contract: str
    protocol: str
    tokens: tuple[str, str]
    symbols: tuple[str, str]
    decimals: tuple[int, int]
    fee_ppm: float | None
    tick_spacing: int | None

    @property
    def v4(self) -> bool:
        return self.protocol == "uniswap_v4"

    @property
    def v2(self) -> bool:
        return self.protocol == "uniswap_v2"

    def price(self, sqrt_price_x96: int) -> float:
        """token1 per token0, in whole tokens."""
        return (sqrt_price_x96 / 2**96) ** 2 * 10.0 ** (self.decimals[0] - self.decimals[1])

    def amounts(self, raw0: int, raw1: int) -> tuple[float, float]:
        """Raw amounts in whole tokens."""
        return raw0 / 10 ** self.decimals[0], raw1 / 10 ** self.decimals[1]

    def rows(self, chain: str) -> dict[str, list[dict[str, Any]]]:
        """The pool's rows of the tables pools and tokens."""
        tokens = [
            {"chain": chain, "address": token, "symbol": symbol, "decimals": decimals}
            for token, symbol, decimals in zip(self.tokens, self.symbols, self.decimals, strict=True)
        ]
        pool = {"chain": chain, "pool": self.pool, "protocol": self.protocol, "fee_ppm": self.fee_ppm}
        pool |= {"tick_spacing": self.tick_spacing, "token0": self.tokens[0], "token1": self.tokens[1]}
        pool |= {"symbol0": self.symbols[0], "symbol1": self.symbols[1]}
        pool |= {"decimals0": self.decimals[0], "decimals1": self.decimals[1]}
        return {"tokens": tokens, "pools": [pool]}

    def state_calls(self, block: int) -> list[Call]:
        """What to ask a node for the pool's state after a block."""
        if self.v2:
            questions = [selector("getReserves()")]
        elif self.v4:
            slot = int.from_bytes(keccak(bytes.fromhex(self.pool[2:]) + _POOLS_SLOT.to_bytes(32, "big")), "big")
            questions = [f"{selector('extsload(bytes32)')}{slot + place:064x}" for place in (0, 3)]
        else:
            questions = [selector("slot0()"), selector("liquidity()")]
        return [("eth_call", [{"to": self.contract, "data": question}, hex(block)]) for question in questions]

    def state(self, answers: Sequence[str]) -> dict[str, Any]:
        """The columns of a pool state from the answers to ``state_calls``."""
        if self.v2:
            raw0, raw1 = words(answers[0])[:2]
            reserve0, reserve1 = self.amounts(raw0, raw1)
            state = {"reserve0_raw": str(raw0), "reserve1_raw": str(raw1), "liquidity": math.sqrt(reserve0 * reserve1)}
            return state | {"price": reserve1 / reserve0 if raw0 and raw1 else None}
        first, liquidity = words(answers[0]), words(answers[1])[0]
        if self.v4:
            liquidity &= (1 << 128) - 1
            sqrt_price, tick = first[0] & (1 << 160) - 1, first[0] >> 160 & (1 << 24) - 1
            tick -= (1 << 24) if tick >> 23 else 0
        else:
            sqrt_price, tick = first[0], signed(first[1])
        human = liquidity / 10 ** (sum(self.decimals) / 2)
        state = {"sqrt_price_x96_raw": str(sqrt_price), "tick": tick, "liquidity_raw": str(liquidity), "liquidity": human}
        return state | {"price": self.price(sqrt_price) if sqrt_price else None}


def read_pool(node: Node, chain: str, pool: str, manager: str | None = None) -> Pool:
    """What ``pool`` (an address, or a Uniswap V4 id of 32 bytes) is. Raises TapeError for what is no pool of a known kind,
    and for a token that does not tell its decimals.
    """
    pool = pool.lower()
    if not pool.startswith("0x") or len(pool) not in (42, 66) or not set(pool[2:]) <= set("0123456789abcdef"):
        raise TapeError(f"pool {pool}: accepted is an address (20 bytes) or a Uniswap V4 pool id (32 bytes), 0x...")
    if len(pool) == 66:
        return _v4_pool(node, chain, pool, manager)
    if _ask(node, pool, "slot0()") is not None:
        protocol = "pancakeswap_v3" if _ask(node, pool, "lmPool()") is not None else "uniswap_v3"
        fee, spacing = (_ask(node, pool, name) for name in ("fee()", "tickSpacing()"))
        return _pool(
            node, pool, pool, protocol, _tokens(node, pool), float(words(fee or "0x")[0]), signed(words(spacing or "0x")[0])
        )
    if _ask(node, pool, "getReserves()") is not None:
        return _pool(node, pool, pool, "uniswap_v2", _tokens(node, pool), None, None)  # a pair does not tell its fee
    raise TapeError(f"pool {pool}: no Uniswap V2, V3, V4 or PancakeSwap V3 pool on {chain} is there", path=node.location)


def _tokens(node: Node, pool: str) -> tuple[str, str]:
    found = [address(words(_ask(node, pool, name) or "0x" + 64 * "0")[0]) for name in ("token0()", "token1()")]
    return found[0], found[1]


def _v4_pool(node: Node, chain: str, pool: str, manager: str | None) -> Pool:
    manager = (manager or V4_MANAGERS.get(chain, "")).lower()
    if not manager:
        raise TapeError(f"pool {pool}: the address of {chain}'s Uniswap V4 PoolManager is needed (--pool-manager)")
    log = _first_log(node, manager, [V4_INITIALIZE, pool], 0, node.block_number())
    if log is None:
        raise TapeError(f"pool {pool}: the PoolManager {manager} never initialised it", path=node.location)
    fee, spacing = words(log["data"])[:2]
    tokens = address(int(log["topics"][2], 16)), address(int(log["topics"][3], 16))
    return _pool(node, pool, manager, "uniswap_v4", tokens, None if fee == _DYNAMIC_FEE else float(fee), signed(spacing))


def _first_log(node: Node, contract: str, topics: list[str], first: int, last: int) -> dict[str, Any] | None:
    """The first log of these topics, by halves where the node refuses the whole; the newest half first."""
    try:
        found = node.logs(first, last, [contract], topics)
        return found[0] if found else None
    except TooWide:
        middle = (first + last) // 2
        newer = _first_log(node, contract, topics, middle + 1, last)
        return newer if newer is not None else _first_log(node, contract, topics, first, middle)


def _pool(
    node: Node, pool: str, contract: str, protocol: str, tokens: tuple[str, str], fee_ppm: float | None, spacing: int | None
) -> Pool:
    decimals, symbols = [], []
    for token in tokens:
        if token == _NO_TOKEN and protocol == "uniswap_v4":  # the chain's own coin
            decimals.append(18)
            symbols.append("ETH")
            continue
        told = _ask(node, token, "decimals()")
        if told is None or words(told)[0] > 255:
            raise TapeError(f"pool {pool}: its token {token} does not tell its decimals; amounts would have no unit")
        decimals.append(words(told)[0])
        symbols.append(_text(_ask(node, token, "symbol()")))
    return Pool(pool, contract, protocol, tokens, (symbols[0], symbols[1]), (decimals[0], decimals[1]), fee_ppm, spacing)


def _ask(node: Node, contract: str, signature: str) -> str | None:
    """The answer of a contract to a call without arguments; None where it has none."""
    try:
        answer = node.call("eth_call", {"to": contract, "data": selector(signature)}, "latest")
    except NodeError:
        return None
    return str(answer) if len(answer) >= 66 else None


def _text(answer: str | None) -> str:
    """A string, or the 32 bytes that early tokens answer with."""
    held = bytes.fromhex((answer or "0x")[2:])
    if len(held) > 64:
        length = int.from_bytes(held[32:64], "big")
        held = held[64 : 64 + length]
    return held.rstrip(b"\0").decode("utf-8", "replace")
