"""Events: ordered, resumable, bounded."""

from __future__ import annotations

import pytest

from reconciler.execution.state import events
from reconciler.execution.state.records import Event
from reconciler.execution.state.sqlite import SqliteStore


def numbered(count: int, resource: str = "vm/acme/web") -> list[Event]:
    return [Event(float(n), resource, "Normal", "Started", f"number {n}") for n in range(count)]


def test_events_are_read_in_order_and_resumed_by_id(store: SqliteStore) -> None:
    store.add_events(numbered(5))
    first = store.events(after_id=0, limit=2)
    rest = store.events(after_id=first[-1].id)
    assert [event.message for event in (*first, *rest)] == [f"number {n}" for n in range(5)]
    assert [event.id for event in (*first, *rest)] == [1, 2, 3, 4, 5]


def test_without_an_id_the_latest_are_given(store: SqliteStore) -> None:
    store.add_events(numbered(5))
    assert [event.id for event in store.events(limit=2)] == [4, 5]


def test_events_of_one_resource(store: SqliteStore) -> None:
    store.add_events([*numbered(2), *numbered(1, "vm/acme/db"), *numbered(2)])
    assert [event.id for event in store.events(resource="vm/acme/db")] == [3]
    assert [event.id for event in store.events(after_id=1, resource="vm/acme/web")] == [2, 4, 5]


def test_only_the_latest_are_kept_and_ids_never_return(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "EVENTS_KEPT", 3)
    store.add_events(numbered(10))
    assert [event.id for event in store.events()] == [8, 9, 10]
    store.add_events(numbered(1))
    assert [event.id for event in store.events()] == [9, 10, 11]


def test_an_event_is_shown_with_its_time_in_utc(store: SqliteStore) -> None:
    event = Event(1_800_000_000.25, "vm/acme/web", "Warning", "Failed", "why", run=3, commit="abc")
    store.add_events([event])
    assert store.events()[0].to_json() == {
        "id": 1,
        "at": "2027-01-15T08:00:00.250Z",
        "resource": "vm/acme/web",
        "kind": "Warning",
        "reason": "Failed",
        "message": "why",
        "run": 3,
        "commit": "abc",
    }


def test_an_attack_pushes_no_other_events_out(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events, "DROPPED_KEPT", 2)
    names = ["Created", *["Dropped"] * 3, "Updated", "Dropped"]
    for number, reason in enumerate(names):
        store.add_events([Event(float(number), "vm/acme/web-1", "Warning", reason, f"{number}")])
    assert [e.message for e in store.events()] == ["0", "3", "4", "5"]
    monkeypatch.setattr(events, "EVENTS_KEPT", 2)
    for _ in range(9):
        store.add_events([Event(9.0, "vm/acme/web-1", "Warning", "Dropped", "again")])
    assert [e.message for e in store.events()] == ["0", "4", "again", "again"]
