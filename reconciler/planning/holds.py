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
from reconciler.model.resolved import ResolvedFleet, ResolvedRecord, ResolvedVm
from reconciler.planning.canonical import digest
from reconciler.planning.scope import Scope

# By address: report, or an end of freezing with its owner and reason.
Modes = Mapping[ResourceAddress, str | Mapping[str, Any]]
_DERIVED = frozenset({"addresses", "mac", "tap", "zone", "uid"})


def declared_digest(spec: Mapping[str, Any]) -> str:
    """Digest of a recorded VM spec without what metald derived for it."""
    interfaces = [
        {key: value for key, value in entry.items() if key not in _DERIVED}
        for entry in spec.get("interfaces", ())
    ]
    return digest({**spec, "interfaces": interfaces})


def active_holds(
    fleet: ResolvedFleet, ledger: Ledger, scope: Scope, modes: Modes
) -> tuple[Hold, ...]:
    """Every hold and freeze that counts for this pass, one per resource, in address order.

    ``modes``: as ``reconcile_modes`` gives them for this fleet.
    """
    if scope.destroy:
        return ()
    found = {hold.address: hold for hold in _frozen(modes, ledger)}
    for address, hold in ledger.holds.items():
        if hold.until_s is not None and hold.until_s <= ledger.now_s:
            continue
        if not hold.spec_hash or (not scope.by_hand and _stands(fleet, hold)):
            found[address] = hold
    return tuple(hold for _, hold in sorted(found.items()))


def _stands(fleet: ResolvedFleet, hold: Hold) -> bool:
    vm = fleet.vms.get(hold.address)
    return vm is not None and declared_digest(vm.spec) == hold.spec_hash


def _frozen(modes: Modes, ledger: Ledger) -> Iterable[Hold]:
    for address, mode in modes.items():
        if isinstance(mode, Mapping):
            until_s = datetime.fromisoformat(mode["until"]).timestamp()
            if until_s > ledger.now_s:
                yield Hold(address, mode["owner"], mode["reason"], 0.0, "", until_s)


def reconcile_modes(fleet: ResolvedFleet) -> Modes:
    """Every resource's ``metadata.reconcile``, its own or else its tenant's, where it is not
    the default, ``correct``.
    """
    parts: tuple[Mapping[ResourceAddress, ResolvedRecord | ResolvedVm], ...]
    parts = (fleet.records, fleet.vms)
    own = {
        address: entry.spec["reconcile"]
        for part in parts
        for address, entry in part.items()
        if entry.spec.get("reconcile", "correct") != "correct"
    }
    if not own:
        return own
    found = {}
    for address in (*fleet.records, *fleet.vms):
        mode = own.get(address) or own.get(tenant_address(tenant_of(address)))
        if mode is not None:
            found[address] = mode
    return found


def is_only_reported(modes: Modes, address: ResourceAddress, scope: Scope) -> bool:
    """Differences of this resource are told, and corrected by a person's apply alone."""
    return not scope.by_hand and modes.get(address) == "report"


def holds_everything(holds: Iterable[Hold]) -> Hold | None:
    """The hold that takes the whole host out of the loop, if there is one."""
    return next((hold for hold in holds if hold.address == EVERYTHING), None)
