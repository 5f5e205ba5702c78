"""What holds for VMMs with an HTTP API beyond the contract: their cage, their ends, half starts.

With the real programs on PATH these are real guests; else the stub, which stands where they would.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler import commands
from reconciler.errors import DriverError, MetaldError
from reconciler.hypervisors import console, devices, processes
from reconciler.hypervisors.firecracker.jail import Jail
from reconciler.hypervisors.vmm import Vmm
from reconciler.model.hypervisors import HYPERVISORS
from reconciler.model.observed import VmPhase
from reconciler.model.resolved import BootFiles
from reconciler.network.kernel import KernelNetwork
from reconciler.network.tun import tun_descriptors
from tests.hypervisors.test_contract import (
    UID,
    Bench,
    Case,
    case_for,
    folder,
    minimal_image,
    no_probe_is_kept,
)
from tests.hypervisors.vmm_programs import on_path
from tests.hypervisors.vmm_stub import IGNORES_SHUTDOWN

pytestmark = [pytest.mark.vm, pytest.mark.netns]
NAMES = ["firecracker", "cloud-hypervisor"]
__all__ = ["folder", "minimal_image", "no_probe_is_kept"]


@pytest.fixture(params=NAMES)
def case(
    request: pytest.FixtureRequest, netns: str, folder: Path, minimal_image: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Case]:  # fmt: skip
    with on_path(request.param, monkeypatch):
        yield case_for(request.param, netns, folder, minimal_image)


def status(pid: int) -> dict[str, str]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {key: " ".join(value.split()) for key, _, value in (x.partition(":") for x in lines)}


def pid_of(bench: Bench) -> int:
    proof = bench.proof()
    assert proof is not None
    return proof.pid


def test_the_process_is_powerless_and_apart(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        pid, told = pid_of(bench), status(pid_of(bench))
        own = str(bench.launch.unix_id)
        assert told["Uid"] == told["Gid"] == " ".join([own] * 4)
        assert set(told["Groups"].split()) <= {own}
        assert told["NoNewPrivs"] == "1"
        assert {told[name] for name in ("CapInh", "CapPrm", "CapEff", "CapAmb")} == {"0" * 16}
        if bench.launch.hypervisor == "firecracker":
            inside = {entry.name for entry in Path(f"/proc/{pid}/root").iterdir()}
            assert inside == {"kernel", "initrd", "firecracker", "dev", "run"}
            mine = Path("/proc/self/ns/mnt").readlink()
            assert Path(f"/proc/{pid}/ns/mnt").readlink() != mine
        else:
            assert told["CapBnd"] == "0" * 16
        # Its tap is its own, opened by name; nothing else of the host's is open.
        assert [name for _, name in tun_descriptors(pid)] == [bench.port.tap]

    case(body)


def test_no_other_user_opens_its_tap_or_its_devices(case: Case) -> None:
    async def body(bench: Bench) -> None:
        before = [path.stat().st_mode for path in (devices.KVM, devices.TUN) if path.exists()]
        await bench.driver.start(bench.launch, power="running")
        shown = await commands.run_async(["ip", "-d", "link", "show", bench.port.tap])
        assert f" user {bench.launch.unix_id} " in shown.stdout
        await bench.driver.stop(UID, graceful=False)
        after = [path.stat().st_mode for path in (devices.KVM, devices.TUN) if path.exists()]
        assert after == before
        assert list(bench.jails.rglob("*")) in ([], [bench.jails / "firecracker"])

    case(body)


def test_a_guest_is_asked_first_and_ended_when_it_ignores_that(
    case: Case, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def body(bench: Bench) -> None:
        acts: Vmm = bench.driver._acts  # type: ignore[attr-defined]
        asked, heard = acts.ask_guest_to_end, []

        async def noted(uid: str, proof: processes.Proof) -> bool:
            heard.append(await asked(uid, proof))
            return heard[-1]

        monkeypatch.setattr(acts, "ask_guest_to_end", noted)
        assert bench.launch.boot is not None
        for words, deadline_s in (("", 60.0), (IGNORES_SHUTDOWN, 1.0)):
            for name in ("firecracker", "cloud_hypervisor"):
                where = f"reconciler.hypervisors.{name}.driver.POWERDOWN_TIMEOUT_S"
                monkeypatch.setattr(where, deadline_s)
            wanted = replace(bench.launch, boot=replace(bench.launch.boot, cmdline=words))
            await bench.driver.start(wanted, power="running")
            pid = pid_of(bench)
            await bench.driver.stop(UID, graceful=True)
            assert processes.start_ticks(pid) is None
            assert list(bench.run.vms.iterdir()) == []
        assert heard == [True, False]

    case(body)


def test_a_start_that_was_cut_short_is_begun_anew(case: Case) -> None:
    """A VMM that holds half a configuration is never booted."""

    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        await bench.driver.stop(UID, graceful=False)
        paths = bench.run.vm(UID)
        acts = bench.driver._acts  # type: ignore[attr-defined]
        await acts.create(bench.launch)
        paths.configured.unlink()
        half = pid_of(bench)
        assert await bench.phase() is VmPhase.HELD
        await bench.driver.start(bench.launch, power="running")
        assert pid_of(bench) != half and processes.start_ticks(half) is None
        assert await bench.phase() is VmPhase.RUNNING
        await bench.driver.stop(UID, graceful=False)
        # One that was created whole goes on as the process it is.
        await acts.create(bench.launch)
        whole = pid_of(bench)
        await bench.driver.set_power(UID, "paused")
        assert pid_of(bench) == whole
        assert await bench.phase() is VmPhase.PAUSED

    case(body)


def test_its_console_prints_takes_input_and_can_be_left(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        paths = bench.run.vm(UID)
        for word in (b"one", b"other"):
            async with asyncio.timeout(60), console.attached(paths) as (reader, writer):
                await reader.readuntil(b"# ")
                writer.write(word + b"\n")
                await reader.readuntil(word)
        # The holder may die: what it held is held again by whoever starts the VM next.
        holder = processes.prove(paths.console_process, paths.console_lock)
        assert holder is not None
        await bench.driver.stop(UID, graceful=False)
        assert processes.start_ticks(holder.pid) is None

    case(body)


def test_a_tap_that_went_is_given_back_to_the_same_process(case: Case) -> None:
    async def body(bench: Bench) -> None:
        await bench.driver.start(bench.launch, power="running")
        pid = pid_of(bench)
        assert await KernelNetwork().remove_taps([bench.port.tap]) == {}
        assert [name for _, name in tun_descriptors(pid)] == [""]
        await bench.driver.reattach(UID, bench.port.tap)
        assert [name for _, name in tun_descriptors(pid)] == [bench.port.tap]
        assert pid_of(bench) == pid

    case(body)


@pytest.mark.parametrize("name", NAMES)
def test_a_vmm_that_exits_at_once_shows_its_last_words(
    name: str, netns: str, folder: Path, minimal_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = HYPERVISORS[name].programs[-1].program
    with on_path(name, monkeypatch):
        place = folder / "bad"
        place.mkdir(mode=0o755)
        for needed in HYPERVISORS[name].programs:
            (place / needed.program).write_text("#!/bin/sh\necho no such luck >&2\nexit 7\n")
            (place / needed.program).chmod(0o755)
        monkeypatch.setenv("PATH", f"{place}{os.pathsep}{os.environ['PATH']}")

        async def body(bench: Bench) -> None:
            with pytest.raises(DriverError, match="ended right after its start: no such luck"):
                await bench.driver.start(bench.launch, power="running")
            assert await bench.phase() is VmPhase.DEAD
            (place / program).write_text("#!/nonexistent\n")
            with pytest.raises(DriverError, match="could not be started: FileNotFoundError"):
                await bench.driver.start(bench.launch, power="running")

        case_for(name, netns, folder, minimal_image)(body)


def test_a_refused_configuration_tells_the_vmms_own_words(case: Case) -> None:
    async def body(bench: Bench) -> None:
        lost = bench.launch.interfaces[0]
        wanted = replace(bench.launch, interfaces=(lost, replace(lost, network="other")))
        with pytest.raises(MetaldError, match=r"refused PUT .*mt00000000c0de.*\(400\)"):
            await bench.driver.start(wanted, power="running")
        # Nothing half-made is left to be booted by somebody.
        assert bench.proof() is None
        await bench.driver.start(bench.launch, power="running")
        assert await bench.phase() is VmPhase.RUNNING

    case(body)


def test_bad_boot_files_are_named(case: Case) -> None:
    async def body(bench: Bench) -> None:
        wanted = replace(bench.launch, boot=BootFiles("/proc/self/nonexistent", "x", "", "", ""))
        with pytest.raises(DriverError, match="boot file cannot be opened"):
            await bench.driver.start(wanted, power="running")

    case(body)


def test_a_missing_program_is_named(
    netns: str, folder: Path, minimal_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = commands.path_of
    hidden = {entry.program for name in NAMES for entry in HYPERVISORS[name].programs}
    monkeypatch.setattr(commands, "path_of", lambda name: None if name in hidden else found(name))

    async def body(bench: Bench) -> None:
        with pytest.raises(MetaldError, match="is not installed") as caught:
            await bench.driver.start(bench.launch, power="running")
        assert "github.com" in caught.value.hint

    for name in NAMES:
        case_for(name, netns, folder, minimal_image)(body)


def test_jails_of_vms_that_are_no_more_are_swept(case: Case, folder: Path) -> None:
    """A reboot of the host takes the run folders, and leaves the jails."""

    async def body(bench: Bench) -> None:
        if bench.launch.hypervisor != "firecracker":
            return
        stale = Jail(bench.jails, "f" * 32)
        stale.root.mkdir(parents=True)
        await bench.driver.start(bench.launch, power="running")
        assert not stale.folder.exists()
        assert Jail(bench.jails, UID).folder.exists()

    case(body)


def test_a_crashed_guest_of_cloud_hypervisor_is_panicked(
    netns: str, folder: Path, minimal_image: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with on_path("cloud-hypervisor", monkeypatch):

        async def body(bench: Bench) -> None:
            await bench.driver.start(bench.launch, power="running")
            async with asyncio.timeout(60), console.attached(bench.run.vm(UID)) as (reader, writer):
                await reader.readuntil(b"# ")
                writer.write(b"echo c >/proc/sysrq-trigger\n")
                while await bench.phase() is VmPhase.RUNNING:
                    await asyncio.sleep(0.05)
            assert await bench.phase() is VmPhase.PANICKED
            with pytest.raises(DriverError, match="its guest has ended, it is failed"):
                await bench.driver.start(bench.launch, power="running")

        case_for("cloud-hypervisor", netns, folder, minimal_image)(body)
