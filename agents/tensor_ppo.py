"""PPO (Schulman et al. 2017, arXiv 1707.06347) as stable-baselines3 has it, without the waste: rollouts, advantages and
minibatches stay in tensors, the native batch writes into them, and the loss of a categorical policy is differentiated in closed
form.

Saving, loading, callbacks, logging, schedules and policies are the library's, and so is the update: see the tests. What is
gained is told by ``python -m experiments.benchmark train``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import VecEnv
from torch import nn

from agents.components import Components
from agents.distributed import Ranks
from agents.ppo_update import STATISTICS, PPOUpdate, Weights
from agents.recipe import Compile, Precision
from agents.resident import SEED_STRIDE, fuse_adam, shown, spread
from agents.rollout import TensorRolloutBuffer
from agents.transfer import Transfer
from agents.vec import NativeVecEnv

_VALUE_ROWS = 16_384  # observations whose value is predicted at once after a rollout


class TensorPPO(PPO):
    """Takes the arguments of stable-baselines3's ``PPO``, and by name:

    ``masks``: never take actions that ``action_masks`` of the environment forbids; ``precision``: arithmetic of the networks
    while they learn; ``compile``: torch.compile of the update; ``ranks``: processes that learn together, each with environments
    of its own: steps are counted over all of them, gradients and advantages' moments are taken over all of them.

    A saved model loads in ``PPO.load`` and back. With an environment that is no ``NativeVecEnv`` (or with state-dependent
    exploration) steps are collected as the library does; a policy without categorical actions or with other networks than the
    library's perceptrons is differentiated by autograd. Raises ValueError for masks where there are none.
    """

    def __init__(
        self,
        *arguments: Any,
        masks: bool = False,
        precision: Precision = "float32",
        compile: Compile = "off",
        ranks: Ranks | None = None,
        **named: Any,
    ) -> None:
        self.masks = masks
        self._precision, self._compile = precision, compile
        self._ranks = ranks or Ranks()
        self._transfer: Transfer | None = None
        super().__init__(*arguments, **named)

    def _setup_model(self) -> None:
        seed = self.seed
        if self._ranks.several:
            self._ranks.join(self.device)
        plain_class, plain_arguments = self.rollout_buffer_class, self.rollout_buffer_kwargs
        self._components = Components.of(self.action_space, self.device)
        if plain_class is None and isinstance(self.observation_space, spaces.Box):
            self.rollout_buffer_class = TensorRolloutBuffer
            if self.masks:
                if self._components is None:
                    raise ValueError(f"masks with the action space {self.action_space}; accepted are Discrete and MultiDiscrete")
                self.rollout_buffer_kwargs = {**plain_arguments, "masks": sum(self._components.sizes)}
        super()._setup_model()
        self.rollout_buffer_class, self.rollout_buffer_kwargs = plain_class, plain_arguments
        fuse_adam(self.policy.optimizer)
        self._update = PPOUpdate(self.policy, self._components, self._precision, self._compile)
        if not self._update.closed_form and (self.masks or self._compile != "off"):
            asked = "masks" if self.masks else f"compile = {self._compile!r}"
            found = f"{type(self.policy).__name__} for {type(self.observation_space).__name__} to {self.action_space}"
            raise ValueError(f"{asked} with {found}; accepted is a MlpPolicy of the library's own with categorical actions")
        self._limits = _limits(self.action_space, self.device)
        if self._ranks.several:
            self._share_parameters()
            if seed is not None:  # the weights are everyone's; worlds, exploration and the order of minibatches each rank's own
                torch.manual_seed(seed + SEED_STRIDE * self._ranks.rank)
                np.random.seed((seed + SEED_STRIDE * self._ranks.rank) % 2**32)  # noqa: NPY002
                if self.env is not None:
                    self.env.seed(seed + self.n_envs * self._ranks.rank)

    def set_parameters(self, *arguments: Any, **named: Any) -> None:
        """As the library's; a checkpoint's optimizer settings do not undo the fused step, and all ranks get rank 0's networks."""
        super().set_parameters(*arguments, **named)
        fuse_adam(self.policy.optimizer)
        self._share_parameters()

    def _share_parameters(self) -> None:
        if self._ranks.several:
            self._ranks.broadcast(parameter.data for parameter in self.policy.parameters())

    def _excluded_save_params(self) -> list[str]:
        own = [
            "_components",
            "_update",
            "_transfer",
            "_limits",
            "_ranks",
            "_precision",
            "_compile",
            "_last_obs",
            "_last_episode_starts",
        ]
        return [*super()._excluded_save_params(), *own]

    def predict(
        self,
        observation: NDArray[Any] | dict[str, NDArray[Any]],
        state: tuple[NDArray[Any], ...] | None = None,
        episode_start: NDArray[Any] | None = None,
        deterministic: bool = False,
        action_masks: NDArray[np.bool_] | None = None,
    ) -> tuple[NDArray[Any], tuple[NDArray[Any], ...] | None]:
        """The library's ``predict``; with ``action_masks`` (N, L) or (L,) as sb3-contrib's, only what is allowed is chosen."""
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        components = self._components
        if components is None or not self._update.closed_form:
            found = f"{self.action_space} and {type(self.policy).__name__}"
            raise ValueError(f"action_masks with {found}; accepted is a MlpPolicy with Discrete or MultiDiscrete actions")
        tensor, vectorized = self.policy.obs_to_tensor(observation)
        masks = torch.as_tensor(action_masks, device=self.device).reshape(len(tensor), -1).t()
        with torch.no_grad():
            scores = components.log_probabilities(self._update.logits(tensor), masks)  # type: ignore[arg-type]
            chosen = components.greatest(scores) if deterministic else components.sample(scores)
        actions = chosen.t().cpu().numpy().reshape(-1, *(self.action_space.shape or ()))
        return actions if vectorized else actions.squeeze(0), state

    # ------------------------------------------------------------------------------------------------------ collecting
    def collect_rollouts(self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int) -> bool:
        """Fill the buffer; False when a callback ends training."""
        native = isinstance(env, NativeVecEnv) and isinstance(rollout_buffer, TensorRolloutBuffer) and not self.use_sde
        if not native:
            if self.masks or self._ranks.several:
                asked = "masks" if self.masks else "ranks"
                raise ValueError(
                    f"{asked} with {type(env).__name__}; accepted is a NativeVecEnv without state-dependent exploration"
                )
            return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)
        return self._collect(env, callback, rollout_buffer, n_rollout_steps)  # type: ignore[arg-type]

    @torch.no_grad()
    def _collect(self, env: NativeVecEnv, callback: BaseCallback, buffer: TensorRolloutBuffer, steps: int) -> bool:
        self.policy.set_training_mode(False)
        buffer.reset()
        if self._transfer is None or self._transfer.env is not env or self._transfer.steps != steps:
            self._transfer = Transfer(env, self.device, steps)
        transfer, update = self._transfer, self._update
        transfer.begin()
        callback.on_rollout_start()
        going_on = True
        transfer.observations_to(buffer.observations[0])
        for step in range(steps):
            masks = None if buffer.masks is None else buffer.masks[step].copy_(torch.as_tensor(env.action_masks()))
            actions, log_probabilities = update.act(buffer.observations[step], masks)
            buffer.actions[step] = actions
            buffer.log_probs[step] = log_probabilities
            env.step_tensors(transfer.actions_from(self._within_bounds(actions)))
            transfer.observations_to(buffer.observations[step + 1])
            transfer.remember(step, cut=self.gamma > 0.0)
            self.num_timesteps += env.num_envs * self._ranks.world
            callback.update_locals(_locals(self, env, transfer, step, actions, steps))
            going_on = callback.on_step() and going_on
            if not (going_on or self._ranks.several):
                return False
        if self._ranks.any(not going_on, self.device):  # every rank stops with the first one that is told to
            return False
        self._complete(buffer, transfer)
        callback.update_locals({"rollout_buffer": buffer})
        callback.on_rollout_end()
        return True

    def _complete(self, buffer: TensorRolloutBuffer, transfer: Transfer) -> None:
        """Values, returns and advantages of a rollout whose steps are all taken, and its ended episodes' statistics."""
        buffer.rewards.copy_(transfer.rewards)
        if transfer.cut:  # what a time limit ended would have gone on
            last = torch.cat([observations for _, _, observations in transfer.cut]).to(self.device)
            values = self.gamma * self._values(last)
            for (step, rows, _), value in zip(
                transfer.cut, torch.split(values, [len(rows) for _, rows, _ in transfer.cut]), strict=True
            ):
                buffer.rewards[step].index_add_(0, rows.to(self.device), value)
        values = self._values(buffer.observations.flatten(0, 1)).reshape(len(buffer.observations), -1)
        buffer.values.copy_(values[:-1])
        buffer.episode_starts[0].copy_(buffer.episode_starts[-1])
        buffer.episode_starts[1:].copy_(transfer.ended)
        buffer.compute_returns_and_advantage(values[-1], buffer.episode_starts[-1])
        buffer.filled()
        tensors = transfer.env.tensors
        rows = spread(transfer.ended.any(0).nonzero().flatten(), self._stats_window_size)
        assert self.ep_info_buffer is not None
        for total, length in zip(tensors.episode_return[rows].tolist(), tensors.episode_length[rows].tolist(), strict=True):
            self.ep_info_buffer.append({"r": total, "l": length})
        self._last_obs = tensors.observations.cpu().numpy()
        self._last_episode_starts = transfer.ended[-1].cpu().numpy()

    def _values(self, observations: torch.Tensor) -> torch.Tensor:
        return torch.cat([self._update.values(part) for part in torch.split(observations, _VALUE_ROWS)])

    def _within_bounds(self, actions: torch.Tensor) -> torch.Tensor:
        """A Gaussian's draws (N, A), within the limits of a continuous action."""
        return actions if self._limits is None else torch.minimum(torch.maximum(actions, self._limits[0]), self._limits[1])

    # -------------------------------------------------------------------------------------------------------- learning
    def train(self) -> None:
        """Update the policy by the rollout, as the library does."""
        buffer = self.rollout_buffer
        if not isinstance(buffer, TensorRolloutBuffer):
            super().train()
            return
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        clip: Any = self.clip_range
        clip_value: Any = self.clip_range_vf
        progress = self._current_progress_remaining
        weights = Weights(clip(progress), None if clip_value is None else clip_value(progress), self.ent_coef, self.vf_coef)
        optimizer = self.policy.optimizer
        parameters = [parameter for parameter in self.policy.parameters() if parameter.requires_grad]
        seen: list[torch.Tensor] = []
        last_epoch = 0
        diverged = False
        for _ in range(self.n_epochs):
            last_epoch = len(seen)
            for batch in buffer.minibatches(self.batch_size):
                optimizer.zero_grad()
                statistics = self._update.backward(batch, self._normalized(batch.advantages), weights)
                seen.append(self._ranks.sum_(statistics) / self._ranks.world)
                if self.target_kl is not None and float(seen[-1][3]) > 1.5 * self.target_kl:
                    diverged = True
                    break
                self._ranks.average_gradients(parameters)
                nn.utils.clip_grad_norm_(parameters, self.max_grad_norm)
                optimizer.step()
            self._n_updates += 1
            if diverged:
                break
        self._log_update(torch.stack(seen), last_epoch, weights, buffer)

    def _normalized(self, advantages: torch.Tensor) -> torch.Tensor:
        """Advantages (M,) less their mean over their deviation, both taken over all ranks."""
        if not self.normalize_advantage or len(advantages) * self._ranks.world < 2:
            return advantages
        if not self._ranks.several:
            return (advantages - advantages.mean()) / (advantages.std() + 1e-8)
        double = advantages.double()
        count = len(advantages) * self._ranks.world
        mean = self._ranks.sum_(double.sum()) / count
        deviation = (self._ranks.sum_((double - mean).square().sum()) / (count - 1)).sqrt()
        return ((double - mean) / (deviation + 1e-8)).float()

    def _log_update(self, seen: torch.Tensor, last_epoch: int, weights: Weights, buffer: TensorRolloutBuffer) -> None:
        means = seen.mean(0)
        means[3] = seen[last_epoch:, 3].mean()  # the library reports the last epoch's divergence
        policy_loss, value_loss, entropy_loss = seen[-1, :3].tolist()
        for name, mean in zip(STATISTICS, means.tolist(), strict=True):
            self.logger.record(f"train/{name}", mean)
        self.logger.record("train/loss", policy_loss + weights.entropy * entropy_loss + weights.value * value_loss)
        variance = float(buffer.returns.var())
        unexplained = float((buffer.returns - buffer.values).var())
        self.logger.record("train/explained_variance", float("nan") if variance == 0.0 else 1.0 - unexplained / variance)
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", self.policy.log_std.exp().mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        self.logger.record("train/clip_range", weights.clip)
        if weights.clip_value is not None:
            self.logger.record("train/clip_range_vf", weights.clip_value)


def _limits(space: spaces.Space[Any], device: torch.device) -> tuple[torch.Tensor, torch.Tensor] | None:
    """Least and greatest action (A,) of a continuous space."""
    if not isinstance(space, spaces.Box):
        return None
    return torch.as_tensor(space.low, device=device), torch.as_tensor(space.high, device=device)


def _locals(
    model: TensorPPO, env: NativeVecEnv, transfer: Transfer, step: int, actions: torch.Tensor, steps: int
) -> dict[str, Any]:
    """What callbacks find in ``self.locals`` after a step, without a copy; infos are made when they are read."""
    return {
        "self": model,
        "env": env,
        "infos": env.infos,
        "rewards": shown(transfer.rewards[step]),
        "dones": shown(transfer.ended[step]),
        "new_obs": shown(env.tensors.observations),
        "actions": shown(actions),
        "n_steps": step + 1,
        "n_rollout_steps": steps,
        "rollout_buffer": model.rollout_buffer,
    }
