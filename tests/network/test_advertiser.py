"""Prefixes advertised to guests: asked for and unasked, to each its own, by a process that is told,
killed, started again and ended; nothing to whom nothing is declared.
"""

from __future__ import annotations

import asyncio
import os
import signal
import struct
import sys
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from dataclasses import replace
from ipaddress import IPv6Address
from pathlib import Path

import pytest
from scapy.layers.inet6 import ICMPv6ND_RA, ICMPv6NDOptPREF64

from reconciler.commands import run_async
from reconciler.errors import UnknownStateError
from reconciler.model.firewall import ADVERTISED, Element, port_elements
from reconciler.model.security import PROFILES
from reconciler.network.advertiser import NOBODY
from reconciler.network.advertising import Advertising, advertiser_of
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace
from tests.network.frames import (
    ALL_ROUTERS,
    ROUTER_ADVERT,
    ROUTER_SOLICIT,
    Guest,
    discovery,
    guest_on,
    multicast_mac,
    solicit,
    udp_packet,
)
from tests.network.ports import port, raised
from tests.network.test_packets import ARRIVES_S, STAYS_AWAY_S, carried

pytestmark = pytest.mark.netns
SLAAC = replace(PROFILES["low"], slaac=True)
ONE = replace(port(1), policy=SLAAC, delegated=("fd20:acde:0:c0::/64",))
TWO = replace(port(2), policy=SLAAC, delegated=("fd20:acde:0:c1::/64",))
PLAIN = port(3)


@asynccontextmanager
async def advertised(folder: Path) -> AsyncIterator[tuple[KernelNetwork, Advertising]]:
    advertising = Advertising(folder / "advertiser")
    network = KernelNetwork(advertising)
    try:
        await raised(network, ONE, TWO, PLAIN)
        yield network, advertising
    finally:
        advertising.stop()


def adverts(guest: Guest, within_s: float) -> list[bytes]:
    """Router advertisements that come, from the first octet of their ICMPv6 header on."""
    found = []
    for frame in guest.frames(within_s=within_s):
        packet = frame[14:]
        if packet[6] == 58 and packet[40] == ROUTER_ADVERT:
            assert packet[7] == 255, "hop limit"
            assert packet[8:24] == IPv6Address("fe80::1").packed
            found.append(packet[40:])
            break
    return found


def prefix_in(advert: bytes) -> tuple[str, int, int]:
    """(prefix, length, flags) of its prefix information."""
    at = 16
    while at < len(advert):
        kind, length = advert[at], 8 * advert[at + 1]
        if kind == 3:
            prefix = str(IPv6Address(advert[at + 16 : at + 32]))
            return prefix, advert[at + 2], advert[at + 3]
        at += length
    pytest.fail("no prefix in it")


def resolvers_in(advert: bytes) -> list[str]:
    """Addresses of its option for resolvers (RFC 8106)."""
    found, at = [], 16
    while at < len(advert):
        kind, length = advert[at], 8 * advert[at + 1]
        if kind == 25:
            packed = advert[at + 8 : at + length]
            found += [str(IPv6Address(packed[n : n + 16])) for n in range(0, len(packed), 16)]
        at += length
    return found


def ask(guest: Guest, *, hops: int = 255) -> None:
    packet = bytearray(discovery(guest.link_local, ALL_ROUTERS, ROUTER_SOLICIT, bytes(4)))
    packet[7] = hops
    guest.send(bytes(packet), to=multicast_mac(ALL_ROUTERS))


def pid_of(folder: Path) -> int:
    pid = advertiser_of(folder / "advertiser")
    assert pid is not None
    return pid


def test_each_guest_is_told_its_own_and_others_nothing(inside: InNamespace, tmp_path: Path) -> None:
    async def body() -> None:
        async with advertised(tmp_path):
            with ExitStack() as stack:
                one, two, plain = (stack.enter_context(guest_on(e)) for e in (ONE, TWO, PLAIN))
                await carried(ONE.tap, TWO.tap, PLAIN.tap)
                for guest, prefix in ((one, "fd20:acde:0:c0::"), (two, "fd20:acde:0:c1::")):
                    ask(guest)
                    (advert,) = adverts(guest, ARRIVES_S)
                    assert prefix_in(advert) == (prefix, 64, 0x40), "autonomous, not on-link"
                    assert struct.unpack("!H", advert[6:8])[0] == 1800
                ask(plain)
                assert adverts(plain, STAYS_AWAY_S) == []

    inside(body)


def test_what_a_guest_makes_of_it_is_its_own(inside: InNamespace, tmp_path: Path) -> None:
    async def body() -> None:
        async with advertised(tmp_path):
            with ExitStack() as stack:
                one, two = (stack.enter_context(guest_on(e)) for e in (ONE, TWO))
                await carried(ONE.tap, TWO.tap)
                mine = "fd20:acde:0:c0:dead:beef:0:1"
                one.send(solicit("::", mine), to=multicast_mac("ff02::1:ff00:1"))
                one.send(udp_packet(mine, two.address, marker := os.urandom(16)))
                assert two.received(marker, within_s=ARRIVES_S)
                two.send(udp_packet(two.address, mine, marker := os.urandom(16)))
                assert one.received(marker, within_s=ARRIVES_S)
                from tests.network.test_policies import dropped

                assert await dropped(one) == {}, "its duplicate detection neither"

    inside(body)


def test_who_is_new_is_told_unasked_and_a_forger_is_not_answered(
    inside: InNamespace, tmp_path: Path
) -> None:
    async def body() -> None:
        async with advertised(tmp_path) as (network, _):
            with guest_on(ONE) as one:
                await carried(ONE.tap)
                one.drain()
                ask(one, hops=64)
                assert adverts(one, STAYS_AWAY_S) == [], "it came from beyond the link"
                again = replace(ONE, delegated=("fd20:acde:0:c5::/64",))
                new, old = port_elements(again), port_elements(ONE)
                await network.change_elements(new - old, old - new)
                (advert,) = adverts(one, ARRIVES_S)
                assert prefix_in(advert)[0] == "fd20:acde:0:c5::"
                assert resolvers_in(advert) == []
                named = replace(
                    again, resolvers=("2001:db8:53::1", "fe80::1"), nat64="64:ff9b::/96"
                )
                old, new = new, port_elements(named)
                await network.change_elements(new - old, frozenset())
                await network.change_elements(frozenset(), old - new)
                (advert,) = adverts(one, ARRIVES_S)
                assert resolvers_in(advert) == ["2001:db8:53::1", "fe80::1"]
                # Scapy reads it as others would.
                read = ICMPv6ND_RA(advert)[ICMPv6NDOptPREF64]
                assert (read.prefix, read.plc, read.scaledlifetime) == ("64:ff9b::", 0, 225)
                seen = (await network.observe()).firewall.elements
                told = "2001:db8:53::1 fe80::1 64:ff9b::/96"
                assert Element(ADVERTISED, (ONE.tap, "fd20:acde:0:c5::/64"), told) in seen

    inside(body)


def test_a_flood_of_questions_is_answered_once_a_second(
    inside: InNamespace, tmp_path: Path
) -> None:
    async def body() -> None:
        async with advertised(tmp_path):
            with guest_on(ONE) as one:
                await carried(ONE.tap)
                one.drain()
                started = time.monotonic()
                for _ in range(200):
                    ask(one)
                got = sum(frame[54:55] == bytes([ROUTER_ADVERT])
                          for frame in one.frames(within_s=0.5))  # fmt: skip
                assert 1 <= got <= 2 + int(time.monotonic() - started)

    inside(body)


def test_it_lives_apart_is_nobody_is_healed_and_ends(inside: InNamespace, tmp_path: Path) -> None:
    async def body() -> None:
        async with advertised(tmp_path) as (network, advertising):
            wanted = {e for p in (ONE, TWO) for e in port_elements(p) if e.container == ADVERTISED}
            seen = (await network.observe()).firewall.elements
            assert {e for e in seen if e.container == ADVERTISED} == wanted
            pid = pid_of(tmp_path)
            status = Path(f"/proc/{pid}/status").read_text()
            assert f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}" in status
            assert "CapEff:\t0000000000000000" in status
            assert os.getsid(pid) != os.getsid(0)

            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(ARRIVES_S):
                while any(e.container == ADVERTISED
                          for e in (await network.observe()).firewall.elements):  # fmt: skip
                    await asyncio.sleep(0.01)
            await network.change_elements(frozenset(wanted), frozenset())
            assert pid_of(tmp_path) != pid
            with guest_on(ONE) as one:
                await carried(ONE.tap)
                ask(one)
                assert adverts(one, ARRIVES_S)
            gone = Element(ADVERTISED, (TWO.tap, TWO.delegated[0]))
            await network.change_elements(frozenset(), frozenset({gone}))
            assert advertising.elements() == wanted - {gone}
            last = frozenset(advertising.elements())
            await network.change_elements(frozenset(), last)
            assert not (tmp_path / "advertiser").exists(), "for nobody it does not stay"
            await network.change_elements(last, frozenset())
            pid = pid_of(tmp_path)
            await network.remove_firewall()
            assert not Path(f"/proc/{pid}").exists() or "Z" in Path(f"/proc/{pid}/stat").read_text()
            assert not (tmp_path / "advertiser").exists()

    inside(body)


def test_there_is_one_and_a_lock_that_nobody_holds_names_nobody(
    inside: InNamespace, tmp_path: Path
) -> None:
    async def body() -> None:
        async with advertised(tmp_path) as (_, advertising):
            pid, folder = pid_of(tmp_path), tmp_path / "advertiser"
            words = [sys.executable, "-m", "reconciler.network.advertiser", str(folder)]
            done = await run_async(words, expected=frozenset({1}))
            assert "another advertises already" in done.stderr
            assert pid_of(tmp_path) == pid
            os.kill(pid, signal.SIGKILL)
            async with asyncio.timeout(ARRIVES_S):
                while advertiser_of(folder) is not None:
                    await asyncio.sleep(0.01)
            assert (folder / "lock").exists()
            assert advertising.elements() == frozenset()

    inside(body)


def test_a_lock_that_cannot_be_asked_for_is_unknown_and_not_free(tmp_path: Path) -> None:
    (tmp_path / "lock").symlink_to("lock")
    with pytest.raises(UnknownStateError, match="who advertises cannot be told"):
        Advertising(tmp_path).elements()
