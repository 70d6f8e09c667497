"""A policy with a script instead of a network: it acts on most blocks, with every choice drawn from a seed."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import asdict
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.envs.flash import ACTION, DEFINITION
from arbgym.policy import Policy
from arbgym.spec import component_sizes, schema, schema_hash

_SIZES = component_sizes(ACTION, "multidiscrete")
_STARTS = [sum(_SIZES[:k]) for k in range(len(_SIZES))]
_PLACES = {choice.name: k for k, choice in enumerate(ACTION)}


def scripted_policy(seed: int, *, acting: Callable[[], float], public: float = 0.5) -> Policy:
    """Wants the best (seldom the second best) route with probability ``acting()`` a block, and mostly is sure of it."""
    rng = random.Random(f"policy {seed}")

    def run(observations: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[Any], bool]:
        actions = np.zeros((len(observations), len(ACTION)), np.int64)
        logits = np.zeros((len(observations), sum(_SIZES)), np.float32)
        for row in range(len(observations)):
            if rng.random() < acting():
                actions[row, _PLACES["route"]] = 2 if rng.random() < 0.1 else 1
            actions[row, _PLACES["size_share"]] = rng.randrange(_SIZES[_PLACES["size_share"]])
            actions[row, _PLACES["bid_share"]] = rng.randrange(_SIZES[_PLACES["bid_share"]] // 2)
            actions[row, _PLACES["tolerance"]] = rng.randrange(_SIZES[_PLACES["tolerance"]])
            actions[row, _PLACES["channel"]] = int(rng.random() < public)
            for component, choice in enumerate(actions[row]):
                logits[row, _STARTS[component] + choice] = 8.0 if rng.random() < 0.95 else 0.5
        return logits, actions, bool(np.isfinite(observations).all())

    return Policy(_manifest(), DEFINITION, run)


@cache
def _manifest() -> dict[str, Any]:
    config = DEFINITION.configure("ethereum")
    return {
        "format": 3,
        "model": {"file": "policy.onnx", "sha256": 64 * "0"},
        "environment": {
            "id": DEFINITION.id,
            "version": DEFINITION.version,
            "preset": "ethereum",
            "feed": "simulated",
            "config": asdict(config),
        },
        "observation": {"schema": schema(DEFINITION.observation), "sha256": schema_hash(DEFINITION.observation)},
        "action": {
            "encoding": "multidiscrete",
            "masked": False,
            "schema": schema(DEFINITION.action),
            "sha256": schema_hash(DEFINITION.action),
        },
        "provenance": {"git_revision": "0" * 40, "seed": 0, "steps": 0, "versions": {}, "held_out": {}},
        "created": "2023-11-01T00:00:00+00:00",
        "expires_at": "2123-11-01T00:00:00+00:00",
        "golden": {"observation": [], "logits": [], "action": []},
        "sha256": 64 * "0",
    }
