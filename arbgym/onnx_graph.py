"""Reads the few ONNX operators that policies use, and computes them with numpy.

An exported policy is untrusted input: it is parsed here from its bytes (the protobuf wire format, no other
package), refused when it holds anything but plain feed-forward operators with their weights inside the file,
and only then handed to a runtime. The same parsed graph is the numpy back end, so a small network needs no
runtime at all (perceptrons are compiled: ``arbgym.perceptron``).

Format: onnx.proto of ONNX (ModelProto, GraphProto, NodeProto, AttributeProto, TensorProto); operators: the ONNX
operator reference, opset 13 to 25, and of the domain ai.onnx.ml ensembles of trees (see ``onnx_trees``).
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.onnx_trees import read_trees

Array = NDArray[Any]
MAX_BYTES = 64 * 2**20
_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_TENSOR_TYPES: dict[int, Any] = {1: np.float32, 6: np.int32, 7: np.int64, 9: np.bool_, 11: np.float64}


class GraphError(ValueError):
    """The bytes are no ONNX model that a policy may be; the message says which rule was broken."""


@dataclass(frozen=True)
class Node:
    """One operator: the names it reads and writes, and its attributes (of trees: ``trees``, checked and laid out in arrays)."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class Graph:
    """A feed-forward graph in order of computation; ``weights`` are its constant tensors by name."""

    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    nodes: tuple[Node, ...]
    weights: Mapping[str, Array]

    def run(self, feed: Mapping[str, Array]) -> dict[str, Array]:
        """Outputs by name, for inputs by name. Raises GraphError where an operator does not fit what it reads."""
        values: dict[str, Any] = {**self.weights, **feed, "": np.empty(0)}
        for node in self.nodes:
            try:
                results = OPERATORS[node.operator](node.attributes, *(values[name] for name in node.inputs))
            except (TypeError, ValueError, LookupError, AttributeError, OverflowError, MemoryError) as error:
                raise GraphError(f"operator {node.operator}: {error}") from error
            values.update(zip(node.outputs, results, strict=False))
        return {name: values[name] for name in self.outputs}


def parse(model: bytes) -> Graph:
    """The graph of an ONNX file's bytes. Raises GraphError on anything a policy may not contain."""
    if len(model) > MAX_BYTES:
        raise GraphError(f"the model has {len(model)} bytes; accepted are up to {MAX_BYTES}")
    try:
        return _model(model)
    except GraphError:
        raise
    except (LookupError, struct.error, ValueError, OverflowError, MemoryError) as error:
        raise GraphError(f"not an ONNX model: {type(error).__name__} {error}") from error


def _model(model: bytes) -> Graph:
    fields = _fields(model)
    if fields.get(25):
        raise GraphError("the model defines functions of its own; accepted are standard operators only")
    if len(fields.get(7, [])) != 1:
        raise GraphError("not an ONNX model: it holds no graph")
    graph = _fields(_bytes(fields[7][0]))
    if graph.get(15):
        raise GraphError("the model holds sparse tensors; accepted are dense ones")
    weights = dict(_tensor(_bytes(part)) for part in graph.get(5, []))
    if len(weights) != len(graph.get(5, [])):
        raise GraphError("the model holds a tensor's name twice; accepted is once")
    nodes = []
    for part in graph.get(1, []):
        node = _node(_bytes(part))
        if node.operator == "Constant":
            weights[node.outputs[0]] = np.asarray(node.attributes["value"])
        else:
            nodes.append(node)
    names = [_text(_fields(_bytes(part))[1][0]) for part in graph.get(11, [])]
    inputs = tuple(name for name in names if name not in weights)
    outputs = tuple(_text(_fields(_bytes(part))[1][0]) for part in graph.get(12, []))
    _refuse_dangling(inputs, outputs, nodes, weights)
    return Graph(inputs, outputs, tuple(nodes), weights)


def _refuse_dangling(inputs: Sequence[str], outputs: Sequence[str], nodes: Sequence[Node], weights: Mapping[str, Array]) -> None:
    known = {"", *inputs, *weights}
    for node in nodes:
        for name in node.inputs:
            if name not in known:
                raise GraphError(f"operator {node.operator} reads {name!r}, which nothing before it computes")
        known.update(node.outputs)
    for name in outputs:
        if name not in known:
            raise GraphError(f"output {name!r} is computed by nothing")


def _node(part: bytes) -> Node:
    fields = _fields(part)
    operator = _text(fields[4][0]) if 4 in fields else ""
    domain = _text(fields[7][0]) if 7 in fields else ""
    name = f"{domain}::{operator}" if domain else operator
    if name not in ALLOWED:
        raise GraphError(f"operator {name} is not allowed in a policy; accepted are {', '.join(sorted(ALLOWED))}")
    attributes = dict(_attribute(_bytes(raw)) for raw in fields.get(5, []))
    if len(attributes) != len(fields.get(5, [])):
        raise GraphError(f"operator {name} has an attribute twice; accepted is once")
    if name != "Constant" and any(isinstance(value, np.ndarray) for value in attributes.values()):
        raise GraphError(f"operator {name} has a tensor for an attribute; accepted are numbers, strings and lists of these")
    if name == TREES:
        try:
            attributes = {"trees": read_trees(attributes)}
        except ValueError as error:
            raise GraphError(f"operator {name}: {error}") from error
    return Node(
        name,
        tuple(_text(name) for name in fields.get(1, [])),
        tuple(_text(name) for name in fields.get(2, [])),
        attributes,
    )


def _attribute(part: bytes) -> tuple[str, Any]:
    """Name and value of a float, an integer, a string, a tensor or a list of integers, floats or strings."""
    fields = _fields(part)
    name = _text(fields[1][0])
    kind = _signed(fields.get(20, [0])[0])
    if kind == 1:
        return name, struct.unpack("<f", _bytes(fields[2][0]))[0]
    if kind == 2:
        return name, _signed(fields.get(3, [0])[0])
    if kind == 3:
        return name, _text(fields[4][0])
    if kind == 4:
        return name, _tensor(_bytes(fields[5][0]))[1]
    if kind == 6:
        return name, tuple(value for raw in fields.get(7, []) for value in _floats(raw))
    if kind == 7:
        return name, tuple(value for raw in fields.get(8, []) for value in _integers(raw))
    if kind == 8:
        return name, tuple(_text(raw) for raw in fields.get(9, []))
    raise GraphError(f"attribute {name!r} is of kind {kind}; accepted are numbers, strings, tensors and lists of numbers")


def _tensor(part: bytes) -> tuple[str, Array]:
    """Name and array of a tensor whose data lies in the file."""
    fields = _fields(part)
    name = _text(fields[8][0]) if 8 in fields else ""
    if 13 in fields or fields.get(14, [0])[0] != 0:
        raise GraphError(f"tensor {name!r} keeps its data in another file; accepted is data inside the model")
    kind = _signed(fields.get(2, [0])[0])
    if kind not in _TENSOR_TYPES:
        raise GraphError(f"tensor {name!r} has data type {kind}; accepted are float, double, int32, int64 and bool")
    dtype = np.dtype(_TENSOR_TYPES[kind])
    shape = tuple(value for raw in fields.get(1, []) for value in _integers(raw))
    if 9 in fields:
        data = np.frombuffer(_bytes(fields[9][0]), dtype=dtype.newbyteorder("<")).astype(dtype)
    elif 4 in fields:
        data = np.array([value for raw in fields[4] for value in _floats(raw)], dtype=dtype)
    else:
        data = np.array([value for number in (5, 7) for raw in fields.get(number, []) for value in _integers(raw)], dtype)
    if any(size < 0 for size in shape) or data.size != int(np.prod(shape, dtype=np.int64)):
        raise GraphError(f"tensor {name!r} has {data.size} values for shape {shape}")
    return name, data.reshape(shape)


# ---------------------------------------------------------------------------------------------------- wire format
def _fields(message: bytes) -> dict[int, list[int | bytes]]:
    """Field number -> values in order; numbers as unsigned integers, everything else as bytes."""
    fields: dict[int, list[int | bytes]] = {}
    position = 0
    while position < len(message):
        key, position = _varint(message, position)
        number, kind = key >> 3, key & 7
        value: int | bytes
        if kind == _VARINT:
            value, position = _varint(message, position)
        elif kind in (_FIXED64, _FIXED32):
            size = 8 if kind == _FIXED64 else 4
            value, position = message[position : position + size], position + size
        elif kind == _BYTES:
            size, position = _varint(message, position)
            value, position = message[position : position + size], position + size
        else:
            raise GraphError(f"not an ONNX model: wire type {kind}")
        if position > len(message):
            raise GraphError("not an ONNX model: it ends within a field")
        fields.setdefault(number, []).append(value)
    return fields


def _varint(message: bytes, position: int) -> tuple[int, int]:
    value = 0
    for shift in range(0, 70, 7):
        byte = message[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if not byte & 0x80:
            return value, position
    raise GraphError("not an ONNX model: a number has more than ten bytes")


def _signed(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise GraphError("not an ONNX model: bytes where a number belongs")
    value &= 2**64 - 1
    return value - 2**64 if value >= 2**63 else value


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise GraphError("not an ONNX model: a number where bytes belong")
    return value


def _text(value: int | bytes) -> str:
    return _bytes(value).decode()


def _integers(raw: int | bytes) -> list[int]:
    """A repeated integer field: one value, or several packed into bytes."""
    if isinstance(raw, int):
        return [_signed(raw)]
    values, position = [], 0
    while position < len(raw):
        value, position = _varint(raw, position)
        values.append(_signed(value))
    return values


def _floats(raw: int | bytes) -> list[float]:
    return [float(value) for value in np.frombuffer(_bytes(raw), dtype="<f4")]


# ------------------------------------------------------------------------------------------------------ operators
_Operator = Callable[..., tuple[Array, ...]]


def _gemm(attributes: Mapping[str, Any], a: Array, b: Array, c: Array | None = None) -> tuple[Array]:
    a = a.T if attributes.get("transA", 0) else a
    b = b.T if attributes.get("transB", 0) else b
    product = a @ b
    alpha, beta = attributes.get("alpha", 1.0), attributes.get("beta", 1.0)
    if alpha != 1.0:
        product = np.float32(alpha) * product
    return (product if c is None else product + (c if beta == 1.0 else np.float32(beta) * c),)


def _clip(_: Mapping[str, Any], x: Array, low: Array | None = None, high: Array | None = None) -> tuple[Array]:
    least = -np.inf if low is None or low.size == 0 else low
    most = np.inf if high is None or high.size == 0 else high
    return (np.clip(x, least, most).astype(x.dtype),)


def _sigmoid(_: Mapping[str, Any], x: Array) -> tuple[Array]:
    return ((1.0 / (1.0 + np.exp(-x))).astype(x.dtype),)


def _argmax(attributes: Mapping[str, Any], x: Array) -> tuple[Array]:
    if attributes.get("select_last_index", 0):
        raise ValueError("select_last_index; accepted is 0: of equal ones the first")
    return (x.argmax(attributes.get("axis", 0), keepdims=bool(attributes.get("keepdims", 1))),)


def _split(attributes: Mapping[str, Any], x: Array, sizes: Array) -> tuple[Array, ...]:
    axis, widths = attributes.get("axis", 0), sizes.tolist()
    if not all(width > 0 for width in widths) or sum(widths) != x.shape[axis]:
        raise ValueError(f"{x.shape} into {widths}; accepted are widths of at least 1 whose sum is the axis's")
    return tuple(np.split(x, np.cumsum(widths)[:-1], axis=axis))


def _slice(_: Mapping[str, Any], x: Array, starts: Array, ends: Array, axes: Array, steps: Array | None = None) -> tuple[Array]:
    index = [slice(None)] * x.ndim
    strides = np.ones_like(starts) if steps is None else steps
    for start, end, axis, stride in zip(starts, ends, axes, strides, strict=True):
        index[int(axis)] = slice(int(start), int(end), int(stride))
    return (x[tuple(index)],)


def _conv(attributes: Mapping[str, Any], x: Array, w: Array, b: Array | None = None) -> tuple[Array]:
    """Along one axis: x (N, C, L) with w (O, C, K) gives (N, O, L')."""
    if x.ndim != 3 or w.ndim != 3 or x.shape[1] != w.shape[1]:
        raise ValueError(f"x {x.shape} with weights {w.shape}; accepted are (N, C, L) with (O, C, K)")
    if attributes.get("group", 1) != 1 or attributes.get("auto_pad", "NOTSET") != "NOTSET":
        raise ValueError("groups or automatic padding; accepted are one group and given padding")
    (stride,), (dilation,) = attributes.get("strides", (1,)), attributes.get("dilations", (1,))
    before, after = attributes.get("pads", (0, 0))
    span = dilation * (w.shape[2] - 1) + 1
    if min(stride, dilation) < 1 or not 0 <= min(before, after) <= max(before, after) <= span:
        raise ValueError(f"strides {stride}, dilations {dilation}, pads {before}, {after}; accepted are 1 or more, 0 to {span}")
    padded = np.pad(x, ((0, 0), (0, 0), (before, after)))
    windows = np.lib.stride_tricks.sliding_window_view(padded, span, axis=2)[:, :, ::stride, ::dilation]
    product = np.tensordot(windows, w, axes=((1, 3), (1, 2))).transpose(0, 2, 1)
    return (product if b is None else product + b[:, None],)


def _reshape(attributes: Mapping[str, Any], x: Array, shape: Array) -> tuple[Array]:
    sizes = [int(size) for size in shape]
    if not attributes.get("allowzero", 0):
        sizes = [x.shape[k] if size == 0 else size for k, size in enumerate(sizes)]
    return (x.reshape(sizes),)


def _softmax(attributes: Mapping[str, Any], x: Array) -> tuple[Array]:
    axis = attributes.get("axis", -1)
    raised = np.exp(x - x.max(axis=axis, keepdims=True))
    return (raised / raised.sum(axis=axis, keepdims=True),)


TREES = "ai.onnx.ml::TreeEnsembleRegressor"
OPERATORS: dict[str, _Operator] = {
    TREES: lambda attributes, x: (attributes["trees"].run(x),),
    "Add": lambda _, a, b: (a + b,),
    "ArgMax": _argmax,
    "Clip": _clip,
    "Concat": lambda attributes, *parts: (np.concatenate(parts, axis=attributes["axis"]),),
    "Conv": _conv,
    "Div": lambda _, a, b: (a / b,),
    "Gemm": _gemm,
    "Identity": lambda _, a: (a,),
    "MatMul": lambda _, a, b: (a @ b,),
    "Max": lambda _, a, b: (np.maximum(a, b),),
    "Min": lambda _, a, b: (np.minimum(a, b),),
    "Mul": lambda _, a, b: (a * b,),
    "Relu": lambda _, a: (np.maximum(a, 0),),
    "Reshape": _reshape,
    "Sigmoid": _sigmoid,
    "Slice": _slice,
    "Softmax": _softmax,
    "Split": _split,
    "Sub": lambda _, a, b: (a - b,),
    "Tanh": lambda _, a: (np.tanh(a),),
}

ALLOWED = frozenset({*OPERATORS, "Constant"})
