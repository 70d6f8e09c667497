"""Learning from recorded episodes: a learner and behaviour cloning side by side on one dataset, judged beside who recorded it.

Both take the same number of gradient steps, so a run that is stopped, out of time or resumed compares them on equal terms. While
they learn, both are watched in a few training worlds; nothing is chosen by what is seen there.

On several ranks (torchrun) every rank learns from its own episodes of the dataset, and the first one alone records, watches, logs
and saves.
"""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch.distributed
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3.common.logger import configure

import arbgym
from agents.distributed import Ranks
from agents.offline import Buffer, OfflineModel, OfflineRecipe, from_bytes, quiet, to_bytes
from agents.recipe import Execution, use_threads
from arbgym import policy as policies
from arbgym.evaluation import Decide, EncodedPolicy, Simulator
from arbgym.spec import action_space, decode, observation_space
from experiments.config import ConfigError, RecordConfig, RunConfig
from experiments.datasets import Dataset, read, read_source, record, recorded_behaviour, require_offline
from experiments.learning import Learn, Learned
from experiments.monitor import CHECKPOINTS, LEARNING_CURVE, StopSignal, append_line, write_atomically
from experiments.worlds import training_arguments

DATASET = "dataset-v0"  # in the run's folder, where none was given
CLONING = "cloning"
_CHUNK = 25  # gradient steps between looks at the clock and at signals
_POINTS = 40  # of the learning curve
_WATCHED = 64  # training worlds in which the learners are watched

Config = RunConfig[OfflineRecipe, Any]


def prepare(config: Config, checkpoint: tuple[Path, int] | None) -> Learn:
    """A training on the configured dataset, or on one that is recorded first. Raises ValueError where it cannot be run.

    On several ranks each calls this and what it returns; what one of them refuses, all do. They take leave of one another when
    the learning is over.
    """
    require_offline()
    use_threads(config.threads)
    quiet()
    ranks = Ranks.from_environment()
    recipe = config.agent.shared(ranks)
    execution = Execution(device=ranks.device(config.device), ranks=ranks)
    ranks.join(execution.device)
    try:
        given, states = _together(execution, lambda: _inputs(config, checkpoint, ranks))
        team = _team(config, recipe, execution)
        _together(execution, lambda: _restore(team, checkpoint, states))
    except BaseException:
        ranks.leave()
        raise

    def learn(folder: Path, console: Console) -> Learned:
        try:
            return _learn(config, execution, team, given or _record(config, execution, folder, console), folder, console)
        finally:
            ranks.leave()

    return learn


Result = TypeVar("Result")


def _together(execution: Execution, work: Callable[[], Result]) -> Result:
    """What it gives; ValueError on every rank when one of them refuses, so that none goes on and waits for the others."""
    refused: ValueError | None = None
    try:
        result = work()
    except ValueError as error:
        refused = error
    if execution.ranks.any(refused is not None, execution.device):
        raise refused or ConfigError("another rank refuses the dataset or the checkpoint, and says why")
    return result


def _inputs(config: Config, checkpoint: tuple[Path, int] | None, ranks: Ranks) -> tuple[Dataset | None, dict[str, Any]]:
    """This rank's share of the configured dataset, and the learners' states in the checkpoint, as far as there are any."""
    states = {} if checkpoint is None else from_bytes(checkpoint[0].read_bytes())
    if config.agent.dataset is None:
        return None, states
    return _share(config, ranks, read(config.agent.dataset, config, Console(stderr=True, quiet=not ranks.first))), states


def _share(config: Config, ranks: Ranks, dataset: Dataset) -> Dataset:
    if not ranks.several:
        return dataset
    try:
        return dataclasses.replace(dataset, data=dataset.data.share(ranks, config.seed))
    except ValueError as error:
        raise ConfigError(f"dataset = {str(dataset.path)!r}: {error}") from error


def _restore(team: dict[str, OfflineModel], checkpoint: tuple[Path, int] | None, states: dict[str, Any]) -> None:
    if checkpoint is None:
        return
    if set(states) != set(team):
        raise ConfigError(f"{checkpoint[0]}: holds {', '.join(states)}; accepted are {', '.join(team)}")
    for name, model in team.items():
        model.restore(states[name])


def dataset_of(config: Config, folder: Path) -> Path:
    """The folder of the dataset that a run learned from."""
    return config.agent.dataset or folder / DATASET


def companions(config: RunConfig[Any, Any], folder: Path) -> dict[str, Decide | EncodedPolicy]:
    """Who is judged beside a run's policy: its clone, and the policy that recorded the dataset, as far as it is known.

    Nobody for a learner that acts.
    """
    if not isinstance(config.agent, OfflineRecipe):
        return {}
    found: dict[str, Decide | EncodedPolicy] = {}
    dataset = dataset_of(config, folder)
    try:
        source = read_source(dataset)
    except ConfigError as error:
        print(f"behaviour is not judged: {error}", file=sys.stderr)
    else:
        if source is None:
            print(f"behaviour is not judged: {dataset} does not say who played", file=sys.stderr)
        else:
            acting = recorded_behaviour(dataset, source, config)
            found["behaviour"] = acting.decide(max(config.evaluation.episodes, 2), config.evaluation.seed)
    if (folder / CLONING).is_dir():
        created = policies.read_manifest(folder / CLONING)["created"]
        found[CLONING] = policies.load(folder / CLONING, now=datetime.fromisoformat(created))
    return found


def _team(config: Config, recipe: OfflineRecipe, execution: Execution) -> dict[str, OfflineModel]:
    """The learner, and behaviour cloning unless it is not wanted, before their first step."""
    definition, encoding = config.definition, config.action
    spaces = observation_space(definition.observation), action_space(definition.action, encoding)
    configurations = {recipe.algorithm: recipe.configure(encoding)}
    if recipe.cloning:
        configurations[CLONING] = recipe.configure_cloning(encoding)
    return {name: OfflineModel(entry, *spaces, config.seed, execution) for name, entry in configurations.items()}


def _record(config: Config, execution: Execution, folder: Path, console: Console) -> Dataset:
    """This rank's share of a dataset that the first rank records into the run."""
    ranks = execution.ranks
    path = _together(execution, lambda: _recording(config, folder, console) if ranks.first else None)
    if ranks.several:
        told = [path]
        torch.distributed.broadcast_object_list(told, device=execution.device)
        (path,) = told
    assert path is not None
    reading = console if ranks.first else Console(quiet=True)
    return _together(execution, lambda: _share(config, ranks, read(path, config, reading)))


def _recording(config: Config, folder: Path, console: Console) -> Path:
    recipe = config.agent
    console.print(f"no dataset is given: recording {recipe.episodes:,} episodes by {recipe.policy} ...")
    recording: RecordConfig[Any] = RecordConfig(
        environment=config.environment,
        world=config.world,
        preset=config.preset,
        action=config.action,
        feed=config.feed,
        data=config.data,
        seed=config.seed,
        policy=recipe.policy,
        episodes=recipe.episodes,
        environments=recipe.environments,
        out=folder / DATASET,
    )
    path = record(recording, console)
    source = read_source(path)
    if source is not None and source["stopped_by"] == "signal":
        raise ConfigError(f"stopped while recording: {source['episodes']:,} episodes are kept; learn with --agent.dataset {path}")
    return path


def _learn(
    config: Config, execution: Execution, team: dict[str, OfflineModel], dataset: Dataset, folder: Path, console: Console
) -> Learned:
    recipe, ranks, device = config.agent, execution.ranks, execution.device
    learner = team[recipe.algorithm]
    begun_at = learner.steps
    data = dataset.data
    if ranks.first:
        of = f", as one of {ranks.world} ranks, from its share of" if ranks.several else " of"
        console.print(f"learning from {len(data):,} steps{of} {dataset.episodes:,} episodes in {dataset.path}")
    own = (ranks.rank,) if ranks.several else ()
    buffers = {
        name: Buffer(data, model.action_space, (config.seed, begun_at, k, *own), recipe.steps_ahead, recipe.gamma)
        for k, (name, model) in enumerate(team.items())
    }
    watch = _Watch(config, team, folder, console) if ranks.first else _Unwatched()
    stop = StopSignal() if ranks.first else StopSignal(f"rank {ranks.rank}: stopping with the others (once more to end at once)")
    seconds = None if config.minutes is None else 60.0 * config.minutes
    begun, stopped_by, saved = time.perf_counter(), "steps", begun_at
    with stop, watch:
        while learner.steps < config.steps:
            chunk = min(_CHUNK, config.steps - learner.steps)
            for name, model in team.items():
                losses = model.fit(buffers[name], chunk, recipe.rate(model.steps / config.steps))
                watch.add(name, losses, chunk)
            if ranks.first and learner.steps - saved >= config.checkpoint_steps:
                save(team, folder)
                saved = learner.steps
            if ranks.any(stop.received, device):
                stopped_by = "signal"
                break
            if seconds is not None and ranks.any(time.perf_counter() - begun >= seconds, device):
                stopped_by = "minutes"
                break
    if ranks.first:
        save(team, folder)
    total = max(time.perf_counter() - begun, 1e-9)
    steps = learner.steps - begun_at
    speed = {"steps": steps, "steps_per_second": steps / total, "seconds": total, **watch.shares(total)}
    beside = {name: model for name, model in team.items() if model is not learner}
    return Learned(learner, learner.steps, "gradient steps", stopped_by, speed, beside)


def save(team: dict[str, OfflineModel], folder: Path) -> None:
    """A checkpoint of all learners, named by their steps."""
    steps = max(model.steps for model in team.values())
    states = to_bytes({name: model.state() for name, model in team.items()})
    write_atomically(folder / CHECKPOINTS / f"step_{steps:012d}.zip", states)


class _Unwatched:
    """What a rank has in place of a ``_Watch`` that leaves that to the first one."""

    def __enter__(self) -> _Unwatched:
        return self

    def __exit__(self, *_: object) -> None:
        return None

    def add(self, name: str, losses: dict[str, float], steps: int) -> None:
        """One learner's mean losses over so many steps."""

    def shares(self, total: float) -> dict[str, float]:
        """Shares of the time: all of it is spent on gradient steps."""
        return {"simulation_share": 0.0, "learner_share": 1.0, "rest_share": 0.0}


class _Watch:
    """Losses and, in a few training worlds, profits while the team learns: TensorBoard, learning.jsonl and the progress bar."""

    def __init__(self, config: Config, team: dict[str, OfflineModel], folder: Path, console: Console) -> None:
        self._config, self._team, self._folder, self._console = config, team, folder, console
        self._learner = team[config.agent.algorithm]
        self._worlds = Simulator(
            arbgym.ENVIRONMENTS[config.environment], training_arguments(config), config.resumed_seed(0), _WATCHED
        )
        self._every = max(config.steps // _POINTS, 1)
        self._logged, self._printed = self._learner.steps, self._learner.steps
        self._losses: dict[str, float] = {}
        self._taken: dict[str, int] = dict.fromkeys(team, 0)
        self._begun, self._watching = time.perf_counter(), 0.0
        self._logger = configure(str(folder), ["tensorboard"])
        columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
        self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=console, disable=not console.is_terminal)
        self._task = self._bar.add_task("training", total=config.steps, completed=self._learner.steps, note="")

    def __enter__(self) -> _Watch:
        self._bar.start()
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None and any(self._taken.values()):
            self._log()
        self._bar.stop()
        self._logger.close()

    def add(self, name: str, losses: dict[str, float], steps: int) -> None:
        """One learner's mean losses over so many steps."""
        for loss, value in losses.items():
            key = f"{name}/{loss}"
            self._losses[key] = self._losses.get(key, 0.0) + value * steps
        self._taken[name] += steps
        self._bar.update(self._task, completed=self._learner.steps)
        if name == list(self._team)[-1] and self._learner.steps - self._logged >= self._every:
            self._log()

    def shares(self, total: float) -> dict[str, float]:
        """Shares of the time: playing in worlds, gradient steps, and the rest."""
        simulation = self._watching / total
        return {"simulation_share": simulation, "learner_share": 1.0 - simulation, "rest_share": 0.0}

    def _log(self) -> None:
        start = time.perf_counter()
        losses = {key: total / self._taken[key.partition("/")[0]] for key, total in self._losses.items()}
        self._losses.clear()
        self._taken = dict.fromkeys(self._taken, 0)
        played = {name: self._play(model) for name, model in self._team.items()}
        own = played[self._config.agent.algorithm]
        point = {"steps": self._learner.steps, "seconds": start - self._begun, **own}
        if CLONING in played:
            point["cloning_profit"] = played[CLONING]["net_profit"]
        for key, value in (*losses.items(), *((f"profit/{key}", value) for key, value in own.items())):
            self._logger.record(key, value)
        if CLONING in played:
            self._logger.record("profit/cloning", point["cloning_profit"])
        self._logger.dump(self._learner.steps)
        append_line(self._folder / LEARNING_CURVE, json.dumps(point))
        self._logged = self._learner.steps
        note = f"net profit {own['net_profit']:+.3f} a step"
        if own.get("oracle_profit", 0.0) > 0.0:
            note += f", {own['net_profit'] / own['oracle_profit']:.0%} of the oracle"
        self._bar.update(self._task, note=note)
        if not self._console.is_terminal and self._logged - self._printed >= self._config.steps // 5:
            self._printed = self._logged
            self._console.print(f"{self._logged:,} of {self._config.steps:,} gradient steps: {note}", soft_wrap=True)
        self._watching += time.perf_counter() - start

    def _play(self, model: OfflineModel) -> dict[str, float]:
        """Means per step of each info column when a learner plays the watched worlds."""
        choices, encoding = self._config.definition.action, self._config.action
        totals = self._worlds.run(lambda observations: decode(choices, encoding, model.predict(observations)[0]))
        steps = float(np.sum(totals.lengths))
        return {name: float(column.sum()) / steps for name, column in totals.sums.items()}
