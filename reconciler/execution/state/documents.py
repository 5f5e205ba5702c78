"""What the next run needs to remember, in SQL.

Rules as loaded, sysctls as found, the last observation, the last good spec files
and where they came from, the last words told.
Functions over a connection inside a transaction that ``sqlite.py`` opened.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Mapping

from reconciler.execution.state.records import SavedObservation, SourceRecord


def set_firewall(db: sqlite3.Connection, template: str, listing: str) -> None:
    """Replace the digests of our rules."""
    db.execute(
        "INSERT OR REPLACE INTO firewall (id, template, listing) VALUES (1, ?, ?)",
        (template, listing),
    )


def forget_firewall(db: sqlite3.Connection) -> None:
    """No rules of ours are loaded."""
    db.execute("DELETE FROM firewall")


def remember_sysctls(db: sqlite3.Connection, values: Mapping[str, str]) -> None:
    """Only keys not remembered yet: a second write would remember our own value."""
    db.executemany(
        "INSERT OR IGNORE INTO sysctls_before (key, value) VALUES (?, ?)", list(values.items())
    )


def forget_sysctls(db: sqlite3.Connection) -> None:
    """All were put back."""
    db.execute("DELETE FROM sysctls_before")


def save_observation(db: sqlite3.Connection, document: str, now_s: float) -> None:
    """Replace the last observation."""
    db.execute(
        "INSERT OR REPLACE INTO observation (id, at_s, document) VALUES (1, ?, ?)",
        (now_s, document),
    )


def last_observation(db: sqlite3.Connection) -> SavedObservation | None:
    """The last one, if any."""
    row = db.execute("SELECT at_s, document FROM observation").fetchone()
    return None if row is None else SavedObservation(*row)


def save_documents(db: sqlite3.Connection, source: str, files: Mapping[str, str]) -> None:
    """Make ``files`` all there is of ``source``; only what differs is written."""
    known = good_documents(db, source)
    db.executemany(
        "DELETE FROM documents WHERE source = ? AND file = ?",
        [(source, file) for file in known.keys() - files.keys()],
    )
    db.executemany(
        "INSERT OR REPLACE INTO documents (source, file, text) VALUES (?, ?, ?)",
        [(source, file, text) for file, text in files.items() if known.get(file) != text],
    )


def good_documents(db: sqlite3.Connection, source: str) -> dict[str, str]:
    """Text by file name."""
    rows = db.execute("SELECT file, text FROM documents WHERE source = ? ORDER BY file", (source,))
    return dict(rows.fetchall())


def save_source(db: sqlite3.Connection, source: str, record: SourceRecord) -> None:
    """Replace what is known of ``source``."""
    db.execute(
        "INSERT OR REPLACE INTO sources (source, root, commit_id, author, applied_commit)"
        " VALUES (?, ?, ?, ?, ?)",
        (source, record.root, record.commit, record.author, record.applied),
    )


def source_record(db: sqlite3.Connection, source: str) -> SourceRecord | None:
    """What is known of ``source``, if anything."""
    row = db.execute(
        "SELECT root, commit_id, author, applied_commit FROM sources WHERE source = ?", (source,)
    ).fetchone()
    return None if row is None else SourceRecord(*row)


def save_told_drops(db: sqlite3.Connection, document: str) -> None:
    """Replace what was last told of dropped packets."""
    db.execute("INSERT OR REPLACE INTO told_drops (id, document) VALUES (1, ?)", (document,))


def told_drops(db: sqlite3.Connection) -> str:
    """What was last told of dropped packets; empty when nothing ever was."""
    row = db.execute("SELECT document FROM told_drops").fetchone()
    return "" if row is None else str(row[0])


def save_last_words(db: sqlite3.Connection, document: str) -> None:
    """Replace what was last told."""
    db.execute("INSERT OR REPLACE INTO last_words (id, document) VALUES (1, ?)", (document,))


def last_words(db: sqlite3.Connection) -> str:
    """What was last told; empty when nothing ever was."""
    row = db.execute("SELECT document FROM last_words").fetchone()
    return "" if row is None else str(row[0])
