"""Speed of training: the tensor learners beside stable-baselines3's own with the same numbers, and beside the learner alone.

Works that are compared take turns, and a ratio is the median over the turns: what else the machine does falls on both.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from stable_baselines3.common.logger import Logger

from agents.dqn import DQNRecipe
from agents.ppo import PPORecipe
from agents.recipe import Execution, use_threads
from agents.vec import NativeVecEnv
from arbgym.engine import NativeVectorEnv
from experiments.config import RunConfig, default_config
from experiments.monitor import Clock
from experiments.peers import SBXRecipe, has_sbx
from experiments.worlds import training_batch

ROUNDS = 5
STOCK = Execution(learner="sb3")
SAME = PPORecipe(environments=1_024, rollout_steps=32, epochs=4, minibatch=8_192, hidden=(64, 64))
"""one set of numbers for both learners"""
LIBRARY = PPORecipe(
    environments=8,
    rollout_steps=2_048,
    epochs=10,
    minibatch=64,
    learning_rate=3e-4,
    final_learning_rate_share=1.0,
    gamma=0.99,
    gae_lambda=0.95,
    entropy_weight=0.0,
    hidden=(64, 64),
    activation="tanh",
)
"""stable-baselines3's defaults, with 8 environments"""
WORLDS: dict[str, dict[str, Any]] = {"ArbFlash-v0": {}, "ArbSell-v0 put": {"preset": "put"}}
"""the main market, and the one that costs least: what is left there is the learner's"""

Row = dict[str, Any]


def rows() -> list[Row]:
    """Environment steps and updates a second, ratios, shares of time and memory; GPU rows where there is a GPU."""
    threads = _idle_cores()
    use_threads(threads)
    found: list[Row] = []
    for world in WORLDS:
        found += _ppo(world, threads)
    found += _defaults(threads)
    found += _options(threads)
    if has_sbx():
        found += _peer(threads)
    use_threads(1)
    found += _dqn()
    found += _memory()
    if torch.cuda.is_available():
        found += _on_gpu()
    return found


def _idle_cores() -> int:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    busy = os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0
    return max(1, round(cores - busy))


def _row(name: str, value: float, unit: str, ratio_to: str = "", ratio: float | None = None) -> Row:
    return {"name": name, "value": value, "unit": unit, "ratio_to": ratio_to, "ratio": ratio}


def in_turns(works: Mapping[str, Callable[[], int]], rounds: int = ROUNDS) -> dict[str, np.ndarray[Any, Any]]:
    """Rates (rounds,) of works that say how much they did; each is done once before it counts, and then in turn."""
    for work in works.values():
        work()
    rates: dict[str, list[float]] = {name: [] for name in works}
    for _ in range(rounds):
        for name, work in works.items():
            start = time.perf_counter()
            done = work()
            rates[name].append(done / (time.perf_counter() - start))
    return {name: np.array(each) for name, each in rates.items()}


def _config(world: str, recipe: Any) -> RunConfig[Any, Any]:
    id_, _, preset = world.partition(" ")
    algorithm = "dqn" if isinstance(recipe, DQNRecipe) else "ppo"
    name = f"{algorithm}_{id_.removeprefix('Arb').removesuffix('-v0').lower()}"
    return replace(default_config(name, preset or None), agent=recipe)


def _learner(world: str, recipe: Any, execution: Execution, simulator: str = "cpu") -> Any:
    config = _config(world, recipe)
    env = NativeVecEnv(training_batch(config, recipe.environments, simulator))
    model = recipe.build(env, 0, None, execution)
    env.seed(config.training_seed)
    return model


def _learning(model: Any, rollouts: int) -> Callable[[], int]:
    steps = int(rollouts * model.n_steps * model.n_envs)

    def learn() -> int:
        model.learn(steps, log_interval=None, reset_num_timesteps=model.num_timesteps == 0)
        return steps

    return learn


def _updating(model: Any) -> Callable[[], int]:
    """The learner alone: the same minibatch updates, again and again on one rollout; counted in that rollout's steps."""

    def train() -> int:
        model.train()
        return int(model.n_steps * model.n_envs)

    return train


def _ppo(world: str, threads: int) -> list[Row]:
    found = []
    for environments, rollouts in ((SAME.environments, 4), (8, 1)):
        recipe = replace(SAME, environments=environments, rollout_steps=SAME.update_steps // environments)
        ours, theirs = _learner(world, recipe, Execution()), _learner(world, recipe, STOCK)
        rates = in_turns({"ours": _learning(ours, rollouts), "stock": _learning(theirs, rollouts), "alone": _updating(ours)})
        name = f"train.ppo {world}, {environments:,} environments, {threads} threads"
        value = float(np.median(rates["ours"]))
        ratio = float(np.median(rates["ours"] / rates["stock"]))
        found.append(_row(name, value, "steps/s", "stable-baselines3, same numbers", ratio))
        if environments == SAME.environments:
            alone = float(np.median(rates["ours"] / rates["alone"]))
            found.append(_row(name, value, "steps/s", "the learner alone", alone))
            found += _shares(name, ours, rollouts)
        for model in (ours, theirs):
            model.env.close()
    return found


def _shares(name: str, model: Any, rollouts: int) -> list[Row]:
    """Where the time of a training goes."""
    clock, train = Clock(), model.train

    def timed() -> None:
        start = time.perf_counter()
        train()
        clock.learner += time.perf_counter() - start

    model.train = timed
    step_tensors = model.env.step_tensors
    if model.env.device.type == "cuda":  # else the market's work would count where somebody waits for it

        def waited(actions: torch.Tensor) -> None:
            step_tensors(actions)
            start = time.perf_counter()
            torch.cuda.synchronize()
            model.env.simulation_seconds += time.perf_counter() - start

        model.env.step_tensors = waited
    before, start = model.env.simulation_seconds, time.perf_counter()
    _learning(model, rollouts)()
    clock.total, clock.simulation = time.perf_counter() - start, model.env.simulation_seconds - before
    model.train, model.env.step_tensors = train, step_tensors
    parts = ("simulation_share", "learner_share", "rest_share")
    return [_row(f"{name}, {part.replace('_', ' ')}", clock.shares()[part], "1") for part in parts]


def _defaults(threads: int) -> list[Row]:
    """The named run's own recipe beside the library's defaults."""
    recipe = default_config("ppo_flash").agent
    ours, theirs = _learner("ArbFlash-v0", recipe, Execution()), _learner("ArbFlash-v0", LIBRARY, STOCK)
    rates = in_turns({"ours": _learning(ours, 4), "defaults": _learning(theirs, 1)}, rounds=3)
    ratio = float(np.median(rates["ours"] / rates["defaults"]))
    value = float(np.median(rates["ours"]))
    return [_row(f"train.ppo_flash, its recipe, {threads} threads", value, "steps/s", "stable-baselines3's defaults", ratio)]


def _options(threads: int) -> list[Row]:
    """What the options of execution are worth here, in updates of one rollout; torch.compile wants a C++ compiler."""
    options: dict[str, Any] = {"precision bf16": {"precision": "bf16"}}
    if shutil.which("g++") or shutil.which("clang++"):
        options["compile default"] = {"compile": "default"}
    models = {name: _learner("ArbFlash-v0", SAME, Execution(**values)) for name, values in {"plain": {}, **options}.items()}
    for model in models.values():
        _learning(model, 1)()
    rates = in_turns({name: _updating(model) for name, model in models.items()})
    return [
        _row(
            f"train.ppo ArbFlash-v0, the learner alone, {name}, {threads} threads",
            float(np.median(rates[name])),
            "steps/s",
            "float32, not compiled",
            float(np.median(rates[name] / rates["plain"])),
        )
        for name in options
    ]


def _peer(threads: int) -> list[Row]:
    """SBX with the same numbers: JAX decides for itself how many threads it takes."""
    ours = _learner("ArbFlash-v0", SAME, Execution())
    theirs = _learner("ArbFlash-v0", SBXRecipe(**vars(SAME)), Execution())
    rates = in_turns({"ours": _learning(ours, 4), "sbx": _learning(theirs, 4)})
    value, ratio = float(np.median(rates["ours"])), float(np.median(rates["ours"] / rates["sbx"]))
    return [
        _row(
            f"train.ppo ArbFlash-v0, {SAME.environments:,} environments, {threads} threads", value, "steps/s", "SBX (JAX)", ratio
        )
    ]


def _dqn() -> list[Row]:
    """Updates a second on a filled buffer, at batch 256, and a whole training's steps."""
    recipe = DQNRecipe(environments=256, batch=256, buffer=100_000, learning_starts=20_000, gradient_steps=4, gamma=0.9)
    found, per_call = [], 16
    for prioritised in (False, True):
        mine = replace(recipe, prioritised=prioritised)
        models = {"ours": _learner("ArbFlash-v0", mine, Execution()), "stock": _learner("ArbFlash-v0", recipe, STOCK)}
        for model in models.values():
            model.learn(30_000, log_interval=None)
            model.set_logger(Logger(None, []))
        works = {name: _gradient_steps(model, recipe.batch, per_call) for name, model in models.items()}
        rates = in_turns(works)
        kind = "prioritised replay" if prioritised else "uniform replay"
        value, ratio = float(np.median(rates["ours"])), float(np.median(rates["ours"] / rates["stock"]))
        found.append(
            _row(f"train.dqn {kind}, batch 256, 64-64, 1 thread", value, "updates/s", "stable-baselines3 (uniform)", ratio)
        )
        for model in models.values():
            model.env.close()
    return found


def _gradient_steps(model: Any, batch: int, per_call: int) -> Callable[[], int]:
    def train() -> int:
        for _ in range(8):
            model.train(per_call, batch)
        return 8 * per_call

    return train


def _memory() -> list[Row]:
    """Bytes of a replay over what its transitions hold, of a rollout's transition, and of an environment with its buffers."""
    replay = DQNRecipe(environments=256, buffer=1_000_192)
    model = _learner("ArbFlash-v0", replay, Execution())
    buffer = model.replay_buffer
    kept = buffer.buffer_size * buffer.n_envs
    found = [_row("memory.replay, a transition", buffer.bytes / kept, "bytes", "what it holds", buffer.bytes / buffer.raw_bytes)]
    model.env.close()
    rollout = _learner("ArbFlash-v0", SAME, Execution())
    found.append(_row("memory.rollout, a transition", rollout.rollout_buffer.bytes / SAME.update_steps, "bytes"))
    core = rollout.env.env.core
    held = sum(array.nbytes for array in core.batch) - core.batch.scales.nbytes
    found.append(_row("memory.environment, state and buffers", held / SAME.environments, "bytes"))
    rollout.env.close()
    return found


def _on_gpu() -> list[Row]:
    """The simulator and PPO with both on the GPU."""
    device = torch.device("cuda", torch.cuda.current_device())
    card = torch.cuda.get_device_name(device)
    found = []
    for environments in (65_536, 1_048_576):
        env = training_batch(_config("ArbFlash-v0", SAME), environments, "cuda")
        env.reset(seed=0)
        rates = in_turns({"market": _stepping(env, 64)}, rounds=3)
        found.append(_row(f"train.market {card}, {environments:,} environments", float(np.median(rates["market"])), "steps/s"))
        env.close()
        torch.cuda.empty_cache()
    recipe = replace(SAME, environments=65_536, minibatch=262_144)
    ours = _learner("ArbFlash-v0", recipe, Execution(device=device), "cuda")
    theirs = _learner("ArbFlash-v0", SAME, replace(STOCK, device=device))
    rates = in_turns({"ours": _learning(ours, 4), "stock": _learning(theirs, 1)}, rounds=3)
    ratio = float(np.median(rates["ours"] / rates["stock"]))
    value = float(np.median(rates["ours"]))
    found.append(_row(f"train.ppo {card}, 65,536 environments", value, "steps/s", "stable-baselines3 on the same card", ratio))
    found += _shares(f"train.ppo {card}, 65,536 environments", ours, 4)
    for model in (ours, theirs):
        model.env.close()
    return found


def _stepping(env: NativeVectorEnv, steps: int) -> Callable[[], int]:
    env.action_space.seed(0)
    actions = torch.as_tensor(env.action_space.sample(), device="cuda")

    def step() -> int:
        for _ in range(steps):
            env.step_in_place(actions)
        torch.cuda.synchronize()
        return steps * env.num_envs

    return step
