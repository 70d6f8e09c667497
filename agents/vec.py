"""The stable-baselines3 face of a native batch: one compiled call a step, no Python per environment but for
finished episodes; and its tensor face, which has none at all.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any, NamedTuple, overload

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from arbgym.engine import NativeVectorEnv


class StepTensors(NamedTuple):
    """The buffers of a batch of N environments as tensors that share their memory; every step rewrites them."""

    observations: torch.Tensor  # (N, D) float32
    final_observations: torch.Tensor  # (N, D) float32: of rows whose episode ended at this step
    rewards: torch.Tensor  # (N,) float64
    terminated: torch.Tensor  # (N,) bool
    truncated: torch.Tensor  # (N,) bool
    episode_return: torch.Tensor  # (N,) float64: of each row's last finished episode
    episode_length: torch.Tensor  # (N,) int64


class NativeVecEnv(VecEnv):
    """A ``NativeVectorEnv`` (same-step autoreset) as a stable-baselines3 ``VecEnv``.

    Learners keep the last observations and episode ends while they step, so those two are handed out from a
    pair of buffers in turn; rewards are the engine's own buffer. All three are valid until the second next
    step. ``infos`` is one list of dictionaries for good: a dictionary holds something only at the step that
    ends its environment's episode: ``episode`` {r, l, t}, ``terminal_observation`` and ``TimeLimit.truncated``.

    Learners made for it call ``step_tensors`` instead of ``step`` and read ``tensors``, on ``device``.

    ``simulation_seconds`` is the wall time spent in the engine so far (on CUDA: in starting it). Raises ValueError for a batch in
    another autoreset mode.
    """

    def __init__(self, env: NativeVectorEnv) -> None:
        mode = env.metadata["autoreset_mode"]
        if getattr(mode, "name", mode).lower() != "same_step":
            raise ValueError(f"autoreset = {mode}; accepted is 'same_step'")
        self.env = env
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        self.tensors = StepTensors(*(torch.as_tensor(getattr(env, name)) for name in StepTensors._fields))
        self.device = self.tensors.observations.device
        shape = tuple(self.tensors.observations.shape)
        self._observations = tuple(np.empty(shape, dtype=np.float32) for _ in range(2))
        self._dones = tuple(np.empty(env.num_envs, dtype=np.bool_) for _ in range(2))
        self._turn = 0
        self._infos: list[dict[str, Any]] = [{} for _ in range(env.num_envs)]
        self._filled: list[int] = []
        self._start = time.perf_counter()
        self.simulation_seconds = 0.0

    def is_on(self, device: torch.device) -> bool:
        """Whether the simulator is on a learner's device; "cuda" alone is the current GPU."""
        if str(device) == "cuda":
            device = torch.device("cuda", torch.cuda.current_device())
        return device == self.device

    def step_tensors(self, actions: torch.Tensor) -> None:
        """Advance every environment by actions (N,), (N, A) of the batch's encoding; the results are in ``tensors``."""
        start = time.perf_counter()
        self.env.step_in_place(actions)
        self.simulation_seconds += time.perf_counter() - start

    def action_masks(self) -> NDArray[np.bool_] | torch.Tensor:
        """Which actions (N, L) can be carried out now: see ``NativeVectorEnv.action_masks``."""
        return self.env.action_masks()

    @property
    def infos(self) -> LazyInfos:
        """What ``step_wait`` would hand out as ``infos`` after ``step_tensors``: dictionaries are made when they are read."""
        return LazyInfos(self)

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
        tensors = self.tensors
        observations = self._observed()
        dones = self._dones[self._turn]
        torch.from_numpy(dones).copy_(tensors.terminated | tensors.truncated)
        for i in self._filled:
            self._infos[i].clear()
        self._filled = np.flatnonzero(dones).tolist()
        for i in self._filled:
            self._infos[i].update(self.ended(i))
        return observations, tensors.rewards.cpu().numpy(), dones, self._infos

    def _observed(self) -> NDArray[np.float32]:
        self._turn = 1 - self._turn
        target = self._observations[self._turn]
        torch.from_numpy(target).copy_(self.tensors.observations)
        return target

    def ended(self, i: int) -> dict[str, Any]:
        """``infos[i]`` of a row whose episode ended at this step."""
        env = self.env
        return {
            "episode": {
                "r": float(env.episode_return[i]),
                "l": int(env.episode_length[i]),
                "t": time.perf_counter() - self._start,
            },
            "terminal_observation": self.tensors.final_observations[i].cpu().numpy().copy(),
            "TimeLimit.truncated": bool(env.truncated[i] and not env.terminated[i]),
        }

    def close(self) -> None:
        """Close the batch."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """The batch's attribute, once for each asked environment."""
        if attr_name == "action_masks":  # how sb3-contrib asks whether there are masks
            return [self.action_masks] * len(self._rows(indices))
        return [getattr(self.env, attr_name)] * len(self._rows(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Refused: the rows of a batch share one configuration."""
        raise AttributeError(f"{attr_name}: the environments of a native batch share one configuration; build another batch")

    def env_method(self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any) -> list[Any]:
        """Each asked row's ``action_masks``, as sb3-contrib asks for them; any other method is refused, as rows have none."""
        if method_name != "action_masks":
            raise AttributeError(f"{method_name}: the environments of a native batch have no methods of their own")
        masks = torch.as_tensor(self.action_masks()).cpu().numpy()
        return [masks[i].copy() for i in self._rows(indices)]

    def env_is_wrapped(
        self, wrapper_class: type[gymnasium.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> list[bool]:
        """False for each asked environment: rows are never wrapped."""
        return [False] * len(self._rows(indices))

    def _rows(self, indices: VecEnvIndices) -> Sequence[int]:
        return [int(i) for i in self._get_indices(indices)]


class LazyInfos(Sequence[dict[str, Any]]):
    """Info dictionaries of the last step, made when they are read: empty but for rows whose episode ended."""

    def __init__(self, vec: NativeVecEnv) -> None:
        self._vec = vec

    def __len__(self) -> int:
        return self._vec.num_envs

    @overload
    def __getitem__(self, index: int) -> dict[str, Any]: ...

    @overload
    def __getitem__(self, index: slice) -> list[dict[str, Any]]: ...

    def __getitem__(self, index: int | slice) -> dict[str, Any] | list[dict[str, Any]]:
        rows = range(len(self))[index]
        if isinstance(rows, range):
            return [self[i] for i in rows]
        tensors = self._vec.tensors
        return self._vec.ended(rows) if bool(tensors.terminated[rows] | tensors.truncated[rows]) else {}
