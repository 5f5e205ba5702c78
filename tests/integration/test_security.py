"""Security policies on a host: shown with the origin of every value, changed without a restart."""

from __future__ import annotations

import json
from typing import Any

import pytest
import yaml

from reconciler.model.features import BRIDGE_TRACKING
from tests.integration.host import ROOT, SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.integration.test_output import check
from tests.integration.test_plan import simulated

pytestmark = [pytest.mark.netns]
WEB = "vm/acme/web-1"


def origins(policy: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    return {entry["path"]: (entry["value"], entry["origin"]) for entry in policy["values"]}


def test_describe_tells_every_value_and_where_it_comes_from(host: Host, metald: Shell) -> None:
    simulated(ROOT / "examples" / "security", host.specs)
    metald.run("apply", str(host.specs), "--yes")
    vm, network = metald.json("describe", WEB), metald.json("describe", "network/acme/kiosks")
    profile = metald.json("describe", "securityprofile/shop")
    for document in (vm, network, profile):
        check("description", document)
    front, lab = vm["policy"]
    assert (front["interface"], front["profile"], lab["profile"]) == ("front", "medium", "low")
    told = origins(front)
    assert told["rateLimits.connections"] == (100_000, "vm/acme/web-1#front")
    assert told["rateLimits.bandwidth"] == ("2Gbit", "vm/acme/web-1#front")
    assert told["icmpv6.neighborPerSecond"] == (500, "vm/acme/web-1#front")
    assert told["sourceValidation.mac"] == ("strict", "securityprofile/shop")
    assert told["extensionHeaders.allowed"] == (["destination"], "securityprofile/shop")
    assert told["raGuard.maxPerMinute"] == (600, "profile medium")
    assert {origin for _, origin in origins(lab).values()} == {"profile low"}
    assert origins(network["policy"][0])["isolation.intraNetwork"] == (
        "block", "network/acme/kiosks",
    )  # fmt: skip
    assert origins(profile["policy"][0])["icmpv6.echoPerSecond"] == (20, "securityprofile/shop")
    text = metald.run("describe", WEB).stdout
    assert "policy of front:" in text and "policy of lab:" in text
    assert ["rateLimits.connections", "100000", "vm/acme/web-1#front"] in map(
        str.split, text.splitlines()
    )
    listed = metald.json("get", "securityprofile")
    check("list", listed)
    assert [entry["resource"] for entry in listed["items"]] == ["securityprofile/shop"]
    assert "shop" in metald.run("get", "securityprofiles").stdout


def test_a_changed_profile_changes_its_vms_in_place(host: Host, metald: Shell) -> None:
    simulated(ROOT / "examples" / "security", host.specs)
    specs = str(host.specs)
    metald.run("apply", specs, "--yes")
    before = metald.json("describe", WEB)["status"]
    path = host.specs / "profiles.yaml"
    (profile,) = [entry for entry in yaml.safe_load_all(path.read_text()) if entry]
    profile["spec"]["extensionHeaders"]["maxChain"] = 4
    path.write_text(yaml.safe_dump(profile))
    plan = metald.json("plan", specs)
    changes = {change["resource"]: change for change in plan["changes"]}
    assert changes.keys() == {"securityprofile/shop", WEB}
    assert {change["disruption"] for change in changes.values()} == {"none"}
    assert changes[WEB]["fields"] == [
        {"path": "spec.interfaces[front].security.extensionHeaders.maxChain",
         "before": 2, "after": 4}
    ]  # fmt: skip
    assert "the policy of its network or profile changes" in changes[WEB]["reason"]
    metald.run("apply", specs, "--yes")
    after = metald.json("describe", WEB)
    assert after["status"]["restarts"] == before["restarts"]
    assert origins(after["policy"][0])["extensionHeaders.maxChain"] == (4, "securityprofile/shop")
    assert not metald.json("plan", specs)["changes"]
    assert metald.json("drift")["drifted"] == []


def test_undo_brings_the_policy_back(host: Host, metald: Shell) -> None:
    simulated(ROOT / "examples" / "security", host.specs)
    specs = str(host.specs)
    metald.run("apply", specs, "--yes")
    before = {a: metald.json("describe", a)["spec"] for a in (WEB, "network/acme/lab")}
    text = (host.specs / "acme.yaml").read_text()
    (host.specs / "acme.yaml").write_text(text.replace("security: low", "security: high"))
    metald.run("apply", specs, "--yes", "--confirm", "1h")
    assert metald.json("describe", WEB)["spec"] != before[WEB]
    metald.run("undo")
    assert {a: metald.json("describe", a)["spec"] for a in before} == before


def test_reach_knows_what_is_closed_inside(host: Host, metald: Shell) -> None:
    simulated(ROOT / "examples" / "security", host.specs)
    metald.run("apply", str(host.specs), "--yes")
    found = metald.json("reach")["reachable"]
    pairs = {(entry["from"].rsplit("/", 1)[1], entry["to"].rsplit("/", 1)[1]) for entry in found}
    assert pairs == {
        ("front", "front"), ("lab", "lab"), ("front", "lab"), ("kiosks", "lab")
    }  # fmt: skip
    assert metald.json("drift")["drifted"] == []


def test_what_is_wrong_with_a_policy_changes_nothing(host: Host, metald: Shell) -> None:
    simulated(ROOT / "examples" / "security", host.specs)
    specs = str(host.specs)
    metald.run("apply", specs, "--yes")
    good = (host.specs / "acme.yaml").read_text()
    for wrong, said in (
        ("security: shopp", "did you mean shop?"),
        ("security: shop\n  policy: {extensionHeaders: {maxChain: 9}}", "maxChain"),
        ("security: shop\n  policy: {slaac: true}", "slaac"),
        ("security: shop\n  policy: {compliance: {frameworks: [gdpr]}}", "cannot show that"),
    ):
        (host.specs / "acme.yaml").write_text(good.replace("security: shop", wrong, 1))
        for command in (("plan", specs), ("apply", specs, "--yes")):
            stderr = metald.run(*command, expect=1).stderr
            assert said in stderr and "acme.yaml" in stderr and "Traceback" not in stderr
    (host.specs / "acme.yaml").write_text(good)
    assert not metald.json("plan", specs)["changes"]


def test_what_this_kernel_cannot_enforce_is_refused_when_planned(host: Host, metald: Shell) -> None:
    found = json.loads(host.state.features.read_text())
    assert found["lacking"].keys() <= {BRIDGE_TRACKING}
    host.state.features.write_text(
        json.dumps({**found, "lacking": {"bandwidth": "no such device"}})
    )
    bound, free = vm("acme", "bound", SIMULATED), SIMULATED.replace("lan", "lan, bandwidth: none")
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + bound)
    refused = metald.run("plan", str(host.specs), expect=1).stderr
    assert "this host can limit no bandwidth (no such device)" in refused
    assert "fleet.yaml:" in refused and "spec.interfaces[0]" in refused
    metald.run("apply", str(host.specs), "--yes", expect=1)
    assert host.links() == set()
    rest = tenant("acme") + network("acme", "lan") + vm("acme", "free", free)
    host.write("fleet.yaml", rest)
    metald.run("apply", str(host.specs), "--yes")
    assert len(host.links()) == 1
    checks = {c["check"]: c["level"] for c in metald.json("doctor", expect=None)["items"]}
    assert (checks["feature rules"], checks["feature bandwidth"]) == ("ok", "ok")
