"""The journal: every intent, transaction and change of state, on disk before anything leaves the process.

SQLite in WAL mode with full synchronisation, one writer. A row of ``transitions`` is never changed; what is asked of an intent
often (its state, nonce, the block that settled it) is kept beside its plan in ``intents``, written in the same commit.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from arbgym.live.terms import SETTLED, Clock, IntentState, LiveError, Outcome, Plan

SCHEMA_VERSION = 3
TransactionKind = Literal["original", "bump", "cancel"]

_S = IntentState
_ENDS_ON_CHAIN = {_S.MINED, _S.REVERTED, _S.REPLACED, _S.DROPPED}
_ALLOWED: dict[IntentState, set[IntentState]] = {
    _S.WRITTEN: {_S.SIGNED, _S.REFUSED, _S.DRY},
    _S.SIGNED: {_S.SENT, _S.UNKNOWN, _S.REFUSED, *_ENDS_ON_CHAIN},
    _S.SENT: _ENDS_ON_CHAIN,
    _S.UNKNOWN: {_S.SENT, *_ENDS_ON_CHAIN},
    # a reorganisation, or a transaction that was mined against all expectation, takes an end back
    **{end: {_S.SENT} for end in _ENDS_ON_CHAIN},
    _S.REFUSED: {_S.SENT},
    _S.DRY: set(),
}

# What is asked in every block must not read all of the past: so these are in the very words of partial indices, indices are named
# where the database would take another, and a plus keeps it from the one of states, most of which are alike.
_IS_OPEN = f"state NOT IN ({', '.join(repr(state.value) for state in sorted(SETTLED))})"
# Names of tables and columns are the words of terms.py; amounts that may pass 2**63 are within JSON.
_OPEN_INDEX = f"CREATE INDEX intents_open ON intents (state) WHERE {_IS_OPEN};"
_USED_ITS_NONCE = f"state IN ({', '.join(repr(state.value) for state in (_S.MINED, _S.REVERTED, _S.REPLACED))})"
_ON_CHAIN_INDEX = f"CREATE INDEX intents_on_chain ON intents (nonce) WHERE {_USED_ITS_NONCE};"
_SCHEMA = f"""
CREATE TABLE intents (
    key TEXT PRIMARY KEY, plan TEXT NOT NULL, channel TEXT NOT NULL, state TEXT NOT NULL, nonce INTEGER,
    settled_block INTEGER, settled_hash TEXT, corrects TEXT
);
{_OPEN_INDEX}
{_ON_CHAIN_INDEX}
CREATE INDEX intents_by_state ON intents (state);
CREATE INDEX intents_by_nonce ON intents (nonce);
CREATE INDEX intents_by_settled_block ON intents (settled_block);
CREATE TABLE transactions (
    hash TEXT PRIMARY KEY, intent TEXT NOT NULL REFERENCES intents (key), kind TEXT NOT NULL, nonce INTEGER NOT NULL,
    max_fee_wei TEXT NOT NULL, priority_fee_wei TEXT NOT NULL, base_fee_wei TEXT NOT NULL, block_number INTEGER NOT NULL,
    time_s REAL NOT NULL, raw BLOB NOT NULL
);
CREATE INDEX transactions_by_intent ON transactions (intent);
CREATE INDEX transactions_by_nonce ON transactions (nonce);
CREATE TABLE transitions (
    id INTEGER PRIMARY KEY, intent TEXT NOT NULL REFERENCES intents (key), former TEXT, state TEXT NOT NULL,
    block_number INTEGER NOT NULL, time_s REAL NOT NULL, detail TEXT NOT NULL, outcome TEXT
);
CREATE INDEX transitions_with_outcome ON transitions (id) WHERE outcome IS NOT NULL;
CREATE TRIGGER transitions_are_not_changed BEFORE UPDATE ON transitions BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TRIGGER transitions_are_not_deleted BEFORE DELETE ON transitions BEGIN SELECT RAISE(ABORT, 'append only'); END;
CREATE TABLE store (name TEXT PRIMARY KEY, value TEXT NOT NULL);
"""
# What an older file needs, by its version. The first had a table of decisions, which nobody read, and no index of what is open.
_UPGRADES = {0: _SCHEMA, 1: f"DROP TABLE decisions; {_OPEN_INDEX} {_ON_CHAIN_INDEX}", 2: _ON_CHAIN_INDEX}
_PLAN = tuple(field.name for field in fields(Plan))
_JOINED = "joined"  # the savepoint of what joins an open transaction
_TABLES = ("intents", "transactions", "transitions", "store")


class JournalError(LiveError):
    """The journal could not be opened or written: nothing may be sent."""


class DuplicateIntent(JournalError):
    """This very plan is in the journal already."""


@dataclass(frozen=True, slots=True)
class JournaledTransaction:
    """A signed transaction. ``base_fee_wei`` is the newest block's when it was signed, ``block_number`` that block's."""

    hash: str
    raw: bytes
    kind: TransactionKind
    nonce: int
    max_fee_wei: int
    priority_fee_wei: int
    base_fee_wei: int
    block_number: int


@dataclass(frozen=True, slots=True)
class Intent:
    """A plan and all that happened to it. ``corrects`` is the end that was last taken back."""

    plan: Plan
    state: IntentState
    nonce: int | None
    settled_block: int | None
    settled_hash: str | None
    corrects: IntentState | None
    transactions: tuple[JournaledTransaction, ...]  # in the order signed


@dataclass(frozen=True, slots=True)
class Transition:
    """One change of an intent's state; ``former`` is None where it was written."""

    key: str
    former: IntentState | None
    state: IntentState
    block_number: int
    time_s: float
    detail: str


class Journal:
    """The journal at ``path``, made where it is missing. One process at a time; a second is refused by name, through a link, too.

    Every method that writes is one commit, durable when it returns, and raises JournalError (with nothing written) where the
    disk is full, the file (or its lock's) damaged, moved or closed, or the change of state one that cannot be; those that read
    raise it too.
    The one exception is what is written ``with_next_commit``: where that commit fails, it is lost as well, and the journal takes
    nothing more, as whoever wrote believes it there. ``on_point`` is called around each commit.
    """

    def __init__(self, path: Path, clock: Clock, *, on_point: Callable[[str], None] = lambda name: None) -> None:
        self._path, self._clock, self._point = path, clock, on_point
        self._waits = False
        self._lost: JournalError | None = None  # why what waited for a commit is gone
        self._known_open: tuple[Intent, ...] | None = None  # the open intents, until the next write
        real = _resolved(path)  # one journal has one lock, whichever link leads to it
        self._lock_path = real.with_name(real.name + ".lock")
        self._lock = _lock(path, self._lock_path)
        try:
            self._lock_place = _place(self._lock)
            self._database = sqlite3.connect(real, isolation_level=None)
            self._open()
            self._place = _place(real)
        except (sqlite3.Error, JournalError) as error:
            os.close(self._lock)
            if isinstance(error, JournalError):
                raise
            raise JournalError(
                f"journal {path}: {error}; accepted is a journal that this program wrote, on a disk with room"
            ) from error

    def _open(self) -> None:
        self._database.execute("PRAGMA synchronous = FULL")
        self._database.execute("PRAGMA foreign_keys = ON")
        told = {name: self._database.execute(f"PRAGMA {name}").fetchone()[0] for name in ("synchronous", "user_version")}
        told["journal_mode"] = self._database.execute("PRAGMA journal_mode = WAL").fetchone()[0]
        if told["journal_mode"] != "wal" or told["synchronous"] != 2:
            raise JournalError(f"journal {self._path}: {told}; accepted is journal_mode wal and synchronous 2 (a local disk)")
        if told["user_version"] > SCHEMA_VERSION:
            raise JournalError(
                f"journal {self._path}: schema {told['user_version']}; accepted is up to {SCHEMA_VERSION} (a newer one wrote it)"
            )
        if told["user_version"] < SCHEMA_VERSION:
            statements = _UPGRADES[told["user_version"]]
            # one transaction, so that a process killed here leaves no half of a schema
            self._database.executescript(f"BEGIN; {statements} PRAGMA user_version = {SCHEMA_VERSION}; COMMIT;")

    def close(self) -> None:
        """Let go of the file and of the lock."""
        self._known_open = None
        self._database.close()
        os.close(self._lock)

    # ------------------------------------------------------------------------------------------------------ intents
    def write(self, plan: Plan, transaction: JournaledTransaction | None = None) -> None:
        """A new intent, WRITTEN; with its first transaction, in the same commit, SIGNED. Raises DuplicateIntent if its key is
        known.
        """
        with self._commit() as database:
            if self.holds(plan.key):
                raise DuplicateIntent(f"plan.key = {plan.key}: this plan is in the journal already; accepted is each plan once")
            database.execute(
                "INSERT INTO intents (key, plan, channel, state) VALUES (?, ?, ?, ?)",
                (plan.key, json.dumps({name: getattr(plan, name) for name in _PLAN}), plan.channel, _S.WRITTEN),
            )
            self._append(plan.key, None, _S.WRITTEN, plan.block_number, "", None)
            if transaction is not None:
                self._point("journal.half_written")
                self._add_transaction(plan.key, transaction)

    def add_transaction(self, key: str, transaction: JournaledTransaction) -> None:
        """A signed transaction, before it is sent. The first makes a WRITTEN intent SIGNED; the others have its nonce."""
        with self._commit():
            self._add_transaction(key, transaction)

    def move(
        self,
        key: str,
        state: IntentState,
        block_number: int,
        detail: str = "",
        *,
        outcome: Outcome | None = None,
        block_hash: str | None = None,
    ) -> None:
        """A change of state, its end with the outcome and the hash of the block that settled it."""
        if (outcome is not None) != (state in SETTLED):
            raise JournalError(f"outcome = {outcome} for state {state}; accepted is an outcome exactly where an intent ends")
        with self._commit() as database:
            former, _ = self._row(key)
            self._move(key, former, state, block_number, detail, outcome)
            database.execute(
                "UPDATE intents SET settled_block = ?, settled_hash = ?, corrects = ? WHERE key = ?",
                (
                    outcome.block_number if outcome else None,
                    block_hash,
                    # taken back: the end is remembered for the outcome that corrects it
                    former if former in SETTLED else (None if outcome else self._corrects(key)),
                    key,
                ),
            )

    def intent(self, key: str) -> Intent:
        """The intent with this key. Raises JournalError if there is none."""
        found = self._intents("WHERE key = ?", key)
        if not found:
            raise JournalError(f"intent {key} is not in the journal")
        return found[0]

    def holds(self, key: str) -> bool:
        """Whether an intent with this key was ever written."""
        return bool(self._read("SELECT 1 FROM intents WHERE key = ?", key))

    def has_transaction(self, digest: str) -> bool:
        """Whether a transaction with this hash was signed."""
        return bool(self._read("SELECT 1 FROM transactions WHERE hash = ?", digest))

    def transactions_with_nonce(self, nonce: int) -> int:
        """How many were signed with this nonce."""
        return int(self._read("SELECT COUNT(*) FROM transactions WHERE nonce = ?", nonce)[0][0])

    def open_intents(self) -> list[Intent]:
        """Those that have not ended, in the order written."""
        if self._known_open is None:  # asked for several times a block, and most blocks write nothing
            self._known_open = tuple(self._intents(f"INDEXED BY intents_open WHERE {_IS_OPEN}"))
        return list(self._known_open)

    def settled_since(self, block_number: int) -> list[Intent]:
        """Those that ended in this block or after it, in the order written."""
        return self._intents("INDEXED BY intents_by_settled_block WHERE settled_block >= ?", block_number)

    def intents_with_nonce(self, nonce: int) -> list[Intent]:
        """Those that signed a transaction with this nonce, in the order written."""
        return self._intents("WHERE nonce = ?", nonce)

    def given_up(self, first_nonce: int, stop_nonce: int) -> list[Intent]:
        """Those dropped or refused with a nonce from the first to below the last that no other intent is known to have used."""
        nonces = (first_nonce, stop_nonce)
        return self._intents(
            "WHERE +state IN (?, ?) AND nonce >= ? AND nonce < ? AND nonce NOT IN"
            f" (SELECT nonce FROM intents INDEXED BY intents_on_chain WHERE {_USED_ITS_NONCE} AND nonce >= ? AND nonce < ?)",
            *(_S.DROPPED, _S.REFUSED, *nonces, *nonces),
        )

    @property
    def next_nonce(self) -> int:
        """One more than the highest nonce known to be on chain; 0 before the first."""
        (highest,) = self._read(f"SELECT MAX(nonce) FROM intents INDEXED BY intents_on_chain WHERE {_USED_ITS_NONCE}")[0]
        return 0 if highest is None else int(highest) + 1

    @property
    def busy(self) -> bool:
        """An intent is open."""
        return bool(self.open_intents())

    def transitions(self, key: str) -> list[Transition]:
        """An intent's history."""
        rows = self._read("SELECT former, state, block_number, time_s, detail FROM transitions WHERE intent = ? ORDER BY id", key)
        return [Transition(key, None if former is None else _S(former), _S(state), *rest) for former, state, *rest in rows]

    def outcomes(self, limit: int = 100) -> list[Outcome]:
        """The newest outcomes, oldest first."""
        rows = self._read("SELECT outcome FROM transitions WHERE outcome IS NOT NULL ORDER BY id DESC LIMIT ?", limit)
        return [self._outcome(text) for (text,) in reversed(rows)]

    def outcomes_after(self, identifier: int) -> tuple[list[Outcome], int]:
        """Outcomes journaled after the one with this identifier (0: all), and the newest one's identifier."""
        rows = self._read("SELECT id, outcome FROM transitions WHERE outcome IS NOT NULL AND id > ? ORDER BY id", identifier)
        return [self._outcome(text) for _, text in rows], rows[-1][0] if rows else identifier

    # ------------------------------------------------------------------------------------------------------- store
    def get(self, name: str) -> Any:
        """The value stored under this name, None where there is none."""
        found = self._read("SELECT value FROM store WHERE name = ?", name)
        if not found:
            return None
        with self._legible(f"value of {name}"):
            return json.loads(found[0][0])

    def put(self, name: str, value: Any) -> None:
        """Store a value that JSON can hold."""
        text = json.dumps(value, sort_keys=True)
        with self._commit() as database:
            database.execute(
                "INSERT INTO store VALUES (?, ?) ON CONFLICT (name) DO UPDATE SET value = excluded.value", (name, text)
            )

    def digest(self) -> str:
        """SHA-256 over all rows in the order written: equal journals have equal digests."""
        total = hashlib.sha256()
        for table in _TABLES:
            for row in self._read(f"SELECT * FROM {table} ORDER BY rowid"):
                total.update(repr((table, row)).encode())
        return total.hexdigest()

    # ------------------------------------------------------------------------------------------------------ commits
    @contextmanager
    def with_next_commit(self) -> Iterator[None]:
        """What is written within can be read at once, and is durable with the next commit, whatever that is of.

        For what belongs to that which is written next, and for what a process that was killed finds out again.
        """
        self._waits = True
        try:
            yield
        finally:
            self._waits = False

    def flush(self) -> None:
        """A commit for what waits for one; nothing where nothing does."""
        try:
            waits = self._database.in_transaction
        except sqlite3.Error as error:  # closed
            raise self._failed(error) from error
        if waits or self._lost is not None:
            with self._commit():
                pass

    # ------------------------------------------------------------------------------------------------------ within
    @contextmanager
    def _commit(self) -> Iterator[sqlite3.Connection]:
        self._known_open = None
        if self._lost is not None:
            raise self._lost
        # SQLite would go on writing to a file that has no name any more, and the next process would know of nothing
        if _place(self._path) != self._place:
            raise JournalError(f"journal {self._path} is not where it was; accepted is a file that stays in its place")
        # and without the lock's file another process may have the journal by now
        if _place(self._lock_path) != self._lock_place:
            raise JournalError(f"{self._lock_path} is not the one that was locked; accepted is a file that stays in its place")
        try:
            # what waits is a transaction that is open still: this one goes on with it, and takes back its own part where it fails
            joining = self._database.in_transaction
            self._database.execute(f"SAVEPOINT {_JOINED}" if joining else "BEGIN IMMEDIATE")
        except sqlite3.Error as error:
            raise self._failed(error) from error
        try:
            yield self._database
            if self._waits:
                if joining:
                    self._database.execute(f"RELEASE {_JOINED}")
                return
            self._point("journal.before_commit")
            self._database.execute("COMMIT")
        except (sqlite3.Error, OverflowError) as error:
            failed = self._failed(error)
            self._roll_back(joining, failed)
            raise failed from error
        except BaseException:
            self._roll_back(joining, None)
            raise
        finally:
            self._known_open = None
        self._point("journal.after_commit")

    def _failed(self, error: Exception) -> JournalError:
        return JournalError(f"journal {self._path}: {error}; accepted is a disk with room and no other writer")

    def _roll_back(self, joining: bool, failed: JournalError | None) -> None:
        # SQLite has rolled back by itself after some errors, a full disk among them; what is closed or broken has nothing to keep
        with suppress(sqlite3.Error):
            if self._database.in_transaction:
                self._database.execute(f"ROLLBACK TO {_JOINED}" if joining else "ROLLBACK")
                if joining:
                    self._database.execute(f"RELEASE {_JOINED}")
            elif joining:
                self._lost = failed

    def _read(self, query: str, *values: Any) -> list[Any]:
        try:
            return self._database.execute(query, values).fetchall()
        except (sqlite3.Error, OverflowError) as error:
            raise JournalError(f"journal {self._path}: {error}; accepted is a journal that can be read") from error

    @contextmanager
    def _legible(self, what: str) -> Iterator[None]:
        """Around the reading of a text that this program wrote."""
        try:
            yield
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise JournalError(f"journal {self._path}: the {what} cannot be read; accepted is what this program wrote") from error

    def _add_transaction(self, key: str, transaction: JournaledTransaction) -> None:
        state, nonce = self._row(key)
        if nonce is not None and nonce != transaction.nonce:
            raise JournalError(f"transaction.nonce = {transaction.nonce}; accepted is {nonce}, the nonce of intent {key}")
        if state in SETTLED:
            raise JournalError(f"intent {key} is {state}; accepted is a transaction of an open intent")
        self._database.execute(
            "INSERT INTO transactions VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                transaction.hash,
                key,
                transaction.kind,
                transaction.nonce,
                str(transaction.max_fee_wei),
                str(transaction.priority_fee_wei),
                str(transaction.base_fee_wei),
                transaction.block_number,
                self._clock.now(),
                transaction.raw,
            ),
        )
        if state is _S.WRITTEN:
            self._database.execute("UPDATE intents SET nonce = ? WHERE key = ?", (transaction.nonce, key))
            self._move(key, state, _S.SIGNED, transaction.block_number, "")

    def _row(self, key: str) -> tuple[IntentState, int | None]:
        found = self._read("SELECT state, nonce FROM intents WHERE key = ?", key)
        if not found:
            raise JournalError(f"intent {key} is not in the journal")
        with self._legible("state of an intent"):
            return _S(found[0][0]), found[0][1]

    def _corrects(self, key: str) -> str | None:
        found: str | None = self._read("SELECT corrects FROM intents WHERE key = ?", key)[0][0]
        return found

    def _move(
        self, key: str, former: IntentState, state: IntentState, block_number: int, detail: str, outcome: Outcome | None = None
    ) -> None:
        if state not in _ALLOWED[former]:
            raise JournalError(
                f"intent {key}: {former} to {state}; accepted from {former} is {sorted(_ALLOWED[former]) or 'nothing'}"
            )
        self._database.execute("UPDATE intents SET state = ? WHERE key = ?", (state, key))
        self._append(key, former, state, block_number, detail, outcome)

    def _append(
        self, key: str, former: IntentState | None, state: IntentState, block_number: int, detail: str, outcome: Outcome | None
    ) -> None:
        self._database.execute(
            "INSERT INTO transitions (intent, former, state, block_number, time_s, detail, outcome) VALUES (?, ?, ?, ?, ?, ?, ?)",
            (key, former, state, block_number, self._clock.now(), detail, json.dumps(asdict(outcome)) if outcome else None),
        )

    def _intents(self, where: str, *values: Any) -> list[Intent]:
        rows = self._read(
            f"SELECT key, plan, state, nonce, settled_block, settled_hash, corrects FROM intents {where} ORDER BY rowid", *values
        )
        with self._legible("plan or state of an intent"):
            return [
                Intent(
                    Plan(**json.loads(plan)),
                    _S(state),
                    nonce,
                    settled_block,
                    settled_hash,
                    None if corrects is None else _S(corrects),
                    self._transactions(key),
                )
                for key, plan, state, nonce, settled_block, settled_hash, corrects in rows
            ]

    def _transactions(self, key: str) -> tuple[JournaledTransaction, ...]:
        rows = self._read(
            "SELECT hash, raw, kind, nonce, max_fee_wei, priority_fee_wei, base_fee_wei, block_number FROM transactions"
            " WHERE intent = ? ORDER BY rowid",
            key,
        )
        return tuple(
            JournaledTransaction(digest, raw, kind, nonce, int(max_fee), int(priority_fee), int(base_fee), block_number)
            for digest, raw, kind, nonce, max_fee, priority_fee, base_fee, block_number in rows
        )

    def _outcome(self, text: str) -> Outcome:
        with self._legible("outcome of an intent"):
            values = json.loads(text)
            corrects = values.pop("corrects")
            return Outcome(**{**values, "state": _S(values["state"])}, corrects=None if corrects is None else _S(corrects))


def _place(file: Path | int) -> tuple[int, int] | None:
    """Which file stands there, or is open under this number; None where there is none to look at."""
    try:
        found = os.fstat(file) if isinstance(file, int) else file.stat()
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError) as error:  # links that lead to each other
        raise JournalError(f"journal {path}: {error}; accepted is a path, or a link to one") from error


def _lock(path: Path, beside: Path) -> int:
    """An open file that holds the lock beside the journal; the system lets go of it when the process ends, however it ends."""
    try:
        descriptor = os.open(beside, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise JournalError(f"journal {path}: {error.strerror}; accepted is a path in a folder that can be written") from error
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(descriptor, 0)
        os.write(descriptor, str(os.getpid()).encode())
    except BlockingIOError:
        holder = os.read(descriptor, 32).decode(errors="replace") or "unknown"
        os.close(descriptor)
        raise JournalError(f"journal {path} is held by process {holder}; accepted is one runner for each journal") from None
    except OSError as error:
        os.close(descriptor)
        raise JournalError(f"journal {path}: {error.strerror}; accepted is a path on a disk with room and locks") from error
    return descriptor
