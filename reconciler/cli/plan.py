"""`plan`: shows what an apply would change, saves it, and refreshes what is on record."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click

from reconciler.cli.common import enter_host, run, settings_of
from reconciler.cli.options import json_option, location_arguments, part_options, source_options
from reconciler.cli.options import verbose_option as verbose
from reconciler.cli.output import print_json
from reconciler.cli.progress import Reporter
from reconciler.cli.text import safe
from reconciler.errors import EXIT_CHANGES, EXIT_FAILED, MetaldError
from reconciler.model.plan import Plan
from reconciler.settings import Settings


@click.command()
@click.argument("path", required=False)
@source_options
@part_options
@json_option
@click.option("--markdown", is_flag=True, help="Print it for a merge request's comment.")
@click.option("--out", type=click.Path(path_type=Path), help="Save the plan, for one apply.")
@click.option("--offline", is_flag=True, help="Against what was last observed, not the host.")
@click.option("--refresh-only", is_flag=True,
              help="Observe, record, and show what moved; needs no PATH.")  # fmt: skip
@click.option("--detailed-exitcode", is_flag=True,
              help="Exit 2 when there are changes, 1 where it cannot be told.")  # fmt: skip
@verbose
@click.pass_context
def plan(ctx: click.Context, /, path: str | None, **options: Any) -> int:
    """Show what an apply of PATH (folder, git repository or URL) would change, and why.

    With --offline neither the host is looked at nor root needed, only the state folder read.
    """
    place = _place(path, options)
    # A copy of a host's state folder is enough to plan against it from elsewhere.
    settings = settings_of(ctx) if options["offline"] else enter_host(ctx)
    if options["refresh_only"]:
        return _refresh(settings, options)
    from reconciler.daemon.access import plan_now  # noqa: PLC0415 - netlink only when needed
    from reconciler.planning.documents.render import plan_document  # noqa: PLC0415

    request = {
        **location_arguments(place, options),
        "targets": list(options["targets"]),
        "exclude": list(options["exclude"]),
    }
    planned = run(plan_now(settings, {**request, "offline": options["offline"]}))
    document = plan_document(planned.plan, planned.source)
    if options["out"]:
        _save(options["out"], document, request, planned)
    _show(document, options)
    return _detailed(planned.plan) if options["detailed_exitcode"] else 0


def _detailed(made: Plan) -> int:
    """What was refused is a difference too; what could not be seen is not known to be none."""
    if made.changes or made.refused:
        return EXIT_CHANGES
    return EXIT_FAILED if made.blocked else 0


def _place(path: str | None, options: dict[str, Any]) -> str:
    """PATH, empty where none is needed; raises for uses that click does not see."""
    if path is None and not options["refresh_only"]:
        raise click.UsageError("Missing argument 'PATH'.")
    if options["as_json"] and options["markdown"]:
        raise click.UsageError("--json and --markdown are two forms of the same: choose one.")
    others = ("targets", "exclude", "out", "offline", "markdown", "ref")
    if options["refresh_only"] and any(options[name] for name in others):
        raise click.UsageError("--refresh-only looks at the whole host and makes no plan.")
    return path or ""


def _show(document: dict[str, Any], options: dict[str, Any]) -> None:
    if options["as_json"]:
        print_json(document)
    elif options["markdown"]:
        from reconciler.cli.markdown import plan_markdown  # noqa: PLC0415

        click.echo(plan_markdown(document))
    else:
        from reconciler.cli.plan_text import show_plan  # noqa: PLC0415

        show_plan(document, verbose=options["verbose"])
    if options["out"]:
        click.echo(f"Saved as {options['out']}; carry it out with metald apply", err=True)


def _save(path: Path, document: dict[str, Any], request: dict[str, Any], planned: Any) -> None:
    from reconciler.files import write_atomic  # noqa: PLC0415
    from reconciler.planning.documents.planfile import planfile_text  # noqa: PLC0415

    if request["path"] and planned.source.commit:
        request = {**request, "ref": request["ref"] or "", "commit": planned.source.commit}
    basis = (planned.fleet, planned.observed, planned.ledger)
    text = planfile_text(document, request, basis, token=secrets.token_hex(16))
    try:
        write_atomic(path, text, mode=0o600)
    except OSError as error:
        raise MetaldError(
            f"the plan cannot be saved: {error.strerror}", subject=str(path)
        ) from error


def _refresh(settings: Settings, options: dict[str, Any]) -> int:
    from reconciler.daemon.access import perform  # noqa: PLC0415

    told = Reporter(as_json=options["as_json"], verbose=False, show=False)
    found = run(perform(settings, "refresh", {}, told))
    code = EXIT_CHANGES if options["detailed_exitcode"] and found["moved"] else 0
    if options["as_json"]:
        print_json({key: found[key] for key in ("format", "first", "moved")})
        return code
    for line in found["moved"]:
        click.echo(f"~ {safe(line)}")
    if found["first"]:
        click.echo("Observed and recorded, for the first time.")
    else:
        count = len(found["moved"])
        click.echo(f"Observed and recorded; {count or 'nothing'} moved since the last time.")
    return code
