"""The whole runner on a simulated chain, with a fake clock, through every fault that it must survive.

Judged is by the chain's own history and the journal's rows (``simulated.audit``): nothing sent twice, nothing lost, no limit
broken, nothing sent after a kill or a halt, and the journal tells of each intent the end that the chain tells.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from hypothesis import given, settings
from hypothesis import strategies as st

from arbgym.live.journal import Journal
from arbgym.live.receipts import Receipt
from arbgym.live.risk import RiskGate
from arbgym.live.terms import Verdict
from tests.live.simulated.clock import SimulatedLoop
from tests.live.simulated.faults import KINDS, Fault
from tests.live.simulated.trial import count_on_two_processes, live

QUICK_SEEDS = range(3)

# After these the same process goes on: nothing that cannot be true was said.
PASSING = {
    "TimeOut", "RateLimited", "ServerError", "Disconnected", "MalformedJson", "StaleHead", "HeadBack", "DuplicatedLogs",
    "HiddenReceipts", "RefusedSend", "NonceRace", "Underpriced", "Dropped", "Late", "Reorganisation", "ClockJump", "NotANumber",
    "OutOfRange", "StaleReference",
}  # fmt: skip

JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**70), 2**260)
    | st.floats()
    | st.text(max_size=8)
    | st.sampled_from(["0x", "0x0", "0x1", "0x" + 64 * "0", "0x" + 64 * "f", "0x" + 640 * "1"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["number", "hash", "logs", "status", "blockNumber", "topics", "data"]) | st.text(max_size=3),
            inner,
            max_size=4,
        )
    ),
    max_leaves=8,
)


@pytest.fixture(scope="module")
def loop() -> Iterator[SimulatedLoop]:
    loop = SimulatedLoop()
    yield loop
    loop.close()


def test_without_faults_every_intent_makes_what_it_promised(loop: SimulatedLoop) -> None:
    sent = 0
    for seed in range(6):
        record = live(seed, [], loop).record
        assert not record.stops
        for story in record.stories.values():
            assert story.state == "mined" and story.outcome["profit_raw"] == story.plan["expected_profit_raw"]
        sent += len(record.stories)
    assert sent > 15


@pytest.mark.parametrize("kind", KINDS)
def test_survives(kind: str, loop: SimulatedLoop) -> None:
    worlds = [live(seed, [kind], loop) for seed in QUICK_SEEDS]
    assert any(world.faults[0].struck for world in worlds)
    assert any(world.record.attempts for world in worlds)
    assert kind not in PASSING or not any(world.record.stops for world in worlds)


@pytest.mark.parametrize("kind", ["TimeOut", "Killed", "Reorganisation"])
def test_same_seed_same_journal(kind: str, loop: SimulatedLoop) -> None:
    first, again, other = (live(seed, [kind], loop).record.digest for seed in (3, 3, 4))
    assert first == again != other


def test_survives_several_at_once(loop: SimulatedLoop) -> None:
    names = list(KINDS)
    for seed in range(8):
        live(seed, [names[(seed * step) % len(names)] for step in (3, 5, 11)], loop)


def test_a_deep_reorganisation_halts(loop: SimulatedLoop) -> None:
    for seed in range(3):
        world = live(seed, ["DeepReorganisation"], loop, resumes=False)
        assert any("accepted is a reorganisation up to 12 deep" in stop for stop in world.record.stops)
        happened_s = 12.0 * world.faults[0].first
        assert any(attempt.elapsed_s < happened_s for attempt in world.record.attempts)
        assert not any(attempt.elapsed_s > happened_s and attempt.transaction.data != "0x" for attempt in world.record.attempts)


def test_another_chain_is_never_sent_to(loop: SimulatedLoop) -> None:
    for seed in range(3):
        world = live(seed, ["WrongChainId"], loop, resumes=False)
        assert world.record.stops and not world.record.attempts and not world.record.stories


def test_the_kill_switch_ends_sending(loop: SimulatedLoop) -> None:
    before = 0
    for seed, kinds, kill_at in ((0, [], 7), (1, ["Late"], 6), (31, ["ServerError"], 4), (33, ["Dropped"], 6)):
        world = live(seed, kinds, loop, kill_at=kill_at)
        before += len(world.record.attempts)
        assert not any(attempt.killed and attempt.transaction.data != "0x" for attempt in world.record.attempts)
    assert before > 4


@pytest.mark.parametrize(
    ("part", "name", "instead", "kinds", "options"),
    [
        (RiskGate, "check", lambda self, order: Verdict(True), [], {"kill_at": 5}),
        (RiskGate, "check", lambda self, order: Verdict(True), ["StaleHead"], {}),
        (Receipt, "income", lambda self, token, owner: 10**9, [], {}),
        (Journal, "settled_since", lambda self, number: [], ["Reorganisation"], {}),
    ],
    ids=["open-after-a-kill", "open-gate", "wrong-profit", "ends-for-good"],
)
def test_the_judge_condemns(part: Any, name: str, instead: Any, kinds: list[str], options: Any, monkeypatch: Any) -> None:
    """A gate that lets everything pass, an account that is kept wrong, ends that nothing takes back."""
    loop = SimulatedLoop()
    monkeypatch.setattr(part, name, instead)
    if part is RiskGate:
        monkeypatch.setattr(RiskGate, "still_allowed", instead)
    condemned = 0
    for seed in range(5):
        try:
            live(seed, kinds, loop, **options)
        except AssertionError:
            condemned += 1
    loop.close()
    assert condemned >= 2


class Arbitrary(Fault):
    """From some block on, everything is answered by whatever a test draws."""

    def __init__(self, first: int, answers: list[Any]) -> None:
        super().__init__(0)
        self.first, self.last, self.active = first, 1000, first == 0
        self.answers = answers

    async def after(self, method: str, parameters: Any, answer: Any) -> Any:
        if not self.active:
            return answer
        self.struck += 1
        return self.answers[self.struck % len(self.answers)]


@settings(max_examples=25, deadline=None)
@given(st.sampled_from([0, 4]), st.lists(JSON, min_size=1, max_size=6))
def test_arbitrary_answers_are_never_acted_on(first: int, answers: list[Any]) -> None:
    """No unhandled error, and no send from the first such answer on."""
    loop = SimulatedLoop()
    fault = Arbitrary(first, answers)
    world = live(1, [], loop, blocks=6, most_quiet=2, more_faults=[fault], judged=False)
    loop.close()
    assert fault.struck
    assert not any(attempt.elapsed_s >= 12.0 * first for attempt in world.record.attempts)


@pytest.mark.slow
def test_survives_a_hundred_seeds_of_each_kind() -> None:
    counts = count_on_two_processes([(name, range(2_000, 2_100)) for name in KINDS], again_every=20)
    assert not [failure for one in counts.values() for failure in one.failures[:3]]


@pytest.mark.slow
@pytest.mark.long
def test_survives_a_thousand_seeds_of_each_kind() -> None:
    """1,000 of each kind that the adapter was specified against, 250 of each of the others."""
    started = time.perf_counter()
    counts = count_on_two_processes([(name, range(kind.seeds)) for name, kind in KINDS.items()], again_every=20)
    seconds = time.perf_counter() - started
    for kind, one in counts.items():
        print(
            f"{kind:20} {one.seeds:5} seeds, {one.seconds / one.seeds * 1e3:5.1f} ms each, struck {one.struck}, "
            f"sending {one.sending}, stopped {one.stopped}, {dict(one.ends)}, failed {len(one.failures)}"
        )
    print(f"{sum(one.seeds for one in counts.values())} runs of {len(counts)} kinds in {seconds:.0f} s on 2 processes")
    assert not [failure for one in counts.values() for failure in one.failures[:3]]
    for kind, one in counts.items():
        assert one.struck > one.seeds // 2, f"{kind} struck in {one.struck} runs"
        assert one.sending > one.seeds // 2, f"{kind}: something was sent in {one.sending} runs"
        assert kind not in PASSING or not one.stopped, f"{kind}: a process ended in {one.stopped} runs"
