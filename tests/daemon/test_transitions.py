"""What is told: each change of a state once, and nothing that was not seen."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from jsonschema import Draft202012Validator

from reconciler.daemon.transitions import (
    PASS,
    SOURCE,
    Look,
    State,
    Transitions,
    Word,
    look_of_failure,
    look_of_pass,
    look_of_source,
)
from reconciler.errors import MetaldError, TransientError
from reconciler.execution.executor import RunResult
from reconciler.execution.outcome import Outcome
from reconciler.model.addresses import EVERYTHING, ResourceAddress, vm_address
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold, Retry
from reconciler.planning.comparison.power import STABLE_AFTER_S
from reconciler.planning.planner import WHOLE, Scope
from tests.planning.test_cases import fleet_of
from tests.planning.world import World

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((ROOT / "specs/schema/output/notification.json").read_text())
WEB, DB = vm_address("acme", "web"), vm_address("acme", "db")
WELL = {"ok", "converged"}

words = st.sampled_from([word for word in get_args(Word) if word != "gone"])
names = st.sampled_from(["source", "vm/a/1", "vm/a/2", "network/a/n"])
looks = st.builds(
    Look,
    st.dictionaries(names, st.builds(State, words, st.just("Reason"), st.text(max_size=5))),
    st.none() | st.frozensets(names),
    st.floats(0, 4e9),
    st.text(max_size=3),
    st.none() | st.integers(1, 9),
)


# -- the rule -----------------------------------------------------------------------------


@given(st.lists(looks, max_size=12))
def test_every_change_is_told_once_and_nothing_else(sequence: list[Look]) -> None:
    validator = Draft202012Validator(SCHEMA)
    transitions, last = Transitions("h"), dict[str, str]()
    for look in sequence:
        gone = set[str]() if look.present is None else last.keys() - look.present - set(look.states)
        after = {n: w for n, w in last.items() if n not in gone}
        after.update({name: state.word for name, state in look.states.items()})
        expected = [
            (name, last.get(name), after.get(name, "gone"))
            for name in sorted(last.keys() | after.keys())
            if last.get(name) != after.get(name)
            and not (name not in last and after[name] in WELL)
            and not (name not in after and last[name] in WELL)
        ]
        transitions, told = transitions.step(look)
        assert [(n.resource, n.from_state, n.to_state) for n in told] == expected
        for entry in told:
            validator.validate(json.loads(json.dumps(entry.document())))
            assert (entry.commit, entry.run, entry.host) == (look.commit, look.run, "h")
        last = after
        assert dict(transitions.known) == last
        assert transitions.step(replace(look, at_s=0.0))[1] == (), "a second look is no news"
        assert Transitions.from_text("h", transitions.to_text()) == transitions


@pytest.mark.parametrize("text", ["", "[]", '{"vm/a/1": "splendid"}', '{"vm/a/1": {}}', "\x00"])
def test_a_record_that_is_something_else_is_refused(text: str) -> None:
    with pytest.raises(MetaldError):
        Transitions.from_text("h", text)


# -- what passes find ---------------------------------------------------------------------


def fleet(*vms: str, reconcile: str = "correct", **more: Any) -> Fleet:
    head = {"apiVersion": "metald/v1"}
    owned = {"tenant": "acme", "reconcile": reconcile}
    rows = [
        {**head, "kind": "Tenant", "metadata": {"name": "acme"}},
        {**head, "kind": "Network", "metadata": {"name": "lan", "tenant": "acme"}},
    ]
    boot, ports = {"image": "minimal"}, [{"network": "lan"}]
    spec = {"boot": boot, "interfaces": ports, "restart": "always", **more}
    rows += [
        {**head, "kind": "VM", "metadata": {"name": name, **owned}, "spec": spec} for name in vms
    ]
    return fleet_of(rows)


BOTH = fleet("web", "db")


class Story:
    """A host in memory, looked at pass by pass; ``tell`` gives what is told of each."""

    def __init__(self) -> None:
        self.world = World()
        self.transitions = Transitions("host-1")

    def tell(
        self,
        wanted: Fleet,
        *problems: str,
        scope: Scope = WHOLE,
        **ended: Any,
    ) -> dict[str, tuple[str | None, str]]:
        made = self.world.plan(wanted, scope)
        if not ended:
            self.world.carry_out(made)
        outcome = Outcome(made, **{"run_id": 7 if made.steps else 0, **ended})
        return self.look(
            look_of_pass(
                outcome,
                self.world.ledger(),
                problems=problems,
                commit="c0ffee",
                at_s=self.world.now_s,
            )
        )

    def look(self, look: Look) -> dict[str, tuple[str | None, str]]:
        self.transitions, told = self.transitions.step(look)
        return {entry.resource: (entry.from_state, entry.to_state) for entry in told}


@pytest.fixture
def story() -> Story:
    """Two VMs up: which is no news."""
    made = Story()
    assert made.tell(BOTH) == {}
    assert made.tell(BOTH) == {}
    return made


@pytest.fixture
def ill(story: Story) -> Story:
    """One of the two is known to have failed."""
    assert story.tell(BOTH, remaining=((WEB, "its tap differs"),))
    return story


def test_a_failed_step_is_told_once_and_so_is_its_recovery(story: Story) -> None:
    story.world.set_phase(WEB, "absent")
    made = story.world.plan(BOTH)
    key = next(step.key for step in made.steps if step.resource == WEB)
    failed = RunResult({key: TransientError("no room")}, ())
    assert story.tell(BOTH, result=failed) == {WEB: ("converged", "failed")}
    retry = Retry(WEB, 1, story.world.now_s + 60, "no room", story.world.managed[WEB].spec_hash)
    story.world.retries[WEB] = retry
    assert story.tell(BOTH) == {}
    story.world.retries.clear()
    assert story.tell(BOTH) == {WEB: ("failed", "converged")}


def test_what_is_still_different_after_a_pass_has_failed_or_is_unknown(story: Story) -> None:
    left = ((WEB, "its tap differs"), (DB, "unknown: no answer"))
    assert story.tell(BOTH, remaining=left) == {
        WEB: ("converged", "failed"),
        DB: ("converged", "unknown"),
    }


def test_steps_never_begun_say_nothing_of_their_resources(ill: Story) -> None:
    ill.world.set_phase(WEB, "absent")
    skipped = tuple(step.key for step in ill.world.plan(BOTH).steps)
    assert ill.tell(BOTH, result=RunResult({}, skipped), interrupted=True) == {}
    assert ill.transitions.known[WEB] == "failed"


def test_what_is_excluded_from_a_pass_stays_as_it_was_known(ill: Story) -> None:
    del ill.world.taps[ill.world.tap_of(WEB)]
    ill.tell(BOTH, scope=Scope(exclude=frozenset({WEB})))
    assert ill.transitions.known[WEB] == "failed"


def test_a_verdict_stands_until_the_spec_changes() -> None:
    story, wanted = Story(), fleet("web", restart="never")
    story.tell(wanted)
    story.world.set_phase(WEB, "absent")
    assert story.tell(wanted) == {WEB: ("converged", "failed")}
    assert story.tell(wanted) == {}
    assert story.tell(fleet("web", restart="never", vcpus=2)) == {WEB: ("failed", "converged")}


def test_a_vm_that_cannot_be_seen_is_unknown(story: Story) -> None:
    story.world.set_phase(WEB, "unknown")
    assert story.tell(BOTH) == {WEB: ("converged", "unknown")}


def test_a_network_that_cannot_be_seen_is_one_piece_of_news_and_nothing_is_gone(
    ill: Story,
) -> None:
    ill.world.network_problem = "the dump was interrupted"
    [(resource, change)] = ill.tell(BOTH).items()
    assert (resource.split("/")[0], change) == ("host", ("converged", "unknown"))
    assert ill.transitions.known[WEB] == "failed"
    ill.world.network_problem = ""
    assert ill.tell(BOTH) == {WEB: ("failed", "converged"), resource: ("unknown", "converged")}


def test_a_pass_that_fails_says_nothing_of_resources(story: Story) -> None:
    now_s = story.world.now_s
    assert story.look(look_of_failure(MetaldError("disk full"), now_s)) == {PASS: ("ok", "failed")}
    assert story.look(look_of_failure(MetaldError("still full"), now_s)) == {}
    assert story.tell(BOTH) == {PASS: ("failed", "ok")}


def test_a_broken_source_is_told_and_the_resources_go_on(story: Story) -> None:
    assert story.tell(BOTH, "a.yaml:1: not YAML") == {SOURCE: ("ok", "broken")}
    assert story.tell(BOTH) == {SOURCE: ("broken", "ok")}
    fresh = Story()
    assert fresh.look(look_of_source(("no such folder",), 0.0)) == {SOURCE: (None, "broken")}


def test_a_vm_that_keeps_dying_loops_until_it_stays_up(story: Story) -> None:
    wanted = fleet("web", "db")
    story.world.now_s += STABLE_AFTER_S
    story.world.set_phase(WEB, "absent")
    assert story.tell(wanted) == {}, "one end is a recovery"
    story.world.set_phase(WEB, "absent")
    assert story.tell(wanted, run_id=0) == {WEB: ("converged", "crash-looping")}
    story.world.now_s += 5
    assert story.tell(wanted) == {}, "started again, not yet trusted"
    story.world.now_s += STABLE_AFTER_S
    assert story.tell(wanted) == {WEB: ("crash-looping", "converged")}


@pytest.mark.parametrize("address", [DB, ResourceAddress("tenant/acme"), EVERYTHING])
def test_holds_name_what_is_held_and_leave_the_rest_as_it_was(
    ill: Story, address: ResourceAddress
) -> None:
    ill.world.holds = {address: Hold(address, "ops", "moving house", 0.0, "")}
    spoken_for = {} if address != DB else {WEB: ("failed", "converged")}
    assert ill.tell(BOTH) == {address: ("converged", "held"), **spoken_for}
    assert {WEB, DB} <= ill.transitions.known.keys()
    ill.world.holds = {}
    rest = {} if spoken_for else {WEB: ("failed", "converged")}
    assert ill.tell(BOTH) == {address: ("held", "converged"), **rest}


def test_a_difference_that_is_only_reported_is_drift(story: Story) -> None:
    reported = fleet("web", "db", reconcile="report")
    assert story.tell(reported, scope=Scope(by_hand=True)) == {}
    del story.world.taps[story.world.tap_of(WEB)]
    assert story.tell(reported) == {WEB: ("converged", "drifted")}
    assert story.tell(reported, scope=Scope(by_hand=True)) == {WEB: ("drifted", "converged")}


def test_a_protected_vm_that_is_no_longer_declared_is_refused() -> None:
    story = Story()
    story.tell(fleet("web", "db", protect=True))
    assert story.tell(fleet("db", protect=True)) == {WEB: ("converged", "refused")}


def test_what_was_ill_and_is_deleted_is_gone_and_a_deletion_alone_is_no_news(
    story: Story,
) -> None:
    story.tell(BOTH, remaining=((WEB, "its tap differs"),))
    assert story.tell(fleet()) == {WEB: ("failed", "gone")}
    assert not {WEB, DB} & story.transitions.known.keys()
