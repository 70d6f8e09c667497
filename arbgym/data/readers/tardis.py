"""Tardis: trades, quotes, book snapshots (best level). The time is Tardis's exchange time, in microseconds."""

from __future__ import annotations

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader


@reader("tardis_trades", "Tardis trades", "exchange symbol timestamp local_timestamp id side price amount")
def trades(rows: Rows) -> Tables:
    price, amount, side = rows.number("price"), rows.number("amount"), rows.text("side")
    number = rows.text("id").cast(pl.Int64, strict=False)
    frame = rows.table(
        timestamp=rows.time("timestamp"),
        venue=rows.text("exchange"),
        symbol=rows.text("symbol"),
        kind="trade",
        price=price,
        volume_base=amount,
        volume_quote=price * amount,
        taker_side=side.replace_strict({"buy": 1, "sell": -1}, default=None, return_dtype=pl.Int64),
        sequence=number,
    )
    return {"reference_prices": frame.with_columns(pl.col("sequence").fill_null(pl.col("_row")))}


def _quotes(rows: Rows, bid: str, ask: str, bid_size: str, ask_size: str) -> Tables:
    bids, asks = rows.number(bid), rows.number(ask)
    frame = rows.table(
        timestamp=rows.time("timestamp"),
        venue=rows.text("exchange"),
        symbol=rows.text("symbol"),
        kind="quote",
        bid=bids,
        ask=asks,
        price=(bids + asks) / 2.0,
        bid_size=rows.number(bid_size),
        ask_size=rows.number(ask_size),
    ).with_columns(pl.col("_row").alias("sequence"))
    return {"reference_prices": frame.filter(bids.is_not_null() & asks.is_not_null())}


@reader("tardis_quotes", "Tardis quotes", "exchange symbol timestamp local_timestamp ask_amount ask_price bid_price bid_amount")
def quotes(rows: Rows) -> Tables:
    return _quotes(rows, "bid_price", "ask_price", "bid_amount", "ask_amount")


@reader(
    "tardis_book",
    "Tardis book snapshots (best level)",
    "exchange symbol timestamp local_timestamp asks[0].price asks[0].amount bids[0].price bids[0].amount",
)
def book(rows: Rows) -> Tables:
    return _quotes(rows, "bids[0].price", "asks[0].price", "bids[0].amount", "asks[0].amount")
