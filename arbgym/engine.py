"""Turns an environment's scalar kernels into a ``gymnasium.Env`` and a native ``gymnasium.vector.VectorEnv``.

An environment is a ``Definition``: what is observed and chosen, a state record, and three kernels on one record,

    reset(world, s)      observe(world, s, out)      step(world, s, decision, info) -> (reward, terminated, truncated)

The engine holds a row of state per environment (a structured array: one environment's fields lie together, so a step touches
a kilobyte, and a call unboxes one array instead of forty), decodes actions, scales observations, resets finished
episodes and sums their statistics, all inside one compiled loop: serial for a few rows, ``prange`` over threads for more.
It knows no market.

Two rules make batches equal singles bit for bit: random numbers are a function of (seed, episode, block, stream), held in
the state's fields ``seed`` and ``episode``; and rows never touch each other.
"""

from __future__ import annotations

import hashlib
import importlib
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import FunctionType
from typing import Any, Literal, NamedTuple

import gymnasium
import numba
import numpy as np
from gymnasium.vector.utils import batch_space
from numpy.typing import NDArray

from arbgym.jit import kernel
from arbgym.spec import (
    ActionTables,
    Choice,
    Encoding,
    Field,
    action_dtype,
    action_space,
    action_tables,
    decode_row,
    flat_places,
    observation_space,
)

Floats = NDArray[np.float64]
Autoreset = Literal["same_step", "next_step", "disabled"]
_AUTORESETS: tuple[Autoreset, ...] = ("same_step", "next_step", "disabled")
_SAME_STEP, _NEXT_STEP, _DISABLED = range(3)
_SERIAL_ROWS = 16
_PHYSICAL = 3  # "encoding" of actions that are decisions already


@dataclass(frozen=True)
class Definition:
    """One environment: its schema, its configuration and its kernels.

    ``configure(preset, **overrides)`` returns a frozen configuration or raises ValueError naming the field, the value and what
    is accepted; ``build_world(config, tape)`` returns a NamedTuple of read-only arrays. ``state`` is the dtype of a row and has
    int64 fields ``seed`` and ``episode``. ``reward_parts`` are the ``info`` names that add up to ``net_profit``: the first
    positive, the others costs. ``opportunity(env)``, where there is one, says what each environment's next decision is about, as
    columns of the table ``opportunities`` (``arbgym.data.tables``). ``mask(world, s, out)``, where there is one, writes False
    into out bool (A, V) for each value of a component that could not be carried out now; a component's first value always can.
    ``follow(world, s, told, starting)``, where there is one, goes on to the tape's next row (or starts an episode on its first)
    with what was told, float64 (len(told),), in the place of a step's own consequences: how a live runner uses it.
    ``intend(world, s, decision, out)`` writes what a decision means now, float64 (len(intent),).
    """

    id: str
    version: int
    observation: tuple[Field, ...]
    action: tuple[Choice, ...]
    info: tuple[str, ...]
    state: np.dtype[Any]
    configure: Callable[..., Any]
    presets: tuple[str, ...]
    build_world: Callable[..., Any]
    reset: Callable[..., None]
    observe: Callable[..., None]
    step: Callable[..., tuple[float, bool, bool]]
    baselines: Callable[[], Mapping[str, Any]]
    reward_parts: tuple[str, ...]
    opportunity: Callable[[Any], Mapping[str, Floats]] | None = None
    mask: Callable[..., None] | None = None
    follow: Callable[..., None] | None = None
    told: tuple[str, ...] = ()
    intend: Callable[..., None] | None = None
    intent: tuple[str, ...] = ()

    @property
    def module(self) -> Any:
        """The module that defines the kernels: its docstring is the environment's documentation."""
        return sys.modules[self.step.__module__]


def load_definition(environment: str) -> Definition:
    """The ``DEFINITION`` of the module that a registration names."""
    definition = importlib.import_module(environment).DEFINITION
    if not isinstance(definition, Definition):
        raise TypeError(f"{environment}.DEFINITION is a {type(definition).__name__}; accepted is a Definition")
    return definition


def config_record(values: Mapping[str, Any]) -> NDArray[np.void]:
    """A structured array of shape (1,) with one field per number or fixed-length sequence of numbers."""
    columns: list[Any] = []
    arrays = {name: np.asarray(value) for name, value in values.items()}
    for name, array in arrays.items():
        kind = np.float64 if array.dtype.kind == "f" else np.int64
        columns.append((name, kind, array.shape) if array.shape else (name, kind))
    record = np.zeros(1, dtype=np.dtype(columns, align=True))
    for name, array in arrays.items():
        record[name][0] = array
    return record


class Batch(NamedTuple):
    """Every buffer of N environments, A action components, D observation fields and I info columns."""

    state: NDArray[np.void]  # (N,)
    actions: NDArray[Any]  # (N, A) or (N, 1)
    decisions: Floats  # (N, A)
    observations: NDArray[np.float32]  # (N, D)
    final_observations: NDArray[np.float32]  # (N, D)
    rewards: Floats  # (N,)
    flags: NDArray[np.bool_]  # (4, N): terminated, truncated, reset is due, reset is asked for
    info: Floats  # (N, I)
    returns: Floats  # (2, N): running, of the last finished episode
    lengths: NDArray[np.int64]  # (2, N): running, of the last finished episode
    scales: Floats  # (3, D): 1 / scale, low, high


Layout = dict[str, tuple[tuple[int, ...], np.dtype[Any]]]


def batch_layout(definition: Definition, encoding: Encoding, num_envs: int) -> Layout:
    """Shape and dtype of each of the ``Batch``'s buffers, which is all but ``scales``."""
    fields, components = len(definition.observation), len(definition.action)
    real, whole, flag, single = (np.dtype(kind) for kind in (np.float64, np.int64, np.bool_, np.float32))
    return {
        "state": ((num_envs,), definition.state),
        "actions": ((num_envs, 1 if encoding == "discrete" else components), np.dtype(action_dtype(encoding))),
        "decisions": ((num_envs, components), real),
        "observations": ((num_envs, fields), single),
        "final_observations": ((num_envs, fields), single),
        "rewards": ((num_envs,), real),
        "flags": ((4, num_envs), flag),
        "info": ((num_envs, len(definition.info)), real),
        "returns": ((2, num_envs), real),
        "lengths": ((2, num_envs), whole),
    }


def mask_layout(definition: Definition, encoding: Encoding, num_envs: int) -> Layout:
    """Shape and dtype of the allowed values (N, A, V) and of the masks (N, L)."""
    sizes = [len(choice.values) for choice in definition.action]
    actions = sum(sizes) if encoding == "multidiscrete" else len(flat_places(definition.action))
    flag = np.dtype(np.bool_)
    return {"allowed": ((num_envs, len(sizes), max(sizes)), flag), "masks": ((num_envs, actions), flag)}


# Names that each definition's copy of the loops below finds in its own globals; see ``_drivers``, and ``arbgym.cuda_engine``.
_rows = numba.prange
_reset: Any = None
_observe: Any = None
_step: Any = None
_mask: Any = None
_follow: Any = None
_intend: Any = None


@kernel
def _scale_row(row: NDArray[np.float32], scales: Floats) -> None:
    """From a field's own unit to what the agent sees: times 1 / scale, clipped."""
    for d in range(row.size):
        row[d] = min(max(row[d] * scales[0, d], scales[1, d]), scales[2, d])


def _advance(
    world: Any,
    tables: ActionTables,
    autoreset: int,
    resetting: bool,
    state: NDArray[np.void],
    actions: NDArray[Any],
    decisions: Floats,
    observations: NDArray[np.float32],
    final_observations: NDArray[np.float32],
    rewards: Floats,
    flags: NDArray[np.bool_],
    info: Floats,
    returns: Floats,
    lengths: NDArray[np.int64],
    scales: Floats,
) -> None:
    """Reset the rows asked for, or step every row; the arrays are the ``Batch``'s.

    One loop for both and one body without helpers: Numba optimises everything below a function again at each level of calls. The
    arrays are arguments of their own because Numba's parallel loops drop writes to the arrays of a tuple.
    """
    for i in _rows(rewards.size):
        if resetting and not flags[3, i]:
            continue
        s = state[i]
        row = observations[i]
        starting = resetting or (autoreset == _NEXT_STEP and flags[2, i])
        if starting:
            rewards[i] = 0.0
            flags[0, i] = False
            flags[1, i] = False
            for k in range(info.shape[1]):
                info[i, k] = 0.0
        else:
            if tables.encoding != _PHYSICAL:
                decode_row(tables, actions[i], decisions[i])
            reward, terminated, truncated = _step(world, s, decisions[i], info[i])
            rewards[i] = reward
            flags[0, i] = terminated
            flags[1, i] = truncated
            returns[0, i] += reward
            lengths[0, i] += 1
            _observe(world, s, row)
            _scale_row(row, scales)
            if terminated or truncated:
                returns[1, i] = returns[0, i]
                lengths[1, i] = lengths[0, i]
                starting = autoreset == _SAME_STEP
                flags[2, i] = not starting
                if starting:
                    for d in range(row.size):
                        final_observations[i, d] = row[d]
        if starting:
            if not resetting:
                s["episode"] += 1
            returns[0, i] = 0.0
            lengths[0, i] = 0
            flags[2, i] = False
            _reset(world, s)
            _observe(world, s, row)
            _scale_row(row, scales)


def _allow(
    world: Any,
    encoding: int,
    sizes: NDArray[np.int64],
    places: NDArray[np.int64],
    state: NDArray[np.void],
    allowed: Any,
    masks: Any,
) -> None:
    """Each row's allowed values (N, A, V), and from them its mask (N, L) in one encoding; ``places`` (L, A) are the discrete
    actions as places in the components' values.
    """
    for i in _rows(state.size):
        values = allowed[i]
        for a in range(sizes.size):
            for v in range(sizes[a]):
                values[a, v] = True
        _mask(world, state[i], values)
        row = masks[i]
        if encoding == 0:
            k = 0
            for a in range(sizes.size):
                for v in range(sizes[a]):
                    row[k] = values[a, v]
                    k += 1
        else:
            for k in range(row.size):
                every = True
                for a in range(sizes.size):
                    every = every and values[a, places[k, a]]
                row[k] = every


def _go_on(
    world: Any,
    starting: bool,
    state: NDArray[np.void],
    told: Floats,
    observations: NDArray[np.float32],
    scales: Floats,
) -> None:
    """Let every row follow its tape with what it is told, float64 (N, T), and observe."""
    for i in _rows(state.size):
        _follow(world, state[i], told[i], starting)
        _observe(world, state[i], observations[i])
        _scale_row(observations[i], scales)


def _decide(world: Any, tables: ActionTables, state: NDArray[np.void], actions: Any, decisions: Floats, intents: Floats) -> None:
    """Each row's decision (N, A) and what it means now (N, I), for its encoded action."""
    for i in _rows(state.size):
        decode_row(tables, actions[i], decisions[i])
        _intend(world, state[i], decisions[i], intents[i])


class Drivers(NamedTuple):
    """The compiled loops of one definition; the serial ones serve a few rows. None where nothing is masked, or followed."""

    serial: Any
    parallel: Any
    masks: Any
    few_masks: Any
    follow: Any
    decide: Any


def inlined(function: Any) -> Any:
    """A copy of a kernel that LLVM inlines into the loop: a call would count references to every array it passes.

    Measured with the kernels' own calls passing records instead of arrays: half the time of a step.
    """
    return numba.njit(error_model="numpy", nogil=True, forceinline=True)(function.py_func)


@cache
def _drivers(definition: Definition) -> Drivers:
    """Copies of the loops above whose globals hold this definition's kernels.

    Each copy carries a digest of all kernel sources in its name, so Numba's on-disk cache finds it in the next process and never
    finds a stale one. (Closures over kernels are not cached by Numba.)
    """
    file = str(definition.module.__file__)
    digest = source_digest(file)
    namespace: dict[str, Any] = {
        **globals(),
        "_reset": inlined(definition.reset),
        "_observe": inlined(definition.observe),
        "_step": inlined(definition.step),
        "_mask": definition.mask,
        "_follow": definition.follow,
        "_intend": definition.intend,
    }

    def compiled(source: Callable[..., None], **options: Any) -> Any:
        kind = "parallel" if options.get("parallel") else "serial"
        name = f"{source.__name__}_{kind}_{definition.id.replace('-', '_')}_{digest}"
        function = FunctionType(source.__code__.replace(co_name=name), namespace, name)
        function.__qualname__ = name
        return numba.njit(error_model="numpy", nogil=True, **options)(function)

    masks = few_masks = follow = decide = None
    if definition.mask is not None:
        masks, few_masks = compiled(_allow, cache=True, parallel=True), compiled(_allow, cache=True)
    if definition.follow is not None:
        follow, decide = compiled(_go_on, cache=True), compiled(_decide, cache=True)
    serial, parallel = compiled(_advance, cache=True), compiled(_advance, cache=True, parallel=True)
    return Drivers(serial, parallel, masks, few_masks, follow, decide)


def source_digest(environment_file: str) -> str:
    package = Path(__file__).parent
    own = [package / f"{name}.py" for name in ("jit", "rng", "spec", "engine")]
    sources = [*own, *package.glob("amm/*.py"), *package.glob("market/*.py"), Path(environment_file)]
    digest = hashlib.sha256()
    for source in sorted(set(sources)):
        digest.update(source.read_bytes())
    return digest.hexdigest()[:16]


class _Core:
    """Buffers and compiled loops of N environments: what the single and the vector face share."""

    def __init__(
        self,
        environment: str,
        num_envs: int,
        autoreset: Autoreset,
        *,
        preset: str | None = None,
        action: Encoding = "multidiscrete",
        feed: str = "simulated",
        tape: Any = None,
        **overrides: Any,
    ) -> None:
        self.definition = definition = load_definition(environment)
        if feed not in ("simulated", "replay"):
            raise ValueError(f"feed = {feed!r}; accepted are simulated, replay")
        if (feed == "replay") != (tape is not None):
            raise ValueError(
                f"tape: {'missing' if tape is None else 'given'} with feed = {feed!r}; a tape goes with feed = 'replay'"
            )
        if num_envs < 1:
            raise ValueError(f"num_envs = {num_envs}; accepted is 1 or more")
        if autoreset not in _AUTORESETS:
            raise ValueError(f"autoreset = {autoreset!r}; accepted are {', '.join(_AUTORESETS)}")
        self.config = definition.configure(preset or definition.presets[0], **overrides)
        self.preset = self.config.preset
        self.feed = feed
        self.world = definition.build_world(self.config, tape)
        self.encoding: Encoding = action
        self.tables = action_tables(definition.action, action)
        self.physical = self.tables._replace(encoding=_PHYSICAL)
        self._autoreset = _AUTORESETS.index(autoreset)
        self.num_envs = num_envs
        self.scales = _scale_table(definition)
        self.places = flat_places(definition.action)
        self._masks: tuple[Any, Any] | None = None  # made when first asked for
        self._prepare()
        self.started = False

    def _prepare(self) -> None:
        """Allocate the buffers and take the compiled loops."""
        layout = batch_layout(self.definition, self.encoding, self.num_envs)
        self.batch = Batch(**{name: np.zeros(shape, dtype) for name, (shape, dtype) in layout.items()}, scales=self.scales)
        drivers = _drivers(self.definition)
        # a few rows are done before a second thread has woken up
        self._loop = drivers.parallel if self.num_envs > _SERIAL_ROWS else drivers.serial
        self._mask_loop = drivers.masks if self.num_envs > _SERIAL_ROWS else drivers.few_masks

    def begin(self, seed: int | Sequence[int | None] | None, mask: Any, draw: Callable[[], int]) -> None:
        """Start an episode in the masked rows: from new seeds, drawn the first time, or without them each row's next one."""
        if seed is None and self.started:
            self.next_episode(mask)
        else:
            first = draw() if seed is None else seed
            if isinstance(first, (int, np.integer)):
                self.seed(np.arange(self.num_envs) + int(first), mask)
            else:
                self.seed(_seed_list(first, self.seeds()), mask)
        self.reset(mask)

    def seeds(self) -> NDArray[np.int64]:
        """Each row's seed (N,)."""
        seeds: NDArray[np.int64] = self.batch.state["seed"]
        return seeds

    def next_episode(self, mask: NDArray[np.bool_]) -> None:
        """Number the masked rows' next episode."""
        self.batch.state["episode"][mask] += 1

    def seed(self, seeds: NDArray[np.int64], mask: NDArray[np.bool_]) -> None:
        """Give the masked rows their seeds and go back to their first episode."""
        self.batch.state["seed"][mask] = seeds[mask]
        self.batch.state["episode"][mask] = 0

    def reset(self, mask: NDArray[np.bool_]) -> None:
        """Start an episode in the masked rows."""
        self.batch.flags[3] = mask
        if not self._loop.signatures and not _is_cached(self._loop):
            print(f"arbgym: compiling {self.definition.id} (once on this machine, cached on disk) ...", file=sys.stderr)
        self._loop(self.world, self.tables, self._autoreset, True, *self.batch)
        self.started = True

    def step(self, tables: ActionTables) -> None:
        """Advance every row by the actions (or decisions) in the batch's buffers."""
        self._loop(self.world, tables, self._autoreset, False, *self.batch)

    def masks(self) -> Any:
        """Which actions (N, L) can be carried out now, in a buffer that the next call rewrites."""
        if self.encoding == "continuous":
            raise AttributeError("action_masks: a continuous action has none; accepted are action = 'multidiscrete', 'discrete'")
        if not self.started:
            raise gymnasium.error.ResetNeeded("action_masks was called before reset; call reset(seed=...) first")
        if self._masks is None:
            self._masks = self._make_masks()
        if self.definition.mask is not None:
            self._allow(*self._masks)
        return self._masks[1]

    def _make_masks(self) -> tuple[Any, Any]:
        allowed, masks = mask_layout(self.definition, self.encoding, self.num_envs).values()
        return np.ones(*allowed), np.ones(*masks)

    def _allow(self, allowed: Any, masks: Any) -> None:
        self._mask_loop(self.world, self.tables.encoding, self.tables.sizes, self.places, self.batch.state, allowed, masks)


class Follower:
    """One environment that follows a market as it happens, by the kernels that a replay is stepped with.

    ``world`` is a replay's whose tape has two rows: the last one followed and the next. Nothing is drawn that is observed. Raises
    ValueError for an environment that cannot be followed.
    """

    def __init__(self, definition: Definition, world: Any, encoding: Encoding) -> None:
        drivers = _drivers(definition)
        self._loop, self._mask_loop, self._decide_loop = drivers.follow, drivers.few_masks, drivers.decide
        if self._loop is None:
            raise ValueError(f"{definition.id}: cannot follow a live market; accepted is an environment with follow and intend")
        self.definition, self.world, self.encoding = definition, world, encoding
        layout = batch_layout(definition, encoding, 1)
        self.state, self.observations, self._decisions = (
            np.zeros(*layout[name]) for name in ("state", "observations", "decisions")
        )
        self._intents = np.zeros((1, len(definition.intent)))
        self.told = np.zeros((1, len(definition.told)))
        """what the next ``go_on`` says happened, float64 (1, T), by the names in ``Definition.told``"""
        self._tables = action_tables(definition.action, encoding)
        self._places = flat_places(definition.action)
        self._allowed, self._masks = (np.ones(*part) for part in mask_layout(definition, encoding, 1).values())
        self._scales = _scale_table(definition)

    def go_on(self, starting: bool = False) -> NDArray[np.float32]:
        """Follow the tape's second row, or start an episode on its first; the observation (1, D), in a buffer used again."""
        self._loop(self.world, starting, self.state, self.told, self.observations, self._scales)
        return self.observations

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions (1, L) could be carried out now, in a buffer used again."""
        if self._mask_loop is not None:
            tables = self._tables
            self._mask_loop(self.world, tables.encoding, tables.sizes, self._places, self.state, self._allowed, self._masks)
        return self._masks

    def decide(self, actions: NDArray[Any]) -> tuple[Floats, Floats]:
        """The decision (A,) of an encoded action (1, A) or (1, 1), and what it means now (I,), in buffers used again."""
        self._decide_loop(self.world, self._tables, self.state, actions, self._decisions, self._intents)
        return self._decisions[0], self._intents[0]


def _scale_table(definition: Definition) -> Floats:
    """Each field's 1 / scale, low and high: (3, D)."""
    scales: Floats = np.array([[1.0 / f.scale, f.low, f.high] for f in definition.observation]).T.copy()
    return scales


def _is_cached(loop: Any) -> bool:
    """Whether Numba's on-disk cache holds an index for this loop."""
    path = Path(loop.stats.cache_path or ".")
    return any(path.glob(f"*{loop.py_func.__qualname__}*.nbi"))


class NativeVectorEnv(gymnasium.vector.VectorEnv[Any, Any, Any]):
    """N environments stepped by one compiled call; ``gym.make_vec(id, num_envs=N)`` builds it.

    Arguments: ``num_envs``; ``preset`` and any configuration field by name; ``action``: multidiscrete, discrete or
    continuous; ``feed``: simulated or replay (with ``tape``); ``autoreset``: same_step (default), next_step or
    disabled; ``copy``: hand out copies of the observation buffer (default) or the buffer itself. Wrong arguments
    raise ValueError naming the field, the value and what is accepted.

    ``step`` and ``reset`` follow Gymnasium. Learners use ``step_in_place`` and read the buffers: ``observations`` and
    ``final_observations`` float32 (N, D), ``rewards`` float64 (N,), ``terminated`` and ``truncated`` bool (N,),
    ``info`` {name: float64 (N,)}, ``episode_return`` and ``episode_length`` (N,) of each row's last finished episode.
    They are rewritten by the next step. In same-step mode a finished row's last observation is in
    ``final_observations`` and its ``info`` belongs to the last step of the finished episode.
    """

    def __init__(
        self,
        environment: str,
        num_envs: int = 1,
        *,
        autoreset: Autoreset = "same_step",
        copy: bool = True,
        render_mode: str | None = None,
        **arguments: Any,
    ) -> None:
        _refuse_rendering(render_mode)
        self.core = core = _Core(environment, num_envs, autoreset, **arguments)
        self.num_envs = num_envs
        self.render_mode = None
        self.definition, self.config, self.preset = core.definition, core.config, core.preset
        self.metadata = {"render_modes": [], "autoreset_mode": _autoreset_mode(autoreset)}
        self.single_observation_space = observation_space(core.definition.observation)
        self.single_action_space = action_space(core.definition.action, core.encoding)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        batch = core.batch
        self.observations, self.final_observations = batch.observations, batch.final_observations
        self.rewards, self.terminated, self.truncated = batch.rewards, batch.flags[0], batch.flags[1]
        self.episode_return, self.episode_length = batch.returns[1], batch.lengths[1]
        self.info = {name: batch.info[:, k] for k, name in enumerate(core.definition.info)}
        self._all = np.ones(num_envs, dtype=np.bool_)
        self._copy = copy
        self._same_step = autoreset == "same_step"

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start episodes; with seed s, environment i starts as a single environment seeded s + i does.

        ``options={"reset_mask": bool (N,)}`` restarts only those rows. Without a seed each row goes on to its next episode.
        """
        if isinstance(seed, (int, np.integer)) or seed is None:
            super().reset(seed=None if seed is None else int(seed))
        mask = self._all
        if options and "reset_mask" in options:
            mask = np.asarray(options["reset_mask"])
            if mask.shape != (self.num_envs,) or mask.dtype != np.bool_:
                raise ValueError(
                    f"reset_mask: shape {mask.shape}, dtype {mask.dtype}; accepted is bool of shape ({self.num_envs},)"
                )
        self.core.begin(seed, mask, lambda: int(self.np_random.integers(1, 2**31)))
        return self._observed(), {}

    def step(self, actions: Any) -> tuple[NDArray[np.float32], Floats, NDArray[np.bool_], NDArray[np.bool_], dict[str, Any]]:
        """One step of every environment; ``info`` holds arrays (N,) that the next step rewrites."""
        self.step_in_place(actions)
        infos: dict[str, Any] = dict(self.info)
        for name in self.info:
            infos[f"_{name}"] = self._all
        if self._same_step:
            done = self.terminated | self.truncated
            if done.any():
                infos["final_obs"], infos["_final_obs"] = self.final_observations.copy(), done
                infos["final_info"] = {name: column.copy() for name, column in self.info.items()}
                infos["_final_info"] = done
        return self._observed(), self.rewards.copy(), self.terminated.copy(), self.truncated.copy(), infos

    def step_in_place(self, actions: Any) -> None:
        """One step without a copy or a dictionary; the results are in the buffers."""
        self._require_started()
        target = self.core.batch.actions
        target[:] = np.asarray(actions).reshape(target.shape)
        self.core.step(self.core.tables)

    def step_decisions(self, decisions: Floats) -> None:
        """One step by physical decisions float64 (N, A), in the order and units of the action's components, in place."""
        self._require_started()
        self.core.batch.decisions[:] = decisions
        self.core.step(self.core.physical)

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions can be carried out now, bool (N, L), in a buffer that the next call rewrites.

        L is the sum of the components' sizes for multidiscrete actions (one component after the other) and the number of actions
        for discrete ones, as sb3-contrib's MaskablePPO reads them. What is not allowed may be taken: it comes to nothing, or
        reverts.
        Raises AttributeError for continuous actions.
        """
        masks: NDArray[np.bool_] = self.core.masks()
        return masks

    def _require_started(self) -> None:
        if not self.core.started:
            raise gymnasium.error.ResetNeeded("step was called before reset; call reset(seed=...) first")

    def _observed(self) -> NDArray[np.float32]:
        return self.observations.copy() if self._copy else self.observations


class NativeEnv(gymnasium.Env[Any, Any]):
    """One environment: a batch of one of the same kernels; ``gym.make(id)`` builds it.

    Takes the arguments of ``NativeVectorEnv`` but for ``num_envs``, ``autoreset`` and ``copy``. ``info`` is a
    dictionary of floats.
    """

    def __init__(self, environment: str, *, render_mode: str | None = None, **arguments: Any) -> None:
        _refuse_rendering(render_mode)
        self.core = core = _Core(environment, 1, "disabled", **arguments)
        self.metadata = {"render_modes": []}
        self.render_mode = None
        self.definition, self.config, self.preset = core.definition, core.config, core.preset
        self.observation_space = observation_space(core.definition.observation)
        self.action_space = action_space(core.definition.action, core.encoding)
        self._mask = np.ones(1, dtype=np.bool_)
        self._names = core.definition.info

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        """Start an episode; with a seed the whole sequence of episodes starts anew."""
        super().reset(seed=seed)
        core = self.core
        if seed is not None:
            core.seed(np.array([seed]), self._mask)
        elif not core.started:
            core.seed(self.np_random.integers(1, 2**31, size=1), self._mask)
        else:
            core.batch.state["episode"] += 1
        core.reset(self._mask)
        return core.batch.observations[0].copy(), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        """One step: observation (D,), reward, terminated, truncated, info."""
        core = self.core
        if not core.started:
            raise gymnasium.error.ResetNeeded("step was called before reset; call reset(seed=...) first")
        batch = core.batch
        batch.actions[0] = action
        core.step(core.tables)
        info = dict(zip(self._names, batch.info[0].tolist(), strict=True))
        flags = batch.flags
        return batch.observations[0].copy(), float(batch.rewards[0]), bool(flags[0, 0]), bool(flags[1, 0]), info

    def action_masks(self) -> NDArray[np.bool_]:
        """Which actions can be carried out now, bool (L,): see ``NativeVectorEnv.action_masks``."""
        masks: NDArray[np.bool_] = self.core.masks()[0].copy()
        return masks


def _seed_list(seed: Sequence[int | None], seeds: NDArray[np.int64]) -> NDArray[np.int64]:
    if len(seed) != len(seeds):
        raise ValueError(f"seed: {len(seed)} given; accepted are one number or {len(seeds)} numbers")
    return np.array([int(old) if new is None else int(new) for new, old in zip(seed, seeds, strict=True)])


def _refuse_rendering(render_mode: str | None) -> None:
    if render_mode is not None:
        raise ValueError(f"render_mode = {render_mode!r}; accepted is None (the report draws results)")


def _autoreset_mode(autoreset: Autoreset) -> Any:
    """Gymnasium's own constant where the installed version has it (1.1 and later), else its name."""
    modes = getattr(gymnasium.vector, "AutoresetMode", None)
    return autoreset if modes is None else getattr(modes, autoreset.upper())


def steps_per_second(environment: str, num_envs: int, seconds: float = 1.0, waiting: bool = False, **arguments: Any) -> float:
    """Environment steps per second with random actions, or with waiting, through ``step_in_place``, after warm-up."""
    env = NativeVectorEnv(environment, num_envs, **arguments)
    env.action_space.seed(0)
    actions = [env.action_space.sample() * (0 if waiting else 1) for _ in range(16)]
    env.reset(seed=0)
    for action in actions:
        env.step_in_place(action)
    steps, start = 0, time.perf_counter()
    while time.perf_counter() - start < seconds:
        for action in actions:
            env.step_in_place(action)
        steps += len(actions) * num_envs
    return steps / (time.perf_counter() - start)


def print_speed(definition: Definition) -> None:
    """What running an environment's file prints: steps per second at several batch sizes."""
    for num_envs in (1, 64, 1024, 4096):
        rate = steps_per_second(definition.module.__spec__.name, num_envs)
        print(f"{definition.id}: {num_envs:5d} environments {rate / 1e6:8.3f} M steps/s on {numba.get_num_threads()} threads")
