"""Training from recorded episodes: from a dataset to an exported policy, judged beside who recorded it and its clone."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from rich.console import Console

from agents.offline import OfflinePolicy, OfflineRecipe, buffer, cloning
from agents.recipe import use_threads
from arbgym.evaluation import Decide
from arbgym.spec import action_space, decode, observation_space
from experiments import datasets
from experiments.config import RunConfig
from experiments.monitor import StopSignal
from experiments.worlds import training_arguments

DATASET = "dataset"
_LOGGED = 50  # points in TensorBoard


class _Stop(Exception):
    """Ends d3rlpy's training between two gradient steps."""


def given(config: RunConfig[OfflineRecipe, Any]) -> datasets.Episodes | None:
    """The configured dataset, None where one has to be recorded. Raises ConfigError before anything is written."""
    datasets.require_offline()
    path = config.agent.dataset
    return None if path is None else datasets.read(path, config.environment, config.action)


def learn(
    config: RunConfig[OfflineRecipe, Any], recorded: datasets.Episodes | None, folder: Path, console: Console
) -> tuple[OfflinePolicy, dict[str, Any], dict[str, Decide]]:
    """Train on a dataset (``given``), or on a mixture that is recorded into the run's folder first.

    Returns the policy, what ``result.json`` says of the training, and the policies to judge beside it: the behaviour policy
    where its name is known, and behaviour cloning. The budget is in gradient steps.
    """
    import d3rlpy
    import structlog

    # d3rlpy says each epoch's losses in a line of its own; TensorBoard has them
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    use_threads(config.threads)
    recipe, encoding, definition = config.agent, config.action, config.definition
    arguments = training_arguments(config)
    if recorded is None:
        console.print("recording a mixture of random play, the rule of thumb and the tuned rule ...")
        acting = datasets.behaviour("mixture", config.environment, encoding, arguments)
        recorded = datasets.play(
            config.environment, acting, arguments, recipe.environments, config.training_seed, console.is_terminal
        )
        datasets.write(recorded, definition, folder / DATASET)
    else:
        acting = datasets.behaviour(recorded.description["policy"], config.environment, encoding, arguments)
    returns = [float(rewards.sum()) for rewards in recorded.rewards]
    console.print(
        f"{len(returns):,} episodes, {recorded.steps:,} steps, mean return {np.mean(returns):.3f}, policy {acting.name}"
    )

    d3rlpy.seed(config.seed)
    torch.manual_seed(config.seed)
    space = action_space(definition.action, encoding)
    size = int(space.n) if hasattr(space, "n") else int(space.shape[0])  # type: ignore[index]
    rows = buffer(recorded.observations, recorded.actions, recorded.rewards, recorded.terminated, encoding, size)

    def policy(algorithm: Any) -> OfflinePolicy:
        return OfflinePolicy(algorithm, observation_space(definition.observation), space)

    start = time.perf_counter()
    with StopSignal() as stop:
        algorithm = recipe.learner(encoding)
        steps, stopped_by = _fit(algorithm, rows, config, folder, stop, config.name, console)
        others: dict[str, Decide] = {"behaviour": acting.decide(max(config.evaluation.episodes, 2), config.evaluation.seed)}
        if recipe.cloning and not stop.received:
            clone = cloning(recipe, encoding)
            _fit(clone, rows, config, folder, stop, "cloning", console)
            imitated = policy(clone)
            others["cloning"] = lambda observations: decode(definition.action, encoding, imitated.predict(observations)[0])
    seconds = time.perf_counter() - start
    training = {
        "steps": steps,
        "stopped_by": stopped_by,
        "speed": {"steps": steps, "steps_per_second": steps / max(seconds, 1e-9), "seconds": seconds, **_SHARES},
    }
    return policy(algorithm), training, others


_SHARES = {"simulation_share": 0.0, "learner_share": 1.0, "rest_share": 0.0}  # nothing is simulated while it learns


def _fit(
    algorithm: Any,
    rows: Any,
    config: RunConfig[OfflineRecipe, Any],
    folder: Path,
    stop: StopSignal,
    name: str,
    console: Console,
) -> tuple[int, str]:
    """d3rlpy's own training; ends early on a signal or when the time is up: (gradient steps taken, why it ended)."""
    from d3rlpy.logging import TensorboardAdapterFactory

    why = "steps"
    taken = 0
    share = 0.5 if config.agent.cloning else 1.0  # of the minutes, for each of the two
    begun = time.perf_counter()

    def watch(_: Any, epoch: int, step: int) -> None:
        nonlocal why, taken
        taken = step
        if stop.received:
            why = "signal"
        elif config.minutes is not None and time.perf_counter() - begun >= 60.0 * config.minutes * share:
            why = "minutes"
        else:
            return
        raise _Stop

    per_epoch = max(config.steps // _LOGGED, 1)
    try:
        for epoch, _ in algorithm.fitter(
            rows,
            n_steps=config.steps,
            n_steps_per_epoch=per_epoch,
            experiment_name=name,
            with_timestamp=False,
            logger_adapter=TensorboardAdapterFactory(root_dir=str(folder)),
            show_progress=console.is_terminal,
            save_interval=10**9,
            callback=watch,
        ):
            if epoch % 10 == 0 and not console.is_terminal:
                console.print(f"{name}: {epoch * per_epoch:,} of {config.steps:,} gradient steps", soft_wrap=True)
    except _Stop:
        pass
    return taken, why
