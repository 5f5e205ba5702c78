"""One operation on a VM at a time, whoever asks: a lock per VM, and on it what is under way.

A driver takes the VM's turn, looks where the VM is, asks ``model.lifecycle`` whether the
operation is legal from there, and acts; so two operations cannot both be legal and cross. The
lock is free when its holder is dead: what was under way is then told by looking, as always.
"""

from __future__ import annotations

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final

from reconciler.errors import MetaldError, TransientError
from reconciler.model.lifecycle import Operation, State, transition
from reconciler.paths import RunPaths

# Above the longest operation: a shutdown that has to ask guest, VMM and kernel in a row.
TURN_TIMEOUT_S: Final = 60.0
_PAUSE_S: Final = 0.02
_WORD_BYTES: Final = 64


class Turn:
    """The right to act on one VM; made by ``taken``."""

    def __init__(self, descriptor: int, uid: str) -> None:
        self._descriptor = descriptor
        self._uid = uid

    def begin(self, state: State | None, operation: Operation) -> State | None:
        """Note that the operation is under way; where it will lead. Raises DriverError where it
        is illegal for a VM in this state, and nothing may be done then.
        """
        found = transition(state, operation, subject=self._uid)
        self.note(f"{found.through} by process {os.getpid()}")
        return found.end

    def note(self, word: str) -> None:
        """Say to whoever waits what is under way."""
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, word.encode(), 0)


@asynccontextmanager
async def taken(run: RunPaths, uid: str) -> AsyncIterator[Turn]:
    """Wait for the VM's turn, and have it. Raises TransientError at the deadline, saying what is
    under way.
    """
    path = run.turn(uid)
    descriptor = await _locked(path, uid)
    try:
        yield Turn(descriptor, uid)
    finally:
        os.ftruncate(descriptor, 0)
        if not run.vm(uid).root.exists():
            path.unlink(missing_ok=True)
        os.close(descriptor)


def under_way(run: RunPaths, uid: str) -> str:
    """What somebody is doing with the VM, like ``pausing by process 71``; empty for nothing."""
    try:
        descriptor = os.open(run.turn(uid), os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return ""
    try:
        if _try(descriptor, fcntl.LOCK_SH):
            return ""
        return os.pread(descriptor, _WORD_BYTES, 0).decode(errors="replace")
    finally:
        os.close(descriptor)


def sweep(run: RunPaths) -> None:
    """Remove the turns of VMs that are no more: who was killed right after a delete left one."""
    for path in run.turns.iterdir() if run.turns.is_dir() else ():
        if run.vm(path.name).root.exists():
            continue
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if _try(descriptor, fcntl.LOCK_EX):
                path.unlink(missing_ok=True)
        finally:
            os.close(descriptor)


async def _locked(path: Path, uid: str) -> int:
    deadline = asyncio.get_running_loop().time() + TURN_TIMEOUT_S
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        while True:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                if _try(descriptor, fcntl.LOCK_EX) and _is_there(descriptor, path):
                    return descriptor
            except BaseException:
                os.close(descriptor)
                raise
            word = os.pread(descriptor, _WORD_BYTES, 0).decode(errors="replace")
            os.close(descriptor)
            if asyncio.get_running_loop().time() > deadline:
                raise TransientError(
                    f"it is {word or 'acted on by another process'}, "
                    f"and was still after {TURN_TIMEOUT_S:g} s",
                    subject=uid,
                )
            # flock(2) has no notice of its own that an event loop could wait for.
            await asyncio.sleep(_PAUSE_S)
    except OSError as error:
        raise MetaldError(
            f"the VM's turn cannot be taken: {error.strerror}", subject=str(path)
        ) from error


def _try(descriptor: int, kind: int) -> bool:
    try:
        fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_there(descriptor: int, path: Path) -> bool:
    """The lock is still the one that others would take; whoever deletes a VM removes it."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
