"""Drops are told from the state on: over restarts, unreadable counts and an unreadable memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from reconciler.daemon.security_log import SecurityLog, as_json
from reconciler.daemon.watching_drops import DropWatch
from reconciler.errors import UnknownStateError
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.model.drops import Denied, Drops, Tally
from reconciler.model.firewall import CONTROLS
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo
from tests.planning.test_left_alone import fleet, vm
from tests.planning.world import World

TENANT = next(n for n, control in enumerate(CONTROLS, 1) if control.name == "tenant")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    """With one VM on record."""
    store = open_store(StatePaths(tmp_path / "state"))
    world = World()
    world.secret = store.ledger(0.0).secret
    store.begin_run(world.plan(fleet(vm("a"))), SourceInfo("specs"), now_s=0.0)
    yield store
    store.close()


class Kernel:
    """What is counted, and who watches it; ``count`` None: it cannot be read."""

    def __init__(self, store: SqliteStore) -> None:
        (self.tap,) = (e.value for own in store.ledger(0.0).held.values() for e in own
                       if e.kind == "tap")  # fmt: skip
        self.store, self.count, self.now_s = store, 0, 10_000.0
        self.said: list[str] = []

    async def read(self) -> Drops | None:
        if self.count < 0:
            raise UnknownStateError("nft is away")
        return Drops({}, {(self.tap, TENANT): Tally(self.count, self.count)}, 1000)

    async def recent(self) -> tuple[Denied, ...]:
        return ()

    def watch(self, log: SecurityLog | None = None) -> DropWatch:
        return DropWatch(
            self.store, log, self.said.append, self.read, self.recent, lambda: self.now_s
        )

    def told(self) -> list[str]:
        return [e.message.split()[1] for e in self.store.events() if e.reason == "Dropped"]


async def test_each_packet_is_told_once_whoever_watches(store: SqliteStore) -> None:
    kernel = Kernel(store)
    for count, expected in ((3, ["3"]), (3, ["3"]), (8, ["3", "5"])):
        kernel.count, kernel.now_s = count, kernel.now_s + 61
        await kernel.watch().look("")
        assert kernel.told() == expected
    assert kernel.said == []


async def test_counts_that_cannot_be_read_are_unknown_and_said_once(store: SqliteStore) -> None:
    kernel = Kernel(store)
    watch = kernel.watch()
    kernel.count = 5
    await watch.look("")
    kernel.count = -1
    for _ in range(3):
        await watch.look("")
    assert len(kernel.said) == 1 and "nft is away" in kernel.said[0]
    kernel.count, kernel.now_s = 7, kernel.now_s + 61
    await watch.look("")
    assert kernel.told() == ["5", "2"], "no zero came between"


async def test_of_an_unreadable_memory_nothing_is_told_twice(store: SqliteStore) -> None:
    kernel = Kernel(store)
    kernel.count = 5
    await kernel.watch().look("")
    store.save_told_drops("{")
    kernel.now_s += 61
    watch = kernel.watch()
    await watch.look("")
    assert kernel.told() == ["5"]
    assert "what was counted until now is not told" in kernel.said[0]
    kernel.count, kernel.now_s = 6, kernel.now_s + 61
    await watch.look("")
    assert kernel.told() == ["5", "1"]


async def test_a_log_that_cannot_be_written_is_said_once_until_it_can_be(
    store: SqliteStore, tmp_path: Path
) -> None:
    kernel, folder = Kernel(store), tmp_path / "logs"
    file = folder / "security.log"
    watch = kernel.watch(SecurityLog(as_json, file=file))

    async def look(count: int) -> None:
        kernel.count, kernel.now_s = count, kernel.now_s + 61
        await watch.look("")

    for count in (1, 2, 2, 3):
        await look(count)
    assert len(kernel.said) == 1 and "cannot be written" in kernel.said[0]
    folder.mkdir()
    await look(4)
    file.unlink()
    folder.rmdir()
    await look(5)
    assert len(kernel.said) == 2, "it went well in between"
    assert kernel.told() == ["1"] * 5, "the events are there all the same"
