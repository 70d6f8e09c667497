"""``python -m arbgym.data tape OUT ...``: build a tape for replay; ``describe TAPE``: what a tape holds.

A pool beside an exchange, on the candles' clock, and one asset on two chains with its gas prices:

    python -m arbgym.data tape polygon_cex.parquet --pool pool_minute.parquet --step-seconds 300 \\
        --reference ethusdt_perp_5m.parquet --reference-time open_time --reference-value close --basis-rows 24 \\
        --second reference --second-fee-ppm 200 --second-liquidity 1e6 --gas-gwei 54
    python -m arbgym.data tape two_chains.parquet --pool minute.parquet --start 2023-08-14 --end 2023-08-16 \\
        --reference oracle_prices_minute.parquet --reference-value weth_usd \\
        --second v3 --second-fee-ppm 3000 --second-liquidity 1.2e7 --gas polygon_gas_price_minute_202308.parquet
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arbgym.data.join import PoolColumns, Series, build_tape
from arbgym.data.tape_file import read_tape, write_tape
from arbgym.market.tape import Tape, TapeError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m arbgym.data", description="Tapes for replay.")
    commands = parser.add_subparsers(dest="command", required=True)
    tape = commands.add_parser("tape", help="build a tape from a V3 minute table and a price table")
    tape.add_argument("out", type=Path, help="tape to write: .parquet or .csv")
    columns = PoolColumns()
    add = tape.add_argument
    add("--pool", type=Path, required=True, help="Uniswap V3 minute table")
    add("--pool-time", default=columns.time, help="its time column (default %(default)s)")
    add("--pool-price", default=columns.price, help="its price column, quote per base (default %(default)s)")
    add("--pool-liquidity", default=columns.liquidity, help="its raw liquidity column (default %(default)s)")
    add("--pool-flow", default=columns.flow_base, help="its net base flow column, + = into the pool (default %(default)s)")
    add("--decimals", type=int, nargs=2, default=columns.decimals, help="of token0 and token1 (default 6 18)")
    add("--pool-fee-ppm", type=float, default=500.0, help="the pool's fee, parts per million (default 500)")
    add("--base", default="WETH", help="name of the base token (default WETH)")
    add("--quote", default="USDC", help="name of the quote token (default USDC)")
    add("--step-seconds", type=int, default=60, help="length of a row; a multiple of 60 (default 60)")
    add("--fill-gaps", type=int, default=0, help="missing minutes in a row taken as minutes without a trade (default 0)")
    add("--reference", type=Path, required=True, help="table with the other venue's price")
    add("--reference-time", default="timestamp", help="its time column (default %(default)s)")
    add("--reference-value", default="close", help="its price column (default %(default)s)")
    add("--reference-delay", type=int, help="s from time stamp to known (default: the table's spacing; 0 for events)")
    add("--reference-max-age", type=int, help="s after which a value is unknown (default: the table's spacing)")
    add("--basis-rows", type=int, default=0, help="remove the mean log gap of that many earlier rows (default 0: keep it)")
    add("--second", choices=("reference", "v2", "v3"), default="reference", help="what the other venue is")
    add("--second-fee-ppm", type=float, required=True, help="its fee, parts per million")
    add("--second-liquidity", type=float, required=True, help="its liquidity, sqrt(base * quote); no table tells it")
    add("--gas", type=Path, help="gas price table")
    add("--gas-time", default="timestamp", help="its time column (default %(default)s)")
    add("--gas-value", default="gas_price_gwei", help="its column in gwei (default %(default)s)")
    add("--gas-delay", type=int, help="s from time stamp to known (default: the table's spacing)")
    add("--gas-max-age", type=int, help="s after which a value is unknown (default: the table's spacing)")
    add("--gas-gwei", type=float, help="one gas price instead of a table")
    add("--start", help="first time, UTC")
    add("--end", help="time after the last, UTC")
    add("--source", default="", help="where the data is from, kept in the tape")
    describe = commands.add_parser("describe", help="print what a tape holds")
    describe.add_argument("tape", type=Path)
    return parser


def _describe(tape: Tape) -> str:
    first, last = (np.datetime64(int(tape.timestamps[k]), "s") for k in (0, -1))
    lines = [
        f"{len(tape.timestamps)} rows of {tape.step_seconds} s, {first}Z to {last}Z, {tape.base}/{tape.quote}",
        f"source: {tape.source or 'not stated'}; sha256 {tape.sha256[:16]}; {len(tape.filled)} rows with filled gaps",
        f"base fee gwei: {np.quantile(tape.base_fee_gwei, [0.05, 0.5, 0.95]).round(4).tolist()} (5, 50, 95 %)",
    ]
    for k, pool in enumerate(tape.pools):
        gap = np.log(tape.price[:, k] / tape.reference_price) * 1e4
        move = np.diff(np.log(tape.price[:, k])) * 1e4
        lines.append(
            f"{pool.name} ({pool.kind}, {pool.fee_ppm:g} ppm): price {tape.price[0, k]:.6g} to {tape.price[-1, k]:.6g}, "
            f"moves {move.std():.2f} bps a row, gap to the reference {gap.mean():+.2f} +- {gap.std():.2f} bps, "
            f"median liquidity {np.median(tape.liquidity[:, k]):.6g}"
        )
        if tape.flow_base[:, k].any():
            error = np.abs(tape.flow_error_bps(k))
            lines.append(
                f"  recorded flow through recorded liquidity misses the next price by {np.median(error):.2f} bps "
                f"(median), {np.quantile(error, 0.95):.2f} (95 %)"
            )
    return "\n".join(lines)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a refused table is said on stderr with status 2."""
    chosen = _parser().parse_args(arguments)
    try:
        if chosen.command == "describe":
            print(_describe(read_tape(chosen.tape)))
            return 0
        tape = build_tape(
            chosen.pool,
            pool_columns=PoolColumns(
                chosen.pool_time, chosen.pool_price, chosen.pool_liquidity, chosen.pool_flow, tuple(chosen.decimals)
            ),
            base=chosen.base,
            quote=chosen.quote,
            pool_fee_ppm=chosen.pool_fee_ppm,
            step_seconds=chosen.step_seconds,
            reference=Series(
                chosen.reference,
                chosen.reference_time,
                chosen.reference_value,
                chosen.reference_delay,
                chosen.reference_max_age,
            ),
            second_kind=chosen.second,
            second_fee_ppm=chosen.second_fee_ppm,
            second_liquidity=chosen.second_liquidity,
            gas=Series(chosen.gas, chosen.gas_time, chosen.gas_value, chosen.gas_delay, chosen.gas_max_age)
            if chosen.gas
            else None,
            gas_gwei=chosen.gas_gwei,
            basis_rows=chosen.basis_rows,
            fill_gaps=chosen.fill_gaps,
            start=chosen.start,
            end=chosen.end,
            source=chosen.source,
        )
        write_tape(tape, chosen.out)
        print(_describe(tape))
        print(f"written: {chosen.out}")
    except TapeError as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
