"""PPO (Schulman et al. 2017, arXiv 1707.06347) sized for many environments: ``agents.tensor_ppo``, or stable-baselines3's own.

On a CPU the networks' arithmetic is the cost, not the market: few epochs, large minibatches, small ReLU networks.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import gymnasium
import torch
from stable_baselines3 import PPO
from torch import nn

from agents.recipe import Execution, linear_schedule, require, require_hidden, waiting_bias
from agents.tensor_ppo import TensorPPO
from agents.vec import NativeVecEnv
from arbgym.spec import Encoding


@dataclass(frozen=True)
class PPORecipe:
    """Hyper-parameters of one PPO agent."""

    algorithm: ClassVar[str] = "ppo"
    encodings: ClassVar[tuple[Encoding, ...]] = ("multidiscrete", "discrete", "continuous")

    environments: int = 1_024
    """environments stepped together"""
    rollout_steps: int = 32
    """steps of each environment between two updates"""
    epochs: int = 4
    """passes over a rollout"""
    minibatch: int = 8_192
    """environment steps per gradient step"""
    learning_rate: float = 2e-3
    """Adam's step at the start"""
    final_learning_rate_share: float = 0.1
    """share of it that is left at the end of training (linear)"""
    gamma: float = 0.0
    """discount per step; 0, as a block of ArbFlash is nearly a bandit: with 0 the profit that 0.9 reached after 3.8 million steps
    was there after 1.5 million"""
    gae_lambda: float = 0.0
    """bias against variance of the advantage estimate"""
    clip_range: float = 0.2
    """how far a ratio of probabilities may move in one update"""
    entropy_weight: float = 0.001
    """weight of the entropy bonus"""
    value_weight: float = 0.5
    """weight of the value loss"""
    max_gradient_norm: float = 0.5
    """gradients are scaled down to this norm"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the layers of policy and value network, each"""
    activation: Literal["relu", "tanh"] = "relu"
    """between the layers; on a CPU a tanh costs as much as the layer before it"""
    masks: bool = False
    """never take an action that cannot be carried out (see ``action_masks``), in training, in the judgement and as exported"""
    acting_probability: float | None = None
    """probability at the start of training that an action is not the first component's first value (wait, hold); where the first
    sale ends the episode, a policy that starts by trying everything equally never sees what waiting is worth and learns to sell
    at once. None leaves all actions equally likely"""

    def __post_init__(self) -> None:
        require("environments", self.environments, 1, 16_777_216)
        require("rollout_steps", self.rollout_steps, 1, 100_000)
        require("epochs", self.epochs, 1, 1_000)
        require("minibatch", self.minibatch, 2, 10_000_000)
        require("learning_rate", self.learning_rate, 1e-9, 1.0)
        require("final_learning_rate_share", self.final_learning_rate_share, 0.0, 1.0)
        require("gamma", self.gamma, 0.0, 1.0)
        require("gae_lambda", self.gae_lambda, 0.0, 1.0)
        require("clip_range", self.clip_range, 1e-6, 10.0)
        require("entropy_weight", self.entropy_weight, 0.0, 10.0)
        require("value_weight", self.value_weight, 0.0, 100.0)
        require("max_gradient_norm", self.max_gradient_norm, 1e-9, 1e9)
        require_hidden("hidden", self.hidden)
        if self.acting_probability is not None:
            require("acting_probability", self.acting_probability, 1e-6, 1.0 - 1e-6)
        if self.environments * self.rollout_steps < 2:
            raise ValueError("environments * rollout_steps = 1; accepted is 2 or more, so that advantages have a spread")

    @property
    def update_steps(self) -> int:
        """Environment steps between two updates: a budget is rounded up to a whole number of them."""
        return self.environments * self.rollout_steps

    def numbers(self, execution: Execution) -> dict[str, Any]:
        """The recipe's numbers by the library's names. Raises ValueError when a minibatch cannot be split over the ranks."""
        return {
            "learning_rate": linear_schedule(self.learning_rate, self.final_learning_rate_share),
            "n_steps": self.rollout_steps,
            "batch_size": execution.ranks.share("minibatch", min(self.minibatch, self.update_steps)),
            "n_epochs": self.epochs,
            "gamma": self.gamma,
            "gae_lambda": self.gae_lambda,
            "clip_range": self.clip_range,
            "ent_coef": self.entropy_weight,
            "vf_coef": self.value_weight,
            "max_grad_norm": self.max_gradient_norm,
        }

    def build(self, env: NativeVecEnv, seed: int, tensorboard: Path | None = None, execution: Execution | None = None) -> PPO:
        """A model that learns from ``env``, this rank's share of the environments; ``seed`` sets its weights and its exploration.

        Raises ValueError when the numbers cannot be split over the ranks, or the stock learner is asked for what it has not.
        """
        execution = execution or Execution()
        kind: Any = TensorPPO
        own: dict[str, Any] = {
            "masks": self.masks,
            "precision": execution.precision,
            "compile": execution.compile,
            "ranks": execution.ranks,
        }
        if execution.learner == "sb3":
            execution.require_stock(masks=self.masks)
            kind, own = PPO, {}
        model: PPO = kind(
            "MlpPolicy",
            env,
            **self.numbers(execution),
            policy_kwargs={"net_arch": list(self.hidden), "activation_fn": nn.ReLU if self.activation == "relu" else nn.Tanh},
            tensorboard_log=None if tensorboard is None else str(tensorboard),
            seed=seed,
            device=execution.device,
            **own,
        )
        if self.acting_probability is not None:
            _start_waiting(model, self.acting_probability)
        return model


def _start_waiting(model: PPO, acting_probability: float) -> None:
    """Bias the first component of the action head towards its first value; of a continuous action, towards its lower end."""
    space, head = model.action_space, model.policy.action_net
    if not isinstance(head, nn.Linear):
        raise TypeError(f"action head {type(head).__name__}; accepted is Linear")
    with torch.no_grad():
        if isinstance(space, gymnasium.spaces.Box):
            head.bias[0] = -1.0
        else:
            sizes = space.nvec if isinstance(space, gymnasium.spaces.MultiDiscrete) else [getattr(space, "n", 1)]
            head.bias[0] += waiting_bias(acting_probability, int(sizes[0]))
