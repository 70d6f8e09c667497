"""Named configurations and their command line: every field is a flag, nothing is set twice.

A run's name is ``<algorithm>_<environment>``. To add one, add an entry to ``RUNS``.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib
import json
import shlex
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, Protocol, TypeVar

import tyro

import arbgym
from agents.recipe import Compile, Execution, Precision
from agents.vec import NativeVecEnv
from arbgym.engine import Definition, load_definition
from arbgym.evaluation import HELD_OUT_SEED, TRAINING_SEED, TUNING_SEED
from arbgym.spec import Encoding

_WORLDS_PER_SEED = 100_000  # training worlds of one --seed, at least; the upper half is for what is resumed
_SEEDS = (TUNING_SEED - TRAINING_SEED) // _WORLDS_PER_SEED


class ConfigError(ValueError):
    """A flag or a value that is refused before anything starts."""


class Recipe(Protocol):
    """What every agent's hyper-parameters offer."""

    @property
    def encodings(self) -> tuple[Encoding, ...]: ...

    @property
    def environments(self) -> int: ...


class ActingRecipe(Recipe, Protocol):
    """What those of an agent offer that learns by acting: see ``agents.ppo.PPORecipe``."""

    @property
    def update_steps(self) -> int: ...

    def build(self, env: NativeVecEnv, seed: int, tensorboard: Path | None = None, execution: Execution | None = None) -> Any: ...


Agent = TypeVar("Agent", bound=Recipe)
World = TypeVar("World")


@dataclass(frozen=True)
class EvaluationConfig:
    """How a trained policy is judged, beside every baseline and the oracle, on worlds or a span that nobody
    trained on.
    """

    episodes: int = 1_024
    """held-out episodes, the same for every policy"""
    tuning_episodes: int = 256
    """episodes on which baselines may choose their numbers, apart from training and held-out ones"""
    seed: int = HELD_OUT_SEED
    """seed of the first of them; each further one adds 1"""

    def __post_init__(self) -> None:
        for name in ("episodes", "tuning_episodes"):
            if not 2 <= getattr(self, name) <= 1_000_000:
                raise ConfigError(f"evaluation.{name} = {getattr(self, name)}; accepted is 2 to 1000000")
        if not HELD_OUT_SEED <= self.seed < 2**31:
            raise ConfigError(
                f"evaluation.seed = {self.seed}; accepted is {HELD_OUT_SEED} to {2**31 - 1}, which training never uses"
            )


@dataclass(frozen=True, kw_only=True)
class Setting(Generic[World]):
    """Where something acts: an environment with all its numbers, how actions are written, and training worlds to act in."""

    environment: tyro.conf.Suppress[str]
    world: World
    """every number of the environment; ``--preset`` chooses the defaults"""
    preset: str = "ethereum"
    """named set of the world's numbers"""
    action: Encoding = "multidiscrete"
    """encoding of the action"""
    feed: Literal["simulated", "replay"] = "simulated"
    """simulated worlds, or recorded prices, flow, liquidity and gas from --data"""
    data: Path | None = None
    """recorded data for --feed replay"""
    seed: int = 0
    """of the training worlds, and of whoever acts or learns in them"""

    def __post_init__(self) -> None:
        if not 0 <= self.seed < _SEEDS:
            raise ConfigError(f"seed = {self.seed}; accepted is 0 to {_SEEDS - 1}")
        if (self.feed == "replay") != (self.data is not None):
            state = "missing" if self.data is None else f"{str(self.data)!r}"
            raise ConfigError(f"data is {state} with feed = {self.feed!r}; accepted is --data PATH with --feed replay")
        if self.data is not None and not self.data.exists():
            raise ConfigError(f"data = {str(self.data)!r} does not exist; accepted is a recorded file or folder")

    @property
    def definition(self) -> Definition:
        """The environment's definition."""
        return definition_of(self.environment)

    @property
    def training_seed(self) -> int:
        """Seed of the first training world; runs with other seeds, and held-out worlds, lie elsewhere."""
        return TRAINING_SEED + self.seed * self.worlds_per_seed

    @property
    def worlds_per_seed(self) -> int:
        """How many training worlds each --seed has to itself."""
        return _WORLDS_PER_SEED

    def environment_arguments(self) -> dict[str, Any]:
        """Keyword arguments of ``gym.make_vec`` but for the number of environments and the recorded tape."""
        world: Any = self.world
        numbers = {entry.name: getattr(world, entry.name) for entry in dataclasses.fields(world)}
        numbers.pop("preset", None)
        return {"preset": self.preset, "action": self.action, **numbers}


@dataclass(frozen=True, kw_only=True)
class RunConfig(Setting[World], Generic[Agent, World]):
    """One training run, complete: the same configuration on the same machine gives the same result."""

    name: tyro.conf.Suppress[str]
    agent: Agent
    """hyper-parameters of the learner"""
    steps: int = 6_000_000
    """budget in environment steps, rounded up to whole updates; in gradient steps for a learner on recorded episodes"""
    minutes: float | None = None
    """budget in wall minutes of training, if reached before the steps; gives up exact repeatability"""
    checkpoint_steps: int = 1_000_000
    """steps between checkpoints"""
    threads: int = 1
    """threads of the learner; the market uses all cores"""
    learner: Literal["arbgym", "sb3"] = "arbgym"
    """who learns by acting: the tensor-resident PPO and DQN, or stable-baselines3's own"""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """where the learner's networks, rollouts and replay live; auto is a GPU where there is one"""
    simulator: Literal["auto", "cpu", "cuda"] = "auto"
    """where the market runs; auto is where the learner is, if the extra cuda is installed"""
    precision: Precision = "float32"
    """arithmetic of the networks while they learn"""
    compile: Compile = "off"
    """torch.compile of the update; reduce-overhead replays it as CUDA graphs"""
    lifetime_days: float = 90.0
    """days until the exported policy expires"""
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    """the judgement at the end"""
    out: Path = Path("runs")
    """folder for runs/NAME/STAMP"""
    quick: bool = False
    """the whole chain with a tiny budget, in under half a minute"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, low, high in (("steps", 1, 10**12), ("checkpoint_steps", 1, 10**12), ("threads", 1, 1024)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)}; accepted is {low} to {high}")
        if self.action not in self.agent.encodings:
            accepted = ", ".join(self.agent.encodings)
            raise ConfigError(f"action = {self.action!r}; accepted for {self.name} is {accepted}")
        if self.training_seed + self.worlds_per_seed > TUNING_SEED:
            most = (TUNING_SEED - TRAINING_SEED) // self.worlds_per_seed - 1
            raise ConfigError(
                f"seed = {self.seed} with agent.environments = {self.agent.environments}; accepted are seeds 0 to {most} with so "
                "many, as each has worlds of its own"
            )
        if not hasattr(self.agent, "update_steps"):
            self._require_defaults()
        if self.minutes is not None and not 0.0 < self.minutes <= 10_000.0:
            raise ConfigError(f"minutes = {self.minutes}; accepted is above 0 up to 10000")
        if not 0.0 < self.lifetime_days <= 3_650.0:
            raise ConfigError(f"lifetime_days = {self.lifetime_days}; accepted is above 0 up to 3650")

    def _require_defaults(self) -> None:
        """Refuse, for an agent that does not learn by acting, what only those have."""
        names = ["learner", "simulator", "precision", "compile"]
        if not hasattr(self.agent, "dataset"):
            names.append("device")
        for name in names:
            default = type(self).__dataclass_fields__[name].default
            if getattr(self, name) != default:
                raise ConfigError(f"{name} = {getattr(self, name)!r}; accepted for {self.name} is {default!r}")

    def resumed_seed(self, steps: int) -> int:
        """Seed of the first training world of a training that goes on after ``steps``: worlds it has not met yet."""
        return self.training_seed + self.worlds_per_seed // 2 + steps % (self.worlds_per_seed // 4)

    @property
    def worlds_per_seed(self) -> int:
        """Enough for four batches of the agent's environments."""
        return max(_WORLDS_PER_SEED, 4 * self.agent.environments)


@dataclass(frozen=True, kw_only=True)
class RecordConfig(Setting[World]):
    """One recording of a dataset for offline learning."""

    policy: str = "mixture"
    """who plays: random, rule, mixture, or the folder of a run or an exported policy"""
    episodes: int = 4_096
    """episodes to record, each in a training world of its own"""
    environments: int = 1_024
    """episodes that are played together"""
    out: Path | None = None
    """the dataset's folder, whose name ends in -v and a number; by default the next free one below runs/datasets/"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("episodes", "environments"):
            if not 1 <= getattr(self, name) <= _WORLDS_PER_SEED // 2:
                raise ConfigError(f"{name} = {getattr(self, name)}; accepted is 1 to {_WORLDS_PER_SEED // 2}")


def definition_of(environment: str) -> Definition:
    """The definition registered under an environment id."""
    return load_definition(arbgym.ENVIRONMENTS[environment])


# ------------------------------------------------------------------------------------------------------ named runs
@dataclass(frozen=True)
class Named:
    """A named run's defaults, and what ``--quick`` makes of its agent. The agent's class is imported when it is
    asked for.
    """

    environment: str
    agent: Callable[[], Recipe]
    quick_agent: Mapping[str, Any]
    action: Encoding
    steps: int
    quick_steps: int
    world: Mapping[str, Any] = field(default_factory=dict)
    """numbers of the world that training by this name changes"""
    episodes: int = 1_024
    """to be judged on: more where one position may earn what a hundred lose"""
    tuning_episodes: int = 256
    """on which baselines choose their numbers"""


def _recipe(module: str, name: str, **values: Any) -> Callable[[], Recipe]:
    def make() -> Recipe:
        recipe: Recipe = getattr(importlib.import_module(module), name)(**values)
        return recipe

    return make


# an open position's luck is noise to a learner: its reward is taken at constant prices, its judgement is not
_CROSS = {"reward_price_moves": False}
_OFFLINE: dict[str, Encoding] = {"iql": "continuous", "cql": "discrete"}
# a position is one decision spread over time: learners start by holding, and are told what its value does while they hold it. PPO
# makes the same of both rewards; DQN, which looks one step ahead, earns 30 % of the position with this one and 3 % with the other
_SELL = {"mark_to_market": True}
_SELL_PPO = _recipe(
    "agents.ppo",
    "PPORecipe",
    environments=1_024,
    rollout_steps=64,
    minibatch=8_192,
    learning_rate=1e-3,
    gamma=0.98,
    gae_lambda=0.95,
    entropy_weight=0.0,
    acting_probability=0.02,
)
_SELL_DQN = _recipe(
    "agents.dqn",
    "DQNRecipe",
    gradient_steps=2,
    batch=256,
    learning_rate=1.7e-3,
    gamma=0.97,
    target_interval=2_000,
    exploration_share=0.5,
    acting_probability=0.03,
)
# rare sales: a penalty on what the data does not show, or a mild preference for better actions, would only copy the holding
_SELL_OFFLINE: dict[str, dict[str, Any]] = {
    "iql": {"gamma": 0.97, "steps_ahead": 3, "expectile": 0.6, "temperature": 30.0, "episodes": 8_192},
    "cql": {"gamma": 0.97, "conservatism": 0.02, "episodes": 8_192},
}
# Recipes are trials of the recorded sweeps in experiments/studies (30 s of processor time each, worth the oracle share averaged
# over it), where the best was better with other training seeds too: README has the figures.
_FLASH_PPO = _recipe("agents.ppo", "PPORecipe", hidden=(32,), epochs=8, learning_rate=4.2e-3)
RUNS: dict[str, Named] = {
    "ppo_flash": Named(
        environment="ArbFlash-v0",
        agent=_FLASH_PPO,
        quick_agent={"environments": 256, "rollout_steps": 32, "minibatch": 2_048},
        action="multidiscrete",
        steps=5_000_000,
        quick_steps=65_536,
    ),
    "dqn_flash": Named(
        environment="ArbFlash-v0",
        agent=_recipe("agents.dqn", "DQNRecipe"),
        quick_agent={"environments": 64, "learning_starts": 2_000, "buffer": 50_000, "batch": 256},
        action="discrete",
        steps=2_500_000,
        quick_steps=32_768,
    ),
    "ppo_cross": Named(
        environment="ArbCross-v0",
        agent=_recipe("agents.ppo", "PPORecipe"),
        quick_agent={"environments": 256, "rollout_steps": 32, "minibatch": 2_048},
        action="multidiscrete",
        steps=6_000_000,
        quick_steps=65_536,
        world=_CROSS,
    ),
    "dqn_cross": Named(
        environment="ArbCross-v0",
        agent=_recipe("agents.dqn", "DQNRecipe"),
        quick_agent={"environments": 64, "learning_starts": 2_000, "buffer": 50_000, "batch": 256},
        action="discrete",
        steps=2_500_000,
        quick_steps=32_768,
        world=_CROSS,
    ),
    "ppo_sell": Named(
        environment="ArbSell-v0",
        agent=_SELL_PPO,
        quick_agent={"environments": 256, "minibatch": 4_096},
        action="discrete",
        steps=6_000_000,
        quick_steps=131_072,
        world=_SELL,
        episodes=4_096,
        tuning_episodes=4_096,
    ),
    "dqn_sell": Named(
        environment="ArbSell-v0",
        agent=_SELL_DQN,
        quick_agent={"environments": 64, "learning_starts": 5_000, "buffer": 50_000, "batch": 256},
        action="discrete",
        steps=2_000_000,
        quick_steps=65_536,
        world=_SELL,
        episodes=4_096,
        tuning_episodes=4_096,
    ),
    "gbm_sell": Named(
        environment="ArbSell-v0",
        agent=_recipe("experiments.supervised", "GBMRecipe"),
        quick_agent={"episodes": 512, "tuning_episodes": 256, "rows": 30_000},
        action="discrete",
        steps=400,
        quick_steps=60,
        world=_SELL,
        episodes=4_096,
        tuning_episodes=4_096,
    ),
    "tcn_sell": Named(
        environment="ArbSell-v0",
        agent=_recipe("experiments.supervised", "TCNRecipe"),
        quick_agent={"episodes": 512, "tuning_episodes": 256, "rows": 30_000},
        action="discrete",
        steps=4_000,
        quick_steps=300,
        world=_SELL,
        episodes=4_096,
        tuning_episodes=4_096,
    ),
    **{
        f"{algorithm}_{environment}": Named(
            environment=id_,
            agent=_recipe(
                "agents.offline", f"{algorithm.upper()}Recipe", **(_SELL_OFFLINE[algorithm] if environment == "sell" else {})
            ),
            quick_agent={"episodes": 256, "batch": 256},
            action=action,
            steps=8_000,
            quick_steps=300,
            world=world,
            episodes=4_096 if environment == "sell" else 1_024,
            tuning_episodes=4_096 if environment == "sell" else 256,
        )
        for algorithm, action in _OFFLINE.items()
        for environment, id_, world in (
            ("flash", "ArbFlash-v0", {}),
            ("cross", "ArbCross-v0", _CROSS),
            ("sell", "ArbSell-v0", _SELL),
        )
    },
}


def default_config(name: str, preset: str | None = None, quick: bool = False) -> RunConfig[Any, Any]:
    """The configuration of a name with nothing overridden. Raises ConfigError for an unknown name or preset."""
    if name not in RUNS:
        raise ConfigError(f"NAME = {name!r}; accepted are {', '.join(RUNS)}")
    named = RUNS[name]
    definition = definition_of(named.environment)
    preset = preset or definition.presets[0]
    agent: Any = named.agent()
    evaluation = EvaluationConfig(episodes=named.episodes, tuning_episodes=named.tuning_episodes)
    if quick:
        agent = dataclasses.replace(agent, **named.quick_agent)
        evaluation = EvaluationConfig(episodes=64, tuning_episodes=32)
    steps = named.quick_steps if quick else named.steps
    return RunConfig(
        name=name,
        environment=named.environment,
        agent=agent,
        world=definition.configure(preset, **named.world),
        preset=preset,
        action=named.action,
        steps=steps,
        checkpoint_steps=max(1, steps // 8),
        evaluation=evaluation,
        quick=quick,
    )


def training_world(environment: str, preset: str | None = None) -> Any:
    """The world that the named runs of an environment train in: what a preset says, with their changes."""
    definition = definition_of(environment)
    changes = next((named.world for named in RUNS.values() if named.environment == environment), {})
    return definition.configure(preset or definition.presets[0], **changes)


def parse(arguments: Sequence[str]) -> RunConfig[Any, Any]:
    """``NAME [flags]`` as a configuration. Raises ConfigError or ValueError on a bad value; exits with a
    message on a bad flag.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("name", nargs="?", default="-")
    first.add_argument("--preset")
    first.add_argument("--quick", action="store_true")
    known, _ = first.parse_known_args(arguments)
    if known.name.startswith("-") or not arguments or arguments[0] != known.name:
        raise ConfigError(f"the first argument is the run's NAME; accepted are {', '.join(RUNS)}")
    default = default_config(known.name, known.preset, known.quick)
    kind: Any = RunConfig[type(default.agent), type(default.world)]  # type: ignore[misc]  # a class made for tyro alone
    parsed: RunConfig[Any, Any] = tyro.cli(
        kind, prog=f"python -m experiments.train {known.name}", args=list(arguments[1:]), default=default
    )
    _require_one_preset(parsed, default.preset)
    return parsed


def _require_one_preset(parsed: Setting[Any], preset: str) -> None:
    if not parsed.preset == preset == getattr(parsed.world, "preset", parsed.preset):
        world = getattr(parsed.world, "preset", None)
        raise ConfigError(f"preset = {parsed.preset!r}, world.preset = {world!r}; accepted is one --preset")


def parse_recording(arguments: Sequence[str]) -> RecordConfig[Any]:
    """``ENVIRONMENT [flags]`` as a recording. Raises ConfigError or ValueError on a bad value; exits with a message on a bad
    flag.
    """
    first = argparse.ArgumentParser(add_help=False, allow_abbrev=False)
    first.add_argument("environment", nargs="?", default="-")
    first.add_argument("--preset")
    known, _ = first.parse_known_args(arguments)
    if not arguments or arguments[0] != known.environment or known.environment not in arbgym.ENVIRONMENTS:
        raise ConfigError(f"the first argument is the environment; accepted are {', '.join(arbgym.ENVIRONMENTS)}")
    preset = known.preset or definition_of(known.environment).presets[0]
    default = RecordConfig(
        environment=known.environment, world=training_world(known.environment, preset), preset=preset, action="continuous"
    )
    kind: Any = RecordConfig[type(default.world)]  # type: ignore[misc]  # a class made for tyro alone
    parsed: RecordConfig[Any] = tyro.cli(
        kind, prog=f"python -m experiments.record {known.environment}", args=list(arguments[1:]), default=default
    )
    _require_one_preset(parsed, preset)
    return parsed


# ----------------------------------------------------------------------------------------------------- to JSON and back
def to_json(config: Any) -> Any:
    """JSON-able form of a configuration; paths become text."""
    return json.loads(json.dumps(dataclasses.asdict(config), default=str))


def from_json(values: Mapping[str, Any]) -> RunConfig[Any, Any]:
    """The configuration that ``to_json`` wrote. Raises ConfigError when it does not fit this version of the code."""
    if not isinstance(values, Mapping) or not {"name", "preset", "quick"} <= set(values):
        raise ConfigError("config.json: run has no name, preset or quick; accepted is what a training run wrote")
    default = default_config(values["name"], values["preset"], bool(values["quick"]))
    merged: RunConfig[Any, Any] = _restore(default, values, "run")
    return merged


def _restore(default: Any, values: Any, name: str) -> Any:
    """``default`` with the values of its JSON form, of the same types."""
    if dataclasses.is_dataclass(default) and not isinstance(default, type):
        entries = {entry.name: getattr(default, entry.name) for entry in dataclasses.fields(default)}
        if not isinstance(values, Mapping) or set(entries) != set(values):
            differing = sorted(set(entries) ^ set(values)) if isinstance(values, Mapping) else values
            raise ConfigError(f"config.json: {name} differs from this version's fields in {differing}")
        hints = typing.get_type_hints(type(default))
        return dataclasses.replace(
            default,
            **{key: _restore_entry(hints[key], entries[key], values[key], f"{name}.{key}") for key in entries},
        )
    if isinstance(default, tuple):
        sample = default[0] if default else None
        return tuple(_restore(sample, value, f"{name}[{k}]") if sample is not None else value for k, value in enumerate(values))
    return values


def _restore_entry(hint: Any, default: Any, value: Any, name: str) -> Any:
    """One field; a path may be absent, so its type is read off the hint rather than off the default."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if Path in options and value is not None:
        return Path(value)
    return _restore(default, value, name)


# ------------------------------------------------------------------------------------------------------ as typed
def command(config: RunConfig[Any, Any]) -> str:
    """The command line of a configuration: its name, and a flag for every field that differs from the default."""
    default = default_config(config.name, config.preset, config.quick)
    words = ["python", "-m", "experiments.train", config.name]
    if config.preset != config.definition.presets[0]:
        words += ["--preset", config.preset]
    if config.quick:
        words.append("--quick")
    ours, theirs = flatten(to_json(config)), flatten(to_json(default))
    for name, value in ours.items():
        if theirs.get(name) == value:
            continue
        group, dot, field_name = name.replace("_", "-").rpartition(".")
        flag = f"--{group}{dot}{field_name}"
        if isinstance(value, bool):
            words.append(flag if value else f"--{group}{dot}no-{field_name}")
        else:
            words += [flag, *(shlex.quote(str(part)) for part in (value if isinstance(value, list) else [value]))]
    return " ".join(words)


def flatten(value: Any, name: str = "") -> dict[str, Any]:
    """Leaves of a JSON value by dotted name; lists of numbers stay together."""
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        value = {str(k): part for k, part in enumerate(value)}
    if not isinstance(value, dict):
        return {name: value}
    leaves: dict[str, Any] = {}
    for key, part in value.items():
        leaves.update(flatten(part, f"{name}.{key}" if name else key))
    return leaves
