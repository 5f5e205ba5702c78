"""Golden cases: folders with input.yaml and expected.txt, what `metald validate` says of it.

``METALD_UPDATE_GOLDEN=1`` rewrites expected.txt for a person to review.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import yaml

from reconciler.model.reserved import (
    RESERVED_CONTROLS,
    RESERVED_FIELDS,
    RESERVED_KINDS,
    RESERVED_VALUES,
)
from reconciler.source.tree import load

CASES = Path(__file__).parent / "cases"


def report(folder: Path) -> str:
    """Every problem and warning of a case as people read them, without the machine's path."""
    loaded = load(folder / "input.yaml")
    rows = [
        *(f"error: {problem}" for problem in loaded.problems),
        *(f"warning: {warning}" for warning in loaded.warnings),
    ]
    return "".join(f"{row}\n" for row in rows).replace(f"{folder}/", "") or "OK\n"


@pytest.mark.parametrize("case", sorted(path.name for path in CASES.iterdir()))
def test_case(case: str) -> None:
    folder = CASES / case
    found = report(folder)
    expected = folder / "expected.txt"
    if os.environ.get("METALD_UPDATE_GOLDEN"):
        expected.write_text(found)
    assert found == expected.read_text()


def test_no_reserved_name_is_forgotten() -> None:
    """Each name of model/reserved.py is in a case, so that a new one needs a case too."""
    shown = (CASES / "reserved" / "expected.txt").read_text()
    rows = [row for row in shown.replace("[0]", "").splitlines() if "not implement it" in row]
    for kind in RESERVED_KINDS:
        assert any(f"kind {kind} is part of" in row for row in rows), kind
    for kind, fields in RESERVED_FIELDS.items():
        for field in fields:
            assert any(f" {kind.lower()}/" in row and field in row for row in rows), (kind, field)
    for (kind, field), values in RESERVED_VALUES.items():
        for value in values:
            assert any(
                f" {kind.lower()}/" in row and f"{field}: {value} is part" in row for row in rows
            ), (kind, field, value)
    for path, controls in RESERVED_CONTROLS.items():
        for control in controls:
            text = f".{path}: {str(control).lower()} is part"
            assert any(text in row for row in rows), text


def test_a_hundred_errors_in_a_hundred_documents_are_all_told(tmp_path: Path) -> None:
    documents = [
        {
            "apiVersion": "metald/v1",
            "kind": "Tenant",
            "metadata": {"name": f"t{number}"},
            "spec": {"quotta": {"vms": 1}},
        }
        for number in range(100)
    ]
    file = tmp_path / "many.yaml"
    file.write_text(yaml.safe_dump_all(documents, explicit_start=True, sort_keys=False))
    loaded = load(file)
    assert [problem.resource for problem in loaded.problems] == [
        f"tenant/t{number}" for number in range(100)
    ]
    lines = file.read_text().splitlines()
    for problem in loaded.problems:
        assert lines[problem.line - 1][problem.column - 1 :].startswith("quotta:")
        assert problem.field == "spec.quotta" and problem.hint == "did you mean quota?"
