"""Several categorical variables side by side: the action of a discrete or multi-discrete space, all components at once.

Everything is laid out with the components' values first and the batch last, (L, N): a component is then a block of whole rows,
and what is summed over its values runs along the batch, which vectorises; a row-wise layout took eight times as long (measured,
8,192 rows, components of 3, 4, 24, 4, 7 and 2 values).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium
import torch

MASKED = -1e8  # logit of what is not allowed, as sb3-contrib's MaskableCategorical has it


class Components:
    """A of them with ``sizes`` values each, L in all; ``offsets`` (A, 1) is where each begins."""

    def __init__(self, sizes: Sequence[int], device: torch.device) -> None:
        self.sizes = [int(size) for size in sizes]
        starts = [sum(self.sizes[:a]) for a in range(len(self.sizes))]
        self.offsets = torch.tensor(starts, device=device)[:, None]
        self._last = torch.tensor([start + size - 1 for start, size in zip(starts, self.sizes, strict=True)], device=device)
        self._owner = torch.tensor([a for a, size in enumerate(self.sizes) for _ in range(size)], device=device)
        within = self._owner[:, None] == self._owner[None, :]
        self._up_to = torch.tril(within).float()  # (L, L): sums each component's values from its first to this one
        self._each = (self._owner[None, :] == torch.arange(len(self.sizes), device=device)[:, None]).float()  # (A, L)

    @classmethod
    def of(cls, space: gymnasium.spaces.Space[Any], device: torch.device) -> Components | None:
        """Those of a space; None for one that is neither discrete nor multi-discrete with one axis."""
        if isinstance(space, gymnasium.spaces.MultiDiscrete) and space.nvec.ndim == 1:
            return cls(space.nvec.tolist(), device)
        return cls([int(space.n)], device) if isinstance(space, gymnasium.spaces.Discrete) else None

    def log_probabilities(self, logits: torch.Tensor, masks: torch.Tensor | None = None) -> torch.Tensor:
        """Normalised logits (L, N) of logits (L, N); ``masks`` bool (L, N) is False for what is not allowed."""
        if masks is not None:
            logits = logits.masked_fill(~masks, MASKED)
        if len(self.sizes) == 1:
            return logits.log_softmax(0)
        return torch.cat([part.log_softmax(0) for part in torch.split(logits, self.sizes)])

    def sample(self, log_probabilities: torch.Tensor) -> torch.Tensor:
        """A draw (A, N) of every component, by torch's global generator.

        One uniform number each: how many of the cumulated probabilities lie at or below it. What has none is never drawn. Matrix
        products cumulate and count, as sums along short axes and Gumbel noise took five times as long (measured).
        """
        cumulated = self._up_to @ log_probabilities.exp()
        drawn = torch.rand(len(self.sizes), cumulated.shape[1], device=cumulated.device)
        # by the sum as it came out, less a hair, so that rounding never draws what is beyond the last value
        drawn *= (1.0 - 1e-6) * cumulated.index_select(0, self._last)
        below = (cumulated <= self.spread(drawn)).float()
        return (self._each @ below).long()

    def greatest(self, scores: torch.Tensor) -> torch.Tensor:
        """The place (A, N) of each component's greatest score (L, N)."""
        return torch.stack([part.argmax(0) for part in torch.split(scores, self.sizes)])

    def places(self, actions: torch.Tensor) -> torch.Tensor:
        """Rows of (L, N) that hold the values which actions (A, N) chose."""
        return actions + self.offsets

    def entropy(self, probabilities: torch.Tensor, log_probabilities: torch.Tensor) -> torch.Tensor:
        """Each component's entropy (A, N)."""
        each = (probabilities * log_probabilities).neg_()
        return torch.stack([part.sum(0) for part in torch.split(each, self.sizes)])

    def spread(self, values: torch.Tensor) -> torch.Tensor:
        """One value per component (A, N) for each of its values (L, N)."""
        return values.index_select(0, self._owner) if len(self.sizes) > 1 else values.expand(self.sizes[0], -1)
