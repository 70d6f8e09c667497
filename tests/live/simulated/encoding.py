"""What a node writes: quantities, words, event topics, function selectors and the header's bloom filter."""

from __future__ import annotations

from functools import cache

from eth_utils.crypto import keccak

_WORD = (1 << 256) - 1


def word(value: int) -> str:
    """One 32-byte word, hexadecimal without prefix; negative numbers in two's complement."""
    return f"{value & _WORD:064x}"


def words(*values: int) -> str:
    """Several words, with the prefix."""
    return "0x" + "".join(map(word, values))


def address_word(address: str) -> str:
    """An address as a topic."""
    return "0x" + address[2:].rjust(64, "0")


def signed(digits: str) -> int:
    """The integer of one word, two's complement."""
    value = int(digits, 16)
    return value - (_WORD + 1) if value >> 255 else value


@cache
def topic(signature: str) -> str:
    """Hash of an event's signature."""
    return "0x" + keccak(signature.encode()).hex()


@cache
def selector(signature: str) -> str:
    """First four bytes of the hash of a function's signature."""
    return topic(signature)[:10]


@cache
def bloom_bits(value: str) -> int:
    """The three bits (Yellow Paper, 4.3.1) of an address or a topic among the filter's 2048."""
    digest = keccak(bytes.fromhex(value[2:]))
    bits = 0
    for position in (0, 2, 4):
        bits |= 1 << (int.from_bytes(digest[position : position + 2], "big") & 2047)
    return bits


SYNC = topic("Sync(uint112,uint112)")
SWAP_V2 = topic("Swap(address,uint256,uint256,uint256,uint256,address)")
SWAP_V3 = topic("Swap(address,address,int256,int256,uint160,uint128,int24)")
MINT_V3 = topic("Mint(address,address,int24,int24,uint128,uint256,uint256)")
BURN_V3 = topic("Burn(address,int24,int24,uint128,uint256,uint256)")
TRANSFER = topic("Transfer(address,address,uint256)")
