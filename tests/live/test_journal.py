"""The journal: one writer, nothing forgotten, no change of state that cannot be, and an error where the disk is full."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from arbgym.live.journal import SCHEMA_VERSION, DuplicateIntent, Journal, JournaledTransaction, JournalError
from arbgym.live.terms import SETTLED, IntentState, Outcome
from tests.live.scripted_chain import ScriptedChain, SetClock, plan_at

S = IntentState
HEAD = ScriptedChain().head


@pytest.fixture
def journal(tmp_path: Path) -> Journal:
    return Journal(tmp_path / "journal.sqlite", SetClock())


def transaction(nonce: int = 0, number: int = 0) -> JournaledTransaction:
    # amounts beyond 64 bits, as a chain's may be
    return JournaledTransaction(f"0x{number:064x}", bytes([number % 256]), "original", nonce, 2**70, 2**66, 2**69, 5)


def end(key: str, state: IntentState) -> Outcome:
    return Outcome(key, state, 7, 1.5, 2**80, 3, -4, "public", None)


def test_an_intent_comes_back_as_it_was_written(journal: Journal, tmp_path: Path) -> None:
    plan = plan_at(HEAD, 3, amount_in_raw=2**120)
    journal.write(plan)
    journal.add_transaction(plan.key, transaction(nonce=9, number=1))
    journal.move(plan.key, S.SENT, 5, "0xabc")
    journal.put("gate", {"state": "HALTED", "equity": 1.5})
    before = journal.digest()
    journal.close()
    journal = Journal(tmp_path / "journal.sqlite", SetClock())
    (intent,) = journal.open_intents()
    assert intent.plan == plan and intent.state is S.SENT and intent.nonce == 9
    assert intent.transactions == (transaction(nonce=9, number=1),)
    assert journal.get("gate") == {"state": "HALTED", "equity": 1.5} and journal.get("other") is None
    assert journal.holds(plan.key) and not journal.holds("other")
    assert journal.digest() == before
    journal.move(plan.key, S.MINED, 7, outcome=end(plan.key, S.MINED), block_hash="0xb")
    assert journal.outcomes() == [end(plan.key, S.MINED)] and not journal.busy and journal.next_nonce == 10
    assert [(one.former, one.state) for one in journal.transitions(plan.key)] == [
        (None, S.WRITTEN),
        (S.WRITTEN, S.SIGNED),
        (S.SIGNED, S.SENT),
        (S.SENT, S.MINED),
    ]
    assert journal.digest() != before


def test_the_same_plan_is_refused(journal: Journal) -> None:
    plan = plan_at(HEAD, 1)
    journal.write(plan)
    with pytest.raises(DuplicateIntent, match=plan.key):
        journal.write(replace(plan, gas_limit=1))
    assert len(journal.open_intents()) == 1


def test_a_transaction_has_its_intents_nonce(journal: Journal) -> None:
    plan = plan_at(HEAD, 1)
    journal.write(plan)
    journal.add_transaction(plan.key, transaction(nonce=4, number=1))
    with pytest.raises(JournalError, match=r"nonce = 5; accepted is 4"):
        journal.add_transaction(plan.key, transaction(nonce=5, number=2))
    with pytest.raises(JournalError):
        journal.add_transaction(plan.key, transaction(nonce=4, number=1))
    assert len(journal.intent(plan.key).transactions) == 1


def test_an_end_has_an_outcome_and_nothing_else_has(journal: Journal) -> None:
    plan = plan_at(HEAD, 1)
    journal.write(plan)
    with pytest.raises(JournalError, match="outcome"):
        journal.move(plan.key, S.REFUSED, 5)
    with pytest.raises(JournalError, match="outcome"):
        journal.move(plan.key, S.SIGNED, 5, outcome=end(plan.key, S.MINED))
    with pytest.raises(JournalError, match="not in the journal"):
        journal.move("other", S.SENT, 5)


def test_history_cannot_be_rewritten(journal: Journal, tmp_path: Path) -> None:
    journal.write(plan_at(HEAD, 1))
    journal.close()
    with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as database:
        for statement in ("UPDATE transitions SET state = 'mined'", "DELETE FROM transitions"):
            with pytest.raises(sqlite3.DatabaseError, match="append only"):
                database.execute(statement)


def test_every_commit_is_synchronised(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    journal = Journal(path, SetClock())
    assert journal._database.execute("PRAGMA synchronous").fetchone() == (2,)
    assert journal._database.execute("PRAGMA journal_mode").fetchone() == ("wal",)


def test_a_second_runner_is_refused_by_name(journal: Journal, tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    with pytest.raises(JournalError, match=f"{path} is held by process {os.getpid()}"):
        Journal(path, SetClock())
    script = (
        "import sys; from pathlib import Path; from arbgym.live.journal import Journal, JournalError\n"
        "from arbgym.live.clock import SystemClock\n"
        "try: Journal(Path(sys.argv[1]), SystemClock())\n"
        "except JournalError as error: print(error)"
    )
    told = subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True).stdout
    assert f"held by process {os.getpid()}" in told
    journal.close()
    Journal(path, SetClock()).close()


def test_a_link_to_a_journal_is_that_journal(tmp_path: Path) -> None:
    real, link, folder = tmp_path / "real.sqlite", tmp_path / "link.sqlite", tmp_path / "folder"
    link.symlink_to(real)  # before there is anything to link to
    folder.symlink_to(tmp_path, target_is_directory=True)
    paths = (real, link, folder / real.name, folder / link.name)
    for path in paths:
        journal = Journal(path, SetClock())
        for other in paths:
            with pytest.raises(JournalError, match=f"{other} is held by process {os.getpid()}"):
                Journal(other, SetClock())
        journal.put("path", str(path))
        journal.close()
        assert {one.name for one in tmp_path.glob("*.lock")} == {"real.sqlite.lock"}
    other = tmp_path / "other.sqlite"
    Journal(other, SetClock()).close()
    journal = Journal(link, SetClock())
    link.unlink()
    link.symlink_to(other)  # the next process would know of nothing
    with pytest.raises(JournalError, match=r"link\.sqlite is not where it was"):
        journal.put("number", 1)
    journal.close()
    loop = tmp_path / "loop.sqlite"
    loop.symlink_to(loop)
    with pytest.raises(JournalError, match="loop"):
        Journal(loop, SetClock())


@pytest.mark.parametrize("how", ["removed", "another"])
def test_a_journal_whose_lock_was_removed_is_not_written_on(journal: Journal, tmp_path: Path, how: str) -> None:
    path, lock = tmp_path / "journal.sqlite", tmp_path / "journal.sqlite.lock"
    journal.write(plan_at(HEAD, 0))
    (known,) = journal.open_intents()
    lock.unlink()
    if how == "another":
        second = Journal(path, SetClock())
        second.move(known.plan.key, S.REFUSED, 5, outcome=end(known.plan.key, S.REFUSED))
    for write in (
        lambda: journal.write(plan_at(HEAD, 1)),
        lambda: journal.add_transaction(known.plan.key, transaction()),
        lambda: journal.put("number", 1),
    ):
        with pytest.raises(JournalError, match=f"{lock} is not the one that was locked"):
            write()
    assert [one.state for one in journal.open_intents()] == ([S.WRITTEN] if how == "removed" else [])  # not what was in mind
    journal.close()
    if how == "removed":
        second = Journal(path, SetClock())
    assert second.get("number") is None and not second.holds(plan_at(HEAD, 1).key)
    second.put("number", 2)


def test_a_killed_process_leaves_the_journal_free_and_whole(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    script = (
        "import sys; from pathlib import Path; from arbgym.live.journal import Journal\n"
        "from arbgym.live.clock import SystemClock\n"
        "journal = Journal(Path(sys.argv[1]), SystemClock())\n"
        "number = 0\n"
        "while True:\n"
        "    number += 1; journal.put('number', number); print(number, flush=True)"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        for line in child.stdout:
            if int(line) >= 20:
                break
        child.send_signal(signal.SIGKILL)
        told = int((child.stdout.read().split() or [line])[-1])
    journal = Journal(path, SetClock())
    assert journal.get("number") >= told  # what was acknowledged is there


def test_a_newer_schema_and_a_foreign_file_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    Journal(path, SetClock()).close()
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    with pytest.raises(JournalError, match=f"schema {SCHEMA_VERSION + 1}; accepted is up to {SCHEMA_VERSION}"):
        Journal(path, SetClock())
    other = tmp_path / "other"
    other.write_bytes(b"not a database at all" * 100)
    with pytest.raises(JournalError, match="other"):
        Journal(other, SetClock())
    with pytest.raises(JournalError, match="accepted is a path in a folder"):
        Journal(tmp_path / "missing" / "journal", SetClock())


def test_a_full_disk_is_an_error_and_leaves_nothing_behind(journal: Journal) -> None:
    journal.write(plan_at(HEAD, 0))
    before = journal.digest()
    pages = journal._database.execute("PRAGMA page_count").fetchone()[0]
    journal._database.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(JournalError, match="full"):
        for index in range(1, 100):
            journal.write(plan_at(HEAD, index, data="0x" + 4000 * "ab"))
            before = journal.digest()
    assert journal.digest() == before
    journal._database.execute("PRAGMA max_page_count = 100000")
    journal.write(plan_at(HEAD, 200))


@pytest.mark.parametrize("version", [1, 2])
def test_a_journal_of_before_is_taken_over(journal: Journal, tmp_path: Path, version: int) -> None:
    plan = plan_at(HEAD, 0)
    journal.write(plan)
    schema = journal._read("SELECT name, sql FROM sqlite_master ORDER BY name")
    journal.close()
    path = tmp_path / "journal.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("DROP INDEX intents_on_chain")
        if version == 1:
            database.execute("CREATE TABLE decisions (id INTEGER PRIMARY KEY, action TEXT)")
            database.execute("DROP INDEX intents_open")
        database.execute("UPDATE intents SET plan = json_remove(plan, '$.gas_used')")
        database.execute(f"PRAGMA user_version = {version}")
        database.commit()
    journal = Journal(path, SetClock())
    assert journal._read("PRAGMA user_version") == [(SCHEMA_VERSION,)]
    assert journal._read("SELECT name, sql FROM sqlite_master ORDER BY name") == schema
    (intent,) = journal.open_intents()
    assert intent.plan == plan and intent.plan.gas_used == 0


def test_a_journal_that_was_moved_is_not_written_on(journal: Journal, tmp_path: Path) -> None:
    journal.write(plan_at(HEAD, 0))
    path = tmp_path / "journal.sqlite"
    path.rename(tmp_path / "elsewhere")
    with pytest.raises(JournalError, match="is not where it was"):
        journal.write(plan_at(HEAD, 1))
    path.write_bytes(b"")  # another file in its place
    with pytest.raises(JournalError, match="is not where it was"):
        journal.put("gate", 1)
    path.unlink()
    (tmp_path / "elsewhere").rename(path)
    journal.write(plan_at(HEAD, 1))


@settings(max_examples=8)
@given(values=st.dictionaries(st.text(max_size=8), st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists)))
def test_the_store_returns_what_was_put(tmp_path_factory: pytest.TempPathFactory, values: dict[str, object]) -> None:
    journal = Journal(tmp_path_factory.mktemp("store") / "journal.sqlite", SetClock())
    for name, value in values.items():
        journal.put(name, None)
        journal.put(name, value)
    assert {name: journal.get(name) for name in values} == values
    journal.close()


def test_an_intent_and_its_transaction_are_one_commit(tmp_path: Path) -> None:
    points: list[str] = []
    journal = Journal(tmp_path / "journal.sqlite", SetClock(), on_point=points.append)
    journal.write(plan_at(HEAD, 1), transaction(nonce=4))
    assert points == ["journal.half_written", "journal.before_commit", "journal.after_commit"]
    (intent,) = journal.open_intents()
    assert intent.state is S.SIGNED and intent.nonce == 4 and intent.transactions == (transaction(nonce=4),)
    with pytest.raises(JournalError):  # the very same transaction
        journal.write(plan_at(HEAD, 2), transaction(nonce=4))
    assert journal.open_intents() == [intent]


def test_what_waits_for_the_next_commit_is_durable_with_it_or_not_at_all(journal: Journal, tmp_path: Path) -> None:
    def kept() -> list[tuple[str, str]]:
        with contextlib.closing(sqlite3.connect(tmp_path / "journal.sqlite")) as other:
            return other.execute("SELECT name, value FROM store ORDER BY name").fetchall()

    journal.put("gate", 0)
    with journal.with_next_commit():
        journal.put("gate", 1)
        journal.put("reported", 7)
    assert kept() == [("gate", "0")]
    assert journal.get("gate") == 1 and journal.get("reported") == 7
    journal.write(plan_at(HEAD, 1))
    assert kept() == [("gate", "1"), ("reported", "7")]

    with journal.with_next_commit():
        journal.put("gate", 2)
    with pytest.raises(DuplicateIntent):
        journal.write(plan_at(HEAD, 1))
    assert kept()[0] == ("gate", "1") and journal.get("gate") == 2
    journal.put("gate", 3)  # in a hurry again, and newer than what waits
    assert kept()[0] == ("gate", "3") and journal.get("gate") == 3

    with journal.with_next_commit():
        journal.put("gate", 4)
    journal.flush()
    assert kept()[0] == ("gate", "4")

    journal.write(plan_at(HEAD, 3), transaction(nonce=5, number=1))
    with journal.with_next_commit():
        journal.move(plan_at(HEAD, 3).key, S.MINED, 7, outcome=end(plan_at(HEAD, 3).key, S.MINED), block_hash="0xb")
        journal.put("gate", 5)
    assert journal.intent(plan_at(HEAD, 3).key).state is S.MINED and journal.outcomes()
    journal.close()  # as a process that is killed
    with pytest.raises(JournalError):
        journal.flush()
    journal = Journal(tmp_path / "journal.sqlite", SetClock())
    assert journal.intent(plan_at(HEAD, 3).key).state is S.SIGNED and journal.get("gate") == 4 and not journal.outcomes()


def test_a_commit_that_fails_takes_what_waits_with_it_and_is_the_last(journal: Journal, tmp_path: Path) -> None:
    journal.put("gate", 1)
    with journal.with_next_commit():
        journal.put("gate", 2)
        journal.put("reported", 7)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1, before[1]))  # the disk is full for this one commit
    try:
        with pytest.raises(JournalError, match="accepted is a disk with room"):
            journal.put("halted", True)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    for write in (journal.flush, lambda: journal.put("gate", 3), lambda: journal.write(plan_at(HEAD, 1))):
        with pytest.raises(JournalError, match="accepted is a disk with room"):
            write()  # whoever put 2 and 7 believes them durable with this
    journal.close()
    again = Journal(tmp_path / "journal.sqlite", SetClock())
    assert [again.get(name) for name in ("gate", "reported", "halted")] == [1, None, None]
    again.put("gate", 3)


# what may follow what, as sentences of the issue would have it: written twice on purpose
FOLLOWS = {
    S.WRITTEN: {S.SIGNED, S.REFUSED, S.DRY},
    S.SIGNED: {S.SENT, S.UNKNOWN, S.REFUSED, S.MINED, S.REVERTED, S.REPLACED, S.DROPPED},
    S.SENT: {S.MINED, S.REVERTED, S.REPLACED, S.DROPPED},
    S.UNKNOWN: {S.SENT, S.MINED, S.REVERTED, S.REPLACED, S.DROPPED},
    S.MINED: {S.SENT},
    S.REVERTED: {S.SENT},
    S.REPLACED: {S.SENT},
    S.DROPPED: {S.SENT},
    S.REFUSED: {S.SENT},
    S.DRY: set(),
}


class JournalMachine(RuleBasedStateMachine):
    """Any order of calls: the journal agrees with a dictionary, across restarts too."""

    folder: Path

    def __init__(self) -> None:
        super().__init__()
        number = len(list(self.folder.iterdir()))
        self.path = self.folder / f"{number}.sqlite"
        self.journal = Journal(self.path, SetClock())
        self.states: dict[str, IntentState] = {}
        self.nonces: dict[str, int] = {}
        self.ended: list[tuple[str, IntentState]] = []
        self.signed = 0

    @rule(index=st.integers(0, 5))
    def write(self, index: int) -> None:
        plan = plan_at(HEAD, index)
        if plan.key in self.states:
            with pytest.raises(DuplicateIntent):
                self.journal.write(plan)
        else:
            self.journal.write(plan)
            self.states[plan.key] = S.WRITTEN

    @precondition(lambda self: self.states)
    @rule(data=st.data(), nonce=st.integers(0, 1))
    def sign(self, data: st.DataObject, nonce: int) -> None:
        key = data.draw(st.sampled_from(sorted(self.states)))
        self.signed += 1
        if self.states[key] in SETTLED or self.nonces.get(key, nonce) != nonce:
            with pytest.raises(JournalError):
                self.journal.add_transaction(key, transaction(nonce, self.signed))
            return
        self.journal.add_transaction(key, transaction(nonce, self.signed))
        if self.states[key] is S.WRITTEN:
            self.states[key], self.nonces[key] = S.SIGNED, nonce

    @precondition(lambda self: self.states)
    @rule(data=st.data(), state=st.sampled_from(sorted(set(S) - {S.SIGNED})))
    def move(self, data: st.DataObject, state: IntentState) -> None:
        key = data.draw(st.sampled_from(sorted(self.states)))
        outcome = end(key, state) if state in SETTLED else None
        if state not in FOLLOWS[self.states[key]]:
            with pytest.raises(JournalError):
                self.journal.move(key, state, 5, outcome=outcome)
            return
        former = self.states[key]
        self.journal.move(key, state, 5, outcome=outcome)
        if former in SETTLED:
            assert self.journal.intent(key).corrects is former
        self.states[key] = state
        if outcome:
            self.ended.append((key, state))

    @rule()
    def restart(self) -> None:
        self.journal.close()
        self.journal = Journal(self.path, SetClock())

    @invariant()
    def agrees(self) -> None:
        assert {one.plan.key: one.state for one in self.journal.open_intents()} == {
            key: state for key, state in self.states.items() if state not in SETTLED
        }
        assert [(one.key, one.state) for one in self.journal.outcomes(1000)] == self.ended
        assert self.journal.busy == any(state not in SETTLED for state in self.states.values())
        ended = [key for key, state in self.states.items() if state in (S.MINED, S.REVERTED, S.REPLACED)]
        on_chain = [self.nonces[key] for key in ended if key in self.nonces]  # what was never signed may be moved, too
        assert self.journal.next_nonce == max(on_chain, default=-1) + 1

    def teardown(self) -> None:
        self.journal.close()


def test_any_order_of_calls_agrees_with_a_dictionary(tmp_path: Path) -> None:
    JournalMachine.folder = tmp_path
    run_state_machine_as_test(JournalMachine, settings=settings(max_examples=15, stateful_step_count=25))


def _with_a_past(folder: Path, count: int, dropped_nonce: str) -> Journal:
    """A journal of ``count`` mined intents and as many dropped ones, which one sent one follows.

    ``dropped_nonce``: "n", those of the mined ones, or a number, as bundles that expire use none.
    """
    folder.mkdir()
    journal = Journal(folder / "journal.sqlite", SetClock())
    for number, state in enumerate((S.MINED, S.DROPPED)):
        plan = plan_at(HEAD, number)
        journal.write(plan, transaction(nonce=0, number=number))
        journal.move(plan.key, state, 7, outcome=end(plan.key, state), block_hash="0xb")
    with contextlib.closing(sqlite3.connect(folder / "journal.sqlite")) as database:
        numbers = "WITH RECURSIVE past(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM past WHERE n < ?)"
        nonce = f"CASE state WHEN 'mined' THEN n ELSE {dropped_nonce} END"
        database.execute(
            f"INSERT INTO intents {numbers} SELECT key || n, plan, channel, state, {nonce}, 7 + n, settled_hash, corrects"
            " FROM intents, past",
            [count - 1],
        )
        database.execute(
            f"INSERT INTO transactions {numbers} SELECT hash || n, intent || n, kind, n, max_fee_wei, priority_fee_wei,"
            " base_fee_wei, block_number, time_s, raw FROM transactions, past",
            [count - 1],
        )
        database.execute(
            f"INSERT INTO transitions {numbers} SELECT NULL, intent || n, former, state, block_number, time_s, detail, outcome"
            " FROM transitions, past ORDER BY n",
            [count - 1],
        )
        database.commit()
    sent = plan_at(HEAD, 2)
    journal.write(sent, transaction(nonce=count, number=2))
    journal.move(sent.key, S.SENT, 7 + count)
    return journal


@pytest.mark.parametrize("dropped_nonce", ["n", "9999"])
def test_what_is_asked_in_every_block_takes_no_longer_in_an_old_journal(tmp_path: Path, dropped_nonce: str) -> None:
    told: list[dict[str, int]] = []
    for count in (20, 4_000):
        journal = _with_a_past(tmp_path / str(count), count, dropped_nonce)
        _, newest = journal.outcomes_after(0)
        sent = plan_at(HEAD, 2).key
        asked: dict[str, tuple[Callable[[], object], object]] = {
            "next_nonce": (lambda journal=journal: journal.next_nonce, count),
            "busy": (lambda journal=journal: journal.busy, True),
            "given_up": (lambda journal=journal, count=count: journal.given_up(count - 3, count + 1), []),
            "intents_with_nonce": (
                lambda journal=journal, count=count: len(journal.intents_with_nonce(count - 1)),
                1 + (dropped_nonce == "n"),
            ),
            "settled_since": (lambda journal=journal, count=count: len(journal.settled_since(7 + count - 1)), 2),
            "outcomes": (lambda journal=journal: len(journal.outcomes(5)), 5),
            "outcomes_after": (lambda journal=journal, newest=newest: journal.outcomes_after(newest), ([], newest)),
            "holds": (lambda journal=journal, sent=sent: journal.holds(sent), True),
            "has_transaction": (lambda journal=journal: journal.has_transaction(transaction(number=2).hash), True),
            "transactions_with_nonce": (lambda journal=journal, count=count: journal.transactions_with_nonce(count), 1),
            "move": (
                lambda journal=journal, sent=sent: journal.move(sent, S.MINED, 9, outcome=end(sent, S.MINED), block_hash="0xb"),
                None,
            ),
        }
        steps: Counter[str] = Counter()
        for name, (ask, answer) in asked.items():
            # called at each step of the database's machine; what it returns would end the query
            journal._database.set_progress_handler(lambda steps=steps, name=name: steps.update([name]), 1)
            assert ask() == answer, name
            journal._database.set_progress_handler(None, 1)
        told.append(steps)
        journal.close()
    few, many = told
    for name in few:
        assert many[name] <= 2 * few[name] + 20, (name, few[name], many[name])
