"""Which resources are not this pass's to touch: held, frozen, or only reported on.

A hold made by destroying is compared with what was declared then, not with identities: a
resource that comes back has new ones. A hold made by `metald hold` lasts until it is lifted
or over.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from datetime import datetime
from typing import Any

from reconciler.model.addresses import (
    EVERYTHING,
    ResourceAddress,
    network_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.ledger import Hold, Ledger
from reconciler.model.resolved import ResolvedFleet, ResolvedRecord, ResolvedVm
from reconciler.planning.bounds.scope import Scope
from reconciler.planning.canonical import digest

# By address: report, or an end of freezing with its owner and reason.
Modes = Mapping[ResourceAddress, str | Mapping[str, Any]]
_DERIVED = frozenset(
    {"addresses", "prefix", "mac", "tap", "zone", "uid", "security", "dns", "nat64", "mode"}
)


def declared_digest(spec: Mapping[str, Any]) -> str:
    """Digest of a recorded VM spec without what metald derived for it."""
    interfaces = [
        {key: value for key, value in entry.items() if key not in _DERIVED}
        for entry in spec.get("interfaces", ())
    ]
    found = {**spec, "interfaces": interfaces}
    if spec.get("boot"):
        # An image that is built anew is no other declaration.
        named = {"image"} if spec["boot"].get("image") else {"kernel", "initrd", "cmdline"}
        found["boot"] = {key: spec["boot"].get(key) for key in (*named, "extra")}
    return digest(found)


def active_holds(
    fleet: ResolvedFleet, ledger: Ledger, scope: Scope, modes: Modes
) -> tuple[Hold, ...]:
    """Every hold and freeze that counts for this pass, one per resource, in address order.

    ``modes``: as ``reconcile_modes`` gives them for this fleet.
    """
    if scope.destroy:
        return ()
    found = {hold.address: hold for hold in _frozen(modes, ledger)}
    found |= {
        address: hold
        for address, hold in ledger.lasting_holds().items()
        if not hold.spec_hash or (not scope.by_hand and _stands(fleet, hold))
    }
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


def under_new_names(
    held: AbstractSet[ResourceAddress], renames: Mapping[ResourceAddress, ResourceAddress]
) -> frozenset[ResourceAddress]:
    """``held``, and the new addresses of what is held under the one it has on record."""
    return frozenset(held) | {new for new, old in renames.items() if is_held(held, old)}


def is_held(held: AbstractSet[ResourceAddress], address: ResourceAddress) -> bool:
    """An operator took it, or its whole tenant, out of the loop."""
    return bool(held) and (address in held or tenant_address(tenant_of(address)) in held)


def left_with_networks(
    fleet: ResolvedFleet, ledger: Ledger, left: AbstractSet[ResourceAddress]
) -> Mapping[ResourceAddress, ResourceAddress]:
    """VMs that cannot change before a network of theirs does, with that network.

    ``left``: networks that differ from what is on record, and are not this pass's to touch.
    What such a VM is declared to be rests on what its network would be.
    """
    found = {}
    for address, vm in fleet.vms.items() if left else ():
        managed, tenant = ledger.managed.get(address), tenant_of(address)
        networks = (network_address(tenant, entry.network) for entry in vm.launch.interfaces)
        first = next((network for network in networks if network in left), None)
        if first and (managed is None or managed.spec_hash != vm.spec_hash):
            found[address] = first
    return found


def covers(held: ResourceAddress, address: ResourceAddress) -> bool:
    """A hold on ``held`` keeps ``address`` as it is: itself, all its tenant owns, or everything."""
    return held in {EVERYTHING, address, tenant_address(tenant_of(address))}


def holds_everything(holds: Iterable[Hold]) -> Hold | None:
    """The hold that takes the whole host out of the loop, if there is one."""
    return next((hold for hold in holds if hold.address == EVERYTHING), None)
