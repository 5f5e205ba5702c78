"""A plan as data: the ``metald.plan/v1`` document printed by ``--json`` and stored by runs.

The schema is specs/schema/plan.json; DESIGN.md names the keys. Text for people is made from
the same document by ``cli``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Isolation
from reconciler.model.plan import (
    PLAN_FORMAT,
    Change,
    ChangeElements,
    LoadFirewall,
    Plan,
    RaiseTap,
    RemoveFirewall,
    RemoveTap,
    SetSysctls,
)
from reconciler.model.times import rfc3339
from reconciler.planning.documents.consequences import specs_after, specs_before
from reconciler.planning.documents.prints import fingerprint
from reconciler.planning.pricing.cost import cost_delta, cost_document
from reconciler.planning.reachability.reach import reach_delta, reach_document

_SECURITY_TEXT = {
    SetSysctls: "host sysctls are set",
    LoadFirewall: "the rule table is loaded",
    RemoveFirewall: "the rule table is removed",
    RaiseTap: "an interface is opened, its sources bound",
    RemoveTap: "an interface is closed",
    ChangeElements: "source bindings or memberships change",
}


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Where the desired state came from; commit and author are empty outside a repository.

    ``dirty``: the work tree has changes that are not committed, and so not part of it.
    """

    path: str
    commit: str = ""
    dirty: bool = False
    author: str = ""


def isolation_document(entry: Isolation) -> dict[str, Any]:
    """A VM that is cut off, as plans and looks tell of it."""
    return {
        "resource": entry.address,
        "owner": entry.owner,
        "reason": entry.reason,
        "since": rfc3339(entry.since_s),
        "until": None if entry.until_s is None else rfc3339(entry.until_s),
    }


def plan_document(plan: Plan, source: SourceInfo) -> dict[str, Any]:
    """The plan as JSON data, in the order DESIGN.md lists its keys."""
    before, after = specs_before(plan), specs_after(plan)
    return {
        "format": PLAN_FORMAT,
        "id": plan.id,
        "source": asdict(source),
        "fingerprint": fingerprint(plan),
        "summary": plan.summary(),
        "steps": len(plan.steps),
        "changes": [change_document(change) for change in plan.changes],
        "recoveries": [
            {
                "resource": recovery.resource,
                "verdict": recovery.verdict,
                "reason": recovery.reason,
                "notBefore": rfc3339(recovery.not_before_s) if recovery.not_before_s else None,
            }
            for recovery in plan.recoveries
        ],
        "blocked": _pairs(plan.blocked),
        "refused": _pairs(plan.refused),
        "held": [
            {
                "resource": hold.address,
                "owner": hold.owner,
                "reason": hold.reason,
                "until": None if hold.until_s is None else rfc3339(hold.until_s),
            }
            for hold in plan.held
        ],
        "isolated": [isolation_document(entry) for entry in plan.isolated],
        "reported": [change_document(change) for change in plan.reported],
        "excluded": [
            {"resource": change.resource, "action": change.action, "reason": change.reason}
            for change in plan.excluded
        ],
        "waiting": [
            {
                "resource": retry.resource,
                "failures": retry.failures,
                "notBefore": rfc3339(retry.not_before_s),
                "reason": retry.error,
            }
            for retry in plan.waiting
        ],
        "cost": cost_document(cost_delta(before, after, now_s=plan.now_s)),
        "reachability": reach_document(reach_delta(before, after)),
        "security": security_changes(plan),
        "warnings": list(plan.warnings),
    }


def change_document(change: Change) -> dict[str, Any]:
    """One change; ``downtimeSeconds`` is null where it cannot be told."""
    return {
        "resource": change.resource,
        "action": change.action,
        "disruption": change.disruption,
        "fields": [
            {"path": path, "before": before, "after": after}
            for path, before, after in change.fields
        ],
        "reason": change.reason,
        "downtimeSeconds": change.downtime_s,
    }


def _pairs(entries: tuple[tuple[ResourceAddress, str], ...]) -> list[dict[str, str]]:
    return [{"resource": address, "reason": reason} for address, reason in entries]


def security_changes(plan: Plan) -> list[dict[str, str]]:
    """Which resources' isolation the plan touches, and how; one entry per pair."""
    seen: dict[tuple[str, str], None] = {}
    for step in plan.steps:
        text = _SECURITY_TEXT.get(type(step.operation))
        if text is not None:
            seen[step.resource, text] = None
    return [{"resource": resource, "change": text} for resource, text in seen]
