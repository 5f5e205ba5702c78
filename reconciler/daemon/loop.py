"""The reconcile loop: woken by saves, timers and ends of VMs, it looks afresh each time.

Wake-ups carry nothing; several become one. A pass that finds nothing to do writes nothing.
A broken file stops only what it declares (see ``source.tree.load_with_fallback``).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from apscheduler.schedulers.asyncio import AsyncIOScheduler

from reconciler.daemon.asking import Asking
from reconciler.daemon.exits import ExitWatch
from reconciler.daemon.holding import Held
from reconciler.daemon.keeping import Desired, Keeper
from reconciler.daemon.operations import Operations
from reconciler.daemon.telling import Teller
from reconciler.daemon.transitions import look_of_failure, look_of_pass, look_of_source
from reconciler.daemon.watching_drops import LOOK_S, DropWatch
from reconciler.errors import MetaldError
from reconciler.execution import clocks
from reconciler.execution.executor import StepProgress
from reconciler.execution.outcome import Outcome
from reconciler.execution.reports import outcome_word
from reconciler.execution.state.records import Event
from reconciler.model.ledger import Ledger
from reconciler.source.watching import changes

RETRY_S = 5.0
OnLine = Callable[[str], None]


@dataclass(slots=True)
class Loop:
    """Keeps one source applied until it is told to stop. ``interval_s``: between looks.

    ``asking``: for a remote source, what asks it.
    """

    held: Held
    operations: Operations
    keeper: Keeper
    teller: Teller
    drops: DropWatch
    interval_s: float
    on_line: OnLine
    asking: Asking | None = None
    _complaint: tuple[str, str] = ("", "")
    _due_s: float = 0.0

    async def run(self, stop: asyncio.Event) -> None:
        """Pass after pass; the first at once."""
        wake = asyncio.Event()
        self.operations.wake = wake.set
        scheduler = AsyncIOScheduler(timezone="UTC")
        scheduler.add_job(wake.set, "interval", seconds=self.interval_s, max_instances=1)
        often_s = min(LOOK_S, self.interval_s)
        scheduler.add_job(self._look_at_drops, "interval", seconds=often_s, max_instances=1)
        scheduler.start()
        exits = ExitWatch(self.held.run, wake.set)
        helpers = [
            asyncio.create_task(self._watch(wake, stop)),
            asyncio.create_task(_wake_on(stop, wake)),
        ]
        helpers[0].add_done_callback(self._watching_ended)
        wake.set()
        try:
            while not stop.is_set():
                await self._sleep(wake)
                wake.clear()
                if not stop.is_set():
                    await self._safe_pass(exits)
        finally:
            scheduler.shutdown(wait=False)
            exits.close()
            for task in helpers:
                task.cancel()
            await asyncio.gather(*helpers, return_exceptions=True)

    async def _look_at_drops(self) -> None:
        await self.drops.look(self.operations.commit)

    async def _watch(self, wake: asyncio.Event, stop: asyncio.Event) -> None:
        watched = self.keeper.source.watched
        if self.asking is not None:
            await self.asking.run(wake.set, stop)
        elif watched is not None:
            async for _ in changes(watched, stop):
                wake.set()

    def _watching_ended(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and task.exception() is not None:
            self._complain(
                f"the source is watched no longer ({task.exception()}); it is looked at every "
                f"{self.interval_s:g} s"
            )

    async def _sleep(self, wake: asyncio.Event) -> None:
        """Until woken, or until a back-off, a retry or a deadline is due."""
        due = self._due_s - time.time() if self._due_s else None
        try:
            async with asyncio.timeout(None if due is None else max(0.05, due)):
                await wake.wait()
        except TimeoutError:
            return

    async def _safe_pass(self, exits: ExitWatch) -> None:
        """One pass; whatever fails in it is said, and tried again. Never the daemon's end."""
        self._due_s = 0.0
        try:
            await self._pass()
            exits.refresh()
        except MetaldError as error:
            self._due_s = time.time() + RETRY_S
            self._complain(str(error))
            if self.teller.is_heard:
                self.teller.tell(look_of_failure(error, time.time(), self.operations.commit))

    async def _pass(self) -> None:
        async with self.operations.turn:
            if not await self._nothing_to_undo():
                return
            desired = await self.keeper.desired()
            if desired is None:
                commit = self.operations.commit = self.keeper.commit
                self._complain("\n".join(self.keeper.problems))
                if self.teller.is_heard:
                    self.teller.tell(look_of_source(self.keeper.problems, time.time(), commit))
                return
            self.operations.commit = desired.source.commit
            outcome = await self.held.engine.apply(
                desired.request, on_progress=self._progress, stop=self.operations.stopping.everybody
            )
        self._conclude(desired, outcome)

    async def _nothing_to_undo(self) -> bool:
        """Undo what was not confirmed in time; False while something is in the way of that."""
        undone = await self.operations.confirming.undo_if_due(
            self._told, self.operations.stopping.everybody
        )
        if undone is None or undone.is_complete:
            return True
        left = "\n".join(f"{address}: not undone yet: {why}" for address, why in undone.remaining)
        self._complain(left)
        self._due_s = time.time() + RETRY_S
        return False

    def _told(self, event: Mapping[str, Any]) -> None:
        for line in event.get("lines", ()):
            self.on_line(f"resuming: {line}")

    def _complain(self, text: str) -> None:
        """Say it, and record it, when it is new: the text, or the commit it is about."""
        commit = self.operations.commit
        if (text, commit) == self._complaint:
            return
        self._complaint = (text, commit)
        self.on_line(f"error: {text}")
        self._record("Warning", "SourceOrPassFailed", text)

    def _record(self, kind: Literal["Normal", "Warning"], reason: str, text: str) -> None:
        commit = self.operations.commit
        event = Event(time.time(), "host/local", kind, reason, text, commit=commit)
        try:
            self.held.store.add_events([event])
        except MetaldError as error:
            self.on_line(f"error: not recorded: {error}")

    def _conclude(self, desired: Desired, outcome: Outcome) -> None:
        ledger = self.held.engine.survey.ledger()
        self._plan_next(outcome, ledger)
        self._say(desired, outcome)
        plan = outcome.plan
        left_alone = [f"{a}: left alone: {why}" for a, why in (*plan.blocked, *plan.refused)]
        complaints = [*desired.complaints, *left_alone, *plan.warnings]
        if complaints:
            self._complain("\n".join(complaints))
        elif self._complaint[0] and outcome.is_complete:
            self.on_line("all is well again")
            self._record("Normal", "Resolved", "all is well again")
            self._complaint = ("", "")
        if outcome.is_complete and not plan.refused:
            event = self.keeper.conclude(desired, [hold.address for hold in plan.held])
            if event is not None:
                self.held.store.add_events([event])
        if self.teller.is_heard:
            self.teller.tell(
                look_of_pass(
                    outcome, ledger, problems=desired.problems, commit=desired.source.commit,
                    at_s=time.time(),
                )
            )  # fmt: skip

    def _say(self, desired: Desired, outcome: Outcome) -> None:
        plan = outcome.plan
        for change in plan.changes:
            self.on_line(f"{change.resource}: {change.action}: {change.reason}")
        acted = {step.resource for step in plan.steps}
        for recovery in plan.recoveries:
            if recovery.resource in acted:
                self.on_line(f"{recovery.resource}: {recovery.verdict}: {recovery.reason}")
        if outcome.run_id:
            count = len(desired.request.fleet)
            at = f" at {desired.source.commit[:12]}" if desired.source.commit else ""
            self.on_line(f"pass: {outcome_word(outcome)}; {count} resources desired{at}")

    def _plan_next(self, outcome: Outcome, ledger: Ledger) -> None:
        """When to look again without being woken."""
        moments = [entry.not_before_s for entry in outcome.plan.recoveries]
        moments += [entry.not_before_s for entry in ledger.retries.values()]
        moments += [hold.until_s for hold in outcome.plan.held if hold.until_s is not None]
        moments += [e.until_s for e in outcome.plan.isolated if e.until_s is not None]
        pending = self.held.store.confirmation()
        if pending is not None:
            moments.append(time.time() + pending.deadline.left_s(clocks.now()))
        if outcome.plan.blocked:
            moments.append(time.time() + RETRY_S)
        self._due_s = min((m for m in moments if m > time.time()), default=0.0)

    def _progress(self, progress: StepProgress) -> None:
        if progress.state == "failed":
            self.on_line(f"{progress.step.resource}: {progress.step.key}: {progress.error}")


async def _wake_on(stop: asyncio.Event, wake: asyncio.Event) -> None:
    await stop.wait()
    wake.set()
