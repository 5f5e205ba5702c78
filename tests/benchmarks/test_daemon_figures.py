"""Figures of VMs started and of a daemon that is told by a save, beside their floors.

Ratios are printed, never asserted here: the machine is shared. `make bench` runs this.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from reconciler.execution.engine import Engine, Request
from reconciler.execution.executor import StepProgress
from reconciler.execution.host import open_world
from reconciler.execution.state.sqlite import open_reader, open_store
from reconciler.hypervisors import folders
from reconciler.hypervisors.qemu.command import Accelerator, command_line
from reconciler.hypervisors.qemu.driver import QemuDriver
from reconciler.hypervisors.qemu.monitor import connected
from reconciler.model.observed import VmState
from reconciler.model.plan import StartVm
from reconciler.model.resolved import LaunchSpec
from reconciler.network.tun import open_tap, reattach_tap
from reconciler.paths import RunPaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.source.tree import load
from tests.benchmarks.figures import report, verdict
from tests.integration.host import QEMU, SIMULATED, Host, build_image, hosts, network, tenant, vm
from tests.network.conftest import run_inside

pytestmark = [pytest.mark.bench, pytest.mark.netns, pytest.mark.timeout(1800)]
STARTS, SAVES = 20, 20


# -- saves ------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [10, 100, 1_000])
def test_a_save_begins_an_action(netns: str, count: int) -> None:
    """From the rename of the saved file to the first step begun, as journalled by the daemon."""
    host = Host(netns)
    memory = tempfile.mkdtemp(prefix="mt", dir="/dev/shm")  # as /run is
    host.environment["METALD_RUN_DIR"] = memory
    try:
        others = (vm("acme", f"v{number}", SIMULATED) for number in range(1, count))
        host.write("fleet.yaml", "".join([tenant("acme"), network("acme", "lan"), *others]))
        host.write("one.yaml", vm("acme", "one", f"memory: 128Mi, {SIMULATED}"))
        daemon = host.start("watch", str(host.specs), "--interval", "600")
        try:
            host.until("everything is applied", lambda: "pass: " in host.log(), 300)
            waits = sorted(save_and_wait(host, memory_mib) for memory_mib in sizes())
        finally:
            daemon.terminate()
            daemon.wait(60)
        p50, p95 = (waits[int(part * (len(waits) - 1))] * 1000 for part in (0.5, 0.95))
        row = f"save to action with {count} VMs: p50 {p50:.0f} ms, p95 {p95:.0f} ms"
        print(f"\n{row} (p95, {verdict(p95, '<= 250')})")
    finally:
        host.close()
        shutil.rmtree(memory)


def sizes() -> Iterator[int]:
    return itertools.islice(itertools.cycle((256, 128)), SAVES)


def save_and_wait(host: Host, memory_mib: int) -> float:
    draft = host.folder / "draft"
    draft.write_text(vm("acme", "one", f"memory: {memory_mib}Mi, {SIMULATED}"))
    with closing(open_reader(host.state)) as reader:
        last = reader.runs(1)[0].id
        draft.rename(host.specs / "one.yaml")
        saved = time.time()
        deadline = saved + 60
        while not ((run := reader.runs(1)[0]).id > last and run.outcome):
            assert time.time() < deadline, host.log()
            time.sleep(0.05)
        began = [step.started_at_s for step in reader.steps(run.id) if step.started_at_s]
    return min(began) - saved


# -- starts -----------------------------------------------------------------------------------


@pytest.fixture
def host(netns: str, tmp_path: Path) -> Iterator[Host]:
    """Its run folder is in memory, as /run is."""
    with tempfile.TemporaryDirectory(prefix="mt", dir="/dev/shm") as memory:
        Path(memory).chmod(0o711)
        for made in hosts(netns, build_image(tmp_path)):
            made.runs = RunPaths(Path(memory))
            yield made


@pytest.mark.vm
def test_start_of_vms(host: Host) -> None:
    """Real QEMU, the minimal image, from the first start to the last guest let go.

    The floor starts the same command lines in a loop and lets each guest go when it answers.
    """
    first = vm("acme", "first", QEMU)
    host.write("fleet.yaml", "".join([tenant("acme"), network("acme", "lan"), first]))
    vms = "".join(vm("acme", f"v{number}", QEMU) for number in range(STARTS))

    async def ours() -> tuple[float, list[LaunchSpec], str]:
        moments: list[float] = []

        def note(progress: StepProgress) -> None:
            if isinstance(progress.step.operation, StartVm):
                moments.append(time.perf_counter())

        with closing(open_store(host.state)) as store:
            world = open_world(host.state, host.runs)
            # As many at a time as the floor, which bounds them by nothing.
            engine = Engine(world, store, parallelism=STARTS)
            # The first start on a host finds out whether its KVM works: once per boot.
            alone = Request(load(host.specs).require(), SourceInfo("bench"))
            assert (await engine.apply(alone, on_progress=lambda _: None)).is_complete
            host.write("more.yaml", vms)
            request = Request(load(host.specs).require(), SourceInfo("bench"))
            outcome = await engine.apply(request, on_progress=note)
            assert outcome.is_complete, outcome
            seen = [
                s for s in (await engine.world.observe_vms()).values() if isinstance(s, VmState)
            ]
            for state in seen:
                await engine.world.drivers["qemu"].stop(state.uid, graceful=False)
        started = [state.launch for state in seen if not state.launch.vm.endswith("/first")]
        return moments[-1] - moments[0], started, seen[0].note

    async def floor() -> float:
        return await started_in_a_loop(host.runs, launches, Accelerator(*note.split(", ", 1)))

    figure, launches, note = run_inside(host.netns, ours)
    assert len(launches) == STARTS
    bare = run_inside(host.netns, floor)
    report(f"{STARTS} VMs started ({note})", figure, "a loop starting the same command lines",
           bare, "<= 1.1")  # fmt: skip


async def started_in_a_loop(
    runs: RunPaths, launches: Sequence[LaunchSpec], accelerator: Accelerator
) -> float:
    driver = QemuDriver(runs, open_tap=open_tap, reattach_tap=reattach_tap)
    paths = [folders.create(runs, launch, note="floor") for launch in launches]
    running: list[subprocess.Popen[bytes]] = []
    with ExitStack() as stack:
        opened = [stack.enter_context(driver._descriptors(launch)) for launch in launches]
        argvs = [
            command_line("/usr/bin/qemu-system-x86_64", launch, where, accelerator, descriptors)
            for launch, where, descriptors in zip(launches, paths, opened, strict=True)
        ]
        try:
            started = time.perf_counter()
            for argv, descriptors in zip(argvs, opened, strict=True):
                running.append(started_one(argv, tuple(descriptors.values())))
            await asyncio.gather(*(let_go(where.qmp) for where in paths))
            return time.perf_counter() - started
        finally:
            for process in running:
                process.kill()
                process.wait()
            for launch in launches:
                folders.remove(runs, launch.uid)


def started_one(argv: Sequence[str], keep: Sequence[int]) -> subprocess.Popen[bytes]:
    return subprocess.Popen(argv, pass_fds=keep, stdin=subprocess.DEVNULL)


async def let_go(socket: Path) -> None:
    while True:
        if socket.exists():
            with suppress(Exception):
                async with connected(socket) as monitor:
                    await monitor.execute("cont")
                    return
        await asyncio.sleep(0.02)
