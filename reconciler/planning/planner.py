"""The one function that decides: desired and observed and ledger in, plan out.

Pure and deterministic (law 4). Called by ``execution`` before and after every apply, and by
whoever wants to look.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet
from dataclasses import replace
from types import MappingProxyType

from reconciler.errors import RefusedError
from reconciler.model.addresses import ResourceAddress, kind_of, tenant_address, tenant_of
from reconciler.model.firewall import elements_of
from reconciler.model.ledger import Hold, Ledger, Retry
from reconciler.model.observed import NetworkState, Observed, Unknown
from reconciler.model.plan import Change, Plan, Registration
from reconciler.model.resolved import Port, ResolvedFleet, ResolvedRecord, ResolvedVm
from reconciler.planning.bounds.holds import active_holds, holds_everything, reconcile_modes
from reconciler.planning.bounds.scope import Scope, selection
from reconciler.planning.bounds.waiting import waiting_resources, without_waiting
from reconciler.planning.comparison import reasons
from reconciler.planning.comparison.aim import Aim, aim_of
from reconciler.planning.comparison.draft import Draft, Inputs
from reconciler.planning.comparison.fields import Shown, differences
from reconciler.planning.comparison.gone import compare_gone, remove_stray_vms, used_unseen
from reconciler.planning.comparison.host import (
    LOCAL_HOST,
    Accounted,
    compare_host,
    host_of,
    remove_orphans,
    tear_down_host,
)
from reconciler.planning.comparison.isolation import compare_isolation, known_isolated
from reconciler.planning.comparison.ports import elements_by_tap
from reconciler.planning.comparison.ruling import compare_rules
from reconciler.planning.comparison.settling import Settling
from reconciler.planning.comparison.taken import Refusals, holder, wanting_taken, without
from reconciler.planning.comparison.vms import compare_vm, reboot_vm
from reconciler.planning.documents.prints import plan_id
from reconciler.planning.memo import Memo
from reconciler.planning.resolution.recorded import recorded_ports, recorded_vm
from reconciler.planning.resolution.renames import renamed
from reconciler.planning.resolution.resolve import Resolution

EMPTY = Resolution(ResolvedFleet({}, {}, frozenset()), (), (), (), ())
WHOLE = Scope()


def plan(
    resolution: Resolution,
    observed: Observed,
    ledger: Ledger,
    scope: Scope = WHOLE,
    memo: Memo | None = None,
) -> Plan:
    """The plan that makes ``observed`` what ``resolution`` asks for, with a memo or without.

    For ``scope.destroy`` the resolution is ignored: what is on record is the subject. Raises
    RefusedError when the scope would cut an isolation edge.
    """
    memo = Memo(keeps=False) if memo is None else memo
    if scope.destroy:
        resolution = EMPTY
    ledger = renamed(ledger, resolution.renames)
    made = _plan(resolution, observed, ledger, scope, memo)
    if scope.defer_deletes:
        # The same plan in two parts: whoever agreed to the whole agreed to the first.
        whole = _plan(resolution, observed, ledger, replace(scope, defer_deletes=False), memo)
        made = replace(made, id=whole.id)
    if not scope.is_partial or scope.destroy:
        return made
    everything = replace(scope, targets=NONE, exclude=NONE)
    whole = _plan(resolution, observed, ledger, everything, memo)
    own = {change.resource for change in made.changes}
    rest = tuple(change for change in whole.changes if change.resource not in own)
    return replace(made, excluded=rest)


NONE: frozenset[ResourceAddress] = frozenset()


def _plan(
    resolution: Resolution, observed: Observed, ledger: Ledger, scope: Scope, memo: Memo
) -> Plan:
    fleet = resolution.fleet
    modes = reconcile_modes(fleet)
    held = active_holds(fleet, ledger, scope, modes)
    inputs = Inputs(
        ledger, observed, selection(fleet, ledger, scope), resolution.renames,
        scope.defer_deletes, scope.keep_gone, scope.unprotected,
    )  # fmt: skip
    aim, held = aim_of(inputs, (fleet, modes), scope, held, memo)
    if holds_everything(held):
        return _finish(Draft(), inputs, EMPTY.fleet, held)
    waiting = () if scope.by_hand else waiting_resources(fleet, ledger)
    left: Refusals = {}
    draft = _drafted(inputs, resolution, aim, waiting)
    while taken := wanting_taken(draft, ledger):
        # Each round leaves more alone. What others were to get from it, they do not get either.
        aim, left = without(aim, inputs, {**left, **taken})
        draft = _drafted(inputs, resolution, aim, waiting, left)
    return _finish(draft, inputs, fleet, held, waiting)


def _drafted(
    inputs: Inputs,
    resolution: Resolution,
    aim: Aim,
    waiting: tuple[Retry, ...],
    left: Refusals = MappingProxyType({}),
) -> Draft:
    """Everything that is found, but for what is ``left`` alone as it wants what others have."""
    draft, observed, host = Draft(refused=list(left.items())), inputs.observed, host_of(aim.fleet)
    if isinstance(observed.network, Unknown):
        draft.blocked.append((host, observed.network.reason))
    elif observed.unlisted:
        draft.blocked.append((host, observed.unlisted))
    else:
        draft.blocked += [
            (address, why)
            for address, why in resolution.unresolved.items()
            if inputs.selected(address) and not aim.is_held(address)
        ]
        _compare(draft, inputs, observed.network, aim)
        if not aim.scope.destroy:
            _registrations(draft, inputs, resolution, aim)
            _keep_unfinished(draft, waiting)
    return draft


def _compare(draft: Draft, inputs: Inputs, network: NetworkState, aim: Aim) -> None:
    fleet, scope = aim.fleet, aim.scope
    vms = [vm for vm in fleet.vms.values() if not aim.is_held(vm.address)]
    ports = [port for vm in fleet.vms.values() for port in vm.ports]
    draft.bridges = {port.bridge for port in ports if port.bridged}
    draft.elements = elements_by_tap(ports, aim.memo, inputs.ledger)
    wanted = [draft.elements[port.tap] for vm in vms for port in vm.ports]
    draft.wanted_elements = aim.memo.union(wanted)
    draft.look_at(network.firewall.elements, aim.memo)
    _compare_gone(draft, inputs, network, aim)
    if not scope.destroy:
        compare_host(draft, inputs, network, fleet)
    for record in fleet.records.values():
        if inputs.selected(record.address) and not aim.is_held(record.address):
            _compare_record(aim.part(draft, record.address), inputs, record)
    _compare_vms(draft, inputs, network, vms, aim)
    compare_isolation(draft, inputs, aim)
    compare_rules(draft, inputs, network, aim)
    if not scope.is_partial:
        _sweep(draft, inputs, network, aim)
        if scope.destroy and not (draft.blocked or draft.refused):
            tear_down_host(draft, inputs, network)


def _compare_vms(
    draft: Draft, inputs: Inputs, network: NetworkState, vms: Iterable[ResolvedVm], aim: Aim
) -> None:
    settling = Settling(aim.memo, draft, inputs, network)
    for vm in vms:
        if not inputs.selected(vm.address):
            continue
        found = settling.found(vm)
        if found is not None and settling.is_known(found):
            continue
        part = aim.part(draft, vm.address)
        size = 0 if found is None else part.size()
        compare_vm(part, inputs, network, vm)
        if found is not None and part.size() == size:
            settling.keep(found)


def _compare_gone(draft: Draft, inputs: Inputs, network: NetworkState, aim: Aim) -> None:
    fleet, scope = aim.fleet, aim.scope
    left_out = {address for address, _ in draft.blocked}
    gone = [
        address
        for address in inputs.ledger.managed
        if address not in fleet.vms
        and address not in fleet.records
        and address not in left_out
        and inputs.selected(address)
        and not aim.is_held(address)
    ]
    if left_out:
        gone = [address for address in gone if not _may_be_needed(draft, address)]
    if scope.keep_gone:
        draft.refused += [(address, f"it is not deleted: {scope.keep_gone}") for address in gone]
    else:
        draft.gone_reason = (
            "destroyed by an operator" if scope.destroy else reasons.NO_LONGER_DECLARED
        )
        vms = [a for a in inputs.ledger.managed if kind_of(a) == "vm"] if gone else []
        told = [a for a in gone if aim.is_reported(tenant_address(tenant_of(a)))]
        rest = [a for a in gone if a not in told] if told else gone
        held = {a for a in vms if aim.is_held(a)}
        standing = {a for a in vms if aim.is_reported(a)} | held | set(told)
        standing |= _left_networks(inputs, aim, left_out) if gone else set()
        compare_gone(draft, inputs, network, rest, (fleet.frozen_tenants, standing))
        margin = draft.margin()
        margin.gone_reason = draft.gone_reason
        compare_gone(margin, inputs, network, told, (fleet.frozen_tenants, held))


def _left_networks(
    inputs: Inputs, aim: Aim, left_out: AbstractSet[ResourceAddress]
) -> set[ResourceAddress]:
    """Networks that this plan leaves as they are on record, with all that they name there."""
    return {
        a
        for a in inputs.ledger.managed
        if kind_of(a) == "network"
        and (a in left_out or aim.is_held(a) or aim.is_reported(a) or not inputs.selected(a))
    }


def _may_be_needed(draft: Draft, address: ResourceAddress) -> bool:
    """Something of the same tenant cannot be resolved: its network may stay in use."""
    first = next((a for a, _ in draft.blocked if tenant_of(a) == tenant_of(address) != ""), None)
    if first is None or kind_of(address) == "vm":
        return False
    draft.warnings.append(f"{address} is not deleted: {first} cannot be resolved")
    return True


def _compare_record(draft: Draft, inputs: Inputs, record: ResolvedRecord) -> None:
    """Tenants, networks, images and hosts live in the ledger; their effect is on VMs."""
    managed = inputs.ledger.managed.get(record.address)
    if managed is None:
        shown = Shown(record.spec)
        change = Change(record.address, "create", "none", shown, reasons.NOT_RECORDED)
        draft.changes.append(change)
        return
    fields = inputs.rename_of(record.address)
    why = [reasons.RENAMED] if fields else []
    if managed.spec_hash != record.spec_hash:
        fields += differences(managed.spec, record.spec, path="spec")
        why.append(reasons.in_place(fields, live=True))
    if why:
        draft.changes.append(Change(record.address, "update", "none", fields, "; ".join(why)))


def _sweep(draft: Draft, inputs: Inputs, network: NetworkState, aim: Aim) -> None:
    """Find what nothing accounts for. Everything on record counts as accounted for."""
    fleet = aim.fleet
    known = {vm.uid for vm in fleet.vms.values()}
    known |= {managed.uid for managed in inputs.ledger.managed.values()}
    host = host_of(fleet)
    spared = remove_stray_vms(draft, inputs, host, known) | used_unseen(inputs)
    # What is on record as declared has the ports that are declared.
    recorded: list[Port] = []
    for address, managed in inputs.ledger.managed.items():
        vm = fleet.vms.get(address)
        is_as_declared = vm is not None and vm.spec_hash == managed.spec_hash
        if not is_as_declared and "interfaces" in managed.spec:
            recorded.extend(recorded_ports(managed))
    taps = draft.elements.keys() | {port.tap for port in recorded}
    held = [vm for vm in fleet.vms.values() if aim.is_held(vm.address)] if aim.held else []
    kept = [draft.elements[port.tap] for vm in held for port in vm.ports]
    elements = elements_of(recorded).union(known_isolated(draft, inputs.ledger), *kept)
    bridges = draft.bridges | {port.bridge for port in recorded if port.bridged}
    known_ports = Accounted(taps, elements, frozenset(spared), bridges)
    remove_orphans(draft, inputs, network, known_ports, host)


def _registrations(draft: Draft, inputs: Inputs, resolution: Resolution, aim: Aim) -> None:
    """What must be on record before the first step: only for resources this plan acts on."""
    skipped = {address for address, _ in (*draft.blocked, *draft.refused)}
    skipped |= {change.resource for change in draft.reported}
    takes_all = not (skipped or aim.held) and inputs.only is None

    def wanted(address: str) -> bool:
        resource = ResourceAddress(address)
        return takes_all or (
            resource not in skipped and not aim.is_held(resource) and inputs.selected(resource)
        )

    draft.registrations = [r for r in resolution.registrations if wanted(r.address)]
    draft.registrations += _followers(inputs, {entry.address for entry in draft.registrations})
    draft.allocations = [a for a in resolution.allocations if wanted(a.resource)]
    if not inputs.defer_deletes:
        draft.releases = [a for a in resolution.releases if wanted(a.resource)]


def _followers(inputs: Inputs, decided: AbstractSet[ResourceAddress]) -> Iterator[Registration]:
    """What this plan leaves alone, or ends, under the new name of its tenant: nothing but its name
    changes, and nothing is on record under a tenant that is not.
    """
    for address, old in inputs.renames.items():
        entry = inputs.ledger.managed.get(address)
        follows = (
            tenant_of(old) != tenant_of(address) and tenant_address(tenant_of(address)) in decided
        )
        if follows and entry is not None and address not in decided:
            yield Registration(
                address, entry.uid, entry.incarnation, entry.spec, entry.spec_hash, old
            )


def _keep_unfinished(draft: Draft, waiting: tuple[Retry, ...]) -> None:
    """What waits for its next try has not let go yet of what it gives up."""
    if waiting and (draft.releases or draft.allocations):
        _, draft.unfinished = without_waiting(draft.ordered_steps(), waiting)
        draft.releases = [e for e in draft.releases if holder(e.resource) not in draft.unfinished]


def plan_reboot(observed: Observed, ledger: Ledger, address: ResourceAddress) -> Plan:
    """Stop a VM and start it as it was last applied; a completed or failed one starts anew.

    Raises RefusedError when the VM is not on record or declared stopped.
    """
    managed = ledger.managed.get(address)
    if managed is None or kind_of(address) != "vm":
        raise RefusedError("no such VM is managed here", subject=address, hint="see metald get vm")
    vm = recorded_vm(ledger, managed)
    if vm.power == "stopped":
        raise RefusedError("it is declared power: stopped", subject=address, hint="edit its spec")
    inputs, draft = Inputs(ledger, observed, frozenset({address})), Draft()
    if isinstance(observed.network, Unknown):
        draft.blocked.append((address, observed.network.reason))
    elif observed.unlisted:
        draft.blocked.append((address, observed.unlisted))
    else:
        memo = Memo(keeps=False)
        draft.elements = elements_by_tap(vm.ports, memo, ledger)
        draft.wanted_elements = frozenset().union(*draft.elements.values())
        draft.look_at(observed.network.firewall.elements, memo)
        reboot_vm(draft, inputs, observed.network, vm)
    return _finish(draft, inputs, EMPTY.fleet, ())


def _finish(
    draft: Draft,
    inputs: Inputs,
    fleet: ResolvedFleet,
    held: tuple[Hold, ...],
    waiting: tuple[Retry, ...] = (),
) -> Plan:
    touched = {change.resource for change in (*draft.changes, *draft.reported)}
    touched |= {address for address, _ in (*draft.blocked, *draft.refused)}
    settled = (fleet.records.keys() | fleet.vms.keys()) & inputs.ledger.managed.keys() - touched
    if inputs.only is not None:
        settled &= inputs.only
    steps, _ = without_waiting(draft.ordered_steps(), waiting)
    made = Plan(
        id="",
        changes=tuple(draft.changes),
        recoveries=tuple(draft.recoveries),
        steps=steps,
        registrations=tuple(draft.registrations),
        allocations=tuple(draft.allocations),
        releases=tuple(draft.releases),
        unchanged=0 if host_of(fleet) in touched and draft.blocked else len(settled),
        warnings=tuple(draft.warnings),
        blocked=tuple(draft.blocked),
        refused=tuple(draft.refused),
        held=held,
        isolated=tuple(entry for _, entry in sorted(inputs.ledger.lasting_isolations().items())),
        reported=tuple(draft.reported),
        waiting=waiting,
        recorded=inputs.ledger.managed,
        observed=inputs.observed,
        now_s=inputs.ledger.now_s,
    )
    return replace(made, id=plan_id(made))


__all__ = ["EMPTY", "LOCAL_HOST", "WHOLE", "Scope", "plan", "plan_reboot"]
