"""When what failed is tried again: exponential back-off with jitter, per resource.

A pass of the daemon leaves a waiting resource alone until it is due; a new spec, and a
person's apply, try it at once (``planning.bounds.waiting``).
"""

from __future__ import annotations

from collections.abc import Callable

from reconciler.execution.outcome import Outcome
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Ledger, Retry
from reconciler.planning.bounds.waiting import LONGEST_S

FIRST_S = 2.0


def retries_after(
    outcome: Outcome, ledger: Ledger, jitter: Callable[[], float]
) -> tuple[Retry, ...]:
    """What a run leaves to be tried again. ``jitter`` draws from 0 to 1.

    The delay doubles with each failure in a row and is spread over its upper half, so that
    what failed together does not come back together.
    """
    errors = _errors(outcome)
    waiting = {entry.resource for entry in outcome.plan.waiting}
    return tuple(
        _retry(ledger, resource, error, jitter())
        for resource, error in sorted(errors.items())
        if resource not in waiting
    )


def _errors(outcome: Outcome) -> dict[ResourceAddress, str]:
    errors = dict(outcome.remaining)
    for step in outcome.plan.steps:
        if step.key in outcome.result.failed:
            errors[step.resource] = str(outcome.result.failed[step.key])
    return errors


def _retry(ledger: Ledger, resource: ResourceAddress, error: str, drawn: float) -> Retry:
    before, managed = ledger.retries.get(resource), ledger.managed.get(resource)
    spec_hash = managed.spec_hash if managed else ""
    known = before is not None and before.spec_hash == spec_hash
    failures = 1 + (before.failures if before is not None and known else 0)
    delay = min(LONGEST_S, FIRST_S * 2.0 ** min(failures - 1, 20))
    return Retry(resource, failures, ledger.now_s + delay * (1 + drawn) / 2, error, spec_hash)
