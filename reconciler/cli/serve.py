"""`metald watch` and `metald serve`: the daemon."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import click

from reconciler.cli.common import enter_host, run
from reconciler.errors import MetaldError


def _say(line: str) -> None:
    moment = datetime.now(tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    click.echo(f"{moment} {line}")


path_argument = click.argument("path", type=click.Path(path_type=Path, readable=False))
interval_option = click.option(
    "--interval", type=click.FloatRange(min=1.0), help="Seconds between looks for drift."
)


def _daemon(ctx: click.Context, path: Path, interval: float | None) -> None:
    if "://" in str(path):
        raise MetaldError(
            "a repository as source is not part of this version", subject=str(path),
            hint="check it out and give the folder",
        )  # fmt: skip
    settings = enter_host(ctx)
    from reconciler.daemon.serve import run_daemon  # noqa: PLC0415 - netlink only when needed

    interval_s = settings.drift_interval_s if interval is None else interval
    run(run_daemon(settings, path.absolute(), interval_s=interval_s, on_line=_say))


@click.command()
@path_argument
@interval_option
@click.pass_context
def watch(ctx: click.Context, path: Path, interval: float | None) -> None:
    """Reconcile PATH whenever it changes, and against drift."""
    _daemon(ctx, path, interval)


@click.command()
@path_argument
@interval_option
@click.pass_context
def serve(ctx: click.Context, path: Path, interval: float | None) -> None:
    """Keep PATH applied: the daemon. (This version: the reconciler alone.)"""
    _daemon(ctx, path, interval)
