"""Reading a run's folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from experiments.config import ConfigError, RunConfig, from_json
from experiments.monitor import LEARNING_CURVE

CONFIG, RESULT = "config.json", "result.json"


def load_json(path: Path) -> Any:
    """A JSON file of a run; ConfigError says what is wrong with it."""
    if not path.is_file():
        raise ConfigError(f"{path.parent}: holds no {path.name}; accepted is a folder runs/NAME/STAMP")
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ConfigError(f"{path}: not JSON: {error}") from error


def load_config(folder: Path) -> RunConfig[Any, Any]:
    """The configuration a run was started with."""
    content = load_json(folder / CONFIG)
    if not isinstance(content, dict) or "run" not in content:
        raise ConfigError(f"{folder / CONFIG}: holds no run; accepted is what a training run wrote")
    return from_json(content["run"])


def load_learning_curve(folder: Path) -> list[dict[str, float]]:
    """The logged points of training in order of steps, each step once: a resumed run's points replace older ones."""
    path = folder / LEARNING_CURVE
    if not path.is_file():
        return []
    points = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        point = json.loads(line)
        points[point["steps"]] = point
    return [points[steps] for steps in sorted(points)]
