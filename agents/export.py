"""A trained model as one self-contained ONNX file, checked against the model it came from.

Networks of stable-baselines3 and d3rlpy are drawn here; a model that draws its own graph (boosted trees, ensembles: see
``arbgym.models``) is asked for it, and checked alike.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol, runtime_checkable

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from agents.offline import OfflineModel
from arbgym.models.torch_graph import to_onnx
from arbgym.onnx_graph import parse
from arbgym.policy import GOLDEN_PAIRS, Golden

ROUNDING = 1e-5  # of logits, relative above 1


class ExportError(RuntimeError):
    """The exported network does not decide as the trained one does; the message has the counts."""


class DecisionNetwork(nn.Module):
    """Observation (N, D) -> logits (N, L) and action (N, A): limits, layers and choice in one graph.

    ``network`` maps observations to logits: per component for a multi-discrete action (``sizes``), action
    values or logits for a discrete one, means for a continuous one (``sizes`` empty), which are limited to [-1,
    1].
    """

    low: torch.Tensor
    high: torch.Tensor

    def __init__(self, network: nn.Module, space: gymnasium.spaces.Box, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.network = network
        self.sizes = list(sizes)
        self.register_buffer("low", torch.as_tensor(space.low))
        self.register_buffer("high", torch.as_tensor(space.high))

    def forward(self, observation: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits and the action the deterministic policy takes."""
        logits = self.network(torch.minimum(torch.maximum(observation, self.low), self.high))
        if not self.sizes:
            return logits, torch.clamp(logits, -1.0, 1.0)
        parts = torch.split(logits, self.sizes, dim=1)
        return logits, torch.cat([part.argmax(dim=1, keepdim=True) for part in parts], dim=1)


@runtime_checkable
class Drawn(Protocol):
    """A model of the discrete encoding that draws its own graph."""

    def onnx(self) -> bytes:
        """The ONNX file: ``observation`` (N, D) to ``logits`` (N, L) and ``action`` (N, 1)."""
        ...

    def logits(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """Logits (N, L) as the model itself computes them; it takes the action of the greatest."""
        ...

    def predict(self, observations: NDArray[np.float32], *, deterministic: bool = True) -> tuple[NDArray[Any], None]:
        """The actions (N,), and no state."""
        ...


Network = PPO | DQN | OfflineModel
Model = Network | Drawn


def decision_network(model: Network) -> DecisionNetwork:
    """The deterministic part of a model; its weights are shared, not copied."""
    if isinstance(model, OfflineModel):
        return DecisionNetwork(model.network(), model.observation_space, _sizes(model.action_space)).eval()
    policy: Any = model.policy
    extractor = policy.features_extractor if isinstance(model, PPO) else policy.q_net.features_extractor
    if not isinstance(extractor, FlattenExtractor):
        raise TypeError(f"features extractor {type(extractor).__name__}; accepted is FlattenExtractor")
    if isinstance(model, PPO):
        network: nn.Module = nn.Sequential(policy.mlp_extractor.policy_net, policy.action_net)
    else:
        network = policy.q_net.q_net
    observations = model.observation_space
    if not isinstance(observations, gymnasium.spaces.Box):
        raise TypeError(f"observation space {observations}; accepted is a Box")
    return DecisionNetwork(network, observations, _sizes(model.action_space)).eval()


def _sizes(space: gymnasium.spaces.Space[Any]) -> tuple[int, ...]:
    if isinstance(space, gymnasium.spaces.MultiDiscrete):
        return tuple(int(size) for size in space.nvec)
    if isinstance(space, gymnasium.spaces.Discrete):
        return (int(space.n),)
    if isinstance(space, gymnasium.spaces.Box):
        return ()
    raise TypeError(f"action space {space}; accepted are MultiDiscrete, Discrete and Box")


def export(model: Model, observations: NDArray[np.float32]) -> tuple[bytes, Golden]:
    """The ONNX file's bytes and golden pairs, after its answers to all ``observations`` (M, D) were held
    against the model's.

    M is at least 32. Raises ExportError unless logits agree within float32 rounding (1e-5) and every action is
    the one of ``model.predict``; only where the model itself does not prefer one by more than that may the
    other be taken. Golden pairs are spread over the observations, away from such ties, so that another
    machine's rounding decides alike.
    """
    if len(observations) < GOLDEN_PAIRS:
        raise ValueError(f"observations: {len(observations)} given; accepted are {GOLDEN_PAIRS} or more")
    content, logits, actions, sizes = _drawn(model, observations)
    found = parse(content).run({"observation": observations})
    rounding = ROUNDING * np.maximum(1.0, np.abs(logits).max(axis=1))
    error = (np.abs(found["logits"] - logits).max(axis=1) / rounding).max() * ROUNDING
    if not error <= ROUNDING:
        raise ExportError(f"logits of the exported network differ from the model's by {error:.2g}; accepted is {ROUNDING:g}")
    preference = _preference(logits, sizes)
    expected = _predict(model, observations)
    for name, found_actions in (("exported", found["action"]), ("deterministic", actions)):
        differing = _differ(found_actions, expected) & (preference > rounding)
        if differing.any():
            raise ExportError(f"{differing.sum()} of {len(observations)} actions of the {name} network differ from the model's")
    clear = np.flatnonzero(preference >= np.median(preference))
    chosen = clear[np.linspace(0, len(clear) - 1, GOLDEN_PAIRS).astype(int)]
    return content, Golden(observations[chosen], logits[chosen], actions[chosen])


def _drawn(model: Model, observations: NDArray[np.float32]) -> tuple[bytes, NDArray[np.float32], NDArray[Any], Sequence[int]]:
    """The file, logits and actions as the model's own libraries compute them, and how many logits each component has."""
    if isinstance(model, Drawn):
        logits = model.logits(observations)
        return model.onnx(), logits, logits.argmax(axis=1)[:, None], (logits.shape[1],)
    network = decision_network(model)
    proto = to_onnx(network, network.low.numel(), ["logits", "action"])
    with torch.no_grad():
        logits, actions = (part.numpy() for part in network(torch.as_tensor(observations)))
    return bytes(proto.SerializeToString()), logits, actions, network.sizes


def differing_actions(model: Model, act: Callable[[NDArray[np.float32]], NDArray[Any]], observations: NDArray[np.float32]) -> int:
    """In how many rows ``act`` takes another action than ``model.predict(deterministic=True)`` (1e-5 apart if
    continuous).
    """
    return int(_differ(act(observations), _predict(model, observations)).sum())


def _predict(model: Model, observations: NDArray[np.float32]) -> NDArray[Any]:
    return np.asarray(model.predict(observations, deterministic=True)[0]).reshape(len(observations), -1)


def _differ(found: NDArray[Any], expected: NDArray[Any]) -> NDArray[np.bool_]:
    """Rows (N,) in which two batches of actions differ."""
    tolerance = ROUNDING if expected.dtype.kind == "f" else 0.0
    return np.asarray(np.any(np.abs(found - expected) > tolerance, axis=1))


def _preference(logits: NDArray[np.float32], sizes: Sequence[int]) -> NDArray[np.float32]:
    """By how much each row's actions are preferred to the next best, at least; infinite for a continuous action."""
    least = np.full(len(logits), np.inf, dtype=np.float32)
    start = 0
    for size in sizes:
        if size > 1:
            best = np.sort(logits[:, start : start + size], axis=1)
            least = np.minimum(least, best[:, -1] - best[:, -2])
        start += size
    return least
