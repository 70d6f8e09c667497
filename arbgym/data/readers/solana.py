"""Token launches on Solana: trades of PumpPortal, the Kaggle set, Launch Tape and PumpSwap tables; states of curves."""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import Rows, Tables, reader

_SOL = "So11111111111111111111111111111111111111112"


def trade_rows(rows: Rows, base: pl.Series, quote: pl.Series, side: pl.Series, **columns: Any) -> pl.DataFrame:
    """Trades of wallets from positive amounts of base and quote and the side; price from the amounts unless it is given."""
    side = side.str.to_lowercase()
    if "price" not in columns:
        price = quote / base
        columns["price"] = price.set(~(price.is_finite() & (price > 0)).fill_null(False), None)
    return rows.table(side=side, base_amount=base, quote_amount=quote, **columns)


def _chain(rows: Rows) -> str:
    return rows.options.chain or "solana"


@reader(
    "pumpportal",
    "PumpPortal trades",
    "mint traderPublicKey txType tokenAmount solAmount vSolInBondingCurve vTokensInBondingCurve",
)
def pumpportal(rows: Rows) -> Tables:
    """PumpPortal gives no time: the recorder's, where it wrote one. A ``create`` with a first buy is a buy."""
    kind = rows.text("txType").replace({"create": "buy"})
    sol, tokens = rows.number("vSolInBondingCurve"), rows.number("vTokensInBondingCurve")
    frame = trade_rows(
        rows, rows.number("tokenAmount", "initialBuy"), rows.number("solAmount"), kind,
        timestamp=rows.time("timestamp", "recv_time", "received", "local_timestamp", "time"), chain=_chain(rows),
        venue="pump.fun", wallet=rows.text("traderPublicKey"), token=rows.text("mint"), quote_token=_SOL,
        price_after=sol / tokens, quote_reserve=sol, base_reserve=tokens, pool=rows.text("bondingCurveKey"),
        block_number=rows.whole("slot"),
        transaction_hash=rows.text("signature"), position="",
    )  # fmt: skip
    return {"wallet_trades": frame.filter(kind.is_in(["buy", "sell"]))}


@reader(
    "pumpfun_kaggle",
    "pump.fun trades of the Kaggle set",
    "block_time slot tx_idx signing_wallet direction base_coin base_coin_amount quote_coin_amount signature",
)
def kaggle(rows: Rows) -> Tables:
    """Amounts are in smallest units: 6 decimals of the token, 9 of SOL."""
    base, quote = rows.raw("base_coin_amount"), rows.raw("quote_coin_amount")
    tokens, sol = rows.number("virtual_token_balance_after") / 1e6, rows.number("virtual_sol_balance_after") / 1e9
    frame = trade_rows(
        rows, base.cast(pl.Float64) / 1e6, quote.cast(pl.Float64) / 1e9, rows.text("direction"),
        timestamp=rows.time("block_time"), chain=_chain(rows), venue="pump.fun", wallet=rows.text("signing_wallet"),
        token=rows.text("base_coin"), quote_token=_SOL,
        base_amount_raw=base, quote_amount_raw=quote, price_after=_positive(sol / tokens), base_reserve=tokens,
        quote_reserve=sol, cost_native=rows.number("provided_gas_fee") / 1e9, block_number=rows.whole("slot"),
        transaction_index=rows.whole("tx_idx"), transaction_hash=rows.text("signature"), position=rows.text("tx_idx"),
    )  # fmt: skip
    return {"wallet_trades": frame}


@reader(
    "launch_tape",
    "Launch Tape gradtrades",
    "t slot sig mint side user baseAmount quoteAmount price poolBase poolQuote priceAfter",
)
def launch_tape(rows: Rows) -> Tables:
    frame = trade_rows(
        rows, rows.number("baseAmount"), rows.number("quoteAmount"), rows.text("side"), timestamp=rows.time("t"),
        chain=_chain(rows), venue="pumpswap", wallet=rows.text("user"), token=rows.text("mint"), quote_token=_SOL,
        price=rows.number("price"), price_after=rows.number("priceAfter"), base_reserve=rows.number("poolBase"),
        quote_reserve=rows.number("poolQuote"), block_number=rows.whole("slot"), transaction_hash=rows.text("sig"),
        position=_counted(rows, "sig"),
    )  # fmt: skip
    return {"wallet_trades": frame}


@reader("pumpswap_trades", "PumpSwap trades of a launch", "mint seq side sol_amount token_amount price_sol trader block_time")
def pumpswap(rows: Rows) -> Tables:
    """``seq`` is the trade's place: signatures are there for the first seconds only."""
    base, quote = rows.number("token_amount"), rows.number("sol_amount")
    frame = trade_rows(
        rows, base, quote, rows.text("side"), timestamp=rows.time("block_time"), chain=_chain(rows),
        venue=rows.text("venue").str.to_lowercase() if rows.has("venue") else "pumpswap", wallet=rows.text("trader"),
        token=rows.text("mint"), quote_token=_SOL, price=_positive(rows.number("price_sol")),
        transaction_hash=rows.text("signature"), position=rows.text("seq"),
    )  # fmt: skip
    return {"wallet_trades": frame}


@reader("pumpfun_curve", "states of pump.fun bonding curves", "timestamp mint virtual_sol_reserve price_sol sol_flow")
def curve(rows: Rows) -> Tables:
    """token0 is the launched token, token1 SOL; the curve keeps x * y, so its liquidity is v / sqrt(price)."""
    sol, price = rows.number("virtual_sol_reserve"), rows.number("price_sol")
    frame = rows.table(
        timestamp=rows.time("timestamp"), chain=_chain(rows), pool=rows.text("mint"), protocol="pump.fun", price=price,
        liquidity=sol / price.sqrt(), reserve1_raw=(sol * 1e9).round().cast(pl.Int64).cast(pl.String),
        net_amount1=rows.number("sol_flow"),
    )  # fmt: skip
    return {"pool_states": frame}


def _positive(price: pl.Series) -> pl.Series:
    return price.set(~(price.is_finite() & (price > 0)).fill_null(False), None)


def _counted(rows: Rows, name: str) -> pl.Series:
    """The number of a row among those of the same transaction, as text."""
    return rows.frame.select((pl.int_range(pl.len()).over(name)).cast(pl.String)).to_series()
