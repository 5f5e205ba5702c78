"""The ways in which operators and the daemon set metald to work, drawn from the seed.

Called by ``simulation`` once a step; keeps what a change that awaits confirmation needs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from reconciler.execution.engine import Request, Terms
from reconciler.execution.outcome import Outcome
from reconciler.model.fleet import Fleet
from reconciler.planning.bounds.guards import UNATTENDED, MaxDestroy, objection
from reconciler.planning.documents.undo import Remembered, remember
from reconciler.planning.documents.undo import fleet_of as undo_of
from reconciler.planning.planner import Scope
from reconciler.planning.resolution.renames import all_documents
from tests.simulation.host import require

if TYPE_CHECKING:
    from tests.simulation.simulation import Simulation

BY_HAND = Scope(by_hand=True)


@dataclass
class Pending:
    """A change that awaits confirmation: what it asked for, and what was on record before."""

    fleet: Fleet
    before: tuple[Remembered, ...]
    undoing: bool = False


class Acting:
    """Acts of one simulation."""

    def __init__(self, simulation: Simulation) -> None:
        self.simulation = simulation
        self.rng = simulation.rng
        self.pending: Pending | None = None

    def act(self, request: Request) -> None:
        """``request``: the specs as they are, applied by hand."""
        drawn = self.rng.random()
        if self.pending is not None:
            self._go_on(self.pending, drawn)
        elif drawn < 0.35:
            self.simulation.apply_and_look(request)
        elif drawn < 0.65:
            self._pass(replace(request, scope=Scope()))
        elif drawn < 0.73:
            self._change_for_now(request)
        elif drawn < 0.79:
            self._apply_part(request)
        elif drawn < 0.82:
            self._apply_saved(request)
        elif drawn < 0.84:
            self._apply_limited(request)
        elif drawn < 0.88:
            self.simulation.reboot_one()
        elif drawn < 0.94:
            self.simulation.hold_or_unhold()
        elif drawn < 0.97:
            self.simulation.only_look(request)
        else:
            fleet = self.simulation.specs.broken()
            self.simulation.refuse(replace(request, fleet=fleet))

    def _pass(self, request: Request) -> None:
        """Of the daemon: what it destroys unasked stays within its bound."""
        managed = len(self.simulation.on_record().managed)
        daemon = replace(request, strict=False, limit=UNATTENDED)
        outcome = self.simulation.apply(daemon, "pass of the daemon")
        if outcome is not None:
            against = objection(outcome.plan, managed, UNATTENDED)
            require(not against, f"the daemon's own bound: {against}")

    def _apply_part(self, request: Request) -> None:
        """Some resource and what it needs, or all but one."""
        fleet = {document.address for document in all_documents(request.fleet)}
        known = sorted({*fleet, *self.simulation.on_record().managed})
        chosen = frozenset({self.rng.choice(known)})
        scope = replace(BY_HAND, exclude=chosen)
        if self.rng.random() < 0.6:
            scope = replace(BY_HAND, targets=chosen)
        what = f"apply {'only' if scope.targets else 'without'} {min(chosen)}"
        outcome = self.simulation.apply(replace(request, scope=scope), what)
        acted = {change.resource for change in outcome.plan.changes} if outcome else set()
        require(not acted & scope.exclude, f"{acted & scope.exclude} is excluded, and changed")

    def _apply_saved(self, request: Request) -> None:
        """What was planned is what is done, or nothing is."""
        plan = self.simulation.plan(request)
        if plan is None:
            return
        if self.rng.random() < 0.5:
            self.simulation.something_happens()
        if self.rng.random() < 0.3:
            self.simulation.specs.edit()
            request = replace(request, fleet=self.simulation.specs.fleet())
        outcome = self.simulation.apply(request, "apply a saved plan", Terms(expect_id=plan.id))
        done = outcome is None or outcome.plan.id == plan.id
        require(done, "another plan was carried out than was agreed to")

    def _apply_limited(self, request: Request) -> None:
        """No more is destroyed than was said, unless exactly that plan was agreed to."""
        limit = MaxDestroy(self.rng.randrange(3))
        plan = self.simulation.plan(request) if self.rng.random() < 0.5 else None
        agreed = plan.id if plan else ""
        managed = len(self.simulation.on_record().managed)
        limited = replace(request, limit=limit, agreed=agreed)
        outcome = self.simulation.apply(limited, f"apply with at most {limit.count} destroyed")
        if outcome is not None and outcome.plan.id != agreed:
            against = objection(outcome.plan, managed, limit)
            require(not against, f"more is destroyed than was said: {against}")

    # -- changes that await confirmation ------------------------------------------------------

    def _change_for_now(self, request: Request) -> None:
        before = remember(self.simulation.on_record())
        last = self._last_run()
        self._deferred(replace(request, scope=replace(BY_HAND, defer_deletes=True)))
        if self._last_run() != last:
            self.pending = Pending(request.fleet, before)

    def _last_run(self) -> int:
        return next((run.id for run in self.simulation.store.runs(1)), 0)

    def _deferred(self, request: Request) -> None:
        self.simulation.host.deferring = True
        self.simulation.apply(request, "apply, to be confirmed")
        self.simulation.host.deferring = False

    def _go_on(self, pending: Pending, drawn: float) -> None:
        if drawn < 0.2:
            self.simulation.hold_or_unhold()
        elif pending.undoing or drawn < 0.4:
            self._undo(pending)
        elif drawn < 0.65:
            self.pending = None
            request = self.simulation.request(pending.fleet, BY_HAND)
            self.simulation.apply(request, "confirm")
        else:
            request = self.simulation.request(pending.fleet, Scope(defer_deletes=True))
            self._deferred(replace(request, strict=False))

    def _undo(self, pending: Pending) -> None:
        """Everything is as it was on record before, but for what is held meanwhile."""
        pending.undoing = True
        fleet = undo_of(pending.before, self.simulation.on_record())
        scope = replace(BY_HAND, destroy=not len(fleet))
        request = replace(self.simulation.request(fleet, scope), strict=False)
        outcome = self.simulation.apply(request, "undo")
        if outcome is None or not outcome.is_complete:
            return
        self.pending = None
        if not outcome.plan.held:
            self._require_as_before(pending, outcome)

    def _require_as_before(self, pending: Pending, outcome: Outcome) -> None:
        managed = self.simulation.on_record().managed
        now = {m.uid: (a, _declared(m.spec)) for a, m in managed.items()}
        then = {entry.uid: (entry.address, _declared(entry.spec)) for entry in pending.before}
        differing = [(then.get(u), now.get(u)) for u in {*now, *then} if now.get(u) != then.get(u)]
        require(not differing, f"undone, and different: {differing} after {outcome.plan.changes}")


def _declared(spec: Mapping[str, Any]) -> Mapping[str, Any]:
    """Without what follows from networks: a VM may have been behind its network's policy, and is
    not after an undo.
    """
    if "interfaces" not in spec:
        return spec
    kept = [
        {k: v for k, v in e.items() if k not in {"security", "mode"}} for e in spec["interfaces"]
    ]
    return {**spec, "interfaces": kept}
