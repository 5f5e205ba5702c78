"""The house's sizes and habits, measured on the code itself."""

from __future__ import annotations

import ast
import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MODULES = sorted((ROOT / "reconciler").rglob("*.py"))
MAX_FILE, MAX_FUNCTION, USUAL_FUNCTION = 400, 60, 40
MAX_POSITIONAL = 6


def functions(path: Path) -> list[ast.FunctionDef | ast.AsyncFunctionDef]:
    tree = ast.parse(path.read_text())
    return [
        node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]


def length(node: ast.FunctionDef | ast.AsyncFunctionDef) -> int:
    return (node.end_lineno or node.lineno) - node.lineno + 1


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_and_functions_are_small(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MAX_FILE
    long = [(node.name, length(node)) for node in functions(path) if length(node) > MAX_FUNCTION]
    assert not long
    wide = [
        node.name
        for node in functions(path)
        if len(node.args.args) + len(node.args.posonlyargs) > MAX_POSITIONAL + 1
    ]
    assert not [name for name in wide if path.parent.name != "cli"]


def test_nearly_all_functions_fit_a_screen() -> None:
    sizes = [length(node) for path in MODULES for node in functions(path)]
    fitting = sum(1 for size in sizes if size <= USUAL_FUNCTION)
    assert fitting >= 0.95 * len(sizes), f"{fitting} of {len(sizes)}"


@pytest.mark.parametrize(
    ("library", "homes"),
    [
        ("subprocess", {"commands.py"}),
        ("pyroute2", {"network/netlink.py"}),
        ("qemu", {"hypervisors/qemu/monitor.py"}),
        ("h11", {"hypervisors/unixhttp.py"}),
        ("watchfiles", {"source/watching.py"}),
        ("apscheduler", {"daemon/loop.py"}),
    ],
)
def test_each_library_that_touches_the_world_has_one_home(library: str, homes: set[str]) -> None:
    found = set()
    for path in MODULES:
        for node in ast.walk(ast.parse(path.read_text())):
            names = []
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module]
            if any(name.split(".")[0] == library for name in names):
                found.add(str(path.relative_to(ROOT / "reconciler")))
    assert found == homes


def test_no_file_tells_of_a_machine_or_of_unfinished_work() -> None:
    listed = subprocess.run(
        ["git", "ls-files"], cwd=ROOT, text=True, capture_output=True, check=True
    ).stdout.split()
    forbidden = re.compile(r"/wor[k]/|/roo[t]/|\bTO" + r"DO\b|\bFIX" + r"ME\b")
    told = []
    for name in listed:
        path = ROOT / name
        if path.suffix in {".py", ".md", ".toml", ".sh", ".yaml", ".sql", ".nft"}:
            told += [f"{name}: {m[0]}" for m in forbidden.finditer(path.read_text())]
    assert not told
