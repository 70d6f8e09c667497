"""Speed of the environments: batches and single ones beside Gymnasium's CartPole and, where installed, gym-trading-env."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from typing import Any

import gymnasium as gym
import numba
import numpy as np

import arbgym
from arbgym.engine import load_definition, steps_per_second

NUM_ENVS = 4_096
_SECONDS = 1.0
_REPETITIONS = 3
_FIRST_STEP = """
import time
import gymnasium, arbgym
start = time.perf_counter()
env = gymnasium.make("{id}")
env.reset(seed=0)
env.step(env.action_space.sample())
print(time.perf_counter() - start)
"""


def _best(measure: Callable[[], float]) -> float:
    return max(measure() for _ in range(_REPETITIONS))


def single_steps_per_second(make: Callable[[], gym.Env[Any, Any]], seconds: float = _SECONDS) -> float:
    """Steps per second of one environment through the plain Gymnasium interface, resets included."""
    env = make()
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(256)]
    env.reset(seed=0)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for action in actions:
            _, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                env.reset()
        steps += len(actions)
    return steps / (time.perf_counter() - start)


def vector_steps_per_second(env: gym.vector.VectorEnv[Any, Any, Any], seconds: float = _SECONDS) -> float:
    """Environment steps per second through the plain Gymnasium vector interface."""
    env.action_space.seed(0)
    actions = [env.action_space.sample() for _ in range(16)]
    env.reset(seed=0)
    for action in actions:
        env.step(action)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for action in actions:
            env.step(action)
        steps += len(actions) * env.num_envs
    return steps / (time.perf_counter() - start)


def first_step_seconds(id_: str, cache: str) -> float:
    """Seconds from ``gym.make`` to the end of the first step in a fresh process with this Numba cache folder."""
    environment = {**os.environ, "NUMBA_CACHE_DIR": cache}
    program = _FIRST_STEP.format(id=id_)
    done = subprocess.run([sys.executable, "-c", program], env=environment, check=True, capture_output=True, text=True)
    return float(done.stdout)


def _trading_env() -> gym.Env[Any, Any]:
    """gym-trading-env's discrete environment on a random walk."""
    import pandas as pd
    from gym_trading_env.environments import TradingEnv

    close = 100.0 * np.exp(np.cumsum(np.random.default_rng(0).normal(0.0, 1e-3, 5_000)))
    times = pd.date_range("2024-01-01", periods=len(close), freq="1h")
    frame = pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "feature_close": close}, index=times)
    env: gym.Env[Any, Any] = TradingEnv(df=frame, positions=[-1, 0, 1], verbose=0)
    return env


def rows() -> list[dict[str, Any]]:
    """Figures: name, value, unit, and the ratio to a peer measured in the same run (or to nothing)."""
    cartpole = _best(
        lambda: vector_steps_per_second(gym.make_vec("CartPole-v1", NUM_ENVS, vectorization_mode="vector_entry_point"))
    )
    cartpole_one = _best(lambda: single_steps_per_second(lambda: gym.make("CartPole-v1")))
    found: list[dict[str, Any]] = [
        _row("env.peer.CartPole-v1.vector", cartpole, "steps/s"),
        _row("env.peer.CartPole-v1.single", cartpole_one, "steps/s"),
    ]
    peer = "env.peer.CartPole-v1.single"
    peer_rate = cartpole_one
    if find_spec("gym_trading_env"):
        peer, peer_rate = "env.peer.gym_trading_env.single", _best(lambda: single_steps_per_second(_trading_env))
        found.append(_row(peer, peer_rate, "steps/s"))
    for id_, module in arbgym.ENVIRONMENTS.items():
        name = f"env.{id_}"
        rate = _best(partial(steps_per_second, module, NUM_ENVS, _SECONDS))
        found.append(_row(f"{name}.vector", rate, "steps/s", "env.peer.CartPole-v1.vector", rate / cartpole))
        if id_ == "ArbSell-v0":  # whose random actions sell after a few steps, so that most of the time goes into new positions
            holding = _best(partial(steps_per_second, module, NUM_ENVS, _SECONDS, waiting=True))
            found.append(_row(f"{name}.vector.holding", holding, "steps/s", f"{name}.vector", holding / rate))
        threads = numba.get_num_threads()
        numba.set_num_threads(1)
        one_core = _best(partial(steps_per_second, module, NUM_ENVS, _SECONDS))
        numba.set_num_threads(threads)
        found.append(_row(f"{name}.vector.one_thread", one_core, "steps/s", f"{name}.vector", one_core / rate))
        face = _best(partial(vector_steps_per_second, gym.make_vec(id_, NUM_ENVS)))
        found.append(_row(f"{name}.vector.gymnasium", face, "steps/s", f"{name}.vector", face / rate))
        single = _best(partial(single_steps_per_second, partial(gym.make, id_)))
        found.append(_row(f"{name}.single", single, "steps/s", peer, single / peer_rate))
        found.append(_row(f"{name}.state", load_definition(module).state.itemsize, "bytes per environment"))
        with tempfile.TemporaryDirectory() as cache:
            cold, warm = first_step_seconds(id_, cache), first_step_seconds(id_, cache)
        found.append(_row(f"{name}.first_step.cold_cache", cold, "s"))
        found.append(_row(f"{name}.first_step.warm_cache", warm, "s", f"{name}.first_step.cold_cache", warm / cold))
    return found


def _row(name: str, value: float, unit: str, ratio_to: str = "", ratio: float | None = None) -> dict[str, Any]:
    return {"name": name, "value": float(value), "unit": unit, "ratio_to": ratio_to, "ratio": ratio}
