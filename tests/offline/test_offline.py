"""Offline learning, in the environment that ``make offline`` sets up: datasets, training, export, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("d3rlpy", reason="offline learning has an environment of its own: make offline, make test-offline")
pytest.importorskip("minari", reason="offline learning has an environment of its own: make offline, make test-offline")
pytest.importorskip("stable_baselines3", reason="the extra train is not installed")

import arbgym
from arbgym import policy as policies
from arbgym.engine import load_definition
from arbgym.spec import decode
from experiments import datasets, record
from experiments.evaluate import evaluate_run
from experiments.train import main
from tests.experiments.conftest import only_run

WORLD = {"episode_blocks": 25}
TINY = (
    "--agent.environments 32 --agent.batch 64 --agent.hidden 16 --world.episode-blocks 25 --steps 60 "
    "--evaluation.episodes 8 --evaluation.tuning-episodes 8"
).split()


@pytest.mark.parametrize("environment", sorted(arbgym.ENVIRONMENTS))
@pytest.mark.parametrize("encoding", ["continuous", "discrete"])
def test_a_dataset_is_what_was_played(environment: str, encoding: str, tmp_path: Path) -> None:
    """Written and read again to the last bit; the recorded actions, played again, earn the recorded rewards."""
    acting = datasets.behaviour("random", environment, encoding, WORLD)  # type: ignore[arg-type]
    recorded = datasets.play(environment, acting, WORLD, 12, 5, show=False)
    datasets.write(recorded, acting.definition, tmp_path / "random")
    again = datasets.read(tmp_path / "random", environment, encoding)  # type: ignore[arg-type]
    assert again.description == recorded.description and again.terminated == recorded.terminated
    env = arbgym.engine.NativeVectorEnv(arbgym.ENVIRONMENTS[environment], 12, autoreset="disabled", action=encoding, **WORLD)
    env.reset(seed=5)
    for e in range(12):
        for ours, theirs in ((recorded.observations, again.observations), (recorded.actions, again.actions)):
            assert np.array_equal(ours[e], theirs[e])
        assert np.array_equal(recorded.rewards[e], again.rewards[e])
    for step in range(25):
        assert np.array_equal(env.observations, np.stack([seen[step] for seen in again.observations]))
        env.step_in_place(np.stack([done[step] for done in again.actions]))
        assert np.array_equal(env.rewards.astype(np.float32), np.array([paid[step] for paid in again.rewards]))


def test_the_rule_is_recorded_as_it_decides(tmp_path: Path) -> None:
    """Nine of ten recorded actions mean what the tuned rule says, within what the encoding can express."""
    acting = datasets.behaviour("rule", "ArbCross-v0", "continuous", WORLD)
    recorded = datasets.play("ArbCross-v0", acting, WORLD, 64, 5, show=False)
    (rule,) = acting.rules
    assert rule is not None
    seen = np.concatenate([rows[:-1] for rows in recorded.observations])
    meant = decode(acting.definition.action, "continuous", np.concatenate(recorded.actions))
    agree = np.isclose(meant, rule(seen), atol=1e-2)
    agree[:, 1] |= rule(seen)[:, 1] < acting.definition.action[1].values[0]  # smaller than the encoding's least size
    assert 0.85 < agree.all(axis=1).mean() < 0.95


@pytest.mark.parametrize("name", ["iql_cross", "cql_flash"])
def test_from_one_command_to_an_exported_policy(name: str, tmp_path: Path) -> None:
    assert main([name, *TINY, "--out", str(tmp_path)]) == 0
    folder = only_run(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert {"behaviour", "cloning", "wait", "tuned_rule", "oracle", name} <= set(result["policies"])
    assert {"behaviour", "cloning"} <= set(result["paired"])
    assert result["export"]["differing_actions"] == 0
    loaded = policies.load(folder / "policy", backend="numpy")
    definition = load_definition(arbgym.ENVIRONMENTS[result["run"]["environment"]])
    assert loaded.predict(np.zeros((3, len(definition.observation)), dtype=np.float32)).shape[0] == 3
    assert (folder / "report.html").is_file()
    assert evaluate_run(folder)["policies"][name] == result["policies"][name]


def test_a_given_dataset_is_used_and_a_wrong_one_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = tmp_path / "data"
    common = ["ArbCross-v0", "--policy", "random", "--episodes", "16"]
    assert record.main([*common, "--action", "discrete", "--out", str(data)]) == 0
    assert "16 episodes" in capsys.readouterr().out
    assert main(["cql_cross", *TINY, "--agent.dataset", str(data), "--out", str(tmp_path / "runs")]) == 0
    assert "policy random" in capsys.readouterr().out
    assert not (only_run(tmp_path / "runs") / "dataset").exists()
    for wrong, word in ((["iql_cross"], "encoding"), (["cql_flash"], "environment")):
        assert main([*wrong, *TINY, "--agent.dataset", str(data), "--out", str(tmp_path / "refused")]) == 2
        assert word in capsys.readouterr().err
    assert main(["cql_cross", *TINY, "--agent.dataset", str(tmp_path), "--out", str(tmp_path / "refused")]) == 2
    assert "no Minari dataset" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()


def test_recording_refuses_by_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "file").write_text("kept")
    for flags, word in (
        (["--policy", "nobody", "--out", str(tmp_path / "x")], "nobody"),
        (["--policy", "random", "--episodes", "0", "--out", str(tmp_path / "x")], "episodes"),
        (["--policy", "random", "--episodes", "2", "--out", str(tmp_path / "precious")], "precious"),
    ):
        assert record.main(["ArbCross-v0", *flags]) == 2
        assert word in capsys.readouterr().err
    assert (tmp_path / "precious" / "file").read_text() == "kept"


def test_an_offline_run_starts_anew(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["cql_cross", *TINY, "--out", str(tmp_path)]) == 0
    folder = only_run(tmp_path)
    assert main(["--resume", str(folder)]) == 2
    assert "--agent.dataset" in capsys.readouterr().err
