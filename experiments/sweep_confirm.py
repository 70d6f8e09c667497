"""``python -m experiments.sweep_confirm STUDY [--seeds 1 2 3]``: a sweep's best trial beside the default, on other seeds.

The best of many trials on one training seed is partly luck. STUDY is a study.json; the same folder gets confirm.json, or with
``--into FILE`` that file an entry of the run's name. A recipe is worth changing where the best trial's mean value stays ahead.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.config import ConfigError, RunConfig, default_config
from experiments.monitor import write_atomically
from experiments.saved import load_json
from experiments.sweep_space import with_parameters
from experiments.sweep_trial import Plan, Point, play, reference


def main(arguments: Sequence[str] | None = None) -> int:
    """Run from the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.sweep_confirm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("study", type=Path, metavar="STUDY", help="study.json of a sweep")
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3], help="training seeds (default 1 2 3)")
    parser.add_argument("--seconds", type=float, help="training time of each (default: the study's)")
    parser.add_argument("--into", type=Path, metavar="FILE", help="collect the results of several runs in one file")
    chosen = parser.parse_args(arguments)
    try:
        name, found = confirm(load_json(chosen.study), chosen.seeds, chosen.seconds, Console())
        if chosen.into is None:
            target, content = chosen.study.with_name("confirm.json"), found
        else:
            target = chosen.into
            content = {**(load_json(target) if target.is_file() else {}), name: found}
    except (ValueError, KeyError, TypeError) as error:
        print(f"error: {chosen.study}: {error}", file=sys.stderr)
        return 2
    write_atomically(target, (json.dumps(content, indent=1) + "\n").encode())
    print(f"results in {target}")
    return 0


def confirm(study: Any, seeds: Sequence[int], seconds: float | None, console: Console) -> tuple[str, dict[str, Any]]:
    """The run's name, and for the default and the study's best trial each seed's value and final share.

    Raises ConfigError for a study without a completed trial, or of a recipe that changed since.
    """
    plan_of = study["plan"]
    complete = [trial for trial in study["trials"] if trial["state"] == "COMPLETE"]
    if not complete:
        raise ConfigError("holds no completed trial; accepted is a finished sweep")
    best = max(complete, key=lambda trial: float(trial["value"]))["parameters"]
    default = next((trial["parameters"] for trial in study["trials"] if trial["default"]), None)
    if default is None:
        raise ConfigError("its default is no trial of it; accepted is a study whose first trial ended")
    config = default_config(plan_of["name"], plan_of["preset"])
    plan = Plan(config, {}, seconds or float(plan_of["seconds"]), int(plan_of["checkpoints"]), int(plan_of["episodes"]),
                plan_of["clock"], 0)  # fmt: skip
    oracle, rule = reference(plan)
    plan = replace(plan, oracle_profit=oracle, tuned_rule_share=rule)
    found: dict[str, Any] = {"seeds": list(seeds), "seconds": plan.seconds, "clock": plan.clock}
    for label, parameters in (("default", default), ("best", best)):
        outcomes = [_outcome(plan, replace(with_parameters(config, parameters), seed=seed)) for seed in seeds]
        found[label] = {
            "parameters": parameters,
            "values": [value for value, _ in outcomes],
            "final": [end for _, end in outcomes],
        }
        console.print(f"{config.name} {label}: values {', '.join(f'{value:.3f}' for value, _ in outcomes)}")
    return config.name, found


def _outcome(plan: Plan, config: RunConfig[Any, Any]) -> tuple[float, float]:
    seen: list[Point] = []

    def remember(number: int, value: float, on_the_way: Sequence[Point]) -> None:
        seen[:] = on_the_way

    value = play(replace(plan, config=config), {}, remember)
    return value, seen[-1].share


if __name__ == "__main__":
    sys.exit(main())
