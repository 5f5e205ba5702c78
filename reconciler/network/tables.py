"""The kernel's tables as plain frozen data: links, addresses, routes, neighbours.

Parsed out of the bodies of a netlink dump, strictly: an entry without what every entry of its
kind has is UnknownStateError. Called by ``taps`` and ``sysctls``; pure but for the dump that
``rtnl`` makes. Layouts: include/uapi/linux/{if_link,if_addr,rtnetlink,neighbour,ipv6}.h.
"""

from __future__ import annotations

import socket
import struct
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from reconciler.errors import UnknownStateError
from reconciler.model.resolved import GATEWAY
from reconciler.network.messages import attributes, text
from reconciler.network.rtnl import Rtnl

AF_INET, AF_INET6 = 2, 10
LINK_HEAD: Final = struct.Struct("=BxHiII")  # family, type, index, flags, changed flags
ADDRESS_HEAD: Final = struct.Struct("=BBBBI")  # family, prefix length, flags, scope, index
ROUTE_HEAD: Final = struct.Struct("=BBBBBBBBI")  # family, lengths, tos, table, proto, …, flags
NEIGHBOUR_HEAD: Final = struct.Struct("=BxxxiHBB")  # family, index, state, flags, type
_NEXT_HOP: Final = struct.Struct("=HBBi")  # length, flags, hops, index
_U32: Final = struct.Struct("=I")
_I32: Final = struct.Struct("=i")

_RTM_NEWLINK, _RTM_GETLINK = 16, 18
_RTM_NEWADDR, _RTM_GETADDR = 20, 22
_RTM_NEWROUTE, _RTM_GETROUTE = 24, 26
_RTM_NEWNEIGH, _RTM_GETNEIGH = 28, 30

IFLA_ADDRESS, IFLA_IFNAME, IFLA_MTU, IFLA_IFALIAS = 1, 3, 4, 20
IFLA_AF_SPEC, IFLA_GROUP, IFLA_EXT_MASK = 26, 27, 29
IFLA_MASTER, IFLA_LINKINFO = 10, 18
IFLA_INFO_KIND, IFLA_INFO_DATA, IFLA_INFO_SLAVE_KIND, IFLA_INFO_SLAVE_DATA = 1, 2, 4, 5
IFLA_INET_CONF, _IFLA_INET6_CONF, IFLA_INET6_ADDR_GEN_MODE = 1, 2, 8
IPV4_ARP_IGNORE: Final = 19  # counted from one, in if_link.h's list of IPV4_DEVCONF_*
# Positions in IFLA_INET6_CONF: DEVCONF_* in include/uapi/linux/ipv6.h.
_INET6_SETTINGS: Final = {
    "accept_ra": 3, "accept_redirects": 4, "proxy_ndp": 22, "accept_source_route": 24,
}  # fmt: skip
_RTEXT_FILTER_SKIP_STATS: Final = 1 << 3
IFF_UP: Final = 0x1
_IFF_LOWER_UP: Final = 0x10000
IFA_ADDRESS, IFA_FLAGS = 1, 8
_IFA_F_TENTATIVE: Final = 0x40
RTA_DST, RTA_OIF, RTA_GATEWAY, _RTA_MULTIPATH, RTA_TABLE, _RTA_NH_ID = 1, 4, 5, 9, 15, 30
RT_TABLE_MAIN: Final = 254
_RTN_UNICAST, _RTPROT_RA, _RTM_F_CLONED = 1, 9, 0x200
NDA_DST, NDA_LLADDR, NDA_PROTOCOL = 1, 2, 12
NUD_PERMANENT: Final = 0x80
NTF_PROXY: Final = 0x08
# Whose an entry is, of the numbers that rtnetlink leaves to its users (rtnetlink.h).
OUR_PROTOCOL: Final = 109
_KNOWN: Final = 1 << 15
_AF_BRIDGE, _NDA_MASTER, _BRIDGE = 7, 9, "bridge"
GATEWAY_PREFIX: Final = 64


@dataclass(frozen=True, slots=True)
class Link:
    """One link. ``carrier``: its lower side is connected (for a tap: a VMM has it open).

    ``settings``: per-link sysctls by short name, out of the dump itself, sparing file reads.
    ``master``: number of the link it is part of, 0 for none; of a bridge its ``options``, and of a
    link on one its ``port_options``, as attributes.
    """

    index: int
    name: str
    alias: str
    mac: str
    kind: str
    up: bool
    carrier: bool
    mtu: int
    group: int
    settings: Mapping[str, int]
    master: int = 0
    options: bytes = b""
    port_options: bytes = b""


@dataclass(frozen=True, slots=True)
class Address:
    """One IPv6 address on a link."""

    index: int
    address: str
    prefix_length: int
    tentative: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast IPv6 route of the main table; ``destination`` is empty for the default,
    ``via`` for what is on the link itself.
    """

    index: int
    destination: str
    prefix_length: int
    from_ra: bool
    via: str = ""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One permanent IPv6 neighbour entry."""

    index: int
    address: str
    mac: str


@dataclass(frozen=True, slots=True)
class BridgeEntry:
    """Where a bridge sends frames for a MAC; ``state`` and ``flags`` as in neighbour.h."""

    index: int
    mac: str
    state: int
    flags: int


@dataclass(frozen=True, slots=True)
class Tables:
    """One dump of everything, indexed by link."""

    links: Mapping[str, Link]
    addresses: Mapping[int, Sequence[Address]]
    routes: Mapping[int, Sequence[Route]]
    neighbours: Mapping[int, Sequence[Neighbour]]


def read_tables(rtnl: Rtnl) -> Tables:
    """Dump links, addresses, routes and neighbours; the links first, so a link that goes in
    between only loses entries. Raises UnknownStateError.
    """
    links = read_links(rtnl)
    addresses: dict[int, list[Address]] = defaultdict(list)
    routes: dict[int, list[Route]] = defaultdict(list)
    neighbours: dict[int, list[Neighbour]] = defaultdict(list)
    for address in read_addresses(rtnl):
        addresses[address.index].append(address)
    for route in read_routes(rtnl):
        routes[route.index].append(route)
    for neighbour in read_neighbours(rtnl):
        neighbours[neighbour.index].append(neighbour)
    return Tables(links, addresses, routes, neighbours)


def read_links(rtnl: Rtnl) -> dict[str, Link]:
    """All links by name."""
    mask = struct.pack("=HHI", 8, IFLA_EXT_MASK, _RTEXT_FILTER_SKIP_STATS)
    question = LINK_HEAD.pack(0, 0, 0, 0, 0) + mask
    found = [parse_link(body) for body in rtnl.dump(_RTM_GETLINK, _RTM_NEWLINK, question)]
    return {link.name: link for link in found}


def read_addresses(rtnl: Rtnl) -> list[Address]:
    """All IPv6 addresses."""
    question = ADDRESS_HEAD.pack(AF_INET6, 0, 0, 0, 0)
    return [parse_address(body) for body in rtnl.dump(_RTM_GETADDR, _RTM_NEWADDR, question)]


def read_routes(rtnl: Rtnl) -> list[Route]:
    """Unicast IPv6 routes of the main table, as the kernel matches them."""
    question = ROUTE_HEAD.pack(AF_INET6, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0)
    bodies = rtnl.dump(_RTM_GETROUTE, _RTM_NEWROUTE, question)
    return [route for body in bodies for route in parse_routes(body)]


def read_neighbours(rtnl: Rtnl) -> list[Neighbour]:
    """Permanent IPv6 neighbour entries."""
    question = NEIGHBOUR_HEAD.pack(AF_INET6, 0, 0, 0, 0)
    bodies = rtnl.dump(_RTM_GETNEIGH, _RTM_NEWNEIGH, question)
    return [entry for body in bodies for entry in parse_neighbour(body)]


def read_proxies(rtnl: Rtnl) -> list[tuple[int, str]]:
    """(link, address) of what the host answers neighbour discovery for, as far as it is ours."""
    question = NEIGHBOUR_HEAD.pack(AF_INET6, 0, 0, NTF_PROXY, 0)
    found = []
    for body in rtnl.dump(_RTM_GETNEIGH, _RTM_NEWNEIGH, question):
        _, index, _, flags, _ = _head(NEIGHBOUR_HEAD, body)
        told = attributes(body, NEIGHBOUR_HEAD.size)
        if flags & NTF_PROXY and told.get(NDA_PROTOCOL) == bytes([OUR_PROTOCOL]):
            found.append((index, _ipv6(_needed(told, NDA_DST, "proxy entry"))))
    return found


def read_bridge_entries(rtnl: Rtnl) -> list[BridgeEntry]:
    """Forwarding entries of all bridges."""
    question = NEIGHBOUR_HEAD.pack(_AF_BRIDGE, 0, 0, 0, 0)
    found = []
    for body in rtnl.dump(_RTM_GETNEIGH, _RTM_NEWNEIGH, question):
        _, index, state, flags, _ = _head(NEIGHBOUR_HEAD, body, _AF_BRIDGE)
        told = attributes(body, NEIGHBOUR_HEAD.size)
        if _NDA_MASTER in told:
            mac = _needed(told, NDA_LLADDR, "bridge entry").hex(":")
            found.append(BridgeEntry(index, mac, state, flags))
    return found


def has_only_gateway(addresses: Sequence[Address]) -> bool:
    """A link has the gateway's address, usable, and no other."""
    return [(entry.address, entry.prefix_length, entry.tentative) for entry in addresses] == [
        (GATEWAY, GATEWAY_PREFIX, False)
    ]


# -- one entry ----------------------------------------------------------------------------


def _head(layout: struct.Struct, body: bytes, family: int | None = AF_INET6) -> tuple[int, ...]:
    if len(body) < layout.size:
        raise UnknownStateError("a netlink message ends inside its fixed part")
    fields = layout.unpack_from(body)
    if family is not None and fields[0] != family:
        raise UnknownStateError(f"a netlink dump holds the address family {fields[0]}")
    return fields


# What did not change since the last look is the same bytes: most of a pass that finds nothing.
@lru_cache(maxsize=_KNOWN)
def parse_link(body: bytes) -> Link:
    """RTM_NEWLINK."""
    _, _, index, flags, _ = _head(LINK_HEAD, body, 0)
    found = attributes(body, LINK_HEAD.size)
    name = text(_needed(found, IFLA_IFNAME, "link"))
    if not name or index <= 0:
        raise UnknownStateError("a netlink dump holds a link without name or number")
    info = attributes(found.get(IFLA_LINKINFO, b""))
    kind = text(info.get(IFLA_INFO_KIND, b""))
    seated = text(info.get(IFLA_INFO_SLAVE_KIND, b"")) == _BRIDGE
    return Link(
        index=index,
        name=name,
        alias=text(found.get(IFLA_IFALIAS, b"")),
        mac=found.get(IFLA_ADDRESS, b"").hex(":"),
        kind=kind,
        up=bool(flags & IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        mtu=_number(_U32, _needed(found, IFLA_MTU, "link")),
        group=_number(_U32, found.get(IFLA_GROUP, bytes(4))),
        settings=_settings(found.get(IFLA_AF_SPEC, b"")),
        master=_number(_U32, found.get(IFLA_MASTER, bytes(4))),
        options=info.get(IFLA_INFO_DATA, b"") if kind == _BRIDGE else b"",
        port_options=info.get(IFLA_INFO_SLAVE_DATA, b"") if seated else b"",
    )


def _settings(families: bytes) -> dict[str, int]:
    by_family = attributes(families)
    found: dict[str, int] = {}
    inet6 = attributes(by_family.get(AF_INET6, b""))
    conf = inet6.get(_IFLA_INET6_CONF)
    if conf is not None:
        for setting, position in _INET6_SETTINGS.items():
            found[setting] = _at(conf, position)
    mode = inet6.get(IFLA_INET6_ADDR_GEN_MODE)
    if mode:
        found["addr_gen_mode"] = mode[0]
    conf = attributes(by_family.get(AF_INET, b"")).get(IFLA_INET_CONF)
    if conf is not None:
        found["arp_ignore"] = _at(conf, IPV4_ARP_IGNORE - 1)
    return found


def _at(conf: bytes, position: int) -> int:
    if len(conf) < 4 * position + 4:
        raise UnknownStateError("a netlink list of settings is cut short")
    value: int = _I32.unpack_from(conf, 4 * position)[0]
    return value


def parse_address(body: bytes) -> Address:
    """RTM_NEWADDR."""
    _, length, flags, _, index = _head(ADDRESS_HEAD, body)
    found = attributes(body, ADDRESS_HEAD.size)
    flags = _number(_U32, found[IFA_FLAGS]) if IFA_FLAGS in found else flags
    address = _ipv6(_needed(found, IFA_ADDRESS, "address"))
    return Address(index, address, length, bool(flags & _IFA_F_TENTATIVE))


@lru_cache(maxsize=_KNOWN)
def parse_routes(body: bytes) -> tuple[Route, ...]:
    """RTM_NEWROUTE: an entry per next hop, for the kernel folds equal routes into one; none
    for what is not a unicast route of the main table.
    """
    _, length, _, _, table, proto, _, kind, flags = _head(ROUTE_HEAD, body)
    found = attributes(body, ROUTE_HEAD.size)
    table = _number(_U32, found[RTA_TABLE]) if RTA_TABLE in found else table
    if table != RT_TABLE_MAIN or kind != _RTN_UNICAST or flags & _RTM_F_CLONED:
        return ()
    destination = _ipv6(_needed(found, RTA_DST, "route")) if length else ""
    if _RTA_MULTIPATH in found:
        indexes = list(_next_hops(found[_RTA_MULTIPATH]))
    elif _RTA_NH_ID in found and RTA_OIF not in found:
        return ()  # by a next hop object alone (sysctl nexthop_compat_mode=0): never ours
    else:
        indexes = [_number(_U32, _needed(found, RTA_OIF, "route"))]
    via = _ipv6(found[RTA_GATEWAY]) if RTA_GATEWAY in found else ""
    return tuple(Route(index, destination, length, proto == _RTPROT_RA, via) for index in indexes)


def _next_hops(raw: bytes) -> Iterator[int]:
    position = 0
    while position < len(raw):
        if len(raw) - position < _NEXT_HOP.size:
            raise UnknownStateError("a netlink list of next hops is cut short")
        length, _, _, index = _NEXT_HOP.unpack_from(raw, position)
        if length < _NEXT_HOP.size or position + length > len(raw):
            raise UnknownStateError("a next hop does not fit its netlink list")
        yield index
        position += (length + 3) & ~3


def parse_neighbour(body: bytes) -> Iterator[Neighbour]:
    """RTM_NEWNEIGH: none for an entry that is not permanent or has no MAC."""
    _, index, state, _, _ = _head(NEIGHBOUR_HEAD, body)
    found = attributes(body, NEIGHBOUR_HEAD.size)
    if state & NUD_PERMANENT and found.get(NDA_LLADDR):
        address = _ipv6(_needed(found, NDA_DST, "neighbour"))
        yield Neighbour(index, address, found[NDA_LLADDR].hex(":"))


def _needed(found: Mapping[int, bytes], kind: int, what: str) -> bytes:
    if kind not in found:
        raise UnknownStateError(f"a netlink dump holds a {what} without attribute {kind}")
    return found[kind]


def _number(layout: struct.Struct, raw: bytes) -> int:
    if len(raw) != layout.size:
        raise UnknownStateError("a netlink number has another size")
    number: int = layout.unpack(raw)[0]
    return number


def _ipv6(raw: bytes) -> str:
    if len(raw) != 16:  # noqa: PLR2004 - the size of an IPv6 address
        raise UnknownStateError("a netlink IPv6 address has another size")
    return socket.inet_ntop(socket.AF_INET6, raw)
