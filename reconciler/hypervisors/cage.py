"""What a VM's processes may use at most, and what holds them to it on this host.

Called by the drivers when they start a VMM, and by who describes a VM. A cgroup limits exactly and
all of them together; where the kernel's has no controller for something, a limit of each process
stands in for it as far as there is one, and what then is not held is said.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reconciler.hypervisors import cgroups
from reconciler.model.resolved import LaunchSpec

OPEN_FILES: Final = 4096
_MIB: Final = 1 << 20
_PERIOD_US: Final = 100_000  # the kernel's own
# For the VMM's own work beside the guest's processors: devices, its monitor, its console.
_OWN_CPU_US: Final = _PERIOD_US // 4
# Threads that serve disks and the like (QEMU has up to 64 of them for each of its contexts).
_OWN_TASKS: Final = 128
# Of the VMM itself; one part in 32 of the guest's memory goes on tables about it. Under emulation
# also what it has translated (QEMU: 1 GiB at most, tcg/region.c).
_OWN_MEMORY: Final = 256 * _MIB
_TABLES: Final = 32
TRANSLATED: Final = 1024 * _MIB
# Address space is reserved long before memory is used: stacks, arenas of the allocator.
_SPACE, _SPACE_PER_TASK = 4096 * _MIB, 128 * _MIB


@dataclass(frozen=True, slots=True)
class Cage:
    """``cpu_us`` of processor time in each period of 100 ms, ``memory_bytes`` in all, ``tasks``
    (threads and processes), ``space_bytes`` of addresses for each process.
    """

    cpu_us: int
    memory_bytes: int
    tasks: int
    space_bytes: int

    def settings(self) -> Mapping[str, str]:
        """By file of the VM's cgroup. What goes beyond its memory goes as a whole, so that no VM is
        left with half of its processes.
        """
        return {
            "cpu.max": f"{self.cpu_us} {_PERIOD_US}",
            "memory.max": str(self.memory_bytes),
            "memory.oom.group": "1",
            "pids.max": str(self.tasks),
        }

    def process_limits(self, cgroup: Path | None) -> Mapping[str, int]:
        """By name in ``resource``: what stands in for what this cgroup has no file for, too. Tasks
        count by user then, and each VM is a user of its own.
        """
        limits = {"RLIMIT_CORE": 0, "RLIMIT_NOFILE": OPEN_FILES}
        if cgroup is None or not (cgroup / "memory.max").is_file():
            limits["RLIMIT_AS"] = self.space_bytes
        if cgroup is None or not (cgroup / "pids.max").is_file():
            limits["RLIMIT_NPROC"] = self.tasks
        return limits


def cage_of(launch: LaunchSpec, *, beside: int = 0) -> Cage:
    """What a VM gets: all that it declares, and what its VMM needs for itself. ``beside``: memory
    of the VMM that others do not need, in bytes.
    """
    tasks = _OWN_TASKS + 2 * launch.vcpus
    memory = launch.memory_bytes
    return Cage(
        launch.vcpus * _PERIOD_US + _OWN_CPU_US,
        memory + memory // _TABLES + _OWN_MEMORY + beside,
        tasks,
        memory + _SPACE + beside + tasks * _SPACE_PER_TASK,
    )


@dataclass(frozen=True, slots=True)
class Prepared:
    """What a program is started with: files of cgroups to join, limits of its processes."""

    cgroups: tuple[Path, ...]
    limits: Mapping[str, int]


def prepared(launch: LaunchSpec, cage: Cage) -> Prepared:
    """The VM's cgroup, limited as far as this host can, and what stands in for the rest.

    Raises DriverError, see ``cgroups.create``.
    """
    joined = cgroups.create(launch.uid, cage.settings())
    own = joined[0].parent if joined else None
    return Prepared(joined, cage.process_limits(own))


_HELD: Final = {"cpu": "cpu.max", "memory": "memory.max", "tasks": "pids.max"}
_STAND_IN: Final = {"memory": "address space", "tasks": "processes"}
_SEEN: Final = ("Uid", "Groups", "CapEff", "CapBnd", "NoNewPrivs", "Seccomp")
_LIMITS: Final = {"memory": "Max address space", "tasks": "Max processes"}


def described(uid: str, pid: int) -> dict[str, Any]:
    """What holds a VMM, as read from the kernel: who it is, what it may, what it is limited to and
    by what. Empty values for what cannot be read.
    """
    root = Path(f"/proc/{pid}")
    status = dict(_pairs(_text(root / "status"), ":"))
    limits = _text(root / "limits")
    return {
        "pid": pid,
        "credentials": {name: " ".join(status.get(name, "").split()) for name in _SEEN},
        "cgroup": next((line.partition("::")[2] for line in _text(root / "cgroup").splitlines()
                        if line.startswith("0::")), ""),
        "limits": [_limit(uid, what, limits) for what in _HELD],
    }  # fmt: skip


def _limit(uid: str, what: str, limits: str) -> dict[str, Any]:
    value = cgroups.setting(uid, _HELD[what])
    if value is not None:
        return {"what": what, "value": value, "by": _HELD[what]}
    if what in _LIMITS:
        found = next((x for x in limits.splitlines() if x.startswith(_LIMITS[what])), "")
        soft = found.removeprefix(_LIMITS[what]).split()[:1]
        if soft and soft != ["unlimited"]:
            return {"what": what, "value": soft[0], "by": f"rlimit ({_STAND_IN[what]})"}
    name = _HELD[what].partition(".")[0]
    lent = "is not passed on to VMs" if name in cgroups.controllers() else "is not there"
    why = f"not limited: the {name} controller of cgroup v2 {lent}"
    return {"what": what, "value": None, "by": why}


def _pairs(text: str, sign: str) -> list[tuple[str, str]]:
    return [(name, value.strip()) for name, _, value in
            (line.partition(sign) for line in text.splitlines())]  # fmt: skip


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
