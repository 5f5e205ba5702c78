"""What differs from what is on record: a plan whose desired state is the ledger itself.

Pure; needs no specs. The same `plan` decides that also decides an apply. Holds and freezes
keep metald from acting, not from looking: here they count for nothing. Called by the looking
commands, and by `adoption` as its proof.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.ledger import Ledger, Managed
from reconciler.model.observed import Observed
from reconciler.model.plan import Plan
from reconciler.model.resolved import ResolvedFleet, ResolvedRecord, ResolvedVm
from reconciler.model.times import rfc3339
from reconciler.planning.bounds.holds import active_holds, reconcile_modes
from reconciler.planning.bounds.scope import Scope
from reconciler.planning.documents.render import change_document
from reconciler.planning.planner import plan
from reconciler.planning.resolution.recorded import recorded_vm
from reconciler.planning.resolution.resolve import Resolution

DRIFT_FORMAT = "metald.drift/v1"


def recorded_resolution(ledger: Ledger) -> Resolution:
    """What is on record, as if it had been declared and resolved just so."""
    records: dict[ResourceAddress, ResolvedRecord] = {}
    vms: dict[ResourceAddress, ResolvedVm] = {}
    for address, entry in ledger.managed.items():
        if kind_of(address) == "vm":
            vms[address] = recorded_vm(ledger, entry)
        else:
            records[address] = ResolvedRecord(
                address, entry.uid, entry.incarnation, entry.spec, entry.spec_hash
            )
    return Resolution(ResolvedFleet(records, vms, frozenset()), (), (), (), ())


def find_drift(observed: Observed, ledger: Ledger) -> Plan:
    """What it would take to make the host as it is on record again."""
    managed = {address: _corrected(entry) for address, entry in ledger.managed.items()}
    ledger = replace(ledger, managed=managed, holds={})
    return plan(recorded_resolution(ledger), observed, ledger, Scope(by_hand=True))


def _corrected(entry: Managed) -> Managed:
    """Without its mode of reconciliation, so that a frozen resource is looked at as well."""
    return replace(entry, spec={k: v for k, v in entry.spec.items() if k != "reconcile"})


def drift_document(observed: Observed, ledger: Ledger) -> dict[str, Any]:
    """Format ``metald.drift/v1``. In ``fields``, ``found`` is what was seen, ``recorded`` what is
    on record. With nothing on record, nothing can differ.
    """
    found = find_drift(observed, ledger) if ledger.managed else None
    resolution = recorded_resolution(ledger)
    known = {entry.uid for entry in ledger.managed.values()}
    return {
        "format": DRIFT_FORMAT,
        "at": rfc3339(ledger.now_s),
        "recorded": len(ledger.managed),
        "unchanged": found.unchanged if found else 0,
        "drifted": [_drifted(change_document(change)) for change in found.changes] if found else [],
        "recoveries": [
            {"resource": entry.resource, "verdict": entry.verdict, "reason": entry.reason}
            for entry in (found.recoveries if found else ())
        ],
        "unknown": [
            {"resource": address, "reason": reason}
            for address, reason in (found.blocked if found else ())
        ],
        "held": [
            {"resource": hold.address, "owner": hold.owner, "reason": hold.reason}
            for hold in active_holds(
                resolution.fleet,
                ledger,
                Scope(by_hand=True),
                reconcile_modes(resolution.fleet),
            )
        ],
        "unrecorded": sorted(observed.vms.keys() - known),
        "warnings": list(found.warnings) if found else [],
    }


def _drifted(change: dict[str, Any]) -> dict[str, Any]:
    fields = [
        {"path": field["path"], "found": field["before"], "recorded": field["after"]}
        for field in change["fields"]
    ]
    keys = ("resource", "action", "disruption", "reason")
    return {**{key: change[key] for key in keys}, "fields": fields}
