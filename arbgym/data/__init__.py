"""Tables in and out: whatever market table people have into canonical tables, stores, and tapes for replay.

``read_table`` and ``to_canonical`` turn a file or a frame of any known format into the canonical tables of ``tables``;
``Store`` keeps them; ``features`` and ``splits`` look back only. ``read_tape`` and ``write_tape`` (Parquet, CSV, memory-mapped),
``sample_tape_path`` (a small generated tape that ships with the package). ``python -m arbgym.data`` does all of it from the
command line. Needs the extra ``data``.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from arbgym.data.tape_file import read_tape, write_tape

if TYPE_CHECKING:
    from arbgym.data.importer import import_batches, import_file, read_table, to_canonical
    from arbgym.data.opportunities import OpportunityWriter
    from arbgym.data.readers.base import Options
    from arbgym.data.store import Store

__all__ = [
    "Options",
    "OpportunityWriter",
    "Store",
    "import_batches",
    "import_file",
    "read_table",
    "read_tape",
    "sample_tape_path",
    "to_canonical",
    "write_tape",
]

# names that bring polars along are looked up when they are asked for
_LATER = {
    "Options": "readers.base",
    "OpportunityWriter": "opportunities",
    "Store": "store",
    "import_batches": "importer",
    "import_file": "importer",
    "read_table": "importer",
    "to_canonical": "importer",
}


def __getattr__(name: str) -> Any:
    if name in _LATER:
        return getattr(import_module(f"arbgym.data.{_LATER[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


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
