"""A truth for the learner: PPO finds the equilibrium bid of the first-price auction (Krishna, Auction Theory)."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from agents.ppo import PPORecipe
from agents.vec import NativeVecEnv
from arbgym.engine import NativeVectorEnv

FLASH = "arbgym.envs.flash"
BIDDERS = 4


@pytest.mark.slow
def test_ppo_bids_three_quarters_of_its_value_against_three_equilibrium_bidders() -> None:
    recipe = replace(PPORecipe(), environments=512)
    arguments = {"preset": "auction", "auction_bidders": BIDDERS}
    env = NativeVecEnv(NativeVectorEnv(FLASH, recipe.environments, copy=False, **arguments))
    env.seed(0)
    model = recipe.build(env, seed=0)
    model.learn(1_000_000)
    judge = NativeVectorEnv(FLASH, 4_096, copy=False, **arguments)
    judge.reset(seed=10_000_000)
    error, payoff, blocks = 0.0, 0.0, 60
    for _ in range(blocks):
        judge.step_in_place(model.predict(judge.observations, deterministic=True)[0])
        value = judge.info["predicted_profit"] / judge.config.auction_value_quote
        error += float(np.abs(judge.info["bid_share"] * value - (BIDDERS - 1) / BIDDERS * value).mean()) / blocks
        payoff += float(judge.info["net_profit"].mean()) / judge.config.auction_value_quote / blocks
    assert error <= 0.02
    assert payoff >= 0.98 / (BIDDERS * (BIDDERS + 1))
