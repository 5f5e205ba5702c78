"""`drift`: what differs between what is on record and what is there, without any specs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import click

from reconciler.cli.common import enter_host, run
from reconciler.cli.output import output_options, print_data
from reconciler.cli.text import safe, shown
from reconciler.errors import EXIT_CHANGES

_FIELDS_SHOWN = 6


@click.command()
@output_options
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when something differs.")
@click.option("-v", "--verbose", is_flag=True, help="Show every field.")
@click.pass_context
def drift(ctx: click.Context, output: str, detailed_exitcode: bool, verbose: bool) -> int:
    """Show what differs from what was last applied, as it is on record."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import look  # noqa: PLC0415 - netlink only when needed
    from reconciler.planning.drift import drift_document  # noqa: PLC0415

    looking = run(look(settings))
    document = drift_document(looking.observed, looking.ledger)
    if not print_data(document, output):
        for line in drift_lines(document, verbose=verbose):
            click.echo(line)
    return EXIT_CHANGES if detailed_exitcode and document["drifted"] else 0


def drift_lines(document: Mapping[str, Any], *, verbose: bool) -> Iterator[str]:
    """The document for people."""
    for entry in document["drifted"]:
        yield from _drifted(entry, None if verbose else _FIELDS_SHOWN)
    words = {"start": "to be started again", "completed": "completed", "failed": "failed"}
    for entry in document["recoveries"]:
        text = f"> {safe(entry['resource'])}: {words[entry['verdict']]}: {safe(entry['reason'])}"
        yield click.style(text, fg="cyan")
    for entry in document["unknown"]:
        text = f"! {safe(entry['resource'])}: unknown, so no drift is told: {safe(entry['reason'])}"
        yield click.style(text, fg="yellow")
    for entry in document["held"]:
        text = f"! {safe(entry['resource'])}: held by {safe(entry['owner'])}: not corrected"
        yield click.style(text, fg="cyan")
    for warning in document["warnings"]:
        yield click.style(f"warning: {safe(warning)}", fg="yellow")
    yield _summary(document)


def _drifted(entry: Mapping[str, Any], most: int | None) -> Iterator[str]:
    effect = "" if entry["disruption"] == "none" else f" [correcting it: {entry['action']}]"
    title = click.style(f"~ {safe(entry['resource'])}", fg="yellow", bold=True)
    yield f"{title}{effect}  {safe(entry['reason'])}"
    fields: Sequence[Mapping[str, Any]] = entry["fields"]
    for field in fields[:most]:
        found, recorded = shown(field["found"]), shown(field["recorded"])
        yield f"      {safe(field['path'])}  found {found}, on record {recorded}"
    if most is not None and len(fields) > most:
        yield f"      … and {len(fields) - most} more (-v shows all)"


def _summary(document: Mapping[str, Any]) -> str:
    if not document["recorded"]:
        more = len(document["unrecorded"])
        tail = f"; {more} VMs run here all the same: see metald adopt" if more else ""
        return f"Nothing is on record here{tail}."
    count, unchanged = len(document["drifted"]), document["unchanged"]
    if document["unknown"]:
        return f"{count} drifted; {unchanged} as recorded; the rest could not be seen."
    if not count:
        return f"No drift. {unchanged} as recorded."
    return f"{count} drifted; {unchanged} as recorded. metald apply corrects it."
