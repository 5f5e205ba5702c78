"""Packets a second, both ways, against what is declared: over a second or two in every run, over
ten seconds and after ten seconds of idleness in the long form. Connections exactly.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import replace

import pytest

from reconciler.model.security import PROFILES
from tests.network.conftest import InNamespace
from tests.network.frames import SYN, Guest, tcp_packet, udp_packet
from tests.network.ports import port
from tests.network.test_packets import ARRIVES_S
from tests.network.test_shaping import between

pytestmark = pytest.mark.netns
LOW = PROFILES["low"]
RATE, BURST = 2000, 100
# Sent three times as fast as may pass, in bunches that the other tap's queue takes.
BUNCH, PAUSE_S = 60, 0.01
IDLE_LONG = pytest.param(10.0, 10.0, marks=pytest.mark.soak)


def passed(sender: Guest, receiver: Guest, seconds: float) -> tuple[int, float]:
    """How many packets arrived, and within how long they were sent."""
    packet = udp_packet(sender.address, receiver.address, b"counted")
    started, arrived = time.monotonic(), 0
    while (spent := time.monotonic() - started) < seconds:
        for _ in range(BUNCH):
            sender.send(packet)
        arrived += sum(b"counted" in frame for frame in receiver.frames(within_s=0))
        time.sleep(PAUSE_S)
    arrived += sum(b"counted" in frame for frame in receiver.frames(within_s=0.1))
    return arrived, spent


@pytest.mark.parametrize(
    ("seconds", "idle_s"),
    [(1.5, 0.0), pytest.param(10.0, 0.0, marks=pytest.mark.soak), IDLE_LONG],
)
@pytest.mark.parametrize("from_guest", [True, False], ids=["from", "to"])
def test_as_many_pass_as_are_declared(
    inside: InNamespace, from_guest: bool, seconds: float, idle_s: float
) -> None:
    limited = replace(port(1), policy=replace(LOW, packets_per_second=RATE, burst=BURST))

    async def body(one: Guest, two: Guest) -> None:
        await asyncio.sleep(idle_s)
        sender, receiver = (one, two) if from_guest else (two, one)
        arrived, spent = passed(sender, receiver, seconds)
        declared = RATE * spent + BURST
        print(f"{'from' if from_guest else 'to'} a guest: {arrived / declared:.4f} of {RATE}/s "
              f"and its burst over {spent:.1f} s")  # fmt: skip
        assert arrived == pytest.approx(declared, rel=0.05)

    between(inside, (limited, replace(port(2), policy=LOW)), body)


@pytest.mark.parametrize("idle_s", [0.0, pytest.param(10.0, marks=pytest.mark.soak)])
def test_exactly_so_many_connections_are_opened(inside: InNamespace, idle_s: float) -> None:
    most = 25
    limited = replace(port(1), policy=replace(LOW, connections=most))

    async def body(one: Guest, two: Guest) -> None:
        for number in range(most + 10):
            if number == most // 2:
                await asyncio.sleep(idle_s)  # what is open stays counted while nothing passes
            ports = (20_000 + number, 5432)
            one.send(tcp_packet(one.address, two.address, b"", ports=ports, state=(SYN, 1, 0)))
        opened = [
            int.from_bytes(frame[54:56], "big")
            for frame in two.frames(within_s=ARRIVES_S / 10)
            if frame[20] == 6
        ]
        assert opened == [20_000 + number for number in range(most)]

    between(inside, (limited, replace(port(2), policy=LOW)), body)
