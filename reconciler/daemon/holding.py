"""Becoming the one writer: lock, store, world and engine, composed for as long as one holds.

Used by `serve` and `watch` for their lifetime and by every one-shot command for its own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from reconciler.daemon.confirming import Confirming, start_timekeeper
from reconciler.daemon.desired import Location
from reconciler.daemon.operations import Operations
from reconciler.execution.copies import Copies
from reconciler.execution.engine import Engine
from reconciler.execution.host import open_world
from reconciler.execution.lock import Holder, WriterLock
from reconciler.execution.state.records import Event, Run
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.execution.state.store import Store
from reconciler.hypervisors import folders
from reconciler.network import namespace
from reconciler.paths import RunPaths, StatePaths
from reconciler.settings import Settings


@dataclass(frozen=True, slots=True)
class Held:
    """What a writer works with."""

    settings: Settings
    holder: Holder
    engine: Engine
    store: Store
    run: RunPaths
    state: StatePaths
    interrupted: tuple[str, ...]

    def operations(self, *, watching: Location | None = None) -> Operations:
        """What the holder can be asked to do."""
        keep_time = functools.partial(start_timekeeper, self.state, self.run)
        confirming = Confirming(self.engine, self.store, keep_time)
        return Operations(
            self.engine, self.store, self.state, self.run, confirming,
            watching=watching, interrupted=self.interrupted,
        )  # fmt: skip


@contextmanager
def hold(settings: Settings) -> Iterator[Held]:
    """Be the one writer of this state folder and this network namespace.

    Raises RefusedError naming the holder when somebody else is.
    """
    state, run = StatePaths(settings.state_dir), RunPaths(settings.run_dir)
    claim = functools.partial(namespace.claim, str(state.root))
    with WriterLock(state, claim=claim) as holder, closing(open_store(state)) as store:
        interrupted = close_interrupted_runs(store)
        folders.sweep(run)
        copies = Copies(run)
        copies.renew(lambda: store.ledger(time.time()), after_a_kill=bool(interrupted))
        world = open_world(state, run)
        engine = Engine(world, store, parallelism=settings.parallelism, copies=copies)
        yield Held(settings, holder, engine, store, run, state, interrupted)


def close_interrupted_runs(store: SqliteStore) -> tuple[str, ...]:
    """What a killed writer left open: say so; the next plan does what is still to be done."""
    return tuple(_close(store, run) for run in store.unfinished_runs())


def _close(store: SqliteStore, run: Run) -> str:
    steps = store.steps(run.id)
    left = [step for step in steps if step.status != "done"]
    begun = ", ".join(f"{step.key}" for step in left if step.status == "started")
    message = f"run {run.id} was cut off with {len(left)} of {len(steps)} steps not done"
    message += f"; in doubt and looked at again: {begun}" if begun else "; none was in doubt"
    event = Event(
        time.time(), "host/local", "Warning", "RunResumed", message, run=run.id, commit=run.commit
    )
    with store.grouped():
        store.finish_run(run.id, "interrupted", message)
        store.add_events([event])
    return message
