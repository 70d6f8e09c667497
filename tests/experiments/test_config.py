"""Configurations: the command line, JSON and back, and the disjoint bands of seeds."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from arbgym.evaluation import HELD_OUT_SEED, TUNING_SEED
from experiments.config import RUNS, ConfigError, command, default_config, from_json, parse, to_json

FLAGS = (
    "--preset base --seed 3 --agent.hidden 32 16 --agent.gamma 0.5 --world.chain.base-fee-gwei 3 "
    "--world.pools.0.fee-ppm 100 --world.rival-counts 1 2 3 --world.poisson-blocks "
    "--evaluation.episodes 9 --minutes 2.5"
).split()


def test_flags_reach_every_level() -> None:
    config = parse(["ppo_flash", *FLAGS])
    assert config.agent.hidden == (32, 16) and config.agent.gamma == 0.5
    assert config.world.chain.base_fee_gwei == 3.0 and config.world.chain.block_time_s == 2.0
    assert config.world.pools[0].fee_ppm == 100.0 and config.world.rival_counts == (1.0, 2.0, 3.0)
    assert config.evaluation.episodes == 9 and config.minutes == 2.5 and config.world.poisson_blocks


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("quick", [False, True])
def test_json_reads_back_as_the_same_configuration(name: str, quick: bool) -> None:
    config = default_config(name, quick=quick)
    assert from_json(to_json(config)) == config
    changed = dataclasses.replace(config, feed="replay", data=Path(__file__), minutes=1.5, out=Path("elsewhere"))
    assert from_json(to_json(changed)) == changed


def test_the_command_of_a_configuration_gives_it_back() -> None:
    config = parse(["ppo_flash", *FLAGS])
    words = command(config).split()
    assert words[:3] == ["python", "-m", "experiments.train"] and parse(words[3:]) == config
    assert command(default_config("dqn_flash", quick=True)) == "python -m experiments.train dqn_flash --quick"


def test_training_tuning_and_held_out_seeds_are_apart() -> None:
    last = dataclasses.replace(default_config("ppo_flash"), seed=999)
    first, second = (dataclasses.replace(last, seed=seed) for seed in (0, 1))
    assert first.training_seed + first.agent.environments < first.resumed_seed(0) < second.training_seed
    assert first.resumed_seed(10**9) + first.agent.environments < second.training_seed
    assert last.resumed_seed(10**9 - 1) + 25_000 <= TUNING_SEED < HELD_OUT_SEED
    with pytest.raises(ConfigError, match="seed = 1000"):
        dataclasses.replace(last, seed=1000)


def test_environments_beyond_a_seed_band_are_refused() -> None:
    """The more environments, the fewer seeds have worlds of their own before those that baselines are tuned on."""
    config = dataclasses.replace(default_config("ppo_flash"), seed=900)
    with pytest.raises(ConfigError, match=r"seed = 900 with agent\.environments = 30000; accepted are seeds 0 to 832"):
        dataclasses.replace(config, agent=dataclasses.replace(config.agent, environments=30_000))
