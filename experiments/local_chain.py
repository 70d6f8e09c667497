"""A chain to try the live runner on: ``python -m experiments.local_chain --out DIR``, until Ctrl-C.

Starts anvil with three real Uniswap pools of one pair (``make chain`` installs both), a lender and a private relay that stand in
for the real ones, deploys the executor for a fresh key, writes ``DIR/live.toml``, says which commands to run beside it, and then
trades: a block every few seconds, as on a real chain, gaps between the pools included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from unittest.mock import patch

from arbgym.live.clock import SystemClock
from arbgym.live.deploy import deploy
from arbgym.live.endpoint import connect
from arbgym.live.signer import PRIVATE_KEY, load_signer

_SETTINGS = """executor = "{executor}"

[chain]
rpc = "{url}"
chain_id = 31337
block_time_s = {seconds}

[lenders]
balancer_v2 = "{lender}"
morpho_blue = "{lender}"

[relay]
url = "{relay}"

[pair]
base = "{base}"
quote = "{quote}"

{pools}

[journal]
path = {journal}

[risk]
profile = "aggressive"
min_profit_eth = 0.001
kill_file = {kill_file}
{skew}
[fees]
maximum_fee_gwei = 100000.0

[status]
port = 8080
"""


class Relay:
    """A relay on loopback, at ``url``: a bundle waits for the block that it names, and for no other."""

    def __init__(self) -> None:
        self._bundles: dict[int, list[str]] = {}
        bundles = self._bundles

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                bundle = asked["params"][0]
                bundles.setdefault(int(bundle["blockNumber"], 16), []).extend(bundle["txs"])
                told = {"jsonrpc": "2.0", "id": asked["id"], "result": {"bundleHash": "0x" + "0" * 64}}
                body = json.dumps(told).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def bundled(self, number: int) -> list[str]:
        """The raw transactions for a block, which is mined now."""
        for past in [block for block in list(self._bundles) if block < number]:
            del self._bundles[past]
        return self._bundles.pop(number, [])


class Slots:
    """A block in every slot and in no other moment, with the slot's own time, whoever sends what: as on a real chain.

    Not anvil's interval mining, which knows whole seconds only and drifts, so that heads would soon be too old for the risk gate.
    A slot of less than a second is one second of the chain's time, which then runs ahead of the clock.
    """

    def __init__(self, node: Any, relay: Relay, seconds: float) -> None:
        self._node, self._relay, self._seconds = node, relay, seconds
        self.step_s = max(int(seconds), 1)
        node.call("evm_setAutomine", False)
        self._timestamp = math.ceil(time.time())
        self._at_s = float(self._timestamp)

    def mine(self) -> None:
        """Wait for the next slot and mine its block; whole slots that were slept through have none."""
        slots = 1 + (max(int((time.time() - self._at_s) / self._seconds), 0) if self._seconds >= 1.0 else 0)
        self._timestamp += slots * self.step_s
        self._at_s += slots * self._seconds
        time.sleep(max(self._at_s - time.time(), 0.0))
        for raw in self._relay.bundled(self._node.block_number + 1):
            with suppress(RuntimeError):  # already mined: the bundle was sent for the block before, too
                self._node.call("eth_sendRawTransaction", raw)
        self._node.call("evm_mine", hex(self._timestamp))


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until interrupted; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.local_chain", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("local_chain"), help="folder for live.toml (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="between blocks: whole, or less than 1 (default %(default)s)")
    parser.add_argument("--blocks", type=int, help="end after this many blocks")
    parser.add_argument("--seed", type=int, help="of the trades (default: another one each time)")
    chosen = parser.parse_args(arguments)
    if not (0.0 < chosen.seconds < 1.0 or (1.0 <= chosen.seconds <= 3_600.0 and chosen.seconds.is_integer())):
        parser.error(f"--seconds {chosen.seconds:g}: accepted are whole seconds up to 3600, as blocks tell time, or less than 1")
    try:
        from tests.chain.anvil import BINARY, Anvil
        from tests.chain.market import Market
        from tests.live.pools import Pools
    except ImportError as error:
        print(f"error: {error}; accepted is a checkout, with the extras dev or live, node and test", file=sys.stderr)
        return 2
    if not BINARY.exists():
        print("error: anvil and the pools' contracts are missing; run make chain", file=sys.stderr)
        return 2
    chosen.out.mkdir(parents=True, exist_ok=True)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # the node ends with this process either way
    node = Anvil()
    try:
        market: Any = Market(node, (18, 6))  # its way to send is another one later
        pools = Pools(market, seed=int(time.time()) if chosen.seed is None else chosen.seed, median_base=15.0)
        key = "0x" + os.urandom(32).hex()
        with patch.dict(os.environ, {PRIVATE_KEY: key}):
            node.call("anvil_setBalance", load_signer(None).address, hex(10**20))
            executor = asyncio.run(_deployed(node.url))
        listed = "\n\n".join(
            f'[[pools]]\nname = "pool{k}"\naddress = "{address}"\nfee_ppm = {0 if k else 3_000}'
            for k, address in enumerate(pools.addresses)
        )
        relay, lender, folder = Relay(), _lender(pools), chosen.out.resolve()
        slots = Slots(node, relay, chosen.seconds)
        market.send = _send_after_everybody(node)
        pools.idle = lambda: None
        settings = _SETTINGS.format(
            executor=executor,
            url=node.url,
            lender=lender,
            relay=relay.url,
            seconds=float(slots.step_s),
            journal=json.dumps(str(folder / f"journal-{int(time.time())}.sqlite")),  # another chain has another journal
            kill_file=json.dumps(str(folder / "arbgym.kill")),
            skew="max_clock_skew_s = 1e6\n" if chosen.seconds < 1.0 else "",
            base=pools.base.address,
            quote=pools.quote.address,
            pools=listed,
        )
        (chosen.out / "live.toml").write_text(settings, encoding="utf-8")
        slots.mine()  # so that every block that a runner sees is some slots after another
        print(f"dry:   python -m arbgym.live POLICY_DIR --config {chosen.out / 'live.toml'}")
        print(f"live:  {PRIVATE_KEY}={key} python -m arbgym.live POLICY_DIR --config {chosen.out / 'live.toml'} --live")
        print("page:  http://127.0.0.1:8080/", flush=True)
        made = 0
        while chosen.blocks is None or made < chosen.blocks:
            pools.trade()
            slots.mine()
            made += 1
    except KeyboardInterrupt:
        return 0
    finally:
        node.kill()
    return 0


def _send_after_everybody(node: Any) -> Callable[[Any], Any]:
    """Sends a trade for the next block without waiting for it; it pays no more than it must, so whoever tips comes before it."""

    def send(call: Any) -> Any:
        fee = int(node.call("eth_getBlockByNumber", "pending", False)["baseFeePerGas"], 16)
        return call.transact({"gas": 5_000_000, "maxFeePerGas": fee, "maxPriorityFeePerGas": 0})

    return send


def _lender(pools: Any) -> str:
    """A contract that lends the quote token as Balancer and Morpho do, for nothing."""
    from tests.live import executor_world

    compiled = json.loads(Path(executor_world.__file__).with_name("contracts").joinpath("contracts.json").read_text())["Lender"]
    web3 = pools.market.web3
    sent = web3.eth.contract(abi=compiled["abi"], bytecode=compiled["bytecode"]).constructor(0).transact()
    address: str = web3.eth.wait_for_transaction_receipt(sent)["contractAddress"]
    pools.market.send(pools.quote.functions.mint(address, 10**14))
    return address


async def _deployed(url: str) -> str:
    endpoint = connect(url, timeout_s=10.0, clock=SystemClock())
    try:
        return await deploy(endpoint, load_signer(None), SystemClock())
    finally:
        await endpoint.close()


if __name__ == "__main__":
    sys.exit(main())
