"""Datasets: Minari reads them, they hold what was played, say where they come from, and damaged or foreign ones are refused."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

pytest.importorskip("minari", reason="the extra offline has an environment of its own: make offline, make test-offline")
pytest.importorskip("h5py", reason="the extra offline has an environment of its own: make offline, make test-offline")

import h5py
import minari

import arbgym
from arbgym import policy as policies
from arbgym.data import sample_tape_path
from arbgym.engine import NativeVectorEnv
from arbgym.evaluation import HELD_OUT_SEED, TUNING_SEED
from arbgym.spec import ENCODINGS, decode
from experiments import behaviours, datasets
from experiments.config import ConfigError
from experiments.record import main
from experiments.worlds import training_arguments
from tests.offline.conftest import recording

QUIET = Console(quiet=True)


def loaded(path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("MINARI_DATASETS_PATH", str(path.parent))
    return minari.load_dataset(path.name)


@pytest.mark.parametrize("environment", sorted(arbgym.ENVIRONMENTS))
@pytest.mark.parametrize("action", ENCODINGS)
def test_recorded_actions_played_again_give_what_is_recorded(
    environment: str, action: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two batches of episodes, through Minari's own reading, bit for bit."""
    config = recording(environment, "--policy", "random", "--action", action, "--out", str(tmp_path / "a-v0"))
    dataset = loaded(datasets.record(config, QUIET), monkeypatch)
    episodes = list(dataset.iterate_episodes())
    seeds = [meta["seed"] for meta in dataset.storage.get_episode_metadata(range(48))]
    assert len(episodes) == dataset.total_episodes == 48 and seeds == list(range(48))
    env = NativeVectorEnv(arbgym.ENVIRONMENTS[environment], 48, autoreset="disabled", **training_arguments(config))
    env.reset(seed=0)
    over = np.zeros(48, dtype=bool)
    for step in range(25):
        rows = np.flatnonzero(~over)
        actions = np.zeros_like(env.core.batch.actions)
        for e in rows:
            assert np.array_equal(env.observations[e], episodes[e].observations[step])
            actions[e] = episodes[e].actions[step]
        env.step_in_place(actions)
        over |= env.terminated | env.truncated
        for e in rows:
            assert env.rewards[e] == episodes[e].rewards[step]
            assert env.info["net_profit"][e] == episodes[e].infos["net_profit"][step + 1]
            assert (env.terminated[e], env.truncated[e]) == (episodes[e].terminations[step], episodes[e].truncations[step])
            assert over[e] == (step == len(episodes[e].rewards) - 1)
    for e in range(48):
        assert np.array_equal(env.observations[e], episodes[e].observations[-1]) or not over.all()


def test_minari_knows_the_dataset_and_makes_its_environment(data: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = loaded(data["discrete"], monkeypatch)
    assert dataset.spec.dataset_id == "discrete-v0" and "discrete-v0" in minari.list_local_datasets()
    assert dataset.total_steps == sum(len(episode.rewards) for episode in dataset.iterate_episodes())
    env = dataset.recover_environment()
    assert env.observation_space == dataset.observation_space and env.action_space == dataset.action_space
    assert env.unwrapped.config.episode_blocks == 25
    first = next(iter(dataset.iterate_episodes()))
    observation, _ = env.reset(seed=int(next(iter(dataset.storage.get_episode_metadata([0])))["seed"]))
    assert np.array_equal(observation, first.observations[0])


def test_where_it_comes_from_is_told(data: dict[str, Path]) -> None:
    source = datasets.read_source(data["continuous"])
    assert source is not None and source["environment"] == "ArbFlash-v0" and source["world"]["episode_blocks"] == 25
    assert source["policy"] == "mixture" and source["episodes"] == 48 and set(source["git"]) == {"commit", "dirty"}
    dataset = datasets.read(data["continuous"], recording("ArbFlash-v0"), QUIET)
    assert source["mean_return"] * 48 == pytest.approx(float(dataset.data.rewards.sum()), rel=1e-4)


def test_steps_lie_where_their_observations_are(data: dict[str, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    dataset = datasets.read(data["continuous"], recording("ArbFlash-v0"), QUIET)
    episodes = list(loaded(data["continuous"], monkeypatch).iterate_episodes())
    steps = dataset.data
    assert len(steps) == sum(len(episode.rewards) for episode in episodes)
    assert np.array_equal(steps.observations[steps.rows], np.concatenate([episode.observations[:-1] for episode in episodes]))
    assert np.array_equal(steps.observations[steps.rows + 1], np.concatenate([episode.observations[1:] for episode in episodes]))
    assert np.array_equal(steps.terminals, np.concatenate([episode.terminations for episode in episodes]))


def test_training_worlds_only() -> None:
    """The last world that can be recorded lies below every tuning and held-out one; a tape gives its earlier span."""
    last = recording("ArbFlash-v0", "--seed", "999", "--episodes", "50000")
    assert last.training_seed + last.episodes <= TUNING_SEED < HELD_OUT_SEED
    pytest.importorskip("pandas", reason="the extra data is not installed")
    tape = recording("ArbFlash-v0", "--feed", "replay", "--data", str(sample_tape_path()))
    arguments = training_arguments(tape)
    played = datasets.play(tape, behaviours.behaviour("random", tape), 0, 4, datasets.StopSignal(), datasets.Bar(QUIET, 4, 25))
    assert played.lengths.max() <= arguments["episode_blocks"] and arguments["feed"] == "replay"


def test_the_rule_acts_as_it_decides_but_for_its_noise() -> None:
    setting = recording("ArbCross-v0")
    acting = behaviours.behaviour("rule", setting)
    (player,) = acting.players
    assert player.rule is not None
    env = NativeVectorEnv(arbgym.ENVIRONMENTS["ArbCross-v0"], 2_000, **training_arguments(setting))
    env.reset(seed=3)
    meant = decode(env.definition.action, "continuous", acting.actor(2_000, 1)(env.observations))
    least = np.array([choice.values[0] for choice in env.definition.action])
    rule = np.maximum(player.rule(env.observations), least)  # smaller than the encoding's least it cannot mean
    most = np.array([choice.values[-1] for choice in env.definition.action])
    same = np.isclose(meant, np.minimum(rule, most), rtol=1e-5, atol=1e-5)
    assert (same.mean(axis=0) > 0.9).all() and 0.5 < same.all(axis=1).mean() < 0.95


def test_a_mixture_has_every_player_and_acts_the_same_for_the_same_seed() -> None:
    setting = recording("ArbFlash-v0", "--action", "discrete")
    acting = behaviours.behaviour("mixture", setting)
    env = NativeVectorEnv(arbgym.ENVIRONMENTS["ArbFlash-v0"], 400, **training_arguments(setting))
    env.reset(seed=3)
    first, again, other = (acting.actor(400, seed)(env.observations) for seed in (1, 1, 2))
    assert len(acting.players) == 4 and np.array_equal(first, again) and not np.array_equal(first, other)


def test_an_exported_policy_is_recorded_and_travels_with_the_dataset(tmp_path: Path) -> None:
    from agents.export import export
    from agents.ppo import PPORecipe
    from agents.vec import NativeVecEnv

    setting = recording("ArbFlash-v0", "--action", "discrete")
    env = NativeVectorEnv(arbgym.ENVIRONMENTS["ArbFlash-v0"], 16, **training_arguments(setting))
    model = PPORecipe(environments=16, rollout_steps=8, minibatch=64, hidden=(16,)).build(NativeVecEnv(env), seed=1)
    env.reset(seed=1)
    content, golden = export(model, np.repeat(env.observations, 4, axis=0))
    policies.save(
        tmp_path / "run" / "policy",
        content,
        definition=setting.definition,
        config=setting.world,
        preset=setting.preset,
        encoding="discrete",
        feed="simulated",
        golden=golden,
        provenance={},
    )
    out = tmp_path / "expert-v0"
    flags = ["ArbFlash-v0", "--world.episode-blocks", "25", "--episodes", "8", "--action", "discrete"]
    assert main([*flags, "--policy", str(tmp_path / "run"), "--out", str(out)]) == 0
    shutil.rmtree(tmp_path / "run")
    dataset = datasets.read(out, setting, QUIET)
    again = dataset.behaviour(setting)
    assert again is not None and again.name == "checkpoint"
    actions = again.actor(8, 0)(dataset.data.observations[dataset.data.rows[:8]])
    expected = model.predict(dataset.data.observations[dataset.data.rows[:8]], deterministic=True)[0]
    assert (actions[:, 0] == expected).mean() >= 0.5  # the rest is its noise


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["ArbMoon-v0"], "accepted are ArbFlash-v0"),
        (["ArbFlash-v0", "--policy", "nobody"], "policy = 'nobody'; accepted are random, rule, mixture"),
        (["ArbFlash-v0", "--episodes", "0"], "episodes = 0; accepted is 1 to"),
        (["ArbFlash-v0", "--preset", "mars"], "preset = 'mars'; accepted are ethereum"),
        (["ArbFlash-v0", "--world.trade-probability", "2"], "trade_probability = 2.0"),
        (["ArbFlash-v0", "--feed", "replay"], "accepted is --data PATH with --feed replay"),
        (["ArbFlash-v0", "--out", "flash"], "accepted is a folder whose name ends in a version"),
    ],
)
def test_recording_refuses_by_name_before_anything_is_written(
    flags: list[str], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "200")
    try:
        status = main(flags)
    except SystemExit as end:
        status = int(end.code or 0)
    assert status == 2 and message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_nothing_is_written_over(data: dict[str, Path], capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in data["discrete"].rglob("*") if path.is_file()}
    assert main(["ArbFlash-v0", "--policy", "random", "--episodes", "2", "--out", str(data["discrete"])]) == 2
    assert "exists already" in capsys.readouterr().err
    assert before == {path: path.read_bytes() for path in data["discrete"].rglob("*") if path.is_file()}


def test_a_path_from_here_is_a_place_like_any_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["ArbSell-v0", "--policy", "random", "--episodes", "3", "--out", "data/few-v0"]) == 0
    assert len(list((tmp_path / "data" / "few-v0" / "data").iterdir())) >= 2
    assert main(["ArbSell-v0", "--policy", "random", "--episodes", "3"]) == 0  # the next free one below runs/datasets
    assert len(list((tmp_path / "runs" / "datasets").iterdir())) == 1


def test_ctrl_c_keeps_what_is_recorded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = tmp_path / "long-v0"
    flags = ["--policy", "random", "--episodes", "50000", "--environments", "64", "--out", str(out)]
    process = subprocess.Popen(
        [sys.executable, "-m", "experiments.record", "ArbFlash-v0", *flags],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    partial = tmp_path / ".long-v0.partial" / "data" / "metadata.json"
    deadline = time.monotonic() + 120.0
    while True:
        try:
            recorded = json.loads(partial.read_text())["total_episodes"]
        except (FileNotFoundError, json.JSONDecodeError):
            recorded = 0
        if recorded >= 64:
            break
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()[0]
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=120)
    assert process.returncode == 0, output
    dataset = loaded(out, monkeypatch)
    source = datasets.read_source(out)
    assert source is not None and source["stopped_by"] == "signal"
    assert 64 <= dataset.total_episodes == source["episodes"] < 50_000
    episodes = list(dataset.iterate_episodes())
    assert len(episodes) == dataset.total_episodes
    assert all(episode.terminations[-1] or episode.truncations[-1] for episode in episodes)


def test_another_world_or_encoding_is_refused(data: dict[str, Path]) -> None:
    for flags, message in (
        (["--action", "discrete"], "action = 'continuous'; accepted is 'discrete'"),
        (["--preset", "base"], "preset = 'ethereum'; accepted is 'base'"),
        (["--world.trade-probability", "0.1"], r"world.trade_probability = .*; accepted is 0.1"),
    ):
        with pytest.raises(ConfigError, match=message):
            datasets.read(data["continuous"], recording("ArbFlash-v0", *flags), QUIET)
    with pytest.raises(ConfigError, match="environment = 'ArbFlash-v0'; accepted is 'ArbCross-v0'"):
        datasets.read(data["continuous"], recording("ArbCross-v0"), QUIET)


def test_what_is_no_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="accepted is a Minari dataset's folder"):
        datasets.read(tmp_path, recording("ArbFlash-v0"), QUIET)


@pytest.mark.parametrize("damage", ["nan", "shorter", "outside", "bytes"])
def test_a_damaged_dataset_is_refused_with_the_place(damage: str, data: dict[str, Path], tmp_path: Path) -> None:
    bad = tmp_path / "bad-v0"
    shutil.copytree(data["continuous"], bad)
    file = bad / "data" / "main_data.hdf5"
    if damage == "bytes":
        file.write_bytes(file.read_bytes()[:1_000])
    else:
        with h5py.File(file, "a") as content:
            episode = content["episode_7"]
            if damage == "nan":
                episode["observations"][3, 2] = np.nan
            elif damage == "outside":
                episode["actions"][4, 1] = 1.5
            else:
                episode["rewards"].resize(5, axis=0)
    message = {
        "nan": "episode 7: observations.*step 3",
        "outside": "episode 7: actions.*step 4",
        "shorter": "episode 7: .*5 rewards",
    }
    with pytest.raises(ConfigError, match=message.get(damage, "cannot be read")):
        datasets.read(bad, recording("ArbFlash-v0"), QUIET)


def test_a_dataset_of_somebody_else_is_read_and_nobody_is_said_to_have_played(data: dict[str, Path], tmp_path: Path) -> None:
    theirs = tmp_path / "theirs-v0"
    shutil.copytree(data["continuous"], theirs)
    metadata = theirs / "data" / "metadata.json"
    content = json.loads(metadata.read_text())
    del content["arbgym"]
    metadata.write_text(json.dumps(content))
    dataset = datasets.read(theirs, recording("ArbFlash-v0"), QUIET)
    assert dataset.episodes == 48 and dataset.behaviour(recording("ArbFlash-v0")) is None
    with pytest.raises(ConfigError, match="observation_space"):
        datasets.read(theirs, recording("ArbCross-v0"), QUIET)
