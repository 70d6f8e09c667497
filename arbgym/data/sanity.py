"""Prices that cannot be what they say: tokens swapped, decimals in the wrong order.

Within a pool (or a symbol) each price is held against the row before, across batches, and a swap's price against what was paid.
"""

from __future__ import annotations

import math
from typing import Any

from arbgym.data.needs import pl
from arbgym.data.rules import ROW
from arbgym.market.tape import TapeError

_BY = {"swaps": "pool", "pool_states": "pool", "liquidity_events": "pool", "reference_prices": "symbol"}
_WILD = math.log(1e4)  # from one row to the next
_FAR = math.log(4.0)  # where the inverse fits
_NEAR = math.log(1.5)


def check(table: str, frame: pl.DataFrame, path: str, memory: dict[str, Any]) -> None:
    """Refuse the first row whose price is the inverse of the row before of its pool or symbol, or 10,000 times off.

    ``memory`` keeps the last price of each from batch to batch.
    """
    if table not in _BY or not len(frame):
        return
    by = _BY[table]
    priced = frame.filter(pl.col("price") > 0).select(by, "price", ROW)
    if not len(priced):
        return
    if table == "swaps":
        _against_amounts(frame, path)
    last: dict[str, float] = memory.setdefault(f"prices.{table}", {})
    seen = priced[by].unique().to_list()
    before = {name: last[name] for name in seen if name in last}
    first = pl.col(by).replace_strict(before, default=None, return_dtype=pl.Float64) if before else pl.lit(None, pl.Float64)
    priced = priced.with_columns(pl.col("price").shift(1).over(by).fill_null(first).alias("before"))
    moved, inverse = (pl.col("price") / pl.col("before")).log().abs(), (pl.col("price") * pl.col("before")).log().abs()
    bad = priced.filter((moved > _WILD) | ((moved > _FAR) & (inverse < _NEAR)))
    if len(bad):
        price, was, row = bad["price"][0], bad["before"][0], int(bad[ROW][0])
        inverted = abs(math.log(price * was)) < _NEAR
        raise TapeError(
            f"{price:.6g} after {was:.6g} in {by} {bad[by][0]}{', about its inverse' if inverted else ''}: tokens swapped, or "
            "decimals in the wrong order? accepted is a price within a factor of 10,000 of the row before, and not its inverse "
            "(allow_jumps takes it as it is)",
            "price",
            row,
            path,
        )
    last.update(dict(priced.group_by(by).agg(pl.col("price").last()).iter_rows()))


def _against_amounts(frame: pl.DataFrame, path: str) -> None:
    """In most swaps of a pool what was paid is near the price; where the inverse is, token0 and token1 were swapped."""
    paid = frame.filter((pl.col("price") > 0) & (pl.col("execution_price") > 0))
    off = (pl.col("execution_price") / pl.col("price")).log()
    median = paid.group_by("pool").agg(off.median().alias("off"), pl.col("price").median(), pl.col(ROW).first(), pl.len())
    wrong = median.filter((pl.col("off").abs() > _FAR) & (pl.col("len") >= 3)).sort(ROW)
    if len(wrong):
        pool, ratio, row = wrong["pool"][0], math.exp(wrong["off"][0]), int(wrong[ROW][0])
        raise TapeError(
            f"pool {pool}: swaps paid {ratio:.3g} times the pool's price (median): token0 and token1 swapped? accepted are "
            "amounts and price of the same order of tokens",
            "execution_price",
            row,
            path,
        )
