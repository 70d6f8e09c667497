"""``python -m experiments.local_chain``: what it prints is what a newcomer types next."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from arbgym.data import read_tape
from arbgym.live import tapes
from experiments.local_chain import main
from tests.live.policies import save_policy
from tests.live.test_live_runner import rows

REPOSITORY = Path(__file__).resolve().parents[2]


def children(process: int) -> list[int]:
    """The processes that ``process`` started."""
    return [int(child) for child in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


@contextmanager
def running(out: Path, *options: str) -> Iterator[tuple[subprocess.Popen[str], dict[str, str]]]:
    """The command, ready, and what it said by each line's first word."""
    command = [sys.executable, "-m", "experiments.local_chain", "--out", str(out), "--seed", "5", *options]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    chain = subprocess.Popen(command, cwd=out.parent, env=environment, stdout=subprocess.PIPE, text=True)
    try:
        assert chain.stdout is not None
        said = {line.split(":")[0]: line for line in (chain.stdout.readline() for _ in range(3))}
        assert list(said) == ["dry", "live", "page"], said
        yield chain, said
    finally:
        chain.terminate()  # and not kill, which would leave its node behind
        chain.wait(timeout=20)


@pytest.mark.slow
def test_what_it_says_to_run_runs_dry_and_live(chain_packages: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    policy = save_policy(tmp_path / "policy", seed=3, masked=True)
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    recording = tmp_path / "blocks.jsonl"
    with running(tmp_path / "chain", "--seconds", "0.3") as (chain, said):
        key = re.search(r"ARBGYM_PRIVATE_KEY=(0x[0-9a-f]{64})", said["live"])
        assert key is not None
        for extra, variables in (
            (["--record", str(recording), "--blocks", "40"], {}),
            (["--live", "--blocks", "20"], {"ARBGYM_PRIVATE_KEY": key[1]}),
        ):
            typed = said["live" if "--live" in extra else "dry"].split("python ")[1].split()
            typed[typed.index("POLICY_DIR")] = str(policy)
            ran = subprocess.run(
                [sys.executable, *typed, *extra, "--port", "0"],
                cwd=tmp_path, env=environment | variables, capture_output=True, text=True, timeout=120,
            )  # fmt: skip
            assert ran.returncode == 0, ran.stderr
            assert key[1][2:] not in ran.stdout + ran.stderr
        (node,) = children(chain.pid)
        chain.send_signal(signal.SIGTERM)
        assert chain.wait(timeout=20) == 0
        with pytest.raises(ProcessLookupError):
            os.kill(node, 0)
    (journal,) = set((tmp_path / "chain").glob("journal-*.sqlite")) - set((tmp_path / "chain").glob("*.dry-run.sqlite"))
    assert not list(tmp_path.glob("*.sqlite")), "in the folder where it was typed"
    dry = rows(journal.with_suffix(".dry-run.sqlite"), "SELECT state FROM intents")
    assert dry and {state for (state,) in dry} == {"dry"}
    assert rows(journal, "SELECT state FROM intents WHERE state = 'mined'")
    assert tapes.main([str(recording), str(tmp_path / "blocks.tape"), "--chain", "ethereum"]) == 0, capsys.readouterr().err
    tape = read_tape(tmp_path / "blocks.tape")
    assert tape.step_seconds == 1 and len(tape.timestamps) >= 40 and tape.flow_base.any()


@pytest.mark.slow
def test_blocks_are_slots_apart_and_traded_in(chain_packages: None, tmp_path: Path) -> None:
    out = tmp_path / "chain"
    with running(out, "--seconds", "1", "--blocks", "6") as (chain, _):
        told = tomllib.loads((out / "live.toml").read_text())
        url, times, sent = told["chain"]["rpc"], {}, 0
        while chain.poll() is None and len(times) < 5:
            request = {"jsonrpc": "2.0", "id": 1, "method": "eth_getBlockByNumber", "params": ["latest", False]}
            body = json.dumps(request).encode()
            with urlopen(Request(url, body, {"Content-Type": "application/json"}), timeout=10) as answer:
                block = json.load(answer)["result"]
            number, time_s = int(block["number"], 16), int(block["timestamp"], 16)
            if number not in times:
                assert abs(time.time() - time_s) < 0.9
                sent += len(block["transactions"])
            times[number] = time_s
            time.sleep(0.1)
        assert chain.wait(timeout=20) == 0
    assert len(times) == 5 and sent > 1
    first = min(times)
    assert all(time_s - times[first] == number - first for number, time_s in times.items())
    assert told["chain"]["block_time_s"] == 1.0 and "max_clock_skew_s" not in told["risk"]
    assert all(
        Path(path).is_absolute() and Path(path).parent == out for path in (told["journal"]["path"], told["risk"]["kill_file"])
    )


@pytest.mark.slow
def test_another_chain_has_another_journal(chain_packages: None, tmp_path: Path) -> None:
    journals = set()
    for _ in range(2):
        with running(tmp_path / "chain", "--seconds", "0.1", "--blocks", "1"):
            journals.add(tomllib.loads((tmp_path / "chain" / "live.toml").read_text())["journal"]["path"])
    assert len(journals) == 2


@pytest.mark.parametrize("seconds", ["0", "-1", "1.5", "nan", "inf"])
def test_slots_that_no_block_could_tell_are_refused(seconds: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--seconds", seconds])
    assert f"--seconds {seconds}: accepted are whole seconds" in capsys.readouterr().err
