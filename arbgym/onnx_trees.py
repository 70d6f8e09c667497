"""An ensemble of decision trees as ONNX writes it (ai.onnx.ml TreeEnsembleRegressor, versions 1 to 3), read strictly.

Read is the form that exporters write: the nodes of one tree lie together, numbered from 0, which is the root, and children come
after their parent. So there are no cycles, and a walk ends at a leaf after as many steps as the deepest tree has levels. Anything
else is refused when the file is read: a runtime may follow a bad index out of its memory.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

MAX_DEPTH = 256
_CHUNK = 1_000_000  # tree walks at a time: a few arrays of so many numbers
_INTEGERS = ("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids")
_WEIGHTS = ("target_treeids", "target_nodeids", "target_ids", "target_weights")
_OPTIONAL = ("nodes_missing_value_tracks_true", "nodes_hitrates", "base_values", "aggregate_function", "post_transform")
_REQUIRED = (*_INTEGERS, "nodes_values", "nodes_modes", *_WEIGHTS, "n_targets")


class Trees(NamedTuple):
    """Nodes of all trees (M,); a leaf is its own child. ``weights`` (M,) are 0 but for leaves; ``roots`` (T,), ``base`` (1,)."""

    feature: NDArray[np.int64]
    threshold: NDArray[np.float32]
    below: NDArray[np.int64]
    above: NDArray[np.int64]
    weights: NDArray[np.float32]
    roots: NDArray[np.int64]
    base: NDArray[np.float32]
    depth: int

    def run(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        """Sums of the leaves' weights (N, 1) for rows (N, D). Raises ValueError when a node asks for a column beyond D."""
        if x.ndim != 2 or x.dtype != np.float32:
            raise ValueError(f"{x.dtype} of shape {x.shape}; accepted is float32 (N, D)")
        asked = int(self.feature.max(initial=-1))
        if asked >= x.shape[1]:
            raise ValueError(f"nodes_featureids: {asked}; accepted are 0 to {x.shape[1] - 1}")
        size = max(_CHUNK // max(len(self.roots), 1), 1)
        parts = [self._sums(np.ascontiguousarray(x[start : start + size])) for start in range(0, max(len(x), 1), size)]
        return np.concatenate(parts) if len(parts) > 1 else parts[0]

    def _sums(self, x: NDArray[np.float32]) -> NDArray[np.float32]:
        at = np.broadcast_to(self.roots, (len(x), len(self.roots)))
        row = np.arange(len(x))[:, None] * x.shape[1]
        values = x.ravel()
        for _ in range(self.depth):
            at = np.where(values[row + self.feature[at]] <= self.threshold[at], self.below[at], self.above[at])
        sums: NDArray[np.float32] = self.weights[at].sum(axis=1, dtype=np.float32, keepdims=True) + self.base
        return sums


def read_trees(attributes: Mapping[str, Any]) -> Trees:
    """The trees of a node's attributes. Raises ValueError, naming the attribute, on anything but the form above."""
    _check_names(attributes)
    parts = {name: _integers(attributes, name) for name in _INTEGERS}
    tree, number = parts["nodes_treeids"], parts["nodes_nodeids"]
    count = len(tree)
    if count == 0:
        raise ValueError("nodes_treeids: no node; accepted is one tree or more")
    modes, values = attributes["nodes_modes"], np.array(attributes["nodes_values"], dtype=np.float32)
    for name in (*_INTEGERS, "nodes_values", "nodes_modes"):
        if len(attributes[name]) != count:
            raise ValueError(f"{name}: {len(attributes[name])} entries; accepted are {count}, as many as nodes")
    if not set(modes) <= {"BRANCH_LEQ", "LEAF"}:
        raise ValueError(f"nodes_modes: {', '.join(sorted(set(modes)))}; accepted are BRANCH_LEQ and LEAF")
    if not np.isfinite(values).all():
        raise ValueError("nodes_values: not all are finite; accepted are numbers")
    branch = np.array([mode == "BRANCH_LEQ" for mode in modes])

    starts = np.flatnonzero(np.diff(tree, prepend=tree[0] - 1))
    sizes = np.diff(starts, append=count)
    first = np.repeat(starts, sizes)
    if len(np.unique(tree)) != len(starts) or not np.array_equal(number, np.arange(count) - first):
        raise ValueError("nodes_nodeids: not 0, 1, 2, ... within each tree; accepted is that order, tree by tree")
    below, above = (_children(parts[name], name, branch, number, first, np.repeat(sizes, sizes)) for name in _INTEGERS[3:])
    parents = np.bincount(np.concatenate([below[branch], above[branch]]), minlength=count)
    if np.any(parents != (number > 0)):
        raise ValueError("nodes_truenodeids, nodes_falsenodeids: a node with no parent or two; accepted is one, none for a root")
    feature = parts["nodes_featureids"]
    if np.any(feature[branch] < 0):
        raise ValueError(f"nodes_featureids: {feature[branch].min()}; accepted are 0 or more")
    return Trees(
        feature=np.where(branch, feature, 0),
        threshold=np.where(branch, values, np.float32(0.0)),
        below=below,
        above=above,
        weights=_leaf_weights(attributes, tree[starts], starts, sizes, branch),
        roots=starts,
        base=_base(attributes),
        depth=_depth(starts, below, above, branch),
    )


def _check_names(attributes: Mapping[str, Any]) -> None:
    missing = [name for name in _REQUIRED if name not in attributes]
    if missing:
        raise ValueError(f"{', '.join(missing)}: missing")
    unknown = sorted(set(attributes) - {*_REQUIRED, *_OPTIONAL})
    if unknown:
        raise ValueError(f"{', '.join(unknown)}: unknown; accepted are {', '.join((*_REQUIRED, *_OPTIONAL))}")
    for name in (*_REQUIRED[:-1], *_OPTIONAL[:3]):
        if not isinstance(attributes.get(name, ()), tuple):
            raise ValueError(f"{name}: one value; accepted is a list")
    for name, accepted in (("aggregate_function", "SUM"), ("post_transform", "NONE")):
        if attributes.get(name, accepted) != accepted:
            raise ValueError(f"{name} = {attributes[name]!r}; accepted is {accepted!r}")
    if any(attributes.get("nodes_missing_value_tracks_true", ())):
        raise ValueError("nodes_missing_value_tracks_true: not all 0; accepted is 0, as no observation is missing")


def _integers(attributes: Mapping[str, Any], name: str) -> NDArray[np.int64]:
    values = attributes[name]
    if not all(isinstance(value, int) and abs(value) < 2**31 for value in values):
        raise ValueError(f"{name}: not integers of 32 bits; accepted are those")
    return np.array(values, dtype=np.int64)


def _children(
    child: NDArray[np.int64],
    name: str,
    branch: NDArray[np.bool_],
    number: NDArray[np.int64],
    first: NDArray[np.int64],
    size: NDArray[np.int64],
) -> NDArray[np.int64]:
    """Where each branch's child lies among all nodes; a leaf is its own."""
    bad = branch & ((child <= number) | (child >= size))
    if bad.any():
        node = int(np.flatnonzero(bad)[0])
        raise ValueError(f"{name}: {child[node]} in node {number[node]}; accepted are {number[node] + 1} to {size[node] - 1}")
    return np.where(branch, child, number) + first


def _depth(roots: NDArray[np.int64], below: NDArray[np.int64], above: NDArray[np.int64], branch: NDArray[np.bool_]) -> int:
    """Steps from a root to the deepest leaf. Every node has one parent before it, so this ends."""
    level, depth = roots[branch[roots]], 0
    while level.size:
        depth += 1
        if depth > MAX_DEPTH:
            raise ValueError(f"trees deeper than {MAX_DEPTH} levels; accepted are up to {MAX_DEPTH}")
        level = np.concatenate([below[level], above[level]])
        level = level[branch[level]]
    return depth


def _leaf_weights(
    attributes: Mapping[str, Any],
    trees: NDArray[np.int64],
    starts: NDArray[np.int64],
    sizes: NDArray[np.int64],
    branch: NDArray[np.bool_],
) -> NDArray[np.float32]:
    """Each leaf's weight, 0 elsewhere. A leaf without one, or several targets, mean different things to different runtimes."""
    tree, node, target = (_integers(attributes, name) for name in _WEIGHTS[:3])
    values = np.array(attributes["target_weights"], dtype=np.float32)
    if not len(tree) == len(node) == len(target) == len(values):
        raise ValueError(f"target_weights: {len(values)} entries; accepted are {len(tree)}, as many as target_treeids")
    if attributes["n_targets"] != 1 or np.any(target != 0):
        raise ValueError(f"n_targets = {attributes['n_targets']}, target_ids up to {target.max(initial=0)}; accepted are 1 and 0")
    if not np.isfinite(values).all():
        raise ValueError("target_weights: not all are finite; accepted are numbers")
    order = np.argsort(trees)
    place = order[np.searchsorted(trees, tree, sorter=order).clip(max=len(trees) - 1)]
    if np.any(trees[place] != tree) or np.any((node < 0) | (node >= sizes[place])) or np.any(branch[starts[place] + node]):
        raise ValueError("target_treeids, target_nodeids: not all name a leaf; accepted are leaves")
    leaf = starts[place] + node
    if np.any(np.bincount(leaf, minlength=len(branch)) != ~branch):
        raise ValueError("target_nodeids: a leaf with no weight or two; accepted is one")
    weights = np.zeros(len(branch), dtype=np.float32)
    weights[leaf] = values
    return weights


def _base(attributes: Mapping[str, Any]) -> NDArray[np.float32]:
    base = np.array(attributes.get("base_values", ()), dtype=np.float32)
    if len(base) > 1 or not np.isfinite(base).all():
        raise ValueError(f"base_values: {base.tolist()}; accepted is one number or none")
    return base if len(base) else np.zeros(1, dtype=np.float32)
