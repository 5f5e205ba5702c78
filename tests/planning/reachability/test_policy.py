"""Rules between networks against an oracle that asks port by port, and what plans make of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.addresses import ResourceAddress, tenant_of
from reconciler.planning.reachability.policy import allowed_between, idle_rules
from reconciler.planning.reachability.ranges import PROTOCOLS
from reconciler.planning.reachability.reach import Witness, reach, reach_delta, reach_document

ROOT = Path(__file__).parents[3]
NETWORKS = tuple(
    ResourceAddress(f"network/{tenant}/{name}") for tenant in ("acme", "globex") for name in "ab"
)
PEERS = (*NETWORKS, "tenant/acme", "tenant/globex")
# Few ports, so that spans touch, overlap and miss each other often.
LOWEST, HIGHEST = 1, 12
Specs = dict[ResourceAddress, dict[str, Any]]


@st.composite
def rules(draw: st.DrawFn, side: str) -> dict[str, Any]:
    protocol = draw(st.sampled_from(["any", "tcp", "udp", "icmpv6"]))
    ports: list[int | str] = []
    if protocol in {"tcp", "udp"}:
        for _ in range(draw(st.integers(0, 3))):
            low = draw(st.integers(LOWEST, HIGHEST))
            high = draw(st.integers(low, HIGHEST))
            ports.append(low if low == high else f"{low}-{high}")
    return {side: draw(st.sampled_from(PEERS)), "protocol": protocol, "ports": ports}


@st.composite
def fleets(draw: st.DrawFn) -> Specs:
    specs: Specs = {}
    for number, address in enumerate(draw(st.sets(st.sampled_from(NETWORKS), min_size=1))):
        egress = draw(
            st.one_of(st.sampled_from(["tenant", "none"]), st.lists(rules("to"), max_size=3))
        )
        ingress = draw(st.lists(rules("from"), max_size=3))
        specs[address] = {"zone": number + 1, "egress": egress, "ingress": ingress}
        tenant, name = address.split("/")[1:]
        specs[ResourceAddress(f"vm/{tenant}/{name}")] = {
            "interfaces": [{"network": name, "addresses": [f"fd00:{number}::1"]}]
        }
    return specs


def matches(rule: dict[str, Any], side: str, peer: str, protocol: str, port: int) -> bool:
    if rule[side] not in {peer, f"tenant/{tenant_of(ResourceAddress(peer))}"}:
        return False
    if rule["protocol"] not in {"any", protocol}:
        return False
    spans = [str(entry).partition("-") for entry in rule["ports"]]
    return not spans or any(int(a) <= port <= int(b or a) for a, _, b in spans)


def may(specs: Specs, source: str, target: str, protocol: str, port: int) -> bool:
    """The rules as the documentation says them, for one packet."""
    if source == target:
        return True
    ingress = specs[ResourceAddress(target)]["ingress"]
    if not any(matches(rule, "from", source, protocol, port) for rule in ingress):
        return False
    egress = specs[ResourceAddress(source)]["egress"]
    if isinstance(egress, str):
        return egress == "tenant" and source.split("/")[1] == target.split("/")[1]
    return any(matches(rule, "to", target, protocol, port) for rule in egress)


def table(specs: Specs) -> set[tuple[str, str, str, int]]:
    networks = [address for address in specs if address.startswith("network/")]
    return {
        (source, target, protocol, port)
        for source in networks
        for target in networks
        for protocol in PROTOCOLS
        for port in range(LOWEST, HIGHEST + 2)
        if may(specs, source, target, protocol, port)
    }


def spelled_out(entries: Any) -> list[tuple[str, str, str, int]]:
    return [
        (entry.source, entry.target, protocol, port)
        for entry in entries
        for protocol in (PROTOCOLS if entry.protocol == "any" else (entry.protocol,))
        for port in range(LOWEST, HIGHEST + 2)
        if entry.low <= port <= entry.high
    ]


@given(fleets())
def test_the_matrix_is_what_the_rules_say_packet_by_packet(specs: Specs) -> None:
    found = spelled_out(reach(specs))
    assert set(found) == table(specs)
    assert len(found) == len(set(found)), "no two entries overlap: the kernel takes none that do"


@given(fleets(), fleets())
def test_a_change_tells_exactly_what_differs(before: Specs, after: Specs) -> None:
    changes = reach_delta(before, after)
    opened = spelled_out(c.entry for c in changes if c.change == "reachable")
    closed = spelled_out(c.entry for c in changes if c.change == "unreachable")
    between = {cell for cell in table(before) if cell[0] != cell[1]}
    between_after = {cell for cell in table(after) if cell[0] != cell[1]}
    assert sorted(opened) == sorted(between_after - between)
    assert sorted(closed) == sorted(between - between_after)


@given(fleets(), fleets())
def test_every_witness_tells_the_two_sides_apart(before: Specs, after: Specs) -> None:
    for change in reach_delta(before, after):
        packet = change.witness
        assert isinstance(packet, Witness), "every network here has a VM"
        cell = (change.entry.source, change.entry.target, packet.protocol, packet.port)
        specs = after if change.change == "reachable" else before
        assert may(specs, *cell)
        assert packet.source.vm != packet.target.vm


@given(fleets())
def test_nothing_changes_against_itself(specs: Specs) -> None:
    assert reach_delta(specs, specs) == ()
    assert allowed_between(specs) == allowed_between(dict(reversed(specs.items())))


@given(fleets())
def test_a_rule_is_idle_when_no_packet_of_it_passes(specs: Specs) -> None:
    idle = {(rule.network, rule.side, rule.index) for rule in idle_rules(specs)}
    cells = {cell for cell in table(specs) if cell[0] != cell[1]}
    networks = [address for address in specs if address.startswith("network/")]
    expected = set()
    for network in networks:
        for side, key in (("ingress", "from"), ("egress", "to")):
            listed = specs[network][side]
            for index, rule in enumerate(() if isinstance(listed, str) else listed):
                peers = {rule[key], *(n for n in networks if f"tenant/{tenant_of(n)}" == rule[key])}
                ways = [(p, network) if key == "from" else (network, p) for p in peers]
                passing = any(cell[:2] in ways and matches_cell(rule, cell) for cell in cells)
                if (peers & set(networks)) - {network} and not passing:
                    expected.add((network, side, index))
    assert idle == expected


def matches_cell(rule: dict[str, Any], cell: tuple[str, str, str, int]) -> bool:
    side = "from" if "from" in rule else "to"
    return matches(rule, side, cell[0] if side == "from" else cell[1], cell[2], cell[3])


FRONT, BACK = ResourceAddress("network/acme/front"), ResourceAddress("network/acme/back")


def opened(**vms: dict[str, Any]) -> dict[str, Any]:
    """What the plan's document says when back opens to front, with these VMs."""
    rule = {"from": FRONT, "protocol": "icmpv6"}
    specs: Specs = {
        FRONT: {"zone": 1},
        BACK: {"zone": 2},
        **{ResourceAddress(f"vm/acme/{name}"): spec for name, spec in vms.items()},
    }
    (entry,) = reach_document(reach_delta(specs, {**specs, BACK: {"zone": 2, "ingress": [rule]}}))
    return entry


def attached(*networks: str, power: str = "running") -> dict[str, Any]:
    interfaces = [
        {"network": network, "addresses": [f"fd00::{number}"]}
        for number, network in enumerate(networks, start=1)
    ]
    return {"interfaces": interfaces, "power": power}


def test_without_two_vms_the_reason_is_told() -> None:
    assert opened(web=attached("front"))["reason"] == "network/acme/back has no VM"
    assert opened(db=attached("back"))["reason"] == "network/acme/front has no VM"
    both = opened(router=attached("front", "back"))
    assert both["witness"] is None
    assert both["reason"] == "vm/acme/router is the only VM of both networks"


def test_a_running_vm_is_the_better_witness() -> None:
    entry = opened(a=attached("front", power="stopped"), b=attached("front"), c=attached("back"))
    packet = {"fromVm": "vm/acme/b", "from": "fd00::1", "toVm": "vm/acme/c", "to": "fd00::1"}
    assert entry["witness"] == {**packet, "protocol": "icmpv6", "port": 0}
    assert "reason" not in entry


def test_what_is_told_of_reach_has_the_published_form() -> None:
    published = json.loads((ROOT / "specs/schema/output/plan.json").read_text())
    entries = [
        opened(web=attached("front")),
        opened(web=attached("front"), db=attached("back")),
    ]
    jsonschema.validate(entries, published["properties"]["reachability"])
