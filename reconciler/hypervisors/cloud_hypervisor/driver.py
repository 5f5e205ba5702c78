"""The Cloud Hypervisor driver: an unprivileged process from the launcher, its VM by HTTP.

A VM has two lives there: the VMM's, and that of the VM in it (`vm.create`, `vm.boot`); we give each
VMM one VM. Implements ``hypervisors.lifecycle.Acts``.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from reconciler import commands
from reconciler.errors import DriverError, TransientError, UnknownStateError
from reconciler.hypervisors import (
    console,
    devices,
    folders,
    launching,
    processes,
    unixhttp,
)
from reconciler.hypervisors.cage import cage_of, prepared
from reconciler.hypervisors.cloud_hypervisor import landlock
from reconciler.hypervisors.cloud_hypervisor.config import command_line, vm_config
from reconciler.hypervisors.processes import Program, Proof
from reconciler.hypervisors.starting import POWERDOWN_TIMEOUT_S, clear_remains, opened
from reconciler.hypervisors.unixhttp import Endpoint, RefusalError
from reconciler.hypervisors.vmm import PAUSE_S, Vmm, require_kvm
from reconciler.model.hypervisors import HYPERVISORS
from reconciler.model.observed import VmPhase
from reconciler.model.resolved import LaunchSpec

_NOT_FOUND: Final = 404
_PHASES: Final[Mapping[str, VmPhase]] = {
    "Created": VmPhase.HELD,
    "Running": VmPhase.RUNNING,
    "Paused": VmPhase.PAUSED,
    "Shutdown": VmPhase.OFF,
}
DEVICES: Final = (devices.KVM, devices.TUN)
_EVENTS_LIMIT_BYTES: Final = 1 << 20


class CloudHypervisor(Vmm):
    """VMs as Cloud Hypervisor processes."""

    name = "Cloud Hypervisor"

    def endpoint(self, uid: str, proof: Proof) -> Endpoint:
        """Where it answers."""
        return Endpoint(self.run.vm(uid).api, self.name, proof.pid, "/api/v1")

    def logs(self, uid: str) -> Sequence[Path]:
        """Standard error, with its own log."""
        return (self.run.vm(uid).vmm_log,)

    async def create(self, launch: LaunchSpec) -> None:
        """The VMM, and the VM in it."""
        ((program, source),) = HYPERVISORS["cloud-hypervisor"].programs
        path = commands.require(program, package=source)
        require_kvm()
        note = f"seccomp, {landlock.told()}"
        paths = folders.create(self.run, launch, note=note)
        assert launch.boot is not None  # noqa: S101 - specs without boot are refused
        boot_files = (launch.boot.kernel, launch.boot.initrd)
        with processes.locked(paths.lock) as lock, opened(boot_files) as descriptors:
            if lock is None:
                raise UnknownStateError("its lock is held by somebody else", subject=launch.vm)
            clear_remains(paths, besides=(paths.api, paths.vmm_events))
            for device in DEVICES:
                devices.allow(device, launch.unix_id)
            for interface in launch.interfaces:
                self.own_tap(interface.tap, launch.unix_id)
            held = prepared(launch, cage_of(launch))
            vmm = Program(
                uid=launch.uid,
                unix_id=launch.unix_id,
                argv=command_line(path, paths),
                record=paths.process,
                log=paths.vmm_log,
                folder=paths.io,
                cgroups=held.cgroups,
                limits=held.limits,
            )
            await launching.launch(vmm, keep=(lock, *descriptors.values()))
            config = vm_config(launch, paths, descriptors, landlock=landlock.is_here())

        async def configure() -> None:
            await self.ask(launch.uid, "PUT /vm.create", config)
            await self.hold_console(launch)

        await self.configured(launch, configure)

    async def start_guest(self, uid: str) -> None:
        """Boot the VM that was created in it."""
        await self.ask(uid, "PUT /vm.boot")

    async def pause(self, uid: str) -> None:
        """Stop the guest's CPUs."""
        await self.ask(uid, "PUT /vm.pause")

    async def resume(self, uid: str) -> None:
        """Let them go on."""
        await self.ask(uid, "PUT /vm.resume")

    async def reboot(self, launch: LaunchSpec) -> None:
        """Its own reboot, which wants a VM that runs; the serial port is another one then."""
        proof = self.proof(launch.uid)
        if proof is not None and await self.phase(launch.uid, proof) is VmPhase.PAUSED:
            await self.resume(launch.uid)
        await self.ask(launch.uid, "PUT /vm.reboot")
        await self.hold_console(launch)

    async def phase(self, uid: str, proof: Proof) -> VmPhase:
        """As `vm.info` has it; a panic, after which the guest stays, is in the events."""
        endpoint = self.endpoint(uid, proof)
        try:
            told = unixhttp.text(await unixhttp.call(endpoint, "GET /vm.info"), "state")
        except RefusalError as refusal:
            if refusal.status != _NOT_FOUND:
                raise
            return VmPhase.HELD  # a VMM without VM
        found = _PHASES.get(told)
        if found is None:
            raise TransientError(f"it says {told}", subject=uid)
        if found is VmPhase.RUNNING and has_panicked(_read(self.run.vm(uid).vmm_events)):
            return VmPhase.PANICKED
        return found

    async def ask_guest_to_end(self, uid: str, proof: Proof) -> bool:
        """Press the ACPI power button, and look until the guest is off."""
        await unixhttp.call(self.endpoint(uid, proof), "PUT /vm.power-button")
        deadline = asyncio.get_running_loop().time() + POWERDOWN_TIMEOUT_S
        while await self.phase(uid, proof) is VmPhase.RUNNING:
            if asyncio.get_running_loop().time() > deadline:
                return False
            # Its events go to a file, which nobody can wait for.
            await asyncio.sleep(PAUSE_S)
        return True

    async def quit(self, uid: str, proof: Proof) -> None:
        """It ends at once."""
        await unixhttp.call(self.endpoint(uid, proof), "PUT /vmm.shutdown")

    def remove(self, uid: str) -> None:
        """The rights of its user to devices; all else lies in the run folder."""
        record = folders.read(self.run.vm(uid))
        if record is not None:
            for device in DEVICES:
                devices.withdraw(device, record.launch.unix_id)

    async def metrics(self, uid: str) -> Mapping[str, int]:
        """Those of its process, and `vm.counters` by device."""
        found = dict(await super().metrics(uid))
        if not found:
            return found
        try:
            counted = await self.ask(uid, "GET /vm.counters")
        except RefusalError as refusal:
            if refusal.status != _NOT_FOUND:
                raise
            return found  # a VM that was not created counts nothing
        if not isinstance(counted, dict):
            raise TransientError("its counters are not told by device", subject=uid)
        for device, values in counted.items():
            found.update({f"{device}.{name}": int(value) for name, value in values.items()})
        return found

    async def hold_console(self, launch: LaunchSpec) -> None:
        """By its socket."""
        paths = self.run.vm(launch.uid)
        await console.ensure_holder(paths, uid=launch.uid, unix_id=launch.unix_id)


def has_panicked(events: str) -> bool:
    """The last thing told of the guest is that it crashed. Objects follow one another with nothing
    but space between (event_monitor there); the last may be cut.
    """
    decoder, place, panicked = json.JSONDecoder(), 0, False
    while True:
        while place < len(events) and events[place].isspace():
            place += 1
        try:
            event, place = decoder.raw_decode(events, place)
        except ValueError:
            return panicked
        panicked = _after(event, panicked=panicked)


def _after(event: Any, *, panicked: bool) -> bool:
    if not isinstance(event, dict):
        return panicked
    kind = (event.get("source"), event.get("event"))
    if kind == ("guest", "panic"):
        return True
    return panicked and kind not in {("vm", "booting"), ("vm", "rebooting")}


def _read(path: Path) -> str:
    try:
        with path.open("rb") as stream:
            return stream.read(_EVENTS_LIMIT_BYTES).decode(errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise DriverError(f"its events cannot be read: {error.strerror}") from error
