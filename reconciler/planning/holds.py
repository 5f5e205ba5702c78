"""Which resources are not this pass's to touch: held, frozen, or only reported on.

A hold made by destroying is compared with what was declared then, not with identities: a
resource that comes back has new ones. A hold made by `metald hold` lasts until it is lifted
or over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any

from reconciler.model.addresses import EVERYTHING, ResourceAddress, tenant_address, tenant_of
from reconciler.model.ledger import Hold, Ledger
from reconciler.model.resolved import ResolvedFleet
from reconciler.planning.canonical import digest
from reconciler.planning.scope import Scope

_DERIVED = frozenset({"addresses", "mac", "tap", "zone", "uid"})


def declared_digest(spec: Mapping[str, Any]) -> str:
    """Digest of a recorded VM spec without what metald derived for it."""
    interfaces = [
        {key: value for key, value in entry.items() if key not in _DERIVED}
        for entry in spec.get("interfaces", ())
    ]
    return digest({**spec, "interfaces": interfaces})


def active_holds(fleet: ResolvedFleet, ledger: Ledger, scope: Scope) -> tuple[Hold, ...]:
    """Every hold and freeze that counts for this pass, one per resource, in address order."""
    if scope.destroy:
        return ()
    found = {hold.address: hold for hold in _frozen(fleet, ledger)}
    for address, hold in ledger.holds.items():
        if hold.until_s is not None and hold.until_s <= ledger.now_s:
            continue
        if not hold.spec_hash or (not scope.by_hand and _stands(fleet, hold)):
            found[address] = hold
    return tuple(hold for _, hold in sorted(found.items()))


def _stands(fleet: ResolvedFleet, hold: Hold) -> bool:
    vm = fleet.vms.get(hold.address)
    return vm is not None and declared_digest(vm.spec) == hold.spec_hash


def _frozen(fleet: ResolvedFleet, ledger: Ledger) -> Iterable[Hold]:
    for address in (*fleet.records, *fleet.vms):
        mode = reconcile_mode(fleet, address)
        if isinstance(mode, Mapping):
            until_s = datetime.fromisoformat(mode["until"]).timestamp()
            if until_s > ledger.now_s:
                yield Hold(address, mode["owner"], mode["reason"], 0.0, "", until_s)


def reconcile_mode(fleet: ResolvedFleet, address: ResourceAddress) -> str | Mapping[str, Any]:
    """A resource's own ``metadata.reconcile``, else its tenant's."""
    for candidate in (address, tenant_address(tenant_of(address))):
        entry = fleet.vms.get(candidate) or fleet.records.get(candidate)
        mode = "correct" if entry is None else entry.spec.get("reconcile", "correct")
        if isinstance(mode, str | Mapping) and mode != "correct":
            return mode
    return "correct"


def is_only_reported(fleet: ResolvedFleet, address: ResourceAddress, scope: Scope) -> bool:
    """Differences of this resource are told, and corrected by a person's apply alone."""
    return not scope.by_hand and reconcile_mode(fleet, address) == "report"


def holds_everything(holds: Iterable[Hold]) -> Hold | None:
    """The hold that takes the whole host out of the loop, if there is one."""
    return next((hold for hold in holds if hold.address == EVERYTHING), None)
