"""ONNX graphs of exit predictors, exit policies and ensembles. Needs onnx (extra ``train``).

LightGBM's trees are written here, not by onnxmltools: that one rounds thresholds to the nearest float32, which sends rows that
lie on a threshold the other way, and brings scikit-learn along.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import helper, numpy_helper

from arbgym.models.ensemble import HALF, Ensemble, values_of
from arbgym.models.exits import UPSIDE_LOGITS, ExitPolicy

OPSET, TREES_OPSET, IR_VERSION = 20, 3, 10
_TREES = "ai.onnx.ml"


def exit_graph(policy: ExitPolicy) -> bytes:
    """``observation`` to ``logits`` and ``action``: limits, predictor, thresholds and choice in one graph."""
    predictor = onnx.compose.add_prefix(policy.predictor.graph(policy.names), "predictor/")
    inner = predictor.graph
    (low, high), (upside, drawdown, sell) = policy.limits, policy.bars
    weights: dict[str, Any] = {"low": low, "high": high, "signs": np.array([[-0.5, 0.5]], dtype=np.float32)}
    nodes = [
        helper.make_node("Max", ["observation", "low"], ["raised"]),
        helper.make_node("Min", ["raised", "high"], [inner.input[0].name]),
        *inner.node,
    ]
    scores = inner.output[0].name
    if policy.mode == "classifier":
        weights["bar"] = sell
        nodes.append(helper.make_node("Sub", [scores, "bar"], ["margin"]))
    else:
        weights |= {"upside_bar": upside, "drawdown_bar": drawdown, "scale": np.float32(UPSIDE_LOGITS)}
        weights["columns"] = np.array([1, 1])
        nodes += [
            helper.make_node("Split", [scores, "columns"], ["upside", "drawdown"], axis=1),
            helper.make_node("Sub", ["upside_bar", "upside"], ["missing"]),
            helper.make_node("Mul", ["missing", "scale"], ["missing_logits"]),
            helper.make_node("Sub", ["drawdown", "drawdown_bar"], ["danger"]),
            helper.make_node("Max", ["missing_logits", "danger"], ["margin"]),
        ]
    nodes.append(helper.make_node("Mul", ["margin", "signs"], ["logits"]))
    return sealed(nodes, [*inner.initializer, *tensors(weights)], len(low), [predictor])


def ensemble_graph(ensemble: Ensemble) -> bytes:
    """The members' graphs side by side, each with names of its own, then the weighted vote against one half."""
    parts = [onnx.load_from_string(member.onnx()) for member in ensemble.members]
    widths = {part.graph.input[0].type.tensor_type.shape.dim[1].dim_value for part in parts}
    if len(widths) != 1:
        raise ValueError(f"members: observations of {sorted(widths)} fields; accepted is one environment's")
    weights: dict[str, Any] = {"half": HALF, "signs": np.array([[-0.5, 0.5]], dtype=np.float32)}
    nodes, constants, votes = [], [], []
    for k, (part, member) in enumerate(zip(parts, ensemble.members, strict=True)):
        prefixed = onnx.compose.add_prefix(part, f"member{k}/")
        constants += prefixed.graph.initializer
        inner = [helper.make_node("Identity", ["observation"], [prefixed.graph.input[0].name]), *prefixed.graph.node]
        nodes += [*inner, *_vote(k, f"member{k}/logits", values_of(member), weights)]
        weights[f"share{k}"] = ensemble.shares[k]
        nodes.append(helper.make_node("Mul", [f"vote{k}", f"share{k}"], [f"weighted{k}"]))
        votes.append(f"weighted{k}")
    total = votes[0]
    for k, name in enumerate(votes[1:], start=1):
        nodes.append(helper.make_node("Add", [total, name], [f"total{k}"]))
        total = f"total{k}"
    nodes.append(helper.make_node("Sub", [total, "half"], ["margin"]))
    nodes.append(helper.make_node("Mul", ["margin", "signs"], ["logits"]))
    return sealed(nodes, [*constants, *tensors(weights)], widths.pop(), parts)


def _vote(k: int, logits: str, values: Any, weights: dict[str, Any]) -> list[Any]:
    """Member k's logits as the share it would sell: see ``arbgym.models.ensemble.vote``."""
    if values is None:
        weights |= {"least": np.float32(-1.0), "most": np.float32(1.0)}
        return [
            helper.make_node("Clip", [logits, "least", "most"], [f"limited{k}"]),
            helper.make_node("Mul", [f"limited{k}", "half"], [f"halved{k}"]),
            helper.make_node("Add", [f"halved{k}", "half"], [f"vote{k}"]),
        ]
    weights[f"values{k}"] = values[:, None]
    return [
        helper.make_node("Softmax", [logits], [f"softmax{k}"], axis=1),
        helper.make_node("MatMul", [f"softmax{k}", f"values{k}"], [f"vote{k}"]),
    ]


def forest_graph(boosters: Sequence[Any]) -> Any:
    """One score for each of LightGBM's boosters, side by side."""
    parts, nodes = [], []
    for k, booster in enumerate(boosters):
        attributes = tree_attributes(booster.dump_model()["tree_info"])
        node = helper.make_node("TreeEnsembleRegressor", ["observation"], [f"score{k}"], domain=_TREES, **attributes)
        nodes.append(node)
        parts.append(f"score{k}")
    nodes.append(helper.make_node("Concat", parts, ["scores"], axis=1))
    graph = helper.make_graph(nodes, "forest", [_observation(boosters[0].num_feature())], [_floats("scores", len(parts))])
    return _model(graph)


def tree_attributes(trees: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Attributes of a TreeEnsembleRegressor for the trees of LightGBM's dumped model.

    Raises ValueError on a split of another kind than "at most": there is none without categories.
    """
    names = ("treeids", "nodeids", "featureids", "truenodeids", "falsenodeids", "values", "modes")
    found: dict[str, list[Any]] = {f"nodes_{name}": [] for name in names}
    found |= {f"target_{name}": [] for name in ("treeids", "nodeids", "ids", "weights")}
    for tree, content in enumerate(trees):
        start = len(found["nodes_treeids"])
        for node, number in _numbered(content["tree_structure"]):
            branch = "split_index" in node
            if branch and node["decision_type"] != "<=":
                raise ValueError(f"decision_type = {node['decision_type']!r}; accepted is '<='")
            row = {
                "treeids": tree,
                "nodeids": number,
                "featureids": node["split_feature"] if branch else 0,
                "truenodeids": number + 1 if branch else 0,
                "falsenodeids": 0,
                "values": float(rounded_down(node["threshold"])) if branch else 0.0,
                "modes": "BRANCH_LEQ" if branch else "LEAF",
            }
            for name, value in row.items():
                found[f"nodes_{name}"].append(value)
            if not branch:
                for name, value in (("treeids", tree), ("nodeids", number), ("ids", 0), ("weights", float(node["leaf_value"]))):
                    found[f"target_{name}"].append(value)
        _link(found, start)
    return {**found, "n_targets": 1, "aggregate_function": "SUM", "post_transform": "NONE"}


def rounded_down(threshold: float) -> np.float32:
    """The greatest float32 at or below a threshold: the same float32 numbers are at most it."""
    near = np.float32(threshold)
    return np.nextafter(near, np.float32(-np.inf)) if float(near) > threshold else near


def _numbered(root: Mapping[str, Any]) -> Iterator[tuple[Mapping[str, Any], int]]:
    """Nodes with their numbers: each parent, then all of its left side, then all of its right side."""
    waiting, number = [root], 0
    while waiting:
        node = waiting.pop()
        yield node, number
        number += 1
        if "split_index" in node:
            waiting += [node["right_child"], node["left_child"]]


def _link(found: dict[str, list[Any]], start: int) -> None:
    """Set where each branch's right side begins: after its left side has ended."""
    open_branches: list[int] = []
    for place in range(start, len(found["nodes_modes"])):
        if found["nodes_modes"][place] == "BRANCH_LEQ":
            open_branches.append(place)
        elif open_branches and place + 1 < len(found["nodes_modes"]):
            found["nodes_falsenodeids"][open_branches.pop()] = place + 1 - start


def tensors(weights: Mapping[str, Any]) -> list[Any]:
    """Named constants of a graph."""
    return [numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()]


def sealed(nodes: Sequence[Any], weights: Sequence[Any], fields: int, parts: Sequence[Any] = ()) -> bytes:
    """A whole policy's bytes: the nodes, which compute ``logits`` (N, 2), and the choice of the larger; checked by onnx."""
    choice = helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=1)
    action = helper.make_tensor_value_info("action", onnx.TensorProto.INT64, ["batch", 1])
    graph = helper.make_graph([*nodes, choice], "policy", [_observation(fields)], [_floats("logits", 2), action], weights)
    model = _model(graph, parts)
    onnx.checker.check_model(model, full_check=True)
    return bytes(model.SerializeToString())


def _model(graph: Any, parts: Sequence[Any] = ()) -> Any:
    """A model in the newest version that its parts ask for: what a policy may hold means the same in all from 18 on."""
    versions = {"": OPSET, _TREES: TREES_OPSET}
    for part in parts:
        for entry in part.opset_import:
            versions[entry.domain] = max(versions.get(entry.domain, 0), entry.version)
    opsets = [helper.make_opsetid(domain, version) for domain, version in versions.items()]
    newest = max((part.ir_version for part in parts), default=IR_VERSION)
    return helper.make_model(graph, opset_imports=opsets, ir_version=max(newest, IR_VERSION), producer_name="arbgym")


def _observation(fields: int) -> Any:
    return _floats("observation", fields)


def _floats(name: str, width: int) -> Any:
    return helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", width])
