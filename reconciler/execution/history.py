"""What was done and why: `history`, `history show` and `why`, from the journal alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from reconciler.execution.state.records import Run, RunChange, StepRecord
from reconciler.execution.state.store import Reader
from reconciler.execution.views import LIST_FORMAT
from reconciler.model.addresses import (
    EVERYTHING,
    ResourceAddress,
    host_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.ledger import Ledger
from reconciler.model.plan import Plan
from reconciler.model.times import rfc3339

RUN_FORMAT = "metald.run/v1"
WHY_FORMAT = "metald.why/v1"
# It goes on, or its process was killed.
UNFINISHED = "unfinished"
_VERDICTS = {
    "start": "to be started again",
    "completed": "to be recorded as completed",
    "failed": "to be recorded as failed",
}
_HOST = host_address("local")


@dataclass(frozen=True, slots=True)
class Looked:
    """What was found when the question was asked.

    ``differing``: what it would take to make the host as it is on record. ``daemon``: one runs.
    """

    ledger: Ledger
    differing: Plan
    daemon: bool


def run_row(run: Run) -> dict[str, Any]:
    """One run in a list."""
    return {
        "run": run.id,
        "startedAt": rfc3339(run.started_at_s),
        "endedAt": None if run.ended_at_s is None else rfc3339(run.ended_at_s),
        "source": run.source,
        "commit": run.commit,
        "author": run.author,
        "plan": run.plan_id,
        "outcome": run.outcome or UNFINISHED,
        "detail": run.detail,
    }


def history_document(runs: tuple[Run, ...]) -> dict[str, Any]:
    """The latest runs, newest first."""
    return {"format": LIST_FORMAT, "kind": "run", "items": [run_row(run) for run in runs]}


def run_document(
    run: Run, changes: tuple[RunChange, ...], steps: tuple[StepRecord, ...]
) -> dict[str, Any]:
    """One run with what it set out to change and what became of each step."""
    return {
        "format": RUN_FORMAT,
        **run_row(run),
        "changes": [
            {"resource": c.resource, "action": c.action, "reason": c.reason} for c in changes
        ],
        "steps": [_step(step) for step in steps],
    }


def _step(step: StepRecord) -> dict[str, Any]:
    took = None
    if step.started_at_s is not None and step.ended_at_s is not None:
        took = round(step.ended_at_s - step.started_at_s, 3)
    return {
        "key": step.key,
        "resource": step.resource,
        "operation": step.operation,
        "status": step.status,
        "seconds": took,
        "evidence": dict(step.evidence),
        "error": step.error,
    }


def why_document(
    reader: Reader,
    looked: Looked,
    address: ResourceAddress,
    *,
    status: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """The causal chain of a resource's state: who declared it, what was done, what comes next."""
    changes = reader.changes(resource=address, limit=5)
    runs = {run.id: run for change in changes if (run := reader.run(change.run)) is not None}
    events = reader.events(limit=10, resource=address)
    return {
        "format": WHY_FORMAT,
        "resource": address,
        "managed": address in looked.ledger.managed,
        "status": status,
        "causes": [_cause(change, runs.get(change.run)) for change in changes],
        "failures": [*_failures(reader, runs, address)],
        "events": [event.to_json() for event in events],
        "next": list(_next(looked, address)),
    }


def _cause(change: RunChange, run: Run | None) -> dict[str, Any]:
    row = {"run": change.run, "action": change.action, "reason": change.reason}
    if run is None:
        return row
    return {
        **row,
        "at": rfc3339(run.started_at_s),
        "source": run.source,
        "commit": run.commit,
        "author": run.author,
        "outcome": run.outcome or UNFINISHED,
    }


def _failures(
    reader: Reader, runs: Mapping[int, Run], address: ResourceAddress
) -> Iterator[dict[str, Any]]:
    for number in sorted(runs):
        for step in reader.steps(number):
            if step.resource == address and step.status == "failed":
                yield {"run": number, "step": step.key, "error": step.error}


def _next(looked: Looked, address: ResourceAddress) -> Iterator[dict[str, Any]]:
    """What is due, what keeps it from being done now, and until when."""
    due = [*_due(looked.differing, address)]
    yield from due
    holds, retry = looked.ledger.lasting_holds(), looked.ledger.retries.get(address)
    for held in (address, tenant_address(tenant_of(address)), EVERYTHING):
        hold = holds.get(held)
        if hold is not None:
            until = None if hold.until_s is None else rfc3339(hold.until_s)
            yield {"what": f"{held} is held by {hold.owner}: {hold.reason}", "at": until}
    if retry is not None:
        times = f"{retry.failures} failure{'' if retry.failures == 1 else 's'}"
        what = f"tried again after {times}: {retry.error}"
        yield {"what": what, "at": rfc3339(retry.not_before_s)}
    if (due or retry) and not looked.daemon:
        yield {"what": "no daemon runs here: nothing happens until metald apply or serve",
               "at": None}  # fmt: skip


def _due(differing: Plan, address: ResourceAddress) -> Iterator[dict[str, Any]]:
    for change in differing.changes:
        if change.resource == address:
            yield {"what": f"{change.action} is due: {change.reason}", "at": None}
    for recovery in differing.recoveries:
        if recovery.resource == address:
            when = rfc3339(recovery.not_before_s) if recovery.not_before_s else None
            yield {"what": f"{_VERDICTS[recovery.verdict]}: {recovery.reason}", "at": when}
    for blocked, reason in differing.blocked:
        if blocked in {address, _HOST}:
            yield {"what": f"left alone while it cannot be seen: {reason}", "at": None}
