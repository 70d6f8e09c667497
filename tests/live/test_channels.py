"""What an answer to a submission means, and bundles to a relay, signed by whoever asks."""

from __future__ import annotations

import asyncio
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from aiohttp import web
from eth_account import Account
from eth_account.messages import encode_defunct
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.live.channels import Answer, PublicChannel, RelayChannel, classify
from arbgym.live.signer import Signer
from arbgym.live.terms import LiveError, Plan, Refused, Unknown
from tests.chain.anvil import Anvil
from tests.chain.conftest import anvil, chain_packages  # noqa: F401
from tests.live.scripted_chain import ScriptedChain, plan_at

RAW = bytes.fromhex("02f8abcd")
HASH = "0x" + 32 * "ab"


def plan(blocks: int = 2) -> Plan:
    return plan_at(ScriptedChain().head, 0, "private", blocks)


class OneAnswer:
    """An endpoint with one answer to everything."""

    def __init__(self, answer: Any) -> None:
        self.answer = answer

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        return [await self.request(*call) for call in calls]

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        raise Unknown("eth_subscribe", "timeout")

    async def close(self) -> None:
        self.answer = None


# code, message as the node writes it, kind, reason
KNOWN = [
    (-32000, "already known", "accepted", None),
    (-32003, "transaction already imported", "accepted", None),
    (-32010, "AlreadyKnown", "accepted", None),
    (-32000, "INTERNAL_ERROR: existing tx with same hash", "accepted", None),
    (-32000, "nonce too low: next nonce 5, tx nonce 3", "refused", "nonce too low"),
    (-32003, "nonce too low", "refused", "nonce too low"),
    (-32010, "OldNonce, Current nonce: 5", "refused", "nonce too low"),
    (-32000, "nonce too high", "refused", "nonce too high"),
    (-32000, "replacement transaction underpriced", "refused", "replacement underpriced"),
    (-32000, "INTERNAL_ERROR: could not replace existing tx", "refused", "replacement underpriced"),
    (-32603, "Tx: [0x12] insufficient gas price to replace existing transaction", "refused", "replacement underpriced"),
    (-32000, "transaction underpriced: gas tip cap 0, minimum needed 1", "refused", "underpriced"),
    (-32010, "FeeTooLow, MaxFeePerGas too low", "refused", "underpriced"),
    (-32000, "max fee per gas less than block base fee: address 0x1", "refused", "underpriced"),
    (-32000, "insufficient funds for gas * price + value: balance 0", "refused", "insufficient funds"),
    (-32003, "Insufficient funds for gas * price + value", "refused", "insufficient funds"),
    (-32000, "txpool is full", "refused", "pool full"),
    (-32000, "intrinsic gas too low: gas 20000, minimum needed 21000", "refused", "gas"),
    (-32000, "exceeds block gas limit", "refused", "gas"),
    (-32000, "invalid sender", "refused", "invalid"),
    (-32602, "invalid argument 0: odd length", "refused", "invalid"),
    (-32601, "the method does not exist", "refused", "invalid"),
    (-32000, "Known transaction", "accepted", None),
    (-32000, "known transaction: 0x12", "accepted", None),
    (-32000, "future transaction tries to replace pending", "refused", "replacement underpriced"),
    (-32010, "NonceTooFarInFuture", "refused", "nonce too high"),
    (-32000, "nonce has max value: address 0x1, nonce: 18446744073709551615", "refused", "invalid"),
    (-32004, "Upfront cost exceeds account balance", "refused", "insufficient funds"),
    (-32010, "InsufficientFunds, Balance is 0 less than sending value", "refused", "insufficient funds"),
    (-32000, "fee cap less than block base fee: address 0x1", "refused", "underpriced"),
    (-32009, "Gas price below configured minimum gas price", "refused", "underpriced"),
    (-32000, "max priority fee per gas higher than max fee per gas: address 0x1", "refused", "invalid"),
    (-32000, "INTERNAL_ERROR: tip above fee cap", "refused", "invalid"),
    (-32000, "tx fee (1.50 ether) exceeds the configured cap (1.00 ether)", "refused", "invalid"),
    (-32000, "insufficient gas for floor data gas cost: gas 21000, minimum needed 21100", "refused", "gas"),
    (-32000, "gas uint64 overflow", "refused", "gas"),
    (-32010, "GasLimitExceeded, Gas limit: 30000000", "refused", "gas"),
    (-32003, "Intrinsic gas exceeds gas limit", "refused", "gas"),
    (-32005, "Transaction gas limit exceeds block gas limit", "refused", "gas"),
    (-32010, "FailedToResolveSender", "refused", "invalid"),
    (-32010, "InvalidTxSignature: signature is invalid.", "refused", "invalid"),
    (-32002, "Invalid signature", "refused", "invalid"),
    (-32000, "invalid transaction v, r, s values", "refused", "invalid"),
    (-32000, "sender not an eoa: address 0x1, codehash: 0x2", "refused", "invalid"),
    (-32000, "invalid chain id for signer: have 5 want 1", "refused", "invalid"),
    (-32010, "InvalidTxChainId: expected 1, got 5", "refused", "invalid"),
    (-32000, "transaction type not supported", "refused", "invalid"),
    (-32000, "oversized data: transaction size 140000, limit 131072", "refused", "invalid"),
    (-32000, "max initcode size exceeded: code size 50000, limit 49152", "refused", "invalid"),
    (-32000, "negative value", "refused", "invalid"),
    (-32000, "rlp: expected input list for types.DynamicFeeTx", "refused", "invalid"),
    (-32602, "failed to decode signed transaction", "refused", "invalid"),
    (-32000, "failed to forward tx to sequencer, please try again. Error message: 'nonce too low'", "refused", "nonce too low"),
    # nothing is known of the transaction after these
    (-32603, "internal error", "unknown", None),
    (-32005, "daily request count exceeded", "unknown", None),
    (-32002, "request timed out", "unknown", None),
    (-32000, "request timeout on the upstream", "unknown", None),
    (-32000, "rate limit exceeded", "unknown", None),
    (0, "", "unknown", None),
    (-32000, "some words that nobody has seen", "unknown", None),
    (-32003, "transaction rejected", "unknown", None),
    (-32010, "Syncing", "unknown", None),
    (-32000, "unknown transaction", "unknown", None),
    *(
        (code, words, "unknown", None)
        for code in (-32000, -32003, -32010, -32099, -32600)
        for words in (
            "context deadline exceeded",
            "context canceled",
            "EOF",
            'Post "http://10.0.0.1:8545": unexpected EOF',
            "read tcp 10.0.0.1:8545: connection reset by peer",
            "dial tcp 10.0.0.1:8545: connect: connection refused",
            "write: broken pipe",
            "502 Bad Gateway",
            "upstream request failed",
            "failed to forward tx to sequencer, please try again. Error message: 'context deadline exceeded'",
            "no backend is currently healthy to serve traffic: service unavailable",
            "gas limit 300000: request timed out",  # words of a refusal beside those of a doubt
        )
    ),
]


@pytest.mark.parametrize(("code", "message", "kind", "reason"), KNOWN)
def test_a_structured_answer_is_read_by_its_code_and_words(code: int, message: str, kind: str, reason: str | None) -> None:
    endpoint = OneAnswer(Refused("eth_sendRawTransaction", code, message))
    answer = asyncio.run(PublicChannel(endpoint).send(RAW, plan()))
    assert (answer.kind, answer.reason) == (kind, reason)
    assert message in answer.detail


@pytest.mark.parametrize("kind", ["timeout", "connection", "rate_limited", "server", "malformed"])
def test_no_answer_is_unknown_and_never_a_refusal(kind: str) -> None:
    answer = asyncio.run(PublicChannel(OneAnswer(Unknown("eth_sendRawTransaction", kind))).send(RAW, plan()))
    assert answer.kind == "unknown" and kind in answer.detail


SCALARS = st.none() | st.booleans() | st.integers() | st.text()


@settings(max_examples=30)
@given(st.recursive(SCALARS, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=5))
def test_only_a_hash_is_an_acceptance(told: Any) -> None:
    assert asyncio.run(PublicChannel(OneAnswer(told)).send(RAW, plan())).kind == "unknown"
    assert asyncio.run(PublicChannel(OneAnswer(HASH)).send(RAW, plan())).kind == "accepted"


@given(code=st.integers(-(2**40), 2**40), message=st.text())
def test_whatever_a_node_says_is_read_as_something(code: int, message: str) -> None:
    assert classify(Refused("eth_sendRawTransaction", code, message)).kind in ("accepted", "refused", "unknown")


@given(code=st.integers(-32099, -32000) | st.integers(), words=st.text(alphabet=st.characters(categories=["Nd", "Zs", "Lt"])))
def test_a_servers_code_refuses_nothing_by_itself(code: int, words: str) -> None:
    told = classify(Refused("eth_sendRawTransaction", code, words))
    assert told.kind == ("refused" if code in (-32700, -32602, -32601, -32600) else "unknown")
    for doubt in ("context deadline exceeded", "EOF", "connection reset by peer", "write: broken pipe", "502 Bad Gateway"):
        for refusal in ("", "insufficient funds", "intrinsic gas too low", "invalid sender"):
            assert classify(Refused("eth_sendRawTransaction", code, f"{words} {refusal} {doubt}")).kind == "unknown"


@pytest.mark.usefixtures("chain_packages")
def test_anvil_answers_as_the_table_says(anvil: Anvil) -> None:  # noqa: F811
    from arbgym.live.clock import SystemClock
    from arbgym.live.endpoint import connect

    signer = Signer.generate()
    anvil.call("anvil_setBalance", signer.address, hex(10**20))
    anvil.call("evm_setAutomine", False)

    def signed(nonce: int, percent: int, tip_percent: int, value: int = 0) -> bytes:
        fields = {"type": 2, "chainId": 31337, "nonce": nonce, "to": signer.address, "value": value, "data": "0x", "gas": 21_000}
        return signer.sign({**fields, "maxFeePerGas": percent * 10**9, "maxPriorityFeePerGas": tip_percent * 10**7})[0]

    async def ask() -> list[Answer]:
        endpoint = connect(anvil.url, timeout_s=5.0, clock=SystemClock())
        channel = PublicChannel(endpoint)
        first = signed(0, 100, 100)
        first_five = (first, first, signed(0, 100, 105), signed(0, 113, 113), signed(5, 100, 100))
        answers = [await channel.send(raw, plan()) for raw in first_five]
        anvil.call("evm_mine")
        answers += [await channel.send(raw, plan()) for raw in (first, signed(1, 100, 100, 10**21))]
        await endpoint.close()
        return answers

    answers = asyncio.run(ask())
    assert [(one.kind, one.reason) for one in answers] == [
        ("accepted", None),
        ("accepted", None),  # the same bytes again
        ("refused", "replacement underpriced"),  # a tip of 5 % more
        ("accepted", None),  # both fees up by an eighth and more
        ("accepted", None),  # beyond a gap: taken, and never mined
        ("refused", "nonce too low"),
        ("refused", "insufficient funds"),
    ]
    assert int(anvil.call("eth_getTransactionCount", signer.address, "latest"), 16) == 1


# ------------------------------------------------------------------------------------------------------------- the relay
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@asynccontextmanager
async def relay_at(handler: Handler) -> AsyncIterator[str]:
    """A relay on loopback; its URL has a credential in the path."""
    application = web.Application()
    application.router.add_post("/secret-canary", handler)
    runner = web.AppRunner(application)
    await runner.setup()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        site = web.SockSite(runner, listening)
        await site.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/secret-canary"
        await runner.cleanup()


def sent_to(handler: Handler, blocks: int = 2, signer: Signer | None = None, timeout_s: float = 2.0) -> Answer:
    async def send() -> Answer:
        async with relay_at(handler) as url:
            channel = RelayChannel(url, signer, timeout_s=timeout_s)
            answer = await channel.send(RAW, plan(blocks))
            assert "canary" not in f"{channel!r} {answer}"
            await channel.close()
            return answer

    return asyncio.run(send())


@pytest.mark.parametrize("signer", [None, Signer.generate()])
def test_a_signed_bundle_for_each_block_it_may_be_mined_in(signer: Signer | None) -> None:
    seen: list[tuple[str, dict[str, Any]]] = []

    async def relay(request: web.Request) -> web.Response:
        body = await request.read()
        address, signature = request.headers["X-Flashbots-Signature"].split(":")
        recovered = Account.recover_message(encode_defunct(text="0x" + keccak(body).hex()), signature=signature)
        assert recovered == address
        asked = json.loads(body)
        assert asked["method"] == "eth_sendBundle" and asked["jsonrpc"] == "2.0"
        seen.append((recovered, asked["params"][0]))
        return web.json_response({"jsonrpc": "2.0", "id": asked["id"], "result": {"bundleHash": HASH}})

    assert sent_to(relay, 3, signer).kind == "accepted"
    first = plan().block_number + 1
    assert sorted(one["blockNumber"] for _, one in seen) == [hex(first + step) for step in range(3)]
    assert all(one["txs"] == ["0x" + RAW.hex()] and one["revertingTxHashes"] == [] for _, one in seen)
    assert len({address for address, _ in seen}) == 1
    assert signer is None or seen[0][0] == signer.address


def test_a_relays_faults_are_unknown_and_its_refusals_are_not() -> None:
    async def slow(request: web.Request) -> web.Response:
        await asyncio.sleep(1.0)
        return web.Response()

    def answering(**what: Any) -> Handler:
        async def relay(request: web.Request) -> web.Response:
            return web.Response(**what)

        return relay

    def refusing(code: int, message: str) -> Handler:
        return answering(text=json.dumps({"error": {"code": code, "message": message}}), status=400)

    for handler, kind, words in (
        (slow, "unknown", "timeout"),
        (answering(status=429), "unknown", "rate_limited"),
        (answering(status=502), "unknown", "server"),
        (answering(text="<html>"), "unknown", "malformed"),
        (answering(body=b"\xff\xfe"), "unknown", "127.0.0.1"),
        (answering(text="[]"), "unknown", "malformed"),
        (answering(text='{"result": {}}'), "unknown", "bundleHash"),
        (answering(text='{"result": null}'), "unknown", "bundleHash"),
        (answering(status=302, headers={"Location": "http://127.0.0.1:1/"}), "unknown", "malformed"),
        (refusing(-32000, "nonce too low"), "refused", "nonce too low"),
        (refusing(-32602, "unable to decode txs"), "refused", "decode"),
        (refusing(-32603, "internal server error"), "unknown", "internal"),
    ):
        answer = sent_to(handler, timeout_s=0.3)
        assert answer.kind == kind and words in answer.detail, answer
    # nobody listens
    assert (
        asyncio.run(RelayChannel("http://127.0.0.1:1/canary").send(RAW, plan())).detail
        == "eth_sendBundle: connection: relay 127.0.0.1"
    )


def test_one_block_taken_is_enough_and_a_doubt_is_a_doubt() -> None:
    first = plan().block_number + 1

    def mixed(later: dict[str, Any]) -> Handler:
        async def relay(request: web.Request) -> web.Response:
            asked = json.loads(await request.read())
            if int(asked["params"][0]["blockNumber"], 16) == first:
                return web.json_response({"error": {"code": -32000, "message": "nonce too high"}})
            return web.json_response(later)

        return relay

    assert sent_to(mixed({"result": {"bundleHash": HASH}})).kind == "accepted"
    assert sent_to(mixed({"error": {"code": -32603, "message": "internal error"}})).kind == "unknown"
    assert sent_to(mixed({"error": {"code": -32000, "message": "block is past"}})).kind == "unknown"
    assert sent_to(mixed({"error": {"code": -32000, "message": "insufficient funds"}})).kind == "refused"


@pytest.mark.parametrize("url", ["ftp://canary.example", "canary", "http://", ""])
def test_a_relays_url_is_checked(url: str) -> None:
    with pytest.raises(LiveError, match="accepted is http"):
        RelayChannel(url)
    with pytest.raises(LiveError, match="timeout_s = 0"):
        RelayChannel("https://relay.example", timeout_s=0.0)
