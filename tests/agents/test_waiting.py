"""Learners that start by waiting: where one action ends the episode, the start decides what is ever seen."""

from __future__ import annotations

from dataclasses import replace
from typing import Any, Literal

import numpy as np
import pytest
import torch
from stable_baselines3 import DQN

from agents.dqn import DQNRecipe, WaitingDQN
from agents.ppo import PPORecipe
from agents.recipe import Execution
from agents.tensor_dqn import TensorDQN
from agents.vec import NativeVecEnv
from arbgym.engine import NativeVectorEnv

SMALL = PPORecipe(environments=8, rollout_steps=8, minibatch=32, acting_probability=0.02)


def batch(action: str, num_envs: int) -> NativeVecEnv:
    env = NativeVecEnv(NativeVectorEnv("arbgym.envs.sell", num_envs, action=action, copy=False))  # type: ignore[arg-type]
    env.seed(0)
    return env


@pytest.mark.parametrize(("action", "logits"), [("discrete", 2), ("multidiscrete", 5)])
def test_ppo_starts_by_acting_as_rarely_as_it_was_told(action: str, logits: int) -> None:
    env = batch(action, 256)
    for probability in (0.02, 0.3):
        model = replace(SMALL, environments=256, acting_probability=probability).build(env, seed=1)
        observations = torch.as_tensor(env.reset())
        distribution: Any = model.policy.get_distribution(observations)
        part = distribution.distribution[0] if action == "multidiscrete" else distribution.distribution
        assert part.probs.shape == (256, logits)
        assert (1.0 - part.probs[:, 0]).mean().item() == pytest.approx(probability, rel=0.15)


def test_ppo_without_a_bias_tries_everything_equally() -> None:
    env = batch("discrete", 256)
    model = replace(SMALL, environments=256, acting_probability=None).build(env, seed=1)
    distribution: Any = model.policy.get_distribution(torch.as_tensor(env.reset()))
    assert distribution.distribution.probs[:, 0].mean().item() == pytest.approx(0.5, abs=0.05)


def test_a_continuous_policy_starts_at_the_lower_end() -> None:
    env = batch("continuous", 64)
    model = replace(SMALL, environments=64).build(env, seed=1)
    actions, _ = model.predict(env.reset(), deterministic=True)
    assert (actions < -0.9).all()


@pytest.mark.parametrize(("learner", "kind"), [("sb3", WaitingDQN), ("arbgym", TensorDQN)])
def test_dqn_explores_each_environment_by_itself_and_rarely_acts(learner: Literal["sb3", "arbgym"], kind: type[DQN]) -> None:
    env = batch("discrete", 2_000)
    recipe = DQNRecipe(environments=2_000, buffer=4_000, learning_starts=10, acting_probability=0.05)
    model = recipe.build(env, seed=3, execution=Execution(learner=learner))
    assert isinstance(model, kind)
    model._last_obs = env.reset()
    actions, stored = model._sample_action(learning_starts=10, n_envs=2_000)
    assert np.array_equal(actions, stored) and set(np.unique(actions)) == {0, 1}
    assert actions.mean() == pytest.approx(0.05, abs=0.02)
    greedy, _ = model.predict(env.reset(), deterministic=True)
    assert greedy.mean() < 0.2  # holding seems worth more at the start
    plain = replace(recipe, acting_probability=None).build(env, seed=3, execution=Execution(learner=learner))
    assert type(plain) is (DQN if learner == "sb3" else TensorDQN)


@pytest.mark.parametrize("value", [0.0, 1.0, float("nan"), -0.1])
def test_probabilities_that_are_none_are_refused_by_name(value: float) -> None:
    for recipe in (PPORecipe, DQNRecipe):
        with pytest.raises(ValueError, match="acting_probability"):
            recipe(acting_probability=value)


@pytest.mark.slow
def test_ppo_finds_most_of_the_american_put() -> None:
    from experiments.truths import train_and_judge

    found = train_and_judge("ppo", "put", 0)
    assert found["share"] > 0.98
