"""What is wrong with a fleet as a whole, against brute force over random fleets."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv6Network
from itertools import combinations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reconciler.model.fleet import Fleet
from reconciler.model.specs import AnyDocument, Host, Network, Tenant, Vm
from reconciler.planning.checks import check
from reconciler.planning.findings import Finding

BASE = int(IPv6Network("fd20:acde::/40").network_address)


def tenant(name: str, *, prefix: str = "auto", quota: dict[str, object] | None = None) -> Tenant:
    return Tenant.model_validate(
        {
            "apiVersion": "metald/v1",
            "kind": "Tenant",
            "metadata": {"name": name},
            "spec": {"prefix": prefix, "quota": quota or {}},
        }
    )


def network(name: str, owner: str, *, prefix: str = "auto") -> Network:
    return Network.model_validate(
        {
            "apiVersion": "metald/v1",
            "kind": "Network",
            "metadata": {"name": name, "tenant": owner},
            "spec": {"prefix": prefix},
        }
    )


def vm(name: str, owner: str, **spec: object) -> Vm:
    return Vm.model_validate(
        {
            "apiVersion": "metald/v1",
            "kind": "VM",
            "metadata": {"name": name, "tenant": owner},
            "spec": {"hypervisor": "simulated", **spec},
        }
    )


def findings(documents: Iterable[AnyDocument], word: str) -> list[Finding]:
    return [entry for entry in check(Fleet.of(documents)) if word in entry.message]


@st.composite
def tenant_prefixes(draw: st.DrawFn) -> IPv6Network:
    """Prefixes crowded into one /40, so that overlaps are common."""
    length = draw(st.integers(48, 56))
    slot = draw(st.integers(0, 2 ** (length - 40) - 1))
    if draw(st.booleans()):
        slot >>= length - 44
        slot <<= length - 48
    return IPv6Network((BASE + (slot % 2 ** (length - 40) << 128 - length), length))


@given(st.lists(tenant_prefixes(), max_size=12))
def test_overlaps_are_found_as_brute_force_finds_them(prefixes: list[IPv6Network]) -> None:
    tenants = [tenant(f"t{n}", prefix=str(prefix)) for n, prefix in enumerate(prefixes)]
    found = findings(tenants, "overlaps")
    overlapping = {
        frozenset((one.address, two.address))
        for (one, p), (two, q) in combinations(zip(tenants, prefixes, strict=True), 2)
        if p.overlaps(q)
    }
    assert bool(found) == bool(overlapping)
    for finding in found:
        other = finding.message.rsplit(" of ", 1)[1]
        assert frozenset((finding.resource, other)) in overlapping
    # Without those that are named, nothing overlaps any more: no defect is left untold.
    named = {finding.resource for finding in found}
    assert not [pair for pair in overlapping if not pair & named]


@given(st.lists(st.integers(0, 3), max_size=6))
def test_networks_overlap_when_their_prefix_is_the_same(slots: list[int]) -> None:
    owner = tenant("acme", prefix="fd20:acde::/48")
    networks = [
        network(f"n{n}", "acme", prefix=f"fd20:acde:0:{s}::/64") for n, s in enumerate(slots)
    ]
    found = findings([owner, *networks], "overlaps")
    assert len(found) == len(slots) - len(set(slots))


ADDRESSES = st.integers(0, 0x14).map(lambda number: f"fd20:acde:0:1::{number:x}")


@given(st.lists(ADDRESSES, max_size=10))
def test_static_addresses_are_held_once(addresses: list[str]) -> None:
    fleet: list[AnyDocument] = [
        tenant("acme", prefix="fd20:acde::/48"),
        network("front", "acme", prefix="fd20:acde:0:1::/64"),
        *(
            vm(f"v{n:02}", "acme", interfaces=[{"network": "front", "address": address}])
            for n, address in enumerate(addresses)
        ),
    ]
    assert len(findings(fleet, "already")) == len(addresses) - len(set(addresses))
    reserved = [a for a in addresses if int(a.rsplit(":", 1)[1], 16) in {0, 1, 2, 16, 17, 18}]
    assert len(findings(fleet, "reserved")) == len(reserved)


@pytest.mark.parametrize(
    ("address", "space"),
    [
        ("fe80::5", "link-local"),
        ("ff02::5", "multicast"),
        ("::1", "loopback"),
        ("::ffff:192.0.2.7", "IPv4-mapped"),
        ("::", "unspecified"),
        ("fd20::5", ""),
    ],
)
def test_an_address_no_guest_can_use_is_told(address: str, space: str) -> None:
    fleet: list[AnyDocument] = [
        tenant("acme"),
        network("front", "acme"),
        vm("v", "acme", interfaces=[{"network": "front", "address": address}]),
    ]
    found = findings(fleet, "address space")
    assert [entry.message.split(" is ")[1] for entry in found] == (
        [f"{space} address space"] if space else []
    )


@given(st.integers(8, 64))
def test_a_pool_holds_at_least_one_tenant(length: int) -> None:
    host = Host.model_validate(
        {
            "apiVersion": "metald/v1",
            "kind": "Host",
            "metadata": {"name": "local"},
            "spec": {"prefixPool": f"fd00::/{length}"},
        }
    )
    assert bool(findings([host], "no room")) == (length > 48)


@given(
    st.lists(st.tuples(st.integers(1, 8), st.integers(1, 8)), max_size=6),
    st.none() | st.integers(0, 40),
    st.none() | st.integers(0, 6),
)
def test_quotas_hold_the_sums(
    sizes: list[tuple[int, int]], vcpus: int | None, vms: int | None
) -> None:
    quota = {key: value for key, value in (("vcpus", vcpus), ("vms", vms)) if value is not None}
    documents: list[AnyDocument] = [tenant("acme", quota=dict(quota)), tenant("other")]
    documents += [
        vm(f"v{n}", "acme", vcpus=count, memory=memory * 2**20)
        for n, (count, memory) in enumerate(sizes)
    ]
    documents += [vm(f"v{n}", "other", vcpus=8) for n in range(3)]
    named = {entry.path[-1] for entry in findings(documents, "quota")}
    over = {
        "vcpus": vcpus is not None and sum(count for count, _ in sizes) > vcpus,
        "vms": vms is not None and len(sizes) > vms,
    }
    assert named == {key for key, value in over.items() if value}


@given(st.sets(st.sampled_from("abcd")), st.lists(st.sampled_from("abcd"), max_size=5))
def test_each_unknown_tenant_is_told(declared: set[str], used: list[str]) -> None:
    documents: list[AnyDocument] = [
        *(tenant(name) for name in declared),
        *(network(f"n{n}", owner) for n, owner in enumerate(used)),
    ]
    told = {entry.resource for entry in findings(documents, "is not declared")}
    assert told == {
        f"network/{owner}/n{n}" for n, owner in enumerate(used) if owner not in declared
    }
