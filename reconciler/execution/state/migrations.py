"""Numbered SQL files bring a database to the shape this version knows; each runs once.

A file that was applied is part of history: the database remembers its sha256, and an edited
file, a missing one or a database from a newer version is refused before anything is
written. Called when a state database is created or opened (``opening.py``).
"""

from __future__ import annotations

import hashlib
import re
import sqlite3
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from reconciler.errors import BugError, MetaldError

APPLICATION_ID = int.from_bytes(b"mtld", "big")
_FILE_NAME = re.compile(r"^(\d{4})_[a-z0-9_]+\.sql$")


@dataclass(frozen=True, slots=True)
class Migration:
    """One file: its number, name, text and the digest the database remembers."""

    number: int
    name: str
    sql: str
    sha256: str


def load(folder: Path) -> tuple[Migration, ...]:
    """Migrations of ``folder``, numbered from 1 without gaps. Raises BugError otherwise."""
    found = []
    for file in sorted(folder.glob("*.sql")):
        match = _FILE_NAME.match(file.name)
        if match is None:
            raise BugError("a migration is named NNNN_words.sql", subject=str(file))
        sql = file.read_text(encoding="utf-8")
        sha256 = hashlib.sha256(sql.encode()).hexdigest()
        found.append(Migration(int(match.group(1)), file.stem, sql, sha256))
    if not found or [entry.number for entry in found] != list(range(1, len(found) + 1)):
        raise BugError(
            "migrations must be numbered 0001, 0002, … without gaps", subject=str(folder)
        )
    return tuple(found)


def pending(
    connection: sqlite3.Connection, shipped: Sequence[Migration], *, subject: str
) -> tuple[Migration, ...]:
    """What this version would still apply to a database. Reads only.

    Raises MetaldError for a database that is not ours, of a newer version, or made by
    migrations that differ from the shipped ones.
    """
    if connection.execute("PRAGMA application_id").fetchone()[0] != APPLICATION_ID:
        raise MetaldError(
            "this is no state database of metald",
            subject=subject,
            hint="nothing was changed; restore a backup, or choose another --state-dir",
        )
    rows = connection.execute("SELECT number, name, sha256 FROM migrations ORDER BY number")
    applied: list[tuple[int, str, str]] = rows.fetchall()
    for (number, name, sha256), ours in zip(applied, shipped, strict=False):
        if (number, sha256) != (ours.number, ours.sha256):
            raise MetaldError(
                f"the database was made by migration {name} as it then was, and the shipped "
                f"{ours.name} differs from it",
                subject=subject,
                hint="nothing was changed; install an unmodified metald",
            )
    if len(applied) > len(shipped):
        raise MetaldError(
            f"the database is of a newer metald: it has had {len(applied)} migrations, "
            f"this version knows {len(shipped)}",
            subject=subject,
            hint="nothing was changed; install that version, or restore a backup from before it",
        )
    return tuple(shipped[len(applied) :])


def apply(connection: sqlite3.Connection, migrations: Sequence[Migration], *, now_s: float) -> None:
    """Apply each in a transaction of its own. Raises sqlite3.Error, the failing one undone."""
    for migration in migrations:
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in _statements(migration.sql):
                connection.execute(statement)
            connection.execute(
                "INSERT INTO migrations (number, name, sha256, applied_at_s) VALUES (?, ?, ?, ?)",
                (migration.number, migration.name, migration.sha256, now_s),
            )
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise


def _statements(sql: str) -> Iterator[str]:
    # executescript would commit on its own; complete_statement knows triggers and comments.
    statement = ""
    for line in sql.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement
