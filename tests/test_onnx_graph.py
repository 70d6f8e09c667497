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
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("ai.onnx.ml", 3)]
    return helper.make_model(graph, opset_imports=opsets, ir_version=9, **extra).SerializeToString()


def answers(content: bytes, x: np.ndarray) -> tuple[list[np.ndarray], list[np.ndarray]]:
    ours = list(parse(content).run({"x": x}).values())
    return ours, onnxruntime.InferenceSession(content).run(None, {"x": x})


rng = np.random.default_rng(0)
W, B = rng.normal(size=(4, 6)).astype(np.float32), rng.normal(size=6).astype(np.float32)
TWO = np.array(2.0, dtype=np.float32)
C1, C2 = rng.normal(size=(3, 1, 2)).astype(np.float32), rng.normal(size=(5, 3, 2)).astype(np.float32)
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
    "Slice with steps": (
        [helper.make_node("Slice", ["x", "start", "end", "axis", "step"], ["y"])],
        {"start": np.array([1]), "end": np.array([2**63 - 1]), "axis": np.array([1]), "step": np.array([2])},
    ),
    "Reshape, Conv with strides, and Conv with dilations and pads": (
        [
            helper.make_node("Reshape", ["x", "three"], ["a"]),
            helper.make_node("Conv", ["a", "c1", "b1"], ["b"], strides=[2]),
            helper.make_node("Conv", ["b", "c2"], ["c"], dilations=[2], pads=[2, 0]),
            helper.make_node("Reshape", ["c", "two"], ["y"]),
        ],
        {"three": np.array([0, 1, -1]), "c1": C1, "b1": B[:3], "c2": C2, "two": np.array([-1, 10])},
    ),
    "Softmax": ([helper.make_node("Softmax", ["x"], ["y"], axis=1)], {}),
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


def forest(data: st.DataObject, width: int = 4) -> dict[str, object]:
    """Attributes of a random ensemble; thresholds are float32 numbers, some of them met by the rows exactly."""
    found: dict[str, list] = {name: [] for name in (*NODE_PARTS, *TARGET_PARTS)}
    for tree in range(data.draw(st.integers(1, 4))):
        children: dict[int, list[int]] = {}
        leaves, count = [0], 1
        for _ in range(data.draw(st.integers(0, 6))):
            parent = leaves.pop(data.draw(st.integers(0, len(leaves) - 1)))
            children[parent] = [count, count + 1]
            leaves += [count, count + 1]
            count += 2
        for node in range(count):
            branch = node in children
            below, above = children.get(node, [0, 0])
            threshold = data.draw(st.sampled_from([-1.0, 0.0, 0.5, 1.25])) if branch else 0.0
            mode, feature = ("BRANCH_LEQ", data.draw(st.integers(0, width - 1))) if branch else ("LEAF", 0)
            for name, value in zip(NODE_PARTS, (tree, node, feature, below, above, threshold, mode), strict=True):
                found[name].append(value)
            if not branch:
                weight = data.draw(st.integers(-64, 64)) / 16.0
                for name, value in zip(TARGET_PARTS, (tree, node, 0, weight), strict=True):
                    found[name].append(value)
    return {**found, "n_targets": 1, **data.draw(st.sampled_from([{}, {"base_values": [0.5]}]))}


NODE_PARTS = (
    *("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids"),
    *("nodes_falsenodeids", "nodes_values", "nodes_modes"),
)
TARGET_PARTS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")


def trees(attributes: dict[str, object], width: int = 4) -> bytes:
    node = helper.make_node("TreeEnsembleRegressor", ["x"], ["y"], domain="ai.onnx.ml", **attributes)
    return model([node], ["y"], {}, width)


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_trees_walk_as_onnxruntime_walks_them(data: st.DataObject) -> None:
    content = trees(forest(data))
    x = np.random.default_rng(3).choice([-1.5, -1.0, 0.0, 0.5, 0.75, 1.25, 2.0], size=(33, 4)).astype(np.float32)
    (ours,), (theirs,) = answers(content, x)
    assert ours.dtype == theirs.dtype == np.float32 and np.array_equal(ours, theirs)
    alone = parse(content).run({"x": x[7:8]})["y"]
    assert np.array_equal(alone[0], ours[7])


# two trees: a root with two leaves, and a root whose left child is a branch
SOUND: dict[str, list] = {
    "nodes_treeids": [0, 0, 0, 1, 1, 1, 1, 1],
    "nodes_nodeids": [0, 1, 2, 0, 1, 2, 3, 4],
    "nodes_featureids": [0, 0, 0, 3, 1, 0, 0, 0],
    "nodes_truenodeids": [1, 0, 0, 1, 2, 0, 0, 0],
    "nodes_falsenodeids": [2, 0, 0, 4, 3, 0, 0, 0],
    "nodes_values": [0.5, 0.0, 0.0, 1.0, 2.0, 0.0, 0.0, 0.0],
    "nodes_modes": ["BRANCH_LEQ", "LEAF", "LEAF", "BRANCH_LEQ", "BRANCH_LEQ", "LEAF", "LEAF", "LEAF"],
    "target_treeids": [0, 0, 1, 1, 1],
    "target_nodeids": [1, 2, 2, 3, 4],
    "target_ids": [0, 0, 0, 0, 0],
    "target_weights": [1.0, 2.0, 3.0, 4.0, 5.0],
}


def damaged(name: str, place: int, value: object) -> dict[str, object]:
    found: dict[str, object] = {key: list(entries) for key, entries in SOUND.items()}
    found[name][place] = value  # type: ignore[index]
    return {**found, "n_targets": 1}


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        (damaged("nodes_truenodeids", 3, 5), "nodes_truenodeids: 5 in node 0; accepted are 1 to 4"),
        (damaged("nodes_truenodeids", 3, -1), "nodes_truenodeids: -1 in node 0"),
        (damaged("nodes_falsenodeids", 4, 0), "nodes_falsenodeids: 0 in node 1; accepted are 2"),
        (damaged("nodes_falsenodeids", 4, 1), "nodes_falsenodeids: 1 in node 1"),
        (damaged("nodes_falsenodeids", 4, 2), "no parent or two"),
        (damaged("nodes_truenodeids", 0, 2), "no parent or two"),
        (damaged("nodes_featureids", 3, -1), "nodes_featureids: -1"),
        (damaged("nodes_featureids", 3, 2**40), "nodes_featureids: not integers of 32 bits"),
        (damaged("nodes_modes", 3, "BRANCH_LT"), "BRANCH_LT, LEAF; accepted are BRANCH_LEQ"),
        (damaged("nodes_values", 3, float("nan")), "nodes_values: not all are finite"),
        (damaged("nodes_nodeids", 3, 1), "nodes_nodeids: not 0, 1, 2"),
        (damaged("nodes_treeids", 7, 0), "nodes_nodeids: not 0, 1, 2"),
        (damaged("target_nodeids", 2, 0), "not all name a leaf"),
        (damaged("target_nodeids", 2, 99), "not all name a leaf"),
        (damaged("target_nodeids", 2, -1), "not all name a leaf"),
        (damaged("target_treeids", 2, 7), "not all name a leaf"),
        (damaged("target_nodeids", 2, 3), "no weight or two"),
        (damaged("target_ids", 2, 1), "target_ids up to 1; accepted are 1 and 0"),
        (damaged("target_weights", 2, float("inf")), "target_weights: not all are finite"),
        ({**SOUND, "n_targets": 0}, "n_targets = 0"),
        ({**SOUND, "n_targets": 10**9}, "n_targets = 1000000000"),
        ({**SOUND, "n_targets": 1, "target_treeids": [0], **{n: SOUND[n][:1] for n in TARGET_PARTS[1:]}}, "no weight or two"),
        ({**SOUND, "n_targets": 1, "nodes_values": [0.0] * 7}, "nodes_values: 7 entries; accepted are 8"),
        ({**SOUND, "n_targets": 1, "target_ids": [0]}, "target_weights: 5 entries"),
        ({**SOUND, "n_targets": 1, "base_values": [1.0, 2.0]}, "base_values"),
        ({**SOUND, "n_targets": 1, "aggregate_function": "MAX"}, "aggregate_function = 'MAX'"),
        ({**SOUND, "n_targets": 1, "post_transform": "LOGISTIC"}, "post_transform"),
        ({**SOUND, "n_targets": 1, "nodes_missing_value_tracks_true": [1] * 8}, "nodes_missing_value_tracks_true"),
        ({**SOUND, "n_targets": 1, "nodes_values_as_tensor": 1}, "nodes_values_as_tensor: unknown"),
        ({**SOUND, "n_targets": 1, "nodes_treeids": 3}, "nodes_treeids: one value; accepted is a list"),
        (SOUND, "n_targets: missing"),
    ],
)
def test_trees_that_a_walk_could_leave_are_refused(attributes: dict[str, object], message: str) -> None:
    with pytest.raises(GraphError, match=message):
        parse(trees(attributes))


def test_a_column_that_the_rows_lack_is_refused_when_it_is_read() -> None:
    x = np.zeros((2, 4), dtype=np.float32)
    assert parse(trees({**SOUND, "n_targets": 1})).run({"x": x})["y"].tolist() == [[4.0], [4.0]]
    graph = parse(trees(damaged("nodes_featureids", 3, 4)))
    with pytest.raises(GraphError, match="nodes_featureids: 4; accepted are 0 to 3"):
        graph.run({"x": x})


def test_an_attribute_given_twice_is_refused() -> None:
    content = onnx.load_from_string(trees({**SOUND, "n_targets": 1}))
    content.graph.node[0].attribute.append(helper.make_attribute("n_targets", 2))
    with pytest.raises(GraphError, match="attribute twice"):
        parse(content.SerializeToString())


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damaged_trees_are_refused_or_walked_but_never_crash(data: st.DataObject) -> None:
    content = bytearray(trees({**SOUND, "n_targets": 1}))
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    try:
        found = parse(bytes(content)).run({"x": np.zeros((3, 4), dtype=np.float32)})
    except (GraphError, KeyError):  # KeyError: another input's name
        return
    assert all(isinstance(values, np.ndarray) and len(values) == 3 for values in found.values())


def test_trees_too_deep_are_refused() -> None:
    depth = 300
    count = 2 * depth + 1
    chain = {
        "nodes_treeids": [0] * count,
        "nodes_nodeids": list(range(count)),
        "nodes_featureids": [0] * count,
        "nodes_truenodeids": [k + 1 if k % 2 == 0 and k < count - 1 else 0 for k in range(count)],
        "nodes_falsenodeids": [k + 2 if k % 2 == 0 and k < count - 1 else 0 for k in range(count)],
        "nodes_values": [0.0] * count,
        "nodes_modes": ["BRANCH_LEQ" if k % 2 == 0 and k < count - 1 else "LEAF" for k in range(count)],
        "target_treeids": [0] * (depth + 1),
        "target_nodeids": [*range(1, count, 2), count - 1],
        "target_ids": [0] * (depth + 1),
        "target_weights": [1.0] * (depth + 1),
        "n_targets": 1,
    }
    with pytest.raises(GraphError, match="deeper than 256"):
        parse(trees(chain))


@pytest.mark.parametrize(
    ("attributes", "weights", "message"),
    [
        ({"group": 2}, C1, "groups"),
        ({"strides": [0]}, C1, "strides 0"),
        ({"dilations": [-1]}, C1, "dilations -1"),
        ({"pads": [10**9, 0]}, C1, "pads 1000000000"),
        ({"strides": [1, 1]}, C1, "operator Conv"),
        ({}, C2, r"x \(2, 1, 4\)"),
    ],
)
def test_a_convolution_of_another_kind_is_refused(attributes: dict[str, object], weights: np.ndarray, message: str) -> None:
    nodes = [helper.make_node("Reshape", ["x", "s"], ["a"]), helper.make_node("Conv", ["a", "c"], ["y"], **attributes)]
    graph = parse(model(nodes, ["y"], {"s": np.array([0, 1, 4]), "c": weights}))
    with pytest.raises(GraphError, match=message):
        graph.run({"x": np.zeros((2, 4), dtype=np.float32)})


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
