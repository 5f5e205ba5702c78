"""Why a plan is not carried out: what is wrong with the specs, who forbids it, what has moved.

Called by ``execution.engine`` before anything is done.
"""

from __future__ import annotations

from collections.abc import Callable

from reconciler.errors import Problem, RefusedError, SpecError
from reconciler.model.plan import Plan
from reconciler.planning.bounds.holds import holds_everything
from reconciler.planning.comparison.reasons import NOT_HERE
from reconciler.planning.comparison.taken import REMEDY, STAYS
from reconciler.planning.findings import Finding
from reconciler.planning.resolution.resolve import Resolution


def refuse_findings(
    resolution: Resolution, explain: Callable[[Finding], Problem], *, strict: bool
) -> None:
    """Raises SpecError where what cannot be resolved keeps the rest from being planned."""
    # Of the daemon, what cannot be resolved keeps nothing else from being as it should.
    if resolution.findings and (strict or not resolution.is_usable):
        raise SpecError(tuple(explain(entry) for entry in resolution.findings))


def refuse(chosen: Plan, expect_id: str, *, strict: bool) -> None:
    """Raises RefusedError for what a hold, a moved plan or a guard forbids."""
    whole = holds_everything(chosen.held)
    if whole is not None and strict:
        raise RefusedError(
            f"{whole.owner} holds everything on this host: {whole.reason}",
            hint="metald unhold ends it",
        )
    if expect_id and not chosen.id.startswith(expect_id):
        raise RefusedError(
            f"the plan is stale: {expect_id[:12]} was agreed to, now it would be {chosen.id[:12]}",
            hint="look at the new plan, then apply again",
        )
    if chosen.refused and strict:
        address, reason = chosen.refused[0]
        more = f" (and {len(chosen.refused) - 1} more)" if len(chosen.refused) > 1 else ""
        hint = REMEDY if reason.endswith(STAYS) else "set protect: false first"
        if reason.startswith(NOT_HERE):
            hint = "install it, or give the VM another hypervisor"
        raise RefusedError(f"{reason}{more}", subject=address, hint=hint)
