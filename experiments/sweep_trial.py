"""One trial of a sweep: train for a fixed time, judge on the way, and say how soon the policy was how good.

The value of a trial is its *quality over time*: the oracle share on episodes kept for sweeps, averaged over the budget of
training time. It is higher when the same quality comes sooner, and when a better one comes in the end. A share below -1 counts as
-1, so that a reckless start does not hide what came after it. Time spent on judging does not count.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise
from typing import Any, Literal, NamedTuple

import numba
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3.common.callbacks import BaseCallback

import arbgym
from agents.distributed import Ranks
from agents.recipe import use_threads
from agents.vec import NativeVecEnv
from arbgym.evaluation import TUNING_SEED, Simulator, decide_with
from experiments.config import RunConfig, default_config
from experiments.online import execution_of
from experiments.sweep_space import Parameters, Space, with_parameters
from experiments.worlds import training_arguments, training_batch

SWEEP_SEED = TUNING_SEED + 50_000_000
"""Seed of the first episode that sweeps judge on: nobody trains, tunes a baseline or is finally judged there."""
WORST_SHARE = -1.0
_MORE_STEPS_THAN_TIME = 10**12

ClockKind = Literal["wall", "cpu", "steps"]


class Point(NamedTuple):
    """One judgement on the way."""

    seconds: float
    """training time spent"""
    steps: int
    """environment steps taken"""
    share: float
    """oracle share of the policy as it was then"""


@dataclass(frozen=True)
class Plan:
    """Everything that the trials of a study have in common."""

    config: RunConfig[Any, Any]
    """the named run; its recipe holds whatever is not searched"""
    space: Space
    seconds: float
    """training time of one trial"""
    checkpoints: int
    """judgements within that time"""
    episodes: int
    """episodes per judgement"""
    clock: ClockKind
    """wall: as a user waits; cpu: processor time of the process, which other processes disturb less; steps: environment steps for
    seconds, where learners are compared that should learn the same from the same"""
    seed: int
    """of the search; the training seed is the configuration's"""
    oracle_profit: float = float("nan")
    """what hindsight earns on the episodes, quote currency"""
    tuned_rule_share: float = float("nan")
    """what the baseline tuned_rule earns of it"""

    @property
    def due(self) -> NDArray[np.float64]:
        """Training seconds of the judgements, float64 (checkpoints,): at squares, as quality rises fastest at the start."""
        return self.seconds * (np.arange(1, self.checkpoints + 1) / self.checkpoints) ** 2

    @property
    def simulator(self) -> Simulator:
        """The episodes that trials are judged on."""
        return Simulator(arbgym.ENVIRONMENTS[self.config.environment], training_arguments(self.config), SWEEP_SEED, self.episodes)


Report = Callable[[int, float, Sequence[Point]], None]
"""Called at each judgement: its number from 1, the quality over time so far, the points so far. What it raises ends the trial."""
Play = Callable[[Plan, Parameters, Report], float]
"""Runs one trial and returns its value."""


class Stopwatch:
    """Seconds of one clock since it was made, but for the time while it was paused; ``steps`` says how many were taken."""

    def __init__(self, kind: ClockKind, steps: Callable[[], float]) -> None:
        clocks: dict[str, Callable[[], float]] = {"wall": time.perf_counter, "cpu": time.process_time, "steps": steps}
        self._now = clocks[kind]
        self._begun = self._now()
        self._paused: float | None = None

    def seconds(self) -> float:
        """Seconds so far."""
        return (self._now() if self._paused is None else self._paused) - self._begun

    def pause(self) -> None:
        """Stand still."""
        self._paused = self._now()

    def resume(self) -> None:
        """Go on."""
        assert self._paused is not None, "resumed before it was paused"
        self._begun += self._now() - self._paused
        self._paused = None


def quality_over_time(points: Sequence[Point], until: float) -> float:
    """Mean over [0, until] of the oracle share: straight lines between points, constant after the last; below -1 counts as -1."""
    times = np.array([point.seconds for point in points])
    shares = np.maximum([point.share for point in points], WORST_SHARE)
    at = np.append(times[times < until], until)
    values = np.interp(at, times, shares)
    return float(np.sum(np.diff(at) * (values[1:] + values[:-1]) / 2.0) / until)


def seconds_to(points: Sequence[Point], share: float) -> float | None:
    """Training time at which the line through the points first reaches a share, if it does."""
    if points and points[0].share >= share:
        return points[0].seconds
    for before, after in pairwise(points):
        if before.share < share <= after.share:
            passed = (share - before.share) / (after.share - before.share)
            return before.seconds + passed * (after.seconds - before.seconds)
    return None


def reference(plan: Plan) -> tuple[float, float]:
    """Profit of the oracle on the sweep's episodes, and the share of it that the baseline tuned_rule earns there."""
    baselines = plan.config.definition.baselines()
    simulator = plan.simulator
    best = float(simulator.run(baselines["oracle"].fit(simulator)).sums["net_profit"].sum())
    tuning = Simulator(simulator.environment, simulator.arguments, TUNING_SEED, plan.config.evaluation.tuning_episodes)
    rule = float(simulator.run(baselines["tuned_rule"].fit(tuning)).sums["net_profit"].sum())
    return best, rule / best


def play(plan: Plan, parameters: Parameters, report: Report) -> float:
    """Train with a trial's values and return its quality over time; writes nothing.

    Raises ValueError where the recipe refuses the values, FloatingPointError where training breaks down, and what ``report``
    raises.
    """
    use_threads(plan.config.threads)
    numba.set_num_threads(plan.config.threads)  # trials run beside each other, one thread each by default
    config = with_parameters(plan.config, parameters)
    _warm_up(config.name, config.preset)
    env = NativeVecEnv(training_batch(config, config.agent.environments))
    try:
        model = config.agent.build(env, config.seed, None, execution_of(config, Ranks()))
        env.seed(config.training_seed)
        judge = _Judge(plan, report)
        model.learn(_MORE_STEPS_THAN_TIME, callback=judge, log_interval=None)
    finally:
        env.close()
    return quality_over_time(judge.points, plan.seconds)


@cache
def _warm_up(name: str, preset: str) -> None:
    """Train a little, once in a process: compiling the market and loading the optimizer are no trial's time."""
    config = default_config(name, preset, quick=True)
    env = NativeVecEnv(training_batch(config, config.agent.environments))
    model = config.agent.build(env, config.seed)
    model.learn(getattr(config.agent, "learning_starts", 0) + config.agent.update_steps + 1, log_interval=None)
    env.close()


class _Greedy:
    """A model's deterministic actions."""

    def __init__(self, model: Any) -> None:
        self._model = model
        self.masked = bool(getattr(model, "masks", False))

    def predict(self, observations: NDArray[np.float32], masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        told = {} if masks is None else {"action_masks": masks}
        actions: NDArray[Any] = self._model.predict(observations, deterministic=True, **told)[0]
        return actions


class _Judge(BaseCallback):
    """Judges the model when it is due, ends training when the time is up, and lets schedules run by time."""

    def __init__(self, plan: Plan, report: Report) -> None:
        super().__init__()
        self.points: list[Point] = []
        self._plan, self._report = plan, report
        self._due = plan.due
        self._simulator = plan.simulator
        self._next = 0

    def _on_training_start(self) -> None:
        """The untrained policy is judged before time starts; learning rate and exploration fall with the time that is left."""
        model: Any = self.model
        for name in ("lr_schedule", "exploration_schedule"):
            if hasattr(model, name):
                setattr(model, name, self._by_time(getattr(model, name)))
        self.points = [Point(0.0, 0, self._share())]
        self._watch = Stopwatch(self._plan.clock, lambda: float(self.num_timesteps))

    def _by_time(self, schedule: Callable[[float], float]) -> Callable[[float], float]:
        def value(_: float) -> float:
            return schedule(max(1.0 - self._watch.seconds() / self._plan.seconds, 0.0))

        return value

    def _on_step(self) -> bool:
        seconds = self._watch.seconds()
        if seconds < self._due[self._next]:
            return True
        self._watch.pause()
        self.points.append(Point(seconds, self.num_timesteps, self._share()))
        while self._next < len(self._due) and seconds >= self._due[self._next]:
            value = quality_over_time(self.points, float(self._due[self._next]))
            self._next += 1
            self._report(self._next, value, self.points)
        self._watch.resume()
        return self._next < len(self._due)

    def _share(self) -> float:
        if not all(bool(torch.isfinite(weights).all()) for weights in self.model.policy.parameters()):
            raise FloatingPointError("the policy has weights that are not finite: training broke down")
        played = self._simulator.run(decide_with(_Greedy(self.model), self._simulator.make()))
        return float(played.sums["net_profit"].sum()) / self._plan.oracle_profit
