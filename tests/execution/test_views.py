"""What `status`, `get` and `describe` say of what could not be seen, and of what is over."""

from __future__ import annotations

from dataclasses import replace

from reconciler.execution.views import Seen, description, status_document
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Hold
from reconciler.model.observed import Unknown
from tests.planning.test_left_alone import A, fleet, vm
from tests.planning.world import World


def seen(world: World, *, unlisted: str = "") -> Seen:
    observed = world.observed()
    if unlisted:
        observed = replace(observed, vms={}, unlisted=unlisted)
    return Seen(world.ledger(), observed, {})


def test_vms_that_cannot_be_listed_are_unknown_and_not_gone() -> None:
    world = World()
    world.apply(fleet(vm("a")))
    why = "the VMs' run folders cannot be listed"
    document = status_document(seen(world, unlisted=why), None)
    assert document["phases"] == {"unknown": 1}
    ready = document["vms"][0]["status"]["conditions"][0]
    assert (ready["status"], ready["reason"]) == ("Unknown", why)


def test_a_hold_that_is_over_is_shown_no_more() -> None:
    world = World()
    world.apply(fleet(vm("a")))
    tenant = ResourceAddress("tenant/acme")
    world.holds[A] = Hold(A, "op", "for an hour", world.now_s, "", world.now_s + 3600)
    world.holds[tenant] = Hold(tenant, "op", "for good", world.now_s, "")
    assert [hold["resource"] for hold in status_document(seen(world), None)["held"]] == [A, tenant]
    world.now_s += 3600
    now = seen(world)
    assert [hold["resource"] for hold in status_document(now, None)["held"]] == [tenant]
    assert description(now, world.managed[A], ())["hold"] is None


def test_other_firewalls_that_cannot_be_listed_are_unknown_and_not_none() -> None:
    world = World()
    world.apply(fleet(vm("a")))
    told = description(seen(world), world.managed[A], (), Unknown("nft ended with 1"))
    assert told["foreignChains"] is None
    assert description(seen(world), world.managed[A], (), ["x"])["foreignChains"] == ["x"]
