"""What the runner's process is: no learning library, nothing unpickled, policies of every algorithm, files in their place."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import replace
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pydantic_settings", reason='the live extra is missing: pip install "arbgym[live]"')
pytest.importorskip("onnx", reason="the extra train is not installed")

from arbgym.live import assemble
from arbgym.live.decision import Decider
from arbgym.live.observer import NotObservable, Observer, tape_row
from arbgym.policy import PolicyError, load
from arbgym.spec import Encoding
from tests.live.policies import save_policy
from tests.live.recordings import WATCHED, record, views

FORBIDDEN = ("torch", "stable_baselines3", "sb3_contrib", "d3rlpy", "cloudpickle", "pandas", "polars", "joblib", "dill")
REPLAY = """
import os, runpy, sys
def watch(event, arguments):
    if event != "pickle.find_class":
        return
    frame, files = sys._getframe(), []
    while frame:
        files.append(frame.f_code.co_filename)
        frame = frame.f_back
    if not any("numba" in name for name in files):  # its cache of compiled code
        print("unpickled by", files, file=sys.stderr)
        os._exit(9)
sys.addaudithook(watch)
sys.argv = ["arbgym.live", *sys.argv[1:]]
try:
    runpy.run_module("arbgym.live", run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print(sorted(name for name in {forbidden} if name in sys.modules))
"""


def test_the_runner_imports_no_learning_library(tmp_path: Path) -> None:
    """A whole dry replay, not only the import."""
    recording = record(tmp_path / "blocks.jsonl", blocks=40)
    policy = save_policy(tmp_path / "policy")
    code = REPLAY.replace("{forbidden}", repr(FORBIDDEN))
    command = [sys.executable, "-c", code, str(policy), "--replay", str(recording)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr[-2_000:]
    assert done.stdout.strip().splitlines()[-1] == "[]"
    assert '"blocks": 40' in done.stderr


@pytest.mark.parametrize("encoding", ["multidiscrete", "discrete"])
@pytest.mark.parametrize("masked", [False, True])
def test_both_back_ends_decide_alike(encoding: Encoding, masked: bool, tmp_path: Path) -> None:
    folder = save_policy(tmp_path / "policy", encoding=encoding, masked=masked)
    found = []
    for backend in ("numpy", "onnxruntime"):
        policy = load(folder, backend=backend)  # type: ignore[arg-type]
        observer = Observer(policy, WATCHED)
        decider = Decider(policy, observer)
        found.append([decider.decide(observer.advance(view)) for view in views(60)])
    assert [one.text for one in found[0]] == [one.text for one in found[1]]
    np.testing.assert_allclose([one.confidence for one in found[0]], [one.confidence for one in found[1]], atol=1e-6)
    assert len({one.text for one in found[0]}) > 1


def test_a_policy_of_another_environment_is_refused_by_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = save_policy(tmp_path / "policy")
    monkeypatch.setattr(assemble, "RUNS_LIVE", ("ArbOther-v0",))
    with pytest.raises(PolicyError, match="what runs live is ArbOther-v0"):
        assemble.load_policy(folder, "numpy")


@pytest.mark.parametrize(
    "name",
    ["example.toml", "status_page.html", "contracts/ArbExecutor.json", "contracts/ArbExecutor.sol", "monitoring/grafana.json"],
)
def test_what_ships_lies_in_the_package(name: str) -> None:
    assert (files("arbgym.live") / name).is_file()


def test_observations_are_refused_where_a_pool_is_empty() -> None:
    view = next(iter(views(1)))
    (first, *others) = view.pools
    empty = type(first)(0, 0)  # type: ignore[call-arg]
    with pytest.raises(NotObservable, match="pool0"):
        tape_row(replace(view, pools=(empty, *others)), WATCHED, 2, 8)
