"""Prefixes delegated to VMs: drawn once, kept, never a network's, changed in place, quarantined."""

from __future__ import annotations

from ipaddress import IPv6Network
from typing import Any

import pytest

from reconciler.model.addresses import ResourceAddress
from reconciler.model.identity import link_local_of
from reconciler.model.plan import Plan
from reconciler.planning.documents.undo import fleet_of as undo_of
from reconciler.planning.documents.undo import remember
from tests.planning.test_cases import fleet_of
from tests.planning.test_left_alone import document, vm
from tests.planning.world import World

PREFIX = "fd20:acde::/56"
A, B = "vm/acme/a", "vm/acme/b"


def declare(*vms: dict[str, Any], networks: tuple[str, ...] = ("front",)) -> Any:
    rows = [document("Tenant", "acme", spec={"prefix": PREFIX})]
    return fleet_of([*rows, *(document("Network", name, "acme") for name in networks), *vms])


def with_prefix(name: str, prefix: str = "auto/64") -> dict[str, Any]:
    spec = {"interfaces": [{"network": "front", "prefix": prefix}]}
    return vm(name, spec=spec)


def applied(world: World, fleet: Any) -> Plan:
    made = world.apply(fleet)
    assert world.plan(fleet).is_empty
    return made


def prefix_of(world: World, address: str) -> str | None:
    entry = world.managed[ResourceAddress(address)].spec["interfaces"][0]
    found: str | None = entry.get("prefix")
    return found


def test_it_is_drawn_from_the_tenants_and_routed_to_the_guest() -> None:
    world = World()
    applied(world, declare(with_prefix("a")))
    found = prefix_of(world, A)
    assert found is not None and IPv6Network(found).subnet_of(IPv6Network(PREFIX))
    tap = world.taps[world.tap_of(A)]
    mac = world.managed[ResourceAddress(A)].spec["interfaces"][0]["mac"]
    assert f"{found} via {link_local_of(mac)}" in tap.routes
    upper = f"{int(IPv6Network(found).network_address) >> 64:#x}"
    keys = {(e.container, e.key[-1]) for e in world.elements}
    assert {("source_prefixes", upper), ("member_prefixes", upper)} <= keys


def test_every_subnet_of_a_tenant_is_given_once_and_then_there_is_none() -> None:
    """A /56 has 256: networks and VMs draw from the same."""
    world = World()
    networks = (*(f"n{number}" for number in range(56)), "front")
    vms = [with_prefix(f"v{number}") for number in range(199)]
    applied(world, declare(*vms, networks=networks))
    given = [prefix_of(world, f"vm/acme/v{number}") for number in range(199)]
    given += [str(world.managed[ResourceAddress(f"network/acme/{n}")].spec["prefix"])
              for n in networks]  # fmt: skip
    assert len(set(given)) == 256
    with pytest.raises(AssertionError, match="has no free /64: all 256 are taken"):
        world.plan(declare(*vms, with_prefix("more"), networks=networks))


def test_it_comes_and_goes_under_a_running_guest_and_is_kept_from_others() -> None:
    world = World()
    applied(world, declare(vm("a")))
    before = dict(world.managed[ResourceAddress(A)].spec["interfaces"][0])
    made = applied(world, declare(with_prefix("a")))
    assert [str(change.disruption) for change in made.changes] == ["none"]
    drawn = prefix_of(world, A)
    assert drawn is not None
    made = applied(world, declare(vm("a")))
    assert [str(change.disruption) for change in made.changes] == ["none"]
    assert world.managed[ResourceAddress(A)].spec["interfaces"][0] == before
    assert ("prefix", drawn) in world.quarantine
    assert not [route for route in world.taps[world.tap_of(A)].routes if "via" in route]
    many = [with_prefix(f"v{number}") for number in range(200)]
    applied(world, declare(vm("a"), *many))
    assert drawn not in {prefix_of(world, f"vm/acme/v{number}") for number in range(200)}


def test_what_is_declared_goes_before_what_was_drawn() -> None:
    world = World()
    applied(world, declare(with_prefix("a")))
    drawn = prefix_of(world, A)
    assert drawn is not None
    applied(world, declare(with_prefix("a"), with_prefix("b", drawn)))
    assert prefix_of(world, B) == drawn != prefix_of(world, A)


def test_an_undo_gives_the_very_same_back() -> None:
    world = World()
    applied(world, declare(with_prefix("a")))
    drawn, remembered = prefix_of(world, A), remember(world.ledger())
    applied(world, declare(vm("a")))
    applied(world, undo_of(remembered, world.ledger()))
    assert prefix_of(world, A) == drawn
