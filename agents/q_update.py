"""One update of a value network: stable-baselines3's DQN step (Huber loss, clipped gradient, optimizer), with less around it."""

from __future__ import annotations

from typing import Any

import torch
from gymnasium import spaces
from stable_baselines3.common.torch_layers import FlattenExtractor
from stable_baselines3.dqn.policies import DQNPolicy, QNetwork
from torch import nn
from torch.nn import functional

from agents.distributed import Ranks
from agents.recipe import Compile, Precision
from agents.replay import ReplaySamples


class QUpdate:
    """Targets and gradient steps of a policy's networks.

    All gradients lie in one tensor, so that they are cleared, measured and clipped by one call each. In float32 and without
    compilation a plain perceptron (linear and ReLU layers on a flat observation) is differentiated in closed form: the derivative
    of the Huber loss is the error, clipped to [-1, 1], at the chosen action and 0 elsewhere. Any other network is autograd's.

    ``double``: the next action is the online network's choice, its value the target network's (van Hasselt et al. 2016, doi
    10.1609/aaai.v30i1.10295). ``precision``: arithmetic of the networks' passes. ``compile``: torch.compile of the loss.
    ``ranks``: gradients are averaged over them before they are clipped.
    """

    def __init__(
        self,
        policy: DQNPolicy,
        gamma: float,
        max_gradient_norm: float,
        *,
        double: bool = False,
        precision: Precision = "float32",
        compile: Compile = "off",
        ranks: Ranks | None = None,
    ) -> None:
        self._policy, self._gamma, self._max_gradient_norm, self._double = policy, gamma, max_gradient_norm, double
        self._ranks = ranks or Ranks()
        self._bf16 = precision == "bf16"
        self._parameters = list(policy.q_net.parameters())
        first = self._parameters[0]
        self._flat = torch.zeros(sum(parameter.numel() for parameter in self._parameters), device=first.device, dtype=first.dtype)
        parts = torch.split(self._flat, [parameter.numel() for parameter in self._parameters])
        self._gradients = [part.view_as(parameter) for part, parameter in zip(parts, self._parameters, strict=True)]
        plain = not self._bf16 and compile == "off"
        self._online = _Perceptron.of(policy.q_net, self._gradients) if plain else None
        self._target = _Perceptron.of(policy.q_net_target, None) if plain else None
        self._compiled = compile != "off"
        self._loss: Any = torch.compile(self._plain_loss, mode=compile) if self._compiled else self._plain_loss

    @property
    def closed_form(self) -> bool:
        """Whether gradients are computed without autograd."""
        return self._online is not None

    @torch.no_grad()
    def values(self, observations: torch.Tensor) -> torch.Tensor:
        """The online network's values (B, actions)."""
        return self._online.forward(observations)[-1] if self._online else self._values(self._policy.q_net, observations)

    @torch.no_grad()
    def targets(self, samples: ReplaySamples) -> torch.Tensor:
        """What the values of the chosen actions should be, (B, 1)."""
        following = samples.next_observations
        values = self._target.forward(following)[-1] if self._target else self._values(self._policy.q_net_target, following)
        if self._double:
            choice = self.values(following)
            if samples.next_masks is not None:
                choice = choice.masked_fill(~samples.next_masks, -torch.inf)
            values = values.gather(1, choice.argmax(1, keepdim=True))
        else:
            if samples.next_masks is not None:
                values = values.masked_fill(~samples.next_masks, -torch.inf)
            values = values.amax(1, keepdim=True)
        discounts = self._gamma if samples.discounts is None else samples.discounts
        return samples.rewards + (1.0 - samples.dones) * discounts * values

    def step(
        self, observations: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """One gradient step on actions, targets and weights (B, 1); the loss () and the errors (B, 1) before it."""
        self._attach()
        if self._online:
            loss, errors = self._closed_form(observations, actions, targets, weights)
        else:
            self._flat.zero_()
            if self._compiled:
                torch.compiler.cudagraph_mark_step_begin()  # type: ignore[no-untyped-call]
            loss, errors = self._loss(observations, actions, targets, weights)
            loss.backward()
            loss, errors = loss.detach().clone(), errors.detach().clone()
        self._ranks.average_gradients(self._parameters)
        scale = self._max_gradient_norm / (torch.linalg.vector_norm(self._flat) + 1e-6)
        self._flat.mul_(scale.clamp_(max=1.0))
        self._policy.optimizer.step()
        return loss, errors

    def _attach(self) -> None:
        """Gradients may have been taken away, by ``zero_grad`` for one."""
        if self._parameters[0].grad is not self._gradients[0]:
            for parameter, gradient in zip(self._parameters, self._gradients, strict=True):
                parameter.grad = gradient

    @torch.no_grad()
    def _closed_form(
        self, observations: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        assert self._online is not None, "asked for by step alone"
        layers = self._online.forward(observations)
        errors = layers[-1].gather(1, actions) - targets
        slopes = errors.clamp(-1.0, 1.0)
        huber = slopes * (errors - 0.5 * slopes)
        if weights is not None:
            slopes, huber = slopes * weights, huber * weights
        self._online.backward(layers, torch.zeros_like(layers[-1]).scatter_(1, actions, slopes / len(errors)))
        return huber.mean(), errors

    def _plain_loss(
        self, observations: torch.Tensor, actions: torch.Tensor, targets: torch.Tensor, weights: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        chosen = self._values(self._policy.q_net, observations).gather(1, actions)
        if weights is None:
            return functional.smooth_l1_loss(chosen, targets), chosen - targets
        return (functional.smooth_l1_loss(chosen, targets, reduction="none") * weights).mean(), chosen - targets

    def _values(self, network: QNetwork, observations: torch.Tensor) -> torch.Tensor:
        if not self._bf16:
            return network(observations)  # type: ignore[no-any-return]
        with torch.autocast(observations.device.type, dtype=torch.bfloat16):
            values: torch.Tensor = network(observations)
        return values.float()


class _Perceptron:
    """Linear layers with ReLU between them, and their derivatives."""

    def __init__(self, layers: list[nn.Linear], gradients: list[torch.Tensor] | None) -> None:
        self._layers, self._gradients = layers, gradients

    @classmethod
    def of(cls, network: QNetwork, gradients: list[torch.Tensor] | None) -> _Perceptron | None:
        """The network's layers, or None where it is anything else."""
        modules = list(network.q_net)
        linear, between = [module for module in modules[::2] if type(module) is nn.Linear], modules[1::2]
        space = network.observation_space
        flat = type(network.features_extractor) is FlattenExtractor and isinstance(space, spaces.Box) and len(space.shape) == 1
        plain = type(network) is QNetwork and type(network.q_net) is nn.Sequential and len(linear) == len(between) + 1
        if not plain or not flat or not all(type(module) is nn.ReLU for module in between):
            return None
        if any(layer.bias is None or _hooked(layer) for layer in linear):
            return None
        return cls(linear, gradients)

    def forward(self, observations: torch.Tensor) -> list[torch.Tensor]:
        """The input and the output of every layer; the last are the values."""
        outputs = [observations.to(self._layers[0].weight.dtype)]
        for layer in self._layers[:-1]:
            outputs.append(torch.addmm(layer.bias, outputs[-1], layer.weight.t()).relu_())
        head = self._layers[-1]
        outputs.append(torch.addmm(head.bias, outputs[-1], head.weight.t()))
        return outputs

    def backward(self, outputs: list[torch.Tensor], slopes: torch.Tensor) -> None:
        """Write the gradients, given the loss's derivative by the values (B, actions)."""
        assert self._gradients is not None, "the target network is not learned"
        for i in range(len(self._layers) - 1, -1, -1):
            torch.mm(slopes.t(), outputs[i], out=self._gradients[2 * i])
            torch.sum(slopes, 0, out=self._gradients[2 * i + 1])
            if i:
                slopes = torch.ops.aten.threshold_backward(slopes @ self._layers[i].weight, outputs[i], 0.0)


def _hooked(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks or module._backward_pre_hooks)
