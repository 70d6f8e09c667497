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


# Words that nodes use, in lower case, the longer before those within them. Read in: geth core/txpool/errors.go, core/error.go,
# core/types/transaction.go and internal/ethapi/api.go; anvil crates/anvil/src/eth/error.rs; erigon
# txnprovider/txpool/txpoolcfg/txpoolcfg.go (DiscardReason); nethermind Nethermind.TxPool/AcceptTxResult.cs and TxErrorMessages.cs
# (older releases answer with the name, such as OldNonce); reth crates/rpc/rpc-eth-types/src/error/mod.rs (RpcPoolError,
# RpcInvalidTransactionError); besu RpcErrorType.java. None: the transaction is held already.
_WORDS: tuple[tuple[str, Reason | None], ...] = (
    ("already known", None),  # geth, erigon, reth, nethermind
    ("already imported", None),  # anvil
    ("alreadyknown", None),  # nethermind
    ("existing tx with same hash", None),  # erigon
    ("existing txn with same hash", None),
    (" known transaction", None),  # besu, geth of old; a word of its own: an unknown transaction type is another matter
    ("could not replace existing tx", "replacement underpriced"),  # erigon
    ("insufficient gas price to replace", "replacement underpriced"),  # anvil
    ("replacement transaction underpriced", "replacement underpriced"),  # geth, erigon, reth, nethermind, anvil, besu
    ("replacementnotallowed", "replacement underpriced"),  # nethermind
    ("future transaction tries to replace pending", "replacement underpriced"),  # geth
    ("nonce too low", "nonce too low"),  # all
    ("oldnonce", "nonce too low"),  # nethermind
    ("nonce too high", "nonce too high"),
    ("noncegap", "nonce too high"),
    ("noncetoofarinfuture", "nonce too high"),  # nethermind
    ("nonce too distant", "nonce too high"),  # erigon
    ("nonce is too distant", "nonce too high"),  # besu
    ("nonce has max value", "invalid"),  # geth, reth
    ("insufficient funds", "insufficient funds"),  # all
    ("insufficientfunds", "insufficient funds"),
    ("upfront cost exceeds account balance", "insufficient funds"),  # besu
    ("max fee per gas less than block base fee", "underpriced"),  # geth, anvil, reth
    ("fee cap less than", "underpriced"),  # geth, erigon: ... block base fee
    ("gas price below", "underpriced"),  # besu: ... configured minimum gas price
    ("underpriced", "underpriced"),  # geth, erigon, reth, nethermind
    ("fee too low", "underpriced"),  # erigon
    ("feetoolow", "underpriced"),  # nethermind
    ("gas price too low", "underpriced"),  # besu
    ("max priority fee per gas higher than", "invalid"),  # geth, reth, anvil: ... max fee per gas, ... 2^256-1
    ("max fee per gas higher than 2^256-1", "invalid"),  # geth
    ("tip above fee cap", "invalid"),  # erigon
    ("tip higher than fee cap", "invalid"),
    ("max priority fee per gas exceeds max fee per gas", "invalid"),  # besu
    ("exceeds the configured cap", "invalid"),  # geth, reth, erigon: tx fee (...)
    ("transaction fee cap exceeded", "invalid"),  # besu
    ("pool is full", "pool full"),  # geth, erigon, reth
    ("intrinsic gas", "gas"),  # geth, anvil, reth, besu
    ("intrinsicgas", "gas"),  # erigon, nethermind
    ("insufficient gas for floor data gas cost", "gas"),  # geth
    ("gas uint64 overflow", "gas"),  # geth, reth, erigon
    ("exceeds block gas limit", "gas"),  # geth, reth
    ("gaslimitexceeded", "gas"),  # nethermind
    ("exceeds current gas limit", "gas"),
    ("gas limit too high", "gas"),  # geth, erigon
    ("gas limit", "gas"),
    ("invalid sender", "invalid"),
    ("failedtoresolvesender", "invalid"),  # nethermind
    ("sender not an eoa", "invalid"),  # geth
    ("sender is not an eoa", "invalid"),  # reth
    ("senderiscontract", "invalid"),  # nethermind
    ("invalid signature", "invalid"),  # besu
    ("invalid transaction signature", "invalid"),  # reth
    ("invalidtxsignature", "invalid"),  # nethermind
    ("invalid transaction v, r, s", "invalid"),  # geth
    ("invalid chain id", "invalid"),
    ("invalidtxchainid", "invalid"),  # nethermind
    ("wrong chainid", "invalid"),  # besu
    ("chain id", "invalid"),
    ("only replay-protected", "invalid"),  # geth
    ("transaction type not supported", "invalid"),  # geth, reth, erigon
    ("transaction type not valid", "invalid"),  # geth
    ("invalid transaction type", "invalid"),  # besu
    ("invalidtxtype", "invalid"),  # nethermind
    ("notsupportedtxtype", "invalid"),
    ("typed transaction too short", "invalid"),  # geth
    ("oversized data", "invalid"),  # geth, reth
    ("maxtxsizeexceeded", "invalid"),  # nethermind
    ("max initcode size exceeded", "invalid"),  # geth, reth, erigon
    ("negative value", "invalid"),  # geth, reth, erigon
    ("int256overflow", "invalid"),  # nethermind
    ("rlp:", "invalid"),  # geth: it could not be decoded
    ("failed to decode signed transaction", "invalid"),  # reth, anvil
    ("empty raw transaction data", "invalid"),  # reth, anvil
)
# JSON-RPC 2.0: the request itself was not understood. All other codes say nothing of what happened to the transaction: a node may
# have failed after it took it (-32603), and proxies and sequencers tell their time-outs where geth puts everything (-32000).
_NOT_UNDERSTOOD = (-32700, -32600, -32601, -32602)
# Somebody on the way waited in vain for the answer, whatever else is said: the transaction may have arrived.
_ON_THE_WAY = (
    "timeout",
    "timed out",
    "time-out",
    "deadline exceeded",
    "context canceled",
    "context cancelled",
    "connection re",  # reset, refused
    "connection closed",
    "broken pipe",
    "eof",
    "bad gateway",
)
# beside a code of a request that was not understood: a proxy's
_UNCERTAIN = (
    *_ON_THE_WAY,
    "limit exceeded",
    "too many requests",
    "rate",
    "unavailable",
    "syncing",
    "internal",
    "gateway",
    "upstream",
    "forward",
    "connection",
)


def classify(refusal: Refused) -> Answer:
    """What a node's structured error to ``eth_sendRawTransaction`` says of the transaction; only known words refuse it."""
    words = f" {refusal.message.lower()}"
    detail = f"{refusal.message} (code {refusal.code})"
    told = next(((reason,) for known, reason in _WORDS if known in words), None)
    if told == (None,):
        return Answer("accepted", None, detail)
    if told is not None and not any(word in words for word in _ON_THE_WAY):
        return Answer("refused", told[0], detail)
    if refusal.code in _NOT_UNDERSTOOD and not any(word in words for word in _UNCERTAIN):
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
