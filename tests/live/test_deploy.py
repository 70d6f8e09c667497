"""Deployment of the executor contract, on a real chain."""

from __future__ import annotations

import asyncio
import time
import tomllib
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from arbgym.live.clock import SystemClock
from arbgym.live.deploy import deploy, main, prepare
from arbgym.live.endpoint import connect
from arbgym.live.executor import runtime_code
from arbgym.live.signer import PRIVATE_KEY, Signer
from arbgym.live.terms import LiveError, Refused, Unknown
from tests.chain.anvil import Anvil
from tests.chain.conftest import chain_packages  # noqa: F401

KEY = 32 * "a7"


@pytest.fixture(scope="module")
def anvil(chain_packages: None) -> Iterator[Anvil]:  # noqa: F811
    node = Anvil()
    yield node
    node.kill()


@pytest.fixture
def signer(anvil: Anvil) -> Signer:
    found = Signer.generate()
    anvil.call("anvil_setBalance", found.address, hex(10**18))
    return found


class Meddled:
    """The node, but for some methods: an exception is raised after the node was asked, anything else is its answer.

    A tuple is told one by one, and after its end the node's own answers.
    """

    def __init__(self, node: Anvil, **meddled: Any) -> None:
        self._endpoint = connect(node.url, timeout_s=10.0, clock=SystemClock())
        self._meddled = {method: iter(told) if isinstance(told, tuple) else told for method, told in meddled.items()}
        self.sent = 0

    async def request(self, method: str, parameters: Any) -> Any:
        self.sent += method == "eth_sendRawTransaction"
        answer = await self._endpoint.request(method, parameters)
        told = self._meddled.get(method, answer)
        if isinstance(told, Iterator):
            told = next(told, answer)
        if isinstance(told, Exception):
            raise told
        return told

    async def batch(self, calls: Any) -> list[Any]:
        return [await self.request(*call) for call in calls]

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        return await self._endpoint.next_head(timeout_s)

    async def close(self) -> None:
        await self._endpoint.close()


def deployed(node: Meddled, signer: Signer) -> str:
    async def run() -> str:
        try:
            return await deploy(node, signer, Hurried())
        finally:
            await node.close()

    return asyncio.run(run())


class Hurried(SystemClock):
    """A clock on which a wait is over soon."""

    def __init__(self) -> None:
        self.slept_s = 0.0

    def monotonic(self) -> float:
        return self.slept_s

    async def sleep(self, seconds: float) -> None:
        self.slept_s += seconds


def test_it_stands_where_it_was_foretold_with_the_artefacts_code(anvil: Anvil, signer: Signer) -> None:
    foretold = asyncio.run(_prepared(anvil, signer.address))
    address = deployed(node := Meddled(anvil), signer)
    assert address == foretold.address
    assert node.sent == 1
    assert anvil.call("eth_getCode", address, "latest") == runtime_code(signer.address.lower())
    assert int(anvil.call("eth_getTransactionCount", signer.address, "latest"), 16) == 1


async def _prepared(node: Anvil, sender: str) -> Any:
    endpoint = Meddled(node)
    try:
        return await prepare(endpoint, sender)
    finally:
        await endpoint.close()


def test_no_answer_is_no_refusal_and_nothing_is_sent_twice(anvil: Anvil, signer: Signer) -> None:
    node = Meddled(anvil, eth_sendRawTransaction=Unknown("eth_sendRawTransaction", "timeout"))
    address = deployed(node, signer)
    assert anvil.call("eth_getCode", address, "latest") == runtime_code(signer.address.lower())
    assert node.sent == 1


def test_a_node_that_lags_behind_the_receipts_is_waited_for(anvil: Anvil, signer: Signer) -> None:
    late = (Unknown("eth_getCode", "timeout"), "0x", None)
    node = Meddled(anvil, eth_getCode=late, eth_getTransactionReceipt=(None, None))
    assert anvil.call("eth_getCode", deployed(node, signer), "latest") == runtime_code(signer.address.lower())


@pytest.mark.parametrize(
    ("meddled", "words"),
    [
        ({"eth_getCode": "0x6001"}, "not the artefact's"),
        ({"eth_getCode": ("0x", "0x", "0x6001")}, "not the artefact's"),
        (
            {"eth_getCode": "0x"},
            "was mined, but the node shows no code there within 300 s; do not use this contract before it does$",
        ),
        (
            {"eth_getCode": Refused("eth_getCode", -32601, "no such method")},
            "within 300 s; .*the node said last: .*no such method",
        ),
        ({"eth_getTransactionReceipt": "mined"}, "status mined; accepted is 0x1"),
        ({"eth_getTransactionReceipt": {"status": "0x0"}}, "status 0x0; accepted is 0x1"),
        ({"eth_getTransactionReceipt": None}, "not mined within 300 s"),
        ({"eth_getTransactionReceipt": Unknown("eth_getTransactionReceipt", "timeout")}, "not mined within 300 s"),
        ({"eth_getBlockByNumber": {}}, "malformed"),
        (
            {"eth_getTransactionReceipt": {"status": "0x1"}},
            "0x[0-9a-f]{40} stands, but the receipt of 0x[0-9a-f]{64} is malformed",
        ),
    ],
)
def test_what_goes_wrong_is_said(anvil: Anvil, signer: Signer, meddled: dict[str, Any], words: str) -> None:
    node = Meddled(anvil, **meddled)
    with pytest.raises(LiveError, match=words):
        deployed(node, signer)
    while int(anvil.call("eth_getTransactionCount", signer.address, "latest"), 16) < node.sent:
        time.sleep(0.01)  # what was sent is mined some time; no other test is to count its block


def test_the_command(anvil: Anvil, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    owner = Signer(bytes.fromhex(KEY)).address
    monkeypatch.setenv(PRIVATE_KEY, KEY)
    url = anvil.url + "/?key=a-secret-word"
    anvil.call("anvil_setBalance", owner, hex(10**18))
    before = anvil.block_number
    assert main(["--rpc", url, "--owner", owner]) == 0
    shown = capsys.readouterr()
    assert "nothing was sent" in shown.out
    assert anvil.block_number == before
    assert main(["--rpc", url, "--live"]) == 0
    sent = capsys.readouterr()
    address, *lines = sent.out.splitlines()
    told = dict(line.split(maxsplit=1) for line in lines)
    receipt = anvil.call("eth_getTransactionReceipt", told["transaction"])
    assert receipt["contractAddress"] == address and told["chain"] == "31337"
    paid_wei = int(receipt["gasUsed"], 16) * int(receipt["effectiveGasPrice"], 16)
    assert told["gas"].startswith(f"{paid_wei / 1e18:g} ETH: {int(receipt['gasUsed'], 16):,} at ")
    assert 10**18 - int(anvil.call("eth_getBalance", owner, "latest"), 16) == paid_wei
    assert tomllib.loads(lines[-1]) == {"executor": address}
    assert "the owner has 1\n" in shown.out
    assert f"address   {address}" in shown.out
    assert anvil.call("eth_getCode", address, "latest") == runtime_code(owner.lower())
    before = anvil.block_number
    anvil.call("anvil_setBalance", owner, hex(10**14))
    assert main(["--rpc", url, "--live"]) == 1
    refused = capsys.readouterr()
    assert f"account {owner.lower()}: balance 0.0001 ETH on chain 31337; accepted is 0.00" in refused.err
    assert " gas at up to " in refused.err and not refused.out and anvil.block_number == before
    for said in (shown, sent, refused):
        for secret in (KEY, "a-secret-word"):
            assert secret not in said.out + said.err


@pytest.mark.parametrize("more", [[], ["--live", "--owner", "0x" + 40 * "1"], ["--owner", "me"]])
def test_one_owner_must_be_given(more: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--rpc", "http://127.0.0.1:1", *more])
    assert "accepted is" in capsys.readouterr().err
