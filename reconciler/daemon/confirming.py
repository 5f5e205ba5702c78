"""Commit-confirmed: a change is undone, firewall and all, unless somebody confirms it in time.

The deadline stands in the state, so every later start sees it; a process of its own keeps the
time while nobody else does (``daemon.timekeeper``). Deletions wait for the confirmation:
until then what goes is stopped and cut off, and kept.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace

from reconciler.commands import start_detached
from reconciler.daemon.replies import Emit, progress
from reconciler.errors import MetaldError, RefusedError
from reconciler.execution import clocks
from reconciler.execution.confirming import (
    Asked,
    asked_by,
    pending_text,
    rejection_of,
    still_changed,
    way_back_of,
)
from reconciler.execution.engine import Engine, Request
from reconciler.execution.outcome import Outcome
from reconciler.execution.state.records import Confirmation, Event, EventKind
from reconciler.execution.state.store import Store
from reconciler.model.fleet import Fleet
from reconciler.model.plan import Plan
from reconciler.model.times import Deadline, Moment, rfc3339
from reconciler.paths import RunPaths, StatePaths
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.planner import LOCAL_HOST, Scope

_NOTHING = "nothing awaits confirmation"
_LATE = "apply it again, with more time"
_DECISIONS = frozenset({"AwaitsConfirmation", "Confirmed", "Undone", "UndoGivenUp"})


def start_timekeeper(state: StatePaths, run: RunPaths) -> None:
    """Start it detached (`daemon.timekeeper`), in the network namespace this process is in."""
    start_detached(
        [
            sys.executable, "-m", "reconciler.daemon.timekeeper",
            "--state-dir", str(state.root), "--run-dir", str(run.root),
        ]
    )  # fmt: skip


@dataclass(frozen=True, slots=True)
class Confirming:
    """Changes that await confirmation, of the lock holder. ``keep_time`` starts the timekeeper."""

    engine: Engine
    store: Store
    keep_time: Callable[[], None]
    now: Callable[[], Moment] = clocks.now

    def refuse_while_pending(self) -> None:
        """Raises RefusedError while a change awaits confirmation: one at a time."""
        pending = self.store.confirmation()
        if pending is None:
            return
        if self.is_due(pending):
            raise RefusedError(
                f"the change of run {pending.run} was not confirmed, and undoing it is not done",
                hint="see metald events for what is in its way, then metald undo",
            )
        raise RefusedError(
            f"the change of run {pending.run} awaits confirmation until "
            f"{rfc3339(pending.deadline.wall_s)}",
            hint="metald confirm keeps it, metald undo takes it back now",
        )

    def is_due(self, pending: Confirmation) -> bool:
        """Its time is up."""
        return not pending.deadline.left_s(self.now())

    def prepare(self, asked: Asked, seconds: float) -> Callable[[int], None]:
        """What records the deadline with the run, and has the time kept from then on.

        The time counts from here, in case the change is cut off; and anew from its end
        (``begin_waiting``), so that a change which takes long can still be confirmed.
        """
        before, request = pending_text(self.engine.survey.ledger(), asked)

        def begin(run: int) -> None:
            pending = Confirmation(run, Deadline.after(seconds, self.now()), before, request)
            self.store.await_confirmation(pending)
            self._note(pending, "AwaitsConfirmation", f"undone unless confirmed {seconds:g} s "
                       "after it is carried out")  # fmt: skip
            # Not started, nothing changes: this is inside the transaction that records the run.
            self.keep_time()

        return begin

    def begin_waiting(self) -> None:
        """The change is carried out, as far as it could be: from now on it waits."""
        pending = self.store.confirmation()
        if pending is not None:
            self.store.move_deadline(Deadline.after(pending.deadline.allowed_s, self.now()))

    async def confirm(self, emit: Emit, stop: asyncio.Event) -> tuple[Outcome, SourceInfo]:
        """Keep the change; what it deletes is deleted now.

        Raises MetaldError when nothing awaits confirmation, RefusedError past the deadline.
        """
        pending = self.store.confirmation()
        if pending is None:
            self._refuse_undone()
            raise MetaldError(_NOTHING, hint="see metald history")
        if self.is_due(pending):
            undone = (await self.undo(emit, stop)).is_complete
            how = "it was undone" if undone else "undoing it has begun"
            raise RefusedError(f"the time to confirm run {pending.run} is over: {how}", hint=_LATE)
        asked = asked_by(pending)

        def end(_: Plan) -> None:
            # Decided once nothing forbids what is left to do, and before its first step.
            with self.store.grouped():
                self.store.end_confirmation()
                self._note(pending, "Confirmed", "the change was confirmed")

        outcome = await self.engine.apply(
            Request(asked.fleet, asked.source, asked.scope),
            on_progress=progress(emit),
            on_plan=end,
            stop=stop,
        )
        return outcome, asked.source

    def _refuse_undone(self) -> None:
        """Raises RefusedError when what somebody wants to confirm has been undone."""
        told = self.store.events(limit=100, resource=LOCAL_HOST)
        last = next((event for event in reversed(told) if event.reason in _DECISIONS), None)
        if last is not None and last.reason == "Undone":
            raise RefusedError(f"{last.message} since {rfc3339(last.at_s)}", hint=_LATE)

    async def undo_if_due(self, emit: Emit, stop: asyncio.Event) -> Outcome | None:
        """Take back what was not confirmed in time; None when there is nothing to."""
        pending = self.store.confirmation()
        if pending is None or not self.is_due(pending):
            return None
        return await self.undo(emit, stop)

    async def undo(self, emit: Emit, stop: asyncio.Event) -> Outcome:
        """Take the change back: everything as it was on record before it.

        What cannot be taken back yet stays pending and past its deadline, so that the next
        start tries again; it is among what remains. Raises MetaldError when nothing awaits
        confirmation.
        """
        pending = self.store.confirmation()
        if pending is None:
            raise MetaldError(_NOTHING, hint="see metald history")
        asked = asked_by(pending)
        way_back = way_back_of(pending, self.engine.survey.ledger())
        reason = f"run {pending.run} was not confirmed"
        self._decide_to_undo(pending, asked, way_back.fleet, reason)
        emit({"event": "resuming", "lines": [f"{reason}: it is undone"]})
        source = SourceInfo(f"undo of run {pending.run}", asked.source.commit)
        scope = Scope(by_hand=True, destroy=not len(way_back.fleet), unprotected=way_back.newcomers)
        outcome = await self.engine.apply(
            Request(way_back.fleet, source, scope, strict=False),
            on_progress=progress(emit),
            stop=stop,
        )
        return self._end_undo(pending, outcome, reason)

    def give_up(self) -> None:
        """Undo no further; what is not undone stays as it is. Raises MetaldError if not asked to.

        For an operator, when something is in the way of the undo for good.
        """
        pending = self.store.confirmation()
        if pending is None:
            raise MetaldError(_NOTHING, hint="see metald history")
        if not self.is_due(pending):
            raise RefusedError(
                "it is not being undone", hint="metald confirm keeps it, metald undo takes it back"
            )
        with self.store.grouped():
            self.store.end_confirmation()
            self._note(pending, "UndoGivenUp", "an operator gave the undo up", warning=True)

    def _decide_to_undo(
        self, pending: Confirmation, asked: Asked, instead: Fleet, reason: str
    ) -> None:
        """On record before the first step: cut off in the middle, it can only be undone."""
        now = self.now()
        rejection = rejection_of(asked, instead, at_s=now.wall_s, reason=reason)
        with self.store.grouped():
            self.store.reject(rejection)
            if not self.is_due(pending):
                self.store.move_deadline(Deadline.after(0.0, now))

    def _end_undo(self, pending: Confirmation, outcome: Outcome, reason: str) -> Outcome:
        left = still_changed(pending, outcome, self.engine.survey.ledger())
        if not left:
            with self.store.grouped():
                self.store.end_confirmation()
                self._note(
                    pending, "Undone", f"{reason}; everything is as it was before", warning=True
                )
            return outcome
        what = "; ".join(f"{address}: {why}" for address, why in left)
        self._note(pending, "UndoIncomplete", f"{reason}; undoing it goes on: {what}", warning=True)
        return replace(outcome, remaining=left)

    def _note(
        self, pending: Confirmation, reason: str, message: str, *, warning: bool = False
    ) -> None:
        """An event, unless it would say the same as the last one."""
        last = self.store.events(limit=1, resource=LOCAL_HOST)
        if last and (last[0].run, last[0].message) == (pending.run, message):
            return
        kind: EventKind = "Warning" if warning else "Normal"
        at_s = self.now().wall_s
        commit = asked_by(pending).source.commit
        event = Event(at_s, LOCAL_HOST, kind, reason, message, run=pending.run, commit=commit)
        self.store.add_events([event])
