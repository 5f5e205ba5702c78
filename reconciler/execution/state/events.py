"""Events in SQL: appended, read in order, bounded.

Functions over a connection inside a transaction that ``sqlite.py`` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from typing import Final

from reconciler.execution.state.records import Event

EVENTS_KEPT: Final = 100_000
# Told apart from the others, so that no attack pushes those out.
DROPPED: Final = "Dropped"
DROPPED_KEPT: Final = 20_000

_LEAVE_DROPPED: Final = (
    "DELETE FROM events WHERE reason = 'Dropped' AND id <= (SELECT id FROM events"
    " WHERE reason = 'Dropped' ORDER BY id DESC LIMIT 1 OFFSET ?)"
)
_LEAVE_OTHERS: Final = (
    "DELETE FROM events WHERE reason != 'Dropped' AND id <= (SELECT id FROM events"
    " WHERE reason != 'Dropped' ORDER BY id DESC LIMIT 1 OFFSET ?)"
)
_EVENT = "SELECT at_s, resource, kind, reason, message, run, commit_id, id FROM events"


def append(db: sqlite3.Connection, events: Iterable[Event], *, kept: int) -> None:
    """Add events; ids rise and never return, also after old events went."""
    events = tuple(events)
    db.executemany(
        "INSERT INTO events (at_s, resource, kind, reason, message, run, commit_id)"
        " VALUES (?, ?, ?, ?, ?, ?, ?)",
        [(e.at_s, e.resource, e.kind, e.reason, e.message, e.run, e.commit) for e in events],
    )
    (last,) = db.execute("SELECT max(id) FROM events").fetchone()
    if last is not None:
        _trim(db, last, len(events), (_LEAVE_DROPPED, DROPPED_KEPT))
        _trim(db, last, len(events), (_LEAVE_OTHERS, kept))


def _trim(db: sqlite3.Connection, last: int, added: int, bound: tuple[str, int]) -> None:
    """Leave the latest of a kind; ``bound``: by which statement, and how many. Counted, since ids
    are shared with the other kind; only now and then, because counting takes its time.
    """
    statement, kept = bound
    step = max(1, kept // 100)
    if last // step != (last - added) // step:
        db.execute(statement, (kept,))


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
