"""A change that awaits confirmation, as it stands in the state: the way back, and the way on.

Texts of ``records.Confirmation`` and ``records.Rejection`` are made and read here alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reconciler.execution.outcome import Outcome
from reconciler.execution.state.records import Confirmation, Rejection
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.specs import KINDS
from reconciler.planning.bounds.holds import covers
from reconciler.planning.canonical import canonical_json
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.documents.undo import (
    Remembered,
    dump_document,
    fleet_digest,
    fleet_of,
    remember,
)
from reconciler.planning.planner import Scope
from reconciler.planning.resolution.renames import all_documents


@dataclass(frozen=True, slots=True)
class Asked:
    """What a change that awaits confirmation asked for."""

    fleet: Fleet
    source: SourceInfo
    scope: Scope


def pending_text(ledger: Ledger, asked: Asked) -> tuple[str, str]:
    """(``before``, ``request``) of a Confirmation."""
    before = [[entry.address, entry.uid, entry.spec] for entry in remember(ledger)]
    request = {
        "source": asdict(asked.source),
        "targets": sorted(asked.scope.targets),
        "exclude": sorted(asked.scope.exclude),
        "documents": _documents(asked.fleet),
    }
    return canonical_json(before), canonical_json(request)


def asked_by(pending: Confirmation) -> Asked:
    """The change itself."""
    data = json.loads(pending.request)
    scope = Scope(
        targets=frozenset(map(ResourceAddress, data["targets"])),
        exclude=frozenset(map(ResourceAddress, data["exclude"])),
        by_hand=True,
    )
    return Asked(_fleet(data["documents"]), SourceInfo(**data["source"]), scope)


@dataclass(frozen=True, slots=True)
class WayBack:
    """The fleet as it was on record before the change, and what has come into being since."""

    fleet: Fleet
    newcomers: frozenset[ResourceAddress]


def way_back_of(pending: Confirmation, ledger: Ledger) -> WayBack:
    """How to take a change back, given what is on record now."""
    remembered = _remembered(pending)
    known = {entry.uid for entry in remembered}
    newcomers = {a for a, managed in ledger.managed.items() if managed.uid not in known}
    return WayBack(fleet_of(remembered, ledger), frozenset(newcomers))


def still_changed(
    pending: Confirmation, outcome: Outcome, ledger: Ledger
) -> tuple[tuple[ResourceAddress, str], ...]:
    """What an undo that ended with ``outcome`` has not taken back, with what is in its way."""
    plan = outcome.plan
    left = dict((*outcome.remaining, *plan.blocked, *plan.refused))
    steps = {step.key: step.resource for step in plan.steps}
    left |= {steps[key]: str(error) for key, error in outcome.result.failed.items()}
    left |= {steps[key]: "not begun" for key in outcome.result.skipped if steps[key] not in left}
    before = {entry.address: (entry.uid, entry.spec) for entry in _remembered(pending)}
    now = {address: (entry.uid, entry.spec) for address, entry in ledger.managed.items()}
    # Those on record by now too: what is renamed back takes its hold along.
    for hold in (*plan.held, *ledger.lasting_holds().values()):
        for address in sorted(before.keys() | now.keys()):
            if covers(hold.address, address) and before.get(address) != now.get(address):
                left.setdefault(address, f"held by {hold.owner}: {hold.reason}")
    known = {uid for uid, _ in before.values()}
    for address, (uid, _) in now.items():
        if uid not in known:
            left.setdefault(address, "it came with the change, and is there still")
    return tuple(left.items())


def _remembered(pending: Confirmation) -> tuple[Remembered, ...]:
    rows = json.loads(pending.before)
    return tuple(Remembered(ResourceAddress(address), uid, spec) for address, uid, spec in rows)


def rejection_of(asked: Asked, instead: Fleet, *, at_s: float, reason: str) -> Rejection:
    """What the daemon must not apply again, and what it keeps applied in its stead."""
    return Rejection(
        asked.source.path, fleet_digest(asked.fleet), asked.source.commit, at_s, reason,
        canonical_json(_documents(instead)),
    )  # fmt: skip


def instead_of(rejection: Rejection) -> Fleet:
    """The fleet that a rejection keeps applied."""
    return _fleet(json.loads(rejection.instead))


def _documents(fleet: Fleet) -> list[Mapping[str, Any]]:
    return [dump_document(document) for document in all_documents(fleet)]


def _fleet(documents: list[Mapping[str, Any]]) -> Fleet:
    return Fleet.of(KINDS[entry["kind"]].model_validate(entry) for entry in documents)
