"""The ledger is read again when something was written to it, and only then."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.execution.state import journal
from reconciler.execution.state.records import Event
from reconciler.execution.state.sqlite import SqliteStore, open_reader, open_store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation, Hold
from reconciler.model.plan import Registration
from reconciler.paths import StatePaths
from tests.execution.state.plans import begin, plan_of

WEB = ResourceAddress("vm/acme/web")
DB = ResourceAddress("vm/acme/db")
HOLD = Hold(WEB, "ops", "why", 0.0, "")


def registration(address: ResourceAddress, vcpus: int = 1) -> Registration:
    return Registration(address, f"uid of {address}", 1, {"vcpus": vcpus}, f"hash of {vcpus}")


def allocation(address: ResourceAddress) -> Allocation:
    return Allocation("tap", f"tap of {address}", f"uid of {address}", address)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[SqliteStore]:
    (tmp_path / "state").mkdir()
    with closing(open_store(StatePaths(tmp_path / "state"), quarantine_s=100.0)) as opened:
        begin(opened, plan_of(registration(WEB), registration(DB),
                              allocations=(allocation(WEB), allocation(DB))))  # fmt: skip
        yield opened


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    found: list[int] = []
    measured = journal.durations

    def counted(db: object) -> object:
        found.append(1)
        return measured(db)  # type: ignore[arg-type]  # handed on as it came

    monkeypatch.setattr(journal, "durations", counted)
    return found


def test_nothing_is_read_twice(store: SqliteStore, reads: list[int]) -> None:
    first, again = store.ledger(1.0), store.ledger(2.0)
    assert len(reads) == 1
    assert (first.now_s, again.now_s) == (1.0, 2.0)
    assert again.managed is first.managed and again.held is first.held


def test_what_is_beside_the_ledger_does_not_count(store: SqliteStore, reads: list[int]) -> None:
    store.ledger(1.0)
    store.add_events([Event(0.0, "host/local", "Normal", "Looked", "at it")])
    store.save_documents("specs", {"a.yaml": "kind: VM\n"})
    store.save_observation("{}", now_s=1.0)
    store.ledger(1.0)
    assert len(reads) == 1


def test_every_write_is_seen_and_the_rest_stays_the_same_object(store: SqliteStore) -> None:
    first = store.ledger(1.0)
    begin(store, plan_of(registration(WEB, 2)))
    second = store.ledger(1.0)
    assert second.managed[WEB].spec == {"vcpus": 2}
    assert second.managed[DB] is first.managed[DB]
    store.set_observed_generation({DB: 1})
    third = store.ledger(1.0)
    assert third.managed[DB].observed_generation == 1
    assert third.managed[DB].spec is first.managed[DB].spec
    store.add_hold(HOLD)
    assert store.ledger(1.0).holds == {WEB: HOLD}
    store.remove_hold(WEB)
    assert store.ledger(1.0).holds == {}


def test_what_was_taken_back_was_never_there(store: SqliteStore) -> None:
    store.ledger(1.0)

    def hold_and_fail() -> None:
        with store.grouped():
            store.add_hold(HOLD)
            assert store.ledger(1.0).holds == {WEB: HOLD}
            raise RuntimeError

    with pytest.raises(RuntimeError):
        hold_and_fail()
    assert store.ledger(1.0).holds == {}


def test_what_another_process_writes_is_seen(store: SqliteStore, tmp_path: Path) -> None:
    with closing(open_reader(StatePaths(tmp_path / "state"))) as reader:
        assert reader.ledger(1.0).holds == {}
        store.add_hold(HOLD)
        assert reader.ledger(1.0).holds == {WEB: HOLD}


def test_a_quarantine_ends_by_itself(store: SqliteStore) -> None:
    key = ("tap", f"tap of {WEB}")
    store.release([allocation(WEB)], now_s=10.0)
    assert key in store.ledger(10.0).taken
    assert key in store.ledger(109.0).taken
    assert key not in store.ledger(110.0).taken
    assert key in store.ledger(50.0).taken, "a clock set back"
