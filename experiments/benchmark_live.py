"""The live adapter's figures: a decision's time, from a new head to a signed transaction, and what the runner weighs.

The chain's part wants anvil and the pools' contracts (``make chain``); without them its row is left out.
"""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from packaging.requirements import Requirement

import arbgym
from agents.export import export
from agents.ppo import PPORecipe
from agents.vec import NativeVecEnv
from arbgym import policy as policies
from arbgym.amm import ConcentratedPool, ConstantProductPool
from arbgym.amm.tick_math import sqrt_price_x96_at_tick
from arbgym.engine import NativeVectorEnv, load_definition
from arbgym.live.decision import Decider
from arbgym.live.kill import KillSwitch
from arbgym.live.logs import Redactor, start_logging
from arbgym.live.observer import Observer
from arbgym.live.planning import Planner
from arbgym.live.profiles import PROFILES, Limits
from arbgym.live.recording import Recorder, RecordingHeader
from arbgym.live.risk import MemoryStore, RiskGate
from arbgym.live.terms import ChainView, Head, Order, PoolModel, Reference, WatchedPool

_CALLS = 5_000
_HEADS = 200
_GOALS_US = {"decision p50": 100.0, "decision p99": 500.0, "policy p50": 15.0}
_BASE, _QUOTE = "0x" + "b" * 40, "0x" + "d" * 40


def rows() -> list[dict[str, Any]]:
    """One row per figure; the ratio is to the goal, at most 1 where it is met."""
    with tempfile.TemporaryDirectory() as folder, (Path(folder) / "log").open("w") as log:
        directory = save_untrained(Path(folder) / "policy")
        logging = start_logging(Redactor(), stream=log)
        try:
            return _decisions(directory, Path(folder)) + _chain(Path(folder)) + _weight(directory, Path(folder))
        finally:
            logging.close()


def save_untrained(directory: Path, hidden: tuple[int, ...] = (64, 64)) -> Path:
    """A PPO policy of ArbFlash-v0 as it is before training: as fast as a trained one."""
    definition = load_definition(arbgym.ENVIRONMENTS["ArbFlash-v0"])
    env = NativeVecEnv(NativeVectorEnv(arbgym.ENVIRONMENTS["ArbFlash-v0"], 8))
    model = PPORecipe(environments=8, hidden=hidden).build(env, 0)
    low, high = env.observation_space.low, env.observation_space.high  # type: ignore[attr-defined]
    content, golden = export(model, np.random.default_rng(0).uniform(low, high, (256, len(low))).astype(np.float32))
    policies.save(
        directory,
        content,
        definition=definition,
        config=definition.configure("ethereum"),
        preset="ethereum",
        encoding="multidiscrete",
        feed="simulated",
        golden=golden,
        provenance={"steps": 0, "seed": 0},
    )
    return directory


def _row(name: str, value: float, unit: str, goal: float | None = None) -> dict[str, Any]:
    ratio_to = None if goal is None else f"the goal, {goal:g}"
    return {"name": f"live.{name}", "value": value, "unit": unit, "ratio_to": ratio_to, "ratio": goal and value / goal}


def _times_us(call: Callable[[int], Any], calls: int = _CALLS) -> np.ndarray[Any, np.dtype[np.float64]]:
    taken = np.empty(calls)
    for k in range(calls // 10):
        call(k)
    for k in range(calls):
        start = time.perf_counter()
        call(k)
        taken[k] = time.perf_counter() - start
    return taken * 1e6


# ---------------------------------------------------------------------------------------------------------- one decision
class _NoClock:
    """A clock that stands with the blocks."""

    seconds = 1.7e9

    def now(self) -> float:
        """The newest block's time."""
        return self.seconds

    def monotonic(self) -> float:
        """The same."""
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        """Not waited."""


def _watched() -> tuple[WatchedPool, ...]:
    kinds = (("v2", 3_000, None), ("v3", 500, 10), ("v2", 3_000, None), ("v3", 3_000, 60))
    return tuple(
        WatchedPool(f"pool{k}", f"0x{k + 1:040x}", kind, fee, _BASE, _QUOTE, 18, 6, True, spacing)  # type: ignore[arg-type]
        for k, (kind, fee, spacing) in enumerate(kinds)
    )


def _view(number: int, rng: np.random.Generator) -> ChainView:
    """A block of four pools near 1,840, a little apart from each other."""
    pools: list[PoolModel] = []
    for watched in _watched():
        price = 1_840.0 * float(np.exp(rng.normal(0.0, 3e-3)))
        if watched.kind == "v2":
            pools.append(ConstantProductPool(5_000 * 10**18, int(5_000 * price * 1e6)))
        else:
            tick = int(np.floor(np.log(price * 1e-12) / np.log(1.0001)))
            spacing = watched.tick_spacing or 1
            reach = 200 * spacing
            middle = tick // spacing * spacing
            pools.append(
                ConcentratedPool(
                    sqrt_price_x96=sqrt_price_x96_at_tick(tick),
                    tick=tick,
                    liquidity=4 * 10**18,
                    fee=watched.fee_ppm,
                    tick_spacing=spacing,
                    ticks={middle - reach: 4 * 10**18, middle + reach: -4 * 10**18},
                )
            )
    seconds = 1_700_000_000 + 12 * number
    head = Head(number, f"0x{number:064x}", f"0x{number - 1:064x}", seconds, 15 * 10**9, 15_000_000, 30_000_000)
    reference = Reference(1_840.0, float(seconds), "benchmark")
    return ChainView(head, tuple(pools), (0.0,) * 4, (), 0, reference)


def _decisions(directory: Path, folder: Path) -> list[dict[str, Any]]:
    rng = np.random.default_rng(0)
    views = [_view(number, rng) for number in range(1, 400)]
    found = []
    for backend in ("numpy", "onnxruntime"):
        policy = policies.load(directory, backend=backend)
        rows_seen = rng.uniform(0.0, 1.0, (_CALLS, 1, len(policy.definition.observation))).astype(np.float32)
        taken = _times_us(lambda k, policy=policy, rows_seen=rows_seen: policy.predict(rows_seen[k]))  # type: ignore[misc]
        goal = _GOALS_US["policy p50"] if backend == "numpy" else None
        found.append(_row(f"policy alone, {backend}, p50", float(np.median(taken)), "us", goal))
        found.append(_row(f"policy alone, {backend}, p99", float(np.quantile(taken, 0.99)), "us"))
    policy = policies.load(directory, backend="numpy")
    observer = Observer(policy, _watched())
    decider = Decider(policy, observer)
    planner = Planner(observer, chain_id=1, policy_sha256="", executor="0x" + "e" * 40, lenders={}, maximum_fee_wei=10**15)
    clock = _NoClock()
    gate = RiskGate(_wide(), clock, MemoryStore(), 1e6, KillSwitch(folder / "kill"))
    order = Order("k", 1, clock.now(), clock.now(), 10.0, 10.0, True, 1.0, 0.0, 0.9)
    number = [0]

    def decide(_: int) -> None:
        number[0] += 1
        view = views[number[0] % len(views)]
        observation = observer.advance(view)
        decider.decide(observation)
        gate.check(order)

    taken = _times_us(decide)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        found.append(
            _row(
                f"decision (observe, policy, gate), {name}", float(np.quantile(taken, share)), "us", _GOALS_US[f"decision {name}"]
            )
        )
    acting = []
    for view in views:
        decision = decider.decide(observer.advance(view))
        if decision.acting:
            start = time.perf_counter()
            planner.plan(decision, view)
            acting.append((time.perf_counter() - start) * 1e3)
    if acting:
        found.append(_row("exact plan on the integer pools, p50", float(np.median(acting)), "ms"))
    return found


def _wide() -> Limits:
    return replace(PROFILES["aggressive"], max_notional_eth=1e6, max_flash_borrow_eth=1e6, max_head_age_s=1e9)


# --------------------------------------------------------------------------------------------------------------- a chain
def _chain(folder: Path) -> list[dict[str, Any]]:
    """From a new head to a transaction, signed and sent, on anvil with real pools and the executor."""
    try:
        from tests.chain.anvil import BINARY
    except ImportError:
        return []
    if not BINARY.exists():
        print("anvil is not installed (make chain): the rows from head to transaction are left out", file=sys.stderr)
        return []
    from experiments.live_market import heads_to_transactions_ms

    rows = []
    for scheme, name in (("ws", "WebSocket"), ("http", "HTTP")):
        signed, sent = heads_to_transactions_ms(folder / scheme, _HEADS, scheme)
        rows += [
            _row(f"new head to signed transaction, local anvil, {name}, p50", float(np.median(signed)), "ms", 5.0),
            _row(f"new head to signed transaction, local anvil, {name}, p99", float(np.quantile(signed, 0.99)), "ms"),
            _row(f"new head to sent transaction, journaled durably between, {name}, p50", float(np.median(sent)), "ms"),
            _row(f"new head to sent transaction, journaled durably between, {name}, p99", float(np.quantile(sent, 0.99)), "ms"),
        ]
    return rows


# -------------------------------------------------------------------------------------------------------------- its weight
_IMPORT = """
import time; start = time.perf_counter()
import arbgym.live.__main__
print(time.perf_counter() - start)
"""


def packages(root: str = "arbgym", extra: str = "live") -> set[str]:
    """The installed distributions that ``pip install root[extra]`` brings, by the requirements' own words."""
    seen: set[tuple[str, str]] = set()
    names: set[str] = set()

    def visit(name: str, extras: tuple[str, ...]) -> None:
        try:
            distribution = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            return
        names.add(re.sub(r"[-_.]+", "-", name).lower())
        for text in distribution.requires or []:
            requirement = Requirement(text)
            for wanted in ("", *extras):
                if requirement.marker is not None and not requirement.marker.evaluate({"extra": wanted}):
                    continue
                key = (requirement.name.lower(), ",".join(sorted(requirement.extras)))
                if key not in seen:
                    seen.add(key)
                    visit(requirement.name, tuple(requirement.extras))

    visit(root, (extra,))
    return names


# a light process between: a child's peak counts what its parent held when it was forked
_LAUNCH = """
import resource, subprocess, sys
subprocess.run(sys.argv[1:], stderr=subprocess.DEVNULL, check=True)
print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss)
"""


def _weight(directory: Path, folder: Path) -> list[dict[str, Any]]:
    def imported() -> float:
        done = subprocess.run([sys.executable, "-c", _IMPORT], capture_output=True, text=True, check=True)
        return float(done.stdout.split()[-1])

    imported()
    _resident_mb(directory, folder)  # compiles, where that was not done before
    return [
        _row("import of the runner, warm", min(imported() for _ in range(5)), "s", 1.6),
        _row("resident memory, at most, in a replay of 300 blocks", _resident_mb(directory, folder), "MB", 250.0),
        _row("packages of arbgym[live]", float(len(packages())), "packages", 65.0),
    ]


def _resident_mb(directory: Path, folder: Path) -> float:
    """The most that a runner held while it replayed a recording."""
    recording = folder / "blocks.jsonl"
    if not recording.exists():
        rng = np.random.default_rng(0)
        recorder = Recorder(recording, RecordingHeader(1, _watched(), ()))
        for number in range(1, 301):
            recorder.write(_view(number, rng))
        recorder.close()
    command = [sys.executable, "-c", _LAUNCH, sys.executable, "-m", "arbgym.live", str(directory), "--replay", str(recording)]
    path = os.environ | {"PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, env=path, check=True)
    return float(done.stdout.split()[-1]) / 1024.0
