"""Which prefix a tenant, a network or what runs inside a VM has: declared, kept, or drawn.

What is declared goes before what is drawn: an `auto` resource moves out of the way. Called by
``planning.resolution.resolve`` and ``vms``.
"""

from __future__ import annotations

from ipaddress import IPv6Network

from reconciler.model import identity
from reconciler.model.addresses import ResourceAddress, tenant_address, tenant_of
from reconciler.model.specs import Interface
from reconciler.planning.findings import Finding, PathPart
from reconciler.planning.resolution.work import Work

TENANT_PREFIX_LENGTH = 48
NETWORK_PREFIX_LENGTH = 64


def declared_pool(work: Work) -> IPv6Network | None:
    """Where `auto` prefixes of tenants come from, where a Host says so."""
    pools = (host.spec.prefix_pool for host in work.fleet.hosts.values())
    return next((pool for pool in pools if pool is not None), None)


def prefix_of(
    work: Work,
    owner: tuple[ResourceAddress, str],
    declared: IPv6Network | str,
    pool: tuple[IPv6Network, int],
    path: tuple[PathPart, ...] = ("spec", "prefix"),
) -> IPv6Network | None:
    """The prefix of ``owner`` (a resource, and whose uid it goes by): declared, held already, or
    drawn from ``pool`` (where, and how long); None, with a finding, when that has no room.
    """
    address, uid = owner
    claims = work.claims
    if isinstance(declared, IPv6Network):
        claims.take("prefix", str(declared), owner=uid, resource=address)
        return declared
    within, length = pool
    for held in claims.held(uid, "prefix"):
        kept = IPv6Network(held)
        if _fits(work, kept, pool) and not _is_static(work, kept):
            return IPv6Network(claims.keep("prefix", held, owner=uid))
    free = (
        str(candidate)
        for candidate in identity.subnets_within(uid, within, length)
        if not _is_static(work, candidate) and claims.is_free("prefix", str(candidate), owner=uid)
    )  # fmt: skip
    first = next(free, None)
    if first is None:
        count = 2 ** (length - within.prefixlen)
        message = f"the pool {within} has no free /{length}: all {count} are taken"
        hint = "widen the pool, or wait for the quarantine of released prefixes to end"
        work.findings.append(Finding(address, path, message, hint))
        return None
    return IPv6Network(claims.take("prefix", first, owner=uid, resource=address))


def _fits(work: Work, kept: IPv6Network, pool: tuple[IPv6Network, int]) -> bool:
    # The default pool follows from the host's secret; an adopted tenant's came from another.
    if pool[1] == TENANT_PREFIX_LENGTH and declared_pool(work) is None:
        return kept.prefixlen >= TENANT_PREFIX_LENGTH
    return kept.subnet_of(pool[0]) and kept.prefixlen == pool[1]


def _is_static(work: Work, candidate: IPv6Network) -> bool:
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


def subnet(
    work: Work, where: tuple[ResourceAddress, int], interface: Interface, uid: str
) -> tuple[str, ...] | None:
    """The /64 delegated to the interface at ``where`` (VM and position); None, with a finding,
    when there is none for it.
    """
    vm, index = where
    within = work.prefixes[tenant_address(tenant_of(vm))]
    declared = interface.prefix if isinstance(interface.prefix, IPv6Network) else "auto"
    path = ("spec", "interfaces", index, "prefix")
    if isinstance(declared, IPv6Network) and not declared.subnet_of(within):
        message = f"{declared} is not inside the tenant's prefix {within}"
        work.findings.append(Finding(vm, path, message, f"choose a /64 in {within}"))
        return None
    found = prefix_of(work, (vm, uid), declared, (within, NETWORK_PREFIX_LENGTH), path)
    return None if found is None else (str(found),)
