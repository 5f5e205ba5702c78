"""A change that awaits confirmation, as it stands in the state: the way back, and the way on.

Texts of ``records.Confirmation`` and ``records.Rejection`` are made and read here alone.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from reconciler.execution.state.records import Confirmation, Rejection
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.specs import KINDS
from reconciler.planning.canonical import canonical_json
from reconciler.planning.planner import Scope
from reconciler.planning.renames import all_documents
from reconciler.planning.render import SourceInfo
from reconciler.planning.undo import (
    Remembered,
    dump_document,
    fleet_digest,
    fleet_of,
    remember,
)


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


def before_of(pending: Confirmation, ledger: Ledger) -> Fleet:
    """The fleet as it was on record before the change."""
    rows = json.loads(pending.before)
    remembered = [Remembered(ResourceAddress(address), uid, spec) for address, uid, spec in rows]
    return fleet_of(remembered, ledger)


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
