"""The way out of a host, with packets: internet, prefixes, translation, and what must not leave.

Specs are applied as an operator would; the VMs are simulated, their guests are this test's.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from ipaddress import IPv6Address, IPv6Network

import pytest

from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm
from tests.integration.outside import (
    ARRIVES_S,
    HERE,
    SERVER,
    STAYS_AWAY_S,
    UPLINK,
    Beyond,
    beyond,
    guest_of,
    ip,
)
from tests.integration.shell import Shell
from tests.integration.test_output import check
from tests.network.frames import ECHO_REQUEST, echo_packet

pytestmark = [pytest.mark.netns]
NODE_QUERY = 139  # RFC 4620
VM, LAN = "vm/acme/web", "network/acme/lan"
PRIVATE, PUBLIC = "fd20:acde::/48", "2001:db8:acde::/48"
OUT_THERE = "2001:db8:aaaa::/48"
PROXY_NDP = f"/proc/sys/net/ipv6/conf/{UPLINK}/proxy_ndp"


@pytest.fixture
def far(host: Host) -> Iterator[Beyond]:
    with beyond(host) as found:
        yield found


def declare(
    host: Host, *, prefix: str, uplink: str = "", services: str = "", rules: str,
    machine: str = SIMULATED,
) -> str:  # fmt: skip
    """One network of one tenant with these rules, and a VM in it; the specs' folder."""
    spec = f"uplink: {{interface: {UPLINK}{uplink}}}{services}"
    body = f"apiVersion: metald/v1\nkind: Host\nmetadata: {{name: rack}}\nspec: {{{spec}}}\n"
    host.write(
        "fleet.yaml",
        body + tenant("acme", f'prefix: "{prefix}"') + network("acme", "lan", rules)
        + vm("acme", "web", machine),
    )  # fmt: skip
    return str(host.specs)


def test_a_private_guest_goes_out_by_the_hosts_address(
    host: Host, metald: Shell, far: Beyond
) -> None:
    specs = declare(
        host, prefix=PRIVATE, uplink=", translate: masquerade", rules="egress: internet"
    )
    plan = metald.json("plan", specs)
    assert [(e["from"], e["to"], e["protocol"]) for e in plan["reachability"]] == [
        ("network/acme/lan", "internet", "any")
    ]
    metald.run("apply", specs, "--yes")
    assert not metald.json("plan", specs)["changes"]
    with guest_of(host, VM) as guest, far.server() as server, far.server(port=54) as other:
        assert server.heard(guest) == HERE
        assert server.reaches(guest, HERE), "the answer comes back"
        assert not other.reaches(guest, HERE, within_s=STAYS_AWAY_S), "nobody else can answer"


def test_without_the_rule_nothing_leaves(host: Host, metald: Shell, far: Beyond) -> None:
    far.route(PUBLIC)
    specs = declare(host, prefix=PUBLIC, rules="egress: tenant")
    metald.run("apply", specs, "--yes")
    with guest_of(host, VM) as guest, far.server() as server:
        assert server.heard(guest, within_s=STAYS_AWAY_S) == ""
        assert not server.reaches(guest, within_s=STAYS_AWAY_S)
    counters = host.counters()
    assert (counters["drop_tenant"], counters["drop_outside"]) == (1, 1)


def test_a_public_guest_is_reached_by_what_its_rules_name(
    host: Host, metald: Shell, far: Beyond
) -> None:
    far.route(PUBLIC)
    far.address("2001:db8:99::1")
    rules = 'ingress: [{from: "2001:db8:53::/48", protocol: udp, ports: [4000]}], egress: none'
    metald.run("apply", declare(host, prefix=PUBLIC, rules=rules), "--yes")
    with (
        guest_of(host, VM) as guest,
        far.server() as named,
        far.server("2001:db8:99::1") as stranger,
    ):
        assert named.reaches(guest)
        assert named.heard(guest) == guest.address, "its answer goes out"
        assert not named.reaches(guest, port=4001, within_s=STAYS_AWAY_S)
        assert not stranger.reaches(guest, within_s=STAYS_AWAY_S)
        assert stranger.heard(guest, within_s=STAYS_AWAY_S) == ""


@pytest.mark.parametrize("translate", ["none", "masquerade"])
def test_a_revoked_rule_cuts_a_live_flow_also_for_who_only_listens(
    host: Host, metald: Shell, far: Beyond, translate: str
) -> None:
    far.route(PUBLIC)
    uplink = f", translate: {translate}"
    rules = "egress: [{to: internet, protocol: udp, ports: [53]}]"
    metald.run("apply", declare(host, prefix=PUBLIC, uplink=uplink, rules=rules), "--yes")
    with guest_of(host, VM) as guest, far.server() as server:
        seen_as = server.heard(guest)
        assert seen_as == (guest.address if translate == "none" else HERE)
        assert server.reaches(guest, seen_as)
        specs = declare(host, prefix=PUBLIC, uplink=uplink, rules="egress: tenant")
        plan = metald.json("plan", specs)
        (turned,) = plan["reachability"]
        assert (turned["to"], turned["change"], turned["ports"]) == (
            "internet", "unreachable", "53",
        )  # fmt: skip
        metald.run("apply", specs, "--yes")
        assert not server.reaches(guest, seen_as, within_s=STAYS_AWAY_S), "it only listened"
        assert server.heard(guest, within_s=STAYS_AWAY_S) == ""


STANDS_FOR = "2001:db8:beef::/48"


def test_a_prefix_stands_for_the_pool_both_ways_and_is_cut_with_the_rule(
    host: Host, metald: Shell, far: Beyond
) -> None:
    far.route(STANDS_FOR)
    uplink = f', translate: prefix, prefix: "{STANDS_FOR}"'
    pool = f', prefixPool: "{PRIVATE}"'
    rules = "egress: internet, ingress: [{from: internet, protocol: udp, ports: [4000]}]"
    specs = declare(host, prefix=PRIVATE, uplink=uplink, services=pool, rules=rules)
    metald.run("apply", specs, "--yes")
    assert not metald.json("plan", specs)["changes"]
    with guest_of(host, VM) as guest, far.server() as server, far.server(port=99) as other:
        host_part = int(IPv6Address(guest.address)) & ((1 << 80) - 1)
        seen_as = str(IPv6Network(STANDS_FOR)[host_part])
        assert other.reaches(guest, seen_as), "opened from there"
        assert server.heard(guest, port=4001) == seen_as
        assert server.reaches(guest, seen_as, port=4001), "the answer"
        assert not other.reaches(guest, seen_as, port=4002, within_s=STAYS_AWAY_S)
        closed = declare(host, prefix=PRIVATE, uplink=uplink, services=pool, rules="egress: none")
        metald.run("apply", closed, "--yes")
        assert not server.reaches(guest, seen_as, port=4001, within_s=STAYS_AWAY_S)
        assert not other.reaches(guest, seen_as, within_s=STAYS_AWAY_S)


def test_only_echo_of_icmpv6_where_rules_say_so(host: Host, metald: Shell, far: Beyond) -> None:
    far.route(PUBLIC)
    rules = "egress: [{to: internet, protocol: icmpv6, types: [echo-request]}]"
    specs = declare(host, prefix=PUBLIC, rules=rules)
    (told,) = metald.json("plan", specs)["reachability"]
    assert (told["protocol"], told["ports"]) == ("icmpv6", "echo-request")
    metald.run("apply", specs, "--yes")
    assert not metald.json("plan", specs)["changes"]
    with guest_of(host, VM) as guest:
        for kind, answered in ((ECHO_REQUEST, True), (NODE_QUERY, False)):
            # An answer carries what was asked (RFC 4443, 4.2); the question itself comes not back.
            marker = os.urandom(16)
            guest.send(echo_packet(guest.address, SERVER, kind, marker))
            wait_s = ARRIVES_S if answered else STAYS_AWAY_S
            assert (guest.received(marker, within_s=wait_s) is not None) == answered, kind
    assert host.counters()["drop_tenant"] == 1


def test_what_is_a_tenants_never_leaves_by_the_uplink(
    host: Host, metald: Shell, far: Beyond
) -> None:
    unused = "2001:db8:acde:77::1"
    far.address(unused)
    specs = declare(host, prefix=PUBLIC, uplink=", announce: route", rules="egress: internet")
    metald.run("apply", specs, "--yes")
    with guest_of(host, VM) as guest, far.server(unused) as server:
        assert server.heard(guest, within_s=STAYS_AWAY_S) == ""
    assert host.counters()["drop_tenant"] == 1


def test_guests_open_the_services_of_the_host_that_are_listed(
    host: Host, metald: Shell, far: Beyond
) -> None:
    services = ", guestServices: [{protocol: udp, port: 53}]"
    specs = declare(host, prefix=PRIVATE, services=services, rules="egress: none")
    metald.run("apply", specs, "--yes")
    here = Beyond(host.netns)
    with (
        guest_of(host, VM) as guest,
        here.server(HERE) as listed,
        here.server(HERE, 54) as other,
    ):
        assert listed.heard(guest) == guest.address
        assert other.heard(guest, within_s=STAYS_AWAY_S) == ""
    metald.run("apply", declare(host, prefix=PRIVATE, rules="egress: none"), "--yes")
    with guest_of(host, VM) as guest, here.server(HERE) as listed:
        assert listed.heard(guest, within_s=STAYS_AWAY_S) == ""


def test_facts_of_the_host_come_back_and_go_with_what_declared_them(
    host: Host, metald: Shell, far: Beyond
) -> None:
    uplink = ", translate: masquerade"
    specs = declare(host, prefix=PRIVATE, uplink=uplink, rules="egress: internet")
    metald.run("apply", specs, "--yes")
    host.inside("nft", "delete element inet metald masqueraded { up0 }")
    host.inside("nft", "add element inet metald uplinks { theirs0 }")
    (change,) = metald.json("plan", specs)["changes"]
    assert change["resource"] == "host/rack"
    assert change["fields"] == [
        {"path": "status.firewall.facts", "before": "1 missing, 1 stale", "after": "as declared"}
    ]
    metald.run("apply", specs, "--yes")
    with guest_of(host, VM) as guest, far.server() as server:
        assert server.heard(guest) == HERE
    metald.run("destroy", "--yes")
    assert "metald" not in host.inside("nft", "list", "tables").stdout


def test_a_default_route_by_router_advertisement_stays(host: Host, metald: Shell) -> None:
    with beyond(host, default=False) as far:
        host.ip("-6", "route", "add", "default", "via", "2001:db8:ffff::2", "proto", "ra")
        far.route(PUBLIC)
        specs = declare(host, prefix=PUBLIC, rules="egress: internet")
        metald.run("apply", specs, "--yes")
        assert "proto ra" in host.ip("-6", "route", "show", "default")
        with guest_of(host, VM) as guest, far.server() as server:
            assert server.heard(guest) == guest.address


@pytest.mark.parametrize(
    ("prefix", "uplink", "rules", "said"),
    [
        (PRIVATE, "", "egress: internet", "not reached from a private prefix"),
        (PUBLIC, "", 'egress: [{to: "2001:db8:acde:1::/64"}]', "name the network or the tenant"),
        (PUBLIC, "", 'egress: [{to: "::/0"}]', "write internet, or a smaller prefix"),
        (PUBLIC, "", 'egress: [{to: "fe80::/64"}]', "no prefix that is routed"),
        (PUBLIC, "", 'egress: [{to: "2001:db8::1/48"}]', "has host bits set"),
        (PUBLIC, "", "ingress: [{from: internnet}]", "write network/TENANT/NAME"),
        (PUBLIC, ", translate: nat", "egress: none", "is not one of none, masquerade, prefix"),
        (PUBLIC, ', nat64: "64:ff9b::/95"', "egress: none", "nat64 is one of"),
        (PUBLIC, ", translate: prefix", "egress: none", "translate: prefix and prefix go together"),
        (
            PUBLIC,
            ', translate: prefix, prefix: "2001:db8:1::/48"',
            "egress: none",
            "declare a prefixPool of the same length",
        ),
        (
            PUBLIC,
            "",
            "ingress: [{from: internet, protocol: icmpv6, types: [packet-too-big]}]",
            "answers and errors pass with what they are about",
        ),
        (
            PUBLIC,
            "",
            "ingress: [{from: internet, protocol: tcp, types: [128]}]",
            "types go with protocol icmpv6",
        ),
        ("auto", "", 'egress: [{to: "fd00::/8"}]', "which is not outside"),
    ],
)
def test_what_is_wrong_is_told_and_changes_nothing(
    host: Host, metald: Shell, prefix: str, uplink: str, rules: str, said: str
) -> None:
    specs = declare(host, prefix=prefix, uplink=uplink, rules=rules)
    before = host.snapshot()
    for command in (("plan", specs), ("apply", specs, "--yes")):
        stderr = metald.run(*command, expect=1).stderr
        assert said in stderr, stderr
        assert "fleet.yaml" in stderr
    assert host.snapshot() == before


def test_verify_tries_the_way_out_and_names_what_is_otherwise(
    host: Host, metald: Shell, far: Beyond
) -> None:
    rules = "egress: [{to: internet, protocol: tcp, ports: [443]}], ingress: [{from: internet}]"
    specs = declare(host, prefix=PUBLIC, rules=rules, machine=f"power: paused, {QEMU}")
    metald.run("apply", specs, "--yes")
    document = metald.json("verify")
    check("verify", document)
    pairs = {(pair["from"], pair["to"]): pair for pair in document["pairs"]}
    out, into = pairs[LAN, "internet"], pairs["internet", LAN]
    assert (out["verdict"], into["verdict"]) == ("agrees", "notTried")
    assert "as if from beyond an uplink" in into["reason"]
    (entry,) = [line for line in host.elements().splitlines() if "2000::/3 . tcp . 443" in line]
    key = entry.partition("{")[2].partition("}")[0].strip() or entry.strip(" \t,{}")
    host.inside("nft", f"delete element inet metald egress {{ {key.replace('443', '443-443')} }}")
    document = metald.json("verify", LAN, "internet", expect=1)
    (pair,) = [pair for pair in document["pairs"] if pair["verdict"] == "disagrees"]
    assert [(wrong["port"], wrong["expected"]) for wrong in pair["disagreements"]] == [
        (443, "arrives")
    ]
    assert "internet (3fff::1): should arrive" in metald.run("verify", expect=1).stdout
    host.ip("-6", "route", "del", "default")
    metald.run("apply", specs, "--yes")
    said = metald.run("verify", LAN, "internet", expect=1).stdout
    assert "the host has no way there" in said


def test_the_host_answers_for_guests_that_rules_let_out(
    host: Host, metald: Shell, far: Beyond
) -> None:
    """Nobody out there has a route: the prefix is on their link, as they see it."""
    specs = declare(
        host, prefix=PUBLIC, uplink=", announce: proxy-ndp", rules="egress: internet"
    )  # fmt: skip
    ip(far.netns, "-6", "route", "add", PUBLIC, "dev", "far0")
    before = host.inside("cat", PROXY_NDP).stdout
    plan = metald.json("plan", specs)
    paths = {f["path"] for change in plan["changes"] for f in change["fields"]}
    assert f"status.sysctls.net.ipv6.conf.{UPLINK}.proxy_ndp" in paths
    metald.run("apply", specs, "--yes")
    assert metald.json("plan", specs)["changes"] == []
    with guest_of(host, VM) as guest, far.server() as server:
        assert server.heard(guest) == guest.address
        assert server.reaches(guest), "the answer finds its way"
        host.ip("-6", "neigh", "del", "proxy", guest.address, "dev", UPLINK)
        (change,) = metald.json("plan", specs)["changes"]
        assert (change["resource"], change["disruption"]) == ("host/rack", "none")
        host.inside("sh", "-c", f"echo 0 > {PROXY_NDP}")
        assert len(metald.json("plan", specs)["changes"]) > 0
        metald.run("apply", specs, "--yes")
        assert server.heard(guest) == guest.address and server.reaches(guest)
        host.ip("-6", "neigh", "add", "proxy", "2001:db8:77::1", "dev", UPLINK)

        closed = declare(host, prefix=PUBLIC, uplink=", announce: proxy-ndp", rules="egress: none")
        metald.run("apply", closed, "--yes")
        assert guest.address not in host.ip("-6", "neigh", "show", "proxy")
        metald.run("apply", declare(host, prefix=PUBLIC, uplink=", announce: proxy-ndp",
                                    rules="egress: internet"), "--yes")  # fmt: skip
        assert guest.address in host.ip("-6", "neigh", "show", "proxy")
    metald.run("destroy", "--yes")
    assert host.ip("-6", "neigh", "show", "proxy").split()[0] == "2001:db8:77::1", "not ours"
    assert host.inside("cat", PROXY_NDP).stdout == before


def test_the_host_answers_for_what_stands_for_guests_out_there(
    host: Host, metald: Shell, far: Beyond
) -> None:
    uplink = f", announce: proxy-ndp, translate: prefix, prefix: '{OUT_THERE}'"
    specs = declare(host, prefix=PRIVATE, uplink=uplink, rules="egress: internet",
                    services=f", prefixPool: '{PRIVATE}'")  # fmt: skip
    ip(far.netns, "-6", "route", "add", OUT_THERE, "dev", "far0")
    metald.run("apply", specs, "--yes")
    with guest_of(host, VM) as guest, far.server() as server:
        seen = server.heard(guest)
        assert IPv6Address(seen) in IPv6Network(OUT_THERE)
        assert seen in host.ip("-6", "neigh", "show", "proxy")


def test_an_uplink_that_is_not_there_is_told(host: Host, metald: Shell) -> None:
    for announce in ("", ", announce: proxy-ndp"):
        specs = declare(host, prefix=PUBLIC, uplink=announce, rules="egress: internet")
        assert any("up0 is not there" in w for w in metald.json("plan", specs)["warnings"])
        metald.run("apply", specs, "--yes")
        assert metald.json("plan", specs)["changes"] == [], "it stops nobody else"
