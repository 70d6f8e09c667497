"""Offline learning on two ranks, started by torchrun: one training, whoever watches it and however it ends."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console

pytest.importorskip("d3rlpy", reason="offline learning has an environment of its own: make offline, make test-offline")

from agents.distributed import Ranks
from agents.offline import Buffer, IQLRecipe, OfflineModel, Transitions, from_bytes, to_bytes
from experiments.config import parse
from experiments.monitor import CHECKPOINTS, LEARNING_CURVE, last_checkpoint
from experiments.offline import DATASET, prepare
from tests.offline.conftest import TINY
from tests.offline.learners import CASES, EPISODES, STEPS, recipe_of, toy

REPOSITORY = Path(__file__).resolve().parents[2]
TWO = (Ranks(0, 2, 0, 2), Ranks(1, 2, 1, 2))
PATIENCE = 120.0  # seconds until a phase that does not come is given up


def torchrun(phases: str, out: Path, dataset: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    return subprocess.Popen(
        [*command, "-m", "tests.offline.ranks", phases, str(out), str(dataset)],
        cwd=REPOSITORY,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )


def end(process: subprocess.Popen[str]) -> None:
    """Have torchrun end its ranks, if it still runs."""
    if process.poll() is None:
        process.terminate()


# ----------------------------------------------------------------------------------------------------- the learners alone
class Both:
    """What two ranks draw, in one batch."""

    def __init__(self, buffers: list[Buffer]) -> None:
        self._buffers = buffers
        self.dataset_info = buffers[0].dataset_info

    def sample_transition_batch(self, batch_size: int) -> Any:
        parts = [buffer.sample_transition_batch(batch_size // len(self._buffers)) for buffer in self._buffers]
        names = [entry.name for entry in dataclasses.fields(parts[0]) if entry.name != "transitions"]
        together = {name: np.concatenate([getattr(part, name) for part in parts]) for name in names}
        return dataclasses.replace(parts[0], **together)


def learner(algorithm: str, encoding: str) -> tuple[OfflineModel, Transitions, Any]:
    data, box, space = toy(encoding, episodes=EPISODES)
    recipe = recipe_of(algorithm)
    configuration = recipe.configure_cloning(encoding) if algorithm == "cloning" else recipe.configure(encoding)
    return OfflineModel(configuration, box, space, 1), data, space


def tensors(state: Any, prefix: str = "") -> Iterator[tuple[str, torch.Tensor]]:
    """Every number of a state by its name."""
    if isinstance(state, dict):
        for key, value in state.items():
            yield from tensors(value, f"{prefix}/{key}")
    elif isinstance(state, (list, tuple)):
        for k, value in enumerate(state):
            yield from tensors(value, f"{prefix}/{k}")
    elif isinstance(state, (int, float, torch.Tensor)):
        yield prefix, torch.as_tensor(state)


@pytest.fixture(scope="module")
def went_on(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], ...]:
    """States of each learner: of one process, and of two ranks that went on from there."""
    out = tmp_path_factory.mktemp("learners")
    before = {}
    for algorithm, encoding in CASES:
        model, data, space = learner(algorithm, encoding)
        model.fit(Buffer(data, space, 1), 5, 1e-2)
        before[f"{algorithm}-{encoding}"] = model.state()
    (out / "before.zip").write_bytes(to_bytes(before))
    process = torchrun("learners", out, Path("none"))
    output, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, output
    states = (from_bytes((out / name).read_bytes()) for name in ("before.zip", "rank0.zip", "rank1.zip"))
    return tuple(states)


@pytest.mark.parametrize(("algorithm", "encoding"), CASES, ids="-".join)
def test_ranks_are_equal_to_the_bit_and_leave_no_trace_in_a_state(
    algorithm: str, encoding: str, went_on: tuple[dict[str, Any], ...]
) -> None:
    before, first, second = (dict(tensors(states[f"{algorithm}-{encoding}"])) for states in went_on)
    assert set(first) == set(before) and first["/steps"] == 5 + STEPS
    assert set(second) == set(first) and all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], before[name]) for name in first if "optim" not in name)


@pytest.mark.parametrize(("algorithm", "encoding"), CASES, ids="-".join)
def test_two_ranks_take_the_step_of_one_process_on_both_their_batches(
    algorithm: str, encoding: str, went_on: tuple[dict[str, Any], ...]
) -> None:
    """Conservative Q-learning on continuous actions draws noise of its own: there, one process only goes on from their state."""
    before, first, _ = (states[f"{algorithm}-{encoding}"] for states in went_on)
    model, data, space = learner(algorithm, encoding)
    model.restore(before)
    both: Any = Both([Buffer(data.share(ranks, 5), space, (2, ranks.rank)) for ranks in TWO])
    model.fit(both, STEPS, 1e-2)
    resumed, _, _ = learner(algorithm, encoding)
    resumed.restore(first)
    assert resumed.steps == model.steps
    if (algorithm, encoding) != ("cql", "continuous"):
        alone, together = dict(tensors(model.state()["parts"])), dict(tensors(first["parts"]))
        for name in alone:
            torch.testing.assert_close(
                together[name], alone[name], rtol=1e-3, atol=1e-4, msg=lambda said, name=name: f"{name}: {said}"
            )
    assert resumed.fit(Buffer(data, space, 3), 5, 1e-2) and resumed.steps == 10 + STEPS


# ------------------------------------------------------------------------------------------------------------- the shares
def ragged(lengths: list[int]) -> Transitions:
    """Episodes whose observations, actions and rewards are all different numbers."""
    count, number = sum(lengths), np.repeat(np.arange(len(lengths)), lengths)
    observations = np.arange(count + len(lengths), dtype=np.float32)[:, None]
    terminals = np.zeros(count, dtype=np.bool_)
    terminals[np.cumsum(lengths)[::2] - 1] = True
    steps = np.arange(count)
    return Transitions(observations, steps[:, None], steps.astype(np.float32) ** 2, terminals, steps + number)


def rows_of(data: Transitions) -> set[tuple[float, ...]]:
    """Each step: observation, next observation, action, reward, terminal."""
    seen, behind = data.observations[data.rows, 0], data.observations[data.rows + 1, 0]
    columns = (seen, behind, data.actions[:, 0], data.rewards, data.terminals)
    return {tuple(float(value) for value in row) for row in zip(*columns, strict=True)}


@pytest.mark.parametrize("world", [2, 3, 5])
def test_shares_are_disjoint_complete_and_even(world: int) -> None:
    lengths = [3, 1, 5, 2, 2, 7, 4, 1, 6]
    data = ragged(lengths)
    shares = [data.share(Ranks(rank, world), 0) for rank in range(world)]
    parts = [rows_of(share) for share in shares]
    assert set.union(*parts) == rows_of(data) and sum(len(part) for part in parts) == len(data)
    sizes = [len(share) for share in shares]
    assert max(sizes) - min(sizes) <= max(lengths)
    assert {share.deviation for share in shares} == {float(data.rewards.std())}
    ends = [share.last_steps() for share in shares]
    assert sum(len(last) for last in ends) == len(lengths)
    assert sorted(length for last in ends for length in np.diff(last, prepend=-1)) == sorted(lengths)


def test_shares_are_drawn_by_the_seed() -> None:
    data = ragged([2] * 20)
    first, again, other = (rows_of(data.share(TWO[0], seed)) for seed in (0, 0, 1))
    assert first == again and first != other


def test_what_cannot_be_shared_out_is_refused(data: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="episodes = 2 on 3 ranks; accepted is at least one for each rank"):
        ragged([3, 4]).share(Ranks(0, 3), 0)
    with pytest.raises(ValueError, match="episodes = 2 on 3 ranks; accepted is at least one for each rank"):
        IQLRecipe(episodes=2, batch=3).shared(Ranks(0, 3))
    for name, value in (("RANK", "0"), ("WORLD_SIZE", "2"), ("LOCAL_RANK", "0"), ("LOCAL_WORLD_SIZE", "2")):
        monkeypatch.setenv(name, value)
    with pytest.raises(ValueError, match="batch = 63 on 2 ranks; accepted is a multiple of 2"):
        prepare(parse(["iql_flash", *TINY, "--agent.batch", "63"]), None)


# -------------------------------------------------------------------------------------------------------------- whole runs
@pytest.fixture(scope="module")
def runs(data: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """The folder of what ``ranks.py`` did, and what became of each phase, by rank."""
    out = tmp_path_factory.mktemp("ranks")
    process = torchrun("refuse,learn,stop,lose", out, data["continuous"])
    try:
        for phase, number in (("stop", signal.SIGTERM), ("lose", signal.SIGKILL)):
            deadline = time.monotonic() + PATIENCE
            while not list((out / phase / CHECKPOINTS).glob("step_*.zip")):
                if process.poll() is not None or time.monotonic() > deadline:
                    end(process)
                    raise AssertionError(f"{phase}: {process.communicate()[0]}")
                time.sleep(0.05)
            os.kill(int((out / "rank1.pid").read_text()), number)
        output, _ = process.communicate(timeout=PATIENCE)
    finally:
        end(process)
    found = [json.loads((out / f"rank{rank}.json").read_text()) for rank in (0, 1)]
    assert "lose" in found[0] and "stop" in found[1], output
    return out, found


def test_what_one_rank_refuses_all_refuse(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    out, (first, second) = runs
    assert first["refuse"].startswith("ConfigError: another rank refuses")
    assert "dataset = 'nowhere'" in second["refuse"] and not (out / "refuse").exists()


def test_a_training_is_counted_logged_and_saved_once(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    out, (first, second) = runs
    for found in (first, second):
        assert {name: found["learn"][name] for name in ("steps", "unit", "stopped_by")} == {
            "steps": 60,
            "unit": "gradient steps",
            "stopped_by": "steps",
        }
    folder = out / "learn"
    assert sorted(path.name for path in (folder / CHECKPOINTS).iterdir()) == [f"step_{steps:012d}.zip" for steps in (25, 50, 60)]
    steps = [json.loads(line)["steps"] for line in (folder / LEARNING_CURVE).read_text().splitlines()]
    assert steps == sorted(set(steps)) and steps[-1] == 60
    assert len(list(folder.glob("*tfevents*"))) == 1 and (folder / DATASET / "data" / "main_data.hdf5").is_file()
    assert not list(out.glob("*-of-another-rank"))


def test_a_signal_to_any_rank_stops_all(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    out, (first, second) = runs
    assert first["stop"]["stopped_by"] == second["stop"]["stopped_by"] == "signal"
    assert first["stop"]["steps"] == second["stop"]["steps"] == last_checkpoint(out / "stop")[1]  # type: ignore[index]


def test_a_lost_rank_ends_the_others_and_leaves_the_last_checkpoint(runs: tuple[Path, list[dict[str, Any]]]) -> None:
    out, (first, second) = runs
    assert first["lose"].startswith("RankLost: another rank has ended or cannot be reached") and "lose" not in second
    found = last_checkpoint(out / "lose")
    assert found is not None and found[1] > first["stop"]["steps"] and not list((out / "lose").rglob("*.partial"))
    assert {state["steps"] for state in from_bytes(found[0].read_bytes()).values()} == {found[1]}


def test_one_process_goes_on_from_a_checkpoint_of_two(
    runs: tuple[Path, list[dict[str, Any]]], data: dict[str, Path], tmp_path: Path
) -> None:
    config = parse(["iql_flash", *TINY, "--steps", "70", "--agent.dataset", str(data["continuous"])])
    learned = prepare(config, last_checkpoint(runs[0] / "learn"))(tmp_path, Console(quiet=True))
    assert (learned.steps, learned.stopped_by, learned.speed["steps"]) == (70, "steps", 10)
