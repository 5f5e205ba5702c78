"""Rules about the outside against an oracle that asks address by address and port by port."""

from __future__ import annotations

from ipaddress import IPv6Address, IPv6Network
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.addresses import ResourceAddress
from reconciler.model.firewall import EGRESS, Element
from reconciler.planning.comparison.policy import policy_elements
from reconciler.planning.reachability.policy import allowed_between
from reconciler.planning.reachability.ranges import PROTOCOLS
from reconciler.planning.reachability.reach import reach_delta
from tests.planning.reachability.test_policy import HIGHEST, LOWEST, Specs, rules

LAN, ZONE = ResourceAddress("network/acme/lan"), 7
NAT64 = "64:ff9b::/96"
# Each within the one before, but for the private one; the Internet around the first three.
ENDS = (
    "internet", "2001:db8::/32", "2001:db8:53::/48", "2001:db8:53::53/128", "fd77::/16",
    "64:ff9b::808:808/128",
)  # fmt: skip
ADDRESSES = (
    "3fff::1", "2001:db8:1::1", "2001:db8:53::1", "2001:db8:53::53", "fd77::1", "fe80::1",
    "64:ff9b::808:808", "64:ff9b::1",
)  # fmt: skip
HEADERS = {"tcp": "tcp", "udp": "udp", "icmpv6": "ipv6-icmp", "other": "59-255"}
Cell = tuple[str, str, str, int]


@st.composite
def outside_rules(draw: st.DrawFn, side: str) -> dict[str, Any]:
    return {**draw(rules(side)), side: draw(st.sampled_from(ENDS))}


@st.composite
def hosts(draw: st.DrawFn) -> Specs:
    listed = st.lists(outside_rules("to"), max_size=4)
    egress = draw(st.one_of(st.sampled_from(["tenant", "internet", "none"]), listed))
    ingress = draw(st.lists(outside_rules("from"), max_size=4))
    uplink = {"interface": ["up0"], "nat64": draw(st.sampled_from([NAT64, None]))}
    return {
        ResourceAddress("host/rack"): {"uplink": uplink},
        LAN: {"zone": ZONE, "egress": egress, "ingress": ingress},
        ResourceAddress("vm/acme/web"): {
            "interfaces": [{"network": "lan", "addresses": ["2001:db8:acde::1"]}]
        },
    }


def is_of(end: str, address: str, nat64: str | None) -> bool:
    prefixes = [end] if end != "internet" else ["2000::/3", *([nat64] if nat64 else [])]
    return any(IPv6Address(address) in IPv6Network(prefix) for prefix in prefixes)


def table(specs: Specs) -> set[Cell]:
    """The rules as the documentation says them, packet by packet."""
    nat64 = specs[ResourceAddress("host/rack")]["uplink"]["nat64"]
    egress = specs[LAN]["egress"]
    if isinstance(egress, str):
        egress = [{"to": "internet", "protocol": "any", "ports": []}] * (egress == "internet")
    sides = (("egress", "to", egress), ("ingress", "from", specs[LAN]["ingress"]))
    return {
        (container, address, protocol, port)
        for container, side, listed in sides
        for address in ADDRESSES
        for protocol in PROTOCOLS
        for port in range(LOWEST, HIGHEST + 2)
        for rule in listed
        if is_of(rule[side], address, nat64) and rule["protocol"] in {"any", protocol}
        if not rule["ports"] or any(port in _span(entry) for entry in rule["ports"])
    }


def _span(entry: Any) -> range:
    low, _, high = str(entry).partition("-")
    return range(int(low), int(high or low) + 1)


def cells(elements: frozenset[Element]) -> list[Cell]:
    """What the kernel's entries let through."""
    return [
        (element.container, address, protocol, port)
        for element in elements
        for address in ADDRESSES
        for protocol in PROTOCOLS
        for port in range(LOWEST, HIGHEST + 2)
        if IPv6Address(address) in IPv6Network(element.key[1])
        and element.key[2] in {"0-255", HEADERS[protocol]}
        and port in _span(element.key[3])
    ]


def entries(specs: Specs) -> frozenset[Element]:
    return policy_elements(allowed_between(specs), specs)


@given(hosts())
def test_the_entries_let_through_what_the_rules_say(specs: Specs) -> None:
    found = cells(entries(specs))
    assert set(found) == table(specs)
    assert len(found) == len(set(found)), "no two entries overlap: the kernel takes none that do"


@given(hosts(), hosts())
def test_nothing_is_told_exactly_where_nothing_changes(before: Specs, after: Specs) -> None:
    told = reach_delta(before, after)
    same_internet = before[ResourceAddress("host/rack")] == after[ResourceAddress("host/rack")]
    if same_internet:
        assert bool(told) == (table(before) != table(after))
    for change in told:
        assert isinstance(change.witness, str) and "beyond this host" in change.witness


@given(st.integers(1, 200))
def test_their_number_follows_from_rules_and_never_from_vms(count: int) -> None:
    rule = {"to": "internet", "protocol": "tcp", "ports": [80, 443]}
    specs: Specs = {
        ResourceAddress("host/rack"): {"uplink": {"interface": ["up0"], "nat64": NAT64}},
        LAN: {"zone": ZONE, "egress": [rule], "ingress": []},
    }
    for number in range(count):
        spec = {"interfaces": [{"network": "lan", "addresses": [f"2001:db8:acde::{number:x}"]}]}
        specs[ResourceAddress(f"vm/acme/v{number}")] = spec
    assert len(entries(specs)) == 4
    assert {entry.container for entry in entries(specs)} == {EGRESS}
