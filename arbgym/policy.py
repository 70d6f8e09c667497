"""The contract between learning and live: a directory with ``policy.onnx`` and ``manifest.json``.

``policy.onnx`` maps ``observation`` float32 (N, D), exactly what the environment emits, to ``logits`` float32
(N, L) (action values or means, by algorithm) and ``action`` (N, A), what the environment's ``step`` takes:
int64 indices, or float32 in [-1, 1] for the continuous encoding. Limiting the input to each field's range and
choosing the action are inside the graph, so nothing has to be written again by whoever runs it.

``manifest.json`` says what the network was trained for and by whom, with hashes of every part and golden pairs
taken from the learner's own network. ``load`` refuses a directory in which anything differs: see ``verify``.
Nothing is ever unpickled, and the bytes that were checked are the bytes that run.
"""

from __future__ import annotations

import hashlib
import importlib
import itertools
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Literal, NoReturn, Protocol

import numpy as np
from numpy.typing import NDArray

import arbgym
from arbgym.engine import Definition, load_definition
from arbgym.onnx_graph import Graph, GraphError, parse
from arbgym.perceptron import greatest_allowed, perceptron_of
from arbgym.spec import ENCODINGS, Encoding, action_dtype, action_space, component_sizes, schema, schema_hash

FORMAT = 3
MODEL, MANIFEST = "policy.onnx", "manifest.json"
GOLDEN_PAIRS = 32
GOLDEN_TOLERANCE = 1e-5  # of logits, relative above 1
LIFETIME_DAYS = 90
_MOST_NESTED = 100
Backend = Literal["onnxruntime", "numpy"]


class PolicyError(ValueError):
    """A policy directory, or an observation, that is refused; the message names the part, the value and what is
    accepted.
    """


class _Runner(Protocol):
    def __call__(self, observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any], bool]:
        """Logits (N, L), actions (N, A), and whether all observations and logits are finite numbers."""


@dataclass(frozen=True)
class Golden:
    """What the learner's network answered: observations (32, D), logits (32, L), actions (32, A)."""

    observations: NDArray[np.float32]
    logits: NDArray[np.float32]
    actions: NDArray[Any]


class Policy:
    """A verified policy: ``policy.predict(observations)`` gives encoded actions (N, A)."""

    def __init__(self, manifest: dict[str, Any], definition: Definition, runner: _Runner) -> None:
        self.manifest = manifest
        self.definition = definition
        self.encoding: Encoding = manifest["action"]["encoding"]
        self.masked: bool = manifest["action"]["masked"]
        """whether it learned to be told what can be carried out: ``predict`` wants ``action_masks`` then"""
        self._runner = runner
        self._fields = len(definition.observation)
        self.component_sizes: list[int] = component_sizes(definition.action, self.encoding)
        """how many logits each component of an action has; none for the continuous encoding"""
        self._ends = np.cumsum(self.component_sizes, dtype=np.int64)

    def evaluate(self, observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Logits (N, L) and actions (N, A) for observations float32 (N, D); raises PolicyError on a number that
        is not finite.
        """
        if observations.ndim != 2 or observations.shape[1] != self._fields or observations.dtype != np.float32:
            raise PolicyError(f"observations: {observations.dtype} {observations.shape}; accepted is float32 (N, {self._fields})")
        logits, actions, finite = self._runner(observations)
        if not finite:
            self._refuse(observations)
        return logits, actions

    def _refuse(self, observations: NDArray[np.float32]) -> NoReturn:
        if np.isfinite(observations).all():
            raise PolicyError("logits: the network's output is not finite; no action was chosen")
        row, column = np.argwhere(~np.isfinite(observations))[0]
        name = self.definition.observation[column].name
        raise PolicyError(f"observations: {name} = {observations[row, column]} in row {row}; accepted are finite numbers")

    def predict(self, observations: NDArray[np.float32], masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Encoded actions (N, A) for observations float32 (N, D), among those that ``masks`` bool (N, L) allow.

        Masks may be left out unless the policy is ``masked``. Raises PolicyError.
        """
        return self.choose(observations, masks)[1]

    def choose(
        self, observations: NDArray[np.float32], masks: NDArray[np.bool_] | None = None
    ) -> tuple[NDArray[np.float32], NDArray[Any]]:
        """Logits (N, L), and encoded actions as ``predict`` gives them."""
        logits, actions = self.evaluate(observations)
        if masks is None:
            if self.masked:
                raise PolicyError("masks: missing; the policy was trained with action_masks and accepts observations with them")
            return logits, actions
        if masks.shape != logits.shape or self.encoding == "continuous":
            raise PolicyError(
                f"masks: {masks.shape} for {self.encoding} actions with logits {logits.shape}; accepted is one each"
            )
        return logits, greatest_allowed(logits, masks, self._ends)


def save(
    directory: str | Path,
    model: bytes,
    *,
    definition: Definition,
    config: Any,
    preset: str,
    encoding: Encoding,
    feed: str,
    golden: Golden,
    provenance: Mapping[str, Any],
    masked: bool = False,
    lifetime_days: float = LIFETIME_DAYS,
) -> dict[str, Any]:
    """Write a policy directory and load it again; returns its manifest.

    ``config`` is the environment's configuration dataclass; ``provenance`` holds git_revision, seed, steps,
    versions and held_out; ``masked`` says that the policy wants ``action_masks``. Raises PolicyError, leaving an
    older directory as it was, when the result would not load.
    """
    directory = Path(directory)
    created = datetime.now(UTC)
    manifest: dict[str, Any] = {
        "format": FORMAT,
        "model": {"file": MODEL, "sha256": hashlib.sha256(model).hexdigest()},
        "environment": {
            "id": definition.id,
            "version": definition.version,
            "preset": preset,
            "feed": feed,
            "config": asdict(config) if is_dataclass(config) and not isinstance(config, type) else dict(config),
        },
        "observation": {"schema": schema(definition.observation), "sha256": schema_hash(definition.observation)},
        "action": {
            "encoding": encoding,
            "masked": masked,
            "schema": schema(definition.action),
            "sha256": schema_hash(definition.action),
        },
        "provenance": dict(provenance),
        "created": created.isoformat(),
        "expires_at": (created + timedelta(days=lifetime_days)).isoformat(),
        "golden": {
            "observation": golden.observations.tolist(),
            "logits": golden.logits.tolist(),
            "action": golden.actions.tolist(),
        },
    }
    manifest = json.loads(_canonical(manifest))
    manifest["sha256"] = manifest_hash(manifest)
    _check(manifest, model, definition, created, "numpy")
    directory.mkdir(parents=True, exist_ok=True)
    _write(directory / MODEL, model)
    _write(directory / MANIFEST, (json.dumps(manifest, indent=1) + "\n").encode())
    return manifest


def load(
    directory: str | Path,
    *,
    definition: Definition | None = None,
    backend: Backend = "onnxruntime",
    now: datetime | None = None,
) -> Policy:
    """A policy that passed ``verify``, on onnxruntime with one thread (default) or on numpy, which decide alike.

    ``definition`` is the environment that the caller has (default: the registered one of that id); ``now`` is
    the time that the expiry is held against (default: the clock).
    """
    manifest, model = read_manifest(directory), _read(Path(directory), MODEL)
    return _check(manifest, model, definition, now or datetime.now(UTC), backend)


def verify(directory: str | Path, *, definition: Definition | None = None, now: datetime | None = None) -> dict[str, Any]:
    """The manifest of a directory that may be run; otherwise PolicyError.

    Refused are: a missing or unreadable part; any changed byte of manifest or model (hashes); another
    environment version, observation schema or action schema than ``definition``'s; operators outside the
    allow-list, data outside the file; golden pairs not reproduced (actions equal, logits within 1e-5); an
    expired policy.
    """
    return load(directory, definition=definition, backend="numpy", now=now).manifest


def manifest_hash(manifest: Mapping[str, Any]) -> str:
    """sha256 over the manifest's canonical JSON without its own hash."""
    return hashlib.sha256(_canonical({key: value for key, value in manifest.items() if key != "sha256"})).hexdigest()


def _canonical(value: Any) -> bytes:
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False).encode()


def _write(path: Path, content: bytes) -> None:
    """Replace a file in one step, so that a reader never sees half of it."""
    partial = path.with_name(f".{path.name}.partial")
    partial.write_bytes(content)
    partial.replace(path)


def _depth(text: str) -> int:
    """How deep a JSON text nests. Its parser recurses, and a library (py_ecc, beneath web3) lifts the limit that protects it."""
    outside = re.sub(r'"(?:[^"\\]|\\.)*"', "", text)
    steps = ((character in "[{") - (character in "]}") for character in outside if character in "[]{}")
    return max(itertools.accumulate(steps), default=0)


def read_manifest(directory: str | Path) -> dict[str, Any]:
    """A directory's manifest as it stands, unverified. Raises PolicyError when there is none or it is no JSON
    object.
    """
    try:
        text = _read(Path(directory), MANIFEST).decode()
        if _depth(text) > _MOST_NESTED:
            raise PolicyError(f"{MANIFEST}: not JSON of ours: nested more than {_MOST_NESTED} deep")
        manifest = json.loads(text, parse_constant=_refuse_constant)
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise PolicyError(f"{MANIFEST}: not JSON: {error}") from error
    if not isinstance(manifest, dict):
        raise PolicyError(f"{MANIFEST}: holds a {type(manifest).__name__}; accepted is an object")
    return manifest


def _read(directory: Path, name: str) -> bytes:
    if not (directory / name).is_file():
        raise PolicyError(f"{directory}: holds no {name}; accepted is a directory with {MODEL} and {MANIFEST}")
    return (directory / name).read_bytes()


def _refuse_constant(name: str) -> float:
    raise PolicyError(f"{MANIFEST}: holds {name}; accepted are finite numbers")


_SECTIONS: dict[str, Any] = {
    "format": int,
    "model": {"file": str, "sha256": str},
    "environment": {"id": str, "version": int, "preset": str, "feed": str, "config": dict},
    "observation": {"schema": list, "sha256": str},
    "action": {"encoding": str, "masked": bool, "schema": list, "sha256": str},
    "provenance": dict,
    "created": str,
    "expires_at": str,
    "golden": {"observation": list, "logits": list, "action": list},
    "sha256": str,
}


def _check_shape(value: Any, expected: Any, name: str) -> None:
    if not isinstance(expected, dict):
        if not isinstance(value, expected) or (isinstance(value, bool) and expected is not bool):
            raise PolicyError(f"{MANIFEST}: {name} is a {type(value).__name__}; accepted is {expected.__name__}")
        return
    if not isinstance(value, dict):
        raise PolicyError(f"{MANIFEST}: {name} is a {type(value).__name__}; accepted is an object")
    for key in sorted(set(expected) ^ set(value)):
        state = "is missing" if key in expected else "is unknown"
        raise PolicyError(f"{MANIFEST}: {key} {state} in {name}; accepted are exactly {', '.join(expected)}")
    for key, inner in expected.items():
        _check_shape(value[key], inner, key if name == "the manifest" else f"{name}.{key}")


def _require_equal(name: str, value: Any, accepted: Any) -> None:
    if value != accepted:
        raise PolicyError(f"{MANIFEST}: {name} = {value!r}; accepted is {accepted!r}")


def _check(manifest: dict[str, Any], model: bytes, definition: Definition | None, now: datetime, backend: Backend) -> Policy:
    if "format" not in manifest:
        raise PolicyError(f"{MANIFEST}: format is missing; accepted is {FORMAT}")
    _require_equal("format", manifest["format"], FORMAT)
    _check_shape(manifest, _SECTIONS, "the manifest")
    _require_equal("sha256", manifest["sha256"], manifest_hash(manifest))
    _require_equal("model.file", manifest["model"]["file"], MODEL)
    _require_equal("model.sha256", manifest["model"]["sha256"], hashlib.sha256(model).hexdigest())
    definition = definition or _registered(manifest["environment"]["id"])
    _check_schemas(manifest, definition)
    _check_times(manifest, now)
    try:
        graph = parse(model)
    except GraphError as error:
        raise PolicyError(f"{MODEL}: {error}") from error
    if graph.inputs != ("observation",) or graph.outputs != ("logits", "action"):
        raise PolicyError(
            f"{MODEL}: maps {graph.inputs} to {graph.outputs}; accepted is ('observation',) to ('logits', 'action')"
        )
    policy = Policy(manifest, definition, _numpy_runner(graph))
    _check_golden(policy)
    if backend == "onnxruntime":
        policy = Policy(manifest, definition, _onnxruntime_runner(model))
        _check_golden(policy)
    return policy


def _registered(environment: str) -> Definition:
    if environment not in arbgym.ENVIRONMENTS:
        known = ", ".join(arbgym.ENVIRONMENTS)
        raise PolicyError(f"{MANIFEST}: environment.id = {environment!r}; accepted are {known}")
    return load_definition(arbgym.ENVIRONMENTS[environment])


def _check_schemas(manifest: dict[str, Any], definition: Definition) -> None:
    _require_equal("environment.id", manifest["environment"]["id"], definition.id)
    _require_equal("environment.version", manifest["environment"]["version"], definition.version)
    if manifest["action"]["encoding"] not in ENCODINGS:
        raise PolicyError(f"action.encoding = {manifest['action']['encoding']!r}; accepted are {', '.join(ENCODINGS)}")
    for section, parts in (("observation", definition.observation), ("action", definition.action)):
        mine = json.loads(_canonical(schema(parts)))
        theirs = manifest[section]["schema"]
        _require_equal(f"number of {section} entries", len(theirs), len(mine))
        for k, (entry, accepted) in enumerate(zip(theirs, mine, strict=True)):
            _require_equal(f"{section}.schema[{k}]", entry, accepted)
        _require_equal(f"{section}.sha256", manifest[section]["sha256"], schema_hash(parts))


def _check_times(manifest: dict[str, Any], now: datetime) -> None:
    times = {}
    for name in ("created", "expires_at"):
        try:
            times[name] = datetime.fromisoformat(manifest[name])
        except ValueError as error:
            raise PolicyError(f"{MANIFEST}: {name} = {manifest[name]!r}; accepted is an ISO 8601 time") from error
        if times[name].tzinfo is None:
            raise PolicyError(f"{MANIFEST}: {name} = {manifest[name]!r} has no time zone; accepted is UTC, +00:00")
    if times["expires_at"] <= times["created"]:
        raise PolicyError(f"{MANIFEST}: expires_at = {manifest['expires_at']!r} is not after created = {manifest['created']!r}")
    if now >= times["expires_at"]:
        raise PolicyError(f"the policy expired at {manifest['expires_at']}; train or evaluate it anew and export it again")


def _check_golden(policy: Policy) -> None:
    golden = policy.manifest["golden"]
    space = action_space(policy.definition.action, policy.encoding)
    try:
        observations = np.array(golden["observation"], dtype=np.float32)
        logits = np.array(golden["logits"], dtype=np.float32)
        actions = np.array(golden["action"], dtype=action_dtype(policy.encoding))
    except (TypeError, ValueError) as error:
        raise PolicyError(f"golden: not arrays of numbers: {error}") from error
    if not len(observations) == len(logits) == len(actions) == GOLDEN_PAIRS or logits.ndim != 2 or actions.ndim != 2:
        raise PolicyError(f"golden: {len(observations)} pairs; accepted are {GOLDEN_PAIRS}")
    found_logits, found_actions = policy.evaluate(observations)
    if found_logits.shape != logits.shape or found_actions.shape != actions.shape:
        raise PolicyError(f"golden: the model gives logits {found_logits.shape} and actions {found_actions.shape}")
    if policy.component_sizes and logits.shape[1] != sum(policy.component_sizes):
        raise PolicyError(f"golden: {logits.shape[1]} logits; accepted are {sum(policy.component_sizes)}, as the action has")
    width = int(np.prod(space.shape or (), dtype=np.int64)) or 1
    if actions.shape[1] != width or found_actions.dtype != actions.dtype:
        raise PolicyError(
            f"action: {found_actions.dtype} of width {actions.shape[1]}; accepted is {actions.dtype} of width {width}"
        )
    difference = float(np.max(np.abs(found_logits - logits) / np.maximum(1.0, np.abs(logits))))
    if not difference <= GOLDEN_TOLERANCE:
        raise PolicyError(f"golden: logits differ by {difference:.2g}; accepted is {GOLDEN_TOLERANCE:g}")
    tolerance = GOLDEN_TOLERANCE if policy.encoding == "continuous" else 0.0
    if np.any(np.abs(found_actions - actions) > tolerance):
        row = int(np.argwhere(np.abs(found_actions - actions) > tolerance)[0, 0])
        raise PolicyError(f"golden: action {found_actions[row].tolist()} in pair {row}; accepted is {actions[row].tolist()}")


def _numpy_runner(graph: Graph) -> _Runner:
    perceptron = perceptron_of(graph)

    def run(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any], bool]:
        try:
            if perceptron is not None:
                return perceptron(observations)
            return _guarded(lambda rows: tuple(graph.run({"observation": rows}).values()), observations)
        except (GraphError, TypeError) as error:  # logits that are no numbers
            raise PolicyError(f"{MODEL}: {error}") from error

    return run


def _guarded(
    run: Callable[[NDArray[np.float32]], Sequence[NDArray[Any]]], observations: NDArray[np.float32]
) -> tuple[NDArray[np.float32], NDArray[Any], bool]:
    """What a runtime that does not look at its numbers answers; it is not asked about those that are not finite."""
    if not np.isfinite(observations).all():
        return np.empty((0, 0), np.float32), np.empty((0, 0)), False
    logits, actions = run(observations)
    return logits, actions, bool(np.isfinite(logits).all())


def _onnxruntime_runner(model: bytes) -> _Runner:
    """One thread: more give tails of milliseconds on a busy machine (measured)."""
    try:
        runtime = importlib.import_module("onnxruntime")
    except ImportError as error:
        raise PolicyError("onnxruntime is not installed; install arbgym[live] or load with backend='numpy'") from error
    options = runtime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    try:
        session = runtime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the runtime's own errors have no class in common
        raise PolicyError(f"{MODEL}: onnxruntime: {error}") from error

    def run(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any], bool]:
        return _guarded(lambda rows: session.run(["logits", "action"], {"observation": rows}), observations)

    return run
