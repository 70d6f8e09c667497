"""What is watched while a model learns: profit parts, the progress bar, checkpoints, the budget, and where the
time goes.
"""

from __future__ import annotations

import contextlib
import errno
import io
import json
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Any

import numpy as np
import torch
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from stable_baselines3.common.callbacks import BaseCallback

from agents.vec import NativeVecEnv

LEARNING_CURVE = "learning.jsonl"
CHECKPOINTS = "checkpoints"
_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


@dataclass
class Clock:
    """Seconds of wall time of one training: in the market, in gradient steps, and in all."""

    simulation: float = 0.0
    learner: float = 0.0
    total: float = 0.0

    def shares(self) -> dict[str, float]:
        """Seconds and shares; the rest is choosing actions, storing transitions and logging."""
        total = max(self.total, 1e-9)
        rest = total - self.simulation - self.learner
        return {
            "seconds": self.total,
            "simulation_share": self.simulation / total,
            "learner_share": self.learner / total,
            "rest_share": rest / total,
        }


class StopSignal:
    """While it is entered, the first Ctrl-C or SIGTERM asks training to stop and the second one ends the
    process as ever.
    """

    def __init__(self, says: str = "stopping: evaluating and exporting what there is (once more to end at once)") -> None:
        self.received = False
        self._says = says
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> StopSignal:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._previous[number] = signal.signal(number, self._receive)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._restore()

    def _receive(self, number: int, frame: FrameType | None) -> None:
        self.received = True
        self._restore()
        print(self._says, file=sys.stderr, flush=True)

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous.clear()


def write_atomically(path: Path, content: bytes) -> None:
    """Replace a file in one step: a reader, or a crash, never meets half of it.

    Raises OSError, naming the file and what to do, when it cannot be written: what was there before stays as it was.
    """
    partial = path.with_name(f".{path.name}.partial")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with partial.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())  # some file systems first say here that they are full
        partial.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)
        raise _unwritten(path, content, error) from error


def append_line(path: Path, line: str) -> None:
    """Add a line to a file, whole or not at all. Raises OSError, naming the file and what to do, when it cannot be written."""
    content = (line + "\n").encode()
    with path.open("ab", buffering=0) as file:
        before = file.tell()
        try:
            written = file.write(content)
            if written < len(content):
                file.write(content[written:])  # says why there was no more
        except OSError as error:
            file.truncate(before)
            raise _unwritten(path, content, error) from error


def _unwritten(path: Path, content: bytes, error: OSError) -> OSError:
    advice = "make room, or choose another place by --out" if error.errno in _NO_ROOM else "is the folder writable?"
    return OSError(error.errno, f"cannot write {len(content):,} bytes ({error.strerror}); {advice}", str(path))


def save_checkpoint(model: Any, folder: Path) -> Path:
    """The model's weights, optimizer state and settings, named by its steps (stable-baselines3's own zip)."""
    content = io.BytesIO()
    model.save(content)
    path = folder / CHECKPOINTS / f"step_{model.num_timesteps:012d}.zip"
    write_atomically(path, content.getvalue())
    return path


def last_checkpoint(folder: Path) -> tuple[Path, int] | None:
    """The newest checkpoint of a run and its steps."""
    found = sorted((folder / CHECKPOINTS).glob("step_*.zip"))
    return (found[-1], int(found[-1].stem.removeprefix("step_"))) if found else None


class Monitor(BaseCallback):
    """Logs each update's profit parts, moves the bar, saves checkpoints and ends training on a signal or when
    its time is up.

    Every logged point is also a line of ``learning.jsonl``: steps, seconds, and the mean per environment step
    of each profit part in quote currency, over this rank's environments. Without a folder (any rank but the first) nothing is
    written.
    """

    def __init__(
        self,
        env: NativeVecEnv,
        folder: Path | None,
        *,
        steps: int,
        seconds: float | None,
        checkpoint_steps: int,
        stop: StopSignal,
        console: Console,
    ) -> None:
        super().__init__()
        self.clock = Clock()
        self.stopped_by = "steps"
        self._vec, self._folder, self._steps, self._seconds = env, folder, steps, seconds
        self._checkpoint_steps, self._stop, self._console = checkpoint_steps, stop, console
        self._names = tuple(env.env.info)
        self._sums = torch.zeros(len(self._names), dtype=torch.float64, device=env.device)
        self._info = torch.as_tensor(env.env.core.batch.info)
        self._rows = 0
        self._log_every = max(steps // 200, 1)
        self._print_every = max(steps // 5, 1)
        self._begun = self._learn_begun = self._learn_seconds = 0.0
        self._first_step = self._logged = self._saved = self._printed = 0
        self._learning = False
        self._bar: Progress | None = None
        self._task = TaskID(0)

    def _on_training_start(self) -> None:
        self._begun = self._learn_begun = time.perf_counter()
        self._first_step = self._logged = self._saved = self._printed = self.num_timesteps
        if self._console.is_terminal:
            columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), TimeRemainingColumn())
            self._bar = Progress(*columns, TextColumn("{task.fields[note]}"), console=self._console)
            self._task = self._bar.add_task("training", total=self._steps, completed=self.num_timesteps, note="")
            self._bar.start()

    def _on_rollout_start(self) -> None:
        """Everything since the last rollout's end was the learner's; the first rollout has none before it."""
        if self._learning:
            self._learn_seconds += time.perf_counter() - self._learn_begun
        self._learning = False

    def _on_rollout_end(self) -> None:
        if self.num_timesteps - self._logged >= self._log_every or self.num_timesteps >= self._steps:
            self._log()
        self._learn_begun = time.perf_counter()
        self._learning = True

    def _on_step(self) -> bool:
        self._sums += self._info.sum(0)
        self._rows += self._vec.num_envs
        if self.num_timesteps - self._saved >= self._checkpoint_steps:
            self._save()
            self._saved = self.num_timesteps
        if self._stop.received:
            self.stopped_by = "signal"
            return False
        if self._seconds is not None and time.perf_counter() - self._begun >= self._seconds:
            self.stopped_by = "minutes"
            return False
        return True

    def _log(self) -> None:
        means = dict(zip(self._names, (self._sums / max(self._rows, 1)).tolist(), strict=True))
        self._sums.zero_()
        self._rows = 0
        self._logged = self.num_timesteps
        seconds = time.perf_counter() - self._begun
        rate = (self.num_timesteps - self._first_step) / max(seconds, 1e-9)
        for name, mean in means.items():
            self.logger.record(f"profit/{name}", mean)
        if self.model.ep_info_buffer:
            self.logger.record("rollout/ep_rew_mean", float(np.mean([done["r"] for done in self.model.ep_info_buffer])))
        self.logger.record("time/steps_per_second", rate)
        self.logger.dump(self.num_timesteps)
        line = json.dumps({"steps": self.num_timesteps, "seconds": seconds, **means})
        if self._folder is not None:
            append_line(self._folder / LEARNING_CURVE, line)
        note = f"{rate / 1e3:.0f} k steps/s, net profit {means['net_profit']:+.3f} a step"
        if "oracle_profit" in means and means["oracle_profit"] > 0.0:
            note += f", {means['net_profit'] / means['oracle_profit']:.0%} of the oracle"
        if self._bar is not None:
            self._bar.update(self._task, completed=self.num_timesteps, note=note)
        elif self.num_timesteps - self._printed >= self._print_every:
            self._printed = self.num_timesteps
            self._console.print(f"{self.num_timesteps:,} of {self._steps:,} steps: {note}", soft_wrap=True)

    def _on_training_end(self) -> None:
        self.finish()

    def close_bar(self) -> None:
        """Leave the terminal as it was, also where training ended by an error."""
        if self._bar is not None:
            self._bar.update(self._task, completed=self.num_timesteps)
            self._bar.stop()
            self._bar = None

    def finish(self) -> None:
        """Close the bar, note the time spent and save the last checkpoint; harmless when done before."""
        self.close_bar()
        if self.clock.total == 0.0:
            self._on_rollout_start()
            self.clock = Clock(self._vec.simulation_seconds, self._learn_seconds, time.perf_counter() - self._begun)
            self._save()

    def _save(self) -> None:
        if self._folder is not None:
            save_checkpoint(self.model, self._folder)

    def summary(self) -> dict[str, Any]:
        """Steps of this training, steps a second, and the shares of its time."""
        steps = self.num_timesteps - self._first_step
        return {"steps": steps, "steps_per_second": steps / max(self.clock.total, 1e-9), **self.clock.shares()}
