"""Uniswap pool events with decoded columns: cryo (event__...), and plain columns named as in the contracts.

V4 writes amounts from the swapper's side, so their sign is turned: positive is always into the pool here.
"""

from __future__ import annotations

from typing import Any

from arbgym.data.columns import moment
from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.chain_rows import (
    block_times,
    human_liquidity,
    negated,
    pool_decimals,
    price_of_sqrt,
    scaled,
    sqrt_price_from_reserves,
    swap_rows,
    v2_amounts,
    with_removed,
)
from arbgym.market.tape import TapeError

_POOL = ("address", "contract_address", "pool", "pool_address")
_TIME = ("timestamp", "block_timestamp", "block_time", "evt_block_time")
_CHAIN_IDS = {
    "1": "ethereum", "10": "optimism", "56": "bsc", "137": "polygon", "8453": "base", "42161": "arbitrum", "43114": "avalanche",
    "100": "gnosis", "324": "zksync", "31337": "anvil",
}  # fmt: skip


def chain_of(rows: Rows) -> str:
    """The chain: the option, else the one value of the column chain, blockchain, network or chain_id."""
    if rows.options.chain is not None:
        return rows.options.chain
    for name in ("chain", "blockchain", "network", "chain_id"):
        if rows.has(name):
            found = rows.text(name).drop_nulls().unique().to_list()
            if len(found) != 1:
                raise TapeError(f"{len(found)} chains ({found[:3]}); accepted is one per table", name, path=rows.path)
            return str(_CHAIN_IDS.get(found[0], found[0]))
    chain: str = rows.said("chain")
    return chain


def event_columns(rows: Rows) -> dict[str, Any]:
    """The columns that place an event: block, transaction, log."""
    return {
        "timestamp": rows.time(*_TIME),
        "block_number": rows.whole("block_number", "evt_block_number", "blockNumber"),
        "transaction_index": rows.whole("transaction_index", "tx_index", "evt_tx_index", "transactionIndex"),
        "log_index": rows.whole("log_index", "evt_index", "logIndex"),
        "transaction_hash": rows.text("transaction_hash", "tx_hash", "evt_tx_hash", "transactionHash"),
    }


def _pool(rows: Rows) -> Any:
    return rows.said("pool", *_POOL)


def _cryo(rows: Rows, field: str, kinds: str = "string binary f64") -> str:
    """The most exact of the columns that cryo writes for one event field."""
    names = [f"event__{field}_{kind}" for kind in kinds.split()] + [f"event__{field}"]
    for name in names:
        if rows.has(name):
            return name
    raise TapeError(f"missing; accepted is one of {', '.join(names)}", names[0], path=rows.path)


def _v3(rows: Rows, amount0: str, amount1: str, sqrt: str, liquidity: str, tick: str, prefix: str = "") -> Tables:
    frame = swap_rows(
        rows,
        chain=chain_of(rows),
        pool=_pool(rows),
        protocol=rows.options.protocol or "uniswap_v3",
        amount0_raw=rows.raw(amount0),
        amount1_raw=rows.raw(amount1),
        sqrt_price_x96_raw=rows.raw(sqrt),
        liquidity_raw=rows.raw(liquidity),
        tick=rows.whole(tick),
        sender=rows.text(f"{prefix}sender"),
        recipient=rows.text(f"{prefix}recipient"),
        fee_ppm=rows.options.fee_ppm,
        **event_columns(rows),
    )
    return {"swaps": frame}


@reader(
    "uniswap_v3",
    "Uniswap V3 Swap logs, decoded (Dune and others)",
    "amount0 amount1 sqrtPriceX96 liquidity tick",
)
def v3_swaps(rows: Rows) -> Tables:
    return _v3(rows, "amount0", "amount1", "sqrtPriceX96", "liquidity", "tick")


@reader(
    "uniswap_v3_snake",
    "Uniswap V3 Swap logs, decoded, in snake case",
    "block_number log_index amount0 amount1 sqrt_price_x96 liquidity tick",
)
def v3_swaps_snake(rows: Rows) -> Tables:
    return _v3(rows, "amount0", "amount1", "sqrt_price_x96", "liquidity", "tick")


@reader(
    "uniswap_v3_dune", "Uniswap V3 Swap events as Dune decodes them", "evt_tx_hash evt_index amount0 amount1 sqrtPriceX96 tick"
)
def v3_swaps_dune(rows: Rows) -> Tables:
    return _v3(rows, "amount0", "amount1", "sqrtPriceX96", "liquidity", "tick")


@reader("uniswap_v3_cryo", "Uniswap V3 Swap logs as cryo writes them", "block_number log_index event__tick")
def v3_swaps_cryo(rows: Rows) -> Tables:
    amount0, amount1, sqrt, liquidity = (_cryo(rows, field) for field in ("amount0", "amount1", "sqrtPriceX96", "liquidity"))
    return _v3(rows, amount0, amount1, sqrt, liquidity, "event__tick", prefix="event__")


@reader("uniswap_v4_cryo", "Uniswap V4 Swap logs as cryo writes them", "block_number log_index event__id event__tick event__fee")
def v4_swaps_cryo(rows: Rows) -> Tables:
    amount0, amount1, sqrt, liquidity = (_cryo(rows, field) for field in ("amount0", "amount1", "sqrtPriceX96", "liquidity"))
    return _v4(rows, "event__id", amount0, amount1, sqrt, liquidity, "event__tick", "event__fee", "event__sender")


@reader("uniswap_v4", "Uniswap V4 Swap logs, decoded", "id amount0 amount1 sqrtPriceX96 liquidity tick fee")
def v4_swaps(rows: Rows) -> Tables:
    return _v4(rows, "id", "amount0", "amount1", "sqrtPriceX96", "liquidity", "tick", "fee", "sender")


def _v4(rows: Rows, pool: str, amount0: str, amount1: str, sqrt: str, liquidity: str, tick: str, fee: str, sender: str) -> Tables:
    frame = swap_rows(
        rows,
        chain=chain_of(rows),
        pool=rows.text(pool),
        protocol=rows.options.protocol or "uniswap_v4",
        amount0_raw=negated(rows.raw(amount0)),
        amount1_raw=negated(rows.raw(amount1)),
        sqrt_price_x96_raw=rows.raw(sqrt),
        liquidity_raw=rows.raw(liquidity),
        tick=rows.whole(tick),
        sender=rows.text(sender),
        fee_ppm=rows.number(fee),
        **event_columns(rows),
    )
    return {"swaps": frame}


def _v2(rows: Rows, names: list[str], sender: str, recipient: str) -> Tables:
    amount0, amount1 = v2_amounts(rows, *names)
    frame = swap_rows(
        rows,
        chain=chain_of(rows),
        pool=_pool(rows),
        protocol=rows.options.protocol or "uniswap_v2",
        amount0_raw=amount0,
        amount1_raw=amount1,
        sender=rows.text(sender),
        recipient=rows.text(recipient),
        fee_ppm=rows.options.fee_ppm,
        **event_columns(rows),
    )
    return {"swaps": frame}


@reader("uniswap_v2", "Uniswap V2 Swap logs, decoded", "amount0In amount1In amount0Out amount1Out")
def v2_swaps(rows: Rows) -> Tables:
    return _v2(rows, ["amount0In", "amount1In", "amount0Out", "amount1Out"], "sender", "to")


@reader("uniswap_v2_cryo", "Uniswap V2 Swap logs as cryo writes them", "event__amount0In_string event__amount0Out_string")
def v2_swaps_cryo(rows: Rows) -> Tables:
    names = [_cryo(rows, field) for field in ("amount0In", "amount1In", "amount0Out", "amount1Out")]
    return _v2(rows, names, "event__sender", "event__to")


def _sync(rows: Rows, reserve0: str, reserve1: str) -> Tables:
    chain, pool = chain_of(rows), _pool(rows)
    decimals0, decimals1 = pool_decimals(rows, chain, pool)
    raw0, raw1 = rows.raw(reserve0), rows.raw(reserve1)
    held0, held1 = scaled(raw0, decimals0), scaled(raw1, decimals1)
    price, liquidity = sqrt_price_from_reserves(held0, held1)
    place = event_columns(rows)
    if place["timestamp"].null_count() == len(rows.frame):
        place["timestamp"] = block_times(rows, chain, place["block_number"])
    frame = rows.table(
        chain=chain, pool=pool, protocol=rows.options.protocol or "uniswap_v2", event="sync", reserve0_raw=raw0,
        reserve1_raw=raw1, reserve0=held0, reserve1=held1, price=price, liquidity=liquidity, **place,
    )  # fmt: skip
    return {"liquidity_events": with_removed(rows, frame)}


@reader("uniswap_v2_sync", "Uniswap V2 Sync logs, decoded", "reserve0 reserve1 log_index")
def syncs(rows: Rows) -> Tables:
    return _sync(rows, "reserve0", "reserve1")


@reader("uniswap_v2_sync_cryo", "Uniswap V2 Sync logs as cryo writes them", "event__reserve0_string event__reserve1_string")
def syncs_cryo(rows: Rows) -> Tables:
    return _sync(rows, "event__reserve0_string", "event__reserve1_string")


@reader(
    "uniswap_v2_sync_recorded",
    "Uniswap V2 Sync logs with reserves in raw units and decimals in each row",
    "block_number log_index pool reserve0_raw reserve1_raw decimals0 decimals1",
)
def syncs_recorded(rows: Rows) -> Tables:
    decimals0, decimals1 = rows.whole("decimals0"), rows.whole("decimals1")
    chain, pool = chain_of(rows), rows.text("pool")
    raw0, raw1 = rows.raw("reserve0_raw"), rows.raw("reserve1_raw")
    held0, held1 = scaled(raw0, decimals0), scaled(raw1, decimals1)
    price, liquidity = sqrt_price_from_reserves(held0, held1)
    events = rows.table(
        chain=chain, pool=pool, protocol=rows.options.protocol or "uniswap_v2", event="sync", reserve0_raw=raw0,
        reserve1_raw=raw1, reserve0=held0, reserve1=held1, price=price, liquidity=liquidity, **event_columns(rows),
    )  # fmt: skip
    pools = rows.table(
        chain=chain, pool=pool, protocol="uniswap_v2", symbol0=rows.text("symbol0"), symbol1=rows.text("symbol1"),
        decimals0=decimals0, decimals1=decimals1,
    )  # fmt: skip
    return {"pools": pools.unique("pool", keep="first", maintain_order=True), "liquidity_events": events}


@reader(
    "uniswap_v3_positions",
    "Uniswap V3 Mint and Burn events",
    "event tick_lower tick_upper liquidity_raw amount0_raw amount1_raw block_number log_index",
)
def positions(rows: Rows) -> Tables:
    chain, pool = chain_of(rows), _pool(rows)
    decimals0, decimals1 = pool_decimals(rows, chain, pool)
    raw0, raw1 = rows.raw("amount0_raw"), rows.raw("amount1_raw")
    event = rows.text("event").str.to_lowercase()
    sign = pl.Series([1.0]).new_from_index(0, len(event)).set(event == "burn", -1.0)
    frame = rows.table(
        chain=chain,
        pool=pool,
        protocol=rows.options.protocol or "uniswap_v3",
        event=event,
        tick_lower=rows.whole("tick_lower"),
        tick_upper=rows.whole("tick_upper"),
        liquidity_raw=rows.raw("liquidity_raw"),
        amount0_raw=raw0.zip_with(event != "burn", negated(raw0)),
        amount1_raw=raw1.zip_with(event != "burn", negated(raw1)),
        amount0=scaled(raw0, decimals0) * sign,
        amount1=scaled(raw1, decimals1) * sign,
        **event_columns(rows),
    )
    return {"liquidity_events": with_removed(rows, frame)}


@reader(
    "pool_list",
    "Pools with their state: fastlane and others, snake case",
    "pool token0 token1 decimals0 decimals1 fee_pips sqrt_price_x96 liquidity_raw tick reserve0_raw reserve1_raw",
)
def pool_list(rows: Rows) -> Tables:
    if rows.options.chain is None and rows.has("chain"):
        chain: Any = rows.text("chain")
    else:
        chain = chain_of(rows)
    decimals0, decimals1 = rows.whole("decimals0"), rows.whole("decimals1")
    known = decimals0.is_not_null() & decimals1.is_not_null()
    return _pool_tables(rows, chain, rows.text("venue", "version"), "", known, decimals0, decimals1)


@reader(
    "fastlane_pools",
    "Pools with their state as fastlane-bot lists them",
    "exchange_name address tkn0_address tkn1_address tkn0_decimals tkn1_decimals fee liquidity sqrt_price_q96 tick tkn0_balance",
)
def fastlane_pools(rows: Rows) -> Tables:
    decimals0, decimals1 = rows.whole("tkn0_decimals"), rows.whole("tkn1_decimals")
    known = decimals0.is_not_null() & decimals1.is_not_null()
    return _pool_tables(rows, chain_of(rows), rows.text("exchange_name"), "fastlane", known, decimals0, decimals1)


def _pool_tables(
    rows: Rows, chain: Any, protocol: pl.Series, style: str, known: pl.Series, decimals0: pl.Series, decimals1: pl.Series
) -> Tables:
    """Pools and their states. A pool whose decimals are unknown is refused, or left out where the options say so."""
    if not known.all() and not rows.options.skip_unknown:
        row = int((~known).arg_true()[0])
        token = rows.text("token0", "tkn0_address") if decimals0[row] is None else rows.text("token1", "tkn1_address")
        raise TapeError(
            f"the decimals of token {token[row]} are missing; accepted are decimals for every token, or --skip-unknown to leave "
            "such pools out",
            "decimals0" if decimals0[row] is None else "decimals1",
            rows.first_row + row,
            rows.path,
        )
    fastlane = style == "fastlane"
    pool = rows.text("address" if fastlane else "pool")
    raw0 = rows.raw("tkn0_balance" if fastlane else "reserve0_raw")
    raw1 = rows.raw("tkn1_balance" if fastlane else "reserve1_raw")
    sqrt = rows.raw("sqrt_price_q96" if fastlane else "sqrt_price_x96")
    sqrt = sqrt.set((sqrt == "0").fill_null(False), None)
    liquidity_raw = rows.raw("liquidity" if fastlane else "liquidity_raw")
    v3 = sqrt.is_not_null()
    held0, held1 = scaled(raw0, decimals0), scaled(raw1, decimals1)
    price = price_of_sqrt(sqrt, decimals0, decimals1).zip_with(v3, held1 / held0)
    price = price.set(~(price.is_finite() & (price > 0)).fill_null(False), None)
    liquidity = human_liquidity(liquidity_raw, decimals0, decimals1).zip_with(v3, (held0 * held1).sqrt())
    fee = rows.number("fee_pips") if not fastlane else _fastlane_fee(rows)
    pools = rows.table(
        chain=chain, pool=pool, protocol=protocol, token0=rows.text("token0", "tkn0_address"),
        token1=rows.text("token1", "tkn1_address"), symbol0=rows.text("symbol0", "tkn0_symbol"),
        symbol1=rows.text("symbol1", "tkn1_symbol"), decimals0=decimals0, decimals1=decimals1, fee_ppm=fee,
        tick_spacing=rows.whole("tick_spacing"),
    )  # fmt: skip
    stated = known & price.is_not_null()
    times = rows.time("timestamp")
    if rows.options.time is not None:
        times = times.fill_null(moment("time", rows.options.time))
    states = rows.table(
        timestamp=times, chain=chain, pool=pool, protocol=protocol,
        block_number=rows.whole("last_updated_block", "block_number"), sqrt_price_x96_raw=sqrt, liquidity_raw=liquidity_raw,
        tick=rows.whole("tick"), reserve0_raw=raw0.set(v3, None), reserve1_raw=raw1.set(v3, None), price=price,
        liquidity=liquidity, fee_ppm=fee,
    ).filter(stated)  # fmt: skip
    found = {"pools": pools.filter(known)}
    if len(states) and not (states["timestamp"].null_count() and states["block_number"].null_count()):
        found["pool_states"] = states
    return found


def _fastlane_fee(rows: Rows) -> pl.Series:
    """Parts per million, from fractions (0.003) or parts per million (3000)."""
    fee = rows.number("fee")
    return fee.zip_with(fee >= 1, fee * 1e6)
