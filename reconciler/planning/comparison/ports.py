"""A VM's ports against the kernel: which steps bring them about, which take them away.

Order is part of isolation (law 6): firewall elements before the tap goes up, and until the
tap is gone.
"""

from __future__ import annotations

from collections.abc import Iterable
from collections.abc import Set as AbstractSet
from typing import Any

from reconciler.model.firewall import Element, cutting_off, port_elements
from reconciler.model.ledger import Ledger
from reconciler.model.observed import NetworkState, TapState
from reconciler.model.plan import AttachTap, ChangeElements, FieldChange, RaiseTap, RemoveTap
from reconciler.model.resolved import (
    GATEWAY_MAC,
    TAP_SYSCTLS,
    LaunchSpec,
    Port,
    interface_name,
)
from reconciler.planning.comparison.bridges import NONE, Bridges, is_seated, seat_differences
from reconciler.planning.comparison.draft import FIREWALL, SYSCTLS, Draft
from reconciler.planning.memo import Memo


def port_differences(
    port: Port, state: TapState | None, bridges: Bridges = NONE
) -> tuple[FieldChange, ...]:
    """How a tap, and the bridge it is to be on, differ from a port; an absent tap is one
    difference.
    """
    if state is not None and _is_as_wanted(port, state, bridges):
        return ()
    path = status_path(port)
    if state is None:
        return (FieldChange(f"{path}.link", None, port.tap),)
    addresses = frozenset((*port.addresses, port.link_local))
    wanted: tuple[tuple[str, Any, Any], ...] = (
        ("alias", state.alias, port.alias),
        ("mac", state.mac, GATEWAY_MAC),
        ("up", state.up, True),
        ("mtu", state.mtu, port.mtu),
        ("gateway", state.gateway, True),
        ("routes", sorted(state.routes), sorted(port.routes)),
        (
            "neighbours",
            sorted(" ".join(pair) for pair in state.neighbours),
            sorted(f"{address} {port.mac}" for address in addresses),
        ),
        *seat_differences(port, state, bridges),
        ("bandwidth.toGuest", state.to_guest, port.policy.bandwidth),
        ("bandwidth.fromGuest", state.from_guest, port.policy.bandwidth),
        *((f"sysctls.{key}", state.sysctls.get(key), value) for key, value in TAP_SYSCTLS.items()),
    )
    return tuple(
        FieldChange(f"{path}.{name}", found, want) for name, found, want in wanted if found != want
    )


def _is_as_wanted(port: Port, state: TapState, bridges: Bridges) -> bool:
    """The tap has nothing that ``port_differences`` would tell."""
    addresses, mac = port.addresses, port.mac
    return (
        (state.alias, state.mac, state.mtu) == (port.alias, GATEWAY_MAC, port.mtu)
        and state.up
        and state.gateway
        and state.to_guest == state.from_guest == port.policy.bandwidth
        and state.routes == port.routes
        and state.neighbours == {(address, mac) for address in (*addresses, port.link_local)}
        and TAP_SYSCTLS.items() <= state.sysctls.items()
        and (state.seat is None if not port.bridged else is_seated(port, state, bridges))
    )


def status_path(port: Port) -> str:
    """Where a change shows what was found of a port: ``status.interfaces[front]``."""
    return f"status.interfaces[{interface_name(port.alias)}]"


def raise_ports(
    draft: Draft, network: NetworkState, ports: tuple[Port, ...], live: LaunchSpec | None
) -> list[FieldChange]:
    """Plan what the ports lack. ``live``: the VM's VMM keeps running and holds their queues."""
    changes: list[FieldChange] = []
    for port in ports:
        missing = draft.elements[port.tap] & draft.missing_elements
        state = network.taps.get(port.tap)
        lacking = port_differences(port, state, network.bridges)
        tap_changes = list(lacking)
        attach = live is not None and (state is None or not state.attached)
        if attach and state is not None:
            tap_changes.append(FieldChange(f"{status_path(port)}.attached", False, True))
        if missing:
            tap_changes.append(FieldChange(f"{status_path(port)}.firewall", "incomplete", "bound"))
            _bind(draft, port, missing)
        before = [_key(port, "bind")] if missing else []
        if attach and live is not None:
            before.append(_key(port, "attach"))
            draft.step(
                _key(port, "attach"), port.vm, AttachTap(live, port.tap),
                after=(FIREWALL, _key(port, "bind")),
            )  # fmt: skip
        if lacking:
            after = (SYSCTLS, FIREWALL, *before, *_freed(draft, port))
            draft.step(_key(port, "tap"), port.vm, RaiseTap(port), after=after)
        changes.extend(tap_changes)
    return changes


def _bind(draft: Draft, port: Port, missing: frozenset[Element]) -> None:
    operation = ChangeElements(missing, frozenset())
    draft.step(_key(port, "bind"), port.vm, operation, after=(FIREWALL,))


def _freed(draft: Draft, port: Port) -> list[str]:
    # An address that moves here from a tap that goes: first gone there, then here. From a
    # tap that stays, raising replaces the route, so that two VMs may even swap addresses.
    return sorted({draft.freed[a] for a in port.addresses if a in draft.freed})


def elements_by_tap(
    ports: Iterable[Port], memo: Memo, ledger: Ledger
) -> dict[str, frozenset[Element]]:
    """The firewall elements of each port; those, too, that cut off VMs which are isolated."""
    known, kept = memo.elements, {}
    for port in ports:
        entry = known.get(port.tap)
        if entry is None or entry[0] is not port:
            entry = (port, port_elements(port))
        kept[port.tap] = entry
    memo.elements = kept
    found = {tap: elements for tap, (_, elements) in kept.items()}
    if isolated := ledger.lasting_isolations():
        cut = [port for port, _ in kept.values() if port.vm in isolated]
        found |= {
            port.tap: found[port.tap] | cutting_off(port.tap, bridged=port.bridged) for port in cut
        }
    return found


def drop_ports(
    draft: Draft, network: NetworkState, ports: tuple[Port, ...], *, after: tuple[str, ...] = ()
) -> tuple[str, ...]:
    """Plan the removal of ports: the tap first, then its elements. Returns the last keys.

    Elements that another declared port needs too (an address that moves) stay.
    """
    last = []
    for port in ports:
        untap, unbind = _key(port, "untap"), _key(port, "unbind")
        if port.tap in network.taps or port.tap in network.foreign or port.tap in network.shapers:
            draft.step(untap, port.vm, RemoveTap(port.tap), after=after)
            draft.freed.update(dict.fromkeys(port.addresses, untap))
        known = port_elements(port) | cutting_off(port.tap, bridged=port.bridged)
        stale = (known & network.firewall.elements) - draft.wanted_elements
        if stale:
            operation = ChangeElements(frozenset(), stale)
            draft.step(unbind, port.vm, operation, after=(*after, untap))
        last += [untap, unbind]
    return tuple(last)


def shed_elements(draft: Draft, network: NetworkState, old: tuple[Port, ...]) -> None:
    """Plan the removal of what a port that stays no longer needs, after its tap has changed and
    what it needs instead is there: meanwhile nothing is lost that both allow.
    """
    for port in old:
        stale = (port_elements(port) & network.firewall.elements) - draft.wanted_elements
        if stale:
            operation = ChangeElements(frozenset(), stale)
            after = (_key(port, "tap"), _key(port, "bind"))
            draft.step(_key(port, "shed"), port.vm, operation, after=after)


def tap_keys(ports: tuple[Port, ...]) -> tuple[str, ...]:
    """Keys a VM's start waits for: its ports are bound and up."""
    return tuple(_key(port, what) for port in ports for what in ("bind", "tap"))


def bind_keys(draft: Draft, taps: AbstractSet[str]) -> tuple[str, ...]:
    """Steps that give some of these links what they lack."""
    keys = (key for key in draft.steps if ":bind:" in key)
    return tuple([key for key in keys if key.rpartition(":")[2] in taps])


def _key(port: Port, what: str) -> str:
    return f"{port.vm}:{what}:{port.tap}"
