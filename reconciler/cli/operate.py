"""`hold` and `unhold`: imperative acts that outlast a pass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import click

from reconciler.cli.apply import seconds_of
from reconciler.cli.common import enter_host, run
from reconciler.cli.options import json_option
from reconciler.cli.output import print_json
from reconciler.cli.progress import Reporter


@click.command()
@click.argument("address", required=False)
@click.option("--reason", default="held by hand", show_default=True, help="Shown by every plan.")
@click.option("--for", "seconds", callback=seconds_of, metavar="DURATION",
              help="End it by itself, like 2h.")  # fmt: skip
@json_option
@click.pass_context
def hold(
    ctx: click.Context, address: str | None, reason: str, seconds: float | None, as_json: bool
) -> int:
    """Take a resource (a tenant with all it owns; without ADDRESS everything) out of the loop."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415 - netlink only when needed

    owner = os.environ.get("SUDO_USER") or "root"
    arguments = {"address": address, "owner": owner, "reason": reason, "seconds": seconds}
    done = run(perform(settings, "hold", arguments, _reporter(as_json)))
    until = f"for {seconds:g} s, or until metald unhold" if seconds else "until metald unhold"
    _tell(done, f"{done['resource']} is held: nothing is done to it {until}", as_json)
    return 0


@click.command()
@click.argument("address", required=False)
@json_option
@click.pass_context
def unhold(ctx: click.Context, address: str | None, as_json: bool) -> int:
    """Let the loop have a held resource (without ADDRESS: everything) again."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415

    done = run(perform(settings, "unhold", {"address": address}, _reporter(as_json)))
    _tell(done, f"{done['resource']} is no longer held", as_json)
    return 0


def _reporter(as_json: bool) -> Reporter:
    """Tells what is resumed or undone first, if anything is."""
    return Reporter(as_json=as_json, verbose=False, show=False)


def _tell(done: Mapping[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        print_json({key: done[key] for key in ("format", "resource", "held")})
    else:
        click.echo(line)
