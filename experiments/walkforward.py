"""``python -m experiments.walkforward``: fit on a span, judge on the next, move on. Which policy earns more, and is that sure?

    python -m experiments.walkforward --data tokens.parquet --signal every_launch:after_s=30
    python -m experiments.walkforward --data tokens.parquet --policies gbm_sell ppo_sell --folds 5 --expanding
    python -m experiments.walkforward --simulated 4096 --policies gbm_sell --folds 4 --quick

With a tape (see ``python -m arbgym.data tokens``) a fold's test span comes after its training span, with an embargo of one
horizon between the two, and its training tape ends where the test span begins: see ``experiments.folds``. Simulated launches have
no common clock: there a fold is a band of seeds of its own, apart from every training and tuning seed.

Everything is fitted anew for each fold: the learners, and the baselines that search their numbers. A fit or a fold that fails is
reported with its reason, and the others go on. Ctrl-C ends a training with what it has, judges that, and says what was not run.

Writes OUT/STAMP with result.json, trades.csv (every trade of every policy), report.html and, below fold_*/, what training wrote.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import io
import json
import math
import shlex
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from arbgym.data.signals import load_signal
from arbgym.evaluation import Totals
from arbgym.market.token_tape import TokenTape
from experiments.config import ConfigError, definition_of
from experiments.fold_policies import ENVIRONMENT, Fit, Fitted, FoldWorld, Numbers, Scores, learners, rules
from experiments.folds import TRAIN_GROUPS
from experiments.monitor import write_atomically
from experiments.provenance import git_revision, versions
from experiments.trade_comparison import ORACLE, compare
from experiments.trade_metrics import EXITS, Trades, join
from experiments.trade_play import play, trades_of
from experiments.trade_report import page, print_report
from experiments.walk_spans import MOST_SIMULATED, Span, embargo_of, simulated_spans, tape_spans

POLICIES = ("gbm_sell", "ppo_sell", "dqn_sell")
RESULT, REPORT, TRADES = "result.json", "report.html", "trades.csv"


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to judge, and on what. Raises ConfigError naming the field."""

    data: Path | None = None
    simulated: int | None = None
    """launches to judge on, over all folds"""
    signal: str = "every_launch"
    policies: tuple[str, ...] = POLICIES
    folds: int = 4
    train_groups: int = TRAIN_GROUPS
    """length of a rolling training span, in test spans"""
    expanding: bool = False
    preset: str = "new"
    venue: str | None = None
    """whose fees and costs a sale pays, instead of the preset's"""
    horizon_hours: float | None = None
    """how long a position may be held whatever its liquidity, instead of the buckets' own"""
    quick: bool = False
    """the learners' tiny budgets"""
    steps: int | None = None
    """budget of each training, instead of the learner's own"""
    minutes: float | None = None
    """budget of each training, if reached before the steps"""
    out: Path = Path("runs/walkforward")

    def __post_init__(self) -> None:
        if (self.data is None) == (self.simulated is None):
            raise ConfigError(f"data = {self.data}, simulated = {self.simulated}; accepted is one of the two")
        if self.simulated is not None and not 2 * self.folds <= self.simulated <= MOST_SIMULATED:
            raise ConfigError(f"simulated = {self.simulated}; accepted is {2 * self.folds} (two per fold) to {MOST_SIMULATED}")
        for name, low, high in (("folds", 1, 100), ("train_groups", 1, 100)):
            if not low <= getattr(self, name) <= high:
                raise ConfigError(f"{name} = {getattr(self, name)}; accepted is {low} to {high}")
        for name in ("steps", "minutes"):
            if getattr(self, name) is not None and not getattr(self, name) > 0:
                raise ConfigError(f"{name} = {getattr(self, name)}; accepted is above 0")
        presets = definition_of(ENVIRONMENT).presets
        if self.preset not in presets:
            raise ConfigError(f"preset = {self.preset!r}; accepted are {', '.join(presets)}")
        if self.horizon_hours is not None and not 0.0 < self.horizon_hours <= 24.0 * 365.0:
            raise ConfigError(f"horizon_hours = {self.horizon_hours}; accepted is above 0 up to a year")
        process = definition_of(ENVIRONMENT).configure(**self.numbers).process
        if self.data is not None and process != "pool":
            raise ConfigError(
                f"preset = {self.preset!r} has textbook prices ({process}); accepted with a tape is one with a pool"
            )

    @property
    def numbers(self) -> Numbers:
        """What the worlds of all folds are made of."""
        found: dict[str, Any] = {"preset": self.preset}
        if self.venue is not None:
            found["venue"] = self.venue
        if self.horizon_hours is not None:
            buckets = definition_of(ENVIRONMENT).configure(self.preset).buckets
            found["buckets"] = tuple(dataclasses.replace(one, horizon_s=3_600.0 * self.horizon_hours) for one in buckets)
        return found


@dataclass
class Walk:
    """Fits and judges policies fold by fold; ``fits`` include the oracle. Nothing that a fit or a policy raises ends it."""

    fits: Mapping[str, Fit]
    console: Console
    folds: list[dict[str, Any]] = field(default_factory=list)
    """as ``result.json`` has them"""
    trades: dict[str, list[Trades]] = field(default_factory=dict)
    scores: dict[str, list[Scores]] = field(default_factory=dict)
    stopped: bool = False

    def fold(self, span: Span) -> None:
        """One fold: everything fitted on its training span, and judged on its test span."""
        fitted: dict[str, Any] = {}
        self.console.rule(f"fold {span.number}: {span.test}, {span.test_entries:,} entries to judge")
        if span.world is not None:
            oracle: list[Totals] = []
            for name in (ORACLE, *(name for name in self.fits if name != ORACLE)):
                fitted[name] = self._attempt(name, span, span.world, oracle)
        else:
            self.console.print(f"failed: {span.reason}", soft_wrap=True, markup=False)
        told = {name: getattr(span, name) for name in ("reason", "train", "test", "train_entries", "test_entries")}
        status = "ok" if span.reason is None else "failed"
        self.folds.append({"fold": span.number, "status": status, **told, "policies": fitted})

    def _attempt(self, name: str, span: Span, world: FoldWorld, oracle: list[Totals]) -> dict[str, Any]:
        begun, reason, details = time.perf_counter(), None, {}
        try:
            if self.stopped:
                raise KeyboardInterrupt
            policy = self.fits[name](world, self.console)
            self.stopped, details = policy.interrupted, policy.details
            self._judge(name, policy, span, world, oracle)
        except KeyboardInterrupt:
            self.stopped, reason = True, "not run: the walk was stopped by a signal"
        except Exception as error:  # noqa: BLE001 - whatever it is, the report says so and the others go on
            reason = f"{type(error).__name__}: {error}"
        seconds = time.perf_counter() - begun
        self.console.print(f"{name}: {reason or 'fitted and judged'} ({seconds:.1f} s)", soft_wrap=True, markup=False)
        return {"status": "ok" if reason is None else "failed", "reason": reason, "seconds": seconds, "details": _finite(details)}

    def _judge(self, name: str, policy: Fitted, span: Span, world: FoldWorld, oracle: list[Totals]) -> None:
        totals, exits = play(world.test, policy.decide)
        if name == ORACLE:
            oracle.append(totals)
        if not oracle:
            raise RuntimeError("the oracle failed, and with it everybody's share of it")
        entries = (span.entry, span.time_s, span.token, span.number)
        trades = trades_of(totals, exits, oracle[0], *entries)
        if policy.scores is not None:
            self.scores.setdefault(name, []).append(policy.scores(world.test))
        self.trades.setdefault(name, []).append(trades)


def run(
    settings: Settings,
    console: Console | None = None,
    extra: Mapping[str, Fit] | None = None,
    baselines: Mapping[str, Fit] | None = None,
) -> Path:
    """The whole walk; returns the folder of its results.

    ``extra`` are further policies to judge, by name; ``baselines`` stand in for the environment's, the oracle among them.

    Raises ValueError, before anything is written, for settings or data that are refused.
    """
    console = console or Console()
    judged = {
        **learners(list(settings.policies), quick=settings.quick, steps=settings.steps, minutes=settings.minutes),
        **(extra or {}),
    }
    baselines = baselines or rules()
    tape = None if settings.data is None else _entered(settings)
    folder = _new_folder(settings.out)
    spans = _spans(settings, tape, folder)
    walk = Walk({**judged, **baselines}, console)
    for span in spans:
        walk.fold(span)
    trades = {name: join(walk.trades.get(name, [])) for name in walk.fits}
    names = {k: bucket.name for k, bucket in enumerate(definition_of(ENVIRONMENT).configure(**settings.numbers).buckets)}
    result = compare(trades, list(judged), list(baselines), names)
    result["verdict"] += _missing(spans)
    calibrations = {name: _calibration(found) for name, found in walk.scores.items()}
    result |= {"calibration": calibrations, "folds": walk.folds, "run": _described(settings, tape, spans)}
    write_atomically(folder / RESULT, (json.dumps(result, indent=1, allow_nan=False) + "\n").encode())
    write_atomically(folder / TRADES, _csv(trades).encode())
    write_atomically(folder / REPORT, page(result).encode())
    print_report(result, console)
    return folder


def _entered(settings: Settings) -> TokenTape:
    """The tape with the signal's entries."""
    assert settings.data is not None
    tape = TokenTape.load(settings.data)
    entries = np.asarray(load_signal(settings.signal)(tape))
    if not entries.size:
        raise ConfigError(f"signal = {settings.signal!r}: no entry in {settings.data}; accepted is a signal that buys something")
    return tape.with_entries(entries)


def _spans(settings: Settings, tape: TokenTape | None, folder: Path) -> list[Span]:
    if tape is not None:
        groups, expanding = settings.train_groups, settings.expanding
        return tape_spans(tape, settings.folds, settings.numbers, folder, train_groups=groups, expanding=expanding)
    assert settings.simulated is not None
    return simulated_spans(settings.simulated, settings.folds, settings.numbers, folder)


def _missing(spans: Sequence[Span]) -> list[str]:
    """What the reader has to know of folds that were not judged."""
    failed = [span for span in spans if span.reason is not None]
    if not failed:
        return []
    entries = sum(span.test_entries for span in failed)
    total = sum(span.test_entries for span in spans)
    return [f"{len(failed)} of {len(spans)} folds failed, and {entries:,} of {total:,} test entries with them: see the folds."]


def _calibration(found: Sequence[Scores]) -> dict[str, Any]:
    """Calibration of every foretold event over all folds together."""
    from arbgym.models.calibration import calibration

    told = {}
    for event in found[0]:
        probabilities, outcomes = (np.concatenate([scores[event][k] for scores in found]) for k in range(2))
        if len(outcomes):
            told[event] = calibration(probabilities, outcomes)
    return told


def _described(settings: Settings, tape: TokenTape | None, spans: Sequence[Span]) -> dict[str, Any]:
    git = git_revision()
    judged = sum(span.test_entries for span in spans)
    layout = "expanding" if settings.expanding else "rolling"
    if tape is None:
        what = f"{settings.simulated:,} simulated launches in {settings.folds} bands of seeds"
    else:
        what = (
            f"{len(tape.entries):,} entries in {len(tape):,} recorded tokens ({settings.data}; signal {settings.signal}), "
            f"{judged:,} of them in {settings.folds} test spans; {layout} training spans, "
            f"embargo {embargo_of(tape, settings.numbers) / 3_600.0:g} h"
        )
    return {
        "title": f"Walk-forward: {ENVIRONMENT}, preset {settings.preset}",
        "facts": f"{what}. {'Quick budgets: a trial of the chain, no result. ' if settings.quick else ''}All costs included.",
        "command": _command(settings),
        "code": f"Code {git['commit'] or 'outside a checkout'}{' with changes' if git['dirty'] else ''}. "
        + ", ".join(f"{library} {version}" for library, version in versions().items()),
        "settings": json.loads(json.dumps(dataclasses.asdict(settings), default=str)),
        "tape": None
        if tape is None
        else {"sha256": tape.sha256, "tokens": len(tape), "source": tape.source, "quote": tape.quote},
    }


def _command(settings: Settings) -> str:
    words = ["python", "-m", "experiments.walkforward"]
    for entry in dataclasses.fields(settings):
        value = getattr(settings, entry.name)
        if value == entry.default:
            continue
        words.append(f"--{entry.name.replace('_', '-')}")
        if not isinstance(value, bool):
            words += [str(part) for part in (value if isinstance(value, tuple) else (value,))]
    return shlex.join(words)


def _csv(trades: Mapping[str, Trades]) -> str:
    """Every trade of every policy, a line each."""
    names = [entry.name for entry in dataclasses.fields(Trades) if entry.name != "exits"]
    content = io.StringIO()
    writer = csv.writer(content, lineterminator="\n")
    writer.writerow(["policy", *names, *(f"exit_{reason}" for reason in EXITS)])
    for name, own in trades.items():
        columns = [getattr(own, column).tolist() for column in names]
        writer.writerows([name, *row, *exits] for *row, exits in zip(*columns, own.exits.tolist(), strict=True) for row in [row])
    return content.getvalue()


def _finite(value: Any) -> Any:
    """JSON has no infinity."""
    if isinstance(value, Mapping):
        return {name: _finite(part) for name, part in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _new_folder(out: Path) -> Path:
    """OUT/STAMP, made now; nothing is ever written over."""
    stamp = datetime.now().strftime("%Y%m%d-%H%M%S")
    for attempt in range(1_000):
        folder = out / (stamp if attempt == 0 else f"{stamp}-{attempt}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            continue
        return folder
    raise ConfigError(f"out = {str(out)!r}: a thousand runs carry the stamp {stamp}")


def main(arguments: Sequence[str] | None = None) -> int:
    """Walk from the command line; returns the process's exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments.walkforward", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--data", type=Path, metavar="TAPE.parquet", help="a token tape")
    where.add_argument("--simulated", type=int, metavar="N", help="simulated launches to judge on, over all folds")
    parser.add_argument(
        "--signal",
        help="what to buy on a tape: every_launch, volume_burst or momentum, as name:argument=number,...; pkg.mod:func",
    )
    parser.add_argument(
        "--policies", nargs="*", metavar="NAME", help=f"runs of experiments.train to fit and judge; {' '.join(POLICIES)}"
    )
    parser.add_argument("--folds", type=int, help="test spans (4)")
    parser.add_argument("--train-groups", type=int, help="length of a rolling training span, in test spans (2)")
    parser.add_argument("--expanding", action="store_true", help="train on everything before instead")
    parser.add_argument("--preset", help="of the environment (new)")
    parser.add_argument("--venue", help="whose fees and costs a sale pays: a name of arbgym.market.venues (the preset's)")
    parser.add_argument("--horizon-hours", type=float, help="how long a position may be held (by its liquidity, 2 to 24)")
    parser.add_argument("--quick", action="store_true", help="tiny budgets for the learners: a trial of the chain")
    parser.add_argument("--steps", type=int, help="budget of each training in its own steps")
    parser.add_argument("--minutes", type=float, help="budget of each training in minutes")
    parser.add_argument("--out", type=Path, help="folder of the results (runs/walkforward)")
    given = {name: value for name, value in vars(parser.parse_args(arguments)).items() if value is not None}
    if "policies" in given:
        given["policies"] = tuple(given["policies"])
    try:
        folder = run(Settings(**given))
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(f"\nresults in {folder}  (open {folder / REPORT})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
