"""Tables in and out: tapes for replay from the files people have.

``read_tape`` and ``write_tape`` (Parquet and CSV), ``sample_tape_path`` (a small generated tape that ships with the package), and
``python -m arbgym.data tape`` to build one. Needs the extra ``data`` (pandas and pyarrow).
"""

from __future__ import annotations

from pathlib import Path

from arbgym.data.tape_file import read_tape, write_tape

__all__ = ["read_tape", "sample_tape_path", "write_tape"]


def sample_tape_path() -> Path:
    """The generated sample tape: in the installed package, or in a checkout's ``envs_data/``."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / "_data", package.parent / "envs_data"):
        path = folder / "sample_tape.csv"
        if path.is_file():
            return path
    raise FileNotFoundError(
        "sample_tape.csv is in neither arbgym/_data nor envs_data; reinstall, or run python -m envs_data.generate"
    )
