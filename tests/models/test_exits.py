"""The policy of a predictor: sells when it should, is tuned, and decides alike as an exported graph on every back end."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from arbgym.engine import Definition, load_definition
from arbgym.models.boosted import BoostedExits
from arbgym.models.ensemble import Ensemble, ExportedMember, vote, voting_values
from arbgym.models.exits import ExitPolicy, Labels, Prediction, prediction
from arbgym.models.sequence import SequenceExits
from arbgym.onnx_graph import parse
from arbgym.policy import GOLDEN_PAIRS, Golden, load, save
from arbgym.spec import Choice, Field
from tests.models.conftest import Rows, outside

onnxruntime = pytest.importorskip("onnxruntime", reason="the extra train is not installed")
pytest.importorskip("lightgbm", reason="the extra train is not installed")
torch = pytest.importorskip("torch", reason="the extra train is not installed")
SHARE = Choice("sell_share", "1", (0.0, 0.25, 0.5, 0.75, 1.0), "share to sell", (0.0, 1.0))


class Told:
    """A predictor that repeats what its three columns say."""

    def fit(self, features: np.ndarray, labels: Labels, episodes: np.ndarray, watch: object = None) -> None:
        raise AssertionError("nothing to fit")

    def scores(self, features: np.ndarray, names: tuple[str, ...] = ("upside", "drawdown", "sell")) -> np.ndarray:
        return features[:, [("upside", "drawdown", "sell").index(name) for name in names]]

    def predict(self, features: np.ndarray) -> Prediction:
        return prediction(self.scores(features))

    def graph(self, names: tuple[str, ...] = ()) -> object:
        raise AssertionError("nothing to draw")


FIELDS = tuple(Field(name, "", 1.0, -9.0, 9.0, "") for name in ("upside", "drawdown", "sell"))


def said(upside: float, drawdown: float, sell: float = 0.5) -> np.ndarray:
    scores = [np.log1p(upside), np.log(drawdown / (1.0 - drawdown)), np.log(sell / (1.0 - sell))]
    return np.array([scores], dtype=np.float32)


@pytest.mark.parametrize(
    ("policy", "seen", "sells"),
    [
        (ExitPolicy(Told(), FIELDS), said(0.10, 0.10), False),
        (ExitPolicy(Told(), FIELDS), said(0.007, 0.10), True),
        (ExitPolicy(Told(), FIELDS), said(0.009, 0.39), False),
        (ExitPolicy(Told(), FIELDS), said(0.009, 0.41), True),
        (ExitPolicy(Told(), FIELDS, drawdown_threshold=1.0), said(0.10, 0.999), False),
        (ExitPolicy(Told(), FIELDS, upside_threshold=0.0), said(0.0, 0.10), False),
        (ExitPolicy(Told(), FIELDS, mode="classifier"), said(0.0, 0.99, 0.49), False),
        (ExitPolicy(Told(), FIELDS, mode="classifier"), said(0.5, 0.01, 0.51), True),
        (ExitPolicy(Told(), FIELDS, mode="classifier", sell_threshold=0.0), said(0.5, 0.01, 0.01), True),
    ],
)
def test_it_sells_when_the_thresholds_say_so(policy: ExitPolicy, seen: np.ndarray, sells: bool) -> None:
    action = policy.predict(seen)
    assert action.dtype == np.int64 and action.tolist() == [[int(sells)]]
    assert (policy.sell_score(seen)[0] > 0.5) == sells and np.isfinite(policy.logits(seen)).all()
    assert policy.logits(seen).argmax(axis=1).tolist() == [int(sells)]


def test_predictions_undo_the_scores() -> None:
    found = Told().predict(said(0.3, 0.25, 0.9))
    assert [part[0] for part in found] == pytest.approx([0.3, 0.25, 0.9], rel=1e-6)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "both"}, "mode = 'both'"),
        ({"upside_threshold": -0.1}, "upside_threshold = -0.1; accepted is 0"),
        ({"drawdown_threshold": 1.1}, "drawdown_threshold = 1.1; accepted is 0 to 1"),
        ({"sell_threshold": float("nan")}, "sell_threshold = nan"),
    ],
)
def test_thresholds_out_of_range_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ExitPolicy(Told(), FIELDS, **changes)  # type: ignore[arg-type]


def test_tuning_finds_the_thresholds_of_a_known_optimum_and_keeps_equals() -> None:
    rng = np.random.default_rng(0)
    seen = np.stack([rng.uniform(0.0, 1.0, 500), rng.uniform(-3.0, 3.0, 500), rng.uniform(-3.0, 3.0, 500)], 1).astype(np.float32)
    should = (seen[:, 0] < 0.2) | (seen[:, 1] > 1.5)
    tuned = ExitPolicy(Told(), FIELDS).tune(lambda policy: float(np.mean(policy.predict(seen)[:, 0] == should)), seen[:, :2])
    assert np.mean(tuned.predict(seen)[:, 0] == should) > 0.95
    assert np.log1p(tuned.upside_threshold) == pytest.approx(0.2, abs=0.08)
    classifier = ExitPolicy(Told(), FIELDS, mode="classifier")
    better = classifier.tune(lambda policy: float(np.mean(policy.predict(seen)[:, 0] == (seen[:, 2] > 2.0))), seen[:, 2:])
    assert better.sell_threshold > 0.8 and better.upside_threshold == classifier.upside_threshold
    assert classifier.tune(lambda policy: 0.0, seen[:, 2:]) == classifier


# ----------------------------------------------------------------------------------------------------------------- export
@pytest.fixture(scope="module", params=["boosted", "boosted classifier", "sequence"])
def policy(request: pytest.FixtureRequest, rows: Rows) -> ExitPolicy:
    torch.set_num_threads(1)
    if request.param == "sequence":
        sequence = SequenceExits(rows.fields, steps=150, batch=256, channels=8, hidden=16)
        sequence.fit(rows.features, rows.labels, rows.episodes)
        return ExitPolicy(sequence, rows.fields, upside_threshold=0.05)
    boosted = BoostedExits(60, 15, 0.2, 10)
    boosted.fit(rows.features, rows.labels, rows.episodes)
    mode = "classifier" if "classifier" in request.param else "thresholds"
    return ExitPolicy(boosted, rows.fields, mode=mode, upside_threshold=0.05)


def test_the_graph_decides_as_the_policy_on_every_observation(policy: ExitPolicy, rows: Rows) -> None:
    content = policy.onnx()
    seen = np.concatenate([rows.features, outside(rows.fields, 20_000, 3)])
    expected = policy.predict(seen)
    logits, actions = onnxruntime.InferenceSession(content).run(None, {"observation": seen})
    ours = parse(content).run({"observation": seen})
    assert 0.05 < expected.mean() < 0.95
    assert np.array_equal(actions, expected) and np.array_equal(ours["action"], expected)
    if isinstance(policy.predictor, BoostedExits):  # exact sums: not a bit differs, whoever adds them up
        assert np.array_equal(logits, policy.logits(seen)) and np.array_equal(ours["logits"], logits)
    else:
        assert np.allclose(logits, policy.logits(seen), atol=5e-6) and np.allclose(ours["logits"], logits, atol=5e-6)


def test_rows_on_a_trees_thresholds_go_the_same_way(rows: Rows) -> None:
    """Each threshold itself, as a float32, and its neighbours: where rounding to the nearest would differ."""
    boosted = BoostedExits(30, 15, 0.2, 10)
    boosted.fit(rows.features, rows.labels, rows.episodes)
    policy = ExitPolicy(boosted, rows.fields, upside_threshold=0.05)
    graph = parse(policy.onnx())
    trees = next(node.attributes["trees"] for node in graph.nodes if "trees" in node.attributes)
    seen = np.repeat(rows.features[:1], 3 * len(trees.feature), axis=0)
    near = (np.nextafter(trees.threshold, np.float32(-9.0)), trees.threshold, np.nextafter(trees.threshold, np.float32(9.0)))
    for k, values in enumerate(near):
        seen[np.arange(len(values)) * 3 + k, trees.feature] = values
    assert np.array_equal(graph.run({"observation": seen})["logits"], policy.logits(seen))


def stand_in(fields: tuple[Field, ...]) -> Definition:
    """An environment with these fields and one component of action; its kernels are another's and never run."""
    return dataclasses.replace(load_definition("arbgym.envs.flash"), id="Stand-v0", observation=fields, action=(SHARE,))


def write(folder: Path, model: bytes, fields: tuple[Field, ...], encoding: str, seen: np.ndarray) -> Definition:
    found = parse(model).run({"observation": seen})
    distinct = np.argsort(-np.abs(found["logits"]).max(axis=1))[:GOLDEN_PAIRS]
    golden = Golden(seen[distinct], found["logits"][distinct], found["action"][distinct])
    definition = stand_in(fields)
    arguments = {"definition": definition, "config": {}, "preset": "p", "feed": "simulated", "golden": golden, "provenance": {}}
    save(folder, model, encoding=encoding, **arguments)  # type: ignore[arg-type]
    return definition


def test_it_is_saved_and_loaded_like_any_policy(policy: ExitPolicy, rows: Rows, tmp_path: Path) -> None:
    seen = outside(rows.fields, 500, 5)
    definition = write(tmp_path, policy.onnx(), rows.fields, "discrete", seen)
    for backend in ("onnxruntime", "numpy"):
        loaded = load(tmp_path, definition=definition, backend=backend)  # type: ignore[arg-type]
        assert np.array_equal(loaded.predict(seen), policy.predict(seen))


# -------------------------------------------------------------------------------------------------------------- ensembles
def network(fields: int, width: int, encoding: str, seed: int) -> bytes:
    """A linear policy of an encoding, as the exporter of networks writes it."""
    onnx = pytest.importorskip("onnx", reason="the extra train is not installed")
    helper, rng = onnx.helper, np.random.default_rng(seed)
    weights = {"w": rng.normal(size=(fields, width)).astype(np.float32), "b": rng.normal(size=width).astype(np.float32)}
    nodes = [helper.make_node("Gemm", ["observation", "w", "b"], ["logits"])]
    if encoding == "continuous":
        weights |= {"low": np.float32(-1.0), "high": np.float32(1.0)}
        nodes.append(helper.make_node("Clip", ["logits", "low", "high"], ["action"]))
    else:
        nodes.append(helper.make_node("ArgMax", ["logits"], ["action"], axis=1, keepdims=1))
    kind = onnx.TensorProto.FLOAT if encoding == "continuous" else onnx.TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", onnx.TensorProto.FLOAT, ["batch", fields])],
        [
            helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, ["batch", width]),
            helper.make_tensor_value_info("action", kind, ["batch", 1]),
        ],
        [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


@pytest.fixture
def ensemble(policy: ExitPolicy, rows: Rows, tmp_path: Path) -> Ensemble:
    """An exit policy and three exported policies, one of each encoding."""
    seen, members = outside(rows.fields, 500, 6), [policy]
    for seed, (encoding, width) in enumerate((("discrete", 2), ("multidiscrete", 5), ("continuous", 1))):
        definition = write(tmp_path / encoding, network(len(rows.fields), width, encoding, seed), rows.fields, encoding, seen)
        members.append(ExportedMember.load(tmp_path / encoding, definition=definition))
    return Ensemble(members, (3.0, 1.0, 1.0, 1.0))


def test_an_ensemble_is_one_graph_that_decides_alike(ensemble: Ensemble, rows: Rows, tmp_path: Path) -> None:
    seen = outside(rows.fields, 20_000, 7)
    content = ensemble.onnx()
    expected, logits = ensemble.predict(seen), ensemble.logits(seen)
    assert 0.05 < expected.mean() < 0.95 and expected.shape == (len(seen), 1)
    theirs, actions = onnxruntime.InferenceSession(content).run(None, {"observation": seen})
    ours = parse(content).run({"observation": seen})
    clear = np.abs(logits[:, 1]) > 1e-6
    assert clear.mean() > 0.999
    for found in (actions, ours["action"]):
        assert np.array_equal(found[clear], expected[clear])
    assert np.allclose(theirs, logits, atol=1e-6) and np.allclose(ours["logits"], logits, atol=1e-6)
    definition = write(tmp_path / "whole", content, rows.fields, "discrete", seen)
    assert np.array_equal(load(tmp_path / "whole", definition=definition).predict(seen)[clear], expected[clear])


def test_a_member_with_all_the_weight_decides_alone(ensemble: Ensemble, policy: ExitPolicy, rows: Rows) -> None:
    seen = outside(rows.fields, 2_000, 8)
    alone = Ensemble(ensemble.members, (0.5, 0.0, 0.0, 0.0))
    clear = np.abs(policy.logits(seen)[:, 1]) > 1e-5
    assert np.array_equal(alone.predict(seen)[clear], policy.predict(seen)[clear])
    assert np.allclose(alone.sell_score(seen), policy.sell_score(seen), atol=1e-6)


def test_votes_by_encoding() -> None:
    multi, flat = voting_values((SHARE,), "multidiscrete"), voting_values((SHARE,), "discrete")
    assert multi is not None and flat is not None and flat.tolist() == [0.0, 1.0]
    assert voting_values((SHARE,), "continuous") is None
    assert vote(np.array([[0.0, 0.0, 50.0, 0.0, 0.0]], np.float32), multi)[0] == pytest.approx(0.5)
    assert vote(np.array([[-1.0, 1.0]], np.float32), flat)[0] == pytest.approx(1.0 / (1.0 + np.exp(-2.0)))
    assert vote(np.array([[-3.0], [0.5]], np.float32), None).tolist() == [0.0, 0.75]
    with pytest.raises(ValueError, match="2 components"):
        voting_values((SHARE, SHARE), "discrete")


@pytest.mark.parametrize("weights", [(), (1.0,), (1.0, -1.0), (0.0, 0.0), (1.0, float("nan")), (1.0, float("inf"))])
def test_weights_that_are_none_are_refused(weights: tuple[float, ...]) -> None:
    member = ExitPolicy(Told(), FIELDS)
    with pytest.raises(ValueError, match="weights"):
        Ensemble((member, member), weights)


def test_tuning_of_weights_finds_the_member_that_is_right() -> None:
    members = tuple(ExitPolicy(Told(), FIELDS, mode="classifier", sell_threshold=threshold) for threshold in (0.2, 0.5, 0.9))
    seen = np.random.default_rng(2).uniform(-4.0, 4.0, (400, 3)).astype(np.float32)
    right = members[2].predict(seen)
    tuned = Ensemble(members, (1.0, 1.0, 1.0)).tune(lambda made: float(np.mean(made.predict(seen) == right)))
    assert np.array_equal(tuned.predict(seen), right)
    with pytest.raises(ValueError, match="steps = 0"):
        tuned.tune(lambda _: 0.0, 0)
