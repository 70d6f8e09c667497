"""Many contract reads at one block: through Multicall3 where the chain has it, else as a batch of ``eth_call``.

Multicall3 (github.com/mds1/multicall3) has one address on nearly every chain; ``aggregate3((address,bool,bytes)[])`` answers
``(bool,bytes)[]``. The encoding is Solidity's ABI, which eth-abi (beneath web3) writes and reads.
"""

from __future__ import annotations

from collections.abc import Sequence

from eth_abi.abi import decode, encode
from eth_abi.exceptions import DecodingError
from eth_utils.crypto import keccak

from arbgym.live.events import Malformed, hexadecimal
from arbgym.live.terms import Endpoint

MULTICALL3 = "0xca11bde05977b3631167028862be2a173976ca11"
_CALLS_PER_REQUEST = 500  # of about 10,000 gas each: well below the 50 million that nodes give an eth_call

Read = tuple[str, str]  # a contract's address, and calldata 0x...


def selector(signature: str) -> str:
    """The first four bytes of a call."""
    return "0x" + keccak(text=signature)[:4].hex()


_AGGREGATE = selector("aggregate3((address,bool,bytes)[])")


def call_request(read: Read, block_hash: str) -> tuple[str, list[object]]:
    """The ``eth_call`` of a read on the state at the end of that very block (EIP-1898)."""
    return "eth_call", [{"to": read[0], "data": read[1]}, {"blockHash": block_hash}]


class CallReader:
    """Reads contracts of a chain. ``find_multicall`` once, before the first ``read``, lets it use Multicall3."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self.multicall = False

    async def find_multicall(self, block_hash: str) -> None:
        """See whether Multicall3 has code at a block."""
        code = await self._endpoint.request("eth_getCode", [MULTICALL3, {"blockHash": block_hash}])
        self.multicall = hexadecimal("eth_getCode", code) != "0x"

    async def read(self, reads: Sequence[Read], block_hash: str) -> list[str]:
        """The answers 0x..., in order. Raises Refused, Unknown, and Malformed for an answer that is none, or a revert."""
        if not self.multicall or len(reads) < 2:
            answers = await self._endpoint.batch([call_request(read, block_hash) for read in reads])
            return [hexadecimal("eth_call", answer) for answer in answers]
        found: list[str] = []
        for start in range(0, len(reads), _CALLS_PER_REQUEST):
            found += await self._aggregate(reads[start : start + _CALLS_PER_REQUEST], block_hash)
        return found

    async def _aggregate(self, reads: Sequence[Read], block_hash: str) -> list[str]:
        asked = [(contract, True, bytes.fromhex(data[2:])) for contract, data in reads]
        calldata = _AGGREGATE + encode(["(address,bool,bytes)[]"], [asked]).hex()
        answer = await self._endpoint.request(*call_request((MULTICALL3, calldata), block_hash))
        try:
            (results,) = decode(["(bool,bytes)[]"], bytes.fromhex(hexadecimal("aggregate3", answer)[2:]))
        except (DecodingError, OverflowError) as error:
            raise Malformed("aggregate3", answer, f"(bool,bytes)[] ({error})") from error
        if len(results) != len(reads):
            raise Malformed("aggregate3", f"{len(results)} answers", f"{len(reads)} answers")
        for (contract, data), (succeeded, _) in zip(reads, results, strict=True):
            if not succeeded:
                raise Malformed(f"eth_call of {contract} ({data[:10]})", "reverted", "an answer")
        return ["0x" + bytes(held).hex() for _, held in results]
