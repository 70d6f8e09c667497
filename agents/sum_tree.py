"""Sampling by weight from a store that changes: a tree of sums (Schaul et al. 2016, arXiv 1511.05952, appendix B.2.1), in
tensors.
"""

from __future__ import annotations

import torch

_WIDTH = 64  # children of a node: few levels, each a handful of calls, and inner nodes are 3 % of the leaves' memory
_TOP = 4_096  # nodes that are searched in one piece
_BELOW = 1.0 - 1e-12


class SumTree:
    """Weights of ``leaves`` items (float32, all 0 at the start); each node above holds the sum (float64) of its children.

    Parents are always summed anew from their children, so rounding does not build up. Every operation is a fixed number of tensor
    calls, whatever the number of items asked for.
    """

    def __init__(self, leaves: int, device: torch.device) -> None:
        self.leaves = leaves
        self.levels: list[torch.Tensor] = []
        while not self.levels or self.levels[-1].numel() > _TOP:
            nodes = -(-leaves // _WIDTH) * _WIDTH
            self.levels.append(torch.zeros(nodes, dtype=torch.float64 if self.levels else torch.float32, device=device))
            leaves = nodes // _WIDTH

    @property
    def total(self) -> torch.Tensor:
        """The sum of all weights, float64 ()."""
        return self.levels[-1].sum(dtype=torch.float64)

    def fill(self, start: int, stop: int, weight: torch.Tensor | float) -> None:
        """Give the items [start, stop) one weight."""
        self.levels[0][start:stop] = weight
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            start, stop = start // _WIDTH, (stop - 1) // _WIDTH + 1
            torch.sum(below.view(-1, _WIDTH)[start:stop], 1, dtype=torch.float64, out=level[start:stop])

    def set(self, items: torch.Tensor, weights: torch.Tensor) -> None:
        """Give items (B,) their weights (B,); an item that is named twice must have the same weight twice."""
        self.levels[0][items] = weights.to(torch.float32)
        for below, level in zip(self.levels, self.levels[1:], strict=False):
            items = items // _WIDTH
            level[items] = below.view(-1, _WIDTH)[items].sum(1, dtype=torch.float64)

    def find(self, masses: torch.Tensor) -> torch.Tensor:
        """The items (B,) at which the running sum of weights first exceeds the masses, float64 (B,) in [0, total).

        Items of weight 0 are never found. At least one weight must be positive.
        """
        top = self.levels[-1].to(torch.float64)
        sums = top.cumsum(0)
        masses = masses.clamp(max=sums[-1] * _BELOW)
        nodes = torch.searchsorted(sums, masses, right=True)
        masses = masses - sums[nodes] + top[nodes]
        for level in reversed(self.levels[:-1]):
            children = level.view(-1, _WIDTH).index_select(0, nodes).to(torch.float64)
            sums = children.cumsum(1)
            # a parent may round to more than its children's running sum
            below = torch.minimum(masses.clamp_(min=0.0), sums[:, -1] * _BELOW)[:, None]
            picked = torch.searchsorted(sums, below, right=True)
            masses = (below - sums.gather(1, picked) + children.gather(1, picked))[:, 0]
            nodes = nodes * _WIDTH + picked[:, 0]
        return nodes

    def sample(self, count: int, generator: torch.Generator | None) -> torch.Tensor:
        """Items (count,), one from each of ``count`` equal parts of the total weight, in the order of the items."""
        device = self.levels[0].device
        parts = torch.arange(count, dtype=torch.float64, device=device)
        parts += torch.rand(count, dtype=torch.float64, device=device, generator=generator)
        return self.find(parts * (self.total / count))

    def weights(self, items: torch.Tensor) -> torch.Tensor:
        """The items' weights (B,)."""
        return self.levels[0].index_select(0, items)
