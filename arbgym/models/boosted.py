"""Boosted trees by LightGBM (Ke et al. 2017) as a predictor of exits: one regression and two classifications.

Thresholds of LightGBM are float64 and its sums too; an exported policy has float32. So that both decide alike on every
observation, each leaf is rounded to a multiple of a power of two so small that the values hardly change and so large that no sum
of them, in whatever order, needs more than the 24 bits of a float32; and a float32 number is at most a threshold exactly if it is
at most the threshold rounded down to float32. Needs lightgbm (extra ``train``).
"""

from __future__ import annotations

import importlib
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.models.exits import SCORES, Labels, Prediction, Rows, Watch, check_classes, check_rows, last_episodes, prediction

LEAST_EPISODES = 10
_OBJECTIVES = {"upside": ("regression", "l2"), "drawdown": ("binary", "binary_logloss"), "sell": ("binary", "binary_logloss")}


@dataclass
class BoostedExits:
    """Three boosters, one per score. The same numbers, seed and threads give the same boosters on the same machine."""

    rounds: int = 300
    """trees of each booster at most; fewer where the validation episodes stop improving"""
    leaves: int = 31
    """leaves of a tree at most"""
    learning_rate: float = 0.05
    """share of each tree's answer that is added"""
    least_rows: int = 100
    """rows in a leaf at least"""
    patience: int = 30
    """rounds without improvement on the validation episodes before a booster stops"""
    validation_share: float = 0.2
    """share of the episodes that validate: the last ones, whole"""
    seed: int = 0
    threads: int = 1
    boosters: dict[str, Any] = field(default_factory=dict, init=False, repr=False)
    """fitted boosters by score"""

    def __post_init__(self) -> None:
        bounds = (
            *(("rounds", 1, 100_000), ("leaves", 2, 1_024), ("learning_rate", 1e-6, 1.0), ("least_rows", 1, 1_000_000)),
            *(("patience", 1, 100_000), ("validation_share", 0.01, 0.9), ("threads", 1, 1_024)),
        )
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is {low:g} to {high:g}")

    def fit(self, features: Rows, labels: Labels, episodes: NDArray[np.int64], watch: Watch | None = None) -> None:
        """See ``ExitPredictor.fit``. Refused are infinite numbers and NaN, fewer than 10 episodes, labels all alike."""
        check_rows(features, labels, episodes)
        validation = last_episodes(episodes, self.validation_share, LEAST_EPISODES)
        check_classes(labels, ~validation)
        lightgbm = importlib.import_module("lightgbm")
        binned = lightgbm.Dataset(features[~validation], params=self._parameters("upside"), free_raw_data=False).construct()
        held = binned.create_valid(features[validation], params=self._parameters("upside")).construct()
        targets = {"upside": np.log1p(labels.upside), "drawdown": labels.drawdown, "sell": labels.sell}
        found = {}
        for name in SCORES:
            binned.set_label(targets[name][~validation])
            held.set_label(targets[name][validation])
            booster = lightgbm.train(
                self._parameters(name),
                binned,
                self.rounds,
                valid_sets=[held],
                valid_names=["validation"],
                callbacks=[lightgbm.early_stopping(self.patience, verbose=False), *_watching(lightgbm, name, watch)],
            )
            best = booster.best_iteration or booster.current_iteration()
            found[name] = lightgbm.Booster(model_str=booster.model_to_string(num_iteration=best))
            _round_leaves(found[name])
        self.boosters = found

    def scores(self, features: Rows, names: Sequence[str] = SCORES) -> Rows:
        """See ``ExitPredictor.scores``."""
        if not self.boosters:
            raise ValueError("the predictor was not fitted; accepted is one that was")
        columns = [
            self.boosters[name].predict(features, raw_score=True, num_threads=self.threads, validate_features=False)
            for name in names
        ]
        return np.stack(columns, axis=1).astype(np.float32)

    def predict(self, features: Rows) -> Prediction:
        """See ``ExitPredictor.predict``."""
        return prediction(self.scores(features))

    def graph(self, names: Sequence[str] = SCORES) -> Any:
        """See ``ExitPredictor.graph``."""
        from arbgym.models.graphs import forest_graph  # onnx is not needed to predict

        if not self.boosters:
            raise ValueError("the predictor was not fitted; accepted is one that was")
        return forest_graph([self.boosters[name] for name in names])

    def _parameters(self, name: str) -> dict[str, Any]:
        objective, metric = _OBJECTIVES[name]
        return {
            "objective": objective,
            "metric": metric,
            "num_leaves": self.leaves,
            "learning_rate": self.learning_rate,
            "min_data_in_leaf": self.least_rows,
            "use_missing": False,
            "feature_pre_filter": False,
            "seed": self.seed,
            "num_threads": self.threads,
            "deterministic": True,
            "force_row_wise": True,
            "verbosity": -1,
        }


def _watching(lightgbm: Any, name: str, watch: Watch | None) -> list[Any]:
    if watch is None:
        return []

    def after(env: Any) -> None:
        losses: Mapping[str, float] = {f"{entry[0]}_{entry[1]}": float(entry[2]) for entry in env.evaluation_result_list}
        if watch(name, env.iteration + 1, losses):
            raise lightgbm.callback.EarlyStopException(env.iteration, env.evaluation_result_list)

    return [after]


def _round_leaves(booster: Any) -> None:
    """Round every leaf to the grid on which all sums are exact in float32."""
    leaves = [leaf_values(tree["tree_structure"]) for tree in booster.dump_model()["tree_info"]]
    most = sum(max(map(abs, values.values())) for values in leaves)
    # all partial sums are multiples of the grid and less than 2^24 of them
    grid = 2.0 ** (math.ceil(math.log2(max(most, 2.0**-60))) - 23)
    for tree, values in enumerate(leaves):
        for leaf, value in values.items():
            booster.set_leaf_output(tree, leaf, round(value / grid) * grid)


def leaf_values(node: Mapping[str, Any]) -> dict[int, float]:
    """The value of each leaf below a node of LightGBM's dumped model, by the leaf's number."""
    if "split_index" not in node:
        return {int(node.get("leaf_index", 0)): float(node["leaf_value"])}
    return leaf_values(node["left_child"]) | leaf_values(node["right_child"])
