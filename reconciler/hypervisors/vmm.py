"""What the drivers of VMMs with an HTTP API share: proof before word, ending, waiting.

`firecracker` and `cloud_hypervisor` add how each is started, configured and asked.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from reconciler.errors import DriverError, TransientError
from reconciler.hypervisors import cgroups, console, devices, folders, processes, unixhttp
from reconciler.hypervisors.driver import OwnTap, ReattachTap
from reconciler.hypervisors.processes import Proof
from reconciler.hypervisors.unixhttp import Endpoint
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths, VmPaths

START_TIMEOUT_S: Final = 30.0
POWERDOWN_TIMEOUT_S: Final = 15.0
QUIT_TIMEOUT_S: Final = 5.0
MIB: Final = 1 << 20
PAUSE_S: Final = 0.05
KVM_DEVICE = devices.KVM
_LOG_TAIL_BYTES: Final = 600


class Vmm:
    """A VM as one process behind an API; ``name`` for people. The abstract part is below."""

    name = ""

    def __init__(self, run: RunPaths, *, own_tap: OwnTap, reattach_tap: ReattachTap) -> None:
        self.run = run
        self.own_tap = own_tap
        self._reattach_tap = reattach_tap

    # -- what each adds -------------------------------------------------------------------

    def endpoint(self, uid: str, proof: Proof) -> Endpoint:
        """Where the VMM answers."""
        raise NotImplementedError

    def logs(self, uid: str) -> Sequence[Path]:
        """Where a VMM that ended may have said why."""
        raise NotImplementedError

    async def phase(self, uid: str, proof: Proof) -> VmPhase:
        """The VMM's own word of what its guest does."""
        raise NotImplementedError

    async def ask_guest_to_end(self, uid: str, proof: Proof) -> bool:
        """Press its power button, and wait; False when it had not ended at the deadline."""
        raise NotImplementedError

    async def quit(self, uid: str, proof: Proof) -> None:
        """Ask the VMM to end, where it can be asked."""
        raise NotImplementedError

    def remove(self, uid: str) -> None:
        """Take away what lies outside the run folder."""
        raise NotImplementedError

    async def boot(self, launch: LaunchSpec) -> None:
        """As ``Acts.boot``."""
        raise NotImplementedError

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
                raise self.died(launch)
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

    def died(self, launch: LaunchSpec) -> DriverError:
        """What a VMM said that ended right after its start."""
        tails = [_tail(path) for path in self.logs(launch.uid)]
        told = " | ".join(tail for tail in tails if tail)
        return DriverError(
            f"{self.name} ended right after its start: {told or 'it said nothing'}",
            subject=launch.vm,
        )


@contextmanager
def opened(paths: Sequence[str]) -> Iterator[Mapping[str, int]]:
    """Boot files by path, open. Raises DriverError for one that cannot be opened."""
    found: dict[str, int] = {}
    try:
        for path in filter(None, paths):
            try:
                found[path] = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            except OSError as error:
                raise DriverError(
                    f"the boot file cannot be opened: {error.strerror}", subject=path
                ) from error
        yield found
    finally:
        for descriptor in found.values():
            os.close(descriptor)


def clear_remains(paths: VmPaths, *, besides: Sequence[Path] = ()) -> None:
    """Records and sockets of an earlier VMM of this VM; its console log stays."""
    for path in (paths.process, paths.configured, paths.serial, *besides):
        path.unlink(missing_ok=True)


def require_kvm() -> None:
    """Raises DriverError where there is no KVM: these VMMs have no emulation."""
    try:
        KVM_DEVICE.stat()
    except OSError as error:
        raise DriverError(
            f"{KVM_DEVICE} is not there ({error.strerror}), and this hypervisor has no emulation",
            hint="enable virtualization, or use hypervisor: qemu",
        ) from error


def _tail(path: Path) -> str:
    try:
        return path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip()
    except FileNotFoundError:
        return ""
    except OSError as error:
        return f"{path} cannot be read: {error.strerror}"
