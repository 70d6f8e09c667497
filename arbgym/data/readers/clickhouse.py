"""Swap tables of ClickHouse pipes: token_a, token_b, signed amounts, and a sign that collapses rows taken back.

A row and its repetition with sign -1 cancel out; only what is left is imported. On EVM chains the amounts are the pool's
changes, with token_a and token_b in the pool's order; on Solana a row is a trade of ``account``.
"""

from __future__ import annotations

from arbgym.data.needs import pl
from arbgym.data.readers.base import SIGN, Rows, Tables, reader
from arbgym.data.readers.chain_rows import execution_price, scaled, token_decimals
from arbgym.data.readers.solana import trade_rows
from arbgym.data.readers.uniswap import chain_of


def _sign(rows: Rows) -> pl.Series:
    sign = rows.whole("sign").cast(pl.Int8)
    rows.refuse_first(~sign.is_in([-1, 1]), "sign", "accepted are 1 and -1")
    return sign.alias(SIGN)


def _fractions(amounts: pl.Series) -> bool:
    return amounts.dtype.is_float() or (amounts.dtype == pl.String and bool(amounts.str.contains(".", literal=True).any()))


@reader(
    "clickhouse_v3",
    "uniswap_v3_swaps_raw of ClickHouse pipes",
    "timestamp token_a token_b amount_a amount_b account block_number transaction_index log_index transaction_hash sign",
)
def v3_swaps(rows: Rows) -> Tables:
    """Whole numbers are raw amounts, divided by the tokens' decimals; numbers with a fraction are tokens already."""
    chain = chain_of(rows)
    token0, token1 = rows.text("token_a").alias("token_a"), rows.text("token_b").alias("token_b")
    raw0 = raw1 = None
    if _fractions(rows.frame["amount_a"]) or _fractions(rows.frame["amount_b"]):
        amount0, amount1 = rows.number("amount_a"), rows.number("amount_b")
    else:
        raw0, raw1 = rows.raw("amount_a"), rows.raw("amount_b")
        given = rows.options.decimals
        decimals0, decimals1 = given or (token_decimals(rows, chain, token0), token_decimals(rows, chain, token1))
        amount0, amount1 = scaled(raw0, decimals0), scaled(raw1, decimals1)
    pool = rows.options.pool or rows.text("pool", "pool_address", "pair")
    if isinstance(pool, pl.Series) and pool.null_count():
        pool = rows.text("factory_address") + ":" + token0 + ":" + token1  # the table names no pool: all fee tiers of the pair
    frame = rows.table(
        timestamp=rows.time("timestamp"), chain=chain, pool=pool, protocol=rows.options.protocol or "uniswap_v3",
        block_number=rows.whole("block_number"), transaction_index=rows.whole("transaction_index"),
        log_index=rows.whole("log_index"), transaction_hash=rows.text("transaction_hash"), sender=rows.text("account"),
        amount0_raw=raw0, amount1_raw=raw1, amount0=amount0, amount1=amount1,
        execution_price=execution_price(amount0, amount1),
    )  # fmt: skip
    return {"swaps": frame.with_columns(_sign(rows))}


@reader(
    "clickhouse_solana",
    "solana_swaps_raw of ClickHouse pipes",
    "timestamp dex token_a token_b amount_a amount_b account transaction_index instruction_address transaction_hash sign",
)
def solana_swaps(rows: Rows) -> Tables:
    """token_a is the base: ``account`` sold it where amount_a is positive (into the pool), else bought it."""
    amount_a, amount_b = rows.number("amount_a"), rows.number("amount_b")
    side = (amount_a < 0).replace_strict({True: "buy", False: "sell"}, return_dtype=pl.String)
    frame = trade_rows(
        rows, amount_a.abs(), amount_b.abs(), side, timestamp=rows.time("timestamp"), chain=rows.options.chain or "solana",
        venue=rows.text("dex"), wallet=rows.text("account"), token=rows.text("token_a"), quote_token=rows.text("token_b"),
        block_number=rows.whole("block_number", "slot"), transaction_index=rows.whole("transaction_index"),
        transaction_hash=rows.text("transaction_hash"), position=rows.text("instruction_address"),
    )  # fmt: skip
    return {"wallet_trades": frame.with_columns(_sign(rows))}
