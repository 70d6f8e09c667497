"""The exported file decides as the stable-baselines3 model does, on every encoding and both back ends."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

import agents.export as module
from agents.dqn import DQNRecipe
from agents.export import ExportError, differing_actions, export
from agents.ppo import PPORecipe
from agents.vec import NativeVecEnv
from arbgym import policy
from arbgym.engine import NativeVectorEnv
from arbgym.onnx_graph import parse

PPO = PPORecipe(environments=16, rollout_steps=8, minibatch=64, learning_rate=0.01, hidden=(16, 16))
DQN = DQNRecipe(environments=16, learning_starts=32, batch=32, buffer=1_000, learning_rate=0.01, hidden=(16, 16))
CASES = (("ppo", "multidiscrete"), ("ppo", "discrete"), ("ppo", "continuous"), ("dqn", "discrete"))


def observations(env: NativeVectorEnv, rows: int) -> np.ndarray:
    env.reset(seed=77)
    env.action_space.seed(7)
    found = []
    for _ in range(rows // env.num_envs):
        env.step_in_place(env.action_space.sample())
        found.append(env.observations.copy())
    return np.concatenate(found)


@pytest.fixture(scope="module", params=CASES, ids="-".join)
def case(request: pytest.FixtureRequest):
    """A model after a little learning, its environment, and 10,000 observations it could meet."""
    torch.set_num_threads(1)
    algorithm, action = request.param
    recipe = PPO if algorithm == "ppo" else DQN
    env = gym.make_vec("ArbFlash-v0", num_envs=16, action=action, episode_blocks=20)
    model = recipe.build(NativeVecEnv(env), seed=1)
    model.learn(256)
    return model, env, observations(env, 10_000)


def test_the_file_acts_as_the_model_on_10000_observations(case, tmp_path: Path) -> None:
    model, env, seen = case
    content, golden = export(model, seen)
    policy.save(
        tmp_path,
        content,
        definition=env.definition,
        config=env.config,
        preset=env.preset,
        encoding=env.core.encoding,
        feed="simulated",
        golden=golden,
        provenance={},
    )
    expected = model.predict(seen, deterministic=True)[0].reshape(len(seen), -1)
    for backend in ("onnxruntime", "numpy"):
        loaded = policy.load(tmp_path, backend=backend)
        assert differing_actions(model, loaded.predict, seen) == 0
        found = loaded.predict(seen)
        if expected.dtype.kind == "f":
            assert np.max(np.abs(found - expected)) <= 1e-5
        else:
            assert np.array_equal(found, expected)


def test_the_batch_axis_is_free_and_one_row_decides_as_in_a_batch(case) -> None:
    model, _, seen = case
    graph = parse(export(model, seen[:64])[0])
    together = graph.run({"observation": seen[:64]})["action"]
    alone = [graph.run({"observation": seen[i : i + 1]})["action"][0] for i in range(64)]
    assert np.allclose(together, np.array(alone), atol=1e-5)


def test_the_file_tells_nothing_of_the_machine(case) -> None:
    model, _, seen = case
    content = export(model, seen[:64])[0]
    assert b"site-packages" not in content and b"agents/" not in content and b"export.py" not in content


def test_a_network_that_decides_otherwise_is_refused(case, monkeypatch: pytest.MonkeyPatch) -> None:
    model, _, seen = case
    network = module.decision_network(model)
    width = network(torch.zeros(1, network.low.numel()))[0].shape[1]
    network.network = torch.nn.Sequential(network.network, torch.nn.Linear(width, width))
    monkeypatch.setattr(module, "decision_network", lambda _: network)
    with pytest.raises(ExportError, match="differ from the model's"):
        export(model, seen[:256])


def test_too_few_observations_are_refused(case) -> None:
    model, _, seen = case
    with pytest.raises(ValueError, match="accepted are 32 or more"):
        export(model, seen[:31])
