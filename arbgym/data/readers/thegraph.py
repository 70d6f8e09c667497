"""The Graph's Uniswap subgraphs: V2 and V3 swaps, and pools. Amounts there are whole tokens, as decimal text."""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.chain_rows import execution_price, pool_decimals, price_of_sqrt
from arbgym.data.readers.uniswap import chain_of
from arbgym.market.tape import TapeError


def _place(rows: Rows) -> dict[str, Any]:
    block = rows.whole("transaction.blockNumber", "blockNumber", "block_number")
    if block.null_count():
        raise TapeError(
            "missing; accepted is a query with transaction { id blockNumber }", "transaction.blockNumber", path=rows.path
        )
    hashes = (
        rows.text("transaction.id", "transaction") if rows.has("transaction.id") or rows.has("transaction") else rows.text("id")
    )
    log_index = rows.whole("logIndex")
    if log_index.null_count():
        raise TapeError("missing; accepted is a query with logIndex", "logIndex", path=rows.path)
    return {
        "timestamp": rows.time("timestamp", "transaction.timestamp"),
        "chain": chain_of(rows),
        "pool": rows.said("pool", "pool.id", "pair.id", "pool", "pair"),
        "block_number": block,
        "log_index": log_index,
        "transaction_hash": hashes.str.extract("^(0x[0-9a-f]+)"),
    }


@reader("thegraph_v3", "Uniswap V3 swaps from The Graph", "id timestamp amount0 amount1 sqrtPriceX96 tick logIndex")
def v3_swaps(rows: Rows) -> Tables:
    place = _place(rows)
    amount0, amount1 = rows.number("amount0"), rows.number("amount1")
    sqrt = rows.raw("sqrtPriceX96")
    price = None
    names = ("pool.token0.decimals", "pool.token1.decimals", "token0.decimals", "token1.decimals")
    if rows.has(*names[:2]) or rows.has(*names[2:]):
        price = price_of_sqrt(sqrt, rows.whole(names[0], names[2]), rows.whole(names[1], names[3]))
    else:
        price = price_of_sqrt(sqrt, *pool_decimals(rows, place["chain"], place["pool"]))
    frame = rows.table(
        protocol=rows.options.protocol or "uniswap_v3", sender=rows.text("sender", "origin"), recipient=rows.text("recipient"),
        amount0=amount0, amount1=amount1, sqrt_price_x96_raw=sqrt, tick=rows.whole("tick"), price=price,
        execution_price=execution_price(amount0, amount1), fee_ppm=rows.number("pool.feeTier"), **place,
    )  # fmt: skip
    return {"swaps": frame}


@reader("thegraph_v2", "Uniswap V2 swaps from The Graph", "id timestamp amount0In amount1In amount0Out amount1Out logIndex")
def v2_swaps(rows: Rows) -> Tables:
    amount0 = rows.number("amount0In") - rows.number("amount0Out")
    amount1 = rows.number("amount1In") - rows.number("amount1Out")
    frame = rows.table(
        protocol=rows.options.protocol or "uniswap_v2", sender=rows.text("sender", "from"), recipient=rows.text("to"),
        amount0=amount0, amount1=amount1, execution_price=execution_price(amount0, amount1), **_place(rows),
    )  # fmt: skip
    return {"swaps": frame}


@reader("thegraph_pools", "pools from The Graph", "id token0.id token1.id token0.decimals token1.decimals")
def pools(rows: Rows) -> Tables:
    frame = rows.table(
        chain=chain_of(rows), pool=rows.text("id"), protocol=rows.options.protocol, token0=rows.text("token0.id"),
        token1=rows.text("token1.id"), symbol0=rows.text("token0.symbol"), symbol1=rows.text("token1.symbol"),
        decimals0=rows.whole("token0.decimals"), decimals1=rows.whole("token1.decimals"), fee_ppm=rows.number("feeTier"),
    )  # fmt: skip
    sides = [
        rows.table(
            chain=chain_of(rows), address=rows.text(f"token{k}.id"), symbol=rows.text(f"token{k}.symbol"),
            decimals=rows.whole(f"token{k}.decimals"),
        )
        for k in (0, 1)
    ]  # fmt: skip
    return {"pools": frame, "tokens": pl.concat(sides).unique(["chain", "address"], keep="first", maintain_order=True)}
