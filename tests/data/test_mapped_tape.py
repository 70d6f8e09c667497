"""Mapped tapes: the same bits as the other formats, refused with the same words, and held in memory once by all environments."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import arbgym.engine
import arbgym.market.tape
from arbgym.data import read_tape, write_tape
from arbgym.market.tape import Tape, TapeError, TapePool
from envs_data.generate import sample_tape


@pytest.fixture(scope="module")
def tape() -> Tape:
    return sample_tape()


@pytest.fixture
def mapped(tape: Tape, tmp_path: Path) -> Path:
    path = tmp_path / "sample.tape"
    write_tape(tape, path)
    return path


def test_written_and_mapped_again(tape: Tape, mapped: Path) -> None:
    again = read_tape(mapped)
    assert (again.pools, again.step_seconds, again.base, again.quote) == (tape.pools, tape.step_seconds, tape.base, tape.quote)
    assert np.array_equal(again.array(), tape.array()) and again.sha256 == tape.sha256
    earlier, same = again.span(0.0, 0.7), tape.span(0.0, 0.7)
    assert np.array_equal(earlier.array(), same.array()) and np.array_equal(earlier.timestamps, same.timestamps)
    assert np.shares_memory(earlier.array(), again.array())  # a view of the same pages
    write_tape(again, mapped)  # over itself: the old one stays until the new one is complete
    assert read_tape(mapped).sha256 == tape.sha256


def test_a_replay_is_the_same_from_either_file(tape: Tape, mapped: Path) -> None:
    rewards = []
    for recorded in (tape, read_tape(mapped)):
        env = arbgym.engine.NativeVectorEnv("arbgym.envs.flash", 16, feed="replay", tape=recorded)
        env.reset(seed=3)
        env.action_space.seed(1)
        for _ in range(50):
            env.step_in_place(env.action_space.sample())
        rewards.append(env.rewards.copy())
    assert np.array_equal(*rewards)


@pytest.mark.parametrize("damage", ["row", "times", "shape", "missing", "truncated"])
def test_damage_is_refused_with_file_and_row(mapped: Path, damage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(arbgym.market.tape, "_CHUNK", 64)  # the row's number holds across the pieces that are looked at
    rows, times = np.load(mapped / "rows.npy"), np.load(mapped / "timestamps.npy")
    word = "sample.tape"
    if damage == "row":
        rows[700, 2] = np.nan
        word = "row 700 .*finite"
    elif damage == "times":
        times[128] = times[127]
        word = "row 128 .*twice"
    elif damage == "shape":
        rows = rows[:, :-1]
        word = "rows float64"
    np.save(mapped / "rows.npy", rows)
    np.save(mapped / "timestamps.npy", times)
    if damage == "missing":
        (mapped / "tape.json").unlink()
        word = "lacks tape.json"
    elif damage == "truncated":
        (mapped / "rows.npy").write_bytes((mapped / "rows.npy").read_bytes()[:200])
    with pytest.raises(TapeError, match=word):
        read_tape(mapped)


def test_one_pool_is_enough_for_a_tape_but_not_for_a_cycle(tape: Tape) -> None:
    rows = np.ascontiguousarray(tape.array()[:, :5])
    alone = Tape.from_rows((TapePool("pool", "v3", 500.0),), tape.timestamps, rows, tape.step_seconds)
    arbgym.engine.NativeVectorEnv("arbgym.envs.cross", 2, feed="replay", tape=alone)
    with pytest.raises(ValueError, match="a cycle needs two"):
        arbgym.engine.NativeVectorEnv("arbgym.envs.flash", 2, feed="replay", tape=alone)


_MEASURE = """
import json, re, sys
from arbgym.data import read_tape
from arbgym.engine import NativeVectorEnv

def resident():
    status = open("/proc/self/status").read()
    return {name: int(re.search(rf"{name}:\\s+(\\d+) kB", status).group(1)) * 1024 for name in ("VmRSS", "VmHWM")}

small, large = read_tape(sys.argv[1]), None
env = NativeVectorEnv("arbgym.envs.cross", 4096, feed="replay", tape=small)
env.reset(seed=0)
env.action_space.seed(0)
env.step_in_place(env.action_space.sample())
before = resident()["VmRSS"]
large = read_tape(sys.argv[2])
env.core.world = NativeVectorEnv("arbgym.envs.cross", 4096, feed="replay", tape=large).core.world
env.reset(seed=0)
for _ in range(20):
    env.step_in_place(env.action_space.sample())
print(json.dumps({"grown": resident()["VmHWM"] - before, "size": large.array().nbytes}))
"""


def test_thousands_of_environments_hold_a_tape_once(mapped: Path, tmp_path: Path) -> None:
    """Peak memory grows by no more than the tape's size (its times and a little for looking at it included in a tenth)."""
    if not Path("/proc/self/status").is_file():
        pytest.skip("needs Linux's /proc/self/status to measure memory")
    count = 3_000_000  # 8 columns of float64: 192 MB
    generator = np.random.default_rng(0)
    price = 2_000.0 * np.exp(np.cumsum(generator.normal(0.0, 1e-5, count)))
    rows = np.column_stack([price, np.full(count, 20.0), price, np.full(count, 1e5), np.zeros(count)])
    rows = np.ascontiguousarray(np.column_stack([rows, price, np.full(count, 1e5), np.zeros(count)]))
    pools = (TapePool("five", "v3", 500.0), TapePool("thirty", "v2", 3_000.0))
    times = 1_700_000_000 + 12 * np.arange(count)
    large = tmp_path / "large.tape"
    write_tape(Tape.from_rows(pools, times, rows, 12), large)
    found = subprocess.run([sys.executable, "-c", _MEASURE, str(mapped), str(large)], capture_output=True, text=True, check=True)
    measured = json.loads(found.stdout)
    assert measured["size"] == rows.nbytes
    assert measured["grown"] <= 1.1 * measured["size"] + 50e6
