"""What `verify` sends: every difference between kernel and rules has a packet that tells."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from reconciler.errors import MetaldError
from reconciler.model.addresses import ResourceAddress, network_address, tenant_of
from reconciler.model.firewall import Element, allow_element
from reconciler.model.probes import Sightings, Station
from reconciler.planning.comparison.policy import policy_elements
from reconciler.planning.reachability.policy import allowed_between
from reconciler.planning.reachability.probes import (
    HOST,
    Chosen,
    Ground,
    choose,
    concerns,
    held_by_pair,
    in_scope,
)
from reconciler.planning.reachability.ranges import merged
from reconciler.planning.reachability.reach import party, reach_matrix
from reconciler.planning.reachability.samples import Held, samples
from reconciler.planning.reachability.verdicts import verdict, verify_document
from tests.planning.reachability.test_policy import Specs, fleets, may

HEADERS = {"tcp": 6, "udp": 17, "icmpv6": 58}
PORTS = st.integers(1, 8) | st.integers(65530, 65535)
SPANS = st.lists(st.tuples(PORTS, PORTS).map(lambda e: (min(e), max(e))), max_size=3)


def held_spans(name: str, spans: Any) -> list[Held]:
    return [Held((HEADERS[name], HEADERS[name]), span) for span in spans]


def covers(spans: Any, port: int) -> bool:
    return any(low <= port <= high for low, high in spans)


@given(SPANS.map(merged), SPANS.map(merged), st.sampled_from(["tcp", "udp"]))
def test_wherever_the_kernel_differs_from_the_rules_a_sample_tells(
    rules: Any, kernel: Any, name: str
) -> None:
    ranges = {name: rules} if rules else {}
    chosen = samples(ranges, held_spans(name, kernel))
    told = [s for s in chosen if s.protocol == name and covers(kernel, s.port) != s.allowed]
    assert bool(told) == (rules != kernel)
    assert all(s.allowed == covers(rules, s.port) for s in chosen if s.protocol == name)
    assert all(1 <= s.port <= 65535 for s in chosen if s.protocol == name)


def test_ports_right_beside_a_range_are_tried_on_both_sides() -> None:
    chosen = samples({"tcp": ((80, 80), (8000, 8010)), "udp": ((0, 65535),)})
    tried = {(s.protocol, s.port, s.allowed) for s in chosen if s.header in {6, 17}}
    allowed = {("tcp", port, True) for port in (80, 8000, 8010)}
    refused = {("tcp", port, False) for port in (79, 81, 7999, 8011)}
    assert tried == allowed | refused | {("udp", 1, True), ("udp", 65535, True)}
    assert {(s.protocol, s.allowed) for s in chosen[:2]} == {("tcp", True), ("icmpv6", False)}


@given(st.sets(st.integers(0, 255), max_size=4), st.booleans())
def test_entries_for_other_protocols_have_samples_too(headers: set[int], allowed: bool) -> None:
    known = {0, 43, 44, 51, 59, 60, 135, 139, 140, *HEADERS.values()}
    held = [Held((header, header), (0, 65535)) for header in headers]
    chosen = samples({"other": ((0, 65535),)} if allowed else {}, held)
    sent = {sample.header for sample in chosen if sample.protocol == "other"}
    assert headers - known <= sent and not sent & known
    assert {s.allowed for s in chosen if s.protocol == "other"} == {allowed}


def grounds(specs: Specs, *, vms: int = 2, elements: Any = None) -> Ground:
    """Every network with this many live VMs; the kernel as the rules say unless told."""
    networks = [address for address in specs if address.startswith("network/")]
    found = [
        Station(ResourceAddress(f"vm/{tenant_of(n)}/{n[-1]}{number}"), n, f"{n}{number}", "m",
                f"fd00::{index}:{number}", "fe80::2", pid=index + 1)
        for index, n in enumerate(networks)
        for number in range(vms)
    ]  # fmt: skip
    if elements is None:
        elements = policy_elements(allowed_between(specs), specs)
    by_network = in_scope(found, None)
    held = held_by_pair(elements, specs)
    return Ground(specs, frozenset(by_network), by_network, by_network, held)


def everything(ground: Ground, limit: int = 60_000, seed: int = 0) -> Chosen:
    return choose(ground, limit=limit, seed=seed)


@settings(max_examples=40)
@given(fleets(), st.integers(1, 3), st.integers(0, 2**32 - 1))
def test_all_pairs_are_tried_from_all_vms_as_the_rules_say(
    specs: Specs, vms: int, seed: int
) -> None:
    ground = grounds(specs, vms=vms)
    chosen = everything(ground, seed=seed)
    networks = sorted(ground.senders)
    pairs = {(a, b) for a in networks for b in (*networks, HOST)}
    tried = {probe.pair for probe in chosen.probes}
    assert tried | chosen.untried.keys() == pairs and not tried & chosen.untried.keys()
    assert chosen.left_out == 0 and not chosen.cut
    assert chosen.untried.keys() == ({(n, n) for n in networks} if vms == 1 else set())
    assert [probe.shot.number for probe in chosen.probes] == list(range(1, len(chosen.probes) + 1))
    assert {probe.shot.source for probe in chosen.probes} == {
        station for part in ground.senders.values() for station in part
    }
    for probe in chosen.probes:
        sample = probe.sample
        if probe.target is None:
            assert not sample.allowed
            continue
        assert probe.target.vm != probe.shot.source.vm
        assert probe.pair == (probe.shot.source.network, probe.target.network)
        assert sample.allowed == may(specs, *probe.pair, sample.protocol, sample.port)


@settings(max_examples=40)
@given(fleets(), st.integers(1, 60), st.integers(0, 2**32 - 1))
def test_a_limit_holds_and_is_told(specs: Specs, limit: int, seed: int) -> None:
    ground = grounds(specs, vms=3)
    whole, part = everything(ground, seed=seed), everything(ground, limit, seed)
    assert part.probes == whole.probes[:limit]
    assert part.cut == (limit < len(whole.probes))
    tried = {probe.pair for probe in part.probes}
    assert part.left_out == len({p.pair for p in whole.probes} - tried)


A, B = network_address("acme", "a"), network_address("acme", "b")
TWO: Specs = {A: {"zone": 7, "egress": "tenant"}, B: {"zone": 8, "ingress": []}}


@pytest.mark.parametrize(
    ("protocol", "ports", "telling"),
    [
        ("tcp", "81", {("tcp", 81)}),
        ("udp", "50-60", {("udp", 50), ("udp", 60)}),
        ("ipv6-icmp", "0-65535", {("icmpv6", 0)}),
        ("esp", "0-65535", {("other", 0)}),
        ("0-255", "80", {("tcp", 80), ("udp", 80), ("other", 80)}),
        ("7-16", "0-65535", {("other", 0)}),
    ],
)
def test_an_entry_that_the_kernel_holds_by_itself_is_tried(
    protocol: str, ports: str, telling: set[tuple[str, int]]
) -> None:
    stray = allow_element(7, 8, protocol, ports)
    elsewhere = allow_element(7, 99, "tcp", "1"), Element("taps", ("mt0",))
    chosen = everything(grounds(TWO, elements={stray, *elsewhere}))
    sent = {(p.sample.protocol, p.sample.port) for p in chosen.probes if p.pair == (A, B)}
    assert telling <= sent


def seen_as_allowed(chosen: Chosen) -> dict[str, Any]:
    """Sightings of a kernel that does what the rules say."""
    return {
        "arrived": {
            p.shot.number: frozenset({p.target.tap})
            for p in chosen.probes if p.sample.allowed and p.target
        },
        "stopped": {p.shot.number: 3 for p in chosen.probes if not p.sample.allowed},
    }  # fmt: skip


def verdicts(ground: Ground, chosen: Chosen, **seen: Any) -> dict[tuple[str, str], str]:
    document = verify_document(ground, chosen, Sightings(**seen), {})
    return {(pair["from"], pair["to"]): pair["verdict"] for pair in document["pairs"]}


def test_a_pair_agrees_disagrees_or_nothing_is_said_of_it() -> None:
    ground = grounds(TWO)
    chosen = everything(ground)
    fine = seen_as_allowed(chosen)
    assert set(verdicts(ground, chosen, **fine).values()) == {"agrees"}
    numbers = [p.shot.number for p in chosen.probes if p.pair == (A, B)]
    first = numbers[0]
    stopped = {n: why for n, why in fine["stopped"].items() if n != first}
    lost = {**fine, "stopped": stopped}
    assert set(verdicts(ground, chosen, **lost).values()) == {"agrees"}
    for wrong in (
        {**lost, "arrived": {**fine["arrived"], first: frozenset({f"{B}0"})}},
        {**lost, "heard": frozenset({first})},
        {**fine, "arrived": {**fine["arrived"], first: frozenset({"elsewhere"})}},
    ):
        found = verdicts(ground, chosen, **wrong)
        assert {pair for pair, word in found.items() if word == "disagrees"} == {(A, B)}
    unsent = {**fine, "stopped": {}, "unsent": dict.fromkeys(numbers, "no descriptor")}
    assert verdicts(ground, chosen, **unsent)[A, B] == "notTried"


@pytest.mark.parametrize(
    ("allowed", "seen", "agrees", "words"),
    [
        (True, {}, False, "lost"),
        (False, {}, None, "lost"),
        (True, {"returned": frozenset({1})}, False, "no way"),
        (False, {"returned": frozenset({1})}, True, "no way"),
        (True, {"stopped": {1: 1}}, False, "not bound"),
        (True, {"arrived": {1: frozenset({"other"})}}, False, "elsewhere: vm/acme/far"),
        (True, {"unsent": {1: "its link is down"}}, None, "its link is down"),
    ],
)
def test_what_is_lost_proves_nothing_closed(
    allowed: bool, seen: dict[str, Any], agrees: bool | None, words: str
) -> None:
    chosen = everything(grounds(TWO))
    probe = next(p for p in chosen.probes if p.sample.allowed == allowed)
    numbered = {key: _renumbered(value, probe.shot.number) for key, value in seen.items()}
    found = verdict(probe, Sightings(**numbered), {"other": ResourceAddress("vm/acme/far")})
    assert found.agrees is agrees and words in found.seen


def _renumbered(value: Any, number: int) -> Any:
    if isinstance(value, frozenset):
        return frozenset({number})
    return dict.fromkeys([number], *value.values())


@settings(max_examples=40)
@given(fleets())
def test_the_matrix_of_a_part_is_the_part_of_the_matrix(specs: Specs) -> None:
    whole = reach_matrix(specs, None, None)["reachable"]
    named = [a for a in specs if not a.startswith("tenant/")]
    tenants = {ResourceAddress(f"tenant/{tenant_of(a)}") for a in named}
    for address in (*named, *tenants):
        known = {**specs, **{t: {} for t in tenants}}
        mine = party(address, known).networks
        assert reach_matrix(known, address, None)["reachable"] == [
            entry for entry in whole if entry["from"] in mine
        ]
        assert reach_matrix(known, None, address)["reachable"] == [
            entry for entry in whole if entry["to"] in mine
        ]


def test_who_is_meant_by_an_address() -> None:
    vm = ResourceAddress("vm/acme/web")
    specs: Specs = {**TWO, vm: {"interfaces": [{"network": "a"}]}}
    meant = party("vm/acme/web", specs)
    assert meant.networks == {A} and concerns(meant, vm, specs)
    assert not concerns(party(B, specs), vm, specs) and concerns(None, vm, specs)
    station = Station(ResourceAddress("vm/acme/other"), A, "t", "m", "a", "l")
    assert in_scope([station], meant) == {} and in_scope([station], party(A, specs)) != {}
    with pytest.raises(MetaldError, match="did you mean network/acme/a"):
        party("network/acme/aa", specs)


def test_inside_a_closed_network_nothing_is_to_arrive() -> None:
    closed = {"security": "own", "ingress": [], "egress": "none", "zone": 1}
    names = [ResourceAddress(f"network/acme/{name}") for name in ("a", "b")]
    specs: dict[ResourceAddress, Any] = {
        ResourceAddress("securityprofile/own"): {"isolation": {"intraNetwork": "block"}},
        names[0]: closed,
        names[1]: {**closed, "zone": 2, "policy": {"isolation": {"intraNetwork": "allow"}}},
    }
    found = everything(grounds(specs)).probes
    for name, opened in zip(names, (False, True), strict=True):
        inside = {probe.sample.allowed for probe in found if probe.pair == (name, name)}
        assert inside == {opened}
