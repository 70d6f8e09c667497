"""ArbGym: Gymnasium environments for decentralised-exchange trading.

``import arbgym`` registers the environments and does nothing else: no compilation, no file, no global random state.

    import arbgym, gymnasium as gym
    env = gym.make("ArbFlash-v0", preset="ethereum")
    envs = gym.make_vec("ArbFlash-v0", num_envs=4096)
    tensors = gym.make_vec("ArbFlash-v0", num_envs=65536, device="cuda")
"""

from __future__ import annotations

import re
from typing import Any

import gymnasium

__version__ = "0.1.0"

ENVIRONMENTS = {"ArbFlash-v0": "arbgym.envs.flash", "ArbCross-v0": "arbgym.envs.cross", "ArbSell-v0": "arbgym.envs.sell"}


def make_vector(environment: str, num_envs: int = 1, *, device: Any = "cpu", **arguments: Any) -> Any:
    """What ``gym.make_vec`` builds: on "cpu" a ``NativeVectorEnv`` (arrays), on "cuda" or "cuda:1" a ``CudaVectorEnv`` (tensors
    on that GPU). Raises ValueError for any other device.
    """
    if str(device) == "cpu":
        from arbgym.engine import NativeVectorEnv

        return NativeVectorEnv(environment, num_envs, **arguments)
    if re.fullmatch(r"cuda(:\d+)?", str(device)) is None:
        raise ValueError(f"device = {device!r}; accepted are 'cpu', 'cuda' and 'cuda:0', 'cuda:1', ...")
    from arbgym.cuda_engine import CudaVectorEnv

    return CudaVectorEnv(environment, num_envs, device=str(device), **arguments)


for _id, _module in ENVIRONMENTS.items():
    if _id not in gymnasium.registry:
        gymnasium.register(
            id=_id,
            entry_point="arbgym.engine:NativeEnv",
            vector_entry_point="arbgym:make_vector",
            disable_env_checker=True,
            kwargs={"environment": _module},
        )
