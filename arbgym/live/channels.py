"""Where a signed transaction goes: a node's public memory pool, or a private relay as a bundle.

A structured answer is classified by its code and its words; whatever is no such answer is unknown, never a refusal.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol
from urllib.parse import urlsplit

from eth_utils.crypto import keccak

from arbgym.live.plain_json import load_json
from arbgym.live.terms import Endpoint, LiveError, Plan, Refused, Unknown

if TYPE_CHECKING:
    from arbgym.live.signer import Signer

Reason = Literal[
    "nonce too low",
    "nonce too high",
    "replacement underpriced",
    "underpriced",
    "insufficient funds",
    "gas",
    "invalid",
    "pool full",
]


@dataclass(frozen=True, slots=True)
class Answer:
    """What became of a submission. ``detail`` is the other side's own words."""

    kind: Literal["accepted", "refused", "unknown"]
    reason: Reason | None = None  # of a refusal
    detail: str = ""


class SendingChannel(Protocol):
    """A way to get a signed transaction mined."""

    async def send(self, raw: bytes, plan: Plan) -> Answer:
        """Submit it, or submit it again: the same bytes are the same transaction. Never raises for the other side's faults."""

    async def close(self) -> None:
        """Let go of connections."""


# Words that nodes use, in lower case, the longer before those within them. Read in: geth core/txpool/errors.go and
# core/error.go; anvil crates/anvil/src/eth/error.rs; erigon txnprovider/txpool/txpoolcfg/txpoolcfg.go (DiscardReason);
# nethermind Nethermind.TxPool/AcceptTxResult.cs (older releases answer with the name, such as OldNonce); reth
# crates/rpc/rpc-eth-types/src/error/mod.rs (RpcPoolError, RpcInvalidTransactionError). None: the transaction is held already.
_WORDS: tuple[tuple[str, Reason | None], ...] = (
    ("already known", None),  # geth, erigon, reth, nethermind
    ("already imported", None),  # anvil
    ("alreadyknown", None),  # nethermind
    ("existing tx with same hash", None),  # erigon
    ("existing txn with same hash", None),
    ("could not replace existing tx", "replacement underpriced"),  # erigon
    ("insufficient gas price to replace", "replacement underpriced"),  # anvil
    ("replacement transaction underpriced", "replacement underpriced"),  # geth, erigon, reth, nethermind, anvil
    ("replacementnotallowed", "replacement underpriced"),  # nethermind
    ("nonce too low", "nonce too low"),  # all
    ("oldnonce", "nonce too low"),  # nethermind
    ("nonce too high", "nonce too high"),
    ("noncegap", "nonce too high"),
    ("insufficient funds", "insufficient funds"),  # all
    ("insufficientfunds", "insufficient funds"),
    ("max fee per gas less than block base fee", "underpriced"),  # geth, anvil, reth
    ("underpriced", "underpriced"),  # geth, erigon, reth, nethermind
    ("fee too low", "underpriced"),  # erigon
    ("feetoolow", "underpriced"),  # nethermind
    ("pool is full", "pool full"),  # geth, erigon, reth
    ("intrinsic gas", "gas"),  # geth, anvil, reth
    ("intrinsicgas", "gas"),  # erigon
    ("exceeds block gas limit", "gas"),  # geth, reth
    ("gas limit", "gas"),
    ("invalid sender", "invalid"),
    ("invalid chain id", "invalid"),
    ("chain id", "invalid"),
)
# JSON-RPC 2.0 and EIP-1474: the request itself is not understood, or a transaction is rejected. Other codes (-32603 internal,
# -32005 limit exceeded, -32002 unavailable, a proxy's own) say nothing of what happened to the transaction.
_REFUSING_CODES = {
    -32700: "invalid",
    -32600: "invalid",
    -32601: "invalid",
    -32602: "invalid",
    -32000: "invalid",
    -32003: "invalid",
    -32010: "invalid",
}
# within a -32000, where geth puts everything
_UNCERTAIN = (
    "timeout",
    "timed out",
    "time-out",
    "limit exceeded",
    "too many requests",
    "rate",
    "unavailable",
    "syncing",
    "internal",
)


def classify(refusal: Refused) -> Answer:
    """What a node's structured error to ``eth_sendRawTransaction`` says of the transaction."""
    words = refusal.message.lower()
    detail = f"{refusal.message} (code {refusal.code})"
    for known, reason in _WORDS:
        if known in words:
            return Answer("accepted" if reason is None else "refused", reason, detail)
    if refusal.code in _REFUSING_CODES and not any(word in words for word in _UNCERTAIN):
        return Answer("refused", "invalid", detail)
    return Answer("unknown", None, detail)


class PublicChannel:
    """A node's memory pool."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def send(self, raw: bytes, plan: Plan) -> Answer:
        """Submit once; the plan's last block plays no part, as a public transaction has none."""
        try:
            told = await self._endpoint.request("eth_sendRawTransaction", ["0x" + raw.hex()])
        except Refused as refusal:
            return classify(refusal)
        except Unknown as unknown:
            return Answer("unknown", None, str(unknown))
        return Answer("accepted", None, told) if _is_hash(told) else Answer("unknown", None, "the answer is no hash")

    async def close(self) -> None:
        """Nothing to do: the endpoint is its owner's."""


class RelayChannel:
    """A private relay that takes signed bundles (``eth_sendBundle``): mined whole in a named block, or not at all.

    ``auth_signer`` says who asks; it holds no funds and is made afresh where none is given. ``url`` may hold a credential: no
    answer names more of it than the host.
    """

    def __init__(self, url: str, auth_signer: Signer | None = None, *, timeout_s: float = 2.0) -> None:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise LiveError(f"relay URL with scheme {parts.scheme!r}; accepted is http:// or https:// and a host")
        if not timeout_s > 0:
            raise LiveError(f"timeout_s = {timeout_s}; accepted is more than 0")
        self._url, self._host, self._timeout_s = url, parts.hostname, timeout_s
        from arbgym.live.signer import Signer  # only here: a dry run has no use for eth-account, which takes half a second

        self._auth = auth_signer or Signer.generate()
        self._session: Any = None

    def __repr__(self) -> str:
        return f"RelayChannel({self._host})"

    async def send(self, raw: bytes, plan: Plan) -> Answer:
        """A bundle for each block from the one after the decision to the last valid one.

        Accepted if one is accepted, refused if all are refused, else unknown.
        """
        blocks = range(plan.block_number + 1, plan.valid_until_block + 1)
        answers = await asyncio.gather(*(self._send_bundle(raw, block) for block in blocks))
        for kind in ("accepted", "unknown", "refused"):
            for answer in answers:
                if answer.kind == kind:
                    return answer
        return Answer("refused", "invalid", f"no block from {blocks.start} to {blocks.stop - 1}")

    async def close(self) -> None:
        """Close the connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    async def _send_bundle(self, raw: bytes, block_number: int) -> Answer:
        bundle = {"txs": ["0x" + raw.hex()], "blockNumber": hex(block_number), "revertingTxHashes": []}
        body = json.dumps({"jsonrpc": "2.0", "id": block_number, "method": "eth_sendBundle", "params": [bundle]}).encode()
        signature = self._auth.sign_text("0x" + keccak(body).hex())
        headers = {"Content-Type": "application/json", "X-Flashbots-Signature": f"{self._auth.address}:{signature}"}
        try:
            told = await self._post(body, headers)
        except Unknown as unknown:
            return Answer("unknown", None, str(unknown))
        error = told.get("error")
        if isinstance(error, dict):
            code = error.get("code")
            return classify(Refused("eth_sendBundle", code if isinstance(code, int) else 0, str(error.get("message", ""))))
        result = told.get("result")
        if isinstance(result, dict) and _is_hash(result.get("bundleHash")):
            return Answer("accepted", None, result["bundleHash"])
        return Answer("unknown", None, f"relay {self._host}: an answer without bundleHash")

    async def _post(self, body: bytes, headers: dict[str, str]) -> dict[str, Any]:
        import aiohttp  # beneath web3; not needed without a relay

        if self._session is None:
            self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=self._timeout_s))
        where = f"relay {self._host}"
        failure = ("connection", where)
        try:
            async with self._session.post(self._url, data=body, headers=headers, allow_redirects=False) as response:
                text = await response.text()
                status = response.status
        except TimeoutError:
            failure = ("timeout", where)
        except (aiohttp.ClientError, OSError, UnicodeDecodeError):
            pass
        else:
            if status == 429 or status >= 500:
                raise Unknown("eth_sendBundle", "rate_limited" if status == 429 else "server", f"{where}: HTTP {status}")
            try:
                told = load_json(text)
            except ValueError:
                told = None
            if isinstance(told, dict):
                return told
            failure = ("malformed", f"{where}: HTTP {status}")
        # outside of the handlers: aiohttp's exceptions hold the whole URL
        raise Unknown("eth_sendBundle", *failure)


def _is_hash(value: Any) -> bool:
    return isinstance(value, str) and len(value) == 66 and value.startswith("0x")
