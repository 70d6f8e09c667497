"""Dune's dex.trades (the decoded events of a contract are in ``uniswap``).

dex.trades names what the taker bought and sold, not token0 and token1; in pools that sort their tokens by address (Uniswap and
its like) the lower address is token0.
"""

from __future__ import annotations

from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.chain_rows import execution_price, negated
from arbgym.data.readers.uniswap import chain_of


@reader(
    "dune_trades",
    "Dune dex.trades",
    "block_time tx_hash evt_index token_bought_address token_sold_address token_bought_amount token_sold_amount",
)
def trades(rows: Rows) -> Tables:
    bought, sold = rows.text("token_bought_address"), rows.text("token_sold_address")
    bought_first = bought < sold
    amount_in, amount_out = rows.number("token_sold_amount"), rows.number("token_bought_amount")
    raw_in, raw_out = rows.raw("token_sold_amount_raw"), negated(rows.raw("token_bought_amount_raw"))
    known = amount_in.is_not_null() & amount_out.is_not_null()
    if not known.all():
        column, token = ("token_bought_amount", bought) if amount_out.null_count() else ("token_sold_amount", sold)
        row = int((rows.number(column).is_null()).arg_true()[0])
        rows.refuse_first(
            ~known, column, f"Dune knew no decimals of token {token[row]}; accepted are rows with amounts in whole tokens"
        )
    amount0 = (-amount_out).zip_with(bought_first, amount_in)
    amount1 = amount_in.zip_with(bought_first, -amount_out)
    version = rows.text("version")
    protocol = rows.text("project") + "_v" + version if version.null_count() < len(version) else rows.text("project")
    frame = rows.table(
        timestamp=rows.time("block_time"),
        chain=chain_of(rows),
        pool=rows.said("pool", "project_contract_address", "pool"),
        protocol=rows.options.protocol or protocol,
        block_number=rows.whole("block_number"),
        log_index=rows.whole("evt_index"),
        transaction_hash=rows.text("tx_hash"),
        sender=rows.text("taker"),
        recipient=rows.text("maker"),
        amount0_raw=raw_out.zip_with(bought_first, raw_in),
        amount1_raw=raw_in.zip_with(bought_first, raw_out),
        amount0=amount0,
        amount1=amount1,
        execution_price=execution_price(amount0, amount1),
    )
    return {"swaps": frame}
