"""Puts the executor contract on a chain: ``python -m arbgym.live.deploy --rpc URL [--live]``.

Without ``--live`` it prints what it would send and needs no key. The contract's owner, for good, is the account that deploys it.
"""

from __future__ import annotations

import argparse
import asyncio
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from arbgym.live.executor import artefact, runtime_code
from arbgym.live.terms import Clock, Endpoint, LiveError, Refused, Unknown

_REQUEST_TIMEOUT_S = 20.0
_MINED_WITHIN_S = 300.0
_POLL_S = 1.0


class TransactionSigner(Protocol):
    """What ``arbgym.live.signer.Signer`` does."""

    address: str

    def sign(self, transaction: Mapping[str, Any]) -> tuple[bytes, str]:
        """(raw transaction, its hash)."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """A transaction that would create the contract, and where."""

    sender: str  # lower case; it becomes the owner
    address: str  # of the contract, lower case
    transaction: Mapping[str, Any]  # type 2, numbers as integers
    balance_wei: int  # of the sender

    @property
    def most_wei(self) -> int:
        """What it may cost, and what a node wants to see in the account."""
        most: int = self.transaction["gas"] * self.transaction["maxFeePerGas"]
        return most

    def require_balance(self) -> None:
        """Raises LiveError where the account cannot pay."""
        if self.balance_wei < self.most_wei:
            told = self.transaction
            raise LiveError(
                f"account {self.sender}: balance {self.balance_wei / 1e18:g} ETH on chain {told['chainId']}; accepted is "
                f"{self.most_wei / 1e18:g} ETH or more: {told['gas']:,} gas at up to {told['maxFeePerGas'] / 1e9:g} gwei"
            )

    def __str__(self) -> str:
        told = self.transaction
        return (
            f"ArbExecutor, source sha256 {artefact()['source_sha256']}, compiled by solc {artefact()['compiler']}\n"
            f"owner     {self.sender}\n"
            f"address   {self.address}\n"
            f"chain     {told['chainId']}, nonce {told['nonce']}\n"
            f"gas       up to {told['gas']:,} at up to {told['maxFeePerGas'] / 1e9:g} gwei\n"
            f"cost      up to {self.most_wei / 1e18:g} of the chain's coin; the owner has {self.balance_wei / 1e18:g}\n"
            f"data      {(len(told['data']) - 2) // 2:,} bytes"
        )


@dataclass(frozen=True, slots=True)
class Deployed:
    """A contract that stands, and what it took."""

    address: str
    chain_id: int
    transaction_hash: str
    gas_used: int
    gas_price_wei: int

    def __str__(self) -> str:
        paid_eth = self.gas_used * self.gas_price_wei / 1e18
        return (
            f"{self.address}\n"
            f"transaction {self.transaction_hash}\n"
            f"chain       {self.chain_id}\n"
            f"gas         {paid_eth:g} ETH: {self.gas_used:,} at {self.gas_price_wei / 1e9:g} gwei\n"
            "the line for the settings:\n"
            f'executor = "{self.address}"'
        )


async def prepare(endpoint: Endpoint, sender: str) -> Deployment:
    """What ``sender`` would send next. The fee's ceiling is twice the base fee of now, and the tip.

    Raises Refused where the node does not take it (no coin, no such method), Unknown where it does not answer.
    """
    from eth_typing import HexAddress, HexStr
    from web3.types import Nonce
    from web3.utils.address import get_create_address

    sender = sender.lower()
    data = artefact()["bytecode"]
    asked: list[tuple[str, list[Any]]] = [
        ("eth_chainId", []),
        ("eth_getTransactionCount", [sender, "pending"]),
        ("eth_getBlockByNumber", ["latest", False]),
        ("eth_maxPriorityFeePerGas", []),
        ("eth_estimateGas", [{"from": sender, "data": data}]),
        ("eth_getBalance", [sender, "latest"]),
    ]
    chain_id, nonce, block, tip, gas, balance = await endpoint.batch(asked)
    try:
        numbers = [int(told, 16) for told in (chain_id, nonce, block["baseFeePerGas"], tip, gas, balance)]
    except (TypeError, ValueError, KeyError) as error:
        raise Unknown("deploy", "malformed", "accepted are hexadecimal numbers and a block with baseFeePerGas") from error
    chain, count, base_fee, priority_fee, gas_used, balance_wei = numbers
    transaction = {
        "type": 2,
        "chainId": chain,
        "nonce": count,
        "gas": gas_used * 6 // 5,  # a fifth to spare
        "maxFeePerGas": 2 * base_fee + priority_fee,
        "maxPriorityFeePerGas": priority_fee,
        "value": 0,
        "data": data,
    }
    address = get_create_address(HexAddress(HexStr(sender)), Nonce(count))
    return Deployment(sender, address.lower(), transaction, balance_wei)


async def deploy(endpoint: Endpoint, signer: TransactionSigner, clock: Clock) -> str:
    """The address of what ``carry_out`` deploys."""
    return (await carry_out(endpoint, signer, clock)).address


async def carry_out(endpoint: Endpoint, signer: TransactionSigner, clock: Clock) -> Deployed:
    """Send it, wait until it is mined, and check the code on the chain against the artefact.

    Raises LiveError: before anything is sent where the account cannot pay, after that with the transaction's hash where any of it
    does not come to be.
    """
    deployment = await prepare(endpoint, signer.address)
    deployment.require_balance()
    raw, transaction_hash = signer.sign(deployment.transaction)
    try:
        await endpoint.request("eth_sendRawTransaction", ["0x" + raw.hex()])
    except Unknown as error:
        # it may have arrived all the same, so it is waited for and never sent again
        print(f"no answer to {transaction_hash} ({error}); waiting for it", file=sys.stderr)
    missing = f"{transaction_hash}: not mined within {_MINED_WITHIN_S:g} s; it may still be, so look before sending another"
    receipt = await _told(endpoint, "eth_getTransactionReceipt", [transaction_hash], clock, missing)
    if not isinstance(receipt, dict) or receipt.get("status") != "0x1":
        status = receipt.get("status") if isinstance(receipt, dict) else receipt
        raise LiveError(f"{transaction_hash}: status {status}; accepted is 0x1")
    # behind one address there may be several nodes, and this one may not have the receipt's block yet
    missing = (
        f"{deployment.address}: {transaction_hash} was mined, but the node shows no code there within {_MINED_WITHIN_S:g} s; "
        "do not use this contract before it does"
    )
    code = await _told(endpoint, "eth_getCode", [deployment.address, "latest"], clock, missing)
    if str(code).lower() != runtime_code(deployment.sender):
        raise LiveError(f"{deployment.address}: the code on the chain is not the artefact's; do not use this contract")
    try:
        gas_used, gas_price_wei = (int(receipt[name], 16) for name in ("gasUsed", "effectiveGasPrice"))
    except (TypeError, ValueError, KeyError) as error:
        raise LiveError(
            f"{deployment.address} stands, but the receipt of {transaction_hash} is malformed; "
            "accepted are gasUsed and effectiveGasPrice in hexadecimal"
        ) from error
    return Deployed(deployment.address, deployment.transaction["chainId"], transaction_hash, gas_used, gas_price_wei)


async def _told(endpoint: Endpoint, method: str, parameters: Sequence[Any], clock: Clock, missing: str) -> Any:
    """The first answer that is not empty (null, or code of no bytes). Raises LiveError, ``missing``, where none comes in time."""
    until = clock.monotonic() + _MINED_WITHIN_S
    why = ""
    while True:
        try:
            answer, why = await endpoint.request(method, parameters), ""
        except (Refused, Unknown) as error:
            answer, why = None, f" (the node said last: {error})"
        if answer not in (None, "0x"):
            return answer
        if clock.monotonic() >= until:
            raise LiveError(missing + why)
        await clock.sleep(_POLL_S)


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; 0 where it did what it was asked to."""
    parser = argparse.ArgumentParser(prog="python -m arbgym.live.deploy", description="Deploys the executor contract.")
    parser.add_argument("--rpc", required=True, metavar="URL", help="the node: http(s):// or ws(s)://")
    parser.add_argument("--live", action="store_true", help="sign and send; else print what would be sent")
    parser.add_argument("--keystore", type=Path, help="keystore file (version 3) of the owner; else ARBGYM_PRIVATE_KEY")
    parser.add_argument("--owner", type=_address, metavar="0x...", help="without --live: who would deploy")
    chosen = parser.parse_args(arguments)
    if chosen.live == (chosen.owner is not None):
        parser.error("accepted is either --live, which takes the owner from its key, or --owner 0x...")
    try:
        print(asyncio.run(_run(chosen)))
    except (LiveError, ValueError) as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def _address(text: str) -> str:
    if not re.fullmatch("0x[0-9a-fA-F]{40}", text):
        raise argparse.ArgumentTypeError(f"{text!r}; accepted is 0x and 40 hexadecimal digits")
    return text


async def _run(chosen: argparse.Namespace) -> str:
    from arbgym.live.clock import SystemClock
    from arbgym.live.endpoint import connect
    from arbgym.live.signer import load_signer

    clock = SystemClock()
    endpoint = connect(chosen.rpc, timeout_s=_REQUEST_TIMEOUT_S, clock=clock)
    try:
        if chosen.live:
            return str(await carry_out(endpoint, load_signer(chosen.keystore), clock))
        return f"{await prepare(endpoint, chosen.owner)}\nnothing was sent; with --live it is"
    finally:
        await endpoint.close()


if __name__ == "__main__":
    sys.exit(main())
