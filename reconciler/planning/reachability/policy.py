"""What the rules of all networks together allow: the one answer that the kernel's entries, the
reachability matrix and its changes are made from.

Pure. Works on recorded specs (what `Managed.spec` and `Registration.spec` hold). Traffic from
one network to another is allowed where the ingress rules of the one and the egress of the
other agree; inside a network all is open, unless its security policy says otherwise.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of, tenant_of
from reconciler.model.policy import INTERNET, is_outside
from reconciler.planning.reachability.outside import internet_of, outside_ways
from reconciler.planning.reachability.ranges import (
    EVERYTHING,
    PROTOCOLS,
    WHOLE,
    Ranges,
    Span,
    intersection,
    merged,
    ranges_of,
)
from reconciler.planning.resolution.control_values import INTRA_NETWORK
from reconciler.planning.resolution.security import network_policy

Specs = Mapping[ResourceAddress, Mapping[str, Any]]


@dataclass(frozen=True, slots=True, order=True)
class Allowed:
    """``source`` may open traffic to ``target``: ``protocol`` (any, tcp, udp, icmpv6) and
    destination ports ``low`` to ``high``.
    """

    source: ResourceAddress
    target: ResourceAddress
    protocol: str
    low: int
    high: int

    @property
    def ports(self) -> str:
        """``443``, ``8000-8010``, empty for all."""
        if (self.low, self.high) == WHOLE:
            return ""
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def allowed_between(
    specs: Specs, touching: AbstractSet[ResourceAddress] | None = None
) -> tuple[Allowed, ...]:
    """Everything allowed between different networks and with the outside, merged and in order;
    ``touching``: only where one of the two ends is among these.
    """
    by_tenant, internet = _by_tenant(specs), internet_of(specs)
    found: list[Allowed] = []
    for target in (address for tenant in by_tenant.values() for address in tenant):
        let_in = _let_in(specs[target], by_tenant, specs)
        sources = let_in.keys() - {target}
        if touching is not None and target not in touching:
            sources &= touching
        for source in sorted(sources):
            ranges = intersection(let_in[source], _let_out(specs[source], source, target))
            found.extend(as_allowed(source, target, ranges))
        if touching is None or target in touching:
            for way, ranges in outside_ways(target, specs[target], internet):
                found.extend(as_allowed(*way, ranges))
    return tuple(sorted(found))


def open_inside(specs: Specs) -> frozenset[ResourceAddress]:
    """Networks whose members reach each other (``isolation.intraNetwork``)."""
    found = set()
    for address, spec in specs.items():
        if kind_of(address) == "network":
            policy = network_policy(address, spec, specs)
            if policy is not None and policy.values[INTRA_NETWORK] == "allow":
                found.add(address)
    return frozenset(found)


@dataclass(frozen=True, slots=True)
class IdleRule:
    """A rule that lets nothing through, as no peer agrees: the ``index``-th of its ``side``
    (ingress or egress) of ``network``; ``peer`` is one whose other side says no.
    """

    network: ResourceAddress
    side: str
    index: int
    peer: ResourceAddress


def idle_rules(specs: Specs) -> Iterator[IdleRule]:
    """Rules that wait for the other side; one of a tenant with no other network is not told."""
    by_tenant = _by_tenant(specs)
    for network in (address for tenant in by_tenant.values() for address in tenant):
        egress = specs[network].get("egress", "tenant")
        sides = {"ingress": specs[network].get("ingress") or ()}
        sides |= {} if isinstance(egress, str) else {"egress": egress}
        for side, index, rule in ((s, i, r) for s in sides for i, r in enumerate(sides[s])):
            named = rule["from" if side == "ingress" else "to"]
            peers = [peer for peer in _networks_of(named, by_tenant, specs) if peer != network]
            ways = ((peer, network) if side == "ingress" else (network, peer) for peer in peers)
            own = ranges_of([rule])
            if peers and not any(_agreed(own, specs, side, way) for way in ways):
                yield IdleRule(network, side, index, peers[0])


def _agreed(
    own: Ranges, specs: Specs, side: str, way: tuple[ResourceAddress, ResourceAddress]
) -> bool:
    """The other end of the way from source to target agrees to something of ``own``."""
    source, target = way
    if side == "ingress":
        return bool(intersection(own, _let_out(specs[source], source, target)))
    covers = {source, f"tenant/{tenant_of(source)}"}
    rules = (rule for rule in specs[target].get("ingress") or () if rule["from"] in covers)
    return bool(intersection(own, ranges_of(rules)))


def _by_tenant(specs: Specs) -> Mapping[str, list[ResourceAddress]]:
    found: dict[str, list[ResourceAddress]] = defaultdict(list)
    for address in specs:
        if kind_of(address) == "network":
            found[tenant_of(address)].append(address)
    return found


def _let_in(
    spec: Mapping[str, Any], by_tenant: Mapping[str, list[ResourceAddress]], specs: Specs
) -> dict[ResourceAddress, Ranges]:
    """What a network lets in, by source network; sources of the same rules share the ranges."""
    rules = spec.get("ingress") or ()
    matching: dict[ResourceAddress, tuple[int, ...]] = defaultdict(tuple)
    for index, rule in enumerate(rules):
        for source in _networks_of(rule["from"], by_tenant, specs):
            matching[source] += (index,)
    ranges = {which: ranges_of(rules[i] for i in which) for which in set(matching.values())}
    return {source: ranges[which] for source, which in matching.items()}


def _networks_of(
    peer: str, by_tenant: Mapping[str, list[ResourceAddress]], specs: Specs
) -> Iterable[ResourceAddress]:
    if is_outside(peer):
        return ()
    if kind_of(ResourceAddress(peer)) == "tenant":
        return by_tenant.get(tenant_of(ResourceAddress(peer)), ())
    return (ResourceAddress(peer),) if peer in specs else ()


def _let_out(spec: Mapping[str, Any], source: ResourceAddress, target: ResourceAddress) -> Ranges:
    """What a network lets out towards another; to other tenants only what is listed."""
    egress = spec.get("egress", "tenant")
    if isinstance(egress, str):
        inside = egress in {"tenant", INTERNET} and tenant_of(source) == tenant_of(target)
        return EVERYTHING if inside else {}
    tenant = f"tenant/{tenant_of(target)}"
    return ranges_of(rule for rule in egress if rule["to"] in {target, tenant})


def as_allowed(
    source: ResourceAddress, target: ResourceAddress, ranges: Ranges
) -> Iterator[Allowed]:
    """Ranges as entries; what holds for every protocol is said once, as any."""
    if all(ranges.get(name) == (WHOLE,) for name in PROTOCOLS):
        yield Allowed(source, target, "any", *WHOLE)
        return
    for name, spans in ranges.items():
        for low, high in spans:
            yield Allowed(source, target, name, low, high)


def ranges_by_pair(
    entries: Iterable[Allowed],
) -> dict[tuple[ResourceAddress, ResourceAddress], Ranges]:
    """The inverse: ports per protocol for every pair of networks."""
    found: dict[tuple[ResourceAddress, ResourceAddress], dict[str, list[Span]]] = {}
    for entry in entries:
        pair = found.setdefault((entry.source, entry.target), defaultdict(list))
        for name in PROTOCOLS if entry.protocol == "any" else (entry.protocol,):
            pair[name].append((entry.low, entry.high))
    return {
        pair: {name: merged(spans) for name, spans in ranges.items()}
        for pair, ranges in found.items()
    }
