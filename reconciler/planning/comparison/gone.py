"""Resources that are on record, or found on the host, and no longer declared.

Deletion order: VMs, then networks, then tenants, images and hosts. Only what the ledger
knows, or what proves by its uid to be ours, is ever removed.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from reconciler.model.addresses import ResourceAddress, kind_of, tenant_of
from reconciler.model.ledger import Managed
from reconciler.model.observed import NetworkState, Unknown, VmState
from reconciler.model.plan import Change, FieldChange, Retire, StopVm
from reconciler.planning.bounds.scope import recorded_networks
from reconciler.planning.comparison import reasons
from reconciler.planning.comparison.draft import Draft, Inputs
from reconciler.planning.comparison.fields import Shown
from reconciler.planning.comparison.ports import drop_ports
from reconciler.planning.resolution.ownership import is_ours
from reconciler.planning.resolution.recorded import recorded_ports
from reconciler.planning.resolution.security import profile_named

_DELETION_ORDER = {
    "vm": 0, "network": 1, "tenant": 2, "image": 3, "host": 4, "priceplan": 5, "securityprofile": 6,
}  # fmt: skip


def compare_gone(
    draft: Draft,
    inputs: Inputs,
    network: NetworkState,
    gone: Iterable[ResourceAddress],
    kept: tuple[frozenset[str], AbstractSet[ResourceAddress]],
) -> None:
    """Plan the deletion of ``gone`` (managed addresses), each after what depends on it.

    ``kept``: tenants of which a file is broken, and VMs and networks that are left as they are.
    What a VM that stays lives in stays with it, and what a network that stays is held to.
    """
    ordered = sorted(gone, key=lambda address: (_DELETION_ORDER[kind_of(address)], address))
    if not ordered:
        return
    ends: list[str] = []
    frozen_tenants, held = kept
    standing = {*held, *_unseen(inputs)}
    for address in ordered:
        managed = inputs.ledger.managed[address]
        tenant = tenant_of(address)
        if tenant in frozen_tenants:
            draft.warnings.append(f"{address} is not deleted: a file of tenant {tenant} is broken")
            standing.add(address)
            continue
        if inhabitant := _inhabitant(inputs, address, standing):
            how = "is held to it" if kind_of(address) == "securityprofile" else "stays in it"
            draft.warnings.append(f"{address} is not deleted: {inhabitant} {how}")
            standing.add(address)
            continue
        if managed.spec.get("protect") and address not in inputs.unprotected:
            draft.refused.append((address, "protect: true forbids destroying it"))
            standing.add(address)
            continue
        before = tuple(ends)
        if kind_of(address) == "vm":
            keys = _delete_vm(draft, inputs, network, managed)
            if keys is None:
                continue
            before = keys
        if inputs.defer_deletes:
            _defer(draft, managed)
        else:
            ends.append(_retire(draft, managed, before=before))


def _unseen(inputs: Inputs) -> Iterator[ResourceAddress]:
    """VMs that cannot be seen: whatever is planned for them waits."""
    vms = inputs.observed.vms
    for address, managed in inputs.ledger.managed.items():
        if isinstance(vms.get(managed.uid), Unknown):
            yield address


def _inhabitant(
    inputs: Inputs, address: ResourceAddress, standing: AbstractSet[ResourceAddress]
) -> ResourceAddress | None:
    """Something that stays and cannot be without ``address``: a tenant's, a network's, a network
    by its profile.
    """
    kind = kind_of(address)
    for other in sorted(standing, key=lambda a: (_DELETION_ORDER[kind_of(a)], a)):
        if kind == "tenant" and other != address and tenant_of(other) == tenant_of(address):
            return other
        lives = kind_of(other) == "vm" and other in inputs.ledger.managed
        if kind == "network" and lives and address in recorded_networks(inputs.ledger, other):
            return other
        known = inputs.ledger.managed.get(other) if kind_of(other) == "network" else None
        if known is not None and profile_named(known.spec) == address:
            return other
    return None


def _retire(draft: Draft, managed: Managed, *, before: tuple[str, ...]) -> str:
    key = draft.step(
        f"{managed.address}:retire", managed.address, Retire(managed.uid), after=before
    )
    fields = tuple(FieldChange(change.path, change.after, None) for change in Shown(managed.spec))
    reason = reasons.gone(draft.gone_reason, kind_of(managed.address))
    draft.changes.append(
        Change(managed.address, "delete", "destroy", fields, reason, downtime_s=None)
    )
    return key


def _defer(draft: Draft, managed: Managed) -> None:
    """Stopped and cut off, but still ours: forgetting waits for the confirmation."""
    address = managed.address
    if any(step.resource == address for step in draft.steps.values()):
        fields = (FieldChange("status.phase", "present", "stopped and cut off"),)
        reason = f"{draft.gone_reason}; it is deleted once the change is confirmed"
        change = Change(address, "delete", "destroy", fields, reason, downtime_s=None)
        draft.changes.append(change)
    else:
        draft.warnings.append(f"{address} is deleted once the change is confirmed")


def _delete_vm(
    draft: Draft, inputs: Inputs, network: NetworkState, managed: Managed
) -> tuple[str, ...] | None:
    """Steps that end a VM; returns what its retirement waits for, None when it is unknown."""
    state = inputs.observed.vms.get(managed.uid)
    if isinstance(state, Unknown):
        draft.blocked.append((managed.address, state.reason))
        return None
    stop = f"{managed.address}:stop"
    if state is not None:
        operation = StopVm(managed.uid, state.launch.hypervisor, graceful=True, verdict="deleted")
        draft.step(stop, managed.address, operation)
    ports = recorded_ports(managed)
    return (stop, *drop_ports(draft, network, ports, after=(stop,)))


def remove_stray_vms(
    draft: Draft, inputs: Inputs, host: ResourceAddress, known: set[str]
) -> set[str]:
    """Stop VMs of ours that no record accounts for; returns the taps left to strangers."""
    spared: set[str] = set()
    for uid in sorted(inputs.observed.vms.keys() - known):
        state = inputs.observed.vms[uid]
        if isinstance(state, Unknown):
            draft.blocked.append((host, f"VM folder {uid}: {state.reason}"))
        elif is_ours(inputs.ledger, state.launch.vm, uid):
            _remove_stray(draft, state, host)
        else:
            spared.update(entry.tap for entry in state.launch.interfaces)
            draft.warnings.append(
                f"VM {uid} is not of this state folder; left alone (metald adopt)"
            )
    return spared


def _remove_stray(draft: Draft, state: VmState, host: ResourceAddress) -> None:
    stop = StopVm(state.uid, state.launch.hypervisor, graceful=False, verdict="deleted")
    draft.step(f"host:stray:{state.uid}", host, stop)
    fields = (FieldChange(f"status.vms.{state.uid}", state.phase.value, None),)
    reason = f"left over from an earlier {state.launch.vm}: no record accounts for it"
    draft.changes.append(Change(host, "update", "destroy", fields, reason, downtime_s=None))


def used_unseen(inputs: Inputs) -> set[str]:
    """Taps and addresses that VMs which cannot be seen may use: those, too, that their specs
    on record name no more, because a run that recorded them was cut short.
    """
    managed, vms = inputs.ledger.managed, inputs.observed.vms
    unseen = {a for a, entry in managed.items() if isinstance(vms.get(entry.uid), Unknown)}
    return {
        entry.value
        for held in (inputs.ledger.held.values() if unseen else ())
        for entry in held
        if entry.resource in unseen and entry.kind in {"tap", "address"}
    }
