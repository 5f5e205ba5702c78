"""One suite for every driver: simulated, and QEMU with real guests on real taps.

Each case runs in a process inside its own network namespace, as metald does.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import DriverError, MetaldError, TransientError
from reconciler.hypervisors import console, folders, processes, turns
from reconciler.hypervisors.driver import Driver, Drivers, Taps
from reconciler.hypervisors.drivers import make_drivers, observe_all
from reconciler.hypervisors.qemu.driver import QemuDriver
from reconciler.model import identity
from reconciler.model.addresses import vm_address
from reconciler.model.firewall import elements_of
from reconciler.model.hypervisors import HYPERVISORS
from reconciler.model.lifecycle import Operation, State
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import BootFiles, GuestInterface, LaunchSpec, Port
from reconciler.network.kernel import KernelNetwork
from reconciler.network.tun import open_tap, own_tap, reattach_tap
from reconciler.paths import RunPaths
from tests.conftest import fresh_netns
from tests.hypervisors.vmm_programs import on_path
from tests.integration.conftest import minimal_image
from tests.network.conftest import run_inside

pytestmark = [pytest.mark.vm, pytest.mark.netns]
MAC = "02:00:00:00:00:01"
# Of this run alone: cgroups and rights to devices are the whole machine's.
UID = f"{os.getpid():08x}89abcdef0123456789abcdef"
UNIX_ID = 2_000_000_000 + os.getpid() % 60_000
ADDRESS = "fd20::5"
TAPS = Taps(open_tap, reattach_tap, own_tap)
__all__ = ["minimal_image"]


class Bench:
    """A run folder, one port in the namespace, and the driver under test."""

    def __init__(self, kind: str, folder: Path, image: Path) -> None:
        hypervisor, _, machine = kind.partition(":")
        self.run = RunPaths(folder / "run")
        self.jails = folder / "jails"
        self.jails.mkdir(mode=0o700, exist_ok=True)
        self.drivers = self.make()
        self.driver: Driver = self.drivers[hypervisor]
        boot = None
        if hypervisor != "simulated":
            files = (str(image / "minimal" / "kernel"), str(image / "minimal" / "initrd"))
            boot = BootFiles(files[0], "kernel", files[1], "initrd", "")
        self.port = Port(
            "mt00000000c0de", f"metald vm/a/b#lan {UID}", vm_address("a", "b"), MAC, 7,
            (ADDRESS,), str(identity.link_local_of(MAC)),
        )  # fmt: skip
        self.launch = LaunchSpec(
            vm_address("a", "b"), UID, UNIX_ID, hypervisor, machine or "auto", 1, 128 << 20,
            boot, (GuestInterface("lan", self.port.tap, MAC, (ADDRESS,)),),
        )  # fmt: skip

    def make(self) -> Drivers:
        return make_drivers(self.run, self.jails, TAPS)

    async def prepare(self) -> None:
        network = KernelNetwork()
        await network.load_firewall()
        await network.change_elements(elements_of([self.port]), frozenset())
        assert await network.raise_taps([self.port]) == {}

    async def state(self) -> VmState:
        found = (await observe_all(self.run, self.drivers))[UID]
        assert isinstance(found, VmState), found
        return found

    async def phase(self) -> VmPhase:
        return (await self.state()).phase

    def proof(self) -> processes.Proof | None:
        paths = self.run.vm(UID)
        return processes.prove(paths.process, paths.lock)

    async def boot(self) -> None:
        """Start it, until its guest is ready.

        Under emulation a microvm hangs in its clock's calibration every other time; such a boot,
        and of no other machine, is begun again.
        """
        tries = 10 if self.launch.machine == "microvm" else 1
        for left in reversed(range(tries)):
            await self.driver.start(self.launch, power="running")
            try:
                waited = asyncio.timeout(20 if tries > 1 else 120)
                async with waited, console.attached(self.run.vm(UID)) as (reader, _):
                    await reader.readuntil(b"# ")
                return
            except TimeoutError:
                if not left:
                    raise
                await self.driver.stop(UID, graceful=False)


Body = Callable[[Bench], Coroutine[Any, Any, None]]
Case = Callable[[Body], None]


@contextlib.asynccontextmanager
async def prepared(hypervisor: str, folder: Path, image: Path) -> AsyncIterator[Bench]:
    bench = Bench(hypervisor, folder, image)
    await bench.prepare()
    _recall_probe(bench.run)
    try:
        yield bench
    finally:
        _keep_probe(bench.run)
        proof = bench.proof()
        if proof is not None:
            os.kill(proof.pid, signal.SIGCONT)
        await bench.driver.stop(UID, graceful=False)


# The probe for KVM takes five seconds where KVM hangs; each case has a run folder of its own. Cases
# run in processes of their own, so what was found is kept on disk.
PROBED = Path(tempfile.gettempdir()) / f"metald-test-accelerator-{os.getpid()}.json"


def _recall_probe(run: RunPaths) -> None:
    if PROBED.exists():
        run.root.mkdir(mode=0o711)
        shutil.copyfile(PROBED, run.accelerator)


def _keep_probe(run: RunPaths) -> None:
    if run.accelerator.exists() and not PROBED.exists():
        shutil.copyfile(run.accelerator, PROBED)


@pytest.fixture(scope="module", autouse=True)
def no_probe_is_kept() -> Iterator[None]:
    yield
    PROBED.unlink(missing_ok=True)


@pytest.fixture
def folder() -> Iterator[Path]:
    path = Path(tempfile.mkdtemp(prefix="mt", dir="/tmp"))
    path.chmod(0o711)
    yield path
    shutil.rmtree(path)


def case_for(hypervisor: str, netns: str, folder: Path, image: Path) -> Case:
    def run(body: Body) -> None:
        async def inside() -> None:
            async with prepared(hypervisor, folder, image) as bench:
                await body(bench)

        run_inside(netns, inside)

    return run


@pytest.fixture(params=list(HYPERVISORS))
def case(
    request: pytest.FixtureRequest, netns: str, folder: Path, minimal_image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Case]:  # fmt: skip
    """Every driver."""
    with on_path(request.param, monkeypatch):
        yield case_for(request.param, netns, folder, minimal_image)


@pytest.fixture(params=[name for name, known in HYPERVISORS.items() if known.programs])
def process(
    request: pytest.FixtureRequest, netns: str, folder: Path, minimal_image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Case]:  # fmt: skip
    """Every driver whose VMs are processes."""
    with on_path(request.param, monkeypatch):
        yield case_for(request.param, netns, folder, minimal_image)


@pytest.fixture(params=["q35", "microvm"])
def machine(request: pytest.FixtureRequest, netns: str, folder: Path, minimal_image: Path) -> Case:
    return case_for(f"qemu:{request.param}", netns, folder, minimal_image)


@pytest.fixture
def qemu(netns: str, folder: Path, minimal_image: Path) -> Case:
    return case_for("qemu", netns, folder, minimal_image)


def test_start_is_idempotent_and_power_follows(case: Case) -> None:
    async def body(bench: Bench) -> None:
        assert await observe_all(bench.run, bench.drivers) == {}
        await bench.driver.start(bench.launch, power="running")
        first = await bench.state()
        assert first.phase is VmPhase.RUNNING
        assert first.launch == bench.launch
        await bench.driver.start(bench.launch, power="running")
        assert (await bench.state()).pid == first.pid
        await bench.driver.set_power(UID, "paused")
        assert await bench.phase() is VmPhase.PAUSED
        await bench.driver.start(bench.launch, power="running")
        assert (await bench.state()).pid == first.pid
        assert await bench.phase() is VmPhase.RUNNING

    case(body)


def test_started_paused_is_paused(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="paused")
        assert await bench.phase() is VmPhase.PAUSED

    case(body)


def test_stop_leaves_nothing_and_may_be_repeated(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        await bench.driver.stop(UID, graceful=False)
        assert await observe_all(bench.run, bench.drivers) == {}
        assert list(bench.run.vms.iterdir()) == []
        await bench.driver.stop(UID, graceful=False)

    case(body)


def test_another_process_with_no_memory_finds_and_stops_it(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        later = bench.make()
        assert await observe_all(bench.run, later) == await observe_all(bench.run, bench.drivers)
        await later[bench.launch.hypervisor].stop(UID, graceful=False)
        assert await observe_all(bench.run, bench.drivers) == {}

    case(body)


def test_a_folder_that_cannot_be_understood_is_unknown(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        record = bench.run.vm(UID).launch
        text = record.read_text()
        record.write_text("{")
        found = await observe_all(bench.run, bench.drivers)
        assert isinstance(found[UID], Unknown)
        record.write_text(text)
        assert await bench.phase() is VmPhase.RUNNING

    case(body)


def test_what_is_illegal_is_refused_and_changes_nothing(case: Case) -> None:
    async def body(bench: Bench) -> None:
        with pytest.raises(MetaldError):
            await bench.driver.set_power(UID, "paused")
        with pytest.raises(MetaldError):
            await bench.driver.reboot(UID)
        assert await observe_all(bench.run, bench.drivers) == {}
        await bench.driver.start(bench.launch, power="running")
        first = await bench.state()
        await bench.driver.set_power(UID, "running")
        assert await bench.state() == first

    case(body)


def test_operations_that_come_together_take_turns(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        rng = random.Random(20)
        wishes = [rng.choice(("running", "paused")) for _ in range(12)]
        await asyncio.gather(*(bench.driver.set_power(UID, wish) for wish in wishes))
        assert await bench.phase() == wishes[-1]
        assert turns.under_way(bench.run, UID) == ""

    case(body)


def test_who_waits_in_vain_is_told_what_is_under_way(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench) -> None:
        monkeypatch.setattr(turns, "TURN_TIMEOUT_S", 0.1)
        await bench.driver.start(bench.launch, power="running")
        async with turns.taken(bench.run, UID) as turn:
            turn.begin(State.RUNNING, Operation.PAUSE)
            assert turns.under_way(bench.run, UID) == f"pausing by process {os.getpid()}"
            with pytest.raises(TransientError, match=f"is pausing by process {os.getpid()}"):
                await bench.driver.stop(UID, graceful=False)
            with pytest.raises(DriverError, match="resume is not possible: it is running"):
                turn.begin(State.RUNNING, Operation.RESUME)
        assert await bench.phase() is VmPhase.RUNNING

    case(body)


def test_reboot_leaves_a_running_guest(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        await bench.driver.reboot(UID)
        assert await bench.phase() is VmPhase.RUNNING
        await bench.driver.set_power(UID, "paused")
        await bench.driver.reboot(UID)
        assert await bench.phase() is VmPhase.RUNNING

    case(body)


def test_metrics_count_what_the_process_did(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        first = await bench.driver.metrics(UID)
        if bench.proof() is None:
            assert first == {}
            return
        assert first["process.resident_bytes"] > 1 << 20
        async with asyncio.timeout(60):
            while (await bench.driver.metrics(UID))["process.cpu_ns"] <= first["process.cpu_ns"]:
                await bench.phase()
        await bench.driver.stop(UID, graceful=False)
        assert await bench.driver.metrics(UID) == {}

    case(body)


def test_concurrent_starts_make_one_process(process: Case) -> None:
    async def body(bench: Bench) -> None:
        rival = bench.make()[bench.launch.hypervisor]
        await asyncio.gather(
            bench.driver.start(bench.launch, power="running"),
            rival.start(bench.launch, power="running"),
        )
        marker, found = UID.encode(), 0
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError):
                found += marker in (entry / "cmdline").read_bytes()
        assert found == 1

    process(body)


def test_killed_is_dead_stopped_is_unknown_never_dead(process: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        proof = bench.proof()
        assert proof is not None
        os.kill(proof.pid, signal.SIGSTOP)
        found = (await observe_all(bench.run, bench.drivers))[UID]
        assert isinstance(found, Unknown)
        assert str(proof.pid) in found.reason
        os.kill(proof.pid, signal.SIGCONT)
        assert await bench.phase() is VmPhase.RUNNING
        await processes.kill(proof)
        assert await bench.phase() is VmPhase.DEAD
        await bench.driver.start(bench.launch, power="running")
        assert (await bench.state()).pid != proof.pid

    process(body)


def test_a_record_that_names_another_process_is_unknown(process: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        record = bench.run.vm(UID).process
        good = record.read_text()
        for change in ({"pid": os.getpid()}, {"start_ticks": 1}, {"boot_id": "another"}):
            record.write_text(json.dumps({**json.loads(good), **change}))
            found = (await observe_all(bench.run, bench.drivers))[UID]
            assert isinstance(found, Unknown), change
        record.unlink()
        assert isinstance((await observe_all(bench.run, bench.drivers))[UID], Unknown)
        record.write_text(good)
        assert await bench.phase() is VmPhase.RUNNING

    process(body)


@pytest.mark.timeout(600)
def test_guest_boots_powers_off_and_panics(machine: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.boot()
        async with asyncio.timeout(120), console.attached(bench.run.vm(UID)) as (reader, writer):
            await reader.readuntil(b"metald-guest ready name=a/b")
            await reader.readuntil(b"# ")
            proof = bench.proof()
            assert proof is not None
            await bench.driver.stop(UID, graceful=True)
            rest = await reader.read()
            assert b"Power down" in rest or b"reboot: " in rest, rest[-300:]
        await bench.boot()
        async with asyncio.timeout(120), console.attached(bench.run.vm(UID)) as (reader, writer):
            await reader.readuntil(b"# ")
            writer.write(b"echo c >/proc/sysrq-trigger\n")
            await reader.readuntil(b"Kernel panic")
        async with asyncio.timeout(20):
            while await bench.phase() is VmPhase.RUNNING:
                await asyncio.sleep(0.05)
        assert await bench.phase() is VmPhase.PANICKED
        with pytest.raises(DriverError, match="ended"):
            await bench.driver.start(bench.launch, power="running")

    machine(body)


def test_a_vmm_that_exits_at_once_shows_its_last_words(qemu: Case) -> None:
    async def body(bench: Bench) -> None:
        assert bench.launch.boot is not None
        broken = BootFiles("/proc/self/nonexistent", "x", "", "", "")
        launch = LaunchSpec(**{**_fields(bench.launch), "boot": broken})
        with pytest.raises(MetaldError, match="boot file cannot be opened"):
            await bench.driver.start(launch, power="running")
        text = BootFiles(str(bench.run.vm(UID).launch), "x", "", "", "")
        launch = LaunchSpec(**{**_fields(bench.launch), "boot": text})
        with pytest.raises(DriverError, match="QEMU ended right after its start: "):
            await bench.driver.start(launch, power="running")

    qemu(body)


def _fields(launch: LaunchSpec) -> dict[str, Any]:
    return {name: getattr(launch, name) for name in LaunchSpec.__dataclass_fields__}


def test_a_half_made_folder_is_swept_and_never_seen(folder: Path) -> None:
    run = RunPaths(folder / "run")
    (run.vms / ".half.new" / "io").mkdir(parents=True)
    (run.vms / ".half.gone").mkdir()
    run.turns.mkdir()
    run.turn("gone").touch()
    assert folders.uids(run) == ()
    folders.sweep(run)
    assert list(run.vms.iterdir()) == [] == list(run.turns.iterdir())


async def test_a_turn_that_is_taken_is_not_swept(folder: Path) -> None:
    run = RunPaths(folder / "run")
    async with turns.taken(run, UID):
        folders.sweep(run)
        turns.sweep(run)
        assert run.turn(UID).exists()
    assert not run.turn(UID).exists()


def test_every_driver_has_its_capabilities(folder: Path) -> None:
    drivers = make_drivers(RunPaths(folder), folder, TAPS)
    assert isinstance(drivers["qemu"], QemuDriver)
    assert drivers.keys() <= HYPERVISORS.keys()


OPERATIONS = (
    "create", "boot", "info", "list", "metrics", "pause", "resume", "reboot", "shutdown", "delete",
)  # fmt: skip


async def operations(bench: Bench) -> dict[str, str]:
    """Each operation once, with what was seen of it; raises where it did not do what it should."""
    driver, done = bench.driver, {}
    await driver.start(bench.launch, power="running")
    state = await bench.state()
    assert state.launch == bench.launch and state.phase is VmPhase.RUNNING
    done["create"] = state.note.split(":")[0] or "record"
    done["boot"] = state.phase.value
    seen = await driver.observe(UID)
    assert seen == state
    done["info"] = "no process" if state.pid is None else "process proved"
    assert list(await observe_all(bench.run, bench.drivers)) == [UID]
    done["list"] = "1 VM"
    done["metrics"] = f"{len(await driver.metrics(UID))} counters"
    await driver.set_power(UID, "paused")
    done["pause"] = (await bench.phase()).value
    await driver.set_power(UID, "running")
    done["resume"] = (await bench.phase()).value
    await driver.reboot(UID)
    after = await bench.state()
    assert after.phase is VmPhase.RUNNING
    done["reboot"] = "same process" if after.pid == state.pid else "another process"
    await driver.stop(UID, graceful=bench.launch.hypervisor != "qemu")
    assert bench.proof() is None
    done["shutdown"] = "ended"
    assert list(bench.run.vms.iterdir()) == [] and not bench.run.turn(UID).exists()
    done["delete"] = "nothing left"
    return done


def test_every_operation_on_every_driver(
    folder: Path, minimal_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table of operations × drivers; QEMU's guest is asked to shut down in the test of its
    boot, since here it has not come far enough to hear it.
    """
    table: dict[str, dict[str, str]] = {}
    for name in HYPERVISORS:
        place = folder / name
        place.mkdir(mode=0o711)
        with on_path(name, monkeypatch) as is_stub, fresh_netns() as netns:

            async def inside(name: str = name, place: Path = place) -> dict[str, str]:
                async with prepared(name, place, minimal_image) as bench:
                    return await operations(bench)

            table[f"{name} (stub)" if is_stub and HYPERVISORS[name].programs else name] = (
                run_inside(netns, inside)
            )
    width = 2 + max(len(text) for column in table.values() for text in (*column.values(), *table))
    print("\n" + f"{'operation':12}" + "".join(f"{name:{width}}" for name in table))
    for operation in OPERATIONS:
        print(f"{operation:12}" + "".join(f"{c[operation]:{width}}" for c in table.values()))
    assert all(tuple(column) == OPERATIONS for column in table.values())
