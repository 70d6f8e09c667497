"""``python -m experiments.local_chain``: what it prints is what a newcomer types next."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.live.policies import save_policy
from tests.live.test_live_runner import rows

REPOSITORY = Path(__file__).resolve().parents[2]


def children(process: int) -> list[int]:
    """The processes that ``process`` started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def test_what_it_says_to_run_runs_dry_and_live(chain_packages: None, tmp_path: Path) -> None:
    policy = save_policy(tmp_path / "policy", seed=3, masked=True)
    out = tmp_path / "chain"
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    command = [sys.executable, "-m", "experiments.local_chain", "--out", str(out), "--seconds", "0.3", "--seed", "5"]
    chain = subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    try:
        assert chain.stdout is not None
        said = {line.split(":")[0]: line for line in (chain.stdout.readline() for _ in range(3))}
        assert list(said) == ["dry", "live", "page"], said
        key = re.search(r"ARBGYM_PRIVATE_KEY=(0x[0-9a-f]{64})", said["live"])
        assert key is not None
        for extra, variables in (([], {}), (["--live"], {"ARBGYM_PRIVATE_KEY": key[1]})):
            typed = said["live" if extra else "dry"].split("python ")[1].split()
            typed[typed.index("POLICY_DIR")] = str(policy)
            ran = subprocess.run(
                [sys.executable, *typed, "--blocks", "20", "--port", "0"],
                cwd=tmp_path, env=environment | variables, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            assert key[1][2:] not in ran.stdout + ran.stderr
        (nodes,) = children(chain.pid)
        chain.send_signal(signal.SIGTERM)
        assert chain.wait(timeout=20) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(nodes, 0)
    finally:
        chain.kill()
        chain.wait()
    assert {state for (state,) in rows(tmp_path / "arbgym-live.dry-run.sqlite", "SELECT state FROM intents")} <= {"dry"}
    assert rows(tmp_path / "arbgym-live.sqlite", "SELECT state FROM intents WHERE state = 'mined'")
