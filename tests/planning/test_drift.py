"""Drift needs no specs, says what is unknown, and looks at what metald may not touch."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Hold
from reconciler.planning.drift import drift_document
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

HEAD = {"apiVersion": "metald/v1"}
LAN = [{"network": "lan"}]


def documents(**metadata: Any) -> list[dict[str, Any]]:
    spec = {"boot": {"image": "minimal"}, "interfaces": LAN}
    return [
        {**HEAD, "kind": "Tenant", "metadata": {"name": "acme"}},
        {**HEAD, "kind": "Network", "metadata": {"name": "lan", "tenant": "acme"}},
        {
            **HEAD,
            "kind": "VM",
            "metadata": {"name": "a", "tenant": "acme", **metadata},
            "spec": spec,
        },
        {**HEAD, "kind": "VM", "metadata": {"name": "b", "tenant": "acme"}, "spec": spec},
    ]


def applied(**metadata: Any) -> World:
    world = World()
    world.apply(fleet_of(documents(**metadata)))
    return world


def look(world: World) -> dict[str, Any]:
    return drift_document(world.observed(), world.ledger())


def test_right_after_an_apply_nothing_has_drifted() -> None:
    document = look(applied())
    assert document["drifted"] == []
    assert document["unchanged"] == document["recorded"] == 4


def test_a_deleted_route_and_changed_rules_are_told_with_both_values() -> None:
    world = applied()
    tap = world.tap_of("vm/acme/a")
    routes = sorted(world.taps[tap].routes)
    world.taps[tap] = replace(world.taps[tap], routes=frozenset())
    world.listing = "changed by hand"
    found = {entry["resource"]: entry for entry in look(world)["drifted"]}
    assert set(found) == {"host/local", "vm/acme/a"}
    assert found["vm/acme/a"]["fields"] == [
        {"path": "status.interfaces[lan].routes", "found": [], "recorded": routes}
    ]


def test_what_is_held_or_frozen_is_looked_at_all_the_same() -> None:
    freeze = {"mode": "freeze", "owner": "ops", "reason": "audit", "until": "2100-01-01T00:00:00Z"}
    world = applied()
    world.apply(fleet_of(documents(reconcile={**freeze, "until": "1970-01-02T00:00:00Z"})))
    world.now_s = 0.0
    assert look(world)["drifted"] == []
    for name in ("a", "b"):
        del world.taps[world.tap_of(f"vm/acme/{name}")]
    address = ResourceAddress("vm/acme/b")
    world.holds[address] = Hold(address, "root", "by hand", 0.0, "")
    document = look(world)
    assert [entry["resource"] for entry in document["drifted"]] == ["vm/acme/a", "vm/acme/b"]
    assert [entry["resource"] for entry in document["held"]] == ["vm/acme/a", "vm/acme/b"]


def test_a_dead_vm_is_a_recovery_and_an_unseen_one_is_unknown() -> None:
    world = applied()
    world.set_phase("vm/acme/a", "unknown")
    world.set_phase("vm/acme/b", "dead")
    document = look(world)
    assert [entry["resource"] for entry in document["unknown"]] == ["vm/acme/a"]
    assert [entry["resource"] for entry in document["recoveries"]] == ["vm/acme/b"]
    assert document["drifted"] == []
    world.network_problem = "netlink failed"
    document = look(world)
    assert [entry["reason"] for entry in document["unknown"]] == ["netlink failed"]
    assert (document["drifted"], document["unchanged"]) == ([], 0)


def test_with_nothing_on_record_nothing_differs_and_what_runs_is_told() -> None:
    world = applied()
    lost = World()
    lost.vms, lost.taps, lost.elements = world.vms, world.taps, world.elements
    document = look(lost)
    assert (document["recorded"], document["drifted"]) == (0, [])
    assert document["unrecorded"] == sorted(world.vms)
