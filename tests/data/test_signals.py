"""Buy signals: none looks ahead, each waits its cool-down, and what is not known is refused by name."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbgym.data.signals import Signal, every_launch, load_signal, momentum, volume_burst
from arbgym.market.token_tape import COLUMNS, TokenTape

SIGNALS = [
    "every_launch:after_s=7",
    "momentum:window_s=4,least_return=0.05,cooldown_s=10",
    "momentum:window_s=1,least_return=-0.5,cooldown_s=0",
    "volume_burst:window_s=3,baseline_s=9,factor=1.5,cooldown_s=10",
]


def made(lengths: tuple[int, ...], seed: int = 0, step_s: float = 1.0) -> TokenTape:
    random, parts = np.random.default_rng(seed), []
    for count in lengths:
        rows = np.zeros((count, len(COLUMNS)))
        rows[:, 0], rows[:, 1] = 1.75e9 + step_s * np.arange(1, count + 1), step_s * np.arange(1, count + 1)
        rows[:, 2] = np.exp(random.normal(0.0, 0.1, count).cumsum())
        rows[:, 3] = rows[:, 4] = rows[:, 2]
        rows[:, 5:7] = random.exponential(10.0, (count, 2)) * random.integers(0, 3, (count, 1))
        rows[:, 7] = np.where(random.random(count) < 0.1, 0.0, 1e4)
        rows[0, 7] = 1e4
        parts.append(rows)
    names = tuple(f"token{k}" for k in range(len(lengths)))
    return TokenTape(np.concatenate(parts), np.cumsum([0, *lengths]), names, step_s)


@pytest.mark.parametrize("text", SIGNALS)
@given(data=st.data(), seed=st.integers(0, 10_000))
def test_no_signal_looks_ahead(text: str, data: st.DataObject, seed: int) -> None:
    tape, signal = made((40, 25), seed), load_signal(text)
    row = data.draw(st.integers(0, len(tape.rows) - 1))
    after, other = tape.rows.copy(), made((40, 25), seed + 1)
    after[row + 1 :] = other.rows[row + 1 :]
    entries, changed = (signal(one) for one in (tape, TokenTape(after, tape.starts, tape.names, tape.step_s)))
    assert entries.dtype == np.int64
    assert entries[entries <= row].tolist() == changed[changed <= row].tolist()


@pytest.mark.parametrize("text", SIGNALS)
@given(seed=st.integers(0, 10_000))
def test_entries_wait_and_can_be_bought(text: str, seed: int) -> None:
    tape = made((60, 2, 40), seed)
    entries = load_signal(text)(tape)
    if entries.size:
        assert tape.with_entries(entries).entries.tolist() == entries.tolist()
    wait = 0.0 if "cooldown_s=0" in text else 10.0
    for token in range(len(tape)):
        times = tape.column("time_s")[entries[tape.token_of(entries) == token]]
        assert np.all(np.diff(times) >= wait)
        assert len(times) <= 1 or not text.startswith("every_launch")


def test_each_says_what_it_waits_for() -> None:
    tape = made((30,))
    rows = tape.rows.copy()
    rows[:, 2:5], rows[:, 5:7], rows[:, 7] = 1.0, 1.0, 1e4
    rows[20:, 2:5] = 1.3
    rows[20, 5] = 50.0
    flat = TokenTape(rows, tape.starts, tape.names, 1.0)
    cases: list[tuple[Signal, list[int]]] = [
        (every_launch(after_s=0.0), [0]),
        (every_launch(after_s=10.0), [9]),
        (every_launch(after_s=100.0), []),
        (momentum(window_s=5.0, least_return=0.2), [20]),
        (momentum(window_s=5.0, least_return=0.4), []),
        (volume_burst(window_s=2.0, baseline_s=10.0, factor=3.0), [20]),
        (volume_burst(window_s=2.0, baseline_s=10.0, factor=3.0, least_quote=100.0), []),
    ]
    for signal, expected in cases:
        assert signal(flat).tolist() == expected


def second_row(tape: TokenTape) -> np.ndarray:
    """A signal of somebody's own."""
    return tape.starts[:-1] + 1


def test_a_signal_of_ones_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "my_signals.py").write_text("def second_row(tape):\n    return tape.starts[:-1] + 1\nnumber = 3\n")
    monkeypatch.syspath_prepend(tmp_path)
    tape = made((5, 4))
    assert load_signal("my_signals:second_row")(tape).tolist() == second_row(tape).tolist() == [1, 6]
    with pytest.raises(ValueError, match="is a int; accepted is a function"):
        load_signal("my_signals:number")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("moonshot", "accepted are every_launch, volume_burst, momentum or package.module:function"),
        ("no_such_module:signal", "No module named"),
        ("math:no_such_function", "no_such_function"),
        ("momentum:speed=3", "'speed=3'; accepted are window_s=NUMBER"),
        ("momentum:window_s=fast", "'window_s=fast'"),
        ("momentum:window_s", "'window_s'"),
        ("momentum:window_s=-1", "window_s = -1.0; accepted is above 0"),
        ("momentum:cooldown_s=-1", "cooldown_s = -1.0; accepted is 0 or more"),
        ("every_launch:after_s=-1", "after_s = -1.0; accepted is 0 or more"),
    ],
)
def test_what_is_no_signal_is_refused(text: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        load_signal(text)
