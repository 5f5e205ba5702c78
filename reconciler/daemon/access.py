"""How commands reach the state: changes through the holder, looks without the lock.

A changing command runs inside the daemon when there is one, else takes the lock itself.
Called by ``cli``.
"""

from __future__ import annotations

import asyncio
import functools
import json
import secrets
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from reconciler.daemon.client import connect_or_none
from reconciler.daemon.desired import Location, Source
from reconciler.daemon.replies import addresses, limit, plan_hash, refuse_unknown
from reconciler.errors import MetaldError
from reconciler.execution.copies import Copies
from reconciler.execution.drops import drops_document
from reconciler.execution.engine import Request, Survey, decide
from reconciler.execution.host import foreign_forward_chains, open_world, read_drops
from reconciler.execution.images import ImageStore
from reconciler.execution.observation import recorded
from reconciler.execution.state.records import (
    AddressRecord,
    Confirmation,
    Event,
    Generations,
    Run,
)
from reconciler.execution.state.sqlite import open_reader
from reconciler.execution.state.store import Reader
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.observed import Observed, Unknown
from reconciler.model.plan import Plan
from reconciler.paths import RunPaths, StatePaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.planner import Scope
from reconciler.planning.resolution.images import wanted_images
from reconciler.settings import Settings

OnProgress = Callable[[Mapping[str, Any]], None]


async def perform(
    settings: Settings, operation: str, arguments: Mapping[str, Any], on_progress: OnProgress
) -> Mapping[str, Any]:
    """Carry out an operation in the lock holder; its result with ``exitCode`` added.

    Raises what the operation raised, and RefusedError when another one-shot command holds
    the lock.
    """
    run = RunPaths(settings.run_dir)
    client = await connect_or_none(run.control)
    if client is not None:
        async with client:
            ticket = secrets.token_hex(8)
            ask = functools.partial(_ask_to_stop, run.control, ticket)
            with _stopped_by_signals(ask, on_progress):
                reply = await client.call(
                    operation, {**arguments, "ticket": ticket}, on_progress=on_progress
                )
        return {**reply.result, "exitCode": reply.exit_code, "daemon": True}
    from reconciler.daemon.holding import hold  # noqa: PLC0415 - looks need no operations

    with hold(settings) as held:
        operations = held.operations()
        with _stopped_by_signals(operations.stopping.ask, on_progress):
            reply = await operations.handlers()[operation](arguments, on_progress)
    return {**reply.result, "exitCode": reply.exit_code, "daemon": False}


@contextmanager
def _stopped_by_signals(ask: Callable[[], None], on_progress: OnProgress) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM finishes what runs and starts nothing more; the next Ctrl-C
    leaves, and a next SIGTERM ends the process.

    Raises KeyboardInterrupt for the second Ctrl-C. It is answered in the loop: Python's own
    handler would only set a flag that nobody looks at while the loop waits.
    """
    loop, left = asyncio.get_running_loop(), False
    task = asyncio.current_task()

    def stop() -> None:
        ask()
        loop.remove_signal_handler(signal.SIGTERM)
        loop.add_signal_handler(signal.SIGINT, leave)
        on_progress({"event": "stopping"})

    def leave() -> None:
        nonlocal left
        left = True
        loop.remove_signal_handler(signal.SIGINT)
        if task is not None:
            task.cancel()

    loop.add_signal_handler(signal.SIGINT, stop)
    loop.add_signal_handler(signal.SIGTERM, stop)
    try:
        yield
    except asyncio.CancelledError:
        if left:
            raise KeyboardInterrupt from None
        raise
    finally:
        loop.remove_signal_handler(signal.SIGINT)
        loop.remove_signal_handler(signal.SIGTERM)


def _ask_to_stop(control: Path, ticket: str) -> None:
    """Tell the daemon, beside the call that goes on listening."""
    _asking.add(task := asyncio.get_running_loop().create_task(_send_stop(control, ticket)))
    task.add_done_callback(_asking.discard)


async def _send_stop(control: Path, ticket: str) -> None:
    # A daemon that is gone meanwhile is told of by the call itself.
    with suppress(MetaldError):
        client = await connect_or_none(control)
        if client is not None:
            async with client:
                await client.call("stop", {"ticket": ticket})


_asking: set[asyncio.Task[None]] = set()


@dataclass(frozen=True, slots=True)
class Looking:
    """One consistent look at ledger and world, taken without the lock.

    ``source``: what a daemon keeps applied, and what is wrong with it (`daemon.keeping`); None
    when none does. ``pending``: the change that awaits confirmation.
    """

    ledger: Ledger
    observed: Observed
    generations: Mapping[ResourceAddress, Generations]
    runs: tuple[Run, ...]
    events: tuple[Event, ...]
    source: Mapping[str, Any] | None
    pending: Confirmation | None


async def look(settings: Settings) -> Looking:
    """Read the state and observe the host. Changes nothing, waits for nobody."""
    state = StatePaths(settings.state_dir)
    run = RunPaths(settings.run_dir)
    world = open_world(state, run)
    source = await _kept_applied(run)
    with closing(open_reader(state)) as reader:
        return Looking(
            reader.ledger(time.time()),
            await world.observe(()),
            reader.generations(),
            reader.runs(5),
            reader.events(limit=200),
            source,
            reader.confirmation(),
        )


async def look_at_drops(settings: Settings) -> dict[str, Any]:
    """What the rules dropped (`execution.drops`). Raises UnknownStateError."""
    with closing(open_reader(StatePaths(settings.state_dir))) as reader:
        return drops_document(reader.ledger(time.time()), await read_drops())


async def look_at_foreign_chains() -> list[str] | Unknown:
    """Chains of other tables that drop what guests forward."""
    try:
        return await foreign_forward_chains()
    except MetaldError as error:
        return Unknown(str(error))


def look_at_addresses(settings: Settings) -> tuple[Ledger, tuple[AddressRecord, ...]]:
    """What is on record of addresses and prefixes, and of who has them."""
    now_s = time.time()
    with closing(open_reader(StatePaths(settings.state_dir))) as reader:
        return reader.ledger(now_s), reader.addresses(now_s)


async def _kept_applied(run: RunPaths) -> Mapping[str, Any] | None:
    client = await connect_or_none(run.control)
    if client is None:
        return None  # what stands there was written by a daemon that was killed
    async with client:
        try:
            found: Mapping[str, Any] = json.loads(run.source.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None  # it has not looked at it yet
    return found


def last_repository(settings: Settings) -> str:
    """Name of the repository the last run with a commit came from, empty when there is none."""
    with closing(open_reader(StatePaths(settings.state_dir))) as reader:
        runs = (run for run in reader.runs(1000) if run.commit)
        return next((run.source for run in runs if not run.source.startswith("undo of")), "")


@dataclass(frozen=True, slots=True)
class Planned:
    """A plan made beside any running daemon, and all that it was made from."""

    plan: Plan
    source: SourceInfo
    fleet: Fleet
    observed: Observed
    ledger: Ledger


async def plan_now(settings: Settings, arguments: Mapping[str, Any]) -> Planned:
    """What an apply with these arguments would do now (`Operations.apply`)."""
    source = Source(Location.of(arguments), StatePaths(settings.state_dir).sources)
    loaded, info = source.load()
    scope = Scope(
        targets=addresses(arguments, "targets"),
        exclude=addresses(arguments, "exclude"),
        by_hand=True,
    )
    request = Request(
        loaded.fleet, info, scope, explain=loaded.problem_of,
        limit=limit(arguments), agreed=plan_hash(arguments),
    )  # fmt: skip
    return await _plan(settings, request, offline=bool(arguments.get("offline")))


async def adoption_now(settings: Settings, arguments: Mapping[str, Any]) -> Mapping[str, Any]:
    """What an adoption with these arguments would put on record now (`Operations.adopt`)."""
    from reconciler.daemon import adopting  # noqa: PLC0415 - looks need no adoption
    from reconciler.daemon.holding import hold  # noqa: PLC0415

    state, run = StatePaths(settings.state_dir), RunPaths(settings.run_dir)
    client = await connect_or_none(run.control)
    if client is not None:
        async with client:
            raise adopting.watched("its source")
    with closing(open_reader(state)) as reader:
        if reader.exists:
            return await adopting.preview(
                Survey(open_world(state, run), reader), Copies(run), arguments
            )
    with hold(settings) as held:
        return await adopting.preview(held.engine.survey, Copies(run), arguments)


async def plan_rollback_now(settings: Settings, arguments: Mapping[str, Any]) -> Planned:
    """What a rollback would do now (`Operations.rollback`)."""
    location = Location.of(arguments).at(arguments["commit"])
    return await plan_now(settings, {**arguments, **location.to_arguments()})


async def plan_destroy_now(settings: Settings, arguments: Mapping[str, Any]) -> Planned:
    """What a destroy with these arguments would do now (`Operations.destroy`)."""
    scope = Scope(
        targets=addresses(arguments, "targets"),
        exclude=addresses(arguments, "exclude"),
        destroy=True,
    )
    request = Request(Fleet.of(()), SourceInfo("destroy"), scope)
    return await _plan(settings, request, offline=False)


async def _plan(settings: Settings, request: Request, *, offline: bool) -> Planned:
    state, run = StatePaths(settings.state_dir), RunPaths(settings.run_dir)
    with closing(open_reader(state)) as reader:
        if offline:
            return _plan_offline(state, reader, request)
        if reader.exists:
            return await _planned(Survey(open_world(state, run), reader), request)
    from reconciler.daemon.holding import hold  # noqa: PLC0415 - only here

    # The very first look at this host: identities need its secret, which the lock guards.
    with hold(settings) as held:
        return await _planned(held.engine.survey, request)


async def _planned(survey: Survey, request: Request) -> Planned:
    refuse_unknown(request.scope, request.fleet, survey.ledger())
    observed, ledger = await survey.observe(request), survey.ledger()
    plan = decide(request, observed, ledger)
    return Planned(plan, request.source, request.fleet, observed, ledger)


def _plan_offline(state: StatePaths, reader: Reader, request: Request) -> Planned:
    """Against the last recorded observation; only boot files are looked at afresh."""
    observed, moment = recorded(reader)
    images = ImageStore(state).look_at(wanted_images(request.fleet))
    observed = replace(observed, images=images)
    ledger = reader.ledger(time.time())
    refuse_unknown(request.scope, request.fleet, ledger)
    made = decide(request, observed, ledger)
    note = f"offline: planned against what was observed at {moment}"
    made = replace(made, warnings=(*made.warnings, note))
    return Planned(made, request.source, request.fleet, observed, ledger)
