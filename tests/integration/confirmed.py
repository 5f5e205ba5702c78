"""What tests of commit-confirmed share: a picture of the host, and its other processes."""

from __future__ import annotations

import os
import re
import signal
import sqlite3
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from reconciler.execution.state.sqlite import open_reader
from reconciler.hypervisors import folders
from tests.integration.host import Host, settled_links, without_counts

SYSCTLS = "grep -rs . /proc/sys/net/ipv6/conf /proc/sys/net/ipv6/neigh | grep -v stable_secret"


def picture(host: Host) -> dict[str, Any]:
    """All that an undo must bring back: the host, what is on record, and who runs."""
    rules = host.inside("nft", "--stateless", "list", "ruleset").stdout
    _, managed, held = host.ledger()
    # Before the others: one that ends meanwhile is then among both.
    keepers = set(timekeepers(host))
    return {
        "links": sorted(settled_links(host.ip("-o", "link"))),
        "routes": sorted(host.ip("-6", "route").splitlines()),
        "neighbours": sorted(host.ip("-6", "neigh").splitlines()),
        # Sets are listed in no order.
        "rules": sorted(re.split(r"[,\s{}]+", without_counts(rules))),
        "sysctls": sorted(host.inside("sh", "-c", SYSCTLS).stdout.splitlines()),
        "records": {address: (entry.uid, entry.spec) for address, entry in managed.items()},
        "holdings": {
            (entry.kind, entry.value, owner) for owner, owned in held.items() for entry in owned
        },
        "processes": host.vmm_pids() - keepers,
        "VMs": {uid: host.runs.vm(uid).launch.read_text() for uid in folders.uids(host.runs)},
        "phases": {uid: host.runs.vm(uid).process.read_text() for uid in folders.uids(host.runs)},
    }


def timekeepers(host: Host) -> list[int]:
    """Processes that keep the time of a change on this host."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                words = (entry / "cmdline").read_bytes().split(b"\0")
                if b"reconciler.daemon.timekeeper" in words and (
                    str(host.state.root).encode() in words
                ):
                    found.append(int(entry.name))
    return found


def kill_timekeepers(host: Host) -> None:
    for pid in timekeepers(host):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    host.until("no timekeeper is left", lambda: not timekeepers(host))


def pending(host: Host) -> bool:
    """Read from the state itself: no command of metald runs."""
    with closing(open_reader(host.state)) as reader:
        return reader.confirmation() is not None


def reasons(host: Host) -> list[str]:
    """What happened to the host as a whole, oldest first."""
    with closing(open_reader(host.state)) as reader:
        return [event.reason for event in reader.events(resource="host/local")]


def runs(host: Host) -> list[str]:
    """Where the runs on record came from, newest first."""
    with closing(open_reader(host.state)) as reader:
        return [run.source for run in reader.runs(1000)]


def change(host: Host, text: str, seconds: str, expect: int = 0) -> None:
    host.write("fleet.yaml", text)
    host.run("apply", str(host.specs), "--yes", "--confirm", seconds, expect=expect)
    assert pending(host)


def overdue(host: Host, text: str) -> None:
    """An unconfirmed change past its deadline, and nobody left who knows of it."""
    change(host, text, "1h")
    kill_timekeepers(host)
    tamper(host, "UPDATE confirmation SET deadline_s = deadline_s - 3600, "
           "deadline_boot_s = deadline_boot_s - 3600")  # fmt: skip


def tamper(host: Host, sql: str) -> None:
    with closing(sqlite3.connect(host.state.database)) as db, db:
        db.execute(sql)
