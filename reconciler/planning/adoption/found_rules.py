"""From the firewall's entries back to ingress and egress rules, where no copy tells them.

Pure. An entry holds what both sides agree on; each side gets a rule that says just that, so
that the flows which are open stay open, and no others open.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import Any

from reconciler.model.addresses import ResourceAddress, tenant_of
from reconciler.model.firewall import ALLOW, Element, zone_class
from reconciler.model.policy import FIRST_PORT, LAST_PORT

_ALL_PORTS = f"{FIRST_PORT}-{LAST_PORT}"
_PROTOCOLS = {"tcp": "tcp", "udp": "udp", "ipv6-icmp": "icmpv6", "0-255": "any"}
Rule = dict[str, Any]


def rules_of(
    elements: Iterable[Element], zones: Mapping[ResourceAddress, int]
) -> Mapping[ResourceAddress, Mapping[str, Any]]:
    """``ingress`` and ``egress`` by network, for networks whose zones are given.

    Entries that no rule can say are passed over; the proof then finds them missing.
    """
    by_zone = {str(zone): address for address, zone in zones.items()}
    by_class = {zone_class(zone): address for address, zone in zones.items()}
    pairs: dict[tuple[ResourceAddress, ResourceAddress], dict[str, list[str]]] = {}
    for element in sorted(elements):
        if element.container != ALLOW:
            continue
        source, target, protocol, ports = element.key
        if source in by_zone and target in by_class and protocol in _PROTOCOLS:
            pair = pairs.setdefault((by_zone[source], by_class[target]), defaultdict(list))
            pair[_PROTOCOLS[protocol]].append(ports)
    return {address: _sides(address, pairs) for address in zones}


def _sides(
    address: ResourceAddress,
    pairs: Mapping[tuple[ResourceAddress, ResourceAddress], Mapping[str, list[str]]],
) -> dict[str, Any]:
    ingress = [
        rule
        for (source, target), protocols in sorted(pairs.items())
        if target == address
        for rule in _rules("from", source, protocols)
    ]
    targets = {target: found for (source, target), found in pairs.items() if source == address}
    found: dict[str, Any] = {"ingress": ingress, "egress": "tenant"}
    if any(tenant_of(target) != tenant_of(address) for target in targets):
        # A list names all: those of its own tenant have to be in it as well.
        found["egress"] = [
            rule
            for target, protocols in sorted(targets.items())
            for rule in _rules("to", target, protocols)
        ]
    return found


def _rules(side: str, peer: ResourceAddress, protocols: Mapping[str, list[str]]) -> list[Rule]:
    return [
        {side: peer, "protocol": protocol, "ports": _ports(ports)}
        for protocol, ports in sorted(protocols.items())
    ]


def _ports(texts: Iterable[str]) -> list[int | str]:
    """As rules write them; none stands for all."""
    texts = list(texts)
    if _ALL_PORTS in texts:
        return []
    return [int(text) if text.isdigit() else text for text in texts]
