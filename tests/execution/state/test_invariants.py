"""Whatever sequence of plans is recorded: one owner per value, no incarnation twice, and the
quarantine is waited out.

The machine keeps its own small account of what must hold and compares after every step.
"""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from reconciler.errors import BugError
from reconciler.execution.state.sqlite import SqliteStore, open_store
from reconciler.model.addresses import ResourceAddress
from reconciler.model.ledger import Allocation, AllocationKind
from reconciler.model.plan import Registration
from reconciler.paths import StatePaths
from tests.execution.state.plans import begin, plan_of

QUARANTINE_S = 10.0
addresses = st.sampled_from([ResourceAddress(f"vm/acme/{name}") for name in "abc"])
kinds: st.SearchStrategy[AllocationKind] = st.sampled_from(["tap", "address"])
values = st.sampled_from(["1", "2", "3"])


class LedgerMachine(RuleBasedStateMachine):
    """Random plans, right and wrong ones, releases, retirements, restarts, passing time."""

    @initialize()
    def open_store(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="metald-ledger-"))
        self.now_s = 0.0
        self.used: dict[ResourceAddress, set[int]] = {}
        self.alive: dict[ResourceAddress, str] = {}
        self.live: dict[tuple[str, str], Allocation] = {}
        self.released: dict[tuple[str, str], tuple[str, float]] = {}
        self.store = self.opened()
        self.secret = self.store.ledger(0.0).secret

    def opened(self) -> SqliteStore:
        return open_store(
            StatePaths(self.folder / "state"), quarantine_s=QUARANTINE_S, clock=lambda: self.now_s
        )

    def teardown(self) -> None:
        if hasattr(self, "store"):
            self.store.close()
            shutil.rmtree(self.folder)

    @rule(seconds=st.sampled_from([0.5, 4.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.now_s += seconds
        for key, (_, at_s) in list(self.released.items()):
            if at_s + QUARANTINE_S <= self.now_s:
                del self.released[key]

    @rule()
    def process_restarts(self) -> None:
        self.store.close()
        self.store = self.opened()

    @rule(address=addresses, incarnation=st.integers(1, 5))
    def register(self, address: ResourceAddress, incarnation: int) -> None:
        uid = f"{address}@{incarnation}"
        right = self.alive.get(address) == uid or (
            address not in self.alive and incarnation > max(self.used.get(address, {0}))
        )
        registration = Registration(address, uid, incarnation, {"n": self.now_s}, str(self.now_s))
        try:
            begin(self.store, plan_of(registration), now_s=self.now_s)
        except BugError:
            assert not right
        else:
            assert right, "an incarnation was used again, or beside a living one"
            self.alive[address] = uid
            self.used.setdefault(address, set()).add(incarnation)

    @precondition(lambda self: self.alive)
    @rule(data=st.data(), kind=kinds, value=values)
    def allocate(self, data: st.DataObject, kind: AllocationKind, value: str) -> None:
        address = data.draw(st.sampled_from(sorted(self.alive)))
        wanted = Allocation(kind, value, f"if-{self.alive[address]}", address)
        live = self.live.get((kind, value))
        resting = self.released.get((kind, value))
        right = (live is None or live.owner == wanted.owner) and (
            resting is None or resting[0] == wanted.owner or kind == "address"
        )
        try:
            begin(self.store, plan_of(allocations=(wanted,)), now_s=self.now_s)
        except BugError:
            assert not right
        else:
            assert right, "a value changed hands while it was held or in quarantine"
            self.live[kind, value] = wanted
            self.released.pop((kind, value), None)

    @precondition(lambda self: self.live)
    @rule(data=st.data(), rightly=st.booleans())
    def release(self, data: st.DataObject, *, rightly: bool) -> None:
        key = data.draw(st.sampled_from(sorted(self.live)))
        entry = self.live[key]
        named = entry if rightly else entry._replace(owner="somebody else")
        self.store.release((named,), now_s=self.now_s)
        if rightly:
            self._rest(key)

    @precondition(lambda self: self.alive)
    @rule(data=st.data())
    def retire(self, data: st.DataObject) -> None:
        address = data.draw(st.sampled_from(sorted(self.alive)))
        uid = self.alive.pop(address)
        self.store.retire(uid, now_s=self.now_s)
        for key in [key for key, entry in self.live.items() if entry.owner == f"if-{uid}"]:
            self._rest(key)

    def _rest(self, key: tuple[str, str]) -> None:
        self.released[key] = (self.live.pop(key).owner, self.now_s)

    @invariant()
    def the_ledger_agrees(self) -> None:
        if not hasattr(self, "store"):
            return
        ledger = self.store.ledger(self.now_s)
        assert ledger.secret == self.secret
        assert {a: entry.uid for a, entry in ledger.managed.items()} == self.alive
        assert ledger.incarnations == {a: max(numbers) for a, numbers in self.used.items()}
        held = [entry for entries in ledger.held.values() for entry in entries]
        assert sorted(held) == sorted(self.live.values())
        resting = {key: owner for key, (owner, _) in self.released.items()}
        assert ledger.taken == resting | {key: e.owner for key, e in self.live.items()}


TestLedgerMachine = LedgerMachine.TestCase
TestLedgerMachine.settings = settings(
    max_examples=60, stateful_step_count=40, deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)  # fmt: skip
