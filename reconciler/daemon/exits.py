"""Wakes the loop the moment a VM's process ends, instead of at the next look."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable

from reconciler.errors import MetaldError
from reconciler.hypervisors import folders, processes
from reconciler.paths import RunPaths


class ExitWatch:
    """Holds a pidfd per live VM; ``wake`` is called when one becomes readable (its end)."""

    def __init__(self, run: RunPaths, wake: Callable[[], None]) -> None:
        self._run = run
        self._wake = wake
        self._watched: dict[int, int] = {}

    def refresh(self) -> None:
        """Watch exactly the VMs that live now. Called after each pass."""
        loop = asyncio.get_running_loop()
        live = self._live()
        for pid in self._watched.keys() - live:
            self._forget(loop, pid)
        for pid in live - self._watched.keys():
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

    def _live(self) -> set[int]:
        found = set()
        for uid in folders.uids(self._run):
            paths = self._run.vm(uid)
            try:
                proof = processes.prove(paths.process, paths.lock)
            except MetaldError:
                continue  # unknown: the next look decides, not we
            if proof is not None:
                found.add(proof.pid)
        return found

    def _ended(self, pid: int) -> None:
        self._forget(asyncio.get_running_loop(), pid)
        self._wake()

    def _forget(self, loop: asyncio.AbstractEventLoop, pid: int) -> None:
        descriptor = self._watched.pop(pid)
        loop.remove_reader(descriptor)
        os.close(descriptor)
