"""Decisions that wait for a person, or were made by one, in SQL: confirmation, rejection, use.

Functions over a connection inside a transaction that ``sqlite.py`` opened.
"""

from __future__ import annotations

import sqlite3
from dataclasses import astuple

from reconciler.errors import BugError, RefusedError
from reconciler.execution.state.journal import RUNS_KEPT
from reconciler.execution.state.records import Confirmation, Rejection
from reconciler.model.times import Deadline


def pending(db: sqlite3.Connection) -> Confirmation | None:
    """The one change that awaits confirmation."""
    row = db.execute(
        "SELECT run, before, request, deadline_s, deadline_boot_s, boot_id, seconds"
        " FROM confirmation"
    ).fetchone()
    if row is None:
        return None
    run, before, request, *deadline = row
    return Confirmation(run, Deadline(*deadline), before, request)


def add_pending(db: sqlite3.Connection, entry: Confirmation) -> None:
    """Only one change can wait: a second would make the first one's way back unclear."""
    if pending(db) is not None:
        raise BugError("a change awaits confirmation already", subject=f"run {entry.run}")
    db.execute(
        "INSERT INTO confirmation"
        " (id, run, before, request, deadline_s, deadline_boot_s, boot_id, seconds)"
        " VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
        (entry.run, entry.before, entry.request, *astuple(entry.deadline)),
    )


def move_deadline(db: sqlite3.Connection, deadline: Deadline) -> None:
    """The change that waits does so until then."""
    db.execute(
        "UPDATE confirmation SET deadline_s = ?, deadline_boot_s = ?, boot_id = ?, seconds = ?",
        astuple(deadline),
    )


def end_pending(db: sqlite3.Connection) -> None:
    """Nothing waits any more."""
    db.execute("DELETE FROM confirmation")


def rejection(db: sqlite3.Connection, source: str) -> Rejection | None:
    """What of a source must not be applied."""
    row = db.execute(
        "SELECT source, fleet_digest, commit_id, at_s, reason, instead FROM rejections"
        " WHERE source = ?",
        (source,),
    ).fetchone()
    return None if row is None else Rejection(*row)


def reject(db: sqlite3.Connection, entry: Rejection) -> None:
    """Replace what was rejected of that source."""
    db.execute(
        "INSERT OR REPLACE INTO rejections"
        " (source, fleet_digest, commit_id, at_s, reason, instead) VALUES (?, ?, ?, ?, ?, ?)",
        (
            entry.source, entry.fleet_digest, entry.commit,
            entry.at_s, entry.reason, entry.instead,
        ),
    )  # fmt: skip


def forget_rejection(db: sqlite3.Connection, source: str) -> None:
    """The source may be applied again as it is."""
    db.execute("DELETE FROM rejections WHERE source = ?", (source,))


def use_plan_file(db: sqlite3.Connection, token: str, run: int, now_s: float) -> None:
    """A saved plan is carried out once; the oldest uses beyond what runs are kept go too."""
    used = plan_file_run(db, token)
    if used is not None:
        raise RefusedError(
            f"this plan was carried out already, by run {used}", hint="make a new plan"
        )
    db.execute("DELETE FROM plan_files WHERE run <= ?", (run - RUNS_KEPT,))
    db.execute(
        "INSERT INTO plan_files (token, run, used_at_s) VALUES (?, ?, ?)", (token, run, now_s)
    )


def plan_file_run(db: sqlite3.Connection, token: str) -> int | None:
    """Who used it."""
    row = db.execute("SELECT run FROM plan_files WHERE token = ?", (token,)).fetchone()
    return None if row is None else int(row[0])
