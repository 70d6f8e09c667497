"""What each fold fits anew, on its training worlds: the baselines, and the learners of ``python -m experiments.train``."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

import arbgym
from arbgym.evaluation import TUNING_SEED, Decide, Floats, Simulator
from arbgym.market.token_tape import TokenTape
from arbgym.spec import decode
from experiments.config import RUNS, ConfigError, RecordConfig, RunConfig, Setting, default_config, definition_of
from experiments.learning import Learn

ENVIRONMENT = "ArbSell-v0"
MODULE = arbgym.ENVIRONMENTS[ENVIRONMENT]
_TUNING_EPISODES = 512  # that a rule may search its numbers on, spread over the training span
_WORLDS_PER_FOLD = 10_000  # tuning worlds of a fold, where worlds are simulated
_RECORDINGS = 8  # of each entry, for learners that do not act: it is played by somebody else each time
_RECORDED_TOGETHER = 256  # episodes: a recorded one may last thousands of steps
Numbers = Mapping[str, Any]
"""What a world is made of: ``preset``, and the fields of its configuration that differ from it."""
Scores = Mapping[str, tuple[Floats, Floats]]


@dataclass(frozen=True)
class FoldWorld:
    """Where a fold is fitted (on ``training``, None where worlds are simulated) and judged (on every entry of ``test`` once)."""

    number: int
    numbers: Numbers
    training: TokenTape | None
    test: Simulator
    folder: Path

    @property
    def training_arguments(self) -> dict[str, Any]:
        """Keyword arguments of training environments."""
        return dict(self.numbers) | ({} if self.training is None else {"feed": "replay", "tape": self.training})

    def tuning(self) -> Simulator:
        """Episodes of the training worlds for a rule to search its numbers on."""
        if self.training is None:
            return Simulator(MODULE, self.training_arguments, TUNING_SEED + self.number * _WORLDS_PER_FOLD, _TUNING_EPISODES)
        entries = self.training.entries
        if len(entries) > _TUNING_EPISODES:
            entries = entries[np.linspace(0, len(entries) - 1, _TUNING_EPISODES).astype(np.int64)]
        return Simulator(MODULE, self.training_arguments | {"tape": self.training.with_entries(entries)}, 0, len(entries))


@dataclass(frozen=True)
class Fitted:
    """A policy for one fold. ``details`` is what was chosen, for JSON; ``scores`` foretells on the test worlds, where it can."""

    decide: Decide
    details: dict[str, Any] = field(default_factory=dict)
    scores: Callable[[Simulator], Scores] | None = None
    """probabilities and outcomes (0 or 1), each float64 (N,), by what is foretold"""
    interrupted: bool = False


Fit = Callable[[FoldWorld, Console], Fitted]


def rules() -> dict[str, Fit]:
    """The environment's baselines, the oracle among them, by name."""
    return {name: _rule(baseline) for name, baseline in definition_of(ENVIRONMENT).baselines().items()}


def learners(names: list[str], *, quick: bool, steps: int | None = None, minutes: float | None = None) -> dict[str, Fit]:
    """Named runs of ``python -m experiments.train``. Raises ConfigError for a name that is none, or of another environment."""
    accepted = [name for name, named in RUNS.items() if named.environment == ENVIRONMENT]
    for name in names:
        if name not in accepted:
            raise ConfigError(f"policies: {name!r}; accepted are {', '.join(accepted) or 'none yet'}")
    return {name: _learner(name, quick, steps, minutes) for name in dict.fromkeys(names)}


@dataclass(frozen=True, kw_only=True)
class FoldConfig(RunConfig[Any, Any]):
    """A named run whose training worlds are all of a fold's training entries, instead of a share of a file's."""

    tape: TokenTape | None = None

    def environment_arguments(self) -> dict[str, Any]:
        """See ``Setting.environment_arguments``; with the fold's tape."""
        return super().environment_arguments() | ({} if self.tape is None else {"feed": "replay", "tape": self.tape})


@dataclass(frozen=True, kw_only=True)
class FoldRecording(RecordConfig[Any]):
    """The recording of a dataset for learners that do not act: the fold's training entries, by whoever plays."""

    tape: TokenTape | None = None

    def environment_arguments(self) -> dict[str, Any]:
        """See ``Setting.environment_arguments``; with the fold's tape."""
        return super().environment_arguments() | ({} if self.tape is None else {"feed": "replay", "tape": self.tape})


def fold_config(
    name: str, world: FoldWorld, *, quick: bool, steps: int | None = None, minutes: float | None = None
) -> FoldConfig:
    """The configuration that trains a named run on a fold; each fold has seeds of its own."""
    config = default_config(name, world.numbers["preset"], quick)
    values = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(config)}
    values["world"] = definition_of(ENVIRONMENT).configure(**world.numbers)
    changes = {"seed": world.number, "minutes": minutes, **({} if steps is None else {"steps": steps})}
    return FoldConfig(**{**values, **changes, "tape": world.training})


def _rule(baseline: Any) -> Fit:
    def fit(world: FoldWorld, console: Console) -> Fitted:
        decide = baseline.fit(world.tuning())
        chosen = getattr(decide, "__self__", None)
        found = dataclasses.asdict(chosen) if dataclasses.is_dataclass(chosen) and not isinstance(chosen, type) else {}
        return Fitted(decide, {name: value if math.isfinite(value) else None for name, value in found.items()})

    return fit


def _learner(name: str, quick: bool, steps: int | None, minutes: float | None) -> Fit:
    def fit(world: FoldWorld, console: Console) -> Fitted:
        config = fold_config(name, world, quick=quick, steps=steps, minutes=minutes)
        folder = world.folder / name
        folder.mkdir(parents=True)
        learned = _prepare(config, folder, console)(folder, console)
        choices, model = config.definition.action, learned.model

        def decide(observations: NDArray[np.float32]) -> Floats:
            actions = np.asarray(model.predict(observations, deterministic=True)[0])
            return decode(choices, config.action, actions.reshape(len(observations), -1))

        details = {"steps": learned.steps, "unit": learned.unit, "stopped_by": learned.stopped_by}
        chosen = {key: value for key, value in getattr(model, "chosen", {}).items() if key != "calibration"}
        return Fitted(decide, {**details, **chosen}, _scores(config, model), learned.stopped_by == "signal")

    return fit


def _prepare(config: FoldConfig, folder: Path, console: Console) -> Learn:
    """The training of a configuration, refused or ready to go. What does not act gets a dataset of the fold first."""
    from agents.offline import OfflineRecipe
    from experiments import offline, online, supervised
    from experiments.datasets import require_offline

    if isinstance(config.agent, supervised.SupervisedRecipe):
        return supervised.prepare(config, None)
    if isinstance(config.agent, OfflineRecipe):
        require_offline()
        dataset = _recorded(config, config.agent, folder / offline.DATASET, console)
        return offline.prepare(dataclasses.replace(config, agent=dataclasses.replace(config.agent, dataset=dataset)), None)
    return online.prepare(config, None)


def _recorded(config: FoldConfig, recipe: Any, out: Path, console: Console) -> Path:
    """The folder of a dataset of the fold's training worlds."""
    from experiments.datasets import record

    episodes = recipe.episodes if config.tape is None else min(recipe.episodes, _RECORDINGS * len(config.tape.entries))
    values = {entry.name: getattr(config, entry.name) for entry in dataclasses.fields(Setting)}
    played = {"policy": recipe.policy, "episodes": episodes, "environments": min(recipe.environments, _RECORDED_TOGETHER)}
    return record(FoldRecording(**{**values, **played, "tape": config.tape, "out": out}), console)


def _scores(config: FoldConfig, model: Any) -> Callable[[Simulator], Scores] | None:
    """What a predictor of exits foretells on test worlds, beside what came: see ``experiments.supervised``."""
    from experiments.supervised import SupervisedModel, SupervisedRecipe, hold_only, labelled

    if not isinstance(model, SupervisedModel) or not isinstance(config.agent, SupervisedRecipe):
        return None
    recipe = dataclasses.replace(config.agent, drawdown_depth=model.chosen["drawdown_depth"])

    def foretell(simulator: Simulator) -> Scores:
        every = max(simulator.episodes * config.world.episode_blocks // 50_000, 1)
        played = hold_only(simulator, every)
        features, labels, _ = labelled(played, recipe.labels(played))
        found = model.policy.predictor.predict(features)
        return {"drawdown": (found.drawdown, labels.drawdown), "sell": (found.sell, labels.sell)}

    return foretell
