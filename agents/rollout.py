"""What PPO learns from until the next rollout: T steps of N environments, in tensors that are allocated once on the learner's
device.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples


class Minibatch(NamedTuple):
    """M transitions of a rollout."""

    observations: torch.Tensor  # (M, D)
    actions: torch.Tensor  # (M, A), in the action space's own dtype
    values: torch.Tensor  # (M,) as predicted before the update
    log_probabilities: torch.Tensor  # (M,) of the actions, before the update
    advantages: torch.Tensor  # (M,)
    returns: torch.Tensor  # (M,)
    masks: torch.Tensor | None  # (M, L) bool, where actions are masked


class TensorRolloutBuffer(RolloutBuffer):
    """stable-baselines3's ``RolloutBuffer`` with tensors for arrays; ``add``, ``get`` and ``compute_returns_and_advantage`` give
    the same numbers.

    ``masks`` is the width L of action masks to keep, 0 for none. The native collection writes into ``observations`` (T + 1, N,
    D), whose last row is what comes after the rollout, ``actions`` (T, N, A), ``rewards`` (T, N), ``episode_starts`` (T + 1, N),
    whose last row says which episodes ended with the rollout, ``log_probs`` (T, N), ``masks`` (T, N, L), and calls ``filled``.
    """

    observations: torch.Tensor  # type: ignore[assignment]
    actions: torch.Tensor  # type: ignore[assignment]
    rewards: torch.Tensor  # type: ignore[assignment]
    advantages: torch.Tensor  # type: ignore[assignment]
    returns: torch.Tensor  # type: ignore[assignment]
    episode_starts: torch.Tensor  # type: ignore[assignment]
    log_probs: torch.Tensor  # type: ignore[assignment]
    values: torch.Tensor  # type: ignore[assignment]
    masks: torch.Tensor | None

    def __init__(self, *arguments: Any, masks: int = 0, **named: Any) -> None:
        self._mask_width = masks
        self._allocated = False
        super().__init__(*arguments, **named)

    def reset(self) -> None:
        """Begin anew in the same memory."""
        if not self._allocated:
            self._allocate()
        self.pos, self.full = 0, False

    def _allocate(self) -> None:
        steps, rows, device = self.buffer_size, self.n_envs, self.device
        observation = torch.as_tensor(np.zeros(0, self.observation_space.dtype)).dtype
        action = torch.as_tensor(np.zeros(0, self.action_space.dtype)).dtype
        self.observations = torch.zeros((steps + 1, rows, *self.obs_shape), dtype=observation, device=device)
        self.actions = torch.zeros((steps, rows, self.action_dim), dtype=action, device=device)
        self.rewards = torch.zeros((steps, rows), device=device)
        self.episode_starts = torch.zeros((steps + 1, rows), device=device)
        # what a minibatch needs of a transition beside observation and action, together: one look-up fetches all four
        self._numbers = torch.zeros((steps, rows, 4), device=device)
        self.values, self.log_probs, self.advantages, self.returns = self._numbers.unbind(-1)
        width = self._mask_width
        self.masks = torch.ones((steps, rows, width), dtype=torch.bool, device=device) if width else None
        self._allocated = True

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        held = [self.observations, self.actions, self.rewards, self.episode_starts, self._numbers, self.masks]
        return sum(tensor.numel() * tensor.element_size() for tensor in held if tensor is not None)

    def add(
        self,
        obs: NDArray[Any],
        action: NDArray[Any],
        reward: NDArray[Any],
        episode_start: NDArray[Any],
        value: torch.Tensor,
        log_prob: torch.Tensor,
    ) -> None:
        """One step of every environment, as stable-baselines3's own collection hands it over."""
        step = self.pos
        self.observations[step] = torch.as_tensor(obs).reshape(self.observations.shape[1:])
        self.actions[step] = torch.as_tensor(action).reshape(self.n_envs, self.action_dim)
        self.rewards[step] = torch.as_tensor(reward)
        self.episode_starts[step] = torch.as_tensor(episode_start)
        self.values[step] = value.flatten()
        self.log_probs[step] = log_prob.flatten()
        self.pos += 1
        self.full = self.pos == self.buffer_size

    def filled(self) -> None:
        """Every step was written."""
        self.pos, self.full = self.buffer_size, True

    def compute_returns_and_advantage(self, last_values: torch.Tensor, dones: NDArray[Any] | torch.Tensor) -> None:
        """Generalised advantages (Schulman et al. 2016, arXiv 1506.02438) and returns; ``last_values`` (N,) or (N, 1) are those
        of the observations after the rollout, ``dones`` (N,) whether its last step ended an episode.
        """
        self.episode_starts[-1] = torch.as_tensor(dones)
        going_on = 1.0 - self.episode_starts[1:]
        following = torch.cat([self.values[1:], last_values.reshape(1, -1).to(self.values)])
        advantages = self.rewards + self.gamma * following * going_on - self.values
        weights = going_on.mul_(self.gamma * self.gae_lambda)
        if self.gamma * self.gae_lambda > 0.0:
            for step in reversed(range(self.buffer_size - 1)):
                advantages[step].addcmul_(weights[step], advantages[step + 1])
        self.advantages.copy_(advantages)
        self.returns.copy_(advantages.add_(self.values))

    def minibatches(self, size: int) -> Iterator[Minibatch]:
        """Every transition once, in random minibatches of ``size`` and a rest."""
        assert self.full, "the rollout is not complete"
        steps, rows = self.buffer_size, self.n_envs
        observations, actions = self.observations[:-1].flatten(0, 1), self.actions.flatten(0, 1)
        numbers, masks = self._numbers.flatten(0, 1), None if self.masks is None else self.masks.flatten(0, 1)
        if self.device.type == "cpu":
            # stable-baselines3 draws places in a list that has one environment after the other: the same draw, the same minibatch
            drawn = torch.from_numpy(np.random.permutation(steps * rows))  # noqa: NPY002 - seeded by set_random_seed
            order = (drawn % steps) * rows + torch.div(drawn, steps, rounding_mode="floor")
        else:
            order = torch.randperm(steps * rows, device=self.device)
        for chosen in torch.split(order, size):
            values, log_probabilities, advantages, returns = numbers.index_select(0, chosen).unbind(1)
            yield Minibatch(
                observations.index_select(0, chosen),
                actions.index_select(0, chosen),
                values,
                log_probabilities,
                advantages,
                returns,
                None if masks is None else masks.index_select(0, chosen),
            )

    def get(self, batch_size: int | None = None) -> Iterator[RolloutBufferSamples]:  # type: ignore[override]
        """Minibatches as stable-baselines3's own ``train`` reads them."""
        for batch in self.minibatches(batch_size or self.buffer_size * self.n_envs):
            yield RolloutBufferSamples(
                batch.observations,
                batch.actions.to(torch.float32),
                batch.values,
                batch.log_probabilities,
                batch.advantages,
                batch.returns,
            )
