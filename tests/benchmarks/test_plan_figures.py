"""Figures of planning and of the light commands, beside their floors. `make bench` runs this."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from reconciler.model.fleet import Fleet
from reconciler.planning.planner import plan
from reconciler.planning.resolve import resolve
from reconciler.source.tree import load
from tests.benchmarks.figures import command, paired, report, timed
from tests.planning.world import World

pytestmark = [pytest.mark.bench, pytest.mark.timeout(900)]


@pytest.mark.parametrize(
    "words", [("--help",), ("validate", "examples/quickstart/acme.yaml")], ids=["help", "validate"]
)
def test_light_commands(words: tuple[str, ...]) -> None:
    metald = command(str(Path(sys.executable).with_name("metald")), *words)
    floor = command(sys.executable, "-c", "import click, pydantic")
    figure_s, floor_s = paired(metald, floor)
    report(f"metald {words[0]}", figure_s, "import click, pydantic", floor_s, "<= 1.5")


def fleet_text(count: int) -> str:
    head = (
        "apiVersion: metald/v1\nkind: Tenant\nmetadata: {name: acme}\n---\n"
        "apiVersion: metald/v1\nkind: Network\nmetadata: {name: lan, tenant: acme}\n"
    )
    return head + "".join(
        f"---\napiVersion: metald/v1\nkind: VM\nmetadata: {{name: v{index}, tenant: acme}}\n"
        "spec:\n  vcpus: 2\n  memory: 128Mi\n  boot: {image: minimal}\n"
        "  interfaces: [{network: lan, address: auto}]\n"
        for index in range(count)
    )


@pytest.mark.parametrize("count", [100, 1_000, 10_000])
def test_cold_plan(tmp_path: Path, count: int) -> None:
    (tmp_path / "fleet.yaml").write_text(fleet_text(count))
    world = World()
    fleets: list[Fleet] = []
    parsing = timed(lambda: fleets.append(load(tmp_path).require()))

    def decide() -> None:
        ledger = world.ledger()
        plan(resolve(fleets[0], ledger, world.images), world.observed(), ledger)

    deciding = timed(decide)
    report(f"plan of {count} VMs from nothing, parsing included", parsing + deciding,
           "parsing and validating", parsing, "<= 2")  # fmt: skip
    if count > 1_000:
        return  # the imaginary host itself would take minutes to build
    world.apply(fleets[0])
    unchanged = timed(decide)
    report(f"plan of {count} VMs, nothing to do", parsing + unchanged, "parsing and validating",
           parsing, "<= 2")  # fmt: skip
