"""What a hypervisor cannot do, or is not here to do, is refused when it is planned."""

from __future__ import annotations

from dataclasses import replace

import pytest

from reconciler.model.fleet import Fleet
from reconciler.model.hypervisors import HYPERVISORS, Capability
from reconciler.model.observed import Observed
from reconciler.model.specs import VmSpec
from reconciler.planning import hypervisor_checks
from reconciler.planning.comparison.reasons import NOT_HERE
from reconciler.planning.findings import Finding
from reconciler.planning.hypervisor_checks import check_hypervisor
from reconciler.planning.planner import plan, plan_reboot
from reconciler.planning.resolution.resolve import resolve
from tests.planning.test_checks import tenant, vm
from tests.planning.world import World

ADDRESS = vm("b", "a").address


def found(**fields: object) -> list[Finding]:
    spec = {"boot": {"image": "minimal"}, **fields}
    return list(check_hypervisor(ADDRESS, VmSpec.model_validate(spec)))


def without(monkeypatch: pytest.MonkeyPatch, name: str, **changes: object) -> None:
    """Pretend that a hypervisor can less."""
    lesser = {**HYPERVISORS, name: replace(HYPERVISORS[name], **changes)}  # type: ignore[arg-type]
    monkeypatch.setattr(hypervisor_checks, "HYPERVISORS", lesser)


@pytest.mark.parametrize("name", ["qemu", "simulated"])
def test_what_each_can_do_is_not_refused(name: str) -> None:
    assert found(hypervisor=name, power="paused", restart="on-failure", machine="q35") == []


@pytest.mark.parametrize(
    ("changes", "asked", "path", "words"),
    [
        ({"machines": ("auto",)}, {"machine": "q35"}, "machine", "no machine types"),
        ({"max_vcpus": 32}, {"vcpus": 33}, "vcpus", "33 vCPUs are more than the 32"),
        ({"capabilities": frozenset()}, {"power": "paused"}, "power", "does not have: pause"),
        (
            {"capabilities": frozenset({Capability.PAUSE})}, {"restart": "on-failure"}, "restart",
            "does not have: reason of an end",
        ),
    ],
)  # fmt: skip
def test_what_it_cannot_is_named(
    changes: dict[str, object], asked: dict[str, object], path: str, words: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    without(monkeypatch, "qemu", **changes)
    (finding,) = found(**asked)
    assert finding.path == ("spec", path)
    assert words in finding.message and "qemu" in finding.message
    assert finding.severity == "error" and finding.hint
    assert found() == []


def hidden(world: World) -> Observed:
    return replace(world.observed(), missing={"simulated": "x is not installed here"})


def test_a_vm_whose_hypervisor_is_not_here_is_refused_before_anything_is_done() -> None:
    world = World()
    fleet = Fleet.of([tenant("a"), vm("b", "a")])
    made = plan(resolve(fleet, world.ledger(), {}), hidden(world), world.ledger())
    assert made.refused == ((ADDRESS, f"{NOT_HERE}: x is not installed here"),)
    assert not [s for s in made.steps if s.resource == ADDRESS]
    assert not [r for r in made.registrations if r.address == ADDRESS]


def test_one_that_runs_is_left_alone_and_not_stopped_for_a_restart_that_cannot_be() -> None:
    world = World()
    fleet = Fleet.of([tenant("a"), vm("b", "a")])
    world.apply(fleet)
    made = plan(resolve(fleet, world.ledger(), {}), hidden(world), world.ledger())
    assert made.refused == () and made.steps == ()
    larger = Fleet.of([tenant("a"), vm("b", "a", vcpus=2)])
    made = plan(resolve(larger, world.ledger(), {}), hidden(world), world.ledger())
    assert [address for address, _ in made.refused] == [ADDRESS] and made.steps == ()
    again = plan_reboot(hidden(world), world.ledger(), ADDRESS)
    assert [address for address, _ in again.refused] == [ADDRESS] and again.steps == ()
    stopped = Fleet.of([tenant("a"), vm("b", "a", power="stopped")])
    made = plan(resolve(stopped, world.ledger(), {}), hidden(world), world.ledger())
    assert made.refused == () and made.steps
