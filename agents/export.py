"""A trained stable-baselines3 model as one self-contained ONNX file, checked against the model it came from."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray
from stable_baselines3 import DQN, PPO
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn

from arbgym.onnx_graph import parse
from arbgym.policy import GOLDEN_PAIRS, Golden


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


def decision_network(model: PPO | DQN) -> DecisionNetwork:
    """The deterministic part of a model; its weights are shared, not copied."""
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


def export(model: PPO | DQN, observations: NDArray[np.float32]) -> tuple[bytes, Golden]:
    """The ONNX file's bytes and golden pairs, for a model whose actions the file reproduces on all
    ``observations`` (M, D).

    M is at least 32; golden pairs are spread over them. Raises ExportError if one action differs from
    ``model.predict``.
    """
    if len(observations) < GOLDEN_PAIRS:
        raise ValueError(f"observations: {len(observations)} given; accepted are {GOLDEN_PAIRS} or more")
    network = decision_network(model)
    content = _to_onnx(network)
    rows = np.linspace(0, len(observations) - 1, GOLDEN_PAIRS).astype(int)
    sample = np.ascontiguousarray(observations[rows], dtype=np.float32)
    with torch.no_grad():
        logits, actions = network(torch.as_tensor(sample))
    differing = differing_actions(model, content, observations)
    if differing:
        raise ExportError(f"{differing} of {len(observations)} actions of the exported network differ from the model's")
    return content, Golden(sample, logits.numpy(), actions.numpy())


def differing_actions(model: PPO | DQN, content: bytes, observations: NDArray[np.float32]) -> int:
    """In how many rows the ONNX graph acts otherwise than ``model.predict(deterministic=True)``."""
    expected = np.asarray(model.predict(observations, deterministic=True)[0]).reshape(len(observations), -1)
    found = parse(content).run({"observation": observations})["action"]
    tolerance = 1e-5 if expected.dtype.kind == "f" else 0.0
    return int(np.any(np.abs(found - expected) > tolerance, axis=1).sum())


def _to_onnx(network: DecisionNetwork) -> bytes:
    """Bytes with weights inside and a free batch axis, without the exporter's notes on source files."""
    sample = torch.zeros(2, network.low.numel())
    registry = logging.getLogger(
        "torch.onnx._internal.exporter._registration"
    )  # says which optional packages are absent
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)  # torch's own use of its deprecated names
            program = torch.onnx.export(
                network,
                (sample,),
                dynamo=True,
                external_data=False,
                input_names=["observation"],
                output_names=["logits", "action"],
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    if program is None:
        raise ExportError("torch.onnx.export returned no program")
    proto = program.model_proto
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return bytes(proto.SerializeToString())
