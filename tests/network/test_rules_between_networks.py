"""Traffic between networks: what an entry opens, in which direction, and that removing it cuts.

Packets on real taps, fake guests at both ends (see test_packets).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from reconciler.model.firewall import ALLOW, Element
from reconciler.network import firewall
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace
from tests.network.frames import Guest, guest_on, udp_packet
from tests.network.ports import port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried, drops

pytestmark = pytest.mark.netns
CLIENT, SERVER = port(1, zone=7), port(2, zone=8, address="fd20:acde:0:2::200")
DNS = Element(ALLOW, ("7", SERVER.addresses[0], "udp", "53"))
NOTHING: frozenset[Element] = frozenset()


@asynccontextmanager
async def ends(*entries: Element) -> AsyncIterator[tuple[Guest, Guest]]:
    """A client in zone 7 and a server in zone 8, with these entries."""
    network = KernelNetwork()
    await raised(network, CLIENT, SERVER)
    await network.change_elements(frozenset(entries), NOTHING)
    async with AsyncExitStack() as stack:
        client, server = (stack.enter_context(guest_on(entry)) for entry in (CLIENT, SERVER))
        await carried(CLIENT.tap, SERVER.tap)
        yield client, server


def arrives(sender: Guest, receiver: Guest, ports: tuple[int, int], *, within_s: float) -> bool:
    """Whether one UDP packet from and to these ports gets through."""
    marker = os.urandom(16)
    sender.send(udp_packet(sender.address, receiver.address, marker, ports=ports))
    return receiver.received(marker, within_s=within_s) is not None


def passes(sender: Guest, receiver: Guest, ports: tuple[int, int]) -> bool:
    return arrives(sender, receiver, ports, within_s=ARRIVES_S)


def stopped(sender: Guest, receiver: Guest, ports: tuple[int, int]) -> bool:
    return not arrives(sender, receiver, ports, within_s=STAYS_AWAY_S)


def test_an_entry_opens_its_port_and_the_way_back(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(DNS) as (client, server):
            assert passes(client, server, (4000, 53))
            assert passes(server, client, (53, 4000))
            assert await drops() == {}

    inside(run)


@pytest.mark.parametrize("ports", [(4000, 54), (4000, 52), (53, 4000)])
def test_other_ports_stay_closed(inside: InNamespace, ports: tuple[int, int]) -> None:
    async def run() -> None:
        async with ends(DNS) as (client, server):
            assert stopped(client, server, ports)
            assert await drops() == {"drop_tenant": 1}

    inside(run)


def test_the_server_cannot_open_anything_by_using_its_own_port(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(DNS) as (client, server):
            # No flow of the client's: not an answer, whatever its source port says.
            assert stopped(server, client, (53, 4000))
            assert passes(client, server, (4000, 53))
            # An answer to that flow, and still nothing to another of the client's ports.
            assert passes(server, client, (53, 4000))
            assert stopped(server, client, (53, 4001))

    inside(run)


def test_removing_the_entry_cuts_a_live_flow_in_both_directions(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(DNS) as (client, server):
            assert passes(client, server, (4000, 53))
            assert passes(server, client, (53, 4000))
            await KernelNetwork().change_elements(NOTHING, frozenset({DNS}))
            # A client that only listens hears no more, and what it sends does not arrive.
            assert stopped(server, client, (53, 4000))
            assert stopped(client, server, (4000, 53))

    inside(run)


def test_ranges_and_all_protocols_read_back_as_written(inside: InNamespace) -> None:
    address = SERVER.addresses[0]
    wanted = {
        Element(ALLOW, ("7", address, "udp", "8000-8010")),
        Element(ALLOW, ("9", address, "0-255", "0-65535")),
        Element(ALLOW, ("10", address, "ipv6-icmp", "0-65535")),
        Element(ALLOW, ("11", address, "7-16", "0-65535")),
    }

    async def run() -> None:
        async with ends(*wanted) as (client, server):
            listed = (await firewall.list_table()).elements
            assert {entry for entry in listed if entry.container == ALLOW} == wanted
            assert passes(client, server, (4000, 8000))
            assert passes(client, server, (4000, 8010))
            assert stopped(client, server, (4000, 8011))

    inside(run)


def test_an_entry_is_widened_and_narrowed_in_one_transaction(inside: InNamespace) -> None:
    address = SERVER.addresses[0]
    wide = Element(ALLOW, ("7", address, "udp", "50-60"))

    async def run() -> None:
        network = KernelNetwork()
        async with ends(DNS) as (client, server):
            await network.change_elements(frozenset({wide}), frozenset({DNS}))
            assert passes(client, server, (4000, 60))
            await network.change_elements(frozenset({DNS}), frozenset({wide}))
            assert stopped(client, server, (4001, 60))
            assert passes(client, server, (4001, 53))

    inside(run)
