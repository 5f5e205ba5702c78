"""`plan`, `apply`, `destroy`, `reboot`, `unhold`: what changes things, or shows what would."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import click

from reconciler.cli.common import enter_host, print_json, run
from reconciler.cli.plan_text import plan_lines
from reconciler.errors import EXIT_CHANGES, MetaldError
from reconciler.settings import Settings

_STEP_WORDS = {
    "SetSysctls": "set host sysctls",
    "RestoreSysctls": "restore host sysctls",
    "LoadFirewall": "load firewall rules",
    "RemoveFirewall": "remove firewall rules",
    "ChangeElements": "firewall entries",
    "RaiseTap": "interface up",
    "AttachTap": "reattach interface",
    "RemoveTap": "interface removed",
    "StartVm": "started",
    "StopVm": "stopped",
    "SetPower": "power set",
    "Retire": "retired",
    "Verdict": "verdict recorded",
}

targets_option = click.option(
    "--target", "targets", multiple=True, metavar="ADDR",
    help="Only this resource and what it needs; may be repeated.",
)  # fmt: skip
json_option = click.option("--json", "as_json", is_flag=True, help="Print a JSON document.")
yes_option = click.option("--yes", is_flag=True, help="Do not ask.")


@click.command()
@click.argument("path", type=click.Path(path_type=Path, readable=False))
@targets_option
@json_option
@click.option("--detailed-exitcode", is_flag=True, help="Exit 2 when there are changes.")
@click.option("-v", "--verbose", is_flag=True, help="Show every field of every change.")
@click.pass_context
def plan(
    ctx: click.Context,
    path: Path,
    targets: tuple[str, ...],
    as_json: bool,
    detailed_exitcode: bool,
    verbose: bool,
) -> int:
    """Show what an apply of PATH would change, and why. Changes nothing."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import plan_now  # noqa: PLC0415 - netlink only when needed
    from reconciler.planning.render import plan_document  # noqa: PLC0415

    made, source = run(plan_now(settings, path, targets))
    document = plan_document(made, source)
    if as_json:
        print_json(document)
    else:
        _show_plan(document, verbose=verbose)
    return EXIT_CHANGES if detailed_exitcode and made.changes else 0


@click.command()
@click.argument("path", type=click.Path(path_type=Path, readable=False))
@targets_option
@yes_option
@json_option
@click.option("--parallelism", type=click.IntRange(min=1), help="VM operations at a time.")
@click.option("-v", "--verbose", is_flag=True, help="Show every field and every step.")
@click.pass_context
def apply(
    ctx: click.Context,
    path: Path,
    targets: tuple[str, ...],
    yes: bool,
    as_json: bool,
    parallelism: int | None,
    verbose: bool,
) -> int:
    """Make the host as the specs at PATH say, then look again and verify."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import plan_now  # noqa: PLC0415
    from reconciler.planning.render import plan_document  # noqa: PLC0415

    if parallelism is not None:
        settings = _with_parallelism(settings, parallelism)
    arguments: dict[str, Any] = {"path": str(path.absolute()), "targets": list(targets)}
    if not yes:
        made, source = run(plan_now(settings, path, targets))
        document = plan_document(made, source)
        _show_plan(document, verbose=verbose)
        if not made.is_empty:
            _ask("Apply this plan?")
        arguments["expectId"] = made.id
    return _perform(settings, "apply", arguments, _Reporter(as_json, verbose, show_plan=yes))


def _with_parallelism(settings: Settings, parallelism: int) -> Settings:
    return Settings(
        settings.state_dir, settings.run_dir, settings.netns, parallelism, settings.drift_interval_s
    )


@click.command()
@targets_option
@yes_option
@json_option
@click.option("--purge", is_flag=True, help="Remove ledger, history and tombstones as well.")
@click.pass_context
def destroy(
    ctx: click.Context, targets: tuple[str, ...], yes: bool, as_json: bool, purge: bool
) -> int:
    """Remove everything managed here, or the targets. The ledger stays unless --purge."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import plan_destroy_now  # noqa: PLC0415
    from reconciler.planning.render import plan_document  # noqa: PLC0415

    if purge and targets:
        raise MetaldError("--purge removes everything, it takes no --target")
    arguments: dict[str, Any] = {"targets": list(targets), "purge": purge}
    if not yes:
        made, source = run(plan_destroy_now(settings, targets))
        _show_plan(plan_document(made, source), verbose=False)
        _ask("Destroy all this?")
        arguments["expectId"] = made.id
    return _perform(settings, "destroy", arguments, _Reporter(as_json, False, show_plan=yes))


@click.command()
@click.argument("address")
@json_option
@click.pass_context
def reboot(ctx: click.Context, address: str, as_json: bool) -> int:
    """Stop and start one VM; a completed or failed one starts anew."""
    settings = enter_host(ctx)
    reporter = _Reporter(as_json, False, show_plan=False)
    return _perform(settings, "reboot", {"address": address}, reporter)


@click.command()
@click.argument("address")
@click.pass_context
def unhold(ctx: click.Context, address: str) -> int:
    """Let the loop have a held resource again."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import perform  # noqa: PLC0415

    run(perform(settings, "unhold", {"address": address}, lambda _: None))
    click.echo(f"{address} is no longer held")
    return 0


def _ask(question: str) -> None:
    if not sys.stdin.isatty():
        raise MetaldError("nobody is there to agree", hint="run it with --yes")
    click.confirm(question, abort=True)


def _show_plan(document: Mapping[str, Any], *, verbose: bool) -> None:
    for line in plan_lines(document, verbose=verbose):
        click.echo(line)


class _Reporter:
    """Live progress: one line per finished step that people care about."""

    def __init__(self, as_json: bool, verbose: bool, *, show_plan: bool) -> None:
        self.as_json = as_json
        self._verbose = verbose
        self._show_plan = show_plan
        self._began: dict[str, float] = {}

    def __call__(self, event: Mapping[str, Any]) -> None:
        if self.as_json:
            return
        if event["event"] == "plan":
            if self._show_plan:
                _show_plan(event["plan"], verbose=self._verbose)
            return
        if event["state"] == "started":
            self._began[event["key"]] = time.monotonic()
            return
        line = self._line(event)
        if line:
            click.echo(line)

    def _line(self, event: Mapping[str, Any]) -> str:
        word = _STEP_WORDS.get(event["operation"], event["operation"])
        if event["state"] == "done":
            if not self._verbose and event["operation"] in {"ChangeElements", "Retire"}:
                return ""
            took = time.monotonic() - self._began.get(event["key"], time.monotonic())
            return f"  {click.style('✓', fg='green')} {event['resource']}: {word} ({took:.1f} s)"
        mark = click.style("✗", fg="red")
        return f"  {mark} {event['resource']}: {word}: {event['state']}: {event['error']}"


def _perform(
    settings: Settings, operation: str, arguments: Mapping[str, Any], reporter: _Reporter
) -> int:
    from reconciler.daemon.access import perform  # noqa: PLC0415

    result = run(perform(settings, operation, arguments, reporter))
    if reporter.as_json:
        print_json({k: v for k, v in result.items() if k not in {"exitCode", "daemon"}})
    else:
        _conclude(operation, result)
    return int(result["exitCode"])


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
    if operation == "apply" and outcome in {"done", "unchanged"} and not result["daemon"]:
        click.echo("Nothing restarts or meters these VMs until `metald serve` runs.")
