"""One writer (law 3): a file lock on the state folder and a claim on the network namespace.

Both are the kernel's to free, so a killed holder leaves nothing behind; both are released
together. Taken by every command that changes something when no daemon does it for it.
"""

from __future__ import annotations

import fcntl
import json
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from reconciler.errors import MetaldError, RefusedError, TransientError
from reconciler.execution.state.opening import prepare_folder
from reconciler.model.times import rfc3339
from reconciler.paths import StatePaths

# Between taking the lock and writing its name a holder needs microseconds; a killed holder's
# name stays in the file until the next one writes its own.
_NAMING_ATTEMPTS: Final = 20
_NAMING_PAUSE_S: Final = 0.02

Claim = Callable[[], AbstractContextManager[object]]


@dataclass(frozen=True, slots=True)
class Holder:
    """The process that holds a host's state.

    ``since`` is RFC 3339; ``start_ticks`` its start time in clock ticks since boot
    (proc_pid_stat(5), field 22), which with the pid names it for ever.
    """

    pid: int
    start_ticks: int
    command: str
    since: str
    state_dir: str

    @staticmethod
    def this_process(state: StatePaths) -> Holder:
        """Describe the calling process as the holder of ``state``."""
        pid = os.getpid()
        ticks = _start_ticks(pid)
        now = rfc3339(time.time())
        return Holder(pid, 0 if ticks is None else ticks, _command(pid), now, str(state.root))

    @property
    def is_alive(self) -> bool:
        """Whether this very process still runs, and not another that was given its pid."""
        return _start_ticks(self.pid) == self.start_ticks

    def __str__(self) -> str:
        return f"process {self.pid} ({self.command}), since {self.since}, state in {self.state_dir}"


class WriterLock:
    """Held inside ``with``. ``claim`` claims the network namespace (``network.namespace``).

    Raises RefusedError naming the holder when another process has either, MetaldError when
    the state folder cannot be used. Not for sharing between threads.
    """

    def __init__(self, state: StatePaths, *, claim: Claim) -> None:
        self._state = state
        self._claim = claim
        self._taken = ExitStack()

    def __enter__(self) -> Holder:
        prepare_folder(self._state)
        with ExitStack() as taken:
            descriptor = _lock_file(self._state.lock)
            taken.callback(os.close, descriptor)
            holder = Holder.this_process(self._state)
            try:
                _write_name(descriptor, json.dumps(asdict(holder)))
            except OSError as error:
                raise TransientError(
                    f"the lock file cannot be written: {error.strerror}",
                    subject=str(self._state.lock),
                    hint="see that the disk has room",
                ) from error
            taken.callback(_write_name, descriptor, "")
            taken.enter_context(self._claim())
            self._taken = taken.pop_all()
        return holder

    def __exit__(self, *_: object) -> None:
        self._taken.close()


def current_holder(state: StatePaths) -> Holder | None:
    """Who holds the state now, asked without taking the lock; None when nobody alive does."""
    return _named_holder(state.lock)


def _lock_file(path: Path) -> int:
    """Descriptor of the locked file; not inherited by programs started while it is held."""
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise MetaldError(
                f"the lock file cannot be opened: {error.strerror}",
                subject=str(path),
                hint="run as root",
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise _refusal(path) from None
        except BaseException:
            os.close(descriptor)
            raise
        if _is_same_file(descriptor, path):
            return descriptor
        os.close(descriptor)  # purged between opening and locking: lock the new file


def _is_same_file(descriptor: int, path: Path) -> bool:
    ours = os.fstat(descriptor)
    try:
        there = path.stat()
    except FileNotFoundError:
        return False
    return (ours.st_dev, ours.st_ino) == (there.st_dev, there.st_ino)


def _write_name(descriptor: int, text: str) -> None:
    # In place: the atomic writer would replace the very file that is locked.
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, text.encode(), 0)


def _refusal(path: Path) -> RefusedError:
    holder = _named_holder(path)
    who = "a process that has not named itself" if holder is None else str(holder)
    return RefusedError(
        f"the state is held by {who}",
        subject=str(path.parent),
        hint="wait until it ends, end it, or use another --state-dir",
    )


def _named_holder(path: Path) -> Holder | None:
    """Who wrote its name into a lock that is held; None when nobody alive did."""
    for attempt in range(_NAMING_ATTEMPTS):
        if attempt:
            time.sleep(_NAMING_PAUSE_S)
        try:
            holder = Holder(**json.loads(path.read_text(encoding="utf-8")))
        except (OSError, ValueError, TypeError):
            continue  # being written just now, or purged
        if holder.is_alive:
            return holder
    return None


def _start_ticks(pid: int) -> int | None:
    """Start time of a process, None when there is none with this pid."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command's name, in parentheses, may itself hold spaces and parentheses.
    return int(stat.rpartition(")")[2].split()[19])


def _command(pid: int) -> str:
    words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    return b" ".join(words).decode(errors="replace").strip()
