"""From a state folder to a connection: create, check, migrate; or look without touching.

A database file is complete from the moment it has its name: it is built in memory, key of
identity included, and put in place by the atomic writer. So an empty or half-made file is
damage, never a fresh start that would give every VM another identity. Called by
``sqlite.py``.
"""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from pathlib import Path

from reconciler import files, resources
from reconciler.errors import MetaldError
from reconciler.execution.state import migrations
from reconciler.execution.state.database import (
    DAMAGE_HINT,
    Database,
    connect_memory,
    connect_reader,
    connect_writer,
    reported,
    use_write_ahead_log,
)
from reconciler.execution.state.migrations import Migration
from reconciler.paths import StatePaths

SECRET_BYTES = 32


def shipped_migrations() -> tuple[Migration, ...]:
    """The SQLite migrations this version comes with."""
    return migrations.load(resources.data_folder("state") / "sqlite")


def open_for_writing(state: StatePaths, shipped: Sequence[Migration], *, now_s: float) -> Database:
    """The database, created or migrated as needed. Only for the holder of the writer lock.

    Raises MetaldError for a damaged, foreign or newer database, which is left untouched.
    """
    path = state.database
    prepare_folder(state)
    if not _is_there(path):
        _create(path, shipped, now_s=now_s)
    with reported(path):
        connection = connect_writer(path)
        try:
            missing = migrations.pending(connection, shipped, subject=str(path))
            use_write_ahead_log(connection, path)
            migrations.apply(connection, missing, now_s=now_s)
        except BaseException:
            connection.close()
            raise
    return Database(path, connection)


def open_for_reading(state: StatePaths, shipped: Sequence[Migration]) -> Database | None:
    """The database for looking only, None where nothing was ever applied.

    Raises MetaldError as above, and for a database that a newer metald has yet to migrate.
    """
    path = state.database
    if not _is_there(path):
        return None
    with reported(path):
        connection = connect_reader(path)
        try:
            missing = migrations.pending(connection, shipped, subject=str(path))
        except BaseException:
            connection.close()
            raise
    if missing:
        connection.close()
        raise MetaldError(
            f"the database is of an older metald and needs migration {missing[0].name} first",
            subject=str(path),
            hint="restart `metald serve`, or run `metald apply`: both bring it up to date",
        )
    return Database(path, connection)


def empty_database(shipped: Sequence[Migration], *, subject: Path) -> Database:
    """A database in memory with every table and no row, to answer for one not there."""
    with reported(subject):
        connection = connect_memory()
        migrations.apply(connection, shipped, now_s=0.0)
    return Database(subject, connection)


def prepare_folder(state: StatePaths) -> None:
    """Create the state folder, for root's eyes only; one that exists keeps its mode."""
    try:
        state.root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise MetaldError(
            f"the state folder cannot be made: {error.strerror}",
            subject=str(state.root),
            hint="run as root, or choose another --state-dir",
        ) from error


def _is_there(path: Path) -> bool:
    """Whether there is a database. What cannot be seen is an error, not an absence."""
    try:
        path.stat()
    except FileNotFoundError:
        if path.with_name(f"{path.name}-wal").exists():
            raise MetaldError(
                "the state database is gone, but its write-ahead log is there",
                subject=str(path),
                hint=DAMAGE_HINT,
            ) from None
        return False
    except OSError as error:
        raise MetaldError(
            f"the state database cannot be seen: {error.strerror}",
            subject=str(path),
            hint="run as root",
        ) from error
    return True


def _create(path: Path, shipped: Sequence[Migration], *, now_s: float) -> None:
    for leftover in path.parent.glob(f".{path.name}.*"):
        leftover.unlink(missing_ok=True)  # of a creation that was killed; we hold the lock
    with reported(path):
        connection = connect_memory()
        migrations.apply(connection, shipped, now_s=now_s)
        connection.execute(
            "INSERT INTO host (id, secret, created_at_s) VALUES (1, ?, ?)",
            (secrets.token_bytes(SECRET_BYTES), now_s),
        )
        image: bytes = connection.serialize()
        connection.close()
    try:
        files.write_atomic(path, image, mode=0o600)
    except OSError as error:
        raise MetaldError(
            f"the state database cannot be made: {error.strerror}",
            subject=str(path),
            hint="run as root, and see that the disk has room",
        ) from error
