"""Golden cases: folders with desired.yaml, observed.yaml and plan.yaml.

``observed.yaml`` says how the host came to be (``before``: documents applied earlier, or
``same``) and what happened to it since (``drift``). ``METALD_UPDATE_GOLDEN=1`` rewrites
plan.yaml for a person to review.
"""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from reconciler.model.fleet import Fleet
from reconciler.model.identity import bridge_of
from reconciler.model.ledger import Hold, Retry
from reconciler.model.plan import Plan
from reconciler.model.specs import KINDS
from reconciler.planning.bounds.holds import declared_digest
from reconciler.planning.canonical import to_plain
from reconciler.planning.documents.render import SourceInfo, plan_document
from reconciler.planning.documents.undo import fleet_of as fleet_from_record
from reconciler.planning.documents.undo import remember
from reconciler.planning.planner import Scope
from tests.planning.world import World

CASES = Path(__file__).parent / "cases"


def fleet_of(documents: list[dict[str, Any]], *, frozen: list[str] | None = None) -> Fleet:
    parsed = [KINDS[entry["kind"]].model_validate(entry) for entry in documents]
    return Fleet.of(parsed, frozen_tenants=frozenset(frozen or ()))


def load(path: Path) -> list[dict[str, Any]]:
    return [entry for entry in yaml.safe_load_all(path.read_text()) if entry]


def drift_tap(world: World, tap: str, what: str) -> None:
    found = world.taps[tap]
    match what:
        case "link-deleted":
            del world.taps[tap]
        case "route-deleted":
            world.taps[tap] = replace(found, routes=frozenset())
        case "detached":
            world.taps[tap] = replace(found, attached=False)
        case "neighbours-changed":
            sysctls = {**found.sysctls, "accept_ra": 2}
            world.taps[tap] = replace(found, neighbours=frozenset(), sysctls=sysctls)
        case _:
            world.elements = {e for e in world.elements if tap not in e.key}


def drift(world: World, entry: dict[str, Any]) -> None:
    match entry["what"]:
        case "phase":
            world.set_phase(entry["vm"], entry["phase"])
        case "rule-deleted":
            world.listing = "someone changed the rules"
        case ("link-deleted" | "route-deleted" | "detached" | "neighbours-changed"
              | "elements-deleted"):  # fmt: skip
            drift_tap(world, world.tap_of(entry["vm"]), entry["what"])
        case "bridge-deleted":
            world.bridges.clear()
            world.taps = {name: replace(state, seat=None) for name, state in world.taps.items()}
        case "bridge-left-over":
            zone = world.managed[entry["network"]].spec["zone"]
            world.foreign.add(bridge_of(zone))
        case "allow-deleted":
            world.elements = {e for e in world.elements if e.container != "allow"}
        case "network-unknown":
            world.network_problem = entry["why"]
        case "forwarding-off":
            world.sysctls["net.ipv6.conf.all.forwarding"] = "0"
        case "host-rebooted":
            world.reboot_host()
        case "later":
            world.now_s += entry["seconds"]
        case "restarted":
            uid = world.uid_of(entry["vm"])
            world.records[uid] = replace(world.records[uid], restarts=entry["times"])
        case "verdict":
            world._verdict(world.uid_of(entry["vm"]), entry["verdict"], entry["reason"])
        case "measured":
            world.durations = {("StopVm", "qemu"): 2.0, ("StartVm", "qemu"): 3.5}
        case "failed":
            managed = world.managed[entry["vm"]]
            due_s = world.now_s + entry["dueIn"]
            world.retries[managed.address] = Retry(
                managed.address, 2, due_s, entry["error"], managed.spec_hash
            )
        case "held-by-hand":
            until_s = world.now_s + entry["for"] if "for" in entry else None
            world.holds[entry["what-is-held"]] = Hold(
                entry["what-is-held"], "ops", "maintenance", world.now_s, "", until_s
            )
        case "held":
            managed = world.managed[entry["vm"]]
            world.holds[managed.address] = Hold(
                managed.address,
                "root",
                entry["reason"],
                world.now_s,
                declared_digest(managed.spec),
            )
        case "ledger-lost-vm":
            managed = world.managed.pop(entry["vm"])
            assert managed.incarnation
        case other:
            raise AssertionError(f"unknown drift {other}")


def simplified(plan: Plan) -> dict[str, Any]:
    """The document without digests that would make every golden file change at once."""
    document = plan_document(plan, SourceInfo("specs"))
    for key in ("format", "id", "fingerprint", "source", "security"):
        del document[key]
    for change in document["changes"]:
        change["fields"] = [
            f"{field['path']}: {field['before']!r} -> {field['after']!r}"
            for field in change["fields"]
        ]
    document["steps"] = [
        f"{type(step.operation).__name__} {step.key}"
        + (f" after {', '.join(step.after)}" if step.after else "")
        for step in plan.steps
    ]
    return {key: value for key, value in document.items() if value}


def build(case: Path) -> tuple[World, Fleet, Scope]:
    situation = yaml.safe_load((case / "observed.yaml").read_text()) or {}
    desired = load(case / "desired.yaml")
    world = World()
    before = situation.get("before")
    if before:
        world.apply(fleet_of(desired if before == "same" else before), Scope(by_hand=True))
    for entry in situation.get("drift", ()):
        drift(world, entry)
    scope = Scope(
        targets=frozenset(situation.get("targets", ())),
        destroy=situation.get("destroy", False),
        exclude=frozenset(situation.get("exclude", ())),
        by_hand=situation.get("byHand", False),
        defer_deletes=situation.get("deferDeletes", False),
    )
    return world, fleet_of(desired, frozen=situation.get("frozenTenants")), scope


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_golden_case(name: str) -> None:
    case = CASES / name
    world, fleet, scope = build(case)
    plan = world.plan(fleet, scope)
    actual = to_plain(simplified(plan))
    expected_file = case / "plan.yaml"
    if os.environ.get("METALD_UPDATE_GOLDEN"):
        text = yaml.safe_dump(actual, sort_keys=False, width=110, allow_unicode=True)
        expected_file.write_text(text)
    assert actual == yaml.safe_load(expected_file.read_text())
    assert world.plan(fleet, scope) == plan, "planning must be deterministic"


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_carrying_out_a_golden_plan_leaves_nothing_to_do(name: str) -> None:
    world, fleet, scope = build(CASES / name)
    plan = world.plan(fleet, scope)
    world.carry_out(plan)
    again = world.plan(fleet, scope)
    waiting = {retry.resource for retry in again.waiting}
    assert not [change for change in again.changes if change.resource not in waiting]
    assert not again.steps, simplified(again)
    # What could not be seen, what a guard keeps and what back-off delays is still there.
    assert again.blocked == plan.blocked
    assert again.refused == plan.refused
    assert all(recovery.not_before_s > world.now_s for recovery in again.recoveries)


@pytest.mark.parametrize("name", sorted(path.name for path in CASES.iterdir()))
def test_what_is_on_record_reads_back_as_a_fleet_that_changes_nothing(name: str) -> None:
    world, fleet, _ = build(CASES / name)
    world.carry_out(world.plan(fleet, Scope(by_hand=True)))
    ledger = world.ledger()
    again = world.plan(fleet_from_record(remember(ledger), ledger), Scope(by_hand=True))
    differing = [c for c in again.changes if any(f.path.startswith("spec") for f in c.fields)]
    assert not differing
    assert not again.registrations
