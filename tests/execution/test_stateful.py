"""The whole engine on the real store, set to work by hypothesis in any order it can think of.

An operator edits a fleet; others change the host; metald applies, is killed after any write to
its journal and starts again; changes await confirmation, are kept or undone; resources are held.
After every rule nothing is held twice, nothing drawn is another's within its quarantine and the
plan is the same whoever makes it, and after every apply that says so, nothing is left to do. In
the end the host is as a fresh one would be.

The seed is printed; METALD_TEST_SEED repeats a run.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.errors import BugError, MetaldError
from reconciler.execution.confirming import Asked
from reconciler.execution.engine import Request, Terms, decide
from reconciler.execution.outcome import Outcome
from reconciler.execution.state.ledger import DEFAULT_QUARANTINE_S
from reconciler.model import identity
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Allocation, Ledger
from reconciler.planning.canonical import canonical_json
from reconciler.planning.documents.render import plan_document
from reconciler.planning.documents.undo import remember
from reconciler.planning.planner import Scope
from tests.planning.test_cases import fleet_of
from tests.simulation.simulation import SOURCE, make_template
from tests.simulation.stepwise import Stepwise

MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
SEED = int(os.environ.get("METALD_TEST_SEED", time.time_ns() % 1_000_000))
# Numbers to draw from later: hypothesis itself may be asked only when a rule begins.
SEEDS = st.integers(0, 2**16)
WANTED = ("complete", "converged", "killed", "confirmed", "undone", "destroyed")
# A value is given up somewhere within a rule; its end is what is looked at.
SLACK_S = 3600.0
Held = Mapping[str, Collection[Allocation]]
DRIFTS = ("ends", "address", "flush", "table", "rules", "sysctl", "reboot", "clock")


@dataclass(slots=True)
class History:
    """Who had which value last, by an account of its own; what was ever declared may move."""

    owner: dict[tuple[str, str], str] = field(default_factory=dict)
    released: dict[tuple[str, str], float] = field(default_factory=dict)
    declared: set[str] = field(default_factory=set)

    def follow(self, held: Held, now_s: float, documents: str) -> None:
        """What is held now, after one more rule."""
        now: dict[tuple[str, str], str] = {
            (entry.kind, entry.value): entry.owner for owned in held.values() for entry in owned
        }
        self.declared |= {value for _, value in now if f'"{value}"' in documents}
        for key, owner in now.items():
            last = self.owner.get(key, owner)
            if owner != last and key[1] not in self.declared:
                assert key in self.released, f"{key} went from {last} to {owner} at once"
                waited_s = now_s - self.released[key]
                assert waited_s > DEFAULT_QUARANTINE_S - SLACK_S, f"{key} after {waited_s} s"
        for key in self.owner.keys() - now.keys() - self.released.keys():
            self.released[key] = now_s
        for key in now:
            self.released.pop(key, None)
        self.owner |= now


class Fleets(RuleBasedStateMachine):
    """See the module. ``seen`` counts what happened: where nothing does, nothing is proved."""

    seen: ClassVar[Counter[str]] = Counter()

    @initialize(number=SEEDS)
    def begin(self, number: int) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="metald-stateful-", dir=MEMORY))
        make_template(self.folder / "template")
        self.sim = Stepwise(self.folder / "state", self.folder / "template")
        self.sim.specs.rng = random.Random(number)
        self.history = History()

    def teardown(self) -> None:
        if not hasattr(self, "sim"):
            return
        try:
            if self.sim.store.confirmation() is not None:
                self.finish(self.sim.confirming().undo)
            self.sim.converge()
            self.seen["converged"] += 1
            self.seen["killed"] += self.sim.totals.kills
        finally:
            self.sim.close()
            shutil.rmtree(self.folder)

    # -- what an operator and others do -----------------------------------------------------

    @rule(number=SEEDS, edits=st.integers(1, 3))
    def edit(self, number: int, edits: int) -> None:
        self.sim.specs.rng = random.Random(number)
        for _ in range(edits):
            self.sim.specs.edit()

    @rule(number=SEEDS, what=st.sampled_from(DRIFTS))
    def drift(self, number: int, what: str) -> None:
        self.sim.rng = random.Random(number)
        self.sim.happen(what)

    @rule(number=SEEDS)
    def hold_or_unhold(self, number: int) -> None:
        self.sim.rng = random.Random(number)
        self.sim.hold_or_unhold()

    # -- what metald does -------------------------------------------------------------------

    def request(self, **scope: Any) -> Request:
        return Request(self.sim.specs.fleet(), SOURCE, Scope(by_hand=True, **scope))

    @property
    def pending(self) -> bool:
        return self.sim.store.confirmation() is not None

    def finish(self, act: Callable[..., Any]) -> Any:
        """An act of `Confirming`."""
        return self.sim.work(lambda: act(_quiet, asyncio.Event()))

    @precondition(lambda self: not self.pending)
    @rule()
    def apply(self) -> None:
        request = self.request()
        outcome = self.sim.work(lambda: self.sim.engine().apply(request, on_progress=_quiet))
        self.check_complete(request, outcome)

    @precondition(lambda self: not self.pending)
    @rule(writes=st.integers(0, 40))
    def apply_and_die(self, writes: int) -> None:
        request = self.request()
        self.sim.cut.writes_left = writes
        self.sim.work(lambda: self.sim.engine().apply(request, on_progress=_quiet))

    @precondition(lambda self: not self.pending)
    @rule(writes=st.one_of(st.none(), st.integers(0, 40)))
    def apply_until_confirmed(self, writes: int | None) -> None:
        request = self.request(defer_deletes=True)
        self.before = _remembered(self.sim.on_record())
        confirming = self.sim.confirming()
        begin = confirming.prepare(Asked(request.fleet, SOURCE, request.scope), 60.0)
        self.sim.cut.writes_left = writes
        terms = Terms(on_begin=begin)
        engine = confirming.engine
        self.sim.work(lambda: engine.apply(request, on_progress=_quiet, terms=terms))

    @precondition(lambda self: self.pending)
    @rule()
    def confirm(self) -> None:
        done = self.finish(self.sim.confirming().confirm)
        if isinstance(done, tuple):
            outcome, _ = done
            assert not self.pending
            assert isinstance(outcome, Outcome)
            self.seen["confirmed"] += 1

    @precondition(lambda self: self.pending)
    @rule()
    def undo(self) -> None:
        self.undo_and_die(None)

    @precondition(lambda self: self.pending)
    @rule(writes=st.integers(0, 40))
    def undo_and_die(self, writes: int | None) -> None:
        self.sim.cut.writes_left = writes
        outcome = self.finish(self.sim.confirming().undo)
        if not isinstance(outcome, Outcome):
            assert self.pending or outcome is None, outcome
            return
        assert outcome.is_complete == (not self.pending)
        if outcome.is_complete:
            assert _remembered(self.sim.on_record()) == self.before
            self.seen["undone"] += 1
        else:
            refused = self.finish(self.sim.confirming().confirm)
            assert isinstance(refused, MetaldError), "an undo that has begun is not confirmed"

    @precondition(lambda self: not self.pending)
    @rule(writes=st.one_of(st.none(), st.integers(0, 40)), meant=st.integers(0, 4))
    def destroy(self, writes: int | None, meant: int) -> None:
        if meant:  # not too often: whatever comes after it begins with nothing
            return
        request = Request(Fleet.of(()), SOURCE, Scope(destroy=True, by_hand=True))
        self.sim.cut.writes_left = writes
        outcome = self.sim.work(lambda: self.sim.engine().apply(request, on_progress=_quiet))
        if outcome is not None:
            assert isinstance(outcome, Outcome) and outcome.is_complete, outcome
            assert not (self.sim.on_record().managed or self.sim.on_record().held)
            self.seen["destroyed"] += 1

    # -- what must hold ---------------------------------------------------------------------

    def check_complete(self, request: Request, outcome: Any) -> None:
        """Said to be complete: nothing is left, and the ledger says what the host holds."""
        assert not isinstance(outcome, BugError), outcome
        if not isinstance(outcome, Outcome) or not outcome.is_complete:
            self.seen["incomplete"] += 1
            return
        self.seen["complete"] += 1
        plan = self.sim.plan(request)
        assert plan is not None
        if any(recovery.verdict != "start" for recovery in plan.recoveries):
            return
        assert plan.is_empty, plan
        ledger = self.sim.on_record()
        # What is held, frozen by its own specs too, stays as it was found.
        if not (ledger.holds or plan.held or plan.warnings):
            taps = {entry.value for held in ledger.held.values() for entry in held
                    if entry.kind == "tap"}  # fmt: skip
            assert set(self.sim.host.taps) == taps
            assert set(self.sim.host.vms) <= {entry.uid for entry in ledger.managed.values()}

    @invariant()
    def nothing_is_held_twice_and_no_law_is_broken(self) -> None:
        if hasattr(self, "sim"):
            self.sim.host.check()
            held = self.sim.on_record().held.values()
            values = [(entry.kind, entry.value) for owned in held for entry in owned]
            assert len(values) == len(set(values))
            assert self.sim.store.unfinished_runs() == ()

    @invariant()
    def nothing_drawn_is_handed_to_another_within_its_quarantine(self) -> None:
        if hasattr(self, "sim"):
            held = self.sim.on_record().held
            self.history.follow(held, self.sim.now_s(), canonical_json(self.sim.specs.documents))
            self.seen["given up"] += len(self.history.released)

    @invariant()
    def the_plan_is_the_same_whoever_makes_it(self) -> None:
        """From one observation: the same id and the same document, in whatever order files are."""
        if not hasattr(self, "sim"):
            return
        sim, request = self.sim, self.request()
        documents = list(sim.specs.documents)
        sim.rng.shuffle(documents)
        shuffled = Request(fleet_of(documents), SOURCE, request.scope)
        observed = sim.work(lambda: sim.engine().survey.observe(request))
        ledger = sim.on_record()
        made = [_planned(entry, observed, ledger) for entry in (request, request, shuffled)]
        assert made[0] == made[1] == made[2]


def _remembered(ledger: Ledger) -> dict[str, Any]:
    """What is on record, but for what follows from others' documents: who was held while a network
    was renamed, or held to another policy, lags behind it, and follows in time.
    """
    return {entry.address: (entry.uid, _own(entry.spec)) for entry in remember(ledger)}


def _own(spec: Mapping[str, Any]) -> dict[str, Any]:
    derived = {"security", "segment", "dns", "nat64", "mode"}
    own = [{key: value for key, value in entry.items() if key not in derived}
           for entry in spec.get("interfaces", ())]  # fmt: skip
    return {**spec, "interfaces": own}


def _planned(request: Request, observed: Any, ledger: Any) -> str:
    try:
        plan = decide(request, observed, ledger)
    except MetaldError as error:
        return type(error).__name__
    return plan.id + canonical_json(plan_document(plan, SOURCE))


def _quiet(_: object) -> None:
    return


def play(examples: int, steps: int) -> None:
    print(f"METALD_TEST_SEED={SEED}")
    machine = Fleets.TestCase
    machine.settings = settings(
        max_examples=examples, stateful_step_count=steps, deadline=None, database=None,
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    seed(SEED)(machine)
    Fleets.seen.clear()
    machine("runTest").runTest()
    print(dict(Fleets.seen))
    # In few examples chance may leave out a rare rule; in many it may not.
    least = examples / 10 if examples >= 200 else 0
    rare = [what for what in WANTED if Fleets.seen[what] < least]
    assert Fleets.seen["complete"] > examples, "hardly anything happened"
    assert not rare, f"hardly ever happened: {rare} of {dict(Fleets.seen)}"


@pytest.fixture
def one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    """Everybody draws from the same row of numbers, so that what one gave up is the first that the
    next would have.
    """

    def number(_: str, *, purpose: str, attempt: int) -> int:
        # A MAC is made of the upper bits, all else of the lower.
        return attempt << 80 if purpose == "mac" else attempt

    monkeypatch.setattr(identity, "_number", number)


@pytest.mark.timeout(300)
@pytest.mark.usefixtures("one_row")
def test_what_is_given_up_is_the_next_ones_only_after_its_quarantine() -> None:
    play(25, 25)


@pytest.mark.timeout(300)
def test_any_order_of_edits_drift_kills_confirmations_and_holds_converges() -> None:
    play(40, 25)


@pytest.mark.soak
@pytest.mark.timeout(0)
def test_thousands_of_orders() -> None:
    play(3000, 60)
