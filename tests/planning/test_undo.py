"""What an undo declares: everything as it was, also what was named otherwise when it was born."""

from __future__ import annotations

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
