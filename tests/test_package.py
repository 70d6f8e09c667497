"""The package as a newcomer meets it: a light import, and the command line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import arbgym
from arbgym.__main__ import main
from arbgym.engine import load_definition

REPOSITORY = Path(__file__).resolve().parent.parent


def test_import_is_light_and_leaves_no_trace(tmp_path: Path) -> None:
    program = """
import random, sys
import numpy
before = (numpy.random.get_state()[1].copy(), random.getstate())
import arbgym
heavy = [name for name in ("torch", "pandas", "web3", "stable_baselines3", "numba", "pyarrow") if name in sys.modules]
assert not heavy, heavy
assert (numpy.random.get_state()[1] == before[0]).all() and random.getstate() == before[1]
import gymnasium
assert "ArbFlash-v0" in gymnasium.registry
"""
    subprocess.run(
        [sys.executable, "-B", "-c", program],
        check=True,
        cwd=tmp_path,
        env={"PYTHONPATH": str(REPOSITORY), "HOME": str(tmp_path)},
    )
    assert not list(tmp_path.iterdir())


def test_list_and_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["list"]) == 0
    listed = capsys.readouterr().out
    assert all(id_ in listed for id_ in arbgym.ENVIRONMENTS)
    presets = {"ArbFlash-v0": "base", "ArbCross-v0": "base", "ArbSell-v0": "curve"}
    number = {"base": '"block_time_s": 2.0', "curve": '"venue": "pumpswap"'}
    for id_, module in arbgym.ENVIRONMENTS.items():
        assert main(["info", id_, "--preset", presets[id_]]) == 0
        text = capsys.readouterr().out
        assert "Observation" in text and number[presets[id_]] in text
        assert all(field.name in text for field in load_definition(module).observation)


def test_check_and_bench(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check", "ArbFlash-v0"]) == 0
    assert main(["bench", "ArbFlash-v0", "--seconds", "0.05"]) == 0
    assert "16384" in capsys.readouterr().out


@pytest.mark.parametrize(
    "command", [["info", "Nothing-v0"], ["check", "Nothing-v0"], ["info", "ArbFlash-v0", "--preset", "mars"]]
)
def test_wrong_names_are_refused(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command) == 2
    assert "accepted are" in capsys.readouterr().err
