"""``python -m experiments.sweep NAME --trials N [flags]``: search a named run's recipe for the shortest time to quality.

    python -m experiments.sweep ppo_flash --trials 40                      # 60 s of training each, one after the other
    python -m experiments.sweep ppo_flash --trials 40 --jobs 8             # 8 processes of one thread each
    python -m experiments.sweep dqn_flash --trials 20 --only learning_rate,gradient_steps --fix gamma=0.5
    python -m experiments.sweep ppo_flash --trials 200 --engine ray --ray-address auto     # the same study on a cluster

A trial trains for --seconds and is judged on the way on episodes that nothing else uses; its value is the oracle share averaged
over that time, so it rises when quality comes sooner. The first trial is the named run as it is; trials far behind end early.

The same command again goes on: --trials counts all of the study that ended by themselves, so only what is missing is played.
Ctrl-C or a crash loses the trials that were running and nothing else. Results are in runs/sweeps/STUDY: study.json with
every trial, best.json with the command that trains with the best, and pictures. The best of many trials on one training seed is
partly luck: train it with other seeds beside the default before you believe it.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

try:
    import optuna

    from experiments.sweep_report import BEST, STUDY, best_command, best_of, print_best, write_record
    from experiments.sweep_study import Storage, enqueue_default, missing, open_study, run_trials, settle
except ModuleNotFoundError as error:
    if error.name not in ("optuna", "sqlalchemy"):
        raise
    sys.exit(f"error: {error.name} is not installed; accepted is the extra train (pip install 'arbgym[train]')")

from experiments.config import ConfigError, default_config
from experiments.sweep_space import RANGES, apply_fixed, space_of
from experiments.sweep_trial import Plan

_QUICK = {"seconds": 1.0, "checkpoints": 4, "episodes": 16}
_FULL = {"seconds": 60.0, "checkpoints": 8, "episodes": 256}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sweep from the command line; returns the process's exit status."""
    flags = _parser().parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # trials are told in lines of our own
    try:
        return sweep(flags, Console())
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2


def sweep(flags: argparse.Namespace, console: Console) -> int:
    """Play what is missing of a study and write its record; returns 0, or 130 after Ctrl-C. Raises ConfigError on a bad flag."""
    plan, storage = _plan(flags), _storage(flags)
    if flags.engine == "ray":
        from experiments import sweep_ray  # raises ConfigError where Ray is missing, before anything is written
    study, plan = open_study(plan, storage, console)
    settle(study, storage, console)
    left = missing(study, flags.trials)
    folder = flags.out / storage.study
    folder.mkdir(parents=True, exist_ok=True)
    status = 0
    try:
        if left > 0:
            enqueue_default(study, plan)
            console.print(f"[bold]{storage.study}[/bold]: {left} of {flags.trials} trials to play, {plan.seconds:g} s each")
            if flags.engine == "ray":
                sweep_ray.run_trials(plan, study, storage, left, flags.jobs, flags.ray_address)
            else:
                run_trials(plan, storage, left, flags.jobs, console)
        else:
            console.print(f"[bold]{storage.study}[/bold]: all {flags.trials} trials are there")
    except KeyboardInterrupt:
        console.print("stopped: the same command goes on with the study")
        status = 130
    finally:
        found = write_record(study, plan, folder, flags.jobs)
    print_best(found, plan, console)
    best = best_of(study.get_trials(deepcopy=False))
    if best is not None:
        console.print(f"the best, as a training:\n{best_command(plan, best)}", soft_wrap=True, markup=False, highlight=False)
    console.print(f"results in {folder} ({STUDY}{'' if best is None else f', {BEST}, pictures'})", soft_wrap=True)
    return status


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
        epilog="\n".join(f"searched for {name}_...: {', '.join(space)}" for name, space in RANGES.items()),
    )
    add = parser.add_argument
    add("name", metavar="NAME", help="named run: see python -m experiments.train --help")
    add("--trials", type=int, required=True, help="trials in all, those of earlier runs of the command included")
    add("--seconds", type=float, help="training time of a trial (default 60; with --quick 1)")
    add("--checkpoints", type=int, help="judgements in that time, at its squares (default 8; with --quick 4)")
    add("--episodes", type=int, help="episodes per judgement (default 256; with --quick 16)")
    add("--clock", choices=("wall", "cpu"), default="wall", help="what a second is: cpu is steadier on a busy machine")
    add("--jobs", type=int, default=1, help="trials at a time, one process and one thread each (default 1)")
    add("--only", default="", metavar="FIELD,FIELD", help="search these alone")
    add("--fix", action="append", default=[], metavar="FIELD=VALUE", help="set a field of the recipe; may be repeated")
    add("--preset", help="named set of the world's numbers")
    add("--seed", type=int, default=0, help="of the search, and of every trial's training (default 0)")
    add("--study", help="name of the study (default: NAME with preset and quick)")
    add("--storage", type=Path, help="its SQLite file (default: OUT/STUDY.db)")
    add("--out", type=Path, default=Path("runs/sweeps"), help="folder of the results (default runs/sweeps)")
    add("--engine", choices=("optuna", "ray"), default="optuna", help="who runs the trials; ray needs the extra ray")
    add("--ray-address", metavar="ADDRESS", help="a running Ray cluster (auto, or HOST:PORT); default is Ray on this machine")
    add("--quick", action="store_true", help="tiny trials, to see the whole chain")
    return parser


def _plan(flags: argparse.Namespace) -> Plan:
    """The plan of a command line, all of it checked."""
    values: dict[str, Any] = {
        name: default if getattr(flags, name) is None else getattr(flags, name)
        for name, default in (_QUICK if flags.quick else _FULL).items()
    }
    for name, value, low, high in (
        ("trials", flags.trials, 1, 1_000_000),
        ("jobs", flags.jobs, 1, 4_096),
        ("checkpoints", values["checkpoints"], 1, 1_000),
        ("episodes", values["episodes"], 2, 1_000_000),
    ):
        if not low <= value <= high:
            raise ConfigError(f"{name} = {value}; accepted is {low} to {high}")
    if not (math.isfinite(values["seconds"]) and 0.0 < values["seconds"] <= 1e6):
        raise ConfigError(f"seconds = {values['seconds']}; accepted is above 0 up to 1000000")
    if flags.ray_address is not None and flags.engine != "ray":
        raise ConfigError(f"ray-address = {flags.ray_address!r}; accepted is --ray-address with --engine ray")
    config = default_config(flags.name, flags.preset, flags.quick)
    only = [name.strip().replace("-", "_") for name in flags.only.split(",") if name.strip()]
    fixed = [_with_underscores(assignment) for assignment in flags.fix]
    space_of(config, only, fixed)  # refuses a run that cannot be swept before its fields are touched
    config = replace(apply_fixed(config, fixed), seed=flags.seed)
    return Plan(config=config, space=space_of(config, only, fixed), clock=flags.clock, seed=flags.seed, **values)


def _with_underscores(assignment: str) -> str:
    name, equals, text = assignment.partition("=")
    return name.strip().replace("-", "_") + equals + text.strip()


def _storage(flags: argparse.Namespace) -> Storage:
    """Where the study is; only the folder of the results is made when it is missing."""
    parts = [flags.name, *([flags.preset] if flags.preset else []), *(["quick"] if flags.quick else [])]
    study = flags.study or "-".join(parts)
    if Path(study).name != study:
        raise ConfigError(f"study = {study!r}; accepted is a name without slashes")
    path = flags.storage
    if path is None:
        flags.out.mkdir(parents=True, exist_ok=True)
        path = flags.out / f"{study}.db"
    return Storage(path, study, *((1, 3) if flags.quick else (3, 10)))


if __name__ == "__main__":
    sys.exit(main())
