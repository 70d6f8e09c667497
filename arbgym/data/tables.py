"""The canonical tables: names, kinds, units, meaning and key of every column, and their Arrow schemas.

Every reader ends in these tables and every other part of ArbGym begins with them. A column's unit and meaning travel with the
data, as the field metadata ``unit`` and ``meaning`` of the Arrow schema; the schema metadata says which table it is
(``arbgym.table``) and in which version (``arbgym.version``).

Conventions: a row's ``timestamp`` is when the row is known (a bar or a period: its end), UTC. Chain addresses and hashes
that start with 0x are lower case; Solana's are as they are. A ``pool`` is its address, or its id where pools share one contract
(Uniswap V4). token0 and token1 are the pool's own order, amounts are positive into the pool, and ``price`` is token1 per
token0 in whole tokens. ``raw`` columns are exact integers in the token's smallest unit, as decimal text, because uint256
fits in no number type.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow

VERSION = "1"
KINDS = ("timestamp", "string", "int64", "float64", "bool", "raw")


@dataclass(frozen=True)
class Column:
    """One column. ``required``: no row may lack it. ``default`` fills it where a table comes without it. ``compared``: two
    rows of the same key that differ in it disagree (off where sources are free to differ, such as who is the sender).
    """

    name: str
    kind: str
    unit: str
    meaning: str
    required: bool = True
    default: str | int | None = None
    compared: bool = True


@dataclass(frozen=True)
class Table:
    """One table. ``key``: the columns that identify a row. ``instead``: key columns that may be empty, each with the column that
    stands in for it there (a gas price series has no block numbers: its rows are known by their time).
    """

    name: str
    meaning: str
    columns: tuple[Column, ...]
    key: tuple[str, ...]
    time: str = "timestamp"
    instead: tuple[tuple[str, str], ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(column.name for column in self.columns)

    def column(self, name: str) -> Column:
        """The column of that name; KeyError if the table has none."""
        for column in self.columns:
            if column.name == name:
                return column
        raise KeyError(name)


def _text(name: str, meaning: str, required: bool = False, default: str | None = None, compared: bool = True) -> Column:
    return Column(name, "string", "", meaning, required, default, compared)


def _number(name: str, unit: str, meaning: str, required: bool = False) -> Column:
    return Column(name, "float64", unit, meaning, required)


def _whole(name: str, unit: str, meaning: str, required: bool = False, default: int | None = None) -> Column:
    return Column(name, "int64", unit, meaning, required, default)


def _raw(name: str, meaning: str) -> Column:
    return Column(name, "raw", "smallest token unit", meaning, False)


def _time(required: bool = True) -> Column:
    return Column("timestamp", "timestamp", "UTC, us", "when the row is known; a period's end", required)


SOURCE = _text("source", "where the row came from", compared=False)
_CHAIN = _text("chain", "ethereum, polygon, arbitrum, optimism, base, bsc, solana, ...", required=True)
_POOL = _text("pool", "address of the pool, or its id", required=True)
_PROTOCOL = _text("protocol", "uniswap_v2, uniswap_v3, uniswap_v4, ...", compared=False)
_BLOCK = _whole("block_number", "", "height; on Solana the slot")
_EVENT = (
    _CHAIN,
    _POOL,
    _PROTOCOL,
    _whole("block_number", "", "height; on Solana the slot", required=True),
    _whole("transaction_index", "", "place in the block"),
    _whole("log_index", "", "place of the event in the block", required=True),
    _text("transaction_hash", "tells two versions of a block apart after a reorg"),
)
_STATE = (
    Column("sqrt_price_x96_raw", "raw", "sqrt(token1 / token0) * 2^96, smallest units", "the pool's price, exactly", False),
    Column("liquidity_raw", "raw", "sqrt(token0 * token1), smallest units", "active liquidity", False),
    _whole("tick", "ln(raw price) / ln(1.0001)", "current tick"),
)
_AMOUNTS = (
    _raw("amount0_raw", "token0, signed: positive into the pool"),
    _raw("amount1_raw", "token1, signed: positive into the pool"),
    _number("amount0", "token0", "signed: positive into the pool"),
    _number("amount1", "token1", "signed: positive into the pool"),
)
_RESERVES = (
    _raw("reserve0_raw", "token0 held, after the event"),
    _raw("reserve1_raw", "token1 held, after the event"),
)

_ALL = (
    Table(
        "reference_prices",
        "Prices of an exchange, an oracle or another venue: candles, trades, quotes",
        (
            _time(),
            _text("venue", "binance, bybit, chainlink, ...", required=True),
            _text("symbol", "as the venue writes it", required=True),
            _text("kind", "candle, trade, quote, oracle or price", default="price"),
            _number("price", "quote per base", "candle: close; quote: middle; trade: its price", required=True),
            _number("bid", "quote per base", "best bid"),
            _number("ask", "quote per base", "best ask"),
            _number("bid_size", "base", "depth at the best bid"),
            _number("ask_size", "base", "depth at the best ask"),
            _number("open", "quote per base", "candle"),
            _number("high", "quote per base", "candle"),
            _number("low", "quote per base", "candle"),
            _number("volume_base", "base", "traded in the interval, or by the trade"),
            _number("volume_quote", "quote", "traded in the interval, or by the trade"),
            _whole("taker_side", "", "trade: +1 the taker bought, -1 sold"),
            _whole("interval_s", "s", "length of the candle; 0 where there is none", default=0),
            _whole("sequence", "", "the venue's own number of a trade or quote, or its row; orders rows of one time", default=0),
        ),
        ("venue", "symbol", "kind", "interval_s", "timestamp", "sequence"),
    ),
    Table(
        "swaps",
        "Every trade of a pool, one row per event",
        (
            _time(required=False),
            *_EVENT,
            _text("sender", "who called the pool", compared=False),
            _text("recipient", "who got the output", compared=False),
            *_AMOUNTS,
            *_STATE,
            _number("fee_ppm", "parts per million of the input", "fee that applied"),
            _number("price", "token1 per token0", "the pool's price after the swap; empty where the event does not tell"),
            _number("execution_price", "token1 per token0", "|amount1 / amount0|, fee included"),
        ),
        ("chain", "block_number", "log_index"),
    ),
    Table(
        "liquidity_events",
        "Mint, burn, sync and initialize events",
        (
            _time(required=False),
            *_EVENT,
            _text("event", "mint, burn, sync or initialize", required=True),
            _text("owner", "of the position", compared=False),
            _whole("tick_lower", "", "lower end of the position"),
            _whole("tick_upper", "", "upper end of the position"),
            *_AMOUNTS,
            *_STATE,
            *_RESERVES,
            _number("reserve0", "token0", "held, after the event"),
            _number("reserve1", "token1", "held, after the event"),
            _number("price", "token1 per token0", "sync, initialize: the pool's price after the event"),
            _number("liquidity", "sqrt(token0 * token1)", "sync: of the reserves"),
        ),
        ("chain", "block_number", "log_index"),
    ),
    Table(
        "pool_states",
        "A pool's state at a time, with the net flow of the period that ends there (minutes, snapshots)",
        (
            _time(required=False),
            _CHAIN,
            _POOL,
            _PROTOCOL,
            _BLOCK,
            *_STATE,
            *_RESERVES,
            _number("price", "token1 per token0", "at the end of the period"),
            _number("liquidity", "sqrt(token0 * token1)", "active liquidity at the end of the period"),
            _number("net_amount0", "token0", "flow in the period, positive into the pool"),
            _number("net_amount1", "token1", "flow in the period, positive into the pool"),
            _number("in_amount0", "token0", "inflow alone"),
            _number("in_amount1", "token1", "inflow alone"),
            _number("fee_ppm", "parts per million of the input", "the pool's fee"),
            _whole("interval_s", "s", "length of the period; 0 for a snapshot", default=0),
        ),
        ("chain", "pool", "timestamp"),
        instead=(("timestamp", "block_number"),),
    ),
    Table(
        "blocks",
        "Base fee and gas per block, or a gas price series without block numbers",
        (
            _time(),
            _CHAIN,
            _BLOCK,
            _text("block_hash", "tells two versions of a block apart after a reorg"),
            _number("base_fee_gwei", "gwei", "base fee of the block"),
            _whole("gas_used", "gas", "of the block"),
            _whole("gas_limit", "gas", "of the block"),
            _number("priority_fee_gwei", "gwei", "mean priority fee of the block"),
            _number("gas_price_gwei", "gwei", "what a transaction pays per gas in all"),
            _whole("transactions", "", "in the block"),
        ),
        ("chain", "block_number"),
        instead=(("block_number", "timestamp"),),
    ),
    Table(
        "opportunities",
        "Chances to trade between venues as they were seen, and what became of them",
        (
            _time(),
            _text("symbol", "the pair", required=True),
            _text("chain", "where the pool is", required=True),
            _number("cex_price", "quote per base", "the exchange's middle price"),
            _number("dex_price", "quote per base", "the pool's price"),
            _number("edge_bps", "bps of notional", "price difference net of pool fees"),
            _number("pool_liquidity_quote", "quote", "what the pool holds in range"),
            _number("gas_price_gwei", "gwei", "base fee and tip"),
            _number("estimated_slippage_bps", "bps of notional", "expected at decision; positive costs"),
            _number("actual_slippage_bps", "bps of notional", "realised; positive costs"),
            _number("trade_size_quote", "quote", "notional"),
            _whole("hops", "", "swaps of the trade"),
            Column("executed", "bool", "", "sent and included", False),
            Column("profitable", "bool", "", "net profit above zero", False),
            _number("profit_eth", "ETH", "net of fees and gas"),
            _number("profit_quote", "quote", "net of fees and gas"),
            _text("transaction_hash", "where it was executed"),
            _whole("sequence", "", "number of the row within its source", required=True),
        ),
        ("source", "sequence"),
    ),
    Table(
        "wallet_trades",
        "Trades of wallets: token launches, arbitrage transactions, traced swaps",
        (
            _time(required=False),
            _CHAIN,
            _text("venue", "the program, pool or protocol that traded", required=True),
            _text("pool", "address of the pool"),
            _text("wallet", "who traded"),
            _text("token", "the base token", required=True),
            _text("quote_token", "what it was paid with"),
            _text("side", "buy or sell of the base token", required=True),
            _number("base_amount", "base tokens", "positive"),
            _number("quote_amount", "quote tokens", "positive"),
            _raw("base_amount_raw", "base token"),
            _raw("quote_amount_raw", "quote token"),
            _number("price", "quote per base", "quote_amount / base_amount, or the venue's own"),
            _number("price_after", "quote per base", "the venue's price after the trade"),
            _number("base_reserve", "base tokens", "held by the pool after the trade, virtual ones included"),
            _number("quote_reserve", "quote tokens", "held by the pool after the trade, virtual ones included"),
            _number("quote_usd", "USD", "value of the trade"),
            _number("cost_native", "native tokens", "fees and tips that the transaction paid"),
            _BLOCK,
            _whole("transaction_index", "", "place in the block"),
            _text("transaction_hash", "on Solana the signature"),
            _text("position", "place within the transaction or the capture: log index, trace address, instruction", default=""),
            Column("failed", "bool", "", "the trade was reverted", False),
        ),
        ("chain", "venue", "token", "block_number", "transaction_hash", "position"),
        instead=(("block_number", "timestamp"),),
    ),
    Table(
        "tokens",
        "What turns raw amounts into tokens",
        (
            _CHAIN,
            _text("address", "of the token", required=True),
            _text("symbol", "its name", compared=False),
            _whole("decimals", "", "smallest units are 10^-decimals", required=True),
        ),
        ("chain", "address"),
        time="",
    ),
    Table(
        "pools",
        "Which tokens a pool trades",
        (
            _CHAIN,
            _POOL,
            _PROTOCOL,
            _text("token0", "address", compared=False),
            _text("token1", "address", compared=False),
            _text("symbol0", "name of token0", compared=False),
            _text("symbol1", "name of token1", compared=False),
            _whole("decimals0", "", "of token0", required=True),
            _whole("decimals1", "", "of token1", required=True),
            _number("fee_ppm", "parts per million of the input", "the pool's fee"),
            _whole("tick_spacing", "", "of the pool"),
        ),
        ("chain", "pool"),
        time="",
    ),
    Table(
        "lending_rates",
        "What borrowing a token costs",
        (
            _time(),
            _CHAIN,
            _text("market", "the token that is lent", required=True),
            _number("supply_rate", "fraction a year", "paid to lenders"),
            _number("variable_borrow_rate", "fraction a year", "paid by borrowers"),
            _number("stable_borrow_rate", "fraction a year", "paid by borrowers at a fixed rate"),
            _number("supply_index", "", "growth of one unit lent since the market began"),
            _number("borrow_index", "", "growth of one unit borrowed since the market began"),
        ),
        ("chain", "market", "timestamp"),
    ),
)
TABLES: dict[str, Table] = {
    table.name: Table(table.name, table.meaning, (*table.columns, SOURCE), table.key, table.time, table.instead) for table in _ALL
}


def arrow_schema(table: Table) -> pyarrow.Schema:
    """The Arrow schema of a table, with units and meaning as field metadata."""
    import pyarrow as pa

    types: dict[str, Any] = {
        "timestamp": pa.timestamp("us", "UTC"),
        "string": pa.large_string(),
        "int64": pa.int64(),
        "float64": pa.float64(),
        "bool": pa.bool_(),
        "raw": pa.large_string(),
    }
    fields = [
        pa.field(
            column.name,
            types[column.kind],
            nullable=not column.required,
            metadata={"unit": column.unit, "meaning": column.meaning, "kind": column.kind},
        )
        for column in table.columns
    ]
    return pa.schema(fields, metadata={"arbgym.table": table.name, "arbgym.version": VERSION})
