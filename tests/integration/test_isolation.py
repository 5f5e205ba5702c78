"""`metald isolate`: on real guests, under a daemon at work, and killed in the middle."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.execution.state.sqlite import open_reader
from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.integration.test_output import check

pytestmark = [pytest.mark.netns]
A, B = "vm/acme/a", "vm/acme/b"
BASE = tenant("acme") + network("acme", "lan")


def condition(host: Host) -> tuple[str, str]:
    """What `get vm` tells of A's isolation."""
    found = {c["type"]: c for c in host.vms()[A]["conditions"]}
    entry = found.get("Isolated", {"status": "", "reason": ""})
    return entry["status"], entry["reason"]


def in_kernel(host: Host) -> bool:
    listing = host.inside("nft", "list", "set", "inet", "metald", "isolated").stdout
    return host.vms()[A]["taps"][0] in listing


@pytest.mark.vm
def test_a_guest_is_cut_off_from_all_but_its_console_whatever_happens(host: Host) -> None:
    host.write("fleet.yaml", BASE + vm("acme", "a", QEMU) + vm("acme", "b", QEMU))
    specs = str(host.specs)
    host.run("apply", specs, "--yes")
    host.wait_for_guests()
    vms = host.vms()
    address = {name: vms[name]["addresses"][0] for name in (A, B)}
    assert host.guest(A, f"ping6 -c1 -W9 {address[B]}")

    # A flow that is open: what came before is answered, what comes after is not.
    whole: list[bool] = []
    ping = f"ping6 -c 8 -W 1 {address[B]} > /tmp/out; grep -q ' 0% packet loss' /tmp/out"
    flow = threading.Thread(target=lambda: whole.append(host.guest(A, ping)))
    flow.start()
    time.sleep(2.5)  # some of it has to have passed
    done = host.json("isolate", A, "--reason", "it scans", "--for", "1h")
    assert done["inForce"] and done["run"]
    flow.join()
    assert whole == [False]
    assert not host.guest(A, "grep -q ' 100% packet loss' /tmp/out"), "none of it had passed"

    def is_cut_off() -> None:
        assert host.guest(A, "true"), "its console goes on"
        assert not host.answers(address[A])
        assert not host.guest(B, f"ping6 -c1 -W2 {address[A]}")
        assert not host.guest(A, f"ping6 -c1 -W2 {address[B]}")
        assert not host.guest(A, "ping6 -c1 -W2 fe80::1%eth0")
        assert host.answers(address[B])
        assert condition(host)[0] == "True"

    is_cut_off()
    assert host.json("apply", specs, "--yes")["outcome"] == "unchanged"
    host.inside("nft", "delete", "table", "inet", "metald")
    assert "isolated by root: it scans (until " in host.run("apply", specs, "--yes").stdout
    is_cut_off()
    host.run("reboot", A)
    host.until("its console answers again", lambda: host.guest(A, "true"), 120)
    is_cut_off()
    assert host.json("unisolate", A)["isolated"] is False
    host.until("it answers again", lambda: host.answers(address[A]))


def test_every_plan_and_look_shows_it(host: Host, metald: Shell) -> None:
    host.write("fleet.yaml", BASE + vm("acme", "a", SIMULATED))
    specs = str(host.specs)
    metald.run("apply", specs, "--yes")
    for document in (metald.json("isolate", A), metald.json("isolate", A, "--reason", "still")):
        check("isolation", document)
        assert document["inForce"]
    plan, status = metald.json("plan", specs), metald.json("status")
    described = metald.json("describe", A)
    check("plan", plan)
    check("status", status)
    check("description", described)
    assert not plan["changes"]
    (told,) = plan["isolated"]
    assert (told["resource"], told["owner"], told["reason"]) == (A, "root", "still")
    assert status["isolated"] == [told] == [described["isolation"]]
    for words in (("plan", specs), ("status",), ("plan", specs, "--markdown")):
        assert "still" in metald.run(*words).stdout
    assert "isolated" in metald.run("get", "vms").stdout
    assert metald.json("drift")["drifted"] == []
    assert metald.json("verify", expect=1)["summary"]["disagrees"] == 0, "nothing to try, no lie"
    reasons = [line.split()[2] for line in metald.run("events").stdout.splitlines()]
    assert reasons.count("Isolated:") == 2
    check("isolation", metald.json("unisolate", A))
    assert metald.json("status")["isolated"] == []


def test_bad_input_changes_nothing(host: Host, metald: Shell) -> None:
    host.write("fleet.yaml", BASE + vm("acme", "a", SIMULATED))
    metald.run("apply", str(host.specs), "--yes")
    for words, said, code in (
        (("isolate", "vm/acme/z"), "no such VM is managed here", 1),
        (("isolate", "network/acme/lan"), "no such VM is managed here", 1),
        (("isolate", "nonsense"), "like vm/acme/web-1", 1),
        (("isolate", A, "--until", "2001-01-01T00:00:00Z"), "is over", 1),
        (("isolate", A, "--until", "tomorrow"), "is no time like", 2),
        (("isolate", A, "--for", "1h", "--until", "2101-01-01T00:00:00Z"), "exclude", 2),
        (("unisolate", A), "it is not isolated", 1),
    ):
        assert said in metald.run(*words, expect=code).stderr
    assert metald.json("status")["isolated"] == []
    assert not in_kernel(host)


_NFT = """#!/bin/sh
test "$1" = -f || exec /usr/sbin/nft "$@"
script=$(cat)
case "$script" in
    *"element inet metald isolated"*) ;;
    *) echo "$script" | exec /usr/sbin/nft "$@" ;;
esac
{after}echo "$script" | /usr/sbin/nft "$@"
kill -9 "$PPID"
"""


@pytest.mark.parametrize("moment", ["before", "after"])
@pytest.mark.parametrize("act", ["isolate", "unisolate"])
def test_killed_in_the_middle_the_next_run_makes_it_so(
    host: Host, metald: Shell, act: str, moment: str
) -> None:
    host.write("fleet.yaml", BASE + vm("acme", "a", SIMULATED))
    specs = str(host.specs)
    metald.run("apply", specs, "--yes")
    if act == "unisolate":
        metald.run("isolate", A)
    folder = host.folder / "bin"
    folder.mkdir()
    program = folder / "nft"
    program.write_text(_NFT.format(after="" if moment == "after" else "# "))
    program.chmod(0o755)
    killing = {**host.environment, "PATH": f"{folder}:{os.environ['PATH']}"}
    assert host.run(act, A, env=killing, expect=None).returncode == -signal.SIGKILL
    wanted = act == "isolate"
    assert in_kernel(host) is (wanted if moment == "after" else not wanted)
    assert [e["resource"] for e in metald.json("status")["isolated"]] == [A] * wanted
    if act == "isolate":
        assert condition(host)[0] == str(moment == "after")
    done = metald.run("apply", specs, "--yes")
    assert "was cut off with 1 of 1 steps not done" in done.stdout
    assert in_kernel(host) is wanted
    assert metald.json("apply", specs, "--yes")["outcome"] == "unchanged"


@pytest.mark.vm
def test_under_a_daemon_it_waits_for_no_pass_and_ends_by_itself(host: Host) -> None:
    host.environment["METALD_CONFIG"] = str(host.folder / "config.yaml")
    (host.folder / "config.yaml").write_text("parallelism: 1\n")
    calm = BASE + vm("acme", "a", SIMULATED)
    host.write("fleet.yaml", calm + vm("acme", "slow", QEMU))
    host.run("apply", str(host.specs), "--yes")
    daemon = host.start("serve", str(host.specs), "--interval", "3600", "--max-destroy", "2")
    try:
        host.until("it has looked", lambda: bool(host.status()))
        host.write("fleet.yaml", calm)  # a guest that boots takes seconds to end
        host.until("it is at work", lambda: ending(host))
        assert host.json("isolate", A)["inForce"]
        assert ending(host), "the pass went on beside it"
        assert in_kernel(host)
        tap = host.vms()[A]["taps"][0]
        host.inside("nft", "delete", "element", "inet", "metald", "isolated", f'{{ "{tap}" }}')
        host.write("more.yaml", tenant("other"))  # a pass happens
        host.until("it is healed", lambda: in_kernel(host))
        assert host.json("isolate", A, "--for", "2s")["inForce"]
        host.until("it ends by itself", lambda: not in_kernel(host))
        assert condition(host) == ("", "")
    finally:
        daemon.terminate()
        daemon.wait(30)


def ending(host: Host) -> bool:
    with closing(open_reader(host.state)) as reader:
        return any(
            step.key == "vm/acme/slow:stop" and step.status == "started"
            for run in reader.unfinished_runs()
            for step in reader.steps(run.id)
        )


@pytest.mark.vm
def test_a_vm_that_is_adopted_stays_cut_off(host: Host, metald: Shell, tmp_path: Path) -> None:
    host.write("fleet.yaml", BASE + vm("acme", "a", QEMU))
    metald.run("apply", str(host.specs), "--yes")
    metald.run("isolate", A)
    for path in host.state.root.glob("*.db*"):
        path.rename(tmp_path / path.name)
    metald.run("adopt", "--out", str(tmp_path / "found"), "--yes")
    assert [e["owner"] for e in metald.json("status")["isolated"]] == ["metald"]
    assert metald.json("apply", str(tmp_path / "found"), "--yes")["outcome"] == "unchanged"
    assert in_kernel(host)
