"""The reader of ONNX files: it computes what onnxruntime computes, and refuses what a policy may not be."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.onnx_graph import GraphError, parse

onnx = pytest.importorskip("onnx", reason="the extra train is not installed")
onnxruntime = pytest.importorskip("onnxruntime", reason="the extra train is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper
FLOAT = onnx.TensorProto.FLOAT


def model(nodes: list, outputs: list[str], weights: dict[str, np.ndarray], width: int = 4, **extra: object) -> bytes:
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info("x", FLOAT, ["n", width])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9, **extra).SerializeToString()


def answers(content: bytes, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    ours = list(parse(content).run({"x": x}).values())
    return ours, onnxruntime.InferenceSession(content).run(None, {"x": x})


rng = np.random.default_rng(0)
W, B = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
TWO = np.array(2.0, dtype=np.float32)
CASES = {
    "Gemm": ([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], {"w": W, "b": B}),
    "Gemm, transposed and scaled": (
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], transB=1, alpha=0.5, beta=2.0)],
        {"w": np.ascontiguousarray(W.T), "b": B},
    ),
    "MatMul and Add": (
        [helper.make_node("MatMul", ["x", "w"], ["h"]), helper.make_node("Add", ["h", "b"], ["y"])],
        {"w": W, "b": B},
    ),
    "Relu": ([helper.make_node("Relu", ["x"], ["y"])], {}),
    "Tanh": ([helper.make_node("Tanh", ["x"], ["y"])], {}),
    "Sigmoid": ([helper.make_node("Sigmoid", ["x"], ["y"])], {}),
    "Sub, Mul, Div": (
        [
            helper.make_node("Sub", ["x", "two"], ["a"]),
            helper.make_node("Mul", ["a", "two"], ["b"]),
            helper.make_node("Div", ["b", "two"], ["y"]),
        ],
        {"two": TWO},
    ),
    "Clip": ([helper.make_node("Clip", ["x", "low", "two"], ["y"])], {"low": np.float32(-1.0) * TWO, "two": TWO}),
    "Clip below alone": ([helper.make_node("Clip", ["x", "two"], ["y"])], {"two": TWO}),
    "Max and Min": (
        [helper.make_node("Max", ["x", "two"], ["a"]), helper.make_node("Min", ["a", "x"], ["y"])],
        {"two": TWO},
    ),
    "ArgMax": ([helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=1)], {}),
    "ArgMax without the axis": ([helper.make_node("ArgMax", ["x"], ["y"], axis=1, keepdims=0)], {}),
    "Split and Concat": (
        [
            helper.make_node("Split", ["x", "sizes"], ["a", "b"], axis=1),
            helper.make_node("Concat", ["b", "a"], ["y"], axis=1),
        ],
        {"sizes": np.array([1, 3])},
    ),
    "Slice": (
        [helper.make_node("Slice", ["x", "start", "end", "axis"], ["y"])],
        {"start": np.array([1]), "end": np.array([3]), "axis": np.array([1])},
    ),
    "Identity and Constant": (
        [
            helper.make_node("Constant", [], ["c"], value=numpy_helper.from_array(TWO)),
            helper.make_node("Identity", ["x"], ["a"]),
            helper.make_node("Add", ["a", "c"], ["y"]),
        ],
        {},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_operators_compute_what_onnxruntime_does(name: str) -> None:
    nodes, weights = CASES[name]
    x = rng.normal(scale=3.0, size=(17, 4)).astype(np.float32)
    (ours,), (theirs,) = answers(model(nodes, ["y"], weights), x)
    assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
    assert np.allclose(ours, theirs, rtol=1e-6, atol=1e-6)


def test_weights_written_as_lists_are_read_as_those_written_as_bytes() -> None:
    tensor = helper.make_tensor("w", FLOAT, [2], [1.5, -2.25])
    index = helper.make_tensor("i", onnx.TensorProto.INT64, [2], [-3, 2**40])
    content = onnx.ModelProto()
    content.CopyFrom(onnx.load_from_string(model([helper.make_node("Relu", ["x"], ["y"])], ["y"], {})))
    content.graph.initializer.extend([tensor, index])
    weights = parse(content.SerializeToString()).weights
    assert weights["w"].tolist() == [1.5, -2.25] and weights["i"].tolist() == [-3, 2**40]


def changed(change) -> bytes:
    content = onnx.load_from_string(model([helper.make_node("Gemm", ["x", "w", "b"], ["y"])], ["y"], {"w": W, "b": B}))
    change(content)
    return content.SerializeToString()


def _external(content) -> None:
    tensor = content.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="weights.bin")


def _function(content) -> None:
    content.functions.add(name="f", domain="own")


def _branch(content) -> None:
    content.graph.node.append(helper.make_node("If", ["x"], ["z"], then_branch=content.graph, else_branch=content.graph))


def _foreign(content) -> None:
    content.graph.node.append(helper.make_node("Relu", ["x"], ["z"], domain="com.example"))


def _sparse(content) -> None:
    content.graph.sparse_initializer.add()


def _dangling(content) -> None:
    content.graph.node[0].input[0] = "nowhere"


def _no_output(content) -> None:
    content.graph.output[0].name = "nothing"


def _short(content) -> None:
    content.graph.initializer[0].dims[0] = 5


def _text(content) -> None:
    content.graph.initializer[0].data_type = onnx.TensorProto.STRING


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (_external, "keeps its data in another file"),
        (_function, "functions of its own"),
        (_branch, "operator If is not allowed"),
        (_foreign, "operator com.example::Relu is not allowed"),
        (_sparse, "sparse tensors"),
        (_dangling, "reads 'nowhere'"),
        (_no_output, "output 'nothing' is computed by nothing"),
        (_short, "24 values for shape"),
        (_text, "data type 8"),
    ],
)
def test_what_a_policy_may_not_be_is_refused(change, message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse(changed(change))


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_bytes_are_refused_or_read_but_never_crash(data: st.DataObject) -> None:
    content = bytearray(changed(lambda _: None))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    content = content[: data.draw(st.integers(0, len(content)))]
    try:
        graph = parse(bytes(content))
    except GraphError:
        return
    assert set(graph.outputs) <= {
        "",
        *graph.inputs,
        *graph.weights,
        *(name for node in graph.nodes for name in node.outputs),
    }


@given(st.binary(max_size=200))
def test_arbitrary_bytes_are_refused(content: bytes) -> None:
    try:
        graph = parse(content)
    except GraphError:
        return
    assert graph.nodes == ()
