"""DQN (Mnih et al. 2015, doi 10.1038/nature14236) as stable-baselines3 has it, without the waste: replay and minibatches stay in
tensors and the native batch is stepped without Python per environment.

Saving, loading, callbacks, logging, schedules and policies are the library's, and so is the update: see the tests.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from gymnasium import spaces
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.buffers import NStepReplayBuffer, ReplayBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.noise import ActionNoise
from stable_baselines3.common.type_aliases import RolloutReturn, TrainFreq, TrainFrequencyUnit
from stable_baselines3.common.utils import polyak_update
from stable_baselines3.common.vec_env import VecEnv

from agents.distributed import Ranks
from agents.q_update import QUpdate
from agents.recipe import require
from agents.replay import TensorReplayBuffer, require_priorities
from agents.resident import SEED_STRIDE, fuse_adam, shown, spread
from agents.vec import NativeVecEnv

_SAMPLED_BYTES = 2**22  # observations sampled at once for several updates; more would leave the caches
_UPDATES_PER_LOSS = 256  # on an accelerator reading the loss waits for it


class TensorDQN(DQN):
    """Takes the arguments of stable-baselines3's ``DQN``, and by name:

    ``prioritised``: sample by error ** ``alpha``, with importance weights whose exponent rises from ``beta`` to 1 over training
    (Schaul et al. 2016); ``double``: the online network chooses the next action (van Hasselt et al. 2016); ``masks``: neither
    take an action that ``action_masks`` of the environment forbids nor learn from its value; ``acting_probability``: how likely a
    random action is not the first one, None for equally likely ones; ``precision``: arithmetic of the networks while they learn;
    ``compile``: torch.compile of the loss; ``ranks``: processes that learn together, each with environments and replay of its
    own: steps are counted over all of them, gradients are averaged.

    Every environment explores by itself, from a generator on the device. A saved model loads in ``DQN.load`` and back. With an
    environment that is no ``NativeVecEnv`` steps are collected as the library does; with a Dict observation,
    ``optimize_memory_usage`` or a replay buffer class that is not the library's plain one, replay and update are the library's as
    well. Raises ValueError for a number outside its range, and for masks, ranks or priorities where they cannot be had.
    """

    def __init__(
        self,
        *arguments: Any,
        prioritised: bool = False,
        alpha: float = 0.6,
        beta: float = 0.4,
        double: bool = False,
        masks: bool = False,
        acting_probability: float | None = None,
        precision: Literal["float32", "bf16"] = "float32",
        compile: Literal["off", "default", "reduce-overhead"] = "off",
        ranks: Ranks | None = None,
        **named: Any,
    ) -> None:
        self.prioritised, self.alpha, self.beta = prioritised, alpha, beta
        self.double, self.masks, self.acting_probability = double, masks, acting_probability
        self._precision, self._compile = precision, compile
        self._ranks = ranks or Ranks()
        super().__init__(*arguments, **named)

    def _setup_model(self) -> None:
        self._check()
        self._ranks.join(self.device)
        self._generator = torch.Generator(self.device)
        if self.seed is None:
            self._generator.seed()
        self._following = False  # whether the buffer's newest observation is the environments' present one
        self._filling = False  # whether a training goes on with a buffer that does not yet hold what an update wants
        if self.replay_buffer is None and self._replay_is_plain():
            self.replay_buffer = TensorReplayBuffer(
                self.buffer_size,
                self.observation_space,
                self.action_space,
                self.device,
                self.n_envs,
                n_steps=int(self.replay_buffer_kwargs.get("n_steps", self.n_steps)),
                gamma=float(self.replay_buffer_kwargs.get("gamma", self.gamma)),
                prioritised=self.prioritised,
                alpha=self.alpha,
                beta=self.beta,
                masks=self.masks,
                generator=self._generator,
            )
            if self.replay_buffer_class is NStepReplayBuffer and self.n_steps > 1:
                self.replay_buffer_class = None  # chosen again by the library, which warns of one that it did not choose
        elif self.prioritised or self.masks or self.double or self._ranks.several:
            raise ValueError(
                f"prioritised, double, masks or ranks with {self.observation_space}, "
                f"optimize_memory_usage = {self.optimize_memory_usage} and replay_buffer_class = {self.replay_buffer_class}; "
                "accepted are no Dict, False and None"
            )
        super()._setup_model()
        fuse_adam(self.policy.optimizer)
        self._update = QUpdate(
            self.policy,
            self.gamma,
            self.max_grad_norm,
            double=self.double,
            precision=self._precision,
            compile=self._compile,
            ranks=self._ranks,
        )
        self._share_parameters()

    def _check(self) -> None:
        require_priorities(self.alpha, self.beta)
        if self.acting_probability is not None:
            require("acting_probability", self.acting_probability, 1e-6, 1.0 - 1e-6)
        if self.batch_size > self.buffer_size:
            raise ValueError(
                f"batch = {self.batch_size} with a buffer of {self.buffer_size}; accepted is a batch that the buffer holds"
            )

    def _replay_is_plain(self) -> bool:
        plain = self.replay_buffer_class in (None, ReplayBuffer, NStepReplayBuffer)
        return plain and not self.optimize_memory_usage and not isinstance(self.observation_space, spaces.Dict)

    def _share_parameters(self) -> None:
        if self._ranks.several:
            self._ranks.broadcast(self.policy.state_dict().values())

    def set_parameters(self, *arguments: Any, **named: Any) -> None:
        """As the library's; a checkpoint's optimizer settings do not undo the fused step, and all ranks get rank 0's networks."""
        super().set_parameters(*arguments, **named)
        fuse_adam(self.policy.optimizer)
        self._share_parameters()

    def set_random_seed(self, seed: int | None = None) -> None:
        """As the library's; each rank explores and samples by itself, in environments of its own seeds."""
        super().set_random_seed(seed)
        if seed is not None:
            self._generator.manual_seed(seed + SEED_STRIDE * self._ranks.rank)
            if self._ranks.several and self.env is not None:
                self.env.seed(seed + self.n_envs * self._ranks.rank)

    def _excluded_save_params(self) -> list[str]:
        own = [
            "_update",
            "_ranks",
            "_precision",
            "_compile",
            "_generator",
            "_following",
            "_filling",
            "_last_obs",
            "_last_episode_starts",
        ]
        return [*super()._excluded_save_params(), *own]

    def load_replay_buffer(self, path: str | Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """As the library's. Raises ValueError for a file of other spaces, of another number of environments or with other
        contents.
        """
        before = self.replay_buffer
        super().load_replay_buffer(path, truncate_last_traj)
        loaded = self.replay_buffer
        assert loaded is not None, "the library has just loaded it"
        try:
            self._check_replay(loaded)
        except ValueError:
            self.replay_buffer = before
            raise
        if isinstance(loaded, TensorReplayBuffer):
            loaded.to(self.device)
            loaded.generator = self._generator
            if isinstance(before, TensorReplayBuffer):
                loaded.n_steps, loaded.gamma, loaded.alpha = before.n_steps, before.gamma, before.alpha
        self._following = False

    def _check_replay(self, loaded: ReplayBuffer) -> None:
        own = {
            "observation_space": self.observation_space,
            "action_space": self.action_space,
            "n_envs": self.n_envs,
            "prioritised": self.prioritised,
            "masks": self.masks,
        }
        for name, accepted in own.items():
            found = getattr(loaded, name, False)
            if name == "prioritised":
                found = getattr(loaded, "tree", None) is not None
            elif name == "masks":
                found = getattr(loaded, "masks", None) is not None
            if found != accepted:
                raise ValueError(f"a replay file with {name} = {found}; accepted is {accepted}, as this model has it")

    # ------------------------------------------------------------------------------------------------------------ acting
    @torch.no_grad()
    def _choose(self, observations: torch.Tensor, masks: torch.Tensor | None, exploring: float) -> torch.Tensor:
        """Actions (N,): of each environment the best one, or a random one with probability ``exploring``."""
        assert isinstance(self.action_space, spaces.Discrete), "DQN refuses any other space"
        n, actions = len(observations), int(self.action_space.n)
        draw: Any = {"device": self.device, "generator": self._generator}
        greedy = None
        if exploring < 1.0:
            values = self._update.values(observations)
            greedy = (values if masks is None else values.masked_fill(~masks, -torch.inf)).argmax(1)
            if exploring <= 0.0:
                return greedy
        if masks is None:
            first = 0 if self.acting_probability is None or actions == 1 else 1
            random = torch.randint(first, actions, (n,), **draw)
        else:
            allowed = masks
            if self.acting_probability is not None:
                allowed = masks.clone()
                allowed[:, 0] = False
            random = torch.rand(masks.shape, **draw).masked_fill_(~allowed, -1.0).argmax(1)  # the first one if none is allowed
        if self.acting_probability is not None:
            waits = torch.rand(n, **draw) >= self.acting_probability
            random.masked_fill_(waits if masks is None else waits & masks[:, 0], 0)
        return random if greedy is None else torch.where(torch.rand(n, **draw) < exploring, random, greedy)

    def _exploring(self, learning_starts: int) -> float:
        return 1.0 if self.num_timesteps < learning_starts else self.exploration_rate

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The actions of a step, as the environment and as the buffer take them."""
        if isinstance(self.observation_space, spaces.Dict):
            return super()._sample_action(learning_starts, action_noise, n_envs)
        assert self._last_obs is not None, "stable-baselines3 resets the environments first"
        tensor, _ = self.policy.obs_to_tensor(self._last_obs)
        actions = self._choose(tensor, None, self._exploring(learning_starts)).cpu().numpy()  # type: ignore[arg-type]
        return actions, actions

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
        self.policy.set_training_mode(False)
        tensor, vectorized = self.policy.obs_to_tensor(observation)
        if isinstance(tensor, dict):
            raise ValueError(f"action_masks with {self.observation_space}; accepted is any observation space but Dict")
        masks = torch.as_tensor(action_masks, device=self.device).reshape(len(tensor), -1)
        actions = self._choose(tensor, masks, 0.0 if deterministic else self.exploration_rate).cpu().numpy()
        return actions if vectorized else actions.squeeze(0), state

    # -------------------------------------------------------------------------------------------------------- collecting
    def _setup_learn(self, *arguments: Any, **named: Any) -> tuple[int, BaseCallback]:
        last = self._last_obs
        result = super()._setup_learn(*arguments, **named)
        if self._last_obs is not last:  # the environments were reset
            self._following = False
        return result

    def collect_rollouts(
        self,
        env: VecEnv,
        callback: BaseCallback,
        train_freq: TrainFreq,
        replay_buffer: ReplayBuffer,
        action_noise: ActionNoise | None = None,
        learning_starts: int = 0,
        log_interval: int | None = None,
    ) -> RolloutReturn:
        """Step the environments and add to the replay buffer."""
        native = isinstance(env, NativeVecEnv) and isinstance(replay_buffer, TensorReplayBuffer)
        if native and train_freq.unit == TrainFrequencyUnit.STEP:
            return self._collect(env, callback, train_freq.frequency, replay_buffer, learning_starts, log_interval)  # type: ignore[arg-type]
        if self.masks or self._ranks.several:
            asked = "masks" if self.masks else "ranks"
            raise ValueError(
                f"{asked} with {type(env).__name__} and train_freq in {train_freq.unit.value}s; "
                "accepted is a NativeVecEnv and a train_freq in steps"
            )
        return super().collect_rollouts(env, callback, train_freq, replay_buffer, action_noise, learning_starts, log_interval)

    @torch.no_grad()
    def _collect(
        self,
        env: NativeVecEnv,
        callback: BaseCallback,
        steps: int,
        buffer: TensorReplayBuffer,
        learning_starts: int,
        log_interval: int | None,
    ) -> RolloutReturn:
        self.policy.set_training_mode(False)
        tensors = env.tensors
        transfer = _Transfer(env, self.device)
        collected = episodes = 0
        going_on = True
        if not self._following:
            buffer.begin(tensors.observations, self._masks(env))
            self._filling = buffer.size() == 0 and self.num_timesteps > learning_starts
            self._following = True
        callback.on_rollout_start()
        for _ in range(steps):
            observations = buffer.observations[buffer.pos]
            actions = self._choose(observations, buffer.valid_actions(), self._exploring(learning_starts))
            env.step_tensors(actions.to(env.device))
            dones = tensors.terminated | tensors.truncated
            self.num_timesteps += env.num_envs * self._ranks.world
            collected += 1
            # what callbacks look at; infos are made from the batch's buffers when they do
            callback.update_locals({"self": self, "env": env, "infos": env.infos, "rewards": shown(tensors.rewards),
                                    "dones": shown(dones), "new_obs": shown(tensors.observations),
                                    "actions": shown(actions), "buffer_actions": shown(actions),
                                    "num_collected_steps": collected, "num_collected_episodes": episodes,
                                    "learning_starts": learning_starts, "log_interval": log_interval,
                                    "replay_buffer": buffer})  # fmt: skip
            going_on = callback.on_step() and going_on
            if not going_on and not self._ranks.several:
                self._following = False  # this step is not kept
                return RolloutReturn(collected * env.num_envs, episodes, continue_training=False)
            ended = self._note_episodes(env, dones)
            rows = (tensors.truncated & ~tensors.terminated).nonzero()[:, 0] if ended else dones[:0]
            cut = (rows, tensors.final_observations[rows]) if len(rows) else None
            rewards, terminated, new_observations = transfer.moved()
            buffer.append(actions, rewards, terminated, new_observations, cut, self._masks(env))
            self._update_current_progress_remaining(self.num_timesteps, self._total_timesteps)
            self._on_step()
            episodes += ended
            before, self._episode_num = self._episode_num, self._episode_num + ended
            if log_interval is not None and self._episode_num // log_interval > before // log_interval:
                self.dump_logs()
        # not None, so that the next learn goes on from here; the observations themselves are in the buffer
        self._last_obs = tensors.observations.numpy() if env.device.type == "cpu" else tensors.observations  # type: ignore[assignment]
        callback.on_rollout_end()
        going_on = not self._ranks.any(not going_on, self.device)
        return RolloutReturn(collected * env.num_envs, episodes, going_on)

    def _masks(self, env: NativeVecEnv) -> torch.Tensor | None:
        return torch.as_tensor(env.action_masks()) if self.masks else None

    def _note_episodes(self, env: NativeVecEnv, dones: torch.Tensor) -> int:
        """Put the newest ended episodes where stable-baselines3 keeps them; how many ended at this step."""
        ended = dones.nonzero()[:, 0]
        count = len(ended)
        if count:
            assert self.ep_info_buffer is not None, "stable-baselines3 makes it before the first step"
            newest = spread(ended, self._stats_window_size)
            returns, lengths = env.tensors.episode_return[newest].tolist(), env.tensors.episode_length[newest].tolist()
            self.ep_info_buffer.extend({"r": r, "l": length} for r, length in zip(returns, lengths, strict=True))
        return count

    def _on_step(self) -> None:
        """Copy to the target network when it is due, and lower the exploration rate."""
        self._n_calls += 1
        if self._n_calls % max(self.target_update_interval // (self.n_envs * self._ranks.world), 1) == 0:
            online: list[torch.Tensor] = list(self.q_net.parameters())
            target: list[torch.Tensor] = list(self.q_net_target.parameters())
            with torch.no_grad():
                if self.tau == 1.0:
                    torch._foreach_copy_(target, online)
                else:
                    torch._foreach_mul_(target, 1.0 - self.tau)
                    torch._foreach_add_(target, online, alpha=self.tau)
            polyak_update(self.batch_norm_stats, self.batch_norm_stats_target, 1.0)
        self.exploration_rate = self.exploration_schedule(self._current_progress_remaining)
        self.logger.record("rollout/exploration_rate", self.exploration_rate)

    # ---------------------------------------------------------------------------------------------------------- learning
    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        """Gradient steps on batches sampled from the replay buffer.

        The target network does not change meanwhile, so batches that do not depend on each other are sampled together and their
        targets computed at once.
        """
        buffer = self.replay_buffer
        if not isinstance(buffer, TensorReplayBuffer):
            super().train(gradient_steps, batch_size)
            return
        if self._filling:
            stored, most = (rows * self.n_envs * self._ranks.world for rows in (buffer.size(), buffer.buffer_size))
            if stored < min(self.learning_starts, most):
                return  # after a checkpoint, which holds no replay: a few transitions again and again would undo what was learned
            self._filling = False
        self.policy.set_training_mode(True)
        self._update_learning_rate(self.policy.optimizer)
        buffer.beta = min(1.0, self.beta + (1.0 - self.beta) * (1.0 - self._current_progress_remaining))
        together = 1
        if buffer.tree is None and not self.double:
            together = max(1, _SAMPLED_BYTES // (2 * batch_size * buffer.observations[0, 0].nbytes))
        losses: list[torch.Tensor] = []
        while len(losses) < gradient_steps:
            count = min(together, gradient_steps - len(losses))
            samples = buffer.sample(count * batch_size, self._vec_normalize_env)
            targets = self._update.targets(samples)
            for start in range(0, count * batch_size, batch_size):
                part = slice(start, start + batch_size)
                loss, errors = self._update.step(
                    samples.observations[part], samples.actions[part], targets[part], samples.weights
                )
                losses.append(loss)
            if buffer.tree is not None:
                buffer.update_priorities(samples.indices, errors[:, 0])
        before, self._n_updates = self._n_updates, self._n_updates + gradient_steps
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")
        if self.device.type == "cpu" or before // _UPDATES_PER_LOSS < self._n_updates // _UPDATES_PER_LOSS:
            self.logger.record("train/loss", torch.stack(losses).mean().item())


class _Transfer:
    """A step's rewards, ends and observations on the learner's device: one pinned copy where that is not the batch's."""

    def __init__(self, env: NativeVecEnv, device: torch.device) -> None:
        self._tensors = env.tensors
        self._device = device
        self._pinned: torch.Tensor | None = None
        if not env.is_on(device) and device.type == "cuda" and env.device.type == "cpu":
            n, width = self._tensors.observations.shape
            self._pinned = torch.empty((n, width + 2), pin_memory=True)

    def moved(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Rewards (N,), terminated (N,) and observations (N, D)."""
        tensors, pinned = self._tensors, self._pinned
        if pinned is None:
            return tensors.rewards, tensors.terminated, tensors.observations
        # the step before has left: choosing this one's actions waited for the device
        pinned[:, 0], pinned[:, 1], pinned[:, 2:] = tensors.rewards, tensors.terminated, tensors.observations
        moved = pinned.to(self._device, non_blocking=True)
        return moved[:, 0], moved[:, 1], moved[:, 2:]
