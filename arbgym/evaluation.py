"""A policy against baselines and the oracle, on episodes it never saw, with bootstrap intervals.

Every policy meets the same episodes: random numbers are a function of (seed, episode, block, purpose), so two policies run on the
same seeds see the same price, flow and rivals, and their difference is taken episode by episode (paired). Training seeds and
held-out seeds are disjoint bands: see ``TRAINING_SEED`` and ``HELD_OUT_SEED``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from arbgym.engine import NativeVectorEnv
from arbgym.spec import Choice, Encoding, decode

Floats = NDArray[np.float64]
TRAINING_SEED = 0
TUNING_SEED = 100_000_000  # baselines are tuned here; disjoint from every training and held-out seed
HELD_OUT_SEED = 200_000_000
_BOOTSTRAP = 2_000

Decide = Callable[[NDArray[np.float32]], Floats]
"""Observations float32 (N, D) -> decisions float64 (N, A)."""


class Baseline(Protocol):
    """A rule. ``fit`` searches whatever it has to search by running ``simulate`` on seeds of its own, and returns the rule."""

    def fit(self, simulator: Simulator) -> Decide:
        """Choose the rule's numbers with the simulator (training seeds or the training span only)."""
        ...


class EncodedPolicy(Protocol):
    """A learned policy: observations float32 (N, D) -> encoded actions."""

    def predict(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """The deterministic action of each row."""
        ...


@dataclass(frozen=True)
class Totals:
    """Sums of each ``info`` column over each episode: {name: float64 (episodes,)}, and the episodes' lengths."""

    sums: Mapping[str, Floats]
    lengths: NDArray[np.int64]


@dataclass(frozen=True)
class Simulator:
    """Runs decision rules on episodes of one environment configuration.

    Episode e of seed s is what ``gym.make(id, ...).reset(seed=s + e)`` starts.
    """

    environment: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    seed: int = TUNING_SEED
    episodes: int = 256

    def make(self) -> NativeVectorEnv:
        """The vector environment, one episode per row, no reset at an episode's end."""
        return NativeVectorEnv(self.environment, max(self.episodes, 2), autoreset="disabled", copy=False, **self.arguments)

    def run(
        self,
        decide: Decide | MaskedDecide,
        each: Callable[[NativeVectorEnv, NDArray[np.bool_]], None] | None = None,
        before: Callable[[NativeVectorEnv], None] | None = None,
    ) -> Totals:
        """Play the rule; ``before(env)`` is called before every step and ``each(env, alive)`` after it, with the rows whose
        episode this step belongs to.
        """
        env = self.make()
        env.reset(seed=self.seed)
        names = env.definition.info
        sums = np.zeros((env.num_envs, len(names)))
        lengths = np.zeros(env.num_envs, dtype=np.int64)
        alive = np.ones(env.num_envs, dtype=np.bool_)
        while alive.any():
            if before is not None:
                before(env)
            if isinstance(decide, MaskedDecide):
                decisions = decide(env.observations, env.action_masks())
            else:
                decisions = decide(env.observations)
            env.step_decisions(decisions)
            sums += env.core.batch.info * alive[:, None]
            lengths += alive
            if each is not None:
                each(env, alive)
            alive = alive & ~(env.terminated | env.truncated)
        sums, lengths = sums[: self.episodes], lengths[: self.episodes]
        return Totals({name: sums[:, k] for k, name in enumerate(names)}, lengths)


@dataclass(frozen=True)
class MaskedDecide:
    """A learned policy that is told what can be carried out: the simulator asks its environment and hands the masks over."""

    policy: Any
    choices: tuple[Choice, ...]
    encoding: Encoding

    def __call__(self, observations: NDArray[np.float32], masks: NDArray[np.bool_]) -> Floats:
        """Decisions (N, A) for observations (N, D) and masks (N, L)."""
        return decode(self.choices, self.encoding, self.policy.predict(observations, masks))


Play = Callable[[Simulator, "Decide | MaskedDecide"], Totals]
"""Plays a rule on a simulator's episodes."""


def decide_with(policy: EncodedPolicy, env: NativeVectorEnv) -> Decide | MaskedDecide:
    """Let a learned policy decide: predict, then decode with the environment's own decoder."""
    choices, encoding = env.definition.action, env.core.encoding
    if getattr(policy, "masked", False):
        return MaskedDecide(policy, choices, encoding)

    def decide(observations: NDArray[np.float32]) -> Floats:
        return decode(choices, encoding, policy.predict(observations))

    return decide


def interval(values: Floats, seed: int = 0) -> dict[str, float]:
    """Mean with a 95 % percentile-bootstrap interval over episodes (Efron 1979)."""
    draws = np.random.default_rng(seed).integers(0, len(values), (_BOOTSTRAP, len(values)))
    means = values[draws].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return {"mean": float(values.mean()), "low": float(low), "high": float(high)}


def ratio_interval(numerator: Floats, denominator: Floats, seed: int = 0) -> dict[str, float]:
    """Ratio of sums with a bootstrap interval that draws episodes, so both keep their pairing. 0 where the denominator is 0."""
    draws = np.random.default_rng(seed).integers(0, len(numerator), (_BOOTSTRAP, len(numerator)))
    above, below = numerator[draws].sum(axis=1), denominator[draws].sum(axis=1)
    ratios = np.divide(above, below, out=np.zeros_like(above), where=below != 0.0)
    low, high = np.quantile(ratios, [0.025, 0.975])
    total = float(denominator.sum())
    return {"mean": float(numerator.sum()) / total if total else 0.0, "low": float(low), "high": float(high)}


@dataclass(frozen=True)
class Evaluation:
    """Every policy's figures on the same episodes; ``to_json`` is the content of ``result.json``."""

    environment: str
    episodes: int
    seed: int
    subject: str
    policies: dict[str, dict[str, Any]]
    paired: dict[str, dict[str, float]]
    totals: dict[str, Totals] = field(repr=False)

    def to_json(self) -> dict[str, Any]:
        """{"policies": {name: {"net_profit": {mean, low, high}, ...}}, "paired": {baseline: {mean, low, high}}, ...}."""
        return {
            "environment": self.environment,
            "episodes": self.episodes,
            "seed": self.seed,
            "subject": self.subject,
            "policies": self.policies,
            "paired": self.paired,
        }

    def table(self) -> list[dict[str, str]]:
        """Rows for printing: one per policy, figures per episode in quote currency."""
        rows = []
        for name, figures in self.policies.items():
            net, share = figures["net_profit"], figures["oracle_share"]
            row = {
                "policy": name,
                "net profit": f"{net['mean']:,.1f} [{net['low']:,.1f}, {net['high']:,.1f}]",
                "oracle share": f"{share['mean']:.1%} [{share['low']:.1%}, {share['high']:.1%}]",
            }
            row |= {part: f"{figures['parts'][part]:,.1f}" for part in figures["parts"]}
            row |= {rate: f"{figures[rate]:.1%}" for rate in ("attempt_rate", "win_rate", "revert_rate", "false_positive_rate")}
            if name in self.paired:
                gain = self.paired[name]
                row["subject minus it"] = f"{gain['mean']:,.1f} [{gain['low']:,.1f}, {gain['high']:,.1f}]"
            else:
                row["subject minus it"] = ""
            rows.append(row)
        return rows


def evaluate(
    environment: str,
    policies: Mapping[str, Decide | EncodedPolicy],
    *,
    subject: str,
    oracle: str = "oracle",
    episodes: int = 1_024,
    seed: int = HELD_OUT_SEED,
    play: Mapping[str, Play] | None = None,
    **arguments: Any,
) -> Evaluation:
    """Play every policy on the same held-out episodes.

    ``play`` names policies that are played in another way than by ``Simulator.run``, as behind a risk gate.

    ``environment`` is the module that defines it; ``policies`` map names to decision rules or learned policies and
    include ``subject`` (compared with every other) and ``oracle`` (the unit of ``oracle_share``). Raises ValueError
    where one is missing.
    """
    for name in (subject, oracle):
        if name not in policies:
            raise ValueError(f"policies: {name!r} is missing; given are {', '.join(policies)}")
    if episodes < 2:
        raise ValueError(f"episodes = {episodes}; accepted is 2 or more")
    simulator = Simulator(environment, arguments, seed, episodes)
    totals: dict[str, Totals] = {}
    for name, policy in policies.items():
        decide = policy if callable(policy) else decide_with(policy, simulator.make())
        totals[name] = (play or {}).get(name, Simulator.run)(simulator, decide)
    parts = simulator.make().definition.reward_parts
    best = totals[oracle].sums["net_profit"]
    figures = {name: _figures(played, best, parts) for name, played in totals.items()}
    net = totals[subject].sums["net_profit"]
    paired = {name: interval(net - played.sums["net_profit"]) for name, played in totals.items() if name not in (subject, oracle)}
    for name, difference in paired.items():
        figures[name]["subject_ratio"] = ratio_interval(net, totals[name].sums["net_profit"])
        difference["share_of_baseline"] = _share(difference["mean"], figures[name]["net_profit"]["mean"])
    return Evaluation(environment, episodes, seed, subject, figures, paired, totals)


def _share(part: float, whole: float) -> float:
    return part / abs(whole) if whole else 0.0


def _figures(played: Totals, best: Floats, parts: tuple[str, ...]) -> dict[str, Any]:
    """One policy's figures; the parts of the profit are per episode and add up to the net profit."""
    sums = {name: float(column.sum()) for name, column in played.sums.items()}
    steps, attempts = int(played.lengths.sum()), sums["attempted"]
    return {
        "net_profit": interval(played.sums["net_profit"]),
        "oracle_share": ratio_interval(played.sums["net_profit"], best),
        "parts": {name: (1.0 if name == parts[0] else -1.0) * sums[name] / len(best) for name in parts},
        "net_profit_per_step": sums["net_profit"] / steps,
        "attempt_rate": attempts / steps,
        "win_rate": _share(sums["included"], attempts),
        "revert_rate": _share(sums["reverted"], attempts),
        "drop_rate": _share(sums["dropped"], attempts),
        "false_positive_rate": _share(sums["unprofitable"], attempts),
        "sandwich_rate": _share(sums.get("sandwiched", 0.0), attempts),
        "loss_episodes": float(np.mean(played.sums["net_profit"] < 0.0)),
        "steps": steps,
        "episode_net_profit": [round(value, 4) for value in played.sums["net_profit"][:256].tolist()],
    }
