"""Runs and steps: intended before started, started before done, ended once."""

from __future__ import annotations

import itertools

import pytest

from reconciler.errors import BugError
from reconciler.execution.state import journal
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.model.firewall import Element
from reconciler.model.plan import ChangeElements, RemoveTap, StopVm
from reconciler.paths import StatePaths
from tests.execution.state.plans import begin, plan_of

UNTAP = RemoveTap("mt01")


def begin_steps(store: SqliteStore, count: int = 2) -> int:
    return begin(store, plan_of(steps=(UNTAP,) * count), now_s=7.0)


def statuses(store: SqliteStore, run: int) -> list[str]:
    return [step.status for step in store.steps(run)]


def test_intents_hold_the_whole_operation(store: SqliteStore) -> None:
    elements = frozenset({Element("taps", ("mt02",)), Element("taps", ("mt01",))})
    plan = plan_of(steps=(UNTAP, ChangeElements(frozenset(), elements)))
    run = begin(store, plan)
    first, second = store.steps(run)
    assert (first.operation, first.arguments) == ("RemoveTap", {"tap": "mt01"})
    assert second.arguments["remove"] == [
        {"container": "taps", "key": ["mt01"], "value": ""},
        {"container": "taps", "key": ["mt02"], "value": ""},
    ]
    assert statuses(store, run) == ["intended", "intended"]


def test_a_run_goes_from_intended_to_done(store: SqliteStore) -> None:
    run = begin_steps(store)
    store.steps_started(run, ["s0", "s1"])
    store.steps_done(run, ["s0"])
    store.steps_verified(run, {"s0": {"pid": 7}, "s1": {"pid": 8}})
    store.steps_failed(run, {"s1": "no such link"})
    first, second = store.steps(run)
    assert (first.status, first.evidence) == ("done", {"pid": 7})
    assert (second.status, second.error) == ("failed", "no such link")
    store.finish_run(run, "partial", "one failed")
    ended = store.runs(1)[0]
    assert (ended.source, ended.commit, ended.started_at_s) == ("specs", "abc", 7.0)
    assert (ended.outcome, ended.detail, ended.ended_at_s) == ("partial", "one failed", 1000.0)


def test_a_failed_step_may_be_tried_again(store: SqliteStore) -> None:
    run = begin_steps(store, 1)
    store.steps_started(run, ["s0"])
    store.steps_failed(run, {"s0": "busy"})
    store.steps_started(run, ["s0"])
    assert [(s.status, s.error) for s in store.steps(run)] == [("started", "")]


def test_no_step_is_done_that_was_not_journalled_as_started(store: SqliteStore) -> None:
    run = begin_steps(store)
    store.steps_started(run, ["s0"])
    with pytest.raises(BugError, match="is intended already"):
        store.steps_done(run, ["s0", "s1"])
    assert statuses(store, run) == ["started", "intended"], "all of a call, or nothing"
    with pytest.raises(BugError, match="not in the journal"):
        store.steps_started(run, ["s9"])


def test_a_run_ends_once(store: SqliteStore) -> None:
    run = begin_steps(store)
    store.finish_run(run, "done")
    with pytest.raises(BugError):
        store.finish_run(run, "failed")
    with pytest.raises(BugError):
        store.finish_run(run + 1, "done")


def test_what_a_killed_process_left_is_found_by_the_next(
    state: StatePaths, store: SqliteStore
) -> None:
    store.finish_run(begin_steps(store), "done")
    run = begin_steps(store)
    store.steps_started(run, ["s0"])
    store.close()
    later = open_store(state)
    assert [entry.id for entry in later.unfinished_runs()] == [run]
    assert statuses(later, run) == ["started", "intended"]
    later.finish_run(run, "interrupted", "killed")
    assert later.unfinished_runs() == ()
    later.close()


def test_old_runs_go_with_their_steps_and_unfinished_ones_stay(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "RUNS_KEPT", 3)
    unfinished = begin_steps(store)
    runs = [begin_steps(store) for _ in range(5)]
    for run in runs:
        store.finish_run(run, "done")
    last = begin_steps(store)
    assert [entry.id for entry in store.runs(10)] == [last, *reversed(runs[3:]), unfinished]
    assert store.steps(runs[0]) == ()


def test_grouped_calls_are_one_transaction(store: SqliteStore) -> None:
    run = begin_steps(store)
    with pytest.raises(BugError), store.grouped():  # noqa: PT012 - the first is undone too
        store.steps_started(run, ["s0"])
        store.steps_done(run, ["s1"])
    assert statuses(store, run) == ["intended", "intended"]
    with store.grouped():
        store.steps_started(run, ["s0"])
        with pytest.raises(BugError):
            store.steps_done(run, ["s0", "s1"])
        store.steps_started(run, ["s1"])
    assert statuses(store, run) == ["started", "started"], "only the call that failed is undone"


def test_the_journal_is_bounded_by_its_steps_too(
    store: SqliteStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(journal, "STEPS_KEPT", 60)
    for _ in range(30):
        store.finish_run(begin(store, plan_of(steps=(UNTAP,) * 5)), "done")
    kept = [run.id for run in store.runs(100)]
    assert kept == list(range(30, 18, -1)), "as many as have 60 steps"
    monkeypatch.setattr(journal, "STEPS_KEPT", 1)
    begin(store, plan_of())
    assert len(store.runs(100)) == journal.RUNS_KEPT_ANYWAY


def test_a_saved_plan_is_remembered_as_used_for_as_long_as_runs_are_kept(
    store: SqliteStore,
) -> None:
    store.use_plan_file("first", 1)
    store.use_plan_file("second", journal.RUNS_KEPT)
    assert store.plan_file_run("first") == 1
    store.use_plan_file("third", journal.RUNS_KEPT + 1)
    assert store.plan_file_run("first") is None
    assert store.plan_file_run("second") == journal.RUNS_KEPT


def test_what_starts_and_stops_took_is_summed_up_when_a_run_ends(state: StatePaths) -> None:
    moments = itertools.chain([0.0, 0.0, 2.0, 2.0, 10.0, 14.0], itertools.repeat(20.0))
    store = open_store(state, clock=lambda: next(moments))
    stop = StopVm("uid-web-1", "qemu", graceful=True, verdict="stopped")
    for _ in range(2):
        run = begin(store, plan_of(steps=(stop, UNTAP)))
        store.steps_started(run, ["s0"])
        store.steps_done(run, ["s0"])
        store.finish_run(run, "done")
    assert store.ledger(0.0).durations == {("StopVm", "qemu"): 3.0}
    store.close()
