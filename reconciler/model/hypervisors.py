"""The hypervisors a VM may name, and what each can do here: one table that planning, drivers,
`metald doctor` and the documentation read.

A capability stands here when metald drives it, not when the hypervisor alone could do it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, NamedTuple


class Capability(StrEnum):
    """What can be asked of a live VM; the value is how people are told of it."""

    PAUSE = "pause"
    LIVE_MEMORY = "live memory"
    LIVE_DISK_GROWTH = "live disk growth"
    LIVE_VCPUS = "live vCPU"
    SNAPSHOT = "snapshot"
    CONSOLE = "console"
    GRACEFUL_SHUTDOWN = "graceful shutdown"
    # A guest that powered itself off is told from one that crashed.
    EXIT_REASON = "reason of an end"


class Needed(NamedTuple):
    """A program a hypervisor consists of, and where it comes from."""

    program: str
    source: str


@dataclass(frozen=True, slots=True)
class Hypervisor:
    """``programs``: what must be installed; ``machines``: machine types to choose from, the
    first when none is named; ``max_vcpus``: of one VM.
    """

    programs: tuple[Needed, ...]
    capabilities: frozenset[Capability]
    machines: tuple[str, ...] = ("auto",)
    max_vcpus: int = 288

    def can(self, capability: Capability) -> bool:
        """It has this capability."""
        return capability in self.capabilities


_ALWAYS = frozenset({Capability.PAUSE, Capability.GRACEFUL_SHUTDOWN})

HYPERVISORS: Final[Mapping[str, Hypervisor]] = {
    "qemu": Hypervisor(
        (Needed("qemu-system-x86_64", "apt-get install qemu-system-x86"),),
        _ALWAYS | {Capability.CONSOLE, Capability.EXIT_REASON},
        ("auto", "q35", "microvm"),
    ),
    "firecracker": Hypervisor(
        (
            Needed("firecracker", "https://github.com/firecracker-microvm/firecracker/releases"),
            Needed("jailer", "https://github.com/firecracker-microvm/firecracker/releases"),
        ),
        # A crash and a power-off both end its process in the same way (docs/api_requests/
        # actions.md there: it exits on a CPU reset, which is all that a guest without ACPI has).
        _ALWAYS | {Capability.CONSOLE},
        # MachineConfiguration.vcpu_count in its API document.
        max_vcpus=32,
    ),
    "cloud-hypervisor": Hypervisor(
        (
            Needed(
                "cloud-hypervisor",
                "https://github.com/cloud-hypervisor/cloud-hypervisor/releases",
            ),
        ),
        _ALWAYS | {Capability.CONSOLE, Capability.EXIT_REASON},
    ),
    "simulated": Hypervisor((), _ALWAYS | {Capability.EXIT_REASON}, ("auto", "q35", "microvm")),
}


def can(hypervisor: str, capability: Capability) -> bool:
    """A hypervisor is known and has the capability."""
    known = HYPERVISORS.get(hypervisor)
    return known is not None and known.can(capability)


def capable(capability: Capability) -> tuple[str, ...]:
    """The names of those that have it."""
    return tuple(name for name, known in HYPERVISORS.items() if known.can(capability))
