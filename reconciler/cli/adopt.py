"""`adopt`: puts on record what runs here and is not, and writes its specs."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import click

from reconciler.cli.common import enter_host, run
from reconciler.cli.options import json_option, yes_option
from reconciler.cli.output import print_json
from reconciler.cli.text import safe
from reconciler.errors import MetaldError


@click.command()
@click.argument("addresses", nargs=-1, metavar="[ADDR]...")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR",
              help="A new or empty folder for the specs.")  # fmt: skip
@click.option("--tenant", "tenants", multiple=True, help="Only what this tenant owns.")
@yes_option
@json_option
@click.pass_context
def adopt(ctx: click.Context, /, addresses: Sequence[str], **options: Any) -> int:
    """Put on record the VMs and networks that run here under metald's name and are not.

    For when the state folder was lost. Writes their specs to DIR and proves that applying
    those changes nothing; no VM is touched. ADDR names single VMs, networks or tenants.
    """
    settings = enter_host(ctx)
    arguments: dict[str, Any] = {
        "out": str(options["out"].absolute()),
        "only": [*addresses, *(f"tenant/{name}" for name in options["tenants"])],
    }
    from reconciler.daemon.access import adoption_now, perform  # noqa: PLC0415 - netlink

    if not options["yes"]:
        found = run(adoption_now(settings, arguments))
        if not options["as_json"]:
            _show(found)
        if found["adopted"]:
            _agree()
            arguments["expectId"] = found["id"]
    result = run(perform(settings, "adopt", arguments, lambda _: None))
    if options["as_json"]:
        print_json({k: v for k, v in result.items() if k not in {"exitCode", "daemon"}})
        return int(result["exitCode"])
    if options["yes"]:
        _show(result)
    if result["run"]:
        _conclude(result)
    return int(result["exitCode"])


def _agree() -> None:
    if not sys.stdin.isatty():
        raise MetaldError("nobody is there to agree", hint="run it with --yes")
    click.confirm("Put these on record and write their specs?", abort=True)


def _show(document: Mapping[str, Any]) -> None:
    for line in adoption_lines(document):
        click.echo(line)


def adoption_lines(document: Mapping[str, Any]) -> Iterator[str]:
    """What is found, what is left and why, and what differs, for people."""
    width = max((len(entry["resource"]) for entry in document["adopted"]), default=0)
    for entry in document["adopted"]:
        name = click.style(f"+ {safe(entry['resource']).ljust(width)}", fg="green", bold=True)
        yield f"{name}  {safe(entry['proof'])}"
        if entry["untold"]:
            yield f"      nothing told its {', '.join(entry['untold'])}: defaults are written"
    for entry in document["left"]:
        text = f"! {safe(entry['subject'])}: left alone: {safe(entry['reason'])}"
        yield click.style(text, fg="yellow")
    for entry in document["recoveries"]:
        text = f"> {safe(entry['resource'])}: the next apply starts it: {safe(entry['reason'])}"
        yield click.style(text, fg="cyan")
    for change in document["differences"]:
        text = f"~ {safe(change['resource'])}: the next apply corrects it: {safe(change['reason'])}"
        yield click.style(text, fg="cyan")
    if not (document["adopted"] or document["left"]):
        yield "Nothing to adopt: all that runs here is on record."


def _conclude(document: Mapping[str, Any]) -> None:
    count = len(document["adopted"])
    proof = click.style("Zero diff", fg="green")
    click.echo(f"Adopted {count}, recorded as run {document['run']}. {proof}: planned against "
               "this host, the written specs change none of them.")  # fmt: skip
    click.echo(f"Specs: {document['out']} ({', '.join(document['files'])})")
    if document["beside"]:
        click.echo(f"{document['beside']} resources were on record before: keep these files "
                   "beside their specs.")  # fmt: skip
    click.echo("Nothing restarts or meters these VMs until `metald serve` runs.")
