"""What a plan means beyond its changes: the cost, and who can reach whom, before and after."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.plan import Plan

Specs = Mapping[ResourceAddress, Mapping[str, Any]]


def specs_before(plan: Plan) -> Specs:
    """What was on record when the plan was made, by address."""
    return {address: entry.spec for address, entry in plan.recorded.items()}


def specs_after(plan: Plan) -> Specs:
    """What will be on record once the plan is carried out, by address."""
    gone = {change.resource for change in plan.changes if change.action == "delete"}
    kept = {a: entry.spec for a, entry in plan.recorded.items() if a not in gone}
    return {**kept, **{entry.address: entry.spec for entry in plan.registrations}}
