"""The node the other tests run on, itself."""

from __future__ import annotations

from tests.chain.anvil import KEPT_STATES, Anvil


def test_a_long_chain_leaves_nothing_on_the_disk(anvil: Anvil) -> None:
    for _ in range(4):
        anvil.mine(KEPT_STATES)
    assert anvil.block_number >= 4 * KEPT_STATES
    assert not [path for path in anvil.folder.rglob("*") if path.is_file()]
    anvil.kill()
    assert not anvil.folder.exists()
