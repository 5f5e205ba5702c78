"""The per-VM facts of the firewall: which elements of which set or map a port needs.

The rules themselves are a template loaded once (``network.ruleset``); their number does not
depend on the number of VMs. Shared by planning (to compare) and network (to load).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Final, NamedTuple

from reconciler.model.ip6 import address_number
from reconciler.model.resolved import Port
from reconciler.model.security import HEADER_NUMBERS, InterfacePolicy

TABLE = "metald"
FAMILY, BRIDGE_FAMILY = "inet", "bridge"
# What lies in our table of the bridge family is told apart by its container: ``bridge/macs``.
BRIDGE: Final = "bridge/"
# There only while a verification runs (or was killed): what its packets end in.
VERIFY_TABLE = "metald_verify"
TABLES = tuple(
    (family, name) for name in (TABLE, VERIFY_TABLE) for family in (FAMILY, BRIDGE_FAMILY)
)
# Who may open traffic to whom: (segment of the source, class of the target, protocol, ports).
ALLOW = "allow"
# Beyond an uplink: (segment of the guest, prefix out there, protocol, ports).
EGRESS, INGRESS = "egress", "ingress"
RULES: Final = frozenset({ALLOW, EGRESS, INGRESS})
# What the host as a whole is, not any interface of it.
UPLINKS, MASQUERADED, OWN_PREFIXES = "uplinks", "masqueraded", "own_prefixes"
GUEST_SERVICES, PREFIX_OUT, PREFIX_IN = "guest_services", "prefix_out", "prefix_in"
# Addresses of guests that the host answers for on an uplink: entries of the kernel's neighbour
# tables, no set's.
PROXIES: Final = "proxies"
# Prefixes that the host advertises to guests (SLAAC), with resolvers and a NAT64: no set's either.
ADVERTISED: Final = "advertised"
FACTS: Final = frozenset(
    {UPLINKS, MASQUERADED, OWN_PREFIXES, GUEST_SERVICES, PREFIX_OUT, PREFIX_IN, PROXIES}
)
TAPS, DROPS, RECENT, ISOLATED = "taps", "drops", "recent", "isolated"
BRIDGES: Final = "bridges"
# What of bridged guests the other table tells, by the link that is the way back to the source, and
# by the source where that is a link-local one.
DROPS_BEHIND, DROPS_LOCAL, RECENT_BEHIND = "drops_behind", "drops_local", "recent_behind"
# Among the drops, with the moment (Unix epoch) as its number: since when they are counted.
SINCE = "since"
# Distinct limits of connections: a chain and a set each, no element of the kernel's.
TIERS, CONNECTIONS = "tiers", "connections"
# Sets whose elements carry the rate above which packets are dropped.
RATES: Final = (
    "rate_packets_from", "rate_packets_to", "rate_neighbours", "rate_echo", "rate_errors",
    "rate_multicast", "rate_advertisements",
)  # fmt: skip
_LEAST_BURST: Final = 5  # nft's own default, in packets
# Facts of a port that no rule of bridges looks at.
_ROUTED_ONLY: Final = frozenset({"denies_logged", ADVERTISED})


class Control(NamedTuple):
    """One control as drops are counted: ``what`` it stops; of packets ``to_guest``, or from it."""

    name: str
    what: str
    to_guest: bool = False


# A control's number is its place here, from 1: append only.
CONTROLS: Final = (
    Control("not_ipv6", "IPv4 from a guest"),
    Control("fragment", "fragments from a guest"),
    Control("extension", "extension headers from a guest"),
    Control("chain", "too many extension headers, or too long ones"),
    Control("raguard", "router advertisements and redirects from a guest"),
    Control("dhcpv6", "DHCPv6 server replies from a guest"),
    Control("spoof", "sources a guest does not hold"),
    Control("spoof_nd", "neighbour discovery for addresses a guest does not hold"),
    Control("reverse_path", "sources that are not routed back to the guest"),
    Control("bogon", "addresses that the Internet does not route"),
    Control("host", "guests reaching for the host"),
    Control("tenant", "guests reaching beyond what rules allow"),
    Control("outside", "others reaching for a guest", to_guest=True),
    Control("connections", "more connections than a guest may open"),
    Control("rate_packets", "more packets than a guest may send"),
    Control("rate_packets_to", "more packets than a guest may get", to_guest=True),
    Control("rate_neighbour", "more neighbour discovery than a guest may send"),
    Control("rate_echo", "more echo than a guest may send"),
    Control("rate_error", "more ICMPv6 errors than a guest may send"),
    Control("rate_multicast", "more multicast than a guest may send"),
    Control("isolated", "an isolated guest's packets"),
    Control("isolated_to", "packets for an isolated guest", to_guest=True),
)


class Element(NamedTuple):
    """One element: the set's or map's name, the parts of its key, a map's value or a limit.

    Key parts are in nftables' own canonical spelling (lower case, compressed IPv6). A tuple: every
    VM has several, and sets of them are compared at every look.
    """

    container: str
    key: tuple[str, ...]
    value: str = ""


def zone_class(zone: int) -> str:
    """A zone as nft spells a class id, which a packet's priority holds: ``major:minor``, hex."""
    return f"{zone >> 16:x}:{zone & 0xFFFF:x}"


def allow_element(source_zone: int, target_zone: int, protocol: str, ports: str) -> Element:
    """Lets one segment open traffic to another; ``protocol`` and ``ports`` as nft lists them."""
    return Element(ALLOW, (str(source_zone), zone_class(target_zone), protocol, ports))


def outside_element(container: str, zone: int, prefix: str, protocol: str, ports: str) -> Element:
    """Lets a segment open traffic to a prefix out there (``EGRESS``), or be opened from there."""
    return Element(container, (str(zone), prefix.removesuffix("/128"), protocol, ports))


def port_elements(port: Port) -> frozenset[Element]:
    """All that the rules need to know of one port: where it belongs, what it may send and be sent.

    An interface without any of these elements sends nothing (templates/nftables/metald.nft).
    """
    if port.bridged:
        return frozenset((*_belonging(port), *_routed_part(port), *_bridged_part(port)))
    return frozenset((*_belonging(port), *_membership(port), *_sending(port)))


def _belonging(port: Port) -> list[Element]:
    link, segment = (port.tap,), port.rules_zone
    return [
        Element(TAPS, link),
        Element("zone_of", link, str(port.zone)),
        Element("segment_of", link, str(segment)),
        Element("class_of", link, zone_class(segment)),
    ]


def _membership(port: Port) -> list[Element]:
    if not port.policy.intra_network:
        return []
    zone = str(port.zone)
    own = [Element("members", (zone, address)) for address in port.addresses]
    behind = [Element("member_prefixes", (zone, _upper(prefix))) for prefix in port.delegated]
    return [*own, *behind]


def _routed_part(port: Port) -> Iterator[Element]:
    """Of a bridged port, what the rules need to know of packets that are routed."""
    policy, segment = port.policy, port.rules_zone
    yield Element(BRIDGES, (port.bridge,))
    yield Element("locals", (port.link_local,))
    yield Element("class_of_segment", (str(segment),), zone_class(segment))
    if policy.intra_network:
        yield Element("mates", (port.bridge, port.tap))
        yield Element("mates", (port.bridge, port.bridge))
    if policy.packets_per_second is not None:
        limit = rate(policy.packets_per_second, policy.burst)
        yield Element("rate_packets_to", (port.tap,), limit)
    if policy.logging == "denies":
        yield from (Element("denies_logged_at", (address,)) for address in port.addresses)


def _bridged_part(port: Port) -> Iterator[Element]:
    """And what those of its bridge need to know of it."""
    own = [
        Element(TAPS, (port.tap,)),
        Element("segment_of", (port.tap,), str(port.rules_zone)),
        *(Element("owned", (_hex(address),)) for address in (*port.addresses, port.link_local)),
    ]
    if port.policy.intra_network:
        own.append(Element("open", (port.tap,)))
    if port.policy.source_address == "off":
        # Where sources may be anybody's, what is routed to the network still is its own.
        prefixes = (*port.addresses, *port.delegated)
        own += [Element("source_prefixes", (port.tap, _upper(one))) for one in prefixes]
    known = (entry for entry in _sending(port) if entry.container not in _ROUTED_ONLY)
    return (entry._replace(container=BRIDGE + entry.container) for entry in (*own, *known))


def _sending(port: Port) -> list[Element]:
    """What a guest may send as, and how much."""
    tap, policy = port.tap, port.policy
    found = []
    if policy.source_mac:
        found.append(Element("macs", (tap, port.mac)))
    for address in (*port.addresses, port.link_local):
        found.append(Element("sources", (tap, address)))
        # Written as a number: nft reads the target of neighbour discovery as raw payload.
        found.append(Element("targets", (tap, _hex(address))))
        if policy.source_address == "prefix":
            found.append(Element("source_prefixes", (tap, _upper(address))))
            found.append(Element("target_prefixes", (tap, _upper(address))))
    found += [Element("source_prefixes", (tap, _upper(prefix))) for prefix in port.delegated]
    if policy.slaac:
        for prefix in port.delegated:
            told = (*port.resolvers, *filter(None, (port.nat64,)))
            found.append(Element(ADVERTISED, (tap, prefix), " ".join(told)))
            found.append(Element("target_prefixes", (tap, _upper(prefix))))
    found += [Element(name, (tap, *rest), value) for name, rest, value in _of_policy(policy)]
    if policy.connections is not None:
        found.append(Element(TIERS, (str(policy.connections),)))
    return found


@lru_cache(maxsize=1 << 10)
def _of_policy(policy: InterfacePolicy) -> tuple[tuple[str, tuple[str, ...], str], ...]:
    """What follows from a policy alone: container, key behind the link, value."""
    return (*_headers(policy), *_switches(policy), *_rates(policy))


def _headers(policy: InterfacePolicy) -> Iterator[tuple[str, tuple[str, ...], str]]:
    for header in policy.headers:
        yield "may", (str(HEADER_NUMBERS[header]),), ""
    for count in range(1, policy.max_chain + 1 if policy.headers else 1):
        yield "chains", (str(1 << count),), ""


def _switches(policy: InterfacePolicy) -> Iterator[tuple[str, tuple[str, ...], str]]:
    lifted = {
        "any_mac": not policy.source_mac,
        "any_source": policy.source_address == "off",
        "any_route": not policy.reverse_path,
        "any_scope": not policy.block_bogons,
        "unguarded": not policy.ra_guard,
        "solicitors": policy.slaac,
        "dhcp_servers": policy.dhcpv6,
        "denies_logged": policy.logging == "denies",
    }
    for name, holds in lifted.items():
        if holds:
            yield name, (), ""
    for router in policy.allowed_routers if policy.ra_guard else ():
        yield "advertisers", (router,), ""


def _rates(policy: InterfacePolicy) -> Iterator[tuple[str, tuple[str, ...], str]]:
    if policy.packets_per_second is not None:
        packets = rate(policy.packets_per_second, policy.burst)
        yield "rate_packets_from", (), packets
        yield "rate_packets_to", (), packets
    yield "rate_neighbours", (), rate(policy.neighbor_per_second)
    yield "rate_echo", (), rate(policy.echo_per_second)
    yield "rate_errors", (), rate(policy.error_per_second)
    yield "rate_multicast", (), rate(policy.multicast_per_second)
    if policy.allowed_routers:
        yield "rate_advertisements", (), rate(policy.advertisements_per_minute, per="minute")
    if policy.connections is not None:
        yield CONNECTIONS, (), f"jump connections_{policy.connections}"


def rate(packets: int, burst: int | None = None, *, per: str = "second") -> str:
    """A limit as nft lists it: ``10000/second burst 1000``; the burst is half of it unless told."""
    burst = packets // 2 if burst is None else burst
    return f"{packets}/{per} burst {max(burst, _LEAST_BURST)}"


@lru_cache(maxsize=1 << 16)
def _hex(address: str) -> str:
    return f"{address_number(address):#x}"


@lru_cache(maxsize=1 << 16)
def _upper(prefix: str) -> str:
    """The first 64 bits of an address or prefix as nft lists raw payload."""
    return f"{address_number(prefix.partition('/')[0]) >> 64:#x}"


def isolating(tap: str) -> Element:
    """Cuts off a link, both ways, whatever else is known of it; see the rules."""
    return Element(ISOLATED, (tap,))


def cutting_off(tap: str, *, bridged: bool) -> frozenset[Element]:
    """``isolating`` in every table that knows of the link."""
    cut = isolating(tap)
    return frozenset({cut, cut._replace(container=BRIDGE + ISOLATED)} if bridged else {cut})


def is_bridged(elements: Iterable[Element]) -> bool:
    """Some of these need our table of the bridge family."""
    return any(entry.container.startswith(BRIDGE) for entry in elements)


def elements_of(ports: Iterable[Port]) -> frozenset[Element]:
    """Union of ``port_elements`` over all ports."""
    return frozenset().union(*map(port_elements, ports))
