"""What the rules let through and what they drop, packet by packet, on real taps.

Fake guests hold the taps' descriptors as a VMM would; what was dropped is read from the
rules' own counters.
"""

from __future__ import annotations

import asyncio
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from ipaddress import IPv6Address

import pytest

from reconciler.model.resolved import GATEWAY
from reconciler.network import firewall
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace
from tests.network.frames import (
    ALL_NODES,
    ALL_ROUTERS,
    DESTINATION,
    FRAGMENT,
    HOP_BY_HOP,
    MLD_ROUTERS,
    NEIGHBOUR_ADVERT,
    REDIRECT,
    ROUTER_ADVERT,
    ROUTER_SOLICIT,
    ROUTING,
    Guest,
    advertise,
    discovery,
    extended,
    guest_on,
    listener_report,
    multicast_mac,
    solicit,
    solicited_node,
    udp_packet,
)
from tests.network.ports import ip, port, raised

pytestmark = pytest.mark.netns
ARRIVES_S, STAYS_AWAY_S = 5.0, 0.2
FRONT, PEER, OTHER_ZONE = port(1), port(2), port(3, zone=8)
HOST = "fd20:ffff::1"
Guests = tuple[Guest, Guest, Guest]


@asynccontextmanager
async def guests() -> AsyncIterator[Guests]:
    """Two guests of one zone and one of another, on a host that has an address too."""
    await raised(KernelNetwork(), FRONT, PEER, OTHER_ZONE)
    ip("-6", "addr", "add", f"{HOST}/128", "dev", "lo", "nodad")
    async with AsyncExitStack() as stack:
        front, peer, other = (
            stack.enter_context(guest_on(entry)) for entry in (FRONT, PEER, OTHER_ZONE)
        )
        await carried(FRONT.tap, PEER.tap, OTHER_ZONE.tap)
        yield front, peer, other


async def carried(*taps: str) -> None:
    """Wait until the kernel's link watch has noticed the guests: it sends nothing before."""
    async with asyncio.timeout(ARRIVES_S):
        while not all("state UP" in ip("-o", "link", "show", "dev", tap) for tap in taps):
            await asyncio.sleep(0.01)


async def drops() -> dict[str, int]:
    """The counters that rose, drops alone."""
    counters = (await firewall.list_table()).counters
    assert len([name for name in counters if name.startswith("drop_")]) >= 10
    return {name: n for name, n in counters.items() if name.startswith("drop_") and n}


def with_guests(inside: InNamespace, body: Callable[[Guests], Awaitable[None]]) -> None:
    async def run() -> None:
        async with guests() as three:
            await body(three)

    inside(run)


def test_the_same_zone_is_reached_both_ways(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, peer, _ = three
        for sender, receiver in ((front, peer), (peer, front)):
            marker = os.urandom(16)
            sender.send(udp_packet(sender.address, receiver.address, marker))
            frame = receiver.received(marker, within_s=ARRIVES_S)
            assert frame is not None
            assert frame[:6].hex(":") == receiver.port.mac
            assert str(IPv6Address(frame[22:38])) == sender.address
        assert await drops() == {}

    with_guests(inside, body)


def test_another_zone_is_not_reached(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, _, other = three
        marker = os.urandom(16)
        front.send(udp_packet(front.address, other.address, marker))
        assert other.received(marker, within_s=STAYS_AWAY_S) is None
        assert await drops() == {"drop_tenant": 1}

    with_guests(inside, body)


def test_nobody_elsewhere_reaches_a_guest(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, *_ = three
        ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
        for link in ("up0", "far0"):
            ip("link", "set", link, "up")
        ip("-6", "addr", "add", "fd88::1/64", "dev", "up0", "nodad")
        marker = os.urandom(16)
        packet = udp_packet("fd88::2", front.address, marker)
        target = bytes.fromhex(
            ip("link", "show", "up0").split("link/ether ")[1][:17].replace(":", "")
        )
        with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as far:
            far.bind(("far0", 0))
            far.send(target + bytes.fromhex("020000000099") + b"\x86\xdd" + packet)
        assert front.received(marker, within_s=STAYS_AWAY_S) is None
        assert await drops() == {"drop_outside": 1}

    with_guests(inside, body)


@pytest.mark.parametrize(
    ("source", "mac"),
    [
        (PEER.addresses[0], ""),
        (OTHER_ZONE.addresses[0], ""),
        ("fd20:acde:0:1::dead", ""),
        (HOST, ""),
        (GATEWAY, ""),
        (PEER.link_local, ""),
        (FRONT.addresses[0], PEER.mac),
        (FRONT.addresses[0], "02:00:00:00:00:99"),
        ("::", ""),
    ],
)
def test_a_source_that_is_not_held_is_dropped(inside: InNamespace, source: str, mac: str) -> None:
    async def body(three: Guests) -> None:
        front, peer, _ = three
        marker = os.urandom(16)
        front.send(udp_packet(source, peer.address, marker), mac=mac)
        assert peer.received(marker, within_s=STAYS_AWAY_S) is None
        # The kernel's own checks come behind ours: an unusable source is counted here as well.
        assert await drops() == {"drop_spoof": 1}

    with_guests(inside, body)


@pytest.mark.parametrize(
    ("header", "counter"),
    [
        (FRAGMENT, "drop_fragment"),
        (HOP_BY_HOP, "drop_extension"),
        (ROUTING, "drop_extension"),
        (DESTINATION, "drop_extension"),
    ],
)
def test_extension_headers_are_dropped(inside: InNamespace, header: int, counter: str) -> None:
    async def body(three: Guests) -> None:
        front, peer, _ = three
        marker = os.urandom(16)
        front.send(extended(front.address, peer.address, marker, header=header))
        assert peer.received(marker, within_s=STAYS_AWAY_S) is None
        assert await drops() == {counter: 1}

    with_guests(inside, body)


@pytest.mark.parametrize("kind", [ROUTER_ADVERT, REDIRECT])
def test_a_guest_is_no_router(inside: InNamespace, kind: int) -> None:
    async def body(three: Guests) -> None:
        front, *_ = three
        message = struct.pack("!BBHII", 64, 0, 1800, 0, 0) + bytes(28)
        packet = discovery(front.link_local, ALL_NODES, kind, message)
        front.send(packet, to=multicast_mac(ALL_NODES))
        assert await drops() == {"drop_raguard": 1}

    with_guests(inside, body)


def test_a_guest_is_no_dhcp_server(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, peer, _ = three
        front.send(udp_packet(front.address, peer.address, b"reply", ports=(547, 546)))
        assert await drops() == {"drop_dhcpv6": 1}

    with_guests(inside, body)


def test_ipv4_is_dropped(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, *_ = three
        front.send_ipv4(
            struct.pack("!BBHHHBBH", 0x45, 0, 28, 0, 0, 64, 17, 0x66CF)
            + socket.inet_aton("10.0.0.1") + socket.inet_aton("10.0.0.2") + bytes(8)
        )  # fmt: skip
        assert await drops() == {"drop_not_ipv6": 1}

    with_guests(inside, body)


@pytest.mark.parametrize(
    "target", [PEER.addresses[0], PEER.link_local, GATEWAY, HOST, "fd20:acde:0:1::dead"]
)
def test_nobody_advertises_what_is_not_theirs(inside: InNamespace, target: str) -> None:
    async def body(three: Guests) -> None:
        front, *_ = three
        before = ip("-6", "neigh", "show")
        packet = advertise(front.link_local, target, front.port.mac)
        front.send(packet, to=multicast_mac(ALL_NODES))
        assert await drops() == {"drop_spoof_nd": 1}
        assert ip("-6", "neigh", "show") == before

    with_guests(inside, body)


@pytest.mark.parametrize("target", [HOST, GATEWAY])
def test_the_host_is_not_reached(inside: InNamespace, target: str) -> None:
    async def body(three: Guests) -> None:
        front, *_ = three
        source = front.link_local if target == GATEWAY else front.address
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as listener:
            listener.bind(("::", 5000))
            listener.settimeout(STAYS_AWAY_S)
            front.send(udp_packet(source, target, b"hello"))
            with pytest.raises(TimeoutError):
                listener.recv(100)
        assert await drops() == {"drop_host": 1}

    with_guests(inside, body)


def test_the_host_reaches_a_guest_and_hears_its_answer(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, *_ = three
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as caller:
            caller.bind((HOST, 4001))
            caller.settimeout(ARRIVES_S)
            caller.sendto(b"are you there", (front.address, 5000))
            assert front.received(b"are you there", within_s=ARRIVES_S) is not None
            front.send(udp_packet(front.address, HOST, b"I am", ports=(5000, 4001)))
            assert caller.recv(100) == b"I am"
        assert await drops() == {}

    with_guests(inside, body)


def test_an_idle_healthy_guest_raises_no_drop_counter(inside: InNamespace) -> None:
    """What Linux sends while it brings an interface up; a drop would cry wolf for every VM."""

    async def body(three: Guests) -> None:
        front, *_ = three
        for address in (front.link_local, front.address):
            group = solicited_node(address)
            for source in ("::", front.link_local):
                front.send(listener_report(source, group), to=multicast_mac(MLD_ROUTERS))
            front.send(solicit("::", address), to=multicast_mac(group))
        for source in (front.link_local, front.address):
            front.send(solicit(source, GATEWAY), to=multicast_mac(solicited_node(GATEWAY)))
            answer = front.received(struct.pack("!B", NEIGHBOUR_ADVERT) + b"\0", within_s=ARRIVES_S)
            assert answer is not None and answer[6:12].hex(":") == "02:6d:65:74:61:6c"
        for source in ("::", front.link_local):
            packet = discovery(source, ALL_ROUTERS, ROUTER_SOLICIT, bytes(4))
            front.send(packet, to=multicast_mac(ALL_ROUTERS))
        for address in (front.link_local, front.address):
            packet = advertise(front.link_local, address, front.port.mac)
            front.send(packet, to=multicast_mac(ALL_NODES))
        assert await drops() == {}
        counters = (await firewall.list_table()).counters
        assert (counters["quiet_mld"], counters["quiet_rs"]) == (4, 2)

    with_guests(inside, body)


def test_duplicate_detection_for_a_foreign_address_is_dropped(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, peer, _ = three
        packet = solicit("::", peer.address)
        front.send(packet, to=multicast_mac(solicited_node(peer.address)))
        assert await drops() == {"drop_spoof_nd": 1}

    with_guests(inside, body)


def test_an_unbound_port_says_nothing(inside: InNamespace) -> None:
    async def body(three: Guests) -> None:
        front, peer, _ = three
        state = (await firewall.list_table()).elements
        bound = frozenset(e for e in state if e.container != "taps" and FRONT.tap in e.key)
        await KernelNetwork().change_elements(frozenset(), bound)
        marker = os.urandom(16)
        front.send(udp_packet(front.address, peer.address, marker))
        assert peer.received(marker, within_s=STAYS_AWAY_S) is None
        assert await drops() == {"drop_spoof": 1}

    with_guests(inside, body)
