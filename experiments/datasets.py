"""Datasets for offline learning in Minari's format: HDF5 episodes and ``metadata.json``, written as they are played.

A dataset is a folder NAME-vN with ``data/`` inside, which ``minari.load_dataset("NAME-vN")`` finds when ``MINARI_DATASETS_PATH``
is the folder above it. Observations, actions and rewards are what the environment gave and took; ``infos`` hold the net profit
and the oracle's in quote currency. ``metadata.json`` has, under ``arbgym``, where it all comes from. Minari's own collector steps
one environment at a time and needs JAX; this writes thousands of episodes at a time through Minari's storage.
"""

from __future__ import annotations

import copy
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

import arbgym
from agents.offline import Transitions
from arbgym.evaluation import Simulator
from arbgym.spec import action_space, observation_space, schema_hash
from experiments.behaviours import Behaviour, behaviour, policy_folder
from experiments.config import ConfigError, RecordConfig, Setting, flatten, to_json
from experiments.monitor import StopSignal
from experiments.provenance import git_revision, versions
from experiments.worlds import training_arguments

FOLDER = Path("runs") / "datasets"
OURS = "arbgym"  # the key of our part of the metadata
POLICY = "policy"  # the sub-folder with a copy of the exported policy that played, if one did
_NAME = re.compile(r"[\w-]+-v\d+")
_COLUMNS = ("net_profit", "oracle_profit")

Floats = NDArray[np.float64]


def require_minari() -> None:
    """Refuse, with what to do, where Minari is not installed."""
    _require("minari", "h5py")


def require_offline() -> None:
    """Refuse, with what to do, where the offline libraries are not installed."""
    _require("d3rlpy", "minari", "h5py")


def _require(*names: str) -> None:
    missing = [name for name in names if not find_spec(name)]
    if missing:
        raise ConfigError(
            f"{', '.join(missing)} not installed: offline learning has an environment of its own (d3rlpy pins gymnasium 1.0.0); "
            "run make offline, then .venv-offline/bin/python -m experiments...."
        )


# -------------------------------------------------------------------------------------------------------------- playing
@dataclass(frozen=True)
class Played:
    """Whole episodes of a batch, episode by episode: observations (E, T + 1, D), actions (E, T, ...), rewards and info columns
    (E, T), each valid up to its episode's ``lengths`` (E,); ``terminated`` (E,), or else cut off.
    """

    observations: NDArray[np.float32]
    actions: NDArray[Any]
    rewards: Floats
    info: dict[str, Floats]
    lengths: NDArray[np.int64]
    terminated: NDArray[np.bool_]


def play(setting: Setting[Any], acting: Behaviour, seed: int, episodes: int, stop: StopSignal, bar: Bar) -> Played:
    """Play episodes side by side, one compiled call a step; episode e is what ``reset(seed=seed + e)`` starts.

    When ``stop`` comes, what is played so far is kept, and episodes that were not over are cut off there.
    """
    env = Simulator(arbgym.ENVIRONMENTS[setting.environment], training_arguments(setting), seed, episodes).make()
    act = acting.actor(env.num_envs, seed)
    env.reset(seed=seed)
    observations = [env.observations.copy()]
    actions: list[NDArray[Any]] = []
    rewards: list[Floats] = []
    info: dict[str, list[Floats]] = {name: [] for name in _COLUMNS}
    over, terminated = np.zeros((2, env.num_envs), dtype=np.bool_)
    lengths = np.zeros(env.num_envs, dtype=np.int64)
    while not over.all() and not (stop.received and actions):
        actions.append(act(env.observations))
        env.step_in_place(actions[-1])
        observations.append(env.observations.copy())
        rewards.append(env.rewards.copy())
        for name, column in info.items():
            column.append(env.info[name].copy())
        lengths += ~over
        terminated |= env.terminated & ~over
        over |= env.terminated | env.truncated
        bar.advance(int((~over).sum()))

    def by_episode(steps: Sequence[NDArray[Any]]) -> NDArray[Any]:
        return np.ascontiguousarray(np.swapaxes(np.stack(steps), 0, 1)[:episodes])

    return Played(
        by_episode(observations),
        by_episode(actions)[..., 0] if setting.action == "discrete" else by_episode(actions),
        by_episode(rewards),
        {name: by_episode(column) for name, column in info.items()},
        lengths[:episodes],
        terminated[:episodes],
    )


class Bar:
    """A progress bar over the steps of a recording; a line per batch where there is no terminal."""

    def __init__(self, console: Console, episodes: int, blocks: int) -> None:
        self._console, self._episodes = console, episodes
        columns = (
            TextColumn("recording"),
            BarColumn(),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            TextColumn("{task.fields[note]}"),
        )
        self._progress = Progress(*columns, console=console, disable=not console.is_terminal, transient=True)
        self._task = self._progress.add_task("recording", total=episodes * blocks, note="")

    def __enter__(self) -> Bar:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def advance(self, steps: int) -> None:
        """So many steps more."""
        self._progress.advance(self._task, steps)

    def saved(self, episodes: int) -> None:
        """So many episodes are on disk."""
        self._progress.update(self._task, note=f"{episodes:,} episodes saved")
        if not self._console.is_terminal:
            self._console.print(f"{episodes:,} of {self._episodes:,} episodes recorded", soft_wrap=True)


# -------------------------------------------------------------------------------------------------------------- writing
def next_folder(config: RecordConfig[Any], policy: str) -> Path:
    """Where a recording without ``--out`` goes: the first version that is not taken."""
    name = f"{config.environment.partition('-')[0].lower()}-{config.preset}-{policy}-{config.action}"
    version = 0
    while (FOLDER / f"{name}-v{version}").exists():
        version += 1
    return FOLDER / f"{name}-v{version}"


def record(config: RecordConfig[Any], console: Console) -> Path:
    """Play and write a dataset batch by batch; returns its folder, which appears when the recording is over or stopped.

    Raises ConfigError before anything is written when the folder is taken or something cannot be played.
    """
    require_minari()
    out = config.out
    if out is not None:
        _require_free(out)
    acting = behaviour(config.policy, config)
    out = out or next_folder(config, acting.name)
    # absolute: Minari measures a dataset below a relative path in a place that is not there
    partial = out.resolve().with_name(f".{out.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)  # of a recording that was killed
    (partial / "data").mkdir(parents=True)
    if acting.name == "checkpoint":
        shutil.copytree(policy_folder(config.policy), partial / POLICY)
    storage = _storage(config, acting, partial / "data", out.name)
    blocks = training_arguments(config)["episode_blocks"]
    done, sums = 0, dict.fromkeys(("return", *_COLUMNS), 0.0)
    with (
        StopSignal("stopping: keeping what is recorded (once more to end at once)") as stop,
        Bar(console, config.episodes, blocks) as bar,
    ):
        while done < config.episodes and not (stop.received and done):
            count = min(config.environments, config.episodes - done)
            played = play(config, acting, config.training_seed + done, count, stop, bar)
            _append(storage, played, config.training_seed + done)
            done += count
            sums["return"] += _total(played.rewards, played.lengths)
            for name in _COLUMNS:
                sums[name] += _total(played.info[name], played.lengths)
            bar.saved(done)
    means = {f"mean_{name}": total / done for name, total in sums.items()}
    ended = {"episodes": done, "stopped_by": "signal" if stop.received else "episodes", **means}
    storage.update_metadata({OURS: storage.metadata[OURS] | ended})
    partial.rename(out)
    return out


def _require_free(out: Path) -> None:
    if not _NAME.fullmatch(out.name):
        raise ConfigError(f"out = {str(out)!r}; accepted is a folder whose name ends in a version, as in {out.name or 'data'}-v0")
    if out.exists():
        raise ConfigError(f"out = {str(out)!r} exists already; accepted is a new folder, such as the next version")


def _storage(config: RecordConfig[Any], acting: Behaviour, path: Path, identity: str) -> Any:
    """Minari's storage of a new dataset with all its metadata but what the recording will have found."""
    import minari
    from minari.dataset.minari_storage import MinariStorage

    definition = config.definition
    storage = MinariStorage.new(
        path,
        observation_space=observation_space(definition.observation),
        action_space=action_space(definition.action, config.action),
        env_spec=_spec(config),
        data_format="hdf5",
    )
    storage.update_metadata(
        {
            "dataset_id": identity,
            "minari_version": minari.__version__,
            "algorithm_name": acting.name,
            "author": {"ArbGym"},
            "requirements": [f"arbgym>={arbgym.__version__}"],
            "description": f"{config.environment} ({config.preset}, {config.feed} feed), played by {acting.name}: see "
            "experiments/behaviours.py. infos: profits in quote currency.",
            OURS: provenance(config) | {"policy": acting.name, "players": len(acting.players)},
        }
    )
    return storage


def provenance(setting: Setting[Any]) -> dict[str, Any]:
    """What a dataset is of, and what it was recorded with."""
    return {**_subject(setting), "seed": setting.training_seed, "git": git_revision(), "versions": versions()}


def _subject(setting: Setting[Any]) -> dict[str, Any]:
    """What a dataset and a training on it have to agree on."""
    definition = setting.definition
    tape = training_arguments(setting).get("tape")
    return {
        "environment": definition.id,
        "version": definition.version,
        "observation": schema_hash(definition.observation),
        "actions": schema_hash(definition.action),
        "action": setting.action,
        "preset": setting.preset,
        "feed": setting.feed,
        "tape": None if tape is None else tape.sha256,
        "world": to_json(setting.world),
    }


def _spec(config: RecordConfig[Any]) -> Any:
    """How Minari makes the environment again; None where it cannot: on a tape, or where whole pools or lenders were changed."""
    if config.feed == "replay":
        return None
    ours, theirs = to_json(config.world), to_json(config.definition.configure(config.preset))
    changed = {name: value for name, value in ours.items() if value != theirs[name] and name != "chain"}
    if "chain" in ours:  # whose numbers are arguments by their own names
        changed |= {name: value for name, value in ours["chain"].items() if value != theirs["chain"][name]}
    if any(isinstance(value, dict) or (isinstance(value, list) and isinstance(value[0], dict)) for value in changed.values()):
        return None
    spec = copy.deepcopy(gymnasium.spec(config.environment))
    spec.kwargs.update(preset=config.preset, action=config.action, **changed)
    return spec


def _append(storage: Any, played: Played, seed: int) -> None:
    from minari.data_collector import EpisodeBuffer

    def episode(e: int) -> Any:
        length = int(played.lengths[e])
        last = np.arange(length) == length - 1
        return EpisodeBuffer(
            seed=seed + e,
            observations=played.observations[e, : length + 1],
            actions=played.actions[e, :length],
            rewards=played.rewards[e, :length],
            terminations=last & played.terminated[e],
            truncations=last & ~played.terminated[e],
            infos={name: np.concatenate([[0.0], column[e, :length]]) for name, column in played.info.items()},
        )

    storage.update_episodes(episode(e) for e in range(len(played.lengths)))


def _total(values: Floats, lengths: NDArray[np.int64]) -> float:
    return float((values * (np.arange(values.shape[1]) < lengths[:, None])).sum())


# -------------------------------------------------------------------------------------------------------------- reading
@dataclass(frozen=True)
class Dataset:
    """A dataset in memory; ``source`` is our part of its metadata, None for one that somebody else recorded."""

    path: Path
    data: Transitions
    episodes: int
    source: dict[str, Any] | None

    def behaviour(self, setting: Setting[Any]) -> Behaviour | None:
        """Who played, ready to play again; None where that is not known."""
        if self.source is None:
            return None
        return recorded_behaviour(self.path, self.source, setting)


def recorded_behaviour(path: Path, source: dict[str, Any], setting: Setting[Any]) -> Behaviour:
    """Who played a dataset of ours."""
    return behaviour(str(path / POLICY) if source["policy"] == "checkpoint" else source["policy"], setting)


def read_source(path: Path) -> dict[str, Any] | None:
    """Our part of a dataset's metadata, None when it has none. Raises ConfigError where there is no dataset."""
    return _metadata(path).get(OURS)


def _metadata(path: Path) -> dict[str, Any]:
    require_minari()
    from minari.dataset.minari_storage import MinariStorage

    try:
        metadata: dict[str, Any] = MinariStorage.read_raw_metadata(path / "data")
    except ValueError as error:
        raise ConfigError(
            f"dataset = {str(path)!r}: {error}; accepted is a Minari dataset's folder, with data/ inside"
        ) from error
    return metadata


def read(path: Path, setting: Setting[Any], console: Console) -> Dataset:
    """A dataset of this environment, world and encoding. Raises ConfigError that names what differs or is damaged."""
    source = _metadata(path).get(OURS)
    from minari.dataset.minari_storage import MinariStorage

    if source is not None:
        _require_same(path, source, setting)
    storage = MinariStorage.read(path / "data")
    definition = setting.definition
    spaces = (
        ("observation_space", storage.observation_space, observation_space(definition.observation)),
        ("action_space", storage.action_space, action_space(definition.action, setting.action)),
    )
    for name, found, accepted in spaces:
        if found != accepted:
            raise ConfigError(f"dataset = {str(path)!r}: {name} = {found}; accepted is {accepted}")
    count = int(storage.total_episodes)
    parts: list[_Episode] = []
    try:
        with Progress(*Progress.get_default_columns(), console=console, disable=not console.is_terminal, transient=True) as bar:
            for episode in bar.track(storage.get_episodes(range(count)), total=count, description="reading"):
                parts.append(_checked(episode, path, storage.action_space))
    except (OSError, KeyError) as error:
        raise ConfigError(f"dataset = {str(path)!r}: cannot be read: {error}") from error
    if not sum(len(part.rewards) for part in parts):
        raise ConfigError(f"dataset = {str(path)!r}: holds no steps")
    return Dataset(path, _flat(parts), count, source)


@dataclass(frozen=True)
class _Episode:
    observations: NDArray[np.float32]  # (T + 1, D)
    actions: NDArray[Any]  # (T, A)
    rewards: NDArray[np.float32]  # (T,)
    terminated: bool


def _checked(episode: dict[str, Any], path: Path, space: Any) -> _Episode:
    """One episode as Minari reads it, refused when its arrays do not fit together or hold what cannot be."""
    observations, actions = np.asarray(episode["observations"]), np.asarray(episode["actions"])
    rewards = np.asarray(episode["rewards"], dtype=np.float32)
    where = f"dataset = {str(path)!r}: episode {episode['id']}"
    if not len(observations) - 1 == len(actions) == len(rewards) == len(episode["terminations"]):
        counts = f"{len(observations)} observations, {len(actions)} actions and {len(rewards)} rewards"
        raise ConfigError(f"{where}: {counts}; accepted is one observation more than actions and rewards")
    for name, values in (("observations", observations), ("rewards", rewards)):
        if not np.isfinite(values).all():
            step = int(np.argwhere(~np.isfinite(values))[0, 0])
            raise ConfigError(f"{where}: {name} hold a number that is not finite at step {step}; accepted are finite numbers")
    low, high = (0, space.n - 1) if isinstance(space, gymnasium.spaces.Discrete) else (space.low, space.high)
    outside = ~((actions >= low) & (actions <= high)).reshape(len(actions), -1).all(axis=1)
    if outside.any():
        step = int(np.argmax(outside))
        raise ConfigError(f"{where}: actions = {actions[step]} at step {step}; accepted are those of {space}")
    terminated = bool(len(rewards)) and bool(episode["terminations"][-1])
    return _Episode(observations.astype(np.float32), actions.reshape(len(actions), -1), rewards, terminated)


def _flat(episodes: Sequence[_Episode]) -> Transitions:
    lengths = np.array([len(episode.rewards) for episode in episodes])
    terminals = np.zeros(int(lengths.sum()), dtype=np.bool_)
    ends = lengths.cumsum() - 1
    ended = np.array([episode.terminated for episode in episodes])
    terminals[ends[ended]] = True
    number = np.repeat(np.arange(len(lengths)), lengths)  # each episode before has one observation more than steps
    return Transitions(
        np.concatenate([episode.observations for episode in episodes]),
        np.concatenate([episode.actions for episode in episodes]),
        np.concatenate([episode.rewards for episode in episodes]),
        terminals,
        np.arange(len(terminals)) + number,
    )


def _require_same(path: Path, source: dict[str, Any], setting: Setting[Any]) -> None:
    """Refuse a dataset of another environment, world, encoding or tape, by the first entry that differs."""
    recorded, wanted = (flatten({name: of.get(name) for name in _SUBJECT}) for of in (source, _subject(setting)))
    for name in [*wanted, *recorded]:
        if recorded.get(name) != wanted.get(name):
            found, accepted = recorded.get(name), wanted.get(name)
            raise ConfigError(
                f"dataset = {str(path)!r}: {name} = {found!r}; accepted is {accepted!r}, as in the run's own configuration"
            )


_SUBJECT = ("environment", "version", "action", "preset", "feed", "tape", "world", "observation", "actions")
