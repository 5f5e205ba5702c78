"""An operator's acts that outlast a pass: holds and isolations. Operations of the lock holder."""

from __future__ import annotations

import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any

from reconciler.daemon.replies import Arguments, Emit, address, progress
from reconciler.daemon.wire import Reply
from reconciler.errors import EXIT_DONE, EXIT_PARTIAL, MetaldError
from reconciler.execution.engine import Engine, Terms
from reconciler.execution.outcome import Outcome
from reconciler.execution.state.store import Store
from reconciler.model.addresses import EVERYTHING, ResourceAddress
from reconciler.model.ledger import Hold, Isolation
from reconciler.model.times import rfc3339

HOLD_FORMAT = "metald.hold/v1"
ISOLATION_FORMAT = "metald.isolation/v1"


def check_known(store: Store, targets: Iterable[ResourceAddress]) -> None:
    """Raises MetaldError for the first address that is not managed here."""
    known = store.ledger(time.time()).managed
    for target in sorted(set(targets) - known.keys()):
        raise MetaldError("nothing by that address is managed here", subject=target,
                          hint="see metald get vm")  # fmt: skip


@dataclass(frozen=True, slots=True)
class Lasting:
    """Each act is on record, with whose it is, why and until when. ``undo_if_due``: a change that
    a hold kept from being undone; ``wake``: the loop, where there is one.
    """

    engine: Engine
    store: Store
    note: Callable[[ResourceAddress, str, str], None]
    undo_if_due: Callable[[Emit], Awaitable[None]]
    wake: Callable[[], None]

    async def hold(self, arguments: Arguments, _: Emit) -> Reply:
        """``address`` (none: everything), ``owner``, ``reason``, ``seconds``: leave it alone."""
        subject = _held_subject(arguments)
        now_s = time.time()
        seconds = arguments.get("seconds")
        until_s = now_s + seconds if seconds else None
        if subject != EVERYTHING:
            check_known(self.store, {subject})
        owner, reason = arguments["owner"], arguments["reason"]
        with self.store.grouped():
            self.store.add_hold(Hold(subject, owner, reason, now_s, "", until_s))
            self.note(subject, "Held", f"{owner}: {reason}")
        return Reply({"format": HOLD_FORMAT, "resource": subject, "held": True})

    async def unhold(self, arguments: Arguments, emit: Emit) -> Reply:
        """``address`` (none: everything): let the loop have it again."""
        subject = _held_subject(arguments)
        if not self.store.remove_hold(subject):
            raise MetaldError("nothing holds it", subject=subject, hint="see metald status")
        self.note(subject, "Unheld", "the hold was lifted")
        await self.undo_if_due(emit)
        return Reply({"format": HOLD_FORMAT, "resource": subject, "held": False})

    async def isolate(self, arguments: Arguments, emit: Emit) -> Reply:
        """``address``, ``owner``, ``reason``, ``until`` (Unix epoch) or ``seconds``: cut a VM off
        from everything but its console, now.
        """
        subject, now_s = address(arguments["address"]), time.time()
        until_s = arguments.get("until")
        if seconds := arguments.get("seconds"):
            until_s = now_s + seconds
        if until_s is not None and until_s <= now_s:
            raise MetaldError(f"{rfc3339(until_s)} is over", subject="--until",
                              hint="name a time that is to come")  # fmt: skip
        entry = Isolation(subject, arguments["owner"], arguments["reason"], now_s, until_s)

        def record(_: int) -> None:
            self.store.add_isolation(entry)
            until = f" until {rfc3339(until_s)}" if until_s else ""
            self.note(subject, "Isolated", f"{entry.owner}: {entry.reason}{until}")

        return await self._change(subject, entry, record, emit)

    async def unisolate(self, arguments: Arguments, emit: Emit) -> Reply:
        """``address``: let a VM that is cut off have its networks again."""
        subject = address(arguments["address"])
        if subject not in self.store.ledger(time.time()).isolations:
            raise MetaldError("it is not isolated", subject=subject, hint="see metald status")

        def record(_: int) -> None:
            self.store.remove_isolation(subject)
            self.note(subject, "Unisolated", "the isolation was lifted")

        if subject not in self.store.ledger(time.time()).managed:
            with self.store.grouped():
                record(0)
            return _isolation_reply(subject, isolated=False, outcome=None)
        return await self._change(subject, None, record, emit)

    async def _change(
        self,
        subject: ResourceAddress,
        entry: Isolation | None,
        record: Callable[[int], None],
        emit: Emit,
    ) -> Reply:
        terms = Terms(on_begin=record)
        outcome = await self.engine.isolate(subject, entry, on_progress=progress(emit), terms=terms)
        if not outcome.run_id:  # it is so already, or cannot be seen: the next pass sees to it
            with self.store.grouped():
                record(0)
        self.wake()
        return _isolation_reply(subject, isolated=entry is not None, outcome=outcome)


def _isolation_reply(subject: ResourceAddress, *, isolated: bool, outcome: Outcome | None) -> Reply:
    """Format ``metald.isolation/v1``. ``inForce``: the kernel was seen to do so."""
    problems: list[dict[str, Any]] = []
    if outcome is not None:
        failed = outcome.result.failed.values()
        problems = [{"resource": subject, "reason": str(error)} for error in failed]
        problems += [{"resource": where, "reason": why} for where, why in outcome.remaining]
    document = {
        "format": ISOLATION_FORMAT,
        "resource": subject,
        "isolated": isolated,
        "inForce": not problems,
        "run": (outcome.run_id or None) if outcome else None,
        "problems": problems,
    }
    return Reply(document, EXIT_PARTIAL if problems else EXIT_DONE)


def _held_subject(arguments: Arguments) -> ResourceAddress:
    text = arguments.get("address")
    return address(text) if text else EVERYTHING
