"""Pools' events straight from a node: ``python -m arbgym.data fetch`` (see ``follow`` for what makes it safe to repeat)."""

from __future__ import annotations

import argparse
from typing import Any

from arbgym.data.sources.follow import Follower
from arbgym.data.sources.pools import CHAINS, Pool, read_pool
from arbgym.data.sources.rpc import Node
from arbgym.data.store import Store
from arbgym.market.tape import TapeError


def opened(chosen: argparse.Namespace) -> tuple[Node, str, list[Pool]]:
    """The node, the chain's name and the pools that the flags name. Raises TapeError."""
    if chosen.confirmations < 0:
        raise TapeError(f"confirmations = {chosen.confirmations}; accepted is 0 or more")
    node = Node(chosen.rpc, chosen.requests_per_second, chosen.patience_seconds)
    chain = chosen.chain or CHAINS.get(node.chain_id, str(node.chain_id))
    return node, chain, [read_pool(node, chain, pool, chosen.pool_manager) for pool in dict.fromkeys(chosen.pool)]


def remembered_as(command: str, chain: str, pools: list[Pool], more: str = "") -> str:
    """What a run is remembered by: the same command for the same pools goes on where it was."""
    return f"{command} {chain} {' '.join(sorted(pool.pool for pool in pools))}{more}"


def run(chosen: argparse.Namespace) -> int:
    """Fetch, showing a progress bar; 0 when the range is in the store. Raises TapeError and SourceLost."""
    from tqdm import tqdm

    if chosen.from_block < 0 or (chosen.to_block is not None and chosen.to_block < chosen.from_block):
        raise TapeError(f"blocks {chosen.from_block} to {chosen.to_block}; accepted are 0 <= from-block <= to-block")
    node, chain, pools = opened(chosen)
    follower = Follower(
        node,
        Store(chosen.store),
        chain,
        pools,
        chosen.from_block,
        remembered_as("fetch", chain, pools, f" from {chosen.from_block}" + (" every block" if chosen.every_block else "")),
        chosen.chunk_blocks,
        chosen.every_block,
    )
    confirmed = node.block_number() - chosen.confirmations
    last = confirmed if chosen.to_block is None else min(chosen.to_block, confirmed)
    at_first = min(max(0, follower.next_block - chosen.from_block), max(0, last + 1 - chosen.from_block))
    total = max(0, last + 1 - chosen.from_block)
    with tqdm(total=total, initial=at_first, unit=" blocks", desc=chain, disable=chosen.quiet) as bar:
        follower.advance(last, bar.update)
    print(summary(follower))
    if chosen.to_block is not None and last < chosen.to_block:
        print(f"blocks {last + 1} to {chosen.to_block} are not confirmed yet: run again for them")
    return 0


def summary(follower: Follower) -> str:
    """What a follower has written, in words."""
    said = [f"{table}: {written.new:,} new, {written.duplicates:,} known" for table, written in follower.written.items()]
    repaired = f"; {follower.repaired} reorganisations repaired" if follower.repaired else ""
    return f"{follower.chain} up to block {follower.next_block - 1}{repaired}; {'; '.join(said)}"


def fetch(
    rpc: str,
    store: Store,
    pools: list[str],
    first: int,
    last: int,
    *,
    requests_per_second: float = 0.0,
    patience_s: float = 60.0,
    **how: Any,
) -> Follower:
    """The same from Python, without asking for confirmations: blocks ``first`` to ``last`` (inclusive) into ``store``.

    ``how``: chunk_blocks, every_block (see ``Follower``). Raises TapeError and SourceLost.
    """
    node = Node(rpc, requests_per_second, patience_s)
    chain = CHAINS.get(node.chain_id, str(node.chain_id))
    found = [read_pool(node, chain, pool) for pool in pools]
    follower = Follower(node, store, chain, found, first, remembered_as("fetch", chain, found, f" from {first}"), **how)
    follower.advance(last)
    return follower
