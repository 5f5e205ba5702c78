"""`serve`: the control socket, holds, broken files, guards, recovery; on simulated VMs where
guests are not the point.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Iterator

import pytest

from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm

pytestmark = [pytest.mark.netns]


def fleet(count: int = 2) -> str:
    vms = "".join(vm("acme", f"sim-{index}", SIMULATED) for index in range(count))
    return tenant("acme") + network("acme", "lan") + vms


@pytest.fixture
def daemon(host: Host) -> Iterator[subprocess.Popen[str]]:
    host.write("acme.yaml", fleet())
    process = host.start("serve", str(host.specs), "--interval", "2")
    try:
        host.until("the fleet is up", lambda: running(host) == 2)
        yield process
    finally:
        if process.poll() is None:
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0, host.log()


def running(host: Host) -> int:
    if not host.state.database.exists():
        return 0
    return sum(1 for status in host.vms().values() if status["phase"] == "running")


@pytest.mark.usefixtures("daemon")
def test_commands_go_through_the_daemon(host: Host) -> None:
    assert host.json("apply", str(host.specs), "--yes")["outcome"] == "unchanged"
    before = host.vms()["vm/acme/sim-0"]
    assert host.json("reboot", "vm/acme/sim-0")["outcome"] == "done"
    assert host.vms()["vm/acme/sim-0"]["uid"] == before["uid"]

    # Destroyed by hand: stays away although the specs declare it, until somebody applies.
    host.run("destroy", "--target", "vm/acme/sim-1", "--yes")
    assert set(host.vms()) == {"vm/acme/sim-0"}
    host.write("acme.yaml", fleet() + tenant("other"))  # a pass happens
    host.until("a pass saw the new tenant", lambda: "tenant/other" in host.log())
    assert set(host.vms()) == {"vm/acme/sim-0"}
    held = host.json("status")["held"]
    assert [entry["resource"] for entry in held] == ["vm/acme/sim-1"]
    host.run("apply", str(host.specs), "--yes")
    assert set(host.vms()) == {"vm/acme/sim-0", "vm/acme/sim-1"}


def test_a_second_writer_is_refused_and_names_the_holder(
    host: Host, daemon: subprocess.Popen[str]
) -> None:
    before = host.snapshot()
    second = host.run("serve", str(host.specs), expect=4)
    assert f"process {daemon.pid}" in second.stderr
    other_state = {**host.environment, "METALD_STATE_DIR": str(host.folder / "other"),
                   "METALD_RUN_DIR": str(host.folder / "other-run")}  # fmt: skip
    third = host.run("apply", str(host.specs), "--yes", env=other_state, expect=4)
    assert "another metald changes this network namespace" in third.stderr
    assert f"process {daemon.pid}" in third.stderr
    whole = host.run("destroy", "--yes", expect=4)
    assert "stop it first" in whole.stderr
    elsewhere = host.folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "a.yaml").write_text(fleet(1))
    host.run("apply", str(elsewhere), "--yes", expect=4)
    assert host.snapshot() == before


@pytest.mark.usefixtures("daemon")
def test_saves_removals_guards_and_broken_files(host: Host) -> None:
    host.write("acme.yaml", fleet(3))
    host.until("a third VM", lambda: running(host) == 3)
    host.write("more.yaml", vm("acme", "extra", SIMULATED))
    host.until("a fourth VM", lambda: running(host) == 4)

    # A broken file keeps what it declared; the others converge.
    host.write("acme.yaml", fleet(3) + "---\nkind: Tenent\n")
    host.write("globex.yaml", tenant("globex") + network("globex", "lan")
               + vm("globex", "sim-0", SIMULATED))  # fmt: skip
    host.until("the other tenant converges", lambda: running(host) == 5)
    (host.specs / "more.yaml").unlink()
    host.until("the deletion is declined", lambda: "is not deleted" in host.log())
    assert running(host) == 5
    host.write("acme.yaml", fleet(3))
    host.until("the removed file's VM goes", lambda: "vm/acme/extra" not in host.vms())

    # Nothing readable is not nothing desired; neither is nearly nothing.
    for file in host.specs.iterdir():
        file.rename(host.folder / file.name)
    host.until("it says so", lambda: "never taken as an empty fleet" in host.log())
    assert running(host) == 4
    host.write("small.yaml", tenant("acme"))
    host.until("the guard trips", lambda: "more than 25%" in host.log())
    assert running(host) == 4


def test_drift_and_deaths_are_healed_and_vms_outlive_the_daemon(
    host: Host, daemon: subprocess.Popen[str]
) -> None:
    host.write("acme.yaml", fleet() + vm("acme", "real", QEMU))
    host.until("a real VM", lambda: running(host) == 3)
    real = host.vms()["vm/acme/real"]
    tap = host.vms()["vm/acme/sim-0"]["taps"][0]
    host.ip("link", "delete", tap)
    host.until("the tap is back", lambda: tap in host.links())
    host.inside("nft", "flush", "chain", "inet", "metald", "forward_guest")
    host.until("the rules are back", lambda: "@members goto allowed" in host.elements())

    os.kill(real["pid"], signal.SIGKILL)
    host.until("it is started again", lambda: restarted(host, real["pid"]), 30)
    reasons = [event["reason"] for event in events(host) if event["resource"] == "vm/acme/real"]
    # The pass that brought the rules back may have looked again right after the kill.
    assert [reason for reason in reasons if reason != "NotConverged"] == ["Created", "Recovered"]

    pid = host.vms()["vm/acme/real"]["pid"]
    daemon.send_signal(signal.SIGKILL)
    daemon.wait(10)
    assert host.vms()["vm/acme/real"]["pid"] == pid
    assert host.json("apply", str(host.specs), "--yes")["outcome"] == "unchanged"
    assert host.vms()["vm/acme/real"]["pid"] == pid


def restarted(host: Host, old: int) -> bool:
    status = host.vms()["vm/acme/real"]
    return bool(status["phase"] == "running" and status["pid"] != old)


def events(host: Host) -> list[dict[str, str]]:
    import json

    lines = host.run("events", "--json", "--limit", "1000").stdout.splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.vm
def test_a_guest_that_ends_is_heard_at_once(host: Host) -> None:
    """Long before the next look: it powers itself off, and is started again."""
    real, said = "vm/acme/real", "(sleep 1; poweroff -f) >/dev/null 2>&1 &"
    host.write("fleet.yaml", fleet(0) + vm("acme", "real", QEMU))
    daemon = host.start("serve", str(host.specs), "--interval", "3600")
    try:
        host.until("it runs", lambda: running(host) == 1, 120)
        for _ in range(2):
            host.until("its console answers", lambda: host.guest(real, "true"), 120)
            before = host.vms()[real]["pid"]
            assert host.guest(real, said)
            host.until("it runs again", lambda old=before: restarted(host, old), 120)  # type: ignore[misc]
        found = [e for e in events(host) if e.get("resource") == real]
        assert found, host.log()
        # A VMM that ends takes its events with it, and the daemon that stops lets go of them.
        host.run("destroy", "--target", real, "--yes")
    finally:
        daemon.terminate()
        assert daemon.wait(30) == 0, host.log()
    assert "Traceback" not in host.log() and "never retrieved" not in host.log()
