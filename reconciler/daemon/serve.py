"""`watch` and `serve`: hold the lock, answer on the control socket, run the loop.

VMs outlive it: stopping stops no VM (law 7).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable
from pathlib import Path

from reconciler.daemon.control import ControlServer
from reconciler.daemon.holding import hold
from reconciler.daemon.loop import Loop
from reconciler.daemon.operations import Operations
from reconciler.settings import Settings


async def run_daemon(
    settings: Settings, path: Path, *, interval_s: float, on_line: Callable[[str], None]
) -> None:
    """Keep ``path`` applied until SIGTERM or SIGINT; a pass in progress ends its steps first.

    Raises RefusedError naming the holder when another process has the lock.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with hold(settings) as held:
        operations = Operations(held.engine, held.store, held.state, held.run, watching=path)

        def ask() -> None:
            operations.stop.set()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask)
        async with ControlServer(held.run.control, operations.handlers(), held.holder):
            on_line(f"keeping {path} applied; looking for drift every {interval_s:g} s")
            await Loop(held, operations, path, interval_s=interval_s, on_line=on_line).run(stop)
        on_line("stopped; the VMs go on")
