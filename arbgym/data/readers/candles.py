"""Candles of any exchange: open, high, low, close with a time and a volume (freqtrade, GeckoTerminal, ccxt, Bybit, ...).

A candle is stamped by its start in nearly every source and known at its end: its ``timestamp`` here is the end.
"""

from __future__ import annotations

import re
from datetime import timedelta
from pathlib import Path
from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.market.tape import TapeError

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}


def interval_in_name(path: str) -> int | None:
    """Seconds of the interval in a file's name (ETHUSDT-5m-2024-01.csv, ETH_USDT-1h.feather); None without one."""
    found = re.search(r"[-_](\d+)([smhdw])(?=[-_.]|$)", Path(path).name)
    return int(found[1]) * _UNITS[found[2]] if found else None


def symbol_in_name(path: str) -> str | None:
    """The symbol that a file's name begins with (ETHUSDT-5m..., ETH_USDT-1h...); None without one."""
    found = re.match(r"([A-Z0-9]{2,}(?:_[A-Z0-9]{2,}){0,2})[-_](?:\d+[smhdw]|aggTrades|trades|bookTicker)", Path(path).name)
    return found[1] if found else None


def period(rows: Rows, times: pl.Series, by: pl.Series | None = None) -> timedelta:
    """The length of a period as a duration: the option, the file's name, or the commonest difference of the table's times.

    The first batch decides for the rest of the table. Raises TapeError where nothing tells.
    """
    seconds = rows.options.interval_s or interval_in_name(rows.path) or rows.memory.get("interval_s")
    if seconds is None:
        frame = pl.DataFrame({"time": times}).with_columns(pl.lit(0).alias("by") if by is None else by.alias("by"))
        step = pl.col("time").diff().over("by").dt.total_microseconds()
        steps = frame.drop_nulls("time").sort("by", "time").select(step).to_series()
        steps = steps.filter(steps > 0)
        if not len(steps):
            raise TapeError("one row does not tell how long its period is; accepted is --interval-s", times.name, path=rows.path)
        seconds = round(int(steps.mode().min()) / 1e6)  # type: ignore[arg-type]
    rows.memory["interval_s"] = int(seconds)
    return timedelta(seconds=int(seconds))


def candle_table(rows: Rows, start: pl.Series, names: tuple[str, str, str, str], volume: str | None, **more: Any) -> pl.DataFrame:
    """Candles stamped by their start, with these columns for open, high, low and close."""
    symbol = more.pop("symbol", None)
    if symbol is None:
        symbol = rows.options.symbol or symbol_in_name(rows.path) or rows.said("symbol", "symbol", "pair", "ticker")
    length = period(rows, start, symbol if isinstance(symbol, pl.Series) else None)
    return rows.table(
        timestamp=start + length,
        venue=rows.options.venue or more.pop("venue", None) or rows.said("venue", "venue", "exchange"),
        symbol=symbol,
        kind="candle",
        interval_s=int(length.total_seconds()),
        open=rows.number(names[0]),
        high=rows.number(names[1]),
        low=rows.number(names[2]),
        price=rows.number(names[3]),
        volume_base=rows.number(volume) if volume else None,
        **more,
    )


_OHLC = ("open", "high", "low", "close")
_TIMES = ("timestamp", "open_time", "date", "datetime", "time", "start", "startTime", "start_at")


def _candles(rows: Rows, volume: str | None, **more: Any) -> Tables:
    return {"reference_prices": candle_table(rows, rows.time(*_TIMES), _OHLC, volume, **more)}


@reader("candles_freqtrade", "candles as freqtrade keeps them", "date open high low close volume")
def freqtrade(rows: Rows) -> Tables:
    return _candles(rows, "volume")


@reader("candles_base_volume", "candles with volume in base tokens", "open high low close volume_base")
def base_volume(rows: Rows) -> Tables:
    return _candles(rows, "volume_base")


@reader("candles_usd_volume", "candles with volume in USD", "timestamp open high low close volume_usd")
def usd_volume(rows: Rows) -> Tables:
    return _candles(rows, None, volume_quote=rows.number("volume_usd"))


@reader("candles", "candles with a timestamp", "timestamp open high low close volume")
def stamped(rows: Rows) -> Tables:
    return _candles(rows, "volume")


@reader("candles_open_time", "candles with an open_time", "open_time open high low close")
def open_time(rows: Rows) -> Tables:
    return _candles(rows, "volume" if rows.has("volume") else None)


@reader("candles_geckoterminal", "GeckoTerminal's ohlcv_list", "column_0 column_1 column_2 column_3 column_4 column_5")
def geckoterminal(rows: Rows) -> Tables:
    names = ("column_1", "column_2", "column_3", "column_4")
    venue = rows.options.venue or "geckoterminal"
    start = rows.time("column_0")
    return {"reference_prices": candle_table(rows, start, names, None, venue=venue, volume_quote=rows.number("column_5"))}


@reader(
    "candles_usd_by_mint", "USD candles by token (GeckoTerminal)", "mint open_usd high_usd low_usd close_usd volume_usd timestamp"
)
def usd_by_mint(rows: Rows) -> Tables:
    names = ("open_usd", "high_usd", "low_usd", "close_usd")
    more = {"symbol": rows.text("mint"), "venue": "geckoterminal", "volume_quote": rows.number("volume_usd")}
    return {"reference_prices": candle_table(rows, rows.time("timestamp"), names, None, **more)}


@reader("closes", "closing prices with a close_time", "close_time close")
def closes(rows: Rows) -> Tables:
    """close_time of ...:59.999 means known at the next full second."""
    times = rows.time("close_time").dt.offset_by("999999us").dt.truncate("1s")
    length = period(rows, times)
    symbol = rows.options.symbol or symbol_in_name(rows.path) or rows.said("symbol", "symbol")
    frame = rows.table(
        timestamp=times,
        venue=rows.said("venue", "venue", "exchange"),
        symbol=symbol,
        kind="candle",
        interval_s=int(length.total_seconds()),
        price=rows.number("close"),
    )
    return {"reference_prices": frame}
