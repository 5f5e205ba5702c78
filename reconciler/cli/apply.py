"""`apply`, `rollback`, `destroy`, `reboot`, `confirm`, `undo`: what changes the host."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Coroutine, Mapping
from pathlib import Path
from typing import Any

import click

from reconciler.cli.common import enter_host, run
from reconciler.cli.options import (
    hash_option,
    json_option,
    location_arguments,
    max_destroy_option,
    part_options,
    source_options,
    verbose_option,
    yes_option,
)
from reconciler.cli.output import print_json
from reconciler.cli.plan_text import show_plan
from reconciler.cli.progress import Reporter
from reconciler.errors import MetaldError
from reconciler.settings import Settings

_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(s|m|h|d|)$")
_SECONDS = {"": 1, "s": 1, "m": 60, "h": 3600, "d": 86400}
# Beyond this the moment it ends could not be told any more.
_LONGEST_S = 3650 * 86400.0


def seconds_of(_: click.Context, __: click.Parameter, value: str | None) -> float | None:
    """``90``, ``60s``, ``5m``, ``2h``, ``1d`` in seconds."""
    if value is None:
        return None
    match = _DURATION.match(value)
    if match is None or not float(match[1]):
        raise click.BadParameter(f"{value!r} is no duration like 60s, 5m or 2h")
    seconds = float(match[1]) * _SECONDS[match[2]]
    if seconds > _LONGEST_S:
        raise click.BadParameter(f"{value!r} is more than ten years")
    return seconds


@click.command()
@click.argument("path")
@source_options
@part_options
@yes_option
@json_option
@click.option("--parallelism", type=click.IntRange(min=1), help="VM operations at a time.")
@click.option("--confirm", callback=seconds_of, metavar="DURATION",
              help="Undo it all unless `metald confirm` comes in time, like 60s.")  # fmt: skip
@max_destroy_option
@hash_option
@verbose_option
@click.pass_context
def apply(ctx: click.Context, /, path: str, **options: Any) -> int:
    """Make the host as the specs at PATH say, then look again and verify.

    PATH is a folder, a file, a git repository, a URL of one, or a plan saved by `plan --out`.
    """
    settings = enter_host(ctx)
    arguments = _from_planfile(path, options) or {
        **location_arguments(path, options),
        "targets": list(options["targets"]),
        "exclude": list(options["exclude"]),
    }
    arguments.update(
        maxDestroy=options["max_destroy"], confirmSeconds=options["confirm"],
        planHash=options["plan_hash"], parallelism=options["parallelism"],
    )  # fmt: skip
    from reconciler.daemon.access import plan_now  # noqa: PLC0415

    if not options["yes"] and "planFile" not in arguments:
        _agree(settings, plan_now, arguments, verbose=options["verbose"])
    reporter = _reporter(options)
    result = _perform(settings, "apply", arguments, reporter)
    if options["confirm"] and result["run"]:
        words = f"within {options['confirm']:g} s with `metald confirm`, or all of it is undone"
        click.echo(f"Confirm it {words}.", err=options["as_json"])
    return int(result["exitCode"])


def _from_planfile(path: str, options: Mapping[str, Any]) -> dict[str, Any] | None:
    """The arguments a saved plan stands for, None when PATH is none."""
    from reconciler.planning.documents.planfile import is_planfile, parse_planfile  # noqa: PLC0415

    file = Path(path)
    try:
        with file.open(encoding="utf-8") as stream:
            if not is_planfile(stream.read(65536)):
                return None
            stream.seek(0)
            text = stream.read()
    except (OSError, UnicodeDecodeError):
        return None
    if options["targets"] or options["exclude"] or options["ref"]:
        raise MetaldError("a saved plan is carried out as it is: no --target, --exclude or --ref")
    saved = parse_planfile(text, name=path)
    return {
        **saved.request,
        "expectId": saved.plan["id"],
        "planFile": {"token": saved.token, "specs": saved.specs, "observed": saved.observed},
    }


@click.command()
@click.argument("commit")
@click.argument("path", required=False)
@click.option("--require-signed", is_flag=True, help="Refuse a commit without a good signature.")
@yes_option
@json_option
@max_destroy_option
@hash_option
@verbose_option
@click.pass_context
def rollback(ctx: click.Context, /, commit: str, path: str | None, **options: Any) -> int:
    """Apply the specs of an earlier COMMIT of the repository PATH.

    Without PATH: of the repository that was applied last. A daemon keeps that commit applied
    until the repository has a new one.
    """
    settings = enter_host(ctx)
    place, ref = (path, "") if path else _last_repository(settings)
    arguments: dict[str, Any] = {
        **location_arguments(place, {**options, "ref": ref}),
        "commit": commit,
        "maxDestroy": options["max_destroy"],
        "planHash": options["plan_hash"],
    }
    from reconciler.daemon.access import plan_rollback_now  # noqa: PLC0415

    if not options["yes"]:
        _agree(settings, plan_rollback_now, arguments, verbose=options["verbose"])
    return int(_perform(settings, "rollback", arguments, _reporter(options))["exitCode"])


def _last_repository(settings: Settings) -> tuple[str, str]:
    """(place, ref) of the last run that came from a repository."""
    from reconciler.daemon.access import last_repository  # noqa: PLC0415
    from reconciler.daemon.desired import Location  # noqa: PLC0415

    name = last_repository(settings)
    if not name:
        raise MetaldError("nothing was applied from a repository yet", hint="name it: PATH")
    return Location.named(name)


@click.command()
@part_options
@yes_option
@json_option
@click.option("--purge", is_flag=True, help="Remove ledger, history and tombstones as well.")
@hash_option
@verbose_option
@click.pass_context
def destroy(ctx: click.Context, /, **options: Any) -> int:
    """Remove everything managed here, or the targets. The ledger stays unless --purge."""
    settings = enter_host(ctx)
    targets, exclude, purge = list(options["targets"]), list(options["exclude"]), options["purge"]
    if purge and (targets or exclude):
        raise MetaldError("--purge removes everything, it takes no --target and no --exclude")
    arguments: dict[str, Any] = {
        "targets": targets, "exclude": exclude, "purge": purge, "planHash": options["plan_hash"],
    }  # fmt: skip
    from reconciler.daemon.access import plan_destroy_now  # noqa: PLC0415

    if not options["yes"]:
        _agree(settings, plan_destroy_now, arguments, verbose=options["verbose"])
    return int(_perform(settings, "destroy", arguments, _reporter(options))["exitCode"])


@click.command()
@click.argument("address")
@json_option
@click.pass_context
def reboot(ctx: click.Context, address: str, as_json: bool) -> int:
    """Stop and start one VM; a completed or failed one starts anew."""
    settings = enter_host(ctx)
    reporter = Reporter(as_json=as_json, verbose=False, show=False)
    return int(_perform(settings, "reboot", {"address": address}, reporter)["exitCode"])


@click.command()
@json_option
@click.pass_context
def restore_network(ctx: click.Context, as_json: bool) -> int:
    """Bring back the network of the VMs on record, and start none of them.

    Rules, settings and links, as they were last applied: for the boot of a host, first of all.
    """
    settings = enter_host(ctx)
    reporter = Reporter(as_json=as_json, verbose=False, show=False)
    return int(_perform(settings, "restoreNetwork", {}, reporter)["exitCode"])


@click.command()
@json_option
@click.pass_context
def confirm(ctx: click.Context, as_json: bool) -> int:
    """Keep the change that awaits confirmation (`apply --confirm`)."""
    settings = enter_host(ctx)
    reporter = Reporter(as_json=as_json, verbose=False, show=False)
    return int(_perform(settings, "confirm", {}, reporter)["exitCode"])


@click.command()
@json_option
@click.option("--give-up", is_flag=True, help="Leave as it is what an undo cannot take back.")
@click.pass_context
def undo(ctx: click.Context, as_json: bool, give_up: bool) -> int:
    """Take back, now, the change that awaits confirmation."""
    settings = enter_host(ctx)
    reporter = Reporter(as_json=as_json, verbose=False, show=False)
    return int(_perform(settings, "undo", {"giveUp": give_up}, reporter)["exitCode"])


def _reporter(options: Mapping[str, Any]) -> Reporter:
    shown = bool(options["yes"])
    return Reporter(as_json=options["as_json"], verbose=options["verbose"], show=shown)


def _agree(
    settings: Settings,
    look: Callable[[Settings, Mapping[str, Any]], Coroutine[Any, Any, Any]],
    arguments: dict[str, Any],
    *,
    verbose: bool,
) -> None:
    """Show the plan and ask; the answer binds the apply to exactly that plan."""
    from reconciler.planning.documents.render import plan_document  # noqa: PLC0415

    planned = run(look(settings, arguments))
    show_plan(plan_document(planned.plan, planned.source), verbose=verbose)
    if not planned.plan.is_empty:
        if not sys.stdin.isatty():
            raise MetaldError("nobody is there to agree", hint="run it with --yes")
        if not click.confirm("Carry out this plan?"):
            raise MetaldError("not agreed to; nothing was changed")
    arguments["expectId"] = planned.plan.id


def _perform(
    settings: Settings, operation: str, arguments: Mapping[str, Any], reporter: Reporter
) -> Mapping[str, Any]:
    from reconciler.daemon.access import perform  # noqa: PLC0415

    with reporter:
        result = run(perform(settings, operation, arguments, reporter))
    if reporter.as_json:
        print_json({k: v for k, v in result.items() if k not in {"exitCode", "daemon"}})
    else:
        _conclude(operation, result)
    return result


def _conclude(operation: str, result: Mapping[str, Any]) -> None:
    outcome = result["outcome"]
    for entry in result["remaining"]:
        click.echo(f"error: {entry['resource']}: not as declared: {entry['reason']}", err=True)
    if outcome == "interrupted":
        click.echo("Interrupted: nothing more was started; run it again to go on.", err=True)
    elif outcome == "partial":
        click.echo("Partly done; what is named above is not.", err=True)
    elif outcome == "done":
        click.echo(click.style("Done, and seen to be so.", fg="green"))
    settled = outcome in {"done", "unchanged"} and not result["daemon"]
    if operation in {"apply", "rollback"} and settled:
        click.echo("Nothing restarts or meters these VMs until `metald serve` runs.")
