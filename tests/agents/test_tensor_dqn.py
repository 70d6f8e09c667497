"""TensorDQN is the library's DQN: the same update, the same files, the same run for the same seed; and what it adds holds."""

from __future__ import annotations

import base64
import copy
import json
import os
import socket
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import DQN
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import IdentityEnv
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.logger import configure
from stable_baselines3.common.type_aliases import ReplayBufferSamples
from stable_baselines3.common.vec_env import VecNormalize
from torch import nn

from agents.distributed import Ranks
from agents.dqn import DQNRecipe
from agents.recipe import Execution
from agents.replay import ReplaySamples, TensorReplayBuffer
from agents.tensor_dqn import TensorDQN
from agents.vec import NativeVecEnv

N, ACTIONS, LENGTH = 16, 4, 10


class Told(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """A batch with the face of a native one: the observation says which action pays 1. Every third environment's episodes are
    cut off after LENGTH steps, the others end there; the first ones are shorter, so that not all end at once. The last action is
    never allowed.
    """

    def __init__(self, num_envs: int = N, fields: int = ACTIONS, staggered: bool = True) -> None:
        self.metadata = {"autoreset_mode": "same_step"}
        self.num_envs = num_envs
        self.single_observation_space = spaces.Box(-1.0, 1.0, (fields,), np.float32)
        self.single_action_space = spaces.Discrete(ACTIONS)
        self.observations = np.zeros((num_envs, fields), np.float32)
        self.final_observations = self.observations.copy()
        self.rewards = np.zeros(num_envs)
        self.terminated, self.truncated = np.zeros(num_envs, bool), np.zeros(num_envs, bool)
        self.episode_return, self.episode_length = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._running, self._age = np.zeros(num_envs), np.zeros(num_envs, np.int64)
        self._staggered = staggered
        self.taken: list[np.ndarray] = []
        self.random = np.random.default_rng(0)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        if seed is not None:
            self.random = np.random.default_rng(seed)
        self._running[:], self._age[:] = 0.0, np.arange(self.num_envs) % LENGTH * self._staggered
        self._show(self.observations)
        return self.observations, {}

    def _show(self, target: np.ndarray) -> None:
        self._told = self.random.integers(ACTIONS - 1, size=self.num_envs)
        target[:] = 0.0
        target[np.arange(self.num_envs), self._told] = 1.0

    def step_in_place(self, actions: Any) -> None:
        actions = np.asarray(actions)
        self.taken.append(actions.copy())
        self.rewards[:] = actions == self._told
        self._running += self.rewards
        self._age += 1
        ended = self._age % LENGTH == 0
        cut = np.arange(self.num_envs) % 3 == 0
        self.terminated[:], self.truncated[:] = ended & ~cut, ended & cut
        self._show(self.observations)
        self.final_observations[ended] = -self.observations[ended]
        self.episode_return[ended], self.episode_length[ended] = self._running[ended], LENGTH
        self._running[ended] = 0.0

    def action_masks(self) -> np.ndarray:
        return np.tile(np.arange(ACTIONS) < ACTIONS - 1, (self.num_envs, 1))

    render_mode = None


def told(num_envs: int = N) -> NativeVecEnv:
    return NativeVecEnv(Told(num_envs))  # type: ignore[arg-type]


SMALL: dict[str, Any] = {
    "learning_rate": 3e-3,
    "buffer_size": 4_000,
    "learning_starts": 200,
    "batch_size": 64,
    "gamma": 0.5,
    "train_freq": 1,
    "gradient_steps": 2,
    "target_update_interval": 320,
    "exploration_fraction": 0.3,
    "policy_kwargs": {"net_arch": [32, 32], "activation_fn": nn.ReLU},
    "seed": 7,
    "device": "cpu",
}


def model(kind: type[DQN] = TensorDQN, env: Any = None, **named: Any) -> Any:
    return kind("MlpPolicy", env or told(), **{**SMALL, **named})


def filled(**named: Any) -> Any:
    """A model that has played and not learned."""
    made = model(learning_starts=10**6, **named)
    made.set_logger(configure(None, []))
    return made.learn(800, log_interval=None)


def weights(of: DQN) -> torch.Tensor:
    return torch.cat([parameter.detach().reshape(-1) for parameter in of.policy.parameters()])


class Recorded:
    """A replay buffer that hands out given samples, one batch after the other."""

    def __init__(self, samples: ReplaySamples, batch: int) -> None:
        parts = [None if part is None else part.split(batch) for part in samples[:6]]
        count = len(samples.indices) // batch
        self.batches = [ReplayBufferSamples(*(None if part is None else part[k] for part in parts)) for k in range(count)]

    def sample(self, batch_size: int, env: Any = None) -> ReplayBufferSamples:
        return self.batches.pop(0)


@pytest.mark.parametrize("steps_ahead", [1, 3])
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
@pytest.mark.parametrize("clip", [10.0, 0.05])
def test_updates_are_the_librarys(steps_ahead: int, activation: type[nn.Module], clip: float) -> None:
    policy = {"net_arch": [32, 32], "activation_fn": activation}
    ours = filled(n_steps=steps_ahead, policy_kwargs=policy, max_grad_norm=clip)
    stock = model(DQN, n_steps=steps_ahead, policy_kwargs=policy, max_grad_norm=clip)
    stock.set_logger(configure(None, []))
    stock.set_parameters(ours.get_parameters())
    ours._update_current_progress_remaining(0, 1)
    assert ours._update.closed_form == (activation is nn.ReLU)
    for updates in (1, 12):
        drawing = ours._generator.get_state()
        stock.replay_buffer = Recorded(ours.replay_buffer.sample(updates * 64), 64)
        ours._generator.set_state(drawing)
        before = weights(ours)
        ours.train(updates, 64)
        stock.train(updates, 64)
        assert (weights(ours) - weights(stock)).abs().max() < 1e-6
        assert (weights(ours) - before).abs().max() > 1e-3
        assert ours.logger.name_to_value["train/loss"] == pytest.approx(stock.logger.name_to_value["train/loss"], rel=1e-5)
        assert ours.logger.name_to_value["train/learning_rate"] == stock.logger.name_to_value["train/learning_rate"]


@pytest.mark.parametrize("tau", [1.0, 0.3])
def test_the_target_network_follows_as_the_librarys(tau: float) -> None:
    ours, stock = filled(tau=tau), model(DQN, tau=tau)
    stock.set_logger(configure(None, []))
    stock.set_parameters(ours.get_parameters())
    ours.train(3, 64)
    stock.set_parameters(ours.get_parameters())
    for one in (ours, stock):
        one._update_current_progress_remaining(1, 2)
        one._n_calls = 320 // N - 1
        one._on_step()
    assert torch.equal(weights(ours), weights(stock)) and ours.exploration_rate == stock.exploration_rate


def test_files_go_to_the_library_and_back(tmp_path: Path) -> None:
    ours = model(n_steps=2, prioritised=True, double=True, masks=True).learn(600, log_interval=None)
    ours.save(tmp_path / "ours")
    with zipfile.ZipFile(tmp_path / "ours.zip") as archive:
        data = json.loads(archive.read("data"))
    for name, value in data.items():
        if isinstance(value, dict) and ":serialized:" in value:
            assert b"agents" not in base64.b64decode(value[":serialized:"]), name
    assert data["prioritised"] is True
    observations = told().reset()
    expected, _ = ours.predict(observations, deterministic=True)
    stock = DQN.load(tmp_path / "ours", env=told(), device="cpu")
    assert type(stock) is DQN and np.array_equal(stock.predict(observations, deterministic=True)[0], expected)
    assert stock.num_timesteps == ours.num_timesteps
    stock.learn(400, log_interval=None, reset_num_timesteps=False)
    assert (weights(stock) - weights(ours)).abs().max() > 1e-4
    stock.save(tmp_path / "stock")
    again = TensorDQN.load(tmp_path / "stock", env=told(), device="cpu")
    assert (
        torch.equal(weights(again), weights(stock)) and again.prioritised and isinstance(again.replay_buffer, TensorReplayBuffer)
    )
    assert again.replay_buffer.n_steps == 2
    again.learn(400, log_interval=None, reset_num_timesteps=False)
    assert not torch.equal(weights(again), weights(stock)) and again.num_timesteps == 1_408
    fresh = model(DQN)
    fresh.save(tmp_path / "fresh")
    assert torch.equal(weights(TensorDQN.load(tmp_path / "fresh", device="cpu")), weights(fresh))


def test_a_file_of_other_spaces_is_refused(tmp_path: Path) -> None:
    model().save(tmp_path / "model")
    with pytest.raises(ValueError, match="Observation spaces do not match"):
        TensorDQN.load(tmp_path / "model", env=NativeVecEnv(Told(N, ACTIONS + 1)))  # type: ignore[arg-type]


def test_a_replay_file_comes_back_and_one_of_another_environment_does_not(tmp_path: Path) -> None:
    made = model(prioritised=True).learn(600, log_interval=None)
    made.save_replay_buffer(tmp_path / "replay")
    other = model(prioritised=True)
    other.load_replay_buffer(tmp_path / "replay")
    other._generator.set_state(made._generator.get_state())
    for one, two in zip(made.replay_buffer.sample(64), other.replay_buffer.sample(64), strict=True):
        assert (one is None and two is None) or torch.equal(one, two)
    rows = other.replay_buffer.steps
    other.learn(300, log_interval=None)
    assert other.replay_buffer.steps == rows + 19
    cut_off = other.replay_buffer.flags[rows - 1]
    assert (cut_off > 0).all()  # what was played before is not continued by another environment
    for wrong, message in (
        (model(), "prioritised = True; accepted is False"),
        (model(prioritised=True, masks=True), "masks = False; accepted is True"),
        (model(prioritised=True, env=told(8)), "n_envs = 16; accepted is 8"),
        (model(prioritised=True, env=NativeVecEnv(Told(N, 6))), "observation_space"),  # type: ignore[arg-type]
    ):
        before = wrong.replay_buffer
        with pytest.raises(ValueError, match=message):
            wrong.load_replay_buffer(tmp_path / "replay")
        assert wrong.replay_buffer is before


def test_the_same_seed_gives_the_same_run_bit_for_bit() -> None:
    for named in ({}, {"prioritised": True, "double": True, "acting_probability": 0.2, "masks": True}):
        one, two, three = (model(seed=seed, **named).learn(1_600, log_interval=None) for seed in (1, 1, 2))
        assert torch.equal(weights(one), weights(two)) and not torch.equal(weights(one), weights(three))


@pytest.mark.parametrize(
    "named", [{}, {"prioritised": True}, {"double": True, "n_steps": 2}, {"masks": True}, {"precision": "bf16"}]
)
def test_it_learns_to_do_as_told(named: dict[str, Any]) -> None:
    made = model(learning_rate=1e-2, **named).learn(4_800, log_interval=None)
    told_actions = np.eye(ACTIONS, dtype=np.float32)[: ACTIONS - 1]
    assert made.predict(told_actions, deterministic=True)[0].tolist() == [0, 1, 2]
    judge = NativeVecEnv(Told(4, staggered=False))  # type: ignore[arg-type]
    assert evaluate_policy(made, judge, n_eval_episodes=8, warn=False) == (LENGTH, 0.0)
    if not named:
        values = made._update.values(torch.from_numpy(told_actions)).amax(1)
        assert values.mean().item() == pytest.approx(1.9, abs=0.2)  # 1 + 0.5 + 0.25 + ..., but for the ends


@pytest.mark.parametrize("named", [{}, {"prioritised": True, "n_steps": 2}])
def test_other_environments_are_played_as_the_library_does(named: dict[str, Any]) -> None:
    env = make_vec_env(lambda: IdentityEnv(3, ep_length=20), n_envs=4)
    made = model(env=env, learning_rate=1e-2, **named).learn(1_600, log_interval=None)
    assert isinstance(made.replay_buffer, TensorReplayBuffer) and made.replay_buffer.size() == 400
    assert made.predict(np.arange(3), deterministic=True)[0].tolist() == [0, 1, 2]
    with pytest.raises(ValueError, match="masks with DummyVecEnv"):
        model(env=env, masks=True).learn(10)


def test_normalised_environments_are_sampled_normalised() -> None:
    env = VecNormalize(make_vec_env("CartPole-v1", n_envs=2))
    made = model(env=env, learning_starts=50).learn(200, log_interval=None)
    raw = made.replay_buffer.sample(64)
    made._generator.manual_seed(0)
    raw = made.replay_buffer.sample(64)
    made._generator.manual_seed(0)
    normalised = made.replay_buffer.sample(64, env)
    assert np.allclose(normalised.observations.numpy(), env.normalize_obs(raw.observations.numpy()))
    assert np.allclose(normalised.rewards.numpy(), env.normalize_reward(raw.rewards.numpy()), atol=1e-6)


class Watching(BaseCallback):
    """Looks on."""

    def __init__(self, stop_after: int | None = None) -> None:
        super().__init__()
        self.rewards: list[float] = []
        self.ends: list[dict[str, Any]] = []
        self.stop_after = stop_after

    def _on_step(self) -> bool:
        seen = self.locals
        assert seen["new_obs"].shape == (N, ACTIONS) and len(seen["infos"]) == len(seen["dones"]) == N
        self.rewards.append(float(seen["rewards"].sum()))
        self.ends += [info["episode"] for info, done in zip(seen["infos"], seen["dones"], strict=True) if done]
        return self.stop_after is None or len(self.rewards) < self.stop_after


def test_callbacks_and_the_log_see_each_step_of_all_environments() -> None:
    made, watching = model(stats_window_size=20), Watching()
    made.set_logger(logger := configure(None, []))
    dumped: list[dict[str, Any]] = []
    dump = logger.dump
    logger.dump = lambda step=0: (dumped.append(dict(logger.name_to_value)), dump(step))[1]  # type: ignore[method-assign,assignment]
    made.learn(640, callback=watching, log_interval=8)
    assert len(watching.rewards) == 640 // N and made.num_timesteps == 640
    assert len(watching.ends) == made._episode_num == 4 * N
    newest = [end["r"] for end in watching.ends[-20:]]
    assert [info["r"] for info in made.ep_info_buffer] == newest
    assert dumped[-1]["rollout/ep_rew_mean"] == pytest.approx(np.mean(newest)) and dumped[-1]["rollout/ep_len_mean"] == LENGTH
    assert {"train/loss", "train/learning_rate", "rollout/exploration_rate", "time/fps"} <= set(dumped[-1])
    made.learn(640, callback=Watching(stop_after=3), reset_num_timesteps=False)
    assert made.num_timesteps == 640 + 3 * N


def test_learning_goes_on_where_it_stopped_and_a_reset_cuts_episodes_off() -> None:
    made = model().learn(320, log_interval=None)
    flags = made.replay_buffer.flags[19].clone()
    made.learn(320, log_interval=None, reset_num_timesteps=False)
    assert torch.equal(made.replay_buffer.flags[19], flags) and (flags == 0).any()
    made.learn(320, log_interval=None)
    assert (made.replay_buffer.flags[39] > 0).all()


def test_every_environment_explores_by_itself_and_only_what_is_allowed() -> None:
    env = told(512)
    made = model(env=env, masks=True, learning_starts=10**6, acting_probability=0.3, batch_size=8)
    made.learn(512 * 20, log_interval=None)
    taken = np.stack(env.env.taken)  # type: ignore[attr-defined]
    assert set(np.unique(taken)) == {0, 1, 2}
    assert [(taken == action).mean() for action in range(3)] == pytest.approx([0.7, 0.15, 0.15], abs=0.02)
    free = told(512)
    model(env=free, learning_starts=10**6, batch_size=8).learn(512 * 20, log_interval=None)
    shares = np.bincount(np.stack(free.env.taken).ravel()) / (512 * 20)  # type: ignore[attr-defined]
    assert shares == pytest.approx([0.25] * 4, abs=0.02)
    greedy, half = told(512), model(env=env, masks=True)
    half.exploration_rate = 0.5
    observations = greedy.reset()
    best, _ = half.predict(observations, deterministic=True, action_masks=greedy.action_masks())
    some, _ = half.predict(observations, action_masks=greedy.action_masks())
    assert (best < 3).all() and (some < 3).all() and (best != some).mean() == pytest.approx(0.5 * 2 / 3, abs=0.08)


def test_the_next_action_is_a_valid_one_and_with_double_the_learning_networks_choice() -> None:
    made = filled(double=True, masks=True)
    with torch.no_grad():
        for parameter in made.q_net_target.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    samples = made.replay_buffer.sample(500)
    masks = torch.rand(500, ACTIONS, generator=torch.Generator().manual_seed(1)) < 0.6
    masks[:, 2] |= ~masks.any(1)
    samples = samples._replace(next_masks=masks)
    with torch.no_grad():
        online, target = made.q_net(samples.next_observations), made.q_net_target(samples.next_observations)
    best = torch.where(masks, online, -torch.inf).argmax(1, keepdim=True)
    expected = samples.rewards + 0.5 * (1.0 - samples.dones) * target.gather(1, best)
    assert torch.allclose(made._update.targets(samples), expected, atol=1e-6)
    plain = filled(masks=True)
    plain.policy.load_state_dict(made.policy.state_dict())
    highest = torch.where(masks, target, -torch.inf).amax(1, keepdim=True)
    expected = samples.rewards + 0.5 * (1.0 - samples.dones) * highest
    assert torch.allclose(plain._update.targets(samples), expected, atol=1e-6)
    assert not torch.allclose(made._update.targets(samples), expected, atol=1e-2)


def test_priorities_are_the_last_errors_and_weights_enter_the_loss() -> None:
    for activation in (nn.ReLU, nn.Tanh):
        made = filled(prioritised=True, alpha=0.5, beta=0.4, policy_kwargs={"net_arch": [32], "activation_fn": activation})
        made._update_current_progress_remaining(1, 2)
        made.replay_buffer.update_priorities(torch.arange(800), torch.linspace(0.1, 4.0, 800))
        made.replay_buffer.beta = 0.7  # half way from 0.4 to 1
        drawing = made._generator.get_state()
        samples = made.replay_buffer.sample(64)
        made._generator.set_state(drawing)
        errors = made.q_net(samples.observations).gather(1, samples.actions) - made._update.targets(samples)
        huber = nn.functional.huber_loss(errors, torch.zeros_like(errors), reduction="none")
        made.train(1, 64)
        assert made.logger.name_to_value["train/loss"] == pytest.approx((samples.weights * huber).mean().item(), rel=1e-4)
        found = made.replay_buffer.tree.weights(samples.indices)
        assert torch.allclose(found, errors.detach()[:, 0].abs().add(1e-6).sqrt(), rtol=1e-3)


@pytest.mark.parametrize(
    ("named", "message"),
    [
        ({"alpha": 2.0}, "alpha = 2.0; accepted is 0 to 1"),
        ({"beta": -1.0}, "beta = -1.0; accepted is 0 to 1"),
        ({"acting_probability": 1.5}, "acting_probability = 1.5"),
        ({"batch_size": 5_000}, "batch = 5000 with a buffer of 4000"),
        ({"buffer_size": 10**15}, "accepted is a buffer that fits into memory"),
        ({"optimize_memory_usage": True, "prioritised": True}, "optimize_memory_usage = True"),
    ],
)
def test_what_cannot_be_is_refused(named: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        model(**named)


RECIPE = DQNRecipe(environments=N, batch=64, buffer=4_000, learning_starts=200, gamma=0.5, hidden=(32, 32), target_interval=320)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"alpha": 2.0}, "alpha = 2.0"),
        ({"beta": 2.0}, "beta = 2.0"),
        ({"batch": 5_000}, "batch = 5000 with a buffer of 4000"),
    ],
)
def test_a_recipe_refuses_them_too(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(RECIPE, **change)


def test_a_recipe_builds_both_learners_and_splits_what_can_be_split() -> None:
    built = replace(RECIPE, prioritised=True, alpha=0.5, double=True, masks=True).build(told(), seed=1)
    assert isinstance(built, TensorDQN) and built.prioritised and built.alpha == 0.5 and built.double and built.masks
    assert type(RECIPE.build(told(), seed=1, execution=Execution(learner="sb3"))) is DQN
    for name, change in (("batch", {"batch": 63}), ("buffer", {"buffer": 4_001}), ("environments", {"environments": 15})):
        with pytest.raises(ValueError, match=f"{name} = .* on 2 ranks; accepted is a multiple of 2"):
            replace(RECIPE, **change).build(told(), seed=1, execution=Execution(ranks=Ranks(0, 2)))
    with pytest.raises(ValueError, match="'sb3' with prioritised, masks; accepted with it is learner = 'arbgym'"):
        replace(RECIPE, prioritised=True, masks=True).build(told(), seed=1, execution=Execution(learner="sb3"))


@pytest.mark.slow
@pytest.mark.parametrize("activation", [nn.ReLU, nn.Tanh])
def test_a_compiled_update_is_the_same(activation: type[nn.Module]) -> None:
    policy = {"net_arch": [32], "activation_fn": activation}
    plain, compiled = filled(policy_kwargs=policy), filled(policy_kwargs=policy, compile="default")
    for one in (plain, compiled):
        one.train(5, 64)
    assert (weights(plain) - weights(compiled)).abs().max() < 1e-5


class Found(NamedTuple):
    """What a rank reports."""

    learned: torch.Tensor
    replayed: torch.Tensor
    averaged: torch.Tensor
    whole: torch.Tensor


def _rank(rank: int, port: int, folder: str) -> None:
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    ranks = Ranks(rank, 2, rank, 2)
    made = RECIPE.build(told(N // 2), seed=5, execution=Execution(ranks=ranks))
    made.set_logger(configure(None, []))
    made.learn(640, log_interval=None)
    assert made.num_timesteps == 640 and isinstance(made.replay_buffer, TensorReplayBuffer) and made.batch_size == 32
    learned, replayed = weights(made).clone(), made.replay_buffer.rewards.clone()
    alone = model(policy_kwargs=SMALL["policy_kwargs"], seed=11)  # the same on both ranks
    alone.set_parameters(copy.deepcopy(made.get_parameters()))  # optimizers do not copy what they are given
    batch = filled(seed=3).replay_buffer.transitions(torch.arange(64))
    targets = alone._update.targets(batch)
    half = slice(32 * rank, 32 * rank + 32)
    made._update.step(batch.observations[half], batch.actions[half], targets[half])  # type: ignore[attr-defined]
    alone._update.step(batch.observations, batch.actions, targets)
    torch.save(Found(learned, replayed, weights(made), weights(alone))._asdict(), Path(folder) / f"{rank}.pt")
    ranks.leave()


def test_two_ranks_stay_bit_equal_and_two_halves_are_one_whole(tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_rank, (port, str(tmp_path)), nprocs=2)  # type: ignore[no-untyped-call]
    first, second = (Found(**torch.load(tmp_path / f"{rank}.pt")) for rank in range(2))
    assert torch.equal(first.learned, second.learned)
    assert not torch.equal(first.replayed, second.replayed)  # each rank has played for itself
    assert torch.equal(first.averaged, second.averaged) and torch.equal(first.whole, second.whole)
    assert (first.averaged - first.whole).abs().max() < 1e-6 and (first.whole - first.learned).abs().max() > 1e-5


def test_a_training_that_goes_on_fills_its_replay_before_it_learns() -> None:
    """A checkpoint holds no replay: weights stand still until there is as much of it as before the first update."""
    recipe = DQNRecipe(environments=16, learning_starts=320, buffer=3_200, batch=32, hidden=(8,))
    env = NativeVecEnv(gymnasium.make_vec("ArbFlash-v0", num_envs=16, action="discrete", episode_blocks=9))
    learner = recipe.build(env, 0)
    learner.num_timesteps = 10_000
    before = copy.deepcopy(learner.q_net.state_dict())
    learner.learn(320 - 16, reset_num_timesteps=False)
    assert all(torch.equal(now, before[name]) for name, now in learner.q_net.state_dict().items())
    learner.learn(64, reset_num_timesteps=False)
    assert not all(torch.equal(now, before[name]) for name, now in learner.q_net.state_dict().items())
