"""Bridged networks in the kernel, with packets: who is on a segment, who is not, what is healed.

A policy here asks for nothing that bridges must track connections for, unless this kernel's do.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, closing
from dataclasses import replace
from functools import cache
from pathlib import Path

import pytest

from reconciler.errors import RefusedError
from reconciler.model.addresses import network_address
from reconciler.model.drops import control_name
from reconciler.model.features import BRIDGE_TRACKING
from reconciler.model.firewall import (
    Element,
    allow_element,
    cutting_off,
    port_elements,
)
from reconciler.model.probes import Shot, Station
from reconciler.model.resolved import GATEWAY_MAC, Port
from reconciler.model.security import PROFILES
from reconciler.network import firewall
from reconciler.network.drops import read_drops
from reconciler.network.features import Features, probe
from reconciler.network.kernel import KernelNetwork
from reconciler.network.probing import probe as probe_packets
from reconciler.planning.comparison.ports import port_differences
from tests.network.conftest import InNamespace
from tests.network.frames import (
    ALL_NODES,
    Guest,
    advertise,
    echo_packet,
    guest_on,
    ipv6,
    listener_report,
    multicast_mac,
    solicit,
    solicited_node,
    udp_packet,
)
from tests.network.ports import ip, nft, port, raised
from tests.network.test_packets import carried, drops

pytestmark = [pytest.mark.netns]
ARRIVES_S, STAYS_AWAY_S = 5.0, 0.3
OPEN = replace(PROFILES["high"], connections=None, bandwidth=None)
CLOSED = replace(OPEN, intra_network=False)
NOTHING: frozenset[Element] = frozenset()


@cache
def lacking() -> dict[str, str]:
    """What this kernel lacks, tried once."""
    return dict(asyncio.run(probe()))


@pytest.fixture(autouse=True)
def _tried() -> None:
    """Before the test goes into its namespace."""
    lacking()


class Known(Features):
    """What was tried then."""

    def __init__(self) -> None:
        super().__init__(Path("/nowhere"))
        self.found = lacking()

    async def lacking(self) -> dict[str, str]:
        return self.found


def bridged(number: int, zone: int = 7, policy: object = OPEN) -> Port:
    """A port on the bridge of a zone."""
    prefix = f"fd20:acde:0:{zone}::{number:x}00"
    return replace(port(number, zone=zone, address=prefix), policy=policy, bridged=True)  # type: ignore[arg-type]


ONE, TWO = bridged(1), bridged(2)
ALONE, BESIDE = bridged(3, 8, CLOSED), bridged(4, 8, CLOSED)
ROUTED = port(5, zone=9, address="fd20:acde:0:9::500")


@asynccontextmanager
async def standing(*ports: Port) -> AsyncIterator[tuple[KernelNetwork, list[Guest]]]:
    """These ports as applied, with a fake guest at each."""
    network = KernelNetwork(features=Known())
    await raised(network, *ports)
    async with AsyncExitStack() as stack:
        guests = [stack.enter_context(guest_on(entry)) for entry in ports]
        await carried(*(entry.tap for entry in ports))
        yield network, guests


def sent(sender: Guest, receiver: Guest, *, to: str = "", wait_s: float = ARRIVES_S) -> bool:
    """A datagram to the receiver's MAC (or another) arrives in time."""
    marker = os.urandom(16)
    packet = udp_packet(sender.address, receiver.address, marker)
    sender.send(packet, to=to or receiver.port.mac)
    return receiver.received(marker, within_s=wait_s) is not None


def everywhere(sender: Guest, receiver: Guest, *, wait_s: float = ARRIVES_S) -> bool:
    """A datagram to all nodes of the segment arrives in time."""
    marker = os.urandom(16)
    packet = udp_packet(sender.link_local, ALL_NODES, marker)
    sender.send(packet, to=multicast_mac(ALL_NODES))
    return receiver.received(marker, within_s=wait_s) is not None


async def told() -> dict[tuple[str, str], int]:
    """Packets dropped, by link and control."""
    found = await read_drops()
    assert found is not None
    return {(link, control_name(n)): tally.packets for (link, n), tally in found.by_link.items()}


def test_what_was_raised_is_as_planned_and_raising_again_changes_nothing(
    inside: InNamespace,
) -> None:
    async def body() -> None:
        async with standing(ONE, TWO, ALONE, ROUTED) as (network, _):
            for _ in range(2):
                state = await network.observe()
                assert state.bridges.keys() == {ONE.bridge, ALONE.bridge}
                for entry in (ONE, TWO, ALONE, ROUTED):
                    tap = state.taps[entry.tap]
                    assert port_differences(entry, tap, state.bridges) == ()
                wanted = frozenset().union(*map(port_elements, (ONE, TWO, ALONE, ROUTED)))
                assert state.firewall.elements == wanted
                assert state.foreign == {"lo"}
                assert await network.raise_taps([ONE, TWO, ALONE, ROUTED]) == {}

    inside(body)


def test_members_find_and_reach_each_other_on_their_segment(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (_, (one, two)):
            group = solicited_node(two.address)
            two.send(listener_report(two.link_local, group), to=multicast_mac("ff02::16"))
            asked = solicit(one.address, two.address)
            one.send(asked, to=multicast_mac(group))
            assert two.received(asked[8:40], within_s=ARRIVES_S) is not None
            assert sent(one, two) and sent(two, one)
            # By way of the host as well: a guest need not know that it is on a segment.
            assert sent(one, two, to=GATEWAY_MAC)
            assert await drops() == {}
            assert everywhere(one, two)
            assert await drops() == {"drop_host": 1}  # which is one of all nodes

    inside(body)


def test_where_a_network_is_closed_inside_only_the_host_is_reached(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ALONE, BESIDE) as (_, (alone, beside)):
            assert not sent(alone, beside, wait_s=STAYS_AWAY_S)
            assert not everywhere(alone, beside, wait_s=STAYS_AWAY_S)
            assert not sent(alone, beside, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)
            asked = solicit(alone.address, "fe80::1", alone.port.mac)
            alone.send(asked, to=multicast_mac(solicited_node("fe80::1")))
            answer = alone.received(bytes([0x88, 0x00]), within_s=ARRIVES_S)
            assert answer is not None and answer[6:12].hex(":") == GATEWAY_MAC
            assert await drops() == {"drop_tenant": 2, "drop_host": 1}

    inside(body)


def test_the_rules_hold_a_closed_network_where_the_bridge_no_longer_does(
    inside: InNamespace,
) -> None:
    async def body() -> None:
        async with standing(ALONE, BESIDE) as (network, (alone, beside)):
            for tap in (ALONE.tap, BESIDE.tap):
                ip("link", "set", tap, "type", "bridge_slave", "isolated", "off", "flood", "on")
            assert not sent(alone, beside, wait_s=STAYS_AWAY_S)
            assert not everywhere(alone, beside, wait_s=STAYS_AWAY_S)
            found = port_differences(ALONE, (await network.observe()).taps[ALONE.tap])
            paths = {change.path.rpartition("].")[2] for change in found}
            assert {"bridge.isolated", "bridge.floods"} <= paths

    inside(body)


def test_routed_and_bridged_networks_reach_each_other_by_rules_alone(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, ROUTED) as (network, (one, routed)):
            for sender, receiver in ((one, routed), (routed, one)):
                assert not sent(sender, receiver, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)
            dns = allow_element(ONE.zone, ROUTED.zone, "udp", "5000")
            await network.change_elements(frozenset({dns}), NOTHING)
            assert sent(one, routed, to=GATEWAY_MAC)
            back = udp_packet(routed.address, one.address, b"an answer to it", ports=(5000, 4000))
            routed.send(back)
            assert one.received(b"an answer to it", within_s=ARRIVES_S) is not None
            assert not sent(routed, one, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)
            await network.change_elements(NOTHING, frozenset({dns}))
            assert not sent(one, routed, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)
            names = await told()
            assert names == {(ONE.tap, "tenant"): 2, (ROUTED.tap, "tenant"): 2}

    inside(body)


def test_another_bridge_is_as_far_as_another_network(inside: InNamespace) -> None:
    async def body() -> None:
        elsewhere = bridged(6, 10)
        async with standing(ONE, elsewhere) as (network, (one, other)):
            assert not sent(one, other, wait_s=STAYS_AWAY_S)
            assert not sent(one, other, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)
            dns = allow_element(ONE.zone, elsewhere.zone, "udp", "5000")
            await network.change_elements(frozenset({dns}), NOTHING)
            assert sent(one, other, to=GATEWAY_MAC)
            assert not sent(other, one, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)

    inside(body)


def test_nobody_is_another_one_on_a_segment(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (_, (one, two)):
            marker = os.urandom(16)
            stolen = udp_packet("fd20:acde:0:7::beef", two.address, marker)
            one.send(stolen, to=two.port.mac)
            one.send(udp_packet(one.address, two.address, marker), to=two.port.mac, mac=GATEWAY_MAC)
            one.send(udp_packet(one.address, two.address, marker), to=two.port.mac,
                     mac="02:00:00:00:00:99")  # fmt: skip
            one.send(advertise(one.link_local, two.address, one.port.mac),
                     to=multicast_mac(ALL_NODES))  # fmt: skip
            one.send(advertise(one.link_local, "fe80::1", one.port.mac),
                     to=multicast_mac(ALL_NODES))  # fmt: skip
            one.send_ipv4(b"\x45" + bytes(19))
            assert sent(one, two)
            assert two.received(marker, within_s=0) is None
            assert await drops() == {"drop_spoof": 3, "drop_spoof_nd": 2, "drop_not_ipv6": 1}

    inside(body)


def test_a_frame_for_the_bridge_itself_goes_nowhere(inside: InNamespace) -> None:
    """Frames to the group address of bridges (IEEE 802.1D) come by the tap, not by the bridge."""

    async def body() -> None:
        async with standing(ONE, ROUTED) as (network, (one, routed)):
            opened = allow_element(ONE.zone, ROUTED.zone, "udp", "5000")
            await network.change_elements(frozenset({opened}), NOTHING)
            for last in ("00", "0e", "02"):
                assert not sent(one, routed, to=f"01:80:c2:00:00:{last}", wait_s=STAYS_AWAY_S)

    inside(body)


def test_who_is_put_on_a_bridge_by_others_reaches_nobody(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (_, (one, _)):
            ip("link", "add", "evil", "type", "veth", "peer", "name", "inner")
            for link in ("evil", "inner"):
                ip("link", "set", link, "up")
            ip("link", "set", "evil", "master", ONE.bridge)
            with closing(socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)) as raw:
                raw.bind(("inner", 0))
                marker = os.urandom(16)
                packet = udp_packet(TWO.addresses[0], one.address, marker)
                frame = one.framed(packet, mac=TWO.mac, to=one.port.mac)
                raw.send(frame)
                raw.send(one.framed(packet, mac=TWO.mac, to=GATEWAY_MAC))
                assert one.received(marker, within_s=STAYS_AWAY_S) is None

    inside(body)


def test_who_is_cut_off_is_so_on_the_segment_too(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (network, (one, two)):
            cut = cutting_off(ONE.tap, bridged=True)
            await network.change_elements(cut, NOTHING)
            assert not sent(one, two, wait_s=STAYS_AWAY_S)
            assert not sent(two, one, wait_s=STAYS_AWAY_S)
            assert not sent(two, one, to=GATEWAY_MAC, wait_s=STAYS_AWAY_S)
            names = await told()
            # Some of what the host itself says to it is counted as well.
            assert names.pop((ONE.tap, "isolated_to")) >= 2
            assert names == {(ONE.tap, "isolated"): 1}
            await network.change_elements(NOTHING, cut)
            assert sent(one, two) and sent(two, one)

    inside(body)


def test_a_report_has_one_form_and_nobody_else_asks(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (_, (one, two)):
            group = "ff02::1:ff00:4242"
            report = listener_report(one.link_local, group)
            other_form = report[:40] + b"\x3a\x00\x01\x04" + bytes(4) + report[48:]
            one.send(other_form, to=multicast_mac("ff02::16"))
            assert sent(one, two)
            one.send(report, to=multicast_mac("ff02::16"))
            assert sent(one, two)
            assert await drops() == {}
            assert (await firewall.list_table()).counters["quiet_mld"] == 1

    inside(body)


@pytest.mark.parametrize(
    ("command", "field"),
    [
        ("link set {tap} nomaster", "bridge"),
        ("link set {tap} type bridge_slave isolated on", "bridge.isolated"),
        ("link set {tap} type bridge_slave learning on", "bridge.learns"),
        ("link set {tap} type bridge_slave flood on", "bridge.floods"),
        ("link set {tap} type bridge_slave mcast_router 2", "bridge.routers"),
        ("link set {bridge} down", "{bridge}.up"),
        ("link set {bridge} address 02:00:00:00:00:99", "{bridge}.mac"),
        ("link set {bridge} mtu 1400", "{bridge}.mtu"),
        ("link set {bridge} type bridge mcast_snooping 0", "{bridge}.snoops"),
        ("link set {bridge} type bridge mcast_querier 0", "{bridge}.queries"),
        ("-6 addr add fd99::1/64 dev {bridge} nodad", "{bridge}.gateway"),
        ("link del {bridge}", "bridge"),
    ],
)
def test_drift_is_seen_and_healed(inside: InNamespace, command: str, field: str) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (network, (one, two)):
            names = {"tap": ONE.tap, "bridge": ONE.bridge}
            ip(*command.format(**names).split())
            state = await network.observe()
            found = port_differences(ONE, state.taps[ONE.tap], state.bridges)
            path = f"status.interfaces[front].{field.format(**names)}"
            assert path in {change.path for change in found}
            assert await network.raise_taps([ONE, TWO]) == {}
            state = await network.observe()
            for entry in (ONE, TWO):
                tap = state.taps[entry.tap]
                assert port_differences(entry, tap, state.bridges) == ()
            await carried(ONE.tap, TWO.tap)
            assert sent(one, two) and sent(two, one)

    inside(body)


def test_a_bridge_comes_with_the_first_and_goes_with_the_last(inside: InNamespace) -> None:
    async def body() -> None:
        network = KernelNetwork(features=Known())
        await raised(network, ONE, TWO)
        assert await network.remove_taps([ONE.tap]) == {}
        assert (await network.observe()).bridges.keys() == {ONE.bridge}
        assert await network.remove_taps([TWO.tap]) == {}
        state = await network.observe()
        assert not state.bridges and state.foreign == {"lo"}

    inside(body)


def test_a_foreign_link_of_the_name_is_left_alone(inside: InNamespace) -> None:
    async def body() -> None:
        network = KernelNetwork(features=Known())
        ip("link", "add", ONE.bridge, "type", "bridge")
        ip("link", "set", ONE.bridge, "alias", "somebody's")
        before = ip("link", "show", ONE.bridge)
        await network.load_firewall(bridged=True)
        await network.change_elements(port_elements(ONE), NOTHING)
        failures = await network.raise_taps([ONE])
        refused = failures[ONE.tap]
        assert isinstance(refused, RefusedError) and "not ours" in str(refused)
        assert refused.hint == f"rename or remove it: ip link show {ONE.bridge}"
        assert ip("link", "show", ONE.bridge) == before

    inside(body)


def test_a_port_goes_from_one_mode_to_the_other_and_back(inside: InNamespace) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (network, (one, two)):
            routed = [replace(entry, bridged=False) for entry in (ONE, TWO)]
            for wanted, before in ((routed, [ONE, TWO]), ([ONE, TWO], routed)):
                new = frozenset().union(*map(port_elements, wanted))
                old = frozenset().union(*map(port_elements, before))
                await network.change_elements(new, NOTHING)
                assert await network.raise_taps(wanted) == {}
                await network.change_elements(NOTHING, old - new)
                assert sent(one, two, to=GATEWAY_MAC) and sent(two, one, to=GATEWAY_MAC)
                direct = sent(one, two, wait_s=STAYS_AWAY_S)
                assert direct == wanted[0].bridged
                state = await network.observe()
                assert state.firewall.elements == new
                for entry in wanted:
                    tap = state.taps[entry.tap]
                    assert port_differences(entry, tap, state.bridges) == ()
                assert bool(state.bridges) == wanted[0].bridged

    inside(body)


def test_rules_of_bridges_are_told_apart_from_anybodys_change(inside: InNamespace) -> None:
    async def body() -> None:
        network = KernelNetwork(features=Known())
        loaded = await network.load_firewall(bridged=True)
        state = (await network.observe()).firewall
        assert state.wanted(bridged=True) == loaded
        nft("insert", "rule", "bridge", "metald", "forward_guest", "accept")
        state = (await network.observe()).firewall
        assert state.wanted(bridged=True)[1] != loaded[1]
        nft("delete", "table", "bridge", "metald")
        assert (await network.observe()).firewall.wanted(bridged=True)[1] is None
        assert await network.load_firewall(bridged=True) == loaded
        assert await network.load_firewall() == state.wanted(bridged=False)
        await network.remove_firewall()
        assert nft("list", "tables") == ""

    inside(body)


def test_connections_are_counted_by_the_bridge(inside: InNamespace) -> None:
    """Exactly so many, where bridges track connections; elsewhere such rules cannot be loaded."""

    async def body() -> None:
        limited = replace(ONE, policy=replace(OPEN, connections=5))
        if BRIDGE_TRACKING in lacking():
            network = KernelNetwork(features=Known())
            await network.load_firewall(bridged=True)
            with pytest.raises(Exception, match="nft"):
                await network.change_elements(port_elements(limited), NOTHING)
            return
        async with standing(limited, TWO) as (_, (one, two)):
            seen = 0
            for number in range(8):
                marker = os.urandom(16)
                packet = udp_packet(one.address, two.address, marker, ports=(4000 + number, 5000))
                one.send(packet, to=two.port.mac)
                seen += two.received(marker, within_s=STAYS_AWAY_S) is not None
            assert seen == 5
            assert await drops() == {"drop_connections": 3}

    inside(body)


def test_packets_of_a_verification_end_at_the_tap_on_the_segment_too(inside: InNamespace) -> None:
    def station(entry: Port) -> Station:
        network = network_address("acme", f"zone-{entry.zone}")
        address, local = entry.addresses[0], entry.link_local
        return Station(entry.vm, network, entry.tap, entry.mac, address, local, os.getpid())

    def shot(number: int, ends: tuple[Port, Port], mac: str) -> Shot:
        source, target = map(station, ends)
        return Shot(number, source, source.address, target.address, 6, 443, mac)

    async def body() -> None:
        async with standing(ONE, TWO, ALONE, BESIDE) as (_, guests):
            before = nft("list", "ruleset").splitlines()
            seen = await probe_packets(
                [
                    shot(1, (ONE, TWO), TWO.mac),
                    shot(2, (ONE, TWO), ""),
                    shot(3, (ALONE, BESIDE), BESIDE.mac),
                    shot(4, (ONE, ALONE), ""),
                ]
            )
            assert seen.arrived == dict.fromkeys((1, 2), frozenset({TWO.tap}))
            assert seen.stopped == {3: 3, 4: 3}
            assert await drops() == {} and not (seen.heard or seen.unsent)
            assert nft("list", "ruleset").splitlines() == before
            for guest in guests:
                assert guest.received(b"metald verify", within_s=0) is None

    inside(body)


def test_packets_towards_a_member_are_limited_on_the_segment(inside: InNamespace) -> None:
    async def body() -> None:
        few = replace(TWO, policy=replace(OPEN, packets_per_second=10, burst=5))
        async with standing(ONE, few) as (_, (one, two)):
            marker = os.urandom(16)
            for _ in range(50):
                one.send(udp_packet(one.address, two.address, marker), to=two.port.mac)
            found = sum(marker in frame for frame in two.frames(within_s=STAYS_AWAY_S))
            assert 5 <= found <= 12
            assert (await drops()) == {"drop_rate_packets_to": 50 - found}

    inside(body)


def test_a_ping_of_the_gateway_and_unknown_headers_count_for_their_guest(
    inside: InNamespace,
) -> None:
    async def body() -> None:
        async with standing(ONE, TWO) as (_, (one, two)):
            one.send(echo_packet(one.link_local, "fe80::1", 128, b"ping"))
            two.send(ipv6(two.address, one.address, bytes(8), header=0), to=one.port.mac)
            assert sent(one, two)
            assert sent(two, one)
            names = await told()
            assert names == {(ONE.tap, "host"): 1, (TWO.tap, "extension"): 1}

    inside(body)
