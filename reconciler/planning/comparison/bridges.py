"""Bridges of networks in bridged mode: how they and the taps on them differ from what is wanted.

A bridge comes and goes with the taps on it (``network.bridges``), so it is compared with each of
them. One that is left without any is ``host``'s to remove. Called by ``ports`` and ``host``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from types import MappingProxyType
from typing import Any, Final

from reconciler.model.identity import zone_of_bridge
from reconciler.model.ledger import Ledger
from reconciler.model.observed import BridgeState, NetworkState, Seat, TapState, wanted_seat
from reconciler.model.resolved import GATEWAY_MAC, MTU, TAP_SYSCTLS, Port

# Name, what is there, what is to be.
Difference = tuple[str, Any, Any]
Bridges = Mapping[str, BridgeState]
NONE: Final[Bridges] = MappingProxyType({})
_NOWHERE: Final = Seat("")


def is_seated(port: Port, state: TapState, bridges: Bridges) -> bool:
    """A bridged port's tap is where it is to be, and the bridge as well."""
    return not any(found != want for _, found, want in seat_differences(port, state, bridges))


def seat_differences(port: Port, state: TapState, bridges: Bridges) -> Iterator[Difference]:
    """Everything that a tap's place on a bridge, and the bridge, are compared by."""
    found, wanted = state.seat or _NOWHERE, wanted_seat(port) or _NOWHERE
    yield "bridge", found.bridge, wanted.bridge
    if not port.bridged:
        return
    yield "bridge.isolated", found.isolated, wanted.isolated
    yield "bridge.learns", found.learns, wanted.learns
    yield "bridge.floods", found.floods, wanted.floods
    yield "bridge.routers", found.routers, wanted.routers
    yield "bridge.fixed", sorted(found.fixed), sorted(wanted.fixed)
    bridge = bridges.get(port.bridge)
    if bridge is None:
        yield f"{port.bridge}.link", None, port.bridge
    else:
        yield from _bridge(bridge, port)


def _bridge(bridge: BridgeState, port: Port) -> Iterator[Difference]:
    yield f"{bridge.name}.alias", bridge.alias, port.bridge_alias
    yield f"{bridge.name}.mac", bridge.mac, GATEWAY_MAC
    yield f"{bridge.name}.up", bridge.up, True
    yield f"{bridge.name}.mtu", bridge.mtu, MTU
    yield f"{bridge.name}.gateway", bridge.gateway, True
    yield f"{bridge.name}.snoops", bridge.snoops, True
    yield f"{bridge.name}.queries", bridge.queries, True
    for key, value in TAP_SYSCTLS.items():
        yield f"{bridge.name}.sysctls.{key}", bridge.sysctls.get(key), value


def left_bridges(network: NetworkState, ledger: Ledger, used: AbstractSet[str]) -> Iterator[str]:
    """Bridges that are ours, for their number is one of our ledger's, and that nobody uses."""
    nameless = (name for name in network.foreign if zone_of_bridge(name) is not None)
    for name in sorted({*network.bridges, *nameless} - used):
        zone = zone_of_bridge(name)
        if zone is not None and ("zone", zone) in ledger.taken:
            yield name
