"""Traced swaps and arbitrages: mev-inspect, atomic arbitrages of a chain, legs of exchange arbitrage, simulated cycles."""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.chain_rows import block_times
from arbgym.data.readers.solana import trade_rows
from arbgym.data.readers.uniswap import chain_of


def _bought(rows: Rows, base: pl.Series, quote: pl.Series, **columns: Any) -> pl.DataFrame:
    """A traced swap as a wallet's trade: it bought token_out, the base, and paid with token_in."""
    side = pl.Series(["buy"]).new_from_index(0, len(base))
    return trade_rows(rows, base, quote, side, **columns)


@reader(
    "mev_inspect_swaps",
    "mev-inspect swaps",
    "block_number transaction_hash trace_address protocol contract_address token_in_address token_in_amount token_out_address "
    "token_out_amount",
)
def inspect_swaps(rows: Rows) -> Tables:
    return {"wallet_trades": _traced(rows, "protocol", "contract_address", "_address", "token_in_amount", "token_out_amount")}


@reader(
    "swap_census",
    "traced swaps (mev-inspect columns, shortened)",
    "block_number transaction_hash trace_address pool_type pool token_in amount_in_raw token_out amount_out_raw",
)
def census(rows: Rows) -> Tables:
    return {"wallet_trades": _traced(rows, "pool_type", "pool", "", "amount_in_raw", "amount_out_raw")}


def _traced(rows: Rows, venue: str, pool: str, ending: str, amount_in: str, amount_out: str) -> pl.DataFrame:
    """Amounts stay raw: traces know no decimals."""
    chain, block = chain_of(rows), rows.whole("block_number")
    return rows.table(
        timestamp=_time_or_blocks(rows, chain, block), chain=chain, venue=rows.text(venue).fill_null("unknown"),
        pool=rows.text(pool),
        wallet=rows.text("from_address", "transaction_from"), token=rows.text(f"token_out{ending}"),
        quote_token=rows.text(f"token_in{ending}"), side="buy", base_amount_raw=rows.raw(amount_out),
        quote_amount_raw=rows.raw(amount_in), block_number=block,
        transaction_index=rows.whole("tx_index", "transaction_position"), transaction_hash=rows.text("transaction_hash"),
        position=rows.text("trace_address"), failed=rows.text("error").is_not_null(),
    )  # fmt: skip


def _time_or_blocks(rows: Rows, chain: str, block: pl.Series) -> pl.Series:
    times = rows.time("block_timestamp", "timestamp", "block_time")
    return block_times(rows, chain, block) if times.null_count() == len(times) else times


@reader(
    "mev_inspect_arbitrages",
    "mev-inspect arbitrages",
    "block_number transaction_hash profit_token_address start_amount end_amount profit_amount",
)
def inspect_arbitrages(rows: Rows) -> Tables:
    """Profit in ETH where the profit token is WETH (18 decimals); other tokens leave it empty."""
    chain, block = chain_of(rows), rows.whole("block_number")
    token, profit = rows.text("profit_token_address"), rows.number("profit_amount")
    weth = token == "0xc02aaa39b223fe8d0a0e5c4f27ead9083c756cc2"
    times = _time_or_blocks(rows, chain, block)
    read_from = times.is_null()
    rows.refuse_first(read_from, "block_number", "no time for this block; accepted is a table of blocks imported first")
    frame = rows.table(
        timestamp=times, symbol=token, chain=chain, executed=True, profitable=profit > 0,
        profit_eth=(profit / 1e18).set(~weth, None), transaction_hash=rows.text("transaction_hash"),
    )  # fmt: skip
    return {"opportunities": frame.with_columns(pl.col("_row").alias("sequence"))}


@reader(
    "atomic_arbitrages",
    "executed atomic arbitrages",
    "block_time tx_hash n_arbitrages n_swaps gas_price_wei profit_eth gain_eth",
)
def atomic(rows: Rows) -> Tables:
    profit = rows.number("profit_eth")
    frame = rows.table(
        timestamp=rows.time("block_time"), symbol=rows.options.symbol or "any", chain=chain_of(rows),
        gas_price_gwei=rows.number("gas_price_wei") / 1e9, hops=rows.whole("n_swaps"), executed=True, profitable=profit > 0,
        profit_eth=profit, profit_quote=rows.number("profit_usd"), transaction_hash=rows.text("tx_hash"),
    )  # fmt: skip
    return {"opportunities": frame.with_columns(pl.col("_row").alias("sequence"))}


@reader(
    "atomic_arbitrage_swaps",
    "legs of atomic arbitrages",
    "block_number tx_hash arb_index swap_index protocol pool token_in token_out amount_in_raw amount_out_raw",
)
def atomic_legs(rows: Rows) -> Tables:
    chain, block = chain_of(rows), rows.whole("block_number")
    frame = rows.table(
        timestamp=_time_or_blocks(rows, chain, block), chain=chain, venue=rows.text("protocol"), pool=rows.text("pool"),
        token=rows.text("token_out"), quote_token=rows.text("token_in"), side="buy", base_amount_raw=rows.raw("amount_out_raw"),
        quote_amount_raw=rows.raw("amount_in_raw"), block_number=block, transaction_hash=rows.text("tx_hash"),
        position=rows.text("arb_index") + "." + rows.text("swap_index"),
    )  # fmt: skip
    return {"wallet_trades": frame}


@reader(
    "cex_dex_trades",
    "DEX legs of exchange arbitrage",
    "block_number block_time tx_hash tx_index from_addr token_bought_amount token_sold_amount token_bought_contract "
    "token_sold_contract",
)
def exchange_arbitrage(rows: Rows) -> Tables:
    cost = rows.number("base_fee_eth") + rows.number("bribe_total_eth")
    frame = _bought(
        rows, rows.number("token_bought_amount"), rows.number("token_sold_amount"), timestamp=rows.time("block_time"),
        chain=chain_of(rows), venue=rows.options.venue or "dex", wallet=rows.text("from_addr"),
        token=rows.text("token_bought_contract"), quote_token=rows.text("token_sold_contract"),
        quote_usd=rows.number("volume_usd"), cost_native=cost, block_number=rows.whole("block_number"),
        transaction_index=rows.whole("tx_index"), transaction_hash=rows.text("tx_hash"), position=rows.text("tx_index"),
    )  # fmt: skip
    return {"wallet_trades": frame}


@reader(
    "simulated_cycles",
    "profitable cycles found by simulation on recorded states",
    "chain n_hops profit_usd amount_usd route window_start",
)
def cycles(rows: Rows) -> Tables:
    profit = rows.number("profit_usd")
    frame = rows.table(
        timestamp=rows.time("window_start"), symbol=rows.text("route"), chain=rows.text("chain"),
        trade_size_quote=rows.number("amount_usd"), hops=rows.whole("n_hops"), executed=False, profitable=profit > 0,
        profit_quote=profit,
    )  # fmt: skip
    return {"opportunities": frame.with_columns(pl.col("_row").alias("sequence"))}
