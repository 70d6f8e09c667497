"""The kernels that ``device="cuda"`` launches compile for CUDA: to PTX, without a GPU. Needs the extra ``cuda``."""

from __future__ import annotations

import re
import types
from typing import Any

import pytest

import arbgym
from arbgym import cuda_engine
from arbgym.engine import NativeVectorEnv

pytest.importorskip("numba_cuda", reason="numba-cuda (extra cuda) is not installed")
pathfinder = pytest.importorskip("cuda.pathfinder", reason="the CUDA bindings (extra cuda) are not installed")

# a multiply or an add without rounding mode, which the assembler may fuse with its neighbour
FUSIBLE = re.compile(r"\b(?:mul|add|sub)\.f64\b")
LOCAL_BYTES = re.compile(r"\.local\s.*?\[(\d+)\]")


@pytest.fixture(autouse=True)
def compiler_libraries() -> None:
    """Skip where the compiler's libraries are missing; no driver and no device is needed."""
    for name in ("nvrtc", "nvvm"):
        try:
            pathfinder.load_nvidia_dynamic_lib(name)
        except pathfinder.DynamicLibNotFoundError:
            pytest.skip(f"the CUDA compiler library {name} (extra cuda) is not installed")


@pytest.fixture(autouse=True)
def hopper(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel called by a kernel asks the device for its capability: answer for Hopper, no device is there."""
    from numba.cuda import dispatcher

    monkeypatch.setattr(dispatcher, "get_current_device", lambda: types.SimpleNamespace(compute_capability=(9, 0)))


def ptx_of(function: Any, signature: Any) -> str:
    from numba import cuda

    with cuda_engine.separate_rounding():
        ptx, _ = cuda.compile_ptx(function, (signature,), cc=(9, 0))
    assert ".target sm_90" in ptx and ptx.count(".entry") == 1
    return str(ptx)


@pytest.mark.parametrize(
    "id_",
    [pytest.param(id_, marks=[] if id_ == "ArbFlash-v0" else [pytest.mark.slow]) for id_ in sorted(arbgym.ENVIRONMENTS)],
)
def test_reset_and_step_compile_to_ptx_and_round_as_on_the_cpu(id_: str) -> None:
    core = NativeVectorEnv(arbgym.ENVIRONMENTS[id_], 2).core
    ptx = ptx_of(cuda_engine.kernels(core.definition).advance, cuda_engine.advance_signature(core))
    assert "mul.rn.f64" in ptx and not FUSIBLE.search(ptx)
    # a thread's variables stay in registers: what it keeps in memory, times a million threads, would count
    assert sum(int(size) for size in LOCAL_BYTES.findall(ptx)) <= 512


@pytest.mark.parametrize("id_", sorted(arbgym.ENVIRONMENTS))
def test_action_masks_compile_to_ptx(id_: str) -> None:
    core = NativeVectorEnv(arbgym.ENVIRONMENTS[id_], 2).core
    function = cuda_engine.kernels(core.definition).allow
    if function is None:
        assert core.definition.mask is None
        return
    assert ".entry" in ptx_of(function, cuda_engine.allow_signature(core))


@pytest.mark.slow
@pytest.mark.parametrize("id_", sorted(arbgym.ENVIRONMENTS))
def test_continuous_actions_compile_to_ptx(id_: str) -> None:
    core = NativeVectorEnv(arbgym.ENVIRONMENTS[id_], 2, action="continuous").core
    ptx = ptx_of(cuda_engine.kernels(core.definition).advance, cuda_engine.advance_signature(core))
    assert not FUSIBLE.search(ptx)
