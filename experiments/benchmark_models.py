"""Speed and memory of what the supervised models do with a million rows: features, labels, and predictions by each back end.

Measured in a process of its own, whose peak memory (all of it: interpreter, libraries, rows) is read after each part.
"""

from __future__ import annotations

import multiprocessing
import resource
import sys
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from typing import Any

import numpy as np
import onnxruntime

import arbgym
from agents.recipe import use_threads
from arbgym.engine import load_definition
from arbgym.evaluation import Simulator
from arbgym.models.boosted import BoostedExits
from arbgym.models.exits import ExitPolicy, ExitPredictor, Labels, Rows
from arbgym.models.sequence import SequenceExits
from arbgym.onnx_graph import parse
from arbgym.spec import Field
from experiments.supervised import GBMRecipe, Played, hold_only, join, labelled

ROWS = 1_000_000
FEATURE_SECONDS, FEATURE_GIB = 10.0, 2.0  # what the features of a million rows may take
_TOGETHER = 512
_FITTED_ROWS = 50_000
_SLOW_ROWS = 100_000  # of the numpy back end, which is for a few rows at a time


def rows() -> list[dict[str, Any]]:
    """Seconds and peak GiB of each part for a million rows, on one thread."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(_measure).result()


def _measure() -> list[dict[str, Any]]:
    use_threads(1)
    found: list[dict[str, Any]] = []
    module = arbgym.ENVIRONMENTS["ArbSell-v0"]
    hold_only(Simulator(module, {"action": "discrete"}, 0, 2))  # compiles, or loads what is compiled

    def played() -> Played:
        parts, count, seed = [], 0, 0
        while count < ROWS:
            parts.append(hold_only(Simulator(module, {"action": "discrete"}, seed, _TOGETHER)))
            count, seed = count + len(parts[-1].features), seed + _TOGETHER
        return join(parts)

    start = time.perf_counter()
    whole = played()
    seconds = (time.perf_counter() - start) * ROWS / len(whole.features)
    found.append(_row("features", seconds, FEATURE_SECONDS / seconds, f"the {FEATURE_SECONDS:g} s it may take"))
    gib = _peak_gib()
    found.append(_row("features.memory", gib, FEATURE_GIB / gib, f"the {FEATURE_GIB:g} GiB it may take", "GiB peak"))

    recipe = GBMRecipe()
    start = time.perf_counter()
    features, labels, episodes = labelled(whole, recipe.labels(whole))
    found.append(_row("labels", (time.perf_counter() - start) * ROWS / len(features)))
    some = slice(None, None, max(len(features) // _FITTED_ROWS, 1))
    fields = load_definition(module).observation
    for name, predictor in _predictors(fields):
        predictor.fit(features[some], Labels(*(part[some] for part in labels)), episodes[some])
        found += _predictions(name, ExitPolicy(predictor, fields), features[:ROWS])
    found.append(_row("all.memory", _peak_gib(), unit="GiB peak"))
    return found


def _predictors(fields: tuple[Field, ...]) -> list[tuple[str, ExitPredictor]]:
    """As large as the named runs' own; what they have learned does not matter for their speed."""
    return [("gbm", BoostedExits(150, least_rows=20, patience=150)), ("tcn", SequenceExits(fields, steps=50))]


def _predictions(name: str, policy: ExitPolicy, features: Rows) -> list[dict[str, Any]]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    content = policy.onnx()
    session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    graph, few = parse(content), features[:_SLOW_ROWS]
    own = _seconds(lambda: policy.predict(features))
    chunks = np.array_split(features, 16)
    runtime = _seconds(lambda: [session.run(None, {"observation": chunk}) for chunk in chunks])
    interpreter = _seconds(lambda: graph.run({"observation": few})) * len(features) / len(few)
    scale = ROWS / len(features)
    library = {"gbm": "lightgbm", "tcn": "torch"}[name]
    return [
        _row(f"predict.{name}.{library}", own * scale),
        _row(f"predict.{name}.onnxruntime", runtime * scale, own / runtime, f"{library} (times as fast)"),
        _row(f"predict.{name}.numpy", interpreter * scale, own / interpreter, f"{library} (times as fast)"),
    ]


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _row(
    name: str, value: float, ratio: float | None = None, to: str | None = None, unit: str = "s for 1,000,000 rows"
) -> dict[str, Any]:
    return {"name": f"models.{name}", "value": value, "unit": unit, "ratio_to": to, "ratio": ratio}


def _peak_gib() -> float:
    """Peak memory of this process so far; kilobytes on Linux, bytes on macOS."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**30 if sys.platform == "darwin" else peak / 2**20


if __name__ == "__main__":
    for row in rows():
        print(f"{row['name']:32} {row['value']:10.3f} {row['unit']:22} {row['ratio'] or '':} {row['ratio_to'] or ''}")
