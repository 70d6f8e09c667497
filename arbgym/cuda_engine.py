"""Runs an environment's kernels on a GPU: one CUDA thread per environment, every result a torch tensor on the device.

``gym.make_vec(id, num_envs=N, device="cuda")`` builds a ``CudaVectorEnv``. The loops that it launches are the CPU engine's own
(``engine._advance`` and ``engine._allow``); only the rows that one thread takes differ. Torch allocates every buffer and
numba-cuda sees the same memory, so nothing is copied between simulator and learner. Kernels go to torch's current stream, in
order with the learner's: neither waits for the other, and no step transfers anything to the host.

Needs the extra ``cuda`` (numba-cuda) and a CUDA build of torch; both are imported when an environment is built, not before.
Compiling an environment to PTX takes some 20 s; numba-cuda caches the result on disk, for each model of GPU.
"""

from __future__ import annotations

import importlib.util
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cache
from types import FunctionType
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numba
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from arbgym import engine
from arbgym.engine import Autoreset, Batch, Definition
from arbgym.spec import ActionTables, Encoding, action_space, observation_space

if TYPE_CHECKING:
    import torch

# A thread holds some 200 of a multiprocessor's 65,536 registers: small blocks leave the fewest of them idle.
THREADS_PER_BLOCK = 64
# Kept column by column: threads side by side write side by side, and the columns that a learner reads are contiguous.
_BY_COLUMN = ("decisions", "info")

_typeof: Any = numba.typeof

# Names that each definition's copies of the functions below find in their own globals; see ``kernels``.
cuda: Any = None
_loop: Any = None


def _rows(count: int) -> range:
    """The rows of one thread: what ``numba.prange`` is to the CPU's loops."""
    return range(cuda.grid(1), count, cuda.gridsize(1))


def _launched(arguments: Any) -> None:
    """A kernel; its arguments are one tuple because that is what numba-cuda can unpack in a call."""
    _loop(*arguments)


class Kernels(NamedTuple):
    """The Python functions that are compiled and launched; ``allow`` is None where nothing is ever masked."""

    advance: Callable[[Any], None]
    allow: Callable[[Any], None] | None


@cache
def kernels(definition: Definition) -> Kernels:
    """Copies of the engine's loops whose globals hold this definition's kernels.

    The digest of all sources in a copy's name is what the on-disk cache goes by, as on the CPU.
    """
    digest = engine.source_digest(str(definition.module.__file__))

    def kernel(loop: Callable[..., None]) -> Callable[[Any], None]:
        namespace: dict[str, Any] = {
            **vars(engine),
            "cuda": _numba_cuda(),
            "_scale_row": _callee(engine._scale_row),
            "_reset": _callee(definition.reset),
            "_observe": _callee(definition.observe),
            "_step": _callee(definition.step),
            "_mask": _callee(definition.mask),
        }

        def bound(function: Callable[..., Any], name: str) -> Any:
            copy = FunctionType(function.__code__.replace(co_name=name), namespace, name)
            copy.__qualname__ = name
            return copy

        namespace["_rows"] = _device_function(bound(_rows, "_rows"))
        namespace["_loop"] = _device_function(bound(loop, loop.__name__))
        entry: Callable[[Any], None] = bound(_launched, f"{loop.__name__}_cuda_{definition.id.replace('-', '_')}_{digest}")
        return entry

    return Kernels(kernel(engine._advance), None if definition.mask is None else kernel(engine._allow))


def _numba_cuda() -> Any:
    """The module, imported when it is needed; untyped, for its types are the simulator's."""
    from numba import cuda as module

    return module


def _simulated() -> bool:
    """Whether numba-cuda's simulator (``NUMBA_ENABLE_CUDASIM=1``) plays the GPU; the tensors then lie on the CPU."""
    config: Any = numba.config
    return bool(config.ENABLE_CUDASIM)


def _callee(kernel: Any) -> Any:
    """A kernel as the loop calls it; the simulator calls from Python, for which kernels have no wrapper, copies have one."""
    return engine.inlined(kernel) if _simulated() and kernel is not None else kernel


def _device_function(function: Callable[..., Any]) -> Any:
    """A function that kernels call; the simulator calls it as it is."""
    return function if _simulated() else _numba_cuda().jit(device=True, forceinline=True)(function)


@contextmanager
def separate_rounding() -> Iterator[None]:
    """Compile without fused multiply-adds, so that a GPU rounds as the CPU does.

    NVVM fuses by default, and numba-cuda 0.30 has no option to pass on: https://github.com/NVIDIA/numba-cuda/issues/118.
    """
    from numba.cuda.cudadrv import nvvm

    compile_ir: Any = nvvm.compile_ir
    nvvm.compile_ir = lambda code, **options: compile_ir(code, **{**options, "fma": False})
    try:
        yield
    finally:
        nvvm.compile_ir = compile_ir


@cache
def _compiled(function: Callable[[Any], None], signature: Any, device: torch.device) -> Any:
    """A kernel of a device, compiled or found on disk. With its types given, a launch does not ask for them again.

    Linked from PTX, because optimisation at link time would fuse multiplications and additions after all.
    """
    if device.type == "cpu":
        return _numba_cuda().jit((signature,))(function)
    with separate_rounding():
        return _numba_cuda().jit((signature,), cache=True, lto=False)(function)


def advance_signature(core: engine._Core) -> Any:
    """The Numba type of ``Kernels.advance``'s argument, the same for any number of environments."""
    layout = engine.batch_layout(core.definition, core.encoding, 2)
    buffers = {name: _strided(np.zeros, name, *buffer) for name, buffer in layout.items()}
    return _typeof((core.world, core.tables, 0, False, *Batch(**buffers, scales=core.scales)))


def allow_signature(core: engine._Core) -> Any:
    """The Numba type of ``Kernels.allow``'s argument."""
    masks = [np.zeros(*buffer) for buffer in engine.mask_layout(core.definition, core.encoding, 2).values()]
    return _typeof((core.world, 0, core.tables.sizes, core.places, np.zeros(2, core.definition.state), *masks))


def _strided(zeros: Callable[..., Any], name: str, shape: tuple[int, ...], dtype: Any) -> Any:
    """A buffer of one shape, in the order in which a device keeps it."""
    return zeros(shape[::-1], dtype=dtype).T if name in _BY_COLUMN else zeros(shape, dtype=dtype)


def bytes_per_environment(environment: str, action: Encoding = "multidiscrete", masks: bool = True) -> int:
    """Bytes of GPU memory of each environment of a module such as ``arbgym.envs.flash``: its state and its row of every buffer,
    those of the action masks among them unless ``masks`` is False.
    """
    definition = engine.load_definition(environment)
    layouts: list[engine.Layout] = [engine.batch_layout(definition, action, 1)]
    if masks and action != "continuous":
        layouts.append(engine.mask_layout(definition, action, 1))
    return sum(int(np.prod(shape)) * dtype.itemsize for layout in layouts for shape, dtype in layout.values())


def require_cuda(device: str) -> torch.device:
    """The torch device that ``device`` ("cuda" or "cuda:1") names, or an error that says what is missing and how to get it.

    Raises ImportError without torch or numba-cuda, RuntimeError without a CUDA build of torch, a driver or a GPU, and ValueError
    for a GPU that this machine does not have.
    """
    for module, name in (("torch", "PyTorch"), ("numba_cuda", "numba-cuda")):
        if importlib.util.find_spec(module) is None:
            raise ImportError(f"device = {device!r} needs {name}, which is not installed: pip install 'arbgym[train,cuda]'")
    import torch

    if _simulated():
        return torch.device("cpu")
    if torch.version.cuda is None:
        raise RuntimeError(
            f"device = {device!r} needs a PyTorch built for CUDA; this one, {torch.__version__}, is not: "
            "install one as https://pytorch.org/get-started/locally says"
        )
    if not torch.cuda.is_available():
        raise RuntimeError(
            f"device = {device!r} needs an NVIDIA GPU with its driver; PyTorch {torch.__version__} finds none: "
            "see whether nvidia-smi lists one and whether CUDA_VISIBLE_DEVICES hides it"
        )
    if not _numba_cuda().is_available():
        raise RuntimeError(f"device = {device!r}: PyTorch finds a GPU, numba-cuda does not: {_numba_cuda().cuda_error()}")
    index = torch.cuda.current_device() if device == "cuda" else int(device.removeprefix("cuda:"))
    count = torch.cuda.device_count()
    if index >= count:
        raise ValueError(f"device = {device!r}; accepted here are cuda and {', '.join(f'cuda:{k}' for k in range(count))}")
    return torch.device("cuda", index)


def _on_device(value: Any) -> Any:
    """A copy of the arrays in (nested) named tuples on the current GPU; numbers stay numbers."""
    if isinstance(value, tuple):
        return type(value)(*(_on_device(part) for part in value))
    return _numba_cuda().to_device(value) if isinstance(value, np.ndarray) and not _simulated() else value


def _array(tensor: torch.Tensor) -> Any:
    """The memory of a tensor as kernels see it."""
    return _numba_cuda().as_cuda_array(tensor) if tensor.is_cuda else tensor.numpy()


class CudaCore(engine._Core):
    """Buffers and kernels on a GPU. ``batch`` holds torch tensors, ``state`` among them as the bytes (N, size) of its rows."""

    def __init__(self, environment: str, num_envs: int, autoreset: Autoreset, device: str, **arguments: Any) -> None:
        self.device = require_cuda(device)
        super().__init__(environment, num_envs, autoreset, **arguments)

    def _prepare(self) -> None:
        import torch

        with self._selected():
            tensors = self._tensors(engine.batch_layout(self.definition, self.encoding, self.num_envs))
            tensors["scales"] = torch.from_numpy(self.scales).to(self.device)
            arrays = {name: _array(tensor) for name, tensor in tensors.items()}
            arrays["state"] = _array(tensors["state"].view(-1)).view(self.definition.state)
            self.batch: Any = Batch(**tensors)
            self._arrays = Batch(**arrays)
            self._world, self._sizes, self._placed = (_on_device(part) for part in (self.world, self.tables.sizes, self.places))
            self._tables: ActionTables = _on_device(self.tables)
            self._kernel = _compiled(kernels(self.definition).advance, advance_signature(self), self.device)
        words = tensors["state"].view(torch.int64)
        fields: Any = self.definition.state.fields
        self._seeds, self._episodes = words[:, fields["seed"][1] // 8], words[:, fields["episode"][1] // 8]
        self._configured: dict[tuple[Any, int], Any] = {}

    def _tensors(self, layout: engine.Layout) -> dict[str, Any]:
        """Zeroed buffers on the device."""
        import torch

        def zeros(shape: tuple[int, ...], dtype: np.dtype[Any]) -> torch.Tensor:
            if dtype.names is not None:
                return torch.zeros((*shape, dtype.itemsize), dtype=torch.uint8, device=self.device)
            return torch.zeros(shape, dtype=torch.from_numpy(np.zeros(0, dtype)).dtype, device=self.device)

        return {name: _strided(zeros, name, *buffer) for name, buffer in layout.items()}

    def _selected(self) -> AbstractContextManager[Any]:
        """Within it torch and numba-cuda speak to this core's GPU."""
        import torch

        return nullcontext() if self.device.type == "cpu" else torch.cuda.device(self.device)

    def _launch(self, kernel: Any, arguments: tuple[Any, ...]) -> None:
        """Put a kernel over all rows into torch's current stream."""
        import torch

        with self._selected():
            stream = 0 if self.device.type == "cpu" else torch.cuda.current_stream().cuda_stream
            configured = self._configured.get((kernel, stream))
            if configured is None:
                threads = min(THREADS_PER_BLOCK, self.num_envs)
                blocks = -(-self.num_envs // threads)
                with warnings.catch_warnings():  # that few environments leave much of a GPU idle is the caller's choice
                    warnings.simplefilter("ignore")
                    configured = kernel[blocks, threads, _numba_cuda().external_stream(stream) if stream else 0]
                self._configured[kernel, stream] = configured
            configured(arguments)

    def _advance(self, tables: ActionTables, resetting: bool) -> None:
        self._launch(self._kernel, (self._world, tables, self._autoreset, resetting, *self._arrays))

    def seeds(self) -> NDArray[np.int64]:
        """Each row's seed (N,), fetched from the device."""
        seeds: NDArray[np.int64] = self._seeds.cpu().numpy()
        return seeds

    def next_episode(self, mask: torch.Tensor) -> None:  # type: ignore[override]
        """Number the masked rows' next episode."""
        self._episodes.add_(mask)

    def seed(self, seeds: NDArray[np.int64], mask: torch.Tensor) -> None:  # type: ignore[override]
        """Give the masked rows their seeds and go back to their first episode."""
        import torch

        self._seeds.copy_(torch.where(mask, torch.from_numpy(seeds).to(self.device), self._seeds))
        self._episodes.masked_fill_(mask, 0)

    def reset(self, mask: torch.Tensor) -> None:  # type: ignore[override]
        """Start an episode in the masked rows."""
        self.batch.flags[3] = mask
        self._advance(self._tables, True)
        self.started = True

    def step(self, tables: ActionTables) -> None:
        """Advance every row by the actions (or decisions) in the batch's buffers."""
        self._advance(self._tables._replace(encoding=tables.encoding), False)

    def _make_masks(self) -> tuple[torch.Tensor, torch.Tensor]:
        buffers = self._tensors(engine.mask_layout(self.definition, self.encoding, self.num_envs))
        return buffers["allowed"].fill_(True), buffers["masks"].fill_(True)

    def _allow(self, allowed: torch.Tensor, masks: torch.Tensor) -> None:
        function = kernels(self.definition).allow
        assert function is not None
        with self._selected():
            kernel = _compiled(function, allow_signature(self), self.device)
            arrays = (self._arrays.state, _array(allowed), _array(masks))
        self._launch(kernel, (self._world, self.tables.encoding, self._sizes, self._placed, *arrays))


class CudaVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """N environments stepped by one kernel on a GPU; ``gym.make_vec(id, num_envs=N, device="cuda")`` builds it.

    Arguments and behaviour are ``engine.NativeVectorEnv``'s, with ``device``: "cuda" (torch's current GPU) or "cuda:1"; a
    process uses one GPU. Where that class has arrays this one has torch tensors on the device, of the same names, shapes and
    dtypes: ``observations`` and ``final_observations`` float32 (N, D), ``rewards`` float64 (N,), ``terminated`` and ``truncated``
    bool (N,), ``info`` {name: float64 (N,)}, ``episode_return`` float64 and ``episode_length`` int64 (N,). They are the kernels'
    own memory, which the next step rewrites. Rows are seeded as on the CPU and draw the same random bits; what is computed from
    them agrees to rounding, as a GPU's logarithm or power may differ from the CPU's in the last bit.

    Nothing waits for the GPU: work is queued in torch's current stream. Raises what ``require_cuda`` and ``NativeVectorEnv``
    raise.
    """

    def __init__(
        self,
        environment: str,
        num_envs: int = 1,
        *,
        device: str = "cuda",
        autoreset: Autoreset = "same_step",
        copy: bool = True,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        engine._refuse_rendering(render_mode)
        self.core = core = CudaCore(environment, num_envs, autoreset, device, **arguments)
        self.num_envs, self.device, self.render_mode = num_envs, core.device, None
        self.definition, self.config, self.preset = core.definition, core.config, core.preset
        self.metadata = {"render_modes": [], "autoreset_mode": engine._autoreset_mode(autoreset)}
        self.single_observation_space = observation_space(core.definition.observation)
        self.single_action_space = action_space(core.definition.action, core.encoding)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        batch = core.batch
        self.observations: torch.Tensor = batch.observations
        self.final_observations: torch.Tensor = batch.final_observations
        self.rewards: torch.Tensor = batch.rewards
        self.terminated: torch.Tensor = batch.flags[0]
        self.truncated: torch.Tensor = batch.flags[1]
        self.episode_return: torch.Tensor = batch.returns[1]
        self.episode_length: torch.Tensor = batch.lengths[1]
        self.info: dict[str, torch.Tensor] = {name: batch.info[:, k] for k, name in enumerate(core.definition.info)}
        self._all = ~self.terminated
        self._copy = copy
        self._same_step = autoreset == "same_step"

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[torch.Tensor, dict[str, Any]]:
        """Start episodes, as ``NativeVectorEnv.reset`` does; ``reset_mask`` may be a tensor or an array."""
        import torch

        if isinstance(seed, (int, np.integer)) or seed is None:
            super().reset(seed=None if seed is None else int(seed))
        mask = self._all
        if options and "reset_mask" in options:
            mask = torch.as_tensor(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != torch.bool:
                raise ValueError(
                    f"reset_mask: shape {tuple(mask.shape)}, dtype {mask.dtype}; accepted is bool of shape ({self.num_envs},)"
                )
            mask = mask.to(self.device)
        self.core.begin(seed, mask, lambda: int(self.np_random.integers(1, 2**31)))
        return self._observed(), {}

    def step(self, actions: Any) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, dict[str, Any]]:
        """One step of every environment; ``info`` holds tensors (N,) that the next step rewrites.

        In same-step mode ``final_obs`` and ``final_info`` are always there, because looking whether an episode ended would wait
        for the GPU; ``_final_obs`` says in which rows one did.
        """
        self.step_in_place(actions)
        infos: dict[str, Any] = dict(self.info)
        for name in self.info:
            infos[f"_{name}"] = self._all
        if self._same_step:
            infos["_final_obs"] = infos["_final_info"] = self.terminated | self.truncated
            infos["final_obs"] = self.final_observations.clone()
            infos["final_info"] = {name: column.clone() for name, column in self.info.items()}
        return self._observed(), self.rewards.clone(), self.terminated.clone(), self.truncated.clone(), infos

    def step_in_place(self, actions: Any) -> None:
        """One step of actions, a tensor or an array, without a copy or a dictionary; the results are in the tensors."""
        self._write("actions", self.core.batch.actions, actions)
        self.core.step(self.core.tables)

    def step_decisions(self, decisions: Any) -> None:
        """One step by physical decisions float64 (N, A), in the order and units of the action's components, in place."""
        self._write("decisions", self.core.batch.decisions, decisions)
        self.core.step(self.core.physical)

    def action_masks(self) -> torch.Tensor:
        """Which actions can be carried out now, bool (N, L), in a tensor that the next call rewrites: see ``NativeVectorEnv``."""
        masks: torch.Tensor = self.core.masks()
        return masks

    def _write(self, name: str, buffer: Any, values: Any) -> None:
        import torch

        if not self.core.started:
            raise gymnasium.error.ResetNeeded("step was called before reset; call reset(seed=...) first")
        given = torch.as_tensor(values)
        if given.numel() != buffer.numel():
            raise ValueError(f"{name}: shape {tuple(given.shape)}; accepted is {tuple(buffer.shape)}")
        buffer.copy_(given.reshape(buffer.shape))

    def _observed(self) -> torch.Tensor:
        return self.observations.clone() if self._copy else self.observations
