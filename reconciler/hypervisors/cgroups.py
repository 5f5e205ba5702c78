"""Each VM's own cgroup (v2), so that whatever it runs is counted together and found again.

Under ``metald.slice`` of the unified hierarchy, wherever that is mounted; where the kernel
has none, VMs run without and `doctor` says so. Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import errno
from pathlib import Path

from reconciler.errors import TransientError

SLICE = "metald.slice"
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


def remove(uid: str) -> None:
    """Remove the VM's cgroup, and the slice when it was the last; fine when they are gone.

    Raises TransientError when something still runs in it.
    """
    path = folder(uid)
    if path is None:
        return
    try:
        path.rmdir()
    except FileNotFoundError:
        return
    except OSError as error:
        raise TransientError(
            f"the VM's cgroup cannot be removed: {error.strerror}", subject=str(path)
        ) from error
    try:
        path.parent.rmdir()
    except OSError as error:
        if error.errno not in {errno.EBUSY, errno.ENOTEMPTY, errno.ENOENT}:
            raise TransientError(f"{path.parent}: {error.strerror}") from error
