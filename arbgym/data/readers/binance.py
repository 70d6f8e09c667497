"""Binance: klines (milli- and microseconds), aggTrades, trades, and websocket captures of trades, bookTicker and depth."""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.candles import candle_table, symbol_in_name


def _place(rows: Rows) -> dict[str, Any]:
    symbol = rows.options.symbol or symbol_in_name(rows.path) or rows.said("symbol", "symbol", "s", "data.s")
    return {"venue": rows.options.venue or "binance", "symbol": symbol}


@reader("binance_klines", "Binance klines", "open_time open high low close volume close_time")
def klines(rows: Rows) -> Tables:
    start, end = rows.time("open_time"), rows.time("close_time")
    length = (end - start).dt.total_microseconds().median()
    if rows.memory.get("interval_s") is None and length is not None:  # close_time is the last moment before the end
        rows.memory["interval_s"] = rows.options.interval_s or round(float(str(length)) / 1e6)
    volume_quote = rows.number("quote_volume", "quote_asset_volume")
    names = ("open", "high", "low", "close")
    return {"reference_prices": candle_table(rows, start, names, "volume", volume_quote=volume_quote, **_place(rows))}


def _trades(rows: Rows, time: str, price: str, quantity: str, number: str, maker: str) -> Tables:
    prices, amounts = rows.number(price), rows.number(quantity)
    frame = rows.table(
        timestamp=rows.time(time),
        kind="trade",
        price=prices,
        volume_base=amounts,
        volume_quote=prices * amounts,
        taker_side=(~rows.flag(maker)).cast(pl.Int64) * 2 - 1,
        sequence=rows.whole(number),
        **_place(rows),
    )
    return {"reference_prices": frame}


@reader("binance_aggtrades", "Binance aggTrades", "agg_trade_id price quantity transact_time is_buyer_maker")
def agg_trades(rows: Rows) -> Tables:
    return _trades(rows, "transact_time", "price", "quantity", "agg_trade_id", "is_buyer_maker")


@reader("binance_aggtrades_short", "Binance aggTrades", "agg_id price qty time is_buyer_maker")
def agg_trades_short(rows: Rows) -> Tables:
    return _trades(rows, "time", "price", "qty", "agg_id", "is_buyer_maker")


@reader("binance_trades", "Binance trades", "id price qty time is_buyer_maker")
def trades(rows: Rows) -> Tables:
    return _trades(rows, "time", "price", "qty", "id", "is_buyer_maker")


@reader("binance_ws_trade", "Binance websocket trades", "p q T m s")
def socket_trades(rows: Rows) -> Tables:
    return _trades(rows, "T", "p", "q", "t" if rows.has("t") else "a", "m")


@reader("binance_ws_trade_stream", "Binance websocket trades (combined stream)", "data.p data.q data.T data.m data.s")
def stream_trades(rows: Rows) -> Tables:
    return _trades(rows, "data.T", "data.p", "data.q", "data.t" if rows.has("data.t") else "data.a", "data.m")


def _quotes(rows: Rows, prefix: str, times: tuple[str, ...]) -> Tables:
    bid, ask = rows.number(f"{prefix}b"), rows.number(f"{prefix}a")
    frame = rows.table(
        timestamp=rows.time(*times),
        kind="quote",
        bid=bid,
        ask=ask,
        price=(bid + ask) / 2.0,
        bid_size=rows.number(f"{prefix}B"),
        ask_size=rows.number(f"{prefix}A"),
        sequence=rows.whole(f"{prefix}u"),
        **_place(rows),
    )
    return {"reference_prices": frame}


_RECEIVED = ("recv_time", "received", "local_timestamp", "timestamp", "time")


@reader(
    "binance_ws_bookticker", "Binance websocket bookTicker (a time the recorder wrote where Binance gives none)", "u s b B a A"
)
def book_ticker(rows: Rows) -> Tables:
    return _quotes(rows, "", ("T", "E", *_RECEIVED))


@reader(
    "binance_ws_bookticker_stream", "Binance websocket bookTicker (combined stream)", "data.u data.s data.b data.B data.a data.A"
)
def stream_book_ticker(rows: Rows) -> Tables:
    return _quotes(rows, "data.", ("data.T", "data.E", *_RECEIVED))


def _best(levels: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Price and size of the first level of JSON lists [[price, size], ...]."""
    found = levels.str.extract_groups(r'\[\s*\[\s*"?([0-9.eE+-]+)"?\s*,\s*"?([0-9.eE+-]+)"?').struct.unnest()
    return found.to_series(0).cast(pl.Float64), found.to_series(1).cast(pl.Float64)


def _depth(rows: Rows, bids: str, asks: str, times: tuple[str, ...], number: str) -> Tables:
    (bid, bid_size), (ask, ask_size) = _best(rows.text(bids)), _best(rows.text(asks))
    frame = rows.table(
        timestamp=rows.time(*times), kind="quote", bid=bid, ask=ask, price=(bid + ask) / 2.0, bid_size=bid_size,
        ask_size=ask_size, sequence=rows.whole(number), **_place(rows),
    )  # fmt: skip
    return {"reference_prices": frame.filter(bid.is_not_null() & ask.is_not_null())}


@reader("binance_depth_snapshot", "Binance partial depth snapshots (best level of each)", "lastUpdateId bids asks")
def depth_snapshot(rows: Rows) -> Tables:
    return _depth(rows, "bids", "asks", ("T", "E", *_RECEIVED), "lastUpdateId")


@reader(
    "binance_depth_stream", "Binance partial depth (combined stream; best level of each)", "data.lastUpdateId data.bids data.asks"
)
def depth_stream(rows: Rows) -> Tables:
    return _depth(rows, "data.bids", "data.asks", ("data.T", "data.E", *_RECEIVED), "data.lastUpdateId")


@reader(
    "binance_ticks_quotes", "recorded best quotes", "market symbol recv_time exchange_time bid_price bid_qty ask_price ask_qty"
)
def recorded_quotes(rows: Rows) -> Tables:
    """The exchange's time where it gives one, else the recorder's."""
    bid, ask = rows.number("bid_price"), rows.number("ask_price")
    frame = rows.table(
        timestamp=rows.time("exchange_time").fill_null(rows.time("recv_time")), venue=_market(rows), symbol=rows.text("symbol"),
        kind="quote", bid=bid, ask=ask, price=(bid + ask) / 2.0, bid_size=rows.number("bid_qty"),
        ask_size=rows.number("ask_qty"),
    )  # fmt: skip
    return {"reference_prices": frame.with_columns(pl.col("_row").alias("sequence"))}


@reader("binance_ticks_trades", "recorded trades", "market symbol recv_time exchange_time price qty taker_side trade_id")
def recorded_trades(rows: Rows) -> Tables:
    frame = rows.table(
        timestamp=rows.time("exchange_time").fill_null(rows.time("recv_time")), venue=_market(rows), symbol=rows.text("symbol"),
        kind="trade", price=rows.number("price"), volume_base=rows.number("qty"), taker_side=rows.whole("taker_side"),
        sequence=rows.whole("trade_id"),
    )  # fmt: skip
    return {"reference_prices": frame}


@reader("binance_ticks_bars", "bars of quotes and trades", "market symbol timestamp mid_open mid_high mid_low mid_close")
def recorded_bars(rows: Rows) -> Tables:
    names = ("mid_open", "mid_high", "mid_low", "mid_close")
    frame = candle_table(rows, rows.time("timestamp"), names, None, symbol=rows.text("symbol"), venue="binance")
    return {"reference_prices": frame.with_columns(_market(rows).alias("venue"))}


def _market(rows: Rows) -> pl.Series:
    return "binance_" + rows.text("market")
