"""`metald watch` and `metald serve`: the daemon."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import click

from reconciler.cli.common import enter_host, run
from reconciler.cli.options import location_arguments, source_options
from reconciler.errors import MetaldError


def _say(line: str) -> None:
    moment = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    click.echo(f"{moment} {line}")


interval_option = click.option(
    "--interval", type=click.FloatRange(min=1.0), help="Seconds between looks for drift."
)
limit_option = click.option(
    "--max-destroy", metavar="N|P%",
    help="Destroy or replace no more than this in one pass (default: 25% and more than 3).",
)  # fmt: skip


def _daemon(ctx: click.Context, path: str, options: dict[str, Any]) -> None:
    settings = enter_host(ctx)
    from reconciler.daemon.desired import Location  # noqa: PLC0415 - netlink only when needed
    from reconciler.daemon.serve import run_daemon  # noqa: PLC0415
    from reconciler.planning.bounds.guards import UNATTENDED, parse_max_destroy  # noqa: PLC0415

    given = options["max_destroy"]
    try:
        limit = parse_max_destroy(given) if given else UNATTENDED
    except ValueError as error:
        raise MetaldError(str(error), subject="--max-destroy") from error
    interval = options["interval"]
    location = Location.of(location_arguments(path, options))
    interval_s = settings.drift_interval_s if interval is None else interval
    run(run_daemon(settings, location, interval_s=interval_s, limit=limit, on_line=_say))


@click.command()
@click.argument("path")
@source_options
@interval_option
@limit_option
@click.pass_context
def watch(ctx: click.Context, /, path: str, **options: Any) -> None:
    """Reconcile PATH (folder, git repository or URL) whenever it changes, and against drift."""
    _daemon(ctx, path, options)


@click.command()
@click.argument("path")
@source_options
@interval_option
@limit_option
@click.pass_context
def serve(ctx: click.Context, /, path: str, **options: Any) -> None:
    """Keep PATH applied: the daemon. (This version: the reconciler alone.)"""
    _daemon(ctx, path, options)
