"""What a sweep leaves behind: study.json with every trial, best.json with the command that repeats the best, and pictures."""

from __future__ import annotations

import importlib.metadata
import json
import warnings
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib
import optuna
from optuna.importance import PedAnovaImportanceEvaluator
from optuna.trial import FrozenTrial, TrialState
from optuna.visualization.matplotlib import plot_optimization_history, plot_param_importances
from rich import box
from rich.console import Console
from rich.table import Table

from experiments.config import command
from experiments.figures import BLUE, GREY, ORANGE
from experiments.monitor import write_atomically
from experiments.provenance import git_revision, machine, versions
from experiments.sweep_space import parameters_of, with_parameters
from experiments.sweep_study import DEFAULT, ERROR, PLAN, POINTS, PROVENANCE, shown
from experiments.sweep_trial import Plan, Point, seconds_to

STUDY, BEST = "study.json", "best.json"
LEVELS = (0.90, 0.95)
"""Shares of the best final quality of the study whose times are told, beside that of tuned_rule."""
_LEAST_FOR_IMPORTANCE = 4


def write_record(study: optuna.Study, plan: Plan, folder: Path, jobs: int) -> dict[str, Any]:
    """Write study.json, best.json and the pictures into the folder; returns the content of study.json."""
    trials = study.get_trials(deepcopy=False)
    finals = [points[-1].share for trial in trials if (points := points_of(trial))]
    levels = {f"{level:.0%} of the best": level * max(finals, default=0.0) for level in LEVELS}
    levels["tuned_rule"] = plan.tuned_rule_share
    best = best_of(trials)
    found = {
        "study": study.study_name,
        "plan": study.user_attrs[PLAN],
        "reference": {"oracle_profit": plan.oracle_profit, "tuned_rule_share": plan.tuned_rule_share},
        "judgements_due_s": plan.due.tolist(),
        "levels": levels,
        "search_seed": plan.seed,
        "jobs": jobs,
        "git": git_revision(),
        "versions": versions() | _search_versions(),
        "machine": machine(),
        "best": None if best is None else best.number,
        "trials": [_trial(trial, levels) for trial in trials],
    }
    write_atomically(folder / STUDY, (json.dumps(found, indent=1) + "\n").encode())
    if best is not None:
        content = {"trial": best.number, "value": best.value, "parameters": best.params, "command": best_command(plan, best)}
        write_atomically(folder / BEST, (json.dumps(content, indent=1) + "\n").encode())
        _draw(study, plan, folder)
    return found


def _search_versions() -> dict[str, str]:
    found = {}
    for name in ("optuna", "ray"):
        with suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found


def points_of(trial: FrozenTrial) -> list[Point]:
    """A trial's judgements."""
    return [Point(*point) for point in trial.user_attrs.get(POINTS, [])]


def best_of(trials: list[FrozenTrial]) -> FrozenTrial | None:
    """The completed trial of the highest value, if one completed."""
    complete = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    return max(complete, key=lambda trial: float(trial.value or 0.0), default=None)


def best_command(plan: Plan, trial: FrozenTrial) -> str:
    """The command line of ``experiments.train`` that trains with a trial's values for as many steps."""
    config = with_parameters(plan.config, trial.params)
    return command(replace(config, steps=max(points_of(trial)[-1].steps, 1)))


def _trial(trial: FrozenTrial, levels: dict[str, float]) -> dict[str, Any]:
    points = points_of(trial)
    interrupted = trial.state == TrialState.FAIL and ERROR not in trial.user_attrs
    last = points[-1] if points else None
    return {
        "number": trial.number,
        "state": "INTERRUPTED" if interrupted else trial.state.name,
        "default": DEFAULT in trial.user_attrs,
        "parameters": trial.params,
        "value": trial.value,
        "error": trial.user_attrs.get(ERROR),
        "final_share": None if last is None else last.share,
        "seconds": None if last is None else last.seconds,
        "steps": None if last is None else last.steps,
        "steps_per_second": None if last is None or last.seconds <= 0.0 else last.steps / last.seconds,
        "seconds_to": {name: seconds_to(points, level) for name, level in levels.items()},
        "points": [point._asdict() for point in points],
        "intermediate_values": {str(step): value for step, value in trial.intermediate_values.items()},
        "started": None if trial.datetime_start is None else trial.datetime_start.isoformat(),
        "ended": None if trial.datetime_complete is None else trial.datetime_complete.isoformat(),
        **trial.user_attrs.get(PROVENANCE, {}),
    }


def print_best(found: dict[str, Any], plan: Plan, console: Console, rows: int = 8) -> None:
    """The best trials and the default as a table."""
    ended = [trial for trial in found["trials"] if trial["state"] == "COMPLETE"]
    ended.sort(key=lambda trial: -trial["value"])
    kept = [trial for place, trial in enumerate(ended) if place < rows or trial["default"]]
    states = [trial["state"].lower() for trial in found["trials"]]
    told = ", ".join(f"{states.count(state)} {state}" for state in dict.fromkeys(states))
    title = f"{found['study']}: {told}; {plan.seconds:g} s of {plan.clock} time each, {plan.episodes} episodes"
    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD, padding=(0, 1), pad_edge=False)
    for name in ("trial", "value", "final", *(f"s to {level}" for level in found["levels"]), "k steps/s", "changed"):
        table.add_column(name, justify="left" if name == "changed" else "right", overflow="fold")
    default = parameters_of(plan.config, plan.space)
    for trial in kept:
        changed = " ".join(f"{name}={shown(value)}" for name, value in trial["parameters"].items() if value != default[name])
        table.add_row(
            str(trial["number"]),
            f"{trial['value']:.4f}",
            f"{trial['final_share']:.1%}",
            *("" if time is None else f"{time:.1f}" for time in trial["seconds_to"].values()),
            f"{trial['steps_per_second'] / 1e3:.0f}",
            changed or "the defaults",
            style="bold" if trial["number"] == found["best"] else None,
        )
    (console if console.is_terminal else Console(file=console.file, width=160)).print(table)


# ----------------------------------------------------------------------------------------------------------- pictures
def _draw(study: optuna.Study, plan: Plan, folder: Path) -> None:
    matplotlib.use("agg")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        axes: Any = plot_optimization_history(study, target_name="quality over time")
        _save(axes, folder / "history.png")
        complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
        if len(complete) >= _LEAST_FOR_IMPORTANCE and len({trial.value for trial in complete}) > 1:
            axes = plot_param_importances(study, evaluator=PedAnovaImportanceEvaluator())
            _save(axes, folder / "importances.png")
    _save(_learning_curves(study, plan), folder / "curves.png")


def _learning_curves(study: optuna.Study, plan: Plan) -> Any:
    """Quality against training time: the best trial and the default before all others."""
    trials = study.get_trials(deepcopy=False)
    best = best_of(trials)
    axes = matplotlib.figure.Figure(figsize=(8.0, 5.0), layout="constrained").subplots()
    for trial in trials:
        points = points_of(trial)
        axes.plot([point.seconds for point in points], [point.share for point in points], color=GREY, alpha=0.35, linewidth=1)
    named = [(trial, ORANGE, "default") for trial in trials if DEFAULT in trial.user_attrs and points_of(trial)]
    if best is not None:
        named.append((best, BLUE, f"best: trial {best.number}"))
    for trial, color, label in named:
        points = points_of(trial)
        label = f"{label} (value {trial.value:.3f})" if trial.value is not None else label
        axes.plot([p.seconds for p in points], [p.share for p in points], "o-", color=color, label=label, markersize=4)
    axes.axhline(plan.tuned_rule_share, color="#1b1f24", linestyle="--", linewidth=1, label="tuned_rule")
    shares = [point.share for trial, *_ in named for point in points_of(trial)]
    axes.set_ylim(max(min([*shares, 0.0]), -1.0) - 0.03, max([*shares, plan.tuned_rule_share]) + 0.05)
    axes.set_xlim(-0.02 * plan.seconds, 1.1 * plan.seconds)  # the last judgement waits for the update that is under way
    axes.set_xlabel(f"training time, s ({plan.clock} clock)")
    axes.set_ylabel("share of the oracle's profit")
    axes.set_title(f"{study.study_name}: quality against training time (grey: other trials)")
    axes.legend(loc="lower right")
    return axes


def _save(axes: Any, path: Path) -> None:
    figure = axes.figure
    figure.set_size_inches(8.0, 5.0)
    figure.savefig(path, dpi=110, bbox_inches="tight")
    figure.clear()
