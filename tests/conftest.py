"""Fixtures of every test, and one thread per numerical library so that two workers share two cores.

Numba's own thread pool stands in for OpenMP, whose threads torch would share and wait for (see ``agents.recipe``).
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# before anything imports numpy or torch (neither pytest nor hypothesis does)
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")
os.environ.setdefault("NUMBA_THREADING_LAYER", "workqueue")

# The first example of a property compiles its kernels, so no deadline per example. In CI the examples are the same in
# every run, so that a change is judged by what it changes; elsewhere they are new each time and go on looking.
settings.register_profile("arbgym", deadline=None, derandomize=bool(os.environ.get("CI")))
settings.load_profile("arbgym")

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``shared`` beside the repository: contract vectors and recorded data that are not part of it."""
    folder = REPOSITORY.parent / "shared"
    if not folder.is_dir():
        pytest.skip("the folder shared/ (contract vectors, recorded data) does not lie beside the repository")
    return folder
