"""Run in a process of its own under numba-cuda's simulator: CUDA's engine beside the CPU's, row for row and bit for bit.

``python tests/envs/cuda_parity.py MODULE [ACTION ...]`` exits with 0 where they agree.
"""

from __future__ import annotations

import sys
from typing import Any

import numpy as np
import torch

from arbgym import cuda_engine
from arbgym.cuda_engine import CudaVectorEnv
from arbgym.data import read_tape, sample_tape_path
from arbgym.engine import NativeVectorEnv

ROWS = 5
RECORDED = ("arbgym.envs.flash", "arbgym.envs.cross")  # what the sample tape replays


def agree(cpu: NativeVectorEnv, gpu: CudaVectorEnv) -> None:
    """Every public buffer holds the same bits."""
    for name in ("observations", "final_observations", "rewards", "terminated", "truncated", "episode_return", "episode_length"):
        array, tensor = getattr(cpu, name), getattr(gpu, name)
        assert torch.from_numpy(array).dtype == tensor.dtype and tuple(tensor.shape) == array.shape, name
        assert np.array_equal(array, tensor.cpu().numpy()), name
    for name, column in cpu.info.items():
        assert np.array_equal(column, gpu.info[name].cpu().numpy()), name
    if cpu.core.encoding != "continuous":
        assert np.array_equal(cpu.action_masks(), gpu.action_masks().cpu().numpy())


def play(module: str, steps: int, **arguments: Any) -> None:
    """Seeds, steps, autoresets, a masked reset, a list of seeds, and decisions."""
    cpu, gpu = NativeVectorEnv(module, ROWS, **arguments), CudaVectorEnv(module, ROWS, **arguments)
    cpu.action_space.seed(1)

    def reset(**options: Any) -> None:
        assert np.array_equal(cpu.reset(**options)[0], gpu.reset(**options)[0].cpu().numpy())
        agree(cpu, gpu)

    def advance(count: int) -> int:
        finished = 0
        for k in range(count):
            actions = cpu.action_space.sample()
            expected = cpu.step(actions)
            got = gpu.step(actions if k % 2 else torch.from_numpy(actions))
            for array, tensor in zip(expected[:4], got[:4], strict=True):
                assert np.array_equal(array, tensor.cpu().numpy())
            agree(cpu, gpu)
            done = expected[2] | expected[3]
            finished += int(done.sum())
            if "final_obs" in expected[4]:
                assert np.array_equal(got[4]["_final_obs"].cpu().numpy(), done)
                assert np.array_equal(got[4]["final_obs"].cpu().numpy()[done], expected[4]["final_obs"][done])
        return finished

    reset(seed=11)
    assert advance(steps) > 0, "no episode ended: the comparison would not see an autoreset"
    reset(options={"reset_mask": np.array([True, False, True, False, False])})
    advance(steps // 4)
    reset(seed=[4, None, 6, None, 8])
    reset()
    advance(steps // 4)
    decisions = np.array([[choice.values[k % len(choice.values)] for choice in cpu.definition.action] for k in range(ROWS)])
    cpu.step_decisions(decisions)
    gpu.step_decisions(torch.from_numpy(decisions))
    agree(cpu, gpu)


def main(module: str, actions: list[str], arguments: dict[str, Any]) -> None:
    assert cuda_engine._simulated()
    for action in actions:
        play(module, 40, action=action, **arguments)
    for autoreset in ("next_step", "disabled"):
        play(module, 40, action=actions[0], autoreset=autoreset, **arguments)
    if module in RECORDED:
        play(module, 40, action=actions[0], feed="replay", tape=read_tape(sample_tape_path()), **arguments)


if __name__ == "__main__":
    episode = {} if sys.argv[1].endswith("cuda_toy") else {"episode_blocks": 9}
    main(sys.argv[1], sys.argv[2:], episode)
