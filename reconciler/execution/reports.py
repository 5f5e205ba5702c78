"""What a run means for people and programs: its events and its `--json` document."""

from __future__ import annotations

from typing import Any

from reconciler.execution.outcome import Outcome
from reconciler.execution.state.records import Event, EventKind
from reconciler.model.plan import Action, Recovery
from reconciler.planning.documents.render import SourceInfo, plan_document

APPLY_FORMAT = "metald.apply/v1"
_DONE_WORDS: dict[Action, str] = {
    "create": "Created",
    "update": "Updated",
    "restart": "Restarted",
    "replace": "Replaced",
    "delete": "Deleted",
}
_VERDICT_WORDS = {"start": "Recovered", "completed": "Completed", "failed": "Failed"}


def outcome_events(outcome: Outcome, commit: str, now_s: float) -> tuple[Event, ...]:
    """One event per change, recovery and failure of a finished run."""
    unfinished = _unfinished_resources(outcome)
    rows: list[tuple[str, EventKind, str, str]] = []
    rows.extend(
        (change.resource, "Normal", _DONE_WORDS[change.action], change.reason)
        for change in outcome.plan.changes
        if change.resource not in unfinished
    )
    rows.extend(
        (recovery.resource, *_recovery_words(recovery))
        for recovery in outcome.plan.recoveries
        if recovery.resource not in unfinished and recovery.not_before_s <= now_s
    )
    steps = {step.key: step for step in outcome.plan.steps}
    rows.extend(
        (steps[key].resource, "Warning", "StepFailed", f"{key}: {error}")
        for key, error in outcome.result.failed.items()
    )
    rows.extend((address, "Warning", "NotConverged", why) for address, why in outcome.remaining)
    return tuple(
        Event(now_s, resource, kind, reason, message, run=outcome.run_id, commit=commit)
        for resource, kind, reason, message in rows
    )


def _recovery_words(recovery: Recovery) -> tuple[EventKind, str, str]:
    kind: EventKind = "Normal" if recovery.verdict == "completed" else "Warning"
    return kind, _VERDICT_WORDS[recovery.verdict], recovery.reason


def _unfinished_resources(outcome: Outcome) -> set[str]:
    lost = {*outcome.result.failed, *outcome.result.skipped}
    resources = {str(step.resource) for step in outcome.plan.steps if step.key in lost}
    return resources | {str(address) for address, _ in outcome.remaining}


def outcome_word(outcome: Outcome) -> str:
    """``unchanged``, ``done``, ``interrupted`` or ``partial``."""
    if outcome.interrupted:
        return "interrupted"
    if not outcome.is_complete:
        return "partial"
    return "done" if outcome.run_id else "unchanged"


def apply_document(outcome: Outcome, source: SourceInfo) -> dict[str, Any]:
    """``metald.apply/v1``: the plan carried out and how it ended."""
    steps = {step.key: step for step in outcome.plan.steps}
    return {
        "format": APPLY_FORMAT,
        "outcome": outcome_word(outcome),
        "run": outcome.run_id or None,
        "plan": plan_document(outcome.plan, source),
        "failed": [
            {"resource": steps[key].resource, "step": key, "error": str(error)}
            for key, error in outcome.result.failed.items()
        ],
        "skipped": list(outcome.result.skipped),
        "remaining": [{"resource": address, "reason": why} for address, why in outcome.remaining],
    }
