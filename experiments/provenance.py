"""Where a result comes from: code revision, library versions, machine."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parent.parent
LIBRARIES = ("numpy", "numba", "gymnasium", "torch", "stable-baselines3", "onnx", "onnxruntime")


def git_revision() -> dict[str, Any]:
    """Commit of the checkout and whether it has changes that are not committed; both None outside a checkout."""
    try:
        commit = _git("rev-parse", "HEAD")
        dirty = bool(_git("status", "--porcelain", "--untracked-files=no"))
    except (OSError, subprocess.CalledProcessError):
        return {"commit": None, "dirty": None}
    return {"commit": commit, "dirty": dirty}


def _git(*arguments: str) -> str:
    result = subprocess.run(("git", "-C", str(REPOSITORY), *arguments), capture_output=True, text=True, check=True)
    return result.stdout.strip()


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that numbers depend on, where installed."""
    found = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine() -> dict[str, Any]:
    """Processor kind and cores, nothing that names a machine."""
    return {"system": platform.system(), "processor": platform.machine(), "cores": os.cpu_count()}
