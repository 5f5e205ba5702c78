"""`watch` on repositories: only what is committed, from here or afar; whatever happens to the
repository, what was last good is kept up, also by a daemon started in the meantime.
"""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.host import Host
from tests.integration.watched import Daemon, fleet, watching
from tests.source.repositories import Repo

pytestmark = [pytest.mark.netns]
ONE, TWO = "vm/acme/one", "vm/acme/two"
SILENT = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
print("ready", flush=True)
kept = []
while True:
    kept.append(server.accept())
"""


@pytest.fixture
def repo(host: Host) -> Repo:
    """A repository with one VM."""
    made = Repo(host.folder / "repo")
    made.write("acme.yaml", fleet("acme", "one"))
    made.commit_all("one VM")
    return made


def head(repo: Repo) -> str:
    return repo.git("rev-parse", "HEAD")


def add_two(repo: Repo) -> str:
    repo.write("acme.yaml", fleet("acme", "one", "two"))
    return repo.commit_all("a second VM")


def is_kept_up(daemon: Daemon, *, started_again: bool = True) -> None:
    """The VM is there, and started again when it ends; by a new daemon as well."""
    before = sum(event.reason == "Recovered" for event in daemon.events())
    for turn in range(2 if started_again else 1):
        if turn:
            daemon.kill()
            daemon.start()
        daemon.end_vm(ONE)
        recovered = before + turn + 1
        daemon.until(
            "started again",
            lambda r=recovered: sum(e.reason == "Recovered" for e in daemon.events()) >= r,  # type: ignore[misc]
        )


def problem(daemon: Daemon, said: str) -> None:
    daemon.until(said, lambda: said in "\n".join(daemon.source().get("problems", ())))


def test_what_is_committed_counts_and_every_event_names_its_commit(host: Host, repo: Repo) -> None:
    first = head(repo)
    with watching(host, str(repo.top), "--interval", "1") as daemon:
        daemon.until_applied(first)
        repo.write("acme.yaml", fleet("acme", "one", "two"))
        daemon.until("dirty is said", lambda: daemon.source()["dirty"])
        daemon.end_vm(ONE)
        daemon.until_event("Recovered", resource=ONE, commit=first)
        assert daemon.uid(TWO) is None
        said = host.run("status").stdout
        assert f"source: {repo.top} at {first[:12]}, uncommitted changes are not" in said

        second = repo.commit_all("a second VM")
        daemon.until_event("Created", resource=TWO, commit=second)
        daemon.until_applied(second)
        host.run("hold", TWO, "--reason", "look at it")
        repo.write("README.md", "Specs.\n")
        beside = repo.commit_all("beside the specs")
        applied = daemon.until_event("Converged", commit=beside)
        assert applied.message == f"commit {beside[:12]} is applied, but for what is held: {TWO}"
        host.run("unhold", TWO)
        repo.write("acme.yaml", fleet("acme", "one", "two", body="vcpus: [}"))
        broken = repo.commit_all("broken")
        daemon.until_event("SourceOrPassFailed", commit=broken)
        repo.write("acme.yaml", fleet("acme", "one"))
        third = repo.commit_all("one VM again")
        daemon.until_event("Deleted", resource=TWO, commit=third)
        daemon.until_applied(third)
        reasons = {event.reason for event in daemon.events()}
        assert reasons >= {"Created", "Deleted", "Recovered", "Held", "Unheld", "Converged",
                           "Resolved", "SourceOrPassFailed"}  # fmt: skip
        nameless = [event for event in daemon.events() if not event.commit]
        assert nameless == []
        runs = host.json("history")["items"]
        assert {run["commit"] for run in runs} >= {first, second, third}


def test_a_remote_that_vanishes_comes_back_and_is_rewritten_by_force(
    host: Host, repo: Repo
) -> None:
    first = head(repo)
    with watching(host, repo.url, "--interval", "1") as daemon:
        daemon.until_applied(first)
        repo.top.rename(host.folder / "away")
        problem(daemon, "the repository cannot be fetched")
        is_kept_up(daemon)
        problem(daemon, "nothing is removed")
        assert daemon.source()["commit"] == first
        (host.folder / "away").rename(repo.top)
        second = add_two(repo)
        daemon.until_applied(second)
        assert daemon.source()["problems"] == []

        # A history that does not hold what was applied.
        repo.git("checkout", "--quiet", "--orphan", "other")
        repo.write("acme.yaml", fleet("acme", "one", "three"))
        rewritten = repo.commit_all("another history")
        repo.git("branch", "--force", "main", "other")
        repo.git("checkout", "--quiet", "main")
        daemon.until_applied(rewritten)
        daemon.until("two is gone", lambda: daemon.uid(TWO) is None)
        [store] = host.state.sources.glob("*/store.git")
        assert (store / "shallow").exists()


def test_a_ref_that_is_deleted_or_not_there_yet(host: Host, repo: Repo) -> None:
    with watching(host, repo.url, "--ref", "live", "--interval", "1") as daemon:
        problem(daemon, "no branch, tag or commit live")
        assert host.links() == set()
        first = head(repo)
        repo.git("branch", "live")
        daemon.until_applied(first)
        repo.git("branch", "--delete", "--force", "live")
        problem(daemon, "no branch, tag or commit live")
        is_kept_up(daemon)
        problem(daemon, "no branch, tag or commit live")
        second = add_two(repo)
        repo.git("branch", "live")
        daemon.until_applied(second)


@contextlib.contextmanager
def inside(host: Host, *words: str, ready: str) -> Iterator[None]:
    """A server in the host's namespace, from the line that says it is ready."""
    with subprocess.Popen(
        ["ip", "netns", "exec", host.netns, *words], stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, start_new_session=True,
    ) as process:  # fmt: skip
        assert process.stdout is not None
        try:
            for line in process.stdout:
                if ready in line:
                    break
            yield
        finally:
            subprocess.run(["pkill", "-KILL", "-s", str(process.pid)], check=False)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def test_a_server_that_hangs_delays_neither_healing_nor_the_end(host: Host, repo: Repo) -> None:
    port = free_port()
    serve = ("git", "-c", "safe.directory=*", "daemon", "--listen=127.0.0.1", f"--port={port}",
             "--export-all", "--reuseaddr", f"--base-path={host.folder}", "--verbose")  # fmt: skip
    with contextlib.ExitStack() as stack:
        with inside(host, *serve, ready="Ready to rumble"):
            daemon = stack.enter_context(
                watching(host, f"git://127.0.0.1:{port}/repo", "--interval", "1")
            )
            daemon.until_applied(head(repo))
        with inside(host, sys.executable, "-c", SILENT, str(port), ready="ready"):
            is_kept_up(daemon, started_again=False)
            assert daemon.stop() < 30
            # Started while it hangs: after a moment what was last good is kept up.
            daemon.start()
            is_kept_up(daemon, started_again=False)
            problem(daemon, "has not answered yet")
            assert daemon.stop() < 30


def test_only_signed_commits(host: Host, repo: Repo) -> None:
    for name in ("ann", "eve"):
        key = str(host.folder / name)
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key], check=True)
    allowed, config = host.folder / "allowed", host.folder / "gitconfig"
    allowed.write_text(f"ann@example.com {(host.folder / 'ann.pub').read_text()}")
    config.write_text(f'[gpg "ssh"]\n\tallowedSignersFile = {allowed}\n')
    host.environment["GIT_CONFIG_GLOBAL"] = str(config)
    repo.git("config", "gpg.format", "ssh")

    def signed(key: str, *names: str) -> str:
        repo.write("acme.yaml", fleet("acme", *names))
        repo.git("config", "user.signingKey", str(host.folder / f"{key}.pub"))
        return repo.commit_all(f"by {key}", "-S")

    with watching(host, repo.url, "--require-signed", "--interval", "1") as daemon:
        problem(daemon, "it is not signed")
        assert host.links() == set()
        first = signed("ann", "one")
        daemon.until_applied(first)
        signed("eve", "one", "two")
        problem(daemon, "has no good signature")
        is_kept_up(daemon)
        assert daemon.uid(TWO) is None
        repo.write("acme.yaml", fleet("acme", "one", "two", "three"))
        repo.commit_all("not signed at all")
        problem(daemon, "it is not signed")
        refused = host.run("apply", repo.url, "--require-signed", "--yes", expect=4)
        assert "it is not signed" in refused.stderr
        last = signed("ann", "one", "two")
        daemon.until_applied(last)


def test_an_empty_source_is_no_empty_fleet(host: Host, repo: Repo) -> None:
    """In a repository and in a folder, over a new start too."""
    for place in (str(repo.top), str(host.specs)):
        host.write("acme.yaml", fleet("acme", "one"))
        daemon: Daemon
        with watching(host, place, "--interval", "1") as daemon:
            daemon.until("it is up", lambda d=daemon: d.uid(ONE))  # type: ignore[misc]
            if place == str(host.specs):
                (host.specs / "acme.yaml").unlink()
            else:
                repo.git("rm", "--quiet", "acme.yaml")
                repo.commit_all("nothing left")
            problem(daemon, f"{place}: there is no YAML file in it; an empty tree is never taken")
            is_kept_up(daemon)
            problem(daemon, "never taken as an empty fleet")


def test_passwords_of_a_url_are_shown_nowhere(host: Host) -> None:
    url = f"http://ann:hunter2@127.0.0.1:{free_port()}/fleet"
    with watching(host, url, "--interval", "1") as daemon:
        problem(daemon, "cannot be fetched")
        daemon.until_event("SourceOrPassFailed")
        shown = host.run("status").stdout + host.run("events").stdout + host.log()
        assert "127.0.0.1" in shown
        assert "hunter2" not in shown
        assert "hunter2" not in Path(host.runs.source).read_text()


def test_a_repository_without_the_ref_is_refused_by_name(host: Host, repo: Repo) -> None:
    for command in (("plan",), ("apply", "--yes")):
        done = host.run(command[0], str(repo.top), "--ref", "nowhere", *command[1:], expect=1)
        assert "the repository has no branch, tag or commit nowhere" in done.stderr
    assert host.links() == set()
    empty = Repo(host.folder / "empty")
    done = host.run("apply", str(empty.top), "--yes", expect=1)
    assert "no commit at its HEAD" in done.stderr
