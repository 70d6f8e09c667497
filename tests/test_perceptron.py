"""The compiled perceptron is the graph that it was read from, and takes no graph that is not one."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.onnx_graph import Graph, GraphError, Node
from arbgym.perceptron import greatest_allowed, perceptron_of

FIELDS = 5


@dataclass
class Drawing:
    """A graph as exporters draw a perceptron, to be changed before it is made."""

    widths: tuple[int, ...] = (7, 6)  # of layers, the last one's logits
    activations: tuple[str | None, ...] = ("Relu", None)
    sizes: tuple[int, ...] | None = (2, 4)  # parts of the logits; None: they are limited to actions
    transposed: bool = True
    biased: bool = True
    seed: int = 0
    nodes: list[Node] = field(default_factory=list)
    weights: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        rng = np.random.default_rng(self.seed)
        limits = rng.normal(0.0, 2.0, (2, FIELDS)).astype(np.float32)
        self.weights = {"low": limits.min(0), "high": limits.max(0)}
        self.add("Max", "observation", "low")
        self.add("Min", "low.out", "high")
        value, before = "high.out", FIELDS
        for k, (width, activation) in enumerate(zip(self.widths, self.activations, strict=True)):
            matrix = rng.normal(0.0, 1.0, (before, width)).astype(np.float32)
            self.weights |= {f"w{k}": matrix.T.copy() if self.transposed else matrix}
            bias = {f"b{k}": rng.normal(0.0, 1.0, width).astype(np.float32)} if self.biased else {}
            self.weights |= bias
            value, before = self.add("Gemm", value, f"w{k}", *bias, transB=int(self.transposed)), width
            value = value if activation is None else self.add(activation, value, name=f"a{k}")
        self.logits = value
        if self.sizes is None:
            self.weights |= {"least": np.float32(-1.0).reshape(()), "most": np.float32(1.0).reshape(())}
            self.action = self.add("Clip", value, "least", "most")
            return
        self.weights["sizes"] = np.array(self.sizes)
        parts = tuple(f"part{k}" for k in range(len(self.sizes)))
        self.nodes.append(Node("Split", (value, "sizes"), parts, {"axis": 1}))
        (self.action, *_) = [self.add("ArgMax", part, name=part, axis=1, keepdims=1) for part in parts]
        if len(parts) > 1:
            self.action = self.add("Concat", *(f"{part}.out" for part in parts), axis=1)

    def add(self, operator: str, *inputs: str, name: str = "", **attributes: Any) -> str:
        output = f"{name or inputs[-1]}.out"
        self.nodes.append(Node(operator, inputs, (output,), attributes))
        return output

    def graph(self) -> Graph:
        return Graph(("observation",), (self.logits, self.action), tuple(self.nodes), self.weights)


@st.composite
def drawings(draw: st.DrawFn) -> Drawing:
    widths = draw(st.lists(st.integers(1, 40), min_size=1, max_size=3))
    activations = draw(st.tuples(*[st.sampled_from((None, "Relu", "Tanh"))] * len(widths)))
    ends = sorted({*draw(st.lists(st.integers(1, widths[-1]), max_size=4)), widths[-1]})
    sizes = draw(st.sampled_from((None, tuple(np.diff([0, *ends]).tolist()))))
    return Drawing(tuple(widths), activations, sizes, draw(st.booleans()), draw(st.booleans()), draw(st.integers(0, 1_000)))


def run(graph: Graph, observations: Any) -> tuple[Any, Any]:
    found = graph.run({"observation": observations})
    return found[graph.outputs[0]], found[graph.outputs[1]]


@settings(max_examples=100, deadline=None)
@given(drawing=drawings(), rows=st.integers(1, 9))
def test_it_computes_what_the_graph_says(drawing: Drawing, rows: int) -> None:
    graph = drawing.graph()
    perceptron = perceptron_of(graph)
    assert perceptron is not None
    observations = np.random.default_rng(rows).normal(0.0, 3.0, (rows, FIELDS)).astype(np.float32)
    logits, actions, finite = perceptron(observations)
    expected_logits, expected_actions = run(graph, observations)
    assert finite and logits.dtype == np.float32 and actions.dtype == expected_actions.dtype
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-4, atol=1e-4)
    if drawing.sizes is None:
        np.testing.assert_allclose(actions, expected_actions, rtol=1e-4, atol=1e-4)
    else:  # of its own logits: those of the graph may be nearer to each other than rounding
        parts = np.split(logits, np.cumsum(drawing.sizes)[:-1], axis=1)
        assert actions.tolist() == np.stack([part.argmax(1) for part in parts], axis=1).tolist()
    alone = [perceptron(observations[k : k + 1]) for k in range(rows)]
    assert all((one[0][0] == logits[k]).all() and (one[1][0] == actions[k]).all() for k, one in enumerate(alone))
    strided, _, _ = perceptron(np.asfortranarray(observations))
    assert (strided == logits).all()


def test_of_equal_logits_the_first_is_chosen() -> None:
    drawing = Drawing(widths=(6,), activations=(None,), sizes=(2, 4))
    drawing.weights |= {"w0": np.zeros((6, FIELDS), np.float32), "b0": np.array([1, 1, 0, 2, 1, 2], np.float32)}
    perceptron = perceptron_of(drawing.graph())
    assert perceptron is not None
    assert perceptron(np.ones((1, FIELDS), np.float32))[1].tolist() == [[0, 1]]


@settings(max_examples=50, deadline=None)
@given(
    rows=st.integers(0, 4), sizes=st.lists(st.integers(1, 5), min_size=1, max_size=4), seed=st.integers(0, 99), one=st.booleans()
)
def test_the_greatest_of_what_is_allowed_is_chosen(rows: int, sizes: list[int], seed: int, one: bool) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.integers(-2, 3, (rows, sum(sizes))).astype(np.float32)  # few values: many are equal
    masks = rng.random((1 if one else rows, sum(sizes))) < 0.7
    ends = np.cumsum(sizes)
    expected = [part.argmax(1) for part in np.split(np.where(masks, logits, -np.inf), ends[:-1], axis=1)]
    assert greatest_allowed(logits, masks, ends).tolist() == np.stack(expected, axis=1).tolist()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_told(value: float) -> None:
    perceptron = perceptron_of(Drawing().graph())
    assert perceptron is not None
    observations = np.zeros((3, FIELDS), np.float32)
    assert perceptron(observations)[2]
    observations[1, 2] = value
    assert not perceptron(observations)[2]
    drawing = Drawing()
    drawing.weights["b1"] = np.full(6, value, np.float32)
    broken = perceptron_of(drawing.graph())
    assert broken is not None and not broken(np.zeros((1, FIELDS), np.float32))[2]


def test_rows_of_another_width_are_refused() -> None:
    perceptron = perceptron_of(Drawing().graph())
    assert perceptron is not None
    with pytest.raises(GraphError, match="observations of 4 fields; accepted are 5"):
        perceptron(np.zeros((1, 4), np.float32))


def changed(graph: Graph, place: int, **changes: Any) -> Graph:
    nodes = list(graph.nodes)
    nodes[place] = replace(nodes[place], **changes)
    return replace(graph, nodes=tuple(nodes))


def weighing(graph: Graph, changes: Mapping[str, Any]) -> Graph:
    return replace(graph, weights={**graph.weights, **changes})


WHOLE = Drawing().graph()  # Max Min Gemm Relu Gemm Split ArgMax ArgMax Concat
LIMITED = Drawing(sizes=None).graph()
OTHERS = {
    "no limits": replace(WHOLE, nodes=WHOLE.nodes[2:]),
    "limits the wrong way round": weighing(WHOLE, {"low": WHOLE.weights["high"], "high": WHOLE.weights["low"]}),
    "a limit that is no number": weighing(WHOLE, {"low": np.full(FIELDS, np.nan, np.float32)}),
    "limits of other widths": weighing(WHOLE, {"high": WHOLE.weights["high"][:1]}),
    "double precision": weighing(WHOLE, {"w0": WHOLE.weights["w0"].astype(np.float64)}),
    "a bias of another shape": weighing(WHOLE, {"b0": WHOLE.weights["b0"][:1]}),
    "a scaled layer": changed(WHOLE, 2, attributes={"transB": 1, "alpha": 2.0}),
    "a scaled bias": changed(WHOLE, 2, attributes={"transB": 1, "beta": 0.5}),
    "a transposed input": changed(WHOLE, 2, attributes={"transB": 1, "transA": 1}),
    "another activation": changed(WHOLE, 3, operator="Sigmoid"),
    "a layer that reads an earlier value": changed(WHOLE, 4, inputs=("b0.out", "w1", "b1")),
    "a node without outputs": changed(WHOLE, 3, outputs=()),
    "a name twice": changed(WHOLE, 3, outputs=("b0.out",)),
    "a name of a weight": changed(WHOLE, 3, outputs=("b1",)),
    "no layer": replace(WHOLE, nodes=(*WHOLE.nodes[:2], *WHOLE.nodes[5:]), outputs=("high.out", WHOLE.outputs[1])),
    "an operator more": replace(WHOLE, nodes=(*WHOLE.nodes, Node("Identity", (WHOLE.outputs[1],), ("more",), {}))),
    "the last of equal ones": changed(WHOLE, 6, attributes={"axis": 1, "keepdims": 1, "select_last_index": 1}),
    "the greatest of a column": changed(WHOLE, 6, attributes={"axis": 0, "keepdims": 1}),
    "parts in another order": changed(WHOLE, 8, inputs=WHOLE.nodes[8].inputs[::-1]),
    "parts below each other": changed(WHOLE, 8, attributes={"axis": 0}),
    "parts of the rows": changed(WHOLE, 5, attributes={"axis": 0}),
    "narrower parts": weighing(WHOLE, {"sizes": np.array([2, 3])}),
    "an empty part": weighing(WHOLE, {"sizes": np.array([0, 6])}),
    "a part of no width": weighing(WHOLE, {"sizes": np.array([-1, 7])}),
    "too many parts": weighing(WHOLE, {"sizes": np.array([2, 2, 2])}),
    "parts that would fill the memory": weighing(WHOLE, {"sizes": np.array([2**62, 2**62])}),
    "logits of another layer": replace(WHOLE, outputs=("b0.out", WHOLE.outputs[1])),
    "an output more": replace(WHOLE, outputs=(*WHOLE.outputs, "b0.out")),
    "limited by more than one number": weighing(LIMITED, {"least": np.full(6, -1.0, np.float32), "most": np.ones(6, np.float32)}),
    "limited the wrong way round": weighing(LIMITED, {"least": LIMITED.weights["most"], "most": LIMITED.weights["least"]}),
}


@pytest.mark.parametrize("graph", OTHERS.values(), ids=OTHERS.keys())
def test_other_graphs_are_left_to_the_reader_of_operators(graph: Graph) -> None:
    assert perceptron_of(WHOLE) is not None and perceptron_of(LIMITED) is not None
    assert perceptron_of(graph) is None
