"""A policy in ArbFlash-v0 behind the risk gate: open limits change no bit, closed ones leave waiting."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from arbgym.envs.flash import ACTION
from arbgym.evaluation import Floats, MaskedDecide, Simulator
from arbgym.live.gated import play_gated
from arbgym.live.profiles import PROFILES
from tests.live.test_risk import WIDE

FLASH = "arbgym.envs.flash"
SIMULATOR = Simulator(FLASH, {"episode_blocks": 60}, seed=5, episodes=24)


def rule(channel: float, bid_share: float = 0.5) -> Any:
    """Tries the best route wherever it pays for its gas and tip."""

    def decide(observations: Floats) -> Floats:
        decisions = np.zeros((len(observations), len(ACTION)))
        gas_share = observations[:, 4]
        decisions[:, 0] = (observations[:, 1] > 0.0) & (gas_share < 0.9 - bid_share)
        decisions[:, 1:] = (1.0, bid_share, 0.2, 0.0, channel)
        return decisions

    return decide


class EverySecond:
    """A masked policy: waits where it must, and every second row."""

    masked = True

    def predict(self, observations: Any, masks: Any) -> Any:
        actions = np.zeros((len(observations), len(ACTION)), dtype=np.int64)
        actions[::2, 0] = masks[::2, 1]
        actions[:, 1], actions[:, 2] = 3, 5
        return actions


@pytest.mark.parametrize("decide", [rule(0.0), MaskedDecide(EverySecond(), ACTION, "multidiscrete")], ids=["rule", "masked"])
def test_open_limits_change_no_bit(decide: Any) -> None:
    """Where gas is next to free: no limits are open enough for an order that is expected to lose."""
    simulator = replace(SIMULATOR, arguments={"episode_blocks": 60, "base_fee_gwei": 1e-6})
    free = simulator.run(decide)
    gated = play_gated(simulator, decide, WIDE, 1e6)
    assert free.sums["attempted"].sum() > 50.0
    assert gated.refused == {}
    np.testing.assert_array_equal(free.lengths, gated.totals.lengths)
    for name, sums in free.sums.items():
        np.testing.assert_array_equal(sums, gated.totals.sums[name])


def test_a_notional_of_zero_is_waiting() -> None:
    waiting = SIMULATOR.run(lambda observations: np.zeros((len(observations), len(ACTION))))
    gated = play_gated(SIMULATOR, rule(0.0), replace(WIDE, max_notional_eth=0.0))
    assert set(gated.refused) == {"max_notional_eth"}
    for name, sums in waiting.sums.items():
        np.testing.assert_array_equal(sums, gated.totals.sums[name])


def test_reverts_in_the_public_mempool_are_bounded_by_the_gate() -> None:
    """Whoever bids little in public reverts often; the gate stops each episode after so many in a row."""
    simulator = Simulator(FLASH, {"episode_blocks": 60}, seed=5, episodes=24)
    limits = replace(WIDE, max_consecutive_reverts=2, max_daily_loss_eth=0.02)
    careless = rule(1.0, 0.01)
    free, gated = simulator.run(careless), play_gated(simulator, careless, limits, 1e6)
    coin_quote = simulator.make().config.initial_price_quote
    assert free.sums["reverted"].max() > 5.0
    assert -gated.totals.sums["net_profit"].min() <= 0.02 * coin_quote * 1.1  # the coin's price moves within an episode
    assert {"state", "max_daily_loss_eth"} & set(gated.refused)
    assert gated.totals.sums["reverted"].sum() < free.sums["reverted"].sum() / 2


def test_profiles_order_what_is_attempted() -> None:
    attempts = [play_gated(SIMULATOR, rule(0.0), PROFILES[name]).totals.sums["attempted"].sum() for name in PROFILES]
    assert attempts == sorted(attempts)
    assert attempts[-1] > 0.0


@pytest.mark.parametrize("where", [("arbgym.envs.cross", {}), (FLASH, {"preset": "auction"})])
def test_worlds_without_flash_loans_are_refused(where: tuple[str, dict[str, Any]]) -> None:
    environment, arguments = where
    with pytest.raises(ValueError, match="accepted is ArbFlash-v0 with pools"):
        play_gated(Simulator(environment, arguments, 5, 2), rule(0.0), WIDE)
