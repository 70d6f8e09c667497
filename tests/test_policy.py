"""The policy directory: what was saved is what loads, and whatever was tampered with is refused by name."""

from __future__ import annotations

import copy
import json
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import arbgym
from arbgym import policy
from arbgym.engine import load_definition
from arbgym.onnx_graph import parse
from arbgym.policy import GOLDEN_PAIRS, Golden, PolicyError, manifest_hash

onnx = pytest.importorskip("onnx", reason="the extra train is not installed")
pytest.importorskip("onnxruntime", reason="the extra train is not installed")
helper, numpy_helper = onnx.helper, onnx.numpy_helper

DEFINITION = load_definition(arbgym.ENVIRONMENTS["ArbFlash-v0"])
SIZES = [len(choice.values) for choice in DEFINITION.action]
FIELDS = len(DEFINITION.observation)


def network(nodes: tuple[Any, ...] = (), outputs: tuple[str, str] = ("logits", "action"), sizes: list[int] = SIZES) -> bytes:
    """One hidden layer and a choice per component, as the exporter writes them."""
    rng = np.random.default_rng(5)
    parts = [f"part{k}" for k in range(len(sizes))]
    weights = {
        "w1": rng.normal(size=(FIELDS, 8)).astype(np.float32),
        "w2": rng.normal(size=(8, sum(sizes))).astype(np.float32),
        "b2": rng.normal(size=sum(sizes)).astype(np.float32),
        "sizes": np.array(sizes),
    }
    layers = [
        helper.make_node("MatMul", ["observation", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], [outputs[0]]),
        helper.make_node("Split", [outputs[0], "sizes"], parts, axis=1),
        *(helper.make_node("ArgMax", [part], [f"{part}_best"], axis=1, keepdims=1) for part in parts),
        helper.make_node("Concat", [f"{part}_best" for part in parts], [outputs[1]], axis=1),
        *nodes,
    ]
    graph = helper.make_graph(
        layers,
        "policy",
        [helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", FIELDS])],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def golden(model: bytes) -> Golden:
    seen = np.random.default_rng(1).normal(size=(GOLDEN_PAIRS, FIELDS)).astype(np.float32)
    found = parse(model).run({"observation": seen})
    return Golden(seen, *found.values())


def save(directory: Path, model: bytes | None = None, **changes: Any) -> dict[str, Any]:
    model = network() if model is None else model
    arguments: dict[str, Any] = {
        "definition": DEFINITION,
        "config": DEFINITION.configure("base"),
        "preset": "base",
        "encoding": "multidiscrete",
        "feed": "simulated",
        "golden": golden(network()),
        "provenance": {"seed": 3},
    }
    return policy.save(directory, model, **{**arguments, **changes})


def rewrite(directory: Path, change: Callable[[dict[str, Any]], None], seal: bool = True) -> None:
    """Change the manifest on disk; ``seal`` gives it a right hash again, as somebody who knows the format would."""
    manifest = json.loads((directory / "manifest.json").read_text())
    change(manifest)
    if seal:
        manifest["sha256"] = manifest_hash(manifest)
    (directory / "manifest.json").write_text(json.dumps(manifest))


def leaves(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [leaf for key, part in value.items() for leaf in leaves(part, (*path, key))]
    if isinstance(value, list):
        return [leaf for key, part in enumerate(value[:2]) for leaf in leaves(part, (*path, key))]
    return [path]


def test_both_back_ends_decide_as_the_golden_network(tmp_path: Path) -> None:
    save(tmp_path)
    seen = np.random.default_rng(2).normal(size=(500, FIELDS)).astype(np.float32)
    expected = parse(network()).run({"observation": seen})
    for backend in ("onnxruntime", "numpy"):
        logits, actions = policy.load(tmp_path, backend=backend).evaluate(seen)
        assert np.allclose(logits, expected["logits"], atol=1e-5) and np.array_equal(actions, expected["action"])


def test_the_manifest_says_what_the_policy_is_for(tmp_path: Path) -> None:
    written = save(tmp_path)
    manifest = policy.verify(tmp_path)
    assert manifest == written and manifest["environment"]["id"] == "ArbFlash-v0"
    assert manifest["environment"]["config"]["chain"]["block_time_s"] == 2.0
    assert [field["name"] for field in manifest["observation"]["schema"]] == [f.name for f in DEFINITION.observation]
    assert set(manifest["observation"]["schema"][0]) >= {"name", "unit", "scale", "low", "high"}
    assert manifest["provenance"] == {"seed": 3} and len(manifest["golden"]["action"]) == GOLDEN_PAIRS


def test_any_changed_value_of_the_manifest_is_refused(tmp_path: Path) -> None:
    original = save(tmp_path)
    paths = leaves(original)
    assert len(paths) > 100
    for path in paths:
        manifest = copy.deepcopy(original)
        target = manifest
        for key in path[:-1]:
            target = target[key]
        old = target[path[-1]]
        target[path[-1]] = f"{old}x" if isinstance(old, str) else (old or 0) + 1
        (tmp_path / "manifest.json").write_text(json.dumps(manifest))
        with pytest.raises(PolicyError):
            policy.verify(tmp_path)


def set_to(*path: Any) -> Callable[[dict[str, Any]], None]:
    """A change that sets the value at a path: the last item is the value."""

    def change(manifest: dict[str, Any]) -> None:
        target: Any = manifest
        for key in path[:-2]:
            target = target[key]
        target[path[-2]] = path[-1]

    return change


PAST = (datetime.now(UTC) - timedelta(days=1)).isoformat()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (set_to("format", 1), "format = 1; accepted is 3"),
        (set_to("model", "file", "other.onnx"), "model.file = 'other.onnx'"),
        (set_to("model", "sha256", "0" * 64), "model.sha256"),
        (set_to("environment", "id", "Other-v0"), "environment.id = 'Other-v0'; accepted are ArbFlash-v0"),
        (set_to("environment", "version", 7), "environment.version = 7"),
        (set_to("environment", "version", True), "environment.version is a bool"),
        (set_to("observation", "schema", 0, "scale", 99.0), r"observation.schema\[0\]"),
        (set_to("observation", "schema", 1, "name", "renamed"), r"observation.schema\[1\]"),
        (set_to("observation", "sha256", "0" * 64), "observation.sha256"),
        (lambda manifest: manifest["observation"]["schema"].pop(), "number of observation entries"),
        (lambda manifest: manifest["observation"]["schema"].reverse(), r"observation.schema\[0\]"),
        (set_to("action", "schema", 0, "values", [0.0, 1.0]), r"action.schema\[0\]"),
        (set_to("action", "encoding", "binary"), "action.encoding = 'binary'; accepted are multidiscrete"),
        (set_to("action", "encoding", "discrete"), "golden: 44 logits; accepted are 25"),
        (set_to("action", "encoding", "continuous"), "width"),
        (set_to("created", "yesterday"), "created = 'yesterday'; accepted is an ISO 8601 time"),
        (set_to("created", "2020-01-01T00:00:00"), "no time zone"),
        (set_to("expires_at", PAST), "is not after created"),
        (set_to("golden", "logits", 3, 0, 123.0), "golden: logits differ"),
        (set_to("golden", "action", 3, 0, 99), "golden: action"),
        (lambda manifest: manifest["golden"]["action"].pop(), "accepted are 32"),
        (set_to("golden", "observation", [["x"]] * 32), "golden: not arrays of numbers"),
        (set_to("more", 1), "more is unknown"),
        (lambda manifest: manifest.pop("provenance"), "provenance is missing"),
        (lambda manifest: manifest.pop("format"), "format is missing"),
        (set_to("environment", []), "environment is a list"),
    ],
)
def test_a_wrong_manifest_with_a_right_hash_is_refused_by_name(
    tmp_path: Path, change: Callable[[dict[str, Any]], None], message: str
) -> None:
    save(tmp_path)
    rewrite(tmp_path, change)
    with pytest.raises(PolicyError, match=message):
        policy.load(tmp_path)


def test_an_expired_policy_is_refused_at_its_time(tmp_path: Path) -> None:
    save(tmp_path, lifetime_days=2.0)
    policy.load(tmp_path, now=datetime.now(UTC) + timedelta(days=1.9))
    with pytest.raises(PolicyError, match="expired"):
        policy.load(tmp_path, now=datetime.now(UTC) + timedelta(days=2.1))


def test_any_changed_byte_of_the_model_is_refused(tmp_path: Path) -> None:
    save(tmp_path)
    content = bytearray((tmp_path / "policy.onnx").read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "policy.onnx").write_bytes(content)
    with pytest.raises(PolicyError, match=r"model\.sha256"):
        policy.load(tmp_path)


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (network((helper.make_node("Exp", ["h"], ["z"]),)), "operator Exp is not allowed"),
        (network(outputs=("values", "action")), "accepted is .'observation'"),
        (network(sizes=[4, *SIZES[1:]]), "golden: the model gives logits"),
        (b"not a model", "not an ONNX model"),
    ],
)
def test_a_wrong_model_is_refused_before_anything_is_written(tmp_path: Path, model: bytes, message: str) -> None:
    with pytest.raises(PolicyError, match=message):
        save(tmp_path / "policy", model)
    assert not (tmp_path / "policy").exists()


def test_a_failed_save_leaves_the_older_policy(tmp_path: Path) -> None:
    first = save(tmp_path)
    with pytest.raises(PolicyError):
        save(tmp_path, b"not a model")
    assert policy.verify(tmp_path) == first


@pytest.mark.parametrize("name", ["policy.onnx", "manifest.json"])
def test_a_missing_part_is_named(tmp_path: Path, name: str) -> None:
    save(tmp_path)
    (tmp_path / name).unlink()
    with pytest.raises(PolicyError, match=f"holds no {name}"):
        policy.load(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"),
    # the last one would overflow the parser's stack where py_ecc (beneath web3) has lifted Python's recursion limit
    [("{", "not JSON"), ("[]", "holds a list"), ('{"format": NaN}', "holds NaN"), ("[" * 100_000, "not JSON")],
)
def test_a_manifest_that_is_no_json_object_is_refused(tmp_path: Path, text: str, message: str) -> None:
    save(tmp_path)
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(PolicyError, match=message):
        policy.load(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_an_observation_that_is_not_finite_is_refused_by_name(tmp_path: Path, value: float) -> None:
    save(tmp_path)
    loaded = policy.load(tmp_path)
    seen = np.zeros((3, FIELDS), dtype=np.float32)
    seen[2, 1] = value
    with pytest.raises(PolicyError, match=f"{DEFINITION.observation[1].name} = .* in row 2"):
        loaded.predict(seen)


@pytest.mark.parametrize("seen", [np.zeros(FIELDS, np.float32), np.zeros((2, FIELDS)), np.zeros((2, 3), np.float32)])
def test_an_observation_of_another_shape_or_type_is_refused(tmp_path: Path, seen: np.ndarray) -> None:
    save(tmp_path)
    with pytest.raises(PolicyError, match=rf"accepted is float32 \(N, {FIELDS}\)"):
        policy.load(tmp_path).predict(seen)


def test_loading_imports_no_learner_and_no_pickle(tmp_path: Path) -> None:
    save(tmp_path)
    script = (
        "import sys, arbgym.policy as p; p.load(sys.argv[1], backend=sys.argv[2]);"
        "print([m for m in ('torch', 'stable_baselines3', 'onnx', 'cloudpickle', 'pandas') if m in sys.modules])"
    )
    for backend in ("onnxruntime", "numpy"):
        command = [sys.executable, "-c", script, str(tmp_path), backend]
        assert subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() == "[]"
