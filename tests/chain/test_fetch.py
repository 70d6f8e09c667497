"""Events fetched from a real node: exact, resumable, right after reorganisations, and patient with bad nodes."""

from __future__ import annotations

import math
import os
import random
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from arbgym.amm import ConcentratedPool, ConstantProductPool, PoolError, get_amount_out
from arbgym.market.tape import TapeError
from tests.chain.anvil import Anvil
from tests.chain.market import Market, V4Key
from tests.chain.proxy import Proxy

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[node]"')
pytest.importorskip("polars", reason='polars is missing: pip install "arbgym[data]"')

from web3.logs import DISCARD

from arbgym.data.__main__ import main
from arbgym.data.sources import SourceLost
from arbgym.data.sources.node import fetch
from arbgym.data.store import Store

START = math.isqrt(10**12 * 2**192) // 50_000  # a raw price of 4e2 or so
RESERVES = (50_000 * 10**12, 20 * 10**18)


def trades(market: Market, pool: str, count: int, seed: int = 1) -> list[Any]:
    """Receipts of swaps in both directions, exact in and exact out, on a pool with three positions."""
    chosen = random.Random(seed)
    receipts = []
    for _ in range(count):
        amount = int(10 ** chosen.uniform(3, 16)) * chosen.choice((1, -1))
        receipts.append(market.swap_v3(pool, chosen.random() < 0.5, amount))
    return receipts


def v3_with_positions(market: Market, pool: str, spacing: int) -> None:
    tick = 0
    for width, liquidity in ((200, 10**17), (30, 5 * 10**16), (3, 10**16)):
        market.mint_v3(pool, tick - width * spacing, tick + width * spacing, liquidity)


def one_v3_pool(market: Market) -> str:
    pool = market.v3_pool(3000, 2**96 * 11 // 10)
    v3_with_positions(market, pool, 60)
    return pool


def rows(store: Path, table: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Store(store).read(table, as_="polars").sort("block_number", "log_index").to_dicts()
    return found


def place(row: dict[str, Any]) -> tuple[int, int]:
    return row["block_number"], row["log_index"]


def replay_concentrated(swaps: list[dict[str, Any]], events: list[dict[str, Any]], fee: int, spacing: int) -> int:
    """Drive the exact pool with the stored rows; every amount and state must come out to the unit. The number of swaps."""
    pool: ConcentratedPool | None = None
    count = 0
    for row in sorted([*swaps, *events], key=place):
        event = row.get("event")
        if event == "initialize":
            price, tick = int(row["sqrt_price_x96_raw"]), row["tick"]
            pool = ConcentratedPool(sqrt_price_x96=price, tick=tick, liquidity=0, fee=fee, tick_spacing=spacing)
            continue
        assert pool is not None
        if event is not None:
            position = {"tick_lower": row["tick_lower"], "tick_upper": row["tick_upper"], "liquidity": int(row["liquidity_raw"])}
            paid = pool.mint(**position) if event == "mint" else tuple(-amount for amount in pool.burn(**position))
            if row["amount0_raw"] is not None:
                assert paid == (int(row["amount0_raw"]), int(row["amount1_raw"]))
            continue
        amounts = int(row["amount0_raw"]), int(row["amount1_raw"])
        zero_for_one = amounts[0] > 0 or amounts[1] < 0
        told = (*amounts, int(row["sqrt_price_x96_raw"]), row["tick"], int(row["liquidity_raw"]))
        outcomes = []
        for specified in sorted(amounts, reverse=True):  # the event does not tell which of the two was given
            try:
                made = pool.quote(amount_specified=specified, zero_for_one=zero_for_one)
            except PoolError:
                continue
            outcomes.append((specified, (made.amount0, made.amount1, made.sqrt_price_x96, made.tick, made.liquidity)))
        right = [specified for specified, outcome in outcomes if outcome == told]
        assert right, (row, outcomes)
        pool.swap(amount_specified=right[0], zero_for_one=zero_for_one)
        count += 1
    return count


def test_uniswap_v3_to_the_unit(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    receipts = trades(market, pool, 40)
    market.burn_v3(pool, -180, 180, 10**15)
    receipts += trades(market, pool, 10, seed=2)
    done = fetch(anvil.url, Store(tmp_path), [pool], 0, anvil.block_number, every_block=True)
    swaps, events = rows(tmp_path, "swaps"), rows(tmp_path, "liquidity_events")
    assert [event["event"] for event in events] == ["initialize", "mint", "mint", "mint", "burn"]
    event = market.at("UniswapV3Pool", pool).events.Swap()
    logs = [log for receipt in receipts for log in event.process_receipt(receipt, errors=DISCARD)]
    assert len(logs) == len(swaps) == 50
    for log, row in zip(logs, swaps, strict=True):
        told = log["args"]
        assert row["transaction_hash"] == "0x" + log["transactionHash"].hex()
        assert place(row) == (log["blockNumber"], log["logIndex"])
        assert (row["amount0_raw"], row["amount1_raw"]) == (str(told["amount0"]), str(told["amount1"]))
        assert (row["sqrt_price_x96_raw"], row["tick"]) == (str(told["sqrtPriceX96"]), told["tick"])
        assert row["liquidity_raw"] == str(told["liquidity"])
        assert (row["sender"], row["recipient"]) == (market.trader.address.lower(),) * 2
        decimals = market.token0.functions.decimals().call(), market.token1.functions.decimals().call()
        assert row["amount0"] == told["amount0"] / 10 ** decimals[0]
        assert row["price"] == pytest.approx((told["sqrtPriceX96"] / 2**96) ** 2 * 10.0 ** (decimals[0] - decimals[1]))
    assert replay_concentrated(swaps, events, 3000, 60) == 50
    blocks = rows_of_blocks(tmp_path)
    assert [block["block_number"] for block in blocks] == list(range(anvil.block_number + 1))
    for block in blocks[-3:]:
        real = market.web3.eth.get_block(block["block_number"])
        assert block["timestamp"].timestamp() == real["timestamp"]
        assert block["base_fee_gwei"] == real["baseFeePerGas"] / 1e9
        assert block["block_hash"] == "0x" + real["hash"].hex()
    assert done.pools[0].protocol == "uniswap_v3"


def rows_of_blocks(store: Path) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = Store(store).read("blocks", as_="polars").to_dicts()
    return found


def test_uniswap_v2_to_the_unit(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pair = market.v2_pool(*RESERVES)
    chosen = random.Random(3)
    exact = ConstantProductPool(*RESERVES)
    for _ in range(30):
        zero_for_one = chosen.random() < 0.5
        reserves = (exact.reserve0, exact.reserve1) if zero_for_one else (exact.reserve1, exact.reserve0)
        amount = int(reserves[0] * 10 ** chosen.uniform(-9, -1))
        market.swap_v2(pair, zero_for_one, amount, get_amount_out(amount, *reserves))
        exact.swap(amount_in=amount, zero_for_one=zero_for_one)
    fetch(anvil.url, Store(tmp_path), [pair], 0, anvil.block_number)
    swaps, events = rows(tmp_path, "swaps"), rows(tmp_path, "liquidity_events")
    assert [event["event"] for event in events] == ["sync", "mint", *["sync"] * 30]
    assert (int(events[1]["amount0_raw"]), int(events[1]["amount1_raw"])) == RESERVES
    again = ConstantProductPool(*RESERVES)
    for swap, sync in zip(swaps, events[2:], strict=True):
        amounts = int(swap["amount0_raw"]), int(swap["amount1_raw"])
        made = again.swap(amount_in=max(amounts), zero_for_one=amounts[0] > 0)
        assert (made.amount0, made.amount1) == amounts
        assert (again.reserve0, again.reserve1) == (int(sync["reserve0_raw"]), int(sync["reserve1_raw"]))
    assert (again.reserve0, again.reserve1) == (exact.reserve0, exact.reserve1)


def test_pancakeswap_v3_to_the_unit(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = market.pancake_pool(2500, 50, 2**96)
    v3_with_positions(market, pool, 50)
    trades(market, pool, 20)
    done = fetch(anvil.url, Store(tmp_path), [pool], 0, anvil.block_number)
    assert done.pools[0].protocol == "pancakeswap_v3"
    swaps = rows(tmp_path, "swaps")
    assert replay_concentrated(swaps, rows(tmp_path, "liquidity_events"), 2500, 50) == 20
    assert {row["protocol"] for row in swaps} == {"pancakeswap_v3"}


def v4_market(market: Market) -> V4Key:
    pool = market.v4_pool(3000, 60, 2**96)
    other = V4Key(pool.manager, (*pool.key[:2], 500, 10, pool.key[4]), "")
    market.send(market.at("PoolManager", pool.manager).functions.initialize(other.key, 2**96))
    market.modify_v4(other, -1000, 1000, 10**18)
    market.modify_v4(pool, -6000, 6000, 10**17)
    market.modify_v4(pool, -600, 600, 10**17)
    chosen = random.Random(5)
    for _ in range(20):
        market.swap_v4(pool, chosen.random() < 0.5, int(10 ** chosen.uniform(4, 16)) * chosen.choice((1, -1)))
        market.swap_v4(other, chosen.random() < 0.5, 10**12)
    market.modify_v4(pool, -600, 600, -(10**16))
    return pool


def test_uniswap_v4_to_the_unit_and_without_its_neighbours(
    anvil: Anvil, market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pool = v4_market(market)
    with pytest.raises(TapeError, match="PoolManager is needed"):
        fetch(anvil.url, Store(tmp_path), [pool.id], 0, anvil.block_number)
    command = f"fetch --rpc {anvil.url} --pool {pool.id} --from-block 0 --store {tmp_path} --confirmations 0 --quiet"
    assert main([*command.split(), "--pool-manager", pool.manager]) == 0
    assert "swaps: 20 new" in capsys.readouterr().out
    swaps = rows(tmp_path, "swaps")
    assert {row["pool"] for row in swaps} == {pool.id}
    assert replay_concentrated(swaps, rows(tmp_path, "liquidity_events"), 3000, 60) == 20


def test_tokens_and_pools_are_kept(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    fetch(anvil.url, Store(tmp_path), [pool], 0, anvil.block_number)
    tokens = {row["address"]: (row["symbol"], row["decimals"]) for row in Store(tmp_path).read("tokens", as_="polars").to_dicts()}
    for token in (market.token0, market.token1):
        places = token.functions.decimals().call()
        assert tokens[token.address.lower()] == (f"T{places}", places)
    (held,) = Store(tmp_path).read("pools", as_="polars").to_dicts()
    assert (held["pool"], held["fee_ppm"], held["tick_spacing"]) == (pool.lower(), 3000.0, 60)
    assert held["token0"] == market.token0.address.lower()


def test_what_is_no_pool_is_refused(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    store = Store(tmp_path)
    with pytest.raises(TapeError, match="no Uniswap"):
        fetch(anvil.url, store, [market.token0.address], 0, 1)
    with pytest.raises(TapeError, match="20 bytes"):
        fetch(anvil.url, store, ["0x12"], 0, 1)
    with pytest.raises(TapeError, match="no node answers"):
        fetch("http://127.0.0.1:1", store, [market.token0.address], 0, 1)
    command = f"fetch --rpc {anvil.url} --pool {market.token0.address} --from-block 5 --to-block 2 --store {tmp_path} --quiet"
    assert main(command.split()) == 2


def test_a_token_without_decimals_is_refused_by_name(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    anvil.call("anvil_setCode", market.token1.address, "0x")
    with pytest.raises(TapeError, match=f"{market.token1.address.lower()} does not tell its decimals"):
        fetch(anvil.url, Store(tmp_path), [pool], 0, anvil.block_number)


def test_fetching_again_writes_nothing_twice(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 5)
    last = anvil.block_number
    fetch(anvil.url, Store(tmp_path), [pool], 0, last)
    trades(market, pool, 5, seed=2)
    more = fetch(anvil.url, Store(tmp_path), [pool], 0, anvil.block_number)
    assert more.written["swaps"].new == 5
    assert more.written["swaps"].duplicates == 0
    other = fetch(anvil.url, Store(tmp_path), [pool], 1, anvil.block_number)  # another range over the same events
    assert (other.written["swaps"].new, other.written["swaps"].duplicates) == (0, 10)


def test_unconfirmed_blocks_are_left(anvil: Anvil, market: Market, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 6)
    head = anvil.block_number
    command = (
        f"fetch --rpc {anvil.url} --pool {pool} --from-block 0 --to-block {head} --store {tmp_path} --quiet --confirmations 4"
    )
    assert main(command.split()) == 0
    assert f"blocks {head - 3} to {head} are not confirmed" in capsys.readouterr().out
    assert max(row["block_number"] for row in rows(tmp_path, "swaps")) == head - 4


def test_killed_midway_it_goes_on_and_nothing_is_twice(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 60)
    last = anvil.block_number
    fetch(anvil.url, Store(tmp_path / "whole"), [pool], 0, last)
    store = tmp_path / "killed"
    command = [sys.executable, "-m", "arbgym.data", "fetch", "--rpc", anvil.url, "--pool", pool, "--from-block", "0"]
    command += ["--to-block", str(last), "--store", str(store), "--confirmations", "0", "--chunk-blocks", "4"]
    repository = Path(__file__).parents[2]
    first = subprocess.Popen([*command, "--requests-per-second", "120"], cwd=repository, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 60
    while Store(store).rows("swaps") < 10 and time.monotonic() < until and first.poll() is None:
        time.sleep(0.02)
    assert first.poll() is None
    first.send_signal(signal.SIGKILL)
    first.wait()
    assert 10 <= Store(store).rows("swaps") < 60
    second = subprocess.run(command, cwd=repository, check=True, capture_output=True, text=True, env={**os.environ})
    assert "blocks" in second.stderr  # the progress bar
    for table in ("swaps", "liquidity_events"):
        left, right = ([{**row, "source": ""} for row in rows(folder, table)] for folder in (tmp_path / "whole", store))
        assert left == right


def assert_like_a_fresh_fetch(anvil: Anvil, pool: str, store: Path, fresh: Path) -> None:
    """What is stored is what the chain is now."""
    fetch(anvil.url, Store(fresh), [pool], 0, anvil.block_number, every_block=True)
    for table in ("swaps", "liquidity_events"):
        assert rows(store, table) == rows(fresh, table), table
    assert [block["block_hash"] for block in rows_of_blocks(store)] == [block["block_hash"] for block in rows_of_blocks(fresh)]


def test_a_reorganisation_is_repaired(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 8)
    fork = anvil.call("evm_snapshot")
    at_fork = anvil.block_number
    trades(market, pool, 6, seed=7)
    store = tmp_path / "store"
    before = fetch(anvil.url, Store(store), [pool], 0, anvil.block_number, every_block=True)
    assert before.written["swaps"].new == 14
    anvil.call("evm_revert", fork)
    anvil.call("evm_increaseTime", "0x7")
    trades(market, pool, 9, seed=8)
    assert anvil.block_number == at_fork + 9
    after = fetch(anvil.url, Store(store), [pool], 0, anvil.block_number, every_block=True)
    assert after.repaired == 1
    assert Store(store).rows("swaps") == 17
    assert_like_a_fresh_fetch(anvil, pool, store, tmp_path / "fresh")


def test_anvils_own_reorganisation_is_repaired(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 8)
    store = tmp_path / "store"
    fetch(anvil.url, Store(store), [pool], 0, anvil.block_number, every_block=True, chunk_blocks=3)
    anvil.call("anvil_reorg", 4, [])
    trades(market, pool, 2, seed=9)
    after = fetch(anvil.url, Store(store), [pool], 0, anvil.block_number, every_block=True, chunk_blocks=3)
    assert after.repaired == 1
    assert len(rows(store, "swaps")) == 6
    assert_like_a_fresh_fetch(anvil, pool, store, tmp_path / "fresh")


def test_a_reorganisation_while_the_process_was_dead(
    anvil: Anvil, market: Market, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died after rows were written and before it could remember that; then those blocks were replaced."""
    pool = one_v3_pool(market)
    fork = anvil.call("evm_snapshot")
    trades(market, pool, 5)
    store = Store(tmp_path / "store")

    def dies(source: str, progress: dict[str, Any]) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(store, "set_progress", dies)
    with pytest.raises(KeyboardInterrupt):
        fetch(anvil.url, store, [pool], 0, anvil.block_number, every_block=True)
    monkeypatch.undo()
    assert store.rows("swaps") == 5
    anvil.call("evm_revert", fork)
    anvil.mine(3)
    trades(market, pool, 3, seed=4)
    fetch(anvil.url, Store(tmp_path / "store"), [pool], 0, anvil.block_number, every_block=True)
    assert_like_a_fresh_fetch(anvil, pool, tmp_path / "store", tmp_path / "fresh")


def test_another_chain_of_the_same_number_is_refused(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 3)
    anvil.mine(300)
    fetch(anvil.url, Store(tmp_path), [pool], 0, anvil.block_number, every_block=True)
    held = rows(tmp_path, "swaps")
    other = Anvil()
    try:
        assert one_v3_pool(Market(other)) == pool  # the same contracts at the same addresses, in other blocks
        other.mine(400)
        with pytest.raises(TapeError, match="none of the last 256 remembered blocks"):
            fetch(other.url, Store(tmp_path), [pool], 0, other.block_number, every_block=True)
    finally:
        other.kill()
    assert rows(tmp_path, "swaps") == held


def test_ranges_halve_and_grow_back(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 40)
    last = anvil.block_number
    with Proxy(anvil.url, widest=9) as proxy:
        done = fetch(proxy.url, Store(tmp_path), [pool], 0, last, chunk_blocks=1_000)
        assert done.written["swaps"].new == 40
        asked = proxy.ranges
    assert max(asked) > 9  # it tried, was refused, and went down
    taken = [width for width in asked if width <= 9]
    assert sum(taken) == last + 1
    assert any(later > earlier for earlier, later in pairwise(taken))  # and up again
    assert replay_concentrated(rows(tmp_path, "swaps"), rows(tmp_path, "liquidity_events"), 3000, 60) == 40


@pytest.mark.parametrize("how", ["too large", "slow"])
def test_other_refusals_halve_too(anvil: Anvil, market: Market, tmp_path: Path, how: str) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 10)
    with Proxy(anvil.url, widest=12, refusal=how) as proxy:
        from arbgym.data.sources import follow
        from arbgym.data.sources.pools import read_pool
        from arbgym.data.sources.rpc import Node

        node = Node(proxy.url, timeout_s=0.5)
        follower = follow.Follower(node, Store(tmp_path), "anvil", [read_pool(node, "anvil", pool)], 0, "test")
        follower.advance(anvil.block_number)
    assert len(rows(tmp_path, "swaps")) == 10


def test_one_block_that_is_refused_says_why(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    with Proxy(anvil.url, widest=0) as proxy, pytest.raises(TapeError, match="more than 10000 results"):
        fetch(proxy.url, Store(tmp_path), [pool], 0, anvil.block_number)


def test_the_rate_is_kept_and_a_rest_is_taken_when_asked(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 20)
    with Proxy(anvil.url, most_per_second=40) as proxy:
        slow = fetch(proxy.url, Store(tmp_path / "a"), [pool], 0, anvil.block_number, requests_per_second=25, chunk_blocks=5)
        assert proxy.told_to_rest == 0
        assert slow.node.requests >= 40
    with Proxy(anvil.url, most_per_second=40) as proxy:
        fetch(proxy.url, Store(tmp_path / "b"), [pool], 0, anvil.block_number, chunk_blocks=5)
        assert proxy.told_to_rest > 0
    assert len(rows(tmp_path / "a", "swaps")) == len(rows(tmp_path / "b", "swaps")) == 20


def test_a_node_without_batches_will_do(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 10)
    with Proxy(anvil.url, batches=False) as proxy:
        fetch(proxy.url, Store(tmp_path), [pool], 0, anvil.block_number)
    assert len(rows(tmp_path, "swaps")) == 10


def test_a_node_that_goes_away_midway(anvil: Anvil, market: Market, tmp_path: Path) -> None:
    pool = one_v3_pool(market)
    trades(market, pool, 30)
    last = anvil.block_number
    with Proxy(anvil.url, dies_after=25, back_after_s=0.4) as proxy:
        fetch(proxy.url, Store(tmp_path / "patient"), [pool], 0, last, chunk_blocks=4)
        assert proxy.deaths == 1
    with Proxy(anvil.url, dies_after=25) as proxy:
        with pytest.raises(SourceLost, match="run again to go on"):
            fetch(proxy.url, Store(tmp_path / "again"), [pool], 0, last, chunk_blocks=4, patience_s=0.3)
        held = Store(tmp_path / "again").rows("swaps")
    assert 0 <= held < 30
    done = fetch(anvil.url, Store(tmp_path / "again"), [pool], 0, last)
    assert done.written["swaps"].new == 30 - held
    for store in ("patient", "again"):
        assert replay_concentrated(rows(tmp_path / store, "swaps"), rows(tmp_path / store, "liquidity_events"), 3000, 60) == 30
