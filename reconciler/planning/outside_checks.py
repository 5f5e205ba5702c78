"""What is wrong with rules about the outside: no way there, no way back, or not outside at all.

Pure. Called by ``checks`` with what specs say alone, by ``resolve`` for prefixes that are drawn.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from ipaddress import IPv6Network

from reconciler.model.addresses import ResourceAddress, tenant_address
from reconciler.model.fleet import Fleet
from reconciler.model.policy import GLOBAL_UNICAST, INTERNET, is_outside
from reconciler.model.specs import Host, Network
from reconciler.model.uplink import Uplink
from reconciler.planning.findings import Finding, PathPart

_PRIVATE = IPv6Network("fc00::/7")  # RFC 4193: unique local addresses
_NAMED = "name the network or the tenant instead"
Path = tuple[PathPart, ...]


def check_outside(fleet: Fleet) -> Iterator[Finding]:
    """Every defect of every rule that names something outside, and of the uplink."""
    uplink = uplink_of(fleet)
    owned = {
        tenant.address: tenant.spec.prefix
        for tenant in fleet.tenants.values()
        if isinstance(tenant.spec.prefix, IPv6Network)
    }
    owned |= {h.address: h.spec.prefix_pool for h in fleet.hosts.values() if h.spec.prefix_pool}
    for host in fleet.hosts.values():
        yield from _translation(fleet, host)
    for network in fleet.networks.values():
        for path, end in _ends(network):
            yield from _defects(fleet, network, uplink, (path, end))
        yield from not_outside(network, owned)


def _translation(fleet: Fleet, host: Host) -> Iterator[Finding]:
    """One prefix stands for another: of the same length, and every tenant's lies in it."""
    uplink, pool = host.spec.uplink, host.spec.prefix_pool
    outside = None if uplink is None else uplink.prefix
    path: Path = ("spec", "uplink", "prefix")
    if outside is None:
        return
    if pool is None or pool.prefixlen != outside.prefixlen or pool.overlaps(outside):
        message = f"{outside} cannot stand for the host's pool ({pool or 'not declared'})"
        yield Finding(host.address, path, message, "declare a prefixPool of the same length")
        return
    for tenant in fleet.tenants.values():
        own = tenant.spec.prefix
        if isinstance(own, IPv6Network) and not own.subnet_of(pool):
            message = f"{own} of {tenant.address} is not in the pool {pool}: nothing stands for it"
            yield Finding(host.address, path, message, "choose prefixes in the pool")


def uplink_of(fleet: Fleet) -> Uplink | None:
    """The way out that a fleet's host has."""
    return next((host.spec.uplink for host in fleet.hosts.values() if host.spec.uplink), None)


def not_outside(
    network: Network, owned: Mapping[ResourceAddress, IPv6Network]
) -> Iterator[Finding]:
    """Rules of a network about a prefix that is one of ``owned``, by whom."""
    for rule in _ends(network):
        yield from _overlaps(network, rule, owned)


def _overlaps(
    network: Network, rule: tuple[Path, str], owned: Mapping[ResourceAddress, IPv6Network]
) -> Iterator[Finding]:
    """A prefix of a rule that is, in part or as a whole, one of this host's own."""
    path, end = rule
    if end == INTERNET:
        return
    for owner, own in owned.items():
        if own.overlaps(IPv6Network(end)):
            message = f"{end} overlaps {own} of {owner}, which is not outside"
            yield Finding(network.address, path, message, _NAMED)
            return


def _ends(network: Network) -> Iterator[tuple[Path, str]]:
    if network.spec.egress == INTERNET:
        yield ("spec", "egress"), INTERNET
    for path, peer in network.spec.peers():
        if is_outside(peer):
            yield path, peer


def _defects(
    fleet: Fleet, network: Network, uplink: Uplink | None, rule: tuple[Path, str]
) -> Iterator[Finding]:
    path, end = rule
    if uplink is None:
        hint = "declare it: kind: Host, spec: {uplink: {interface: eth0}}"
        yield Finding(network.address, path, f"{end} needs an uplink of the host", hint)
        return
    prefix = GLOBAL_UNICAST if end == INTERNET else IPv6Network(end)
    wrong = None if end == INTERNET else _no_peer(prefix, uplink)
    if wrong is not None:
        yield Finding(network.address, path, *wrong)
        return
    own = _prefix(fleet, network)
    private = own is None or own.subnet_of(_PRIVATE)
    if private and uplink.translate == "none" and not prefix.subnet_of(_PRIVATE):
        message = f"{end} is not reached from a private prefix ({own or 'auto'}) as it is"
        hint = "give the uplink translate: masquerade or prefix, or the tenant a public prefix"
        yield Finding(network.address, path, message, hint)


def _no_peer(prefix: IPv6Network, uplink: Uplink) -> tuple[str, str] | None:
    """Message and hint for what no rule can name."""
    parts = [part for part in (GLOBAL_UNICAST, uplink.nat64) if part is not None]
    if any(part.subnet_of(prefix) for part in parts):
        return f"{prefix} holds all that internet means", "write internet, or a smaller prefix"
    if any(prefix.subnet_of(part) for part in (*parts, _PRIVATE)):
        return None
    told = ", ".join(f"{part}" for part in (*parts, _PRIVATE))
    return f"{prefix} is no prefix that is routed: none of {told}", "choose one inside these"


def _prefix(fleet: Fleet, network: Network) -> IPv6Network | None:
    """Where its addresses lie as far as it is declared; None: in a pool of this host's own."""
    tenant = fleet.tenants.get(tenant_address(network.metadata.tenant))
    pools = (host.spec.prefix_pool for host in fleet.hosts.values())
    declared = [network.spec.prefix, tenant.spec.prefix if tenant else "auto", next(pools, None)]
    return next((entry for entry in declared if isinstance(entry, IPv6Network)), None)
