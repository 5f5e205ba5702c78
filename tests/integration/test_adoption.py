"""`metald adopt`: the state is lost, the VMs run on, and come on record again as they are."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.crash.test_kill import check_nothing_is_left_over, seeded
from tests.integration.host import ROOT, SIMULATED, Host, network, tenant, vm
from tests.integration.test_output import check

pytestmark = [pytest.mark.netns]
QUICKSTART = ROOT / "examples" / "quickstart"
KILLS = 4


def lose_state(host: Host) -> None:
    """The disk died: database, secret and history are gone; the images are built again."""
    images = host.folder / "images"
    shutil.move(host.state.images, images)
    shutil.rmtree(host.state.root)
    host.state.root.mkdir(mode=0o700)
    shutil.move(images, host.state.images)


def small_fleet(host: Host, count: int = 3) -> str:
    rule = "ingress: [{from: network/acme/dmz, protocol: tcp, ports: [80, 8000-8010]}]"
    text = tenant("acme", "quota: {vms: 9}") + network("acme", "lan", rule)
    text += network("acme", "dmz")
    for index in range(count):
        power = ", power: paused" if index == 1 else ", restart: never"
        text += vm("acme", f"sim-{index}", SIMULATED + power)
    text += vm("acme", "edge", "hypervisor: simulated, interfaces: [{network: dmz}]")
    host.write("fleet.yaml", text)
    host.run("apply", str(host.specs), "--yes")
    return text


def edit(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new, 1))


def uids(host: Host) -> dict[str, str]:
    return {name: status["uid"] for name, status in host.vms().items()}


@pytest.mark.vm
def test_the_quickstart_outlives_its_state_and_is_restarted_and_destroyed_afterwards(
    host: Host,
) -> None:
    links = host.ip("-o", "link")
    host.run("apply", str(QUICKSTART), "--yes")
    host.wait_for_guests()
    before, alive = host.vms(), host.vmm_pids()
    lose_state(host)
    assert "4 VMs run here all the same" in host.run("drift").stdout

    out = host.folder / "adopted"
    document = host.json("adopt", "--out", str(out), "--yes")
    check("adopt", document)
    assert document["left"] == document["differences"] == document["recoveries"] == []
    assert document["files"] == ["acme.yaml", "globex.yaml"]
    assert host.vmm_pids() == alive
    after = host.vms()
    for key in ("pid", "uid", "addresses", "taps", "phase"):
        assert {n: s[key] for n, s in after.items()} == {n: s[key] for n, s in before.items()}

    # What was written, and what the operator wrote in the first place, both change nothing.
    for specs in (out, QUICKSTART):
        plan = host.json("plan", str(specs), "--detailed-exitcode")
        assert (plan["changes"], plan["steps"], plan["warnings"]) == ([], 0, [])
        assert host.json("apply", str(specs), "--yes")["outcome"] == "unchanged"
    assert "No drift." in host.run("drift", "--detailed-exitcode").stdout
    assert all(host.answers(a) for s in after.values() for a in s["addresses"])
    why = host.run("why", "vm/acme/web-1").stdout
    assert "adopted: found running as process" in why

    # From here on they are like any other: one is restarted, another renamed and rebooted.
    edit(out / "acme.yaml", "memory: 128Mi", "memory: 144Mi")
    edit(out / "globex.yaml", "{name: app-1,", "{name: app, renamedFrom: app-1,")
    changes = {c["resource"]: c for c in host.json("apply", str(out), "--yes")["plan"]["changes"]}
    assert changes.pop("vm/globex/app")["disruption"] == "none"
    ((restarted, change),) = changes.items()
    assert change["action"] == "restart"
    now = host.vms()
    before["vm/globex/app"] = before.pop("vm/globex/app-1")
    assert {n: s["addresses"] for n, s in now.items()} == {
        n: s["addresses"] for n, s in before.items()
    }
    assert [name for name in now if now[name]["pid"] != before[name]["pid"]] == [restarted]
    host.run("reboot", "vm/globex/app")
    assert host.vms()["vm/globex/app"]["uid"] == before["vm/globex/app"]["uid"]
    host.run("plan", str(out), "--detailed-exitcode")
    host.until("it answers", lambda: host.answers(now[restarted]["addresses"][0]), 120)

    host.run("destroy", "--yes")
    assert host.ip("-o", "link") == links
    assert host.inside("nft", "list", "ruleset").stdout == ""
    assert host.inside("cat", "/proc/sys/net/ipv6/conf/all/forwarding").stdout.strip() == "0"
    assert host.vmm_pids() == set()
    assert not host.runs.root.exists()


def test_without_copies_of_the_record_the_processes_and_the_kernel_tell(host: Host) -> None:
    small_fleet(host)
    before, elements = uids(host), host.elements()
    lose_state(host)
    shutil.rmtree(host.runs.records)
    out = host.folder / "adopted"
    document = host.json("adopt", "--out", str(out), "--yes")
    check("adopt", document)
    assert [c["resource"] for c in document["differences"]] == ["host/local"]
    assert {e["resource"] for e in document["adopted"] if e["untold"]} >= {"tenant/acme"}
    assert uids(host) == before
    plan = host.json("plan", str(out))
    assert [change["resource"] for change in plan["changes"]] == ["host/local"]
    text = (out / "acme.yaml").read_text()
    assert "ports: [80, 8000-8010]" in text
    assert "# Nothing here told its labels, quota, pricePlan: review them." in text
    host.run("apply", str(out), "--yes")
    assert host.elements() == elements
    host.run("plan", str(out), "--detailed-exitcode")


def test_killed_at_any_moment_it_is_recorded_wholly_or_not_at_all(host: Host) -> None:
    draw = seeded()
    small_fleet(host)
    before = uids(host)
    for number in range(KILLS):
        lose_state(host)
        out = host.folder / f"adopted-{number}"
        kill_after(host, draw, "adopt", "--out", str(out), "--yes")
        recorded = uids(host) if host.state.database.exists() else {}
        assert recorded in ({}, before)
        assert not recorded or out.is_dir(), "on record means that its specs are written"
        host.run("adopt", "--out", str(out), "--yes")
        assert uids(host) == before
        assert {path.name for path in host.folder.glob(".adopted*")} == set()
        host.run("plan", str(out), "--detailed-exitcode")
    check_nothing_is_left_over(host)


def kill_after(host: Host, draw: random.Random, *words: str) -> None:
    process = host.start(*words)
    try:
        process.wait(draw.uniform(0.5, 2.5))
    except subprocess.TimeoutExpired:
        process.send_signal(signal.SIGKILL)
        process.wait(10)


def test_what_cannot_be_adopted_is_said_and_nothing_is_overwritten(host: Host) -> None:
    out = host.folder / "adopted"
    assert "Nothing to adopt" in host.run("adopt", "--out", str(out), "--yes").stdout
    assert not out.exists()
    text = small_fleet(host)
    assert "Nothing to adopt" in host.run("adopt", "--out", str(out), "--yes").stdout

    before = uids(host)
    lose_state(host)
    out.mkdir()
    (out / "mine.yaml").write_text("# mine\n")
    snapshot = outside(host)
    refused = host.run("adopt", "--out", str(out), "--yes", expect=4)
    assert "nothing in it is overwritten" in refused.stderr
    refused = host.run("adopt", "--out", str(out / "mine.yaml"), "--yes", expect=4)
    assert "there is a file by that name" in refused.stderr
    host.run("adopt", "--out", str(host.folder / "no" / "such"), "--yes", expect=1)
    host.run("adopt", "vm/acme", "--out", str(out), "--yes", expect=1)
    asked = host.run("adopt", "--out", str(host.folder / "new"), expect=1, stdin=subprocess.DEVNULL)
    assert "nobody is there to agree" in asked.stderr
    assert (out / "mine.yaml").read_text() == "# mine\n"
    assert not host.vms()
    assert outside(host) == snapshot

    # One whose record is torn, and one that has drifted: both are left, by name.
    torn = host.runs.vm(before["vm/acme/sim-0"]).launch
    whole = torn.read_text()
    torn.write_text("torn")
    tap = tap_of(host, "sim-2")
    host.ip("link", "set", tap, "alias", "metald something else")
    new = host.folder / "new"
    document = host.json("adopt", "--out", str(new), "--yes", expect=3)
    check("adopt", document)
    left = {entry["subject"].split(" (")[0]: entry["reason"] for entry in document["left"]}
    assert "cannot be proved" in left[f"VM {before['vm/acme/sim-0']}"]
    assert "its network cannot be told" in left["vm/acme/sim-2"]
    assert set(host.vms()) == {"vm/acme/sim-1", "vm/acme/edge"}
    host.run("adopt", "--out", str(host.folder / "again"), "--yes", expect=4)

    # Mended, they are adopted beside what is on record, and the first specs change nothing.
    torn.write_text(whole)
    alias = f"metald vm/acme/sim-2#lan {interface_uid(host, 'sim-2', before)}"
    host.ip("link", "set", tap, "alias", alias)
    host.run("adopt", "--out", str(host.folder / "rest"), "--yes")
    assert uids(host) == before
    host.write("fleet.yaml", text)
    assert host.json("plan", str(host.specs))["changes"] == []


def outside(host: Host) -> dict[str, Any]:
    snapshot = host.snapshot()
    del snapshot["ledger"]
    return snapshot


def tap_of(host: Host, name: str) -> str:
    for line in host.ip("-o", "link").splitlines():
        if f"vm/acme/{name}#" in line:
            return line.split(": ")[1]
    raise AssertionError(f"no link of {name}")


def interface_uid(host: Host, name: str, known: dict[str, str]) -> str:
    import json

    record = json.loads((host.runs.records / f"{known[f'vm/acme/{name}']}.json").read_text())
    return str(record["spec"]["interfaces"][0]["uid"])


def test_under_a_daemon_it_is_refused_and_afterwards_the_daemon_keeps_them(host: Host) -> None:
    small_fleet(host)
    before = uids(host)
    lose_state(host)
    other = host.folder / "other"
    other.mkdir()
    (other / "other.yaml").write_text(tenant("other"))
    daemon = host.start("watch", str(other), "--interval", "1")
    out = host.folder / "adopted"
    try:
        host.until("the daemon has begun", lambda: "tenant/other" in host.log())
        for words in (["--yes"], []):
            refused = host.run("adopt", "--out", str(out), *words, expect=4)
            assert "stop the daemon, adopt, add the written specs" in refused.stderr
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
    assert not out.exists()
    host.run("adopt", "--out", str(out), "--yes")
    for file in out.iterdir():
        shutil.copy(file, other / file.name)
    daemon = host.start("watch", str(other), "--interval", "1")
    try:
        host.until("the daemon is there", host.runs.control.exists)
        assert host.json("apply", str(other), "--yes")["outcome"] == "unchanged"
        assert uids(host) == before
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0
