"""A tiny training run that the tests look at, and the flags that make one."""

from __future__ import annotations

from pathlib import Path

import pytest

pytest.importorskip("stable_baselines3", reason="the extra train is not installed")

from experiments.train import main

TINY = (
    "--agent.environments 32 --agent.rollout-steps 16 --agent.minibatch 256 --agent.hidden 16 "
    "--world.episode-blocks 25 --steps 2048 --checkpoint-steps 1024 "
    "--evaluation.episodes 8 --evaluation.tuning-episodes 8"
).split()


def only_run(out: Path) -> Path:
    """The one run below a folder."""
    (folder,) = out.glob("*/*/config.json")
    return folder.parent


def train(out: Path, *flags: str) -> Path:
    """Run a tiny training in this process; returns its folder."""
    assert main(["ppo_flash", *TINY, *flags, "--out", str(out)]) == 0
    return only_run(out)


@pytest.fixture(scope="session")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a finished tiny run; tests leave it as it is."""
    return train(tmp_path_factory.mktemp("runs"))
