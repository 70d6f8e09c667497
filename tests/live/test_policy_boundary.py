"""A policy directory is untrusted: whatever its bytes are, it loads as what it was or is refused by name, and nothing else."""

from __future__ import annotations

import hashlib
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("pydantic_settings", reason='the live extra is missing: pip install "arbgym[live]"')
pytest.importorskip("onnx", reason="the extra train is not installed")

from arbgym.live.assemble import load_policy
from arbgym.live.observer import Observer
from arbgym.onnx_graph import GraphError, parse
from arbgym.perceptron import perceptron_of
from arbgym.policy import MANIFEST, MODEL, PolicyError, manifest_hash
from tests.live.policies import DEFINITION, save_policy
from tests.live.recordings import WATCHED

JSON: Any = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**70)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)


@cache
def whole() -> tuple[str, bytes]:
    """A manifest's text and a model's bytes that load."""
    with TemporaryDirectory() as name:
        folder = save_policy(Path(name) / "policy")
        return (folder / MANIFEST).read_text(), (folder / MODEL).read_bytes()


def places(value: Any, before: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    """Every place in a JSON value; of long lists the first entries."""
    inner = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    return [before, *(place for key, entry in inner for place in places(entry, (*before, key)))]


def refused(manifest: bytes, model: bytes) -> bool:
    """Load, and build the observer: whether it was refused. The only error is the policy's own."""
    with TemporaryDirectory() as name:
        (Path(name) / MANIFEST).write_bytes(manifest)
        (Path(name) / MODEL).write_bytes(model)
        try:
            Observer(load_policy(Path(name), "numpy"), WATCHED)
        except PolicyError as error:
            assert str(error)
            return True
    return False


@settings(max_examples=250, deadline=None)
@given(data=st.data(), value=JSON, signed=st.booleans())
def test_any_changed_manifest_is_refused_or_harmless(data: st.DataObject, value: Any, signed: bool) -> None:
    text, model = whole()
    manifest = json.loads(text)
    *path, last = data.draw(st.sampled_from(places(manifest)[1:]))
    at = manifest
    for key in path:
        at = at[key]
    at[last] = value
    if resigned := signed and last != "sha256":
        manifest["sha256"] = manifest_hash(manifest)
    assert refused(json.dumps(manifest).encode(), model) or resigned or manifest == json.loads(text)


@settings(max_examples=150, deadline=None)
@given(data=st.data(), cut=st.booleans())
def test_any_changed_bytes_are_refused_or_are_a_whole_policy(data: st.DataObject, cut: bool) -> None:
    text, model = whole()
    manifest = json.loads(text)
    changed = bytearray(model)
    for place in data.draw(st.lists(st.integers(0, len(model) - 1), min_size=1, max_size=4)):
        changed[place] = data.draw(st.integers(0, 255))
    held = bytes(changed[: data.draw(st.integers(0, len(model)))] if cut else changed)
    manifest["model"]["sha256"] = hashlib.sha256(held).hexdigest()
    manifest["sha256"] = manifest_hash(manifest)
    # what still gives the golden pairs may load; any error but the policy's own fails here
    refused(json.dumps(manifest).encode(), held)


@settings(max_examples=100, deadline=None)
@given(junk=st.binary(max_size=300))
def test_junk_is_refused(junk: bytes) -> None:
    _, model = whole()
    with TemporaryDirectory() as name:
        (Path(name) / MANIFEST).write_bytes(junk)
        (Path(name) / MODEL).write_bytes(model)
        with pytest.raises(PolicyError):
            load_policy(Path(name), "numpy")


@pytest.mark.parametrize(("operator", "name"), [("Gemm", "transA"), ("Gemm", "alpha"), ("ArgMax", "axis"), ("Concat", "axis")])
def test_a_tensor_for_an_attribute_is_refused(operator: str, name: str) -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(whole()[1])
    node = next(node for node in model.graph.node if node.op_type == operator)
    kept = [attribute for attribute in node.attribute if attribute.name != name]
    del node.attribute[:]
    tensor = onnx.numpy_helper.from_array(np.ones(2, dtype=np.float32))
    node.attribute.extend([*kept, onnx.helper.make_attribute(name, tensor)])
    with pytest.raises(GraphError, match=f"operator {operator} has a tensor"):
        parse(model.SerializeToString())


def test_a_name_that_two_tensors_have_is_refused() -> None:
    onnx = pytest.importorskip("onnx")
    model = onnx.load_from_string(whole()[1])
    model.graph.initializer.append(model.graph.initializer[0])
    with pytest.raises(GraphError, match="a tensor's name twice"):
        parse(model.SerializeToString())


def test_fewer_logits_than_the_action_has_are_refused(tmp_path: Path) -> None:
    """A choice among what a mask allows would look for the others beyond them."""
    onnx = pytest.importorskip("onnx")
    text, held = whole()
    model, manifest = onnx.load_from_string(held), json.loads(text)
    for node in model.graph.node:
        for names in (node.input, node.output):
            names[:] = ["all" if name == "logits" else name for name in names]
    model.graph.node.append(onnx.helper.make_node("Slice", ["all", "from", "to", "along"], ["logits"]))
    for name, value in (("from", 0), ("to", 8), ("along", 1)):
        model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([value]), name))
    content = model.SerializeToString()
    manifest["model"]["sha256"] = hashlib.sha256(content).hexdigest()
    manifest["golden"]["logits"] = [row[:8] for row in manifest["golden"]["logits"]]
    manifest["sha256"] = manifest_hash(manifest)
    (tmp_path / MODEL).write_bytes(content)
    (tmp_path / MANIFEST).write_text(json.dumps(manifest))
    with pytest.raises(PolicyError, match="golden: 8 logits; accepted are 44"):
        load_policy(tmp_path, "numpy")


@pytest.mark.parametrize("sizes", [[], [0, 44], [-1, 45], [2**62, 3], [2**33] * 3, [3]])
def test_widths_that_no_policy_has_are_refused_before_memory_is_laid_out(sizes: list[int]) -> None:
    onnx = pytest.importorskip("onnx")
    _, held = whole()
    model = onnx.load_from_string(held)
    place = [tensor.name for tensor in model.graph.initializer].index("sizes")
    model.graph.initializer[place].CopyFrom(onnx.numpy_helper.from_array(np.array(sizes, dtype=np.int64), "sizes"))
    graph = parse(model.SerializeToString())
    with pytest.raises(GraphError):
        graph.run({"observation": np.zeros((1, len(DEFINITION.observation)), dtype=np.float32)})
    assert perceptron_of(graph) is None
