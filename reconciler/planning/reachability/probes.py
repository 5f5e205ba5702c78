"""Which packets show whether the kernel does what the rules say: what `metald verify` sends.

Pure. The samples of a pair of networks lie on both sides of every edge of a port range, of the
rules' own and of those that the kernel was found to hold: so an entry that differs anywhere from
the rules has a sample that tells. The same seed chooses the same.
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from math import gcd
from typing import TypeVar

from reconciler.model.addresses import ResourceAddress, network_address, tenant_of
from reconciler.model.firewall import ALLOW, Element, zone_class
from reconciler.model.ledger import Ledger
from reconciler.model.observed import Observed, Unknown, VmPhase
from reconciler.model.policy import INTERNET, is_outside
from reconciler.model.probes import Shot, Station
from reconciler.model.resolved import GATEWAY
from reconciler.planning.reachability.nodes import Nodes, interface_end, network_of
from reconciler.planning.reachability.outside import (
    contains,
    example_of,
    internet_of,
    uplinks_of,
)
from reconciler.planning.reachability.policy import Specs, allowed_between, open_inside
from reconciler.planning.reachability.policy import ranges_by_pair as by_pair
from reconciler.planning.reachability.ranges import PROTOCOLS, WHOLE, Span, union
from reconciler.planning.reachability.reach import Party
from reconciler.planning.reachability.samples import OTHERS, Held, Sample, samples
from reconciler.planning.resolution.recorded import recorded_ports

# What guests are never to reach; stands where a network's address does.
HOST = ResourceAddress("host")
_FROM_OUTSIDE = "nothing can be sent here as if from beyond an uplink"
_T = TypeVar("_T")
Pair = tuple[ResourceAddress, ResourceAddress]
_SPELLED = {
    "tcp": "6", "udp": "17", "ipv6-icmp": "58", "esp": "50", "comp": "108", "gre": "47",
    "sctp": "132", "dccp": "33", "udplite": "136",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Probe:
    """A packet to send, the pair it tries, and where it is to arrive (None: at no VM)."""

    shot: Shot
    pair: Pair
    target: Station | None
    sample: Sample


@dataclass(frozen=True, slots=True)
class Ground:
    """What is tried: the specs on record, the live interfaces in scope, what the kernel holds.
    ``sources``: networks in scope with live VMs, also such as cannot send. ``outside``: ends out
    there that are asked for, empty for all of them beside the host.
    """

    specs: Specs
    sources: frozenset[ResourceAddress]
    senders: Mapping[ResourceAddress, Sequence[Station]]
    targets: Mapping[ResourceAddress, Sequence[Station]]
    held: Mapping[Pair, Sequence[Held]]
    host_addresses: Sequence[str] = (GATEWAY,)
    with_host: bool = True
    outside: frozenset[ResourceAddress] = frozenset()


@dataclass(frozen=True, slots=True)
class Chosen:
    """The packets; ``left_out``: for how many pairs none was within the limit; ``cut``: more could
    have been sent. ``untried`` pairs for which there can be none, and why.
    """

    probes: tuple[Probe, ...]
    untried: Mapping[Pair, str]
    left_out: int
    cut: bool


def stations(
    ledger: Ledger, observed: Observed
) -> tuple[tuple[Station, ...], Mapping[ResourceAddress, str]]:
    """The interfaces of every live VM, and why a VM is none or can send nothing."""
    specs = {address: managed.spec for address, managed in ledger.managed.items()}
    found: list[Station] = []
    why: dict[ResourceAddress, str] = {}
    for address, managed in sorted(ledger.managed.items()):
        state = observed.vms.get(managed.uid)
        if not address.startswith("vm/"):
            continue
        if (cut := ledger.lasting_isolations().get(address)) is not None:
            why[address] = f"it is isolated by {cut.owner}: {cut.reason}"
            continue
        if isinstance(state, Unknown):
            why[address] = f"it could not be observed: {state.reason}"
        elif state is None and observed.unlisted:
            why[address] = f"it could not be observed: {observed.unlisted}"
        elif state is None or state.phase is VmPhase.DEAD:
            why[address] = "it is not running"
        else:
            if not state.pid:
                name = managed.spec["hypervisor"]
                why[address] = f"hypervisor {name} has no process to send as"
            found += [
                Station(
                    address, interface_end(address, entry, specs), port.tap,
                    port.mac, port.addresses[0], port.link_local, state.pid or 0,
                )
                for entry, port in zip(
                    managed.spec["interfaces"], recorded_ports(managed), strict=True
                )
            ]  # fmt: skip
    return tuple(found), why


def in_scope(
    found: Iterable[Station], party: Party | None
) -> Mapping[ResourceAddress, Sequence[Station]]:
    """Stations by end, of a party alone when there is one."""
    by_network: dict[ResourceAddress, list[Station]] = defaultdict(list)
    for station in found:
        if party is None or party.includes(network_of(station.network), station.vm):
            by_network[station.network].append(station)
    return by_network


def concerns(party: Party | None, vm: ResourceAddress, specs: Specs) -> bool:
    """The VM is of a party, by any of its interfaces."""
    networks = (entry["network"] for entry in specs[vm].get("interfaces") or ())
    named = (network_address(tenant_of(vm), network) for network in networks)
    return party is None or any(party.includes(network, vm) for network in named)


def held_by_pair(elements: Iterable[Element], specs: Specs) -> Mapping[Pair, Sequence[Held]]:
    """What the kernel lets networks open, as far as their numbers are on record."""
    nodes = [node for node in Nodes(specs).all() if node.number]
    sources = {str(node.number): node.address for node in nodes}
    targets = {zone_class(node.number): node.address for node in nodes}
    found: dict[Pair, list[Held]] = defaultdict(list)
    for element in sorted(elements):
        if element.container != ALLOW:
            continue
        source, target, protocol, ports = element.key
        headers = _span(_SPELLED.get(protocol, protocol))
        if source in sources and target in targets and headers:
            held = Held(headers, _span(ports) or WHOLE)
            found[sources[source], targets[target]].append(held)
    return found


def _span(text: str) -> Span | None:
    low, _, high = text.partition("-")
    return (int(low), int(high or low)) if low.isdigit() and (high or low).isdigit() else None


_INSIDE = samples(dict.fromkeys(PROTOCOLS, (WHOLE,)))
_CLOSED = samples({})


def choose(ground: Ground, *, limit: int, seed: int) -> Chosen:
    """The packets to send, at most ``limit``: from every VM to its own network, between all pairs
    with rules, to the host, between all other pairs, and the same between further VMs.
    """
    chooser = _Chooser(ground, seed)
    offered = chooser.all()
    taken = tuple(islice(offered, limit))
    cut = next(offered, None) is not None
    tried = {probe.pair for probe in taken}
    untried = {pair: why for pair, why in chooser.untried.items() if pair not in tried}
    numbered = tuple(
        replace(probe, shot=replace(probe.shot, number=number))
        for number, probe in enumerate(taken, start=1)
    )
    return Chosen(numbered, untried, chooser.count - len(tried) - len(untried), cut)


class _Chooser:
    """Offers packets in the order of their worth; notes the pairs that have none."""

    def __init__(self, ground: Ground, seed: int) -> None:
        self._ground, self._seed = ground, seed
        self._sources, self._targets = sorted(ground.senders), sorted(ground.targets)
        touched = frozenset(map(network_of, (*self._sources, *self._targets)))
        self._ranges = by_pair(allowed_between(ground.specs, touched))
        self._beyond = list(self._ways_out(uplinks_of(ground.specs)))
        self._open = open_inside(ground.specs)
        # Filled further as packets are asked for.
        ways_in = (p for p in self._ranges if is_outside(p[0]) and p[1] in ground.targets)
        self.untried: dict[Pair, str] = dict.fromkeys(ways_in, _FROM_OUTSIDE)
        self.count = len(self._sources) * (len(self._targets) + ground.with_host)
        self.count += len(self._beyond) + len(self.untried)

    def all(self) -> Iterator[Probe]:
        """What each kind has to offer in turn, so that a limit cuts all of them."""
        inside = [(network, network) for network in self._sources if network in self._targets]
        between = {p for p in (*self._ranges, *self._ground.held) if self._has(p) and p[0] != p[1]}
        done = {*inside, *between}
        ring = ((p, turn) for p in inside for turn in range(len(self._ground.senders[p[0]])))
        others = (p for p in self._strided() if p not in done and p[0] != p[1])
        waiting: deque[Iterator[list[Probe]]] = deque(
            (
                (self._pair(pair, turn, most=1) for pair, turn in self._turned(ring)),
                (self._pair(pair, 0) for pair in self._turned((*inside, *sorted(between)))),
                self._host(),
                (self._out(pair) for pair in self._turned(self._beyond)),
                (self._pair(pair, 0) for pair in others),
                self._further(),
            )
        )
        while waiting:
            kind = waiting.popleft()
            found = next(kind, None)
            if found is not None:
                yield from found
                waiting.append(kind)

    def _turned(self, entries: Iterable[_T]) -> Sequence[_T]:
        """The same ones, begun where the seed says."""
        listed = list(entries)
        first = self._seed % max(len(listed), 1)
        return listed[first:] + listed[:first]

    def _has(self, pair: Pair) -> bool:
        return pair[0] in self._ground.senders and pair[1] in self._ground.targets

    def _strided(self) -> Iterator[Pair]:
        """Every pair once, in an order that the seed turns, without a list of them all."""
        count = len(self._sources) * len(self._targets)
        stride = next(
            (s for s in range(int(count * 0.618) + 1, count + 2) if gcd(s, count) == 1), 1
        )
        for step in range(count):
            index = (self._seed + step * stride) % count
            yield (
                self._sources[index // len(self._targets)],
                self._targets[index % len(self._targets)],
            )

    def _further(self) -> Iterator[list[Probe]]:
        """One packet of each outcome between the other VMs of all pairs, VM by VM."""
        parts = (*self._ground.senders.values(), *self._ground.targets.values())
        most = max((len(part) for part in parts), default=0)
        for turn in range(1, most):
            for source, target in self._strided():
                ends = (self._ground.senders[source], self._ground.targets[target])
                if turn < max(len(end) for end in ends):
                    yield self._pair((source, target), turn, most=2)
            for source in self._sources if self._ground.with_host else ():
                if turn < len(self._ground.senders[source]):
                    yield [self._to_host(source, turn, GATEWAY, Sample("tcp", 6, 22, False))]

    def _pair(self, pair: Pair, turn: int, most: int | None = None) -> list[Probe]:
        ends = self._ends(pair, turn)
        if ends is None:
            self.untried[pair] = _only_vm(pair, self._ground.targets[pair[1]])
            return []
        source, target = ends
        if network_of(pair[0]) == network_of(pair[1]):
            chosen = _INSIDE if network_of(pair[0]) in self._open else _CLOSED
        else:
            chosen = samples(self._ranges.get(pair, {}), self._ground.held.get(pair, ()))
        to, mac = target.address, self._mac_on_segment(pair, target)
        shots = (Shot(0, source, source.address, to, s.header, s.port, mac) for s in chosen[:most])
        return [
            Probe(shot, pair, target, sample) for shot, sample in zip(shots, chosen, strict=False)
        ]

    def _mac_on_segment(self, pair: Pair, target: Station) -> str:
        """The target's MAC where both ends are on one bridge; empty where the host routes."""
        network = network_of(pair[0])
        here = network == network_of(pair[1])
        bridged = here and self._ground.specs[network].get("mode") == "bridged"
        return target.mac if bridged else ""

    def _ends(self, pair: Pair, turn: int) -> tuple[Station, Station] | None:
        """The ``turn``-th sender and target of a pair, of different VMs."""
        senders, targets = self._ground.senders[pair[0]], self._ground.targets[pair[1]]
        for shift in range(len(senders)):
            source = senders[(turn + shift) % len(senders)]
            for step in range(len(targets)):
                # Inside a network each sends to the next one, so that each is a target as well.
                target = targets[(turn + step + (pair[0] == pair[1])) % len(targets)]
                if source.vm != target.vm:
                    return source, target
        return None

    def _host(self) -> Iterator[list[Probe]]:
        closed = [s for s in _CLOSED if s.header not in OTHERS[:-1]]
        for source in self._turned(self._sources) if self._ground.with_host else ():
            addresses = self._ground.host_addresses
            yield [self._to_host(source, 0, a, sample) for a in addresses for sample in closed]

    def _to_host(self, network: ResourceAddress, turn: int, address: str, sample: Sample) -> Probe:
        senders = self._ground.senders[network]
        source = senders[turn % len(senders)]
        own = source.link_local if address == GATEWAY else source.address
        shot = Shot(0, source, own, address, sample.header, sample.port)
        return Probe(shot, (network, HOST), None, sample)

    def _ways_out(self, uplinks: frozenset[str]) -> Iterator[Pair]:
        """To the Internet from every network, and to what else its rules name out there."""
        asked = self._ground.outside
        for source in self._sources if uplinks and (self._ground.with_host or asked) else ():
            named = (p[1] for p in self._ranges if p[0] == source and is_outside(p[1]))
            ends = asked or {*named, ResourceAddress(INTERNET)}
            yield from ((source, end) for end in sorted(ends))

    def _out(self, pair: Pair) -> list[Probe]:
        """To one address of an end: what any rule about a prefix with it lets through, passes."""
        address, internet = example_of(pair[1]), internet_of(self._ground.specs)
        source = self._ground.senders[pair[0]][0]
        ranges = union(
            found
            for (network, end), found in self._ranges.items()
            if network == pair[0] and is_outside(end) and contains(end, address, internet)
        )
        shots = (
            (Shot(0, source, source.address, address, s.header, s.port), s) for s in samples(ranges)
        )
        return [Probe(shot, pair, None, sample) for shot, sample in shots]


def _only_vm(pair: Pair, targets: Sequence[Station]) -> str:
    if pair[0] == pair[1]:
        return f"{targets[0].vm} is the only live VM in it"
    return f"{targets[0].vm} is the only live VM of both"
