"""Commit-confirmed: a change is undone, firewall and all, unless somebody confirms it in time.

The deadline stands in the state, so every later start sees it; a process of its own keeps the
time while nobody else does (``daemon.timekeeper``). Deletions wait for the confirmation:
until then what goes is stopped and cut off, and kept.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

from reconciler.daemon.replies import Emit, progress
from reconciler.errors import MetaldError, RefusedError
from reconciler.execution.confirming import (
    Asked,
    asked_by,
    before_of,
    pending_text,
    rejection_of,
)
from reconciler.execution.engine import Engine, Request
from reconciler.execution.outcome import Outcome
from reconciler.execution.state.records import Confirmation, Event
from reconciler.execution.state.store import Store
from reconciler.model.times import rfc3339
from reconciler.planning.planner import Scope
from reconciler.planning.render import SourceInfo

KeepTime = Callable[[float], None]


@dataclass(frozen=True, slots=True)
class Confirming:
    """Changes that await confirmation, of the lock holder. ``keep_time`` starts the timekeeper."""

    engine: Engine
    store: Store
    keep_time: KeepTime

    def refuse_while_pending(self) -> None:
        """Raises RefusedError while a change awaits confirmation: one at a time."""
        pending = self.store.confirmation()
        if pending is not None:
            raise RefusedError(
                f"the change of run {pending.run} awaits confirmation until "
                f"{rfc3339(pending.deadline_s)}",
                hint="metald confirm keeps it, metald undo takes it back now",
            )

    def prepare(self, asked: Asked, seconds: float) -> Callable[[int], None]:
        """Have the time kept, and give what records the deadline with the run."""
        before, request = pending_text(self.engine.survey.ledger(), asked)
        self.keep_time(seconds)

        def begin(run: int) -> None:
            deadline_s = time.time() + seconds
            self.store.await_confirmation(Confirmation(run, deadline_s, before, request))

        return begin

    async def confirm(self, emit: Emit) -> tuple[Outcome, SourceInfo]:
        """Keep the change; what it deletes is deleted now.

        Raises MetaldError when nothing awaits confirmation, RefusedError past the deadline.
        """
        pending = self.store.confirmation()
        if pending is None:
            raise MetaldError("nothing awaits confirmation", hint="see metald history")
        if time.time() >= pending.deadline_s:
            await self.undo(emit)
            raise RefusedError("the deadline has passed: the change was undone")
        asked = asked_by(pending)
        self.store.end_confirmation()
        self._note(pending, "Normal", "Confirmed", "the change was confirmed")
        request = Request(asked.fleet, asked.source, asked.scope)
        return await self.engine.apply(request, on_progress=progress(emit)), asked.source

    async def undo_if_due(self, emit: Emit) -> Outcome | None:
        """Take back what was not confirmed in time; None when there is nothing to."""
        pending = self.store.confirmation()
        if pending is None or time.time() < pending.deadline_s:
            return None
        return await self.undo(emit)

    async def undo(self, emit: Emit) -> Outcome:
        """Take the change back: everything as it was on record before it.

        What cannot be taken back yet stays pending and past its deadline, so that the next
        start tries again. Raises MetaldError when nothing awaits confirmation.
        """
        pending = self.store.confirmation()
        if pending is None:
            raise MetaldError("nothing awaits confirmation", hint="see metald history")
        asked = asked_by(pending)
        fleet = before_of(pending, self.engine.survey.ledger())
        reason = f"run {pending.run} was not confirmed"
        rejection = rejection_of(asked, fleet, at_s=time.time(), reason=reason)
        self.store.reject(rejection)
        source = SourceInfo(f"undo of run {pending.run}", asked.source.commit)
        request = Request(fleet, source, Scope(by_hand=True, destroy=not len(fleet)))
        emit({"event": "resuming", "lines": [f"{reason}: it is undone"]})
        outcome = await self.engine.apply(
            replace(request, strict=False), on_progress=progress(emit)
        )
        if outcome.is_complete:
            self.store.end_confirmation()
            self._note(pending, "Warning", "Undone", f"{reason}; everything is as it was before")
        else:
            self._note(pending, "Warning", "UndoIncomplete", f"{reason}; undoing it goes on")
        return outcome

    def _note(self, pending: Confirmation, kind: str, reason: str, message: str) -> None:
        event = Event(
            time.time(), "host/local", "Warning" if kind == "Warning" else "Normal", reason,
            message, run=pending.run, commit=asked_by(pending).source.commit,
        )  # fmt: skip
        self.store.add_events([event])
