"""What is wrong with rules about the outside: no way there, no way back, or not outside at all.

Pure. Called by ``checks``; works on what the specs say alone.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv6Network

from reconciler.model.addresses import tenant_address
from reconciler.model.fleet import Fleet
from reconciler.model.policy import INTERNET, is_outside
from reconciler.model.specs import Network
from reconciler.model.uplink import Uplink
from reconciler.planning.findings import Finding, PathPart
from reconciler.planning.reachability.outside import prefix_of

_PRIVATE = IPv6Network("fc00::/7")  # RFC 4193: unique local addresses


def check_outside(fleet: Fleet) -> Iterator[Finding]:
    """Every defect of every rule that names something outside."""
    uplink = next((host.spec.uplink for host in fleet.hosts.values() if host.spec.uplink), None)
    for network in fleet.networks.values():
        for path, end in _ends(network):
            yield from _defects(fleet, network, uplink, (path, end))


def _ends(network: Network) -> Iterator[tuple[tuple[PathPart, ...], str]]:
    if network.spec.egress == INTERNET:
        yield ("spec", "egress"), INTERNET
    for path, peer in network.spec.peers():
        if is_outside(peer):
            yield path, peer


def _defects(
    fleet: Fleet, network: Network, uplink: Uplink | None, rule: tuple[tuple[PathPart, ...], str]
) -> Iterator[Finding]:
    path, end = rule
    prefix = prefix_of(end)
    if uplink is None:
        hint = "declare it: kind: Host, spec: {uplink: {interface: eth0}}"
        yield Finding(network.address, path, f"{end} needs an uplink of the host", hint)
        return
    if end != INTERNET:
        for tenant in fleet.tenants.values():
            own = tenant.spec.prefix
            if isinstance(own, IPv6Network) and own.overlaps(prefix):
                message = f"{end} overlaps {own} of {tenant.address}, which is not outside"
                hint = "name the network or the tenant instead"
                yield Finding(network.address, path, message, hint)
    mine = _prefix(fleet, network)
    private = mine is None or mine.subnet_of(_PRIVATE)
    if private and uplink.translate == "none" and not prefix.subnet_of(_PRIVATE):
        message = f"{end} is not reached from a private prefix ({mine or 'auto'}) as it is"
        hint = "give the uplink translate: masquerade, or the tenant a public prefix"
        yield Finding(network.address, path, message, hint)


def _prefix(fleet: Fleet, network: Network) -> IPv6Network | None:
    """Where its addresses lie as far as it is declared; None: in a pool of this host's own."""
    tenant = fleet.tenants.get(tenant_address(network.metadata.tenant))
    pools = (host.spec.prefix_pool for host in fleet.hosts.values())
    declared = [network.spec.prefix, tenant.spec.prefix if tenant else "auto", next(pools, None)]
    return next((entry for entry in declared if isinstance(entry, IPv6Network)), None)
