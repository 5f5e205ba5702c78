"""Adoption: whatever runs under metald's name comes on record again, and nothing changes by it."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.kept import Kept, KeptRecord
from reconciler.planning.adoption.adoption import (
    Adoption,
    Sight,
    adopt,
    adoptable,
    wanted_documents,
    with_kept,
)
from reconciler.planning.documents.undo import fleet_of as fleet_from_record
from reconciler.planning.documents.undo import remember
from reconciler.planning.planner import Scope
from tests.planning.test_cases import fleet_of
from tests.planning.world import World
from tests.simulation.fleets import Specs

HEAD = {"apiVersion": "metald/v1"}
ALL: frozenset[ResourceAddress] = frozenset()


def document(kind: str, tenant: str, name: str = "", **spec: Any) -> dict[str, Any]:
    metadata = {"name": name, "tenant": tenant} if name else {"name": tenant}
    return {**HEAD, "kind": kind, "metadata": metadata, "spec": spec}


def vm(tenant: str, name: str, *networks: str, **spec: Any) -> dict[str, Any]:
    interfaces = [{"network": network} for network in networks]
    return document(
        "VM", tenant, name, **{"boot": {"image": "minimal"}, "interfaces": interfaces, **spec}
    )


def two_tenants() -> list[dict[str, Any]]:
    peer = {"protocol": "tcp", "ports": [443, "8000-8010"]}
    return [
        document("Tenant", "acme", quota={"vms": 5}),
        document("Network", "acme", "front", ingress=[{"from": "network/acme/back"}]),
        document("Network", "acme", "back", egress=[
            {"to": "network/acme/front"}, {"to": "network/globex/lan", **peer}]),
        document("Tenant", "globex"),
        document("Network", "globex", "lan", ingress=[{"from": "network/acme/back", **peer}]),
        vm("acme", "web", "front", restart="never"),
        vm("acme", "db", "front", "back", power="paused", protect=True, vcpus=2),
        vm("globex", "app", "lan"),
    ]  # fmt: skip


def applied(documents: Iterable[dict[str, Any]]) -> tuple[World, Fleet]:
    world, fleet = World(), fleet_of(list(documents))
    world.apply(fleet)
    return world, fleet


def copies(world: World) -> Kept:
    """As the run folder keeps them."""
    records = {a: KeptRecord(a, m.uid, m.spec) for a, m in world.managed.items()}
    return Kept(records, world.loaded, dict(world.sysctls_before))


def lose_state(world: World) -> World:
    """The same host under a new state folder, with a secret of its own."""
    new = World()
    new.secret = b"another secret, of another state"
    there = ("listing", "bridge_listing", "elements", "taps", "bridges", "foreign", "vms")
    for name in ("boot_id", "sysctls", *there):
        setattr(new, name, getattr(world, name))
    return new


def look(world: World, kept: Kept, only: frozenset[ResourceAddress] = ALL) -> Adoption:
    sight = Sight(world.observed(), with_kept(world.ledger(), kept), kept, world.images)
    basis, left = adoptable(sight, only)
    assert wanted_documents(basis) is not None
    return adopt(sight, basis, left)


def record(world: World, adoption: Adoption, kept: Kept) -> None:
    """What the lock holder puts on record, all of it at once."""
    world.carry_out(adoption.plan)
    world.records |= {entry.uid: entry for entry in adoption.records}
    world.loaded = world.loaded or kept.firewall
    world.sysctls_before = {**kept.sysctls_before, **world.sysctls_before}


def reasons(adoption: Adoption) -> dict[str, str]:
    return {entry.subject: entry.reason for entry in adoption.left}


def check_adopted(world: World, kept: Kept) -> tuple[World, Fleet]:
    """Adopt everything; the written specs, and nothing else, make an empty plan."""
    before = dict(world.vms)
    new = lose_state(world)
    adoption = look(new, kept)
    assert adoption.left == ()
    record(new, adoption, kept)
    written = Fleet.of(adoption.documents)
    assert new.plan(written).is_empty
    assert new.plan(fleet_from_record(remember(new.ledger()), new.ledger())).is_empty
    assert new.vms == before
    return new, written


def of_every_profile() -> list[dict[str, Any]]:
    return [
        document("Tenant", "acme"),
        *(document("Network", "acme", name, security=name) for name in ("high", "low", "medium")),
        vm("acme", "all", "high", "low", "medium"),
        vm("acme", "lone", "low"),
    ]


def test_a_profile_of_metald_is_told_by_the_firewall_alone() -> None:
    world, _ = applied(of_every_profile())
    new, _ = check_adopted(world, Kept(firewall=world.loaded))
    held = {a: m.spec.get("security") for a, m in new.managed.items() if a.startswith("network/")}
    assert held == {f"network/acme/{name}": name for name in ("high", "low", "medium")}


def test_a_profile_of_ones_own_is_told_by_copies_and_by_nothing_else() -> None:
    own = {"base": "low", "rateLimits": {"packetsPerSecond": 5}}
    world, fleet = applied([
        {**HEAD, "kind": "SecurityProfile", "metadata": {"name": "own"}, "spec": own},
        *of_every_profile(),
        document("Network", "acme", "special", security="own"),
        vm("acme", "odd", "special"),
    ])  # fmt: skip
    without = look(lose_state(world), Kept(firewall=world.loaded))
    assert {subject.split(" ")[0] for subject in reasons(without)} == {"vm/acme/odd"}
    new, _ = check_adopted(world, copies(world))
    assert new.plan(fleet).is_empty


def test_with_copies_nothing_is_lost_and_the_original_specs_plan_empty() -> None:
    world, fleet = applied(two_tenants())
    kept = copies(world)
    new, written = check_adopted(world, kept)
    assert {a: m.spec for a, m in new.managed.items()} == {
        a: m.spec for a, m in world.managed.items()
    }
    assert {a: m.uid for a, m in new.managed.items()} == {
        a: m.uid for a, m in world.managed.items()
    }
    # Written with what was drawn pinned; where the operator left it open it stays as it is, too.
    assert new.plan(fleet).is_empty
    assert str(written.tenants[ResourceAddress("tenant/acme")].spec.prefix) != "auto"


def test_without_copies_links_and_entries_tell_networks_and_rules() -> None:
    world, _ = applied(two_tenants())
    new = lose_state(world)
    nothing = Kept()
    adoption = look(new, nothing)
    assert reasons(adoption) == {}
    # Whether somebody changed the rules meanwhile, nothing tells: the next apply loads them.
    assert [c.resource for c in adoption.differences] == ["host/local"]
    record(new, adoption, nothing)
    plan = new.plan(Fleet.of(adoption.documents))
    assert [c.resource for c in plan.changes] == ["host/local"]
    assert {type(step.operation).__name__ for step in plan.steps} == {"LoadFirewall"}
    vms = Fleet.of(adoption.documents).vms
    assert vms[ResourceAddress("vm/acme/db")].spec.power == "paused"
    assert adoption.untold[ResourceAddress("tenant/acme")] == ("labels", "quota", "pricePlan")
    new.carry_out(plan)
    assert new.plan(Fleet.of(adoption.documents)).is_empty


@given(seed=st.integers(0, 10_000), with_copies=st.booleans())
def test_random_fleets_lose_their_state_and_are_adopted(seed: int, with_copies: bool) -> None:
    specs = Specs(random.Random(seed))
    world = World()
    world.apply(specs.fleet(), Scope(by_hand=True))
    assume(len(world.managed) == len(specs.fleet()))  # nothing of it was frozen from the start
    kept = copies(world) if with_copies else replace(Kept(), firewall=world.loaded)
    if with_copies:
        new, _ = check_adopted(world, kept)
        assert new.plan(specs.fleet()).is_empty
    else:
        new = lose_state(world)
        adoption = look(new, kept)
        record(new, adoption, kept)
        plan = new.plan(Fleet.of(adoption.documents)) if adoption.documents else None
        running = {uid for uid, state in new.vms.items()}
        assert {r.uid for r in adoption.records} == running, reasons(adoption)
        if plan is not None:
            assert {c.resource for c in plan.changes} <= {c.resource for c in adoption.differences}
    for uid, state in world.vms.items():
        assert new.vms[uid] is state
    new.carry_out(new.plan(specs.fleet(), Scope(destroy=True)))
    assert not [a for a in new.allocations.values() if a.resource.startswith("vm/")]


def test_what_was_adopted_is_restarted_renamed_and_destroyed_like_any_other() -> None:
    world, _ = applied(two_tenants())
    new, _ = check_adopted(world, copies(world))
    documents = two_tenants()
    uid = new.uid_of("vm/acme/web")
    documents[5] = vm("acme", "www", "front", restart="never", vcpus=4)
    documents[5]["metadata"]["renamedFrom"] = "web"
    plan = new.apply(fleet_of(documents))
    assert [(c.resource, c.action) for c in plan.changes] == [("vm/acme/www", "restart")]
    assert new.uid_of("vm/acme/www") == uid
    new.reboot_host()
    new.apply(fleet_of(documents))
    assert new.plan(fleet_of(documents)).is_empty
    assert new.uid_of("vm/acme/www") == uid
    documents[6]["spec"]["protect"] = False
    new.apply(fleet_of(documents))
    new.carry_out(new.plan(fleet_of(documents), Scope(destroy=True)))
    assert new.leftovers() == []
    assert new.allocations == {}


def test_what_is_not_proved_or_not_whole_is_left_and_the_rest_adopted() -> None:
    world, _ = applied([*two_tenants(), vm("acme", "x", "front"), vm("acme", "y", "front")])
    kept = copies(world)
    world.set_phase("vm/acme/web", "unknown")
    world.set_phase("vm/acme/db", "dead")
    tap = world.tap_of("vm/acme/x")
    world.taps[tap] = replace(world.taps[tap], routes=frozenset())
    other = world.tap_of("vm/acme/y")
    world.taps.pop(other)
    web, db, y = (world.uid_of(f"vm/acme/{name}") for name in ("web", "db", "y"))
    new = lose_state(world)
    adoption = look(new, kept)
    left = reasons(adoption)
    assert "cannot be proved" in left[f"VM {web}"]
    assert "its process is gone" in left[f"vm/acme/db ({db})"]
    assert "routes" in left["vm/acme/x"]
    assert f"its link {other} is gone" in left[f"vm/acme/y ({y})"]
    assert {r.uid for r in adoption.records} == {world.uid_of("vm/globex/app")}
    record(new, adoption, kept)
    plan = new.plan(Fleet.of(adoption.documents))
    assert not plan.changes
    assert not plan.steps


@pytest.mark.parametrize("what", ["name", "address", "unix-id"])
def test_what_is_held_here_already_is_not_taken_away(what: str) -> None:
    world, _ = applied(two_tenants())
    kept = copies(world)
    new = lose_state(world)
    uid = world.uid_of("vm/globex/app")
    entry = world.managed[ResourceAddress("vm/globex/app")]
    owner = "0" * 32
    value = {
        "name": "", "address": entry.spec["interfaces"][0]["addresses"][0],
        "unix-id": next(a.value for a in world.allocations.values() if a.owner == uid),
    }[what]  # fmt: skip
    if what == "name":
        new.managed[entry.address] = replace(entry, uid=owner)
        new.managed[ResourceAddress("tenant/globex")] = world.managed[
            ResourceAddress("tenant/globex")
        ]
        new.managed[ResourceAddress("network/globex/lan")] = world.managed[
            ResourceAddress("network/globex/lan")]  # fmt: skip
        for allocation in world.allocations.values():
            if "/globex" in allocation.resource and allocation.owner != uid:
                new.allocations[allocation.kind, allocation.value] = allocation
        from reconciler.model.ledger import Allocation

        new.allocations["unix-id", "2000000000"] = Allocation(
            "unix-id", "2000000000", owner, entry.address
        )
    else:
        new.quarantine[what, value] = owner
    adoption = look(new, kept)
    subjects = [s for s in reasons(adoption) if s.startswith("vm/globex/app")]
    assert len(subjects) == 1, reasons(adoption)
    assert uid not in {r.uid for r in adoption.records}
    assert world.uid_of("vm/acme/web") in {r.uid for r in adoption.records}


def test_one_tenant_may_be_adopted_alone_and_the_rest_later() -> None:
    documents = [d for d in two_tenants() if d["kind"] != "Network"]
    documents += [document("Network", "acme", name) for name in ("front", "back")]
    documents += [document("Network", "globex", "lan")]
    world, fleet = applied(documents)
    kept = copies(world)
    new = lose_state(world)
    first = look(new, kept, frozenset({ResourceAddress("vm/acme/web")}))
    assert sorted(d.address for d in first.documents) == [
        "network/acme/front", "tenant/acme", "vm/acme/web"]  # fmt: skip
    record(new, first, kept)
    elements = frozenset(new.elements)
    plan = new.plan(Fleet.of(first.documents))
    assert not plan.changes and not plan.steps
    second = look(new, kept)
    assert "tenant/globex" in {d.address for d in second.documents}
    assert second.left == ()
    record(new, second, kept)
    assert new.plan(fleet).is_empty
    assert frozenset(new.elements) == elements


def test_a_guest_that_powered_itself_off_is_adopted_and_then_started_by_its_policy() -> None:
    world, fleet = applied(two_tenants())
    world.set_phase("vm/globex/app", "off")
    kept = copies(world)
    new = lose_state(world)
    adoption = look(new, kept)
    assert [resource for resource, _ in adoption.recoveries] == ["vm/globex/app"]
    record(new, adoption, kept)
    plan = new.plan(fleet)
    assert plan.changes == ()
    assert [r.verdict for r in plan.recoveries] == ["start"]


def test_a_stopped_vm_comes_back_from_its_copy() -> None:
    world, fleet = applied([*two_tenants(), vm("acme", "cold", "front", power="stopped")])
    kept = copies(world)
    new, _ = check_adopted(world, kept)
    assert new.records[new.uid_of("vm/acme/cold")].intent == "stopped"
    assert new.plan(fleet).is_empty


def test_strangers_keep_talking_while_others_are_applied() -> None:
    world, _ = applied(two_tenants())
    new = lose_state(world)
    before = set(new.elements)
    new.apply(fleet_of([document("Tenant", "other"), document("Network", "other", "lan"),
                        vm("other", "one", "lan")]))  # fmt: skip
    assert before <= new.elements


def test_a_hold_on_everything_does_not_hide_what_differs() -> None:
    from reconciler.model.addresses import EVERYTHING
    from reconciler.model.ledger import Hold

    world, _ = applied(two_tenants())
    kept = copies(world)
    tap = world.tap_of("vm/acme/web")
    world.taps[tap] = replace(world.taps[tap], routes=frozenset())
    new = lose_state(world)
    new.holds[EVERYTHING] = Hold(EVERYTHING, "root", "by hand", 0.0, "")
    assert "vm/acme/web" in reasons(look(new, kept))
