"""A driver made of single acts: it takes the VM's turn, finds where the VM is, and goes the way
that ``model.lifecycle`` has from there. Simulated, Firecracker and Cloud Hypervisor are such.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from reconciler.errors import DriverError, UnknownStateError
from reconciler.hypervisors import folders, turns
from reconciler.hypervisors.turns import Turn
from reconciler.model.lifecycle import Operation, State, state_of, way
from reconciler.model.observed import Unknown, VmPhase, VmState
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import RunPaths


class Acts(Protocol):
    """What a hypervisor does for each operation. Called with the VM's turn taken, and only when
    the operation is legal. Errors as for ``hypervisors.driver.Driver``.
    """

    async def create(self, launch: LaunchSpec) -> None:
        """Run folder and VMM, its guest not started."""

    async def boot(self, launch: LaunchSpec) -> None:
        """Start the guest of a VM that was created, be it long ago."""

    async def pause(self, uid: str) -> None:
        """Stop the guest's CPUs."""

    async def resume(self, uid: str) -> None:
        """Let them go on."""

    async def reboot(self, launch: LaunchSpec) -> None:
        """Start the guest anew; it runs afterwards."""

    async def shutdown(self, uid: str, *, graceful: bool) -> None:
        """End the guest: ask it, then the VMM, then the kernel. Fine when it has ended."""

    async def delete(self, uid: str) -> None:
        """Leave nothing of the VM, whose guest has ended."""

    async def reattach(self, uid: str, tap: str) -> None:
        """As ``Driver.reattach``."""

    async def observe(self, uid: str) -> VmState | Unknown:
        """As ``Driver.observe``."""

    async def metrics(self, uid: str) -> Mapping[str, int]:
        """As ``Driver.metrics``."""


class LifecycleDriver:
    """Implements ``hypervisors.driver.Driver`` with the acts of one hypervisor."""

    def __init__(self, run: RunPaths, acts: Acts) -> None:
        self._run = run
        self._acts = acts

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        """Create what is not there, then go the way to ``power``."""
        async with turns.taken(self._run, launch.uid) as turn:
            found = await self._look(launch.uid)
            state = None if found is None else state_of(found.phase)
            if found is not None and found.phase is VmPhase.DEAD:
                state = await self._stop(turn, launch.uid, state, graceful=False)
            for operation in way(state, power, subject=launch.vm):
                state = turn.begin(state, operation)
                await self._act(operation, launch)

    async def stop(self, uid: str, *, graceful: bool) -> None:
        """Shut down and delete; a VM that cannot be asked anything is ended as well."""
        async with turns.taken(self._run, uid) as turn:
            try:
                found = await self._look(uid)
            except UnknownStateError:
                # It is to end, whatever it does. Whose process it is, its acts prove.
                turn.note("shutting-down")
                await self._acts.shutdown(uid, graceful=False)
                state: State | None = State.STOPPED
            else:
                state = None if found is None else state_of(found.phase)
            if state is not None:
                await self._stop(turn, uid, state, graceful=graceful)

    async def set_power(self, uid: str, power: str) -> None:
        """Pause or resume, or boot what was created only."""
        async with turns.taken(self._run, uid) as turn:
            found = await self._there(uid)
            state: State | None = state_of(found.phase)
            for operation in way(state, power, subject=uid):
                state = turn.begin(state, operation)
                await self._act(operation, found.launch)

    async def reboot(self, uid: str) -> None:
        """Start the guest anew."""
        async with turns.taken(self._run, uid) as turn:
            found = await self._there(uid)
            turn.begin(state_of(found.phase), Operation.REBOOT)
            await self._acts.reboot(found.launch)

    async def reattach(self, uid: str, tap: str) -> None:
        """Connect a queue to its tap again."""
        await self._acts.reattach(uid, tap)

    async def observe(self, uid: str) -> VmState | Unknown:
        """What the VM is doing, asked without waiting for its turn."""
        return await self._acts.observe(uid)

    async def metrics(self, uid: str) -> Mapping[str, int]:
        """Its counters."""
        return await self._acts.metrics(uid)

    async def _look(self, uid: str) -> VmState | None:
        if folders.read(self._run.vm(uid)) is None:
            return None
        found = await self._acts.observe(uid)
        if isinstance(found, Unknown):
            raise UnknownStateError(found.reason, subject=uid)
        return found

    async def _there(self, uid: str) -> VmState:
        found = await self._look(uid)
        if found is None:
            raise DriverError("there is no such VM", subject=uid, hint="plan again")
        return found

    async def _stop(
        self, turn: Turn, uid: str, state: State | None, *, graceful: bool
    ) -> State | None:
        if state is not State.STOPPED:
            state = turn.begin(state, Operation.SHUTDOWN)
            await self._acts.shutdown(uid, graceful=graceful)
        state = turn.begin(state, Operation.DELETE)
        await self._acts.delete(uid)
        return state

    async def _act(self, operation: Operation, launch: LaunchSpec) -> None:
        match operation:
            case Operation.CREATE:
                await self._acts.create(launch)
            case Operation.BOOT:
                await self._acts.boot(launch)
            case Operation.PAUSE:
                await self._acts.pause(launch.uid)
            case _:
                await self._acts.resume(launch.uid)
