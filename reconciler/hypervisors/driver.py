"""What every hypervisor offers, and what each of them can: the Protocol and the capabilities.

Implemented by ``qemu`` and ``simulated``; one contract suite in tests/hypervisors holds them
all to these words.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from reconciler.model.observed import Unknown, VmState
from reconciler.model.resolved import LaunchSpec

OpenTap = Callable[[str], int]
ReattachTap = Callable[[int, str], None]


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a driver can do with a live VM."""

    pause: bool
    graceful_shutdown: bool
    console: bool


class Driver(Protocol):
    """One hypervisor. Stateless between calls: what it knows, it finds in the run folder.

    Every method raises DriverError when the hypervisor refuses, TransientError when a
    deadline passes, UnknownStateError when it cannot be told what is there.
    """

    capabilities: Capabilities

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        """Start the VM and bring it to ``power`` (running or paused). One that runs already
        under this uid is adopted: nothing is ever started twice.
        """

    async def stop(self, uid: str, *, graceful: bool) -> None:
        """End the VM, asking the guest first when ``graceful``; its run folder goes too.
        Fine when it is gone already.
        """

    async def set_power(self, uid: str, power: str) -> None:
        """Pause or resume a live VM."""

    async def reattach(self, uid: str, tap: str) -> None:
        """Connect the live VM's queue to its tap again, creating the tap when it is gone."""

    async def observe(self, uid: str) -> VmState | Unknown:
        """What a VM with a run folder is doing."""


Drivers = Mapping[str, Driver]
