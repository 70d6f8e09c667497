"""Every foreign format, as a small sample written here, becomes the canonical rows that it means."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from arbgym.data import Options, Store, import_file, read_table, to_canonical
from arbgym.data.columns import times
from arbgym.data.needs import pl
from arbgym.data.readers import READERS, recognise
from arbgym.market.tape import TapeError

T0 = 1_700_000_000
USDC, WETH = "0xa0b86991c6218b36c1d19d4a2e9eb0ce3606eb48", "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
POOL = "0x88e6a0c2ddd26feeb64f039a2c41296fcb3f5640"
CHAIN = Options(chain="ethereum", pool=POOL, decimals=(6, 18))
SQRT = str(round((1e12 / 2_000) ** 0.5 * 2**96))  # 2,000 USDC per WETH
HASH = "0x" + "ab" * 32
V3 = {"sender": "0x" + "11" * 20, "recipient": "0x" + "22" * 20, "liquidity": "20000000000000000000", "tick": "200311"}
PLACE = {"block_number": [1, 1, 2], "transaction_index": [0, 1, 0], "log_index": [3, 7, 2], "transaction_hash": [HASH] * 3}
AMOUNT0, AMOUNT1 = (
    ["2000000000", "-1000000000", "4000000000"],
    ["-1000000000000000000", "500000000000000000", "-2000000000000000000"],
)


def word(value: int) -> str:
    return f"{value % 2**256:064x}"


def v3_rows(prefix: str = "", kind: str = "") -> dict[str, Any]:
    names = {"amount0": AMOUNT0, "amount1": AMOUNT1, "sqrtPriceX96": [SQRT] * 3, "liquidity": [V3["liquidity"]] * 3}
    decoded = {f"{prefix}{name}{kind}": values for name, values in names.items()}
    return decoded | {f"{prefix}{name}": [V3[name]] * 3 for name in ("sender", "recipient", "tick")}


def check_swaps(frame: pd.DataFrame, sqrt: bool = True) -> None:
    assert frame["amount0"].tolist() == [2000.0, -1000.0, 4000.0] and frame["amount1"].tolist() == [-1.0, 0.5, -2.0]
    assert frame["execution_price"].to_numpy() == pytest.approx(1 / 2_000)
    if sqrt:
        assert frame["price"].to_numpy() == pytest.approx(1 / 2_000) and set(frame["sqrt_price_x96_raw"]) == {SQRT}


def test_cryo_v3(tmp_path: Path) -> None:
    frame = pd.DataFrame({**PLACE, "address": POOL, **v3_rows("event__", "_string"), "chain_id": 1})
    frame["event__amount0_f64"] = 0.0  # the exact column is the one that counts
    frame.to_parquet(tmp_path / "swaps.parquet")
    swaps = read_table(tmp_path / "swaps.parquet", options=Options(decimals=(6, 18)))
    check_swaps(swaps)
    assert (
        swaps["chain"].unique().tolist() == ["ethereum"]
        and swaps["sender"][0] == V3["sender"]
        and swaps["timestamp"].isna().all()
    )


def test_v4_amounts_are_turned_into_the_pools_view() -> None:
    place = {**PLACE, "timestamp": [T0, T0, T0 + 12]}
    rows = v3_rows() | {"id": ["0x" + "cd" * 32] * 3, "fee": [500] * 3}
    rows["amount0"], rows["amount1"] = ([str(-int(v)) for v in column] for column in (AMOUNT0, AMOUNT1))
    swaps = to_canonical(pd.DataFrame({**place, **rows}), CHAIN)["swaps"]
    check_swaps(swaps)
    assert swaps["pool"][0] == "0x" + "cd" * 32 and swaps["fee_ppm"][0] == 500.0 and swaps["protocol"][0] == "uniswap_v4"


def test_raw_logs_of_ethereum_etl(tmp_path: Path) -> None:
    v3_topic = "0xc42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67"
    v2_topic = "0xd78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822"
    sync_topic = "0x1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1"
    mint_topic = "0x7a53080ba414158be7ec69b987b5fb7d07dee101fe85488f0853ae16239d0bde"
    addresses = ",".join("0x" + "0" * 24 + side * 20 for side in ("11", "22"))
    ticks = "0x" + "0" * 24 + "11" * 20 + ",0x" + word(-60) + ",0x" + word(60)
    data = [
        word(int(a)) + word(int(b)) + word(int(SQRT)) + word(20 * 10**18) + word(-7)
        for a, b in zip(AMOUNT0, AMOUNT1, strict=True)
    ]
    logs = pd.DataFrame(
        {
            "log_index": [3, 7, 2, 4, 5, 6, 9],
            "transaction_hash": HASH,
            "transaction_index": 0,
            "block_number": [1, 1, 2, 2, 2, 2, 2],
            "address": POOL.upper().replace("X", "x"),
            "data": ["0x" + text for text in data]
            + [
                "0x" + word(0) + word(10**18) + word(2 * 10**9) + word(0),
                "0x" + word(4 * 10**12) + word(2 * 10**21),
                "0x" + word(1) + word(500) + word(10**6) + word(10**18),
                "0x",
            ],
            "topics": [f"{v3_topic},{addresses}"] * 3
            + [f"{v2_topic},{addresses}", sync_topic, f"{mint_topic},{ticks}", "0x" + "00" * 32],
            "block_timestamp": T0,
        }
    )
    logs.to_csv(tmp_path / "logs.csv", index=False)
    swaps = read_table(tmp_path / "logs.csv", "swaps", CHAIN)
    check_swaps(swaps.head(3))
    assert swaps["tick"].tolist()[:3] == [-7] * 3 and swaps["pool"].unique().tolist() == [POOL]
    assert swaps["protocol"].tolist() == ["uniswap_v3"] * 3 + ["uniswap_v2"] and swaps["sender"][0] == V3["sender"]
    assert (swaps["amount0"][3], swaps["amount1"][3]) == (-2000.0, 1.0)
    events = read_table(tmp_path / "logs.csv", "liquidity_events", CHAIN)
    assert events["event"].tolist() == ["sync", "mint"] and events["tick_lower"].tolist()[1] == -60
    assert events["price"][0] == pytest.approx(2_000 / 4e6) and events["amount1"][1] == 1.0


def test_blocks_of_ethereum_etl() -> None:
    frame = pd.DataFrame(
        {"number": [5], "timestamp": [T0], "base_fee_per_gas": [12 * 10**9], "gas_used": [15], "gas_limit": [30]}
    )
    blocks = to_canonical(frame, Options(chain="ethereum"))["blocks"]
    assert blocks["base_fee_gwei"].tolist() == [12.0] and blocks["block_number"].tolist() == [5]


def test_the_graph(tmp_path: Path) -> None:
    def swap(k: int) -> dict[str, Any]:
        token = {"token0": {"decimals": "6"}, "token1": {"decimals": "18"}, "id": POOL}
        return {
            "id": f"{HASH}#{k}", "timestamp": str(T0 + k), "transaction": {"id": HASH, "blockNumber": str(k)}, "logIndex": str(k),
            "amount0": str(int(AMOUNT0[k]) / 1e6), "amount1": str(int(AMOUNT1[k]) / 1e18), "sqrtPriceX96": SQRT, "tick": "200311",
            "origin": V3["sender"], "pool": token,
        }  # fmt: skip

    answer = {"data": {"swaps": [swap(k) for k in range(3)]}}
    (tmp_path / "graph.json").write_text(json.dumps(answer))
    with gzip.open(tmp_path / "graph.jsonl.gz", "wt") as file:
        file.writelines(json.dumps(swap(k)) + "\n" for k in range(3))
    for name in ("graph.json", "graph.jsonl.gz"):
        swaps = read_table(tmp_path / name, options=Options(chain="ethereum"))
        check_swaps(swaps)
        assert swaps["transaction_hash"].tolist() == [HASH] * 3 and swaps["timestamp"][0] == pd.Timestamp(T0, unit="s", tz="UTC")
    v2 = pd.DataFrame(
        {
            "id": [HASH + "-0"], "timestamp": [str(T0)], "transaction.blockNumber": ["9"], "logIndex": ["1"], "pair.id": [POOL],
            "amount0In": ["0"], "amount1In": ["1"], "amount0Out": ["2000"], "amount1Out": ["0"],
        }
    )  # fmt: skip
    swaps = to_canonical(v2, Options(chain="ethereum"))["swaps"]
    assert (swaps["amount0"][0], swaps["amount1"][0]) == (-2000.0, 1.0) and swaps["transaction_hash"][0] == HASH


def test_dune(tmp_path: Path) -> None:
    decoded = {"evt_block_time": "2023-11-14 22:13:20.000 UTC", "evt_block_number": [1, 1, 2], "evt_index": [3, 7, 2]}
    frame = pd.DataFrame({**decoded, "evt_tx_hash": HASH, "contract_address": POOL, **v3_rows()})
    swaps = to_canonical(frame, Options(chain="ethereum", decimals=(6, 18)))["swaps"]
    check_swaps(swaps)
    assert swaps["timestamp"][0] == pd.Timestamp(T0, unit="s", tz="UTC")
    trades = pd.DataFrame(
        {
            "blockchain": "ethereum", "project": "uniswap", "version": "3", "block_time": "2023-11-14 22:13:20.000 UTC",
            "block_number": [1, 1], "tx_hash": HASH, "evt_index": [1, 2], "token_bought_address": [WETH, USDC],
            "token_sold_address": [USDC, WETH], "token_bought_amount": [1.0, 1000.0], "token_sold_amount": [2000.0, 0.5],
            "project_contract_address": POOL, "taker": V3["sender"], "maker": "<nil>", "amount_usd": 1.0,
        }
    )  # fmt: skip
    trades.to_csv(tmp_path / "dune.csv", index=False)
    swaps = read_table(tmp_path / "dune.csv")
    assert swaps["amount0"].tolist() == [2000.0, -1000.0] and swaps["amount1"].tolist() == [-1.0, 0.5]
    assert swaps["recipient"].isna().all() and swaps["protocol"][0] == "uniswap_v3"


def kline(start: int, unit: int, price: float) -> str:
    end = start + 60
    return f"{start * unit},{price},{price + 2},{price - 2},{price + 1},3,{end * unit - 1},{3 * price},9,1,1,0"


@pytest.mark.parametrize("unit", [1_000, 1_000_000])
def test_binance_klines_without_a_header(tmp_path: Path, unit: int) -> None:
    path = tmp_path / "ETHUSDT-1m-2024-01.csv"
    path.write_text("\n".join(kline(T0 + 60 * k, unit, 2_000.0 + k) for k in range(4)) + "\n")
    prices = read_table(path)
    assert prices["timestamp"][0] == pd.Timestamp(T0 + 60, unit="s", tz="UTC")  # a candle is known at its end
    assert prices["price"].tolist() == [2001.0, 2002.0, 2003.0, 2004.0] and set(prices["interval_s"]) == {60}
    assert set(prices["symbol"]) == {"ETHUSDT"} and set(prices["venue"]) == {"binance"} and set(prices["kind"]) == {"candle"}


def test_binance_aggtrades_and_sockets(tmp_path: Path) -> None:
    path = tmp_path / "ETHUSDT-aggTrades-2024-01.csv"
    path.write_text(f"7,2000.5,0.25,1,2,{T0}000,true\n8,2000.6,0.5,3,3,{T0}000,false\n")
    trades = read_table(path)
    assert trades["taker_side"].tolist() == [-1, 1] and trades["sequence"].tolist() == [7, 8]
    assert trades["volume_quote"][0] == 2000.5 * 0.25
    book = {"u": 400900217, "s": "BNBUSDT", "b": "25.35190000", "B": "31.21", "a": "25.36520000", "A": "40.66"}
    trade = {
        "e": "trade",
        "E": T0 * 1000,
        "s": "BNBUSDT",
        "t": 12345,
        "p": "0.001",
        "q": "100",
        "T": T0 * 1000,
        "m": True,
        "M": True,
    }
    depth = {"lastUpdateId": 160, "bids": [["25.3", "4"], ["25.2", "1"]], "asks": [["25.4", "2"]], "T": T0 * 1000, "s": "BNBUSDT"}
    for name, record in (("book", {**book, "recv_time": T0 * 10**9}), ("trade", trade), ("depth", depth)):
        (tmp_path / f"{name}.jsonl").write_text(json.dumps(record) + "\n")
    quotes = read_table(tmp_path / "book.jsonl")
    assert quotes["bid"][0] == 25.3519 and quotes["ask_size"][0] == 40.66 and quotes["sequence"][0] == 400900217
    assert read_table(tmp_path / "trade.jsonl")["taker_side"].tolist() == [-1]
    best = read_table(tmp_path / "depth.jsonl")
    assert (best["bid"][0], best["ask"][0], best["bid_size"][0]) == (25.3, 25.4, 4.0)


def test_tardis(tmp_path: Path) -> None:
    head = {"exchange": "deribit", "symbol": "ETH-PERPETUAL", "timestamp": T0 * 10**6, "local_timestamp": T0 * 10**6 + 5}
    trades = pd.DataFrame([head | {"id": "ETH-1", "side": side, "price": 2000.0, "amount": 1.0} for side in ("buy", "sell")])
    trades.to_csv(tmp_path / "deribit_trades.csv.gz", index=False)
    read = read_table(tmp_path / "deribit_trades.csv.gz")
    assert read["taker_side"].tolist() == [1, -1] and read["sequence"].tolist() == [0, 1] and set(read["venue"]) == {"deribit"}
    level = {"asks[0].price": 2001.0, "asks[0].amount": 3.0, "bids[0].price": 1999.0, "bids[0].amount": 4.0}
    book = to_canonical(pd.DataFrame([head | level]))["reference_prices"]
    assert book["price"][0] == 2000.0 and book["ask_size"][0] == 3.0
    quote = {"ask_amount": 3.0, "ask_price": 2001.0, "bid_price": 1999.0, "bid_amount": 4.0}
    assert to_canonical(pd.DataFrame([head | quote]))["reference_prices"]["bid"][0] == 1999.0


def test_freqtrade_and_geckoterminal(tmp_path: Path) -> None:
    candles = {"open": 10.0, "high": 12.0, "low": 9.0, "close": 11.0, "volume": 5.0}
    frame = pd.DataFrame({"date": pd.date_range("2024-01-01", periods=3, freq="5min", tz="UTC"), **candles})
    frame.to_feather(tmp_path / "ETH_USDT-5m.feather")
    read = read_table(tmp_path / "ETH_USDT-5m.feather", options=Options(venue="kraken"))
    assert set(read["symbol"]) == {"ETH_USDT"} and set(read["interval_s"]) == {300}
    assert read["timestamp"][0] == pd.Timestamp("2024-01-01 00:05", tz="UTC")
    listed = [[T0 + 3_600 * k, 1.0, 2.0, 0.5, 1.5, 7.0] for k in range(3)]
    (tmp_path / "gecko.json").write_text(json.dumps({"data": {"attributes": {"ohlcv_list": listed}}}))
    read = read_table(tmp_path / "gecko.json", options=Options(symbol="TOKEN"))
    assert set(read["interval_s"]) == {3_600} and read["volume_quote"].tolist() == [7.0] * 3


def test_demeter_minutes_and_aave(tmp_path: Path) -> None:
    path = tmp_path / f"polygon-{POOL}-2023-08-14.minute.csv"
    rows = pd.DataFrame(
        {
            "timestamp": ["2023-08-14 00:00:00", "2023-08-14 00:01:00"], "netAmount0": ["1000000", "-2000000"],
            "netAmount1": ["-12345678901234567890123", "5"], "closeTick": ["197030.0", "197031.0"], "openTick": ["197030.0"] * 2,
            "lowestTick": ["197030"] * 2, "highestTick": ["197031"] * 2, "inAmount0": ["1000000", "0"], "inAmount1": ["0", "5"],
            "currentLiquidity": ["5000000000000000000"] * 2,
        }
    )  # fmt: skip
    rows.to_csv(path, index=False)
    states = read_table(path, options=Options(decimals=(6, 18)))
    assert states["pool"][0] == POOL and states["chain"][0] == "polygon" and states["tick"].tolist() == [197030, 197031]
    assert states["timestamp"][0] == pd.Timestamp("2023-08-14 00:01", tz="UTC") and states["net_amount0"].tolist() == [1.0, -2.0]
    assert states["net_amount1"][0] == pytest.approx(-12345.678901234567) and states["liquidity"][0] == pytest.approx(5e6)
    assert states["price"][0] == pytest.approx(1.0001**197030 * 1e-12)
    aave = pd.DataFrame(
        {
            "block_timestamp": ["2023-08-14 00:00:00"], "liquidity_rate": [str(48 * 10**24)], "stable_borrow_rate": [str(10**25)],
            "variable_borrow_rate": [str(6 * 10**25)], "liquidity_index": [str(102 * 10**25)], "variable_borrow_index": ["1e27"],
        }
    )  # fmt: skip
    rates = to_canonical(aave, Options(chain="polygon", market="USDC.e"))["lending_rates"]
    assert rates["supply_rate"][0] == pytest.approx(0.048) and rates["borrow_index"][0] == pytest.approx(1.0)


def test_token_launches() -> None:
    portal = {
        "signature": "5abc", "mint": "Mint1", "traderPublicKey": "W1", "txType": "buy", "tokenAmount": 1e6, "solAmount": 0.5,
        "vSolInBondingCurve": 30.5, "vTokensInBondingCurve": 1.05e9, "marketCapSol": 29.0, "timestamp": T0 * 1000,
    }  # fmt: skip
    trades = to_canonical(pd.DataFrame([portal]))["wallet_trades"]
    assert trades["price"][0] == pytest.approx(5e-7) and trades["side"][0] == "buy" and trades["token"][0] == "Mint1"
    kaggle = {
        "block_time": T0, "slot": 9, "tx_idx": 4, "signing_wallet": "W", "direction": "sell", "base_coin": "Mint2",
        "base_coin_amount": 2 * 10**6, "quote_coin_amount": 10**9, "virtual_token_balance_after": 10**15,
        "virtual_sol_balance_after": 31 * 10**9, "signature": "5sig", "provided_gas_fee": 5000, "consumed_gas": 1,
    }  # fmt: skip
    trades = to_canonical(pd.DataFrame([kaggle]))["wallet_trades"]
    assert (trades["base_amount"][0], trades["quote_amount"][0], trades["price"][0]) == (2.0, 1.0, 0.5)
    tape = {
        "t": T0 * 1000, "bt": T0, "slot": 5, "sig": "s1", "mint": "M", "side": "buy", "user": "U", "baseAmount": 4.0,
        "quoteAmount": 2.0, "price": 0.5, "poolBase": 100.0, "poolQuote": 60.0, "priceAfter": 0.6, "lpFee": 0.01,
    }  # fmt: skip
    trades = to_canonical(pd.DataFrame([tape, tape]))["wallet_trades"]  # two trades of one transaction
    assert trades["position"].tolist() == ["0", "1"] and trades["price_after"].tolist() == [0.6, 0.6]


def clickhouse(sign: list[int]) -> pd.DataFrame:
    count = len(sign)
    return pd.DataFrame(
        {
            "timestamp": T0, "factory_address": "0x" + "fa" * 20, "network": "base", "token_a": USDC, "token_b": WETH,
            "amount_a": ["2000000000"] * count, "amount_b": ["-1000000000000000000"] * count, "account": V3["sender"],
            "block_number": 7, "transaction_index": 1, "log_index": [1, 1, 2][:count], "transaction_hash": HASH, "sign": sign,
        }
    )  # fmt: skip


def test_clickhouse_rows_collapse_by_their_sign(tmp_path: Path) -> None:
    swaps = to_canonical(clickhouse([1, -1, 1]), Options(decimals=(6, 18)))["swaps"]
    assert swaps["log_index"].tolist() == [2] and swaps["amount0"].tolist() == [2000.0] and swaps["chain"][0] == "base"
    with pytest.raises(TapeError, match=f"token {USDC} on base are unknown") as error:
        to_canonical(clickhouse([1, 1, 1]))
    assert error.value.column == "token_a" and error.value.row == 0
    solana = {
        "timestamp": T0, "dex": "raydium", "token_a": "A", "token_b": "B", "amount_a": [-5.0, -5.0, 4.0],
        "amount_b": [1.0, 1.0, -2.0], "account": "W", "slot": 3, "transaction_index": 0,
        "instruction_address": ["0", "0", "1.2"], "transaction_hash": "sig", "sign": [1, -1, 1],
    }  # fmt: skip
    trades = to_canonical(pd.DataFrame(solana))["wallet_trades"]
    assert trades["side"].tolist() == ["sell"] and trades["position"].tolist() == ["1.2"] and trades["price"].tolist() == [0.5]


def test_rows_taken_back_in_another_file_are_taken_out_of_the_store(tmp_path: Path) -> None:
    store, options = Store(tmp_path / "store"), Options(decimals=(6, 18))
    for name, signs in (("a", [1]), ("b", [-1])):
        clickhouse(signs).to_parquet(tmp_path / f"{name}.parquet")
        import_file(tmp_path / f"{name}.parquet", store, options)
    assert store.rows("swaps") == 0


def test_mev_inspect_and_fastlane() -> None:
    swap = {
        "block_number": 5, "transaction_hash": HASH, "trace_address": "[0, 1]", "protocol": "uniswap_v2", "abi_name": "Pair",
        "contract_address": POOL, "from_address": V3["sender"], "to_address": V3["sender"], "token_in_address": USDC,
        "token_in_amount": "2000000000", "token_out_address": WETH, "token_out_amount": "1000000000000000000", "error": None,
    }  # fmt: skip
    trades = to_canonical(pd.DataFrame([swap]), Options(chain="ethereum"))["wallet_trades"]
    assert trades["position"][0] == "[0, 1]" and trades["base_amount_raw"][0] == "1000000000000000000"
    pool = {
        "exchange_name": "uniswap_v3", "address": POOL, "tkn0_address": USDC, "tkn1_address": WETH, "tkn0_symbol": "USDC",
        "tkn1_symbol": "WETH", "tkn0_decimals": 6, "tkn1_decimals": 18, "fee": "0.0005", "liquidity": 10**18,
        "sqrt_price_q96": SQRT, "tick": 200311, "tkn0_balance": 0, "tkn1_balance": 0, "last_updated_block": 17,
    }  # fmt: skip
    tables = to_canonical(pd.DataFrame([pool]), Options(chain="ethereum"))
    assert tables["pools"]["fee_ppm"][0] == pytest.approx(500.0) and tables["pool_states"]["price"][0] == pytest.approx(1 / 2000)


def test_decimals_come_from_pools_that_were_imported_first(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    frame = pd.DataFrame({**PLACE, "address": POOL, **v3_rows(), "timestamp": T0})
    frame.to_parquet(tmp_path / "swaps.parquet")
    with pytest.raises(TapeError, match=f"pool {POOL} on ethereum are unknown"):
        import_file(tmp_path / "swaps.parquet", store, Options(chain="ethereum"))
    pools = pd.DataFrame({"chain": ["ethereum"], "pool": [POOL], "decimals0": [6], "decimals1": [18]})
    pools.to_parquet(tmp_path / "pools.parquet")
    import_file(tmp_path / "pools.parquet", store)
    import_file(tmp_path / "swaps.parquet", store, Options(chain="ethereum"))
    check_swaps(store.read("swaps"))


def test_a_table_without_block_times_gets_them_from_blocks(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    blocks = pd.DataFrame({"timestamp": [T0, T0 + 12], "chain": "ethereum", "block_number": [1, 2], "base_fee_gwei": 1.0})
    store.append("blocks", blocks, source="test")
    pd.DataFrame({**PLACE, "address": POOL, **v3_rows()}).to_parquet(tmp_path / "swaps.parquet")
    import_file(tmp_path / "swaps.parquet", store, CHAIN)
    assert store.read("swaps")["timestamp"].astype("int64").tolist() == [T0 * 10**6, T0 * 10**6, (T0 + 12) * 10**6]


def test_a_canonical_table_is_recognised_as_itself(tmp_path: Path) -> None:
    store = Store(tmp_path / "a")
    store.append("swaps", to_canonical(pd.DataFrame({**PLACE, "address": POOL, **v3_rows()}), CHAIN)["swaps"], source="x")
    (part,) = store.parts("swaps")
    done = import_file(part, Store(tmp_path / "b"))
    assert done.reader == "canonical_swaps" and Store(tmp_path / "b").rows("swaps") == 3


def test_unknown_tables_are_refused_with_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(TapeError, match=rf"looked for {len(READERS)} formats, nearest.*lacks") as error:
        recognise(["timestamp", "amount0", "amount1", "tick"], "x.csv")
    assert "sqrtPriceX96" in str(error.value)
    with pytest.raises(TapeError, match="no reader"):
        recognise(["a"], named="nonsense")
    (tmp_path / "numbers.csv").write_text("1,2,3\n")
    with pytest.raises(TapeError, match="no header, and 3 columns"):
        read_table(tmp_path / "numbers.csv")
    for name, content in (("a.csv", ""), ("b.parquet", "x"), ("c.jsonl", "{\n"), ("d.xlsx", "x"), ("e.json", "{}")):
        (tmp_path / name).write_text(content)
        with pytest.raises(TapeError, match=name):
            read_table(tmp_path / name)


def test_reader_names_are_unique_and_no_two_need_the_same() -> None:
    assert len({reader.name for reader in READERS}) == len(READERS)
    assert len({frozenset(reader.needs) for reader in READERS}) == len(READERS)


@pytest.mark.parametrize(
    ("values", "rule", "row"),
    [
        ([T0, T0 + 1, (T0 + 2) * 1000], "a time in ms, in a column in s", 2),
        ([T0 * 1000, T0 * 10**6], "a time in us, in a column in ms", 1),
        ([str(T0), str(T0 * 10**9)], "a time in ns, in a column in s", 1),
        (["2024-01-01", "soon"], "soon.*UTC times", 1),
    ],
)
def test_times_in_several_units_are_refused_with_the_row(values: list[Any], rule: str, row: int) -> None:
    with pytest.raises(TapeError, match=rule) as error:
        times(pl.Series("time", values))
    assert error.value.row == row and error.value.column == "time"


@pytest.mark.parametrize("unit", [1, 10**3, 10**6, 10**9])
@pytest.mark.parametrize("text", [False, True])
def test_epochs_are_read_in_every_unit(unit: int, text: bool) -> None:
    values: list[Any] = [(T0 + k) * unit for k in range(3)]
    read = times(pl.Series("time", [str(value) for value in values] if text else values))
    assert read.dt.epoch("us").to_list() == [(T0 + k) * 10**6 for k in range(3)]


def test_written_times_with_and_without_zones() -> None:
    written = ["2023-11-14T22:13:20Z", "2023-11-14 22:13:20.000 UTC", "2023-11-14 22:13:20", "2023-11-14T23:13:20+01:00"]
    assert set(times(pl.Series("time", written)).dt.epoch("s")) == {T0}
