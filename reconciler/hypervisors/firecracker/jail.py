"""Firecracker's jail: where it is, what goes into it, and the jailer's command line.

The jailer makes BASE/firecracker/UID/root, puts the program and device nodes in it, makes it the
root of a mount namespace, takes the VM's user and becomes Firecracker in the same process
(src/jailer/src/env.rs there). It closes all descriptors but the standard streams, so the lock that
proves the VM comes as one of them.
"""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reconciler.errors import DriverError
from reconciler.hypervisors import cgroups
from reconciler.hypervisors.cage import OPEN_FILES, cage_of, prepared
from reconciler.hypervisors.processes import Program
from reconciler.model.resolved import LaunchSpec
from reconciler.paths import VmPaths

# Seen from inside.
KERNEL, INITRD = "/kernel", "/initrd"
_API, _LOG = "/run/api", "/run/log"
# What the jailer needs of root: CHOWN, DAC_OVERRIDE, FOWNER, SETGID, SETUID, SYS_ADMIN (mount
# namespace, pivot_root), MKNOD. It gives up all of them with root.
_RETAINED: Final = (0, 1, 3, 6, 7, 21, 27)


@dataclass(frozen=True, slots=True)
class Jail:
    """The jail of one VM; ``base`` is the folder of all."""

    base: Path
    uid: str
    program: str = "firecracker"

    @property
    def folder(self) -> Path:
        """All that the jailer makes."""
        return self.base / self.program / self.uid

    @property
    def root(self) -> Path:
        """What is ``/`` inside."""
        return self.folder / "root"

    def outside(self, path: str) -> Path:
        """A path inside, as the host has it."""
        return self.root / path.lstrip("/")

    @property
    def api(self) -> Path:
        """Firecracker's socket."""
        return self.outside(_API)

    @property
    def log(self) -> Path:
        """Firecracker's own log."""
        return self.outside(_LOG)

    def furnish(self, kernel: int, initrd: int | None) -> None:
        """Make it afresh, with the boot files in it: the jailer finds device nodes of an earlier
        jail in its way. Raises DriverError when it cannot be made, or could not be used.
        """
        self.clear()
        try:
            self.root.mkdir(mode=0o700, parents=True)
            flags = os.statvfs(self.root).f_flag
            for name, descriptor in ((KERNEL, kernel), (INITRD, initrd)):
                if descriptor is not None:
                    _copy(descriptor, self.outside(name))
        except OSError as error:
            raise DriverError(
                f"the jail cannot be made: {error.strerror}", subject=str(self.root)
            ) from error
        # statvfs(3): ST_NODEV is 4, ST_NOEXEC 8.
        if flags & (4 | os.ST_NOEXEC):
            raise DriverError(
                "the jail's file system is mounted nodev or noexec, and the jail holds device "
                "nodes and a program",
                subject=str(self.base),
                hint="mount --state-dir without both",
            )

    def clear(self) -> None:
        """Take it away; fine when there is none."""
        if self.folder.exists():
            shutil.rmtree(self.folder)

    def jailer(
        self, launch: LaunchSpec, programs: tuple[str, str], paths: VmPaths
    ) -> tuple[str, ...]:
        """The argument list; ``programs``: jailer and Firecracker."""
        jailer, firecracker = programs
        return (
            jailer,
            "--id", self.uid,
            "--exec-file", firecracker,
            "--uid", str(launch.unix_id), "--gid", str(launch.unix_id),
            "--chroot-base-dir", str(self.base),
            *_cgroup(self.uid),
            "--resource-limit", f"no-file={OPEN_FILES}",
            "--",
            "--api-sock", _API,
            "--log-path", _LOG, "--level", "Warn",
        )  # fmt: skip


def program(
    launch: LaunchSpec, paths: VmPaths, argv: tuple[str, ...], streams: dict[int, int]
) -> Program:
    """What the launcher starts: the jailer, still root, in the VM's cgroup already."""
    held = prepared(launch, cage_of(launch))
    return Program(
        uid=launch.uid,
        unix_id=launch.unix_id,
        argv=argv,
        record=paths.process,
        log=paths.vmm_log,
        folder=paths.root,
        cgroups=held.cgroups,
        limits=held.limits,
        streams=streams,
        retain=_RETAINED,
    )


def _cgroup(uid: str) -> tuple[str, ...]:
    """Stay in the VM's cgroup: without a parent it would look for one by its program's name."""
    mount, folder = cgroups.unified_mount(), cgroups.folder(uid)
    if mount is None or folder is None:
        return ()
    return ("--cgroup-version", "2", "--parent-cgroup", str(folder.relative_to(mount)))


def _copy(descriptor: int, target: Path) -> None:
    """A copy of what a descriptor reads, whose place it does not move."""
    with target.open("xb") as stream:
        place, size = 0, os.fstat(descriptor).st_size
        while place < size:
            moved = os.sendfile(stream.fileno(), descriptor, place, size - place)
            if not moved:
                break
            place += moved
    target.chmod(0o444)
