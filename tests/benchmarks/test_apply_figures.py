"""Figures of applying: what the kernel's network and the VMs take, beside their floors.

Ratios are printed, never asserted here: the machine is shared. `make bench` runs this.
"""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from reconciler.model import identity
from reconciler.model.addresses import vm_address
from reconciler.model.firewall import elements_of
from reconciler.model.resolved import GATEWAY_MAC, Port
from reconciler.network.kernel import KernelNetwork
from tests.benchmarks.figures import command, report, timed
from tests.network.conftest import run_inside

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


@pytest.mark.netns
@pytest.mark.parametrize("count", [100, 500])
def test_network_from_nothing(netns: str, tmp_path: Path, count: int) -> None:
    ports = [port(number) for number in range(1, count + 1)]

    async def ours() -> float:
        network = KernelNetwork()
        started = time.perf_counter()
        await network.load_firewall()
        await network.change_elements(elements_of(ports), frozenset())
        assert await network.raise_taps(ports) == {}
        spent = time.perf_counter() - started
        await network.remove_taps([entry.tap for entry in ports])
        return spent

    async def floor() -> float:
        batch = tmp_path / "batch"
        batch.write_text("".join(ip_lines(entry) for entry in ports))
        return timed(command("ip", "-6", "-batch", str(batch)))

    figure = run_inside(netns, ours)
    bare = run_inside(netns, floor)
    report(f"network of {count} VMs", figure, "ip -batch for the links alone", bare, "<= 1.5")


def port(number: int) -> Port:
    mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    return Port(
        f"mt{number:012x}", f"metald vm/a/b{number}#lan 00", vm_address("a", f"b{number}"), mac, 5,
        (f"fd20::1:{number:x}",), str(identity.link_local_of(mac)),
    )  # fmt: skip


def ip_lines(entry: Port) -> str:
    tap, address = entry.tap, entry.addresses[0]
    return (
        f"tuntap add dev {tap} mode tap vnet_hdr\n"
        f"link set dev {tap} alias x address {GATEWAY_MAC} addrgenmode none\n"
        f"addr add fe80::1/64 dev {tap} nodad\n"
        f"link set dev {tap} up\n"
        f"neigh replace {address} lladdr {entry.mac} dev {tap} nud permanent\n"
        f"neigh replace {entry.link_local} lladdr {entry.mac} dev {tap} nud permanent\n"
        f"route replace {address}/128 dev {tap}\n"
    )
