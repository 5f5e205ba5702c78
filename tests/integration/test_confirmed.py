"""Commit-confirmed: whatever is killed meanwhile, an unconfirmed change is undone, all of it."""

from __future__ import annotations

import shutil
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.integration.confirmed import (
    change,
    kill_timekeepers,
    overdue,
    pending,
    picture,
    reasons,
    runs,
    tamper,
    timekeepers,
)
from tests.integration.host import QEMU, SIMULATED, Host, network, tenant, vm
from tests.source.repositories import Repo

pytestmark = [pytest.mark.netns]
ACME = tenant("acme")
LAN, DMZ = network("acme", "lan"), network("acme", "dmz")
OPEN = network("acme", "dmz", "ingress: [{from: network/acme/lan, protocol: tcp, ports: [80]}]")
ONE, TWO = vm("acme", "one", SIMULATED), vm("acme", "two", SIMULATED)
IN_DMZ = "hypervisor: simulated, interfaces: [{network: dmz}]"
NEVER = vm("acme", "never", SIMULATED + ", restart: never, protect: false")
BEFORE = ACME + LAN + DMZ + ONE + TWO + NEVER
WIDER = tenant("beta") + network("beta", "lan") + vm("beta", "new", SIMULATED)

CHANGES = {
    "creation": BEFORE + WIDER,
    "creation of what is protected": BEFORE + WIDER
    + vm("beta", "safe", SIMULATED + ", protect: true"),
    "update in place": ACME + LAN + DMZ + TWO + NEVER
    + vm("acme", "one", SIMULATED + ", power: paused"),
    "restart": ACME + LAN + DMZ + TWO + NEVER
    + vm("acme", "one", SIMULATED + ", vcpus: 3"),
    "another address": ACME + LAN + DMZ + TWO + NEVER
    + vm("acme", "one", "hypervisor: simulated, interfaces: [{network: dmz}, {network: lan}]"),
    "rules": ACME + LAN + OPEN + ONE + TWO + NEVER,
    "deletion": ACME + LAN + ONE,
    "deletion of everything but a tenant": ACME,
    "rename": BEFORE.replace("name: one,", "name: uno, renamedFrom: one,"),
    "rename of the tenant": BEFORE.replace("acme", "apex").replace(
        "{name: apex}", "{name: apex, renamedFrom: acme}"),
}  # fmt: skip


@pytest.fixture
def settled(host: Host) -> Iterator[Host]:
    """A host with the fleet of before on it; no timekeeper outlives the test."""
    host.write("fleet.yaml", BEFORE)
    host.run("apply", str(host.specs), "--yes")
    try:
        yield host
    finally:
        kill_timekeepers(host)


def undone(host: Host, times: int = 1) -> Callable[[], bool]:
    """So many changes of this test have been undone, and nothing waits."""
    return lambda: not pending(host) and reasons(host).count("Undone") == times


def test_every_kind_of_change_is_undone_and_the_host_is_as_before(settled: Host) -> None:
    before = picture(settled)
    for name, text in CHANGES.items():
        change(settled, text, "1h")
        assert picture(settled) != before, name
        settled.run("undo")
        assert not pending(settled), name
        assert picture(settled) == before, name
    settled.write("fleet.yaml", BEFORE)
    assert settled.json("plan", str(settled.specs))["changes"] == []


def test_a_confirmed_change_stays_and_its_deletions_happen_then(settled: Host) -> None:
    two = settled.vms()["vm/acme/two"]["uid"]
    change(settled, CHANGES["deletion"], "1h")
    stopped = settled.vms()
    assert "vm/acme/two" in stopped and not settled.runs.vm(two).root.exists()
    assert len(settled.links()) == 1, "what goes is cut off"
    refused = settled.run("apply", str(settled.specs), "--yes", expect=4)
    assert "awaits confirmation until" in refused.stderr
    assert settled.json("status")["pending"]["run"] == 2
    assert "run 2 awaits confirmation until" in settled.run("status").stdout
    settled.run("apply", str(settled.specs), "--yes", "--confirm", "1h", expect=4)
    settled.run("destroy", "--yes", expect=4)

    settled.run("confirm")
    assert set(settled.vms()) == {"vm/acme/one"}
    assert "network/acme/dmz" not in settled.ledger()[1]
    assert reasons(settled)[-1] == "Confirmed"
    assert settled.json("status")["pending"] is None
    again = settled.run("confirm", expect=1)
    assert "nothing awaits confirmation" in again.stderr
    settled.run("undo", expect=1)
    assert settled.json("apply", str(settled.specs), "--yes")["outcome"] == "unchanged"
    settled.until("the timekeeper ends", lambda: not timekeepers(settled))


def test_the_timekeeper_alone_undoes_what_was_not_confirmed(settled: Host) -> None:
    before = picture(settled)
    change(settled, CHANGES["creation"], "1s")
    settled.until("it is undone", undone(settled))
    assert picture(settled) == before
    settled.until("and the timekeeper ends", lambda: not timekeepers(settled))
    (undo,) = [run for run in settled.json("history")["items"] if "undo" in run["source"]]
    assert undo["outcome"] == "done"


def test_every_changing_command_rolls_back_first(settled: Host) -> None:
    """All processes of ours are gone, the deadline has passed: whatever comes next undoes."""
    before = picture(settled)
    specs = str(settled.specs)
    commands = {
        ("apply", specs, "--yes"): 0,
        ("confirm",): 4,
        ("hold", "vm/acme/one"): 0,
        ("reboot", "vm/beta/new"): 4,
        ("plan", specs, "--refresh-only"): 0,
        ("undo",): 0,
        ("destroy", "--target", "vm/beta/new", "--yes"): 1,
    }
    for words, code in commands.items():
        overdue(settled, CHANGES["creation"])
        settled.write("fleet.yaml", BEFORE)
        done = settled.run(*words, expect=code)
        assert not pending(settled) and "Undone" in reasons(settled)[-2:], words
        assert "was not confirmed" in done.stdout, words
        assert picture(settled) == before, words


def test_without_somebody_to_keep_the_time_nothing_is_changed(settled: Host) -> None:
    before = picture(settled)
    settled.write("fleet.yaml", CHANGES["creation"])
    words = ["apply", str(settled.specs), "--yes", "--confirm", "1h"]
    setsid = shutil.which("setsid")
    assert setsid is not None
    failed = settled.run_hidden(setsid, [*settled.metald(), *words])
    assert failed.returncode == 1
    assert "cannot be started" in failed.stderr and "Traceback" not in failed.stderr
    assert not pending(settled)
    assert len(runs(settled)) == 1
    assert picture(settled) == before


def test_a_daemon_that_starts_past_the_deadline_rolls_back_and_waits_for_new_specs(
    settled: Host,
) -> None:
    before = picture(settled)
    overdue(settled, CHANGES["creation"])
    for _ in range(2):
        daemon = settled.start("watch", str(settled.specs), "--interval", "1")
        try:
            settled.until("it says so", lambda: "waiting for a new one" in settled.log())
            assert not pending(settled)
            assert "vm/beta/new" not in settled.vms()
        finally:
            daemon.send_signal(signal.SIGTERM)
            assert daemon.wait(30) == 0, settled.log()
        assert picture(settled) == before
        (settled.folder / "daemon.log").unlink()


def test_under_a_daemon_whoever_is_left_keeps_the_time(settled: Host) -> None:
    """The source is a remote: nothing but the command tells the daemon of a commit."""
    repo = Repo(settled.folder / "repo")
    source = f"file://{repo.top}"
    first = push(repo, BEFORE)
    settled.run("apply", source, "--yes")
    before = picture(settled)
    daemon = settled.start("watch", source, "--interval", "60")
    try:
        settled.until("it has asked", lambda: first in settled.status())
        rejected = push(repo, CHANGES["creation"])
        settled.run("apply", source, "--yes", "--confirm", "3s")
        kill_timekeepers(settled)
        settled.until("the daemon alone undoes it", undone(settled))
        settled.until("and says why it waits", lambda: "waiting for a new one" in settled.log())
        assert f"commit {rejected[:12]} is not applied" in settled.log()
        assert picture(settled) == before

        push(repo, CHANGES["rules"])
        settled.run("apply", source, "--yes", "--confirm", "3s")
    finally:
        daemon.send_signal(signal.SIGKILL)
        daemon.wait(10)
    settled.until("the timekeeper alone undoes it", undone(settled, 2))
    assert picture(settled) == before

    # A daemon that starts does not apply what was rejected; a new commit it does.
    second = settled.start("watch", source, "--interval", "1")
    try:
        settled.until("it waits", lambda: settled.log().count("waiting for a new one") > 1)
        assert picture(settled) == before
        push(repo, CHANGES["creation"] + tenant("gamma"))
        settled.until("the new commit", lambda: "tenant/gamma" in settled.ledger()[1])
    finally:
        second.send_signal(signal.SIGTERM)
        assert second.wait(30) == 0, settled.log()


def push(repo: Repo, text: str) -> str:
    repo.write("fleet.yaml", text)
    return repo.commit_all("a change")


def killed_once(host: Host, words: tuple[str, ...], when: Callable[[], bool]) -> None:
    """Start a command and kill it as soon as something is so."""
    process = host.start(*words)
    host.until("its moment", lambda: when() or process.poll() is not None)
    process.send_signal(signal.SIGKILL)
    process.wait(10)


def test_killed_while_it_changes_and_again_while_it_undoes(settled: Host) -> None:
    """The change begins, its process dies; the undo begins, its process dies: undone all the
    same, and never confirmed.
    """
    before = picture(settled)
    settled.write("fleet.yaml", CHANGES["creation of what is protected"])
    change_it = ("apply", str(settled.specs), "--yes", "--confirm", "1h")
    killed_once(settled, change_it, lambda: pending(settled))
    assert pending(settled) and timekeepers(settled)
    begun = len(settled.json("history")["items"])
    killed_once(settled, ("undo",), lambda: len(runs(settled)) > begun)
    refused = settled.run("confirm", expect=4)
    assert "was not confirmed" in refused.stderr or "is over" in refused.stderr
    settled.until("it is undone", undone(settled))
    assert picture(settled) == before
    settled.until("the timekeeper ends", lambda: not timekeepers(settled))


def test_a_change_that_could_not_be_carried_out_whole_is_undone_too(settled: Host) -> None:
    before = picture(settled)
    settled.write("fleet.yaml", CHANGES["creation"])
    planned = settled.json("plan", str(settled.specs))["changes"]
    (created,) = [entry for entry in planned if entry["resource"] == "vm/beta/new"]
    (tap,) = [f["after"] for f in created["fields"] if f["path"].endswith(".tap")]
    settled.ip("link", "add", tap, "type", "veth", "peer", "name", "theirs0")
    change(settled, CHANGES["creation"], "1h", expect=3)
    left = settled.run("undo", expect=3)
    assert "the link is not ours; left alone" in left.stderr
    assert pending(settled) and reasons(settled)[-1] == "UndoIncomplete"
    settled.ip("link", "delete", tap)
    settled.until("the timekeeper brings it to its end", undone(settled))
    assert picture(settled) == before


def test_what_is_in_the_way_of_an_undo_is_named_and_no_change_slips_in(settled: Host) -> None:
    before = picture(settled)
    change(settled, CHANGES["creation"], "1h")
    settled.run("hold")
    held = settled.run("undo", expect=3)
    assert "held by root" in held.stderr
    assert pending(settled)
    # From here on the timekeeper tries again, and holds the lock while it does.
    kill_timekeepers(settled)
    settled.run("confirm", expect=4)
    refused = settled.run("apply", str(settled.specs), "--yes", expect=4)
    assert "undoing it is not done" in refused.stderr
    settled.run("unhold")
    assert not pending(settled)
    assert picture(settled) == before

    # What can never be undone may be given up, by a person.
    change(settled, CHANGES["creation"], "1h")
    settled.run("undo", "--give-up", expect=4)
    settled.run("hold")
    settled.run("undo", expect=3)
    settled.run("undo", "--give-up")
    settled.run("unhold")
    assert not pending(settled) and "vm/beta/new" in settled.vms()


def test_what_is_held_and_renamed_back_with_its_tenant_is_no_success(settled: Host) -> None:
    before = picture(settled)
    renamed = CHANGES["rename of the tenant"].replace("acme", "apex")
    text = renamed.replace("renamedFrom: apex", "renamedFrom: acme") + network("apex", "new")
    change(settled, text, "1h")
    settled.run("hold", "network/apex/new")
    held = settled.run("undo", expect=3)
    assert "network/acme/new" in held.stderr and "held by root" in held.stderr
    assert pending(settled)
    kill_timekeepers(settled)
    settled.run("unhold", "network/acme/new")
    if pending(settled):
        settled.run("undo")
    assert not pending(settled)
    assert picture(settled) == before


def test_after_a_reboot_the_first_command_rolls_back_and_starts_what_was_there(
    settled: Host,
) -> None:
    before = picture(settled)
    change(settled, CHANGES["creation"], "1h")
    kill_timekeepers(settled)
    # All that a reboot takes away, and a clock that went on meanwhile.
    for link in settled.links():
        settled.ip("link", "delete", link)
    settled.inside("nft", "flush", "ruleset")
    settled.inside("sh", "-c", "echo 0 > /proc/sys/net/ipv6/conf/all/forwarding")
    tamper(settled, "UPDATE confirmation SET deadline_s = deadline_s - 7200")
    boot_id = settled.folder / "boot_id"
    boot_id.write_text("11111111-2222-3333-4444-555555555555\n")

    daemon = settled.start("watch", str(settled.specs), "--interval", "1", boot_id=boot_id)
    try:
        settled.until("it is undone", undone(settled))
        settled.until("it waits", lambda: "waiting for a new one" in settled.log())
        settled.until("all run", lambda: all(str(boot_id.read_text().strip()) in text
                      for text in picture(settled)["phases"].values()))  # fmt: skip
    finally:
        daemon.send_signal(signal.SIGTERM)
        assert daemon.wait(30) == 0, settled.log()
    after = picture(settled)
    for part in before.keys() - {"VMs", "phases", "neighbours"}:
        assert after[part] == before[part], part
    assert after["VMs"].keys() == before["VMs"].keys()


@pytest.mark.vm
def test_traffic_that_an_unconfirmed_rule_change_cuts_comes_back_to_real_guests(
    host: Host,
) -> None:
    ends = vm("acme", "a", QEMU) + vm("acme", "b", QEMU.replace("lan", "dmz"))
    served = OPEN.replace("[80]", "[7]")
    host.write("fleet.yaml", ACME + LAN + served + ends)
    host.run("apply", str(host.specs), "--yes")
    host.wait_for_guests()
    pids, before = host.pids(), picture(host)
    echo = f"nc -w 3 {host.vms()['vm/acme/b']['addresses'][0]} 7 </dev/null | grep -q metald"
    host.until("the guests talk", lambda: host.guest("vm/acme/a", echo))
    try:
        host.write("fleet.yaml", ACME + LAN + DMZ + ends)
        host.run("apply", str(host.specs), "--yes", "--confirm", "15s")
        assert not host.guest("vm/acme/a", echo), "the rule is gone"
        host.until("it is undone", undone(host))
        host.until("the guests talk again", lambda: host.guest("vm/acme/a", echo))
    finally:
        kill_timekeepers(host)
    assert host.pids() == pids
    assert picture(host)["rules"] == before["rules"]
    assert picture(host)["records"] == before["records"]
