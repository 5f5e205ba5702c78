"""The quickstart on real guests: applied, applied again, drifted, healed, attacked, destroyed."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from tests.integration.host import ROOT, Host

QUICKSTART = str(ROOT / "examples" / "quickstart")
WEB_1, WEB_2 = "vm/acme/web-1", "vm/acme/web-2"
pytestmark = [pytest.mark.vm, pytest.mark.netns]


def test_apply_twice_then_heal_a_deleted_tap_without_restarting_anything(host: Host) -> None:
    first = host.json("apply", QUICKSTART, "--yes")
    assert first["outcome"] == "done"
    assert first["plan"]["summary"]["create"] == 10
    pids = host.pids()
    assert len(set(pids.values())) == 4

    second = host.json("apply", QUICKSTART, "--yes")
    assert second["outcome"] == "unchanged"
    assert second["plan"]["changes"] == []
    assert host.pids() == pids
    host.wait_for_guests()

    status = host.vms()[WEB_1]
    host.ip("link", "delete", status["taps"][0])
    changes = host.json("plan", QUICKSTART)["changes"]
    assert [(c["resource"], c["action"], c["disruption"]) for c in changes] == [
        (WEB_1, "update", "none")
    ]
    assert [f["path"] for f in changes[0]["fields"]] == ["status.interfaces[front].link"]
    host.run("plan", QUICKSTART, "--detailed-exitcode", expect=2)

    assert host.json("apply", QUICKSTART, "--yes")["outcome"] == "done"
    assert host.pids() == pids
    host.until("the healed guest answers", lambda: host.answers(status["addresses"][0]), 20)
    host.run("plan", QUICKSTART, "--detailed-exitcode")


def test_isolation_and_spoofing_from_inside_the_guests(host: Host) -> None:
    host.run("apply", QUICKSTART, "--yes")
    host.wait_for_guests()
    address = {name: status["addresses"][0] for name, status in host.vms().items()}

    # An idle healthy guest raises no drop: all of them have booted and probed by now.
    drops = {k: v for k, v in host.counters().items() if k.startswith("drop_")}
    assert drops == dict.fromkeys(drops, 0)

    # Two cores emulate four machines: an answer may take its time.
    patient = "(for i in 1 2 3 4 5; do ping6 -c1 -W3 %s && exit 0; done; exit 1)"
    assert host.guest(WEB_1, patient % address[WEB_2])
    assert host.guest(WEB_1, f"nc -w 3 {address[WEB_2]} 7 </dev/null | grep -q metald")
    for other in ("vm/acme/db-1", "vm/globex/app-1"):
        assert not host.guest(WEB_1, f"ping6 -c1 -W2 {address[other]}")
    assert host.counters()["drop_tenant"] >= 2
    assert not host.guest(WEB_1, "ping6 -c1 -W2 fe80::1%eth0"), "the host must not answer"
    assert host.counters()["drop_host"] >= 1

    # What verify sends, no busy guest notices.
    busy: list[bool] = []
    ping = f"ping6 -c 5 -W 9 {address[WEB_2]} | grep -q ' 0% packet loss'"
    traffic = threading.Thread(target=lambda: busy.append(host.guest(WEB_1, ping)))
    traffic.start()
    while traffic.is_alive():
        assert host.json("verify")["summary"]["disagrees"] == 0
    assert busy == [True]

    # A second address that nobody gave it: cut off when used, its own one still works.
    stolen = address[WEB_1].rsplit(":", 1)[0] + ":beef"
    assert host.guest(WEB_1, f"ip -6 addr add {stolen}/128 dev eth0")
    assert not host.guest(WEB_1, f"ping6 -c1 -W2 -I {stolen} {address[WEB_2]}")
    assert host.counters()["drop_spoof"] >= 1
    assert host.answers(address[WEB_1])

    # Another MAC: nothing of it passes any more, its neighbour does not notice.
    before = host.counters()["drop_spoof"]
    change = "ip link set eth0 down; ip link set eth0 address 02:00:00:00:be:ef; "
    restore = f"ip link set eth0 up; ip -6 addr add {address[WEB_1]}/128 dev eth0; "
    route = "ip -6 route add default via fe80::1 dev eth0"
    assert host.guest(WEB_1, change + restore + route)
    assert not host.guest(WEB_1, f"ping6 -c1 -W2 {address[WEB_2]}")
    assert not host.answers(address[WEB_1])
    assert host.counters()["drop_spoof"] > before
    assert host.answers(address[WEB_2])


def test_a_spec_change_restarts_only_what_it_must_and_addresses_stay(host: Host) -> None:
    fleet = Path(QUICKSTART)
    for file in fleet.glob("*.yaml"):
        host.write(file.name, file.read_text())
    host.run("apply", str(host.specs), "--yes")
    host.wait_for_guests()  # a guest that still boots ignores the power button
    before = host.vms()
    text = (host.specs / "globex.yaml").read_text()
    host.write("globex.yaml", text.replace("128Mi", "144Mi"))
    document = host.json("apply", str(host.specs), "--yes")
    assert [(c["resource"], c["action"]) for c in document["plan"]["changes"]] == [
        ("vm/globex/app-1", "restart")
    ]
    after = host.vms()
    for name, status in after.items():
        assert status["addresses"] == before[name]["addresses"]
        assert (status["pid"] == before[name]["pid"]) == (name != "vm/globex/app-1")


def test_caged_process_console_reboot_and_power_off(host: Host) -> None:
    host.run("apply", QUICKSTART, "--yes", "--target", "vm/globex/app-1")
    assert set(host.vms()) == {"vm/globex/app-1"}
    host.wait_for_guests()
    name = "vm/globex/app-1"
    first = host.vms()[name]
    process = Path(f"/proc/{first['pid']}/status").read_text()
    fields = dict(line.split(":\t", 1) for line in process.splitlines() if ":\t" in line)
    assert int(fields["Uid"].split()[0]) >= 2_000_000_000
    assert {fields[f"Cap{kind}"] for kind in ("Inh", "Prm", "Eff", "Bnd", "Amb")} == {"0" * 16}
    assert fields["NoNewPrivs"] == "1"
    assert fields["Seccomp"] == "2"
    uid = first["uid"]
    assert "metald-guest ready name=globex/app-1" in host.runs.vm(uid).console_log.read_text()

    host.run("reboot", name)
    second = host.vms()[name]
    assert second["pid"] != first["pid"]
    assert second["addresses"] == first["addresses"]
    host.wait_for_guests()

    # restart: always — a guest that powers itself off is recovered, not a change.
    host.guest(name, "(sleep 1; poweroff -f) &")
    host.until("the guest is off", lambda: host.vms()[name]["phase"] != "running", 30)
    plan = host.json("plan", QUICKSTART, "--target", name)
    assert plan["changes"] == []
    assert [entry["verdict"] for entry in plan["recoveries"]] == ["start"]
    host.run("apply", QUICKSTART, "--yes", "--target", name)
    assert host.vms()[name]["phase"] == "running"


def test_destroy_leaves_the_ledger_and_purge_leaves_nothing(host: Host) -> None:
    host.ip("link", "add", "theirs0", "type", "veth", "peer", "name", "theirs1")
    host.inside("nft", "add", "table", "ip", "theirs")
    links, nft = host.ip("-o", "link"), host.inside("nft", "list", "ruleset").stdout
    host.run("apply", QUICKSTART, "--yes")
    host.wait_for_guests()
    used, uid = host.vms()[WEB_1]["addresses"], host.vms()[WEB_1]["uid"]
    assert host.vmm_pids()

    host.run("destroy", "--yes")
    assert host.ip("-o", "link") == links
    assert host.inside("nft", "list", "ruleset").stdout == nft
    assert host.inside("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout.strip() == "0"
    assert host.vmm_pids() == set()
    assert not host.runs.root.exists()
    assert not list(Path("/sys/fs/cgroup").glob(f"**/metald.slice/*{uid}*"))
    incarnations, managed, held = host.ledger()
    assert managed == {} and held == {}
    assert incarnations[WEB_1] == 1

    # The tombstones hold: the next incarnation gets other identities and addresses.
    host.run("apply", QUICKSTART, "--yes")
    assert host.vms()[WEB_1]["addresses"] != used
    assert host.ledger()[0][WEB_1] == 2

    host.run("destroy", "--yes", "--purge")
    assert not host.state.root.exists()
    assert not host.runs.root.exists()
    assert host.vmm_pids() == set()
