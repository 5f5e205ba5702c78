"""The one function that decides: desired and observed and ledger in, plan out.

Pure and deterministic (law 4). Called by ``execution`` before and after every apply, and by
whoever wants to look.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from reconciler.errors import RefusedError
from reconciler.model.addresses import ResourceAddress, kind_of, network_address, tenant_address
from reconciler.model.firewall import Element, elements_of
from reconciler.model.ledger import Hold, Ledger
from reconciler.model.observed import NetworkState, Observed, Unknown
from reconciler.model.plan import Change, Plan
from reconciler.model.resolved import Port, ResolvedFleet, ResolvedRecord
from reconciler.planning.compare_gone import compare_gone, remove_stray_vms
from reconciler.planning.compare_host import (
    LOCAL_HOST,
    compare_host,
    host_of,
    remove_orphans,
    tear_down_host,
)
from reconciler.planning.compare_vms import compare_vm, reboot_vm
from reconciler.planning.draft import Draft, Inputs
from reconciler.planning.fields import differences, shown
from reconciler.planning.holds import declared_digest
from reconciler.planning.prints import fingerprint, plan_id
from reconciler.planning.recorded import recorded_ports, recorded_vm
from reconciler.planning.resolve import Resolution

EMPTY = Resolution(ResolvedFleet({}, {}, frozenset()), (), (), (), ())


@dataclass(frozen=True, slots=True)
class Scope:
    """What a plan is about. ``targets``: these resources and what they need, empty is all.

    ``destroy``: the targets (or everything) are to go. ``lift_holds``: an operator applies,
    so what an operator destroyed earlier may come back. ``keep_gone``: a guard's reason why
    nothing may be deleted in this pass, empty when deleting is fine.
    """

    targets: frozenset[ResourceAddress] = frozenset()
    destroy: bool = False
    lift_holds: bool = False
    keep_gone: str = ""


EVERYTHING = Scope()


def plan(
    resolution: Resolution, observed: Observed, ledger: Ledger, scope: Scope = EVERYTHING
) -> Plan:
    """The plan that makes ``observed`` what ``resolution`` asks for.

    For ``scope.destroy`` the resolution is ignored: what is on record is the subject.
    """
    fleet = EMPTY.fleet if scope.destroy else resolution.fleet
    held = _active_holds(fleet, ledger, scope)
    inputs = Inputs(ledger, observed, _selection(fleet, ledger, scope))
    draft = Draft()
    if isinstance(observed.network, Unknown):
        draft.blocked.append((host_of(fleet), observed.network.reason))
    elif observed.unlisted:
        draft.blocked.append((host_of(fleet), observed.unlisted))
    else:
        _compare(draft, inputs, observed.network, fleet, (scope, held))
    if not scope.destroy:
        _registrations(draft, inputs, resolution, held)
    return _finish(draft, inputs, fleet, held)


def _active_holds(fleet: ResolvedFleet, ledger: Ledger, scope: Scope) -> tuple[Hold, ...]:
    """Holds that still count: not lifted, and made for the spec as it still stands."""
    if scope.lift_holds or scope.destroy:
        return ()
    return tuple(
        hold
        for address, hold in sorted(ledger.holds.items())
        if address in fleet.vms and declared_digest(fleet.vms[address].spec) == hold.spec_hash
    )


def _selection(
    fleet: ResolvedFleet, ledger: Ledger, scope: Scope
) -> frozenset[ResourceAddress] | None:
    if not scope.targets:
        return None
    chosen = set(scope.targets)
    for address in (*fleet.records, *fleet.vms, *ledger.managed):
        if _within(address, scope.targets):
            chosen.add(address)
    if scope.destroy:
        chosen |= _users_of(ledger, chosen)
    else:
        for address in list(chosen):
            chosen |= _needs(fleet, address)
    return frozenset(chosen)


def _within(address: ResourceAddress, targets: frozenset[ResourceAddress]) -> bool:
    """A tenant as target stands for all that belongs to it."""
    parts = address.split("/")
    return parts[0] in {"network", "vm"} and tenant_address(parts[1]) in targets


def _needs(fleet: ResolvedFleet, address: ResourceAddress) -> set[ResourceAddress]:
    """What a target cannot exist without: its tenant, a VM's networks, the host."""
    parts = address.split("/")
    needed = {host_of(fleet)}
    if parts[0] in {"network", "vm"}:
        needed.add(tenant_address(parts[1]))
    if address in fleet.vms:
        interfaces = fleet.vms[address].launch.interfaces
        needed |= {network_address(parts[1], entry.network) for entry in interfaces}
    return needed


def _users_of(ledger: Ledger, chosen: set[ResourceAddress]) -> set[ResourceAddress]:
    """VMs with an interface in a network that goes: they go with it, named in the plan."""
    users = set()
    for address, managed in ledger.managed.items():
        if kind_of(address) == "vm":
            tenant = address.split("/")[1]
            networks = {
                network_address(tenant, entry["network"])
                for entry in managed.spec.get("interfaces", ())
            }
            if networks & chosen:
                users.add(address)
    return users


def _compare(
    draft: Draft,
    inputs: Inputs,
    network: NetworkState,
    fleet: ResolvedFleet,
    how: tuple[Scope, tuple[Hold, ...]],
) -> None:
    scope, held = how
    host = host_of(fleet)
    held_addresses = {hold.address for hold in held}
    vms = [vm for vm in fleet.vms.values() if vm.address not in held_addresses]
    draft.wanted_elements = elements_of(port for vm in vms for port in vm.ports)
    gone = [
        address
        for address in inputs.ledger.managed
        if address not in fleet.records and address not in fleet.vms and inputs.selected(address)
    ]
    if scope.keep_gone:
        draft.warnings.extend(f"{address} is not deleted: {scope.keep_gone}" for address in gone)
    else:
        draft.gone_reason = "destroyed by an operator" if scope.destroy else "no longer declared"
        compare_gone(draft, inputs, network, gone, fleet.frozen_tenants)
    if not scope.destroy:
        compare_host(draft, inputs, network, host)
    for record in fleet.records.values():
        if inputs.selected(record.address):
            _compare_record(draft, inputs, record)
    for vm in vms:
        if inputs.selected(vm.address):
            compare_vm(draft, inputs, network, vm)
    if not scope.targets:
        _sweep(draft, inputs, network, fleet)
        if scope.destroy and not (draft.blocked or draft.refused):
            tear_down_host(draft, inputs, network)


def _compare_record(draft: Draft, inputs: Inputs, record: ResolvedRecord) -> None:
    """Tenants, networks, images and hosts live in the ledger; their effect is on VMs."""
    managed = inputs.ledger.managed.get(record.address)
    if managed is None:
        fields = shown(record.spec, path="spec")
        reason = "declared, and not on record yet"
        draft.changes.append(Change(record.address, "create", "none", fields, reason))
    elif managed.spec_hash != record.spec_hash:
        fields = differences(managed.spec, record.spec, path="spec")
        draft.changes.append(Change(record.address, "update", "none", fields, "its spec changed"))


def _sweep(draft: Draft, inputs: Inputs, network: NetworkState, fleet: ResolvedFleet) -> None:
    """Find what nothing accounts for. Everything on record counts as accounted for."""
    known = {vm.uid for vm in fleet.vms.values()}
    known |= {managed.uid for managed in inputs.ledger.managed.values()}
    host = host_of(fleet)
    spared = remove_stray_vms(draft, inputs, host, known)
    ports: list[Port] = [port for vm in fleet.vms.values() for port in vm.ports]
    for address, managed in inputs.ledger.managed.items():
        if kind_of(address) == "vm":
            ports.extend(recorded_ports(managed))
    taps = frozenset(port.tap for port in ports) | spared
    elements: frozenset[Element] = elements_of(ports) | frozenset(
        element for element in network.firewall.elements if spared.intersection(element.key)
    )
    remove_orphans(draft, inputs, network, (taps, elements), host)


def _registrations(
    draft: Draft, inputs: Inputs, resolution: Resolution, held: tuple[Hold, ...]
) -> None:
    """What must be on record before the first step: only for resources this plan acts on."""
    skipped = {hold.address for hold in held}
    skipped |= {address for address, _ in (*draft.blocked, *draft.refused)}
    if host_of(resolution.fleet) in {address for address, _ in draft.blocked}:
        return

    def wanted(address: str) -> bool:
        resource = ResourceAddress(address)
        return resource not in skipped and inputs.selected(resource)

    draft.registrations = [r for r in resolution.registrations if wanted(r.address)]
    draft.allocations = [a for a in resolution.allocations if wanted(a.resource)]
    draft.releases = [a for a in resolution.releases if wanted(a.resource)]


def plan_reboot(observed: Observed, ledger: Ledger, address: ResourceAddress) -> Plan:
    """Stop a VM and start it as it was last applied; a completed or failed one starts anew.

    Raises RefusedError when the VM is not on record or declared stopped.
    """
    managed = ledger.managed.get(address)
    if managed is None:
        raise RefusedError("no such VM is managed here", subject=address, hint="see metald get vm")
    vm = recorded_vm(ledger, managed)
    if vm.power == "stopped":
        raise RefusedError("it is declared power: stopped", subject=address, hint="edit its spec")
    inputs, draft = Inputs(ledger, observed, frozenset({address})), Draft()
    if isinstance(observed.network, Unknown):
        draft.blocked.append((address, observed.network.reason))
    else:
        draft.wanted_elements = elements_of(vm.ports)
        reboot_vm(draft, inputs, observed.network, vm)
    return _finish(draft, inputs, EMPTY.fleet, ())


def _finish(draft: Draft, inputs: Inputs, fleet: ResolvedFleet, held: tuple[Hold, ...]) -> Plan:
    touched = {change.resource for change in draft.changes}
    touched |= {address for address, _ in (*draft.blocked, *draft.refused)}
    settled = [
        address
        for address in (*fleet.records, *fleet.vms)
        if address in inputs.ledger.managed and address not in touched and inputs.selected(address)
    ]
    unfinished = Plan(
        id="",
        fingerprint=fingerprint(inputs.observed, inputs.ledger),
        changes=tuple(draft.changes),
        recoveries=tuple(draft.recoveries),
        steps=draft.ordered_steps(),
        registrations=tuple(draft.registrations),
        allocations=tuple(draft.allocations),
        releases=tuple(draft.releases),
        unchanged=0 if host_of(fleet) in touched and draft.blocked else len(settled),
        warnings=tuple(draft.warnings),
        blocked=tuple(draft.blocked),
        refused=tuple(draft.refused),
        held=held,
    )
    return replace(unfinished, id=plan_id(unfinished))


__all__ = ["EMPTY", "EVERYTHING", "LOCAL_HOST", "Scope", "plan", "plan_reboot"]
