"""Plan documents for tests of how they read: made by planning itself, on an imaginary host."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from reconciler.model.addresses import network_address, vm_address
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold, Retry
from reconciler.model.plan import Plan
from reconciler.model.specs import KINDS
from reconciler.planning.documents.render import SourceInfo, plan_document
from reconciler.planning.planner import Scope
from tests.planning.world import World

Documents = list[dict[str, Any]]
SOURCE = SourceInfo("specs", "3f2fe49c0ffee", False, "Ann Operator <ann@example.com>")


def document(kind: str, name: str, tenant: str = "", **spec: Any) -> dict[str, Any]:
    metadata: dict[str, Any] = {"name": name, **({"tenant": tenant} if tenant else {})}
    for key in ("labels", "renamedFrom", "reconcile"):
        if key in spec:
            metadata[key] = spec.pop(key)
    return {"apiVersion": "metald/v1", "kind": kind, "metadata": metadata, "spec": spec}


def vm(name: str, tenant: str = "acme", network: str = "front", **spec: Any) -> dict[str, Any]:
    body = {"hypervisor": "simulated", "interfaces": [{"network": network}], **spec}
    return document("VM", name, tenant, **body)


def price_plan(name: str, currency: str, price: str) -> dict[str, Any]:
    prices = {"vcpuSeconds": {"per": "hour", "price": price}}
    version = {"effectiveFrom": "1970-01-01", "prices": prices}
    return document("PricePlan", name, currency=currency, versions=[version])


def fleet_of(documents: Documents) -> Fleet:
    return Fleet.of([KINDS[entry["kind"]].model_validate(entry) for entry in documents])


def base() -> Iterator[dict[str, Any]]:
    yield price_plan("euro", "EUR", "0.012")
    yield price_plan("yen", "JPY", "2")
    yield document("Tenant", "acme", prefix="fd20:acde::/48", pricePlan="euro")
    yield document("Tenant", "globex", prefix="fd20:beef::/48", pricePlan="yen")
    yield document("Network", "front", "acme", prefix="fd20:acde:0:1::/64")
    yield document("Network", "lan", "globex", prefix="fd20:beef:0:1::/64")


def told(plan: Plan) -> dict[str, Any]:
    # The id is a digest of all that is planned, also of what no text shows.
    return plan_document(replace(plan, id="0123456789abcdef"), SOURCE)


def every_kind() -> dict[str, Any]:
    """A small plan with every action, and with everything a plan leaves alone."""
    names = ("web", "db", "gone", "moved", "paused", "held", "unknown", "waits", "drifts")
    before = [
        *base(),
        document("Network", "back", "acme", prefix="fd20:acde:0:2::/64",
                 ingress=[{"from": "network/acme/front", "protocol": "tcp", "ports": [5432]}]),
        *(vm(name) for name in names),
        vm("kept", protect=True),
        vm("old-name"),
        vm("sick", restart="always"),
    ]  # fmt: skip
    world = World()
    world.apply(fleet_of(before), Scope(by_hand=True))
    after = [
        *base(),
        document("Network", "back", "acme", prefix="fd20:acde:0:2::/64",
                 ingress=[{"from": "network/acme/front", "protocol": "tcp", "ports": [443]}]),
        vm("web", vcpus=4),
        vm("db", labels={"tier": "pro"}),
        vm("moved", hypervisor="qemu", boot={"image": "minimal"}),
        vm("paused", power="paused"),
        vm("held", vcpus=8), vm("unknown", vcpus=8), vm("waits", vcpus=2), vm("drifts"),
        vm("new-name", renamedFrom="old-name"),
        vm("sick", restart="always"),
        vm("box", "globex", "lan", memory="1Gi"),
        vm("later"),
    ]  # fmt: skip
    world.durations = {("StopVm", "simulated"): 0.4, ("StartVm", "simulated"): 1.1}
    held = vm_address("acme", "held")
    world.holds[held] = Hold(held, "ops", "an audit", world.now_s, "", world.now_s + 3600)
    waits = vm_address("acme", "waits")
    world.retries[waits] = Retry(waits, 3, world.now_s + 40, "no memory is left", "")
    spec_hash = world.plan(fleet_of(after)).registrations
    (waited,) = (entry.spec_hash for entry in spec_hash if entry.address == waits)
    world.retries[waits] = replace(world.retries[waits], spec_hash=waited)
    world.set_phase("vm/acme/unknown", "unknown")
    world.set_phase("vm/acme/sick", "absent")
    tap = world.tap_of("vm/acme/drifts")
    world.taps[tap] = replace(world.taps[tap], routes=frozenset())
    world.sysctls["net.ipv6.conf.all.forwarding"] = "0"
    scope = Scope(exclude=frozenset({vm_address("acme", "later"), network_address("x", "y")}))
    plan = world.plan(fleet_of(after), scope)
    reported = tuple(change for change in plan.changes if change.resource == "vm/acme/drifts")
    warnings = (*plan.warnings, "a word of warning")
    return told(replace(plan, reported=reported, warnings=warnings))


def five_hundred() -> dict[str, Any]:
    """500 changes: most of them dull, a few of them not."""
    tenants = [f"t{number}" for number in range(8)]

    def fleet(*, after: bool) -> Iterator[dict[str, Any]]:
        yield from base()
        for number, tenant in enumerate(tenants):
            yield document("Tenant", tenant, prefix=f"fd20:{number + 1:x}::/48", pricePlan="euro")
            yield document("Network", "n", tenant, prefix=f"fd20:{number + 1:x}:0:1::/64")
            for index in range(20):
                if not (after and tenant == "t3" and index in {4, 5}):
                    vcpus = 2 if after and tenant == "t1" else 1
                    yield vm(f"same-{index}", tenant, "n", vcpus=vcpus)
            for index in range(56 if after else 0):
                yield vm(f"new-{index}", tenant, "n")
        if after:
            ingress = [{"from": "network/t2/n", "protocol": "tcp", "ports": [22]}]
            yield document("Network", "admin", "t2", prefix="fd20:3:0:9::/64", ingress=ingress)
            yield vm("jump", "t2", "admin")

    world = World()
    world.apply(fleet_of(list(fleet(after=False))), Scope(by_hand=True))
    for number in range(24):
        name = f"vm/t{5 + number % 3}/same-{number // 3}"
        tap = world.tap_of(name)
        world.taps[tap] = replace(world.taps[tap], routes=frozenset())
    return told(world.plan(fleet_of(list(fleet(after=True)))))
