"""A prefix delegated to a guest, with packets: what is inside it talks, and nobody else as it."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace

import pytest

from reconciler.network import firewall
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace
from tests.network.frames import Guest, guest_on, udp_packet
from tests.network.ports import ip, port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried
from tests.network.test_policies import NUMBERS, dropped

pytestmark = pytest.mark.netns
PREFIX, OTHER = "fd20:acde:0:c0::/64", "fd20:acde:0:c1::/64"
ONE, TWO = replace(port(1), delegated=(PREFIX,)), port(2)
INSIDE, ELSEWHERE = "fd20:acde:0:c0:1:2:3:4", "fd20:acde:0:c1::4"


@asynccontextmanager
async def pair() -> AsyncIterator[tuple[Guest, Guest]]:
    """One with the prefix, and a neighbour."""
    await raised(KernelNetwork(), ONE, TWO)
    with ExitStack() as stack:
        a, b = (stack.enter_context(guest_on(entry)) for entry in (ONE, TWO))
        await carried(ONE.tap, TWO.tap)
        yield a, b


def test_the_prefix_is_the_guests_and_nobody_elses(inside: InNamespace) -> None:
    async def body() -> None:
        async with pair() as (a, b):
            marker = os.urandom(16)
            a.send(udp_packet(INSIDE, b.address, marker))
            assert b.received(marker, within_s=ARRIVES_S), "from inside it"
            b.send(udp_packet(b.address, INSIDE, marker := os.urandom(16)))
            assert a.received(marker, within_s=ARRIVES_S), "and back"
            assert await dropped(a) == {}
            b.send(udp_packet(INSIDE, a.address, marker := os.urandom(16)))
            assert a.received(marker, within_s=STAYS_AWAY_S) is None, "not as the neighbour"
            a.send(udp_packet(ELSEWHERE, b.address, marker := os.urandom(16)))
            assert b.received(marker, within_s=STAYS_AWAY_S) is None, "nothing beside it"
            drops = (await firewall.list_table()).drops
            spoofed = NUMBERS["spoof"]
            assert [drops[tap, spoofed].packets for tap in (ONE.tap, TWO.tap)] == [1, 1]

    inside(body)


def test_what_nobody_uses_in_it_makes_no_neighbours(inside: InNamespace) -> None:
    async def body() -> None:
        async with pair() as (a, b):
            before = ip("-6", "neigh", "show")
            for number in range(100):
                target = INSIDE.removesuffix("4") + f"{number:x}"
                b.send(udp_packet(b.address, target, os.urandom(8)))
            b.send(udp_packet(b.address, INSIDE, marker := os.urandom(16)))
            assert a.received(marker, within_s=ARRIVES_S)
            assert ip("-6", "neigh", "show") == before

    inside(body)


def test_it_is_seen_changed_and_taken_away(inside: InNamespace) -> None:
    async def body() -> None:
        network, one = KernelNetwork(), ONE
        await raised(network, one)
        seen = (await network.observe()).taps[one.tap]
        assert seen.routes == one.routes == {one.addresses[0], f"{PREFIX} via {one.link_local}"}
        for delegated in ((OTHER,), ()):
            changed = replace(one, delegated=delegated)
            assert await network.raise_taps([changed]) == {}
            assert (await network.observe()).taps[one.tap].routes == changed.routes
        assert PREFIX not in ip("-6", "route") and OTHER not in ip("-6", "route")

    inside(body)
