"""VMs as the ledger remembers them: rebuilt without the specs, for acts that have none.

`reboot` and deletions work on what was last applied, not on files.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import (
    ResourceAddress,
    interface_owner,
    network_address,
    tenant_of,
)
from reconciler.model.ledger import Ledger, Managed
from reconciler.model.quantities import parse_size
from reconciler.model.resolved import (
    BootFiles,
    GuestInterface,
    LaunchSpec,
    Port,
    ResolvedVm,
    link_alias,
)
from reconciler.planning.resolution.control_values import recorded_policy

# Of an interface on record, what follows from others' documents.
_NO_SUBSTANCE = ("security", "segment", "dns", "nat64")


def is_another_generation(before: Mapping[str, Any], after: Mapping[str, Any]) -> bool:
    """A recorded spec asks for something else, and does not only call things otherwise.

    Labels and what rules make of them, how it is reconciled, the names of networks, what follows
    from their policies, their resolvers and the places of boot files do not count: a VM that ended
    for good is not started again for them.
    """
    return _substance(before) != _substance(after)


def _substance(spec: Mapping[str, Any]) -> dict[str, Any]:
    found = {key: value for key, value in spec.items() if key not in {"labels", "reconcile"}}
    if "interfaces" in found:
        interfaces = found["interfaces"]
        found["interfaces"] = [
            {**entry, "network": entry.get("zone"), **dict.fromkeys(_NO_SUBSTANCE)}
            for entry in interfaces
        ]
    if found.get("boot"):
        found["boot"] = {**found["boot"], "kernel": "", "initrd": ""}
    return found


def recorded_ports(managed: Managed) -> tuple[Port, ...]:
    """The ports a VM has by its recorded spec; the alias is left out (see `recorded_vm`)."""
    return tuple(_port(managed, entry, "") for entry in managed.spec.get("interfaces", ()))


def recorded_interface_uid(
    ledger: Ledger, vm: ResourceAddress, network: ResourceAddress, zones: Mapping[Any, int]
) -> str | None:
    """Uid of an interface a VM has on record, None when it has none in that network.

    ``zones`` of all networks tell which is which: a VM that was left alone while one was renamed
    has it on record by its old name. Where the zone is nobody's any more, the name counts.
    """
    managed = ledger.managed.get(vm)
    if managed is None:
        return None
    name, zone = network.rsplit("/", 1)[1], zones[network]
    named = None
    for entry in managed.spec.get("interfaces", ()):
        if entry["zone"] == zone:
            return _interface_uid(ledger, managed, entry)
        if entry["network"] == name:
            named = entry
    if named is None or named["zone"] in zones.values():
        return None
    return _interface_uid(ledger, managed, named)


def recorded_network(ledger: Ledger, vm: ResourceAddress, entry: Mapping[str, Any]) -> str:
    """The name by which the network of an interface on record is on record itself.

    When it is there no more: as the interface has it, or a name that nothing has, if another
    network goes by that one now.
    """
    name, tenant = str(entry["network"]), tenant_of(vm)
    known = ledger.managed.get(network_address(tenant, name))
    if known is not None and known.spec.get("zone") == entry.get("zone"):
        return name
    for address, managed in ledger.managed.items():
        own = address.startswith("network/") and tenant_of(address) == tenant
        if own and managed.spec.get("zone") == entry.get("zone"):
            return address.rsplit("/", 1)[1]
    return name if known is None else f"gone-{entry.get('zone')}"


def _interface_uid(ledger: Ledger, managed: Managed, entry: Mapping[str, Any]) -> str:
    if "uid" in entry:
        return str(entry["uid"])
    # On record since before uids were kept with the interface: it still derives.
    owner = interface_owner(managed.address, entry["network"])
    return identity.derive_uid(ledger.secret, owner=owner, incarnation=managed.incarnation)


def _port(managed: Managed, entry: Mapping[str, Any], alias: str, uid: str = "") -> Port:
    return Port(
        tap=entry["tap"],
        alias=alias,
        vm=managed.address,
        mac=entry["mac"],
        zone=int(entry["zone"]),
        addresses=tuple(entry["addresses"]),
        link_local=identity.link_local_of(entry["mac"]),
        uid=uid or entry.get("uid", ""),
        policy=recorded_policy(entry.get("security")),
        segment=int(entry.get("segment", 0)),
        delegated=(entry["prefix"],) if "prefix" in entry else (),
        resolvers=tuple(entry.get("dns", ())),
        nat64=entry.get("nat64", ""),
        bridged=entry.get("mode") == "bridged",
    )


def recorded_vm(ledger: Ledger, managed: Managed) -> ResolvedVm:
    """A VM exactly as it was last applied. Raises StopIteration when it has no unix id."""
    spec = managed.spec
    held = ledger.held.get(managed.uid, ())
    unix_id = next(int(entry.value) for entry in held if entry.kind == "unix-id")
    return ResolvedVm(
        managed.address,
        managed.uid,
        managed.incarnation,
        _launch(managed, unix_id),
        tuple(_full_port(ledger, managed, entry) for entry in spec["interfaces"]),
        spec["power"],
        spec["restart"],
        spec["protect"],
        spec,
        managed.spec_hash,
    )


def _full_port(ledger: Ledger, managed: Managed, entry: Mapping[str, Any]) -> Port:
    owner = interface_owner(managed.address, entry["network"])
    uid = _interface_uid(ledger, managed, entry)
    return _port(managed, entry, link_alias(owner, uid), uid)


def _launch(managed: Managed, unix_id: int) -> LaunchSpec:
    spec = managed.spec
    boot = spec.get("boot")
    return LaunchSpec(
        vm=managed.address,
        uid=managed.uid,
        unix_id=unix_id,
        hypervisor=spec["hypervisor"],
        machine=spec["machine"],
        vcpus=spec["vcpus"],
        memory_bytes=parse_size(spec["memory"]),
        boot=None
        if boot is None
        else BootFiles(
            boot["kernel"],
            boot["kernelSha256"],
            boot["initrd"],
            boot["initrdSha256"],
            boot["cmdline"],
        ),
        interfaces=tuple(
            GuestInterface(
                entry["network"],
                entry["tap"],
                entry["mac"],
                tuple(entry["addresses"]),
                tuple(entry.get("dns", ())),
                on_link=entry.get("mode") == "bridged",
            )
            for entry in spec["interfaces"]
        ),
    )
