"""Figures, each beside the floor it is compared with, in one run on one machine.

Ratios are printed, never asserted here: the machine is shared. `make bench` runs this.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from reconciler.model import identity
from reconciler.model.addresses import vm_address
from reconciler.model.firewall import elements_of
from reconciler.model.fleet import Fleet
from reconciler.model.resolved import GATEWAY_MAC, Port
from reconciler.network.kernel import KernelNetwork
from reconciler.planning.planner import plan
from reconciler.planning.resolve import resolve
from reconciler.source.tree import load
from tests.network.conftest import run_inside
from tests.planning.world import World

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]
ROUNDS = 7


def timed(body: Callable[[], object]) -> float:
    started = time.perf_counter()
    body()
    return time.perf_counter() - started


def report(what: str, figure_s: float, floor: str, floor_s: float, goal: str) -> None:
    ratio = figure_s / floor_s
    print(f"\n{what}: {figure_s:.3f} s; {floor}: {floor_s:.3f} s; ratio {ratio:.2f} (goal {goal})")


def command(*words: str) -> Callable[[], object]:
    return lambda: subprocess.run(words, check=True, capture_output=True, timeout=60)


@pytest.mark.parametrize(
    "words", [("--help",), ("validate", "examples/quickstart/acme.yaml")], ids=["help", "validate"]
)
def test_light_commands(words: tuple[str, ...]) -> None:
    metald = command(str(Path(sys.executable).with_name("metald")), *words)
    floor = command(sys.executable, "-c", "import click, pydantic")
    pairs = [(timed(metald), timed(floor)) for _ in range(ROUNDS)]
    figures, floors = zip(*pairs, strict=True)
    report(f"metald {words[0]}", statistics.median(figures), "import click, pydantic",
           statistics.median(floors), "<= 1.5")  # fmt: skip


def fleet_text(count: int) -> str:
    head = (
        "apiVersion: metald/v1\nkind: Tenant\nmetadata: {name: acme}\n---\n"
        "apiVersion: metald/v1\nkind: Network\nmetadata: {name: lan, tenant: acme}\n"
    )
    return head + "".join(
        f"---\napiVersion: metald/v1\nkind: VM\nmetadata: {{name: v{index}, tenant: acme}}\n"
        "spec:\n  vcpus: 2\n  memory: 128Mi\n  boot: {image: minimal}\n"
        "  interfaces: [{network: lan, address: auto}]\n"
        for index in range(count)
    )


@pytest.mark.parametrize("count", [100, 1_000, 10_000])
def test_cold_plan(tmp_path: Path, count: int) -> None:
    (tmp_path / "fleet.yaml").write_text(fleet_text(count))
    world = World()
    fleets: list[Fleet] = []
    parsing = timed(lambda: fleets.append(load(tmp_path).require()))

    def decide() -> None:
        ledger = world.ledger()
        plan(resolve(fleets[0], ledger, world.images), world.observed(), ledger)

    deciding = timed(decide)
    report(f"plan of {count} VMs from nothing, parsing included", parsing + deciding,
           "parsing and validating", parsing, "<= 2")  # fmt: skip
    if count > 1_000:
        return  # the imaginary host itself would take minutes to build
    world.apply(fleets[0])
    unchanged = timed(decide)
    report(f"plan of {count} VMs, nothing to do", parsing + unchanged, "parsing and validating",
           parsing, "<= 2")  # fmt: skip


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
