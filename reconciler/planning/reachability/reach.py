"""Who can reach whom: the matrix, what a plan changes of it, and a witness packet for each.

Pure; from the same rules that the kernel's entries are made from (``policy``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from reconciler.errors import MetaldError
from reconciler.model.addresses import ResourceAddress, kind_of, network_address, tenant_of
from reconciler.model.policy import is_outside
from reconciler.planning.reachability.nodes import (
    Node,
    Nodes,
    interface_end,
    moved_interfaces,
    network_of,
)
from reconciler.planning.reachability.outside import internet_of
from reconciler.planning.reachability.policy import (
    Allowed,
    Specs,
    allowed_between,
    as_allowed,
    open_inside,
    ranges_by_pair,
)
from reconciler.planning.reachability.ranges import WHOLE, Ranges, difference

REACH_FORMAT = "metald.reach/v1"
Pair = tuple[ResourceAddress, ResourceAddress]
Turn = Literal["reachable", "unreachable"]


@dataclass(frozen=True, slots=True, order=True)
class End:
    """One end of a witness packet: a VM and its address in the network."""

    vm: ResourceAddress
    address: str


@dataclass(frozen=True, slots=True)
class Witness:
    """A packet that shows whether a pair is reachable.

    ``protocol`` is tcp, udp, icmpv6, or other for any that is none of these; ``port`` the
    destination port of tcp and udp, else 0.
    """

    source: End
    target: End
    protocol: str
    port: int


@dataclass(frozen=True, slots=True)
class ReachChange:
    """Traffic that becomes possible or impossible, with a packet that shows it; or, in words,
    why no packet can.
    """

    entry: Allowed
    change: Turn
    witness: Witness | str


@dataclass(frozen=True, slots=True)
class Party:
    """Who is meant by an address on the command line: networks, and one VM of them or all.
    ``ends``: where the VM is among them, empty for all of them.
    """

    networks: frozenset[ResourceAddress]
    vm: ResourceAddress | None = None
    ends: frozenset[ResourceAddress] = frozenset()

    def includes(self, network: ResourceAddress, vm: ResourceAddress) -> bool:
        """This VM's interface in this network is meant."""
        return network in self.networks and self.vm in {None, vm}

    def has(self, end: ResourceAddress, *, inside: bool) -> bool:
        """An end of an entry is meant; ``inside``: of one about the inside of a network."""
        return end in self.ends if self.ends and not inside else network_of(end) in self.networks


def party(text: str, specs: Specs) -> Party:
    """A network, all of a tenant's, or those that a VM is in.

    Raises MetaldError for an address that is not among ``specs``, naming the nearest that is.
    """
    known = sorted(a for a in specs if kind_of(a) in {"tenant", "network", "vm"})
    address = ResourceAddress(text)
    if is_outside(text):
        return Party(frozenset({address}))
    if address not in known:
        near = get_close_matches(text, known, n=1)
        hint = f"did you mean {near[0]}?" if near else "see metald get network"
        raise MetaldError("no such network, tenant or VM is known", subject=text, hint=hint)
    if kind_of(address) == "vm":
        interfaces = specs[address].get("interfaces") or ()
        ends = frozenset(interface_end(address, entry, specs) for entry in interfaces)
        return Party(frozenset(map(network_of, ends)), address, ends)
    owned = (a for a in specs if kind_of(a) == "network" and tenant_of(a) == tenant_of(address))
    return Party(frozenset(owned if kind_of(address) == "tenant" else (address,)))


def reach_matrix(specs: Specs, source: str | None, target: str | None) -> dict[str, Any]:
    """Format metald.reach/v1: who may open traffic to whom; what is not listed may not.

    Raises MetaldError for addresses that are not known.
    """
    ends = [None if text is None else party(text, specs) for text in (source, target)]
    found = [
        entry
        for entry in reach(specs)
        if all(
            end is None or end.has(named, inside=entry.source == entry.target)
            for end, named in zip(ends, (entry.source, entry.target), strict=True)
        )
    ]
    return {
        "format": REACH_FORMAT,
        "from": source,
        "to": target,
        "networks": sum(1 for address in specs if kind_of(address) == "network"),
        "reachable": [allowed_document(entry) for entry in found],
    }


def reach(specs: Specs) -> tuple[Allowed, ...]:
    """The matrix: open networks with themselves, and what the rules allow between networks."""
    return tuple(sorted([*map(_inside, open_inside(specs)), *allowed_between(specs)]))


def _inside(network: ResourceAddress) -> Allowed:
    return Allowed(network, network, "any", *WHOLE)


def reach_delta(before: Specs, after: Specs) -> tuple[ReachChange, ...]:
    """What becomes reachable or unreachable, as few entries as possible.

    A network's reach of itself that comes and goes with the network is not told.
    """
    turned = _turned_inside(before, after)
    changed = {
        address
        for address in before.keys() | after.keys()
        if kind_of(address) == "network" and before.get(address) != after.get(address)
    }
    if internet_of(before) != internet_of(after):
        changed |= {a for a in before.keys() | after.keys() if kind_of(a) == "network"}
    changed |= {network_of(now) for _, _, now in moved_interfaces(before, after)}
    if not changed:
        return turned
    known = {node.address: node for specs in (before, after) for node in Nodes(specs).all()}
    sides = _Side.of(before, changed, known), _Side.of(after, changed, known)
    found = list(turned)
    for pair in sorted(sides[0].pairs_with(sides[1])):
        found += _turned(pair, sides, (pair, pair))
    for vm, was, now in moved_interfaces(before, after):
        found += _moved_vm(vm, (was, now), sides)
    return tuple(found)


@dataclass(frozen=True, slots=True)
class _Side:
    """What is allowed before, or after; with who is where. ``known``: the ends of both."""

    known: Mapping[ResourceAddress, Node]
    nodes: Nodes
    ranges: Mapping[Pair, Ranges]
    ends: Mapping[ResourceAddress, tuple[End, ...]]

    @staticmethod
    def of(
        specs: Specs, changed: AbstractSet[ResourceAddress], known: Mapping[ResourceAddress, Node]
    ) -> _Side:
        ranges = ranges_by_pair(allowed_between(specs, changed))
        return _Side(known, Nodes(specs), ranges, ends_by_segment(specs))

    def pairs_with(self, other: _Side) -> set[Pair]:
        """All pairs of ends that either may tell something of: an end that only one of them has
        is compared with where its members are on the other side.
        """
        pairs = (*self.ranges, *other.ranges)
        networks = {(network_of(source), network_of(target)) for source, target in pairs}
        return {
            (source, target)
            for one, two in networks
            for source in self._ends(one) | other._ends(one)
            for target in self._ends(two) | other._ends(two)
        }

    def _ends(self, network: ResourceAddress) -> set[ResourceAddress]:
        return {node.address for node in self.nodes.by_network.get(network, ())} or {network}

    def at(self, pair: Pair) -> Ranges:
        """What is allowed here between the members of two ends."""
        source, target = (e if is_outside(e) else self.nodes.nearest(self.known[e]) for e in pair)
        return {} if source is None or target is None else self.ranges.get((source, target), {})


def _turned(pair: Pair, sides: tuple[_Side, _Side], ways: tuple[Pair, Pair]) -> list[ReachChange]:
    """What turns between two ends that are ``ways`` before and after, told as of ``pair``."""
    (before, after), (was, now) = sides, ways
    old, new = before.at(was), after.at(now)
    gone, come = difference(old, new), difference(new, old)
    return [
        *(
            ReachChange(entry, "unreachable", witness(entry, before.ends))
            for entry in sorted(as_allowed(*pair, gone))
        ),
        *(
            ReachChange(entry, "reachable", witness(entry, after.ends))
            for entry in sorted(as_allowed(*pair, come))
        ),
    ]


def _moved_vm(
    vm: ResourceAddress, places: Pair, sides: tuple[_Side, _Side]
) -> Iterator[ReachChange]:
    """What a VM gains and loses whose labels put it elsewhere, told as its own."""
    was, now = places
    others = {end for side in sides for pair in side.ranges for end in pair}
    for other in sorted(end for end in others if network_of(end) != network_of(now)):
        yield from _turned((vm, other), sides, ((was, other), (now, other)))
        yield from _turned((other, vm), sides, ((other, was), (other, now)))


def _turned_inside(before: Specs, after: Specs) -> tuple[ReachChange, ...]:
    """Networks that are opened or closed inside, by their own policy or their profile's."""
    old, new = open_inside(before), open_inside(after)
    turned = sorted(a for a in old ^ new if a in before and a in after)
    ends = ends_by_network(after if turned else {})
    return tuple(
        ReachChange(
            _inside(a), "reachable" if a in new else "unreachable", witness(_inside(a), ends)
        )
        for a in turned
    )


def ends_by_network(specs: Specs) -> Mapping[ResourceAddress, tuple[End, ...]]:
    """The VMs of every network with their addresses there, in order, running ones first."""
    found: dict[ResourceAddress, list[End]] = defaultdict(list)
    for address, spec in specs.items():
        for entry in spec.get("interfaces") or () if kind_of(address) == "vm" else ():
            network = network_address(tenant_of(address), entry["network"])
            found[network].extend(End(address, text) for text in entry["addresses"])

    def order(end: End) -> tuple[bool, End]:
        return specs[end.vm].get("power", "running") != "running", end

    return {network: tuple(sorted(ends, key=order)) for network, ends in found.items()}


def ends_by_segment(specs: Specs) -> Mapping[ResourceAddress, tuple[End, ...]]:
    """As ``ends_by_network``, by where rules see them; each VM by its own name as well."""
    found: dict[ResourceAddress, list[End]] = defaultdict(list)
    for address, ends in ends_by_network(specs).items():
        for end in ends:
            entries = specs[end.vm].get("interfaces") or ()
            mine = (e for e in entries if end.address in e["addresses"])
            place = next((interface_end(end.vm, e, specs) for e in mine), address)
            found[place].append(end)
            found[end.vm].append(end)
    return {place: tuple(ends) for place, ends in found.items()}


def witness(entry: Allowed, ends: Mapping[ResourceAddress, tuple[End, ...]]) -> Witness | str:
    """One packet of this kind between two different VMs, or why there is none."""
    for network in (entry.source, entry.target):
        if is_outside(network):
            return f"{network} is beyond this host"
        if not ends.get(network):
            return f"{network} has no VM"
    protocol = "tcp" if entry.protocol == "any" else entry.protocol
    port = max(1, entry.low) if protocol in {"tcp", "udp"} else 0
    for source in ends[entry.source]:
        for target in ends[entry.target]:
            if source.vm != target.vm:
                return Witness(source, target, protocol, port)
    return f"{ends[entry.source][0].vm} is the only VM of both networks"


def reach_document(changes: Iterable[ReachChange]) -> list[dict[str, Any]]:
    """``reachability`` of the plan's JSON; a null ``witness`` has a ``reason`` beside it."""
    return [
        {
            **allowed_document(change.entry),
            "change": change.change,
            **(
                {"witness": None, "reason": change.witness}
                if isinstance(change.witness, str)
                else {"witness": witness_document(change.witness)}
            ),
        }
        for change in changes
    ]


def allowed_document(entry: Allowed) -> dict[str, str]:
    """One cell; ``ports`` is empty for all."""
    return {
        "from": entry.source,
        "to": entry.target,
        "protocol": entry.protocol,
        "ports": entry.ports,
    }


def witness_document(packet: Witness) -> dict[str, Any]:
    """One witness packet."""
    return {
        "fromVm": packet.source.vm,
        "from": packet.source.address,
        "toVm": packet.target.vm,
        "to": packet.target.address,
        "protocol": packet.protocol,
        "port": packet.port,
    }
