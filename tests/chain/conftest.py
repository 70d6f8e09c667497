"""Fixtures of a real chain: skipped, with what to do about it, where anvil or web3 is missing."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chain.anvil import BINARY, MODULES, Anvil
from tests.chain.market import Market


@pytest.fixture(scope="session")
def chain_packages() -> None:
    """Skip where the node or the contracts are not installed."""
    pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[node]"')
    if not BINARY.exists():
        pytest.skip(f"anvil and the pools' contracts are not in {MODULES.parent.name}/: make chain")


@pytest.fixture
def anvil(chain_packages: None) -> Iterator[Anvil]:
    """A fresh node of the test's own."""
    node = Anvil()
    yield node
    node.kill()


@pytest.fixture
def market(anvil: Anvil) -> Market:
    """Two tokens (6 and 18 decimals) and a trader on the node."""
    return Market(anvil)
