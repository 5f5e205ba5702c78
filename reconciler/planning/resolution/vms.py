"""VMs with nothing left open: their identity, ports and boot files. Called by ``resolve``.

What a memo knows from last time is taken from there; see ``planning.memo``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import (
    ResourceAddress,
    interface_owner,
    network_address,
    tenant_address,
)
from reconciler.model.features import BANDWIDTH, FEATURES
from reconciler.model.ip6 import is_within
from reconciler.model.ledger import Managed
from reconciler.model.observed import ImageFacts
from reconciler.model.quantities import format_bandwidth
from reconciler.model.resolved import (
    BootFiles,
    GuestInterface,
    LaunchSpec,
    Port,
    ResolvedVm,
    link_alias,
)
from reconciler.model.specs import Interface, Vm, dump_spec
from reconciler.planning.findings import Finding
from reconciler.planning.memo import Ground, Memo, Resolved
from reconciler.planning.resolution import bridging
from reconciler.planning.resolution.claims import PoolExhaustedError
from reconciler.planning.resolution.prefixes import subnet
from reconciler.planning.resolution.recorded import recorded_interface_uid
from reconciler.planning.resolution.work import Work, recorded_metadata, undeclared

_INTERFACES = frozenset({"interfaces"})


def resolve_vms(work: Work, memo: Memo) -> list[ResourceAddress]:
    """Resolve every VM, those the memo knows by looking them up; gives the others."""
    memo.stand_on(_ground(work))
    managed, known, vms = work.ledger.managed, memo.resolved, work.vms
    # Under a rename the ledger is read as it will be: not what the memo stands on.
    known = {} if work.renames else known
    fresh: list[ResourceAddress] = []
    candidates: list[Resolved] = []
    for address, vm in work.fleet.vms.items():
        before, entry = managed.get(address), known.get(address)
        if entry is not None and entry.document is vm and _same(entry.managed, before):
            vms[address] = entry.vm
            continue
        fresh.append(address)
        claimed = len(work.claims.new)
        found = _vm(work, address, vm)
        nothing_new = len(work.claims.new) == claimed
        if memo.keeps and found and before and before.spec_hash == found.spec_hash and nothing_new:
            candidates.append(Resolved(vm, before, found))
    if memo.keeps and not work.renames:
        memo.resolved = {a: entry for a, entry in known.items() if a in vms}
        for entry in candidates:
            # Whether something is left over shows when all others are resolved.
            if not work.claims.unused(entry.vm.address):
                memo.resolved[entry.vm.address] = entry
    return fresh


def _same(one: Managed, other: Managed | None) -> bool:
    return one is other or one == other


def _ground(work: Work) -> Ground:
    return Ground(
        work.ledger.secret, work.ledger.held, work.ledger.taken, work.images,
        work.prefixes, work.zones, (frozenset(work.static_addresses), tuple(work.static)),
        work.security, (work.selected, work.segments),
        (work.lacking, work.resolvers, work.nat64, work.bridged),
    )  # fmt: skip


def _vm(work: Work, address: ResourceAddress, vm: Vm) -> ResolvedVm | None:
    uid, incarnation = work.identity(address)
    tenant = tenant_address(vm.metadata.tenant)
    if tenant not in work.prefixes:
        undeclared(work, (address, tenant, ("metadata", "tenant")), work.fleet.tenants)
        return None
    boot: BootFiles | None = None
    if vm.spec.boot is not None:
        found = work.boot_files(vm.spec.boot)
        if isinstance(found, ImageFacts):
            path = ("spec", "boot", "image" if vm.spec.boot.image else "kernel")
            work.findings.append(Finding(address, path, found.problem, found.hint))
            return None
        boot = found
    ports = tuple(_ports(work, vm, address, incarnation))
    if len(ports) != len(vm.spec.interfaces):
        return None  # a finding already says which network has no prefix or address
    draw = work.claims.draw("unix-id", identity.unix_ids(uid), owner=uid, resource=address)
    launch = LaunchSpec(
        address, uid, int(draw), vm.spec.hypervisor, vm.spec.machine,
        vm.spec.vcpus, vm.spec.memory, boot,
        tuple(
            GuestInterface(
                interface.network, port.tap, port.mac, port.addresses, port.resolvers, port.bridged
            )
            for interface, port in zip(vm.spec.interfaces, ports, strict=True)
        ),
    )  # fmt: skip
    spec = _vm_spec(work, vm, launch, ports)
    spec_hash = work.register(address, (uid, incarnation), spec)
    resolved = ResolvedVm(
        address, uid, incarnation, launch, ports,
        vm.spec.power, vm.spec.restart, vm.spec.protect, spec, spec_hash,
    )  # fmt: skip
    work.vms[address] = resolved
    return resolved


def _vm_spec(work: Work, vm: Vm, launch: LaunchSpec, ports: tuple[Port, ...]) -> dict[str, Any]:
    """The spec as recorded and compared: defaults, digests and identities filled in."""
    spec = dump_spec(vm, without=_INTERFACES)
    spec.update(recorded_metadata(vm))
    spec["interfaces"] = [
        {
            "network": interface.network,
            "addresses": list(port.addresses),
            "mac": port.mac,
            "tap": port.tap,
            "zone": port.zone,
            "uid": port.uid,
            **({"prefix": port.delegated[0]} if port.delegated else {}),
            **({"segment": port.segment} if port.segment else {}),
            **({"dns": list(port.resolvers)} if port.resolvers else {}),
            **({"nat64": port.nat64} if port.nat64 else {}),
            **({"mode": "bridged"} if port.bridged else {}),
            **_security(work, vm, interface),
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
        # Where the image has words of its own, its document needs the VM's apart.
        if vm.spec.boot is not None and vm.spec.boot.cmdline != launch.boot.cmdline:
            spec["boot"]["extra"] = vm.spec.boot.cmdline
    return spec


def _security(work: Work, vm: Vm, interface: Interface) -> dict[str, Any]:
    """What an interface's record says of its policy: what it gives itself, and what holds."""
    network = network_address(vm.metadata.tenant, interface.network)
    _, recorded, own = work.security[network].interface(interface)
    found: dict[str, Any] = {"policy": own} if own else {}
    return found if recorded is None else {**found, "security": recorded}


def _ports(work: Work, vm: Vm, address: ResourceAddress, incarnation: int) -> list[Port]:
    found = (
        _port(work, vm, (address, index), incarnation) for index in range(len(vm.spec.interfaces))
    )
    return [port for port in found if port is not None]


def _port(work: Work, vm: Vm, where: tuple[ResourceAddress, int], incarnation: int) -> Port | None:
    """The port of the VM's interface at ``where``: the VM's address and the position."""
    address, index = where
    interface = vm.spec.interfaces[index]
    network = network_address(vm.metadata.tenant, interface.network)
    if network not in work.prefixes:
        path = ("spec", "interfaces", index, "network")
        undeclared(work, (address, network, path), work.fleet.networks)
        return None
    uid = recorded_interface_uid(work.ledger, address, network, work.zones)
    if uid is None:
        uid = work.fleet.interface_uids.get((address, interface.network))
    if uid is None:
        uid = _new_interface_uid(work, address, interface.network, incarnation)
    claims = work.claims
    guest_address = _guest_address(work, (network, interface), where, uid)
    delegated = subnet(work, where, interface, uid) if interface.prefix is not None else ()
    policy = work.security[network].interface(interface).policy
    if guest_address is None or delegated is None:
        return None
    if policy.bandwidth is not None and BANDWIDTH in work.lacking:
        work.findings.append(_not_limited(where, policy.bandwidth, work.lacking[BANDWIDTH]))
        return None
    bridged = network in work.bridged
    if bridged and (hindrance := bridging.hindrance(work.lacking, policy)) is not None:
        work.findings.append(bridging.finding(where, network, hindrance))
        return None
    if policy.slaac and not delegated:
        work.findings.append(_nothing_to_advertise(where, network))
        return None
    tap = claims.draw("tap", identity.tap_names(uid), owner=uid, resource=address)
    mac = claims.draw("mac", identity.mac_addresses(uid), owner=uid, resource=address)
    return Port(
        tap=tap,
        alias=link_alias(interface_owner(address, interface.network), uid),
        vm=address,
        mac=mac,
        zone=work.zones[network],
        addresses=(guest_address,),
        link_local=identity.link_local_of(mac),
        uid=uid,
        policy=policy,
        segment=work.segment_of(network, vm.metadata.labels),
        delegated=delegated,
        resolvers=work.resolvers_of(network),
        nat64=work.nat64 if policy.slaac else "",
        bridged=bridged,
    )


def _not_limited(where: tuple[ResourceAddress, int], bits: int, why: str) -> Finding:
    vm, index = where
    message = (
        f"its policy limits it to {format_bandwidth(bits)}, and this host can limit no bandwidth "
        f"({why})"
    )
    hint = (
        f"the kernel needs {FEATURES[BANDWIDTH].parts}; or lift the limit: "
        "policy: {rateLimits: {bandwidth: none}}"
    )
    return Finding(vm, ("spec", "interfaces", index), message, hint)


def _nothing_to_advertise(where: tuple[ResourceAddress, int], network: ResourceAddress) -> Finding:
    """Addresses that guests make themselves must be in a prefix of their own (RFC 8273)."""
    vm, index = where
    message = f"slaac holds for it in {network}, and there is no prefix to advertise to it"
    hint = "give it one of its own, prefix: auto/64, or leave slaac out"
    return Finding(vm, ("spec", "interfaces", index, "prefix"), message, hint)


def _new_interface_uid(work: Work, vm: ResourceAddress, network: str, incarnation: int) -> str:
    """From the name the VM was born under: only with that is its incarnation its own. Numbered
    where an interface of this VM has it already, whose network was renamed since.
    """
    managed = work.ledger.managed.get(vm)
    born = vm if managed is None else ResourceAddress(managed.origin or vm)
    recorded: tuple[Mapping[str, Any], ...] = ()
    if managed is not None:
        recorded = tuple(managed.spec.get("interfaces", ()))
    used = {entry.get("uid") for entry in recorded}
    owner = interface_owner(born, network)
    name, number = owner, 1
    while True:
        uid = identity.derive_uid(work.ledger.secret, owner=name, incarnation=incarnation)
        if uid not in used:
            return uid
        number += 1
        name = f"{owner}.{number}"


def _guest_address(
    work: Work,
    attached: tuple[ResourceAddress, Interface],
    where: tuple[ResourceAddress, int],
    uid: str,
) -> str | None:
    """The interface's address: declared, held already and still inside, or drawn."""
    network, interface = attached
    resource, index = where
    prefix, claims = work.prefixes[network], work.claims
    if interface.address != "auto":
        if interface.address not in prefix:
            path = ("spec", "interfaces", index, "address")
            message = f"{interface.address} is not inside the network's prefix {prefix}"
            work.findings.append(Finding(resource, path, message, f"choose one in {prefix}"))
            return None
        declared = str(interface.address)
        return claims.take("address", declared, owner=uid, resource=resource)
    for held in claims.held(uid, "address"):
        if held not in work.static_addresses and is_within(held, prefix):
            return claims.keep("address", held, owner=uid)
    free = (
        candidate
        for candidate in identity.addresses_within(uid, prefix)
        if candidate not in work.static_addresses
        and claims.is_free("address", candidate, owner=uid)
    )
    chosen = next(free, None)
    if chosen is None:
        raise PoolExhaustedError(str(prefix))
    return claims.take("address", chosen, owner=uid, resource=resource)
