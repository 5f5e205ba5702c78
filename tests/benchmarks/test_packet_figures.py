"""What a packet costs on its way through one VM's path, by how many VMs there are.

Two hosts stand side by side, with few VMs and with many; the same packets go through both in
turns. The path is the whole one: early, guard, forward, and what stands behind it, up to the queue
of another guest's tap. Ratios are printed, never asserted: the machine is shared.
"""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

import pytest

from reconciler.network.tun import VNET_HEADER_BYTES
from tests.benchmarks.figures import report
from tests.conftest import fresh_netns
from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.outside import guest_of
from tests.network.frames import Guest, udp_packet

pytestmark = [pytest.mark.bench, pytest.mark.netns, pytest.mark.timeout(1800)]
FEW, MANY = 10, 1_000
# As many as the other tap's queue takes (1000), and in high's burst.
BURST, ROUNDS = 800, 300
# No rate is to be met here: what is measured is the way, with all of its lookups.
OPEN = "policy: {rateLimits: {packetsPerSecond: none, bandwidth: none}}"


@contextmanager
def pair(count: int) -> Iterator[tuple[Guest, Guest]]:
    """Two guests of one network, on a host with ``count`` VMs."""
    with fresh_netns() as netns, ExitStack() as stack:
        host = stack.enter_context(closing(Host(netns)))
        machines = "".join(vm("acme", f"v{number}", SIMULATED) for number in range(count))
        host.write("fleet.yaml", tenant("acme") + network("acme", "lan", OPEN) + machines)
        host.run("apply", str(host.specs), "--yes")
        guests = [stack.enter_context(guest_of(host, f"vm/acme/v{n}")) for n in (3, 7)]
        yield guests[0], guests[1]


def seconds_per_packet(one: Guest, two: Guest) -> float:
    """A tap's write returns when the packet has gone all the way."""
    frame = bytes(VNET_HEADER_BYTES) + one.framed(udp_packet(one.address, two.address, b"x" * 64))
    descriptor = one.descriptor
    started = time.perf_counter()
    for _ in range(BURST):
        os.write(descriptor, frame)
    spent = time.perf_counter() - started
    arrived = sum(1 for _ in two.frames(within_s=0))
    assert arrived >= BURST, f"{arrived} of {BURST} arrived"
    return spent / BURST


def test_a_packet_costs_the_same_among_many_vms() -> None:
    with pair(FEW) as few, pair(MANY) as many:
        for guests in (few, many):
            seconds_per_packet(*guests)  # caches warm
        rounds = [(seconds_per_packet(*many), seconds_per_packet(*few)) for _ in range(ROUNDS)]
    at_many, at_few = (statistics.median(column) for column in zip(*rounds, strict=True))
    ratios = sorted(a / b for a, b in rounds)
    report(f"a packet's way among {MANY} VMs", at_many, f"among {FEW}", at_few, "<= 1.1")
    low, high = (ratios[len(ratios) * part // 20] for part in (1, 19))
    print(
        f"ratio of pairs: median {statistics.median(ratios):.3f}, 90 % of {low:.2f} to {high:.2f}"
    )
