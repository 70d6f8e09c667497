"""``python -m arbgym.data import|describe|validate|export|formats|fetch|record|tape|tokens``: market tables in and out.

    python -m arbgym.data import swaps.parquet ETHUSDT-1m-2024-01.csv --store store --chain ethereum --decimals 6 18
    python -m arbgym.data import --from "duckdb:///swaps.db?table=uniswap_v3_swaps_raw" --store store --chain ethereum
    python -m arbgym.data describe store --plot store.png
    python -m arbgym.data validate store

A tape from files: a pool beside an exchange, on the candles' clock; from a store: by the pool's address and the venue's symbol:

    python -m arbgym.data tape polygon_cex.parquet --pool pool_minute.parquet --step-seconds 300 \\
        --reference ethusdt_perp_5m.parquet --reference-time open_time --reference-value close --basis-rows 24 \\
        --second reference --second-fee-ppm 200 --second-liquidity 1e6 --gas-gwei 54
    python -m arbgym.data tape polygon_cex.tape --store store --pool 0x45dd... --venue bybit --symbol ETHUSDT \\
        --step-seconds 300 --basis-rows 24 --second-fee-ppm 200 --second-liquidity 1e6 --gas-gwei 54

A tape of launched tokens from trades, candles or states of bonding curves:

    python -m arbgym.data tokens first300s.parquet --from swaps.parquet --quote-usd 70 --signal momentum:window_s=30
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np

from arbgym.data.join import PoolColumns, Series, build_tape
from arbgym.data.source_flags import fetch_flags, record_flags
from arbgym.data.tape_file import read_tape, write_tape
from arbgym.market.tape import Tape, TapeError


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m arbgym.data", description="Market tables and tapes for replay.")
    commands = parser.add_subparsers(dest="command", required=True)
    tape = commands.add_parser("tape", help="build a tape from files (a V3 minute table and a price table) or from a store")
    tape.add_argument("out", type=Path, help="tape to write: .parquet or .csv")
    columns = PoolColumns()
    add = tape.add_argument
    add("--pool", required=True, help="Uniswap V3 minute table; with --store the pool's address")
    add("--store", type=Path, help="take everything from this store")
    add("--chain", help="store: the pool's chain, where it is on several")
    add("--base-is", choices=("token0", "token1"), default="token1", help="store: which token is the base (default token1)")
    add("--venue", help="store: whose reference price")
    add("--symbol", help="store: its symbol")
    add("--reference-kind", help="store: candle, trade, quote or oracle, where it has several")
    add("--reference-interval-s", type=int, help="store: length of the candles, where it has several")
    add("--gas-chain", help="store: whose blocks say the gas price (default: the pool's chain)")
    add("--pool-time", default=columns.time, help="its time column (default %(default)s)")
    add("--pool-price", default=columns.price, help="its price column, quote per base (default %(default)s)")
    add("--pool-liquidity", default=columns.liquidity, help="its raw liquidity column (default %(default)s)")
    add("--pool-flow", default=columns.flow_base, help="its net base flow column, + = into the pool (default %(default)s)")
    add("--decimals", type=int, nargs=2, default=columns.decimals, help="of token0 and token1 (default 6 18)")
    add("--pool-fee-ppm", type=float, help="the pool's fee, parts per million (default 500; with --store what it knows)")
    add("--base", default="WETH", help="name of the base token (default WETH)")
    add("--quote", default="USDC", help="name of the quote token (default USDC)")
    add("--step-seconds", type=int, default=60, help="length of a row; a multiple of 60 (default 60)")
    add("--fill-gaps", type=int, default=0, help="missing minutes in a row taken as minutes without a trade (default 0)")
    add("--reference", type=Path, help="table with the other venue's price")
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
    _table_parsers(commands)
    return parser


def _table_parsers(commands: Any) -> None:
    bring = commands.add_parser("import", help="import files or a database query into a store")
    bring.add_argument("paths", type=Path, nargs="*", help="files, or folders whose tables are all imported")
    bring.add_argument("--store", type=Path, required=True, help="folder of the store; made where there is none")
    bring.add_argument("--from", dest="url", help="database: duckdb:///path?table=..., clickhouse://..., postgresql://...")
    bring.add_argument("--table", help="table of the database")
    bring.add_argument("--query", help="SQL query instead of a table")
    bring.add_argument("--prefer", choices=("new", "old"), default="", help="which of two rows of one key that disagree")
    bring.add_argument("--allow-jumps", action="store_true", help="take prices that jump 10,000-fold or invert as they are")
    bring.add_argument("--quiet", action="store_true", help="no progress bar")
    _option_flags(bring)
    describe = commands.add_parser("describe", help="print what a store, a table or a tape holds")
    describe.add_argument("path", type=Path, help="store, table or tape")
    describe.add_argument("--plot", type=Path, metavar="OUT", help="draw it: .png or .svg")
    _option_flags(describe)
    validate = commands.add_parser("validate", help="check a store or a table: file,row,column,rule of what is wrong")
    validate.add_argument("path", type=Path, help="store or table")
    _option_flags(validate)
    export = commands.add_parser("export", help="write a store's tables to a database")
    export.add_argument("store", type=Path)
    export.add_argument("url", help="duckdb:///path, clickhouse://..., postgresql://...")
    export.add_argument("tables", nargs="*", help="which; all by default")
    tokens = commands.add_parser("tokens", help="build a tape of launched tokens from trades, candles or states of curves")
    tokens.add_argument("out", type=Path, help="tape to write: .parquet")
    tokens.add_argument("--from", dest="path", type=Path, required=True, help="the table")
    tokens.add_argument("--kind", choices=("trades", "bars", "tracks"), help="what it holds (default: by its columns)")
    tokens.add_argument("--step-seconds", type=float, help="length of a step (default: 1 for trades, 5 for tracks, a bar)")
    tokens.add_argument("--quote-usd", type=float, help="price of SOL in USD: tables in SOL come out in USD")
    tokens.add_argument("--reserve-quote", type=float, help="quote reserve of each pool at its first price, the tape's currency")
    tokens.add_argument("--until-age", type=float, help="follow tokens to this age, s (default: to their last row)")
    tokens.add_argument("--signal", help="where to buy: a shipped signal, NAME:arg=number,... or package.module:function")
    commands.add_parser("formats", help="list the formats that are recognised and the columns they are known by")
    fetch_flags(commands.add_parser("fetch", help="get pools' events from a node"))
    record_flags(commands.add_parser("record", help="follow a node live"))


def _option_flags(parser: argparse.ArgumentParser) -> None:
    add = parser.add_argument
    add("--as", dest="reader", help="read as this format rather than recognise it (names: formats)")
    add("--chain", help="the table's chain, where it does not say")
    add("--pool", help="the pool's address, where it does not say")
    add("--protocol", help="uniswap_v3, ...")
    add("--decimals", type=int, nargs=2, help="of token0 and token1, where neither the table nor the store says")
    add("--fee-ppm", type=float, help="the pool's fee, parts per million")
    add("--venue", help="binance, bybit, ...")
    add("--symbol", help="as the venue writes it")
    add("--interval-s", type=int, help="length of candles and periods, s")
    add("--market", help="the token of a table of lending rates")
    add("--time", help="UTC time of a snapshot without times")
    add("--skip-unknown", action="store_true", help="leave out pools whose tokens' decimals are unknown")


def _options(chosen: argparse.Namespace) -> Any:
    from dataclasses import fields

    from arbgym.data.readers.base import Options

    values = {entry.name: getattr(chosen, entry.name) for entry in fields(Options) if hasattr(chosen, entry.name)}
    return Options(**{**values, "decimals": tuple(chosen.decimals) if chosen.decimals else None})


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


def _bring(chosen: argparse.Namespace) -> int:
    from arbgym.data import files
    from arbgym.data.importer import import_file
    from arbgym.data.store import Store

    store, options = Store(chosen.store), _options(chosen)
    how = {"reader": chosen.reader, "prefer": chosen.prefer, "allow_jumps": chosen.allow_jumps, "progress": not chosen.quiet}
    if bool(chosen.url) == bool(chosen.paths):
        raise TapeError("import: accepted are either files or --from URL")
    if chosen.url:
        from arbgym.data.sources import import_database

        done = import_database(chosen.url, store, options, table=chosen.table, query=chosen.query, **how)
        _said(done, chosen.url.split("@")[-1])
        return 0
    for given in chosen.paths:
        inside = (
            sorted(path for path in given.rglob("*") if path.suffix in (*files.SUFFIXES, ".gz")) if given.is_dir() else [given]
        )
        for path in inside:
            _said(import_file(path, store, options, **how), str(path))
    return 0


def _said(done: Any, name: str) -> None:
    resumed = f", resumed at row {done.resumed_at:,}" if done.resumed_at else ""
    print(f"{name}: {done.title} ({done.reader}), {done.rows:,} rows{resumed}")
    for table, written in done.tables.items():
        print(f"  {table}: {written.new:,} new, {written.duplicates:,} known already, {written.replaced:,} replaced")


def _describe_any(chosen: argparse.Namespace) -> int:
    from arbgym.data import describe
    from arbgym.data.store import Store
    from arbgym.data.tables import TABLES

    if describe.is_tape(chosen.path):
        tape = read_tape(chosen.path)
        print(_describe(tape))
        if chosen.plot:
            from arbgym.data.draw import draw_tape

            draw_tape(tape, chosen.plot)
    else:
        if chosen.path.is_dir():
            store = Store(chosen.path)
            frames = {name: store.scan(name) for name in store.tables()}
            if not frames:
                raise TapeError("no tables; accepted is a store, a table or a tape", path=str(chosen.path))
        else:
            title, held = describe.frames_of_file(chosen.path, _options(chosen), chosen.reader)
            frames = {name: frame.lazy() for name, frame in held.items()}
            print(f"recognised: {title}")
        described = {name: describe.describe_frame(TABLES[name], frame) for name, frame in frames.items()}
        print("\n".join(describe.text(one) for one in described.values()))
        if chosen.plot:
            from arbgym.data.draw import draw_tables

            draw_tables(frames, described, chosen.plot)
    if chosen.plot:
        print(f"drawn: {chosen.plot}")
    return 0


def _validate(chosen: argparse.Namespace) -> int:
    import csv

    from arbgym.data import validate

    writer, wrong = csv.writer(sys.stdout), 0
    for error in validate.of(chosen.path, _options(chosen), chosen.reader):
        if not wrong:
            writer.writerow(["file", "row", "column", "rule"])
        writer.writerow([error.path, "" if error.row is None else error.row, error.column, error.rule])
        wrong += 1
    if not wrong:
        print(f"{chosen.path}: nothing wrong")
    return 1 if wrong else 0


def _export(chosen: argparse.Namespace) -> int:
    from arbgym.data.sources import export_store
    from arbgym.data.store import Store

    for table, rows in export_store(Store(chosen.store), chosen.url, chosen.tables, progress=True).items():
        print(f"{table}: {rows:,} rows written")
    return 0


def _formats(chosen: argparse.Namespace) -> int:
    from arbgym.data.readers import READERS

    for reader in sorted(READERS, key=lambda one: one.name):
        print(f"{reader.name}: {reader.title}\n    {' '.join(reader.needs)}")
    return 0


def _tokens(chosen: argparse.Namespace) -> int:
    from arbgym.data.signals import load_signal
    from arbgym.data.tokens import TokenOptions, tokens_from_file

    try:
        options = TokenOptions(
            step_seconds=chosen.step_seconds,
            quote_usd=chosen.quote_usd,
            reserve_quote=chosen.reserve_quote,
            until_age_s=chosen.until_age,
        )
        signal = load_signal(chosen.signal) if chosen.signal else None
    except ValueError as error:
        raise TapeError(f"tokens: {error}") from error
    tape, report = tokens_from_file(chosen.path, chosen.kind, options)
    if signal is not None:
        tape = tape.with_entries(signal(tape))
        report.entries = len(tape.entries)
    tape.save(chosen.out)
    print(report.text())
    print(f"in {tape.quote}, steps of {tape.step_s:g} s; sha256 {tape.sha256[:16]}")
    print(f"written: {chosen.out}")
    return 0


def _run_source(chosen: argparse.Namespace) -> int:
    module = import_module(f"arbgym.data.sources.{'node' if chosen.command == 'fetch' else 'record'}")
    return int(module.run(chosen))


def _tape(chosen: argparse.Namespace) -> int:
    tape = _tape_from_store(chosen) if chosen.store else _tape_from_files(chosen)
    write_tape(tape, chosen.out)
    print(_describe(tape))
    print(f"written: {chosen.out}")
    return 0


def _tape_from_store(chosen: argparse.Namespace) -> Tape:
    from arbgym.data.from_store import tape_from_store
    from arbgym.data.store import Store

    if not chosen.venue or not chosen.symbol:
        raise TapeError("tape from a store: accepted are --venue and --symbol of the reference price")
    return tape_from_store(
        Store(chosen.store),
        chosen.pool,
        venue=chosen.venue,
        symbol=chosen.symbol,
        second_fee_ppm=chosen.second_fee_ppm,
        second_liquidity=chosen.second_liquidity,
        chain=chosen.chain,
        base_is=chosen.base_is,
        pool_fee_ppm=chosen.pool_fee_ppm,
        step_seconds=chosen.step_seconds,
        kind=chosen.reference_kind,
        interval_s=chosen.reference_interval_s,
        reference_max_age_s=chosen.reference_max_age,
        second_kind=chosen.second,
        gas_gwei=chosen.gas_gwei,
        gas_chain=chosen.gas_chain,
        gas_max_age_s=chosen.gas_max_age,
        basis_rows=chosen.basis_rows,
        fill_gaps=chosen.fill_gaps,
        start=chosen.start,
        end=chosen.end,
        base=chosen.base,
        quote=chosen.quote,
        source=chosen.source,
    )


def _tape_from_files(chosen: argparse.Namespace) -> Tape:
    if chosen.reference is None:
        raise TapeError("tape from files: accepted is a table with the other venue's price, --reference (or a --store)")
    return build_tape(
        Path(chosen.pool),
        pool_columns=PoolColumns(
            chosen.pool_time, chosen.pool_price, chosen.pool_liquidity, chosen.pool_flow, tuple(chosen.decimals)
        ),
        base=chosen.base,
        quote=chosen.quote,
        pool_fee_ppm=500.0 if chosen.pool_fee_ppm is None else chosen.pool_fee_ppm,
        step_seconds=chosen.step_seconds,
        reference=Series(
            chosen.reference, chosen.reference_time, chosen.reference_value, chosen.reference_delay, chosen.reference_max_age
        ),
        second_kind=chosen.second,
        second_fee_ppm=chosen.second_fee_ppm,
        second_liquidity=chosen.second_liquidity,
        gas=Series(chosen.gas, chosen.gas_time, chosen.gas_value, chosen.gas_delay, chosen.gas_max_age) if chosen.gas else None,
        gas_gwei=chosen.gas_gwei,
        basis_rows=chosen.basis_rows,
        fill_gaps=chosen.fill_gaps,
        start=chosen.start,
        end=chosen.end,
        source=chosen.source,
    )


_COMMANDS = {
    "import": _bring,
    "describe": _describe_any,
    "validate": _validate,
    "export": _export,
    "formats": _formats,
    "fetch": _run_source,
    "record": _run_source,
    "tape": _tape,
    "tokens": _tokens,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; a refused table is said on stderr with status 2, what validate finds on stdout with status 1."""
    chosen = _parser().parse_args(arguments)
    try:
        return _COMMANDS[chosen.command](chosen)
    except (TapeError, ImportError) as error:
        print(f"refused: {error}", file=sys.stderr)
        return 2
    except ConnectionError as error:  # a database or a node that went away (SourceLost)
        print(f"lost: {error}", file=sys.stderr)
        return 3


if __name__ == "__main__":
    sys.exit(main())
