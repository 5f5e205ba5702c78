"""A plan as data: the ``metald.plan/v1`` document printed by ``--json`` and stored by runs.

The schema is specs/schema/plan.json; DESIGN.md names the keys. Text for people is made from
the same document by ``cli``.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.plan import (
    PLAN_FORMAT,
    ChangeElements,
    LoadFirewall,
    Plan,
    RaiseTap,
    RemoveFirewall,
    RemoveTap,
    SetSysctls,
)
from reconciler.planning.canonical import to_plain

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


def plan_document(plan: Plan, source: SourceInfo) -> dict[str, Any]:
    """The plan as JSON data, in the order DESIGN.md lists its keys."""
    return {
        "format": PLAN_FORMAT,
        "id": plan.id,
        "source": asdict(source),
        "fingerprint": plan.fingerprint,
        "summary": plan.summary(),
        "changes": [to_plain(change) for change in plan.changes],
        "recoveries": [
            {
                "resource": recovery.resource,
                "verdict": recovery.verdict,
                "reason": recovery.reason,
                "notBefore": recovery.not_before_s,
            }
            for recovery in plan.recoveries
        ],
        "blocked": _pairs(plan.blocked),
        "refused": _pairs(plan.refused),
        "held": [
            {"resource": hold.address, "owner": hold.owner, "reason": hold.reason}
            for hold in plan.held
        ],
        "security": security_changes(plan),
        "warnings": list(plan.warnings),
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
