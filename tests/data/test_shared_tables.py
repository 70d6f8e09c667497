"""Every recorded dataset that fits a canonical table imports, validates, describes; tapes from stores equal those from files."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arbgym.data import Options, Store, import_file, to_canonical
from arbgym.data.describe import describe_store, text
from arbgym.data.from_store import tape_from_store
from arbgym.data.join import PoolColumns, Series, build_tape
from arbgym.data.validate import of_store
from arbgym.market.tape import TapeError

POLYGON = "0x45dda9cb7c25131df268515131f647d726f50608"
USDC_USDT = "0x3416cf6c708da44db2624d63ea0aaef7113527c6"
_POLYGON = {"chain": "polygon", "pool": POLYGON, "decimals": (6, 18), "fee_ppm": 500.0}
ETHEREUM, POLYGON_CHAIN = {"chain": "ethereum"}, {"chain": "polygon"}
DATASETS: list[tuple[str, dict[str, Any], dict[str, int]]] = [
    ("polygon_univ3_usdc_weth_005/minute", _POLYGON, {"pool_states": 54_709}),
    ("polygon_cex_dex_202507/pool_minute", _POLYGON, {"pool_states": 1_439}),
    ("polygon_cex_dex_202507/ethusdt_perp_5m", {"venue": "bybit"}, {"reference_prices": 288}),
    ("ethereum_weth_osqth/minute_univ3_003pct", ETHEREUM | {"pool": "0x82c4", "decimals": (18, 18)}, {"pool_states": 2_310}),
    ("ethereum_weth_osqth/oracle_prices_minute", {}, {"reference_prices": 5_760}),
    ("ethereum_univ3_usdc_usdt_001/minute", ETHEREUM | {"pool": USDC_USDT, "decimals": (6, 6)}, {"pool_states": 344_576}),
    ("ethereum_univ3_usdc_usdt_001/chainlink_usdc_usd", {}, {"reference_prices": 100_296}),
    (
        "ethereum_univ3_usdc_weth_03_liquidity/mint_burn_events",
        ETHEREUM | {"pool": "0x8ad5", "decimals": (6, 18)},
        {"liquidity_events": 26_971},
    ),
    ("l2_uniswap_20241101/base_univ2_syncs", {"chain": "base"}, {"pools": 5, "liquidity_events": 6_136}),
    ("l2_uniswap_20241101/pool_states_t0", {"time": "2024-11-01", "skip_unknown": True}, {"pools": 114, "pool_states": 89}),
    ("l2_uniswap_20241101/token_prices_hourly", {}, {"reference_prices": 6_628}),
    ("l2_uniswap_20241101/simulated_arbitrage_paths", {}, {"opportunities": 5_053}),
    ("ethereum_multi_dex_pools_202307/pools_block_17675948", ETHEREUM, {"pools": 1_784, "pool_states": 1_784}),
    ("ethereum_swap_census_202106/swaps", ETHEREUM, {"wallet_trades": 7_039}),
    ("binance_ticks/quotes", {}, {"reference_prices": 358_954}),
    ("binance_ticks/trades", {}, {"reference_prices": 95_704}),
    ("binance_ticks/bars_1s", {}, {"reference_prices": 3_951}),
    ("cex_minute/bybit_usdt_perp_1m", {"venue": "bybit"}, {"reference_prices": 214_096}),
    ("cex_minute/bybit_usdt_perp_5m", {"venue": "bybit"}, {"reference_prices": 129_612}),
    ("cex_minute/btc_perp_1m_202201", {"venue": "ftx", "symbol": "BTC-PERP"}, {"reference_prices": 30_299}),
    ("cex_minute/sol_usd_1m_close", {"venue": "any", "symbol": "SOLUSD"}, {"reference_prices": 86_342}),
    ("gas/ethereum_blocks_20260129", ETHEREUM, {"blocks": 700}),
    ("gas/polygon_gas_price_minute_202308", POLYGON_CHAIN, {"blocks": 2_880}),
    ("ethereum_cex_dex_20230808/trades", ETHEREUM, {"wallet_trades": 3_055}),
    ("arbitrum_atomic_arbitrage/transactions", {"chain": "arbitrum"}, {"opportunities": 756}),
    ("arbitrum_atomic_arbitrage/swaps", {"chain": "arbitrum"}, {"wallet_trades": 1_817}),
    ("polygon_aave_v3_rates/weth_minute", POLYGON_CHAIN | {"market": "WETH"}, {"lending_rates": 2_880}),
    ("ethereum_aave_v3_hourly/usdc", ETHEREUM | {"market": "USDC"}, {"lending_rates": 21_256}),
    ("solana_pumpswap_first300s/swaps", {}, {"wallet_trades": 7_629}),
    ("solana_pumpfun_hourly_bars/bars_1h", {}, {"reference_prices": 18_079}),
    ("solana_pumpfun_curve_tracks/tracks", {}, {"pool_states": 20_419}),
]
# tables of outcomes, receipts and lags, and order-book changes without a book to begin with, are no market table
NOT_TABLES = [
    "arbitrage_opportunity_lag/ethereum",
    "binance_ticks/depth_deltas_20bp",
    "gas/ethereum_block_receipts",
    "liquidations/zksync_liquidations",
    "solana_raydium_launch_outcomes/outcomes_1h",
]


@pytest.mark.parametrize(("name", "options", "expected"), DATASETS, ids=[name for name, _, _ in DATASETS])
def test_a_recorded_dataset_imports_validates_and_describes(
    shared: Path, tmp_path: Path, name: str, options: dict[str, Any], expected: dict[str, int]
) -> None:
    store = Store(tmp_path / "store")
    path = shared / "data" / f"{name}.parquet"
    done = import_file(path, store, Options(**options), allow_jumps="token_prices" in name)
    # five pools of the first day's states are listed twice
    assert {table: written.new + written.duplicates for table, written in done.tables.items()} == expected
    assert list(of_store(store.path)) == []
    described = describe_store(store.path)
    assert {table: one.rows for table, one in described.items()} == {table: store.rows(table) for table in expected}
    assert all(f"{table}: " in text(one) and "columns: " in text(one) for table, one in described.items())


@pytest.mark.parametrize("name", NOT_TABLES)
def test_other_datasets_are_refused_by_their_columns(shared: Path, tmp_path: Path, name: str) -> None:
    with pytest.raises(TapeError, match="no known format"):
        import_file(shared / "data" / f"{name}.parquet", Store(tmp_path / "store"))


def test_described_figures_are_those_of_the_data(shared: Path, tmp_path: Path) -> None:
    """The recorder's own notes: 13.5 bps a 5-minute row on the exchange, complete; minutes of the pool 11.1 bps in 2022."""
    store = Store(tmp_path / "store")
    import_file(shared / "data/polygon_cex_dex_202507/ethusdt_perp_5m.parquet", store, Options(venue="bybit"))
    row = describe_store(store.path)["reference_prices"].series.row(0, named=True)
    assert row["move_bps"] == pytest.approx(13.5, abs=0.1) and row["gaps"] == 0 and row["spacing_s"] == 300.0


@pytest.mark.parametrize("recipe", ["beside_exchange", "two_chains", "stablecoins"])
def test_a_tape_from_a_store_is_the_tape_from_files(shared: Path, tmp_path: Path, recipe: str) -> None:
    data, store = shared / "data", Store(tmp_path / "store")
    common: dict[str, Any] = {"second_fee_ppm": 200.0, "second_liquidity": 1e6}
    if recipe == "beside_exchange":
        pool, prices = (
            data / "polygon_cex_dex_202507/pool_minute.parquet",
            data / "polygon_cex_dex_202507/ethusdt_perp_5m.parquet",
        )
        import_file(pool, store, Options(**_POLYGON))
        import_file(prices, store, Options(venue="bybit"))
        more: dict[str, Any] = {"step_seconds": 300, "basis_rows": 24, "gas_gwei": 54.0}
        from_store = tape_from_store(store, POLYGON, venue="bybit", symbol="ETHUSDT", **common, **more)
        from_files = build_tape(pool, reference=Series(prices, "open_time", "close"), second_kind="reference", **common, **more)
    elif recipe == "two_chains":
        pool, prices = (
            data / "polygon_univ3_usdc_weth_005/minute.parquet",
            data / "ethereum_weth_osqth/oracle_prices_minute.parquet",
        )
        gas = data / "gas/polygon_gas_price_minute_202308.parquet"
        import_file(pool, store, Options(**_POLYGON))
        import_file(prices, store)
        import_file(gas, store, Options(chain="polygon"))
        more = {"start": "2023-08-14", "end": "2023-08-16", "second_kind": "v3"}
        from_store = tape_from_store(store, POLYGON, venue="squeeth", symbol="WETH/USD", **common, **more)
        reference, fees = Series(prices, "timestamp", "weth_usd"), Series(gas, "timestamp", "gas_price_gwei")
        from_files = build_tape(pool, reference=reference, gas=fees, **common, **more)
    else:
        folder = data / "ethereum_univ3_usdc_usdt_001"
        import_file(folder / "minute.parquet", store, Options(chain="ethereum", pool=USDC_USDT, decimals=(6, 6)))
        import_file(folder / "chainlink_usdc_usd.parquet", store)
        more = {"start": "2025-09-01", "end": "2025-09-08", "gas_gwei": 15.0, "fill_gaps": 5, "pool_fee_ppm": 100.0}
        more |= {"base": "USDC", "quote": "USDT"}
        from_store = tape_from_store(
            store, USDC_USDT, venue="chainlink", symbol="USDC/USD", base_is="token0", reference_max_age_s=90_000, **common, **more
        )
        from_files = build_tape(
            folder / "minute.parquet",
            pool_columns=PoolColumns("timestamp", "price_usdc_usdt", "liquidity", "net_amount0", (6, 6)),
            reference=Series(folder / "chainlink_usdc_usd.parquet", "timestamp", "chainlink_usdc_usd", 0, 90_000),
            second_kind="reference",
            **common,
            **more,
        )
    assert np.array_equal(from_store.timestamps, from_files.timestamps) and from_store.filled == from_files.filled
    assert from_store.pools == from_files.pools and from_store.step_seconds == from_files.step_seconds
    np.testing.assert_allclose(from_store.array(), from_files.array(), rtol=1e-12)


def test_the_other_base_is_refused_by_the_reference(shared: Path, tmp_path: Path) -> None:
    store, folder = Store(tmp_path / "store"), shared / "data/polygon_cex_dex_202507"
    import_file(folder / "pool_minute.parquet", store, Options(**_POLYGON))
    import_file(folder / "ethusdt_perp_5m.parquet", store, Options(venue="bybit"))
    common: dict[str, Any] = {"second_fee_ppm": 200.0, "second_liquidity": 1e6, "gas_gwei": 54.0, "step_seconds": 300}
    with pytest.raises(TapeError, match="its inverse fits: the base is the other token"):
        tape_from_store(store, POLYGON, venue="bybit", symbol="ETHUSDT", base_is="token0", **common)
    with pytest.raises(TapeError, match="accepted are bybit ETHUSDT"):
        tape_from_store(store, POLYGON, venue="bybit", symbol="BTCUSDT", **common)
    with pytest.raises(TapeError, match="no states, swaps or syncs"):
        tape_from_store(store, "0x00", venue="bybit", symbol="ETHUSDT", **common)


def test_a_v2_pool_becomes_a_tape_from_its_syncs(shared: Path, tmp_path: Path) -> None:
    """Base's WETH/USDC V2 pool: flow from reserve changes through the recorded reserves explains the recorded price."""
    store = Store(tmp_path / "store")
    import_file(shared / "data/l2_uniswap_20241101/base_univ2_syncs.parquet", store, Options(chain="base"))
    pool = "0x88a43bbdf9d098eec7bceda4e2494615dfd9bb9c"
    prices = store.read("liquidity_events", pool=pool)[["timestamp", "price"]].drop_duplicates("timestamp", keep="last")
    store.append("reference_prices", prices.assign(venue="self", symbol="WETHUSDC"), source="test")
    tape = tape_from_store(
        store, pool, venue="self", symbol="WETHUSDC", base_is="token0", pool_fee_ppm=3_000.0, second_fee_ppm=100.0,
        second_liquidity=1e5, gas_gwei=0.01, reference_max_age_s=10**6, step_seconds=60,
    )  # fmt: skip
    assert tape.pools[0].kind == "v2" and np.allclose(tape.price[:, 0], tape.reference_price, rtol=1e-12)
    moved = np.abs(np.diff(np.log(tape.price[:, 0]))) > 0
    assert np.median(np.abs(tape.flow_error_bps(0)[moved])) < 0.2


def test_canonical_frames_keep_every_row_of_a_frame(shared: Path) -> None:
    import pandas as pd

    frame = pd.read_parquet(shared / "data/gas/ethereum_blocks_20260129.parquet")
    blocks = to_canonical(frame, Options(chain="ethereum"))["blocks"]
    assert np.allclose(blocks["base_fee_gwei"] * 1e9, frame["base_fee_wei"], rtol=1e-15) and len(blocks) == 700
