"""What every way of learning hands to export, judgement and report."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from rich.console import Console


@dataclass(frozen=True)
class Learned:
    """A trained model and how it came about.

    ``model.predict(observations, deterministic=True)`` gives its actions first; ``beside`` are models to be exported and judged
    with it, by name; ``unit`` is what ``steps`` count. ``speed`` has steps, steps_per_second, seconds and the shares of time.
    """

    model: Any
    steps: int
    unit: str
    stopped_by: str
    speed: dict[str, Any]
    beside: Mapping[str, Any] = field(default_factory=dict)


Learn = Callable[[Path, Console], Learned]
"""The rest of a training that was prepared, and so will not be refused any more: it writes into the run's folder."""
