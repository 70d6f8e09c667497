"""Datasets for offline learning: behaviour policies, and episodes recorded in Minari's format (HDF5 with metadata).

    python -m experiments.record ArbCross-v0 --policy mixture --episodes 2048 --out datasets/cross-mixture

A dataset is a folder that ``minari.load_dataset`` finds when ``MINARI_DATASETS_PATH`` is the folder above it. Needs the extra
``offline`` (``make offline``).
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.progress import track

import arbgym
from arbgym import policy as policies
from arbgym.engine import Definition
from arbgym.evaluation import TUNING_SEED, Decide, Simulator
from arbgym.spec import Encoding, action_space, decode, encode, observation_space
from experiments.config import ConfigError

POLICIES = ("random", "rule", "mixture")
_NOISE = 0.1  # share of random actions of whoever is no random policy
_TUNING_EPISODES = 128
_FILE = "data/main_data.hdf5"  # where Minari keeps a dataset's episodes

Act = Callable[[NDArray[np.float32]], NDArray[Any]]
"""Observations (N, D) of the same N episodes at every call -> encoded actions (N, ...)."""


def require_offline() -> None:
    """Refuse, with what to do, where the offline libraries are not installed."""
    missing = [name for name in ("d3rlpy", "minari", "h5py") if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not installed: offline learning has an environment of its own (d3rlpy pins gymnasium 1.0.0); "
            "run make offline, then .venv-offline/bin/python -m experiments.train ..."
        )


@dataclass(frozen=True)
class Episodes:
    """Recorded episodes, one list entry each; T differs.

    observations float32 (T + 1, D), actions (T, A) or (T,) when discrete, rewards float32 (T,), terminated bool, seed.
    """

    observations: list[NDArray[np.float32]]
    actions: list[NDArray[Any]]
    rewards: list[NDArray[np.float32]]
    terminated: list[bool]
    description: dict[str, Any]

    @property
    def steps(self) -> int:
        """Transitions in all."""
        return sum(len(rewards) for rewards in self.rewards)


@dataclass(frozen=True)
class Behaviour:
    """A policy that a dataset is recorded with, by name: random, rule, mixture, or a run's or policy's folder.

    ``random`` draws every action; ``rule`` is the environment's tuned rule with a tenth of random actions; ``mixture`` draws for
    each episode one of: random, the rule of thumb, the tuned rule (each with a tenth of random actions).
    """

    name: str
    definition: Definition
    encoding: Encoding
    rules: tuple[Decide | None, ...]  # None: random
    noise: float = _NOISE

    def actor(self, episodes: int, seed: int) -> Act:
        """The policy at work on a batch of episodes; the same seed acts the same."""
        generator = np.random.default_rng(seed)
        which = generator.integers(0, len(self.rules), episodes)
        space = action_space(self.definition.action, self.encoding)
        space.seed(seed)

        def act(observations: NDArray[np.float32]) -> NDArray[Any]:
            actions = _random(space, generator, episodes)
            keep = generator.random(episodes) >= self.noise
            for k, rule in enumerate(self.rules):
                rows = np.flatnonzero((which == k) & keep)
                if rule is not None and len(rows):
                    actions[rows] = encode(self.definition.action, self.encoding, rule(observations)[rows])
            return actions

        return act

    def decide(self, episodes: int, seed: int) -> Decide:
        """The same as a decision rule, to be judged beside others."""
        act = self.actor(episodes, seed)
        return lambda observations: decode(self.definition.action, self.encoding, act(observations))


def _random(space: Any, generator: np.random.Generator, count: int) -> NDArray[Any]:
    if hasattr(space, "nvec"):
        return generator.integers(0, space.nvec, (count, len(space.nvec)))
    if hasattr(space, "n"):
        return generator.integers(0, space.n, (count, 1))
    return generator.uniform(-1.0, 1.0, (count, *space.shape)).astype(np.float32)


def behaviour(policy: str, environment: str, encoding: Encoding, arguments: Mapping[str, Any]) -> Behaviour:
    """The behaviour policy of a name or folder, its rules fitted on tuning worlds. Raises ConfigError."""
    module = arbgym.ENVIRONMENTS[environment]
    simulator = Simulator(module, arguments, TUNING_SEED, _TUNING_EPISODES)
    env = simulator.make()
    rules = env.definition.baselines()
    if policy == "random":
        return Behaviour(policy, env.definition, encoding, (None,))
    if policy == "rule":
        return Behaviour(policy, env.definition, encoding, (rules["tuned_rule"].fit(simulator),))
    if policy == "mixture":
        return Behaviour(
            policy, env.definition, encoding, (None, rules["rule"].fit(simulator), rules["tuned_rule"].fit(simulator))
        )
    folder = Path(policy)
    folder = folder / "policy" if (folder / "policy").is_dir() else folder
    if not (folder / "manifest.json").is_file():
        raise ConfigError(f"policy = {policy!r}; accepted are {', '.join(POLICIES)}, a run's folder or an exported policy's")
    exported = policies.load(folder)
    trained: str = policies.read_manifest(folder)["environment"]["id"]
    if trained != environment:
        raise ConfigError(f"policy = {policy!r}: was trained on {trained}; accepted is a policy of {environment}")
    own: Encoding = policies.read_manifest(folder)["action"]["encoding"]

    def decide(observations: NDArray[np.float32]) -> NDArray[np.float64]:
        return decode(env.definition.action, own, exported.predict(observations))

    return Behaviour(folder.resolve().as_posix(), env.definition, encoding, (decide,))


def play(
    environment: str, acting: Behaviour, arguments: Mapping[str, Any], episodes: int, seed: int, show: bool = True
) -> Episodes:
    """Record whole episodes, all of them at once; episode e starts as ``reset(seed=seed + e)``.

    Ctrl-C ends the recording early: what is whole by then is kept, the rest ends as truncated.
    """
    simulator = Simulator(arbgym.ENVIRONMENTS[environment], {**arguments, "action": acting.encoding}, seed, episodes)
    env = simulator.make()
    act = acting.actor(env.num_envs, seed)
    env.reset(seed=seed)
    seen, done, earned, alive = [env.observations.copy()], [], [], []
    ended = np.zeros(env.num_envs, dtype=np.bool_)
    over = np.zeros(env.num_envs, dtype=np.bool_)
    try:
        for _ in track(range(env.config.episode_blocks), "recording", disable=not show, transient=True):
            actions = act(env.observations)
            env.step_in_place(actions if acting.encoding != "discrete" else actions[:, 0])
            alive.append(~over)
            seen.append(env.observations.copy())
            done.append(actions)
            earned.append(env.rewards.astype(np.float32))
            ended |= env.terminated & ~over
            over |= env.terminated | env.truncated
            if over.all():
                break
    except KeyboardInterrupt:
        print(f"stopped: keeping {len(earned)} steps of each episode")
    lengths = np.array(alive).sum(axis=0)[:episodes]
    observations, acts, rewards = np.array(seen), np.array(done), np.array(earned)
    if acting.encoding == "discrete":
        acts = acts[:, :, 0]
    description = {
        "environment": environment,
        "preset": env.preset,
        "feed": env.core.feed,
        "policy": acting.name,
        "noise": acting.noise,
        "encoding": acting.encoding,
        "seed": seed,
        "episodes": episodes,
        "arbgym": arbgym.__version__,
    }
    return Episodes(
        [observations[: length + 1, e] for e, length in enumerate(lengths)],
        [acts[:length, e] for e, length in enumerate(lengths)],
        [rewards[:length, e] for e, length in enumerate(lengths)],
        [bool(ended[e]) for e in range(episodes)],
        description,
    )


def write(recorded: Episodes, definition: Definition, out: Path) -> None:
    """Write episodes as a Minari dataset at ``out``; an existing dataset is replaced only once the new one is complete.

    Raises ConfigError for a folder that holds something else.
    """
    require_offline()
    out = out.resolve()
    if out.exists() and not (out / _FILE).is_file():
        raise ConfigError(f"out = {str(out)!r} exists and is no dataset; accepted is a new folder or a dataset's")
    home = out.parent / f".{out.name}.{os.getpid()}"
    os.environ["MINARI_DATASETS_PATH"] = str(home)
    import minari
    from minari.data_collector import EpisodeBuffer

    encoding: Encoding = recorded.description["encoding"]
    identity = "arbgym/recorded-v0"
    try:
        minari.create_dataset_from_buffers(
            identity,
            [
                EpisodeBuffer(
                    id=k,
                    observations=list(recorded.observations[k]),
                    actions=list(recorded.actions[k]),
                    rewards=recorded.rewards[k].tolist(),
                    terminations=[*[False] * (len(recorded.rewards[k]) - 1), recorded.terminated[k]],
                    truncations=[*[False] * (len(recorded.rewards[k]) - 1), not recorded.terminated[k]],
                )
                for k in range(len(recorded.rewards))
            ],
            observation_space=observation_space(definition.observation),
            action_space=action_space(definition.action, encoding),
            algorithm_name=recorded.description["policy"],
            author="ArbGym",
            author_email="none",
            code_permalink="none",
            description=json.dumps(recorded.description, sort_keys=True),
            data_format="hdf5",
        )
        if out.exists():
            shutil.rmtree(out)
        (home / identity).replace(out)
    finally:
        shutil.rmtree(home, ignore_errors=True)


def read(path: Path, environment: str, encoding: Encoding) -> Episodes:
    """Read a dataset and check that it is one of this environment and encoding. Raises ConfigError."""
    require_offline()
    path = path.resolve()
    if not (path / _FILE).is_file():
        raise ConfigError(f"dataset = {str(path)!r} is no Minari dataset; accepted is what python -m experiments.record writes")
    os.environ["MINARI_DATASETS_PATH"] = str(path.parent)
    import minari

    dataset = minari.load_dataset(path.name)
    try:
        description = json.loads(dataset.storage.metadata.get("description", ""))
    except (json.JSONDecodeError, TypeError) as error:
        raise ConfigError(f"dataset = {str(path)!r}: its description is not ArbGym's") from error
    for name, wanted in (("environment", environment), ("encoding", encoding)):
        if description.get(name) != wanted:
            raise ConfigError(f"dataset = {str(path)!r}: {name} = {description.get(name)!r}; accepted is {wanted!r}")
    episodes = list(dataset.iterate_episodes())
    return Episodes(
        [np.asarray(e.observations, dtype=np.float32) for e in episodes],
        [np.asarray(e.actions) for e in episodes],
        [np.asarray(e.rewards, dtype=np.float32) for e in episodes],
        [bool(e.terminations[-1]) for e in episodes],
        description,
    )
