"""ArbGym: Gymnasium environments for decentralised-exchange trading.

``import arbgym`` registers the environments and does nothing else: no compilation, no file, no global random state.

    import arbgym, gymnasium as gym
    env = gym.make("ArbFlash-v0", preset="ethereum")
    envs = gym.make_vec("ArbFlash-v0", num_envs=4096)
"""

from __future__ import annotations

import gymnasium

__version__ = "0.1.0"

ENVIRONMENTS = {"ArbFlash-v0": "arbgym.envs.flash", "ArbCross-v0": "arbgym.envs.cross", "ArbSell-v0": "arbgym.envs.sell"}

for _id, _module in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(
            id=_id,
            entry_point="arbgym.engine:NativeEnv",
            vector_entry_point="arbgym.engine:NativeVectorEnv",
            disable_env_checker=True,
            kwargs={"environment": _module},
        )
