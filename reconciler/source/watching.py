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
_REAPPEAR_PAUSE_S = 1.0


async def changes(path: Path, stop: asyncio.Event) -> AsyncIterator[None]:
    """One item per burst of changes below ``path``, until ``stop`` is set.

    A tree that is replaced or vanishes is a change too; watching goes on when it is back.
    """
    while not stop.is_set():
        if not path.exists():
            await _pause(stop)
            continue
        try:
            async for _ in awatch(
                path.parent if path.is_file() else path,
                stop_event=stop, debounce=DEBOUNCE_MS, step=STEP_MS, rust_timeout=1000,
                yield_on_timeout=False, ignore_permission_denied=True,
            ):  # fmt: skip
                yield
                if not path.exists():
                    break
        except FileNotFoundError:
            yield


async def _pause(stop: asyncio.Event) -> None:
    try:
        async with asyncio.timeout(_REAPPEAR_PAUSE_S):
            await stop.wait()
    except TimeoutError:
        return
