"""The state machine, every state with every operation; the documents that show its data."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import pytest

from reconciler.errors import DriverError
from reconciler.model.hypervisors import HYPERVISORS, Capability
from reconciler.model.lifecycle import (
    EDGES,
    TRANSITIONS,
    UNASKED,
    Operation,
    State,
    state_of,
    transition,
    way,
)
from reconciler.model.observed import VmPhase

PAGE = Path(__file__).resolve().parents[2] / "docs/architecture/lifecycle.md"
STATES: tuple[State | None, ...] = (None, *State)
# Written out by hand, apart from the table: from where each operation may start.
LEGAL: dict[str, set[str | None]] = {
    "create": {None},
    "boot": {"created"},
    "pause": {"running"},
    "resume": {"paused"},
    "reboot": {"running", "paused"},
    "shutdown": {"created", "running", "paused", "failed"},
    "delete": {"stopped"},
}


@pytest.mark.parametrize(("operation", "state"), list(itertools.product(Operation, STATES)))
def test_every_operation_in_every_state(operation: Operation, state: State | None) -> None:
    if state in LEGAL[operation]:
        found = transition(state, operation)
        assert (state, found.through) in EDGES and (found.through, found.end) in EDGES
        return
    with pytest.raises(DriverError, match=f"{operation} is not possible") as caught:
        transition(state, operation, subject="vm/a/b")
    assert caught.value.subject == "vm/a/b"
    assert "it is possible for a VM that is" in caught.value.hint


def test_each_operation_has_a_state_of_its_own_while_it_lasts() -> None:
    through = {t.through: t.operation for t in TRANSITIONS.values()}
    assert len(through) == len(Operation)
    assert all(t.operation is through[t.through] for t in TRANSITIONS.values())
    for state in through:
        ends = {end for start, end in EDGES if start is state}
        assert State.FAILED in ends and len(ends) == 2, state


def test_every_state_is_reached_and_left() -> None:
    assert {end for _, end in EDGES} == {start for start, _ in EDGES} == set(STATES)


def test_a_way_is_made_of_legal_steps_and_ends_where_it_should() -> None:
    for state, power in itertools.product(STATES, ("running", "paused")):
        try:
            operations = way(state, power)
        except DriverError:
            assert state not in {None, State.CREATED, State.RUNNING, State.PAUSED}
            continue
        end = state
        for operation in operations:
            end = transition(end, operation).end
        assert end == power


def test_what_is_observed_is_never_a_state_of_passage() -> None:
    lasting = {state_of(phase) for phase in VmPhase}
    assert lasting == set(State) - {t.through for t in TRANSITIONS.values()}


def test_the_drawing_shows_exactly_the_table() -> None:
    drawn = set()
    for start, end, word in re.findall(
        r"^    (\S+) --> (\S+?)(?:: (\w+))?$", PAGE.read_text(), re.MULTILINE
    ):
        first, last = (None if n == "[*]" else State(n.replace("_", "-")) for n in (start, end))
        assert bool(word) == ((Operation(word), first) in TRANSITIONS if word else False)
        if word:
            assert TRANSITIONS[Operation(word), first].through is last
        else:
            assert (first, last) in UNASKED or any(
                (t.through, t.end) == (first, last) for t in TRANSITIONS.values()
            )
        drawn.add((first, last))
    assert drawn | {(State.RUNNING, State.REBOOTING)} == EDGES


def test_the_page_shows_the_capabilities_as_they_are() -> None:
    rows: dict[str, list[str]] = {}
    for line in PAGE.read_text().splitlines():
        first, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        if cells:
            rows.setdefault(first, cells)
    names = rows[""]
    assert names == list(HYPERVISORS)
    for capability in Capability:
        told = dict(zip(names, rows[capability], strict=True))
        assert told == {n: "yes" if h.can(capability) else "no" for n, h in HYPERVISORS.items()}
    machines = [", ".join(h.machines) for h in HYPERVISORS.values()]
    assert rows["machine types"] == machines
    assert rows["most vCPUs"] == [str(h.max_vcpus) for h in HYPERVISORS.values()]
