"""A host as its specs describe it: every identity by the name of what it identifies.

Two hosts that hold the same specs give the same picture, whatever their uids, MACs and
drawn addresses are.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv6Address, IPv6Network
from typing import Any

from reconciler.model import identity
from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import Element, zone_class
from reconciler.model.identity import bridge_of
from reconciler.model.ledger import Managed
from reconciler.model.observed import TapState, VmState
from tests.planning.world import World

# Where the keys of these elements hold zones.
_ZONE_PARTS = {"members": (0,), "allow": (0, 1), "class_of_segment": (0,)}


def picture(
    host: World, managed: Mapping[ResourceAddress, Managed], *, without: frozenset[str]
) -> dict[str, Any]:
    """Without the uids and taps in ``without``: they belong to others."""
    names, zones = names_of(managed)
    addresses = {entry.uid: entry.address for entry in managed.values()}
    vms = {
        addresses.get(uid, uid): (
            state.phase.value, state.launch.hypervisor, state.launch.vcpus,
            state.launch.memory_bytes, [names.get(e.tap, e.tap) for e in state.launch.interfaces],
            [names.get(a, a) for e in state.launch.interfaces for a in e.addresses],
            state.boot_id == host.boot_id,
        )
        for uid, state in host.vms.items()
        if isinstance(state, VmState) and uid not in without
    }  # fmt: skip
    taps = {
        names.get(name, name): (
            tap.up, tap.attached, tap.mtu, tap.gateway, tap.mac,
            sorted(names.get(route, route) for route in tap.routes),
            sorted((names.get(a, a), names.get(mac, mac)) for a, mac in tap.neighbours),
            tap.alias.split("#")[0], dict(tap.sysctls), _seat(tap, names),
        )
        for name, tap in host.taps.items()
        if name not in without
    }  # fmt: skip
    elements = sorted(
        _named(element, names, zones)
        for element in host.elements
        if not without.intersection(element.key)
    )
    return {
        "resources": sorted(managed), "vms": vms, "taps": taps, "elements": elements,
        "rules": host.listing, "sysctls": dict(host.sysctls),
        "bridges": sorted(names.get(name, name) for name in host.bridges),
    }  # fmt: skip


def _seat(tap: TapState, names: Mapping[str, str]) -> list[Any]:
    seat = tap.seat
    if seat is None:
        return []
    fixed = sorted(names.get(mac, mac) for mac in seat.fixed)
    return [names.get(seat.bridge, seat.bridge), seat.isolated, seat.learns, fixed]


def names_of(
    managed: Mapping[ResourceAddress, Managed],
) -> tuple[dict[str, str], dict[str, str]]:
    """(what interfaces hold, zones) to the name of what it identifies."""
    names: dict[str, str] = {}
    zones: dict[str, str] = {}
    for address, entry in managed.items():
        if "zone" in entry.spec:
            zone = entry.spec["zone"]
            zones |= {str(zone): address, zone_class(zone): address}
            upper = int(IPv6Network(entry.spec["prefix"]).network_address) >> 64
            names[f"{upper:#x}"] = f"{address} prefix"
            names[bridge_of(zone)] = f"{address} bridge"
        for interface in entry.spec.get("interfaces", ()):
            port = f"{address}#{interface['network']}"
            local = str(identity.link_local_of(interface["mac"]))
            names |= {interface["tap"]: port, interface["mac"]: f"{port} MAC"}
            for kind, value in ((" local", local), *(("", a) for a in interface["addresses"])):
                names[value] = f"{port} address{kind}"
                names[f"{int(IPv6Address(value)):#x}"] = f"{port} number{kind}"
    return names, zones


def _named(
    element: Element, names: Mapping[str, str], zones: Mapping[str, str]
) -> tuple[str, tuple[str, ...], str]:
    key = [names.get(part, part) for part in element.key]
    for index in _ZONE_PARTS.get(element.container, ()):
        key[index] = zones.get(element.key[index], f"zone {element.key[index]}")
    return element.container, tuple(key), zones.get(element.value, element.value)
