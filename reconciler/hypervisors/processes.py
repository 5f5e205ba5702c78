"""Processes of ours: started through `launching`, proved by record and lock, ended by pidfd.

A process is ours when four things agree: the lock in its run folder is held, its record
names this boot, a process of that pid has that start time, and it holds the lock's inode
open. Anything less is unknown, never absent and never somebody to signal.
"""

from __future__ import annotations

import asyncio
import errno
import fcntl
import functools
import json
import os
import signal
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.errors import DriverError, UnknownStateError

_LOCK_ATTEMPTS, _LOCK_PAUSE_S = 10, 0.02
_ENDING_S = 1.0
BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


@dataclass(frozen=True, slots=True)
class Program:
    """What the launcher makes of a process. ``limits`` by name in ``resource``.

    ``script``: a Python file whose ``main`` is called instead of exec'ing ``argv``. ``streams``:
    inherited descriptors that become its standard streams. ``retain``: numbers of capabilities
    with which it stays root, for a jailer, which takes the unix id by itself.
    """

    uid: str
    unix_id: int
    argv: tuple[str, ...]
    record: Path
    log: Path
    folder: Path
    cgroups: tuple[Path, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    environment: Mapping[str, str] = field(default_factory=dict)
    script: Path | None = None
    streams: Mapping[int, int] = field(default_factory=dict)
    retain: tuple[int, ...] = ()

    def to_json(self, keep: Sequence[int]) -> str:
        """As the launcher reads it; ``keep``: the numbers of the descriptors it inherits."""
        data: dict[str, Any] = {
            "keep": list(keep),
            "uid": self.uid,
            "unix_id": self.unix_id,
            "argv": list(self.argv),
            "script": "" if self.script is None else str(self.script),
            "record": str(self.record),
            "log": str(self.log),
            "folder": str(self.folder),
            "cgroups": [str(path) for path in self.cgroups],
            "limits": dict(self.limits),
            "environment": dict(self.environment),
            "streams": dict(self.streams),
            "retain": list(self.retain),
        }
        return json.dumps(data)


@dataclass(frozen=True, slots=True)
class Proof:
    """A live process proved to be ours."""

    pid: int
    start_ticks: int


@contextmanager
def locked(path: Path) -> Iterator[int | None]:
    """The descriptor of a lock taken for a process to inherit, None when it is held already.

    A look by another command may hold it for a moment: ask more than once.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        for attempt in range(_LOCK_ATTEMPTS):
            if attempt:
                time.sleep(_LOCK_PAUSE_S)
            if _try_lock(descriptor, fcntl.LOCK_EX):
                yield descriptor
                return
        yield None
    finally:
        os.close(descriptor)


def is_held(path: Path) -> bool:
    """Somebody alive holds the lock. A missing lock file is held by nobody.

    Raises UnknownStateError when it cannot be asked.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    except OSError as error:
        raise UnknownStateError(
            f"the lock cannot be opened: {error.strerror}", subject=str(path)
        ) from error
    try:
        return not _try_lock(descriptor, fcntl.LOCK_SH)
    finally:
        os.close(descriptor)


def _try_lock(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno != errno.EWOULDBLOCK:
            raise
        return False
    return True


def prove(record: Path, lock: Path) -> Proof | None:
    """The process behind a record and a lock; None when it is proved gone.

    Raises UnknownStateError when the lock is held but the holder is not who the record says.
    """
    if not is_held(lock):
        return None
    try:
        data = json.loads(record.read_text(encoding="utf-8"))
        pid, ticks, boot_id = int(data["pid"]), int(data["start_ticks"]), str(data["boot_id"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UnknownStateError(
            f"its lock is held, but its process record cannot be read: {error!r}",
            subject=str(record),
        ) from error
    if boot_id != read_boot_id() or start_ticks(pid) != ticks or not _holds(pid, lock):
        if _freed_soon(lock, ending=start_ticks(pid) is None):
            return None
        raise UnknownStateError(
            f"its lock is held by a process other than the recorded {pid}", subject=str(record)
        )
    return Proof(pid, ticks)


def _freed_soon(lock: Path, *, ending: bool) -> bool:
    """The lock is free, or becomes so: a process's threads end, and let go of its files, a
    moment after the process itself counts as dead.
    """
    deadline = time.monotonic() + (_ENDING_S if ending else 0.0)
    while is_held(lock):
        if time.monotonic() >= deadline:
            return False
        time.sleep(_LOCK_PAUSE_S)
    return True


@functools.cache
def read_boot_id() -> str:
    """This boot of this host, which no process outlives."""
    return BOOT_ID_FILE.read_text(encoding="ascii").strip()


def start_ticks(pid: int) -> int | None:
    """Start time in clock ticks since boot (proc_pid_stat(5), field 22); None when gone or a
    zombie: zombies are dead.
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    words = text.rpartition(")")[2].split()
    return None if words[0] in {"Z", "X"} else int(words[19])


def counters(proof: Proof) -> Mapping[str, int]:
    """What the kernel counts for a process since its start, as ``Driver.metrics`` names it.

    Raises UnknownStateError when it cannot be read, or is another process's by now.
    """
    folder = Path(f"/proc/{proof.pid}")
    try:
        words = (folder / "stat").read_text(errors="replace").rpartition(")")[2].split()
        moved = dict(
            line.split(": ") for line in (folder / "io").read_text(encoding="ascii").splitlines()
        )
    except OSError as error:
        raise UnknownStateError(f"process {proof.pid} cannot be read: {error.strerror}") from error
    # proc_pid_stat(5): fields 14 and 15 are CPU time, 22 the start, 24 resident pages;
    # proc_pid_io(5): what reached storage.
    if int(words[19]) != proof.start_ticks:
        raise UnknownStateError(f"process {proof.pid} is another one by now")
    ticks_ns = 1_000_000_000 // os.sysconf("SC_CLK_TCK")
    return {
        "process.cpu_ns": (int(words[11]) + int(words[12])) * ticks_ns,
        "process.resident_bytes": int(words[21]) * os.sysconf("SC_PAGE_SIZE"),
        "process.read_bytes": int(moved["read_bytes"]),
        "process.written_bytes": int(moved["write_bytes"]),
    }


def _holds(pid: int, lock: Path) -> bool:
    """The process has the lock file open."""
    try:
        wanted = lock.stat()
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                found = entry.stat()
            except FileNotFoundError:
                continue
            if (found.st_dev, found.st_ino) == (wanted.st_dev, wanted.st_ino):
                return True
    except (FileNotFoundError, ProcessLookupError):
        return False
    return False


async def wait_for_end(proof: Proof, timeout_s: float) -> bool:
    """Wait until the process is gone; False when it still runs at the deadline."""
    try:
        pidfd = os.pidfd_open(proof.pid)
    except ProcessLookupError:
        return True
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    try:
        if start_ticks(proof.pid) != proof.start_ticks:
            return True
        loop.add_reader(pidfd, ended.set)
        async with asyncio.timeout(timeout_s):
            await ended.wait()
    except TimeoutError:
        return False
    finally:
        loop.remove_reader(pidfd)
        os.close(pidfd)
    return True


async def kill(proof: Proof, *, timeout_s: float = 5.0) -> None:
    """SIGKILL exactly this process and wait for its end. Raises DriverError if it stays."""
    try:
        pidfd = os.pidfd_open(proof.pid)
    except ProcessLookupError:
        return
    try:
        if start_ticks(proof.pid) == proof.start_ticks:
            signal.pidfd_send_signal(pidfd, signal.SIGKILL)
    except ProcessLookupError:
        return
    finally:
        os.close(pidfd)
    if not await wait_for_end(proof, timeout_s):
        raise DriverError(
            f"process {proof.pid} did not end within {timeout_s:g} s of SIGKILL",
            hint="it waits in the kernel (see /proc/PID/stack); is its storage hung?",
        )
