"""Who can reach whom: the matrix, what a plan changes of it, and a witness packet for each.

Pure; from the same rules that the kernel's entries are made from (``policy``).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from reconciler.errors import MetaldError
from reconciler.model.addresses import ResourceAddress, kind_of, network_address, tenant_of
from reconciler.model.policy import is_outside
from reconciler.planning.reachability.outside import internet_of
from reconciler.planning.reachability.policy import (
    Allowed,
    Specs,
    allowed_between,
    as_allowed,
    open_inside,
    ranges_by_pair,
)
from reconciler.planning.reachability.ranges import WHOLE, difference

REACH_FORMAT = "metald.reach/v1"
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
    """Who is meant by an address on the command line: networks, and one VM of them or all."""

    networks: frozenset[ResourceAddress]
    vm: ResourceAddress | None = None

    def includes(self, network: ResourceAddress, vm: ResourceAddress) -> bool:
        """This VM's interface in this network is meant."""
        return network in self.networks and self.vm in {None, vm}


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
        networks = (network_address(tenant_of(address), e["network"]) for e in interfaces)
        return Party(frozenset(networks), address)
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
            end is None or network in end.networks
            for end, network in zip(ends, (entry.source, entry.target), strict=True)
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
    if not changed:
        return turned
    old = ranges_by_pair(allowed_between(before, changed))
    new = ranges_by_pair(allowed_between(after, changed))
    ends_before, ends_after = ends_by_network(before), ends_by_network(after)
    found = list(turned)
    for pair in sorted(old.keys() | new.keys()):
        gone = difference(old.get(pair, {}), new.get(pair, {}))
        come = difference(new.get(pair, {}), old.get(pair, {}))
        found += [
            ReachChange(entry, "unreachable", witness(entry, ends_before))
            for entry in sorted(as_allowed(*pair, gone))
        ]
        found += [
            ReachChange(entry, "reachable", witness(entry, ends_after))
            for entry in sorted(as_allowed(*pair, come))
        ]
    return tuple(found)


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
