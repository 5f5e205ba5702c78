"""`history`, `history show` and `why` over a failure, its retries, a hold and the way out.

The specs come from a repository; what fails is a link of somebody else's under a tap's name.
Texts are compared whole, with times, hashes and names that chance decides left out.
"""

from __future__ import annotations

import re

import pytest

from tests.integration.host import SIMULATED, Host, network, tenant, vm
from tests.integration.shell import Shell
from tests.source.repositories import Repo, specs_of

pytestmark = [pytest.mark.netns]
HEAD = tenant("acme") + network("acme", "lan") + vm("acme", "one", SIMULATED)
ANN = "Ann Operator <ann@example.com>"
PARTLY = """\
run 2: partial
  plan    HASH
  from    FOLDER/repo/specs at HASH by Ann Operator <ann@example.com>
  time    TIME to TIME
  left    vm/acme/two: power: running is declared; left undone at interfaces[lan]: its link is \
missing; corrected in place
  vm/acme/two: create: declared, and not there yet
    ✓ vm/acme/two:bind:TAP (N s)
    ✗ vm/acme/two:tap:TAP (N s): TAP: a link of this name exists and is not ours (rename or remove \
it: ip link show TAP)
    - vm/acme/two:start: not begun
"""
WHY = """\
vm/acme/two: pending
  Ready: no: TAP: a link of this name exists and is not ours (rename or remove it: ip link show \
TAP); tried again not before TIME
  NetworkReady: no: differs: status.interfaces[lan].link
  run 2, TIME: create: declared, and not there yet: partial
      from FOLDER/repo/specs at HASH by Ann Operator <ann@example.com>
      failed: vm/acme/two:tap:TAP: TAP: a link of this name exists and is not ours (rename or \
remove it: ip link show TAP)
  TIME NotConverged: power: running is declared; left undone at interfaces[lan]: its link is \
missing; corrected in place
  TIME Held: root: the vendor looks at it
  next: update is due: power: running is declared; left undone at interfaces[lan]: its link is \
missing; corrected in place
  next: vm/acme/two is held by root: the vendor looks at it (until TIME)
  next: tried again after 1 failure (not before TIME)
  next: no daemon runs here: nothing happens until metald apply or serve
"""


def plain(text: str, host: Host) -> str:
    text = text.replace(str(host.folder), "FOLDER")
    text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z", "TIME", text)
    text = re.sub(r"\bmt[0-9a-f]{12}\b", "TAP", text)
    text = re.sub(r"\b[0-9a-f]{12,40}\b", "HASH", text)
    return re.sub(r"\d+\.\d s\b", "N s", text)


def coming_tap(metald: Shell, specs: str) -> str:
    changes = metald.json("plan", specs)["changes"]
    fields = [field for change in changes for field in change["fields"]]
    return str(next(f["after"] for f in fields if f["path"].endswith("].tap")))


def test_the_way_of_a_failure_is_told_from_its_commit_to_its_end(host: Host, metald: Shell) -> None:
    repo = Repo(host.folder / "repo")
    specs = specs_of(repo)
    assert metald.run("history").stdout == "nothing was applied here yet\n"
    repo.write("specs/fleet.yaml", HEAD)
    first = repo.commit_all("One")
    metald.run("apply", specs, "--yes")
    repo.write("specs/fleet.yaml", HEAD + vm("acme", "two", SIMULATED))
    second = repo.commit_all("Two")
    tap = coming_tap(metald, specs)
    host.ip("link", "add", tap, "type", "veth", "peer", "name", "peer0")
    metald.run("apply", specs, "--yes", expect=3)

    runs = metald.json("history")["items"]
    rows = [(run["run"], run["outcome"], run["commit"], run["author"]) for run in runs]
    assert rows == [(2, "partial", second, ANN), (1, "done", first, ANN)]
    lines = metald.run("history").stdout.splitlines()
    assert lines[0].split() == ["RUN", "STARTED", "OUTCOME", "PLAN", "COMMIT", "AUTHOR", "FROM"]
    assert f"partial  {runs[0]['plan'][:12]}  {second[:12]}  {ANN}  {specs}" in lines[1]
    assert plain(metald.run("history", "show", "2").stdout, host) == PARTLY
    hold = ("hold", "vm/acme/two", "--reason", "the vendor looks at it", "--for", "2h")
    metald.run(*hold)
    assert plain(why(metald), host) == WHY

    # A daemon respects the hold, tries again when it is lifted, and succeeds once it can.
    daemon = host.start("watch", specs)
    try:
        host.until("the daemon answers", host.runs.control.exists)
        metald.run("unhold", "vm/acme/two")
        again = r"next: tried again after \d+ failures \(not before 20"
        host.until("a second try failed", lambda: re.search(again, why(metald)) is not None)
        said = why(metald)
        assert "no daemon runs here" not in said
        host.ip("link", "delete", tap)
        host.until("it runs", lambda: host.vms()["vm/acme/two"]["phase"] == "running")
        said = why(metald)
        assert said.startswith("vm/acme/two: running\n  Ready: yes: running\n")
        assert said.endswith("  next: nothing is due\n")
    finally:
        daemon.terminate()
        daemon.wait(timeout=30)
    assert metald.json("history")["items"][0]["outcome"] == "done"


def why(metald: Shell) -> str:
    return metald.run("why", "vm/acme/two").stdout


def test_a_vm_that_left_is_still_explained_and_a_stranger_is_refused(
    host: Host, metald: Shell
) -> None:
    host.write("fleet.yaml", HEAD)
    metald.run("apply", str(host.specs), "--yes")
    metald.run("destroy", "--yes")
    said = metald.run("why", "vm/acme/one").stdout
    assert said.startswith("vm/acme/one: not managed here (any more)\n")
    assert "delete: destroyed by an operator: done" in said
    assert "nothing is known of it here" in metald.run("why", "vm/acme/x", expect=1).stderr
    assert "run 9: no such run" in metald.run("history", "show", "9", expect=1).stderr
