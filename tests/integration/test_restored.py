"""After a reboot the network of what is on record comes first: names, addresses and rules as they
were, before any VM starts, without specs and without a daemon.
"""

from __future__ import annotations

import configparser
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.integration.confirmed import overdue, pending, picture
from tests.integration.host import QEMU, ROOT, SIMULATED, Host, network, tenant, vm
from tests.integration.outside import guest_of
from tests.integration.shell import Shell
from tests.integration.test_output import check
from tests.network.frames import udp_packet

pytestmark = [pytest.mark.netns]
UNIT = ROOT / "templates" / "systemd" / "metald-network.service"
KEPT = ("links", "routes", "neighbours", "rules", "sysctls", "records", "holdings")


def reboot(host: Host) -> None:
    """All that a reboot takes away: links, rules, settings, the run folder, every process."""
    for link in host.links():
        host.ip("link", "delete", link)
    host.inside("nft", "flush", "ruleset")
    host.inside("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")
    shutil.rmtree(host.runs.root)


def started(host: Host) -> list[str]:
    return [name for name, status in host.vms().items() if status["phase"] == "running"]


def test_the_network_comes_back_without_specs_and_no_vm_starts(host: Host, metald: Shell) -> None:
    rule = "ingress: [{from: network/acme/dmz, protocol: udp, ports: [5000]}]"
    parts = tenant("acme") + network("acme", "lan", rule) + network("acme", "dmz")
    parts += vm("acme", "a", SIMULATED)
    parts += vm("acme", "b", SIMULATED.replace("lan", "dmz, prefix: auto/64"))
    parts += vm("acme", "off", SIMULATED + ", power: stopped")
    host.write("fleet.yaml", parts)
    metald.run("apply", str(host.specs), "--yes")
    metald.run("isolate", "vm/acme/off")
    before, generations = picture(host), told(metald)
    reboot(host)
    done = metald.json("restore-network")
    check("apply", done)
    assert done["outcome"] == "done"
    assert {step["state"] for step in done.get("steps", [])} <= {"done"}
    after = picture(host)
    for part in KEPT:
        assert after[part] == before[part], part
    assert started(host) == [], "no VM"
    assert told(metald) == generations
    assert metald.json("restore-network")["outcome"] == "unchanged"
    with guest_of(host, "vm/acme/a") as a, guest_of(host, "vm/acme/b") as b:
        b.send(udp_packet(b.address, a.address, marker := os.urandom(16), ports=(4000, 5000)))
        assert a.received(marker, within_s=5), "rules and routes are those of before"
        a.send(udp_packet(a.address, b.address, marker := os.urandom(16), ports=(4000, 80)))
        assert b.received(marker, within_s=0.3) is None
    metald.run("apply", str(host.specs), "--yes")
    assert sorted(started(host)) == ["vm/acme/a", "vm/acme/b"]
    assert metald.json("plan", str(host.specs))["changes"] == []


def test_what_was_not_confirmed_is_undone_later_by_what_may_start_vms(
    host: Host, metald: Shell
) -> None:
    fleet = tenant("acme") + network("acme", "lan") + vm("acme", "a", SIMULATED)
    host.write("fleet.yaml", fleet)
    metald.run("apply", str(host.specs), "--yes")
    before = picture(host)
    overdue(host, fleet + vm("acme", "b", SIMULATED))
    reboot(host)
    assert metald.json("restore-network")["outcome"] == "done"
    assert started(host) == [], "no VM"
    assert pending(host)
    host.write("fleet.yaml", fleet)
    done = metald.run("apply", str(host.specs), "--yes")
    assert "was not confirmed" in done.stdout
    assert not pending(host)
    assert started(host) == ["vm/acme/a"]
    after = picture(host)
    for part in KEPT:
        assert after[part] == before[part], part


def told(metald: Shell) -> dict[str, Any]:
    items = metald.json("get", "vm")["items"]
    return {e["resource"]: (e["generation"], e["observedGeneration"]) for e in items}


@pytest.mark.vm
def test_under_live_guests_it_heals_the_network_and_touches_nothing_else(
    host: Host, metald: Shell
) -> None:
    host.write("fleet.yaml", tenant("acme") + network("acme", "lan") + vm("acme", "a", QEMU))
    metald.run("apply", str(host.specs), "--yes")
    host.wait_for_guests()
    pids = host.pids()
    for link in host.links():
        host.ip("link", "delete", link)
    metald.run("restore-network")
    assert host.pids() == pids
    host.wait_for_guests()


def test_on_a_host_where_nothing_is_on_record_it_does_nothing(host: Host, metald: Shell) -> None:
    links = host.ip("-o", "link")
    assert metald.json("restore-network")["outcome"] == "unchanged"
    assert host.ip("-o", "link") == links
    assert "inet metald" not in host.inside("nft", "list", "tables").stdout


def test_the_unit_goes_before_every_network_and_before_metald(tmp_path: Path) -> None:
    parser = configparser.ConfigParser(strict=False, interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # keys have capitals
    parser.read(UNIT)
    assert {"network-pre.target", "metald.service"} <= set(parser["Unit"]["Before"].split())
    assert parser["Service"]["ExecStart"] == "/usr/bin/metald restore-network"
    program = shutil.which("systemd-analyze")
    if program is not None:
        unit = tmp_path / UNIT.name
        unit.write_text(UNIT.read_text().replace("/usr/bin/metald", "/bin/true"))
        done = subprocess.run([program, "verify", str(unit)], capture_output=True, text=True,
                              timeout=60, check=False)  # fmt: skip
        assert UNIT.name not in done.stderr, done.stderr
