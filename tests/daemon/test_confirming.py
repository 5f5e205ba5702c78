"""Deadlines of changes to be confirmed: by which clock, across reboots, and what counts as late."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from reconciler.errors import RefusedError
from reconciler.execution.confirming import Asked
from reconciler.execution.engine import Request, Terms
from reconciler.execution.outcome import Outcome
from reconciler.model.times import Deadline, Moment
from reconciler.planning.planner import Scope
from tests.simulation.simulation import SOURCE, make_template
from tests.simulation.stepwise import Stepwise

NOW = Moment(1_000_000.0, 500.0, "boot")
DAY_S = 86_400.0


@pytest.mark.parametrize(
    ("now", "left_s"),
    [
        (Moment(1_000_010.0, 510.0, "boot"), 50.0),
        (Moment(1_000_060.0, 560.0, "boot"), 0.0),
        (Moment(1_000_010.0 + DAY_S, 510.0, "boot"), 50.0),  # the wall clock was set forward
        (Moment(1_000_070.0 - DAY_S, 570.0, "boot"), 0.0),  # and back
        (Moment(1_000_020.0, 3.0, "another boot"), 40.0),
        (Moment(1_000_061.0, 3.0, "another boot"), 0.0),
        (
            Moment(5.0, 3.0, "another boot"),
            0.0,
        ),  # a clock without a battery: waiting takes for ever
        (NOW, 60.0),
    ],
)
def test_how_long_a_deadline_is_away(now: Moment, left_s: float) -> None:
    assert Deadline.after(60.0, NOW).left_s(now) == pytest.approx(left_s)


@pytest.fixture
def host(tmp_path: Path) -> Iterator[Stepwise]:
    make_template(tmp_path / "template")
    made = Stepwise(tmp_path / "state", tmp_path / "template")
    made.specs.documents = made.specs.documents[:5]
    try:
        yield made
    finally:
        made.close()


def change(host: Stepwise, seconds: float = 60.0, took: float = 0.0) -> None:
    """Apply the fleet until it is confirmed."""
    request = Request(host.specs.fleet(), SOURCE, Scope(by_hand=True, defer_deletes=True))
    confirming = host.confirming()
    begin = confirming.prepare(Asked(request.fleet, SOURCE, request.scope), seconds)

    async def apply() -> Outcome:
        outcome = await confirming.engine.apply(
            request, on_progress=lambda _: None, terms=Terms(on_begin=begin)
        )
        host.pass_time(took)
        confirming.begin_waiting()
        return outcome

    assert host.work(apply).is_complete
    assert host.timekeepers == 1


def undo_if_due(host: Stepwise) -> Any:
    return host.work(lambda: host.confirming().undo_if_due(lambda _: None, asyncio.Event()))


def confirm(host: Stepwise) -> Any:
    return host.work(lambda: host.confirming().confirm(lambda _: None, asyncio.Event()))


def test_a_step_of_the_clock_moves_no_deadline(host: Stepwise) -> None:
    change(host)
    host.began_s += DAY_S
    assert undo_if_due(host) is None
    host.began_s -= 3 * DAY_S
    assert undo_if_due(host) is None
    host.pass_time(60)
    assert undo_if_due(host).is_complete
    assert host.store.confirmation() is None
    assert not host.on_record().managed


def test_after_a_reboot_the_first_to_start_undoes_and_late_is_late(host: Stepwise) -> None:
    change(host)
    host.host.reboot()
    host.boot_s = 1.0
    assert undo_if_due(host) is None, "there is time left, and somebody may confirm"
    host.pass_time(60)
    late = confirm(host)
    assert isinstance(late, RefusedError) and "was undone" in str(late)
    assert not host.on_record().managed
    again = confirm(host)
    assert isinstance(again, RefusedError) and "was not confirmed" in str(again)


def test_what_takes_long_can_be_confirmed_after_its_end(host: Stepwise) -> None:
    change(host, 60.0, took=500.0)
    host.pass_time(50)
    assert undo_if_due(host) is None
    outcome, _ = confirm(host)
    assert outcome.is_complete
    assert len(host.on_record().managed) == 5


def test_an_undo_cut_off_after_any_write_goes_on_and_is_never_confirmed(host: Stepwise) -> None:
    writes = 0
    while True:
        host.timekeepers = 0
        change(host)
        host.cut.writes_left = writes
        done = host.work(lambda: host.confirming().undo(lambda _: None, asyncio.Event()))
        if done is not None:
            break
        if host.store.confirmation() is not None and writes:
            refused = confirm(host)
            assert isinstance(refused, RefusedError)
        elif writes == 0:
            # Nothing of it is durable yet: it still waits.
            host.work(lambda: host.confirming().undo(lambda _: None, asyncio.Event()))
        assert host.store.confirmation() is None
        assert not host.on_record().managed
        writes += 1
    assert done.is_complete and writes > 5
