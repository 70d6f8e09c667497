"""Minute tables of V3 pools: demeter's own files (raw integers, camel case) and tables in whole tokens; Aave's rates.

Minutes are stamped by their start and known at their end, one minute later.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.candles import period
from arbgym.data.readers.chain_rows import human_liquidity, pool_decimals, price_of_tick, scaled
from arbgym.data.readers.uniswap import chain_of


def _named(path: str) -> tuple[str | None, str | None]:
    """Chain and pool in demeter's file names: <chain>-<pool>-<date>.minute.csv."""
    found = re.match(r"([a-z]+)-(0x[0-9a-fA-F]{40,64})-", Path(path).name)
    return (found[1], found[2].lower()) if found else (None, None)


@reader("demeter", "demeter minutes", "timestamp netAmount0 netAmount1 closeTick currentLiquidity")
def minutes(rows: Rows) -> Tables:
    chain, pool = _named(rows.path)
    chain = rows.options.chain or chain or chain_of(rows)
    pool = rows.options.pool or pool or rows.said("pool", "pool")
    decimals = pool_decimals(rows, chain, pool)
    raw = {name: rows.raw(name) for name in ("netAmount0", "netAmount1", "inAmount0", "inAmount1")}
    amounts = {
        "net_amount0": scaled(raw["netAmount0"], decimals[0]),
        "net_amount1": scaled(raw["netAmount1"], decimals[1]),
        "in_amount0": scaled(raw["inAmount0"], decimals[0]),
        "in_amount1": scaled(raw["inAmount1"], decimals[1]),
    }
    liquidity_raw = rows.raw("currentLiquidity")
    return {"pool_states": _states(rows, chain, pool, decimals, rows.whole("closeTick"), liquidity_raw, amounts)}


@reader("pool_minutes", "minutes of a V3 pool in whole tokens", "timestamp net_amount0 net_amount1 close_tick liquidity")
def minutes_in_tokens(rows: Rows) -> Tables:
    """Liquidity in raw units, as the tick says nothing about decimals they come from the option or the store."""
    chain, pool = chain_of(rows), rows.said("pool", "pool")
    decimals = pool_decimals(rows, chain, pool)
    names = ("net_amount0", "net_amount1", "in_amount0", "in_amount1")
    amounts = {name: rows.number(name) for name in names if rows.has(name)}
    liquidity = rows.number("liquidity")
    liquidity_raw = liquidity.round().cast(pl.Int128).cast(pl.String)
    return {"pool_states": _states(rows, chain, pool, decimals, rows.whole("close_tick"), liquidity_raw, amounts)}


def _states(
    rows: Rows,
    chain: str,
    pool: Any,
    decimals: tuple[Any, Any],
    tick: pl.Series,
    liquidity_raw: pl.Series,
    amounts: dict[str, pl.Series],
) -> pl.DataFrame:
    start = rows.time("timestamp")
    length = period(rows, start)
    frame = rows.table(
        timestamp=start + length,
        chain=chain,
        pool=pool,
        protocol=rows.options.protocol or "uniswap_v3",
        tick=tick,
        liquidity_raw=liquidity_raw,
        price=price_of_tick(tick, *decimals),
        liquidity=human_liquidity(liquidity_raw, *decimals),
        fee_ppm=rows.options.fee_ppm,
        interval_s=int(length.total_seconds()),
        **amounts,
    )
    return frame.filter(tick.is_not_null())  # before a pool's first trade demeter writes empty minutes


@reader("aave_minutes", "Aave rates", "liquidity_rate variable_borrow_rate liquidity_index")
def aave(rows: Rows) -> Tables:
    """demeter writes rates and indices as they stand in the contract (1e27) or as fractions."""
    rate = rows.number("liquidity_rate")
    ray = 1e27 if len(rate) and float(str(rows.number("liquidity_index").max())) > 1e20 else 1.0
    market = rows.options.market or rows.options.token or rows.said("market", "market", "token", "symbol")
    frame = rows.table(
        timestamp=rows.time("timestamp", "block_timestamp"),
        chain=chain_of(rows),
        market=market,
        supply_rate=rate / ray,
        variable_borrow_rate=rows.number("variable_borrow_rate") / ray,
        stable_borrow_rate=rows.number("stable_borrow_rate") / ray,
        supply_index=rows.number("liquidity_index") / ray,
        borrow_index=rows.number("variable_borrow_index") / ray,
    )
    return {"lending_rates": frame}


@reader("aave_hourly", "Aave rates in per cent", "timestamp block_number supply_apr_pct borrow_apr_pct")
def aave_hourly(rows: Rows) -> Tables:
    market = rows.options.market or rows.options.token or rows.said("market", "market", "token", "symbol")
    frame = rows.table(
        timestamp=rows.time("timestamp"), chain=chain_of(rows), market=market, supply_rate=rows.number("supply_apr_pct") / 100.0,
        variable_borrow_rate=rows.number("borrow_apr_pct") / 100.0,
    )  # fmt: skip
    return {"lending_rates": frame}
