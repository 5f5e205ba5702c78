"""The journal in SQL: runs and their steps, each journalled before it is carried out.

Functions over a connection inside a transaction that ``sqlite.py`` opened.
"""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Mapping
from typing import Any, Final

from reconciler.errors import BugError
from reconciler.execution.state.records import Outcome, Run, RunChange, StepRecord
from reconciler.model.plan import Plan
from reconciler.planning.canonical import canonical_json, to_plain
from reconciler.planning.documents.prints import fingerprint
from reconciler.planning.documents.render import SourceInfo

RUNS_KEPT: Final = 1000
# Steps of all runs together, about 200 MB; the last runs are kept however many they have.
STEPS_KEPT: Final = 300_000
RUNS_KEPT_ANYWAY: Final = 10
# How far back the estimates of downtime look: enough to average, few enough to be cheap.
RUNS_MEASURED: Final = 20

_RUN = (
    "SELECT id, plan_id, fingerprint, source, commit_id, started_at_s, ended_at_s, outcome,"
    " detail, author FROM runs"
)


def open_run(db: sqlite3.Connection, plan: Plan, source: SourceInfo, *, now_s: float) -> int:
    """A run, its changes and its intended steps; the oldest ended runs beyond what is kept go."""
    cursor = db.execute(
        "INSERT INTO runs (plan_id, fingerprint, source, commit_id, author, started_at_s,"
        " step_count) VALUES (?, ?, ?, ?, ?, ?, ?) RETURNING id",
        (
            plan.id, fingerprint(plan), source.path, source.commit, source.author, now_s,
            len(plan.steps),
        ),
    )  # fmt: skip
    run: int = cursor.fetchone()[0]
    told: list[tuple[str, str, str]] = [
        *((entry.resource, entry.action, entry.reason) for entry in plan.changes),
        *((entry.resource, entry.verdict, entry.reason) for entry in plan.recoveries),
    ]
    db.executemany(
        "INSERT INTO run_changes (run, position, resource, action, reason) VALUES (?, ?, ?, ?, ?)",
        [(run, position, *row) for position, row in enumerate(told)],
    )
    db.executemany(
        "INSERT INTO steps (run, position, key, resource, operation, arguments)"
        " VALUES (?, ?, ?, ?, ?, ?)",
        [
            (
                run, position, step.key, step.resource,
                type(step.operation).__name__, canonical_json(to_plain(step.operation)),
            )
            for position, step in enumerate(plan.steps)
        ],
    )  # fmt: skip
    _forget_oldest(db, run)
    return run


def _forget_oldest(db: sqlite3.Connection, run: int) -> None:
    db.execute(
        "DELETE FROM runs WHERE outcome IS NOT NULL AND id <= max(:run - :runs, ("
        "  SELECT coalesce(max(id), 0) FROM"
        "   (SELECT id, sum(step_count) OVER (ORDER BY id DESC) AS steps FROM runs)"
        "  WHERE steps > :steps AND id <= :run - :anyway))",
        {"run": run, "runs": RUNS_KEPT, "steps": STEPS_KEPT, "anyway": RUNS_KEPT_ANYWAY},
    )


def start(db: sqlite3.Connection, run: int, keys: Iterable[str], now_s: float) -> None:
    """Intended or failed → started."""
    _move(
        db,
        "UPDATE steps SET status = 'started', started_at_s = ?, ended_at_s = NULL, error = ''"
        " WHERE run = ? AND key = ? AND status IN ('intended', 'failed')",
        [(now_s, run, key) for key in keys],
    )


def complete(db: sqlite3.Connection, run: int, keys: Iterable[str], now_s: float) -> None:
    """Started → done."""
    _move(
        db,
        "UPDATE steps SET status = 'done', ended_at_s = ?"
        " WHERE run = ? AND key = ? AND status = 'started'",
        [(now_s, run, key) for key in keys],
    )


def verify(db: sqlite3.Connection, run: int, evidence: Mapping[str, Mapping[str, Any]]) -> None:
    """Done, and this is what proves it; a step that is not done is left alone."""
    db.executemany(
        "UPDATE steps SET evidence = ? WHERE run = ? AND key = ? AND status = 'done'",
        [(canonical_json(to_plain(proof)), run, key) for key, proof in evidence.items()],
    )


def fail(db: sqlite3.Connection, run: int, errors: Mapping[str, str], now_s: float) -> None:
    """Started → failed."""
    _move(
        db,
        "UPDATE steps SET status = 'failed', error = ?, ended_at_s = ?"
        " WHERE run = ? AND key = ? AND status = 'started'",
        [(error, now_s, run, key) for key, error in errors.items()],
    )


def _move(db: sqlite3.Connection, statement: str, rows: list[tuple[Any, ...]]) -> None:
    """Each row moves exactly one step on. Raises BugError for one that is elsewhere."""
    for row in rows:
        if db.execute(statement, row).rowcount != 1:
            run, key = row[-2:]
            found = db.execute(
                "SELECT status FROM steps WHERE run = ? AND key = ?", (run, key)
            ).fetchone()
            state = f"is {found[0]} already" if found else "is not in the journal"
            raise BugError(f"a step cannot move on: it {state}", subject=f"run {run}, step {key}")


def finish(
    db: sqlite3.Connection, run: int, *, outcome: Outcome, detail: str, now_s: float
) -> None:
    """Give a run its outcome, once."""
    cursor = db.execute(
        "UPDATE runs SET outcome = ?, detail = ?, ended_at_s = ? WHERE id = ? AND outcome IS NULL",
        (outcome, detail, now_s, run),
    )
    if cursor.rowcount != 1:
        raise BugError("a run ends once, and only after it began", subject=f"run {run}")
    db.execute(
        "INSERT INTO durations (run, operation, hypervisor, steps, seconds)"
        " SELECT run, operation, coalesce(json_extract(arguments, '$.launch.hypervisor'),"
        "  json_extract(arguments, '$.hypervisor'), '') AS hypervisor,"
        "  count(*), sum(ended_at_s - started_at_s)"
        " FROM steps WHERE run = ? AND operation IN ('StartVm', 'StopVm') AND status = 'done'"
        " AND ended_at_s >= started_at_s GROUP BY operation, hypervisor",
        (run,),
    )


def runs(db: sqlite3.Connection, limit: int) -> tuple[Run, ...]:
    """The latest, newest first."""
    rows = db.execute(f"{_RUN} ORDER BY id DESC LIMIT ?", (limit,))
    return tuple(Run(*row) for row in rows)


def one_run(db: sqlite3.Connection, number: int) -> Run | None:
    """A run by its number."""
    row = db.execute(f"{_RUN} WHERE id = ?", (number,)).fetchone()
    return None if row is None else Run(*row)


def changes(
    db: sqlite3.Connection, *, run: int | None, resource: str | None, limit: int
) -> tuple[RunChange, ...]:
    """The last ``limit`` of a run, of a resource, or of all; oldest first."""
    rows = db.execute(
        "SELECT run, resource, action, reason FROM run_changes"
        " WHERE (:run IS NULL OR run = :run) AND (:resource IS NULL OR resource = :resource)"
        " ORDER BY run DESC, position DESC LIMIT :limit",
        {"run": run, "resource": resource, "limit": limit},
    ).fetchall()
    return tuple(RunChange(*row) for row in reversed(rows))


def durations(db: sqlite3.Connection) -> dict[tuple[str, str], float]:
    """Mean seconds of the starts and stops of the last ended runs, by (operation, hypervisor)."""
    rows = db.execute(
        "SELECT operation, hypervisor, sum(seconds) / sum(steps) FROM durations"
        " WHERE run > (SELECT coalesce(max(id), 0) FROM runs) - ? GROUP BY operation, hypervisor",
        (RUNS_MEASURED,),
    )
    return {(operation, hypervisor): seconds for operation, hypervisor, seconds in rows}


def unfinished(db: sqlite3.Connection) -> tuple[Run, ...]:
    """Those without an outcome, oldest first."""
    rows = db.execute(f"{_RUN} WHERE outcome IS NULL ORDER BY id")
    return tuple(Run(*row) for row in rows)


def steps(db: sqlite3.Connection, run: int) -> tuple[StepRecord, ...]:
    """A run's steps in plan order."""
    rows = db.execute(
        "SELECT run, key, resource, operation, arguments, status, started_at_s, ended_at_s,"
        " evidence, error FROM steps WHERE run = ? ORDER BY position",
        (run,),
    )
    return tuple(
        StepRecord(
            number, key, resource, operation, json.loads(arguments), status,
            started_at_s, ended_at_s, json.loads(evidence), error,
        )
        for (
            number, key, resource, operation, arguments, status,
            started_at_s, ended_at_s, evidence, error,
        ) in rows
    )  # fmt: skip
