"""One command trains, evaluates, exports and reports; it repeats, resumes, survives signals, refuses bad input."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from arbgym import policy
from arbgym.evaluation import HELD_OUT_SEED
from experiments.evaluate import main as evaluate_main
from experiments.saved import load_config, load_learning_curve
from experiments.train import main
from tests.experiments.conftest import TINY, only_run, train

REPOSITORY = Path(__file__).resolve().parents[2]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def without_time(found: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in found.items() if name != "speed"}


def test_a_run_leaves_everything_it_promises(run: Path) -> None:
    names = {path.name.split(".tfevents")[0] for path in run.iterdir()}
    assert {"config.json", "result.json", "learning.jsonl", "report.html", "policy", "checkpoints"} <= names
    assert sorted(path.name for path in (run / "policy").iterdir()) == ["manifest.json", "policy.onnx"]
    assert [path.name for path in sorted((run / "checkpoints").iterdir())] == [
        "step_000000001024.zip",
        "step_000000002048.zip",
    ]


def test_the_result_has_every_policy_with_its_interval(run: Path) -> None:
    found = result(run)
    assert set(found["policies"]) == {"ppo_flash", "wait", "rule", "tuned_rule", "history_rule", "oracle"}
    for figures in found["policies"].values():
        net = figures["net_profit"]
        assert net["low"] <= net["mean"] <= net["high"]
        assert sum(figures["parts"].values()) == pytest.approx(net["mean"], abs=1e-6)
    assert set(found["paired"]) == {"wait", "rule", "tuned_rule", "history_rule"}
    for name, paired in found["paired"].items():
        difference = found["policies"]["ppo_flash"]["net_profit"]["mean"] - found["policies"][name]["net_profit"]["mean"]
        assert paired["mean"] == pytest.approx(difference, abs=1e-6) and paired["low"] <= paired["high"]
    assert found["training"] == {"steps": 2048, "unit": "environment steps", "stopped_by": "steps"}
    assert found["seed"] == HELD_OUT_SEED
    assert found["export"] == {"observations": 10_000, "differing_actions": 0}
    shares = [found["speed"][f"{part}_share"] for part in ("simulation", "learner", "rest")]
    assert sum(shares) == pytest.approx(1.0) and min(shares) > 0.0


def test_the_configuration_is_complete_and_reads_back(run: Path) -> None:
    content = json.loads((run / "config.json").read_text())
    assert content["run"]["agent"]["environments"] == 32 and content["run"]["world"]["episode_blocks"] == 25
    assert set(content["versions"]) >= {"python", "numpy", "numba", "gymnasium", "torch", "stable-baselines3"}
    assert set(content["git"]) == {"commit", "dirty"} and content["seeds"]["held_out"] == HELD_OUT_SEED
    assert load_config(run).agent.hidden == (16,)


def test_the_policy_loads_and_knows_where_it_comes_from(run: Path) -> None:
    manifest = policy.load(run / "policy").manifest
    assert manifest["environment"]["config"]["episode_blocks"] == 25
    assert manifest["provenance"]["steps"] == 2048
    held_out = result(run)["policies"]["ppo_flash"]
    assert manifest["provenance"]["held_out"]["net_profit"] == held_out["net_profit"]


def test_tensorboard_has_the_profit_parts(run: Path) -> None:
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator").EventAccumulator(str(run))
    accumulator.Reload()
    tags = set(accumulator.Tags()["scalars"])
    assert {"profit/net_profit", "profit/gas_cost", "train/loss", "rollout/ep_rew_mean"} <= tags
    assert accumulator.Scalars("profit/net_profit")[-1].step == 2048


def test_the_learning_curve_is_in_order_of_steps(run: Path) -> None:
    steps = [point["steps"] for point in load_learning_curve(run)]
    assert steps == [512, 1024, 1536, 2048]


def test_the_report_needs_nothing_else(run: Path) -> None:
    page = (run / "report.html").read_text()
    assert page.count("<svg") >= 4 and "tuned_rule" in page and "python -m experiments.train ppo_flash" in page
    for reference in ("<script", "<link", "src=", 'href="http', "url(http"):
        assert reference not in page


def test_the_same_seed_gives_the_same_result_and_another_seed_another(run: Path, tmp_path: Path) -> None:
    again = train(tmp_path / "again")
    assert without_time(result(again)) == without_time(result(run))
    assert (again / "policy" / "policy.onnx").read_bytes() == (run / "policy" / "policy.onnx").read_bytes()
    folder = train(tmp_path / "other", "--seed", "1")
    other = result(folder)
    assert (folder / "policy" / "policy.onnx").read_bytes() != (run / "policy" / "policy.onnx").read_bytes()
    assert other["policies"]["tuned_rule"] == result(run)["policies"]["tuned_rule"]


def test_evaluating_a_run_again_gives_its_numbers(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert evaluate_main([str(run), "--json", str(tmp_path / "again.json")]) == 0
    again = json.loads((tmp_path / "again.json").read_text())
    assert again.items() <= result(run).items() and "tuned_rule" in capsys.readouterr().out
    assert evaluate_main([str(run), "--episodes", "5", "--seed", str(HELD_OUT_SEED + 9), "--json", str(tmp_path / "o")]) == 0
    other = json.loads((tmp_path / "o").read_text())
    assert other["episodes"] == 5 and other["seed"] == HELD_OUT_SEED + 9
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}


def test_resuming_goes_on_with_steps_and_optimizer_and_leaves_the_old_run(run: Path, tmp_path: Path) -> None:
    before = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert main(["--resume", str(run), "--steps", "3072", "--out", str(tmp_path)]) == 0
    resumed = only_run(tmp_path)
    assert before == {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    assert result(resumed)["training"]["steps"] == 3072 and result(resumed)["speed"]["steps"] == 1024
    assert [point["steps"] for point in load_learning_curve(resumed)] == [512, 1024, 1536, 2048, 2560, 3072]
    assert json.loads((resumed / "config.json").read_text())["resumed"]["steps"] == 2048
    assert _adam_steps(resumed, 3072) > _adam_steps(run, 2048) > 0


def _adam_steps(folder: Path, steps: int) -> float:
    """How many gradient steps the saved optimizer has taken."""
    import zipfile

    import torch

    with zipfile.ZipFile(folder / "checkpoints" / f"step_{steps:012d}.zip") as archive:
        state = torch.load(archive.open("policy.optimizer.pth"), weights_only=True)["state"]
    return float(state[0]["step"])


def test_resuming_a_finished_run_evaluates_it_as_it_is(run: Path, tmp_path: Path) -> None:
    assert main(["ppo_flash", "--resume", str(run), "--out", str(tmp_path)]) == 0
    resumed = only_run(tmp_path)
    assert result(resumed)["training"]["steps"] == 2048
    assert result(resumed)["policies"] == result(run)["policies"]


def start(out: Path, *flags: str) -> subprocess.Popen[str]:
    """A training far too long to end by itself, after its first checkpoint."""
    command = [sys.executable, "-m", "experiments.train", "ppo_flash", *TINY, "--steps", "100000000", *flags]
    process = subprocess.Popen(
        [*command, "--out", str(out)], cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    deadline = time.monotonic() + 300.0
    while not list(out.glob("*/*/checkpoints/*.zip")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    return process


def test_ctrl_c_ends_training_with_a_whole_run(tmp_path: Path) -> None:
    process = start(tmp_path)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output
    folder = only_run(tmp_path)
    found = result(folder)
    assert found["training"]["stopped_by"] == "signal" and 0 < found["training"]["steps"] < 100_000_000
    assert (folder / "report.html").is_file() and policy.load(folder / "policy")


def test_a_killed_training_goes_on_from_its_last_checkpoint(tmp_path: Path) -> None:
    process = start(tmp_path / "killed")
    process.kill()
    process.communicate()
    killed = only_run(tmp_path / "killed")
    assert not (killed / "result.json").exists()
    (killed / "checkpoints" / ".step_999999999999.zip.partial").write_bytes(b"half")
    steps = max(int(path.stem.removeprefix("step_")) for path in (killed / "checkpoints").glob("step_*.zip"))
    assert main(["--resume", str(killed), "--steps", str(steps + 512), "--out", str(tmp_path / "resumed")]) == 0
    assert result(only_run(tmp_path / "resumed"))["training"]["steps"] == steps + 512


def test_a_budget_in_minutes_ends_training(tmp_path: Path) -> None:
    folder = train(tmp_path, "--steps", "100000000", "--minutes", "0.02")
    assert result(folder)["training"]["stopped_by"] == "minutes"


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "NAME is one of"),
        (["ppo_moon"], "NAME = 'ppo_moon'; accepted are ppo_flash, dqn_flash"),
        (["--seed", "1"], "the first argument is the run's NAME"),
        (["ppo_flash", "--preset", "mars"], "preset = 'mars'; accepted are ethereum"),
        (["ppo_flash", "--learning-rate", "1"], "--learning-rate"),
        (["ppo_flash", "--steps", "0"], "steps = 0; accepted is 1 to"),
        (["ppo_flash", "--steps", "many"], "--steps"),
        (["ppo_flash", "--minutes", "-1"], "minutes = -1.0; accepted is above 0"),
        (["ppo_flash", "--agent.gamma", "1.5"], "gamma = 1.5; accepted is 0 to 1"),
        (["ppo_flash", "--agent.hidden", "0"], "accepted are one or more widths"),
        (["ppo_flash", "--world.trade-probability", "2"], "trade_probability = 2.0; accepted is 0 to 1"),
        (["ppo_flash", "--action", "binary"], "binary"),
        (["ppo_flash", "--feed", "replay"], "accepted is --data PATH with --feed replay"),
        (["ppo_flash", "--data", "there.csv"], "accepted is --data PATH with --feed replay"),
        (["ppo_flash", "--feed", "replay", "--data", "nowhere.csv"], "'nowhere.csv' does not exist"),
        (["ppo_flash", "--evaluation.seed", "0"], "evaluation.seed = 0"),
        (["ppo_flash", "--resume", "nowhere"], "holds no config.json"),
        (["dqn_flash", "--action", "multidiscrete"], "action = 'multidiscrete'; accepted for dqn_flash is discrete"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    try:
        status = main(flags)
    except SystemExit as end:
        status = int(end.code or 0)
    output = capsys.readouterr()
    assert status == 2 and message in output.out + output.err
    assert list(tmp_path.iterdir()) == []


def test_resuming_what_is_no_run_is_refused(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = json.loads((run / "config.json").read_text())
    config["run"]["agent"]["gama"] = config["run"]["agent"].pop("gamma")
    for content, message in (
        ("{", "not JSON"),
        ("{}", "holds no run"),
        (json.dumps(config), "differs from this version"),
    ):
        (tmp_path / "config.json").write_text(content)
        assert main(["--resume", str(tmp_path)]) == 2
        assert message in capsys.readouterr().err
    (tmp_path / "config.json").write_bytes((run / "config.json").read_bytes())
    assert main(["--resume", str(tmp_path)]) == 2 and "to go on from" in capsys.readouterr().err
    assert main(["dqn_flash", "--resume", str(run)]) == 2 and "accepted is ppo_flash" in capsys.readouterr().err


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ppo_flash", "dqn_flash"])
def test_quick_runs_the_whole_chain(name: str, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "experiments.train", name, "--quick", "--out", str(tmp_path)]
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, env={**os.environ, "COLUMNS": "100"})
    assert done.returncode == 0, done.stderr
    found = result(only_run(tmp_path))
    assert math.isfinite(found["policies"][name]["net_profit"]["mean"]) and name in done.stdout
    assert np.isfinite(found["speed"]["steps_per_second"])
