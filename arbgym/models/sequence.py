"""A small causal convolution over the lagged fields of an observation as a predictor of exits. Needs torch (extra ``train``).

A temporal convolution network (Bai, Kolter and Koltun 2018, arXiv 1803.01271) with kernels of 2 and dilations 1, 2, 4, ... asks,
for its answer at the newest moment, each layer only at every second, fourth, eighth, ... moment. So it is computed as a tree:
every layer joins neighbours, and the last holds one vector for all lags. That is the same function at a fraction of the work.
The vector and all other fields go through one hidden layer to the three scores.
"""

from __future__ import annotations

import importlib
import itertools
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from arbgym.models.exits import SCORES, Labels, Prediction, Rows, Watch, check_classes, check_rows, last_episodes, prediction
from arbgym.spec import Field

LEAST_EPISODES = 10
LAGGED = ("return_lag_", "imbalance_lag_")
_EVERY = 50  # gradient steps between looks at the validation episodes
_CHUNK = 65_536


def lag_columns(fields: Sequence[Field], prefixes: Sequence[str] = LAGGED) -> NDArray[np.int64]:
    """Columns (C, L) of the lagged fields, by prefix, oldest first (``PREFIX1`` is the newest).

    Raises ValueError where a prefix has no field, or two prefixes not the same lags 1 to L.
    """
    found = []
    for prefix in prefixes:
        lags = {int(entry.name[len(prefix) :]): k for k, entry in enumerate(fields) if re.fullmatch(rf"{prefix}\d+", entry.name)}
        if not lags or sorted(lags) != list(range(1, len(lags) + 1)):
            raise ValueError(f"fields: {prefix}K has K = {sorted(lags)}; accepted is 1, 2, ... without a gap")
        found.append([lags[lag] for lag in sorted(lags, reverse=True)])
    if len({len(columns) for columns in found}) != 1:
        raise ValueError(f"fields: {', '.join(prefixes)} have {[len(c) for c in found]} lags; accepted are equally many")
    return np.array(found, dtype=np.int64)


@dataclass
class SequenceExits:
    """The network, fitted by Adam to the three labels at once; weights are those that were best on the validation episodes.

    ``fields`` are the observation's, among which the lagged ones are found by name. The same numbers, seed and threads give the
    same network on the same machine.
    """

    fields: Sequence[Field]
    steps: int = 2_000
    """gradient steps at most"""
    batch: int = 1_024
    """rows per gradient step"""
    learning_rate: float = 2e-3
    """Adam's step at the start; it falls to a twentieth along a cosine"""
    channels: int = 16
    """width of each convolution"""
    hidden: int = 64
    """width of the layer that joins lags and other fields"""
    patience: int = 10
    """looks at the validation episodes, one each 50 steps, without improvement before it stops"""
    validation_share: float = 0.2
    """share of the episodes that validate: the last ones, whole"""
    seed: int = 0
    network: Any = field(default=None, init=False, repr=False)
    """the fitted torch module"""

    def __post_init__(self) -> None:
        bounds = (
            *(("steps", 1, 10_000_000), ("batch", 2, 1_000_000), ("learning_rate", 1e-9, 1.0), ("channels", 1, 1_024)),
            *(("hidden", 1, 4_096), ("patience", 1, 100_000), ("validation_share", 0.01, 0.9)),
        )
        for name, low, high in bounds:
            if not low <= getattr(self, name) <= high:
                raise ValueError(f"{name} = {getattr(self, name)}; accepted is {low:g} to {high:g}")
        lag_columns(self.fields)

    def fit(self, features: Rows, labels: Labels, episodes: NDArray[np.int64], watch: Watch | None = None) -> None:
        """See ``ExitPredictor.fit``. Refused are infinite numbers and NaN, fewer than 10 episodes, labels all alike."""
        check_rows(features, labels, episodes)
        validation = last_episodes(episodes, self.validation_share, LEAST_EPISODES)
        check_classes(labels, ~validation)
        torch = importlib.import_module("torch")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.seed)
            network = _module()(lag_columns(self.fields), len(self.fields), self.channels, self.hidden)
        targets = np.stack([np.log1p(labels.upside), labels.drawdown, labels.sell], axis=1).astype(np.float32)
        fitted, held = np.flatnonzero(~validation), np.flatnonzero(validation)
        held = held[:: max(len(held) // _CHUNK, 1)]
        optimizer = torch.optim.Adam(network.parameters(), lr=self.learning_rate)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, self.steps, eta_min=0.05 * self.learning_rate)
        draws = np.random.default_rng(self.seed)
        best, kept, waited = np.inf, None, 0
        for step in range(1, self.steps + 1):
            rows = fitted[draws.integers(0, len(fitted), self.batch)]
            losses = _losses(network(torch.as_tensor(features[rows])), torch.as_tensor(targets[rows]))
            optimizer.zero_grad()
            losses.sum().backward()
            torch.nn.utils.clip_grad_norm_(network.parameters(), 1.0)
            optimizer.step()
            schedule.step()
            if step % _EVERY and step != self.steps:
                continue
            with torch.no_grad():
                found = _losses(network(torch.as_tensor(features[held])), torch.as_tensor(targets[held])).tolist()
            if sum(found) < best:
                best, waited = sum(found), 0
                kept = {name: value.clone() for name, value in network.state_dict().items()}
            else:
                waited += 1
            losses_by_name = {f"validation_{name}": loss for name, loss in zip(SCORES, found, strict=True)}
            stop = watch is not None and watch("network", step, losses_by_name)
            if stop or waited >= self.patience:
                break
        if kept is None:
            raise ValueError("the losses are not finite; accepted is data and a learning_rate with which they are")
        network.load_state_dict(kept)
        self.network = network.eval()

    def scores(self, features: Rows, names: Sequence[str] = SCORES) -> Rows:
        """See ``ExitPredictor.scores``."""
        torch, network = importlib.import_module("torch"), self._fitted()
        columns = [SCORES.index(name) for name in names]
        with torch.no_grad():
            parts = [
                network(torch.as_tensor(features[start : start + _CHUNK])).numpy()[:, columns]
                for start in range(0, max(len(features), 1), _CHUNK)
            ]
        return np.ascontiguousarray(np.concatenate(parts), dtype=np.float32)

    def predict(self, features: Rows) -> Prediction:
        """See ``ExitPredictor.predict``."""
        return prediction(self.scores(features))

    def graph(self, names: Sequence[str] = SCORES) -> Any:
        """See ``ExitPredictor.graph``."""
        from arbgym.models.torch_graph import to_onnx  # onnx is not needed to predict

        torch, network = importlib.import_module("torch"), self._fitted()
        chosen = torch.nn.Linear(len(SCORES), len(names), bias=False)
        with torch.no_grad():
            chosen.weight.copy_(torch.as_tensor([[float(name == score) for score in SCORES] for name in names]))
        return to_onnx(torch.nn.Sequential(network, chosen).eval(), len(self.fields), ["scores"])

    def _fitted(self) -> Any:
        if self.network is None:
            raise ValueError("the predictor was not fitted; accepted is one that was")
        return self.network


def _losses(scores: Any, targets: Any) -> Any:
    """Huber's loss of the logarithmic upside and two cross entropies, each a mean (3,)."""
    torch = importlib.import_module("torch")
    functional = torch.nn.functional
    return torch.stack(
        [
            functional.smooth_l1_loss(scores[:, 0], targets[:, 0]),
            functional.binary_cross_entropy_with_logits(scores[:, 1], targets[:, 1]),
            functional.binary_cross_entropy_with_logits(scores[:, 2], targets[:, 2]),
        ]
    )


def _module() -> Any:
    """The network's class, made when torch is wanted."""
    torch = importlib.import_module("torch")
    nn = torch.nn

    class Network(nn.Module):  # type: ignore[name-defined, misc]  # torch is imported late
        def __init__(self, columns: NDArray[np.int64], fields: int, channels: int, hidden: int) -> None:
            super().__init__()
            kinds, lags = columns.shape
            depth = max(int(lags - 1).bit_length(), 1)
            self.shape = (kinds, 2**depth)
            # a product with 0 and 1 picks the lags, in an operator that every policy has; older lags than there are, are 0
            picked = torch.zeros(fields, *self.shape)
            for kind, row in enumerate(columns.tolist()):
                for lag, column in enumerate(row):
                    picked[column, kind, 2**depth - lags + lag] = 1.0
            self.register_buffer("picked", picked.flatten(1))
            widths = [kinds, *[channels] * depth]
            self.joins = nn.ModuleList(nn.Conv1d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
            self.head = nn.Sequential(nn.Linear(channels + fields, hidden), nn.ReLU(), nn.Linear(hidden, 3))

        def forward(self, observation: Any) -> Any:
            values = (observation @ self.picked).unflatten(1, self.shape)
            for k, join in enumerate(self.joins):
                joined = torch.relu(join(values))
                values = joined if k == 0 else joined + values[:, :, 1::2]  # the newer one of each pair goes on beside
            return self.head(torch.cat([values.flatten(1), observation], dim=1))

    return Network
