"""Packets of a verification: seen where they end, and by nobody else; packets on real taps."""

from __future__ import annotations

import os
import re
import struct
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from reconciler import resources
from reconciler.errors import RefusedError
from reconciler.model.addresses import network_address
from reconciler.model.firewall import Element, allow_element, port_elements
from reconciler.model.probes import FLOW_LABEL, Shot, Sightings, Station
from reconciler.model.resolved import GATEWAY, Port
from reconciler.network import firewall, probing
from reconciler.network.kernel import KernelNetwork
from reconciler.network.packets import frame
from tests.network.conftest import InNamespace
from tests.network.frames import Guest, guest_on, udp_packet
from tests.network.ports import ip, nft, port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried, drops

pytestmark = pytest.mark.netns
ONE, TWO = port(1, zone=7), port(2, zone=7)
FAR = port(3, zone=8, address="fd20:acde:0:2::300")
TCP, UDP, ICMPV6, OTHER = 6, 17, 58, 253
ALL = (TCP, UDP, ICMPV6, OTHER)
WEB = allow_element(7, 8, "tcp", "80")
NOTHING: frozenset[Element] = frozenset()
RULES = resources.data_folder("templates") / "nftables"
Guests = Mapping[Port, Guest]


@pytest.fixture(autouse=True)
def _short_patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is lost is waited for three times; here nothing takes so long."""
    monkeypatch.setattr(probing, "_WAIT_S", 0.2)


def station(entry: Port, pid: int = 0) -> Station:
    network = network_address("acme", f"zone-{entry.zone}")
    address, link_local = entry.addresses[0], entry.link_local
    return Station(entry.vm, network, entry.tap, entry.mac, address, link_local, pid or os.getpid())


def shot(number: int, source: Port, target: Port | str, header: int, dport: int = 0) -> Shot:
    if isinstance(target, Port):
        return Shot(
            number, station(source), source.addresses[0], target.addresses[0], header, dport
        )
    own = source.link_local if target == GATEWAY else source.addresses[0]
    return Shot(number, station(source), own, target, header, dport)


def flows() -> int:
    return int(Path("/proc/sys/net/netfilter/nf_conntrack_count").read_text())


@asynccontextmanager
async def guests() -> AsyncIterator[Guests]:
    """Two guests of one network and one of another, which the first may reach at port 80."""
    await raised(KernelNetwork(), ONE, TWO, FAR)
    await KernelNetwork().change_elements(frozenset({WEB}), NOTHING)
    async with AsyncExitStack() as stack:
        found = {entry: stack.enter_context(guest_on(entry)) for entry in (ONE, TWO, FAR)}
        await carried(ONE.tap, TWO.tap, FAR.tap)
        yield found


def with_guests(inside: InNamespace, body: Callable[[Guests], Awaitable[None]]) -> None:
    async def run() -> None:
        async with guests() as found:
            await body(found)
            for guest in found.values():
                assert guest.received(b"metald verify", within_s=0) is None, "guests see nothing"

    inside(run)


def lines_of_rules() -> list[str]:
    listed = nft("list", "ruleset")
    assert "metald_verify" not in listed, "nothing is left behind"
    return listed.splitlines()


def test_each_is_seen_where_it_ends_and_leaves_no_trace(inside: InNamespace) -> None:
    async def body(_: Guests) -> None:
        shots = [shot(n, ONE, TWO, header, 443) for n, header in enumerate(ALL, start=1)]
        shots += [shot(n, ONE, FAR, header, 81) for n, header in enumerate(ALL, start=11)]
        shots += [shot(n, ONE, GATEWAY, header, 22) for n, header in enumerate(ALL, start=21)]
        shots += [shot(31, ONE, FAR, TCP, 80), shot(32, FAR, ONE, TCP, 80)]
        before, connections = lines_of_rules(), flows()
        seen = await probing.probe(shots)
        arriving = dict.fromkeys(range(1, 5), frozenset({TWO.tap})) | {31: frozenset({FAR.tap})}
        assert seen.arrived == arriving
        refused = {**dict.fromkeys(range(11, 15), 3), **dict.fromkeys(range(21, 25), 2), 32: 3}
        assert seen.stopped == refused
        assert not (seen.heard or seen.returned or seen.unsent)
        assert seen.injected[ONE.tap][0] == len(shots) - 1
        assert lines_of_rules() == before, "rules, counters and elements are as they were"
        assert await drops() == {}
        assert flows() == connections, "no connection is remembered"

    with_guests(inside, body)


async def probed(*shots: Shot) -> Sightings:
    return await probing.probe(shots)


def three() -> tuple[Shot, Shot, Shot]:
    """To a neighbour, to another network, to the host; made where the descriptors are."""
    return shot(1, ONE, TWO, UDP, 9), shot(2, ONE, FAR, UDP, 9), shot(3, ONE, GATEWAY, UDP, 9)


@pytest.mark.parametrize(
    ("change", "arrived", "heard"),
    [
        ("insert rule inet metald forward accept", {1, 2}, set()),
        ("flush chain inet metald forward_guest", set(), set()),
        ("insert rule inet metald input accept", {1}, {3}),
        ("insert rule inet metald forward drop", set(), set()),
        ("flush set inet metald sources", set(), set()),
        ("flush map inet metald zone_of", set(), set()),
        ("delete table inet metald", {1, 2}, {3}),
        ("flush ruleset", {1, 2}, {3}),
        ("add element inet metald allow { 7 . 0:8 . udp . 9-9 }", {1, 2}, set()),
    ],
)
def test_a_change_by_hand_shows_and_guests_still_see_nothing(
    inside: InNamespace, change: str, arrived: set[int], heard: set[int]
) -> None:
    async def body(_: Guests) -> None:
        nft(*change.split())
        seen = await probed(*three())
        assert seen.arrived.keys() == arrived and seen.heard == heard
        assert seen.guarded == ("table" not in change and "ruleset" not in change)
        assert "metald_verify" not in nft("list", "ruleset")
        if seen.guarded:
            assert await drops() == {}

    with_guests(inside, body)


HOST = "fd88::1"


@pytest.mark.parametrize("way", ["", "insert rule inet metald input accept"])
def test_addresses_of_the_host_are_known_and_tried(inside: InNamespace, way: str) -> None:
    async def body(_: Guests) -> None:
        assert probing.host_addresses() == []
        ip("-6", "addr", "add", f"{HOST}/128", "dev", "lo", "nodad")
        assert probing.host_addresses() == [HOST]
        if way:
            nft(*way.split())
        seen = await probing.probe([shot(n, ONE, HOST, n, 22) for n in ALL])
        assert set(seen.heard if way else seen.stopped) == set(ALL)
        assert await drops() == {} and not seen.arrived

    with_guests(inside, body)


def test_what_was_interrupted_is_unsent(inside: InNamespace) -> None:
    async def body(_: Guests) -> None:
        seen = await probing.probe([*three()], lambda: True)
        assert seen.unsent == dict.fromkeys((1, 2, 3), "it was interrupted")
        assert lines_of_rules()

    with_guests(inside, body)


def test_what_the_host_has_no_way_to_is_told_and_the_guest_hears_no_error(
    inside: InNamespace,
) -> None:
    async def body(found: Guests) -> None:
        ip("-6", "route", "del", f"{TWO.addresses[0]}/128", "dev", TWO.tap)
        ip("-6", "addr", "add", "fd88::1/128", "dev", "lo", "nodad")
        seen = await probed(three()[0])
        assert seen.arrived == {} and seen.returned == {1}
        assert found[ONE].received(b"metald verify", within_s=STAYS_AWAY_S) is None

    with_guests(inside, body)


THEIRS = """
table ip6 theirs {
    chain c {
        type filter hook HOOK; policy drop;
    }
}
"""


@pytest.mark.parametrize("hook", ["forward priority 10", "postrouting priority 1000"])
def test_another_firewall_that_drops_leaves_no_answer(inside: InNamespace, hook: str) -> None:
    async def body(_: Guests) -> None:
        nft("-f", "-", script=THEIRS.replace("HOOK", hook))
        seen = await probed(*three()[:2])
        assert not seen.arrived and not seen.returned and seen.stopped == {2: 3}

    with_guests(inside, body)


def test_what_cannot_be_sent_says_why(inside: InNamespace) -> None:
    async def body(_: Guests) -> None:
        gone = Shot(1, station(ONE, pid=2**22 - 1), ONE.addresses[0], TWO.addresses[0], UDP, 9)
        ip("link", "set", FAR.tap, "down")
        seen = await probed(gone, shot(2, FAR, ONE, UDP, 9), three()[2])
        assert re.search(r"descriptors of process \d+ cannot be read", seen.unsent[1])
        assert "takes no frame" in seen.unsent[2]
        assert seen.stopped == {3: 2}

    with_guests(inside, body)


def test_rules_of_another_version_are_refused(inside: InNamespace) -> None:
    async def run() -> None:
        nft("add", "table", "inet", "metald")
        with pytest.raises(RefusedError, match="another version"):
            await probed(three()[0])
        assert lines_of_rules() == ["table inet metald {", "}"]

    inside(run)


def test_a_guest_gains_nothing_by_our_flow_label(inside: InNamespace) -> None:
    async def body(found: Guests) -> None:
        sender = found[ONE]

        def marked(target: Guest, data: bytes) -> bytes:
            packet = udp_packet(sender.address, target.address, data)
            return struct.pack("!I", 6 << 28 | FLOW_LABEL) + packet[4:]

        async with probing._watched(os.urandom(8)):
            for forged in (bytes(12), os.urandom(12)):
                sender.send(marked(found[FAR], bytes(12) + forged + b"forged"))
                sender.send(marked(found[TWO], bytes(12) + forged + b"forged"))
                assert found[TWO].received(b"forged", within_s=ARRIVES_S) is not None
            assert await drops() == {"drop_tenant": 2}
            assert "expires" in nft("list", "set", "inet", "metald", "probes")

    with_guests(inside, body)


def leave_rules(token: bytes) -> None:
    """What a verification leaves when it is killed."""
    for table, tokens in (("metald", "probes"), ("metald_verify", "tokens")):
        if table == "metald_verify":
            nft("-f", str(RULES / "verify.nft"))
        nft("add", "element", "inet", table, tokens, f"{{ 0x{token.hex()} timeout 90s }}")
    nft("add", "element", "inet", "metald", "stopped", "{ 1 . 3 }")


def test_a_live_flow_goes_on_and_what_was_killed_is_cleared_away(inside: InNamespace) -> None:
    async def body(found: Guests) -> None:
        sender, receiver = found[ONE], found[TWO]

        def flows_on() -> bool:
            marker = os.urandom(16)
            sender.send(udp_packet(sender.address, receiver.address, marker))
            return receiver.received(marker, within_s=ARRIVES_S) is not None

        assert flows_on()
        before = flows()
        # As after kill -9: the rules of an earlier run stand, nobody removes them.
        leave_rules(os.urandom(8))
        assert flows_on()
        assert (await firewall.list_table()).elements == (
            {WEB} | port_elements(ONE) | port_elements(TWO) | port_elements(FAR)
        ), "a token is no drift"
        seen = await probed(*three()[:2])
        assert seen.arrived.keys() == {1} and seen.stopped.keys() == {2}
        assert flows_on() and flows() == before
        leave_rules(os.urandom(8))
        await firewall.remove()
        assert nft("list", "ruleset") == ""

    with_guests(inside, body)


def test_many_are_all_accounted_for(inside: InNamespace) -> None:
    async def body(_: Guests) -> None:
        shots = [
            shot(n, ONE, TWO if n % 2 else FAR, TCP if n % 3 else UDP, 1000) for n in range(1, 1001)
        ]
        seen = await probing.probe(shots)
        assert seen.arrived.keys() == {n for n in range(1, 1001) if n % 2}
        assert seen.stopped.keys() == {n for n in range(1, 1001) if not n % 2}
        assert await drops() == {}

    with_guests(inside, body)


def test_the_rules_know_the_label_and_the_place_of_the_token() -> None:
    for name in ("metald.nft", "verify.nft"):
        text = (RULES / name).read_text()
        labels = set(re.findall(r"flowlabel (\w+)", text))
        assert {int(label, 16) for label in labels} == {FLOW_LABEL}
    data = frame(three()[0], token=b"secretly", source_port=61001)
    assert data[14 + 40 + 20 :].startswith(b"secretly\0\0\0\1")


def test_a_descriptor_that_went_elsewhere_is_not_used(inside: InNamespace) -> None:
    async def body(_: Guests) -> None:
        other = Station(ONE.vm, station(ONE).network, "mtother", ONE.mac, "", "", os.getpid())
        seen = await probed(Shot(1, other, ONE.addresses[0], TWO.addresses[0], UDP, 9))
        assert "no descriptor attached" in seen.unsent[1]
        assert seen.injected == {}

    with_guests(inside, body)
