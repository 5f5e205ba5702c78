"""Renames without recreation: ``metadata.renamedFrom`` carries the uid to a new address.

Pure. ``resolve`` and ``plan`` look at the ledger through ``renamed``, as if the rename were
done; recording it is part of the plan's registrations. A resource already renamed, or never
known here under its old name, is what it is: the field may stay in the spec.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from reconciler.model.addresses import ResourceAddress, tenant_address, tenant_of
from reconciler.model.fleet import Fleet
from reconciler.model.specs import AnyDocument
from reconciler.planning.findings import Finding

if TYPE_CHECKING:
    # Checking specs offline needs no ledger.
    from reconciler.model.ledger import Ledger, Managed

RENAMED_FROM = ("metadata", "renamedFrom")


def all_documents(fleet: Fleet) -> Iterator[AnyDocument]:
    """Every document, kind by kind."""
    yield from documents_beside_vms(fleet)
    yield from fleet.vms.values()


def documents_beside_vms(fleet: Fleet) -> Iterator[AnyDocument]:
    """The few that are no VM."""
    yield from fleet.tenants.values()
    yield from fleet.networks.values()
    for part in fleet.shared:
        yield from part.values()


def may_be_renamed(fleet: Fleet) -> Iterator[AnyDocument]:
    """Every document that may say what it was named before."""
    yield from documents_beside_vms(fleet)
    yield from fleet.survey.renamed


def source_of(document: AnyDocument) -> ResourceAddress | None:
    """The address a document says it had before, None when it says nothing."""
    if document.metadata.renamed_from is None:
        return None
    parent = document.address.rsplit("/", 1)[0]
    return ResourceAddress(f"{parent}/{document.metadata.renamed_from}")


def check_renames(fleet: Fleet, renamed: Iterable[AnyDocument]) -> Iterator[Finding]:
    """What can be wrong with renames offline: a source that is declared still, or claimed twice.

    ``renamed``: all documents that may say what they were named before.
    A cycle of renames is the former for each of its members.
    """
    parts = (fleet.tenants, fleet.networks, fleet.vms, *fleet.shared)
    claimed: dict[ResourceAddress, ResourceAddress] = {}
    for document in renamed:
        source = source_of(document)
        if source is None:
            continue
        if any(source in part for part in parts):
            hint = "remove renamedFrom if the rename is done, else remove the old document"
            yield Finding(document.address, RENAMED_FROM, f"{source} is declared still", hint)
        elif source in claimed:
            message = f"{claimed[source]} is renamed from {source} as well"
            yield Finding(document.address, RENAMED_FROM, message, "only one can be")
        else:
            claimed[source] = document.address


def renames_of(
    fleet: Fleet, ledger: Ledger
) -> tuple[Mapping[ResourceAddress, ResourceAddress], tuple[Finding, ...]]:
    """New address to old one, for what is still on record under the old one.

    A tenant's rename takes along all that belongs to it, declared or not.
    """
    moves: dict[ResourceAddress, ResourceAddress] = {}
    findings: list[Finding] = []
    tenants = _renamed_tenants(fleet, ledger)
    # Unless its tenant has, only who says so has another name on record.
    for document in all_documents(fleet) if tenants else may_be_renamed(fleet):
        address, source = document.address, source_of(document)
        # Its own rename may be done already, and the tenant's not.
        names = (address,) if source is None else (source, address)
        was = [_under_old_tenant(name, tenants) for name in names]
        old = next((name for name in was if name in ledger.managed), address)
        if old == address:
            continue
        if address in ledger.managed:
            message = f"{old} is still managed here beside {address}, which is another resource"
            hint = f"remove renamedFrom if {old} is to be deleted"
            findings.append(Finding(address, RENAMED_FROM, message, hint))
            continue
        moves[address] = old
    moves.update(list(_left_behind(tenants, ledger, moves)))
    return moves, tuple(findings)


def _renamed_tenants(fleet: Fleet, ledger: Ledger) -> Mapping[str, str]:
    """New name to old one, where that is the one on record."""
    return {
        tenant.metadata.name: tenant.metadata.renamed_from
        for tenant in fleet.tenants.values()
        if tenant.metadata.renamed_from
        and tenant.address not in ledger.managed
        and tenant_address(tenant.metadata.renamed_from) in ledger.managed
    }


def _left_behind(
    tenants: Mapping[str, str], ledger: Ledger, moves: Mapping[ResourceAddress, ResourceAddress]
) -> Iterator[tuple[ResourceAddress, ResourceAddress]]:
    """What a renamed tenant has on record and declares no more: it goes by the new name, and by
    one of its own where what is declared takes its.
    """
    new_of = {old: new for new, old in tenants.items()}
    moving = set(moves.values())
    for address, entry in ledger.managed.items() if tenants else ():
        parts = address.split("/")
        if parts[0] == "tenant" or tenant_of(address) not in new_of or address in moving:
            continue
        there = ResourceAddress("/".join([parts[0], new_of[parts[1]], *parts[2:]]))
        if there in moves or there in ledger.managed:
            there = ResourceAddress(f"{there.rsplit('/', 1)[0]}/was-{entry.uid[:8]}")
        yield there, address


def _under_old_tenant(address: ResourceAddress, tenants: Mapping[str, str]) -> ResourceAddress:
    old = tenants.get(tenant_of(address))
    parts = address.split("/")
    if old is None or parts[0] == "tenant":
        return address
    return ResourceAddress("/".join([parts[0], old, *parts[2:]]))


def renamed(ledger: Ledger, moves: Mapping[ResourceAddress, ResourceAddress]) -> Ledger:
    """The ledger as it will read once the renames are recorded."""
    if not moves:
        return ledger
    new_of = {old: new for new, old in moves.items()}
    managed = {
        new_of.get(address, address): _moved(entry, new_of)
        for address, entry in ledger.managed.items()
    }
    held = {
        owner: tuple(
            entry._replace(resource=new_of.get(ResourceAddress(entry.resource), entry.resource))
            for entry in allocations
        )
        for owner, allocations in ledger.held.items()
    }
    isolations = {
        new_of.get(address, address): replace(entry, address=new_of.get(address, address))
        for address, entry in ledger.isolations.items()
    }
    return replace(ledger, managed=dict(sorted(managed.items())), held=held, isolations=isolations)


def _moved(entry: Managed, new_of: Mapping[ResourceAddress, ResourceAddress]) -> Managed:
    """One entry under its new address; its interfaces speak of networks by their new names."""
    address = new_of.get(entry.address, entry.address)
    spec = _with_new_networks(entry, new_of)
    if address == entry.address and spec is entry.spec:
        return entry
    return replace(entry, address=address, spec=spec, origin=entry.origin or entry.address)


def _with_new_networks(
    entry: Managed, new_of: Mapping[ResourceAddress, ResourceAddress]
) -> Mapping[str, Any]:
    interfaces = entry.spec.get("interfaces")
    if not interfaces:
        return entry.spec
    old_tenant = tenant_of(entry.address)
    changed = []
    for interface in interfaces:
        old = ResourceAddress(f"network/{old_tenant}/{interface['network']}")
        name = new_of.get(old, old).rsplit("/", 1)[1]
        changed.append({**interface, "network": name})
    if changed == list(interfaces):
        return entry.spec
    return {**entry.spec, "interfaces": changed}
