"""What every hypervisor offers: the Protocol that one contract suite holds all drivers to.

What each of them can is data, in ``model.hypervisors``; what may be asked when, in
``model.lifecycle``. The operations of a VM map to it like this: create and boot are ``start``,
shutdown and delete are ``stop``, pause and resume are ``set_power``, info is ``observe`` and
list is ``drivers.observe_all``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol

from reconciler.model.observed import Unknown, VmState
from reconciler.model.resolved import LaunchSpec

OpenTap = Callable[[str], int]
ReattachTap = Callable[[int, str], None]
# Makes a tap by name a user's own, so that no capability is needed to open it.
OwnTap = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Taps:
    """What drivers do with taps, which ``network`` makes."""

    open: OpenTap
    reattach: ReattachTap
    own: OwnTap


class Driver(Protocol):
    """One hypervisor. Stateless between calls: what it knows, it finds in the run folder.

    Every method raises DriverError when the hypervisor refuses or the operation is illegal for
    the VM as it is, TransientError when a deadline passes, UnknownStateError when it cannot be
    told what is there. Operations on one VM take turns, whichever processes they come from.
    """

    async def start(self, launch: LaunchSpec, *, power: str) -> None:
        """Create and boot the VM and bring it to ``power`` (running or paused). One that runs
        already under this uid is adopted: nothing is ever started twice.
        """

    async def stop(self, uid: str, *, graceful: bool) -> None:
        """Shut the VM down, asking the guest first when ``graceful``, and delete it; its run
        folder goes too. Fine when it is gone already.
        """

    async def set_power(self, uid: str, power: str) -> None:
        """Pause or resume a live VM."""

    async def reboot(self, uid: str) -> None:
        """Reset the guest of a live VM; it runs then, also where it was paused. Its VMM stays
        where the hypervisor can do that.
        """

    async def reattach(self, uid: str, tap: str) -> None:
        """Connect the live VM's queue to its tap again, creating the tap when it is gone."""

    async def observe(self, uid: str) -> VmState | Unknown:
        """What a VM with a run folder is doing."""

    async def metrics(self, uid: str) -> Mapping[str, int]:
        """Counters of a live VM since its start: those of its process (``process.cpu_ns``,
        ``process.resident_bytes``, ``process.read_bytes``, ``process.written_bytes``), and what
        the VMM counts itself, by its own names. Nothing for a VM without a process.
        """


Drivers = Mapping[str, Driver]
