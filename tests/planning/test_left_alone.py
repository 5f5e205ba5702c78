"""What a pass leaves alone, because it is held, unseen, only reported on or not asked for, is
left as it was, whatever happens around it meanwhile, and taken up again where it was left.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from reconciler.errors import SpecError
from reconciler.execution.engine import Request, decide
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold
from reconciler.model.observed import ImageFacts, Unknown
from reconciler.model.plan import Plan
from reconciler.planning.bounds.holds import declared_digest
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.documents.undo import fleet_of as undo_of
from reconciler.planning.documents.undo import remember
from reconciler.planning.planner import Scope
from reconciler.planning.resolution.resolve import resolve
from tests.planning.test_cases import fleet_of
from tests.planning.world import MINIMAL, World

A, B = ResourceAddress("vm/acme/a"), ResourceAddress("vm/acme/b")
BY_HAND = Scope(by_hand=True)


def document(kind: str, name: str, tenant: str = "", **rest: Any) -> dict[str, Any]:
    """``meta`` and ``spec`` in ``rest``."""
    metadata = {"name": name, **({"tenant": tenant} if tenant else {}), **rest.get("meta", {})}
    head = {"apiVersion": "metald/v1", "kind": kind, "metadata": metadata}
    return {**head, "spec": rest.get("spec", {})}


def vm(name: str, network: str = "front", *, tenant: str = "acme", **rest: Any) -> dict[str, Any]:
    spec = {"boot": {"image": "minimal"}, "interfaces": [{"network": network}]}
    return document("VM", name, tenant, meta=rest.get("meta", {}), spec=spec | rest.get("spec", {}))


def fleet(
    *vms: dict[str, Any], tenant: str = "acme", network: str = "front", **was: dict[str, Any]
) -> Fleet:
    """With one tenant and one network; ``was`` gives their metadata (``tenant_was``, ...)."""
    rows = [
        document("Tenant", tenant, meta=was.get("tenant_was", {})),
        document("Network", network, tenant, meta=was.get("network_was", {})),
    ]
    return fleet_of([*rows, *vms])


def disruptions(made: Plan) -> set[str]:
    return {str(change.disruption) for change in made.changes} - {"none"}


def hold(world: World, address: str) -> None:
    subject = ResourceAddress(address)
    world.holds[subject] = Hold(subject, "op", "looking at it", 0.0, "")


@pytest.mark.parametrize("why", ["unseen", "held", "not a target", "only reported"])
def test_a_vm_left_alone_while_its_network_is_renamed_keeps_its_interface(why: str) -> None:
    world = World()
    meta = {"reconcile": "report"} if why == "only reported" else {}
    world.apply(fleet(vm("a"), vm("b", meta=meta)), BY_HAND)
    uid, before = world.uid_of(B), dict(world.taps)
    state = world.vms[uid]
    scope = Scope()
    if why == "unseen":
        world.vms[uid] = Unknown("its socket does not answer")
    if why == "held":
        hold(world, B)
    if why == "not a target":
        scope = Scope(targets=frozenset({A}), by_hand=True)
    wanted = fleet(
        vm("a", "lan"), vm("b", "lan", meta=meta),
        network="lan", network_was={"renamedFrom": "front"},
    )  # fmt: skip
    world.apply(wanted, scope)
    world.vms[uid], world.holds = state, {}
    made = world.apply(wanted, BY_HAND)
    assert not disruptions(made)
    assert world.taps.keys() == before.keys()
    assert world.plan(wanted).is_empty


def test_an_undo_knows_the_network_of_a_vm_that_was_left_alone_while_it_was_renamed() -> None:
    world = World()
    world.apply(fleet(vm("a"), vm("b")))
    hold(world, B)
    wanted = fleet(
        vm("a", "lan"), vm("b", "lan"), network="lan", network_was={"renamedFrom": "front"}
    )
    world.apply(wanted)
    world.holds = {}
    made = world.plan(undo_of(remember(world.ledger()), world.ledger()), BY_HAND)
    assert not disruptions(made)


def test_a_vm_left_alone_while_its_tenant_is_renamed_follows_later() -> None:
    world = World()
    world.apply(fleet(vm("a"), vm("b")))
    uid = world.uid_of(B)
    state, world.vms[uid] = world.vms[uid], Unknown("its socket does not answer")
    moved = fleet(
        vm("a", tenant="gamma"), vm("b", tenant="gamma"),
        tenant="gamma", tenant_was={"renamedFrom": "acme"},
    )  # fmt: skip
    world.apply(moved)
    world.vms[uid] = state
    made = world.apply(moved)
    assert not disruptions(made)
    assert world.uid_of("vm/gamma/b") == uid
    assert world.plan(moved).is_empty


def test_a_network_that_is_declared_nowhere_is_a_finding_and_no_reason_to_delete() -> None:
    world = World()
    world.apply(fleet(vm("a")))
    found = resolve(fleet_of([document("Tenant", "acme"), vm("a")]), world.ledger(), world.images)
    assert [entry.message for entry in found.findings] == ["network/acme/front is not declared"]


@pytest.mark.parametrize("subject", ["vm/acme/a", "tenant/acme"])
def test_a_hold_goes_with_what_it_holds_when_that_is_renamed(subject: str) -> None:
    world = World()
    world.apply(fleet(vm("a")))
    hold(world, subject)
    bigger: dict[str, Any] = {"spec": {"vcpus": 4}}
    wanted = fleet(
        vm("a", tenant="gamma", **bigger), tenant="gamma", tenant_was={"renamedFrom": "acme"}
    )
    if subject == A:
        wanted = fleet(vm("z", meta={"renamedFrom": "a"}, **bigger))
    made = world.apply(wanted)
    assert made.held and not made.steps
    assert A in world.managed
    world.holds = {}
    assert disruptions(world.apply(wanted)) == {"restart"}
    assert world.plan(wanted).is_empty


@pytest.mark.parametrize("how", ["held", "report", "freeze"])
def test_a_vm_waits_for_its_network_when_that_is_not_to_be_touched(how: str) -> None:
    def moved(number: int, **meta: Any) -> Fleet:
        prefix = {"prefix": f"fd20:acde:0:{number}::/64"}
        front = document("Network", "front", "acme", spec=prefix, meta=meta)
        tenant = document("Tenant", "acme", spec={"prefix": "fd20:acde::/48"})
        return fleet_of([tenant, front, vm("a")])

    until = "2999-01-01T00:00:00Z"
    freeze = {"mode": "freeze", "owner": "op", "reason": "audit", "until": until}
    modes: dict[str, Any] = {"report": {"reconcile": "report"}, "freeze": {"reconcile": freeze}}
    mode = modes.get(how, {})
    world = World()
    world.apply(moved(1), BY_HAND)
    if how == "held":
        hold(world, "network/acme/front")
    made = world.apply(moved(2, **mode))
    assert not (made.steps or made.registrations or made.allocations)
    named = {hold.address for hold in made.held} | {entry.resource for entry in made.reported}
    assert named == {"network/acme/front", A}


def test_a_vm_in_a_held_network_is_healed_as_long_as_it_is_as_declared() -> None:
    world = World()
    world.apply(fleet(vm("a")))
    hold(world, "network/acme/front")
    world.set_phase(A, "dead")
    wanted = fleet(vm("a"), network_was={"labels": {"x": "y"}})
    assert [entry.verdict for entry in world.plan(wanted).recoveries] == ["start"]


def test_a_new_vm_waits_for_a_new_network_that_is_only_reported_on() -> None:
    world = World()
    made = world.apply(fleet(vm("a"), network_was={"reconcile": "report"}))
    assert {change.resource for change in made.reported} == {"network/acme/front", A}
    assert not [step for step in made.steps if step.resource == A]


def test_a_vm_that_is_declared_again_in_the_middle_of_its_deletion_starts_again() -> None:
    world = World()
    wanted = fleet(vm("a", spec={"restart": "never"}))
    world.apply(wanted)
    world.carry_out(world.plan(fleet()), steps=1)
    assert not world.vms
    made = world.apply(wanted)
    assert not [entry for entry in made.recoveries if entry.verdict == "failed"]
    assert world.vms


def test_all_that_a_tenant_has_on_record_goes_by_its_new_name_at_once() -> None:
    world = World()
    world.apply(fleet(vm("a"), vm("b"), vm("c")))
    hold(world, B)
    unseen = world.uid_of("vm/acme/c")
    world.vms[unseen] = Unknown("its socket does not answer")
    moved = fleet(
        vm("a", tenant="gamma"), vm("b", tenant="gamma", spec={"vcpus": 4}),
        tenant="gamma", tenant_was={"renamedFrom": "acme"},
    )  # fmt: skip
    world.apply(moved)
    assert {address.split("/")[1] for address in world.managed} == {"gamma"}
    assert list(world.holds) == ["vm/gamma/b"], "the hold goes with it"
    assert world.managed[ResourceAddress("vm/gamma/b")].spec["vcpus"] == 1
    back = undo_of(remember(world.ledger()), world.ledger())
    assert not disruptions(world.plan(back, BY_HAND))


def test_of_the_daemon_a_vm_that_cannot_be_resolved_keeps_no_other_from_being_healed() -> None:
    world = World()
    other = vm("b", spec={"boot": {"kernel": "/boot/k"}})
    world.images["/boot/k|"] = replace(MINIMAL, initrd="", initrd_sha256="")
    world.apply(fleet(vm("a"), other))
    world.images["/boot/k|"] = ImageFacts(problem="it cannot be read", hint="put it there")
    world.set_phase(A, "dead")
    request = Request(fleet(vm("a"), other), SourceInfo("specs"), strict=False)
    made = decide(request, world.observed(), world.ledger())
    assert made.blocked == ((B, "it cannot be read: put it there"),)
    assert [entry.resource for entry in made.recoveries] == [A]
    assert not [step for step in made.steps if step.resource != A]
    assert not (made.changes or made.releases)
    with pytest.raises(SpecError):
        decide(replace(request, strict=True), world.observed(), world.ledger())
    gone = replace(request, fleet=fleet_of([document("Tenant", "acme"), vm("a"), other]))
    made = decide(gone, world.observed(), world.ledger())
    assert not [change for change in made.changes if change.action == "delete"]


def test_what_was_destroyed_by_hand_does_not_come_back_because_its_image_was_built_anew() -> None:
    world = World()
    wanted = fleet(vm("a"))
    world.apply(wanted)
    spec = world.managed[A].spec
    world.apply(fleet())
    world.holds[A] = Hold(A, "op", "destroyed by hand", world.now_s, declared_digest(spec))
    world.images["minimal"] = replace(MINIMAL, kernel_sha256="9" * 64)
    assert not world.plan(wanted).steps
    assert world.plan(fleet(vm("a", spec={"vcpus": 2}))).steps, "another declaration ends it"


def test_an_undo_leaves_alone_a_vm_in_a_network_that_is_gone_and_whose_name_is_another_s() -> None:
    world = World()
    rows = [document("Tenant", "acme"), document("Network", "front", "acme")]
    both: dict[str, Any] = {"interfaces": [{"network": "front"}, {"network": "back"}]}
    world.apply(fleet_of([*rows, document("Network", "back", "acme"), vm("a", spec=both)]))
    back = ResourceAddress("network/acme/back")
    entry = world.managed.pop(back)
    world.managed[back] = replace(entry, uid="other", spec={**entry.spec, "zone": 77})
    remembered = remember(world.ledger())
    request = Request(
        undo_of(remembered, world.ledger()), SourceInfo("undo"), BY_HAND, strict=False
    )
    made = decide(request, world.observed(), world.ledger())
    assert [address for address, _ in made.blocked] == [A]
    assert not [step for step in made.steps if step.resource == A]


def test_a_network_that_is_used_and_whose_name_is_taken_stays_when_its_tenant_is_renamed() -> None:
    world = World()
    rows = [document("Tenant", "acme"), document("Network", "back", "acme")]
    world.apply(fleet_of([*rows, document("Network", "front", "acme"), vm("a")]))
    hold(world, A)
    zone = world.managed[ResourceAddress("network/acme/front")].spec["zone"]
    moved = [
        document("Tenant", "gamma", meta={"renamedFrom": "acme"}),
        document("Network", "front", "gamma", meta={"renamedFrom": "back"}),
    ]
    world.apply(fleet_of([*moved, vm("a", tenant="gamma")]))
    kept = [a for a, entry in world.managed.items() if entry.spec.get("zone") == zone]
    assert len(kept) == 1 and kept[0].startswith("network/gamma/was-")
    back = undo_of(remember(world.ledger()), world.ledger())
    assert not disruptions(world.plan(back, BY_HAND))


def test_what_a_tenant_that_is_only_reported_on_declares_no_more_is_told_and_kept() -> None:
    world = World()
    report = {"reconcile": "report"}
    world.apply(fleet(vm("a"), vm("b"), tenant_was=report), BY_HAND)
    without = fleet(vm("a"), tenant_was=report)
    made = world.plan(without)
    assert [(entry.resource, entry.action) for entry in made.reported] == [(B, "delete")]
    assert not (made.steps or made.changes or made.releases)
    by_hand = world.plan(without, BY_HAND)
    assert [(entry.resource, entry.action) for entry in by_hand.changes] == [(B, "delete")]


def test_a_network_stays_as_long_as_a_vm_that_is_only_reported_on_is_in_it() -> None:
    world = World()
    meta = {"reconcile": "report"}
    world.apply(fleet(vm("a", meta=meta)), BY_HAND)
    made = world.plan(
        fleet_of([document("Tenant", "acme"), vm("a", meta=meta, spec={"interfaces": []})])
    )
    assert [entry.resource for entry in made.reported] == [A]
    assert not (made.steps or made.changes)
    assert "network/acme/front is not deleted: vm/acme/a stays in it" in made.warnings
