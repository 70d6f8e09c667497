"""A policy's graph, where it is a multilayer perceptron, in one compiled call: what numpy takes ten small operations for.

A live decision is one row through a small network, where each operation of a library costs more than its arithmetic. Sums run in
the order of the inputs, in float32, so a row has the same bits alone as among others.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numba import njit
from numpy.typing import NDArray

from arbgym.onnx_graph import Graph, GraphError, Node

_IDENTITY, _RELU, _TANH = 0, 1, 2
_ACTIVATIONS = {"Relu": _RELU, "Tanh": _TANH}
_PLAIN_GEMM = {"alpha": 1.0, "beta": 1.0, "transA": 0}
_WIDEST = 2**20  # of a part of the logits: far more than weights fit into a file
_ZERO = np.float32(0.0)
_GREATEST = {"axis": 1, "keepdims": 1, "select_last_index": 0}


class Perceptron:
    """Limits on the observation, dense layers, and the choice of an action. Made by ``perceptron_of``.

    Args:
        low, high: float32 (D,) each, what an observation is limited to.
        layers: weights (D_in, D_out), biases (D_out,) and activation of each layer.
        ends: where each part of the logits ends, of which the greatest is chosen; none where ``limits`` make actions of logits.
    """

    def __init__(
        self,
        low: NDArray[np.float32],
        high: NDArray[np.float32],
        layers: Sequence[tuple[NDArray[np.float32], NDArray[np.float32], int]],
        ends: Sequence[int],
        limits: tuple[float, float],
    ) -> None:
        self._fields = len(low)
        numbers = [low, high, *(part.ravel() for weights, bias, _ in layers for part in (weights, bias))]
        self._numbers = np.ascontiguousarray(np.concatenate(numbers), dtype=np.float32)
        widths = [width for weights, _, activation in layers for width in (weights.shape[1], activation)]
        self._layers = np.array(widths, dtype=np.int64)
        self._ends = np.array(ends, dtype=np.int64)
        self._all = np.ones((1, layers[-1][0].shape[1]), dtype=np.bool_)
        self._limits = np.array(limits, dtype=np.float32)

    def __call__(self, observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any], bool]:
        """Logits (N, L), actions (N, A), and whether all observations and logits are finite, for float32 (N, D).

        Raises GraphError for rows of another width.
        """
        if observations.shape[1] != self._fields:
            raise GraphError(f"observations of {observations.shape[1]} fields; accepted are {self._fields}")
        logits, finite = _logits(np.ascontiguousarray(observations), self._numbers, self._layers)
        if len(self._ends):
            return logits, greatest_allowed(logits, self._all, self._ends), finite
        return logits, np.clip(logits, self._limits[0], self._limits[1]), finite


@njit(cache=True, nogil=True)
def _logits(observations, numbers, layers):  # type: ignore[no-untyped-def]
    """Logits (N, L), and whether everything read and computed is finite."""
    count, fields = observations.shape
    widest = max(fields, layers[::2].max())
    here, there = np.empty(widest, dtype=np.float32), np.empty(widest, dtype=np.float32)
    logits = np.empty((count, layers[-2]), dtype=np.float32)
    finite = True
    for row in range(count):
        for i in range(fields):
            x, low, high = observations[row, i], numbers[i], numbers[fields + i]
            finite &= np.isfinite(x)
            x = x if x >= low else low
            here[i] = x if x <= high else high
        at, width = 2 * fields, fields
        for layer in range(len(layers) // 2):
            wide, activation = layers[2 * layer], layers[2 * layer + 1]
            bias = at + width * wide
            for j in range(wide):
                there[j] = _ZERO
            for i in range(width):
                x, begin = here[i], at + i * wide
                for j in range(wide):
                    there[j] += x * numbers[begin + j]
            for j in range(wide):
                y = there[j] + numbers[bias + j]
                if activation == _RELU:
                    y = _ZERO if y < _ZERO else y
                elif activation == _TANH:
                    y = np.float32(1.0 - 2.0 / (math.exp(2.0 * y) + 1.0))  # in float64; libm's takes three times as long
                there[j] = y
            here, there = there, here
            at, width = bias + wide, wide
        for j in range(width):
            logits[row, j] = here[j]
            finite &= np.isfinite(here[j])
    return logits, finite


@njit(cache=True, nogil=True)
def _greatest(logits, masks, ends):  # type: ignore[no-untyped-def]
    places = np.empty((len(logits), len(ends)), dtype=np.int64)
    for row in range(len(logits)):
        allowed = masks[min(row, len(masks) - 1)]
        start = 0
        for part in range(len(ends)):
            best, most = start, -np.inf
            for j in range(start, ends[part]):
                if allowed[j] and logits[row, j] > most:
                    best, most = j, logits[row, j]
            places[row, part] = best - start
            start = ends[part]
    return places


def greatest_allowed(logits: NDArray[np.float32], masks: NDArray[np.bool_], ends: NDArray[np.int64]) -> NDArray[np.int64]:
    """The place (N, A) of each part's greatest logit (N, L) among those that masks bool (N, L), or (1, L) for all rows, allow.

    ``ends`` (A,) says where each part ends. Of equal ones the first is taken, as of a part in which nothing is allowed.
    """
    places: NDArray[np.int64] = _greatest(logits, masks, ends)
    return places


def perceptron_of(graph: Graph) -> Perceptron | None:
    """What computes ``logits`` and ``action`` of a graph as exporters draw perceptrons; None for any other graph.

    Drawn are Max and Min with the limits, Gemm with Relu or Tanh after it or not, and then either a Split of the logits with an
    ArgMax of each part and a Concat of these, or a Clip.
    """
    computed = [name for node in graph.nodes for name in node.outputs]
    if len(graph.inputs) != 1 or len(graph.outputs) != 2 or len({*computed, *graph.weights}) < len(computed) + len(graph.weights):
        return None
    nodes = _Chain(graph, graph.inputs[0])
    low, high = nodes.weight("Max"), nodes.weight("Min")
    if low is None or high is None or low.ndim != 1 or low.shape != high.shape or not (low <= high).all():
        return None
    layers, width = [], len(low)
    while (layer := nodes.dense(width)) is not None:
        layers.append(layer)
        width = layer[0].shape[1]
    if not layers or nodes.value != graph.outputs[0]:
        return None
    if limits := nodes.limits(graph.outputs[1]):
        return Perceptron(low, high, layers, (), limits)
    ends = nodes.parts(graph.outputs[1])
    if not ends or ends[-1] != width:
        return None
    return Perceptron(low, high, layers, ends, (0.0, 0.0))


class _Chain:
    """Takes a graph's nodes in order, as long as each reads the ``value`` that the one before it computed."""

    def __init__(self, graph: Graph, value: str) -> None:
        self._weights, self._nodes, self.value = graph.weights, list(graph.nodes), value

    def _take(self, operator: str, inputs: int) -> tuple[Node, list[NDArray[Any]]] | None:
        """The next node and the weights it reads beside the value, if it is of this kind."""
        if not self._nodes:
            return None
        node = self._nodes[0]
        if node.operator != operator or len(node.inputs) != inputs or node.inputs[0] != self.value or not node.outputs:
            return None
        weights = [self._weights[name] for name in node.inputs[1:] if name in self._weights]
        if len(weights) != inputs - 1:
            return None
        del self._nodes[0]
        return node, weights

    def weight(self, operator: str) -> NDArray[np.float32] | None:
        """The weight of an operator of two inputs."""
        if (taken := self._take(operator, 2)) is None or taken[1][0].dtype != np.float32:
            return None
        self.value = taken[0].outputs[0]
        return taken[1][0]

    def dense(self, width: int) -> tuple[NDArray[np.float32], NDArray[np.float32], int] | None:
        """Weights (width, D_out), biases (D_out,) and activation of the next layer."""
        if (taken := self._take("Gemm", 3) or self._take("Gemm", 2)) is None:
            return None
        node, (weights, *biases) = taken
        attributes = {**_PLAIN_GEMM, "transB": 0, **node.attributes}
        weights = weights.T if attributes.pop("transB") else weights
        if weights.ndim != 2 or weights.shape[0] != width or weights.shape[1] == 0:
            return None
        bias = biases[0] if biases else np.zeros(weights.shape[1], dtype=np.float32)  # exporters leave out one of zeros
        if bias.shape != weights.shape[1:] or attributes != _PLAIN_GEMM or {weights.dtype, bias.dtype} != {np.dtype(np.float32)}:
            return None
        self.value = node.outputs[0]
        for operator, activation in _ACTIVATIONS.items():
            if (after := self._take(operator, 1)) is not None:
                self.value = after[0].outputs[0]
                return weights, bias, activation
        return weights, bias, _IDENTITY

    def limits(self, output: str) -> tuple[float, float] | None:
        """What the value is limited to, if nothing else is left and ``output`` is the result."""
        if len(self._nodes) != 1 or (taken := self._take("Clip", 3)) is None:
            return None
        node, (low, high) = taken
        fits = low.shape == high.shape == () and node.outputs == (output,) and low.dtype == high.dtype == np.float32
        return (float(low), float(high)) if fits and low <= high else None

    def parts(self, output: str) -> tuple[int, ...]:
        """Where each part of the value ends, if nothing else is left and ``output`` has the greatest of each; otherwise none."""
        if (taken := self._take("Split", 2)) is None:
            return ()
        split, (sizes,) = taken
        chosen = [node for node in self._nodes if node.operator == "ArgMax"]
        places = tuple(name for node in chosen for name in node.outputs)
        if len(self._nodes) > len(chosen):
            joined = self._nodes[-1]
            fits = (
                len(self._nodes) == len(chosen) + 1
                and joined.operator == "Concat"
                and joined.attributes == {"axis": 1}
                and joined.inputs == places
            )
            places = joined.outputs if fits else ()
        fits = (
            places == (output,)
            and split.attributes.get("axis", 0) == 1
            and tuple(name for node in chosen for name in node.inputs) == split.outputs
            and all({"select_last_index": 0, **node.attributes} == _GREATEST for node in chosen)
            and sizes.ndim == 1
            and sizes.dtype == np.int64
            and len(sizes) == len(split.outputs)
            and bool(((sizes > 0) & (sizes <= _WIDEST)).all())
        )
        return tuple(np.cumsum(sizes).tolist()) if fits else ()
