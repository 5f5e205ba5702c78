"""How commands reach the state: changes through the holder, looks without the lock.

A changing command runs inside the daemon when there is one, else takes the lock itself.
Called by ``cli``.
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reconciler.daemon.client import connect_or_none
from reconciler.daemon.desired import load_strictly
from reconciler.daemon.holding import hold
from reconciler.daemon.operations import Operations
from reconciler.errors import MetaldError
from reconciler.execution.engine import Request, Survey
from reconciler.execution.host import open_world
from reconciler.execution.state.records import Event, Generations, Run
from reconciler.execution.state.sqlite import open_reader
from reconciler.model.addresses import ResourceAddress, parse_address
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.observed import Observed
from reconciler.model.plan import Plan
from reconciler.paths import RunPaths, StatePaths
from reconciler.planning.planner import Scope
from reconciler.planning.render import SourceInfo
from reconciler.settings import Settings

OnProgress = Callable[[Mapping[str, Any]], None]


async def perform(
    settings: Settings, operation: str, arguments: Mapping[str, Any], on_progress: OnProgress
) -> Mapping[str, Any]:
    """Carry out an operation in the lock holder; its result with ``exitCode`` added.

    Raises what the operation raised, and RefusedError when another one-shot command holds
    the lock.
    """
    client = await connect_or_none(RunPaths(settings.run_dir).control)
    if client is not None:
        async with client:
            reply = await client.call(operation, arguments, on_progress=on_progress)
        return {**reply.result, "exitCode": reply.exit_code, "daemon": True}
    with hold(settings) as held:
        operations = Operations(held.engine, held.store, held.state, held.run)
        _stop_on_signals(operations.stop)
        reply = await operations.handlers()[operation](arguments, on_progress)
    return {**reply.result, "exitCode": reply.exit_code, "daemon": False}


def _stop_on_signals(stop: asyncio.Event) -> None:
    """The first Ctrl-C or SIGTERM finishes what runs and starts nothing more."""
    loop = asyncio.get_running_loop()

    def ask(number: int) -> None:
        stop.set()
        loop.remove_signal_handler(number)  # the second one is the default: at once

    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ask, number)


@dataclass(frozen=True, slots=True)
class Looking:
    """One consistent look at ledger and world, taken without the lock."""

    ledger: Ledger
    observed: Observed
    generations: Mapping[ResourceAddress, Generations]
    runs: tuple[Run, ...]
    events: tuple[Event, ...]


async def look(settings: Settings) -> Looking:
    """Read the state and observe the host. Changes nothing, waits for nobody."""
    state = StatePaths(settings.state_dir)
    world = open_world(state, RunPaths(settings.run_dir))
    with closing(open_reader(state)) as reader:
        return Looking(
            reader.ledger(time.time()),
            await world.observe(()),
            reader.generations(),
            reader.runs(5),
            reader.events(limit=200),
        )


async def plan_now(
    settings: Settings, path: Path, targets: Sequence[str]
) -> tuple[Plan, SourceInfo]:
    """What an apply of ``path`` would do now, computed beside any running daemon."""
    loaded, source = load_strictly(path)
    scope = Scope(targets=_addresses(targets), by_hand=True)
    request = Request(loaded.fleet, source, scope, explain=loaded.problem_of)
    return await _plan(settings, request), source


async def plan_destroy_now(settings: Settings, targets: Sequence[str]) -> tuple[Plan, SourceInfo]:
    """What a destroy would do now."""
    source = SourceInfo("destroy")
    scope = Scope(targets=_addresses(targets), destroy=True)
    return await _plan(settings, Request(Fleet.of(()), source, scope)), source


def _addresses(targets: Sequence[str]) -> frozenset[ResourceAddress]:
    try:
        return frozenset(parse_address(text) for text in targets)
    except ValueError as error:
        raise MetaldError(str(error), hint="like vm/acme/web-1") from error


async def _plan(settings: Settings, request: Request) -> Plan:
    state, run = StatePaths(settings.state_dir), RunPaths(settings.run_dir)
    with closing(open_reader(state)) as reader:
        if reader.exists:
            return await Survey(open_world(state, run), reader).plan(request)
    # The very first look at this host: identities need its secret, which the lock guards.
    with hold(settings) as held:
        return await held.engine.survey.plan(request)
