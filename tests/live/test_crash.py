"""Kill -9 at every named point: each intent is settled exactly once, as the chain says, and the next one works."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("web3", reason='web3 is missing: pip install "arbgym[live]"')

from eth_account import Account

from arbgym.live.clock import SystemClock
from arbgym.live.journal import Journal
from arbgym.live.receipts import TRANSFER
from arbgym.live.sender import CRASH_POINTS
from arbgym.live.terms import SETTLED, IntentState
from tests.chain.anvil import Anvil
from tests.chain.conftest import chain_packages  # noqa: F401
from tests.live.crash_process import Job, amount_of, key_of

REPOSITORY = Path(__file__).resolve().parents[2]
STEPS = ("normal", "lost", "bump", "late", "reorg", "gap")
# what a process must do to pass a point; "normal" for the others
WAYS = {"resend": "lost", "bump": "bump", "cancel": "late", "reorg": "reorg", "fill": "gap"}


class Workshop:
    """A node with a token, and a server of processes."""

    def __init__(self, anvil: Anvil, folder: Path) -> None:
        from tests.chain.market import artifact

        self.anvil, self.folder = anvil, folder
        self.token = self._deploy(artifact("TestToken")[1])
        self._server = subprocess.Popen(
            [sys.executable, "-m", "tests.live.crash_process"],
            cwd=REPOSITORY,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.recovery_s: list[float] = []
        self.restarts = 0
        self._jobs = 0

    def _deploy(self, code: str) -> str:
        from eth_abi.abi import encode

        sender = self.anvil.call("eth_accounts")[0]
        data = code + encode(["string", "uint8"], ["T6", 6]).hex()
        sent = self.anvil.call("eth_sendTransaction", {"from": sender, "data": data, "gas": hex(5_000_000)})
        self.anvil.mine()
        address: str = self.anvil.call("eth_getTransactionReceipt", sent)["contractAddress"]
        return address

    def job(self, steps: list[str], automine: bool = False) -> Job:
        """A fresh account with a fresh journal."""
        self._jobs += 1
        account = Account.create()
        self.anvil.call("anvil_setBalance", account.address, hex(10**20))
        self.anvil.mine(4)
        return Job(
            self.anvil.url,
            str(self.folder / f"{self._jobs}.sqlite"),
            bytes(account.key).hex(),
            self.token,
            steps,
            automine=automine,
        )

    def run(self, job: Job) -> tuple[bool, Any]:
        """(killed, what it told)."""
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.write(json.dumps(asdict(job)) + "\n")
        self._server.stdin.flush()
        answer = json.loads(self._server.stdout.readline())
        assert answer["killed"] or answer["told"], "the process failed: its traceback is on stderr"
        if answer["told"]:
            self.recovery_s.append(answer["told"]["recovery_s"])
        self.restarts += answer["killed"]
        return answer["killed"], answer["told"]

    def check(self, job: Job, told: Any) -> None:
        """Each plan's effects on chain are 0 or 1, as the journal says; no nonce is left out; the last plan is mined."""
        address = Account.from_key(job.key).address
        journal = Journal(Path(job.journal), SystemClock())
        owner = "0x" + address[2:].lower().zfill(64)
        logs = self.anvil.call("eth_getLogs", {"address": self.token, "fromBlock": "0x0", "topics": [TRANSFER, None, owner]})
        minted = [int(log["data"], 16) for log in logs]
        count = int(self.anvil.call("eth_getTransactionCount", address, "latest"), 16)
        assert count == int(self.anvil.call("eth_getTransactionCount", address, "pending"), 16)
        pool = self.anvil.call("txpool_content")
        assert not any(held.lower() == address.lower() for part in pool.values() for held in part), "left in the pool"
        assert told["trouble"] == "" and not journal.busy
        last = {one["key"]: one for one in told["outcomes"]}
        for step in range(len(job.steps)):
            intent = journal.intent(key_of(step))
            assert intent.state in SETTLED
            effects = minted.count(amount_of(step))
            assert effects == (intent.state is IntentState.MINED), (step, intent.state, effects)
            nonces = {one.nonce for one in intent.transactions}
            assert len(nonces) <= 1 and all(nonce < count for nonce in nonces)
            ended = [one for one in journal.transitions(intent.plan.key) if one.state in SETTLED]
            taken_back = [one for one in journal.transitions(intent.plan.key) if one.former in SETTLED]
            assert len(ended) == 1 + len(taken_back)
            if intent.plan.key in last:
                assert last[intent.plan.key]["profit_raw"] == effects * amount_of(step)
        assert intent.state is IntentState.MINED
        journal.close()

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.wait()
        self._server.stdout.close()


@pytest.fixture(scope="module")
def workshop(chain_packages: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Workshop]:  # noqa: F811
    node = Anvil()
    workshop = Workshop(node, tmp_path_factory.mktemp("crash"))
    yield workshop
    workshop.close()
    node.kill()


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("automine", [False, True])
def test_nothing_goes_wrong_where_nobody_is_killed(workshop: Workshop, step: str, automine: bool) -> None:
    job = workshop.job([step, "normal"], automine)
    killed, told = workshop.run(job)
    assert not killed
    workshop.check(job, told)


@pytest.mark.parametrize("point", CRASH_POINTS)
def test_a_process_killed_at_a_point_is_taken_up_by_the_next(workshop: Workshop, point: str) -> None:
    job = workshop.job([WAYS.get(point.split(".")[0], "normal"), "normal"])
    if point.startswith("recover."):
        # only what fills a gap is written before it is signed
        left = {"steps": ["gap"], "point": "fill.after_written"} if "never_signed" in point else {"point": "send.after_written"}
        assert workshop.run(replace(job, **left))[0]
    assert workshop.run(replace(job, point=point))[0], "the point was not passed"
    killed, told = workshop.run(job)
    assert not killed
    workshop.check(job, told)


@pytest.mark.slow
@pytest.mark.long
def test_a_thousand_restarts(workshop: Workshop, record_property: Callable[[str, object], None]) -> None:
    """Every point, at any time of a life with everything in it, up to three times in a row."""
    for seed in range(100):
        if workshop.restarts >= 1_000:
            break
        for point in CRASH_POINTS:
            chance = random.Random(f"{seed} {point}")
            steps = chance.sample(STEPS, 3)
            way = WAYS.get(point.split(".")[0], "normal")
            job = workshop.job(steps if way in steps else [way, *steps], automine=chance.random() < 0.3)
            for _ in range(chance.randint(1, 3)):
                workshop.run(replace(job, point=point, occurrence=chance.randint(1, 6)))
            job = replace(job, steps=[*job.steps, "normal"])
            killed, told = workshop.run(job)
            assert not killed
            workshop.check(job, told)
    assert workshop.restarts >= 1000
    for share in (0.5, 0.99, 1.0):
        record_property(f"recovery_s at {share}", sorted(workshop.recovery_s)[int(share * (len(workshop.recovery_s) - 1))])
