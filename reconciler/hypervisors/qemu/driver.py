"""The QEMU driver: start, stop, pause, resume, heal and observe over QMP.

Keeps nothing in memory about VMs: any later process finds them by their run folders and
proves them (see ``hypervisors.processes``). Implements ``hypervisors.driver.Driver``.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Final

from reconciler import commands
from reconciler.errors import DriverError, TransientError, UnknownStateError
from reconciler.hypervisors import (
    cgroups,
    console,
    devices,
    folders,
    launching,
    processes,
    turns,
)
from reconciler.hypervisors.cage import TRANSLATED, cage_of, prepared
from reconciler.hypervisors.driver import OpenTap, ReattachTap
from reconciler.hypervisors.processes import Program, Proof
from reconciler.hypervisors.qemu.accelerator import AcceleratorProbe
from reconciler.hypervisors.qemu.command import Accelerator, command_line, machine_of, uuid_of
from reconciler.hypervisors.qemu.monitor import Monitor, connected
from reconciler.hypervisors.starting import (
    POWERDOWN_TIMEOUT_S,
    QUIT_TIMEOUT_S,
    START_TIMEOUT_S,
    clear_remains,
    died,
    opened,
)
from reconciler.hypervisors.turns import Turn
from reconciler.model.lifecycle import Operation, State, state_of, way
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths, VmPaths

_KVM: Final = "kvm"
_CONNECT_PAUSE_S: Final = 0.05
_ENDED: Final = frozenset({"shutdown", "guest-panicked"})
_PHASES: Final[Mapping[str, VmPhase]] = {
    "running": VmPhase.RUNNING,
    "paused": VmPhase.PAUSED,
    "prelaunch": VmPhase.HELD,
    "shutdown": VmPhase.OFF,
    "guest-panicked": VmPhase.PANICKED,
}


class QemuDriver:
    """VMs as QEMU processes of their own."""

    def __init__(self, run: RunPaths, *, open_tap: OpenTap, reattach_tap: ReattachTap) -> None:
        self._run = run
        self._open_tap = open_tap
        self._reattach_tap = reattach_tap
        self._probe = AcceleratorProbe(run.accelerator)

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        """Start the VM, or adopt the one whose lock is held, and bring it to ``power``."""
        paths = self._run.vm(launch.uid)
        async with turns.taken(self._run, launch.uid) as turn:
            if not processes.is_held(paths.lock):
                turn.begin(None, Operation.CREATE)
                await self._exec(launch)
            await self._settle(turn, launch, power)

    async def stop(self, uid: str, *, graceful: bool) -> None:
        """Ask the guest, then QEMU, then the kernel, each with its deadline; leave nothing."""
        paths = self._run.vm(uid)
        async with turns.taken(self._run, uid) as turn:
            record = folders.read(paths)
            if record is None:
                return
            turn.note(State.SHUTTING_DOWN)
            proof = processes.prove(paths.process, paths.lock)
            if proof is not None:
                await self._end(paths, proof, graceful=graceful)
            turn.begin(State.STOPPED, Operation.DELETE)
            await console.end_holder(paths)
            await cgroups.remove(uid)
            if record.note.startswith(_KVM):
                devices.withdraw(devices.KVM, record.launch.unix_id)
            folders.remove(self._run, uid)

    async def set_power(self, uid: str, power: str) -> None:
        """Pause or resume a live VM."""
        taken, monitored = turns.taken(self._run, uid), connected(self._run.vm(uid).qmp)
        async with taken as turn, monitored as monitor:
            await _to_power(turn, monitor, power)

    async def reboot(self, uid: str) -> None:
        """Reset the guest; the same VMM goes on with it."""
        taken, monitored = turns.taken(self._run, uid), connected(self._run.vm(uid).qmp)
        async with taken as turn, monitored as monitor:
            turn.begin(await _state(monitor), Operation.REBOOT)
            await monitor.execute("system_reset")
            await monitor.execute("cont")

    async def reattach(self, uid: str, tap: str) -> None:
        """Give the live VMM its tap back, same process, same descriptor."""
        paths = self._run.vm(uid)
        proof = processes.prove(paths.process, paths.lock)
        if proof is None:
            raise DriverError("its VMM is gone", subject=uid, hint="plan again")
        await asyncio.to_thread(self._reattach_tap, proof.pid, tap)

    async def observe(self, uid: str) -> VmState | Unknown:
        """Proof first, then QEMU's own word; a silent QEMU is unknown, never dead."""
        paths = self._run.vm(uid)
        record = folders.read(paths)
        if record is None:
            return Unknown("its run folder vanished while it was looked at")
        proof = processes.prove(paths.process, paths.lock)
        if proof is None:
            return VmState(uid, VmPhase.DEAD, record.launch, None, record.boot_id, record.note)
        try:
            async with connected(paths.qmp) as monitor:
                status = await monitor.status()
        except (TransientError, DriverError) as error:
            return Unknown(f"process {proof.pid} lives, but {error}")
        phase = _PHASES.get(status)
        if phase is None:
            return Unknown(f"QEMU (process {proof.pid}) says {status}")
        return VmState(uid, phase, record.launch, proof.pid, record.boot_id, record.note)

    async def metrics(self, uid: str) -> Mapping[str, int]:
        """Those of its process."""
        paths = self._run.vm(uid)
        proof = processes.prove(paths.process, paths.lock)
        return {} if proof is None else processes.counters(proof)

    # -- starting -------------------------------------------------------------------------

    async def _exec(self, launch: LaunchSpec) -> None:
        """Everything from the run folder to the exec; the lock decides who may."""
        assert launch.boot is not None  # noqa: S101 - specs without boot are refused for qemu
        program = commands.require("qemu-system-x86_64", package="qemu-system-x86")
        boot = launch.boot
        accelerator = await self._probe.choose(program, boot.kernel, boot.kernel_sha256)
        note = f"{accelerator.name}, {machine_of(launch, accelerator)}: {accelerator.reason}"
        paths = folders.create(self._run, launch, note=note)
        with processes.locked(paths.lock) as lock:
            if lock is None:
                return  # it lives after all
            clear_remains(paths, besides=(paths.qmp, paths.qmp_events))
            with self._descriptors(launch) as descriptors:
                qemu = self._program(program, launch, (paths, accelerator), descriptors)
                await launching.launch(qemu, keep=(lock, *descriptors.values()))

    def _program(
        self,
        program: str,
        launch: LaunchSpec,
        where: tuple[VmPaths, Accelerator],
        descriptors: Mapping[str, int],
    ) -> Program:
        paths, accelerator = where
        if accelerator.name == _KVM:
            devices.allow(devices.KVM, launch.unix_id)
        beside = TRANSLATED if accelerator.name == "tcg" else 0
        held = prepared(launch, cage_of(launch, beside=beside))
        return Program(
            uid=launch.uid,
            unix_id=launch.unix_id,
            argv=command_line(program, launch, paths, accelerator, descriptors),
            record=paths.process,
            log=paths.vmm_log,
            folder=paths.io,
            cgroups=held.cgroups,
            limits=held.limits,
        )

    @contextmanager
    def _descriptors(self, launch: LaunchSpec) -> Iterator[Mapping[str, int]]:
        """The VM's taps and boot files, open for as long as the launch takes."""
        boot = launch.boot
        assert boot is not None  # noqa: S101 - specs without boot are refused for qemu
        taps: dict[str, int] = {}
        with ExitStack() as stack, opened((boot.kernel, boot.initrd)) as files:
            for interface in launch.interfaces:
                taps[interface.tap] = self._open_tap(interface.tap)
                stack.callback(os.close, taps[interface.tap])
            yield {**taps, **files}

    async def _settle(self, turn: Turn, launch: LaunchSpec, power: str) -> None:
        """From a held VMM to a running guest: its console first, so no output is lost.

        Raises DriverError with QEMU's last words when it ended meanwhile.
        """
        paths = self._run.vm(launch.uid)
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            try:
                async with connected(paths.qmp) as monitor:
                    await _check_identity(monitor, launch)
                    await console.ensure_holder(paths, uid=launch.uid, unix_id=launch.unix_id)
                    await _to_power(turn, monitor, power)
                    return
            except TransientError:
                # Its sockets appear some time after the exec; nothing announces them.
                if not processes.is_held(paths.lock):
                    raise died("QEMU", launch, (paths.vmm_log,)) from None
                if asyncio.get_running_loop().time() > deadline:
                    raise
            await asyncio.sleep(_CONNECT_PAUSE_S)

    # -- ending ---------------------------------------------------------------------------

    async def _end(self, paths: VmPaths, proof: Proof, *, graceful: bool) -> None:
        try:
            async with connected(paths.qmp) as monitor:
                if graceful and await monitor.status() == "running":
                    await monitor.execute("system_powerdown")
                    await monitor.wait_for(_ENDED, POWERDOWN_TIMEOUT_S)
                await monitor.execute("quit")
        except (TransientError, DriverError):
            # A monitor that is silent or gone: the kernel will not be refused.
            await processes.kill(proof)
            return
        if not await processes.wait_for_end(proof, QUIT_TIMEOUT_S):
            await processes.kill(proof)


async def _check_identity(monitor: Monitor, launch: LaunchSpec) -> None:
    found = await monitor.execute("query-uuid")
    if found["UUID"] != uuid_of(launch.uid):
        raise UnknownStateError(f"the VMM there answers as {found['UUID']}", subject=launch.vm)


async def _state(monitor: Monitor) -> State:
    status = await monitor.status()
    phase = _PHASES.get(status)
    if phase is None:
        raise UnknownStateError(f"QEMU says {status}")
    return state_of(phase)


async def _to_power(turn: Turn, monitor: Monitor, power: str) -> None:
    """Bring QEMU's run state to ``running`` or ``paused``.

    A VMM that never ran goes through running for an instant: QEMU has no other way out of
    ``prelaunch``.
    """
    state: State | None = await _state(monitor)
    for operation in way(state, power):
        state = turn.begin(state, operation)
        await monitor.execute("stop" if operation is Operation.PAUSE else "cont")
