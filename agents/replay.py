"""Replay in preallocated tensors: each observation is stored once, a vector step is added and a batch is sampled by a handful of
calls on the learner's device, uniformly or by priority (Schaul et al. 2016, arXiv 1511.05952), with n-step returns.
"""

from __future__ import annotations

import math
import os
from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3.common.buffers import BaseBuffer, ReplayBuffer
from stable_baselines3.common.vec_env import VecNormalize

from agents.sum_tree import SumTree

_TERMINATED, _TRUNCATED = 1, 2
_SMALLEST_PRIORITY = 1e-6  # added to every error, so that no transition is lost for good


class ReplaySamples(NamedTuple):
    """B transitions on the learner's device; the first six are stable-baselines3's ``ReplayBufferSamples``."""

    observations: torch.Tensor  # (B, ...)
    actions: torch.Tensor  # (B, 1) int64
    next_observations: torch.Tensor  # (B, ...): any observation where ``dones`` is 1, as nothing follows there
    dones: torch.Tensor  # (B, 1) float32: 1 where the episode ended by its own rule
    rewards: torch.Tensor  # (B, 1) float32: summed and discounted over n steps
    discounts: torch.Tensor | None  # (B, 1) float32: what the next value counts; None for 1-step returns
    weights: torch.Tensor | None  # (B, 1) float32: importance weights, at most 1; None when sampled uniformly
    next_masks: torch.Tensor | None  # (B, actions) bool: which actions are valid in the next state
    indices: torch.Tensor  # (B,) int64: for ``update_priorities``


class TensorReplayBuffer(ReplayBuffer):
    """A stable-baselines3 ``ReplayBuffer`` whose data are tensors on ``device``.

    ``buffer_size`` transitions are kept in rows of ``n_envs``; ``sample`` and the numpy ``add`` are the library's. A learner on a
    native batch calls ``begin`` with the first observations and ``append`` at every step, with tensors.

    The next observation of a transition is the next row's. Where an episode was cut off by a time limit (or by ``begin``), the
    next row belongs to another episode, and the true final observation lies in a table aside: it has room for ``cut_share`` of
    all transitions at the start and grows when more are cut off. Nothing follows an episode's own end, so nothing is stored for
    it.

    ``n_steps`` and ``gamma``: rewards of so many steps are summed as by the library's ``NStepReplayBuffer``; a sum stops where
    the episode ends and at the newest row. ``prioritised``: a transition is sampled by (|error| + 1e-6) ** ``alpha`` in strata, a
    new one by the highest priority so far, and its importance weight (size * probability) ** -``beta`` is divided by the batch's
    highest. ``masks``: which actions are valid is stored with every observation, in bits. ``generator`` draws the samples.

    The memory is reserved at once. Raises ValueError for a space or a number that is not accepted, and when there is too little
    memory.
    """

    observations: torch.Tensor  # type: ignore[assignment]  # (rows, n_envs, ...)
    actions: torch.Tensor  # type: ignore[assignment]  # (rows, n_envs), the smallest integers that hold them
    rewards: torch.Tensor  # type: ignore[assignment]  # (rows, n_envs) float32
    flags: torch.Tensor  # (rows, n_envs) uint8: 1 terminated, 2 truncated
    masks: torch.Tensor | None  # (rows, n_envs, bytes) uint8

    def __init__(
        self,
        buffer_size: int,
        observation_space: spaces.Space[Any],
        action_space: spaces.Space[Any],
        device: torch.device | str = "auto",
        n_envs: int = 1,
        optimize_memory_usage: bool = False,  # stable-baselines3 passes it; observations are stored once in any case
        *,
        n_steps: int = 1,
        gamma: float = 0.99,
        prioritised: bool = False,
        alpha: float = 0.6,
        beta: float = 0.4,
        masks: bool = False,
        cut_share: float = 0.05,
        generator: torch.Generator | None = None,
    ) -> None:
        if isinstance(observation_space, spaces.Dict):
            raise ValueError(f"observation_space = {observation_space}; accepted is any space but Dict")
        if not isinstance(action_space, spaces.Discrete):
            raise ValueError(f"action_space = {action_space}; accepted is Discrete")
        require_priorities(alpha, beta)
        if n_steps < 1 or not 0.0 <= gamma <= 1.0 or not 0.0 <= cut_share <= 1.0:
            raise ValueError(
                f"n_steps = {n_steps}, gamma = {gamma}, cut_share = {cut_share}; accepted are 1 or more, 0 to 1 and 0 to 1"
            )
        BaseBuffer.__init__(self, buffer_size, observation_space, action_space, device, n_envs)
        self.buffer_size = max(buffer_size // n_envs, 1)
        self.n_steps, self.gamma, self.alpha, self.beta = n_steps, gamma, alpha, beta
        self.optimize_memory_usage, self.handle_timeout_termination = False, True  # what stable-baselines3 looks at
        self.generator = generator
        self.steps = 0  # rows written so far
        self._rows = self.buffer_size + 1  # one more, for the newest transition's next observation
        self._reserve(int(action_space.n), prioritised, masks, cut_share)

    def _reserve(self, actions: int, prioritised: bool, masks: bool, cut_share: float) -> None:
        dtype = torch.from_numpy(np.zeros(0, self.observation_space.dtype)).dtype
        shape, device = (self._rows, self.n_envs), self.device
        cut = max(math.ceil(cut_share * self.buffer_size * self.n_envs), 1)
        self._actions = actions
        transitions = self._rows * self.n_envs
        needed = (transitions + cut) * math.prod(self.obs_shape) * dtype.itemsize + cut * 8
        needed += transitions * (_action_dtype(actions).itemsize + 5 + 5 * prioritised + -(-actions // 8) * masks)
        available = _available_bytes(device)
        try:
            if available is not None and needed > available:
                raise RuntimeError(f"{available / 2**30:.1f} GiB are available")
            self.observations = torch.zeros((*shape, *self.obs_shape), dtype=dtype, device=device).fill_(0)
            self.actions = torch.zeros(shape, dtype=_action_dtype(actions), device=device).fill_(0)
            self.rewards = torch.zeros(shape, device=device).fill_(0.0)
            self.flags = torch.zeros(shape, dtype=torch.uint8, device=device).fill_(0)
            self.masks = torch.full((*shape, -(-actions // 8)), 255, dtype=torch.uint8, device=device) if masks else None
            self.cut = CutTable(cut, self._rows, self.n_envs, self.observations)
            self.tree = SumTree(transitions, device) if prioritised else None
        except (RuntimeError, MemoryError) as error:
            raise ValueError(
                f"buffer = {self.buffer_size * self.n_envs:,} transitions need {needed / 2**30:.1f} GiB on {device}: {error}; "
                "accepted is a buffer that fits into memory"
            ) from error
        self._highest = torch.ones((), device=device)  # priority of a transition that was not learned from yet
        self._powers = 2 ** torch.arange(8, dtype=torch.uint8, device=device)

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        tensors = [self.observations, self.actions, self.rewards, self.flags, self.cut.keys, self.cut.observations]
        tensors += [] if self.masks is None else [self.masks]
        tensors += [] if self.tree is None else self.tree.levels
        return sum(tensor.nbytes for tensor in tensors)

    @property
    def raw_bytes(self) -> int:
        """Memory of one observation, action, reward and flag for each transition."""
        row = math.prod(self.obs_shape) * self.observations.itemsize + self.actions.itemsize + 4 + 1
        return self.buffer_size * self.n_envs * row

    # ---------------------------------------------------------------------------------------------------------- filling
    def reset(self) -> None:
        """Forget everything."""
        super().reset()
        self.steps = 0
        self.cut.clear()
        if self.tree is not None:
            self.tree.fill(0, self.tree.leaves, 0.0)
            self._highest.fill_(1.0)

    def begin(self, observations: torch.Tensor, masks: torch.Tensor | None = None) -> None:
        """The environments start anew with observations (N, ...): an episode that was not over is cut off where it was."""
        if self.steps:
            self._cut_off(torch.ones(self.n_envs, dtype=torch.bool, device=self.device))
        self._observe(observations, masks)

    def append(
        self,
        actions: torch.Tensor,
        rewards: torch.Tensor,
        terminated: torch.Tensor,
        observations: torch.Tensor,
        cut: tuple[torch.Tensor, torch.Tensor] | None = None,
        masks: torch.Tensor | None = None,
    ) -> None:
        """One step of all N environments: actions, rewards and terminated (N,), and the observations (N, ...) now, which are
        those of a new episode where one has ended. ``cut``: the indices (K,), ascending, of environments whose episode was
        truncated and not terminated, and their final observations (K, ...). ``masks``: the actions (N, L) that are valid now.
        """
        row = self.pos
        self.actions[row] = actions.reshape(-1)
        self.rewards[row] = rewards
        self.flags[row] = terminated
        self.cut.drop(row)
        if cut is not None:
            environments, finals = cut
            environments = environments.to(self.device)
            self.flags[row].index_fill_(0, environments, _TRUNCATED)
            self.cut.keep(self.steps, environments, finals.to(self.device))
        self.steps += 1
        self.pos = self.steps % self._rows
        self.full = self.steps >= self.buffer_size
        self._observe(observations, masks)
        if self.tree is not None:
            n = self.n_envs
            self.tree.fill(row * n, row * n + n, self._highest)
            self.tree.fill(self.pos * n, self.pos * n + n, 0.0)  # the row that the next step overwrites

    def add(
        self,
        obs: NDArray[Any],
        next_obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        done: NDArray[Any],
        infos: list[dict[str, Any]],
    ) -> None:
        """One step as stable-baselines3 hands it over; ``TimeLimit.truncated`` in an info tells a time limit from an end."""
        shape = (self.n_envs, *self.obs_shape)
        now = torch.as_tensor(np.asarray(obs).reshape(shape), device=self.device)
        following = torch.as_tensor(np.asarray(next_obs).reshape(shape), device=self.device)
        if self.steps:
            elsewhere = (self.observations[self.pos] != now).flatten(1).any(1)
            if bool(elsewhere.any()):
                self._cut_off(elsewhere)
        self._observe(now, None)
        ended = np.asarray(done).reshape(-1).astype(bool)
        truncated = ended & np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos])
        rows = torch.from_numpy(np.flatnonzero(truncated)).to(self.device)
        self.append(
            torch.from_numpy(np.asarray(action).reshape(-1)),
            torch.from_numpy(np.asarray(reward, dtype=np.float32).reshape(-1)),
            torch.from_numpy(ended & ~truncated),
            following,
            (rows, following[rows]) if len(rows) else None,
        )

    def _observe(self, observations: torch.Tensor, masks: torch.Tensor | None) -> None:
        self.observations[self.pos].copy_(observations.reshape(self.n_envs, *self.obs_shape), non_blocking=True)
        if self.masks is not None:
            if masks is None:
                self.masks[self.pos] = 255
            else:
                padded = torch.nn.functional.pad(masks.to(self.device), (0, -self._actions % 8)).view(self.n_envs, -1, 8)
                torch.sum(padded * self._powers, 2, dtype=torch.uint8, out=self.masks[self.pos])

    def _cut_off(self, environments: torch.Tensor) -> None:
        """Truncate the last transition of the marked (N,) environments; what would have come next stands in the current row."""
        last = (self.pos - 1) % self._rows
        flags = self.flags[last]
        open_ = environments & (flags == 0)
        finals = self.observations[self.pos].clone()
        before = (flags == _TRUNCATED).nonzero()[:, 0]
        if len(before):
            finals[before] = self.cut.take_back(last, len(before))
        flags.masked_fill_(open_, _TRUNCATED)
        now = (flags == _TRUNCATED).nonzero()[:, 0]
        if len(now):
            self.cut.keep(self.steps - 1, now, finals[now])

    def valid_actions(self) -> torch.Tensor | None:
        """Which actions (N, L) are valid now, where masks are kept."""
        return None if self.masks is None else self._unpacked(self.masks[self.pos])

    # --------------------------------------------------------------------------------------------------------- sampling
    def sample(self, batch_size: int, env: VecNormalize | None = None) -> ReplaySamples:  # type: ignore[override]
        """Transitions drawn with replacement. Raises ValueError when there is none."""
        if self.steps == 0:
            raise ValueError("the replay buffer is empty; add steps before sampling")
        if self.tree is None:
            n, rows = self.n_envs, self.size()
            indices = torch.randint(rows * n, (batch_size,), device=self.device, generator=self.generator)
            oldest = (self.pos - rows) % self._rows
            if oldest:
                indices = (indices + oldest * n) % (self._rows * n)
            return self.transitions(indices, env)
        indices = self.tree.sample(batch_size, self.generator)
        shares = self.tree.weights(indices).to(torch.float64) / self.tree.total
        weights = (shares * (self.size() * self.n_envs)) ** -self.beta
        weights = (weights / weights.max()).to(torch.float32)
        return self.transitions(indices, env)._replace(weights=weights[:, None])

    def transitions(self, indices: torch.Tensor, env: VecNormalize | None = None) -> ReplaySamples:
        """The transitions at indices (B,): row * n_envs + environment."""
        n, places = self.n_envs, self._rows * self.n_envs
        rewards, flags = self.rewards.view(-1), self.flags.view(-1)
        observations = self.observations.view(places, *self.obs_shape)
        last, discounts = indices, None
        if self.n_steps == 1:
            summed = _normalised_rewards(rewards.index_select(0, indices), env)
        else:
            ahead = torch.arange(self.n_steps, device=self.device)
            window = (indices[:, None] + ahead * n) % places
            left = (self.pos - 1 - indices // n) % self._rows  # rows between this one and the newest
            ends = (flags[window] != 0) | (ahead >= left[:, None])
            taken = (ends.cumsum(1) - ends.long()) == 0
            length = taken.sum(1)
            powers = self.gamma ** ahead.to(torch.float32)
            summed = (_normalised_rewards(rewards[window], env) * powers * taken).sum(1)
            last = (indices + (length - 1) * n) % places
            discounts = (self.gamma ** length.to(torch.float32))[:, None]
        following = last + n
        following = torch.where(following < places, following, following - places)
        ended = flags.index_select(0, last)
        next_observations = observations.index_select(0, following)
        next_masks = None
        if self.masks is not None:
            next_masks = self._unpacked(self.masks.view(places, -1).index_select(0, following))
        if self.cut.live:
            truncated = ended == _TRUNCATED
            numbers = last + self.steps // self._rows * places  # of all transitions ever; rows from pos on are a lap older
            numbers = torch.where(last < self.pos * n, numbers, numbers - places)
            finals = self.cut.find(numbers)
            next_observations = torch.where(truncated.view(-1, *[1] * len(self.obs_shape)), finals, next_observations)
            if next_masks is not None:
                next_masks |= truncated[:, None]  # the environment was reset before it could be asked
        return ReplaySamples(
            _normalised_observations(observations.index_select(0, indices), env),
            self.actions.view(-1).index_select(0, indices).to(torch.int64)[:, None],
            _normalised_observations(next_observations, env),
            (ended == _TERMINATED).to(torch.float32)[:, None],
            summed[:, None],
            discounts,
            None,
            next_masks,
            indices,
        )

    def update_priorities(self, indices: torch.Tensor, errors: torch.Tensor) -> None:
        """Set what the transitions at indices (B,) are sampled by, from their errors (B,). Raises ValueError if sampling is
        uniform.
        """
        if self.tree is None:
            raise ValueError("priorities of a buffer that samples uniformly; accepted is one with prioritised = True")
        priorities = (errors.detach().abs().to(torch.float32) + _SMALLEST_PRIORITY) ** self.alpha
        self.tree.set(indices, priorities)
        self._highest = torch.maximum(self._highest, priorities.max())

    def _unpacked(self, packed: torch.Tensor) -> torch.Tensor:
        return ((packed[:, :, None] & self._powers) != 0).flatten(1)[:, : self._actions]

    # ----------------------------------------------------------------------------------------------------------- moving
    def to(self, device: torch.device) -> None:
        """Move all data."""
        self.device = device
        for name in ("observations", "actions", "rewards", "flags", "masks", "_highest", "_powers"):
            tensor = getattr(self, name)
            setattr(self, name, None if tensor is None else tensor.to(device))
        self.cut.keys, self.cut.observations = self.cut.keys.to(device), self.cut.observations.to(device)
        if self.tree is not None:
            self.tree.levels = [level.to(device) for level in self.tree.levels]

    def __getstate__(self) -> dict[str, Any]:
        state = self.__dict__.copy()
        state["generator"] = None  # the learner's
        return state


class CutTable:
    """Final observations of episodes that were cut off, by the number of the transition, ascending, in a ring that grows."""

    def __init__(self, capacity: int, rows: int, n_envs: int, like: torch.Tensor) -> None:
        self.keys = torch.zeros(capacity, dtype=torch.int64, device=like.device)
        self.observations = torch.zeros((capacity, *like.shape[2:]), dtype=like.dtype, device=like.device).fill_(0)
        self._counts = np.zeros(rows, dtype=np.int64)  # entries of each row
        self._n_envs = n_envs
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        self._counts[:] = 0
        self._oldest = 0
        self.live = 0

    def drop(self, row: int) -> None:
        """Evict the entries of the oldest row, which is overwritten."""
        count = int(self._counts[row])
        if count:
            self._counts[row] = 0
            self._oldest = (self._oldest + count) % len(self.keys)
            self.live -= count

    def take_back(self, row: int, count: int) -> torch.Tensor:
        """Remove the entries of the newest row, and return their observations."""
        slots = (torch.arange(self.live - count, self.live, device=self.keys.device) + self._oldest) % len(self.keys)
        self.live -= count
        self._counts[row] = 0
        return self.observations[slots]

    def keep(self, step: int, environments: torch.Tensor, observations: torch.Tensor) -> None:
        """Add the final observations (K, ...) of these environments (K,), ascending, at the newest step."""
        count = len(environments)
        if self.live + count > len(self.keys):
            self._grow(self.live + count)
        slots = (torch.arange(self.live, self.live + count, device=self.keys.device) + self._oldest) % len(self.keys)
        self.keys[slots] = environments + step * self._n_envs
        self.observations[slots] = observations.reshape(-1, *self.observations.shape[1:])
        self._counts[step % len(self._counts)] = count
        self.live += count

    def find(self, keys: torch.Tensor) -> torch.Tensor:
        """The final observations (B, ...) of transitions (B,); of one that is not here, another's."""
        end = self._oldest + self.live
        if end <= len(self.keys):
            slots = torch.searchsorted(self.keys[self._oldest : end], keys) + self._oldest
        else:
            older = torch.searchsorted(self.keys[self._oldest :], keys) + self._oldest
            newer = torch.searchsorted(self.keys[: end - len(self.keys)], keys)
            slots = torch.where(keys < self.keys[0], older, newer)
        return self.observations.index_select(0, slots.clamp_(max=len(self.keys) - 1))

    def _grow(self, needed: int) -> None:
        capacity = max(2 * len(self.keys), needed)
        order = (torch.arange(len(self.keys), device=self.keys.device) + self._oldest) % len(self.keys)
        more = capacity - len(self.keys)
        try:
            self.observations = torch.cat(
                [self.observations[order], self.observations.new_zeros(more, *self.observations.shape[1:])]
            )
        except (RuntimeError, MemoryError) as error:
            raise MemoryError(
                f"final observations of {capacity:,} episodes that were cut off do not fit into memory beside the replay buffer: "
                "choose a smaller buffer"
            ) from error
        self.keys = torch.cat([self.keys[order], self.keys.new_zeros(more)])
        self._oldest = 0


def require_priorities(alpha: float, beta: float) -> None:
    """Refuse exponents of priorities and of importance weights outside [0, 1]."""
    for name, value in (("alpha", alpha), ("beta", beta)):
        if not 0.0 <= value <= 1.0:
            raise ValueError(f"{name} = {value}; accepted is 0 to 1")


def _action_dtype(actions: int) -> torch.dtype:
    return torch.uint8 if actions <= 2**8 else torch.int16 if actions <= 2**15 else torch.int32


def _available_bytes(device: torch.device) -> int | None:
    """Memory that can be had without swapping; None where it cannot be told."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        with open("/proc/meminfo", encoding="ascii") as lines:  # noqa: PTH123
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else None


def _normalised_observations(observations: torch.Tensor, env: VecNormalize | None) -> torch.Tensor:
    if env is None:
        return observations
    return torch.as_tensor(env.normalize_obs(observations.cpu().numpy()), device=observations.device)


def _normalised_rewards(rewards: torch.Tensor, env: VecNormalize | None) -> torch.Tensor:
    if env is None:
        return rewards
    return torch.as_tensor(env.normalize_reward(rewards.cpu().numpy()).astype(np.float32), device=rewards.device)
