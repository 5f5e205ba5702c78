"""Figures of planning and of the light commands, beside their floors. `make bench` runs this."""

from __future__ import annotations

import shutil
import statistics
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from reconciler.planning.documents.render import plan_document
from reconciler.planning.memo import Memo
from reconciler.source.kept import KeptDocuments
from reconciler.source.tree import Cache, load
from tests.benchmarks.figures import ROUNDS, busy, command, paired, report
from tests.benchmarks.standing import (
    SOURCE,
    Host,
    bare_host,
    edit_one_file,
    standing_host,
    write_tree,
)

pytestmark = [pytest.mark.bench, pytest.mark.timeout(1800)]
COUNTS = (10, 100, 1_000, 10_000)
METALD = str(Path(sys.executable).with_name("metald"))
IMPORTS = (sys.executable, "-c", "import click, pydantic")


@pytest.mark.parametrize(
    "words", [("--help",), ("validate", "examples/quickstart/acme.yaml")], ids=["help", "validate"]
)
def test_light_commands(words: tuple[str, ...]) -> None:
    figure_s, floor_s = paired(command(METALD, *words), command(*IMPORTS), measure=busy)
    report(f"metald {words[0]}", figure_s, "import click, pydantic", floor_s, "<= 1.5")


@pytest.fixture(params=COUNTS)
def count(request: pytest.FixtureRequest) -> int:
    number: int = request.param
    return number


@pytest.fixture
def tree(tmp_path: Path, count: int) -> Path:
    folder = tmp_path / "tree"
    write_tree(folder, count)
    return folder


@pytest.fixture
def standing(tmp_path: Path, tree: Path) -> Iterator[Host]:
    host = standing_host(tmp_path / "state", tree)
    with closing(host.store):
        yield host


def rounds(count: int) -> int:
    return 3 if count >= COUNTS[-1] else ROUNDS


def at_full_size(goal: str, count: int) -> str:
    """The goals are for 10,000 VMs; a smaller fleet is one file, or a process that starts."""
    return goal if count == COUNTS[-1] else f"goal at {COUNTS[-1]} VMs {goal}"


def beside_parsing(figure: Callable[[], object], tree: Path, count: int) -> tuple[float, float]:
    return paired(figure, lambda: load(tree), rounds(count), measure=busy)


def test_cold_plan_from_nothing(tmp_path: Path, tree: Path, count: int) -> None:
    host = bare_host(tmp_path / "state", tree)
    with closing(host.store):
        figure_s, floor_s = beside_parsing(lambda: host.cold_plan(tree), tree, count)
    report(f"plan of {count} VMs from nothing", figure_s, "parsing and validating",
           floor_s, at_full_size("<= 2", count))  # fmt: skip


def test_cold_plan_of_what_stands(tree: Path, standing: Host, count: int) -> None:
    assert standing.cold_plan(tree).is_empty
    figure_s, floor_s = beside_parsing(lambda: standing.cold_plan(tree), tree, count)
    report(f"plan of {count} VMs that stand", figure_s, "parsing and validating", floor_s,
           at_full_size("<= 2", count))  # fmt: skip


def test_plan_in_the_daemon(tree: Path, standing: Host, count: int) -> None:
    cache, memo = Cache(), Memo()

    def again() -> object:
        return standing.plan(load(tree, cache).require(), memo)

    again()
    figures, steady, floors = [], [], []
    for _ in range(rounds(count)):
        floors.append(busy(lambda: standing.cold_plan(tree)))
        again()
        edit_one_file(tree)
        figures.append(busy(again))
        steady.append(busy(again))
    cold_s = statistics.median(floors)
    report(f"plan of {count} VMs in the daemon, one file changed", statistics.median(figures),
           "cold plan", cold_s, at_full_size("<= 0.1", count))  # fmt: skip
    report(f"plan of {count} VMs in the daemon, nothing changed", statistics.median(steady),
           "cold plan", cold_s, at_full_size("<= 0.1", count))  # fmt: skip


def test_showing_a_plan(tree: Path, standing: Host, count: int) -> None:
    plan = standing.cold_plan(tree)
    figure_s, floor_s = beside_parsing(lambda: plan_document(plan, SOURCE), tree, count)
    report(f"document of a plan of {count} VMs that stand", figure_s, "parsing and validating",
           floor_s, "no goal")  # fmt: skip


def test_parsed_files_on_disk(tmp_path: Path, tree: Path, count: int) -> None:
    def kept() -> object:
        return load(tree, Cache(KeptDocuments(tmp_path / "parsed", within=tmp_path)))

    kept()
    figure_s, floor_s = beside_parsing(kept, tree, count)
    report(f"loading {count} VMs that another process has parsed", figure_s,
           "parsing and validating", floor_s, "no goal")  # fmt: skip


@pytest.mark.netns
def test_plan_in_a_new_process(tmp_path: Path, tree: Path, netns: str, count: int) -> None:
    """As an operator meets it: start of the process, observation and text included."""
    state, run = tmp_path / "state", tmp_path / "run"
    options = ("--state-dir", str(state), "--run-dir", str(run), "--netns", netns)
    plan = command(METALD, *options, "plan", str(tree))
    validate = command(METALD, "validate", str(tree))
    plan()  # makes the state folder

    def cold() -> object:
        shutil.rmtree(state / "sources", ignore_errors=True)
        return plan()

    cold_s, floor_s = paired(cold, validate, 3, measure=busy)
    report(f"metald plan of {count} VMs from nothing", cold_s, "metald validate", floor_s,
           at_full_size("<= 2", count))  # fmt: skip
    figures, floors = [], []
    for _ in range(3):
        floors.append(busy(cold))
        edit_one_file(tree)
        figures.append(busy(plan))
    changed_s = statistics.median(figures)
    report(f"metald plan of {count} VMs, one file changed since the last", changed_s,
           "metald plan, cold", statistics.median(floors),
           at_full_size("<= 0.5", count))  # fmt: skip
