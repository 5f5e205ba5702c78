"""Rules that select VMs by label, against an oracle that asks VM by VM, and carried out."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import ALLOW, zone_class
from reconciler.model.plan import Plan
from reconciler.planning.documents.consequences import specs_after, specs_before
from reconciler.planning.reachability.reach import reach_delta
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

TENANTS = ("acme", "globex")
NETWORKS = tuple((tenant, name) for tenant in TENANTS for name in "ab")
LABELS: tuple[dict[str, str], ...] = (
    {}, {"app": "web"}, {"app": "db"}, {"app": "web", "tier": "x"}, {"tier": "x"},
)  # fmt: skip
PORT = 443
Pairs = set[tuple[str, str]]


def peers() -> st.SearchStrategy[Any]:
    selector = st.builds(
        lambda labels, tenant, network: {
            key: value
            for key, value in (("labels", labels), ("tenant", tenant), ("network", network))
            if value is not None
        },
        st.sampled_from(LABELS[1:]), st.sampled_from([None, *TENANTS]),
        st.sampled_from([None, "a", "b"]),
    )  # fmt: skip
    names = [f"tenant/{tenant}" for tenant in TENANTS]
    names += [f"network/{tenant}/{name}" for tenant, name in NETWORKS]
    return st.one_of(selector, selector, st.sampled_from(names))


@st.composite
def fleets(draw: st.DrawFn) -> list[dict[str, Any]]:
    head = {"apiVersion": "metald/v1"}
    rows: list[dict[str, Any]] = [
        {**head, "kind": "Tenant", "metadata": {"name": tenant}} for tenant in TENANTS
    ]

    def rules(side: str) -> list[dict[str, Any]]:
        listed = draw(st.lists(peers(), max_size=2))
        return [{side: peer, "protocol": "tcp", "ports": [PORT]} for peer in listed]

    for tenant, name in NETWORKS:
        egress = draw(st.sampled_from(["tenant", "none", "list"]))
        spec = {"ingress": rules("from"), "egress": rules("to") if egress == "list" else egress}
        metadata = {"name": name, "tenant": tenant}
        rows.append({**head, "kind": "Network", "metadata": metadata, "spec": spec})
        for number in range(draw(st.integers(1, 2))):
            labels = draw(st.sampled_from(LABELS))
            named = {"name": f"{name}{number}", "tenant": tenant, "labels": labels}
            machine = {"hypervisor": "simulated", "interfaces": [{"network": name}]}
            rows.append({**head, "kind": "VM", "metadata": named, "spec": machine})
    return rows


def spelled(row: dict[str, Any]) -> str:
    return f"vm/{row['metadata']['tenant']}/{row['metadata']['name']}"


def may(rows: list[dict[str, Any]]) -> Pairs:
    """The rules as the documentation says them, for each pair of VMs of different networks."""
    networks = {
        (r["metadata"]["tenant"], r["metadata"]["name"]): r["spec"]
        for r in rows
        if r["kind"] == "Network"
    }
    vms = [row for row in rows if row["kind"] == "VM"]

    def home(vm: dict[str, Any]) -> tuple[str, str]:
        return vm["metadata"]["tenant"], vm["spec"]["interfaces"][0]["network"]

    def is_named(peer: Any, vm: dict[str, Any], own: str) -> bool:
        tenant, network = home(vm)
        if isinstance(peer, str):
            return peer in {f"tenant/{tenant}", f"network/{tenant}/{network}"}
        return bool(
            peer.get("tenant", own) == tenant
            and peer.get("network", network) == network
            and peer["labels"].items() <= vm["metadata"]["labels"].items()
        )

    def agreed(one: dict[str, Any], two: dict[str, Any]) -> bool:
        source, target = home(one), home(two)
        ingress, egress = networks[target]["ingress"], networks[source]["egress"]
        if source == target or not any(is_named(r["from"], one, target[0]) for r in ingress):
            return False
        if isinstance(egress, str):
            return bool(egress == "tenant" and source[0] == target[0])
        return any(is_named(rule["to"], two, source[0]) for rule in egress)

    return {(spelled(a), spelled(b)) for a in vms for b in vms if agreed(a, b)}


def opened(world: World) -> Pairs:
    """What the kernel's entries let through."""
    placed = {(e.container, e.key[0]): e.value for e in world.elements if e.value}
    allowed = {e.key[:2] for e in world.elements if e.container == ALLOW}
    vms = [a for a in world.managed if a.startswith("vm/")]
    found = set()
    for one in vms:
        for two in vms:
            mark = placed["segment_of", world.tap_of(one)]
            assert placed["class_of", world.tap_of(two)] == zone_class(
                int(placed["segment_of", world.tap_of(two)])
            )
            if (mark, placed["class_of", world.tap_of(two)]) in allowed:
                found.add((str(one), str(two)))
    return found


@settings(max_examples=80, deadline=None)
@given(fleets(), fleets())
def test_who_reaches_whom_follows_labels(
    before: list[dict[str, Any]], after: list[dict[str, Any]]
) -> None:
    world = World()
    world.apply(fleet_of(before))
    assert opened(world) == may(before)
    assert world.plan(fleet_of(before)).is_empty
    uids = {a: m.uid for a, m in world.managed.items()}
    plan = world.plan(fleet_of(after))
    restarted = {c.resource for c in plan.changes if c.disruption == "restart"}
    assert not restarted, "labels are changed in place"
    world.carry_out(plan)
    assert opened(world) == may(after)
    assert world.plan(fleet_of(after)).is_empty
    assert all(world.managed[a].uid == uid for a, uid in uids.items() if a in world.managed)
    in_both = {spelled(r) for r in before if r["kind"] == "VM"} & {
        spelled(r) for r in after if r["kind"] == "VM"
    }
    told = {
        (change.change, change.entry.low)
        for change in reach_delta(specs_before(plan), specs_after(plan))
    }
    was, now = ({p for p in may(rows) if in_both >= set(p)} for rows in (before, after))
    assert not now - was or ("reachable", PORT) in told
    assert not was - now or ("unreachable", PORT) in told


def fleet(count: int, *, labelled: bool = True) -> list[dict[str, Any]]:
    head = {"apiVersion": "metald/v1"}
    rule = {"from": {"labels": {"app": "web"}}, "protocol": "tcp", "ports": [PORT]}
    rows: list[dict[str, Any]] = [
        {**head, "kind": "Tenant", "metadata": {"name": "acme"}},
        {**head, "kind": "Network", "metadata": {"name": "a", "tenant": "acme"}},
        {**head, "kind": "Network", "metadata": {"name": "b", "tenant": "acme"},
         "spec": {"ingress": [rule]}},
    ]  # fmt: skip
    for number in range(count):
        labels = {"app": "web"} if labelled and number % 2 else {}
        metadata = {"name": f"v{number}", "tenant": "acme", "labels": labels}
        spec = {"hypervisor": "simulated", "interfaces": [{"network": "a"}]}
        rows.append({**head, "kind": "VM", "metadata": metadata, "spec": spec})
    return rows


def test_the_number_of_entries_follows_from_selectors_and_never_from_vms() -> None:
    counts = []
    for vms in (2, 20, 200):
        world = World()
        world.apply(fleet_of(fleet(vms)))
        counts.append(sum(element.container == ALLOW for element in world.elements))
    assert counts == [1, 1, 1]


def test_a_segments_number_is_kept_and_then_quarantined() -> None:
    world = World()
    world.apply(fleet_of(fleet(2)))
    network = ResourceAddress("network/acme/a")
    (segment,) = world.managed[network].spec["segments"]
    world.apply(fleet_of(fleet(4)))
    assert world.managed[network].spec["segments"] == [segment]
    world.apply(fleet_of(fleet(2, labelled=False)))
    assert "segments" not in world.managed[network].spec
    assert ("zone", str(segment["number"])) in world.quarantine
    world.apply(fleet_of(fleet(2)))
    assert world.managed[network].spec["segments"] == [segment], "who comes back gets its own"


def places(plan: Plan, what: str) -> list[int]:
    return [place for place, step in enumerate(plan.steps) if what in step.key]


def test_rules_are_there_before_anybody_is_in_a_segment_and_go_afterwards() -> None:
    world = World()
    world.apply(fleet_of(fleet(2, labelled=False)))
    plan = world.plan(fleet_of(fleet(2)))
    bind, rules = places(plan, ":bind:"), places(plan, ":policy")
    assert bind and rules and max(rules) < min(bind)
    world.carry_out(plan)
    back = world.plan(fleet_of(fleet(2, labelled=False)))
    bind, left = places(back, ":bind:"), places(back, ":left")
    assert bind and left and max(bind) < min(left)
    told = reach_delta(specs_before(back), specs_after(back))
    assert [(c.entry.source, c.entry.target, c.change) for c in told] == [
        ("network/acme/a[app=web]", "network/acme/b", "unreachable")
    ]
