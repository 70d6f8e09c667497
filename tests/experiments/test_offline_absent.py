"""Where d3rlpy and Minari are not installed, offline learning is refused with what to do, before anything is written."""

from __future__ import annotations

from pathlib import Path

import pytest

from experiments import datasets, record, train


@pytest.fixture(autouse=True)
def absent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(datasets, "find_spec", lambda name: None)


@pytest.mark.parametrize("name", ["iql_flash", "cql_flash", "iql_cross", "cql_cross"])
def test_training_says_make_offline(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert train.main([name, "--quick", "--out", str(tmp_path / "runs")]) == 2
    said = capsys.readouterr().err
    assert "d3rlpy, minari, h5py not installed" in said and "make offline" in said
    assert list(tmp_path.iterdir()) == []


def test_recording_says_make_offline(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert record.main(["ArbFlash-v0", "--policy", "random", "--out", str(tmp_path / "data-v0")]) == 2
    assert "minari, h5py not installed" in capsys.readouterr().err and list(tmp_path.iterdir()) == []
