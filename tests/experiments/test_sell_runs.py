"""ArbSell-v0's named runs from the command line, on simulated launches and on a token tape."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from arbgym import policy as policies
from arbgym.market.token_tape import COLUMNS, TIME_S, TokenTape
from experiments.config import RUNS, default_config
from experiments.evaluate import evaluate_run
from experiments.train import main
from experiments.worlds import held_out_arguments, training_arguments
from tests.experiments.conftest import only_run

pytest.importorskip("pyarrow", reason="the extra data is not installed")

TINY = "--world.episode-blocks 20 --evaluation.episodes 8 --evaluation.tuning-episodes 8".split()
LEARNERS = {
    "ppo_sell": "--steps 2048 --agent.environments 32 --agent.rollout-steps 16 --agent.minibatch 256".split(),
    "dqn_sell": "--steps 2048 --agent.environments 32 --agent.learning-starts 256 --agent.buffer 4096 --agent.batch 64".split(),
    "gbm_sell": "--steps 10 --agent.episodes 64 --agent.tuning-episodes 32 --agent.rows 2000".split(),
}


@pytest.fixture(scope="module")
def tape(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Thirty tokens of a random walk, launched ten minutes apart."""
    generator = np.random.default_rng(0)
    tokens, steps, step_s = 30, 50, 10.0
    rows = np.zeros((tokens, steps, len(COLUMNS)))
    age = step_s * np.arange(steps)
    rows[:, :, 0] = 1.75e9 + 600.0 * np.arange(tokens)[:, None] + age
    rows[:, :, 1] = age
    rows[:, :, 2] = np.exp(np.cumsum(generator.normal(0.0, 0.05, (tokens, steps)), axis=1))
    rows[:, :, 3], rows[:, :, 4] = 1.01 * rows[:, :, 2], 0.99 * rows[:, :, 2]
    rows[:, :, 5:7] = generator.exponential(100.0, (tokens, steps, 2))
    rows[:, :, 7] = 2e4 * np.sqrt(rows[:, :, 2])
    path = tmp_path_factory.mktemp("tape") / "tokens.parquet"
    names = tuple(f"token{k}" for k in range(tokens))
    TokenTape(rows.reshape(-1, len(COLUMNS)), steps * np.arange(tokens + 1), names, step_s).save(path)
    return path


@pytest.mark.parametrize("name", LEARNERS)
def test_a_run_is_judged_exported_and_judged_again(name: str, tmp_path: Path) -> None:
    assert main([name, *TINY, *LEARNERS[name], "--out", str(tmp_path)]) == 0
    folder = only_run(tmp_path)
    result = json.loads((folder / "result.json").read_text())
    assert {name, "wait", "sell_now", "rule", "atr_stop", "tuned_rule", "oracle"} == set(result["policies"])
    for other, figures in result["policies"].items():
        assert figures["net_profit"]["mean"] <= result["policies"]["oracle"]["net_profit"]["mean"] + 1e-6, other
    assert evaluate_run(folder)["policies"] == result["policies"]
    for backend in ("onnxruntime", "numpy"):
        exported = policies.load(folder / "policy", backend=backend)
        assert exported.manifest["environment"]["id"] == "ArbSell-v0"


def test_a_run_on_a_token_tape_learns_from_the_earlier_and_is_judged_on_the_later(tape: Path, tmp_path: Path) -> None:
    flags = ["--feed", "replay", "--data", str(tape), "--out", str(tmp_path)]
    assert main(["ppo_sell", *TINY, *LEARNERS["ppo_sell"], *flags]) == 0
    folder = only_run(tmp_path)
    assert evaluate_run(folder)["policies"] == json.loads((folder / "result.json").read_text())["policies"]


def test_no_position_of_the_training_span_is_open_when_the_judged_one_begins(tape: Path) -> None:
    config = dataclasses.replace(default_config("ppo_sell"), feed="replay", data=tape)
    earlier, later = training_arguments(config)["tape"], held_out_arguments(config)["tape"]
    begins = later.rows[later.entries, TIME_S].min()
    last = earlier.rows[earlier.starts[earlier.token_of(earlier.entries) + 1] - 1, TIME_S]
    assert (last < begins).all()
    assert 0 < len(later.entries) < len(earlier.entries)
    assert not set(earlier.entries) & set(later.entries)


@pytest.mark.parametrize(
    ("flags", "word"),
    [
        (["--world.venue", "nowhere"], "venue"),
        (["--feed", "replay"], "data"),
        (["--feed", "replay", "--data", "missing.parquet"], "missing.parquet"),
        (["--agent.acting-probability", "1.5"], "acting_probability"),
    ],
)
def test_bad_input_is_refused_before_anything_is_written(
    flags: list[str], word: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    try:
        status = main(["ppo_sell", *flags, "--out", str(tmp_path)])
    except SystemExit as refusal:  # a value that the flags' own parser refuses
        status = refusal.code
    assert status == 2
    assert word in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_supervised_run_leaves_nothing_to_go_on_from(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["gbm_sell", *TINY, *LEARNERS["gbm_sell"], "--out", str(tmp_path)]) == 0
    assert main(["--resume", str(only_run(tmp_path))]) == 2
    assert "one go" in capsys.readouterr().err


def test_every_learner_has_a_name() -> None:
    assert {"ppo_sell", "dqn_sell", "iql_sell", "cql_sell", "gbm_sell", "tcn_sell"} <= set(RUNS)
