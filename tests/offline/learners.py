"""Toys that tests of the learners alone share."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np

from agents.offline import CQLRecipe, IQLRecipe, OfflineRecipe, Transitions

CASES = (("iql", "continuous"), ("cql", "continuous"), ("cql", "discrete"), ("cloning", "continuous"), ("cloning", "discrete"))
EPISODES = 7  # of a toy that several ranks share
STEPS = 12  # that they take on it


def toy(encoding: str, count: int = 4_000, episodes: int = 1) -> tuple[Transitions, Any, Any]:
    """A bandit played at random: the reward is highest where the first action equals the first observation."""
    generator = np.random.default_rng(0)
    observations = generator.uniform(-0.8, 0.8, (count + episodes, 2)).astype(np.float32)
    rows = np.arange(count) + np.arange(count) * episodes // count
    seen = observations[rows, 0]
    if encoding == "discrete":
        space: Any = gymnasium.spaces.Discrete(5)
        actions = generator.integers(0, 5, (count, 1))
        meant = actions[:, 0] / 2.5 - 0.8
    else:
        space = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
        actions = generator.uniform(-1.0, 1.0, (count, 2)).astype(np.float32)
        meant = actions[:, 0]
    rewards = (-np.abs(meant - seen)).astype(np.float32)
    box = gymnasium.spaces.Box(-1.0, 1.0, (2,), np.float32)
    return Transitions(observations, actions, rewards, np.zeros(count, dtype=bool), rows), box, space


def recipe_of(algorithm: str) -> OfflineRecipe:
    """Small numbers of a learner."""
    if algorithm == "iql":
        return IQLRecipe(batch=128, hidden=(32, 32))
    return CQLRecipe(batch=128, hidden=(32, 32), conservatism=0.01)
