"""Tapes from a store: a pool's states or swaps, a reference price and gas, joined as ``join`` joins files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from arbgym.data.columns import Moment, moment
from arbgym.data.frames import require_pandas
from arbgym.data.join import Known, assemble_tape, latest_known, on_grid
from arbgym.data.needs import pl
from arbgym.data.store import Store
from arbgym.market.tape import Tape, TapeError, TapePool

if TYPE_CHECKING:
    import pandas as pd
    from numpy.typing import NDArray

Side = Literal["token0", "token1"]


def tape_from_store(
    store: Store,
    pool: str,
    *,
    venue: str,
    symbol: str,
    second_fee_ppm: float,
    second_liquidity: float,
    chain: str | None = None,
    base_is: Side = "token1",
    pool_fee_ppm: float | None = None,
    step_seconds: int = 60,
    kind: str | None = None,
    interval_s: int | None = None,
    reference_max_age_s: int | None = None,
    second_kind: str = "reference",
    gas_gwei: float | None = None,
    gas_chain: str | None = None,
    gas_max_age_s: int | None = None,
    basis_rows: int = 0,
    fill_gaps: int = 0,
    start: Moment | None = None,
    end: Moment | None = None,
    base: str = "WETH",
    quote: str = "USDC",
    source: str = "",
) -> Tape:
    """A tape of one recorded pool beside a second venue at a recorded price, both from a store.

    ``base_is``: which of the pool's tokens is the base; with token1 (USDC/WETH) prices are turned over, with token0
    (USDC/USDT) they stand as they are. The pool's periods (``pool_states``) are taken where it has some, else its swaps, else its
    sync events. ``venue`` and ``symbol`` (with ``kind`` and ``interval_s`` where they are not enough) choose the reference
    price; gas is one constant, or the blocks of ``gas_chain`` (default: the pool's chain). Ages as in ``join.Series``.
    Raises TapeError.
    """
    if base_is not in ("token0", "token1"):
        raise TapeError(f"base_is = {base_is!r}; accepted are token0 and token1")
    pool = pool.lower() if pool.startswith("0x") else pool
    found, chain, fee = _pool_grid(store, pool, chain, base_is, step_seconds, fill_gaps, start, end)
    times = found.index.to_numpy().astype(np.int64)
    reference = _reference(store, times, venue, symbol, kind, interval_s, reference_max_age_s)
    if gas_gwei is not None:
        gas = Known(np.full(len(times), gas_gwei, dtype=np.float64))
    else:
        gas = _gas(store, times, gas_chain or chain, gas_max_age_s)
    fee_ppm = pool_fee_ppm if pool_fee_ppm is not None else fee
    if fee_ppm is None:
        raise TapeError(f"the store does not say the fee of pool {pool}; accepted is pool_fee_ppm")
    return assemble_tape(
        found,
        reference,
        gas,
        pool=TapePool("pool", found.attrs["kind"], fee_ppm),
        second=TapePool("second", second_kind, second_fee_ppm),
        second_liquidity=second_liquidity,
        step_seconds=step_seconds,
        basis_rows=basis_rows,
        base=base,
        quote=quote,
        source=source or f"{chain} {pool}, {venue} {symbol}",
    )


def _pool_grid(
    store: Store,
    pool: str,
    chain: str | None,
    base_is: Side,
    step_seconds: int,
    fill_gaps: int,
    start: Moment | None,
    end: Moment | None,
) -> tuple[pd.DataFrame, str, float | None]:
    equals: dict[str, Any] = {"pool": pool} if chain is None else {"pool": pool, "chain": chain}
    low, high = moment("start", start), moment("end", end)
    for table in ("pool_states", "swaps", "liquidity_events"):
        rows: pl.DataFrame = store.read(table, as_="polars", **equals)
        if table == "pool_states":
            rows = rows.filter(pl.col("interval_s") > 0)
            begin = pl.col("timestamp") - pl.duration(seconds=pl.col("interval_s"))
        elif table == "swaps":
            rows, begin = rows.filter(pl.col("price").is_not_null()), pl.col("timestamp")
        else:
            rows, begin = rows.filter(pl.col("event") == "sync"), pl.col("timestamp")
        rows = rows.filter(*([begin >= low] if low else []), *([begin < high] if high else []))
        if len(rows):
            break
    else:
        raise TapeError(
            f"no states, swaps or syncs of pool {pool} from {start} to {end}; accepted is a pool in the store",
            path=str(store.path),
        )
    chains = rows["chain"].unique().to_list()
    if len(chains) > 1:
        raise TapeError(f"pool {pool} is on {', '.join(sorted(chains))}; accepted is one: chain", path=str(store.path))
    if rows["timestamp"].null_count():
        raise TapeError(
            f"{rows['timestamp'].null_count()} rows of pool {pool} have no time; accepted are rows with times "
            "(import the table of blocks first, then the rows)",
            "timestamp",
            path=str(store.path / table),
        )
    rows = rows.with_columns(price=pl.col("price") if base_is == "token0" else 1.0 / pl.col("price"))
    side = base_is[-1]
    if table == "pool_states":
        grid = _from_states(store, rows, f"net_amount{side}", step_seconds, fill_gaps)
    elif table == "swaps":
        grid = _from_events(_with_liquidity(store, rows, chains[0], pool), f"amount{side}", step_seconds)
    else:
        grid = _from_events(_with_flow(rows, side), "flow", step_seconds)
    grid.attrs["kind"] = "v2" if table == "liquidity_events" else "v3"
    return grid, chains[0], _fee(store, rows, chains[0], pool)


def _fee(store: Store, rows: pl.DataFrame, chain: str, pool: str) -> float | None:
    stated = rows["fee_ppm"].drop_nulls() if "fee_ppm" in rows.columns else pl.Series([], dtype=pl.Float64)
    known = store.scan("pools", chain=chain, pool=pool).select("fee_ppm").collect()["fee_ppm"].drop_nulls()
    return float(stated[-1]) if len(stated) else float(known[0]) if len(known) else None


def _from_states(store: Store, rows: pl.DataFrame, flow: str, step_seconds: int, fill_gaps: int) -> pd.DataFrame:
    pandas = require_pandas()
    periods = rows["interval_s"].unique().to_list()
    if len(periods) > 1:
        raise TapeError(f"periods of {sorted(periods)} s; accepted is one length per pool", "interval_s", path=str(store.path))
    for name in ("price", "liquidity", flow):
        if rows[name].null_count():
            row = int(rows[name].is_null().arg_true()[0])
            raise TapeError(
                "empty; accepted is a value in every period", name, row, str(store.path), int(rows["timestamp"][row].timestamp())
            )
    states = pandas.DataFrame(
        {
            "start": rows["timestamp"].dt.epoch("s").to_numpy() - periods[0],
            "price": rows["price"].to_numpy(),
            "liquidity": rows["liquidity"].to_numpy(),
            "flow_base": rows[flow].to_numpy(),
        }
    )
    return on_grid(states, int(periods[0]), step_seconds, fill_gaps, str(store.path / "pool_states"))


def _with_liquidity(store: Store, rows: pl.DataFrame, chain: str, pool: str) -> pl.DataFrame:
    """Swaps with the pool's liquidity in human units; decimals from the store, or from raw amounts beside whole ones."""
    known = store.scan("pools", chain=chain, pool=pool).select("decimals0", "decimals1").collect()
    if len(known):
        decimals = int(known["decimals0"][0]) + int(known["decimals1"][0])
    else:
        decimals = sum(_decimals(rows, side, store) for side in "01")
    liquidity = pl.col("liquidity_raw").cast(pl.Float64) / 10.0 ** (decimals / 2.0)
    return rows.with_columns(liquidity.alias("liquidity"))


def _decimals(rows: pl.DataFrame, side: str, store: Store) -> int:
    both = rows.filter((pl.col(f"amount{side}") != 0.0) & pl.col(f"amount{side}_raw").is_not_null()).head(1)
    if not len(both):
        raise TapeError("decimals unknown; accepted is a table of pools in the store", f"amount{side}_raw", path=str(store.path))
    return round(float(np.log10(float(both[f"amount{side}_raw"][0]) / float(both[f"amount{side}"][0]))))


def _with_flow(rows: pl.DataFrame, side: str) -> pl.DataFrame:
    """Syncs with the base flow of swaps: the change of the reserve where the two reserves moved against each other."""
    moved0, moved1 = pl.col("reserve0").diff().fill_null(0.0), pl.col("reserve1").diff().fill_null(0.0)
    own = moved0 if side == "0" else moved1
    return rows.with_columns(pl.when(moved0 * moved1 < 0).then(own).otherwise(0.0).alias("flow"))


def _from_events(rows: pl.DataFrame, flow: str, step_seconds: int) -> pd.DataFrame:
    """Events on a grid: a step's row holds the last state at its end, and the flow of its events; quiet steps carry on."""
    pandas = require_pandas()
    if step_seconds < 1:
        raise TapeError(f"step_seconds = {step_seconds}; accepted is 1 or more")
    rows = rows.filter(pl.col("liquidity").is_not_null() & (pl.col("liquidity") > 0))
    if not len(rows):
        raise TapeError("no event tells the pool's liquidity; accepted are swaps with liquidity, or syncs", "liquidity")
    seconds = -(-rows["timestamp"].dt.epoch("us").to_numpy() // 1_000_000)
    ends = -(-seconds // step_seconds) * step_seconds
    grid = np.arange(ends[0], ends[-1] + 1, step_seconds)
    last = np.searchsorted(ends, grid, side="right") - 1
    flows = np.zeros(len(grid))
    np.add.at(flows, ((ends - ends[0]) // step_seconds).astype(np.int64), rows[flow].fill_null(0.0).to_numpy())
    return pandas.DataFrame(
        {
            "price": rows["price"].to_numpy()[last],
            "liquidity": rows["liquidity"].to_numpy()[last],
            "flow_base": flows,
            "filled": False,
        },
        index=grid,
    )


def _reference(
    store: Store,
    times: NDArray[np.int64],
    venue: str,
    symbol: str,
    kind: str | None,
    interval_s: int | None,
    max_age_s: int | None,
) -> Known:
    more: dict[str, Any] = {name: value for name, value in (("kind", kind), ("interval_s", interval_s)) if value is not None}
    rows: pl.DataFrame = store.read("reference_prices", as_="polars", venue=venue, symbol=symbol, **more)
    path = str(store.path / "reference_prices")
    if not len(rows):
        held = store.scan("reference_prices").select("venue", "symbol").unique().sort("venue", "symbol").head(20).collect()
        names = ", ".join(f"{row[0]} {row[1]}" for row in held.iter_rows())
        raise TapeError(
            f"no prices of {venue} {symbol}; accepted are {names or 'prices that are in the store'}", "symbol", path=path
        )
    series = rows.select("kind", "interval_s").unique().sort("kind", "interval_s")
    if len(series) > 1:
        names = ", ".join(f"{row[0]} of {row[1]} s" for row in series.iter_rows())
        raise TapeError(f"{venue} {symbol} has {names}; accepted is one of them: kind, interval_s", "kind", path=path)
    rows = rows.sort("timestamp", "sequence").unique("timestamp", keep="last", maintain_order=True)
    known = -(-rows["timestamp"].dt.epoch("us").to_numpy() // 1_000_000)  # known within a second: at its end
    last = np.append(np.flatnonzero(np.diff(known)), len(known) - 1)
    return Known(latest_known(times, known[last], rows["price"].to_numpy()[last], max_age_s), "price", path)


def _gas(store: Store, times: NDArray[np.int64], chain: str, max_age_s: int | None) -> Known:
    path = str(store.path / "blocks")
    rows: pl.DataFrame = store.read("blocks", as_="polars", chain=chain)
    rows = rows.with_columns(pl.coalesce("gas_price_gwei", "base_fee_gwei").alias("gwei")).filter(pl.col("gwei").is_not_null())
    rows = rows.unique("timestamp", keep="last", maintain_order=True)
    if not len(rows):
        raise TapeError(f"no blocks of {chain} with a base fee or gas price; accepted are those, or gas_gwei", "chain", path=path)
    known = rows["timestamp"].dt.epoch("s").to_numpy()
    return Known(latest_known(times, known, rows["gwei"].to_numpy(), max_age_s), "gas_price_gwei", path)
