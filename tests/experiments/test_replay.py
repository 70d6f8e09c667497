"""Recorded data from the command line: the earlier span trains, the later one judges, and a bad file is refused first."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("pandas", reason="the extra data is not installed")

from arbgym.data import sample_tape_path
from experiments.config import default_config
from experiments.evaluate import evaluate_run
from experiments.train import main
from experiments.worlds import held_out_arguments, training_arguments
from tests.experiments.conftest import TINY, train


def test_a_run_on_a_tape_repeats_its_evaluation(tmp_path: Path) -> None:
    folder = train(tmp_path, "--feed", "replay", "--data", str(sample_tape_path()))
    result = json.loads((folder / "result.json").read_text())
    assert result["policies"]["oracle"]["net_profit"]["mean"] > 0.0
    assert evaluate_run(folder)["policies"] == result["policies"]
    manifest = json.loads((folder / "policy" / "manifest.json").read_text())
    assert manifest["environment"]["feed"] == "replay"


def test_the_spans_do_not_meet() -> None:
    config = dataclasses.replace(default_config("ppo_flash"), feed="replay", data=sample_tape_path())
    earlier, later = training_arguments(config)["tape"], held_out_arguments(config)["tape"]
    step = np.diff(earlier.timestamps).max()
    assert later.timestamps[0] - earlier.timestamps[-1] > 5 * step
    assert len(earlier.timestamps) > len(later.timestamps) > 100


@pytest.mark.parametrize("damage", ["duplicate", "nan", "missing"])
def test_a_bad_file_is_refused_before_anything_is_written(
    damage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = sample_tape_path().read_text().splitlines()
    first = next(k for k, line in enumerate(lines) if line[0].isdigit())
    if damage == "duplicate":
        lines[first + 7] = lines[first + 6]
    elif damage == "nan":
        cells = lines[first + 7].split(",")
        lines[first + 7] = ",".join([cells[0], "nan", *cells[2:]])
    else:
        lines = [line if line.startswith("#") else line.rpartition(",")[0] for line in lines]
    bad = tmp_path / "bad.csv"
    bad.write_text("\n".join(lines) + "\n")
    assert main(["ppo_flash", *TINY, "--feed", "replay", "--data", str(bad), "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "bad.csv" in said and ("row 7" in said if damage != "missing" else "column" in said)
    assert not (tmp_path / "runs").exists()
