"""A live run on a local chain for the benchmark: anvil, real pools, the executor, and a policy that always trades."""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path
from typing import Any
from unittest.mock import patch

from arbgym.live.assemble import MeteredEndpoint, Options, assembled
from arbgym.live.channels import PublicChannel
from arbgym.live.clock import SystemClock
from arbgym.live.deploy import deploy
from arbgym.live.endpoint import connect
from arbgym.live.logs import Redactor
from arbgym.live.signer import Signer, load_signer
from tests.chain.anvil import Anvil
from tests.chain.market import Market
from tests.live.policies import save_policy
from tests.live.pools import BLOCK_TIME_S, Pools

_WIDE = {
    "profile": "aggressive",
    **dict.fromkeys(("min_confidence",), 0.0),
    **dict.fromkeys(("min_profit_eth",), 1e-6),
    **dict.fromkeys(("max_notional_eth", "max_flash_borrow_eth", "max_head_age_s", "max_reference_age_s"), 1e6),
    **dict.fromkeys(("max_clock_skew_s", "gas_budget_eth_per_day", "max_daily_loss_eth", "equity_eth"), 1e5),
    "max_orders_per_minute": 100_000,
    "kelly_fraction": 1.0,
}


def heads_to_transactions_ms(folder: Path, blocks: int, scheme: str) -> tuple[list[float], list[float]]:
    """Milliseconds from each head that led to a transaction: until it was signed, and until it was sent.

    Between the two it is made durable in the journal, and the gate has its last word. ``scheme`` is http or ws.
    """
    node = Anvil()
    key = "0x" + os.urandom(32).hex()
    try:
        node.call("anvil_setBlockTimestampInterval", BLOCK_TIME_S)
        with patch.dict(os.environ, {"ARBGYM_PRIVATE_KEY": key}):
            node.call("anvil_setBalance", load_signer(None).address, hex(10**22))
            return asyncio.run(_run(node, folder, blocks, scheme))
    finally:
        node.kill()


async def _run(node: Anvil, folder: Path, blocks: int, scheme: str) -> tuple[list[float], list[float]]:
    pools = Pools(Market(node, (18, 6)), seed=5, median_base=15.0)
    endpoint = connect(node.url, timeout_s=10.0, clock=SystemClock())
    executor = await deploy(endpoint, load_signer(None), SystemClock())
    await endpoint.close()
    policy = save_policy(folder / "acting", masked=True, prefer={"route": 1, "channel": 1, "bid_share": 2})
    url = node.url.replace("http", scheme, 1)
    settings = pools.settings(url, folder, executor=executor, risk=_WIDE, fees={"maximum_fee_gwei": 1e6})
    heads: list[float] = []
    signed: list[float] = []
    sent: list[tuple[float, float]] = []
    told, sign, send = MeteredEndpoint.next_head, Signer.sign, PublicChannel.send

    async def next_head(self: Any, timeout_s: float) -> dict[str, Any]:
        head = await told(self, timeout_s)
        heads.append(time.perf_counter())
        return head

    def signing(self: Any, transaction: Any) -> tuple[bytes, str]:
        made = sign(self, transaction)
        signed.append(time.perf_counter())
        return made

    async def hand_over(self: Any, raw: bytes, plan: Any) -> Any:
        sent.append(((signed[-1] - heads[-1]) * 1e3, (time.perf_counter() - heads[-1]) * 1e3))
        return await send(self, raw, plan)

    with (
        patch.object(MeteredEndpoint, "next_head", next_head),
        patch.object(Signer, "sign", signing),
        patch.object(PublicChannel, "send", hand_over),
    ):
        async with assembled(Options(policy, settings, live=True), Redactor()) as made:
            runner, following = made.runner, made.runner.parts.feed.next

            async def next_block() -> Any:
                if not runner.parts.sender.busy:
                    await asyncio.to_thread(pools.trade)
                return await following()

            with patch.object(runner.parts.feed, "next", next_block):
                await runner.run(blocks)
    return [ms for ms, _ in sent], [ms for _, ms in sent]
