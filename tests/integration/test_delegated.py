"""A prefix delegated to a real guest: what runs inside it is reached, told, changed in place."""

from __future__ import annotations

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest

from reconciler.network.advertising import advertiser_of
from tests.integration.host import QEMU, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.integration.test_adoption import lose_state

pytestmark = [pytest.mark.vm, pytest.mark.netns]
ROUTER, PEER = "vm/acme/router", "vm/acme/peer"


def declare(host: Host, prefix: str) -> str:
    router = QEMU.replace("network: lan", f"network: lan{prefix}")
    machines = vm("acme", "router", router) + vm("acme", "peer", QEMU)
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + machines)
    return str(host.specs)


def interface(host: Host) -> dict[str, Any]:
    (item,) = host.json("get", "vm", ROUTER)["items"]
    found: dict[str, Any] = item["spec"]["interfaces"][0]
    return found


def test_what_runs_inside_a_guest_is_reached_by_a_prefix_of_its_own(
    host: Host, metald: Shell
) -> None:
    metald.run("apply", declare(host, ""), "--yes")
    host.wait_for_guests()
    pids = host.pids()

    specs = declare(host, ", prefix: auto/64")
    plan = metald.json("plan", specs)
    assert [(c["resource"], c["disruption"]) for c in plan["changes"]] == [(ROUTER, "none")]
    metald.run("apply", specs, "--yes")
    assert host.pids() == pids
    prefix = interface(host)["prefix"]
    container = prefix.replace("::/64", ":1::2")
    assert prefix in metald.run("describe", ROUTER).stdout
    assert host.guest(ROUTER, f"ip -6 addr add {container}/128 dev lo")
    reach = f"(for i in 1 2 3 4 5; do ping6 -c1 -W3 {container} && exit 0; done; exit 1)"
    assert host.guest(PEER, reach), "its neighbour reaches what is inside"
    mine = interface(host)["addresses"][0]
    peer = host.vms()[PEER]["addresses"][0]
    back = f"(for i in 1 2 3 4 5; do ping6 -c1 -W3 -I {container} {peer} && exit 0; done; exit 1)"
    assert host.guest(ROUTER, back), "and what is inside reaches it"
    host.ip("-6", "route", "delete", prefix)
    (drifted,) = metald.json("drift")["drifted"]
    assert [field["path"] for field in drifted["fields"]] == ["status.interfaces[lan].routes"]
    metald.run("apply", specs, "--yes")
    assert host.guest(PEER, reach), "healed"

    lose_state(host)
    shutil.rmtree(host.runs.records)  # only processes and the kernel are left to tell
    metald.run("adopt", "--out", str(host.folder / "found"), "--yes")
    assert (interface(host)["prefix"], interface(host)["addresses"]) == (prefix, [mine])
    again = metald.json("plan", str(host.folder / "found"))["changes"]
    assert {change["resource"] for change in again} <= {"host/local"}, "the rules, loaded anew"

    metald.run("apply", declare(host, ""), "--yes")
    assert "prefix" not in interface(host) and host.pids() == pids
    assert prefix not in host.ip("-6", "route")
    assert not host.guest(PEER, f"ping6 -c1 -W2 {container}")


def test_a_guest_makes_its_own_addresses_in_a_prefix_that_is_advertised(
    host: Host, metald: Shell
) -> None:
    loose = "policy: {slaac: true, sourceValidation: {address: prefix}}"
    without = vm("acme", "router", QEMU.replace("lan", f"lan, {loose}"))
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + without)
    refused = metald.run("plan", str(host.specs), expect=1).stderr
    assert "there is no prefix to advertise to it" in refused
    metald.run("apply", declare(host, f", prefix: auto/64, {loose}"), "--yes")
    host.wait_for_guests()
    prefix = interface(host)["prefix"].removesuffix("::/64")
    accept = "for s in all default eth0; do echo 2 > /proc/sys/net/ipv6/conf/$s/accept_ra; done"
    assert host.guest(ROUTER, accept)
    # It asks when its link comes up; what it was given by metald goes with the link.
    assert host.guest(ROUTER, "ip link set eth0 down && ip link set eth0 up")
    mine = f"ip -6 addr show eth0 | grep -q {prefix}"
    host.until("an address of its own making", lambda: host.guest(ROUTER, mine))
    peer = host.vms()[PEER]["addresses"][0]
    ping = f"(for i in 1 2 3 4 5; do ping6 -c1 -W3 {peer} && exit 0; done; exit 1)"
    assert host.guest(ROUTER, ping), "by the router that was advertised"
    pid = advertiser_of(host.runs.advertiser)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    host.until("it is gone", lambda: not Path(f"/proc/{pid}/exe").exists())
    (drifted,) = metald.json("drift")["drifted"]
    assert drifted["resource"] == ROUTER
    metald.run("apply", str(host.specs), "--yes")
    assert metald.json("plan", str(host.specs))["changes"] == []
    metald.run("destroy", "--yes")
    assert not host.runs.advertiser.exists()
    assert host.vmm_pids() == set()
