"""Speed of offline learning: gradient steps per second on batches gathered in one piece, beside d3rlpy's own replay buffer."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from agents.offline import Buffer, OfflineModel, Transitions, quiet
from agents.recipe import use_threads
from arbgym.spec import Encoding, action_space, observation_space
from experiments.config import default_config
from experiments.datasets import require_offline

_EPISODES, _LENGTH, _STEPS = 100, 200, 60
CASES: tuple[tuple[str, Encoding], ...] = (("iql_flash", "continuous"), ("cql_flash", "discrete"), ("cql_flash", "continuous"))


def rows() -> list[dict[str, Any]]:
    """Rates of each learner, and of cloning, with the named runs' own recipes on steps of random numbers."""
    require_offline()
    use_threads(1)
    quiet()
    found: list[dict[str, Any]] = []
    for name, encoding in CASES:
        config = default_config(name)
        definition, recipe = config.definition, config.agent
        spaces = observation_space(definition.observation), action_space(definition.action, encoding)
        data = _random_steps(spaces[0].shape[0], spaces[1])
        buffer = Buffer(data, spaces[1], 0)
        own = _d3rlpy_buffer(data, buffer)
        for kind, configuration in (("", recipe.configure(encoding)), (".cloning", recipe.configure_cloning(encoding))):
            rates = [_rate(OfflineModel(configuration, *spaces, 0), each) for each in (buffer, own)]
            found.append(
                {
                    "name": f"offline.{name}.{encoding}{kind}",
                    "value": rates[0],
                    "unit": "gradient steps/s",
                    "ratio_to": "the same with d3rlpy's own replay buffer",
                    "ratio": rates[0] / rates[1],
                }
            )
    return found


def _random_steps(width: int, space: Any) -> Transitions:
    generator = np.random.default_rng(0)
    count = _EPISODES * _LENGTH
    discrete = hasattr(space, "n")
    actions = generator.integers(0, space.n, (count, 1)) if discrete else generator.uniform(-1.0, 1.0, (count, *space.shape))
    return Transitions(
        generator.standard_normal((count + _EPISODES, width)).astype(np.float32),
        actions if discrete else actions.astype(np.float32),
        generator.standard_normal(count).astype(np.float32),
        np.arange(count) % _LENGTH == _LENGTH - 1,
        np.arange(count) + np.arange(count) // _LENGTH,
    )


def _d3rlpy_buffer(data: Transitions, buffer: Buffer) -> Any:
    from d3rlpy.dataset import MDPDataset

    info = buffer.dataset_info
    return MDPDataset(
        observations=data.observations[data.rows],
        actions=data.actions,
        rewards=data.rewards,
        terminals=data.terminals.astype(np.float32),
        action_space=info.action_space,
        action_size=info.action_size,
    )


def _rate(model: OfflineModel, buffer: Any) -> float:
    """Gradient steps per second of d3rlpy's loop, after a warm-up; the best of two."""
    model.fit(buffer, 5, 1e-3)
    best = 0.0
    for _ in range(2):
        start = time.perf_counter()
        model.fit(buffer, _STEPS, 1e-3)
        best = max(best, _STEPS / (time.perf_counter() - start))
    return best
