"""What is wrong with a fleet as a whole: references, prefixes, addresses, quotas.

Pure; positions are added by ``source``. Works on what the specs say alone, so that
`metald validate` finds it offline; what depends on the host is found by ``resolve``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address, IPv6Network

from reconciler.model.addresses import (
    ResourceAddress,
    network_address,
    price_plan_address,
    tenant_address,
    tenant_of,
)
from reconciler.model.fleet import Fleet
from reconciler.model.identity import RESERVED_INTERFACE_IDS
from reconciler.model.quantities import format_size
from reconciler.model.specs import Quota, Vm
from reconciler.model.survey import Placed, Used
from reconciler.planning.bridge_checks import check_bridges
from reconciler.planning.findings import Finding, PathPart, unknown
from reconciler.planning.hypervisor_checks import check_hypervisor
from reconciler.planning.outside_checks import check_outside
from reconciler.planning.resolution.renames import check_renames, may_be_renamed
from reconciler.planning.rule_checks import check_rules
from reconciler.planning.security_checks import check_security

_DOCUMENTATION = IPv6Network("2001:db8::/32")
_REFUSED = {
    "link-local": IPv6Network("fe80::/10"),
    "multicast": IPv6Network("ff00::/8"),
    "loopback": IPv6Network("::1/128"),
    "IPv4-mapped": IPv6Network("::ffff:0:0/96"),
    "unspecified": IPv6Network("::/128"),
}
_AUTO_LENGTH = 48  # of the prefix that `auto` gives a tenant
_TENANT_LENGTHS = (48, 56)
_NETWORK_LENGTH = 64


def check(fleet: Fleet, alone: Iterable[Finding] | None = None) -> tuple[Finding, ...]:
    """Everything wrong with the fleet, in a stable order.

    ``alone``: as ``check_alone`` of all VMs, where the caller has it.
    """
    if alone is None:
        alone = check_alone(fleet.vms.items())
    vms = fleet.survey
    found = [
        *_references(fleet),
        *alone,
        *_dangling(fleet),
        *_price_plans(fleet),
        *_prefixes(fleet, vms.delegated),
        *_overlaps(fleet, vms.delegated),
        *_static_addresses(fleet, vms.static),
        *_quotas(fleet, vms.used),
        *_hosts(fleet),
        *check_renames(fleet, may_be_renamed(fleet)),
        *check_rules(fleet),
        *check_outside(fleet),
        *check_bridges(fleet),
        *check_security(fleet, vms.secured),
    ]
    return tuple(sorted(found, key=lambda entry: (entry.resource, str(entry.path))))


def check_alone(vms: Iterable[tuple[ResourceAddress, Vm]]) -> Iterator[Finding]:
    """What is wrong with each VM, whatever else is declared."""
    for address, vm in vms:
        yield from check_hypervisor(address, vm.spec)


def _dangling(fleet: Fleet) -> Iterator[Finding]:
    """VMs of tenants that are not declared, and interfaces in networks that are not."""
    survey = fleet.survey
    tenants = {tenant.metadata.name for tenant in fleet.tenants.values()}
    networks = {(n.metadata.tenant, n.metadata.name) for n in fleet.networks.values()}
    if survey.used.keys() <= tenants and survey.networks.keys() <= networks:
        return
    for address, vm in fleet.vms.items():
        tenant = vm.metadata.tenant
        if tenant not in tenants:
            yield _no_tenant(fleet, address, tenant)
        for index, interface in enumerate(vm.spec.interfaces):
            if (tenant, interface.network) not in networks:
                path = ("spec", "interfaces", index, "network")
                own = [a for a in fleet.networks if tenant_of(a) == tenant]
                target = network_address(tenant, interface.network)
                yield unknown(address, path, target, own)


def _references(fleet: Fleet) -> Iterator[Finding]:
    for address, network in fleet.networks.items():
        if tenant_address(network.metadata.tenant) not in fleet.tenants:
            yield _no_tenant(fleet, address, network.metadata.tenant)


def _no_tenant(fleet: Fleet, resource: ResourceAddress, tenant: str) -> Finding:
    known = list(fleet.tenants)
    return unknown(resource, ("metadata", "tenant"), tenant_address(tenant), known)


def _price_plans(fleet: Fleet) -> Iterator[Finding]:
    for tenant in fleet.tenants.values():
        if tenant.spec.price_plan is not None:
            plan = price_plan_address(tenant.spec.price_plan)
            if plan not in fleet.price_plans:
                path = ("spec", "pricePlan")
                yield unknown(tenant.address, path, plan, list(fleet.price_plans))


def _prefixes(fleet: Fleet, delegated: Iterable[Placed]) -> Iterator[Finding]:
    for tenant in fleet.tenants.values():
        prefix = tenant.spec.prefix
        if isinstance(prefix, IPv6Network):
            yield from _usable(tenant.address, prefix)
            if not _TENANT_LENGTHS[0] <= prefix.prefixlen <= _TENANT_LENGTHS[1]:
                message = f"{prefix} is not a /48 to /56"
                yield Finding(tenant.address, ("spec", "prefix"), message)
    for network in fleet.networks.values():
        if isinstance(network.spec.prefix, IPv6Network):
            whose = (network.address, network.metadata.tenant)
            yield from _subnet(fleet, whose, network.spec.prefix)
    for vm, tenant_name, index, interface in delegated:
        if isinstance(interface.prefix, IPv6Network):
            yield from _subnet(fleet, (vm, tenant_name), interface.prefix, _prefix_path(index))
    for host in fleet.hosts.values():
        if host.spec.prefix_pool is not None:
            yield from _pool(host.address, host.spec.prefix_pool)


def _pool(host: ResourceAddress, pool: IPv6Network) -> Iterator[Finding]:
    path = ("spec", "prefixPool")
    yield from _usable(host, pool, path)
    if pool.prefixlen > _AUTO_LENGTH:
        message = f"{pool} has no room for a tenant's /{_AUTO_LENGTH}"
        yield Finding(host, path, message, f"give it a /{_AUTO_LENGTH} or wider")


def _subnet(
    fleet: Fleet, whose: tuple[ResourceAddress, str], prefix: IPv6Network,
    path: tuple[PathPart, ...] = ("spec", "prefix"),
) -> Iterator[Finding]:  # fmt: skip
    """A /64 that a network, or what runs inside a VM, has of its tenant's prefix."""
    resource, tenant = whose
    if prefix.prefixlen != _NETWORK_LENGTH:
        yield Finding(resource, path, f"{prefix} is not a /64")
    owner = fleet.tenants.get(tenant_address(tenant))
    if owner is None:
        return
    within = owner.spec.prefix
    if within == "auto":
        hint = f"give {owner.address} a prefix, or let this one be auto"
        yield Finding(resource, path, "the tenant's own prefix is auto", hint)
    elif not prefix.subnet_of(within):
        message = f"{prefix} is not inside the tenant's prefix {within}"
        yield Finding(resource, path, message, f"choose a /64 in {within}")


def _prefix_path(index: int) -> tuple[PathPart, ...]:
    return ("spec", "interfaces", index, "prefix")


def _usable(
    resource: ResourceAddress, prefix: IPv6Network, path: tuple[PathPart, ...] = ("spec", "prefix")
) -> Iterator[Finding]:
    refused = _refused(prefix)
    if refused:
        yield Finding(resource, path, f"{prefix} is {refused}")
    elif prefix.overlaps(_DOCUMENTATION):
        message = f"{prefix} is documentation space, never routed (RFC 3849)"
        yield Finding(resource, path, message, severity="warning")


def _refused(prefix: IPv6Network) -> str:
    """What address space that no guest can use (RFC 4291, 2.4) a prefix reaches into, or ""."""
    for name, space in _REFUSED.items():
        if prefix.overlaps(space):
            return f"{name} address space"
    return ""


_Prefixed = tuple[IPv6Network, ResourceAddress, tuple[PathPart, ...]]


def _overlaps(fleet: Fleet, delegated: Iterable[Placed]) -> Iterator[Finding]:
    """Sorted by address, prefixes overlap only with the widest one still open before them."""
    for documents, others in ((fleet.tenants.values(), ()), (fleet.networks.values(), delegated)):
        rows: list[_Prefixed] = [
            (document.spec.prefix, document.address, ("spec", "prefix"))
            for document in documents
            if isinstance(document.spec.prefix, IPv6Network)
        ]
        rows += [
            (interface.prefix, vm, _prefix_path(index))
            for vm, _, index, interface in others
            if isinstance(interface.prefix, IPv6Network)
        ]
        rows.sort(key=lambda row: (int(row[0].network_address), row[0].prefixlen, *map(str, row)))
        last: _Prefixed | None = None
        for prefix, address, path in rows:
            if last is not None and prefix.overlaps(last[0]):
                message = f"{prefix} overlaps {last[0]} of {last[1]}"
                yield Finding(address, path, message, "choose another prefix")
            else:
                last = (prefix, address, path)


def _static_addresses(fleet: Fleet, static: Iterable[Placed]) -> Iterator[Finding]:
    owners: dict[IPv6Address, ResourceAddress] = {}
    for vm, tenant, index, interface in static:
        address = interface.address
        if address == "auto":
            continue
        path = ("spec", "interfaces", index, "address")
        refused = _refused(IPv6Network(address))
        if refused:
            yield Finding(vm, path, f"{address} is {refused}", "choose another, or auto")
        network = fleet.networks.get(network_address(tenant, interface.network))
        prefix = network.spec.prefix if network else "auto"
        if isinstance(prefix, IPv6Network) and address not in prefix:
            message = f"{address} is not inside the network's prefix {prefix}"
            yield Finding(vm, path, message, f"choose one in {prefix}")
        if int(address) % 2**64 in RESERVED_INTERFACE_IDS:
            message = f"{address} is reserved in every network"
            yield Finding(vm, path, message, "choose another interface identifier")
        if address in owners:
            message = f"{address} belongs to {owners[address]} already"
            yield Finding(vm, path, message, "choose another, or auto")
        owners.setdefault(address, vm)


def _quotas(fleet: Fleet, used_by: Mapping[str, Used]) -> Iterator[Finding]:
    networks = Counter(network.metadata.tenant for network in fleet.networks.values())
    for tenant in fleet.tenants.values():
        name = tenant.metadata.name
        used = used_by.get(name, Used())
        totals = {
            "vms": used.vms,
            "vcpus": used.vcpus,
            "memory": used.memory,
            "networks": networks[name],
        }
        yield from _exceeded(tenant.address, tenant.spec.quota, totals)


def _exceeded(address: ResourceAddress, quota: Quota, used: dict[str, int]) -> Iterator[Finding]:
    for key, value in used.items():
        limit = getattr(quota, key)
        if limit is not None and value > limit:
            shown = (format_size(value), format_size(limit)) if key == "memory" else (value, limit)
            message = f"{shown[0]} declared in total, the quota is {shown[1]}"
            yield Finding(address, ("spec", "quota", key), message, "raise it, or declare less")


def _hosts(fleet: Fleet) -> Iterator[Finding]:
    for address in list(fleet.hosts)[1:]:
        first = next(iter(fleet.hosts))
        yield Finding(address, ("kind",), f"a second Host; {first} is declared already",
                      "one fleet is one host's")  # fmt: skip
