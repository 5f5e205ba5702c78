"""Observe → plan → apply → observe → verify → record: the loop body, run once.

The daemon calls it on every wake-up, the one-shot commands once. It decides nothing: what to
do comes from ``planning``; it makes the order of the laws hold (recorded before done,
verified before said).
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reconciler import collector
from reconciler.errors import Problem, RefusedError
from reconciler.execution.copies import Copies
from reconciler.execution.evidence import evidence_of
from reconciler.execution.executor import Executor, OnProgress
from reconciler.execution.observation import to_text
from reconciler.execution.operations import Context
from reconciler.execution.outcome import Outcome
from reconciler.execution.refusals import refuse, refuse_findings
from reconciler.execution.reports import outcome_events
from reconciler.execution.retrying import retries_after
from reconciler.execution.state.records import Outcome as Ended
from reconciler.execution.state.store import LedgerReader, Store
from reconciler.execution.world import World
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.kept import KeptRecord
from reconciler.model.ledger import Isolation, Ledger
from reconciler.model.observed import NetworkState, Observed
from reconciler.model.plan import Plan
from reconciler.planning.bounds.guards import MaxDestroy, objection
from reconciler.planning.comparison.isolation import plan_isolation
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.documents.undo import fleet_of, remember
from reconciler.planning.findings import Finding
from reconciler.planning.memo import Memo
from reconciler.planning.planner import EMPTY, WHOLE, Scope, plan, plan_reboot
from reconciler.planning.resolution.images import wanted_images
from reconciler.planning.resolution.resolve import resolve
from reconciler.planning.restoring import network_alone

# One more look is allowed for what settles by itself right after a start.
VERIFY_ATTEMPTS = 3
VERIFY_PAUSE_S = 0.3


def _unplaced(finding: Finding) -> Problem:
    field = ".".join(str(part) for part in finding.path)
    return Problem("-", 0, 0, finding.message, finding.resource, field, finding.hint)


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted: a fleet, the part of it this is about, and where it came from.

    ``strict``: a guard's refusal refuses the whole apply (a person's); otherwise only what it
    forbids is left alone (the daemon's). ``explain`` gives a finding its position in the
    source. ``limit``: how much may be destroyed unless the plan's id begins with ``agreed``.
    ``parallelism``: VM operations at a time, None for the engine's own.
    """

    fleet: Fleet
    source: SourceInfo
    scope: Scope = WHOLE
    strict: bool = True
    explain: Callable[[Finding], Problem] = _unplaced
    limit: MaxDestroy | None = None
    agreed: str = ""
    parallelism: int | None = None


def _inspect_nothing(_: Observed, __: Ledger) -> None:
    return


def _begin_nothing(_: int) -> None:
    return


@dataclass(frozen=True, slots=True)
class Terms:
    """What an apply is bound to. ``expect_id``: (the beginning of) the id of the plan that was
    agreed to. ``inspect`` raises when what is observed is not what was agreed on.
    ``on_begin`` is called with the run's number inside the transaction that records it.
    """

    expect_id: str = ""
    inspect: Callable[[Observed, Ledger], None] = _inspect_nothing
    on_begin: Callable[[int], None] = _begin_nothing


FREELY = Terms()
Planner = Callable[[Observed, Ledger], Plan]


@dataclass(frozen=True, slots=True)
class Survey:
    """Looks and decides, changes nothing: all that `plan` needs, beside any writer."""

    world: World
    reader: LedgerReader
    clock: Callable[[], float] = time.time

    async def plan(self, request: Request) -> Plan:
        """What an apply of ``request`` would do now.

        Raises SpecError when the fleet cannot be resolved on this host.
        """
        return decide(request, await self.observe(request), self.ledger())

    async def observe(self, request: Request) -> Observed:
        """One observation, with the boot files the fleet names."""
        return await self.world.observe(wanted_images(request.fleet))

    def ledger(self) -> Ledger:
        """The ledger as of now."""
        return self.reader.ledger(self.clock())


def decide(request: Request, observed: Observed, ledger: Ledger, memo: Memo | None = None) -> Plan:
    """The plan for one observation; the same with a memo, and sooner.

    What would destroy too much is refused (RefusedError) for a strict request, else made
    into a plan that deletes nothing.
    """
    with collector.paused():
        return _decide(request, observed, ledger, memo or Memo(keeps=False))


def _decide(request: Request, observed: Observed, ledger: Ledger, memo: Memo) -> Plan:
    if request.scope.destroy:
        return plan(EMPTY, observed, ledger, request.scope)
    network = observed.network
    lacking = network.lacking if isinstance(network, NetworkState) else {}
    resolution = resolve(request.fleet, ledger, observed.images, memo, lacking=lacking)
    refuse_findings(resolution, request.explain, strict=request.strict)
    made = plan(resolution, observed, ledger, request.scope, memo)
    # What waits for a confirmation is destroyed all the same in the end.
    whole = replace(request.scope, defer_deletes=False)
    finally_ = plan(resolution, observed, ledger, whole) if request.scope.defer_deletes else made
    reason = objection(finally_, len(ledger.managed), request.limit)
    if not reason or (request.agreed and made.id.startswith(request.agreed)):
        return made
    agree = f"look at the plan; to go past it: metald apply --plan-hash {made.id[:16]}"
    if request.strict:
        raise RefusedError(reason, hint=agree)
    scope = replace(request.scope, keep_gone=f"{reason} ({agree})")
    return plan(resolution, observed, ledger, scope, memo)


@dataclass(frozen=True, slots=True)
class _Call:
    """One call of the engine: what is wanted, on which terms, who hears of it, who stops it."""

    request: Request
    terms: Terms
    on_progress: OnProgress
    stop: asyncio.Event


class Engine:
    """One host's engine; the caller holds the writer lock."""

    def __init__(
        self,
        world: World,
        store: Store,
        *,
        parallelism: int = 4,
        clock: Callable[[], float] = time.time,
        jitter: Callable[[], float] = random.random,
        copies: Copies | None = None,
    ) -> None:
        self.world = world
        self.store = store
        self.survey = Survey(world, store, clock)
        self.parallelism = parallelism
        self.clock = clock
        self.jitter = jitter
        self._memo = Memo()
        self.copies = copies

    async def apply(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        terms: Terms = FREELY,
        stop: asyncio.Event | None = None,
        on_plan: Callable[[Plan], None] = lambda _: None,
    ) -> Outcome:
        """Make it so, then look again.

        RefusedError when another plan would be carried out now than ``terms`` name, or a
        guard forbids part of it. ``on_plan`` hears the plan before its first step.
        """

        def look_again(observed: Observed, ledger: Ledger) -> Plan:
            # What was agreed to has been decided on: looking again asks nobody. What the daemon
            # keeps by its guard is not among what is left to do.
            again = replace(request, limit=None) if request.strict else request
            return decide(again, observed, ledger, self._memo)

        observed = await self.survey.observe(request)
        ledger = self.survey.ledger()
        terms.inspect(observed, ledger)
        chosen = decide(request, observed, ledger, self._memo)
        refuse(chosen, terms.expect_id, strict=request.strict)
        on_plan(chosen)
        call = _Call(request, terms, on_progress, stop or asyncio.Event())
        return await self._carry_out(call, chosen, look_again, observed)

    async def refresh(self) -> Observed:
        """Look, and put on record what was seen, for `plan --offline`."""
        observed = await self.world.observe(())
        self.store.save_observation(to_text(observed), now_s=self.clock())
        return observed

    async def reboot(
        self, address: ResourceAddress, *, on_progress: OnProgress, source: SourceInfo
    ) -> Outcome:
        """Stop and start one VM as it was last applied."""
        observed = await self.world.observe(())
        chosen = plan_reboot(observed, self.survey.ledger(), address)
        refuse(chosen, "", strict=True)
        call = _Call(Request(Fleet.of(()), source), FREELY, on_progress, asyncio.Event())
        return await self._carry_out(call, chosen, None, observed)

    async def restore_network(self, *, on_progress: OnProgress) -> Outcome:
        """Bring back settings, rules and links of what is on record, and start nothing."""

        def part(observed: Observed, ledger: Ledger) -> Plan:
            return network_alone(decide(request, observed, ledger))

        ledger = self.survey.ledger()
        fleet = fleet_of(remember(ledger), ledger)
        request = Request(fleet, SourceInfo("record"), Scope(by_hand=True), strict=False)
        observed = await self.survey.observe(request)
        chosen = part(observed, ledger)
        if not (chosen.steps and ledger.managed):
            return Outcome(replace(chosen, steps=()), remaining=_blocked(chosen))
        call = _Call(request, FREELY, on_progress, asyncio.Event())
        outcome = await self._carry_out(call, chosen, None, observed)
        left = part(await self.survey.observe(request), self.survey.ledger())
        return replace(outcome, remaining=_remaining(left))

    async def isolate(
        self,
        address: ResourceAddress,
        entry: Isolation | None,
        *,
        on_progress: OnProgress,
        terms: Terms,
    ) -> Outcome:
        """Cut a VM off, or let it rejoin (``entry`` None), and see that it is so.

        Looks at nothing but the network, so that no guest and no hypervisor delays it; beside a
        plan that is carried out, too: it knows of all links that one may make.
        """
        observed = await self.world.observe_network()
        chosen = plan_isolation(observed.network, self.survey.ledger(), address, entry)
        source = SourceInfo("isolate" if entry else "unisolate")
        call = _Call(Request(Fleet.of(()), source), terms, on_progress, asyncio.Event())
        outcome = await self._carry_out(call, chosen, None, observed)
        observed = await self.world.observe_network()
        left = plan_isolation(observed.network, self.survey.ledger(), address, entry)
        return replace(outcome, remaining=_remaining(left))

    async def _carry_out(
        self, call: _Call, chosen: Plan, look_again: Planner | None, observed: Observed
    ) -> Outcome:
        if not (chosen.steps or chosen.registrations or chosen.releases):
            self._confirm(chosen, ())
            self._forget_retries(chosen)
            return Outcome(chosen, remaining=_remaining(chosen))
        if call.stop.is_set():
            return Outcome(chosen, interrupted=True)
        with self.store.grouped():
            run_id = self.store.begin_run(chosen, call.request.source, now_s=self.clock())
            call.terms.on_begin(run_id)
        await asyncio.to_thread(self._copy, chosen)
        executor = Executor(
            self._context(observed), run_id, call.on_progress,
            call.request.parallelism or self.parallelism, call.stop,
        )  # fmt: skip
        result = await executor.run(chosen.steps)
        interrupted = call.stop.is_set() and bool(result.skipped)
        if not (result.failed or result.skipped):
            self.store.release(chosen.releases, now_s=self.clock())
        outcome = Outcome(chosen, run_id, result, (), interrupted)
        if not interrupted and look_again is not None:
            outcome = replace(outcome, remaining=await self._verify(call, outcome, look_again))
        self._conclude(outcome, call.request)
        return outcome

    def _context(self, observed: Observed) -> Context:
        ledger = self.survey.ledger()
        network = observed.network
        sysctl = network.sysctl if isinstance(network, NetworkState) else _unseen
        generations = {entry.uid: entry.generation for entry in ledger.managed.values()}
        return Context(
            self.world, self.store, ledger, observed.boot_id, generations, sysctl, self.copies
        )

    def _copy(self, chosen: Plan) -> None:
        if self.copies is not None:
            self.copies.keep(KeptRecord(r.address, r.uid, r.spec) for r in chosen.registrations)

    async def _verify(
        self, call: _Call, outcome: Outcome, look_again: Planner
    ) -> tuple[tuple[ResourceAddress, str], ...]:
        """Observe again; what a new plan would still do, with its reasons."""
        for attempt in range(VERIFY_ATTEMPTS):
            if attempt:
                await asyncio.sleep(VERIFY_PAUSE_S)
            observed = await self.survey.observe(call.request)
            left = look_again(observed, self.survey.ledger())
            remaining = _remaining(left)
            if not remaining:
                break
        self._confirm(left, tuple(address for address, _ in remaining))
        undone = {*outcome.result.failed, *outcome.result.skipped}
        done = [step for step in outcome.plan.steps if step.key not in undone]
        with self.store.grouped():
            self.store.steps_verified(outcome.run_id, evidence_of(done, observed))
            self.store.save_observation(to_text(observed), now_s=self.clock())
        return remaining

    def _confirm(self, seen: Plan, except_for: Sequence[ResourceAddress]) -> None:
        """Every resource the last plan left alone has its current generation in the world."""
        pending = {change.resource for change in seen.changes} | set(except_for)
        pending |= {address for address, _ in (*seen.blocked, *seen.refused)}
        ledger = self.survey.ledger()
        confirmed = {
            address: entry.generation
            for address, entry in ledger.managed.items()
            if entry.generation != entry.observed_generation and address not in pending
        }
        if confirmed:
            self.store.set_observed_generation(confirmed)

    def _forget_retries(self, seen: Plan) -> None:
        """What recovered by itself has nothing to be tried again."""
        left = {change.resource for change in seen.changes}
        left |= {recovery.resource for recovery in seen.recoveries}
        left |= {retry.resource for retry in seen.waiting}
        settled = self.survey.ledger().retries.keys() - left
        if settled:
            self.store.record_retries((), sorted(settled))

    def _conclude(self, outcome: Outcome, request: Request) -> None:
        detail = "; ".join(f"{address}: {why}" for address, why in outcome.remaining[:20])
        events = outcome_events(outcome, request.source.commit, self.clock())
        ended: Ended = "partial"
        if outcome.is_complete or outcome.interrupted:
            ended = "interrupted" if outcome.interrupted else "done"
        ledger = self.survey.ledger()
        if self.copies is not None:
            self.copies.keep_host(ledger)
        failed = retries_after(outcome, ledger, self.jitter)
        settled = ledger.retries.keys() - {entry.resource for entry in failed}
        settled -= {entry.resource for entry in outcome.plan.waiting}
        with self.store.grouped():
            self.store.add_events(events)
            self.store.finish_run(outcome.run_id, ended, detail)
            if failed or settled:
                self.store.record_retries(failed, sorted(settled))


def _remaining(left: Plan) -> tuple[tuple[ResourceAddress, str], ...]:
    waiting = {entry.resource: f"tried again later: {entry.error}" for entry in left.waiting}
    rows = [(c.resource, waiting.get(c.resource, c.reason)) for c in left.changes]
    rows += [
        (recovery.resource, recovery.reason)
        for recovery in left.recoveries
        if recovery.verdict == "start"
    ]
    return (*rows, *_blocked(left))


def _blocked(left: Plan) -> tuple[tuple[ResourceAddress, str], ...]:
    return tuple((address, f"unknown: {reason}") for address, reason in left.blocked)


def _unseen(_: str) -> None:
    """Of a network that could not be seen nothing is known."""
