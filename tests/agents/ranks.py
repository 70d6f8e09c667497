"""What each of two ranks does in ``test_tensor_ppo``: learns, and updates by its half of one rollout."""

from __future__ import annotations

import sys
from copy import deepcopy
from pathlib import Path
from typing import Any

import gymnasium as gym
import torch
from stable_baselines3.common.logger import Logger

from agents.distributed import Ranks
from agents.tensor_ppo import TensorPPO
from agents.vec import NativeVecEnv


def learner(num_envs: int, batch: int, **changes: Any) -> TensorPPO:
    env = NativeVecEnv(gym.make_vec("ArbFlash-v0", num_envs=num_envs, episode_blocks=9))  # type: ignore[arg-type]
    return TensorPPO("MlpPolicy", env, n_steps=16, batch_size=batch, n_epochs=2, gamma=0.9, seed=3, device="cpu", **changes)


def weights(model: TensorPPO) -> torch.Tensor:
    return torch.cat([parameter.detach().flatten() for parameter in model.policy.parameters()])


def main(folder: Path) -> None:
    ranks = Ranks.from_environment()
    ranks.join(torch.device("cpu"))
    whole = learner(8, 8 * 16)  # the same on both ranks: nobody is asked
    whole.env.seed(5)
    whole.learn(8 * 16)
    half = learner(4, 4 * 16, ranks=ranks)
    half.set_parameters(deepcopy(whole.get_parameters()))
    half.learn(2 * 4 * 32)
    found = {"learned": weights(half), "steps": half.num_timesteps, "observations": half.rollout_buffer.observations.clone()}

    half.set_parameters(deepcopy(whole.get_parameters()))
    mine = slice(4 * ranks.rank, 4 * ranks.rank + 4)
    for name in ("observations", "actions", "rewards", "episode_starts", "_numbers"):
        getattr(half.rollout_buffer, name).copy_(getattr(whole.rollout_buffer, name)[:, mine])
    for model in (whole, half):
        model.set_logger(Logger(None, []))
        model._current_progress_remaining = 1.0
        model.train()
    torch.save({**found, "updated": weights(half), "by_one": weights(whole)}, folder / f"rank_{ranks.rank}.pt")
    ranks.leave()
    threads = [comm.read_text().strip() for comm in Path("/proc/self/task").glob("*/comm")]  # none but on Linux
    assert not any("gloo" in name for name in threads), f"an interpreter taken down beneath these can abort: {threads}"


if __name__ == "__main__":
    main(Path(sys.argv[1]))
