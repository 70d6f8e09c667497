"""``python -m arbgym.data tape OUT ...``: build a tape for replay; ``describe TAPE``: what a tape holds.

    python -m arbgym.data tape polygon_cex.parquet --pool pool_minute.parquet --step-seconds 300 \\
        --reference ethusdt_perp_5m.parquet --reference-time open_time --reference-value close --reference-delay 300 \\
        --second reference --second-fee-ppm 200 --second-liquidity 1e6 --gas-gwei 54 --basis-rows 24 --fill-gaps 5
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from arbgym.data.join import Series, build_tape
from arbgym.data.tape_file import read_tape, require_pandas, write_tape
from arbgym.market.tape import Tape, TapeError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m arbgym.data", description="Tapes for replay.")
    commands = parser.add_subparsers(dest="command", required=True)
    tape = commands.add_parser("tape", help="build a tape from a V3 minute table and a price table")
    tape.add_argument("out", type=Path, help="tape to write: .parquet or .csv")
    tape.add_argument("--pool", type=Path, required=True, help="minute table: timestamp, price_weth_usdc, liquidity, net_amount1")
    tape.add_argument("--pool-fee-ppm", type=float, default=500.0, help="the pool's fee, parts per million")
    tape.add_argument("--step-seconds", type=int, default=60, help="length of a row; a multiple of 60")
    tape.add_argument("--reference", type=Path, required=True, help="table with the other venue's price")
    tape.add_argument("--reference-time", default="timestamp", help="its time column")
    tape.add_argument("--reference-value", default="close", help="its price column")
    tape.add_argument("--reference-delay", type=int, default=0, help="s from time stamp to known (a candle's length)")
    tape.add_argument("--second", choices=("reference", "v2", "v3"), default="reference", help="what the other venue is")
    tape.add_argument("--second-fee-ppm", type=float, required=True, help="its fee, parts per million")
    tape.add_argument("--second-liquidity", type=float, required=True, help="its liquidity, sqrt(base * quote)")
    tape.add_argument("--gas", type=Path, help="gas price table")
    tape.add_argument("--gas-time", default="timestamp", help="its time column")
    tape.add_argument("--gas-value", default="gas_price_gwei", help="its column in gwei")
    tape.add_argument("--gas-gwei", type=float, help="one gas price instead of a table")
    tape.add_argument("--basis-rows", type=int, default=0, help="remove the mean log gap of that many earlier rows; 0 keeps it")
    tape.add_argument("--fill-gaps", type=int, default=0, help="missing minutes in a row taken as minutes without a trade")
    tape.add_argument("--start", help="first time, UTC")
    tape.add_argument("--end", help="time after the last, UTC")
    tape.add_argument("--source", default="", help="where the data is from, kept in the tape")
    describe = commands.add_parser("describe", help="print what a tape holds")
    describe.add_argument("tape", type=Path)
    return parser


def _describe(tape: Tape) -> str:
    pandas = require_pandas()
    first, last = (pandas.Timestamp(int(tape.timestamps[k]), unit="s", tz="UTC") for k in (0, -1))
    lines = [
        f"{len(tape.timestamps)} rows of {tape.step_seconds} s, {first} to {last}, {tape.base}/{tape.quote}",
        f"source: {tape.source or 'not stated'}; sha256 {tape.sha256[:16]}",
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
            pool_fee_ppm=chosen.pool_fee_ppm,
            step_seconds=chosen.step_seconds,
            reference=Series(chosen.reference, chosen.reference_time, chosen.reference_value, chosen.reference_delay),
            second_kind=chosen.second,
            second_fee_ppm=chosen.second_fee_ppm,
            second_liquidity=chosen.second_liquidity,
            gas=Series(chosen.gas, chosen.gas_time, chosen.gas_value) if chosen.gas else None,
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
