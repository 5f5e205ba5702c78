"""From a spec to a packet: what profiles and their overrides say is what real taps let through,
changed in place by the steps of a plan while other flows go on.
"""

from __future__ import annotations

import os
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from typing import Any

import pytest

from reconciler.model.addresses import vm_address
from reconciler.model.plan import ChangeElements, LoadFirewall, RaiseTap, SetSysctls, StopVm
from reconciler.network import firewall
from reconciler.network.kernel import KernelNetwork
from reconciler.planning.checks import check
from reconciler.planning.resolution.recorded import recorded_vm
from tests.network.conftest import InNamespace
from tests.network.frames import DESTINATION, FRAGMENT, HOP_BY_HOP, Guest, chained, guest_on
from tests.network.frames import udp_packet as udp
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

pytestmark = pytest.mark.netns
HEAD = {"apiVersion": "metald/v1"}
HEADERS = {DESTINATION, HOP_BY_HOP, FRAGMENT}
VMS = ("web-1", "web-2", "db-1")


def documents(
    front: dict[str, Any],
    *,
    back: dict[str, Any] | None = None,
    own: dict[str, Any] | None = None,
    interface: dict[str, Any] | None = None,
) -> list[dict[str, Any]]:
    """web-1 and web-2 in front, db-1 in back; ``interface``: of web-1."""

    def row(kind: str, name: str, spec: dict[str, Any], **more: str) -> dict[str, Any]:
        return {**HEAD, "kind": kind, "metadata": {"name": name, **more}, "spec": spec}

    def vm(name: str, **entry: Any) -> dict[str, Any]:
        spec = {"hypervisor": "simulated", "interfaces": [entry]}
        return row("VM", name, spec, tenant="acme")

    return [
        row("SecurityProfile", "own", own or {}),
        row("Tenant", "acme", {}),
        row("Network", "front", front, tenant="acme"),
        row("Network", "back", back or {}, tenant="acme"),
        vm("web-1", network="front", **(interface or {})),
        vm("web-2", network="front"),
        vm("db-1", network="back"),
    ]


class Lab:
    """A host planned in memory whose network is this namespace."""

    def __init__(self, stack: AsyncExitStack) -> None:
        self.world, self._stack = World(), stack
        self.guests: dict[str, Guest] = {}

    async def apply(self, rows: list[dict[str, Any]], **between: Any) -> None:
        """Carry out a plan; ``flow``: a pair whose packets pass before and after every step."""
        fleet = fleet_of(rows)
        assert not [entry for entry in check(fleet) if entry.severity == "error"]
        plan = self.world.plan(fleet)
        network = KernelNetwork()
        for step in plan.steps:
            match step.operation:
                case SetSysctls(values):
                    await network.write_sysctls(values)
                case LoadFirewall():
                    await network.load_firewall()
                case ChangeElements(add, remove):
                    await network.change_elements(add, remove)
                case RaiseTap(port):
                    assert await network.raise_taps([port]) == {}
                case StopVm():
                    pytest.fail("a policy is changed in place")
            if "flow" in between:
                assert self.arrives(*between["flow"])
        self.world.carry_out(plan)
        assert (await firewall.list_table()).elements == frozenset(self.world.elements)
        assert self.world.plan(fleet).is_empty
        await self._open()

    async def _open(self) -> None:
        for name in () if self.guests else VMS:
            managed = self.world.managed[vm_address("acme", name)]
            (port,) = recorded_vm(self.world.ledger(), managed).ports
            self.guests[name] = self._stack.enter_context(guest_on(port))
            await carried(port.tap)

    def arrives(self, source: str, target: str) -> bool:
        """A plain packet gets there."""
        one, two, marker = self.guests[source], self.guests[target], os.urandom(16)
        one.send(udp(one.address, two.address, marker))
        return two.received(marker, within_s=ARRIVES_S) is not None

    def stays_away(self, source: str, target: str) -> bool:
        """A plain packet does not get there."""
        one, two, marker = self.guests[source], self.guests[target], os.urandom(16)
        one.send(udp(one.address, two.address, marker))
        return two.received(marker, within_s=STAYS_AWAY_S) is None

    def headers_arrive(self, source: str, target: str, passing: set[int]) -> bool:
        """Packets behind one extension header get there, of those headers and no others."""
        one, two = self.guests[source], self.guests[target]
        markers = {header: os.urandom(16) for header in HEADERS}
        for header in sorted(HEADERS, key=lambda header: (header in passing, header)):
            one.send(chained(one.address, two.address, markers[header], [(header, 8)]))
        away = HEADERS - passing
        frames = [two.received(markers[h], within_s=ARRIVES_S) for h in sorted(passing)]
        return None not in frames and not any(
            two.received(markers[header], within_s=STAYS_AWAY_S) for header in away
        )


def in_lab(inside: InNamespace, body: Callable[[Lab], Awaitable[None]]) -> None:
    async def run() -> None:
        async with AsyncExitStack() as stack:
            await body(Lab(stack))

    inside(run)


LISTS_BOTH = {"extensionHeaders": {"mode": "selective", "allowed": ["destination", "hop-by-hop"]}}
# What networks and interfaces say, and which headers then pass from web-1 to web-2.
STAGES: list[tuple[dict[str, Any], set[int]]] = [
    ({"front": {}}, set()),
    ({"front": {"security": "medium"}}, {DESTINATION, FRAGMENT}),
    ({"front": {"security": "high"}}, set()),
    ({"front": {"security": "own"}, "own": LISTS_BOTH}, {DESTINATION, HOP_BY_HOP}),
    ({"front": {"security": "low"}}, {DESTINATION, HOP_BY_HOP, FRAGMENT}),
    ({"front": {"security": "low"}, "interface": {
        "policy": {"extensionHeaders": {"mode": "block"}}}}, {FRAGMENT}),
    ({"front": {"policy": {"extensionHeaders": {"fragments": "reassemble"}}}}, {FRAGMENT}),
    ({"front": {"security": "medium", "policy": {"extensionHeaders": {"fragments": "block"}}}},
     {DESTINATION}),
]  # fmt: skip


def test_headers_pass_as_specs_say_through_changes_in_place(inside: InNamespace) -> None:
    async def body(lab: Lab) -> None:
        await lab.apply(documents({}))
        for spec, passing in STAGES:
            await lab.apply(documents(**spec), flow=("web-2", "web-1"))
            assert lab.headers_arrive("web-1", "web-2", passing), spec

    in_lab(inside, body)


def test_limits_and_sources_of_one_interface_change_in_place(inside: InNamespace) -> None:
    async def body(lab: Lab) -> None:
        await lab.apply(documents({}))
        limits = {"packetsPerSecond": 400, "connections": 3}
        loose = {"sourceValidation": {"mac": "off", "address": "prefix", "reversePath": False}}
        for interface in ({**limits, "policy": loose}, {"packetsPerSecond": "none"}, {}):
            rows = documents({}, interface=interface)
            await lab.apply(rows, flow=("web-2", "web-1"))
            one, two, marker = lab.guests["web-1"], lab.guests["web-2"], os.urandom(16)
            one.send(udp(one.address, two.address, marker), mac="02:00:00:00:00:99")
            is_loose = "policy" in interface
            seen = two.received(marker, within_s=ARRIVES_S if is_loose else STAYS_AWAY_S)
            assert (seen is not None) == is_loose

    in_lab(inside, body)


def test_a_network_is_closed_inside_and_opened_again(inside: InNamespace) -> None:
    async def body(lab: Lab) -> None:
        await lab.apply(documents({}))
        assert lab.arrives("web-1", "web-2")
        await lab.apply(
            documents({"security": "own"}, own={"isolation": {"intraNetwork": "block"}})
        )
        assert lab.stays_away("web-1", "web-2") and lab.stays_away("web-2", "web-1")
        await lab.apply(documents({"security": "own"}))
        assert lab.arrives("web-1", "web-2")

    in_lab(inside, body)


def test_low_lets_the_tenant_in_unless_it_says_otherwise(inside: InNamespace) -> None:
    async def body(lab: Lab) -> None:
        for back, comes_in in (
            ({}, False), ({"security": "medium"}, False), ({"security": "low"}, True),
            ({"security": "low", "ingress": []}, False),
        ):  # fmt: skip
            await lab.apply(documents({}, back=back))
            seen = lab.arrives if comes_in else lab.stays_away
            assert seen("web-1", "db-1")
            assert lab.stays_away("db-1", "web-1")

    in_lab(inside, body)
