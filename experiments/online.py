"""Learning by acting: stable-baselines3's PPO and DQN on the native batch."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from stable_baselines3.common.logger import configure

from agents.recipe import use_threads
from agents.vec import NativeVecEnv
from experiments.config import ActingRecipe, RunConfig
from experiments.learning import Learn, Learned
from experiments.monitor import Monitor, StopSignal, save_checkpoint
from experiments.worlds import training_batch


def prepare(config: RunConfig[ActingRecipe, Any], checkpoint: tuple[Path, int] | None) -> Learn:
    """A training, from its checkpoint and the steps that were taken if any. Raises ValueError where it cannot be run."""
    use_threads(config.threads)
    resumed = 0 if checkpoint is None else checkpoint[1]
    env = NativeVecEnv(training_batch(config, config.agent.environments))

    def learn(folder: Path, console: Console) -> Learned:
        model = config.agent.build(env, config.seed, folder)
        model.set_logger(configure(str(folder), ["tensorboard"]))
        env.seed(config.resumed_seed(resumed) if checkpoint else config.training_seed)
        if checkpoint is not None:
            model.set_parameters(str(checkpoint[0]), device="cpu")
            model.num_timesteps = resumed
        learned = _learn(model, env, config, folder, resumed, console)
        env.close()
        return learned

    return learn


def _learn(
    model: Any, env: NativeVecEnv, config: RunConfig[ActingRecipe, Any], folder: Path, resumed: int, console: Console
) -> Learned:
    with StopSignal() as stop:
        monitor = Monitor(
            env,
            folder,
            steps=config.steps,
            seconds=None if config.minutes is None else 60.0 * config.minutes,
            checkpoint_steps=config.checkpoint_steps,
            stop=stop,
            console=console,
        )
        if resumed < config.steps:
            model.learn(config.steps - resumed, callback=monitor, log_interval=None, reset_num_timesteps=resumed == 0)
            monitor.finish()
        else:
            console.print(f"{resumed:,} steps are taken already and the budget is {config.steps:,}: evaluating only")
            monitor.init_callback(model)
            save_checkpoint(model, folder)
    model.logger.close()
    return Learned(model, int(model.num_timesteps), "environment steps", monitor.stopped_by, monitor.summary())
