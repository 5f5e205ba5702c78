"""What a plan must not do at the edges of what is seen, known and free."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv6Address
from typing import Any

import pytest

from reconciler.errors import SpecError
from reconciler.execution.engine import Request, decide
from reconciler.model.addresses import ResourceAddress
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold, Retry
from reconciler.model.observed import ImageFacts, Unknown
from reconciler.model.plan import ChangeElements, RemoveTap, StartVm
from reconciler.planning.bounds.guards import UNATTENDED
from reconciler.planning.documents.render import SourceInfo
from reconciler.planning.planner import Scope, plan_reboot
from tests.planning.test_cases import fleet_of
from tests.planning.test_properties import documents
from tests.planning.world import World

VM = ResourceAddress("vm/acme/a")
LAN: dict[str, Any] = {"boot": {"image": "minimal"}, "interfaces": [{"network": "front"}]}
STATIC = "fd20:acde:0:1::5"


def of(**vms: dict[str, Any]) -> Fleet:
    return fleet_of(documents(vms))


def prefixed(*vms: str, renamed: str = "") -> Fleet:
    """A tenant and a network with declared prefixes; each VM wants the same address."""
    spec = {**LAN, "interfaces": [{"network": "front", "address": STATIC}]}
    rows = documents(dict.fromkeys(vms, spec))
    rows[0]["spec"] = {"prefix": "fd20:acde::/48"}
    rows[1]["spec"] = {"prefix": "fd20:acde:0:1::/64"}
    if renamed:
        rows[0]["metadata"] = {"name": renamed, "renamedFrom": "acme"}
        for row in rows[1:]:
            row["metadata"]["tenant"] = renamed
    return fleet_of(rows)


def test_an_unknown_folder_beside_new_vms_keeps_nothing_from_the_record() -> None:
    world = World()
    world.vms["feedfeed"] = Unknown("its record cannot be read")
    made = world.plan(of(a=LAN))
    started = {s.operation.launch.uid for s in made.steps if isinstance(s.operation, StartVm)}
    assert started
    assert started <= {entry.uid for entry in made.registrations}


def test_a_reboot_starts_nothing_while_the_vms_cannot_be_listed() -> None:
    world = World()
    world.apply(of(a=LAN))
    observed = replace(world.observed(), vms={}, unlisted="the run folder cannot be read")
    made = plan_reboot(observed, world.ledger(), VM)
    assert made.blocked and not made.steps


def test_a_vm_that_cannot_be_seen_keeps_what_its_new_spec_names_no_more() -> None:
    world = World()
    world.apply(of(a=LAN))
    bare = of(a={**LAN, "interfaces": []})
    # Recorded, and nothing of it done; then the VM cannot be seen.
    world.carry_out(world.plan(bare), steps=0)
    world.set_phase("vm/acme/a", "unknown")
    made = world.plan(bare)
    assert (VM, "its QMP socket does not answer") in made.blocked
    assert not [s for s in made.steps if isinstance(s.operation, RemoveTap | ChangeElements)]


def test_an_address_of_a_held_vm_is_refused_to_another_by_name() -> None:
    world = World()
    world.apply(prefixed("a"))
    world.holds[VM] = Hold(VM, "op", "looking at it", 0.0, "")
    made = world.plan(prefixed("b"))
    why = f"address {STATIC} is still vm/acme/a's, which has to stay for now"
    assert made.refused == (("vm/acme/b", why),) and not made.allocations
    del world.holds[VM]
    assert world.plan(prefixed("b")).allocations


def test_who_wants_what_a_held_vm_has_waits_alone_and_so_does_who_waits_for_theirs() -> None:
    def at(**ends: int) -> Fleet:
        fleet = prefixed(*ends)
        rows = {
            address: vm.model_copy(update={"spec": vm.spec.model_copy(update={"interfaces": (
                vm.spec.interfaces[0].model_copy(
                    update={"address": IPv6Address(f"fd20:acde:0:1::{ends[vm.metadata.name]}")}
                ),)})})
            for address, vm in fleet.vms.items()
        }  # fmt: skip
        return replace(fleet, vms=rows)

    world = World()
    world.apply(at(a=5, b=6, c=7))
    hold = Hold(VM, "op", "looking at it", 0.0, "")
    world.holds[VM] = hold
    wanted = at(a=9, b=5, c=6, d=7, e=8)
    made = world.apply(wanted)
    assert [address for address, _ in made.refused] == ["vm/acme/b", "vm/acme/c", "vm/acme/d"]
    assert {change.resource for change in made.changes} == {"vm/acme/e"}
    assert {entry.resource for entry in made.allocations} == {"vm/acme/e"}
    world.holds = {}
    world.apply(wanted)
    assert world.plan(wanted).is_empty


def test_a_prefix_that_a_held_network_keeps_is_waited_for_by_the_network_and_its_new_vms() -> None:
    def moved(**networks: int) -> Fleet:
        tenant, network, *_, vm = documents({"a": LAN})
        tenant["spec"] = {"prefix": "fd20:acde::/48"}
        rows = [tenant]
        for name, number in networks.items():
            prefix = {"prefix": f"fd20:acde:0:{number}::/64"}
            metadata = {"name": name, "tenant": "acme"}
            rows.append({**network, "metadata": metadata, "spec": prefix})
        for name, home in (("a", "one"), ("b", next(reversed(networks)))):
            spec = {**LAN, "interfaces": [{"network": home}]}
            rows.append({**vm, "metadata": {"name": name, "tenant": "acme"}, "spec": spec})
        return fleet_of(rows)

    world = World()
    world.apply(moved(one=1, two=2))
    one = ResourceAddress("network/acme/one")
    world.holds[one] = Hold(one, "op", "looking at it", 0.0, "")
    wanted = moved(one=3, two=1, three=4)
    made = world.apply(wanted)
    assert [address for address, _ in made.refused] == ["network/acme/two"]
    assert {change.resource for change in made.changes} == {"network/acme/three", "vm/acme/b"}
    world.holds = {}
    world.apply(wanted)
    assert world.plan(wanted).is_empty


def test_a_rename_that_is_done_keeps_no_later_rename_of_the_tenant_from_it() -> None:
    world = World()
    world.apply(prefixed("a"))
    before = {address.split("/")[-1]: entry.uid for address, entry in world.managed.items()}
    moved = prefixed("a", renamed="gamma")
    network = moved.networks[ResourceAddress("network/gamma/front")]
    # It may stay in the spec when it is done, or names what never was here.
    stale = network.metadata.model_copy(update={"renamed_from": "long-ago"})
    networks = {**moved.networks, network.address: network.model_copy(update={"metadata": stale})}
    made = world.apply(replace(moved, networks=networks))
    assert {change.action for change in made.changes} == {"update"}
    after = {address.split("/")[-1]: entry.uid for address, entry in world.managed.items()}
    assert after.pop("gamma") == before.pop("acme")
    assert after == before


def test_a_clock_set_back_delays_no_restart() -> None:
    world = World()
    world.apply(of(a=LAN))
    for _ in range(3):
        world.set_phase("vm/acme/a", "dead")
        world.apply(of(a=LAN))
        world.now_s += 100
    world.set_phase("vm/acme/a", "dead")
    world.now_s -= 3 * 86_400
    made = world.plan(of(a=LAN))
    assert [s for s in made.steps if isinstance(s.operation, StartVm)]


def test_a_clock_set_back_delays_no_retry() -> None:
    world = World()
    world.apply(of(a=LAN))
    world.set_phase("vm/acme/a", "dead")
    world.now_s += 1000
    known = world.managed[VM].spec_hash
    world.retries[VM] = Retry(VM, 3, world.now_s + 200, "it failed", known)
    assert world.plan(of(a=LAN)).waiting and not world.plan(of(a=LAN)).steps
    world.now_s -= 3 * 86_400
    assert world.plan(of(a=LAN)).steps and not world.plan(of(a=LAN)).waiting


def vms(*named: tuple[str, str, list[str]], networks: dict[str, str]) -> Fleet:
    """(name, name before, networks) of VMs, and networks with their names before."""
    rows = documents({})[:1]
    head = {"apiVersion": "metald/v1"}
    for name, before in networks.items():
        meta = {"name": name, "tenant": "acme"} | ({"renamedFrom": before} if before else {})
        rows.append({**head, "kind": "Network", "metadata": meta})
    for name, before, places in named:
        meta = {"name": name, "tenant": "acme"} | ({"renamedFrom": before} if before else {})
        spec = {**LAN, "interfaces": [{"network": place} for place in places]}
        rows.append({**head, "kind": "VM", "metadata": meta, "spec": spec})
    return fleet_of(rows)


def taps(world: World) -> list[str]:
    entries = (m.spec.get("interfaces", ()) for m in world.managed.values())
    return [entry["tap"] for interfaces in entries for entry in interfaces]


def test_a_name_used_again_after_a_rename_is_another_interface() -> None:
    world, lan = World(), {"front": ""}
    world.apply(vms(("a", "", []), networks=lan))
    world.apply(vms(("c", "a", []), networks=lan))
    world.apply(vms(("c", "", ["front"]), networks=lan))
    world.apply(vms(("b", "c", ["front"]), networks=lan))
    world.apply(vms(("b", "", ["front"]), ("c", "", ["front"]), networks=lan))
    assert len(set(taps(world))) == 2


def test_a_network_name_used_again_after_a_rename_is_another_interface() -> None:
    world = World()
    world.apply(vms(("a", "", ["front"]), networks={"front": ""}))
    world.apply(vms(("a", "", ["back"]), networks={"back": "front"}))
    world.apply(vms(("a", "", ["back", "front"]), networks={"back": "", "front": ""}))
    assert len(set(taps(world))) == 2


def test_a_link_of_ours_whose_alias_was_changed_does_not_stay() -> None:
    world = World()
    world.apply(of(a=LAN))
    tap = world.tap_of("vm/acme/a")
    bare = of(a={**LAN, "interfaces": [], "power": "stopped"})
    world.carry_out(world.plan(bare), steps=0)
    world.taps[tap] = replace(world.taps[tap], alias="metald ? ?")
    world.apply(bare)
    assert tap not in world.taps


def test_what_may_not_be_deleted_unasked_may_not_be_replaced_unasked_either() -> None:
    world = World()
    names = [f"vm{number}" for number in range(8)]
    world.apply(of(**dict.fromkeys(names, LAN)))
    elsewhere = {**LAN, "hypervisor": "simulated"}
    other = of(**dict.fromkeys(names, elsewhere))
    request = Request(other, SourceInfo("specs"), strict=False, limit=UNATTENDED)
    made = decide(request, world.observed(), world.ledger())
    assert not made.changes
    assert len(made.refused) == len(names)
    assert "--plan-hash" in made.refused[0][1]


def test_a_resource_that_waits_for_its_next_try_gives_nothing_up_meanwhile() -> None:
    world = World()
    world.apply(of(a=LAN))
    without = of(a={**LAN, "interfaces": []})
    first = world.plan(without)
    assert first.releases
    world.carry_out(first, steps=1)
    spec_hash = world.managed[VM].spec_hash
    world.retries = {VM: Retry(VM, 1, world.now_s + 10, "its tap is busy", spec_hash)}
    assert not world.plan(without).releases
    address = next(entry.value for entry in first.releases if entry.kind == "address")
    taking: dict[str, Any] = {**LAN, "interfaces": [{"network": "front", "address": address}]}
    made = world.plan(of(a={**LAN, "interfaces": []}, b=taking))
    assert made.refused == (
        ("vm/acme/b", f"address {address} is still vm/acme/a's, which has to stay for now"),
    )
    world.now_s += 20
    assert world.plan(without).releases == first.releases


def test_a_vm_that_is_stopped_keeps_its_network_until_it_has_stopped() -> None:
    world = World()
    world.apply(of(a=LAN))
    made = world.plan(of(a={**LAN, "interfaces": [], "power": "stopped"}))
    order = [type(step.operation).__name__ for step in made.steps]
    assert order == ["StopVm", "RemoveTap", "ChangeElements"]


def test_a_vm_that_completed_is_not_started_anew_because_its_network_is_renamed() -> None:
    world = World()
    once = {**LAN, "restart": "never"}
    world.apply(of(a=once))
    world.set_phase(VM, "off")
    world.apply(of(a=once))
    rows = documents({"a": {**once, "interfaces": [{"network": "lan"}]}})
    rows[1]["metadata"] = {"name": "lan", "tenant": "acme", "renamedFrom": "front"}
    made = world.plan(fleet_of(rows))
    assert not any(isinstance(step.operation, StartVm) for step in made.steps)


def test_what_the_daemons_guard_keeps_is_refused_so_that_nobody_calls_it_converged() -> None:
    world = World()
    names = [f"vm{number}" for number in range(8)]
    world.apply(of(**dict.fromkeys(names, LAN)))
    request = Request(of(), SourceInfo("specs"), strict=False, limit=UNATTENDED)
    made = decide(request, world.observed(), world.ledger())
    assert not (made.changes or made.steps)
    assert {address for address, _ in made.refused} == {f"vm/acme/{name}" for name in names}


def test_a_value_that_another_declares_is_let_go_also_when_the_other_has_to_wait() -> None:
    """`front` declares the prefix that `back` has, and is left out at first: then it gets it."""

    def fleet(*, front: str, back: str) -> Fleet:
        rows = documents({})
        rows[0]["spec"] = {"prefix": "fd20:acde::/48"}
        rows[1]["spec"], rows[2]["spec"] = {"prefix": front}, {"prefix": back}
        return fleet_of(rows)

    wanted = "fd20:acde:0:1::/64"
    front = ResourceAddress("network/acme/front")
    world = World()
    world.apply(fleet(front="auto", back=wanted))
    after = fleet(front=wanted, back="auto")
    moved = world.plan(after, Scope(exclude=frozenset({front})))
    assert [entry.value for entry in moved.releases] == [wanted]
    # Cut short before it is let go of.
    world.carry_out(replace(moved, releases=()))
    world.apply(after)
    assert world.plan(after).is_empty
    assert world.allocations["prefix", wanted].resource == front


def test_what_cannot_go_before_its_next_try_gives_its_prefix_to_nobody() -> None:
    """`front` goes, after its VM, whose stop failed: `back`, which declares its prefix, waits."""

    def fleet(*vms: str, front: str, back: str) -> Fleet:
        rows = documents(dict.fromkeys(vms, LAN))
        rows[0]["spec"] = {"prefix": "fd20:acde::/48"}
        rows[1]["spec"], rows[2]["spec"] = {"prefix": front}, {"prefix": back}
        return fleet_of([row for row in rows if vms or row["metadata"]["name"] != "front"])

    wanted = "fd20:acde:0:1::/64"
    world = World()
    world.apply(fleet("a", front=wanted, back="auto"))
    spec_hash = world.managed[VM].spec_hash
    world.retries[VM] = Retry(VM, 1, world.now_s + 10, "it does not stop", spec_hash)
    after = fleet(front="", back=wanted)
    made = world.plan(after)
    assert {address for address, _ in made.refused} == {"network/acme/back"}
    assert not made.allocations
    world.now_s += 20
    world.apply(after)
    assert world.plan(after).is_empty
    assert world.allocations["prefix", wanted].resource == "network/acme/back"


def test_a_wrong_rename_deletes_nothing_also_when_its_vm_cannot_be_resolved() -> None:
    """`b` says it was `a`, both are on record, and the image cannot be read: `a` is not gone."""
    world = World()
    world.apply(of(a=LAN, b=LAN))
    rows = documents({"b": LAN})
    rows[-1]["metadata"]["renamedFrom"] = "a"
    world.images["minimal"] = ImageFacts(problem="it cannot be read", hint="put it there")
    request = Request(fleet_of(rows), SourceInfo("specs"), strict=False)
    with pytest.raises(SpecError):
        decide(request, world.observed(), world.ledger())
