"""What a plan is about: targets, exclusions, and what must not be torn apart by them.

Pure. A part of a fleet may be applied alone only where that leaves every VM isolated as
declared: what a VM's isolation depends on (its tenant, its networks, the host's rules) is
taken along with a target, and may not be excluded while it has changes of its own.
"""

from __future__ import annotations

from dataclasses import dataclass

from reconciler.errors import RefusedError
from reconciler.model.addresses import ResourceAddress, kind_of, network_address, tenant_address
from reconciler.model.ledger import Ledger
from reconciler.model.resolved import ResolvedFleet
from reconciler.planning.comparison.host import host_of
from reconciler.planning.resolution.recorded import recorded_network
from reconciler.planning.resolution.security import profile_named


@dataclass(frozen=True, slots=True)
class Scope:
    """What a plan is about. ``targets``: these resources and what they need, empty is all.

    ``exclude``: not these. ``destroy``: the targets (or everything) are to go. ``by_hand``: a
    person applies, so what an operator destroyed earlier may come back, resources that are
    only reported on are corrected, and nothing waits for its next try. ``keep_gone``: why
    nothing may be deleted or replaced in this pass, empty when that is fine. ``defer_deletes``: a
    change that awaits confirmation: what goes is stopped and isolated, and not yet forgotten.
    ``unprotected``: what an unconfirmed change brought, whose protection never came to count.
    """

    targets: frozenset[ResourceAddress] = frozenset()
    exclude: frozenset[ResourceAddress] = frozenset()
    destroy: bool = False
    by_hand: bool = False
    keep_gone: str = ""
    defer_deletes: bool = False
    unprotected: frozenset[ResourceAddress] = frozenset()

    @property
    def is_partial(self) -> bool:
        """Not about the whole fleet."""
        return bool(self.targets or self.exclude)


def selection(
    fleet: ResolvedFleet, ledger: Ledger, scope: Scope
) -> frozenset[ResourceAddress] | None:
    """The resources a plan is about, None for all.

    Raises RefusedError when leaving out the others would cut an isolation edge.
    """
    if not scope.is_partial:
        return None
    everything = {*fleet.records, *fleet.vms, *ledger.managed}
    chosen = {a for a in everything if _within(a, scope.targets)} | set(scope.targets)
    if not scope.targets:
        chosen = everything | {host_of(fleet)}
    if scope.destroy:
        chosen |= _users_of(ledger, chosen)
    else:
        for address in list(chosen):
            chosen |= _needs(fleet, address)
    left_out = {address for address in chosen if _within(address, scope.exclude)}
    chosen -= left_out
    _refuse_cut_edges(fleet, ledger, scope, chosen)
    return frozenset(chosen)


def _within(address: ResourceAddress, named: frozenset[ResourceAddress]) -> bool:
    """It is named, or belongs to a tenant that is."""
    parts = address.split("/")
    return address in named or (parts[0] in {"network", "vm"} and tenant_address(parts[1]) in named)


def _needs(fleet: ResolvedFleet, address: ResourceAddress) -> set[ResourceAddress]:
    """What a target cannot exist without: its tenant, a VM's networks, their profiles, the host."""
    parts = address.split("/")
    needed = {host_of(fleet)}
    if parts[0] in {"network", "vm"}:
        needed.add(tenant_address(parts[1]))
    if address in fleet.vms:
        interfaces = fleet.vms[address].launch.interfaces
        needed |= {network_address(parts[1], entry.network) for entry in interfaces}
    networks = (fleet.records.get(a) for a in {address, *needed} if kind_of(a) == "network")
    profiles = (profile_named(record.spec) for record in networks if record is not None)
    return needed | {profile for profile in profiles if profile is not None}


def _users_of(ledger: Ledger, chosen: set[ResourceAddress]) -> set[ResourceAddress]:
    """VMs with an interface in a network that goes: they go with it, named in the plan."""
    return {
        address
        for address in ledger.managed
        if kind_of(address) == "vm" and recorded_networks(ledger, address) & chosen
    }


def recorded_networks(ledger: Ledger, vm: ResourceAddress) -> set[ResourceAddress]:
    """The networks a VM on record has interfaces in."""
    tenant = vm.split("/")[1]
    interfaces = ledger.managed[vm].spec.get("interfaces", ())
    return {network_address(tenant, recorded_network(ledger, vm, e)) for e in interfaces}


def _refuse_cut_edges(
    fleet: ResolvedFleet, ledger: Ledger, scope: Scope, chosen: set[ResourceAddress]
) -> None:
    if host_of(fleet) in scope.exclude:
        raise _cut("the host's rules isolate every VM", host_of(fleet), "its exclusion")
    for address in sorted(chosen):
        for needed in () if scope.destroy else sorted(_needs(fleet, address)):
            if needed not in chosen and not _is_settled(fleet, ledger, needed):
                raise _cut(f"{address} depends on it", needed, "its exclusion")
    leaving = {a for a in chosen if kind_of(a) == "network" and _leaves(fleet, scope, a)}
    for address in sorted(ledger.managed):
        if kind_of(address) == "vm" and address not in chosen:
            for network in sorted(recorded_networks(ledger, address) & leaving):
                raise _cut(f"it goes, and {address} has an interface in it", network, "this part")


def _leaves(fleet: ResolvedFleet, scope: Scope, network: ResourceAddress) -> bool:
    return scope.destroy or network not in fleet.records


def _is_settled(fleet: ResolvedFleet, ledger: Ledger, address: ResourceAddress) -> bool:
    """On record exactly as declared, so that leaving it out leaves nothing undone."""
    managed, record = ledger.managed.get(address), fleet.records.get(address)
    if record is None:
        return address.startswith("host/")
    return managed is not None and managed.spec_hash == record.spec_hash


def _cut(why: str, address: ResourceAddress, what: str) -> RefusedError:
    return RefusedError(
        f"{what} would cut an isolation edge: {why}",
        subject=address,
        hint="take both, or neither",
    )
