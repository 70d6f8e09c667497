"""What crosses between the simulator's device and the learner's while a rollout is collected.

Observations go over once a step, and actions come back (masks, where they are asked for, go over too); rewards and episode ends
stay where the simulator is until the rollout is complete. On one device nothing is transferred.
"""

from __future__ import annotations

import torch

from agents.vec import NativeVecEnv


class Transfer:
    """Rewards float32 and ends bool (T, N) of one rollout, and the observations at which episodes were cut by a time limit."""

    def __init__(self, env: NativeVecEnv, device: torch.device, steps: int) -> None:
        self.env, self.steps = env, steps
        self.device = device
        self._apart = not env.is_on(device)
        source = env.tensors.observations
        # page-locked, so that the copy to a GPU runs beside whatever the processor does next
        pinned = self._apart and device.type == "cuda" and env.device.type == "cpu"
        self._staged = torch.empty(source.shape, dtype=source.dtype, pin_memory=True) if pinned else None
        self.rewards = torch.zeros((steps, env.num_envs), device=env.device)
        self.ended = torch.zeros((steps, env.num_envs), dtype=torch.bool, device=env.device)
        self.cut: list[tuple[int, torch.Tensor, torch.Tensor]] = []  # step, rows (K,), their last observations (K, D)

    def begin(self) -> None:
        """Forget the last rollout."""
        self.cut.clear()

    def observations_to(self, target: torch.Tensor) -> None:
        """The batch's observations, into a tensor of the learner's."""
        source = self.env.tensors.observations
        if self._staged is None:
            target.copy_(source)
        else:  # the next step reads actions back, which waits for this copy: so the staging memory is free again by then
            target.copy_(self._staged.copy_(source), non_blocking=True)

    def actions_from(self, actions: torch.Tensor) -> torch.Tensor:
        """Actions where the simulator reads them."""
        return actions.to(self.env.device) if self._apart else actions

    def remember(self, step: int, cut: bool) -> None:
        """Rewards and ends of the step just taken, and with ``cut`` the last observations of episodes that a time limit ended."""
        tensors = self.env.tensors
        self.rewards[step] = tensors.rewards
        torch.logical_or(tensors.terminated, tensors.truncated, out=self.ended[step])
        if cut:
            rows = (tensors.truncated & ~tensors.terminated).nonzero().flatten()
            if len(rows):
                self.cut.append((step, rows, tensors.final_observations.index_select(0, rows)))
