"""The kill switch: before the next send in every interleaving, over restarts, and closed where it cannot look."""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from arbgym.live.kill import KillSwitch
from arbgym.live.risk import MemoryStore, RiskGate
from arbgym.live.terms import LiveError
from tests.live.test_risk import ORDER, WIDE, TestClock


def test_nothing_is_sent_after_a_kill_in_ten_thousand_interleavings(tmp_path: Path) -> None:
    """A sender and a killer take steps in random order; the killer uses the file, the signal or the interface."""
    path = tmp_path / "kill"
    switch = KillSwitch(path)
    gate = RiskGate(WIDE, TestClock(), MemoryStore(), 8.0, switch)
    former = signal.signal(signal.SIGUSR1, lambda *_: switch.engage("signal"))
    chance = random.Random(7)
    said: list[str] = []

    def sender(number: int) -> Iterator[None]:
        for attempt in range(3):
            order = replace(ORDER, key=f"{number}.{attempt}")
            yield
            if not gate.check(order).allowed:
                return
            yield
            gate.sent(order)
            for _ in range(chance.randrange(3)):  # signing, writing, waiting
                yield
            if not gate.still_allowed(order).allowed:
                return
            said.append("sent")

    def killer(how: float) -> Iterator[None]:
        for _ in range(chance.randrange(12)):
            yield
        if how < 0.98:
            path.touch()
        elif how < 0.99:
            switch.engage("interface")
        else:
            os.kill(os.getpid(), signal.SIGUSR1)
        said.append("killed")

    sent_before = 0
    try:
        for number in range(10_000):
            said.clear()
            gate = RiskGate(WIDE, TestClock(), MemoryStore(), 8.0, switch)
            running = [sender(number), killer(chance.random())]
            while running:
                one = chance.choice(running)
                try:
                    next(one)
                except StopIteration:
                    running.remove(one)
            assert said[-1] == "killed", said
            assert said.count("killed") == 1
            sent_before += len(said) - 1
            switch.release()
    finally:
        signal.signal(signal.SIGUSR1, former)
    assert sent_before > 1_000  # the sender does send where nobody kills


def test_a_restart_stays_killed_and_a_release_is_explicit(tmp_path: Path) -> None:
    path = tmp_path / "kill"
    switch = KillSwitch(path)
    assert not switch.engaged()
    switch.engage("first\nof all")
    switch.engage("second")
    again = KillSwitch(path)
    assert (again.engaged(), again.reason()) == (True, "second")
    assert path.read_text() == "first of all\nsecond\n"
    again.release()
    assert not switch.engaged()
    again.release()  # nothing left to release
    assert again.reason() == ""


def test_what_cannot_be_looked_at_counts_as_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "folder"
    switch = KillSwitch(folder / "kill")
    assert switch.engaged()  # no such folder
    folder.mkdir()
    assert not switch.engaged()
    (folder / "kill").symlink_to("nowhere")
    assert switch.engaged()
    (folder / "kill").unlink()
    folder.rmdir()
    folder.write_text("not a folder")
    assert switch.engaged()
    folder.unlink()
    folder.mkdir()

    def denied(*_: object) -> None:
        raise PermissionError(13, "Permission denied")

    with monkeypatch.context() as patched:
        patched.setattr(os, "lstat", denied)
        assert switch.engaged()
    with monkeypatch.context() as patched:
        patched.setattr(os, "access", lambda *_: False)
        assert switch.engaged()
    assert not switch.engaged()


def test_a_kill_that_cannot_be_written_holds_in_this_process(tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    switch = KillSwitch(folder / "kill")
    folder.rmdir()
    with pytest.raises(LiveError, match="this process only"):
        switch.engage("disk gone")
    folder.mkdir()
    assert switch.engaged()
    switch.release()
    assert not switch.engaged()
    (folder / "kill").mkdir()
    with pytest.raises(LiveError, match="stays engaged"):
        switch.release()
    assert switch.engaged()


def test_the_gate_names_the_switch(tmp_path: Path) -> None:
    switch = KillSwitch(tmp_path / "kill")
    gate = RiskGate(WIDE, TestClock(), MemoryStore(), 8.0, switch)
    gate.sent(ORDER)
    (tmp_path / "kill").touch()
    for verdict in (gate.check(replace(ORDER, key="another")), gate.still_allowed(ORDER)):
        assert (verdict.allowed, verdict.limit) == (False, "kill_switch")
