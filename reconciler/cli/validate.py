"""`metald validate` and `metald schema`: specs without a host. Kept light: they must be fast."""

from __future__ import annotations

import json
from pathlib import Path

import click

from reconciler.cli.output import output_options, print_data
from reconciler.errors import EXIT_FAILED, MetaldError, Problem
from reconciler.model.fleet import Fleet
from reconciler.model.specs import KINDS


@click.command()
@click.argument("paths", nargs=-1, required=True, type=click.Path(path_type=Path, readable=False))
@output_options
def validate(paths: tuple[Path, ...], output: str) -> int:
    """Parse and check specs, offline. Reports every problem of every PATH."""
    from reconciler.source.tree import load  # noqa: PLC0415 - YAML only when needed

    problems: list[Problem] = []
    warnings: list[Problem] = []
    counts: list[str] = []
    for path in paths:
        loaded = load(path)
        problems.extend(loaded.problems)
        warnings.extend(loaded.warnings)
        counts.append(summary(loaded.fleet))
    if not print_data(_document(problems, warnings), output):
        for warning in warnings:
            click.echo(f"warning: {warning}", err=True)
        for problem in problems:
            click.echo(f"error: {problem}", err=True)
        if not problems:
            click.echo(f"OK: {'; '.join(counts)}")
    return EXIT_FAILED if problems else 0


def _document(problems: list[Problem], warnings: list[Problem]) -> dict[str, object]:
    def rows(entries: list[Problem]) -> list[dict[str, object]]:
        return [
            {
                "file": entry.file,
                "line": entry.line,
                "column": entry.column,
                "resource": entry.resource,
                "field": entry.field,
                "message": entry.message,
                "hint": entry.hint,
            }
            for entry in entries
        ]

    return {
        "format": "metald.validation/v1",
        "problems": rows(problems),
        "warnings": rows(warnings),
    }


def summary(fleet: Fleet) -> str:
    """``2 tenants, 3 networks, 4 VMs``."""
    parts = [
        (len(fleet.tenants), "tenant"),
        (len(fleet.networks), "network"),
        (len(fleet.vms), "VM"),
        (len(fleet.images), "image"),
        (len(fleet.hosts), "host"),
        (len(fleet.price_plans), "price plan"),
        (len(fleet.security_profiles), "security profile"),
    ]
    shown = [f"{count} {name}{'' if count == 1 else 's'}" for count, name in parts if count]
    return ", ".join(shown) or "nothing"


@click.command()
@click.argument("kind", required=False)
@click.option(
    "--write",
    type=click.Path(path_type=Path, file_okay=False),
    help="Write all schemas into this folder.",
)
def schema(kind: str | None, write: Path | None) -> None:
    """Print the JSON Schema of KIND, or list or publish all of them."""
    from reconciler.source.schema import all_schemas, kind_schema  # noqa: PLC0415

    if write is not None:
        from reconciler import files  # noqa: PLC0415 - only here

        write.mkdir(parents=True, exist_ok=True)
        for name, document in all_schemas().items():
            files.write_atomic(write / name, json.dumps(document, indent=2) + "\n")
        return
    if kind is None:
        click.echo("\n".join(KINDS))
        return
    if kind not in KINDS:
        raise MetaldError(f"unknown kind {kind!r}", hint=f"one of {', '.join(KINDS)}")
    click.echo(json.dumps(kind_schema(kind), indent=2))
