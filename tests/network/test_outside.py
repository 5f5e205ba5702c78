"""Beyond the uplink: what rules open to the outside and from it, packet by packet.

Guests hold taps as a VMM would; behind the uplink's other end stands a raw socket that sees and
says whatever a network could.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import pytest

from reconciler.model.firewall import EGRESS, INGRESS, Element, outside_element
from reconciler.model.security import PROFILES
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace
from tests.network.frames import Guest, guest_on, icmpv6, ipv6, udp_packet
from tests.network.ports import ip, port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried, drops

pytestmark = pytest.mark.netns
ZONE = 7
FRONT = replace(port(1), policy=replace(PROFILES["high"], bandwidth=None))
OWN, UPLINK, OUTSIDE, ELSEWHERE = (
    "fd20:acde::/48",
    "2001:db8:1::1",
    "2001:db8:2::2",
    "2001:db8:3::3",
)
BASE = {Element("uplinks", ("up0",)), Element("own_prefixes", (OWN,))}
OUT = outside_element(EGRESS, ZONE, "2001:db8:2::/48", "udp", "5000")
IN = outside_element(INGRESS, ZONE, "2001:db8:2::/48", "udp", "5000")
ICMPV6, PACKET_TOO_BIG = 58, 2


@dataclass(frozen=True, slots=True)
class World:
    """What is beyond the uplink."""

    link: socket.socket
    host_mac: bytes

    def send(self, packet: bytes) -> None:
        self.link.send(self.host_mac + bytes.fromhex("020000000099") + b"\x86\xdd" + packet)

    def received(self, marker: bytes, *, within_s: float) -> bytes | None:
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            self.link.settimeout(left)
            try:
                frame = self.link.recv(65536)
            except TimeoutError:
                return None
            if marker in frame and frame[:6] != self.host_mac:
                return frame
        return None


@asynccontextmanager
async def outside(*facts: Element) -> AsyncIterator[tuple[Guest, World]]:
    """A guest, an uplink with a default route, and the world behind it."""
    await raised(KernelNetwork(), FRONT)
    await KernelNetwork().change_elements(frozenset({*BASE, *facts}), frozenset())
    ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
    for name in ("up0", "far0"):
        ip("link", "set", name, "up")
    ip("-6", "addr", "add", f"{UPLINK}/64", "dev", "up0", "nodad")
    ip("-6", "neigh", "add", "2001:db8:1::2", "lladdr", "02:00:00:00:00:99", "dev", "up0")
    ip("-6", "route", "add", "default", "via", "2001:db8:1::2", "dev", "up0")
    mac = ip("link", "show", "up0").split("link/ether ")[1][:17].replace(":", "")
    with guest_on(FRONT) as guest, socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as link:
        link.bind(("far0", 0x86DD))
        await carried(FRONT.tap)
        yield guest, World(link, bytes.fromhex(mac))


def with_outside(
    inside: InNamespace, facts: tuple[Element, ...], body: Callable[[Guest, World], Awaitable[None]]
) -> None:
    async def run() -> None:
        async with outside(*facts) as (guest, world):
            await body(guest, world)

    inside(run)


def goes_out(guest: Guest, world: World, target: str = OUTSIDE, port_: int = 5000) -> bool:
    marker = os.urandom(16)
    guest.send(udp_packet(guest.address, target, marker, ports=(4000, port_)))
    # What does not come within this, while another packet of the kind does, was dropped.
    return world.received(marker, within_s=STAYS_AWAY_S) is not None


def comes_in(guest: Guest, world: World, source: str = OUTSIDE, **ports: tuple[int, int]) -> bool:
    marker = os.urandom(16)
    world.send(udp_packet(source, guest.address, marker, **ports))
    return guest.received(marker, within_s=STAYS_AWAY_S) is not None


def test_without_a_rule_nothing_goes_out_or_comes_in(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        assert not goes_out(guest, world)
        assert not comes_in(guest, world)
        assert await drops() == {"drop_tenant": 1, "drop_outside": 1}

    with_outside(inside, (), body)


def test_a_rule_opens_what_it_says_and_answers_come_back(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        assert goes_out(guest, world)
        assert comes_in(guest, world, ports=(5000, 4000)), "an answer"
        assert not comes_in(guest, world, ports=(5000, 4001)), "no answer to anything"
        assert not goes_out(guest, world, port_=5001)
        assert not goes_out(guest, world, ELSEWHERE)
        assert await drops() == {"drop_tenant": 2, "drop_outside": 1}

    with_outside(inside, (OUT,), body)


def test_what_is_let_in_is_answered_and_nothing_else_goes_out(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        assert comes_in(guest, world, ports=(4000, 5000))
        marker = os.urandom(16)
        guest.send(udp_packet(guest.address, OUTSIDE, marker, ports=(5000, 4000)))
        assert world.received(marker, within_s=ARRIVES_S) is not None
        assert not goes_out(guest, world)
        assert not comes_in(guest, world, ELSEWHERE, ports=(4000, 5000))
        assert not comes_in(guest, world, ports=(4000, 5001))

    with_outside(inside, (IN,), body)


def test_a_flow_is_cut_both_ways_when_its_rule_goes(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        assert goes_out(guest, world)
        assert comes_in(guest, world, ports=(5000, 4000))
        await KernelNetwork().change_elements(frozenset(), frozenset({OUT}))
        assert not comes_in(guest, world, ports=(5000, 4000)), "also to who only listens"
        assert not goes_out(guest, world)
        await KernelNetwork().change_elements(frozenset({OUT}), frozenset())
        assert comes_in(guest, world, ports=(5000, 4000))

    with_outside(inside, (OUT,), body)


def test_tenants_addresses_are_never_outside(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        nobody = "fd20:acde:0:1::dead"
        assert not goes_out(guest, world, nobody), "not lent to whoever answers for it out there"
        assert not comes_in(guest, world, nobody, ports=(5000, 4000))
        assert goes_out(guest, world, ELSEWHERE)

    everything = outside_element(EGRESS, ZONE, "::/0", "0-255", "0-65535")
    with_outside(inside, (everything, outside_element(INGRESS, ZONE, "::/0", "0-255", "0-65535")),
                 body)  # fmt: skip


def test_only_an_uplink_leads_outside(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        assert goes_out(guest, world)
        await KernelNetwork().change_elements(
            frozenset({Element("uplinks", ("up9",))}), frozenset({Element("uplinks", ("up0",))})
        )
        assert not goes_out(guest, world)
        assert not comes_in(guest, world, ports=(5000, 4000))

    with_outside(inside, (OUT,), body)


def test_masquerading_guests_go_by_the_hosts_address(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        marker = os.urandom(16)
        guest.send(udp_packet(guest.address, OUTSIDE, marker, ports=(4000, 5000)))
        frame = world.received(marker, within_s=ARRIVES_S)
        assert frame is not None
        assert frame[22:38] == socket.inet_pton(socket.AF_INET6, UPLINK)
        source_port = int.from_bytes(frame[54:56], "big")
        answer = os.urandom(16)
        world.send(udp_packet(OUTSIDE, UPLINK, answer, ports=(5000, source_port)))
        assert guest.received(answer, within_s=ARRIVES_S) is not None

    with_outside(inside, (OUT, Element("masqueraded", ("up0",))), body)


def test_a_router_on_the_way_may_say_that_a_packet_is_too_big(inside: InNamespace) -> None:
    async def body(guest: Guest, world: World) -> None:
        def told(about: bytes) -> bool:
            marker = os.urandom(16)
            message = (1280).to_bytes(4, "big") + about[:48] + marker
            router = "2001:db8:1::2"
            packet = icmpv6(router, guest.address, PACKET_TOO_BIG, message)
            world.send(ipv6(router, guest.address, packet, header=ICMPV6))
            return guest.received(marker, within_s=STAYS_AWAY_S) is not None

        own = udp_packet(guest.address, OUTSIDE, bytes(64), ports=(4000, 5000))
        assert not told(own), "of what was never sent"
        assert goes_out(guest, world)
        assert told(own)

    with_outside(inside, (OUT,), body)


@pytest.mark.parametrize("listed", [True, False])
def test_a_service_of_the_host_is_open_only_when_listed(inside: InNamespace, listed: bool) -> None:
    async def body(guest: Guest, world: World) -> None:
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as service:
            service.bind((UPLINK, 53))
            service.settimeout(STAYS_AWAY_S)
            marker = os.urandom(16)
            guest.send(udp_packet(guest.address, UPLINK, marker, ports=(4000, 53)))
            try:
                heard = marker in service.recv(2048)
            except TimeoutError:
                heard = False
        assert heard is listed
        assert await drops() == ({} if listed else {"drop_host": 1})

    facts = (Element("guest_services", ("udp", "53")),) if listed else ()
    with_outside(inside, facts, body)


def test_facts_and_rules_are_read_back_as_they_were_written(inside: InNamespace) -> None:
    async def body() -> None:
        facts = {
            *BASE, OUT, IN, Element("masqueraded", ("eth0.5",)),
            Element("guest_services", ("tcp", "443")),
            outside_element(EGRESS, 9, "::/0", "0-255", "0-65535"),
            outside_element(EGRESS, 9, "2001:db8:53::5/128", "tcp", "80-90"),
        }  # fmt: skip
        network = KernelNetwork()
        await network.load_firewall()
        await network.change_elements(frozenset(facts), frozenset())
        assert (await network.observe()).firewall.elements == facts
        await network.change_elements(frozenset(), frozenset(facts))
        assert (await network.observe()).firewall.elements == frozenset()

    inside(body)
