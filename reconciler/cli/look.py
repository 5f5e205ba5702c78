"""`status`, `get`, `describe`, `events`: looking, without the lock and without waiting."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import closing
from typing import Any

import click

from reconciler.cli.accounts import ACCOUNTS
from reconciler.cli.common import enter_host, run, settings_of
from reconciler.cli.output import output_options, print_data, yaml_text
from reconciler.cli.text import safe, shown, table
from reconciler.errors import MetaldError
from reconciler.model.addresses import tenant_address, tenant_of
from reconciler.settings import Settings

KINDS = ("tenant", "network", "vm", "image", "host", "priceplan", "securityprofile")
# The one field of a spec that a list shows.
_TOLD = {"securityprofile": "base"}
FOLLOW_PAUSE_S = 0.5


def _seen(settings: Settings) -> tuple[Any, Any]:
    """(what views are made of, the look they come from)."""
    from reconciler.daemon.access import look  # noqa: PLC0415 - netlink only when needed
    from reconciler.execution.views import Seen  # noqa: PLC0415

    looking = run(look(settings))
    return Seen(looking.ledger, looking.observed, looking.generations), looking


@click.command()
@output_options
@click.pass_context
def status(ctx: click.Context, output: str) -> None:
    """What runs here, and how it is."""
    settings = enter_host(ctx)
    from reconciler.execution.views import status_document  # noqa: PLC0415

    seen, looking = _seen(settings)
    document = status_document(seen, looking.source, looking.pending)
    if print_data(document, output):
        return
    phases = ", ".join(f"{count} {phase}" for phase, count in sorted(document["phases"].items()))
    click.echo(f"VMs: {phases or 'none'}; network {document['network']}")
    _source_lines(document["source"])
    if (pending := document["pending"]) is not None:
        until = f"run {pending['run']} awaits confirmation until {pending['deadline']}"
        click.echo(f"{until}: metald confirm keeps it, metald undo takes it back")
    _vm_table(document["vms"])
    for hold in document["held"]:
        until = f" (until {hold['until']})" if hold["until"] else ""
        click.echo(f"held: {hold['resource']} by {hold['owner']}: {safe(hold['reason'])}{until}")
    for entry in document["isolated"]:
        until = f" (until {entry['until']})" if entry["until"] else ""
        by = f"{entry['resource']} by {entry['owner']}: {safe(entry['reason'])}{until}"
        click.echo(f"isolated: {by}")


def _source_lines(source: dict[str, Any] | None) -> None:
    """What a daemon keeps applied, and what is wrong with it."""
    if source is None:
        return
    commit, applied = source["commit"], source["applied"]
    at = f" at {commit[:12]}" if commit else ""
    how = [", uncommitted changes are not part of it"] if source["dirty"] else []
    if commit and applied != commit:
        how.append(f", last wholly applied: {applied[:12] or 'none'}")
    click.echo(f"source: {source['path']}{at}{''.join(how)}")
    for line in (*source["problems"], *source["notes"]):
        click.echo(f"source: {safe(line)}")


def _vm_table(items: list[dict[str, Any]]) -> None:
    rows = [("VM", "PHASE", "PID", "RESTARTS", "NETWORK", "ADDRESSES")]
    for entry in items:
        shown = entry["status"]
        network = next(c for c in shown["conditions"] if c["type"] == "NetworkReady")
        ok = {"True": "ready", "False": "drifted"}.get(network["status"], "unknown")
        if any(c["type"] == "Isolated" for c in shown["conditions"]):
            ok = "isolated" if ok == "ready" else f"isolated, {ok}"
        rows.append(
            (
                entry["resource"].removeprefix("vm/"),
                shown["phase"],
                str(shown["pid"] or "-"),
                str(shown["restarts"]),
                ok,
                ", ".join(shown["addresses"]) or "-",
            )
        )
    _table(rows)


def _table(rows: Sequence[tuple[str, ...]]) -> None:
    for line in table(rows) if len(rows) > 1 else ():
        click.echo(line)


@click.command()
@click.argument("kind")
@click.argument("name", required=False)
@click.option("--tenant", help="Only what belongs to this tenant, and itself.")
@output_options
@click.pass_context
def get(ctx: click.Context, kind: str, name: str | None, tenant: str | None, output: str) -> None:
    """List resources of KIND (a spec's kind in small letters), or the one called NAME.

    KIND may be drops (what the rules dropped, of a VM NAME only), addresses (who holds which, or
    did lately) or pools (what is left of host, tenants and networks).
    """
    singular = kind.lower().removesuffix("s")
    account = ACCOUNTS.get(kind.lower())
    if singular not in KINDS and account is None:
        known = (*KINDS, "drops", "addresses", "pools")
        raise click.BadParameter(f"one of {', '.join(known)}", param_hint="KIND")
    if account is not None and tenant is not None:
        raise click.BadParameter(f"{kind} go by NAME only", param_hint="--tenant")
    settings = enter_host(ctx)
    if account is not None:
        account(settings, name, output)
        return
    from reconciler.execution.views import listing  # noqa: PLC0415

    seen, _ = _seen(settings)
    document = listing(seen, singular)
    if name is not None:
        document["items"] = _named(document["items"], singular, name)
    if tenant is not None:
        if (whose := tenant_address(tenant)) not in seen.ledger.managed:
            raise MetaldError("no such tenant is managed here", subject=whose)
        document["items"] = [e for e in document["items"] if tenant_of(e["resource"]) == tenant]
    if print_data(document, output):
        return
    if not document["items"]:
        click.echo(f"no {singular} is managed here")
        return
    if singular == "vm":
        _vm_table(document["items"])
        return
    _record_table(document["items"], singular)


def _named(items: list[dict[str, Any]], kind: str, name: str) -> list[dict[str, Any]]:
    full = name if name.startswith(f"{kind}/") else f"{kind}/{name}"
    found = [entry for entry in items if entry["resource"] == full]
    if not found:
        raise MetaldError(f"no such {kind} is managed here", subject=full)
    return found


def _record_table(items: list[dict[str, Any]], singular: str) -> None:
    told = _TOLD.get(singular, "prefix")
    rows = [(singular.upper(), told.upper(), "GENERATION")]
    rows += [
        (
            entry["resource"].removeprefix(f"{singular}/"),
            str(entry["spec"].get(told, "-")),
            str(entry["generation"]),
        )
        for entry in items
    ]
    _table(rows)


@click.command()
@click.argument("address")
@output_options
@click.pass_context
def describe(ctx: click.Context, address: str, output: str) -> None:
    """Everything about one resource: identity, allocations, process, events."""
    settings = enter_host(ctx)
    from reconciler.daemon.access import look_at_foreign_chains  # noqa: PLC0415
    from reconciler.daemon.replies import address as parsed  # noqa: PLC0415
    from reconciler.execution.views import description  # noqa: PLC0415

    seen, looking = _seen(settings)
    managed = seen.ledger.managed.get(parsed(address))
    if managed is None:
        raise MetaldError(
            "nothing by that address is managed here", subject=address, hint="see metald get vm"
        )
    document = description(seen, managed, looking.events, run(look_at_foreign_chains()))
    if not print_data(document, output):
        policies = document.pop("policy")
        for line in _chain_warnings(document.pop("foreignChains")):
            click.echo(click.style(f"warning: {line}", fg="yellow"))
        for line in yaml_text(document).splitlines():
            click.echo(safe(line))
        for policy in policies:
            _policy_table(policy)


def _chain_warnings(chains: list[str] | None) -> list[str]:
    if chains is None:
        return ["whether other firewalls drop what is forwarded cannot be told (metald doctor)"]
    end = "drops what is forwarded, whatever is allowed here"
    return [f"chain {safe(chain)} {end}" for chain in chains]


def _policy_table(policy: dict[str, Any]) -> None:
    """Every value of a policy with where it comes from."""
    whose = policy["interface"]
    click.echo(f"policy of {safe(whose)}:" if whose else "policy:")
    rows = [("  CONTROL", "VALUE", "FROM")]
    rows += [(f"  {e['path']}", shown(e["value"]), e["origin"]) for e in policy["values"]]
    _table(rows)


@click.command()
@click.option("--follow", is_flag=True, help="Go on as events come.")
@click.option("--resource", help="Only events of this resource.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=100, help="How many at first.")
@output_options
@click.pass_context
def events(ctx: click.Context, follow: bool, resource: str | None, limit: int, output: str) -> None:
    """What happened, oldest first. With --json one document a line."""
    settings = settings_of(ctx)
    from reconciler.execution.state.sqlite import open_reader  # noqa: PLC0415
    from reconciler.paths import StatePaths  # noqa: PLC0415

    with closing(open_reader(StatePaths(settings.state_dir))) as reader:
        found = reader.events(limit=limit, resource=resource)
        last = 0
        while True:
            for event in found:
                last = event.id
                _show_event(event.to_json(), output)
            if not follow:
                return
            time.sleep(FOLLOW_PAUSE_S)
            found = reader.events(after_id=last, resource=resource)


def _show_event(event: dict[str, Any], output: str) -> None:
    document = {"format": "metald.event/v1", **event}
    if output == "json":
        click.echo(json.dumps(document))  # one a line, so that a program can follow
        return
    if output == "yaml":
        click.echo("---")
        print_data(document, output)
        return
    mark = "!" if event["kind"] == "Warning" else " "
    what = f"{event['resource']}  {event['reason']}: {event['message']}"
    click.echo(f"{event['at']} {mark} {safe(what)}")
