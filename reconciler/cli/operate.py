"""`hold`, `isolate` and their opposites: imperative acts that outlast a pass."""

from __future__ import annotations

import os
from collections.abc import Mapping
from datetime import datetime
from typing import Any

import click

from reconciler.cli.apply import seconds_of
from reconciler.cli.common import enter_host, run
from reconciler.cli.options import json_option
from reconciler.cli.output import print_json
from reconciler.cli.progress import Reporter
from reconciler.cli.text import safe


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


def _time_of(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """A moment (RFC 3339) in seconds since the Unix epoch."""
    if value is None:
        return None
    try:
        found = datetime.fromisoformat(value)
    except ValueError:
        found = None
    if found is None or found.tzinfo is None:
        raise click.BadParameter(f"{value!r} is no time like 2026-11-26T18:00:00Z")
    return found.timestamp()


@click.command()
@click.argument("address")
@click.option("--reason", default="isolated by hand", show_default=True,
              help="Shown by every plan.")  # fmt: skip
@click.option("--for", "seconds", callback=seconds_of, metavar="DURATION",
              help="End it by itself, like 2h.")  # fmt: skip
@click.option("--until", callback=_time_of, metavar="TIME",
              help="End it by itself then, like 2026-11-26T18:00:00Z.")  # fmt: skip
@json_option
@click.pass_context
def isolate(ctx: click.Context, /, address: str, as_json: bool, **options: Any) -> int:
    """Cut a VM off, at once, from everything but its console.

    Both ways, flows that are open too, and the host; it runs on. Until metald unisolate.
    """
    if options["seconds"] and options["until"]:
        raise click.UsageError("--for and --until exclude each other")
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415

    owner = os.environ.get("SUDO_USER") or "root"
    arguments = {"address": address, "owner": owner, **options}
    done = run(perform(settings, "isolate", arguments, _reporter(as_json)))
    return _tell_isolation(done, "is isolated: nothing reaches it, and it reaches nothing", as_json)


@click.command()
@click.argument("address")
@json_option
@click.pass_context
def unisolate(ctx: click.Context, address: str, as_json: bool) -> int:
    """Let a VM that is isolated have its networks again."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415

    done = run(perform(settings, "unisolate", {"address": address}, _reporter(as_json)))
    return _tell_isolation(done, "is isolated no longer", as_json)


def _tell_isolation(done: Mapping[str, Any], line: str, as_json: bool) -> int:
    if as_json:
        keys = ("format", "resource", "isolated", "inForce", "run", "problems")
        print_json({key: done[key] for key in keys})
    elif done["inForce"]:
        click.echo(f"{done['resource']} {line}")
    for problem in done["problems"] if not as_json else ():
        told = f"it is on record, and not in force yet: {problem['reason']}"
        click.echo(f"error: {done['resource']}: {safe(told)}", err=True)
    return int(done["exitCode"])


def _reporter(as_json: bool) -> Reporter:
    """Tells what is resumed or undone first, if anything is."""
    return Reporter(as_json=as_json, verbose=False, show=False)


def _tell(done: Mapping[str, Any], line: str, as_json: bool) -> None:
    if as_json:
        print_json({key: done[key] for key in ("format", "resource", "held")})
    else:
        click.echo(line)
