"""The same study on a cluster: Ray Tune runs the trials, Optuna's study on the machine that asked keeps them.

Ray's ``OptunaSearch`` asks the study for values and tells it the results, so a sweep may be begun by one engine and gone on with
by the other. Trials that fall behind are ended by Ray's asynchronous successive halving, with the numbers of
``sweep_study.pruner``; the default is judged by that rule, too. One driver at a time may use a study.
"""

from __future__ import annotations

import json
import logging
import os
import tempfile
from collections.abc import Sequence
from typing import Any

import optuna
from rich.console import Console

from experiments.config import ConfigError
from experiments.provenance import REPOSITORY, git_revision, machine
from experiments.sweep_study import (
    ERROR,
    FIRST_RUNG,
    POINTS,
    PROVENANCE,
    REDUCTION,
    Storage,
    counted,
    print_trial,
    refusals,
    sampler,
)
from experiments.sweep_trial import Plan, Point, play

try:
    import ray
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler
    from ray.tune.search import ConcurrencyLimiter
    from ray.tune.search.optuna import OptunaSearch
except ModuleNotFoundError as error:
    if error.name not in ("ray", "pyarrow", "pandas", "tensorboardX", "filelock", "requests"):
        raise
    raise ConfigError(
        f"engine = 'ray' needs {error.name}, which is not installed; accepted is the extra ray (pip install 'arbgym[ray]'), "
        "or --engine optuna"
    ) from error

VALUE = "quality_over_time"
_THREADS = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"), "1")
_LEFT_OUT = ["runs", ".git", ".venv*", ".evm", "shared", "dist", "build", "**/__pycache__"]


class StudySearch(OptunaSearch):
    """``OptunaSearch`` that also keeps a trial's points, error and provenance, and tells pruned trials from complete ones."""

    def __init__(self, plan: Plan, study: optuna.Study, storage: Storage) -> None:
        number = sum(counted(trial) for trial in study.get_trials(deepcopy=False))
        super().__init__(
            plan.space,
            metric=VALUE,
            mode="max",
            sampler=sampler(plan, number),
            study_name=storage.study,
            storage=storage.load(heartbeat=False),
        )
        self._plan, self._study = plan, study
        self._judgements: dict[str, int] = {}

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Keep the points so far, or the message of an error."""
        trial = self._ot_trials[trial_id]
        if ERROR in result:
            trial.set_user_attr(ERROR, result[ERROR])
            return
        trial.set_user_attr(POINTS, result[POINTS])
        trial.set_user_attr(PROVENANCE, json.loads(result[PROVENANCE]))  # Tune flattens dictionaries, not text
        super().on_trial_result(trial_id, result)
        self._judgements[trial_id] = result["judgement"]

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Tell the study how the trial ended: complete after its last judgement, failed with an error, pruned before."""
        trial = self._ot_trials[trial_id]
        if result is not None and result.get("judgement", 0) > self._judgements.get(trial_id, 0):
            self.on_trial_result(trial_id, result)  # the result on which the scheduler ended the trial comes here alone
        attributes = self._attributes(trial.number)
        if error and ERROR not in attributes:
            trial.set_user_attr(ERROR, "the process that played it ended, or was killed: see Ray's log")
        failed = error or ERROR in attributes
        finished = self._judgements.get(trial_id) == self._plan.checkpoints
        super().on_trial_complete(trial_id, result if finished and not failed else None, failed)
        print_trial(self._plan, self._study.get_trials(deepcopy=False)[trial.number], Console())

    def _attributes(self, number: int) -> dict[str, Any]:
        return self._study.get_trials(deepcopy=False)[number].user_attrs


def run_trials(plan: Plan, study: optuna.Study, storage: Storage, trials: int, jobs: int, address: str | None) -> None:
    """Play that many trials, ``jobs`` at a time, on the cluster at ``address`` or on this machine. Raises ConfigError when the
    cluster cannot be reached.
    """
    _connect(jobs, address)
    try:
        with tempfile.TemporaryDirectory(prefix="sweep-ray-") as scratch, refusals(storage.path):
            search = StudySearch(plan, study, storage)
            tune.Tuner(
                tune.with_resources(tune.with_parameters(_trial, plan=plan), {"cpu": 1}),
                tune_config=tune.TuneConfig(
                    search_alg=ConcurrencyLimiter(search, max_concurrent=jobs),
                    scheduler=ASHAScheduler(
                        time_attr="judgement",
                        metric=VALUE,
                        mode="max",
                        max_t=plan.checkpoints,
                        grace_period=min(FIRST_RUNG, plan.checkpoints),
                        reduction_factor=REDUCTION,
                    ),
                    num_samples=trials,
                ),
                run_config=tune.RunConfig(name=storage.study, storage_path=scratch, verbose=0),
            ).fit()
    finally:
        ray.shutdown()


def _connect(jobs: int, address: str | None) -> None:
    """Join the cluster, or start Ray here. The code travels with the job where it may not be there yet."""
    environment: dict[str, Any] = {"env_vars": {**_THREADS, "PYTHONPATH": str(REPOSITORY)}}
    if address is not None:
        environment = {"env_vars": _THREADS, "working_dir": str(REPOSITORY), "excludes": _LEFT_OUT}
    arguments: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False} if address is None else {"address": address}
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")  # the study keeps what matters
    try:
        ray.init(runtime_env=environment, log_to_driver=False, logging_level=logging.ERROR, **arguments)
    except (ConnectionError, RuntimeError, ValueError) as error:
        raise ConfigError(
            f"ray-address = {address!r}: {error}; accepted is a running cluster, or none for this machine"
        ) from error


def _trial(config: dict[str, Any], plan: Plan) -> None:
    """One trial in a process of Ray's."""

    def report(judgement: int, value: float, points: Sequence[Point]) -> None:
        where = {"machine": machine(), "git": git_revision(), "engine": "ray"}
        found = {VALUE: value, POINTS: [list(point) for point in points], PROVENANCE: json.dumps(where), "judgement": judgement}
        tune.report(found)

    try:
        play(plan, config, report)
    except Exception as error:
        tune.report({VALUE: float("-inf"), ERROR: f"{type(error).__name__}: {error}", "judgement": plan.checkpoints})
        raise
