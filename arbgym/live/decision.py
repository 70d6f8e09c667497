"""From an observation to what the policy wants: its action, read by the environment's own kernels, and how sure it is."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.live.observer import Observer
from arbgym.live.terms import Channel
from arbgym.policy import Policy
from arbgym.spec import Choice


@dataclass(frozen=True, slots=True)
class Decision:
    """What the policy wants at the end of a block, in the environment's terms; amounts in quote currency."""

    acting: bool  # a trade is wanted, there is one, and somebody lends for it
    attempting: bool  # a trade is wanted and there is one: where it does not land, the policy sees it as dropped
    text: str  # as in "best size_share=1 bid_share=0.6 tolerance=0.2 cheapest private"
    confidence: float  # 0 to 1, see ``confidence``
    buy: int = 0
    sell: int = 0
    lender: str = ""
    size_share: float = 0.0
    bid_share: float = 0.0
    tolerance: float = 0.0
    channel: Channel = "private"
    notional_quote: float = 0.0
    predicted_quote: float = 0.0  # after pool and loan fees
    own_bid: float = 0.0  # tip over predicted profit, as the environment shows it in the next observation
    gas_used: float = 0.0


def confidence(policy: Policy, logits: NDArray[np.float32], masks: NDArray[np.bool_] | None) -> float:
    """How sure the policy is that acting beats waiting, 0 to 1, from its logits (1, L).

    Categorical policies: the probability of not waiting. Action values (discrete): the logistic function of the best value less
    that of waiting, in units of the reward's scale. Continuous ones say no probability: 0.5 where waiting ends, 1 from the
    middle of the first acting bin on.
    """
    row = logits[0]
    if policy.encoding == "continuous":
        routes = len(policy.definition.action[0].values)
        width = 2.0 / routes
        return 0.5 + 0.5 * float(np.clip((row[0] + 1.0 - width) / (0.5 * width), -1.0, 1.0))
    if masks is not None:
        row = np.where(masks[0], row, -np.inf)
    if policy.encoding == "discrete":
        margin = float(row[1:].max() - row[0])
        return 1.0 / (1.0 + math.exp(-margin)) if margin > -700.0 else 0.0
    weights = row.tolist()[: policy.component_sizes[0]]
    top = max(weights)
    each = [math.exp(weight - top) for weight in weights]
    return 1.0 - each[0] / sum(each)


class Decider:
    """Asks the policy. ``observer`` is the one whose observation is handed to ``decide``."""

    def __init__(self, policy: Policy, observer: Observer) -> None:
        self._policy, self._observer = policy, observer
        self._names = {choice.name: place for place, choice in enumerate(policy.definition.action)}
        self._intent = {name: place for place, name in enumerate(policy.definition.intent)}
        self._masks = policy.masked
        self._lenders = [lender.name for lender in observer.config.lenders]

    def decide(self, observation: NDArray[np.float32]) -> Decision:
        """What the policy wants. Raises PolicyError for an observation, or an answer of the network, that is not finite."""
        masks = self._observer.follower.action_masks() if self._masks else None
        logits, actions = self._policy.choose(observation, masks)
        values, intent = self._observer.follower.decide(actions)
        sure = confidence(self._policy, logits, masks)
        if not intent[self._intent["attempting"]]:
            return Decision(False, False, "wait" if values[0] == 0.0 else "no route", sure)
        text = self._named(describe(self._policy.definition.action, values))
        predicted, tip = float(intent[self._intent["predicted"]]), float(intent[self._intent["tip"]])
        own_bid = min(tip / predicted, 1.0) if predicted > 0.0 else 0.0
        if intent[self._intent["refused"]]:
            return Decision(False, True, f"no lender for {text}", sure, own_bid=own_bid)
        return Decision(
            True,
            True,
            text,
            sure,
            buy=int(intent[self._intent["buy"]]),
            sell=int(intent[self._intent["sell"]]),
            lender=self._lenders[int(intent[self._intent["lender"]])],
            size_share=float(values[self._names["size_share"]]),
            bid_share=float(values[self._names["bid_share"]]),
            tolerance=float(values[self._names["tolerance"]]),
            channel="public" if values[self._names["channel"]] else "private",
            notional_quote=float(intent[self._intent["quote_in"]]),
            predicted_quote=predicted,
            own_bid=own_bid,
            gas_used=float(intent[self._intent["gas_used"]]),
        )

    def _named(self, text: str) -> str:
        """With a lender's name where the policy's action has its number."""
        for place, name in enumerate(self._lenders):
            text = text.replace(f"lender_{place} ", f"{name} ")
        return text


@cache
def _labels(choices: tuple[Choice, ...]) -> tuple[tuple[str, dict[float, str]], ...]:
    return tuple((choice.name, dict(zip(choice.values, choice.labels, strict=False))) for choice in choices)


def describe(choices: tuple[Choice, ...], values: Any) -> str:
    """A decision in words."""
    parts = []
    for (name, labels), value in zip(_labels(choices), values, strict=True):
        parts.append(labels.get(float(value), f"{name}={value:.4g}"))
    return " ".join(parts)
