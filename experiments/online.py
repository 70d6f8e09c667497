"""Learning by acting: PPO and DQN on the native batch, in one process or in several that torchrun started.

On several ranks each steps its own share of the environments; the first one alone logs, saves and judges.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from pickle import UnpicklingError
from typing import Any
from zipfile import BadZipFile

import torch
from rich.console import Console
from stable_baselines3.common.logger import Logger, configure

from agents.distributed import RankLost, Ranks
from agents.recipe import Execution, use_threads
from agents.vec import NativeVecEnv
from experiments.config import ActingRecipe, ConfigError, RunConfig
from experiments.learning import Learn, Learned
from experiments.monitor import Monitor, StopSignal, save_checkpoint
from experiments.worlds import training_batch

Config = RunConfig[ActingRecipe, Any]


def prepare(config: Config, checkpoint: tuple[Path, int] | None) -> Learn:
    """A training, from its checkpoint and the steps that were taken if any. Raises ValueError where it cannot be run."""
    ranks = Ranks.from_environment()
    use_threads(config.threads, ranks.local_world)
    execution = execution_of(config, ranks)
    environments = ranks.share("agent.environments", config.agent.environments)
    if execution.device.type == "cuda":
        torch.cuda.set_device(execution.device)  # where this rank's simulator is built
    env = NativeVecEnv(training_batch(config, environments, simulator_of(config, execution.device)))
    resumed = 0 if checkpoint is None else checkpoint[1]
    try:
        model = config.agent.build(env, config.seed, None, execution)  # joins the other ranks once its numbers are accepted
        if checkpoint is not None:
            _restore(model, checkpoint, config, execution.device)
    except BaseException:
        ranks.leave()
        raise

    def learn(folder: Path, console: Console) -> Learned:
        model.set_logger(configure(str(folder), ["tensorboard"]) if ranks.first else Logger(None, []))
        first = config.resumed_seed(resumed) if checkpoint else config.training_seed
        env.seed(first + ranks.rank * environments)
        try:
            return _learn(model, env, config, ranks, folder, resumed, console)
        finally:
            env.close()
            ranks.leave()

    return learn


def execution_of(config: Config, ranks: Ranks) -> Execution:
    """How the configuration is carried out on this machine. Raises ValueError for a device that is not there."""
    return Execution(config.learner, ranks.device(config.device), config.precision, config.compile, ranks)


def simulator_of(config: Config, device: torch.device) -> str:
    """Where the market runs; a GPU is the learner's. Raises ValueError where the stock learners would be handed CUDA tensors."""
    if config.simulator == "cuda" and config.learner == "sb3":
        raise ConfigError("simulator = 'cuda' with learner = 'sb3'; accepted with it is simulator = 'cpu'")
    gpu = str(device) if device.type == "cuda" else "cuda"
    if config.simulator != "auto":
        return gpu if config.simulator == "cuda" else "cpu"
    there = device.type == "cuda" and config.learner == "arbgym" and importlib.util.find_spec("numba_cuda") is not None
    return gpu if there else "cpu"


def _restore(model: Any, checkpoint: tuple[Path, int], config: Config, device: torch.device) -> None:
    """The checkpoint's weights, optimizer state and step count. Raises ConfigError for another network's or a damaged file."""
    path, steps = checkpoint
    try:
        model.set_parameters(str(path), device=device)
    except RankLost:
        raise
    except (RuntimeError, ValueError, KeyError, OSError, EOFError, BadZipFile, UnpicklingError) as error:
        raise ConfigError(
            f"{path}: is damaged, or no checkpoint of {config.name} with this run's networks: {error}; "
            "accepted is a whole one: without this file, the one before it is taken"
        ) from error
    model.num_timesteps = steps


def _learn(model: Any, env: NativeVecEnv, config: Config, ranks: Ranks, folder: Path, resumed: int, console: Console) -> Learned:
    says = () if ranks.first else (f"rank {ranks.rank}: stopping with the others (once more to end at once)",)
    with StopSignal(*says) as stop:
        monitor = Monitor(
            env,
            folder if ranks.first else None,
            steps=config.steps,
            seconds=None if config.minutes is None else 60.0 * config.minutes,
            checkpoint_steps=config.checkpoint_steps,
            stop=stop,
            console=console,
        )
        if resumed < config.steps:
            try:
                model.learn(config.steps - resumed, callback=monitor, log_interval=None, reset_num_timesteps=resumed == 0)
            finally:
                monitor.close_bar()
            monitor.finish()
            for reason in ("signal", "minutes"):  # one rank's reason to stop is everyone's
                if ranks.any(monitor.stopped_by == reason, model.device):
                    monitor.stopped_by = reason
                    break
        else:
            console.print(f"{resumed:,} steps are taken already and the budget is {config.steps:,}: evaluating only")
            monitor.init_callback(model)
            if ranks.first:
                save_checkpoint(model, folder)
    model.logger.close()
    return Learned(model, int(model.num_timesteps), "environment steps", monitor.stopped_by, monitor.summary())
