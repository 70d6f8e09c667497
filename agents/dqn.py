"""DQN (Mnih et al. 2015, doi 10.1038/nature14236) for the discrete encoding of an action."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN
from stable_baselines3.common.noise import ActionNoise
from torch import nn

from agents.recipe import Execution, linear_schedule, require, require_hidden
from agents.replay import require_priorities
from agents.tensor_dqn import TensorDQN
from agents.vec import NativeVecEnv
from arbgym.spec import Encoding


@dataclass(frozen=True)
class DQNRecipe:
    """Hyper-parameters of one DQN agent."""

    algorithm: ClassVar[str] = "dqn"
    encodings: ClassVar[tuple[Encoding, ...]] = ("discrete",)

    environments: int = 256
    """environments stepped together"""
    gradient_steps: int = 4
    """updates per step of all environments"""
    batch: int = 1_024
    """transitions per gradient step"""
    buffer: int = 300_000
    """transitions kept"""
    learning_starts: int = 20_000
    """random environment steps before the first update"""
    learning_rate: float = 1e-3
    """Adam's step at the start"""
    final_learning_rate_share: float = 0.1
    """share of it that is left at the end of training (linear)"""
    gamma: float = 0.0
    """discount per step; 0, as a block of ArbFlash is nearly a bandit"""
    steps_ahead: int = 1
    """rewards summed before the value of the state behind them counts: n-step returns; more carry a late reward back sooner"""
    target_interval: int = 50_000
    """environment steps between copies to the target network"""
    exploration_share: float = 0.3
    """share of training over which the probability of a random action falls"""
    final_exploration: float = 0.05
    """probability of a random action after that"""
    max_gradient_norm: float = 10.0
    """gradients are scaled down to this norm"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the ReLU layers"""
    acting_probability: float | None = None
    """probability that a random action is not the first one (wait, hold), and a start whose best action is the first one: where a
    sale ends the episode, equally likely random actions never see what waiting is worth. None leaves them equally likely"""
    waiting_value: float = 0.05
    """what waiting seems to be worth more than the rest at the start, in units of the reward, with an acting_probability"""
    prioritised: bool = False
    """sample transitions by their last error (Schaul et al. 2016, arXiv 1511.05952), not uniformly"""
    alpha: float = 0.6
    """how far errors decide with prioritised: 0 is uniform, 1 in proportion"""
    beta: float = 0.4
    """how far importance weights undo that bias at the start of training, with prioritised; 1 at the end (linear)"""
    double: bool = False
    """choose the next action by the learning network, value it by the target network (van Hasselt et al. 2016): less optimism"""
    masks: bool = False
    """neither take nor value actions that the environment says cannot be carried out now"""

    def __post_init__(self) -> None:
        require("environments", self.environments, 1, 16_777_216)
        require("gradient_steps", self.gradient_steps, 1, 100_000)
        require("batch", self.batch, 1, 10_000_000)
        require("buffer", self.buffer, self.environments, 1_000_000_000)
        require("learning_starts", self.learning_starts, 0, 1_000_000_000)
        require("learning_rate", self.learning_rate, 1e-9, 1.0)
        require("final_learning_rate_share", self.final_learning_rate_share, 0.0, 1.0)
        require("gamma", self.gamma, 0.0, 1.0)
        require("steps_ahead", self.steps_ahead, 1, 10_000)
        require("target_interval", self.target_interval, 1, 1_000_000_000)
        require("exploration_share", self.exploration_share, 1e-6, 1.0)
        require("final_exploration", self.final_exploration, 0.0, 1.0)
        require("max_gradient_norm", self.max_gradient_norm, 1e-9, 1e9)
        require_hidden("hidden", self.hidden)
        require("waiting_value", self.waiting_value, 0.0, 1e6)
        if self.acting_probability is not None:
            require("acting_probability", self.acting_probability, 1e-6, 1.0 - 1e-6)
        require_priorities(self.alpha, self.beta)
        if self.batch > self.buffer:
            raise ValueError(f"batch = {self.batch} with a buffer of {self.buffer}; accepted is a batch that the buffer holds")

    @property
    def update_steps(self) -> int:
        """Environment steps between two updates: a budget is rounded up to a whole number of them."""
        return self.environments

    def build(self, env: NativeVecEnv, seed: int, tensorboard: Path | None = None, execution: Execution | None = None) -> DQN:
        """A model; ``seed`` sets its weights and its exploration. ``env`` has this rank's share of the environments.

        Raises ValueError for what cannot be split evenly over the ranks, and for what the stock learner does not have.
        """
        execution = execution or Execution()
        ranks = execution.ranks
        ranks.share("environments", self.environments)
        arguments: dict[str, Any] = {
            "learning_rate": linear_schedule(self.learning_rate, self.final_learning_rate_share),
            "buffer_size": ranks.share("buffer", self.buffer),
            "learning_starts": self.learning_starts,
            "batch_size": ranks.share("batch", self.batch),
            "tau": 1.0,
            "gamma": self.gamma,
            "train_freq": 1,
            "gradient_steps": self.gradient_steps,
            "n_steps": self.steps_ahead,
            "target_update_interval": self.target_interval,
            "exploration_fraction": self.exploration_share,
            "exploration_final_eps": self.final_exploration,
            "max_grad_norm": self.max_gradient_norm,
            "policy_kwargs": {"net_arch": list(self.hidden), "activation_fn": nn.ReLU},
            "tensorboard_log": None if tensorboard is None else str(tensorboard),
            "seed": seed,
            "device": execution.device,
        }
        if execution.learner == "sb3":
            model = self._stock(env, arguments, execution)
        else:
            model = TensorDQN(
                "MlpPolicy",
                env,
                prioritised=self.prioritised,
                alpha=self.alpha,
                beta=self.beta,
                double=self.double,
                masks=self.masks,
                acting_probability=self.acting_probability,
                precision=execution.precision,
                compile=execution.compile,
                ranks=ranks,
                **arguments,
            )
        if self.acting_probability is not None:
            _start_waiting(model, self.waiting_value)
        return model

    def _stock(self, env: NativeVecEnv, arguments: dict[str, Any], execution: Execution) -> DQN:
        execution.require_stock(prioritised=self.prioritised, double=self.double, masks=self.masks)
        if self.acting_probability is None:
            return DQN("MlpPolicy", env, **arguments)
        model = WaitingDQN("MlpPolicy", env, **arguments)
        model.acting_probability = self.acting_probability
        return model


def _start_waiting(model: DQN, waiting_value: float) -> None:
    """Raise the value of the first action at the start."""
    for network in (model.q_net, model.q_net_target):
        head = network.q_net[-1]
        if not isinstance(head, nn.Linear):
            raise TypeError(f"value head {type(head).__name__}; accepted is Linear")
        with torch.no_grad():
            head.weight.mul_(0.01)  # else the values' random start drowns what waiting is worth more
            head.bias.zero_()
            head.bias[0] = waiting_value


class WaitingDQN(DQN):
    """The library's DQN that explores each environment by itself and rarely acts: a random action is the first one (wait, hold)
    with probability ``1 - acting_probability``.
    """

    acting_probability: float = 0.5

    def _sample_action(
        self, learning_starts: int, action_noise: ActionNoise | None = None, n_envs: int = 1
    ) -> tuple[NDArray[Any], NDArray[Any]]:
        """The actions of a step, as the environment and as the buffer take them."""
        exploring = 1.0 if self.num_timesteps < learning_starts else self.exploration_rate
        explores = np.random.random(n_envs) < exploring  # noqa: NPY002 - stable-baselines3 seeds the global generator
        assert self._last_obs is not None, "stable-baselines3 resets the environments first"
        actions, _ = self.policy.predict(self._last_obs, deterministic=True)
        space = self.action_space
        assert isinstance(space, gymnasium.spaces.Discrete), "DQN refuses any other space"
        acts = np.random.random(n_envs) < self.acting_probability  # noqa: NPY002
        others = np.random.randint(1, max(int(space.n), 2), n_envs) % int(space.n)  # noqa: NPY002
        actions = np.where(explores, np.where(acts, others, 0), actions.reshape(n_envs))
        return actions, actions
