"""What of bridged networks is refused, by specs alone and by what the host's kernel lacks."""

from __future__ import annotations

from typing import Any

import pytest

from reconciler.model.features import BRIDGE_TRACKING, BRIDGES
from reconciler.planning.bridge_checks import MOST_PORTS
from reconciler.planning.checks import check
from reconciler.planning.resolution.resolve import resolve
from tests.planning.test_cases import fleet_of
from tests.planning.test_left_alone import document
from tests.planning.world import World

Documents = list[dict[str, Any]]
OPEN = {"rateLimits": {"connections": "none"}}
MADE_BY_GUESTS = {**OPEN, "slaac": True, "sourceValidation": {"address": "prefix"}}


def fleet(count: int = 1, **spec: Any) -> Documents:
    def interface(number: int) -> dict[str, Any]:
        return {"network": "lan", **({"prefix": "auto/64"} if number == 0 else {})}

    vms = [
        document(
            "VM", f"v{n}", "acme", spec={"hypervisor": "simulated", "interfaces": [interface(n)]}
        )
        for n in range(count)
    ]
    lan = document("Network", "lan", "acme", spec={"mode": "bridged", **spec})
    return [document("Tenant", "acme"), lan, *vms]


def refused(documents: Documents, **lacking: str) -> list[str]:
    found = resolve(fleet_of(documents), World().ledger(), {}, lacking=lacking)
    return [f"{finding.message}; {finding.hint}" for finding in found.findings]


@pytest.mark.parametrize("more", [0, 1])
def test_a_network_has_no_more_interfaces_than_a_bridge_has_ports(more: int) -> None:
    found = [f for f in check(fleet_of(fleet(MOST_PORTS + more))) if f.path == ("spec", "mode")]
    assert len(found) == more
    for finding in found:
        assert finding.resource == "network/acme/lan"
        assert finding.message == "1024 interfaces are in it, and a bridge has 1023 ports"


def test_where_nothing_is_missing_nothing_is_refused() -> None:
    for security in ("high", "medium", "low"):
        assert refused(fleet(security=security)) == []


def test_a_host_without_bridges_takes_none() -> None:
    (said,) = refused(fleet(policy=OPEN), **{BRIDGES: "no such thing"})
    assert said.startswith("network/acme/lan is bridged: this host can do no bridged networks (no")
    assert "or leave mode: bridged out" in said
    routed = [{**d, "spec": {**d["spec"], "mode": "routed"}} if d["kind"] == "Network" else d
              for d in fleet(policy=OPEN)]  # fmt: skip
    assert refused(routed, **{BRIDGES: "no such thing"}) == []


@pytest.mark.parametrize(
    ("spec", "asked"),
    [
        ({"security": "high"}, ["rateLimits.connections"]),
        ({"security": "medium"}, ["rateLimits.connections", "extensionHeaders.fragments"]),
        ({"security": "low"}, ["extensionHeaders.fragments"]),
        ({"security": "high", "policy": OPEN}, []),
        ({"security": "low", "policy": {"extensionHeaders": {"fragments": "block"}}}, []),
    ],
)
def test_what_bridges_must_track_connections_for_is_named(
    spec: dict[str, Any], asked: list[str]
) -> None:
    found = refused(fleet(**spec), **{BRIDGE_TRACKING: "no such module"})
    assert len(found) == bool(asked)
    for said in found:
        assert [name for name in ("rateLimits.connections", "extensionHeaders.fragments")
                if name in said.partition(";")[0]] == asked  # fmt: skip
        assert "nf_conntrack_bridge" in said


def test_nobody_advertises_to_a_segment() -> None:
    (said,) = refused(fleet(policy=MADE_BY_GUESTS))
    assert "slaac advertises to each guest a prefix of its own" in said
