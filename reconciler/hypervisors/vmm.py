"""What the drivers of VMMs with an HTTP API share: proof before word, ending, waiting.

`firecracker` and `cloud_hypervisor` add how each is started, configured and asked.
"""

from __future__ import annotations

import asyncio
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from reconciler.errors import DriverError, TransientError
from reconciler.hypervisors import cgroups, console, devices, folders, processes, unixhttp
from reconciler.hypervisors.driver import OwnTap, ReattachTap
from reconciler.hypervisors.processes import Proof
from reconciler.hypervisors.starting import QUIT_TIMEOUT_S, START_TIMEOUT_S, died
from reconciler.hypervisors.unixhttp import Endpoint
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths

MIB: Final = 1 << 20
PAUSE_S: Final = 0.05
KVM_DEVICE = devices.KVM


class Vmm(ABC):
    """A VM as one process behind an API; ``name`` for people. The abstract part is below."""

    name = ""

    def __init__(self, run: RunPaths, *, own_tap: OwnTap, reattach_tap: ReattachTap) -> None:
        self.run = run
        self.own_tap = own_tap
        self._reattach_tap = reattach_tap

    # -- what each adds -------------------------------------------------------------------

    @abstractmethod
    def endpoint(self, uid: str, proof: Proof) -> Endpoint:
        """Where the VMM answers."""

    @abstractmethod
    def logs(self, uid: str) -> Sequence[Path]:
        """Where a VMM that ended may have said why."""

    @abstractmethod
    async def phase(self, uid: str, proof: Proof) -> VmPhase:
        """The VMM's own word of what its guest does."""

    @abstractmethod
    async def ask_guest_to_end(self, uid: str, proof: Proof) -> bool:
        """Press its power button, and wait; False when it had not ended at the deadline."""

    @abstractmethod
    async def quit(self, uid: str, proof: Proof) -> None:
        """Ask the VMM to end, where it can be asked."""

    @abstractmethod
    def remove(self, uid: str) -> None:
        """Take away what lies outside the run folder."""

    @abstractmethod
    async def create(self, launch: LaunchSpec) -> None:
        """As ``Acts.create``: marked as configured only when it is so as a whole."""

    @abstractmethod
    async def start_guest(self, uid: str) -> None:
        """Let a VMM that is configured begin."""

    @abstractmethod
    async def hold_console(self, launch: LaunchSpec) -> None:
        """See that somebody holds the guest's serial port; fine when somebody does."""

    # -- what they share ------------------------------------------------------------------

    def proof(self, uid: str) -> Proof | None:
        """The live process; None when it is proved gone. Raises UnknownStateError."""
        paths = self.run.vm(uid)
        return processes.prove(paths.process, paths.lock)

    async def ask(self, uid: str, request: str, body: object = None) -> object:
        """One request to a live VMM. Raises DriverError when it is gone."""
        proof = self.proof(uid)
        if proof is None:
            raise DriverError("its VMM is gone", subject=uid, hint="plan again")
        return await unixhttp.call(self.endpoint(uid, proof), request, body)

    async def observe(self, uid: str) -> VmState | Unknown:
        """Proof first, then the VMM's own word; a silent one is unknown, never dead."""
        record = folders.read(self.run.vm(uid))
        if record is None:
            return Unknown("its run folder vanished while it was looked at")
        proof, phase = self.proof(uid), VmPhase.DEAD
        if proof is not None:
            try:
                phase = await self.phase(uid, proof)
            except (TransientError, DriverError) as error:
                if self.proof(uid) is not None:
                    return Unknown(f"process {proof.pid} lives, but {error}")
                proof = None
        pid = None if proof is None else proof.pid
        return VmState(uid, phase, record.launch, pid, record.boot_id, record.note)

    async def boot(self, launch: LaunchSpec) -> None:
        """Start the guest of a VMM that is configured; one that never got whole is begun anew."""
        if not self.run.vm(launch.uid).configured.exists():
            await self.shutdown(launch.uid, graceful=False)
            await self.create(launch)
        await self.hold_console(launch)
        await self.start_guest(launch.uid)

    async def shutdown(self, uid: str, *, graceful: bool) -> None:
        """Ask the guest, then the VMM, then the kernel, each with its deadline."""
        proof = self.proof(uid)
        if proof is None:
            return
        try:
            if graceful and await self.phase(uid, proof) is VmPhase.RUNNING:
                await self.ask_guest_to_end(uid, proof)
            if self.proof(uid) is not None:
                await self.quit(uid, proof)
        except (TransientError, DriverError):
            # An API that is silent or gone: the kernel will not be refused.
            await processes.kill(proof)
            return
        if not await processes.wait_for_end(proof, QUIT_TIMEOUT_S):
            await processes.kill(proof)

    async def delete(self, uid: str) -> None:
        """Take away what is left of a VM whose VMM has ended, or only waits."""
        proof = self.proof(uid)
        if proof is not None:
            await processes.kill(proof)
        await console.end_holder(self.run.vm(uid))
        await cgroups.remove(uid)
        self.remove(uid)
        folders.remove(self.run, uid)

    async def reattach(self, uid: str, tap: str) -> None:
        """Give the live VMM its tap back, same process, same descriptor."""
        proof = self.proof(uid)
        if proof is None:
            raise DriverError("its VMM is gone", subject=uid, hint="plan again")
        await asyncio.to_thread(self._reattach_tap, proof.pid, tap)

    async def metrics(self, uid: str) -> Mapping[str, int]:
        """Those of its process."""
        proof = self.proof(uid)
        return {} if proof is None else processes.counters(proof)

    async def answering(self, launch: LaunchSpec) -> Proof:
        """Wait until a VMM that was started answers. Raises DriverError with its last words when
        it ended instead, TransientError when it does not get there.
        """
        deadline = asyncio.get_running_loop().time() + START_TIMEOUT_S
        while True:
            proof = self.proof(launch.uid)
            if proof is None:
                raise died(self.name, launch, self.logs(launch.uid))
            try:
                await self.phase(launch.uid, proof)
            except TransientError:
                # Its socket appears some time after the exec; nothing announces it.
                if asyncio.get_running_loop().time() > deadline:
                    raise
            else:
                return proof
            await asyncio.sleep(PAUSE_S)

    async def configured(
        self, launch: LaunchSpec, configure: Callable[[], Awaitable[None]]
    ) -> None:
        """Configure a VMM as a whole or not at all: one left half-way is never booted."""
        try:
            await self.answering(launch)
            await configure()
        except BaseException:
            proof = self.proof(launch.uid)
            if proof is not None:
                await processes.kill(proof)
            raise
        self.run.vm(launch.uid).configured.touch(mode=0o600)


def require_kvm() -> None:
    """Raises DriverError where there is no KVM: these VMMs have no emulation."""
    try:
        KVM_DEVICE.stat()
    except OSError as error:
        raise DriverError(
            f"{KVM_DEVICE} is not there ({error.strerror}), and this hypervisor has no emulation",
            hint="enable virtualization, or use hypervisor: qemu",
        ) from error
