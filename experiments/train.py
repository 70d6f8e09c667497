"""``python -m experiments.train NAME [flags]``: train, evaluate on held-out worlds, export, report.

    python -m experiments.train ppo_flash --quick
    python -m experiments.train ppo_flash --preset base --seed 1
    python -m experiments.train ppo_flash --feed replay --data PATH
    python -m experiments.train iql_flash [--agent.dataset PATH]      # from recorded episodes; see make offline
    python -m experiments.train --resume runs/ppo_flash/STAMP [--steps N]
    torchrun --nproc-per-node 2 -m experiments.train ppo_flash        # on several processes, GPUs or machines
    python -m experiments.train NAME --help     # every field of the configuration is a flag

Writes runs/NAME/STAMP with config.json, learning.jsonl, TensorBoard files, checkpoints/, policy/, result.json
and report.html. Ctrl-C ends training and evaluates, exports and reports what there is; torchrun leaves that
30 seconds, or its --shutdown-timeout. ``--resume`` goes on from a run's last checkpoint, with its
configuration, optimizer state and step count, in a folder of its own and on any number of processes: the older
run stays as it was.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console

from agents.distributed import RankLost, Ranks
from agents.export import differing_actions, export
from agents.offline import OfflineRecipe
from arbgym import policy as policies
from arbgym.engine import NativeVectorEnv
from arbgym.policy import Golden
from experiments import offline, online, supervised
from experiments.config import RUNS, ConfigError, Recipe, RunConfig, parse, to_json
from experiments.judge import judge, print_table
from experiments.learning import Learn, Learned
from experiments.monitor import CHECKPOINTS, LEARNING_CURVE, last_checkpoint, write_atomically
from experiments.provenance import git_revision, machine, versions
from experiments.report import write_report
from experiments.saved import CONFIG, RESULT, load_config, load_learning_curve
from experiments.supervised import SupervisedRecipe
from experiments.worlds import training_batch

PARITY_OBSERVATIONS = 10_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one training from the command line; returns the process's exit status."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if not arguments or arguments[0] in ("-h", "--help"):
            print(f"{__doc__}\nNAME is one of: {', '.join(RUNS)}")
            return 0 if arguments else 2
        config, source = _configuration(arguments)
        folder = train(config, source)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except (RankLost, OSError) as error:
        print(f"error: {error}\nwhat was saved stays: python -m experiments.train --resume RUN goes on from it", file=sys.stderr)
        return 1
    if folder is not None:
        print(f"\nresults in {folder}  (open {folder / 'report.html'})")
    return 0


def _configuration(arguments: list[str]) -> tuple[RunConfig[Any, Any], Path | None]:
    """The configuration to run, and the run whose checkpoint it goes on from, if any."""
    if not any(argument == "--resume" or argument.startswith("--resume=") for argument in arguments):
        return parse(arguments), None
    parser = argparse.ArgumentParser(prog="python -m experiments.train", allow_abbrev=False)
    parser.add_argument("name", nargs="?", help="may be given again; it has to be the run's own")
    parser.add_argument("--resume", type=Path, required=True, metavar="RUN", help="runs/NAME/STAMP to go on from")
    parser.add_argument("--steps", type=int, help="budget in all, the steps already taken included")
    parser.add_argument("--minutes", type=float, help="budget in wall minutes from now")
    parser.add_argument("--out", type=Path)
    flags = parser.parse_args(arguments)
    config = load_config(flags.resume)
    if flags.name not in (None, config.name):
        raise ConfigError(f"NAME = {flags.name!r}; accepted is {config.name}, the name of {flags.resume}")
    changes = {name: getattr(flags, name) for name in ("steps", "minutes", "out") if getattr(flags, name) is not None}
    return dataclasses.replace(config, **changes), flags.resume


def train(config: RunConfig[Any, Any], source: Path | None = None, console: Console | None = None) -> Path | None:
    """Run a configuration from start to report; returns the run's folder. ``source`` is a run to go on from.

    Under torchrun every rank calls this: all learn, the first one alone writes and judges, the others get None.

    Raises ValueError, before anything is written, when the configuration cannot be run.
    """
    console = console or Console()
    if source is not None and isinstance(config.agent, SupervisedRecipe):
        raise ConfigError(f"resume: {config.name} is fitted in one go and leaves no checkpoint; accepted is a new run of it")
    checkpoint = None if source is None else _checkpoint(source)
    if source is not None and isinstance(config.agent, OfflineRecipe):
        data = offline.dataset_of(config, source).resolve()
        config = dataclasses.replace(config, agent=dataclasses.replace(config.agent, dataset=data))
    ranks = Ranks.from_environment()
    if ranks.several and isinstance(config.agent, SupervisedRecipe):
        raise ConfigError(f"{config.name} on {ranks.world} ranks; accepted is one process: it is fitted in one go")
    learn = _preparation(config.agent)(config, checkpoint)
    if not ranks.first:
        learn(Path(os.devnull), Console(quiet=True))
        return None
    folder = _new_folder(config)
    if source is not None and checkpoint is not None:
        _carry_over(source, *checkpoint, folder)
    _write_config(folder, config, source, 0 if checkpoint is None else checkpoint[1])
    console.print(f"[bold]{config.name}[/bold] on {config.environment} ({config.preset}, {config.feed}) -> {folder}")
    _finish(learn(folder, console), config, folder, console)
    return folder


def _preparation(recipe: Recipe) -> Callable[[RunConfig[Any, Any], tuple[Path, int] | None], Learn]:
    """Who prepares a recipe's training: by acting, from recorded episodes, or from labels."""
    if isinstance(recipe, OfflineRecipe):
        return offline.prepare
    return supervised.prepare if isinstance(recipe, SupervisedRecipe) else online.prepare


def _finish(learned: Learned, config: RunConfig[Any, Any], folder: Path, console: Console) -> None:
    """Export, evaluate what was exported, and write the report."""
    start = time.perf_counter()
    console.print("exporting the policy and comparing its actions with the model's ...")
    observations = _observations(config, learned.model)
    content, golden = export(learned.model, observations)

    def save(name: str, content: bytes, golden: Golden, held_out: dict[str, Any]) -> None:
        policies.save(
            folder / name,
            content,
            definition=config.definition,
            config=config.world,
            preset=config.preset,
            encoding=config.action,
            feed=config.feed,
            golden=golden,
            masked=getattr(config.agent, "masks", False),
            lifetime_days=config.lifetime_days,
            provenance={
                "run": config.name,
                "git": git_revision(),
                "seed": config.seed,
                "steps": learned.steps,
                "versions": versions(),
                "held_out": held_out,
            },
        )

    save("policy", content, golden, {})
    for name, model in learned.beside.items():
        save(name, *export(model, observations), {})
    exported = time.perf_counter()
    console.print("evaluating on held-out worlds beside the baselines and the oracle ...")
    policy = policies.load(folder / "policy")
    evaluation = judge(config, policy, config.evaluation, offline.companions(config, folder))
    evaluated = time.perf_counter()
    result = {
        "run": {"name": config.name, "environment": config.environment, "preset": config.preset, "seed": config.seed},
        "training": {"steps": learned.steps, "unit": learned.unit, "stopped_by": learned.stopped_by},
        "export": {
            "observations": len(observations),
            "differing_actions": differing_actions(learned.model, lambda rows: policy.evaluate(rows)[1], observations),
        },
        **evaluation,
    }
    save("policy", content, golden, {name: result["policies"][config.name][name] for name in ("net_profit", "oracle_share")})
    speed = {**learned.speed, "export_seconds": exported - start, "evaluation_seconds": evaluated - exported}
    write_atomically(folder / RESULT, (json.dumps({**result, "speed": speed}, indent=1) + "\n").encode())
    print_table(result, config.name, console)
    write_report(folder)


def _observations(config: RunConfig[Any, Any], model: Any) -> NDArray[np.float32]:
    """Observations (10,000, D) that the model meets in training worlds, half of its actions random."""
    batch: NativeVectorEnv = training_batch(config, 250)
    batch.reset(seed=config.training_seed)
    batch.action_space.seed(config.seed)
    rows = []
    for step in range(PARITY_OBSERVATIONS // batch.num_envs):
        rows.append(batch.observations.copy())
        random = step % 2 == 1
        batch.step_in_place(batch.action_space.sample() if random else model.predict(rows[-1], deterministic=True)[0])
    return np.concatenate(rows)


def _checkpoint(source: Path) -> tuple[Path, int]:
    found = last_checkpoint(source)
    if found is None:
        raise ConfigError(f"{source}: holds no {CHECKPOINTS}/step_*.zip to go on from")
    return found


def _new_folder(config: RunConfig[Any, Any]) -> Path:
    """runs/NAME/STAMP, made now; a stamp that is taken gets a suffix, so nothing is ever written over."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1_000):
        folder = config.out / config.name / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ConfigError(f"out = {str(config.out)!r}: a thousand runs carry the stamp {stamp}")


def _carry_over(source: Path, checkpoint: Path, steps: int, folder: Path) -> None:
    """What the new folder needs of the run it goes on from: the checkpoint and the learning curve up to it."""
    target = folder / CHECKPOINTS / checkpoint.name
    target.parent.mkdir()
    shutil.copyfile(checkpoint, target)
    points = [json.dumps(point) + "\n" for point in load_learning_curve(source) if point["steps"] <= steps]
    write_atomically(folder / LEARNING_CURVE, "".join(points).encode())


def _write_config(folder: Path, config: RunConfig[Any, Any], source: Path | None, resumed: int) -> None:
    content = {
        "run": to_json(config),
        "resumed": None if source is None else {"from": str(source), "steps": resumed},
        "git": git_revision(),
        "seeds": {"training": config.training_seed, "held_out": config.evaluation.seed},
        "versions": versions(),
        "machine": machine(),
        "ranks": Ranks.from_environment().world,
    }
    write_atomically(folder / CONFIG, (json.dumps(content, indent=1) + "\n").encode())


if __name__ == "__main__":
    sys.exit(main())
