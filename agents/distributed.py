"""One training on several processes, as ``torchrun`` starts them: each rank has its share of the environments and of every
minibatch, gradients are averaged, and every rank takes the same step.

Processes, rendezvous, restarts and signals are torchrun's; messages are ``torch.distributed``'s (gloo between CPUs, NCCL between
GPUs). Without torchrun there is one rank, and nothing is sent.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import timedelta
from functools import partial

import torch
import torch.distributed as dist

_TIMEOUT = timedelta(hours=1)  # rank 0 may record a dataset meanwhile


class RankLost(RuntimeError):
    """Another rank ended or cannot be reached: nothing can be averaged any more."""


@dataclass(frozen=True)
class Ranks:
    """Which of how many processes this is."""

    rank: int = 0
    world: int = 1
    local_rank: int = 0
    local_world: int = 1

    @classmethod
    def from_environment(cls) -> Ranks:
        """As torchrun says (RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE); one rank without it. Raises ValueError if it says
        only a part.
        """
        names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
        found = {name: os.environ[name] for name in names if name in os.environ}
        if not found:
            return cls()
        if len(found) < len(names) or not all(value.isdigit() for value in found.values()):
            raise ValueError(f"{found}: accepted is {', '.join(names)} as torchrun sets them, or none of them")
        return cls(*(int(found[name]) for name in names))

    @property
    def several(self) -> bool:
        """Whether there is anyone to talk to."""
        return self.world > 1

    @property
    def first(self) -> bool:
        """Whether this is the rank that logs, saves and evaluates."""
        return self.rank == 0

    def device(self, asked: str) -> torch.device:
        """This rank's device: ``auto`` is its own GPU where there are any. Raises ValueError when there are fewer than ranks."""
        gpus = torch.cuda.device_count() if asked in ("auto", "cuda") else 0
        if asked == "cuda" and gpus == 0:
            raise ValueError("device = 'cuda', and torch finds no GPU; accepted are cpu and auto here")
        if gpus == 0:
            return torch.device("cpu" if asked == "auto" else asked)
        if self.local_world > gpus:
            raise ValueError(
                f"{self.local_world} ranks on a machine with {gpus} GPUs; accepted are as many ranks as GPUs "
                f"(torchrun --nproc-per-node {gpus}), or --device cpu"
            )
        return torch.device("cuda", self.local_rank)

    def share(self, name: str, total: int) -> int:
        """This rank's part of a number that is split evenly. Raises ValueError when it cannot be."""
        if total % self.world:
            raise ValueError(f"{name} = {total} on {self.world} ranks; accepted is a multiple of {self.world}")
        return total // self.world

    def join(self, device: torch.device) -> None:
        """Meet the other ranks. Harmless when done before, or alone. Raises RankLost when they do not come."""
        if self.several and not dist.is_initialized():
            if device.type == "cuda":
                torch.cuda.set_device(device)
            backend = "nccl" if device.type == "cuda" else "gloo"
            # Optimizers import it. Among what it imports, functions have the group of that moment as a default, which would keep
            # the group and its threads alive after ``leave``, and an interpreter that is taken down beneath them can abort.
            importlib.import_module("torch._dynamo")
            _sent(partial(dist.init_process_group, backend, timeout=_TIMEOUT))

    def leave(self) -> None:
        """Take leave of the other ranks; harmless when they are gone, or alone."""
        if self.several and dist.is_initialized():
            dist.destroy_process_group()

    def broadcast(self, tensors: Iterable[torch.Tensor]) -> None:
        """Overwrite every rank's tensors with rank 0's."""
        if self.several:
            for tensor in tensors:
                _sent(partial(dist.broadcast, tensor, 0))

    def sum_(self, tensor: torch.Tensor) -> torch.Tensor:
        """Replace a tensor by its sum over the ranks, the same bits on each."""
        if self.several:
            _sent(partial(dist.all_reduce, tensor))
        return tensor

    def average_gradients(self, parameters: Iterable[torch.nn.Parameter]) -> None:
        """Replace every gradient by its mean over the ranks, in one message. Parameters without one are left out."""
        if not self.several:
            return
        gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
        flat = self.sum_(torch.cat([gradient.reshape(-1) for gradient in gradients]))
        flat /= self.world
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view_as(gradient))
            start += gradient.numel()

    def any(self, flag: bool, device: torch.device) -> bool:
        """Whether it is true on some rank; every rank gets the same answer."""
        if not self.several:
            return flag
        return bool(self.sum_(torch.tensor([float(flag)], device=device)).item() > 0.0)


def _sent(message: Callable[[], object]) -> None:
    try:
        message()
    except RuntimeError as error:
        raise RankLost(f"another rank has ended or cannot be reached: {error}") from error
