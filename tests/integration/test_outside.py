"""A way out of the host: planned, applied, shown, changed in place and taken away again."""

from __future__ import annotations

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.integration.test_output import check

pytestmark = [pytest.mark.netns]
NETWORK = "network/acme/lan"


def rack(body: str) -> str:
    return f"---\napiVersion: metald/v1\nkind: Host\nmetadata: {{name: rack-1}}\nspec: {{{body}}}\n"


def write(host: Host, uplink: str, rules: str) -> None:
    parts = (
        rack(uplink),
        tenant("acme"),
        network("acme", "lan", rules),
        vm("acme", "a", SIMULATED),
    )
    host.write("fleet.yaml", "".join(parts))


def held(host: Host, name: str) -> bool:
    return "elements" in host.inside("nft", "list", "set", "inet", "metald", name).stdout


def test_the_outside_is_opened_shown_and_closed_again(host: Host, metald: Shell) -> None:
    host.ip("link", "add", "up0", "type", "veth", "peer", "name", "far0")
    uplink = "uplink: {interface: up0, translate: masquerade}"
    services = "guestServices: [{protocol: udp, port: 53}]"
    web = "ingress: [{from: internet, protocol: tcp, ports: [80, 443]}], egress: internet"
    specs = str(host.specs)
    write(host, f"{uplink}, {services}", web)
    plan = metald.json("plan", specs)
    check("plan", plan)
    opened = {(e["from"], e["to"], e["ports"], e["reason"]) for e in plan["reachability"]}
    assert (NETWORK, "internet", "", "internet is beyond this host") in opened
    metald.run("apply", specs, "--yes")
    assert metald.run("plan", specs, "--detailed-exitcode").code == 0
    for name in ("uplinks", "masqueraded", "own_prefixes", "guest_services", "egress", "ingress"):
        assert held(host, name), name
    reach = metald.json("reach")
    check("reach", reach)
    pairs = {(entry["from"], entry["to"]) for entry in reach["reachable"]}
    assert pairs == {(NETWORK, NETWORK), (NETWORK, "internet"), ("internet", NETWORK)}

    host.inside("nft", "flush", "set", "inet", "metald", "own_prefixes")
    (change,) = metald.json("plan", specs)["changes"]
    assert (change["resource"], change["disruption"]) == ("tenant/acme", "none")
    assert "drift" in change["reason"]
    metald.run("apply", specs, "--yes")
    assert held(host, "own_prefixes")

    write(host, "uplink: {interface: up0, translate: none}", "egress: tenant")
    plan = metald.json("plan", specs)
    assert {change["disruption"] for change in plan["changes"]} == {"none"}
    metald.run("apply", specs, "--yes")
    assert metald.run("plan", specs, "--detailed-exitcode").code == 0
    for name in ("masqueraded", "guest_services", "egress", "ingress"):
        assert not held(host, name), name


@pytest.mark.parametrize(
    ("uplink", "rules", "said"),
    [
        ("", "egress: internet", "internet needs an uplink of the host"),
        ("uplink: {interface: up0}", "egress: internet", "not reached from a private prefix"),
        ("uplink: {interface: up0, translate: masquerade}",
         "egress: [{to: 'fd20:acde::/48'}]", "overlaps fd20:acde::/48 of tenant/acme"),
        ("uplink: {interface: up0, translate: masquerade}",
         "egress: [{to: '2001:db8::1/48'}]", "has host bits set"),
        ("uplink: {interface: 'up 0'}", "egress: tenant", "spec.uplink.interface"),
        ("guestServices: [{protocol: icmpv6, port: 1}]", "egress: tenant", "not one of tcp, udp"),
        ("guestServices: [{protocol: udp, port: 70000}]", "egress: tenant", "port"),
    ],
)  # fmt: skip
def test_what_cannot_work_is_told(
    host: Host, metald: Shell, uplink: str, rules: str, said: str
) -> None:
    write(host, uplink, rules)
    if "overlaps" in said:
        text = host.specs.joinpath("fleet.yaml").read_text()
        prefixed = text.replace(tenant("acme"), tenant("acme", "prefix: 'fd20:acde::/48'"))
        host.write("fleet.yaml", prefixed)
    done = metald.run("validate", str(host.specs), expect=None)
    assert done.code == 1
    assert said in done.stderr, done.stderr
    assert "Traceback" not in done.stderr


def test_an_uplink_that_is_not_there_is_a_warning(host: Host, metald: Shell) -> None:
    write(host, "uplink: {interface: up9, translate: masquerade}", "egress: internet")
    warnings = metald.json("plan", str(host.specs))["warnings"]
    assert any("its uplink up9 is not there" in warning for warning in warnings)
