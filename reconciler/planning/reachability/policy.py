"""What the rules of all networks together allow: the one answer that the kernel's entries, the
reachability matrix and its changes are made from.

Pure. Works on recorded specs (what `Managed.spec` and `Registration.spec` hold). Traffic from
one network to another is allowed where the ingress rules of the one and the egress of the
other agree; inside a network all is open, unless its security policy says otherwise. Where rules
select VMs by label, an end is the segment of a network (``nodes``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of, tenant_of
from reconciler.model.policy import ICMPV6_TYPES, INTERNET, type_span
from reconciler.planning.reachability.nodes import Node, Nodes, Specs, names
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
        """``443``, ``8000-8010``, types of icmpv6 by name, empty for all."""
        if (self.low, self.high) == WHOLE:
            return ""
        if self.protocol == "icmpv6":
            spans = {name: type_span(name) for name in ICMPV6_TYPES}
            return ",".join(n for n, (a, b) in spans.items() if self.low <= a and b <= self.high)
        return str(self.low) if self.low == self.high else f"{self.low}-{self.high}"


def allowed_between(
    specs: Specs, touching: AbstractSet[ResourceAddress] | None = None
) -> tuple[Allowed, ...]:
    """Everything allowed between different networks and with the outside, merged and in order;
    ``touching``: only where one of the two ends is of these networks.
    """
    nodes, internet = Nodes(specs), internet_of(specs)
    found: list[Allowed] = []
    for network, targets in nodes.by_network.items():
        let_in = _let_in(network, specs[network], nodes)
        touched = touching is None or network in touching
        for source in sorted(let_in):
            if source.network == network or not (touched or source.network in (touching or ())):
                continue
            for target in targets:
                out = _let_out(specs[source.network], source, target)
                ranges = intersection(let_in[source], out)
                found.extend(as_allowed(source.address, target.address, ranges))
        for end in targets if touched else ():
            for way, ranges in outside_ways(end.address, specs[network], internet):
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
    nodes = Nodes(specs)
    for network, own in nodes.by_network.items():
        egress = specs[network].get("egress", "tenant")
        sides = {"ingress": specs[network].get("ingress") or ()}
        sides |= {} if isinstance(egress, str) else {"egress": egress}
        for side, index, rule in ((s, i, r) for s in sides for i, r in enumerate(sides[s])):
            named = nodes.named(rule["from" if side == "ingress" else "to"], tenant_of(network))
            peers = [peer for peer in named if peer.network != network]
            ways = ((p, n) if side == "ingress" else (n, p) for p in peers for n in own)
            ports = ranges_of([rule])
            if peers and not any(_agreed(ports, specs, side, way) for way in ways):
                yield IdleRule(network, side, index, peers[0].network)


def _agreed(own: Ranges, specs: Specs, side: str, way: tuple[Node, Node]) -> bool:
    """The other end of the way from source to target agrees to something of ``own``."""
    source, target = way
    if side == "ingress":
        return bool(intersection(own, _let_out(specs[source.network], source, target)))
    tenant = tenant_of(target.network)
    listed = specs[target.network].get("ingress") or ()
    rules = (rule for rule in listed if names(rule["from"], source, tenant))
    return bool(intersection(own, ranges_of(rules)))


def _let_in(network: ResourceAddress, spec: Mapping[str, Any], nodes: Nodes) -> dict[Node, Ranges]:
    """What a network lets in, by source; sources of the same rules share the ranges."""
    rules = spec.get("ingress") or ()
    matching: dict[Node, tuple[int, ...]] = defaultdict(tuple)
    for index, rule in enumerate(rules):
        for source in nodes.named(rule["from"], tenant_of(network)):
            matching[source] += (index,)
    ranges = {which: ranges_of(rules[i] for i in which) for which in set(matching.values())}
    return {source: ranges[which] for source, which in matching.items()}


def _let_out(spec: Mapping[str, Any], source: Node, target: Node) -> Ranges:
    """What a network lets out towards another; to other tenants only what is listed."""
    egress, own = spec.get("egress", "tenant"), tenant_of(source.network)
    if isinstance(egress, str):
        inside = egress in {"tenant", INTERNET} and own == tenant_of(target.network)
        return EVERYTHING if inside else {}
    return ranges_of(rule for rule in egress if names(rule["to"], target, own))


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


__all__ = [
    "Allowed", "IdleRule", "Specs", "allowed_between", "as_allowed", "idle_rules", "open_inside",
    "ranges_by_pair",
]  # fmt: skip
