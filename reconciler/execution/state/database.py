"""One SQLite connection: how it is opened, its transactions, and its errors in our words.

Used by ``sqlite.py`` and ``migrations.py`` only. SQLite's side of the contract is at
https://www.sqlite.org/wal.html and https://www.sqlite.org/pragma.html#pragma_synchronous.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reconciler.errors import BugError, MetaldError, TransientError

# A reader only ever waits for another process's recovery or checkpoint at open and close.
BUSY_TIMEOUT_S: Final = 10.0
_PRIMARY_CODE_MASK: Final = 0xFF
_DAMAGED: Final = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB})
_PASSING: Final = frozenset(
    {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR}
)
DAMAGE_HINT: Final = (
    "nothing was changed; keep a copy of the file and its -wal, look at it with "
    "`metald state check`, or put a backup in its place with `metald state restore`"
)


@contextmanager
def reported(subject: Path) -> Iterator[None]:
    """Turn SQLite's errors inside into ours, about the file ``subject``."""
    try:
        yield
    except sqlite3.Error as error:
        raise _translated(error, str(subject)) from error


def _translated(error: sqlite3.Error, subject: str) -> MetaldError:
    code = _primary_code(error)
    if code in _DAMAGED:
        return MetaldError(
            f"the state database is damaged or not one: {error}", subject=subject, hint=DAMAGE_HINT
        )
    if code in _PASSING:
        return TransientError(
            f"the state database cannot be used now: {error}",
            subject=subject,
            hint="see that the disk has room and works, then try again",
        )
    if code in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM}:
        return MetaldError(
            f"the state database cannot be opened or written: {error}",
            subject=subject,
            hint="run as root, and see that the file system is not mounted read-only",
        )
    return BugError(f"the state database refused a statement: {error}", subject=subject)


def _primary_code(error: sqlite3.Error) -> int:
    # ProgrammingError and InterfaceError come from the binding, without a code of SQLite's.
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE)
    return code & _PRIMARY_CODE_MASK


class Database:
    """A connection shared by threads: one transaction at a time, all or nothing.

    ``writes`` differs after anything was written here that the ledger is read from, and after
    that was taken back.
    """

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self.writes = 0

    @contextmanager
    def reading(self) -> Iterator[sqlite3.Connection]:
        """All statements inside see one and the same state."""
        with self._transaction("BEGIN DEFERRED") as connection:
            yield connection

    @contextmanager
    def writing(self, *, beside_ledger: bool = False) -> Iterator[sqlite3.Connection]:
        """All statements inside become durable together when it ends, or none does.

        ``beside_ledger``: they touch nothing that the ledger is read from.
        """
        with self._lock:
            try:
                with self._transaction("BEGIN IMMEDIATE") as connection:
                    self.writes += not beside_ledger
                    yield connection
            finally:
                self.writes += not beside_ledger

    @contextmanager
    def _transaction(self, begin: str) -> Iterator[sqlite3.Connection]:
        with self._lock, reported(self.path):
            if self._connection.in_transaction:
                # Inside another of this thread's: a part that fails is undone on its own.
                begin, end, undo = "SAVEPOINT part", "RELEASE part", "ROLLBACK TO part"
            else:
                end, undo = "COMMIT", "ROLLBACK"
            self._connection.execute(begin)
            try:
                yield self._connection
                self._connection.execute(end)
            except BaseException:
                # SQLite itself ends the transaction on some errors (disk full, I/O).
                if self._connection.in_transaction:
                    self._connection.execute(undo)
                raise

    def integrity(self) -> tuple[str, ...]:
        """What SQLite's own checks find wrong, broken references included; empty when sound."""
        with self._lock, reported(self.path):
            try:
                lines = [str(row[0]) for row in self._connection.execute("PRAGMA integrity_check")]
                broken = self._connection.execute("PRAGMA foreign_key_check").fetchall()
            except sqlite3.DatabaseError as error:
                if _primary_code(error) not in _DAMAGED:
                    raise
                return (str(error),)  # too damaged for the check itself
        found = [
            f"table {table}: row {row} refers to a missing row of {parent}"
            for table, row, parent, _ in broken
        ]
        return tuple(line for line in (*lines, *found) if line != "ok")

    def fold_log(self) -> None:
        """Bring all that is committed into the database file itself."""
        with self._lock, reported(self.path):
            busy, _, _ = self._connection.execute("PRAGMA wal_checkpoint(FULL)").fetchone()
        if busy:
            raise TransientError(
                "somebody reads the state database and does not end", subject=str(self.path),
                hint="end other metald commands, then try again",
            )  # fmt: skip

    def close(self) -> None:
        """Close the connection; the last one to close folds the log into the database."""
        with self._lock, reported(self.path):
            self._connection.close()


def connect_writer(path: Path) -> sqlite3.Connection:
    """Open an existing database for reading and writing; nothing is written by that."""
    connection = _connect(f"{path.absolute().as_uri()}?mode=rw")
    connection.execute("PRAGMA foreign_keys = ON")
    connection.execute("PRAGMA synchronous = FULL")
    return connection


def connect_reader(path: Path) -> sqlite3.Connection:
    """Open an existing database for reading only; a writer elsewhere is not disturbed."""
    return _connect(f"{path.absolute().as_uri()}?mode=ro")


def connect_memory() -> sqlite3.Connection:
    """A private database that exists nowhere else."""
    return _connect("file::memory:")


def use_write_ahead_log(connection: sqlite3.Connection, path: Path) -> None:
    """Readers beside one writer need the write-ahead log. Raises MetaldError without it."""
    mode = connection.execute("PRAGMA journal_mode = WAL").fetchone()[0]
    if mode != "wal":
        raise MetaldError(
            f"the file system cannot hold a shared write-ahead log (SQLite stays in {mode} mode)",
            subject=str(path),
            hint="put the state folder on a local disk",
        )


def _connect(uri: str) -> sqlite3.Connection:
    connection = sqlite3.connect(
        uri, uri=True, timeout=BUSY_TIMEOUT_S, isolation_level=None, check_same_thread=False
    )
    # A database from a backup is data, not code: no functions called by its schema.
    connection.execute("PRAGMA trusted_schema = OFF")
    return connection
