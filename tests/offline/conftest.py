"""What tests of offline learning share: they need the environment that ``make offline`` sets up, and say so elsewhere."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

pytest.importorskip("stable_baselines3", reason="the extra train is not installed")

from experiments.config import RecordConfig, parse_recording
from experiments.datasets import record

TINY = (
    "--agent.batch 64 --agent.hidden 16 --world.episode-blocks 25 --steps 60 --checkpoint-steps 25 "
    "--evaluation.episodes 8 --evaluation.tuning-episodes 8"
).split()
"""Flags of a training on ``data`` below, or on a dataset of its own with as short episodes."""


def recording(environment: str, *flags: str) -> RecordConfig:
    """A configuration with short episodes."""
    return parse_recording([environment, "--world.episode-blocks", "25", "--episodes", "48", "--environments", "32", *flags])


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A mixture dataset of ArbFlash-v0 in each encoding that learners take; tests leave them as they are."""
    root = tmp_path_factory.mktemp("datasets")
    found = {}
    for action in ("continuous", "discrete"):
        out = root / f"{action}-v0"
        found[action] = record(recording("ArbFlash-v0", "--action", action, "--out", str(out)), Console(quiet=True))
    return found
