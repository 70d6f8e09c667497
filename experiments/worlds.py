"""The worlds of a configuration: those to train and tune on, and those nobody may touch before the end."""

from __future__ import annotations

from typing import Any, cast

import gymnasium as gym
import numpy as np

from arbgym.data import read_tape
from arbgym.engine import NativeVectorEnv
from arbgym.envs.sell import SellConfig
from arbgym.market.tape import TapeError
from arbgym.market.token_tape import RESERVE, TIME_S, TokenTape
from experiments.config import ConfigError, Setting

TRAINING_SHARE = 0.7  # of a tape's time: earlier rows train and tune, later rows judge
EMBARGO_ROWS = 5  # left out between the two


def training_arguments(config: Setting[Any]) -> dict[str, Any]:
    """Keyword arguments of training environments: simulated worlds, or the earlier span of the recorded data."""
    return config.environment_arguments() | _span(config, 0.0, TRAINING_SHARE)


def held_out_arguments(config: Setting[Any]) -> dict[str, Any]:
    """Keyword arguments of held-out environments: simulated worlds (by their seeds), or the later span of the
    recorded data.
    """
    return config.environment_arguments() | _span(config, TRAINING_SHARE, 1.0, EMBARGO_ROWS)


def _span(config: Setting[Any], start: float, end: float, embargo_rows: int = 0) -> dict[str, Any]:
    """The replay's part of the tape; nothing for simulated worlds. Raises TapeError (a ValueError) on a bad file."""
    if config.data is None:
        return {}
    if config.environment == "ArbSell-v0":
        return {"feed": "replay", "tape": _entries(TokenTape.load(config.data), config.world, start, end)}
    tape = read_tape(config.data).span(start, end, embargo_rows)
    # a world is a window of the span: half of it at most, so that there is more than one
    blocks = min(config.world.episode_blocks, len(tape.timestamps) // 2)
    return {"feed": "replay", "tape": tape, "episode_blocks": blocks}


def _entries(tape: TokenTape, world: SellConfig, start: float, end: float) -> TokenTape:
    """The tape with the entries of a share of the entries' time; of the earlier span only those whose position is closed before
    the later one begins, so that nothing of it is trained on. Raises TapeError where a span has none.
    """
    times = tape.rows[tape.entries, TIME_S]
    begins, ends = (float(times.min()) + np.array([start, end]) * float(np.ptp(times))).tolist()
    kept = times >= begins
    if end < 1.0:
        limits = np.array([bucket.tvl_below_quote for bucket in world.buckets[:-1]])
        places = np.searchsorted(limits, 2.0 * tape.rows[tape.entries, RESERVE], side="right")
        horizons = np.array([bucket.horizon_s for bucket in world.buckets])[places]
        last = tape.rows[tape.starts[tape.token_of(tape.entries) + 1] - 1, TIME_S]
        kept &= np.minimum(times + horizons, last) < ends
    if not kept.any():
        which = "earlier" if end < 1.0 else "later"
        raise TapeError(f"none in the {which} span of {tape.source or 'the tape'}; accepted are some in each", "entries")
    return tape.with_entries(tape.entries[kept])


def training_batch(config: Setting[Any], num_envs: int, device: str = "cpu") -> NativeVectorEnv:
    """A native batch of training environments, on "cpu" or "cuda" (a ``CudaVectorEnv``, which has the same names). Raises
    ValueError when the configuration, the data or the device is refused.
    """
    arguments = training_arguments(config)
    if device != "cpu":
        try:
            return cast(NativeVectorEnv, gym.make_vec(config.environment, num_envs=num_envs, device=device, **arguments))
        except (ImportError, RuntimeError) as error:
            raise ConfigError(f"simulator = {device!r}: {error}") from error
    env = gym.make_vec(config.environment, num_envs=num_envs, **arguments)
    if not isinstance(env, NativeVectorEnv):
        raise TypeError(f"{config.environment}: its vector environment is a {type(env).__name__}, not a native one")
    return env
