"""Commits to a repository under `watch`, some bad: every good one converges, and in the end the
host is what a fresh apply of the last commit makes of another.

The seed is printed; METALD_TEST_SEED repeats a run.
"""

from __future__ import annotations

import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import fresh_netns
from tests.integration.commits import Commit, History
from tests.integration.host import Host, hosts
from tests.integration.pictures import picture
from tests.integration.watched import Daemon, watching
from tests.source.repositories import Repo

pytestmark = [pytest.mark.netns]
COMMITS = 100
KILLED, DRIFTS = 0.02, 0.05


@pytest.fixture
def other(minimal_image: Path) -> Iterator[Host]:
    """A second host, with a namespace and a state of its own."""
    with fresh_netns() as name:
        yield from hosts(name, minimal_image)


@pytest.mark.timeout(600)
def test_a_hundred_commits_under_watch(host: Host, other: Host) -> None:
    commits_converge(host, other, COMMITS)


@pytest.mark.soak
@pytest.mark.timeout(7200)
def test_a_thousand_commits_under_watch(host: Host, other: Host) -> None:
    commits_converge(host, other, 10 * COMMITS)


def commits_converge(host: Host, other: Host, count: int) -> None:
    seed = int(os.environ.get("METALD_TEST_SEED", time.time_ns() % 1_000_000))
    print(f"METALD_TEST_SEED={seed}")
    draw = random.Random(seed)
    repo = Repo(host.folder / "repo")
    history = History(repo, draw)
    delays, bad = [], 0
    first = history.first()
    with watching(host, str(repo.top), "--interval", "5") as daemon:
        daemon.until_applied(first.hash)
        for _ in range(count):
            disturb(daemon, draw)
            begin = time.monotonic()
            commit = history.next()
            check(daemon, commit)
            delays.append(time.monotonic() - begin)
            bad += commit.bad
        last = history.first() if commit.bad else commit
        daemon.until_applied(last.hash)
        assert daemon.source()["problems"] == []
    delays.sort()
    print(f"{count} commits, {bad} of them bad; committed and converged within "
          f"{delays[len(delays) // 2]:.2f} s (median), {delays[-1]:.2f} s (longest)")  # fmt: skip

    assert host.json("plan", str(repo.top))["changes"] == []
    other.run("apply", str(repo.top), "--yes")
    mine, fresh = picture(host), picture(other)
    assert mine.keys() == fresh.keys()
    for part, found in mine.items():
        assert found == fresh[part], part


def disturb(daemon: Daemon, draw: random.Random) -> None:
    """Now and then the daemon dies, or somebody deletes a link."""
    drawn = draw.random()
    if drawn < KILLED:
        daemon.kill()
        daemon.start()
    elif drawn < KILLED + DRIFTS:
        links = sorted(daemon.host.links())
        if links:
            daemon.host.ip("link", "delete", draw.choice(links))


def check(daemon: Daemon, commit: Commit) -> None:
    """A good commit converges; of a bad one it is said, and what others declare converges."""
    if not commit.bad:
        daemon.until_applied(commit.hash)
        return
    told = daemon.until_event("SourceOrPassFailed", commit=commit.hash)
    assert told.message
    for address in commit.arrived:
        assert daemon.uid(address) is not None, f"{commit}: {address}\n{daemon.host.log()[-3000:]}"
    assert daemon.source()["problems"], commit
