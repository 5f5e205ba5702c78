"""Of a plan only what brings the network back: for a host that has booted, before any VM starts.

Settings, rules, entries and links of what is on record; no process is begun, ended or released, and
nothing is registered or forgotten. Pure. Called by ``execution.engine``.
"""

from __future__ import annotations

from dataclasses import replace

from reconciler.model.plan import (
    AttachTap,
    ChangeElements,
    LoadFirewall,
    Plan,
    RaiseTap,
    SetSysctls,
    Step,
)
from reconciler.planning.documents.prints import plan_id

_OF_THE_NETWORK = (SetSysctls, LoadFirewall, ChangeElements, RaiseTap, AttachTap)


def network_alone(made: Plan) -> Plan:
    """The part of a plan that concerns the network, with its order."""
    steps = [step for step in made.steps if isinstance(step.operation, _OF_THE_NETWORK)]
    keys = {step.key for step in steps}
    kept = tuple(_after(step, keys) for step in steps)
    resources = {step.resource for step in kept}
    part = replace(
        made,
        changes=tuple(change for change in made.changes if change.resource in resources),
        recoveries=(),
        steps=kept,
        registrations=(),
        allocations=(),
        releases=(),
        refused=(),
        waiting=(),
    )
    return replace(part, id=plan_id(part))


def _after(step: Step, keys: set[str]) -> Step:
    return replace(step, after=tuple(key for key in step.after if key in keys))
