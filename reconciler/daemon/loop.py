"""The reconcile loop: woken by saves, timers and ends of VMs, it looks afresh each time.

Wake-ups carry nothing; several become one. A pass that finds nothing to do writes nothing.
A broken file stops only what it declares (see ``source.tree.load_with_fallback``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.daemon.exits import ExitWatch
from reconciler.daemon.holding import Held
from reconciler.daemon.operations import Operations
from reconciler.errors import MetaldError
from reconciler.execution.engine import Request
from reconciler.execution.executor import StepProgress
from reconciler.execution.outcome import Outcome
from reconciler.execution.reports import outcome_word
from reconciler.execution.state.records import Event
from reconciler.planning.guards import too_many_deletions
from reconciler.planning.planner import Scope
from reconciler.planning.render import SourceInfo
from reconciler.source.tree import Loaded, load_with_fallback
from reconciler.source.watching import changes

RETRY_S = 5.0
OnLine = Callable[[str], None]


class Loop:
    """Keeps one source applied until ``stop`` is set."""

    def __init__(
        self, held: Held, operations: Operations, path: Path, *, interval_s: float, on_line: OnLine
    ) -> None:
        self._held = held
        self._operations = operations
        self._path = path
        self._interval_s = interval_s
        self._say = on_line
        self._wake = asyncio.Event()
        self._loaded: Loaded | None = None
        self._complaint = ""
        self._not_before_s = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Pass after pass; the first at once."""
        scheduler = AsyncIOScheduler(timezone="UTC")
        scheduler.add_job(self._wake.set, "interval", seconds=self._interval_s, max_instances=1)
        scheduler.start()
        exits = ExitWatch(self._held.run, self._wake.set)
        watcher = asyncio.create_task(self._watch(stop))
        stopper = asyncio.create_task(self._wake_on(stop))
        self._wake.set()
        try:
            while not stop.is_set():
                await self._sleep()
                self._wake.clear()
                if not stop.is_set():
                    await self._safe_pass(exits)
        finally:
            scheduler.shutdown(wait=False)
            exits.close()
            for task in (watcher, stopper):
                task.cancel()
            await asyncio.gather(watcher, stopper, return_exceptions=True)

    async def _watch(self, stop: asyncio.Event) -> None:
        async for _ in changes(self._path, stop):
            self._wake.set()

    async def _wake_on(self, stop: asyncio.Event) -> None:
        await stop.wait()
        self._wake.set()

    async def _sleep(self) -> None:
        """Until woken, or until a back-off or a retry is due."""
        due = self._not_before_s - time.time() if self._not_before_s else None
        try:
            async with asyncio.timeout(None if due is None else max(0.05, due)):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _safe_pass(self, exits: ExitWatch) -> None:
        """One pass; whatever fails in it is said, and tried again. Never the daemon's end."""
        self._not_before_s = 0.0
        try:
            await self._pass()
            exits.refresh()
        except MetaldError as error:
            self._not_before_s = time.time() + RETRY_S
            self._complain(str(error))

    async def _pass(self) -> None:
        loaded, reason = self._load()
        if loaded is None:
            return
        request = Request(
            loaded.fleet,
            SourceInfo(str(self._path)),
            Scope(keep_gone=reason),
            strict=False,
            explain=loaded.problem_of,
            guard=too_many_deletions,
        )
        async with self._operations.turn:
            outcome = await self._held.engine.apply(
                request, on_progress=self._progress, stop=self._operations.stop
            )
        self._conclude(loaded, outcome)

    def _load(self) -> tuple[Loaded | None, str]:
        """The desired state, and why nothing may be deleted now (empty: it may)."""
        source = str(self._path)
        good = self._held.store.good_documents(source)
        try:
            loaded = load_with_fallback(self._path, good)
        except MetaldError as error:
            # Nothing readable is not nothing desired: keep what was desired, delete nothing.
            self._complain(f"{error}; nothing is removed")
            return self._loaded, "the specs cannot be read"
        self._loaded = loaded
        if loaded.problems:
            self._complain("\n".join(str(problem) for problem in loaded.problems))
            if not good:
                return None, ""
        if dict(loaded.good_texts) != dict(good):
            self._held.store.save_documents(source, loaded.good_texts)
        return loaded, ""

    def _complain(self, text: str) -> None:
        """Say it, and record it, when it is new."""
        if text == self._complaint:
            return
        self._complaint = text
        self._say(f"error: {text}")
        event = Event(time.time(), "host/local", "Warning", "SourceOrPassFailed", text)
        try:
            self._held.store.add_events([event])
        except MetaldError as error:
            self._say(f"error: not recorded: {error}")

    def _conclude(self, loaded: Loaded, outcome: Outcome) -> None:
        plan = outcome.plan
        waits = [entry.not_before_s for entry in plan.recoveries]
        if outcome.remaining or outcome.result.failed:
            waits.append(time.time() + RETRY_S)
        future = [moment for moment in waits if moment > time.time()]
        self._not_before_s = min(future, default=0.0)
        for change in plan.changes:
            self._say(f"{change.resource}: {change.action}: {change.reason}")
        acted = {step.resource for step in plan.steps}
        for recovery in plan.recoveries:
            if recovery.resource in acted:
                self._say(f"{recovery.resource}: {recovery.verdict}: {recovery.reason}")
        if outcome.run_id:
            self._say(f"pass: {outcome_word(outcome)}; {len(loaded.fleet)} resources desired")
        left_alone = [f"{a}: left alone: {why}" for a, why in (*plan.blocked, *plan.refused)]
        if left_alone or plan.warnings:
            self._complain("\n".join([*left_alone, *plan.warnings]))
        elif self._complaint and not loaded.problems and outcome.is_complete:
            self._say("all is well again")
            self._complaint = ""

    def _progress(self, progress: StepProgress) -> None:
        if progress.state == "failed":
            self._say(f"{progress.step.resource}: {progress.step.key}: {progress.error}")
