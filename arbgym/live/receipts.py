"""A transaction's receipt: where it was mined, what it cost, and what it brought."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from arbgym.live.terms import Unknown

# keccak256("Transfer(address,address,uint256)"), ERC-20
TRANSFER = "0xddf252ad1be2c89b69c2b068fc378daa952ba7f163c4a11628f55a4df523b3ef"


@dataclass(frozen=True, slots=True)
class Receipt:
    """What a node says of a mined transaction; ``transfers`` are (token, from, to, raw amount), addresses in lower case."""

    block_number: int
    block_hash: str
    succeeded: bool
    gas_used: int
    price_wei: int  # per gas, tip included
    transfers: tuple[tuple[str, str, str, int], ...]
    l1_fee_wei: int = 0  # what an OP-stack chain takes besides, for the data on the parent chain

    def income(self, token: str, owner: str) -> int:
        """Raw amount of a token that an address has more of after the transaction; addresses in lower case."""
        moved = [(one, other, amount) for address, one, other, amount in self.transfers if address == token]
        return sum(amount for _, to, amount in moved if to == owner) - sum(amount for of, _, amount in moved if of == owner)


def read_receipt(told: Any) -> Receipt | None:
    """The receipt, or None while there is none. Raises Unknown for something that is neither."""
    if told is None:
        return None
    try:
        if told["blockNumber"] is None:  # some nodes have receipts of what is not mined yet
            return None
        return Receipt(
            quantity(told["blockNumber"]),
            str(told["blockHash"]).lower(),
            quantity(told["status"]) == 1,
            quantity(told["gasUsed"]),
            quantity(told["effectiveGasPrice"]),
            tuple(
                (
                    log["address"].lower(),
                    "0x" + log["topics"][1][-40:].lower(),
                    "0x" + log["topics"][2][-40:].lower(),
                    quantity(log["data"]),
                )
                for log in told["logs"]
                if len(log["topics"]) == 3 and log["topics"][0].lower() == TRANSFER
            ),
            0 if told.get("l1Fee") is None else quantity(told["l1Fee"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise Unknown("eth_getTransactionReceipt", "malformed", type(error).__name__) from None


def quantity(told: Any) -> int:
    """A number as JSON-RPC writes it, of at most 256 bits. Raises ValueError for anything else."""
    if not isinstance(told, str) or not told.startswith("0x") or len(told) > 66:
        raise ValueError("accepted is 0x and 1 to 64 hexadecimal digits")
    return int(told, 16)
