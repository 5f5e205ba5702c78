"""Resolvers: the network's, else the uplink's; on record with the interface, told in place."""

from __future__ import annotations

from typing import Any

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import ADVERTISED
from reconciler.model.resolved import LaunchSpec
from reconciler.planning.documents.undo import fleet_of as undo_of
from reconciler.planning.documents.undo import remember
from reconciler.planning.resolution.recorded import recorded_vm
from tests.planning.test_cases import fleet_of
from tests.planning.test_left_alone import document, vm
from tests.planning.world import World

A = ResourceAddress("vm/acme/a")
ONE, TWO, THERE = "2001:db8:53::1", "2001:db8:53::2", "2001:db8:53::99"


def declare(dns: list[str] | None, *, resolver: str = "", **interface: Any) -> Any:
    network = document("Network", "front", "acme", spec={} if dns is None else {"dns": dns})
    spec = {"uplink": {"interface": "up0", "resolver": resolver}} if resolver else {}
    rows = [document("Host", "rack", spec=spec), document("Tenant", "acme"), network]
    return fleet_of([*rows, vm("a", spec={"interfaces": [{"network": "front", **interface}]})])


def recorded(world: World) -> list[str] | None:
    found: list[str] | None = world.managed[A].spec["interfaces"][0].get("dns")
    return found


def test_the_networks_own_go_before_the_uplinks_and_none_is_none() -> None:
    for dns, resolver, expected in (
        (None, "", None),
        (None, THERE, [THERE]),
        ([ONE, TWO], THERE, [ONE, TWO]),
        ([], THERE, None),
    ):
        world = World()
        fleet = declare(dns, resolver=resolver)
        world.apply(fleet)
        assert recorded(world) == expected, (dns, resolver)
        assert world.plan(fleet).is_empty


def test_they_change_without_a_restart_and_count_when_it_starts_again() -> None:
    world = World()
    world.apply(declare([ONE]))
    made = world.apply(declare([TWO]))
    assert {str(change.disruption) for change in made.changes} == {"none"}
    assert {change.resource for change in made.changes} == {"network/acme/front", A}
    launch = recorded_vm(world.ledger(), world.managed[A]).launch
    assert launch.interfaces[0].resolvers == (TWO,)
    assert LaunchSpec.from_json(launch.to_json()) == launch
    running = world.vms[world.uid_of(A)]
    assert running.launch.interfaces[0].resolvers == (ONE,)  # type: ignore[union-attr]
    assert world.plan(declare([TWO])).is_empty, "that it was started with others is no difference"


def test_who_is_advertised_to_is_told_at_once() -> None:
    loose: dict[str, Any] = {"policy": {"slaac": True, "sourceValidation": {"address": "prefix"}}}
    world = World()

    def advertised() -> set[str]:
        return {e.value for e in world.elements if e.container == ADVERTISED}

    world.apply(declare([ONE], prefix="auto/64", **loose))
    assert advertised() == {ONE}
    world.apply(declare([ONE, TWO], prefix="auto/64", **loose))
    assert advertised() == {f"{ONE} {TWO}"}


def test_an_undo_brings_them_back() -> None:
    world = World()
    world.apply(declare([ONE]))
    before = remember(world.ledger())
    world.apply(declare(None))
    assert recorded(world) is None
    world.apply(undo_of(before, world.ledger()))
    assert recorded(world) == [ONE]


def test_who_is_advertised_to_is_told_of_the_nat64_too() -> None:
    world = World()
    uplink = {"uplink": {"interface": "up0", "nat64": "64:ff9b::/96"}}
    loose: dict[str, Any] = {"policy": {"slaac": True, "sourceValidation": {"address": "prefix"}}}
    rows = [document("Host", "rack", spec=uplink), document("Tenant", "acme"),
            document("Network", "front", "acme")]  # fmt: skip
    own = {"interfaces": [{"network": "front", "prefix": "auto/64", **loose}]}
    fleet = fleet_of([*rows, vm("a", spec=own), vm("b")])
    world.apply(fleet)
    assert {e.value for e in world.elements if e.container == ADVERTISED} == {"64:ff9b::/96"}
    told = {a: m.spec["interfaces"][0].get("nat64") for a, m in world.managed.items()
            if a.startswith("vm/")}  # fmt: skip
    assert told == {"vm/acme/a": "64:ff9b::/96", "vm/acme/b": None}
    assert world.plan(fleet).is_empty
