"""Figures of applying: what the kernel's network and the VMs take, beside their floors.

Ratios are printed, never asserted here: the machine is shared. `make bench` runs this.
"""

from __future__ import annotations

import resource
import statistics
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.execution.engine import Engine, Request
from reconciler.execution.host import open_world
from reconciler.execution.state.sqlite import open_store
from reconciler.model import identity
from reconciler.model.addresses import vm_address
from reconciler.model.firewall import elements_of
from reconciler.model.fleet import Fleet
from reconciler.model.identity import shaper_of
from reconciler.model.observed import NetworkState
from reconciler.model.resolved import GATEWAY_MAC, Port, link_alias
from reconciler.network import firewall, ruleset
from reconciler.network.kernel import KernelNetwork
from reconciler.paths import RunPaths, StatePaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.source.tree import load
from tests.benchmarks.figures import report
from tests.integration.host import SIMULATED, network, tenant, vm
from tests.network.conftest import run_inside

pytestmark = [pytest.mark.bench, pytest.mark.netns, pytest.mark.timeout(1800)]
SIZES = (10, 100, 1_000, 10_000)
_SETTINGS = (("ipv6", "accept_ra", 0), ("ipv6", "accept_redirects", 0), ("ipv4", "arp_ignore", 8))
_ROUNDS = {10: 5, 100: 3, 1_000: 2, 10_000: 1}
# Beyond, taking links away takes the kernel many minutes, by whatever hand: every link has
# fe80::1, all of them lie in one chain of addrconf's hash, and each that goes walks it. There the
# whole namespace goes instead, and that figure is not taken.
_MOST_TAKEN_DOWN = 1_000


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True, timeout=600)


# -- the network alone ------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES)
def test_network_from_nothing(netns: str, tmp_path: Path, count: int) -> None:
    """The floor makes the very same: compared entry by entry, as `plan` would see it."""
    ports = [port(number) for number in range(1, count + 1)]
    names = ("rules", "batch", "shapes", "settings", "group")
    rules, batch, shapes, settings, group = (tmp_path / name for name in names)
    rules.write_text(rules_text(ports))
    batch.write_text("".join(map(ip_lines, ports)))
    shapes.write_text("".join(map(shape_lines, ports)))
    settings.write_text("".join(map(setting_lines, ports)))
    links = (link for entry in ports for link in (shaper_of(entry.tap), entry.tap))
    group.write_text("".join(f"link set dev {link} group 77\n" for link in links))

    async def ours() -> Round:
        built = KernelNetwork()
        up = Watch()
        await built.load_firewall()
        await built.change_elements(elements_of(ports), frozenset())
        assert await built.raise_taps(ports) == {}
        up.stop()
        state = await built.observe()
        if count > _MOST_TAKEN_DOWN:
            return up.spent, state
        down = Watch()
        assert await built.remove_taps([entry.tap for entry in ports]) == {}
        down.stop()
        await built.remove_firewall()
        return (*up.spent, *down.spent), state

    async def floor() -> Round:
        up = Watch()
        run("nft", "-f", str(rules))
        run("ip", "-6", "-batch", str(batch))
        run("tc", "-batch", str(shapes))
        run("sh", str(settings))
        up.stop()
        state = await KernelNetwork().observe()
        if count > _MOST_TAKEN_DOWN:
            return up.spent, state
        down = Watch()
        run("ip", "-batch", str(group))
        run("ip", "link", "delete", "group", "77")
        down.stop()
        run("nft", "delete", "table", "inet", "metald")
        return (*up.spent, *down.spent), state

    rounds = []
    for _ in range(_ROUNDS[count]):
        figures = run_inside(netns, ours)
        if count > _MOST_TAKEN_DOWN:
            renew(netns)
        rounds.append((figures, run_inside(netns, floor)))
    (_, made), (_, wanted) = rounds[0]
    assert len(made.taps) == count
    assert made == wanted, "the floor makes something else"
    for position, what in enumerate(("up", "up, CPU", "down", "down, CPU")[: len(rounds[0][0][0])]):
        figure, bare = (
            statistics.median(pair[which][0][position] for pair in rounds) for which in (0, 1)
        )
        by = "nft -f, ip and tc -batch, sh" if what.startswith("up") else "ip link delete group"
        report(f"network of {count} VMs {what}", figure, by, bare, "<= 1.5")


def renew(netns: str) -> None:
    """The namespace goes with all that is in it, and another takes its place."""
    run("ip", "netns", "delete", netns)
    run("ip", "netns", "add", netns)


Round = tuple[tuple[float, ...], NetworkState]


class Watch:
    """Wall clock and CPU from its making until it is stopped, in seconds.

    The CPU, the kernel's on our behalf included, tells more on a machine that others use too.
    """

    def __init__(self) -> None:
        self._began = (time.perf_counter(), cpu_s())
        self.spent = (0.0, 0.0)

    def stop(self) -> None:
        wall, cpu = self._began
        self.spent = (time.perf_counter() - wall, cpu_s() - cpu)


def port(number: int) -> Port:
    """An alias without the usual #, which ip -batch takes for the start of a comment."""
    mac = f"02:00:00:00:{number >> 8:02x}:{number & 255:02x}"
    return Port(
        f"mt{number:012x}", link_alias(f"vm/a/b{number}+lan", f"{number:032x}"),
        vm_address("a", f"b{number}"), mac, 5, (f"fd20::1:{number:x}",),
        str(identity.link_local_of(mac)),
    )  # fmt: skip


def rules_text(ports: Sequence[Port]) -> str:
    elements = firewall.element_commands("add", elements_of(ports))
    return "\n".join([ruleset.template(), *elements])


def ip_lines(entry: Port) -> str:
    tap, address, shaper = entry.tap, entry.addresses[0], shaper_of(entry.tap)
    return (
        f"link add dev {shaper} type ifb\n"
        f'link set dev {shaper} alias "{entry.alias}" addrgenmode none up\n'
        f"tuntap add dev {tap} mode tap vnet_hdr\n"
        f'link set dev {tap} alias "{entry.alias}" address {GATEWAY_MAC} addrgenmode none\n'
        f"addr add fe80::1/64 dev {tap} nodad\n"
        f"link set dev {tap} up\n"
        f"neigh replace {address} lladdr {entry.mac} dev {tap} nud permanent\n"
        f"neigh replace {entry.link_local} lladdr {entry.mac} dev {tap} nud permanent\n"
        f"route replace {address}/128 dev {tap}\n"
    )


def shape_lines(entry: Port) -> str:
    """8 Gbit/s both ways, which is the profile's."""
    tap, shaper = entry.tap, shaper_of(entry.tap)
    bucket = f"handle 1: root tbf rate {entry.policy.bandwidth}bit burst 1mb limit 2mb\n"
    return (
        f"qdisc add dev {tap} {bucket}"
        f"qdisc add dev {shaper} {bucket}"
        f"qdisc add dev {tap} ingress\n"
        f"filter add dev {tap} parent ffff: protocol all prio 1 u32 match u32 0 0 "
        f"action mirred egress redirect dev {shaper}\n"
    )


def setting_lines(entry: Port) -> str:
    """Only what differs from what the kernel gives a new link."""
    return "".join(
        f"echo {value} > /proc/sys/net/{family}/conf/{entry.tap}/{name}\n"
        for family, name, value in _SETTINGS
    )


# -- a whole apply ----------------------------------------------------------------------------


@pytest.mark.parametrize("count", SIZES[:3])
def test_whole_apply_and_steady_pass(netns: str, tmp_path: Path, count: int) -> None:
    """Plan, journal, network, simulated VMs, verification; then passes with nothing to do.

    The run folder is in memory, as /run is.
    """
    specs = tmp_path / "specs"
    specs.mkdir()
    (specs / "fleet.yaml").write_text(fleet_text(count))

    async def body() -> None:
        request = Request(load(specs).require(), SourceInfo(str(specs)))
        with (
            tempfile.TemporaryDirectory(prefix="mt", dir="/dev/shm") as run_folder,
            closing(open_store(StatePaths(tmp_path / "state"))) as store,
        ):
            world = open_world(StatePaths(tmp_path / "state"), RunPaths(Path(run_folder)))
            engine = Engine(world, store)

            async def apply(wanted: Request) -> bool:
                return (await engine.apply(wanted, on_progress=lambda _: None)).is_complete

            started, before = time.perf_counter(), cpu_s()
            assert await apply(request)
            print(
                f"\napply of {count} simulated VMs from nothing: "
                f"{time.perf_counter() - started:.3g} s, {cpu_s() - before:.3g} s of CPU"
            )
            passes = []
            for _ in range(5):
                before = cpu_s()
                assert await apply(request)
                passes.append(cpu_s() - before)
            print(
                f"steady pass of {count} VMs: {statistics.median(passes):.3g} s of CPU,"
                f" {statistics.median(passes) / 0.3:.2g} % of a core at 30 s (goal <= 1 at 1000)"
            )
            started, before = time.perf_counter(), cpu_s()
            assert await apply(replace(request, fleet=Fleet.of(())))
            print(
                f"all {count} VMs taken away: {time.perf_counter() - started:.3g} s,"
                f" {cpu_s() - before:.3g} s of CPU"
            )

    run_inside(netns, body)


def cpu_s() -> float:
    """What this process and the programs it ran have used."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(usage.ru_utime + usage.ru_stime for usage in spent)


def fleet_text(count: int) -> str:
    vms = (vm("acme", f"v{number}", SIMULATED) for number in range(count))
    return "".join([tenant("acme"), network("acme", "lan"), *vms])
