"""`watch` and `serve`: hold the lock, answer on the control socket, run the loop.

VMs outlive it: stopping stops no VM (law 7).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from reconciler.daemon.control import ControlServer
from reconciler.daemon.desired import Location, Source
from reconciler.daemon.holding import hold
from reconciler.daemon.keeping import Keeper
from reconciler.daemon.loop import Loop
from reconciler.planning.guards import MaxDestroy
from reconciler.settings import Settings


async def run_daemon(
    settings: Settings,
    location: Location,
    *,
    interval_s: float,
    limit: MaxDestroy,
    on_line: Callable[[str], None],
) -> None:
    """Keep ``location`` applied until SIGTERM or SIGINT; a pass in progress ends its steps first.

    Raises RefusedError naming the holder when another process has the lock.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    with hold(settings) as held:
        operations = held.operations(watching=location)
        keeper = Keeper(Source(location, held.state.sources), held.store, held.run, limit)

        def ask() -> None:
            operations.stop.set()
            stop.set()

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask)
        async with ControlServer(held.run.control, operations.handlers(), held.holder):
            on_line(f"keeping {location.name} applied; looking for drift every {interval_s:g} s")
            for line in held.interrupted:
                on_line(f"resuming: {line}")
            await Loop(held, operations, keeper, interval_s, on_line).run(stop)
        held.run.source.unlink(missing_ok=True)
        on_line("stopped; the VMs go on")
