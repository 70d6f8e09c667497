"""Contract vectors, read once, and pools built from them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest

from arbgym.amm import ConcentratedPool

Rows = list[dict[str, Any]]


@pytest.fixture(scope="session")
def vectors(shared: Path) -> Callable[[str], Rows]:
    """Rows of one file of contract vectors as dictionaries; on-chain integers are strings."""
    parquet = pytest.importorskip("pyarrow.parquet", reason="pyarrow (extra 'data') reads the contract vectors")
    folder = shared / "evm_vectors"
    if not folder.is_dir():
        pytest.skip("shared/evm_vectors is not there")

    @lru_cache
    def read(name: str) -> Rows:
        rows: Rows = parquet.read_table(folder / f"{name}.parquet").to_pylist()
        return rows

    return read


@pytest.fixture(scope="session")
def v3_pools(vectors: Callable[[str], Rows]) -> dict[int, ConcentratedPool]:
    """The recorded V3 pools before their first swap, by pool_id; take copies."""
    net: dict[int, dict[int, int]] = defaultdict(dict)
    gross: dict[int, dict[int, int]] = defaultdict(dict)
    for row in vectors("v3_ticks"):
        net[row["pool_id"]][row["tick"]] = int(row["liquidity_net"])
        gross[row["pool_id"]][row["tick"]] = int(row["liquidity_gross"])
    return {
        row["pool_id"]: ConcentratedPool(
            sqrt_price_x96=int(row["sqrt_price_x96"]),
            tick=row["tick"],
            liquidity=int(row["liquidity"]),
            fee=row["fee"],
            tick_spacing=row["tick_spacing"],
            ticks=net[row["pool_id"]],
            liquidity_gross=gross[row["pool_id"]],
        )
        for row in vectors("v3_pools")
    }
