"""Each VM's own cgroup (v2), so that whatever it runs is counted together and found again.

Under ``metald.slice`` of the unified hierarchy, wherever that is mounted; where the kernel
has none, VMs run without and `doctor` says so. Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import asyncio
import errno
import time
from pathlib import Path

from reconciler.errors import TransientError

SLICE = "metald.slice"
REMOVE_TIMEOUT_S = 5.0
_REMOVE_PAUSE_S = 0.02
_MOUNTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))


def unified_mount() -> Path | None:
    """Where cgroup v2 is mounted; None when it is not."""
    return next((m for m in _MOUNTS if (m / "cgroup.procs").is_file()
                 and (m / "cgroup.controllers").is_file()), None)  # fmt: skip


def controllers() -> frozenset[str]:
    """Controllers the unified hierarchy offers (``cpu``, ``memory``, …)."""
    mount = unified_mount()
    if mount is None:
        return frozenset()
    return frozenset((mount / "cgroup.controllers").read_text(encoding="ascii").split())


def folder(uid: str) -> Path | None:
    """The VM's cgroup, existing or not; None without cgroup v2."""
    mount = unified_mount()
    return None if mount is None else mount / SLICE / f"vm-{uid}.scope"


def create(uid: str) -> tuple[Path, ...]:
    """Make the VM's cgroup; its ``cgroup.procs``, or nothing without cgroup v2."""
    path = folder(uid)
    if path is None:
        return ()
    path.mkdir(parents=True, exist_ok=True)
    return (path / "cgroup.procs",)


async def remove(uid: str) -> None:
    """Remove the VM's cgroup, and the slice when it was the last; fine when they are gone.

    A process leaves its cgroup a moment after its end can be seen: wait for that. Raises
    TransientError when something still runs in it at the deadline.
    """
    path = folder(uid)
    if path is None:
        return
    deadline = time.monotonic() + REMOVE_TIMEOUT_S
    while not _removed(path):
        if time.monotonic() > deadline:
            raise TransientError("something still runs in the VM's cgroup", subject=str(path))
        await asyncio.sleep(_REMOVE_PAUSE_S)
    _removed(path.parent)


def _removed(path: Path) -> bool:
    """Remove an empty cgroup; False when it is in use."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno in {errno.EBUSY, errno.ENOTEMPTY}:
            return False
        raise TransientError(
            f"the cgroup cannot be removed: {error.strerror}", subject=str(path)
        ) from error
    return True
