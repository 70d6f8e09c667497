"""A torch module as ONNX: weights inside, a free batch axis, nothing but operators. Needs torch and onnx (extra ``train``)."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from typing import Any

import torch


def to_onnx(network: torch.nn.Module, fields: int, outputs: Sequence[str]) -> Any:
    """The ``onnx.ModelProto`` from ``observation`` float32 (N, ``fields``) to the named outputs.

    Without the exporter's notes on source files. Raises RuntimeError where torch exports nothing.
    """
    registry = logging.getLogger("torch.onnx._internal.exporter._registration")  # says which optional packages are absent
    level = registry.level
    registry.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", category=FutureWarning)  # torch's own use of its deprecated names
            program = torch.onnx.export(
                network,
                (torch.zeros(2, fields),),
                dynamo=True,
                external_data=False,
                input_names=["observation"],
                output_names=list(outputs),
                dynamic_shapes=({0: torch.export.Dim("batch")},),
                verbose=False,
            )
    finally:
        registry.setLevel(level)
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    proto: Any = program.model_proto
    del proto.metadata_props[:]
    del proto.graph.metadata_props[:]
    del proto.graph.value_info[:]
    for part in (*proto.graph.node, *proto.graph.input, *proto.graph.output, *proto.graph.initializer):
        del part.metadata_props[:]
        part.doc_string = ""
    return proto
