"""What was done and why: `history`, `history show` and `why`, from the journal alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from reconciler.execution.state.records import Run, RunChange, StepRecord
from reconciler.execution.state.store import Reader
from reconciler.execution.views import LIST_FORMAT
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Ledger
from reconciler.model.times import rfc3339

RUN_FORMAT = "metald.run/v1"
WHY_FORMAT = "metald.why/v1"
# It goes on, or its process was killed.
UNFINISHED = "unfinished"


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
    reader: Reader, ledger: Ledger, address: ResourceAddress, status: Mapping[str, Any] | None
) -> dict[str, Any]:
    """The causal chain of a resource's state: who declared it, what was done, what comes next."""
    changes = reader.changes(resource=address, limit=5)
    runs = {run.id: run for change in changes if (run := reader.run(change.run)) is not None}
    events = reader.events(limit=10, resource=address)
    return {
        "format": WHY_FORMAT,
        "resource": address,
        "managed": address in ledger.managed,
        "status": status,
        "causes": [_cause(change, runs.get(change.run)) for change in changes],
        "failures": [*_failures(reader, runs, address)],
        "events": [event.to_json() for event in events],
        "next": list(_next(ledger, address)),
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


def _next(ledger: Ledger, address: ResourceAddress) -> Iterator[dict[str, Any]]:
    """What keeps it from being changed now, and until when."""
    hold, retry = ledger.holds.get(address), ledger.retries.get(address)
    if hold is not None:
        until = None if hold.until_s is None else rfc3339(hold.until_s)
        yield {"what": f"held by {hold.owner}: {hold.reason}", "at": until}
    if retry is not None:
        what = f"tried again after {retry.failures} failures: {retry.error}"
        yield {"what": what, "at": rfc3339(retry.not_before_s)}


def why_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """The chain for people, oldest cause first."""
    yield f"{document['resource']}: {_state(document)}"
    for cause in document["causes"]:
        by = f" by {cause['author']}" if cause.get("author") else ""
        at = f" at {cause['commit'][:12]}{by}" if cause.get("commit") else ""
        yield (
            f"  run {cause['run']} ({cause.get('at', 'forgotten')}, {cause.get('outcome', '?')}): "
            f"{cause['action']}, because {cause['reason']}"
        )
        if cause.get("source"):
            yield f"    from {cause['source']}{at}"
    for failure in document["failures"]:
        yield f"  failed in run {failure['run']}: {failure['step']}: {failure['error']}"
    for event in document["events"][-5:]:
        yield f"  {event['at']} {event['reason']}: {event['message']}"
    for entry in document["next"]:
        yield f"  next: {entry['what']}" + (f" at {entry['at']}" if entry["at"] else "")


def _state(document: Mapping[str, Any]) -> str:
    if not document["managed"]:
        return "not managed here (any more)"
    status = document["status"]
    if status is None:
        return "on record; its state was not looked at"
    reasons = [f"{c['type']} {c['status']}: {c['reason']}" for c in status.get("conditions", ())]
    return "; ".join([status["phase"], *reasons])
