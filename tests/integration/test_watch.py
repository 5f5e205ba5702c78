"""`watch`: one bad file over restarts, rollbacks that stay, and what is not to be corrected."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.watched import Daemon, fleet, watching
from tests.source.repositories import Repo

pytestmark = [pytest.mark.netns]
ONE, TWO = "vm/acme/one", "vm/acme/two"
CONFLICT = "<<<<<<< HEAD\na: 1\n=======\na: 2\n>>>>>>> theirs\n"


def tap_of(host: Host, name: str) -> str:
    return str(host.vms()[name]["taps"][0])


def passes(daemon: Daemon, number: list[int]) -> None:
    """Have the daemon finish a pass that began after now: by a new tenant of its own."""
    number[0] += 1
    daemon.host.write(f"pass-{number[0]}.yaml", tenant(f"pass-{number[0]}"))
    daemon.until_event("Created", resource=f"tenant/pass-{number[0]}")


# -- one bad file -------------------------------------------------------------------------


def test_a_file_stays_as_it_was_last_good_over_restarts(host: Host) -> None:
    vms = [vm("acme", name, SIMULATED) for name in ("one", "two")]
    host.write("base.yaml", tenant("acme") + network("acme", "lan"))
    host.write("acme.yaml", "".join(vms))
    host.write("globex.yaml", fleet("globex", "one"))
    with watching(host, str(host.specs), "--interval", "1") as daemon:
        daemon.until_event("Created", resource="vm/globex/one")
        # Broken, with one VM less as far as it can be read, which counts for nothing.
        host.write("acme.yaml", vms[0] + CONFLICT)
        daemon.until_event("SourceOrPassFailed")
        daemon.kill()
        daemon.start()
        daemon.end_vm(TWO)
        daemon.until_event("Recovered", resource=TWO)
        [line] = host.json("status")["source"]["problems"]
        assert line.startswith(f"{host.specs}/acme.yaml:") and "merge conflict" in line
        host.write("globex.yaml", fleet("globex", "one", "two"))
        daemon.until_event("Created", resource="vm/globex/two")

        # A tenant moves to another file while that is so: nothing of it may go.
        pids = {name: daemon.uid(name) for name in ("vm/globex/one", "vm/globex/two")}
        host.write("moved.yaml", fleet("globex", "one", "two", "three"))
        (host.specs / "globex.yaml").unlink()
        daemon.until_event("Created", resource="vm/globex/three")
        assert {name: daemon.uid(name) for name in pids} == pids
        assert daemon.uid(TWO) is not None

        # Deleted while it is broken, also while no daemon looks: now it declares nothing.
        daemon.kill()
        (host.specs / "acme.yaml").unlink()
        daemon.start()
        daemon.until_event("Deleted", resource=TWO)
        daemon.until_event("Deleted", resource=ONE)
        assert host.json("status")["source"]["problems"] == []
        reasons = [e.reason for e in daemon.events() if e.resource == "vm/globex/one"]
        assert reasons == ["Created"]


def test_broken_when_first_seen_the_others_converge_and_nothing_goes(host: Host) -> None:
    """What the broken file declares is unknown: what was applied before by hand stays."""
    host.write("acme.yaml", fleet("acme", "one"))
    host.write("globex.yaml", fleet("globex", "one"))
    host.run("apply", str(host.specs), "--yes")
    host.write("acme.yaml", CONFLICT)
    host.write("globex.yaml", fleet("globex", "two"))
    with watching(host, str(host.specs), "--interval", "1") as daemon:
        daemon.until_event("Created", resource="vm/globex/two")
        daemon.until("it is said", lambda: "never read whole" in host.log())
        assert daemon.uid(ONE) is not None
        assert daemon.uid("vm/globex/one") is not None
        host.write("acme.yaml", fleet("acme", "one"))
        daemon.until_event("Deleted", resource="vm/globex/one")
        assert daemon.uid(ONE) is not None


def test_broken_in_all_its_files_when_first_seen_nothing_is_applied(host: Host) -> None:
    repo = Repo(host.folder / "repo")
    repo.write("acme.yaml", fleet("acme", "one") + CONFLICT)
    broken = repo.commit_all("a conflict")
    with watching(host, str(repo.top), "--interval", "1") as daemon:
        daemon.until_event("SourceOrPassFailed", commit=broken)
        assert host.links() == set()
        repo.write("acme.yaml", fleet("acme", "one"))
        daemon.until_applied(repo.commit_all("resolved"))
        assert daemon.uid(ONE) is not None


# -- rollbacks ----------------------------------------------------------------------------


def test_a_rollback_stays_until_the_specs_are_others(host: Host) -> None:
    repo = Repo(host.folder / "repo")

    def commit(*names: str, subject: str = "") -> str:
        repo.write("acme.yaml", fleet("acme", *names))
        return repo.commit_all(subject or " and ".join(names))

    first = commit("one")
    with watching(host, str(repo.top), "--interval", "1") as daemon:
        daemon.until_applied(first)
        second = commit("one", "two")
        daemon.until_applied(second)
        shown = host.run("plan", str(repo.top), "--ref", first).stdout
        assert TWO in shown
        host.run("rollback", first, "--yes")
        assert daemon.uid(TWO) is None
        waiting = f"commit {second[:12]} is not applied: rolled back to {first[:12]}"
        daemon.until("it is said", lambda: waiting in "".join(daemon.source()["notes"]))
        daemon.kill()
        daemon.start()
        daemon.end_vm(ONE)
        daemon.until_event("Recovered", resource=ONE)
        repo.write("README.md", "nothing of the specs")
        third = repo.commit_all("a README")
        daemon.until_event("SourceOrPassFailed", commit=third)
        assert daemon.uid(TWO) is None
        last = commit("one", "two", "three")
        daemon.until_applied(last)
        assert daemon.uid(TWO) is not None
        assert daemon.source()["notes"] == []
        run = next(r for r in host.json("history")["items"] if r["commit"] == first)
        assert run["outcome"] == "done"
    unknown = host.run("rollback", "0" * 40, str(repo.top), "--yes", expect=1)
    assert "no branch, tag or commit" in unknown.stderr
    host.write("acme.yaml", fleet("acme", "one"))
    folder = host.run("rollback", first, str(host.specs), "--yes", expect=1)
    assert "no git repository" in folder.stderr


# -- what is not to be corrected ----------------------------------------------------------


def reconciled(name: str, mode: str) -> str:
    return vm("acme", name, SIMULATED).replace(f"name: {name},", f"name: {name}, {mode},")


def test_report_tells_of_drift_and_leaves_it_to_a_person(host: Host) -> None:
    head = tenant("acme") + network("acme", "lan")
    host.write("acme.yaml", head + reconciled("one", "reconcile: report")
               + vm("acme", "two", SIMULATED))  # fmt: skip
    number = [0]
    host.run("apply", str(host.specs), "--yes")
    with watching(host, str(host.specs), "--interval", "1") as daemon:
        reported, corrected = tap_of(host, ONE), tap_of(host, TWO)
        host.ip("link", "delete", reported)
        host.ip("link", "delete", corrected)
        daemon.until("the other one is back", lambda: corrected in host.links())
        passes(daemon, number)
        assert reported not in host.links()
        conditions = {c["type"]: c["status"] for c in host.vms()[ONE]["conditions"]}
        assert conditions["NetworkReady"] == "False"
        assert f"update {ONE}" in host.run("plan", str(host.specs)).stdout.replace("~", "update")
        assert host.json("apply", str(host.specs), "--yes")["outcome"] == "done"
        assert reported in host.links()


def test_frozen_until_it_is_over_and_then_healed_at_once(host: Host) -> None:
    """The interval is long: what wakes the daemon is the end of the freeze."""

    def frozen(for_s: float) -> str:
        until = datetime.now(UTC) + timedelta(seconds=for_s)
        mode = f"{{mode: freeze, owner: ann, reason: evidence, until: '{until.isoformat()}'}}"
        return head + reconciled("one", f"reconcile: {mode}")

    head = tenant("acme") + network("acme", "lan")
    host.write("acme.yaml", head + vm("acme", "one", SIMULATED))
    number = [0]
    with watching(host, str(host.specs), "--interval", "300") as daemon:
        daemon.until_event("Created", resource=ONE)
        tap = tap_of(host, ONE)
        host.write("acme.yaml", frozen(3600))
        passes(daemon, number)
        host.ip("link", "delete", tap)
        passes(daemon, number)
        assert tap not in host.links()
        host.run("apply", str(host.specs), "--yes")
        assert tap not in host.links(), "nobody touches it, a person's apply neither"
        held = host.json("plan", str(host.specs))["held"]
        assert [(entry["resource"], entry["owner"]) for entry in held] == [(ONE, "ann")]
        begin = time.monotonic()
        host.write("acme.yaml", frozen(2))
        daemon.until("it is healed", lambda: tap in host.links())
        assert time.monotonic() - begin >= 1


def test_holds_of_a_resource_of_a_tenant_and_of_everything(host: Host) -> None:
    host.write("acme.yaml", fleet("acme", "one", "two"))
    host.write("globex.yaml", fleet("globex", "one"))
    names = (ONE, TWO, "vm/globex/one")
    number = [0]
    with watching(host, str(host.specs), "--interval", "1") as daemon:
        daemon.until_event("Created", resource=names[-1])
        taps = {name: tap_of(host, name) for name in names}

        def left(*held: str) -> None:
            """Whatever is deleted comes back, but for what is held."""
            for name in names:
                if taps[name] in host.links():
                    host.ip("link", "delete", taps[name])
            free = {taps[name] for name in names if name not in held}
            daemon.until("what is free is back", lambda: free <= host.links())
            if free:
                passes(daemon, number)
            assert host.links() & set(taps.values()) == free

        host.run("hold", ONE, "--reason", "evidence")
        left(ONE)
        assert "evidence" in host.run("plan", str(host.specs)).stdout
        host.run("hold", "tenant/acme")
        left(ONE, TWO)
        daemon.kill()
        daemon.start()
        left(ONE, TWO)
        host.run("unhold", "tenant/acme")
        host.run("unhold", ONE)
        left()
        host.run("hold")
        for tap in taps.values():
            host.ip("link", "delete", tap)
        refused = host.run("apply", str(host.specs), "--yes", expect=4)
        assert "holds everything" in refused.stderr
        assert not host.links() & set(taps.values())
        host.run("hold", "--for", "1s")
        daemon.until("the hold is over", lambda: host.links() == set(taps.values()))
