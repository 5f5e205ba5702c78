"""Bridged networks on a host: real guests on a segment, from one mode to the other and back,
healed, cut off, gone without trace; and what is refused.
"""

from __future__ import annotations

import pytest

from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.security.ground import bridges_track, of_mode

pytestmark = [pytest.mark.netns]
A, B, FAR = "vm/acme/a", "vm/acme/b", "vm/acme/far"
RULE = "ingress: [{from: network/acme/lan, protocol: icmpv6}]"
BASE = tenant("acme") + network("acme", "far", RULE) + vm("acme", "far", QEMU.replace("lan", "far"))


def fleet(mode: str, more: str = "") -> str:
    lan = network("acme", "lan", f"{of_mode(mode)}{more}")
    return BASE + lan + vm("acme", "a", QEMU) + vm("acme", "b", QEMU)


def forge(host: Host, address: dict[str, str]) -> None:
    """A guest that takes its neighbour's address, or another MAC, is heard by nobody, and that is
    told; its neighbour goes on.
    """

    def dropped() -> int:
        found = host.json("get", "drops")["items"]
        return sum(e["packets"] for e in found if (e["resource"], e["control"]) == (A, "spoof"))

    assert dropped() == 0
    stolen = f"ip -6 addr add {address[B]}/128 dev eth0; ping6 -c1 -W2 -I {address[B]}"
    assert not host.guest(A, f"{stolen} {address[FAR]}")
    assert host.guest(A, f"ip -6 addr del {address[B]}/128 dev eth0")
    mac = host.json("describe", A)["spec"]["interfaces"][0]["mac"]
    change = "ip link set eth0 down; ip link set eth0 address {}; ip link set eth0 up; {}"
    again = f"ip -6 addr add {address[A]}/64 dev eth0; ip -6 route add default via fe80::1 dev eth0"
    assert host.guest(A, change.format("02:00:00:00:00:99", again))
    assert not host.guest(A, f"ping6 -c1 -W2 {address[B]}") and dropped() >= 2
    assert host.answers(address[B])
    assert host.guest(A, change.format(mac, again))


@pytest.mark.vm
def test_guests_on_a_segment_and_off_it_again(host: Host) -> None:
    specs = str(host.specs)
    host.write("fleet.yaml", fleet("bridged"))
    host.run("apply", specs, "--yes")
    host.wait_for_guests()
    vms = host.vms()
    address = {name: vms[name]["addresses"][0] for name in (A, B, FAR)}

    def reaches(name: str, other: str) -> bool:
        return host.guest(name, f"ping6 -c1 -W9 {address[other]}")

    def is_near(name: str, other: str) -> bool:
        """It knows the other's own MAC: nobody routes between them."""
        mac = host.json("describe", other)["spec"]["interfaces"][0]["mac"]
        return host.guest(name, f"ip -6 neigh show {address[other]} | grep -q {mac}")

    assert reaches(A, B) and reaches(B, A) and reaches(A, FAR)
    assert is_near(A, B) and is_near(B, A)
    assert not host.guest(FAR, f"ping6 -c1 -W2 {address[A]}")
    assert host.answers(address[A]) and host.answers(address[B])
    assert host.json("plan", specs)["changes"] == []

    forge(host, address)
    host.until("A is heard again", lambda: reaches(A, B))

    # What is done to its bridge by hand is seen, told and healed, under the same processes.
    before = {name: entry["pid"] for name, entry in vms.items()}
    (bridge,) = [line.split(":")[1].strip() for line in host.ip("-o", "link", "show", "type",
                 "bridge").splitlines()]  # fmt: skip
    host.ip("link", "del", bridge)
    assert not host.guest(A, f"ping6 -c1 -W2 {address[FAR]}")
    said = host.run("apply", specs, "--yes").stdout
    assert "its bridge was changed" in said
    host.until("they reach each other again", lambda: reaches(A, B) and reaches(A, FAR))
    assert {name: entry["pid"] for name, entry in host.vms().items()} == before

    host.run("isolate", A)
    assert not host.guest(B, f"ping6 -c1 -W2 {address[A]}")
    assert not host.guest(A, f"ping6 -c1 -W2 {address[B]}")
    host.run("unisolate", A)
    assert reaches(A, B)

    # Another mode is told to a guest when it starts.
    host.write("fleet.yaml", fleet("routed"))
    plan = host.json("plan", specs)
    told = {c["resource"]: c["disruption"] for c in plan["changes"]}
    assert (told[A], told[B], told.get(FAR)) == ("restart", "restart", None)
    host.run("apply", specs, "--yes")
    host.wait_for_guests()
    assert host.ip("-o", "link", "show", "type", "bridge") == ""
    assert reaches(A, B) and not is_near(A, B)
    host.run("destroy", "--yes")
    assert host.inside("nft", "list", "tables").stdout == ""


def test_closed_inside_and_gone_without_trace(host: Host, metald: Shell) -> None:
    specs = str(host.specs)
    policy = of_mode("bridged").partition("policy: {")[2].rstrip("}")
    inside = f"mode: bridged, policy: {{isolation: {{intraNetwork: block}}, {policy}}}"
    if policy:
        inside += "}"
    text = tenant("acme") + network("acme", "lan", inside)
    host.write("fleet.yaml", text + vm("acme", "a", SIMULATED) + vm("acme", "b", SIMULATED))
    metald.run("apply", specs, "--yes")
    ports = host.ip("-d", "-o", "link", "show", "type", "bridge_slave")
    assert ports.count("isolated on") == 2
    metald.run("destroy", "--target", A, "--yes")
    assert host.ip("-d", "-o", "link", "show", "type", "bridge_slave").count("isolated on") == 1
    metald.run("destroy", "--target", B, "--yes")
    assert host.ip("-o", "link", "show", "type", "bridge") == ""
    assert metald.json("get", "drops")["items"] == []
    metald.run("destroy", "--yes")
    assert host.inside("nft", "list", "tables").stdout == ""


def test_what_this_host_cannot_do_on_a_segment_is_refused(host: Host, metald: Shell) -> None:
    inside = "mode: bridged, security: medium"
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan", inside)
               + vm("acme", "a", SIMULATED))  # fmt: skip
    if bridges_track():
        metald.run("plan", str(host.specs))
        return
    said = " ".join(metald.run("plan", str(host.specs), expect=1).stderr.split())
    assert "network/acme/lan is bridged: its policy has rateLimits.connections and" in said
    assert "extensionHeaders.fragments that pass, for which bridges must track connections" in said
    assert "policy: {rateLimits: {connections: none}, extensionHeaders: {fragments: block}}" in said
    features = {c["check"]: c["level"] for c in metald.json("doctor", expect=None)["items"]}
    assert features["feature bridge-tracking"] == "warn"
    assert features["feature bridges"] == "ok"
