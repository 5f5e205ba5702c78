"""The ends of rules inside this host: networks, and the segments of them that selectors make.

Pure; works on recorded specs. An end is spelled as its network's address, with the labels of the
segment behind it: ``network/acme/front``, ``network/acme/front[app=web]``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from reconciler.model.addresses import ResourceAddress, kind_of, network_address, tenant_of
from reconciler.model.policy import is_outside

Specs = Mapping[ResourceAddress, Mapping[str, Any]]
Labels = frozenset[tuple[str, str]]
Peer = str | Mapping[str, Any]


@dataclass(frozen=True, slots=True, order=True)
class Node:
    """One end: ``number`` is what the kernel knows it by (0 where nothing is resolved)."""

    address: ResourceAddress
    network: ResourceAddress
    labels: Labels = field(compare=False)
    number: int = field(compare=False)


def end_of(network: ResourceAddress, labels: Iterable[tuple[str, str]]) -> ResourceAddress:
    """How an end is spelled."""
    told = ",".join(f"{key}={value}" for key, value in sorted(labels))
    return ResourceAddress(f"{network}[{told}]") if told else network


def network_of(end: ResourceAddress) -> ResourceAddress:
    """The network that an end is of, or is."""
    return ResourceAddress(end.partition("[")[0])


def nodes_of(network: ResourceAddress, spec: Mapping[str, Any]) -> Iterator[Node]:
    """A network's ends: itself, for all that no selector matches, and its segments."""
    yield Node(network, network, frozenset(), spec.get("zone", 0))
    for segment in spec.get("segments", ()):
        labels = frozenset(segment["labels"].items())
        yield Node(end_of(network, labels), network, labels, segment["number"])


class Nodes:
    """All ends of some specs, by what rules name them by."""

    def __init__(self, specs: Specs) -> None:
        self.by_network = {
            address: tuple(sorted(nodes_of(address, spec)))
            for address, spec in specs.items()
            if kind_of(address) == "network"
        }
        self.by_tenant: dict[str, list[Node]] = defaultdict(list)
        for address, nodes in self.by_network.items():
            self.by_tenant[tenant_of(address)].extend(nodes)

    def all(self) -> Iterator[Node]:
        """Every end."""
        return (node for nodes in self.by_network.values() for node in nodes)

    def named(self, peer: Peer, own: str) -> Iterable[Node]:
        """What a peer of a rule of tenant ``own`` stands for; nothing for the outside."""
        if not isinstance(peer, str):
            return (node for node in self._candidates(peer, own) if names(peer, node, own))
        if is_outside(peer):
            return ()
        if kind_of(ResourceAddress(peer)) == "tenant":
            return self.by_tenant.get(peer.partition("/")[2], ())
        return self.by_network.get(ResourceAddress(peer), ())

    def _candidates(self, peer: Mapping[str, Any], own: str) -> Iterable[Node]:
        tenant = peer.get("tenant") or own
        if peer.get("network"):
            return self.by_network.get(network_address(tenant, peer["network"]), ())
        return self.by_tenant.get(tenant, ())

    def nearest(self, node: Node) -> ResourceAddress | None:
        """Where the members of an end of other specs are by these, labels unchanged: the same,
        else the segment that asks for the most of its labels. None where its network is not.
        """
        own = self.by_network.get(node.network, ())
        fitting = [entry for entry in own if entry.labels <= node.labels]
        return max(fitting, key=lambda entry: len(entry.labels)).address if fitting else None


def names(peer: Peer, node: Node, own: str) -> bool:
    """A peer of a rule of tenant ``own`` stands for this end, among others."""
    if isinstance(peer, str):
        return peer in {node.network, f"tenant/{tenant_of(node.network)}"}
    tenant = peer.get("tenant") or own
    if tenant_of(node.network) != tenant:
        return False
    named = peer.get("network")
    if named and node.network != network_address(tenant, named):
        return False
    return frozenset(peer["labels"].items()) <= node.labels


def interface_end(vm: ResourceAddress, entry: Mapping[str, Any], specs: Specs) -> ResourceAddress:
    """The end that an interface of a VM on record is of."""
    network = network_address(tenant_of(vm), entry["network"])
    number = entry.get("segment")
    nodes = nodes_of(network, specs.get(network, {})) if number else ()
    return next((node.address for node in nodes if node.number == number), network)


def moved_interfaces(
    before: Specs, after: Specs
) -> Iterator[tuple[ResourceAddress, ResourceAddress, ResourceAddress]]:
    """VMs that other labels put into another segment of a network, with both ends."""
    if not any("segments" in spec for specs in (before, after) for spec in specs.values()):
        return
    nodes, old_nodes = Nodes(after), {node.address: node for node in Nodes(before).all()}
    for address, spec in after.items():
        known = before.get(address)
        if kind_of(address) != "vm" or known is None or known.get("labels") == spec.get("labels"):
            continue
        was = {network_of(e): e for e in _ends(address, known, before)}
        for end in _ends(address, spec, after):
            old = was.get(network_of(end))
            if old in old_nodes and nodes.nearest(old_nodes[old]) != end:
                yield address, old, end


def _ends(vm: ResourceAddress, spec: Mapping[str, Any], specs: Specs) -> Iterator[ResourceAddress]:
    return (interface_end(vm, entry, specs) for entry in spec.get("interfaces") or ())
