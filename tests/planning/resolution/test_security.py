"""From profile to interface: each field by itself, each value with its origin, the same always."""

from __future__ import annotations

import random
import re
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.addresses import ResourceAddress
from reconciler.model.controls import Controls
from reconciler.model.quantities import format_bandwidth, parse_bandwidth
from reconciler.model.security import HEADER_NUMBERS, PROFILES, InterfacePolicy, ProfileName
from reconciler.planning.resolution.control_values import (
    FRAMEWORKS,
    PATHS,
    leaves,
    nested,
    policy_of,
    recorded_form,
    recorded_policy,
    values_of,
)
from reconciler.planning.resolution.origins import AS_LAST_APPLIED, recorded_policies
from reconciler.planning.resolution.recorded import recorded_vm
from reconciler.planning.resolution.resolve import resolve
from reconciler.planning.resolution.security import Layered, built_in, network_policy
from tests.planning.resolution.policies import VALUES, controls, flat, paths, profiles
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

ROOT = Path(__file__).resolve().parents[3]
NETWORK, PROFILE = ResourceAddress("network/acme/front"), ResourceAddress("securityprofile/own")
VM, OWNER = ResourceAddress("vm/acme/web-1"), "vm/acme/web-1#front"
HEAD = {"apiVersion": "metald/v1"}
Layers = tuple[str, dict[str, Any], dict[str, Any], dict[str, Any]]
layers = st.tuples(profiles, controls, controls, controls)


def put_together(chosen: Layers) -> Layered:
    base, profile, network, interface = chosen
    known = {PROFILE: {"base": base, **profile}}
    found = network_policy(NETWORK, {"security": "own", "policy": network}, known)
    assert found is not None
    return found.under(interface, OWNER)


def documents(
    profile: dict[str, Any], network: dict[str, Any], interface: dict[str, Any]
) -> list[dict[str, Any]]:
    spec = {"hypervisor": "simulated", "interfaces": [{"network": "front", **interface}]}
    return [
        {**HEAD, "kind": "SecurityProfile", "metadata": {"name": "own"}, "spec": profile},
        {**HEAD, "kind": "Tenant", "metadata": {"name": "acme"}},
        {**HEAD, "kind": "Network", "metadata": {"name": "front", "tenant": "acme"},
         "spec": network},
        {**HEAD, "kind": "VM", "metadata": {"name": "web-1", "tenant": "acme"}, "spec": spec},
    ]  # fmt: skip


def documents_of(chosen: Layers) -> list[dict[str, Any]]:
    base, profile, network, interface = chosen
    # A prefix of its own, for those that are to be advertised one.
    own = {"policy": interface, "prefix": "auto/64"}
    return documents({"base": base, **profile}, {"security": "own", "policy": network}, own)


def test_every_field_of_the_language_resolves_and_every_attribute_has_a_field() -> None:
    def names(model: Any, above: str = "") -> set[str]:
        found: set[str] = set()
        for name, field in model.model_fields.items():
            path = f"{above}{field.alias or name}"
            inner = next((a for a in getattr(field.annotation, "__args__", ())
                          if hasattr(a, "model_fields")), None)  # fmt: skip
            found |= names(inner, f"{path}.") if inner else {path}
        return found

    assert names(Controls) == set(PATHS) == set(VALUES)
    high = PROFILES["high"]
    others = [
        policy_of({**values_of(high), path: value}) for path, value in ONE_OTHER_VALUE.items()
    ]
    for entry in fields(InterfacePolicy):
        changes = [getattr(other, entry.name) != getattr(high, entry.name) for other in others]
        assert sum(changes) == 1, f"one field of the language changes {entry.name}"


ONE_OTHER_VALUE: dict[str, Any] = {
    "raGuard.enabled": False, "raGuard.allowedRouters": ["fe80::1"], "raGuard.maxPerMinute": 1,
    "sourceValidation.address": "off", "sourceValidation.mac": "off",
    "sourceValidation.reversePath": False, "sourceValidation.blockBogons": False,
    "extensionHeaders.mode": "allow", "extensionHeaders.maxChain": 1,
    "isolation.interTenant": "block", "isolation.intraNetwork": "block",
    "rateLimits.packetsPerSecond": 1, "rateLimits.bandwidth": "1Mbit", "rateLimits.connections": 1,
    "rateLimits.burst.packets": 1, "rateLimits.burst.milliseconds": 1,
    "icmpv6.neighborPerSecond": 1, "icmpv6.errorPerSecond": 1, "icmpv6.echoPerSecond": 1,
    "icmpv6.multicastPerSecond": 1, "dhcpv6": True, "slaac": True, "logging": "off",
}  # fmt: skip


@given(layers)
def test_every_value_is_of_the_topmost_layer_that_gives_it(chosen: Layers) -> None:
    base, profile, network, interface = chosen
    found = put_together(chosen)
    ranked = [(OWNER, interface), (NETWORK, network), (PROFILE, profile)]
    assert set(found.values) == set(found.origins) == set(PATHS)
    for path in PATHS:
        told = [(origin, dict(leaves(given))) for origin, given in ranked]
        first = next(((o, given[path]) for o, given in told if path in given), None)
        builtin = (f"profile {base}", built_in(base).values[path])
        assert (found.origins[path], found.values[path]) == (first or builtin)


@given(layers, paths, st.data())
def test_overriding_a_field_never_changes_others(
    chosen: Layers, path: str, data: st.DataObject
) -> None:
    before = put_together(chosen)
    value = data.draw(VALUES[path])
    after = before.under(nested({path: value}), "here")
    assert after.values == {**before.values, path: value}
    assert after.origins == {**before.origins, path: "here"}
    old, new = asdict(policy_of(before.values)), asdict(policy_of(after.values))
    differing = {name for name in old if old[name] != new[name]}
    assert len(differing) <= 1
    assert not differing or differing == {"headers"} or not path.startswith("extensionHeaders.f")


@given(layers, st.randoms(use_true_random=False))
def test_resolution_is_deterministic(chosen: Layers, rng: random.Random) -> None:
    def shuffled(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        rows = [(key, shuffled(entry)) for key, entry in value.items()]
        rng.shuffle(rows)
        return dict(rows)

    rows = documents_of(chosen)
    one, other = fleet_of(rows), fleet_of([shuffled(row) for row in reversed(rows)])
    world = World()
    first, second = (resolve(f, world.ledger(), world.images) for f in (one, other))
    assert first == second
    assert {r.address: r.spec_hash for r in first.registrations} == {
        r.address: r.spec_hash for r in second.registrations
    }


@given(layers)
def test_a_port_has_the_policy_of_its_layers_and_so_it_is_on_record(chosen: Layers) -> None:
    world, wanted = World(), policy_of(put_together(chosen).values)
    plan = world.apply(fleet_of(documents_of(chosen)))
    assert plan.changes
    managed = world.managed[VM]
    (port,) = recorded_vm(world.ledger(), managed).ports
    assert port.policy == wanted
    ((interface, told),) = recorded_policies(world.ledger(), managed)
    layered = put_together(chosen)
    assert (interface, dict(told.values)) == ("front", dict(layered.values))
    assert told.origins == layered.origins
    assert world.plan(fleet_of(documents_of(chosen))).is_empty


@given(profiles, flat())
def test_a_record_keeps_only_what_differs_and_reads_back(base: Any, given: dict[str, Any]) -> None:
    values = {**built_in(base).values, **given}
    recorded = recorded_form(base, values)
    assert recorded_policy(recorded) == policy_of(values)
    differing = {p for p, v in values.items() if v != built_in(base).values[p]} - {FRAMEWORKS}
    assert {path for path, _ in leaves(recorded or {})} == differing
    assert (recorded is None) == (base == "high" and not differing)


@given(flat())
def test_nested_and_flat_say_the_same(given: dict[str, Any]) -> None:
    assert dict(leaves(nested(given))) == given
    assert Controls.model_validate(nested(given)).given() == nested(given)


policies = st.builds(
    InterfacePolicy,
    headers=st.sets(st.sampled_from(list(HEADER_NUMBERS))).map(
        lambda chosen: tuple(header for header in HEADER_NUMBERS if header in chosen)
    ),
    source_address=st.sampled_from(["strict", "prefix", "off"]),
    source_mac=st.booleans(),
    cross_tenant=st.booleans(),
    intra_network=st.booleans(),
    bandwidth=st.one_of(st.none(), st.integers(10**4, 10**12)),
    connections=st.one_of(st.none(), st.integers(1, 10**6)),
)


@given(policies)
def test_the_language_can_say_every_policy(policy: InterfacePolicy) -> None:
    assert policy_of(values_of(policy)) == policy


def test_fragments_that_pass_are_put_together_again_in_routed_mode() -> None:
    for mode in ("block", "selective", "allow"):
        found = {
            word: policy_of({
                **built_in("medium").values, "extensionHeaders.mode": mode,
                "extensionHeaders.fragments": word,
            }).headers
            for word in ("allow", "reassemble", "block")
        }  # fmt: skip
        assert found["allow"] == found["reassemble"]
        assert set(found["allow"]) - set(found["block"]) == {"fragment"}


def test_an_interface_says_its_limits_in_short_or_at_length() -> None:
    short = {"bandwidth": "100Mbit", "packetsPerSecond": "none", "connections": 5}
    found = []
    for interface in (short, {"policy": {"rateLimits": short}}):
        world = World()
        world.apply(fleet_of(documents({}, {}, interface)))
        found.append(world.managed[VM].spec)
    assert found[0] == found[1]
    assert found[0]["interfaces"][0]["security"] == {"profile": "high", "rateLimits": short}


def test_the_default_is_not_on_record() -> None:
    world = World()
    world.apply(fleet_of(documents({}, {}, {})))
    (entry,) = world.managed[VM].spec["interfaces"]
    assert entry.keys() == {"network", "addresses", "mac", "tap", "zone", "uid"}
    assert "policy" not in world.managed[NETWORK].spec
    (port,) = recorded_vm(world.ledger(), world.managed[VM]).ports
    assert port.policy is PROFILES["high"]


@pytest.mark.parametrize(
    ("security", "ingress", "recorded"),
    [
        ("high", None, []),
        ("medium", None, []),
        ("low", None, [{"protocol": "any", "types": [], "ports": [], "from": "tenant/acme"}]),
        ("own", None, [{"protocol": "any", "types": [], "ports": [], "from": "tenant/acme"}]),
        ("low", [], []),
        ("own", [], []),
    ],
)
def test_what_a_network_lets_in_that_does_not_say(
    security: str, ingress: Any, recorded: list[Any]
) -> None:
    world = World()
    spec = {"security": security, **({} if ingress is None else {"ingress": ingress})}
    world.apply(fleet_of(documents({"base": "low"}, spec, {})))
    assert world.managed[NETWORK].spec["ingress"] == recorded


def test_what_holds_though_no_record_says_so_any_more_is_told_as_such() -> None:
    world = World()
    world.apply(fleet_of(documents({"logging": "off"}, {"security": "own"}, {})))
    known = world.managed[PROFILE]
    world.managed[PROFILE] = type(known)(
        **{**{f.name: getattr(known, f.name) for f in fields(known)}, "spec": {"base": "high"}}
    )
    ((_, told),) = recorded_policies(world.ledger(), world.managed[VM])
    assert (told.values["logging"], told.origins["logging"]) == ("off", AS_LAST_APPLIED)
    assert told.origins["slaac"] == "profile high"


@given(st.integers(10**4, 10**12))
def test_a_bandwidth_is_spelled_as_it_is_read(bits: int) -> None:
    assert parse_bandwidth(format_bandwidth(bits)) == bits


@pytest.mark.parametrize("text", ["100M", "100", 100, "0Mbit", "1.5Gbit", "1Tbit", "9kbit", True])
def test_what_is_no_bandwidth(text: object) -> None:
    with pytest.raises(ValueError, match="bandwidth"):
        parse_bandwidth(text)


def documented() -> dict[str, list[str]]:
    """Values of high, medium and low by path, as docs/api/specs.md tells them."""
    text = (ROOT / "docs" / "api" / "specs.md").read_text()
    found = {}
    for names, cells in re.findall(r"^\| (`[^|]+`) \|[^|]*\|((?:[^|]*\|){3})$", text, re.MULTILINE):
        for name in re.findall(r"`([^`]+)`", names):
            group = re.fullmatch(r"(.*)\{(.*)\}(.*)", name)
            parts = group[2].split(",") if group else [""]
            for part in parts:
                path = f"{group[1]}{part}{group[3]}" if group else name
                found[path] = [cell.strip() for cell in cells.split("|")[:3]]
    return found


def test_the_documented_figures_are_those_of_the_code() -> None:
    def shown(value: Any) -> str:
        if isinstance(value, list):
            return ", ".join(value) or "none"
        return str(value).lower() if isinstance(value, bool) else str(value)

    told = documented()
    names: tuple[ProfileName, ...] = ("high", "medium", "low")
    for path in PATHS:
        assert told[path] == [shown(built_in(name).values[path]) for name in names], path
