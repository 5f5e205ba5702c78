"""Segments: the VMs of a network that the same selectors of rules match.

Pure. Rules name VMs by label; the kernel knows interfaces by a number, their segment. A segment is
a network and the labels that selectors ask for and its members have: so its number depends on
rules and labels, never on how many VMs there are. Who is matched by no selector is in the
network's own zone. Called by ``resolve`` and ``vms``, by checks, and where specs are read without
being resolved.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

from reconciler.model.addresses import ResourceAddress, network_address
from reconciler.model.fleet import Fleet
from reconciler.model.policy import Selector

# What the members of a segment have, by key.
Key = tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Selected:
    """The selectors that may match VMs of one network, and what they make of labels."""

    selectors: tuple[frozenset[tuple[str, str]], ...]
    _known: dict[Key, Key] = field(default_factory=dict, compare=False)

    def key_of(self, labels: Mapping[str, str]) -> Key:
        """The segment of a VM with these labels; empty for none."""
        has = tuple(sorted(labels.items()))
        found = self._known.get(has)
        if found is None:
            matched = (one for one in self.selectors if one <= frozenset(has))
            found = self._known[has] = tuple(sorted(frozenset().union(*matched)))
        return found


def selected(fleet: Fleet) -> Mapping[ResourceAddress, Selected]:
    """Selectors by the networks whose VMs they may match; nothing for all others."""
    found: dict[ResourceAddress, set[frozenset[tuple[str, str]]]] = defaultdict(set)
    by_tenant: dict[str, list[ResourceAddress]] = defaultdict(list)
    for network in fleet.networks.values():
        by_tenant[network.metadata.tenant].append(network.address)
    for tenant, selector in _in_use(fleet):
        labels = frozenset(selector.labels.items())
        networks = by_tenant[tenant]
        if selector.network is not None:
            named = network_address(tenant, selector.network)
            networks = [named] if named in fleet.networks else []
        for address in networks:
            found[address].add(labels)
    return {address: Selected(tuple(sorted(s, key=sorted))) for address, s in found.items()}


def _in_use(fleet: Fleet) -> Iterator[tuple[str, Selector]]:
    for network in fleet.networks.values():
        for _, selector in network.spec.selectors():
            yield selector.tenant or network.metadata.tenant, selector


def keys_in_use(
    fleet: Fleet, chosen: Mapping[ResourceAddress, Selected]
) -> Mapping[ResourceAddress, set[Key]]:
    """The segments that VMs are in, by network."""
    found: dict[ResourceAddress, set[Key]] = defaultdict(set)
    for vm in fleet.vms.values() if chosen else ():
        for interface in vm.spec.interfaces:
            network = network_address(vm.metadata.tenant, interface.network)
            if network in chosen:
                found[network].add(chosen[network].key_of(vm.metadata.labels))
    return {network: keys - {()} for network, keys in found.items()}


def recorded_segment(number: int, key: Key) -> dict[str, object]:
    """A segment as a network's record holds it."""
    return {"number": number, "labels": dict(key)}


def unresolved(fleet: Fleet) -> Mapping[ResourceAddress, list[dict[str, object]]]:
    """Segments as records hold them, without numbers that are anything outside these specs."""
    found = {}
    number = 0
    for network, keys in keys_in_use(fleet, selected(fleet)).items():
        found[network] = [recorded_segment(number := number + 1, key) for key in sorted(keys)]
    return found
