"""The one module that speaks netlink, through pyroute2: dumps in, single changes out.

Everything returned is plain frozen data. Every failure of a dump is UnknownStateError: a
table that could not be read is not an empty table.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Self

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from reconciler.errors import MetaldError, TransientError, UnknownStateError

_IFF_UP, _IFF_LOWER_UP = 0x1, 0x10000
_AF_INET6 = 10
_IFA_F_NODAD, _IFA_F_PERMANENT, _IFA_F_TENTATIVE = 0x02, 0x80, 0x40
_NUD_PERMANENT = 0x80
_RTPROT_RA = 9
_RT_TABLE_MAIN = 254
_DUMP_ATTEMPTS = 5


@dataclass(frozen=True, slots=True)
class Link:
    """One link. ``carrier``: its lower side is connected (for a tap: a VMM has it open)."""

    index: int
    name: str
    alias: str
    mac: str
    kind: str
    up: bool
    carrier: bool
    mtu: int
    settings: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Address:
    """One IPv6 address on a link."""

    index: int
    address: str
    prefix_length: int
    tentative: bool


@dataclass(frozen=True, slots=True)
class Route:
    """One unicast IPv6 route of the main table; ``destination`` is empty for the default."""

    index: int
    destination: str
    prefix_length: int
    from_ra: bool


@dataclass(frozen=True, slots=True)
class Neighbour:
    """One permanent IPv6 neighbour entry."""

    index: int
    address: str
    mac: str


class Netlink:
    """A netlink socket in the calling thread's network namespace; use inside ``with``."""

    def __init__(self) -> None:
        """Open the socket. Raises UnknownStateError when the kernel gives none."""
        try:
            self._socket = IPRoute()
        except OSError as error:
            raise UnknownStateError(f"no netlink socket: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    # -- dumps ----------------------------------------------------------------------------

    def links(self) -> dict[str, Link]:
        """All links by name."""
        return {
            link.name: link
            for link in (_link(m) for m in self._dump(lambda: self._socket.link("dump")))
        }

    def link_named(self, name: str) -> Link:
        """One link. Raises TransientError when there is none of that name."""
        with _explained(name):
            return _link(self._socket.link("get", ifname=name)[0])

    def addresses(self) -> list[Address]:
        """All IPv6 addresses."""
        messages = self._dump(lambda: self._socket.addr("dump", family=_AF_INET6))
        return [_address(message) for message in messages]

    def routes(self) -> list[Route]:
        """Unicast IPv6 routes of the main table, as the kernel matches them."""
        messages = self._dump(
            lambda: self._socket.route("dump", family=_AF_INET6, table=_RT_TABLE_MAIN)
        )
        return [
            route
            for message in messages
            if message.get("RTA_TABLE") == _RT_TABLE_MAIN and message["type"] == 1
            for route in _routes(message)
        ]

    def neighbours(self) -> list[Neighbour]:
        """Permanent IPv6 neighbour entries."""
        messages = self._dump(lambda: self._socket.neigh("dump", family=_AF_INET6))
        return [
            Neighbour(m["ifindex"], m.get("NDA_DST"), m.get("NDA_LLADDR"))
            for m in messages
            if m["state"] & _NUD_PERMANENT and m.get("NDA_LLADDR")
        ]

    def _dump(self, request: Callable[[], Iterable[Any]]) -> list[Any]:
        for _ in range(_DUMP_ATTEMPTS):
            try:
                return list(request())
            except NetlinkDumpInterrupted:
                continue  # the table changed while the kernel wrote it out
            except (NetlinkError, OSError) as error:
                raise UnknownStateError(f"netlink dump failed: {error}") from error
        raise UnknownStateError("netlink tables change faster than they can be read")

    # -- changes --------------------------------------------------------------------------

    def set_link(self, index: int, **values: Any) -> None:
        """Change a link (``alias``, ``mtu``, ``state``)."""
        with _explained(f"link {index}"):
            self._socket.link("set", index=index, **values)

    def delete_link(self, index: int, name: str) -> None:
        """Delete a link; fine when it is gone already."""
        with _explained(name, tolerate=errno.ENODEV):
            self._socket.link("del", index=index)

    def add_address(self, index: int, address: str, prefix_length: int) -> None:
        """Add an address without duplicate address detection; fine when it is there."""
        with _explained(address, tolerate=errno.EEXIST):
            self._socket.addr(
                "add", index=index, address=address, prefixlen=prefix_length,
                family=_AF_INET6, flags=_IFA_F_NODAD | _IFA_F_PERMANENT,
            )  # fmt: skip

    def delete_address(self, index: int, address: str, prefix_length: int) -> None:
        """Remove an address; fine when it is gone."""
        with _explained(address, tolerate=errno.EADDRNOTAVAIL):
            self._socket.addr(
                "del", index=index, address=address, prefixlen=prefix_length, family=_AF_INET6
            )

    def set_neighbour(self, index: int, address: str, mac: str) -> None:
        """Make the neighbour entry permanent with this MAC."""
        with _explained(address):
            self._socket.neigh(
                "replace", ifindex=index, dst=address, lladdr=mac,
                family=_AF_INET6, state=_NUD_PERMANENT,
            )  # fmt: skip

    def delete_neighbour(self, index: int, address: str) -> None:
        """Remove a neighbour entry; fine when it is gone."""
        with _explained(address, tolerate=errno.ENOENT):
            self._socket.neigh("del", ifindex=index, dst=address, family=_AF_INET6)

    def set_host_route(self, index: int, address: str) -> None:
        """Route a /128 to a link, taking it away from whatever link had it."""
        with _explained(f"{address}/128"):
            self._socket.route("replace", dst=f"{address}/128", oif=index, family=_AF_INET6)

    def delete_host_route(self, index: int, address: str) -> None:
        """Remove a /128 route of a link; fine when it is gone."""
        with _explained(f"{address}/128", tolerate=errno.ESRCH):
            self._socket.route("del", dst=f"{address}/128", oif=index, family=_AF_INET6)


@contextmanager
def _explained(subject: str, *, tolerate: int = 0) -> Iterator[None]:
    """Turn netlink's errors into ours; ``tolerate`` is the one code that means "so already"."""
    try:
        yield
    except NetlinkError as error:
        if error.code != tolerate:
            raise TransientError(f"netlink refused: {error}", subject=subject) from error
    except OSError as error:
        raise MetaldError(f"netlink failed: {error}", subject=subject) from error


def _link(message: Any) -> Link:
    info = message.get("IFLA_LINKINFO")
    flags = message["flags"]
    return Link(
        index=message["index"],
        name=message.get("IFLA_IFNAME"),
        alias=message.get("IFLA_IFALIAS") or "",
        mac=message.get("IFLA_ADDRESS") or "",
        kind=(info.get("IFLA_INFO_KIND") if info else None) or "",
        up=bool(flags & _IFF_UP),
        carrier=bool(flags & _IFF_LOWER_UP),
        mtu=message.get("IFLA_MTU") or 0,
        settings=_settings(message),
    )


def _settings(message: Any) -> dict[str, int]:
    """Per-link sysctls out of the link dump itself (IFLA_INET6_CONF), sparing file reads."""
    families = message.get("IFLA_AF_SPEC")
    found: dict[str, int] = {}
    inet6 = families.get("AF_INET6") if families else None
    if inet6:
        conf = inet6.get("IFLA_INET6_CONF") or {}
        for key in ("accept_ra", "accept_redirects", "accept_source_route", "proxy_ndp"):
            if key in conf:
                found[key] = conf[key]
        mode = inet6.get("IFLA_INET6_ADDR_GEN_MODE")
        if mode is not None:
            found["addr_gen_mode"] = mode
    inet = families.get("AF_INET") if families else None
    if inet and "arp_ignore" in inet:
        found["arp_ignore"] = inet["arp_ignore"]
    return found


def _address(message: Any) -> Address:
    flags = message.get("IFA_FLAGS") or message["flags"]
    return Address(
        message["index"], message.get("IFA_ADDRESS"), message["prefixlen"],
        bool(flags & _IFA_F_TENTATIVE),
    )  # fmt: skip


def _routes(message: Any) -> Iterator[Route]:
    """One entry per next hop: the kernel folds equal routes into a multipath one."""
    destination = message.get("RTA_DST") or ""
    from_ra = message["proto"] == _RTPROT_RA
    length = message["dst_len"]
    hops = message.get("RTA_MULTIPATH")
    if hops:
        for hop in hops:
            yield Route(hop["oif"], destination, length, from_ra)
    elif message.get("RTA_OIF"):
        yield Route(message.get("RTA_OIF"), destination, length, from_ra)
