"""The simulated hypervisor: a VM that is a record, on a network that is real.

For tests of scale and of the restart policy; never chosen unless a spec names it. Its state
is one file in the VM's run folder, so it survives metald and ends with the host like a
process would.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from reconciler import files
from reconciler.hypervisors import folders
from reconciler.hypervisors.lifecycle import LifecycleDriver
from reconciler.hypervisors.processes import read_boot_id
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths


class SimulatedDriver(LifecycleDriver):
    """Implements ``hypervisors.driver.Driver``."""

    def __init__(self, run: RunPaths) -> None:
        self._records = _Records(run)
        super().__init__(run, self._records)

    def simulate_exit(self, uid: str, phase: VmPhase) -> None:
        """Let the VM end as ``off``, ``panicked`` or ``dead``. For tests."""
        self._records.write(uid, phase)


class _Records:
    """Implements ``hypervisors.lifecycle.Acts``: every act changes the record."""

    def __init__(self, run: RunPaths) -> None:
        self._run = run

    async def create(self, launch: LaunchSpec) -> None:
        folders.create(self._run, launch, note="simulated")
        self.write(launch.uid, VmPhase.HELD)

    async def boot(self, launch: LaunchSpec) -> None:
        self.write(launch.uid, VmPhase.RUNNING)

    async def pause(self, uid: str) -> None:
        self.write(uid, VmPhase.PAUSED)

    async def resume(self, uid: str) -> None:
        self.write(uid, VmPhase.RUNNING)

    async def reboot(self, launch: LaunchSpec) -> None:
        self.write(launch.uid, VmPhase.RUNNING)

    async def shutdown(self, uid: str, *, graceful: bool) -> None:
        self.write(uid, VmPhase.OFF)

    async def delete(self, uid: str) -> None:
        folders.remove(self._run, uid)

    async def reattach(self, uid: str, tap: str) -> None:
        """A simulated VM holds no descriptor; its tap is raised like a new one."""

    async def observe(self, uid: str) -> VmState | Unknown:
        """The record; one of an earlier boot is dead."""
        record = folders.read(self._run.vm(uid))
        if record is None:
            return Unknown("its run folder vanished while it was looked at")
        phase = self._phase(uid) or VmPhase.DEAD
        return VmState(uid, phase, record.launch, None, record.boot_id, record.note)

    async def metrics(self, uid: str) -> Mapping[str, int]:
        return {}

    def write(self, uid: str, phase: VmPhase) -> None:
        text = json.dumps({"boot_id": read_boot_id(), "phase": phase.value})
        files.write_atomic(self._run.vm(uid).process, text, mode=0o600)

    def _phase(self, uid: str) -> VmPhase | None:
        """The recorded phase; None when there is no record."""
        try:
            data: dict[str, Any] = json.loads(files.read_small(self._run.vm(uid).process))
        except FileNotFoundError:
            return None
        return VmPhase(data["phase"]) if data["boot_id"] == read_boot_id() else VmPhase.DEAD
