"""Each VM's own cgroup (v2), so that whatever it runs is counted together and found again.

Under ``metald.slice`` of the unified hierarchy, wherever that is mounted; where the kernel
has none, VMs run without and `doctor` says so. What it is limited to is set where the controller
for it is there: ``cage`` decides, and says what is not. Documentation/admin-guide/cgroup-v2.rst.
"""

from __future__ import annotations

import asyncio
import errno
import time
from collections.abc import Mapping
from pathlib import Path

from reconciler.errors import DriverError, TransientError

SLICE = "metald.slice"
LIMITING = frozenset({"cpu", "memory", "pids"})
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


def create(uid: str, settings: Mapping[str, str]) -> tuple[Path, ...]:
    """Make the VM's cgroup with ``settings`` by file, as far as the controllers for them are there;
    its ``cgroup.procs``, or nothing without cgroup v2.

    Raises DriverError when the kernel refuses one that it has.
    """
    path = folder(uid)
    if path is None:
        return ()
    try:
        path.mkdir(parents=True, exist_ok=True)
        _pass_on(path.parent.parent)
        _pass_on(path.parent)
        for name, value in settings.items():
            if (path / name).is_file():
                (path / name).write_text(value, encoding="ascii")
    except OSError as error:
        raise DriverError(
            f"its cgroup cannot be prepared: {error.strerror}", subject=str(error.filename or path)
        ) from error
    return (path / "cgroup.procs",)


def _pass_on(path: Path) -> None:
    """Let the children of a cgroup have the controllers that it has, ours alone of them.

    One that is busy with processes of its own, as of a container, cannot: then they have none.
    """
    control = path / "cgroup.subtree_control"
    has = (path / "cgroup.controllers").read_text(encoding="ascii").split()
    given = control.read_text(encoding="ascii").split()
    for name in sorted(LIMITING.intersection(has) - {*given}):
        try:
            control.write_text(f"+{name}", encoding="ascii")
        except OSError as error:
            if error.errno != errno.EBUSY:
                raise


def setting(uid: str, name: str) -> str | None:
    """What a file of the VM's cgroup holds; None when it is not there."""
    path = folder(uid)
    try:
        return None if path is None else (path / name).read_text(encoding="ascii").strip()
    except OSError:
        return None


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
