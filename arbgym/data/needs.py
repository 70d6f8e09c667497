"""polars, which every market table runs on; without it (or pyarrow, filelock) the error says what to install."""

from __future__ import annotations

try:
    import filelock
    import polars as pl
    import pyarrow
except ImportError as error:
    raise ImportError('market tables need polars, pyarrow and filelock: pip install "arbgym[data]"') from error

__all__ = ["filelock", "pl", "pyarrow"]
