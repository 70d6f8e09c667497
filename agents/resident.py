"""What the tensor-resident learners share beside their mathematics: the optimizer's step, seeds of ranks, what callbacks see."""

from __future__ import annotations

from typing import Any

import torch

SEED_STRIDE = 1_000_003
"""between the exploration seeds of two ranks"""


def fuse_adam(optimizer: torch.optim.Optimizer) -> None:
    """Let Adam take its step over all parameters in one pass: a quarter of the time, the same step.

    A file that the library saved keeps the step count on the CPU, where the fused step on a GPU does not look for it.
    """
    if type(optimizer) is not torch.optim.Adam:
        return
    for group in optimizer.param_groups:
        group["fused"], group["foreach"] = True, False
    for parameter, state in optimizer.state.items():
        if "step" in state:
            state["step"] = torch.as_tensor(state["step"], dtype=torch.float32).to(parameter.device)


def shown(tensor: torch.Tensor) -> Any:
    """A tensor as callbacks of the library read it: a numpy view of the same memory, or the tensor itself on a GPU."""
    return tensor.numpy() if tensor.device.type == "cpu" else tensor


def spread(rows: torch.Tensor, most: int) -> torch.Tensor:
    """At most so many of the rows, evenly chosen, so that no part of a batch speaks for all."""
    if len(rows) <= most:
        return rows
    return rows[torch.linspace(0, len(rows) - 1, most, device=rows.device).long()]
