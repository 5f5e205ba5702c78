"""`hold` and `unhold`: imperative acts that outlast a pass."""

from __future__ import annotations

import os

import click

from reconciler.cli.apply import seconds_of
from reconciler.cli.common import enter_host, run


@click.command()
@click.argument("address", required=False)
@click.option("--reason", default="held by hand", show_default=True, help="Shown by every plan.")
@click.option("--for", "seconds", callback=seconds_of, metavar="DURATION",
              help="End it by itself, like 2h.")  # fmt: skip
@click.pass_context
def hold(ctx: click.Context, address: str | None, reason: str, seconds: float | None) -> int:
    """Take a resource (a tenant with all it owns; without ADDRESS everything) out of the loop."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415 - netlink only when needed

    owner = os.environ.get("SUDO_USER") or "root"
    arguments = {"address": address, "owner": owner, "reason": reason, "seconds": seconds}
    done = run(perform(settings, "hold", arguments, lambda _: None))
    click.echo(f"{done['resource']} is held: nothing is done to it until metald unhold")
    return 0


@click.command()
@click.argument("address", required=False)
@click.pass_context
def unhold(ctx: click.Context, address: str | None) -> int:
    """Let the loop have a held resource (without ADDRESS: everything) again."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415

    done = run(perform(settings, "unhold", {"address": address}, lambda _: None))
    click.echo(f"{done['resource']} is no longer held")
    return 0
