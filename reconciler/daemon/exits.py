"""Wakes the loop the moment a VM's process ends, or its guest says that it has, instead of at the
next look. Nothing is decided here, and nothing lost without it: the next look sees the same.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Final

from reconciler.errors import MetaldError
from reconciler.hypervisors import folders, processes
from reconciler.hypervisors.qemu.monitor import follow
from reconciler.paths import RunPaths, VmPaths

# Not RESET: a guest may do that without a pause, and there is nothing to decide.
GUEST_ENDS: Final = ("SHUTDOWN", "GUEST_PANICKED", "BLOCK_IO_ERROR")


class ExitWatch:
    """Holds a pidfd per live VM; ``wake`` is called when one becomes readable (its end). Follows
    the events of those that have a socket for it.
    """

    def __init__(self, run: RunPaths, wake: Callable[[], None]) -> None:
        self._run = run
        self._wake = wake
        self._watched: dict[int, int] = {}
        self._followed: dict[int, asyncio.Task[None]] = {}

    def refresh(self) -> None:
        """Watch exactly the VMs that live now. Called after each pass."""
        loop = asyncio.get_running_loop()
        live = self._live()
        for pid in self._watched.keys() - live.keys():
            self._forget(loop, pid)
        for pid, paths in live.items():
            followed = self._followed.get(pid)
            if (followed is None or followed.done()) and paths.qmp_events.exists():
                self._followed[pid] = asyncio.create_task(self._follow(paths.qmp_events))
        for pid in live.keys() - self._watched.keys():
            try:
                descriptor = os.pidfd_open(pid)
            except ProcessLookupError:
                self._wake()
                continue
            self._watched[pid] = descriptor
            loop.add_reader(descriptor, self._ended, pid)

    def close(self) -> None:
        """Stop watching."""
        loop = asyncio.get_running_loop()
        for pid in list(self._watched):
            self._forget(loop, pid)

    async def _follow(self, socket: Path) -> None:
        # It ends with the VM, whose end is heard by other means; otherwise the next look asks anew.
        with suppress(MetaldError):
            await follow(socket, GUEST_ENDS, self._wake)

    def _live(self) -> Mapping[int, VmPaths]:
        found = {}
        for uid in folders.uids(self._run):
            paths = self._run.vm(uid)
            try:
                proof = processes.prove(paths.process, paths.lock)
            except MetaldError:
                continue  # unknown: the next look decides, not we
            if proof is not None:
                found[proof.pid] = paths
        return found

    def _ended(self, pid: int) -> None:
        self._forget(asyncio.get_running_loop(), pid)
        self._wake()

    def _forget(self, loop: asyncio.AbstractEventLoop, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        if (followed := self._followed.pop(pid, None)) is not None:
            followed.cancel()
        loop.remove_reader(descriptor)
        os.close(descriptor)
