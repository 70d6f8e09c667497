"""The kernels compile for CUDA unchanged: to PTX, without a GPU. Needs the extra ``cuda``."""

from __future__ import annotations

import types
from typing import Any

import numba
import pytest

import arbgym
from arbgym.engine import NativeVectorEnv

pytest.importorskip("numba_cuda", reason="numba-cuda (extra cuda) is not installed")
pathfinder = pytest.importorskip("cuda.pathfinder", reason="the CUDA bindings (extra cuda) are not installed")


@pytest.fixture(autouse=True)
def compiler_libraries() -> None:
    """Skip where the compiler's libraries are missing; no driver and no device is needed."""
    for name in ("nvrtc", "nvvm"):
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except pathfinder.DynamicLibNotFoundError:
            pytest.skip(f"the CUDA compiler library {name} (extra cuda) is not installed")


@pytest.mark.parametrize("id_", sorted(arbgym.ENVIRONMENTS))
@pytest.mark.parametrize("name", ["reset", "observe", "step"])
def test_kernels_compile_to_ptx(id_: str, name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from numba import cuda
    from numba.cuda import dispatcher

    # a kernel called by a kernel asks the device for its capability: answer for Hopper, no device is there
    monkeypatch.setattr(dispatcher, "get_current_device", lambda: types.SimpleNamespace(compute_capability=(9, 0)))
    env = NativeVectorEnv(arbgym.ENVIRONMENTS[id_], 2)
    reset, observe, step = env.definition.reset, env.definition.observe, env.definition.step
    batch = env.core.batch

    def reset_all(world: Any, state: Any) -> None:
        i = cuda.grid(1)
        if i < state.size:
            reset(world, state[i])

    def observe_all(world: Any, state: Any, observations: Any) -> None:
        i = cuda.grid(1)
        if i < state.size:
            observe(world, state[i], observations[i])

    def step_all(world: Any, state: Any, decisions: Any, info: Any, rewards: Any) -> None:
        i = cuda.grid(1)
        if i < state.size:
            rewards[i], _, _ = step(world, state[i], decisions[i], info[i])

    kernels = {
        "reset": (reset_all, (env.core.world, batch.state)),
        "observe": (observe_all, (env.core.world, batch.state, batch.observations)),
        "step": (step_all, (env.core.world, batch.state, batch.decisions, batch.info, batch.rewards)),
    }
    function, arguments = kernels[name]
    ptx, _ = cuda.compile_ptx(function, tuple(numba.typeof(argument) for argument in arguments), cc=(9, 0))
    assert ".target sm_90" in ptx and ".entry" in ptx
