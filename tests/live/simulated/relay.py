"""A private relay of the simulated chain, and what is written down of everything that reaches node or relay."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from arbgym.live.channels import Answer, classify
from arbgym.live.terms import Endpoint, Plan, Refused, Unknown
from tests.live.simulated.chain import Refusal, Transaction, decode
from tests.live.simulated.faults import SENDS


class SimulatedRelay:
    """A ``SendingChannel`` like ``RelayChannel``, over an endpoint in place of HTTP."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint

    async def send(self, raw: bytes, plan: Plan) -> Answer:
        """One bundle for each block that the plan is good for."""
        answers = []
        for number in range(plan.block_number + 1, plan.valid_until_block + 1):
            bundle = {"txs": ["0x" + raw.hex()], "blockNumber": hex(number), "revertingTxHashes": []}
            answers.append(await self._offer(bundle))
        for kind in ("accepted", "unknown", "refused"):
            for answer in answers:
                if answer.kind == kind:
                    return answer
        return Answer("refused", "invalid", "no block")

    async def _offer(self, bundle: dict[str, Any]) -> Answer:
        try:
            told = await self._endpoint.request("eth_sendBundle", [bundle])
        except Refused as refusal:
            return classify(refusal)
        except Unknown as unknown:
            return Answer("unknown", None, str(unknown))
        if isinstance(told, dict) and isinstance(told.get("bundleHash"), str):
            return Answer("accepted", None, told["bundleHash"])
        return Answer("unknown", None, "no bundleHash")

    async def close(self) -> None:
        """Nothing is open."""


@dataclass(frozen=True, slots=True)
class Attempt:
    """A transaction that left the runner, and the world at that moment."""

    transaction: Transaction
    time_s: float  # by the runner's clock
    elapsed_s: float  # truly
    tip: int
    killed: bool
    halted: bool


class Witness:
    """An ``Endpoint`` that writes down each transaction on its way out, whatever becomes of it then."""

    def __init__(self, endpoint: Endpoint, note: Callable[[Transaction], None]) -> None:
        self._endpoint, self._note = endpoint, note

    async def request(self, method: str, parameters: Sequence[Any]) -> Any:
        if method in SENDS:
            raws = [parameters[0]] if method == "eth_sendRawTransaction" else parameters[0]["txs"]
            for raw in raws:
                try:
                    self._note(decode(raw))
                except Refusal as error:
                    raise AssertionError(f"{raw[:80]}... was sent, which is no transaction") from error
        return await self._endpoint.request(method, parameters)

    async def batch(self, calls: Sequence[tuple[str, Sequence[Any]]]) -> list[Any]:
        assert not any(method in SENDS for method, _ in calls), "a transaction in a batch"
        return await self._endpoint.batch(calls)

    async def next_head(self, timeout_s: float) -> dict[str, Any]:
        return await self._endpoint.next_head(timeout_s)

    async def close(self) -> None:
        await self._endpoint.close()
