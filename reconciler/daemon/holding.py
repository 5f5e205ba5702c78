"""Becoming the one writer: lock, store, world and engine, composed for as long as one holds.

Used by `serve` and `watch` for their lifetime and by every one-shot command for its own.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass

from reconciler.execution.engine import Engine
from reconciler.execution.host import open_world
from reconciler.execution.lock import Holder, WriterLock
from reconciler.execution.state.records import Event
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


@contextmanager
def hold(settings: Settings) -> Iterator[Held]:
    """Be the one writer of this state folder and this network namespace.

    Raises RefusedError naming the holder when somebody else is.
    """
    state, run = StatePaths(settings.state_dir), RunPaths(settings.run_dir)
    claim = functools.partial(namespace.claim, str(state.root))
    with WriterLock(state, claim=claim) as holder, closing(open_store(state)) as store:
        _close_interrupted_runs(store)
        folders.sweep(run)
        engine = Engine(open_world(state, run), store, parallelism=settings.parallelism)
        yield Held(settings, holder, engine, store, run, state)


def _close_interrupted_runs(store: SqliteStore) -> None:
    """What a killed writer left open: say so; the next plan does what is still to be done."""
    for run in store.unfinished_runs():
        unfinished = [step.key for step in store.steps(run.id) if step.status != "done"]
        message = f"run {run.id} was cut off with {len(unfinished)} steps not done; resuming"
        event = Event(time.time(), "host/local", "Warning", "RunResumed", message, run=run.id)
        with store.grouped():
            store.finish_run(run.id, "interrupted", message)
            store.add_events([event])
