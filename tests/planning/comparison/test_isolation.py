"""An isolated VM's links are cut off before they go up, whatever happens, until it is over."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.errors import MetaldError
from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import isolating
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Isolation
from reconciler.model.observed import Unknown
from reconciler.model.plan import ChangeElements, Plan, RaiseTap, StartVm
from reconciler.planning.comparison.isolation import plan_isolation
from reconciler.planning.documents.prints import parts
from reconciler.planning.planner import Scope, plan_reboot
from tests.planning.test_left_alone import A, B, fleet, hold, vm
from tests.planning.world import World

BY_HAND = Scope(by_hand=True)
ENTRY = Isolation(A, "op", "it scans", 0.0)


def cut_off(world: World) -> set[str]:
    return {entry.key[0] for entry in world.elements if entry.container == "isolated"}


def isolate(world: World, entry: Isolation | None = ENTRY) -> Plan:
    world.isolations = {} if entry is None else {A: entry}
    made = plan_isolation(world.observed().network, world.ledger(), A, entry)
    world.carry_out(made)
    return made


def step_by_step(world: World, made: Plan) -> None:
    """Carry out a plan; no link of A's is up, and A does not run, before it is cut off."""
    world.carry_out(made, steps=0)
    for step in made.steps:
        operation = step.operation
        if isinstance(operation, RaiseTap) and operation.port.vm == A:
            assert isolating(operation.port.tap) in world.elements
        if isinstance(operation, StartVm) and operation.launch.vm == A:
            assert {entry.tap for entry in operation.launch.interfaces} <= cut_off(world)
        world.perform(operation)


def two(**spec: Any) -> Fleet:
    return fleet(vm("a", spec=spec), vm("b"))


def test_one_act_cuts_it_off_and_one_lets_it_rejoin() -> None:
    world = World()
    world.apply(two())
    before = set(world.elements)
    made = isolate(world)
    assert [change.reason for change in made.changes] == ["isolated by op: it scans"]
    assert cut_off(world) == {world.tap_of(A)}
    assert world.plan(two()).is_empty
    assert world.plan(two()).isolated == (ENTRY,)
    assert not isolate(world).steps, "it is so already"
    assert isolate(world, None).changes
    assert world.elements == before


def test_what_opens_it_is_drift_and_healed() -> None:
    world = World()
    world.apply(two())
    isolate(world)
    world.elements.discard(isolating(world.tap_of(A)))
    made = world.apply(two())
    assert [(c.resource, c.disruption) for c in made.changes] == [(A, "none")]
    assert cut_off(world) == {world.tap_of(A)}


@pytest.mark.parametrize("what", ["reboot", "restart", "reload", "one more interface", "anew"])
def test_it_is_never_open_in_between(what: str) -> None:
    world = World()
    world.apply(two())
    isolate(world)
    wanted = two()
    if what == "reboot":
        world.reboot_host()
    if what == "reload":
        world.listing = "changed by hand"
    if what == "restart":
        step_by_step(world, plan_reboot(world.observed(), world.ledger(), A))
    if what == "anew":
        world.apply(fleet(vm("b")))
        assert cut_off(world) == set(), "nothing is left of what is gone"
    if what == "one more interface":
        wanted = fleet(
            vm("a", spec={"interfaces": [{"network": "front"}, {"network": "front2"}]}), vm("b")
        )
        wanted = Fleet.of([*_all(wanted), *_all(fleet(network="front2"))[1:]])
    step_by_step(world, world.plan(wanted, BY_HAND))
    world.carry_out(world.plan(wanted, BY_HAND))
    assert world.plan(wanted).is_empty
    spec = world.managed[A].spec["interfaces"]
    assert len(spec) == 1 + (what == "one more interface")
    assert cut_off(world) == {entry["tap"] for entry in spec}


def _all(wanted: Fleet) -> list[Any]:
    return [*wanted.tenants.values(), *wanted.networks.values(), *wanted.vms.values()]


def test_a_link_that_a_running_plan_is_about_to_make_is_cut_off_as_well() -> None:
    world = World()
    world.apply(fleet(vm("b")))
    made = world.plan(two())
    world.carry_out(made, steps=0)  # recorded, and nothing done yet
    isolate(world)
    step_by_step(world, made)
    assert cut_off(world) == {world.tap_of(A)}


def test_a_table_that_is_gone_is_loaded_first_and_knows_the_link() -> None:
    world = World()
    world.apply(two())
    world.listing, world.elements = None, set()
    made = isolate(world)
    assert [type(step.operation).__name__ for step in made.steps] == [
        "LoadFirewall", "ChangeElements",
    ]  # fmt: skip
    assert {entry.container for entry in world.elements} == {"taps", "isolated"}


def test_it_ends_by_itself_and_the_plan_says_so() -> None:
    world = World()
    world.apply(two())
    isolate(world, Isolation(A, "op", "for a while", 0.0, world.now_s + 60))
    assert world.plan(two()).is_empty
    world.now_s += 61
    made = world.apply(two())
    assert [(c.resource, c.reason) for c in made.changes] == [(A, "it is isolated no longer")]
    assert cut_off(world) == set()
    assert made.isolated == ()


@pytest.mark.parametrize("how", ["held", "not a target", "only reported"])
def test_what_is_left_alone_stays_cut_off_and_is_not_opened(how: str) -> None:
    world = World()
    meta = {"reconcile": "report"} if how == "only reported" else {}
    wanted = fleet(vm("a", meta=meta), vm("b"))
    world.apply(wanted, BY_HAND)
    isolate(world, Isolation(A, "op", "for a while", 0.0, world.now_s + 60))
    scope = Scope(targets=frozenset({B})) if how == "not a target" else Scope()
    if how == "held":
        hold(world, A)
    world.apply(wanted, scope)
    assert cut_off(world) == {world.tap_of(A)}
    world.now_s += 61
    made = world.apply(wanted, scope)
    assert cut_off(world) == {world.tap_of(A)}, "nobody lets it rejoin who was not to touch it"
    assert A in {c.resource for c in made.reported} or how != "only reported"


def test_it_goes_along_with_a_rename() -> None:
    world = World()
    world.apply(two())
    isolate(world)
    wanted = fleet(vm("c", meta={"renamedFrom": "a"}), vm("b"))
    made = world.apply(wanted)
    assert {entry.address for entry in made.isolated} == {"vm/acme/c"}
    assert world.plan(wanted).is_empty
    assert cut_off(world) == {world.tap_of("vm/acme/c")}


def test_destroying_leaves_nothing() -> None:
    world = World()
    world.apply(two())
    isolate(world)
    world.apply(Fleet.of(()), Scope(destroy=True, by_hand=True))
    assert world.leftovers() == []


def test_a_left_over_of_a_link_that_is_nobodys_goes() -> None:
    world = World()
    world.apply(two())
    world.elements.add(isolating("mt0000000000ab"))
    world.apply(two())
    assert cut_off(world) == set()


def test_a_saved_plan_is_stale_once_somebody_was_isolated() -> None:
    world = World()
    world.apply(two())
    before = parts(world.observed(), world.ledger())
    world.isolations = {A: ENTRY}
    after = parts(world.observed(), world.ledger())
    assert {key for key in after if after[key] != before.get(key)} == {f"isolation of {A}"}


def test_who_is_unknown_is_refused_and_what_cannot_be_seen_is_told() -> None:
    world = World()
    world.apply(two())
    for address in ("vm/acme/z", "network/acme/front"):
        with pytest.raises(MetaldError, match="no such VM"):
            plan_isolation(world.observed().network, world.ledger(), ResourceAddress(address), None)
    made = plan_isolation(Unknown("netlink says no"), world.ledger(), A, ENTRY)
    assert made.blocked == ((A, "netlink says no"),)
    assert not made.steps


def test_nothing_else_is_touched() -> None:
    world = World()
    world.apply(two())
    made = plan_isolation(world.observed().network, world.ledger(), A, ENTRY)
    (step,) = made.steps
    assert step.operation == ChangeElements(frozenset({isolating(world.tap_of(A))}), frozenset())
