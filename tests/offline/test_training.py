"""Training on recorded episodes: one command from a dataset to a judged, exported policy; it repeats, resumes and stops."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("d3rlpy", reason="offline learning has an environment of its own: make offline, make test-offline")

from agents.export import differing_actions, export
from agents.offline import Buffer, OfflineModel, Transitions, from_bytes, to_bytes
from arbgym import policy as policies
from experiments.evaluate import evaluate_run
from experiments.saved import load_learning_curve
from experiments.train import main
from tests.experiments.conftest import only_run
from tests.offline.conftest import TINY
from tests.offline.learners import CASES, recipe_of, toy

REPOSITORY = Path(__file__).resolve().parents[2]
NAMES = {"iql_flash": "continuous", "cql_flash": "discrete"}


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def train(name: str, data: dict[str, Path], out: Path, *flags: str) -> Path:
    assert main([name, *TINY, "--agent.dataset", str(data[NAMES[name]]), *flags, "--out", str(out)]) == 0
    return only_run(out)


@pytest.fixture(scope="module", params=sorted(NAMES))
def run(request: pytest.FixtureRequest, data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Path]:
    """A finished run; tests leave it as it is."""
    return request.param, train(request.param, data, tmp_path_factory.mktemp("runs"))


def test_a_run_leaves_everything_it_promises(run: tuple[str, Path]) -> None:
    name, folder = run
    names = {path.name.split(".tfevents")[0] for path in folder.iterdir()}
    assert {"config.json", "result.json", "learning.jsonl", "report.html", "policy", "cloning", "checkpoints"} <= names
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == [
        f"step_{steps:012d}.zip" for steps in (25, 50, 60)
    ]
    found = result(folder)
    assert {name, "behaviour", "cloning", "wait", "tuned_rule", "oracle"} <= set(found["policies"])
    assert {"behaviour", "cloning", "tuned_rule"} <= set(found["paired"])
    assert found["training"] == {"steps": 60, "unit": "gradient steps", "stopped_by": "steps"}
    assert found["export"] == {"observations": 10_000, "differing_actions": 0}
    curve = load_learning_curve(folder)
    assert curve[-1]["steps"] == 60 and {"net_profit", "oracle_profit", "cloning_profit"} <= set(curve[-1])
    assert "60 gradient steps" in (folder / "report.html").read_text()
    for kept in ("policy", "cloning"):
        assert policies.load(folder / kept, backend="numpy").manifest["provenance"]["steps"] == 60


def test_tensorboard_has_losses_and_profits(run: tuple[str, Path]) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(run[1]))
    accumulator.Reload()
    tags = set(accumulator.Tags()["scalars"])
    assert {"profit/net_profit", "profit/cloning", "cloning/loss"} <= tags
    assert any(tag.startswith(run[0].partition("_")[0] + "/") for tag in tags)


def test_evaluating_a_run_again_gives_its_numbers(run: tuple[str, Path]) -> None:
    again = evaluate_run(run[1])
    assert again.items() <= result(run[1]).items() and {"behaviour", "cloning"} <= set(again["paired"])


def test_the_same_seed_gives_the_same_policy_and_another_seed_another(
    run: tuple[str, Path], data: dict[str, Path], tmp_path: Path
) -> None:
    name, folder = run
    again = train(name, data, tmp_path / "again")
    assert (again / "policy" / "policy.onnx").read_bytes() == (folder / "policy" / "policy.onnx").read_bytes()
    assert result(again)["policies"] == result(folder)["policies"]
    other = train(name, data, tmp_path / "other", "--seed", "1")
    assert (other / "policy" / "policy.onnx").read_bytes() != (folder / "policy" / "policy.onnx").read_bytes()


def test_resuming_goes_on_with_both_learners_and_leaves_the_old_run(run: tuple[str, Path], tmp_path: Path) -> None:
    name, folder = run
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert main(["--resume", str(folder), "--steps", "90", "--out", str(tmp_path)]) == 0
    resumed = only_run(tmp_path)
    assert before == {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    assert result(resumed)["training"]["steps"] == 90 and result(resumed)["speed"]["steps"] == 30
    states = from_bytes((resumed / "checkpoints" / "step_000000000090.zip").read_bytes())
    assert {state["steps"] for state in states.values()} == {90} and set(states) == {name.partition("_")[0], "cloning"}
    for state in states.values():
        (optimizer, *_) = [part for part_name, part in state["parts"].items() if "optim" in part_name]
        assert max(float(moments["step"]) for moments in optimizer["optim"]["state"].values()) == 90.0


def test_without_a_dataset_one_is_recorded_into_the_run_and_resumed_from(tmp_path: Path) -> None:
    flags = [*TINY, "--agent.episodes", "16", "--agent.policy", "random", "--agent.no-cloning"]
    assert main(["iql_cross", *flags, "--out", str(tmp_path / "first")]) == 0
    folder = only_run(tmp_path / "first")
    assert (folder / "dataset-v0" / "data" / "main_data.hdf5").is_file()
    found = result(folder)
    assert "behaviour" in found["policies"] and "cloning" not in found["policies"] and not (folder / "cloning").exists()
    assert main(["--resume", str(folder), "--steps", "70", "--out", str(tmp_path / "second")]) == 0
    resumed = only_run(tmp_path / "second")
    assert not (resumed / "dataset-v0").exists() and "behaviour" in result(resumed)["policies"]


def test_continuous_cql_runs_too(data: dict[str, Path], tmp_path: Path) -> None:
    flags = ["--action", "continuous", "--agent.dataset", str(data["continuous"]), "--steps", "20", "--out", str(tmp_path)]
    assert main(["cql_flash", *TINY, *flags]) == 0
    assert result(only_run(tmp_path))["export"]["differing_actions"] == 0


def test_a_budget_in_minutes_ends_training(data: dict[str, Path], tmp_path: Path) -> None:
    folder = train("cql_flash", data, tmp_path, "--steps", "100000000", "--minutes", "0.02")
    assert result(folder)["training"]["stopped_by"] == "minutes"


def test_ctrl_c_ends_training_with_a_whole_run(data: dict[str, Path], tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.train", "iql_flash", *TINY, "--agent.dataset", str(data["continuous"])]
    process = subprocess.Popen(
        [*command, "--steps", "100000000", "--checkpoint-steps", "25", "--out", str(tmp_path)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "COLUMNS": "100"},
    )
    deadline = time.monotonic() + 300.0
    while not list(tmp_path.glob("*/*/checkpoints/*.zip")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    found = result(only_run(tmp_path))
    assert found["training"]["stopped_by"] == "signal" and {"behaviour", "cloning"} <= set(found["paired"])


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--agent.dataset", "nowhere"], "accepted is a Minari dataset's folder"),
        (["--agent.expectile", "0.2"], "expectile = 0.2; accepted is 0.5 to 0.999"),
        (["--action", "discrete"], "action = 'discrete'; accepted for iql_flash is continuous"),
        (["--agent.episodes", "1"], "episodes = 1; accepted is 2 to"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    try:
        status = main(["iql_flash", *TINY, *flags])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2 and message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


def test_a_dataset_of_another_encoding_is_refused(
    data: dict[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["iql_flash", *TINY, "--agent.dataset", str(data["discrete"]), "--out", str(tmp_path / "runs")]) == 2
    assert "action = 'discrete'; accepted is 'continuous'" in capsys.readouterr().err and not (tmp_path / "runs").exists()


def test_another_algorithms_checkpoint_is_refused(
    run: tuple[str, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    import shutil

    bad = tmp_path / "bad"
    shutil.copytree(run[1], bad)
    content = json.loads((bad / "config.json").read_text())
    content["run"]["agent"]["hidden"] = [8]
    (bad / "config.json").write_text(json.dumps(content))
    assert main(["--resume", str(bad), "--out", str(tmp_path / "runs")]) == 2
    assert "checkpoint" in capsys.readouterr().err and not (tmp_path / "runs").exists()


# ----------------------------------------------------------------------------------------------------- the learners alone
def model(algorithm: str, encoding: str) -> tuple[OfflineModel, Buffer, Transitions]:
    data, box, space = toy(encoding)
    recipe = recipe_of(algorithm)
    configuration = recipe.configure_cloning(encoding) if algorithm == "cloning" else recipe.configure(encoding)
    return OfflineModel(configuration, box, space, seed=1), Buffer(data, space, 1), data


@pytest.mark.parametrize(("algorithm", "encoding"), CASES, ids="-".join)
def test_the_exported_file_acts_as_the_model(algorithm: str, encoding: str) -> None:
    learner, buffer, data = model(algorithm, encoding)
    learner.fit(buffer, 50, 1e-2)
    content, golden = export(learner, data.observations)
    from arbgym.onnx_graph import parse

    graph = parse(content)
    assert differing_actions(learner, lambda seen: graph.run({"observation": seen})["action"], data.observations) == 0
    assert golden.actions.shape == (32, 1 if encoding == "discrete" else 2)


@pytest.mark.parametrize(("algorithm", "encoding"), CASES, ids="-".join)
def test_a_restored_model_goes_on_as_the_one_that_was_saved(algorithm: str, encoding: str) -> None:
    learner, buffer, data = model(algorithm, encoding)
    learner.fit(buffer, 20, 1e-2)
    other, _, _ = model(algorithm, encoding)
    other.restore(from_bytes(to_bytes({"it": learner.state()}))["it"])
    assert other.steps == learner.steps == 20
    assert np.array_equal(other.predict(data.observations)[0], learner.predict(data.observations)[0])


@pytest.mark.parametrize(("algorithm", "encoding"), [("iql", "continuous"), ("cql", "discrete")], ids="-".join)
def test_it_learns_better_actions_than_the_random_ones_it_saw(algorithm: str, encoding: str) -> None:
    """On a bandit whose best action is known: far closer to it than cloning random play is."""
    learner, buffer, data = model(algorithm, encoding)
    for _ in range(24):
        learner.fit(buffer, 50, 3e-3)
    taken = learner.predict(data.observations)[0]
    meant = taken / 2.5 - 0.8 if encoding == "discrete" else taken[:, 0]
    assert np.abs(meant - data.observations[:, 0]).mean() < 0.2


def test_batches_are_recorded_steps() -> None:
    data, _, space = toy("continuous")
    batch = Buffer(data, space, 1).sample_transition_batch(500)
    index = {row.tobytes(): k for k, row in enumerate(data.observations)}
    rows = np.array([index[row.tobytes()] for row in batch.observations])
    assert np.array_equal(batch.actions, data.actions[rows]) and np.array_equal(
        batch.next_observations, data.observations[rows + 1]
    )
    assert np.allclose(batch.rewards[:, 0] * data.rewards.std(), data.rewards[rows], rtol=1e-5)


def test_several_steps_ahead_stop_at_the_end_of_the_episode() -> None:
    lengths = [3, 1, 5]
    count = sum(lengths)
    number = np.repeat(np.arange(3), lengths)
    terminals = np.zeros(count, dtype=np.bool_)
    terminals[[2, 8]] = True  # the second episode ends without a terminal: its recording was cut
    rewards = np.arange(1.0, count + 1.0, dtype=np.float32)
    observations = np.arange(count + 3, dtype=np.float32)[:, None]
    rows = np.arange(count) + number
    data = Transitions(observations, np.zeros((count, 1), dtype=np.int64), rewards, terminals, rows)
    buffer = Buffer(data, gymnasium.spaces.Discrete(2), 0, steps_ahead=3, gamma=0.5)
    batch = buffer.sample_transition_batch(500)
    ends = np.cumsum(lengths) - 1
    scale = rewards.std()
    for k in range(500):
        drawn = int(np.flatnonzero(observations[rows, 0] == batch.observations[k, 0])[0])
        last = min(drawn + 2, int(ends[number[drawn]]))
        expected = sum(0.5 ** (j - drawn) * rewards[j] / scale for j in range(drawn, last + 1))
        assert batch.rewards[k, 0] == pytest.approx(expected, rel=1e-5)
        assert batch.next_observations[k, 0] == observations[rows[last] + 1, 0]
        assert batch.terminals[k, 0] == terminals[last]
        assert batch.intervals[k, 0] == last - drawn + 1
