"""The stable-baselines3 face of a native batch: what it hands out is right, and stays so for one more step."""

from __future__ import annotations

import gymnasium as gym
import numpy as np
import pytest

from agents.vec import NativeVecEnv
from arbgym.engine import NativeVectorEnv

ENCODINGS = ("multidiscrete", "discrete", "continuous")


def batch(num_envs: int = 6, **arguments: object) -> NativeVectorEnv:
    env = gym.make_vec("ArbFlash-v0", num_envs=num_envs, **arguments)
    assert isinstance(env, NativeVectorEnv)
    return env


def actions(vec: NativeVecEnv, steps: int) -> list[np.ndarray]:
    space = gym.vector.utils.batch_space(vec.action_space, vec.num_envs)
    space.seed(3)
    return [space.sample() for _ in range(steps)]


@pytest.mark.parametrize("action", ENCODINGS)
def test_spaces_are_those_of_one_environment_and_contain_what_is_handed_out(action: str) -> None:
    vec = NativeVecEnv(batch(action=action))
    vec.seed(1)
    observations = vec.reset()
    assert observations.shape == (6, vec.observation_space.shape[0]) and observations.dtype == np.float32
    for action_batch in actions(vec, 20):
        observations, rewards, dones, infos = vec.step(action_batch)
        assert all(vec.observation_space.contains(row) for row in observations)
        assert rewards.shape == dones.shape == (6,) and dones.dtype == np.bool_ and len(infos) == 6


def test_it_gives_what_the_batch_gives() -> None:
    vec, env = NativeVecEnv(batch(episode_blocks=7)), batch(episode_blocks=7)
    vec.seed(5)
    assert np.array_equal(vec.reset(), env.reset(seed=5)[0])
    for action_batch in actions(vec, 30):
        observations, rewards, dones, infos = vec.step(action_batch)
        expected, expected_rewards, terminated, truncated, _ = env.step(action_batch)
        assert np.array_equal(observations, expected) and np.array_equal(rewards, expected_rewards)
        assert np.array_equal(dones, terminated | truncated)
        assert [bool(info) for info in infos] == dones.tolist()


def test_the_last_step_stays_as_it_was_while_the_next_one_is_taken() -> None:
    vec = NativeVecEnv(batch(episode_blocks=5))
    vec.seed(2)
    last = vec.reset()
    last_dones = np.zeros(6, dtype=bool)
    for action_batch in actions(vec, 12):
        kept, kept_dones = last.copy(), last_dones.copy()
        observations, _, dones, _ = vec.step(action_batch)
        assert np.array_equal(last, kept) and np.array_equal(last_dones, kept_dones)
        last, last_dones = observations, dones


def test_an_ended_episode_reports_return_length_and_last_observation() -> None:
    vec = NativeVecEnv(batch(num_envs=4, episode_blocks=5))
    vec.seed(2)
    vec.reset()
    total = np.zeros(4)
    for step, action_batch in enumerate(actions(vec, 10), start=1):
        observations, rewards, dones, infos = vec.step(action_batch)
        total += rewards
        assert dones.all() == (step % 5 == 0)
        for i in np.flatnonzero(dones):
            assert infos[i]["episode"]["r"] == pytest.approx(total[i]) and infos[i]["episode"]["l"] == 5
            assert infos[i]["TimeLimit.truncated"] is False
            assert not np.array_equal(infos[i]["terminal_observation"], observations[i])
            total[i] = 0.0


def test_without_a_new_seed_a_reset_goes_on_to_other_worlds() -> None:
    vec = NativeVecEnv(batch())
    taken = actions(vec, 10)

    def played() -> np.ndarray:
        vec.reset()
        return np.stack([vec.step(action_batch)[0].copy() for action_batch in taken])

    vec.seed(4)
    first, second = played(), played()
    vec.seed(4)
    assert not np.array_equal(first, second) and np.array_equal(first, played())


def test_rows_share_one_configuration() -> None:
    vec = NativeVecEnv(batch())
    assert vec.get_attr("num_envs", [0, 2]) == [6, 6] and vec.env_is_wrapped(gym.Wrapper) == [False] * 6
    with pytest.raises(AttributeError, match="share one configuration"):
        vec.set_attr("preset", "base")
    with pytest.raises(AttributeError, match="no methods of their own"):
        vec.env_method("reset")


def test_another_autoreset_mode_is_refused() -> None:
    with pytest.raises(ValueError, match="accepted is 'same_step'"):
        NativeVecEnv(batch(autoreset="next_step"))
