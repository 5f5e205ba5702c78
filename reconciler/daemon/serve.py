"""`watch` and `serve`: hold the lock, answer on the control socket, run the loop.

VMs outlive it: stopping stops no VM (law 7).
"""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable

from reconciler.daemon.asking import Asking
from reconciler.daemon.control import ControlServer
from reconciler.daemon.desired import Location, Source
from reconciler.daemon.holding import hold
from reconciler.daemon.keeping import Keeper
from reconciler.daemon.loop import Loop
from reconciler.daemon.notify import Notifier, Target, targets_from
from reconciler.daemon.security_log import SecurityLog, log_from
from reconciler.daemon.telling import Teller
from reconciler.daemon.watching_drops import DropWatch
from reconciler.errors import MetaldError
from reconciler.planning.bounds.guards import MaxDestroy
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

    Raises RefusedError naming the holder when another process has the lock, MetaldError when
    the settings are wrong.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    targets, security_log = targets_of(settings), security_log_of(settings)
    with hold(settings) as held:
        operations = held.operations(watching=location)

        def ask() -> None:
            operations.stopping.ask()
            stop.set()

        def trouble(line: str) -> None:
            on_line(f"error: notifications: {line}")

        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ask)
        async with (
            Notifier(targets, trouble) as notifier,
            ControlServer(held.run.control, operations.handlers(), held.holder),
        ):
            on_line(f"keeping {location.name} applied; looking for drift every {interval_s:g} s")
            for line in held.interrupted:
                on_line(f"resuming: {line}")
            source = Source(location, held.state.sources)
            asking = Asking(source, interval_s) if source.is_remote else None
            tree = asking.tree if asking else None
            keeper = Keeper(source, held.store, held.run, limit, tree)
            teller = Teller(held.store, notifier, trouble)
            drops = DropWatch(held.store, security_log, lambda line: on_line(f"error: {line}"))
            looping = Loop(held, operations, keeper, teller, drops, interval_s, on_line, asking)
            await looping.run(stop)
        held.run.source.unlink(missing_ok=True)
        on_line("stopped; the VMs go on")


def targets_of(settings: Settings) -> tuple[Target, ...]:
    """Whom to notify. Raises MetaldError naming the file and the entry that is wrong."""
    try:
        return targets_from(settings.notifications)
    except MetaldError as error:
        raise _in_file(settings, error) from error


def security_log_of(settings: Settings) -> SecurityLog | None:
    """Where security events are written. Raises MetaldError naming the file and what is wrong."""
    try:
        return log_from(settings.security_log)
    except MetaldError as error:
        raise _in_file(settings, error) from error


def _in_file(settings: Settings, error: MetaldError) -> MetaldError:
    where = f"{settings.config_file}: {error.subject}"
    return MetaldError(error.message, subject=where, hint=error.hint)
