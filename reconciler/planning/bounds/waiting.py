"""Resources whose last try failed wait until they are due; what depends on them waits too."""

from __future__ import annotations

from collections.abc import Sequence

from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Ledger, Retry
from reconciler.model.plan import Step
from reconciler.model.resolved import ResolvedFleet

LONGEST_S = 300.0


def waiting_resources(fleet: ResolvedFleet, ledger: Ledger) -> tuple[Retry, ...]:
    """Failed lately, not due yet, and declared as they were when they failed.

    What would wait longer than anything may wait is due: the clock was set back meanwhile.
    """
    found = []
    for address, retry in sorted(ledger.retries.items()):
        entry = fleet.vms.get(address) or fleet.records.get(address)
        unchanged = entry is None or entry.spec_hash == retry.spec_hash
        if unchanged and 0 < retry.not_before_s - ledger.now_s <= LONGEST_S:
            found.append(retry)
    return tuple(found)


def without_waiting(
    steps: Sequence[Step], waiting: Sequence[Retry]
) -> tuple[tuple[Step, ...], frozenset[ResourceAddress]]:
    """``steps`` (in a valid order) without those of waiting resources and all that follow, and
    the resources that are not finished without them: they give nothing up yet.
    """
    if not waiting:
        return tuple(steps), frozenset()
    left = {retry.resource for retry in waiting}
    resources = frozenset(left)
    dropped: set[str] = set()
    kept = []
    for step in steps:
        if step.resource in resources or dropped.intersection(step.after):
            dropped.add(step.key)
            left.add(step.resource)
        else:
            kept.append(step)
    return tuple(kept), frozenset(left)
