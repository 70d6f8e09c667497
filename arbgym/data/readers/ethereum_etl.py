"""Raw logs (topics and data) and blocks, as ethereum-etl, cryo and nodes (eth_getLogs) give them.

Topics and words are those of the events' signatures; V4 amounts have their sign turned, as in ``uniswap``.
"""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader
from arbgym.data.readers.chain_rows import block_times, pool_decimals, scaled, sqrt_price_from_reserves, swap_rows, with_removed
from arbgym.data.readers.uniswap import chain_of, event_columns

V2_SWAP = "0xd78ad95fa46c994b6551d0da85fc275fe613ce37657fb8d5e3d130840159d822"
V2_SYNC = "0x1c411e9a96e071241c2f21f7726b17ae89e3cab4c78be50e062b03a9fffbbad1"
V3_SWAP = "0xc42079f94a6350d7e6235f29174924f928cc2ac818eb64fed8004e115fbcca67"
PANCAKE_V3_SWAP = "0x19b47279256b2a23a1665c810c8d55a1758940ee09377d4f8d26497a3577dc83"
V4_SWAP = "0x40e9cecb9f5f1f1c5b9c97dec2917b7ee92e57ba5563708daca94dd84ad7112f"
V3_MINT = "0x7a53080ba414158be7ec69b987b5fb7d07dee101fe85488f0853ae16239d0bde"
V3_BURN = "0x0c396cd989a39f4459b5fa1aed6a9a8dcdbc45908acfd67e028cd568da98982c"
_PROTOCOL = {
    V2_SWAP: "uniswap_v2", V2_SYNC: "uniswap_v2", V3_SWAP: "uniswap_v3", PANCAKE_V3_SWAP: "pancakeswap_v3", V4_SWAP: "uniswap_v4",
    V3_MINT: "uniswap_v3", V3_BURN: "uniswap_v3",
}  # fmt: skip


def _words(data: pl.Series) -> list[list[int]]:
    """The 32-byte words of each log's data, as unsigned integers."""
    decoded = []
    for text in data:
        digits = (text or "0x").removeprefix("0x")
        decoded.append([int(digits[k : k + 64], 16) for k in range(0, len(digits) - len(digits) % 64, 64)])
    return decoded


def _signed(word: int) -> int:
    return word - (1 << 256) if word >> 255 else word


def _address(topic: str | None) -> str | None:
    return None if not topic else "0x" + topic[-40:]


@reader("raw_logs_etl", "raw logs as ethereum-etl writes them", "log_index transaction_hash address data topics block_number")
def logs_etl(rows: Rows) -> Tables:
    joined = rows.frame["topics"]
    if isinstance(joined.dtype, pl.List):
        topics = joined.list.eval(pl.element().str.to_lowercase())
    else:
        topics = joined.str.to_lowercase().str.extract_all("0x[0-9a-f]{64}")
    return _logs(rows, topics)


@reader("raw_logs_cryo", "raw logs as cryo writes them", "log_index transaction_hash address data topic0 topic1 block_number")
def logs_cryo(rows: Rows) -> Tables:
    names = [rows.text(f"topic{k}") for k in range(4)]
    return _logs(
        rows, pl.DataFrame({f"t{k}": column for k, column in enumerate(names)}).select(pl.concat_list(pl.all())).to_series()
    )


def _logs(rows: Rows, topics: pl.Series) -> Tables:
    frame = rows.frame.with_columns(topics.alias("_topics"), pl.int_range(pl.len()).alias("_place"))
    first = topics.list.get(0, null_on_oob=True)
    found: Tables = {}
    for kind, decode in (("swaps", _swaps), ("liquidity_events", _events)):
        wanted = [V2_SWAP, V3_SWAP, PANCAKE_V3_SWAP, V4_SWAP] if kind == "swaps" else [V2_SYNC, V3_MINT, V3_BURN]
        chosen = frame.filter(first.is_in(wanted))
        if len(chosen):
            part = Rows(chosen.drop("_topics", "_place"), rows.options, rows.path, 0, rows.lookup, rows.memory)
            table = decode(part, chosen["_topics"], _words(part.text("data")))
            found[kind] = table.with_columns((chosen["_place"].cast(pl.Int64) + rows.first_row).alias("_row"))
    return found


def _swaps(rows: Rows, topics: pl.Series, words: list[list[int]]) -> pl.DataFrame:
    held: list[list[Any]] = [[] for _ in range(8)]
    amount0, amount1, sqrt, liquidity, tick, fee, pools, recipients = held
    for topic, word, address in zip(topics.to_list(), words, rows.text("address"), strict=True):
        v2, v4 = topic[0] == V2_SWAP, topic[0] == V4_SWAP
        sign = -1 if v4 else 1
        amount0.append(str(word[0] - word[2] if v2 else sign * _signed(word[0])))
        amount1.append(str(word[1] - word[3] if v2 else sign * _signed(word[1])))
        sqrt.append(None if v2 else str(word[2]))
        liquidity.append(None if v2 else str(word[3]))
        tick.append(None if v2 else _signed(word[4]))
        fee.append(float(word[5]) if v4 else rows.options.fee_ppm)
        pools.append(topic[1] if v4 else address)
        recipients.append(None if v4 else _address(topic[2] if len(topic) > 2 else None))
    first = topics.list.get(0)
    return swap_rows(
        rows,
        chain=chain_of(rows),
        pool=pl.Series("pool", pools, pl.String),
        protocol=rows.options.protocol or first.replace_strict(_PROTOCOL),
        amount0_raw=pl.Series("amount0_raw", amount0, pl.String),
        amount1_raw=pl.Series("amount1_raw", amount1, pl.String),
        sqrt_price_x96_raw=pl.Series("sqrt_price_x96_raw", sqrt, pl.String),
        liquidity_raw=pl.Series("liquidity_raw", liquidity, pl.String),
        tick=pl.Series("tick", tick, pl.Int64),
        fee_ppm=pl.Series("fee_ppm", fee, pl.Float64),
        sender=pl.Series("sender", [_address(_at(topic, topic[0] == V4_SWAP)) for topic in topics.to_list()], pl.String),
        recipient=pl.Series("recipient", recipients, pl.String),
        **event_columns(rows),
    )


def _at(topic: list[str], v4: bool) -> str | None:
    place = 2 if v4 else 1
    return topic[place] if len(topic) > place else None


def _events(rows: Rows, topics: pl.Series, words: list[list[int]]) -> pl.DataFrame:
    chain, pool = chain_of(rows), rows.text("address")
    decimals0, decimals1 = pool_decimals(rows, chain, pool)
    held: dict[str, list[Any]] = {name: [] for name in ("event", "low", "high", "owner", "liquidity", "a0", "a1", "r0", "r1")}
    for topic, word in zip(topics.to_list(), words, strict=True):
        if topic[0] == V2_SYNC:
            values: tuple[Any, ...] = ("sync", None, None, None, None, None, None, str(word[0]), str(word[1]))
        else:
            mint = topic[0] == V3_MINT
            added, amount0, amount1 = word[-3:]
            sign = 1 if mint else -1
            ends = (_signed(int(topic[2], 16)), _signed(int(topic[3], 16)))
            values = ("mint" if mint else "burn", *ends, _address(topic[1]), str(added), str(sign * amount0))
            values = (*values, str(sign * amount1), None, None)
        for name, value in zip(held, values, strict=True):
            held[name].append(value)
    raw = {name: pl.Series(name, held[name], pl.String) for name in ("a0", "a1", "r0", "r1", "liquidity")}
    reserve0, reserve1 = scaled(raw["r0"], decimals0), scaled(raw["r1"], decimals1)
    price, liquidity = sqrt_price_from_reserves(reserve0, reserve1)
    place = event_columns(rows)
    if place["timestamp"].null_count() == len(rows.frame):
        place["timestamp"] = block_times(rows, chain, place["block_number"])
    table = rows.table(
        chain=chain, pool=pool, protocol=rows.options.protocol or topics.list.get(0).replace_strict(_PROTOCOL),
        event=pl.Series("event", held["event"]), owner=pl.Series("owner", held["owner"], pl.String),
        tick_lower=pl.Series("tick_lower", held["low"], pl.Int64), tick_upper=pl.Series("tick_upper", held["high"], pl.Int64),
        liquidity_raw=raw["liquidity"], amount0_raw=raw["a0"], amount1_raw=raw["a1"], amount0=scaled(raw["a0"], decimals0),
        amount1=scaled(raw["a1"], decimals1), reserve0_raw=raw["r0"], reserve1_raw=raw["r1"], reserve0=reserve0,
        reserve1=reserve1, price=price, liquidity=liquidity, **place,
    )  # fmt: skip
    return with_removed(rows, table)


@reader("blocks_etl", "blocks as ethereum-etl writes them", "number timestamp base_fee_per_gas gas_used gas_limit")
def blocks_etl(rows: Rows) -> Tables:
    return _blocks(rows, "number")


@reader("blocks_cryo", "blocks as cryo writes them", "block_number timestamp base_fee_per_gas gas_used")
def blocks_cryo(rows: Rows) -> Tables:
    return _blocks(rows, "block_number")


@reader("blocks", "blocks with base fee in wei", "block_number block_time base_fee_wei gas_used gas_limit")
def blocks_wei(rows: Rows) -> Tables:
    return _blocks(rows, "block_number")


def _blocks(rows: Rows, number: str) -> Tables:
    frame = rows.table(
        timestamp=rows.time("timestamp", "block_time"),
        chain=chain_of(rows),
        block_number=rows.whole(number),
        block_hash=rows.text("block_hash", "hash"),
        base_fee_gwei=rows.number("base_fee_per_gas", "base_fee_wei") / 1e9,
        gas_used=rows.whole("gas_used"),
        gas_limit=rows.whole("gas_limit"),
        priority_fee_gwei=rows.number("avg_priority_fee_wei") / 1e9,
        transactions=rows.whole("transaction_count", "tx_count"),
    )
    return {"blocks": with_removed(rows, frame)}


@reader("gas_price", "a gas price series in gwei", "timestamp gas_price_gwei")
def gas_price(rows: Rows) -> Tables:
    from arbgym.data.readers.candles import period

    times = rows.time("timestamp")
    seconds = period(rows, times)
    return {"blocks": rows.table(timestamp=times + seconds, chain=chain_of(rows), gas_price_gwei=rows.number("gas_price_gwei"))}
