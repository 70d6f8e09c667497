"""Pools' logs as rows of swaps and liquidity_events: Uniswap V2, V3 and V4, PancakeSwap V3 and whoever copied their events.

Amounts are positive into the pool; V4 writes them from the trader's side, so their sign is turned.
"""

from __future__ import annotations

import math
from typing import Any

from eth_utils.crypto import keccak

from arbgym.data.sources.pools import V4_INITIALIZE, Pool, address, signed, words

Row = dict[str, Any]


def _topic(signature: str) -> str:
    return "0x" + keccak(text=signature).hex()


V2_SWAP = _topic("Swap(address,uint256,uint256,uint256,uint256,address)")
V2_SYNC = _topic("Sync(uint112,uint112)")
V2_MINT = _topic("Mint(address,uint256,uint256)")
V2_BURN = _topic("Burn(address,uint256,uint256,address)")
V3_SWAP = _topic("Swap(address,address,int256,int256,uint160,uint128,int24)")
V3_INITIALIZE = _topic("Initialize(uint160,int24)")
V3_MINT = _topic("Mint(address,address,int24,int24,uint128,uint256,uint256)")
V3_BURN = _topic("Burn(address,int24,int24,uint128,uint256,uint256)")
PANCAKE_V3_SWAP = _topic("Swap(address,address,int256,int256,uint160,uint128,int24,uint128,uint128)")
V4_SWAP = _topic("Swap(bytes32,address,int128,int128,uint160,uint128,int24,uint24)")
V4_MODIFY = _topic("ModifyLiquidity(bytes32,address,int24,int24,int256,bytes32)")

SWAPS = (V2_SWAP, V3_SWAP, PANCAKE_V3_SWAP, V4_SWAP)
TOPICS = (*SWAPS, V2_SYNC, V2_MINT, V2_BURN, V3_INITIALIZE, V3_MINT, V3_BURN, V4_INITIALIZE, V4_MODIFY)


def place(log: Row) -> tuple[int, int]:
    """(block number, log index)."""
    return int(log["blockNumber"], 16), int(log["logIndex"], 16)


def pool_of(log: Row, pools: dict[str, Pool]) -> Pool | None:
    """Whose event it is: by its address, or by the id that V4's events begin with; None for nobody's."""
    found = pools.get(log["address"].lower())
    if found is None and len(log["topics"]) > 1:
        found = pools.get(log["topics"][1].lower())
        return found if found is not None and found.v4 and found.contract == log["address"].lower() else None
    return found


def decode(log: Row, pool: Pool, chain: str, timestamp_us: int) -> tuple[str, Row]:
    """The table and the row of a log with one of ``TOPICS``."""
    number, index = place(log)
    row: Row = {
        "timestamp": timestamp_us, "chain": chain, "pool": pool.pool, "protocol": pool.protocol, "block_number": number,
        "transaction_index": int(log["transactionIndex"], 16), "log_index": index,
        "transaction_hash": log["transactionHash"].lower(),
    }  # fmt: skip
    topic = log["topics"][0].lower()
    row |= (_swap if topic in SWAPS else _liquidity)(topic, log["topics"], words(log["data"]), pool)
    return ("swaps" if topic in SWAPS else "liquidity_events"), row


def _swap(topic: str, topics: list[str], data: list[int], pool: Pool) -> Row:
    v2, v4 = topic == V2_SWAP, topic == V4_SWAP
    if v2:
        raw0, raw1 = data[0] - data[2], data[1] - data[3]
    else:
        raw0, raw1 = (-signed(word) if v4 else signed(word) for word in data[:2])
    row = _amounts(raw0, raw1, pool)
    row |= {"sender": _account(topics[2 if v4 else 1]), "recipient": None if v4 else _account(topics[2])}
    row |= {"fee_ppm": float(data[5]) if v4 else pool.fee_ppm}
    row["execution_price"] = abs(row["amount1"] / row["amount0"]) if raw0 and raw1 else None
    return row if v2 else row | _state(data[2], signed(data[4]), pool) | {"liquidity_raw": str(data[3])}


def _liquidity(topic: str, topics: list[str], data: list[int], pool: Pool) -> Row:
    row: Row
    if topic == V2_SYNC:
        reserve0, reserve1 = pool.amounts(data[0], data[1])
        row = {"event": "sync", "reserve0_raw": str(data[0]), "reserve1_raw": str(data[1])}
        row |= {"reserve0": reserve0, "reserve1": reserve1, "liquidity": math.sqrt(reserve0 * reserve1)}
        return row | {"price": reserve1 / reserve0 if data[0] and data[1] else None}
    if topic in (V3_INITIALIZE, V4_INITIALIZE):
        sqrt_price, tick = data[-2:]
        return {"event": "initialize"} | _state(sqrt_price, signed(tick), pool)
    if topic == V4_MODIFY:
        added = signed(data[2])
        row = {"event": "mint" if added > 0 else "burn", "owner": _account(topics[2]), "liquidity_raw": str(abs(added))}
        return row | {"tick_lower": signed(data[0]), "tick_upper": signed(data[1])}
    sign = 1 if topic in (V2_MINT, V3_MINT) else -1
    v3 = topic in (V3_MINT, V3_BURN)
    raw0, raw1 = data[-2:] if v3 else data[:2]
    row = _amounts(sign * raw0, sign * raw1, pool)
    row |= {"event": "mint" if sign > 0 else "burn", "owner": _account(topics[1])}
    if v3:
        row |= {
            "tick_lower": signed(int(topics[2], 16)),
            "tick_upper": signed(int(topics[3], 16)),
            "liquidity_raw": str(data[-3]),
        }
    return row


def _amounts(raw0: int, raw1: int, pool: Pool) -> Row:
    amount0, amount1 = pool.amounts(raw0, raw1)
    return {"amount0_raw": str(raw0), "amount1_raw": str(raw1), "amount0": amount0, "amount1": amount1}


def _state(sqrt_price: int, tick: int, pool: Pool) -> Row:
    return {"sqrt_price_x96_raw": str(sqrt_price), "tick": tick, "price": pool.price(sqrt_price)}


def _account(topic: str) -> str:
    return address(int(topic, 16))


def block_row(header: Row, chain: str) -> Row:
    """A block's row of the table blocks. The base fee is empty before EIP-1559."""
    base_fee = header.get("baseFeePerGas")
    return {
        "timestamp": int(header["timestamp"], 16) * 1_000_000, "chain": chain, "block_number": int(header["number"], 16),
        "block_hash": header["hash"].lower(), "base_fee_gwei": None if base_fee is None else int(base_fee, 16) / 1e9,
        "gas_used": int(header["gasUsed"], 16), "gas_limit": int(header["gasLimit"], 16),
        "transactions": len(header["transactions"]),
    }  # fmt: skip
