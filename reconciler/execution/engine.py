"""Observe → plan → apply → observe → verify → record: the loop body, run once.

The daemon calls it on every wake-up, the one-shot commands once. It decides nothing: what to
do comes from ``planning``; it makes the order of the laws hold (recorded before done,
verified before said).
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from reconciler.errors import Problem, RefusedError, SpecError
from reconciler.execution.executor import Executor, OnProgress
from reconciler.execution.operations import Context
from reconciler.execution.outcome import Outcome
from reconciler.execution.reports import outcome_events
from reconciler.execution.state.records import Outcome as Ended
from reconciler.execution.state.store import LedgerReader, Store
from reconciler.execution.world import World
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Ledger
from reconciler.model.observed import NetworkState, Observed
from reconciler.model.plan import Plan
from reconciler.planning.findings import Finding
from reconciler.planning.images import wanted_images
from reconciler.planning.planner import EMPTY, WHOLE, Scope, plan, plan_reboot
from reconciler.planning.render import SourceInfo
from reconciler.planning.resolve import Resolution, resolve

# One more look is allowed for what settles by itself right after a start.
VERIFY_ATTEMPTS = 3
VERIFY_PAUSE_S = 0.3


def _unplaced(finding: Finding) -> Problem:
    field = ".".join(str(part) for part in finding.path)
    return Problem("-", 0, 0, finding.message, finding.resource, field, finding.hint)


def _unguarded(_: Plan, __: int) -> str:
    return ""


@dataclass(frozen=True, slots=True)
class Request:
    """What is wanted: a fleet, the part of it this is about, and where it came from.

    ``strict``: a guard's refusal refuses the whole apply (a person's); otherwise only the
    resources it names are left alone (the daemon's). ``explain`` gives a finding its position
    in the source. ``guard`` may forbid a plan's deletions: it gets the plan and the number of
    managed resources, and gives the reason, empty when all is well.
    """

    fleet: Fleet
    source: SourceInfo
    scope: Scope = WHOLE
    strict: bool = True
    explain: Callable[[Finding], Problem] = _unplaced
    guard: Callable[[Plan, int], str] = _unguarded


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
        return self.decide(request, await self.observe(request), self.ledger())

    async def observe(self, request: Request) -> Observed:
        """One observation, with the boot files the fleet names."""
        return await self.world.observe(wanted_images(request.fleet))

    def ledger(self) -> Ledger:
        """The ledger as of now."""
        return self.reader.ledger(self.clock())

    def decide(self, request: Request, observed: Observed, ledger: Ledger) -> Plan:
        """The plan for one observation; with a guard's objection, one that deletes nothing."""
        if request.scope.destroy:
            return plan(EMPTY, observed, ledger, request.scope)
        resolution = resolve(request.fleet, ledger, observed.images)
        _refuse_findings(request, resolution)
        made = plan(resolution, observed, ledger, request.scope)
        reason = request.guard(made, len(ledger.managed))
        if not reason:
            return made
        return plan(resolution, observed, ledger, replace(request.scope, keep_gone=reason))


class Engine:
    """One host's engine; the caller holds the writer lock."""

    def __init__(
        self,
        world: World,
        store: Store,
        *,
        parallelism: int = 4,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.world = world
        self.store = store
        self.survey = Survey(world, store, clock)
        self.parallelism = parallelism
        self.clock = clock

    async def apply(
        self,
        request: Request,
        *,
        on_progress: OnProgress,
        expect_id: str = "",
        stop: asyncio.Event | None = None,
        on_plan: Callable[[Plan], None] = lambda _: None,
    ) -> Outcome:
        """Make it so, then look again.

        ``expect_id``: id of the plan somebody agreed to; RefusedError when another would be
        carried out now. RefusedError also when a guard forbids part of the plan. ``on_plan``
        hears the plan before its first step.
        """

        def decide(observed: Observed, ledger: Ledger) -> Plan:
            return self.survey.decide(request, observed, ledger)

        observed = await self.survey.observe(request)
        chosen = decide(observed, self.survey.ledger())
        _refuse(chosen, expect_id, strict=request.strict)
        on_plan(chosen)
        return await self._carry_out(request, chosen, decide, (on_progress, stop, observed))

    async def reboot(
        self, address: ResourceAddress, *, on_progress: OnProgress, source: SourceInfo
    ) -> Outcome:
        """Stop and start one VM as it was last applied."""
        observed = await self.world.observe(())
        chosen = plan_reboot(observed, self.survey.ledger(), address)
        _refuse(chosen, "", strict=True)
        request = Request(Fleet.of(()), source)
        return await self._carry_out(request, chosen, None, (on_progress, None, observed))

    async def _carry_out(
        self,
        request: Request,
        chosen: Plan,
        decide: Planner | None,
        how: tuple[OnProgress, asyncio.Event | None, Observed],
    ) -> Outcome:
        if not (chosen.steps or chosen.registrations or chosen.releases):
            self._confirm(chosen, ())
            return Outcome(chosen, remaining=_blocked(chosen))
        on_progress, stop, observed = how
        run_id = self.store.begin_run(chosen, request.source, now_s=self.clock())
        executor = Executor(
            self._context(observed), run_id, on_progress, self.parallelism, stop or asyncio.Event()
        )
        result = await executor.run(chosen.steps)
        interrupted = executor.stop.is_set() and bool(result.skipped)
        if not (result.failed or result.skipped):
            self.store.release(chosen.releases, now_s=self.clock())
        remaining = () if interrupted else await self._verify(request, decide)
        outcome = Outcome(chosen, run_id, result, remaining, interrupted)
        self._conclude(outcome, request)
        return outcome

    def _context(self, observed: Observed) -> Context:
        ledger = self.survey.ledger()
        network = observed.network
        sysctls = network.sysctls if isinstance(network, NetworkState) else {}
        generations = {entry.uid: entry.generation for entry in ledger.managed.values()}
        return Context(self.world, self.store, ledger, observed.boot_id, generations, sysctls)

    async def _verify(
        self, request: Request, decide: Planner | None
    ) -> tuple[tuple[ResourceAddress, str], ...]:
        """Observe again; what a new plan would still do, with its reasons."""
        if decide is None:
            return ()
        for attempt in range(VERIFY_ATTEMPTS):
            if attempt:
                await asyncio.sleep(VERIFY_PAUSE_S)
            observed = await self.survey.observe(request)
            left = decide(observed, self.survey.ledger())
            remaining = _remaining(left)
            if not remaining:
                self._confirm(left, ())
                return ()
        self._confirm(left, tuple(address for address, _ in remaining))
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

    def _conclude(self, outcome: Outcome, request: Request) -> None:
        detail = "; ".join(f"{address}: {why}" for address, why in outcome.remaining[:20])
        events = outcome_events(outcome, request.source.commit, self.clock())
        ended: Ended = "partial"
        if outcome.is_complete or outcome.interrupted:
            ended = "interrupted" if outcome.interrupted else "done"
        with self.store.grouped():
            self.store.add_events(events)
            self.store.finish_run(outcome.run_id, ended, detail)


def _refuse_findings(request: Request, resolution: Resolution) -> None:
    if resolution.findings:
        raise SpecError(tuple(request.explain(entry) for entry in resolution.findings))


def _refuse(chosen: Plan, expect_id: str, *, strict: bool) -> None:
    if expect_id and chosen.id != expect_id:
        raise RefusedError(
            f"the plan is stale: {expect_id[:12]} was agreed to, now it would be {chosen.id[:12]}",
            hint="look at the new plan, then apply again",
        )
    if chosen.refused and strict:
        address, reason = chosen.refused[0]
        more = f" (and {len(chosen.refused) - 1} more)" if len(chosen.refused) > 1 else ""
        raise RefusedError(f"{reason}{more}", subject=address, hint="set protect: false first")


def _remaining(left: Plan) -> tuple[tuple[ResourceAddress, str], ...]:
    rows = [(change.resource, change.reason) for change in left.changes]
    rows += [
        (recovery.resource, recovery.reason)
        for recovery in left.recoveries
        if recovery.verdict == "start"
    ]
    return (*rows, *_blocked(left))


def _blocked(left: Plan) -> tuple[tuple[ResourceAddress, str], ...]:
    return tuple((address, f"unknown: {reason}") for address, reason in left.blocked)
