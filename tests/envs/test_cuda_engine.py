"""``device="cuda"``: what it refuses, what it weighs, and that it plays as the CPU does.

Without a GPU numba-cuda's simulator plays it: it runs the launch, the rows of each thread, buffers, seeds, resets and tensors as
they are, with the environment's kernels compiled for the CPU. It says nothing of code generation (see ``test_cuda.py``) nor of
streams and device memory, which the last tests see where there is a GPU.
"""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
import pytest

import arbgym
from arbgym import cuda_engine
from arbgym.engine import NativeVectorEnv
from arbgym.spec import ENCODINGS

IDS = sorted(arbgym.ENVIRONMENTS)
ROOT = Path(__file__).parents[2]
HAS_PACKAGES = all(importlib.util.find_spec(name) is not None for name in ("torch", "numba_cuda"))
simulator = pytest.mark.skipif(not HAS_PACKAGES, reason="numba-cuda (extra cuda) or torch (extra train) is not installed")


def has_gpu() -> bool:
    if not HAS_PACKAGES:
        return False
    import torch

    return torch.cuda.is_available()


gpu = pytest.mark.skipif(not has_gpu(), reason="no CUDA GPU with a CUDA build of torch and numba-cuda here")


def simulate(*arguments: str) -> None:
    """``cuda_parity`` in a process of its own: numba chooses between GPU and simulator once, when it is imported."""
    command = [sys.executable, str(ROOT / "tests/envs/cuda_parity.py"), *arguments]
    environment = {**os.environ, "NUMBA_ENABLE_CUDASIM": "1", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-4000:]


@simulator
@pytest.mark.slow
def test_simulated_threads_play_as_the_cpu_does_bit_for_bit() -> None:
    simulate("tests.envs.cuda_toy", *ENCODINGS)


@simulator
@pytest.mark.slow
@pytest.mark.parametrize("id_", IDS)
def test_simulated_threads_play_every_environment_bit_for_bit(id_: str) -> None:
    simulate(arbgym.ENVIRONMENTS[id_], *ENCODINGS)


@pytest.mark.parametrize("device", ["tpu", "gpu", "cuda:", "cuda:x", "CUDA", None])
def test_another_device_is_refused(device: Any) -> None:
    with pytest.raises(ValueError, match=r"device = .*accepted are 'cpu', 'cuda'"):
        gym.make_vec("ArbFlash-v0", num_envs=2, device=device)


def test_cpu_is_the_default() -> None:
    assert type(gym.make_vec("ArbFlash-v0", num_envs=2)) is NativeVectorEnv
    assert type(gym.make_vec("ArbFlash-v0", num_envs=2, device="cpu")) is NativeVectorEnv


@pytest.mark.parametrize(("module", "name"), [("torch", "PyTorch"), ("numba_cuda", "numba-cuda")])
def test_a_missing_package_is_named_with_what_installs_it(module: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda asked, *rest: None if asked == module else object())
    with pytest.raises(ImportError, match=rf"device = 'cuda' needs {name}.*pip install 'arbgym\[train,cuda\]'"):
        gym.make_vec("ArbFlash-v0", num_envs=2, device="cuda")


@simulator
def test_a_build_of_torch_without_cuda_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", None)
    with pytest.raises(RuntimeError, match="needs a PyTorch built for CUDA"):
        gym.make_vec("ArbFlash-v0", num_envs=2, device="cuda")


@simulator
def test_a_missing_gpu_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(RuntimeError, match="needs an NVIDIA GPU with its driver"):
        gym.make_vec("ArbFlash-v0", num_envs=2, device="cuda:1")


def test_importing_the_engines_imports_neither_torch_nor_numba_cuda() -> None:
    heavy = "[name for name in ('torch', 'numba.cuda.dispatcher') if name in sys.modules]"
    code = f"import sys, arbgym, arbgym.engine, arbgym.cuda_engine; print({heavy})"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("id_", IDS)
@pytest.mark.parametrize("action", ENCODINGS)
def test_a_million_environments_fit_in_16_gib(id_: str, action: Any) -> None:
    module = arbgym.ENVIRONMENTS[id_]
    each = cuda_engine.bytes_per_environment(module, action)
    core = NativeVectorEnv(module, 8, action=action).core
    buffers = sum(buffer.nbytes for buffer in core.batch) - core.batch.scales.nbytes
    assert cuda_engine.bytes_per_environment(module, action, masks=False) * 8 == buffers
    assert each * 1_048_576 < 16 * 2**30


@gpu
@pytest.mark.parametrize("id_", IDS)
def test_a_gpu_plays_as_the_cpu_does_for_a_thousand_steps(id_: str) -> None:
    cpu: Any = gym.make_vec(id_, num_envs=256)
    device: Any = gym.make_vec(id_, num_envs=256, device="cuda")
    np.testing.assert_allclose(device.reset(seed=5)[0].cpu().numpy(), cpu.reset(seed=5)[0], rtol=1e-6)
    cpu.action_space.seed(5)
    for _ in range(1_000):
        actions = cpu.action_space.sample()
        cpu.step_in_place(actions)
        device.step_in_place(actions)
        np.testing.assert_allclose(device.rewards.cpu().numpy(), cpu.rewards, rtol=1e-9, atol=1e-12)
        for name in ("terminated", "truncated", "episode_length"):
            assert np.array_equal(getattr(device, name).cpu().numpy(), getattr(cpu, name))
    np.testing.assert_allclose(device.episode_return.cpu().numpy(), cpu.episode_return, rtol=1e-9, atol=1e-12)
    for name, column in cpu.info.items():
        np.testing.assert_allclose(device.info[name].cpu().numpy(), column, rtol=1e-9, atol=1e-12)


@gpu
def test_a_gpu_draws_the_same_random_bits() -> None:
    import torch
    from numba import cuda

    from arbgym.rng import philox, uniform2

    @cuda.jit
    def draw(words: Any, uniforms: Any) -> None:
        i = cuda.grid(1)
        if i < words.shape[0]:
            words[i, 0], words[i, 1], words[i, 2], words[i, 3] = philox(i, 2, 3, 4, 5, 6)
            uniforms[i, 0], uniforms[i, 1] = uniform2(i, 7, 8, 9)

    words = torch.zeros((1000, 4), dtype=torch.int64, device="cuda")
    uniforms = torch.zeros((1000, 2), dtype=torch.float64, device="cuda")
    draw[16, 64](cuda.as_cuda_array(words), cuda.as_cuda_array(uniforms))
    assert [tuple(row) for row in words.tolist()] == [philox(i, 2, 3, 4, 5, 6) for i in range(1000)]
    assert [tuple(row) for row in uniforms.tolist()] == [uniform2(i, 7, 8, 9) for i in range(1000)]


@gpu
def test_tensors_are_the_kernels_own_memory() -> None:
    env: Any = gym.make_vec("ArbFlash-v0", num_envs=64, device="cuda", copy=False)
    observations, _ = env.reset(seed=0)
    before = observations.clone()
    pointers = {name: getattr(env, name).data_ptr() for name in ("observations", "rewards", "terminated", "final_observations")}
    env.step_in_place(env.action_space.sample())
    assert observations.is_cuda and not bool((observations == before).all())
    for name, pointer in pointers.items():
        assert getattr(env, name).data_ptr() == pointer
        assert getattr(env, name).__cuda_array_interface__["data"][0] == pointer
