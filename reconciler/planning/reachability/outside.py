"""What networks may open beyond this host, and what may be opened to them from there.

Pure. Out there nobody agrees or refuses: a rule of the network alone decides. An end out there
is ``internet``, all that lies beyond the uplinks, or a prefix of it; in ``Allowed`` it stands
where a network's address does.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv6Network
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.policy import INTERNET, is_outside
from reconciler.planning.reachability.ranges import (
    EVERYTHING,
    Ranges,
    difference,
    ranges_of,
    union,
)

Way = tuple[ResourceAddress, ResourceAddress]
_ALL = IPv6Network("::/0")


def prefix_of(end: str) -> IPv6Network:
    """The addresses of an end out there."""
    return _ALL if end == INTERNET else IPv6Network(end)


def outside_ways(network: ResourceAddress, spec: Mapping[str, Any]) -> Iterator[tuple[Way, Ranges]]:
    """(source, target) with the ports of each: disjoint, what a wider end has is left out of a
    narrower one.
    """
    egress = spec.get("egress", "tenant")
    if egress == INTERNET:
        yield (network, ResourceAddress(INTERNET)), EVERYTHING
    elif not isinstance(egress, str):
        for end, ranges in _disjoint(egress, "to"):
            yield (network, end), ranges
    for end, ranges in _disjoint(spec.get("ingress") or (), "from"):
        yield (end, network), ranges


def _disjoint(
    rules: Iterable[Mapping[str, Any]], side: str
) -> Iterator[tuple[ResourceAddress, Ranges]]:
    by_end: dict[str, list[Mapping[str, Any]]] = defaultdict(list)
    for rule in rules:
        if is_outside(rule[side]):
            by_end[rule[side]].append(rule)
    ends = sorted(by_end, key=lambda end: (prefix_of(end).prefixlen, end))
    wider: list[tuple[IPv6Network, Ranges]] = []
    for end in ends:
        prefix, own = prefix_of(end), ranges_of(by_end[end])
        covered = union(ranges for other, ranges in wider if prefix.subnet_of(other))
        left = difference(own, covered)
        wider.append((prefix, own))
        if left:
            yield ResourceAddress(end), left
