"""Traffic between networks: what an entry opens, in which direction, and that removing it cuts.

Packets on real taps, fake guests at both ends (see test_packets).
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import ALLOW, Element, allow_element
from reconciler.network import firewall
from reconciler.network.kernel import KernelNetwork
from reconciler.planning.comparison.policy import policy_elements
from reconciler.planning.reachability.policy import allowed_between
from tests.network.conftest import InNamespace
from tests.network.frames import (
    ACK,
    ECHO_REPLY,
    ECHO_REQUEST,
    PSH,
    SYN,
    Guest,
    echo_packet,
    guest_on,
    tcp_packet,
    udp_packet,
)
from tests.network.ports import ip, nft, port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried, drops

pytestmark = pytest.mark.netns
CLIENT, SERVER = port(1, zone=7), port(2, zone=8, address="fd20:acde:0:2::200")
DNS = allow_element(7, 8, "udp", "53")
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


def arrives(sender: Guest, receiver: Guest, made: Callable[[bytes], bytes], wait_s: float) -> bool:
    """Whether the packet that is made of a marker gets through."""
    marker = os.urandom(16)
    sender.send(made(marker))
    return receiver.received(marker, within_s=wait_s) is not None


def datagram(sender: Guest, receiver: Guest, ports: tuple[int, int]) -> Callable[[bytes], bytes]:
    return lambda data: udp_packet(sender.address, receiver.address, data, ports=ports)


def passes(sender: Guest, receiver: Guest, ports: tuple[int, int]) -> bool:
    """One UDP packet from and to these ports arrives."""
    return arrives(sender, receiver, datagram(sender, receiver, ports), ARRIVES_S)


def stopped(sender: Guest, receiver: Guest, ports: tuple[int, int]) -> bool:
    """One UDP packet from and to these ports stays away."""
    return not arrives(sender, receiver, datagram(sender, receiver, ports), STAYS_AWAY_S)


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
    widest_zone = 2**31 - 1
    wanted = {
        allow_element(7, 8, "udp", "8000-8010"),
        allow_element(9, 65536, "0-255", "0-65535"),
        allow_element(10, 65535, "ipv6-icmp", "0-65535"),
        allow_element(widest_zone, widest_zone - 1, "7-16", "0-65535"),
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
    wide = allow_element(7, 8, "udp", "50-60")

    async def run() -> None:
        network = KernelNetwork()
        async with ends(DNS) as (client, server):
            await network.change_elements(frozenset({wide}), frozenset({DNS}))
            assert passes(client, server, (4000, 60))
            await network.change_elements(frozenset({DNS}), frozenset({wide}))
            assert stopped(client, server, (4001, 60))
            assert passes(client, server, (4001, 53))

    inside(run)


WEB = allow_element(7, 8, "tcp", "80")
State = tuple[int, int, int]


class Stream:
    """Both ends of one TCP connection from port 4000 to port 80, segment by segment."""

    def __init__(self, client: Guest, server: Guest) -> None:
        self.client, self.server = client, server

    def out(self, state: State, wait_s: float = ARRIVES_S) -> bool:
        """A segment of the client's arrives."""
        return self._sent(self.client, self.server, (4000, 80), state, wait_s)

    def back(self, state: State, wait_s: float = ARRIVES_S) -> bool:
        """A segment of the server's arrives."""
        return self._sent(self.server, self.client, (80, 4000), state, wait_s)

    @staticmethod
    def _sent(
        sender: Guest, receiver: Guest, ports: tuple[int, int], state: State, wait_s: float
    ) -> bool:
        def made(data: bytes) -> bytes:
            return tcp_packet(sender.address, receiver.address, data, ports=ports, state=state)

        if not state[0] & SYN:
            return arrives(sender, receiver, made, wait_s)
        bare = made(b"")
        sender.send(bare)
        return receiver.received(bare[40:52], within_s=wait_s) is not None

    def opened(self) -> bool:
        """The handshake and one segment each way get through."""
        return (
            self.out((SYN, 100, 0))
            and self.back((SYN | ACK, 500, 101))
            and self.out((PSH | ACK, 101, 501))
            and self.back((PSH | ACK, 501, 117))
        )


def test_a_connection_opens_and_is_cut_while_it_lives(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(WEB) as (client, server):
            stream = Stream(client, server)
            assert stream.opened()
            assert await drops() == {}
            await KernelNetwork().change_elements(NOTHING, frozenset({WEB}))
            assert not stream.back((PSH | ACK, 517, 117), STAYS_AWAY_S)
            assert not stream.out((PSH | ACK, 117, 517), STAYS_AWAY_S)
            assert await drops() == {"drop_tenant": 2}

    inside(run)


def test_another_protocol_stays_closed(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(DNS) as (client, server):
            to = (client.address, server.address)
            client.send(tcp_packet(*to, b"", ports=(4000, 53), state=(SYN, 100, 0)))
            client.send(echo_packet(*to, ECHO_REQUEST, b"ping"))
            assert passes(client, server, (4000, 53))
            assert await drops() == {"drop_tenant": 2}

    inside(run)


def test_echoes_pass_with_their_replies_and_not_the_other_way(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(allow_element(7, 8, "ipv6-icmp", "0-65535")) as (client, server):

            def echo(sender: Guest, receiver: Guest, kind: int, wait_s: float) -> bool:
                addresses = (sender.address, receiver.address)
                return arrives(
                    sender, receiver, lambda data: echo_packet(*addresses, kind, data), wait_s
                )

            assert not echo(server, client, ECHO_REQUEST, STAYS_AWAY_S)
            assert not echo(server, client, ECHO_REPLY, STAYS_AWAY_S)
            assert echo(client, server, ECHO_REQUEST, ARRIVES_S)
            assert echo(server, client, ECHO_REPLY, ARRIVES_S)
            assert stopped(client, server, (4000, 53))

    inside(run)


WATCHER = """
table ip6 watcher {
    chain leaving {
        type filter hook postrouting priority 300;
        meta mark != 0 drop
        meta priority != none drop
    }
}
"""


def test_what_passes_leaves_without_our_mark_and_priority(inside: InNamespace) -> None:
    async def run() -> None:
        async with ends(DNS) as (client, server):
            nft("-f", "-", script=WATCHER)
            assert passes(client, server, (4000, 53))
            assert passes(server, client, (53, 4000))

    inside(run)


def test_a_route_that_leads_elsewhere_opens_nothing_there(inside: InNamespace) -> None:
    stranger = port(3, zone=9, address="fd20:acde:0:3::300")

    async def run() -> None:
        async with ends(DNS) as (client, server):
            await raised(KernelNetwork(), stranger)
            with guest_on(stranger) as other:
                await carried(stranger.tap)
                where = (server.address, "dev", stranger.tap)
                ip("-6", "route", "replace", *where)
                ip("-6", "neigh", "replace", *where, "lladdr", stranger.mac, "nud", "permanent")
                hop = datagram(client, server, (4000, 53))
                assert not arrives(client, other, hop, STAYS_AWAY_S)
                assert await drops() == {"drop_tenant": 1}

    inside(run)


FROM_CLIENT = {"from": "network/globex/client", "protocol": "udp", "ports": [53]}
TO_SERVER = {"to": "network/acme/server", "protocol": "udp", "ports": ["50-60"]}


def between_tenants(ingress: list[Any], egress: Any) -> frozenset[Element]:
    """The entries for a network of globex and one of acme with these rules."""
    specs: Mapping[ResourceAddress, Mapping[str, Any]] = {
        ResourceAddress("network/globex/client"): {"zone": 7, "ingress": [], "egress": egress},
        ResourceAddress("network/acme/server"): {"zone": 8, "ingress": ingress},
    }
    return policy_elements(allowed_between(specs), specs)


@pytest.mark.parametrize(
    ("ingress", "egress", "opens"),
    [
        ([FROM_CLIENT], [TO_SERVER], True),
        ([FROM_CLIENT], "tenant", False),
        ([FROM_CLIENT], "none", False),
        ([], [TO_SERVER], False),
        ([{**FROM_CLIENT, "from": "tenant/globex"}], [{"to": "tenant/acme"}], True),
    ],
)
def test_between_tenants_both_sides_must_agree(
    inside: InNamespace, ingress: list[Any], egress: Any, opens: bool
) -> None:
    async def run() -> None:
        async with ends(*between_tenants(ingress, egress)) as (client, server):
            assert (passes if opens else stopped)(client, server, (4000, 53))
            assert stopped(client, server, (4000, 54))
            assert stopped(server, client, (4001, 53))

    inside(run)
