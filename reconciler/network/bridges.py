"""Bridges of networks in bridged mode, and the taps on them: what is there, and what makes it so.

A bridge comes with the first tap that is put on it and goes with the last one. Frames for the host
come by the bridge; what the host sends to a guest leaves by the guest's own tap, which keeps its
route and neighbour entry. Where a MAC lives is written down, never learned, unless a policy lets a
guest choose its MAC. Called by ``taps``, ``removal`` and ``kernel``. Layouts:
include/uapi/linux/{if_link,neighbour}.h.
"""

from __future__ import annotations

import errno
import struct
import threading
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Final, Self

from reconciler.errors import MetaldError, RefusedError, TransientError
from reconciler.model.identity import zone_of_bridge
from reconciler.model.observed import BridgeState, Seat, wanted_seat
from reconciler.model.resolved import GATEWAY, GATEWAY_MAC, MTU, Port
from reconciler.network import changes
from reconciler.network.messages import (
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    attribute,
    attributes,
    nested,
)
from reconciler.network.netlink import Netlink
from reconciler.network.owned import BRIDGE_KIND, is_bridge, may_be_ours, require_ours
from reconciler.network.rtnl import Change, Rtnl
from reconciler.network.sysctls import write_link_sysctls
from reconciler.network.tables import (
    GATEWAY_PREFIX,
    IFLA_ADDRESS,
    IFLA_IFNAME,
    IFLA_INFO_DATA,
    IFLA_INFO_KIND,
    IFLA_INFO_SLAVE_DATA,
    IFLA_INFO_SLAVE_KIND,
    IFLA_LINKINFO,
    IFLA_MASTER,
    LINK_HEAD,
    NDA_LLADDR,
    NEIGHBOUR_HEAD,
    Address,
    Link,
    Tables,
    has_only_gateway,
    read_bridge_entries,
    read_links,
    read_tables,
)

_KIND: Final = BRIDGE_KIND.encode() + b"\0"
_RTM_NEWLINK, _RTM_SETLINK = 16, 19
_RTM_NEWNEIGH, _RTM_DELNEIGH = 28, 29
_AF_BRIDGE: Final = 7
_NTF_MASTER, _NTF_STICKY, _NUD_NOARP = 0x04, 0x40, 0x40
_BR_MCAST_SNOOPING, _BR_MCAST_QUERIER, _BR_MCAST_MLD_VERSION = 23, 25, 44
_PORT_LEARNING, _PORT_UNICAST_FLOOD, _PORT_MULTICAST_ROUTER, _PORT_ISOLATED = 8, 9, 25, 33
_NO_ROUTER: Final = 0  # MDB_RTR_TYPE_DISABLED
# One at a time makes a bridge or takes an empty one away.
_TURN: Final = threading.Lock()


# -- what is there --------------------------------------------------------------------------


def bridge_state(tables: Tables, link: Link) -> BridgeState:
    """A bridge of ours as planning compares it."""
    options = attributes(link.options)
    return BridgeState(
        name=link.name,
        alias=link.alias,
        mac=link.mac,
        up=link.up,
        mtu=link.mtu,
        gateway=has_only_gateway(tables.addresses.get(link.index, ())),
        snoops=_is_on(options, _BR_MCAST_SNOOPING),
        queries=_is_on(options, _BR_MCAST_QUERIER),
        sysctls=link.settings,
    )


def seats(rtnl: Rtnl, links: Mapping[str, Link]) -> dict[str, Seat]:
    """Where links are on bridges, by name. Raises UnknownStateError."""
    names = {link.index: link.name for link in links.values() if is_bridge(link)}
    seated = [link for link in links.values() if link.master in names]
    fixed = _fixed(rtnl) if seated else {}
    found = {}
    for link in seated:
        flags = attributes(link.port_options)
        found[link.name] = Seat(
            bridge=names[link.master],
            isolated=_is_on(flags, _PORT_ISOLATED),
            learns=_is_on(flags, _PORT_LEARNING),
            floods=_is_on(flags, _PORT_UNICAST_FLOOD),
            routers=_is_on(flags, _PORT_MULTICAST_ROUTER),
            fixed=frozenset(fixed.get(link.index, ())),
        )
    return found


def links_by_mac() -> dict[str, str]:
    """Links by the MAC that is behind each of them, as bridges have it written down.

    Raises UnknownStateError.
    """
    with Rtnl() as rtnl:
        links = read_links(rtnl)
        return {mac: name for name, seat in seats(rtnl, links).items() for mac in seat.fixed}


def _is_on(options: Mapping[int, bytes], kind: int) -> bool:
    return options.get(kind, b"\0")[:1] != b"\0"


def _fixed(rtnl: Rtnl) -> Mapping[int, set[str]]:
    """MACs that stay where they are, by link."""
    found: dict[int, set[str]] = defaultdict(set)
    for entry in read_bridge_entries(rtnl):
        if entry.state & _NUD_NOARP and entry.flags & _NTF_STICKY:
            found[entry.index].add(entry.mac)
    return found


# -- what makes it so -----------------------------------------------------------------------


class Seating:
    """Puts taps where they are to be, over one socket and the dump that is there already.

    Use inside ``with``: nobody else in this process takes a bridge away meanwhile.
    """

    def __init__(self, rtnl: Rtnl, sysctls: Mapping[str, int]) -> None:
        self._rtnl, self._sysctls = rtnl, sysctls
        self._tables: Tables | None = None
        self._seats: Mapping[str, Seat] = {}
        self._ready: dict[str, int] = {}
        self._left: set[str] = set()

    def __enter__(self) -> Self:
        _TURN.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        try:
            if self._left:
                _remove_empty(self._rtnl, self._left)
        finally:
            _TURN.release()

    def take(self, tap: Link, port: Port) -> None:
        """Put a tap on the bridge of its network, which is as it is to be then, or on none.

        Before the tap goes up. Raises MetaldError; running it again completes it.
        """
        if self._tables is None:
            self._tables = read_tables(self._rtnl)
            self._seats = seats(self._rtnl, self._tables.links)
        found, wanted = self._seats.get(tap.name), wanted_seat(port)
        try:
            if wanted is not None:
                self._put(tap, port, found, wanted)
            elif found is not None:
                self._rtnl.require(_set_master(tap.index, 0, tap.name))
            if found is not None and (wanted is None or wanted.bridge != found.bridge):
                self._left.add(found.bridge)
        except RefusedError:
            raise
        except (MetaldError, OSError) as error:
            raise TransientError(
                f"it cannot be put on its network's bridge: {error}",
                subject=port.tap,
                hint="metald doctor says what of bridged mode this kernel does",
            ) from error

    def _put(self, tap: Link, port: Port, found: Seat | None, wanted: Seat) -> None:
        index = self._ready.get(port.bridge)
        if index is None:
            index = self._ready[port.bridge] = self._raise(port)
        if found is None or found.bridge != wanted.bridge:
            self._rtnl.require(_set_master(tap.index, index, tap.name))
        self._rtnl.require(_port_flags(tap, wanted), *_entries(tap, found, wanted))

    def _raise(self, port: Port) -> int:
        """The bridge of a port's network, made and completed; its number."""
        tables = self._tables
        if tables is None or port.bridge not in tables.links:
            self._rtnl.require(_make(port.bridge))
            tables = self._tables = read_tables(self._rtnl)
        link = tables.links[port.bridge]
        require_ours(link, BRIDGE_KIND)
        own = changes.own(link, port.bridge_alias, MTU, self._sysctls)
        self._rtnl.require(*own, *_options(link))
        addresses = tables.addresses.get(link.index, ())
        if not has_only_gateway(addresses):
            self._settle(link, addresses)
        rest = {k: value for k, value in self._sysctls.items() if k not in changes.BY_NETLINK}
        write_link_sysctls(link.name, rest, link.settings)
        if not link.up:
            self._rtnl.require(changes.set_up(link.index))
        return link.index

    def _settle(self, link: Link, addresses: Sequence[Address]) -> None:
        """The gateway's address, and no other."""
        if addresses:
            with Netlink() as netlink:
                for entry in addresses:
                    netlink.delete_address(link.index, entry.address, entry.prefix_length)
        self._rtnl.require(changes.add_address(link.index, GATEWAY, GATEWAY_PREFIX))


def _options(link: Link) -> Iterator[Change]:
    options = attributes(link.options)
    if not (_is_on(options, _BR_MCAST_SNOOPING) and _is_on(options, _BR_MCAST_QUERIER)):
        yield Change(_RTM_NEWLINK, 0, LINK_HEAD.pack(0, 0, link.index, 0, 0) + _kind(), link.name)


def _make(name: str) -> Change:
    """A bridge; fine when it is there."""
    body = b"".join(
        [
            LINK_HEAD.pack(0, 0, 0, 0, 0),
            attribute(IFLA_IFNAME, name.encode() + b"\0"),
            # The host's side is the same on every link, so that a bridge made anew is the same one.
            attribute(IFLA_ADDRESS, bytes.fromhex(GATEWAY_MAC.replace(":", ""))),
            _kind(),
        ]
    )
    return Change(_RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body, name, tolerate=errno.EEXIST)


def _kind() -> bytes:
    """Multicast goes where somebody listens, and it is asked who does: without a querier, what
    neighbour discovery needs would be forgotten after some minutes.
    """
    options = nested(
        IFLA_INFO_DATA,
        attribute(_BR_MCAST_SNOOPING, b"\1"),
        attribute(_BR_MCAST_QUERIER, b"\1"),
        attribute(_BR_MCAST_MLD_VERSION, b"\2"),
    )
    return nested(IFLA_LINKINFO, attribute(IFLA_INFO_KIND, _KIND), options)


def _set_master(index: int, master: int, name: str) -> Change:
    head = LINK_HEAD.pack(0, 0, index, 0, 0)
    return Change(_RTM_SETLINK, 0, head + attribute(IFLA_MASTER, struct.pack("=I", master)), name)


def _port_flags(tap: Link, seat: Seat) -> Change:
    flags = nested(
        IFLA_INFO_SLAVE_DATA,
        attribute(_PORT_LEARNING, bytes([seat.learns])),
        attribute(_PORT_UNICAST_FLOOD, bytes([seat.floods])),
        attribute(_PORT_MULTICAST_ROUTER, bytes([_NO_ROUTER])),
        attribute(_PORT_ISOLATED, bytes([seat.isolated])),
    )
    kind = nested(IFLA_LINKINFO, attribute(IFLA_INFO_SLAVE_KIND, _KIND), flags)
    return Change(_RTM_NEWLINK, 0, LINK_HEAD.pack(0, 0, tap.index, 0, 0) + kind, tap.name)


def _entries(tap: Link, found: Seat | None, wanted: Seat) -> Iterator[Change]:
    """Of the bridge's forwarding table."""
    there = found.fixed if found is not None and found.bridge == wanted.bridge else frozenset()
    for mac in sorted(there - wanted.fixed):
        body = _entry(tap.index, mac)
        yield Change(_RTM_DELNEIGH, 0, body, mac, tolerate=errno.ENOENT)
    for mac in sorted(wanted.fixed - there):
        flags = NLM_F_CREATE | NLM_F_REPLACE
        yield Change(_RTM_NEWNEIGH, flags, _entry(tap.index, mac), mac)


def _entry(index: int, mac: str) -> bytes:
    head = NEIGHBOUR_HEAD.pack(_AF_BRIDGE, index, _NUD_NOARP, _NTF_MASTER | _NTF_STICKY, 0)
    return head + attribute(NDA_LLADDR, bytes.fromhex(mac.replace(":", "")))


def remove_empty(rtnl: Rtnl, bridges: AbstractSet[str]) -> None:
    """Delete those of these bridges that are ours and no link is on. Raises MetaldError."""
    with _TURN:
        _remove_empty(rtnl, bridges)


def _remove_empty(rtnl: Rtnl, bridges: AbstractSet[str]) -> None:
    links = read_links(rtnl)
    used = {link.master for link in links.values()}
    for name in sorted(bridges & links.keys()):
        link = links[name]
        ours = is_bridge(link) and may_be_ours(link) and zone_of_bridge(name) is not None
        if ours and link.index not in used:
            rtnl.require(changes.delete_link(link.index, name))
