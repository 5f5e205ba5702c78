"""`history`, `history show` and `why` for people, from their documents."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from reconciler.cli.text import safe, table

Entry = Mapping[str, Any]
_COLOURS = {"done": "green", "partial": "yellow", "interrupted": "yellow", "failed": "red"}
_STEP_MARKS = {"done": "✓", "failed": "✗", "started": "…", "intended": "-"}
_STEP_WORDS = {"started": "begun, its end was not seen", "intended": "not begun"}
# What the runs and failures above have told already.
_TOLD = frozenset({"Created", "Updated", "Restarted", "Replaced", "Deleted", "StepFailed"})


def history_lines(document: Entry) -> Iterator[str]:
    """One line a run, newest first."""
    rows: list[Sequence[str]] = [("RUN", "STARTED", "OUTCOME", "PLAN", "COMMIT", "AUTHOR", "FROM")]
    for run in document["items"]:
        commit, author = run["commit"][:12] or "-", run["author"] or "-"
        row = (str(run["run"]), run["startedAt"], run["outcome"], run["plan"][:12], commit)
        rows.append((*row, author, run["source"]))
    yield from table(rows) if len(rows) > 1 else ("nothing was applied here yet",)


def run_lines(document: Entry) -> Iterator[str]:
    """What a run set out to change, and what became of each step."""
    outcome = document["outcome"]
    yield f"run {document['run']}: {click.style(outcome, fg=_COLOURS.get(outcome))}"
    yield f"  plan    {document['plan']}"
    by = f" by {document['author']}" if document["author"] else ""
    at = f" at {document['commit']}{by}" if document["commit"] else ""
    yield safe(f"  from    {document['source']}{at}")
    yield f"  time    {document['startedAt']} to {document['endedAt'] or 'now'}"
    if document["detail"]:
        yield safe(f"  left    {document['detail']}")
    for change in document["changes"]:
        yield safe(f"  {change['resource']}: {change['action']}: {change['reason']}")
        for step in document["steps"]:
            if step["resource"] == change["resource"]:
                yield f"    {_step(step)}"
    told = {change["resource"] for change in document["changes"]}
    for step in document["steps"]:
        if step["resource"] not in told:
            yield f"  {_step(step)}"


def _step(step: Entry) -> str:
    took = "" if step["seconds"] is None else f" ({step['seconds']:.1f} s)"
    note = step["error"] or _STEP_WORDS.get(step["status"], "")
    return safe(f"{_STEP_MARKS[step['status']]} {step['key']}{took}{': ' if note else ''}{note}")


def why_lines(document: Entry) -> Iterator[str]:
    """The chain, oldest cause first, and what comes next."""
    yield from (safe(line) for line in _state(document))
    for cause in document["causes"]:
        outcome = cause.get("outcome", "the run itself is forgotten")
        when = f", {cause['at']}" if "at" in cause else ""
        yield safe(f"  run {cause['run']}{when}: {cause['action']}: {cause['reason']}: {outcome}")
        by = f" by {cause['author']}" if cause.get("author") else ""
        at = f" at {cause['commit'][:12]}{by}" if cause.get("commit") else ""
        if cause.get("source"):
            yield safe(f"      from {cause['source']}{at}")
        for failure in document["failures"]:
            if failure["run"] == cause["run"]:
                yield safe(f"      failed: {failure['step']}: {failure['error']}")
    for event in document["events"]:
        if event["reason"] not in _TOLD:
            yield safe(f"  {event['at']} {event['reason']}: {event['message']}")
    told = [f": {failure['error']}" for failure in document["failures"]]
    for entry in document["next"]:
        what = entry["what"]
        for error in told:
            what = what.removesuffix(error)
        when = f" (until {entry['at']})" if " is held by " in entry["what"] else (
            f" (not before {entry['at']})")  # fmt: skip
        yield safe(f"  next: {what}{when if entry['at'] else ''}")
    if document["managed"] and not document["next"]:
        yield "  next: nothing is due"


def _state(document: Entry) -> Iterator[str]:
    status = document["status"]
    if not document["managed"]:
        yield f"{document['resource']}: not managed here (any more)"
    elif status is None:
        yield f"{document['resource']}: on record; its state was not looked at"
    else:
        yield f"{document['resource']}: {status['phase']}"
        words = {"True": "yes", "False": "no", "Unknown": "unknown"}
        for entry in status["conditions"]:
            yield f"  {entry['type']}: {words[entry['status']]}: {entry['reason']}"
