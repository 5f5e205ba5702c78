"""Bandwidth as a policy declares it: measured on real taps, observed, changed, healed, removed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace

import pytest

from reconciler.model.firewall import port_elements
from reconciler.model.identity import shaper_of
from reconciler.model.observed import TapState
from reconciler.model.resolved import Port
from reconciler.model.security import PROFILES
from reconciler.network.kernel import KernelNetwork
from tests.network.conftest import InNamespace
from tests.network.frames import Guest, guest_on, udp_packet
from tests.network.ports import ip, port, raised, tc
from tests.network.test_packets import carried

pytestmark = pytest.mark.netns
FREE = replace(PROFILES["low"], source_address="strict")
_DATA = bytes(1352)  # 1414 octets on the wire
_PAUSE_S = 0.001


def limited(number: int, bits: int | None, *, burst_ms: int = 100) -> Port:
    policy = replace(FREE, bandwidth=bits, burst_ms=burst_ms)
    return replace(port(number), policy=policy)


@dataclass(frozen=True, slots=True)
class Flow:
    """Twice as much as may pass, from one guest to another, for a while."""

    sender: Guest
    receiver: Guest
    bits: int
    seconds: float

    def measured(self) -> float:
        """Bits per second that arrived, the burst at the beginning left out."""
        packet = udp_packet(self.sender.address, self.receiver.address, _DATA)
        frame_bits = 8 * (len(packet) + 14)
        began = time.monotonic()
        sent, counted, since, settled = 0, 0, 0.0, 0.5
        while (now := time.monotonic() - began) < settled + self.seconds:
            while sent * frame_bits < 2 * self.bits * now:
                self.sender.send(packet)
                sent += 1
            octets = self.receiver.drain()
            if now >= settled and not since:
                since = now
            elif since:
                counted += octets
            time.sleep(_PAUSE_S)
        return 8 * counted / (time.monotonic() - began - since)


def between(
    inside: InNamespace, ports: tuple[Port, Port], body: Callable[[Guest, Guest], Awaitable[None]]
) -> None:
    async def run() -> None:
        await raised(KernelNetwork(), *ports)
        with guest_on(ports[0]) as one, guest_on(ports[1]) as two:
            await carried(*(entry.tap for entry in ports))
            await body(one, two)

    inside(run)


async def state_of(entry: Port) -> TapState:
    return (await KernelNetwork().observe()).taps[entry.tap]


@pytest.mark.parametrize(
    ("mbit", "seconds", "idle_s"),
    [
        (8, 2.0, 0.0),
        pytest.param(20, 10.0, 0.0, marks=pytest.mark.soak),
        pytest.param(20, 10.0, 10.0, marks=pytest.mark.soak),
    ],
)
@pytest.mark.parametrize("from_guest", [True, False], ids=["from", "to"])
def test_what_passes_is_what_is_declared(
    inside: InNamespace, from_guest: bool, mbit: int, seconds: float, idle_s: float
) -> None:
    bits = mbit * 1_000_000
    ports = (limited(1, bits), limited(2, None))

    async def body(one: Guest, two: Guest) -> None:
        await asyncio.sleep(idle_s)
        sender, receiver = (one, two) if from_guest else (two, one)
        rate = Flow(sender, receiver, bits, seconds).measured()
        print(f"{'from' if from_guest else 'to'} a guest: {rate / bits:.4f} of {mbit} Mbit/s")
        assert rate == pytest.approx(bits, rel=0.05)

    between(inside, ports, body)


def test_it_changes_in_place_and_can_be_lifted(inside: InNamespace) -> None:
    async def body(one: Guest, two: Guest) -> None:
        index = ip("link", "show", shaper_of(one.port.tap)).split(":")[0]
        slower = limited(1, 4_000_000)
        assert await KernelNetwork().raise_taps([slower]) == {}
        state = await state_of(slower)
        assert (state.to_guest, state.from_guest) == (4_000_000, 4_000_000)
        assert ip("link", "show", shaper_of(one.port.tap)).split(":")[0] == index
        assert Flow(one, two, 4_000_000, 1.5).measured() == pytest.approx(4_000_000, rel=0.1)
        free = limited(1, None)
        assert await KernelNetwork().raise_taps([free]) == {}
        state = await state_of(free)
        assert (state.to_guest, state.from_guest) == (None, None)
        assert shaper_of(one.port.tap) not in ip("link")
        assert Flow(one, two, 16_000_000, 0.5).measured() > 16_000_000

    between(inside, (limited(1, 8_000_000), limited(2, None)), body)


@pytest.mark.parametrize("bits", [64_000, 1_000_000, 8_000_000_000, 100_000_000_000])
def test_a_rate_is_read_back_as_it_was_declared(inside: InNamespace, bits: int) -> None:
    async def body() -> None:
        entry = limited(1, bits)
        await raised(KernelNetwork(), entry)
        state = await state_of(entry)
        assert (state.to_guest, state.from_guest) == (bits, bits)

    inside(body)


@pytest.mark.parametrize(
    ("by_hand", "to_guest", "from_guest"),
    [
        (["qdisc", "del", "dev", "TAP", "root"], None, 8_000_000),
        (["qdisc", "change", "dev", "TAP", "root", "tbf", "rate", "1mbit", "burst", "9kb",
          "limit", "9kb"], 1_000_000, 8_000_000),
        (["qdisc", "del", "dev", "TAP", "ingress"], 8_000_000, None),
        (["filter", "del", "dev", "TAP", "parent", "ffff:"], 8_000_000, None),
        (["filter", "add", "dev", "TAP", "parent", "ffff:", "protocol", "all", "prio", "9",
          "u32", "match", "u32", "0", "0", "flowid", "1:1"], 8_000_000, None),
        (["qdisc", "del", "dev", "IFB", "root"], 8_000_000, None),
        (["LINK", "del", "IFB"], 8_000_000, None),
        (["LINK", "set", "IFB", "down"], 8_000_000, None),
    ],
)  # fmt: skip
def test_a_change_by_hand_is_seen_and_healed(
    inside: InNamespace, by_hand: list[str], to_guest: int | None, from_guest: int | None
) -> None:
    async def body(one: Guest, two: Guest) -> None:
        tap = one.port.tap
        words = [word.replace("TAP", tap).replace("IFB", shaper_of(tap)) for word in by_hand]
        if words[0] == "LINK":
            ip("link", *words[1:])
        else:
            tc(*words)
        state = await state_of(one.port)
        assert (state.to_guest, state.from_guest) == (to_guest, from_guest)
        assert await KernelNetwork().raise_taps([one.port]) == {}
        state = await state_of(one.port)
        assert (state.to_guest, state.from_guest) == (8_000_000, 8_000_000)
        assert Flow(one, two, 8_000_000, 0.5).measured() == pytest.approx(8_000_000, rel=0.2)

    between(inside, (limited(1, 8_000_000), limited(2, None)), body)


def test_it_goes_with_the_tap_and_alone_it_is_seen(inside: InNamespace) -> None:
    async def body() -> None:
        network, one, two = KernelNetwork(), limited(1, 8_000_000), limited(2, 8_000_000)
        await raised(network, one, two)
        ip("link", "del", one.tap)
        state = await network.observe()
        assert state.shapers == {one.tap: one.alias, two.tap: two.alias}
        assert not {shaper_of(one.tap), shaper_of(two.tap)} & (state.foreign | state.taps.keys())
        assert await network.remove_taps([one.tap, two.tap]) == {}
        await network.change_elements(frozenset(), port_elements(one) | port_elements(two))
        state = await network.observe()
        assert (dict(state.shapers), dict(state.taps)) == ({}, {})
        assert "ifb" not in ip("-d", "link")

    inside(body)


def test_a_tap_is_not_up_before_it_is_limited(inside: InNamespace) -> None:
    async def body() -> None:
        network, one = KernelNetwork(), limited(1, 8_000_000)
        await raised(network, limited(2, None))
        await network.change_elements(port_elements(one), frozenset())
        ip("link", "add", shaper_of(one.tap), "type", "veth", "peer", "name", "far0")  # in the way
        failures = await network.raise_taps([one])
        assert list(failures) == [one.tap]
        assert "not ours" in str(failures[one.tap])
        assert not (await network.observe()).taps[one.tap].up
        assert one.alias not in ip("link", "show", shaper_of(one.tap)), "a stranger's stays his"

    inside(body)


def test_a_rename_tells_both_links_whose_they_are(inside: InNamespace) -> None:
    async def body() -> None:
        network, one = KernelNetwork(), limited(1, 8_000_000)
        await raised(network, one)
        renamed = replace(one, alias=one.alias.replace("vm/acme/v1", "vm/acme/other"))
        assert await network.raise_taps([renamed]) == {}
        state = await network.observe()
        assert dict(state.shapers) == {one.tap: renamed.alias}
        assert state.taps[one.tap].alias == renamed.alias

    inside(body)
