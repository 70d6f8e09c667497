"""TensorPPO is stable-baselines3's PPO: the same update, the same files, the same face; masks hold; ranks agree."""

from __future__ import annotations

import os
import subprocess
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3 import PPO
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback, CheckpointCallback, EvalCallback, StopTrainingOnMaxEpisodes
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv
from torch import nn

from agents.components import Components
from agents.rollout import TensorRolloutBuffer
from agents.tensor_ppo import TensorPPO
from agents.vec import NativeVecEnv
from arbgym.engine import NativeVectorEnv

ENCODINGS = ("multidiscrete", "discrete", "continuous")


def vec(num_envs: int = 8, id_: str = "ArbFlash-v0", **arguments: Any) -> NativeVecEnv:
    env = gym.make_vec(id_, num_envs=num_envs, **{"episode_blocks": 9, **arguments})
    assert isinstance(env, NativeVectorEnv)
    return NativeVecEnv(env)


def model(kind: type[PPO] = TensorPPO, env: NativeVecEnv | None = None, policy: Any = "MlpPolicy", **changes: Any) -> PPO:
    settings_: dict[str, Any] = {
        "n_steps": 16,
        "batch_size": 48,  # with a rest of 32
        "n_epochs": 3,
        "gamma": 0.9,
        "ent_coef": 0.01,
        "learning_rate": 1e-2,
        "policy_kwargs": {"net_arch": [16, 16], "activation_fn": nn.ReLU},
        "seed": 3,
        "device": "cpu",
    }
    return kind(policy, env or vec(), **{**settings_, **changes})


class OwnPolicy(ActorCriticPolicy):
    """The library's policy under a user's name, which may have overridden anything."""


class Steps(gym.Env[Any, int]):
    """Twenty steps whose observation, of any type, is their number."""

    def __init__(self, dtype: type[Any]) -> None:
        self.observation_space = spaces.Box(0, 100, (2,), dtype)
        self.action_space = spaces.Discrete(2)
        self._dtype, self._step = dtype, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self._step = 0
        return np.zeros(2, self._dtype), {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._step += 1
        return np.full(2, self._step, self._dtype), float(action), self._step == 20, False, {}


def weights(learner: PPO) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in learner.policy.parameters()])


def refilled(buffer: TensorRolloutBuffer, like: PPO) -> RolloutBuffer:
    """The library's buffer with the same rollout, its advantages computed by the library."""
    stock = RolloutBuffer(
        buffer.buffer_size, like.observation_space, like.action_space, "cpu", buffer.gae_lambda, buffer.gamma, buffer.n_envs
    )
    for step in range(buffer.buffer_size):
        stock.add(
            buffer.observations[step].numpy(),
            buffer.actions[step].numpy(),
            buffer.rewards[step].numpy(),
            buffer.episode_starts[step].numpy(),
            buffer.values[step],
            buffer.log_probs[step],
        )
    last = like.policy.predict_values(buffer.observations[-1]).detach()
    stock.compute_returns_and_advantage(last, buffer.episode_starts[-1].numpy())
    return stock


class TestTheUpdateIsTheLibrarys:
    @pytest.mark.parametrize("action", ENCODINGS)
    @pytest.mark.parametrize(
        "changes",
        [{}, {"clip_range_vf": 0.1}, {"ent_coef": 0.0, "normalize_advantage": False}, {"target_kl": 1e-4}, {"gamma": 0.0}],
        ids=str,
    )
    def test_parameters_after_it_are_the_same(self, action: str, changes: dict[str, Any]) -> None:
        ours = model(env=vec(action=action), **changes)
        theirs = model(PPO, env=vec(action=action), **changes)
        ours.learn(8 * 16)  # a rollout by weights that an update has moved
        theirs.set_parameters(deepcopy(ours.get_parameters()))  # else both would move the same moments
        ours.collect_rollouts(ours.env, _silent(ours), ours.rollout_buffer, ours.n_steps)
        theirs.rollout_buffer = refilled(ours.rollout_buffer, theirs)
        theirs._current_progress_remaining = ours._current_progress_remaining
        for learner in (ours, theirs):
            learner.set_logger(Logger(None, []))
            np.random.seed(11)  # noqa: NPY002 - the order of minibatches
            learner.train()
        assert torch.allclose(weights(ours), weights(theirs), rtol=0.0, atol=1e-6)
        for name, value in theirs.logger.name_to_value.items():
            if name != "train/n_updates":  # ours has learned before
                assert ours.logger.name_to_value[name] == pytest.approx(value, rel=1e-4, abs=1e-6), name

    @pytest.mark.parametrize("gamma, gae_lambda", [(0.0, 0.0), (0.9, 0.0), (0.97, 0.9), (1.0, 1.0)])
    def test_advantages_are_the_same(self, gamma: float, gae_lambda: float) -> None:
        ours = model(gamma=gamma, gae_lambda=gae_lambda)
        ours.learn(8 * 16)
        buffer = ours.rollout_buffer
        # the update has moved the values since: take the ones of the rollout's own policy
        buffer.values.copy_(ours.policy.predict_values(buffer.observations[:-1].flatten(0, 1)).detach().reshape(16, 8))
        buffer.compute_returns_and_advantage(
            ours.policy.predict_values(buffer.observations[-1]).detach(), buffer.episode_starts[-1]
        )
        stock = refilled(buffer, ours)
        assert np.allclose(buffer.advantages.numpy(), stock.advantages, atol=1e-6)
        assert np.allclose(buffer.returns.numpy(), stock.returns, atol=1e-6)

    def test_a_time_limit_is_bootstrapped_by_the_last_observation_of_its_episode(self) -> None:
        env = vec(episode_blocks=50)
        learner = model(gamma=0.5, env=env)
        seen: list[tuple[torch.Tensor, ...]] = []
        step_tensors = env.step_tensors

        def cut_short(actions: torch.Tensor) -> None:
            """Two episodes end by a limit at every third step: on simulated worlds none does, only where a tape ends."""
            step_tensors(actions)
            if len(seen) % 3 == 2:
                env.tensors.truncated[2:4] = True
                env.tensors.final_observations[2:4] = 0.5 * env.tensors.observations[2:4] + 0.1

        env.step_tensors = cut_short  # type: ignore[method-assign]

        class Watch(BaseCallback):
            def _on_step(self) -> bool:
                tensors = env.tensors
                ended = (tensors.rewards, tensors.final_observations, tensors.terminated, tensors.truncated)
                seen.append(tuple(part.clone() for part in ended))
                return True

        callback = Watch()
        learner.learn(1, callback=callback)  # resets
        seen.clear()
        callback.init_callback(learner)
        learner.collect_rollouts(env, callback, learner.rollout_buffer, 16)
        assert any(bool((truncated & ~terminated).any()) for _, _, terminated, truncated in seen)
        for step, (rewards, last, terminated, truncated) in enumerate(seen):
            cut = truncated & ~terminated
            expected = rewards.float() + cut * 0.5 * learner.policy.predict_values(last).detach().flatten()
            assert torch.allclose(learner.rollout_buffer.rewards[step], expected, atol=1e-6)

    def test_values_and_log_probabilities_are_the_policys_own(self) -> None:
        learner = model()
        learner.learn(1)
        learner.collect_rollouts(learner.env, _silent(learner), learner.rollout_buffer, 16)
        buffer = learner.rollout_buffer
        flat = buffer.observations[:-1].flatten(0, 1)
        with torch.no_grad():
            values, log_probabilities, _ = learner.policy.evaluate_actions(flat, buffer.actions.flatten(0, 1))
        assert torch.allclose(buffer.values.flatten(), values.flatten(), atol=1e-6)
        assert torch.allclose(buffer.log_probs.flatten(), log_probabilities, atol=1e-5)


class TestItsFace:
    def test_a_saved_model_loads_in_the_library_and_back(self, tmp_path: Path) -> None:
        ours = model()
        ours.learn(8 * 16)
        ours.save(tmp_path / "ours")
        plain = PPO.load(tmp_path / "ours", env=vec())
        assert type(plain.rollout_buffer) is RolloutBuffer
        observations = ours.rollout_buffer.observations[:-1].flatten(0, 1).numpy()
        expected = ours.predict(observations, deterministic=True)[0]
        assert np.array_equal(plain.predict(observations, deterministic=True)[0], expected)
        plain.learn(8 * 16)
        plain.save(tmp_path / "plain")
        back = TensorPPO.load(tmp_path / "plain", env=vec())
        assert torch.equal(weights(back), weights(plain))
        back.learn(8 * 16, reset_num_timesteps=False)
        assert back.num_timesteps == plain.num_timesteps + 8 * 16

    def test_going_on_after_loading_is_going_on(self, tmp_path: Path) -> None:
        """Weights and Adam's moments: the same update from the file as from memory."""
        ours = model()
        ours.learn(8 * 16)
        ours.save(tmp_path / "saved")
        loaded = TensorPPO.load(tmp_path / "saved", env=vec())
        for learner in (ours, loaded):
            learner.set_random_seed(5)
            learner.env.seed(5)
            learner._last_obs = None
            learner.learn(8 * 16)
        assert torch.equal(weights(ours), weights(loaded))

    def test_callbacks_and_evaluation_work_as_the_librarys_users_know_them(self, tmp_path: Path) -> None:
        seen: list[tuple[int, int]] = []

        class Infos(BaseCallback):
            def _on_step(self) -> bool:
                infos, dones = self.locals["infos"], self.locals["dones"]
                assert len(infos) == len(dones) == 8
                assert [bool(info) for info in infos] == [bool(done) for done in dones]
                seen.extend((info["episode"]["l"], len(info["terminal_observation"])) for info in infos if info)
                return True

        evaluation = EvalCallback(vec(4), eval_freq=8, n_eval_episodes=4, verbose=0)
        callbacks = [Infos(), CheckpointCallback(16, str(tmp_path)), evaluation]
        learner = model()
        learner.learn(8 * 32, callback=callbacks)
        assert set(seen) == {(9, learner.observation_space.shape[0])}
        assert list(tmp_path.glob("*.zip"))
        assert evaluation.last_mean_reward != -np.inf
        assert learner.ep_info_buffer and all(done["l"] == 9 for done in learner.ep_info_buffer)
        mean, deviation = evaluate_policy(learner, vec(4), n_eval_episodes=8, warn=False)
        assert np.isfinite([mean, deviation]).all()

    def test_a_callback_ends_training_at_once(self) -> None:
        class Stop(BaseCallback):
            def _on_step(self) -> bool:
                return self.n_calls < 5

        learner = model()
        learner.learn(10_000, callback=Stop())
        assert learner.num_timesteps == 5 * 8

    @pytest.mark.parametrize("encoding", ["multidiscrete", "discrete"])
    def test_episodes_are_counted_by_the_librarys_own_callback(self, encoding: str) -> None:
        learner = model(env=vec(action=encoding))
        learner.learn(10_000, callback=StopTrainingOnMaxEpisodes(max_episodes=2))
        assert learner.num_timesteps == 8 * 2 * 9

    @pytest.mark.parametrize("dtype", [np.float64, np.int64, np.uint8])
    def test_observations_of_any_type_are_taken_as_the_library_takes_them(self, dtype: type[Any]) -> None:
        found = []
        for kind in (TensorPPO, PPO):
            env = DummyVecEnv([lambda: Steps(dtype)])
            found.append(weights(kind("MlpPolicy", env, n_steps=32, batch_size=16, seed=0, device="cpu").learn(64)))
        assert torch.allclose(*found, atol=1e-5)

    def test_a_policy_of_ones_own_is_differentiated_by_autograd(self) -> None:
        """The same layers behind a class of the user's: another way, the same weights."""

        plain = model()
        same = model(policy=OwnPolicy)
        assert plain._update.closed_form and not same._update.closed_form
        plain.learn(8 * 16)
        buffer = plain.rollout_buffer
        same.rollout_buffer.reset()
        for name in ("observations", "actions", "_numbers"):
            getattr(same.rollout_buffer, name).copy_(getattr(buffer, name))
        same.rollout_buffer.filled()
        same.set_parameters(deepcopy(plain.get_parameters()))
        for learner in (plain, same):
            learner.set_logger(Logger(None, []))
            learner._current_progress_remaining = 1.0
            np.random.seed(11)  # noqa: NPY002
            learner.train()
        assert torch.allclose(weights(plain), weights(same), rtol=0.0, atol=1e-6)

    def test_what_needs_the_closed_form_is_refused_without_it(self) -> None:
        for changes in ({"masks": True}, {"compile": "default"}):
            with pytest.raises(ValueError, match=rf"{next(iter(changes))}.*accepted is a MlpPolicy of the library's own"):
                TensorPPO(OwnPolicy, vec(), n_steps=16, batch_size=16, device="cpu", **changes)
        with pytest.raises(ValueError, match="compile = 'default'"):
            model(env=vec(action="continuous"), compile="default")

    def test_the_same_seed_learns_the_same_and_another_one_does_not(self) -> None:
        found = []
        for seed in (1, 1, 2):
            learner = model(seed=seed)
            learner.env.seed(4)
            found.append(weights(learner.learn(8 * 32)))
        assert torch.equal(found[0], found[1]) and not torch.equal(found[0], found[2])

    def test_other_environments_are_collected_as_the_library_does(self) -> None:
        found = []
        for kind in (TensorPPO, PPO):
            learner = kind("MlpPolicy", make_vec_env("CartPole-v1", 4, seed=0), n_steps=32, batch_size=64, seed=0, device="cpu")
            found.append(weights(learner.learn(256)))
        assert torch.allclose(*found, atol=1e-5)

    @pytest.mark.parametrize("precision, compile_", [("bf16", "off"), pytest.param("float32", "default", marks=pytest.mark.slow)])
    def test_options_of_execution_learn_nearly_the_same(self, precision: str, compile_: str) -> None:
        options = {"precision": precision, "compile": compile_}
        found = []
        for changes in ({}, options):
            learner = model(learning_rate=1e-3, **changes)
            learner.env.seed(4)
            before = weights(learner)
            found.append(weights(learner.learn(8 * 16)) - before)
        assert float(nn.functional.cosine_similarity(*found, dim=0)) > (0.9 if precision == "bf16" else 0.9999)

    def test_the_rollout_is_allocated_once(self) -> None:
        learner = model()
        learner.learn(8 * 16)
        places = [tensor.data_ptr() for tensor in (learner.rollout_buffer.observations, learner.rollout_buffer.rewards)]
        learner.learn(8 * 32, reset_num_timesteps=False)
        buffer = learner.rollout_buffer
        assert [buffer.observations.data_ptr(), buffer.rewards.data_ptr()] == places
        fields, components = learner.observation_space.shape[0], len(learner.action_space.nvec)
        assert buffer.bytes == 8 * (17 * fields * 4 + 16 * components * 8 + 16 * 4 + 17 * 4 + 16 * 16)


def _silent(learner: PPO) -> BaseCallback:
    class Nothing(BaseCallback):
        def _on_step(self) -> bool:
            return True

    callback = Nothing()
    callback.init_callback(learner)
    return callback


# ---------------------------------------------------------------------------------------------------------------- masks
class TestMasks:
    @pytest.mark.parametrize("id_", ["ArbFlash-v0", "ArbCross-v0"])
    @pytest.mark.parametrize("action", ["multidiscrete", "discrete"])
    def test_what_is_not_allowed_is_never_taken(self, id_: str, action: str) -> None:
        learner = model(env=vec(64, id_, action=action), masks=True, batch_size=256)
        learner.learn(64 * 32)
        buffer = learner.rollout_buffer
        components = Components.of(learner.action_space, torch.device("cpu"))
        assert components is not None and buffer.masks is not None
        assert not buffer.masks.all(), "nothing was forbidden, so nothing was tested"
        places = components.places(buffer.actions.flatten(0, 1).t())
        assert buffer.masks.flatten(0, 1).t().gather(0, places).all()

    @pytest.mark.parametrize("action", ["multidiscrete", "discrete"])
    def test_probabilities_and_entropy_are_sb3_contribs(self, action: str) -> None:
        contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib (extra test) is not installed")
        ours = model(env=vec(action=action), masks=True)
        theirs = contrib.MaskablePPO(
            "MlpPolicy", vec(action=action), policy_kwargs={"net_arch": [16, 16], "activation_fn": nn.ReLU}
        )
        theirs.policy.load_state_dict(ours.policy.state_dict())
        ours.learn(8 * 16)
        ours.policy.load_state_dict(theirs.policy.state_dict())
        ours.collect_rollouts(ours.env, _silent(ours), ours.rollout_buffer, 16)
        buffer = ours.rollout_buffer
        observations, actions, masks = (part.flatten(0, 1) for part in (buffer.observations[:-1], buffer.actions, buffer.masks))
        flat = actions if action == "multidiscrete" else actions.flatten()
        with torch.no_grad():
            _, log_probabilities, entropy = theirs.policy.evaluate_actions(observations, flat, action_masks=masks)
            components = Components.of(ours.action_space, torch.device("cpu"))
            log_p = components.log_probabilities(ours._update.logits(observations), masks.t())
        assert torch.allclose(buffer.log_probs.flatten(), log_probabilities, atol=1e-5)
        assert torch.allclose(components.entropy(log_p.exp(), log_p).sum(0), entropy, atol=1e-5)
        expected = theirs.predict(observations.numpy(), deterministic=True, action_masks=masks.numpy())[0]
        assert np.array_equal(ours.predict(observations.numpy(), deterministic=True, action_masks=masks.numpy())[0], expected)

    def test_sb3_contrib_learns_on_the_native_batch(self) -> None:
        contrib = pytest.importorskip("sb3_contrib", reason="sb3-contrib (extra test) is not installed")
        learner = contrib.MaskablePPO("MlpPolicy", vec(), n_steps=8, batch_size=32, device="cpu").learn(64, use_masking=True)
        buffer = learner.rollout_buffer
        masks, actions = buffer.action_masks.reshape(64, -1).astype(bool), buffer.actions.reshape(64, -1).astype(int)
        starts = np.cumsum([0, *learner.action_space.nvec[:-1]])
        assert not masks.all() and np.take_along_axis(masks, actions + starts, axis=1).all()

    def test_masks_are_refused_where_there_are_none(self) -> None:
        with pytest.raises(ValueError, match="masks with the action space Box"):
            model(env=vec(action="continuous"), masks=True)
        cart = make_vec_env("CartPole-v1", 2)
        with pytest.raises(ValueError, match=r"masks with DummyVecEnv.*NativeVecEnv"):
            TensorPPO("MlpPolicy", cart, n_steps=8, batch_size=8, masks=True, device="cpu").learn(16)


# ------------------------------------------------------------------------------------------------------------ components
@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 7), min_size=1, max_size=5), st.integers(0, 2**31), st.booleans())
def test_components_are_torchs_categoricals(sizes: list[int], seed: int, masked: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = 5.0 * torch.randn(sum(sizes), 6, generator=generator)
    masks = torch.rand(logits.shape, generator=generator) < 0.5
    for part in torch.split(masks, sizes):
        part[0] = True
    components = Components(sizes, torch.device("cpu"))
    log_p = components.log_probabilities(logits, masks if masked else None)
    actions = components.sample(log_p)
    shown = logits.masked_fill(~masks, -1e8) if masked else logits
    for a, part in enumerate(torch.split(shown, sizes)):
        expected = torch.distributions.Categorical(logits=part.t())
        chosen = log_p.gather(0, components.places(actions))[a]
        assert torch.allclose(chosen, expected.log_prob(actions[a]), atol=1e-5)
        assert torch.allclose(components.entropy(log_p.exp(), log_p)[a], expected.entropy(), atol=1e-5)
        if masked:
            assert torch.split(masks, sizes)[a].gather(0, actions[a][None]).all()


def test_draws_have_their_probabilities() -> None:
    torch.manual_seed(0)
    logits = torch.tensor([0.3, -1.0, 2.0, 0.0, 1.0])
    components = Components([3, 2], torch.device("cpu"))
    log_p = components.log_probabilities(logits[:, None].expand(-1, 200_000).contiguous())
    drawn = components.sample(log_p)
    for actions, part in zip(drawn, torch.split(logits, [3, 2]), strict=True):
        shares = torch.bincount(actions, minlength=len(part)).double() / 200_000
        assert torch.allclose(shares, part.softmax(0).double(), atol=0.005)  # four deviations


# ---------------------------------------------------------------------------------------------------------------- ranks
@pytest.mark.parametrize("learner", ["ppo"])
def test_two_ranks_agree_and_learn_what_one_learns(learner: str, tmp_path: Path) -> None:
    """Bit-equal weights on both ranks; one update by two halves of a rollout is the update by the whole."""
    script = Path(__file__).with_name("ranks.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script), str(tmp_path)]
    root = str(Path(__file__).parents[2])
    done = subprocess.run(
        command, env={**os.environ, "PYTHONPATH": root, "OMP_NUM_THREADS": "1"}, capture_output=True, timeout=300
    )
    assert done.returncode == 0, done.stderr.decode()
    first, second = (torch.load(tmp_path / f"rank_{rank}.pt") for rank in range(2))
    assert torch.equal(first["learned"], second["learned"]), "the ranks' weights differ"
    assert first["steps"] == second["steps"] == 2 * 4 * 32
    assert not torch.equal(first["observations"], second["observations"]), "both ranks saw the same worlds"
    assert torch.equal(first["updated"], second["updated"])
    assert torch.allclose(first["updated"], first["by_one"], atol=1e-6)


def test_a_multi_discrete_space_of_more_axes_has_no_components() -> None:
    assert Components.of(spaces.MultiDiscrete(np.array([[2, 3], [4, 5]])), torch.device("cpu")) is None
