"""The daemon's looks at drops: troubles are said once, and what is unknown is no beginning anew."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from reconciler.daemon.security_log import SecurityLog, as_json
from reconciler.daemon.watching_drops import DropWatch
from reconciler.errors import UnknownStateError
from reconciler.execution.drops import Whose
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.drops import Denied, Drops, Tally
from reconciler.paths import StatePaths

VM = ResourceAddress("vm/acme/web-1")


@dataclass(slots=True)
class Kernel:
    """What the next look finds: ``packets``, or that it is unknown. Time goes on by itself."""

    packets: int | None = 0
    now_s: float = 2000.0
    said: list[str] = field(default_factory=list)

    async def read(self) -> Drops:
        if self.packets is None:
            raise UnknownStateError("the counters cannot be read: gone fishing")
        return Drops({}, {("mt1", 1): Tally(self.packets, self.packets)}, 1000)

    async def recent(self) -> tuple[Denied, ...]:
        return ()

    def clock(self) -> float:
        return self.now_s

    def look(self, watch: DropWatch, packets: int | None) -> None:
        """After more than a minute."""
        self.now_s += 100.0
        self.packets = packets
        asyncio.run(watch.look("c0ffee"))


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[SqliteStore]:
    owners = {"mt1": Whose(VM, "front", (), "events")}
    monkeypatch.setattr("reconciler.daemon.watching_drops.owners", lambda _: owners)
    opened = open_store(StatePaths(tmp_path / "state"))
    yield opened
    opened.close()


def watch_of(store: SqliteStore, kernel: Kernel, log: SecurityLog | None = None) -> DropWatch:
    return DropWatch(store, log, kernel.said.append, kernel.read, kernel.recent, kernel.clock)


def test_a_log_that_cannot_be_written_is_said_once_until_it_can_be(
    store: SqliteStore, tmp_path: Path
) -> None:
    kernel, folder = Kernel(), tmp_path / "logs"
    watch = watch_of(store, kernel, SecurityLog(as_json, file=folder / "security.log"))
    for packets in (1, 2, 2, 3):
        kernel.look(watch, packets)
    assert [line for line in kernel.said if "cannot be written" in line] == kernel.said
    assert len(kernel.said) == 1
    folder.mkdir()
    kernel.look(watch, 4)
    (folder / "security.log").unlink()
    folder.rmdir()
    kernel.look(watch, 5)
    assert len(kernel.said) == 2
    assert len(store.events()) == 5, "the events are there all the same"


def test_an_unknown_count_is_said_once_and_nothing_is_doubled(store: SqliteStore) -> None:
    kernel = Kernel()
    watch = watch_of(store, kernel)
    for packets in (5, None, None, 7):
        kernel.look(watch, packets)
    assert len(kernel.said) == 1 and "gone fishing" in kernel.said[0]
    kernel.look(watch_of(store, kernel), 8)  # a daemon that was started again
    told = [event.message.split(" (")[0].split(": ")[1] for event in store.events()]
    assert told == ["5 packets", "2 packets", "1 packet"]
