"""A fast peer that learns on the same batch: SBX (stable-baselines3's interface on JAX), where it is installed beside us.

It is no dependency: ``pip install sbx-rl`` brings JAX, and benchmarks leave the peer out without it.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agents.ppo import PPORecipe
from agents.recipe import Execution
from agents.vec import NativeVecEnv


def has_sbx() -> bool:
    """Whether the peer can be measured here."""
    return importlib.util.find_spec("sbx") is not None


@dataclass(frozen=True)
class SBXRecipe(PPORecipe):
    """The same numbers for SBX's PPO."""

    def build(self, env: NativeVecEnv, seed: int, tensorboard: Path | None = None, execution: Execution | None = None) -> Any:
        """SBX's model; what it has no counterpart for (masks, ranks, devices) is refused. Raises ValueError."""
        from flax import linen
        from sbx import PPO

        execution = execution or Execution()
        execution.require_stock(masks=self.masks)
        return PPO(
            "MlpPolicy",
            env,
            **self.numbers(execution),
            policy_kwargs={
                "net_arch": list(self.hidden),
                "activation_fn": linen.relu if self.activation == "relu" else linen.tanh,
            },
            seed=seed,
        )
