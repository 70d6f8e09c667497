"""Files without a header that people have all the same: Binance's monthly and daily files, lists of candles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from arbgym.market.tape import TapeError

_KLINES = (
    "open_time open high low close volume close_time quote_volume count taker_buy_volume taker_buy_quote_volume ignore".split()
)
_BY_COUNT = {
    12: _KLINES,
    8: "agg_trade_id price quantity first_trade_id last_trade_id transact_time is_buyer_maker best_match".split(),
    7: "agg_trade_id price quantity first_trade_id last_trade_id transact_time is_buyer_maker".split(),
    6: "date open high low close volume".split(),
}
_TRADES = "id price qty quote_qty time is_buyer_maker is_best_match".split()


def headerless_names(cells: Sequence[str], path: Path) -> list[str] | None:
    """Column names for a file whose first line holds numbers; None where it holds names.

    Raises TapeError where the number of columns fits no known file.
    """
    if not cells or not all(_is_value(cell) for cell in cells):
        return None
    if "-trades-" in path.name and len(cells) in (6, 7):
        return _TRADES[: len(cells)]
    if len(cells) not in _BY_COUNT:
        raise TapeError(
            f"no header, and {len(cells)} columns; without a header accepted are Binance klines (12), aggTrades (7 or 8), "
            "trades (6 or 7, in a file named SYMBOL-trades-...) and candles (6: time, open, high, low, close, volume)",
            path=str(path),
        )
    return list(_BY_COUNT[len(cells)])


def _is_value(cell: str) -> bool:
    if cell.strip().lower() in ("true", "false", ""):
        return True
    try:
        float(cell)
    except ValueError:
        return False
    return True
