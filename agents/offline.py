"""Offline learners by d3rlpy: implicit Q-learning, conservative Q-learning, and behaviour cloning beside them.

IQL (Kostrikov et al. 2021, arXiv 2110.06169) and CQL (Kumar et al. 2020, arXiv 2006.04779) learn from recorded episodes only.
Needs the extra ``offline``, which lives in an environment of its own (``make offline``): d3rlpy pins gymnasium 1.0.0.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.recipe import require, require_hidden
from arbgym.spec import Encoding


@dataclass(frozen=True)
class OfflineRecipe:
    """What every offline learner shares."""

    algorithm: ClassVar[str] = ""
    encodings: ClassVar[tuple[Encoding, ...]] = ("continuous",)

    dataset: Path | None = None
    """a Minari dataset's folder (python -m experiments.record); without one, a mixture dataset is recorded first"""
    environments: int = 1_024
    """episodes to record where no dataset is given"""
    batch: int = 1_024
    """transitions per gradient step"""
    learning_rate: float = 1e-3
    """Adam's step"""
    gamma: float = 0.0
    """discount per step; 0, as a block is nearly a bandit"""
    hidden: tuple[int, ...] = (128, 128)
    """widths of the ReLU layers of each network"""
    cloning: bool = True
    """train behaviour cloning on the same data for as many steps, to be judged beside the learner"""

    def __post_init__(self) -> None:
        require("environments", self.environments, 2, 1_000_000)
        require("batch", self.batch, 1, 10_000_000)
        require("learning_rate", self.learning_rate, 1e-9, 1.0)
        require("gamma", self.gamma, 0.0, 1.0)
        require_hidden("hidden", self.hidden)

    @property
    def update_steps(self) -> int:
        """A budget is counted in gradient steps."""
        return 1

    def build(self, env: Any, seed: int, tensorboard: Path | None = None) -> Any:
        """Refused: an offline learner is built on a dataset (``learner``)."""
        raise TypeError("an offline learner has no environment to act in; build it with learner(encoding)")

    def learner(self, encoding: Encoding) -> Any:
        """The d3rlpy algorithm, not yet built for a dataset."""
        raise NotImplementedError

    def _shared(self) -> dict[str, Any]:
        return {"batch_size": self.batch, "gamma": self.gamma}

    def _encoder(self) -> Any:
        from d3rlpy.models import VectorEncoderFactory

        return VectorEncoderFactory(hidden_units=list(self.hidden), activation="relu")


@dataclass(frozen=True)
class IQLRecipe(OfflineRecipe):
    """Hyper-parameters of implicit Q-learning on the continuous encoding."""

    algorithm: ClassVar[str] = "iql"

    expectile: float = 0.8
    """of the value, above 0.5: how far above the data's average the policy is drawn"""
    temperature: float = 3.0
    """inverse: how sharply better actions are weighted"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("expectile", self.expectile, 0.5, 0.999)
        require("temperature", self.temperature, 1e-6, 1e6)

    def learner(self, encoding: Encoding) -> Any:
        """IQL."""
        from d3rlpy.algos import IQLConfig

        return IQLConfig(
            **self._shared(),
            actor_learning_rate=self.learning_rate,
            critic_learning_rate=self.learning_rate,
            actor_encoder_factory=self._encoder(),
            critic_encoder_factory=self._encoder(),
            value_encoder_factory=self._encoder(),
            expectile=self.expectile,
            weight_temp=self.temperature,
        ).create(device="cpu:0")


@dataclass(frozen=True)
class CQLRecipe(OfflineRecipe):
    """Hyper-parameters of conservative Q-learning, on the discrete encoding (default) or the continuous one."""

    algorithm: ClassVar[str] = "cql"
    encodings: ClassVar[tuple[Encoding, ...]] = ("discrete", "continuous")

    conservatism: float = 0.1
    """weight of the penalty on actions that the data does not show"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("conservatism", self.conservatism, 0.0, 1e6)

    def learner(self, encoding: Encoding) -> Any:
        """Discrete CQL (a double DQN with the penalty), or CQL on soft actor-critic."""
        from d3rlpy.algos import CQLConfig, DiscreteCQLConfig

        if encoding == "discrete":
            return DiscreteCQLConfig(
                **self._shared(), learning_rate=self.learning_rate, encoder_factory=self._encoder(), alpha=self.conservatism
            ).create(device="cpu:0")
        return CQLConfig(
            **self._shared(),
            actor_learning_rate=self.learning_rate,
            critic_learning_rate=self.learning_rate,
            temp_learning_rate=self.learning_rate,
            alpha_learning_rate=0.0,
            actor_encoder_factory=self._encoder(),
            critic_encoder_factory=self._encoder(),
            conservative_weight=self.conservatism,
        ).create(device="cpu:0")


def cloning(recipe: OfflineRecipe, encoding: Encoding) -> Any:
    """Behaviour cloning with the recipe's network, batch and learning rate."""
    from d3rlpy.algos import BCConfig, DiscreteBCConfig

    kind = DiscreteBCConfig if encoding == "discrete" else BCConfig
    shared = {"batch_size": recipe.batch, "learning_rate": recipe.learning_rate, "encoder_factory": recipe._encoder()}
    return kind(**shared).create(device="cpu:0")


def buffer(
    observations: list[NDArray[np.float32]],
    actions: list[NDArray[Any]],
    rewards: list[NDArray[np.float32]],
    terminated: list[bool],
    encoding: Encoding,
    action_size: int,
) -> Any:
    """A d3rlpy replay buffer of whole episodes; observations have one row more than actions."""
    from d3rlpy.constants import ActionSpace
    from d3rlpy.dataset import Episode, InfiniteBuffer, ReplayBuffer

    discrete = encoding == "discrete"
    episodes = [
        # actions inside the open box: IQL's policy is a squashed Gaussian whose density is infinite at the edge
        Episode(seen[:-1], np.asarray(done).reshape(-1, 1) if discrete else np.clip(done, -0.999, 0.999), paid[:, None], ended)
        for seen, done, paid, ended in zip(observations, actions, rewards, terminated, strict=True)
        if len(paid) > 1
    ]
    space = ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS
    return ReplayBuffer(InfiniteBuffer(), episodes=episodes, action_space=space, action_size=action_size)


class OfflinePolicy:
    """A trained d3rlpy algorithm's deterministic policy, with what export and evaluation ask of a model."""

    def __init__(self, algorithm: Any, observation_space: Any, action_space: Any) -> None:
        self.algorithm = algorithm
        self.observation_space, self.action_space = observation_space, action_space

    def predict(self, observations: NDArray[np.float32], deterministic: bool = True) -> tuple[NDArray[Any], None]:
        """The best action of each row, (N,) when discrete or (N, A); there is no other than the deterministic one."""
        if not deterministic:
            raise ValueError("deterministic = False; accepted is True: an offline policy is exported as its best action")
        with torch.no_grad():
            out = self.network()(torch.as_tensor(observations))
        found: NDArray[Any] = out.argmax(dim=1).numpy() if hasattr(self.action_space, "n") else out.clamp(-1.0, 1.0).numpy()
        return found, None

    def network(self) -> nn.Module:
        """Observation (N, D) -> action values (N, F) when discrete, or actions (N, A): plain layers that share the weights."""
        modules = self.algorithm.impl.modules
        if hasattr(modules, "q_funcs") and not hasattr(modules, "policy"):
            (values,) = modules.q_funcs
            return nn.Sequential(values._encoder._layers, values._fc)
        policy = modules.imitator if hasattr(modules, "imitator") else modules.policy
        if hasattr(self.action_space, "n"):
            return nn.Sequential(policy._encoder._layers, policy._fc)
        return nn.Sequential(policy._encoder._layers, policy._mu if hasattr(policy, "_mu") else policy._fc, nn.Tanh())
