"""Who learns, where and how is a flag: the tensor learners, the library's own, masks, the CUDA engine."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
import torch

from arbgym import policy as policies
from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import TUNING_SEED, MaskedDecide, Simulator, decide_with
from experiments import parity
from experiments.config import parse
from experiments.figures import learning_figure
from experiments.train import main
from tests.experiments.conftest import TINY, only_run, train

DQN_TINY = (
    "--agent.environments 16 --agent.learning-starts 200 --agent.buffer 2000 --agent.batch 64 --agent.hidden 16 "
    "--world.episode-blocks 25 --steps 1024 --evaluation.episodes 8 --evaluation.tuning-episodes 8"
).split()


def test_the_librarys_own_learner_is_a_flag(run: Path, tmp_path: Path) -> None:
    """Other learners, the same chain: and both say which one it was."""
    stock = train(tmp_path, "--learner", "sb3")
    learners = [json.loads((folder / "config.json").read_text())["run"]["learner"] for folder in (run, stock)]
    assert learners == ["arbgym", "sb3"]
    assert json.loads((stock / "result.json").read_text())["export"]["differing_actions"] == 0


@pytest.mark.parametrize("name, flags", [("ppo_flash", TINY), ("dqn_flash", DQN_TINY)])
def test_a_masked_policy_never_does_what_cannot_be_done(name: str, flags: list[str], tmp_path: Path) -> None:
    assert main([name, *flags, "--agent.masks", "--out", str(tmp_path)]) == 0
    policy = policies.load(only_run(tmp_path) / "policy")
    assert policy.masked
    env = gym.make_vec("ArbFlash-v0", num_envs=64, action=policy.encoding)
    assert isinstance(env, NativeVectorEnv)
    env.reset(seed=7)
    sizes = [int(size) for size in getattr(env.single_action_space, "nvec", [getattr(env.single_action_space, "n", 0)])]
    with pytest.raises(policies.PolicyError, match="masks: missing"):
        policy.predict(env.observations)
    places, forbidden = np.cumsum([0, *sizes[:-1]]), 0
    for _ in range(20):
        masks = env.action_masks()
        free, masked = policy.evaluate(env.observations)[1], policy.predict(env.observations, masks)
        assert np.take_along_axis(masks, masked + places, axis=1).all()
        wanted = np.take_along_axis(masks, free + places, axis=1)
        assert np.array_equal(masked[wanted], free[wanted]), "what may be done is done"
        forbidden += int((~masks).sum())
        env.step_in_place(masked)
    assert forbidden, "nothing was forbidden, so nothing was tested"
    simulator = Simulator("arbgym.envs.flash", {"action": policy.encoding, "episode_blocks": 20}, episodes=8)
    decide = decide_with(policy, simulator.make())
    assert isinstance(decide, MaskedDecide)
    assert simulator.run(decide).lengths.sum() > 0


@pytest.mark.parametrize(
    "arguments, message",
    [
        (["ppo_flash", *TINY, "--learner", "sb3", "--agent.masks"], "learner = 'sb3' with masks"),
        (["ppo_flash", *TINY, "--learner", "sb3", "--precision", "bf16"], "learner = 'sb3' with precision bf16"),
        (["dqn_flash", *DQN_TINY, "--learner", "sb3", "--agent.prioritised"], "learner = 'sb3' with prioritised"),
        (["ppo_flash", *TINY, "--learner", "sb3", "--simulator", "cuda"], "simulator = 'cuda' with learner = 'sb3'"),
        (["ppo_flash", *TINY, "--device", "cuda"], "device = 'cuda', and torch finds no GPU"),
        (["ppo_flash", *TINY, "--simulator", "cuda"], "simulator = 'cuda': device = 'cuda' needs"),
        (["gbm_sell", "--quick", "--learner", "sb3"], "learner = 'sb3'; accepted for gbm_sell is 'arbgym'"),
        (["iql_flash", "--quick", "--compile", "default"], "compile = 'default'; accepted for iql_flash is 'off'"),
        (["ppo_sell", *TINY, "--action", "continuous", "--agent.masks"], "masks with the action space Box"),
    ],
)
def test_what_does_not_go_together_is_refused(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    if "cuda" in arguments and "sb3" not in arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU here")
    if arguments[0] == "ppo_sell":
        arguments = [argument for argument in arguments if argument not in ("--world.episode-blocks", "25")]
    monkeypatch.setenv("COLUMNS", "200")
    try:
        status = main([*arguments, "--out", str(tmp_path)])
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2 and message in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_parity_shows_both_learners_with_their_intervals(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    flags = ["--quick", "--seeds", "2", "--steps", "17000", "--points", "2", "--episodes", "8", "--out", str(tmp_path)]
    assert parity.main(["ppo_flash", *flags]) == 0
    found = json.loads((tmp_path / "parity.json").read_text())["curves"]["ppo_flash"]
    assert np.shape(found["shares"]["arbgym"]) == np.shape(found["shares"]["sb3"]) == (2, 2)
    for learner in parity.LEARNERS:
        means = np.mean(found["shares"][learner], axis=0)
        assert [band["mean"] for band in found["intervals"][learner]] == pytest.approx(means)
    assert (tmp_path / "parity.png").stat().st_size > 10_000
    assert "overlap" in capsys.readouterr().out
    assert parity.main(["gbm_sell", *flags]) == 2
    assert "NAME = 'gbm_sell'; accepted are ppo_flash" in capsys.readouterr().err


def test_curves_that_lie_apart_are_said_to() -> None:
    bands = {
        "arbgym": [{"low": 0.1, "high": 0.2}, {"low": 0.5, "high": 0.6}],
        "sb3": [{"low": 0.15, "high": 0.3}, {"low": 0.1, "high": 0.2}],
    }
    assert parity.overlap({"intervals": bands}) == [True, False]


@pytest.mark.parametrize("points", [1, 2, 3, 50])
def test_a_short_learning_curve_is_drawn(points: int) -> None:
    curve = [{"steps": float(k), "seconds": float(k), "net_profit": 1.0, "oracle_profit": 2.0} for k in range(points)]
    title, _, picture = learning_figure(curve, "environment steps")
    assert title and "<svg" in picture and "environment steps" in picture


@pytest.mark.slow
def test_a_training_on_the_cuda_engine_is_the_training_on_the_cpus(tmp_path: Path) -> None:
    """By numba-cuda's simulator: the same kernels, launched as on a GPU, on tensors that are handed over without a copy."""
    pytest.importorskip("numba_cuda", reason="numba-cuda (extra cuda) is not installed")
    flags = (
        "--agent.environments 4 --agent.rollout-steps 8 --agent.minibatch 16 --agent.hidden 8 --world.episode-blocks 10 "
        "--steps 96 --evaluation.episodes 2 --evaluation.tuning-episodes 2"
    ).split()
    curves = []
    for simulator, simulated in (("cpu", "0"), ("cuda", "1")):
        out = tmp_path / simulator
        command = [sys.executable, "-m", "experiments.train", "ppo_flash", *flags, "--simulator", simulator, "--out", str(out)]
        root = str(Path(__file__).parents[2])
        environment = {**os.environ, "PYTHONPATH": root, "NUMBA_ENABLE_CUDASIM": simulated}
        done = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=500)
        assert done.returncode == 0, done.stderr.decode()
        lines = (only_run(out) / "learning.jsonl").read_text().splitlines()
        curves.append([{key: value for key, value in json.loads(line).items() if key != "seconds"} for line in lines])
    assert curves[0] == curves[1]


def test_a_million_environments_are_a_configuration() -> None:
    config = parse(["ppo_flash", "--agent.environments", "1048576", "--seed", "20"])
    assert config.training_seed + config.worlds_per_seed <= TUNING_SEED
    assert config.resumed_seed(10**9) + 1_048_576 <= config.training_seed + config.worlds_per_seed
    with pytest.raises(ValueError, match=r"seed = 23 with agent\.environments = 1048576; accepted are seeds 0 to 22"):
        dataclasses.replace(config, seed=23)
    assert parse(["ppo_flash", "--seed", "1"]).training_seed == 100_000, "runs of few environments keep their worlds"
