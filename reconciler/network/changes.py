"""The changes metald makes to links, addresses, neighbours and routes, as netlink requests.

Each function packs one request and names the one errno that means "so already". Called by
``taps``, ``bridges``, ``removal``; pure. Layouts as in ``tables``; flags: rtnetlink(7).
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Mapping
from typing import Final

from reconciler.model.resolved import GATEWAY_MAC
from reconciler.network.messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    nested,
)
from reconciler.network.rtnl import Change
from reconciler.network.tables import (
    ADDRESS_HEAD,
    AF_INET,
    AF_INET6,
    IFA_ADDRESS,
    IFA_FLAGS,
    IFF_UP,
    IFLA_ADDRESS,
    IFLA_AF_SPEC,
    IFLA_GROUP,
    IFLA_IFALIAS,
    IFLA_INET6_ADDR_GEN_MODE,
    IFLA_INET_CONF,
    IFLA_MTU,
    IPV4_ARP_IGNORE,
    LINK_HEAD,
    NDA_DST,
    NDA_LLADDR,
    NDA_PROTOCOL,
    NEIGHBOUR_HEAD,
    NTF_PROXY,
    NUD_PERMANENT,
    OUR_PROTOCOL,
    ROUTE_HEAD,
    RT_TABLE_MAIN,
    RTA_DST,
    RTA_GATEWAY,
    RTA_OIF,
    Link,
)

_RTM_SETLINK, _RTM_DELLINK = 19, 17
_RTM_NEWADDR, _RTM_NEWROUTE = 20, 24
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_IFA_LOCAL: Final = 2
_IFA_F_NODAD, _IFA_F_PERMANENT = 0x02, 0x80
_RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST = 4, 0, 1
_HOST_PREFIX: Final = 128
# Of the per-link settings, those that netlink itself can set; the others lie under /proc/sys.
BY_NETLINK: Final = frozenset({"addr_gen_mode", "arp_ignore"})


def _u32(value: int) -> bytes:
    return struct.pack("=I", value)


def _ipv6(address: str) -> bytes:
    return socket.inet_pton(socket.AF_INET6, address)


def set_alias(index: int, alias: str) -> Change:
    """Say whose link it is."""
    return _set_link(index, attribute(IFLA_IFALIAS, alias.encode()))


def set_mac(index: int, mac: str) -> Change:
    """Give the link its MAC."""
    return _set_link(index, attribute(IFLA_ADDRESS, bytes.fromhex(mac.replace(":", ""))))


def set_mtu(index: int, mtu: int) -> Change:
    """Give the link its MTU."""
    return _set_link(index, attribute(IFLA_MTU, _u32(mtu)))


def set_settings(index: int, addr_gen_mode: int, arp_ignore: int) -> Change:
    """The per-link settings of ``BY_NETLINK``."""
    inet = nested(IFLA_INET_CONF, attribute(IPV4_ARP_IGNORE, _u32(arp_ignore)))
    inet6 = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([addr_gen_mode]))
    families = (nested(AF_INET, inet), nested(AF_INET6, inet6))
    return _set_link(index, nested(IFLA_AF_SPEC, *families))


def own(link: Link, alias: str, mtu: int, sysctls: Mapping[str, int]) -> Iterator[Change]:
    """What a link of ours lacks itself, its name to the world first: the MAC is the same on all."""
    if link.alias != alias:
        yield set_alias(link.index, alias)
    if link.mac != GATEWAY_MAC:
        yield set_mac(link.index, GATEWAY_MAC)
    if link.mtu != mtu:
        yield set_mtu(link.index, mtu)
    wanted = {key: sysctls[key] for key in BY_NETLINK}
    if any(link.settings.get(key) != value for key, value in wanted.items()):
        yield set_settings(link.index, **wanted)


def set_group(index: int, group: int) -> Change:
    """Put the link into a group of links."""
    return _set_link(index, attribute(IFLA_GROUP, _u32(group)))


def set_up(index: int) -> Change:
    """Let traffic through. There is no way here to set a link down."""
    body = LINK_HEAD.pack(0, 0, index, IFF_UP, IFF_UP)
    return Change(_RTM_SETLINK, 0, body, f"link {index}")


def _set_link(index: int, values: bytes) -> Change:
    return Change(_RTM_SETLINK, 0, LINK_HEAD.pack(0, 0, index, 0, 0) + values, f"link {index}")


def delete_link(index: int, name: str) -> Change:
    """Delete one link; fine when it is gone already."""
    body = LINK_HEAD.pack(0, 0, index, 0, 0)
    return Change(_RTM_DELLINK, 0, body, name, tolerate=errno.ENODEV)


def delete_group(group: int) -> Change:
    """Delete all links of a group, waiting once instead of once per link."""
    body = LINK_HEAD.pack(0, 0, 0, 0, 0) + attribute(IFLA_GROUP, _u32(group))
    return Change(_RTM_DELLINK, 0, body, f"group {group}", tolerate=errno.ENODEV)


def add_address(index: int, address: str, prefix_length: int) -> Change:
    """Add an address without duplicate address detection; fine when it is there."""
    raw = _ipv6(address)
    flags = _u32(_IFA_F_NODAD | _IFA_F_PERMANENT)
    body = b"".join(
        [
            ADDRESS_HEAD.pack(AF_INET6, prefix_length, 0, 0, index),
            attribute(_IFA_LOCAL, raw),
            attribute(IFA_ADDRESS, raw),
            attribute(IFA_FLAGS, flags),
        ]
    )
    return Change(_RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, body, address, tolerate=errno.EEXIST)


def set_neighbour(index: int, address: str, mac: str) -> Change:
    """Make the neighbour entry permanent with this MAC."""
    head = NEIGHBOUR_HEAD.pack(AF_INET6, index, NUD_PERMANENT, 0, 0)
    raw = bytes.fromhex(mac.replace(":", ""))
    body = head + attribute(NDA_DST, _ipv6(address)) + attribute(NDA_LLADDR, raw)
    return Change(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, body, address)


def set_proxy(index: int, address: str) -> Change:
    """Answer neighbour discovery for an address on a link."""
    return Change(_RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE, _proxy(index, address), address)


def delete_proxy(index: int, address: str) -> Change:
    """Answer for it no more; fine when nobody does."""
    return Change(_RTM_DELNEIGH, 0, _proxy(index, address), address, tolerate=errno.ENOENT)


def _proxy(index: int, address: str) -> bytes:
    head = NEIGHBOUR_HEAD.pack(AF_INET6, index, NUD_PERMANENT, NTF_PROXY, 0)
    whose = attribute(NDA_PROTOCOL, bytes([OUR_PROTOCOL]))
    return head + attribute(NDA_DST, _ipv6(address)) + whose


def set_route(index: int, route: str) -> Change:
    """Route an address, or ``PREFIX via ADDRESS``, to a link, taking it away from whatever link
    had it.
    """
    subject, _, via = route.partition(" via ")
    destination, _, length = subject.partition("/")
    head = ROUTE_HEAD.pack(
        AF_INET6, int(length or _HOST_PREFIX), 0, 0, RT_TABLE_MAIN,
        _RTPROT_STATIC, _RT_SCOPE_UNIVERSE, _RTN_UNICAST, 0,
    )  # fmt: skip
    body = head + attribute(RTA_DST, _ipv6(destination)) + attribute(RTA_OIF, _u32(index))
    if via:
        body += attribute(RTA_GATEWAY, _ipv6(via))
    return Change(_RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE, body, subject)
