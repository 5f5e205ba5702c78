"""`history`, `history show` and `why`: what was done, by whom, and for what reason."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
from typing import Any

import click

from reconciler.cli.common import enter_host, run, settings_of
from reconciler.cli.history_text import history_lines, run_lines, why_lines
from reconciler.cli.output import output_options, print_data
from reconciler.errors import MetaldError


@click.group(invoke_without_command=True)
@click.option("--limit", type=click.IntRange(1, 1000), default=20, help="How many runs.")
@output_options
@click.pass_context
def history(ctx: click.Context, limit: int, output: str) -> None:
    """The runs of this host, newest first: commit, author, plan, outcome."""
    if ctx.invoked_subcommand is not None:
        return
    from reconciler.execution.history import history_document  # noqa: PLC0415

    with closing(_reader(ctx)) as reader:
        document = history_document(reader.runs(limit))
    if print_data(document, output):
        return
    _echo(history_lines(document))


@history.command("show")
@click.argument("number", type=click.IntRange(1, 2**63 - 1))
@output_options
@click.pass_context
def show(ctx: click.Context, number: int, output: str) -> None:
    """One run: what it set out to change, and what became of each step."""
    from reconciler.execution.history import run_document  # noqa: PLC0415

    with closing(_reader(ctx)) as reader:
        found = reader.run(number)
        if found is None:
            raise MetaldError("no such run is on record", subject=f"run {number}",
                              hint="see metald history")  # fmt: skip
        document = run_document(found, reader.changes(run=number), reader.steps(number))
    if print_data(document, output):
        return
    _echo(run_lines(document))


@click.command()
@click.argument("address")
@output_options
@click.pass_context
def why(ctx: click.Context, address: str, output: str) -> None:
    """Why a resource is as it is: the runs, commits and failures behind it, and what is next."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import look  # noqa: PLC0415 - netlink only when needed
    from reconciler.daemon.replies import address as parsed  # noqa: PLC0415
    from reconciler.execution.history import Looked, why_document  # noqa: PLC0415
    from reconciler.execution.lock import current_holder  # noqa: PLC0415
    from reconciler.execution.views import Seen, item  # noqa: PLC0415
    from reconciler.paths import StatePaths  # noqa: PLC0415
    from reconciler.planning.drift import find_drift  # noqa: PLC0415

    resource = parsed(address)
    looking = run(look(settings))
    managed = looking.ledger.managed.get(resource)
    seen = Seen(looking.ledger, looking.observed, looking.generations)
    status = item(seen, managed)["status"] if managed else None
    differing = find_drift(looking.observed, looking.ledger)
    daemon = current_holder(StatePaths(settings.state_dir)) is not None
    with closing(_reader(ctx)) as reader:
        looked = Looked(reader.ledger(time.time()), differing, daemon)
        document = why_document(reader, looked, resource, status=status)
    if not (document["managed"] or document["causes"] or document["events"]):
        raise MetaldError("nothing is known of it here", subject=address, hint="see metald get vm")
    if print_data(document, output):
        return
    _echo(why_lines(document))


def _echo(lines: Iterable[str]) -> None:
    for line in lines:
        click.echo(line)


def _reader(ctx: click.Context) -> Any:
    from reconciler.execution.state.sqlite import open_reader  # noqa: PLC0415
    from reconciler.paths import StatePaths  # noqa: PLC0415

    return open_reader(StatePaths(settings_of(ctx).state_dir))
