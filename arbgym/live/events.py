"""From a node's JSON to exact integers: headers, logs and the events of Uniswap V2 and V3 pools and of PancakeSwap's V3.

Nothing is guessed: what does not have the form that the protocol says is ``Malformed``, by name. Events: IUniswapV2Pair (v2-core
1.0.1), IUniswapV3PoolEvents (v3-core 1.0.1), IPancakeV3PoolEvents (v3-core 1.0.2; its Swap also tells protocol fees). V2's Mint
and Burn change nothing that the Sync beside them does not say.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from eth_utils.crypto import keccak

from arbgym.live.terms import FeedBroken, Head

_HEXADECIMAL = frozenset("0123456789abcdef")
_SHOWN = 80  # characters of a bad value that an error repeats


class Malformed(FeedBroken):
    """A node's answer is not what the protocol says; the message names the field, the value and what is accepted."""

    def __init__(self, field: str, value: object, accepted: str) -> None:
        shown = repr(value)
        super().__init__(f"{field} = {shown if len(shown) <= _SHOWN else shown[:_SHOWN] + '...'}; accepted is {accepted}")


# ------------------------------------------------------------------------------------------------------------ JSON values
def member(field: str, value: Any, name: str) -> Any:
    """``value[name]`` of a JSON object."""
    if not isinstance(value, dict):
        raise Malformed(field, value, "a JSON object")
    if name not in value:
        raise Malformed(f"{field}.{name}", None, "a value")
    return value[name]


def quantity(field: str, value: Any, bits: int = 64) -> int:
    """An unsigned integer written as 0x and hexadecimal digits."""
    if isinstance(value, str) and value[:2] == "0x" and 2 < len(value) <= 66:
        digits = value[2:].lower()
        if _HEXADECIMAL.issuperset(digits) and (number := int(digits, 16)) < 1 << bits:
            return number
    raise Malformed(field, value, f"0x and the hexadecimal digits of a uint{bits}")


def hexadecimal(field: str, value: Any, size_bytes: int | None = None) -> str:
    """Bytes written as 0x and two digits each, in lower case; ``size_bytes`` of them where given."""
    if isinstance(value, str) and value[:2] == "0x" and len(value) % 2 == 0:
        digits = value[2:].lower()
        if _HEXADECIMAL.issuperset(digits) and size_bytes in (None, len(digits) // 2):
            return "0x" + digits
    raise Malformed(
        field, value, "0x and " + ("hexadecimal digits" if size_bytes is None else f"{2 * size_bytes} hexadecimal digits")
    )


def words(field: str, value: Any, least: int, most: int | None = None) -> list[int]:
    """The 32-byte words of an answer or of a log's data, as unsigned integers: ``least`` of them, or up to ``most``."""
    digits = hexadecimal(field, value)[2:]
    count, rest = divmod(len(digits), 64)
    if rest or not least <= count <= (least if most is None else most):
        raise Malformed(field, value, f"{least} words of 32 bytes" + ("" if most is None else " or more"))
    return [int(digits[64 * k : 64 * k + 64], 16) for k in range(count)]


def unsigned(field: str, word: int, bits: int) -> int:
    """A word that holds a uint of ``bits`` bits."""
    if word >> bits:
        raise Malformed(field, word, f"a uint{bits}")
    return word


def signed(field: str, word: int, bits: int) -> int:
    """A word that holds an int of ``bits`` bits, sign-extended."""
    number = word - (1 << 256) if word >> 255 else word
    if not -(1 << (bits - 1)) <= number < 1 << (bits - 1):
        raise Malformed(field, word, f"an int{bits}")
    return number


def address_of(field: str, word: int) -> str:
    """The address in a word, in lower case."""
    return f"0x{unsigned(field, word, 160):040x}"


# ---------------------------------------------------------------------------------------------------------------- headers
@dataclass(frozen=True, slots=True)
class Header:
    """A head and the filter of its logs' addresses and topics (2048 bits); None where the node does not give one."""

    head: Head
    logs_bloom: int | None


def read_header(value: Any) -> Header:
    """A block's header from a node's JSON."""
    if isinstance(value, dict) and value.get("baseFeePerGas") is None:
        raise Malformed("header.baseFeePerGas", None, "a base fee: only chains with EIP-1559 are traded on")

    def number(name: str, bits: int = 64) -> int:
        return quantity(f"header.{name}", member("header", value, name), bits)

    bloom = value.get("logsBloom") if isinstance(value, dict) else None
    head = Head(
        number("number"),
        hexadecimal("header.hash", member("header", value, "hash"), 32),
        hexadecimal("header.parentHash", member("header", value, "parentHash"), 32),
        number("timestamp"),
        number("baseFeePerGas", 63),
        number("gasUsed", 63),
        number("gasLimit", 63),
    )
    return Header(head, None if bloom is None else int(hexadecimal("header.logsBloom", bloom, 256), 16))


def bloom_mask(data: str) -> int:
    """The three bits that an address or a topic sets in a header's filter (Ethereum's yellow paper, 4.3.1)."""
    digest = keccak(bytes.fromhex(data[2:]))
    return sum(1 << bit for bit in {int.from_bytes(digest[k : k + 2], "big") & 2047 for k in (0, 2, 4)})


# ------------------------------------------------------------------------------------------------------------------- logs
@dataclass(frozen=True, slots=True)
class Log:
    """One event of a contract, as it stands in a block."""

    address: str
    topics: tuple[str, ...]
    data: str
    transaction: str
    index: int  # within the block


def read_logs(value: Any, block_hash: str) -> list[Log]:
    """A block's logs in their order. Those of other blocks, taken back ones and repetitions are left out."""
    if not isinstance(value, list):
        raise Malformed("logs", value, "a list of logs")
    found: dict[int, Log] = {}
    for position, one in enumerate(value):
        field = f"logs[{position}]"
        if hexadecimal(f"{field}.blockHash", member(field, one, "blockHash"), 32) != block_hash or one.get("removed") is True:
            continue
        topics = member(field, one, "topics")
        if not isinstance(topics, list) or len(topics) > 4:
            raise Malformed(f"{field}.topics", topics, "a list of up to 4 topics")
        log = Log(
            hexadecimal(f"{field}.address", member(field, one, "address"), 20),
            tuple(hexadecimal(f"{field}.topics[{k}]", topic, 32) for k, topic in enumerate(topics)),
            hexadecimal(f"{field}.data", member(field, one, "data")),
            hexadecimal(f"{field}.transactionHash", member(field, one, "transactionHash"), 32),
            quantity(f"{field}.logIndex", member(field, one, "logIndex")),
        )
        if found.setdefault(log.index, log) != log:
            raise Malformed(f"{field}.logIndex", log.index, "another index: one block has two different logs there")
    return [found[index] for index in sorted(found)]


# ----------------------------------------------------------------------------------------------------------------- events
@dataclass(frozen=True, slots=True)
class Sync:
    """V2: the reserves after whatever happened."""

    reserve0: int
    reserve1: int


@dataclass(frozen=True, slots=True)
class PairSwap:
    """V2: net raw amounts into the pool."""

    amount0: int
    amount1: int


@dataclass(frozen=True, slots=True)
class Swap:
    """V3: net raw amounts into the pool, and its state afterwards."""

    amount0: int
    amount1: int
    sqrt_price_x96: int
    liquidity: int
    tick: int


@dataclass(frozen=True, slots=True)
class Position:
    """V3: liquidity added to (or, below 0, taken from) a range of ticks."""

    tick_lower: int
    tick_upper: int
    liquidity_delta: int


@dataclass(frozen=True, slots=True)
class Initialize:
    """V3: the first price."""

    sqrt_price_x96: int
    tick: int


Event = Sync | PairSwap | Swap | Position | Initialize


def _topic(signature: str) -> str:
    return "0x" + keccak(text=signature).hex()


V2_SYNC = _topic("Sync(uint112,uint112)")
V2_SWAP = _topic("Swap(address,uint256,uint256,uint256,uint256,address)")
V3_SWAP = _topic("Swap(address,address,int256,int256,uint160,uint128,int24)")
PANCAKE_V3_SWAP = _topic("Swap(address,address,int256,int256,uint160,uint128,int24,uint128,uint128)")
V3_MINT = _topic("Mint(address,address,int24,int24,uint128,uint256,uint256)")
V3_BURN = _topic("Burn(address,int24,int24,uint128,uint256,uint256)")
V3_INITIALIZE = _topic("Initialize(uint160,int24)")

TOPICS: dict[str, tuple[str, ...]] = {
    "v2": (V2_SYNC, V2_SWAP),
    "v3": (V3_SWAP, PANCAKE_V3_SWAP, V3_MINT, V3_BURN, V3_INITIALIZE),
}


def decode(log: Log, kind: Literal["v2", "v3"]) -> Event | None:
    """What a log of a pool of ``kind`` says; None for an event that changes none of its numbers."""
    topic = log.topics[0] if log.topics else ""
    if topic not in TOPICS[kind]:
        return None
    name = f"log {log.index} of {log.address}"
    if topic == V2_SYNC:
        reserve0, reserve1 = _data(name, log, 1, 2)
        return Sync(unsigned(f"{name}: reserve0", reserve0, 112), unsigned(f"{name}: reserve1", reserve1, 112))
    if topic == V2_SWAP:
        in0, in1, out0, out1 = _data(name, log, 3, 4)
        return PairSwap(in0 - out0, in1 - out1)
    if topic in (V3_SWAP, PANCAKE_V3_SWAP):
        amount0, amount1, sqrt_price_x96, liquidity, tick = _data(name, log, 3, 5 if topic == V3_SWAP else 7)[:5]
        return Swap(
            signed(f"{name}: amount0", amount0, 256),
            signed(f"{name}: amount1", amount1, 256),
            unsigned(f"{name}: sqrtPriceX96", sqrt_price_x96, 160),
            unsigned(f"{name}: liquidity", liquidity, 128),
            signed(f"{name}: tick", tick, 24),
        )
    if topic == V3_INITIALIZE:
        sqrt_price_x96, tick = _data(name, log, 1, 2)
        return Initialize(unsigned(f"{name}: sqrtPriceX96", sqrt_price_x96, 160), signed(f"{name}: tick", tick, 24))
    amounts = _data(name, log, 4, 4 if topic == V3_MINT else 3)
    amount = unsigned(f"{name}: amount", amounts[-3], 128)
    lower, upper = (
        signed(f"{name}: {end}", int(word, 16), 24) for end, word in zip(("tickLower", "tickUpper"), log.topics[2:], strict=True)
    )
    if not lower < upper:
        raise Malformed(f"{name}: tickLower", lower, f"a tick below tickUpper {upper}")
    return Position(lower, upper, amount if topic == V3_MINT else -amount)


def _data(name: str, log: Log, topics: int, count: int) -> Sequence[int]:
    if len(log.topics) != topics:
        raise Malformed(f"{name}: topics", log.topics, f"{topics} topics")
    return words(f"{name}: data", log.data, count)
