"""No model is built before a document asks for it: every command would pay for all kinds."""

from __future__ import annotations

import sys

from reconciler.commands import run

_BUILT = """
from reconciler.model import specs
from reconciler.model.base import SpecModel

def below(model):
    return [model, *(found for sub in model.__subclasses__() for found in below(sub))]

def built():
    return sorted(model.__name__ for model in below(SpecModel) if model.__pydantic_complete__)

print(*built())
head = {"apiVersion": "metald/v1", "kind": "Tenant"}
specs.Tenant.model_validate({**head, "metadata": {"name": "acme"}})
print(*built())
"""


def said_by(script: str) -> list[str]:
    return run([sys.executable, "-c", script]).stdout.splitlines()


def test_importing_the_kinds_builds_none_of_them() -> None:
    before, after = said_by(_BUILT)
    assert before == ""
    assert "Tenant" in after.split()
    assert "Network" not in after.split()


def test_validating_what_is_right_imports_little() -> None:
    script = "import sys, reconciler.source.tree, reconciler.cli.validate; print(*sys.modules)"
    (modules,) = said_by(script)
    assert "reconciler.planning.checks" in modules.split()
    assert not {"reconciler.model.ledger", "reconciler.source.kept", "asyncio", "difflib",
                "tempfile", "jsonschema", "rich"} & {*modules.split()}  # fmt: skip


def test_a_look_imports_nothing_that_changes() -> None:
    script = "import sys, reconciler.daemon.access; print(*sorted(sys.modules))"
    (modules,) = said_by(script)
    assert "reconciler.execution.engine" in modules.split()
    assert not {"reconciler.daemon.operations", "reconciler.daemon.adopting"} & {*modules.split()}
