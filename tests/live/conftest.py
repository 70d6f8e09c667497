"""The real chain's fixtures, for the live adapter's tests too."""

from tests.chain.conftest import anvil, chain_packages, market

__all__ = ["anvil", "chain_packages", "market"]
