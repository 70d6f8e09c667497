"""The worlds of a configuration: those to train and tune on, and those nobody may touch before the end."""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from arbgym.engine import NativeVectorEnv
from experiments.config import RunConfig


def training_arguments(config: RunConfig[Any, Any]) -> dict[str, Any]:
    """Keyword arguments of training environments: simulated worlds, or the earlier span of the recorded data."""
    return config.environment_arguments()


def held_out_arguments(config: RunConfig[Any, Any]) -> dict[str, Any]:
    """Keyword arguments of held-out environments: simulated worlds (by their seeds), or the later span of the
    recorded data.
    """
    return config.environment_arguments()


def training_batch(config: RunConfig[Any, Any], num_envs: int) -> NativeVectorEnv:
    """A native batch of training environments. Raises ValueError when the configuration or the data is refused."""
    env = gym.make_vec(config.environment, num_envs=num_envs, **training_arguments(config))
    if not isinstance(env, NativeVectorEnv):
        raise TypeError(f"{config.environment}: its vector environment is a {type(env).__name__}, not a native one")
    return env
