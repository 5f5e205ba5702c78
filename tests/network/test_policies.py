"""What another policy than high lets through, and how much: packet by packet, on real taps."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from reconciler.model.firewall import CONTROLS, Element, port_elements
from reconciler.model.resolved import Port
from reconciler.model.security import MAX_CHAIN, PROFILES, InterfacePolicy
from reconciler.network import firewall
from reconciler.network.kernel import KernelNetwork
from reconciler.network.listing import Listing
from tests.network.conftest import InNamespace
from tests.network.frames import (
    ACK,
    ALL_NODES,
    DESTINATION,
    ECHO_REQUEST,
    FRAGMENT,
    HOP_BY_HOP,
    ROUTER_ADVERT,
    ROUTING,
    SYN,
    Guest,
    advertise,
    chained,
    discovery,
    echo_packet,
    guest_on,
    multicast_mac,
    tcp_packet,
    udp_packet,
)
from tests.network.ports import nft, port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried

pytestmark = pytest.mark.netns
HIGH, MEDIUM, LOW = (PROFILES[name] for name in ("high", "medium", "low"))
NUMBERS = {control.name: number for number, control in enumerate(CONTROLS, 1)}


@asynccontextmanager
async def pair(policy: InterfacePolicy) -> AsyncIterator[tuple[Guest, Guest]]:
    """Two guests of one network; the first is held to ``policy``, the second to low."""
    one, two = replace(port(1), policy=policy), replace(port(2), policy=LOW)
    await raised(KernelNetwork(), one, two)
    async with AsyncExitStack() as stack:
        guests = [stack.enter_context(guest_on(entry)) for entry in (one, two)]
        await carried(one.tap, two.tap)
        yield guests[0], guests[1]


def with_policy(
    inside: InNamespace,
    policy: InterfacePolicy,
    body: Callable[[Guest, Guest], Awaitable[None]],
) -> None:
    async def run() -> None:
        async with pair(policy) as (one, two):
            await body(one, two)

    inside(run)


async def dropped(guest: Guest) -> Mapping[str, int]:
    """Packets dropped of this guest's, by control; the same in its own and the common counters."""
    listing: Listing = await firewall.list_table()
    own = {
        name: listing.drops[guest.port.tap, number].packets
        for name, number in NUMBERS.items()
        if (guest.port.tap, number) in listing.drops
    }
    common = {n: c for n, c in listing.counters.items() if n.startswith("drop_") and c}
    assert common == {f"drop_{name}": count for name, count in own.items()}
    return own


@pytest.mark.parametrize(
    ("policy", "headers", "control"),
    [
        (HIGH, [(DESTINATION, 8)], "extension"),
        (HIGH, [(FRAGMENT, 8)], "fragment"),
        (MEDIUM, [(DESTINATION, 8)], ""),
        (MEDIUM, [(FRAGMENT, 8), (DESTINATION, 24)], ""),
        (MEDIUM, [(HOP_BY_HOP, 8), (DESTINATION, 8)], "extension"),
        (MEDIUM, [(DESTINATION, 8), (ROUTING, 8)], "extension"),
        (MEDIUM, [(DESTINATION, 8)] * 4, ""),
        (MEDIUM, [(DESTINATION, 8)] * 5, "chain"),
        (MEDIUM, [(DESTINATION, 24)] * 3, ""),
        (MEDIUM, [(DESTINATION, 64)], ""),
        (MEDIUM, [(DESTINATION, 72), (DESTINATION, 8)], ""),
        (MEDIUM, [(DESTINATION, 80), (DESTINATION, 8)], "chain"),
        (MEDIUM, [(DESTINATION, 40), (DESTINATION, 40), (DESTINATION, 8)], "chain"),
        (LOW, [(HOP_BY_HOP, 8), (DESTINATION, 8), (FRAGMENT, 8)], ""),
        (LOW, [(DESTINATION, 8)] * MAX_CHAIN, ""),
        (LOW, [(DESTINATION, 8)] * (MAX_CHAIN + 1), "chain"),
        (LOW, [(51, 8)], "extension"),
        (LOW, [(ROUTING, 8)], "extension"),  # of type 0, which no policy allows
        (replace(HIGH, headers=("fragment",), max_chain=1), [(FRAGMENT, 8)], ""),
        (replace(HIGH, headers=("fragment",), max_chain=1), [(FRAGMENT, 8)] * 2, "chain"),
    ],
)
def test_extension_headers_pass_as_far_as_the_policy_says(
    inside: InNamespace, policy: InterfacePolicy, headers: list[tuple[int, int]], control: str
) -> None:
    async def body(one: Guest, two: Guest) -> None:
        marker = os.urandom(16)
        one.send(chained(one.address, two.address, marker, headers))
        arrived = two.received(marker, within_s=STAYS_AWAY_S if control else ARRIVES_S)
        assert (arrived is None) == bool(control)
        assert await dropped(one) == ({control: 1} if control else {})

    with_policy(inside, policy, body)


@pytest.mark.parametrize(
    ("policy", "address", "mac", "control"),
    [
        (HIGH, "", "02:00:00:00:00:99", "spoof"),
        (MEDIUM, "", "02:00:00:00:00:99", ""),
        (MEDIUM, "fd20:acde:0:1::77", "", "spoof"),
        (LOW, "fd20:acde:0:1::77", "02:00:00:00:00:99", ""),
        (LOW, "fd20:acde:0:2::77", "", "spoof"),
        (replace(LOW, source_address="off"), "fd20:acde:0:2::77", "", ""),
        (replace(LOW, source_address="off", reverse_path=True), "fd20:acde:0:2::77", "",
         "reverse_path"),
        (replace(LOW, source_address="off", block_bogons=True), "::ffff:1.2.3.4", "", "bogon"),
    ],
)  # fmt: skip
def test_sources_are_checked_as_the_policy_says(
    inside: InNamespace, policy: InterfacePolicy, address: str, mac: str, control: str
) -> None:
    async def body(one: Guest, two: Guest) -> None:
        marker = os.urandom(16)
        one.send(udp_packet(address or one.address, two.address, marker), mac=mac)
        arrived = two.received(marker, within_s=STAYS_AWAY_S if control else ARRIVES_S)
        assert (arrived is None) == bool(control)
        assert await dropped(one) == ({control: 1} if control else {})

    with_policy(inside, policy, body)


@pytest.mark.parametrize(
    ("policy", "control"),
    [
        (replace(HIGH, packets_per_second=50, burst=20), "rate_packets"),
        (replace(HIGH, neighbor_per_second=40), "rate_neighbour"),
        (replace(HIGH, echo_per_second=40), "rate_echo"),
        (replace(HIGH, multicast_per_second=40), "rate_multicast"),
    ],
)
def test_a_flood_is_cut_to_its_rate_and_a_neighbour_is_not(
    inside: InNamespace, policy: InterfacePolicy, control: str
) -> None:
    async def body(one: Guest, two: Guest) -> None:
        packets = {
            "rate_packets": udp_packet(one.address, two.address, b"flood"),
            "rate_neighbour": advertise(one.link_local, one.address, one.port.mac),
            "rate_echo": echo_packet(one.address, two.address, ECHO_REQUEST, b"flood"),
            "rate_multicast": udp_packet(one.link_local, ALL_NODES, b"flood"),
        }
        for _ in range(1000):
            one.send(packets[control], to=multicast_mac(ALL_NODES))
        # The burst passes, and hardly more: a thousand are sent within a part of a second.
        listing = await firewall.list_table()
        counted = listing.drops[one.port.tap, NUMBERS[control]].packets
        assert 900 <= counted <= 980
        assert two.port.tap not in {link for link, _ in listing.drops}

    with_policy(inside, policy, body)


def test_what_a_guest_gets_is_limited_too(inside: InNamespace) -> None:
    async def body(one: Guest, two: Guest) -> None:
        marker = os.urandom(16)
        for _ in range(500):
            two.send(udp_packet(two.address, one.address, marker))
        async with asyncio.timeout(ARRIVES_S):
            while "rate_packets_to" not in await dropped(one):
                await asyncio.sleep(0.01)
        got = 0
        while one.received(marker, within_s=STAYS_AWAY_S):
            got += 1
        assert 20 <= got <= 60

    with_policy(inside, replace(HIGH, packets_per_second=50, burst=20), body)


def test_a_changed_rate_holds_at_once(inside: InNamespace) -> None:
    async def body(one: Guest, two: Guest) -> None:
        network = KernelNetwork()
        faster = replace(one.port, policy=replace(HIGH, packets_per_second=5000, burst=2000))
        old, new = port_elements(one.port), port_elements(faster)
        await network.change_elements(new - old, old - new)
        assert (await network.observe()).firewall.elements >= new
        for _ in range(1000):
            one.send(udp_packet(one.address, two.address, b"flood"))
        assert await dropped(one) == {}

    with_policy(inside, replace(HIGH, packets_per_second=50, burst=20), body)


def test_connections_are_counted_exactly_and_only_those_that_the_guest_opens(
    inside: InNamespace,
) -> None:
    async def body(one: Guest, two: Guest) -> None:
        def opened(sender: Guest, receiver: Guest, number: int) -> bool:
            marker = os.urandom(16)
            ports, state = (20000 + number, 80), (SYN, 1, 0)
            sender.send(
                tcp_packet(sender.address, receiver.address, marker, ports=ports, state=state)
            )
            return receiver.received(marker, within_s=STAYS_AWAY_S) is not None

        for number in range(10):
            assert opened(two, one, number)
        assert [opened(one, two, number) for number in range(8)] == [True] * 5 + [False] * 3
        assert await dropped(one) == {"connections": 3}
        # An established connection goes on, and others have limits of their own.
        marker, ports, state = os.urandom(16), (80, 20000), (SYN | ACK, 1, 2)
        two.send(tcp_packet(two.address, one.address, marker, ports=ports, state=state))
        assert one.received(marker, within_s=ARRIVES_S) is not None
        ports, state = (20000, 80), (ACK, 2, 2)
        one.send(tcp_packet(one.address, two.address, marker, ports=ports, state=state))
        assert two.received(marker, within_s=ARRIVES_S) is not None
        assert opened(two, one, 11)

    with_policy(inside, replace(HIGH, connections=5), body)


def test_each_distinct_limit_is_declared_once_and_goes_with_its_last_user(
    inside: InNamespace,
) -> None:
    async def body() -> None:
        network = KernelNetwork()
        ports = [
            replace(port(number), policy=replace(HIGH, connections=limit))
            for number, limit in ((1, 10), (2, 10), (3, 20))
        ]
        await raised(network, *ports)
        before = await network.observe()
        tiers = {e for e in before.firewall.elements if e.container == "tiers"}
        assert tiers == {Element("tiers", ("10",)), Element("tiers", ("20",))}
        await network.remove_taps([ports[0].tap])
        await network.change_elements(frozenset(), port_elements(ports[0]))
        assert "chain connections_10 " in nft("list", "table", "inet", "metald")
        await network.change_elements(frozenset(), port_elements(ports[1]))
        assert "connections_10 " not in nft("list", "table", "inet", "metald")
        after = await network.observe()
        assert after.firewall.listing == before.firewall.listing
        # A limit changed by hand shows as a change of the rules.
        nft("flush", "chain", "inet", "metald", "connections_20")
        assert (await network.observe()).firewall.listing != before.firewall.listing

    inside(body)


@pytest.mark.parametrize("guarded", [True, False])
def test_only_an_allowed_router_advertises(inside: InNamespace, guarded: bool) -> None:
    async def body(one: Guest, two: Guest) -> None:
        router = one.link_local
        changed = port_elements(replace(one.port, policy=replace(HIGH, allowed_routers=(router,))))
        packet = discovery(router, ALL_NODES, ROUTER_ADVERT, bytes(12))
        one.send(packet, to=multicast_mac(ALL_NODES))
        assert await dropped(one) == {"raguard": 1}
        if not guarded:
            await KernelNetwork().change_elements(changed, frozenset())
        one.send(packet, to=multicast_mac(ALL_NODES))
        # What the guard lets through ends at the host, which is no guest's to configure.
        assert await dropped(one) == ({"raguard": 2} if guarded else {"raguard": 1, "host": 1})

    with_policy(inside, HIGH, body)


def test_members_of_a_closed_network_do_not_reach_each_other(inside: InNamespace) -> None:
    async def body(one: Guest, two: Guest) -> None:
        marker = os.urandom(16)
        two.send(udp_packet(two.address, one.address, marker))
        assert one.received(marker, within_s=STAYS_AWAY_S) is None
        assert await dropped(two) == {"tenant": 1}

    with_policy(inside, replace(HIGH, intra_network=False), body)


def test_an_isolated_guest_is_cut_off_both_ways_and_back(inside: InNamespace) -> None:
    async def body(one: Guest, two: Guest) -> None:
        def reaches(sender: Guest, receiver: Guest, within_s: float) -> bool:
            marker = os.urandom(16)
            sender.send(udp_packet(sender.address, receiver.address, marker))
            return receiver.received(marker, within_s=within_s) is not None

        cut = frozenset({Element("isolated", (one.port.tap,))})
        network = KernelNetwork()
        assert reaches(one, two, ARRIVES_S) and reaches(two, one, ARRIVES_S)
        await network.change_elements(cut, frozenset())
        assert not reaches(one, two, STAYS_AWAY_S) and not reaches(two, one, STAYS_AWAY_S)
        listing = await firewall.list_table()
        assert (one.port.tap, NUMBERS["isolated_to"]) in listing.drops
        await network.change_elements(frozenset(), cut)
        assert reaches(one, two, ARRIVES_S) and reaches(two, one, ARRIVES_S)

    with_policy(inside, HIGH, body)


def test_what_was_counted_goes_with_the_interface(inside: InNamespace) -> None:
    async def body(one: Guest, two: Guest) -> None:
        one.send(udp_packet("fd20:acde:0:1::77", two.address, b"spoofed"))
        assert await dropped(one) == {"spoof": 1}
        network = KernelNetwork()
        await network.remove_taps([one.port.tap])
        await network.change_elements(frozenset(), port_elements(one.port))
        assert (await firewall.list_table()).drops == {}

    with_policy(inside, HIGH, body)


def test_the_number_of_rules_does_not_depend_on_ports(inside: InNamespace) -> None:
    async def body() -> None:
        network = KernelNetwork()

        def rules() -> int:
            listed = nft("-a", "list", "table", "inet", "metald")
            return listed.count("# handle") - listed.count("elements = ")

        ports: list[Port] = [port(number) for number in range(1, 41)]
        await raised(network, ports[0])
        few = rules()
        await raised(network, *ports)
        assert rules() == few

    inside(body)
