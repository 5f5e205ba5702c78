"""What steps leave on record, in which order with what they do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from reconciler.errors import DriverError
from reconciler.execution.operations import Context, perform
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.execution.world import World
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import VmRecord
from reconciler.model.plan import Plan, Registration, Step, StopVm
from reconciler.paths import StatePaths
from reconciler.planning.documents.render import SourceInfo
from tests.execution.test_executor import NoDriver, Recording, nothing

VM, UID = ResourceAddress("vm/a/b"), "5f" * 16


class Broken(NoDriver):
    """Notes what was on record when it was asked to stop, and fails."""

    def __init__(self, store: SqliteStore) -> None:
        self.store = store
        self.intent = ""

    async def stop(self, uid: str, *, graceful: bool) -> None:
        self.intent = self.store.ledger(1.0).vms[uid].intent
        raise DriverError("it does not stop")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    with closing(open_store(StatePaths(tmp_path / "state"))) as opened:
        entry = Registration(VM, UID, 1, {}, "hash")
        opened.begin_run(
            replace(Plan("id", (), (), (), (), (), (), 0), registrations=(entry,)),
            SourceInfo("test"),
            now_s=1.0,
        )
        opened.record_vms([VmRecord(UID, "started", "boot", 1.0, 0, 1)])
        yield opened


@pytest.mark.parametrize(
    ("verdict", "intent"),
    [("restarting", "stopped"), ("completed", "completed"), ("stopped", "stopped")],
)
async def test_a_stop_cut_short_reads_as_what_it_was_for(
    store: SqliteStore, verdict: str, intent: str
) -> None:
    driver = Broken(store)
    world = World(Recording(), {"none": driver}, nothing, lambda _: {})
    context = Context(world, store, store.ledger(1.0), "boot", {}, lambda _: None)
    operation = StopVm(UID, "none", graceful=True, verdict=verdict)  # type: ignore[arg-type]  # as listed
    assert await perform(context, [Step("stop", VM, operation)])
    assert driver.intent == intent
