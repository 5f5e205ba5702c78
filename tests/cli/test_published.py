"""No command prints a document without a published form, and no form is published for nothing."""

from __future__ import annotations

from collections.abc import Iterator

import click

from reconciler.cli.main import COMMANDS, cli
from tests.integration.host import ROOT

FOLDER = ROOT / "specs" / "schema" / "output"
# What carries out a plan prints how it ended; tests/integration/test_output.py and the tests of
# each command hold real output against these.
FORM_OF = {
    "validate": "validation", "plan": "plan", "apply": "apply", "destroy": "apply",
    "reboot": "apply", "restore-network": "apply", "confirm": "apply", "undo": "apply",
    "rollback": "apply", "adopt": "adopt",
    "hold": "hold", "unhold": "hold", "isolate": "isolation", "unisolate": "isolation",
    "status": "status", "get": "list", "drift": "drift",
    "reach": "reach", "verify": "verify", "describe": "description", "events": "event",
    "history": "list", "history show": "run", "why": "why", "image build": "image",
    "image list": "list", "image verify": "image", "doctor": "doctor",
}  # fmt: skip
# Printed by other means: `plan --refresh-only`, and what the daemon sends.
OTHERS = {"refresh", "notification", "drops", "security"}
LOOKS = {
    "status", "get", "drift", "reach", "verify", "describe", "events", "history", "history show",
    "why", "image list", "doctor", "validate",
}  # fmt: skip


def options() -> Iterator[tuple[str, set[str]]]:
    def walk(group: click.Group, names: list[str], above: str) -> Iterator[tuple[str, set[str]]]:
        for name in names:
            command = group.get_command(click.Context(group), name)
            assert command is not None
            words = f"{above} {name}".strip()
            yield words, {word for param in command.params for word in param.opts}
            if isinstance(command, click.Group):
                yield from walk(command, command.list_commands(click.Context(command)), words)

    yield from walk(cli, list(COMMANDS), "")


def test_every_command_that_prints_json_has_a_published_form() -> None:
    assert {words for words, known in options() if "--json" in known} == set(FORM_OF)
    published = {path.stem for path in FOLDER.glob("*.json")}
    assert published == {*FORM_OF.values(), *OTHERS}


def test_every_look_prints_tables_json_and_yaml() -> None:
    assert {words for words, known in options() if "--output" in known} == LOOKS
