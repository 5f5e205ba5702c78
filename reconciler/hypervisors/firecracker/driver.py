"""The Firecracker driver: started by its jailer, configured and asked over HTTP.

Its serial port is its standard input and output: two FIFOs that a console holder may leave and
come back to. Its standard error is the VM's lock. Implements ``hypervisors.lifecycle.Acts``.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from reconciler import commands
from reconciler.errors import DriverError, TransientError, UnknownStateError
from reconciler.hypervisors import console, folders, launching, processes, unixhttp
from reconciler.hypervisors.driver import OwnTap, ReattachTap
from reconciler.hypervisors.firecracker.jail import INITRD, KERNEL, Jail, program
from reconciler.hypervisors.image.cmdline import kernel_cmdline
from reconciler.hypervisors.processes import Proof
from reconciler.hypervisors.starting import POWERDOWN_TIMEOUT_S, clear_remains, opened
from reconciler.hypervisors.unixhttp import Endpoint
from reconciler.hypervisors.vmm import MIB, Vmm, require_kvm
from reconciler.model.hypervisors import HYPERVISORS
from reconciler.model.observed import VmPhase
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths, VmPaths

_PHASES: Final[Mapping[str, VmPhase]] = {
    "Not started": VmPhase.HELD,
    "Running": VmPhase.RUNNING,
    "Paused": VmPhase.PAUSED,
}


class Firecracker(Vmm):
    """VMs as Firecracker processes in jails below ``jails``."""

    name = "Firecracker"

    def __init__(
        self, run: RunPaths, jails: Path, *, own_tap: OwnTap, reattach_tap: ReattachTap
    ) -> None:
        super().__init__(run, own_tap=own_tap, reattach_tap=reattach_tap)
        self._jails = jails

    def endpoint(self, uid: str, proof: Proof) -> Endpoint:
        """Where it answers."""
        return Endpoint(self._jail(uid).api, self.name, proof.pid)

    def logs(self, uid: str) -> Sequence[Path]:
        """What the jailer says goes to standard error."""
        return (self.run.vm(uid).lock, self._jail(uid).log)

    async def create(self, launch: LaunchSpec) -> None:
        """Jail, process and configuration; the guest waits."""
        firecracker, jailer = (
            commands.require(needed.program, package=needed.source)
            for needed in HYPERVISORS["firecracker"].programs
        )
        require_kvm()
        paths = folders.create(self.run, launch, note="jailer, seccomp")
        jail = self._jail(launch.uid)
        assert launch.boot is not None  # noqa: S101 - specs without boot are refused
        kernel, initrd = launch.boot.kernel, launch.boot.initrd
        with processes.locked(paths.lock) as lock, opened((kernel, initrd)) as files:
            if lock is None:
                raise UnknownStateError("its lock is held by somebody else", subject=launch.vm)
            os.ftruncate(lock, 0)
            clear_remains(paths, besides=(paths.serial_in, paths.serial_out))
            self._sweep()
            jail.furnish(files[kernel], files.get(initrd))
            for interface in launch.interfaces:
                self.own_tap(interface.tap, launch.unix_id)
            argv = jail.jailer(launch, (jailer, firecracker), paths)
            with _serial(paths, launch.unix_id) as (into, out):
                streams = {0: into, 1: out, 2: lock}
                started = program(launch, paths, argv, streams)
                await launching.launch(started, keep=tuple(streams.values()))

        async def configure() -> None:
            for request, body in configuration(launch):
                await self.ask(launch.uid, request, body)
            await self.hold_console(launch)

        await self.configured(launch, configure)

    async def start_guest(self, uid: str) -> None:
        """Which it does once."""
        await self.ask(uid, "PUT /actions", {"action_type": "InstanceStart"})

    async def pause(self, uid: str) -> None:
        """Stop the guest's CPUs."""
        await self.ask(uid, "PATCH /vm", {"state": "Paused"})

    async def resume(self, uid: str) -> None:
        """Let them go on."""
        await self.ask(uid, "PATCH /vm", {"state": "Resumed"})

    async def reboot(self, launch: LaunchSpec) -> None:
        """It can boot once: another process takes its place."""
        await self.shutdown(launch.uid, graceful=False)
        await console.end_holder(self.run.vm(launch.uid))
        await self.create(launch)
        await self.boot(launch)

    async def phase(self, uid: str, proof: Proof) -> VmPhase:
        """As it describes itself; that it is who the jail was made for, too."""
        told = await unixhttp.call(self.endpoint(uid, proof), "GET /")
        if unixhttp.text(told, "id") != uid:
            raise TransientError(f"the VMM there answers as {told['id']}", subject=uid)
        found = _PHASES.get(unixhttp.text(told, "state"))
        if found is None:
            raise TransientError(f"it says {told['state']}", subject=uid)
        return found

    async def ask_guest_to_end(self, uid: str, proof: Proof) -> bool:
        """Ctrl-Alt-Del, on which guests reset themselves, on which the process ends."""
        body = {"action_type": "SendCtrlAltDel"}
        await unixhttp.call(self.endpoint(uid, proof), "PUT /actions", body)
        return await processes.wait_for_end(proof, POWERDOWN_TIMEOUT_S)

    async def quit(self, uid: str, proof: Proof) -> None:
        """It cannot be asked."""
        await processes.kill(proof)

    def remove(self, uid: str) -> None:
        """Its jail, and those of VMs that a reboot of the host took the run folders of."""
        self._jail(uid).clear()
        self._sweep()

    def _sweep(self) -> None:
        known = set(folders.uids(self.run))
        parent = self._jail("").folder
        for entry in parent.iterdir() if parent.is_dir() else ():
            if entry.name not in known:
                self._jail(entry.name).clear()

    def _jail(self, uid: str) -> Jail:
        return Jail(self._jails, uid)

    async def hold_console(self, launch: LaunchSpec) -> None:
        """By its FIFOs."""
        paths = self.run.vm(launch.uid)
        await console.ensure_holder(paths, uid=launch.uid, unix_id=launch.unix_id, by_fifos=True)


def configuration(launch: LaunchSpec) -> Iterator[tuple[str, Any]]:
    """The requests that make a process this VM, in order (its API document has the bodies)."""
    boot = launch.boot
    assert boot is not None  # noqa: S101 - specs without boot are refused
    words = kernel_cmdline(
        launch.vm.removeprefix("vm/"), launch.interfaces, machine="firecracker", extra=boot.cmdline
    )
    source = {"kernel_image_path": KERNEL, "boot_args": words}
    if boot.initrd:
        source["initrd_path"] = INITRD
    size = {"vcpu_count": launch.vcpus, "mem_size_mib": max(1, launch.memory_bytes // MIB)}
    yield "PUT /machine-config", size
    yield "PUT /boot-source", source
    yield "PUT /entropy", {}
    for index, entry in enumerate(launch.interfaces):
        name = f"net{index}"
        body = {"iface_id": name, "host_dev_name": entry.tap, "guest_mac": entry.mac}
        yield f"PUT /network-interfaces/{name}", body


@contextmanager
def _serial(paths: VmPaths, unix_id: int) -> Iterator[tuple[int, int]]:
    """The FIFOs of the serial port, open for the VMM: both ways, so that it never sees an end of
    them, and never waiting, so that a guest does not stand still when nobody reads.
    """
    found: list[int] = []
    try:
        for path in (paths.serial_in, paths.serial_out):
            os.mkfifo(path, 0o600)
            os.chown(path, unix_id, unix_id, follow_symlinks=False)
            flags = os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOFOLLOW
            found.append(os.open(path, flags))
            if not stat.S_ISFIFO(os.fstat(found[-1]).st_mode):
                raise DriverError("it was replaced while it was made", subject=str(path))
        yield found[0], found[1]
    finally:
        for descriptor in found:
            os.close(descriptor)
