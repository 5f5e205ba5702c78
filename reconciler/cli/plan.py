"""`plan`: shows what an apply would change, saves it, and refreshes what is on record."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import click

from reconciler.cli.common import enter_host, run
from reconciler.cli.options import json_option, location_arguments, part_options, source_options
from reconciler.cli.options import verbose_option as verbose
from reconciler.cli.output import print_json
from reconciler.errors import EXIT_CHANGES, MetaldError
from reconciler.settings import Settings


@click.command()
@click.argument("path")
@source_options
@part_options
@json_option
@click.option("--markdown", is_flag=True, help="Print it for a merge request's comment.")
@click.option("--out", type=click.Path(path_type=Path), help="Save the plan, for one apply.")
@click.option("--offline", is_flag=True, help="Against what was last observed, not the host.")
@click.option("--refresh-only", is_flag=True, help="Observe, record, and show what moved.")
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when there are changes.")
@verbose
@click.pass_context
def plan(ctx: click.Context, /, path: str, **options: Any) -> int:
    """Show what an apply of PATH (folder, git repository or URL) would change, and why."""
    settings = enter_host(ctx)
    if options["refresh_only"]:
        return _refresh(settings, as_json=options["as_json"])
    from reconciler.daemon.access import plan_now  # noqa: PLC0415 - netlink only when needed
    from reconciler.planning.render import plan_document  # noqa: PLC0415

    request = {
        **location_arguments(path, options),
        "targets": list(options["targets"]),
        "exclude": list(options["exclude"]),
    }
    planned = run(plan_now(settings, {**request, "offline": options["offline"]}))
    document = plan_document(planned.plan, planned.source)
    if options["out"]:
        _save(options["out"], document, request, planned)
    _show(document, options)
    changed = bool(planned.plan.changes)
    return EXIT_CHANGES if options["detailed_exitcode"] and changed else 0


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
    from reconciler.planning.planfile import planfile_text  # noqa: PLC0415

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


def _refresh(settings: Settings, *, as_json: bool) -> int:
    from reconciler.daemon.access import perform  # noqa: PLC0415

    found = run(perform(settings, "refresh", {}, lambda _: None))
    if as_json:
        print_json({key: found[key] for key in ("format", "first", "moved")})
        return 0
    if found["first"]:
        click.echo("Observed and recorded, for the first time.")
    for line in found["moved"]:
        click.echo(f"~ {line}")
    if not found["first"]:
        count = len(found["moved"])
        click.echo(f"Observed and recorded; {count or 'nothing'} moved since the last time.")
    return 0
