"""What was trained is what runs: the same blocks on a real chain, in a replay, and in the environment, decided alike."""

from __future__ import annotations

import asyncio
import os
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')
pytest.importorskip("onnx", reason="the extra train is not installed")

from arbgym.live.assemble import Options, assembled
from arbgym.live.decision import Decision
from arbgym.live.logs import Redactor
from arbgym.live.tapes import read_views, tape_of
from arbgym.live.terms import ChainView
from arbgym.policy import load as load_policy
from tests.chain.anvil import Anvil
from tests.chain.market import Market
from tests.live.policies import quiet_config, save_policy
from tests.live.pools import BLOCK_TIME_S, Pools


class Watched:
    """What one run observed and decided, block by block."""

    def __init__(self) -> None:
        self.observations: dict[int, Any] = {}
        self.decisions: dict[int, Decision] = {}
        self.plans: dict[int, Any] = {}
        self.limits: Any = None


async def run(options: Options, blocks: int | None, before_each: Any = None) -> Watched:
    """Let a runner take its blocks; ``before_each()`` makes the next one."""
    seen = Watched()
    async with assembled(options, Redactor()) as made:
        parts, runner = made.runner.parts, made.runner
        seen.limits = parts.gate.limits
        decide, plan = parts.decider.decide, parts.planner.plan

        def decided(observation: Any) -> Decision:
            assert runner.view is not None
            decision = decide(observation)
            seen.observations[runner.view.head.number] = observation[0].copy()
            seen.decisions[runner.view.head.number] = decision
            return decision

        def planned(decision: Decision, view: ChainView) -> Any:
            found = plan(decision, view)
            seen.plans[view.head.number] = found[0] if isinstance(found, tuple) else found
            return found

        parts.decider.decide, parts.planner.plan = decided, planned  # type: ignore[method-assign]
        if before_each is not None:
            following = parts.feed.next

            async def next_block() -> ChainView:
                await asyncio.to_thread(before_each)
                return await following()

            parts.feed.next = next_block  # type: ignore[method-assign]
        await runner.run(blocks)
    return seen


def play(policy_folder: Path, tape: Any, config: Any) -> tuple[list[Any], list[dict[str, Any]]]:
    """The environment on a tape, session by session, as the policy plays it: observations and infos by row."""
    policy, observations, infos = load_policy(policy_folder), [], []
    arguments = {field.name: getattr(config, field.name) for field in fields(config) if field.name != "preset"}
    length, rows = config.episode_blocks, len(tape.timestamps)
    for start in range(0, rows - 1, length):
        stop = min(start + length + 1, rows)
        span = replace(
            tape,
            timestamps=tape.timestamps[start:stop],
            reference_price=tape.reference_price[start:stop],
            base_fee_gwei=tape.base_fee_gwei[start:stop],
            price=tape.price[start:stop],
            liquidity=tape.liquidity[start:stop],
            flow_base=tape.flow_base[start:stop],
            _rows=None,
        )
        env = gymnasium.make("ArbFlash-v0", feed="replay", tape=span, **arguments)
        observation, _ = env.reset(seed=start)
        for _ in range(stop - start - 1):
            observations.append(observation)
            masks = env.unwrapped.action_masks()[None]  # type: ignore[attr-defined]
            observation, _, terminated, truncated, info = env.step(policy.predict(observation[None], masks)[0])
            infos.append(info)
        assert terminated or truncated
    return observations, infos


def check_parity(
    folder: Path, url: str, pools: Pools, blocks: int, session: int, block_time_s: float = BLOCK_TIME_S, coin_price: float = 1.0
) -> tuple[int, int]:
    """(decisions compared, those that acted); every observation, decision and plan equal."""
    config = quiet_config(episode_blocks=session)
    policy_folder = save_policy(folder / "policy", config=config, seed=3, masked=True)
    elsewhere = pools.settings(url, folder, relay={"url": "http://127.0.0.1:9"})  # a dry run has the ways of a live one
    coin = {} if coin_price == 1.0 else {"native_is_base": False, "native_price_ratio": coin_price}
    settings = pools.settings(url, folder, relay={"url": "http://127.0.0.1:9"}, chain={"block_time_s": block_time_s}, pair=coin)
    recording = folder / "blocks.jsonl.gz"
    live = asyncio.run(run(Options(policy_folder, settings, record=recording), blocks, pools.trade))
    # the recording says the block time: a replay's settings are another chain's, or nobody's
    again = asyncio.run(run(Options(policy_folder, elsewhere, replay=recording, backend="onnxruntime"), None))
    assert live.limits == again.limits

    assert live.decisions == again.decisions and len(live.decisions) == blocks
    assert live.plans == again.plans
    for number, observation in live.observations.items():
        assert np.array_equal(observation, again.observations[number]), number

    views = asyncio.run(read_views(recording))
    tape = tape_of(views, recording, config.chain)
    assert not tape.filled
    world = {"block_time_s": block_time_s, "native_price_ratio": coin_price}
    observations, infos = play(policy_folder, tape, replace(config, chain=replace(config.chain, **world)))
    assert len(observations) == blocks - 1
    acted = 0
    for view, observation, info in zip(views, observations, infos, strict=False):
        number = view.head.number
        decision = live.decisions[number]
        assert np.array_equal(observation, live.observations[number]), number
        assert bool(info["attempted"]) == decision.attempting, number
        if decision.acting:
            acted += 1
            assert info["notional"] == decision.notional_quote and info["predicted_profit"] == decision.predicted_quote
            assert min(info["bid_share"], 1.0) == decision.own_bid
    return len(observations), acted


@pytest.fixture
def slots() -> Any:
    """A node whose blocks are one slot apart."""
    node = Anvil("--timestamp", "1700000000")
    node.call("anvil_setBlockTimestampInterval", BLOCK_TIME_S)
    yield node
    node.kill()


def test_chain_replay_and_environment_decide_alike(chain_packages: None, slots: Anvil, tmp_path: Path) -> None:
    pools = Pools(Market(slots, (18, 6)), seed=1)
    compared, acted = check_parity(tmp_path, slots.url, pools, blocks=121, session=40)
    assert compared == 120 and acted > 20


def test_another_block_time_and_coin_are_the_recording_s(chain_packages: None, slots: Anvil, tmp_path: Path) -> None:
    slots.call("anvil_setBlockTimestampInterval", 2)
    pools = Pools(Market(slots, (18, 6)), seed=1)
    compared, acted = check_parity(tmp_path, slots.url, pools, blocks=81, session=40, block_time_s=2.0, coin_price=0.35)
    assert compared == 80 and acted > 10


@pytest.mark.slow
def test_many_blocks(chain_packages: None, slots: Anvil, tmp_path: Path) -> None:
    """2,000 blocks; ARBGYM_PARITY_BLOCKS=10000 for the whole promise, which takes some minutes."""
    blocks = int(os.environ.get("ARBGYM_PARITY_BLOCKS", "2000"))
    pools = Pools(Market(slots, (18, 6)), seed=2)
    compared, acted = check_parity(tmp_path, slots.url, pools, blocks=blocks + 1, session=200)
    assert compared == blocks and acted > blocks // 10
