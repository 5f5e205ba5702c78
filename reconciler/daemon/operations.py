"""Every changing command, as an operation the lock holder carries out.

The same code runs behind the control socket and in a one-shot command, so both behave alike.
An operation takes JSON arguments, reports progress as it goes and ends in a `Reply`.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from reconciler.daemon.cleaning import remove_run_folder, remove_state_folder
from reconciler.daemon.desired import load_strictly
from reconciler.daemon.wire import Reply
from reconciler.errors import EXIT_DONE, EXIT_PARTIAL, MetaldError, RefusedError
from reconciler.execution.engine import Engine, Request
from reconciler.execution.executor import StepProgress
from reconciler.execution.outcome import Outcome
from reconciler.execution.reports import apply_document
from reconciler.execution.state.store import Store
from reconciler.model.addresses import ResourceAddress, parse_address
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold, Managed
from reconciler.model.plan import Plan
from reconciler.paths import RunPaths, StatePaths
from reconciler.planning.holds import declared_digest
from reconciler.planning.planner import Scope
from reconciler.planning.render import SourceInfo, plan_document

Emit = Callable[[Mapping[str, Any]], object]
Arguments = Mapping[str, Any]


@dataclass(slots=True)
class Operations:
    """The operations of one lock holder; one at a time, in the order they came.

    ``watching``: the source a daemon keeps applied; None in a one-shot command.
    ``stop``: set to start no further steps.
    """

    engine: Engine
    store: Store
    state: StatePaths
    run: RunPaths
    watching: Path | None = None
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    def handlers(self) -> Mapping[str, Callable[[Arguments, Emit], Awaitable[Reply]]]:
        """By operation name, as served on the control socket."""
        return {
            "apply": self.apply,
            "destroy": self.destroy,
            "reboot": self.reboot,
            "unhold": self.unhold,
        }

    async def apply(self, arguments: Arguments, emit: Emit) -> Reply:
        """``path``, ``targets``, ``expectId``: make the specs at ``path`` so."""
        path = Path(arguments["path"])
        if self.watching is not None and path.resolve() != self.watching.resolve():
            raise RefusedError(
                f"the daemon keeps {self.watching} applied and would undo {path}",
                subject=str(path),
                hint="apply the daemon's own source, or stop the daemon first",
            )
        loaded, source = load_strictly(path)
        targets = _targets(arguments)
        scope = Scope(targets=targets, by_hand=True)
        request = Request(loaded.fleet, source, scope, explain=loaded.problem_of)
        async with self.turn:
            outcome = await self._carry_out(request, arguments, emit)
            if outcome.is_complete:
                self._by_hand(outcome.plan, targets)
            return _reply(outcome, source)

    async def destroy(self, arguments: Arguments, emit: Emit) -> Reply:
        """``targets``, ``purge``: remove what is managed; what a daemon still declares is held."""
        targets = _targets(arguments)
        if self.watching is not None and not targets:
            raise RefusedError(
                f"a daemon (process {os.getpid()}) keeps {self.watching} applied "
                "and would create everything again",
                hint="stop it first, or name resources with --target",
            )
        source = SourceInfo("destroy")
        request = Request(Fleet.of(()), source, Scope(targets=targets, destroy=True))
        async with self.turn:
            self._check_known(targets)
            before = self.store.ledger(time.time()).managed
            outcome = await self._carry_out(request, arguments, emit)
            if outcome.is_complete and targets:
                self._hold_destroyed(outcome.plan, before)
            reply = _reply(outcome, source)
        if outcome.is_complete and not targets:
            remove_run_folder(self.run)
            if arguments.get("purge"):
                self.store.purge()
                remove_state_folder(self.state)
        return reply

    async def reboot(self, arguments: Arguments, emit: Emit) -> Reply:
        """``address``: stop and start one VM."""
        address = _parse(arguments["address"])
        source = SourceInfo("reboot")
        async with self.turn:
            outcome = await self.engine.reboot(address, on_progress=_progress(emit), source=source)
            return _reply(outcome, source)

    async def unhold(self, arguments: Arguments, _: Emit) -> Reply:
        """``address``: let the loop have a held resource again."""
        address = _parse(arguments["address"])
        if not self.store.remove_hold(address):
            raise MetaldError("nothing holds it", subject=address, hint="see metald status")
        return Reply({"resource": address, "held": False})

    async def _carry_out(self, request: Request, arguments: Arguments, emit: Emit) -> Outcome:
        def show(plan: Plan) -> None:
            emit({"event": "plan", "plan": plan_document(plan, request.source)})

        return await self.engine.apply(
            request,
            on_progress=_progress(emit),
            expect_id=arguments.get("expectId") or "",
            stop=self.stop,
            on_plan=show,
        )

    def _check_known(self, targets: frozenset[ResourceAddress]) -> None:
        known = self.store.ledger(time.time()).managed
        for target in sorted(targets - known.keys()):
            raise MetaldError("nothing by that address is managed here", subject=target,
                              hint="see metald get vm")  # fmt: skip

    def _hold_destroyed(self, plan: Plan, before: Mapping[ResourceAddress, Managed]) -> None:
        """An imperative act outlasts the next pass: hold what the specs still declare."""
        owner = os.environ.get("SUDO_USER") or "root"
        for change in plan.changes:
            if change.action == "delete" and change.resource.startswith("vm/"):
                self.store.add_hold(
                    Hold(
                        change.resource,
                        owner,
                        "destroyed by hand; comes back when its spec changes or on metald apply",
                        time.time(),
                        declared_digest(before[change.resource].spec),
                    )
                )

    def _by_hand(self, plan: Plan, targets: frozenset[ResourceAddress]) -> None:
        for address in self.store.ledger(time.time()).holds:
            if (
                not targets
                or address in targets
                or any(change.resource == address for change in plan.changes)
            ):
                self.store.remove_hold(address)


def _reply(outcome: Outcome, source: SourceInfo) -> Reply:
    code = EXIT_DONE if outcome.is_complete else EXIT_PARTIAL
    return Reply(apply_document(outcome, source), code)


def _progress(emit: Emit) -> Callable[[StepProgress], None]:
    def tell(progress: StepProgress) -> None:
        emit(
            {
                "event": "step",
                "key": progress.step.key,
                "resource": progress.step.resource,
                "operation": type(progress.step.operation).__name__,
                "state": progress.state,
                "error": progress.error,
            }
        )

    return tell


def _targets(arguments: Arguments) -> frozenset[ResourceAddress]:
    return frozenset(_parse(text) for text in arguments.get("targets") or ())


def _parse(text: str) -> ResourceAddress:
    try:
        return parse_address(text)
    except ValueError as error:
        raise MetaldError(str(error), hint="like vm/acme/web-1") from error
