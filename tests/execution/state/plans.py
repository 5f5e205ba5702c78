"""Plans as the planner would hand them over, built out of what a test is about."""

from __future__ import annotations

from reconciler.execution.state.sqlite import SqliteStore
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation
from reconciler.model.plan import Operation, Plan, Registration, Retire, Step
from reconciler.planning.documents.render import SourceInfo

WEB = Registration(ResourceAddress("vm/acme/web"), "uid-web-1", 1, {"vcpus": 1}, "hash-1")
DB = Registration(ResourceAddress("vm/acme/db"), "uid-db-1", 1, {"vcpus": 2}, "hash-1")


def plan_of(
    *registrations: Registration,
    allocations: tuple[Allocation, ...] = (),
    releases: tuple[Allocation, ...] = (),
    retires: tuple[str, ...] = (),
    steps: tuple[Operation, ...] = (),
) -> Plan:
    """A plan whose steps are ``s0``, ``s1``, … for the operations, retirements last."""
    operations = (*steps, *(Retire(uid) for uid in retires))
    host = ResourceAddress("host/local")
    return Plan(
        id="plan",
        changes=(),
        recoveries=(),
        steps=tuple(Step(f"s{n}", host, entry) for n, entry in enumerate(operations)),
        registrations=registrations,
        allocations=allocations,
        releases=releases,
        unchanged=0,
    )


def begin(store: SqliteStore, plan: Plan, *, now_s: float = 0.0) -> int:
    """Record a plan; gives its run."""
    return store.begin_run(plan, SourceInfo("specs", "abc"), now_s=now_s)
