"""What a sweep may change: one table of ranges per recipe, and what ``--only`` and ``--fix`` make of it.

A parameter has the name of the recipe's field. Sizes are powers of two, so that a rollout splits into whole minibatches; where
only a few values differ in effect (discounts near 1, weights that may be 0), they are listed.
"""

from __future__ import annotations

import dataclasses
import types
import typing
from collections.abc import Mapping, Sequence
from typing import Any

from optuna import Trial
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from experiments.config import ConfigError, RunConfig

Space = dict[str, BaseDistribution]
Parameters = Mapping[str, Any]
"""Values as Optuna stores them: widths of layers are text such as ``64,64``."""

_DISCOUNTS = CategoricalDistribution((0.0, 0.5, 0.8, 0.9, 0.95, 0.98, 0.99))
_WIDTHS = CategoricalDistribution(("16,16", "32", "32,32", "64", "64,64", "128", "128,128"))

RANGES: dict[str, Space] = {
    "ppo": {
        "hidden": _WIDTHS,
        "activation": CategoricalDistribution(("relu", "tanh")),
        "environments": CategoricalDistribution((128, 256, 512, 1_024, 2_048, 4_096)),
        "rollout_steps": CategoricalDistribution((4, 8, 16, 32, 64, 128)),
        "epochs": IntDistribution(1, 10),
        "minibatch": CategoricalDistribution((512, 1_024, 2_048, 4_096, 8_192, 16_384, 32_768)),
        "learning_rate": FloatDistribution(1e-4, 2e-2, log=True),
        "gamma": _DISCOUNTS,
        "gae_lambda": CategoricalDistribution((0.0, 0.5, 0.8, 0.9, 0.95, 1.0)),
        "clip_range": FloatDistribution(0.1, 0.4),
        "entropy_weight": CategoricalDistribution((0.0, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)),
    },
    "dqn": {
        "hidden": _WIDTHS,
        "environments": CategoricalDistribution((32, 64, 128, 256, 512, 1_024)),
        "gradient_steps": IntDistribution(1, 16, log=True),
        "batch": CategoricalDistribution((128, 256, 512, 1_024, 2_048, 4_096)),
        "buffer": CategoricalDistribution((50_000, 100_000, 300_000, 1_000_000)),
        "learning_rate": FloatDistribution(1e-4, 1e-2, log=True),
        "gamma": _DISCOUNTS,
        "steps_ahead": CategoricalDistribution((1, 2, 3, 5, 10)),
        "target_interval": CategoricalDistribution((2_000, 5_000, 10_000, 20_000, 50_000, 100_000)),
        "exploration_share": FloatDistribution(0.05, 0.8),
    },
}
"""Per algorithm: field of its recipe -> where to search. Fields that are not listed keep the named run's value."""


def apply_fixed(config: RunConfig[Any, Any], fixed: Sequence[str]) -> RunConfig[Any, Any]:
    """The configuration with ``FIELD=VALUE`` assignments made. Raises ConfigError or ValueError on a bad one."""
    values: dict[str, Any] = {}
    for assignment in fixed:
        name, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"--fix {assignment!r}; accepted is FIELD=VALUE")
        fields = [field.name for field in dataclasses.fields(config.agent)]
        if name not in fields:
            raise ConfigError(f"--fix {name!r}; accepted are {', '.join(fields)}")
        values[name] = _value(typing.get_type_hints(type(config.agent))[name], name, text)
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, **values))


def space_of(config: RunConfig[Any, Any], only: Sequence[str] = (), fixed: Sequence[str] = ()) -> Space:
    """Where to search for a named run: its algorithm's table without what is fixed, widened to hold the run's own values.

    ``only`` are fields, ``fixed`` assignments ``FIELD=VALUE``. Raises ConfigError for a run that has no table, an unknown field,
    and when nothing is left to search.
    """
    algorithm = getattr(config.agent, "algorithm", None)
    table = RANGES.get(str(algorithm))
    if table is None:
        raise ConfigError(f"NAME = {config.name!r}; accepted are runs of {' and '.join(RANGES)}, which learn by acting")
    names = {assignment.partition("=")[0] for assignment in fixed}
    for name in only:
        if name not in table or name in names:
            accepted = ", ".join(searched for searched in table if searched not in names)
            raise ConfigError(f"--only {name!r}; accepted are {accepted}")
    defaults = parameters_of(config, table)
    space = {
        name: _widened(distribution, defaults[name])
        for name, distribution in table.items()
        if name not in names and (not only or name in only)
    }
    if not space:
        raise ConfigError("--fix leaves nothing to search; accepted is at least one free field")
    return space


def parameters_of(config: RunConfig[Any, Any], names: typing.Iterable[str]) -> dict[str, Any]:
    """The configuration's own values of the named fields, as Optuna stores them."""
    return {name: _stored(getattr(config.agent, name)) for name in names}


def with_parameters(config: RunConfig[Any, Any], parameters: Parameters) -> RunConfig[Any, Any]:
    """The configuration with a trial's values. Raises ValueError where the recipe refuses them."""
    hints = typing.get_type_hints(type(config.agent))
    values = {name: _value(hints[name], name, value) if isinstance(value, str) else value for name, value in parameters.items()}
    return dataclasses.replace(config, agent=dataclasses.replace(config.agent, **values))


def suggest(space: Space, trial: Trial) -> dict[str, Any]:
    """A trial's values, one for each parameter."""
    return {name: _suggest(trial, name, distribution) for name, distribution in space.items()}


def _suggest(trial: Trial, name: str, distribution: BaseDistribution) -> Any:
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(name, distribution.low, distribution.high, log=distribution.log)
    assert isinstance(distribution, FloatDistribution), "the tables have no other kind"
    return trial.suggest_float(name, distribution.low, distribution.high, log=distribution.log)


def _widened(distribution: BaseDistribution, default: Any) -> BaseDistribution:
    """The range with the named run's own value in it, as the first trial plays that one."""
    if isinstance(distribution, CategoricalDistribution):
        if default in distribution.choices:
            return distribution
        return CategoricalDistribution((*distribution.choices, default))
    if isinstance(distribution, IntDistribution):
        return IntDistribution(min(distribution.low, default), max(distribution.high, default), log=distribution.log)
    assert isinstance(distribution, FloatDistribution), "the tables have no other kind"
    return FloatDistribution(min(distribution.low, default), max(distribution.high, default), log=distribution.log)


def _stored(value: Any) -> Any:
    return ",".join(str(width) for width in value) if isinstance(value, tuple) else value


def _value(hint: Any, name: str, text: str) -> Any:
    """Text as a value of a recipe's field."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    if type(None) in options and text.lower() == "none":
        return None
    kind = next(option for option in options if option is not type(None))
    if typing.get_origin(kind) is typing.Literal:
        if text not in typing.get_args(kind):
            raise ConfigError(f"{name} = {text!r}; accepted are {', '.join(map(str, typing.get_args(kind)))}")
        return text
    try:
        if typing.get_origin(kind) is tuple:
            return tuple(int(width) for width in text.split(","))
        if kind is bool:
            if text.lower() not in ("true", "false"):
                raise ConfigError(f"{name} = {text!r}; accepted are true, false")
            return text.lower() == "true"
        return kind(text)
    except ValueError as error:
        accepted = "widths such as 64,64" if typing.get_origin(kind) is tuple else f"a value of type {kind.__name__}"
        raise ConfigError(f"{name} = {text!r}; accepted is {accepted}") from error
