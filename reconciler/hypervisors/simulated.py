"""The simulated hypervisor: a VM that is a record, on a network that is real.

For tests of scale and of the restart policy; never chosen unless a spec names it. Its state
is one file in the VM's run folder, so it survives metald and ends with the host like a
process would.
"""

from __future__ import annotations

import json
from typing import Any

from reconciler import files
from reconciler.errors import DriverError
from reconciler.hypervisors import folders
from reconciler.hypervisors.driver import Capabilities
from reconciler.hypervisors.processes import read_boot_id
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths


class SimulatedDriver:
    """Implements ``hypervisors.driver.Driver``."""

    capabilities = Capabilities(pause=True, graceful_shutdown=True, console=False)

    def __init__(self, run: RunPaths) -> None:
        self._run = run

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        """Write the record; one that is live already only changes its power."""
        state = self._phase(launch.uid)
        if state in {VmPhase.OFF, VmPhase.PANICKED, VmPhase.DEAD}:
            folders.remove(self._run, launch.uid)
        if state not in {VmPhase.RUNNING, VmPhase.PAUSED}:
            folders.create(self._run, launch, note="simulated")
        self._write(launch.uid, VmPhase(power))

    async def stop(self, uid: str, *, graceful: bool) -> None:
        """Remove the record."""
        folders.remove(self._run, uid)

    async def set_power(self, uid: str, power: str) -> None:
        """Change the record."""
        if self._phase(uid) not in {VmPhase.RUNNING, VmPhase.PAUSED}:
            raise DriverError("it is not live", subject=uid)
        self._write(uid, VmPhase(power))

    async def reattach(self, uid: str, tap: str) -> None:
        """A simulated VM holds no descriptor; its tap is raised like a new one."""

    async def observe(self, uid: str) -> VmState | Unknown:
        """The record; one of an earlier boot is dead."""
        record = folders.read(self._run.vm(uid))
        if record is None:
            return Unknown("its run folder vanished while it was looked at")
        phase = self._phase(uid) or VmPhase.DEAD
        return VmState(uid, phase, record.launch, None, record.boot_id, record.note)

    def simulate_exit(self, uid: str, phase: VmPhase) -> None:
        """Let the VM end as ``off``, ``panicked`` or ``dead``. For tests."""
        self._write(uid, phase)

    def _phase(self, uid: str) -> VmPhase | None:
        """The recorded phase; None when there is no record."""
        try:
            data: dict[str, Any] = json.loads(files.read_small(self._run.vm(uid).process))
        except FileNotFoundError:
            return None
        return VmPhase(data["phase"]) if data["boot_id"] == read_boot_id() else VmPhase.DEAD

    def _write(self, uid: str, phase: VmPhase) -> None:
        text = json.dumps({"boot_id": read_boot_id(), "phase": phase.value})
        files.write_atomic(self._run.vm(uid).process, text, mode=0o600)
