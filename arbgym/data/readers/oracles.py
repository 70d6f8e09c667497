"""Prices of oracles and price services: Chainlink reads, Squeeth's controller, hourly token prices."""

from __future__ import annotations

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.candles import period


@reader("chainlink_usdc_usd", "reads of Chainlink's USDC/USD feed", "timestamp chainlink_usdc_usd")
def chainlink(rows: Rows) -> Tables:
    """Events: known when they happen."""
    frame = rows.table(
        timestamp=rows.time("timestamp"), venue=rows.options.venue or "chainlink", symbol=rows.options.symbol or "USDC/USD",
        kind="oracle", price=rows.number("chainlink_usdc_usd"),
    )  # fmt: skip
    return {"reference_prices": frame}


@reader("squeeth_oracle", "prices that the Squeeth controller reads, by minute", "timestamp weth_usd osqth_weth norm_factor")
def squeeth(rows: Rows) -> Tables:
    start = rows.time("timestamp")
    times = start + period(rows, start)
    series = [
        rows.table(timestamp=times, venue=rows.options.venue or "squeeth", symbol=symbol, kind="oracle", price=rows.number(name))
        for symbol, name in (("WETH/USD", "weth_usd"), ("OSQTH/WETH", "osqth_weth"))
    ]
    return {"reference_prices": pl.concat(series)}


@reader("token_prices", "token prices in USD by chain and token", "chain token price_usd timestamp")
def token_prices(rows: Rows) -> Tables:
    """An hour's mean: known at its end."""
    start, symbol = rows.time("timestamp"), rows.text("chain") + ":" + rows.text("token")
    frame = rows.table(
        timestamp=start + period(rows, start, symbol), venue=rows.options.venue or "token_prices", symbol=symbol, kind="oracle",
        price=rows.number("price_usd"),
    )  # fmt: skip
    return {"reference_prices": frame}
