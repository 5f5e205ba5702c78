"""Readers beside a writer at work: never blocked, never blocking, always consistent."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest

from reconciler.errors import MetaldError
from reconciler.execution.state.sqlite import SqliteStore, open_reader
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation
from reconciler.model.plan import Registration
from reconciler.paths import StatePaths
from tests.execution.state.plans import WEB, begin, plan_of


def numbered(number: int) -> tuple[Registration, Allocation]:
    uid = f"uid-{number}"
    address = ResourceAddress(f"vm/acme/web-{number}")
    registration = replace(WEB, address=address, uid=uid)
    return registration, Allocation("tap", f"mt{number}", uid, address)


def test_a_reader_sees_whole_runs_only_while_a_writer_writes(
    state: StatePaths, store: SqliteStore
) -> None:
    finished = threading.Event()

    def write() -> None:
        for number in range(150):
            registration, allocation = numbered(number)
            begin(store, plan_of(registration, allocations=(allocation,)))
        finished.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen: list[int] = []
    while not finished.is_set() or not seen:
        reader = open_reader(state)
        ledger = reader.ledger(0.0)
        assert len(ledger.managed) == len(ledger.held) == len(ledger.taken)
        seen.append(len(ledger.managed))
        reader.close()
    writer.join()
    assert seen == sorted(seen)
    last = open_reader(state)
    assert len(last.ledger(0.0).managed) == 150
    last.close()


def test_an_open_transaction_blocks_no_reader_and_is_not_seen(
    state: StatePaths, store: SqliteStore
) -> None:
    reader = open_reader(state)
    with store.grouped():
        begin(store, plan_of(WEB))
        assert reader.ledger(0.0).managed == {}
    assert set(reader.ledger(0.0).managed) == {WEB.address}
    reader.close()


def test_a_reader_works_after_the_writer_left_and_cannot_write(
    state: StatePaths, store: SqliteStore
) -> None:
    begin(store, plan_of(WEB))
    store.close()
    reader = open_reader(state)
    assert set(reader.ledger(0.0).managed) == {WEB.address}
    with pytest.raises(MetaldError, match="readonly"), reader._database.writing() as db:
        db.execute("DELETE FROM resources")
    reader.close()


def test_threads_share_a_store(store: SqliteStore) -> None:
    def register(number: int) -> None:
        registration, allocation = numbered(number)
        begin(store, plan_of(registration, allocations=(allocation,)))

    threads = [threading.Thread(target=register, args=(number,)) for number in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.ledger(0.0).managed) == 20
    assert len(store.runs(100)) == 20
