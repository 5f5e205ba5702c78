"""`metald doctor`: what this host can do, what it lacks, and what to do about it."""

from __future__ import annotations

import click

from reconciler.cli.common import enter_host, run
from reconciler.cli.output import output_options, print_data
from reconciler.errors import EXIT_FAILED

_MARKS = {"ok": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "red")}


@click.command()
@output_options
@click.pass_context
def doctor(ctx: click.Context, output: str) -> int:
    """Check privileges, kernel, programs, acceleration, cgroups and neighbours."""
    settings = enter_host(ctx)
    from reconciler.daemon.doctor import examine  # noqa: PLC0415 - netlink only when needed

    findings = run(examine(settings))
    items = [
        {"check": f.check, "level": f.level, "found": f.found, "remedy": f.remedy} for f in findings
    ]
    if not print_data({"format": "metald.doctor/v1", "items": items}, output):
        for finding in findings:
            mark, colour = _MARKS[finding.level]
            remedy = f" ({finding.remedy})" if finding.remedy else ""
            click.echo(f"{click.style(mark, fg=colour)} {finding.check}: {finding.found}{remedy}")
    return EXIT_FAILED if any(finding.level == "fail" for finding in findings) else 0
