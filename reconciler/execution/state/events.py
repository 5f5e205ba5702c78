"""Events in SQL: appended, read in order, bounded.

Functions over a connection inside a transaction that ``sqlite.py`` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from reconciler.execution.state.records import Event

EVENTS_KEPT: Final = 100_000

_EVENT = "SELECT at_s, resource, kind, reason, message, run, commit_id, id FROM events"


def append(db: sqlite3.Connection, events: Iterable[Event], *, kept: int) -> None:
    """Add events; ids rise and never return, also after old events went."""
    db.executemany(
        "INSERT INTO events (at_s, resource, kind, reason, message, run, commit_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(e.at_s, e.resource, e.kind, e.reason, e.message, e.run, e.commit) for e in events],
    )
    db.execute("DELETE FROM events WHERE id <= (SELECT max(id) FROM events) - ?", (kept,))


def read(
    db: sqlite3.Connection, *, after_id: int | None, limit: int, resource: str | None
) -> tuple[Event, ...]:
    """The first ``limit`` after an id, or the last ``limit`` of all, in the order of ids."""
    where = "id > :after" if resource is None else "resource = :resource AND id > :after"
    order = "DESC" if after_id is None else "ASC"
    rows = db.execute(
        f"{_EVENT} WHERE {where} ORDER BY id {order} LIMIT :limit",
        {"resource": resource, "after": after_id or 0, "limit": limit},
    ).fetchall()
    ordered = reversed(rows) if after_id is None else rows
    return tuple(Event(*row) for row in ordered)
