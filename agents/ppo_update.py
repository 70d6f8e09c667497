"""The networks of an actor-critic policy as PPO needs them: to act, to value, and to differentiate PPO's loss.

Where the policy is the library's perceptron with categorical actions, the loss is differentiated in closed form down to logits
and values, and autograd does the layers; anything else goes through the policy's own methods and autograd. Both are the same
mathematics.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import is_image_space
from stable_baselines3.common.torch_layers import FlattenExtractor
from torch import nn
from torch.nn import functional

from agents.components import Components
from agents.recipe import Compile, Precision
from agents.rollout import Minibatch


class Weights(NamedTuple):
    """Of the parts of PPO's loss; ``clip_value`` None leaves value predictions unclipped."""

    clip: float
    clip_value: float | None
    entropy: float
    value: float


STATISTICS = ("policy_gradient_loss", "value_loss", "entropy_loss", "approx_kl", "clip_fraction")


class PPOUpdate:
    """Acting and gradients of one policy; ``components`` are those of its action space, if categorical."""

    def __init__(
        self,
        policy: ActorCriticPolicy,
        components: Components | None,
        precision: Precision = "float32",
        compile: Compile = "off",
    ) -> None:
        self._policy = policy
        self._components = components
        self._bf16 = precision == "bf16"
        self.closed_form = (
            components is not None
            and type(policy) is ActorCriticPolicy
            and policy.observation_space.dtype == np.float32  # anything else, the policy converts
            and not is_image_space(policy.observation_space)
            and isinstance(policy.features_extractor, FlattenExtractor)
            and isinstance(policy.action_net, nn.Linear)
        )
        self._heads: Any = self._plain_heads
        self._gradients: Any = self._plain_gradients
        if compile != "off" and self.closed_form:
            self._heads = torch.compile(self._plain_heads, mode=compile)
            self._gradients = torch.compile(self._plain_gradients, mode=compile)

    # ------------------------------------------------------------------------------------------------------------ acting
    def act(self, observations: torch.Tensor, masks: torch.Tensor | None = None) -> tuple[torch.Tensor, torch.Tensor]:
        """Random actions (N, A) of the policy at observations (N, D), and their log-probabilities (N,); masks are (N, L)."""
        if not self.closed_form or self._components is None:
            actions, _, log_probabilities = self._policy(observations)
            return actions.reshape(len(observations), -1), log_probabilities
        components = self._components
        logits = components.log_probabilities(self.logits(observations), None if masks is None else masks.t())
        actions = components.sample(logits)
        return actions.t(), logits.gather(0, components.places(actions)).sum(0)

    def logits(self, observations: torch.Tensor) -> torch.Tensor:
        """Logits (L, N) of a closed-form policy."""
        policy = self._policy
        with self._autocast(observations):
            return self._head(policy.mlp_extractor.forward_actor(observations.flatten(1))).float()

    def values(self, observations: torch.Tensor) -> torch.Tensor:
        """Values (N,) of observations (N, D)."""
        if not self.closed_form:
            return self._policy.predict_values(observations).flatten()
        policy = self._policy
        with self._autocast(observations):
            values = policy.value_net(policy.mlp_extractor.forward_critic(observations.flatten(1)))
        return torch.as_tensor(values).flatten().float()

    def _head(self, hidden: torch.Tensor) -> torch.Tensor:
        head = self._policy.action_net
        assert isinstance(head, nn.Linear)
        return torch.addmm(head.bias[:, None], head.weight, hidden.t())  # values first: see agents.components

    def _plain_heads(self, observations: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        policy = self._policy
        actor, critic = policy.mlp_extractor(observations.flatten(1))
        return self._head(actor), policy.value_net(critic)

    def _autocast(self, observations: torch.Tensor) -> torch.autocast:
        return torch.autocast(observations.device.type, torch.bfloat16, enabled=self._bf16)

    # ---------------------------------------------------------------------------------------------------------- learning
    def backward(self, batch: Minibatch, advantages: torch.Tensor, weights: Weights) -> torch.Tensor:
        """Add the loss's gradients to the parameters'; returns the ``STATISTICS`` (5,) of the minibatch."""
        if not self.closed_form:
            return self._backward_by_autograd(batch, advantages, weights)
        with self._autocast(batch.observations):
            logits, values = self._heads(batch.observations)
        with torch.no_grad():
            by_logits, by_values, statistics = self._gradients(
                logits.float(), values.float().flatten(), batch, advantages, weights
            )
        torch.autograd.backward([logits, values], [by_logits.to(logits.dtype), by_values[:, None].to(values.dtype)])
        return torch.as_tensor(statistics)

    def _plain_gradients(
        self, logits: torch.Tensor, values: torch.Tensor, batch: Minibatch, advantages: torch.Tensor, weights: Weights
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Of the loss by logits (L, M) and values (M,), and the statistics (5,).

        With p the probabilities of a component, H its entropy and a its chosen value: d log p_a / d logit_j = 1[j = a] - p_j and
        d H / d logit_j = -p_j (log p_j + H).
        """
        components = self._components
        assert components is not None
        count = len(advantages)
        log_p = components.log_probabilities(logits, None if batch.masks is None else batch.masks.t())
        p = log_p.exp()
        places = components.places(batch.actions.t().long())
        log_ratio = log_p.gather(0, places).sum(0) - batch.log_probabilities
        ratio = log_ratio.exp()
        clipped = ratio.clamp(1.0 - weights.clip, 1.0 + weights.clip)
        gain, clipped_gain = advantages * ratio, advantages * clipped
        # the minimum of the two follows the ratio unless the clipped one is the smaller
        follows = (clipped_gain >= gain).float()
        by_log_probability = follows * gain * (-1.0 / count)
        entropy = components.entropy(p, log_p)
        if weights.entropy != 0.0:
            inner = (log_p + components.spread(entropy)).mul_(weights.entropy / count).sub_(by_log_probability)
        else:
            inner = -by_log_probability
        by_logits = p * inner
        by_logits.scatter_add_(0, places, by_log_probability.expand_as(places))

        shift = values - batch.values
        predicted = values if weights.clip_value is None else batch.values + shift.clamp(-weights.clip_value, weights.clip_value)
        error = predicted - batch.returns
        by_values = error * (2.0 * weights.value / count)
        if weights.clip_value is not None:
            by_values = by_values * (shift.abs() <= weights.clip_value)
        statistics = torch.stack(
            (
                -torch.minimum(gain, clipped_gain).mean(),
                error.square().mean(),
                -entropy.sum() / count,
                (ratio - 1.0 - log_ratio).mean(),
                ((ratio - 1.0).abs() > weights.clip).float().mean(),
            )
        )
        return by_logits, by_values, statistics

    def _backward_by_autograd(self, batch: Minibatch, advantages: torch.Tensor, weights: Weights) -> torch.Tensor:
        """The same for any policy."""
        actions = batch.actions.flatten() if isinstance(self._policy.action_space, spaces.Discrete) else batch.actions
        with self._autocast(batch.observations):
            values, log_probabilities, entropy = self._policy.evaluate_actions(batch.observations, actions)
        values, log_probabilities = values.float().flatten(), log_probabilities.float()
        log_ratio = log_probabilities - batch.log_probabilities
        ratio = log_ratio.exp()
        gain, clipped_gain = advantages * ratio, advantages * ratio.clamp(1.0 - weights.clip, 1.0 + weights.clip)
        policy_loss = -torch.minimum(gain, clipped_gain).mean()
        if weights.clip_value is not None:
            values = batch.values + (values - batch.values).clamp(-weights.clip_value, weights.clip_value)
        value_loss = functional.mse_loss(batch.returns, values)
        entropy_loss = log_probabilities.mean() if entropy is None else -entropy.float().mean()
        (policy_loss + weights.entropy * entropy_loss + weights.value * value_loss).backward()  # type: ignore[no-untyped-call]
        with torch.no_grad():
            divergence = (ratio - 1.0 - log_ratio).mean()
            clipping = ((ratio - 1.0).abs() > weights.clip).float().mean()
            return torch.stack((policy_loss, value_loss, entropy_loss, divergence, clipping))
