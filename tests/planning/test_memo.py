"""A memo makes planning faster and never different: after any history, both plans are equal."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, note
from hypothesis import strategies as st

from reconciler.errors import RefusedError
from reconciler.model.fleet import Fleet
from reconciler.model.ledger import Hold
from reconciler.model.observed import ImageFacts
from reconciler.model.plan import Plan
from reconciler.model.specs import KINDS, AnyDocument
from reconciler.planning import planner
from reconciler.planning.comparison import vms as compare_vms
from reconciler.planning.memo import Memo
from reconciler.planning.planner import Scope, plan
from reconciler.planning.resolution import vms as resolve_vms
from reconciler.planning.resolution.resolve import Resolution, resolve
from tests.planning.test_properties import apply_drift, documents
from tests.planning.world import World

NAMES = ("a", "b", "c", "d")
DRIFTS = ("tap-gone", "routes-gone", "detached", "vmm-dead", "guest-off", "panicked", "rules",
          "elements", "reboot", "vm-absent", "held")  # fmt: skip

interfaces = st.lists(st.sampled_from(["front", "back"]), unique=True, max_size=2)
vms = st.fixed_dictionaries(
    {
        "boot": st.just({"image": "minimal"}),
        "vcpus": st.integers(1, 2),
        "power": st.sampled_from(["running", "paused", "stopped"]),
        "protect": st.booleans(),
        "interfaces": interfaces.map(lambda names: [{"network": name} for name in names]),
    }
)
limits = st.sampled_from(["none", "1Gbit"]).map(lambda bits: {"rateLimits": {"bandwidth": bits}})
# Most steps look again at what is there; that is what a memo is for.
steps = st.lists(
    st.one_of(
        st.tuples(st.just("edit"), st.sampled_from(NAMES), vms),
        st.tuples(st.just("remove"), st.sampled_from(NAMES), st.none()),
        st.tuples(st.just("rename"), st.sampled_from(NAMES), st.sampled_from(NAMES)),
        st.tuples(st.just("declare-address"), st.sampled_from(NAMES), st.integers(0, 3)),
        st.tuples(st.just("move-network"), st.sampled_from([1, 2]), st.none()),
        st.tuples(st.just("security"), st.sampled_from(["high", "low", "own"]), limits),
        st.tuples(st.just("drift"), st.sampled_from(DRIFTS), st.integers(0, 5)),
        st.tuples(st.just("image"), st.sampled_from(["1", "3"]), st.none()),
        st.tuples(st.just("mode"), st.sampled_from(NAMES), st.sampled_from(["report", "correct"])),
        st.tuples(st.just("hold"), st.sampled_from(NAMES), st.booleans()),
        st.tuples(st.just("apply"), st.just(""), st.none()),
        st.tuples(st.just("half-applied"), st.just(""), st.integers(0, 9)),
        st.tuples(st.just("later"), st.just(""), st.none()),
    ),
    max_size=12,
)  # fmt: skip


# What was resolved, and the plan or why there is none.
Made = tuple[Resolution, Plan | str]


class Story:
    """A host, what is declared for it, and documents that stay the same objects."""

    def __init__(self) -> None:
        self.world, self.memo = World(), Memo()
        self.vms: dict[str, dict[str, Any]] = {"a": {}, "b": {}}
        self.metadata: dict[str, dict[str, Any]] = {}
        self.subnet = 1
        self.security, self.profile = "high", {"base": "medium"}
        self._documents: dict[str, AnyDocument] = {}

    def fleet(self) -> Fleet:
        rows = documents({name: self._spec(name) for name in self.vms})
        rows[0]["spec"] = {"prefix": "fd20:acde::/48"}
        prefix = f"fd20:acde:0:{self.subnet}::/64"
        rows[1]["spec"] = {"prefix": prefix, "security": self.security}
        head = {"apiVersion": "metald/v1", "kind": "SecurityProfile", "metadata": {"name": "own"}}
        rows.append({**head, "spec": self.profile})
        for row in rows:
            if row["kind"] == "VM":
                row["metadata"] |= self.metadata.get(row["metadata"]["name"], {})
        return Fleet.of(self._document(row) for row in rows)

    def _spec(self, name: str) -> dict[str, Any]:
        plain = {"boot": {"image": "minimal"}, "interfaces": [{"network": "front"}]}
        return {**plain, **self.vms[name]}

    def _document(self, row: dict[str, Any]) -> AnyDocument:
        key = json.dumps(row, sort_keys=True)
        if key not in self._documents:
            self._documents[key] = KINDS[row["kind"]].model_validate(row)
        return self._documents[key]

    def step(self, what: str, subject: Any, detail: Any) -> None:
        if what == "edit":
            self.vms[subject] = detail
        elif what == "remove":
            self.vms.pop(subject, None)
        elif what == "rename" and subject in self.vms and detail not in self.vms:
            self.vms[detail] = self.vms.pop(subject)
            self.metadata[detail] = {"renamedFrom": subject}
        elif what == "declare-address" and self.subnet == 1:
            # Also one that another VM was given: it moves out of the way.
            held = sorted(e.value for e in self.world.allocations.values() if e.kind == "address")
            inside = [text for text in held if text.startswith("fd20:acde:0:1:")]
            address = (*inside, "fd20:acde:0:1::100")[detail % (len(inside) + 1)]
            self._let_go()
            interface = {"network": "front", "address": address}
            self.vms[subject] = {**self.vms.get(subject, {}), "interfaces": [interface]}
        elif what == "move-network":
            self.subnet = subject
            self._let_go()
        elif what == "security":
            self.security, self.profile = subject, {"base": "medium", **detail}
        elif what == "mode":
            self.metadata[subject] = {"reconcile": detail}
        else:
            self._happen(what, subject, detail)

    def _let_go(self) -> None:
        """No VM declares an address."""
        for name, vm in self.vms.items():
            if any("address" in entry for entry in vm.get("interfaces", ())):
                self.vms[name] = {key: vm[key] for key in vm if key != "interfaces"}

    def _happen(self, what: str, subject: Any, detail: Any) -> None:
        world = self.world
        if what == "drift":
            apply_drift(world, subject, detail)
        elif what == "image":
            facts = world.images["minimal"]
            world.images = {"minimal": replace(facts, kernel_sha256=subject * 64)}
        elif what == "hold":
            address = next((a for a in world.managed if a.endswith(f"/{subject}")), None)
            world.holds.clear()
            if address and detail:
                world.holds[address] = Hold(address, "ops", "why", world.now_s, "")
        elif what in {"apply", "half-applied"}:
            _, made = self._plan(Scope(by_hand=what == "apply"), None)
            if isinstance(made, Plan):
                world.carry_out(made, steps=detail)
        elif what == "later":
            world.now_s += 1000

    def plans(self, scope: Scope) -> tuple[Made, Made]:
        """(with the memo, without one)."""
        return self._plan(scope, self.memo), self._plan(scope, None)

    def _plan(self, scope: Scope, memo: Memo | None) -> Made:
        world, ledger = self.world, self.world.ledger()
        resolution = resolve(self.fleet(), ledger, world.images, memo)
        try:
            return resolution, plan(resolution, world.observed(), ledger, scope, memo)
        except RefusedError as error:
            return resolution, str(error)


@given(history=steps, partial=st.booleans())
def test_with_a_memo_every_plan_is_what_it_is_without(
    history: list[tuple[str, Any, Any]], partial: bool
) -> None:
    story = Story()
    story.world.apply(story.fleet())
    for step in (("later", "", None), *history):
        note(f"{step}")
        story.step(*step)
        remembered, afresh = story.plans(Scope())
        assert remembered == afresh
    if partial:
        target = next(iter(story.fleet().tenants))
        remembered, afresh = story.plans(Scope(targets=frozenset({target}), by_hand=True))
        assert remembered == afresh


def settled() -> Story:
    story = Story()
    story.world.apply(story.fleet())
    story.plans(Scope())
    return story


@pytest.fixture
def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """VMs that were resolved or compared, not remembered."""
    found: list[str] = []
    resolving, comparing = resolve_vms._vm, compare_vms.compare_vm

    def resolve_one(work: Any, address: Any, vm: Any) -> Any:
        found.append(f"resolved {address}")
        return resolving(work, address, vm)

    def compare_one(draft: Any, inputs: Any, network: Any, vm: Any) -> None:
        found.append(f"compared {vm.address}")
        comparing(draft, inputs, network, vm)

    monkeypatch.setattr(resolve_vms, "_vm", resolve_one)
    monkeypatch.setattr(planner, "compare_vm", compare_one)
    return found


def again(story: Story) -> Plan:
    ledger = story.world.ledger()
    resolution = resolve(story.fleet(), ledger, story.world.images, story.memo)
    return plan(resolution, story.world.observed(), ledger, memo=story.memo)


def test_what_did_not_change_is_not_looked_into_again(looked_at: list[str]) -> None:
    story = settled()
    looked_at.clear()
    assert again(story).is_empty
    assert looked_at == []


def test_one_edit_costs_one_vm(looked_at: list[str]) -> None:
    story = settled()
    story.vms["a"] = {"vcpus": 2}
    looked_at.clear()
    assert [change.resource for change in again(story).changes] == ["vm/acme/a"]
    assert looked_at == ["resolved vm/acme/a", "compared vm/acme/a"]


def test_one_drift_costs_one_vm(looked_at: list[str]) -> None:
    story = settled()
    del story.world.taps[story.world.tap_of("vm/acme/b")]
    looked_at.clear()
    assert [change.resource for change in again(story).changes] == ["vm/acme/b"]
    assert looked_at == ["compared vm/acme/b"]


def test_what_others_took_meanwhile_is_seen(looked_at: list[str]) -> None:
    story = settled()
    story.world.quarantine["address", "fd20::1"] = "somebody"
    looked_at.clear()
    again(story)
    assert "resolved vm/acme/a" in looked_at
    looked_at.clear()
    story.world.images = {"minimal": ImageFacts(problem="it is gone")}
    assert resolve(story.fleet(), story.world.ledger(), story.world.images, story.memo).findings
