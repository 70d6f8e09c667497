"""Speed of training: environment steps per second end to end, and where the time goes, by the named runs' own recipes."""

from __future__ import annotations

import io
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from agents.recipe import use_threads
from agents.vec import NativeVecEnv
from arbgym.engine import steps_per_second
from experiments.config import parse
from experiments.monitor import Monitor, StopSignal
from experiments.worlds import training_batch

STEPS = {"ppo_flash": 1_000_000, "dqn_flash": 300_000}


def rows() -> list[dict[str, Any]]:
    """End-to-end environment steps per second, beside the market alone, and the shares of simulation, learner and rest."""
    use_threads(1)
    found: list[dict[str, Any]] = []
    for name, steps in STEPS.items():
        config = replace(parse([name]), steps=steps)
        market = steps_per_second("arbgym.envs.flash", config.agent.environments)
        with tempfile.TemporaryDirectory() as folder:
            env = NativeVecEnv(training_batch(config, config.agent.environments))
            model = config.agent.build(env, config.seed, None)
            env.seed(config.training_seed)
            with StopSignal() as stop:
                monitor = Monitor(
                    env,
                    Path(folder),
                    steps=steps,
                    seconds=None,
                    checkpoint_steps=10 * steps,
                    stop=stop,
                    console=Console(file=io.StringIO()),
                )
                model.learn(steps, callback=monitor, log_interval=None)
                monitor.finish()
            speed = monitor.summary()
            env.close()
        rate = model.num_timesteps / speed["seconds"]
        found.append(
            {
                "name": f"train.{name}",
                "value": rate,
                "unit": "steps/s",
                "ratio_to": "the market alone, same batch",
                "ratio": rate / market,
            }
        )
        for part in ("simulation_share", "learner_share", "rest_share"):
            found.append({"name": f"train.{name}.{part}", "value": speed[part], "unit": "1", "ratio_to": "", "ratio": None})
    return found
