"""Wake-ups when files change: level-triggered, so they carry no content. The one user of
watchfiles. Called by the daemon, which reads the tree afresh at every wake-up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from watchfiles import awatch

DEBOUNCE_MS = 100
STEP_MS = 25
# How long a tree that was replaced as a whole may go unnoticed. inotify follows the folder that
# was opened, not the name: of a folder moved away, or a link set to another one, it tells nothing.
PLACE_CHECK_MS = 500

_Place = tuple[Path, int, int]


async def changes(path: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """One item per burst of changes below ``path``, until ``stop`` is set.

    A tree that is replaced, vanishes or comes back is a change too, and so is a link on the way
    to it that leads elsewhere; from then on what stands there now is watched.
    """
    place = _place(path)
    while not stop.is_set():
        if place is None:
            await _pause(stop)
        else:
            async for _ in _bursts(place, path, stop):
                yield
        now = _place(path)
        if now != place:
            place = now
            yield


async def _bursts(place: _Place, path: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """Bursts of changes for as long as ``path`` still leads to ``place``."""
    real = place[0]
    try:
        async for changed in awatch(
            real.parent if real.is_file() else real,
            stop_event=stop, debounce=DEBOUNCE_MS, step=STEP_MS, rust_timeout=PLACE_CHECK_MS,
            yield_on_timeout=True, ignore_permission_denied=True,
            # By itself it passes over every .git, and other folders that it thinks it knows.
            watch_filter=None,
        ):  # fmt: skip
            if changed:
                yield
            if _place(path) != place:
                return
    except FileNotFoundError:
        return  # gone between two looks: the caller looks again


def _place(path: Path) -> _Place | None:
    """What stands at a path: its real name, device and inode; None when nothing does.

    Of a file it is the folder's that count: editors replace files at every save.
    """
    try:
        real = path.resolve(strict=True)
        status = (real.parent if real.is_file() else real).stat()
    except OSError:
        return None
    return real, status.st_dev, status.st_ino


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(PLACE_CHECK_MS / 1000):
            await stop.wait()
    except TimeoutError:
        return
