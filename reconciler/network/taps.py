"""Ports in the kernel: each brought about step by step, in the order isolation asks for.

The alias comes first, so that whatever a crash leaves can be told to be ours; the link goes
up only when its addresses are settled; it is never set down again. Called by
``network.kernel``.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from reconciler.errors import MetaldError, RefusedError
from reconciler.model.observed import TapState
from reconciler.model.resolved import ALIAS_PREFIX, GATEWAY, GATEWAY_MAC, Port
from reconciler.network.netlink import Address, Link, Neighbour, Netlink, Route
from reconciler.network.sysctls import write_link_sysctls
from reconciler.network.tun import create_tap

_HOST_PREFIX = 128
_GATEWAY_PREFIX = 64


@dataclass(frozen=True, slots=True)
class Tables:
    """One dump of everything, indexed by link."""

    links: Mapping[str, Link]
    addresses: Mapping[int, Sequence[Address]]
    routes: Mapping[int, Sequence[Route]]
    neighbours: Mapping[int, Sequence[Neighbour]]


def read_tables(netlink: Netlink) -> Tables:
    """Dump links, addresses, routes and neighbours; the links first, so a link that goes in
    between only loses entries.
    """
    links = netlink.links()
    addresses: dict[int, list[Address]] = defaultdict(list)
    routes: dict[int, list[Route]] = defaultdict(list)
    neighbours: dict[int, list[Neighbour]] = defaultdict(list)
    for address in netlink.addresses():
        addresses[address.index].append(address)
    for route in netlink.routes():
        routes[route.index].append(route)
    for neighbour in netlink.neighbours():
        neighbours[neighbour.index].append(neighbour)
    return Tables(links, addresses, routes, neighbours)


def is_ours(link: Link) -> bool:
    """The link carries our alias."""
    return link.alias.startswith(ALIAS_PREFIX)


def tap_state(tables: Tables, link: Link) -> TapState:
    """A link of ours as planning compares it."""
    addresses = tables.addresses.get(link.index, ())
    return TapState(
        name=link.name,
        alias=link.alias,
        mac=link.mac,
        up=link.up,
        attached=link.carrier,
        mtu=link.mtu,
        gateway=_has_only_gateway(addresses),
        routes=frozenset(
            route.destination
            for route in tables.routes.get(link.index, ())
            if route.prefix_length == _HOST_PREFIX
        ),
        neighbours=frozenset(
            (entry.address, entry.mac) for entry in tables.neighbours.get(link.index, ())
        ),
        sysctls=link.settings,
    )


def _has_only_gateway(addresses: Sequence[Address]) -> bool:
    return [(entry.address, entry.prefix_length, entry.tentative) for entry in addresses] == [
        (GATEWAY, _GATEWAY_PREFIX, False)
    ]


def raise_tap(netlink: Netlink, tables: Tables, port: Port, sysctls: Mapping[str, int]) -> None:
    """Create or complete one port. Raises MetaldError; running it again completes it."""
    link = tables.links.get(port.tap)
    if link is None:
        create_tap(port.tap)
        link = netlink.link_named(port.tap)
    elif not is_ours(link) and (link.alias or link.kind != "tun"):
        raise RefusedError(
            "a link of this name exists and is not ours",
            subject=port.tap,
            hint=f"rename or remove it: ip link show {port.tap}",
        )
    if link.alias != port.alias:
        netlink.set_link(link.index, ifalias=port.alias)
    if link.mac != GATEWAY_MAC:
        netlink.set_link(link.index, address=GATEWAY_MAC)
    if link.mtu != port.mtu:
        netlink.set_link(link.index, mtu=port.mtu)
    write_link_sysctls(port.tap, sysctls, link.settings)
    _settle_addresses(netlink, link.index, tables.addresses.get(link.index, ()))
    if not link.up:
        netlink.set_link(link.index, state="up")
    _settle_neighbours(netlink, link.index, port, tables.neighbours.get(link.index, ()))
    _settle_routes(netlink, link.index, port, tables.routes.get(link.index, ()))


def _settle_addresses(netlink: Netlink, index: int, found: Sequence[Address]) -> None:
    if _has_only_gateway(found):
        return
    for entry in found:
        netlink.delete_address(index, entry.address, entry.prefix_length)
    netlink.add_address(index, GATEWAY, _GATEWAY_PREFIX)


def _settle_neighbours(
    netlink: Netlink, index: int, port: Port, found: Sequence[Neighbour]
) -> None:
    wanted = dict.fromkeys((*port.addresses, port.link_local), port.mac)
    present = {entry.address: entry.mac for entry in found}
    for address in present.keys() - wanted.keys():
        netlink.delete_neighbour(index, address)
    for address, mac in wanted.items():
        if present.get(address) != mac:
            netlink.set_neighbour(index, address, mac)


def _settle_routes(netlink: Netlink, index: int, port: Port, found: Sequence[Route]) -> None:
    present = {route.destination for route in found if route.prefix_length == _HOST_PREFIX}
    for address in present - set(port.addresses):
        netlink.delete_host_route(index, address)
    for address in port.addresses:
        if address not in present:
            netlink.set_host_route(index, address)


def remove_tap(netlink: Netlink, tables: Tables, name: str) -> None:
    """Delete a link of ours; fine when it is gone. Raises RefusedError for a foreign one."""
    link = tables.links.get(name)
    if link is None:
        return
    # Without alias: ours, cut off between creation and naming; nobody else makes taps by
    # names that only our ledger holds, and planning asks for no others.
    if not is_ours(link) and (link.alias or link.kind != "tun"):
        raise RefusedError("the link is not ours; left alone", subject=name)
    netlink.delete_link(link.index, name)


Failures = dict[str, MetaldError]


def raise_all(ports: Sequence[Port], sysctls: Mapping[str, int]) -> Failures:
    """Raise many ports over one socket and one dump; failures by tap."""
    failures: Failures = {}
    with Netlink() as netlink:
        tables = read_tables(netlink)
        for port in ports:
            try:
                raise_tap(netlink, tables, port, sysctls)
            except MetaldError as error:
                failures[port.tap] = error
    return failures


def remove_all(names: Sequence[str]) -> Failures:
    """Remove many links over one socket and one dump; failures by tap."""
    failures: Failures = {}
    with Netlink() as netlink:
        tables = read_tables(netlink)
        for name in names:
            try:
                remove_tap(netlink, tables, name)
            except MetaldError as error:
                failures[name] = error
    return failures
