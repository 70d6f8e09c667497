"""A sweep's study in a SQLite file: opened or refused, filled by processes of one thread each, gone on with after any end.

A trial counts when it completed, was pruned, or failed by itself (then its error is kept). One that was interrupted does not: its
process stops sending signs of life, Optuna marks it as failed, and the next run of the command plays another in its place.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import distribution_to_json
from optuna.pruners import SuccessiveHalvingPruner
from optuna.samplers import TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState
from rich.console import Console
from sqlalchemy.exc import SQLAlchemyError

from experiments.config import ConfigError, to_json
from experiments.provenance import git_revision, machine
from experiments.sweep_space import parameters_of, suggest
from experiments.sweep_trial import Plan, Play, Point, play, reference

FIRST_RUNG, REDUCTION = 2, 2
"""Successive halving: at judgements 2, 4, 8, ... a trial ends that is not in the better half of those that came so far. As
judgements lie at squares of time, that is at 1/16 and 1/4 of the budget for 8 of them. It needs no full trials first, works for
trials that run beside each other, and Ray Tune has the same rule."""
PLAN, ERROR, POINTS, PROVENANCE, DEFAULT = "plan", "error", "points", "provenance", "default"
_STORAGE_FAILED = 3  # exit status of a worker whose storage failed
_LOCK_SECONDS = 60.0


@dataclass(frozen=True)
class Storage:
    """Where a study lives, and after how long without a sign of life a trial is taken for dead."""

    path: Path
    study: str
    heartbeat_s: int = 3
    grace_s: int = 10

    def load(self, heartbeat: bool = True) -> RDBStorage:
        """The SQLite file, made where it is missing; trials send signs of life where ``Study.optimize`` plays them.

        Raises ConfigError where it cannot be used.
        """
        folder = self.path.resolve().parent
        if not folder.is_dir():
            raise ConfigError(f"storage = {str(self.path)!r}: {folder} is no folder; accepted is a file in one that exists")
        with refusals(self.path), warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            return RDBStorage(
                f"sqlite:///{self.path.resolve()}",
                engine_kwargs={"connect_args": {"timeout": _LOCK_SECONDS}},
                heartbeat_interval=self.heartbeat_s if heartbeat else None,
                grace_period=self.grace_s if heartbeat else None,
            )


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """Turn the database's errors (locked, full disk, no database) into one line."""
    try:
        yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError) as error:
        cause = error.__cause__ or error
        raise ConfigError(f"storage = {str(path)!r}: {str(cause).splitlines()[0]}; trials finished so far are kept") from error


def open_study(plan: Plan, storage: Storage, console: Console) -> tuple[optuna.Study, Plan]:
    """The study, made where it is missing, and the plan with the baselines' figures on its episodes.

    Raises ConfigError, and changes nothing, when the study there is one of another run, recipe, budget or search space.
    """
    loaded = storage.load()
    with refusals(storage.path):
        study = optuna.create_study(storage=loaded, study_name=storage.study, direction="maximize", load_if_exists=True)
        described = describe(plan)
        known = study.user_attrs.get(PLAN)
        if known is None and study.get_trials(deepcopy=False):
            raise ConfigError(f"study = {storage.study!r} in {storage.path} is no sweep's; accepted is another --study")
        if known is not None:
            _require_same(known, described, storage)
        figures = study.user_attrs.get("reference")
        if figures is None:
            console.print("playing the oracle and the tuned rule on the sweep's episodes ...")
            best, rule = reference(plan)
            if not best > 0.0:
                raise ConfigError(f"episodes = {plan.episodes}: hindsight earns nothing on them; accepted are more episodes")
            figures = {"oracle_profit": best, "tuned_rule_share": rule}
            study.set_user_attr("reference", figures)
            study.set_user_attr(PLAN, described)
        return study, replace(plan, **figures)


def describe(plan: Plan) -> dict[str, Any]:
    """What trials have to have in common to be comparable, JSON-able."""
    run = to_json(plan.config)
    return {
        "name": plan.config.name,
        "environment": run["environment"],
        "preset": run["preset"],
        "world": run["world"],
        "action": run["action"],
        "agent": {name: value for name, value in run["agent"].items() if name not in plan.space},
        "training_seed": plan.config.training_seed,
        "default": parameters_of(plan.config, plan.space),
        "space": {name: json.loads(distribution_to_json(found)) for name, found in plan.space.items()},
        "seconds": plan.seconds,
        "checkpoints": plan.checkpoints,
        "episodes": plan.episodes,
        "clock": plan.clock,
    }


def _require_same(known: dict[str, Any], asked: dict[str, Any], storage: Storage) -> None:
    asked = json.loads(json.dumps(asked))
    for name in asked:
        if known.get(name) != asked[name]:
            raise ConfigError(
                f"study = {storage.study!r} in {storage.path} was begun with {name} = {known.get(name)}, not {asked[name]}; "
                "accepted is another --study, or the flags it was begun with"
            )


# ------------------------------------------------------------------------------------------------------ what is there
def counted(trial: FrozenTrial) -> bool:
    """Whether a trial is one of those asked for: it ended by itself."""
    return trial.state in (TrialState.COMPLETE, TrialState.PRUNED) or ERROR in trial.user_attrs


def settle(study: optuna.Study, storage: Storage, console: Console) -> None:
    """Wait until it is known which running trials are alive, and mark the others as failed."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    for trial in running:
        if PROVENANCE not in trial.user_attrs:  # given out by Ray's search, which sends no signs of life
            study.tell(trial.number, state=TrialState.FAIL)
    end = time.monotonic() + storage.grace_s + storage.heartbeat_s
    if running:
        console.print(f"{len(running)} trials were running: waiting up to {storage.grace_s + storage.heartbeat_s} s for them")
    while study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) and time.monotonic() < end:
        time.sleep(0.2)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            optuna.storages.fail_stale_trials(study)


def missing(study: optuna.Study, trials: int) -> int:
    """How many trials are still to be started; those that run elsewhere are not."""
    found = study.get_trials(deepcopy=False)
    return trials - sum(counted(trial) or trial.state == TrialState.RUNNING for trial in found)


def enqueue_default(study: optuna.Study, plan: Plan) -> None:
    """Let the named run's own values be the next trial, unless they have been tried."""
    default = parameters_of(plan.config, plan.space)
    for trial in study.get_trials(deepcopy=False):
        if DEFAULT in trial.user_attrs and (counted(trial) or trial.state in (TrialState.RUNNING, TrialState.WAITING)):
            return
    study.enqueue_trial(default, user_attrs={DEFAULT: True})


def sampler(plan: Plan, number: int) -> TPESampler:
    """The sampler of the trial that is the number-th to count: a study that was interrupted goes on as it would have."""
    return TPESampler(seed=(plan.seed * 1_000_003 + number) % 2**32, multivariate=True, constant_liar=True)


# ------------------------------------------------------------------------------------------------------------- trials
def objective(plan: Plan, trial: optuna.Trial, played_by: Play = play) -> float:
    """One trial: its value, with points, error and provenance kept as attributes. Raises TrialPruned when it falls behind.

    The named run's own values are never pruned: whatever is found is told beside them.
    """
    trial.set_user_attr(PROVENANCE, {"machine": machine(), "git": git_revision(), "engine": "optuna"})
    spared = DEFAULT in trial.user_attrs

    def report(judgement: int, value: float, points: Sequence[Point]) -> None:
        trial.set_user_attr(POINTS, [list(point) for point in points])
        trial.report(value, judgement)
        if not spared and trial.should_prune():
            raise optuna.TrialPruned

    try:
        return played_by(plan, suggest(plan.space, trial), report)
    except (optuna.TrialPruned, optuna.exceptions.StorageInternalError):
        raise
    except Exception as error:
        trial.set_user_attr(ERROR, f"{type(error).__name__}: {error}")
        raise


def pruner() -> SuccessiveHalvingPruner:
    """See ``FIRST_RUNG``."""
    return SuccessiveHalvingPruner(min_resource=FIRST_RUNG, reduction_factor=REDUCTION)


def run_trials(plan: Plan, storage: Storage, trials: int, jobs: int, console: Console) -> None:
    """Start that many trials, ``jobs`` at a time, and wait for them. Raises ConfigError when the storage fails."""
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.load_study(storage=storage.load(), study_name=storage.study)
    first = sum(counted(trial) for trial in study.get_trials(deepcopy=False))
    context = multiprocessing.get_context("spawn")
    tickets = context.Value("q", 0)
    if jobs == 1:
        with refusals(storage.path):
            _work(plan, storage, tickets, trials, first, console)
        return
    console.print(f"{min(jobs, trials)} processes of one thread each")
    processes: list[Any] = []
    try:
        while tickets.value < trials or any(process.is_alive() for process in processes):
            processes = [process for process in processes if not _ended(process, console)]
            while len(processes) < min(jobs, trials) and tickets.value < trials:
                processes.append(context.Process(target=_worker, args=(plan, storage, tickets, trials, first), daemon=True))
                processes[-1].start()
            time.sleep(0.1)
        for process in processes:
            _ended(process, console)
    finally:
        for process in processes:
            process.terminate()
            process.join()


def _ended(process: Any, console: Console) -> bool:
    """Whether a worker is done. Raises ConfigError when it could not work at all."""
    if process.is_alive():
        return False
    if process.exitcode == _STORAGE_FAILED:
        raise ConfigError("a worker's storage failed (its message is above); trials finished so far are kept")
    if process.exitcode is not None and process.exitcode > 0:
        raise ConfigError(f"a worker ended with status {process.exitcode} (its message is above); finished trials are kept")
    if process.exitcode:
        console.print(f"[red]a worker was killed by signal {-process.exitcode}[/red]; the study goes on without its trial")
    return True


def _worker(plan: Plan, storage: Storage, tickets: Any, trials: int, first: int) -> None:
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    console = Console()
    try:
        with refusals(storage.path):
            _work(plan, storage, tickets, trials, first, console)
    except ConfigError as error:
        console.print(f"error: {error}", markup=False)
        raise SystemExit(_STORAGE_FAILED) from error
    except KeyboardInterrupt:
        raise SystemExit(0) from None


def _work(plan: Plan, storage: Storage, tickets: Any, trials: int, first: int, console: Console) -> None:
    """Play trials until all tickets are taken, or whoever handed them out is gone."""
    study = optuna.load_study(storage=storage.load(), study_name=storage.study, pruner=pruner())
    parent = multiprocessing.parent_process()
    while parent is None or parent.is_alive():
        with tickets.get_lock():
            if tickets.value >= trials:
                return
            ticket = tickets.value
            tickets.value += 1
        study.sampler = sampler(plan, first + ticket)
        study.optimize(
            lambda trial: objective(plan, trial),
            n_trials=1,
            catch=(Exception,),
            callbacks=[lambda _, trial: print_trial(plan, trial, console)],
        )


def print_trial(plan: Plan, trial: FrozenTrial, console: Console) -> None:
    """One line on a trial that ended: its value, its last point, and what it changed."""
    default = parameters_of(plan.config, plan.space)
    changed = " ".join(f"{name}={shown(value)}" for name, value in trial.params.items() if value != default[name])
    points = [Point(*point) for point in trial.user_attrs.get(POINTS, [])]
    if ERROR in trial.user_attrs:
        told = f"failed: {trial.user_attrs[ERROR]}"
    else:
        last = points[-1] if points else Point(0.0, 0, float("nan"))
        value = trial.value if trial.value is not None else float("nan")
        word = "pruned at" if trial.state == TrialState.PRUNED else "value"
        told = f"{word} {value:.4f}, oracle share {last.share:.1%} after {last.seconds:.1f} s and {last.steps:,} steps"
    console.print(f"trial {trial.number}: {told}; {changed or 'the defaults'}", soft_wrap=True, markup=False, highlight=False)


def shown(value: Any) -> str:
    """A parameter's value as text."""
    return f"{value:.3g}" if isinstance(value, float) else str(value)
