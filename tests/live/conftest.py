"""The real chain's fixtures, for the live adapter's tests too, and quiet logs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.chain.conftest import anvil, chain_packages, market

__all__ = ["anvil", "chain_packages", "market", "quiet_logs"]


@pytest.fixture(autouse=True)
def quiet_logs() -> Iterator[None]:
    """Runners log; nobody reads it here, and a test that fills the disk must not fail on its own log."""
    try:
        import structlog
    except ImportError:  # the live extra is missing: the tests that need it skip
        yield
        return
    before = structlog.get_config()
    structlog.configure(logger_factory=structlog.ReturnLoggerFactory(), cache_logger_on_first_use=False)
    yield
    structlog.configure(**before)
