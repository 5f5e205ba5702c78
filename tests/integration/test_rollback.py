"""A rollback under the daemon: what it went back to stays applied, whatever the head looks like."""

from __future__ import annotations

import pytest

from tests.integration.host import Host
from tests.integration.watched import fleet, watching
from tests.source.repositories import Repo, specs_of

pytestmark = [pytest.mark.netns]


@pytest.mark.timeout(300)
def test_what_was_rolled_back_from_a_head_with_a_broken_file_does_not_come_back(host: Host) -> None:
    repo = Repo(host.folder / "repo")
    repo.write("specs/acme.yaml", fleet("acme", "one"))
    repo.write("specs/beta.yaml", fleet("beta", "other"))
    first = repo.commit_all("One VM each")
    with watching(host, specs_of(repo), "--interval", "1") as daemon:
        daemon.until_applied(first)
        repo.write("specs/acme.yaml", fleet("acme", "one", "two"))
        repo.write("specs/beta.yaml", "kind: [")
        second = repo.commit_all("Another one, and a slip")
        daemon.until_event("Created", resource="vm/acme/two", commit=second)
        for _ in range(2):  # the second finds nothing to do, and is kept as well
            host.run("rollback", first, specs_of(repo), "--yes")
            daemon.until("the daemon keeps to it", lambda: daemon.source().get("notes"))
            assert "rolled back" in daemon.source()["notes"][0]
            assert daemon.uid("vm/acme/two") is None
        repo.write("specs/acme.yaml", fleet("acme", "one", "three"))
        third = repo.commit_all("A new word")
        daemon.until_event("Created", resource="vm/acme/three", commit=third)
        assert not daemon.source()["notes"]
        daemon.stop()
