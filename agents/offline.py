"""Offline learners by d3rlpy: implicit Q-learning, conservative Q-learning, and behaviour cloning beside them.

IQL (Kostrikov et al. 2021, arXiv 2110.06169) and CQL (Kumar et al. 2020, arXiv 2006.04779) learn from recorded steps only. d3rlpy
has the losses and the training loop; here are the recipes, a buffer that hands a batch over in one piece instead of step by step
(two to three times as many gradient steps a second), checkpoints without pickled code, and what the export asks of a model.

On several ranks (torchrun) d3rlpy wraps the networks in torch's DistributedDataParallel: each rank draws its part of every batch
from episodes of its own, gradients are averaged, and all take the same step.

Needs the extra ``offline``, which lives in an environment of its own (``make offline``): d3rlpy pins gymnasium 1.0.0.
"""

from __future__ import annotations

import copy
import dataclasses
import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from agents.distributed import RankLost, Ranks
from agents.recipe import Execution, linear_schedule, require, require_hidden
from arbgym.spec import Encoding


# -------------------------------------------------------------------------------------------------------------- recipes
@dataclass(frozen=True)
class OfflineRecipe:
    """What every offline learner shares. Its budget is counted in gradient steps."""

    algorithm: ClassVar[str]
    encodings: ClassVar[tuple[Encoding, ...]]

    dataset: Path | None = None
    """a dataset's folder (python -m experiments.record); without one, a dataset is recorded into the run first"""
    policy: str = "mixture"
    """who plays where no dataset is given: random, rule, mixture, or the folder of a run or an exported policy"""
    episodes: int = 4_096
    """episodes to record where no dataset is given"""
    batch: int = 1_024
    """recorded steps per gradient step"""
    learning_rate: float = 1e-3
    """Adam's step at the start"""
    final_learning_rate_share: float = 0.05
    """share of it that is left at the end of training (linear)"""
    gamma: float = 0.0
    """discount per step; 0, as a block is nearly a bandit"""
    steps_ahead: int = 1
    """recorded rewards summed before the value of the state behind them is asked (n-step returns); more carries a late reward
    back faster, and leans on what the recorded policy did meanwhile"""
    hidden: tuple[int, ...] = (64, 64)
    """widths of the ReLU layers of each network"""
    cloning: bool = True
    """train behaviour cloning on the same data for as many steps, to be judged beside the learner"""

    def __post_init__(self) -> None:
        require("episodes", self.episodes, 2, 50_000)
        require("batch", self.batch, 1, 10_000_000)
        require("learning_rate", self.learning_rate, 1e-9, 1.0)
        require("final_learning_rate_share", self.final_learning_rate_share, 0.0, 1.0)
        require("gamma", self.gamma, 0.0, 1.0)
        require("steps_ahead", self.steps_ahead, 1, 10_000)
        require_hidden("hidden", self.hidden)

    @property
    def environments(self) -> int:
        """Episodes that are recorded together."""
        return min(self.episodes, 1_024)

    def configure(self, encoding: Encoding) -> Any:
        """d3rlpy's configuration of the algorithm."""
        raise NotImplementedError

    def configure_cloning(self, encoding: Encoding) -> Any:
        """d3rlpy's configuration of behaviour cloning with the same network, batch and learning rate."""
        from d3rlpy.algos import BCConfig, DiscreteBCConfig

        shared = {"batch_size": self.batch, "learning_rate": self.learning_rate, "encoder_factory": self._encoder()}
        return DiscreteBCConfig(**shared, beta=0.0) if encoding == "discrete" else BCConfig(**shared)

    def shared(self, ranks: Ranks) -> OfflineRecipe:
        """This rank's recipe: its part of the batch. Raises ValueError when that, or the episodes, cannot be shared out."""
        if self.dataset is None and self.episodes < ranks.world:
            raise ValueError(f"episodes = {self.episodes} on {ranks.world} ranks; accepted is at least one for each rank")
        return dataclasses.replace(self, batch=ranks.share("batch", self.batch))

    def rate(self, progress: float) -> float:
        """Adam's step after that share of the budget."""
        return linear_schedule(self.learning_rate, self.final_learning_rate_share)(max(1.0 - progress, 0.0))

    def _shared(self) -> dict[str, Any]:
        return {"batch_size": self.batch, "gamma": self.gamma}

    def _encoder(self) -> Any:
        from d3rlpy.models import VectorEncoderFactory

        return VectorEncoderFactory(hidden_units=list(self.hidden), activation="relu")


@dataclass(frozen=True)
class IQLRecipe(OfflineRecipe):
    """Hyper-parameters of implicit Q-learning on the continuous encoding."""

    algorithm: ClassVar[str] = "iql"
    encodings: ClassVar[tuple[Encoding, ...]] = ("continuous",)

    expectile: float = 0.7
    """of the value: 0.5 is the data's average, towards 1 the best that the data shows"""
    temperature: float = 10.0
    """inverse: how sharply better actions are weighted, per standard deviation of the rewards"""
    max_weight: float = 100.0
    """no action weighs more than this"""
    critics: int = 2
    """Q networks; the least of their values counts"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("expectile", self.expectile, 0.5, 0.999)
        require("temperature", self.temperature, 0.0, 1e6)
        require("max_weight", self.max_weight, 1.0, 1e12)
        require("critics", self.critics, 1, 100)

    def configure(self, encoding: Encoding) -> Any:
        """IQL."""
        from d3rlpy.algos import IQLConfig

        return IQLConfig(
            **self._shared(),
            actor_learning_rate=self.learning_rate,
            critic_learning_rate=self.learning_rate,
            actor_encoder_factory=self._encoder(),
            critic_encoder_factory=self._encoder(),
            value_encoder_factory=self._encoder(),
            n_critics=self.critics,
            expectile=self.expectile,
            weight_temp=self.temperature,
            max_weight=self.max_weight,
        )


@dataclass(frozen=True)
class CQLRecipe(OfflineRecipe):
    """Hyper-parameters of conservative Q-learning, on the discrete encoding (default) or the continuous one."""

    algorithm: ClassVar[str] = "cql"
    encodings: ClassVar[tuple[Encoding, ...]] = ("discrete", "continuous")

    conservatism: float = 0.1
    """weight of the penalty on actions that the data does not show, per standard deviation of the rewards"""
    target_interval: int = 1_000
    """gradient steps between copies to the target network (discrete)"""
    action_samples: int = 4
    """actions drawn per recorded step to measure the penalty (continuous)"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("conservatism", self.conservatism, 0.0, 1e6)
        require("target_interval", self.target_interval, 1, 1_000_000_000)
        require("action_samples", self.action_samples, 1, 1_000)

    def configure(self, encoding: Encoding) -> Any:
        """Discrete CQL (a double DQN with the penalty), or CQL on soft actor-critic with a penalty of fixed weight."""
        from d3rlpy.algos import CQLConfig, DiscreteCQLConfig

        if encoding == "discrete":
            return DiscreteCQLConfig(
                **self._shared(),
                learning_rate=self.learning_rate,
                encoder_factory=self._encoder(),
                target_update_interval=self.target_interval,
                alpha=self.conservatism,
            )
        return CQLConfig(
            **self._shared(),
            actor_learning_rate=self.learning_rate,
            critic_learning_rate=self.learning_rate,
            temp_learning_rate=self.learning_rate,
            alpha_learning_rate=0.0,
            actor_encoder_factory=self._encoder(),
            critic_encoder_factory=self._encoder(),
            initial_temperature=0.01,
            conservative_weight=self.conservatism,
            n_action_samples=self.action_samples,
        )


# ----------------------------------------------------------------------------------------------------------------- data
@dataclass(frozen=True)
class Transitions:
    """Recorded steps side by side: n steps of E episodes.

    observations float32 (n + E, D): each episode's, its last one included. actions (n, A), float32 in [-1, 1] or int64 (n, 1)
    when discrete. rewards float32 (n,). terminals bool (n,): the episode ended there and nothing follows (a time limit or the end
    of the recording is no such end). rows int64 (n,): where each step's observation lies; the next one lies behind it.
    reward_deviation: standard deviation of all recorded rewards, where these steps are only a share of them.
    """

    observations: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: NDArray[np.float32]
    terminals: NDArray[np.bool_]
    rows: NDArray[np.int64]
    reward_deviation: float | None = None

    def __len__(self) -> int:
        return len(self.rewards)

    @property
    def deviation(self) -> float:
        """Standard deviation of all recorded rewards; 1 when they are all alike."""
        found = float(self.rewards.std()) if self.reward_deviation is None else self.reward_deviation
        return found or 1.0

    def last_steps(self) -> NDArray[np.int64]:
        """Each episode's last step: an episode's observations follow one another, and break off behind it."""
        return np.append(np.flatnonzero(np.diff(self.rows) != 1), len(self) - 1)

    def share(self, ranks: Ranks, seed: int) -> Transitions:
        """This rank's episodes, drawn by ``seed``: every episode is one rank's, and all have nearly as many steps.

        Ranks have the same number of episodes but for one, dealt from the longest to the shortest; so whoever recorded them in
        turns, each rank has some of everyone's. Raises ValueError when there are fewer episodes than ranks.
        """
        last = self.last_steps()
        lengths = np.diff(last, prepend=-1)
        if len(last) < ranks.world:
            raise ValueError(f"episodes = {len(last)} on {ranks.world} ranks; accepted is at least one for each rank")
        order = np.random.default_rng(seed).permutation(len(last))
        order = order[np.argsort(-lengths[order], kind="stable")]
        mine = np.sort(order[ranks.rank :: ranks.world])
        steps = np.concatenate([np.arange(last[e] - lengths[e] + 1, last[e] + 1) for e in mine])
        starts = np.cumsum(lengths[mine] + 1) - lengths[mine] - 1  # of each episode's observations, one more than its steps
        rows = np.arange(len(steps)) + np.repeat(np.arange(len(mine)), lengths[mine])
        observations = np.empty((len(steps) + len(mine), *self.observations.shape[1:]), dtype=self.observations.dtype)
        observations[rows] = self.observations[self.rows[steps]]
        observations[starts + lengths[mine]] = self.observations[self.rows[last[mine]] + 1]
        return Transitions(
            observations, self.actions[steps], self.rewards[steps], self.terminals[steps], rows, float(self.rewards.std())
        )


class Buffer:
    """The part of d3rlpy's replay buffer that its training loop reads, with batches gathered in one piece.

    Steps are drawn with replacement by a generator of its own, so the same seed draws the same batches. Rewards are handed out in
    standard deviations of all rewards, so a recipe's numbers mean the same in every world. ``steps_ahead`` rewards, discounted by
    ``gamma``, are summed up to the end of the episode at most.
    """

    def __init__(
        self, data: Transitions, space: gymnasium.spaces.Space[Any], seed: Any, steps_ahead: int = 1, gamma: float = 0.0
    ) -> None:
        from d3rlpy.constants import ActionSpace
        from d3rlpy.dataset import DatasetInfo, Signature

        discrete = isinstance(space, gymnasium.spaces.Discrete)
        shape, width = data.observations.shape[1:], data.actions.shape[1]
        self._data, self._generator = data, np.random.default_rng(seed)
        self._actions = data.actions.astype(np.float32)
        self._rewards = (data.rewards / data.deviation).astype(np.float32)
        self._ahead, self._gamma = steps_ahead, gamma
        last = data.last_steps()
        self._left = np.minimum(last[np.searchsorted(last, np.arange(len(data)))] - np.arange(len(data)) + 1, steps_ahead)
        self.dataset_info = DatasetInfo(
            observation_signature=Signature([np.dtype(np.float32)], [shape]),
            action_signature=Signature([np.dtype(np.int64 if discrete else np.float32)], [(width,)]),
            reward_signature=Signature([np.dtype(np.float32)], [(1,)]),
            action_space=ActionSpace.DISCRETE if discrete else ActionSpace.CONTINUOUS,
            action_size=_action_size(space),
        )

    def sample_transition_batch(self, batch_size: int) -> Any:
        """A d3rlpy ``TransitionMiniBatch``; next actions, which none of the learners here reads, repeat the actions."""
        from d3rlpy.dataset import TransitionMiniBatch

        data = self._data
        drawn = self._generator.integers(0, len(data), batch_size)
        rows, actions, left = data.rows[drawn], self._actions[drawn], self._left[drawn]
        rewards = self._rewards[drawn]
        for k in range(1, self._ahead):
            rewards = rewards + np.float32(self._gamma**k) * self._rewards[np.minimum(drawn + k, len(data) - 1)] * (k < left)
        return TransitionMiniBatch(
            observations=data.observations[rows],
            actions=actions,
            rewards=rewards[:, None],
            next_observations=data.observations[rows + left],
            next_actions=actions,
            terminals=data.terminals[drawn + left - 1, None].astype(np.float32),
            intervals=left[:, None].astype(np.float32),
            transitions=(),
        )


def _action_size(space: gymnasium.spaces.Space[Any]) -> int:
    if isinstance(space, gymnasium.spaces.Discrete):
        return int(space.n)
    if isinstance(space, gymnasium.spaces.Box):
        return int(space.shape[0])
    raise TypeError(f"action space {space}; accepted are Discrete and Box")


# ------------------------------------------------------------------------------------------------------------- learners
class OfflineModel:
    """One d3rlpy algorithm on one dataset: trained in pieces, saved, and asked for its deterministic actions."""

    def __init__(
        self,
        configuration: Any,
        observations: gymnasium.spaces.Box,
        actions: gymnasium.spaces.Space[Any],
        seed: int,
        execution: Execution | None = None,
    ) -> None:
        """Where there are several ranks they have to be joined, and each has to come here with the same arguments."""
        import d3rlpy

        execution = execution or Execution()
        d3rlpy.seed(seed)
        torch.manual_seed(seed)
        self.observation_space, self.action_space = observations, actions
        self._ranks = execution.ranks
        self.algorithm = configuration.create(device=str(execution.device), enable_ddp=self._ranks.several)
        self.algorithm.create_impl(observations.shape, _action_size(actions))
        if self._ranks.several:
            self._complete_ddp()
            # the same weights on every rank, and from here on noise of its own
            torch.manual_seed(int(np.random.SeedSequence((seed, self._ranks.rank)).generate_state(1)[0]))

    def _complete_ddp(self) -> None:
        """What d3rlpy 2.8's distributed switch leaves out for the learners here."""
        from d3rlpy.models.torch import compute_deterministic_imitation_loss

        impl, modules = self.algorithm.impl, self.algorithm.impl.modules
        if getattr(impl, "_policy_type", None) == "deterministic":  # cloning asserts the policy's bare class
            impl.compute_loss = lambda seen, taken: compute_deterministic_imitation_loss(modules.imitator, seen, taken)
        if getattr(modules, "temp_optim", None) is not None:  # read off its wrapper, the temperature's gradient stays each rank's
            own = list(modules.log_temp.parameters())
            modules.temp_optim.optim.register_step_pre_hook(lambda *_: self._ranks.average_gradients(own))

    @property
    def steps(self) -> int:
        """Gradient steps taken."""
        return int(self.algorithm.grad_step)

    def fit(self, buffer: Buffer, steps: int, rate: float) -> dict[str, float]:
        """Take gradient steps with d3rlpy's own loop at one learning rate; returns its mean losses by name, this rank's own.

        Raises RankLost when another rank has ended meanwhile.
        """
        from d3rlpy.logging import NoopAdapterFactory

        for optimizer in self._parts().values():
            if hasattr(optimizer, "optim"):
                for group in optimizer.optim.param_groups:
                    group["lr"] = rate if group["lr"] > 0.0 else 0.0
        try:
            ((_, losses),) = self.algorithm.fit(
                buffer, n_steps=steps, n_steps_per_epoch=steps, logger_adapter=NoopAdapterFactory(), show_progress=False
            )
        except RuntimeError as error:
            if not self._ranks.several or isinstance(error, RankLost):
                raise
            raise RankLost(f"another rank has ended or cannot be reached: {error}") from error
        return {name: float(value) for name, value in losses.items() if not name.startswith("time_")}

    def predict(self, observations: NDArray[np.float32], deterministic: bool = True) -> tuple[NDArray[Any], None]:
        """d3rlpy's best action of each row, (N,) when discrete or (N, A); there is no other than the deterministic one."""
        if not deterministic:
            raise ValueError("deterministic = False; accepted is True: an offline policy is exported as its best action")
        return self.algorithm.predict(observations), None

    def network(self) -> nn.Module:
        """Observation (N, D) -> action values (N, F) when discrete, or actions (N, A): plain layers on the CPU; they share
        the weights where those are there.
        """
        parts = self._parts()
        discrete = isinstance(self.action_space, gymnasium.spaces.Discrete)
        if "imitator" in parts:
            network, head = parts["imitator"], parts["imitator"]._fc
        elif discrete:
            (network,) = parts["q_funcs"]
            head = network._fc
        else:
            network, head = parts["policy"], parts["policy"]._mu
        layers = (network._encoder._layers, head)
        drawn = nn.Sequential(*layers) if discrete else nn.Sequential(*layers, nn.Tanh())
        return drawn if head.weight.device.type == "cpu" else copy.deepcopy(drawn).cpu()

    def state(self) -> dict[str, Any]:
        """Weights, optimizer states and the number of steps, of tensors and plain numbers only."""
        return {"steps": self.steps, "parts": {name: part.state_dict() for name, part in self._parts().items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from what ``state`` returned. Raises ValueError when it is another algorithm's or another network's."""
        parts = self._parts()
        if set(state["parts"]) != set(parts):
            raise ValueError(f"checkpoint: holds {sorted(state['parts'])}; accepted are {sorted(parts)}")
        try:
            for name, part in parts.items():
                part.load_state_dict(state["parts"][name])
        except RuntimeError as error:
            raise ValueError(f"checkpoint: {error}") from error
        self.algorithm.set_grad_step(state["steps"])

    def _parts(self) -> dict[str, Any]:
        """Networks, without what wraps them on several ranks, and optimizers, by d3rlpy's names."""
        from d3rlpy.torch_utility import unwrap_ddp_model

        modules = self.algorithm.impl.modules
        found = {entry.name: getattr(modules, entry.name) for entry in dataclasses.fields(modules)}
        return {
            name: unwrap_ddp_model(part) if isinstance(part, nn.Module) else part
            for name, part in found.items()
            if part is not None
        }


def to_bytes(states: dict[str, Any]) -> bytes:
    """Several models' states as one file's bytes (torch's zip)."""
    content = io.BytesIO()
    torch.save(states, content)
    return content.getvalue()


def from_bytes(content: bytes) -> dict[str, Any]:
    """What ``to_bytes`` wrote, on the CPU; nothing but tensors and plain values is ever unpickled."""
    states: dict[str, Any] = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
    return states


def quiet() -> None:
    """Let d3rlpy say errors only: its losses are logged by whoever trains."""
    import structlog

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
