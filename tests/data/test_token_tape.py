"""Token tapes: what is refused and how it is named, entries, files that read back to the last bit."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from arbgym.market.tape import TapeError
from arbgym.market.token_tape import COLUMNS, TokenTape


def made(lengths: tuple[int, ...] = (5, 3), step_s: float = 2.0, seed: int = 0) -> dict[str, Any]:
    """Arguments of a tape of tokens with those many rows: prices of a random walk, some volume."""
    random, parts = np.random.default_rng(seed), []
    for k, count in enumerate(lengths):
        rows = np.zeros((count, len(COLUMNS)))
        rows[:, 0] = 1_750_000_000 + 1000 * k + step_s * np.arange(count)
        rows[:, 1] = step_s * np.arange(count)
        rows[:, 2] = np.exp(random.normal(0.0, 0.1, count).cumsum())
        rows[:, 3], rows[:, 4] = rows[:, 2] * 1.1, rows[:, 2] * 0.9
        rows[:, 5:7] = random.exponential(10.0, (count, 2))
        rows[:, 7] = 5e4
        parts.append(rows)
    names = tuple(f"token{k}" for k in range(len(lengths)))
    return {"rows": np.concatenate(parts), "starts": np.cumsum([0, *lengths]), "names": names, "step_s": step_s}


def test_entries_are_the_first_rows_unless_they_are_given() -> None:
    tape = TokenTape(**made((5, 3, 2)))
    assert tape.entries.tolist() == [0, 5, 8]
    assert tape.with_entries(np.array([1, 6])).entries.tolist() == [1, 6]
    assert tape.token_of(np.array([0, 4, 5, 9])).tolist() == [0, 0, 1, 2]
    assert tape.between(1_750_000_500, 1_750_001_500).entries.tolist() == [5]
    with pytest.raises(TapeError, match="none between"):
        tape.between(0, 1)


def test_a_rug_is_no_first_entry() -> None:
    given = made()
    given["rows"][0, 7] = 0.0
    assert TokenTape(**given).entries.tolist() == [5]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_what_is_not_finite_is_refused(column: str, value: float) -> None:
    given = made()
    given["rows"][6, COLUMNS.index(column)] = value
    with pytest.raises(TapeError, match=f"row 6.*column {column}.*token token1.*finite"):
        TokenTape(**given)


@pytest.mark.parametrize(
    ("column", "value", "accepted"),
    [
        ("price_quote", 0.0, "above 0"),
        ("low_quote", -1.0, "above 0"),
        ("buy_quote", -1e-9, "0 or more"),
        ("sell_quote", -1.0, "0 or more"),
        ("reserve_quote", -1.0, "0 or more"),
        ("high_quote", 1e-3, "close or more"),
        ("low_quote", 1e3, "close or less"),
        ("time_s", 1_750_000_000.0, "every 2 s"),
        ("age_s", 3.0, "every 2 s"),
        ("on_curve", 0.5, "0 and 1"),
        ("on_curve", 1.0, "after the migration"),
    ],
)
def test_a_row_that_cannot_be_true_is_named(column: str, value: float, accepted: str) -> None:
    given = made()
    given["rows"][2, COLUMNS.index(column)] = value
    with pytest.raises(TapeError, match=accepted) as caught:
        TokenTape(**given)
    assert (caught.value.row, caught.value.column) == (2, column)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"rows": np.empty((0, 11))}, "empty"),
        ({"rows": np.ones((8, 4))}, "shape"),
        ({"step_s": 0.0}, "step_s"),
        ({"step_s": float("nan")}, "step_s"),
        ({"starts": np.array([0, 5])}, "starts"),
        ({"starts": np.array([0, 7, 8])}, "token token1: 1 rows"),
        ({"starts": np.array([0, 5, 9])}, "number of rows, 8"),
        ({"starts": np.array([0.0, 5.0, 8.0])}, "int64"),
        ({"names": ("same", "same")}, "twice"),
        ({"entries": np.array([8])}, "row 8; accepted are 0 to 7"),
        ({"entries": np.array([-1])}, "row -1"),
        ({"entries": np.array([1.0])}, "int64"),
        ({"entries": np.array([2, 2])}, "increasing"),
        ({"entries": np.array([4])}, "row 4.*last row of token token0"),
    ],
)
def test_arguments_that_do_not_fit_are_refused(changed: dict[str, Any], message: str) -> None:
    with pytest.raises(TapeError, match=message):
        TokenTape(**{**made(), **changed})


def test_an_entry_without_liquidity_is_refused() -> None:
    given = made()
    given["rows"][1, 7] = 0.0
    assert TokenTape(**given).rows[1, 7] == 0.0
    with pytest.raises(TapeError, match="no liquidity"):
        TokenTape(**given, entries=np.array([1]))


@given(lengths=st.lists(st.integers(2, 20), min_size=1, max_size=5).map(tuple), seed=st.integers(0, 99))
def test_files_read_back_to_the_last_bit(tmp_path_factory: pytest.TempPathFactory, lengths: tuple[int, ...], seed: int) -> None:
    pytest.importorskip("pyarrow", reason="token tapes in files need the extra data")
    path = tmp_path_factory.mktemp("tape") / "tokens.parquet"
    tape = TokenTape(**made(lengths, 0.5, seed), quote="SOL", source="made up")
    tape.save(path)
    again = TokenTape.load(path)
    assert again.sha256 == tape.sha256
    assert (again.names, again.step_s, again.quote, again.source) == (tape.names, 0.5, "SOL", "made up")
    np.testing.assert_array_equal(again.rows, tape.rows)
    assert tape.with_entries(tape.entries[:1]).sha256 == tape.sha256 or len(lengths) > 1


def test_files_that_are_no_tapes_are_refused(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow", reason="token tapes in files need the extra data")
    from pyarrow import parquet

    tape = TokenTape(**made())
    with pytest.raises(TapeError, match=r"accepted is \.parquet"):
        tape.save(tmp_path / "tape.csv")
    with pytest.raises(TapeError, match="no such file"):
        TokenTape.load(tmp_path / "absent.parquet")
    (tmp_path / "text.parquet").write_text("no table")
    with pytest.raises(TapeError, match="not a Parquet file"):
        TokenTape.load(tmp_path / "text.parquet")
    parquet.write_table(pyarrow.table({"a": [1]}), tmp_path / "other.parquet")
    with pytest.raises(TapeError, match="metadata lacks"):
        TokenTape.load(tmp_path / "other.parquet")


def test_import_needs_no_table_library() -> None:
    code = "import sys, arbgym.market.token_tape; sys.exit(bool({'pandas', 'pyarrow', 'polars'} & sys.modules.keys()))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
