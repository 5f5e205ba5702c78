"""From what was declared to what the host shall hold: identities, addresses, images.

Reads the fleet, the ledger and the image facts; fills every default; claims what is not
yet allocated. The result is complete: comparing it with the world needs nothing else.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import (
    ResourceAddress,
    interface_owner,
    network_address,
    tenant_address,
)
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Allocation, Ledger
from reconciler.model.observed import ImageFacts
from reconciler.model.plan import Registration
from reconciler.model.resolved import (
    BootFiles,
    GuestInterface,
    LaunchSpec,
    Port,
    ResolvedFleet,
    ResolvedRecord,
    ResolvedVm,
    link_alias,
)
from reconciler.model.specs import (
    AnyDocument,
    Host,
    Image,
    Interface,
    Network,
    PricePlan,
    Tenant,
    Vm,
    dump_spec,
)
from reconciler.planning.canonical import digest
from reconciler.planning.claims import Claims, PoolExhaustedError
from reconciler.planning.findings import Finding
from reconciler.planning.images import boot_files
from reconciler.planning.recorded import recorded_interface_uid
from reconciler.planning.renames import renamed, renames_of

TENANT_PREFIX_LENGTH = 48
NETWORK_PREFIX_LENGTH = 64


@dataclass(frozen=True, slots=True)
class Resolution:
    """The desired state, what must be recorded for it, and what keeps it from being planned.

    ``releases``: allocations of resources that stay, but no longer use them. ``renames``: new
    address to the one in the ledger (``planning.renames``).
    """

    fleet: ResolvedFleet
    registrations: tuple[Registration, ...]
    allocations: tuple[Allocation, ...]
    releases: tuple[Allocation, ...]
    findings: tuple[Finding, ...]
    renames: Mapping[ResourceAddress, ResourceAddress] = field(default_factory=dict)


def resolve(fleet: Fleet, ledger: Ledger, images: Mapping[str, ImageFacts]) -> Resolution:
    """Resolve a checked fleet against the ledger. Pure and deterministic."""
    renames, findings = renames_of(fleet, ledger)
    ledger = renamed(ledger, renames)
    work = _Work(fleet, ledger, images, Claims(ledger), renames)
    work.findings.extend(findings)
    _reserve_statics(work)
    others: list[Host | Image | PricePlan] = [
        *fleet.hosts.values(),
        *fleet.images.values(),
        *fleet.price_plans.values(),
    ]
    for document in others:
        _record(work, document, dump_spec(document))
    for tenant in fleet.tenants.values():
        _tenant(work, tenant)
    for network in fleet.networks.values():
        _network(work, network)
    for vm in fleet.vms.values():
        _vm(work, vm)
    releases = [
        entry
        for address in (*work.records, *work.vms)
        if address in ledger.managed
        for entry in work.claims.unused(address)
    ]
    return Resolution(
        ResolvedFleet(work.records, work.vms, fleet.frozen_tenants),
        tuple(work.registrations),
        tuple(work.claims.new),
        tuple(sorted(releases)),
        tuple(work.findings),
        renames,
    )


@dataclass(slots=True)
class _Work:
    """What one resolution builds up; never leaves this module."""

    fleet: Fleet
    ledger: Ledger
    images: Mapping[str, ImageFacts]
    claims: Claims
    renames: Mapping[ResourceAddress, ResourceAddress]
    records: dict[ResourceAddress, ResolvedRecord] = field(default_factory=dict)
    vms: dict[ResourceAddress, ResolvedVm] = field(default_factory=dict)
    prefixes: dict[ResourceAddress, IPv6Network] = field(default_factory=dict)
    zones: dict[ResourceAddress, int] = field(default_factory=dict)
    static: list[IPv6Network] = field(default_factory=list)
    static_addresses: set[str] = field(default_factory=set)
    registrations: list[Registration] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)


def _identity(work: _Work, address: ResourceAddress) -> tuple[str, int]:
    managed = work.ledger.managed.get(address)
    if managed is not None:
        return managed.uid, managed.incarnation
    incarnation = work.ledger.incarnations.get(address, 0) + 1
    uid = identity.derive_uid(work.ledger.secret, owner=address, incarnation=incarnation)
    return uid, incarnation


def _register(
    work: _Work, address: ResourceAddress, identified: tuple[str, int], spec: Mapping[str, Any]
) -> str:
    """Note a registration when the spec or its address is new to the ledger; gives its hash."""
    spec_hash = digest(spec)
    managed = work.ledger.managed.get(address)
    before = work.renames.get(address, "")
    if managed is None or managed.spec_hash != spec_hash or before:
        uid, incarnation = identified
        entry = Registration(address, uid, incarnation, spec, spec_hash, before)
        work.registrations.append(entry)
    return spec_hash


def _record(work: _Work, document: AnyDocument, spec: Mapping[str, Any]) -> None:
    address = document.address
    identified = _identity(work, address)
    full = {**spec, **_metadata(document)}
    spec_hash = _register(work, address, identified, full)
    work.records[address] = ResolvedRecord(address, *identified, full, spec_hash)


def _metadata(document: AnyDocument) -> dict[str, Any]:
    """What of the metadata is recorded with the spec: labels, and a mode that is no default."""
    plain = document.metadata.model_dump(mode="json", by_alias=True, include={"reconcile"})
    mode = {} if plain["reconcile"] == "correct" else plain
    return {"labels": dict(document.metadata.labels), **mode}


def _reserve_statics(work: _Work) -> None:
    # What is declared goes before what is drawn: an `auto` resource moves out of the way.
    prefixed: list[Tenant | Network] = [
        *work.fleet.tenants.values(),
        *work.fleet.networks.values(),
    ]
    work.static.extend(
        document.spec.prefix
        for document in prefixed
        if isinstance(document.spec.prefix, IPv6Network)
    )
    work.static_addresses.update(
        str(interface.address)
        for vm in work.fleet.vms.values()
        for interface in vm.spec.interfaces
        if interface.address != "auto"
    )


def _tenant(work: _Work, tenant: Tenant) -> None:
    address = tenant.address
    uid, _ = _identity(work, address)
    pool = _pool(work)
    prefix = _prefix(work, (address, uid), tenant.spec.prefix, (pool, TENANT_PREFIX_LENGTH))
    if prefix is None:
        return
    work.prefixes[address] = prefix
    _record(work, tenant, {**dump_spec(tenant), "prefix": str(prefix)})


def _pool(work: _Work) -> IPv6Network:
    for host in work.fleet.hosts.values():
        if host.spec.prefix_pool is not None:
            return host.spec.prefix_pool
    return identity.default_pool(work.ledger.secret)


def _network(work: _Work, network: Network) -> None:
    address = network.address
    within = work.prefixes.get(tenant_address(network.metadata.tenant))
    if within is None:
        return
    uid, _ = _identity(work, address)
    prefix = _prefix(work, (address, uid), network.spec.prefix, (within, NETWORK_PREFIX_LENGTH))
    if prefix is None:
        return
    work.prefixes[address] = prefix
    zone = work.claims.draw("zone", identity.zones(uid), owner=uid, resource=address)
    work.zones[address] = int(zone)
    _record(work, network, {**dump_spec(network), "prefix": str(prefix), "zone": int(zone)})


def _prefix(
    work: _Work,
    owner: tuple[ResourceAddress, str],
    declared: IPv6Network | str,
    pool: tuple[IPv6Network, int],
) -> IPv6Network | None:
    """The prefix a tenant or network has: declared, held already, or drawn from ``pool``."""
    address, uid = owner
    claims = work.claims
    if isinstance(declared, IPv6Network):
        claims.take("prefix", str(declared), owner=uid, resource=address)
        return declared
    within, length = pool
    for held in claims.held(uid, "prefix"):
        kept = IPv6Network(held)
        if kept.subnet_of(within) and kept.prefixlen == length and not _is_static(work, kept):
            return IPv6Network(claims.keep("prefix", held))
    free = (
        str(candidate)
        for candidate in identity.subnets_within(uid, within, length)
        if not _is_static(work, candidate) and ("prefix", str(candidate)) not in work.ledger.taken
        and claims.holder("prefix", str(candidate)) is None
    )  # fmt: skip
    first = next(free, None)
    if first is None:
        count = 2 ** (length - within.prefixlen)
        message = f"the pool {within} has no free /{length}: all {count} are taken"
        hint = "widen the pool, or wait for the quarantine of released prefixes to end"
        work.findings.append(Finding(address, ("spec", "prefix"), message, hint))
        return None
    return IPv6Network(claims.take("prefix", first, owner=uid, resource=address))


def _is_static(work: _Work, candidate: IPv6Network) -> bool:
    # A declared prefix of the same length or longer excludes what it overlaps; a shorter one
    # is the tenant's own prefix around its networks.
    return any(
        declared.prefixlen >= candidate.prefixlen and declared.overlaps(candidate)
        for declared in work.static
    ) or any(
        declared.prefixlen < candidate.prefixlen <= TENANT_PREFIX_LENGTH
        and declared.overlaps(candidate)
        for declared in work.static
    )


def _vm(work: _Work, vm: Vm) -> None:
    address = vm.address
    uid, incarnation = _identity(work, address)
    boot: BootFiles | None = None
    if vm.spec.boot is not None:
        found = boot_files(vm.spec.boot, work.images)
        if isinstance(found, ImageFacts):
            path = ("spec", "boot", "image" if vm.spec.boot.image else "kernel")
            work.findings.append(Finding(address, path, found.problem, found.hint))
            return
        boot = found
    ports = tuple(_ports(work, vm, incarnation))
    if len(ports) != len(vm.spec.interfaces):
        return  # a finding already says which network has no prefix or address
    draw = work.claims.draw("unix-id", identity.unix_ids(uid), owner=uid, resource=address)
    launch = LaunchSpec(
        address, uid, int(draw), vm.spec.hypervisor, vm.spec.machine,
        vm.spec.vcpus, vm.spec.memory, boot,
        tuple(
            GuestInterface(interface.network, port.tap, port.mac, port.addresses)
            for interface, port in zip(vm.spec.interfaces, ports, strict=True)
        ),
    )  # fmt: skip
    spec = _vm_spec(vm, launch, ports)
    spec_hash = _register(work, address, (uid, incarnation), spec)
    work.vms[address] = ResolvedVm(
        address, uid, incarnation, launch, ports,
        vm.spec.power, vm.spec.restart, vm.spec.protect, spec, spec_hash,
    )  # fmt: skip


def _vm_spec(vm: Vm, launch: LaunchSpec, ports: tuple[Port, ...]) -> dict[str, Any]:
    """The spec as recorded and compared: defaults, digests and identities filled in."""
    spec = dump_spec(vm)
    spec.update(_metadata(vm))
    spec["interfaces"] = [
        {
            "network": interface.network,
            "addresses": list(port.addresses),
            "mac": port.mac,
            "tap": port.tap,
            "zone": port.zone,
            "uid": port.uid,
        }
        for interface, port in zip(vm.spec.interfaces, ports, strict=True)
    ]
    if launch.boot is not None:
        spec["boot"] = {
            "image": spec["boot"]["image"],
            "kernel": launch.boot.kernel,
            "kernelSha256": launch.boot.kernel_sha256,
            "initrd": launch.boot.initrd,
            "initrdSha256": launch.boot.initrd_sha256,
            "cmdline": launch.boot.cmdline,
        }
    return spec


def _ports(work: _Work, vm: Vm, incarnation: int) -> list[Port]:
    found = (_port(work, vm, interface, incarnation) for interface in vm.spec.interfaces)
    return [port for port in found if port is not None]


def _port(work: _Work, vm: Vm, interface: Interface, incarnation: int) -> Port | None:
    network = network_address(vm.metadata.tenant, interface.network)
    if network not in work.prefixes:
        return None
    address = vm.address
    owner_name = interface_owner(address, interface.network)
    uid = recorded_interface_uid(work.ledger, address, interface.network)
    if uid is None:
        uid = _new_interface_uid(work, address, interface.network, incarnation)
    claims = work.claims
    guest_address = _guest_address(work, vm, interface, uid)
    if guest_address is None:
        return None
    tap = claims.draw("tap", identity.tap_names(uid), owner=uid, resource=address)
    mac = claims.draw("mac", identity.mac_addresses(uid), owner=uid, resource=address)
    return Port(
        tap=tap,
        alias=link_alias(owner_name, uid),
        vm=address,
        mac=mac,
        zone=work.zones[network],
        addresses=(guest_address,),
        link_local=str(identity.link_local_of(mac)),
        uid=uid,
    )


def _new_interface_uid(work: _Work, vm: ResourceAddress, network: str, incarnation: int) -> str:
    """From the name the VM was born under: only with that is its incarnation its own. Numbered
    where an interface of this VM has it already, whose network was renamed since.
    """
    managed = work.ledger.managed.get(vm)
    born = vm if managed is None else ResourceAddress(managed.origin or vm)
    recorded = () if managed is None else managed.spec.get("interfaces", ())
    used = {entry.get("uid") for entry in recorded}
    owner = interface_owner(born, network)
    names = (owner if number == 1 else f"{owner}.{number}" for number in itertools.count(1))
    secret = work.ledger.secret
    uids = (identity.derive_uid(secret, owner=n, incarnation=incarnation) for n in names)
    return next(uid for uid in uids if uid not in used)


def _guest_address(work: _Work, vm: Vm, interface: Interface, uid: str) -> str | None:
    """The interface's address: declared, held already and still inside, or drawn."""
    prefix = work.prefixes[network_address(vm.metadata.tenant, interface.network)]
    index = vm.spec.interfaces.index(interface)
    path = ("spec", "interfaces", index, "address")
    claims = work.claims
    if interface.address != "auto":
        if interface.address not in prefix:
            message = f"{interface.address} is not inside the network's prefix {prefix}"
            work.findings.append(Finding(vm.address, path, message, f"choose one in {prefix}"))
            return None
        declared = str(interface.address)
        return claims.take("address", declared, owner=uid, resource=vm.address)
    for held in claims.held(uid, "address"):
        if IPv6Address(held) in prefix and held not in work.static_addresses:
            return claims.keep("address", held)
    free = (
        str(candidate)
        for candidate in identity.addresses_within(uid, prefix)
        if str(candidate) not in work.static_addresses
        and ("address", str(candidate)) not in work.ledger.taken
        and claims.holder("address", str(candidate)) is None
    )
    chosen = next(free, None)
    if chosen is None:
        raise PoolExhaustedError(str(prefix))
    return claims.take("address", chosen, owner=uid, resource=vm.address)
