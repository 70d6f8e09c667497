"""What an agent sees and chooses: observation fields, action components, and the three encodings of an action.

A *decision* is the physical action: one float64 per component, in the component's unit. Every encoding is a way to write a
decision, and one compiled function decodes all of them, in training, in evaluation and live.
"""

from __future__ import annotations

import hashlib
import itertools
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, NamedTuple

import gymnasium
import numpy as np
from numpy.typing import NDArray

from arbgym.jit import kernel, part

Encoding = Literal["multidiscrete", "discrete", "continuous"]
ENCODINGS: tuple[Encoding, ...] = ("multidiscrete", "discrete", "continuous")
_MULTIDISCRETE, _DISCRETE, _CONTINUOUS = range(3)


@dataclass(frozen=True)
class Field:
    """One observation: value = clip(raw / scale, low, high) in float32, raw in ``unit``; the scale is fixed forever."""

    name: str
    unit: str
    scale: float
    low: float
    high: float
    meaning: str

    def __post_init__(self) -> None:
        if not self.scale > 0.0:
            raise ValueError(f"Field {self.name}: scale = {self.scale}; accepted is a positive number")
        if not self.low < self.high:
            raise ValueError(f"Field {self.name}: low = {self.low}, high = {self.high}; accepted is low < high")


@dataclass(frozen=True)
class Choice:
    """One component of an action.

    ``values`` are what the multidiscrete encoding indexes. ``flat`` are the values that take part in the product which
    the discrete encoding enumerates (few, so that the product stays small). The continuous encoding maps [-1, 1] onto
    the values: by linear interpolation where ``ordered``, else by cutting the interval into equal bins. ``labels`` name values
    that stand for categories.
    """

    name: str
    unit: str
    values: tuple[float, ...]
    meaning: str
    flat: tuple[float, ...]
    ordered: bool = True
    labels: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.values or list(self.values) != sorted(set(self.values)):
            raise ValueError(f"Choice {self.name}: values = {self.values}; accepted are distinct ascending numbers")
        if not self.flat or not set(self.flat) <= set(self.values):
            raise ValueError(f"Choice {self.name}: flat = {self.flat}; accepted is a non-empty part of the values")
        if self.labels and len(self.labels) != len(self.values):
            raise ValueError(f"Choice {self.name}: {len(self.labels)} labels for {len(self.values)} values")


class ActionTables(NamedTuple):
    """What the decoder reads. Shapes: values (A, V) padded, sizes (A,), ordered (A,), flat (F, A), encoding ()."""

    values: NDArray[np.float64]
    sizes: NDArray[np.int64]
    ordered: NDArray[np.bool_]
    flat: NDArray[np.float64]
    encoding: int


def action_tables(choices: Sequence[Choice], encoding: Encoding) -> ActionTables:
    """Tables of one action schema. In the discrete encoding, 0 is "first value of the first component" alone (wait)."""
    if encoding not in ENCODINGS:
        raise ValueError(f"action = {encoding!r}; accepted are {', '.join(ENCODINGS)}")
    width = max(len(choice.values) for choice in choices)
    values = np.zeros((len(choices), width))
    for row, choice in enumerate(choices):
        values[row, : len(choice.values)] = choice.values
    sizes = np.array([len(choice.values) for choice in choices], dtype=np.int64)
    ordered = np.array([choice.ordered for choice in choices])
    wait = choices[0].values[0]
    acting = [value for value in choices[0].flat if value != wait]
    rows = [(wait, *(choice.flat[0] for choice in choices[1:]))]
    rows += list(itertools.product(acting, *(choice.flat for choice in choices[1:])))
    return ActionTables(values, sizes, ordered, np.array(rows, dtype=np.float64), ENCODINGS.index(encoding))


def flat_places(choices: Sequence[Choice]) -> NDArray[np.int64]:
    """The discrete encoding's actions (F, A) as places in each component's values, which is what a multidiscrete action holds."""
    flat = action_tables(choices, "discrete").flat
    columns = [np.searchsorted(choice.values, flat[:, a]) for a, choice in enumerate(choices)]
    return np.stack(columns, axis=1).astype(np.int64)


def component_sizes(choices: Sequence[Choice], encoding: Encoding) -> list[int]:
    """How many logits or mask entries each component of an encoded action has; the continuous encoding has none."""
    space = action_space(choices, encoding)
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return [int(size) for size in space.nvec]
    return [int(space.n)] if isinstance(space, gymnasium.spaces.Discrete) else []


def action_space(choices: Sequence[Choice], encoding: Encoding) -> gymnasium.spaces.Space[Any]:
    """The Gymnasium space of one environment's action in an encoding."""
    tables = action_tables(choices, encoding)
    if encoding == "multidiscrete":
        return gymnasium.spaces.MultiDiscrete(tables.sizes)
    if encoding == "discrete":
        return gymnasium.spaces.Discrete(len(tables.flat))
    return gymnasium.spaces.Box(-1.0, 1.0, (len(choices),), np.float32)


def action_dtype(encoding: Encoding) -> type[np.int64] | type[np.float32]:
    """The dtype of an action batch: int64 (N, A) or (N, 1), float32 (N, A) when continuous."""
    return np.float32 if encoding == "continuous" else np.int64


def observation_space(fields: Sequence[Field]) -> gymnasium.spaces.Box:
    """float32 box with each field's own bounds."""
    low = np.array([field.low for field in fields], dtype=np.float32)
    high = np.array([field.high for field in fields], dtype=np.float32)
    return gymnasium.spaces.Box(low, high, dtype=np.float32)


@part
def decode_row(tables: ActionTables, action: Any, decision: NDArray[np.float64]) -> None:
    """Write the decision (A,) that one encoded action row means. Indices outside a table are clipped to it."""
    components = tables.sizes.size
    if tables.encoding == 1:
        flat = min(max(int(action[0]), 0), tables.flat.shape[0] - 1)
        for a in range(components):
            decision[a] = tables.flat[flat, a]
        return
    for a in range(components):
        size = tables.sizes[a]
        if tables.encoding == 0:
            decision[a] = tables.values[a, min(max(int(action[a]), 0), size - 1)]
            continue
        share = min(max((action[a] + 1.0) * 0.5, 0.0), 1.0)
        if tables.ordered[a]:
            position = share * (size - 1)
            below = min(int(position), max(size - 2, 0))
            weight = position - below
            above = min(below + 1, size - 1)
            decision[a] = tables.values[a, below] * (1.0 - weight) + tables.values[a, above] * weight
        else:
            decision[a] = tables.values[a, min(int(share * size), size - 1)]


def decode(choices: Sequence[Choice], encoding: Encoding, actions: NDArray[Any]) -> NDArray[np.float64]:
    """Decisions (N, A) of a batch of encoded actions (N, ...)."""
    tables = action_tables(choices, encoding)
    rows = np.ascontiguousarray(actions, dtype=action_dtype(encoding)).reshape(len(actions), -1)
    decisions = np.empty((len(rows), len(choices)))
    decode_rows(tables, rows, decisions)
    return decisions


def encode(choices: Sequence[Choice], encoding: Encoding, decisions: NDArray[np.float64]) -> NDArray[Any]:
    """Encoded actions that mean these decisions (N, A), or the nearest that the encoding can express: the inverse of ``decode``.

    int64 (N, A) for multidiscrete, int64 (N, 1) for discrete, float32 (N, A) for continuous. Distances are taken in places
    within each component's list of values, so that every component weighs the same; whatever has the first component's first
    value (wait) is encoded as waiting by the discrete encoding.
    """
    places = np.stack([_places(choice, decisions[:, a]) for a, choice in enumerate(choices)], axis=1)
    if encoding == "multidiscrete":
        nearest: NDArray[np.int64] = np.rint(places).astype(np.int64)
        return nearest
    sizes = np.array([len(choice.values) for choice in choices])
    if encoding == "discrete":
        flat = action_tables(choices, encoding).flat
        rows = np.stack([_places(choice, flat[:, a]) for a, choice in enumerate(choices)], axis=1) / np.maximum(sizes - 1, 1)
        places = places / np.maximum(sizes - 1, 1)
        distance = np.zeros((len(places), len(rows)))
        for a, choice in enumerate(choices):
            apart = np.abs(places[:, a, None] - rows[None, :, a])
            distance += apart if choice.ordered else 1e3 * (apart > 1e-9)  # another category is farther than any number
        waiting = np.rint(places[:, 0] * (sizes[0] - 1)) == 0
        flat_index: NDArray[np.int64] = np.where(waiting, 0, distance.argmin(axis=1)).astype(np.int64)
        return flat_index[:, None]
    ordered = np.array([choice.ordered for choice in choices])
    share = np.where(ordered, places / np.maximum(sizes - 1, 1), (np.rint(places) + 0.5) / sizes)
    boxed: NDArray[np.float32] = (2.0 * share - 1.0).astype(np.float32)
    return boxed


def _places(choice: Choice, values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Where values stand in a component's list: fractional between two values where ordered, else the nearest one's place."""
    listed = np.array(choice.values)
    if choice.ordered:
        places: NDArray[np.float64] = np.interp(values, listed, np.arange(len(listed)))
        return places
    nearest: NDArray[np.float64] = np.abs(values[:, None] - listed[None, :]).argmin(axis=1).astype(np.float64)
    return nearest


@kernel
def decode_rows(tables: ActionTables, actions: Any, decisions: NDArray[np.float64]) -> None:
    """``decode_row`` for each row."""
    for i in range(len(decisions)):
        decode_row(tables, actions[i], decisions[i])


def schema(parts: Sequence[Field] | Sequence[Choice]) -> list[dict[str, Any]]:
    """JSON-able description, in order; what the hash is taken over. Observations are float32, which each field says."""
    return [asdict(part) | ({"dtype": "float32"} if isinstance(part, Field) else {}) for part in parts]


def schema_hash(parts: Sequence[Field] | Sequence[Choice]) -> str:
    """sha256 of the schema's canonical JSON: one changed byte is another schema."""
    text = json.dumps(schema(parts), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
