"""From raw amounts to tokens and prices: what readers of pools share."""

from __future__ import annotations

from typing import Any

from arbgym.data.needs import pl
from arbgym.data.readers.base import SIGN, Rows
from arbgym.market.tape import TapeError

_Q96 = 2.0**96


def block_times(rows: Rows, chain: Any, block_number: pl.Series) -> pl.Series:
    """The times of these blocks that the store's table ``blocks`` knows; null for the others."""
    empty = pl.Series("timestamp", [None], pl.Datetime("us", "UTC")).new_from_index(0, len(block_number))
    if not isinstance(chain, str) or block_number.null_count() == len(block_number):
        return empty
    low, high = block_number.min(), block_number.max()
    assert isinstance(low, int) and isinstance(high, int)
    known = rows.lookup.times_of_blocks(chain, low, high)
    if not len(known):
        return empty
    asked = pl.DataFrame({"block_number": block_number})
    return asked.join(known, on="block_number", how="left", maintain_order="left")["timestamp"]


def pool_decimals(rows: Rows, chain: str, pool: Any) -> tuple[Any, Any]:
    """Decimals of token0 and token1: the option, or what the store's table ``pools`` says of each row's pool.

    Raises TapeError naming the first pool that is unknown.
    """
    if rows.options.decimals is not None:
        return rows.options.decimals
    known = rows.lookup.decimals_of_pools(chain)
    if isinstance(pool, str):
        pool = pl.Series("pool", [pool]).new_from_index(0, len(rows.frame))
    joined = pl.DataFrame({"pool": pool}).join(known, on="pool", how="left", maintain_order="left")
    unknown = joined["decimals0"].is_null().arg_true()
    if len(unknown):
        row = int(unknown[0])
        raise TapeError(
            f"the decimals of the tokens of pool {pool[row]} on {chain} are unknown; accepted are --decimals D0 D1, or "
            "a table of pools (pool, decimals0, decimals1) imported first",
            "pool",
            rows.first_row + row,
            rows.path,
        )
    return joined["decimals0"], joined["decimals1"]


def token_decimals(rows: Rows, chain: str, token: pl.Series) -> pl.Series:
    """Decimals of each row's token, from the store's table ``tokens``. Raises TapeError naming the first that is unknown."""
    known = rows.lookup.decimals_of_tokens(chain)
    joined = pl.DataFrame({"address": token}).join(known, on="address", how="left", maintain_order="left")
    unknown = (joined["decimals"].is_null() & token.is_not_null()).arg_true()
    if len(unknown):
        row = int(unknown[0])
        raise TapeError(
            f"the decimals of token {token[row]} on {chain} are unknown; accepted is a table of tokens "
            "(address, decimals) imported first",
            token.name,
            rows.first_row + row,
            rows.path,
        )
    return joined["decimals"]


def scaled(raw: pl.Series, decimals: Any) -> pl.Series:
    """Raw amounts over 10^decimals, float64."""
    return raw.cast(pl.Float64) / _ten_to(decimals, len(raw))


def price_of_sqrt(sqrt_price_x96_raw: pl.Series, decimals0: Any, decimals1: Any) -> pl.Series:
    """token1 per token0 in whole tokens, of a square root in Q64.96."""
    root = sqrt_price_x96_raw.cast(pl.Float64) / _Q96
    return root * root * _ten_to(decimals0 - decimals1, len(root))


def price_of_tick(tick: pl.Series, decimals0: Any, decimals1: Any) -> pl.Series:
    """token1 per token0 in whole tokens, at a tick."""
    base = pl.Series([1.0001]).new_from_index(0, len(tick))
    return pl.Series(base ** tick.cast(pl.Float64)) * _ten_to(decimals0 - decimals1, len(tick))


def _ten_to(exponent: Any, count: int) -> pl.Series:
    ten = pl.Series([10.0]).new_from_index(0, count)
    return pl.Series(ten ** (exponent.cast(pl.Float64) if isinstance(exponent, pl.Series) else float(exponent)))


def human_liquidity(liquidity_raw: pl.Series, decimals0: Any, decimals1: Any) -> pl.Series:
    """sqrt(token0 * token1) in whole tokens, of raw liquidity."""
    return liquidity_raw.cast(pl.Float64) / _ten_to((decimals0 + decimals1) / 2.0, len(liquidity_raw))


def execution_price(amount0: pl.Series, amount1: pl.Series) -> pl.Series:
    """|amount1 / amount0|, null where either is 0."""
    price = (amount1 / amount0).abs()
    return price.set(~(price.is_finite() & (price > 0)).fill_null(False), None)


def swap_rows(
    rows: Rows,
    *,
    chain: str,
    pool: Any,
    protocol: Any,
    amount0_raw: pl.Series,
    amount1_raw: pl.Series,
    sqrt_price_x96_raw: pl.Series | None = None,
    timestamp: pl.Series | None = None,
    **columns: Any,
) -> pl.DataFrame:
    """Swaps from raw signed amounts (positive into the pool). Times come from the table, or from the store's blocks."""
    decimals0, decimals1 = pool_decimals(rows, chain, pool)
    amount0, amount1 = scaled(amount0_raw, decimals0), scaled(amount1_raw, decimals1)
    if timestamp is None or timestamp.null_count() == len(timestamp):
        timestamp = block_times(rows, chain, columns["block_number"])
    price = None if sqrt_price_x96_raw is None else price_of_sqrt(sqrt_price_x96_raw, decimals0, decimals1)
    frame = rows.table(
        timestamp=timestamp,
        chain=chain,
        pool=pool,
        protocol=protocol,
        amount0_raw=amount0_raw,
        amount1_raw=amount1_raw,
        amount0=amount0,
        amount1=amount1,
        sqrt_price_x96_raw=sqrt_price_x96_raw,
        price=price,
        execution_price=execution_price(amount0, amount1),
        **columns,
    )
    return with_removed(rows, frame)


def with_removed(rows: Rows, frame: pl.DataFrame) -> pl.DataFrame:
    """The frame with the sign column where the table says which logs were removed by a reorg."""
    if not rows.has("removed"):
        return frame
    gone = rows.flag("removed").fill_null(False)
    return frame.with_columns(pl.Series(SIGN, (~gone).cast(pl.Int8) * 2 - 1).cast(pl.Int8))


def negated(raw: pl.Series) -> pl.Series:
    """Raw integers with the other sign."""
    other = ("-" + raw).str.strip_prefix("--")
    return other.set((other == "-0").fill_null(False), "0")


def difference(positive: pl.Series, negative: pl.Series) -> pl.Series:
    """positive - negative of raw integers, exactly."""
    text = [None if a is None or b is None else str(int(a) - int(b)) for a, b in zip(positive, negative, strict=True)]
    return pl.Series(positive.name, text, pl.String)


def v2_amounts(rows: Rows, in0: str, in1: str, out0: str, out1: str) -> tuple[pl.Series, pl.Series]:
    """The signed raw amounts of a V2 Swap event: what came in minus what went out."""
    return difference(rows.raw(in0), rows.raw(out0)), difference(rows.raw(in1), rows.raw(out1))


def sqrt_price_from_reserves(reserve0: pl.Series, reserve1: pl.Series) -> tuple[pl.Series, pl.Series]:
    """Price (token1 per token0) and liquidity (sqrt(token0 * token1)) of reserves in whole tokens."""
    return reserve1 / reserve0, (reserve0 * reserve1).sqrt()
