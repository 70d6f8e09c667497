"""Who plays while a dataset is recorded: random play, rules with noise, mixtures of them, and exported policies.

======== ======================================================================================================================
random   every action drawn uniformly from the action space
rule     the environment's tuned rule; each component of its decisions is redrawn with probability 0.05
mixture  each episode is played by one of four, drawn with equal probability: random; the rule of thumb (noise 0.05); the tuned
         rule (noise 0.05); the tuned rule exploring (noise 0.3)
FOLDER   an exported policy or a run's (noise 0.05)
======== ======================================================================================================================

Where one action ends the episode (ArbSell-v0), noise is ten times rarer and random play acts in a step with probability 0.03:
else nothing of what comes later would be recorded. Rules choose their numbers on tuning worlds (or the earlier span of a tape),
as they do when they are judged.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import arbgym
from arbgym import policy as policies
from arbgym.engine import Definition
from arbgym.evaluation import TUNING_SEED, Decide, Floats, MaskedDecide, Simulator, decide_with
from arbgym.spec import Encoding, action_space, decode, encode
from experiments.config import ConfigError, Setting
from experiments.worlds import training_arguments

NAMED = ("random", "rule", "mixture")
NOISE, EXPLORING = 0.05, 0.3
# environments in which acting ends the episode: noise is multiplied by the first, random play acts with the second probability
_PATIENT = {"ArbSell-v0": (0.1, 0.03)}
_TUNING_EPISODES = 128

Act = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Observations float32 (N, D) of the same N episodes at every call -> encoded actions (N, A) or (N, 1)."""


@dataclass(frozen=True)
class Player:
    """Random play (no rule), or a rule of whose decisions each component is redrawn with probability ``noise``."""

    rule: Decide | None = None
    noise: float = NOISE


@dataclass(frozen=True)
class Behaviour:
    """A policy that a dataset is recorded with: each episode is played by one of ``players``, equally likely."""

    name: str
    definition: Definition
    encoding: Encoding
    players: tuple[Player, ...]

    def actor(self, episodes: int, seed: int) -> Act:
        """The policy at work on a batch of episodes; the same seed acts the same."""
        generator = np.random.default_rng(seed)
        playing = generator.integers(0, len(self.players), episodes)
        rows = [np.flatnonzero(playing == k) for k in range(len(self.players))]

        def act(observations: NDArray[np.float32]) -> NDArray[Any]:
            actions = self._random(generator, episodes)
            if self.definition.id in _PATIENT:
                holds = generator.random(episodes) >= _PATIENT[self.definition.id][1]
                actions[holds] = -1.0 if self.encoding == "continuous" else 0
            for player, mine in zip(self.players, rows, strict=True):
                if player.rule is not None and len(mine):
                    decisions = self._disturb(player.rule(observations[mine]), player.noise, generator)
                    actions[mine] = encode(self.definition.action, self.encoding, decisions)
            return actions

        return act

    def decide(self, episodes: int, seed: int) -> Decide:
        """The same as a decision rule that can be judged, for one play of so many episodes."""
        act = self.actor(episodes, seed)
        return lambda observations: decode(self.definition.action, self.encoding, act(observations))

    def _random(self, generator: np.random.Generator, count: int) -> NDArray[Any]:
        space: Any = action_space(self.definition.action, self.encoding)
        if self.encoding == "multidiscrete":
            return generator.integers(0, space.nvec, (count, len(space.nvec)))
        if self.encoding == "discrete":
            return generator.integers(0, space.n, (count, 1))
        return generator.uniform(-1.0, 1.0, (count, *space.shape)).astype(np.float32)

    def _disturb(self, decisions: Floats, noise: float, generator: np.random.Generator) -> Floats:
        """Decisions (N, A) of which each component is, with probability ``noise``, one of its values or, where ordered,
        anything between them.
        """
        disturbed = decisions.copy()
        noise *= _PATIENT.get(self.definition.id, (1.0, 1.0))[0]
        for a, choice in enumerate(self.definition.action):
            rows = np.flatnonzero(generator.random(len(decisions)) < noise)
            if choice.ordered:
                places = generator.uniform(0.0, len(choice.values) - 1.0, len(rows))
                disturbed[rows, a] = np.interp(places, np.arange(len(choice.values)), choice.values)
            else:
                disturbed[rows, a] = generator.choice(choice.values, len(rows))
        return disturbed


def behaviour(policy: str, setting: Setting[Any]) -> Behaviour:
    """The behaviour policy of a name, or of the folder of a run or an exported policy. Raises ConfigError or PolicyError."""
    definition = setting.definition
    if policy == "random":
        return Behaviour(policy, definition, setting.action, (Player(),))
    arguments = training_arguments(setting)
    simulator = Simulator(arbgym.ENVIRONMENTS[setting.environment], arguments, TUNING_SEED, _TUNING_EPISODES)
    if policy in NAMED:
        rules = definition.baselines()
        tuned = rules["tuned_rule"].fit(simulator)
        if policy == "rule":
            return Behaviour(policy, definition, setting.action, (Player(tuned),))
        thumb = rules["rule"].fit(simulator)
        return Behaviour(policy, definition, setting.action, (Player(), Player(thumb), Player(tuned), Player(tuned, EXPLORING)))
    return Behaviour("checkpoint", definition, setting.action, (Player(_exported(policy_folder(policy), setting, arguments)),))


def policy_folder(policy: str) -> Path:
    """The folder of the exported policy that a path means. Raises ConfigError."""
    folder = Path(policy)
    folder = folder / "policy" if (folder / "policy").is_dir() else folder
    if not (folder / policies.MANIFEST).is_file():
        raise ConfigError(f"policy = {policy!r}; accepted are {', '.join(NAMED)}, a run's folder or an exported policy's")
    return folder


def _exported(folder: Path, setting: Setting[Any], arguments: Mapping[str, Any]) -> Decide:
    created = policies.read_manifest(folder)["created"]
    exported = policies.load(folder, definition=setting.definition, now=datetime.fromisoformat(created))
    own = Simulator(arbgym.ENVIRONMENTS[setting.environment], {**arguments, "action": exported.encoding}, episodes=2)
    decide = decide_with(exported, own.make())
    if isinstance(decide, MaskedDecide):
        raise ConfigError(f"policy = {str(folder)!r}: wants action masks, which a dataset does not hold; accepted is one without")
    return decide
