"""The flags of ``python -m arbgym.data fetch`` and ``record``, apart from what they run, so that help needs no web3."""

from __future__ import annotations

import argparse
from pathlib import Path


def _node_flags(parser: argparse.ArgumentParser, confirmations: int) -> None:
    """The flags that say which node, which pools and which store."""
    add = parser.add_argument
    add("--rpc", required=True, help="the node's HTTP address")
    add("--pool", required=True, nargs="+", help="pools: addresses, or ids of Uniswap V4")
    add("--store", required=True, type=Path, help="the store to write")
    add("--pool-manager", help="Uniswap V4: the PoolManager's address (known for ethereum)")
    add("--chain", help="name of the chain (default: by the node's chain id)")
    add("--confirmations", type=int, default=confirmations, help="blocks left out at the chain's end (default %(default)s)")
    add("--chunk-blocks", type=int, default=2_000, help="blocks asked for at once, at most (default %(default)s)")
    add("--requests-per-second", type=float, default=0.0, help="at most so many (default: no limit)")
    add("--patience-seconds", type=float, default=60.0, help="how long to wait for a node that went away (default 60)")
    add("--quiet", action="store_true", help="no progress bar")


def fetch_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``fetch``."""
    _node_flags(parser, confirmations=12)
    parser.add_argument("--from-block", required=True, type=int, help="first block")
    parser.add_argument("--to-block", type=int, help="last block (default: the newest that is confirmed)")
    parser.add_argument("--every-block", action="store_true", help="keep every block's base fee, not only those with events")


def record_flags(parser: argparse.ArgumentParser) -> None:
    """The flags of ``record``."""
    _node_flags(parser, confirmations=0)
    add = parser.add_argument
    add("--blocks", type=int, help="stop after so many blocks (default: go on until Ctrl-C)")
    add("--poll-seconds", type=float, default=1.0, help="s between two looks at the node and the exchange (default 1)")
    add("--price-url", help="REST address of an exchange's price, as Binance's /api/v3/ticker/bookTicker?symbol=ETHUSDT")
    add("--venue", help="name of that exchange (default: the address's host)")
