"""What an undo declares: everything as it was, also what was named otherwise when it was born."""

from __future__ import annotations

from dataclasses import replace

from reconciler.model.addresses import vm_address
from reconciler.planning.documents.undo import fleet_of as undo_of
from reconciler.planning.documents.undo import remember
from tests.planning.test_cases import fleet_of
from tests.planning.test_left_alone import document, vm
from tests.planning.world import World

VM = vm_address("acme", "a")


def test_an_interface_that_went_comes_back_as_itself_whatever_its_network_was_called() -> None:
    tenant, world = document("Tenant", "acme"), World()
    world.apply(fleet_of([tenant, document("Network", "front", "acme"), vm("a")]))
    renamed = document("Network", "back", "acme", meta={"renamedFrom": "front"})
    world.apply(fleet_of([tenant, renamed, vm("a", spec={"interfaces": [{"network": "back"}]})]))
    before = remember(world.ledger())
    had = world.ledger().managed[VM].spec["interfaces"]
    world.apply(fleet_of([tenant, renamed, vm("a", spec={"interfaces": []})]))
    assert world.ledger().managed[VM].spec["interfaces"] == []
    world.apply(undo_of(before, world.ledger()))
    assert world.ledger().managed[VM].spec["interfaces"] == had
    # Asked for again, as whoever was killed half-way does: nothing is left to do.
    assert world.plan(undo_of(before, world.ledger())).is_empty


def test_a_vm_that_followed_its_renamed_tenant_late_stays_where_it_is() -> None:
    world = World()
    rows = [document("Tenant", "acme"), document("Network", "front", "acme"), vm("a")]
    world.apply(fleet_of(rows))
    uid = world.ledger().managed[VM].uid
    renamed = [
        document("Tenant", "beta", meta={"renamedFrom": "acme"}),
        document("Network", "front", "beta"),
        vm("a", tenant="beta"),
    ]
    world.apply(fleet_of(renamed))
    moved = vm_address("beta", "a")
    # As it is on record while the VM cannot follow: it is seen by its old name alone.
    before = [
        replace(entry, address=VM) if entry.address == moved else entry
        for entry in remember(world.ledger())
    ]
    plan = world.plan(undo_of(before, world.ledger()))
    assert [change for change in plan.changes if change.action == "delete"] == []
    world.carry_out(plan)
    assert world.ledger().managed[moved].uid == uid
