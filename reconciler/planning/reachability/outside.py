"""What networks may open beyond this host, and what may be opened to them from there.

Pure. Out there nobody agrees or refuses: a rule of the network alone decides. An end out there
is ``internet`` or a prefix; in ``Allowed`` it stands where a network's address does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of
from reconciler.model.policy import GLOBAL_UNICAST, INTERNET, is_outside
from reconciler.planning.reachability.ranges import (
    EVERYTHING,
    Ranges,
    difference,
    ranges_of,
    union,
)

Way = tuple[ResourceAddress, ResourceAddress]
Prefixes = tuple[IPv6Network, ...]


def internet_of(specs: Mapping[ResourceAddress, Mapping[str, Any]]) -> Prefixes:
    """What ``internet`` means on a host: global unicast, and its NAT64 prefix when it names one."""
    found = [GLOBAL_UNICAST]
    for address, spec in specs.items():
        nat64 = (spec.get("uplink") or {}).get("nat64") if kind_of(address) == "host" else None
        if nat64 and not IPv6Network(nat64).subnet_of(GLOBAL_UNICAST):
            found.append(IPv6Network(nat64))
    return tuple(found)


def uplinks_of(specs: Mapping[ResourceAddress, Mapping[str, Any]]) -> frozenset[str]:
    """Links to the outside, by what hosts have on record."""
    hosts = (spec for address, spec in specs.items() if kind_of(address) == "host")
    return frozenset(
        link for spec in hosts for link in (spec.get("uplink") or {}).get("interface", ())
    )


def example_of(end: str) -> str:
    """An address of an end out there, to try it by: for the Internet one of nobody (RFC 9637)."""
    return "3fff::1" if end == INTERNET else str(next(iter(IPv6Network(end).hosts())))


def contains(end: str, address: str, internet: Prefixes) -> bool:
    """The address is of that end."""
    return any(IPv6Address(address) in prefix for prefix in prefixes_of(end, internet))


def prefixes_of(end: str, internet: Prefixes) -> Prefixes:
    """The addresses of an end out there."""
    return internet if end == INTERNET else (IPv6Network(end),)


def outside_ways(
    network: ResourceAddress, spec: Mapping[str, Any], internet: Prefixes
) -> Iterator[tuple[Way, Ranges]]:
    """(source, target) with the ports of each: disjoint, what a wider end has is left out of a
    narrower one.
    """
    egress = spec.get("egress", "tenant")
    if egress == INTERNET:
        yield (network, ResourceAddress(INTERNET)), EVERYTHING
    elif not isinstance(egress, str):
        for end, ranges in _disjoint(egress, "to", internet):
            yield (network, end), ranges
    for end, ranges in _disjoint(spec.get("ingress") or (), "from", internet):
        yield (end, network), ranges


def _disjoint(
    rules: Iterable[Mapping[str, Any]], side: str, internet: Prefixes
) -> Iterator[tuple[ResourceAddress, Ranges]]:
    by_end: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for rule in rules:
        if isinstance(rule[side], str) and is_outside(rule[side]):
            by_end[rule[side]].append(rule)
    # No prefix of a rule holds a part of the Internet's (``outside_checks``): that is the widest.
    ends = sorted(
        by_end, key=lambda end: (end != INTERNET, prefixes_of(end, internet)[0].prefixlen, end)
    )
    wider: list[tuple[Prefixes, Ranges]] = []
    for end in ends:
        prefixes, own = prefixes_of(end, internet), ranges_of(by_end[end])
        covering = (ranges for others, ranges in wider if _within(prefixes, others))
        left = difference(own, union(covering))
        wider.append((prefixes, own))
        if left:
            yield ResourceAddress(end), left


def _within(prefixes: Prefixes, others: Prefixes) -> bool:
    return all(any(prefix.subnet_of(other) for other in others) for prefix in prefixes)
