"""What registering an environment puts it through: one test each for every id, and where it matters every encoding."""

from __future__ import annotations

import inspect
import warnings
from typing import Any

import gymnasium as gym
import numba
import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env

import arbgym
from arbgym.engine import NativeEnv, NativeVectorEnv
from arbgym.evaluation import Simulator
from arbgym.spec import ENCODINGS

pytestmark = pytest.mark.conformance
IDS = sorted(arbgym.ENVIRONMENTS)
HEADINGS = (
    *("Problem", "One step", "Actions", "Observations", "Reward", "Episode end", "Arguments"),
    *("Baselines", "Sources", "Versions"),
)


def vector(id_: str, num_envs: int, **arguments: Any) -> NativeVectorEnv:
    env = gym.make_vec(id_, num_envs=num_envs, **arguments)
    assert isinstance(env, NativeVectorEnv)
    return env


# what makes every episode last all its steps whoever acts: selling ends one of ArbSell's, and so does an emptied pool
STEADY: dict[str, dict[str, Any]] = {"ArbSell-v0": {"max_tranches": 1_000, "least_share": 1.0, "rug_reserve_share": 0.0}}


def steady_action(env: NativeVectorEnv) -> Any:
    """A random action that ends no episode before its time."""
    action = actions_for(env, 1)[0]
    return np.minimum(action, 3) if env.definition.id in STEADY else action


def actions_for(env: NativeVectorEnv, steps: int, seed: int = 0) -> list[Any]:
    env.action_space.seed(seed)
    return [env.action_space.sample() for _ in range(steps)]


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("action", ENCODINGS)
def test_gymnasium_checker_without_a_warning(id_: str, action: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_env(gym.make(id_, action=action).unwrapped, skip_render_check=True)


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("action", ENCODINGS)
def test_vector_follows_its_spaces_without_a_warning(id_: str, action: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        env = vector(id_, 7, action=action)
        observations, infos = env.reset(seed=3)
        assert infos == {}
        for step_action in actions_for(env, 300):
            assert observations in env.observation_space
            observations, rewards, terminated, truncated, infos = env.step(step_action)
            assert rewards.shape == terminated.shape == truncated.shape == (7,)
            assert rewards.dtype == np.float64 and terminated.dtype == truncated.dtype == np.bool_
            for name in env.definition.info:
                assert infos[name].shape == (7,) and infos[f"_{name}"].all()


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("preset_index", range(3))
def test_batch_equals_single_bit_for_bit(id_: str, preset_index: int) -> None:
    presets = vector(id_, 1).definition.presets
    preset = presets[preset_index % len(presets)]
    env = vector(id_, 5, preset=preset, autoreset="next_step", episode_blocks=40)
    singles = [gym.make(id_, preset=preset, episode_blocks=40).unwrapped for _ in range(5)]
    observations, _ = env.reset(seed=42)
    for i, single in enumerate(singles):
        assert np.array_equal(single.reset(seed=42 + i)[0], observations[i])
    done = np.zeros(5, dtype=bool)
    for batch_action in actions_for(env, 130):
        observations, rewards, terminated, truncated, infos = env.step(batch_action)
        for i, single in enumerate(singles):
            if done[i]:  # the vector's next step is the reset
                expected = single.reset()[0]
                assert rewards[i] == 0.0
            else:
                expected, reward, over, cut, info = single.step(batch_action[i])
                assert (reward, over, cut) == (rewards[i], terminated[i], truncated[i])
                assert info == {name: infos[name][i] for name in info}
            assert np.array_equal(expected, observations[i])
        done = terminated | truncated


@pytest.mark.parametrize("id_", IDS)
def test_batch_size_and_threads_change_nothing(id_: str) -> None:
    def play(num_envs: int, threads: int) -> tuple[Any, Any]:
        before = numba.get_num_threads()
        numba.set_num_threads(min(threads, before))
        env = vector(id_, num_envs)
        env.reset(seed=9)
        actions = actions_for(vector(id_, 64), 60)
        rewards = []
        for action in actions:
            env.step_in_place(action[:num_envs])
            rewards.append(env.rewards[:8].copy())
        numba.set_num_threads(before)
        return np.array(rewards), env.observations[:8].copy()

    reference = play(64, 2)
    for num_envs, threads in ((64, 1), (8, 2), (33, 2)):
        rewards, observations = play(num_envs, threads)
        assert np.array_equal(rewards, reference[0]) and np.array_equal(observations, reference[1])


@pytest.mark.parametrize("id_", IDS)
def test_same_step_and_next_step_autoreset_tell_the_same_story(id_: str) -> None:
    same = vector(id_, 3, autoreset="same_step", episode_blocks=12, **STEADY.get(id_, {}))
    following = vector(id_, 3, autoreset="next_step", episode_blocks=12, **STEADY.get(id_, {}))
    assert np.array_equal(same.reset(seed=5)[0], following.reset(seed=5)[0])
    action = steady_action(same)
    resets = 0
    for _ in range(40):
        observations, rewards, terminated, truncated, infos = same.step(action)
        other, other_rewards, other_terminated, other_truncated, _ = following.step(action)
        assert np.array_equal(rewards, other_rewards)
        assert np.array_equal(terminated, other_terminated) and np.array_equal(truncated, other_truncated)
        done = terminated | truncated
        if done.any():
            assert done.all(), "episodes of one length end together"
            resets += 1
            assert np.array_equal(infos["final_obs"], other) and np.array_equal(infos["_final_obs"], done)
            assert np.array_equal(infos["final_info"]["net_profit"], infos["net_profit"])
            assert (same.episode_length == 12).all()
            other, other_rewards, *_ = following.step(action)
            assert not other_rewards.any()
        assert np.array_equal(observations, other)
    assert resets >= 2


@pytest.mark.parametrize("id_", IDS)
def test_masked_reset_restarts_only_the_masked_rows(id_: str) -> None:
    env = vector(id_, 6, autoreset="disabled")
    start, _ = env.reset(seed=1)
    for action in actions_for(env, 10):
        moved, *_ = env.step(action)
    mask = np.array([True, False, True, False, False, True])
    after, _ = env.reset(seed=1, options={"reset_mask": mask})
    assert np.array_equal(after[mask], start[mask]) and np.array_equal(after[~mask], moved[~mask])
    with pytest.raises(ValueError, match="reset_mask"):
        env.reset(options={"reset_mask": np.ones(5, dtype=bool)})


@pytest.mark.parametrize("id_", IDS)
def test_seeds(id_: str) -> None:
    env = gym.make(id_)
    first, _ = env.reset(seed=8)
    second_episode, _ = env.reset()
    again, _ = env.reset(seed=8)
    assert np.array_equal(first, again)
    assert np.array_equal(env.reset()[0], second_episode)
    envs = vector(id_, 3)
    by_list, _ = envs.reset(seed=[10, 11, 12])
    by_number, _ = envs.reset(seed=10)
    assert np.array_equal(by_list, by_number)


@pytest.mark.parametrize("id_", IDS)
def test_the_global_random_state_is_nobodys_business(id_: str) -> None:
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - the global state is what is tested
    env = vector(id_, 3)
    env.reset()
    env.step(env.action_space.sample())
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002


@pytest.mark.parametrize("id_", IDS)
def test_step_before_reset_is_refused(id_: str) -> None:
    with pytest.raises(gym.error.ResetNeeded):
        env = NativeEnv(arbgym.ENVIRONMENTS[id_])
        env.step(env.action_space.sample())
    with pytest.raises(gym.error.ResetNeeded):
        env = vector(id_, 2)
        env.step(env.action_space.sample())


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        ({"action": "box"}, "action"),
        ({"preset": "mars"}, "preset"),
        ({"no_such_field": 1.0}, "no_such_field"),
        ({"feed": "wire"}, "feed"),
        ({"feed": "replay"}, "tape"),
        ({"render_mode": "human"}, "render_mode"),
        ({"episode_blocks": 0}, "episode_blocks"),
    ],
)
def test_wrong_arguments_are_refused_by_name(id_: str, arguments: dict[str, Any], word: str) -> None:
    with pytest.raises((ValueError, gym.error.Error), match=word):
        NativeEnv(arbgym.ENVIRONMENTS[id_], **arguments)


@pytest.mark.parametrize("id_", IDS)
def test_state_fits_a_kilobyte(id_: str) -> None:
    assert vector(id_, 2).definition.state.itemsize <= 1024


@pytest.mark.parametrize("id_", IDS)
def test_net_profit_is_the_sum_of_its_parts_and_the_reward(id_: str) -> None:
    env = vector(id_, 256)
    env.reset(seed=2)
    parts = env.definition.reward_parts
    seen = 0.0
    for action in actions_for(env, 60):
        env.step_in_place(action)
        total = env.info[parts[0]] - sum(env.info[part] for part in parts[1:])
        assert np.allclose(total, env.info["net_profit"], rtol=1e-9, atol=1e-9)
        reward = env.info["net_profit"] - env.info.get("inventory_penalty", 0.0) - env.info.get("penalty", 0.0)
        scale = env.info["cost_quote"] if id_ == "ArbSell-v0" else env.config.reward_scale_quote
        assert np.allclose(env.rewards * scale, reward, rtol=1e-12, atol=1e-12)
        seen += np.abs(total).sum()
    assert seen > 0.0


@pytest.mark.parametrize("id_", [pytest.param(id_, marks=[pytest.mark.slow] if id_ == "ArbCross-v0" else []) for id_ in IDS])
def test_baselines_lie_between_waiting_and_the_oracle(id_: str) -> None:
    simulator = Simulator(arbgym.ENVIRONMENTS[id_], {}, seed=77, episodes=128)
    env = simulator.make()
    profits = {}
    for name, baseline in env.definition.baselines().items():
        decide = baseline.fit(simulator)
        profits[name] = float(simulator.run(decide).sums["net_profit"].mean())
    for name, profit in profits.items():
        assert profit <= profits["oracle"], name
    if id_ == "ArbSell-v0":  # waiting is holding to the horizon, and the fees of a round trip are the least one can lose
        assert profits["wait"] < profits["sell_now"] < 0.0 < profits["tuned_rule"]
        assert max(profits["rule"], profits["atr_stop"]) <= profits["tuned_rule"] * 1.02
    else:
        assert profits["wait"] == 0.0
        assert 0.0 < profits["rule"] < profits["tuned_rule"] <= profits["history_rule"] * 1.02


@pytest.mark.parametrize("id_", sorted(set(IDS) - {"ArbSell-v0"}))  # whose hindsight is of the episode: test_sell_truths.py
def test_no_action_beats_hindsight_in_its_own_block(id_: str) -> None:
    env = vector(id_, 2048)
    env.reset(seed=4)
    for action in actions_for(env, 80):
        env.step_in_place(action)
        luck = env.info.get("inventory_loss", 0.0)  # what an open position lost to the price, which no hindsight here foresees
        excess = env.info["net_profit"] + luck - env.info["oracle_profit"]
        worst = int(excess.argmax())
        assert excess[worst] <= 1e-3 * (1.0 + env.info["oracle_profit"][worst])


@pytest.mark.parametrize("id_", IDS)
def test_documentation_has_the_fixed_headings(id_: str) -> None:
    text = inspect.getdoc(vector(id_, 1).definition.module)
    assert text is not None
    positions = [text.find(f"\n{heading}") for heading in HEADINGS]
    assert all(position > 0 for position in positions), dict(zip(HEADINGS, positions, strict=True))
    assert positions == sorted(positions)
