"""Learning by looking back: predictors of exits, fitted to episodes in which nothing was sold, and the policy that acts on them.

The steps: play training episodes to the end without selling; label some moments of each with what came after; fit; choose the
policy's thresholds on tuning episodes. In a replay all of it lies in the training span: the last episodes of it, which validated
the fit, are the tuning episodes. ``predictor.json`` in the run's folder says what was chosen and how well it is calibrated.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from stable_baselines3.common.logger import configure

import arbgym
from agents.recipe import require, use_threads
from arbgym.engine import Definition, NativeVectorEnv
from arbgym.evaluation import TUNING_SEED, Simulator, decide_with
from arbgym.market.token_tape import TIME_S, TokenTape
from arbgym.models.boosted import LEAST_EPISODES, BoostedExits
from arbgym.models.calibration import calibration
from arbgym.models.exits import SCORES, ExitPolicy, ExitPredictor, Labels, Mode, Rows, Watch, prediction
from arbgym.models.labels import drawdown_ahead, hindsight_sell, upside_left
from arbgym.models.sequence import SequenceExits
from arbgym.spec import Encoding, Field
from experiments.config import ConfigError, RunConfig
from experiments.learning import Learn, Learned
from experiments.monitor import StopSignal, write_atomically
from experiments.worlds import training_arguments

PREDICTOR = "predictor.json"
VALIDATION_SHARE = 0.2  # of the episodes: they end the fit, and in a replay the thresholds are chosen on them
_LEAST_SHARE, _LEAST_DEPTH = 0.01, 1e-4  # of the moments that see a drawdown; of a drawdown
_NEEDED = ("value_quote", "notional", "gas_cost")

Floats = NDArray[np.float64]


# -------------------------------------------------------------------------------------------------------------- recipes
@dataclass(frozen=True)
class SupervisedRecipe:
    """What every predictor of exits shares. ``steps`` of the run are what it may take of its own steps."""

    algorithm: ClassVar[str]
    unit: ClassVar[str]
    needs: ClassVar[str]
    encodings: ClassVar[tuple[Encoding, ...]] = ("discrete",)

    episodes: int = 4_096
    """training episodes; in a replay at most as many as there are entries"""
    environments: int = 1_024
    """episodes that are played together"""
    rows: int = 300_000
    """moments of all episodes to learn from, about: neighbours say nearly the same, so every so many steps one is taken"""
    drawdown_depth: float = 0.20
    """share of the present value that has to be lost for a drawdown; halved where less than a hundredth of the moments see one"""
    drawdown_steps: int = 20
    """steps in which it has to be lost; 0 for the rest of the episode"""
    sell_tolerance: float = 0.02
    """share of the present value by which what comes may be better and selling still counts as right"""
    mode: Mode = "thresholds"
    """thresholds: sell when upside or drawdown say so; classifier: sell when hindsight would"""
    upside_threshold: float = 0.008
    """sell when less upside than this share is left"""
    drawdown_threshold: float = 0.40
    """sell when a drawdown is more probable than this; 1 switches it off"""
    sell_threshold: float = 0.50
    """sell when it is more probable than this that hindsight would"""
    tuning_episodes: int = 2_048
    """episodes on which the thresholds are chosen, from these and from quantiles of what is predicted; 0 keeps these. In a replay
    they are the last of the training span"""

    def __post_init__(self) -> None:
        require("episodes", self.episodes, 10, 50_000)
        require("environments", self.environments, 1, 50_000)
        require("rows", self.rows, 100, 100_000_000)
        require("drawdown_depth", self.drawdown_depth, 1e-6, 1.0)
        require("drawdown_steps", self.drawdown_steps, 0, 1_000_000)
        require("sell_tolerance", self.sell_tolerance, 0.0, 10.0)
        require("upside_threshold", self.upside_threshold, 0.0, 1e6)
        require("drawdown_threshold", self.drawdown_threshold, 0.0, 1.0)
        require("sell_threshold", self.sell_threshold, 0.0, 1.0)
        require("tuning_episodes", self.tuning_episodes, 0, 50_000)

    def predictor(self, fields: tuple[Field, ...], steps: int, seed: int, threads: int) -> ExitPredictor:
        """A predictor before its fit, of at most ``steps`` steps."""
        raise NotImplementedError

    def policy(self, predictor: ExitPredictor, fields: tuple[Field, ...]) -> ExitPolicy:
        """The policy before its thresholds are chosen."""
        return ExitPolicy(predictor, fields, self.mode, self.upside_threshold, self.drawdown_threshold, self.sell_threshold)

    def seen_in(self, played: Played) -> SupervisedRecipe:
        """The recipe with a drawdown's depth halved until one moment in a hundred sees it: liquid coins never lose a fifth."""
        recipe = self
        while recipe.drawdown_depth > _LEAST_DEPTH:
            if float(np.nanmean(recipe.labels(played).drawdown)) >= _LEAST_SHARE:
                break
            recipe = replace(recipe, drawdown_depth=recipe.drawdown_depth / 2.0)
        return recipe

    def labels(self, played: Played) -> Labels:
        """Labels (E, T) of every moment; NaN where there was nothing to decide."""
        values, lengths = played.values, played.lengths
        return Labels(
            upside_left(values, lengths),
            drawdown_ahead(values, lengths, self.drawdown_depth, self.drawdown_steps or None),
            hindsight_sell(values, lengths, self.sell_tolerance),
        )


@dataclass(frozen=True)
class GBMRecipe(SupervisedRecipe):
    """Boosted trees by LightGBM: ``arbgym.models.boosted``. The run's steps are the trees of each of its boosters."""

    algorithm: ClassVar[str] = "gbm"
    unit: ClassVar[str] = "boosting rounds"
    needs: ClassVar[str] = "lightgbm"

    leaves: int = 31
    """leaves of a tree"""
    learning_rate: float = 0.05
    """share of each tree's answer that is added"""
    least_rows: int = 200
    """moments in a leaf, at least"""
    patience: int = 30
    """rounds without improvement on the validation episodes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        BoostedExits(1, self.leaves, self.learning_rate, self.least_rows, self.patience)

    def predictor(self, fields: tuple[Field, ...], steps: int, seed: int, threads: int) -> ExitPredictor:
        """See ``SupervisedRecipe.predictor``."""
        numbers = (self.leaves, self.learning_rate, self.least_rows, self.patience)
        return BoostedExits(steps, *numbers, VALIDATION_SHARE, seed, threads)


@dataclass(frozen=True)
class TCNRecipe(SupervisedRecipe):
    """A causal convolution over the lagged fields: ``arbgym.models.sequence``. The run's steps are gradient steps."""

    algorithm: ClassVar[str] = "tcn"
    unit: ClassVar[str] = "gradient steps"
    needs: ClassVar[str] = "torch"

    batch: int = 1_024
    """moments per gradient step"""
    learning_rate: float = 2e-3
    """Adam's step at the start"""
    channels: int = 16
    """width of each convolution"""
    hidden: int = 64
    """width of the layer that joins lags and other fields"""
    patience: int = 10
    """looks at the validation episodes, one each 50 steps, without improvement"""

    def __post_init__(self) -> None:
        super().__post_init__()
        require("batch", self.batch, 2, 1_000_000)
        require("learning_rate", self.learning_rate, 1e-9, 1.0)
        require("channels", self.channels, 1, 1_024)
        require("hidden", self.hidden, 1, 4_096)
        require("patience", self.patience, 1, 100_000)

    def predictor(self, fields: tuple[Field, ...], steps: int, seed: int, threads: int) -> ExitPredictor:
        """See ``SupervisedRecipe.predictor``."""
        numbers = (self.batch, self.learning_rate, self.channels, self.hidden, self.patience)
        return SequenceExits(fields, steps, *numbers, VALIDATION_SHARE, seed)


# --------------------------------------------------------------------------------------------------- episodes in hindsight
class Played(NamedTuple):
    """Episodes in which nothing was sold: observations of some moments, and what the position was worth at every one.

    ``features`` float32 (R, D), or what ``hold_only`` was to keep of them; ``episodes``, ``moments`` int64 (R,): row and column
    of ``values`` that each is of; ``values`` float64 (E, T + 1), net proceeds of selling all then, in quote currency;
    ``penalties`` (E, T + 1), what the world's reward has taken off until then; ``lengths`` int64 (E,).
    """

    features: NDArray[np.float32]
    episodes: NDArray[np.int64]
    moments: NDArray[np.int64]
    values: Floats
    penalties: Floats
    lengths: NDArray[np.int64]


def hold_only(simulator: Simulator, every: int = 1, keep: Callable[[Rows], Rows] | None = None) -> Played:
    """Play a simulator's episodes without selling; every ``every``-th moment of each is observed, from a moment that differs.

    ``keep`` turns observations (N, D) into what is kept of them, where that is less. Raises ConfigError for an environment that
    does not say what a position is worth.
    """
    env = simulator.make()
    _require_position(env.definition)
    hold = np.full((env.num_envs, len(env.definition.action)), env.definition.action[0].values[0])
    index = np.arange(env.num_envs)
    alive_now = np.ones(env.num_envs, dtype=np.bool_)
    rows: list[tuple[Rows, NDArray[np.int64], NDArray[np.int64]]] = []
    values: list[Floats] = []
    penalties: list[Floats] = [np.zeros(env.num_envs)]

    def before(env: NativeVectorEnv) -> None:
        moment = len(values) - 1 if values else 0
        if not values:
            state = env.core.batch.state
            known = state["value"] if "value" in (state.dtype.names or ()) else np.full(env.num_envs, np.nan)
            values.append(np.array(known, dtype=np.float64))
        chosen = index[alive_now & ((moment + index) % every == 0) & (index < simulator.episodes)]
        seen = env.observations[chosen]
        rows.append((seen if keep is None else keep(seen), chosen, np.full(len(chosen), moment)))

    def each(env: NativeVectorEnv, alive: NDArray[np.bool_]) -> None:
        info, over = env.info, env.terminated | env.truncated
        # at the end all is sold: what it brought is what it was worth
        worth = np.where(over, info["notional"] - info["gas_cost"], info["value_quote"])
        values.append(np.where(alive, worth, np.nan))
        penalties.append(penalties[-1] + alive * info["penalty"] if "penalty" in info else penalties[-1])
        alive_now[:] = alive & ~over

    totals = simulator.run(lambda _: hold, each, before)
    features, episodes, moments = (np.concatenate(parts) for parts in zip(*rows, strict=True))
    worths, taken = (np.stack(columns, axis=1)[: simulator.episodes] for columns in (values, penalties))
    return Played(features, episodes, moments, worths, taken, totals.lengths)


def _require_position(definition: Definition) -> None:
    missing = [name for name in _NEEDED if name not in definition.info]
    if missing:
        raise ConfigError(f"environment {definition.id}: info has no {missing[0]}; accepted is one with a position to sell")


def join(parts: list[Played]) -> Played:
    """Several sets of episodes as one, numbered on."""
    steps = max(part.values.shape[1] for part in parts)

    def wide(columns: list[Floats]) -> Floats:
        return np.concatenate([np.pad(c, ((0, 0), (0, steps - c.shape[1])), constant_values=np.nan) for c in columns])

    firsts = np.cumsum([0, *(len(part.values) for part in parts)])
    return Played(
        np.concatenate([part.features for part in parts]),
        np.concatenate([part.episodes + first for part, first in zip(parts, firsts, strict=False)]),
        np.concatenate([part.moments for part in parts]),
        wide([part.values for part in parts]),
        wide([part.penalties for part in parts]),
        np.concatenate([part.lengths for part in parts]),
    )


def labelled(played: Played, labels: Labels) -> tuple[Rows, Labels, NDArray[np.int64]]:
    """Features, labels and episodes of the observed moments at which there was something to decide."""
    at = played.episodes, played.moments
    rows = Labels(*(values[at] for values in labels))
    known = np.isfinite(np.stack(rows)).all(axis=0)
    return played.features[known], Labels(*(values[known] for values in rows)), played.episodes[known]


# ------------------------------------------------------------------------------------------------------------- training
@dataclass(frozen=True)
class SupervisedModel:
    """A tuned policy as export and judgement ask for it: see ``agents.export.Drawn``."""

    policy: ExitPolicy
    chosen: Mapping[str, Any] = field(default_factory=dict)

    def onnx(self) -> bytes:
        """The policy as one ONNX file."""
        return self.policy.onnx()

    def logits(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, 2) of holding and selling."""
        return self.policy.logits(observations)

    def predict(self, observations: NDArray[np.float32], *, deterministic: bool = True) -> tuple[NDArray[Any], None]:
        """Actions (N,); the policy draws nothing, so ``deterministic`` changes nothing."""
        return self.policy.predict(observations)[:, 0], None


Config = RunConfig[SupervisedRecipe, Any]


class _Part(NamedTuple):
    """Episodes to learn from or to choose thresholds on: those of the seeds from ``first`` on, and their order in time (E,)."""

    module: str
    arguments: dict[str, Any]
    first: int
    order: NDArray[np.int64]

    def play(self, together: int, every: int, keep: Callable[[Rows], Rows] | None = None) -> Played:
        """All of them, ``together`` at a time: see ``hold_only``."""
        starts = range(0, len(self.order), together)
        sizes = [min(together, len(self.order) - start) for start in starts]
        simulators = [
            Simulator(self.module, self.arguments, self.first + start, size) for start, size in zip(starts, sizes, strict=True)
        ]
        return join([hold_only(simulator, every, keep) for simulator in simulators])

    def steps(self) -> int:
        """Steps of all of them, at most and about: those that the first ones may have, times their number."""
        env = Simulator(self.module, self.arguments, self.first, min(len(self.order), 64)).make()
        env.reset(seed=self.first)
        state = env.core.batch.state
        known = state["horizon_blocks"] if "horizon_blocks" in (state.dtype.names or ()) else env.config.episode_blocks
        return int(np.mean(known) * len(self.order))


def prepare(config: Config, checkpoint: tuple[Path, int] | None) -> Learn:
    """A training of a predictor and its policy. Raises ValueError where it cannot be run; there is nothing to go on from."""
    recipe = config.agent
    if checkpoint is not None:
        raise ConfigError(f"resume: {config.name} is fitted in one go and leaves no checkpoint; accepted is a new run of it")
    if not find_spec(recipe.needs):
        raise ConfigError(f"{recipe.needs} is not installed; accepted is an environment with the extra train")
    use_threads(config.threads)
    definition = config.definition
    _require_position(definition)
    predictor = recipe.predictor(definition.observation, config.steps, config.seed, config.threads)
    learning, tuning = _parts(config)

    def learn(folder: Path, console: Console) -> Learned:
        return _learn(config, predictor, learning, tuning, folder, console)

    return learn


def _parts(config: Config) -> tuple[_Part, _Part]:
    """Episodes to learn from, and to choose thresholds on: the last of the former in a replay. Raises ConfigError on too few."""
    recipe, arguments, module = config.agent, training_arguments(config), arbgym.ENVIRONMENTS[config.environment]
    if "tape" not in arguments:
        learning = _Part(module, arguments, config.training_seed, np.arange(recipe.episodes))
        return learning, _Part(module, arguments, TUNING_SEED, np.arange(recipe.tuning_episodes))
    tape: TokenTape = arguments["tape"]
    count = min(recipe.episodes, len(tape.entries))
    if count < LEAST_EPISODES:
        raise ConfigError(f"data: {count} entries to learn from; accepted are {LEAST_EPISODES} or more")
    entries = tape.entries[np.linspace(0, len(tape.entries) - 1, count).astype(np.int64)]
    order = np.argsort(np.argsort(tape.rows[entries, TIME_S], kind="stable"))
    late = order >= count - min(max(round(count * VALIDATION_SHARE), 1), recipe.tuning_episodes)

    def part(chosen: NDArray[np.bool_], seed: int) -> _Part:
        number = int(chosen.sum())
        of_them = arguments | ({"tape": tape.with_entries(entries[chosen])} if number else {})
        # the world of seed s plays entry s modulo their number
        return _Part(module, of_them, seed + -seed % max(number, 1), order[chosen])

    return part(order >= 0, config.training_seed), part(late, TUNING_SEED)


def _learn(config: Config, predictor: ExitPredictor, learning: _Part, tuning: _Part, folder: Path, console: Console) -> Learned:
    recipe = config.agent
    begun = time.perf_counter()
    with StopSignal() as stop, _Watched(config, folder, stop) as watched:
        played = learning.play(recipe.environments, max(math.ceil(learning.steps() / recipe.rows), 1))
        recipe = recipe.seen_in(played)
        features, labels, episodes = labelled(played, recipe.labels(played))
        known = time.perf_counter()
        console.print(f"learning from {len(features):,} moments of {len(played.lengths):,} episodes in which nothing was sold")
        predictor.fit(features, labels, learning.order[episodes], watched.see)
        fitted = time.perf_counter()
        policy = recipe.policy(predictor, config.definition.observation)
        chosen: dict[str, Any] = {
            "drawdown_depth": recipe.drawdown_depth,
            "rows": len(features),
            "episodes": len(played.lengths),
            "steps": watched.steps,
        }
        if len(tuning.order):
            seen = tuning.play(recipe.environments, 1, predictor.scores)
            policy = tuned_on(policy, seen)
            chosen["calibration"] = calibrations(seen, recipe)
    tuned = time.perf_counter()
    bars = {f"{name}_threshold": getattr(policy, f"{name}_threshold") for name in policy.names}
    chosen = {"mode": policy.mode, **bars, "tuning_episodes": len(tuning.order), **chosen}
    write_atomically(folder / PREDICTOR, (json.dumps(chosen, indent=1) + "\n").encode())
    told = ", ".join(f"{name.replace('_', ' ')} {bar:g}" for name, bar in bars.items())
    console.print(f"fitted in {fitted - known:.1f} s; {told}, chosen in {tuned - fitted:.1f} s", soft_wrap=True)
    total, steps = tuned - begun, max(watched.steps.values(), default=0)
    speed = {
        "steps": steps,
        "steps_per_second": steps / max(fitted - known, 1e-9),
        "seconds": total,
        "simulation_share": (known - begun) / total,
        "learner_share": (fitted - known) / total,
        "rest_share": (tuned - fitted) / total,
    }
    return Learned(SupervisedModel(policy, chosen), steps, recipe.unit, watched.stopped_by, speed)


def tuned_on(policy: ExitPolicy, played: Played) -> ExitPolicy:
    """The policy with the thresholds that would have brought the most in episodes; their scores were kept at every moment.

    Nothing is played again: until its sale a policy sees what was seen, and a sale brings what the position was worth, but for
    the time it takes to land and for failures, which fall on all thresholds alike.
    """
    scores, rows = played.features[:, [SCORES.index(name) for name in policy.names]], np.arange(len(played.values))

    def simulate(candidate: ExitPolicy) -> float:
        sells = candidate.margin_of(scores) > 0.0
        first = played.lengths.copy()
        np.minimum.at(first, played.episodes[sells], played.moments[sells])
        held_until = np.minimum(first + 1, played.lengths)  # the step of the sale is paid for
        return float(np.sum(played.values[rows, first] - played.penalties[rows, held_until]))

    return policy.tune(simulate, scores)


def profit(simulator: Simulator, policy: ExitPolicy) -> float:
    """What a policy earns on a simulator's episodes: net profit less the penalties that the world's reward has."""
    sums = simulator.run(decide_with(policy, simulator.make())).sums
    total = float(np.sum(sums["net_profit"]))
    return total - float(np.sum(sums["penalty"])) if "penalty" in sums else total


def calibrations(played: Played, recipe: SupervisedRecipe) -> dict[str, Any]:
    """How well the two probabilities foretell what came, from the scores that were kept: see ``arbgym.models.calibration``."""
    scores, labels, _ = labelled(played, recipe.labels(played))
    if not len(scores):
        return {}
    found = prediction(scores)
    return {
        "drawdown": calibration(found.drawdown, labels.drawdown),
        "sell": calibration(found.sell, labels.sell),
        "upside_correlation": _correlation(np.log1p(found.upside), np.log1p(labels.upside)),
    }


def _correlation(a: Floats, b: Floats) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 0.0 and b.std() > 0.0 else 0.0


class _Watched:
    """Losses of the fit in TensorBoard, and its end when time is up or a signal comes."""

    def __init__(self, config: Config, folder: Path, stop: StopSignal) -> None:
        self.steps: dict[str, int] = {}
        self.stopped_by = "steps"
        self._budget, self._stop = config.steps, stop
        self._until = math.inf if config.minutes is None else time.perf_counter() + 60.0 * config.minutes
        self._logger = configure(str(folder), ["tensorboard"])
        self.see: Watch = self._see

    def __enter__(self) -> _Watched:
        return self

    def __exit__(self, *_: object) -> None:
        self._logger.close()
        if self.stopped_by == "steps" and self.steps and max(self.steps.values()) < self._budget:
            self.stopped_by = "validation"

    def _see(self, name: str, step: int, losses: Mapping[str, float]) -> bool:
        self.steps[name] = step
        for loss, value in losses.items():
            self._logger.record(f"{name}/{loss}", value)
        self._logger.dump(step)
        if self._stop.received or time.perf_counter() >= self._until:
            self.stopped_by = "signal" if self._stop.received else "minutes"
            return True
        return False
