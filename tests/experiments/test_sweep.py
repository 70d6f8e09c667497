"""A sweep plays its trials, ends those that fall behind, goes on after any end, and leaves a complete record."""

from __future__ import annotations

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("optuna", reason="the extra train is not installed")

import optuna

import experiments
from arbgym.evaluation import HELD_OUT_SEED, TUNING_SEED
from experiments import sweep_study, sweep_trial
from experiments.config import ConfigError, default_config, parse
from experiments.sweep import main
from experiments.sweep_space import parameters_of, space_of, suggest, with_parameters
from experiments.sweep_study import DEFAULT, ERROR, counted, enqueue_default, objective, pruner
from experiments.sweep_trial import SWEEP_SEED, Plan, Point, Report, quality_over_time, seconds_to

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = "ppo_flash --quick --seconds 0.3 --checkpoints 3 --episodes 4".split()


def sweep(out: Path, trials: int, *flags: str) -> dict[str, Any]:
    """Run a tiny sweep in this process; returns its study.json."""
    assert main([*TINY, "--out", str(out), "--study", "s", "--trials", str(trials), *flags]) == 0
    return record(out)


def record(out: Path) -> dict[str, Any]:
    return json.loads((out / "s" / "study.json").read_text())


def plan(name: str = "ppo_flash", **changes: Any) -> Plan:
    config = default_config(name)
    values = {"seconds": 10.0, "checkpoints": 8, "episodes": 8, "clock": "wall", "seed": 0} | changes
    return Plan(config=config, space=space_of(config), **values)


@pytest.fixture(scope="module", autouse=True)
def one_reference() -> Iterator[None]:
    """The tuned rule's search is played once for all studies of the same world."""
    known: dict[tuple[str, int], tuple[float, float]] = {}

    def once(asked: Plan) -> tuple[float, float]:
        key = (asked.config.environment, asked.episodes)
        if key not in known:
            known[key] = sweep_trial.reference(asked)
        return known[key]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sweep_study, "reference", once)
        yield


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a sweep of two trials; the test that goes on with it only adds to it."""
    out = tmp_path_factory.mktemp("sweeps")
    sweep(out, 2)
    return out


# ------------------------------------------------------------------------------------------------------------ a trial
def test_quality_over_time_is_the_area_under_the_curve() -> None:
    rising = [Point(0.0, 0, 0.0), Point(1.0, 10, 1.0)]
    assert quality_over_time(rising, 1.0) == pytest.approx(0.5)
    assert quality_over_time(rising, 2.0) == pytest.approx(0.75)  # constant after the last point
    assert quality_over_time(rising, 0.5) == pytest.approx(0.25)  # later points do not count
    assert quality_over_time([Point(0.0, 0, -9.0), Point(1.0, 10, -5.0)], 1.0) == -1.0
    sooner = [Point(0.0, 0, 0.0), Point(0.1, 1, 1.0)]
    assert quality_over_time(sooner, 2.0) > quality_over_time(rising, 2.0)


def test_seconds_to_a_share_lie_on_the_line_between_points() -> None:
    points = [Point(0.0, 0, -1.0), Point(2.0, 10, 0.0), Point(4.0, 20, 0.5), Point(6.0, 30, 0.4)]
    assert seconds_to(points, 0.25) == pytest.approx(3.0)
    assert seconds_to(points, -2.0) == 0.0
    assert seconds_to(points, 0.6) is None and seconds_to([], 0.0) is None


def test_trials_are_judged_on_episodes_that_nothing_else_uses() -> None:
    assert TUNING_SEED + 1_000_000 <= SWEEP_SEED  # EvaluationConfig allows no more tuning episodes
    assert SWEEP_SEED + 1_000_000 <= HELD_OUT_SEED
    found = plan(checkpoints=4).due
    assert found.tolist() == pytest.approx([0.625, 2.5, 5.625, 10.0])


# -------------------------------------------------------------------------------------------------------- search space
@pytest.mark.parametrize("name", ["ppo_flash", "ppo_cross", "ppo_sell", "dqn_flash", "dqn_sell"])
def test_every_point_of_the_space_is_a_recipe_and_the_default_is_one_of_them(name: str) -> None:
    asked = plan(name)
    default = parameters_of(asked.config, asked.space)
    assert with_parameters(asked.config, default) == asked.config
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=1))
    study.enqueue_trial(default)
    assert suggest(asked.space, study.ask()) == default
    for _ in range(60):
        agent: Any = with_parameters(asked.config, suggest(asked.space, study.ask())).agent
        if name.startswith("ppo"):
            assert agent.update_steps % min(agent.minibatch, agent.update_steps) == 0


# ------------------------------------------------------------------------------------------------------ pruning, failing
def scripted(values: dict[int, float], trial: Any) -> Any:
    """A trial whose quality over time is the same at each judgement."""

    def play(asked: Plan, parameters: Any, report: Report) -> float:
        value = values[trial.number]
        points: list[Point] = []
        for judgement, due in enumerate(asked.due, 1):
            points.append(Point(float(due), judgement, value))
            report(judgement, value, points)
        return value

    return play


def test_trials_that_fall_behind_end_early_and_the_default_never_does() -> None:
    asked = plan()
    study = optuna.create_study(direction="maximize", pruner=pruner(), sampler=optuna.samplers.RandomSampler(seed=0))
    values = {0: 0.5, 1: 0.1, 2: 0.9, 3: 0.2, 4: 0.05}
    for number in values:
        if number == 4:
            study.enqueue_trial(parameters_of(asked.config, asked.space), user_attrs={DEFAULT: True})
        study.optimize(lambda trial: objective(asked, trial, scripted(values, trial)), n_trials=1)
    states = [trial.state.name for trial in study.trials]
    assert states == ["COMPLETE", "PRUNED", "COMPLETE", "PRUNED", "COMPLETE"]
    assert max(study.trials[1].intermediate_values) == 2 and len(study.trials[1].user_attrs["points"]) == 2
    assert max(study.trials[2].intermediate_values) == asked.checkpoints
    assert all(counted(trial) for trial in study.trials)


def test_a_trial_that_fails_keeps_its_message_and_the_study_goes_on() -> None:
    asked = plan()
    study = optuna.create_study(direction="maximize")

    def breaks(asked: Plan, parameters: Any, report: Report) -> float:
        raise FloatingPointError("weights that are not finite")

    for played in (breaks, lambda *_: 0.25):
        study.optimize(lambda trial, played=played: objective(asked, trial, played), n_trials=1, catch=(Exception,))
    assert [trial.state.name for trial in study.trials] == ["FAIL", "COMPLETE"]
    assert study.trials[0].user_attrs[ERROR] == "FloatingPointError: weights that are not finite"
    assert counted(study.trials[0])


# ------------------------------------------------------------------------------------------------------------- a study
def test_the_record_is_complete_and_the_first_trial_is_the_default(two: Path) -> None:
    found = record(two)
    names = {path.name for path in (two / "s").iterdir()}
    assert {"study.json", "best.json", "history.png", "curves.png"} <= names
    default = default_config("ppo_flash", quick=True)
    first = found["trials"][0]
    assert first["default"] and first["state"] == "COMPLETE"
    assert with_parameters(default, first["parameters"]) == default
    assert set(found["levels"]) == {"90% of the best", "95% of the best", "tuned_rule"}
    assert found["plan"]["clock"] == "wall" and found["versions"]["optuna"] and found["git"]
    for trial in found["trials"]:
        points = [Point(**point) for point in trial["points"]]
        assert points[0].steps == 0 and [p.seconds for p in points] == sorted(p.seconds for p in points)
        assert trial["final_share"] == points[-1].share and trial["steps"] == points[-1].steps > 0
        assert trial["machine"] and trial["engine"] == "optuna" and set(trial["seconds_to"]) == set(found["levels"])
        if trial["state"] == "COMPLETE":
            assert trial["value"] == pytest.approx(quality_over_time(points, 0.3))
            assert points[-1].seconds >= 0.3


def test_the_best_trials_command_trains_with_its_values(two: Path) -> None:
    best = json.loads((two / "s" / "best.json").read_text())
    trial = record(two)["trials"][best["trial"]]
    words = shlex.split(best["command"])
    assert words[:4] == ["python", "-m", "experiments.train", "ppo_flash"]
    config = parse(words[3:])
    assert config.agent == with_parameters(config, best["parameters"]).agent and config.steps == trial["steps"]


def test_the_same_command_adds_what_is_missing_and_repeats_the_same_search(two: Path, tmp_path: Path) -> None:
    before = record(two)["trials"]
    after = sweep(two, 3)["trials"]
    assert after[:2] == [trial | {"seconds_to": after[k]["seconds_to"]} for k, trial in enumerate(before)] and len(after) == 3
    assert sweep(two, 3)["trials"] == after
    in_one_go = sweep(tmp_path, 3)["trials"]
    assert [trial["parameters"] for trial in in_one_go] == [trial["parameters"] for trial in after]


@pytest.mark.slow
def test_a_killed_sweep_goes_on_and_plays_another_in_the_lost_trials_place(two: Path, tmp_path: Path) -> None:
    shutil.copyfile(two / "s.db", tmp_path / "s.db")
    ended = len(record(two)["trials"])
    flags = [*TINY, "--out", str(tmp_path), "--study", "s", "--trials", str(ended + 1)]
    process = subprocess.Popen([sys.executable, "-m", "experiments.sweep", *flags], cwd=REPOSITORY, stdout=subprocess.DEVNULL)
    try:
        wait_for_running(tmp_path / "s.db")
    finally:
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
    assert main(flags) == 0
    *before, lost, played = record(tmp_path)["trials"]
    assert len(before) == ended and lost["state"] == "INTERRUPTED"
    assert played["state"] in ("COMPLETE", "PRUNED") and played["parameters"] == lost["parameters"]


def test_a_default_that_was_interrupted_is_played_again() -> None:
    asked = plan()
    study = optuna.create_study(direction="maximize")
    for state, waiting in (("FAIL", 1), ("COMPLETE", 0)):
        enqueue_default(study, asked)
        enqueue_default(study, asked)  # the one that waits is enough
        trial = study.ask()
        assert suggest(asked.space, trial) == parameters_of(asked.config, asked.space)
        study.tell(trial, 1.0 if state == "COMPLETE" else None, state=optuna.trial.TrialState[state])
        enqueue_default(study, asked)
        assert sum(trial.state.name == "WAITING" for trial in study.trials) == waiting


def wait_for_running(database: Path) -> None:
    """Until a trial's values are there: it was begun."""
    end = time.monotonic() + 60.0
    while time.monotonic() < end:
        if database.is_file():
            try:
                study = optuna.load_study(study_name="s", storage=f"sqlite:///{database}")
            except (KeyError, optuna.exceptions.StorageInternalError, RuntimeError, AssertionError):
                continue
            if any(trial.params and trial.state.name == "RUNNING" for trial in study.get_trials(deepcopy=False)):
                return
        time.sleep(0.05)
    raise TimeoutError("no trial began")


def test_dqn_is_swept_by_processor_time(tmp_path: Path) -> None:
    arguments = "dqn_flash --quick --seconds 0.3 --checkpoints 2 --episodes 4 --clock cpu --trials 1 --study s".split()
    assert main([*arguments, "--only", "learning_rate", "--fix", "gamma=0.5", "--out", str(tmp_path)]) == 0
    found = record(tmp_path)
    assert found["plan"]["clock"] == "cpu" and found["plan"]["agent"]["gamma"] == 0.5
    assert [trial["parameters"] for trial in found["trials"]] == [{"learning_rate": 1e-3}]


@pytest.mark.slow
def test_processes_beside_each_other_play_exactly_the_trials_asked_for(tmp_path: Path) -> None:
    found = sweep(tmp_path, 5, "--jobs", "2")
    assert len(found["trials"]) == 5 and {trial["state"] for trial in found["trials"]} <= {"COMPLETE", "PRUNED"}
    assert sum(trial["default"] for trial in found["trials"]) == 1


def test_what_ray_tells_the_study_is_told_as_optuna_would(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    from experiments.sweep_ray import VALUE, StudySearch

    asked, storage = plan(checkpoints=4), sweep_study.Storage(tmp_path / "s.db", "s")
    study = optuna.create_study(storage=storage.load(), study_name="s", direction="maximize")
    search = StudySearch(asked, study, storage)

    def result(judgement: int, value: float) -> dict[str, Any]:
        points = [[0.1 * k, k, value] for k in range(judgement)]
        common = {"judgement": judgement, "training_iteration": judgement}
        return {VALUE: value, "points": points, "provenance": json.dumps({"engine": "ray"}), **common}

    for trial in ("complete", "pruned", "failed", "killed"):
        assert set(search.suggest(trial)) == set(asked.space)
    for judgement in (1, 2, 3):
        search.on_trial_result("complete", result(judgement, 0.1))
    search.on_trial_complete("complete", result(4, 0.4))  # the scheduler ends it: its last result comes with its end
    search.on_trial_result("pruned", result(1, 0.1))
    search.on_trial_complete("pruned", result(2, 0.2))
    search.on_trial_complete("failed", {VALUE: float("-inf"), ERROR: "ValueError: x", "judgement": 4, "training_iteration": 1})
    search.on_trial_complete("killed", None, error=True)
    complete, pruned, failed, killed = study.trials
    assert (complete.state.name, complete.value, len(complete.user_attrs["points"])) == ("COMPLETE", 0.4, 4)
    assert (pruned.state.name, pruned.value, len(pruned.user_attrs["points"])) == ("PRUNED", 0.2, 2)
    assert (failed.state.name, failed.user_attrs[ERROR]) == ("FAIL", "ValueError: x")
    assert killed.state.name == "FAIL" and "was killed" in killed.user_attrs[ERROR]
    assert all(counted(trial) for trial in study.trials)


@pytest.mark.slow
def test_ray_plays_the_same_study_and_optuna_goes_on_with_it(tmp_path: Path) -> None:
    pytest.importorskip("ray", reason="the extra ray is not installed")
    found = sweep(tmp_path, 3, "--engine", "ray", "--jobs", "2")
    first = found["trials"]
    assert len(first) == 3 and {trial["engine"] for trial in first} == {"ray"}
    assert first[0]["default"] and {trial["state"] for trial in first} <= {"COMPLETE", "PRUNED"}
    for trial in first:
        if trial["state"] == "COMPLETE":
            assert trial["value"] == pytest.approx(quality_over_time([Point(**point) for point in trial["points"]], 0.3))
    after = sweep(tmp_path, 4)["trials"]
    assert [trial["parameters"] for trial in after[:3]] == [trial["parameters"] for trial in first]
    assert after[3]["engine"] == "optuna" and set(after[3]) == set(first[0])


# ------------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ("ppo_moon --trials 1", "NAME = 'ppo_moon'; accepted are ppo_flash"),
        ("iql_flash --trials 1", "NAME = 'iql_flash'; accepted are runs of ppo and dqn"),
        ("gbm_sell --trials 1", "NAME = 'gbm_sell'; accepted are runs of ppo and dqn"),
        ("ppo_flash --trials 0", "trials = 0; accepted is 1"),
        ("ppo_flash --trials 1 --jobs 0", "jobs = 0; accepted is 1"),
        ("ppo_flash --trials 1 --seconds 0", "seconds = 0.0; accepted is above 0"),
        ("ppo_flash --trials 1 --seconds nan", "seconds = nan; accepted is above 0"),
        ("ppo_flash --trials 1 --checkpoints 0", "checkpoints = 0; accepted is 1"),
        ("ppo_flash --trials 1 --episodes 1", "episodes = 1; accepted is 2"),
        ("ppo_flash --trials 1 --only epoch", "--only 'epoch'; accepted are hidden"),
        ("ppo_flash --trials 1 --only gamma --fix gamma=0.5", "--only 'gamma'; accepted are hidden"),
        ("ppo_flash --trials 1 --fix gama=0.5", "--fix 'gama'; accepted are environments"),
        ("ppo_flash --trials 1 --fix gamma", "--fix 'gamma'; accepted is FIELD=VALUE"),
        ("ppo_flash --trials 1 --fix gamma=1.5", "gamma = 1.5; accepted is 0 to 1"),
        ("ppo_flash --trials 1 --fix hidden=64x64", "hidden = '64x64'; accepted is widths such as 64,64"),
        ("ppo_flash --trials 1 --fix epochs=2.5", "epochs = '2.5'; accepted is a value of type int"),
        ("ppo_flash --trials 1 --study a/b", "study = 'a/b'; accepted is a name without slashes"),
        ("ppo_flash --trials 1 --ray-address auto", "ray-address = 'auto'; accepted is --ray-address with --engine ray"),
        ("ppo_flash --trials 1 --preset moon", "preset"),
    ],
)
def test_bad_flags_are_refused_and_nothing_is_written(
    flags: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*flags.split(), "--out", str(tmp_path / "out")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_storage_that_cannot_be_one_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "text.db"
    text.write_text("no database, and long enough to be looked at as one\n" * 100)
    for path, message in ((tmp_path / "none" / "s.db", "is no folder"), (text, "file is not a database")):
        assert main([*TINY, "--trials", "1", "--storage", str(path), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err
    assert text.read_text().startswith("no database")


@pytest.mark.parametrize(
    ("flags", "field"),
    [
        (["--seconds", "0.4"], "seconds"),
        (["--only", "gamma"], "agent"),
        (["--fix", "clip_range=0.3"], "agent"),
        (["--clock", "cpu"], "clock"),
        (["--preset", "polygon"], "preset"),
        (["--seed", "1"], "training_seed"),
    ],
)
def test_a_study_of_something_else_is_refused_and_left_as_it_is(
    flags: Sequence[str], field: str, two: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = record(two)
    assert main([*TINY, "--out", str(two), "--study", "s", "--trials", "9", *flags]) == 2
    assert f"was begun with {field} = " in capsys.readouterr().err
    assert record(two) == before


def test_a_missing_ray_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.delitem(sys.modules, "experiments.sweep_ray", raising=False)  # else it is there from another test
    monkeypatch.delattr(experiments, "sweep_ray", raising=False)
    monkeypatch.setitem(sys.modules, "ray", None)
    assert main([*TINY, "--trials", "1", "--engine", "ray", "--out", str(tmp_path)]) == 2
    assert "pip install 'arbgym[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "ppo_flash-quick").exists()


def test_configuration_errors_are_value_errors() -> None:
    with pytest.raises(ConfigError, match="accepted are runs of ppo and dqn"):
        space_of(default_config("cql_flash"))
