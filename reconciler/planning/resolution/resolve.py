"""From what was declared to what the host shall hold: identities, addresses, images.

Reads the fleet, the ledger and the image facts; fills every default; claims what is not
yet allocated. The result is complete: comparing it with the world needs nothing else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from ipaddress import IPv6Network
from types import MappingProxyType
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import (
    ResourceAddress,
    host_address,
    security_profile_address,
    tenant_address,
)
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Allocation, Ledger
from reconciler.model.observed import ImageFacts
from reconciler.model.plan import Registration
from reconciler.model.resolved import ResolvedFleet, ResolvedRecord
from reconciler.model.specs import (
    AnyDocument,
    Host,
    Image,
    Network,
    PricePlan,
    Tenant,
    dump_spec,
)
from reconciler.planning.findings import Finding
from reconciler.planning.memo import Memo
from reconciler.planning.outside_checks import not_outside, uplink_of
from reconciler.planning.resolution.claims import Claims
from reconciler.planning.resolution.control_values import leaves, nested
from reconciler.planning.resolution.prefixes import (
    NETWORK_PREFIX_LENGTH,
    TENANT_PREFIX_LENGTH,
    declared_pool,
    prefix_of,
)
from reconciler.planning.resolution.renames import RENAMED_FROM, all_documents, renamed, renames_of
from reconciler.planning.resolution.security import (
    Secured,
    declared_profiles,
    default_ingress,
    network_policy,
)
from reconciler.planning.resolution.segments import Key, keys_in_use, recorded_segment, selected
from reconciler.planning.resolution.vms import resolve_vms
from reconciler.planning.resolution.work import Work, recorded_metadata, undeclared

NOTHING: Mapping[str, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True)
class Resolution:
    """The desired state, what must be recorded for it, and what keeps it from being planned.

    ``releases``: allocations of resources that stay, but no longer use them. ``renames``: new
    address to the one in the ledger (``renames``). ``unresolved``: what could not be, with why;
    it is no part of ``fleet``, and none of what is to go either.
    """

    fleet: ResolvedFleet
    registrations: tuple[Registration, ...]
    allocations: tuple[Allocation, ...]
    releases: tuple[Allocation, ...]
    findings: tuple[Finding, ...]
    renames: Mapping[ResourceAddress, ResourceAddress] = field(default_factory=dict)
    unresolved: Mapping[ResourceAddress, str] = field(default_factory=dict)

    @property
    def is_usable(self) -> bool:
        """All that is wrong concerns resources that were left out; a wrong rename concerns what it
        names as well, which would count as gone.
        """
        return all(
            finding.resource in self.unresolved and finding.path != RENAMED_FROM
            for finding in self.findings
        )


def resolve(
    fleet: Fleet, ledger: Ledger, images: Mapping[str, ImageFacts], memo: Memo | None = None,
    *, lacking: Mapping[str, str] = NOTHING,
) -> Resolution:  # fmt: skip
    """Resolve a checked fleet against the ledger. Pure and deterministic, whatever the memo.

    ``lacking``: what of ``model.features`` this host cannot do, with why.
    """
    memo = Memo(keeps=False) if memo is None else memo
    renames, findings = renames_of(fleet, ledger)
    ledger = renamed(ledger, renames)
    claims = Claims(ledger, partial(memo.by_resource, ledger))
    work = Work(fleet, ledger, images, claims, renames, declared_profiles(fleet), lacking)
    work.findings.extend(findings)
    work.selected = selected(fleet)
    work.nat64 = _nat64(fleet)
    work.bridged = frozenset(a for a, n in fleet.networks.items() if n.spec.mode == "bridged")
    work.keys = keys_in_use(fleet, work.selected)
    _reserve_statics(work)
    others: list[Host | Image | PricePlan] = [
        *fleet.hosts.values(),
        *fleet.images.values(),
        *fleet.price_plans.values(),
    ]
    for document in others:
        _record(work, document, dump_spec(document))
    for profile in fleet.security_profiles.values():
        _record(work, profile, profile.spec.given())
    for tenant in fleet.tenants.values():
        _tenant(work, tenant)
    for network in fleet.networks.values():
        _network(work, network)
    fresh = resolve_vms(work, memo)
    stay = (*work.records, *(vm for vm in fresh if vm in work.vms))
    releases = [
        entry
        for address in (() if claims.uses_all else stay)
        if address in ledger.managed
        for entry in claims.unused(address)
    ]
    return Resolution(
        ResolvedFleet(work.records, work.vms, fleet.frozen_tenants),
        tuple(work.registrations),
        tuple(claims.new),
        tuple(sorted(releases)),
        tuple(work.findings),
        renames,
        _unresolved(work),
    )


def _unresolved(work: Work) -> Mapping[ResourceAddress, str]:
    """By address, in its own words or in those of what it depends on."""
    why = {entry.resource: f"{entry.message}: {entry.hint}" for entry in work.findings}
    found = {}
    for document in all_documents(work.fleet) if why else ():
        address = document.address
        if address not in work.records and address not in work.vms:
            found[address] = why.get(address, "its tenant or network cannot be resolved")
    return found


def _record(work: Work, document: AnyDocument, spec: Mapping[str, Any]) -> None:
    address = document.address
    identified = work.identity(address)
    full = {**spec, **recorded_metadata(document)}
    spec_hash = work.register(address, identified, full)
    work.records[address] = ResolvedRecord(address, *identified, full, spec_hash)


def _reserve_statics(work: Work) -> None:
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
    survey = work.fleet.survey
    work.static_addresses.update(str(interface.address) for *_, interface in survey.static)
    work.static.extend(
        interface.prefix
        for *_, interface in survey.delegated
        if isinstance(interface.prefix, IPv6Network)
    )


def _tenant(work: Work, tenant: Tenant) -> None:
    address = tenant.address
    uid, _ = work.identity(address)
    pool = declared_pool(work) or identity.default_pool(work.ledger.secret)
    prefix = prefix_of(work, (address, uid), tenant.spec.prefix, (pool, TENANT_PREFIX_LENGTH))
    if prefix is None:
        return
    work.prefixes[address] = prefix
    _record(work, tenant, {**dump_spec(tenant), "prefix": str(prefix)})


def _network(work: Work, network: Network) -> None:
    address = network.address
    tenant = tenant_address(network.metadata.tenant)
    within = work.prefixes.get(tenant)
    if within is None:
        undeclared(work, (address, tenant, ("metadata", "tenant")), work.fleet.tenants)
        return
    secured = _secured(work, network)
    inside = _rules_inside(work, network)
    work.findings.extend(inside)
    if secured is None or inside:
        return
    uid, _ = work.identity(address)
    prefix = prefix_of(work, (address, uid), network.spec.prefix, (within, NETWORK_PREFIX_LENGTH))
    if prefix is None:
        return
    work.security[address] = secured
    if resolvers := _resolvers(work, network):
        work.resolvers[address] = resolvers
    work.prefixes[address] = prefix
    zone = work.claims.draw("zone", identity.zones(uid), owner=uid, resource=address)
    work.zones[address] = int(zone)
    work.segments[address] = _segments(work, address, uid)
    spec = _network_spec(network, secured, (prefix, int(zone)))
    told = [recorded_segment(number, key) for key, number in work.segments[address].items()]
    _record(work, network, {**spec, "segments": told} if told else spec)


def _resolvers(work: Work, network: Network) -> tuple[str, ...]:
    """The network's own, where it names any or none at all, else the uplink's."""
    if network.spec.dns is not None:
        return tuple(map(str, network.spec.dns))
    uplink = uplink_of(work.fleet)
    return () if uplink is None or uplink.resolver is None else (str(uplink.resolver),)


def _nat64(fleet: Fleet) -> str:
    """The prefix of the uplink's NAT64, empty when it names none."""
    uplink = uplink_of(fleet)
    return "" if uplink is None or uplink.nat64 is None else str(uplink.nat64)


def _segments(work: Work, network: ResourceAddress, uid: str) -> dict[Key, int]:
    """The numbers of a network's segments, each kept as long as somebody is in it."""
    found = {}
    for key in sorted(work.keys.get(network, ())):
        owner = identity.segment_uid(work.ledger.secret, uid, key)
        number = work.claims.draw("zone", identity.zones(owner), owner=owner, resource=network)
        found[key] = int(number)
    return found


def _rules_inside(work: Work, network: Network) -> list[Finding]:
    """Rules about what is, as was drawn, not outside."""
    if not any(":" in peer for _, peer in network.spec.peers()):
        return []
    return list(not_outside(network, _drawn(work)))


def _drawn(work: Work) -> dict[ResourceAddress, IPv6Network]:
    """What tenants and this host have by ``auto``."""
    tenants = work.fleet.tenants.values()
    drawn = {t.address: work.prefixes.get(t.address) for t in tenants if t.spec.prefix == "auto"}
    if declared_pool(work) is None:
        drawn[host_address("local")] = identity.default_pool(work.ledger.secret)
    return {address: prefix for address, prefix in drawn.items() if prefix is not None}


def _secured(work: Work, network: Network) -> Secured | None:
    """What the network's interfaces are held to; None when its SecurityProfile is missing."""
    address, spec = network.address, network.spec
    own = {} if spec.policy is None else {"policy": spec.policy.given()}
    declared = {"security": spec.security, **own}
    layered = network_policy(address, declared, work.profiles)
    if layered is None:
        named = security_profile_address(spec.security)
        undeclared(work, (address, named, ("spec", "security")), work.fleet.security_profiles)
        return None
    return Secured.of(layered)


def _network_spec(
    network: Network, secured: Secured, given: tuple[IPv6Network, int]
) -> dict[str, Any]:
    """The spec as recorded: what was drawn, and what a default that depends on others says."""
    prefix, zone = given
    spec = {**dump_spec(network), "prefix": str(prefix), "zone": zone}
    if spec["ingress"] is None:
        spec["ingress"] = default_ingress(secured.layered.base, network.address)
    policy = spec.pop("policy")
    if policy is not None:
        spec["policy"] = nested(dict(leaves(policy)))
    return spec
