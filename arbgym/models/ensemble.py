"""A weighted vote of policies: each says how much it is for selling, and all is sold when the weighted mean is above one half."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from arbgym import policy as policies
from arbgym.models.exits import Rows
from arbgym.policy import Policy
from arbgym.spec import Choice, Encoding, action_tables

HALF = np.float32(0.5)


class Member(Protocol):
    """A policy that can vote: ``ExitPolicy`` for one, or an exported policy as ``ExportedMember``."""

    def logits(self, observations: Rows) -> Rows:
        """Logits float32 (N, L) of observations (N, D)."""
        ...

    def onnx(self) -> bytes:
        """The same as an ONNX file: ``observation`` to ``logits`` and ``action``."""
        ...


@dataclass(frozen=True)
class ExportedMember:
    """A verified policy directory that votes, whatever the encoding it was trained with."""

    policy: Policy
    model: bytes

    @staticmethod
    def load(directory: str | Path, **arguments: Any) -> ExportedMember:
        """The policy in a directory, see ``arbgym.policy.load``. Raises PolicyError, and ValueError where it cannot vote."""
        loaded = policies.load(directory, **arguments)
        voting_values(loaded.definition.action, loaded.encoding)
        return ExportedMember(loaded, (Path(directory) / policies.MODEL).read_bytes())

    def logits(self, observations: Rows) -> Rows:
        """See ``Member.logits``."""
        return self.policy.evaluate(observations)[0]

    def onnx(self) -> bytes:
        """See ``Member.onnx``."""
        return self.model


def voting_values(choices: Sequence[Choice], encoding: Encoding) -> Rows | None:
    """The share that each logit of an encoding stands for, float32 (L,); None where the logit is the share, in [-1, 1].

    Raises ValueError for an action of several components: a vote is on the share to sell alone.
    """
    if len(choices) != 1:
        raise ValueError(f"action: {len(choices)} components; accepted is one, the share to sell")
    if encoding == "continuous":
        return None
    tables = action_tables(choices, encoding)
    return (tables.values[0] if encoding == "multidiscrete" else tables.flat[:, 0]).astype(np.float32)


def vote(logits: Rows, values: Rows | None) -> Rows:
    """The share that a member would sell, float32 (N,) in [0, 1].

    The mean of ``values`` under the softmax of the logits (of two logits: the logistic function of their difference; of action
    values that is how decided they are, no probability); a continuous action's mean, moved from [-1, 1].
    """
    if values is None:
        return np.clip(logits[:, 0], np.float32(-1.0), np.float32(1.0)) * HALF + HALF
    raised = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray((raised / raised.sum(axis=1, keepdims=True)) @ values)


@dataclass(frozen=True)
class Ensemble:
    """Sells all when the weighted mean of its members' votes is above one half; a policy of the discrete encoding.

    ``weights`` are non-negative and not all 0; only their ratios matter. Members that are no exported policies vote by two
    logits, of holding and selling. Raises ValueError on weights that are not accepted.
    """

    members: Sequence[Member]
    weights: Sequence[float]

    def __post_init__(self) -> None:
        if not self.members or len(self.weights) != len(self.members):
            raise ValueError(f"weights: {len(self.weights)} for {len(self.members)} members; accepted is one for each, 1 or more")
        found = np.array(self.weights, dtype=np.float64)
        if not (np.isfinite(found).all() and found.min() >= 0.0 and found.sum() > 0.0):
            raise ValueError(f"weights: {tuple(self.weights)}; accepted are 0 or more, and more than 0 in all")

    @property
    def shares(self) -> NDArray[np.float32]:
        """The weights as float32 (M,) that sum to 1, but for rounding."""
        found = np.array(self.weights, dtype=np.float64)
        shares: NDArray[np.float32] = (found / found.sum()).astype(np.float32)
        return shares

    def logits(self, observations: Rows) -> Rows:
        """Logits (N, 2) of holding and selling: the weighted vote against one half, with both signs."""
        total = np.zeros(len(observations), dtype=np.float32)
        for member, share in zip(self.members, self.shares, strict=True):
            total = total + vote(member.logits(observations), values_of(member)) * share
        margin = total - HALF
        signs = np.array([[-0.5, 0.5]], dtype=np.float32)
        logits: Rows = margin[:, None] * signs
        return logits

    def sell_score(self, observations: Rows) -> NDArray[np.float64]:
        """The weighted vote (N,) in [0, 1]."""
        return self.logits(observations)[:, 1].astype(np.float64) * 2.0 + 0.5

    def predict(self, observations: Rows) -> NDArray[np.int64]:
        """Actions int64 (N, 1) for observations float32 (N, D): 0 hold, 1 sell."""
        return np.asarray(self.logits(observations).argmax(axis=1)[:, None])

    def tune(self, simulate: Callable[[Ensemble], float], steps: int = 4) -> Ensemble:
        """The ensemble with the weights of the greatest ``simulate(ensemble)`` among its own and all multiples of 1 / ``steps``
        that sum to 1. Of equals the one tried first is kept.
        """
        if steps < 1:
            raise ValueError(f"steps = {steps}; accepted is 1 or more")
        best, value = self, simulate(self)
        for parts in itertools.product(range(steps + 1), repeat=len(self.members)):
            if sum(parts) == steps:
                candidate = dataclasses.replace(self, weights=tuple(part / steps for part in parts))
                if (result := simulate(candidate)) > value:
                    best, value = candidate, result
        return best

    def onnx(self) -> bytes:
        """All members, the vote and the choice as one ONNX file. Needs the extra ``train``."""
        from arbgym.models.graphs import ensemble_graph  # onnx is not needed to decide

        return ensemble_graph(self)


def values_of(member: Member) -> Rows | None:
    """What a member's logits stand for: see ``voting_values``."""
    if isinstance(member, ExportedMember):
        return voting_values(member.policy.definition.action, member.policy.encoding)
    return np.array([0.0, 1.0], dtype=np.float32)
