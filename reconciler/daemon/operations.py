"""Every changing command, as an operation the lock holder carries out.

The same code runs behind the control socket and in a one-shot command, so both behave alike.
An operation takes JSON arguments, reports progress as it goes and ends in a `Reply`.
"""

from __future__ import annotations

import asyncio
import functools
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from reconciler.daemon import adopting
from reconciler.daemon.cleaning import remove_run_folder, remove_state_folder
from reconciler.daemon.confirming import Confirming
from reconciler.daemon.desired import Location, Source
from reconciler.daemon.lasting import Lasting, check_known
from reconciler.daemon.replies import (
    Arguments,
    Emit,
    address,
    addresses,
    limit,
    plan_hash,
    progress,
    refuse_unknown,
    reply,
)
from reconciler.daemon.stopping import Stopping
from reconciler.daemon.wire import Reply
from reconciler.errors import EXIT_DONE, EXIT_FAILED, MetaldError, RefusedError
from reconciler.execution.confirming import Asked, rejection_of
from reconciler.execution.engine import Engine, Request, Terms
from reconciler.execution.host import host_addresses, probe
from reconciler.execution.observation import recorded
from reconciler.execution.outcome import Outcome
from reconciler.execution.state.records import Event, EventKind
from reconciler.execution.state.store import Store
from reconciler.execution.verification import Wanted, verify
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold, Ledger, Managed
from reconciler.model.observed import Observed
from reconciler.model.plan import Plan
from reconciler.paths import RunPaths, StatePaths
from reconciler.planning.bounds.holds import declared_digest
from reconciler.planning.documents.planfile import PlanFile, refuse_moved, what_moved
from reconciler.planning.documents.render import SourceInfo, plan_document
from reconciler.planning.planner import LOCAL_HOST, Scope

REFRESH_FORMAT = "metald.refresh/v1"


@dataclass(slots=True)
class Operations:
    """The operations of one lock holder; one at a time, in the order they came.

    ``watching``: the source a daemon keeps applied; None in a one-shot command.
    ``interrupted``: what a killed writer left undone, told to whoever applies next.
    ``stop``: of the operation whose turn it is; set to start no further steps. ``commit``: what
    the daemon keeps applied now.
    """

    engine: Engine
    store: Store
    state: StatePaths
    run: RunPaths
    confirming: Confirming
    watching: Location | None = None
    interrupted: Sequence[str] = ()
    stopping: Stopping = field(default_factory=Stopping)
    stop: asyncio.Event = field(default_factory=asyncio.Event)
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    wake: Callable[[], None] = lambda: None
    commit: str = ""

    def handlers(self) -> Mapping[str, Callable[[Arguments, Emit], Awaitable[Reply]]]:
        """By operation name, as served on the control socket."""
        lasting = Lasting(self.engine, self.store, self._note, self._undo_if_due, self._wake_loop)
        handlers: dict[str, Callable[[Arguments, Emit], Awaitable[Reply]]] = {
            "apply": self.apply,
            "rollback": self.rollback,
            "destroy": self.destroy,
            "reboot": self.reboot,
            "restoreNetwork": self.restore_network,
            "adopt": self.adopt,
            "confirm": self.confirm,
            "undo": self.undo,
            "refresh": self.refresh,
            "verify": self.verify,
            "hold": lasting.hold,
            "unhold": lasting.unhold,
            "unisolate": lasting.unisolate,
        }
        served = {name: self._in_turn(handler) for name, handler in handlers.items()}
        # To cut a VM off waits for nobody: beside a pass that may take minutes.
        return {**served, "stop": self.stop_one, "isolate": lasting.isolate}

    def _in_turn(
        self, handler: Callable[[Arguments, Emit], Awaitable[Reply]]
    ) -> Callable[[Arguments, Emit], Awaitable[Reply]]:
        """One at a time; what was not confirmed in time is undone before anything else.

        Not before what decides about it itself, nor before the network of a boot: to undo may start
        VMs, for which it is too early.
        """
        undoes_nothing = {self.undo, self.confirm, self.restore_network}

        async def run(arguments: Arguments, emit: Emit) -> Reply:
            with self.stopping.listening(str(arguments.get("ticket") or "")) as stop:
                async with self.turn:
                    self.stop = stop
                    if self.interrupted:
                        emit({"event": "resuming", "lines": list(self.interrupted)})
                        self.interrupted = ()
                    if handler not in undoes_nothing:
                        await self._undo_if_due(emit)
                    try:
                        return await handler(arguments, emit)
                    finally:
                        self.wake()

        return run

    async def _undo_if_due(self, emit: Emit) -> None:
        """What is in the way of it does not stop what may be its cure; it is told, and recorded."""
        try:
            await self.confirming.undo_if_due(emit, self.stop)
        except MetaldError as error:
            emit({"event": "resuming", "lines": [f"it cannot be undone yet: {error}"]})

    def _wake_loop(self) -> None:
        self.wake()  # whichever it is by then: the loop comes later

    async def stop_one(self, arguments: Arguments, _: Emit) -> Reply:
        """``ticket``: that operation finishes what it began, and starts nothing more."""
        return Reply({"stopped": self.stopping.ask_one(str(arguments.get("ticket") or ""))})

    async def apply(self, arguments: Arguments, emit: Emit) -> Reply:
        """A location (`Location.of`) with ``targets``, ``exclude``, ``expectId``, ``planHash``,
        ``maxDestroy``, ``confirmSeconds`` and ``planFile``: make the specs there so.
        """
        location = self._watched(Location.of(arguments))
        self.confirming.refuse_while_pending()
        loaded, source = await asyncio.to_thread(Source(location, self.state.sources).load)
        seconds = arguments.get("confirmSeconds")
        scope = Scope(
            targets=addresses(arguments, "targets"),
            exclude=addresses(arguments, "exclude"),
            by_hand=True,
            defer_deletes=bool(seconds),
        )
        request = Request(
            loaded.fleet, source, scope, explain=loaded.problem_of,
            limit=limit(arguments), agreed=plan_hash(arguments),
            parallelism=arguments.get("parallelism"),
        )  # fmt: skip
        refuse_unknown(scope, loaded.fleet, self.store.ledger(time.time()))
        terms = self._terms(arguments, request)
        try:
            outcome = await self._carry_out(request, terms, emit)
        finally:
            self.confirming.begin_waiting()
        if outcome.is_complete:
            self._lift_destroyed(outcome.plan, scope.targets)
            self.store.forget_rejection(source.path)
        return reply(outcome, source)

    async def rollback(self, arguments: Arguments, emit: Emit) -> Reply:
        """A location and ``commit``: apply an earlier commit, and keep it until a newer comes."""
        location = self._watched(Location.of(arguments))
        self.confirming.refuse_while_pending()
        cache = self.state.sources
        now = Source(location, cache)
        if not now.is_git:
            raise MetaldError("this is no git repository: there is no commit to go back to",
                              subject=location.place)  # fmt: skip
        loaded, source = await asyncio.to_thread(
            Source(location.at(arguments["commit"]), cache).load
        )
        head_tree = await asyncio.to_thread(now.tree)
        # Read as the daemon reads it, else its next look would be at another fleet.
        good = self.store.good_documents(now.location.name)
        head = await asyncio.to_thread(now.load_with_fallback, head_tree, good)
        scope = Scope(by_hand=True)
        request = Request(
            loaded.fleet, source, scope, explain=loaded.problem_of,
            limit=limit(arguments), agreed=plan_hash(arguments),
        )  # fmt: skip
        asked = Asked(head.fleet, head_tree.info, scope)
        reason = f"rolled back to {source.commit[:12]}"
        rejection = rejection_of(asked, loaded.fleet, at_s=time.time(), reason=reason)
        terms = Terms(_expected(arguments), on_begin=lambda _: self.store.reject(rejection))
        outcome = await self._carry_out(request, terms, emit)
        if not outcome.run_id:
            self.store.reject(rejection)  # all is so already, and is to stay so
        return reply(outcome, source)

    async def destroy(self, arguments: Arguments, emit: Emit) -> Reply:
        """``targets``, ``purge``: remove what is managed; what a daemon still declares is held."""
        targets = addresses(arguments, "targets")
        if self.watching is not None and not targets:
            raise RefusedError(
                f"a daemon (process {os.getpid()}) keeps {self.watching.name} applied "
                "and would create everything again",
                hint="stop it first, or name resources with --target",
            )
        self.confirming.refuse_while_pending()
        source = SourceInfo("destroy")
        exclude = addresses(arguments, "exclude")
        request = Request(
            Fleet.of(()), source, Scope(targets=targets, exclude=exclude, destroy=True)
        )
        check_known(self.store, targets | exclude)
        before = self.store.ledger(time.time()).managed
        outcome = await self._carry_out(request, Terms(_expected(arguments)), emit)
        if outcome.is_complete and targets:
            self._hold_destroyed(outcome.plan, before)
        elif outcome.is_complete and not exclude:
            remove_run_folder(self.run)
            if arguments.get("purge"):
                self.store.purge()
                remove_state_folder(self.state)
        return reply(outcome, source)

    async def reboot(self, arguments: Arguments, emit: Emit) -> Reply:
        """``address``: stop and start one VM."""
        source = SourceInfo("reboot")
        outcome = await self.engine.reboot(
            address(arguments["address"]), on_progress=progress(emit), source=source
        )
        return reply(outcome, source)

    async def restore_network(self, _: Arguments, emit: Emit) -> Reply:
        """Bring back the network of what is on record; no VM is started."""
        outcome = await self.engine.restore_network(on_progress=progress(emit))
        return reply(outcome, SourceInfo("record"))

    async def adopt(self, arguments: Arguments, _: Emit) -> Reply:
        """``out``, ``only``, ``expectId``: put on record what runs here and is not."""
        if self.watching is not None:
            raise adopting.watched(self.watching.name)
        self.confirming.refuse_while_pending()
        return await adopting.carry_out(self.engine, arguments)

    async def confirm(self, _: Arguments, emit: Emit) -> Reply:
        """Keep the change that awaits confirmation."""
        return reply(*await self.confirming.confirm(emit, self.stop))

    async def undo(self, arguments: Arguments, emit: Emit) -> Reply:
        """Take back the change that awaits confirmation, now, or ``ifDue`` when its time is up;
        ``giveUp``: leave what cannot be taken back.
        """
        source = SourceInfo("undo")
        if arguments.get("giveUp"):
            self.confirming.give_up()
            return reply(NOTHING_DONE, source)
        if arguments.get("ifDue"):
            outcome = await self.confirming.undo_if_due(emit, self.stop)
            return reply(outcome or NOTHING_DONE, source)
        return reply(await self.confirming.undo(emit, self.stop), source)

    async def refresh(self, _: Arguments, __: Emit) -> Reply:
        """Look, record what is seen, and tell what differs from the last recorded look."""
        ledger = self.store.ledger(time.time())
        before = recorded(self.store)[0] if self.store.last_observation() else None
        now = await self.engine.refresh()
        moved = what_moved((before, ledger), (now, ledger)) if before else ()
        return Reply({"format": REFRESH_FORMAT, "first": before is None, "moved": list(moved)})

    async def verify(self, arguments: Arguments, _: Emit) -> Reply:
        """``from``, ``to``, ``limit``, ``seed``: hold what the kernel does against the record."""
        wanted = Wanted(
            arguments.get("from"), arguments.get("to"), arguments["limit"], arguments.get("seed")
        )
        send = functools.partial(probe, stopping=self.stop.is_set)
        document = await verify(self.engine.survey, send, host_addresses(), wanted)
        summary = document["summary"]
        agreed, disagreed = summary["agrees"], summary["disagrees"]
        sent = f"{summary['packets']} packets were sent as if from VMs"
        told = f"{agreed} pairs of networks are as on record, {disagreed} are not; {sent}"
        # That nothing could be tried proves nothing: not what whoever asks may take as well.
        proven = agreed and not disagreed
        self._note(LOCAL_HOST, "Verified", told, kind="Normal" if proven else "Warning")
        return Reply(document, EXIT_DONE if proven else EXIT_FAILED)

    def _note(
        self, subject: ResourceAddress, reason: str, message: str, *, kind: EventKind = "Normal"
    ) -> None:
        event = Event(time.time(), subject, kind, reason, message, commit=self.commit)
        self.store.add_events([event])

    def _watched(self, location: Location) -> Location:
        """The location to apply; under a daemon only its own, as it was started with."""
        if self.watching is None:
            return location
        named = Location(location.place, location.ref or self.watching.ref)
        if named.name != self.watching.name:
            raise RefusedError(
                f"the daemon keeps {self.watching.name} applied and would undo {location.name}",
                subject=location.name,
                hint="apply the daemon's own source, or stop the daemon first",
            )
        return self.watching

    def _terms(self, arguments: Arguments, request: Request) -> Terms:
        saved = arguments.get("planFile")
        seconds = arguments.get("confirmSeconds")
        begins: list[Callable[[int], None]] = []

        def inspect(observed: Observed, ledger: Ledger) -> None:
            if saved:
                file = PlanFile(saved["token"], arguments, {}, saved["specs"], saved["observed"])
                refuse_moved(file, request.source.commit, (request.fleet, observed, ledger))

        if saved:
            self._refuse_used(saved["token"])
            begins.append(lambda run: self.store.use_plan_file(saved["token"], run))
        if seconds:
            asked = Asked(request.fleet, request.source, request.scope)
            begins.append(self.confirming.prepare(asked, seconds))

        def begin(run: int) -> None:
            for entry in begins:
                entry(run)

        return Terms(_expected(arguments), inspect, begin)

    def _refuse_used(self, token: str) -> None:
        run = self.store.plan_file_run(token)
        if run is not None:
            raise RefusedError(f"this plan was carried out already, by run {run}",
                               hint="make a new plan")  # fmt: skip

    async def _carry_out(self, request: Request, terms: Terms, emit: Emit) -> Outcome:
        def show(plan: Plan) -> None:
            emit({"event": "plan", "plan": plan_document(plan, request.source)})

        return await self.engine.apply(
            request, on_progress=progress(emit), terms=terms, stop=self.stop, on_plan=show
        )

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

    def _lift_destroyed(self, plan: Plan, targets: frozenset[ResourceAddress]) -> None:
        """What was destroyed by hand is back by hand; a `metald hold` stays."""
        for held, hold in self.store.ledger(time.time()).holds.items():
            changed = any(change.resource == held for change in plan.changes)
            if hold.spec_hash and (not targets or held in targets or changed):
                self.store.remove_hold(held)


def _expected(arguments: Arguments) -> str:
    """The plan that was agreed to, by a look, a saved plan or a hash; they must agree."""
    looked, given = str(arguments.get("expectId") or ""), plan_hash(arguments)
    if looked and not looked.startswith(given):
        raise RefusedError(
            f"the plan is stale: {given} was agreed to, now it would be {looked[:16]}",
            hint="look at the new plan, then apply again",
        )
    return looked or given


NOTHING_DONE = Outcome(Plan("", (), (), (), (), (), (), 0))
