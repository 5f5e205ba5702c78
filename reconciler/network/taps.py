"""Ports in the kernel: each brought about step by step, in the order isolation asks for.

The alias comes first, so that whatever a crash leaves can be told to be ours; the link goes
up only when its addresses are settled; it is never set down again. Called by
``network.kernel``.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.errors import MetaldError, TransientError
from reconciler.model.identity import shaper_of
from reconciler.model.observed import Seat, TapState
from reconciler.model.resolved import GATEWAY, Port
from reconciler.network import changes, shaping
from reconciler.network.bridges import Seating
from reconciler.network.netlink import Netlink
from reconciler.network.owned import TAP_KIND, require_ours
from reconciler.network.rtnl import Change, Rtnl
from reconciler.network.shaping import Limits, Shapes
from reconciler.network.sysctls import of_new_links, write_link_sysctls
from reconciler.network.tables import (
    GATEWAY_PREFIX,
    Address,
    Link,
    Neighbour,
    Route,
    Tables,
    has_only_gateway,
    read_tables,
)
from reconciler.network.tun import create_tap

_HOST_PREFIX = 128
_MTU_OF_NEW = 1500  # ether_setup in net/ethernet/eth.c


def tap_state(tables: Tables, link: Link, limits: Limits, seat: Seat | None = None) -> TapState:
    """A link of ours as planning compares it."""
    addresses = tables.addresses.get(link.index, ())
    return TapState(
        name=link.name,
        alias=link.alias,
        mac=link.mac,
        up=link.up,
        attached=link.carrier,
        mtu=link.mtu,
        gateway=has_only_gateway(addresses),
        routes=frozenset(_routed(tables.routes.get(link.index, ()))),
        neighbours=frozenset(
            (entry.address, entry.mac) for entry in tables.neighbours.get(link.index, ())
        ),
        sysctls=link.settings,
        to_guest=limits.to_guest,
        from_guest=limits.from_guest,
        seat=seat,
    )


def _routed(routes: Sequence[Route]) -> set[str]:
    """As ``Port.routes``; what the kernel keeps for a link by itself is none of it."""
    direct = {r.destination for r in routes if r.prefix_length == _HOST_PREFIX and not r.via}
    return direct | {f"{r.destination}/{r.prefix_length} via {r.via}" for r in routes if r.via}


@dataclass(frozen=True, slots=True)
class Settings:
    """Per-link sysctls: what every tap must have, and what a new link has by itself."""

    wanted: Mapping[str, int]
    of_new: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of one port."""

    link: Link
    addresses: Sequence[Address] = ()
    routes: Sequence[Route] = ()
    neighbours: Sequence[Neighbour] = ()
    is_new: bool = False


@dataclass(frozen=True, slots=True)
class Ground:
    """The kernel as it was before: one dump of its tables and token buckets."""

    rtnl: Rtnl
    tables: Tables
    shapes: Shapes
    settings: Settings
    seating: Seating


def raise_tap(ground: Ground, port: Port) -> None:
    """Create or complete one port. Raises MetaldError; running it again completes it."""
    rtnl, settings = ground.rtnl, ground.settings
    found = _found(ground.tables, port.tap, settings.of_new)
    link = found.link
    _take_off_surplus(found, port)
    rtnl.require(*changes.own(link, port.alias, port.mtu, settings.wanted), *_gateway(found))
    if port.bridged or link.master:
        ground.seating.take(link, port)
    _limit(ground, found, port)
    rest = {k: value for k, value in settings.wanted.items() if k not in changes.BY_NETLINK}
    write_link_sysctls(port.tap, rest, link.settings)
    up = () if link.up else (changes.set_up(link.index),)
    rtnl.require(*up, *_entries(found, port))


def _found(tables: Tables, name: str, of_new: Mapping[str, int]) -> _Found:
    """What the dump says of a port; a link that is not there is made, and holds nothing."""
    link = tables.links.get(name)
    if link is None:
        create_tap(name)
        try:
            index = socket.if_nametoindex(name)
        except OSError as error:
            raise TransientError("the tap is gone right after it was made", subject=name) from error
        link = Link(index, name, "", "", TAP_KIND, False, False, _MTU_OF_NEW, 0, of_new)
        return _Found(link, is_new=True)
    require_ours(link)
    return _Found(
        link,
        tables.addresses.get(link.index, ()),
        tables.routes.get(link.index, ()),
        tables.neighbours.get(link.index, ()),
    )


def _limit(ground: Ground, found: _Found, port: Port) -> None:
    """Bandwidth as the port has it, before the link goes up."""
    rtnl, link, wanted = ground.rtnl, found.link, port.policy.bandwidth
    limits = Limits() if found.is_new else ground.shapes.of(link)
    shaper = shaper_of(port.tap)
    there = ground.tables.links.get(shaper)
    if limits == Limits(wanted, wanted) and (there is None or there.alias == port.alias):
        return
    if there is not None:
        require_ours(there)
    if wanted is None:
        rtnl.require(
            shaping.without_bucket(link.index, port.tap),
            shaping.without_redirect(link.index, port.tap),
            shaping.remove_shaper(shaper),
        )
        return
    try:
        rtnl.require(*shaping.make_shaper(port))
        target = socket.if_nametoindex(shaper)
        ways = (
            ()
            if limits.from_guest is not None
            else shaping.redirect(
                link.index,
                target,
                port.tap,
                anew=not found.is_new and ground.shapes.redirects(link),
            )
        )
        rtnl.require(
            shaping.bucket(link.index, port.tap, port),
            shaping.bucket(target, shaper, port),
            *ways,
        )
    except (MetaldError, OSError) as error:
        raise TransientError(
            f"its bandwidth cannot be limited: {error}",
            subject=port.tap,
            hint="the kernel needs ifb, sch_tbf, sch_ingress, cls_u32 and act_mirred; without "
            "them, lift the limit: policy: {rateLimits: {bandwidth: none}}",
        ) from error


def _gateway(found: _Found) -> tuple[Change, ...]:
    if has_only_gateway(found.addresses):
        return ()
    return (changes.add_address(found.link.index, GATEWAY, GATEWAY_PREFIX),)


def _neighbours_of(port: Port) -> dict[str, str]:
    return dict.fromkeys((*port.addresses, port.link_local), port.mac)


def _entries(found: _Found, port: Port) -> list[Change]:
    """Neighbours, then routes, that are not there yet."""
    index = found.link.index
    present = {entry.address: entry.mac for entry in found.neighbours}
    routed = _routed(found.routes)
    return [
        *(
            changes.set_neighbour(index, address, mac)
            for address, mac in _neighbours_of(port).items()
            if present.get(address) != mac
        ),
        *(changes.set_route(index, route) for route in sorted(port.routes - routed)),
    ]


def _take_off_surplus(found: _Found, port: Port) -> None:
    """Remove what the port must not have."""
    index = found.link.index
    addresses = () if has_only_gateway(found.addresses) else found.addresses
    neighbours = {entry.address for entry in found.neighbours} - _neighbours_of(port).keys()
    routes = _routed(found.routes) - port.routes
    if not (addresses or neighbours or routes):
        return
    with Netlink() as netlink:
        for entry in addresses:
            netlink.delete_address(index, entry.address, entry.prefix_length)
        for address in sorted(neighbours):
            netlink.delete_neighbour(index, address)
        for route in sorted(routes):
            netlink.delete_route(index, route.partition(" via ")[0])


Failures = dict[str, MetaldError]


def raise_all(ports: Sequence[Port], sysctls: Mapping[str, int]) -> Failures:
    """Raise many ports over one socket and one dump; failures by tap."""
    failures: Failures = {}
    with Rtnl() as rtnl, Seating(rtnl, sysctls) as seating:
        tables = read_tables(rtnl)
        settings = Settings(sysctls, of_new_links(sysctls))
        ground = Ground(rtnl, tables, Shapes(rtnl, tables.links), settings, seating)
        for port in ports:
            try:
                raise_tap(ground, port)
            except MetaldError as error:
                failures[port.tap] = error
    return failures
