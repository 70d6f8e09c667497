"""Policy directories for tests: small networks with random weights that like to act, saved and verified as a trained one is."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np

import arbgym
from arbgym import policy
from arbgym.engine import load_definition
from arbgym.market.lender import FLASH_SWAPS
from arbgym.onnx_graph import parse
from arbgym.policy import GOLDEN_PAIRS, Golden
from arbgym.spec import Encoding, component_sizes

NOTHING: Mapping[str, int] = MappingProxyType({})
DEFINITION = load_definition(arbgym.ENVIRONMENTS["ArbFlash-v0"])


def quiet_config(**changes: Any) -> Any:
    """ArbFlash-v0 where nothing happens that a chain does not tell: no rivals, no luck, flash swaps alone."""
    config = DEFINITION.configure(
        "ethereum",
        rival_counts=(0.0, 0.0, 0.0),
        losing_bid_visibility=0.0,
        private_inclusion=0.0,
        public_inclusion=0.0,
        lenders=FLASH_SWAPS,
        lender_close_probability=0.0,
    )
    return replace(config, **changes)


def network(
    encoding: Encoding = "multidiscrete", seed: int = 0, eagerness: float = 1.5, prefer: Mapping[str, int] = NOTHING
) -> bytes:
    """One hidden layer of 16, and a choice per component. ``eagerness`` is added to the acting values' logits; ``prefer`` names
    components (of multidiscrete actions) and the place of the value that is always chosen.
    """
    from onnx import TensorProto, helper, numpy_helper

    rng = np.random.default_rng(seed)
    sizes = component_sizes(DEFINITION.action, encoding)
    fields, width = len(DEFINITION.observation), sum(sizes)
    bias = rng.normal(size=width).astype(np.float32)
    bias[1 : sizes[0]] += eagerness
    if encoding == "multidiscrete":
        for name, place in prefer.items():
            component = [choice.name for choice in DEFINITION.action].index(name)
            bias[sum(sizes[:component]) + place] += 100.0
        bias[sum(sizes[:4])] += eagerness  # the cheapest lender: a named one often lends for no such route
    weights = {
        "w1": (0.5 * rng.normal(size=(fields, 16))).astype(np.float32),
        "w2": (0.2 * rng.normal(size=(16, width))).astype(np.float32),
        "b2": bias,
        "sizes": np.array(sizes),
    }
    parts = [f"part{k}" for k in range(len(sizes))]
    chosen = [f"{part}_best" for part in parts]
    nodes = [
        helper.make_node("MatMul", ["observation", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Gemm", ["r", "w2", "b2"], ["logits"]),
        helper.make_node("Split", ["logits", "sizes"], parts, axis=1),
        *(helper.make_node("ArgMax", [part], [best], axis=1, keepdims=1) for part, best in zip(parts, chosen, strict=True)),
        helper.make_node("Concat", chosen, ["action"], axis=1),
    ]
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", fields])],
        [
            helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", width]),
            helper.make_tensor_value_info("action", TensorProto.INT64, ["batch", len(sizes)]),
        ],
        [numpy_helper.from_array(array, name) for name, array in weights.items()],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    return bytes(made.SerializeToString())


def save_policy(
    folder: Path,
    *,
    encoding: Encoding = "multidiscrete",
    seed: int = 0,
    config: Any = None,
    prefer: Mapping[str, int] = NOTHING,
    **more: Any,
) -> Path:
    """A policy directory; ``config`` as the environment's (default ``quiet_config()``)."""
    model = network(encoding, seed, prefer=prefer)
    low, high = (np.array([getattr(f, end) for f in DEFINITION.observation], dtype=np.float32) for end in ("low", "high"))
    observations = np.random.default_rng(seed).uniform(low, high, (GOLDEN_PAIRS, len(low))).astype(np.float32)
    found = parse(model).run({"observation": observations})
    policy.save(
        folder,
        model,
        definition=DEFINITION,
        config=config or quiet_config(),
        preset="ethereum",
        encoding=encoding,
        feed="simulated",
        golden=Golden(observations, found["logits"], found["action"]),
        provenance={"git_revision": "", "seed": seed, "steps": 0, "versions": {}, "held_out": {}},
        **more,
    )
    return folder
