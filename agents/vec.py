"""The stable-baselines3 face of a native batch: one compiled call a step, no Python per environment but for
finished episodes.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from arbgym.engine import NativeVectorEnv


class NativeVecEnv(VecEnv):
    """A ``NativeVectorEnv`` (same-step autoreset) as a stable-baselines3 ``VecEnv``.

    Learners keep the last observations and episode ends while they step, so those two are handed out from a
    pair of buffers in turn; rewards are the engine's own buffer. All three are valid until the second next
    step. ``infos`` is one list of dictionaries for good: a dictionary holds something only at the step that
    ends its environment's episode: ``episode`` {r, l, t}, ``terminal_observation`` and ``TimeLimit.truncated``.

    ``simulation_seconds`` is the wall time spent in the engine so far. Raises ValueError for a batch in another
    autoreset mode.
    """

    def __init__(self, env: NativeVectorEnv) -> None:
        mode = env.metadata["autoreset_mode"]
        if getattr(mode, "name", mode).lower() != "same_step":
            raise ValueError(f"autoreset = {mode}; accepted is 'same_step'")
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self._observations = tuple(np.empty_like(env.observations) for _ in range(2))
        self._dones = tuple(np.empty(env.num_envs, dtype=np.bool_) for _ in range(2))
        self._turn = 0
        self._infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        self._filled: list[int] = []
        self._start = time.perf_counter()
        self.simulation_seconds = 0.0

    def reset(self) -> NDArray[np.float32]:
        """Start episodes, with the seeds given to ``seed`` since the last reset if any."""
        seeds = None if all(seed is None for seed in self._seeds) else self._seeds
        self.env.reset(seed=seeds)
        self._reset_seeds()
        return self._observed()

    def step_async(self, actions: NDArray[Any]) -> None:
        """Take the step; its results are handed out by ``step_wait``."""
        start = time.perf_counter()
        self.env.step_in_place(actions)
        self.simulation_seconds += time.perf_counter() - start

    def step_wait(
        self,
    ) -> tuple[NDArray[np.float32], NDArray[Any], NDArray[np.bool_], list[dict[str, Any]]]:
        """Observations (N, D), rewards (N,), episode ends (N,) and infos of the step that ``step_async`` took."""
        env = self.env
        observations = self._observed()
        dones = np.logical_or(env.terminated, env.truncated, out=self._dones[self._turn])
        for i in self._filled:
            self._infos[i].clear()
        self._filled = np.flatnonzero(dones).tolist()
        for i in self._filled:
            self._infos[i].update(self._ended(i))
        return observations, env.rewards, dones, self._infos

    def _observed(self) -> NDArray[np.float32]:
        self._turn = 1 - self._turn
        target = self._observations[self._turn]
        np.copyto(target, self.env.observations)
        return target

    def _ended(self, i: int) -> dict[str, Any]:
        env = self.env
        return {
            "episode": {
                "r": float(env.episode_return[i]),
                "l": int(env.episode_length[i]),
                "t": time.perf_counter() - self._start,
            },
            "terminal_observation": env.final_observations[i].copy(),
            "TimeLimit.truncated": bool(env.truncated[i] and not env.terminated[i]),
        }

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The batch's attribute, once for each asked environment."""
        return [getattr(self.env, attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: the rows of a batch share one configuration."""
        raise AttributeError(f"{attr_name}: the environments of a native batch share one configuration; build another batch")

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Refused: the rows of a batch have no methods of their own."""
        raise AttributeError(f"{method_name}: the environments of a native batch have no methods of their own")

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each asked environment: rows are never wrapped."""
        return [False] * len(self._rows(indices))

    def _rows(self, indices: VecEnvIndices) -> Sequence[int]:
        return [int(i) for i in self._get_indices(indices)]
