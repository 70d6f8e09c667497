"""A chain to try the live runner on: ``python -m experiments.local_chain --out DIR``, until Ctrl-C.

Starts anvil with three real Uniswap pools of one pair (``make chain`` installs both), a lender and a private relay that stand in
for the real ones, deploys the executor for a fresh key, writes ``DIR/live.toml``, says which commands to run beside it, and then
trades: a block every few seconds, gaps included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
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

[risk]
profile = "aggressive"
min_profit_eth = 0.001

[fees]
maximum_fee_gwei = 100000.0

[status]
port = 8080
"""


class Relay:
    """A relay on loopback that mines every bundle at once. ``url`` is its address."""

    def __init__(self, send: Callable[[str], Any]) -> None:
        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *arguments: object) -> None:
                """Say nothing."""

            def do_POST(self) -> None:
                asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                for raw in asked["params"][0]["txs"]:
                    with suppress(RuntimeError):  # already mined: the bundle was sent for the next block, too
                        send(raw)
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Run until interrupted; the exit status."""
    parser = argparse.ArgumentParser(prog="python -m experiments.local_chain", description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("local_chain"), help="folder for live.toml (default %(default)s)")
    parser.add_argument("--seconds", type=float, default=2.0, help="between blocks (default %(default)s)")
    parser.add_argument("--blocks", type=int, help="end after this many blocks")
    parser.add_argument("--seed", type=int, help="of the trades (default: another one each time)")
    chosen = parser.parse_args(arguments)
    if not chosen.seconds > 0.0:
        parser.error(f"--seconds {chosen.seconds}: accepted is more than 0")
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
        pools = Pools(Market(node, (18, 6)), seed=int(time.time()) if chosen.seed is None else chosen.seed, median_base=15.0)
        key = "0x" + os.urandom(32).hex()
        with patch.dict(os.environ, {PRIVATE_KEY: key}):
            node.call("anvil_setBalance", load_signer(None).address, hex(10**20))
            executor = asyncio.run(_deployed(node.url))
        listed = "\n\n".join(
            f'[[pools]]\nname = "pool{k}"\naddress = "{address}"\nfee_ppm = {0 if k else 3_000}'
            for k, address in enumerate(pools.addresses)
        )
        settings = _SETTINGS.format(
            executor=executor,
            url=node.url,
            lender=_lender(pools),
            relay=Relay(lambda raw: node.call("eth_sendRawTransaction", raw)).url,
            seconds=max(chosen.seconds, 1.0),
            base=pools.base.address,
            quote=pools.quote.address,
            pools=listed,
        )
        (chosen.out / "live.toml").write_text(settings, encoding="utf-8")
        print(f"dry:   python -m arbgym.live POLICY_DIR --config {chosen.out / 'live.toml'}")
        print(f"live:  {PRIVATE_KEY}={key} python -m arbgym.live POLICY_DIR --config {chosen.out / 'live.toml'} --live")
        print("page:  http://127.0.0.1:8080/", flush=True)
        made = 0
        while chosen.blocks is None or made < chosen.blocks:
            pools.trade()
            made += 1
            time.sleep(chosen.seconds)
    except KeyboardInterrupt:
        return 0
    finally:
        node.kill()
    return 0


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
