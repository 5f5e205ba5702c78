"""`metald doctor`: what this host can do, what it lacks, and what to do about it."""

from __future__ import annotations

import click

from reconciler.cli.common import enter_host, print_json, run
from reconciler.errors import EXIT_FAILED

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
@click.pass_context
def doctor(ctx: click.Context, as_json: bool) -> int:
    """Check privileges, kernel, programs, acceleration, cgroups and neighbours."""
    settings = enter_host(ctx)
    from reconciler.daemon.doctor import examine  # noqa: PLC0415 - netlink only when needed

    findings = run(examine(settings))
    if as_json:
        items = [
            {"check": f.check, "level": f.level, "found": f.found, "remedy": f.remedy}
            for f in findings
        ]
        print_json({"format": "metald.doctor/v1", "items": items})
    else:
        for finding in findings:
            mark, colour = _MARKS[finding.level]
            remedy = f" ({finding.remedy})" if finding.remedy else ""
            click.echo(f"{click.style(mark, fg=colour)} {finding.check}: {finding.found}{remedy}")
    return EXIT_FAILED if any(finding.level == "fail" for finding in findings) else 0
