"""Trained runs joined into one exported policy by one command, and refused where they do not belong together."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("stable_baselines3", reason="the extra train is not installed")
pytest.importorskip("lightgbm", reason="the extra train is not installed")

from rich.console import Console

import experiments.ensemble as module
from agents.export import export
from arbgym import policy as policies
from arbgym.evaluation import Simulator
from experiments.config import RunConfig
from experiments.supervised import GBMRecipe, hold_only, prepare
from tests.models.test_supervised import SELL, SMALL, config


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Two small runs of a predictor, in both modes, and one in another world; their configurations are kept in memory."""
    configs: dict[Path, RunConfig] = {}
    for stamp, mode in (("a", "thresholds"), ("b", "classifier"), ("other", "thresholds")):
        folder = tmp_path / "gbm_sell" / stamp
        folder.mkdir(parents=True)
        agent = GBMRecipe(leaves=7, least_rows=20, mode=mode, **SMALL)  # type: ignore[arg-type]
        made = config(agent, tmp_path, 10)
        if stamp == "other":
            made = dataclasses.replace(made, world=made.definition.configure("new", episode_blocks=41))
        model = prepare(made, None)(folder, Console(quiet=True)).model
        content, golden = export(model, hold_only(Simulator(SELL, made.environment_arguments(), 50, 100)).features)
        policies.save(
            folder / "policy", content, definition=made.definition, config=made.world, preset=made.preset,
            encoding="discrete", feed="simulated", golden=golden, provenance={},
        )  # fmt: skip
        configs[folder] = made
    monkeypatch.setattr(module, "load_config", configs.__getitem__)
    return list(configs)


def test_one_command_makes_one_policy_of_two(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "joined"
    assert module.main([str(out), *map(str, runs[:2]), "--weights", "3", "1", "--episodes", "64"]) == 0
    assert "weights: gbm_sell a 0.75, gbm_sell b 0.25" in capsys.readouterr().out
    result = json.loads((out / "result.json").read_text())
    assert {"ensemble", "gbm_sell a", "gbm_sell b", "wait", "oracle"} <= set(result["policies"])
    joined, members = policies.load(out / "policy"), [policies.load(run / "policy") for run in runs[:2]]
    seen = hold_only(Simulator(SELL, {"action": "discrete"}, 90, 50), 3).features
    found = [member.evaluate(seen)[0].astype(np.float64) for member in members]
    votes = [1.0 / (1.0 + np.exp(logits[:, 0] - logits[:, 1])) for logits in found]
    expected = 0.75 * votes[0] + 0.25 * votes[1]
    clear = np.abs(expected - 0.5) > 1e-5
    assert clear.mean() > 0.99 and np.array_equal(joined.predict(seen)[clear, 0], (expected > 0.5)[clear])


def test_what_does_not_fit_together_is_refused(runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert module.main([str(tmp_path / "x"), str(runs[0]), str(runs[2])]) == 2
    assert "its world differs" in capsys.readouterr().err
    assert module.main([str(tmp_path / "x"), *map(str, runs[:2]), "--weights", "1"]) == 2
    assert "weights: 1 for 2 members" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
