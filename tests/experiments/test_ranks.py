"""Training on two ranks, as torchrun starts them: one run, judged and saved once, whoever stops it and however it ends."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numba
import pytest
import torch
from rich.console import Console
from stable_baselines3 import PPO

from agents.distributed import Ranks
from agents.recipe import use_threads
from agents.vec import NativeVecEnv
from experiments.config import parse, to_json
from experiments.monitor import append_line, last_checkpoint, write_atomically
from experiments.online import prepare, simulator_of
from experiments.saved import load_config, load_learning_curve
from experiments.train import main
from tests.experiments.conftest import TINY, only_run

REPOSITORY = Path(__file__).resolve().parents[2]
PATIENCE = 240.0  # seconds until what does not come is given up
VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
ENDLESS = ("--steps", "100000000")
OF_DQN = (
    "--agent.environments 32 --agent.buffer 4096 --agent.batch 64 --agent.hidden 16 --agent.learning-starts 512 "
    "--world.episode-blocks 25 --steps 2048 --checkpoint-steps 1024 --evaluation.episodes 8 --evaluation.tuning-episodes 8"
).split()

Start = Callable[..., subprocess.Popen[str]]


def result(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "result.json").read_text())


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.fixture(scope="module")
def start() -> Iterator[Start]:
    """Starts ``python -m ...``; what still runs at the end of the module is ended."""
    started = []

    def begin(*arguments: object, **variables: object) -> subprocess.Popen[str]:
        process = subprocess.Popen(
            [sys.executable, "-m", *(str(argument) for argument in arguments)],
            cwd=REPOSITORY,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1", **{name: str(value) for name, value in variables.items()}},
        )
        started.append(process)
        return process

    yield begin
    for process in started:
        if process.poll() is None:
            process.kill()
            process.communicate()


def torchrun(start: Start, *arguments: object) -> subprocess.Popen[str]:
    return start("torch.distributed.run", "--standalone", "--nproc-per-node", 2, "-m", "experiments.train", *arguments)


def two(start: Start, *arguments: object, second: tuple[str, ...] = ()) -> list[subprocess.Popen[str]]:
    """Both ranks of a training, without torchrun beside them; ``second`` are flags of rank 1 alone."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = {"WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    return [
        start("experiments.train", *arguments, *(second if rank else ()), RANK=rank, LOCAL_RANK=rank, **places)
        for rank in range(2)
    ]


def output(process: subprocess.Popen[str]) -> str:
    return process.communicate(timeout=PATIENCE)[0]


def until_saved(out: Path, process: subprocess.Popen[str], checkpoints: int = 1) -> Path:
    """Wait until a training has saved; returns its run."""
    deadline = time.monotonic() + PATIENCE
    while len(list(out.glob("*/*/checkpoints/*.zip"))) < checkpoints:
        assert process.poll() is None and time.monotonic() < deadline, output(process)
        time.sleep(0.05)
    return only_run(out)


def loads(folder: Path) -> int:
    """The steps of a run's last checkpoint, which the library has read."""
    found = last_checkpoint(folder)
    assert found is not None and not list(folder.rglob("*.partial"))
    assert PPO.load(found[0], device="cpu").num_timesteps == found[1]
    return found[1]


# -------------------------------------------------------------------------------------------------------------- whole runs
@pytest.fixture(scope="module")
def finished(start: Start, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder of a run of two ranks, and what they said."""
    out = tmp_path_factory.mktemp("two")
    process = torchrun(start, "ppo_flash", *TINY, "--out", out)
    said = output(process)
    assert process.returncode == 0, said
    return only_run(out), said


def test_two_ranks_leave_one_whole_run_judged_once(run: Path, finished: tuple[Path, str]) -> None:
    folder, said = finished

    def names(of: Path) -> list[str]:
        return sorted(str(path.relative_to(of)).split(".tfevents")[0] for path in of.rglob("*") if path.is_file())

    assert names(folder) == names(run) and len(list(folder.parents[1].iterdir())) == 1
    assert said.count("evaluating on held-out worlds") == 1 and said.count("results in") == 1
    found, alone = result(folder), result(run)
    assert found["training"] == alone["training"] == {"steps": 2048, "unit": "environment steps", "stopped_by": "steps"}
    assert found["speed"]["steps"] == 2048 and found["export"]["differing_actions"] == 0
    assert found["policies"]["tuned_rule"] == alone["policies"]["tuned_rule"]
    steps = [json.loads(line)["steps"] for line in (folder / "learning.jsonl").read_text().splitlines()]
    assert steps == [point["steps"] for point in load_learning_curve(run)] == [512, 1024, 1536, 2048]
    assert loads(folder) == 2048
    assert json.loads((folder / "config.json").read_text())["ranks"] == 2
    assert load_config(folder).agent == load_config(run).agent, "the configuration is of all ranks together"


def test_one_process_goes_on_where_two_ended(finished: tuple[Path, str], tmp_path: Path) -> None:
    before = contents(finished[0])
    assert main(["--resume", str(finished[0]), "--steps", "3072", "--out", str(tmp_path)]) == 0
    resumed = only_run(tmp_path)
    assert contents(finished[0]) == before
    assert result(resumed)["training"]["steps"] == 3072 and result(resumed)["speed"]["steps"] == 1024
    assert [point["steps"] for point in load_learning_curve(resumed)] == [512, 1024, 1536, 2048, 2560, 3072]


@pytest.mark.slow
def test_dqn_on_two_ranks_is_saved_and_gone_on_with_by_one(start: Start, tmp_path: Path) -> None:
    process = torchrun(start, "dqn_flash", *OF_DQN, "--out", tmp_path / "two")
    said = output(process)
    assert process.returncode == 0, said
    folder = only_run(tmp_path / "two")
    assert result(folder)["training"] == {"steps": 2048, "unit": "environment steps", "stopped_by": "steps"}
    assert said.count("evaluating on held-out worlds") == 1
    assert main(["--resume", str(folder), "--steps", "3072", "--out", str(tmp_path / "one")]) == 0
    assert result(only_run(tmp_path / "one"))["training"]["steps"] == 3072


@pytest.mark.parametrize("name", ["ppo_flash", "dqn_flash"])
@pytest.mark.parametrize("rank", [0, 1])
def test_each_rank_has_worlds_of_its_own(name: str, rank: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Together those that one process has: rank 1 begins after the last one of rank 0. The other rank is imagined."""
    for variable, value in zip(VARIABLES, (rank, 2, rank, 2), strict=True):
        monkeypatch.setenv(variable, str(value))
    monkeypatch.setattr(Ranks, "join", lambda *_: None)
    monkeypatch.setattr(Ranks, "broadcast", lambda *_: None)
    monkeypatch.setattr(Ranks, "sum_", lambda _, tensor: tensor)
    begun: list[tuple[int, int | None]] = []
    reset = NativeVecEnv.reset

    def noted(env: NativeVecEnv) -> Any:
        begun.append((env.num_envs, env._seeds[0]))
        return reset(env)

    monkeypatch.setattr(NativeVecEnv, "reset", noted)
    config = parse([name, *(TINY if name == "ppo_flash" else OF_DQN)])
    prepare(config, None)(tmp_path, Console(quiet=True))
    assert begun == [(16, config.training_seed + rank * 16)]
    wrote = {path.name.split(".")[0] for path in tmp_path.iterdir()}
    assert wrote == ({"checkpoints", "learning", "events"} if rank == 0 else set())


# ------------------------------------------------------------------------------------------------------------ how they end
def test_a_killed_rank_ends_the_command_and_leaves_the_last_checkpoint(start: Start, tmp_path: Path) -> None:
    ranks = two(start, "ppo_flash", *TINY, *ENDLESS, "--out", tmp_path)
    folder = until_saved(tmp_path, ranks[0])
    ranks[1].kill()
    said = output(ranks[0])
    assert ranks[0].returncode == 1 and "error: another rank has ended or cannot be reached" in said, said
    assert "--resume RUN goes on from it" in said and "Traceback" not in said
    assert loads(folder) > 0 and not (folder / "result.json").exists()


@pytest.mark.slow
def test_torchrun_ends_when_a_rank_is_killed(start: Start, tmp_path: Path) -> None:
    process = torchrun(start, "ppo_flash", *TINY, *ENDLESS, "--out", tmp_path)
    folder = until_saved(tmp_path, process)
    os.kill(pid_of_rank(process.pid, 1), signal.SIGKILL)
    said = output(process)
    assert process.returncode == 1 and "error: another rank has ended" in said and "SIGKILL" in said, said
    assert loads(folder) > 0 and not (folder / "result.json").exists()


def pid_of_rank(parent: int, rank: int) -> int:
    """The process that torchrun started as this rank, by the variables it was given."""
    for child in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        if f"RANK={rank}".encode() in Path(f"/proc/{child}/environ").read_bytes().split(b"\0"):
            return int(child)
    raise AssertionError(f"torchrun has no rank {rank}")


def test_two_go_on_where_one_ended_until_a_signal_to_one_of_them(run: Path, start: Start, tmp_path: Path) -> None:
    before = contents(run)
    ranks = two(start, "--resume", run, *ENDLESS, "--out", tmp_path)
    folder = until_saved(tmp_path, ranks[0], checkpoints=2)  # the one it goes on from is the first
    ranks[1].send_signal(signal.SIGTERM)
    said = [output(process) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert contents(run) == before and "results in" in said[0] and "results in" not in said[1]
    found = result(folder)
    steps = found["training"]["steps"]
    assert found["training"]["stopped_by"] == "signal" and 2048 < steps < 100_000_000
    assert found["speed"]["steps"] == steps - 2048 and loads(folder) == steps
    assert [point["steps"] for point in load_learning_curve(folder)][:4] == [512, 1024, 1536, 2048]
    assert (folder / "report.html").is_file()


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [("ppo_flash", TINY), ("dqn_flash", OF_DQN)])
def test_ctrl_c_at_torchrun_leaves_a_whole_run(name: str, flags: list[str], start: Start, tmp_path: Path) -> None:
    process = torchrun(start, name, *flags, *ENDLESS, "--out", tmp_path)
    folder = until_saved(tmp_path, process)
    process.send_signal(signal.SIGINT)
    said = output(process)
    assert result(folder)["training"]["stopped_by"] == "signal", said
    assert (folder / "report.html").is_file() and "results in" in said


@pytest.mark.slow
@pytest.mark.parametrize(("name", "flags"), [("ppo_flash", TINY), ("dqn_flash", OF_DQN)])
def test_time_up_on_one_rank_stops_all(name: str, flags: list[str], start: Start, tmp_path: Path) -> None:
    ranks = two(start, name, *flags, *ENDLESS, "--out", tmp_path, second=("--minutes", "0.02"))
    said = [output(process) for process in ranks]
    assert [process.returncode for process in ranks] == [0, 0], said
    assert result(only_run(tmp_path))["training"]["stopped_by"] == "minutes"


# --------------------------------------------------------------------------------------------------------------- a full disk
def test_a_full_disk_leaves_what_was_there_and_says_what_to_do(tmp_path: Path) -> None:
    path, curve = tmp_path / "step_000000000001.zip", tmp_path / "learning.jsonl"
    write_atomically(path, b"before")
    append_line(curve, "x" * 4000)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # a file that the system refuses to let grow
    try:
        with pytest.raises(OSError, match=r"cannot write 10,000 bytes \(.*\); make room, or choose another.*step_0.*1\.zip"):
            write_atomically(path, b"x" * 10_000)
        with pytest.raises(OSError, match=r"cannot write 201 bytes .* make room.*learning.jsonl"):
            append_line(curve, "y" * 200)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.read_bytes() == b"before" and set(tmp_path.iterdir()) == {path, curve}
    append_line(curve, "z")
    assert curve.read_text() == "x" * 4000 + "\nz\n"
    with pytest.raises(OSError, match="is the folder writable"):
        write_atomically(path / "below", b"")


@pytest.mark.slow
def test_ranks_whose_disk_is_full_end_with_the_last_checkpoint(start: Start, tmp_path: Path) -> None:
    ranks = two(start, "ppo_flash", *TINY, *ENDLESS, "--out", tmp_path)
    folder = until_saved(tmp_path, ranks[0])
    resource.prlimit(ranks[0].pid, resource.RLIMIT_FSIZE, (16_384, 16_384))  # less than a checkpoint
    said = [output(process) for process in ranks]
    assert [process.returncode for process in ranks] == [1, 1], said
    assert "cannot write" in said[0] and "make room" in said[0] and str(folder) in said[0], said[0]
    assert "another rank has ended" in said[1] and "Traceback" not in said[0] + said[1]
    assert loads(folder) > 0


# ------------------------------------------------------------------------------------------------------ what is refused
@pytest.fixture
def as_rank_0_of_2(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in zip(VARIABLES, ("0", "2", "0", "2"), strict=True):
        monkeypatch.setenv(name, value)


@pytest.mark.usefixtures("as_rank_0_of_2")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["ppo_flash", *TINY, "--agent.environments", "33"], "agent.environments = 33 on 2 ranks; accepted is a multiple of 2"),
        (["ppo_flash", *TINY, "--agent.minibatch", "255"], "minibatch = 255 on 2 ranks; accepted is a multiple of 2"),
        (["dqn_flash", *OF_DQN, "--agent.environments", "33"], "agent.environments = 33 on 2 ranks"),
        (["dqn_flash", *OF_DQN, "--agent.batch", "63"], "batch = 63 on 2 ranks; accepted is a multiple of 2"),
        (["ppo_flash", *TINY, "--learner", "sb3"], "learner = 'sb3' with 2 ranks; accepted with it is learner = 'arbgym'"),
    ],
)
def test_what_cannot_be_shared_out_is_refused_before_anyone_is_met(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """No other rank is there: whoever waited for it would not come back."""
    assert main([*arguments, "--out", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err and list(tmp_path.iterdir()) == []


@pytest.mark.usefixtures("as_rank_0_of_2")
def test_ranks_that_torchrun_did_not_place_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv("LOCAL_RANK")
    assert main(["ppo_flash", *TINY, "--out", str(tmp_path)]) == 2
    assert "RANK, WORLD_SIZE, LOCAL_RANK, LOCAL_WORLD_SIZE as torchrun sets them" in capsys.readouterr().err
    monkeypatch.setenv("LOCAL_RANK", "first")
    with pytest.raises(ValueError, match=r"'LOCAL_RANK': 'first'.*accepted is RANK"):
        Ranks.from_environment()
    assert list(tmp_path.iterdir()) == []


def test_every_rank_has_a_gpu_of_its_own_or_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    for asked in ("cuda", "auto"):
        with pytest.raises(ValueError, match=r"2 ranks on a machine with 1 GPUs; accepted are as many ranks as.*--device cpu"):
            Ranks(0, 2, 0, 2).device(asked)
    assert Ranks(1, 2, 1, 2).device("cpu") == torch.device("cpu")
    assert Ranks(1, 2, 0, 1).device("auto") == torch.device("cuda", 0), "one rank on each of two machines"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert [Ranks(rank, 2, rank, 2).device("cuda") for rank in (0, 1)] == [torch.device("cuda", k) for k in (0, 1)]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    with pytest.raises(ValueError, match="device = 'cuda', and torch finds no GPU; accepted are cpu and auto"):
        Ranks(0, 2, 0, 2).device("cuda")
    assert Ranks(0, 2, 0, 2).device("auto") == torch.device("cpu")


def test_the_market_runs_on_the_gpu_of_its_rank() -> None:
    config = parse(["ppo_flash", "--simulator", "cuda"])
    assert simulator_of(config, torch.device("cuda", 1)) == "cuda:1" and simulator_of(config, torch.device("cpu")) == "cuda"
    assert simulator_of(parse(["ppo_flash", "--simulator", "cpu"]), torch.device("cuda", 1)) == "cpu"
    assert simulator_of(parse(["ppo_flash"]), torch.device("cpu")) == "cpu"


def _empty_the_optimizer(checkpoint: Path) -> None:
    with zipfile.ZipFile(checkpoint) as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(checkpoint, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, b"" if name == "policy.optimizer.pth" else content)


def _truncate(checkpoint: Path) -> None:
    checkpoint.write_bytes(checkpoint.read_bytes()[:-5_000])


def _flip(checkpoint: Path) -> None:
    content = bytearray(checkpoint.read_bytes())
    content[len(content) // 2] ^= 0xFF
    checkpoint.write_bytes(content)


@pytest.mark.parametrize("damage", [_truncate, _flip, _empty_the_optimizer, lambda path: path.write_bytes(b"")])
def test_a_damaged_checkpoint_is_refused(
    damage: Callable[[Path], None], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    damage(copied / "checkpoints" / "step_000000002048.zip")
    assert main(["--resume", str(copied), "--steps", "3072", "--out", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert "step_000000002048.zip: is damaged, or no checkpoint of ppo_flash with this run's networks" in said
    assert "the one before it is taken" in said and not (tmp_path / "out").exists()
    (copied / "checkpoints" / "step_000000002048.zip").unlink()
    config = load_config(copied)
    assert prepare(config, last_checkpoint(copied)) is not None


@pytest.mark.parametrize("flags", [["ppo_cross", "--agent.hidden", "16"], ["ppo_flash", "--agent.hidden", "17"], ["dqn_flash"]])
def test_a_checkpoint_of_another_environment_or_network_is_refused(
    flags: list[str], run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copied = tmp_path / "copied"
    shutil.copytree(run, copied)
    content = json.loads((copied / "config.json").read_text())
    content["run"] = to_json(parse([*flags, "--agent.environments", "2"]))
    (copied / "config.json").write_text(json.dumps(content))
    assert main(["--resume", str(copied), "--out", str(tmp_path / "out")]) == 2
    assert f"no checkpoint of {flags[0]} with this run's networks" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


# -------------------------------------------------------------------------------------------------------------- threads
def test_ranks_of_one_machine_share_its_cores() -> None:
    before = numba.get_num_threads(), torch.get_num_threads()
    try:
        use_threads(1)
        alone = numba.get_num_threads()
        use_threads(1, 2)
        assert torch.get_num_threads() == 1 and 1 <= numba.get_num_threads() <= max(1, alone // 2)
        use_threads(1)
        assert numba.get_num_threads() == alone
    finally:
        numba.set_num_threads(before[0])
        torch.set_num_threads(before[1])


# ------------------------------------------------------------------------------------------------------------- the score
BUDGETS = {
    "ppo_flash": "--agent.environments 128 --agent.rollout-steps 32 --agent.minibatch 1024 --steps 400000",
    "dqn_flash": "--agent.environments 128 --agent.buffer 65536 --agent.batch 512 --agent.learning-starts 4096 --steps 300000",
}


@pytest.mark.slow
@pytest.mark.parametrize("name", BUDGETS)
def test_two_ranks_learn_as_well_as_one(name: str, start: Start, tmp_path: Path) -> None:
    """The same steps in all, each rank with half of the environments: net profit on held-out worlds within both intervals."""
    shared = "--agent.hidden 32 --world.episode-blocks 50 --evaluation.episodes 256 --evaluation.tuning-episodes 32"
    flags = [*BUDGETS[name].split(), *shared.split()]
    process = torchrun(start, name, *flags, "--out", tmp_path / "two")
    said = output(process)
    assert process.returncode == 0, said
    assert main([name, *flags, "--out", str(tmp_path / "one")]) == 0
    both, alone = (result(only_run(tmp_path / ranks)) for ranks in ("two", "one"))
    assert both["training"] == alone["training"]
    first, second = (found["policies"][name]["net_profit"] for found in (both, alone))
    assert first["low"] <= second["mean"] <= first["high"] and second["low"] <= first["mean"] <= second["high"], (first, second)
    assert min(first["low"], second["low"]) > 0.0, "neither has learned"
