"""Packets that show who reaches whom, as `metald verify` sends them, and what became of them.

Made by planning, sent by ``network.probing``, judged by planning again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from reconciler.model.addresses import ResourceAddress

# What such packets have and others, nearly always, do not (RFC 6437): the rules look at it first.
FLOW_LABEL = 0x6D7D1
# Octets behind the start of the transport header: a secret of the run, then the packet's number.
TOKEN_OFFSET, TOKEN_BYTES, NUMBER_BYTES = 20, 8, 4

# Packets of one run: some seconds for the usual bound, a minute at most for any.
PROBES_AT_MOST, PROBES_USUALLY = 60_000, 4_096


@dataclass(frozen=True, slots=True, order=True)
class Station:
    """A live VM's interface. ``network``: or the segment of one that it is in. ``pid``: the process
    that has its queue open, 0 for none.
    """

    vm: ResourceAddress
    network: ResourceAddress
    tap: str
    mac: str
    address: str
    link_local: str
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Shot:
    """One packet: ``header`` is the IPv6 next header, ``port`` the destination port of tcp and udp
    (and what stands in its place for others). ``number`` is unique in a run, from 1. ``to_mac``:
    whom the frame is for on a segment; empty for the gateway.
    """

    number: int
    source: Station
    from_address: str
    to_address: str
    header: int
    port: int
    to_mac: str = ""


@dataclass(frozen=True, slots=True)
class Sightings:
    """Where shots were seen, by number; one that is nowhere here was lost on its way.

    ``arrived``: the links they were to leave by. ``heard``: the host itself took them.
    ``returned``: the host answered with an ICMPv6 error. ``stopped``: by which of our rules (see
    ``STOPPED_BY``). ``unsent``: why they were not sent at all. ``injected``: packets and octets by
    link, for whoever counts traffic. ``guarded``: our rules were there.
    """

    arrived: Mapping[int, frozenset[str]] = field(default_factory=dict)
    heard: frozenset[int] = frozenset()
    returned: frozenset[int] = frozenset()
    stopped: Mapping[int, int] = field(default_factory=dict)
    unsent: Mapping[int, str] = field(default_factory=dict)
    injected: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    guarded: bool = True


# By the mark that templates/nftables/metald.nft gives where a packet ends.
STOPPED_BY: Mapping[int, str] = {
    1: "stopped: the source is not bound to the VM",
    2: "stopped: guests do not reach the host",
    3: "stopped: no rule allows it",
    4: "stopped: it comes from no VM's link",
}
