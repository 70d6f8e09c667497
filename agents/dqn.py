"""DQN (Mnih et al. 2015, doi 10.1038/nature14236) by stable-baselines3, for the discrete encoding of an action."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

from stable_baselines3 import DQN
from torch import nn

from agents.recipe import linear_schedule, require, require_hidden
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

    def __post_init__(self) -> None:
        require("environments", self.environments, 1, 1_000_000)
        require("gradient_steps", self.gradient_steps, 1, 100_000)
        require("batch", self.batch, 1, 10_000_000)
        require("buffer", self.buffer, self.environments, 1_000_000_000)
        require("learning_starts", self.learning_starts, 0, 1_000_000_000)
        require("learning_rate", self.learning_rate, 1e-9, 1.0)
        require("final_learning_rate_share", self.final_learning_rate_share, 0.0, 1.0)
        require("gamma", self.gamma, 0.0, 1.0)
        require("target_interval", self.target_interval, 1, 1_000_000_000)
        require("exploration_share", self.exploration_share, 1e-6, 1.0)
        require("final_exploration", self.final_exploration, 0.0, 1.0)
        require("max_gradient_norm", self.max_gradient_norm, 1e-9, 1e9)
        require_hidden("hidden", self.hidden)

    @property
    def update_steps(self) -> int:
        """Environment steps between two updates: a budget is rounded up to a whole number of them."""
        return self.environments

    def build(self, env: NativeVecEnv, seed: int, tensorboard: Path | None = None) -> DQN:
        """A stable-baselines3 model on the CPU; ``seed`` sets its weights and its exploration."""
        return DQN(
            "MlpPolicy",
            env,
            learning_rate=linear_schedule(self.learning_rate, self.final_learning_rate_share),
            buffer_size=self.buffer,
            learning_starts=self.learning_starts,
            batch_size=self.batch,
            tau=1.0,
            gamma=self.gamma,
            train_freq=1,
            gradient_steps=self.gradient_steps,
            target_update_interval=self.target_interval,
            exploration_fraction=self.exploration_share,
            exploration_final_eps=self.final_exploration,
            max_grad_norm=self.max_gradient_norm,
            policy_kwargs={"net_arch": list(self.hidden), "activation_fn": nn.ReLU},
            tensorboard_log=None if tensorboard is None else str(tensorboard),
            seed=seed,
            device="cpu",
        )
