"""What a plan tells of reach is what carrying it out does to the kernel's entries, renames too."""

from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.model.addresses import tenant_of
from reconciler.model.firewall import Element
from reconciler.planning.documents.consequences import specs_after, specs_before
from reconciler.planning.reachability.probes import held_by_pair
from reconciler.planning.reachability.ranges import PROTOCOLS
from reconciler.planning.reachability.reach import reach_delta
from tests.planning.reachability.test_policy import HIGHEST, LOWEST, Specs, fleets, spelled_out
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

HEADERS = {"tcp": 6, "udp": 17, "icmpv6": 58, "other": 253}
Cells = set[tuple[str, str, str, int]]


def documents(specs: Specs, renames: dict[str, str]) -> list[dict[str, Any]]:
    """Tenants, networks under their new names, and a VM in each."""
    networks = [address for address in specs if address.startswith("network/")]
    head = {"apiVersion": "metald/v1"}
    tenants = sorted({tenant_of(address) for address in networks})
    rows = [{**head, "kind": "Tenant", "metadata": {"name": tenant}} for tenant in tenants]
    for address in networks:
        tenant, name = tenant_of(address), address.rsplit("/", 1)[1]
        metadata = {"name": renames.get(address, name), "tenant": tenant}
        if address in renames:
            metadata["renamedFrom"] = name
        spec = {
            side: _with_new_names(specs[address][side], renames) for side in ("ingress", "egress")
        }
        rows.append({**head, "kind": "Network", "metadata": metadata, "spec": spec})
        interfaces = [{"network": metadata["name"]}]
        machine = {"hypervisor": "simulated", "interfaces": interfaces}
        named = {"name": f"on-{name}", "tenant": tenant}
        rows.append({**head, "kind": "VM", "metadata": named, "spec": machine})
    return rows


def _with_new_names(rules: Any, renames: dict[str, str]) -> Any:
    if isinstance(rules, str):
        return rules
    peers = {old: f"{old.rsplit('/', 1)[0]}/{new}" for old, new in renames.items()}
    return [
        {key: peers.get(value, value) if key in {"from", "to"} else value
         for key, value in rule.items()}
        for rule in rules
    ]  # fmt: skip


def cells(elements: set[Element], specs: Any) -> Cells:
    """What the kernel's entries let through, packet by packet."""
    return {
        (*pair, protocol, port)
        for pair, entries in held_by_pair(elements, specs).items()
        for entry in entries
        for protocol in PROTOCOLS
        for port in range(LOWEST, HIGHEST + 2)
        if entry.headers[0] <= HEADERS[protocol] <= entry.headers[1]
        and entry.ports[0] <= port <= entry.ports[1]
    }


@settings(max_examples=60)
@given(fleets(), fleets(), st.booleans(), st.booleans())
def test_what_is_told_is_what_happens(
    before: Specs, after: Specs, renaming: bool, following: bool
) -> None:
    world = World()
    world.apply(fleet_of(documents(before, {})))
    renames: dict[str, str] = {}
    if renaming:
        both = (a for a in before if a in after and a.startswith("network/"))
        renames = dict.fromkeys(list(both)[:1], "renamed")
    declared = documents(after, renames)
    if not following:
        old = (row for row in documents(after, {}) if row["kind"] == "Network")
        stale = {str(row["metadata"]): row for row in old}
        declared = [
            row if row["kind"] == "VM" else stale.get(str(row["metadata"]), row) for row in declared
        ]
    plan = world.plan(fleet_of(declared))
    known = {**specs_after(plan), **specs_before(plan)}
    held = set(world.elements)
    world.carry_out(plan)
    assert world.plan(fleet_of(declared)).is_empty
    told = reach_delta(specs_before(plan), specs_after(plan))
    was, is_now = cells(held, known), cells(world.elements, known)
    assert set(spelled_out(c.entry for c in told if c.change == "reachable")) == is_now - was
    assert set(spelled_out(c.entry for c in told if c.change == "unreachable")) == was - is_now
