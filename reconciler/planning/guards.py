"""Guards against a wiped fleet: how much an unattended pass may delete."""

from __future__ import annotations

from reconciler.model.plan import Plan

MAX_DESTROY_SHARE = 0.25
MAX_DESTROY_COUNT = 3


def too_many_deletions(plan: Plan, managed: int) -> str:
    """Why an unattended pass must not delete what this plan deletes; empty when it may.

    Trips when more than three resources and more than a quarter of all managed ones go.
    """
    count = sum(1 for change in plan.changes if change.action == "delete")
    if count <= MAX_DESTROY_COUNT or count <= managed * MAX_DESTROY_SHARE:
        return ""
    return (
        f"{count} of {managed} managed resources would go, more than {MAX_DESTROY_COUNT} and "
        f"more than {MAX_DESTROY_SHARE:.0%}; run metald apply to confirm it"
    )
