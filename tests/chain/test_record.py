"""A recorder beside a real node and an exchange's price endpoint: blocks, events, states, flows, and going on."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from tests.chain.anvil import Anvil
from tests.chain.market import Market

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[node]"')
pytest.importorskip("polars", reason='polars is missing: pip install "arbgym[data]"')

from arbgym.data.__main__ import main
from arbgym.data.store import Store


@pytest.fixture
def exchange() -> Iterator[str]:
    """An exchange's REST server: /bookTicker, /price, /wrong."""
    answers: dict[str, Any] = {
        "/bookTicker": {"symbol": "ETHUSDT", "bidPrice": "2500.10", "bidQty": "3.5", "askPrice": "2500.30", "askQty": "1.25"},
        "/price": {"symbol": "ETHUSDT", "price": "2500.20"},
        "/wrong": {"code": -1121, "msg": "Invalid symbol."},
    }

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *arguments: object) -> None:
            """Say nothing."""

        def do_GET(self) -> None:
            body = json.dumps(answers.get(self.path)).encode()
            self.send_response(200 if self.path in answers else 503)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


class Busy:
    """Trades on a V2 and a V3 pool in the background until it is left."""

    def __init__(self, anvil: Anvil, market: Market, pair: str, pool: str) -> None:
        self._anvil, self._market, self._pair, self._pool = anvil, market, pair, pool
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._trade)

    def _trade(self) -> None:
        turn = 0
        while not self._over.wait(0.05):
            turn += 1
            if turn % 2:  # so that some blocks have a second of their own and others share one
                self._anvil.call("evm_increaseTime", "0x3")
            self._market.swap_v3(self._pool, turn % 3 > 0, 10**13 + turn)
            self._market.swap_v2(self._pair, turn % 2 == 0, 10**12, 9 * 10**11)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *error: object) -> None:
        self._over.set()
        self._thread.join()


@pytest.fixture
def pools(market: Market) -> tuple[str, str]:
    """A V2 pair and a V3 pool."""
    pair = market.v2_pool(10**18, 10**18)
    pool = market.v3_pool(3000, 2**96)
    market.mint_v3(pool, -6000, 6000, 10**18)
    return pair, pool


def command(anvil: Anvil, pools: tuple[str, str], store: Path, *more: str) -> list[str]:
    return ["record", "--rpc", anvil.url, "--pool", *pools, "--store", str(store), "--poll-seconds", "0.05", "--quiet", *more]


def states_of(store: Path, pool: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Store(store).read("pool_states", as_="polars", pool=pool.lower()).to_dicts()
    return found


def check_against_the_chain(market: Market, pools: tuple[str, str], store: Path) -> None:
    """Every recorded state is the contract's, and flows add up to the reserves' moves; a second has one row."""
    pair, pool = pools
    v2, v3 = market.at("UniswapV2Pair", pair), market.at("UniswapV3Pool", pool)
    kept = states_of(store, pair)
    for row in kept:
        reserves = v2.functions.getReserves().call(block_identifier=row["block_number"])
        assert (row["reserve0_raw"], row["reserve1_raw"]) == (str(reserves[0]), str(reserves[1]))
    decimals = market.token0.functions.decimals().call(), market.token1.functions.decimals().call()
    for before, after in pairwise(kept):
        assert after["block_number"] > before["block_number"]
        assert after["interval_s"] == (after["timestamp"] - before["timestamp"]).total_seconds()
        for side in (0, 1):
            moved = int(after[f"reserve{side}_raw"]) - int(before[f"reserve{side}_raw"])
            assert after[f"net_amount{side}"] == pytest.approx(moved / 10 ** decimals[side], rel=1e-12)
    for row in states_of(store, pool):
        slot0 = v3.functions.slot0().call(block_identifier=row["block_number"])
        assert (row["sqrt_price_x96_raw"], row["tick"]) == (str(slot0[0]), slot0[1])
        assert row["liquidity_raw"] == str(v3.functions.liquidity().call(block_identifier=row["block_number"]))


def test_it_records_blocks_events_states_and_prices_and_goes_on(
    anvil: Anvil, market: Market, pools: tuple[str, str], tmp_path: Path, exchange: str, capsys: pytest.CaptureFixture[str]
) -> None:
    price = ["--price-url", f"{exchange}/bookTicker", "--venue", "binance"]
    with Busy(anvil, market, *pools):
        assert main(command(anvil, pools, tmp_path, "--blocks", "12", *price)) == 0
    first = Store(tmp_path).read("blocks", as_="polars")["block_number"].to_list()
    assert len(first) == 12
    market.swap_v3(pools[1], True, 10**12)  # a gap, filled by the next run
    missed = anvil.block_number
    with Busy(anvil, market, *pools):
        assert main(command(anvil, pools, tmp_path, "--blocks", str(missed - first[-1] + 6), *price)) == 0
    blocks = Store(tmp_path).read("blocks", as_="polars")["block_number"].to_list()
    assert blocks == list(range(first[0], missed + 7))
    swaps = Store(tmp_path).read("swaps", as_="polars")
    on_chain = 0
    for contract, name in zip(pools, ("UniswapV2Pair", "UniswapV3Pool"), strict=True):
        event = market.at(name, contract).events.Swap()
        on_chain += len(event.get_logs(from_block=blocks[0], to_block=blocks[-1]))
    assert len(swaps) == on_chain > 12
    check_against_the_chain(market, pools, tmp_path)
    quotes = Store(tmp_path).read("reference_prices", as_="polars").to_dicts()
    assert quotes
    told = quotes[0]
    assert (told["venue"], told["symbol"], told["kind"]) == ("binance", "ETHUSDT", "quote")
    assert (told["bid"], told["ask"], told["bid_size"], told["ask_size"]) == (2500.10, 2500.30, 3.5, 1.25)
    assert told["price"] == pytest.approx(2500.20)
    assert abs(told["timestamp"].timestamp() - time.time()) < 120
    assert "0 unanswered" in capsys.readouterr().out


def test_ctrl_c_ends_it_with_what_it_has(anvil: Anvil, market: Market, pools: tuple[str, str], tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-m", "arbgym.data", *command(anvil, pools, tmp_path)],
        cwd=Path(__file__).parents[2], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    with Busy(anvil, market, *pools):
        until = time.monotonic() + 60
        while Store(tmp_path).rows("blocks") < 5 and time.monotonic() < until and process.poll() is None:
            time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "run again to go on" in said
    assert "up to block" in out
    assert Store(tmp_path).rows("blocks") >= 5
    check_against_the_chain(market, pools, tmp_path)


def test_a_reorganisation_while_recording(anvil: Anvil, market: Market, pools: tuple[str, str], tmp_path: Path) -> None:
    def trade(count: int, amount: int) -> None:
        for _ in range(count):
            market.swap_v3(pools[1], True, amount)

    with Busy(anvil, market, *pools):
        main(command(anvil, pools, tmp_path, "--blocks", "4"))
    fork = anvil.call("evm_snapshot")
    seen = Store(tmp_path).read("blocks", as_="polars")["block_number"].to_list()
    left = anvil.block_number - seen[-1]
    trade(5, 10**12)
    main(command(anvil, pools, tmp_path, "--blocks", str(left + 5)))
    anvil.call("evm_revert", fork)
    anvil.mine()
    trade(6, 10**13)
    main(command(anvil, pools, tmp_path, "--blocks", "2"))
    blocks = Store(tmp_path).read("blocks", as_="polars")
    assert blocks["block_number"].to_list() == list(range(seen[0], anvil.block_number + 1))
    for number, text in blocks.select("block_number", "block_hash").iter_rows():
        assert text == "0x" + market.web3.eth.get_block(number)["hash"].hex()
    check_against_the_chain(market, pools, tmp_path)


def test_a_last_price_will_do_and_a_silent_exchange_is_counted(
    anvil: Anvil, market: Market, pools: tuple[str, str], tmp_path: Path, exchange: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(anvil, pools, tmp_path, "--blocks", "1", "--price-url", f"{exchange}/price")) == 0
    (row,) = Store(tmp_path).read("reference_prices", as_="polars").to_dicts()
    assert (row["kind"], row["price"], row["bid"], row["venue"]) == ("price", 2500.2, None, "127.0.0.1")
    anvil.mine()
    assert main(command(anvil, pools, tmp_path, "--blocks", "1", "--price-url", f"{exchange}/gone")) == 0
    said = capsys.readouterr()
    assert "0 prices, 1 unanswered" in said.out
    assert "going on" in said.err
    assert Store(tmp_path).rows("reference_prices") == 1


def test_an_answer_in_another_format_is_refused(
    anvil: Anvil, market: Market, pools: tuple[str, str], tmp_path: Path, exchange: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(command(anvil, pools, tmp_path, "--blocks", "1", "--price-url", f"{exchange}/wrong")) == 2
    assert "Invalid symbol" in capsys.readouterr().err
