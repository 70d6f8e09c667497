"""A single environment passes stable-baselines3's own checker, in every encoding of the action."""

from __future__ import annotations

import warnings

import gymnasium as gym
import pytest
from stable_baselines3.common.env_checker import check_env

import arbgym


@pytest.mark.parametrize("action", ["multidiscrete", "discrete", "continuous"])
@pytest.mark.parametrize("environment", arbgym.ENVIRONMENTS)
def test_stable_baselines3_finds_nothing_to_say(environment: str, action: str) -> None:
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        check_env(gym.make(environment, action=action).unwrapped)
    assert [str(warning.message) for warning in said] == []
